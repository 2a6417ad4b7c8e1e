//@ top: Find things in a store
/* What the files of the cache share: cache_setup.c lays arrays out in memory,
 * cache.c fills them, cache_read.c reads them and counts their bytes. Where a
 * group, a row or an outlier lies is said here, once. */
#ifndef KV_CACHE_INSIDE_H
#define KV_CACHE_INSIDE_H

#include "kv.h"

//@ sizes: Say how large each part can become
static inline int row_size(const kv_store *st)
{
    return st->shape.kv_heads * st->shape.head_size;
}

/* float32 rows take two binary16 places each. */
static inline int row_halves(const kv_store *st)
{
    return row_size(st) * (st->format.kind == KV_F32 ? 2 : 1);
}

/* Tokens whose groups are complete together. */
static inline int run_tokens(const kv_store *st)
{
    if (st->format.axis == KV_PER_TOKEN)
        return 1;
    return st->format.group ? st->format.group : st->capacity;
}

/* Does it take all tokens to quantize the first one? */
static inline int needs_all(const kv_store *st)
{
    const kv_format *f = &st->format;
    return (f->axis == KV_PER_CHANNEL && f->group == 0) ||
           (f->outliers && !st->is_values);
}

//@ batch: Say how many tokens are quantized at once
static inline int batch_tokens(const kv_store *st)
{
    if (!kv_format_coded(&st->format))
        return 0;
    return needs_all(st) ? st->capacity : run_tokens(st);
}

/* Are kept rows in a table of their own? */
static inline int has_table(const kv_store *st)
{
    return st->format.exclusion != KV_KEPT_EXCLUDE_ONLY;
}

//@ words: Count the words before a group
/* Words of one group of a run of n tokens. */
static inline int group_words(const kv_store *st, int n)
{
    kv_grouping g = kv_group_layout(&st->format, st->shape, st->capacity);
    int per_token = st->format.axis == KV_PER_TOKEN;
    return kv_packed_words(per_token ? g.length : n, st->format.bits);
}

/* Words of all groups of the runs before this one. Blocks have none. */
static inline size_t words_before(const kv_store *st, int run)
{
    kv_grouping g = kv_group_layout(&st->format, st->shape, st->capacity);
    if (kv_format_blocks(&st->format))
        return 0;
    return (size_t)run * (size_t)g.across *
           (size_t)group_words(st, run_tokens(st));
}

//@ block-bytes: Count the bytes of blocks, and the scales elsewhere
/* Bytes of the blocks of n tokens; 0 for other kinds. */
static inline size_t block_bytes(const kv_store *st, int n)
{
    if (!kv_format_blocks(&st->format))
        return 0;
    return (size_t)n * (size_t)(row_size(st) / KV_BLOCK) *
           (size_t)kv_block_bytes(st->format.kind);
}

/* Scales that are stored: blocks have theirs inside, static ones belong to
 * the model. */
static inline size_t stored_scales(const kv_store *st, int tokens)
{
    if (kv_format_blocks(&st->format) || st->format.is_static)
        return 0;
    return kv_group_count(&st->format, st->shape, tokens);
}

//@ find-kept: Look a position up among the kept ones
static inline int kept_before(const kv_cache_layer *cl, int t)
{
    return kv_positions_before(cl->position, cl->n_kept, t);
}

/* Index of t in the side table, or -1. */
static inline int kept_index(const kv_cache_layer *cl, int t)
{
    int i = kept_before(cl, t);
    return i < cl->n_kept && cl->position[i] == t ? i : -1;
}

//@ find-row: Find a row that is held in 16 bits
/* Waiting rows lie in order of position without those in the table. */
static inline uint16_t *row_of(const kv_cache_layer *cl, const kv_store *st,
                               int t)
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

//@ sparse-before: Find the outliers of a token of values
/* Those of the tokens before it, and so where its own begin. */
static inline kv_entry *sparse_before(const kv_cache_layer *cl,
                                      const kv_store *st, int t)
{
    return st->sparse + kv_sparse_count(&st->format, st->shape, t,
                                        kept_before(cl, t), 1);
}

#endif
