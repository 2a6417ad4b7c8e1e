/* NF and E4M3: the level that is nearest, and what happens halfway and outside. */
#include "check.h"

Test(levels, every_nf_level_is_its_own_nearest)
{
    for (int bits = 2; bits <= 4; bits++)
        for (int code = 0; code < 1 << bits; code++) {
            float x = kv_nf_level(code, bits);
            cr_expect_eq(kv_nf_code(x, bits), code);
            cr_expect_eq(kv_nf_code(x + 0.01f, bits), code);
            cr_expect(code == 0 || x > kv_nf_level(code - 1, bits));
        }
    cr_expect_eq(kv_nf_code(-7, 4), 0);
    cr_expect_eq(kv_nf_code(7, 4), 15);
    cr_expect(kv_nf_level(kv_nf_code(0, 2), 2) == 0 && kv_nf_level(kv_nf_code(0, 3), 3) == 0 &&
              kv_nf_level(kv_nf_code(0, 4), 4) == 0);
    cr_expect_eq(kv_nf_code(-0.5f, 2), 0, "-1 and 0 are equally near: the lower code");
}

/* By looking at all levels, as the definition says: also where float32 cannot tell distances apart. */
Test(levels, the_nearest_of_all_levels)
{
    uint64_t seed = 71;
    for (int round = 0; round < 20000; round++) {
        int bits = 2 + round % 3, best = 0;
        float x = (float)check_uniform(&seed) * (round % 5 ? 1.2f : 1e9f);
        if (round % 7 == 0) { /* halfway, as near as float32 can have it */
            int i = check_below(&seed, (1 << bits) - 1);
            x = (kv_nf_level(i, bits) + kv_nf_level(i + 1, bits)) / 2;
            x = round % 2 ? x : nextafterf(x, round % 4 ? 2 : -2);
        }
        for (int code = 1; code < 1 << bits; code++)
            if (fabsf(x - kv_nf_level(code, bits)) < fabsf(x - kv_nf_level(best, bits)))
                best = code;
        cr_assert_eq(kv_nf_code(x, bits), best, "%d bits, %.9g", bits, x);
    }
}

Test(levels, every_8_bit_float_reads_back_as_itself)
{
    for (int code = 0; code < 256; code++) {
        float x = kv_e4m3_to_float((uint8_t)code);
        if ((code & 0x7f) == 0x7f)
            cr_expect(isnan(x));
        else
            cr_expect_eq(kv_e4m3_from_float(x), code, "%d", code);
    }
    cr_expect_eq(kv_e4m3_to_float(0x7e), KV_E4M3_MAX);
    cr_expect_eq(kv_e4m3_to_float(1), 0x1p-9f);
    cr_expect_eq(kv_e4m3_to_float(8), 0x1p-6f);
    cr_expect_eq(kv_e4m3_to_float(0x38), 1.0f);
}

/* Between two neighbours: the nearer one, and the even one halfway. */
Test(levels, an_8_bit_float_rounds_to_nearest_even)
{
    for (int code = 0; code < 0x7e; code++) {
        float a = kv_e4m3_to_float((uint8_t)code), b = kv_e4m3_to_float((uint8_t)(code + 1));
        float middle = (a + b) / 2; /* exact */
        cr_expect_eq(kv_e4m3_from_float(middle), code + (code & 1), "%d", code);
        cr_expect_eq(kv_e4m3_from_float(nextafterf(middle, 0)), code);
        cr_expect_eq(kv_e4m3_from_float(nextafterf(middle, 999)), code + 1);
        cr_expect_eq(kv_e4m3_from_float(-middle), (code + (code & 1)) | 0x80);
    }
    cr_expect_eq(kv_e4m3_from_float(1e30f), 0x7e);
    cr_expect_eq(kv_e4m3_from_float(-1e30f), 0xfe);
    cr_expect_eq(kv_e4m3_from_float(-0.0f), 0x80);
    cr_expect_eq(kv_e4m3_from_float(1e-30f), 0);
}

Test(levels, groups_span_their_largest_number)
{
    uint64_t seed = 64;
    static const char *const texts[] = {"nf2:token:all", "nf3:token:all", "nf4:token:all",
                                        "e4m3:token:all"};
    for (size_t k = 0; k < 4; k++)
        for (int i = 0; i < CHECK_SIZES; i++) {
            int n = check_sizes[i], at = n / 2;
            float x[129];
            uint8_t codes[129];
            uint16_t s, m = 7;
            kv_format f;
            kv_format_parse(&f, texts[k], NULL);
            check_fill(x, (size_t)n, &seed);
            x[at] = 8;
            cr_assert_eq(kv_quantize_group(codes, &s, &m, x, NULL, n, 1, &f, NULL), KV_OK);
            cr_expect_eq(m, 0, "no minimum");
            /* s is rounded to binary16, half an ulp; 8/448 is not a power of two */
            cr_expect_float_eq(kv_dequantize(codes[at], s, m, &f), 8, 8 * 0x1p-11, "%s", texts[k]);
            for (int j = 0; j < n; j++)
                x[j] = 0;
            cr_assert_eq(kv_quantize_group(codes, &s, &m, x, NULL, n, 1, &f, NULL), KV_OK);
            cr_expect(s == 0 && kv_dequantize(codes[0], s, m, &f) == 0, "%s", texts[k]);
        }
}
