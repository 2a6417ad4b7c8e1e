/* Values that differ in their last bits are told apart. */
#include <math.h>
#include <stdlib.h>

#include "kv.h"

static int falling(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x < y) - (x > y);
}

int kv_top_magnitudes(int *position, const float *h, int T, int K, float *scratch)
{
    if (K > T)
        K = T;
    if (K <= 0)
        return 0;
    for (int t = 0; t < T; t++)
        scratch[t] = fabsf(h[t]);
    qsort(scratch, (size_t)T, sizeof *scratch, falling);
    float v = scratch[K - 1];
    int room = K, n = 0;
    for (int t = 0; t < T; t++)
        room -= fabsf(h[t]) > v;
    for (int t = 0; t < T; t++) {
        float a = fabsf(h[t]);
        if (a > v || (a == v && room-- > 0))
            position[n++] = t;
    }
    return n;
}
