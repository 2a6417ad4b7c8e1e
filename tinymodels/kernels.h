/* The inner loops of the fast backend, in one version per instruction set.
 *
 * kernels.inc, exact.inc and score.inc hold the loops once; kernels.c compiles them for AVX-512, for
 * AVX2 with FMA and for whatever the compiler's default is (the only version on processors that are
 * not x86), and chooses at run time. The versions of kernels.inc differ in the number of lanes that a
 * sum is spread over and in whether a product and a sum are rounded once or twice, so their results
 * differ by rounding; each version by itself gives the same bits whatever the number of threads
 * and tasks. Those of exact.inc and score.inc do not differ. */
#ifndef TM_KERNELS_H
#define TM_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#include "blocks.h"

typedef struct {
    const char *name; /* "avx512", "avx2", "plain" */

    /* y[i*ldy + r] = sum over c of x[i*cols + c] w[r*cols + c], for r < rows, i < n. Each sum is
     * made in the same order whatever rows and n are. */
    void (*gemv)(float *y, size_t ldy, const float *x, const float *w, int rows, int cols, int n);

    /* The same for one row x and weights in blocks as they lie in blocks.h, each row of w `blocks`
     * long; rows is a multiple of 4 or reaches to the end of w. y has the bits that
     * gemv gives on the float32 weights. NULL where shifting every lane by a distance of its own is
     * no single instruction and float32 is faster. */
    void (*gemv4)(float *y, const float *x, const tm_block4 *w, int rows, int blocks);
    void (*gemv8)(float *y, const float *x, const tm_block8 *w, int rows, int blocks);

    /* y = gate/(1+exp(-gate)) * up */
    void (*swiglu)(float *y, const float *gate, const float *up, size_t n);

    /* One row of kv_rmsnorm, the sum in float lanes. */
    void (*rmsnorm)(float *y, const float *x, const float *gain, double eps, int C);

    /* p = exp(p - m), m the largest of p[n] and *max; *max becomes m. Returns the sum of p. NaN
     * or infinity in p makes the sum NaN. */
    float (*exp_row)(float *p, float *max, int n);

    /* x *= a */
    void (*scale)(float *x, float a, size_t n);

    /* y[j] += sum over i < n of a[i] b[i*width + j], for j < width. */
    void (*gevm)(float *y, const float *a, const float *b, int n, int width);

    /* y[h*ldy + j] += sum over i < n of a[h*lda + i] code(i, j), for h < heads, j < width. Code j
     * of row i has 2, 3, 4 or 8 bits and lies behind at + i*stride bytes as kv_pack packs it.
     * width is a multiple of 16, at 8 bits of 64. At 3 bits one byte behind the codes may be read
     * (and not used). NULL as gemv4: unpack and use gevm. */
    void (*codes_gevm)(float *y, size_t ldy, const float *a, size_t lda, int heads,
                       const unsigned char *at, size_t stride, int bits, int n, int width);

    /* y = a * b */
    void (*times)(float *y, const float *a, const float *b, size_t n);

    /* Rotates n pairs: a, b = a cos - b sin, a sin + b cos. The pairs are `step` apart, their cos
     * and sin `turn`. */
    void (*rotate)(float *a, float *b, const float *cos, const float *sin, int step, int turn,
                   int n);

    /* The rest agrees with ref/ bit for bit in every version. */

    /* y = x rounded to binary16 and back, y may be x; returns 1 if some |x| >= 65520 or NaN. */
    int (*round_half)(float *y, const float *x, size_t n);
    /* y = the number that 16 bits stand for; half: finite ones. */
    void (*widen_half)(float *y, const uint16_t *h, size_t n);
    void (*widen_bf16)(float *y, const uint16_t *h, size_t n);
    /* lo, hi [width]: extremes over n rows that lie stride apart, kept ones left out (NULL: none
     * kept); all kept: 0. range: of one row of n >= 1. */
    void (*range_columns)(float *lo, float *hi, const float *x, const uint8_t *kept, size_t stride,
                          int n, int width);
    void (*range)(float *lo, float *hi, const float *x, int n);
    /* x = q*s + m with q = clamp(rne((x - m)/s), lowest, highest), 0 where s is 0. */
    void (*requantize)(float *x, const float *s, const float *m, float lowest, float highest,
                       int width);
    /* y[i] = (code - zero)*s + m of codes first..first+n-1 of a packed group. Writes up to n
     * rounded up to a multiple of 16. */
    void (*unpack)(float *y, const uint32_t *words, int first, int n, int bits, float s, float m,
                   int zero);

    /* Scores, in double; all versions give the same bits (score.inc). sum of exp(x[i] - top), for
     * x[i] - top <= 700; sum of p (log p - (x[i] - z)) with log p = x16[i] - z16; y = exp(x) for
     * |x| <= 700, within 1e-13; index of the largest (the first such), n >= 1. */
    double (*exp_sum)(const float *x, double top, int n);
    double (*kl_sum)(const float *x16, double z16, const float *x, double z, int n);
    void (*exp_double)(double *y, const double *x, int n);
    int (*largest)(const float *x, int n);
} tm_kernels;

/* The best version that this processor runs, or the one named by the environment variable
 * KVSINK_SIMD (plain, avx2, avx512) if it runs here. */
const tm_kernels *tm_kernels_best(void);

/* Version i = 0, 1, ... from plain to best; NULL when there are no more that run here. */
const tm_kernels *tm_kernels_at(int i);

#endif
