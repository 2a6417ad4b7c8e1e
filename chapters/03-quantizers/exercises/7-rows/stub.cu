/* Exercise 03.7: each row of x [rows][n] is one group of four bits, asymmetric, as kv_quantize_group has
 * it: codes [rows][n] one a byte, scale and min [rows] as binary16. n is a multiple of 8 and at most 128.
 * This one reads each number twice, and its lanes lie n floats apart. Read each number once. */
#include "kv.cuh"

__global__ void rows_kernel(uint8_t *codes, uint16_t *scale, uint16_t *min, const float *x,
                            int rows, int n) {
    int row = blockIdx.x * blockDim.x + threadIdx.x;
    if (row >= rows)
        return;
    float lo = INFINITY, hi = -INFINITY;
    for (int c = 0; c < n; c++) {
        lo = fminf(lo, x[size_t(row) * n + c]);
        hi = fmaxf(hi, x[size_t(row) * n + c]);
    }
    __half half_s = __float2half_rn(__fdiv_rn(__fsub_rn(hi, lo), 15));
    __half half_m = __float2half_rn(lo);
    float s = __half2float(half_s), m = __half2float(half_m);
    for (int c = 0; c < n; c++) {
        float q = s == 0 ? 0 : rintf(__fdiv_rn(__fsub_rn(x[size_t(row) * n + c], m), s));
        codes[size_t(row) * n + c] = uint8_t(fminf(fmaxf(q, 0), 15));
    }
    scale[row] = __half_as_ushort(half_s);
    min[row] = __half_as_ushort(half_m);
}

/* Grid and block are yours to choose as well. */
extern "C" void quantize_rows(uint8_t *codes, uint16_t *scale, uint16_t *min, const float *x,
                              int rows, int n) {
    rows_kernel<<<(rows + 127) / 128, 128>>>(codes, scale, min, x, rows, n);
}
