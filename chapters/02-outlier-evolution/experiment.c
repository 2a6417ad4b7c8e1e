/* Chapter 2: an outlier from layer to layer, the same channels on other texts, and what it is
 * there for.
 *
 * For every stage of the profile the tokens that pass its threshold are its sinks.
 *
 * outliers.tsv  row (text/stage/layer). In the stage's channel, mean over the stage's sinks and,
 *               of all other tokens, the value of largest magnitude, both with their sign: after
 *               attention (h_attn), what the down projection adds (down_out), and the residual
 *               after the layer (h); of the down projection's input (down_in) each token's largest
 *               value in any channel. phase: the paper's, from the means over sinks.
 * stages.tsv    row (text/stage): windows, windows whose own search finds the same layer and
 *               channel, sinks a window, median |h| at sinks and elsewhere.
 * others.tsv    row (text/layer:channel): stages found in some window that are not in the profile.
 * cause.tsv     row (text/what was done): attention that the sinks receive behind the stage, share
 *               of heads in which they are sinks, perplexity, KL to the undisturbed model.
 * forbid.tsv    row (text/who was forbidden): |h| of first and later sinks behind the layers
 *               in which they could not be attended to, over what it was undisturbed; and KL (first
 *               256 tokens of each window).
 * outliers.png  the first, of the first text, stage by stage. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "experiment.h"
#include "plot.h"

enum { DOWN_IN, H_ATTN, DOWN_OUT, H, PLACES };

static const char *const phase_name[] = {"initial", "emergence", "stable", "dissipation", "final"};

/* Of one stage and layer, all windows of a text. */
typedef struct {
    experiment_mean sinks[PLACES];
    float other[PLACES]; /* of largest magnitude */
} depth;

/* A stage that some windows of a text show and the profile has not. */
typedef struct {
    int text, layer, channel, windows;
} stranger;

enum { STRANGERS = 256 };

typedef struct {
    experiment x;
    double eps;
    int cause_windows;
    stranger stranger[STRANGERS];
    int n_strangers;
    depth *d;                 /* [texts][stages][layers] */
    experiment_mean *sinks;   /* [texts][stages] a window */
    experiment_mean *inside, *outside; /* [texts][stages] medians of |h| */
    int *agree;               /* [texts][stages] windows that find the stage themselves */
} job;

static size_t cell(const job *j, int text, int stage)
{
    return (size_t)text * (size_t)j->x.profile.n_stages + (size_t)stage;
}

static depth *depth_at(const job *j, int text, int stage, int layer)
{
    return j->d + cell(j, text, stage) * (size_t)j->x.s.model->layers + (size_t)layer;
}

/* -------------------------------------------------------- outliers by depth */

/* What a pass shows: the stages' channels at three places, and the largest inputs of the down
 * projections. */
typedef struct {
    tm_probes probes; /* [stages][layers][H_ATTN, DOWN_OUT, H] */
    float *down_in;   /* [layers][T], signed */
    int T;
} watch;

static void watch_tap(void *self, kv_tap tap, int layer, float *data, int rows, int cols)
{
    watch *w = self;
    if (tap != KV_TAP_DOWN_IN) {
        tm_probe_tap(&w->probes, tap, layer, data, rows, cols);
        return;
    }
    for (int t = 0; t < rows; t++) {
        const float *x = data + (size_t)t * (size_t)cols;
        float best = 0;
        for (int i = 0; i < cols; i++)
            if (fabsf(x[i]) > fabsf(best)) best = x[i];
        w->down_in[(size_t)layer * (size_t)w->T + (size_t)t] = best;
    }
}

static int watch_open(watch *w, const job *j, int T, kv_error *err)
{
    static const kv_tap place[] = {KV_TAP_H_ATTN, KV_TAP_DOWN_OUT, KV_TAP_H};
    const kv_profile *p = &j->x.profile;
    int L = j->x.s.model->layers, n = p->n_stages * L * 3;
    tm_probe *probe = experiment_zeros((size_t)n, sizeof *probe, err);
    for (int i = 0; i < n && probe; i++)
        probe[i] = (tm_probe){place[i % 3], i / 3 % L, p->stage[i / 3 / L].channel};
    w->T = T;
    w->probes = (tm_probes){experiment_zeros((size_t)n * (size_t)T, sizeof(float), err), probe, n,
                            T, 0};
    w->down_in = experiment_zeros((size_t)L * (size_t)T, sizeof(float), err);
    return probe && w->probes.out && w->down_in ? KV_OK : err->code;
}

static void watch_close(watch *w)
{
    free((void *)w->probes.probe);
    free(w->probes.out);
    free(w->down_in);
}

static const float *seen(const watch *w, const job *j, int stage, int layer, int place)
{
    int L = j->x.s.model->layers;
    if (place == DOWN_IN) return w->down_in + (size_t)layer * (size_t)w->T;
    return w->probes.out + (size_t)((stage * L + layer) * 3 + place - 1) * (size_t)w->T;
}

static void add_place(depth *d, int place, const float *x, const int *is_sink, int T)
{
    for (int t = 0; t < T; t++)
        if (is_sink[t]) experiment_add(&d->sinks[place], x[t]);
        else if (fabsf(x[t]) > fabsf(d->other[place])) d->other[place] = x[t];
}

/* flag [T]: the stage's sinks. Returns how many. */
static int stage_sinks(int *flag, const float *h, int T, const kv_stage *stage)
{
    int n = 0;
    for (int t = 0; t < T; t++) n += flag[t] = fabs((double)h[t]) >= stage->threshold;
    return n;
}

static void add_stage(job *j, const watch *w, int text, int stage, int *flag, float *scratch)
{
    const kv_stage *s = &j->x.profile.stage[stage];
    const float *h = seen(w, j, stage, s->layer, H);
    int n = stage_sinks(flag, h, w->T, s);
    experiment_add(&j->sinks[cell(j, text, stage)], n);
    for (int kind = 0; kind < 2; kind++) {
        size_t m = 0;
        for (int t = 0; t < w->T; t++)
            if (flag[t] == kind) scratch[m++] = h[t];
        if (m) experiment_add(&(kind ? j->inside : j->outside)[cell(j, text, stage)],
                              kv_median_abs(scratch, m));
    }
    for (int l = 0; l < j->x.s.model->layers; l++)
        for (int p = 0; p < PLACES; p++)
            add_place(depth_at(j, text, stage, l), p, seen(w, j, stage, l, p), flag, w->T);
}

static int follow_window(job *j, int text, const int *tokens, int T, kv_error *err)
{
    watch w = {0};
    float *hidden = experiment_zeros((size_t)T * (size_t)j->x.s.model->width, sizeof *hidden, err);
    int *flag = experiment_zeros((size_t)T, sizeof *flag, err);
    unsigned mask = 1u << KV_TAP_H | 1u << KV_TAP_H_ATTN | 1u << KV_TAP_DOWN_IN |
                    1u << KV_TAP_DOWN_OUT;
    int code = hidden && flag ? watch_open(&w, j, T, err) : err->code;
    if (!code) code = session_forward(&j->x.s, hidden, tokens, T, watch_tap, &w, mask, err);
    for (int s = 0; s < j->x.profile.n_stages && !code; s++)
        add_stage(j, &w, text, s, flag, hidden);
    watch_close(&w);
    free(hidden);
    free(flag);
    return code;
}

/* ------------------------------------------------------ the texts' own stages */

static void add_stranger(job *j, int text, const kv_stage *s)
{
    stranger *all = j->stranger;
    int i = 0;
    while (i < j->n_strangers && (all[i].text != text || all[i].layer != s->layer ||
                                  all[i].channel != s->channel)) i++;
    if (i == STRANGERS) return;
    if (i == j->n_strangers) all[j->n_strangers++] = (stranger){text, s->layer, s->channel, 0};
    all[i].windows++;
}

static int search_window(job *j, int text, const int *tokens, int T, kv_error *err)
{
    const kv_profile *p = &j->x.profile;
    tm_outliers o;
    if (tm_outliers_run(&o, &j->x.e, tokens, T, err)) return err->code;
    for (int i = 0; i < o.n_stages; i++) {
        int known = -1;
        for (int s = 0; s < p->n_stages; s++)
            if (p->stage[s].layer == o.stage[i].layer && p->stage[s].channel == o.stage[i].channel)
                known = s;
        if (known < 0) add_stranger(j, text, &o.stage[i]);
        else j->agree[cell(j, text, known)]++;
    }
    tm_outliers_free(&o);
    return KV_OK;
}

static int look_at_texts(job *j, kv_error *err)
{
    experiment *x = &j->x;
    size_t n = (size_t)x->n * (size_t)x->profile.n_stages;
    j->d = experiment_zeros(n * (size_t)x->s.model->layers, sizeof *j->d, err);
    j->sinks = experiment_zeros(n, sizeof *j->sinks, err);
    j->inside = experiment_zeros(n, sizeof *j->inside, err);
    j->outside = experiment_zeros(n, sizeof *j->outside, err);
    j->agree = experiment_zeros(n, sizeof *j->agree, err);
    if (!j->d || !j->sinks || !j->inside || !j->outside || !j->agree) return err->code;
    for (int i = 0; i < x->n; i++)
        for (int w = 0; w < x->text[i].count; w++) {
            const experiment_text *t = &x->text[i];
            cli_progress(w, t->count, t->name);
            if (follow_window(j, i, experiment_window(t, w), t->length[w], err) ||
                search_window(j, i, experiment_window(t, w), t->length[w], err)) return err->code;
        }
    cli_progress_clear();
    return KV_OK;
}

static void mean_over_sinks(const job *j, int text, int stage, float *h, float *write,
                            kv_phase *phase)
{
    int L = j->x.s.model->layers;
    for (int l = 0; l < L; l++) {
        double mean = experiment_mean_of(&depth_at(j, text, stage, l)->sinks[H]);
        double add = experiment_mean_of(&depth_at(j, text, stage, l)->sinks[DOWN_OUT]);
        h[l] = isfinite(mean) ? (float)mean : 0;
        write[l] = isfinite(add) ? (float)add : 0;
    }
    kv_phases(phase, h, write, L, j->x.profile.stage[stage].layer);
}

static int write_outliers(const job *j, kv_error *err)
{
    int L = j->x.s.model->layers;
    float *h = experiment_zeros((size_t)L * 2, sizeof *h, err);
    kv_phase *phase = experiment_zeros((size_t)L, sizeof *phase, err);
    tm_out out;
    int code = h && phase ? KV_OK : err->code;
    if (!code) code = experiment_table(&out, &j->x, "outliers.tsv",
        "row\tchannel\tdown_in\th_attn\tdown_out\th\tother_down_in\tother_h_attn\tother_down_out"
        "\tother_h\tphase", err);
    for (int i = 0; i < j->x.n && !code; i++)
        for (int s = 0; s < j->x.profile.n_stages; s++) {
            const kv_stage *stage = &j->x.profile.stage[s];
            mean_over_sinks(j, i, s, h, h + L, phase);
            for (int l = 0; l < L; l++) {
                const depth *d = depth_at(j, i, s, l);
                fprintf(out.f, "%s/%d/%d\t%d", j->x.text[i].name, stage->layer, l, stage->channel);
                for (int p = 0; p < PLACES; p++)
                    if (d->sinks[p].n) fprintf(out.f, "\t%.5g", experiment_mean_of(&d->sinks[p]));
                    else fprintf(out.f, "\t-");
                for (int p = 0; p < PLACES; p++) fprintf(out.f, "\t%.5g", (double)d->other[p]);
                fprintf(out.f, "\t%s\n", d->sinks[H].n ? phase_name[phase[l]] : "-");
            }
        }
    free(h);
    free(phase);
    return code ? code : tm_out_close(&out, err);
}

static int write_stages(const job *j, kv_error *err)
{
    tm_out out;
    int code = experiment_table(&out, &j->x, "stages.tsv", "row\tchannel\twindows\tfound\tsinks"
                                "\tat_sinks\telsewhere\tthreshold", err);
    for (int i = 0; i < j->x.n && !code; i++)
        for (int s = 0; s < j->x.profile.n_stages; s++) {
            const kv_stage *stage = &j->x.profile.stage[s];
            size_t c = cell(j, i, s);
            fprintf(out.f, "%s/%d\t%d\t%d\t%d\t%.4g\t%.5g\t%.4g\t%.5g\n", j->x.text[i].name,
                    stage->layer, stage->channel, j->x.text[i].count, j->agree[c],
                    experiment_mean_of(&j->sinks[c]), experiment_mean_of(&j->inside[c]),
                    experiment_mean_of(&j->outside[c]), stage->threshold);
        }
    if (!code) code = tm_out_close(&out, err);
    if (!code) code = experiment_table(&out, &j->x, "others.tsv", "row\twindows\tof", err);
    for (int i = 0; i < j->n_strangers && !code; i++) {
        const stranger *s = &j->stranger[i];
        fprintf(out.f, "%s/%d:%d\t%d\t%d\n", j->x.text[s->text].name, s->layer, s->channel,
                s->windows, j->x.text[s->text].count);
    }
    return code ? code : tm_out_close(&out, err);
}

/* ------------------------------------------------------------------- cause */

enum { NOTHING, ZERO, MEAN, CONTROL, ALL_ZERO, DEEDS };

/* A pass in which something is done to the sinks of a stage, or of all stages. */
typedef struct {
    const job *j;
    int deed, stage, control; /* control: the channel that is set to zero instead */
    int T;
    const int *flag;          /* [stages][T] sinks */
    double *alpha;            /* [layers][heads][T] */
} act;

static void set_channel(const act *a, float *h, int cols, int stage, int channel, double value)
{
    for (int t = 0; t < a->T; t++)
        if (a->flag[stage * a->T + t]) h[(size_t)t * (size_t)cols + (size_t)channel] = (float)value;
}

static double channel_mean(const float *h, int T, int cols, int channel)
{
    double sum = 0;
    for (int t = 0; t < T; t++) sum += h[(size_t)t * (size_t)cols + (size_t)channel];
    return sum / T;
}

static void act_tap(void *self, kv_tap tap, int layer, float *data, int rows, int cols)
{
    act *a = self;
    const kv_profile *p = &a->j->x.profile;
    if (tap == KV_TAP_ATTENTION) {
        int heads = a->j->x.s.model->shape.heads;
        for (int h = 0; h < heads; h++) {
            size_t at = (size_t)h * (size_t)a->T * (size_t)a->T;
            kv_sink_alpha(a->alpha + ((size_t)layer * (size_t)heads + (size_t)h) * (size_t)a->T,
                          data + at, a->T);
        }
        return;
    }
    if (tap != KV_TAP_H || a->deed == NOTHING) return;
    for (int s = 0; s < p->n_stages; s++) {
        const kv_stage *stage = &p->stage[s];
        if (stage->layer != layer || (a->deed != ALL_ZERO && s != a->stage)) continue;
        if (a->deed == ZERO || a->deed == ALL_ZERO)
            set_channel(a, data, cols, s, stage->channel, 0);
        if (a->deed == MEAN)
            set_channel(a, data, cols, s, stage->channel,
                        channel_mean(data, rows, cols, stage->channel));
        if (a->deed == CONTROL) set_channel(a, data, cols, s, a->control, 0);
    }
}

typedef struct {
    experiment_mean mass, heads, loss, kl;
} effect;

/* Attention to the stage's sinks, mean over the layers behind it, and in which share of their heads
 * any of them is a sink. */
static void add_attention(effect *e, const act *a, const job *j, const int *flag)
{
    const kv_model *m = j->x.s.model;
    int first = j->x.profile.stage[a->stage].layer + 1, H_ = m->shape.heads;
    double mass = 0, heads = 0, n = (double)(m->layers - first) * H_;
    for (int i = first * H_; i < m->layers * H_; i++) {
        int above = 0;
        for (int t = 0; t < a->T; t++) {
            double alpha = a->alpha[(size_t)i * (size_t)a->T + (size_t)t];
            if (flag[t]) mass += alpha * (a->T - t) / a->T;
            above |= flag[t] && alpha > j->eps && a->T - t >= 16;
        }
        heads += above;
    }
    if (n > 0) experiment_add(&e->mass, mass / n);
    if (n > 0) experiment_add(&e->heads, heads / n);
}

/* The channel of middling magnitude at the stage: its peak is the median of all peaks. */
static int middling_channel(const tm_outliers *o, int layer)
{
    const float *peak = o->peak + (size_t)(layer + 1) * (size_t)o->width;
    int best = 0;
    for (int c = 0, below; c < o->width; c++) {
        below = 0;
        for (int i = 0; i < o->width; i++)
            below += fabsf(peak[i]) < fabsf(peak[c]) || (fabsf(peak[i]) == fabsf(peak[c]) && i < c);
        if (below == o->width / 2) best = c;
    }
    return best;
}

static int act_once(effect *e, float *hidden, const float *before, act *a, job *j,
                    const int *tokens, kv_error *err)
{
    experiment_scores s;
    unsigned mask = 1u << KV_TAP_H | 1u << KV_TAP_ATTENTION;
    if (session_forward(&j->x.s, hidden, tokens, a->T, act_tap, a, mask, err) ||
        experiment_score(&s, &j->x, before, hidden, tokens, 0, a->T, err)) return err->code;
    add_attention(e, a, j, a->flag + a->stage * a->T);
    experiment_add(&e->loss, s.loss);
    experiment_add(&e->kl, s.kl);
    return KV_OK;
}

/* effect [stages][DEEDS] */
static int cause_window(effect *e, job *j, const int *tokens, int T, kv_error *err)
{
    const kv_model *m = j->x.s.model;
    const kv_profile *p = &j->x.profile;
    size_t C = (size_t)m->width, S = (size_t)p->n_stages;
    tm_probe *probe = experiment_zeros(S, sizeof *probe, err);
    float *h = experiment_zeros(S * (size_t)T, sizeof *h, err);
    int *flag = experiment_zeros(S * (size_t)T, sizeof *flag, err);
    float *hidden = experiment_zeros(2 * (size_t)T * C, sizeof *hidden, err);
    double *alpha = experiment_zeros((size_t)m->layers * (size_t)m->shape.heads * (size_t)T,
                                     sizeof *alpha, err);
    tm_outliers o = {0};
    int code = probe && h && flag && hidden && alpha ? KV_OK : err->code;
    if (!code) tm_stage_probes(probe, p);
    if (!code) code = tm_probe_run(h, probe, p->n_stages, &j->x.e, tokens, T, err);
    if (!code) code = tm_outliers_run(&o, &j->x.e, tokens, T, err);
    if (!code) code = session_forward(&j->x.s, hidden, tokens, T, NULL, NULL, 0, err);
    for (int s = 0; s < p->n_stages && !code; s++)
        stage_sinks(flag + s * T, h + s * T, T, &p->stage[s]);
    for (int s = 0; s < p->n_stages && !code; s++)
        for (int d = 0; d < DEEDS && !code; d++) {
            act a = {.j = j, .deed = d, .stage = s, .T = T, .flag = flag, .alpha = alpha};
            a.control = middling_channel(&o, p->stage[s].layer);
            code = act_once(&e[s * DEEDS + d], hidden + (size_t)T * C, hidden, &a, j, tokens, err);
        }
    tm_outliers_free(&o);
    free(probe);
    free(h);
    free(flag);
    free(hidden);
    free(alpha);
    return code;
}

static void print_effect(FILE *f, const job *j, int text, int stage, int deed, const effect *e)
{
    static const char *const name[] = {"as-it-is", "zero", "mean", "other-channel",
                                       "all-stages-zero"};
    fprintf(f, "%s/%d/%s\t%d\t%.4g\t%.4g\t%.5g\t%.4g\t%.2g\n", j->x.text[text].name,
            j->x.profile.stage[stage].layer, name[deed], e->kl.n, experiment_mean_of(&e->mass),
            experiment_mean_of(&e->heads), exp(experiment_mean_of(&e->loss)),
            experiment_mean_of(&e->kl), experiment_error_of(&e->kl));
}

static int find_causes(job *j, kv_error *err)
{
    int S = j->x.profile.n_stages;
    tm_out out;
    int code = experiment_table(&out, &j->x, "cause.tsv",
                                "row\twindows\tattention\theads\tppl\tkl\tkl_error", err);
    for (int i = 0; i < j->x.n && !code; i++) {
        const experiment_text *t = &j->x.text[i];
        effect *e = experiment_zeros((size_t)S * DEEDS, sizeof *e, err);
        int n = t->count < j->cause_windows ? t->count : j->cause_windows;
        code = e ? KV_OK : err->code;
        for (int w = 0; w < n && !code; w++) {
            cli_progress(w, n, "changing outliers");
            code = cause_window(e, j, experiment_window(t, w), t->length[w], err);
        }
        for (int s = 0; s < S && !code; s++)
            for (int d = 0; d < DEEDS; d++) print_effect(out.f, j, i, s, d, &e[s * DEEDS + d]);
        free(e);
    }
    cli_progress_clear();
    if (!code) return tm_out_close(&out, err);
    tm_out_abandon(&out);
    return code;
}

/* ------------------------------------------------------------------ forbid */

/* Mixing changed rows again is ref/'s work and slow; so only the beginning of a window is used. */
enum { FORBID_TOKENS = 256 };
enum { UNDISTURBED, FROM_OTHERS, ALSO_FROM_ITSELF, ORDINARY, RULES };

/* In layers from..to rows may not attend to flagged columns (unless it is their own, for
 * FROM_OTHERS); what is left of a row is scaled to sum to one again. A row that has nothing left
 * stays zero. */
typedef struct {
    int rule, from, to, T;
    const int *flag;  /* [T] sinks */
    tm_probes probes; /* |h| of the stage's channel behind layer `to` */
} forbid;

static void forbid_tap(void *self, kv_tap tap, int layer, float *data, int rows, int cols)
{
    forbid *f = self;
    if (tap == KV_TAP_H) {
        tm_probe_tap(&f->probes, tap, layer, data, rows, cols);
        return;
    }
    if (f->rule == UNDISTURBED || layer < f->from || layer > f->to) return;
    for (int r = 0; r < rows; r++) {
        float *row = data + (size_t)r * (size_t)cols;
        int i = r % f->T;
        double left = 0;
        for (int t = 0; t <= i; t++) {
            int gone = f->rule == ORDINARY ? t > 0 && f->flag[t - 1] && !f->flag[t] : f->flag[t];
            if (gone && (t != i || f->rule == ALSO_FROM_ITSELF)) row[t] = 0;
            left += row[t];
        }
        for (int t = 0; t <= i && left > 0; t++) row[t] = (float)(row[t] / left);
    }
}

typedef struct {
    experiment_mean first, later, kl, loss;
} drift;

static int forbid_window(drift *d, job *j, int stage, const int *tokens, int T, kv_error *err)
{
    const kv_model *m = j->x.s.model;
    const kv_stage *s = &j->x.profile.stage[stage];
    int from = s->layer + 1, to = from + (m->layers - from) / 2; /* half of what follows */
    tm_probe probe[2] = {{KV_TAP_H, s->layer, s->channel}, {KV_TAP_H, to, s->channel}};
    size_t n = (size_t)T * (size_t)m->width;
    float *hidden = experiment_zeros(2 * n, sizeof *hidden, err);
    float *h = experiment_zeros(4 * (size_t)T, sizeof *h, err); /* before, now, of two layers */
    int *flag = experiment_zeros((size_t)T, sizeof *flag, err);
    float *work = experiment_zeros(kv_forward_work(m, 1u << KV_TAP_ATTENTION, 0, T), sizeof *work,
                                   err);
    int code = hidden && h && flag && work ? KV_OK : err->code;
    for (int rule = 0; rule < RULES && !code; rule++) {
        forbid f = {rule, from, to, T, flag,
                    {rule ? h + 2 * T : h, probe, 2, T, 0}};
        kv_run run = {.model = m, .backend = j->x.s.backend, .tap = forbid_tap, .tap_self = &f,
                      .tap_mask = 1u << KV_TAP_H | 1u << KV_TAP_ATTENTION, .remix = 1,
                      .work = work};
        experiment_scores score;
        code = kv_forward(rule ? hidden + n : hidden, &run, tokens, T, err);
        if (!code && rule == UNDISTURBED) stage_sinks(flag, h, T, s);
        if (!code) code = experiment_score(&score, &j->x, hidden, rule ? hidden + n : hidden,
                                           tokens, 0, T, err);
        for (int t = 0; t < T && !code; t++)
            if (flag[t]) experiment_add(t ? &d[rule].later : &d[rule].first,
                                        fabs(f.probes.out[T + t] / (double)h[T + t]));
        if (!code) experiment_add(&d[rule].kl, score.kl);
        if (!code) experiment_add(&d[rule].loss, score.loss);
    }
    free(hidden);
    free(h);
    free(flag);
    free(work);
    return code;
}

static int forbid_attention(job *j, kv_error *err)
{
    static const char *const name[] = {"undisturbed", "sinks", "sinks-own-too", "tokens-behind"};
    tm_out out;
    int code = experiment_table(&out, &j->x, "forbid.tsv",
                                "row\twindows\tfirst\tlater\tppl\tkl\tkl_error", err);
    for (int i = 0; i < j->x.n && !code; i++)
        for (int s = 0; s < j->x.profile.n_stages && !code; s++) {
            const experiment_text *t = &j->x.text[i];
            drift d[RULES] = {{{0, 0, 0}, {0, 0, 0}, {0, 0, 0}, {0, 0, 0}}};
            if (j->x.profile.stage[s].layer + 1 >= j->x.s.model->layers) continue;
            for (int w = 0; w < t->count && w < j->cause_windows && !code; w++) {
                int T = t->length[w] < FORBID_TOKENS ? t->length[w] : FORBID_TOKENS;
                cli_progress(w, t->count, "forbidding attention");
                code = forbid_window(d, j, s, experiment_window(t, w), T, err);
            }
            for (int r = 0; r < RULES && !code; r++) {
                fprintf(out.f, "%s/%d/%s\t%d", t->name, j->x.profile.stage[s].layer, name[r],
                        d[r].kl.n);
                for (int k = 0; k < 2; k++) {
                    const experiment_mean *m = k ? &d[r].later : &d[r].first;
                    if (m->n) fprintf(out.f, "\t%.4g", experiment_mean_of(m));
                    else fprintf(out.f, "\t-");
                }
                fprintf(out.f, "\t%.5g\t%.4g\t%.2g\n", exp(experiment_mean_of(&d[r].loss)),
                        experiment_mean_of(&d[r].kl), experiment_error_of(&d[r].kl));
            }
        }
    cli_progress_clear();
    if (!code) return tm_out_close(&out, err);
    tm_out_abandon(&out);
    return code;
}

/* ---------------------------------------------------------------- pictures */

/* The four places of one stage: sinks and others, signed. */
static void draw_stage(tm_canvas *c, double top, const job *j, int stage, double *y)
{
    static const char *const what[PLACES] = {
        "down_in, any channel", "h_attn", "down_out", "h"};
    int L = j->x.s.model->layers;
    const kv_stage *s = &j->x.profile.stage[stage];
    for (int p = 0; p < PLACES; p++) {
        char title[80];
        snprintf(title, sizeof title, p == DOWN_IN ? "%s" : "%s[%d]", what[p], s->channel);
        for (int l = 0; l < L; l++) {
            y[l] = experiment_mean_of(&depth_at(j, 0, stage, l)->sinks[p]);
            y[L + l] = (double)depth_at(j, 0, stage, l)->other[p];
        }
        tm_series series[2] = {{"sinks", y, tm_sink, 1},
                               {"others, the largest", y + L, tm_series_color[0], 0}};
        char mark[32];
        snprintf(mark, sizeof mark, "stage, layer %d", s->layer);
        const char *label = mark;
        tm_lines lines = {title, "layer", NULL, 0, L, 0, series, 2, &s->layer, &label, 1};
        tm_plot_lines(c, (tm_box){20 + p % 2 * 600, top + p / 2 * 440, 560, 420}, &lines);
    }
}

static int picture_outliers(const job *j, kv_error *err)
{
    tm_canvas c = {0};
    int S = j->x.profile.n_stages < 4 ? j->x.profile.n_stages : 4;
    if (!S) return KV_OK; /* no stage, no picture */
    double *y = experiment_zeros((size_t)j->x.s.model->layers * 2, sizeof *y, err);
    int code = y ? tm_canvas_init(&c, 1200, 880 * S + 20, err) : err->code;
    for (int s = 0; s < S && !code; s++) draw_stage(&c, 20 + 880 * s, j, s, y);
    if (!code) code = tm_canvas_write(&c, experiment_path(&j->x, "outliers.png"), err);
    tm_canvas_free(&c);
    free(y);
    return code;
}

int main(int argc, char **argv)
{
    static job j;
    const cli_option own[] = {
        {"--eps", CLI_FLOAT, &j.eps, "E", "0.3", 0, 1, "a sink receives more attention than that"},
        {"--cause", CLI_INT, &j.cause_windows, "N", "3", 0, 1 << 20,
         "windows of each text in which outliers and attention are changed"},
        {0}};
    const experiment_spec spec = {
        "02", "Outliers from layer to layer, on several texts, and what happens without them.",
        "chapters/02-outlier-evolution/experiment.c tinymodels/experiment.c tinymodels/analysis.c"
        " ref/attention.c ref/outliers.c ref/sinks.c ref/softmax.c ref/transformer.c", NULL, 512, 8,
        1, own};
    kv_error err = {0, ""};
    int status;
    if (!experiment_open(&j.x, &spec, argc, argv, &status)) return cli_finish(status);
    if (look_at_texts(&j, &err) || write_outliers(&j, &err) || write_stages(&j, &err) ||
        picture_outliers(&j, &err) ||
        (j.cause_windows && (find_causes(&j, &err) || forbid_attention(&j, &err))))
        status = experiment_fail(&j.x, &err);
    free(j.d);
    free(j.sinks);
    free(j.inside);
    free(j.outside);
    free(j.agree);
    experiment_close(&j.x);
    return cli_finish(status);
}
