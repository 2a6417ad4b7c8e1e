//@ top: Measure attention sinks
/* How much attention does a key receive? The mean over the queries that can
 * see it, because a late key is seen by few. A key whose mean passes a
 * threshold eps in a head is a sink there (Gu et al., ICLR 2025). Whether it
 * is an idle place to park attention or a token that really is read shows in
 * its value: a void sink's value is nearly zero. */
#include <math.h>

#include "kv.h"

//@ alpha: Average the attention that each key receives
void kv_sink_alpha(double *alpha, const float *rows, int T)
{
    for (int k = 0; k < T; k++) {
        double sum = 0;
        for (int i = k; i < T; i++)
            sum += rows[(size_t)i * T + k];
        alpha[k] = sum / (T - k);
    }
}

//@ mass: Average the attention that a set of keys receives together
double kv_sink_mass(const float *rows, int T, const int *position, int n)
{
    double sum = 0;
    for (int i = 0; i < T; i++)
        for (int j = 0; j < n && position[j] <= i; j++)
            sum += rows[(size_t)i * T + position[j]];
    return T > 0 ? sum / T : 0;
}

//@ share: Count the heads in which a key is a sink
void kv_sink_share(double *share, const double *alpha, int n, int T,
                   double eps)
{
    for (int k = 0; k < T; k++) {
        int sinks = 0;
        for (int i = 0; i < n; i++)
            sinks += alpha[(size_t)i * T + k] > eps;
        share[k] = n > 0 ? 100.0 * sinks / n : 0;
    }
}

//@ norms: Compare lengths and directions
double kv_norm(const float *x, int n)
{
    return sqrt(kv_dot(x, x, n));
}

double kv_cosine(const float *a, const float *b, int n)
{
    double size = kv_norm(a, n) * kv_norm(b, n);
    return size > 0 ? kv_dot(a, b, n) / size : 0;
}

//@ classify: Ask the value what kind of sink it is
kv_sink_kind kv_sink_classify(double alpha, double eps, double value_norm,
                              double median_value_norm)
{
    if (!(alpha > eps))
        return KV_NOT_A_SINK;
    return value_norm < 0.5 * median_value_norm ? KV_VOID_SINK
                                                : KV_HEAVY_HITTER;
}
