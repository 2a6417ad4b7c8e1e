#include "answer.h"

#include <string.h>

void softpick(float *p, const float *s, int n);

void answer(void)
{
    int n;
    const float *s = in_floats("s", &n);
    float *p = out_floats("p", n);
    if (in_int("in_place")) {
        memcpy(p, s, (size_t)n * sizeof *p);
        softpick(p, p, n);
    } else {
        softpick(p, s, n);
    }
}
