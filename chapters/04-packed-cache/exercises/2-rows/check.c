#include "answer.h"
#include "kv.h"

int where_is(int *index, int t, const int *position, int n, int quantized);

/* Every token of a store of T. */
void answer(void)
{
    int n, T = in_int("T"), quantized = in_int("quantized");
    const int *position = in_ints("kept", &n);
    int *before = out_ints("before", T + 1), *state = out_ints("state", T), *index = out_ints("index", T);
    for (int t = 0; t <= T; t++)
        before[t] = kv_positions_before(position, n, t);
    for (int t = 0; t < T; t++)
        state[t] = where_is(&index[t], t, position, n, quantized);
}
