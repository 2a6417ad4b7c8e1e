/* The packed cache: however rows arrive, the same bytes result; what it holds equals quantizing the
 * whole array at once; kept tokens stay, nothing is promoted after it was quantized. */
#include "check_quantize.h"

typedef struct {
    kv_cache c;
    void *memory;
} held;

static held make(const char *keys, const char *values, int recent, int capacity, int window)
{
    held h;
    kv_cache_spec spec = {.layers = 2, .shape = {4, 2, 8}, .recent = recent,
                          .capacity = capacity, .kept_capacity = 6, .window = window};
    cr_assert_eq(kv_format_parse(&spec.keys, keys, NULL), KV_OK);
    cr_assert_eq(kv_format_parse(&spec.values, values, NULL), KV_OK);
    h.memory = malloc(kv_cache_size(&spec)); /* exact: the sanitizer watches its ends */
    cr_assert_eq(kv_cache_init(&h.c, &spec, h.memory, NULL), KV_OK);
    return h;
}

/* Everything that a layer holds, as one array: rows as attention reads them, and the byte counts. */
static size_t picture(float *to, const kv_cache *c, int layer)
{
    int T = c->layer[layer].k.tokens;
    kv_bytes b = kv_cache_bytes(c, layer);
    size_t n = 0, count[5] = {b.codes, b.scales, b.kept, b.recent, b.total};
    for (int values = 0; values < 2; values++, n += (size_t)T * 16)
        kv_cache_read(to + n, c, layer, values, 0, T);
    for (int i = 0; i < 5; i++)
        to[n++] = (float)count[i];
    to[n++] = (float)c->layer[layer].k.quantized;
    to[n++] = (float)c->layer[layer].v.quantized;
    return n;
}

static const char *const pairs[][2] = {
    {"2:channel:32", "2:token:8"},   {"3:channel:7", "4:token:4:sym"}, {"8:token:all", "2:channel:5"},
    {"4:channel:32:pre", "f16"},     {"f32", "3:token:2"},             {"2:token:8:sym", "bf16"},
};
#define PAIRS ((int)(sizeof pairs / sizeof *pairs))

Test(cache, one_append_of_many_equals_many_of_one)
{
    uint64_t seed = 40;
    int T = 129, kept[4] = {0, 31, 64, 100};
    float *k = check_floats(129 * 16), *v = check_floats(129 * 16);
    float *a = check_floats(2 * 129 * 16 + 8), *b = check_floats(2 * 129 * 16 + 8);
    check_keys(k, T, 16, &seed);
    check_keys(v, T, 16, &seed);
    for (int p = 0; p < PAIRS; p++)
        for (int recent = 0; recent <= 40; recent += 8) {
            held once = make(pairs[p][0], pairs[p][1], recent, T, 0);
            cr_assert_eq(kv_cache_append(&once.c, 1, k, v, kept, 4, T, NULL), KV_OK);
            size_t n = picture(a, &once.c, 1);
            for (int schedule = 0; schedule < 3; schedule++) {
                held bits = make(pairs[p][0], pairs[p][1], recent, T, 0);
                for (int t = 0; t < T;) {
                    int step = schedule == 0 ? 1 : schedule == 1 ? 32 : 1 + check_below(&seed, 50);
                    if (step > T - t)
                        step = T - t;
                    cr_assert_eq(kv_cache_append(&bits.c, 1, k + t * 16, v + t * 16, kept, 4, step,
                                                 NULL), KV_OK);
                    t += step;
                }
                cr_expect_eq(picture(b, &bits.c, 1), n);
                cr_expect(check_same(a, b, n), "%s R %d schedule %d", pairs[p][0], recent,
                          schedule);
                free(bits.memory);
            }
            free(once.memory);
        }
    free(k), free(v), free(a), free(b);
}

/* The same groups cut by kv_quantize from the array rounded to binary16. */
static void expected(float *to, const float *x, const char *format, const int *kept, int n_kept,
                     int T)
{
    kv_format f;
    uint8_t codes[129 * 16], flags[129] = {0};
    uint16_t scale[129 * 16], min[129 * 16];
    float half[129 * 16];
    kv_format_parse(&f, format, NULL);
    for (int i = 0; i < n_kept; i++)
        flags[kept[i]] = 1;
    for (int i = 0; i < T * 16; i++)
        half[i] = kv_half_to_float(kv_half_from_float(x[i]));
    const float *from = f.kind == KV_F32 || f.kind == KV_BF16 ? x : half;
    cr_assert_eq(check_quantize(codes, scale, min, to, from, flags, &f, (kv_shape){4, 2, 8}, T,
                                NULL), KV_OK);
}

Test(cache, a_sealed_window_equals_quantizing_at_once)
{
    uint64_t seed = 41;
    int kept[3] = {0, 16, 32};
    static const char *more[][2] = {{"2:channel:all", "2:token:8"}, {"4:token:2", "3:channel:all:sym"}};
    for (int p = 0; p < PAIRS + 2; p++)
        for (int i = 3; i < CHECK_SIZES; i++) {
            const char *const *pair = p < PAIRS ? pairs[p] : more[p - PAIRS];
            int T = check_sizes[i];
            float k[129 * 16], v[129 * 16], got[129 * 16], want[129 * 16];
            check_keys(k, T, 16, &seed);
            check_keys(v, T, 16, &seed);
            held h = make(pair[0], pair[1], 0, T, 1);
            cr_assert_eq(kv_cache_append(&h.c, 0, k, v, kept, T > 32 ? 3 : 2, T, NULL), KV_OK);
            cr_assert_eq(kv_cache_seal(&h.c, 0, NULL), KV_OK);
            for (int values = 0; values < 2; values++) {
                expected(want, values ? v : k, pair[values], kept, T > 32 ? 3 : 2, T);
                kv_cache_read(got, &h.c, 0, values, 0, T);
                cr_expect(check_same(got, want, (size_t)T * 16), "%s T %d", pair[values], T);
            }
            cr_expect_eq(kv_cache_bytes(&h.c, 0).recent > 0, strchr("fb", *pair[0]) || strchr("fb", *pair[1]));
            free(h.memory);
        }
}

Test(cache, recent_tokens_wait_and_then_age)
{
    uint64_t seed = 42;
    float x[64 * 16];
    check_fill(x, 64 * 16, &seed);
    held h = make("2:channel:8", "2:token:8", 5, 64, 0);
    for (int t = 0; t < 64; t++) {
        cr_assert_eq(kv_cache_append(&h.c, 0, x, x, NULL, 0, 1, NULL), KV_OK);
        int old = t + 1 - 5 > 0 ? t + 1 - 5 : 0;
        cr_expect_eq(h.c.layer[0].v.quantized, old);
        cr_expect_eq(h.c.layer[0].k.quantized, old / 8 * 8);
        kv_bytes b = kv_cache_bytes(&h.c, 0);
        size_t k_groups = (size_t)old / 8, v_rows = (size_t)old;
        cr_expect_eq(b.codes, k_groups * 16 * 4 + v_rows * 2 * 4);
        cr_expect_eq(b.scales, k_groups * 16 * 4 + v_rows * 2 * 4);
        cr_expect_eq(b.recent, 32 * ((size_t)(t + 1 - old / 8 * 8) + (size_t)(t + 1 - old)));
        cr_expect_eq(b.total, b.codes + b.scales + b.kept + b.recent);
    }
    cr_expect_eq(h.c.layer[1].k.tokens, 0, "the other layer is untouched");
    free(h.memory);
}

Test(cache, a_waiting_token_can_still_be_kept)
{
    uint64_t seed = 43;
    float x[40 * 16], row[16];
    int done;
    check_fill(x, 40 * 16, &seed);
    held h = make("2:channel:8", "2:token:8", 4, 40, 0);
    int kept[2] = {2, 9};
    cr_assert_eq(kv_cache_append(&h.c, 0, x, x, kept, 2, 12, NULL), KV_OK);
    cr_assert_eq(kv_cache_keep(&h.c, 0, 10, &done, NULL), KV_OK);
    cr_expect_eq(done, 1);
    cr_assert_eq(kv_cache_keep(&h.c, 0, 8, &done, NULL), KV_OK);
    cr_expect_eq(done, 1, "token 8 is the oldest of the four recent ones");
    cr_assert_eq(kv_cache_keep(&h.c, 0, 3, &done, NULL), KV_OK);
    cr_expect_eq(done, 0, "its group was quantized");
    cr_assert_eq(kv_cache_keep(&h.c, 0, 9, &done, NULL), KV_OK);
    cr_expect_eq(done, 0, "kept already");
    cr_expect_eq(kv_cache_keep(&h.c, 0, 12, &done, NULL), KV_FAIL_USAGE);
    cr_assert_eq(kv_cache_append(&h.c, 0, x + 12 * 16, x + 12 * 16, NULL, 0, 28, NULL), KV_OK);
    int expect[4] = {2, 8, 9, 10};
    cr_assert_eq(h.c.layer[0].n_kept, 4);
    for (int i = 0; i < 4; i++) {
        cr_expect_eq(h.c.layer[0].position[i], expect[i]);
        for (int values = 0; values < 2; values++) {
            kv_cache_read(row, &h.c, 0, values, expect[i], 1);
            for (int j = 0; j < 16; j++)
                cr_expect_eq(row[j], kv_half_to_float(kv_half_from_float(x[expect[i] * 16 + j])));
        }
    }
    free(h.memory);
}

Test(cache, refuses_what_does_not_fit_and_stays_as_it_was)
{
    uint64_t seed = 44;
    float x[16 * 16], before[2 * 16 * 16 + 8], after[2 * 16 * 16 + 8];
    int kept[7] = {0, 1, 2, 3, 4, 5, 6};
    kv_error e;
    check_fill(x, 256, &seed);
    held h = make("2:channel:4", "2:token:8", 0, 10, 0);
    cr_expect_eq(kv_cache_append(&h.c, 0, x, x, kept, 7, 8, &e), KV_FAIL_RUN);
    cr_expect(strstr(e.text, "6 kept"), "%s", e.text);
    cr_assert_eq(kv_cache_append(&h.c, 0, x, x, kept, 2, 8, &e), KV_OK);
    size_t n = picture(before, &h.c, 0);
    cr_expect_eq(kv_cache_append(&h.c, 0, x, x, NULL, 0, 3, &e), KV_FAIL_RUN);
    cr_expect(strstr(e.text, "room for 10"), "%s", e.text);
    float bad[3] = {NAN, INFINITY, 70000};
    for (int i = 0; i < 3; i++) {
        x[20] = bad[i];
        cr_expect_eq(kv_cache_append(&h.c, 0, x, x + 64, NULL, 0, 2, NULL), KV_FAIL_RUN);
        cr_expect_eq(kv_cache_append(&h.c, 0, x + 64, x, NULL, 0, 2, NULL), KV_FAIL_RUN);
    }
    picture(after, &h.c, 0);
    cr_expect(check_same(before, after, n));
    cr_assert_eq(kv_cache_append(&h.c, 0, x + 64, x + 64, NULL, 0, 1, NULL), KV_OK);
    cr_assert_eq(kv_cache_seal(&h.c, 0, NULL), KV_OK);
    cr_expect_eq(kv_cache_append(&h.c, 0, x + 64, x + 64, NULL, 0, 1, &e), KV_FAIL_RUN);
    cr_expect(strstr(e.text, "sealed"), "%s", e.text);
    free(h.memory);
    kv_cache_spec spec = {.layers = 1, .shape = {1, 1, 8}, .capacity = 4};
    kv_format_parse(&spec.keys, "2:channel:all", NULL);
    kv_format_parse(&spec.values, "f16", NULL);
    cr_expect_eq(kv_cache_init(&h.c, &spec, NULL, &e), KV_FAIL_USAGE, "no window");
    cr_expect(strstr(e.text, "channel:all"), "%s", e.text);
}

Test(cache, two_sequences_share_nothing)
{
    uint64_t seed = 45;
    float x[33 * 16], y[33 * 16], a[2 * 33 * 16 + 8], b[2 * 33 * 16 + 8];
    check_keys(x, 33, 16, &seed);
    check_keys(y, 33, 16, &seed);
    held one = make("2:channel:8", "2:token:8", 0, 33, 0);
    held batch[2] = {make("2:channel:8", "2:token:8", 0, 33, 0),
                     make("2:channel:8", "2:token:8", 0, 33, 0)};
    kv_cache_append(&one.c, 0, x, x, NULL, 0, 33, NULL);
    for (int t = 0; t < 33; t++) {
        kv_cache_append(&batch[0].c, 0, x + t * 16, x + t * 16, NULL, 0, 1, NULL);
        kv_cache_append(&batch[1].c, 0, y + t * 16, y + t * 16, NULL, 0, 1, NULL);
    }
    size_t n = picture(a, &one.c, 0);
    picture(b, &batch[0].c, 0);
    cr_expect(check_same(a, b, n));
    free(one.memory), free(batch[0].memory), free(batch[1].memory);
}

/* A cache so plain that it cannot be wrong: every row as it arrived, every group quantized alone. */
typedef struct {
    float x[200 * 16]; /* what a reader would get */
    int kept[200], tokens, quantized;
} plain_store;

static void plain_age(plain_store *p, const kv_format *f, int recent)
{
    int run = f->axis == KV_PER_TOKEN ? 1 : f->group;
    while (p->quantized + run <= p->tokens - recent) {
        int count = f->axis == KV_PER_TOKEN ? (f->group ? f->group : 16) : run;
        int across = f->axis == KV_PER_TOKEN ? 16 / count : 16;
        for (int i = 0; i < across; i++) {
            float y[64];
            uint8_t codes[64], flags[64];
            uint16_t scale, min = 0;
            for (int j = 0; j < count; j++) {
                int t = p->quantized + (f->axis == KV_PER_TOKEN ? 0 : j);
                y[j] = p->x[t * 16 + (f->axis == KV_PER_TOKEN ? i * count + j : i)];
                flags[j] = (uint8_t)p->kept[t];
            }
            kv_quantize_group(codes, &scale, &min, y, flags, count, 1, f, NULL);
            for (int j = 0; j < count; j++) {
                int t = p->quantized + (f->axis == KV_PER_TOKEN ? 0 : j);
                if (!flags[j])
                    p->x[t * 16 + (f->axis == KV_PER_TOKEN ? i * count + j : i)] =
                        kv_dequantize(codes[j], scale, min, f);
            }
        }
        p->quantized += run;
    }
}

Test(cache, any_mixture_of_appends_and_late_keeps_equals_a_plain_list)
{
    static const char *const some[][2] = {{"2:channel:8", "2:token:8"},
                                          {"3:channel:5:sym", "4:token:all"},
                                          {"4:token:4", "3:channel:16"}};
    for (int round = 0; round < 60; round++) {
        uint64_t seed = 900 + (uint64_t)round;
        const char *const *pair = some[round % 3];
        int recent = check_below(&seed, 20);
        kv_cache_spec spec = {.layers = 1, .shape = {4, 2, 8}, .recent = recent, .capacity = 200,
                              .kept_capacity = 200};
        kv_format *f[2] = {&spec.keys, &spec.values};
        kv_format_parse(&spec.keys, pair[0], NULL);
        kv_format_parse(&spec.values, pair[1], NULL);
        kv_cache c;
        void *memory = malloc(kv_cache_size(&spec));
        cr_assert_eq(kv_cache_init(&c, &spec, memory, NULL), KV_OK);
        plain_store *p = calloc(2, sizeof *p);
        float *x[2] = {check_floats(200 * 16), check_floats(200 * 16)}, *got = check_floats(200 * 16);
        check_fill(x[0], 200 * 16, &seed);
        check_fill(x[1], 200 * 16, &seed);
        while (p[0].tokens < 150) {
            int first = p[0].tokens, n = 1 + check_below(&seed, round % 2 ? 3 : 30), kept[32];
            int n_kept = 0, done, late = check_below(&seed, first + n);
            for (int t = first; t < first + n; t++)
                if (check_below(&seed, 6) == 0)
                    kept[n_kept++] = t;
            cr_assert_eq(kv_cache_append(&c, 0, x[0] + first * 16, x[1] + first * 16, kept, n_kept,
                                         n, NULL), KV_OK);
            for (int t = first, i = 0; t < first + n; t++) {
                int is_kept = i < n_kept && kept[i] == t;
                i += is_kept;
                for (int v = 0; v < 2; v++) {
                    for (int j = t * 16; j < t * 16 + 16; j++)
                        p[v].x[j] = kv_half_to_float(kv_half_from_float(x[v][j]));
                    p[v].kept[t] = is_kept;
                    p[v].tokens++;
                    plain_age(&p[v], f[v], recent);
                }
            }
            int may = !p[0].kept[late] && late >= p[0].quantized && late >= p[1].quantized;
            cr_assert_eq(kv_cache_keep(&c, 0, late, &done, NULL), KV_OK);
            cr_expect_eq(done, may, "round %d token %d", round, late);
            for (int v = 0; v < 2; v++) {
                p[v].kept[late] |= may;
                kv_cache_read(got, &c, 0, v, 0, p[v].tokens);
                cr_assert(check_same(got, p[v].x, (size_t)p[v].tokens * 16), "%s, round %d, %d tokens",
                          pair[v], round, p[v].tokens);
            }
        }
        free(memory), free(p), free(x[0]), free(x[1]), free(got);
    }
}

/* ---- every format ---------------------------------------------------------------------------- */

enum { WIDE = 32 }; /* a row: 2 heads of 16 */

static const char *const every[][2] = {
    {"nf4:channel:32", "nf3:token:8"},      {"nf2:channel:7", "e4m3:token:all"},
    {"e4m3:channel:5", "nf2:token:16"},     {"q4_0", "q4_1"},
    {"q5_0:pre", "q5_1:had"},               {"q8_0:had", "q8_0"},
    {"2:channel:32:had", "4:token:4:had"},  {"3:channel:8:norm", "2:token:16:had:norm"},
    {"2:channel:32:had:norm", "q4_0:had"},  {"2:channel:8:out0", "3:token:8:out10"},
    {"4:channel:16:static", "2:token:8:static"}, {"8:channel:3:sym:static", "nf4:token:all:static"},
    {"2:channel:8:kivi", "4:token:16:kivi"},     {"nf4:channel:9:had:norm", "2:token:4:sym:norm:out20"},
};
#define EVERY ((int)(sizeof every / sizeof *every))

static float low[2 * WIDE], high[2 * WIDE];

static held make_any(const char *const *pair, int recent, int capacity, int window,
                     kv_exclusion exclusion)
{
    held h;
    kv_error e = {0};
    kv_cache_spec spec = {.layers = 2, .shape = {4, 2, 16}, .recent = recent, .capacity = capacity,
                          .kept_capacity = 6, .window = window, .key_limits = {low, high},
                          .value_limits = {low, high}};
    for (int i = 0; i < 2 * WIDE; i++) {
        low[i] = -1 - (float)i / 8;
        high[i] = 2 + (float)i / 16;
    }
    cr_assert_eq(kv_format_parse(&spec.keys, pair[0], NULL), KV_OK);
    cr_assert_eq(kv_format_parse(&spec.values, pair[1], NULL), KV_OK);
    spec.keys.exclusion = spec.values.exclusion = exclusion;
    h.memory = malloc(kv_cache_size(&spec));
    cr_assert_eq(kv_cache_init(&h.c, &spec, h.memory, &e), KV_OK, "%s: %s", pair[0], e.text);
    return h;
}

typedef struct {
    float y[129 * WIDE], norm[129];
    uint8_t codes[129 * WIDE];
    uint16_t scale[129 * WIDE], min[129 * WIDE];
    kv_entry sparse[129 * WIDE];
} array;

/* What the whole array gives, rounded to binary16 on arrival. */
static void whole(array *a, const float *x, const kv_store *st, const uint8_t *flags, int T)
{
    float *half = check_floats((size_t)T * WIDE);
    kv_error e = {0};
    for (int i = 0; i < T * WIDE; i++)
        half[i] = kv_half_to_float(kv_half_from_float(x[i]));
    kv_rows in = {half, flags, st->shape, T, st->is_values, st->lo, st->hi};
    kv_quantized out = {a->codes, a->scale, a->min, a->y, a->norm, a->sparse};
    cr_assert_eq(kv_quantize(&out, &in, &st->format, &e), KV_OK, "%s", e.text);
    free(half);
}

static int same_scales(const array *a, const kv_store *st, int T)
{
    size_t n = kv_group_count(&st->format, st->shape, T);
    int bad = 0;
    for (size_t i = 0; i < n && !st->format.is_static; i++) {
        uint16_t d = 0, m = 0;
        if (kv_format_blocks(&st->format))
            kv_block_scale(&d, &m, st->blocks + i * (size_t)kv_block_bytes(st->format.kind),
                           st->format.kind);
        else
            d = st->scale[i];
        if (!kv_format_blocks(&st->format) && kv_format_has_min(&st->format))
            m = st->min[i];
        bad += d != a->scale[i] || m != a->min[i];
    }
    return !bad;
}

Test(cache, every_format_sealed_equals_the_whole_array)
{
    static const char *const more[][2] = {{"2:channel:8:out10", "2:token:8:out10"},
                                          {"3:channel:all:had:out3.5", "2:channel:all:kivi"},
                                          {"4:channel:32:sym:norm:out25", "4:token:all:had:out7"},
                                          {"4:token:16:out40", "2:channel:8:out30"}};
    uint64_t seed = 46;
    array *a = malloc(sizeof *a);
    for (int p = 0; p < EVERY + 4; p++)
        for (int i = 2; i < CHECK_SIZES; i++)
            for (int exclusion = 0; exclusion < 3; exclusion++) {
                const char *const *pair = p < EVERY ? every[p] : more[p - EVERY];
                int T = check_sizes[i], kept[3] = {0, 16, 30};
                float x[2][129 * WIDE], got[129 * WIDE];
                uint8_t flags[129] = {0};
                flags[0] = flags[16] = flags[30] = 1;
                check_keys(x[0], T, WIDE, &seed);
                check_keys(x[1], T, WIDE, &seed);
                held h = make_any(pair, 0, T, 1, (kv_exclusion)exclusion);
                cr_assert_eq(kv_cache_append(&h.c, 1, x[0], x[1], kept, 3, T, NULL), KV_OK);
                cr_assert_eq(kv_cache_seal(&h.c, 1, NULL), KV_OK);
                size_t norms = 0, outliers = 0;
                for (int values = 0; values < 2; values++) {
                    const kv_store *st = values ? &h.c.layer[1].v : &h.c.layer[1].k;
                    whole(a, x[values], st, flags, T);
                    kv_cache_read(got, &h.c, 1, values, 0, T);
                    cr_expect(check_same(got, a->y, (size_t)T * WIDE), "%s T %d exclusion %d",
                              pair[values], T, exclusion);
                    cr_expect(same_scales(a, st, T), "%s T %d", pair[values], T);
                    norms += st->format.norm ? 4 * (size_t)T : 0;
                    outliers += 4 * kv_sparse_count(&st->format, st->shape, T, 3, values);
                }
                kv_bytes b = kv_cache_bytes(&h.c, 1);
                cr_expect(b.norms == norms && b.outliers == outliers && b.recent == 0);
                cr_expect_eq(b.kept, 3 * 4 + (exclusion == KV_KEPT_EXCLUDE_ONLY ? 0 : 2 * 3 * 2 * WIDE));
                free(h.memory);
            }
    free(a);
}

/* A group's codes, scales and minima do not depend on the tokens that came after it. */
Test(cache, every_format_in_a_stream_equals_the_whole_array_where_it_is_quantized)
{
    uint64_t seed = 47;
    array *a = malloc(sizeof *a);
    for (int p = 0; p < EVERY; p++)
        for (int recent = 0; recent <= 40; recent += 40)
            for (int exclusion = 0; exclusion < 3; exclusion++) {
                int T = 129, kept[4] = {0, 31, 64, 100};
                float x[2][129 * WIDE], got[129 * WIDE], once[129 * WIDE];
                uint8_t flags[129] = {0};
                flags[0] = flags[31] = flags[64] = flags[100] = 1;
                check_keys(x[0], T, WIDE, &seed);
                check_keys(x[1], T, WIDE, &seed);
                held all = make_any(every[p], recent, T, 0, (kv_exclusion)exclusion);
                held one = make_any(every[p], recent, T, 0, (kv_exclusion)exclusion);
                cr_assert_eq(kv_cache_append(&all.c, 0, x[0], x[1], kept, 4, T, NULL), KV_OK);
                for (int t = 0; t < T; t++)
                    cr_assert_eq(kv_cache_append(&one.c, 0, x[0] + t * WIDE, x[1] + t * WIDE, kept,
                                                 4, 1, NULL), KV_OK);
                for (int values = 0; values < 2; values++) {
                    const kv_store *st = values ? &all.c.layer[0].v : &all.c.layer[0].k;
                    int n = st->quantized, run = st->format.axis == KV_PER_TOKEN ? 1 : st->format.group;
                    whole(a, x[values], st, flags, n); /* n is whole runs */
                    cr_expect(n % run == 0 && n > 0);
                    kv_cache_read(got, &all.c, 0, values, 0, T);
                    kv_cache_read(once, &one.c, 0, values, 0, T);
                    cr_expect(check_same(got, once, 129 * WIDE), "%s R %d", every[p][values], recent);
                    cr_expect(check_same(got, a->y, (size_t)n * WIDE), "%s R %d", every[p][values],
                              recent);
                    for (int j = n * WIDE; j < T * WIDE; j++)
                        cr_assert_eq(got[j], kv_half_to_float(kv_half_from_float(x[values][j])));
                }
                cr_expect_eq(kv_cache_bytes(&all.c, 0).total, kv_cache_bytes(&one.c, 0).total);
                free(all.memory), free(one.memory);
            }
    free(a);
}

Test(cache, bytes_of_every_kind)
{
    /* 32 tokens of 32 channels, one of them kept: codes, scales, norms, outliers */
    static const struct { const char *text; size_t codes, scales, norms, outliers; } c[] = {
        {"q4_0", 512, 64, 0, 0},       {"q4_1", 512, 128, 0, 0},     {"q5_0", 640, 64, 0, 0},
        {"q5_1", 640, 128, 0, 0},      {"q8_0", 1024, 64, 0, 0},     {"nf4:token:16", 512, 128, 0, 0},
        {"nf3:token:16", 512, 128, 0, 0}, {"e4m3:token:16", 1024, 128, 0, 0},
        {"2:token:16:static", 256, 0, 0, 0}, {"2:token:16:norm", 256, 256, 128, 0},
        {"2:token:16:out20", 256, 256, 0, 31 * 6 * 4}, {"4:channel:32:static", 512, 0, 0, 0}};
    uint64_t seed = 48;
    float x[32 * WIDE];
    int kept[1] = {5};
    check_fill(x, 32 * WIDE, &seed);
    for (size_t i = 0; i < sizeof c / sizeof *c; i++) {
        const char *pair[2] = {"f16", c[i].text};
        held h = make_any(pair, 0, 32, 1, KV_KEPT_BOTH);
        cr_assert_eq(kv_cache_append(&h.c, 0, x, x, kept, 1, 32, NULL), KV_OK);
        cr_assert_eq(kv_cache_seal(&h.c, 0, NULL), KV_OK);
        kv_bytes b = kv_cache_bytes(&h.c, 0);
        cr_expect(b.codes == c[i].codes && b.scales == c[i].scales && b.norms == c[i].norms &&
                  b.outliers == c[i].outliers, "%s: %zu %zu %zu %zu", c[i].text, b.codes, b.scales,
                  b.norms, b.outliers);
        cr_expect_eq(b.total, b.codes + b.scales + b.norms + b.outliers + b.kept + b.recent);
        if (strcmp(c[i].text, "q8_0") == 0)
            for (int j = 0; j < 34; j++)
                cr_expect_eq(h.c.layer[0].v.blocks[5 * 34 + j], 0, "a kept token leaves zero bytes");
        free(h.memory);
    }
}

Test(cache, kivi_flushes_keys_in_blocks_and_values_one_by_one)
{
    static const char *const pair[2] = {"2:channel:8:kivi", "2:token:8:kivi"};
    uint64_t seed = 49;
    float x[64 * WIDE];
    int R = 16, kept[1] = {3};
    check_fill(x, 64 * WIDE, &seed);
    for (int T = 1; T < 40; T++) {
        held h = make_any(pair, R, 64, 0, KV_KEPT_BOTH);
        const kv_cache_layer *cl = &h.c.layer[0];
        cr_assert_eq(kv_cache_append(&h.c, 0, x, x, kept, 1, T, NULL), KV_OK);
        cr_expect_eq(cl->k.quantized, (T - 1) / R * R, "the last block waits for the next token");
        cr_expect_eq(cl->v.quantized, T > R + 1 ? T - R - 1 : 0);
        kv_cache_settle(&h.c, 0);
        kv_cache_settle(&h.c, 0);
        cr_expect_eq(T - cl->k.quantized, T % R, "the end of a prefill");
        cr_expect_eq(T - cl->v.quantized, T < R ? T : R);
        cr_assert_eq(kv_cache_append(&h.c, 0, x + T * WIDE, x + T * WIDE, kept, 1, 1, NULL), KV_OK);
        cr_expect_eq(T + 1 - cl->k.quantized, T % R + 1);
        cr_expect_eq(T + 1 - cl->v.quantized, T < R ? T + 1 : R + 1, "one more is read in 16 bits");
        free(h.memory);
    }
}

Test(cache, refuses_formats_that_a_stream_cannot_hold)
{
    static const struct { const char *keys, *values; int recent, limits; const char *says; } c[] = {
        {"2:channel:8:out1", "f16", 0, 1, "whole text"},
        {"f16", "2:channel:all:out1", 0, 1, "channel:all"},
        {"2:channel:8:kivi", "f16", 12, 1, "multiple of the group size 8"},
        {"2:channel:8:static", "f16", 0, 0, "calibrate --static"},
        {"f16", "2:token:8:static", 0, 0, "calibrate --static"}};
    for (size_t i = 0; i < sizeof c / sizeof *c; i++) {
        kv_error e = {0};
        kv_cache cache;
        kv_limits limits = c[i].limits ? (kv_limits){low, high} : (kv_limits){NULL, NULL};
        kv_cache_spec spec = {.layers = 1, .shape = {4, 2, 16}, .recent = c[i].recent, .capacity = 64,
                              .key_limits = limits, .value_limits = limits};
        cr_assert_eq(kv_format_parse(&spec.keys, c[i].keys, NULL), KV_OK);
        cr_assert_eq(kv_format_parse(&spec.values, c[i].values, NULL), KV_OK);
        cr_expect_eq(kv_cache_size(&spec), 0);
        cr_expect_eq(kv_cache_init(&cache, &spec, NULL, &e), KV_FAIL_USAGE, "%s", c[i].keys);
        cr_expect(strstr(e.text, c[i].says), "%s", e.text);
    }
    float huge[2 * WIDE];
    for (int i = 0; i < 2 * WIDE; i++)
        huge[i] = i == WIDE + 3 ? 65520 : 1; /* in the second layer */
    kv_cache cache;
    kv_error refused = {0};
    kv_cache_spec two = {.layers = 2, .shape = {4, 2, 16}, .capacity = 64,
                         .values = {.kind = KV_F16}};
    cr_assert_eq(kv_format_parse(&two.keys, "2:channel:8:static", NULL), KV_OK);
    two.key_limits = (kv_limits){huge, huge};
    cr_expect_eq(kv_cache_size(&two), 0);
    cr_expect_eq(kv_cache_init(&cache, &two, huge, &refused), KV_FAIL_RUN);
    cr_expect(strstr(refused.text, "channel 3"), "%s", refused.text);
    static const char *const had[2] = {"4:token:16:had", "2:token:8:kivi"};
    float x[WIDE];
    held h = make_any(had, 0, 8, 0, KV_KEPT_BOTH);
    for (int i = 0; i < WIDE; i++)
        x[i] = 20000; /* 16 of them make 80000 */
    kv_error e = {0};
    cr_expect_eq(kv_cache_append(&h.c, 0, x, x, NULL, 0, 1, &e), KV_FAIL_RUN);
    cr_expect(strstr(e.text, "rotation"), "%s", e.text);
    x[0] = 40000;
    for (int i = 1; i < WIDE; i++)
        x[i] = 0;
    cr_expect_eq(kv_cache_append(&h.c, 0, x, x, NULL, 0, 1, &e), KV_FAIL_RUN);
    cr_expect(strstr(e.text, "kivi takes at most 32000"), "%s", e.text);
    cr_expect_eq(h.c.layer[0].k.tokens, 0);
    for (int i = 0; i < WIDE; i++)
        x[i] = i % 2 ? 32000 : -32000; /* the widest range there is */
    memset(x + 8, 0, 8 * sizeof *x);
    static const char *const kivi[2] = {"2:token:4:kivi", "4:token:8:kivi"};
    free(h.memory);
    h = make_any(kivi, 0, 8, 0, KV_KEPT_BOTH);
    cr_assert_eq(kv_cache_append(&h.c, 0, x, x, NULL, 0, 1, &e), KV_OK);
    kv_cache_settle(&h.c, 0);
    for (int values = 0; values < 2; values++) {
        kv_cache_read(x, &h.c, 0, values, 0, 1);
        for (int i = 0; i < WIDE; i++)
            cr_expect(isfinite(x[i]) && fabsf(x[i]) <= 32096, "%g", x[i]);
    }
    free(h.memory);
}

Test(cache, late_keeps_without_a_table)
{
    static const char *const pair[2] = {"2:channel:8", "2:token:8"};
    uint64_t seed = 50;
    float x[40 * WIDE], a[40 * WIDE], b[40 * WIDE];
    int kept[1] = {10}, done;
    check_fill(x, 40 * WIDE, &seed);
    held late = make_any(pair, 8, 40, 0, KV_KEPT_EXCLUDE_ONLY);
    held early = make_any(pair, 8, 40, 0, KV_KEPT_EXCLUDE_ONLY);
    kv_cache_append(&late.c, 0, x, x, NULL, 0, 12, NULL);
    cr_assert_eq(kv_cache_keep(&late.c, 0, 10, &done, NULL), KV_OK);
    cr_expect_eq(done, 1);
    kv_cache_append(&late.c, 0, x + 12 * WIDE, x + 12 * WIDE, NULL, 0, 28, NULL);
    kv_cache_append(&early.c, 0, x, x, kept, 1, 40, NULL);
    for (int values = 0; values < 2; values++) {
        kv_cache_read(a, &late.c, 0, values, 0, 40);
        kv_cache_read(b, &early.c, 0, values, 0, 40);
        cr_expect(check_same(a, b, 40 * WIDE));
    }
    free(late.memory), free(early.memory);
}
