/* Exercise 01.9: the lanes of a warp begin at the diagonal of the warp's first key and go down side by
 * side. They do not ask whether they can see yet: what they load too early is zero. */
#include "kv.cuh"

__global__ void received_kernel(double *alpha, const float *rows, int T) {
    int k = blockIdx.x * blockDim.x + threadIdx.x;
    if (k >= T)
        return;
    double sum = 0;
    for (int i = k / 32 * 32; i < T; i++)
        sum += rows[size_t(i) * T + k];
    alpha[k] = sum / (T - k);
}

extern "C" void received(double *alpha, const float *rows, int T) {
    received_kernel<<<(T + 127) / 128, 128>>>(alpha, rows, T);
}
