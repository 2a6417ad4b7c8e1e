//@ top: Attend straight from codes
/* One new query against a whole cache. The fast kernels read each packed
 * block once, for all query heads that share it; this one reads a head of a
 * row at a time and is meant to be obviously right. What it reads is what
 * kv_cache_read gives: codes, kept rows and waiting rows alike. */
#include <math.h>
#include <string.h>

#include "kv.h"

//@ scores: Score every key of the cache
static void decode_scores(float *p, float *key, const float *q,
                          const kv_cache *c, int layer, int kv_head, int shift)
{
    const kv_store *st = &c->layer[layer].k;
    int D = st->shape.head_size;
    double scale = 1 / sqrt((double)D);
    float angles[KV_HEAD_MAX];
    for (int t = 0; t < st->tokens; t++) {
        kv_cache_read_head(key, c, layer, 0, t, kv_head);
        if (st->format.pre) {
            kv_rope_angles(angles, &c->spec.rope, t + shift);
            kv_rope_rotate(key, angles, &c->spec.rope, 1, D);
        }
        p[t] = (float)(scale * kv_dot(q, key, D));
    }
}

//@ values: Average every value of the cache
static void decode_mix(float *out, float *value, const float *p,
                       const kv_cache *c, int layer, int kv_head)
{
    const kv_store *st = &c->layer[layer].v;
    int D = st->shape.head_size;
    double sum[KV_HEAD_MAX] = {0};
    for (int t = 0; t < st->tokens; t++) {
        kv_cache_read_head(value, c, layer, 1, t, kv_head);
        for (int d = 0; d < D; d++)
            sum[d] += (double)p[t] * value[d];
    }
    for (int d = 0; d < D; d++)
        out[d] = (float)sum[d];
}

//@ decode: Answer one query token
int kv_decode(float *out, float *rows, const float *q, const kv_cache *c,
              int layer, const float *sink, int shift, float *scratch,
              kv_error *err)
{
    kv_shape s = c->spec.shape;
    int D = s.head_size, T = c->layer[layer].k.tokens;
    float *p = scratch, *one = scratch + T;
    for (int h = 0; h < s.heads; h++) {
        int kv_head = h / (s.heads / s.kv_heads);
        decode_scores(p, one, q + h * D, c, layer, kv_head, shift);
        int bad = sink ? kv_softmax_sink(p, NULL, p, sink[h], T, err)
                       : kv_softmax(p, p, T, err);
        if (bad)
            return bad;
        if (rows)
            memcpy(rows + (size_t)h * T, p, (size_t)T * sizeof *p);
        decode_mix(out + h * D, one, p, c, layer, kv_head);
    }
    return KV_OK;
}
