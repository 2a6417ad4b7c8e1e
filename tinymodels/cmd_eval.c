/* kvsink eval: what a cache format costs in bits, and what it does to the predictions. */
#include <string.h>

#include "commands.h"
#include "eval.h"
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
    tm_eval_result result;
} job;

/* ---------------------------------------------------------------- running */

static int prepare(job *j, kv_error *err)
{
    if (session_check_length(&j->s, j->spec.ctx, "a window", "use a smaller --ctx", err))
        return err->code;
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

static int run(job *j, kv_error *err)
{
    tm_engine e = report_engine(&j->s);
    if (prepare(j, err)) return err->code;
    if (tm_eval(&j->result, &j->spec, &e, j->s.fast, j->text.window, j->text.count, report_progress,
                "evaluating", err)) return err->code;
    if (j->result.capped)
        cli_note("in %d of %d windows more tokens pass the threshold than auto keeps (5 %% of the"
                 " text, at least 5); the largest were taken", j->result.capped, j->text.count);
    return KV_OK;
}

/* ---------------------------------------------------------------- results */

static void print_json(const job *j)
{
    const tm_eval_result *r = &j->result;
    const char *source = j->chat ? j->chat : j->file, *model = j->s.common->positional;
    cJSON *root = cJSON_CreateObject();
    cli_json_add_int(root, "windows", r->windows);
    cli_json_add_int(root, "tokens", r->tokens);
    cli_json_add_number(root, "ppl16", r->ppl16);
    cli_json_add_number(root, "ppl", r->ppl);
    cli_json_add_number(root, "kl", r->kl);
    cli_json_add_number(root, "kl_error", r->kl_error);
    cli_json_add_number(root, "top1", r->top1);
    cli_json_add_number(root, "bits", r->bits);
    cli_json_add_number(root, "bytes", r->bytes);
    cli_json_add_number(root, "bytes16", r->bytes16);
    cli_json_add_number(root, "kept", r->kept);
    cli_json_add_int(root, "capped", r->capped);
    cli_json_add_int(root, "ctx", j->spec.ctx);
    cli_json_add_int(root, "stream", j->spec.stream);
    cJSON_AddStringToObject(root, "bos", text_bos_name[j->text.bos]);
    cJSON_AddStringToObject(root, "keys", j->cache.keys_text);
    cJSON_AddStringToObject(root, "values", j->cache.values_text);
    cJSON_AddStringToObject(root, "keep", j->cache.keep_text);
    cli_json_add_int(root, "recent", j->cache.recent);
    cli_json_add_text(root, "text", source, strlen(source));
    cli_json_add_text(root, "model", model, strlen(model));
    cli_json_print(root);
}

static void print_text(const job *j)
{
    const tm_eval_result *r = &j->result;
    char a[32], b[32];
    cli_table t;
    printf("%d window%s of %d tokens (BOS: %s), %s predictions scored, ", r->windows,
           r->windows == 1 ? "" : "s", j->spec.ctx, text_bos_name[j->text.bos], cli_count(a, r->tokens));
    if (j->spec.stream) printf("streamed after a prefill of %d\n", j->spec.stream);
    else printf("whole-window\n");
    printf("keys %s, values %s, keep %s", j->cache.keys_text, j->cache.values_text,
           j->cache.keep_text);
    if (j->spec.stream) printf(", recent %d", j->spec.recent);
    printf("\n\n");
    cli_table_begin(&t, "lrr");
    cli_table_cell(&t, "%s", "");
    cli_table_cell(&t, "16 bits");
    cli_table_cell(&t, "this cache");
    cli_table_cell(&t, "perplexity");
    cli_table_cell(&t, "%.4f", r->ppl16);
    cli_table_cell(&t, "%.4f", r->ppl);
    cli_table_cell(&t, "KL divergence, nats");
    cli_table_cell(&t, "0");
    cli_table_cell(&t, "%.4g", r->kl);
    if (r->windows > 1) {
        cli_table_cell(&t, "  standard error");
        cli_table_cell(&t, "%s", "");
        cli_table_cell(&t, "%.2g", r->kl_error);
    }
    cli_table_cell(&t, "same best token, %%");
    cli_table_cell(&t, "100");
    cli_table_cell(&t, "%.2f", 100 * r->top1);
    cli_table_cell(&t, "bits a number");
    cli_table_cell(&t, "16");
    cli_table_cell(&t, "%.3f", r->bits);
    cli_table_cell(&t, "bytes a window");
    cli_table_cell(&t, "%s", cli_bytes(a, r->bytes16));
    cli_table_cell(&t, "%s", cli_bytes(b, r->bytes));
    cli_table_cell(&t, "kept tokens a layer");
    cli_table_cell(&t, "%s", "");
    cli_table_cell(&t, "%.3g", r->kept);
    cli_table_print(&t);
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
    tm_profile_free(&j.profile);
    text_windows_free(&j.text);
    session_close(&j.s);
    return status;
}
