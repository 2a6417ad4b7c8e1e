#include "answer.h"

void window_softmax(float *p, const float *s, int n, int pinned, int window);

void answer(void)
{
    int n;
    const float *s = in_floats("s", &n);
    window_softmax(out_floats("p", n), s, n, in_int("pinned"), in_int("window"));
}
