//@ top: Attend to earlier tokens
/* Causal attention in its plainest form. A query scores every key it may
 * see, softmax turns the scores into a row of weights, and the output is the
 * mean of the values under those weights. With grouped queries (GQA) several
 * query heads read the same key-value head, which is what makes the cache
 * small. The rows are handed out on request: sinks are found in them. */
#include <math.h>
#include <string.h>

#include "kv.h"

//@ dot: Multiply two vectors, summing in double
double kv_dot(const float *a, const float *b, int n)
{
    double sum = 0;
    for (int i = 0; i < n; i++)
        sum += (double)a[i] * b[i];
    return sum;
}

//@ mix: Average the values of one head under one row of weights
/* v points at the head's first value; tokens are `step` floats apart. */
static void mix(float *out, const float *p, const float *v, int D, int step,
                int visible)
{
    for (int d = 0; d < D; d++) {
        double sum = 0;
        for (int t = 0; t < visible; t++)
            sum += (double)p[t] * v[(size_t)t * step + d];
        out[d] = (float)sum;
    }
}

//@ head: Answer one query of one head
/* k and v point at the first token of this query's key-value head. */
static int attend_one(float *out, float *p, const float *q, const float *k,
                      const float *v, const float *sink, int D, int step,
                      int visible, kv_error *err)
{
    double scale = 1 / sqrt((double)D);
    for (int t = 0; t < visible; t++)
        p[t] = (float)(scale * kv_dot(q, k + (size_t)t * step, D));
    int bad = sink ? kv_softmax_sink(p, NULL, p, *sink, visible, err)
                   : kv_softmax(p, p, visible, err);
    if (!bad)
        mix(out, p, v, D, step, visible);
    return bad;
}

//@ all-heads: Go through heads and queries
int kv_attention(float *out, float *rows, const float *q, const float *k,
                 const float *v, const float *sink, kv_shape s, int past, int n,
                 float *scratch, kv_error *err)
{
    int D = s.head_size, step = s.kv_heads * D, T = past + n;
    if (kv_check_finite(v, (size_t)T * (size_t)step, "values", err))
        return KV_FAIL_RUN; /* queries and keys show in the scores */
    for (int h = 0; h < s.heads; h++) {
        int kv_head = h / (s.heads / s.kv_heads);
        for (int i = 0; i < n; i++) {
            int visible = past + i + 1;
            size_t at = ((size_t)i * s.heads + h) * D;
            if (attend_one(out + at, scratch, q + at, k + kv_head * D,
                           v + kv_head * D, sink ? sink + h : NULL, D, step,
                           visible, err))
                return KV_FAIL_RUN;
            if (!rows)
                continue;
            float *row = rows + ((size_t)h * n + i) * T;
            memset(row, 0, (size_t)T * sizeof *row);
            memcpy(row, scratch, (size_t)visible * sizeof *row);
        }
    }
    return KV_OK;
}

//@ mix-rows: Redo the second half from given rows
/* For a tap that has changed the weights. Zeros beyond the visible keys add
 * nothing, so all T columns may be summed. */
void kv_attention_mix(float *out, const float *rows, const float *v, kv_shape s,
                      int n, int T)
{
    int D = s.head_size;
    for (int h = 0; h < s.heads; h++)
        for (int i = 0; i < n; i++)
            mix(out + ((size_t)i * s.heads + h) * D,
                rows + ((size_t)h * n + i) * T,
                v + h / (s.heads / s.kv_heads) * D, D, s.kv_heads * D, T);
}
