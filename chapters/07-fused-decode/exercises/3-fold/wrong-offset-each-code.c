/* Adds the offset once a code, not once a token. */
#include <stdint.h>

void fold_keys(float *folded, float *offset, const float *q, const float *scale, const float *low, int D)
{
    double sum = 0;
    for (int c = 0; c < D; c++) {
        folded[c] = q[c] * scale[c];
        sum += (double)q[c] * low[c];
    }
    *offset = (float)sum;
}

void score_keys(float *s, const float *folded, float offset, const uint8_t *codes, int T, int D)
{
    for (int t = 0; t < T; t++) {
        float sum = 0;
        for (int c = 0; c < D; c++)
            sum += folded[c] * codes[t * D + c] + offset;
        s[t] = sum;
    }
}

void fold_values(float *folded, float *offset, const float *p, const float *scale, const float *low, int T)
{
    fold_keys(folded, offset, p, scale, low, T);
}

void add_values(float *out, const float *folded, float offset, const uint8_t *codes, int T, int D)
{
    for (int c = 0; c < D; c++)
        out[c] += offset;
    for (int t = 0; t < T; t++)
        for (int c = 0; c < D; c++)
            out[c] += folded[t] * codes[t * D + c];
}
