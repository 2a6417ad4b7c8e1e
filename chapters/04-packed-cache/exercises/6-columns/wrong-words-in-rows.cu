/* Stores words in the order of the threads, [T/16][C]. */
#include "kv.cuh"

__global__ void pack_kernel(uint32_t *words, const uint8_t *codes, int T, int C) {
    int i = blockIdx.x * blockDim.x + threadIdx.x, each = T / 16;
    if (i >= C * each)
        return;
    int c = i % C, first = i / C * 16;
    uint32_t word = 0;
    for (int j = 0; j < 16; j++)
        word |= uint32_t(codes[size_t(first + j) * C + c]) << 2 * j;
    words[i] = word;
}

extern "C" void pack_columns(uint32_t *words, const uint8_t *codes, int T, int C) {
    int n = C * (T / 16);
    pack_kernel<<<(n + 127) / 128, 128>>>(words, codes, T, C);
}
