/* Following outliers through depth, and the picture that outliers_report.h promises. */
#include "outliers_report.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "plot.h"

/* Runs again, with probes at all layers on one stage's channel, and follows the stage's token. */
static int follow(outliers_report *r, int i, kv_error *err)
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

int outliers_dissipation(const outliers_report *r, int i)
{
    for (int l = 0; l < r->o.layers; l++)
        if (r->phase[i][l] == KV_DISSIPATION) return l;
    return -1;
}

int outliers_report_run(outliers_report *r, const session *s, const int *ids, int T, kv_error *err)
{
    tm_engine e = report_engine(s);
    memset(r, 0, sizeof *r);
    r->s = s;
    r->ids = ids;
    r->T = T;
    int code = tm_outliers_run(&r->o, &e, ids, T, err);
    int stages = r->o.n_stages < OUTLIERS_FOLLOWED ? r->o.n_stages : OUTLIERS_FOLLOWED;
    while (!code && r->n < stages) code = follow(r, r->n++, err);
    if (code) outliers_report_free(r);
    return code;
}

void outliers_report_free(outliers_report *r)
{
    tm_outliers_free(&r->o);
    for (int i = 0; i < r->n; i++) {
        free(r->h[i]);
        free(r->write[i]);
        free(r->phase[i]);
    }
    memset(r, 0, sizeof *r);
}

/* ---------------------------------------------------------------- picture */

/* Vertical lines of the stages, each layer once for what begins there and once for what ends. */
typedef struct {
    int layer[2 * OUTLIERS_FOLLOWED], n;
    char text[2 * OUTLIERS_FOLLOWED][32];
    const char *label[2 * OUTLIERS_FOLLOWED];
} turns;

static void add_turn(turns *t, int layer, const char *what)
{
    char *text = t->text[t->n];
    if (layer < 0) return;
    snprintf(text, sizeof t->text[0], "%s, layer %d", what, layer);
    for (int i = 0; i < t->n; i++)
        if (strcmp(t->label[i], text) == 0) return;
    t->layer[t->n] = layer;
    t->label[t->n++] = text;
}

/* Has the token and channel of a followed stage been followed before, for an earlier stage? */
static int seen_before(const outliers_report *r, int i)
{
    for (int j = 0; j < i; j++)
        if (r->token[j] == r->token[i] && r->o.stage[j].channel == r->o.stage[i].channel) return 1;
    return 0;
}

static void draw_residual(tm_canvas *c, tm_box box, const outliers_report *r, double *numbers)
{
    int L = r->o.layers, n = L + 1, lines = 2;
    double *largest = numbers, *median = numbers + n;
    char name[OUTLIERS_FOLLOWED][64], piece[24];
    turns turn = {.n = 0};
    tm_series s[2 + OUTLIERS_FOLLOWED] = {{"largest of all", largest, tm_series_color[0], 0},
                                          {"median of all", median, tm_series_color[1], 0}};
    for (int l = 0; l < n; l++) {
        largest[l] = r->o.h[l].max;
        median[l] = r->o.median[l];
    }
    for (int i = 0; i < r->n; i++) {
        double *h = numbers + (2 + i) * n;
        add_turn(&turn, r->o.stage[i].layer, "emerges");
        add_turn(&turn, outliers_dissipation(r, i), "fades");
        if (seen_before(r, i)) continue;
        h[0] = NAN; /* the embedding was not followed */
        for (int l = 0; l < L; l++) h[l + 1] = fabs((double)r->h[i][l]);
        snprintf(name[i], sizeof name[i], "token %d %s, channel %d", r->token[i],
                 report_piece_plain(piece, sizeof piece, r->s, r->ids[r->token[i]]),
                 r->o.stage[i].channel);
        s[lines] = (tm_series){name[i], h, tm_series_color[lines], 1};
        lines++;
    }
    tm_lines p = {"Residual |H| over depth", "layer (-1: embedding)", "|H|", -1, n, 1, s, lines,
                  turn.layer, turn.label, turn.n};
    tm_plot_lines(c, box, &p);
}

static void draw_down(tm_canvas *c, tm_box box, const outliers_report *r, double *numbers)
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

int outliers_picture(const outliers_report *r, const char *path, kv_error *err)
{
    tm_canvas c = {0};
    size_t n = ((size_t)r->o.layers + 1) * (2 + OUTLIERS_FOLLOWED);
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
