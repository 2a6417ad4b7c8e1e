#include "answer.h"
#include "kv.h"

void answer(void)
{
    int all, stride = in_int("stride"), n = in_int("n");
    const float *x = in_floats("x", &all);
    const uint8_t *kept = in_has("kept") ? in_bytes("kept", NULL) : NULL;
    kv_format f = {.kind = KV_INT, .bits = in_int("bits"), .symmetric = in_int("symmetric")};
    uint8_t *codes = out_bytes("codes", n), *spread = scratch((size_t)all + 1);
    uint16_t scale = 0, min = 0;
    if (out_code(kv_quantize_group(spread, &scale, &min, x, kept, n, stride, &f, NULL)))
        return;
    for (int i = 0; i < n; i++)
        codes[i] = spread[i * stride];
    out_int("scale", scale);
    out_int("min", min);
}
