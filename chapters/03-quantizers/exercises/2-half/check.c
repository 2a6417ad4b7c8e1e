#include "answer.h"
#include "kv.h"

void answer(void)
{
    int n, m;
    const float *x = in_floats("x", &n);
    const uint16_t *h = in_shorts("h", &m);
    uint16_t *bits = out_shorts("bits", n);
    float *back = out_floats("back", m);
    for (int i = 0; i < n; i++)
        bits[i] = kv_half_from_float(x[i]);
    for (int i = 0; i < m; i++)
        back[i] = kv_half_to_float(h[i]);
}
