/* Means with errors, and Student's t against its printed tables and closed forms. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>

#include "check.h"
#include "stats.h"

Test(test_stats, means_and_their_errors)
{
    const double x[4] = {1, 2, 3, 6}, y[4] = {0, 2, 1, 5};
    tm_mean m = tm_mean_of(x, 4);
    cr_expect(m.mean == 3 && m.n == 4);
    cr_expect(epsilon_eq(dbl, m.error, sqrt((4 + 1 + 0 + 9) / 3.0 / 4), 1e-15));
    m = tm_mean_paired(x, y, 4); /* 1 0 2 1 */
    cr_expect(m.mean == 1);
    cr_expect(epsilon_eq(dbl, m.error, sqrt(2 / 3.0 / 4), 1e-15));
    m = tm_mean_of(x, 1);
    cr_expect(m.mean == 1 && m.error == 0);
    m = tm_mean_of(x, 0);
    cr_expect(m.mean == 0 && m.error == 0 && m.n == 0);
}

/* Two-sided 95 % and 99 %, to the three decimals that tables print. */
Test(test_stats, t_quantiles_are_those_of_the_tables)
{
    static const struct {
        double level;
        int df;
        double t;
    } table[] = {{0.95, 1, 12.706}, {0.95, 2, 4.303}, {0.95, 3, 3.182}, {0.95, 7, 2.365},
                 {0.95, 15, 2.131}, {0.95, 31, 2.040}, {0.95, 63, 1.998}, {0.95, 1000, 1.962},
                 {0.99, 1, 63.657}, {0.99, 31, 2.744}, {0.5, 10, 0.700}};
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        double t = tm_t_quantile(table[i].level, table[i].df);
        cr_expect(fabs(t - table[i].t) <= 0.0005 + 1e-9, "%g at %d: %.6f, table %.3f",
                  table[i].level, table[i].df, t, table[i].t);
        cr_expect(fabs(tm_t_within(t, table[i].df) - table[i].level) <= 1e-10);
    }
    cr_expect(isinf(tm_t_quantile(0.95, 0)));
}

/* One degree of freedom: P(|t| <= x) = 2/pi atan(x); two: x / sqrt(2 + x^2). */
Test(test_stats, t_has_its_closed_forms)
{
    for (double x = 0; x < 50; x += 0.37) {
        cr_expect(fabs(tm_t_within(x, 1) - 2 / acos(-1) * atan(x)) <= 1e-13, "%g", x);
        cr_expect(fabs(tm_t_within(x, 2) - x / sqrt(2 + x * x)) <= 1e-13, "%g", x);
    }
}
