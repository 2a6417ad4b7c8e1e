/* The formula as it stands: exp overflows, or all of it vanishes. */
#include <math.h>

#include "kv.h"

static int weights(float *p, float *rest, const float *s, double out, int n, kv_error *err)
{
    double sum = out;
    if (kv_check_finite(s, (size_t)n, "softmax scores", err))
        return KV_FAIL_RUN;
    for (int j = 0; j < n; j++)
        sum += expf(s[j]);
    for (int j = 0; j < n; j++)
        p[j] = (float)(expf(s[j]) / sum);
    if (rest)
        *rest = (float)(out / sum);
    return KV_OK;
}

int kv_softmax(float *p, const float *s, int n, kv_error *err)
{
    return weights(p, NULL, s, 0, n, err);
}

int kv_softmax_sink(float *p, float *sink, const float *s, float logit, int n, kv_error *err)
{
    if (!isfinite(logit))
        return kv_fail(err, KV_FAIL_RUN, "the sink logit is not finite");
    return weights(p, sink, s, exp(logit), n, err);
}

int kv_softmax1(float *p, const float *s, int n, kv_error *err)
{
    return weights(p, NULL, s, 1, n, err);
}
