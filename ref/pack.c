//@ top: Put codes side by side
/* Two-bit codes stored in bytes would save nothing over eight bits. Packed,
 * code j of a group lies at bits [b*j, b*j+b) of a little-endian bit stream,
 * padded to whole 32-bit words. At 2, 4 and 8 bits a code never straddles two
 * words; at 3 bits codes 10 and 21 of every 32 do. */
#include <string.h>

#include "kv.h"

//@ words: Count the words of a group
int kv_packed_words(int n, int bits)
{
    return (int)(((long long)n * bits + 31) / 32);
}

//@ pack: Write the codes into the stream
void kv_pack(uint32_t *words, const uint8_t *codes, int n, int stride,
             int bits)
{
    memset(words, 0, (size_t)kv_packed_words(n, bits) * sizeof *words);
    for (int j = 0; j < n; j++) {
        size_t at = (size_t)j * bits;
        uint64_t code = codes[(size_t)j * stride];
        uint64_t shifted = code << at % 32; /* may reach into the next word */
        words[at / 32] |= (uint32_t)shifted;
        if (shifted >> 32)
            words[at / 32 + 1] |= (uint32_t)(shifted >> 32);
    }
}

//@ unpack: Read one code back
/* The second word is touched only when the code really reaches into it: the
 * last group of an array has no word after it. */
int kv_unpack(const uint32_t *words, int j, int bits)
{
    size_t at = (size_t)j * bits;
    int low = (int)(at % 32);
    uint64_t two = words[at / 32];
    if (low + bits > 32)
        two |= (uint64_t)words[at / 32 + 1] << 32;
    return (int)(two >> low & ((1u << bits) - 1));
}
