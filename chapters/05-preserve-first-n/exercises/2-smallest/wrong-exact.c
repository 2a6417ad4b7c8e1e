/* Compares exactly, so that rounding decides among numbers that count as equal. */
#include "kv.h"

int kv_smallest(int *position, const float *x, int T, int K, float *scratch)
{
    int n = 0;
    (void)scratch;
    for (int t = 0; t < T; t++) {
        int before = 0;
        for (int j = 0; j < T; j++)
            before += x[j] < x[t] || (x[j] == x[t] && j < t);
        if (before < K)
            position[n++] = t;
    }
    return n;
}
