/* Two passes over each prompt: the first finds out what the rule keeps, the second looks at keys and
 * values and leaves those tokens out. Both run without a cache. */
#include "ranges.h"

#include <math.h>
#include <stdlib.h>

typedef struct {
    kv_profile *p;
    const kv_keep *keep;
    int bad; /* 1: met a value that binary16 cannot hold */
} collector;

static int is_listed(const kv_keep *keep, int layer, int t)
{
    const int *position = keep->position + (size_t)layer * (size_t)keep->capacity;
    int n = keep->count[layer], i = kv_positions_before(position, n, t);
    return i < n && position[i] == t;
}

static void collect(void *self, kv_tap tap, int layer, float *data, int rows, int cols)
{
    collector *c = self;
    size_t n = (size_t)c->p->layers * (size_t)cols, which = tap == KV_TAP_V ? 2 : tap == KV_TAP_K_PRE;
    float *lo = c->p->range + 2 * which * n + (size_t)layer * (size_t)cols, *hi = lo + n;
    for (int t = 0; t < rows; t++, data += cols) {
        if (is_listed(c->keep, layer, t)) continue;
        for (int i = 0; i < cols; i++) {
            if (!(fabsf(data[i]) < 65520)) c->bad = 1;
            if (data[i] < lo[i]) lo[i] = data[i];
            if (data[i] > hi[i]) hi[i] = data[i];
        }
    }
}

static int run_pass(const tm_engine *e, kv_tap_function *tap, void *self, unsigned mask,
                    const int *tokens, int T, kv_error *err)
{
    float *hidden = malloc((size_t)T * (size_t)e->model->width * sizeof *hidden);
    kv_run run = {.model = e->model, .backend = e->backend, .tap = tap, .tap_self = self,
                  .tap_mask = mask};
    run.work = malloc((kv_forward_work(e->model, mask, 0, T) + 1) * sizeof *run.work);
    int code = hidden && run.work ? kv_forward(hidden, &run, tokens, T, err)
                                  : kv_fail(err, KV_FAIL_RUN, "not enough memory for %d tokens", T);
    free(hidden);
    free(run.work);
    return code;
}

static int find_kept(kv_keep *keep, const kv_profile *p, const kv_keep_rule *rule,
                     const tm_engine *e, const int *tokens, int T, kv_error *err)
{
    tm_evidence *v;
    int code = tm_evidence_open(&v, rule, p, e->model, T, err);
    if (code) return code;
    unsigned mask = tm_evidence_mask(v);
    if (mask) code = run_pass(e, tm_evidence_tap, v, mask, tokens, T, err);
    if (!code) code = tm_evidence_keep(keep, NULL, v, tokens, err);
    tm_evidence_close(v);
    return code;
}

static int one_prompt(kv_profile *p, const kv_keep_rule *rule, const tm_engine *e,
                      const int *tokens, int T, kv_error *err)
{
    const unsigned mask = 1u << KV_TAP_K | 1u << KV_TAP_K_PRE | 1u << KV_TAP_V;
    kv_keep keep = {0};
    collector c = {p, &keep, 0};
    int code = tm_keep_init(&keep, p->layers, T, err);
    if (!code) code = find_kept(&keep, p, rule, e, tokens, T, err);
    if (!code) code = run_pass(e, collect, &c, mask, tokens, T, err);
    tm_keep_free(&keep);
    if (!code && c.bad)
        return kv_fail(err, KV_FAIL_RUN, "a key or value is beyond 65504, the largest number of"
                       " binary16, in which caches keep them");
    return code;
}

int tm_ranges(kv_profile *p, const kv_keep_rule *rule, const tm_engine *e, const int *const *prompt,
              const int *length, int n, tm_progress *progress, void *self, kv_error *err)
{
    kv_shape s = e->model->shape;
    int code = KV_OK;
    free(p->range);
    p->range_row = s.kv_heads * s.head_size;
    size_t size = (size_t)p->layers * (size_t)p->range_row;
    p->range = malloc(6 * size * sizeof *p->range);
    if (!p->range) return kv_fail(err, KV_FAIL_RUN, "not enough memory for the static ranges");
    for (size_t i = 0; i < 6 * size; i++) p->range[i] = i / size % 2 ? -INFINITY : INFINITY;
    for (int i = 0; i < n && !code; i++) {
        if (progress) progress(self, i, n);
        code = one_prompt(p, rule, e, prompt[i], length[i], err);
    }
    if (progress) progress(self, n, n);
    for (size_t i = 0; i < 6 * size && !code; i++)
        if (!isfinite(p->range[i]))
            code = kv_fail(err, KV_FAIL_RUN, "the rule keeps every token of layer %zu, so its static"
                           " ranges are empty; keep fewer, or use a longer text",
                           i % size / (size_t)p->range_row);
    return code;
}
