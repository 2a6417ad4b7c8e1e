/* Remembers the K largest so far and nothing else. */
#include <math.h>
#include <stdlib.h>

#include "kv.h"

int add_piece(float *size, int *position, int n, const float *h, int length, int seen, int K)
{
    for (int i = 0; i < length; i++) {
        size[n] = fabsf(h[i]);
        position[n++] = seen + i;
    }
    int *chosen = malloc((size_t)n * sizeof *chosen);
    float *sorted = malloc((size_t)n * sizeof *sorted);
    if (!chosen || !sorted) abort();
    int left = kv_top_magnitudes(chosen, size, n, K, sorted);
    for (int i = 0; i < left; i++) {
        size[i] = size[chosen[i]];
        position[i] = position[chosen[i]];
    }
    free(chosen);
    free(sorted);
    return left;
}
