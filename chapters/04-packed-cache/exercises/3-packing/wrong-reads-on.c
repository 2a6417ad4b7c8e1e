/* Fetches two words for every code, also behind the end. */
#include "kv.h"

int kv_packed_words(int n, int bits)
{
    return (n * bits + 31) / 32;
}

void kv_pack(uint32_t *words, const uint8_t *codes, int n, int stride, int bits)
{
    for (int w = 0; w < kv_packed_words(n, bits); w++)
        words[w] = 0;
    for (int at = 0; at < n * bits; at++)
        words[at / 32] |= (uint32_t)(codes[at / bits * stride] >> at % bits & 1) << at % 32;
}

int kv_unpack(const uint32_t *words, int j, int bits)
{
    int at = j * bits;
    uint64_t two = words[at / 32] | (uint64_t)words[at / 32 + 1] << 32;
    return (int)(two >> at % 32 & ((1u << bits) - 1));
}
