/* The extra logit is added after the maximum has been taken from the scores only. */
#include <math.h>

#include "kv.h"

static int weights(float *p, float *rest, const float *s, double extra, int n, kv_error *err)
{
    double most = -INFINITY, sum = 0;
    if (kv_check_finite(s, (size_t)n, "softmax scores", err))
        return KV_FAIL_RUN;
    for (int j = 0; j < n; j++)
        most = fmax(most, s[j]);
    double out = extra == -INFINITY ? 0 : exp(extra - most);
    for (int j = 0; j < n; j++)
        sum += exp(s[j] - most);
    for (int j = 0; j < n; j++)
        p[j] = (float)(exp(s[j] - most) / (sum + out));
    if (rest)
        *rest = (float)(out / (sum + out));
    return KV_OK;
}

int kv_softmax(float *p, const float *s, int n, kv_error *err)
{
    return weights(p, NULL, s, -INFINITY, n, err);
}

int kv_softmax_sink(float *p, float *sink, const float *s, float logit, int n, kv_error *err)
{
    if (!isfinite(logit))
        return kv_fail(err, KV_FAIL_RUN, "the sink logit is not finite");
    return weights(p, sink, s, logit, n, err);
}

int kv_softmax1(float *p, const float *s, int n, kv_error *err)
{
    return weights(p, NULL, s, 0, n, err);
}
