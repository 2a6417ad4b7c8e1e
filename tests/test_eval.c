/* Evaluation: windows are cut as promised, scores are what the formulas say, whole windows agree
 * with the packed cache of ref/ bit for bit, streams with a plain forward pass; and on the
 * hand-built model the numbers tell the story of the book. */
#define _XOPEN_SOURCE 700 /* mkstemp */

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <criterion/criterion.h>
#include <criterion/new/assert.h>

#include "eval.h"
#include "handmade.h"
#include "kernels.h"
#include "model.h"
#include "tiny.h"
#include "tokenizer.h"

/* ---------------------------------------------------------------- windows */

static void expect_windows(tm_bos rule, int limit, int count, const int *expected)
{
    const int ids[7] = {10, 11, 12, 13, 14, 15, 16};
    kv_error err;
    int *w, n;
    cr_assert(eq(int, tm_windows(&w, &n, ids, 7, 3, rule, 1, limit, &err), 0), "%s", err.text);
    cr_assert(eq(int, n, count));
    for (int i = 0; i < 3 * count; i++)
        cr_expect(w[i] == expected[i], "rule %d: id %d is %d", rule, i, w[i]);
    free(w);
}

Test(test_eval, windows_do_not_overlap_and_drop_the_rest)
{
    expect_windows(TM_BOS_EACH, 0, 3, (int[]){1, 10, 11, 1, 12, 13, 1, 14, 15});
    expect_windows(TM_BOS_FIRST, 0, 2, (int[]){1, 10, 11, 12, 13, 14});
    expect_windows(TM_BOS_NONE, 0, 2, (int[]){10, 11, 12, 13, 14, 15});
    expect_windows(TM_BOS_EACH, 2, 2, (int[]){1, 10, 11, 1, 12, 13});
    expect_windows(TM_BOS_NONE, 9, 2, (int[]){10, 11, 12, 13, 14, 15});
}

Test(test_eval, a_text_shorter_than_a_window_is_an_error)
{
    static const struct {
        tm_bos rule;
        int enough; /* ids that fill a window of 5 */
    } cases[] = {{TM_BOS_EACH, 4}, {TM_BOS_FIRST, 4}, {TM_BOS_NONE, 5}};
    const int ids[5] = {1, 2, 3, 4, 5};
    for (int i = 0; i < 3; i++) {
        kv_error err;
        int *w, n, enough = cases[i].enough;
        cr_expect(eq(int, tm_windows(&w, &n, ids, enough - 1, 5, cases[i].rule, 0, 0, &err),
                     KV_FAIL_RUN));
        cr_expect(w == NULL);
        cr_expect(eq(int, tm_windows(&w, &n, ids, enough, 5, cases[i].rule, 0, 0, &err), 0));
        cr_expect(eq(int, n, 1));
        free(w);
        cr_expect(eq(int, tm_windows(&w, &n, ids, 5, 1, cases[i].rule, 0, 0, &err),
                     KV_FAIL_USAGE));
    }
}

/* --------------------------------------------------------------- scoring */

Test(test_eval, scores_follow_their_formulas)
{
    const float a[4] = {1, 2, 0.5f, -3}, b[4] = {0, 2.5f, 1, 4};
    double pa[4], pb[4], za = 0, zb = 0, kl = 0;
    for (int i = 0; i < 4; i++) za += exp(a[i]);
    for (int i = 0; i < 4; i++) zb += exp(b[i]);
    for (int i = 0; i < 4; i++) {
        pa[i] = exp(a[i]) / za;
        pb[i] = exp(b[i]) / zb;
        kl += pa[i] * log(pa[i] / pb[i]);
    }
    tm_score s = tm_score_row(a, b, 4, 2);
    cr_expect(epsilon_eq(dbl, s.loss16, -log(pa[2]), 1e-12));
    cr_expect(epsilon_eq(dbl, s.loss, -log(pb[2]), 1e-12));
    cr_expect(epsilon_eq(dbl, s.kl, kl, 1e-12));
    cr_expect(eq(int, s.same, 0));
    s = tm_score_row(a, a, 4, 0);
    cr_expect(s.kl == 0 && s.same == 1 && s.loss == s.loss16);
}

Test(test_eval, large_logits_do_not_overflow_and_ties_take_the_first)
{
    const float a[3] = {3e4f, 3e4f, -3e4f}, b[3] = {3e4f, 2e4f, 3e4f};
    tm_score s = tm_score_row(a, b, 3, 1);
    cr_expect(eq(int, s.same, 1));
    cr_expect(epsilon_eq(dbl, s.loss16, log(2), 1e-11)); /* 30000 and a double's 16 digits */
    cr_expect(epsilon_eq(dbl, s.loss, 1e4 + log(2), 1e-8));
    cr_expect(epsilon_eq(dbl, s.kl, 0.5 * 0 + 0.5 * 1e4, 1e-8));
}

/* ----------------------------------------- whole windows against the cache */

enum { CTX = 37, WINDOWS = 2 };

static tiny m;
static tm_engine engine = {&m.model, &m.backend};
static int windows[WINDOWS * CTX];

static void setup(void)
{
    tiny_init(&m, 1);
    for (int i = 0; i < WINDOWS * CTX; i++) windows[i] = 8 + (i * i + 3 * i) % 31;
    windows[21] = windows[CTX + 5] = TINY_SINK;
}

static tm_eval_spec spec_of(const char *keys, const char *values, const char *keep)
{
    tm_eval_spec s = {.ctx = CTX};
    kv_error err;
    cr_assert(eq(int, kv_format_parse(&s.keys, keys, &err), 0));
    cr_assert(eq(int, kv_format_parse(&s.values, values, &err), 0));
    cr_assert(eq(int, kv_keep_parse(&s.keep, keep, &err), 0), "%s", err.text);
    return s;
}

/* A memory made of nothing but ref/: everything into a packed cache, sealed, read back. */
typedef struct {
    kv_cache cache;
    const kv_keep *keep;
} by_cache;

static int attend_by_cache(void *self, const kv_backend *backend, int layer, float *out,
                           float *rows, const float *q, const float *k, const float *k_pre,
                           const float *v, const float *sink, int position, int n, kv_error *err)
{
    static float keys[CTX * 16], values[CTX * 16];
    by_cache *c = self;
    const int *kept = c->keep->position + layer * c->keep->capacity;
    int pre = c->cache.spec.keys.pre;
    int n_kept = c->keep->count[layer];
    if (kv_cache_append(&c->cache, layer, pre ? k_pre : k, v, kept, n_kept, n, err) ||
        kv_cache_seal(&c->cache, layer, err)) return err->code;
    kv_cache_read(keys, &c->cache, layer, 0, 0, n);
    kv_cache_read(values, &c->cache, layer, 1, 0, n);
    for (int t = 0; t < n && pre; t++) {
        float cs[TINY_HEAD];
        kv_rope_angles(cs, &m.model.rope, position + t);
        kv_rope_rotate(keys + t * 16, cs, &m.model.rope, TINY_KV_HEADS, TINY_HEAD);
    }
    return backend->attention(backend->self, out, rows, q, keys, values, sink, m.model.shape, 0, n,
                              err);
}

/* Logits of one window, and the bytes its cache took. */
static double run_by_cache(float *logits, const tm_eval_spec *s, const kv_keep *keep,
                           const int *tokens)
{
    static float hidden[CTX * TINY_WIDTH], work[200000];
    kv_error err;
    by_cache c = {.keep = keep};
    kv_cache_spec spec = {.layers = TINY_LAYERS, .shape = m.model.shape, .rope = m.model.rope,
                          .keys = s->keys, .values = s->values, .capacity = CTX,
                          .kept_capacity = CTX, .window = 1};
    void *memory = calloc(1, kv_cache_size(&spec));
    cr_assert(eq(int, kv_cache_init(&c.cache, &spec, memory, &err), 0));
    kv_memory mem = {&c, attend_by_cache};
    kv_run run = {.model = &m.model, .backend = &m.backend, .memory = &mem, .work = work};
    cr_assert(eq(int, kv_forward(hidden, &run, tokens, CTX, &err), 0), "%s", err.text);
    cr_assert(eq(int, kv_logits(logits, &run, hidden, CTX, &err), 0));
    double bytes = 0;
    for (int l = 0; l < TINY_LAYERS; l++) bytes += (double)kv_cache_bytes(&c.cache, l).total;
    free(memory);
    return bytes;
}

Test(test_eval, a_whole_window_is_what_the_packed_cache_gives)
{
    static const char *const cases[][3] = {
        {"2:channel:8", "2:token:8", "none"},
        {"2:channel:8", "2:token:8", "first:3"},
        {"3:channel:all:sym", "4:token:all", "positions:0,21"},
        {"4:channel:16:pre", "bf16", "ids:7"},
        {"f16", "f16", "first:5"},
        {"f32", "8:token:4:sym", "positions:36"},
        {"nf2:channel:8", "nf3:token:8:had", "first:3"},
        {"e4m3:token:4", "2:token:8:norm", "positions:0,21"},
        {"2:channel:16:out10", "3:token:8:out20", "first:2"},
        {"4:channel:all:had:norm", "nf4:token:all", "positions:21"},
    };
    static float logits16[CTX * TINY_VOCAB], logits[CTX * TINY_VOCAB];
    setup();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        tm_eval_spec s = spec_of(cases[i][0], cases[i][1], cases[i][2]);
        tm_eval_spec base = spec_of("f16", "f16", "none");
        double loss16 = 0, loss = 0, kl = 0, bytes = 0, kept = 0;
        int same = 0, scored = WINDOWS * (CTX - 1);
        tm_eval_result r;
        kv_error err;
        for (int w = 0; w < WINDOWS; w++) {
            const int *tokens = windows + w * CTX;
            kv_keep keep, none;
            cr_assert(eq(int, tm_keep_init(&keep, TINY_LAYERS, CTX, &err), 0));
            cr_assert(eq(int, tm_keep_init(&none, TINY_LAYERS, CTX, &err), 0));
            cr_assert(eq(int, tm_keep_build(&keep, NULL, &s.keep, tokens, CTX, NULL, NULL, &err),
                         0));
            run_by_cache(logits16, &base, &none, tokens);
            bytes += run_by_cache(logits, &s, &keep, tokens) / WINDOWS;
            kept += (double)keep.count[0] / WINDOWS;
            for (int t = 0; t + 1 < CTX; t++) {
                tm_score one = tm_score_row(logits16 + t * TINY_VOCAB, logits + t * TINY_VOCAB,
                                            TINY_VOCAB, tokens[t + 1]);
                loss16 += one.loss16;
                loss += one.loss;
                kl += one.kl;
                same += one.same;
            }
            tm_keep_free(&keep);
            tm_keep_free(&none);
        }
        cr_assert(eq(int, tm_eval(&r, &s, &engine, NULL, windows, WINDOWS, NULL, NULL, &err), 0),
                  "%s", err.text);
        /* The same arrays give the same bits; sums differ in their order only. */
        cr_expect(fabs(r.ppl16 - exp(loss16 / scored)) <= 1e-9 * r.ppl16, "case %zu", i);
        cr_expect(fabs(r.ppl - exp(loss / scored)) <= 1e-9 * r.ppl, "case %zu: %.12g, cache %.12g",
                  i, r.ppl, exp(loss / scored));
        cr_expect(fabs(r.kl - kl / scored) <= 1e-9, "case %zu: %.12g, cache %.12g", i, r.kl,
                  kl / scored);
        cr_expect(fabs(r.top1 - (double)same / scored) <= 1e-15, "case %zu", i);
        cr_expect(r.bytes == bytes, "case %zu: %g bytes, cache %g", i, r.bytes, bytes);
        cr_expect(fabs(r.kept - kept) <= 1e-12, "case %zu", i);
        cr_expect(r.bits == 8 * r.bytes / (2.0 * TINY_LAYERS * 16 * CTX), "case %zu", i);
        cr_expect(r.bytes16 == 2.0 * 2 * TINY_LAYERS * 16 * CTX, "case %zu", i);
        cr_expect(r.windows == WINDOWS && r.tokens == scored);
        if (i == 4) cr_expect(r.kl == 0 && r.top1 == 1 && r.ppl == r.ppl16 && r.bits == 16);
        else cr_expect(r.kl > 0 && r.kl_error > 0, "case %zu", i);
    }
}

/* ---------------------------------------------------------------- streams */

Test(test_eval, a_float_stream_predicts_what_a_plain_pass_predicts)
{
    static float hidden[CTX * TINY_WIDTH], work[200000], logits[CTX * TINY_VOCAB];
    static const int prefill[] = {1, 8, CTX - 2};
    setup();
    for (int i = 0; i < 3; i++) {
        tm_eval_spec s = spec_of("f32", "f32", "none");
        tm_eval_result r;
        kv_error err;
        double loss = 0;
        int P = prefill[i], scored = WINDOWS * (CTX - 1 - P);
        s.stream = P;
        for (int w = 0; w < WINDOWS; w++) {
            kv_run run = {.model = &m.model, .backend = &m.backend, .work = work};
            const int *tokens = windows + w * CTX;
            cr_assert(eq(int, kv_forward(hidden, &run, tokens, CTX, &err), 0));
            cr_assert(eq(int, kv_logits(logits, &run, hidden, CTX, &err), 0));
            for (int t = P; t + 1 < CTX; t++)
                loss += tm_score_row(logits + t * TINY_VOCAB, logits + t * TINY_VOCAB, TINY_VOCAB,
                                     tokens[t + 1]).loss;
        }
        cr_assert(eq(int, tm_eval(&r, &s, &engine, NULL, windows, WINDOWS, NULL, NULL, &err), 0),
                  "%s", err.text);
        cr_expect(r.tokens == scored);
        /* float32 rounding of logits of size 1 */
        cr_expect(fabs(r.ppl - exp(loss / scored)) <= 1e-5 * r.ppl, "P %d: %.9g and %.9g", P, r.ppl,
                  exp(loss / scored));
        cr_expect(r.kl >= 0 && r.kl < 1e-3 && r.bits == 32);
    }
}

Test(test_eval, a_stream_keeps_what_it_counts)
{
    kv_error err;
    tm_eval_result r, f16;
    setup();
    tm_eval_spec s = spec_of("2:channel:8", "2:token:8", "first:3");
    s.stream = 10;
    s.recent = 8;
    cr_assert(eq(int, tm_eval(&r, &s, &engine, NULL, windows, WINDOWS, NULL, NULL, &err), 0));
    /* Per layer: keys: 24 tokens are three full groups of 8, of which one cannot be quantized
     * before token 32 has stopped being recent; so 24 in codes (3 x 16 groups of one word, scale
     * and minimum), 13 recent. Values: 29 tokens of 2 groups of one word each, 8 recent. Kept: 3 rows
     * of keys and values, 4 bytes each for their positions; holes are counted. */
    double keys = 3 * 16 * 8 + 13 * 32, values = 29 * 2 * 8 + 8 * 32, kept = 3 * (64 + 4);
    cr_expect(r.bytes == TINY_LAYERS * (keys + values + kept), "%g, expected %g", r.bytes,
              TINY_LAYERS * (keys + values + kept));
    cr_expect(r.kept == 3 && r.kl > 0);
    tm_eval_spec base = spec_of("f16", "f16", "first:3");
    base.stream = 10;
    cr_assert(eq(int, tm_eval(&f16, &base, &engine, NULL, windows, WINDOWS, NULL, NULL, &err), 0));
    cr_expect(f16.kl == 0 && f16.top1 == 1 && f16.ppl == r.ppl16 && f16.bits == 16);
    cr_expect(f16.kept == 3);
}

/* ----------------------------------------------------------------- errors */

Test(test_eval, bad_choices_are_usage_errors)
{
    static const struct {
        const char *keys, *values, *keep;
        int stream, recent;
        const char *said;
    } cases[] = {
        {"f16", "f16", "none", 0, 4, "--recent"},
        {"f16", "f16", "none", CTX - 1, 0, "--stream"},
        {"f16", "f16", "none", CTX, 0, "--stream"},
        {"2:token:3", "f16", "none", 0, 0, "3"},
        {"f16", "2:channel:8:pre", "none", 0, 0, "pre"},
        {"2:channel:all", "f16", "none", 8, 0, "channel:all"},
        {"2:channel:8", "f16", "positions:37", 0, 0, "37"},
        {"2:channel:8", "f16", "positions:9", 9, 0, "position"},
        {"2:channel:8", "f16", "kvsink:5", 0, 0, "calibrate"},
        {"2:channel:8", "f16", "first:1/2-9", 0, 0, "layer 9"},
    };
    setup();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        tm_eval_spec s = spec_of(cases[i].keys, cases[i].values, cases[i].keep);
        tm_eval_result r;
        kv_error err = {0};
        s.stream = cases[i].stream;
        s.recent = cases[i].recent;
        cr_expect(tm_eval(&r, &s, &engine, NULL, windows, WINDOWS, NULL, NULL, &err) ==
                  KV_FAIL_USAGE, "case %zu", i);
        cr_expect(strstr(err.text, cases[i].said) != NULL, "case %zu says: %s", i, err.text);
    }
}

Test(test_eval, a_damaged_model_is_a_run_time_error)
{
    kv_error err;
    tm_eval_result r;
    setup();
    ((float *)m.layer[1].v.data)[3] = NAN;
    tm_eval_spec s = spec_of("2:channel:8", "f16", "none");
    cr_expect(eq(int, tm_eval(&r, &s, &engine, NULL, windows, WINDOWS, NULL, NULL, &err),
                 KV_FAIL_RUN));
}

/* --------------------------------------------------- the hand-built model */

typedef struct {
    tm_model *model;
    tm_fast *fast;
    tm_engine e;
    int ids[256], n;
    tm_calibration calibration;
} handmade;

static void open_handmade(handmade *h, tm_sinks sinks)
{
    char path[] = "/tmp/test_eval_XXXXXX";
    int fd = mkstemp(path), *ids;
    tokenizer *tok;
    kv_error err;
    tm_handmade_options options = {sinks};
    const char *text = tm_handmade_verse_twice();
    cr_assert(fd >= 0);
    close(fd);
    cr_assert(eq(int, tm_handmade_write(path, &options, &err), 0), "%s", err.text);
    cr_assert(eq(int, tm_model_load(&h->model, path, &err), 0), "%s", err.text);
    unlink(path);
    cr_assert(eq(int, tm_fast_open(&h->fast, 2, &err), 0));
    cr_assert(eq(int, tok_open(&tok, h->model->file, &err), 0));
    cr_assert(eq(int, tok_encode(&ids, &h->n, tok, text, strlen(text), 0, &err), 0));
    cr_assert(h->n < 255);
    h->ids[0] = tok_bos(tok);
    memcpy(h->ids + 1, ids, (size_t)h->n++ * sizeof *ids);
    free(ids);
    tok_close(tok);
    h->e = (tm_engine){h->model->kv, tm_fast_backend(h->fast)};
    const int *const prompts[1] = {h->ids};
    cr_assert(eq(int, tm_calibrate(&h->calibration, &h->e, prompts, &h->n, 1, NULL, NULL, &err),
                 0));
}

static void close_handmade(handmade *h)
{
    tm_calibration_free(&h->calibration);
    tm_fast_close(h->fast);
    tm_model_free(h->model);
}

static tm_eval_result evaluate(const handmade *h, const char *keep)
{
    tm_eval_result r;
    kv_error err;
    tm_eval_spec s = spec_of("2:channel:64", "2:token:64", keep);
    s.ctx = h->n;
    s.profile = &h->calibration.profile;
    cr_assert(eq(int, tm_eval(&r, &s, &h->e, h->fast, h->ids, 1, NULL, NULL, &err), 0), "%s",
              err.text);
    return r;
}

Test(test_eval, two_bits_break_on_sinks_and_kvsink_repairs_them)
{
    handmade h;
    open_handmade(&h, TM_SINKS_SEVERAL);
    cr_assert(eq(int, h.calibration.profile.n_stages, 1));
    tm_eval_result none = evaluate(&h, "none"), first = evaluate(&h, "first:5");
    tm_eval_result sink = evaluate(&h, "kvsink:5");
    cr_expect(none.kl > 1 && first.kl > 1, "none %g, first:5 %g", none.kl, first.kl);
    cr_expect(sink.kl < 0.01 && sink.top1 == 1, "kvsink:5 %g, %g", sink.kl, sink.top1);
    cr_expect(sink.bytes <= first.bytes);
    close_handmade(&h);
}

Test(test_eval, without_sinks_kvsink_is_none_to_the_bit)
{
    handmade h;
    open_handmade(&h, TM_SINKS_NONE);
    cr_assert(eq(int, h.calibration.profile.n_stages, 0));
    tm_eval_result none = evaluate(&h, "none"), sink = evaluate(&h, "kvsink:5");
    cr_expect(none.ppl == sink.ppl && none.kl == sink.kl && none.bytes == sink.bytes);
    cr_expect(sink.kept == 0);
    close_handmade(&h);
}

/* ------------------------------------------------- vector code for scoring */

/* Size 1 to a few lanes and beyond; the polynomial's error is 6.3e-15, and some roundings. */
Test(test_eval, exponentials_are_those_of_the_library)
{
    for (int v = 0; tm_kernels_at(v); v++) {
        const tm_kernels *k = tm_kernels_at(v);
        double worst = 0;
        for (int i = 0; i <= 140000; i++) {
            double x = -700 + i / 100.0 + sin(i) / 1000, y;
            if (x > 700 || x < -700) continue;
            k->exp_double(&y, &x, 1);
            double off = fabs(y / exp(x) - 1);
            if (!(off <= worst)) worst = off;
        }
        cr_expect(worst <= 2e-14, "%s: %g", k->name, worst);
        double nan = NAN, y;
        k->exp_double(&y, &nan, 1);
        cr_expect(isnan(y), "%s: a NaN must stay one", k->name);
    }
}

Test(test_eval, every_version_scores_with_the_same_bits)
{
    static const int sizes[] = {1, 2, 15, 16, 17, 31, 33, 500};
    static float a[500], b[500];
    uint64_t seed = 5;
    for (int i = 0; i < 500; i++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        a[i] = (float)(seed >> 40) / 400000.0f - 20;
        b[i] = a[i] + (float)(seed & 0xffff) / 65536.0f;
    }
    const tm_kernels *plain = tm_kernels_at(0);
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        int n = sizes[s], best = 0;
        double sum = 0, top = 0;
        for (int i = 1; i < n; i++)
            if (a[i] > a[best]) best = i;
        top = a[best];
        for (int i = 0; i < n; i++) sum += exp(a[i] - top);
        double z = top + log(sum), kl = plain->kl_sum(a, z, b, z + 0.5, n);
        cr_expect(fabs(plain->exp_sum(a, top, n) - sum) <= 1e-13 * sum, "size %d", n);
        for (int v = 0; tm_kernels_at(v); v++) {
            const tm_kernels *k = tm_kernels_at(v);
            cr_expect(k->exp_sum(a, top, n) == plain->exp_sum(a, top, n), "%s, %d", k->name, n);
            cr_expect(k->kl_sum(a, z, b, z + 0.5, n) == kl, "%s, %d", k->name, n);
            cr_expect(k->largest(a, n) == best, "%s, %d", k->name, n);
        }
    }
}

/* KL of nearly equal rows is about half the variance of the difference, far below the rounding of
 * each term; it must come out right, and not below zero by more than the sum's rounding. */
Test(test_eval, a_kl_near_zero_is_not_lost_in_rounding)
{
    enum { N = 3000 };
    static float a[N], b[N];
    for (int e = 2; e <= 7; e++) {
        long double za = 0, zb = 0, kl = 0;
        for (int i = 0; i < N; i++) {
            a[i] = 8 * (float)sin(i);
            b[i] = a[i] + (float)(pow(10, -e) * cos(3.0 * i));
            za += expl((long double)a[i]);
            zb += expl((long double)b[i]);
        }
        for (int i = 0; i < N; i++)
            kl += expl(a[i]) / za * ((a[i] - logl(za)) - (b[i] - logl(zb)));
        tm_score s = tm_score_row(a, b, N, 1);
        cr_expect(fabs(s.kl - (double)kl) <= 1e-6 * (double)kl + 2e-14, "e %d: %g, exact %g", e,
                  s.kl, (double)kl);
    }
    cr_expect(tm_score_row(a, a, N, 1).kl == 0);
}

/* ------------------------------------------------- one base, several cells */

static void expect_same_result(const tm_eval_result *a, const tm_eval_result *b)
{
    cr_expect(a->ppl16 == b->ppl16 && a->ppl == b->ppl && a->kl == b->kl && a->top1 == b->top1);
    cr_expect(a->kl_error == b->kl_error && a->loss == b->loss && a->bits == b->bits);
    cr_expect(a->bytes == b->bytes && a->bytes16 == b->bytes16 && a->kept == b->kept);
}

/* What a cell gives does not depend on the cells before it, on other rules that share the
 * 16-bit pass, on whether logits are held, or on threads. */
Test(test_eval, cells_on_one_base_are_what_each_gives_alone)
{
    static const char *const keep[] = {"none", "first:3", "toph:2", "bigkeys:4", "attention:2"};
    enum { KEEPS = 5 };
    tm_choice choice[KEEPS];
    kv_error err;
    setup();
    for (int i = 0; i < KEEPS; i++)
        cr_assert(eq(int, tm_choice_parse(&choice[i], keep[i], &err), 0), "%s", err.text);
    for (int held = 0; held < 2; held++) {
        tm_base *base;
        tm_base_spec b = {.ctx = CTX, .choice = choice, .choices = KEEPS, .hold = 1,
                          .memory = held ? 1 << 20 : 0};
        cr_assert(eq(int, tm_base_open(&base, &b, &engine, NULL, windows, WINDOWS, &err), 0));
        for (int round = 0; round < 2; round++)
            for (int i = KEEPS - 1; i >= 0; i--) {
                tm_eval_spec s = spec_of("2:channel:8", "2:token:8", keep[i]);
                tm_eval_cell cell = {.keys = s.keys, .values = s.values, .choice = i};
                tm_eval_result alone, shared;
                cr_assert(eq(int, tm_eval(&alone, &s, &engine, NULL, windows, WINDOWS, NULL, NULL,
                                          &err), 0), "%s", err.text);
                cr_assert(eq(int, tm_eval_on(&shared, NULL, NULL, NULL, &cell, base, NULL, NULL,
                                             &err), 0), "%s", err.text);
                expect_same_result(&alone, &shared);
            }
        tm_base_close(base);
    }
}

Test(test_eval, a_cell_may_take_the_first_windows_only)
{
    tm_choice none = {.rule.kind = KV_KEEP_NONE};
    tm_base_spec b = {.ctx = CTX, .choice = &none, .choices = 1, .hold = 1};
    tm_base *base;
    kv_error err;
    setup();
    tm_eval_spec s = spec_of("2:channel:8", "2:token:8", "none");
    tm_eval_cell cell = {.keys = s.keys, .values = s.values, .windows = 1};
    tm_eval_result alone, part;
    cr_assert(eq(int, tm_base_open(&base, &b, &engine, NULL, windows, WINDOWS, &err), 0));
    cr_assert(eq(int, tm_eval(&alone, &s, &engine, NULL, windows, 1, NULL, NULL, &err), 0));
    cr_assert(eq(int, tm_eval_on(&part, NULL, NULL, NULL, &cell, base, NULL, NULL, &err), 0));
    expect_same_result(&alone, &part);
    cr_expect(part.windows == 1 && part.kl_error == 0);
    tm_base_close(base);
}

Test(test_eval, windows_and_octaves_add_up)
{
    static const long long expected[] = {1, 2, 4, 8, 16, 5}; /* positions 1 .. 36 */
    tm_choice none = {.rule.kind = KV_KEEP_NONE};
    tm_base_spec b = {.ctx = CTX, .choice = &none, .choices = 1, .hold = 1};
    tm_eval_window each[WINDOWS];
    tm_base *base;
    kv_error err;
    setup();
    tm_eval_spec s = spec_of("2:channel:8", "2:token:8", "none");
    tm_eval_cell cell = {.keys = s.keys, .values = s.values};
    tm_eval_result r;
    cr_assert(eq(int, tm_base_open(&base, &b, &engine, NULL, windows, WINDOWS, &err), 0));
    cr_assert(eq(int, tm_eval_on(&r, each, NULL, NULL, &cell, base, NULL, NULL, &err), 0));
    tm_base_close(base);
    double kl = 0, loss = 0, loss16 = 0;
    for (int o = 0; o < TM_OCTAVES; o++) {
        cr_expect(r.octave[o].tokens == (o < 6 ? expected[o] * WINDOWS : 0), "octave %d", o);
        kl += r.octave[o].kl;
        loss += r.octave[o].loss;
        loss16 += r.octave[o].loss16;
    }
    int n = WINDOWS * (CTX - 1);
    cr_expect(fabs(kl / n - r.kl) <= 1e-12 && fabs(exp(loss / n) - r.ppl) <= 1e-9 * r.ppl);
    cr_expect(fabs(exp(loss16 / n) - r.ppl16) <= 1e-9 * r.ppl16);
    /* two windows: the error of a mean is half their difference */
    cr_expect(fabs(r.kl_error - fabs(each[0].kl - each[1].kl) / 2) <= 1e-15);
    cr_expect(fabs(r.top1_error - fabs(each[0].top1 - each[1].top1) / 2) <= 1e-15);
    double more[2] = {each[0].loss - each[0].loss16, each[1].loss - each[1].loss16};
    cr_expect(fabs(r.loss_error - fabs(more[0] - more[1]) / 2) <= 1e-15);
    cr_expect(fabs(r.loss - log(r.ppl / r.ppl16)) <= 1e-12);
    cr_expect(fabs(r.kl - (each[0].kl + each[1].kl) / 2) <= 1e-15);
}

/* ----------------------------------------------------------------- layers */

/* Keys and values of one window's 16-bit pass, taken from the taps. */
typedef struct {
    float k[TINY_LAYERS][CTX * 16], v[TINY_LAYERS][CTX * 16];
} arrays;

static void take_arrays(void *self, kv_tap tap, int layer, float *data, int rows, int cols)
{
    arrays *a = self;
    memcpy(tap == KV_TAP_K ? a->k[layer] : a->v[layer], data,
           (size_t)rows * (size_t)cols * sizeof *data);
}

/* Adds the squares of error and norm of one layer's array, by kind of token. */
static void add_squares(double off[2], double all[2], float *x, const uint8_t *kept,
                        const kv_format *f, int is_values, int sink)
{
    static float hat[CTX * 16];
    static uint8_t codes[CTX * 16];
    static uint16_t scale[CTX * 16], min[CTX * 16];
    kv_error err;
    kv_quantized out = {codes, scale, min, hat, NULL, NULL};
    kv_rows in = {x, kept, m.model.shape, CTX, is_values, NULL, NULL};
    for (int i = 0; i < CTX * 16; i++) x[i] = kv_half_to_float(kv_half_from_float(x[i]));
    cr_assert(eq(int, kv_quantize(&out, &in, f, &err), 0));
    for (int i = 0; i < CTX * 16; i++) {
        int kind = i / 16 == sink ? TM_SINK_TOKENS : TM_OTHER_TOKENS;
        off[kind] += ((double)hat[i] - x[i]) * ((double)hat[i] - x[i]);
        all[kind] += (double)x[i] * x[i];
    }
}

Test(test_eval, errors_of_layers_are_those_of_the_quantizer)
{
    static arrays a;
    static float hidden[CTX * TINY_WIDTH], work[200000];
    tm_layer_error layer[TINY_LAYERS];
    int mark[CTX];
    tm_choice choice = {0};
    tm_base_spec b = {.ctx = CTX, .choice = &choice, .choices = 1, .hold = 1, .marks = 1};
    tm_base *base;
    kv_error err;
    tm_eval_result r;
    setup();
    tm_eval_spec s = spec_of("2:channel:8", "3:token:4", "positions:5,9");
    tm_eval_spec plain = spec_of("f16", "f16", "none");
    tm_eval_cell cell = {.keys = s.keys, .values = s.values};
    choice.rule = s.keep;
    cr_assert(eq(int, tm_base_open(&base, &b, &engine, NULL, windows, 1, &err), 0));
    cr_assert(eq(int, tm_eval_on(&r, NULL, layer, mark, &cell, base, NULL, NULL, &err), 0), "%s",
              err.text);
    tm_base_close(base);
    tm_window *w;
    cr_assert(eq(int, tm_window_open(&w, &m.model, &plain.keys, &plain.values, CTX, NULL, &err),
                 0));
    kv_run run = {.model = &m.model, .backend = &m.backend, .memory = tm_window_memory(w),
                  .tap = take_arrays, .tap_self = &a,
                  .tap_mask = 1u << KV_TAP_K | 1u << KV_TAP_V, .work = work};
    cr_assert(eq(int, kv_forward(hidden, &run, windows, CTX, &err), 0));
    tm_window_close(w);
    uint8_t kept[CTX] = {0};
    kept[5] = kept[9] = 1;
    for (int l = 0; l < TINY_LAYERS; l++) {
        double off[2][2] = {{0}}, all[2][2] = {{0}};
        add_squares(off[0], all[0], a.k[l], kept, &s.keys, 0, 0); /* token 0 is the sink */
        add_squares(off[1], all[1], a.v[l], kept, &s.values, 1, 0);
        for (int kind = 0; kind < 2; kind++) {
            double k = sqrt(off[0][kind] / all[0][kind]), v = sqrt(off[1][kind] / all[1][kind]);
            cr_expect(fabs(layer[l].keys[kind] - k) <= 1e-12 && k > 0, "layer %d: %g, %g", l,
                      layer[l].keys[kind], k);
            cr_expect(fabs(layer[l].values[kind] - v) <= 1e-12 && v > 0, "layer %d: %g, %g", l,
                      layer[l].values[kind], v);
            cr_expect(layer[l].attention[kind] > 0 && layer[l].attention[kind] < 2);
        }
    }
    cr_expect(r.logits_error[0] > 0 && r.logits_error[1] > 0);
    for (int t = 0; t < CTX; t++)
        cr_expect(mark[t] == (t == 5 || t == 9 ? TINY_LAYERS : 0), "token %d: %d", t, mark[t]);
}

Test(test_eval, sixteen_bits_have_no_error_in_any_layer)
{
    tm_layer_error layer[TINY_LAYERS];
    tm_choice none = {.rule.kind = KV_KEEP_NONE};
    tm_base_spec b = {.ctx = CTX, .choice = &none, .choices = 1, .hold = 1, .marks = 1};
    tm_base *base;
    kv_error err;
    tm_eval_result r;
    setup();
    tm_eval_spec s = spec_of("f16", "f16", "none");
    tm_eval_cell cell = {.keys = s.keys, .values = s.values};
    cr_assert(eq(int, tm_base_open(&base, &b, &engine, NULL, windows, WINDOWS, &err), 0));
    cr_assert(eq(int, tm_eval_on(&r, NULL, layer, NULL, &cell, base, NULL, NULL, &err), 0));
    tm_base_close(base);
    for (int l = 0; l < TINY_LAYERS; l++)
        cr_expect(layer[l].keys[1] == 0 && layer[l].values[1] == 0 && layer[l].attention[1] == 0);
}
