/* Each lane uses the range that it has seen itself. */
#include "kv.cuh"

enum { EACH = 4 }; /* numbers a lane */

__global__ void rows_kernel(uint8_t *codes, uint16_t *scale, uint16_t *min, const float *x,
                            int rows, int n) {
    int lane = threadIdx.x % 32;
    int row = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    if (row >= rows)
        return;
    float v[EACH], lo = INFINITY, hi = -INFINITY;
#pragma unroll
    for (int i = 0; i < EACH; i++) {
        int c = lane + 32 * i;
        v[i] = c < n ? x[size_t(row) * n + c] : 0;
        lo = c < n ? fminf(lo, v[i]) : lo;
        hi = c < n ? fmaxf(hi, v[i]) : hi;
    }
    __half half_s = __float2half_rn(__fdiv_rn(__fsub_rn(hi, lo), 15));
    __half half_m = __float2half_rn(lo);
    float s = __half2float(half_s), m = __half2float(half_m);
#pragma unroll
    for (int i = 0; i < EACH; i++) {
        int c = lane + 32 * i;
        float q = s == 0 ? 0 : rintf(__fdiv_rn(__fsub_rn(v[i], m), s));
        if (c < n)
            codes[size_t(row) * n + c] = uint8_t(fminf(fmaxf(q, 0), 15));
    }
    if (lane == 0) {
        scale[row] = __half_as_ushort(half_s);
        min[row] = __half_as_ushort(half_m);
    }
}

extern "C" void quantize_rows(uint8_t *codes, uint16_t *scale, uint16_t *min, const float *x,
                              int rows, int n) {
    rows_kernel<<<(rows + 3) / 4, 128>>>(codes, scale, min, x, rows, n);
}
