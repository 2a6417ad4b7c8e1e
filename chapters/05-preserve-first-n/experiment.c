/* Chapter 5: where a small set of kept tokens, chosen once, fails.
 *
 * All figures are of one cache format against 16 bits: KL in nats with its standard error over
 * windows, mean kept rows a layer.
 *
 * short.tsv    row (text/P/rule): a prompt of P tokens, then the text through the packed cache; the
 *              first plain and the first packed text
 * born.tsv     row (text/rule), packed texts: a prompt that ends within the first passage, so that
 *              the end-of-text tokens to come are sinks born in decode
 * chunked.tsv  row (text/stage/chunk): kvsink:5 while a prompt comes in pieces. After each piece
 *              the 5 largest |h| so far are kept; a token once quantized is never promoted, a kept
 *              one never demoted. kept tokens, how many of them are the whole prompt's 5, KL;
 *              the first text of each kind
 * windows.tsv  row (text/rule): whole windows of every text, chats of several lengths among them
 * repeat.tsv   row (rule): one token over and over: kept positions of the last layer, and KL.
 *              alpha: the most attention that a later key receives in any head
 * context.tsv  row (T/rule): long windows of the first plain text, their last predictions scored
 * context.txt  what the program says of a window longer than the model was trained for */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "evidence.h"
#include "experiment.h"
#include "sinks_report.h"

enum { RULES = 16, KEPT = 5, LAST = 1024 };

typedef struct {
    experiment x;
    cli_list rule_list, stream_list, context_list, only, contexts;
    const char *keys_text, *values_text;
    int recent, stream_ctx, stream_windows;
    kv_format keys, values;
} job;

typedef struct {
    experiment_mean kl, loss, loss16, kept;
} outcome;

static int wanted(const job *j, const char *section)
{
    for (int i = 0; i < j->only.count; i++)
        if (strcmp(j->only.item[i], section) == 0) return 1;
    return j->only.count == 0;
}

static void print_outcome(FILE *f, const outcome *o)
{
    fprintf(f, "\t%d\t%.4g\t%.4g\t%.2g\t%.5g\t%.5g\n", o->kl.n, experiment_mean_of(&o->kept),
            experiment_mean_of(&o->kl), experiment_error_of(&o->kl),
            exp(experiment_mean_of(&o->loss16)), exp(experiment_mean_of(&o->loss)));
}

#define OUTCOME "windows\tkept\tkl\tkl_error\tppl16\tppl"

/* ------------------------------------------------------------ whole windows */

/* The keep set of a rule, from the pass without quantization, if it wants to see that. */
static int keep_of(kv_keep *keep, job *j, const char *text, const int *tokens, int n, kv_error *err)
{
    kv_keep_rule rule;
    tm_evidence *evidence = NULL;
    const kv_profile *p = j->x.profile_path ? &j->x.profile : NULL;
    float *hidden = experiment_zeros((size_t)n * (size_t)j->x.s.model->width, sizeof *hidden, err);
    int code = hidden ? cli_keep_rule(&rule, text, j->x.profile_path, err) : err->code;
    if (!code) code = tm_evidence_open(&evidence, &rule, p, j->x.s.model, n, err);
    if (!code && tm_evidence_mask(evidence))
        code = session_forward(&j->x.s, hidden, tokens, n, tm_evidence_tap, evidence,
                               tm_evidence_mask(evidence), err);
    if (!code) code = tm_evidence_keep(keep, NULL, evidence, tokens, err);
    tm_evidence_close(evidence);
    free(hidden);
    return code;
}

/* One window with a given keep set; rows from `first` on are scored. */
static int add_window(outcome *o, job *j, const kv_keep *keep, const int *tokens, int n, int first,
                      kv_error *err)
{
    const kv_model *m = j->x.s.model;
    const float *hidden16;
    experiment_scores s;
    float *hidden = experiment_zeros((size_t)n * (size_t)m->width, sizeof *hidden, err);
    int code = hidden ? experiment_sixteen(&hidden16, &j->x, tokens, n, err) : err->code;
    if (!code) code = experiment_quantized(hidden, NULL, &j->x, &j->keys, &j->values, keep, tokens,
                                           n, err);
    if (!code) code = experiment_score(&s, &j->x, hidden16, hidden, tokens, first, n, err);
    free(hidden);
    if (code) return code;
    double kept = 0;
    for (int l = 0; l < m->layers; l++) kept += (double)keep->count[l] / m->layers;
    experiment_add(&o->kl, s.kl);
    experiment_add(&o->loss, s.loss);
    experiment_add(&o->loss16, s.loss16);
    experiment_add(&o->kept, kept);
    return KV_OK;
}

/* The same with a rule; keep (or NULL) receives the set and is the caller's to free. */
static int add_rule(outcome *o, kv_keep *keep, job *j, const char *rule, const int *tokens, int n,
                    int first, kv_error *err)
{
    kv_keep own;
    int code = tm_keep_init(&own, j->x.s.model->layers, n, err);
    if (code) return code;
    code = keep_of(&own, j, rule, tokens, n, err);
    if (!code) code = add_window(o, j, &own, tokens, n, first, err);
    if (keep && !code) *keep = own;
    else tm_keep_free(&own);
    return code;
}

static int whole_text(FILE *out, job *j, const experiment_text *t, kv_error *err)
{
    outcome o[CLI_LIST_MAX] = {{{0, 0, 0}, {0, 0, 0}, {0, 0, 0}, {0, 0, 0}}};
    for (int w = 0; w < t->count; w++)
        for (int r = 0; r < j->rule_list.count; r++) {
            cli_progress(w * j->rule_list.count + r, t->count * j->rule_list.count, t->name);
            if (add_rule(&o[r], NULL, j, j->rule_list.item[r], experiment_window(t, w),
                         t->length[w], 0, err)) return err->code;
        }
    for (int r = 0; r < j->rule_list.count; r++) {
        fprintf(out, "%s/%s", t->name, j->rule_list.item[r]);
        print_outcome(out, &o[r]);
    }
    return KV_OK;
}

static int whole_windows(job *j, kv_error *err)
{
    tm_out out;
    int code = experiment_table(&out, &j->x, "windows.tsv", "row\t" OUTCOME, err);
    for (int i = 0; i < j->x.n && !code; i++) code = whole_text(out.f, j, &j->x.text[i], err);
    cli_progress_clear();
    if (!code) return tm_out_close(&out, err);
    tm_out_abandon(&out);
    return code;
}

static int one_token(job *j, kv_error *err)
{
    int n = j->x.ctx, *tokens = experiment_zeros((size_t)n, sizeof *tokens, err);
    tm_attention a = {0};
    double largest = 0;
    tm_out out;
    int code = tokens ? experiment_table(&out, &j->x, "repeat.tsv",
                                         "row\ttoken\talpha\tpositions\t" OUTCOME, err) : err->code;
    if (code) {
        free(tokens);
        return code;
    }
    const experiment_text *t = &j->x.text[0];
    for (int i = 0; i < n; i++) tokens[i] = t->tokens[t->length[0] / 2];
    code = tm_attention_run(&a, &j->x.e, tokens, n, 0.3, err);
    for (int i = 0; i < a.layers * a.heads * n; i++)
        if (i % n > 0 && n - i % n >= SINKS_SEEN) largest = fmax(largest, a.alpha[i]);
    for (int r = 0; r < j->rule_list.count && !code; r++) {
        outcome o = {{0, 0, 0}, {0, 0, 0}, {0, 0, 0}, {0, 0, 0}};
        kv_keep keep;
        code = add_rule(&o, &keep, j, j->rule_list.item[r], tokens, n, 0, err);
        if (code) break;
        int last = j->x.s.model->layers - 1, kept = keep.count[last];
        fprintf(out.f, "%s\t%d\t%.4g\t", j->rule_list.item[r], tokens[0], largest);
        for (int i = 0; i < kept && i < 8; i++)
            fprintf(out.f, "%s%d", i ? "," : "",
                    keep.position[(size_t)last * (size_t)n + (size_t)i]);
        fprintf(out.f, "%s", kept > 8 ? ",..." : kept ? "" : "-");
        print_outcome(out.f, &o);
        tm_keep_free(&keep);
    }
    tm_attention_free(&a);
    free(tokens);
    if (!code) return tm_out_close(&out, err);
    tm_out_abandon(&out);
    return code;
}

/* ------------------------------------------------------------- long contexts */

/* What is said of a window that the model was not trained for. */
static int too_long(job *j, experiment_text *t, kv_error *err)
{
    kv_error refusal = {0, ""};
    tm_out out;
    experiment_cut(&j->x, t, j->x.s.model->context + 1, 1, &refusal);
    int code = experiment_table(&out, &j->x, "context.txt", refusal.text, err);
    return code ? code : tm_out_close(&out, err);
}

static int long_contexts(job *j, kv_error *err)
{
    tm_out out;
    experiment_text *t = &j->x.text[0];
    int code = experiment_table(&out, &j->x, "context.tsv", "row\t" OUTCOME, err);
    if (code) return code;
    for (int i = 0; i < j->contexts.count && !code; i++) {
        int T = atoi(j->contexts.item[i]);
        if (T > j->x.s.model->context || T > t->n) continue; /* too long for this model or text */
        code = experiment_cut(&j->x, t, T, 1, err);
        for (int r = 0; r < j->context_list.count && !code; r++) {
            outcome o = {{0, 0, 0}, {0, 0, 0}, {0, 0, 0}, {0, 0, 0}};
            cli_progress(r, j->context_list.count, "long windows");
            code = add_rule(&o, NULL, j, j->context_list.item[r], t->tokens, T,
                            T > LAST ? T - 1 - LAST : 0, err);
            fprintf(out.f, "%d/%s", T, j->context_list.item[r]);
            print_outcome(out.f, &o);
        }
    }
    cli_progress_clear();
    if (code) tm_out_abandon(&out);
    else code = tm_out_close(&out, err);
    if (!code) code = too_long(j, t, err);
    return code ? code : experiment_cut(&j->x, t, j->x.ctx, j->x.windows, err);
}

/* ----------------------------------------------------------- chunked prefill */

/* Keeps what kvsink:5 keeps when h [n] arrives in pieces. Returns how many; position [n]. */
static int chunked_set(int *position, const float *h, int n, int chunk, float *scratch)
{
    int kept = 0, top[KEPT];
    for (int from = 0; from < n; from += chunk) {
        int to = from + chunk < n ? from + chunk : n;
        int m = kv_top_magnitudes(top, h, to, KEPT, scratch);
        for (int i = 0; i < m; i++)
            if (top[i] >= from) position[kept++] = top[i]; /* older ones are kept, or quantized */
    }
    return kept;
}

static int chunked_window(outcome *o, experiment_mean *same, job *j, const float *h,
                          const int *tokens, int n, int chunk, kv_error *err)
{
    int L = j->x.s.model->layers, whole[KEPT], agree = 0;
    float *scratch = experiment_zeros((size_t)n, sizeof *scratch, err);
    kv_keep keep;
    int code = scratch ? tm_keep_init(&keep, L, n, err) : err->code;
    if (code) {
        free(scratch);
        return code;
    }
    int kept = chunked_set(keep.position, h, n, chunk, scratch);
    int m = kv_top_magnitudes(whole, h, n, KEPT, scratch);
    for (int i = 0; i < kept; i++)
        for (int k = 0; k < m; k++) agree += keep.position[i] == whole[k];
    for (int l = 0; l < L; l++) {
        keep.count[l] = kept;
        if (l) memcpy(keep.position + (size_t)l * (size_t)n, keep.position,
                      (size_t)kept * sizeof *keep.position);
    }
    experiment_add(same, agree);
    code = add_window(o, j, &keep, tokens, n, 0, err);
    tm_keep_free(&keep);
    free(scratch);
    return code;
}

static const int chunk_size[] = {0, 256, 128, 64, 16}; /* 0: the whole prompt at once */
enum { CHUNKS = sizeof chunk_size / sizeof *chunk_size };

static int chunked_text(FILE *out, job *j, const experiment_text *t, int stage, kv_error *err)
{
    const kv_stage *s = &j->x.profile.stage[stage];
    tm_probe probe = {KV_TAP_H, s->layer, s->channel};
    outcome o[CHUNKS] = {{{0, 0, 0}, {0, 0, 0}, {0, 0, 0}, {0, 0, 0}}};
    experiment_mean same[CHUNKS] = {{0, 0, 0}};
    float *h = experiment_zeros((size_t)t->ctx, sizeof *h, err);
    int code = h ? KV_OK : err->code;
    for (int w = 0; w < t->count && !code; w++) {
        const int *tokens = experiment_window(t, w);
        int n = t->length[w];
        cli_progress(w, t->count, "prefill in chunks");
        code = tm_probe_run(h, &probe, 1, &j->x.e, tokens, n, err);
        for (int c = 0; c < CHUNKS && !code; c++)
            code = chunked_window(&o[c], &same[c], j, h, tokens, n,
                                  chunk_size[c] ? chunk_size[c] : n, err);
    }
    free(h);
    for (int c = 0; c < CHUNKS && !code; c++) {
        if (chunk_size[c]) fprintf(out, "%s/%d/%d", t->name, s->layer, chunk_size[c]);
        else fprintf(out, "%s/%d/whole", t->name, s->layer);
        fprintf(out, "\t%.3g", experiment_mean_of(&same[c]));
        print_outcome(out, &o[c]);
    }
    return code;
}

/* Where one text of each kind is enough. */
static int first_of_kind(const job *j, int text)
{
    for (int i = 0; i < text; i++)
        if (j->x.text[i].kind == j->x.text[text].kind) return 0;
    return 1;
}

static int chunked(job *j, kv_error *err)
{
    tm_out out;
    int code = experiment_table(&out, &j->x, "chunked.tsv", "row\tas_whole\t" OUTCOME, err);
    for (int i = 0; i < j->x.n && !code; i++)
        for (int s = 0; s < j->x.profile.n_stages && first_of_kind(j, i) && !code; s++)
            code = chunked_text(out.f, j, &j->x.text[i], s, err);
    cli_progress_clear();
    if (!code) return tm_out_close(&out, err);
    tm_out_abandon(&out);
    return code;
}

/* ------------------------------------------------------------------ streams */

static int streamed(FILE *out, job *j, const char *row, const char *rule, experiment_text *t,
                    int prompt, kv_error *err)
{
    tm_eval_spec spec = {.keys = j->keys, .values = j->values, .recent = j->recent, .ctx = t->ctx,
                         .profile = j->x.profile_path ? &j->x.profile : NULL, .stream = prompt};
    tm_eval_result r;
    if (cli_keep_rule(&spec.keep, rule, j->x.profile_path, err) ||
        tm_eval(&r, &spec, &j->x.e, j->x.s.fast, t->tokens, t->count, NULL, NULL, err))
        return err->code;
    fprintf(out, "%s/%s\t%d\t%.4g\t%.4g\t%.2g\t%.5g\t%.5g\n", row, rule, r.windows, r.kept, r.kl,
            r.kl_error, r.ppl16, r.ppl);
    return KV_OK;
}

static int streams(job *j, const char *table, int packed_only, const int *prompt, int n,
                   kv_error *err)
{
    tm_out out;
    int code = experiment_table(&out, &j->x, table, "row\t" OUTCOME, err);
    for (int i = 0; i < j->x.n && !code; i++) {
        experiment_text *t = &j->x.text[i];
        if (t->kind == EXPERIMENT_CHAT || (packed_only && t->kind != EXPERIMENT_PACKED)) continue;
        if (!packed_only && !first_of_kind(j, i)) continue;
        code = experiment_cut(&j->x, t, j->stream_ctx, j->stream_windows, err);
        for (int p = 0; p < n && !code; p++)
            for (int r = 0; r < j->stream_list.count && !code; r++) {
                char row[64];
                /* a prompt of half a passage: the end-of-text token to come has not been seen */
                int P = packed_only ? t->passage / 2 : prompt[p];
                if (P < 1) P = 1;
                if (P > t->ctx - 2) P = t->ctx - 2;
                snprintf(row, sizeof row, packed_only ? "%s" : "%s/%d", t->name, P);
                cli_progress(r, j->stream_list.count, row);
                code = streamed(out.f, j, row, j->stream_list.item[r], t, P, err);
            }
        if (!code) code = experiment_cut(&j->x, t, j->x.ctx, j->x.windows, err);
    }
    cli_progress_clear();
    if (!code) return tm_out_close(&out, err);
    tm_out_abandon(&out);
    return code;
}

/* ------------------------------------------------------------- command line */

static void defaults(cli_list *list, const char *const *item)
{
    for (int i = 0; !list->count || (i > 0 && item[i]); i++) list->item[list->count++] = item[i];
}

static int check_sections(const job *j, kv_error *err)
{
    static const char *const section[] = {"short", "born", "chunked", "windows", "repeat",
                                          "context"};
    for (int i = 0; i < j->only.count; i++) {
        int known = 0;
        for (size_t k = 0; k < sizeof section / sizeof *section; k++)
            known |= strcmp(j->only.item[i], section[k]) == 0;
        if (!known)
            return kv_fail(err, KV_FAIL_USAGE,
                           "--only: found '%.40s', expected short, born, chunked,"
                           " windows, repeat or context", j->only.item[i]);
    }
    return KV_OK;
}

static int prepare(job *j, kv_error *err)
{
    static const char *const rules[] = {"none", "first:1", "first:5", "kvsink:5", "kvsink:5/all",
                                        "kvsink:best", NULL};
    static const char *const stream[] = {"none", "first:5", "kvsink:5/all", "kvsink:5/all+decode",
                                         "kvsink:best", "kvsink:best+decode",
                                         NULL};
    static const char *const contexts[] = {"2048", "8192", NULL};
    static const char *const in_contexts[] = {"none", "first:5", "kvsink:5/all", NULL};
    kv_shape s = j->x.s.model->shape;
    defaults(&j->rule_list, rules);
    defaults(&j->stream_list, stream);
    defaults(&j->contexts, contexts);
    defaults(&j->context_list, in_contexts);
    if (check_sections(j, err) || kv_format_parse(&j->keys, j->keys_text, err) ||
        kv_format_check(&j->keys, s, 0, err) || kv_format_parse(&j->values, j->values_text, err))
        return err->code;
    return kv_format_check(&j->values, s, 1, err);
}

static int run(job *j, kv_error *err)
{
    static const int prompt[] = {1, 2, 3, 5, 8};
    int code = prepare(j, err), plain = j->x.text[0].kind == EXPERIMENT_PLAIN;
    if (!code && wanted(j, "short")) code = streams(j, "short.tsv", 0, prompt, 5, err);
    if (!code && wanted(j, "born")) code = streams(j, "born.tsv", 1, prompt, 1, err);
    if (!code && wanted(j, "chunked")) code = chunked(j, err);
    if (!code && wanted(j, "windows")) code = whole_windows(j, err);
    if (!code && wanted(j, "repeat")) code = one_token(j, err);
    if (!code && wanted(j, "context") && plain) code = long_contexts(j, err);
    return code;
}

int main(int argc, char **argv)
{
    static job j;
    const cli_option own[] = {
        {"--only", CLI_LIST, &j.only, "SECTION", "(all)", 0, 0,
         "short born chunked windows repeat context"},
        {"--rules", CLI_LIST, &j.rule_list, "KEEP", "(none, first: and kvsink:)", 0, 0,
         "rules for whole windows"},
        {"--stream-rules", CLI_LIST, &j.stream_list, "KEEP", "(these and with +decode)", 0, 0,
         "rules for streams"},
        {"--stream-ctx", CLI_INT, &j.stream_ctx, "N", "128", 3, 1 << 20, "tokens of a stream"},
        {"--stream-windows", CLI_INT, &j.stream_windows, "N", "2", 1, 1 << 20,
         "streams of each text"},
        {"--recent", CLI_INT, &j.recent, "R", "32", 0, 1 << 20,
         "tokens that wait in 16 bits, in streams"},
        {"--context-rules", CLI_LIST, &j.context_list, "KEEP", "(none first:5 kvsink:5/all)", 0, 0,
         "rules for long windows"},
        {"--contexts", CLI_LIST, &j.contexts, "T", "(2048 8192)", 0, 0, "lengths of long windows"},
        {"--keys", CLI_STRING, &j.keys_text, "FORMAT", "2:channel:128", 0, 0, "format of keys"},
        {"--values", CLI_STRING, &j.values_text, "FORMAT", "2:token:64", 0, 0, "format of values"},
        {0}};
    const experiment_spec spec = {
        "05", "Where a few tokens, chosen once, are the wrong ones.",
        "chapters/05-preserve-first-n/experiment.c tinymodels/experiment.c tinymodels/eval.c"
        " tinymodels/evidence.c tinymodels/memory.c tinymodels/promote.c tinymodels/sequence.c"
        " ref/cache.c ref/cache_setup.c ref/cache_read.c ref/keep.c ref/kvsink.c ref/quantize.c"
        " ref/transformer.c", NULL, 512, 4, 1,
        own};
    kv_error err = {0, ""};
    int status;
    if (!experiment_open(&j.x, &spec, argc, argv, &status)) return cli_finish(status);
    if (run(&j, &err)) status = experiment_fail(&j.x, &err);
    experiment_close(&j.x);
    return cli_finish(status);
}
