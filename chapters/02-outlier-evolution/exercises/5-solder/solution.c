/* Exercise 02.5: the gate is 40 at the mark and -40 or less elsewhere, by means of the channel that is always
 * 1; up is that channel. So silu gives 40 or nothing. */
#include <math.h>
#include <string.h>

void solder(float *gate, float *up, float *down, const float *mark, int C, int channel, float A)
{
    double square = 0;
    for (int c = 0; c < C; c++)
        square += (double)mark[c] * mark[c];
    for (int c = 0; c < C; c++) {
        gate[c] = (float)(400 * mark[c] / square);
        up[c] = down[c] = 0;
    }
    gate[0] -= 360;
    up[0] = 1;
    down[channel] = A / 40;
}
