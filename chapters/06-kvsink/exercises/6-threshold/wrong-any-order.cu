/* Tokens draw their places with an atomic, so they stand in the order in which warps came. */
#include "kv.cuh"

enum { WARPS = 8, BLOCK = 32 * WARPS };

__global__ void clear(int *position, int *count, int n) {
    int i = blockIdx.x * BLOCK + threadIdx.x;
    if (i < n)
        position[i] = -1;
    if (i == 0)
        *count = 0;
}

__global__ void update(int *position, int *count, float *out, const float *h, const float *add, int n,
                       int C, int channel, float threshold) {
    int t = blockIdx.x * WARPS + threadIdx.x / 32;
    if (t >= n)
        return;
    for (int c = threadIdx.x % 32; c < C; c += 32) {
        size_t i = size_t(t) * C + c;
        float sum = h[i] + add[i];
        out[i] = sum;
        if (c == channel && fabsf(sum) >= threshold)
            position[atomicAdd(count, 1)] = t;
    }
}

extern "C" void keep_above(int *position, int *count, float *out, const float *h, const float *add, int n,
                           int C, int channel, float threshold, int *work) {
    clear<<<(n + BLOCK - 1) / BLOCK, BLOCK>>>(position, count, n);
    update<<<(n + WARPS - 1) / WARPS, BLOCK>>>(position, count, out, h, add, n, C, channel, threshold);
}
