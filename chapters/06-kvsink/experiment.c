/* Chapter 6: prediction measured as prediction, and what is lost by reading the wrong place.
 *
 * What there is to predict: in a layer, the tokens whose key receives attention alpha > eps in any
 * of its heads (keys that SINKS_SEEN or more queries see). Rules are applied in all layers.
 *
 * prediction.tsv  row (text/eps/rule): windows, mean kept rows a layer, precision (share of kept
 *                 tokens that are sinks) and recall (share of sinks that are kept), all layers of
 *                 a window together, mean over windows with standard error; attention: the share
 *                 of it that kept tokens receive
 * layers.tsv      row (text/eps/layer): sinks a window, then precision and recall of every rule
 * wrong.tsv       row (text/what was read): KL, perplexity and agreement of the keep sets with the
 *                 right one, when in all layers the 5 tokens are kept whose |h| is largest at ...
 * tasks.tsv       row (rule/task), of the first plain text: what the model can do with 16 bits (the
 *                 ceiling), with the cache, and the difference, each with its standard error;
 *                 a dash where it is at chance with 16 bits
 * prediction.png, wrong.png: pictures of the first text */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "evidence.h"
#include "experiment.h"
#include "plot.h"
#include "sinks_report.h"
#include "tasks.h"

enum { RULES = 24, EPS = 4, NEXT = 3 /* channels beside the right one */, KEPT = 5 };

/* Of one text, eps and rule. */
typedef struct {
    experiment_mean precision, recall, kept, attention;
    int *hit, *predicted; /* [layers] all windows */
} result;

typedef struct {
    experiment x;
    cli_list rules, eps_list;
    const char *keys_text, *values_text;
    int wrong_windows, task_items, n_rules, n_eps;
    char rule_text[RULES][64];
    kv_keep_rule rule[RULES];
    double eps[EPS];
    kv_format keys, values;
    result *r;   /* [texts][eps][rules] */
    int *truth;  /* [texts][eps][layers] */
} job;

static result *result_of(const job *j, int text, int eps, int rule)
{
    size_t row = (size_t)text * (size_t)j->n_eps + (size_t)eps;
    return j->r + row * (size_t)j->n_rules + (size_t)rule;
}

static int *truth_of(const job *j, int text, int eps)
{
    return j->truth + ((size_t)text * (size_t)j->n_eps + (size_t)eps) *
                          (size_t)j->x.s.model->layers;
}

/* --------------------------------------------------------------- prediction */

/* All rules look at one pass. */
typedef struct {
    tm_evidence *evidence[RULES];
    int n;
} gathering;

static void gather(void *self, kv_tap tap, int layer, float *data, int rows, int cols)
{
    gathering *g = self;
    for (int i = 0; i < g->n; i++)
        tm_evidence_tap(g->evidence[i], tap, layer, data, rows, cols);
}

static int is_sink(const tm_attention *a, int layer, int t, double eps)
{
    const double *alpha = a->alpha + (size_t)layer * (size_t)a->heads * (size_t)a->T + (size_t)t;
    for (int h = 0; h < a->heads && a->T - t >= SINKS_SEEN; h++)
        if (alpha[(size_t)h * (size_t)a->T] > eps) return 1;
    return 0;
}

static void judge(job *j, int text, int eps, int rule, const tm_attention *a, const kv_keep *keep)
{
    result *r = result_of(j, text, eps, rule);
    double hits = 0, predicted = 0, sinks = 0, kept = 0, attention = 0;
    for (int l = 0; l < a->layers; l++) {
        int n = keep->count[l], *position = keep->position + (size_t)l * (size_t)keep->capacity;
        int hit = 0, ranked = 0;
        for (int i = 0; i < n; i++) {
            hit += is_sink(a, l, position[i], j->eps[eps]);
            ranked += a->T - position[i] >= SINKS_SEEN;
        }
        for (int t = 0; t < a->T; t++) sinks += is_sink(a, l, t, j->eps[eps]);
        r->hit[l] += hit;
        r->predicted[l] += ranked;
        hits += hit;
        predicted += ranked;
        kept += (double)n / a->layers;
        attention += tm_attention_mass(a, l, position, n) / a->layers;
    }
    experiment_add(&r->precision, hits / predicted); /* none kept: not a number, not counted */
    experiment_add(&r->recall, hits / sinks);
    experiment_add(&r->kept, kept);
    experiment_add(&r->attention, attention);
}

static int predict_window(job *j, int text, const int *tokens, int T, kv_error *err)
{
    const kv_model *m = j->x.s.model;
    gathering g = {.n = 0};
    tm_attention a = {0};
    kv_keep keep = {0};
    unsigned mask = 0;
    float *hidden = experiment_zeros((size_t)T * (size_t)m->width, sizeof *hidden, err);
    int code = hidden ? tm_keep_init(&keep, m->layers, T, err) : err->code;
    while (g.n < j->n_rules && !code) {
        code = tm_evidence_open(&g.evidence[g.n], &j->rule[g.n], &j->x.profile, m, T, err);
        if (!code) mask |= tm_evidence_mask(g.evidence[g.n++]);
    }
    if (!code) code = session_forward(&j->x.s, hidden, tokens, T, gather, &g, mask, err);
    if (!code) code = tm_attention_run(&a, &j->x.e, tokens, T, 0.3, err);
    for (int r = 0; r < g.n && !code; r++) {
        code = tm_evidence_keep(&keep, NULL, g.evidence[r], tokens, err);
        for (int e = 0; e < j->n_eps && !code; e++) judge(j, text, e, r, &a, &keep);
    }
    for (int e = 0; e < j->n_eps && !code; e++)
        for (int l = 0; l < m->layers; l++)
            for (int t = 0; t < T; t++) truth_of(j, text, e)[l] += is_sink(&a, l, t, j->eps[e]);
    for (int i = 0; i < g.n; i++) tm_evidence_close(g.evidence[i]);
    tm_attention_free(&a);
    tm_keep_free(&keep);
    free(hidden);
    return code;
}

static int predict(job *j, kv_error *err)
{
    experiment *x = &j->x;
    size_t L = (size_t)x->s.model->layers, n = (size_t)x->n * (size_t)j->n_eps;
    j->truth = experiment_zeros(n * L, sizeof *j->truth, err);
    j->r = experiment_zeros(n * (size_t)j->n_rules, sizeof *j->r, err);
    if (!j->truth || !j->r) return err->code;
    for (size_t i = 0; i < n * (size_t)j->n_rules; i++) {
        j->r[i].hit = experiment_zeros(2 * L, sizeof *j->r[i].hit, err);
        if (!j->r[i].hit) return err->code;
        j->r[i].predicted = j->r[i].hit + L;
    }
    for (int i = 0; i < x->n; i++)
        for (int w = 0; w < x->text[i].count; w++) {
            const experiment_text *t = &x->text[i];
            cli_progress(w, t->count, t->name);
            if (predict_window(j, i, experiment_window(t, w), t->length[w], err)) return err->code;
        }
    cli_progress_clear();
    return KV_OK;
}

static void print_number(FILE *f, double x)
{
    if (isfinite(x)) fprintf(f, "\t%.4g", x);
    else fprintf(f, "\t-");
}

static int write_prediction(const job *j, kv_error *err)
{
    tm_out out;
    int code = experiment_table(&out, &j->x, "prediction.tsv", "row\twindows\tkept\tprecision"
                                "\tprecision_error\trecall\trecall_error\tattention", err);
    for (int i = 0; i < j->x.n && !code; i++)
        for (int e = 0; e < j->n_eps; e++)
            for (int r = 0; r < j->n_rules; r++) {
                const result *o = result_of(j, i, e, r);
                fprintf(out.f, "%s/%g/%s\t%d", j->x.text[i].name, j->eps[e], j->rule_text[r],
                        o->kept.n);
                print_number(out.f, experiment_mean_of(&o->kept));
                print_number(out.f, experiment_mean_of(&o->precision));
                print_number(out.f, experiment_error_of(&o->precision));
                print_number(out.f, experiment_mean_of(&o->recall));
                print_number(out.f, experiment_error_of(&o->recall));
                print_number(out.f, experiment_mean_of(&o->attention));
                fprintf(out.f, "\n");
            }
    return code ? code : tm_out_close(&out, err);
}

static int write_layers(const job *j, kv_error *err)
{
    char titles[RULES * 160] = "row\tsinks";
    tm_out out;
    for (int r = 0; r < j->n_rules; r++)
        snprintf(titles + strlen(titles), sizeof titles - strlen(titles), "\tp:%s\tr:%s",
                 j->rule_text[r], j->rule_text[r]);
    int code = experiment_table(&out, &j->x, "layers.tsv", titles, err);
    for (int i = 0; i < j->x.n && !code; i++)
        for (int e = 0; e < j->n_eps; e++)
            for (int l = 0; l < j->x.s.model->layers; l++) {
                double sinks = truth_of(j, i, e)[l];
                fprintf(out.f, "%s/%g/%d\t%.3g", j->x.text[i].name, j->eps[e], l,
                        sinks / j->x.text[i].count);
                for (int r = 0; r < j->n_rules; r++) {
                    const result *o = result_of(j, i, e, r);
                    print_number(out.f, (double)o->hit[l] / o->predicted[l]);
                    print_number(out.f, o->hit[l] / sinks);
                }
                fprintf(out.f, "\n");
            }
    return code ? code : tm_out_close(&out, err);
}

/* Recall and precision of the first rules by layer, a panel each: first text, first eps. */
static int picture_prediction(const job *j, kv_error *err)
{
    enum { PANELS = 6 };
    int L = j->x.s.model->layers, n = j->n_rules < PANELS ? j->n_rules : PANELS;
    double *y = experiment_zeros(2 * (size_t)L, sizeof *y, err);
    tm_canvas c = {0};
    int code = y ? tm_canvas_init(&c, 1200, 40 + (n + 1) / 2 * 400, err) : err->code;
    for (int i = 0; i < n && !code; i++) {
        const result *r = result_of(j, 0, 0, i);
        for (int l = 0; l < L; l++) {
            y[l] = (double)r->hit[l] / truth_of(j, 0, 0)[l];
            y[L + l] = (double)r->hit[l] / r->predicted[l];
        }
        tm_series s[2] = {{"recall", y, tm_series_color[0], 1},
                          {"precision", y + L, tm_series_color[1], 1}};
        tm_lines p = {j->rule_text[i], "layer", NULL, 0, L, 0, s, 2, NULL, NULL, 0};
        tm_plot_lines(&c, (tm_box){20 + i % 2 * 600, 20 + i / 2 * 400, 560, 380}, &p);
    }
    if (!code) code = tm_canvas_write(&c, experiment_path(&j->x, "prediction.png"), err);
    tm_canvas_free(&c);
    free(y);
    return code;
}

/* -------------------------------------------------------------- wrong places */

/* What is read: nothing, the first tokens, one channel of one layer, or chance. */
typedef enum { NOTHING, FIRST, CHANNEL, CHANCE } reading_kind;

typedef struct {
    char name[48];
    reading_kind kind;
    int layer, channel, rank; /* rank > 0: the channel of that rank by peak in this window */
    experiment_mean kl, loss, loss16, same;
    int position[KEPT], kept; /* in this window, */
    experiment_scores score;  /* and what came of it */
} reading;

typedef struct {
    reading *r;
    int n;
} readings;

static reading *add_reading(readings *all, reading_kind kind, int layer, int channel, int rank)
{
    reading *r = &all->r[all->n++];
    *r = (reading){.kind = kind, .layer = layer, .channel = channel, .rank = rank};
    return r;
}

/* The right place first; then the same channel in every layer; then other channels there. */
static void list_readings(readings *all, const job *j)
{
    const kv_profile *p = &j->x.profile;
    const kv_stage *right = &p->stage[kv_profile_largest(p)];
    strcpy(add_reading(all, CHANNEL, right->layer, right->channel, 0)->name, "right");
    strcpy(add_reading(all, NOTHING, 0, 0, 0)->name, "none");
    strcpy(add_reading(all, FIRST, 0, 0, 0)->name, "first:5");
    strcpy(add_reading(all, CHANCE, 0, 0, 0)->name, "random");
    for (int l = 0; l < j->x.s.model->layers; l++)
        snprintf(add_reading(all, CHANNEL, l, right->channel, 0)->name, sizeof all->r->name,
                 "layer-%d", l);
    for (int k = 1; k <= NEXT; k++)
        snprintf(add_reading(all, CHANNEL, right->layer, right->channel, k)->name,
                 sizeof all->r->name, "channel-by-size-%d", k + 1);
    snprintf(add_reading(all, CHANNEL, right->layer, right->channel, j->x.s.model->width / 2)->name,
             sizeof all->r->name, "channel-of-middling-size");
}

/* The channel of rank k by |peak|, the stage's own left out (rank 0). */
static int channel_of_rank(const float *peak, int C, int right, int rank)
{
    for (int c = 0; c < C; c++) {
        int before = 1;
        for (int i = 0; i < C; i++)
            before += i != right && i != c && (fabsf(peak[i]) > fabsf(peak[c]) ||
                                               (fabsf(peak[i]) == fabsf(peak[c]) && i < c));
        if (c != right && before == rank) return c;
    }
    return right;
}

/* position [KEPT]; returns how many. */
static int choose(int *position, const reading *r, const float *h, int T, int window,
                  float *scratch)
{
    if (r->kind == NOTHING) return 0;
    if (r->kind == CHANNEL) return kv_top_magnitudes(position, h, T, KEPT, scratch);
    uint64_t state = 1 + (uint64_t)window;
    for (int t = 0; t < T; t++) { /* chance: KEPT largest of random numbers; first: falling ones */
        state = state * 6364136223846793005u + 1442695040888963407u;
        scratch[T + t] = r->kind == FIRST ? (float)(T - t) : (float)(state >> 40);
    }
    return kv_top_magnitudes(position, scratch + T, T, KEPT, scratch);
}

static int common(const int *a, int n, const int *b, int m)
{
    int same = 0;
    for (int i = 0; i < n; i++)
        for (int k = 0; k < m; k++) same += a[i] == b[k];
    return same;
}

/* Many places lead to the same tokens; a window is run once for each set. */
static const reading *same_set(const readings *all, int i)
{
    const reading *r = &all->r[i];
    for (int k = 0; k < i; k++)
        if (all->r[k].kept == r->kept &&
            memcmp(all->r[k].position, r->position, (size_t)r->kept * sizeof *r->position) == 0)
            return &all->r[k];
    return NULL;
}

/* These tokens are kept in all layers. */
static int try_set(reading *r, job *j, float *hidden, const int *tokens, int T, kv_error *err)
{
    const kv_model *m = j->x.s.model;
    const float *hidden16;
    kv_keep keep;
    if (experiment_sixteen(&hidden16, &j->x, tokens, T, err) ||
        tm_keep_init(&keep, m->layers, T, err)) return err->code;
    for (int l = 0; l < m->layers; l++) {
        keep.count[l] = r->kept;
        memcpy(keep.position + (size_t)l * (size_t)T, r->position,
               (size_t)r->kept * sizeof *r->position);
    }
    int code = experiment_quantized(hidden, NULL, &j->x, &j->keys, &j->values, &keep, tokens, T,
                                    err);
    if (!code) code = experiment_score(&r->score, &j->x, hidden16, hidden, tokens, 0, T, err);
    tm_keep_free(&keep);
    return code;
}

static int wrong_window(readings *all, job *j, const int *tokens, int T, int window, kv_error *err)
{
    int width = j->x.s.model->width;
    size_t C = (size_t)width;
    tm_outliers o = {0};
    tm_probe *probe = experiment_zeros((size_t)all->n, sizeof *probe, err);
    float *h = experiment_zeros((size_t)all->n * (size_t)T, sizeof *h, err);
    float *hidden = experiment_zeros((size_t)T * C, sizeof *hidden, err);
    float *scratch = experiment_zeros(2 * (size_t)T, sizeof *scratch, err);
    int code = probe && h && hidden && scratch ? tm_outliers_run(&o, &j->x.e, tokens, T, err)
                                               : err->code;
    for (int i = 0; i < all->n && !code; i++) {
        const reading *r = &all->r[i];
        int c = r->rank ? channel_of_rank(o.peak + (size_t)(r->layer + 1) * C, width, r->channel,
                                          r->rank) : r->channel;
        probe[i] = (tm_probe){KV_TAP_H, r->layer, c};
    }
    if (!code) code = tm_probe_run(h, probe, all->n, &j->x.e, tokens, T, err);
    for (int i = 0; i < all->n && !code; i++) {
        reading *r = &all->r[i];
        r->kept = choose(r->position, r, h + (size_t)i * (size_t)T, T, window, scratch);
        const reading *same = same_set(all, i);
        if (same) r->score = same->score;
        else code = try_set(r, j, hidden, tokens, T, err);
        if (code) break;
        experiment_add(&r->kl, r->score.kl);
        experiment_add(&r->loss, r->score.loss);
        experiment_add(&r->loss16, r->score.loss16);
        experiment_add(&r->same, common(r->position, r->kept, all->r->position, all->r->kept));
    }
    tm_outliers_free(&o);
    free(probe);
    free(h);
    free(hidden);
    free(scratch);
    return code;
}

/* KL against the layer that is read; the first text's. */
static int picture_wrong(const job *j, const readings *all, kv_error *err)
{
    int L = j->x.s.model->layers;
    const kv_profile *p = &j->x.profile;
    double *y = experiment_zeros(3 * (size_t)L, sizeof *y, err);
    tm_canvas c = {0};
    int code = y ? tm_canvas_init(&c, 1200, 640, err) : err->code;
    for (int i = 0, l = 0; i < all->n && !code; i++)
        if (strncmp(all->r[i].name, "layer-", 6) == 0) {
            y[l] = experiment_mean_of(&all->r[i].kl);
            y[L + l] = experiment_mean_of(&all->r[1].kl);
            y[2 * L + l++] = experiment_mean_of(&all->r[2].kl);
        }
    tm_series s[3] = {{"the 5 largest of this layer", y, tm_series_color[0], 1},
                      {"none kept", y + L, tm_series_color[1], 0},
                      {"the first 5", y + 2 * L, tm_series_color[2], 0}};
    int mark[4];
    char text[4][32];
    const char *label[4];
    int stages = p->n_stages < 4 ? p->n_stages : 4;
    for (int i = 0; i < stages; i++) {
        mark[i] = p->stage[i].layer;
        snprintf(text[i], sizeof text[i], "stage, layer %d", mark[i]);
        label[i] = text[i];
    }
    tm_lines lines = {"Reading another layer: KL in nats", "layer that is read", NULL, 0, L, 0, s,
                      3, mark, label, stages};
    if (!code) tm_plot_lines(&c, (tm_box){20, 20, 1160, 600}, &lines);
    if (!code) code = tm_canvas_write(&c, experiment_path(&j->x, "wrong.png"), err);
    tm_canvas_free(&c);
    free(y);
    return code;
}

static int read_wrongly(job *j, kv_error *err)
{
    tm_out out;
    int stages = j->x.profile.n_stages;
    int code = experiment_table(&out, &j->x, "wrong.tsv", "row\twindows\tkl\tkl_error\tppl16\tppl"
                                "\tas_right", err);
    readings all = {experiment_zeros((size_t)j->x.s.model->layers + 8, sizeof *all.r, err), 0};
    if (!code && !all.r) code = err->code;
    for (int i = 0; i < j->x.n && !code && stages; i++) {
        const experiment_text *t = &j->x.text[i];
        all.n = 0;
        list_readings(&all, j);
        for (int w = 0; w < t->count && w < j->wrong_windows && !code; w++) {
            cli_progress(w, t->count, "reading wrong places");
            code = wrong_window(&all, j, experiment_window(t, w), t->length[w], w, err);
        }
        for (int k = 0; k < all.n && !code; k++) {
            const reading *r = &all.r[k];
            fprintf(out.f, "%s/%s\t%d\t%.4g\t%.2g\t%.5g\t%.5g\t%.3g\n", t->name, r->name, r->kl.n,
                    experiment_mean_of(&r->kl), experiment_error_of(&r->kl),
                    exp(experiment_mean_of(&r->loss16)), exp(experiment_mean_of(&r->loss)),
                    experiment_mean_of(&r->same));
        }
        if (!code && i == 0) code = picture_wrong(j, &all, err);
    }
    cli_progress_clear();
    free(all.r);
    if (!code) return tm_out_close(&out, err);
    tm_out_abandon(&out);
    return code;
}

/* -------------------------------------------------------------------- tasks */

static void print_task(FILE *f, const char *rule, tm_task_kind task, const tm_task_result *r)
{
    fprintf(f, "%s/%s\t%d\t%.3g\t%.4g\t%.2g", rule, tm_task_name(task), r->items, r->chance,
            r->score16, r->error16);
    if (r->dropped) fprintf(f, "\t-\t-\t-\t-\n");
    else fprintf(f, "\t%.4g\t%.2g\t%.4g\t%.2g\n", r->score, r->error, r->change, r->change_error);
}

/* With 32 tokens that wait in 16 bits, as a cache in use would have. */
static int try_tasks(job *j, kv_error *err)
{
    static const char *const rule[] = {"none", "first:5", "kvsink:5/all",
                                       "kvsink:best+decode"};
    const experiment_text *t = NULL;
    tm_out out;
    for (int i = 0; i < j->x.n && !t; i++)
        if (j->x.text[i].kind == EXPERIMENT_PLAIN) t = &j->x.text[i];
    if (!t) return KV_OK;
    int code = experiment_table(&out, &j->x, "tasks.tsv", "row\titems\tchance\tscore16\terror16"
                                "\tscore\terror\tchange\tchange_error", err);
    for (size_t r = 0; r < sizeof rule / sizeof *rule && !code; r++)
        for (int task = 0; task < TM_TASKS && !code; task++) {
            tm_task_spec spec = {.e = j->x.e, .fast = j->x.s.fast, .tok = j->x.s.tok, .ids = t->ids,
                                 .n = t->n, .items = j->task_items, .ctx = j->x.ctx, .written = 64};
            tm_task_result got;
            spec.cache = (tm_sequence_spec){.keys = j->keys, .values = j->values, .recent = 32,
                                            .profile = &j->x.profile};
            code = cli_keep_rule(&spec.cache.keep, rule[r], j->x.profile_path, err);
            if (!code) code = tm_task_run(&got, (tm_task_kind)task, &spec, report_progress,
                                          (void *)rule[r], err);
            if (!code) print_task(out.f, rule[r], (tm_task_kind)task, &got);
        }
    if (!code) return tm_out_close(&out, err);
    tm_out_abandon(&out);
    return code;
}

/* ------------------------------------------------------------- command line */

static int add_rule(job *j, const char *text, kv_error *err)
{
    if (j->n_rules == RULES)
        return kv_fail(err, KV_FAIL_USAGE, "--rules: at most %d", RULES);
    snprintf(j->rule_text[j->n_rules], sizeof j->rule_text[0], "%s", text);
    return cli_keep_rule(&j->rule[j->n_rules++], text, j->x.profile_path, err);
}

static int default_rules(job *j, kv_error *err)
{
    static const char *const before[] = {"first:1", "first:5"}, *const behind[] = {
        "kvsink:5@join/all", "kvsink:5@each/all", "kvsink:5@union/all", "kvsink:auto@each/all",
        "kvsink:best", "ids:learned", "toph:5", "random:5:1"};
    const kv_profile *p = &j->x.profile;
    int code = KV_OK, n = (int)(sizeof behind / sizeof *behind);
    for (int i = 0; i < 2 && !code; i++) code = add_rule(j, before[i], err);
    for (int s = 0; s < p->n_stages && s < 8 && !code; s++) {
        char text[64];
        snprintf(text, sizeof text, "kvsink:5@%d/all", p->stage[s].layer);
        code = add_rule(j, text, err);
    }
    for (int i = 0; i < n && !code; i++) code = add_rule(j, behind[i], err);
    return code;
}

static int prepare(job *j, kv_error *err)
{
    kv_shape s = j->x.s.model->shape;
    int code = j->rules.count ? KV_OK : default_rules(j, err);
    for (int i = 0; i < j->rules.count && !code; i++) code = add_rule(j, j->rules.item[i], err);
    if (!j->eps_list.count) j->eps[0] = 0.3, j->eps[1] = 0.1, j->n_eps = 2;
    for (int i = 0; i < j->eps_list.count && !code; i++) {
        char *end;
        double x = strtod(j->eps_list.item[i], &end);
        if (*end || !(x > 0 && x < 1) || j->n_eps == EPS)
            code = kv_fail(err, KV_FAIL_USAGE, "--eps: found '%.40s', expected at most %d numbers"
                           " within 0..1", j->eps_list.item[i], EPS);
        else j->eps[j->n_eps++] = x;
    }
    if (code || kv_format_parse(&j->keys, j->keys_text, err) ||
        kv_format_check(&j->keys, s, 0, err) || kv_format_parse(&j->values, j->values_text, err))
        return err->code;
    return kv_format_check(&j->values, s, 1, err);
}

static void release(job *j)
{
    size_t n = (size_t)j->x.n * (size_t)j->n_eps * (size_t)j->n_rules;
    for (size_t i = 0; i < n && j->r; i++) free(j->r[i].hit);
    free(j->r);
    free(j->truth);
    experiment_close(&j->x);
}

int main(int argc, char **argv)
{
    static job j;
    const cli_option own[] = {
        {"--rules", CLI_LIST, &j.rules, "KEEP", "(first:1, first:5, kvsink: and others)", 0, 0,
         "rules that predict"},
        {"--eps", CLI_LIST, &j.eps_list, "E", "(0.3 0.1)", 0, 0,
         "a sink receives more attention than that"},
        {"--wrong", CLI_INT, &j.wrong_windows, "N", "2", 0, 1 << 20,
         "windows of each text in which wrong places are read"},
        {"--tasks", CLI_INT, &j.task_items, "N", "16", 0, 1 << 16, "items of each task"},
        {"--keys", CLI_STRING, &j.keys_text, "FORMAT", "2:channel:128", 0, 0, "format of keys"},
        {"--values", CLI_STRING, &j.values_text, "FORMAT", "2:token:64", 0, 0, "format of values"},
        {0}};
    const experiment_spec spec = {
        "06", "Precision and recall of rules that predict sinks; what wrong places cost.",
        "chapters/06-kvsink/experiment.c tinymodels/experiment.c tinymodels/analysis.c"
        " tinymodels/evidence.c tinymodels/memory.c tinymodels/tasks.c ref/attention.c"
        " ref/keep.c ref/kvsink.c ref/quantize.c ref/sinks.c ref/transformer.c",
        NULL, 512, 8, 1, own};
    kv_error err = {0, ""};
    int status;
    if (!experiment_open(&j.x, &spec, argc, argv, &status)) return cli_finish(status);
    if (prepare(&j, &err) || predict(&j, &err) || write_prediction(&j, &err) ||
        write_layers(&j, &err) || picture_prediction(&j, &err) ||
        (j.wrong_windows && read_wrongly(&j, &err)) || (j.task_items && try_tasks(&j, &err)))
        status = experiment_fail(&j.x, &err);
    release(&j);
    return cli_finish(status);
}
