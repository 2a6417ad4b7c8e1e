/* Exercise 07.2: both are scaled to the larger maximum. Who has no weight has no maximum either, and
 * must not be asked: the difference of two infinities is no number. */
#include <math.h>

static float factor(float max, float weight, float most)
{
    return weight > 0 ? expf(max - most) : 0;
}

void merge(float *sum, float *max, float *weight, const float *other_sum, float other_max, float other_weight,
           int D)
{
    float most = fmaxf(*max, other_max);
    float f = factor(*max, *weight, most), g = factor(other_max, other_weight, most);
    *max = most;
    *weight = f * *weight + g * other_weight;
    for (int c = 0; c < D; c++)
        sum[c] = f * sum[c] + g * other_sum[c];
}

void finish(float *out, const float *sum, float max, float weight, float sink, int D)
{
    float most = fmaxf(max, sink), f = factor(max, weight, most);
    float total = f * weight + (sink > -INFINITY ? expf(sink - most) : 0);
    for (int c = 0; c < D; c++)
        out[c] = total > 0 ? f * sum[c] / total : 0;
}
