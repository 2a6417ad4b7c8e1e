/* Half-way cases go away from zero, as roundf has it. */
#include <math.h>

#include "kv.h"

uint16_t kv_half_from_float(float x)
{
    unsigned sign = signbit(x) ? 0x8000u : 0;
    float a = fabsf(x);
    int e;
    if (isnan(x))
        return (uint16_t)(sign | 0x7e00u);
    if (a >= 65520.0f)
        return (uint16_t)(sign | 0x7c00u);
    if (a == 0)
        return (uint16_t)sign;
    frexpf(a, &e); /* a lies in [2^(e-1), 2^e) */
    e = e - 1 < -14 ? -14 : e - 1;
    unsigned steps = (unsigned)roundf(ldexpf(a, 10 - e)); /* 0..2048 */
    return (uint16_t)(sign | ((unsigned)(e + 14) * 1024u + steps));
}

float kv_half_to_float(uint16_t h)
{
    int exponent = h >> 10 & 31, fraction = h & 1023;
    float x = exponent == 31 ? (fraction ? NAN : INFINITY)
              : exponent     ? ldexpf((float)(1024 + fraction), exponent - 25)
                             : ldexpf((float)fraction, -24);
    return h & 0x8000 ? -x : x;
}
