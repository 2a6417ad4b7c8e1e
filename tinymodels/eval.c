/* Two passes over each window, of which base.h makes the first, and a comparison of their
 * predictions. Hidden states of a window are small; its logits are not (2048 rows of a vocabulary
 * of 49152 are 400 MB), so they are made and compared 64 rows at a time. */
#include "eval.h"

#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "greedy.h"
#include "kernels.h"
#include "memory.h"
#include "sequence.h"
#include "stats.h"

/* ---------------------------------------------------------------- windows */

int tm_windows(int **windows, int *count, const int *ids, int n, int ctx, tm_bos rule, int bos,
               int limit, kv_error *err)
{
    int extra = rule == TM_BOS_FIRST ? 1 : 0; /* tokens before the stream */
    int step = rule == TM_BOS_EACH ? ctx - 1 : ctx;
    *windows = NULL;
    *count = 0;
    if (ctx < 2)
        return kv_fail(err, KV_FAIL_USAGE, "--ctx: found %d, expected at least 2: a window scores"
                       " ctx - 1 predictions", ctx);
    if (n + extra < step)
        return kv_fail(err, KV_FAIL_RUN, "the text has %d tokens, which do not fill one window of"
                       " %d%s; use a longer text or a smaller --ctx", n, ctx,
                       rule == TM_BOS_NONE ? "" : " (its BOS included)");
    *count = (n + extra) / step;
    if (limit > 0 && *count > limit) *count = limit;
    int *all = malloc((size_t)*count * (size_t)ctx * sizeof *all), at = 0;
    if (!all) return kv_fail(err, KV_FAIL_RUN, "not enough memory for %d windows", *count);
    for (int w = 0; w < *count; w++)
        for (int i = 0; i < ctx; i++) {
            int is_bos = i == 0 && (rule == TM_BOS_EACH || (rule == TM_BOS_FIRST && w == 0));
            all[(size_t)w * (size_t)ctx + (size_t)i] = is_bos ? bos : ids[at++];
        }
    *windows = all;
    return KV_OK;
}

/* --------------------------------------------------------------- scoring */

static double log_sum(const float *x, int n, int *best)
{
    const tm_kernels *k = tm_kernels_best();
    *best = k->largest(x, n);
    return x[*best] + log(k->exp_sum(x, x[*best], n));
}

/* The same where one row has been summed up already. */
static tm_score score_row(const float *logits16, double z16, int best16, const float *logits,
                          int vocab, int target)
{
    int best;
    double z = log_sum(logits, vocab, &best);
    double kl = tm_kernels_best()->kl_sum(logits16, z16, logits, z, vocab);
    return (tm_score){z16 - logits16[target], z - logits[target], kl, best16 == best};
}

tm_score tm_score_row(const float *logits16, const float *logits, int vocab, int target)
{
    int best16;
    double z16 = log_sum(logits16, vocab, &best16);
    return score_row(logits16, z16, best16, logits, vocab, target);
}

/* ------------------------------------------------------------- evaluation */

enum { CHUNK = 64 };

typedef struct {
    const tm_eval_cell *cell;
    const tm_base_spec *spec;
    const tm_engine *e;
    tm_base *base;
    tm_pool *pool;
    tm_progress *progress;
    void *self;
    int windows, now;      /* in all, and the one that runs */
    int same;              /* the format is f16: the second pass would be the first */

    tm_window *window;     /* whole window */
    tm_sequence *sequence; /* stream */
    tm_layers *layers;     /* or NULL */
    tm_greedy *greedy;     /* or NULL: the keep set is the base's */
    kv_keep tried;         /* greedy's keep set */
    float *work, *hidden;  /* hidden: [ctx][C] */
    float *logits16, *logits; /* [CHUNK][vocab] */

    tm_base_window base_window;
    tm_octave octave[TM_OCTAVES];
    int *mark;             /* [ctx], or NULL */
    double bytes16;        /* sum over windows */
    double off[TM_TOKEN_KINDS], all[TM_TOKEN_KINDS]; /* squares of logits, if layers */
} evaluation;

/* Two passes a window. */
static void tell(void *self, double done, double total)
{
    evaluation *v = self;
    (void)total;
    if (v->progress) v->progress(v->self, 2.0 * v->now + done, 2.0 * v->windows);
}

static const kv_keep_rule *rule_of(const evaluation *v)
{
    return &v->spec->choice[v->cell->choice].rule;
}

static int open_memory(evaluation *v, int layers, kv_error *err)
{
    const tm_eval_cell *c = v->cell;
    const kv_model *m = v->e->model;
    tm_fast *fast = tm_base_fast(v->base);
    if (v->spec->stream) {
        tm_sequence_spec q = {c->keys, c->values, *rule_of(v), v->spec->profile, c->recent,
                              v->spec->ctx, NULL};
        if (layers)
            return kv_fail(err, KV_FAIL_USAGE, "errors of layers are measured on whole windows, not"
                           " with --stream");
        return tm_sequence_open(&v->sequence, v->e, fast, &q, err);
    }
    if (c->recent)
        return kv_fail(err, KV_FAIL_USAGE, "--recent %d: a whole window has no recent tokens; add"
                       " --stream P", c->recent);
    kv_limits keys, values;
    if (kv_profile_limits(&keys, v->spec->profile, &c->keys, 0, err) ||
        kv_profile_limits(&values, v->spec->profile, &c->values, 1, err) ||
        tm_window_open(&v->window, m, &c->keys, &c->values, v->spec->ctx, v->pool, err))
        return err->code;
    tm_window_limits(v->window, keys, values);
    if (rule_of(v)->kind == KV_KEEP_GREEDY &&
        (tm_greedy_open(&v->greedy, rule_of(v), v->spec->profile, &c->keys, &c->values, v->e, fast,
                        v->spec->ctx, err) ||
         tm_keep_init(&v->tried, m->layers, v->spec->ctx, err))) return err->code;
    return layers ? tm_layers_open(&v->layers, v->e, fast, v->spec->ctx, err) : KV_OK;
}

static float *floats(size_t n)
{
    return malloc((n ? n : 1) * sizeof(float));
}

static int open_buffers(evaluation *v, kv_error *err)
{
    const kv_model *m = v->e->model;
    size_t vocab = (size_t)m->vocab;
    v->work = floats(kv_forward_work(m, 0, 0, v->spec->ctx));
    v->hidden = floats((size_t)v->spec->ctx * (size_t)m->width);
    v->logits16 = floats(CHUNK * vocab);
    v->logits = floats(CHUNK * vocab);
    if (v->work && v->hidden && v->logits16 && v->logits) return KV_OK;
    return kv_fail(err, KV_FAIL_RUN, "not enough memory for windows of %d tokens; use a smaller"
                   " --ctx", v->spec->ctx);
}

static void close_all(evaluation *v)
{
    tm_window_close(v->window);
    tm_sequence_close(v->sequence);
    tm_layers_close(v->layers);
    tm_greedy_close(v->greedy);
    tm_keep_free(&v->tried);
    free(v->work);
    free(v->hidden);
    free(v->logits16);
    free(v->logits);
}

/* Nothing is quantized: the second pass would be the first over again. */
static void take_first_pass(evaluation *v, tm_eval_window *r)
{
    size_t n = (size_t)v->spec->ctx * (size_t)v->e->model->width;
    memcpy(v->hidden, v->base_window.hidden, n * sizeof *v->hidden);
    r->bytes = v->base_window.bytes;
}

/* In how many layers each token is kept. */
static void count_layers(int *mark, const kv_keep *keep)
{
    for (int l = 0; l < keep->layers; l++)
        for (int i = 0; i < keep->count[l]; i++) mark[keep->position[l * keep->capacity + i]]++;
}

static void tell_greedy(void *self, double done, double total)
{
    tell(self, 1 + done / total, 2);
}

static int whole_window(evaluation *v, tm_eval_window *r, const int *tokens, kv_error *err)
{
    int L = v->e->model->layers, code = KV_OK;
    const kv_keep *keep = v->greedy ? &v->tried : &v->base_window.keep[v->cell->choice];
    if (v->greedy && tm_greedy_keep(&v->tried, v->greedy, tokens, v->base_window.hidden, tell_greedy,
                                    v, err)) return err->code;
    kv_run run = {.model = v->e->model, .backend = v->e->backend,
                  .memory = tm_window_memory(v->window), .work = v->work};
    for (int l = 0; l < L; l++) r->kept += keep->count[l];
    r->kept /= L;
    r->capped = v->base_window.capped[v->cell->choice];
    tm_window_keep(v->window, keep);
    if (v->mark && v->now == 0) count_layers(v->mark, keep);
    if (v->layers) code = tm_layers_add(v->layers, v->window, tokens, v->base_window.is_sink, err);
    if (v->same) {
        take_first_pass(v, r);
        return code;
    }
    if (!code) code = kv_forward(v->hidden, &run, tokens, v->spec->ctx, err);
    for (int l = 0; l < L; l++) r->bytes += (double)tm_window_bytes(v->window, l).total;
    return code;
}

/* With 16-bit keys and values the sequence runs only for a rule that must be counted. */
static int streamed(evaluation *v, tm_eval_window *r, const int *tokens, kv_error *err)
{
    int P = v->spec->stream, ctx = v->spec->ctx;
    size_t C = (size_t)v->e->model->width;
    if (!v->same || rule_of(v)->kind != KV_KEEP_NONE) {
        int code = tm_sequence_start(v->sequence, v->hidden, tokens, P, err);
        for (int t = P; t < ctx && !code; t++) {
            code = tm_sequence_step(v->sequence, v->hidden + (size_t)t * C, tokens[t], err);
            tell(v, 1 + (t + 1.0) / ctx, 2);
        }
        if (code) return code;
        r->bytes = tm_sequence_bytes(v->sequence);
        r->kept = (double)tm_sequence_kept(v->sequence) / v->e->model->layers;
        r->capped = tm_sequence_capped(v->sequence);
    }
    if (v->same) take_first_pass(v, r);
    return KV_OK;
}

typedef struct {
    const evaluation *v;
    const float *logits16;
    const int *target;
    double *log_sum;
    int *best;
    tm_score score[CHUNK];
    double off[CHUNK], all[CHUNK];
} chunk;

/* Each row is one task's own, and so are its sums. */
static void score_task(void *arg, int task, int worker)
{
    chunk *c = arg;
    int vocab = c->v->e->model->vocab;
    const float *x16 = c->logits16 + (size_t)task * (size_t)vocab;
    const float *x = c->v->logits + (size_t)task * (size_t)vocab;
    (void)worker;
    if (isnan(c->log_sum[task])) c->log_sum[task] = log_sum(x16, vocab, &c->best[task]);
    c->score[task] = score_row(x16, c->log_sum[task], c->best[task], x, vocab, c->target[task]);
    c->off[task] = c->all[task] = 0;
    for (int i = 0; c->v->layers && i < vocab; i++) {
        double d = (double)x[i] - x16[i];
        c->off[task] += d * d;
        c->all[task] += (double)x16[i] * x16[i];
    }
}

static int octave_of(int position)
{
    int o = 0;
    while (position >> (o + 1)) o++;
    return o < TM_OCTAVES ? o : TM_OCTAVES - 1;
}

/* row: of the token that predicts the next one. */
static void add_score(evaluation *v, tm_eval_window *r, const chunk *c, int i, int row)
{
    tm_octave *o = &v->octave[octave_of(row + 1)];
    const tm_score *s = &c->score[i];
    r->loss16 += s->loss16;
    r->loss += s->loss;
    r->kl += s->kl;
    r->top1 += s->same;
    o->tokens++;
    o->loss16 += s->loss16;
    o->loss += s->loss;
    o->kl += s->kl;
    if (!v->layers) return;
    int kind = v->base_window.is_sink[row] ? TM_SINK_TOKENS : TM_OTHER_TOKENS;
    v->off[kind] += c->off[i];
    v->all[kind] += c->all[i];
}

/* Scores the predictions of rows P .. ctx-2 of both hidden states. */
static int score(evaluation *v, tm_eval_window *r, const int *tokens, kv_error *err)
{
    int first = v->spec->stream, last = v->spec->ctx - 1;
    size_t C = (size_t)v->e->model->width;
    kv_run run = {.model = v->e->model, .backend = v->e->backend};
    for (int i = first; i < last; i += CHUNK) {
        int n = last - i < CHUNK ? last - i : CHUNK;
        chunk c = {.v = v, .target = tokens + i + 1, .log_sum = v->base_window.log_sum + i,
                   .best = v->base_window.best + i};
        if (tm_base_logits(&c.logits16, v->base, v->now, i, n, v->logits16, err) ||
            kv_logits(v->logits, &run, v->hidden + (size_t)i * C, n, err)) return err->code;
        tm_parallel(v->pool, score_task, &c, n);
        for (int j = 0; j < n; j++) add_score(v, r, &c, j, i + j);
    }
    r->loss16 /= last - first;
    r->loss /= last - first;
    r->kl /= last - first;
    r->top1 /= last - first;
    return KV_OK;
}

/* Over windows: one field of their results, less the 16-bit loss if asked. x: [n] scratch. */
static tm_mean column(const tm_eval_window *each, int n, size_t offset, int minus_loss16,
                      double *x)
{
    for (int i = 0; i < n; i++)
        x[i] = *(const double *)((const char *)&each[i] + offset) -
               (minus_loss16 ? each[i].loss16 : 0);
    return tm_mean_of(x, n);
}

/* x: [windows] scratch. */
static void sum_up(tm_eval_result *r, const evaluation *v, const tm_eval_window *each, double *x)
{
    const kv_model *m = v->e->model;
    int n = v->windows;
    double elements = 2.0 * m->layers * m->shape.kv_heads * m->shape.head_size * v->spec->ctx;
    tm_mean kl = column(each, n, offsetof(tm_eval_window, kl), 0, x);
    tm_mean top1 = column(each, n, offsetof(tm_eval_window, top1), 0, x);
    tm_mean more = column(each, n, offsetof(tm_eval_window, loss), 1, x);
    memset(r, 0, sizeof *r);
    r->windows = n;
    r->tokens = (long long)n * (v->spec->ctx - 1 - v->spec->stream);
    r->ppl16 = exp(column(each, n, offsetof(tm_eval_window, loss16), 0, x).mean);
    r->ppl = exp(column(each, n, offsetof(tm_eval_window, loss), 0, x).mean);
    r->kl = kl.mean;
    r->kl_error = kl.error;
    r->top1 = top1.mean;
    r->top1_error = top1.error;
    r->loss = more.mean;
    r->loss_error = more.error;
    r->bytes = column(each, n, offsetof(tm_eval_window, bytes), 0, x).mean;
    r->kept = column(each, n, offsetof(tm_eval_window, kept), 0, x).mean;
    r->bytes16 = v->bytes16 / n;
    r->bits = 8 * r->bytes / elements;
    for (int i = 0; i < n; i++) r->capped += each[i].capped;
    memcpy(r->octave, v->octave, sizeof r->octave);
    for (int i = 0; i < TM_TOKEN_KINDS; i++)
        r->logits_error[i] = v->all[i] > 0 ? sqrt(v->off[i] / v->all[i]) : 0;
}

static int run_window(evaluation *v, tm_eval_window *r, kv_error *err)
{
    const int *tokens = tm_base_tokens(v->base, v->now);
    memset(r, 0, sizeof *r);
    tell(v, 0, 2);
    if (tm_base_take(&v->base_window, v->base, v->now, tell, v, err)) return err->code;
    tell(v, 1, 2);
    v->bytes16 += v->base_window.bytes;
    int code = v->spec->stream ? streamed(v, r, tokens, err) : whole_window(v, r, tokens, err);
    return code ? code : score(v, r, tokens, err);
}

int tm_eval_on(tm_eval_result *r, tm_eval_window *each, tm_layer_error *layer, int *mark,
               const tm_eval_cell *cell, tm_base *base, tm_progress *progress, void *self,
               kv_error *err)
{
    kv_error own;
    evaluation v = {.cell = cell, .spec = tm_base_spec_of(base), .e = tm_base_engine(base),
                    .base = base, .progress = progress, .self = self, .mark = mark};
    if (!err) err = &own; /* err->code is used to pass failures on */
    if (mark) memset(mark, 0, (size_t)v.spec->ctx * sizeof *mark);
    v.pool = tm_base_fast(base) ? tm_fast_pool(tm_base_fast(base)) : NULL;
    v.windows = cell->windows ? cell->windows : tm_base_count(base);
    v.same = cell->keys.kind == KV_F16 && !cell->keys.pre && cell->values.kind == KV_F16;
    double *x = calloc((size_t)v.windows, sizeof *x);
    tm_eval_window *own_each = each ? NULL : calloc((size_t)v.windows, sizeof *own_each);
    if (!each) each = own_each;
    int code = x && each ? open_memory(&v, layer != NULL, err)
                         : kv_fail(err, KV_FAIL_RUN, "not enough memory for %d windows", v.windows);
    if (!code) code = open_buffers(&v, err);
    for (; v.now < v.windows && !code; v.now++) code = run_window(&v, &each[v.now], err);
    if (!code) tell(&v, 0, 2);
    if (!code) sum_up(r, &v, each, x);
    if (!code && layer) tm_layers_errors(layer, v.layers);
    close_all(&v);
    free(x);
    free(own_each);
    return code;
}

int tm_eval(tm_eval_result *r, const tm_eval_spec *spec, const tm_engine *e, tm_fast *fast,
            const int *windows, int count, tm_progress *progress, void *self, kv_error *err)
{
    tm_base *base;
    tm_choice choice = {.rule = spec->keep};
    tm_base_spec b = {.ctx = spec->ctx, .stream = spec->stream, .profile = spec->profile,
                      .choice = &choice, .choices = 1};
    tm_eval_cell cell = {.keys = spec->keys, .values = spec->values, .recent = spec->recent};
    int code = tm_base_open(&base, &b, e, fast, windows, count, err);
    if (code) return code;
    code = tm_eval_on(r, NULL, NULL, NULL, &cell, base, progress, self, err);
    tm_base_close(base);
    return code;
}
