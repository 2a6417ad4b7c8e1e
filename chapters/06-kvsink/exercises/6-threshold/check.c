#include "answer.h"

void keep_above(int *position, int *count, float *out, const float *h, const float *add, int n, int C,
                int channel, float threshold, int *work);

void answer(void)
{
    int n = in_int("n"), C = in_int("C");
    keep_above(device_out_ints("positions", n), device_out_ints("count", 1),
               device_out_floats("out", n * C), device_floats("h", 0), device_floats("add", 0), n, C,
               in_int("channel"), (float)in_number("threshold"),
               device_scratch((size_t)n * sizeof(int)));
}
