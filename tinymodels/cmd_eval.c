/* kvsink eval: what a cache format costs in bits, and what it does to the predictions. */
#include <stdio.h>
#include <string.h>

#include "commands.h"
#include "eval_json.h"
#include "profile.h"
#include "report.h"
#include "text_windows.h"

typedef struct {
    session s;
    cli_cache cache;
    kv_profile profile;
    tm_eval_spec spec;
    const char *file, *chat, *join;
    int limit, bos_choice; /* -1: not given */
    text_windows text;
    int by_position, layers;
    eval_record record;
} job;

/* ---------------------------------------------------------------- running */

static int prepare(job *j, kv_error *err)
{
    if (session_check_length(&j->s, j->spec.ctx, "a window", "use a smaller --ctx", err))
        return err->code;
    if (cli_cache_fit(&j->cache, j->s.common, j->s.model->shape, err)) return err->code;
    j->spec.keys = j->cache.keys;
    j->spec.values = j->cache.values;
    j->spec.keep = j->cache.keep;
    j->spec.recent = j->cache.recent;
    if (j->cache.profile) {
        if (report_profile(&j->profile, &j->s, j->cache.profile, err)) return err->code;
        j->spec.profile = &j->profile;
    }
    text_source source = {.file = j->file, .chat = j->chat, .join = j->join, .ctx = j->spec.ctx,
                          .limit = j->limit, .special = j->s.common->special,
                          .bos = j->bos_choice};
    return text_windows_read(&j->text, &source, &j->s, err);
}

static int evaluate(job *j, const tm_engine *e, kv_error *err)
{
    tm_base *base;
    tm_choice choice = {.rule = j->spec.keep};
    tm_base_spec b = {.ctx = j->spec.ctx, .stream = j->spec.stream, .profile = j->spec.profile,
                      .choice = &choice, .choices = 1, .marks = j->layers};
    tm_eval_cell cell = {.keys = j->spec.keys, .values = j->spec.values, .recent = j->spec.recent};
    eval_record *r = &j->record;
    if (eval_record_init(r, j->text.count, j->layers ? e->model->layers : 0, j->spec.ctx, err) ||
        tm_base_open(&base, &b, e, j->s.fast, j->text.window, j->text.count, err))
        return err->code;
    int code = tm_eval_on(&r->r, r->each, r->layer, NULL, &cell, base, report_progress,
                          "evaluating", err);
    tm_base_close(base);
    return code;
}

static int run(job *j, kv_error *err)
{
    tm_engine e = report_engine(&j->s);
    if (prepare(j, err) || evaluate(j, &e, err)) return err->code;
    if (j->record.r.capped)
        cli_note("in %d of %d windows more tokens pass the threshold than auto keeps (5 %% of the"
                 " text, at least 5); the largest were taken", j->record.r.capped, j->text.count);
    return KV_OK;
}

/* ---------------------------------------------------------------- results */

static void print_json(const job *j)
{
    const char *source = j->chat ? j->chat : j->file, *model = j->s.common->positional;
    cJSON *root = cJSON_CreateObject();
    eval_json_add(root, &j->record);
    cli_json_add_int(root, "ctx", j->spec.ctx);
    cli_json_add_int(root, "stream", j->spec.stream);
    cJSON_AddStringToObject(root, "bos", text_bos_name[j->text.bos]);
    cJSON_AddStringToObject(root, "keys", j->cache.keys_text);
    cJSON_AddStringToObject(root, "values", j->cache.values_text);
    cJSON_AddStringToObject(root, "keep", j->cache.keep_text);
    cJSON_AddStringToObject(root, "kept_means", cli_kept_name[j->cache.kept]);
    cli_json_add_int(root, "recent", j->cache.recent);
    cli_json_add_text(root, "text", source, strlen(source));
    cli_json_add_text(root, "model", model, strlen(model));
    cli_json_print(root);
}

static void print_heading(const job *j)
{
    const tm_eval_result *r = &j->record.r;
    char n[32];
    printf("%d window%s of %d tokens (BOS: %s), %s predictions scored, ", r->windows,
           r->windows == 1 ? "" : "s", j->spec.ctx, text_bos_name[j->text.bos],
           cli_count(n, r->tokens));
    if (j->spec.stream) printf("streamed after a prefill of %d\n", j->spec.stream);
    else printf("whole-window\n");
    printf("keys %s, values %s, keep %s", j->cache.keys_text, j->cache.values_text,
           j->cache.keep_text);
    if (j->cache.kept) printf(" (%s)", cli_kept_name[j->cache.kept]);
    if (j->spec.stream) printf(", recent %d", j->spec.recent);
    printf("\n\n");
}

static void add_row(cli_table *t, const char *name, const char *plain, const char *format, double x)
{
    char text[64];
    snprintf(text, sizeof text, format, x);
    cli_table_cell(t, "%s", name);
    cli_table_cell(t, "%s", plain);
    cli_table_cell(t, "%s", text);
}

/* And below it its standard error, if there are windows enough for one. */
static void add_mean(cli_table *t, const char *name, const char *plain, const char *format, double x,
                     double error, int windows)
{
    add_row(t, name, plain, format, x);
    if (windows > 1) add_row(t, "  standard error", "", "%.2g", error);
}

static void print_text(const job *j)
{
    const tm_eval_result *r = &j->record.r;
    char ppl16[32], bytes16[32], bytes[32];
    cli_table t;
    print_heading(j);
    snprintf(ppl16, sizeof ppl16, "%.4f", r->ppl16);
    cli_table_begin(&t, "lrr");
    cli_table_cell(&t, "%s", "");
    cli_table_cell(&t, "16 bits");
    cli_table_cell(&t, "this cache");
    add_row(&t, "perplexity", ppl16, "%.4f", r->ppl);
    add_mean(&t, "KL divergence, nats", "0", "%.4g", r->kl, r->kl_error, r->windows);
    add_mean(&t, "ln of the perplexities' ratio", "0", "%.4g", r->loss, r->loss_error, r->windows);
    add_mean(&t, "same best token, %", "100", "%.2f", 100 * r->top1, 100 * r->top1_error, r->windows);
    add_row(&t, "bits a number", "16", "%.3f", r->bits);
    cli_table_cell(&t, "bytes a window");
    cli_table_cell(&t, "%s", cli_bytes(bytes16, r->bytes16));
    cli_table_cell(&t, "%s", cli_bytes(bytes, r->bytes));
    add_row(&t, "kept tokens a layer", "", "%.3g", r->kept);
    cli_table_print(&t);
}

static void print_positions(const tm_eval_result *r)
{
    cli_table t;
    cli_table_begin(&t, "rrrrr");
    const char *const heading[] = {"positions", "predictions", "-ln p, 16 bits", "this cache",
                                   "KL, nats"};
    for (int i = 0; i < 5; i++) cli_table_cell(&t, "%s", heading[i]);
    for (int o = 0; o < TM_OCTAVES; o++) {
        const tm_octave *x = &r->octave[o];
        char n[32];
        if (!x->tokens) continue;
        if (o) cli_table_cell(&t, "%d-%d", 1 << o, (2 << o) - 1);
        else cli_table_cell(&t, "1");
        cli_table_cell(&t, "%s", cli_count(n, x->tokens));
        cli_table_cell(&t, "%.4f", x->loss16 / (double)x->tokens);
        cli_table_cell(&t, "%.4f", x->loss / (double)x->tokens);
        cli_table_cell(&t, "%.4g", x->kl / (double)x->tokens);
    }
    printf("\n");
    cli_table_print(&t);
}

static void print_layers(const eval_record *r)
{
    cli_table t;
    const char *const heading[] = {"layer", "keys: sinks", "others", "values: sinks", "others",
                                   "attention: sinks", "others"};
    cli_table_begin(&t, "rrrrrrr");
    for (int i = 0; i < 7; i++) cli_table_cell(&t, "%s", heading[i]);
    for (int l = 0; l < r->layers; l++) {
        const tm_layer_error *e = &r->layer[l];
        cli_table_cell(&t, "%d", l);
        for (int i = 0; i < TM_TOKEN_KINDS; i++) cli_table_cell(&t, "%.4f", e->keys[i]);
        for (int i = 0; i < TM_TOKEN_KINDS; i++) cli_table_cell(&t, "%.4f", e->values[i]);
        for (int i = 0; i < TM_TOKEN_KINDS; i++) cli_table_cell(&t, "%.4f", e->attention[i]);
    }
    printf("\nErrors relative to 16 bits, each layer by itself\n\n");
    cli_table_print(&t);
    printf("\nlogits of the whole pass: %.4f at sinks, %.4f at others\n",
           r->r.logits_error[TM_SINK_TOKENS], r->r.logits_error[TM_OTHER_TOKENS]);
}

/* ---------------------------------------------------------------- command */

static const char details[] =
    "Windows do not overlap; a last partial window is dropped. Every window is run\n"
    "twice, with 16-bit keys and values and with the given cache; ppl is the\n"
    "perplexity, kl the mean divergence from the 16-bit predictions in nats, top1\n"
    "the share of predictions with the same best token, bits and bytes what the\n"
    "packed cache takes with everything counted, kept the positions in 16 bits,\n"
    "mean over layers and windows. tokens is the number of scored predictions.\n"
    "\n"
    "Whole-window (default): every position attends to the quantized window.\n"
    "--stream P: P tokens of prefill attend to unquantized keys and values and the\n"
    "keep set comes from them; the others go one by one through the packed cache,\n"
    "and only their predictions are scored.\n"
    "\n"
    "--by-position: how the losses grow along a window, position 1 being the first\n"
    "that is predicted. --layers (whole windows, one more pass): at each layer of the\n"
    "16-bit pass what its keys, values and attention output would lose: norm of the\n"
    "error / norm, for sinks (what kvsink:auto@join marks with the profile, without\n"
    "one the first token) and for all other tokens; and the error of the logits.\n"
    "Standard errors are over windows.\n"
    "\n"
    "--join eot[:N]: passages (separated by empty lines; at most N tokens of each)\n"
    "are joined by the end-of-text token. --chat: a JSON list of {role, content} in\n"
    "the model's own chat template.";

static int check(job *j, kv_error *err)
{
    if (!j->file == !j->chat)
        return kv_fail(err, KV_FAIL_USAGE, "give either --file TEXT or --chat FILE");
    if (j->join && j->chat)
        return kv_fail(err, KV_FAIL_USAGE, "--join joins the passages of --file; a --chat has its"
                       " own form");
    if (j->join && j->bos_choice >= 0 && j->bos_choice != TM_BOS_NONE)
        return kv_fail(err, KV_FAIL_USAGE, "--join eot implies --bos none: the end-of-text tokens"
                       " stand where a BOS would");
    if (cli_given("--recent") && !j->spec.stream)
        return kv_fail(err, KV_FAIL_USAGE, "--recent: a whole window has no recent tokens; add"
                       " --stream P");
    return KV_OK;
}

int cmd_eval(int argc, char **argv)
{
    job j = {0};
    int status;
    const cli_option options[] = {
        {"--file", CLI_STRING, &j.file, "F", NULL, 0, 0,
         "the text (UTF-8); - is standard input"},
        {"--ctx", CLI_INT, &j.spec.ctx, "N", "512", 2, 1 << 20, "tokens of a window"},
        {"--windows", CLI_INT, &j.limit, "N", "(all)", 1, 1 << 28, "at most so many windows"},
        {"--bos", CLI_CHOICE, &j.bos_choice, "each|first|none", "(each)", 0, 0,
         "BOS in every window, before the first only, or nowhere"},
        {"--stream", CLI_INT, &j.spec.stream, "P", "(whole-window)", 1, 1 << 20,
         "prefill of P tokens, then one by one"},
        {"--by-position", CLI_FLAG, &j.by_position, NULL, NULL, 0, 0,
         "losses by position in the window, in octaves"},
        {"--layers", CLI_FLAG, &j.layers, NULL, NULL, 0, 0,
         "errors of keys, values, attention and logits, layer by layer"},
        {"--join", CLI_STRING, &j.join, "eot[:N]", NULL, 0, 0, "join passages, see below"},
        {"--chat", CLI_STRING, &j.chat, "FILE", NULL, 0, 0, "a conversation instead of --file"},
        {0}};
    static const char *const examples[] = {
        "kvsink eval model.gguf --file book.txt --windows 8 --keys 2:channel:32 "
        "--values 2:token:32",
        "kvsink eval model.gguf --file book.txt --keys 2:channel:32 --values 2:token:32 \\\n"
        "         --keep kvsink:5 --profile profile.txt --json",
        "kvsink eval model.gguf --file book.txt --stream 128 --recent 32 --cache kivi-2-like",
        NULL};
    const cli_command command = {"eval",
                                 "Measure perplexity, KL divergence, bits and bytes of a cache"
                                 " format.", "MODEL", CLI_SPECIAL | CLI_CACHE, options, details,
                                 examples};
    cli_common common;
    kv_error err;
    if (!cli_parse(&common, &command, argc, argv, &status)) return status;
    if (check(&j, &err) || cli_cache_options(&j.cache, &common, &err) ||
        session_open(&j.s, &common, &err)) return cli_fail(&command, &err);
    if (run(&j, &err)) status = cli_fail(&command, &err);
    else if (common.json) print_json(&j);
    else print_text(&j);
    if (!status && !common.json && j.by_position) print_positions(&j.record.r);
    if (!status && !common.json && j.layers) print_layers(&j.record);
    eval_record_free(&j.record);
    tm_profile_free(&j.profile);
    text_windows_free(&j.text);
    session_close(&j.s);
    return status;
}
