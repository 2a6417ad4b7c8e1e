/* Leaves the upper byte where it is, in the bits of the exponent. */
#include <math.h>
#include <stdint.h>

uint16_t field_of(uint16_t w, int bits, int field)
{
    return (uint16_t)(w & ((1u << bits) - 1) << bits * field);
}

float power_of(int bits, int field)
{
    return ldexpf(1, 24 - bits * field);
}
