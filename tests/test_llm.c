/* The fast backend against the scalar one, on the hand-built model and on layers of the real one
 * (KV_LLM).
 *
 * Both run one layer on the same input: the residual as it arrives there. At every tap the fast
 * backend's numbers are compared with the scalar one's and then replaced by them, so that each step
 * starts from identical numbers and its own bound (bounds.h) holds; errors do not add up over
 * steps. Between taps lie
 *   a norm and a product (q, k, v)   norm: g(C)/2 + 5 u, relative; product: g(C + 1)
 *   attention                        bounds.h
 *   a product and a sum (h_attn)     g(C + 1), and one rounding on either side
 *   a norm, two products, SwiGLU     gate and up as q; silu has a slope of at most 1.1
 *   a product (down_out)             g(F + 1)
 * and rotation and the sum that gives h are ref's own in both runs: equal to the bit.
 *
 * The layers are those where outliers of thousands make sums cancel: with them a bound that is not
 * relative to the sum of magnitudes fails. */
#define _XOPEN_SOURCE 700 /* mkstemp */
#include <unistd.h>

#include "bounds.h"
#include "fast.h"
#include "handmade.h"
#include "kernels.h"
#include "model.h"
#include "tokenizer.h"

static const char text[] =
    "The quick brown fox jumps over the lazy dog, and the dog, who has seen many foxes in his "
    "life, does not even open an eye. A second fox comes by in the evening.\n\nIt asks: \"Is "
    "anybody at home?\" There were 3,141 answers, none of them useful.<|endoftext|>Installing the "
    "package takes two steps. First, unpack the archive into a folder of your own; then run "
    "`make` there and read what it prints.";

typedef struct {
    int n, taps;
    kv_model model; /* one layer; its embedding is the residual that enters it */
    float *work, *scratch, *at[KV_TAPS];
    size_t size[KV_TAPS];
    int wrong[KV_TAPS];
    double used[KV_TAPS]; /* largest share of the bound that was needed */
} trial;

enum { ALL_TAPS = (1 << KV_TAP_LOGITS) - 1, NO_ROWS = ALL_TAPS & ~(1 << KV_TAP_ATTENTION) };

/* ---------------------------------------------------------------- the runs */

static void record(void *self, kv_tap tap, int layer, float *data, int rows, int cols)
{
    trial *t = self;
    (void)layer;
    t->size[tap] = (size_t)rows * (size_t)cols;
    t->at[tap] = check_floats(t->size[tap]);
    memcpy(t->at[tap], data, t->size[tap] * sizeof *data);
    t->taps++;
}

static void judge(trial *t, kv_tap tap, const float *data);

static void compare(void *self, kv_tap tap, int layer, float *data, int rows, int cols)
{
    trial *t = self;
    (void)layer;
    cr_assert_eq(t->size[tap], (size_t)rows * (size_t)cols);
    judge(t, tap, data);
    memcpy(data, t->at[tap], t->size[tap] * sizeof *data);
    t->taps++;
}

static void run(trial *t, const kv_backend *b, kv_tap_function *tap, unsigned mask)
{
    int *tokens = calloc((size_t)t->n, sizeof *tokens);
    float *hidden = check_floats((size_t)t->n * (size_t)t->model.width);
    kv_error err;
    for (int i = 0; i < t->n; i++)
        tokens[i] = i;
    kv_run r = {.model = &t->model, .backend = b, .work = t->work, .tap = tap, .tap_self = t,
                .tap_mask = mask};
    t->taps = 0;
    cr_assert_eq(kv_forward(hidden, &r, tokens, t->n, &err), KV_OK, "%s", err.text);
    cr_assert_eq(t->taps, KV_TAP_LOGITS - (mask == NO_ROWS));
    free(tokens), free(hidden);
}

/* -------------------------------------------------------------- the bounds */

/* Sum and sum of magnitudes of the product behind y[r] = sum of x[c] w[r][c]. */
static void product(double *sum, double *size, const float *x, const kv_matrix *w, int r)
{
    *sum = *size = 0;
    for (int c = 0; c < w->cols; c++) {
        double p = (double)x[c] * w->data[(size_t)r * (size_t)w->cols + (size_t)c];
        *sum += p;
        *size += fabs(p);
    }
}

static void expect(trial *t, kv_tap tap, double got, double want, double bound)
{
    double used = fabs(got - want) / bound;
    t->wrong[tap] += !(fabs(got - want) <= bound);
    if (got != want)
        t->used[tap] = fmax(t->used[tap], used);
}

/* data [n][rows] = x [n][cols] W^T, with x (gain given) behind a norm. */
static void judge_product(trial *t, kv_tap tap, const float *data, const float *x,
                          const float *gain, const kv_matrix *w)
{
    int C = w->cols;
    double relative = g(C + 1) + u + (gain ? g(C) / 2 + 5 * u : 0), sum, size;
    float *y = check_floats((size_t)C);
    for (int i = 0; i < t->n; i++) {
        memcpy(y, x + (size_t)i * (size_t)C, (size_t)C * sizeof *y);
        if (gain)
            kv_rmsnorm(y, y, gain, t->model.norm_eps, C);
        for (int r = 0; r < w->rows; r++) {
            size_t at = (size_t)i * (size_t)w->rows + (size_t)r;
            product(&sum, &size, y, w, r);
            expect(t, tap, data[at], t->at[tap][at], relative * size * (1 + 1e-3));
        }
    }
    free(y);
}

/* rows: NULL where only the output is there to be judged. */
static void judge_attention(trial *t, kv_tap tap, const float *out, const float *rows)
{
    kv_shape s = t->model.shape;
    size_t n = (size_t)t->n, D = (size_t)s.head_size;
    float *sink = check_floats((size_t)s.heads);
    problem p = {s, 0, t->n, t->at[KV_TAP_Q], t->at[KV_TAP_K], t->at[KV_TAP_V], NULL, NULL, sink};
    for (int i = 0; i < t->n; i++)
        for (int h = 0; h < s.heads; h++) {
            size_t at = (size_t)(i * s.heads + h) * D, row = ((size_t)h * n + (size_t)i) * n;
            t->wrong[tap] += outside(&p, out + at, rows ? rows + row : NULL,
                                     t->at[KV_TAP_ATTN_OUT] + at, t->at[KV_TAP_ATTENTION] + row, i,
                                     h, 0);
        }
    free(sink);
}

static void judge_after_attention(trial *t, const float *data)
{
    const kv_matrix *o = &t->model.layer->o;
    double sum, size;
    for (int i = 0; i < t->n; i++)
        for (int r = 0; r < o->rows; r++) {
            size_t at = (size_t)i * (size_t)o->rows + (size_t)r;
            double want = t->at[KV_TAP_H_ATTN][at];
            product(&sum, &size, t->at[KV_TAP_ATTN_OUT] + (size_t)i * (size_t)o->cols, o, r);
            expect(t, KV_TAP_H_ATTN, data[at], want,
                   (g(o->cols + 1) + u) * size * (1 + 1e-3) + 2.01 * u * fabs(want));
        }
}

static void judge_down_in(trial *t, const float *data)
{
    const kv_layer_weights *w = t->model.layer;
    int C = t->model.width, F = t->model.ffn;
    double relative = (g(C + 1) + u + g(C) / 2 + 5 * u) * (1 + 1e-3);
    float *y = check_floats((size_t)C);
    for (int i = 0; i < t->n; i++) {
        kv_rmsnorm(y, t->at[KV_TAP_H_ATTN] + (size_t)i * (size_t)C, w->ffn_norm, t->model.norm_eps,
                   C);
        for (int r = 0; r < F; r++) {
            size_t at = (size_t)i * (size_t)F + (size_t)r;
            double gate, up, gate_size, up_size;
            product(&gate, &gate_size, y, &w->gate, r);
            product(&up, &up_size, y, &w->up, r);
            double dg = relative * gate_size, du = relative * up_size;
            double silu = fabs(gate / (1 + exp(-gate)));
            expect(t, KV_TAP_DOWN_IN, data[at], t->at[KV_TAP_DOWN_IN][at],
                   1.1 * dg * (fabs(up) + du) + silu * du + 9 * u * silu * fabs(up) +
                       fabs(gate * up) * 5e-39 + 1e-37);
        }
    }
    free(y);
}

static void judge(trial *t, kv_tap tap, const float *data)
{
    const kv_layer_weights *w = t->model.layer;
    const float *x = t->at[KV_TAP_EMBED];
    if (tap == KV_TAP_Q_PRE)
        judge_product(t, tap, data, x, w->attn_norm, &w->q);
    else if (tap == KV_TAP_K_PRE)
        judge_product(t, tap, data, x, w->attn_norm, &w->k);
    else if (tap == KV_TAP_V)
        judge_product(t, tap, data, x, w->attn_norm, &w->v);
    else if (tap == KV_TAP_ATTENTION)
        judge_attention(t, tap, t->at[KV_TAP_ATTN_OUT], data);
    else if (tap == KV_TAP_ATTN_OUT)
        judge_attention(t, tap, data, NULL);
    else if (tap == KV_TAP_H_ATTN)
        judge_after_attention(t, data);
    else if (tap == KV_TAP_DOWN_IN)
        judge_down_in(t, data);
    else if (tap == KV_TAP_DOWN_OUT)
        judge_product(t, tap, data, t->at[KV_TAP_DOWN_IN], NULL, &w->down);
    else /* embed, q, k, h */
        t->wrong[tap] += !check_same(data, t->at[tap], t->size[tap]);
}

/* ---------------------------------------------------------------- the test */

typedef struct {
    float *x; /* residual before layer `layer` */
    int layer;
} arrival;

static void catch_residual(void *self, kv_tap tap, int layer, float *data, int rows, int cols)
{
    arrival *a = self;
    if (layer != a->layer - 1)
        return;
    (void)tap;
    a->x = check_floats((size_t)rows * (size_t)cols);
    memcpy(a->x, data, (size_t)rows * (size_t)cols * sizeof *data);
}

/* What enters a layer, by a fast run over the layers before it. */
static float *residual_before(const kv_model *m, tm_fast *f, const int *ids, int n, int layer)
{
    kv_model lower = *m;
    arrival a = {NULL, layer};
    kv_error err;
    lower.layers = layer;
    unsigned mask = 1u << KV_TAP_H | 1u << KV_TAP_EMBED; /* the latter is what enters layer 0 */
    float *work = check_floats(kv_forward_work(&lower, mask, 0, n));
    float *hidden = check_floats((size_t)n * (size_t)m->width);
    kv_run r = {.model = &lower, .backend = tm_fast_backend(f), .work = work, .tap_mask = mask,
                .tap = catch_residual, .tap_self = &a};
    cr_assert_eq(kv_forward(hidden, &r, ids, n, &err), KV_OK, "%s", err.text);
    free(work), free(hidden);
    cr_assert_not_null(a.x);
    return a.x;
}

/* Returns the largest share of a bound that was needed. */
static double check_layer(const kv_model *m, tm_fast *f, const int *ids, int n, int layer)
{
    trial t = {.n = n, .model = *m};
    float *x = residual_before(m, f, ids, n, layer);
    t.model.layers = 1;
    t.model.layer = m->layer + layer;
    t.model.vocab = n;
    t.model.embed = (kv_matrix){n, m->width, x};
    t.work = check_floats(kv_forward_work(&t.model, ~0u, 0, n));
    t.scratch = check_floats((size_t)n);
    kv_backend scalar = kv_scalar_backend(t.scratch);
    run(&t, &scalar, record, ALL_TAPS);
    for (int v = 0; tm_kernels_at(v); v++) {
        cr_assert(tm_fast_choose(f, v));
        run(&t, tm_fast_backend(f), compare, ALL_TAPS);
        run(&t, tm_fast_backend(f), compare, NO_ROWS); /* no rows asked for: other loops */
        for (int tap = 0; tap < KV_TAP_LOGITS; tap++)
            cr_expect_eq(t.wrong[tap], 0, "layer %d, %s, %s: %d outside", layer, tm_fast_simd(f),
                         kv_tap_name((kv_tap)tap), t.wrong[tap]);
    }
    double used = 0;
    for (int tap = 0; tap < KV_TAP_LOGITS; tap++)
        used = t.used[tap] > used ? t.used[tap] : used;
    for (int tap = 0; tap < KV_TAP_LOGITS; tap++)
        free(t.at[tap]);
    free(t.work), free(t.scratch), free(x);
    return used;
}

static void check_model(const char *path, const int *layers, int count)
{
    tm_model *model;
    tokenizer *tok;
    tm_fast *f;
    int *ids, n;
    kv_error err;
    cr_assert_eq(tm_model_load(&model, path, &err), KV_OK, "%s", err.text);
    cr_assert_eq(tok_open(&tok, model->file, &err), KV_OK, "%s", err.text);
    cr_assert_eq(tok_encode(&ids, &n, tok, text, strlen(text), 1, &err), KV_OK, "%s", err.text);
    cr_assert_eq(tm_fast_open(&f, 2, &err), KV_OK, "%s", err.text);
    cr_expect(n > 64, "more than one tile of attention");
    double used = 0;
    for (int i = 0; i < count; i++)
        if (layers[i] < model->kv->layers)
            used = fmax(used, check_layer(model->kv, f, ids, n, layers[i]));
    cr_expect(used > 0, "two backends that round alike are one");
    free(ids);
    tm_fast_close(f);
    tok_close(tok);
    tm_model_free(model);
}

Test(llm, fast_backend_on_real_layers)
{
    const char *path = getenv("KV_LLM");
    if (!path)
        cr_skip_test("KV_LLM names no model (make test-llm does)");
    const int layers[] = {2, 11}; /* where SmolLM2's outliers emerge; any layers will do */
    check_model(path, layers, 2);
}

Test(llm, fast_backend_on_the_hand_built_model)
{
    char path[] = "/tmp/test_llm.XXXXXX";
    int fd = mkstemp(path);
    cr_assert(fd >= 0);
    close(fd);
    cr_assert_eq(tm_handmade_write(path, &(tm_handmade_options){TM_SINKS_SEVERAL}, NULL), KV_OK);
    const int layers[] = {0, 1, 2, 3, 4};
    check_model(path, layers, 5);
    unlink(path);
}
