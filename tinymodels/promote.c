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

int tm_promoter_open(tm_promoter *p, const kv_model *m, const kv_keep_rule *rule,
                     const kv_profile *profile, tm_stream *stream, kv_error *err)
{
    memset(p, 0, sizeof *p);
    /* positions: must lie in the prompt, so none is left for what comes later. */
    if (!rule->decode || rule->kind == KV_KEEP_NONE || rule->kind == KV_KEEP_POSITIONS)
        return KV_OK;
    p->active = 1;
    p->profile = profile;
    p->rule = *rule;
    p->stream = stream;
    if (rule->kind == KV_KEEP_KVSINK) {
        p->rule.k = -1;
        p->stages = profile ? profile->n_stages : 0;
    }
    p->probe = calloc((size_t)p->stages + 1, sizeof *p->probe);
    p->h = calloc((size_t)p->stages * PAIR + 1, sizeof *p->h);
    int code = p->probe && p->h ? tm_keep_init(&p->keep, m->layers, PAIR, err)
                                : kv_fail(err, KV_FAIL_RUN, "not enough memory");
    if (code) tm_promoter_close(p);
    else if (p->stages) tm_stage_probes(p->probe, profile);
    return code;
}

void tm_promoter_close(tm_promoter *p)
{
    free(p->probe);
    free(p->h);
    tm_keep_free(&p->keep);
    memset(p, 0, sizeof *p);
}

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

static void on_tap(void *self, kv_tap tap, int layer, float *data, int rows, int cols)
{
    tm_promoter *p = self;
    int seen = 0;
    for (int i = 0; i < p->stages; i++) {
        if (p->probe[i].tap != tap || p->probe[i].layer != layer) continue;
        p->h[i * PAIR + OURS] = data[(size_t)(rows - 1) * (size_t)cols + (size_t)p->probe[i].channel];
        seen = 1;
    }
    if (seen) judge(p);
}

void tm_promoter_watch(tm_promoter *p, kv_run *run, int position, int token)
{
    p->position = position;
    p->token = token;
    for (int i = 0; i < p->stages * PAIR; i++) p->h[i] = 0;
    run->tap = p->stages ? on_tap : NULL;
    run->tap_self = p;
    run->tap_mask = tm_probe_mask(p->probe, p->stages);
    if (p->active && p->rule.kind != KV_KEEP_KVSINK) judge(p);
}

int tm_promoter_check(const tm_promoter *p, kv_error *err)
{
    return p->err.code ? kv_fail(err, p->err.code, "%s", p->err.text) : KV_OK;
}
