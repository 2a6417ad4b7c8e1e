/* Exercise 01.4: p[n] from the scores s[n] of the newest query, where n keys are there and the last one
 * is the query's own. It may look at the first `pinned` keys and at the last `window` keys only; the
 * others get 0, and those it may look at sum to one. window is at least 1. */
#include <math.h>

void window_softmax(float *p, const float *s, int n, int pinned, int window)
{
    (void)s, (void)pinned, (void)window; /* yours */
    for (int j = 0; j < n; j++)
        p[j] = 1.0f / (float)n;
}
