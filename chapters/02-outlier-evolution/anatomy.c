/* Chapter 2: one outlier under the microscope, in a handful of short sentences.
 *
 *     anatomy MODEL FOLDER
 *
 * The sentences begin with different words; the first token of each is a sink. The channel is that
 * of the largest |H| of the first sentence.
 *
 * writers.tsv  row: a layer whose FFN adds 50 or more (of either sign) to the channel at the first
 *              token of the first sentence. write: what it adds; unit: the hidden unit that adds
 *              most of it, its gate, its up, their product silu(gate) * up, its weight into the
 *              channel, its part; others: the largest part (of either sign) of all other units;
 *              elsewhere: the unit's largest product at the other tokens.
 * squares.tsv  row: a factor. The input of the FFN that writes most is scaled by it: gate, up and
 *              product of the same unit, and what the FFN adds to the channel.
 * norm.tsv     row: a layer. First tokens, and beside them (_4th) the fourth ones. rms: of the
 *              residual that attention reads, mean over sentences. x, k, v: mean cosine over pairs
 *              of sentences, of the normed residual, the key before RoPE and the value.
 * weights.tsv  row: a layer. share: of the square of the first token's residual, percent, that
 *              lies in the channel; k_norm, v_norm: mean norm of first tokens over that of fourth
 *              ones; gain: of the norm in the channel, over the median of all channels; column_k,
 *              column_v: mean cosine of the first token's key and value with the channel's
 *              column of W_k and W_v. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "files.h"
#include "kv.h"
#include "model.h"
#include "tokenizer.h"

static const char *const sentence[] = {
    "Summer is warm. Winter is cold.",        "The river runs past our old house.",
    "Bread needs flour and a little salt.",   "Nobody knew where the road would end.",
    "My brother plays chess on Sundays.",     "Light travels faster than any sound.",
};
enum { SENTENCES = sizeof sentence / sizeof *sentence, FOURTH = 3 };

/* What a pass shows. */
typedef struct {
    int T, C, L, F, row; /* row: Hk*D */
    float *h;            /* [L+1][T][C] */
    float *h_attn;       /* [L][T][C] */
    float *down_in;      /* [L][T][F] */
    float *down_out;     /* [L][T][C] */
    float *k, *v;        /* [L][T][row] */
} pass;

static void *zeros(size_t n, size_t size)
{
    void *p = calloc(n, size);
    if (!p) {
        fprintf(stderr, "anatomy: no memory\n");
        exit(1);
    }
    return p;
}

static void keep(void *self, kv_tap tap, int layer, float *data, int rows, int cols)
{
    pass *p = self;
    float *to = tap == KV_TAP_EMBED ? p->h : tap == KV_TAP_H ? p->h + (size_t)p->T * p->C
              : tap == KV_TAP_H_ATTN ? p->h_attn : tap == KV_TAP_DOWN_IN ? p->down_in
              : tap == KV_TAP_DOWN_OUT ? p->down_out : tap == KV_TAP_K_PRE ? p->k : p->v;
    size_t n = (size_t)rows * (size_t)cols;
    memcpy(to + (layer < 0 ? 0 : (size_t)layer * n), data, n * sizeof *data);
}

static int run_sentence(pass *p, const kv_model *m, const tokenizer *tok, const char *text,
                        kv_error *err)
{
    int *ids, n;
    if (tok_encode(&ids, &n, tok, text, strlen(text), 0, err)) return err->code;
    if (n <= FOURTH) return kv_fail(err, KV_FAIL_RUN, "'%s' has %d tokens; 4 are needed", text, n);
    *p = (pass){.T = n, .C = m->width, .L = m->layers, .F = m->ffn,
                .row = m->shape.kv_heads * m->shape.head_size};
    size_t L = (size_t)p->L, T = (size_t)n, C = (size_t)p->C;
    p->h = zeros((L + 1) * T * C, sizeof(float));
    p->h_attn = zeros(L * T * C, sizeof(float));
    p->down_in = zeros(L * T * (size_t)p->F, sizeof(float));
    p->down_out = zeros(L * T * C, sizeof(float));
    p->k = zeros(L * T * (size_t)p->row, sizeof(float));
    p->v = zeros(L * T * (size_t)p->row, sizeof(float));
    float *hidden = zeros(T * C, sizeof(float)), *scratch = zeros(T, sizeof(float));
    float *work = zeros(kv_forward_work(m, 0, 0, n), sizeof(float));
    kv_backend backend = kv_scalar_backend(scratch);
    kv_run run = {.model = m, .backend = &backend, .tap = keep, .tap_self = p, .work = work,
                  .tap_mask = 1u << KV_TAP_EMBED | 1u << KV_TAP_H | 1u << KV_TAP_H_ATTN |
                              1u << KV_TAP_DOWN_IN | 1u << KV_TAP_DOWN_OUT | 1u << KV_TAP_K_PRE |
                              1u << KV_TAP_V};
    int code = kv_forward(hidden, &run, ids, n, err);
    free(ids);
    free(hidden);
    free(scratch);
    free(work);
    return code;
}

static void release(pass *p)
{
    float *all[] = {p->h, p->h_attn, p->down_in, p->down_out, p->k, p->v};
    for (int i = 0; i < 6; i++) free(all[i]);
}

/* A results file with its first comment lines. */
static FILE *table(const char *folder, const char *name, const char *model, const char *titles,
                   kv_error *err)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *f = fopen(path, "w");
    if (!f) {
        kv_fail(err, KV_FAIL_RUN, "cannot write '%s'", path);
        return NULL;
    }
    const char *slash = strrchr(model, '/');
    fprintf(f, "# command: sh chapters/02-outlier-evolution/anatomy.sh\n"
            "# depends: chapters/02-outlier-evolution/anatomy.c\n"
            "# depends: ref/attention.c\n# depends: ref/transformer.c\n"
            "# model: %s\n# text: six short sentences, in anatomy.c\n# long: yes\n%s\n",
            slash ? slash + 1 : model, titles);
    return f;
}

/* ---------------------------------------------------------------- writers */

static double silu(double x) { return x / (1 + exp(-x)); }

/* Gate and up of a unit for a normed input x [C]. */
static void unit_at(double *gate, double *up, const kv_layer_weights *w, int unit, const float *x)
{
    *gate = kv_dot(x, w->gate.data + (size_t)unit * (size_t)w->gate.cols, w->gate.cols);
    *up = kv_dot(x, w->up.data + (size_t)unit * (size_t)w->up.cols, w->up.cols);
}

static double weight_at(const kv_layer_weights *w, int channel, int unit)
{
    return (double)w->down.data[(size_t)channel * (size_t)w->down.cols + (size_t)unit];
}

static int largest_unit(const pass *p, const kv_layer_weights *w, int l, int channel, int without)
{
    int best = -1;
    double most = -1;
    for (int u = 0; u < p->F; u++) {
        double in = (double)p->down_in[(size_t)l * p->T * p->F + u];
        double part = fabs(in * weight_at(w, channel, u));
        if (u != without && part > most) {
            most = part;
            best = u;
        }
    }
    return best;
}

static int write_writers(const pass *p, const kv_model *m, int channel, const char *folder,
                         const char *model, kv_error *err)
{
    FILE *f = table(folder, "writers.tsv", model, "layer\twrite\tunit\tgate\tup\tproduct\tweight"
                    "\tpart\tothers\telsewhere", err);
    float *x = zeros((size_t)p->C, sizeof *x);
    for (int l = 0; l < p->L && f; l++) {
        const kv_layer_weights *w = &m->layer[l];
        const float *in = p->down_in + (size_t)l * p->T * p->F;
        double write = (double)p->down_out[(size_t)l * p->T * p->C + channel], gate, up, else_ = 0;
        if (fabs(write) < 50) continue;
        int u = largest_unit(p, w, l, channel, -1), second = largest_unit(p, w, l, channel, u);
        kv_rmsnorm(x, p->h_attn + (size_t)l * p->T * p->C, w->ffn_norm, m->norm_eps, p->C);
        unit_at(&gate, &up, w, u, x);
        for (int t = 1; t < p->T; t++) {
            double y = (double)in[(size_t)t * p->F + u];
            if (fabs(y) > fabs(else_)) else_ = y;
        }
        fprintf(f, "%d\t%.0f\t%d\t%.3g\t%.3g\t%.4g\t%.3g\t%.0f\t%.0f\t%.2g\n", l, write, u,
                gate, up, (double)in[u], weight_at(w, channel, u),
                (double)in[u] * weight_at(w, channel, u), (double)in[second] * weight_at(w, channel, second), else_);
    }
    free(x);
    if (f) fclose(f);
    return f ? KV_OK : err->code;
}

static int biggest_writer(const pass *p, int channel)
{
    int best = 0;
    for (int l = 1; l < p->L; l++)
        if (fabsf(p->down_out[(size_t)l * p->T * p->C + channel]) >
            fabsf(p->down_out[(size_t)best * p->T * p->C + channel])) best = l;
    return best;
}

static int write_squares(const pass *p, const kv_model *m, int channel, const char *folder,
                         const char *model, kv_error *err)
{
    static const double factor[] = {-1, 0.0625, 0.125, 0.25, 0.5, 1, 2};
    int l = biggest_writer(p, channel);
    const kv_layer_weights *w = &m->layer[l];
    int u = largest_unit(p, w, l, channel, -1);
    float *x = zeros((size_t)p->C, sizeof *x);
    FILE *f = table(folder, "squares.tsv", model, "factor\tlayer\tunit\tgate\tup\tproduct\twrite",
                    err);
    for (int i = 0; i < (int)(sizeof factor / sizeof *factor) && f; i++) {
        double gate, up, write = 0;
        kv_rmsnorm(x, p->h_attn + (size_t)l * p->T * p->C, w->ffn_norm, m->norm_eps, p->C);
        for (int c = 0; c < p->C; c++) x[c] = (float)(x[c] * factor[i]);
        for (int j = 0; j < p->F; j++) {
            unit_at(&gate, &up, w, j, x);
            write += silu(gate) * up * weight_at(w, channel, j);
        }
        unit_at(&gate, &up, w, u, x);
        fprintf(f, "%g\t%d\t%d\t%.4g\t%.4g\t%.5g\t%.5g\n", factor[i], l, u, gate, up,
                silu(gate) * up, write);
    }
    free(x);
    if (f) fclose(f);
    return f ? KV_OK : err->code;
}

/* ------------------------------------------------------------------- norm */

/* Mean cosine over pairs of sentences; x [SENTENCES][n]. */
static double agreement(const float *x, int n)
{
    double sum = 0;
    for (int a = 0; a < SENTENCES; a++)
        for (int b = 0; b < a; b++)
            sum += kv_cosine(x + (size_t)a * n, x + (size_t)b * n, n);
    return sum / (SENTENCES * (SENTENCES - 1) / 2);
}

static double mean_norm(const float *x, int n)
{
    double sum = 0;
    for (int a = 0; a < SENTENCES; a++) sum += kv_norm(x + (size_t)a * n, n);
    return sum / SENTENCES;
}

/* Mean cosine of x [SENTENCES][n] with a column of w, times sign. */
static double along_column(const float *x, int n, const kv_matrix *w, int channel, double sign)
{
    float *column = zeros((size_t)n, sizeof *column);
    double sum = 0;
    for (int r = 0; r < n; r++)
        column[r] = (float)(sign * (double)w->data[(size_t)r * (size_t)w->cols + channel]);
    for (int a = 0; a < SENTENCES; a++) sum += kv_cosine(x + (size_t)a * n, column, n);
    free(column);
    return sum / SENTENCES;
}

static double gain_ratio(const float *gain, int channel, int C)
{
    float *copy = zeros((size_t)C, sizeof *copy);
    memcpy(copy, gain, (size_t)C * sizeof *copy);
    double ratio = (double)fabsf(gain[channel]) / (double)kv_median_abs(copy, (size_t)C);
    free(copy);
    return ratio;
}

/* The rows of one token of every sentence, of layer l. */
static void gather(float *to, const pass *p, int l, int t, int what)
{
    for (int s = 0; s < SENTENCES; s++) {
        const pass *q = &p[s];
        int n = what == 0 ? q->C : q->row;
        const float *from = what == 0 ? q->h : what == 1 ? q->k : q->v;
        memcpy(to + (size_t)s * n, from + ((size_t)l * q->T + (size_t)t) * n,
               (size_t)n * sizeof *to);
    }
}

static void norm_row(FILE *norm, FILE *weights, const pass *p, const kv_model *m, int l,
                     int channel)
{
    int C = p->C, n = p->row;
    const kv_layer_weights *w = &m->layer[l];
    float *x[2], *k[2], *v[2];
    double rms[2], share = 0, sign = 0;
    for (int i = 0; i < 2; i++) {
        x[i] = zeros((size_t)SENTENCES * C, sizeof(float));
        k[i] = zeros((size_t)SENTENCES * n, sizeof(float));
        v[i] = zeros((size_t)SENTENCES * n, sizeof(float));
        gather(x[i], p, l, i * FOURTH, 0);
        gather(k[i], p, l, i * FOURTH, 1);
        gather(v[i], p, l, i * FOURTH, 2);
        rms[i] = mean_norm(x[i], C) / sqrt(C);
    }
    for (int s = 0; s < SENTENCES; s++) {
        double h = (double)x[0][(size_t)s * C + channel], r = kv_norm(x[0] + (size_t)s * C, C);
        share += 100 * h * h / (r * r) / SENTENCES;
        sign += h;
    }
    for (int i = 0; i < 2; i++)
        for (int s = 0; s < SENTENCES; s++)
            kv_rmsnorm(x[i] + (size_t)s * C, x[i] + (size_t)s * C, w->attn_norm, m->norm_eps, C);
    sign = (sign < 0 ? -1 : 1) * (w->attn_norm[channel] < 0 ? -1 : 1);
    fprintf(norm, "%d\t%.3g\t%.3g\t%.3f\t%.3f\t%.3f\t%.3f\t%.3f\t%.3f\n", l, rms[0], rms[1],
            agreement(x[0], C), agreement(x[1], C), agreement(k[0], n), agreement(k[1], n),
            agreement(v[0], n), agreement(v[1], n));
    fprintf(weights, "%d\t%.3g\t%.3g\t%.3g\t%.3g\t%.3f\t%.3f\n", l, share,
            mean_norm(k[0], n) / mean_norm(k[1], n), mean_norm(v[0], n) / mean_norm(v[1], n),
            gain_ratio(w->attn_norm, channel, C), along_column(k[0], n, &w->k, channel, sign),
            along_column(v[0], n, &w->v, channel, sign));
    for (int i = 0; i < 2; i++) {
        free(x[i]);
        free(k[i]);
        free(v[i]);
    }
}

static int write_norm(const pass *p, const kv_model *m, int channel, const char *folder,
                      const char *model, kv_error *err)
{
    FILE *norm = table(folder, "norm.tsv", model,
                       "layer\trms\trms_4th\tx\tx_4th\tk\tk_4th\tv\tv_4th", err);
    FILE *weights = table(folder, "weights.tsv", model,
                          "layer\tshare\tk_norm\tv_norm\tgain\tcolumn_k\tcolumn_v", err);
    for (int l = 0; l < m->layers && norm && weights; l++)
        norm_row(norm, weights, p, m, l, channel);
    int code = norm && weights ? KV_OK : err->code;
    if (norm) fclose(norm);
    if (weights) fclose(weights);
    return code;
}

/* The channel of the largest |H| behind any layer. */
static int outlier_channel(const pass *p)
{
    float best = 0;
    int channel = 0;
    for (size_t i = (size_t)p->T * p->C; i < (size_t)(p->L + 1) * p->T * p->C; i++)
        if (fabsf(p->h[i]) > best) {
            best = fabsf(p->h[i]);
            channel = (int)(i % (size_t)p->C);
        }
    return channel;
}

int main(int argc, char **argv)
{
    if (argc != 3) {
        fprintf(stderr, "usage: anatomy MODEL FOLDER\n");
        return 2;
    }
    kv_error err = {0, ""};
    tm_model *model = NULL;
    tokenizer *tok = NULL;
    pass p[SENTENCES] = {{0}};
    int code = tm_model_load(&model, argv[1], &err);
    if (!code) code = tok_open(&tok, model->file, &err);
    for (int s = 0; s < SENTENCES && !code; s++)
        code = run_sentence(&p[s], model->kv, tok, sentence[s], &err);
    int channel = code ? 0 : outlier_channel(p);
    if (!code) code = write_writers(p, model->kv, channel, argv[2], argv[1], &err);
    if (!code) code = write_squares(p, model->kv, channel, argv[2], argv[1], &err);
    if (!code) code = write_norm(p, model->kv, channel, argv[2], argv[1], &err);
    if (code) fprintf(stderr, "anatomy: %s\n", err.text);
    for (int s = 0; s < SENTENCES; s++) release(&p[s]);
    tok_close(tok);
    tm_model_free(model);
    return code;
}
