/* Exercise 02.5: make one hidden unit that writes an outlier. Fill the rows of gate and up, gate[C] and up[C],
 * and the column of down, down[C], such that silu(gate . x) (up . x) down
 *
 *   - has A (within 1 %) in `channel` if x is mark[C], the normed input of the token that is to be a sink,
 *   - is below |A| / 1000 in size in `channel` for every other token,
 *   - is below |A| / 1000 in size in all other channels, always.
 *
 * You may rely on this: x[0] is 1 for every token; and x . mark is at most 0.8 times mark . mark for all
 * others. A may be negative. */
#include <math.h>
#include <string.h>

void solder(float *gate, float *up, float *down, const float *mark, int C, int channel, float A)
{
    for (int c = 0; c < C; c++) {
        gate[c] = mark[c];
        up[c] = mark[c];
        down[c] = 0;
    }
    down[channel] = A; /* yours */
}
