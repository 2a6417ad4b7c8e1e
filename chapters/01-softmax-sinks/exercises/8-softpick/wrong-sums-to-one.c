/* The sum is over what is positive, so that the weights sum to one again: no way out. */
#include <math.h>

void softpick(float *p, const float *s, int n)
{
    double m = 0, sum = 0;
    for (int j = 0; j < n; j++)
        m = fmax(m, s[j]);
    for (int j = 0; j < n; j++)
        sum += fmax(exp(s[j] - m) - exp(-m), 0);
    for (int j = 0; j < n; j++)
        p[j] = sum > 0 ? (float)(fmax(exp(s[j] - m) - exp(-m), 0) / sum) : 0;
}
