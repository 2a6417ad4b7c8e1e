/* Turns every key, also those that were stored after RoPE. */
#include <math.h>
#include <string.h>

#include "kv.h"

int kv_decode(float *out, float *rows, const float *q, const kv_cache *c, int layer, const float *sink, int shift,
              float *scratch, kv_error *err)
{
    const kv_cache_spec *s = &c->spec;
    int H = s->shape.heads, Hk = s->shape.kv_heads, D = s->shape.head_size, T = c->layer[layer].k.tokens;
    float *p = scratch, *row = scratch + T, angles[KV_HEAD_MAX];
    for (int h = 0; h < H; h++) {
        double sum[KV_HEAD_MAX] = {0};
        for (int t = 0; t < T; t++) {
            kv_cache_read_head(row, c, layer, 0, t, h / (H / Hk));
            kv_rope_angles(angles, &s->rope, t + shift);
            kv_rope_rotate(row, angles, &s->rope, 1, D);
            p[t] = (float)(kv_dot(q + h * D, row, D) / sqrt(D));
        }
        int code = sink ? kv_softmax_sink(p, NULL, p, sink[h], T, err) : kv_softmax(p, p, T, err);
        if (code)
            return code;
        if (rows)
            memcpy(rows + (size_t)h * (size_t)T, p, (size_t)T * sizeof *p);
        for (int t = 0; t < T; t++) {
            kv_cache_read_head(row, c, layer, 1, t, h / (H / Hk));
            for (int d = 0; d < D; d++)
                sum[d] += (double)p[t] * row[d];
        }
        for (int d = 0; d < D; d++)
            out[h * D + d] = (float)sum[d];
    }
    return KV_OK;
}
