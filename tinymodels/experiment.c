/* Command line, texts and tables of the experiments; experiment.h says what they look like. */
#define _POSIX_C_SOURCE 200809L
#include "experiment.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "chat.h"
#include "memory.h"
#include "passages.h"
#include "profile.h"
#include "sinks_report.h"

void *experiment_zeros(size_t n, size_t size, kv_error *err)
{
    void *p = calloc(n ? n : 1, size);
    if (!p) kv_fail(err, KV_FAIL_RUN, "not enough memory for an experiment (%zu bytes); use a"
                    " smaller --ctx", n * size);
    return p;
}

/* ----------------------------------------------------------------- windows */

const int *experiment_window(const experiment_text *t, int w)
{
    return t->tokens + (size_t)w * (size_t)t->ctx;
}

static void free_windows(experiment_text *t)
{
    free(t->tokens);
    free(t->length);
    t->tokens = t->length = NULL;
    t->count = 0;
}

/* One conversation as a window. */
static int add_conversation(experiment_text *t, const experiment *x, const chat_message *message,
                            int n, kv_error *err)
{
    char *text = NULL;
    size_t bytes;
    int wants_bos = 0, *ids = NULL, length, first;
    int code = chat_render(&text, &bytes, &wants_bos, x->s.file, x->s.tok, message, n, 0, err);
    if (!code) code = tok_encode(&ids, &length, x->s.tok, text, bytes, 1, err);
    free(text);
    if (code) return code;
    int *to = t->tokens + (size_t)t->count * (size_t)t->ctx;
    first = wants_bos && tok_bos(x->s.tok) >= 0;
    if (first) to[0] = tok_bos(x->s.tok);
    if (length > t->ctx - first) length = t->ctx - first;
    memcpy(to + first, ids, (size_t)length * sizeof *to);
    t->length[t->count++] = first + length;
    free(ids);
    return KV_OK;
}

static int cut_chat(experiment_text *t, const experiment *x, int windows, kv_error *err)
{
    chat_list list;
    if (chat_read(&list, t->path, err)) return err->code;
    int all = 1;
    for (int i = 1; i < list.count; i++) all += strcmp(list.message[i].role, "system") == 0;
    if (windows > 0 && all > windows) all = windows;
    t->tokens = experiment_zeros((size_t)all * (size_t)t->ctx, sizeof *t->tokens, err);
    t->length = experiment_zeros((size_t)all, sizeof *t->length, err);
    int code = t->tokens && t->length ? KV_OK : KV_FAIL_RUN;
    for (int from = 0; from < list.count && t->count < all && !code; ) {
        int to = from + 1;
        while (to < list.count && strcmp(list.message[to].role, "system")) to++;
        code = add_conversation(t, x, list.message + from, to - from, err);
        from = to;
    }
    chat_free(&list);
    return code;
}

static int cut_stream(experiment_text *t, const experiment *x, int windows, kv_error *err)
{
    int bos = tok_bos(x->s.tok);
    tm_bos rule = t->kind == EXPERIMENT_PACKED || bos < 0 ? TM_BOS_NONE : TM_BOS_EACH;
    int code = tm_windows(&t->tokens, &t->count, t->ids, t->n, t->ctx, rule, bos, windows, err);
    if (code) return code;
    t->length = experiment_zeros((size_t)t->count, sizeof *t->length, err);
    for (int w = 0; w < t->count && t->length; w++) t->length[w] = t->ctx;
    return t->length ? KV_OK : KV_FAIL_RUN;
}

int experiment_cut(experiment *x, experiment_text *t, int ctx, int windows, kv_error *err)
{
    free_windows(t);
    t->ctx = ctx;
    if (session_check_length(&x->s, ctx, "a window", "use a smaller --ctx", err)) return err->code;
    int code = t->kind == EXPERIMENT_CHAT ? cut_chat(t, x, windows, err)
                                          : cut_stream(t, x, windows, err);
    char why[sizeof err->text];
    memcpy(why, err->text, sizeof why);
    if (code) kv_fail(err, code, "%.100s: %.380s", t->path, why);
    return code;
}

/* ------------------------------------------------------------------- texts */

static uint64_t fnv(const char *data, size_t n)
{
    uint64_t hash = 0xcbf29ce484222325u;
    for (size_t i = 0; i < n; i++) hash = (hash ^ (unsigned char)data[i]) * 0x100000001b3u;
    return hash;
}

/* NAME=FILE, or NAME=N:FILE. */
static int parse_text(experiment_text *t, experiment_kind kind, const char *argument, kv_error *err)
{
    static const char *const option[] = {"--text", "--packed", "--chat"};
    const char *equals = strchr(argument, '=');
    size_t n = equals ? (size_t)(equals - argument) : 0;
    char *end = NULL;
    t->kind = kind;
    t->path = equals ? equals + 1 : "";
    if (kind == EXPERIMENT_PACKED && equals) {
        long passage = strtol(t->path, &end, 10);
        t->passage = (int)passage;
        if (end == t->path || *end != ':' || passage < 1 || passage > 1 << 28) n = 0;
        else t->path = end + 1;
    }
    if (n < 1 || n >= sizeof t->name || !*t->path)
        return kv_fail(err, KV_FAIL_USAGE, "%s: found '%.80s', expected NAME=%sFILE (a name of 1 to"
                       " %zu letters)", option[kind], argument,
                       kind == EXPERIMENT_PACKED ? "N:" : "", sizeof t->name - 1);
    memcpy(t->name, argument, n);
    return KV_OK;
}

static int read_text(experiment *x, experiment_text *t, kv_error *err)
{
    char *text;
    if (cli_read_text_file(&text, &t->bytes, t->path, err)) return err->code;
    t->checksum = fnv(text, t->bytes);
    int code = KV_OK;
    if (t->kind == EXPERIMENT_PLAIN)
        code = tok_encode(&t->ids, &t->n, x->s.tok, text, t->bytes, x->common.special, err);
    if (t->kind == EXPERIMENT_PACKED)
        code = passages_join(&t->ids, &t->n, x->s.tok, text, t->bytes, x->common.special,
                             t->passage, err);
    free(text);
    return code ? code : experiment_cut(x, t, x->ctx, x->windows, err);
}

static int parse_texts(experiment *x, kv_error *err)
{
    const cli_list *list[] = {&x->plain, &x->packed, &x->chat};
    for (int kind = 0; kind < 3; kind++)
        for (int i = 0; i < list[kind]->count; i++) {
            if (x->n == EXPERIMENT_TEXTS)
                return kv_fail(err, KV_FAIL_USAGE, "more than %d texts", EXPERIMENT_TEXTS);
            if (parse_text(&x->text[x->n], (experiment_kind)kind, list[kind]->item[i], err))
                return err->code;
            x->n++;
        }
    if (x->n > 0) return KV_OK;
    return kv_fail(err, KV_FAIL_USAGE, "no text; give at least one --text, --packed or --chat");
}

/* ------------------------------------------------------------ command line */

static int keep_command(experiment *x, int argc, char **argv, kv_error *err)
{
    size_t n = 1;
    for (int i = 0; i < argc; i++) n += strlen(argv[i]) + 1;
    x->command = experiment_zeros(n, 1, err);
    for (int i = 0; i < argc && x->command; i++) {
        strcat(x->command, i ? " " : "");
        strcat(x->command, argv[i]);
    }
    return x->command ? KV_OK : KV_FAIL_RUN;
}

/* Options that all experiments have, and behind them this one's own. */
static void options(experiment *x)
{
    static char ctx[16], windows[16];
    snprintf(ctx, sizeof ctx, "%d", x->spec->ctx);
    snprintf(windows, sizeof windows, "%d", x->spec->windows);
    const cli_option shared[] = {
        {"--text", CLI_LIST, &x->plain, "NAME=FILE", NULL, 0, 0, "a text and what to call it"},
        {"--packed", CLI_LIST, &x->packed, "NAME=N:FILE", NULL, 0, 0,
         "its passages, cut to N tokens, joined by the end-of-text token"},
        {"--chat", CLI_LIST, &x->chat, "NAME=FILE", NULL, 0, 0,
         "conversations; a system message begins a new one"},
        {"--profile", CLI_STRING, &x->profile_path, "FILE", NULL, 0, 0,
         "what kvsink calibrate wrote about this model"},
        {"--ctx", CLI_INT, &x->ctx, "N", ctx, 2, 1 << 20, "tokens of a window"},
        {"--windows", CLI_INT, &x->windows, "N", windows, 1, 1 << 20, "windows of each text"},
        {"--long", CLI_FLAG, &x->is_long, NULL, NULL, 0, 0,
         "mark the tables as results that take long to make (book/style.md)"},
        {"--out", CLI_STRING, &x->out, "DIR", NULL, 0, 0, "folder for tables and pictures"},
    };
    int n = (int)(sizeof shared / sizeof *shared);
    int room = (int)(sizeof x->option / sizeof *x->option);
    memcpy(x->option, shared, sizeof shared);
    for (const cli_option *o = x->spec->options; o && o->name && n < room - 1; o++)
        x->option[n++] = *o;
}

static int check(experiment *x, kv_error *err)
{
    if (!x->out) return kv_fail(err, KV_FAIL_USAGE, "--out: name the folder for the results");
    if (x->spec->wants_profile && !x->profile_path)
        return kv_fail(err, KV_FAIL_USAGE,
                       "--profile: needed here; make one with kvsink calibrate");
    return parse_texts(x, err);
}

static int make_folder(const char *path, kv_error *err)
{
    struct stat st;
    if (mkdir(path, 0777) != 0 && errno != EEXIST)
        return kv_fail(err, KV_FAIL_RUN, "cannot make the folder %s: %s", path, strerror(errno));
    if (stat(path, &st) != 0 || !S_ISDIR(st.st_mode))
        return kv_fail(err, KV_FAIL_RUN, "%s is not a folder; name another with --out", path);
    return KV_OK;
}

static int open_all(experiment *x, int argc, char **argv, kv_error *err)
{
    if (check(x, err) || keep_command(x, argc, argv, err) ||
        session_open(&x->s, &x->common, err)) return err->code;
    x->e = report_engine(&x->s);
    if (x->profile_path && report_profile(&x->profile, &x->s, x->profile_path, err))
        return err->code;
    for (int i = 0; i < x->n; i++)
        if (read_text(x, &x->text[i], err)) return err->code;
    return make_folder(x->out, err);
}

int experiment_open(experiment *x, const experiment_spec *spec, int argc, char **argv, int *status)
{
    static const char *const examples[] = {
        "build/experiments/NN model.gguf --profile profile.txt --text book=book.txt --out results",
        "build/experiments/NN model.gguf --profile profile.txt --packed book=101:book.txt \\\n"
        "         --chat talk=talk.json --windows 8 --out results", NULL};
    kv_error err;
    memset(x, 0, sizeof *x);
    x->spec = spec;
    snprintf(x->name, sizeof x->name, "build/experiments/%s", spec->number);
    options(x);
    x->cli = (cli_command){x->name, spec->summary, "MODEL", CLI_SPECIAL, x->option, spec->details,
                           examples};
    cli_program(x->name);
    tm_out_clean_up_on_signals();
    if (!cli_parse(&x->common, &x->cli, argc, argv, status)) return 0;
    if (open_all(x, argc, argv, &err) == KV_OK) return 1;
    *status = experiment_fail(x, &err);
    experiment_close(x);
    return 0;
}

void experiment_close(experiment *x)
{
    for (int i = 0; i < x->n; i++) {
        free_windows(&x->text[i]);
        free(x->text[i].ids);
    }
    tm_profile_free(&x->profile);
    free(x->base.hidden);
    free(x->base.logits);
    free(x->command);
    session_close(&x->s);
}

int experiment_fail(const experiment *x, const kv_error *err)
{
    return cli_fail(&x->cli, err);
}

/* ------------------------------------------------------------------ tables */

const char *experiment_path(const experiment *x, const char *name)
{
    static char path[4][TM_PATH_MAX];
    static int next;
    next = (next + 1) % 4;
    snprintf(path[next], sizeof path[next], "%s/%s", x->out, name);
    return path[next];
}

static void print_text(FILE *f, const experiment_text *t)
{
    static const char *const kind[] = {"plain", "packed", "chat"};
    const char *slash = strrchr(t->path, '/');
    fprintf(f, "# text: %s = %s, %s", t->name, slash ? slash + 1 : t->path, kind[t->kind]);
    if (t->kind == EXPERIMENT_PACKED) fprintf(f, " in passages of %d tokens", t->passage);
    fprintf(f, ", %zu bytes, FNV-1a %016llx\n", t->bytes, (unsigned long long)t->checksum);
}

int experiment_table(tm_out *out, const experiment *x, const char *name, const char *titles,
                     kv_error *err)
{
    const char *slash = strrchr(x->common.positional, '/');
    if (tm_out_open(out, experiment_path(x, name), err)) return err->code;
    fprintf(out->f, "# command: %s\n", x->command);
    for (const char *p = x->spec->sources; *p; ) {
        int n = (int)strcspn(p, " ");
        fprintf(out->f, "# depends: %.*s\n", n, p);
        p += n + strspn(p + n, " ");
    }
    fprintf(out->f, "# model: %s %016llx\n", slash ? slash + 1 : x->common.positional,
            (unsigned long long)x->s.weights->hash);
    for (int i = 0; i < x->n; i++) print_text(out->f, &x->text[i]);
    fprintf(out->f, "# windows: at most %d of %d tokens for each text\n", x->windows, x->ctx);
    fprintf(out->f, "# commit: %s\n", cli_version());
    if (x->note[0]) fprintf(out->f, "# %s\n", x->note);
    if (x->is_long) fprintf(out->f, "# long: yes\n");
    fprintf(out->f, "%s\n", titles);
    return KV_OK;
}

/* -------------------------------------------------------------- arithmetic */

void experiment_add(experiment_mean *m, double x)
{
    if (!isfinite(x)) return;
    m->n++;
    m->sum += x;
    m->square += x * x;
}

double experiment_mean_of(const experiment_mean *m)
{
    return m->n ? m->sum / m->n : NAN;
}

double experiment_error_of(const experiment_mean *m)
{
    if (m->n < 2) return 0;
    double mean = m->sum / m->n, variance = (m->square - m->n * mean * mean) / (m->n - 1);
    return variance > 0 ? sqrt(variance / m->n) : 0;
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double experiment_median(double *x, int n)
{
    if (n > 0) qsort(x, (size_t)n, sizeof *x, ascending);
    return n > 0 ? (x[(n - 1) / 2] + x[n / 2]) / 2 : 0;
}

double experiment_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

char *experiment_machine(char *buffer, size_t size, const experiment *x)
{
    char line[256], name[160] = "unknown CPU";
    FILE *f = fopen("/proc/cpuinfo", "r");
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "model name : %159[^\n]", name) == 1) break;
    if (f) fclose(f);
    snprintf(buffer, size, "%s, %d thread%s, %s", name, x->common.threads,
             x->common.threads == 1 ? "" : "s", tm_fast_simd(x->s.fast));
    return buffer;
}

enum { CHUNK = 64 };

typedef struct {
    const float *logits16, *logits;
    const int *target;
    int vocab;
    tm_score score[CHUNK];
} scoring;

static void score_task(void *arg, int task, int worker)
{
    scoring *c = arg;
    size_t at = (size_t)task * (size_t)c->vocab;
    (void)worker;
    c->score[task] = tm_score_row(c->logits16 + at, c->logits + at, c->vocab, c->target[task]);
}

enum { REMEMBERED = 1 << 26 }; /* logits at most */

/* Logits of the 16-bit side, rows first..last-1, all at once and only once; too many: not at all.
 * */
static int remember(experiment *x, const float *hidden16, int first, int last, kv_error *err)
{
    experiment_base *b = &x->base;
    size_t C = (size_t)x->s.model->width, vocab = (size_t)x->s.model->vocab;
    size_t rows = (size_t)(last - first);
    uint64_t sum = fnv((const char *)(hidden16 + (size_t)first * C),
                       rows * C * sizeof *hidden16) | 1;
    if (b->logits && b->rows == sum && b->first == first && b->last == last) return KV_OK;
    free(b->logits);
    b->logits = NULL;
    if (rows * vocab > REMEMBERED) return KV_OK;
    b->logits = experiment_zeros(rows * vocab, sizeof *b->logits, err);
    b->rows = sum;
    b->first = first;
    b->last = last;
    return b->logits ? session_logits(&x->s, b->logits, hidden16 + (size_t)first * C, (int)rows,
                                      err)
                     : err->code;
}

int experiment_score(experiment_scores *s, experiment *x, const float *hidden16,
                     const float *hidden, const int *tokens, int first, int n, kv_error *err)
{
    size_t C = (size_t)x->s.model->width, vocab = (size_t)x->s.model->vocab;
    float *logits = experiment_zeros(2 * CHUNK * vocab, sizeof *logits, err);
    int code = logits ? remember(x, hidden16, first, n - 1, err) : KV_FAIL_RUN;
    double rows = n - 1 - first;
    scoring c = {NULL, logits + CHUNK * vocab, NULL, (int)vocab, {{0, 0, 0, 0}}};
    *s = (experiment_scores){0, 0, 0, 0};
    for (int i = first; i < n - 1 && !code; i += CHUNK) {
        int m = n - 1 - i < CHUNK ? n - 1 - i : CHUNK;
        c.target = tokens + i + 1;
        c.logits16 = x->base.logits ? x->base.logits + (size_t)(i - first) * vocab : logits;
        if (!x->base.logits)
            code = session_logits(&x->s, logits, hidden16 + (size_t)i * C, m, err);
        if (!code) code = session_logits(&x->s, logits + CHUNK * vocab, hidden + (size_t)i * C, m,
                                         err);
        if (!code) tm_parallel(tm_fast_pool(x->s.fast), score_task, &c, m);
        for (int j = 0; j < m && !code; j++) {
            s->loss16 += c.score[j].loss16 / rows;
            s->loss += c.score[j].loss / rows;
            s->kl += c.score[j].kl / rows;
            s->same += c.score[j].same / rows;
        }
    }
    free(logits);
    return code;
}

int experiment_sixteen(const float **hidden, experiment *x, const int *tokens, int n,
                       kv_error *err)
{
    experiment_base *b = &x->base;
    kv_format f16 = {.kind = KV_F16};
    uint64_t sum = fnv((const char *)tokens, (size_t)n * sizeof *tokens) | 1;
    *hidden = b->hidden;
    if (b->tokens == sum && b->n == n) return KV_OK;
    free(b->hidden);
    b->tokens = 0;
    b->hidden = experiment_zeros((size_t)n * (size_t)x->s.model->width, sizeof *b->hidden, err);
    int code = b->hidden ? experiment_quantized(b->hidden, NULL, x, &f16, &f16, NULL, tokens, n,
                                                err)
                         : err->code;
    if (!code) b->tokens = sum, b->n = n;
    *hidden = b->hidden;
    return code;
}

int experiment_quantized(float *hidden, double *bytes, experiment *x, const kv_format *keys,
                         const kv_format *values, const kv_keep *keep, const int *tokens, int n,
                         kv_error *err)
{
    const kv_model *m = x->s.model;
    tm_window *w = NULL;
    float *work = experiment_zeros(kv_forward_work(m, 0, 0, n), sizeof *work, err);
    int code = work ? tm_window_open(&w, m, keys, values, n, tm_fast_pool(x->s.fast), err)
                    : KV_FAIL_RUN;
    kv_run run = {.model = m, .backend = x->s.backend, .work = work};
    if (!code) {
        tm_window_keep(w, keep);
        run.memory = tm_window_memory(w);
        code = kv_forward(hidden, &run, tokens, n, err);
    }
    if (bytes) *bytes = 0;
    for (int l = 0; l < m->layers && !code && bytes; l++)
        *bytes += (double)tm_window_bytes(w, l).total;
    tm_window_close(w);
    free(work);
    return code;
}

int experiment_sinks(int *flag, const tm_attention *a, double eps)
{
    int found = 0, heads = a->layers * a->heads;
    for (int t = 0; t < a->T; t++) {
        int above = 0;
        for (int i = 0; i < heads; i++)
            above += a->alpha[(size_t)i * (size_t)a->T + (size_t)t] > eps;
        flag[t] = a->T - t >= SINKS_SEEN && 100 * above >= heads && above > 0;
        found += flag[t];
    }
    return found;
}
