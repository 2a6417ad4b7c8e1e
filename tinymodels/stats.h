/* Statistics: means with their errors, and how far to trust them. */
#ifndef TM_STATS_H
#define TM_STATS_H

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    double mean, error; /* error: standard error of the mean; 0 for n < 2 */
    int n;
} tm_mean;

/* Of x[n]; all zeros for n = 0. */
tm_mean tm_mean_of(const double *x, int n);

/* Of a[i] - b[i], i < n: two settings measured on the same windows. */
tm_mean tm_mean_paired(const double *a, const double *b, int n);

/* P(|t| <= x) of Student's distribution with df >= 1 degrees of freedom. */
double tm_t_within(double x, double df);

/* The x with tm_t_within(x, df) = level, 0 < level < 1: half the width of a two-sided interval, in
 * standard errors. df < 1: infinity. */
double tm_t_quantile(double level, double df);

#ifdef __cplusplus
}
#endif

#endif
