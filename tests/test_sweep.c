/* kvsink sweep as a process, on the hand-built model: spec files and what is wrong with them, cells
 * that equal eval's, a sweep that is killed and goes on, tables without the model, --quick.
 * KV_BUILD names the folder kvsink was built in (default: build). */
#define _XOPEN_SOURCE 700

#include "process.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <time.h>

#include "handmade.h"

static void setup(void)
{
    kv_error err;
    tm_handmade_options several = {TM_SINKS_SEVERAL};
    process_enter();
    cr_assert(eq(int, tm_handmade_write("m.gguf", &several, &err), 0), "%s", err.text);
    write_file("text.txt", tm_handmade_verse_twice());
    cr_assert(run("calibrate m.gguf --file text.txt -o p.txt") == 0, "%s", said);
}

TestSuite(test_sweep, .init = setup, .fini = process_leave);

#define HEAD "model m.gguf\nprofile p.txt\n"
#define TEXTS "text verse file=text.txt ctx=40\ntext long file=text.txt ctx=127\n"
#define FORMATS "format k2v2 keys=2:channel:64 values=2:token:64\n" \
                "format k4v4 keys=4:channel:64 values=4:token:64\n"

/* The line of a cell in a folder's results, parsed; NULL if it is not there. */
static cJSON *cell(const char *out, const char *label)
{
    char path[300];
    snprintf(path, sizeof path, "%s/cells.jsonl", out);
    char *all = contents(path);
    cJSON *found = NULL;
    for (char *line = strtok(all, "\n"); line; line = strtok(NULL, "\n")) {
        cJSON *root = cJSON_Parse(line);
        const cJSON *name = cJSON_GetObjectItem(root, "label");
        if (name && !strcmp(name->valuestring, label)) {
            cJSON_Delete(found);
            found = root;
        } else {
            cJSON_Delete(root);
        }
    }
    free(all);
    return found;
}

static int lines_of(const char *path)
{
    char *all = contents(path);
    int n = 0;
    for (const char *c = all; *c; c++) n += *c == '\n';
    free(all);
    return n;
}

/* ------------------------------------------------------------- spec files */

Test(test_sweep, what_is_wrong_with_a_spec_file_is_said_with_its_line)
{
    static const struct {
        const char *spec, *said;
    } cases[] = {
        {HEAD "\ntxet a file=x\n", "bad.spec:4: unknown key 'txet'; did you mean text"},
        {HEAD TEXTS "format a keys=9:channel:8\n", "bad.spec:5: keys"},
        {HEAD TEXTS "format a kays=2:channel:8\n", "bad.spec:5: unknown key 'kays'"},
        {HEAD TEXTS "format a kept=no\n", "bad.spec:5: kept: found 'no', expected one of both"},
        {HEAD TEXTS "format a preset=kivi-9\n", "bad.spec:5"},
        {HEAD TEXTS FORMATS "keeps none kvsnk:5\n", "bad.spec:7: kvsnk:5"},
        {HEAD TEXTS FORMATS "keeps random:=first:1\n", "bad.spec:7"},
        {HEAD "text a file=x ctx=1\n", "bad.spec:3: ctx"},
        {HEAD "text a file=x bos=maybe\n", "bad.spec:3: bos"},
        {HEAD "text a\n", "bad.spec:3: text a: give file=PATH or chat=PATH"},
        {HEAD TEXTS "text verse file=x\n", "bad.spec:5: text verse is defined twice"},
        {HEAD TEXTS FORMATS "texts verse nobody\n", "bad.spec:7: texts: 'nobody'"},
        {HEAD TEXTS FORMATS "cell verse k2v2\n", "bad.spec:7: expected: cell"},
        {HEAD TEXTS FORMATS "keeps none\nbaseline first:5\n", "group all: its baseline"},
        {HEAD TEXTS FORMATS, "asks for nothing"},
        {TEXTS FORMATS "keeps none\n", "model PATH"},
        {"model m.gguf\n" TEXTS FORMATS "keeps kvsink:5\n", "calibrate"},
        {HEAD "text a file=\"te xt\n", "quotation mark"},
        /* found when the model is open, and before anything is measured */
        {HEAD TEXTS "format a keys=2:token:48\nkeeps none\n", "bad.spec:5: "},
        {HEAD TEXTS FORMATS "keeps none\nkeeps positions:500\n", "bad.spec:8: "},
        {HEAD TEXTS FORMATS "keeps kvsink:5@3\n", "bad.spec:7: "},
        {HEAD "text a file=text.txt ctx=300\n" FORMATS "keeps greedy:1\n", "text a: greedy:K"},
        {HEAD "text a file=x ctx=40 stream=39\n", "bad.spec:3: text a: stream: found 39"},
        {HEAD TEXTS FORMATS "format r keys=f16 recent=8\nkeeps none\n", "bad.spec:7: recent=8"},
        {HEAD "text a file=text.txt ctx=40 stream=9\nformat a keys=2:channel:all\nkeeps none\n",
         "bad.spec:4: channel:all"},
        {HEAD "text a file=text.txt ctx=40 stream=9\nformat a keys=2:channel:32:kivi recent=8\n"
         "keeps none\n", "bad.spec:4: kivi"},
        {HEAD "text a file=text.txt ctx=40 stream=9\n" FORMATS "keeps first:=kvsink:auto\n",
         "bad.spec:6: first:=KEEP"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        write_file("bad.spec", cases[i].spec);
        cr_expect(run("sweep bad.spec") == 2, "case %zu: %s", i, said);
        cr_expect(strstr(said, cases[i].said) != NULL, "case %zu says: %s", i, said);
        cr_expect(lines_of("bad/cells.jsonl") == 0);
    }
    write_file("bad.spec", HEAD "text a file=nothing.txt\n" FORMATS "keeps none\n");
    cr_expect(run("sweep bad.spec") == 1 && strstr(said, "nothing.txt"), "%s", said);
}

Test(test_sweep, another_sweep_in_the_same_folder_is_refused)
{
    write_file("a.spec", HEAD TEXTS FORMATS "keeps none\n");
    cr_assert(mkdir("a", 0777) == 0);
    int fd = open("a/cells.jsonl", O_RDWR | O_CREAT, 0666);
    cr_assert(fd >= 0 && flock(fd, LOCK_EX) == 0);
    cr_expect(run("sweep a.spec") == 1 && strstr(said, "another sweep"), "%s", said);
    close(fd);
}

/* ------------------------------------------------------------------ cells */

static void expect_same_as_eval(const char *label, const char *arguments)
{
    static const char *const field[] = {"windows", "tokens", "ppl16", "ppl", "kl", "kl_error",
                                        "top1", "bits", "bytes", "bytes16", "kept"};
    char line[1000];
    snprintf(line, sizeof line, "eval m.gguf --file text.txt --profile p.txt --json %s", arguments);
    cJSON *eval = run_json(line), *one = cell("a", label);
    cr_assert(one != NULL, "%s is missing", label);
    for (size_t i = 0; i < sizeof field / sizeof *field; i++)
        cr_expect(number(eval, field[i]) == number(one, field[i]), "%s, %s: eval %.17g, sweep"
                  " %.17g", label, field[i], number(eval, field[i]), number(one, field[i]));
    cJSON_Delete(eval);
    cJSON_Delete(one);
}

Test(test_sweep, a_cell_is_what_eval_gives)
{
    write_file("a.spec", HEAD TEXTS "text stream file=text.txt ctx=127 stream=64\n" FORMATS
               "format f16 keys=f16 values=f16\n"
               "group whole\ntexts verse long\nkeeps none first:5 kvsink:5 toph:3\n"
               "group more\ncell stream k2v2 kvsink:5\ncell stream k2v2 none\n"
               "cell long f16 none\n");
    cr_assert(run("sweep a.spec") == 0, "%s", said);
    const char *two = "--keys 2:channel:64 --values 2:token:64";
    char line[300];
    snprintf(line, sizeof line, "--ctx 40 %s --keep kvsink:5", two);
    expect_same_as_eval("verse/k2v2/kvsink:5", line);
    snprintf(line, sizeof line, "--ctx 40 %s --keep toph:3 --threads 1", two);
    expect_same_as_eval("verse/k2v2/toph:3", line);
    snprintf(line, sizeof line, "--ctx 127 --keys 4:channel:64 --values 4:token:64 --keep first:5");
    expect_same_as_eval("long/k4v4/first:5", line);
    snprintf(line, sizeof line, "--ctx 127 --stream 64 %s --keep kvsink:5", two);
    expect_same_as_eval("stream/k2v2/kvsink:5", line);
    expect_same_as_eval("long/f16/none", "--ctx 127");
}

/* A rule and the name that stands for it are one measurement. */
Test(test_sweep, an_alias_is_not_measured_twice)
{
    write_file("a.spec", HEAD TEXTS FORMATS "texts verse\nformats k2v2\n"
               "keeps none kvsink:best " KV_KEEP_BEST "\n");
    cJSON *root = run_json("sweep a.spec --json");
    cr_expect(number(root, "measured") == 2);
    cJSON_Delete(root);
    char *table = contents("a/table.md");
    cr_expect(strstr(table, "`kvsink:best` stands for") != NULL, "%s", table);
    cr_expect(strstr(table, "not measured yet") == NULL, "%s", table);
    free(table);
}

/* Rules at the same mean number of kept rows. What a window cannot give is carried to the next, so
 * over n windows less than one row a layer is missing. */
Test(test_sweep, a_matched_rule_keeps_as_many_rows)
{
    static const char *const name[] = {"short/k2v2/first:=kvsink:auto@each",
                                       "short/k2v2/toph:=kvsink:auto@each"};
    write_file("a.spec", HEAD "text short file=text.txt ctx=16\n" FORMATS "formats k2v2\n"
               "keeps kvsink:auto@each first:=kvsink:auto@each toph:=kvsink:auto@each\n");
    cr_assert(run("sweep a.spec") == 0, "%s", said);
    cJSON *like = cell("a", "short/k2v2/kvsink:auto@each");
    double kept = number(like, "kept"), n = number(like, "windows");
    cr_assert(kept > 0 && n >= 5 && kept != floor(kept), "%g kept, %g windows", kept, n);
    for (int i = 0; i < 2; i++) {
        cJSON *x = cell("a", name[i]);
        cr_expect(fabs(number(x, "kept") - kept) < 1 / n + 1e-9, "%s: %g, %g", name[i],
                  number(x, "kept"), kept);
        cJSON_Delete(x);
    }
    cJSON_Delete(like);
}

/* --------------------------------------------------------------- stopping */

#define STUDY HEAD TEXTS FORMATS "keeps none first:1 first:5 kvsink:1 kvsink:5 random:5:1\n" \
              "keeps toph:5\nbaseline first:5\nlayers yes\n"

static void expect_same_file(const char *a, const char *b)
{
    char *x = contents(a), *y = contents(b);
    cr_expect(strlen(x) > 0 && !strcmp(x, y), "%s and %s differ", a, b);
    free(x);
    free(y);
}

/* Starts a sweep and kills it when it has finished at least one cell. */
static void start_and_kill(const char *out)
{
    char path[300];
    snprintf(path, sizeof path, "%s/cells.jsonl", out);
    pid_t child = fork();
    cr_assert(child >= 0);
    if (!child) {
        int null = open("/dev/null", O_WRONLY);
        dup2(null, 1);
        execl(process_program, "kvsink", "sweep", "study.spec", "-o", out, (char *)NULL);
        _exit(127);
    }
    while (lines_of(path) < 1 && waitpid(child, NULL, WNOHANG) == 0)
        nanosleep(&(struct timespec){0, 1000000}, NULL);
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
}

Test(test_sweep, a_killed_sweep_goes_on_and_ends_with_the_same_tables, .timeout = 300)
{
    write_file("study.spec", STUDY);
    cr_assert(run("sweep study.spec -o whole") == 0, "%s", said);
    cr_expect(eq(int, lines_of("whole/cells.jsonl"), 28));
    start_and_kill("parts");
    int before = lines_of("parts/cells.jsonl");
    cr_assert(before >= 1 && before < 28, "%d cells before the kill", before);
    FILE *f = fopen("parts/cells.jsonl", "a"); /* as if it had been killed while it wrote */
    fputs("{\"id\":\"0123\",\"label\":\"ver", f);
    fclose(f);
    cJSON *root = run_json("sweep study.spec -o parts --json");
    cr_expect(number(root, "measured") == 28 - before, "%g measured, %d before",
              number(root, "measured"), before);
    cJSON_Delete(root);
    cr_expect(eq(int, lines_of("parts/cells.jsonl"), 28));
    expect_same_file("whole/table.md", "parts/table.md");
    expect_same_file("whole/table.csv", "parts/table.csv");
    root = run_json("sweep study.spec -o parts --json");
    cr_expect(number(root, "measured") == 0);
    cJSON_Delete(root);
}

Test(test_sweep, tables_and_pictures_need_no_model)
{
    static const char *const picture[] = {"bits-kl.png", "layers-verse-k2v2.png", "kept-long.png"};
    write_file("study.spec", STUDY);
    cr_assert(run("sweep study.spec -o first") == 0, "%s", said);
    cr_assert(mkdir("again", 0777) == 0);
    cr_assert(system("cp first/cells.jsonl first/texts.json again/") == 0);
    cr_assert(system("rm m.gguf text.txt p.txt") == 0);
    cr_assert(run("sweep study.spec -o again --table-only") == 0, "%s", said);
    expect_same_file("first/table.md", "again/table.md");
    expect_same_file("first/table.csv", "again/table.csv");
    for (int i = 0; i < 3; i++) {
        char line[300];
        snprintf(line, sizeof line, "cmp first/%s again/%s && test -s first/%s", picture[i],
                 picture[i], picture[i]);
        cr_expect(system(line) == 0, "%s", picture[i]);
    }
    char *table = contents("again/table.md");
    cr_expect(strstr(table, "12 comparisons") != NULL, "%s", table);
    free(table);
}

Test(test_sweep, a_changed_text_is_measured_again)
{
    write_file("a.spec", HEAD TEXTS FORMATS "texts verse\nformats k2v2\nkeeps none first:5\n");
    cr_assert(run("sweep a.spec") == 0, "%s", said);
    write_file("text.txt", "Another text altogether, and it goes on until there are enough of"
               " them.");
    cJSON *root = run_json("sweep a.spec --json");
    cr_expect(number(root, "measured") == 2);
    cJSON_Delete(root);
    cJSON *one = cell("a", "verse/k2v2/none");
    cr_expect(number(one, "windows") == 1);
    cJSON_Delete(one);
}

/* The rows of two tables; the commit below them may differ. */
static void expect_same_rows(const char *a, const char *b)
{
    char line[300];
    snprintf(line, sizeof line, "grep '^|' %s >one && grep '^|' %s >two && cmp one two", a, b);
    cr_expect(system(line) == 0, "%s and %s differ", a, b);
}

Test(test_sweep, a_text_that_is_changed_back_gets_its_results_back)
{
    const char *spec = HEAD TEXTS FORMATS "texts verse\nformats k2v2\nkeeps none first:5\n";
    write_file("a.spec", spec);
    cr_assert(run("sweep a.spec") == 0, "%s", said);
    cr_assert(system("cp a/table.md first.md && cp text.txt keep.txt") == 0);
    write_file("text.txt", "Another text altogether, and it goes on until there are enough of"
               " them.");
    cr_assert(run("sweep a.spec") == 0, "%s", said);
    cr_assert(system("cp keep.txt text.txt") == 0);
    cJSON *root = run_json("sweep a.spec --json");
    cr_expect(number(root, "measured") == 0);
    cJSON_Delete(root);
    expect_same_rows("first.md", "a/table.md");
    cr_expect(run("sweep a.spec --table-only") == 0, "%s", said);
    expect_same_rows("first.md", "a/table.md");
    int lines = lines_of("a/cells.jsonl");
    cr_expect(run("sweep a.spec") == 0, "%s", said);
    cr_expect(eq(int, lines_of("a/cells.jsonl"), lines));
}

Test(test_sweep, a_new_name_needs_no_new_measurement)
{
    write_file("a.spec", HEAD "text verse file=text.txt ctx=40\n" FORMATS
               "group all\nformats k2v2\nkeeps none\n"
               "group three\nformats k2v2\nwindows 3\nkeeps none\n");
    cr_assert(run("sweep a.spec") == 0, "%s", said);
    cr_assert(system("cp a/table.md first.md && sed -i s/verse/poems/ a.spec") == 0);
    cJSON *root = run_json("sweep a.spec --json");
    cr_expect(number(root, "measured") == 0);
    cJSON_Delete(root);
    cr_assert(system("sed -i s/poems/verse/ a/table.md") == 0);
    expect_same_rows("first.md", "a/table.md");
    char *table = contents("first.md");
    cr_expect(strstr(table, "not measured") == NULL, "%s", table);
    free(table);
}

/* ------------------------------------------------------------------ quick */

Test(test_sweep, quick_compares_cells_with_their_results)
{
    write_file("a.spec", HEAD TEXTS FORMATS "keeps none first:5 kvsink:5\n");
    cr_assert(run("sweep a.spec") == 0, "%s", said);
    cr_expect(run("sweep a.spec --quick verse/k2v2/none long/k4v4/kvsink:5") == 0, "%s", said);
    cr_expect(strstr(said, "verse/k2v2/none ok") != NULL, "%s", said);
    cr_expect(run("sweep a.spec --quick verse/k2v2/none --windows 1") == 0, "%s", said);
    cr_expect(run("sweep a.spec --quick verse/k2v2/nun") == 2, "%s", said);
    cr_assert(system("sed -i '/\"label\":\"verse.k2v2.none\"/s/\"kl\":\\[0/\"kl\":[1/' "
                     "a/cells.jsonl") == 0);
    cr_expect(run("sweep a.spec --quick verse/k2v2/none long/k4v4/kvsink:5") == 1, "%s", said);
    cr_expect(strstr(said, "verse/k2v2/none FAIL KL") != NULL, "%s", said);
    cr_expect(strstr(said, "long/k4v4/kvsink:5 ok") != NULL, "%s", said);
}
