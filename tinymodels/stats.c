/* Means, errors, Student's t. The distribution comes from the regularized incomplete beta function,
 *
 *     P(|t| <= x) = 1 - I_y(df/2, 1/2),   y = df / (df + x^2),
 *
 * which is a continued fraction (Abramowitz and Stegun 26.5.8, summed by Lentz's method); the
 * quantile is found by halving an interval, which needs no derivative and cannot fail. */
#include "stats.h"

#include <math.h>
#include <stddef.h>

tm_mean tm_mean_paired(const double *a, const double *b, int n)
{
    tm_mean m = {0, 0, n};
    double square = 0;
    for (int i = 0; i < n; i++) m.mean += a[i] - (b ? b[i] : 0);
    if (n > 0) m.mean /= n;
    for (int i = 0; i < n; i++) {
        double d = a[i] - (b ? b[i] : 0) - m.mean;
        square += d * d;
    }
    if (n > 1) m.error = sqrt(square / (n - 1) / n);
    return m;
}

tm_mean tm_mean_of(const double *x, int n)
{
    return tm_mean_paired(x, NULL, n);
}

/* The continued fraction of I_x(a, b); converges fast for x < (a + 1)/(a + b + 2). */
static double fraction(double x, double a, double b)
{
    const double tiny = 1e-300;
    double c = 1, d = 1 - (a + b) * x / (a + 1);
    if (fabs(d) < tiny) d = tiny;
    d = 1 / d;
    double f = d;
    for (int m = 1; m < 1000; m++) {
        double even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m));
        double odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1));
        for (int i = 0; i < 2; i++) {
            double term = i ? odd : even;
            d = 1 + term * d;
            c = 1 + term / c;
            if (fabs(d) < tiny) d = tiny;
            if (fabs(c) < tiny) c = tiny;
            d = 1 / d;
            f *= c * d;
        }
        if (fabs(c * d - 1) < 1e-15) break;
    }
    return f;
}

/* y = 1 - x is given apart, because x may be so near 1 that the difference would be lost. */
static double incomplete_beta(double x, double y, double a, double b)
{
    if (x <= 0) return 0;
    if (y <= 0) return 1;
    double front = exp(lgamma(a + b) - lgamma(a) - lgamma(b) + a * log(x) + b * log(y));
    if (x < (a + 1) / (a + b + 2)) return front * fraction(x, a, b) / a;
    return 1 - front * fraction(y, b, a) / b;
}

double tm_t_within(double x, double df)
{
    double all = df + x * x;
    return incomplete_beta(x * x / all, df / all, 0.5, df / 2);
}

double tm_t_quantile(double level, double df)
{
    if (!(df >= 1)) return INFINITY;
    double low = 0, high = 1;
    while (tm_t_within(high, df) < level && high < 1e12) high *= 2;
    for (int i = 0; i < 200 && high - low > 1e-13 * high; i++) {
        double middle = (low + high) / 2;
        if (tm_t_within(middle, df) < level) low = middle;
        else high = middle;
    }
    return (low + high) / 2;
}
