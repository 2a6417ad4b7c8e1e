/* Exercise 04.2: find a token in a store.
 *
 * kv_positions_before: how many of the ascending position[n] lie before t (kv.h). Halve the list, do
 * not walk it.
 *
 * where_is: a token t is in one of three states. Kept (it is listed): return KEPT, and *index is its row
 * of the side table. Coded (before `quantized`, not kept): return CODED, *index is 0. Waiting: return
 * WAITING, and *index is its row among those that wait, which lie in order of position, without any
 * kept one. */
#include "kv.h"

enum { KEPT, CODED, WAITING };

int kv_positions_before(const int *position, int n, int t)
{
    (void)position, (void)n, (void)t; /* yours */
    return 0;
}

int where_is(int *index, int t, const int *position, int n, int quantized)
{
    (void)position, (void)n; /* yours */
    *index = t - quantized;
    return WAITING;
}
