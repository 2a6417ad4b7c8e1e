#include "answer.h"
#include "kv.h"

#include <string.h>

void answer(void)
{
    int n;
    const float *x = in_floats("x", &n);
    float *y = out_floats("y", n);
    memcpy(y, x, (size_t)n * sizeof *y);
    kv_hadamard(y, in_int("heads"), in_int("size"));
}
