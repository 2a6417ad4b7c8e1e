/* Takes off every kept token before t, also those before the first that waits. */
#include "kv.h"

enum { KEPT, CODED, WAITING };

int kv_positions_before(const int *position, int n, int t)
{
    int low = 0, high = n;
    while (low < high) {
        int middle = low + (high - low) / 2;
        if (position[middle] < t)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

int where_is(int *index, int t, const int *position, int n, int quantized)
{
    int before = kv_positions_before(position, n, t);
    *index = 0;
    if (before < n && position[before] == t) {
        *index = before;
        return KEPT;
    }
    if (t < quantized)
        return CODED;
    *index = t - quantized - before;
    return WAITING;
}
