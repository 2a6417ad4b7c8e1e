//@ top: Keep the keys and values of one sequence in few bytes
/* A cache holds, per layer, a store of keys and a store of values, and the
 * positions that are kept. A token passes through a store like this:
 *
 *     arrives -- rounded to binary16 --> waiting -- not recent --> codes
 *                          \-- kept --> side table, for good
 *
 * Everything is rounded to binary16 on arrival, so that a token's codes do
 * not depend on how long it waited. Groups are cut by position from the first
 * token on; a kept token leaves a hole (code 0) in its group and shifts
 * nobody. Keys and values choose their formats separately.
 *
 * A per-channel group needs all its tokens before it can be quantized, so
 * even with R = 0 up to G-1 tokens wait. Sealing quantizes the rest, short:
 * that is what the published simulations do with a whole window at once. */
#include <math.h>
#include <string.h>

#include "kv.h"

//@ sizes: Say how large each part can become
static int row_size(const kv_store *st)
{
    return st->shape.kv_heads * st->shape.head_size;
}

/* float32 rows take two binary16 places each. */
static int row_halves(const kv_store *st)
{
    return row_size(st) * (st->format.kind == KV_F32 ? 2 : 1);
}

/* Tokens that are quantized together. */
static int run_tokens(const kv_store *st)
{
    if (st->format.axis == KV_PER_TOKEN)
        return 1;
    return st->format.group ? st->format.group : st->capacity;
}

/* Rows that can wait at once: the recent ones and a run that is filling up. */
static int waiting_capacity(const kv_store *st)
{
    int run = run_tokens(st);
    if (st->format.kind != KV_INT || st->recent >= st->capacity - run)
        return st->capacity;
    return st->recent + run;
}

//@ words: Count the words before a group
/* Words of one group of a run of n tokens. */
static int group_words(const kv_store *st, int n)
{
    kv_grouping g = kv_group_layout(&st->format, st->shape, st->capacity);
    int per_token = st->format.axis == KV_PER_TOKEN;
    return kv_packed_words(per_token ? g.length : n, st->format.bits);
}

/* Words of all groups of the runs before this one. */
static size_t words_before(const kv_store *st, int run)
{
    kv_grouping g = kv_group_layout(&st->format, st->shape, st->capacity);
    return (size_t)run * (size_t)g.across *
           (size_t)group_words(st, run_tokens(st));
}

//@ carve: Lay out all arrays in the caller's memory
typedef struct {
    char *base; /* NULL: only measure */
    size_t used;
} carver;

static void *carve(carver *c, size_t bytes)
{
    size_t at = c->used;
    c->used += (bytes + 15) / 16 * 16;
    return c->base ? c->base + at : NULL;
}

static void carve_store(kv_store *st, carver *m, const kv_cache_spec *spec,
                        const kv_format *f)
{
    *st = (kv_store){.format = *f, .shape = spec->shape,
                     .recent = spec->recent, .capacity = spec->capacity};
    size_t groups = kv_group_count(f, spec->shape, spec->capacity);
    int run = run_tokens(st), runs = 0;
    if (f->kind == KV_INT)
        runs = spec->capacity / run + (spec->capacity % run > 0);
    st->words = carve(m, words_before(st, runs) * sizeof *st->words);
    st->scale = carve(m, groups * sizeof *st->scale);
    st->min = carve(m, f->symmetric ? 0 : groups * sizeof *st->min);
    st->kept = carve(m, (size_t)spec->kept_capacity * row_halves(st) *
                            sizeof *st->kept);
    st->waiting = carve(m, (size_t)waiting_capacity(st) * row_halves(st) *
                               sizeof *st->waiting);
}

//@ carve-cache: Lay out all layers
/* Without a base it only measures: every layer then goes into `spare`. */
static size_t carve_cache(kv_cache *c, const kv_cache_spec *spec, char *base)
{
    carver m = {base, 0};
    kv_cache_layer spare, *layer = carve(&m, (size_t)spec->layers *
                                                 sizeof *layer);
    for (int l = 0; l < spec->layers; l++) {
        kv_cache_layer *cl = base ? &layer[l] : &spare;
        carve_store(&cl->k, &m, spec, &spec->keys);
        carve_store(&cl->v, &m, spec, &spec->values);
        cl->position = carve(&m, (size_t)spec->kept_capacity *
                                     sizeof *cl->position);
        cl->n_kept = 0;
    }
    size_t row = (size_t)spec->shape.kv_heads * (size_t)spec->shape.head_size;
    size_t longest = row > (size_t)spec->capacity ? row
                                                  : (size_t)spec->capacity;
    c->layer = layer;
    c->scratch = carve(&m, longest * sizeof *c->scratch);
    c->codes = carve(&m, longest);
    c->flags = carve(&m, longest);
    return m.used;
}

//@ check-spec: Refuse a cache that makes no sense
static int check_spec(const kv_cache_spec *spec, kv_error *err)
{
    if (spec->capacity < 1 || spec->layers < 1 || spec->recent < 0 ||
        spec->kept_capacity < 0 || spec->shape.head_size > KV_HEAD_MAX ||
        spec->rope.dims > spec->shape.head_size)
        return kv_fail(err, KV_FAIL_USAGE, "a cache needs at least one layer "
                       "and room for one token, a head size of at most %d, "
                       "and no more rotated channels than that", KV_HEAD_MAX);
    const kv_format *f[2] = {&spec->keys, &spec->values};
    for (int i = 0; i < 2; i++) {
        int bad = kv_format_check(f[i], spec->shape, i, err);
        if (bad)
            return bad;
        if (kv_format_coded(f[i]) &&
            (f[i]->kind != KV_INT || f[i]->hadamard || f[i]->norm ||
             f[i]->is_static || f[i]->sparse || f[i]->kivi ||
             f[i]->exclusion))
            return kv_fail(err, KV_FAIL_USAGE, "a packed cache holds plain "
                           "integers, f16, bf16 and f32; this format can be "
                           "tried with 'kvsink quantize'");
        if (f[i]->kind == KV_INT && f[i]->axis == KV_PER_CHANNEL &&
            f[i]->group == 0 && !spec->window)
            return kv_fail(err, KV_FAIL_USAGE, "channel:all makes one group "
                           "of the whole text, which never ends while tokens "
                           "arrive; give a group size, for example "
                           "channel:128");
    }
    return KV_OK;
}

//@ init: Measure and set up a cache
size_t kv_cache_size(const kv_cache_spec *spec)
{
    kv_cache unused;
    return check_spec(spec, NULL) ? 0 : carve_cache(&unused, spec, NULL);
}

int kv_cache_init(kv_cache *c, const kv_cache_spec *spec, void *memory,
                  kv_error *err)
{
    int bad = check_spec(spec, err);
    if (bad)
        return bad;
    if (!memory)
        return kv_fail(err, KV_FAIL_RUN, "no memory for a cache of %zu bytes",
                       kv_cache_size(spec));
    c->spec = *spec;
    carve_cache(c, spec, memory);
    return KV_OK;
}

//@ find-kept: Look a position up among the kept ones
int kv_positions_before(const int *position, int n, int t)
{
    int low = 0, high = n;
    while (low < high) {
        int middle = low + (high - low) / 2;
        if (position[middle] < t)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static int kept_before(const kv_cache_layer *cl, int t)
{
    return kv_positions_before(cl->position, cl->n_kept, t);
}

/* Index of t in the side table, or -1. */
static int kept_index(const kv_cache_layer *cl, int t)
{
    int i = kept_before(cl, t);
    return i < cl->n_kept && cl->position[i] == t ? i : -1;
}

//@ find-row: Find a row that is held in 16 bits
/* Waiting rows lie in order of position without the kept ones. */
static uint16_t *row_of(const kv_cache_layer *cl, const kv_store *st, int t)
{
    int i = kept_index(cl, t);
    if (i >= 0)
        return st->kept + (size_t)i * row_halves(st);
    int between = kept_before(cl, t) - kept_before(cl, st->quantized);
    return st->waiting +
           (size_t)(t - st->quantized - between) * row_halves(st);
}

//@ write-row: Round a row on arrival
static void write_row(uint16_t *to, const float *x, const kv_store *st)
{
    int n = row_size(st);
    if (st->format.kind == KV_F32)
        memcpy(to, x, (size_t)n * sizeof *x);
    else
        for (int i = 0; i < n; i++)
            to[i] = st->format.kind == KV_BF16 ? kv_bf16_from_float(x[i])
                                               : kv_half_from_float(x[i]);
}

//@ read-element: Widen one element of a row
static float read_element(const uint16_t *row, int i, kv_kind kind)
{
    float x;
    if (kind == KV_F32)
        memcpy(&x, row + 2 * (size_t)i, sizeof x);
    else
        x = kind == KV_BF16 ? kv_bf16_to_float(row[i])
                            : kv_half_to_float(row[i]);
    return x;
}

//@ gather: Collect one group and its kept flags
/* Group `across` of the n tokens that start at st->quantized. Per token the
 * elements are neighbours in one row, per channel one element of each row. */
static int gather(const kv_cache *c, const kv_cache_layer *cl,
                  const kv_store *st, int across, int n)
{
    kv_grouping g = kv_group_layout(&st->format, st->shape, st->capacity);
    int per_token = st->format.axis == KV_PER_TOKEN;
    int count = per_token ? g.length : n;
    for (int j = 0; j < count; j++) {
        int t = st->quantized + (per_token ? 0 : j);
        int element = per_token ? across * g.length + j : across;
        c->scratch[j] = kv_half_to_float(row_of(cl, st, t)[element]);
        c->flags[j] = kept_index(cl, t) >= 0;
    }
    return count;
}

//@ quantize-run: Turn the oldest waiting tokens into codes
/* They were checked on arrival, so quantizing cannot fail. */
static void quantize_run(kv_cache *c, kv_cache_layer *cl, kv_store *st, int n)
{
    const kv_format *f = &st->format;
    kv_grouping g = kv_group_layout(f, st->shape, st->capacity);
    int run = st->quantized / run_tokens(st), kept = 0;
    size_t first = (size_t)run * (size_t)g.across;
    for (int i = 0; i < g.across; i++) {
        int count = gather(c, cl, st, i, n);
        uint16_t *min = f->symmetric ? NULL : st->min + first + i;
        kv_quantize_group(c->codes, st->scale + first + i, min, c->scratch,
                          c->flags, count, 1, f, NULL);
        kv_pack(st->words + words_before(st, run) +
                    (size_t)i * group_words(st, n),
                c->codes, count, 1, f->bits);
    }
    for (int t = st->quantized; t < st->quantized + n; t++)
        kept += kept_index(cl, t) >= 0;
    int gone = n - kept;
    st->n_waiting -= gone;
    memmove(st->waiting, st->waiting + (size_t)gone * row_halves(st),
            (size_t)st->n_waiting * row_halves(st) * sizeof *st->waiting);
    st->quantized += n;
}

//@ age: Quantize what has stopped being recent
static void age(kv_cache *c, kv_cache_layer *cl, kv_store *st)
{
    int run = run_tokens(st), old = st->tokens - st->recent;
    if (st->format.kind != KV_INT ||
        (st->format.axis == KV_PER_CHANNEL && st->format.group == 0))
        return;
    while (st->quantized + run <= old)
        quantize_run(c, cl, st, run);
}

//@ refuse: Check rows before anything is changed
static int check_rows(const kv_store *st, const float *x, int n,
                      const char *what, kv_error *err)
{
    size_t size = (size_t)n * (size_t)row_size(st);
    int bad = kv_check_finite(x, size, what, err);
    int wide = st->format.kind == KV_F32 || st->format.kind == KV_BF16;
    for (size_t i = 0; i < size && !bad && !wide; i++)
        if (!(fabsf(x[i]) < 65520))
            bad = kv_fail(err, KV_FAIL_RUN, "%s: element %zu is %g; binary16 "
                          "holds at most 65504", what, i, x[i]);
    return bad;
}

//@ room: See whether the cache can take the rows
static int check_append(const kv_cache *c, const kv_cache_layer *cl, int n,
                        int kept, kv_error *err)
{
    const kv_store *st[2] = {&cl->k, &cl->v};
    if (n > c->spec.capacity - cl->k.tokens)
        return kv_fail(err, KV_FAIL_RUN, "the cache has room for %d tokens; "
                       "%d are there and %d more do not fit",
                       c->spec.capacity, cl->k.tokens, n);
    if (kept > c->spec.kept_capacity - cl->n_kept)
        return kv_fail(err, KV_FAIL_RUN, "the cache has room for %d kept "
                       "tokens per layer; %d do not fit",
                       c->spec.kept_capacity, cl->n_kept + kept);
    for (int i = 0; i < 2; i++)
        if (st[i]->format.kind == KV_INT &&
            st[i]->quantized % run_tokens(st[i]))
            return kv_fail(err, KV_FAIL_RUN, "the cache is sealed: its last "
                           "group is short and nothing can follow it");
    return KV_OK;
}

//@ push: Put a new row where it belongs
static void push(kv_cache_layer *cl, kv_store *st, const float *x, int is_kept)
{
    uint16_t *to = is_kept
                       ? st->kept + (size_t)(cl->n_kept - 1) * row_halves(st)
                       : st->waiting + (size_t)st->n_waiting * row_halves(st);
    write_row(to, x, st);
    st->n_waiting += !is_kept;
    st->tokens++;
}

//@ append: Take in new rows, one after the other
int kv_cache_append(kv_cache *c, int layer, const float *k, const float *v,
                    const int *kept, int n_kept, int n, kv_error *err)
{
    kv_cache_layer *cl = &c->layer[layer];
    int first = cl->k.tokens, row = row_size(&cl->k);
    int next = kv_positions_before(kept, n_kept, first);
    int end = kv_positions_before(kept, n_kept, first + n);
    int bad = check_append(c, cl, n, end - next, err);
    if (!bad)
        bad = check_rows(&cl->k, k, n, "keys", err);
    if (!bad)
        bad = check_rows(&cl->v, v, n, "values", err);
    for (int i = 0; i < n && !bad; i++) {
        while (next < end && kept[next] < first + i)
            next++;
        int is_kept = next < end && kept[next] == first + i;
        if (is_kept)
            cl->position[cl->n_kept++] = first + i;
        push(cl, &cl->k, k + (size_t)i * row, is_kept);
        push(cl, &cl->v, v + (size_t)i * row, is_kept);
        age(c, cl, &cl->k);
        age(c, cl, &cl->v);
    }
    return bad;
}

//@ promote: Move a waiting row into the side table
static void move_to_kept(kv_cache_layer *cl, kv_store *st, int t, int at)
{
    int size = row_halves(st);
    uint16_t *row = row_of(cl, st, t);
    uint16_t *to = st->kept + (size_t)at * size;
    size_t index = (size_t)(row - st->waiting) / size;
    memmove(to + size, to, (size_t)(cl->n_kept - at) * size * sizeof *to);
    memcpy(to, row, size * sizeof *to);
    st->n_waiting--;
    memmove(row, row + size, ((size_t)st->n_waiting - index) * size *
                                 sizeof *row);
}

//@ promote-both: Keep its key and its value, or neither
int kv_cache_keep(kv_cache *c, int layer, int position, int *done,
                  kv_error *err)
{
    kv_cache_layer *cl = &c->layer[layer];
    *done = 0;
    if (position < 0 || position >= cl->k.tokens)
        return kv_fail(err, KV_FAIL_USAGE, "position %d is outside the %d "
                       "tokens of the cache", position, cl->k.tokens);
    if (kept_index(cl, position) >= 0 || position < cl->k.quantized ||
        position < cl->v.quantized)
        return KV_OK;
    if (cl->n_kept == c->spec.kept_capacity)
        return kv_fail(err, KV_FAIL_RUN, "the cache has room for %d kept "
                       "tokens per layer", c->spec.kept_capacity);
    int at = kept_before(cl, position);
    move_to_kept(cl, &cl->k, position, at);
    move_to_kept(cl, &cl->v, position, at);
    memmove(cl->position + at + 1, cl->position + at,
            (size_t)(cl->n_kept - at) * sizeof *cl->position);
    cl->position[at] = position;
    cl->n_kept++;
    *done = 1;
    return KV_OK;
}

//@ seal: Quantize everything that still waits
int kv_cache_seal(kv_cache *c, int layer, kv_error *err)
{
    kv_cache_layer *cl = &c->layer[layer];
    kv_store *st[2] = {&cl->k, &cl->v};
    int bad = check_append(c, cl, 0, 0, err);
    for (int i = 0; i < 2 && !bad; i++)
        while (st[i]->format.kind == KV_INT &&
               st[i]->quantized < st[i]->tokens) {
            int left = st[i]->tokens - st[i]->quantized;
            int run = run_tokens(st[i]);
            quantize_run(c, cl, st[i], left < run ? left : run);
        }
    return bad;
}

//@ read-head: Read one head of one token as attention would
void kv_cache_read_head(float *x, const kv_cache *c, int layer, int values,
                        int t, int kv_head)
{
    const kv_cache_layer *cl = &c->layer[layer];
    const kv_store *st = values ? &cl->v : &cl->k;
    const kv_format *f = &st->format;
    int D = st->shape.head_size, first = kv_head * D;
    if (f->kind != KV_INT || t >= st->quantized || kept_index(cl, t) >= 0) {
        const uint16_t *row = row_of(cl, st, t);
        for (int d = 0; d < D; d++)
            x[d] = read_element(row, first + d, f->kind);
        return;
    }
    kv_grouping g = kv_group_layout(f, st->shape, st->capacity);
    int per_token = f->axis == KV_PER_TOKEN, size = run_tokens(st);
    int run = t / size, left = st->quantized - run * size;
    int words = group_words(st, left < size ? left : size);
    for (int d = 0; d < D; d++) {
        int across = per_token ? (first + d) / g.length : first + d;
        int j = per_token ? (first + d) % g.length : t % size;
        size_t group = (size_t)run * (size_t)g.across + (size_t)across;
        const uint32_t *w = st->words + words_before(st, run) +
                            (size_t)across * (size_t)words;
        x[d] = kv_dequantize(kv_unpack(w, j, f->bits), st->scale[group],
                             f->symmetric ? 0 : st->min[group], f);
    }
}

//@ read: Read whole rows
void kv_cache_read(float *x, const kv_cache *c, int layer, int values,
                   int first, int n)
{
    kv_shape s = c->spec.shape;
    for (int t = first; t < first + n; t++)
        for (int h = 0; h < s.kv_heads; h++, x += s.head_size)
            kv_cache_read_head(x, c, layer, values, t, h);
}

//@ bytes: Count what is held, exactly
static void count_store(kv_bytes *b, const kv_cache_layer *cl,
                        const kv_store *st)
{
    size_t row = (size_t)row_halves(st) * sizeof(uint16_t);
    if (st->format.kind != KV_INT) {
        b->recent += row * (size_t)st->tokens;
        return;
    }
    int run = run_tokens(st), rest = st->quantized % run; /* short last run */
    size_t groups = kv_group_count(&st->format, st->shape, st->quantized);
    kv_grouping g = kv_group_layout(&st->format, st->shape, st->capacity);
    size_t words = words_before(st, st->quantized / run);
    if (rest)
        words += (size_t)g.across * (size_t)group_words(st, rest);
    b->codes += words * sizeof *st->words;
    b->scales += groups * (st->format.symmetric ? 1 : 2) * sizeof *st->scale;
    b->kept += row * (size_t)cl->n_kept;
    b->recent += row * (size_t)st->n_waiting;
}

//@ bytes-layer: Add up keys, values and positions
kv_bytes kv_cache_bytes(const kv_cache *c, int layer)
{
    const kv_cache_layer *cl = &c->layer[layer];
    kv_bytes b = {0, 0, 0, 0, 0};
    count_store(&b, cl, &cl->k);
    count_store(&b, cl, &cl->v);
    if (cl->k.format.kind == KV_INT || cl->v.format.kind == KV_INT)
        b.kept += (size_t)cl->n_kept * sizeof *cl->position;
    b.total = b.codes + b.scales + b.kept + b.recent;
    return b;
}
