#include "answer.h"

#include <math.h>

void solder(float *gate, float *up, float *down, const float *mark, int C, int channel, float A);

static double dot(const float *a, const float *b, int n)
{
    double sum = 0;
    for (int i = 0; i < n; i++)
        sum += (double)a[i] * b[i];
    return sum;
}

void answer(void)
{
    int C = in_int("C"), n = in_int("tokens"), channel = in_int("channel");
    const float *x = in_floats("x", NULL); /* the mark first */
    float *gate = scratch((size_t)C * sizeof *gate), *up = scratch((size_t)C * sizeof *up);
    float *down = scratch((size_t)C * sizeof *down), *mark = scratch((size_t)C * sizeof *mark);
    for (int c = 0; c < C; c++)
        mark[c] = x[c];
    solder(gate, up, down, mark, C, channel, (float)in_number("A"));
    double *written = out_doubles("written", n), astray = 0;
    for (int t = 0; t < n; t++) {
        double g = dot(gate, x + t * C, C), z = g / (1 + exp(-g)) * dot(up, x + t * C, C);
        written[t] = z * down[channel];
        for (int c = 0; c < C; c++)
            if (c != channel)
                astray = fmax(astray, fabs(z * down[c]));
    }
    out_number("astray", astray);
}
