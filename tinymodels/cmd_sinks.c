/* kvsink sinks: which keys does attention go to, and why is so little of them read? */
#include <stdlib.h>
#include <string.h>

#include "commands.h"
#include "plot.h"
#include "report.h"

enum { SEEN = 16, TOP = 8, LAYER_TOP = 3, MAPS = 6 };

static const double standard_eps[] = {0.05, 0.1, 0.2, 0.3};
enum { EPS = sizeof standard_eps / sizeof standard_eps[0] };

typedef struct {
    const session *s;
    int *ids, T;
    double eps;
    tm_attention a;
    double *mean;          /* [T] alpha, mean over all heads of the model */
    double *share[EPS + 1]; /* [T] at each eps; the last at the user's */
    double *layer_alpha;   /* [L][T] mean over heads */
    int top[TOP], n_top;   /* by mean */
    int *sink, n_sinks;    /* ranked keys that are sinks at eps in some head, ascending */
    kv_keep_rule set;      /* --positions */
    int has_set;
} report;

static double *at_layer(const report *r, int layer)
{
    return r->layer_alpha + (size_t)layer * (size_t)r->T;
}

static int derive(report *r, kv_error *err)
{
    size_t T = (size_t)r->T, L = (size_t)r->a.layers;
    double *block = calloc(T * (L + EPS + 2), sizeof *block);
    r->sink = calloc(T, sizeof *r->sink);
    r->mean = block;
    if (!block || !r->sink) return kv_fail(err, KV_FAIL_RUN, "not enough memory");
    r->layer_alpha = block + T * (EPS + 2);
    for (int i = 0; i <= EPS; i++) {
        r->share[i] = block + T * (size_t)(i + 1);
        tm_attention_share(r->share[i], &r->a, i < EPS ? standard_eps[i] : r->eps);
    }
    for (int t = 0; t < r->T; t++) {
        for (int l = 0; l < r->a.layers; l++) {
            at_layer(r, l)[t] = tm_attention_alpha(&r->a, l, t);
            r->mean[t] += at_layer(r, l)[t] / r->a.layers;
        }
        if (r->T - t >= SEEN && r->share[EPS][t] > 0) r->sink[r->n_sinks++] = t;
    }
    r->n_top = tm_rank(r->top, r->mean, r->T, SEEN, TOP);
    return KV_OK;
}

/* x [T] of one key against the median of all keys. */
static double against_median(const float *x, int T, int t)
{
    float *copy = malloc((size_t)T * sizeof *copy);
    if (!copy) return 0;
    memcpy(copy, x, (size_t)T * sizeof *copy);
    double median = kv_median_abs(copy, (size_t)T);
    free(copy);
    return median > 0 ? x[t] / median : 0;
}

static double largest_alpha(const report *r, int layer, int t)
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

static void print_shares(const report *r)
{
    char piece[32];
    int own = 1; /* is the user's eps a column of its own? */
    cli_table t;
    for (int i = 0; i < EPS; i++) own &= standard_eps[i] != r->eps;
    printf("Share of all %d heads in which a key receives more than eps, in percent\n",
           r->a.layers * r->a.heads);
    cli_table_begin(&t, own ? "rlrrrrrr" : "rlrrrrr");
    cli_table_cell(&t, "position");
    cli_table_cell(&t, "token");
    for (int i = 0; i < EPS + own; i++)
        cli_table_cell(&t, "eps %g", i < EPS ? standard_eps[i] : r->eps);
    cli_table_cell(&t, "mean alpha");
    for (int i = 0; i < r->n_top; i++) {
        int at = r->top[i];
        cli_table_cell(&t, "%d", at);
        cli_table_cell(&t, "%s", report_piece(piece, sizeof piece, r->s, r->ids[at]));
        for (int j = 0; j < EPS + own; j++) cli_table_cell(&t, "%.1f", r->share[j][at]);
        cli_table_cell(&t, "%.3f", r->mean[at]);
    }
    cli_table_print(&t);
}

static void kind_cell(cli_table *t, const report *r, int layer, int at)
{
    size_t i = (size_t)layer * (size_t)r->T + (size_t)at;
    int is_void = r->a.is_void[i], is_heavy = r->a.is_heavy[i];
    if (is_void + is_heavy == 0) cli_table_cell(t, "%s", "-");
    else if (is_heavy == 0) cli_table_cell(t, "void %d", is_void);
    else if (is_void == 0) cli_table_cell(t, "heavy %d", is_heavy);
    else cli_table_cell(t, "void %d, heavy %d", is_void, is_heavy);
}

static void print_layers(const report *r)
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
        int top[LAYER_TOP], n = tm_rank(top, at_layer(r, l), r->T, SEEN, LAYER_TOP);
        size_t row = (size_t)l * (size_t)r->T;
        char then[32] = "";
        if (n == 0) break;
        cli_table_cell(&t, "%d", l);
        cli_table_cell(&t, "%d", top[0]);
        cli_table_cell(&t, "%s", report_piece(piece, sizeof piece, r->s, r->ids[top[0]]));
        cli_table_cell(&t, "%.3f", at_layer(r, l)[top[0]]);
        cli_table_cell(&t, "%.2f", largest_alpha(r, l, top[0]));
        cli_table_cell(&t, "%.2f", against_median(r->a.q_norm + row, r->T, top[0]));
        cli_table_cell(&t, "%.2f", against_median(r->a.k_norm + row, r->T, top[0]));
        cli_table_cell(&t, "%.2f", against_median(r->a.v_norm + row, r->T, top[0]));
        cli_table_cell(&t, "%+.2f", r->a.cosine[row + (size_t)top[0]]);
        kind_cell(&t, r, l, top[0]);
        for (int i = 1; i < n; i++)
            snprintf(then + strlen(then), sizeof then - strlen(then), "%s%d %.2f",
                     i > 1 ? ", " : "", top[i], at_layer(r, l)[top[i]]);
        cli_table_cell(&t, "%s", then);
        cli_table_cell(&t, "%.2f", tm_attention_mass(&r->a, l, r->sink, r->n_sinks));
    }
    cli_table_print(&t);
}

static void print_set(const report *r)
{
    printf("\nAttention that positions");
    for (int i = 0; i < r->set.n_list; i++) printf("%s%d", i ? "," : " ", r->set.list[i]);
    printf(" receive together, by layer (mean over heads and queries):\n ");
    for (int l = 0; l < r->a.layers; l++)
        printf(" %.3f", tm_attention_mass(&r->a, l, r->set.list, r->set.n_list));
    printf("\n");
}

static void print_text(const report *r)
{
    int ranked = r->T >= SEEN ? r->T - SEEN + 1 : 0;
    printf("%d tokens, %d layers of %d heads. A key is ranked if at least %d queries see it: %d"
           " are.\n\n", r->T, r->a.layers, r->a.heads, SEEN, ranked);
    if (ranked == 0) {
        printf("The text is too short to rank any key; use %d tokens or more.\n", SEEN);
    } else {
        print_shares(r);
        print_layers(r);
        printf("\nSinks at eps %g (in at least one head):", r->eps);
        for (int i = 0; i < r->n_sinks; i++) printf("%s%d", i ? ", " : " ", r->sink[i]);
        printf("%s\n", r->n_sinks ? "" : " none");
    }
    if (r->has_set) print_set(r);
}

/* ------------------------------------------------------------------- JSON */

static cJSON *json_key(const report *r, int layer, int at)
{
    size_t row = (size_t)layer * (size_t)r->T, i = row + (size_t)at;
    cJSON *o = cJSON_CreateObject();
    report_add_token(o, r->s, r->ids, at);
    cli_json_add_number(o, "alpha", at_layer(r, layer)[at]);
    cli_json_add_number(o, "max", largest_alpha(r, layer, at));
    cli_json_add_number(o, "q_norm", r->a.q_norm[i]);
    cli_json_add_number(o, "k_norm", r->a.k_norm[i]);
    cli_json_add_number(o, "v_norm", r->a.v_norm[i]);
    cli_json_add_number(o, "q_to_median", against_median(r->a.q_norm + row, r->T, at));
    cli_json_add_number(o, "k_to_median", against_median(r->a.k_norm + row, r->T, at));
    cli_json_add_number(o, "v_to_median", against_median(r->a.v_norm + row, r->T, at));
    cli_json_add_number(o, "cosine", r->a.cosine[i]);
    cli_json_add_int(o, "void_heads", r->a.is_void[i]);
    cli_json_add_int(o, "heavy_heads", r->a.is_heavy[i]);
    return o;
}

static void json_layers(cJSON *root, const report *r)
{
    cJSON *layers = cJSON_AddArrayToObject(root, "per_layer");
    for (int l = 0; l < r->a.layers; l++) {
        int top[LAYER_TOP], n = tm_rank(top, at_layer(r, l), r->T, SEEN, LAYER_TOP);
        cJSON *o = cJSON_CreateObject(), *list = cJSON_AddArrayToObject(o, "top");
        cJSON *heads = cJSON_AddArrayToObject(o, "alpha");
        for (int i = 0; i < n; i++) cJSON_AddItemToArray(list, json_key(r, l, top[i]));
        for (int h = 0; h < r->a.heads; h++)
            cJSON_AddItemToArray(heads, report_doubles(
                r->a.alpha + ((size_t)l * (size_t)r->a.heads + (size_t)h) * (size_t)r->T, r->T));
        cli_json_add_number(o, "mass_of_sinks",
                            tm_attention_mass(&r->a, l, r->sink, r->n_sinks));
        if (r->has_set)
            cli_json_add_number(o, "mass_of_positions",
                                tm_attention_mass(&r->a, l, r->set.list, r->set.n_list));
        cJSON_AddItemToArray(layers, o);
    }
}

static void print_json(const report *r)
{
    cJSON *root = cJSON_CreateObject(), *share, *top;
    cli_json_add_int(root, "tokens", r->T);
    cli_json_add_int(root, "layers", r->a.layers);
    cli_json_add_int(root, "heads", r->a.heads);
    cli_json_add_number(root, "eps", r->eps);
    cli_json_add_int(root, "ranked", r->T >= SEEN ? r->T - SEEN + 1 : 0);
    cJSON_AddItemToObject(root, "sinks", cli_json_ints(r->sink, r->n_sinks));
    share = cJSON_AddObjectToObject(root, "share"); /* percent of all heads, every position */
    for (int i = 0; i <= EPS; i++) {
        char name[32];
        snprintf(name, sizeof name, "%g", i < EPS ? standard_eps[i] : r->eps);
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
    json_layers(root, r);
    cli_json_print(root);
}

/* ---------------------------------------------------------------- picture */

/* At most MAPS layers, from the first to the last, evenly. */
static int choose_layers(int *layer, int layers)
{
    int n = layers < MAPS ? layers : MAPS;
    for (int i = 0; i < n; i++) layer[i] = n > 1 ? i * (layers - 1) / (n - 1) : 0;
    return n;
}

static void draw(tm_canvas *c, const report *r, const float *map, const int *layer, int n)
{
    static const double x[4] = {30, 500, 945, 1500}; /* the first has a label, the last a scale */
    int rows = (n + 2) / 3, cells = r->T * r->T;
    double top = 90, size = 480, y_bars = top + rows * size;
    char text[160], piece[32];
    snprintf(text, sizeof text, "Where attention goes: %d tokens, mean over %d heads", r->T,
             r->a.heads);
    tm_text(c, 30, 50, 24, -1, tm_ink, text);
    for (int i = 0; i < n; i++) {
        snprintf(text, sizeof text, "Layer %d", layer[i]);
        tm_heat h = {.title = text, .x_label = "key", .y_label = i % 3 ? NULL : "query",
                     .data = map + (size_t)i * (size_t)cells, .rows = r->T, .cols = r->T,
                     .top = 1, .mark = r->sink, .n_mark = r->n_sinks, .no_scale = i % 3 != 2};
        tm_plot_heat(c, (tm_box){x[i % 3], top + i / 3 * size, x[i % 3 + 1] - x[i % 3],
                                 size - 20}, &h);
    }
    tm_bars b = {.title = "Attention each key receives, mean over all heads",
                 .x_label = "position of the key; sinks are red", .y_label = "alpha",
                 .value = r->mean, .n = r->T, .level = 0, .mark = r->sink,
                 .n_mark = r->n_sinks};
    tm_plot_bars(c, (tm_box){30, y_bars, 1010, 380}, &b);
    snprintf(text, sizeof text, "Sinks at eps %g", r->eps);
    tm_text(c, 1080, y_bars + 23, 18, -1, tm_ink, text);
    for (int i = 0, line = 0; i < r->n_top && line < 8; i++) {
        if (r->share[EPS][r->top[i]] <= 0) continue;
        snprintf(text, sizeof text, "%d %s", r->top[i],
                 report_piece_plain(piece, sizeof piece, r->s, r->ids[r->top[i]]));
        tm_text(c, 1080, y_bars + 66 + line * 36, 14, -1, tm_sink, text);
        snprintf(text, sizeof text, "%.1f%% of heads", r->share[EPS][r->top[i]]);
        tm_text(c, 1470, y_bars + 66 + line++ * 36, 14, 1, tm_ink, text);
    }
    if (r->n_sinks == 0) tm_text(c, 1080, y_bars + 66, 14, -1, tm_ink, "none");
}

static int picture(const report *r, const char *path, kv_error *err)
{
    int layer[MAPS], n = choose_layers(layer, r->a.layers);
    tm_engine e = report_engine(r->s);
    tm_canvas c = {0};
    float *map = session_floats((size_t)n * (size_t)r->T * (size_t)r->T, "attention maps", err);
    int code = map ? tm_attention_maps(map, layer, n, &e, r->ids, r->T, err) : err->code;
    if (!code) code = tm_canvas_init(&c, 1500, 90 + (n + 2) / 3 * 480 + 400, err);
    if (!code) {
        draw(&c, r, map, layer, n);
        code = tm_canvas_write(&c, path, err);
    }
    tm_canvas_free(&c);
    free(map);
    return code;
}

/* ---------------------------------------------------------------- command */

/* --positions 0,17 has the form of a keep rule's list. */
static int read_positions(report *r, const char *list, kv_error *err)
{
    char text[2048];
    if (!list) return KV_OK;
    snprintf(text, sizeof text, "positions:%s", list);
    r->has_set = 1;
    if (kv_keep_parse(&r->set, text, err) == KV_OK && r->set.layers == KV_LAYERS_ALL &&
        !r->set.decode) return KV_OK;
    return kv_fail(err, KV_FAIL_USAGE, "--positions: found '%.60s', expected numbers separated by"
                   " commas, such as 0,17", list);
}

static int run(report *r, int ctx, const char *png, kv_error *err)
{
    tm_engine e = report_engine(r->s);
    if (session_window(&r->ids, &r->T, r->s, ctx, err)) return err->code;
    if (r->has_set && r->set.list[r->set.n_list - 1] >= r->T)
        return kv_fail(err, KV_FAIL_USAGE, "--positions: %d is outside the text of %d tokens",
                       r->set.list[r->set.n_list - 1], r->T);
    if (tm_attention_run(&r->a, &e, r->ids, r->T, r->eps, err) || derive(r, err))
        return err->code;
    return png ? picture(r, png, err) : KV_OK;
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
    int ctx, status;
    report r = {0};
    const cli_option options[] = {
        {"--ctx", CLI_INT, &ctx, "N", "64", 1, 1 << 20, "only the first N tokens"},
        {"--eps", CLI_FLOAT, &r.eps, "X", "0.3", 0, 1, "a sink receives more than this"},
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
    if (read_positions(&r, positions, &err) || session_open(&s, &common, &err))
        return cli_fail(&command, &err);
    r.s = &s;
    if (run(&r, ctx, png, &err)) status = cli_fail(&command, &err);
    else if (common.json) print_json(&r);
    else print_text(&r);
    if (!status && png && !common.json) printf("picture: %s\n", png);
    tm_attention_free(&r.a);
    free(r.mean);
    free(r.sink);
    free(r.ids);
    session_close(&s);
    return status;
}
