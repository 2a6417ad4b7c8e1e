/* Exercise 06.3: the largest ratio of neighbours, in the upper half of the sorted list. */
#include <math.h>
#include <stdlib.h>

#include "kv.h"

static int falling(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x < y) - (x > y);
}

double kv_gap_threshold(float *a, size_t n)
{
    qsort(a, n, sizeof *a, falling);
    if (n == 1)
        return a[0] / 2;
    double floor = 1e-6 * a[0], most = 0, middle = 0;
    for (size_t i = 1; i <= n / 2; i++) {
        double upper = fmax(a[i - 1], floor), lower = fmax(a[i], floor);
        if (lower > 0 && upper > most * lower) {
            most = upper / lower;
            middle = sqrt(upper * lower);
        }
    }
    return middle;
}
