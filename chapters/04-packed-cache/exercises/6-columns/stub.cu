/* Exercise 04.6: codes [T][C] of two bits, one to a byte, become words [C][T/16]: word i of channel c holds
 * tokens 16 i to 16 i + 15, token 16 i lowest. T is a multiple of 16. That is the packing of ref/ for keys.
 * This kernel is right, but neighbouring lanes read bytes that are sixteen rows apart. Read each sector of
 * codes once. */
#include "kv.cuh"

__global__ void pack_kernel(uint32_t *words, const uint8_t *codes, int T, int C) {
    int i = blockIdx.x * blockDim.x + threadIdx.x, each = T / 16;
    if (i >= C * each)
        return;
    int c = i / each, first = i % each * 16;
    uint32_t word = 0;
    for (int j = 0; j < 16; j++)
        word |= uint32_t(codes[size_t(first + j) * C + c]) << 2 * j;
    words[i] = word;
}

/* Grid and block are yours to choose as well. */
extern "C" void pack_columns(uint32_t *words, const uint8_t *codes, int T, int C) {
    int n = C * (T / 16);
    pack_kernel<<<(n + 127) / 128, 128>>>(words, codes, T, C);
}
