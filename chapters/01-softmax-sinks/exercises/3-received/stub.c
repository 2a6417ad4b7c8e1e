/* Exercise 01.3: two functions of ref/sinks.c. rows is [T][T], row i of query i. */
#include "kv.h"

void kv_sink_alpha(double *alpha, const float *rows, int T)
{
    for (int k = 0; k < T; k++)
        alpha[k] = rows[k]; /* yours: this is what the first query gives */
}

void kv_sink_share(double *share, const double *alpha, int n, int T, double eps)
{
    (void)alpha, (void)n, (void)eps; /* yours */
    for (int k = 0; k < T; k++)
        share[k] = 0;
}
