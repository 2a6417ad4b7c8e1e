/* Right, and a whole block collects, but the channel is read again from the residual. */
#include "kv.cuh"

enum { WARPS = 8, BLOCK = 32 * WARPS };

__global__ void update(float *out, const float *h, const float *add, size_t size) {
    size_t i = size_t(blockIdx.x) * BLOCK + threadIdx.x;
    if (i < size)
        out[i] = h[i] + add[i];
}

__global__ void collect(int *position, int *count, const float *out, int n, int C, int channel,
                        float threshold) {
    __shared__ int part[WARPS];
    int found = 0;
    for (int base = 0; base < n; base += BLOCK) {
        int t = base + int(threadIdx.x), total;
        int mine = t < n && fabsf(out[size_t(t) * C + channel]) >= threshold;
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
    size_t size = size_t(n) * C;
    update<<<unsigned((size + BLOCK - 1) / BLOCK), BLOCK>>>(out, h, add, size);
    collect<<<1, BLOCK>>>(position, count, out, n, C, channel, threshold);
}
