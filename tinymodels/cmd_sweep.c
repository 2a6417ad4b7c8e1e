/* kvsink sweep: measure a grid of formats, keep rules and texts, and be able to stop. */
#define _POSIX_C_SOURCE 200809L
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "commands.h"
#include "files.h"
#include "stats.h"
#include "sweep.h"
#include "sweep_table.h"

typedef struct {
    const char *out;
    double memory, tolerance;
    int table_only, windows;
    cli_list quick;
    sweep_spec *spec;
    char folder[4096];
    sweep_results results;
    int failed, compared; /* quick */
} job;

/* ---------------------------------------------------------------- folders */

/* Where results go: -o, or what the spec file says, or its own name without its ending. */
static int choose_folder(job *j, const char *spec_path, kv_error *err)
{
    const char *out = j->out ? j->out : j->spec->out;
    const char *slash = strrchr(spec_path, '/'), *dot = strrchr(spec_path, '.');
    size_t n = dot && (!slash || dot > slash + 1) ? (size_t)(dot - spec_path) : 0;
    if (!out && !n)
        return kv_fail(err, KV_FAIL_USAGE, "%s says nothing about where results go: add 'out"
                       " DIRECTORY' or give -o DIRECTORY", spec_path);
    if (out) snprintf(j->folder, sizeof j->folder, "%s", out);
    else snprintf(j->folder, sizeof j->folder, "%.*s", (int)n, spec_path);
    return KV_OK;
}

/* Makes a folder and those above it. */
static int make_folder(const char *path, kv_error *err)
{
    char part[4096];
    struct stat st;
    for (size_t i = 1; i <= strlen(path); i++) {
        if (path[i] && path[i] != '/') continue;
        snprintf(part, sizeof part, "%.*s", (int)i, path);
        if (mkdir(part, 0777) != 0 && errno != EEXIST)
            return kv_fail(err, KV_FAIL_RUN, "cannot make the folder %s: %s", part,
                           strerror(errno));
    }
    if (stat(path, &st) == 0 && S_ISDIR(st.st_mode)) return KV_OK;
    return kv_fail(err, KV_FAIL_RUN, "%s is there and is no folder", path);
}

static int read_results(job *j, kv_error *err)
{
    char path[4096];
    return sweep_results_read(&j->results,
                              sweep_path(path, sizeof path, j->folder, "cells.jsonl"), err);
}

/* ------------------------------------------------------------------ tables */

static int write_all(job *j, kv_error *err)
{
    int n, code = read_results(j, err);
    if (code) return code;
    sweep_row *row = sweep_rows(&n, j->spec, &j->results, err);
    if (!row) return KV_FAIL_RUN;
    code = sweep_write_tables(j->spec, row, n, j->folder, err);
    if (!code) code = sweep_write_pictures(j->spec, row, n, j->folder, err);
    free(row);
    return code;
}

static int sweep_all(job *j, const cli_common *common, int *measured, kv_error *err)
{
    int n = sweep_spec_cells(NULL, j->spec);
    sweep_cell *cell = calloc((size_t)n, sizeof *cell);
    if (!cell) return kv_fail(err, KV_FAIL_RUN, "not enough memory for %d cells", n);
    sweep_spec_cells(cell, j->spec);
    sweep_job s = {.spec = j->spec, .out = j->folder, .memory = j->memory * 1e9, .cell = cell,
                   .cells = n, .quiet = common->json};
    int code = sweep_run(&s, common, measured, err);
    free(cell);
    return code;
}

/* -------------------------------------------------------------- comparing */

static double mean_of(const sweep_result *r, size_t offset, int n)
{
    double sum = 0;
    for (int i = 0; i < n; i++)
        sum += *(const double *)((const char *)&r->e.each[i] + offset);
    return sum / n;
}

static int shared_windows(const sweep_result *a, const sweep_result *b)
{
    return a->e.r.windows < b->e.r.windows ? a->e.r.windows : b->e.r.windows;
}

/* Compares the windows that both have. slack: what may differ besides the tolerance. */
static int differs(const char *name, const sweep_result *now, const sweep_result *was,
                   size_t offset, double tolerance, double slack)
{
    int n = shared_windows(now, was);
    double a = mean_of(now, offset, n), b = mean_of(was, offset, n);
    if (fabs(a - b) <= tolerance * fmax(fabs(a), fabs(b)) + slack) return 0;
    printf("%s FAIL %s: %.6g, committed %.6g\n", now->label, name, a, b);
    return 1;
}

/* A 2-bit cache is chaotic: another processor moves its KL by some per cent a window. What is
 * counted, and the 16-bit side, must stay. */
static int compare(void *self, const sweep_cell *c, const sweep_result *now, kv_error *err)
{
    job *j = self;
    sweep_cell whole = *c;
    int bad = 0;
    whole.layers = 0;
    whole.windows = j->spec->group[c->group].windows;
    const sweep_result *was = sweep_results_find(&j->results, j->spec, &whole, NULL);
    (void)err;
    if (!was) {
        printf("%s FAIL: not among the results in %s\n", now->label, j->folder);
        j->failed++;
        return KV_OK;
    }
    bad += differs("16-bit loss", now, was, offsetof(tm_eval_window, loss16), 1e-4, 0);
    bad += differs("loss", now, was, offsetof(tm_eval_window, loss), j->tolerance / 2, 0);
    bad += differs("KL", now, was, offsetof(tm_eval_window, kl), j->tolerance, 1e-5);
    bad += differs("top1", now, was, offsetof(tm_eval_window, top1), j->tolerance, 0.002);
    bad += differs("bytes", now, was, offsetof(tm_eval_window, bytes), 1e-3, 0);
    bad += differs("kept", now, was, offsetof(tm_eval_window, kept), 1e-2, 0.02);
    int n = shared_windows(now, was);
    if (!bad)
        printf("%s ok: KL of %d window%s %.4g, committed %.4g\n", now->label, n, n == 1 ? "" : "s",
               mean_of(now, offsetof(tm_eval_window, kl), n),
               mean_of(was, offsetof(tm_eval_window, kl), n));
    fflush(stdout);
    j->failed += bad > 0;
    j->compared++;
    return KV_OK;
}

static int is_chosen(const job *j, const sweep_cell *c)
{
    char label[1024];
    sweep_label(label, sizeof label, j->spec, c);
    for (int i = 0; i < j->quick.count; i++)
        if (!strcmp(j->quick.item[i], label)) return 1;
    return 0;
}

static int check_names(const job *j, const sweep_cell *cell, int n, kv_error *err)
{
    for (int i = 0; i < j->quick.count; i++) {
        int found = 0;
        for (int k = 0; k < n && !found; k++) {
            char label[1024];
            sweep_label(label, sizeof label, j->spec, &cell[k]);
            found = !strcmp(j->quick.item[i], label);
        }
        if (!found)
            return kv_fail(err, KV_FAIL_USAGE, "--quick: the spec file has no cell '%.200s';"
                           " expected TEXT/FORMAT/KEEP as in its results", j->quick.item[i]);
    }
    return KV_OK;
}

static int run_quick(job *j, const cli_common *common, kv_error *err)
{
    int n = sweep_spec_cells(NULL, j->spec), chosen = 0, measured;
    sweep_cell *cell = calloc((size_t)n, sizeof *cell);
    if (!cell) return kv_fail(err, KV_FAIL_RUN, "not enough memory for %d cells", n);
    sweep_spec_cells(cell, j->spec);
    int code = check_names(j, cell, n, err);
    for (int i = 0; i < n && !code; i++) {
        if (!is_chosen(j, &cell[i])) continue;
        cell[chosen] = cell[i];
        if (j->windows && (!cell[i].windows || j->windows < cell[i].windows))
            cell[chosen].windows = j->windows;
        cell[chosen].layers = 0;
        chosen++;
    }
    sweep_job s = {.spec = j->spec, .out = j->folder, .memory = j->memory * 1e9, .cell = cell,
                   .cells = chosen, .quiet = 1, .done = compare, .self = j};
    if (!code) code = read_results(j, err);
    if (!code) code = sweep_run(&s, common, &measured, err);
    free(cell);
    if (!code && j->failed)
        code = kv_fail(err, KV_FAIL_RUN, "%d of %d cells differ from the results in %s", j->failed,
                       chosen, j->folder);
    return code;
}

/* ---------------------------------------------------------------- command */

static const char details[] =
    "A spec file has lines of words; # begins a comment, \"quotes\" hold blanks:\n"
    "\n"
    "  model   PATH          profile PATH          out DIRECTORY\n"
    "  text    NAME file=PATH [join=eot[:N]] [ctx=512] [windows=N]\n"
    "               [bos=each|first|none] [stream=P] [special=yes]\n"
    "  text    NAME chat=PATH ...\n"
    "  format  NAME keys=FORMAT values=FORMAT [recent=R]\n"
    "               [kept=both|overwrite|exclude]           or preset=PRESET\n"
    "  group   NAME              begins a table of its own; then, for this group,\n"
    "  texts   NAME ...          (default: all that the file defines)\n"
    "  formats NAME ...          (likewise)\n"
    "  keeps   KEEP ...          the group is texts x formats x keeps\n"
    "  cell    TEXT FORMAT KEEP  and single cells\n"
    "  baseline KEEP             differences to this rule, paired by window\n"
    "  baseline-format NAME      differences to this format\n"
    "  windows N                 only the first N windows of each text\n"
    "  layers  yes               errors of each layer, too\n"
    "\n"
    "kept: whether kept tokens are left out of the groups' statistics and stored in\n"
    "16 bits (both, the default), only stored (overwrite) or only left out (exclude).\n"
    "KEEP is as for eval, or first:=KEEP and toph:=KEEP: in each window as many rows\n"
    "as the other rule keeps, so that rules over several stages can be compared at\n"
    "the same mean number of kept rows.\n"
    "\n"
    "Every finished cell is a line of DIRECTORY/cells.jsonl; a sweep that is stopped\n"
    "goes on where it was when it is started again. At the end table.md, table.csv\n"
    "and pictures are written beside it: bits-kl.png, layers*.png (if asked for) and\n"
    "kept*.png, the beginning of each text with its kept tokens marked. A cell is\n"
    "measured again if its text, model, profile, format, rule or windows changed.";

static int run(job *j, const cli_common *common, kv_error *err)
{
    int measured = 0;
    if (sweep_spec_read(&j->spec, common->positional, err) ||
        choose_folder(j, common->positional, err)) return err->code;
    if (j->quick.count) return run_quick(j, common, err);
    int code = j->table_only ? KV_OK : make_folder(j->folder, err);
    if (!code && !j->table_only) code = sweep_all(j, common, &measured, err);
    if (!code) code = write_all(j, err);
    if (code) return code;
    if (common->json) {
        cJSON *root = cJSON_CreateObject();
        cli_json_add_int(root, "cells", sweep_spec_cells(NULL, j->spec));
        cli_json_add_int(root, "measured", measured);
        cli_json_add_text(root, "out", j->folder, strlen(j->folder));
        cli_json_print(root);
    } else {
        printf("%d cells, %d measured now: see %s/table.md\n", sweep_spec_cells(NULL, j->spec),
               measured, j->folder);
    }
    return KV_OK;
}

/* A quarter of this machine's memory, in GB. */
static double quarter(void)
{
    long pages = sysconf(_SC_PHYS_PAGES), size = sysconf(_SC_PAGESIZE);
    return pages > 0 && size > 0 ? 0.25e-9 * (double)pages * (double)size : 1;
}

int cmd_sweep(int argc, char **argv)
{
    job j = {0};
    int status;
    const cli_option options[] = {
        {"-o", CLI_STRING, &j.out, "DIRECTORY", "(as the spec file says, or its name)", 0, 0,
         "where results go"},
        {"--table-only", CLI_FLAG, &j.table_only, NULL, NULL, 0, 0,
         "measure nothing; make tables and pictures again from cells.jsonl"},
        {"--quick", CLI_LIST, &j.quick, "TEXT/FORMAT/KEEP", NULL, 0, 0,
         "measure these cells again and compare them with cells.jsonl; exit 1 if one differs"},
        {"--windows", CLI_INT, &j.windows, "N", "(all)", 1, 1 << 28,
         "with --quick: compare only the first N windows"},
        {"--tolerance", CLI_FLOAT, &j.tolerance, "X", "0.05", 0, 1,
         "with --quick: relative difference of KL that is allowed"},
        {"--memory", CLI_FLOAT, &j.memory, "GB", "(a quarter of the machine's)", 0, 1e6,
         "hold so many logits of the 16-bit pass instead of making them again"},
        {0}};
    static const char *const examples[] = {
        "kvsink sweep study.spec -o build/study",
        "kvsink sweep study.spec -o build/study --table-only",
        "kvsink sweep study.spec --quick prose/k2v2/none prose/k2v2/kvsink:5 --windows 4", NULL};
    const cli_command command = {"sweep", "Measure a grid of texts, formats and keep rules; go on"
                                 " where it was stopped; write tables and pictures.", "SPECFILE", 0,
                                 options, details, examples};
    cli_common common;
    kv_error err;
    if (!cli_parse(&common, &command, argc, argv, &status)) return status;
    if (!cli_given("--memory")) j.memory = quarter();
    if (j.table_only && j.quick.count)
        status = cli_say_fail(&command, KV_FAIL_USAGE, "--table-only measures nothing and --quick"
                              " does; give one of them");
    else if (run(&j, &common, &err)) status = cli_fail(&command, &err);
    sweep_spec_free(j.spec);
    sweep_results_free(&j.results);
    return status;
}
