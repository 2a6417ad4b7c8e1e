//@ top: Run a llama decoder
/* A layer reads the residual stream twice and writes to it twice:
 *
 *     x += Wo attention(rope(Wq n(x)), rope(Wk n(x)), Wv n(x))     gives H'
 *     x += Wdown (silu(Wgate n(x)) * Wup n(x))                     gives H
 *
 * n is RMSNorm. Because the norm stands before each block ("pre-norm") and
 * never on the stream itself, a huge value written once into one channel of x
 * rides through all later layers untouched. That is where outliers live.
 *
 * There is one transformer. Matrix products and attention come from a backend
 * that the caller hands in; keys and values go to a memory that the caller
 * hands in; a tap sees, and may change, every array on the way. */
#include <math.h>
#include <string.h>

#include "kv.h"

//@ rmsnorm: Scale a vector to unit mean square
void kv_rmsnorm(float *y, const float *x, const float *gain, double eps, int C)
{
    double scale = 1 / sqrt(kv_dot(x, x, C) / C + eps);
    for (int c = 0; c < C; c++)
        y[c] = (float)(x[c] * scale * gain[c]);
}

//@ rope-angles: Turn a position into dims/2 angles
/* Pair i turns at speed base^(-2i/dims): the first pairs tell neighbours
 * apart, the last hardly move over thousands of tokens. */
void kv_rope_angles(float *cs, const kv_rope *r, int position)
{
    for (int i = 0; i < r->dims / 2; i++) {
        double speed = pow(r->base, -2.0 * i / r->dims) * r->scale;
        double angle = position * speed / (r->factors ? r->factors[i] : 1.0);
        cs[2 * i] = (float)cos(angle);
        cs[2 * i + 1] = (float)sin(angle);
    }
}

//@ rope-rotate: Turn each pair of channels by its angle
/* Two pairings are in use. GGUF llama files hold weights permuted so that
 * neighbours (2i, 2i+1) form a pair; the original code pairs i with
 * i + dims/2. Channels from dims on are left alone. */
void kv_rope_rotate(float *x, const float *cs, const kv_rope *r, int heads,
                    int D)
{
    int half = r->dims / 2;
    for (int h = 0; h < heads; h++, x += D)
        for (int i = 0; i < half; i++) {
            float *a = r->interleaved ? x + 2 * i : x + i;
            float *b = r->interleaved ? a + 1 : a + half;
            double u = *a, v = *b, c = cs[2 * i], s = cs[2 * i + 1];
            *a = (float)(u * c - v * s);
            *b = (float)(u * s + v * c);
        }
}

//@ swiglu: Gate one projection by another
void kv_swiglu(float *y, const float *gate, const float *up, size_t n)
{
    for (size_t i = 0; i < n; i++)
        y[i] = (float)(gate[i] / (1 + exp(-(double)gate[i])) * up[i]);
}

//@ scalar-backend: Offer the judge's linear algebra
static void scalar_matmul(void *self, float *y, const float *x,
                          const kv_matrix *w, int n)
{
    (void)self;
    for (int i = 0; i < n; i++)
        for (int r = 0; r < w->rows; r++)
            y[(size_t)i * w->rows + r] =
                (float)kv_dot(x + (size_t)i * w->cols,
                              w->data + (size_t)r * w->cols, w->cols);
}

static int scalar_attention(void *self, float *out, float *rows, const float *q,
                            const float *k, const float *v, const float *sink,
                            kv_shape s, int past, int n, kv_error *err)
{
    return kv_attention(out, rows, q, k, v, sink, s, past, n, self, err);
}

kv_backend kv_scalar_backend(float *scratch)
{
    return (kv_backend){scratch, scalar_matmul, scalar_attention, NULL, NULL};
}

//@ tap-names: Name the places where one may look
static const char *const tap_names[KV_TAPS] = {
    "embed", "q_pre", "k_pre", "q", "k", "v", "attention",
    "attn_out", "h_attn", "down_in", "down_out", "h", "logits",
};

const char *kv_tap_name(kv_tap tap)
{
    return tap_names[tap];
}

int kv_tap_find(const char *name)
{
    for (int i = 0; i < KV_TAPS; i++)
        if (!strcmp(name, tap_names[i]))
            return i;
    return -1;
}

//@ tap: Show an array to whoever asked for it
static void tap(const kv_run *r, kv_tap which, int layer, float *data, int rows,
                int cols)
{
    if (r->tap && r->tap_mask >> which & 1)
        r->tap(r->tap_self, which, layer, data, rows, cols);
}

//@ work: Lay out the work space of a forward pass
typedef struct {
    float *x, *norm;              /* [n][C] residual, normed copy */
    float *q, *k, *k_pre, *v;     /* projections */
    float *heads;                 /* [n][H*D] attention output */
    float *gate, *up;             /* [n][F] */
    float *block;                 /* [n][C] what a block adds to x */
    float *angles;                /* [n][dims] */
    float *rows;                  /* [H][n][past+n], or NULL */
} work;

//@ work-layout: Give each array its place
/* Returns the size; w is filled in relative to base. */
static size_t work_layout(work *w, float *base, const kv_model *m,
                          unsigned mask, int past, int n)
{
    size_t N = (size_t)n, C = (size_t)m->width, F = (size_t)m->ffn;
    size_t D = (size_t)m->shape.head_size;
    size_t Q = (size_t)m->shape.heads * D, K = (size_t)m->shape.kv_heads * D;
    size_t R = (size_t)m->shape.heads * N * ((size_t)past + N);
    size_t at = 0, size[12] = {N * C, N * C, N * Q, N * K, N * K, N * K, N * Q,
                               N * F, N * F, N * C, N * (size_t)m->rope.dims,
                               mask >> KV_TAP_ATTENTION & 1 ? R : 0};
    float **place[12] = {&w->x, &w->norm, &w->q, &w->k, &w->k_pre, &w->v,
                         &w->heads, &w->gate, &w->up, &w->block, &w->angles,
                         &w->rows};
    for (int i = 0; i < 12; i++) {
        if (base)
            *place[i] = size[i] ? base + at : NULL;
        at += size[i];
    }
    return at;
}

size_t kv_forward_work(const kv_model *m, unsigned tap_mask, int past, int n)
{
    work unused;
    return work_layout(&unused, NULL, m, tap_mask, past, n);
}

//@ norm-rows: Normalise every row, by the backend if it knows how
static void norm_rows(float *y, const float *x, const float *gain,
                      const kv_run *r, int n)
{
    const kv_model *m = r->model;
    if (r->backend->rmsnorm) {
        r->backend->rmsnorm(r->backend->self, y, x, gain, m->norm_eps, m->width,
                            n);
        return;
    }
    for (int i = 0; i < n; i++)
        kv_rmsnorm(y + (size_t)i * m->width, x + (size_t)i * m->width, gain,
                   m->norm_eps, m->width);
}

//@ project: Make queries, keys and values, and rotate the first two
static void project(work *w, const kv_run *r, const kv_layer_weights *lw, int l,
                    int n)
{
    const kv_model *m = r->model;
    const kv_backend *b = r->backend;
    kv_shape s = m->shape;
    int Q = s.heads * s.head_size, K = s.kv_heads * s.head_size;
    norm_rows(w->norm, w->x, lw->attn_norm, r, n);
    b->matmul(b->self, w->q, w->norm, &lw->q, n);
    b->matmul(b->self, w->k, w->norm, &lw->k, n);
    b->matmul(b->self, w->v, w->norm, &lw->v, n);
    tap(r, KV_TAP_Q_PRE, l, w->q, n, Q);
    tap(r, KV_TAP_K_PRE, l, w->k, n, K);
    memcpy(w->k_pre, w->k, (size_t)n * (size_t)K * sizeof *w->k);
    for (int i = 0; i < n; i++) {
        const float *cs = w->angles + (size_t)i * m->rope.dims;
        kv_rope_rotate(w->q + (size_t)i * Q, cs, &m->rope, s.heads,
                       s.head_size);
        kv_rope_rotate(w->k + (size_t)i * K, cs, &m->rope, s.kv_heads,
                       s.head_size);
    }
    tap(r, KV_TAP_Q, l, w->q, n, Q);
    tap(r, KV_TAP_K, l, w->k, n, K);
    tap(r, KV_TAP_V, l, w->v, n, K);
}

//@ attend: Let the memory, or the tokens themselves, answer the queries
static int attend(work *w, const kv_run *r, const kv_layer_weights *lw, int l,
                  int n, kv_error *err)
{
    const kv_backend *b = r->backend;
    const kv_memory *mem = r->memory;
    kv_shape s = r->model->shape;
    int bad = mem ? mem->attend(mem->self, b, l, w->heads, w->rows, w->q, w->k,
                                w->k_pre, w->v, lw->sink, r->position, n, err)
                  : b->attention(b->self, w->heads, w->rows, w->q, w->k, w->v,
                                 lw->sink, s, 0, n, err);
    if (bad)
        return bad;
    int T = (mem ? r->past : 0) + n;
    tap(r, KV_TAP_ATTENTION, l, w->rows, s.heads * n, T);
    if (r->remix && !mem && w->rows)
        kv_attention_mix(w->heads, w->rows, w->v, s, n, T);
    tap(r, KV_TAP_ATTN_OUT, l, w->heads, n, s.heads * s.head_size);
    return KV_OK;
}

//@ feed-forward: Run the gated network
static void feed_forward(work *w, const kv_run *r, const kv_layer_weights *lw,
                         int l, int n)
{
    const kv_model *m = r->model;
    const kv_backend *b = r->backend;
    size_t size = (size_t)n * (size_t)m->ffn;
    norm_rows(w->norm, w->x, lw->ffn_norm, r, n);
    b->matmul(b->self, w->gate, w->norm, &lw->gate, n);
    b->matmul(b->self, w->up, w->norm, &lw->up, n);
    if (b->swiglu)
        b->swiglu(b->self, w->gate, w->gate, w->up, size);
    else
        kv_swiglu(w->gate, w->gate, w->up, size);
    tap(r, KV_TAP_DOWN_IN, l, w->gate, n, m->ffn);
    b->matmul(b->self, w->block, w->gate, &lw->down, n);
    tap(r, KV_TAP_DOWN_OUT, l, w->block, n, m->width);
}

//@ layer: Add both blocks to the residual stream
static void add(float *x, const float *y, size_t n)
{
    for (size_t i = 0; i < n; i++)
        x[i] += y[i];
}

static int layer(work *w, const kv_run *r, int l, int n, kv_error *err)
{
    const kv_model *m = r->model;
    const kv_layer_weights *lw = m->layer + l;
    size_t size = (size_t)n * (size_t)m->width;
    project(w, r, lw, l, n);
    int bad = attend(w, r, lw, l, n, err);
    if (bad)
        return bad;
    r->backend->matmul(r->backend->self, w->block, w->heads, &lw->o, n);
    add(w->x, w->block, size);
    tap(r, KV_TAP_H_ATTN, l, w->x, n, m->width);
    feed_forward(w, r, lw, l, n);
    add(w->x, w->block, size);
    tap(r, KV_TAP_H, l, w->x, n, m->width);
    for (size_t i = 0; i < size; i++)
        if (!isfinite(w->x[i]))
            return kv_fail(err, KV_FAIL_RUN, "layer %d: the residual after it "
                           "is not finite at token %zu, channel %zu; the "
                           "model's weights are damaged or out of range", l,
                           i / (size_t)m->width, i % (size_t)m->width);
    return KV_OK;
}

//@ forward: Embed, run the layers, normalise
int kv_forward(float *hidden, const kv_run *r, const int *tokens, int n,
               kv_error *err)
{
    const kv_model *m = r->model;
    work w;
    if (n < 1)
        return KV_OK;
    work_layout(&w, r->work, m, r->tap_mask, r->past, n);
    for (int i = 0; i < n; i++) {
        if (tokens[i] < 0 || tokens[i] >= m->vocab)
            return kv_fail(err, KV_FAIL_RUN, "token %d at position %d is "
                           "outside the vocabulary of %d", tokens[i],
                           r->past + i, m->vocab);
        memcpy(w.x + (size_t)i * m->width,
               m->embed.data + (size_t)tokens[i] * m->width,
               (size_t)m->width * sizeof *w.x);
        kv_rope_angles(w.angles + (size_t)i * m->rope.dims, &m->rope,
                       r->position + i);
    }
    tap(r, KV_TAP_EMBED, -1, w.x, n, m->width);
    for (int l = 0; l < m->layers; l++) {
        int bad = layer(&w, r, l, n, err);
        if (bad)
            return bad;
    }
    norm_rows(hidden, w.x, m->norm, r, n);
    return kv_check_finite(hidden, (size_t)n * (size_t)m->width,
                           "hidden state after the final norm", err);
}

//@ logits: Score every token of the vocabulary
int kv_logits(float *logits, const kv_run *r, const float *hidden, int n,
              kv_error *err)
{
    const kv_model *m = r->model;
    int bad = kv_check_finite(hidden, (size_t)n * (size_t)m->width,
                              "final hidden state", err);
    if (bad)
        return bad;
    r->backend->matmul(r->backend->self, logits, hidden, &m->output, n);
    tap(r, KV_TAP_LOGITS, m->layers, logits, n, m->vocab);
    return KV_OK;
}
