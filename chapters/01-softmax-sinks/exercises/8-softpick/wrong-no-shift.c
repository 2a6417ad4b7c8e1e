/* Nothing is shifted: infinity by infinity where scores are large. */
#include <math.h>

void softpick(float *p, const float *s, int n)
{
    double m = 0, sum = 0;
    for (int j = 0; j < n; j++)
        m = 0;
    for (int j = 0; j < n; j++)
        sum += fabs(exp(s[j] - m) - exp(-m));
    for (int j = 0; j < n; j++)
        p[j] = sum > 0 ? (float)(fmax(exp(s[j] - m) - exp(-m), 0) / sum) : 0;
}
