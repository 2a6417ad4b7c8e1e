/* Exercise 06.3: kv_gap_threshold, as ref/kv.h describes it. a[n] are magnitudes, n >= 1; they may be
 * reordered. */
#include "kv.h"

double kv_gap_threshold(float *a, size_t n)
{
    return n ? a[0] / 2 : 0; /* yours */
}
