/* KIVI's arithmetic: each rounding to binary16, checked where it shows. */
#include "check.h"

static float half(float x)
{
    return kv_half_to_float(kv_half_from_float(x));
}

Test(kivi, every_operation_is_rounded)
{
    uint64_t seed = 67;
    kv_format f, plain;
    int other = 0;
    kv_format_parse(&f, "4:token:all:kivi", NULL);
    kv_format_parse(&plain, "4:token:all", NULL);
    for (int i = 0; i < CHECK_SIZES; i++)
        for (int round = 0; round < 20; round++) {
            int n = check_sizes[i];
            float x[129], lo = INFINITY, hi = -INFINITY;
            uint8_t codes[129], codes_plain[129];
            uint16_t s, m, s_plain, m_plain;
            check_fill(x, (size_t)n, &seed);
            for (int j = 0; j < n; j++) {
                x[j] = half(3 * x[j]);
                lo = fminf(lo, x[j]);
                hi = fmaxf(hi, x[j]);
            }
            cr_assert_eq(kv_quantize_group(codes, &s, &m, x, NULL, n, 1, &f, NULL), KV_OK);
            cr_expect_eq(kv_half_to_float(s), half(half(hi - lo) / 15));
            cr_expect_eq(kv_half_to_float(m), lo);
            kv_quantize_group(codes_plain, &s_plain, &m_plain, x, NULL, n, 1, &plain, NULL);
            other += memcmp(codes, codes_plain, (size_t)n) != 0;
            for (int j = 0; j < n; j++) {
                float y = kv_dequantize(codes[j], s, m, &f);
                cr_expect_eq(y, half(y), "what comes back is binary16");
                cr_expect_eq(y, half(half(codes[j] * kv_half_to_float(s)) + lo));
            }
        }
    cr_expect_gt(other, 0, "the codes differ now and then from those of float32");
}

Test(kivi, constant_groups_and_large_quotients)
{
    kv_format f;
    float x[3] = {0.3f, 0.3f, 0.3f};
    uint8_t codes[3];
    uint16_t s, m;
    kv_format_parse(&f, "2:token:all:kivi", NULL);
    cr_assert_eq(kv_quantize_group(codes, &s, &m, x, NULL, 3, 1, &f, NULL), KV_OK);
    cr_expect(s == 0 && codes[2] == 0 && kv_dequantize(0, s, m, &f) == half(0.3f));
    /* a kept element outside the range clamps when it is coded all the same; (x - m)/s would not
     * fit into binary16 */
    cr_expect_eq(kv_quantize_code(60000, kv_half_from_float(0x1p-10f), 0, &f), 3);
    cr_expect_eq(kv_quantize_code(-60000, kv_half_from_float(0x1p-10f), 0, &f), 0);
}

Test(kivi, ranges_that_binary16_cannot_hold)
{
    const float ends[][2] = {{60000, -60000}, {32752, -32752}};
    for (int i = 0; i < 2; i++) {
        kv_format f;
        kv_error e = {0};
        uint8_t codes[2];
        uint16_t s, m;
        kv_format_parse(&f, "2:token:all:kivi", NULL);
        cr_expect_eq(kv_quantize_group(codes, &s, &m, ends[i], NULL, 2, 1, &f, &e), KV_FAIL_RUN);
        cr_expect(strstr(e.text, "overflows"), "%s", e.text);
    }
}
