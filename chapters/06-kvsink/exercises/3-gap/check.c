#include <string.h>

#include "answer.h"
#include "kv.h"

void answer(void)
{
    int n;
    const float *h = in_floats("h", &n);
    float *a = scratch((size_t)n * sizeof *a);
    memcpy(a, h, (size_t)n * sizeof *a);
    out_number("threshold", kv_gap_threshold(a, (size_t)n));
}
