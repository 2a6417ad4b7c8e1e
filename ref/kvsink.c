//@ top: Predict sinks before attention is computed
/* KVSink's observation: a token that later attracts attention carries a huge
 * value in one fixed channel of the residual stream, from the emergence layer
 * on. So the sinks can be read off H^l[:, c], one number per token, without
 * any attention matrix: take the k largest magnitudes.
 *
 * The paper takes one layer, one channel and a fixed k. Ours, and named so:
 * several stages, a threshold that finds as many sinks as there are, and a
 * rule for ties. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kv.h"

//@ order: Sort magnitudes, the largest first
static int descending(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x < y) - (x > y);
}

//@ top-k: Take the k largest magnitudes
/* In a prompt of one repeated token all values are equal but for rounding, and
 * rounding differs between machines. So values within one part in a thousand
 * of the k-th count as equal, and the lower positions win. */
int kv_top_magnitudes(int *position, const float *h, int T, int K,
                      float *scratch)
{
    if (K > T)
        K = T;
    if (K <= 0)
        return 0;
    for (int t = 0; t < T; t++)
        scratch[t] = fabsf(h[t]);
    qsort(scratch, (size_t)T, sizeof *scratch, descending);
    double kth = scratch[K - 1];
    int larger = 0, n = 0;
    for (int t = 0; t < T; t++)
        larger += fabsf(h[t]) > 1.001 * kth;
    int equals = K - larger;
    for (int t = 0; t < T; t++) {
        double a = fabsf(h[t]);
        if (a > 1.001 * kth)
            position[n++] = t;
        else if (equals > 0 && kth - a <= 0.001 * kth) {
            position[n++] = t;
            equals--;
        }
    }
    return n;
}

//@ threshold: Take every token that reaches the threshold
int kv_above_threshold(int *position, int *capped, const float *h, int T,
                       double threshold, float *scratch)
{
    int cap = T / 20 > 5 ? T / 20 : 5, n = 0;
    for (int t = 0; t < T; t++)
        n += fabsf(h[t]) >= threshold;
    *capped = n > cap;
    if (*capped)
        return kv_top_magnitudes(position, h, T, cap, scratch);
    n = 0;
    for (int t = 0; t < T; t++)
        if (fabsf(h[t]) >= threshold)
            position[n++] = t;
    return n;
}

//@ gap: Separate the sinks of one prompt at the widest gap
/* A value of nearly zero would make any gap the widest, hence the floor; and
 * tokens that are not sinks are the majority, hence the first half. */
double kv_gap_threshold(float *a, size_t n)
{
    qsort(a, n, sizeof *a, descending);
    if (n == 1)
        return a[0] / 2;
    double least = 1e-6 * a[0], best = 0, threshold = 0;
    for (size_t i = 1; i <= n / 2; i++) {
        double upper = a[i - 1] > least ? a[i - 1] : least;
        double lower = a[i] > least ? a[i] : least;
        if (lower > 0 && upper / lower > best) {
            best = upper / lower;
            threshold = sqrt(upper * lower);
        }
    }
    return threshold;
}

//@ threshold-median: Let the prompts agree on a threshold
static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double middle(const float *a, size_t n)
{
    if (n == 0)
        return 0;
    return n % 2 ? a[n / 2] : ((double)a[n / 2 - 1] + a[n / 2]) / 2;
}

void kv_stage_threshold(kv_stage *stage, double *per_prompt, int prompts,
                        float *pooled, size_t n)
{
    qsort(per_prompt, (size_t)prompts, sizeof *per_prompt, ascending);
    int half = prompts / 2;
    stage->threshold = prompts % 2 ? per_prompt[half]
                                   : sqrt(per_prompt[half - 1] *
                                          per_prompt[half]);
    qsort(pooled, n, sizeof *pooled, descending);
    size_t sinks = 0;
    while (sinks < n && pooled[sinks] >= stage->threshold)
        sinks++;
    stage->at_sinks = middle(pooled, sinks);
    stage->elsewhere = middle(pooled + sinks, n - sinks);
}

//@ ids-count: Count how often a token id is a sink
void kv_ids_count(int *seen, int *sunk, const int *tokens, const float *h,
                  int T, const kv_stage *stage, int n)
{
    for (int t = 1; t < T; t++) {
        int is_sink = 0;
        for (int s = 0; s < n; s++)
            is_sink |= fabsf(h[(size_t)s * (size_t)T + (size_t)t]) >=
                       stage[s].threshold;
        seen[tokens[t]]++;
        sunk[tokens[t]] += is_sink;
    }
}

//@ ids-learned: List the ids that are sinks at least every second time
int kv_ids_learned(int *ids, const int *seen, const int *sunk, int vocab)
{
    int n = 0;
    for (int id = 0; id < vocab; id++) {
        if (sunk[id] == 0 || 2 * sunk[id] < seen[id])
            continue;
        if (ids)
            ids[n] = id;
        n++;
    }
    return n;
}

//@ largest: Find the paper's single stage
int kv_profile_largest(const kv_profile *p)
{
    int best = -1;
    double most = 0;
    for (int i = 0; i < p->n_stages; i++) {
        double least = 1e-6 * p->stage[i].at_sinks;
        double low = p->stage[i].elsewhere > least ? p->stage[i].elsewhere
                                                   : least;
        double ratio = low > 0 ? p->stage[i].at_sinks / low : 0;
        if (best < 0 || ratio > most) {
            best = i;
            most = ratio;
        }
    }
    return best;
}

//@ limits: Find the ranges of a static format
int kv_profile_limits(kv_limits *limits, const kv_profile *p,
                      const kv_format *f, int is_values, kv_error *err)
{
    *limits = (kv_limits){NULL, NULL};
    if (!f->is_static)
        return KV_OK;
    if (!p || !p->range_row)
        return kv_fail(err, KV_FAIL_USAGE, "a static format needs the ranges "
                       "of each channel, and %s; run 'kvsink calibrate "
                       "--static' and name its output with --profile",
                       p ? "the profile has none" : "there is no profile");
    size_t n = (size_t)p->layers * (size_t)p->range_row;
    limits->lo = p->range + 2 * n * (is_values ? 2 : f->pre ? 1 : 0);
    limits->hi = limits->lo + n;
    return KV_OK;
}
