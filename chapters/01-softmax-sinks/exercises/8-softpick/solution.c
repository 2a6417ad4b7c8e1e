/* Exercise 01.8: numerator and denominator are both multiplied by exp(-m), the one included. m = 0 must
 * be allowed, or exp(-m) overflows when all scores are far below zero. The weights sum to P / (P + N), P
 * and N being what is above and below zero: a gate again, and one that can close for good, at P = 0. */
#include <math.h>

void softpick(float *p, const float *s, int n)
{
    double m = 0, sum = 0;
    for (int j = 0; j < n; j++)
        m = fmax(m, s[j]);
    for (int j = 0; j < n; j++)
        sum += fabs(exp(s[j] - m) - exp(-m));
    for (int j = 0; j < n; j++)
        p[j] = sum > 0 ? (float)(fmax(exp(s[j] - m) - exp(-m), 0) / sum) : 0;
}
