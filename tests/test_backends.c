/* Prompts of one repeated token have hidden states that are equal but for rounding, and rounding
 * differs between backends. Their keep sets must not: on every backend, on any number of threads
 * and with any vector instructions, the lowest positions win. (CI builds this with two compilers.) */
#define _XOPEN_SOURCE 700 /* mkstemp */
#include <unistd.h>

#include "check.h"
#include "fast.h"
#include "handmade.h"
#include "kernels.h"
#include "model.h"
#include "tokenizer.h"

enum { T = 70, C = TM_HANDMADE_WIDTH };

static tm_model *model;
static float work_row[T], residual[T];

static void setup(void)
{
    char path[] = "/tmp/test_backends.XXXXXX";
    int fd = mkstemp(path);
    cr_assert(fd >= 0);
    close(fd);
    cr_assert_eq(tm_handmade_write(path, &(tm_handmade_options){TM_SINKS_SEVERAL}, NULL), KV_OK);
    cr_assert_eq(tm_model_load(&model, path, NULL), KV_OK);
    unlink(path);
}

static void teardown(void)
{
    tm_model_free(model);
}

TestSuite(backends, .init = setup, .fini = teardown);

static void read_channel(void *self, kv_tap tap, int layer, float *data, int rows, int cols)
{
    (void)self, (void)tap;
    for (int t = 0; layer == TM_HANDMADE_EMERGENCE && t < rows; t++)
        residual[t] = data[(size_t)t * cols + TM_HANDMADE_CHANNEL];
}

/* The keep set of a rule as text, from H as this backend computes it. */
static void predict(char *text, const char *rule, const kv_backend *backend, const int *tokens)
{
    kv_stage stage = {TM_HANDMADE_EMERGENCE, TM_HANDMADE_CHANNEL, 1, 2048, 0.06, 11, 1};
    kv_profile profile = {.n_stages = 1, .stage = &stage};
    int count[TM_HANDMADE_LAYERS], position[TM_HANDMADE_LAYERS * T], found[T];
    kv_keep keep = {TM_HANDMADE_LAYERS, T, count, position};
    kv_keep_rule r;
    kv_keep_input in = {T, tokens, &profile, residual, work_row, found};
    kv_run run = {.model = model->kv, .backend = backend, .tap = read_channel,
                  .tap_mask = 1u << KV_TAP_H,
                  .work = check_floats(kv_forward_work(model->kv, 1u << KV_TAP_H, 0, T))};
    float *hidden = check_floats((size_t)T * C);
    cr_assert_eq(kv_forward(hidden, &run, tokens, T, NULL), KV_OK);
    cr_assert_eq(kv_keep_parse(&r, rule, NULL), KV_OK);
    cr_assert_eq(kv_keep_build(&keep, NULL, &r, &in, NULL), KV_OK);
    text[0] = 0;
    for (int l = 0; l < TM_HANDMADE_LAYERS; l++) {
        text += sprintf(text, l ? "|" : "");
        for (int i = 0; i < count[l]; i++)
            text += sprintf(text, i ? ",%d" : "%d", position[l * T + i]);
    }
    free(run.work), free(hidden);
}

static void expect_everywhere(const char *name, const int *tokens, const char *rule,
                              const char *want)
{
    static const int threads[3] = {1, 2, 5};
    char got[2000];
    float scratch[T];
    kv_backend scalar = kv_scalar_backend(scratch);
    predict(got, rule, &scalar, tokens);
    cr_expect_str_eq(got, want, "%s, %s, scalar: %s", name, rule, got);
    for (int i = 0; i < 3; i++) {
        tm_fast *f;
        cr_assert_eq(tm_fast_open(&f, threads[i], NULL), KV_OK);
        for (int version = 0; tm_kernels_at(version); version++) {
            if (!tm_fast_choose(f, version))
                continue;
            predict(got, rule, tm_fast_backend(f), tokens);
            cr_expect_str_eq(got, want, "%s, %s, %s, %d threads: %s", name, rule, tm_fast_simd(f),
                             threads[i], got);
        }
        tm_fast_close(f);
    }
}

static void fill(int *tokens, int first, int rest)
{
    for (int t = 0; t < T; t++)
        tokens[t] = t ? rest : first;
}

Test(backends, repeated_tokens_give_the_same_set_everywhere)
{
    int tokens[T], word = 'x' + 2; /* any token that is no sink */
    fill(tokens, TM_HANDMADE_STOP, TM_HANDMADE_STOP); /* delimiters only */
    expect_everywhere("full stops", tokens, "kvsink:5", "||0,1,2,3,4|0,1,2,3,4|0,1,2,3,4");
    expect_everywhere("full stops", tokens, "kvsink:auto/2-2", "||0,1,2,3,4||");
    fill(tokens, TM_HANDMADE_BEGIN, TM_HANDMADE_STOP);
    expect_everywhere("begin, full stops", tokens, "kvsink:3/all",
                      "0,1,2|0,1,2|0,1,2|0,1,2|0,1,2");
    fill(tokens, word, word);
    expect_everywhere("one word", tokens, "kvsink:auto", "||||");
    expect_everywhere("one word", tokens, "kvsink:99/4-4",
                      "||||0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,"
                      "28,29,30,31,32,33,34,35,36,37,38,39,40,41,42,43,44,45,46,47,48,49,50,51,52,53,"
                      "54,55,56,57,58,59,60,61,62,63,64,65,66,67,68,69");
    fill(tokens, TM_HANDMADE_BEGIN, word);
    expect_everywhere("begin, one word", tokens, "kvsink:auto", "||0|0|0");
}
