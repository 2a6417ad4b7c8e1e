/* kvsink predict: the positions that a keep rule would leave in 16 bits. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "commands.h"
#include "profile.h"
#include "report.h"

typedef struct {
    const session *s;
    const kv_keep_rule *rule;
    const char *rule_text;
    kv_profile profile; /* all zeros without --profile */
    int has_profile;
    int *ids, n;
    tm_evidence *evidence;
    const float *h;     /* [stages][n], the evidence's */
    kv_keep keep;       /* what the rule says */
    kv_keep own;        /* row i: stage i's own set */
    int capped;
} prediction;

/* The rule that asks for one stage's own set: as many tokens as the user's rule takes. */
static void stage_rule(kv_keep_rule *own, const kv_keep_rule *rule, const kv_stage *stage)
{
    *own = (kv_keep_rule){.kind = KV_KEEP_KVSINK, .k = -1, .stage = KV_STAGE_AT,
                          .stage_layer = stage->layer, .layers = KV_LAYERS_ALL};
    if (rule->kind == KV_KEEP_KVSINK) own->k = rule->k;
}

static int predict_stages(prediction *p, kv_error *err)
{
    const kv_profile *profile = &p->profile;
    if (tm_keep_init(&p->own, profile->n_stages, p->n, err)) return err->code;
    for (int i = 0; i < profile->n_stages; i++) {
        kv_keep_rule own;
        kv_profile alone = *profile; /* this stage only: two may stand at one layer */
        kv_keep one = {1, p->n, &p->own.count[i], p->own.position + (size_t)i * (size_t)p->n};
        int capped = 0;
        alone.n_stages = 1;
        alone.stage = &profile->stage[i];
        stage_rule(&own, p->rule, &alone.stage[0]);
        if (tm_keep_build(&one, &capped, &own, p->ids, p->n, &alone,
                          p->h + (size_t)i * (size_t)p->n, err)) return err->code;
    }
    return KV_OK;
}

/* The pass without quantization, watched for what the rule reads. */
static int gather(prediction *p, kv_error *err)
{
    const kv_model *m = p->s->model;
    tm_engine e = report_engine(p->s);
    kv_run run = {.model = m, .backend = e.backend, .tap = tm_evidence_tap};
    if (tm_evidence_open(&p->evidence, p->rule, p->has_profile ? &p->profile : NULL, m, p->n, err))
        return err->code;
    p->h = tm_evidence_h(p->evidence);
    run.tap_self = p->evidence;
    run.tap_mask = tm_evidence_mask(p->evidence);
    if (!run.tap_mask) return KV_OK; /* nobody wants to know anything */
    float *hidden = session_floats((size_t)p->n * (size_t)m->width, "hidden states", err);
    run.work = session_floats(kv_forward_work(m, run.tap_mask, 0, p->n), "the pass", err);
    int code = hidden && run.work ? kv_forward(hidden, &run, p->ids, p->n, err) : KV_FAIL_RUN;
    free(run.work);
    free(hidden);
    return code;
}

static int predict(prediction *p, kv_error *err)
{
    if (gather(p, err) || tm_keep_init(&p->keep, p->s->model->layers, p->n, err) ||
        tm_evidence_keep(&p->keep, &p->capped, p->evidence, p->ids, err)) return err->code;
    if (p->capped)
        cli_note("more tokens pass the threshold than auto keeps (5 %% of the text, at least 5);"
                 " the largest were taken");
    return p->profile.n_stages ? predict_stages(p, err) : KV_OK;
}

static void print_json(const prediction *p)
{
    cJSON *root = cJSON_CreateObject(), *stages = cJSON_AddArrayToObject(root, "stages");
    cJSON_AddStringToObject(root, "keep", p->rule_text);
    cli_json_add_int(root, "tokens", p->n);
    for (int i = 0; i < p->profile.n_stages; i++) {
        const kv_stage *stage = &p->profile.stage[i];
        const int *position = p->own.position + (size_t)i * (size_t)p->n;
        cJSON *o = cJSON_CreateObject(), *h = cJSON_CreateArray();
        cli_json_add_int(o, "layer", stage->layer);
        cli_json_add_int(o, "channel", stage->channel);
        cJSON_AddItemToObject(o, "positions", cli_json_ints(position, p->own.count[i]));
        for (int j = 0; j < p->own.count[i]; j++)
            cJSON_AddItemToArray(h, cJSON_CreateNumber(p->h[i * p->n + position[j]]));
        cJSON_AddItemToObject(o, "h", h);
        cJSON_AddItemToArray(stages, o);
    }
    cJSON *layers = cJSON_AddArrayToObject(root, "layers");
    for (int l = 0; l < p->keep.layers; l++)
        cJSON_AddItemToArray(layers, cli_json_ints(p->keep.position + (size_t)l * (size_t)p->n,
                                                   p->keep.count[l]));
    cJSON_AddBoolToObject(root, "capped", p->capped);
    cli_json_print(root);
}

static void print_stages(const prediction *p)
{
    char piece[32];
    cli_table t;
    cli_table_begin(&t, "rrrlr");
    cli_table_cell(&t, "stage");
    cli_table_cell(&t, "channel");
    cli_table_cell(&t, "position");
    cli_table_cell(&t, "token");
    cli_table_cell(&t, "H");
    for (int i = 0; i < p->profile.n_stages; i++)
        for (int j = 0; j < p->own.count[i]; j++) {
            int at = p->own.position[i * p->n + j];
            char layer[16] = "", channel[16] = ""; /* on the first line of a stage only */
            if (j == 0) {
                snprintf(layer, sizeof layer, "%d", p->profile.stage[i].layer);
                snprintf(channel, sizeof channel, "%d", p->profile.stage[i].channel);
            }
            cli_table_cell(&t, "%s", layer);
            cli_table_cell(&t, "%s", channel);
            cli_table_cell(&t, "%d", at);
            cli_table_cell(&t, "%s", report_piece(piece, sizeof piece, p->s, p->ids[at]));
            cli_table_cell(&t, "%.5g", p->h[i * p->n + at]);
        }
    printf("Each stage's own set (H: the residual after the stage's layer, in its channel)\n");
    cli_table_print(&t);
    printf("\n");
}

static int same_set(const prediction *p, int a, int b)
{
    const int *x = p->keep.position + (size_t)a * (size_t)p->n;
    const int *y = p->keep.position + (size_t)b * (size_t)p->n;
    return p->keep.count[a] == p->keep.count[b] &&
           memcmp(x, y, (size_t)p->keep.count[a] * sizeof *x) == 0;
}

/* Runs of layers with the same set share a line. */
static void print_layers(const prediction *p)
{
    int kept = 0;
    printf("Kept by %s, of %d tokens\n", p->rule_text, p->n);
    for (int l = 0; l < p->keep.layers; ) {
        int last = l;
        char piece[32];
        while (last + 1 < p->keep.layers && same_set(p, l, last + 1)) last++;
        kept += p->keep.count[l] * (last - l + 1);
        if (last > l) printf("  layers %d-%d:", l, last);
        else printf("  layer %d:", l);
        if (p->keep.count[l] == 0) printf(" nothing");
        for (int j = 0; j < p->keep.count[l]; j++) {
            int at = p->keep.position[l * p->n + j];
            printf("%s %d %s", j ? "," : "", at,
                   report_piece(piece, sizeof piece, p->s, p->ids[at]));
        }
        printf("\n");
        l = last + 1;
    }
    printf("  %.3g a layer on average\n", (double)kept / p->keep.layers);
}

static void print_text(const prediction *p)
{
    int asks = p->rule->kind == KV_KEEP_KVSINK;
    if (p->profile.n_stages) print_stages(p);
    else if (asks) printf("The profile has no emergence stage: KVSink keeps nothing.\n\n");
    print_layers(p);
}

static const char details[] =
    CLI_KEEP_HELP "\n"
    "Whatever the rule, every stage of the profile is listed with the set it finds\n"
    "by itself (K as in a kvsink rule, else auto). greedy is not predicted but found\n"
    "by eval.";

int cmd_predict(int argc, char **argv)
{
    const char *profile, *keep;
    int ctx, status;
    const cli_option options[] = {
        {"--profile", CLI_STRING, &profile, "FILE", NULL, 0, 0, "what `kvsink calibrate` wrote"},
        {"--keep", CLI_STRING, &keep, "KEEP", "kvsink:5", 0, 0, "the rule, see below"},
        {"--ctx", CLI_INT, &ctx, "N", "(the whole text)", 1, 1 << 28, "only the first N tokens"},
        {0}};
    static const char *const examples[] = {
        "kvsink predict model.gguf --file book.txt --profile profile.txt --keep kvsink:5",
        "kvsink predict model.gguf --text 'One. Two. Three.' --profile profile.txt "
        "--keep kvsink:auto@each --json", NULL};
    const cli_command command = {"predict",
                                 "List the tokens that a keep rule would leave in 16 bits.",
                                 "MODEL", CLI_TEXT | CLI_BOS, options, details, examples};
    cli_common common;
    session s;
    kv_error err;
    kv_keep_rule rule;
    if (!cli_parse(&common, &command, argc, argv, &status)) return status;
    if (cli_keep_rule(&rule, keep, profile, &err) || session_open(&s, &common, &err))
        return cli_fail(&command, &err);
    prediction p = {.s = &s, .rule = &rule, .rule_text = keep, .has_profile = profile != NULL};
    if ((profile && report_profile(&p.profile, &s, profile, &err)) ||
        session_window(&p.ids, &p.n, &s, ctx, &err) || predict(&p, &err))
        status = cli_fail(&command, &err);
    else if (common.json) print_json(&p);
    else print_text(&p);
    tm_keep_free(&p.keep);
    tm_keep_free(&p.own);
    tm_profile_free(&p.profile);
    free(p.ids);
    tm_evidence_close(p.evidence);
    session_close(&s);
    return status;
}
