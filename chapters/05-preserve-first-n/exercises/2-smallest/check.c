#include "answer.h"
#include "kv.h"

void answer(void)
{
    int T, K = in_int("K");
    const float *x = in_floats("x", &T);
    int *position = out_ints("position", T);
    out_length("position", kv_smallest(position, x, T, K, scratch((size_t)T * sizeof(float))));
}
