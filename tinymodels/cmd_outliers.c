/* kvsink outliers: where in depth the residual becomes extreme, who writes it and who takes it
 * away. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "commands.h"
#include "plot.h"
#include "report.h"

enum { FOLLOWED = 4 }; /* stages followed through depth */

typedef struct {
    const session *s;
    int *ids, T;
    tm_outliers o;
    int n;                   /* stages followed */
    int token[FOLLOWED];     /* the one with the largest |H| in the stage's channel at its layer */
    float *h[FOLLOWED], *write[FOLLOWED]; /* [L] residual after each layer, and what it added */
    kv_phase *phase[FOLLOWED];            /* [L] */
} report;

static const char *const phase_name[] = {"initial", "emergence", "stable", "dissipation", "final"};

/* Runs again, with probes at all layers on one stage's channel, and follows the stage's token. */
static int follow(report *r, int i, kv_error *err)
{
    int L = r->o.layers, T = r->T;
    const kv_stage *stage = &r->o.stage[i];
    tm_engine e = report_engine(r->s);
    tm_probe *probe = calloc((size_t)L * 2, sizeof *probe);
    float *seen = session_floats((size_t)L * 2 * (size_t)T, "the outlier's way", err);
    r->h[i] = calloc((size_t)L, sizeof **r->h);
    r->write[i] = calloc((size_t)L, sizeof **r->write);
    r->phase[i] = calloc((size_t)L, sizeof **r->phase);
    int code = probe && seen && r->h[i] && r->write[i] && r->phase[i]
                   ? KV_OK : kv_fail(err, KV_FAIL_RUN, "not enough memory");
    for (int l = 0; l < L && !code; l++) {
        probe[2 * l] = (tm_probe){KV_TAP_H, l, stage->channel};
        probe[2 * l + 1] = (tm_probe){KV_TAP_DOWN_OUT, l, stage->channel};
    }
    if (!code) code = tm_probe_run(seen, probe, 2 * L, &e, r->ids, T, err);
    if (!code) {
        const float *at_stage = seen + (size_t)(2 * stage->layer) * (size_t)T;
        for (int t = 1; t < T; t++)
            if (fabsf(at_stage[t]) > fabsf(at_stage[r->token[i]])) r->token[i] = t;
        for (int l = 0; l < L; l++) {
            r->h[i][l] = seen[(size_t)(2 * l) * (size_t)T + (size_t)r->token[i]];
            r->write[i][l] = seen[(size_t)(2 * l + 1) * (size_t)T + (size_t)r->token[i]];
        }
        kv_phases(r->phase[i], r->h[i], r->write[i], L, stage->layer);
    }
    free(probe);
    free(seen);
    return code;
}

/* The layer that takes a stage's outlier away, -1: none does. */
static int dissipation(const report *r, int i)
{
    for (int l = 0; l < r->o.layers; l++)
        if (r->phase[i][l] == KV_DISSIPATION) return l;
    return -1;
}

static int run(report *r, int ctx, kv_error *err)
{
    tm_engine e = report_engine(r->s);
    if (session_window(&r->ids, &r->T, r->s, ctx, err) ||
        tm_outliers_run(&r->o, &e, r->ids, r->T, err)) return err->code;
    int found = r->o.n_stages < FOLLOWED ? r->o.n_stages : FOLLOWED;
    for (int i = 0; i < found; i++) {
        r->n = i + 1;
        if (follow(r, i, err)) return err->code;
    }
    return KV_OK;
}

/* ------------------------------------------------------------------- text */

static double ratio(const kv_extreme *e)
{
    return e->median > 0 ? (double)e->max / (double)e->median : 0;
}

static void extreme_cells(cli_table *t, const report *r, const kv_extreme *e)
{
    char piece[24];
    cli_table_cell(t, "%.4g", e->max);
    cli_table_cell(t, "%.3g", e->median);
    cli_table_cell(t, "%.4g", ratio(e));
    cli_table_cell(t, "%d", e->row);
    cli_table_cell(t, "%s", report_piece(piece, sizeof piece, r->s, r->ids[e->row]));
    cli_table_cell(t, "%d", e->col);
}

static void down_cells(cli_table *t, const kv_extreme *e)
{
    cli_table_cell(t, "%.4g", e->max);
    cli_table_cell(t, "%d:%d", e->row, e->col);
}

static void print_table(const report *r)
{
    static const char *const head[] = {"layer", "max |H|", "median", "ratio", "token", "", "channel",
                                       "down in", "at", "down out", "at"};
    char align[32] = "rrrrrlrrlrl";
    cli_table t;
    for (int i = 0; i < r->n; i++) strcat(align, "l");
    cli_table_begin(&t, align);
    for (int i = 0; i < 11; i++) cli_table_cell(&t, "%s", head[i]);
    for (int i = 0; i < r->n; i++)
        cli_table_cell(&t, "stage %d, token %d", r->o.stage[i].layer, r->token[i]);
    for (int l = -1; l < r->o.layers; l++) {
        if (l < 0) cli_table_cell(&t, "%s", "embed");
        else cli_table_cell(&t, "%d", l);
        extreme_cells(&t, r, &r->o.h[l + 1]);
        if (l < 0) {
            for (int i = 0; i < 4 + r->n; i++) cli_table_cell(&t, "%s", "");
            continue;
        }
        down_cells(&t, &r->o.down_in[l]);
        down_cells(&t, &r->o.down_out[l]);
        for (int i = 0; i < r->n; i++)
            cli_table_cell(&t, "%s", phase_name[r->phase[i][l]]);
    }
    cli_table_print(&t);
}

static void print_text(const report *r)
{
    char piece[32];
    printf("%d tokens, %d layers, width %d. H: the residual after each layer; down: input and output"
           " of the\ndown projection, the largest and where it is (token:channel).\n\n", r->T,
           r->o.layers, r->o.width);
    print_table(r);
    printf("\n");
    if (r->o.n_stages == 0)
        printf("No emergence stage in this text: no channel rises to 300 times the median%s.\n",
               r->o.weak ? "" : " and to 100");
    for (int i = 0; i < r->n; i++) {
        const kv_stage *s = &r->o.stage[i];
        int gone = dissipation(r, i);
        printf("Stage at layer %d: channel %d, largest at token %d %s (%.5g)", s->layer, s->channel,
               r->token[i], report_piece(piece, sizeof piece, r->s, r->ids[r->token[i]]),
               r->h[i][s->layer]);
        if (gone >= 0) printf("; dissipates at layer %d\n", gone);
        else printf("; never taken away\n");
    }
    if (r->o.n_stages > r->n) printf("... and %d more stages\n", r->o.n_stages - r->n);
    if (r->o.n_stages && r->o.weak)
        printf("No outlier reached 100; found by the ratio to the median alone.\n");
}

/* ------------------------------------------------------------------- JSON */

static void json_extreme(cJSON *o, const report *r, const kv_extreme *e, int with_piece)
{
    cli_json_add_number(o, "max", e->max);
    cli_json_add_number(o, "median", e->median);
    cli_json_add_number(o, "ratio", ratio(e));
    cli_json_add_int(o, "token", e->row);
    cli_json_add_int(o, "channel", e->col);
    if (!with_piece) return;
    size_t n;
    const char *bytes = tok_bytes(r->s->tok, r->ids[e->row], &n);
    if (n == 0) bytes = tok_piece(r->s->tok, r->ids[e->row], &n);
    cli_json_add_text(o, "piece", bytes, n);
}

static void json_stages(cJSON *root, const report *r)
{
    cJSON *stages = cJSON_AddArrayToObject(root, "stages");
    for (int i = 0; i < r->o.n_stages; i++) {
        cJSON *o = cJSON_CreateObject();
        cli_json_add_int(o, "layer", r->o.stage[i].layer);
        cli_json_add_int(o, "channel", r->o.stage[i].channel);
        cli_json_add_int(o, "sign", r->o.stage[i].sign);
        if (i < r->n) {
            cJSON *phases = cJSON_CreateArray();
            cli_json_add_int(o, "token", r->token[i]);
            cJSON_AddItemToObject(o, "h", report_floats(r->h[i], r->o.layers));
            cJSON_AddItemToObject(o, "down_out", report_floats(r->write[i], r->o.layers));
            for (int l = 0; l < r->o.layers; l++)
                cJSON_AddItemToArray(phases, cJSON_CreateString(phase_name[r->phase[i][l]]));
            cJSON_AddItemToObject(o, "phases", phases);
        }
        cJSON_AddItemToArray(stages, o);
    }
}

static void print_json(const report *r)
{
    cJSON *root = cJSON_CreateObject(), *embed, *layers;
    cli_json_add_int(root, "tokens", r->T);
    cJSON_AddBoolToObject(root, "weak", r->o.weak);
    embed = cJSON_AddObjectToObject(root, "embed");
    json_extreme(embed, r, &r->o.h[0], 1);
    layers = cJSON_AddArrayToObject(root, "layers");
    for (int l = 0; l < r->o.layers; l++) {
        cJSON *o = cJSON_CreateObject();
        cli_json_add_int(o, "layer", l);
        json_extreme(o, r, &r->o.h[l + 1], 1);
        json_extreme(cJSON_AddObjectToObject(o, "down_in"), r, &r->o.down_in[l], 0);
        json_extreme(cJSON_AddObjectToObject(o, "down_out"), r, &r->o.down_out[l], 0);
        cJSON_AddItemToArray(layers, o);
    }
    json_stages(root, r);
    cli_json_print(root);
}

/* ---------------------------------------------------------------- picture */

static void draw_residual(tm_canvas *c, tm_box box, const report *r, double *numbers)
{
    int L = r->o.layers, n = L + 1, mark[2 * FOLLOWED], n_mark = 0;
    double *largest = numbers, *median = numbers + n;
    char name[FOLLOWED][64], label[2 * FOLLOWED][32], piece[24];
    const char *labels[2 * FOLLOWED];
    tm_series s[2 + FOLLOWED];
    for (int l = 0; l < n; l++) {
        largest[l] = r->o.h[l].max;
        median[l] = r->o.median[l];
    }
    for (int i = 0; i < r->n; i++) {
        double *h = numbers + (2 + i) * n;
        h[0] = NAN; /* the embedding was not followed */
        for (int l = 0; l < L; l++) h[l + 1] = fabs((double)r->h[i][l]);
        snprintf(name[i], sizeof name[i], "token %d %s, channel %d", r->token[i],
                 report_piece_plain(piece, sizeof piece, r->s, r->ids[r->token[i]]),
                 r->o.stage[i].channel);
        s[2 + i] = (tm_series){name[i], h, tm_series_color[2 + i], 1};
        mark[n_mark] = r->o.stage[i].layer;
        snprintf(label[n_mark], sizeof label[0], "emerges, layer %d", r->o.stage[i].layer);
        n_mark++;
        int gone = dissipation(r, i);
        if (gone < 0) continue;
        mark[n_mark] = gone;
        snprintf(label[n_mark], sizeof label[0], "fades, layer %d", gone);
        n_mark++;
    }
    for (int i = 0; i < n_mark; i++) labels[i] = label[i];
    s[0] = (tm_series){"largest of all", largest, tm_series_color[0], 0};
    s[1] = (tm_series){"median of all", median, tm_series_color[1], 0};
    tm_lines p = {"Residual |H| over depth", "layer (-1: embedding)", "|H|", -1, n, 1, s, 2 + r->n,
                  mark, labels, n_mark};
    tm_plot_lines(c, box, &p);
}

static void draw_down(tm_canvas *c, tm_box box, const report *r, double *numbers)
{
    int L = r->o.layers;
    double *in = numbers, *out = numbers + L;
    for (int l = 0; l < L; l++) {
        in[l] = r->o.down_in[l].max;
        out[l] = r->o.down_out[l].max;
    }
    tm_series s[2] = {{"largest input", in, tm_series_color[3], 1},
                      {"largest output", out, tm_series_color[4], 1}};
    tm_lines p = {"Down projection: who writes the outlier, who takes it away", "layer",
                  "magnitude", 0, L, 1, s, 2, NULL, NULL, 0};
    tm_plot_lines(c, box, &p);
}

static int picture(const report *r, const char *path, kv_error *err)
{
    tm_canvas c = {0};
    size_t n = ((size_t)r->o.layers + 1) * (2 + FOLLOWED);
    double *numbers = calloc(n, sizeof *numbers);
    int code = numbers ? tm_canvas_init(&c, 1200, 1250, err)
                       : kv_fail(err, KV_FAIL_RUN, "not enough memory for the picture");
    if (!code) {
        draw_residual(&c, (tm_box){30, 20, 1140, 740}, r, numbers);
        draw_down(&c, (tm_box){30, 780, 1140, 450}, r, numbers);
        code = tm_canvas_write(&c, path, err);
    }
    tm_canvas_free(&c);
    free(numbers);
    return code;
}

/* ---------------------------------------------------------------- command */

static const char details[] =
    "A stage is a layer where a channel of the residual has just risen, by doubling\n"
    "from layer to layer, to 100 or more and to 300 times the median. Its outlier is\n"
    "followed through depth at the token where it is largest: emergence, stable,\n"
    "dissipation (a write of opposite sign takes half of it or more away), final.";

int cmd_outliers(int argc, char **argv)
{
    const char *png;
    int ctx, status;
    const cli_option options[] = {
        {"--ctx", CLI_INT, &ctx, "N", "(the whole text)", 1, 1 << 20, "only the first N tokens"},
        {"--png", CLI_STRING, &png, "FILE", NULL, 0, 0, "draw magnitudes over depth there"},
        {0}};
    static const char *const examples[] = {
        "kvsink outliers model.gguf --text 'Summer is warm. Winter is cold.'",
        "kvsink outliers model.gguf --file book.txt --ctx 512 --png outliers.png", NULL};
    const cli_command command = {"outliers",
                                 "Find extreme activations, layer by layer, and who writes them.",
                                 "MODEL", CLI_TEXT | CLI_BOS, options, details, examples};
    cli_common common;
    session s;
    kv_error err;
    report r = {0};
    if (!cli_parse(&common, &command, argc, argv, &status)) return status;
    if (session_open(&s, &common, &err)) return cli_fail(&command, &err);
    r.s = &s;
    if (run(&r, ctx, &err) || (png && picture(&r, png, &err))) status = cli_fail(&command, &err);
    else if (common.json) print_json(&r);
    else print_text(&r);
    if (!status && png && !common.json) printf("picture: %s\n", png);
    tm_outliers_free(&r.o);
    for (int i = 0; i < r.n; i++) {
        free(r.h[i]);
        free(r.write[i]);
        free(r.phase[i]);
    }
    free(r.ids);
    session_close(&s);
    return status;
}
