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
    kv_cache_spec spec = {TINY_LAYERS, m.model.shape, m.model.rope, s->keys, s->values, 0, CTX, CTX,
                          1};
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
        cr_expect(r.top1 == (double)same / scored, "case %zu", i);
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
