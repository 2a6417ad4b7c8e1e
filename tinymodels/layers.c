/* Errors layer by layer, see layers.h. */
#include "layers.h"

#include <math.h>
#include <stdlib.h>

enum { KEYS, VALUES, ATTENTION, THINGS };

/* Sums of squares: of the difference, of the 16-bit array. */
typedef struct {
    double off[THINGS][TM_TOKEN_KINDS], all[THINGS][TM_TOKEN_KINDS];
} sums;

struct tm_layers {
    tm_engine e;
    int ctx;
    tm_window *plain; /* 16 bits */
    kv_memory memory;
    sums *sum;        /* [layers] */
    float *out;       /* [ctx][H][D] of the quantized attention */
    float *work, *hidden;
    /* of the window that is running */
    tm_window *quantized;
    const char *is_sink;
};

static void add(sums *s, int thing, const float *x, const float *x16, const char *is_sink, int n,
                int row)
{
    for (int t = 0; t < n; t++, x += row, x16 += row) {
        int kind = is_sink[t] ? TM_SINK_TOKENS : TM_OTHER_TOKENS;
        double off = 0, all = 0;
        for (int i = 0; i < row; i++) {
            double d = (double)x[i] - x16[i];
            off += d * d;
            all += (double)x16[i] * x16[i];
        }
        s->off[thing][kind] += off;
        s->all[thing][kind] += all;
    }
}

static int attend(void *self, const kv_backend *backend, int layer, float *out, float *rows,
                  const float *q, const float *k, const float *k_pre, const float *v,
                  const float *sink, int position, int n, kv_error *err)
{
    tm_layers *x = self;
    const kv_memory *plain = tm_window_memory(x->plain), *coded = tm_window_memory(x->quantized);
    kv_shape s = x->e.model->shape;
    int row = s.kv_heads * s.head_size;
    int code = coded->attend(coded->self, backend, layer, x->out, NULL, q, k, k_pre, v, sink,
                             position, n, err);
    if (!code)
        code = plain->attend(plain->self, backend, layer, out, rows, q, k, k_pre, v, sink, position,
                             n, err);
    if (code) return code;
    for (int i = KEYS; i <= VALUES; i++)
        add(&x->sum[layer], i, tm_window_read(x->quantized, i), tm_window_read(x->plain, i),
            x->is_sink, n, row);
    add(&x->sum[layer], ATTENTION, x->out, out, x->is_sink, n, s.heads * s.head_size);
    return KV_OK;
}

int tm_layers_open(tm_layers **out, const tm_engine *e, tm_fast *fast, int ctx, kv_error *err)
{
    const kv_format f16 = {.kind = KV_F16};
    const kv_model *m = e->model;
    size_t Q = (size_t)m->shape.heads * (size_t)m->shape.head_size, T = (size_t)ctx;
    *out = NULL;
    tm_layers *x = calloc(1, sizeof *x);
    if (!x) return kv_fail(err, KV_FAIL_RUN, "not enough memory for errors of layers");
    *x = (tm_layers){.e = *e, .ctx = ctx, .memory = {x, attend}};
    x->sum = calloc((size_t)m->layers, sizeof *x->sum);
    x->out = malloc(T * Q * sizeof *x->out);
    x->work = malloc(kv_forward_work(m, 0, 0, ctx) * sizeof *x->work);
    x->hidden = malloc(T * (size_t)m->width * sizeof *x->hidden);
    int code = tm_window_open(&x->plain, m, &f16, &f16, ctx, fast ? tm_fast_pool(fast) : NULL, err);
    if (!code && (!x->sum || !x->out || !x->work || !x->hidden))
        code = kv_fail(err, KV_FAIL_RUN, "not enough memory for errors of layers");
    if (code) tm_layers_close(x);
    else *out = x;
    return code;
}

void tm_layers_close(tm_layers *x)
{
    if (!x) return;
    tm_window_close(x->plain);
    free(x->sum);
    free(x->out);
    free(x->work);
    free(x->hidden);
    free(x);
}

int tm_layers_add(tm_layers *x, tm_window *w, const int *tokens, const char *is_sink,
                  kv_error *err)
{
    kv_run run = {.model = x->e.model, .backend = x->e.backend, .memory = &x->memory,
                  .work = x->work};
    x->quantized = w;
    x->is_sink = is_sink;
    return kv_forward(x->hidden, &run, tokens, x->ctx, err);
}

void tm_layers_errors(tm_layer_error *error, const tm_layers *x)
{
    for (int l = 0; l < x->e.model->layers; l++)
        for (int kind = 0; kind < TM_TOKEN_KINDS; kind++) {
            const sums *s = &x->sum[l];
            double r[THINGS];
            for (int i = 0; i < THINGS; i++)
                r[i] = s->all[i][kind] > 0 ? sqrt(s->off[i][kind] / s->all[i][kind]) : 0;
            error[l].keys[kind] = r[KEYS];
            error[l].values[kind] = r[VALUES];
            error[l].attention[kind] = r[ATTENTION];
        }
}
