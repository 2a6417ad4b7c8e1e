/* llama.cpp's blocks: what comes back, ties, and the bytes. */
#include "check.h"

static const char *const names[5] = {"q4_0", "q4_1", "q5_0", "q5_1", "q8_0"};

Test(blocks, bytes_hold_what_was_packed)
{
    static const int bytes[5] = {18, 20, 22, 24, 34}, scales[5] = {2, 4, 2, 4, 2};
    uint64_t seed = 65;
    for (int k = 0; k < 5; k++) {
        kv_format f;
        kv_format_parse(&f, names[k], NULL);
        cr_expect_eq(kv_block_bytes(f.kind), bytes[k]);
        cr_expect_eq(kv_block_scale_bytes(f.kind), scales[k]);
        uint8_t codes[32], block[35];
        uint16_t d, m, low = scales[k] == 4 ? 0xbeef : 0;
        for (int round = 0; round < 50; round++) {
            for (int j = 0; j < 32; j++)
                codes[j] = (uint8_t)check_below(&seed, 1 << f.bits);
            block[bytes[k]] = 0x5a;
            kv_block_pack(block, codes, 0x1234, low, f.kind);
            cr_expect_eq(block[bytes[k]], 0x5a);
            for (int j = 0; j < 32; j++)
                cr_expect_eq(kv_block_code(block, j, f.kind), codes[j], "%s %d", names[k], j);
            kv_block_scale(&d, &m, block, f.kind);
            cr_expect(d == 0x1234 && m == low);
            cr_expect(block[0] == 0x34 && block[1] == 0x12, "little-endian");
        }
    }
}

Test(blocks, elements_lie_where_llama_cpp_has_them)
{
    uint8_t codes[32] = {0}, block[34];
    codes[3] = 0x1d;
    codes[19] = 0x1b;
    kv_block_pack(block, codes, 0, 0, KV_Q5_1);
    cr_expect_eq(block[8 + 3], 0xbd, "low nibble: element 3, high nibble: element 19");
    cr_expect_eq(block[4], 1 << 3);
    cr_expect_eq(block[6], 1 << 3, "bit 19 of the fifth bits");
    codes[3] = 128 - 5;
    kv_block_pack(block, codes, 0, 0, KV_Q8_0);
    cr_expect_eq((int8_t)block[2 + 3], -5);
}

Test(blocks, the_largest_number_is_met_and_ties_round_up)
{
    float x[32] = {0};
    uint8_t codes[32] = {0};
    uint16_t d, m;
    x[5] = -8; /* d = 1 */
    x[6] = 0.5f;
    x[7] = -0.5f;
    x[8] = 7.9f;
    kv_block_quantize(codes, &d, &m, x, KV_Q4_0);
    cr_expect(kv_half_to_float(d) == 1 && m == 0);
    cr_expect(codes[0] == 8 && codes[5] == 0 && codes[6] == 9 && codes[7] == 8 && codes[8] == 15);
    x[5] = 8; /* d = -1: everything is the other way round */
    memset(codes, 0, sizeof codes);
    kv_block_quantize(codes, &d, &m, x, KV_Q4_0);
    cr_expect(kv_half_to_float(d) == -1 && codes[5] == 0 && codes[6] == 8 && codes[7] == 9);
    float y[32] = {127, 2.5f, -2.5f, 0.5f, -0.5f};
    memset(codes, 0, sizeof codes);
    kv_block_quantize(codes, &d, &m, y, KV_Q8_0);
    cr_expect(codes[0] == 255 && codes[1] == 131 && codes[2] == 125 && codes[3] == 129 &&
              codes[4] == 127, "half away from zero");
}

Test(blocks, empty_tiny_and_kept_blocks)
{
    for (int k = 0; k < 5; k++) {
        kv_format f;
        float x[32] = {0};
        uint8_t codes[32], kept[32];
        uint16_t d, m;
        kv_format_parse(&f, names[k], NULL);
        cr_assert_eq(kv_quantize_group(codes, &d, &m, x, NULL, 32, 1, &f, NULL), KV_OK);
        cr_expect(kv_dequantize(codes[9], d, m, &f) == 0, "%s", names[k]);
        x[9] = 1e-42f; /* 1/d would be infinite */
        cr_assert_eq(kv_quantize_group(codes, &d, &m, x, NULL, 32, 1, &f, NULL), KV_OK);
        cr_expect(kv_dequantize(codes[9], d, m, &f) == 0, "%s", names[k]);
        memset(kept, 1, sizeof kept);
        x[9] = 100;
        cr_assert_eq(kv_quantize_group(codes, &d, &m, x, kept, 32, 1, &f, NULL), KV_OK);
        cr_expect(d == 0 && m == 0 && codes[9] == 0, "%s", names[k]);
        x[9] = NAN;
        cr_expect_eq(kv_quantize_group(codes, &d, &m, x, NULL, 32, 1, &f, NULL), KV_FAIL_RUN);
    }
}

/* At most half a step (q8_0 and the ends of the signed ones included: their last level is one step
 * short of the range), plus what rounding d and m to binary16 costs. */
Test(blocks, error_is_at_most_half_a_step)
{
    uint64_t seed = 66;
    for (int k = 0; k < 5; k++)
        for (int round = 0; round < 200; round++) {
            kv_format f;
            float x[32];
            uint8_t codes[32];
            uint16_t d, m;
            kv_format_parse(&f, names[k], NULL);
            check_fill(x, 32, &seed);
            cr_assert_eq(kv_quantize_group(codes, &d, &m, x, NULL, 32, 1, &f, NULL), KV_OK);
            double step = fabs((double)kv_half_to_float(d)), low = kv_half_to_float(m);
            double most = step * (kv_format_has_min(&f) || f.kind == KV_Q8_0 ? 0.5 : 1) +
                          (1 << f.bits) * step * 0x1p-11 + fabs(low) * 0x1p-11;
            for (int j = 0; j < 32; j++) {
                double err = fabs((double)kv_dequantize(codes[j], d, m, &f) - x[j]);
                cr_assert(err <= most, "%s: %g > %g", names[k], err, most);
            }
        }
}
