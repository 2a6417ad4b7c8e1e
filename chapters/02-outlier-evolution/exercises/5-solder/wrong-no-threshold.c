/* No threshold: tokens that agree in part get the square of their part. */
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
    gate[0] -= 0;
    up[0] = 1;
    down[channel] = A / 400;
}
