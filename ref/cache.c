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
 * that is what the published simulations do with a whole window at once.
 *
 * What is quantized together is handed to kv_quantize as a small array of its
 * own, so that a cache and a whole array can only agree; this file packs what
 * comes back and finds it again. */
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

/* Tokens whose groups are complete together. */
static int run_tokens(const kv_store *st)
{
    if (st->format.axis == KV_PER_TOKEN)
        return 1;
    return st->format.group ? st->format.group : st->capacity;
}

/* Does it take all tokens to quantize the first one? */
static int needs_all(const kv_store *st)
{
    const kv_format *f = &st->format;
    return (f->axis == KV_PER_CHANNEL && f->group == 0) ||
           (f->outliers && !st->is_values);
}

//@ batch: Say how many tokens are quantized, or wait, at once
static int batch_tokens(const kv_store *st)
{
    if (!kv_format_coded(&st->format))
        return 0;
    return needs_all(st) ? st->capacity : run_tokens(st);
}

/* Rows that can wait at once: the recent ones and a run that is filling up. */
static int waiting_capacity(const kv_store *st)
{
    int run = batch_tokens(st);
    if (!kv_format_coded(&st->format) || st->recent >= st->capacity - run)
        return st->capacity;
    return st->recent + run;
}

/* Are kept rows in a table of their own? */
static int has_table(const kv_store *st)
{
    return st->format.exclusion != KV_KEPT_EXCLUDE_ONLY;
}

//@ words: Count the words before a group
/* Words of one group of a run of n tokens. */
static int group_words(const kv_store *st, int n)
{
    kv_grouping g = kv_group_layout(&st->format, st->shape, st->capacity);
    int per_token = st->format.axis == KV_PER_TOKEN;
    return kv_packed_words(per_token ? g.length : n, st->format.bits);
}

/* Words of all groups of the runs before this one. Blocks have none. */
static size_t words_before(const kv_store *st, int run)
{
    kv_grouping g = kv_group_layout(&st->format, st->shape, st->capacity);
    if (kv_format_blocks(&st->format))
        return 0;
    return (size_t)run * (size_t)g.across *
           (size_t)group_words(st, run_tokens(st));
}

//@ block-bytes: Count the bytes of blocks, and the scales elsewhere
/* Bytes of the blocks of n tokens; 0 for other kinds. */
static size_t block_bytes(const kv_store *st, int n)
{
    if (!kv_format_blocks(&st->format))
        return 0;
    return (size_t)n * (size_t)(row_size(st) / KV_BLOCK) *
           (size_t)kv_block_bytes(st->format.kind);
}

/* Scales that are stored: blocks have theirs inside, static ones belong to
 * the model. */
static size_t stored_scales(const kv_store *st, int tokens)
{
    if (kv_format_blocks(&st->format) || st->format.is_static)
        return 0;
    return kv_group_count(&st->format, st->shape, tokens);
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

static kv_store plain_store(const kv_cache_spec *spec, int layer, int values)
{
    size_t row = (size_t)spec->shape.kv_heads * (size_t)spec->shape.head_size;
    kv_limits limits = values ? spec->value_limits : spec->key_limits;
    kv_store st = {.format = values ? spec->values : spec->keys,
                   .shape = spec->shape, .is_values = values,
                   .recent = spec->recent, .capacity = spec->capacity};
    if (st.format.is_static && limits.lo && limits.hi) {
        st.lo = limits.lo + (size_t)layer * row;
        st.hi = limits.hi + (size_t)layer * row;
    }
    return st;
}

//@ carve-store: Lay out one store
static void carve_store(kv_store *st, carver *m, const kv_cache_spec *spec)
{
    const kv_format *f = &st->format;
    size_t groups = stored_scales(st, st->capacity);
    int run = run_tokens(st), runs = 0;
    if (kv_format_coded(f))
        runs = st->capacity / run + (st->capacity % run > 0);
    st->words = carve(m, words_before(st, runs) * sizeof *st->words);
    st->blocks = carve(m, block_bytes(st, st->capacity));
    st->scale = carve(m, groups * sizeof *st->scale);
    st->min = carve(m, kv_format_has_min(f) ? groups * sizeof *st->min : 0);
    st->norm = carve(m, f->norm ? (size_t)st->capacity * sizeof *st->norm : 0);
    st->sparse = carve(m, kv_sparse_count(f, st->shape, st->capacity, 0,
                                          st->is_values) * sizeof *st->sparse);
    st->kept = carve(m, (size_t)spec->kept_capacity * row_halves(st) *
                            sizeof *st->kept);
    st->waiting = carve(m, (size_t)waiting_capacity(st) * row_halves(st) *
                               sizeof *st->waiting);
}

//@ work: Lay out what quantizing a batch needs
static size_t carve_work(kv_cache_work *w, const kv_cache_spec *spec,
                         char *base)
{
    carver m = {base, 0};
    kv_store k = plain_store(spec, 0, 0), v = plain_store(spec, 0, 1);
    int more = batch_tokens(&k) > batch_tokens(&v) ? batch_tokens(&k)
                                                   : batch_tokens(&v);
    size_t n = (size_t)(more ? more : 1), size = n * (size_t)row_size(&k);
    w->rows = carve(&m, size * sizeof *w->rows);
    w->x_hat = carve(&m, size * sizeof *w->x_hat);
    w->codes = carve(&m, size);
    w->flags = carve(&m, n);
    w->scale = carve(&m, size * sizeof *w->scale);
    w->min = carve(&m, size * sizeof *w->min);
    return m.used;
}

size_t kv_cache_work_size(const kv_cache_spec *spec)
{
    kv_cache_work unused;
    return carve_work(&unused, spec, NULL);
}

void kv_cache_work_init(kv_cache_work *w, const kv_cache_spec *spec,
                        void *memory)
{
    carve_work(w, spec, memory);
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
        cl->k = plain_store(spec, l, 0);
        cl->v = plain_store(spec, l, 1);
        carve_store(&cl->k, &m, spec);
        carve_store(&cl->v, &m, spec);
        cl->position = carve(&m, (size_t)spec->kept_capacity *
                                     sizeof *cl->position);
        cl->n_kept = 0;
    }
    char *work = carve(&m, kv_cache_work_size(spec));
    c->layer = layer;
    carve_work(&c->work, spec, work);
    return m.used;
}

//@ check-limits: Refuse constants that cannot be, layer by layer
static int check_limits(const kv_cache_spec *spec, int values, kv_error *err)
{
    int bad = KV_OK;
    for (int l = 0; l < spec->layers && !bad; l++) {
        const kv_store st = plain_store(spec, l, values);
        if (st.format.is_static)
            bad = kv_static_check(st.lo, st.hi, row_size(&st), err);
    }
    return bad;
}

//@ check-side: Refuse a format that this cache cannot hold
static int check_side(const kv_cache_spec *spec, int values, kv_error *err)
{
    const kv_store st = plain_store(spec, 0, values);
    const kv_format *f = &st.format;
    int bad = kv_format_check(f, spec->shape, values, err);
    if (bad || !kv_format_coded(f))
        return bad;
    if (needs_all(&st) && (values || !f->outliers) && !spec->window)
        return kv_fail(err, KV_FAIL_USAGE, "channel:all makes one group of "
                       "the whole text, which never ends while tokens "
                       "arrive; give a group size, for example channel:128");
    if (needs_all(&st) && !spec->window)
        return kv_fail(err, KV_FAIL_USAGE, "outliers of keys are chosen per "
                       "channel from the whole text, which never ends while "
                       "tokens arrive; outP on keys is for whole windows");
    if (f->kivi && f->axis == KV_PER_CHANNEL && f->group &&
        spec->recent % f->group)
        return kv_fail(err, KV_FAIL_USAGE, "kivi flushes its %d recent keys "
                       "together, so their number must be a multiple of the "
                       "group size %d", spec->recent, f->group);
    if (f->is_static && !st.lo)
        return kv_fail(err, KV_FAIL_USAGE, "a static format needs the ranges "
                       "of each channel; 'kvsink calibrate --static' writes "
                       "them into the profile");
    if (f->outliers && !values && spec->capacity > 65536)
        return kv_fail(err, KV_FAIL_USAGE, "outliers of keys have a 16-bit "
                       "index, and a window of %d tokens is longer than "
                       "65536", spec->capacity);
    return check_limits(spec, values, err);
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
    int bad = check_side(spec, 0, err);
    return bad ? bad : check_side(spec, 1, err);
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
/* Waiting rows lie in order of position without those in the table. */
static uint16_t *row_of(const kv_cache_layer *cl, const kv_store *st, int t)
{
    int i = has_table(st) ? kept_index(cl, t) : -1;
    if (i >= 0)
        return st->kept + (size_t)i * row_halves(st);
    int between = has_table(st) ? kept_before(cl, t) -
                                      kept_before(cl, st->quantized)
                                : 0;
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

//@ gather: Collect the oldest rows that wait, and their kept flags
static void gather(const kv_cache *c, const kv_cache_layer *cl,
                   const kv_store *st, int n)
{
    int row = row_size(st);
    for (int j = 0; j < n; j++) {
        int t = st->quantized + j;
        const uint16_t *from = row_of(cl, st, t);
        for (int i = 0; i < row; i++)
            c->work.rows[(size_t)j * row + i] = kv_half_to_float(from[i]);
        c->work.flags[j] = kept_index(cl, t) >= 0;
    }
}

//@ sparse-before: Find the outliers of a token of values
/* Those of the tokens before it, and so where its own begin. */
static kv_entry *sparse_before(const kv_cache_layer *cl, const kv_store *st,
                               int t)
{
    return st->sparse + kv_sparse_count(&st->format, st->shape, t,
                                        kept_before(cl, t), 1);
}

//@ pack-run: Store the codes and scales of one run
/* at: its first token within the batch; n tokens. */
static void pack_run(const kv_cache_work *w, kv_store *st, int at, int n)
{
    const kv_format *f = &st->format;
    kv_grouping g = kv_group_layout(f, st->shape, st->capacity);
    int per_token = f->axis == KV_PER_TOKEN, run = run_tokens(st);
    int words = group_words(st, n), step = per_token ? g.length : 1;
    size_t first = (size_t)((st->quantized + at) / run) * (size_t)g.across;
    size_t from = (size_t)(at / run) * (size_t)g.across;
    uint32_t *to = st->words + words_before(st, (st->quantized + at) / run);
    for (int i = 0; i < g.across; i++) {
        kv_pack(to + (size_t)i * (size_t)words,
                w->codes + (size_t)at * (size_t)row_size(st) +
                    (size_t)i * (size_t)step,
                per_token ? g.length : n, g.stride, f->bits);
        if (f->is_static)
            continue;
        st->scale[first + (size_t)i] = w->scale[from + (size_t)i];
        if (kv_format_has_min(f))
            st->min[first + (size_t)i] = w->min[from + (size_t)i];
    }
}

//@ pack-blocks: Store the blocks of one token
/* A kept token leaves zeros, which in q8_0 is not what code 0 packs to. */
static void pack_blocks(const kv_cache_work *w, kv_store *st, int at)
{
    int across = row_size(st) / KV_BLOCK;
    size_t bytes = (size_t)kv_block_bytes(st->format.kind);
    uint8_t *to = st->blocks + block_bytes(st, st->quantized + at);
    if (w->flags[at] && has_table(st)) {
        memset(to, 0, block_bytes(st, 1));
        return;
    }
    for (int i = 0; i < across; i++) {
        size_t block = (size_t)at * (size_t)across + (size_t)i;
        kv_block_pack(to + (size_t)i * bytes, w->codes + block * KV_BLOCK,
                      w->scale[block], w->min[block], st->format.kind);
    }
}

//@ quantize-batch: Turn the oldest waiting tokens into codes
/* The n tokens begin at the start of a run. They were checked on arrival, so
 * quantizing cannot fail. */
static void quantize_batch(kv_cache *c, kv_cache_layer *cl, kv_store *st,
                           int n)
{
    const kv_cache_work *w = &c->work;
    int run = run_tokens(st), gone = n;
    gather(c, cl, st, n);
    kv_rows in = {w->rows, w->flags, st->shape, n, st->is_values, st->lo,
                  st->hi};
    kv_quantized out = {w->codes, w->scale, w->min, w->x_hat,
                        st->norm + st->quantized,
                        st->is_values ? sparse_before(cl, st, st->quantized)
                                      : st->sparse};
    kv_quantize(&out, &in, &st->format, NULL);
    for (int at = 0; at < n; at += run)
        if (kv_format_blocks(&st->format))
            pack_blocks(w, st, at);
        else
            pack_run(w, st, at, n - at < run ? n - at : run);
    for (int j = 0; j < n; j++)
        gone -= w->flags[j] && has_table(st);
    st->n_waiting -= gone;
    memmove(st->waiting, st->waiting + (size_t)gone * row_halves(st),
            (size_t)st->n_waiting * row_halves(st) * sizeof *st->waiting);
    st->quantized += n;
}

//@ age: Quantize what has stopped being recent
/* KIVI's keys leave in blocks of all R, which is a multiple of a run. */
static void age(kv_cache *c, kv_cache_layer *cl, kv_store *st)
{
    int run = run_tokens(st), old = st->tokens - st->recent, block = run;
    if (!kv_format_coded(&st->format) || needs_all(st))
        return;
    if (st->format.kivi && st->format.axis == KV_PER_CHANNEL && st->recent) {
        block = st->recent;
        old = st->tokens;
    }
    while (st->quantized + block <= old)
        for (int n = 0; n < block; n += run)
            quantize_batch(c, cl, st, run);
}

//@ when: Age before a token arrives, or after
/* KIVI attends to a token and to all that wait in 16 bits, and quantizes only
 * then: here, when the next one comes. */
static void age_both(kv_cache *c, kv_cache_layer *cl, int kivi)
{
    if (cl->k.format.kivi == kivi)
        age(c, cl, &cl->k);
    if (cl->v.format.kivi == kivi)
        age(c, cl, &cl->v);
}

void kv_cache_settle(kv_cache *c, int layer)
{
    age_both(c, &c->layer[layer], 1);
}

//@ refuse: Check rows before anything is changed
/* KIVI's range, the difference of two numbers, must fit as well, and what its
 * steps add up to again. */
static int check_rows(const kv_store *st, const float *x, int n,
                      const char *what, kv_error *err)
{
    size_t size = (size_t)n * (size_t)row_size(st);
    int bad = kv_check_finite(x, size, what, err);
    int wide = st->format.kind == KV_F32 || st->format.kind == KV_BF16;
    float limit = st->format.kivi ? 32000 : 65504;
    float next = st->format.kivi ? 32008 : 65520; /* rounds to more */
    for (size_t i = 0; i < size && !bad && !wide; i++)
        if (!(fabsf(x[i]) < next))
            bad = kv_fail(err, KV_FAIL_RUN, "%s: element %zu is %g; %s "
                          "takes at most %g", what, i, x[i],
                          st->format.kivi ? "kivi" : "binary16", limit);
    return bad;
}

//@ refuse-turned: Check rows as the groups will see them
static int check_turned(const kv_cache *c, const kv_store *st, const float *x,
                        int n, const char *what, kv_error *err)
{
    float *y = c->work.rows, norm;
    int row = row_size(st), bad = check_rows(st, x, n, what, err);
    for (int t = 0; t < n && !bad && st->format.hadamard; t++) {
        for (int i = 0; i < row; i++)
            y[i] = kv_half_to_float(kv_half_from_float(x[(size_t)t * row + i]));
        kv_row_prepare(y, &norm, &st->format, st->shape);
        for (int i = 0; i < row && !bad; i++)
            if (!(fabsf(y[i]) < 65520))
                bad = kv_fail(err, KV_FAIL_RUN, "%s: element %d of row %d is "
                              "%g after the rotation; binary16 holds at most "
                              "65504", what, i, t, y[i]);
    }
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
        if (kv_format_coded(&st[i]->format) &&
            (st[i]->quantized % run_tokens(st[i]) ||
             (needs_all(st[i]) && st[i]->quantized)))
            return kv_fail(err, KV_FAIL_RUN, "the cache is sealed: its last "
                           "group is short and nothing can follow it");
    return KV_OK;
}

//@ push: Put a new row where it belongs
static void push(kv_cache_layer *cl, kv_store *st, const float *x, int is_kept)
{
    is_kept = is_kept && has_table(st);
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
        bad = check_turned(c, &cl->k, k, n, "keys", err);
    if (!bad)
        bad = check_turned(c, &cl->v, v, n, "values", err);
    for (int i = 0; i < n && !bad; i++) {
        while (next < end && kept[next] < first + i)
            next++;
        int is_kept = next < end && kept[next] == first + i;
        age_both(c, cl, 1);
        if (is_kept)
            cl->position[cl->n_kept++] = first + i;
        push(cl, &cl->k, k + (size_t)i * row, is_kept);
        push(cl, &cl->v, v + (size_t)i * row, is_kept);
        age_both(c, cl, 0);
    }
    return bad;
}

//@ promote: Move a waiting row into the side table
static void move_to_kept(kv_cache_layer *cl, kv_store *st, int t, int at)
{
    if (!has_table(st))
        return;
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
        while (kv_format_coded(&st[i]->format) &&
               st[i]->quantized < st[i]->tokens) {
            int left = st[i]->tokens - st[i]->quantized;
            int most = batch_tokens(st[i]);
            quantize_batch(c, cl, st[i], left < most ? left : most);
        }
    return bad;
}

//@ scale-of: Find the scale and minimum of a group
static void scale_of(uint16_t *scale, uint16_t *min, const kv_store *st,
                     kv_grouping g, int run, int across)
{
    const kv_format *f = &st->format;
    size_t group = (size_t)run * (size_t)g.across + (size_t)across;
    *min = 0;
    if (f->is_static) {
        float range[2];
        kv_static_range(range, st->lo, st->hi, f, g, across);
        kv_group_scale(scale, min, range[0], range[1], f);
        return;
    }
    *scale = st->scale[group];
    if (kv_format_has_min(f))
        *min = st->min[group];
}

//@ read-groups: Read one head of one token from packed words
static void read_groups(float *x, const kv_store *st, int t, int first)
{
    const kv_format *f = &st->format;
    kv_grouping g = kv_group_layout(f, st->shape, st->capacity);
    int per_token = f->axis == KV_PER_TOKEN, size = run_tokens(st);
    int run = t / size, left = st->quantized - run * size, last = -1;
    int words = group_words(st, left < size ? left : size);
    uint16_t scale = 0, min = 0;
    for (int d = 0; d < st->shape.head_size; d++) {
        int across = per_token ? (first + d) / g.length : first + d;
        int j = per_token ? (first + d) % g.length : t % size;
        const uint32_t *w = st->words + words_before(st, run) +
                            (size_t)across * (size_t)words;
        if (across != last)
            scale_of(&scale, &min, st, g, run, across);
        last = across;
        x[d] = kv_dequantize(kv_unpack(w, j, f->bits), scale, min, f);
    }
}

//@ read-blocks: Read one head of one token from blocks
static void read_blocks(float *x, const kv_store *st, int t, int first)
{
    const kv_format *f = &st->format;
    const uint8_t *row = st->blocks + block_bytes(st, t);
    for (int d = 0; d < st->shape.head_size; d++) {
        int i = first + d;
        const uint8_t *block = row + (size_t)(i / KV_BLOCK) *
                                         (size_t)kv_block_bytes(f->kind);
        uint16_t scale, min;
        kv_block_scale(&scale, &min, block, f->kind);
        x[d] = kv_dequantize(kv_block_code(block, i % KV_BLOCK, f->kind),
                             scale, min, f);
    }
}

//@ has-outliers: See whether a token of values may have any
static int has_outliers(const kv_cache_layer *cl, const kv_store *st, int t)
{
    return st->format.axis == KV_PER_TOKEN || kept_index(cl, t) < 0;
}

//@ read-outliers: Put outliers over what the codes gave
static void read_outliers(float *x, const kv_cache_layer *cl,
                          const kv_store *st, int t, int first)
{
    const kv_format *f = &st->format;
    int row = row_size(st), D = st->shape.head_size;
    if (st->is_values) {
        kv_outliers_put(x, sparse_before(cl, st, t),
                        2 * kv_outliers_each(f, row), 1, first, D);
        return;
    }
    int kept = kept_before(cl, st->quantized);
    size_t k = kv_sparse_count(f, st->shape, st->quantized, kept, 0) / row;
    for (int d = 0; d < D; d++)
        kv_outliers_put(x + d, st->sparse + (size_t)(first + d) * k, (int)k, 1,
                        t, 1);
}

//@ read-head: Read one head of one token as attention would
void kv_cache_read_head(float *x, const kv_cache *c, int layer, int values,
                        int t, int kv_head)
{
    const kv_cache_layer *cl = &c->layer[layer];
    const kv_store *st = values ? &cl->v : &cl->k;
    const kv_format *f = &st->format;
    int D = st->shape.head_size, first = kv_head * D;
    if (!kv_format_coded(f) || t >= st->quantized ||
        (has_table(st) && kept_index(cl, t) >= 0)) {
        const uint16_t *row = row_of(cl, st, t);
        for (int d = 0; d < D; d++)
            x[d] = read_element(row, first + d, f->kind);
        return;
    }
    if (kv_format_blocks(f))
        read_blocks(x, st, t, first);
    else
        read_groups(x, st, t, first);
    if (f->outliers && (!st->is_values || has_outliers(cl, st, t)))
        read_outliers(x, cl, st, t, first);
    kv_row_restore(x, f->norm ? st->norm[t] : 0, f, 1, D);
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
static void count_codes(kv_bytes *b, const kv_store *st)
{
    const kv_format *f = &st->format;
    int run = run_tokens(st), rest = st->quantized % run; /* short last run */
    kv_grouping g = kv_group_layout(f, st->shape, st->capacity);
    size_t words = words_before(st, st->quantized / run);
    if (rest)
        words += (size_t)g.across * (size_t)group_words(st, rest);
    b->codes += words * sizeof *st->words + block_bytes(st, st->quantized);
    b->scales += stored_scales(st, st->quantized) *
                 (kv_format_has_min(f) ? 2 : 1) * sizeof *st->scale;
    if (kv_format_blocks(f)) {
        size_t blocks = kv_group_count(f, st->shape, st->quantized);
        size_t scales = blocks * (size_t)kv_block_scale_bytes(f->kind);
        b->codes -= scales;
        b->scales += scales;
    }
}

//@ bytes-store: Add norms, outliers, kept and recent rows
static void count_store(kv_bytes *b, const kv_cache_layer *cl,
                        const kv_store *st)
{
    const kv_format *f = &st->format;
    size_t row = (size_t)row_halves(st) * sizeof(uint16_t);
    if (!kv_format_coded(f)) {
        b->recent += row * (size_t)st->tokens;
        return;
    }
    count_codes(b, st);
    if (f->norm)
        b->norms += (size_t)st->quantized * sizeof *st->norm;
    b->outliers += kv_sparse_count(f, st->shape, st->quantized,
                                   kept_before(cl, st->quantized),
                                   st->is_values) * sizeof *st->sparse;
    if (has_table(st))
        b->kept += row * (size_t)cl->n_kept;
    b->recent += row * (size_t)st->n_waiting;
}

//@ bytes-layer: Add up keys, values and positions
kv_bytes kv_cache_bytes(const kv_cache *c, int layer)
{
    const kv_cache_layer *cl = &c->layer[layer];
    kv_bytes b = {0};
    count_store(&b, cl, &cl->k);
    count_store(&b, cl, &cl->v);
    if (kv_format_coded(&cl->k.format) || kv_format_coded(&cl->v.format))
        b.kept += (size_t)cl->n_kept * sizeof *cl->position;
    b.total = b.codes + b.scales + b.norms + b.outliers + b.kept + b.recent;
    return b;
}
