//@ top: Read a keep rule
/* A rule is a short text such as first:5 or kvsink:5@4/all. Applied to a
 * prompt it gives every layer an ascending list of positions (keep.c).
 *
 *     RULE[/LAYERS][+decode]
 *     none | first:N | positions:3,17 | ids:1,2 | ids:learned
 *     kvsink:K[@S] | kvsink:auto[@S] | kvsink:best
 *     rotatekv | toph:K | attention:K[-sinks] | criterion[:M]
 *     random:K:SEED | bigkeys:K | smallkeys:K | greedy:K
 *
 * S is a stage's layer, `each` (every stage's set replaces the one before),
 * `join` (is added to it) or `union` (the sets of all stages together, in all
 * layers alike); without it the stage with the largest ratio. LAYERS is after
 * (those behind the stage, for union the first one; the default of kvsink;
 * with other rules those behind the stage with the largest ratio), all (the
 * default of the others), or a range such as 12-29. M is a decimal number from
 * 0 to 100, 1 if it is left out. +decode applies the rule to tokens that are
 * generated, too; without it only tokens of the prompt are kept. Rules that
 * compare the tokens of a text with each other cannot judge one that comes
 * alone, and refuse it; criterion, which goes on counting, always looks at
 * them. */
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

//@ decimal: Read a number with a point, and a seed
static int digits(const char *text)
{
    return (int)strspn(text, "0123456789");
}

static int decimal(double *value, double most, const char **text)
{
    int n = digits(*text), point = n > 0 && (*text)[n] == '.';
    int behind = point ? digits(*text + n + 1) : 0;
    if (n == 0 || (point && behind == 0))
        return 0;
    *value = strtod(*text, NULL); /* an e behind it is an error later on */
    *text += n + point + behind;
    return *value <= most;
}

static int seed_number(uint64_t *value, const char **text)
{
    int n = digits(*text);
    *value = 0;
    for (int i = 0; i < n; i++) {
        uint64_t digit = (uint64_t)((*text)[i] - '0');
        if (*value > (UINT64_MAX - digit) / 10)
            return 0;
        *value = 10 * *value + digit;
    }
    *text += n;
    return n > 0;
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
    else if (word("union", text))
        r->stage = KV_STAGE_UNION;
    else {
        r->stage = KV_STAGE_AT;
        return number(&r->stage_layer, text);
    }
    return 1;
}

//@ counted: Read the rules that take a number of tokens
static int parse_counted(kv_keep_rule *r, const char **text)
{
    static const struct {
        const char *name;
        kv_keep_kind kind;
    } rule[] = {
        {"first:", KV_KEEP_FIRST}, {"toph:", KV_KEEP_TOPH},
        {"attention:", KV_KEEP_ATTENTION}, {"random:", KV_KEEP_RANDOM},
        {"bigkeys:", KV_KEEP_BIGKEYS}, {"smallkeys:", KV_KEEP_SMALLKEYS},
        {"greedy:", KV_KEEP_GREEDY},
    };
    int n = (int)(sizeof rule / sizeof *rule), i = 0;
    while (i < n && !word(rule[i].name, text))
        i++;
    if (i == n || !number(&r->k, text))
        return 0;
    r->kind = rule[i].kind;
    if (r->kind == KV_KEEP_RANDOM)
        return word(":", text) && seed_number(&r->seed, text);
    if (r->kind == KV_KEEP_ATTENTION)
        r->without_sinks = word("-sinks", text);
    return 1;
}

//@ sink-rule: Read a rule of KVSink
static int parse_kvsink(kv_keep_rule *r, const char **text)
{
    r->kind = KV_KEEP_KVSINK;
    r->layers = KV_LAYERS_AFTER;
    if (word("auto", text))
        r->k = -1;
    else if (!number(&r->k, text))
        return 0;
    return parse_stage(r, text);
}

//@ rule: Read the part before the slash
static int parse_rule(kv_keep_rule *r, const char **text)
{
    r->layers = KV_LAYERS_ALL;
    r->kind = KV_KEEP_NONE;
    if (word("none", text))
        return 1;
    r->kind = KV_KEEP_ROTATEKV;
    if (word("rotatekv", text))
        return 1;
    r->kind = KV_KEEP_CRITERION;
    r->multiplier = 1;
    if (word("criterion", text))
        return !word(":", text) || decimal(&r->multiplier, 100, text);
    r->kind = KV_KEEP_POSITIONS;
    if (word("positions:", text))
        return number_list(r, text);
    r->kind = KV_KEEP_IDS;
    if (word("ids:", text)) {
        r->learned = word("learned", text);
        return r->learned || number_list(r, text);
    }
    return word("kvsink:", text) ? parse_kvsink(r, text)
                                 : parse_counted(r, text);
}

//@ layers: Read the part behind the slash
static int parse_layers(kv_keep_rule *r, const char **text)
{
    if (!word("/", text))
        return 1;
    if (word("after", text)) {
        r->layers = KV_LAYERS_AFTER;
        return 1;
    }
    if (word("all", text)) {
        r->layers = KV_LAYERS_ALL;
        return 1;
    }
    r->layers = KV_LAYERS_RANGE;
    return number(&r->first_layer, text) && word("-", text) &&
           number(&r->last_layer, text) && r->first_layer <= r->last_layer;
}

//@ alone: Refuse +decode where a token cannot be judged alone
static int judges_alone(const kv_keep_rule *r)
{
    return r->kind <= KV_KEEP_KVSINK || r->kind == KV_KEEP_CRITERION;
}

//@ parse: Read a whole rule
int kv_keep_parse(kv_keep_rule *r, const char *text, kv_error *err)
{
    const char *at = text, *best = KV_KEEP_BEST;
    memset(r, 0, sizeof *r);
    int is_best = word("kvsink:best", &at);
    int ok = is_best ? parse_rule(r, &best) && parse_layers(r, &best)
                     : parse_rule(r, &at);
    ok = ok && parse_layers(r, &at);
    r->best = is_best;
    if (ok)
        r->decode = word("+decode", &at) || r->kind == KV_KEEP_CRITERION;
    if (ok && *at == 0 && r->decode && !judges_alone(r))
        return kv_fail(err, KV_FAIL_USAGE, "keep rule '%s': this rule compares "
                       "the tokens of a text and cannot judge a generated one "
                       "alone; leave out +decode", text);
    if (ok && *at == 0)
        return KV_OK;
    return kv_fail(err, KV_FAIL_USAGE, "keep rule '%s': cannot read '%s'; "
                   "expected none, first:N, positions:3,17, ids:1,2, "
                   "ids:learned, kvsink:K[@S], kvsink:auto[@S] (S a stage's "
                   "layer, each, join or union), kvsink:best, rotatekv, "
                   "toph:K, attention:K[-sinks], criterion[:M], "
                   "random:K:SEED, bigkeys:K, smallkeys:K or greedy:K, then "
                   "optionally "
                   "/after, /all or a range /12-29, then +decode; lists have "
                   "at most %d numbers", text, at, KV_LIST_MAX);
}

//@ needs-profile: Tell which rules cannot do without a profile
int kv_keep_needs_profile(const kv_keep_rule *r)
{
    return r->kind == KV_KEEP_KVSINK || r->learned || r->without_sinks ||
           r->layers == KV_LAYERS_AFTER;
}
