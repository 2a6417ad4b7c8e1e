/* A thread for each code, and all sixteen of a word add to it without an atomic. */
#include "kv.cuh"

__global__ void pack_kernel(uint32_t *words, const uint8_t *codes, int T, int C) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= T * C)
        return;
    int t = i / C, c = i % C, at = c * (T / 16) + t / 16;
    if (t % 16 == 0)
        words[at] = 0;
    words[at] |= uint32_t(codes[i]) << t % 16 * 2;
}

extern "C" void pack_columns(uint32_t *words, const uint8_t *codes, int T, int C) {
    pack_kernel<<<(T * C + 127) / 128, 128>>>(words, codes, T, C);
}
