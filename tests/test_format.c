/* The texts of formats: what is read, what is printed, what is refused. */
#include "check.h"

Test(format, the_grammar_reads_and_prints_itself)
{
    static const char *good[] = {"2:channel:128", "3:token:64", "4:channel:all", "8:token:all:sym",
                                 "2:channel:32:sym:pre", "2:channel:7:pre", "f16", "bf16", "f32",
                                 "f16:pre", "nf2:token:16", "nf3:channel:all:pre:had:norm",
                                 "nf4:channel:32:static", "e4m3:token:64:had:norm", "q4_0",
                                 "q4_1:pre", "q5_0:had", "q5_1:pre:had", "q8_0",
                                 "2:channel:32:out0", "2:token:8:sym:had:norm:out0.125",
                                 "3:channel:1048576:sym:pre:had:norm:out49.999",
                                 "4:channel:32:sym:pre:static", "2:channel:32:pre:kivi", "2:token:all:out50"};
    char text[KV_FORMAT_TEXT];
    kv_format f;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        cr_assert_eq(kv_format_parse(&f, good[i], NULL), KV_OK, "%s", good[i]);
        cr_expect_str_eq(kv_format_print(text, sizeof text, &f), good[i]);
    }
    static const char *bad[] = {"", "5:channel:32", "2", "2:", "2:row:32", "2:channel", "2:channel:",
                                "2:channel:0", "2:channel:-1", "2:channel:1x", "2:channel:32:",
                                "2:channel:32:sym:sym", "2:channel:32:foo", "f16:sym", "f17",
                                "2:channel:99999999999", " 2:channel:32", "2:channel:32 ",
                                "2::32", "16", "2:token:64:pre:pre", "nf1:token:8", "nf4", "e4m3", "e5m2:token:8",
                                "q4_0:token:32", "q4_0:sym", "q8_0:norm", "q5_1:static", "q4_1:out1", "q4_0:kivi",
                                "f16:had", "f32:norm", "bf16:out1", "f16:static", "f16:kivi",
                                "nf4:token:8:sym", "nf4:token:8:out1", "e4m3:token:8:kivi",
                                "e4m3:token:8:out1", "2:token:8:kivi:had", "2:token:8:sym:kivi",
                                "2:token:8:kivi:norm", "2:token:8:static:kivi", "2:token:8:out1:kivi",
                                "2:token:8:static:had", "2:token:8:norm:static", "2:token:8:static:out1",
                                "2:token:8:out", "2:token:8:out51", "2:token:8:out50.001", "2:token:8:out1.",
                                "2:token:8:out.5", "2:token:8:out0.1234", "2:token:8:out-1",
                                "2:token:8:out1e1", "2:token:8:out1:out2", "2:token:8:out123456789"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        kv_error e = {0};
        cr_expect_eq(kv_format_parse(&f, bad[i], &e), KV_FAIL_USAGE, "'%s'", bad[i]);
        cr_expect(strstr(e.text, bad[i]), "the message quotes '%s': %s", bad[i], e.text);
    }
}

Test(format, flags_come_in_any_order)
{
    char text[KV_FORMAT_TEXT];
    kv_format f;
    cr_assert_eq(kv_format_parse(&f, "2:channel:32:out0.50:norm:pre:sym:had", NULL), KV_OK);
    cr_expect_str_eq(kv_format_print(text, sizeof text, &f), "2:channel:32:sym:pre:had:norm:out0.5");
    cr_expect_eq(f.outliers, 500);
    cr_assert_eq(kv_format_parse(&f, "2:channel:32:out0", NULL), KV_OK);
    cr_expect(f.sparse == 1 && f.outliers == 0);
}

Test(format, families)
{
    kv_format f;
    static const struct { const char *text; int coded, blocks, min; } c[] = {
        {"2:token:8", 1, 0, 1}, {"2:token:8:sym", 1, 0, 0}, {"nf4:token:8", 1, 0, 0},
        {"e4m3:token:8", 1, 0, 0}, {"q4_0", 1, 1, 0}, {"q4_1", 1, 1, 1}, {"q5_0", 1, 1, 0},
        {"q5_1", 1, 1, 1}, {"q8_0", 1, 1, 0}, {"f16", 0, 0, 0}, {"bf16", 0, 0, 0}, {"f32", 0, 0, 0}};
    for (size_t i = 0; i < sizeof c / sizeof *c; i++) {
        cr_assert_eq(kv_format_parse(&f, c[i].text, NULL), KV_OK);
        cr_expect_eq(kv_format_coded(&f), c[i].coded, "%s", c[i].text);
        cr_expect_eq(kv_format_blocks(&f), c[i].blocks, "%s", c[i].text);
        cr_expect_eq(kv_format_has_min(&f), c[i].min, "%s", c[i].text);
    }
}

Test(format, a_format_must_fit_the_model)
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
    kv_format_parse(&f, "2:token:16:had", NULL);
    cr_expect_eq(kv_format_check(&f, s, 1, NULL), KV_OK);
    cr_expect_eq(kv_format_check(&f, (kv_shape){6, 2, 48}, 1, &e), KV_FAIL_USAGE);
    cr_expect(strstr(e.text, "power of two"), "%s", e.text);
    kv_format_parse(&f, "q4_0", NULL);
    cr_expect_eq(kv_format_check(&f, (kv_shape){6, 2, 48}, 0, NULL), KV_OK, "a row of 96 has 3 blocks");
    cr_expect_eq(kv_format_check(&f, (kv_shape){6, 2, 8}, 0, &e), KV_FAIL_USAGE);
    cr_expect(strstr(e.text, "blocks of 32"), "%s", e.text);
    kv_format_parse(&f, "nf4:token:48", NULL);
    cr_expect_eq(kv_format_check(&f, s, 0, NULL), KV_FAIL_USAGE);
}
