/* The sign is not taken off. */
#include "kv.cuh"

enum { WARPS = 8, BLOCK = 32 * WARPS };

__global__ void update(float *out, const float *h, const float *add, int n, int C, int channel,
                       float threshold, int *passes) {
    int t = blockIdx.x * WARPS + threadIdx.x / 32;
    if (t >= n)
        return;
    for (int c = threadIdx.x % 32; c < C; c += 32) {
        size_t i = size_t(t) * C + c;
        float sum = h[i] + add[i];
        out[i] = sum;
        if (c == channel)
            passes[t] = sum >= threshold;
    }
}

__global__ void collect(int *position, int *count, const int *passes, int n) {
    __shared__ int part[WARPS];
    int found = 0;
    for (int base = 0; base < n; base += BLOCK) {
        int t = base + int(threadIdx.x), total;
        int mine = t < n && passes[t];
        int to = found + kv_block_scan<WARPS>(mine, part, total) - 1;
        if (mine)
            position[to] = t;
        found += total;
    }
    for (int i = found + int(threadIdx.x); i < n; i += BLOCK)
        position[i] = -1;
    if (threadIdx.x == 0)
        *count = found;
}

extern "C" void keep_above(int *position, int *count, float *out, const float *h, const float *add, int n,
                           int C, int channel, float threshold, int *work) {
    update<<<(n + WARPS - 1) / WARPS, BLOCK>>>(out, h, add, n, C, channel, threshold, work);
    collect<<<1, BLOCK>>>(position, count, work, n);
}
