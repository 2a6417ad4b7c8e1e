/* Profiles: what was written is read back; what a person mistyped is named by file and line. */
#define _XOPEN_SOURCE 700 /* mkstemp */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <criterion/criterion.h>
#include <criterion/new/assert.h>

#include "files.h"
#include "profile.h"

static kv_stage stages[] = {
    {1, 1415, -1, 611.25, 0.183105, 10.579, 7},
    {7, 3, 1, 1.0 / 3.0, 1e-7, 0.1234567890123456, 1},
};
static int ids[] = {1, 13, 29889};

static kv_profile example(void)
{
    kv_profile p = {0};
    p.layers = 32;
    p.width = 4096;
    p.vocab = 32000;
    p.hash = 0x00f3a2b4c5d6e7f8u;
    p.n_stages = 2;
    p.stage = stages;
    p.n_ids = 3;
    p.ids = ids;
    return p;
}

static void temporary(char path[64])
{
    strcpy(path, "/tmp/test_profile_XXXXXX");
    int fd = mkstemp(path);
    cr_assert(fd >= 0);
    close(fd);
}

Test(test_profile, reads_back_what_it_wrote)
{
    char path[64];
    kv_error err;
    kv_profile p = example(), q;
    temporary(path);
    p.weak = 1;
    cr_assert(eq(int, tm_profile_write(path, &p, "two lines\nof comment", &err), 0));
    cr_assert(eq(int, tm_profile_read(&q, path, &err), 0));
    unlink(path);
    cr_expect(eq(int, q.layers, 32));
    cr_expect(eq(int, q.width, 4096));
    cr_expect(eq(int, q.vocab, 32000));
    cr_expect(eq(u64, q.hash, p.hash));
    cr_expect(eq(int, q.weak, 1));
    cr_assert(eq(int, q.n_stages, 2));
    for (int i = 0; i < 2; i++) {
        const kv_stage *a = &p.stage[i], *b = &q.stage[i];
        cr_expect(a->layer == b->layer && a->channel == b->channel && a->sign == b->sign &&
                  a->at_sinks == b->at_sinks && a->elsewhere == b->elsewhere &&
                  a->threshold == b->threshold && a->prompts == b->prompts, "stage %d", i);
    }
    cr_assert(eq(int, q.n_ids, 3));
    for (int i = 0; i < 3; i++) cr_expect(eq(int, q.ids[i], ids[i]));
    tm_profile_free(&q);
    cr_expect(eq(int, q.n_stages, 0));
}

Test(test_profile, a_model_without_stages_is_legal)
{
    char path[64];
    kv_error err;
    kv_profile p = example(), q;
    temporary(path);
    p.n_stages = p.n_ids = 0;
    cr_assert(eq(int, tm_profile_write(path, &p, NULL, &err), 0));
    cr_assert(eq(int, tm_profile_read(&q, path, &err), 0));
    unlink(path);
    cr_expect(eq(int, q.n_stages, 0));
    cr_expect(eq(int, q.n_ids, 0));
    tm_profile_free(&q);
}

static int parse(kv_profile *p, const char *text, kv_error *err)
{
    return tm_profile_parse(p, text, strlen(text), "x.txt", err);
}

Test(test_profile, takes_what_a_person_may_write)
{
    kv_error err;
    kv_profile p;
    const char *text = "# mine\n\n  kvsink-profile 1 # yes\r\nmodel llama 4 8 10 ff\r\n"
                       "ids 7 3\n\tstage 2 5 - 10 1 3 1\nstage 0 7 1 20 1 4 1 # first\nids 3 9\n"
                       "# static keys 0 1 2\n# weak: by ratio";
    cr_assert(eq(int, parse(&p, text, &err), 0), "%s", err.text);
    cr_assert(eq(int, p.n_stages, 2));
    cr_expect(eq(int, p.stage[0].layer, 0));
    cr_expect(eq(int, p.stage[1].sign, -1));
    cr_assert(eq(int, p.n_ids, 3));
    cr_expect(p.ids[0] == 3 && p.ids[1] == 7 && p.ids[2] == 9);
    cr_expect(eq(int, p.weak, 1));
    tm_profile_free(&p);
}

Test(test_profile, many_ids_and_stages_fit)
{
    static char text[200000];
    kv_error err;
    kv_profile p;
    size_t n = (size_t)sprintf(text, "kvsink-profile 1\nmodel llama 40 999 5000 0\n");
    for (int i = 0; i < 40; i++)
        n += (size_t)sprintf(text + n, "stage %d %d +1 3 1 2 1\n", 39 - i, i);
    n += (size_t)sprintf(text + n, "ids");
    for (int i = 0; i < 5000; i++) n += (size_t)sprintf(text + n, " %d", 4999 - i);
    cr_assert(eq(int, parse(&p, text, &err), 0), "%s", err.text);
    cr_assert(eq(int, p.n_stages, 40));
    cr_assert(eq(int, p.n_ids, 5000));
    for (int i = 0; i < 40; i++) cr_expect(p.stage[i].layer == i && p.stage[i].channel == 39 - i);
    for (int i = 0; i < 5000; i++) cr_assert(p.ids[i] == i);
    tm_profile_free(&p);
}

#define HEAD "kvsink-profile 1\nmodel llama 4 8 10 ff\n"

#define RANGES_OF(l) "static " l " keys -1 1\nstatic " l " keys-pre -2 2.5\n"
#define RANGES RANGES_OF("0") RANGES_OF("1") RANGES_OF("2") RANGES_OF("3") \
    "static 0 values 0 0\nstatic 1 values 0 1e-3\nstatic 2 values 5 6\n"

Test(test_profile, ranges_are_read_written_and_found)
{
    char path[64];
    kv_error err;
    kv_profile p, q;
    kv_limits l;
    kv_format f;
    cr_assert(eq(int, parse(&p, HEAD RANGES "static keep first:5 # why\nstatic 3 values 0.1 7\n",
                            &err), 0), "%s", err.text);
    temporary(path);
    cr_assert(eq(int, tm_profile_write(path, &p, NULL, &err), 0));
    cr_assert(eq(int, tm_profile_read(&q, path, &err), 0), "%s", err.text);
    unlink(path);
    cr_assert(eq(int, q.range_row, 1));
    cr_expect(strcmp(q.range_keep, "first:5") == 0);
    cr_expect(memcmp(p.range, q.range, 24 * sizeof *p.range) == 0);
    kv_format_parse(&f, "2:token:1:static", NULL);
    cr_assert(eq(int, kv_profile_limits(&l, &q, &f, 0, &err), 0));
    cr_expect(l.lo[3] == -1 && l.hi[3] == 1);
    cr_assert(eq(int, kv_profile_limits(&l, &q, &f, 1, &err), 0));
    cr_expect(l.lo[3] == 0.1f && l.hi[3] == 7 && l.hi[1] == 1e-3f);
    kv_format_parse(&f, "2:channel:1:static:pre", NULL);
    cr_assert(eq(int, kv_profile_limits(&l, &q, &f, 0, &err), 0));
    cr_expect(l.lo[0] == -2 && l.hi[2] == 2.5f);
    cr_expect(eq(int, kv_profile_limits(&l, NULL, &f, 0, &err), KV_FAIL_USAGE));
    cr_expect(strstr(err.text, "calibrate --static") != NULL);
    f.is_static = 0;
    cr_expect(eq(int, kv_profile_limits(&l, NULL, &f, 0, &err), 0));
    cr_expect(l.lo == NULL);
    kv_model m = {.layers = 4, .width = 8, .vocab = 10, .shape = {2, 1, 2}};
    cr_expect(eq(int, tm_profile_check(&q, &m, q.hash, NULL, "p", &err), KV_FAIL_RUN));
    cr_expect(strstr(err.text, "1 channels") != NULL, "%s", err.text);
    tm_profile_free(&p);
    tm_profile_free(&q);
}

Test(test_profile, names_the_line_that_is_wrong)
{
    static const struct {
        const char *text, *said;
    } cases[] = {
        {"", "kvsink-profile 1"},
        {"# only a comment\n", "kvsink-profile 1"},
        {"GGUF\n", "x.txt:1: found \"GGUF\""},
        {"kvsink-profile 2\n", "x.txt:1: found \"2\", expected version 1"},
        {"kvsink-profile\n", "x.txt:1"},
        {"kvsink-profile 1\n", "model line"},
        {"kvsink-profile 1\nstage 0 0 +1 1 1 1 1\n", "x.txt:2: found \"stage\""},
        {"kvsink-profile 1\nmodel gpt2 4 8 10 ff\n", "x.txt:2: found \"gpt2\""},
        {"kvsink-profile 1\nmodel llama 0 8 10 ff\n", "number of layers"},
        {"kvsink-profile 1\nmodel llama 4 8 10 xyz\n", "hexadecimal"},
        {"kvsink-profile 1\nmodel llama 4 8 10 12345678901234567\n", "hexadecimal"},
        {"kvsink-profile 1\nmodel llama 4 8 10\n", "hexadecimal"},
        {HEAD "model llama 4 8 10 ff\n", "x.txt:3"},
        {HEAD "stage 4 0 +1 1 1 1 1\n", "x.txt:3: found \"4\", expected the layer"},
        {HEAD "\nstage 0 8 +1 1 1 1 1\n", "x.txt:4: found \"8\", expected the channel"},
        {HEAD "stage 0 0 +2 1 1 1 1\n", "sign"},
        {HEAD "stage 0 0 +1 nan 1 1 1\n", "median at sinks"},
        {HEAD "stage 0 0 +1 1 inf 1 1\n", "median elsewhere"},
        {HEAD "stage 0 0 +1 1 1 -1 1\n", "threshold"},
        {HEAD "stage 0 0 +1 1 1 1\n", "number of prompts"},
        {HEAD "stage 0 0 +1 1 1 1 1 1\n", "end of the line"},
        {HEAD "stage 0 0 +1 1 1 1 1\nstage 0 0 -1 1 1 1 1\n", "x.txt:4"},
        {HEAD "ids 3 10\n", "x.txt:3: found \"10\", expected a token id"},
        {HEAD "ids 3 x\n", "found \"x\""},
        {HEAD "stagger 1\n", "found \"stagger\""},
        {HEAD "static\n", "a layer, or keep"},
        {HEAD "static 4 keys 0 1\n", "found \"4\", expected a layer"},
        {HEAD "static 0 queries 0 1\n", "keys, keys-pre or values"},
        {HEAD "static 0 keys\n", "pairs"},
        {HEAD "static 0 keys 1 2 3\n", "pairs"},
        {HEAD "static 0 keys 1 2 3 4 5 6 7 8\n", "do not fit into this file"},
        {HEAD RANGES "static 0 keys 0 1\n", "each layer once"},
        {HEAD RANGES "static 3 values 0 1 2 3\n", "as many pairs"},
        {HEAD RANGES "static 3 values 1 0\n", "found \"0\", expected the highest"},
        {HEAD RANGES "static 3 values nan 0\n", "the lowest value"},
        {HEAD RANGES "static 3 values 0 70000\n", "the highest value"},
        {HEAD RANGES "# long enough\n", "\"static 3 values\" is missing"},
        {HEAD "static keep\n", "one keep rule"},
        {HEAD "static keep none\nstatic keep none\n", "once"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        kv_profile p;
        kv_error err = {0};
        cr_expect(parse(&p, cases[i].text, &err) == KV_FAIL_RUN, "case %zu passed", i);
        cr_expect(strstr(err.text, cases[i].said) != NULL, "case %zu says: %s", i, err.text);
        cr_expect(p.stage == NULL && p.ids == NULL && p.layers == 0, "case %zu left data", i);
    }
}

Test(test_profile, files_that_are_no_text)
{
    kv_profile p;
    kv_error err;
    cr_expect(eq(int, tm_profile_parse(&p, HEAD "\0", sizeof HEAD, "x", &err), KV_FAIL_RUN));
    cr_expect(eq(int, tm_profile_read(&p, "/nonexistent/p.txt", &err), KV_FAIL_RUN));
    cr_expect(strstr(err.text, "/nonexistent/p.txt") != NULL);
    cr_expect(eq(int, tm_profile_write("/nonexistent/p.txt", &p, NULL, &err), KV_FAIL_RUN));
    p = example();
    cr_expect(eq(int, tm_profile_write("/dev/full", &p, NULL, &err), KV_FAIL_RUN));
}

Test(test_profile, another_model_is_refused_another_hash_is_told)
{
    kv_profile p = example();
    kv_model m = {0};
    kv_error err;
    int other = 7;
    m.layers = 32;
    m.width = 4096;
    m.vocab = 32000;
    cr_expect(eq(int, tm_profile_check(&p, &m, p.hash, &other, "p.txt", &err), 0));
    cr_expect(eq(int, other, 0));
    cr_expect(eq(int, tm_profile_check(&p, &m, p.hash + 1, &other, "p.txt", &err), 0));
    cr_expect(eq(int, other, 1));
    m.layers = 30;
    cr_expect(eq(int, tm_profile_check(&p, &m, p.hash, NULL, "p.txt", &err), KV_FAIL_RUN));
    cr_expect(strstr(err.text, "p.txt") && strstr(err.text, "32 layers"), "%s", err.text);
}
