/* Gathering what keep rules read, see evidence.h.
 *
 * A tap cannot fail, so all memory is taken when the evidence is opened. Scores are made in the tap,
 * layer by layer, and only they are kept: one number per token and layer. */
#include "evidence.h"

#include <stdlib.h>
#include <string.h>

struct tm_evidence {
    const kv_keep_rule *rule;
    const kv_profile *profile;
    const kv_model *model;
    int T;
    unsigned mask;
    float *h;       /* [n_stages][T] */
    double *score;  /* [layers][T], or NULL */
    double *sum;    /* [layers][T] attention, or NULL */
    kv_keep own;    /* rotatekv's tokens of each layer */
    float *scratch; /* [2 * T] */
    int *found;     /* [2 * T] */
};

/* At least one element, so that NULL always means failure. */
static void *zeros(size_t count, size_t size, kv_error *err)
{
    void *p = calloc(count ? count : 1, size);
    if (!p)
        kv_fail(err, KV_FAIL_RUN, "not enough memory for the keep rule (%zu bytes); use a shorter"
                " text", count * size);
    return p;
}

/* -------------------------------------------------------------- keep sets */

int tm_keep_init(kv_keep *keep, int layers, int T, kv_error *err)
{
    keep->layers = layers;
    keep->capacity = T;
    keep->count = zeros((size_t)layers, sizeof *keep->count, err);
    keep->position = keep->count ? zeros((size_t)layers * (size_t)T, sizeof *keep->position, err)
                                 : NULL;
    if (keep->position) return KV_OK;
    tm_keep_free(keep);
    return KV_FAIL_RUN;
}

void tm_keep_free(kv_keep *keep)
{
    free(keep->count);
    free(keep->position);
    memset(keep, 0, sizeof *keep);
}

int tm_keep_build(kv_keep *keep, int *capped, const kv_keep_rule *rule, const int *tokens, int T,
                  const kv_profile *profile, const float *h, kv_error *err)
{
    float *scratch = zeros(2 * (size_t)T, sizeof *scratch, err);
    int *found = zeros(2 * (size_t)T, sizeof *found, err), code = KV_FAIL_RUN;
    if (scratch && found) {
        kv_keep_input in = {.T = T, .tokens = tokens, .profile = profile, .h = h,
                            .scratch = scratch, .found = found};
        code = kv_keep_build(keep, capped, rule, &in, err);
    }
    free(scratch);
    free(found);
    return code;
}

/* --------------------------------------------------------------- the pass */

static int reads_input(kv_keep_kind kind)
{
    return kind == KV_KEEP_TOPH || kind == KV_KEEP_ROTATEKV;
}

static int reads_attention(kv_keep_kind kind)
{
    return kind == KV_KEEP_ATTENTION || kind == KV_KEEP_CRITERION;
}

static int reads_keys(kv_keep_kind kind)
{
    return kind == KV_KEEP_BIGKEYS || kind == KV_KEEP_SMALLKEYS;
}

static unsigned mask_of(const tm_evidence *e)
{
    kv_keep_kind kind = e->rule->kind;
    unsigned mask = e->profile && e->profile->n_stages ? 1u << KV_TAP_H : 0;
    if (reads_input(kind)) mask |= 1u << KV_TAP_EMBED | 1u << KV_TAP_H;
    if (reads_attention(kind)) mask |= 1u << KV_TAP_ATTENTION;
    if (reads_keys(kind)) mask |= 1u << KV_TAP_K;
    return mask;
}

/* The residual after layer `layer` (-1: the embedding) is the input of the next one. */
static void take_input(tm_evidence *e, int layer, const float *x, int C)
{
    if (layer >= e->model->layers) return;
    if (e->rule->kind == KV_KEEP_TOPH)
        kv_row_peaks(e->score + (size_t)layer * (size_t)e->T, x, e->T, C);
    if (e->rule->kind == KV_KEEP_ROTATEKV)
        e->own.count[layer] = kv_rotatekv_tokens(
            e->own.position + (size_t)layer * (size_t)e->own.capacity, x, e->T, C);
}

static void take_stages(tm_evidence *e, int layer, const float *x, int C)
{
    for (int s = 0; e->profile && s < e->profile->n_stages; s++) {
        const kv_stage *stage = &e->profile->stage[s];
        float *h = e->h + (size_t)s * (size_t)e->T;
        for (int t = 0; stage->layer == layer && t < e->T; t++)
            h[t] = x[(size_t)t * (size_t)C + (size_t)stage->channel];
    }
}

static void take_attention(tm_evidence *e, int layer, const float *rows)
{
    size_t at = (size_t)layer * (size_t)e->T;
    int H = e->model->shape.heads;
    memset(e->sum + at, 0, (size_t)e->T * sizeof *e->sum);
    kv_attention_add(e->sum + at, rows, H, 0, e->T);
    kv_attention_mean(e->score + at, e->sum + at, H, e->T);
}

void tm_evidence_tap(void *self, kv_tap tap, int layer, float *data, int rows, int cols)
{
    tm_evidence *e = self;
    kv_keep_kind kind = e->rule->kind;
    if (tap == KV_TAP_ATTENTION) {
        if (reads_attention(kind) && cols == e->T) take_attention(e, layer, data);
        return;
    }
    if (rows != e->T) return;
    if (tap == KV_TAP_H) take_stages(e, layer, data, cols);
    if ((tap == KV_TAP_H || tap == KV_TAP_EMBED) && reads_input(kind))
        take_input(e, layer + 1, data, cols);
    if (tap == KV_TAP_K && reads_keys(kind))
        kv_row_norms(e->score + (size_t)layer * (size_t)e->T, data, e->T, cols);
}

unsigned tm_evidence_mask(const tm_evidence *e)
{
    return e->mask;
}

/* ---------------------------------------------------------- open and read */

int tm_evidence_keep(kv_keep *keep, int *capped, tm_evidence *e, const int *tokens, kv_error *err)
{
    kv_keep_input in = {e->T, tokens, e->profile, e->h, e->scratch, e->found, e->score,
                        e->own.count ? &e->own : NULL};
    return kv_keep_build(keep, capped, e->rule, &in, err);
}

static int take_memory(tm_evidence *e, kv_error *err)
{
    size_t L = (size_t)e->model->layers, T = (size_t)e->T;
    size_t stages = e->profile ? (size_t)e->profile->n_stages : 0;
    kv_keep_kind kind = e->rule->kind;
    int scores = kind == KV_KEEP_TOPH || reads_attention(kind) || reads_keys(kind);
    if (kind == KV_KEEP_ROTATEKV &&
        tm_keep_init(&e->own, (int)L, e->T < KV_ROTATEKV_ENTRIES ? e->T : KV_ROTATEKV_ENTRIES, err))
        return KV_FAIL_RUN;
    return (e->h = zeros(stages * T, sizeof *e->h, err)) &&
           (!scores || (e->score = zeros(L * T, sizeof *e->score, err))) &&
           (!reads_attention(kind) || (e->sum = zeros(L * T, sizeof *e->sum, err))) &&
           (e->scratch = zeros(2 * T, sizeof *e->scratch, err)) &&
           (e->found = zeros(2 * T, sizeof *e->found, err)) ? KV_OK : KV_FAIL_RUN;
}

/* Is the rule fit for such a text at all? All that it reads is still 0. */
static int try_rule(tm_evidence *e, kv_error *err)
{
    kv_keep keep;
    int *tokens = zeros((size_t)e->T, sizeof *tokens, err);
    int code = tokens ? tm_keep_init(&keep, e->model->layers, e->T, err) : KV_FAIL_RUN;
    if (!code) {
        code = tm_evidence_keep(&keep, NULL, e, tokens, err);
        tm_keep_free(&keep);
    }
    free(tokens);
    return code;
}

int tm_evidence_open(tm_evidence **out, const kv_keep_rule *rule, const kv_profile *profile,
                     const kv_model *m, int T, kv_error *err)
{
    tm_evidence *e = zeros(1, sizeof *e, err);
    *out = NULL;
    if (!e) return KV_FAIL_RUN;
    e->rule = rule;
    e->profile = profile;
    e->model = m;
    e->T = T;
    e->mask = mask_of(e);
    int code = take_memory(e, err);
    if (!code) code = try_rule(e, err);
    if (code) tm_evidence_close(e);
    else *out = e;
    return code;
}

void tm_evidence_close(tm_evidence *e)
{
    if (!e) return;
    free(e->h);
    free(e->score);
    free(e->sum);
    tm_keep_free(&e->own);
    free(e->scratch);
    free(e->found);
    free(e);
}

const float *tm_evidence_h(const tm_evidence *e)
{
    return e->profile ? e->h : NULL;
}

const double *tm_evidence_attention(const tm_evidence *e)
{
    return e->sum;
}
