/* The 16-bit side of evaluations, see base.h. */
#include "base.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "evidence.h"
#include "memory.h"
#include "sequence.h"

typedef struct {
    float *hidden;  /* [ctx][C], NULL: not made */
    kv_keep *keep;  /* [choices] */
    int *capped;    /* [choices] */
    char *is_sink;  /* [ctx] */
    double bytes;
    double *log_sum; /* [ctx] */
    int *best;       /* [ctx] */
    float *logits;   /* [ctx][vocab], or NULL: not held */
    char *has_row;   /* [ctx] of logits */
} window;

struct tm_base {
    tm_base_spec spec;
    tm_engine e;
    tm_fast *fast;
    const int *tokens;
    int count, made; /* windows 0..made-1 */
    window *window;  /* [count], or [1] without hold */
    size_t held;     /* bytes of logits */
    tm_window *whole;
    tm_sequence *sequence;
    float *work;
    unsigned mask;   /* of the taps that all evidence together wants */
    /* For each choice two rules and what they read of the pass: the one that is applied to the
     * text, and the one that is fitted to it (or NULL). Behind those: what marks sinks. */
    kv_keep_rule *rule;
    tm_evidence **evidence;
    double *carry;   /* [choices] of those that match another */
};

/* ---------------------------------------------------------------- choices */

int tm_choice_parse(tm_choice *c, const char *text, kv_error *err)
{
    memset(c, 0, sizeof *c);
    const char *like = strstr(text, ":=");
    if (!like) return kv_keep_parse(&c->rule, text, err);
    int is_first = strncmp(text, "first:=", 7) == 0, is_top = strncmp(text, "toph:=", 6) == 0;
    if (!is_first && !is_top)
        return kv_fail(err, KV_FAIL_USAGE, "found '%.100s', expected first:=KEEP or toph:=KEEP: as"
                       " many rows as the other rule keeps", text);
    c->matches = 1;
    if (kv_keep_parse(&c->rule, is_first ? "first:1" : "toph:1", err)) return err->code;
    return kv_keep_parse(&c->like, like + 2, err);
}

int tm_choice_needs_profile(const tm_choice *c)
{
    return kv_keep_needs_profile(&c->rule) || (c->matches && kv_keep_needs_profile(&c->like));
}

/* Puts the rule whose K is fitted in the place of the set that it must match. */
static int match(tm_base *b, int i, window *w, const int *tokens, kv_error *err)
{
    kv_keep_rule *rule = &b->rule[2 * i + 1];
    int L = b->e.model->layers;
    double sum = 0;
    for (int l = 0; l < L; l++) sum += w->keep[i].count[l];
    b->carry[i] += sum / L;
    rule->k = (int)floor(b->carry[i] + 1e-9);
    if (rule->k > b->spec.ctx) rule->k = b->spec.ctx;
    b->carry[i] -= rule->k;
    if (rule->k) return tm_evidence_keep(&w->keep[i], NULL, b->evidence[2 * i + 1], tokens, err);
    memset(w->keep[i].count, 0, (size_t)L * sizeof *w->keep[i].count);
    return KV_OK;
}

static int build_keeps(tm_base *b, window *w, const int *tokens, kv_error *err)
{
    for (int i = 0; i < b->spec.choices; i++) {
        if (!b->evidence[2 * i]) continue; /* greedy: found by trying formats, not here */
        if (tm_evidence_keep(&w->keep[i], &w->capped[i], b->evidence[2 * i], tokens, err) ||
            (b->evidence[2 * i + 1] && match(b, i, w, tokens, err))) return err->code;
    }
    return KV_OK;
}

/* Which tokens are sinks, whatever the rule in question keeps. */
static int mark_sinks(const tm_base *b, window *w, const int *tokens, kv_error *err)
{
    kv_keep keep;
    memset(w->is_sink, 0, (size_t)b->spec.ctx);
    if (!b->spec.profile || !b->spec.profile->n_stages) {
        w->is_sink[0] = 1;
        return KV_OK;
    }
    if (tm_keep_init(&keep, b->e.model->layers, b->spec.ctx, err)) return err->code;
    int code = tm_evidence_keep(&keep, NULL, b->evidence[2 * b->spec.choices], tokens, err);
    for (int i = 0; i < keep.count[0] && !code; i++) w->is_sink[keep.position[i]] = 1;
    tm_keep_free(&keep);
    return code;
}

/* ---------------------------------------------------------------- opening */

static void *zeros(size_t n, size_t size, kv_error *err)
{
    void *p = calloc(n ? n : 1, size);
    if (!p) kv_fail(err, KV_FAIL_RUN, "not enough memory for the 16-bit pass; use fewer windows");
    return p;
}

static void free_window(const tm_base *b, window *w)
{
    for (int i = 0; w->keep && i < b->spec.choices; i++) tm_keep_free(&w->keep[i]);
    free(w->hidden);
    free(w->keep);
    free(w->capped);
    free(w->is_sink);
    free(w->log_sum);
    free(w->best);
    free(w->logits);
    free(w->has_row);
    memset(w, 0, sizeof *w);
}

static int init_window(const tm_base *b, window *w, kv_error *err)
{
    size_t ctx = (size_t)b->spec.ctx, choices = (size_t)b->spec.choices;
    memset(w, 0, sizeof *w);
    w->hidden = zeros(ctx * (size_t)b->e.model->width, sizeof *w->hidden, err);
    w->keep = zeros(choices, sizeof *w->keep, err);
    w->capped = zeros(choices, sizeof *w->capped, err);
    w->is_sink = zeros(ctx, 1, err);
    w->log_sum = zeros(ctx, sizeof *w->log_sum, err);
    w->best = zeros(ctx, sizeof *w->best, err);
    if (!w->hidden || !w->keep || !w->capped || !w->is_sink ||
        !w->log_sum || !w->best) return KV_FAIL_RUN;
    for (size_t i = 0; i < choices && !b->spec.stream; i++)
        if (tm_keep_init(&w->keep[i], b->e.model->layers, b->spec.ctx, err)) return KV_FAIL_RUN;
    return KV_OK;
}

static void forget_rows(const tm_base *b, window *w)
{
    for (int i = 0; i < b->spec.ctx; i++) w->log_sum[i] = NAN;
}

static int open_memory(tm_base *b, kv_error *err)
{
    const kv_format f16 = {.kind = KV_F16};
    if (!b->spec.stream)
        return tm_window_open(&b->whole, b->e.model, &f16, &f16, b->spec.ctx,
                              b->fast ? tm_fast_pool(b->fast) : NULL, err);
    tm_sequence_spec plain = {f16, f16, {.kind = KV_KEEP_NONE}, NULL, 0, b->spec.ctx, NULL};
    return tm_sequence_open(&b->sequence, &b->e, b->fast, &plain, err);
}

static int open_evidence(tm_base *b, int i, const kv_keep_rule *rule, kv_error *err)
{
    b->rule[i] = *rule;
    if (tm_evidence_open(&b->evidence[i], &b->rule[i], b->spec.profile, b->e.model,
                         b->spec.stream ? b->spec.stream : b->spec.ctx, err)) return err->code;
    if (!b->spec.stream) b->mask |= tm_evidence_mask(b->evidence[i]);
    return KV_OK;
}

/* In a stream every sequence gathers its own; here it is only asked whether the rules are right. */
static int open_all_evidence(tm_base *b, kv_error *err)
{
    kv_keep_rule marks;
    int n = b->spec.choices, code = kv_keep_parse(&marks, "kvsink:auto@join/all", err);
    b->rule = zeros(2 * (size_t)n + 1, sizeof *b->rule, err);
    b->evidence = zeros(2 * (size_t)n + 1, sizeof *b->evidence, err);
    if (!b->rule || !b->evidence) return KV_FAIL_RUN;
    for (int i = 0; i < n && !code; i++) {
        const tm_choice *c = &b->spec.choice[i];
        if (c->matches && b->spec.stream)
            return kv_fail(err, KV_FAIL_USAGE, "first:=KEEP and toph:=KEEP are for whole windows;"
                           " name a number with --stream");
        if (c->rule.kind == KV_KEEP_GREEDY && b->spec.stream)
            return kv_fail(err, KV_FAIL_USAGE, "--keep greedy:%d evaluates whole windows; leave out"
                           " --stream", c->rule.k);
        if (c->rule.kind == KV_KEEP_GREEDY) continue;
        code = open_evidence(b, 2 * i, c->matches ? &c->like : &c->rule, err);
        if (!code && c->matches) code = open_evidence(b, 2 * i + 1, &c->rule, err);
    }
    if (!code && b->spec.marks && b->spec.profile) code = open_evidence(b, 2 * n, &marks, err);
    return code;
}

static int open_buffers(tm_base *b, kv_error *err)
{
    b->carry = zeros((size_t)b->spec.choices, sizeof *b->carry, err);
    b->work = zeros(kv_forward_work(b->e.model, b->mask, 0, b->spec.ctx), sizeof *b->work, err);
    b->window = zeros(b->spec.hold ? (size_t)b->count : 1, sizeof *b->window, err);
    return b->carry && b->work && b->window ? KV_OK : KV_FAIL_RUN;
}

int tm_base_open(tm_base **out, const tm_base_spec *spec, const tm_engine *e, tm_fast *fast,
                 const int *windows, int count, kv_error *err)
{
    *out = NULL;
    if (spec->stream && (spec->stream < 1 || spec->stream > spec->ctx - 2))
        return kv_fail(err, KV_FAIL_USAGE, "--stream: found %d, expected 1 to %d (the prefill must"
                       " leave a prediction to score in a window of %d)", spec->stream,
                       spec->ctx - 2, spec->ctx);
    tm_base *b = zeros(1, sizeof *b, err);
    if (!b) return KV_FAIL_RUN;
    *b = (tm_base){.spec = *spec, .e = *e, .fast = fast, .tokens = windows, .count = count};
    int code = open_memory(b, err);
    if (!code) code = open_all_evidence(b, err);
    if (!code) code = open_buffers(b, err);
    if (code) tm_base_close(b);
    else *out = b;
    return code;
}

void tm_base_close(tm_base *b)
{
    if (!b) return;
    for (int i = 0; b->window && i < (b->spec.hold ? b->count : 1); i++)
        free_window(b, &b->window[i]);
    tm_window_close(b->whole);
    tm_sequence_close(b->sequence);
    for (int i = 0; b->evidence && i <= 2 * b->spec.choices; i++)
        tm_evidence_close(b->evidence[i]);
    free(b->evidence);
    free(b->rule);
    free(b->window);
    free(b->work);
    free(b->carry);
    free(b);
}

const tm_base_spec *tm_base_spec_of(const tm_base *b)
{
    return &b->spec;
}

const tm_engine *tm_base_engine(const tm_base *b)
{
    return &b->e;
}

tm_fast *tm_base_fast(const tm_base *b)
{
    return b->fast;
}

int tm_base_count(const tm_base *b)
{
    return b->count;
}

const int *tm_base_tokens(const tm_base *b, int w)
{
    return b->tokens + (size_t)w * (size_t)b->spec.ctx;
}

int tm_base_has(const tm_base *b, int w)
{
    return b->spec.hold ? w < b->made : w == b->made - 1;
}

/* ----------------------------------------------------------------- passes */

/* Hands what a tap shows on to everyone who asked for it. */
static void tap(void *self, kv_tap which, int layer, float *data, int rows, int cols)
{
    const tm_base *b = self;
    for (int i = 0; i <= 2 * b->spec.choices; i++)
        if (b->evidence[i] && tm_evidence_mask(b->evidence[i]) & 1u << which)
            tm_evidence_tap(b->evidence[i], which, layer, data, rows, cols);
}

static int whole_window(tm_base *b, window *w, const int *tokens, kv_error *err)
{
    kv_run run = {.model = b->e.model, .backend = b->e.backend, .tap = tap, .tap_self = b,
                  .tap_mask = b->mask, .memory = tm_window_memory(b->whole), .work = b->work};
    if (kv_forward(w->hidden, &run, tokens, b->spec.ctx, err) || build_keeps(b, w, tokens, err))
        return err->code;
    if (b->spec.marks && mark_sinks(b, w, tokens, err)) return err->code;
    w->bytes = 0;
    for (int l = 0; l < b->e.model->layers; l++)
        w->bytes += (double)tm_window_bytes(b->whole, l).total;
    return KV_OK;
}

/* Prefill of P tokens, then the others one by one; hidden row t is that of token t. */
static int streamed(tm_base *b, window *w, const int *tokens, tm_progress *progress, void *self,
                    kv_error *err)
{
    int P = b->spec.stream, ctx = b->spec.ctx;
    size_t C = (size_t)b->e.model->width;
    int code = tm_sequence_start(b->sequence, w->hidden, tokens, P, err);
    for (int t = P; t < ctx && !code; t++) {
        code = tm_sequence_step(b->sequence, w->hidden + (size_t)t * C, tokens[t], err);
        if (progress) progress(self, (t + 1.0) / ctx, 1);
    }
    w->bytes = tm_sequence_bytes(b->sequence);
    return code;
}

static window *slot(const tm_base *b, int w)
{
    return &b->window[b->spec.hold ? w : 0];
}

int tm_base_take(tm_base_window *out, tm_base *b, int w, tm_progress *progress, void *self,
                 kv_error *err)
{
    window *x = slot(b, w);
    if (!tm_base_has(b, w)) {
        if (w != b->made)
            return kv_fail(err, KV_FAIL_RUN, "window %d was asked for when %d had been made", w,
                           b->made);
        const int *tokens = tm_base_tokens(b, w);
        if (!x->hidden && init_window(b, x, err)) return KV_FAIL_RUN;
        forget_rows(b, x);
        int code = b->spec.stream ? streamed(b, x, tokens, progress, self, err)
                                  : whole_window(b, x, tokens, err);
        if (code) return code;
        b->made++;
    }
    *out = (tm_base_window){x->hidden, b->spec.stream ? NULL : x->keep, x->capped,
                            x->is_sink, x->bytes, x->log_sum, x->best};
    return KV_OK;
}

/* ----------------------------------------------------------------- logits */

/* Room to hold the logits of a window, if the limit allows. */
static void hold_logits(tm_base *b, window *x)
{
    size_t rows = (size_t)b->spec.ctx, vocab = (size_t)b->e.model->vocab;
    size_t bytes = rows * vocab * sizeof(float);
    if (x->logits || !b->spec.hold || b->held + bytes > b->spec.memory) return;
    x->has_row = calloc(rows, 1);
    x->logits = x->has_row ? malloc(bytes) : NULL; /* no memory: made again each time */
    if (x->logits) b->held += bytes;
}

int tm_base_logits(const float **logits, tm_base *b, int w, int first, int n, float *buffer,
                   kv_error *err)
{
    window *x = slot(b, w);
    size_t at = (size_t)first * (size_t)b->e.model->vocab, C = (size_t)b->e.model->width;
    kv_run run = {.model = b->e.model, .backend = b->e.backend};
    hold_logits(b, x);
    *logits = x->logits ? x->logits + at : buffer;
    if (x->logits && x->has_row[first]) return KV_OK;
    int code = kv_logits(x->logits ? x->logits + at : buffer, &run,
                         x->hidden + (size_t)first * C, n, err);
    if (x->logits && !code) memset(x->has_row + first, 1, (size_t)n);
    return code;
}
