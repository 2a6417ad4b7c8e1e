/* Forgets candidates below the K-th at once, although they may count as equal to it. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kv.h"

static int falling(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x < y) - (x > y);
}

int add_piece(float *size, int *position, int n, const float *h, int length, int seen, int K)
{
    for (int i = 0; i < length; i++) {
        size[n] = fabsf(h[i]);
        position[n++] = seen + i;
    }
    if (K < 1 || n < K)
        return K < 1 ? 0 : n;
    float *sorted = malloc((size_t)n * sizeof *sorted);
    if (!sorted) abort();
    memcpy(sorted, size, (size_t)n * sizeof *sorted);
    qsort(sorted, (size_t)n, sizeof *sorted, falling);
    float v = sorted[K - 1];
    free(sorted);
    int left = 0;
    for (int i = 0; i < n; i++)
        if (size[i] >= v && left < K) {
            size[left] = size[i];
            position[left++] = position[i];
        }
    return left;
}
