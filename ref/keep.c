//@ top: Choose which tokens stay in sixteen bits
/* A keep rule (keep_text.c has the grammar), applied to a prompt, gives every
 * layer an ascending list of positions. Rules know nothing of formats, and
 * formats nothing of rules: what a cache does with the list is its own affair.
 *
 * Some rules need only positions and token ids. The others ask something of a
 * pass without quantization, and keep what answers loudest: one channel of the
 * residual stream (KVSink), any of its channels (toph, RotateKV), the
 * attention received (attention, criterion), the size of keys. What they ask
 * is computed in keep_score.c and kvsink.c; here the answers become lists. */
#include <math.h>
#include <string.h>

#include "kv.h"

//@ sets: Add positions to a layer's list
static int *list_of(const kv_keep *keep, int layer)
{
    return keep->position + (size_t)layer * (size_t)keep->capacity;
}

/* Inserts in order, once. 0 if the list is full. */
static int insert(kv_keep *keep, int layer, int position)
{
    int *list = list_of(keep, layer), n = keep->count[layer];
    int at = kv_positions_before(list, n, position);
    if (at < n && list[at] == position)
        return 1;
    if (n == keep->capacity)
        return 0;
    memmove(list + at + 1, list + at, (size_t)(n - at) * sizeof *list);
    list[at] = position;
    keep->count[layer]++;
    return 1;
}

static int insert_all(kv_keep *keep, int layer, const int *position, int n)
{
    int ok = 1;
    for (int i = 0; i < n; i++)
        ok &= insert(keep, layer, position[i]);
    return ok;
}

//@ fixed: Build the sets that are the same in every layer
static int is_listed(const kv_keep_rule *r, const kv_profile *p, int value)
{
    const int *list = r->learned ? p->ids : r->list;
    int n = r->learned ? p->n_ids : r->n_list;
    for (int i = 0; i < n; i++)
        if (list[i] == value)
            return 1;
    return 0;
}

static int fixed_set(kv_keep *keep, int layer, const kv_keep_rule *r,
                     const kv_keep_input *in)
{
    int ok = 1;
    if (r->kind == KV_KEEP_POSITIONS)
        return insert_all(keep, layer, r->list, r->n_list);
    for (int t = 0; t < in->T; t++)
        if (r->kind == KV_KEEP_FIRST
                ? t < r->k
                : t == 0 || is_listed(r, in->profile, in->tokens[t]))
            ok &= insert(keep, layer, t);
    return ok;
}

//@ stage-set: Predict the sinks that one stage shows
/* position has room for T. */
static int stage_set(int *position, int *capped, const kv_keep_rule *r,
                     const kv_keep_input *in, int stage)
{
    const float *h = in->h + (size_t)stage * (size_t)in->T;
    int n, bound = 0;
    if (r->k >= 0)
        n = kv_top_magnitudes(position, h, in->T, r->k, in->scratch);
    else
        n = kv_above_threshold(position, &bound, h, in->T,
                               in->profile->stage[stage].threshold,
                               in->scratch);
    *capped |= bound;
    return n;
}

//@ covers: Leave out the layers that a rule does not protect
/* kvsink's /after depends on the stage in question (stage_speaks, below). */
static int covers(const kv_keep_rule *r, const kv_profile *p, int layer)
{
    if (r->layers == KV_LAYERS_AFTER && r->kind != KV_KEEP_KVSINK) {
        int s = kv_profile_largest(p);
        return s >= 0 && layer > p->stage[s].layer;
    }
    return r->layers != KV_LAYERS_RANGE ||
           (layer >= r->first_layer && layer <= r->last_layer);
}

//@ in-force: Decide which stages speak for a layer
/* A stage's set holds from the layer behind it. Where layers before the first
 * stage are protected too (/all or a range), they get the first stage's set.
 * Two stages at one layer (two channels) speak together. With union all speak
 * for every layer: a cache is filled when the prompt has run, so that early
 * layers can know what late ones show (ours). */
static int stage_speaks(const kv_keep_rule *r, const kv_profile *p, int chosen,
                        int stage, int layer)
{
    int first_layer = p->stage[0].layer;
    int early = layer <= first_layer;
    int at = p->stage[stage].layer;
    if (!covers(r, p, layer))
        return 0;
    if (r->stage == KV_STAGE_LARGEST || r->stage == KV_STAGE_AT) {
        int one = r->stage == KV_STAGE_AT ? at == r->stage_layer
                                          : stage == chosen;
        return one && (r->layers != KV_LAYERS_AFTER || layer > at);
    }
    if (r->stage == KV_STAGE_UNION)
        return r->layers != KV_LAYERS_AFTER || !early;
    if (early)
        return r->layers != KV_LAYERS_AFTER && at == first_layer;
    if (layer <= at)
        return 0;
    if (r->stage == KV_STAGE_JOIN)
        return 1;
    int latest = first_layer; /* each: the last stage's layer before this */
    for (int i = 0; i < p->n_stages; i++)
        if (p->stage[i].layer < layer)
            latest = p->stage[i].layer;
    return at == latest;
}

//@ find-stage: Refuse a stage that the profile does not have
static int check_stage(const kv_keep_rule *r, const kv_profile *p,
                       kv_error *err)
{
    for (int i = 0; i < p->n_stages; i++)
        if (r->stage != KV_STAGE_AT || p->stage[i].layer == r->stage_layer)
            return KV_OK;
    return kv_fail(err, KV_FAIL_USAGE, "keep rule: the profile has no stage at "
                   "layer %d; see its 'stage' lines", r->stage_layer);
}

//@ kvsink-sets: Give each layer the sinks of the stages in force
static int kvsink_sets(kv_keep *keep, int *capped, const kv_keep_rule *r,
                       const kv_keep_input *in, kv_error *err)
{
    const kv_profile *p = in->profile;
    int chosen = kv_profile_largest(p);
    if (p->n_stages == 0)
        return KV_OK; /* no emergence stage: nothing to keep */
    int bad = check_stage(r, p, err);
    if (bad)
        return bad;
    for (int s = 0; s < p->n_stages; s++) {
        int *found = in->found, ok = 1, used = 0;
        for (int l = 0; l < keep->layers; l++)
            used |= stage_speaks(r, p, chosen, s, l);
        int n = used ? stage_set(found, capped, r, in, s) : 0;
        for (int l = 0; l < keep->layers; l++)
            if (stage_speaks(r, p, chosen, s, l))
                ok &= insert_all(keep, l, found, n);
        if (!ok)
            return kv_fail(err, KV_FAIL_RUN, "more than %d positions to keep",
                           keep->capacity);
    }
    return KV_OK;
}

//@ eligible: List the tokens that may be chosen
/* into found[T..]; returns how many. attention:K-sinks leaves out what any
 * stage's own threshold would keep. */
static int eligible(const kv_keep_rule *r, const kv_keep_input *in)
{
    int *list = in->found + in->T, n = in->T;
    for (int t = 0; t < n; t++)
        list[t] = t;
    for (int s = 0; r->without_sinks && s < in->profile->n_stages; s++) {
        int capped, left = 0, at = 0;
        int sinks = kv_above_threshold(in->found, &capped,
                                       in->h + (size_t)s * (size_t)in->T,
                                       in->T, in->profile->stage[s].threshold,
                                       in->scratch);
        for (int i = 0; i < n; i++) {
            while (at < sinks && in->found[at] < list[i])
                at++;
            if (at == sinks || in->found[at] != list[i])
                list[left++] = list[i];
        }
        n = left;
    }
    return n;
}

//@ ranked: Choose a layer's tokens by their scores
/* among the n eligible ones; into found, returns how many. */
static int ranked(const kv_keep_rule *r, const kv_keep_input *in, int layer,
                  int n)
{
    const double *score = in->score + (size_t)layer * (size_t)in->T;
    const int *list = in->found + in->T;
    float *x = in->scratch, *sorted = x + in->T;
    for (int i = 0; i < n; i++)
        x[i] = (float)score[list[i]];
    int chosen = r->kind == KV_KEEP_SMALLKEYS
                     ? kv_smallest(in->found, x, n, r->k, sorted)
                     : kv_top_magnitudes(in->found, x, n, r->k, sorted);
    for (int i = 0; i < chosen; i++)
        in->found[i] = list[in->found[i]];
    return chosen;
}

//@ layer-set: Give one layer its tokens
/* n: those that may be chosen, or, of a rule with one set for all layers, the
 * number of its tokens in found. */
static int layer_set(kv_keep *keep, int layer, const kv_keep_rule *r,
                     const kv_keep_input *in, int n)
{
    switch (r->kind) {
    case KV_KEEP_NONE:
        return 1;
    case KV_KEEP_FIRST:
    case KV_KEEP_POSITIONS:
    case KV_KEEP_IDS:
        return fixed_set(keep, layer, r, in);
    case KV_KEEP_ROTATEKV:
        return insert_all(keep, layer, list_of(in->own, layer),
                          in->own->count[layer]);
    case KV_KEEP_CRITERION:
    case KV_KEEP_RANDOM:
        return insert_all(keep, layer, in->found, n);
    default:
        n = ranked(r, in, layer, n);
        return insert_all(keep, layer, in->found, n);
    }
}

//@ other-sets: Apply a rule that asks no stage
static int other_sets(kv_keep *keep, const kv_keep_rule *r,
                      const kv_keep_input *in, kv_error *err)
{
    int n = 0;
    if (r->kind == KV_KEEP_RANDOM)
        n = kv_random_positions(in->found, r->seed, in->T, r->k);
    else if (r->kind == KV_KEEP_CRITERION)
        n = kv_criterion_tokens(in->found, in->score, keep->layers, in->T,
                                r->multiplier);
    else if (in->score)
        n = eligible(r, in);
    for (int l = 0; l < keep->layers; l++)
        if (covers(r, in->profile, l) && !layer_set(keep, l, r, in, n))
            return kv_fail(err, KV_FAIL_RUN, "more than %d positions to keep",
                           keep->capacity);
    return KV_OK;
}

//@ check: Refuse a rule that does not fit the text or the model
static int check_rule(const kv_keep *keep, const kv_keep_rule *r,
                      const kv_keep_input *in, kv_error *err)
{
    if (r->layers == KV_LAYERS_RANGE && r->last_layer >= keep->layers)
        return kv_fail(err, KV_FAIL_USAGE, "keep rule: layer %d does not "
                       "exist; the model has layers 0 to %d", r->last_layer,
                       keep->layers - 1);
    if (r->kind == KV_KEEP_POSITIONS && r->n_list > 0 &&
        r->list[r->n_list - 1] >= in->T)
        return kv_fail(err, KV_FAIL_USAGE, "keep rule: position %d is outside "
                       "the text of %d tokens", r->list[r->n_list - 1],
                       in->T);
    if (kv_keep_needs_profile(r) && !in->profile)
        return kv_fail(err, KV_FAIL_USAGE, "keep rule: %s needs what 'kvsink "
                       "calibrate' learned about the model; run it and name "
                       "its output with --profile",
                       r->kind == KV_KEEP_KVSINK ? "kvsink"
                       : r->learned              ? "ids:learned"
                       : r->without_sinks        ? "attention:K-sinks"
                                                 : "/after");
    return KV_OK;
}

//@ check-input: Refuse a rule without the scores that it reads
static int check_input(const kv_keep *keep, const kv_keep_rule *r,
                       const kv_keep_input *in, kv_error *err)
{
    if (r->kind == KV_KEEP_GREEDY)
        return kv_fail(err, KV_FAIL_USAGE, "keep rule: greedy tries tokens one "
                       "by one, which eval and sweep do on whole windows; "
                       "choose another rule here");
    if (r->kind < KV_KEEP_ROTATEKV || r->kind == KV_KEEP_RANDOM)
        return KV_OK;
    if (r->kind == KV_KEEP_ROTATEKV ? !in->own : !in->score)
        return kv_fail(err, KV_FAIL_USAGE, "keep rule: it chooses by what a "
                       "pass without quantization shows, and none was made");
    size_t T = (size_t)in->T, n = (size_t)keep->layers * T;
    for (size_t i = 0; r->kind != KV_KEEP_ROTATEKV && i < n; i++)
        if (!isfinite(in->score[i]))
            return kv_fail(err, KV_FAIL_RUN, "keep rule: the score of token "
                           "%zu in layer %zu is not finite", i % T, i / T);
    return KV_OK;
}

//@ build: Apply a rule to a prompt
int kv_keep_build(kv_keep *keep, int *capped, const kv_keep_rule *r,
                  const kv_keep_input *in, kv_error *err)
{
    int bound = 0, bad = check_rule(keep, r, in, err);
    memset(keep->count, 0, (size_t)keep->layers * sizeof *keep->count);
    if (!bad)
        bad = check_input(keep, r, in, err);
    if (!bad)
        bad = r->kind == KV_KEEP_KVSINK ? kvsink_sets(keep, &bound, r, in, err)
                                        : other_sets(keep, r, in, err);
    if (capped)
        *capped = bound;
    return bad;
}
