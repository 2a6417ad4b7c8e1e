//@ top: Turn scores into weights
/* Softmax must give all of its mass away: the weights sum to one whatever the
 * scores are. A head that has nothing to say for a token still has to put its
 * attention somewhere, and a sink is that somewhere. The variants here leave
 * a way out: an extra logit without a key, so that the visible weights may
 * sum to less than one. All of them are one function; plain softmax is the
 * one whose extra logit is minus infinity. */
#include <math.h>

#include "kv.h"

//@ core: Subtract the maximum, exponentiate, divide by the sum
/* exp overflows above 709, so the largest exponent must be 0. The extra
 * logit takes part in the maximum like any other score. */
static int softmax_with(float *p, float *rest, const float *s, double logit,
                        int n, kv_error *err)
{
    if (kv_check_finite(s, (size_t)n, "softmax scores", err))
        return KV_FAIL_RUN;
    double max = logit;
    for (int j = 0; j < n; j++)
        if (s[j] > max)
            max = s[j];
    double extra = isinf(logit) ? 0 : exp(logit - max);
    double sum = extra;
    for (int j = 0; j < n; j++)
        sum += exp(s[j] - max);
    for (int j = 0; j < n; j++)
        p[j] = (float)(exp(s[j] - max) / sum);
    if (rest)
        *rest = sum > 0 ? (float)(extra / sum) : 0;
    return KV_OK;
}

//@ plain: Give all of the mass to the keys
int kv_softmax(float *p, const float *s, int n, kv_error *err)
{
    return softmax_with(p, NULL, s, -INFINITY, n, err);
}

//@ sink-logit: Let a learned logit take what the keys do not need
int kv_softmax_sink(float *p, float *sink, const float *s, float logit, int n,
                    kv_error *err)
{
    if (!isfinite(logit))
        return kv_fail(err, KV_FAIL_RUN, "softmax: the sink logit is not "
                       "finite");
    return softmax_with(p, sink, s, logit, n, err);
}

//@ softmax1: Add one to the denominator
/* exp(0) = 1 is the one: a key with score 0 and value 0 for every query. */
int kv_softmax1(float *p, const float *s, int n, kv_error *err)
{
    return softmax_with(p, NULL, s, 0, n, err);
}
