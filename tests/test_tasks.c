/* Tasks on the hand-built model. It copies what it has read, so it finds every pass key and writes
 * the verse without end; with 2 bits and no kept sinks it finds nothing, and keeping the sinks
 * that KVSink predicts, and those that come later, gives it all back. */
#define _XOPEN_SOURCE 700

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <criterion/criterion.h>
#include <criterion/new/assert.h>

#include "handmade.h"
#include "model.h"
#include "tasks.h"

static char path[] = "/tmp/test_tasks_XXXXXX";
static tm_model *model;
static tokenizer *tok;
static tm_fast *fast;
static int *ids, n_ids;
static kv_error err;
static kv_stage stage = {TM_HANDMADE_EMERGENCE, TM_HANDMADE_CHANNEL, 1, 2048, 0.06, 11, 1};
static kv_profile profile = {.layers = TM_HANDMADE_LAYERS, .width = TM_HANDMADE_WIDTH,
                             .n_stages = 1, .stage = &stage};

static void setup(void)
{
    tm_handmade_options several = {TM_SINKS_SEVERAL};
    const char *verse = tm_handmade_verse_twice();
    close(mkstemp(path));
    cr_assert(tm_handmade_write(path, &several, &err) == 0, "%s", err.text);
    cr_assert(tm_model_load(&model, path, &err) == 0, "%s", err.text);
    cr_assert(tok_open(&tok, model->file, &err) == 0, "%s", err.text);
    cr_assert(tm_fast_open(&fast, 1, &err) == 0, "%s", err.text);
    cr_assert(tok_encode(&ids, &n_ids, tok, verse, strlen(verse), 0, &err) == 0, "%s", err.text);
    profile.vocab = model->kv->vocab;
}

static void teardown(void)
{
    free(ids);
    tm_fast_close(fast);
    tok_close(tok);
    tm_model_free(model);
    remove(path);
}

TestSuite(test_tasks, .init = setup, .fini = teardown);

static tm_task_spec spec(const char *keep)
{
    tm_task_spec s = {.e = {model->kv, tm_fast_backend(fast)}, .fast = fast, .tok = tok, .ids = ids,
                      .n = n_ids, .items = 5, .ctx = 128, .written = 24};
    cr_assert(kv_format_parse(&s.cache.keys, "2:channel:32", &err) == 0);
    cr_assert(kv_format_parse(&s.cache.values, "2:token:64", &err) == 0);
    cr_assert(kv_keep_parse(&s.cache.keep, keep, &err) == 0);
    s.cache.profile = &profile;
    return s;
}

static tm_task_result task(tm_task_kind kind, const char *keep)
{
    tm_task_spec s = spec(keep);
    tm_task_result r;
    cr_assert(tm_task_run(&r, kind, &s, NULL, NULL, &err) == 0, "%s", err.text);
    return r;
}

Test(test_tasks, pass_keys_are_lost_with_the_sinks)
{
    tm_task_result r = task(TM_PASSKEY, "none");
    cr_expect(eq(dbl, r.score16, 1));
    cr_expect(eq(dbl, r.error16, 0));
    cr_expect(r.score <= 0.2, "%g", r.score);
    cr_expect(fabs(r.change - (r.score - 1)) < 1e-12);
    cr_expect(not(r.dropped));
    /* more than half of the digits; a short last group of keys may still hold a full stop */
    cr_expect(task(TM_PASSKEY, "kvsink:5/all+decode").score >= 0.6);
}

Test(test_tasks, greedy_text_agrees_when_sinks_are_kept)
{
    tm_task_result r = task(TM_GREEDY, "none");
    cr_expect(eq(dbl, r.score16, 24));
    cr_expect(r.score < 20, "%g", r.score);
    cr_expect(eq(dbl, task(TM_GREEDY, "kvsink:5/all+decode").score, 24));
}

/* The verse stands twice in the text, so two of the four passages are the same, and the model
 * leans to the wrong ones: a task that it cannot do. */
Test(test_tasks, a_task_at_chance_is_dropped)
{
    tm_task_result r = task(TM_PASSAGE, "none");
    cr_expect(r.dropped);
    cr_expect(r.score16 - 2 * r.error16 <= 0.25);
    cr_expect(eq(dbl, r.score, 0));
}

/* With 16 bits in both passes nothing can change. */
Test(test_tasks, sixteen_bits_against_themselves)
{
    for (int kind = 0; kind < TM_TASKS; kind++) {
        tm_task_spec s = spec("none");
        tm_task_result r;
        cr_assert(kv_format_parse(&s.cache.keys, "f16", &err) == 0);
        cr_assert(kv_format_parse(&s.cache.values, "f16", &err) == 0);
        cr_assert(tm_task_run(&r, (tm_task_kind)kind, &s, NULL, NULL, &err) == 0, "%s", err.text);
        cr_expect(eq(dbl, r.change, 0), "%s", tm_task_name((tm_task_kind)kind));
        cr_expect(eq(dbl, r.change_error, 0));
    }
}

Test(test_tasks, refusals)
{
    tm_task_spec s = spec("none");
    tm_task_result r;
    s.ctx = 32;
    cr_expect(eq(int, tm_task_run(&r, TM_PASSKEY, &s, NULL, NULL, &err), KV_FAIL_USAGE));
    s.ctx = 1 << 15;
    cr_expect(eq(int, tm_task_run(&r, TM_PASSKEY, &s, NULL, NULL, &err), KV_FAIL_USAGE));
    cr_expect(strstr(err.text, "trained for 2048") != NULL, "%s", err.text);
    s = spec("none");
    s.n = 20;
    cr_expect(eq(int, tm_task_run(&r, TM_GREEDY, &s, NULL, NULL, &err), KV_FAIL_RUN));
    cr_expect(strstr(err.text, "20 tokens") != NULL, "%s", err.text);
}
