/* Chapter 2's pictures, from its results.
 *
 * life.png      the outlier's channel over depth, at the sinks of the second stage and elsewhere
 * constant.png  how alike different texts are to a layer at a first token, and its small norms
 * cause.png     what setting the outlier to something else costs */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "plot.h"
#include "results.h"

enum { LAYERS = 64 };

static int table(tm_results *r, const char *folder, const char *name, kv_error *err)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return tm_results_read(r, path, err);
}

static int finish(tm_canvas *c, const char *folder, const char *name, kv_error *err)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    int code = tm_canvas_write(c, path, err);
    tm_canvas_free(c);
    return code;
}

/* ------------------------------------------------------------------- life */

static int draw_life(const char *from, const char *to, kv_error *err)
{
    tm_results r = {0};
    tm_canvas c = {0};
    double sinks[LAYERS], others[LAYERS];
    int n = 0, mark[2], marks = 0;
    const char *label[2];
    int code = table(&r, from, "outliers.tsv", err);
    for (char name[64]; !code && n < LAYERS; n++) {
        snprintf(name, sizeof name, "plain/11/%d", n);
        int row = tm_results_row(&r, name);
        if (row < 0) break;
        sinks[n] = fabs(tm_results_number(&r, row, "h"));
        others[n] = fabs(tm_results_number(&r, row, "other_h"));
        const char *phase = tm_results_text(&r, row, "phase");
        if (marks < 2 && (!strcmp(phase, "emergence") || !strcmp(phase, "dissipation"))) {
            mark[marks] = n;
            label[marks++] = *phase == 'e' ? "emergence" : "dissipation";
        }
    }
    const tm_series series[2] = {{"sinks of the second stage", sinks, tm_sink, 1},
                                 {"the largest of other tokens", others, tm_series_color[0], 0}};
    const tm_lines lines = {"|h| in the outlier's channel", "layer", NULL, 0, n, 1, series, 2, mark,
                            label, marks};
    if (!code) code = tm_canvas_init(&c, 1000, 480, err);
    if (!code) tm_plot_lines(&c, (tm_box){20, 20, 960, 440}, &lines);
    if (!code) code = finish(&c, to, "life.png", err);
    tm_results_free(&r);
    return code;
}

/* --------------------------------------------------------------- constant */

static int column(double *y, const tm_results *r, const char *title)
{
    int n = r->rows < LAYERS ? r->rows : LAYERS;
    for (int l = 0; l < n; l++) y[l] = tm_results_number(r, l, title);
    return n;
}

static int draw_constant(const char *from, const char *to, kv_error *err)
{
    static const char *const title[8] = {"x", "k", "v", "x_4th", "k_4th", "v_4th",
                                         "k_norm", "v_norm"};
    tm_results r = {0}, w = {0};
    tm_canvas c = {0};
    double y[8][LAYERS];
    int n = 0, code = table(&r, from, "norm.tsv", err);
    if (!code) code = table(&w, from, "weights.tsv", err);
    for (int i = 0; i < 8 && !code; i++) n = column(y[i], i < 6 ? &r : &w, title[i]);
    const tm_color *color = tm_series_color;
    const tm_series alike[6] = {{"input, 1st", y[0], tm_sink, 1},
                                {"key, 1st", y[1], color[1], 1},
                                {"value, 1st", y[2], color[2], 1},
                                {"input, 4th", y[3], tm_sink, 0},
                                {"key, 4th", y[4], color[1], 0},
                                {"value, 4th", y[5], color[2], 0}};
    const tm_series small[2] = {{"key", y[6], color[1], 1}, {"value", y[7], color[2], 1}};
    const tm_lines left = {"cosine between two texts", "layer", NULL, 0, n, 0, alike, 6, NULL, NULL,
                           0};
    const tm_lines right = {"norm, first / 4th", "layer", NULL, 0, n, 0, small, 2,
                            NULL, NULL, 0};
    if (!code) code = tm_canvas_init(&c, 1200, 480, err);
    if (!code) tm_plot_lines(&c, (tm_box){20, 20, 640, 440}, &left);
    if (!code) tm_plot_lines(&c, (tm_box){700, 20, 480, 440}, &right);
    if (!code) code = finish(&c, to, "constant.png", err);
    tm_results_free(&r);
    tm_results_free(&w);
    return code;
}

/* ------------------------------------------------------------------ cause */

/* Horizontal bars: what was done, on which text, KL. */
static double draw_deed(tm_canvas *c, double y, const tm_results *r, const char *stage,
                        const char *deed, const char *label, tm_color color, double scale)
{
    static const char *const text[4] = {"plain", "technical", "packed", "chat"};
    tm_text(c, 30, y + 34, 10, -1, tm_ink, label);
    for (int t = 0; t < 4; t++, y += 18) {
        char name[96], value[32];
        snprintf(name, sizeof name, "%s/%s/%s", text[t], stage, deed);
        double kl = tm_results_number(r, tm_results_row(r, name), "kl");
        tm_text(c, 335, y + 12, 9, 1, tm_ink, text[t]);
        tm_fill(c, (tm_box){345, y, kl * scale, 13}, color);
        snprintf(value, sizeof value, "%.3g", kl);
        tm_text(c, 352 + kl * scale, y + 12, 9, -1, tm_ink, value);
    }
    return y + 14;
}

static int draw_cause(const char *from, const char *to, kv_error *err)
{
    static const char *const deed[3] = {"zero", "mean", "other-channel"};
    static const char *const label[3] = {"outlier to zero", "outlier to the mean",
                                         "another channel"};
    static const char *const stage[2] = {"2", "11"};
    tm_results r = {0};
    tm_canvas c = {0};
    int code = table(&r, from, "cause.tsv", err);
    if (!code) code = tm_canvas_init(&c, 1000, 670, err);
    double y = 20, scale = 52;
    for (int s = 0; s < 2 && !code; s++) {
        char title[64];
        snprintf(title, sizeof title, "sinks of layer %s: KL from the undisturbed model", stage[s]);
        tm_text(&c, 20, y + 14, 12, -1, tm_ink, title);
        y += 36;
        for (int d = 0; d < 3; d++)
            y = draw_deed(&c, y, &r, stage[s], deed[d], label[d],
                          d == 2 ? tm_series_color[0] : tm_sink, scale);
        y += 18;
    }
    if (!code) code = finish(&c, to, "cause.png", err);
    tm_results_free(&r);
    return code;
}

int main(int argc, char **argv)
{
    kv_error err = {0, ""};
    if (argc != 3) {
        fprintf(stderr, "usage: pictures RESULTS FOLDER\n");
        return 2;
    }
    if (draw_life(argv[1], argv[2], &err) || draw_constant(argv[1], argv[2], &err) ||
        draw_cause(argv[1], argv[2], &err)) {
        fprintf(stderr, "chapter 2's pictures: %s\n", err.text);
        return err.code;
    }
    return 0;
}
