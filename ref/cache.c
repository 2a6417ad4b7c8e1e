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
 * comes back. cache_setup.c lays the arrays out, cache_read.c finds things
 * again. */
#include <math.h>
#include <string.h>

#include "cache_inside.h"

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
