/* One query over a packed cache: tm_fast_decode of fast.h.
 *
 * Tokens are cut into spans of SPAN. A task is one span of one KV head, for all query heads that
 * share it: scores of the span's keys, their exponentials (against the span's own maximum), the
 * average of its values. The spans' results are added up in the order of the tokens, each scaled by
 * e^(its maximum - the largest maximum); so bits depend on the spans and not on who did them.
 *
 * Within a span keys, or values, are taken in tiles: tokens that lie in one group, or all in 16
 * bits.
 *
 * Codes in the two common layouts are used as they are. A number is s*code + m
 * with s and m the same for a whole row of codes, so a sum over rows is
 *
 *     sum a_i (s_i code_ij + m_i)  =  sum (a_i s_i) code_ij  +  sum a_i m_i
 *
 * where for keys per channel a row is a channel, a_i the query and j a token; and for values per
 * token a row is a token, a_i its weight and j a channel. Only codes are turned into
 * floats, once for all heads, and they stay in registers (codes_gevm). Kept tokens have code 0 in
 * their holes: their scores are written over, and their weights are set to 0 and used on the row
 * in the side table.
 *
 * Everything else is turned into floats in a thread's scratch memory (16 KiB at head size 64: it
 * stays in the first-level cache). Per-channel codes are read channel by channel, so such a tile is
 * [channel][token]; everything else is [token][channel]. Either way one kernel does the sums:
 *
 *              tile [token][channel]             tile [channel][token]
 *     keys     a row times the query: gemv       the query times the matrix: gevm
 *     values   the weights times it:  gevm       a row times the weights:    gemv
 */
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "fast_inside.h"
#include "pages.h"

enum { TILE = 64, SPAN = 256 };

typedef struct {
    tm_fast *f;
    const kv_cache *cache;
    int index; /* of the layer */
    const kv_cache_layer *layer;
    const float *q, *sink;
    kv_shape s;
    int shared; /* query heads of a KV head */
    int tokens, spans;
    size_t wide;    /* tokens rounded up: length of a row of scores */
    float *scores;  /* [H][wide], later e^(score - its span's maximum) */
    float *parts;   /* [spans][H][D] sums of values under those weights */
    float *max, *sum; /* [H][spans] of each span: largest score, sum of weights */
} decoding;

/* ------------------------------------------------------------------ tiles */

typedef struct {
    int first, n;
    int coded; /* 0: rows of 16 bits (or 32) */
} tile;

static int smaller(int a, int b)
{
    return a < b ? a : b;
}

static int up(int n, int size)
{
    return (n + size - 1) / size;
}

/* Tokens that are quantized together. */
static int run_of(const kv_store *st)
{
    if (st->format.axis == KV_PER_TOKEN)
        return st->capacity;
    return st->format.group ? st->format.group : st->capacity;
}

/* The tile of at most `most` tokens that begins at token t; end: of the span. */
static tile tile_at(const kv_store *st, int t, int end, int most)
{
    int run = run_of(st), coded = t < st->quantized;
    if (coded)
        end = smaller(end, smaller(st->quantized, (t / run + 1) * run));
    return (tile){t, smaller(end - t, most), coded};
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

/* Do the loops above know how these tokens are stored? They know rows, and plain integers. */
static int is_known(const kv_store *st, int coded)
{
    const kv_format *f = &st->format;
    return f->exclusion != KV_KEPT_EXCLUDE_ONLY &&
           (!coded || (f->kind == KV_INT && !f->hadamard && !f->norm && !f->is_static &&
                       !f->outliers && !f->kivi));
}

/* Returns 1 if x is [channel][TILE], 0 if it is [token][channel]. */
static int fill(const decoding *d, float *x, const kv_store *st, tile t, int head)
{
    if (!is_known(st, t.coded)) { /* as ref/ reads it, one row after the other */
        for (int i = 0; i < t.n; i++)
            kv_cache_read_head(x + (size_t)i * (size_t)d->s.head_size, d->cache, d->index,
                               st->is_values, t.first + i, head);
        return 0;
    }
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

/* ------------------------------------------------------- straight from codes */

static int is_direct(const decoding *d, const kv_store *st)
{
    return d->f->kernels->codes_gevm && is_known(st, 1) && !st->format.pre;
}

/* Codes that codes_gevm takes at a time: whole words, whatever the processor. */
static int unit_of(const kv_store *st)
{
    return st->format.bits == 8 ? 64 : st->format.bits == 3 ? 32 : 16;
}

static const unsigned char *codes_at(const kv_store *st, size_t words, int first)
{
    return (const unsigned char *)(st->words + words) + first * st->format.bits / 8;
}

/* n >= 1 scales s and minima m that lie `step` apart, from group `first` on. Symmetric codes count
 * from the middle: s (code - zero) = s code + m with m = -zero s. */
static void widen_scales(const decoding *d, float *s, float *m, const kv_store *st, size_t first,
                         size_t step, int n)
{
    int symmetric = st->format.symmetric;
    const uint16_t *scale = st->scale + first, *min = symmetric ? scale : st->min + first;
    uint16_t some[2][KV_HEAD_MAX > SPAN ? KV_HEAD_MAX : SPAN];
    if (step > 1) {
        size_t i = 0;
        do {
            some[0][i] = scale[i * step];
            some[1][i] = min[i * step];
        } while (++i < (size_t)n);
        scale = some[0], min = some[1];
    }
    d->f->kernels->widen_half(s, scale, (size_t)n);
    d->f->kernels->widen_half(m, min, (size_t)n);
    if (symmetric)
        d->f->kernels->scale(m, (float)-(1 << (st->format.bits - 1)), (size_t)n);
}

/* The side table's index of the first kept token of a tile, and the end. */
static int first_kept(const decoding *d, tile t)
{
    return kept_before(d->layer, t.first);
}

static int end_kept(const decoding *d, tile t)
{
    return kept_before(d->layer, t.first + t.n);
}

static void widen_kept(const decoding *d, float *row, const kv_store *st, int i, int head)
{
    int D = d->s.head_size;
    widen(d->f->kernels, row, st->kept + (size_t)i * (size_t)(d->s.kv_heads * D), head * D, D,
          KV_F16);
}

/* Can a tile of keys be used as it is: per channel, from a whole word of codes on? */
static int keys_direct(const decoding *d, tile t)
{
    const kv_store *st = &d->layer->k;
    return t.coded && is_direct(d, st) && st->format.axis == KV_PER_CHANNEL &&
           t.first % run_of(st) % unit_of(st) == 0 && t.n % unit_of(st) == 0;
}

/* scores [shared][wide]; a: scratch of [shared][D]. */
static void score_codes(const decoding *d, float *scores, float *a, tile t, int head)
{
    const kv_store *st = &d->layer->k;
    const tm_kernels *k = d->f->kernels;
    int D = d->s.head_size, across = d->s.kv_heads * D, run = run_of(st), r = t.first / run;
    int length = smaller(st->quantized - r * run, run);
    size_t words = (size_t)kv_packed_words(length, st->format.bits);
    size_t before = (size_t)r * (size_t)across * (size_t)kv_packed_words(run, st->format.bits);
    const float *q = d->q + (size_t)(head * d->shared * D);
    float s[KV_HEAD_MAX], m[KV_HEAD_MAX];
    widen_scales(d, s, m, st, (size_t)r * (size_t)across + (size_t)(head * D), 1, D);
    for (int h = 0; h < d->shared; h++) {
        float offset, *to = scores + (size_t)h * d->wide + t.first;
        k->times(a + h * D, q + h * D, s, (size_t)D);
        k->gemv(&offset, 1, m, q + h * D, 1, D, 1);
        for (int i = 0; i < t.n; i++)
            to[i] = offset;
    }
    k->codes_gevm(scores + t.first, d->wide, a, (size_t)D, d->shared,
                  codes_at(st, before + (size_t)(head * D) * words, t.first - r * run),
                  words * sizeof *st->words, st->format.bits, D, t.n);
    for (int i = first_kept(d, t); i < end_kept(d, t); i++) {
        widen_kept(d, a, st, i, head);
        k->gemv(scores + d->layer->position[i], d->wide, q, a, 1, D, d->shared);
    }
}

/* Channels of a head that share scales: those of a group, or all. */
static int group_part(const decoding *d, const kv_store *st)
{
    return smaller(kv_group_layout(&st->format, d->s, st->capacity).length, d->s.head_size);
}

/* The same for values: per token, and parts of groups that are whole words of codes. */
static int values_direct(const decoding *d, tile t)
{
    const kv_store *st = &d->layer->v;
    return t.coded && is_direct(d, st) && st->format.axis == KV_PER_TOKEN &&
           group_part(d, st) % unit_of(st) == 0;
}

/* out [shared][D] += the values of a tile under the weights p [shared][wide]; a: scratch of
 * [shared][SPAN]. */
static void mix_codes(const decoding *d, float *out, const float *p, float *a, tile t, int head)
{
    const kv_store *st = &d->layer->v;
    const tm_kernels *k = d->f->kernels;
    kv_grouping g = kv_group_layout(&st->format, d->s, st->capacity);
    int D = d->s.head_size, part = group_part(d, st);
    size_t words = (size_t)kv_packed_words(g.length, st->format.bits), across = (size_t)g.across;
    int kept = first_kept(d, t), end = end_kept(d, t);
    p += t.first;
    for (int c = 0; c < D; c += part) {
        float s[SPAN], m[SPAN];
        size_t group = (size_t)t.first * across + (size_t)((head * D + c) / g.length);
        widen_scales(d, s, m, st, group, across, t.n);
        for (int i = kept; i < end; i++)
            s[d->layer->position[i] - t.first] = m[d->layer->position[i] - t.first] = 0;
        for (int h = 0; h < d->shared; h++) {
            float offset;
            k->times(a + h * SPAN, p + (size_t)h * d->wide, s, (size_t)t.n);
            k->gemv(&offset, 1, m, p + (size_t)h * d->wide, 1, t.n, 1);
            for (int i = c; i < c + part; i++)
                out[h * D + i] += offset;
        }
        k->codes_gevm(out + c, (size_t)D, a, SPAN, d->shared,
                      codes_at(st, group * words, (head * D + c) % g.length),
                      across * words * sizeof *st->words, st->format.bits, t.n, part);
    }
    for (int i = kept; i < end; i++) {
        widen_kept(d, a, st, i, head);
        for (int h = 0; h < d->shared; h++)
            k->gevm(out + h * D, p + (size_t)h * d->wide + (d->layer->position[i] - t.first), a, 1,
                    D);
    }
}

/* ------------------------------------------------------------ through floats */

static void score_tile(const decoding *d, float *scores, float *x, tile t, int head)
{
    int D = d->s.head_size;
    const float *q = d->q + (size_t)(head * d->shared * D);
    float *to = scores + t.first;
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

static void mix_tile(const decoding *d, float *out, const float *p, float *x, tile t, int head)
{
    int D = d->s.head_size, columns = fill(d, x, &d->layer->v, t, head);
    p += t.first;
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

/* ------------------------------------------------------------------- tasks */

static void score_span(const decoding *d, float *scores, float *scratch, int first, int end,
                       int head)
{
    tile t;
    for (int i = first; i < end; i += t.n) {
        t = tile_at(&d->layer->k, i, end, SPAN);
        if (keys_direct(d, t)) {
            score_codes(d, scores, scratch, t, head);
            continue;
        }
        t = tile_at(&d->layer->k, i, end, TILE);
        score_tile(d, scores, scratch, t, head);
    }
}

static void mix_span(const decoding *d, float *out, const float *p, float *scratch, int first,
                     int end, int head)
{
    tile t;
    for (int i = first; i < end; i += t.n) {
        t = tile_at(&d->layer->v, i, end, SPAN);
        if (values_direct(d, t)) {
            mix_codes(d, out, p, scratch, t, head);
            continue;
        }
        t = tile_at(&d->layer->v, i, end, TILE);
        mix_tile(d, out, p, scratch, t, head);
    }
}

static void attend_span(void *arg, int task, int worker)
{
    const decoding *d = arg;
    int kv = task % d->s.kv_heads, span = task / d->s.kv_heads, first = span * SPAN;
    int end = smaller(first + SPAN, d->tokens), D = d->s.head_size;
    float *scratch = tm_fast_scratch(d->f, worker);
    float *scores = d->scores + (size_t)(kv * d->shared) * d->wide;
    score_span(d, scores, scratch, first, end, kv);
    for (int h = 0; h < d->shared; h++) {
        float *p = scores + (size_t)h * d->wide + first;
        size_t at = (size_t)(kv * d->shared + h) * (size_t)d->spans + (size_t)span;
        d->f->kernels->scale(p, 1 / sqrtf((float)D), (size_t)(end - first));
        d->max[at] = -FLT_MAX;
        d->sum[at] = d->f->kernels->exp_row(p, &d->max[at], end - first);
    }
    float *part = d->parts + (size_t)task * (size_t)(d->shared * D);
    memset(part, 0, (size_t)(d->shared * D) * sizeof *part);
    mix_span(d, part, scores, scratch, first, end, kv);
}

/* ------------------------------------------------------------------ decode */

/* Lays out the shared scratch. */
static int prepare(decoding *d, const kv_cache *c, int shift, kv_error *err)
{
    size_t H = (size_t)d->s.heads, D = (size_t)d->s.head_size, spans = (size_t)d->spans;
    size_t shared = (size_t)d->shared, row = D > SPAN ? D : SPAN;
    size_t scratch = TILE * D + 16 > shared * row ? TILE * D + 16 : shared * row;
    d->wide = (size_t)up(d->tokens, 16) * 16;
    if (tm_fast_need_scratch(d->f, scratch, err) ||
        tm_fast_need_shared(d->f, H * d->wide + spans * H * (D + 2), err))
        return KV_FAIL_RUN;
    d->scores = d->f->shared;
    d->parts = d->scores + H * d->wide;
    d->max = d->parts + spans * H * D;
    d->sum = d->max + spans * H;
    if (!d->layer->k.format.pre)
        return KV_OK;
    return need_angles(&d->f->angles, &c->spec.rope, c->spec.capacity, shift, d->tokens, err);
}

/* Turns max[head] into what each span of it counts for. Returns 0 if a score was not finite. */
static int weigh_spans(const decoding *d, int head)
{
    float *max = d->max + (size_t)head * (size_t)d->spans;
    const float *sum = d->sum + (size_t)head * (size_t)d->spans;
    float top = d->sink ? d->sink[head] : -FLT_MAX, total = 0;
    for (int i = 0; i < d->spans; i++)
        top = max[i] > top ? max[i] : top;
    if (d->sink)
        total = expf(d->sink[head] - top);
    for (int i = 0; i < d->spans; i++) {
        max[i] = expf(max[i] - top);
        total += sum[i] * max[i];
    }
    d->f->kernels->scale(max, 1 / total, (size_t)d->spans);
    return total <= FLT_MAX;
}

/* out [D] of one head, and its weights. */
static void merge(float *out, float *row, const decoding *d, int head)
{
    const float *weight = d->max + (size_t)head * (size_t)d->spans;
    const float *p = d->scores + (size_t)head * d->wide;
    int D = d->s.head_size, kv = head / d->shared;
    memset(out, 0, (size_t)D * sizeof *out);
    for (int i = 0; i < d->spans; i++) {
        size_t task = (size_t)i * (size_t)d->s.kv_heads + (size_t)kv;
        size_t at = task * (size_t)d->shared + (size_t)(head % d->shared);
        d->f->kernels->gevm(out, weight + i, d->parts + at * (size_t)D, 1, D);
    }
    for (int t = 0; row && t < d->tokens; t++)
        row[t] = p[t] * weight[t / SPAN];
}

int tm_fast_decode(tm_fast *f, float *out, float *rows, const float *q, const kv_cache *c,
                   int layer, const float *sink, int shift, kv_error *err)
{
    decoding d = {.f = f, .cache = c, .index = layer, .layer = &c->layer[layer], .q = q,
                  .sink = sink, .s = c->spec.shape};
    d.shared = d.s.heads / d.s.kv_heads;
    d.tokens = d.layer->k.tokens;
    d.spans = up(d.tokens, SPAN);
    for (int h = 0; sink && h < d.s.heads; h++)
        if (!isfinite(sink[h]))
            return kv_fail(err, KV_FAIL_RUN, "softmax: the sink logit is not finite");
    if (!d.tokens) {
        memset(out, 0, (size_t)(d.s.heads * d.s.head_size) * sizeof *out);
        return KV_OK;
    }
    if (prepare(&d, c, shift, err))
        return KV_FAIL_RUN;
    tm_parallel(f->pool, attend_span, &d, d.spans * d.s.kv_heads);
    for (int h = 0; h < d.s.heads; h++) {
        if (!weigh_spans(&d, h))
            return kv_fail(err, KV_FAIL_RUN, "attention: a score of head %d is not finite", h);
        merge(out + h * d.s.head_size, rows ? rows + (size_t)h * (size_t)d.tokens : NULL, &d, h);
    }
    return KV_OK;
}
