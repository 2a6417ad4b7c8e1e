/* Takes whatever is not clearly larger than the K-th until K are taken: no room for smaller ones behind. */
#include <string.h>

#include "kv.h"

int kv_smallest(int *position, const float *x, int T, int K, float *scratch)
{
    int most = K < T ? K : T, n = 0;
    if (most <= 0)
        return 0;
    memcpy(scratch, x, (size_t)T * sizeof *x);
    for (int i = 0; i < most; i++)
        for (int j = i + 1; j < T; j++)
            if (scratch[j] < scratch[i]) {
                float least = scratch[j];
                scratch[j] = scratch[i];
                scratch[i] = least;
            }
    double kth = scratch[most - 1];
    for (int t = 0; t < T && n < most; t++)
        if (x[t] - kth <= 0.001 * kth)
            position[n++] = t;
    return n;
}
