//@ top: Store numbers in a few bits
/* A group of numbers shares one scale s and one minimum m, both binary16; a
 * number x becomes the integer code q nearest to (x - m)/s and comes back as
 * q*s + m. Everything that decides a code runs in float32, one operation at a
 * time, so that two implementations agree on every bit.
 *
 * One number far away from the others stretches the range, and with it the
 * step s, for the whole group: at two bits there are only four levels, and if
 * three of them serve to reach the far one, the rest become equal. A kept
 * token is therefore left out of lo and hi. Storing it in 16 bits but letting
 * it into the range, or overwriting it by some other value, does not help its
 * neighbours (KVSink, section on exclusion).
 *
 * This file has the integers, and the steps that every kind of group goes
 * through: range, scale, codes. Uneven levels are in levels.c, KIVI's
 * arithmetic in kivi.c, llama.cpp's blocks in blocks.c. */
#include <math.h>
#include <string.h>

#include "kv.h"

//@ check-half: See whether binary16 can hold the numbers
int kv_check_half(const float *x, int n, int stride, kv_error *err)
{
    for (int i = 0; i < n; i++) {
        float v = x[(size_t)i * stride];
        if (!(fabsf(v) < 65520)) /* also NaN */
            return kv_fail(err, KV_FAIL_RUN, "cannot quantize %g: %s", v,
                           isfinite(v) ? "binary16 holds at most 65504"
                                       : "it is not finite");
    }
    return KV_OK;
}

//@ range: Find what the group must span
/* Elements marked KV_UNCOUNTED stay out of lo and hi; without any other both
 * are 0. */
static void group_range(float *lo, float *hi, const float *x,
                        const uint8_t *marks, int n, int stride)
{
    int used = 0;
    *lo = *hi = 0;
    for (int i = 0; i < n; i++) {
        float v = x[(size_t)i * stride];
        if (marks[(size_t)i * stride] & KV_UNCOUNTED)
            continue;
        if (!used || v < *lo)
            *lo = v;
        if (!used || v > *hi)
            *hi = v;
        used = 1;
    }
}

//@ scale: Choose scale and minimum and round both to binary16
/* The codes are computed with what will be stored, not with what was
 * computed: the decoder has only the stored ones. */
void kv_group_scale(uint16_t *scale, uint16_t *min, float lo, float hi,
                    const kv_format *f)
{
    float largest = fabsf(lo) > fabsf(hi) ? fabsf(lo) : fabsf(hi), step;
    if (f->kivi) {
        kv_kivi_scale(scale, min, lo, hi, f->bits);
        return;
    }
    if (f->kind == KV_NF)
        step = largest;
    else if (f->kind == KV_E4M3)
        step = largest / KV_E4M3_MAX;
    else if (f->symmetric)
        step = largest / (float)((1 << (f->bits - 1)) - 1);
    else
        step = (hi - lo) / (float)((1 << f->bits) - 1);
    *scale = kv_half_from_float(step);
    if (kv_format_has_min(f))
        *min = kv_half_from_float(lo);
}

//@ code: Round to the nearest level, ties to even, and clamp
static int integer_code(float x, float s, float m, const kv_format *f)
{
    int zero = f->symmetric ? 1 << (f->bits - 1) : 0; /* code of q = 0 */
    float lowest = (float)-zero, highest = (float)((1 << f->bits) - 1 - zero);
    if (s == 0)
        return zero;
    float q = rintf((x - m) / s);
    return (int)(q < lowest ? lowest : q > highest ? highest : q) + zero;
}

//@ encode: Decide one code with the stored scale and minimum
int kv_quantize_code(float x, uint16_t scale, uint16_t min,
                     const kv_format *f)
{
    float s = kv_half_to_float(scale);
    float m = kv_format_has_min(f) ? kv_half_to_float(min) : 0;
    if (f->kivi)
        return kv_kivi_code(x, scale, min, f->bits);
    if (f->kind == KV_NF)
        return kv_nf_code(s == 0 ? 0 : x / s, f->bits);
    if (f->kind == KV_E4M3)
        return s == 0 ? 0 : kv_e4m3_from_float(x / s);
    return integer_code(x, s, m, f);
}

//@ overflow: Find a range too wide for binary16
/* Only KIVI's can be: it takes differences and sums of two such numbers. */
static int overflows(uint16_t scale, uint16_t min, const kv_format *f)
{
    int top = (1 << f->bits) - 1;
    return (scale & 0x7c00) == 0x7c00 ||
           (f->kivi && !(isfinite(kv_kivi_value(top, scale, 0)) &&
                         isfinite(kv_kivi_value(top, scale, min))));
}

//@ quantize-group: Quantize one group
int kv_quantize_marked(uint8_t *codes, uint16_t *scale, uint16_t *min,
                       const float *x, int n, int stride, const kv_format *f,
                       const float *range, kv_error *err)
{
    float lo, hi;
    group_range(&lo, &hi, x, codes, n, stride);
    if (range) {
        lo = range[0];
        hi = range[1];
    }
    uint16_t m = 0;
    if (kv_format_blocks(f)) {
        kv_block_quantize(codes, scale, &m, x, f->kind);
    } else {
        kv_group_scale(scale, &m, lo, hi, f);
        if (overflows(*scale, m, f))
            return kv_fail(err, KV_FAIL_RUN, "cannot quantize %g to %g: the "
                           "range overflows binary16", lo, hi);
        for (int i = 0; i < n; i++) {
            size_t at = (size_t)i * stride;
            int skip = codes[at] & KV_UNCODED;
            codes[at] = (uint8_t)(skip ? 0 : kv_quantize_code(x[at], *scale,
                                                              m, f));
        }
    }
    if (min)
        *min = m;
    return KV_OK;
}

//@ quantize-kept: Quantize one group around its kept elements
int kv_quantize_group(uint8_t *codes, uint16_t *scale, uint16_t *min,
                      const float *x, const uint8_t *kept, int n, int stride,
                      const kv_format *f, kv_error *err)
{
    if (kv_check_half(x, n, stride, err))
        return KV_FAIL_RUN;
    for (int i = 0; i < n; i++)
        codes[(size_t)i * stride] = kept && kept[i] ? KV_LEFT_OUT : 0;
    return kv_quantize_marked(codes, scale, min, x, n, stride, f, NULL, err);
}

//@ dequantize: Get a number back from its code
/* The product of an integer is exact (8 bits times 11), so only the sum
 * rounds: a machine that fuses the two gets the same number. */
float kv_dequantize(int code, uint16_t scale, uint16_t min,
                    const kv_format *f)
{
    float s = kv_half_to_float(scale);
    if (f->kivi)
        return kv_kivi_value(code, scale, min);
    if (f->kind == KV_NF)
        return kv_nf_level(code, f->bits) * s;
    if (f->kind == KV_E4M3)
        return kv_e4m3_to_float((uint8_t)code) * s;
    if (!kv_format_has_min(f))
        return (float)(code - (1 << (f->bits - 1))) * s;
    float product = (float)code * s;
    return product + kv_half_to_float(min);
}
