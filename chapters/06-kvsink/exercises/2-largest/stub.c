/* Exercise 06.2: kv_top_magnitudes, as ref/kv.h describes it. scratch has room for T floats. */
#include "kv.h"

int kv_top_magnitudes(int *position, const float *h, int T, int K, float *scratch)
{
    (void)h, (void)scratch; /* yours: these are the first K */
    int n = 0;
    while (n < K && n < T) {
        position[n] = n;
        n++;
    }
    return n;
}
