/* The greedy oracle is what evaluating every candidate by itself gives, whatever the threads. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <criterion/criterion.h>
#include <criterion/new/assert.h>

#include "eval.h"
#include "greedy.h"
#include "memory.h"
#include "tiny.h"

enum { T = 19, C = TINY_WIDTH, K = 3 };

static tiny m;
static tm_engine engine = {&m.model, &m.backend};
static int text[T];
static float hidden16[T * C];
static kv_stage stage = {TINY_LAYER, TINY_CHANNEL, -1, 5000, 1, 100, 1};
static const kv_profile profile = {.layers = TINY_LAYERS, .width = C, .vocab = TINY_VOCAB,
                                   .n_stages = 1, .stage = &stage};

static void parse(tm_eval_spec *s, const char *keys, const char *keep)
{
    kv_error err = {0};
    *s = (tm_eval_spec){.ctx = T, .profile = &profile};
    cr_assert(eq(int, kv_format_parse(&s->keys, keys, &err), 0));
    cr_assert(eq(int, kv_format_parse(&s->values, "2:token:8", &err), 0));
    cr_assert(eq(int, kv_keep_parse(&s->keep, keep, &err), 0), "%s", err.text);
}

/* hidden16 is the pass that tm_eval compares with: keys and values in 16 bits. */
static void setup(void)
{
    static float work[100000];
    const kv_format f16 = {.kind = KV_F16};
    tm_window *w;
    kv_error err = {0};
    tiny_init(&m, 1);
    for (int t = 0; t < T; t++) text[t] = 8 + (t * t + 3 * t) % 31;
    text[11] = TINY_SINK;
    cr_assert(kv_forward_work(&m.model, 0, 0, T) <= 100000);
    cr_assert(eq(int, tm_window_open(&w, &m.model, &f16, &f16, T, NULL, &err), 0));
    kv_run run = {.model = &m.model, .backend = &m.backend, .memory = tm_window_memory(w),
                  .work = work};
    cr_assert(eq(int, kv_forward(hidden16, &run, text, T, &err), 0));
    tm_window_close(w);
}

static double evaluate(const char *keys, const char *keep)
{
    tm_eval_spec s;
    tm_eval_result r;
    kv_error err = {0};
    parse(&s, keys, keep);
    cr_assert(eq(int, tm_eval(&r, &s, &engine, NULL, text, 1, NULL, NULL, &err), 0), "%s", err.text);
    return r.kl;
}

static void count(void *self, double done, double total)
{
    double *last = self;
    cr_expect(done > *last && done <= total && total == K);
    *last = done;
}

Test(test_greedy, it_is_what_trying_everything_gives)
{
    static const char *const layers[] = {"", "/2-3", "/after"};
    static const char *const keys[] = {"2:channel:8", "2:channel:all", "2:token:8:pre"};
    setup();
    for (int i = 0; i < 3; i++) {
        char rule[64], known[64] = "positions:";
        tm_eval_spec s;
        tm_greedy *g;
        kv_keep keep;
        kv_error err = {0};
        const int *position;
        const double *kl;
        double last = 0;
        snprintf(rule, sizeof rule, "greedy:%d%s", K, layers[i]);
        parse(&s, keys[i], rule);
        cr_assert(eq(int, tm_greedy_open(&g, &s.keep, &profile, &s.keys, &s.values, &engine, NULL, T,
                                         &err), 0), "%s", err.text);
        cr_assert(eq(int, tm_keep_init(&keep, TINY_LAYERS, T, &err), 0));
        cr_assert(eq(int, tm_greedy_keep(&keep, g, text, hidden16, count, &last, &err), 0));
        cr_assert(eq(int, tm_greedy_steps(g, &position, &kl), K));
        for (int n = 0; n < K; n++) {
            double least = 1e9, chosen = 0;
            for (int t = 0; t < T; t++) {
                char one[128];
                if (n > 0 && (t == position[0] || (n > 1 && t == position[1]))) continue;
                snprintf(one, sizeof one, "%s%d%s", known, t, layers[i]);
                double x = evaluate(keys[i], one);
                least = x < least ? x : least;
                if (t == position[n]) chosen = x;
            }
            /* probabilities are rounded to float32: 6e-8 of sums of size 4 at most */
            cr_expect(chosen - least <= 1e-6, "step %d takes %d: %g, best %g", n, position[n], chosen,
                      least);
            cr_expect(fabs(kl[n] - chosen) <= 1e-6, "step %d: %.9g, eval %.9g", n, kl[n], chosen);
            snprintf(known + strlen(known), sizeof known - strlen(known), "%d,", position[n]);
        }
        for (int l = 0; l < TINY_LAYERS; l++)
            cr_expect(eq(int, keep.count[l], i == 0 || l >= 2 ? K : 0), "%s, layer %d", rule, l);
        cr_expect(fabs(evaluate(keys[i], rule) - kl[K - 1]) <= 1e-6, "eval does the same");
        tm_keep_free(&keep);
        tm_greedy_close(g);
    }
}

Test(test_greedy, a_k_above_the_window_takes_all_of_it)
{
    setup();
    cr_expect(evaluate("2:channel:8", "greedy:0") == evaluate("2:channel:8", "none"));
    cr_expect(evaluate("2:channel:8", "greedy:99") == evaluate("2:channel:8", "first:99"));
}

Test(test_greedy, threads_change_nothing)
{
    double kl[2];
    setup();
    for (int i = 0; i < 2; i++) {
        tm_fast *fast;
        tm_eval_spec s;
        tm_eval_result r;
        kv_error err = {0};
        cr_assert(eq(int, tm_fast_open(&fast, i ? 3 : 1, &err), 0));
        tm_engine e = {&m.model, tm_fast_backend(fast)};
        parse(&s, "2:channel:8", "greedy:2");
        cr_assert(eq(int, tm_eval(&r, &s, &e, fast, text, 1, NULL, NULL, &err), 0), "%s", err.text);
        kl[i] = r.kl;
        tm_fast_close(fast);
    }
    cr_expect(kl[0] == kl[1]);
}

Test(test_greedy, only_small_whole_windows)
{
    tm_eval_spec s;
    tm_eval_result r;
    tm_greedy *g;
    kv_error err = {0};
    setup();
    parse(&s, "2:channel:8", "greedy:2");
    s.stream = 5;
    cr_expect(tm_eval(&r, &s, &engine, NULL, text, 1, NULL, NULL, &err) == KV_FAIL_USAGE);
    cr_expect(strstr(err.text, "--stream") != NULL, "%s", err.text);
    cr_expect(tm_greedy_open(&g, &s.keep, NULL, &s.keys, &s.values, &engine, NULL, 257, &err) ==
              KV_FAIL_USAGE);
    cr_expect(strstr(err.text, "257") && strstr(err.text, "256"), "%s", err.text);
    cr_expect(g == NULL);
    cr_assert(eq(int, kv_keep_parse(&s.keep, "greedy:2/after", &err), 0));
    cr_expect(tm_greedy_open(&g, &s.keep, NULL, &s.keys, &s.values, &engine, NULL, 9, &err) ==
              KV_FAIL_USAGE);
    cr_expect(strstr(err.text, "calibrate") != NULL, "%s", err.text);
}
