/* The packed cache: however rows arrive, the same bytes result; what it holds equals quantizing the
 * whole array at once; kept tokens stay, nothing is promoted after it was quantized. */
#include "check.h"

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
