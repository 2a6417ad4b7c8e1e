/* New values that merely equal the K-th are remembered as well, all of them. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kv.h"

static int falling(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x < y) - (x > y);
}

/* The K-th largest of n >= K >= 1 values. */
static float kth(const float *size, int n, int K)
{
    float *sorted = malloc((size_t)n * sizeof *sorted);
    if (!sorted) abort();
    memcpy(sorted, size, (size_t)n * sizeof *sorted);
    qsort(sorted, (size_t)n, sizeof *sorted, falling);
    float x = sorted[K - 1];
    free(sorted);
    return x;
}

int add_piece(float *size, int *position, int n, const float *h, int length, int seen, int K)
{
    if (K < 1)
        return 0;
    float least = n >= K ? 0.999f * kth(size, n, K) : -1;
    for (int i = 0; i < length; i++)
        if (fabsf(h[i]) >= least) {
            size[n] = fabsf(h[i]);
            position[n++] = seen + i;
        }
    if (n < K)
        return n;
    double v = kth(size, n, K);
    int left = 0;
    for (int i = 0; i < n; i++)
        if (size[i] > 1.001 * v || v - size[i] <= 0.001 * v) {
            size[left] = size[i];
            position[left++] = position[i];
        }
    return left;
}
