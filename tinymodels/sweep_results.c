/* Reading and writing cells.jsonl, see sweep_results.h. */
#define _GNU_SOURCE
#include "sweep_results.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "cli.h"
#include "files.h"
#include "text_windows.h"

/* ------------------------------------------------------------------ names */

void sweep_label(char *text, size_t size, const sweep_spec *s, const sweep_cell *c)
{
    snprintf(text, size, "%s/%s/%s", s->text[c->text].name, s->format[c->format].name,
             s->keep_text[c->keep]);
}

/* How many windows the spec file asks for; 0: all. */
static int asked_windows(const sweep_spec *s, const sweep_cell *c)
{
    int of_text = s->text[c->text].windows, of_group = c->windows;
    return !of_group || (of_text && of_text < of_group) ? of_text : of_group;
}

void sweep_describe(char *text, size_t size, const sweep_spec *s, const sweep_cell *c)
{
    const sweep_text *t = &s->text[c->text];
    const sweep_format *f = &s->format[c->format];
    snprintf(text, size, "text %s join %s ctx %d windows %d bos %s stream %d special %d keys %s"
             " values %s recent %d keep %s", t->name, t->join ? t->join : "no", t->ctx,
             asked_windows(s, c), t->bos < 0 ? "default" : text_bos_name[t->bos], t->stream,
             t->special, f->keys_text, f->values_text, f->recent, s->keep_text[c->keep]);
}

/* ---------------------------------------------------------------- writing */

static void add_column(cJSON *to, const char *name, const sweep_result *r, size_t offset)
{
    cJSON *array = cJSON_AddArrayToObject(to, name);
    for (int i = 0; i < r->r.windows; i++) {
        const char *at = (const char *)&r->each[i] + offset;
        cJSON_AddItemToArray(array, cJSON_CreateNumber(*(const double *)at));
    }
}

/* The fields of a window and of an octave, by their names in the file. */
static const struct {
    const char *name;
    size_t offset;
} column[] = {{"loss16", offsetof(tm_eval_window, loss16)}, {"loss", offsetof(tm_eval_window, loss)},
              {"kl", offsetof(tm_eval_window, kl)}, {"top1", offsetof(tm_eval_window, top1)},
              {"bytes", offsetof(tm_eval_window, bytes)}, {"kept", offsetof(tm_eval_window, kept)}},
  number[] = {{"ppl16", offsetof(tm_eval_result, ppl16)}, {"ppl", offsetof(tm_eval_result, ppl)},
              {"kl", offsetof(tm_eval_result, kl)}, {"kl_error", offsetof(tm_eval_result, kl_error)},
              {"loss", offsetof(tm_eval_result, loss)},
              {"loss_error", offsetof(tm_eval_result, loss_error)},
              {"top1", offsetof(tm_eval_result, top1)},
              {"top1_error", offsetof(tm_eval_result, top1_error)},
              {"bits", offsetof(tm_eval_result, bits)}, {"bytes", offsetof(tm_eval_result, bytes)},
              {"bytes16", offsetof(tm_eval_result, bytes16)},
              {"kept", offsetof(tm_eval_result, kept)}},
  error[] = {{"keys", offsetof(tm_layer_error, keys)}, {"values", offsetof(tm_layer_error, values)},
             {"attention", offsetof(tm_layer_error, attention)}};
enum { COLUMNS = sizeof column / sizeof *column, NUMBERS = sizeof number / sizeof *number,
       ERRORS = sizeof error / sizeof *error };

static void add_octaves(cJSON *to, const tm_eval_result *r)
{
    cJSON *array = cJSON_AddArrayToObject(to, "octaves");
    for (int o = 0; o < TM_OCTAVES; o++) {
        if (!r->octave[o].tokens) continue;
        cJSON *row = cJSON_CreateObject();
        cli_json_add_int(row, "octave", o);
        cli_json_add_int(row, "tokens", r->octave[o].tokens);
        cli_json_add_number(row, "loss16", r->octave[o].loss16);
        cli_json_add_number(row, "loss", r->octave[o].loss);
        cli_json_add_number(row, "kl", r->octave[o].kl);
        cJSON_AddItemToArray(array, row);
    }
}

/* Per layer [at sinks, elsewhere]. */
static void add_layers(cJSON *to, const sweep_result *r)
{
    cJSON *layers = cJSON_AddObjectToObject(to, "layers");
    for (int i = 0; i < ERRORS; i++) {
        cJSON *array = cJSON_AddArrayToObject(layers, error[i].name);
        for (int l = 0; l < r->layers; l++) {
            const char *at = (const char *)&r->layer[l] + error[i].offset;
            cJSON_AddItemToArray(array, cJSON_CreateDoubleArray((const double *)at,
                                                                TM_TOKEN_KINDS));
        }
    }
    cJSON_AddItemToObject(to, "logits_error",
                          cJSON_CreateDoubleArray(r->r.logits_error, TM_TOKEN_KINDS));
}

static cJSON *to_json(const sweep_result *r)
{
    cJSON *root = cJSON_CreateObject();
    cJSON_AddStringToObject(root, "id", r->id);
    cli_json_add_text(root, "label", r->label, strlen(r->label));
    cli_json_add_text(root, "what", r->what, strlen(r->what));
    cli_json_add_text(root, "model", r->model, strlen(r->model));
    cli_json_add_text(root, "file", r->file, strlen(r->file));
    cJSON_AddStringToObject(root, "commit", r->commit);
    cli_json_add_int(root, "ctx", r->ctx);
    cli_json_add_int(root, "stream", r->stream);
    cli_json_add_int(root, "threads", r->threads);
    cli_json_add_int(root, "model_layers", r->depth);
    cli_json_add_number(root, "seconds", r->seconds);
    cli_json_add_int(root, "windows", r->r.windows);
    cli_json_add_int(root, "tokens", r->r.tokens);
    for (int i = 0; i < NUMBERS; i++)
        cli_json_add_number(root, number[i].name,
                            *(const double *)((const char *)&r->r + number[i].offset));
    cli_json_add_int(root, "capped", r->r.capped);
    cJSON *each = cJSON_AddObjectToObject(root, "each");
    for (int i = 0; i < COLUMNS; i++) add_column(each, column[i].name, r, column[i].offset);
    add_octaves(root, &r->r);
    if (r->layers) add_layers(root, r);
    if (r->marks) cJSON_AddItemToObject(root, "marked", cli_json_ints(r->mark, r->marks));
    return root;
}

/* ---------------------------------------------------------------- reading */

static double number_of(const cJSON *object, const char *name, int *ok)
{
    const cJSON *x = cJSON_GetObjectItemCaseSensitive(object, name);
    if (!cJSON_IsNumber(x)) *ok = 0;
    return cJSON_IsNumber(x) ? x->valuedouble : 0;
}

static char *text_of(const cJSON *object, const char *name, int *ok)
{
    const cJSON *x = cJSON_GetObjectItemCaseSensitive(object, name);
    char *copy = cJSON_IsString(x) ? malloc(strlen(x->valuestring) + 1) : NULL;
    if (copy) strcpy(copy, x->valuestring);
    else *ok = 0;
    return copy;
}

/* An array of n; NULL and *ok = 0 if it is not that. */
static const cJSON *array_of(const cJSON *object, const char *name, int n, int *ok)
{
    const cJSON *x = cJSON_GetObjectItemCaseSensitive(object, name);
    if (cJSON_IsArray(x) && (n < 0 || cJSON_GetArraySize(x) == n)) return x;
    *ok = 0;
    return NULL;
}

static void read_each(sweep_result *r, const cJSON *root, int *ok)
{
    const cJSON *each = cJSON_GetObjectItemCaseSensitive(root, "each"), *x;
    r->each = calloc((size_t)r->r.windows + 1, sizeof *r->each);
    if (!r->each) *ok = 0;
    for (int i = 0; i < COLUMNS && *ok; i++) {
        int w = 0;
        const cJSON *array = array_of(each, column[i].name, r->r.windows, ok);
        cJSON_ArrayForEach(x, array)
            *(double *)((char *)&r->each[w++] + column[i].offset) = x->valuedouble;
    }
}

static void read_octaves(tm_eval_result *r, const cJSON *root, int *ok)
{
    const cJSON *row;
    cJSON_ArrayForEach(row, array_of(root, "octaves", -1, ok)) {
        int o = (int)number_of(row, "octave", ok);
        if (o < 0 || o >= TM_OCTAVES) continue;
        r->octave[o].tokens = (long long)number_of(row, "tokens", ok);
        r->octave[o].loss16 = number_of(row, "loss16", ok);
        r->octave[o].loss = number_of(row, "loss", ok);
        r->octave[o].kl = number_of(row, "kl", ok);
    }
}

static void read_kinds(double *to, const cJSON *pair)
{
    for (int i = 0; i < TM_TOKEN_KINDS; i++) {
        const cJSON *x = cJSON_GetArrayItem(pair, i);
        to[i] = x ? x->valuedouble : 0;
    }
}

static void read_layers(sweep_result *r, const cJSON *root, int *ok)
{
    const cJSON *layers = cJSON_GetObjectItemCaseSensitive(root, "layers"), *x;
    if (!layers) return;
    r->layers = cJSON_GetArraySize(array_of(layers, "keys", -1, ok));
    r->layer = calloc((size_t)r->layers + 1, sizeof *r->layer);
    for (int i = 0; i < ERRORS && r->layer; i++) {
        int l = 0;
        cJSON_ArrayForEach(x, array_of(layers, error[i].name, r->layers, ok))
            read_kinds((double *)((char *)&r->layer[l++] + error[i].offset), x);
    }
    read_kinds(r->r.logits_error, array_of(root, "logits_error", TM_TOKEN_KINDS, ok));
}

static void read_marks(sweep_result *r, const cJSON *root)
{
    const cJSON *array = cJSON_GetObjectItemCaseSensitive(root, "marked"), *x;
    if (!cJSON_IsArray(array) || cJSON_GetArraySize(array) > SWEEP_MARKS) return;
    r->mark = calloc((size_t)cJSON_GetArraySize(array) + 1, sizeof *r->mark);
    if (!r->mark) return;
    cJSON_ArrayForEach(x, array) r->mark[r->marks++] = x->valueint;
}

static int from_json(sweep_result *r, const cJSON *root)
{
    int ok = 1;
    memset(r, 0, sizeof *r);
    char *id = text_of(root, "id", &ok);
    snprintf(r->id, sizeof r->id, "%s", id ? id : "");
    free(id);
    r->label = text_of(root, "label", &ok);
    r->what = text_of(root, "what", &ok);
    r->model = text_of(root, "model", &ok);
    r->file = text_of(root, "file", &ok);
    r->commit = text_of(root, "commit", &ok);
    r->ctx = (int)number_of(root, "ctx", &ok);
    r->stream = (int)number_of(root, "stream", &ok);
    r->threads = (int)number_of(root, "threads", &ok);
    r->depth = (int)number_of(root, "model_layers", &ok);
    r->seconds = number_of(root, "seconds", &ok);
    r->r.windows = (int)number_of(root, "windows", &ok);
    r->r.tokens = (long long)number_of(root, "tokens", &ok);
    for (int i = 0; i < NUMBERS; i++)
        *(double *)((char *)&r->r + number[i].offset) = number_of(root, number[i].name, &ok);
    r->r.capped = (int)number_of(root, "capped", &ok);
    if (ok) read_each(r, root, &ok);
    if (ok) read_octaves(&r->r, root, &ok);
    if (ok) read_layers(r, root, &ok);
    if (ok) read_marks(r, root);
    return ok;
}

void sweep_result_free(sweep_result *r)
{
    free(r->label);
    free(r->what);
    free(r->model);
    free(r->file);
    free(r->commit);
    free(r->each);
    free(r->layer);
    free(r->mark);
    memset(r, 0, sizeof *r);
}

void sweep_results_free(sweep_results *all)
{
    for (int i = 0; i < all->n; i++) sweep_result_free(&all->result[i]);
    free(all->result);
    memset(all, 0, sizeof *all);
}

static int read_line(sweep_results *all, const char *line, const char *path, int number_of_line,
                     kv_error *err)
{
    sweep_result *longer = realloc(all->result, ((size_t)all->n + 1) * sizeof *longer);
    if (!longer) return kv_fail(err, KV_FAIL_RUN, "not enough memory for %s", path);
    all->result = longer;
    cJSON *root = cJSON_Parse(line);
    int ok = root && from_json(&all->result[all->n], root);
    if (root) all->n++;
    cJSON_Delete(root);
    if (ok) return KV_OK;
    return kv_fail(err, KV_FAIL_RUN, "%.300s:%d: this is not the line of a finished cell; remove it,"
                   " and the cell will be measured again", path, number_of_line);
}

int sweep_results_read(sweep_results *out, const char *path, kv_error *err)
{
    char *text = NULL;
    size_t n;
    memset(out, 0, sizeof *out);
    if (access(path, F_OK) != 0 && errno == ENOENT) return KV_OK;
    int code = tm_read_file(&text, &n, path, err), number_of_line = 1;
    for (char *line = text, *end; !code && (end = strchr(line, '\n')); line = end + 1) {
        *end = 0;
        code = read_line(out, line, path, number_of_line++, err);
    }
    free(text);
    if (code) sweep_results_free(out);
    return code;
}

const sweep_result *sweep_results_find(const sweep_results *all, const sweep_spec *s,
                                       const sweep_cell *c, const char *id)
{
    char what[1024];
    sweep_describe(what, sizeof what, s, c);
    for (int i = all->n - 1; i >= 0; i--) {
        const sweep_result *r = &all->result[i];
        if (c->layers && !r->layers) continue;
        if (id ? !strcmp(r->id, id) : !strcmp(r->what, what)) return r;
    }
    return NULL;
}

/* -------------------------------------------------------------------- log */

static int log_failed(sweep_log *log, const char *what, kv_error *err)
{
    return kv_fail(err, KV_FAIL_RUN, "cannot %s %.300s: %s", what, log->path, strerror(errno));
}

/* Cuts off what stands behind the last line's end. */
static int drop_torn_line(sweep_log *log, kv_error *err)
{
    char block[4096];
    off_t end = lseek(log->fd, 0, SEEK_END);
    while (end > 0) {
        off_t from = end > (off_t)sizeof block ? end - (off_t)sizeof block : 0;
        ssize_t n = pread(log->fd, block, (size_t)(end - from), from);
        if (n <= 0) return log_failed(log, "read", err);
        const char *newline = memrchr(block, '\n', (size_t)n);
        if (newline) {
            end = from + (newline - block) + 1;
            break;
        }
        end = from;
    }
    if (end < 0 || ftruncate(log->fd, end) != 0 || lseek(log->fd, end, SEEK_SET) < 0)
        return log_failed(log, "write", err);
    return KV_OK;
}

int sweep_log_open(sweep_log *log, const char *path, kv_error *err)
{
    snprintf(log->path, sizeof log->path, "%s", path);
    log->fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (log->fd < 0) return log_failed(log, "write", err);
    int code = KV_OK;
    if (flock(log->fd, LOCK_EX | LOCK_NB) != 0)
        code = kv_fail(err, KV_FAIL_RUN, "%.300s: another sweep is writing to it; wait for its end or"
                       " name another folder with -o", path);
    if (!code) code = drop_torn_line(log, err);
    if (code) sweep_log_close(log);
    return code;
}

int sweep_log_add(sweep_log *log, const sweep_result *r, kv_error *err)
{
    cJSON *root = to_json(r);
    char *text = cJSON_PrintUnformatted(root);
    cJSON_Delete(root);
    if (!text) return kv_fail(err, KV_FAIL_RUN, "not enough memory for a line of results");
    size_t n = strlen(text), done = 0;
    text[n++] = '\n'; /* in the place of the NUL */
    int code = KV_OK;
    while (done < n && !code) {
        ssize_t wrote = write(log->fd, text + done, n - done);
        if (wrote > 0) done += (size_t)wrote;
        else if (errno != EINTR) code = log_failed(log, "write", err);
    }
    if (!code && fsync(log->fd) != 0 && errno != EINVAL) code = log_failed(log, "write", err);
    cJSON_free(text);
    return code;
}

void sweep_log_close(sweep_log *log)
{
    if (log->fd >= 0) close(log->fd);
    log->fd = -1;
}
