/* Keep rules with +decode; promote.h says what they mean.
 *
 * Which ids a rule names and which layers a stage speaks for is kv_keep_build's knowledge, and we do
 * not repeat it: the rule is applied to a text of two tokens, of which the second is ours and the
 * first is nothing (ids: always keeps position 0). For kvsink that happens each time a stage's h
 * arrives, with the stages still to come at 0, below every threshold. */
#include "promote.h"

#include <stdlib.h>
#include <string.h>

enum { PAIR = 2, OURS = 1 };

static int open_criterion(tm_promoter *p, const kv_model *m, kv_error *err)
{
    size_t n = (size_t)m->layers * (size_t)p->capacity, T = (size_t)p->capacity;
    p->heads = m->shape.heads;
    p->sum = calloc(n, sizeof *p->sum);
    p->mean = calloc(n, sizeof *p->mean);
    p->scratch = calloc(2 * T, sizeof *p->scratch);
    p->found = calloc(2 * T, sizeof *p->found);
    if (!p->sum || !p->mean || !p->scratch || !p->found)
        return kv_fail(err, KV_FAIL_RUN, "not enough memory for the attention of %d tokens",
                       p->capacity);
    return tm_keep_init(&p->keep, m->layers, KV_CRITERION_TOKENS, err);
}

static int open_judge(tm_promoter *p, const kv_model *m, kv_error *err)
{
    if (p->rule.kind == KV_KEEP_KVSINK) {
        p->rule.k = -1;
        p->stages = p->profile ? p->profile->n_stages : 0;
    }
    p->probe = calloc((size_t)p->stages + 1, sizeof *p->probe);
    p->h = calloc((size_t)p->stages * PAIR + 1, sizeof *p->h);
    if (!p->probe || !p->h) return kv_fail(err, KV_FAIL_RUN, "not enough memory");
    if (p->stages) tm_stage_probes(p->probe, p->profile);
    return tm_keep_init(&p->keep, m->layers, PAIR, err);
}

int tm_promoter_open(tm_promoter *p, const kv_model *m, const kv_keep_rule *rule,
                     const kv_profile *profile, tm_stream *stream, int capacity, kv_error *err)
{
    memset(p, 0, sizeof *p);
    /* positions: must lie in the prompt, so none is left for what comes later. */
    if (!rule->decode || rule->kind == KV_KEEP_NONE || rule->kind == KV_KEEP_POSITIONS)
        return KV_OK;
    p->active = 1;
    p->profile = profile;
    p->rule = *rule;
    p->stream = stream;
    p->capacity = capacity;
    int code = rule->kind == KV_KEEP_CRITERION ? open_criterion(p, m, err) : open_judge(p, m, err);
    if (code) tm_promoter_close(p);
    return code;
}

void tm_promoter_close(tm_promoter *p)
{
    free(p->probe);
    free(p->h);
    free(p->sum);
    free(p->mean);
    free(p->scratch);
    free(p->found);
    tm_keep_free(&p->keep);
    memset(p, 0, sizeof *p);
}

/* -------------------------------------------------- one token by itself */

static void judge(tm_promoter *p)
{
    const int pair[PAIR] = {-1, p->token};
    kv_keep_rule rule = p->rule;
    if (rule.kind == KV_KEEP_FIRST) rule.k = p->position < rule.k ? PAIR : 0;
    if (p->err.code || tm_keep_build(&p->keep, NULL, &rule, pair, PAIR, p->profile, p->h, &p->err))
        return;
    for (int l = 0; l < p->keep.layers; l++) {
        const int *kept = p->keep.position + (size_t)l * (size_t)p->keep.capacity;
        int n = p->keep.count[l];
        if (n > 0 && kept[n - 1] == OURS &&
            tm_stream_promote(p->stream, p->position, l, l, NULL, &p->err))
            return;
    }
}

static void on_h(tm_promoter *p, kv_tap tap, int layer, const float *data, int rows, int cols)
{
    int seen = 0;
    for (int i = 0; i < p->stages; i++) {
        if (p->probe[i].tap != tap || p->probe[i].layer != layer) continue;
        p->h[i * PAIR + OURS] = data[(size_t)(rows - 1) * (size_t)cols + (size_t)p->probe[i].channel];
        seen = 1;
    }
    if (seen) judge(p);
}

/* -------------------------------------------------------------- criterion */

void tm_promoter_prompt(tm_promoter *p, const tm_evidence *e, int n)
{
    size_t capacity = (size_t)p->capacity;
    const double *sum = tm_evidence_attention(e);
    if (!p->sum) return;
    for (int l = 0; l < p->keep.layers; l++) {
        memset(p->sum + (size_t)l * capacity, 0, capacity * sizeof *p->sum);
        memcpy(p->sum + (size_t)l * capacity, sum + (size_t)l * (size_t)n, (size_t)n * sizeof *sum);
    }
}

/* The five best of all tokens so far, asked of kv_keep_build, which knows the layers, too. */
static void choose_anew(tm_promoter *p)
{
    int T = p->position + 1;
    for (int l = 0; l < p->keep.layers; l++)
        kv_attention_mean(p->mean + (size_t)l * (size_t)T,
                          p->sum + (size_t)l * (size_t)p->capacity, p->heads, T);
    kv_keep_input in = {.T = T, .profile = p->profile, .scratch = p->scratch, .found = p->found,
                        .score = p->mean};
    if (kv_keep_build(&p->keep, NULL, &p->rule, &in, &p->err)) return;
    for (int l = 0; l < p->keep.layers; l++)
        for (int i = 0; i < p->keep.count[l]; i++)
            if (tm_stream_promote(p->stream, p->keep.position[l * p->keep.capacity + i], l, l, NULL,
                                  &p->err)) return;
}

/* --------------------------------------------------------------- the pass */

static void on_tap(void *self, kv_tap tap, int layer, float *data, int rows, int cols)
{
    tm_promoter *p = self;
    if (p->sum)
        kv_attention_add(p->sum + (size_t)layer * (size_t)p->capacity, data, p->heads, p->position,
                         1);
    else on_h(p, tap, layer, data, rows, cols);
}

void tm_promoter_watch(tm_promoter *p, kv_run *run, int position, int token)
{
    p->position = position;
    p->token = token;
    for (int i = 0; i < p->stages * PAIR; i++) p->h[i] = 0;
    run->tap = p->stages || p->sum ? on_tap : NULL;
    run->tap_self = p;
    run->tap_mask = p->sum ? 1u << KV_TAP_ATTENTION : tm_probe_mask(p->probe, p->stages);
    if (p->active && !p->sum && p->rule.kind != KV_KEEP_KVSINK) judge(p);
}

int tm_promoter_finish(tm_promoter *p, kv_error *err)
{
    if (p->sum && !p->err.code) choose_anew(p);
    return p->err.code ? kv_fail(err, p->err.code, "%s", p->err.text) : KV_OK;
}
