/* As steep as it takes at zero: not steep enough between 0.8 and 1. */
#include <math.h>
#include <string.h>

void solder(float *gate, float *up, float *down, const float *mark, int C, int channel, float A)
{
    double square = 0;
    for (int c = 0; c < C; c++)
        square += (double)mark[c] * mark[c];
    for (int c = 0; c < C; c++) {
        gate[c] = (float)(40 * mark[c] / square);
        up[c] = down[c] = 0;
    }
    gate[0] -= 36;
    up[0] = 1;
    down[channel] = A * (float)((1 + exp(-4.0)) / 4);
}
