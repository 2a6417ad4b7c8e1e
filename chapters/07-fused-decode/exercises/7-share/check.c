#include "answer.h"

void attend(float *out, float *part, const float *q, const float *k, const float *v, int T, int n);

void answer(void)
{
    int n = in_int("workers");
    attend(device_out_floats("out", 32), device_out_floats("part", n * 34), device_floats("q", 0),
           device_floats("k", 0), device_floats("v", 0), in_int("T"), n);
}
