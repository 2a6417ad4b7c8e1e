//@ top: Halve numbers
/* A file for the weaver's own tests. */
#include "half.h"

//@ halve: Divide `n` numbers by two
void halve(float *x, int n)
{
    for (int i = 0; i < n; i++)
        x[i] = x[i] / 2; /* exact unless x is subnormal */
}

//@ sum: Add them up
double sum(const float *x, int n)
{
    double s = 0;
    for (int i = 0; i < n; i++)
        s += x[i];
    return s;
}
