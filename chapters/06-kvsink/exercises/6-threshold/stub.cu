/* Exercise 06.6: kvsink:auto on the device. out[n][C] = h + add is the residual after a layer; position gets,
 * in ascending order, the tokens with |out[t][channel]| >= threshold, and -1 in the places behind them;
 * count[1] says how many there are. work[n] is yours to use.
 * This one is right, but it reads the channel again when all is written, a sector for each number, and
 * one thread does it. Read h and add once, and nothing else but what you wrote into work. */
#include "kv.cuh"

__global__ void update(float *out, const float *h, const float *add, size_t size) {
    size_t i = size_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i < size)
        out[i] = h[i] + add[i];
}

__global__ void collect(int *position, int *count, const float *out, int n, int C, int channel,
                        float threshold) {
    int found = 0;
    for (int t = 0; t < n; t++)
        if (fabsf(out[size_t(t) * C + channel]) >= threshold)
            position[found++] = t;
    *count = found;
    for (int t = found; t < n; t++)
        position[t] = -1;
}

extern "C" void keep_above(int *position, int *count, float *out, const float *h, const float *add, int n,
                           int C, int channel, float threshold, int *work) {
    size_t size = size_t(n) * C;
    update<<<unsigned((size + 255) / 256), 256>>>(out, h, add, size);
    collect<<<1, 1>>>(position, count, out, n, C, channel, threshold);
}
