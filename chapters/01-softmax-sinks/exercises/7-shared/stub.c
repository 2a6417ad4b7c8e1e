/* Exercise 01.7: kv_attention of ref/attention.c, as ref/kv.h describes it. kv_softmax and kv_softmax_sink
 * are there to be called. rows may be NULL. */
#include "kv.h"

int kv_attention(float *out, float *rows, const float *q, const float *k, const float *v, const float *sink,
                 kv_shape s, int past, int n, float *scratch, kv_error *err)
{
    (void)rows, (void)q, (void)k, (void)v, (void)sink, (void)past, (void)scratch, (void)err; /* yours */
    for (int i = 0; i < n * s.heads * s.head_size; i++)
        out[i] = 0;
    return KV_OK;
}
