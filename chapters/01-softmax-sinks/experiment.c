/* Chapter 1: how sinks differ from other tokens inside the attention layers.
 *
 * For every layer and text, over all windows: the norms of query, key and value (all heads of the
 * layer together), the mean cosine of the key with the queries that see it, and the share of
 * attention, for three kinds of token: the first, other sinks, and the rest. A token is a sink if
 * its key receives alpha > eps in at least one in a hundred of all heads of the model.
 *
 * norms.tsv     row (text/layer/kind), tokens, means of q, k, v, cosine, and attention
 * summary.tsv   row (text), windows, sinks a window, share of all attention they receive, and the
 *               medians over layers of (mean norm of sinks) / (mean norm of the rest)
 * norms.png     the same over depth, for the first text */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "experiment.h"
#include "plot.h"

enum { FIRST, LATER, REST, KINDS };
enum { Q, K, V, COSINE, ATTENTION, VALUES };

static const char *const kind_name[KINDS] = {"first", "later", "rest"};

typedef struct {
    experiment x;
    double eps;
    experiment_mean *value; /* [texts][layers][KINDS][VALUES] */
    experiment_mean sinks[EXPERIMENT_TEXTS], mass[EXPERIMENT_TEXTS];
} job;

static experiment_mean *at(const job *j, int text, int layer, int kind)
{
    int L = j->x.s.model->layers;
    return j->value + (((size_t)text * (size_t)L + (size_t)layer) * KINDS + (size_t)kind) * VALUES;
}

/* Attention that a window spends on the tokens of a kind, of one layer: a share of the whole. */
static void add_layer(job *j, int text, int layer, const tm_attention *a, const int *kind)
{
    double share[KINDS] = {0};
    int count[KINDS] = {0};
    for (int t = 0; t < a->T; t++) {
        experiment_mean *m = at(j, text, layer, kind[t]);
        size_t i = (size_t)layer * (size_t)a->T + (size_t)t;
        experiment_add(&m[Q], a->q_norm[i]);
        experiment_add(&m[K], a->k_norm[i]);
        experiment_add(&m[V], a->v_norm[i]);
        experiment_add(&m[COSINE], a->cosine[i]);
        share[kind[t]] += tm_attention_mass(a, layer, &t, 1);
        count[kind[t]]++;
    }
    for (int k = 0; k < KINDS; k++)
        if (count[k]) experiment_add(&at(j, text, layer, k)[ATTENTION], share[k]);
}

static int one_window(job *j, int text, int w, kv_error *err)
{
    experiment_text *t = &j->x.text[text];
    tm_attention a;
    int T = t->length[w], *kind = experiment_zeros((size_t)T, sizeof *kind, err);
    if (!kind) return err->code;
    int code = tm_attention_run(&a, &j->x.e, experiment_window(t, w), T, j->eps, err);
    if (!code) {
        int sinks = experiment_sinks(kind, &a, j->eps);
        double mass = 0;
        for (int i = 0; i < T; i++)
            for (int l = 0; l < a.layers && kind[i]; l++)
                mass += tm_attention_mass(&a, l, &i, 1) / a.layers;
        for (int i = 0; i < T; i++) kind[i] = i == 0 ? FIRST : kind[i] ? LATER : REST;
        for (int l = 0; l < a.layers; l++) add_layer(j, text, l, &a, kind);
        experiment_add(&j->sinks[text], sinks);
        experiment_add(&j->mass[text], mass);
        tm_attention_free(&a);
    }
    free(kind);
    return code;
}

static int run(job *j, kv_error *err)
{
    experiment *x = &j->x;
    int done = 0, all = 0;
    j->value = experiment_zeros((size_t)x->n * (size_t)x->s.model->layers * KINDS * VALUES,
                                sizeof *j->value, err);
    if (!j->value) return err->code;
    for (int i = 0; i < x->n; i++) all += x->text[i].count;
    for (int i = 0; i < x->n; i++)
        for (int w = 0; w < x->text[i].count; w++) {
            cli_progress(done++, all, "looking at attention");
            if (one_window(j, i, w, err)) return err->code;
        }
    cli_progress_clear();
    return KV_OK;
}

/* ------------------------------------------------------------------ tables */

static int write_norms(const job *j, kv_error *err)
{
    tm_out out;
    int code = experiment_table(&out, &j->x, "norms.tsv", "row\ttokens\tq\tk\tv\tcosine\tattention",
                                err);
    for (int i = 0; i < j->x.n && !code; i++)
        for (int l = 0; l < j->x.s.model->layers; l++)
            for (int k = 0; k < KINDS; k++) {
                const experiment_mean *m = at(j, i, l, k);
                if (!m[Q].n) continue;
                fprintf(out.f, "%s/%d/%s\t%d", j->x.text[i].name, l, kind_name[k], m[Q].n);
                for (int v = 0; v < VALUES; v++)
                    fprintf(out.f, "\t%.5g", experiment_mean_of(&m[v]));
                fprintf(out.f, "\n");
            }
    return code ? code : tm_out_close(&out, err);
}

/* Median over layers of the ratio of a kind's mean to the rest's. NaN: no such token. */
static double ratio(const job *j, int text, int kind, int value)
{
    int L = j->x.s.model->layers, n = 0;
    float *r = calloc((size_t)L, sizeof *r);
    for (int l = 0; l < L && r; l++) {
        double of = experiment_mean_of(&at(j, text, l, kind)[value]);
        double rest = experiment_mean_of(&at(j, text, l, REST)[value]);
        if (isfinite(of) && rest > 0) r[n++] = (float)(of / rest);
    }
    double median = r && n ? kv_median_abs(r, (size_t)n) : NAN;
    free(r);
    return median;
}

static int write_summary(const job *j, kv_error *err)
{
    tm_out out;
    int code = experiment_table(&out, &j->x, "summary.tsv", "row\twindows\tsinks\tattention"
                                "\tfirst_q\tfirst_k\tfirst_v\tlater_q\tlater_k\tlater_v", err);
    for (int i = 0; i < j->x.n && !code; i++) {
        fprintf(out.f, "%s\t%d\t%.4g\t%.4g", j->x.text[i].name, j->x.text[i].count,
                experiment_mean_of(&j->sinks[i]), experiment_mean_of(&j->mass[i]));
        for (int kind = FIRST; kind <= LATER; kind++)
            for (int v = Q; v <= V; v++) {
                double r = ratio(j, i, kind, v);
                if (isfinite(r)) fprintf(out.f, "\t%.4g", r);
                else fprintf(out.f, "\t-");
            }
        fprintf(out.f, "\n");
    }
    return code ? code : tm_out_close(&out, err);
}

/* ---------------------------------------------------------------- picture */

static const char *const title[VALUES] = {
    "Length of queries", "Length of keys", "Length of values",
    "Cosine of key with queries", "Share of attention"};

static void panel(tm_canvas *c, tm_box box, const job *j, int value, double *y)
{
    static const char *const name[KINDS] = {"first token", "other sinks", "the rest"};
    int L = j->x.s.model->layers;
    tm_series s[KINDS];
    for (int k = 0; k < KINDS; k++) {
        tm_color color = k == FIRST ? tm_sink : tm_series_color[k == REST ? 0 : 1];
        s[k] = (tm_series){name[k], y + k * L, color, k != REST};
        for (int l = 0; l < L; l++) y[k * L + l] = experiment_mean_of(&at(j, 0, l, k)[value]);
    }
    tm_lines p = {title[value], "layer", NULL, 0, L, 0, s, KINDS, NULL, NULL, 0};
    tm_plot_lines(c, box, &p);
}

static int picture(const job *j, kv_error *err)
{
    tm_canvas c = {0};
    double *y = experiment_zeros((size_t)j->x.s.model->layers * KINDS, sizeof *y, err);
    int code = y ? tm_canvas_init(&c, 1200, 1500, err) : err->code;
    if (!code) {
        for (int v = 0; v < VALUES; v++)
            panel(&c, (tm_box){20 + v % 2 * 600, 20 + v / 2 * 495, 560, 465}, j, v, y);
        code = tm_canvas_write(&c, experiment_path(&j->x, "norms.png"), err);
    }
    tm_canvas_free(&c);
    free(y);
    return code;
}

int main(int argc, char **argv)
{
    static job j;
    const cli_option own[] = {
        {"--eps", CLI_FLOAT, &j.eps, "E", "0.3", 0, 1, "a sink receives more attention than that"},
        {0}};
    const experiment_spec spec = {
        "01", "Norms and cosines of attention sinks and of other tokens, layer by layer.",
        "chapters/01-softmax-sinks/experiment.c tinymodels/experiment.c tinymodels/analysis.c"
        " ref/attention.c ref/sinks.c ref/softmax.c ref/transformer.c", NULL, 512, 8, 0, own};
    kv_error err;
    int status;
    if (!experiment_open(&j.x, &spec, argc, argv, &status)) return cli_finish(status);
    if (run(&j, &err) || write_norms(&j, &err) || write_summary(&j, &err) || picture(&j, &err))
        status = experiment_fail(&j.x, &err);
    free(j.value);
    experiment_close(&j.x);
    return cli_finish(status);
}
