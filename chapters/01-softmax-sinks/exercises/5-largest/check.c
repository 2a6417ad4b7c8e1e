#include "answer.h"

void largest_weight(float *largest, const float *s, int rows, int n);

void answer(void)
{
    int rows = in_int("rows"), n = in_int("n");
    largest_weight(device_out_floats("largest", rows), device_floats("s", 0), rows, n);
}
