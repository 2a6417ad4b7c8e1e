/* Averages the workers' answers by their maxima and forgets how much weight each has. */
#include <math.h>

void merge(float *sum, float *max, float *weight, const float *other_sum, float other_max, float other_weight,
           int D)
{
    float most = fmaxf(*max, other_max);
    float f = *weight > 0 ? expf(*max - most) : 0, g = other_weight > 0 ? expf(other_max - most) : 0;
    for (int c = 0; c < D; c++) {
        float x = *weight > 0 ? sum[c] / *weight : 0, y = other_weight > 0 ? other_sum[c] / other_weight : 0;
        sum[c] = f * x + g * y;
    }
    *max = most;
    *weight = f + g;
}

void finish(float *out, const float *sum, float max, float weight, float sink, int D)
{
    float most = fmaxf(max, sink), f = weight > 0 ? expf(max - most) : 0;
    float total = f * weight + (sink > -INFINITY ? expf(sink - most) : 0);
    for (int c = 0; c < D; c++)
        out[c] = total > 0 ? f * sum[c] / total : 0;
}
