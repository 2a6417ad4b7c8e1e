/* Chapter 4: what prediction, exclusion and kept rows cost in time and bytes.
 *
 * For prompts of several lengths T, taken from the beginning of the first text, and for kvsink:K
 * with several K (0: nothing is kept, nobody predicts): medians of some runs, in milliseconds.
 *
 * cost.tsv  row (T/K, or T/f16: 16-bit keys and values)
 *   prefill    the pass over the prompt
 *   predict    of that: reading the stages' channels and choosing the K largest
 *   wait       from the beginning of the prefill until the set is known, and
 *   waiting    bytes of 16-bit keys and values that layers up to the last stage make until then:
 *              who wants to protect these layers too (/all) has to hold them back
 *   quantize   filling the packed cache after the prefill, kept rows left out
 *   step       one more token through the packed cache
 *   bytes, bits, kept   of the cache behind the prompt: all layers; a number; positions a layer */
#include <stdlib.h>
#include <string.h>

#include "evidence.h"
#include "experiment.h"
#include "memory.h"

enum { MOST = 32, RUNS = 99, STEPS = 16 };

typedef struct {
    experiment x;
    const char *keys_text, *values_text;
    cli_list lengths, kept;
    int runs;
    kv_format keys, values;
} job;

typedef struct {
    double prefill[RUNS], predict[RUNS], wait[RUNS], quantize[RUNS], step[RUNS * STEPS];
    int n, steps;
    double bytes, kept;
} figures;

/* A prediction in progress: the stages' channels as they pass. */
typedef struct {
    tm_probes probes;
    int last;          /* the last stage's layer */
    double start, seconds, known; /* known: since start */
} predictor;

static void predictor_tap(void *self, kv_tap tap, int layer, float *data, int rows, int cols)
{
    predictor *p = self;
    double start = experiment_seconds();
    tm_probe_tap(&p->probes, tap, layer, data, rows, cols);
    p->seconds += experiment_seconds() - start;
    if (layer == p->last) p->known = experiment_seconds() - p->start;
}

static int prefill(figures *f, kv_keep *keep, job *j, tm_stream *stream, const kv_keep_rule *rule,
                   const int *tokens, int T, float *hidden, float *work, kv_error *err)
{
    const kv_profile *profile = &j->x.profile;
    int S = rule ? profile->n_stages : 0;
    tm_probe *probe = experiment_zeros((size_t)S, sizeof *probe, err);
    float *h = experiment_zeros((size_t)S * (size_t)T, sizeof *h, err);
    if (!probe || !h) return err->code;
    if (S) tm_stage_probes(probe, profile);
    predictor p = {.probes = {h, probe, S, T, 0}, .last = S ? profile->stage[S - 1].layer : -1,
                   .start = experiment_seconds()};
    kv_run run = {.model = j->x.s.model, .backend = j->x.s.backend, .work = work,
                  .memory = tm_stream_memory(stream)};
    if (S) run.tap = predictor_tap, run.tap_self = &p, run.tap_mask = 1u << KV_TAP_H;
    int code = kv_forward(hidden, &run, tokens, T, err);
    f->prefill[f->n] = experiment_seconds() - p.start;
    double start = experiment_seconds();
    if (!code && rule)
        code = tm_keep_build(keep, NULL, rule, tokens, T, profile, h, err);
    double choosing = rule ? experiment_seconds() - start : 0;
    f->predict[f->n] = p.seconds + choosing;
    f->wait[f->n] = S ? p.known + choosing : 0;
    free(probe);
    free(h);
    return code;
}

static void count_bytes(figures *f, const tm_stream *s, const kv_keep *keep, int L)
{
    f->bytes = f->kept = 0;
    for (int l = 0; l < L; l++) {
        f->bytes += (double)tm_stream_bytes(s, l).total;
        f->kept += (double)keep->count[l] / L;
    }
}

static int one_run(figures *f, job *j, const kv_keep_rule *rule, int f16, const int *tokens, int T,
                   kv_error *err)
{
    const kv_model *m = j->x.s.model;
    const kv_format half = {.kind = KV_F16};
    tm_stream_spec spec = {.keys = f16 ? half : j->keys, .values = f16 ? half : j->values,
                           .capacity = T + STEPS + 1, .kept = T};
    tm_stream *s = NULL;
    kv_keep keep = {0};
    float *hidden = experiment_zeros((size_t)T * (size_t)m->width, sizeof *hidden, err);
    float *work = experiment_zeros(kv_forward_work(m, 1u << KV_TAP_H, 0, T), sizeof *work, err);
    int code = hidden && work ? tm_stream_open(&s, m, &spec, j->x.s.fast, err) : err->code;
    if (!code) code = tm_keep_init(&keep, m->layers, T, err);
    if (!code) code = prefill(f, &keep, j, s, rule, tokens, T, hidden, work, err);
    double start = experiment_seconds();
    if (!code) code = tm_stream_begin_decode(s, &keep, err);
    f->quantize[f->n++] = experiment_seconds() - start;
    if (!code) count_bytes(f, s, &keep, m->layers);
    for (int i = 0; i <= STEPS && !code; i++) { /* the first one warms up */
        kv_run run = {.model = m, .backend = j->x.s.backend, .work = work,
                      .memory = tm_stream_memory(s), .past = T + i, .position = T + i};
        start = experiment_seconds();
        code = kv_forward(hidden, &run, tokens + T + i, 1, err);
        if (i) f->step[f->steps++] = experiment_seconds() - start;
    }
    tm_stream_close(s);
    tm_keep_free(&keep);
    free(hidden);
    free(work);
    return code;
}

static void print_row(FILE *out, const job *j, int T, const char *name, int stages, figures *f)
{
    const kv_model *m = j->x.s.model;
    double row = 2.0 * m->shape.kv_heads * m->shape.head_size; /* numbers a token and layer */
    int last = stages ? j->x.profile.stage[stages - 1].layer : -1;
    fprintf(out, "%d/%s\t%.4g\t%.4g\t%.4g\t%.0f\t%.4g\t%.4g\t%.0f\t%.4g\t%.3g\n", T, name,
            1e3 * experiment_median(f->prefill, f->n), 1e3 * experiment_median(f->predict, f->n),
            1e3 * experiment_median(f->wait, f->n), 2 * row * (last + 1) * T,
            1e3 * experiment_median(f->quantize, f->n), 1e3 * experiment_median(f->step, f->steps),
            f->bytes, 8 * f->bytes / (row * m->layers * T), f->kept);
}

/* All K of one length: their runs alternate, so that a busy moment of the machine hits all. */
static int one_length(FILE *out, job *j, int T, kv_error *err)
{
    static figures f[MOST + 1];
    kv_keep_rule rule[MOST];
    memset(f, 0, sizeof f);
    for (int k = 0; k < j->kept.count; k++) {
        char text[64];
        snprintf(text, sizeof text, "kvsink:%.20s", j->kept.item[k]);
        if (strcmp(j->kept.item[k], "0") && kv_keep_parse(&rule[k], text, err)) return err->code;
    }
    const int *tokens = j->x.text[0].tokens;
    for (int r = 0; r < j->runs; r++)
        for (int k = 0; k <= j->kept.count; k++) {
            int f16 = k == j->kept.count, nothing = f16 || !strcmp(j->kept.item[k], "0");
            cli_progress(r * (j->kept.count + 1) + k, j->runs * (j->kept.count + 1),
                         "measuring time");
            if (one_run(&f[k], j, nothing ? NULL : &rule[k], f16, tokens, T, err)) return err->code;
        }
    cli_progress_clear();
    for (int k = 0; k <= j->kept.count; k++) {
        int f16 = k == j->kept.count;
        int stages = f16 || !strcmp(j->kept.item[k], "0") ? 0 : j->x.profile.n_stages;
        print_row(out, j, T, f16 ? "f16" : j->kept.item[k], stages, &f[k]);
    }
    return KV_OK;
}

static int measure(job *j, kv_error *err)
{
    char machine[200];
    tm_out out;
    snprintf(j->x.note, sizeof j->x.note, "machine: %s; medians of %d runs",
             experiment_machine(machine, sizeof machine, &j->x), j->runs);
    int code = experiment_table(&out, &j->x, "cost.tsv", "row\tprefill\tpredict\twait\twaiting"
                                "\tquantize\tstep\tbytes\tbits\tkept", err);
    for (int i = 0; i < j->lengths.count && !code; i++) {
        int T = atoi(j->lengths.item[i]);
        if (T < 1 || T > 1 << 20)
            code = kv_fail(err, KV_FAIL_USAGE,
                           "--lengths: found '%.40s', expected numbers of tokens",
                           j->lengths.item[i]);
        if (!code) code = experiment_cut(&j->x, &j->x.text[0], T + STEPS + 1, 1, err);
        if (!code) code = one_length(out.f, j, T, err);
    }
    if (!code) return tm_out_close(&out, err);
    tm_out_abandon(&out);
    return code;
}

static void defaults(cli_list *list, const char *const *item, int n)
{
    if (list->count) return;
    for (int i = 0; i < n; i++) list->item[list->count++] = item[i];
}

static int prepare(job *j, kv_error *err)
{
    static const char *const lengths[] = {"128", "512", "2048"}, *const kept[] = {"0", "5", "20"};
    defaults(&j->lengths, lengths, 3);
    defaults(&j->kept, kept, 3);
    if (j->kept.count > MOST)
        return kv_fail(err, KV_FAIL_USAGE, "--kept: at most %d numbers", MOST);
    kv_shape s = j->x.s.model->shape;
    if (kv_format_parse(&j->keys, j->keys_text, err) || kv_format_check(&j->keys, s, 0, err) ||
        kv_format_parse(&j->values, j->values_text, err)) return err->code;
    return kv_format_check(&j->values, s, 1, err);
}

int main(int argc, char **argv)
{
    static job j;
    const cli_option own[] = {
        {"--lengths", CLI_LIST, &j.lengths, "T", "(128 512 2048)", 0, 0, "tokens of a prompt"},
        {"--kept", CLI_LIST, &j.kept, "K", "(0 5 20)", 0, 0, "tokens that kvsink:K keeps"},
        {"--runs", CLI_INT, &j.runs, "N", "5", 1, RUNS, "runs to take the median of"},
        {"--keys", CLI_STRING, &j.keys_text, "FORMAT", "2:channel:128", 0, 0, "format of keys"},
        {"--values", CLI_STRING, &j.values_text, "FORMAT", "2:token:64", 0, 0, "format of values"},
        {0}};
    const experiment_spec spec = {
        "04", "Time and bytes of predicting, waiting, quantizing and decoding.",
        "chapters/04-packed-cache/experiment.c tinymodels/experiment.c tinymodels/memory.c"
        " tinymodels/fast.c tinymodels/fast_decode.c ref/cache.c ref/cache_setup.c ref/cache_read.c"
        " ref/quantize.c ref/kvsink.c",
        NULL, 64, 1, 1, own};
    kv_error err;
    int status;
    if (!experiment_open(&j.x, &spec, argc, argv, &status)) return cli_finish(status);
    if (prepare(&j, &err) || measure(&j, &err)) status = experiment_fail(&j.x, &err);
    experiment_close(&j.x);
    return cli_finish(status);
}
