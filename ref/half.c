//@ top: Convert to and from sixteen-bit floats
/* binary16 ("half"): 1 sign, 5 exponent, 10 fraction bits, largest finite
 * 65504, smallest normal 2^-14, smallest subnormal 2^-24. bfloat16: the upper
 * half of a float32. Both round to nearest, ties to even. Written out by hand
 * because scales, minima and kept rows are compared bit for bit on machines
 * with and without conversion instructions. */
#include <string.h>

#include "kv.h"

//@ bits: See a float as its 32 bits
static uint32_t bits_of(float x)
{
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}

static float float_of(uint32_t u)
{
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}

//@ round-shift: Drop low bits, rounding to nearest even
static uint32_t round_shift(uint32_t x, int shift)
{
    uint32_t half = 1u << (shift - 1), low = x & ((half << 1) - 1);
    uint32_t up = low > half || (low == half && (x >> shift & 1));
    return (x >> shift) + up;
}

//@ to-half: Rebias the exponent and round the fraction
/* A carry out of the fraction runs into the exponent, which is just what
 * rounding up to the next power of two (or to infinity) means. */
uint16_t kv_half_from_float(float x)
{
    uint32_t u = bits_of(x), sign = u >> 16 & 0x8000u, a = u & 0x7fffffffu;
    if (a > 0x7f800000u) /* NaN: keep it one */
        return (uint16_t)(sign | 0x7e00u);
    if (a >= 0x477ff000u) /* 65520 and above round to infinity */
        return (uint16_t)(sign | 0x7c00u);
    if (a < 0x33000000u) /* below 2^-25: zero */
        return (uint16_t)sign;
    if (a >= 0x38800000u) /* normal: exponent 127 becomes 15 */
        return (uint16_t)(sign | round_shift(a - 0x38000000u, 13));
    uint32_t fraction = (a & 0x7fffffu) | 0x800000u;
    return (uint16_t)(sign | round_shift(fraction, 126 - (int)(a >> 23)));
}

//@ from-half: Widen, which is always exact
float kv_half_to_float(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16;
    uint32_t exponent = h >> 10 & 0x1fu, fraction = h & 0x3ffu;
    if (exponent == 31)
        return float_of(sign | 0x7f800000u | fraction << 13);
    if (exponent > 0)
        return float_of(sign | (exponent + 112) << 23 | fraction << 13);
    float tiny = (float)fraction * 0x1p-24f;
    return sign ? -tiny : tiny;
}

//@ bfloat16: Keep the upper half of the bits
uint16_t kv_bf16_from_float(float x)
{
    uint32_t u = bits_of(x);
    if ((u & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)(u >> 16 | 0x40u);
    return (uint16_t)round_shift(u, 16);
}

float kv_bf16_to_float(uint16_t h)
{
    return float_of((uint32_t)h << 16);
}
