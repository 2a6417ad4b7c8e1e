/* Exercise 03.3: range, scale, codes, in three loops. */
#include <math.h>

#include "kv.h"

int kv_quantize_group(uint8_t *codes, uint16_t *scale, uint16_t *min, const float *x,
                      const uint8_t *kept, int n, int stride, const kv_format *f, kv_error *err)
{
    float lo = INFINITY, hi = -INFINITY;
    for (int i = 0; i < n; i++) {
        float v = x[i * stride];
        if (!(fabsf(v) < 65520))
            return kv_fail(err, KV_FAIL_RUN, "binary16 cannot hold %g", v);
        if (kept && kept[i])
            continue;
        lo = fminf(lo, v);
        hi = fmaxf(hi, v);
    }
    if (lo > hi)
        lo = hi = 0;
    int steps = f->symmetric ? (1 << (f->bits - 1)) - 1 : (1 << f->bits) - 1;
    int shift = f->symmetric ? 1 << (f->bits - 1) : 0;
    float width = f->symmetric ? fmaxf(fabsf(lo), fabsf(hi)) : hi - lo;
    *scale = kv_half_from_float(width / (float)steps);
    *min = f->symmetric ? 0 : kv_half_from_float(lo);
    float s = kv_half_to_float(*scale), m = kv_half_to_float(*min);
    for (int i = 0; i < n; i++) {
        float q = s == 0 ? 0 : rintf((x[i * stride] - m) / s);
        q = fminf(fmaxf(q, (float)-shift), (float)steps);
        codes[i * stride] = (uint8_t)(kept && kept[i] ? 0 : (int)q + shift);
    }
    return KV_OK;
}
