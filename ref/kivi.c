//@ top: Repeat KIVI's arithmetic
/* KIVI quantizes on the GPU in binary16 tensors: every subtraction, division,
 * product and sum is rounded to binary16 before the next one sees it. Codes
 * then differ now and then from those that float32 gives, and the numbers
 * that come back differ often. A result "with KIVI" should be KIVI's, so the
 * flag `kivi` repeats each rounding. Source: KIVI; kept tokens are ours. */
#include <math.h>

#include "kv.h"

//@ round: Round to binary16 and back
static float half(float x)
{
    return kv_half_to_float(kv_half_from_float(x));
}

//@ kivi-scale: Divide the range into steps
void kv_kivi_scale(uint16_t *scale, uint16_t *min, float lo, float hi,
                   int bits)
{
    float range = half(half(hi) - half(lo));
    *scale = kv_half_from_float(range / (float)((1 << bits) - 1));
    *min = kv_half_from_float(lo);
}

//@ kivi-code: Decide a code, and read it back
/* A constant group has s = 0; KIVI's 0/0 becomes code 0 on a GPU. */
int kv_kivi_code(float x, uint16_t scale, uint16_t min, int bits)
{
    float s = kv_half_to_float(scale), most = (float)((1 << bits) - 1);
    if (s == 0)
        return 0;
    float q = half(half(half(x) - kv_half_to_float(min)) / s);
    return (int)rintf(q < 0 ? 0 : q > most ? most : q);
}

float kv_kivi_value(int code, uint16_t scale, uint16_t min)
{
    float product = half((float)code * kv_half_to_float(scale));
    return half(product + kv_half_to_float(min));
}
