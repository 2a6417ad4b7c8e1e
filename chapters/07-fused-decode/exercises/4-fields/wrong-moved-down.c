/* Moves every code to the bottom, as one unpacks integers, and then forgets that the power has changed. */
#include <math.h>
#include <stdint.h>

uint16_t field_of(uint16_t w, int bits, int field)
{
    return (uint16_t)(w >> bits * field & ((1u << bits) - 1));
}

float power_of(int bits, int field)
{
    return ldexpf(1, 24 - bits * field % 8);
}
