/* The mean runs over all T queries, also over those before the key. */
#include "kv.h"

void kv_sink_alpha(double *alpha, const float *rows, int T)
{
    for (int k = 0; k < T; k++)
        alpha[k] = 0;
    for (int i = 0; i < T; i++)
        for (int k = 0; k <= i; k++)
            alpha[k] += rows[(size_t)i * (size_t)T + (size_t)k];
    for (int k = 0; k < T; k++)
        alpha[k] /= T;
}

void kv_sink_share(double *share, const double *alpha, int n, int T, double eps)
{
    for (int k = 0; k < T; k++) {
        int above = 0;
        for (int head = 0; head < n; head++)
            if (alpha[(size_t)head * (size_t)T + (size_t)k] > eps)
                above++;
        share[k] = n ? 100.0 * above / n : 0;
    }
}
