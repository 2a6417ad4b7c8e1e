/* Exercise 05.2: the function of ref/keep_score.c that takes the K smallest; kv.h says what equal means. */
#include "kv.h"

int kv_smallest(int *position, const float *x, int T, int K, float *scratch)
{
    (void)x, (void)scratch; /* yours: these are the first K */
    for (int t = 0; t < K && t < T; t++)
        position[t] = t;
    return K < T ? K : T;
}
