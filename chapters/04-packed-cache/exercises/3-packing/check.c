#include "answer.h"
#include "kv.h"

/* One group: its codes lie `stride` apart; packed, and taken out again one by one. */
void answer(void)
{
    int all, bits = in_int("bits"), stride = in_int("stride");
    const uint8_t *codes = in_bytes("codes", &all);
    int n = (all + stride - 1) / stride, size = kv_packed_words(n, bits);
    out_int("size", size);
    uint32_t *words = out_words("words", size > 0 && size <= n ? size : 1);
    uint8_t *back = out_bytes("back", n);
    kv_pack(words, codes, n, stride, bits);
    for (int j = 0; j < n; j++)
        back[j] = (uint8_t)kv_unpack(words, j, bits);
}
