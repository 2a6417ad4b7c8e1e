/* Symmetric codes as in the other formats: d from the largest magnitude, without its sign. */
#include <math.h>

#include "kv.h"

void q4_0_block(uint8_t block[18], const float x[32])
{
    float largest = 0;
    for (int j = 0; j < 32; j++)
        if (fabsf(x[j]) > fabsf(largest))
            largest = x[j];
    float d = fabsf(largest) / 8, inverse = d != 0 ? 1 / d : 0;
    uint16_t stored = kv_half_from_float(d);
    block[0] = (uint8_t)(stored & 255);
    block[1] = (uint8_t)(stored >> 8);
    for (int j = 0; j < 16; j++) {
        int low = (int)(x[j] * inverse + 8.5f), high = (int)(x[j + 16] * inverse + 8.5f);
        low = low > 15 ? 15 : low;
        high = high > 15 ? 15 : high;
        block[2 + j] = (uint8_t)(low | high << 4);
    }
}
