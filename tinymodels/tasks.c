/* The tasks of tasks.h: each is one function that scores one item on one sequence. */
#include "tasks.h"

#include <ctype.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { DIGITS = 5, DEPTHS = 5, CHOICES = 4 };

typedef struct {
    const tm_task_spec *spec;
    int *tokens;       /* [capacity] of the item in work */
    float *hidden;     /* [capacity][C] */
    float *logits;     /* [vocab] */
    int capacity, passage, candidate;
    int *said;         /* [items][written] greedy text with 16 bits */
    int is_16;         /* the sequence in work has 16 bits */
} work;

/* Score of one item, on a sequence with 16 bits or with the cache. */
typedef int item_function(double *score, work *w, tm_sequence *s, int item, kv_error *err);

const char *tm_task_name(tm_task_kind task)
{
    static const char *const name[TM_TASKS] = {"passkey", "passage", "greedy"};
    return name[task];
}

/* --------------------------------------------------------------- small steps */

/* Tokens first..first+n-1 of the text, which begins again where it ends. */
static int take(int *to, const work *w, long long first, int n)
{
    for (int i = 0; i < n; i++) to[i] = w->spec->ids[(first + i) % w->spec->n];
    return n;
}

static int begin(work *w)
{
    int bos = tok_bos(w->spec->tok);
    if (bos >= 0) w->tokens[0] = bos;
    return bos >= 0;
}

static int say(int *to, int room, int *n, const work *w, const char *text, kv_error *err)
{
    int *ids, count;
    if (tok_encode(&ids, &count, w->spec->tok, text, strlen(text), 0, err)) return err->code;
    int code = KV_OK;
    if (count > room)
        code = kv_fail(err, KV_FAIL_USAGE, "a window of %d tokens has no room for the pass key; use"
                       " a larger --ctx", w->spec->ctx);
    if (!code) memcpy(to, ids, (size_t)count * sizeof *to);
    *n = count;
    free(ids);
    return code;
}

/* Logits behind one row of hidden states: the likeliest token, and (or NULL) the log-probability of
 * `target`. */
static int predict(int *best, double *log_p, work *w, const float *hidden, int target,
                   kv_error *err)
{
    kv_run run = {.model = w->spec->e.model, .backend = w->spec->e.backend};
    int vocab = w->spec->e.model->vocab, top = 0;
    if (kv_logits(w->logits, &run, hidden, 1, err)) return err->code;
    for (int i = 1; i < vocab; i++)
        if (w->logits[i] > w->logits[top]) top = i;
    *best = top;
    double sum = 0;
    for (int i = 0; i < vocab && log_p; i++)
        sum += exp((double)w->logits[i] - (double)w->logits[top]);
    if (log_p) *log_p = (double)w->logits[target] - (double)w->logits[top] - log(sum);
    return KV_OK;
}

static float *row(const work *w, int t)
{
    return w->hidden + (size_t)t * (size_t)w->spec->e.model->width;
}

/* ------------------------------------------------------------------- passkey */

static int has_digit(const work *w, int id)
{
    size_t n;
    const char *bytes = tok_bytes(w->spec->tok, id, &n);
    for (size_t i = 0; i < n; i++)
        if (isdigit((unsigned char)bytes[i])) return 1;
    return 0;
}

static void make_key(char *key, int item)
{
    uint64_t state = 88172645463325252u + (uint64_t)item * 2654435761u;
    for (int i = 0; i < DIGITS; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        key[i] = (char)('0' + (state >> 33) % 10);
    }
    key[DIGITS] = 0;
}

/* BOS, text, "The pass key is 71432. Remember it.", text, and then the question and answer, which
 * are not part of the prompt. */
static int passkey_item(double *score, work *w, tm_sequence *s, int item, kv_error *err)
{
    char key[DIGITS + 1], needle[64], question[64];
    int ctx = w->spec->ctx, n = begin(w), m, q, a, answer[4 * DIGITS], right = 0, asked = 0, best;
    int *tail = w->tokens + ctx; /* question and answer */
    make_key(key, item);
    snprintf(needle, sizeof needle, "\nThe pass key is %s. Remember it.\n", key);
    snprintf(question, sizeof question, "\nThe pass key is");
    if (say(w->tokens + n, ctx - n, &m, w, needle, err) || say(tail, 64, &q, w, question, err))
        return err->code;
    snprintf(question, sizeof question, "\nThe pass key is %s", key);
    if (say(tail, 64, &a, w, question, err)) return err->code;
    if (a > q + 4 * DIGITS) a = q + 4 * DIGITS;
    memcpy(answer, tail + q, (size_t)(a - q) * sizeof *answer);
    int filler = ctx - n - m, depth = (int)((item % DEPTHS + 0.5) / DEPTHS * filler);
    memmove(w->tokens + n + depth, w->tokens + n, (size_t)m * sizeof *w->tokens);
    take(w->tokens + n, w, (long long)item * filler, depth);
    take(w->tokens + n + depth + m, w, (long long)item * filler + depth, filler - depth);
    if (tm_sequence_start(s, w->hidden, w->tokens, ctx, err)) return err->code;
    for (int i = 0; i < a; i++) {
        if (i >= q && has_digit(w, answer[i - q])) {
            if (predict(&best, NULL, w, w->hidden, 0, err)) return err->code;
            asked++;
            right += best == answer[i - q];
        }
        if (i + 1 < a && tm_sequence_step(s, w->hidden, tail[i], err)) return err->code;
    }
    *score = asked ? (double)right / asked : NAN;
    return KV_OK;
}

/* ------------------------------------------------------------------- passage */

/* Mean log-probability of a candidate behind the passage that lies in w->tokens [n]. */
static int listen(double *mean, work *w, tm_sequence *s, int n, const int *candidate, kv_error *err)
{
    double sum = 0, log_p;
    int best;
    if (tm_sequence_start(s, w->hidden, w->tokens, n, err)) return err->code;
    for (int i = 0; i < w->candidate; i++) {
        /* the first one is said by the prompt's own pass, which no cache has touched */
        if (predict(&best, &log_p, w, i ? w->hidden : row(w, n - 1), candidate[i], err))
            return err->code;
        sum += log_p / w->candidate;
        if (i + 1 < w->candidate && tm_sequence_step(s, w->hidden, candidate[i], err))
            return err->code;
    }
    *mean = sum;
    return KV_OK;
}

static int passage_item(double *score, work *w, tm_sequence *s, int item, kv_error *err)
{
    int n = begin(w), best = 0, length = w->passage;
    double mean[CHOICES];
    long long first = (long long)item * (length + w->candidate);
    int *candidate = w->tokens + w->capacity - w->candidate;
    n += take(w->tokens + n, w, first, length - n);
    for (int c = 0; c < CHOICES; c++) {
        long long from = first + length - (begin(w) ? 1 :
                                           0) + (long long)c * (w->spec->n / CHOICES);
        take(candidate, w, from, w->candidate);
        if (listen(&mean[c], w, s, n, candidate, err)) return err->code;
        if (mean[c] > mean[best]) best = c;
    }
    *score = best == 0; /* candidate 0 is the true one */
    return KV_OK;
}

/* -------------------------------------------------------------------- greedy */

static int greedy_item(double *score, work *w, tm_sequence *s, int item, kv_error *err)
{
    int n = begin(w), length = w->passage, made, most = w->spec->written, same = 0;
    int *said = w->said + (size_t)item * (size_t)most, *now = w->tokens + w->capacity - most;
    n += take(w->tokens + n, w, (long long)item * length, length - n);
    if (tm_sequence_start(s, w->hidden, w->tokens, n, err)) return err->code;
    memmove(w->hidden, row(w, n - 1), (size_t)w->spec->e.model->width * sizeof *w->hidden);
    if (tm_sequence_greedy(s, now, &made, most, w->hidden, w->logits, NULL, NULL, err))
        return err->code;
    if (w->is_16) memcpy(said, now, (size_t)most * sizeof *now);
    while (same < most && now[same] == said[same]) same++;
    *score = same;
    return KV_OK;
}

/* ------------------------------------------------------------------- running */

static void mean_and_error(double *mean, double *error, const double *x, int n)
{
    double sum = 0, square = 0;
    for (int i = 0; i < n; i++) sum += x[i];
    *mean = sum / n;
    for (int i = 0; i < n; i++) square += (x[i] - *mean) * (x[i] - *mean);
    *error = n > 1 ? sqrt(square / (n - 1) / n) : 0;
}

static int all_items(double *score, work *w, item_function *item, const tm_sequence_spec *cache,
                     tm_progress *progress, void *self, int done, kv_error *err)
{
    const tm_task_spec *spec = w->spec;
    tm_sequence *s = NULL;
    int code = tm_sequence_open(&s, &spec->e, spec->fast, cache, err);
    for (int i = 0; i < spec->items && !code; i++) {
        if (progress) progress(self, done + i, 2 * spec->items);
        code = item(&score[i], w, s, i, err);
    }
    tm_sequence_close(s);
    return code;
}

static int run_both(tm_task_result *r, work *w, item_function *item, double *score16, double *score,
                    tm_progress *progress, void *self, kv_error *err)
{
    int n = w->spec->items;
    tm_sequence_spec cache = w->spec->cache, base = {.keys = {.kind = KV_F16},
                                                     .values = {.kind = KV_F16}};
    base.capacity = cache.capacity = w->capacity;
    w->is_16 = 1;
    if (all_items(score16, w, item, &base, progress, self, 0, err)) return err->code;
    mean_and_error(&r->score16, &r->error16, score16, n);
    r->dropped = !(r->score16 - 2 * r->error16 > r->chance);
    w->is_16 = 0;
    if (!r->dropped && all_items(score, w, item, &cache, progress, self, n, err)) return err->code;
    if (progress) progress(self, 2 * n, 2 * n);
    if (r->dropped) return KV_OK;
    mean_and_error(&r->score, &r->error, score, n);
    for (int i = 0; i < n; i++) score[i] -= score16[i];
    mean_and_error(&r->change, &r->change_error, score, n);
    return KV_OK;
}

static int check(const work *w, int needed, kv_error *err)
{
    if (w->spec->ctx < 64)
        return kv_fail(err, KV_FAIL_USAGE, "--ctx: found %d, expected at least 64", w->spec->ctx);
    if (w->capacity > w->spec->e.model->context)
        return kv_fail(err, KV_FAIL_USAGE,
                       "a task takes %d tokens, the model was trained for %d; use a"
                       " smaller --ctx", w->capacity, w->spec->e.model->context);
    if (w->spec->n >= needed) return KV_OK;
    return kv_fail(err, KV_FAIL_RUN,
                   "the text has %d tokens, a task needs %d; use a longer text or a"
                   " smaller --ctx", w->spec->n, needed);
}

int tm_task_run(tm_task_result *r, tm_task_kind task, const tm_task_spec *spec,
                tm_progress *progress, void *self, kv_error *err)
{
    static item_function *const item[TM_TASKS] = {passkey_item, passage_item, greedy_item};
    size_t items = (size_t)spec->items, C = (size_t)spec->e.model->width;
    work w = {.spec = spec, .passage = spec->ctx / 4, .candidate = 16};
    w.capacity = task == TM_PASSKEY ? spec->ctx + 64
                                    : w.passage + (task == TM_GREEDY ? spec->written :
                                                   w.candidate) + 1;
    *r = (tm_task_result){.items = spec->items, .chance = task == TM_PASSKEY ? 0.1 :
                          task == TM_PASSAGE ? 1.0 / CHOICES : 0};
    /* the four candidates must not overlap */
    if (check(&w, w.passage + (task == TM_PASSAGE ? CHOICES * w.candidate : 0), err))
        return err->code;
    w.tokens = malloc((size_t)w.capacity * sizeof *w.tokens);
    w.hidden = malloc((size_t)w.capacity * C * sizeof *w.hidden);
    w.logits = malloc((size_t)spec->e.model->vocab * sizeof *w.logits);
    w.said = malloc((items * (size_t)spec->written + 1) * sizeof *w.said);
    double *score = calloc(2 * items + 1, sizeof *score);
    int code = w.tokens && w.hidden && w.logits && w.said && score
                   ? run_both(r, &w, item[task], score, score + items, progress, self, err)
                   : kv_fail(err, KV_FAIL_RUN, "not enough memory for tasks of %d tokens",
                             spec->ctx);
    free(w.tokens);
    free(w.hidden);
    free(w.logits);
    free(w.said);
    free(score);
    return code;
}
