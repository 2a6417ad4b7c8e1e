/* Looking at a decoder at work. Every analysis has the same shape: a structure that a tap writes
 * into, a forward pass with that tap, and then arithmetic on what was collected. A tap cannot
 * fail; so all memory is allocated before the pass. */
#include "analysis.h"

#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* count elements of size bytes, zeroed; at least one, so that NULL always means failure. */
static void *zeros(size_t count, size_t size, kv_error *err)
{
    void *p = calloc(count ? count : 1, size);
    if (!p)
        kv_fail(err, KV_FAIL_RUN, "not enough memory for the analysis (%zu bytes); use a shorter"
                " text", count * size);
    return p;
}

/* One pass over T tokens that see each other only; what it computes in the end is thrown away. */
static int look(const tm_engine *e, const int *tokens, int T, kv_tap_function *tap, void *self,
                unsigned mask, kv_error *err)
{
    kv_run run = {.model = e->model, .backend = e->backend, .tap = tap, .tap_self = self,
                  .tap_mask = mask};
    float *hidden = zeros((size_t)T * (size_t)e->model->width, sizeof *hidden, err);
    run.work = hidden ? zeros(kv_forward_work(e->model, mask, 0, T), sizeof *run.work, err) : NULL;
    int code = run.work ? kv_forward(hidden, &run, tokens, T, err) : KV_FAIL_RUN;
    free(run.work);
    free(hidden);
    return code;
}

/* ----------------------------------------------------------------- probes */

void tm_probe_tap(void *self, kv_tap tap, int layer, float *data, int rows, int cols)
{
    tm_probes *p = self;
    for (int i = 0; i < p->n; i++) {
        const tm_probe *probe = &p->probe[i];
        if (probe->tap != tap || probe->layer != layer || probe->channel >= cols) continue;
        float *out = p->out + (size_t)i * (size_t)p->T;
        for (int r = 0; r < rows && p->first + r < p->T; r++)
            out[p->first + r] = data[(size_t)r * (size_t)cols + (size_t)probe->channel];
    }
}

unsigned tm_probe_mask(const tm_probe *probe, int n)
{
    unsigned mask = 0;
    for (int i = 0; i < n; i++) mask |= 1u << probe[i].tap;
    return mask;
}

int tm_probe_run(float *out, const tm_probe *probe, int n, const tm_engine *e, const int *tokens,
                 int T, kv_error *err)
{
    tm_probes p = {out, probe, n, T, 0};
    return look(e, tokens, T, tm_probe_tap, &p, tm_probe_mask(probe, n), err);
}

void tm_stage_probes(tm_probe *probe, const kv_profile *p)
{
    for (int i = 0; i < p->n_stages; i++)
        probe[i] = (tm_probe){KV_TAP_H, p->stage[i].layer, p->stage[i].channel};
}

/* -------------------------------------------------------------- attention */

typedef struct {
    tm_attention *a;
    kv_shape shape;
    float *q, *k, *v;    /* copies of the layer in work */
    double *unit_sum;    /* [D] */
    float *head_norm;    /* [T] */
} attention_watch;

/* norm [T] of the heads' values of each token, all heads together. */
static void row_norms(float *norm, const float *x, int T, int width)
{
    for (int t = 0; t < T; t++)
        norm[t] = (float)kv_norm(x + (size_t)t * (size_t)width, width);
}

/* Mean cosine of every key with the queries at or behind it, added to out [T]. A sum of cosines
 * with one key is the product of its unit vector with the sum of the queries' unit vectors;
 * walking from the last token, that sum grows by one query at a time. */
static void add_cosines(float *out, const attention_watch *w, int head, int T)
{
    int D = w->shape.head_size, H = w->shape.heads, Hk = w->shape.kv_heads;
    memset(w->unit_sum, 0, (size_t)D * sizeof *w->unit_sum);
    for (int t = T - 1; t >= 0; t--) {
        const float *q = w->q + ((size_t)t * (size_t)H + (size_t)head) * (size_t)D;
        const float *k = w->k + ((size_t)t * (size_t)Hk + (size_t)(head * Hk / H)) * (size_t)D;
        double qn = kv_norm(q, D), kn = kv_norm(k, D), sum = 0;
        for (int d = 0; d < D; d++) {
            if (qn > 0) w->unit_sum[d] += q[d] / qn;
            sum += w->unit_sum[d] * k[d];
        }
        if (kn > 0) out[t] += (float)(sum / kn / (T - t) / H);
    }
}

/* Asks the value of every key that is a sink in this head what kind of sink it is. */
static void classify(const attention_watch *w, int layer, int head)
{
    tm_attention *a = w->a;
    int D = w->shape.head_size, H = w->shape.heads, Hk = w->shape.kv_heads, T = a->T;
    size_t at = (size_t)layer * (size_t)T;
    const double *alpha = a->alpha + (at * (size_t)H + (size_t)head * (size_t)T);
    const float *v = w->v + (size_t)(head * Hk / H) * (size_t)D;
    float *sorted = w->head_norm + T;
    for (int t = 0; t < T; t++)
        w->head_norm[t] = sorted[t] = (float)kv_norm(v + (size_t)t * (size_t)(Hk * D), D);
    double median = kv_median_abs(sorted, (size_t)T);
    for (int t = 0; t < T; t++) {
        kv_sink_kind kind = kv_sink_classify(alpha[t], a->eps, w->head_norm[t], median);
        a->is_void[at + (size_t)t] += kind == KV_VOID_SINK;
        a->is_heavy[at + (size_t)t] += kind == KV_HEAVY_HITTER;
    }
}

static void watch_attention(void *self, kv_tap tap, int layer, float *data, int rows, int cols)
{
    attention_watch *w = self;
    tm_attention *a = w->a;
    size_t T = (size_t)a->T, n = (size_t)rows * (size_t)cols * sizeof *data;
    if (tap == KV_TAP_Q) memcpy(w->q, data, n);
    if (tap == KV_TAP_K) memcpy(w->k, data, n);
    if (tap == KV_TAP_V) memcpy(w->v, data, n);
    if (tap != KV_TAP_ATTENTION) return;
    int Q = w->shape.heads * w->shape.head_size, K = w->shape.kv_heads * w->shape.head_size;
    row_norms(a->q_norm + (size_t)layer * T, w->q, a->T, Q);
    row_norms(a->k_norm + (size_t)layer * T, w->k, a->T, K);
    row_norms(a->v_norm + (size_t)layer * T, w->v, a->T, K);
    for (int h = 0; h < a->heads; h++) {
        size_t row = ((size_t)layer * (size_t)a->heads + (size_t)h) * T;
        kv_sink_alpha(a->alpha + row, data + (size_t)h * T * T, a->T);
        add_cosines(a->cosine + (size_t)layer * T, w, h, a->T);
        classify(w, layer, h);
    }
}

static int allocate_attention(tm_attention *a, attention_watch *w, kv_error *err)
{
    size_t L = (size_t)a->layers, T = (size_t)a->T, D = (size_t)w->shape.head_size;
    size_t Q = (size_t)w->shape.heads * D, K = (size_t)w->shape.kv_heads * D;
    return (a->alpha = zeros(L * (size_t)a->heads * T, sizeof *a->alpha, err)) &&
           (a->q_norm = zeros(L * T, sizeof *a->q_norm, err)) &&
           (a->k_norm = zeros(L * T, sizeof *a->k_norm, err)) &&
           (a->v_norm = zeros(L * T, sizeof *a->v_norm, err)) &&
           (a->cosine = zeros(L * T, sizeof *a->cosine, err)) &&
           (a->is_void = zeros(L * T, sizeof *a->is_void, err)) &&
           (a->is_heavy = zeros(L * T, sizeof *a->is_heavy, err)) &&
           (w->q = zeros(T * Q, sizeof *w->q, err)) && (w->k = zeros(T * K, sizeof *w->k, err)) &&
           (w->v = zeros(T * K, sizeof *w->v, err)) &&
           (w->unit_sum = zeros(D, sizeof *w->unit_sum, err)) &&
           (w->head_norm = zeros(2 * T, sizeof *w->head_norm, err)) ? KV_OK : KV_FAIL_RUN;
}

int tm_attention_run(tm_attention *a, const tm_engine *e, const int *tokens, int T, double eps,
                     kv_error *err)
{
    memset(a, 0, sizeof *a);
    a->layers = e->model->layers;
    a->heads = e->model->shape.heads;
    a->T = T;
    a->eps = eps;
    attention_watch w = {.a = a, .shape = e->model->shape};
    unsigned mask = 1u << KV_TAP_Q | 1u << KV_TAP_K | 1u << KV_TAP_V | 1u << KV_TAP_ATTENTION;
    int code = allocate_attention(a, &w, err);
    if (!code) code = look(e, tokens, T, watch_attention, &w, mask, err);
    free(w.q);
    free(w.k);
    free(w.v);
    free(w.unit_sum);
    free(w.head_norm);
    if (code) tm_attention_free(a);
    return code;
}

void tm_attention_free(tm_attention *a)
{
    free(a->alpha);
    free(a->q_norm);
    free(a->k_norm);
    free(a->v_norm);
    free(a->cosine);
    free(a->is_void);
    free(a->is_heavy);
    memset(a, 0, sizeof *a);
}

void tm_attention_share(double *share, const tm_attention *a, double eps)
{
    kv_sink_share(share, a->alpha, a->layers * a->heads, a->T, eps);
}

double tm_attention_alpha(const tm_attention *a, int layer, int key)
{
    double sum = 0;
    for (int h = 0; h < a->heads; h++)
        sum += a->alpha[((size_t)layer * (size_t)a->heads + (size_t)h) * (size_t)a->T +
                        (size_t)key];
    return sum / a->heads;
}

/* A key's column of attention sums to alpha times the queries that see it. So the mass needs no
 * attention rows: it is what kv_sink_mass would say, up to rounding. */
double tm_attention_mass(const tm_attention *a, int layer, const int *position, int n)
{
    double sum = 0;
    for (int i = 0; i < n; i++)
        sum += tm_attention_alpha(a, layer, position[i]) * (a->T - position[i]);
    return sum / a->T;
}

int tm_rank(int *position, const double *value, int T, int seen, int n)
{
    int found = 0;
    for (int t = 0; t < T && T - t >= seen; t++) {
        int at = found < n ? found : n; /* place of t, if it has one */
        while (at > 0 && value[position[at - 1]] < value[t]) at--;
        if (at == n) continue;
        if (found < n) found++;
        memmove(position + at + 1, position + at, (size_t)(found - 1 - at) * sizeof *position);
        position[at] = t;
    }
    return found;
}

typedef struct {
    float *map;
    const int *layer;
    int n, heads, T;
} map_watch;

static void watch_maps(void *self, kv_tap tap, int layer, float *data, int rows, int cols)
{
    map_watch *w = self;
    size_t cells = (size_t)w->T * (size_t)w->T;
    (void)tap;
    (void)rows;
    (void)cols;
    for (int i = 0; i < w->n; i++) {
        if (w->layer[i] != layer) continue;
        float *map = w->map + (size_t)i * cells;
        memset(map, 0, cells * sizeof *map);
        for (int h = 0; h < w->heads; h++)
            for (size_t j = 0; j < cells; j++)
                map[j] += data[(size_t)h * cells + j] / (float)w->heads;
    }
}

int tm_attention_maps(float *map, const int *layer, int n, const tm_engine *e, const int *tokens,
                      int T, kv_error *err)
{
    map_watch w = {map, layer, n, e->model->shape.heads, T};
    return look(e, tokens, T, watch_maps, &w, 1u << KV_TAP_ATTENTION, err);
}

/* --------------------------------------------------------------- outliers */

typedef struct {
    tm_outliers *o;
    float *scratch;    /* T * max(C, F) */
    tm_probes *probes; /* to be served by the same pass, or NULL */
} outlier_watch;

static void watch_outliers(void *self, kv_tap tap, int layer, float *data, int rows, int cols)
{
    outlier_watch *w = self;
    tm_outliers *o = w->o;
    kv_extreme e = kv_outliers(data, rows, cols, w->scratch);
    if (w->probes) tm_probe_tap(w->probes, tap, layer, data, rows, cols);
    if (tap == KV_TAP_DOWN_IN) o->down_in[layer] = e;
    if (tap == KV_TAP_DOWN_OUT) o->down_out[layer] = e;
    if (tap != KV_TAP_EMBED && tap != KV_TAP_H) return;
    o->h[layer + 1] = e;
    o->median[layer + 1] = e.median;
    kv_channel_peaks(o->peak + (size_t)(layer + 1) * (size_t)cols, data, rows, cols);
}

/* probes: of the residual only. */
static int outliers_and_probes(tm_outliers *o, tm_probes *probes, const tm_engine *e,
                               const int *tokens, int T, kv_error *err)
{
    const kv_model *m = e->model;
    size_t L = (size_t)m->layers, C = (size_t)m->width, F = (size_t)m->ffn;
    outlier_watch w = {o, NULL, probes};
    unsigned mask = 1u << KV_TAP_EMBED | 1u << KV_TAP_H | 1u << KV_TAP_DOWN_IN |
                    1u << KV_TAP_DOWN_OUT;
    memset(o, 0, sizeof *o);
    o->layers = m->layers;
    o->width = m->width;
    o->T = T;
    int ok = (o->h = zeros(L + 1, sizeof *o->h, err)) &&
             (o->down_in = zeros(L, sizeof *o->down_in, err)) &&
             (o->down_out = zeros(L, sizeof *o->down_out, err)) &&
             (o->peak = zeros((L + 1) * C, sizeof *o->peak, err)) &&
             (o->median = zeros(L + 1, sizeof *o->median, err)) &&
             (o->stage = zeros(L, sizeof *o->stage, err)) &&
             (w.scratch = zeros((size_t)T * (C > F ? C : F), sizeof *w.scratch, err));
    int code = ok ? look(e, tokens, T, watch_outliers, &w, mask, err) : KV_FAIL_RUN;
    free(w.scratch);
    if (code) {
        tm_outliers_free(o);
        return code;
    }
    o->n_stages = kv_stages_find(o->stage, &o->weak, o->peak, o->median, m->layers, m->width,
                                 m->layers);
    return KV_OK;
}

int tm_outliers_run(tm_outliers *o, const tm_engine *e, const int *tokens, int T, kv_error *err)
{
    return outliers_and_probes(o, NULL, e, tokens, T, err);
}

void tm_outliers_free(tm_outliers *o)
{
    free(o->h);
    free(o->down_in);
    free(o->down_out);
    free(o->peak);
    free(o->median);
    free(o->stage);
    memset(o, 0, sizeof *o);
}

/* ------------------------------------------------------------ calibration */

/* Calibration wants the residual at the stages, and knows the stages only afterwards. But prompts
 * mostly show the same ones; so each prompt's pass also serves probes at all stages that earlier
 * prompts have shown. What is still missing after the vote takes a second pass: most often that of
 * the first prompt only. */
typedef struct {
    tm_calibration *c;
    const tm_engine *e;
    const int *const *prompt;
    const int *length;
    tm_progress *progress;
    void *self;
    tm_probe *known;  /* stages seen so far */
    int n_known;
    float **seen;     /* [prompts] what the probes known at its time showed: [n_seen][length] */
    int *n_seen;
} calibration_run;

static void tell(const calibration_run *r, double done)
{
    if (r->progress) r->progress(r->self, done, r->c->prompts + 1.0);
}

/* Sun et al.'s layer and channel of one text; -1 if there is none. */
static void sun_criterion(int *layer, int *channel, const tm_outliers *o)
{
    *layer = *channel = -1;
    for (int l = o->layers - 1; l >= 0; l--) {
        const kv_extreme *x = &o->h[l + 1];
        if (!(x->max > 100 && x->max > 1000 * (double)x->median)) continue;
        *layer = l;
        *channel = x->col;
    }
}

/* What most of n pairs are; the first of equals. */
static void most_common(int *a, int *b, int *votes, const int *pair, int n)
{
    *votes = 0;
    for (int i = 0; i < n; i++) {
        int same = 0;
        for (int j = 0; j < n; j++)
            same += pair[2 * j] == pair[2 * i] && pair[2 * j + 1] == pair[2 * i + 1];
        if (same <= *votes) continue;
        *votes = same;
        *a = pair[2 * i];
        *b = pair[2 * i + 1];
    }
}

static int find_known(const calibration_run *r, const kv_stage *s)
{
    for (int i = 0; i < r->n_known; i++)
        if (r->known[i].layer == s->layer && r->known[i].channel == s->channel) return i;
    return -1;
}

/* One prompt: its own stages, and the residual at those known before. */
static int look_at_prompt(calibration_run *r, int p, int *sun, int *weak, kv_error *err)
{
    tm_calibration *c = r->c;
    tm_outliers o;
    int L = r->e->model->layers, T = r->length[p];
    r->n_seen[p] = r->n_known;
    r->seen[p] = zeros((size_t)r->n_known * (size_t)T, sizeof **r->seen, err);
    if (!r->seen[p]) return KV_FAIL_RUN;
    tm_probes probes = {r->seen[p], r->known, r->n_known, T, 0};
    int code = outliers_and_probes(&o, &probes, r->e, r->prompt[p], T, err);
    if (code) return code;
    tm_probe *longer = realloc(r->known, (size_t)(r->n_known + L) * sizeof *longer);
    if (longer) r->known = longer;
    else code = kv_fail(err, KV_FAIL_RUN, "not enough memory for the stages of %d prompts", p + 1);
    c->count[p] = o.n_stages;
    for (int i = 0; i < o.n_stages && !code; i++) {
        c->found[p * L + i] = o.stage[i];
        if (find_known(r, &o.stage[i]) < 0)
            r->known[r->n_known++] = (tm_probe){KV_TAP_H, o.stage[i].layer, o.stage[i].channel};
    }
    sun_criterion(&sun[2 * p], &sun[2 * p + 1], &o);
    *weak += o.weak;
    tm_outliers_free(&o);
    return code;
}

/* All prompts, and the vote. */
static int find_stages(calibration_run *r, kv_error *err)
{
    tm_calibration *c = r->c;
    int weak = 0, code = KV_OK, *sun = zeros((size_t)c->prompts * 2, sizeof *sun, err);
    if (!sun) return KV_FAIL_RUN;
    for (int p = 0; p < c->prompts && !code; p++) {
        tell(r, p);
        code = look_at_prompt(r, p, sun, &weak, err);
    }
    most_common(&c->sun_layer, &c->sun_channel, &c->sun_prompts, sun, c->prompts);
    free(sun);
    if (code) return code;
    c->profile.n_stages = kv_stages_vote(c->profile.stage, c->found, c->count, c->prompts,
                                         r->e->model->layers);
    c->profile.weak = weak == c->prompts; /* nothing reached 100 in any of them */
    return KV_OK;
}

static int shows(const tm_calibration *c, int L, int prompt, const kv_stage *s)
{
    for (int i = 0; i < c->count[prompt]; i++) {
        const kv_stage *f = &c->found[(size_t)prompt * (size_t)L + (size_t)i];
        if (f->layer == s->layer && f->channel == s->channel) return 1;
    }
    return 0;
}

static double nine_digits(double x)
{
    char text[32];
    snprintf(text, sizeof text, "%.9g", x);
    return strtod(text, NULL);
}

/* Threshold and medians of one stage. h: of all prompts, one after the other, [stages][length]. */
static void sum_up_stage(calibration_run *r, int s, const float *h, double *per_prompt,
                         float *pooled, float *sorted)
{
    tm_calibration *c = r->c;
    kv_stage *stage = &c->profile.stage[s];
    int prompts = 0;
    size_t n = 0;
    for (int p = 0; p < c->prompts; p++) {
        size_t T = (size_t)r->length[p];
        const float *row = h + (size_t)s * T;
        h += T * (size_t)c->profile.n_stages;
        if (!shows(c, r->e->model->layers, p, stage)) continue;
        for (size_t t = 0; t < T; t++) pooled[n + t] = sorted[t] = fabsf(row[t]);
        per_prompt[prompts++] = kv_gap_threshold(sorted, T);
        n += T;
    }
    kv_stage_threshold(stage, per_prompt, prompts, pooled, n);
    stage->threshold = nine_digits(stage->threshold);
    stage->at_sinks = nine_digits(stage->at_sinks);
    stage->elsewhere = nine_digits(stage->elsewhere);
}

/* h: [stages][length] of each prompt, one after the other. */
static int learn_ids(calibration_run *r, const float *h, kv_error *err)
{
    kv_profile *profile = &r->c->profile;
    int vocab = r->e->model->vocab, *seen = zeros((size_t)vocab * 2, sizeof *seen, err);
    if (!seen) return KV_FAIL_RUN;
    int *sunk = seen + vocab;
    for (int p = 0; p < r->c->prompts; p++) {
        kv_ids_count(seen, sunk, r->prompt[p], h, r->length[p], profile->stage, profile->n_stages);
        h += (size_t)r->length[p] * (size_t)profile->n_stages;
    }
    profile->n_ids = kv_ids_learned(NULL, seen, sunk, vocab);
    profile->ids = zeros((size_t)profile->n_ids, sizeof *profile->ids, err);
    if (profile->ids) kv_ids_learned(profile->ids, seen, sunk, vocab);
    free(seen);
    return profile->ids ? KV_OK : KV_FAIL_RUN;
}

/* h [stages][length]: the residual of one prompt at the stages that won. */
static int collect_h(float *h, calibration_run *r, int p, kv_error *err)
{
    const kv_profile *profile = &r->c->profile;
    size_t T = (size_t)r->length[p];
    int missing = 0;
    for (int s = 0; s < profile->n_stages; s++) {
        int known = find_known(r, &profile->stage[s]);
        if (known < r->n_seen[p])
            memcpy(h + (size_t)s * T, r->seen[p] + (size_t)known * T, T * sizeof *h);
        else missing = 1;
    }
    if (!missing) return KV_OK;
    tm_probe *probe = zeros((size_t)profile->n_stages, sizeof *probe, err);
    if (!probe) return KV_FAIL_RUN;
    tm_stage_probes(probe, profile);
    int code = tm_probe_run(h, probe, profile->n_stages, r->e, r->prompt[p], r->length[p], err);
    free(probe);
    return code;
}

static int measure_stages(calibration_run *r, size_t tokens, kv_error *err)
{
    tm_calibration *c = r->c;
    size_t stages = (size_t)c->profile.n_stages;
    float *h = zeros(stages * tokens, sizeof *h, err), *at = h;
    float *pooled = zeros(2 * tokens, sizeof *pooled, err);
    double *per_prompt = zeros((size_t)c->prompts, sizeof *per_prompt, err);
    int code = h && pooled && per_prompt ? KV_OK : KV_FAIL_RUN;
    tell(r, c->prompts);
    for (int p = 0; p < c->prompts && !code; p++) {
        code = collect_h(at, r, p, err);
        at += stages * (size_t)r->length[p];
    }
    for (int s = 0; s < (int)stages && !code; s++)
        sum_up_stage(r, s, h, per_prompt, pooled, pooled + tokens);
    if (!code) code = learn_ids(r, h, err);
    free(h);
    free(pooled);
    free(per_prompt);
    return code;
}

static void free_run(calibration_run *r)
{
    for (int p = 0; p < r->c->prompts && r->seen; p++) free(r->seen[p]);
    free(r->seen);
    free(r->n_seen);
    free(r->known);
}

int tm_calibrate(tm_calibration *c, const tm_engine *e, const int *const *prompt,
                 const int *length, int n, tm_progress *progress, void *self, kv_error *err)
{
    calibration_run r = {.c = c, .e = e, .prompt = prompt, .length = length,
                         .progress = progress, .self = self};
    const kv_model *m = e->model;
    size_t tokens = 0;
    memset(c, 0, sizeof *c);
    c->sun_layer = c->sun_channel = -1;
    c->prompts = n;
    c->profile.layers = m->layers;
    c->profile.width = m->width;
    c->profile.vocab = m->vocab;
    for (int p = 0; p < n; p++) tokens += (size_t)length[p];
    if (n < 1 || tokens > INT_MAX)
        return kv_fail(err, KV_FAIL_USAGE, "calibration needs at least one prompt, and fewer than"
                       " %d tokens in all", INT_MAX);
    int ok = (c->found = zeros((size_t)n * (size_t)m->layers, sizeof *c->found, err)) &&
             (c->count = zeros((size_t)n, sizeof *c->count, err)) &&
             (c->profile.stage = zeros((size_t)m->layers, sizeof *c->profile.stage, err)) &&
             (r.seen = zeros((size_t)n, sizeof *r.seen, err)) &&
             (r.n_seen = zeros((size_t)n, sizeof *r.n_seen, err));
    int code = ok ? find_stages(&r, err) : KV_FAIL_RUN;
    if (!code && c->profile.n_stages) code = measure_stages(&r, tokens, err);
    if (!code) tell(&r, n + 1.0);
    free_run(&r);
    if (code) tm_calibration_free(c);
    return code;
}

void tm_calibration_free(tm_calibration *c)
{
    free(c->profile.stage);
    free(c->profile.ids);
    free(c->found);
    free(c->count);
    memset(c, 0, sizeof *c);
}
