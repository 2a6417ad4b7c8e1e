/* Properties that hold for any group, and the traps: constant groups, kept tokens, what half cannot
 * hold. The exact codes are judged by the oracle's vectors in test_vectors.c. */
#include "check.h"

Test(quantize, the_grammar_reads_and_prints_itself)
{
    static const char *good[] = {"2:channel:128", "3:token:64", "4:channel:all", "8:token:all:sym",
                                 "2:channel:32:sym:pre", "2:channel:7:pre", "f16", "bf16", "f32",
                                 "f16:pre"};
    char text[48];
    kv_format f;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        cr_assert_eq(kv_format_parse(&f, good[i], NULL), KV_OK, "%s", good[i]);
        cr_expect_str_eq(kv_format_print(text, sizeof text, &f), good[i]);
    }
    static const char *bad[] = {"", "5:channel:32", "2", "2:", "2:row:32", "2:channel", "2:channel:",
                                "2:channel:0", "2:channel:-1", "2:channel:1x", "2:channel:32:",
                                "2:channel:32:sym:sym", "2:channel:32:foo", "f16:sym", "f17",
                                "2:channel:99999999999", " 2:channel:32", "2:channel:32 ",
                                "2::32", "16", "2:token:64:pre:pre"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        kv_error e = {0};
        cr_expect_eq(kv_format_parse(&f, bad[i], &e), KV_FAIL_USAGE, "'%s'", bad[i]);
        cr_expect(strstr(e.text, bad[i]), "the message quotes '%s': %s", bad[i], e.text);
    }
}

Test(quantize, a_format_must_fit_the_model)
{
    kv_format f;
    kv_error e;
    kv_shape s = {6, 3, 64};
    kv_format_parse(&f, "2:token:48", NULL);
    cr_expect_eq(kv_format_check(&f, s, 1, &e), KV_FAIL_USAGE);
    cr_expect(strstr(e.text, "head size 64"), "%s", e.text);
    kv_format_parse(&f, "2:token:128", NULL);
    cr_expect_eq(kv_format_check(&f, s, 1, NULL), KV_FAIL_USAGE);
    kv_format_parse(&f, "2:channel:48:pre", NULL);
    cr_expect_eq(kv_format_check(&f, s, 0, NULL), KV_OK);
    cr_expect_eq(kv_format_check(&f, s, 1, NULL), KV_FAIL_USAGE, "values are not rotated");
}

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
                cr_assert_eq(kv_quantize_group(codes, &s, &m, x, NULL, n, 1, bits, sym, NULL),
                             KV_OK);
                double step = kv_half_to_float(s), low = fabs((double)kv_half_to_float(m));
                double most = step / 2 + Q * step * 0x1p-11 + low * 0x1p-11 + 1e-6;
                if (sym) /* the positive end has one level less than the negative */
                    most += Q * step * 0x1p-11;
                for (int j = 0; j < n; j++) {
                    double err = fabs((double)kv_dequantize(codes[j], s, m, bits, sym) - x[j]);
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
    cr_assert_eq(kv_quantize_group(codes, &s, &m, x, NULL, 5, 1, 2, 0, NULL), KV_OK);
    cr_expect(s == 0 && codes[0] == 0);
    cr_expect_eq(kv_dequantize(0, s, m, 2, 0), kv_half_to_float(kv_half_from_float(0.1f)));
    float zero[2] = {0, -0.0f};
    cr_assert_eq(kv_quantize_group(codes, &s, &m, zero, NULL, 2, 1, 3, 1, NULL), KV_OK);
    cr_expect(s == 0 && codes[0] == 4, "symmetric zero is stored as 2^(b-1)");
    cr_expect_eq(kv_dequantize(codes[1], s, 0, 3, 1), 0.0f);
}

Test(quantize, a_kept_sink_leaves_its_neighbours_alone)
{
    uint64_t seed = 31;
    kv_shape s = {2, 2, 8};
    kv_format f;
    kv_format_parse(&f, "2:channel:32", NULL);
    for (int i = 0; i < CHECK_SIZES; i++) {
        int T = check_sizes[i], row = 16, n = T * row;
        float *x = check_floats((size_t)n), *y = check_floats((size_t)n);
        uint8_t *codes = calloc((size_t)n, 1), *kept = calloc((size_t)T, 1);
        size_t groups = kv_group_count(&f, s, T);
        uint16_t *scale = calloc(groups, 2), *min = calloc(groups, 2), *again = calloc(groups, 2);
        int sink = check_keys(x, T, row, &seed);
        kept[sink] = 1;
        cr_assert_eq(kv_quantize(codes, scale, min, y, x, kept, &f, s, T, NULL), KV_OK);
        for (int c = 0; c < row; c++) {
            size_t at = (size_t)sink * row + c;
            cr_expect(codes[at] == 0 && y[at] == kv_half_to_float(kv_half_from_float(x[at])));
            x[at] *= 100; /* whatever the sink holds, nobody else notices */
        }
        cr_assert_eq(kv_quantize(codes, again, min, y, x, kept, &f, s, T, NULL), KV_OK);
        cr_expect_eq(memcmp(scale, again, groups * 2), 0, "T = %d", T);
        kept[sink] = 0; /* in the statistics it shows */
        cr_assert_eq(kv_quantize(codes, again, min, y, x, kept, &f, s, T, NULL), KV_OK);
        cr_expect(T == 1 || memcmp(scale, again, groups * 2) != 0, "T = %d", T);
        free(x), free(y), free(codes), free(kept), free(scale), free(min), free(again);
    }
}

Test(quantize, refuses_what_half_cannot_hold)
{
    uint8_t codes[2], kept[2] = {0, 1};
    uint16_t s, m;
    float bad[4] = {65520, -65520, NAN, INFINITY};
    for (int i = 0; i < 4; i++)
        for (int sym = 0; sym < 2; sym++) {
            float x[2] = {1, bad[i]};
            kv_error e = {0};
            cr_expect_eq(kv_quantize_group(codes, &s, &m, x, NULL, 2, 1, 2, sym, &e), KV_FAIL_RUN);
            cr_expect_eq(kv_quantize_group(codes, &s, &m, x, kept, 2, 1, 2, sym, NULL),
                         KV_FAIL_RUN, "kept or not");
            cr_expect(strstr(e.text, "cannot quantize"), "%s", e.text);
        }
    float x[2] = {65519, -65519}; /* rounds to 65504: the widest legal group */
    cr_expect_eq(kv_quantize_group(codes, &s, &m, x, NULL, 2, 1, 2, 0, NULL), KV_OK);
}

Test(quantize, uncoded_formats_round_to_their_precision)
{
    kv_shape s = {1, 1, 2};
    kv_format f;
    float x[2] = {1 + 0x1p-12f, 1e5f}, y[2];
    kv_format_parse(&f, "f32", NULL);
    cr_assert_eq(kv_quantize(NULL, NULL, NULL, y, x, NULL, &f, s, 1, NULL), KV_OK);
    cr_expect(check_same(x, y, 2));
    kv_format_parse(&f, "bf16", NULL);
    cr_assert_eq(kv_quantize(NULL, NULL, NULL, y, x, NULL, &f, s, 1, NULL), KV_OK);
    cr_expect(y[0] == 1.0f && y[1] == 99840.0f);
    kv_format_parse(&f, "f16", NULL);
    cr_expect_eq(kv_quantize(NULL, NULL, NULL, y, x, NULL, &f, s, 1, NULL), KV_FAIL_RUN);
}

Test(quantize, groups_are_counted_by_axis)
{
    kv_shape s = {9, 3, 64};
    struct { const char *text; int T; size_t groups; } c[] = {
        {"2:channel:128", 512, 4 * 192}, {"2:channel:128", 513, 5 * 192}, {"2:channel:all", 513, 192},
        {"2:token:64", 7, 21}, {"2:token:32", 7, 42}, {"2:token:all", 7, 7}, {"f16", 7, 0},
        {"2:channel:128", 0, 0}};
    for (size_t i = 0; i < sizeof c / sizeof *c; i++) {
        kv_format f;
        kv_format_parse(&f, c[i].text, NULL);
        cr_expect_eq(kv_group_count(&f, s, c[i].T), c[i].groups, "%s", c[i].text);
    }
}
