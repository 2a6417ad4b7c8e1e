/* Chapter 3: what a sink costs its neighbours, format by format (the paper's Table 1 in shape).
 *
 * Keys and values of the unquantized model are quantized per token and per channel, with groups of
 * several sizes, each with ranges from the data (dynamic) and from calibration texts (static),
 * once with the sinks in the ranges and once without. The error is |x - x^| / |x|, norms over all
 * elements of the rows in question; sinks and all other tokens are measured apart. Without means
 * that sinks leave the range but are still coded with it, clamped, so that both columns tell what
 * the range does; with KVSink such rows are 16 bits wide and their error is that of binary16.
 *
 * Sinks are what kvsink:auto@each/all finds. Static ranges are the extremes of each channel over
 * the calibration texts, with and without the sinks of those texts.
 *
 * errors.tsv   row (text/tensor/bits/range/axis:group), windows, mean error over layers of sinks
 *              and of the rest, with and without; change of the rest's in percent, mean and the
 *              layer's where it falls most, and that layer
 * layers.tsv   row (tensor/bits/range/axis:group/layer) the four errors, first text only
 * errors.png   the same over depth for four formats at two bits, first text */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "evidence.h"
#include "experiment.h"
#include "plot.h"

enum { KEYS, VALUES, TENSORS };
enum { WITH, WITHOUT, WAYS };
enum { SINKS, REST, KINDS };

static const char *const tensor_name[TENSORS] = {"keys", "values"};

/* Per channel, a static range is the channel's own whatever the group: one stands for all. */
static const struct { const char *text; int is_static; } shapes[] = {
    {"token:32", 0}, {"token:64", 0}, {"token:all", 0},
    {"channel:32", 0}, {"channel:64", 0}, {"channel:128", 0}, {"channel:all", 0},
    {"token:32", 1}, {"token:64", 1}, {"token:all", 1}, {"channel:all", 1},
};
enum { SHAPES = sizeof shapes / sizeof *shapes, WIDTHS = 2 };
static const int widths[WIDTHS] = {2, 4};

typedef struct { double error, norm; } square; /* sums of squares */

typedef struct {
    experiment x;
    cli_list constants;            /* calibration texts */
    kv_keep_rule rule;
    tm_evidence *evidence;
    float *rows[TENSORS];          /* [L][ctx][row] of the window that is passing */
    kv_keep keep;
    float *lo[TENSORS], *hi[TENSORS]; /* [WAYS][L][row] */
    square *sum;                   /* [texts][TENSORS][WIDTHS][SHAPES][L][WAYS][KINDS] */
    int *windows;                  /* [texts] */
    /* one job of the pool */
    int text, T, *bad;
} job;

static size_t row_of(const job *j)
{
    kv_shape s = j->x.s.model->shape;
    return (size_t)s.kv_heads * (size_t)s.head_size;
}

static square *sum_at(const job *j, int text, int tensor, int width, int shape, int layer)
{
    size_t L = (size_t)j->x.s.model->layers;
    size_t format = (((size_t)text * TENSORS + (size_t)tensor) * WIDTHS + (size_t)width) * SHAPES +
                    (size_t)shape;
    return j->sum + (format * L + (size_t)layer) * WAYS * KINDS;
}

/* ----------------------------------------------------------------- one pass */

static void on_tap(void *self, kv_tap tap, int layer, float *data, int rows, int cols)
{
    job *j = self;
    if ((1u << tap) & tm_evidence_mask(j->evidence))
        tm_evidence_tap(j->evidence, tap, layer, data, rows, cols);
    if (tap != KV_TAP_K && tap != KV_TAP_V) return;
    float *to = j->rows[tap == KV_TAP_V] + (size_t)layer * (size_t)j->x.ctx * row_of(j);
    memcpy(to, data, (size_t)rows * (size_t)cols * sizeof *to);
}

/* Keys, values and keep set of a window. */
static int pass(job *j, const int *tokens, int T, float *hidden, kv_error *err)
{
    int code = tm_evidence_open(&j->evidence, &j->rule, &j->x.profile, j->x.s.model, T, err);
    if (code) return code;
    unsigned mask = tm_evidence_mask(j->evidence) | 1u << KV_TAP_K | 1u << KV_TAP_V;
    code = session_forward(&j->x.s, hidden, tokens, T, on_tap, j, mask, err);
    if (!code) code = tm_evidence_keep(&j->keep, NULL, j->evidence, tokens, err);
    tm_evidence_close(j->evidence);
    j->T = T;
    return code;
}

static int is_kept(const job *j, int layer, int t)
{
    const int *list = j->keep.position + (size_t)layer * (size_t)j->keep.capacity;
    int n = j->keep.count[layer], at = kv_positions_before(list, n, t);
    return at < n && list[at] == t;
}

/* ------------------------------------------------------------ static ranges */

static void widen(job *j, int tensor, int way, int layer, int t)
{
    size_t row = row_of(j), L = (size_t)j->x.s.model->layers;
    size_t at = ((size_t)way * L + (size_t)layer) * row;
    const float *x = j->rows[tensor] + ((size_t)layer * (size_t)j->x.ctx + (size_t)t) * row;
    float *lo = j->lo[tensor] + at, *hi = j->hi[tensor] + at;
    for (size_t c = 0; c < row; c++) {
        lo[c] = fminf(lo[c], x[c]);
        hi[c] = fmaxf(hi[c], x[c]);
    }
}

static void take_ranges(job *j)
{
    for (int l = 0; l < j->x.s.model->layers; l++)
        for (int t = 0; t < j->T; t++)
            for (int tensor = 0; tensor < TENSORS; tensor++) {
                widen(j, tensor, WITH, l, t);
                if (!is_kept(j, l, t)) widen(j, tensor, WITHOUT, l, t);
            }
}

/* ------------------------------------------------------------------ errors */

static void add_errors(square *s, const job *j, const float *x, const float *x_hat, int layer)
{
    size_t row = row_of(j);
    for (int t = 0; t < j->T; t++) {
        square *to = &s[is_kept(j, layer, t) ? SINKS : REST];
        for (size_t c = 0; c < row; c++, x++, x_hat++) {
            double d = (double)*x - *x_hat;
            to->error += d * d;
            to->norm += (double)*x * *x;
        }
    }
}

/* All formats of one layer of one tensor; 0 if that cannot be. */
static int measure(job *j, int tensor, int layer, const kv_quantized *q, uint8_t *kept)
{
    size_t row = row_of(j), L = (size_t)j->x.s.model->layers;
    const float *x = j->rows[tensor] + (size_t)layer * (size_t)j->x.ctx * row;
    for (int t = 0; t < j->T; t++) kept[t] = (uint8_t)is_kept(j, layer, t);
    for (int w = 0; w < WIDTHS; w++)
        for (int i = 0; i < SHAPES; i++)
            for (int way = 0; way < WAYS; way++) {
                char text[KV_FORMAT_TEXT];
                kv_format f;
                size_t range = ((size_t)way * L + (size_t)layer) * row;
                snprintf(text, sizeof text, "%d:%s%s", widths[w], shapes[i].text,
                         shapes[i].is_static ? ":static" : "");
                if (kv_format_parse(&f, text, NULL)) return 0;
                f.exclusion = KV_KEPT_EXCLUDE_ONLY;
                kv_rows in = {x, way == WITHOUT ? kept : NULL, j->x.s.model->shape, j->T, tensor,
                              NULL, NULL};
                if (f.is_static) in.lo = j->lo[tensor] + range, in.hi = j->hi[tensor] + range;
                if (kv_quantize(q, &in, &f, NULL)) return 0;
                add_errors(sum_at(j, j->text, tensor, w, i, layer) + way * KINDS, j, x, q->x_hat,
                           layer);
            }
    return 1;
}

static void one_layer(void *arg, int task, int worker)
{
    job *j = arg;
    size_t size = (size_t)j->T * row_of(j);
    kv_quantized q = {malloc(size), malloc(size * sizeof *q.scale), malloc(size * sizeof *q.min),
                      malloc(size * sizeof *q.x_hat), NULL, NULL};
    uint8_t *kept = malloc((size_t)j->T);
    (void)worker;
    j->bad[task] = !q.codes || !q.scale || !q.min || !q.x_hat || !kept ||
                   !measure(j, task % TENSORS, task / TENSORS, &q, kept);
    free(q.codes);
    free(q.scale);
    free(q.min);
    free(q.x_hat);
    free(kept);
}

static int all_layers(job *j, kv_error *err)
{
    int tasks = j->x.s.model->layers * TENSORS;
    tm_parallel(tm_fast_pool(j->x.s.fast), one_layer, j, tasks);
    for (int i = 0; i < tasks; i++)
        if (j->bad[i])
            return kv_fail(err, KV_FAIL_RUN, "layer %d: the %s cannot be quantized (not enough"
                           " memory, a group that does not divide the head size, or numbers that"
                           " binary16 cannot hold)", i / TENSORS, tensor_name[i % TENSORS]);
    return KV_OK;
}

/* --------------------------------------------------------------------- run */

static int open_arrays(job *j, kv_error *err)
{
    const kv_model *m = j->x.s.model;
    size_t L = (size_t)m->layers, row = row_of(j), ctx = (size_t)j->x.ctx;
    for (int i = 0; i < TENSORS; i++) {
        j->rows[i] = experiment_zeros(L * ctx * row, sizeof(float), err);
        j->lo[i] = experiment_zeros(WAYS * L * row, sizeof(float), err);
        j->hi[i] = experiment_zeros(WAYS * L * row, sizeof(float), err);
        if (!j->rows[i] || !j->lo[i] || !j->hi[i]) return err->code;
        for (size_t c = 0; c < WAYS * L * row; c++) j->lo[i][c] = INFINITY, j->hi[i][c] = -INFINITY;
    }
    j->sum = experiment_zeros((size_t)j->x.n * TENSORS * WIDTHS * SHAPES * L * WAYS * KINDS,
                              sizeof *j->sum, err);
    j->bad = experiment_zeros(L * TENSORS, sizeof *j->bad, err);
    if (!j->sum || !j->bad) return err->code;
    return tm_keep_init(&j->keep, m->layers, j->x.ctx, err);
}

/* The first windows of each calibration text. */
static int calibrate(job *j, float *hidden, kv_error *err)
{
    for (int i = 0; i < j->constants.count; i++) {
        experiment_text t = {.kind = EXPERIMENT_PLAIN, .path = j->constants.item[i]};
        char *text;
        size_t bytes;
        int code = cli_read_text_file(&text, &bytes, t.path, err);
        if (code) return code;
        code = session_tokens(&t.ids, &t.n, &j->x.s, text, bytes, err);
        free(text);
        if (!code) code = experiment_cut(&j->x, &t, j->x.ctx, j->x.windows, err);
        for (int w = 0; w < t.count && !code; w++) {
            cli_progress(w, t.count, "static ranges");
            code = pass(j, experiment_window(&t, w), t.length[w], hidden, err);
            if (!code) take_ranges(j);
        }
        free(t.ids);
        free(t.tokens);
        free(t.length);
        if (code) return code;
    }
    cli_progress_clear();
    return KV_OK;
}

static int run(job *j, kv_error *err)
{
    experiment *x = &j->x;
    int done = 0, all = 0, code = open_arrays(j, err);
    if (!code && j->constants.count == 0)
        return kv_fail(err, KV_FAIL_USAGE, "static ranges come from calibration texts: name them"
                       " with --constants FILE ...");
    float *hidden = code ? NULL : session_floats((size_t)x->ctx * (size_t)x->s.model->width,
                                                 "hidden states", err);
    if (!hidden) return err->code;
    code = calibrate(j, hidden, err);
    for (int i = 0; i < x->n; i++) all += x->text[i].count;
    for (j->text = 0; j->text < x->n && !code; j->text++)
        for (int w = 0; w < x->text[j->text].count && !code; w++) {
            const experiment_text *t = &x->text[j->text];
            cli_progress(done++, all, "quantizing");
            code = pass(j, experiment_window(t, w), t->length[w], hidden, err);
            if (!code) code = all_layers(j, err);
        }
    cli_progress_clear();
    free(hidden);
    return code;
}

/* ------------------------------------------------------------------ tables */

static double relative(const square *s)
{
    return s->norm > 0 ? sqrt(s->error / s->norm) : NAN;
}

static const char *format_name(char name[64], int tensor, int width, int shape)
{
    snprintf(name, 64, "%s/%d/%s/%s", tensor_name[tensor], widths[width],
             shapes[shape].is_static ? "static" : "dynamic", shapes[shape].text);
    return name;
}

static void print_number(FILE *f, double x, const char *format)
{
    fputc('\t', f);
    if (isfinite(x)) fprintf(f, format, x);
    else fputc('-', f);
}

/* Means over layers. Layers without sinks count for the rest only; the change is that of the rest,
 * in layers that have sinks. */
static void print_row(FILE *f, const job *j, int text, int tensor, int width, int shape)
{
    experiment_mean error[WAYS][KINDS] = {{{0}}}, change = {0};
    double most = 0;
    int best = -1;
    char name[64];
    for (int l = 0; l < j->x.s.model->layers; l++) {
        const square *s = sum_at(j, text, tensor, width, shape, l);
        for (int way = 0; way < WAYS; way++)
            for (int kind = 0; kind < KINDS; kind++)
                experiment_add(&error[way][kind], relative(&s[way * KINDS + kind]));
        if (!(s[SINKS].norm > 0)) continue;
        double before = relative(&s[REST]), after = relative(&s[KINDS + REST]);
        double percent = 100 * (after / before - 1);
        experiment_add(&change, percent);
        if (percent < most) most = percent, best = l;
    }
    fprintf(f, "%s/%s\t%d", j->x.text[text].name, format_name(name, tensor, width, shape),
            j->x.text[text].count);
    for (int kind = 0; kind < KINDS; kind++)
        for (int way = 0; way < WAYS; way++)
            print_number(f, experiment_mean_of(&error[way][kind]), "%.4g");
    print_number(f, experiment_mean_of(&change), "%.1f");
    print_number(f, best < 0 ? NAN : most, "%.1f");
    print_number(f, best < 0 ? NAN : best, "%.0f");
    fputc('\n', f);
}

static int write_errors(const job *j, kv_error *err)
{
    tm_out out;
    int code = experiment_table(&out, &j->x, "errors.tsv", "row\twindows\tsinks_with\tsinks_without"
                                "\trest_with\trest_without\tchange\tmost\tmost_layer", err);
    if (code) return code;
    for (int text = 0; text < j->x.n; text++)
        for (int tensor = 0; tensor < TENSORS; tensor++)
            for (int w = 0; w < WIDTHS; w++)
                for (int i = 0; i < SHAPES; i++) print_row(out.f, j, text, tensor, w, i);
    return tm_out_close(&out, err);
}

static int write_layers(const job *j, kv_error *err)
{
    tm_out out;
    char name[64];
    int code = experiment_table(&out, &j->x, "layers.tsv", "row\tsinks_with\tsinks_without"
                                "\trest_with\trest_without", err);
    if (code) return code;
    for (int tensor = 0; tensor < TENSORS; tensor++)
        for (int w = 0; w < WIDTHS; w++)
            for (int i = 0; i < SHAPES; i++)
                for (int l = 0; l < j->x.s.model->layers; l++) {
                    const square *s = sum_at(j, 0, tensor, w, i, l);
                    fprintf(out.f, "%s/%d", format_name(name, tensor, w, i), l);
                    for (int kind = 0; kind < KINDS; kind++)
                        for (int way = 0; way < WAYS; way++)
                            print_number(out.f, relative(&s[way * KINDS + kind]), "%.4g");
                    fputc('\n', out.f);
                }
    return tm_out_close(&out, err);
}

/* ---------------------------------------------------------------- picture */

static int find_shape(const char *text, int is_static)
{
    for (int i = 0; i < SHAPES; i++)
        if (!strcmp(shapes[i].text, text) && shapes[i].is_static == is_static) return i;
    return 0;
}

/* Error of the tokens that are no sinks, with the sinks in the range and without. */
static void panel(tm_canvas *c, tm_box box, const job *j, const char *title, int tensor, int shape,
                  double *y)
{
    int L = j->x.s.model->layers;
    tm_series s[WAYS] = {{"sinks in the range", y, tm_sink, 1},
                         {"sinks left out", y + L, tm_series_color[0], 0}};
    for (int l = 0; l < L; l++)
        for (int way = 0; way < WAYS; way++)
            y[way * L + l] = relative(&sum_at(j, 0, tensor, 0, shape, l)[way * KINDS + REST]);
    tm_lines p = {title, "layer", NULL, 0, L, 0, s, WAYS, NULL, NULL, 0};
    tm_plot_lines(c, box, &p);
}

static int picture(const job *j, kv_error *err)
{
    static const struct { const char *title, *shape; int tensor, is_static; } panels[] = {
        {"Keys per channel, groups of 128", "channel:128", KEYS, 0},
        {"Values per token, groups of 64", "token:64", VALUES, 0},
        {"Keys per token, static", "token:64", KEYS, 1},
        {"Values per token, static", "token:64", VALUES, 1},
    };
    tm_canvas c = {0};
    double *y = experiment_zeros((size_t)j->x.s.model->layers * WAYS, sizeof *y, err);
    int code = y ? tm_canvas_init(&c, 1200, 1000, err) : err->code;
    if (!code) {
        for (int i = 0; i < 4; i++)
            panel(&c, (tm_box){20 + i % 2 * 600, 20 + i / 2 * 495, 560, 465}, j, panels[i].title,
                  panels[i].tensor, find_shape(panels[i].shape, panels[i].is_static), y);
        code = tm_canvas_write(&c, experiment_path(&j->x, "errors.png"), err);
    }
    tm_canvas_free(&c);
    free(y);
    return code;
}

int main(int argc, char **argv)
{
    static job j;
    const cli_option own[] = {
        {"--constants", CLI_LIST, &j.constants, "FILE ...", NULL, 0, 0,
         "calibration texts, for static ranges"},
        {0}};
    const experiment_spec spec = {
        "03", "Error of keys and values by format, with and without the sinks in the range.",
        "chapters/03-quantizers/experiment.c tinymodels/experiment.c tinymodels/evidence.c"
        " ref/quantize.c ref/half.c ref/kvsink.c ref/keep.c ref/transformer.c",
        "A head size that 64 does not divide is refused: the groups are those of the paper.", 512,
        8, 1, own};
    kv_error err;
    int status;
    if (!experiment_open(&j.x, &spec, argc, argv, &status)) return cli_finish(status);
    if (kv_keep_parse(&j.rule, "kvsink:auto@each/all", &err) || run(&j, &err) ||
        write_errors(&j, &err) || write_layers(&j, &err) || picture(&j, &err))
        status = experiment_fail(&j.x, &err);
    for (int i = 0; i < TENSORS; i++) {
        free(j.rows[i]);
        free(j.lo[i]);
        free(j.hi[i]);
    }
    tm_keep_free(&j.keep);
    free(j.sum);
    free(j.bad);
    experiment_close(&j.x);
    return cli_finish(status);
}
