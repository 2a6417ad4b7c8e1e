/* Exercise 02.2: eps stands under the root, pair i turns at base^(-2i/dims), the gate goes through silu. */
#include <math.h>

#include "kv.h"

void kv_rmsnorm(float *y, const float *x, const float *gain, double eps, int C)
{
    double square = 0;
    for (int c = 0; c < C; c++)
        square += (double)x[c] * x[c];
    double root = sqrt(square / C + eps);
    for (int c = 0; c < C; c++)
        y[c] = (float)(gain[c] * (x[c] / root));
}

void kv_rope_angles(float *cs, const kv_rope *r, int position)
{
    for (int i = 0; i < r->dims / 2; i++) {
        double angle = position * r->scale / pow(r->base, 2.0 * i / r->dims);
        if (r->factors)
            angle /= r->factors[i];
        cs[2 * i] = (float)cos(angle);
        cs[2 * i + 1] = (float)sin(angle);
    }
}

void kv_rope_rotate(float *x, const float *cs, const kv_rope *r, int heads, int D)
{
    for (int h = 0; h < heads; h++)
        for (int i = 0; i < r->dims / 2; i++) {
            int a = h * D + (r->interleaved ? 2 * i : i);
            int b = a + (r->interleaved ? 1 : r->dims / 2);
            double u = x[a], v = x[b];
            x[a] = (float)(u * cs[2 * i] - v * cs[2 * i + 1]);
            x[b] = (float)(u * cs[2 * i + 1] + v * cs[2 * i]);
        }
}

void kv_swiglu(float *y, const float *gate, const float *up, size_t n)
{
    for (size_t i = 0; i < n; i++)
        y[i] = (float)(gate[i] / (1 + exp(-(double)gate[i])) * up[i]);
}
