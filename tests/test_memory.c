/* Memories: a window is what ref/ quantizes, bit for bit; a stream is what the packed cache gives,
 * in whatever pieces its tokens arrive. */
#define _POSIX_C_SOURCE 200809L /* setenv */
#include "check_quantize.h"
#include "fast.h"
#include "kernels.h"
#include "memory.h"
#include "tiny.h"

static kv_format format(const char *text)
{
    kv_format f;
    kv_error err;
    cr_assert_eq(kv_format_parse(&f, text, &err), KV_OK, "%s", err.text);
    return f;
}

/* ----------------------------------------------------------- whole window */

/* A backend that only remembers what it was to attend to. */
typedef struct {
    float *k, *v;
    size_t size;
} witness;

static int remember(void *self, float *out, float *rows, const float *q, const float *k,
                    const float *v, const float *sink, kv_shape s, int past, int n, kv_error *err)
{
    witness *w = self;
    (void)out, (void)rows, (void)q, (void)sink, (void)err;
    w->size = (size_t)(past + n) * (size_t)(s.kv_heads * s.head_size);
    memcpy(w->k, k, w->size * sizeof *k);
    memcpy(w->v, v, w->size * sizeof *v);
    return KV_OK;
}

static void keep_some(int *kept, int *n_kept, uint8_t *flags, int T, int which)
{
    int list[4] = {0, T / 3, T / 2, T - 1};
    memset(flags, 0, (size_t)T);
    *n_kept = 0;
    for (int t = 0; t < T; t++) {
        int listed = t == list[0] || t == list[1] || t == list[2] || t == list[3];
        if (which == 2 || (which == 1 && listed)) {
            flags[t] = 1;
            kept[(*n_kept)++] = t;
        }
    }
}

/* Bytes as the packed cache counts them. */
static kv_bytes packed_bytes(const kv_model *m, const kv_format *k, const kv_format *v, int *kept,
                             int n_kept, int T, const float *x)
{
    kv_cache_spec spec = {.layers = 1, .shape = m->shape, .rope = m->rope, .keys = *k, .values = *v,
                          .capacity = T, .kept_capacity = T, .window = 1};
    kv_cache c;
    void *memory = malloc(kv_cache_size(&spec));
    cr_assert_eq(kv_cache_init(&c, &spec, memory, NULL), KV_OK);
    cr_assert_eq(kv_cache_append(&c, 0, x, x, kept, n_kept, T, NULL), KV_OK);
    cr_assert_eq(kv_cache_seal(&c, 0, NULL), KV_OK);
    kv_bytes b = kv_cache_bytes(&c, 0);
    free(memory);
    return b;
}

/* What kv_quantize is to be compared on: a cache of codes rounds rows to binary16 on arrival. */
static const float *on_arrival(float *copy, const float *x, const kv_format *f, size_t n)
{
    for (size_t i = 0; i < n; i++)
        copy[i] = f->kind == KV_INT ? kv_half_to_float(kv_half_from_float(x[i])) : x[i];
    return copy;
}

static void check_window(const kv_model *m, const char *keys, const char *values, int T, int which,
                         tm_pool *pool, uint64_t *seed)
{
    kv_format f[2] = {format(keys), format(values)};
    int row = m->shape.kv_heads * m->shape.head_size, *kept = calloc((size_t)T, sizeof *kept);
    size_t size = (size_t)(T * row);
    float *x[4], *q = check_floats((size_t)(T * m->shape.heads * m->shape.head_size));
    float *arrived = check_floats(size);
    for (int i = 0; i < 4; i++)
        x[i] = check_floats(size); /* k, k_pre, v, what is wanted */
    for (int i = 0; i < 3; i++)
        check_keys(x[i], T, row, seed);
    x[2][size / 2] = 70 * x[2][size / 2];
    uint8_t *flags = calloc((size_t)T, 1), *codes = malloc(size);
    uint16_t *scale = malloc(2 * size), *min = malloc(2 * size);
    int count[2] = {0, 0};
    keep_some(kept, &count[0], flags, T, which);
    kv_keep keep = {1, T, count, kept};
    tm_window *w;
    kv_error err;
    cr_assert_eq(tm_window_open(&w, m, &f[0], &f[1], T, pool, &err), KV_OK, "%s", err.text);
    tm_window_keep(w, which ? &keep : NULL);
    witness seen = {check_floats(size), check_floats(size), 0};
    kv_backend b = {&seen, NULL, remember, NULL, NULL};
    const kv_memory *mem = tm_window_memory(w);
    cr_assert_eq(mem->attend(mem->self, &b, 0, q, NULL, q, x[0], x[1], x[2], NULL, 9, T, &err),
                 KV_OK, "%s", err.text);
    cr_assert_eq(seen.size, size);
    for (int i = 0; i < 2; i++) {
        const float *from = i ? x[2] : f[0].pre ? x[1] : x[0];
        from = on_arrival(arrived, from, &f[i], size);
        cr_assert_eq(check_quantize(codes, scale, min, x[3], from, flags, &f[i], m->shape, T,
                                    &err), KV_OK, "%s", err.text);
        for (int t = 0; t < T && !i && f[0].pre; t++) {
            float cs[KV_HEAD_MAX];
            kv_rope_angles(cs, &m->rope, 9 + t);
            kv_rope_rotate(x[3] + t * row, cs, &m->rope, m->shape.kv_heads, m->shape.head_size);
        }
        int bad = 0;
        for (size_t j = 0; j < size; j++)
            bad += !((i ? seen.v : seen.k)[j] == x[3][j]);
        cr_expect(!bad, "%s, T %d, keep %d: %d of %zu differ", i ? values : keys, T, which, bad,
                  size);
    }
    kv_bytes got = tm_window_bytes(w, 0), want = packed_bytes(m, &f[0], &f[1], kept, count[0], T,
                                                              x[0]);
    cr_expect(!memcmp(&got, &want, sizeof got), "%s %s T %d keep %d: %zu bytes, not %zu", keys,
              values, T, which, got.total, want.total);
    tm_window_close(w);
    for (int i = 0; i < 4; i++)
        free(x[i]);
    free(arrived);
    free(q), free(flags), free(codes), free(scale), free(min), free(kept);
    free(seen.k), free(seen.v);
}

Test(memory, window_is_kv_quantize_to_the_bit)
{
    static const char *const formats[][2] = {
        {"2:channel:32", "2:token:8"},     {"2:channel:all", "3:token:all"},
        {"4:channel:100:sym", "4:token:64:sym"}, {"3:channel:7:pre", "3:channel:33:sym"},
        {"8:token:4:pre", "8:channel:1"},  {"2:token:1:sym", "2:channel:all:sym"},
        {"8:channel:64:sym:pre", "8:token:all:sym"}, {"f16", "bf16"}, {"f32", "f16"},
        {"f16:pre", "4:token:2"}, {"bf16:pre", "f32"},
    };
    const kv_shape shapes[] = {{4, 2, 64}, {2, 1, 128}, {9, 3, 64}, {1, 1, 64}};
    const int threads[] = {1, 2, 5};
    uint64_t seed = 1;
    int count = 0;
    for (int v = 0; tm_kernels_at(v); v++) {
        setenv("KVSINK_SIMD", tm_kernels_at(v)->name, 1);
        for (int i = 0; i < (int)(sizeof formats / sizeof *formats); i++)
            for (int j = 0; j < CHECK_SIZES; j++, count++) {
                kv_model m = {.layers = 1, .shape = shapes[count % 4]};
                m.rope = (kv_rope){64, count % 2, 100, 1, NULL};
                tm_pool *pool;
                cr_assert_eq(tm_pool_open(&pool, threads[count % 3], NULL), KV_OK);
                check_window(&m, formats[i][0], formats[i][1], check_sizes[j], count % 5 % 3, pool,
                             &seed);
                tm_pool_close(pool);
            }
    }
    unsetenv("KVSINK_SIMD");
}

/* Every other format: what a sealed packed cache of the same rows gives back. */
static void check_sealed(const kv_model *m, const char *keys, const char *values, int T, int which,
                         kv_exclusion exclusion, tm_pool *pool, uint64_t *seed)
{
    kv_format f[2] = {format(keys), format(values)};
    int row = m->shape.kv_heads * m->shape.head_size, *kept = calloc((size_t)T, sizeof *kept);
    size_t size = (size_t)(T * row);
    float *x[4], lo[2 * 256], hi[2 * 256];
    for (int i = 0; i < 4; i++)
        x[i] = check_floats(size); /* k, k_pre, v, what is wanted */
    for (int i = 0; i < 3; i++)
        check_keys(x[i], T, row, seed);
    for (int i = 0; i < 2 * row; i++) {
        lo[i] = -2 - (float)i / 64;
        hi[i] = 3 + (float)i / 32;
    }
    uint8_t *flags = calloc((size_t)T, 1);
    int count[2] = {0, 0};
    f[0].exclusion = f[1].exclusion = exclusion;
    keep_some(kept, &count[1], flags, T, which);
    kv_keep keep = {2, 0, count, kept}; /* both layers would have the same */
    kv_cache_spec spec = {.layers = 2, .shape = m->shape, .rope = m->rope, .keys = f[0],
                          .values = f[1], .capacity = T, .kept_capacity = T, .window = 1,
                          .key_limits = {lo, hi}, .value_limits = {lo, hi}};
    kv_cache c;
    kv_error err;
    tm_window *w;
    void *memory = malloc(kv_cache_size(&spec));
    cr_assert_eq(kv_cache_init(&c, &spec, memory, &err), KV_OK, "%s", err.text);
    cr_assert_eq(kv_cache_append(&c, 1, f[0].pre ? x[1] : x[0], x[2], kept, count[1], T, &err), KV_OK);
    cr_assert_eq(kv_cache_seal(&c, 1, NULL), KV_OK);
    cr_assert_eq(tm_window_open(&w, m, &f[0], &f[1], T, pool, &err), KV_OK, "%s", err.text);
    tm_window_keep(w, &keep);
    tm_window_limits(w, spec.key_limits, spec.value_limits);
    witness seen = {check_floats(size), check_floats(size), 0};
    kv_backend b = {&seen, NULL, remember, NULL, NULL};
    const kv_memory *mem = tm_window_memory(w);
    cr_assert_eq(mem->attend(mem->self, &b, 1, NULL, NULL, NULL, x[0], x[1], x[2], NULL, 9, T, &err),
                 KV_OK, "%s", err.text);
    for (int i = 0; i < 2; i++) {
        kv_cache_read(x[3], &c, 1, i, 0, T);
        for (int t = 0; t < T && !i && f[0].pre; t++) {
            float cs[KV_HEAD_MAX];
            kv_rope_angles(cs, &m->rope, 9 + t);
            kv_rope_rotate(x[3] + t * row, cs, &m->rope, m->shape.kv_heads, m->shape.head_size);
        }
        cr_expect(check_same(i ? seen.v : seen.k, x[3], size), "%s, T %d, keep %d, exclusion %d",
                  i ? values : keys, T, which, exclusion);
    }
    kv_bytes got = tm_window_bytes(w, 1), want = kv_cache_bytes(&c, 1);
    cr_expect(!memcmp(&got, &want, sizeof got), "%s %s T %d keep %d: %zu bytes, not %zu", keys,
              values, T, which, got.total, want.total);
    tm_window_close(w);
    for (int i = 0; i < 4; i++)
        free(x[i]);
    free(flags), free(kept), free(seen.k), free(seen.v), free(memory);
}

Test(memory, window_is_a_sealed_cache_for_every_format)
{
    static const char *const formats[][2] = {
        {"nf4:channel:32", "nf2:token:8"},      {"e4m3:channel:all", "e4m3:token:all"},
        {"nf3:channel:7:pre", "nf3:channel:100"}, {"q4_0", "q4_1"},  {"q5_0:pre", "q5_1"},
        {"q8_0:had", "q4_0:had"},               {"2:channel:32:had:norm", "2:token:16:had"},
        {"4:channel:all:norm", "4:channel:all:had"}, {"2:channel:32:out2", "2:token:16:out10"},
        {"2:channel:16:pre:norm:out5", "3:channel:64:out15"}, {"4:token:16:had:norm:out30", "2:token:all:out50"},
        {"4:channel:33:static", "2:token:8:static"}, {"8:channel:all:sym:static", "nf4:token:all:static"},
        {"2:channel:32:kivi", "4:token:16:kivi"},    {"2:channel:32", "2:token:8"},
        {"4:channel:all:sym", "f16"},
    };
    const kv_shape shapes[] = {{4, 2, 64}, {2, 1, 32}, {9, 3, 64}, {4, 4, 16}};
    const int threads[] = {1, 2, 5};
    uint64_t seed = 2;
    int count = 0;
    for (int i = 0; i < (int)(sizeof formats / sizeof *formats); i++)
        for (int j = 0; j < CHECK_SIZES; j++)
            for (int exclusion = 0; exclusion < 3; exclusion++, count++) {
                kv_model m = {.layers = 2, .shape = shapes[count % 4]};
                m.rope = (kv_rope){16, count % 2, 100, 1, NULL};
                tm_pool *pool;
                cr_assert_eq(tm_pool_open(&pool, threads[count % 3], NULL), KV_OK);
                check_sealed(&m, formats[i][0], formats[i][1], check_sizes[j], count % 5 % 3,
                             (kv_exclusion)exclusion, pool, &seed);
                tm_pool_close(pool);
            }
}

/* What fails in a piece is told with its layer. */
Test(memory, window_refuses_what_a_piece_cannot_hold)
{
    kv_model m = {.layers = 1, .shape = {1, 1, 16}, .rope = {4, 1, 100, 1, NULL}};
    kv_format f = format("4:token:16:had"), s = format("4:token:16:static"), good = format("f16");
    float x[3 * 16];
    kv_error err = {0};
    tm_window *w;
    kv_backend b = kv_scalar_backend(x);
    for (int i = 0; i < 48; i++)
        x[i] = i < 32 ? 1 : 20000;
    cr_assert_eq(tm_window_open(&w, &m, &f, &good, 3, NULL, &err), KV_OK);
    const kv_memory *mem = tm_window_memory(w);
    cr_expect_eq(mem->attend(mem->self, &b, 0, x, NULL, x, x, x, x, NULL, 0, 3, &err), KV_FAIL_RUN);
    cr_expect(strstr(err.text, "layer 0, keys: cannot quantize 80000"), "%s", err.text);
    tm_window_close(w);
    cr_assert_eq(tm_window_open(&w, &m, &good, &s, 3, NULL, &err), KV_OK);
    mem = tm_window_memory(w);
    cr_expect_eq(mem->attend(mem->self, &b, 0, x, NULL, x, x, x, x, NULL, 0, 3, &err), KV_FAIL_USAGE);
    cr_expect(strstr(err.text, "calibrate --static"), "%s", err.text);
    tm_window_close(w);
}

Test(memory, window_of_constant_and_tiny_groups)
{
    const float values[] = {0, -0.0f, 1, -65504, 1e-8f, -3e-7f, 6.1e-5f};
    kv_model m = {.layers = 1, .shape = {1, 1, 4}, .rope = {4, 1, 100, 1, NULL}};
    for (int i = 0; i < 7 * 7; i++) { /* a group of two values: the range may vanish in binary16 */
        float x[8], q[8] = {0}, got_k[8], got_v[8], want[8];
        uint8_t codes[8];
        uint16_t scale[8], min[8];
        for (int j = 0; j < 8; j++)
            x[j] = values[j % 3 ? i % 7 : i / 7];
        kv_format f[2] = {format(i % 2 ? "2:channel:2" : "2:channel:2:sym"),
                          format(i % 2 ? "4:token:4:sym" : "4:token:4")};
        tm_window *w;
        cr_assert_eq(tm_window_open(&w, &m, &f[0], &f[1], 2, NULL, NULL), KV_OK);
        witness seen = {got_k, got_v, 0};
        kv_backend b = {&seen, NULL, remember, NULL, NULL};
        const kv_memory *mem = tm_window_memory(w);
        cr_assert_eq(mem->attend(mem->self, &b, 0, q, NULL, q, x, x, x, NULL, 0, 2, NULL), KV_OK);
        for (int k = 0; k < 2; k++) {
            float arrived[8];
            check_quantize(codes, scale, min, want, on_arrival(arrived, x, &f[k], 8), NULL, &f[k],
                           m.shape, 2, NULL);
            for (int j = 0; j < 8; j++)
                cr_expect((k ? got_v : got_k)[j] == want[j]);
        }
        tm_window_close(w);
    }
}

Test(memory, window_refuses)
{
    kv_model m = {.layers = 3, .shape = {2, 2, 4}, .rope = {4, 1, 100, 1, NULL}};
    const char *const formats[] = {"2:channel:32", "2:token:2", "f16", "bf16", "f32"};
    float q[40 * 8] = {0}, k[40 * 8], v[40 * 8];
    kv_error err;
    tm_window *w;
    kv_backend b = kv_scalar_backend(q);
    for (int i = 0; i < 5; i++)
        for (int kind = 0; kind < 3; kind++)
            for (int kept = 0; kept < 2; kept++) {
                int position[3] = {37, 37, 37}, count[3] = {kept, kept, kept};
                kv_keep keep = {3, 1, count, position};
                kv_format f = format(formats[i]);
                for (int j = 0; j < 40 * 8; j++)
                    k[j] = v[j] = (float)(j % 7);
                v[37 * 8 + 3] = kind == 0 ? NAN : kind == 1 ? -INFINITY : 65520;
                cr_assert_eq(tm_window_open(&w, &m, &f, &f, 40, NULL, &err), KV_OK);
                tm_window_keep(w, &keep);
                const kv_memory *mem = tm_window_memory(w);
                int code = mem->attend(mem->self, &b, 2, q, NULL, q, k, k, v, NULL, 0, 40, &err);
                if (kind == 2 && i >= 3) {
                    cr_expect_eq(code, KV_OK, "%s holds 65520", formats[i]);
                } else {
                    cr_expect_eq(code, KV_FAIL_RUN, "%s", formats[i]);
                    cr_expect(strstr(err.text, "layer 2") && strstr(err.text, "token 37"), "%s",
                              err.text);
                }
                cr_expect_eq(mem->attend(mem->self, &b, 2, q, NULL, q, k, k, v, NULL, 0, 41, &err),
                             KV_FAIL_RUN);
                tm_window_close(w);
            }
    kv_format bad = format("2:token:3"), pre = format("2:channel:8:pre"), good = format("f16");
    cr_expect_eq(tm_window_open(&w, &m, &bad, &good, 8, NULL, &err), KV_FAIL_USAGE);
    cr_expect_null(w);
    cr_expect_eq(tm_window_open(&w, &m, &good, &pre, 8, NULL, &err), KV_FAIL_USAGE);
    cr_expect_eq(tm_window_open(&w, &m, &good, &good, 0, NULL, &err), KV_FAIL_USAGE);
}

/* ----------------------------------------------------------------- stream */

typedef struct {
    const char *keys, *values;
    int recent;
} stream_case;

static const stream_case streams[] = {
    {"f16", "f16", 0},           {"f32", "bf16", 0},
    {"2:channel:8", "2:token:8", 0}, {"4:channel:16", "4:token:4", 5},
    {"3:channel:8:pre", "3:token:all", 3}, {"8:token:2:pre:sym", "8:channel:4:sym", 40},
    {"f16:pre", "2:token:1", 1}, {"2:channel:4:kivi", "2:token:4:kivi", 8},
    {"nf4:channel:8:pre:norm", "e4m3:token:all", 3}, {"4:token:all:norm", "2:token:4:out25", 2},
};

#define STREAMS ((int)(sizeof streams / sizeof *streams))

enum { TEXT = 45, PROMPT = 29 };

static void make_text(int *text)
{
    uint64_t seed = 3;
    for (int i = 0; i < TEXT; i++)
        text[i] = i == 17 || i == 33 ? TINY_SINK : 8 + check_below(&seed, TINY_VOCAB - 8);
}

/* Runs the text: a prefill in pieces of so many tokens, the rest in pieces of others. Returns the
 * final hidden states [TEXT][TINY_WIDTH]. */
static float *run_stream(tiny *t, const stream_case *c, tm_fast *fast, int prefill, int rest,
                         kv_bytes *bytes, float *rows)
{
    int text[TEXT], count[TINY_LAYERS] = {0, 2, 2, 1}, position[TINY_LAYERS * 2] = {0, 0, 0, 17, 17,
                                                                               28, 3};
    kv_keep keep = {TINY_LAYERS, 2, count, position};
    tm_stream_spec spec = {.keys = format(c->keys), .values = format(c->values),
                           .recent = c->recent, .capacity = TEXT, .kept = 4};
    tm_stream *s;
    kv_error err;
    float *hidden = check_floats(TEXT * TINY_WIDTH);
    make_text(text);
    cr_assert_eq(tm_stream_open(&s, &t->model, &spec, fast, &err), KV_OK, "%s", err.text);
    for (int at = 0; at < TEXT;) {
        int end = at < PROMPT ? PROMPT : TEXT, n = at < PROMPT ? prefill : rest;
        n = n < end - at ? n : end - at;
        if (at == PROMPT)
            cr_assert_eq(tm_stream_begin_decode(s, &keep, &err), KV_OK, "%s", err.text);
        cr_assert_eq(tm_stream_tokens(s), at);
        kv_run run = {.model = &t->model, .backend = fast ? tm_fast_backend(fast) : &t->backend,
                      .memory = tm_stream_memory(s), .past = at, .position = at + 100};
        run.work = check_floats(kv_forward_work(&t->model, 0, at, n));
        cr_assert_eq(kv_forward(hidden + at * TINY_WIDTH, &run, text + at, n, &err), KV_OK, "%s",
                     err.text);
        free(run.work);
        at += n;
    }
    for (int l = 0; l < TINY_LAYERS; l++)
        bytes[l] = tm_stream_bytes(s, l);
    if (rows)
        kv_cache_read(rows, tm_stream_cache(s), 2, 0, 0, TEXT);
    tm_stream_close(s);
    return hidden;
}

static tiny model; /* too large for some stacks */

Test(memory, stream_in_any_pieces)
{
    const int pieces[][2] = {{PROMPT, 1}, {PROMPT, TEXT}, {1, 3}, {7, 8}};
    tiny_init(&model, 1);
    for (int i = 0; i < STREAMS; i++) {
        kv_bytes first[TINY_LAYERS], bytes[TINY_LAYERS];
        float *want = run_stream(&model, &streams[i], NULL, PROMPT, 1, first, NULL);
        for (int p = 1; p < 4; p++) {
            float *got = run_stream(&model, &streams[i], NULL, pieces[p][0], pieces[p][1], bytes,
                                    NULL);
            cr_expect(check_same(got, want, TEXT * TINY_WIDTH), "%s %s in pieces of %d and %d",
                      streams[i].keys, streams[i].values, pieces[p][0], pieces[p][1]);
            cr_expect(!memcmp(first, bytes, sizeof bytes));
            free(got);
        }
        free(want);
    }
}

/* Through the fast backend the final states, which have unit mean square, move by rounding only.
 * Formats are f32: elsewhere a number on the edge between two levels may fall to the other side.
 * Each of the 4 layers adds errors of at most g(24) = 24 * 2^-24 (sums of up to 24 products) in
 * some 5 products, and the next layers and the last norm pass errors on, enlarged by the ratio of
 * sum |x||w| to |sum x w|, here below 10 for all but unlucky entries: 4 * 5 * 24 * 6e-8 * 10 = 3e-4
 * at the very worst; errors are random, so a tenth of that is asked for. */
Test(memory, stream_fast_as_scalar)
{
    const stream_case plain[2] = {{"f32", "f32", 0}, {"f32:pre", "f32", 7}};
    tiny_init(&model, 1);
    for (int i = 0; i < 2; i++) {
        kv_bytes a[TINY_LAYERS], b[TINY_LAYERS];
        tm_fast *f;
        cr_assert_eq(tm_fast_open(&f, 2, NULL), KV_OK);
        float *want = run_stream(&model, &plain[i], NULL, PROMPT, 1, a, NULL);
        float *got = run_stream(&model, &plain[i], f, PROMPT, 4, b, NULL);
        cr_expect(check_diff(got, want, TEXT * TINY_WIDTH) <= 3e-5, "%s: %g", plain[i].keys,
                  check_diff(got, want, TEXT * TINY_WIDTH));
        cr_expect(!memcmp(a, b, sizeof a));
        tm_fast_close(f);
        free(want), free(got);
    }
}

Test(memory, stream_same_bits_on_any_number_of_threads)
{
    tiny_init(&model, 1);
    for (int i = 0; i < STREAMS; i++) {
        kv_bytes a[TINY_LAYERS], b[TINY_LAYERS];
        float *one = NULL, *one_read = check_floats(TEXT * 16), *read = check_floats(TEXT * 16);
        for (int threads = 1; threads < 8; threads += 2) {
            tm_fast *f;
            cr_assert_eq(tm_fast_open(&f, threads, NULL), KV_OK);
            float *got = run_stream(&model, &streams[i], f, 10, 5, one ? b : a,
                                    one ? read : one_read);
            if (one) {
                cr_expect(check_same(got, one, TEXT * TINY_WIDTH), "%s", streams[i].keys);
                cr_expect(check_same(read, one_read, TEXT * 16));
                cr_expect(!memcmp(a, b, sizeof a));
                free(got);
            } else {
                one = got;
            }
            tm_fast_close(f);
        }
        free(one), free(one_read), free(read);
    }
}

/* The prefill is quantized like anything appended: what the cache holds is what one append of the
 * same rows gives. */
static float *taken;

static void take_keys(void *self, kv_tap tap, int layer, float *data, int rows, int cols)
{
    (void)self, (void)tap;
    if (layer == 2)
        memcpy(taken, data, (size_t)(rows * cols) * sizeof *data);
}

Test(memory, stream_holds_what_an_append_gives)
{
    tiny_init(&model, 1);
    int text[TEXT], position[TINY_LAYERS] = {0, 0, 17, 0}, count[TINY_LAYERS] = {0, 0, 1, 0};
    make_text(text);
    kv_keep keep = {TINY_LAYERS, 1, count, position};
    for (int i = 0; i < STREAMS; i++) {
        tm_stream_spec spec = {.keys = format(streams[i].keys), .values = format("f16"),
                               .recent = streams[i].recent, .capacity = TEXT, .kept = 4};
        tm_stream *s;
        kv_cache c;
        float *hidden = check_floats(TEXT * TINY_WIDTH), *got = check_floats(TEXT * 16);
        float *want = check_floats(TEXT * 16), *values = check_floats(TEXT * 16);
        taken = check_floats(TEXT * 16);
        cr_assert_eq(tm_stream_open(&s, &model.model, &spec, NULL, NULL), KV_OK);
        kv_run run = {.model = &model.model, .backend = &model.backend, .tap = take_keys,
                      .memory = tm_stream_memory(s),
                      .tap_mask = 1u << (spec.keys.pre ? KV_TAP_K_PRE : KV_TAP_K)};
        run.work = check_floats(kv_forward_work(&model.model, run.tap_mask, 0, TEXT));
        cr_assert_eq(kv_forward(hidden, &run, text, TEXT, NULL), KV_OK);
        cr_assert_eq(tm_stream_begin_decode(s, &keep, NULL), KV_OK);
        kv_cache_read(got, tm_stream_cache(s), 2, 0, 0, TEXT);
        kv_cache_spec own = {.layers = 1, .shape = model.model.shape, .rope = model.model.rope,
                             .keys = spec.keys, .values = spec.values, .recent = spec.recent,
                             .capacity = TEXT, .kept_capacity = 4};
        void *memory = malloc(kv_cache_size(&own));
        cr_assert_eq(kv_cache_init(&c, &own, memory, NULL), KV_OK);
        cr_assert_eq(kv_cache_append(&c, 0, taken, values, position + 2, 1, TEXT, NULL), KV_OK);
        kv_cache_read(want, &c, 0, 0, 0, TEXT);
        cr_expect(check_same(got, want, TEXT * 16), "%s", streams[i].keys);
        tm_stream_close(s);
        free(hidden), free(got), free(want), free(values), free(taken);
        free(memory), free(run.work);
    }
}

Test(memory, promote_before_and_after_arrival)
{
    tiny_init(&model, 1);
    int text[TEXT], kept;
    tm_stream_spec spec = {.keys = format("2:channel:8"), .values = format("2:token:8"),
                           .recent = 4, .capacity = TEXT, .kept = 4};
    tm_stream *s;
    kv_error err;
    float *hidden = check_floats(TEXT * TINY_WIDTH);
    make_text(text);
    cr_assert_eq(tm_stream_open(&s, &model.model, &spec, NULL, NULL), KV_OK);
    cr_expect_eq(tm_stream_promote(s, 3, 0, 1, NULL, &err), KV_FAIL_USAGE);
    cr_assert_eq(tm_stream_begin_decode(s, NULL, &err), KV_OK);
    cr_expect_eq(tm_stream_begin_decode(s, NULL, &err), KV_FAIL_USAGE);
    cr_expect_eq(tm_stream_promote(s, TEXT, 0, 1, NULL, &err), KV_FAIL_USAGE);
    kv_run run = {.model = &model.model, .backend = &model.backend, .memory = tm_stream_memory(s)};
    run.work = check_floats(kv_forward_work(&model.model, 0, TEXT, TEXT));
    cr_expect_eq(tm_stream_promote(s, 6, 2, 3, &kept, &err), KV_OK);
    cr_expect_eq(kept, 2);
    cr_assert_eq(kv_forward(hidden, &run, text, 10, &err), KV_OK, "%s", err.text);
    cr_expect_eq(tm_stream_promote(s, 8, 1, 9, &kept, &err), KV_OK); /* still recent */
    cr_expect_eq(kept, 3);
    cr_expect_eq(tm_stream_promote(s, 2, 0, 3, &kept, &err), KV_OK); /* its value is quantized */
    cr_expect_eq(kept, 0);
    const int want[TINY_LAYERS][2] = {{0, 0}, {8, 0}, {6, 8}, {6, 8}}, n[] = {0, 1, 2, 2};
    for (int l = 0; l < TINY_LAYERS; l++) {
        const kv_cache_layer *layer = &tm_stream_cache(s)->layer[l];
        cr_expect_eq(layer->n_kept, n[l]);
        for (int i = 0; i < n[l]; i++)
            cr_expect_eq(layer->position[i], want[l][i]);
    }
    tm_stream_reset(s);
    cr_expect_eq(tm_stream_tokens(s), 0);
    cr_expect_null(tm_stream_cache(s));
    cr_expect_eq(tm_stream_bytes(s, 0).total, 0);
    tm_stream_close(s);
    free(hidden), free(run.work);
}

Test(memory, stream_refuses)
{
    tiny_init(&model, 1);
    int text[TEXT], many[TINY_LAYERS] = {1, 0, 3, 0}, position[TINY_LAYERS * 3] = {0};
    tm_stream_spec all = {.keys = format("2:channel:all"), .values = format("f16"),
                          .capacity = TEXT, .kept = 4};
    tm_stream_spec spec = {.keys = format("2:channel:8"), .values = format("f16"), .capacity = 12,
                           .kept = 2};
    tm_stream *s;
    kv_error err;
    float *hidden = check_floats(TEXT * TINY_WIDTH);
    make_text(text);
    cr_expect_eq(tm_stream_open(&s, &model.model, &all, NULL, &err), KV_FAIL_USAGE);
    cr_expect_null(s);
    cr_assert_eq(tm_stream_open(&s, &model.model, &spec, NULL, NULL), KV_OK);
    kv_run run = {.model = &model.model, .backend = &model.backend, .memory = tm_stream_memory(s)};
    run.work = check_floats(kv_forward_work(&model.model, 0, TEXT, TEXT));
    cr_expect_eq(kv_forward(hidden, &run, text, 13, &err), KV_FAIL_RUN); /* no room */
    tm_stream_reset(s);
    cr_expect_eq(kv_forward(hidden, &run, text, 8, &err), KV_OK);
    run.past = 8;
    run.position = 9; /* a hole */
    cr_expect_eq(kv_forward(hidden, &run, text, 1, &err), KV_FAIL_USAGE);
    run.position = 8;
    for (int i = 0; i < 3; i++)
        position[2 * 3 + i] = i;
    kv_keep keep = {TINY_LAYERS, 3, many, position};
    cr_expect_eq(tm_stream_begin_decode(s, &keep, &err), KV_FAIL_RUN); /* 3 kept, room for 2 */
    cr_expect(strstr(err.text, "layer 2"), "%s", err.text);
    cr_expect_eq(tm_stream_begin_decode(s, NULL, &err), KV_OK);
    cr_expect_eq(kv_forward(hidden, &run, text, 5, &err), KV_FAIL_RUN);
    tm_stream_close(s);
    free(hidden), free(run.work);
}
