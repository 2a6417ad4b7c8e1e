/* Right, and a warp for each row, but each row is read twice. */
#include "kv.cuh"

__global__ void largest_kernel(float *largest, const float *s, int rows, int n) {
    int lane = threadIdx.x % 32;
    int row = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    if (row >= rows)
        return;
    float max = -INFINITY, sum = 0;
    for (int t = lane; t < n; t += 32)
        max = fmaxf(max, s[size_t(row) * n + t]);
    max = kv_warp_max(max);
    for (int t = lane; t < n; t += 32)
        sum += expf(s[size_t(row) * n + t] - max);
    sum = kv_warp_sum(sum);
    if (lane == 0)
        largest[row] = 1 / sum;
}

extern "C" void largest_weight(float *largest, const float *s, int rows, int n) {
    largest_kernel<<<(rows + 3) / 4, 128>>>(largest, s, rows, n);
}
