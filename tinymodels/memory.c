/* Whole-window and streaming memories, see memory.h.
 *
 * Quantizing a window. One buffer each for keys and values is filled with a copy of the window and
 * then worked on in place by pieces: a per-channel piece is one token group of WIDTH channels, a
 * per-token piece ROWS tokens. Per channel the loops run over channels, which lie side by side, and
 * so are as fast as memory; codes are never stored, only what comes back from them. The loops are
 * those of exact.inc, which agree with ref/ bit for bit.
 *
 * These loops know plain integers. Every other format is cut into pieces that kv_quantize can do by
 * itself without noticing: runs of tokens or, where it takes all tokens to quantize the first one
 * (channel:all, outliers of keys), heads.
 *
 * Streaming. The prefill's keys and values lie in float32, [layer][token][row], on the side of
 * RoPE that the format wants; a `pre` format's keys are rotated again for every pass (one pass is
 * the usual case). tm_stream_begin_decode appends them to the packed cache, layers
 * in parallel, and frees them. */
#define _GNU_SOURCE
#include "memory.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kernels.h"
#include "pages.h"

enum { WIDTH = 64, ROWS = 64 };

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static size_t row_of(kv_shape s)
{
    return (size_t)s.kv_heads * (size_t)s.head_size;
}

static int no_memory(const char *what, kv_error *err)
{
    return kv_fail(err, KV_FAIL_RUN, "not enough memory for %s; use a shorter context", what);
}

/* ------------------------------------------------------ quantizing a window */

struct tm_window {
    kv_memory memory;
    const kv_model *model;
    kv_format format[2];
    int capacity, tokens;
    tm_pool *pool;
    const tm_kernels *kernels;
    const kv_keep *keep;
    kv_limits limits[2];
    float *x[2];    /* what attention reads: keys, values */
    uint8_t *flags; /* [capacity] kept */
    float *angles;  /* [capacity][dims], for `pre` */
    int *kept;      /* [layers] in the last window */
    double seconds;
};

typedef struct {
    const tm_window *w;
    const kv_format *f;
    const float *from;
    float *x;
    int n;             /* tokens */
    int pieces_across; /* per channel: pieces side by side */
    int tokens, heads; /* of a piece that ref/ quantizes */
    int values, layer;
    int *bad;          /* [pieces] 1: met what it cannot store; ref/: its error code */
    kv_error *why;     /* ref/: [pieces] */
} job;

static int lowest_of(const kv_format *f)
{
    return f->symmetric ? -(1 << (f->bits - 1)) : 0;
}

/* From extremes to scale and minimum, rounded to binary16, in the order of ref/quantize.c. lo
 * becomes the minimum and hi the scale. */
static void scale_and_minimum(const tm_kernels *k, const kv_format *f, float *lo, float *hi, int n)
{
    for (int i = 0; i < n; i++) {
        float a = fabsf(lo[i]), b = fabsf(hi[i]);
        float step = (hi[i] - lo[i]) / (float)((1 << f->bits) - 1);
        hi[i] = f->symmetric ? (a > b ? a : b) / (float)((1 << (f->bits - 1)) - 1) : step;
        lo[i] = f->symmetric ? 0 : lo[i];
    }
    k->round_half(lo, lo, (size_t)n);
    k->round_half(hi, hi, (size_t)n);
}

static void requantize_row(const job *j, float *x, const float *s, const float *m, int n)
{
    int lowest = lowest_of(j->f);
    j->w->kernels->requantize(x, s, m, (float)lowest, (float)(lowest + (1 << j->f->bits) - 1), n);
}

static void channel_piece(void *arg, int task, int worker)
{
    const job *j = arg;
    (void)worker;
    size_t row = row_of(j->w->model->shape);
    int group = j->f->group ? j->f->group : j->n;
    int first = task / j->pieces_across * group, c = task % j->pieces_across * WIDTH;
    int n = j->n - first < group ? j->n - first : group;
    int width = (int)row - c < WIDTH ? (int)row - c : WIDTH;
    float *x = j->x + (size_t)first * row + c, lo[WIDTH], hi[WIDTH];
    const float *from = j->from + (size_t)first * row + c;
    for (int t = 0; t < n; t++) {
        memcpy(x + (size_t)t * row, from + (size_t)t * row, (size_t)width * sizeof *x);
        if (j->w->kernels->round_half(x + (size_t)t * row, x + (size_t)t * row, (size_t)width))
            j->bad[task] = 1; /* rounded on arrival, as in the packed cache */
    }
    j->w->kernels->range_columns(lo, hi, x, j->w->flags + first, row, n, width);
    scale_and_minimum(j->w->kernels, j->f, lo, hi, width);
    for (int t = 0; t < n; t++, x += row)
        if (!j->w->flags[first + t])
            requantize_row(j, x, hi, lo, width);
}

static void token_row(const job *j, float *x, int group, int row)
{
    for (int c = 0; c < row; c += group) {
        float lo, hi, s[WIDTH], m[WIDTH];
        j->w->kernels->range(&lo, &hi, x + c, group);
        scale_and_minimum(j->w->kernels, j->f, &lo, &hi, 1);
        int filled = group < WIDTH ? group : WIDTH;
        for (int i = 0; i < filled; i++) {
            s[i] = hi;
            m[i] = lo;
        }
        for (int i = 0; i < group; i += WIDTH)
            requantize_row(j, x + c + i, s, m, group - i < WIDTH ? group - i : WIDTH);
    }
}

static void token_piece(void *arg, int task, int worker)
{
    const job *j = arg;
    (void)worker;
    int row = (int)row_of(j->w->model->shape), group = j->f->group ? j->f->group : row;
    for (int t = task * ROWS; t < (task + 1) * ROWS && t < j->n; t++) {
        float *x = j->x + (size_t)t * (size_t)row;
        memcpy(x, j->from + (size_t)t * (size_t)row, (size_t)row * sizeof *x);
        if (j->w->kernels->round_half(x, x, (size_t)row))
            j->bad[task] = 1;
        if (!j->w->flags[t])
            token_row(j, x, group, row);
    }
}

/* f16, bf16, f32: keep sets mean nothing. */
static void plain_piece(void *arg, int task, int worker)
{
    const job *j = arg;
    (void)worker;
    size_t row = row_of(j->w->model->shape), at = (size_t)task * ROWS * row;
    size_t n = (size_t)j->n * row - at < ROWS * row ? (size_t)j->n * row - at : ROWS * row;
    const float *from = j->from + at;
    float *x = j->x + at;
    if (j->f->kind == KV_F16) {
        if (j->w->kernels->round_half(x, from, n))
            j->bad[task] = 1;
        return;
    }
    for (size_t i = 0; i < n; i++) {
        if (!isfinite(from[i]))
            j->bad[task] = 1;
        x[i] = j->f->kind == KV_BF16 ? kv_bf16_to_float(kv_bf16_from_float(from[i])) : from[i];
    }
}

/* Do the loops above know this format? */
static int is_plain(const kv_format *f)
{
    return !kv_format_coded(f) || (f->kind == KV_INT && !f->hadamard && !f->norm && !f->is_static &&
                                   !f->outliers && !f->kivi && f->exclusion == KV_KEPT_BOTH);
}

/* What kv_quantize needs for a piece of n tokens and so many heads. */
typedef struct {
    float *rows;
    kv_quantized out;
} piece_memory;

static void free_piece(piece_memory *p)
{
    free(p->rows);
    free(p->out.codes);
    free(p->out.scale);
    free(p->out.min);
    free(p->out.x_hat);
    free(p->out.norm);
    free(p->out.sparse);
}

static int take_piece(piece_memory *p, const job *j, kv_shape s, int n)
{
    size_t size = (size_t)n * row_of(s), groups = kv_group_count(j->f, s, n);
    size_t entries = kv_sparse_count(j->f, s, n, 0, j->values);
    *p = (piece_memory){malloc(size * sizeof(float)),
                        {malloc(size), calloc(groups, 2), calloc(groups, 2),
                         malloc(size * sizeof(float)), calloc((size_t)n, sizeof(float)),
                         malloc((entries + 1) * sizeof(kv_entry))}};
    return p->rows && p->out.codes && p->out.scale && p->out.min && p->out.x_hat && p->out.norm &&
           p->out.sparse;
}

/* Rows of the piece, rounded on arrival, and what comes back to where attention reads it. */
static int quantize_piece(const job *j, piece_memory *p, kv_shape s, int first, int head, int n,
                          kv_error *err)
{
    kv_shape all = j->w->model->shape;
    size_t row = row_of(all), width = row_of(s), at = (size_t)(head * all.head_size);
    kv_limits limits = j->w->limits[j->values];
    size_t constants = (size_t)j->layer * row + at;
    kv_rows in = {p->rows, j->w->flags + first, s, n, j->values, NULL, NULL};
    if (j->f->is_static && limits.lo) {
        in.lo = limits.lo + constants;
        in.hi = limits.hi + constants;
    }
    for (int t = 0; t < n; t++) {
        float *to = p->rows + (size_t)t * width;
        memcpy(to, j->from + (size_t)(first + t) * row + at, width * sizeof *to);
        if (j->w->kernels->round_half(to, to, width)) return 1;
    }
    int bad = kv_quantize(&p->out, &in, j->f, err);
    for (int t = 0; t < n && !bad; t++)
        memcpy(j->x + (size_t)(first + t) * row + at, p->out.x_hat + (size_t)t * width,
               width * sizeof *j->x);
    return bad;
}

static void ref_piece(void *arg, int task, int worker)
{
    const job *j = arg;
    (void)worker;
    kv_shape s = j->w->model->shape;
    int across = s.kv_heads / j->heads, first = task / across * j->tokens;
    int head = task % across * j->heads, n = j->n - first < j->tokens ? j->n - first : j->tokens;
    piece_memory p;
    s.heads = s.kv_heads = j->heads;
    if (take_piece(&p, j, s, n))
        j->bad[task] = quantize_piece(j, &p, s, first, head, n, &j->why[task]);
    else
        j->bad[task] = no_memory("quantizing", &j->why[task]);
    free_piece(&p);
}

/* Cuts the window into pieces for ref/; returns how many. */
static int cut(job *j)
{
    const kv_format *f = j->f;
    kv_shape s = j->w->model->shape;
    int per_token = f->axis == KV_PER_TOKEN, run = per_token ? 1 : f->group ? f->group : j->n;
    j->heads = s.kv_heads;
    if (run >= j->n || (f->outliers && !j->values)) {
        int whole_rows = f->norm || kv_format_blocks(f) || (f->outliers && j->values) ||
                         (per_token && !f->group);
        j->tokens = j->n;
        j->heads = whole_rows ? s.kv_heads : 1;
    } else {
        j->tokens = (ROWS + run - 1) / run * run;
    }
    return (j->n + j->tokens - 1) / j->tokens * (s.kv_heads / j->heads);
}

/* Finds what could not be stored. Only after a failure. */
static int explain(const job *j, int pieces, kv_error *err)
{
    const tm_window *w = j->w;
    size_t row = row_of(w->model->shape), size = (size_t)j->n * row;
    const char *what = j->values ? "values" : "keys";
    int wide = j->f->kind == KV_BF16 || j->f->kind == KV_F32;
    for (size_t i = 0; i < size; i++)
        if (!(fabsf(j->from[i]) < 65520) && (!isfinite(j->from[i]) || !wide))
            return kv_fail(err, KV_FAIL_RUN, "layer %d: cannot store %g in the %s of token %zu: "
                           "%s", j->layer, (double)j->from[i], what, i / row,
                           isfinite(j->from[i]) ? "binary16 holds at most 65504"
                                                : "it is not finite");
    for (int i = 0; i < pieces && j->why; i++)
        if (j->bad[i])
            return kv_fail(err, j->bad[i], "layer %d, %s: %.400s", j->layer, what, j->why[i].text);
    return kv_fail(err, KV_FAIL_RUN, "layer %d: cannot quantize the %s", j->layer, what);
}

static int run_job(tm_window *w, int which, const float *from, int layer, int n, kv_error *err)
{
    const kv_format *f = &w->format[which];
    int row = (int)row_of(w->model->shape), across = (row + WIDTH - 1) / WIDTH;
    int group = f->group ? f->group : n, pieces = (n + ROWS - 1) / ROWS, bad = 0;
    tm_task *piece = kv_format_coded(f) ? token_piece : plain_piece;
    job j = {.w = w, .f = f, .from = from, .x = w->x[which], .n = n, .pieces_across = across,
             .values = which, .layer = layer};
    if (!is_plain(f)) {
        piece = ref_piece;
        pieces = cut(&j);
        j.why = calloc((size_t)pieces, sizeof *j.why);
    } else if (kv_format_coded(f) && f->axis == KV_PER_CHANNEL) {
        piece = channel_piece;
        pieces = (n + group - 1) / group * across;
    }
    j.bad = calloc((size_t)pieces, sizeof *j.bad);
    if (!j.bad || (piece == ref_piece && !j.why))
        bad = no_memory("quantizing", err);
    else
        tm_parallel(w->pool, piece, &j, pieces);
    for (int i = 0; i < pieces && !bad; i++)
        if (j.bad[i]) bad = explain(&j, pieces, err);
    free(j.bad);
    free(j.why);
    return bad;
}

typedef struct {
    const kv_rope *rope;
    const float *angles;
    float *x;
    kv_shape s;
    int n;
} rotation;

static void rotate_rows(void *arg, int task, int worker)
{
    const rotation *r = arg;
    (void)worker;
    for (int t = task * ROWS; t < (task + 1) * ROWS && t < r->n; t++)
        kv_rope_rotate(r->x + (size_t)t * row_of(r->s),
                       r->angles + (size_t)t * (size_t)r->rope->dims, r->rope, r->s.kv_heads,
                       r->s.head_size);
}

/* Rotates n rows of keys to position, position+1, ...; angles: scratch. */
static void rotate_all(float *x, float *angles, const kv_model *m, int position, int n,
                       tm_pool *pool)
{
    rotation r = {&m->rope, angles, x, m->shape, n};
    for (int t = 0; t < n; t++)
        kv_rope_angles(angles + (size_t)t * (size_t)m->rope.dims, &m->rope, position + t);
    tm_parallel(pool, rotate_rows, &r, (n + ROWS - 1) / ROWS);
}

static int set_flags(tm_window *w, int layer, int n)
{
    int kept = 0;
    memset(w->flags, 0, (size_t)n);
    if (!w->keep || layer >= w->keep->layers)
        return 0;
    const int *position = w->keep->position + (size_t)layer * (size_t)w->keep->capacity;
    for (int i = 0; i < w->keep->count[layer]; i++)
        if (position[i] >= 0 && position[i] < n && !w->flags[position[i]]) {
            w->flags[position[i]] = 1;
            kept++;
        }
    return kept;
}

static int window_attend(void *self, const kv_backend *backend, int layer, float *out, float *rows,
                         const float *q, const float *k, const float *k_pre, const float *v,
                         const float *sink, int position, int n, kv_error *err)
{
    tm_window *w = self;
    if (n > w->capacity)
        return kv_fail(err, KV_FAIL_RUN, "a window of %d tokens does not fit into a memory for %d",
                       n, w->capacity);
    double start = seconds();
    w->tokens = n;
    w->kept[layer] = set_flags(w, layer, n);
    int pre = w->format[0].pre, bad = run_job(w, 0, pre ? k_pre : k, layer, n, err);
    if (!bad)
        bad = run_job(w, 1, v, layer, n, err);
    w->seconds += seconds() - start;
    if (bad)
        return bad;
    if (pre)
        rotate_all(w->x[0], w->angles, w->model, position, n, w->pool);
    return backend->attention(backend->self, out, rows, q, w->x[0], w->x[1], sink, w->model->shape,
                              0, n, err);
}

int tm_window_open(tm_window **out, const kv_model *m, const kv_format *keys,
                   const kv_format *values, int capacity, tm_pool *pool, kv_error *err)
{
    *out = NULL;
    int bad = kv_format_check(keys, m->shape, 0, err);
    if (!bad)
        bad = kv_format_check(values, m->shape, 1, err);
    if (!bad && keys->outliers && capacity > 65536)
        bad = kv_fail(err, KV_FAIL_USAGE, "outliers of keys have a 16-bit index, and a window of %d "
                      "tokens is longer than 65536", capacity);
    if (!bad && capacity < 1)
        bad = kv_fail(err, KV_FAIL_USAGE, "a window needs at least one token");
    if (bad)
        return bad;
    tm_window *w = calloc(1, sizeof *w);
    if (!w)
        return no_memory("a window", err);
    size_t size = (size_t)capacity * row_of(m->shape) * sizeof(float);
    *w = (tm_window){.model = m, .format = {*keys, *values}, .capacity = capacity, .pool = pool,
                     .kernels = tm_kernels_best()};
    w->memory = (kv_memory){w, window_attend};
    w->x[0] = tm_pages(size);
    w->x[1] = tm_pages(size);
    w->flags = calloc((size_t)capacity, 1);
    w->kept = calloc((size_t)m->layers, sizeof *w->kept);
    w->angles = malloc((size_t)(keys->pre ? capacity : 1) * (size_t)m->rope.dims * sizeof(float));
    if (!w->x[0] || !w->x[1] || !w->flags || !w->kept || !w->angles) {
        tm_window_close(w);
        return no_memory("a window", err);
    }
    *out = w;
    return KV_OK;
}

void tm_window_close(tm_window *w)
{
    if (!w)
        return;
    size_t size = (size_t)w->capacity * row_of(w->model->shape) * sizeof(float);
    tm_pages_free(w->x[0], size);
    tm_pages_free(w->x[1], size);
    free(w->flags);
    free(w->kept);
    free(w->angles);
    free(w);
}

void tm_window_limits(tm_window *w, kv_limits keys, kv_limits values)
{
    w->limits[0] = keys;
    w->limits[1] = values;
}

void tm_window_keep(tm_window *w, const kv_keep *keep)
{
    w->keep = keep;
}

const kv_memory *tm_window_memory(const tm_window *w)
{
    return &w->memory;
}

const float *tm_window_read(const tm_window *w, int values)
{
    return w->x[values != 0];
}

double tm_window_seconds(const tm_window *w)
{
    return w->seconds;
}

/* Adds what one sealed store of n tokens holds. */
static void add_bytes(kv_bytes *b, const kv_format *f, kv_shape s, int values, int n, int kept)
{
    size_t row = row_of(s), groups = kv_group_count(f, s, n), words = 0;
    if (!kv_format_coded(f)) {
        b->recent += row * (size_t)n * (f->kind == KV_F32 ? 4 : 2);
        return;
    }
    kv_grouping g = kv_group_layout(f, s, n);
    if (f->axis == KV_PER_TOKEN && !kv_format_blocks(f))
        words = groups * (size_t)kv_packed_words(g.length, f->bits);
    for (int t = 0; f->axis == KV_PER_CHANNEL && t < n; t += g.length)
        words += (size_t)g.across *
                 (size_t)kv_packed_words(n - t < g.length ? n - t : g.length, f->bits);
    b->codes += words * sizeof(uint32_t);
    if (kv_format_blocks(f)) {
        size_t scale = (size_t)kv_block_scale_bytes(f->kind);
        b->codes += groups * ((size_t)kv_block_bytes(f->kind) - scale);
        b->scales += groups * scale;
    } else if (!f->is_static) {
        b->scales += groups * (kv_format_has_min(f) ? 2 : 1) * sizeof(uint16_t);
    }
    b->norms += f->norm ? (size_t)n * sizeof(float) : 0;
    b->outliers += kv_sparse_count(f, s, n, kept, values) * sizeof(kv_entry);
    b->kept += f->exclusion == KV_KEPT_EXCLUDE_ONLY ? 0 : row * (size_t)kept * sizeof(uint16_t);
}

kv_bytes tm_window_bytes(const tm_window *w, int layer)
{
    kv_bytes b = {0};
    for (int i = 0; i < 2; i++)
        add_bytes(&b, &w->format[i], w->model->shape, i, w->tokens, w->kept[layer]);
    if (kv_format_coded(&w->format[0]) || kv_format_coded(&w->format[1]))
        b.kept += (size_t)w->kept[layer] * sizeof(int);
    b.total = b.codes + b.scales + b.norms + b.outliers + b.kept + b.recent;
    return b;
}

/* --------------------------------------------------------------- streaming */

struct tm_stream {
    kv_memory memory;
    const kv_model *model;
    tm_stream_spec spec;
    tm_fast *fast;
    int *tokens; /* [layers] taken in */
    int shift;   /* position of token 0 */
    /* prefill */
    float *k, *v;   /* [layers][capacity][row], NULL while decoding */
    float *rotated; /* [capacity][row], for `pre` */
    float *angles;
    /* decode */
    int decoding;
    kv_cache cache;
    void *cache_memory;
    size_t cache_size;
    float *scratch;          /* kv_decode's */
    uint8_t *pending;        /* [layers][capacity] 1: will be kept when it arrives */
};

static size_t layer_floats(const tm_stream *s)
{
    return (size_t)s->spec.capacity * row_of(s->model->shape);
}

static uint8_t *pending(const tm_stream *s, int layer, int position)
{
    return s->pending + (size_t)layer * (size_t)s->spec.capacity + (size_t)position;
}

static kv_cache_spec cache_spec(const kv_model *m, const tm_stream_spec *spec)
{
    return (kv_cache_spec){.layers = m->layers, .shape = m->shape, .rope = m->rope,
                           .keys = spec->keys, .values = spec->values, .recent = spec->recent,
                           .capacity = spec->capacity, .kept_capacity = spec->kept,
                           .key_limits = spec->key_limits, .value_limits = spec->value_limits};
}

static int take_prefill(tm_stream *s, kv_error *err)
{
    size_t bytes = (size_t)s->model->layers * layer_floats(s) * sizeof(float);
    if (!s->k)
        s->k = tm_pages(bytes);
    if (!s->v)
        s->v = tm_pages(bytes);
    return s->k && s->v ? KV_OK : no_memory("keys and values", err);
}

static void free_prefill(tm_stream *s)
{
    size_t bytes = (size_t)s->model->layers * layer_floats(s) * sizeof(float);
    tm_pages_free(s->k, bytes);
    tm_pages_free(s->v, bytes);
    s->k = s->v = NULL;
}

static int prefill(tm_stream *s, const kv_backend *backend, int layer, float *out, float *rows,
                   const float *q, const float *k, const float *k_pre, const float *v,
                   const float *sink, int n, kv_error *err)
{
    size_t row = row_of(s->model->shape);
    int past = s->tokens[layer], pre = s->spec.keys.pre;
    if (take_prefill(s, err))
        return KV_FAIL_RUN;
    float *ks = s->k + (size_t)layer * layer_floats(s);
    float *vs = s->v + (size_t)layer * layer_floats(s);
    const float *all = ks;
    memcpy(ks + (size_t)past * row, pre ? k_pre : k, (size_t)n * row * sizeof *ks);
    memcpy(vs + (size_t)past * row, v, (size_t)n * row * sizeof *vs);
    if (pre && past) {
        memcpy(s->rotated, ks, (size_t)(past + n) * row * sizeof *ks);
        rotate_all(s->rotated, s->angles, s->model, s->shift, past + n,
                   s->fast ? tm_fast_pool(s->fast) : NULL);
        all = s->rotated;
    } else if (pre) {
        all = k;
    }
    return backend->attention(backend->self, out, rows, q, all, vs, sink, s->model->shape, past, n,
                              err);
}

/* Appends one token and answers its query. weights [H][tokens so far], or NULL. */
static int decode_one(tm_stream *s, int layer, float *out, float *weights, const float *q,
                      const float *k, const float *v, const float *sink, kv_error *err)
{
    int now = s->tokens[layer], bad;
    if (s->spec.device) {
        bad = tm_device_append(s->spec.device, layer, k, v, &now, *pending(s, layer, now), 1, err);
        return bad ? bad : tm_device_decode(s->spec.device, out, q, layer, s->model->shape.heads, sink,
                                            s->shift, err);
    }
    bad = kv_cache_append(&s->cache, layer, k, v, &now, *pending(s, layer, now), 1, err);
    if (bad)
        return bad;
    return s->fast ? tm_fast_decode(s->fast, out, weights, q, &s->cache, layer, sink, s->shift, err)
                   : kv_decode(out, weights, q, &s->cache, layer, sink, s->shift, s->scratch, err);
}

static int decode(tm_stream *s, int layer, float *out, float *rows, const float *q, const float *k,
                  const float *v, const float *sink, int n, kv_error *err)
{
    kv_shape shape = s->model->shape;
    size_t row = row_of(shape), Q = (size_t)shape.heads * (size_t)shape.head_size;
    size_t T = (size_t)s->tokens[layer] + (size_t)n, H = (size_t)shape.heads;
    float *weights = rows ? malloc(H * T * sizeof *weights) : NULL;
    int bad = rows && !weights ? no_memory("attention rows", err) : KV_OK;
    if (rows && s->spec.device)
        bad = kv_fail(err, KV_FAIL_USAGE, "the device does not hand out attention rows of its caches");
    for (size_t i = 0; i < (size_t)n && !bad; i++) {
        size_t seen = (size_t)s->tokens[layer] + 1;
        bad = decode_one(s, layer, out + i * Q, weights, q + i * Q, k + i * row, v + i * row, sink,
                         err);
        s->tokens[layer] += !bad;
        for (size_t h = 0; weights && !bad && h < H; h++) {
            float *to = rows + (h * (size_t)n + i) * T;
            memset(to, 0, T * sizeof *to);
            memcpy(to, weights + h * seen, seen * sizeof *to);
        }
    }
    free(weights);
    return bad;
}

static int stream_attend(void *self, const kv_backend *backend, int layer, float *out, float *rows,
                         const float *q, const float *k, const float *k_pre, const float *v,
                         const float *sink, int position, int n, kv_error *err)
{
    tm_stream *s = self;
    int past = s->tokens[layer];
    if (n > s->spec.capacity - past)
        return kv_fail(err, KV_FAIL_RUN, "the cache has room for %d tokens; %d are there and %d "
                       "more do not fit", s->spec.capacity, past, n);
    if (!past)
        s->shift = position;
    if (position - past != s->shift)
        return kv_fail(err, KV_FAIL_USAGE, "token %d comes at position %d; its text began at "
                       "position %d", past, position, s->shift);
    if (s->decoding)
        return decode(s, layer, out, rows, q, s->spec.keys.pre ? k_pre : k, v, sink, n, err);
    int bad = prefill(s, backend, layer, out, rows, q, k, k_pre, v, sink, n, err);
    s->tokens[layer] += bad ? 0 : n;
    return bad;
}

typedef struct {
    tm_stream *s;
    const kv_keep *keep;
    kv_error *err; /* [layers] */
} filling;

/* Which positions of a layer are kept, and how many. */
static const int *kept_in(const kv_keep *keep, int layer, int *count)
{
    *count = keep && layer < keep->layers ? keep->count[layer] : 0;
    return *count ? keep->position + (size_t)layer * (size_t)keep->capacity : NULL;
}

/* The device takes one layer after the other. */
static int fill_device(const tm_stream *s, const kv_keep *keep, const kv_cache_spec *spec,
                       kv_error *err)
{
    int bad = tm_device_begin(s->spec.device, spec, err), count;
    for (int l = 0; l < s->model->layers && !bad && s->k; l++) {
        const int *kept = kept_in(keep, l, &count);
        bad = tm_device_append(s->spec.device, l, s->k + (size_t)l * layer_floats(s),
                               s->v + (size_t)l * layer_floats(s), kept, count, s->tokens[l], err);
    }
    return bad;
}

/* A cache has one scratch area; a layer filled by a thread of its own gets another. */
static void fill_layer(void *arg, int layer, int worker)
{
    const filling *f = arg;
    tm_stream *s = f->s;
    (void)worker;
    kv_cache own = s->cache;
    void *work = malloc(kv_cache_work_size(&own.spec));
    int count;
    const int *kept = kept_in(f->keep, layer, &count);
    if (work)
        kv_cache_work_init(&own.work, &own.spec, work);
    if (!work)
        no_memory("quantizing", &f->err[layer]);
    else if (s->k)
        kv_cache_append(&own, layer, s->k + (size_t)layer * layer_floats(s),
                        s->v + (size_t)layer * layer_floats(s), kept, count, s->tokens[layer],
                        &f->err[layer]);
    if (work)
        kv_cache_settle(&own, layer);
    free(work);
}

int tm_stream_begin_decode(tm_stream *s, const kv_keep *keep, kv_error *err)
{
    if (s->decoding)
        return kv_fail(err, KV_FAIL_USAGE, "the prefill has ended already");
    kv_cache_spec spec = cache_spec(s->model, &s->spec);
    int layers = s->model->layers, bad = kv_cache_init(&s->cache, &spec, s->cache_memory, err);
    if (bad)
        return bad;
    filling f = {s, keep, calloc((size_t)layers, sizeof *f.err)};
    if (!f.err)
        return no_memory("quantizing", err);
    if (s->spec.device)
        bad = fill_device(s, keep, &spec, err);
    else
        tm_parallel(s->fast ? tm_fast_pool(s->fast) : NULL, fill_layer, &f, layers);
    for (int l = 0; l < layers && !bad; l++)
        if (f.err[l].code)
            bad = kv_fail(err, f.err[l].code, "layer %d: %.400s", l, f.err[l].text);
    free(f.err);
    if (bad)
        return bad;
    free_prefill(s);
    s->decoding = 1;
    return KV_OK;
}

int tm_stream_promote(tm_stream *s, int position, int first, int last, int *kept, kv_error *err)
{
    int count = 0, bad = KV_OK;
    if (!s->decoding)
        return kv_fail(err, KV_FAIL_USAGE, "tokens of the prefill are kept by "
                       "tm_stream_begin_decode");
    if (position < 0 || position >= s->spec.capacity)
        return kv_fail(err, KV_FAIL_USAGE, "position %d is outside the cache's %d", position,
                       s->spec.capacity);
    for (int l = first < 0 ? 0 : first; l <= last && l < s->model->layers && !bad; l++) {
        int done = 1;
        if (position >= s->tokens[l])
            *pending(s, l, position) = 1;
        else if (s->spec.device)
            bad = tm_device_keep(s->spec.device, l, position, &done, err);
        else
            bad = kv_cache_keep(&s->cache, l, position, &done, err);
        count += done;
    }
    if (kept)
        *kept = count;
    return bad;
}

void tm_stream_reset(tm_stream *s)
{
    memset(s->tokens, 0, (size_t)s->model->layers * sizeof *s->tokens);
    memset(s->pending, 0, (size_t)s->model->layers * (size_t)s->spec.capacity);
    s->decoding = 0;
    s->shift = 0;
}

/* Everything a stream needs besides the prefill's arrays. */
static int take_rest(tm_stream *s, kv_error *err)
{
    const kv_model *m = s->model;
    size_t capacity = (size_t)s->spec.capacity, D = (size_t)m->shape.head_size;
    size_t pre = s->spec.keys.pre ? capacity : 1;
    s->tokens = calloc((size_t)m->layers, sizeof *s->tokens);
    s->pending = calloc((size_t)m->layers, capacity);
    s->scratch = malloc((capacity + D) * sizeof *s->scratch);
    s->rotated = malloc(pre * row_of(m->shape) * sizeof *s->rotated);
    s->angles = malloc(pre * (size_t)m->rope.dims * sizeof *s->angles);
    s->cache_memory = tm_pages(s->cache_size);
    if (!s->tokens || !s->pending || !s->scratch || !s->rotated || !s->angles || !s->cache_memory)
        return no_memory("a cache", err);
    return KV_OK;
}

int tm_stream_check(const kv_model *m, const tm_stream_spec *spec, kv_error *err)
{
    kv_cache_spec whole = cache_spec(m, spec);
    kv_cache unused;
    return kv_cache_size(&whole) ? KV_OK : kv_cache_init(&unused, &whole, NULL, err);
}

int tm_stream_open(tm_stream **out, const kv_model *m, const tm_stream_spec *spec, tm_fast *fast,
                   kv_error *err)
{
    *out = NULL;
    kv_cache_spec whole = cache_spec(m, spec);
    int bad = kv_format_check(&spec->keys, m->shape, 0, err);
    if (!bad)
        bad = kv_format_check(&spec->values, m->shape, 1, err);
    if (!bad && spec->capacity < 1)
        bad = kv_fail(err, KV_FAIL_USAGE, "a cache needs room for at least one token");
    if (bad)
        return bad;
    tm_stream *s = calloc(1, sizeof *s);
    if (!s)
        return no_memory("a cache", err);
    *s = (tm_stream){.model = m, .spec = *spec, .fast = fast};
    s->memory = (kv_memory){s, stream_attend};
    s->cache_size = kv_cache_size(&whole);
    bad = take_rest(s, err);
    if (!bad) /* finds what does not go together, such as channel:all */
        bad = kv_cache_init(&s->cache, &whole, s->cache_memory, err);
    if (bad) {
        tm_stream_close(s);
        return bad;
    }
    tm_stream_reset(s);
    *out = s;
    return KV_OK;
}

void tm_stream_close(tm_stream *s)
{
    if (!s)
        return;
    free_prefill(s);
    tm_pages_free(s->cache_memory, s->cache_size);
    free(s->tokens);
    free(s->pending);
    free(s->scratch);
    free(s->rotated);
    free(s->angles);
    free(s);
}

const kv_memory *tm_stream_memory(const tm_stream *s)
{
    return &s->memory;
}

int tm_stream_tokens(const tm_stream *s)
{
    return s->tokens[s->model->layers - 1];
}

kv_bytes tm_stream_bytes(const tm_stream *s, int layer)
{
    return s->decoding ? kv_cache_bytes(&s->cache, layer) : (kv_bytes){0};
}

const kv_cache *tm_stream_cache(const tm_stream *s)
{
    return s->decoding ? &s->cache : NULL;
}

int tm_stream_fetch(tm_stream *s, kv_error *err)
{
    int bad = KV_OK;
    for (int l = 0; s->decoding && s->spec.device && l < s->model->layers && !bad; l++)
        bad = tm_device_fetch(s->spec.device, &s->cache, l, err);
    return bad;
}
