/* One query over a packed cache: tm_fast_decode of fast.h.
 *
 * A store (a layer's keys, or its values) is cut into tiles of at most TILE tokens that lie in one
 * group, or all in 16 bits. A tile of one KV head is turned into floats in a thread's scratch
 * memory (16 KiB at head size 64: it stays in the first-level cache) and used at once by all query
 * heads that share the KV head. Per-channel codes are read channel by channel, so such a tile is
 * [channel][token]; everything else is [token][channel]. Either way one kernel does the
 * sums:
 *
 *              tile [token][channel]             tile [channel][token]
 *     keys     a row times the query: gemv       the query times the matrix: gevm
 *     values   the weights times it:  gevm       a row times the weights:    gemv
 *
 * BUNCH tiles are a task: scores of all keys; softmax of each head; then each bunch of values makes
 * a partial output, and these are added in the order of the tokens. */
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "fast_inside.h"
#include "pages.h"

enum { TILE = 64, BUNCH = 4 };

typedef struct {
    tm_fast *f;
    const kv_cache_layer *layer;
    const float *q, *sink;
    kv_shape s;
    int shared; /* query heads of a KV head */
    int tokens;
    size_t wide;    /* tokens rounded up: length of a row of scores */
    float *scores;  /* [H][wide] */
    float *parts;   /* [bunches of values][H][D] */
    float *factor;  /* [H] */
} decoding;

/* ------------------------------------------------------------------ tiles */

typedef struct {
    int first, n;
    int coded; /* 0: rows of 16 bits (or 32) */
} tile;

static int up(int n, int size)
{
    return (n + size - 1) / size;
}

/* Tokens that are quantized together. */
static int run_of(const kv_store *st)
{
    if (st->format.axis == KV_PER_TOKEN)
        return TILE;
    return st->format.group ? st->format.group : st->capacity;
}

static int tile_count(const kv_store *st)
{
    int run = run_of(st), whole = st->quantized / run, rest = st->quantized % run;
    return whole * up(run, TILE) + up(rest, TILE) + up(st->tokens - st->quantized, TILE);
}

static tile tile_at(const kv_store *st, int i)
{
    int run = run_of(st), each = up(run, TILE), whole = st->quantized / run;
    int rest = st->quantized % run, coded = whole * each + up(rest, TILE), first, end;
    if (i >= coded) {
        first = st->quantized + (i - coded) * TILE;
        end = st->tokens;
    } else {
        first = i / each * run + i % each * TILE;
        end = i / each < whole ? (i / each + 1) * run : st->quantized;
    }
    return (tile){first, end - first < TILE ? end - first : TILE, i < coded};
}

static int kept_before(const kv_cache_layer *cl, int t)
{
    return kv_positions_before(cl->position, cl->n_kept, t);
}

static void widen(const tm_kernels *k, float *y, const uint16_t *row, int first, int n,
                  kv_kind kind)
{
    if (kind == KV_F32)
        memcpy(y, row + 2 * (size_t)first, (size_t)n * sizeof *y);
    else if (kind == KV_BF16)
        k->widen_bf16(y, row + first, (size_t)n);
    else
        k->widen_half(y, row + first, (size_t)n);
}

/* Rows of 16 bits: kept ones from the side table, the others in order of position. */
static void fill_rows(const decoding *d, float *x, const kv_store *st, tile t, int head)
{
    const kv_cache_layer *cl = d->layer;
    int D = d->s.head_size, kept = kept_before(cl, t.first);
    int waiting = t.first - st->quantized - (kept - kept_before(cl, st->quantized));
    size_t row = (size_t)(d->s.kv_heads * D) * (st->format.kind == KV_F32 ? 2 : 1);
    for (int i = 0; i < t.n; i++) {
        int is_kept = kept < cl->n_kept && cl->position[kept] == t.first + i;
        const uint16_t *from = is_kept ? st->kept + (size_t)kept++ * row
                                       : st->waiting + (size_t)waiting++ * row;
        widen(d->f->kernels, x + (size_t)i * (size_t)D, from, head * D, D, st->format.kind);
    }
}

/* Kept rows over the holes of a tile of codes; `token` and `channel` are the distances of
 * neighbours in x. */
static void fill_kept(const decoding *d, float *x, const kv_store *st, tile t, int head, int token,
                      int channel)
{
    const kv_cache_layer *cl = d->layer;
    int D = d->s.head_size;
    for (int i = kept_before(cl, t.first);
         i < cl->n_kept && cl->position[i] < t.first + t.n; i++) {
        float row[KV_HEAD_MAX];
        widen(d->f->kernels, row, st->kept + (size_t)i * (size_t)(d->s.kv_heads * D), head * D, D,
              KV_F16);
        for (int c = 0; c < D; c++)
            x[(size_t)(cl->position[i] - t.first) * (size_t)token + (size_t)c * (size_t)channel] =
                row[c];
    }
}

static float half_at(const uint16_t *h)
{
    return kv_half_to_float(*h);
}

/* Per-channel codes: x [D][TILE], zero behind the tile's tokens. */
static void fill_columns(const decoding *d, float *x, const kv_store *st, tile t, int head)
{
    const kv_format *f = &st->format;
    int D = d->s.head_size, across = d->s.kv_heads * D, run = run_of(st), r = t.first / run;
    int length = st->quantized - r * run < run ? st->quantized - r * run : run;
    size_t words = (size_t)kv_packed_words(length, f->bits);
    const uint32_t *base = st->words + (size_t)r * (size_t)across *
                                           (size_t)kv_packed_words(run, f->bits);
    for (int c = 0; c < D; c++) {
        size_t i = (size_t)(head * D + c), group = (size_t)r * (size_t)across + i;
        d->f->kernels->unpack(x + (size_t)c * TILE, base + i * words, t.first - r * run, t.n,
                              f->bits, half_at(st->scale + group),
                              f->symmetric ? 0 : half_at(st->min + group),
                              f->symmetric ? 1 << (f->bits - 1) : 0);
        memset(x + (size_t)c * TILE + t.n, 0, (size_t)(TILE - t.n) * sizeof *x);
    }
    fill_kept(d, x, st, t, head, 1, TILE);
}

/* Per-token codes: x [tokens][D]. One group may reach over several heads (token:all). */
static void fill_groups(const decoding *d, float *x, const kv_store *st, tile t, int head)
{
    const kv_format *f = &st->format;
    int D = d->s.head_size;
    kv_grouping g = kv_group_layout(f, d->s, st->capacity);
    int size = g.length < D ? g.length : D; /* of a group, in this head */
    size_t words = (size_t)kv_packed_words(g.length, f->bits);
    for (int i = 0; i < t.n; i++)
        for (int c = 0; c < D; c += size) {
            size_t group = (size_t)(t.first + i) * (size_t)g.across +
                           (size_t)((head * D + c) / g.length);
            float y[KV_HEAD_MAX + 16];
            d->f->kernels->unpack(y, st->words + group * words, (head * D + c) % g.length, size,
                                  f->bits, half_at(st->scale + group),
                                  f->symmetric ? 0 : half_at(st->min + group),
                                  f->symmetric ? 1 << (f->bits - 1) : 0);
            memcpy(x + (size_t)i * (size_t)D + c, y, (size_t)size * sizeof *x);
        }
    fill_kept(d, x, st, t, head, D, 1);
}

/* Returns 1 if x is [channel][TILE], 0 if it is [token][channel]. */
static int fill(const decoding *d, float *x, const kv_store *st, tile t, int head)
{
    if (!t.coded)
        fill_rows(d, x, st, t, head);
    else if (st->format.axis == KV_PER_TOKEN)
        fill_groups(d, x, st, t, head);
    else
        fill_columns(d, x, st, t, head);
    return t.coded && st->format.axis == KV_PER_CHANNEL;
}

/* ----------------------------------------------------------------- rotating */

void tm_angles_free(tm_angles *a)
{
    size_t bytes = (size_t)a->capacity * (size_t)a->rope.dims * sizeof(float);
    tm_pages_free(a->by_token, bytes);
    tm_pages_free(a->by_angle, bytes);
    memset(a, 0, sizeof *a);
}

static int same_rope(const kv_rope *a, const kv_rope *b)
{
    return a->dims == b->dims && a->interleaved == b->interleaved && a->base == b->base &&
           a->scale == b->scale && a->factors == b->factors;
}

/* Makes sure that the angles of tokens 0..tokens-1 are known. */
static int need_angles(tm_angles *a, const kv_rope *r, int capacity, int shift, int tokens,
                       kv_error *err)
{
    if (capacity > a->capacity || shift != a->shift || !same_rope(r, &a->rope)) {
        size_t bytes = (size_t)capacity * (size_t)r->dims * sizeof(float);
        tm_angles_free(a);
        *a = (tm_angles){tm_pages(bytes), tm_pages(bytes), capacity, 0, shift, *r};
        if (!a->by_token || !a->by_angle) {
            tm_angles_free(a);
            return kv_fail(err, KV_FAIL_RUN, "not enough memory for the angles of %d positions",
                           capacity);
        }
    }
    for (; a->filled < tokens; a->filled++) {
        float *cs = a->by_token + (size_t)a->filled * (size_t)r->dims;
        kv_rope_angles(cs, r, a->filled + shift);
        for (int i = 0; i < r->dims; i++)
            a->by_angle[(size_t)i * (size_t)a->capacity + (size_t)a->filled] = cs[i];
    }
    return KV_OK;
}

/* Rotates the keys of a tile to their positions. */
static void rotate(const decoding *d, float *x, tile t, int columns)
{
    const tm_angles *a = &d->f->angles;
    int D = d->s.head_size, half = a->rope.dims / 2, step = a->rope.interleaved ? 2 : 1;
    int apart = a->rope.interleaved ? 1 : half;
    if (columns) {
        for (int i = 0; i < half; i++) {
            const float *cos = a->by_angle + (size_t)(2 * i) * (size_t)a->capacity + t.first;
            float *u = x + (size_t)(i * step) * TILE;
            d->f->kernels->rotate(u, u + (size_t)apart * TILE, cos, cos + a->capacity, 1, 1, t.n);
        }
        return;
    }
    for (int i = 0; i < t.n; i++) {
        const float *cs = a->by_token + (size_t)(t.first + i) * (size_t)a->rope.dims;
        float *u = x + (size_t)i * (size_t)D;
        d->f->kernels->rotate(u, u + apart, cs, cs + 1, step, 2, half);
    }
}

/* ------------------------------------------------------------------- tasks */

static void score_tile(const decoding *d, float *x, tile t, int head)
{
    int D = d->s.head_size;
    const float *q = d->q + (size_t)(head * d->shared * D);
    float *to = d->scores + (size_t)(head * d->shared) * d->wide + (size_t)t.first;
    int columns = fill(d, x, &d->layer->k, t, head);
    if (d->layer->k.format.pre)
        rotate(d, x, t, columns);
    if (!columns) {
        d->f->kernels->gemv(to, d->wide, q, x, t.n, D, d->shared);
        return;
    }
    for (int h = 0; h < d->shared; h++) {
        float s[TILE] = {0};
        d->f->kernels->gevm(s, q + h * D, x, D, TILE);
        memcpy(to + (size_t)h * d->wide, s, (size_t)t.n * sizeof *s);
    }
}

static void score_bunch(void *arg, int task, int worker)
{
    const decoding *d = arg;
    int tiles = tile_count(&d->layer->k), head = task % d->s.kv_heads;
    int first = task / d->s.kv_heads * BUNCH;
    for (int i = first; i < first + BUNCH && i < tiles; i++)
        score_tile(d, tm_fast_scratch(d->f, worker), tile_at(&d->layer->k, i), head);
}

/* factor 0: a score was not finite. */
static void soften_head(void *arg, int head, int worker)
{
    const decoding *d = arg;
    (void)worker;
    float *p = d->scores + (size_t)head * d->wide, max = d->sink ? d->sink[head] : -FLT_MAX;
    float logit = max;
    d->f->kernels->scale(p, 1 / sqrtf((float)d->s.head_size), (size_t)d->tokens);
    float sum = d->f->kernels->exp_row(p, &max, d->tokens);
    if (d->sink)
        sum += expf(logit - max);
    d->factor[head] = sum <= FLT_MAX ? 1 / sum : 0;
}

static void mix_tile(const decoding *d, float *x, float *out, tile t, int head)
{
    int D = d->s.head_size;
    const float *p = d->scores + (size_t)(head * d->shared) * d->wide + (size_t)t.first;
    int columns = fill(d, x, &d->layer->v, t, head);
    for (int h = 0; h < d->shared; h++, p += d->wide, out += D) {
        if (!columns) {
            d->f->kernels->gevm(out, p, x, t.n, D);
            continue;
        }
        float weights[TILE] = {0}, sum[KV_HEAD_MAX];
        memcpy(weights, p, (size_t)t.n * sizeof *p);
        d->f->kernels->gemv(sum, (size_t)D, weights, x, D, TILE, 1);
        for (int c = 0; c < D; c++)
            out[c] += sum[c];
    }
}

static void mix_bunch(void *arg, int task, int worker)
{
    const decoding *d = arg;
    int tiles = tile_count(&d->layer->v), head = task % d->s.kv_heads, D = d->s.head_size;
    int bunch = task / d->s.kv_heads;
    float *out = d->parts + ((size_t)bunch * (size_t)d->s.heads + (size_t)(head * d->shared)) *
                                (size_t)D;
    memset(out, 0, (size_t)(d->shared * D) * sizeof *out);
    for (int i = bunch * BUNCH; i < (bunch + 1) * BUNCH && i < tiles; i++)
        mix_tile(d, tm_fast_scratch(d->f, worker), out, tile_at(&d->layer->v, i), head);
}

/* ------------------------------------------------------------------ decode */

/* Lays out the shared scratch. */
static int prepare(decoding *d, const kv_cache *c, int shift, kv_error *err)
{
    size_t H = (size_t)d->s.heads, D = (size_t)d->s.head_size;
    size_t parts = (size_t)up(tile_count(&d->layer->v), BUNCH) * H * D;
    d->wide = (size_t)up(d->tokens, 16) * 16;
    if (tm_fast_need_scratch(d->f, TILE * D + 16, err) ||
        tm_fast_need_shared(d->f, H * d->wide + parts + H, err))
        return KV_FAIL_RUN;
    d->scores = d->f->shared;
    d->parts = d->scores + H * d->wide;
    d->factor = d->parts + parts;
    if (!d->layer->k.format.pre)
        return KV_OK;
    return need_angles(&d->f->angles, &c->spec.rope, c->spec.capacity, shift, d->tokens, err);
}

static void add_parts(float *out, const decoding *d)
{
    int bunches = up(tile_count(&d->layer->v), BUNCH), D = d->s.head_size, n = d->s.heads * D;
    memcpy(out, d->parts, (size_t)n * sizeof *out);
    for (int b = 1; b < bunches; b++)
        for (int i = 0; i < n; i++)
            out[i] += d->parts[(size_t)b * (size_t)n + (size_t)i];
    for (int h = 0; h < d->s.heads; h++)
        d->f->kernels->scale(out + (size_t)(h * D), d->factor[h], (size_t)D);
}

int tm_fast_decode(tm_fast *f, float *out, float *rows, const float *q, const kv_cache *c,
                   int layer, const float *sink, int shift, kv_error *err)
{
    decoding d = {.f = f, .layer = &c->layer[layer], .q = q, .sink = sink, .s = c->spec.shape};
    d.shared = d.s.heads / d.s.kv_heads;
    d.tokens = d.layer->k.tokens;
    for (int h = 0; sink && h < d.s.heads; h++)
        if (!isfinite(sink[h]))
            return kv_fail(err, KV_FAIL_RUN, "softmax: the sink logit is not finite");
    if (!d.tokens) {
        memset(out, 0, (size_t)(d.s.heads * d.s.head_size) * sizeof *out);
        return KV_OK;
    }
    if (prepare(&d, c, shift, err))
        return KV_FAIL_RUN;
    tm_parallel(f->pool, score_bunch, &d, up(tile_count(&d.layer->k), BUNCH) * d.s.kv_heads);
    tm_parallel(f->pool, soften_head, &d, d.s.heads);
    for (int h = 0; h < d.s.heads; h++) {
        const float *p = d.scores + (size_t)h * d.wide;
        float *row = rows ? rows + (size_t)h * (size_t)d.tokens : NULL;
        if (!(d.factor[h] > 0))
            return kv_fail(err, KV_FAIL_RUN, "attention: a score of head %d is not finite", h);
        for (int t = 0; row && t < d.tokens; t++)
            row[t] = p[t] * d.factor[h];
    }
    tm_parallel(f->pool, mix_bunch, &d, up(tile_count(&d.layer->v), BUNCH) * d.s.kv_heads);
    add_parts(out, &d);
    return KV_OK;
}
