/* The experiments of the chapters as processes, on the hand-built model, in which all that they
 * look for was put by hand: an outlier of 2048 in channel 206 at the begin token and at full
 * stops, written by layer 1 and taken away by layer 3; heads of layers 2 and 3 that park on these
 * tokens. KV_BUILD names the folder they were built in (default: build). */
#define _XOPEN_SOURCE 700

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <criterion/criterion.h>
#include <criterion/new/assert.h>

#include "files.h"
#include "handmade.h"

static char folder[] = "/tmp/test_experiments_XXXXXX", programs[4096];

static int shell(const char *line)
{
    int status = system(line);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* Exit status of PROGRAM ARGUMENTS below the build folder; both streams go to out.txt. */
static int run(const char *program, const char *arguments)
{
    char line[8192];
    snprintf(line, sizeof line, "%s/%s %s >out.txt 2>&1", programs, program, arguments);
    return shell(line);
}

static void setup(void)
{
    const char *build = getenv("KV_BUILD");
    char here[2048];
    kv_error err;
    tm_handmade_options several = {TM_SINKS_SEVERAL}, none = {TM_SINKS_NONE};
    cr_assert(getcwd(here, sizeof here) != NULL);
    if (!build) build = "build";
    snprintf(programs, sizeof programs, "%s%s%s", build[0] == '/' ? "" : here,
             build[0] == '/' ? "" : "/", build);
    cr_assert(mkdtemp(folder) != NULL);
    cr_assert(chdir(folder) == 0);
    cr_assert(eq(int, tm_handmade_write("several.gguf", &several, &err), 0), "%s", err.text);
    cr_assert(eq(int, tm_handmade_write("none.gguf", &none, &err), 0), "%s", err.text);
    cr_assert(eq(int, tm_write_text("text.txt", tm_handmade_verse_twice(), &err), 0));
    cr_assert(eq(int, run("kvsink", "calibrate several.gguf --file text.txt -o profile.txt"), 0));
    cr_assert(eq(int, run("kvsink", "calibrate none.gguf --file text.txt -o none.txt"), 0));
}

static void teardown(void)
{
    char line[256];
    snprintf(line, sizeof line, "rm -rf %s", folder);
    cr_expect(shell(line) == 0);
}

TestSuite(test_experiments, .init = setup, .fini = teardown);

#define ON_VERSE " several.gguf --profile profile.txt --text verse=text.txt --ctx 127 --out out"

static void experiment(const char *number, const char *arguments)
{
    char program[64], *text = NULL;
    size_t n;
    snprintf(program, sizeof program, "experiments/%s", number);
    int status = run(program, arguments);
    if (status) tm_read_file(&text, &n, "out.txt", NULL);
    cr_assert(eq(int, status, 0), "%s %s: %s", number, arguments, text ? text : "");
}

/* A cell of a table by the first word of its row and the title of its column, as the book finds
 * it. */
static const char *cell(const char *path, const char *row, const char *column)
{
    static char value[256];
    char *text, *line, *save, *at;
    size_t n;
    int want = -1;
    value[0] = 0;
    cr_assert(eq(int, tm_read_file(&text, &n, path, NULL), 0), "%s is missing", path);
    for (line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
        int i = 0, here = 0;
        if (line[0] == '#') continue;
        for (char *word = strtok_r(line, "\t", &at); word; word = strtok_r(NULL, "\t", &at), i++) {
            if (want < 0 && strcmp(word, column) == 0) here = i + 1;
            if (want >= 0 && i == 0 && strcmp(word, row)) break;
            if (want >= 0 && i == want) snprintf(value, sizeof value, "%s", word);
        }
        if (want < 0) cr_assert(here > 0, "%s has no column %s", path, column);
        if (want < 0) want = here - 1;
    }
    free(text);
    cr_assert(value[0] != 0, "%s has no %s of %s", path, column, row);
    return value;
}

static double number(const char *path, const char *row, const char *column)
{
    return atof(cell(path, row, column));
}

static void near(double found, double expected, double tolerance, const char *what)
{
    cr_expect(fabs(found - expected) <= tolerance, "%s: found %g, expected %g +- %g", what, found,
              expected, tolerance);
}

/* ---------------------------------------------------------------------- 01 */

Test(test_experiments, sinks_have_small_keys_that_queries_like)
{
    experiment("01", "several.gguf --text verse=text.txt --ctx 127 --eps 0.1 --out out");
    const char *t = "out/norms.tsv";
    cr_expect(eq(str, (char *)cell(t, "verse/2/first", "tokens"), "1"));
    /* 4 in PARK and little else, against 16 in 36 channels */
    cr_expect(number(t, "verse/2/first", "k") < 0.1 * number(t, "verse/2/rest", "k"));
    cr_expect(number(t, "verse/2/later", "v") < 0.1 * number(t, "verse/2/rest", "v"));
    cr_expect(number(t, "verse/3/later", "cosine") > 0.5);
    cr_expect(number(t, "verse/3/rest", "cosine") < 0.3);
    double all = 0;
    for (int i = 0; i < 3; i++) {
        static const char *const row[] = {"verse/3/first", "verse/3/later", "verse/3/rest"};
        all += number(t, row[i], "attention");
    }
    near(all, 1, 1e-4, "attention of all tokens");
    cr_expect(number("out/summary.tsv", "verse", "sinks") >= 2);
    cr_expect(eq(int, access("out/norms.png", R_OK), 0));
}

/* ---------------------------------------------------------------------- 02 */

Test(test_experiments, the_outlier_is_where_it_was_put)
{
    experiment("02", ON_VERSE " --cause 0");
    const char *t = "out/outliers.tsv";
    cr_expect(eq(str, (char *)cell(t, "verse/1/0", "phase"), "initial"));
    cr_expect(eq(str, (char *)cell(t, "verse/1/1", "phase"), "emergence"));
    cr_expect(eq(str, (char *)cell(t, "verse/1/2", "phase"), "stable"));
    cr_expect(eq(str, (char *)cell(t, "verse/1/3", "phase"), "dissipation"));
    cr_expect(eq(str, (char *)cell(t, "verse/1/4", "phase"), "final"));
    near(number(t, "verse/1/1", "down_out"), 2048, 1, "what layer 1 writes");
    near(number(t, "verse/1/3", "down_out"), -2048, 1, "what layer 3 writes");
    near(number(t, "verse/1/2", "h"), 2048, 1, "the outlier");
    near(number(t, "verse/1/2", "other_h"), 0, 0.1, "other tokens");
    cr_expect(eq(str, (char *)cell("out/stages.tsv", "verse/1", "channel"), "206"));
    near(number("out/stages.tsv", "verse/1", "sinks"), 5, 0, "sinks of the verse");
    near(number("out/stages.tsv", "verse/1", "found"), 1, 0, "windows that agree");
}

Test(test_experiments, without_its_outlier_a_sink_is_none)
{
    experiment("02", ON_VERSE " --cause 1");
    const char *t = "out/cause.tsv";
    double as_it_is = number(t, "verse/1/as-it-is", "attention");
    cr_expect(number(t, "verse/1/zero", "attention") < 0.2 * as_it_is);
    near(number(t, "verse/1/zero", "heads"), 0, 0, "heads that still see a sink");
    cr_expect(number(t, "verse/1/zero", "kl") > 1);
    near(number(t, "verse/1/other-channel", "attention"), as_it_is, 1e-3, "another channel");
    cr_expect(number(t, "verse/1/other-channel", "kl") < 1e-3);
    /* nothing in layers 2 and 3 writes into the outlier's channel but layer 3's unit */
    near(number("out/forbid.tsv", "verse/1/sinks", "later"), 1, 1e-3, "|h| of unseen sinks");
}

/* ---------------------------------------------------------------------- 03 */

/* A sink's key is nearly nothing where all others are +-1, and so stretches the range of its channels;
 * per token it has a range of its own and disturbs nobody. */
Test(test_experiments, a_sink_disturbs_its_group_and_no_other)
{
    experiment("03", ON_VERSE " --constants text.txt");
    const char *t = "out/errors.tsv";
    cr_expect(number(t, "verse/keys/2/dynamic/channel:128", "rest_without") <
              0.7 * number(t, "verse/keys/2/dynamic/channel:128", "rest_with"));
    cr_expect(number(t, "verse/keys/2/dynamic/channel:128", "change") < -30);
    near(number(t, "verse/keys/2/dynamic/token:64", "change"), 0, 1e-9, "per token");
    cr_expect(number(t, "verse/keys/2/static/channel:all", "change") < -30);
    /* the same numbers by layer: only the layers with sinks change */
    cr_expect(number("out/layers.tsv", "keys/2/dynamic/channel:128/2", "rest_without") <
              0.5 * number("out/layers.tsv", "keys/2/dynamic/channel:128/2", "rest_with"));
    cr_expect(number(t, "verse/keys/4/dynamic/channel:128", "rest_with") <
              number(t, "verse/keys/2/dynamic/channel:128", "rest_with"));
    cr_expect(eq(int, access("out/errors.png", R_OK), 0));
    cr_expect(eq(int, run("experiments/03", ON_VERSE), 2), "no --constants");
}

/* ---------------------------------------------------------------------- 04 */

Test(test_experiments, bytes_and_rows_are_counted)
{
    experiment("04",
               "several.gguf --profile profile.txt --text verse=text.txt --lengths 64 --kept 0 5"
               " --keys 2:channel:32 --runs 1 --out out");
    const char *t = "out/cost.tsv";
    near(number(t, "64/f16", "bits"), 16, 1e-9, "bits of halves");
    /* 2 bits, and 32 for scale and minimum of 32 keys or 64 values: (3 + 2.5)/2 */
    near(number(t, "64/0", "bits"), 2.75, 1e-3, "bits of codes");
    near(number(t, "64/0", "kept"), 0, 0, "kept without a rule");
    near(number(t, "64/5", "kept"), 3, 1e-9, "5 tokens in 3 of 5 layers");
    /* 16-bit keys and values of 64 tokens in layers 0 and 1 */
    near(number(t, "64/5", "waiting"), 2.0 * 2 * 64 * 2 * 2 * 64, 0, "bytes that wait");
    cr_expect(number(t, "64/5", "wait") <= number(t, "64/5", "prefill"));
    cr_expect(number(t, "64/5", "bytes") > number(t, "64/0", "bytes"));
}

/* ---------------------------------------------------------------------- 05 */

#define FAILURES ON_VERSE " --stream-ctx 120 --recent 4 --contexts 100 --keys 2:channel:64"

Test(test_experiments, sinks_born_in_decode_need_decode)
{
    experiment("05", FAILURES " --only short");
    const char *t = "out/short.tsv";
    near(number(t, "verse/1/first:5", "kept"), 1, 0, "a prompt of one token");
    cr_expect(number(t, "verse/3/kvsink:5/all", "kl") > 1);
    cr_expect(number(t, "verse/3/kvsink:5/all+decode", "kl") < 0.01);
    near(number(t, "verse/2/kvsink:best+decode", "kept"), 4, 0,
         "the begin token and three full stops");
    cr_expect(access("out/born.tsv", R_OK) != 0);
}

Test(test_experiments, chunks_keep_more_tokens)
{
    experiment("05", FAILURES " --only chunked repeat");
    const char *t = "out/chunked.tsv";
    near(number(t, "verse/1/whole", "kept"), 5, 0, "the whole prompt's");
    near(number(t, "verse/1/128", "kept"), 5, 0, "one chunk of 128");
    /* the first 64 tokens have three sinks, so two others were kept before the last two came */
    near(number(t, "verse/1/64", "kept"), 7, 0, "kept in two chunks");
    near(number(t, "verse/1/16", "as_whole"), 5, 0, "sinks are never missed");
    t = "out/repeat.tsv";
    cr_expect(eq(str, (char *)cell(t, "kvsink:5/all", "positions"), "0,1,2,3,4"));
    cr_expect(eq(str, (char *)cell(t, "kvsink:best", "positions"), "-"));
}

Test(test_experiments, whole_windows_and_long_ones)
{
    experiment("05", FAILURES " --only windows context --rules none first:5 kvsink:5");
    cr_expect(number("out/windows.tsv", "verse/first:5", "kl") > 1);
    cr_expect(number("out/windows.tsv", "verse/kvsink:5", "kl") < 0.01);
    near(number("out/windows.tsv", "verse/kvsink:5", "kept"), 3, 1e-9, "5 tokens in 3 of 5 layers");
    cr_expect(number("out/context.tsv", "100/kvsink:5/all", "kl") < 0.01);
    char *text;
    size_t n;
    cr_assert(eq(int, tm_read_file(&text, &n, "out/context.txt", NULL), 0));
    cr_expect(strstr(text, "trained for 2048") != NULL, "%s", text);
    free(text);
    cr_expect(eq(int, run("experiments/05", ON_VERSE " --only everything"), 2));
}

/* ---------------------------------------------------------------------- 06 */

Test(test_experiments, kvsink_predicts_what_was_put_there)
{
    experiment("06", ON_VERSE " --eps 0.1 --keys 2:channel:64 --wrong 1 --tasks 5");
    const char *t = "out/layers.tsv";
    for (int l = 2; l <= 3; l++) {
        char row[32];
        snprintf(row, sizeof row, "verse/0.1/%d", l);
        near(number(t, row, "sinks"), 4, 0, "sinks that 16 queries see");
        near(number(t, row, "p:kvsink:5@1/all"), 1, 0, "precision");
        near(number(t, row, "r:kvsink:5@1/all"), 1, 0, "recall");
        near(number(t, row, "r:first:5"), 0.25, 1e-9, "recall of the first tokens");
        near(number(t, row, "r:random:5:1"), 0, 0.5, "recall of chance");
    }
    near(number(t, "verse/0.1/0", "sinks"), 0, 0, "sinks before there are any");
    near(number("out/prediction.tsv", "verse/0.1/kvsink:5@1/all", "recall"), 1, 0, "recall");
    near(number("out/prediction.tsv", "verse/0.1/kvsink:5@1/all", "kept"), 5, 0, "kept rows");
    t = "out/tasks.tsv";
    near(number(t, "none/passkey", "score16"), 1, 0, "pass keys with 16 bits");
    near(number(t, "none/greedy", "score16"), 64, 0, "greedy text with 16 bits");
    cr_expect(eq(str, (char *)cell(t, "none/passage", "score"), "-"));
    t = "out/wrong.tsv";
    cr_expect(number(t, "verse/right", "kl") < 0.01);
    cr_expect(number(t, "verse/none", "kl") > 1);
    near(number(t, "verse/layer-1", "kl"), number(t, "verse/right", "kl"), 0, "the stage's layer");
    near(number(t, "verse/layer-2", "as_right"), 5, 0, "the layer behind it");
    cr_expect(number(t, "verse/layer-0", "kl") > 1, "before the outlier emerges");
    cr_expect(number(t, "verse/layer-4", "kl") > 1, "after it is gone");
    cr_expect(number(t, "verse/channel-by-size-2", "kl") > 1, "another channel");
}

/* --------------------------------------------------------------- all of them */

Test(test_experiments, bad_command_lines_are_refused)
{
    cr_expect(eq(int, run("experiments/02", "several.gguf --text a=text.txt --out out"), 2));
    cr_expect(eq(int, run("experiments/01", "several.gguf --out out"), 2));
    cr_expect(eq(int, run("experiments/01", "several.gguf --text text.txt --out out"), 2));
    cr_expect(eq(int, run("experiments/01", "several.gguf --packed a=text.txt --out out"), 2));
    cr_expect(eq(int, run("experiments/01", "several.gguf --text a=text.txt"), 2));
    cr_expect(eq(int, run("experiments/01", "several.gguf --text a=text.txt --out missing/out"),
                 1));
    cr_expect(eq(int, run("experiments/01", "--help"), 0));
}

Test(test_experiments, a_model_without_stages_is_an_answer)
{
    experiment("02", "none.gguf --profile none.txt --text verse=text.txt --ctx 127 --out out");
    cr_expect(eq(int, access("out/outliers.tsv", R_OK), 0));
    cr_expect(access("out/outliers.png", R_OK) != 0);
}
