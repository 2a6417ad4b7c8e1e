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
    char keep[1024];
    snprintf(text, size, "text %s join %s ctx %d windows %d bos %s stream %d special %d keys %s"
             " values %s recent %d%s%s keep %s", t->name, t->join ? t->join : "no", t->ctx,
             asked_windows(s, c), t->bos < 0 ? "default" : text_bos_name[t->bos], t->stream,
             t->special, f->keys_text, f->values_text, sweep_recent(f, t), f->kept ? " kept " : "",
             f->kept ? cli_kept_name[f->kept] : "",
             sweep_keep(keep, sizeof keep, s, c->keep));
}

/* ---------------------------------------------------------------- writing */

/* The tokens that are kept, and each in how many layers. */
static void add_marks(cJSON *to, const sweep_result *r)
{
    cJSON *marked = cJSON_AddObjectToObject(to, "marked");
    cJSON *at = cJSON_CreateArray(), *layers = cJSON_CreateArray();
    cli_json_add_int(marked, "tokens", r->marks);
    for (int t = 0; t < r->marks; t++) {
        if (!r->e.mark[t]) continue;
        cJSON_AddItemToArray(at, cJSON_CreateNumber(t));
        cJSON_AddItemToArray(layers, cJSON_CreateNumber(r->e.mark[t]));
    }
    cJSON_AddItemToObject(marked, "at", at);
    cJSON_AddItemToObject(marked, "layers", layers);
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
    eval_json_add(root, &r->e);
    if (r->marks) add_marks(root, r);
    return root;
}

/* ---------------------------------------------------------------- reading */

static char *text_of(const cJSON *object, const char *name, int *ok)
{
    const cJSON *x = cJSON_GetObjectItemCaseSensitive(object, name);
    char *copy = cJSON_IsString(x) ? malloc(strlen(x->valuestring) + 1) : NULL;
    if (copy) strcpy(copy, x->valuestring);
    else *ok = 0;
    return copy;
}

static void read_marks(sweep_result *r, const cJSON *root)
{
    const cJSON *marked = cJSON_GetObjectItemCaseSensitive(root, "marked");
    const cJSON *at = cJSON_GetObjectItemCaseSensitive(marked, "at"), *x;
    const cJSON *layers = cJSON_GetObjectItemCaseSensitive(marked, "layers");
    int ok = 1, tokens = (int)eval_json_number(marked, "tokens", &ok), i = 0;
    if (!ok || tokens < 1 || tokens > SWEEP_MARKS) return;
    r->e.mark = calloc((size_t)tokens, sizeof *r->e.mark);
    if (!r->e.mark) return;
    r->marks = tokens;
    cJSON_ArrayForEach(x, at) {
        const cJSON *n = cJSON_GetArrayItem(layers, i++);
        if (n && x->valueint >= 0 && x->valueint < tokens) r->e.mark[x->valueint] = n->valueint;
    }
}

static int from_json(sweep_result *r, const cJSON *root)
{
    int ok;
    memset(r, 0, sizeof *r);
    ok = eval_json_read(&r->e, root);
    char *id = text_of(root, "id", &ok);
    snprintf(r->id, sizeof r->id, "%s", id ? id : "");
    free(id);
    r->label = text_of(root, "label", &ok);
    r->what = text_of(root, "what", &ok);
    r->model = text_of(root, "model", &ok);
    r->file = text_of(root, "file", &ok);
    r->commit = text_of(root, "commit", &ok);
    r->ctx = (int)eval_json_number(root, "ctx", &ok);
    r->stream = (int)eval_json_number(root, "stream", &ok);
    r->threads = (int)eval_json_number(root, "threads", &ok);
    r->depth = (int)eval_json_number(root, "model_layers", &ok);
    r->seconds = eval_json_number(root, "seconds", &ok);
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
    eval_record_free(&r->e);
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
    return kv_fail(err, KV_FAIL_RUN, "%.300s:%d: this is not the line of a finished cell; remove"
                   " it, and the cell will be measured again", path, number_of_line);
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
        if (c->layers && !r->e.layers) continue;
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
        code = kv_fail(err, KV_FAIL_RUN, "%.300s: another sweep is writing to it; wait for its end"
                       " or name another folder with -o", path);
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
