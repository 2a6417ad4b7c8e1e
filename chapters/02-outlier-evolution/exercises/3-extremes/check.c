#include "answer.h"
#include "kv.h"

#include <string.h>

void answer(void)
{
    int n, rows = in_int("rows"), cols = in_int("cols");
    const float *x = in_floats("x", &n);
    float *copy = scratch((size_t)n * sizeof *copy);
    kv_extreme e = kv_outliers(x, rows, cols, copy);
    out_number("max", e.max);
    out_number("median", e.median);
    out_int("row", e.row);
    out_int("col", e.col);
    kv_channel_peaks(out_floats("peak", cols), x, rows, cols);
    memcpy(copy, x, (size_t)n * sizeof *copy);
    out_number("alone", kv_median_abs(copy, (size_t)n));
}
