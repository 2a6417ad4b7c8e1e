/* kvsink sinks: which keys does attention go to, and why is so little of them read? */
#include <stdlib.h>
#include <string.h>

#include "commands.h"
#include "sinks_report.h"

enum { LAYER_TOP = 3 };

static double largest_alpha(const sinks_report *r, int layer, int t)
{
    double best = 0;
    for (int h = 0; h < r->a.heads; h++) {
        double alpha = r->a.alpha[((size_t)layer * (size_t)r->a.heads + (size_t)h) *
                                      (size_t)r->T + (size_t)t];
        if (alpha > best) best = alpha;
    }
    return best;
}

/* ------------------------------------------------------------------- text */

static void print_shares(const sinks_report *r)
{
    char piece[32];
    int own = 1; /* is the user's eps a column of its own? */
    cli_table t;
    for (int i = 0; i < SINKS_EPS; i++) own &= sinks_standard_eps[i] != r->eps;
    printf("Share of all %d heads in which a key receives more than eps, in percent\n",
           r->a.layers * r->a.heads);
    cli_table_begin(&t, own ? "rlrrrrrr" : "rlrrrrr");
    cli_table_cell(&t, "position");
    cli_table_cell(&t, "token");
    for (int i = 0; i < SINKS_EPS + own; i++)
        cli_table_cell(&t, "eps %g", i < SINKS_EPS ? sinks_standard_eps[i] : r->eps);
    cli_table_cell(&t, "mean alpha");
    for (int i = 0; i < r->n_top; i++) {
        int at = r->top[i];
        cli_table_cell(&t, "%d", at);
        cli_table_cell(&t, "%s", report_piece(piece, sizeof piece, r->s, r->ids[at]));
        for (int j = 0; j < SINKS_EPS + own; j++) cli_table_cell(&t, "%.1f", r->share[j][at]);
        cli_table_cell(&t, "%.3f", r->mean[at]);
    }
    cli_table_print(&t);
}

static void kind_cell(cli_table *t, const sinks_report *r, int layer, int at)
{
    size_t i = (size_t)layer * (size_t)r->T + (size_t)at;
    int is_void = r->a.is_void[i], is_heavy = r->a.is_heavy[i];
    if (is_void + is_heavy == 0) cli_table_cell(t, "%s", "-");
    else if (is_heavy == 0) cli_table_cell(t, "void %d", is_void);
    else if (is_void == 0) cli_table_cell(t, "heavy %d", is_heavy);
    else cli_table_cell(t, "void %d, heavy %d", is_void, is_heavy);
}

static void print_layers(const sinks_report *r)
{
    static const char *const head[] = {"layer", "position", "token", "alpha", "max", "|q|", "|k|",
                                       "|v|", "cos q k", "kind", "then", "sinks get"};
    char piece[24];
    cli_table t;
    printf("\nThe key that receives most in each layer (alpha: mean over heads; norms against the"
           " median;\nkind: heads in which it is a void sink or a heavy hitter at eps %g)\n",
           r->eps);
    cli_table_begin(&t, "rrlrrrrrrllr");
    for (int i = 0; i < 12; i++) cli_table_cell(&t, "%s", head[i]);
    for (int l = 0; l < r->a.layers; l++) {
        int top[LAYER_TOP], n = tm_rank(top, sinks_layer_alpha(r, l), r->T, SINKS_SEEN, LAYER_TOP);
        size_t row = (size_t)l * (size_t)r->T;
        char then[32] = "";
        if (n == 0) break;
        cli_table_cell(&t, "%d", l);
        cli_table_cell(&t, "%d", top[0]);
        cli_table_cell(&t, "%s", report_piece(piece, sizeof piece, r->s, r->ids[top[0]]));
        cli_table_cell(&t, "%.3f", sinks_layer_alpha(r, l)[top[0]]);
        cli_table_cell(&t, "%.2f", largest_alpha(r, l, top[0]));
        cli_table_cell(&t, "%.2f", sinks_against_median(r->a.q_norm + row, r->T, top[0]));
        cli_table_cell(&t, "%.2f", sinks_against_median(r->a.k_norm + row, r->T, top[0]));
        cli_table_cell(&t, "%.2f", sinks_against_median(r->a.v_norm + row, r->T, top[0]));
        cli_table_cell(&t, "%+.2f", r->a.cosine[row + (size_t)top[0]]);
        kind_cell(&t, r, l, top[0]);
        for (int i = 1; i < n; i++)
            snprintf(then + strlen(then), sizeof then - strlen(then), "%s%d %.2f",
                     i > 1 ? ", " : "", top[i], sinks_layer_alpha(r, l)[top[i]]);
        cli_table_cell(&t, "%s", then);
        cli_table_cell(&t, "%.2f", tm_attention_mass(&r->a, l, r->sink, r->n_sinks));
    }
    cli_table_print(&t);
}

static void print_set(const sinks_report *r, const kv_keep_rule *set)
{
    printf("\nAttention that positions");
    for (int i = 0; i < set->n_list; i++) printf("%s%d", i ? "," : " ", set->list[i]);
    printf(" receive together, by layer (mean over heads and queries):\n ");
    for (int l = 0; l < r->a.layers; l++)
        printf(" %.3f", tm_attention_mass(&r->a, l, set->list, set->n_list));
    printf("\n");
}

static void print_text(const sinks_report *r, const kv_keep_rule *set)
{
    int ranked = r->T >= SINKS_SEEN ? r->T - SINKS_SEEN + 1 : 0;
    printf("%d tokens, %d layers of %d heads. A key is ranked if at least %d queries see it: %d"
           " are.\n\n", r->T, r->a.layers, r->a.heads, SINKS_SEEN, ranked);
    if (ranked == 0) {
        printf("The text is too short to rank any key; use %d tokens or more.\n", SINKS_SEEN);
    } else {
        print_shares(r);
        print_layers(r);
        printf("\nSinks at eps %g (in at least one head):", r->eps);
        for (int i = 0; i < r->n_sinks; i++) printf("%s%d", i ? ", " : " ", r->sink[i]);
        printf("%s\n", r->n_sinks ? "" : " none");
    }
    if (set) print_set(r, set);
}

/* ------------------------------------------------------------------- JSON */

static cJSON *json_key(const sinks_report *r, int layer, int at)
{
    size_t row = (size_t)layer * (size_t)r->T, i = row + (size_t)at;
    cJSON *o = cJSON_CreateObject();
    report_add_token(o, r->s, r->ids, at);
    cli_json_add_number(o, "alpha", sinks_layer_alpha(r, layer)[at]);
    cli_json_add_number(o, "max", largest_alpha(r, layer, at));
    cli_json_add_number(o, "q_norm", r->a.q_norm[i]);
    cli_json_add_number(o, "k_norm", r->a.k_norm[i]);
    cli_json_add_number(o, "v_norm", r->a.v_norm[i]);
    cli_json_add_number(o, "q_to_median", sinks_against_median(r->a.q_norm + row, r->T, at));
    cli_json_add_number(o, "k_to_median", sinks_against_median(r->a.k_norm + row, r->T, at));
    cli_json_add_number(o, "v_to_median", sinks_against_median(r->a.v_norm + row, r->T, at));
    cli_json_add_number(o, "cosine", r->a.cosine[i]);
    cli_json_add_int(o, "void_heads", r->a.is_void[i]);
    cli_json_add_int(o, "heavy_heads", r->a.is_heavy[i]);
    return o;
}

static void json_layers(cJSON *root, const sinks_report *r, const kv_keep_rule *set)
{
    cJSON *layers = cJSON_AddArrayToObject(root, "per_layer");
    for (int l = 0; l < r->a.layers; l++) {
        int top[LAYER_TOP], n = tm_rank(top, sinks_layer_alpha(r, l), r->T, SINKS_SEEN, LAYER_TOP);
        cJSON *o = cJSON_CreateObject(), *list = cJSON_AddArrayToObject(o, "top");
        cJSON *heads = cJSON_AddArrayToObject(o, "alpha");
        for (int i = 0; i < n; i++) cJSON_AddItemToArray(list, json_key(r, l, top[i]));
        for (int h = 0; h < r->a.heads; h++)
            cJSON_AddItemToArray(heads, report_doubles(
                r->a.alpha + ((size_t)l * (size_t)r->a.heads + (size_t)h) * (size_t)r->T, r->T));
        cli_json_add_number(o, "mass_of_sinks",
                            tm_attention_mass(&r->a, l, r->sink, r->n_sinks));
        if (set)
            cli_json_add_number(o, "mass_of_positions",
                                tm_attention_mass(&r->a, l, set->list, set->n_list));
        cJSON_AddItemToArray(layers, o);
    }
}

static void print_json(const sinks_report *r, const kv_keep_rule *set)
{
    cJSON *root = cJSON_CreateObject(), *share, *top;
    cli_json_add_int(root, "tokens", r->T);
    cli_json_add_int(root, "layers", r->a.layers);
    cli_json_add_int(root, "heads", r->a.heads);
    cli_json_add_number(root, "eps", r->eps);
    cli_json_add_int(root, "ranked", r->T >= SINKS_SEEN ? r->T - SINKS_SEEN + 1 : 0);
    cJSON_AddItemToObject(root, "sinks", cli_json_ints(r->sink, r->n_sinks));
    share = cJSON_AddObjectToObject(root, "share"); /* percent of all heads, every position */
    for (int i = 0; i <= SINKS_EPS; i++) {
        char name[32];
        snprintf(name, sizeof name, "%g", i < SINKS_EPS ? sinks_standard_eps[i] : r->eps);
        if (!cJSON_HasObjectItem(share, name))
            cJSON_AddItemToObject(share, name, report_doubles(r->share[i], r->T));
    }
    top = cJSON_AddArrayToObject(root, "top");
    for (int i = 0; i < r->n_top; i++) {
        cJSON *o = cJSON_CreateObject();
        report_add_token(o, r->s, r->ids, r->top[i]);
        cli_json_add_number(o, "alpha", r->mean[r->top[i]]);
        cJSON_AddItemToArray(top, o);
    }
    json_layers(root, r, set);
    cli_json_print(root);
}

/* ---------------------------------------------------------------- command */

/* --positions 0,17 has the form of a keep rule's list. */
static int read_positions(kv_keep_rule *set, const char *list, kv_error *err)
{
    char text[2048];
    snprintf(text, sizeof text, "positions:%s", list);
    if (kv_keep_parse(set, text, err) == KV_OK && set->layers == KV_LAYERS_ALL && !set->decode)
        return KV_OK;
    return kv_fail(err, KV_FAIL_USAGE, "--positions: found '%.60s', expected numbers separated by"
                   " commas, such as 0,17", list);
}

static int run(sinks_report *r, int **ids, const session *s, int ctx, double eps,
               const kv_keep_rule *set, kv_error *err)
{
    int T;
    if (session_window(ids, &T, s, ctx, err)) return err->code;
    if (set && set->list[set->n_list - 1] >= T)
        return kv_fail(err, KV_FAIL_USAGE, "--positions: %d is outside the text of %d tokens",
                       set->list[set->n_list - 1], T);
    return sinks_report_run(r, s, *ids, T, eps, err);
}

static const char details[] =
    "alpha of a key is the mean attention it receives from the queries that can see\n"
    "it. A key whose alpha exceeds eps in a head is a sink there: void if its value\n"
    "is shorter than half the median (attention is parked), else a heavy hitter\n"
    "(attention fetches something). Keys that fewer than 16 queries see are not\n"
    "ranked.";

int cmd_sinks(int argc, char **argv)
{
    const char *png, *positions;
    int ctx, status, *ids = NULL;
    double eps;
    sinks_report r = {0};
    kv_keep_rule rule, *set = NULL;
    const cli_option options[] = {
        {"--ctx", CLI_INT, &ctx, "N", "64", 1, 1 << 20, "only the first N tokens"},
        {"--eps", CLI_FLOAT, &eps, "X", "0.3", 0, 1, "a sink receives more than this"},
        {"--positions", CLI_STRING, &positions, "LIST", NULL, 0, 0,
         "also tell what these positions receive together, such as 0,17"},
        {"--png", CLI_STRING, &png, "FILE", NULL, 0, 0, "draw attention maps there"},
        {0}};
    static const char *const examples[] = {
        "kvsink sinks model.gguf --text 'Summer is warm. Winter is cold.'",
        "kvsink sinks model.gguf --file book.txt --ctx 256 --png sinks.png", NULL};
    const cli_command command = {"sinks",
                                 "Find the tokens that attention goes to for want of anything"
                                 " better.", "MODEL", CLI_TEXT | CLI_BOS, options, details,
                                 examples};
    cli_common common;
    session s;
    kv_error err;
    if (!cli_parse(&common, &command, argc, argv, &status)) return status;
    if (positions) set = &rule;
    if ((set && read_positions(set, positions, &err)) || session_open(&s, &common, &err))
        return cli_fail(&command, &err);
    if (run(&r, &ids, &s, ctx, eps, set, &err) || (png && sinks_picture(&r, png, &err)))
        status = cli_fail(&command, &err);
    else if (common.json) print_json(&r, set);
    else print_text(&r, set);
    if (!status && png && !common.json) printf("picture: %s\n", png);
    sinks_report_free(&r);
    free(ids);
    session_close(&s);
    return status;
}
