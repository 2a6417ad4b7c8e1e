/* What every suite needs: seeded numbers, inputs like those that quantizers meet in practice, and
 * comparisons that NaN cannot pass. */
#ifndef TESTS_CHECK_H
#define TESTS_CHECK_H

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kv.h"

/* The awkward sizes: one, around a word and a warp, a prime, one above a block. */
static const int check_sizes[] = {1, 2, 31, 32, 33, 37, 64, 129};
#define CHECK_SIZES ((int)(sizeof check_sizes / sizeof *check_sizes))

/* splitmix64: every failure can be replayed from its seed. */
static inline uint64_t check_next(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static inline double check_uniform(uint64_t *state) /* [-1, 1) */
{
    return (double)(check_next(state) >> 11) * 0x1p-52 - 1;
}

static inline int check_below(uint64_t *state, int n)
{
    return (int)(check_next(state) % (uint64_t)n);
}

/* Roughly normal numbers of unit size. */
static inline void check_fill(float *x, size_t n, uint64_t *state)
{
    for (size_t i = 0; i < n; i++) {
        double sum = 0;
        for (int j = 0; j < 4; j++)
            sum += check_uniform(state);
        x[i] = (float)(sum * 0.87);
    }
}

/* Keys or values [T][row] with one outlier channel and one sink row in the middle whose entries lie
 * far outside the range of the others: what a quantizer test must have to mean anything. */
static inline int check_keys(float *x, int T, int row, uint64_t *state)
{
    int sink = T / 2;
    check_fill(x, (size_t)T * (size_t)row, state);
    for (int t = 0; t < T; t++)
        x[(size_t)t * row + row / 3] *= 20;
    for (int i = 0; i < row; i++)
        x[(size_t)sink * row + i] = (i % 2 ? -9.0f : 11.0f) + (float)i / 64;
    return sink;
}

static inline float *check_floats(size_t n)
{
    float *x = calloc(n ? n : 1, sizeof *x);
    cr_assert_not_null(x);
    return x;
}

/* Largest |a - b|; NaN anywhere gives infinity, so that "diff <= tol" fails. */
static inline double check_diff(const float *a, const float *b, size_t n)
{
    double most = 0;
    for (size_t i = 0; i < n; i++) {
        double d = fabs((double)a[i] - b[i]);
        if (!(d <= most))
            most = isnan(d) ? INFINITY : d;
    }
    return most;
}


static inline int check_same(const float *a, const float *b, size_t n)
{
    return memcmp(a, b, n * sizeof *a) == 0;
}

#endif
