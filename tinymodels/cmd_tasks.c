/* kvsink tasks: does a cache spoil what the model can do? */
#include <stdlib.h>
#include <string.h>

#include "commands.h"
#include "profile.h"
#include "report.h"
#include "tasks.h"

typedef struct {
    session s;
    cli_cache cache;
    kv_profile profile;
    tm_task_spec spec;
    int *ids, n, only;
    tm_task_result result[TM_TASKS];
} job;

static int prepare(job *j, const cli_common *common, kv_error *err)
{
    char *text;
    size_t length;
    kv_shape shape = j->s.model->shape;
    if (cli_cache_fit(&j->cache, common, shape, err) ||
        kv_format_check(&j->cache.keys, shape, 0, err) ||
        kv_format_check(&j->cache.values, shape, 1, err)) return err->code;
    if (j->cache.profile && report_profile(&j->profile, &j->s, j->cache.profile, err))
        return err->code;
    if (cli_read_text(&text, &length, common, err)) return err->code;
    int code = tok_encode(&j->ids, &j->n, j->s.tok, text, length, common->special, err);
    free(text);
    j->spec.e = report_engine(&j->s);
    j->spec.fast = j->s.fast;
    j->spec.tok = j->s.tok;
    j->spec.ids = j->ids;
    j->spec.n = j->n;
    j->spec.cache = (tm_sequence_spec){j->cache.keys, j->cache.values, j->cache.keep,
                                       j->cache.profile ? &j->profile : NULL, j->cache.recent, 0,
                                       NULL};
    return code;
}

static int wanted(const job *j, int task)
{
    return j->only < 0 || j->only == task;
}

static int run(job *j, kv_error *err)
{
    for (int t = 0; t < TM_TASKS; t++)
        if (wanted(j, t) && tm_task_run(&j->result[t], (tm_task_kind)t, &j->spec, report_progress,
                                        (void *)tm_task_name((tm_task_kind)t), err))
            return err->code;
    return KV_OK;
}

static void print_json(const job *j)
{
    cJSON *root = cJSON_CreateObject(), *tasks = cJSON_AddArrayToObject(root, "tasks");
    for (int t = 0; t < TM_TASKS; t++) {
        const tm_task_result *r = &j->result[t];
        if (!wanted(j, t)) continue;
        cJSON *o = cJSON_CreateObject();
        cJSON_AddStringToObject(o, "task", tm_task_name((tm_task_kind)t));
        cli_json_add_int(o, "items", r->items);
        cli_json_add_number(o, "chance", r->chance);
        cli_json_add_number(o, "score16", r->score16);
        cli_json_add_number(o, "error16", r->error16);
        cJSON_AddBoolToObject(o, "dropped", r->dropped);
        if (!r->dropped) {
            cli_json_add_number(o, "score", r->score);
            cli_json_add_number(o, "error", r->error);
            cli_json_add_number(o, "change", r->change);
            cli_json_add_number(o, "change_error", r->change_error);
        }
        cJSON_AddItemToArray(tasks, o);
    }
    cli_json_add_int(root, "ctx", j->spec.ctx);
    cli_json_add_int(root, "written", j->spec.written);
    cJSON_AddStringToObject(root, "keys", j->cache.keys_text);
    cJSON_AddStringToObject(root, "values", j->cache.values_text);
    cJSON_AddStringToObject(root, "keep", j->cache.keep_text);
    cli_json_add_int(root, "recent", j->cache.recent);
    cli_json_print(root);
}

static void print_text(const job *j)
{
    static const char *const what[TM_TASKS] = {"digits of a pass key", "the next of four passages",
                                               "tokens that agree"};
    static const char *const head[] = {"task", "score", "items", "chance", "16 bits", "+-",
                                       "this cache", "+-", "change", "+-"};
    cli_table t;
    printf("keys %s, values %s, keep %s, recent %d\n\n", j->cache.keys_text, j->cache.values_text,
           j->cache.keep_text, j->cache.recent);
    cli_table_begin(&t, "llrrrrrrrr");
    for (int i = 0; i < 10; i++) cli_table_cell(&t, "%s", head[i]);
    for (int k = 0; k < TM_TASKS; k++) {
        const tm_task_result *r = &j->result[k];
        double value[] = {r->score16, r->error16, r->score, r->error, r->change, r->change_error};
        if (!wanted(j, k)) continue;
        cli_table_cell(&t, "%s", tm_task_name((tm_task_kind)k));
        cli_table_cell(&t, "%s", what[k]);
        cli_table_cell(&t, "%d", r->items);
        cli_table_cell(&t, k == TM_GREEDY ? "" : "%.2f", r->chance);
        for (int i = 0; i < 6; i++)
            if (i >= 2 && r->dropped) cli_table_cell(&t, "-");
            else cli_table_cell(&t, "%.3g", value[i]);
    }
    cli_table_print(&t);
    for (int k = 0; k < TM_TASKS; k++)
        if (wanted(j, k) && j->result[k].dropped)
            printf("\n%s is dropped: with 16 bits this model is at chance (two standard errors), so"
                   " no cache can spoil it.\n", tm_task_name((tm_task_kind)k));
}

static const char details[] =
    "passkey: five digits stand at one of five depths in a window of text and are\n"
    "asked for behind it; the share of digits that the model finds. passage: which\n"
    "of four passages follows a fourth of a window, by log-probability. greedy: how\n"
    "many tokens of the likeliest text are those written with 16 bits. Prompts\n"
    "attend to unquantized keys and values; what follows them runs through the\n"
    "packed cache. +- is the standard error over items. A task in which the model\n"
    "is at chance with 16 bits is dropped.";

int cmd_tasks(int argc, char **argv)
{
    job j = {.only = -1};
    int status;
    const cli_option options[] = {
        {"--ctx", CLI_INT, &j.spec.ctx, "N", "512", 64, 1 << 20, "tokens of a passkey window"},
        {"--items", CLI_INT, &j.spec.items, "N", "20", 1, 1 << 16, "items of each task"},
        {"--written", CLI_INT, &j.spec.written, "N", "64", 1, 1 << 16, "greedy: tokens to write"},
        {"--only", CLI_CHOICE, &j.only, "passkey|passage|greedy", "(all)", 0, 0, "one task"},
        {0}};
    static const char *const examples[] = {
        "kvsink tasks model.gguf --file book.txt --keys 2:channel:32 --values 2:token:32",
        "kvsink tasks model.gguf --file book.txt --keys 2:channel:32 --values 2:token:32 \\\n"
        "         --keep kvsink:5/all --profile profile.txt --recent 32 --json",
        NULL};
    const cli_command command = {"tasks", "Try what a model can do with a cache, and without.",
                                 "MODEL",
                                 CLI_TEXT | CLI_CACHE, options, details, examples};
    cli_common common;
    kv_error err;
    if (!cli_parse(&common, &command, argc, argv, &status)) return status;
    if (cli_cache_options(&j.cache, &common, &err) || session_open(&j.s, &common, &err))
        return cli_fail(&command, &err);
    if (prepare(&j, &common, &err) || run(&j, &err)) status = cli_fail(&command, &err);
    else if (common.json) print_json(&j);
    else print_text(&j);
    tm_profile_free(&j.profile);
    free(j.ids);
    session_close(&j.s);
    return status;
}
