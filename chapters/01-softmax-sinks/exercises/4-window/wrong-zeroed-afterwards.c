/* Softmax over all keys, of which some weights are then set to 0: the rest no longer sums to one. */
#include <math.h>

void window_softmax(float *p, const float *s, int n, int pinned, int window)
{
    double most = -INFINITY, sum = 0;
    for (int j = 0; j < n; j++)
        most = fmax(most, s[j]);
    for (int j = 0; j < n; j++)
        sum += exp(s[j] - most);
    for (int j = 0; j < n; j++)
        p[j] = j < pinned || j >= n - window ? (float)(exp(s[j] - most) / sum) : 0;
}
