/* Measuring the cells of a sweep, see sweep.h. */
#define _POSIX_C_SOURCE 200809L
#include "sweep.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cli.h"
#include "evidence.h"
#include "files.h"
#include "greedy.h"
#include "memory.h"
#include "profile.h"
#include "report.h"
#include "text_windows.h"

typedef struct {
    const sweep_job *job;
    session s;
    tm_engine e;
    kv_profile profile;
    uint64_t profile_hash;
    text_windows *text; /* [n_texts], those that are needed */
    uint64_t *text_hash;
    sweep_results old;  /* what the log had */
    sweep_log log;
    char *wanted;       /* [cells] 1: to be measured */
    int *choice;        /* [n_keeps] number of a rule among those of the base, or -1 */
    /* progress, in passes over windows */
    double passes, done, weight; /* in all, finished, of the cell in progress */
    int measured;
} sweep;

char *sweep_path(char *path, size_t size, const char *out, const char *name)
{
    size_t n = strlen(out);
    snprintf(path, size, "%s%s%s", out, n && out[n - 1] == '/' ? "" : "/", name);
    return path;
}

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

/* --------------------------------------------------------------- identity */

static uint64_t hash_text(uint64_t hash, const char *text)
{
    return tm_hash(hash, text, strlen(text) + 1);
}

static int uses_profile(const sweep_spec *s, const sweep_cell *c)
{
    const sweep_format *f = &s->format[c->format];
    return tm_choice_needs_profile(&s->keep[c->keep]) || f->keys.is_static || f->values.is_static ||
           c->layers;
}

static int windows_of(const sweep *w, const sweep_cell *c)
{
    int n = w->text[c->text].count;
    return c->windows && c->windows < n ? c->windows : n;
}

/* All that the figures of a cell depend on, but for the program. Token ids stand for the text, its
 * BOS and how it was joined. */
static void identify(char *id, size_t size, const sweep *w, const sweep_cell *c)
{
    const sweep_spec *s = w->job->spec;
    const sweep_format *f = &s->format[c->format];
    char numbers[200], keep[1024];
    uint64_t hash = w->text_hash[c->text], model = w->s.weights->hash;
    snprintf(numbers, sizeof numbers, "%d %d %d %d %016llx %016llx", s->text[c->text].ctx,
             windows_of(w, c), s->text[c->text].stream, sweep_recent(f, &s->text[c->text]),
             (unsigned long long)model,
             uses_profile(s, c) ? (unsigned long long)w->profile_hash : 0);
    hash = hash_text(hash, numbers);
    hash = hash_text(hash, f->keys_text);
    hash = hash_text(hash, f->values_text);
    hash = hash_text(hash, sweep_keep(keep, sizeof keep, s, c->keep));
    if (f->kept) hash = hash_text(hash, cli_kept_name[f->kept]);
    snprintf(id, size, "%016llx", (unsigned long long)hash);
}

/* ------------------------------------------------------------------ texts */

static int read_text(sweep *w, int i, kv_error *err)
{
    const sweep_text *t = &w->job->spec->text[i];
    text_source source = {.file = t->file, .chat = t->chat, .join = t->join, .ctx = t->ctx,
                          .limit = t->windows, .special = t->special, .bos = t->bos};
    text_windows *x = &w->text[i];
    int code = session_check_length(&w->s, t->ctx, "a window", "use a smaller ctx", err);
    if (!code) code = text_windows_read(x, &source, &w->s, err);
    if (code) {
        char text[sizeof err->text];
        memcpy(text, err->text, sizeof text);
        return kv_fail(err, code, "%.100s:%d: text %.60s: %.300s", w->job->spec->path, t->line,
                       t->name, text);
    }
    w->text_hash[i] = TM_HASH_START;
    for (int k = 0; k < x->count * t->ctx; k++)
        w->text_hash[i] = tm_hash(w->text_hash[i], &x->window[k], sizeof x->window[k]);
    return KV_OK;
}

static int read_texts(sweep *w, kv_error *err)
{
    int code = KV_OK;
    for (int i = 0; i < w->job->cells && !code; i++)
        if (!w->text[w->job->cell[i].text].window) code = read_text(w, w->job->cell[i].text, err);
    return code;
}

static int check_format(const sweep *w, const sweep_format *f, const sweep_text *t, kv_error *err)
{
    const kv_profile *profile = w->job->spec->profile ? &w->profile : NULL;
    kv_shape s = w->s.model->shape;
    tm_stream_spec stream = {.keys = f->keys, .values = f->values, .capacity = t->ctx,
                             .recent = sweep_recent(f, t)};
    char keys[64], values[64];
    int recent, code = KV_OK;
    if (f->preset[0])
        code = cli_preset(keys, values, &recent, f->preset, t->stream > 0, s.head_size, err);
    if (!code && f->preset[0] && strcmp(keys, f->keys_text) != 0)
        code = kv_fail(err, KV_FAIL_USAGE, "preset=%s means keys=%s values=%s for heads of %d"
                       " channels; write that in its place", f->preset, keys, values, s.head_size);
    if (!code) code = kv_format_check(&f->keys, s, 0, err);
    if (!code) code = kv_format_check(&f->values, s, 1, err);
    if (!code) code = kv_profile_limits(&stream.key_limits, profile, &f->keys, 0, err);
    if (!code) code = kv_profile_limits(&stream.value_limits, profile, &f->values, 1, err);
    if (!code && stream.recent && !t->stream)
        code = kv_fail(err, KV_FAIL_USAGE, "recent=%d: a whole window has no recent tokens; give text"
                       " %s a stream=P", stream.recent, t->name);
    return code || !t->stream ? code : tm_stream_check(w->s.model, &stream, err);
}

/* greedy asks nothing of the pass. */
static int check_keep(const sweep *w, const tm_choice *keep, const sweep_text *t, kv_error *err)
{
    tm_evidence *evidence = NULL;
    if (keep->rule.kind == KV_KEEP_GREEDY)
        return !t->stream && t->ctx <= TM_GREEDY_TOKENS ? KV_OK
               : kv_fail(err, KV_FAIL_USAGE, "text %s: greedy:K is for whole windows of at most %d"
                         " tokens", t->name, TM_GREEDY_TOKENS);
    if (keep->matches && t->stream)
        return kv_fail(err, KV_FAIL_USAGE, "first:=KEEP and toph:=KEEP are for whole windows, and text"
                       " %s is a stream; name a number", t->name);
    int code = tm_evidence_open(&evidence, keep->matches ? &keep->like : &keep->rule,
                                w->job->spec->profile ? &w->profile : NULL, w->s.model,
                                t->stream ? t->stream : t->ctx, err);
    tm_evidence_close(evidence);
    return code;
}

/* What is wrong with the formats and rules of all cells, before the first is measured. */
static int check_cell(const sweep *w, const sweep_cell *c, kv_error *err)
{
    const sweep_spec *s = w->job->spec;
    const sweep_text *t = &s->text[c->text];
    const sweep_format *f = &s->format[c->format];
    int line = f->line, code = check_format(w, f, t, err);
    if (!code) {
        line = s->keep_line[c->keep];
        code = check_keep(w, &s->keep[c->keep], t, err);
    }
    if (!code) return KV_OK;
    char text[sizeof err->text];
    memcpy(text, err->text, sizeof text);
    return kv_fail(err, code, "%.100s:%d: %.380s", s->path, line, text);
}

static int check_cells(const sweep *w, kv_error *err)
{
    int code = KV_OK;
    for (int i = 0; i < w->job->cells && !code; i++) code = check_cell(w, &w->job->cell[i], err);
    return code;
}

/* The text of the first windows, so that pictures can be made without the model: texts.json. */
static int write_pieces(const sweep *w, kv_error *err)
{
    char path[4096];
    const sweep_spec *s = w->job->spec;
    cJSON *root = cJSON_CreateObject();
    for (int i = 0; i < s->n_texts; i++) {
        const text_windows *x = &w->text[i];
        cJSON *array = x->window ? cJSON_AddArrayToObject(root, s->text[i].name) : NULL;
        for (int k = 0; array && k < s->text[i].ctx && k < SWEEP_MARKS; k++) {
            size_t n;
            const char *bytes = tok_bytes(w->s.tok, x->window[k], &n);
            if (n == 0) bytes = tok_piece(w->s.tok, x->window[k], &n);
            cJSON_AddItemToArray(array, cli_json_text(bytes, n));
        }
    }
    char *text = cJSON_PrintUnformatted(root);
    cJSON_Delete(root);
    if (!text) return kv_fail(err, KV_FAIL_RUN, "not enough memory for texts.json");
    int code = tm_write_text(sweep_path(path, sizeof path, w->job->out, "texts.json"), text, err);
    cJSON_free(text);
    return code;
}

/* ------------------------------------------------------------------ cells */

/* An earlier cell of this run that is the same measurement. */
static int is_repeated(const sweep *w, int i)
{
    const sweep_cell *c = &w->job->cell[i];
    char id[20], other[20];
    identify(id, sizeof id, w, c);
    for (int j = 0; j < i; j++) {
        if (w->job->cell[j].layers < c->layers || w->job->cell[j].text != c->text) continue;
        identify(other, sizeof other, w, &w->job->cell[j]);
        if (!strcmp(id, other)) return 1;
    }
    return 0;
}

static void find_wanted(sweep *w)
{
    for (int i = 0; i < w->job->cells; i++) {
        char id[20];
        const sweep_cell *c = &w->job->cell[i];
        identify(id, sizeof id, w, c);
        w->wanted[i] = !is_repeated(w, i) && !sweep_results_find(&w->old, w->job->spec, c, id);
    }
}

/* Work of a cell, counted in passes, once the 16-bit side is there. */
static double work_of(const sweep *w, const sweep_cell *c)
{
    return windows_of(w, c) * (1.0 + c->layers);
}

/* Windows of a text that some cell needs. */
static int most_windows(const sweep *w, int text)
{
    int most = 0;
    for (int i = 0; i < w->job->cells; i++)
        if (w->job->cell[i].text == text && w->wanted[i] &&
            windows_of(w, &w->job->cell[i]) > most) most = windows_of(w, &w->job->cell[i]);
    return most;
}

static void count_work(sweep *w)
{
    for (int i = 0; i < w->job->cells; i++)
        if (w->wanted[i]) w->passes += work_of(w, &w->job->cell[i]);
    for (int t = 0; t < w->job->spec->n_texts; t++) w->passes += most_windows(w, t);
}

static void progress(void *self, double done, double total)
{
    sweep *w = self;
    double now = w->done + w->weight * done / total;
    if (now < w->passes) cli_progress(now, w->passes, "sweep");
}

static void print_cell(const sweep_result *r)
{
    cli_progress_clear();
    printf("%-44s ppl %9.4f (%.4f)  KL %.4g", r->label, r->e.r.ppl, r->e.r.ppl16, r->e.r.kl);
    if (r->e.r.windows > 1) printf(" +- %.2g", r->e.r.kl_error);
    printf("  %.3f bits  %.3g kept  %.1f s\n", r->e.r.bits, r->e.r.kept, r->seconds);
    fflush(stdout);
}

static char *copy(const char *text)
{
    char *to = malloc(strlen(text) + 1);
    return to ? strcpy(to, text) : NULL;
}

static int describe(sweep_result *r, const sweep *w, const sweep_cell *c, kv_error *err)
{
    const sweep_spec *s = w->job->spec;
    const sweep_text *t = &s->text[c->text];
    char text[1024];
    identify(r->id, sizeof r->id, w, c);
    sweep_label(text, sizeof text, s, c);
    r->label = copy(text);
    sweep_describe(text, sizeof text, s, c);
    r->what = copy(text);
    r->commit = copy(cli_version());
    r->model = copy(base_name(s->model));
    r->file = copy(base_name(t->chat ? t->chat : t->file));
    r->ctx = t->ctx;
    r->stream = t->stream;
    r->depth = w->s.model->layers;
    r->threads = tm_pool_threads(tm_fast_pool(w->s.fast));
    if (r->label && r->what && r->commit && r->model && r->file) return KV_OK;
    return kv_fail(err, KV_FAIL_RUN, "not enough memory for a result");
}

static int evaluate(sweep_result *r, sweep *w, const sweep_cell *c, tm_base *base, kv_error *err)
{
    const sweep_format *f = &w->job->spec->format[c->format];
    tm_eval_cell cell = {.keys = f->keys, .values = f->values,
                         .recent = sweep_recent(f, &w->job->spec->text[c->text]),
                         .choice = w->choice[c->keep], .windows = windows_of(w, c)};
    double start = seconds();
    memset(r, 0, sizeof *r);
    int ctx = w->job->spec->text[c->text].ctx;
    if (eval_record_init(&r->e, cell.windows, c->layers ? w->s.model->layers : 0, ctx, err) ||
        describe(r, w, c, err) ||
        tm_eval_on(&r->e.r, r->e.each, r->e.layer, r->e.mark, &cell, base, progress, w, err))
        return err->code;
    if (!w->job->spec->text[c->text].stream) r->marks = ctx < SWEEP_MARKS ? ctx : SWEEP_MARKS;
    r->seconds = seconds() - start;
    return KV_OK;
}

static int measure(sweep *w, const sweep_cell *c, tm_base *base, kv_error *err)
{
    sweep_result r;
    int n = windows_of(w, c), code;
    w->weight = work_of(w, c);
    for (int i = 0; i < n; i++) w->weight += !tm_base_has(base, i);
    code = evaluate(&r, w, c, base, err);
    if (code) {
        char text[sizeof err->text], label[300];
        memcpy(text, err->text, sizeof text);
        sweep_label(label, sizeof label, w->job->spec, c);
        kv_fail(err, code, "%.120s: %.360s", label, text);
    }
    if (!code) code = w->job->done ? w->job->done(w->job->self, c, &r, err)
                                   : sweep_log_add(&w->log, &r, err);
    if (!code && !w->job->quiet) print_cell(&r);
    sweep_result_free(&r);
    w->done += w->weight;
    w->measured += !code;
    return code;
}

/* The rules that the wanted cells of a text need, each once; the number of them. */
static int list_choices(sweep *w, int text, tm_choice *choice, int *layers)
{
    int n = 0;
    *layers = 0;
    for (int k = 0; k < w->job->spec->n_keeps; k++) w->choice[k] = -1;
    for (int i = 0; i < w->job->cells; i++) {
        const sweep_cell *c = &w->job->cell[i];
        if (c->text != text || !w->wanted[i]) continue;
        *layers |= c->layers;
        if (w->choice[c->keep] >= 0) continue;
        choice[n] = w->job->spec->keep[c->keep];
        w->choice[c->keep] = n++;
    }
    return n;
}

static int measure_text(sweep *w, int text, kv_error *err)
{
    const sweep_text *t = &w->job->spec->text[text];
    tm_base *base = NULL;
    tm_choice *choice = calloc((size_t)w->job->spec->n_keeps, sizeof *choice);
    if (!choice) return kv_fail(err, KV_FAIL_RUN, "not enough memory for keep rules");
    int layers, n = list_choices(w, text, choice, &layers);
    tm_base_spec spec = {.ctx = t->ctx, .stream = t->stream, .choice = choice, .choices = n,
                         .profile = w->job->spec->profile ? &w->profile : NULL, .marks = layers,
                         .hold = 1, .memory = (size_t)w->job->memory};
    int code = n ? tm_base_open(&base, &spec, &w->e, w->s.fast, w->text[text].window,
                                most_windows(w, text), err) : KV_OK;
    for (int i = 0; i < w->job->cells && n && !code; i++)
        if (w->job->cell[i].text == text && w->wanted[i])
            code = measure(w, &w->job->cell[i], base, err);
    tm_base_close(base);
    free(choice);
    return code;
}

/* ---------------------------------------------------------------- running */

/* A result may be known by its id while the last one of this description is another or missing: the
 * text was changed and changed back, or a name in the spec file is new. Tables go by description,
 * so it is written once more. */
static int write_again(sweep *w, const sweep_cell *c, kv_error *err)
{
    const sweep_spec *s = w->job->spec;
    char id[20], label[1024], what[1024];
    identify(id, sizeof id, w, c);
    const sweep_result *r = sweep_results_find(&w->old, s, c, id);
    const sweep_result *last = sweep_results_find(&w->old, s, c, NULL);
    if (!r || (last && !strcmp(last->id, id))) return KV_OK;
    sweep_result again = *r;
    sweep_label(again.label = label, sizeof label, s, c);
    sweep_describe(again.what = what, sizeof what, s, c);
    return sweep_log_add(&w->log, &again, err);
}

static int write_all_again(sweep *w, kv_error *err)
{
    char path[4096];
    sweep_results_free(&w->old);
    int code = sweep_results_read(&w->old, sweep_path(path, sizeof path, w->job->out,
                                                      "cells.jsonl"), err);
    for (int i = 0; i < w->job->cells && !code; i++) code = write_again(w, &w->job->cell[i], err);
    return code;
}

static int open_all(sweep *w, const cli_common *common, kv_error *err)
{
    const sweep_spec *s = w->job->spec;
    char path[4096];
    if (session_open(&w->s, common, err)) return err->code;
    w->e = report_engine(&w->s);
    w->text = calloc((size_t)s->n_texts, sizeof *w->text);
    w->text_hash = calloc((size_t)s->n_texts, sizeof *w->text_hash);
    w->choice = calloc((size_t)s->n_keeps + 1, sizeof *w->choice);
    w->wanted = calloc((size_t)w->job->cells + 1, 1);
    if (!w->text || !w->text_hash || !w->choice || !w->wanted)
        return kv_fail(err, KV_FAIL_RUN, "not enough memory for the sweep");
    if (s->profile) {
        char *text;
        size_t n;
        if (tm_read_file(&text, &n, s->profile, err)) return err->code;
        w->profile_hash = tm_hash(TM_HASH_START, text, n);
        free(text);
        if (report_profile(&w->profile, &w->s, s->profile, err)) return err->code;
    }
    if (check_cells(w, err) || read_texts(w, err)) return err->code;
    if (w->job->done) return KV_OK;
    sweep_path(path, sizeof path, w->job->out, "cells.jsonl");
    if (sweep_log_open(&w->log, path, err)) return err->code;
    if (sweep_results_read(&w->old, path, err)) return err->code;
    return write_pieces(w, err);
}

int sweep_run(const sweep_job *job, const cli_common *common, int *measured, kv_error *err)
{
    sweep w = {.job = job, .log = {.fd = -1}};
    cli_common own = *common;
    own.positional = job->spec->model;
    int code = open_all(&w, &own, err);
    if (!code) find_wanted(&w);
    if (!code) count_work(&w);
    for (int t = 0; t < job->spec->n_texts && !code; t++) code = measure_text(&w, t, err);
    if (!code && !job->done) code = write_all_again(&w, err);
    cli_progress_clear();
    *measured = w.measured;
    sweep_log_close(&w.log);
    sweep_results_free(&w.old);
    for (int t = 0; w.text && t < job->spec->n_texts; t++) text_windows_free(&w.text[t]);
    free(w.text);
    free(w.text_hash);
    free(w.choice);
    free(w.wanted);
    tm_profile_free(&w.profile);
    if (w.s.tok) session_close(&w.s);
    return code;
}
