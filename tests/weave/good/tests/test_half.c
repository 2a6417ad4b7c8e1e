#include "half.h"

/* Two halves make a whole. */
Test(half, halves)
{
    float x[2] = { 2, 4 };
    halve(x, 2);
    cr_assert(sum(x, 2) == 3);
}

Test(half, nothing)
{
    halve(0, 0);
}
