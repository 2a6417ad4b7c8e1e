/* Exercise 03.5: zero is always a level, and comes back exactly. */
#include <math.h>
#include <stdint.h>

void zero_point(uint8_t *codes, float *scale, int *zero, float *back, const float *x, int n,
                int bits)
{
    float lo = 0, hi = 0;
    int top = (1 << bits) - 1;
    for (int i = 0; i < n; i++) {
        lo = fminf(lo, x[i]);
        hi = fmaxf(hi, x[i]);
    }
    float s = (hi - lo) / (float)top;
    s = s == 0 ? 1 : s;
    int z = (int)rintf(-lo / s);
    for (int i = 0; i < n; i++) {
        int q = (int)rintf(x[i] / s) + z;
        q = q < 0 ? 0 : q > top ? top : q;
        codes[i] = (uint8_t)q;
        back[i] = s * (float)(q - z);
    }
    *scale = s;
    *zero = z;
}
