/* Chapter 1: its pictures, from results/ and from the formulas of the chapter.
 *
 * pictures RESULTS OUT
 *
 * margin.png   what share of a row one key gets whose score is so much above the others' (no data:
 *              kv_softmax draws it)
 * scores.png   estimated scores of sinks and of the rest over the layers, from scores.tsv
 * walk.png     what eight lanes of the sink metric's kernels load at the same moment */
#include <math.h>
#include <stdio.h>

#include "plot.h"
#include "results.h"

enum { MARGINS = 17, LAYERS_MAX = 128 };

static int save(tm_canvas *c, const char *folder, const char *name, kv_error *err)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    int code = tm_canvas_write(c, path, err);
    tm_canvas_free(c);
    return code;
}

/* One key of n is `margin` above all others. */
static double share(int n, int margin)
{
    static float s[4096];
    for (int t = 0; t < n; t++) s[t] = 0;
    s[0] = (float)margin;
    return kv_softmax(s, s, n, NULL) ? NAN : s[0];
}

static int draw_margin(const char *out, kv_error *err)
{
    static const int keys[] = {16, 256, 4096};
    static const char *const name[] = {"16 keys", "256 keys", "4096 keys"};
    double y[3][MARGINS];
    tm_series s[3];
    tm_canvas c;
    for (int i = 0; i < 3; i++) {
        for (int m = 0; m < MARGINS; m++) y[i][m] = share(keys[i], m);
        s[i] = (tm_series){name[i], y[i], tm_series_color[i], 1};
    }
    if (tm_canvas_init(&c, 900, 520, err)) return err->code;
    tm_lines p = {"Share of a row that one key takes", "its score, above that of all others", NULL,
                  0, MARGINS, 0, s, 3, NULL, NULL, 0};
    tm_plot_lines(&c, (tm_box){20, 20, 860, 480}, &p);
    return save(&c, out, "margin.png", err);
}

static int draw_scores(const char *results, const char *out, kv_error *err)
{
    static const char *const column[] = {"first", "later", "rest"};
    static const char *const name[] = {"first token", "other sinks", "the rest"};
    double y[3][LAYERS_MAX];
    tm_series s[3];
    tm_results r;
    tm_canvas c;
    char path[512];
    snprintf(path, sizeof path, "%s/scores.tsv", results);
    if (tm_results_read(&r, path, err)) return err->code;
    int L = r.rows < LAYERS_MAX ? r.rows : LAYERS_MAX;
    for (int i = 0; i < 3; i++) {
        for (int l = 0; l < L; l++) y[i][l] = tm_results_number(&r, l, column[i]);
        s[i] = (tm_series){name[i], y[i], i ? tm_series_color[i == 1] : tm_sink, i < 2};
    }
    int code = tm_canvas_init(&c, 900, 520, err);
    if (!code) {
        tm_lines p = {"Mean score of a key, estimated", "layer", NULL, 0, L, 0, s, 3, NULL, NULL, 0};
        tm_plot_lines(&c, (tm_box){20, 20, 860, 480}, &p);
        code = save(&c, out, "scores.png", err);
    }
    tm_results_free(&r);
    return code;
}

enum { SIDE = 24, LANES = 8, FIRST = 4, STEPS = 9 };

/* The triangle of a small attention matrix, and what the lanes of keys FIRST.. load after STEPS
 * steps: each from its own diagonal on, or all from the first one's. */
static void draw_lanes(tm_canvas *c, double x, const char *title, int own_diagonal)
{
    static float cell[SIDE * SIDE];
    for (int i = 0; i < SIDE; i++)
        for (int k = 0; k < SIDE; k++) cell[i * SIDE + k] = k <= i ? 0.06f : 0;
    for (int lane = 0; lane < LANES; lane++) {
        int k = FIRST + lane, i = (own_diagonal ? k : FIRST) + STEPS;
        cell[i * SIDE + k] = 1;
    }
    tm_heat h = {title, "key", "query", cell, SIDE, SIDE, 1, NULL, 0, 1};
    tm_plot_heat(c, (tm_box){x, 20, 440, 460}, &h);
}

static int draw_walk(const char *out, kv_error *err)
{
    tm_canvas c;
    if (tm_canvas_init(&c, 940, 500, err)) return err->code;
    draw_lanes(&c, 20, "k01", 1);
    draw_lanes(&c, 480, "k02", 0);
    return save(&c, out, "walk.png", err);
}

int main(int argc, char **argv)
{
    kv_error err = {0};
    if (argc != 3) {
        fprintf(stderr, "usage: pictures RESULTS OUT\n");
        return KV_FAIL_USAGE;
    }
    int code = draw_margin(argv[2], &err);
    if (!code) code = draw_scores(argv[1], argv[2], &err);
    if (!code) code = draw_walk(argv[2], &err);
    if (code) fprintf(stderr, "pictures: %s\n", err.text);
    return code;
}
