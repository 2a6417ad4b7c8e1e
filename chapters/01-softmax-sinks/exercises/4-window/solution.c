/* Exercise 01.4: keys outside are left out of the maximum and of the sum. */
#include <math.h>

static int seen(int j, int n, int pinned, int window)
{
    return j < pinned || j >= n - window;
}

void window_softmax(float *p, const float *s, int n, int pinned, int window)
{
    double most = -INFINITY, sum = 0;
    for (int j = 0; j < n; j++)
        if (seen(j, n, pinned, window))
            most = fmax(most, s[j]);
    for (int j = 0; j < n; j++)
        if (seen(j, n, pinned, window))
            sum += exp(s[j] - most);
    for (int j = 0; j < n; j++)
        p[j] = seen(j, n, pinned, window) ? (float)(exp(s[j] - most) / sum) : 0;
}
