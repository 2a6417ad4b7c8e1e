/* Exercise 01.5: a warp for each row. A lane keeps the maximum of what it has seen and the sum of
 * exp(s - maximum); whenever the maximum grows, the sum is scaled down. In the end the lanes agree on
 * one maximum and scale once more. */
#include "kv.cuh"

__global__ void largest_kernel(float *largest, const float *s, int rows, int n) {
    int lane = threadIdx.x % 32;
    int row = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    if (row >= rows)
        return;
    float max = -INFINITY, sum = 0;
    for (int t = lane; t < n; t += 32) {
        float x = s[size_t(row) * n + t];
        if (x > max) {
            sum *= expf(max - x);
            max = x;
        }
        sum += expf(x - max);
    }
    float most = kv_warp_max(max);
    sum = kv_warp_sum(sum * expf(max - most));
    if (lane == 0)
        largest[row] = 1 / sum;
}

extern "C" void largest_weight(float *largest, const float *s, int rows, int n) {
    largest_kernel<<<(rows + 3) / 4, 128>>>(largest, s, rows, n);
}
