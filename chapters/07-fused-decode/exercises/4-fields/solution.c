/* Exercise 07.4: without a bit at 10 or above, a half is its mantissa times 2^-24. A code whose lowest bit is
 * bit p of it is therefore code * 2^(p - 24). */
#include <math.h>
#include <stdint.h>

uint16_t field_of(uint16_t w, int bits, int field)
{
    int at = bits * field;
    if (at >= 8)
        w = w >> 8;
    return (uint16_t)(w & ((1u << bits) - 1) << at % 8);
}

float power_of(int bits, int field)
{
    return ldexpf(1, 24 - bits * field % 8);
}
