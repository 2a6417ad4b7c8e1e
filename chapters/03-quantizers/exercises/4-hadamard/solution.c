/* Exercise 03.4: from the largest distance to the smallest; the rounds commute. */
#include <math.h>

#include "kv.h"

void kv_hadamard(float *x, int heads, int D)
{
    float factor = (float)(1 / sqrt((double)D));
    for (int h = 0; h < heads; h++) {
        float *head = x + (size_t)h * (size_t)D;
        for (int apart = D / 2; apart > 0; apart /= 2)
            for (int first = 0; first < D; first += 2 * apart)
                for (int i = first; i < first + apart; i++) {
                    float sum = head[i] + head[i + apart], difference = head[i] - head[i + apart];
                    head[i] = sum;
                    head[i + apart] = difference;
                }
        for (int i = 0; i < D; i++)
            head[i] *= factor;
    }
}
