/* Two passes over each window, and a comparison of their predictions. Hidden states of a window are
 * small; its logits are not (2048 rows of a vocabulary of 49152 are 400 MB), so they are made and
 * compared 64 rows at a time. */
#include "eval.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "memory.h"
#include "sequence.h"

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

/* Largest logit, its first place, and the logarithm of the sum of exponentials. */
static double log_sum(const float *x, int n, int *best)
{
    double sum = 0;
    *best = 0;
    for (int i = 1; i < n; i++)
        if (x[i] > x[*best]) *best = i;
    double top = x[*best];
    for (int i = 0; i < n; i++) sum += exp(x[i] - top);
    return top + log(sum);
}

tm_score tm_score_row(const float *logits16, const float *logits, int vocab, int target)
{
    int best16, best;
    double z16 = log_sum(logits16, vocab, &best16), z = log_sum(logits, vocab, &best), kl = 0;
    for (int i = 0; i < vocab; i++) {
        double log16 = logits16[i] - z16;
        kl += exp(log16) * (log16 - (logits[i] - z));
    }
    return (tm_score){z16 - logits16[target], z - logits[target], kl, best16 == best};
}

/* ------------------------------------------------------------- evaluation */

enum { CHUNK = 64 };

typedef struct {
    const tm_eval_spec *spec;
    const tm_engine *e;
    tm_fast *fast;
    tm_progress *progress;
    void *self;
    int windows;
    double done; /* passes */

    tm_window *window16, *window; /* whole window */
    tm_sequence *stream16, *stream; /* stream */
    int same;                     /* the format is f16: the second pass would be the first */

    kv_keep keep;
    tm_evidence *evidence;        /* what the keep rule reads of the 16-bit pass */
    float *work, *hidden16, *hidden; /* hidden: [ctx][C] */
    float *logits16, *logits;     /* [CHUNK][vocab] */

    double loss16, loss, kl, bytes, bytes16, kept; /* sums */
    double kl_mean, kl_square;    /* over windows */
    long long same_best, scored;
    int capped;
} evaluation;

/* Tokens that the keep set is chosen from. */
static int prompt_tokens(const tm_eval_spec *spec)
{
    return spec->stream ? spec->stream : spec->ctx;
}

static void tell(evaluation *v, double passes)
{
    if (v->progress) v->progress(v->self, v->done + passes, 2.0 * v->windows);
}

static int open_memories(evaluation *v, kv_error *err)
{
    const tm_eval_spec *s = v->spec;
    const kv_format f16 = {.kind = KV_F16};
    const kv_model *m = v->e->model;
    tm_pool *pool = v->fast ? tm_fast_pool(v->fast) : NULL;
    if (s->stream) {
        tm_sequence_spec q = {s->keys, s->values, s->keep, s->profile, s->recent, s->ctx};
        tm_sequence_spec base = {f16, f16, {.kind = KV_KEEP_NONE}, NULL, 0, s->ctx};
        if (v->same) base.keep = s->keep, base.profile = s->profile; /* to be counted */
        if (tm_sequence_open(&v->stream, v->e, v->fast, &q, err)) return err->code;
        return tm_sequence_open(&v->stream16, v->e, v->fast, &base, err);
    }
    if (s->recent)
        return kv_fail(err, KV_FAIL_USAGE, "--recent %d: a whole window has no recent tokens; add"
                       " --stream P", s->recent);
    if (tm_window_open(&v->window, m, &s->keys, &s->values, s->ctx, pool, err) ||
        tm_window_open(&v->window16, m, &f16, &f16, s->ctx, pool, err)) return err->code;
    return KV_OK;
}

static float *floats(size_t n)
{
    return malloc((n ? n : 1) * sizeof(float));
}

static int open_buffers(evaluation *v, kv_error *err)
{
    const kv_model *m = v->e->model;
    size_t ctx = (size_t)v->spec->ctx, C = (size_t)m->width, vocab = (size_t)m->vocab;
    int T = prompt_tokens(v->spec);
    if (tm_evidence_open(&v->evidence, &v->spec->keep, v->spec->profile, m, T, err))
        return err->code;
    v->work = floats(kv_forward_work(m, tm_evidence_mask(v->evidence), 0, T));
    v->hidden16 = floats(ctx * C);
    v->hidden = floats(ctx * C);
    v->logits16 = floats(CHUNK * vocab);
    v->logits = floats(CHUNK * vocab);
    if (!v->work || !v->hidden16 || !v->hidden || !v->logits16 || !v->logits)
        return kv_fail(err, KV_FAIL_RUN, "not enough memory for windows of %d tokens; use a smaller"
                       " --ctx", v->spec->ctx);
    return tm_keep_init(&v->keep, m->layers, T, err);
}

static void close_all(evaluation *v)
{
    tm_window_close(v->window16);
    tm_window_close(v->window);
    tm_sequence_close(v->stream16);
    tm_sequence_close(v->stream);
    tm_keep_free(&v->keep);
    tm_evidence_close(v->evidence);
    free(v->work);
    free(v->hidden16);
    free(v->hidden);
    free(v->logits16);
    free(v->logits);
}

static int build_keep(evaluation *v, const int *tokens, kv_error *err)
{
    int capped = 0, code = tm_evidence_keep(&v->keep, &capped, v->evidence, tokens, err);
    v->capped += capped;
    return code;
}

/* A window through a memory; watched for what the keep rule reads. */
static int forward(evaluation *v, float *hidden, const kv_memory *memory, const int *tokens,
                   int watched, kv_error *err)
{
    kv_run run = {.model = v->e->model, .backend = v->e->backend, .memory = memory,
                  .work = v->work};
    if (watched) {
        run.tap = tm_evidence_tap;
        run.tap_self = v->evidence;
        run.tap_mask = tm_evidence_mask(v->evidence);
    }
    return kv_forward(hidden, &run, tokens, v->spec->ctx, err);
}

/* Nothing is quantized: the second pass would be the first over again. */
static void take_first_pass(evaluation *v)
{
    size_t n = (size_t)v->spec->ctx * (size_t)v->e->model->width;
    memcpy(v->hidden, v->hidden16, n * sizeof *v->hidden);
    v->bytes = v->bytes16;
}

static int whole_window(evaluation *v, const int *tokens, kv_error *err)
{
    int L = v->e->model->layers;
    if (forward(v, v->hidden16, tm_window_memory(v->window16), tokens, 1, err) ||
        build_keep(v, tokens, err)) return err->code;
    tell(v, 1);
    for (int l = 0; l < L; l++) v->bytes16 += (double)tm_window_bytes(v->window16, l).total;
    for (int l = 0; l < L; l++) v->kept += v->keep.count[l];
    if (v->same) {
        take_first_pass(v);
        return KV_OK;
    }
    tm_window_keep(v->window, &v->keep);
    int code = forward(v, v->hidden, tm_window_memory(v->window), tokens, 0, err);
    for (int l = 0; l < L; l++) v->bytes += (double)tm_window_bytes(v->window, l).total;
    return code;
}

/* Prefill of P tokens, then the others one by one; hidden row t is that of token t. */
static int feed(evaluation *v, float *hidden, tm_sequence *s, const int *tokens, double passes,
                kv_error *err)
{
    int P = v->spec->stream, ctx = v->spec->ctx;
    size_t C = (size_t)v->e->model->width;
    int code = tm_sequence_start(s, hidden, tokens, P, err);
    for (int t = P; t < ctx && !code; t++) {
        code = tm_sequence_step(s, hidden + (size_t)t * C, tokens[t], err);
        tell(v, passes + (t + 1.0) / ctx);
    }
    return code;
}

static int streamed(evaluation *v, const int *tokens, kv_error *err)
{
    if (feed(v, v->hidden16, v->stream16, tokens, 0, err)) return err->code;
    v->bytes16 += tm_sequence_bytes(v->stream16);
    if (v->same) {
        take_first_pass(v);
        v->kept += (double)tm_sequence_kept(v->stream16);
        return KV_OK;
    }
    if (feed(v, v->hidden, v->stream, tokens, 1, err)) return err->code;
    v->bytes += tm_sequence_bytes(v->stream);
    v->kept += (double)tm_sequence_kept(v->stream);
    v->capped += tm_sequence_capped(v->stream);
    return KV_OK;
}

typedef struct {
    const evaluation *v;
    const int *target;
    tm_score score[CHUNK];
} chunk;

static void score_task(void *arg, int task, int worker)
{
    chunk *c = arg;
    size_t vocab = (size_t)c->v->e->model->vocab;
    (void)worker;
    c->score[task] = tm_score_row(c->v->logits16 + (size_t)task * vocab,
                                  c->v->logits + (size_t)task * vocab, (int)vocab,
                                  c->target[task]);
}

/* Scores the predictions of rows first .. ctx-2 of both hidden states. */
static int score(evaluation *v, const int *tokens, int first, kv_error *err)
{
    int last = v->spec->ctx - 1, C = v->e->model->width;
    double kl = 0;
    kv_run run = {.model = v->e->model, .backend = v->e->backend};
    for (int i = first; i < last; i += CHUNK) {
        int n = last - i < CHUNK ? last - i : CHUNK;
        chunk c = {.v = v, .target = tokens + i + 1};
        const float *row16 = v->hidden16 + (size_t)i * (size_t)C;
        const float *row = v->hidden + (size_t)i * (size_t)C;
        if (kv_logits(v->logits16, &run, row16, n, err) ||
            kv_logits(v->logits, &run, row, n, err)) return err->code;
        tm_parallel(v->fast ? tm_fast_pool(v->fast) : NULL, score_task, &c, n);
        for (int j = 0; j < n; j++) {
            v->loss16 += c.score[j].loss16;
            v->loss += c.score[j].loss;
            kl += c.score[j].kl;
            v->same_best += c.score[j].same;
        }
    }
    v->kl += kl;
    v->scored += last - first;
    kl /= last - first;
    v->kl_mean += kl;
    v->kl_square += kl * kl;
    return KV_OK;
}

static void sum_up(tm_eval_result *r, const evaluation *v)
{
    const kv_model *m = v->e->model;
    double n = v->windows, scored = (double)v->scored, mean = v->kl_mean / n;
    double variance = n > 1 ? (v->kl_square - n * mean * mean) / (n - 1) : 0;
    double elements = 2.0 * m->layers * m->shape.kv_heads * m->shape.head_size * v->spec->ctx;
    r->windows = v->windows;
    r->tokens = v->scored;
    r->ppl16 = exp(v->loss16 / scored);
    r->ppl = exp(v->loss / scored);
    r->kl = v->kl / scored;
    r->kl_error = variance > 0 ? sqrt(variance / n) : 0;
    r->top1 = (double)v->same_best / scored;
    r->bytes = v->bytes / n;
    r->bytes16 = v->bytes16 / n;
    r->bits = 8 * r->bytes / elements;
    r->kept = v->kept / n / m->layers;
    r->capped = v->capped;
}

int tm_eval(tm_eval_result *r, const tm_eval_spec *spec, const tm_engine *e, tm_fast *fast,
            const int *windows, int count, tm_progress *progress, void *self, kv_error *err)
{
    kv_error own;
    evaluation v = {.spec = spec, .e = e, .fast = fast, .progress = progress, .self = self,
                    .windows = count};
    if (!err) err = &own; /* err->code is used to pass failures on */
    if (spec->stream && (spec->stream < 1 || spec->stream > spec->ctx - 2))
        return kv_fail(err, KV_FAIL_USAGE, "--stream: found %d, expected 1 to %d (the prefill must"
                       " leave a prediction to score in a window of %d)", spec->stream,
                       spec->ctx - 2, spec->ctx);
    v.same = spec->keys.kind == KV_F16 && !spec->keys.pre && spec->values.kind == KV_F16;
    int code = open_memories(&v, err);
    if (!code) code = open_buffers(&v, err);
    for (int w = 0; w < count && !code; w++) {
        const int *tokens = windows + (size_t)w * (size_t)spec->ctx;
        v.done = 2.0 * w;
        tell(&v, 0);
        code = spec->stream ? streamed(&v, tokens, err) : whole_window(&v, tokens, err);
        if (!code) code = score(&v, tokens, spec->stream, err);
    }
    v.done = 0;
    if (!code) tell(&v, 2.0 * count);
    if (!code) sum_up(r, &v);
    close_all(&v);
    return code;
}
