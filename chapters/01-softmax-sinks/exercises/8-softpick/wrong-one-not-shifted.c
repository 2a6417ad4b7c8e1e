/* The scores are shifted and the one is not: then no weight is left at all. */
#include <math.h>

void softpick(float *p, const float *s, int n)
{
    double m = 0, sum = 0;
    for (int j = 0; j < n; j++)
        m = fmax(m, s[j]);
    for (int j = 0; j < n; j++)
        sum += fabs(exp(s[j] - m) - 1);
    for (int j = 0; j < n; j++)
        p[j] = sum > 0 ? (float)(fmax(exp(s[j] - m) - 1, 0) / sum) : 0;
}
