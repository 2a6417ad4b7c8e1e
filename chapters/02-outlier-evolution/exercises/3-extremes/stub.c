/* Exercise 02.3: three functions of ref/outliers.c, as ref/kv.h describes them. The arrays of the cases are
 * too long for sorting by exchange of neighbours. */
#include <math.h>

#include "kv.h"

float kv_median_abs(float *x, size_t n)
{
    return n ? x[n / 2] : 0; /* yours */
}

kv_extreme kv_outliers(const float *x, int rows, int cols, float *scratch)
{
    kv_extreme e = {0, 0, 0, 0};
    (void)x, (void)rows, (void)cols, (void)scratch; /* yours */
    return e;
}

void kv_channel_peaks(float *peak, const float *x, int rows, int cols)
{
    (void)x, (void)rows; /* yours */
    for (int c = 0; c < cols; c++)
        peak[c] = 0;
}
