/* Takes the bias of normal numbers, 15, for the exponent of subnormal ones. */
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
    return ldexpf(1, 25 - bits * field % 8);
}
