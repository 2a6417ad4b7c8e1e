/* Chapter 6's pictures: pictures RESULTS OUT draws, from the tables in RESULTS,
 *
 *   recall.png    which sinks of a layer the rules keep (layers.tsv)
 *   stages.png    what prediction reads: |H[t,c]| after two layers, token by token (kept.tsv)
 *   kept.png      a short text with the kept tokens of four rules on coloured ground (kept.tsv)
 *   forest.png    the rules less the first five tokens, with their intervals (rules.tsv)
 *   passages.png  more and more sinks in a window (packed.tsv)
 *
 * Plots of plot.h have axes of whole numbers or of points; these have none such, so they place
 * things by a small frame of their own. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "plot.h"
#include "results.h"

enum { SMALL = 12, TEXT = 14, TITLE = 18 };
static const tm_color ground = {255, 214, 201}; /* behind the text of a kept token */

typedef struct {
    const char *out;
    tm_results kept, rules, packed, layers;
} tables;

/* ------------------------------------------------------------------- frame */

/* Where data coordinates lie on the canvas; y may be logarithmic. */
typedef struct {
    tm_box in;
    double x0, x1, y0, y1;
    int log_y;
} frame;

static double px(const frame *f, double x)
{
    return f->in.x + (x - f->x0) / (f->x1 - f->x0) * f->in.w;
}

static double py(const frame *f, double y)
{
    double low = f->y0, high = f->y1;
    if (f->log_y) y = log(y), low = log(low), high = log(high);
    return f->in.y + f->in.h - (y - low) / (high - low) * f->in.h;
}

static void y_tick(tm_canvas *c, const frame *f, double y, const char *format)
{
    char text[32];
    snprintf(text, sizeof text, format, y);
    tm_line(c, f->in.x, py(f, y), f->in.x + f->in.w, py(f, y), 1, tm_faint);
    tm_text(c, f->in.x - 8, py(f, y) + 5, TEXT, 1, tm_ink, text);
}

static void outline(tm_canvas *c, const frame *f)
{
    double bottom = f->in.y + f->in.h;
    tm_line(c, f->in.x, f->in.y, f->in.x, bottom, 1.5, tm_ink);
    tm_line(c, f->in.x, bottom, f->in.x + f->in.w, bottom, 1.5, tm_ink);
}

static int finish(tm_canvas *c, const tables *t, const char *name, int code, kv_error *err)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s", t->out, name);
    if (!code) code = tm_canvas_write(c, path, err);
    tm_canvas_free(c);
    return code;
}

/* ------------------------------------------------------------------ stages */

/* The token of a row as it is drawn: special ones get a short name. */
static const char *piece(const tm_results *r, int row)
{
    const char *text = tm_results_text(r, row, "token");
    return strncmp(text, "<|", 2) == 0 ? " [end]" : text;
}

/* One stage's magnitudes as stems on a logarithmic axis; what passes the threshold is named. */
static void draw_stage(tm_canvas *c, double top, const tm_results *r, const char *column,
                       double threshold)
{
    frame f = {{90, top + 40, 1090, 250}, -1.5, r->rows + 0.5, 10, 100000, 1};
    char title[64];
    snprintf(title, sizeof title, "after layer %s: |H[t, 507]|", column + 1);
    tm_text(c, 20, top + 18, TITLE, -1, tm_ink, title);
    for (double y = 10; y <= 100000; y *= 10) y_tick(c, &f, y, "%.0f");
    outline(c, &f);
    for (int t = 0; t < r->rows; t++) {
        double h = fabs(tm_results_number(r, t, column)), x = px(&f, t);
        tm_color color = h >= threshold ? tm_sink : tm_series_color[0];
        tm_line(c, x, py(&f, 10), x, py(&f, h), 3, color);
        tm_disc(c, x, py(&f, h), 4, color);
        if (h >= threshold) /* the first token's name above those of its neighbours */
            tm_text(c, x, py(&f, h) - (t ? 10 : 28), SMALL, t ? 0 : -1, tm_ink, piece(r, t) + 1);
        if (t % 20 == 0) {
            char number[16];
            snprintf(number, sizeof number, "%d", t);
            tm_text(c, x, f.in.y + f.in.h + 20, TEXT, 0, tm_ink, number);
        }
    }
    tm_line(c, f.in.x, py(&f, threshold), f.in.x + f.in.w, py(&f, threshold), 1.5, tm_sink);
    tm_text(c, f.in.x + f.in.w, py(&f, threshold) - 6, SMALL, 1, tm_sink,
            "threshold of the profile");
    tm_text(c, f.in.x + f.in.w / 2, f.in.y + f.in.h + 44, TEXT, 0, tm_ink, "position");
}

/* The threshold of the stage at a layer, from the lines of the profile. */
static int read_threshold(double *threshold, const char *results, int layer, kv_error *err)
{
    char path[512], line[256];
    int at;
    snprintf(path, sizeof path, "%s/profile.txt", results);
    FILE *f = fopen(path, "r");
    if (!f) return kv_fail(err, KV_FAIL_RUN, "%s: cannot be opened", path);
    *threshold = 0;
    while (fgets(line, sizeof line, f)) {
        double value;
        if (sscanf(line, "stage %d %*d %*s %*f %*f %lf", &at, &value) == 2 && at == layer)
            *threshold = value;
    }
    fclose(f);
    return *threshold > 0 ? KV_OK
                          : kv_fail(err, KV_FAIL_RUN, "%s: no stage at layer %d", path, layer);
}

static int picture_stages(const tables *t, const char *results, kv_error *err)
{
    tm_canvas c = {0};
    double early, late;
    int code = read_threshold(&early, results, 2, err);
    if (!code) code = read_threshold(&late, results, 11, err);
    if (!code) code = tm_canvas_init(&c, 1200, 690, err);
    if (!code) {
        draw_stage(&c, 10, &t->kept, "h2", early);
        draw_stage(&c, 350, &t->kept, "h11", late);
    }
    return finish(&c, t, "stages.png", code, err);
}

/* -------------------------------------------------------------------- kept */

/* The text in a column; tokens that the rule keeps stand on coloured ground. */
static void draw_text(tm_canvas *c, tm_box box, const tm_results *r, const char *rule,
                      const char *title)
{
    double x = box.x, y = box.y + 56;
    tm_text(c, box.x, box.y + 18, TITLE, -1, tm_ink, title);
    for (int t = 0; t < r->rows; t++) {
        const char *text = piece(r, t);
        int begins = strcmp(text, " [end]") == 0;
        double w = tm_text_width(TEXT, text);
        if ((begins && t > 0) || (text[0] == ' ' && x + w > box.x + box.w - 12))
            x = box.x, y += begins ? 34 : 26;
        if (x == box.x && text[0] == ' ') text++, w = tm_text_width(TEXT, text);
        double blank = text[0] == ' ' ? tm_text_width(TEXT, " ") : 0;
        if (tm_results_number(r, t, rule) > 0)
            tm_fill(c, (tm_box){x + blank - 3, y - TEXT - 4, w - blank + 6, TEXT + 10}, ground);
        tm_text(c, x, y, TEXT, -1, tm_ink, text);
        x += w + (begins ? tm_text_width(TEXT, " ") : 0);
    }
}

static int picture_kept(const tables *t, kv_error *err)
{
    static const char *const rule[] = {"first:5", "kvsink:5@2", "kvsink:5@11", "kvsink:best"};
    static const char *const title[] = {"first:5", "kvsink:5@2", "kvsink:5 (that is, @11)",
                                        "kvsink:best"};
    tm_canvas c = {0};
    int code = tm_canvas_init(&c, 1200, 940, err);
    for (int i = 0; i < 4 && !code; i++)
        draw_text(&c, (tm_box){20 + i % 2 * 600, 16 + i / 2 * 470, 560, 400}, &t->kept, rule[i],
                  title[i]);
    return finish(&c, t, "kept.png", code, err);
}

/* ------------------------------------------------------------------ forest */

typedef struct {
    const char *group, *rule;
} entry;

/* NULL: a little room. */
static const entry entries[] = {
    {"published", "none"}, {"published", "random:5:1"}, {NULL, NULL},
    {"published", "first:1"}, {"published", "first:20"}, {"published", "ids:learned"},
    {NULL, NULL},
    {"published", "kvsink:5@2"}, {"published", "kvsink:5@11"}, {"published", "kvsink:5@each"},
    {"published", "kvsink:5@join"}, {NULL, NULL},
    {"all-layers", "kvsink:5@2/all"}, {"all-layers", "kvsink:5@11/all"},
    {"all-layers", "kvsink:5@each/all"}, {"all-layers", "kvsink:5@join/all"}, {NULL, NULL},
    {"published", "rotatekv"}, {"published", "kvsink:best"}};
enum { ENTRIES = sizeof entries / sizeof *entries };

static void draw_interval(tm_canvas *c, const frame *f, const tm_results *r, const entry *e,
                          const char *text, double y)
{
    char name[128], rows[32];
    snprintf(name, sizeof name, "%s/%s/k2v2/%s", e->group, text, e->rule);
    int row = tm_results_row(r, name);
    double d = tm_results_number(r, row, "dkl"), low = tm_results_number(r, row, "dkl_low");
    double high = tm_results_number(r, row, "dkl_high");
    if (!isfinite(d)) return;
    tm_color color = low > 0 ? tm_sink : high < 0 ? tm_series_color[2] : tm_series_color[0];
    tm_line(c, px(f, low), y, px(f, high), y, 3, color);
    tm_disc(c, px(f, d), y, 6, color);
    snprintf(rows, sizeof rows, "%.3g", tm_results_number(r, row, "kept"));
    tm_text(c, f->in.x + f->in.w + 44, y + 5, SMALL, 1, tm_ink, rows);
}

static void draw_panel(tm_canvas *c, double x, const tm_results *r, const char *text, int rows)
{
    frame f = {{x, 60, 230, rows * 26}, -0.3, 0.4, 0, rows, 0};
    double bottom = f.in.y + f.in.h;
    tm_text(c, x, 30, TITLE, -1, tm_ink, text);
    tm_text(c, x + 274, 50, SMALL, 1, tm_ink, "rows");
    for (int i = -3; i <= 4; i++) {
        char label[16];
        snprintf(label, sizeof label, "%+.1f", i / 10.0);
        tm_line(c, px(&f, i / 10.0), f.in.y, px(&f, i / 10.0), bottom, i ? 1 : 2,
                i ? tm_faint : tm_ink);
        if (i % 2 == 0) tm_text(c, px(&f, i / 10.0), bottom + 22, SMALL, 0, tm_ink,
                                i ? label : "0");
    }
    double y = f.in.y + 13;
    for (int i = 0; i < ENTRIES; i++) {
        if (entries[i].rule) draw_interval(c, &f, r, &entries[i], text, y);
        y += entries[i].rule ? 26 : 13;
    }
}

static int picture_forest(const tables *t, kv_error *err)
{
    static const char *const text[] = {"plain", "packed", "chat"};
    tm_canvas c = {0};
    double half = 0, y = 73;
    for (int i = 0; i < ENTRIES; i++) half += entries[i].rule ? 2 : 1;
    int rows = (int)(half / 2 + 0.5), code = tm_canvas_init(&c, 1200, 60 + rows * 26 + 70, err);
    for (int i = 0; i < ENTRIES && !code; i++) {
        if (entries[i].rule) tm_text(&c, 248, y + 5, TEXT, 1, tm_ink, entries[i].rule);
        y += entries[i].rule ? 26 : 13;
    }
    for (int i = 0; i < 3 && !code; i++) draw_panel(&c, 264 + i * 316, &t->rules, text[i], rows);
    if (!code) tm_text(&c, 700, 60 + rows * 26 + 54, TEXT, 0, tm_ink,
                       "KL less that of first:5, nats (left: better)");
    return finish(&c, t, "forest.png", code, err);
}

/* ---------------------------------------------------------------- passages */

/* Returns where the line ends. */
static double draw_line(tm_canvas *c, const frame *f, const tm_results *r, const char *rule,
                        int color)
{
    static const char *const text[] = {"two", "five", "nine", "seventeen"};
    static const double passages[] = {2, 5, 9, 17};
    double before_x = 0, before_y = 0, d = 0;
    for (int i = 0; i < 4; i++) {
        char name[128];
        snprintf(name, sizeof name, "packed/%s/k2v2/%s", text[i], rule);
        int row = tm_results_row(r, name);
        double x = px(f, passages[i]) + 3 * color - 6;
        double low = tm_results_number(r, row, "dkl_low");
        double high = tm_results_number(r, row, "dkl_high");
        d = tm_results_number(r, row, "dkl");
        if (!isfinite(d)) continue;
        if (i) tm_line(c, before_x, before_y, x, py(f, d), 2, tm_series_color[color]);
        tm_line(c, x, py(f, low), x, py(f, high), 1.5, tm_series_color[color]);
        tm_disc(c, x, py(f, d), 5, tm_series_color[color]);
        before_x = x, before_y = py(f, d);
    }
    return before_y;
}

static int picture_passages(const tables *t, kv_error *err)
{
    static const char *const rule[] = {"kvsink:5@11/all", "kvsink:auto@11/all", "kvsink:20@11/all",
                                       "kvsink:best"};
    static const int passages[] = {2, 5, 9, 17};
    frame f = {{90, 50, 850, 420}, 1, 18, -0.5, 0.1, 0};
    tm_canvas c = {0};
    double end, above = 0;
    int code = tm_canvas_init(&c, 1200, 540, err);
    for (int i = -5; i <= 1 && !code; i++) y_tick(&c, &f, i / 10.0, i ? "%+.1f" : "%.0f");
    if (!code) {
        outline(&c, &f);
        tm_line(&c, f.in.x, py(&f, 0), f.in.x + f.in.w, py(&f, 0), 2, tm_ink);
        tm_text(&c, f.in.x + f.in.w + 12, py(&f, 0) + 5, TEXT, -1, tm_ink, "first:5");
        tm_text(&c, 20, 28, TITLE, -1, tm_ink, "KL less that of first:5, nats");
        tm_text(&c, f.in.x + f.in.w / 2, 528, TEXT, 0, tm_ink, "passages in a window");
    }
    for (int i = 0; i < 4 && !code; i++) {
        char number[16];
        snprintf(number, sizeof number, "%d", passages[i]);
        tm_text(&c, px(&f, passages[i]), 494, TEXT, 0, tm_ink, number);
        end = draw_line(&c, &f, &t->packed, rule[i], i);
        above = fmax(end, above + 20); /* names that would touch move down */
        tm_text(&c, f.in.x + f.in.w + 12, above + 5, TEXT, -1, tm_series_color[i], rule[i]);
    }
    return finish(&c, t, "passages.png", code, err);
}

/* ------------------------------------------------------------------ recall */

enum { LAYERS = 30, RULES = 3 };

static void draw_recall(tm_canvas *c, double x, const tm_results *r, const char *text,
                        const char *title)
{
    static const char *const rule[RULES] = {"first:5", "kvsink:5@11/all", "kvsink:5@each/all"};
    double y[RULES][LAYERS];
    tm_series series[RULES];
    for (int i = 0; i < RULES; i++) {
        for (int l = 0; l < LAYERS; l++) {
            char row[64], column[64];
            snprintf(row, sizeof row, "%s/0.1/%d", text, l);
            snprintf(column, sizeof column, "r:%s", rule[i]);
            y[i][l] = tm_results_number(r, tm_results_row(r, row), column);
            y[i][l] += 0.02 * (1 - i); /* lines that would hide each other */
        }
        series[i] = (tm_series){rule[i], y[i], tm_series_color[i], 1};
    }
    tm_lines p = {title, "layer", "recall", 0, LAYERS, 0, series, RULES,
                  NULL, NULL, 0};
    tm_plot_lines(c, (tm_box){x, 10, 580, 400}, &p);
}

static int picture_recall(const tables *t, kv_error *err)
{
    tm_canvas c = {0};
    int code = tm_canvas_init(&c, 1200, 420, err);
    if (!code) {
        draw_recall(&c, 10, &t->layers, "plain", "plain");
        draw_recall(&c, 610, &t->layers, "five", "packed");
    }
    return finish(&c, t, "recall.png", code, err);
}

/* -------------------------------------------------------------------- main */

static int read_table(tm_results *r, const char *folder, const char *name, kv_error *err)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return tm_results_read(r, path, err);
}

int main(int argc, char **argv)
{
    tables t = {0};
    kv_error err = {0};
    if (argc != 3) {
        fprintf(stderr, "usage: %s RESULTS OUT\n", argv[0]);
        return 2;
    }
    t.out = argv[2];
    if (read_table(&t.kept, argv[1], "kept.tsv", &err) ||
        read_table(&t.rules, argv[1], "rules.tsv", &err) ||
        read_table(&t.packed, argv[1], "packed.tsv", &err) ||
        read_table(&t.layers, argv[1], "layers.tsv", &err) ||
        picture_stages(&t, argv[1], &err) || picture_kept(&t, &err) || picture_forest(&t, &err) ||
        picture_passages(&t, &err) || picture_recall(&t, &err)) {
        fprintf(stderr, "%s: %s\n", argv[0], err.text);
        return 1;
    }
    tm_results_free(&t.kept);
    tm_results_free(&t.rules);
    tm_results_free(&t.packed);
    tm_results_free(&t.layers);
    return 0;
}
