/* Whole arrays: what the steps make together, and what being kept means. The exact codes are judged
 * by the oracle's vectors in test_vectors.c. */
#include "check_quantize.h"

Test(array, a_kept_sink_leaves_its_neighbours_alone)
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
        cr_assert_eq(check_quantize(codes, scale, min, y, x, kept, &f, s, T, NULL), KV_OK);
        for (int c = 0; c < row; c++) {
            size_t at = (size_t)sink * row + c;
            cr_expect(codes[at] == 0 && y[at] == kv_half_to_float(kv_half_from_float(x[at])));
            x[at] *= 100; /* whatever the sink holds, nobody else notices */
        }
        cr_assert_eq(check_quantize(codes, again, min, y, x, kept, &f, s, T, NULL), KV_OK);
        cr_expect_eq(memcmp(scale, again, groups * 2), 0, "T = %d", T);
        kept[sink] = 0; /* in the statistics it shows */
        cr_assert_eq(check_quantize(codes, again, min, y, x, kept, &f, s, T, NULL), KV_OK);
        cr_expect(T == 1 || memcmp(scale, again, groups * 2) != 0, "T = %d", T);
        free(x), free(y), free(codes), free(kept), free(scale), free(min), free(again);
    }
}

Test(array, uncoded_formats_round_to_their_precision)
{
    kv_shape s = {1, 1, 2};
    kv_format f;
    float x[2] = {1 + 0x1p-12f, 1e5f}, y[2];
    kv_format_parse(&f, "f32", NULL);
    cr_assert_eq(check_quantize(NULL, NULL, NULL, y, x, NULL, &f, s, 1, NULL), KV_OK);
    cr_expect(check_same(x, y, 2));
    kv_format_parse(&f, "bf16", NULL);
    cr_assert_eq(check_quantize(NULL, NULL, NULL, y, x, NULL, &f, s, 1, NULL), KV_OK);
    cr_expect(y[0] == 1.0f && y[1] == 99840.0f);
    kv_format_parse(&f, "f16", NULL);
    cr_expect_eq(check_quantize(NULL, NULL, NULL, y, x, NULL, &f, s, 1, NULL), KV_FAIL_RUN);
}

Test(array, groups_are_counted_by_axis)
{
    kv_shape s = {9, 3, 64};
    struct { const char *text; int T; size_t groups; } c[] = {
        {"2:channel:128", 512, 4 * 192}, {"2:channel:128", 513, 5 * 192}, {"2:channel:all", 513, 192},
        {"2:token:64", 7, 21}, {"2:token:32", 7, 42}, {"2:token:all", 7, 7}, {"f16", 7, 0},
        {"2:channel:128", 0, 0},
        {"q4_0", 7, 42}, {"nf4:token:all", 7, 7}, {"e4m3:channel:128", 129, 2 * 192}};
    for (size_t i = 0; i < sizeof c / sizeof *c; i++) {
        kv_format f;
        kv_format_parse(&f, c[i].text, NULL);
        cr_expect_eq(kv_group_count(&f, s, c[i].T), c[i].groups, "%s", c[i].text);
    }
}

/* Everything that quantizing an array gives, in one allocation each. */
typedef struct {
    uint8_t *codes;
    uint16_t *scale, *min;
    float *y, *norm;
    kv_entry *sparse;
} result;

static result run(const char *text, const float *x, const uint8_t *kept, kv_shape s, int T,
                  int is_values, kv_exclusion exclusion)
{
    size_t n = (size_t)T * (size_t)(s.kv_heads * s.head_size);
    kv_format f;
    kv_error e = {0};
    cr_assert_eq(kv_format_parse(&f, text, &e), KV_OK, "%s", e.text);
    f.exclusion = exclusion;
    cr_assert_eq(kv_format_check(&f, s, is_values, &e), KV_OK, "%s", e.text);
    result r = {calloc(n, 1), calloc(n, 2), calloc(n, 2), check_floats(n), check_floats((size_t)T),
                calloc(n, sizeof *r.sparse)};
    kv_quantized out = {r.codes, r.scale, r.min, r.y, r.norm, r.sparse};
    kv_rows in = {.x = x, .kept = kept, .shape = s, .T = T, .is_values = is_values};
    cr_assert_eq(kv_quantize(&out, &in, &f, &e), KV_OK, "%s: %s", text, e.text);
    return r;
}

static void drop(result *r)
{
    free(r->codes), free(r->scale), free(r->min), free(r->y), free(r->norm), free(r->sparse);
}

static double error_of(const float *x, const float *y, int T, int row, int but)
{
    double sum = 0;
    for (int t = 0; t < T; t++)
        for (int i = 0; i < row && t != but; i++)
            sum += pow((double)x[t * row + i] - y[t * row + i], 2);
    return sqrt(sum);
}

/* Every kind comes back about as close as its levels allow: numbers of unit size span about 4.5, so
 * b bits leave about 4.5 / (2^b - 1) / sqrt(12); doubled for short groups and for the few levels of NF. */
Test(array, every_kind_comes_back)
{
    static const struct { const char *text; double error; } c[] = {
        {"8:token:16", 0.01},     {"e4m3:channel:32", 0.07}, {"nf4:token:16", 0.16},
        {"nf3:token:16", 0.3},    {"nf2:token:16", 0.55},    {"q8_0", 0.01},
        {"q5_0", 0.07},           {"q5_1", 0.07},            {"q4_0", 0.13},
        {"q4_1", 0.13},           {"4:token:16:had", 0.1},   {"4:token:16:had:norm", 0.1},
        {"q4_0:had", 0.13},       {"4:channel:32:norm:out2", 0.13}, {"4:token:16:kivi", 0.1}};
    kv_shape s = {2, 2, 16};
    uint64_t seed = 60;
    for (size_t i = 0; i < sizeof c / sizeof *c; i++) {
        double squares = 0, count = 0;
        for (int k = 0; k < CHECK_SIZES; k++) {
            int T = check_sizes[k], n = T * 32;
            float *x = check_floats((size_t)n);
            check_fill(x, (size_t)n, &seed);
            result r = run(c[i].text, x, NULL, s, T, 0, KV_KEPT_BOTH);
            squares += pow(error_of(x, r.y, T, 32, -1), 2);
            count += n;
            drop(&r), free(x);
        }
        cr_expect(sqrt(squares / count) <= c[i].error, "%s: %g", c[i].text, sqrt(squares / count));
    }
}

Test(array, the_three_ways_of_being_kept)
{
    static const char *const texts[] = {"2:channel:32", "4:channel:all:sym", "nf4:channel:32",
                                        "e4m3:channel:32", "4:channel:32:had:norm",
                                        "2:channel:32:out5", "2:channel:32:kivi"};
    kv_shape s = {2, 2, 8};
    int T = 33, row = 16;
    uint64_t seed = 61;
    float x[33 * 16];
    uint8_t kept[33] = {0};
    int sink = check_keys(x, T, row, &seed);
    for (int i = 0; i < row; i++)
        x[sink * row + i] *= 30;
    kept[sink] = 1;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        result both = run(texts[i], x, kept, s, T, 0, KV_KEPT_BOTH);
        result over = run(texts[i], x, kept, s, T, 0, KV_KEPT_OVERWRITE);
        result only = run(texts[i], x, kept, s, T, 0, KV_KEPT_EXCLUDE_ONLY);
        cr_expect(check_same(both.y + sink * row, over.y + sink * row, 16), "%s", texts[i]);
        for (int j = 0; j < row; j++) {
            float h = kv_half_to_float(kv_half_from_float(x[sink * row + j]));
            cr_expect_eq(both.y[sink * row + j], h, "%s", texts[i]);
            cr_expect(both.codes[sink * row + j] == 0 && over.codes[sink * row + j] == 0);
        }
        cr_expect(check_diff(only.y + sink * row, x + sink * row, 16) > 1, "%s: clamped", texts[i]);
        /* the others: as if the sink were not there, or not */
        cr_expect(check_same(both.y, only.y, (size_t)(sink * row)), "%s", texts[i]);
        if (!strstr(texts[i], "norm") && !strstr(texts[i], "out") && texts[i][0] != 'e')
            cr_expect(error_of(x, over.y, T, row, sink) > 2 * error_of(x, both.y, T, row, sink),
                      "%s: the mistake shows", texts[i]);
        drop(&both), drop(&over), drop(&only);
    }
    result both = run("2:token:8", x, kept, s, T, 0, KV_KEPT_BOTH);
    result only = run("2:token:8", x, kept, s, T, 0, KV_KEPT_EXCLUDE_ONLY);
    result none = run("2:token:8", x, NULL, s, T, 0, KV_KEPT_BOTH);
    cr_expect(check_same(only.y, none.y, 33 * 16), "per token it is coded like any other");
    cr_expect(both.scale[sink * 2] == 0 && both.min[sink * 2] == 0);
    drop(&both), drop(&only), drop(&none);
}

Test(array, norms_belong_to_tokens_and_kept_ones_have_none)
{
    kv_shape s = {2, 2, 8};
    uint64_t seed = 62;
    float x[5 * 16];
    uint8_t kept[5] = {0, 0, 1, 0, 0};
    check_fill(x, 80, &seed);
    result a = run("4:channel:all:norm", x, kept, s, 5, 0, KV_KEPT_BOTH);
    for (int t = 0; t < 5; t++)
        cr_expect_eq(a.norm[t], t == 2 ? 0 : kv_token_norm(x + t * 16, 16));
    for (int i = 0; i < 16; i++)
        x[16 + i] *= 1024; /* a power of two: nothing but the norm changes */
    result b = run("4:channel:all:norm", x, kept, s, 5, 0, KV_KEPT_BOTH);
    cr_expect_eq(b.norm[1], 1024 * a.norm[1]);
    cr_expect_eq(memcmp(a.codes, b.codes, 80), 0);
    drop(&a), drop(&b);
}

Test(array, outliers_of_keys_run_along_tokens_those_of_values_along_channels)
{
    kv_shape s = {2, 2, 32};
    int T = 40, row = 64;
    uint64_t seed = 63;
    float x[40 * 64];
    uint8_t kept[40] = {0};
    check_fill(x, 40 * 64, &seed);
    kept[7] = kept[0] = 1;
    kv_format f;
    kv_format_parse(&f, "2:channel:16:out10", NULL);
    cr_expect_eq(kv_sparse_count(&f, s, T, 2, 0), 64 * 2, "floor(38 * 10 / 200) = 1 at each end");
    cr_expect_eq(kv_sparse_count(&f, s, T, 2, 1), 38 * 6, "floor(64 * 10 / 200) = 3 at each end");
    for (int is_values = 0; is_values < 2; is_values++) {
        result r = run("2:channel:16:out10", x, kept, s, T, is_values, KV_KEPT_BOTH);
        size_t n = kv_sparse_count(&f, s, T, 2, is_values);
        int each = is_values ? 6 : 2, line = 0;
        for (size_t i = 0; i < n; i += (size_t)each, line++) {
            if (is_values)
                line += kept[line];
            for (int j = 0; j < each; j++) {
                kv_entry e = r.sparse[i + (size_t)j];
                int at = is_values ? line * row + e.index : e.index * row + line;
                cr_expect_eq(e.value, kv_half_from_float(x[at]));
                cr_expect_eq(r.y[at], kv_half_to_float(e.value));
                cr_expect_eq(r.codes[at], 0);
                cr_expect(j == 0 || e.index > r.sparse[i + (size_t)j - 1].index);
            }
        }
        drop(&r);
    }
}

Test(array, static_ranges_replace_those_of_the_data)
{
    kv_shape s = {1, 1, 4};
    float x[3 * 4] = {0, 1, 2, 3, 9, -9, 0.5f, 3, 1, 1, 1, 1}, y[12];
    float lo[4] = {0, 0, -1, 2}, hi[4] = {3, 3, 2, 5};
    uint8_t codes[12];
    uint16_t scale[12], min[12];
    kv_format f;
    kv_error e;
    kv_format_parse(&f, "2:channel:2:static", NULL);
    kv_quantized out = {.codes = codes, .scale = scale, .min = min, .x_hat = y};
    kv_rows in = {.x = x, .shape = s, .T = 3, .lo = lo, .hi = hi};
    cr_assert_eq(kv_quantize(&out, &in, &f, NULL), KV_OK);
    static const uint8_t by_channel[12] = {0, 1, 3, 1, 3, 0, 2, 1, 1, 1, 2, 0};
    cr_expect_eq(memcmp(codes, by_channel, 12), 0, "codes clamp");
    cr_expect_eq(scale[0], kv_half_from_float(1));
    kv_format_parse(&f, "2:token:2:static", NULL);
    cr_assert_eq(kv_quantize(&out, &in, &f, NULL), KV_OK);
    cr_expect_eq(scale[0], kv_half_from_float(1), "channels 0 and 1 span 0..3");
    cr_expect_eq(scale[1], kv_half_from_float(2), "channels 2 and 3 span -1..5");
    cr_expect_eq(min[1], kv_half_from_float(-1));
    in.lo = NULL;
    cr_expect_eq(kv_quantize(&out, &in, &f, &e), KV_FAIL_USAGE);
    cr_expect(strstr(e.text, "kvsink calibrate --static"), "%s", e.text);
}

Test(array, an_outliers_index_has_sixteen_bits)
{
    enum { WIDE = 65538 };
    float *x = check_floats(2 * WIDE);
    uint8_t *codes = malloc(WIDE);
    uint16_t scale[1], min[1];
    kv_entry entry[64];
    kv_format f;
    kv_error e;
    memset(x, 0, 2 * WIDE * sizeof *x);
    kv_format_parse(&f, "8:token:all:out0.01", NULL); /* 3 at each end */
    kv_quantized out = {codes, scale, min, x + WIDE, NULL, entry};
    kv_rows in = {.x = x, .shape = {1, 1, WIDE}, .T = 1, .is_values = 1};
    cr_expect_eq(kv_quantize(&out, &in, &f, &e), KV_FAIL_RUN);
    cr_expect(strstr(e.text, "65538 channels"), "%s", e.text);
    in.shape.head_size = 65536;
    cr_expect_eq(kv_quantize(&out, &in, &f, &e), KV_OK);
    free(x), free(codes);
}

/* What the group cannot hold after the rotation is found, too. */
Test(array, a_rotation_may_not_leave_binary16)
{
    kv_shape s = {1, 1, 64};
    float x[64], y[64];
    uint8_t codes[64];
    uint16_t scale[64], min[64];
    kv_format f;
    for (int i = 0; i < 64; i++)
        x[i] = 10000; /* their sum / 8 is 80000 */
    kv_format_parse(&f, "4:token:64:had", NULL);
    cr_expect_eq(check_quantize(codes, scale, min, y, x, NULL, &f, s, 1, NULL), KV_FAIL_RUN);
    kv_format_parse(&f, "4:token:64", NULL);
    cr_expect_eq(check_quantize(codes, scale, min, y, x, NULL, &f, s, 1, NULL), KV_OK);
}
