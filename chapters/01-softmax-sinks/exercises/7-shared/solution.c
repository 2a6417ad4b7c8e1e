/* Exercise 01.7: H / Hk neighbouring query heads read one key-value head, and query i sees past + i + 1
 * keys. A value is looked at before it is used; queries and keys show in the scores. */
#include <math.h>

#include "kv.h"

static double product(const float *a, const float *b, int n)
{
    double sum = 0;
    for (int i = 0; i < n; i++)
        sum += (double)a[i] * b[i];
    return sum;
}

int kv_attention(float *out, float *rows, const float *q, const float *k, const float *v, const float *sink,
                 kv_shape s, int past, int n, float *scratch, kv_error *err)
{
    int H = s.heads, Hk = s.kv_heads, D = s.head_size, T = past + n;
    if (kv_check_finite(v, (size_t)T * (size_t)(Hk * D), "values", err))
        return KV_FAIL_RUN;
    for (int i = 0; i < n; i++)
        for (int h = 0; h < H; h++) {
            int g = h / (H / Hk), seen = past + i + 1;
            for (int t = 0; t < seen; t++)
                scratch[t] = (float)(product(q + (i * H + h) * D, k + (t * Hk + g) * D, D) / sqrt(D));
            int code = sink ? kv_softmax_sink(scratch, NULL, scratch, sink[h], seen, err)
                            : kv_softmax(scratch, scratch, seen, err);
            if (code)
                return code;
            for (int d = 0; d < D; d++) {
                double sum = 0;
                for (int t = 0; t < seen; t++)
                    sum += (double)scratch[t] * v[(t * Hk + g) * D + d];
                out[(i * H + h) * D + d] = (float)sum;
            }
            for (int t = 0; rows && t < T; t++)
                rows[((size_t)h * (size_t)n + (size_t)i) * (size_t)T + (size_t)t] = t < seen ? scratch[t] : 0;
        }
    return KV_OK;
}
