/* The mean is taken over all places of the lanes, also those beyond the end of the row. */
#include "kv.cuh"

enum { MOST = 1024 / 32 };

__global__ void norm_kernel(float *y, const float *x, const float *gain, float eps, int rows, int C) {
    int row = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (row >= rows)
        return;
    x += size_t(row) * C;
    y += size_t(row) * C;
    float kept[MOST], square = 0;
#pragma unroll
    for (int i = 0; i < MOST; i++) {
        int c = lane + 32 * i;
        kept[i] = c < C ? x[c] : 0;
        square += kept[i] * kept[i];
    }
    square = kv_warp_sum(square);
    float scale = 1 / sqrtf(square / ((C + 31) / 32 * 32) + eps);
#pragma unroll
    for (int i = 0; i < MOST; i++) {
        int c = lane + 32 * i;
        if (c < C)
            y[c] = gain[c] * (kept[i] * scale);
    }
}

extern "C" void norm_rows(float *y, const float *x, const float *gain, float eps, int rows, int C) {
    norm_kernel<<<(rows + 3) / 4, 128>>>(y, x, gain, eps, rows, C);
}
