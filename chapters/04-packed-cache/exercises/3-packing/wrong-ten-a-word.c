/* No code lies in two words: ten of three bits go into one, and two bits stay empty. */
#include "kv.h"

int kv_packed_words(int n, int bits)
{
    int each = 32 / bits;
    return (n + each - 1) / each;
}

void kv_pack(uint32_t *words, const uint8_t *codes, int n, int stride, int bits)
{
    int each = 32 / bits;
    for (int w = 0; w < kv_packed_words(n, bits); w++)
        words[w] = 0;
    for (int j = 0; j < n; j++)
        words[j / each] |= (uint32_t)codes[j * stride] << j % each * bits;
}

int kv_unpack(const uint32_t *words, int j, int bits)
{
    int each = 32 / bits;
    return (int)(words[j / each] >> j % each * bits & ((1u << bits) - 1));
}
