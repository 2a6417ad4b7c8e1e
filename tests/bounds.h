/* How far one way of computing a matrix product or attention in float32 may be from another.
 *
 * u = 2^-24 is the largest relative error of one float32 operation, g(n) = n u / (1 - n u) that of
 * n of them in a row (Higham, Accuracy and Stability of Numerical Algorithms, lemma 3.1). A sum of
 * n products in any order, with or without fused operations, is off by at most
 * g(n) times the sum of the products' magnitudes; the scalar backend adds in double and rounds
 * once, which is one u more.
 *
 * Codes that are summed up before scale s and minimum m are applied give sum a s code + sum a m:
 * the magnitudes to which errors are relative are then those of a s code and a m, which may be
 * larger than that of the number they make. k_size and v_size hold |s code| + |m|. The judge rounds
 * s code + m itself, and five more roundings are on the way.
 *
 * Attention: a score is off by e <= g(D + 3) max sum |q k| / sqrt(D) (products, scaling, the
 * judge's own rounding), and subtracting the maximum rounds by u S more, S the largest |score|.
 * Both the weight itself and the sum that divides it feel that, so a weight is off by a factor
 * within exp(+-2(e + u S)); exp itself is good to 2 units in the last place (4 u), the sum over T
 * to g(T), the rest to a few u. Where tokens are summed up in spans, each against its own maximum,
 * both differences that then make up the exponent are at most S in sum, and there is one more
 * exponential. An output is then off by that and another g(T), relative to
 * sum p |v|. */
#ifndef TESTS_BOUNDS_H
#define TESTS_BOUNDS_H

#include "check.h"

static const double u = 0x1p-24;

static inline double g(double n)
{
    return n * u / (1 - n * u);
}

/* Attention of n queries behind `past` tokens: inputs, and room for results. */
typedef struct {
    kv_shape s;
    int past, n;
    float *q, *k, *v, *out, *rows, *sink;
    float *k_size, *v_size; /* or NULL: |k|, |v| */
} problem;

/* Numbers of one query and head that fall outside the bound. extra: what else a score may be off.
 * row: the judge's weights. */
static inline int outside(const problem *p, const float *out, const float *got_row,
                          const float *want, const float *row, int i, int h, double extra)
{
    kv_shape s = p->s;
    int D = s.head_size, step = s.kv_heads * D, kv = h / (s.heads / s.kv_heads) * D, bad = 0;
    int T = p->past + p->n, visible = p->past + i + 1;
    const float *q = p->q + (i * s.heads + h) * D;
    double e = 0, S = fabs(p->sink[h]), top = 0;
    for (int t = 0; t < visible; t++) {
        double dot = 0, size = 0;
        for (int d = 0; d < D; d++) {
            double product = (double)q[d] * p->k[t * step + kv + d];
            dot += product;
            size += p->k_size ? fabs((double)q[d]) * p->k_size[t * step + kv + d] : fabs(product);
        }
        e = fmax(e, g(D + 8) * size / sqrt(D));
        S = fmax(S, fabs(dot) / sqrt(D));
    }
    double weight = expm1(2 * (e + extra + 2 * u * S)) + g(T + 2) + 20 * u;
    for (int t = 0; got_row && t < T; t++)
        bad += !(fabs((double)got_row[t] - row[t]) <= weight * row[t] + 1e-37);
    for (int d = 0; d < D; d++) {
        double size = 0;
        for (int t = 0; t < visible; t++) {
            size += row[t] * fabs((p->v_size ? p->v_size : p->v)[t * step + kv + d]);
            top = fmax(top, fabs(p->v[t * step + kv + d]));
        }
        bad += !(fabs((double)out[d] - want[d]) <= (weight + g(T + 8)) * size + T * 1e-37 * top);
    }
    return bad;
}

#endif
