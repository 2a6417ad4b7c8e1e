//@ top: Even out a row before it is quantized
/* Two ways to make numbers easier to quantize before any group sees them,
 * both undone when they are read:
 *
 *   had   multiply each head by an orthonormal Walsh-Hadamard matrix: every
 *         channel becomes a sum or difference of all, so that one outlier
 *         channel is spread evenly over the head. The matrix is its own
 *         inverse, and queries turned the same way give the same scores.
 *   norm  divide a token by its norm over all heads: sink tokens with small
 *         keys then use the levels of their group as well as the others. The
 *         norm is stored, 4 bytes a token.
 *
 * Source: QuaRot and llama.cpp (had), OScaR (norm). */
#include <math.h>

#include "kv.h"

//@ hadamard: Turn heads by additions and subtractions
/* The matrix in natural order is built from [1 1; 1 -1] log2(D) times over,
 * so its product takes D log2(D) steps. The factor 1/sqrt(D) comes last. */
void kv_hadamard(float *x, int heads, int D)
{
    float scale = (float)(1 / sqrt((double)D));
    for (int h = 0; h < heads; h++, x += D) {
        for (int apart = 1; apart < D; apart *= 2)
            for (int i = 0; i < D; i++)
                if (!(i & apart)) {
                    float a = x[i], b = x[i + apart];
                    x[i] = a + b;
                    x[i + apart] = a - b;
                }
        for (int i = 0; i < D; i++)
            x[i] *= scale;
    }
}

//@ token-norm: Measure a token over all its heads
float kv_token_norm(const float *x, int n)
{
    double sum = 0;
    for (int i = 0; i < n; i++)
        sum += (double)x[i] * x[i];
    return (float)sqrt(sum > 1e-8 ? sum : 1e-8);
}

//@ prepare: Do both to a row, in this order
void kv_row_prepare(float *x, float *norm, const kv_format *f, kv_shape s)
{
    int row = s.kv_heads * s.head_size;
    if (f->hadamard)
        kv_hadamard(x, s.kv_heads, s.head_size);
    if (!f->norm)
        return;
    *norm = kv_token_norm(x, row);
    for (int i = 0; i < row; i++)
        x[i] /= *norm;
}

//@ restore: Undo both, for some heads of a row
void kv_row_restore(float *x, float norm, const kv_format *f, int heads, int D)
{
    if (f->norm)
        for (int i = 0; i < heads * D; i++)
            x[i] *= norm;
    if (f->hadamard)
        kv_hadamard(x, heads, D);
}
