/* Keep rules with +decode; promote.h says what they mean.
 *
 * Which layers a stage speaks for is kv_keep_build's knowledge, and we do not repeat it: each time
 * a stage's h arrives, the rule is applied to a text of one token, with the stages still to come at
 * 0, below every threshold. */
#include "promote.h"

#include <stdlib.h>
#include <string.h>

int tm_promoter_open(tm_promoter *p, const kv_model *m, const kv_keep_rule *rule,
                     const kv_profile *profile, tm_stream *stream, kv_error *err)
{
    memset(p, 0, sizeof *p);
    if (!rule->decode || rule->kind != KV_KEEP_KVSINK || !profile || profile->n_stages == 0)
        return KV_OK;
    p->profile = profile;
    p->rule = *rule;
    p->rule.k = -1;
    p->stream = stream;
    p->probe = calloc((size_t)profile->n_stages, sizeof *p->probe);
    p->h = calloc((size_t)profile->n_stages, sizeof *p->h);
    int code = p->probe && p->h ? tm_keep_init(&p->keep, m->layers, 1, err)
                                : kv_fail(err, KV_FAIL_RUN, "not enough memory");
    if (code) tm_promoter_close(p);
    else tm_stage_probes(p->probe, profile);
    return code;
}

void tm_promoter_close(tm_promoter *p)
{
    free(p->probe);
    free(p->h);
    tm_keep_free(&p->keep);
    memset(p, 0, sizeof *p);
}

static void on_tap(void *self, kv_tap tap, int layer, float *data, int rows, int cols)
{
    tm_promoter *p = self;
    int seen = 0, token = 0;
    for (int i = 0; i < p->profile->n_stages; i++) {
        if (p->probe[i].tap != tap || p->probe[i].layer != layer) continue;
        p->h[i] = data[(size_t)(rows - 1) * (size_t)cols + (size_t)p->probe[i].channel];
        seen = 1;
    }
    if (!seen || p->err.code) return;
    if (tm_keep_build(&p->keep, NULL, &p->rule, &token, 1, p->profile, p->h, &p->err)) return;
    for (int l = 0; l < p->keep.layers; l++)
        if (p->keep.count[l] && tm_stream_promote(p->stream, p->position, l, l, NULL, &p->err))
            return;
}

void tm_promoter_watch(tm_promoter *p, kv_run *run, int position)
{
    run->tap = p->profile ? on_tap : NULL;
    run->tap_self = p;
    run->tap_mask = p->profile ? tm_probe_mask(p->probe, p->profile->n_stages) : 0;
    p->position = position;
    if (p->profile) memset(p->h, 0, (size_t)p->profile->n_stages * sizeof *p->h);
}

int tm_promoter_check(const tm_promoter *p, kv_error *err)
{
    return p->err.code ? kv_fail(err, p->err.code, "%s", p->err.text) : KV_OK;
}
