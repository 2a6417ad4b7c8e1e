#include "answer.h"
#include "kv.h"

void answer(void)
{
    int L = in_int("L"), C = in_int("C"), max = in_int("max"), weak = -1;
    kv_stage *stage = scratch((size_t)max * sizeof *stage);
    int n = kv_stages_find(stage, &weak, in_floats("peak", NULL), in_floats("median", NULL), L, C, max);
    out_int("found", n);
    out_int("weak", weak);
    int *layer = out_ints("layer", max), *channel = out_ints("channel", max), *sign = out_ints("sign", max);
    n = n < 0 ? 0 : n > max ? max : n;
    for (int i = 0; i < n; i++)
        layer[i] = stage[i].layer, channel[i] = stage[i].channel, sign[i] = stage[i].sign;
    out_length("layer", n);
    out_length("channel", n);
    out_length("sign", n);
}
