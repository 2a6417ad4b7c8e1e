#include "answer.h"
#include "kv.h"

void answer(void)
{
    int T, K = in_int("K");
    const float *h = in_floats("h", &T);
    int *position = out_ints("positions", K < T ? K : T);
    int n = kv_top_magnitudes(position, h, T, K, scratch((size_t)T * sizeof(float)));
    out_int("count", n);
}
