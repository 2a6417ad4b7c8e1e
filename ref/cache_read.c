//@ top: Read a cache back, and count what it weighs
/* A number is found by its position: among the kept rows, in the codes, or
 * among the rows that wait. From codes it goes the way back that kv_quantize
 * describes: scale and minimum, outliers over them, norm and rotation undone.
 * Bytes are counted from the same places, holes and padding included. */
#include <string.h>

#include "cache_inside.h"

//@ positions: Look a position up in an ascending list
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
