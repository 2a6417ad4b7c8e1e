/* Exercise 05.2: count what is clearly smaller than the K-th, and give the rest of K to its equals. */
#include <string.h>

#include "kv.h"

/* The smallest k of x [n] come to its front, in order. */
static void select(float *x, int n, int k)
{
    for (int i = 0; i < k; i++)
        for (int j = i + 1; j < n; j++)
            if (x[j] < x[i]) {
                float least = x[j];
                x[j] = x[i];
                x[i] = least;
            }
}

int kv_smallest(int *position, const float *x, int T, int K, float *scratch)
{
    int left = K < T ? K : T, n = 0;
    if (left <= 0)
        return 0;
    memcpy(scratch, x, (size_t)T * sizeof *x);
    select(scratch, T, left);
    double kth = scratch[left - 1], margin = 0.001 * kth;
    for (int t = 0; t < T; t++)
        if (kth - x[t] > margin)
            left--;
    for (int t = 0; t < T; t++) {
        int is_equal = kth - x[t] <= margin && x[t] - kth <= margin;
        if (kth - x[t] > margin || (is_equal && left-- > 0))
            position[n++] = t;
    }
    return n;
}
