/* The last of equals instead of the first. */
#include <math.h>
#include <stdlib.h>

#include "kv.h"

static int by_size(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

float kv_median_abs(float *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        x[i] = fabsf(x[i]);
    qsort(x, n, sizeof *x, by_size);
    if (n == 0)
        return 0;
    return (float)(((double)x[(n - 1) / 2] + x[n / 2]) / 2);
}

kv_extreme kv_outliers(const float *x, int rows, int cols, float *scratch)
{
    kv_extreme e = {0, 0, 0, 0};
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < cols; c++) {
            float size = fabsf(x[(size_t)r * (size_t)cols + (size_t)c]);
            scratch[(size_t)r * (size_t)cols + (size_t)c] = size;
            if (size >= e.max)
                e = (kv_extreme){size, 0, r, c};
        }
    e.median = kv_median_abs(scratch, (size_t)rows * (size_t)cols);
    return e;
}

void kv_channel_peaks(float *peak, const float *x, int rows, int cols)
{
    for (int c = 0; c < cols; c++) {
        peak[c] = 0;
        for (int r = 0; r < rows; r++)
            if (fabsf(x[(size_t)r * (size_t)cols + (size_t)c]) >= fabsf(peak[c]))
                peak[c] = x[(size_t)r * (size_t)cols + (size_t)c];
    }
}
