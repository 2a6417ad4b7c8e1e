/* The inner loops of the fast backend, in one version per instruction set.
 *
 * kernels.inc holds the loops once; kernels.c compiles them for AVX-512, for AVX2 with FMA and for
 * whatever the compiler's default is (the only version on processors that are not x86), and
 * chooses at run time. The versions differ in the number of lanes that a sum is spread over and in
 * whether a product and a sum are rounded once or twice, so their results differ by rounding; each
 * version by itself gives the same bits whatever the number of threads and tasks. */
#ifndef TM_KERNELS_H
#define TM_KERNELS_H

#include <stddef.h>
#include <stdint.h>

typedef struct {
    const char *name; /* "avx512", "avx2", "plain" */

    /* y[i*ldy + r] = sum over c of x[i*cols + c] w[r*cols + c], for r < rows, i < n. Each sum is
     * made in the same order whatever rows and n are. */
    void (*gemv)(float *y, size_t ldy, const float *x, const float *w, int rows, int cols, int n);

    /* y = gate/(1+exp(-gate)) * up */
    void (*swiglu)(float *y, const float *gate, const float *up, size_t n);

    /* One row of kv_rmsnorm, the sum in float lanes. */
    void (*rmsnorm)(float *y, const float *x, const float *gain, double eps, int C);

    /* p = exp(p - m), m the largest of p[n] and *max; *max becomes m. Returns the sum of p. NaN
     * or infinity in p makes the sum NaN. */
    float (*exp_row)(float *p, float *max, int n);

    /* x *= a */
    void (*scale)(float *x, float a, size_t n);
} tm_kernels;

/* The best version that this processor runs, or the one named by the environment variable
 * KVSINK_SIMD (plain, avx2, avx512) if it runs here. */
const tm_kernels *tm_kernels_best(void);

/* Version i = 0, 1, ... from plain to best; NULL when there are no more that run here. */
const tm_kernels *tm_kernels_at(int i);

#endif
