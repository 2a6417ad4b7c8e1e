/* Neighbours first, but the results are sorted into a lower and an upper half, as in a wavelet. */
#include <math.h>

#include "kv.h"

void kv_hadamard(float *x, int heads, int D)
{
    float factor = (float)(1 / sqrt((double)D));
    for (int h = 0; h < heads; h++) {
        float *head = x + (size_t)h * (size_t)D;
        for (int length = D; length > 1; length /= 2)
            for (int first = 0; first < length; first += 2) {
                float sum = head[first] + head[first + 1], difference = head[first] - head[first + 1];
                head[first / 2] = sum;
                head[length / 2 + first / 2] = difference;
            }
        for (int i = 0; i < D; i++)
            head[i] *= factor;
    }
}
