/* The fast backend, see fast.h.
 *
 * Matrix products. y = x W^T is cut into tiles of TILE_X rows of x by TILE_W rows of W. Tiles that
 * share rows of W follow each other, so that a tile of W comes from memory once and then from the
 * cache. For few rows of x the cost is reading W, and the tiles are stripes of W of about
 * STRIPE weights; for the fewest they are read in the form of blocks.h, which is shorter, if
 * tm_fast_know has been told where they come from. Both forms give the same bits. The blocks
 * are made when they are first used: who only runs whole windows never has them.
 *
 * Attention. A task is one query head and TILE_Q queries: scores against all keys that the last of
 * them sees (one product), softmax row by row, values under the weights (one product). Keys behind
 * a query get weight 0. Late queries cost more than early ones, so tasks start from the end.
 *
 * A single query over a packed cache is fast_decode.c's. */
#include "fast.h"

#include <cblas.h>
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "fast_inside.h"
#include "pages.h"

enum {
    TILE_X = 128, TILE_W = 192, TILE_Q = 64, BUNCH = 8192,
    FEW_ROWS = 8,  /* of x: OpenBLAS from here on */
    FEWEST = 3,    /* of x: from here on making weights anew for each costs more than reading */
    STRIPE = 32768 /* weights */
};

static int tiles(int n, int size)
{
    return (n + size - 1) / size;
}

static int smaller(int a, int b)
{
    return a < b ? a : b;
}

/* ---------------------------------------------------------------- memory */

/* Replaces *p, copies x *size floats, by a larger block; what was in it is lost. */
static int grow(float **p, size_t *size, size_t n, size_t copies, kv_error *err)
{
    if (n <= *size)
        return KV_OK;
    tm_pages_free(*p, *size * copies * sizeof **p);
    n = (n + 15) / 16 * 16;
    *p = tm_pages(n * copies * sizeof **p);
    *size = *p ? n : 0;
    if (!*p)
        return kv_fail(err, KV_FAIL_RUN, "not enough memory for attention: %zu times %zu bytes; "
                       "use fewer threads or a shorter context", copies, n * sizeof **p);
    return KV_OK;
}

int tm_fast_need_scratch(tm_fast *f, size_t n, kv_error *err)
{
    return grow(&f->scratch, &f->scratch_size, n, (size_t)tm_pool_threads(f->pool), err);
}

int tm_fast_need_shared(tm_fast *f, size_t n, kv_error *err)
{
    return grow(&f->shared, &f->shared_size, n, 1, err);
}

/* ------------------------------------------------------- matrix products */

typedef struct {
    const tm_fast *f;
    float *y;
    const float *x;
    const kv_matrix *w;
    const tm_blocks *blocks;
    int n, across, stripe; /* tiles of x side by side; rows of W in a stripe */
} product;

static void product_tile(void *arg, int task, int worker)
{
    const product *p = arg;
    (void)worker;
    int i = task % p->across * TILE_X, r = task / p->across * TILE_W, K = p->w->cols;
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, smaller(TILE_X, p->n - i),
                smaller(TILE_W, p->w->rows - r), K, 1, p->x + (size_t)i * (size_t)K, K,
                p->w->data + (size_t)r * (size_t)K, K, 0,
                p->y + (size_t)i * (size_t)p->w->rows + r, p->w->rows);
}

/* Where data is, or would have to be, among the matrices that are known. */
static int place(const tm_fast *f, const float *data)
{
    int low = 0, high = f->n_known;
    while (low < high) {
        int middle = low + (high - low) / 2;
        if (f->known[middle].data < data)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static void drop_blocks(tm_fast *f)
{
    tm_pages_free(f->blocks, f->blocks_size);
    f->blocks = NULL;
    f->blocks_size = 0;
    for (int i = 0; i < f->n_known; i++)
        f->known[i].blocks.data = NULL;
}

int tm_fast_know(tm_fast *f, const float *data, const gguf_tensor *t, kv_error *err)
{
    int at = place(f, data);
    drop_blocks(f);
    if (at == f->n_known || f->known[at].data != data) {
        tm_known *more = realloc(f->known, ((size_t)f->n_known + 1) * sizeof *more);
        if (!more)
            return kv_fail(err, KV_FAIL_RUN, "not enough memory");
        f->known = more;
        memmove(more + at + 1, more + at, (size_t)(f->n_known++ - at) * sizeof *more);
    }
    f->known[at] = (tm_known){data, t, tm_blocks_plan(t), 0};
    return KV_OK;
}

void tm_fast_forget(tm_fast *f)
{
    drop_blocks(f);
    free(f->known);
    f->known = NULL;
    f->n_known = 0;
}

/* Memory for the blocks of all matrices together: one by one they would waste huge pages. */
static int need_blocks(tm_fast *f)
{
    if (f->blocks)
        return 1;
    for (int i = 0; i < f->n_known; i++) {
        f->known[i].at = f->blocks_size;
        f->blocks_size += f->known[i].blocks.size;
    }
    f->blocks = tm_pages(f->blocks_size);
    if (!f->blocks)
        f->blocks_size = 0;
    return f->blocks != NULL;
}

/* What a product of n rows is to read. */
static const tm_blocks *blocks_of(tm_fast *f, const kv_matrix *w, int n)
{
    static const tm_blocks floats = {.form = TM_AS_FLOATS};
    int at = n <= FEWEST ? place(f, w->data) : f->n_known;
    tm_known *k = at < f->n_known && f->known[at].data == w->data ? &f->known[at] : NULL;
    if (!k || k->blocks.form == TM_AS_FLOATS || k->blocks.rows != w->rows ||
        k->blocks.cols != w->cols || !f->kernels->gemv4 || !need_blocks(f))
        return &floats;
    if (!k->blocks.size && tm_fast_need_scratch(f, 4 * (size_t)w->cols, NULL))
        return &floats;
    if (!k->blocks.data)
        tm_blocks_fill(&k->blocks, k->tensor, f->blocks + k->at, f->pool);
    return &k->blocks;
}

static void stripe_of_floats(const product *p, int first, int n)
{
    size_t cols = (size_t)p->w->cols;
    p->f->kernels->gemv(p->y + first, (size_t)p->w->rows, p->x, p->w->data + (size_t)first * cols,
                        n, p->w->cols, p->n);
}

/* Four rows at a time go through this thread's scratch. */
static void stripe_of_halves(const product *p, int first, int n, float *scratch)
{
    const tm_kernels *k = p->f->kernels;
    size_t cols = (size_t)p->w->cols;
    const uint16_t *from = (const uint16_t *)p->blocks->data + (size_t)first * cols;
    for (int r = 0; r < n; r += 4) {
        int rows = smaller(4, n - r);
        size_t all = (size_t)rows * cols;
        if (p->blocks->form == TM_AS_HALVES)
            k->widen_half(scratch, from + (size_t)r * cols, all);
        else
            k->widen_bf16(scratch, from + (size_t)r * cols, all);
        k->gemv(p->y + first + r, (size_t)p->w->rows, p->x, scratch, rows, p->w->cols, p->n);
    }
}

static void stripe_of_blocks(const product *p, int first, int n)
{
    const tm_kernels *k = p->f->kernels;
    const void *from = (const char *)p->blocks->data + (size_t)first * p->blocks->row_bytes;
    for (int i = 0; i < p->n; i++) {
        float *y = p->y + (size_t)i * (size_t)p->w->rows + first;
        const float *x = p->x + (size_t)i * (size_t)p->w->cols;
        if (p->blocks->form == TM_AS_BLOCK4)
            k->gemv4(y, x, from, n, p->w->cols / 32);
        else
            k->gemv8(y, x, from, n, p->w->cols / 64);
    }
}

static void product_stripe(void *arg, int task, int worker)
{
    const product *p = arg;
    int first = task * p->stripe, n = smaller(p->stripe, p->w->rows - first);
    switch (p->blocks->form) {
    case TM_AS_FLOATS: stripe_of_floats(p, first, n); break;
    case TM_AS_BLOCK4:
    case TM_AS_BLOCK8: stripe_of_blocks(p, first, n); break;
    case TM_AS_HALVES:
    case TM_AS_BF16: stripe_of_halves(p, first, n, tm_fast_scratch(p->f, worker)); break;
    }
}

static void fast_matmul(void *self, float *y, const float *x, const kv_matrix *w, int n)
{
    tm_fast *f = self;
    product p = {f, y, x, w, blocks_of(f, w, n), n, tiles(n, TILE_X),
                 STRIPE / w->cols / 4 * 4 + 4};
    if (n <= FEW_ROWS)
        tm_parallel(f->pool, product_stripe, &p, tiles(w->rows, p.stripe));
    else
        tm_parallel(f->pool, product_tile, &p, p.across * tiles(w->rows, TILE_W));
}

/* -------------------------------------------------- norm and feed-forward */

typedef struct {
    const tm_fast *f;
    float *y;
    const float *x, *other;
    double eps;
    size_t n;
    int C, rows_each;
} rowwise;

static void swiglu_bunch(void *arg, int task, int worker)
{
    const rowwise *r = arg;
    (void)worker;
    size_t at = (size_t)task * BUNCH, left = r->n - at;
    r->f->kernels->swiglu(r->y + at, r->x + at, r->other + at, left < BUNCH ? left : BUNCH);
}

static void fast_swiglu(void *self, float *y, const float *gate, const float *up, size_t n)
{
    rowwise r = {.f = self, .y = y, .x = gate, .other = up, .n = n};
    tm_parallel(r.f->pool, swiglu_bunch, &r, (int)((n + BUNCH - 1) / BUNCH));
}

static void norm_bunch(void *arg, int task, int worker)
{
    const rowwise *r = arg;
    (void)worker;
    size_t C = (size_t)r->C, first = (size_t)task * (size_t)r->rows_each;
    for (size_t i = first; i < first + (size_t)r->rows_each && i < r->n; i++)
        r->f->kernels->rmsnorm(r->y + i * C, r->x + i * C, r->other, r->eps, r->C);
}

static void fast_rmsnorm(void *self, float *y, const float *x, const float *gain, double eps,
                         int C, int n)
{
    rowwise r = {.f = self, .y = y, .x = x, .other = gain, .eps = eps, .n = (size_t)n, .C = C,
                 .rows_each = BUNCH / C + 1};
    tm_parallel(r.f->pool, norm_bunch, &r, tiles(n, r.rows_each));
}

/* -------------------------------------------------------------- attention */

typedef struct {
    const tm_fast *f;
    float *out, *rows;
    const float *q, *k, *v, *sink;
    kv_shape s;
    int past, n, blocks;
    int *failed; /* per block and head: a score was not finite */
} attention;

/* Softmax of row i of a block; zeros behind the visible keys up to `wide`. Returns the factor that
 * makes the weights sum to one (or less, with a sink logit), 0 if a score is not finite. */
static float soften(const attention *a, float *p, int visible, int wide, int head)
{
    float max = a->sink ? a->sink[head] : -FLT_MAX, logit = max;
    float sum = a->f->kernels->exp_row(p, &max, visible);
    memset(p + visible, 0, (size_t)(wide - visible) * sizeof *p);
    if (a->sink)
        sum += expf(logit - max);
    return sum <= FLT_MAX ? 1 / sum : 0;
}

static void attention_tile(void *arg, int task, int worker)
{
    const attention *a = arg;
    kv_shape s = a->s;
    int head = task % s.heads, first = (a->blocks - 1 - task / s.heads) * TILE_Q;
    int count = smaller(TILE_Q, a->n - first), wide = a->past + first + count;
    int D = s.head_size, Q = s.heads * D, K = s.kv_heads * D;
    int kv = head / (s.heads / s.kv_heads) * D;
    size_t T = (size_t)a->past + (size_t)a->n, at = (size_t)first * (size_t)Q + (size_t)(head * D);
    float *p = tm_fast_scratch(a->f, worker), factor[TILE_Q];
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, count, wide, D, 1 / sqrtf((float)D),
                a->q + at, Q, a->k + kv, K, 0, p, wide);
    for (int i = 0; i < count; i++) {
        float *row = p + (size_t)i * (size_t)wide;
        factor[i] = soften(a, row, a->past + first + i + 1, wide, head);
        if (!(factor[i] > 0))
            a->failed[task] = 1;
        if (!a->rows)
            continue;
        float *to = a->rows + ((size_t)head * (size_t)a->n + (size_t)(first + i)) * T;
        memset(to, 0, T * sizeof *to);
        memcpy(to, row, (size_t)wide * sizeof *to);
        a->f->kernels->scale(to, factor[i], (size_t)wide);
    }
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, count, D, wide, 1, p, wide, a->v + kv,
                K, 0, a->out + at, Q);
    for (int i = 0; i < count; i++)
        a->f->kernels->scale(a->out + at + (size_t)i * (size_t)Q, factor[i], (size_t)D);
}

static int fast_attention(void *self, float *out, float *rows, const float *q, const float *k,
                          const float *v, const float *sink, kv_shape s, int past, int n,
                          kv_error *err)
{
    tm_fast *f = self;
    int blocks = tiles(n, TILE_Q), tasks = blocks * s.heads, bad = KV_OK;
    for (int h = 0; sink && h < s.heads; h++)
        if (!isfinite(sink[h]))
            return kv_fail(err, KV_FAIL_RUN, "softmax: the sink logit is not finite");
    if (tm_fast_need_scratch(f, TILE_Q * ((size_t)past + (size_t)n), err))
        return KV_FAIL_RUN;
    int *failed = calloc((size_t)tasks + 1, sizeof *failed);
    if (!failed)
        return kv_fail(err, KV_FAIL_RUN, "not enough memory for attention");
    attention a = {f, out, rows, q, k, v, sink, s, past, n, blocks, failed};
    tm_parallel(f->pool, attention_tile, &a, tasks);
    for (int t = 0; t < tasks && !bad; t++)
        if (failed[t])
            bad = kv_fail(err, KV_FAIL_RUN, "attention: a score of head %d is not finite", t %
                          s.heads);
    free(failed);
    return bad;
}

/* ------------------------------------------------------------- open, close */

int tm_fast_open(tm_fast **out, int threads, kv_error *err)
{
    *out = NULL;
    tm_fast *f = calloc(1, sizeof *f);
    if (!f)
        return kv_fail(err, KV_FAIL_RUN, "not enough memory");
    int bad = tm_pool_open(&f->pool, threads, err);
    if (bad) {
        free(f);
        return bad;
    }
    openblas_set_num_threads(1);
    f->kernels = tm_kernels_best();
    f->backend = (kv_backend){f, fast_matmul, fast_attention, fast_swiglu, fast_rmsnorm};
    *out = f;
    return KV_OK;
}

void tm_fast_close(tm_fast *f)
{
    if (!f)
        return;
    size_t threads = (size_t)tm_pool_threads(f->pool);
    tm_pages_free(f->scratch, f->scratch_size * threads * sizeof *f->scratch);
    tm_pages_free(f->shared, f->shared_size * sizeof *f->shared);
    tm_angles_free(&f->angles);
    tm_fast_forget(f);
    tm_pool_close(f->pool);
    free(f);
}

const kv_backend *tm_fast_backend(const tm_fast *f)
{
    return &f->backend;
}

tm_pool *tm_fast_pool(const tm_fast *f)
{
    return f->pool;
}

const char *tm_fast_simd(const tm_fast *f)
{
    return f->kernels->name;
}

int tm_fast_choose(tm_fast *f, int version)
{
    const tm_kernels *k = tm_kernels_at(version);
    if (k)
        f->kernels = k;
    return k != NULL;
}
