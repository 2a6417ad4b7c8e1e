/* Exercise 02.2: the four functions of ref/transformer.c that are not matrices, as ref/kv.h describes them.
 * Nothing else of ref/ is there to be called. */
#include <math.h>

#include "kv.h"

void kv_rmsnorm(float *y, const float *x, const float *gain, double eps, int C)
{
    (void)eps; /* yours */
    for (int c = 0; c < C; c++)
        y[c] = gain[c] * x[c];
}

void kv_rope_angles(float *cs, const kv_rope *r, int position)
{
    (void)position; /* yours */
    for (int i = 0; i < r->dims / 2; i++) {
        cs[2 * i] = 1;
        cs[2 * i + 1] = 0;
    }
}

void kv_rope_rotate(float *x, const float *cs, const kv_rope *r, int heads, int D)
{
    (void)x, (void)cs, (void)r, (void)heads, (void)D; /* yours */
}

void kv_swiglu(float *y, const float *gate, const float *up, size_t n)
{
    for (size_t i = 0; i < n; i++)
        y[i] = gate[i] * up[i]; /* yours */
}
