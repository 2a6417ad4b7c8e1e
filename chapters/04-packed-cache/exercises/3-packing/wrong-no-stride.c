/* Takes codes that are neighbours, whatever the stride. */
#include "kv.h"

int kv_packed_words(int n, int bits)
{
    return (n * bits + 31) / 32;
}

void kv_pack(uint32_t *words, const uint8_t *codes, int n, int stride, int bits)
{
    (void)stride;
    for (int w = 0; w < kv_packed_words(n, bits); w++)
        words[w] = 0;
    for (int at = 0; at < n * bits; at++)
        words[at / 32] |= (uint32_t)(codes[at / bits] >> at % bits & 1) << at % 32;
}

int kv_unpack(const uint32_t *words, int j, int bits)
{
    int code = 0;
    for (int k = 0; k < bits; k++) {
        int at = j * bits + k;
        code |= (int)(words[at / 32] >> at % 32 & 1) << k;
    }
    return code;
}
