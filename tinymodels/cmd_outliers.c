/* kvsink outliers: where in depth the residual becomes extreme, who writes it and who takes it
 * away. */
#include <stdlib.h>
#include <string.h>

#include "commands.h"
#include "outliers_report.h"

static const char *const phase_name[] = {"initial", "emergence", "stable", "dissipation", "final"};


/* ------------------------------------------------------------------- text */

static double ratio(const kv_extreme *e)
{
    return e->median > 0 ? (double)e->max / (double)e->median : 0;
}

static void extreme_cells(cli_table *t, const outliers_report *r, const kv_extreme *e)
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

static void print_table(const outliers_report *r)
{
    static const char *const head[] = {"layer", "max |H|", "median", "ratio", "token", "",
                                       "channel", "down in", "at", "down out", "at"};
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

static void print_text(const outliers_report *r)
{
    char piece[32];
    printf("%d tokens, %d layers, width %d. H: the residual after each layer; down: input and"
           " output of the\ndown projection, the largest and where it is (token:channel).\n\n", r->T,
           r->o.layers, r->o.width);
    print_table(r);
    printf("\n");
    if (r->o.n_stages == 0)
        printf("No emergence stage in this text: no channel rises to 300 times the median%s.\n",
               r->o.weak ? "" : " and to 100");
    for (int i = 0; i < r->n; i++) {
        const kv_stage *s = &r->o.stage[i];
        int gone = outliers_dissipation(r, i);
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

static void json_extreme(cJSON *o, const outliers_report *r, const kv_extreme *e, int with_piece)
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

static void json_stages(cJSON *root, const outliers_report *r)
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

static void print_json(const outliers_report *r)
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

/* ---------------------------------------------------------------- command */

static const char details[] =
    "A stage is a layer where a channel of the residual has just risen, by doubling\n"
    "from layer to layer, to 100 or more and to 300 times the median. Its outlier is\n"
    "followed through depth at the token where it is largest: emergence, stable,\n"
    "dissipation (a write of opposite sign takes half of it or more away), final.";

int cmd_outliers(int argc, char **argv)
{
    const char *png;
    int ctx, status, T, *ids = NULL;
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
    outliers_report r = {0};
    if (!cli_parse(&common, &command, argc, argv, &status)) return status;
    if (session_open(&s, &common, &err)) return cli_fail(&command, &err);
    if (session_window(&ids, &T, &s, ctx, &err) || outliers_report_run(&r, &s, ids, T, &err) ||
        (png && outliers_picture(&r, png, &err)))
        status = cli_fail(&command, &err);
    else if (common.json) print_json(&r);
    else print_text(&r);
    if (!status && png && !common.json) printf("picture: %s\n", png);
    outliers_report_free(&r);
    free(ids);
    session_close(&s);
    return status;
}
