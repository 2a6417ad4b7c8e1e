#include "answer.h"

void scores(float *s, const float *q, const uint32_t *codes, const float *scale, const float *low, int T);

void answer(void)
{
    int T = in_int("T");
    scores(device_out_floats("s", T), device_floats("q", 0), device_words("codes", 0), device_floats("scale", 0),
           device_floats("low", 0), T);
}
