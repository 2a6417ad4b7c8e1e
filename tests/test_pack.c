/* Codes come back from the stream whatever the number of them, and touch no word beyond. */
#include "check.h"

Test(pack, round_trip_at_all_lengths)
{
    uint64_t seed = 8;
    int widths[4] = {2, 3, 4, 8};
    for (int w = 0; w < 4; w++)
        for (int n = 1; n <= 131; n++) {
            int bits = widths[w], words = kv_packed_words(n, bits);
            uint8_t codes[131 * 2];
            /* exactly as long as said: the address sanitizer sees one word too many */
            uint32_t *stream = malloc((size_t)words * sizeof *stream);
            for (int i = 0; i < 2 * n; i++)
                codes[i] = (uint8_t)check_below(&seed, 1 << bits);
            kv_pack(stream, codes, n, 2, bits); /* every other byte */
            for (int j = 0; j < n; j++)
                cr_assert_eq(kv_unpack(stream, j, bits), codes[2 * j], "%d bits, %d of %d", bits,
                             j, n);
            if (n * bits % 32)
                cr_assert_eq(stream[words - 1] >> n * bits % 32, 0u, "padding is zero");
            free(stream);
        }
}

Test(pack, three_bit_codes_straddle_words)
{
    uint8_t codes[11] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5};
    uint32_t stream[2];
    cr_assert_eq(kv_packed_words(11, 3), 2);
    kv_pack(stream, codes, 11, 1, 3);
    cr_expect_eq(stream[0], 1u << 30); /* 5 = 101: two bits in word 0 ... */
    cr_expect_eq(stream[1], 1u);       /* ... one in word 1 */
    cr_expect_eq(kv_packed_words(0, 3), 0);
}
