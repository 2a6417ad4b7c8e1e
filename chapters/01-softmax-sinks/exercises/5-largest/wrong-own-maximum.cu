/* Each lane uses the maximum that it has seen itself. */
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
    float most = max;
    sum = kv_warp_sum(sum * expf(max - most));
    if (lane == 0)
        largest[row] = 1 / sum;
}

extern "C" void largest_weight(float *largest, const float *s, int rows, int n) {
    largest_kernel<<<(rows + 3) / 4, 128>>>(largest, s, rows, n);
}
