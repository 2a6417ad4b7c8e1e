//@ top: Choose which tokens stay in sixteen bits
/* A rule is a short text such as first:5 or kvsink:5@4/all. Applied to a
 * prompt it gives every layer an ascending list of positions. Rules know
 * nothing of formats, and formats nothing of rules: what a cache does with the
 * list is its own affair.
 *
 *     RULE[/LAYERS][+decode]
 *     none | first:N | positions:3,17 | ids:1,2 | ids:learned
 *     kvsink:K[@S] | kvsink:auto[@S]
 *
 * S is a stage's layer, `each` (every stage's set replaces the one before) or
 * `join` (is added to it); without it the stage with the largest ratio. LAYERS
 * is after (those behind the stage, the default of kvsink), all (the default
 * of the others), or a range such as 12-29. +decode applies the rule to tokens
 * that are generated, too; without it only tokens of the prompt are kept. */
#include <stdlib.h>
#include <string.h>

#include "kv.h"

//@ number: Read a whole number at *text
static int number(int *value, const char **text)
{
    char *end;
    if (**text < '0' || **text > '9')
        return 0;
    long v = strtol(*text, &end, 10);
    if (v > 100000000)
        return 0;
    *value = (int)v;
    *text = end;
    return 1;
}

static int word(const char *w, const char **text)
{
    size_t n = strlen(w);
    if (strncmp(*text, w, n))
        return 0;
    *text += n;
    return 1;
}

//@ list: Read numbers separated by commas, and sort them
static int compare_ints(const void *a, const void *b)
{
    int x = *(const int *)a, y = *(const int *)b;
    return (x > y) - (x < y);
}

static int number_list(kv_keep_rule *r, const char **text)
{
    do {
        if (r->n_list == KV_LIST_MAX || !number(&r->list[r->n_list], text))
            return 0;
        r->n_list++;
    } while (word(",", text));
    qsort(r->list, (size_t)r->n_list, sizeof *r->list, compare_ints);
    int n = 0;
    for (int i = 0; i < r->n_list; i++)
        if (n == 0 || r->list[i] != r->list[n - 1])
            r->list[n++] = r->list[i];
    r->n_list = n;
    return 1;
}

//@ stage: Read which stages are meant
static int parse_stage(kv_keep_rule *r, const char **text)
{
    if (!word("@", text))
        return 1;
    if (word("each", text))
        r->stage = KV_STAGE_EACH;
    else if (word("join", text))
        r->stage = KV_STAGE_JOIN;
    else {
        r->stage = KV_STAGE_AT;
        return number(&r->stage_layer, text);
    }
    return 1;
}

//@ rule: Read the part before the slash
static int parse_rule(kv_keep_rule *r, const char **text)
{
    r->layers = KV_LAYERS_ALL;
    if (word("none", text)) {
        r->kind = KV_KEEP_NONE;
        return 1;
    }
    if (word("first:", text)) {
        r->kind = KV_KEEP_FIRST;
        return number(&r->k, text);
    }
    if (word("positions:", text)) {
        r->kind = KV_KEEP_POSITIONS;
        return number_list(r, text);
    }
    if (word("ids:", text)) {
        r->kind = KV_KEEP_IDS;
        r->learned = word("learned", text);
        return r->learned || number_list(r, text);
    }
    r->kind = KV_KEEP_KVSINK;
    r->layers = KV_LAYERS_AFTER;
    if (!word("kvsink:", text))
        return 0;
    if (word("auto", text))
        r->k = -1;
    else if (!number(&r->k, text))
        return 0;
    return parse_stage(r, text);
}

//@ layers: Read the part behind the slash
static int parse_layers(kv_keep_rule *r, const char **text)
{
    if (!word("/", text))
        return 1;
    if (word("after", text)) {
        r->layers = KV_LAYERS_AFTER;
        return r->kind == KV_KEEP_KVSINK;
    }
    if (word("all", text)) {
        r->layers = KV_LAYERS_ALL;
        return 1;
    }
    r->layers = KV_LAYERS_RANGE;
    return number(&r->first_layer, text) && word("-", text) &&
           number(&r->last_layer, text) && r->first_layer <= r->last_layer;
}

//@ parse: Read a whole rule
int kv_keep_parse(kv_keep_rule *r, const char *text, kv_error *err)
{
    const char *at = text;
    memset(r, 0, sizeof *r);
    int ok = parse_rule(r, &at) && parse_layers(r, &at);
    if (ok)
        r->decode = word("+decode", &at);
    if (ok && *at == 0)
        return KV_OK;
    return kv_fail(err, KV_FAIL_USAGE, "keep rule '%s': cannot read '%s'; "
                   "expected none, first:N, positions:3,17, ids:1,2, "
                   "ids:learned, kvsink:K[@S] or kvsink:auto[@S] (S a stage's "
                   "layer, each or join), then optionally /after (kvsink "
                   "only), /all or a range /12-29, then +decode; lists have "
                   "at most %d numbers", text, at, KV_LIST_MAX);
}

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

//@ covers: Leave out the layers that a range does not name
/* Only /a-b leaves layers out by their number. */
static int covers(const kv_keep_rule *r, int layer)
{
    return r->layers != KV_LAYERS_RANGE ||
           (layer >= r->first_layer && layer <= r->last_layer);
}

//@ in-force: Decide which stages speak for a layer
/* A stage's set holds from the layer behind it. Where layers before the first
 * stage are protected too (/all or a range), they get the first stage's set.
 * Two stages at one layer (two channels) speak together. */
static int stage_speaks(const kv_keep_rule *r, const kv_profile *p, int chosen,
                        int stage, int layer)
{
    int first_layer = p->stage[0].layer;
    int early = layer <= first_layer;
    int at = p->stage[stage].layer;
    if (!covers(r, layer))
        return 0;
    if (r->stage == KV_STAGE_LARGEST || r->stage == KV_STAGE_AT) {
        int one = r->stage == KV_STAGE_AT ? at == r->stage_layer
                                          : stage == chosen;
        return one && (r->layers != KV_LAYERS_AFTER || layer > at);
    }
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
    if ((r->kind == KV_KEEP_KVSINK || r->learned) && !in->profile)
        return kv_fail(err, KV_FAIL_USAGE, "keep rule: %s needs what 'kvsink "
                       "calibrate' learned about the model; run it and name "
                       "its output with --profile",
                       r->learned ? "ids:learned" : "kvsink");
    return KV_OK;
}

//@ build: Apply a rule to a prompt
int kv_keep_build(kv_keep *keep, int *capped, const kv_keep_rule *r,
                  const kv_keep_input *in, kv_error *err)
{
    int bound = 0, bad = check_rule(keep, r, in, err);
    memset(keep->count, 0, (size_t)keep->layers * sizeof *keep->count);
    if (!bad && r->kind == KV_KEEP_KVSINK)
        bad = kvsink_sets(keep, &bound, r, in, err);
    int fixed = r->kind != KV_KEEP_NONE && r->kind != KV_KEEP_KVSINK;
    for (int l = 0; l < keep->layers && !bad && fixed; l++)
        if (covers(r, l) && !fixed_set(keep, l, r, in))
            bad = kv_fail(err, KV_FAIL_RUN, "more than %d positions to keep",
                          keep->capacity);
    if (capped)
        *capped = bound;
    return bad;
}
