/* An empty part is treated like any other: -INFINITY - -INFINITY is not a number. */
#include <math.h>

void merge(float *sum, float *max, float *weight, const float *other_sum, float other_max, float other_weight,
           int D)
{
    float most = fmaxf(*max, other_max);
    float f = expf(*max - most), g = expf(other_max - most);
    *max = most;
    *weight = f * *weight + g * other_weight;
    for (int c = 0; c < D; c++)
        sum[c] = f * sum[c] + g * other_sum[c];
}

void finish(float *out, const float *sum, float max, float weight, float sink, int D)
{
    float most = fmaxf(max, sink), f = expf(max - most);
    float total = f * weight + expf(sink - most);
    for (int c = 0; c < D; c++)
        out[c] = total > 0 ? f * sum[c] / total : 0;
}
