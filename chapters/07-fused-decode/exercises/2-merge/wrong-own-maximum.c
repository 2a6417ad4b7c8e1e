/* Scales the other part to its own maximum, which may be the smaller one: the factor overflows. */
#include <math.h>

void merge(float *sum, float *max, float *weight, const float *other_sum, float other_max, float other_weight,
           int D)
{
    if (*weight == 0)
        *max = other_max;
    float g = other_weight > 0 ? expf(other_max - *max) : 0;
    *weight += g * other_weight;
    for (int c = 0; c < D; c++)
        sum[c] += g * other_sum[c];
}

void finish(float *out, const float *sum, float max, float weight, float sink, int D)
{
    float total = weight + expf(sink - max);
    for (int c = 0; c < D; c++)
        out[c] = total > 0 ? sum[c] / total : 0;
}
