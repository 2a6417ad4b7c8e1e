/* Properties that hold for any group, and the traps: constant groups, kept tokens, what half cannot
 * hold. The exact codes are judged by the oracle's vectors in test_vectors.c. */
#include "check.h"

/* The error of one code is at most half a step, plus what rounding s and m to binary16 and the
 * clamp at the ends can cost: (2^b - 1) half-ulps of s and one of m. */
Test(quantize, error_is_at_most_half_a_step)
{
    uint64_t seed = 30;
    int widths[4] = {2, 3, 4, 8};
    for (int w = 0; w < 4; w++)
        for (int sym = 0; sym < 2; sym++)
            for (int i = 0; i < CHECK_SIZES; i++) {
                int n = check_sizes[i], bits = widths[w], Q = (1 << bits) - 1;
                float x[129];
                uint8_t codes[129];
                uint16_t s, m = 0;
                check_fill(x, (size_t)n, &seed);
                kv_format f = {.bits = bits, .symmetric = sym};
                cr_assert_eq(kv_quantize_group(codes, &s, &m, x, NULL, n, 1, &f, NULL), KV_OK);
                double step = kv_half_to_float(s), low = fabs((double)kv_half_to_float(m));
                double most = step / 2 + Q * step * 0x1p-11 + low * 0x1p-11 + 1e-6;
                if (sym) /* the positive end has one level less than the negative */
                    most += Q * step * 0x1p-11;
                for (int j = 0; j < n; j++) {
                    double err = fabs((double)kv_dequantize(codes[j], s, m, &f) - x[j]);
                    cr_assert(err <= most, "%d bits sym %d n %d: %g > %g", bits, sym, n, err,
                              most);
                }
            }
}

Test(quantize, constant_groups_come_back_exactly)
{
    float x[5] = {0.1f, 0.1f, 0.1f, 0.1f, 0.1f};
    uint8_t codes[5];
    uint16_t s, m;
    kv_format two = {.bits = 2}, three = {.bits = 3, .symmetric = 1};
    cr_assert_eq(kv_quantize_group(codes, &s, &m, x, NULL, 5, 1, &two, NULL), KV_OK);
    cr_expect(s == 0 && codes[0] == 0);
    cr_expect_eq(kv_dequantize(0, s, m, &two), kv_half_to_float(kv_half_from_float(0.1f)));
    float zero[2] = {0, -0.0f};
    cr_assert_eq(kv_quantize_group(codes, &s, &m, zero, NULL, 2, 1, &three, NULL), KV_OK);
    cr_expect(s == 0 && codes[0] == 4, "symmetric zero is stored as 2^(b-1)");
    cr_expect_eq(kv_dequantize(codes[1], s, 0, &three), 0.0f);
}

Test(quantize, refuses_what_half_cannot_hold)
{
    uint8_t codes[2], kept[2] = {0, 1};
    uint16_t s, m;
    float bad[4] = {65520, -65520, NAN, INFINITY};
    for (int i = 0; i < 4; i++)
        for (int sym = 0; sym < 2; sym++) {
            float x[2] = {1, bad[i]};
            kv_format f = {.bits = 2, .symmetric = sym};
            kv_error e = {0};
            cr_expect_eq(kv_quantize_group(codes, &s, &m, x, NULL, 2, 1, &f, &e), KV_FAIL_RUN);
            cr_expect_eq(kv_quantize_group(codes, &s, &m, x, kept, 2, 1, &f, NULL),
                         KV_FAIL_RUN, "kept or not");
            cr_expect(strstr(e.text, "cannot quantize"), "%s", e.text);
        }
    float x[2] = {65519, -65519}; /* rounds to 65504: the widest legal group */
    cr_expect_eq(kv_quantize_group(codes, &s, &m, x, NULL, 2, 1, &(kv_format){.bits = 2}, NULL),
                 KV_OK);
}
