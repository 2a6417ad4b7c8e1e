/* Exercise 03.5: codes around an integer zero point z, as the family of QuaRot has them. In float32:
 *
 *     lo = min(0, smallest x)      hi = max(0, largest x)
 *     s = (hi - lo) / (2^b - 1), or 1 if that is 0
 *     z = round(-lo / s)           q = round(x / s) + z, then clamped to 0 .. 2^b - 1
 *     x^ = s * (q - z)
 *
 * round is to nearest, ties to even. codes[n] gets q, back[n] gets x^. */
#include <math.h>
#include <stdint.h>

void zero_point(uint8_t *codes, float *scale, int *zero, float *back, const float *x, int n,
                int bits)
{
    (void)x, (void)bits; /* yours */
    *scale = 1;
    *zero = 0;
    for (int i = 0; i < n; i++)
        codes[i] = 0, back[i] = 0;
}
