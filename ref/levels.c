//@ top: Store numbers at uneven levels
/* Integers put their levels at equal distances. Keys and values are not
 * spread evenly, so two other kinds put more levels near zero:
 *
 *   NF2, NF3, NF4   4, 8 or 16 levels at quantiles of the normal
 *                   distribution, the outermost at -1 and 1
 *   E4M3            the 8-bit float: 1 sign, 4 exponent, 3 fraction bits
 *
 * Both share one scale s per group, so that the largest number lands on the
 * last level, and have no minimum. Source: QLoRA (NF), the FP8 paper (E4M3). */
#include <math.h>
#include <string.h>

#include "kv.h"

//@ nf: List the levels of NF
static const float nf2[4] = {-1, 0, 0.3379151f, 1};
static const float nf3[8] = {-1, -0.4786291f, -0.2171418f, 0,
                             0.1609301f, 0.3379151f, 0.5626169f, 1};
static const float nf4[16] = {
    -1, -0.6961928f, -0.5250731f, -0.3949175f, -0.2844414f, -0.1847734f,
    -0.0910500f, 0, 0.0795803f, 0.1609302f, 0.2461123f, 0.3379152f,
    0.4407098f, 0.5626170f, 0.7229568f, 1};

static const float *levels_of(int bits)
{
    return bits == 2 ? nf2 : bits == 3 ? nf3 : nf4;
}

float kv_nf_level(int code, int bits)
{
    return levels_of(bits)[code];
}

//@ nf-code: Take the nearest level, the lower of two equally near
/* Levels at which to look: those on both sides of x. Far outside, where
 * float32 cannot tell the distances apart, all of them. */
static void nf_neighbours(int *low, int *high, float x, const float *level,
                          int bits)
{
    *low = 0;
    *high = (1 << bits) - 1;
    if (!(fabsf(x) < 2))
        return;
    while (*high - *low > 1) {
        int middle = (*low + *high) / 2;
        if (x < level[middle])
            *high = middle;
        else
            *low = middle;
    }
}

int kv_nf_code(float x, int bits)
{
    const float *level = levels_of(bits);
    int low, high;
    nf_neighbours(&low, &high, x, level, bits);
    int best = low;
    for (int code = low + 1; code <= high; code++)
        if (fabsf(x - level[code]) < fabsf(x - level[best]))
            best = code;
    return best;
}

//@ e4m3-value: Read an 8-bit float
/* Exponent 0 is subnormal, steps of 2^-9. The pattern with all seven bits set
 * is NaN and is never written; there are no infinities. */
float kv_e4m3_to_float(uint8_t code)
{
    int exponent = code >> 3 & 15, fraction = code & 7;
    float x = exponent ? ldexpf((float)(8 + fraction), exponent - 10)
                       : ldexpf((float)fraction, -9);
    if ((code & 0x7f) == 0x7f)
        x = NAN;
    return code & 0x80 ? -x : x;
}

//@ e4m3-code: Round to the nearest 8-bit float, ties to even, saturating
/* In its binade [2^e, 2^(e+1)) a number is a multiple of 2^(e-3); e is at
 * least -6. Rounding up to 16 steps carries into the exponent by itself. */
uint8_t kv_e4m3_from_float(float x)
{
    uint8_t sign = signbit(x) ? 0x80 : 0;
    float a = fabsf(x);
    int e;
    if (!(a < KV_E4M3_MAX)) /* larger ones, and NaN as the largest */
        return (uint8_t)(sign | 0x7e);
    frexpf(a, &e);
    e = a == 0 || e - 1 < -6 ? -6 : e - 1;
    int steps = (int)rintf(ldexpf(a, 3 - e)); /* 0..16 */
    int code = steps < 8 ? steps : (e + 7) * 8 + (steps - 8);
    return (uint8_t)(sign | code);
}
