/* Chapter 5: pictures, from results that are committed.
 *
 * marks.png     one small text, as it is and with an end-of-text token in front of each passage: what
 *               first:5 keeps, and which tokens are sinks
 * how-many.png  what N tokens buy, at 2, 3 and 4 bits
 * packed.png    the same rules on windows of more and more passages */
#include <stdio.h>
#include <string.h>

#include "plot.h"
#include "plot_points.h"
#include "results.h"

enum { WIDE = 1120, MARGIN = 24, TEXT = 12, LINE = 24, FIRST = 5, NAME = 160, PATH = 1024 };

static const char *path_of(char *path, const char *folder, const char *name)
{
    snprintf(path, PATH, "%s/%s", folder, name);
    return path;
}

/* ------------------------------------------------------------------ marks */

static const tm_color early = {250, 214, 160};

/* A token as it stands in the table, 'text', without its quotes; a line break is a space. */
static void plain_piece(char *to, size_t size, const char *cell)
{
    size_t n = strlen(cell);
    snprintf(to, size, "%.*s", n >= 2 ? (int)n - 2 : 0, cell + (n > 0));
    if (!strcmp(to, "\\n") || !strcmp(to, "\\n\\n")) snprintf(to, size, " ");
}

static void draw_piece(tm_canvas *c, double x, double y, double w, const char *text, int position,
                       int is_early, int is_late)
{
    tm_box box = {x - 1, y - TEXT - 4, w, TEXT + 9};
    if (is_late || is_early) tm_fill(c, box, is_late ? tm_sink : early);
    tm_text(c, x, y, TEXT, -1, is_late ? tm_paper : tm_ink, text);
    if (position < FIRST) tm_line(c, x, y + 8, x + w - 4, y + 8, 3, tm_series_color[0]);
}

/* The tokens of one text from y on; returns where they end. c NULL: only measures. */
static double draw_tokens(tm_canvas *c, double y, const tm_results *r, const char *name)
{
    char text[NAME], part[NAME];
    double x = MARGIN;
    for (int i = 0, position = 0; i < r->rows; i++) {
        tm_results_part(part, sizeof part, r->cell[(size_t)i * (size_t)r->cols], 0);
        if (strcmp(part, name) != 0) continue;
        plain_piece(text, sizeof text, tm_results_text(r, i, "piece"));
        double w = (double)strlen(text) * TEXT;
        if (x > MARGIN && x + w > WIDE - MARGIN) {
            x = MARGIN;
            y += LINE;
        }
        if (c)
            draw_piece(c, x, y, w, text, position, tm_results_number(r, i, "stage2") == 1,
                       tm_results_number(r, i, "stage11") == 1);
        x += w;
        position++;
    }
    return y + LINE;
}

/* What the marks mean; returns where it ends. */
static double draw_key(tm_canvas *c, double y)
{
    static const char *const text[3] = {"first:5", "sink from layer 3 on", "sink from layer 12 on"};
    double x = MARGIN;
    for (int i = 0; i < 3; i++) {
        double w = (double)strlen(text[i]) * TEXT;
        draw_piece(c, x, y, w, text[i], i ? FIRST : 0, i == 1, i == 2);
        x += w + 3 * TEXT;
    }
    return y + 1.6 * LINE;
}

static int marks(const char *results, const char *out, kv_error *err)
{
    static const char *const name[2] = {"plain", "packed"};
    static const char *const title[2] = {
        "Five passages one behind the other", "The same, each behind an end-of-text token"};
    char path[PATH];
    tm_results r;
    tm_canvas c;
    int code = tm_results_read(&r, path_of(path, results, "marks.tsv"), err);
    if (code) return code;
    double high = 2 * MARGIN + 2 * LINE;
    for (int i = 0; i < 2; i++) high += draw_tokens(NULL, 0, &r, name[i]) + 2.4 * LINE;
    code = tm_canvas_init(&c, WIDE, (int)high, err);
    if (!code) {
        double y = draw_key(&c, MARGIN + LINE / 2.0);
        for (int i = 0; i < 2; i++) {
            tm_text(&c, MARGIN, y, 14, -1, tm_ink, title[i]);
            tm_line(&c, MARGIN, y + 9, WIDE - MARGIN, y + 9, 1, tm_faint);
            y = draw_tokens(&c, y + 1.6 * LINE, &r, name[i]) + 0.8 * LINE;
        }
        code = tm_canvas_write(&c, path_of(path, out, "marks.png"), err);
        tm_canvas_free(&c);
    }
    tm_results_free(&r);
    return code;
}

/* -------------------------------------------------- one rule beside another */

/* The row GROUP/TEXT/FORMAT/RULE as a point at x, if the table has it. */
static int add_point(tm_point *point, int n, const tm_results *r, const char *cell, const char *rule,
                     double x, int kind)
{
    char name[NAME];
    snprintf(name, sizeof name, "%s/%s", cell, rule);
    int row = tm_results_row(r, name);
    if (row < 0) return n;
    point[n] = (tm_point){x, tm_results_number(r, row, "kl"), tm_results_number(r, row, "kl_error"),
                          kind};
    return n + 1;
}

static int how_many(const char *results, const char *out, kv_error *err)
{
    static const int number[] = {1, 2, 3, 5, 10, 20, 40};
    static const char *const legend[3] = {"none", "first:N", "kvsink:N/all"};
    static const char *const cell[3] = {"bits/each/k2v2", "bits/each/k3v3", "bits/each/k4v4"};
    static const char *const title[3] = {"2 bits", "3 bits", "4 bits"};
    double pane = (WIDE - 4.0 * MARGIN) / 3;
    char path[PATH], rule[NAME];
    tm_results r;
    tm_canvas c;
    int code = tm_results_read(&r, path_of(path, results, "how-many.tsv"), err);
    if (code) return code;
    code = tm_canvas_init(&c, WIDE, 440, err);
    for (int i = 0; i < 3 && !code; i++) {
        tm_point point[15];
        int n = add_point(point, 0, &r, cell[i], "none", 0, 0);
        for (int k = 0; k < 7; k++) {
            snprintf(rule, sizeof rule, "first:%d", number[k]);
            n = add_point(point, n, &r, cell[i], rule, number[k], 1);
            snprintf(rule, sizeof rule, "kvsink:%d/all", number[k]);
            n = add_point(point, n, &r, cell[i], rule, number[k], 2);
        }
        tm_points plot = {title[i], "kept tokens N", i ? NULL : "KL from 16 bits, nats", point, n,
                          NULL, 0};
        tm_plot_points(&c, (tm_box){MARGIN + i * (pane + MARGIN), MARGIN, pane, 350}, &plot);
    }
    if (!code) {
        tm_plot_legend(&c, 3 * MARGIN, 385, WIDE - 6 * MARGIN, legend, 3, 0);
        code = tm_canvas_write(&c, path_of(path, out, "how-many.png"), err);
        tm_canvas_free(&c);
    }
    tm_results_free(&r);
    return code;
}

static int packed(const char *results, const char *out, kv_error *err)
{
    enum { RULES = 6, TEXTS = 4 };
    static const char *const rule[RULES] = {"none",           "first:5",           "kvsink:5@11/all",
                                            "kvsink:20@11/all", "kvsink:auto@11/all", "kvsink:best"};
    static const char *const text[TEXTS] = {"packed/two/k2v2", "packed/five/k2v2",
                                            "packed/nine/k2v2", "packed/seventeen/k2v2"};
    static const int passages[TEXTS] = {2, 5, 9, 17};
    char path[PATH];
    tm_point point[RULES * TEXTS];
    tm_results r;
    tm_canvas c;
    int n = 0;
    int code = tm_results_read(&r, path_of(path, results, "../../06-kvsink/results/packed.tsv"), err);
    if (code) return code;
    for (int t = 0; t < TEXTS; t++)
        for (int k = 0; k < RULES; k++)
            n = add_point(point, n, &r, text[t], rule[k], passages[t], k);
    code = tm_canvas_init(&c, 860, 560, err);
    if (!code) {
        tm_points plot = {NULL, "passages in a window of 512 tokens", "KL from 16 bits, nats", point,
                          n, NULL, 0};
        tm_plot_points(&c, (tm_box){MARGIN, MARGIN, 860 - 2 * MARGIN, 450}, &plot);
        tm_plot_legend(&c, 3 * MARGIN, 488, 860 - 6 * MARGIN, rule, RULES, 0);
        code = tm_canvas_write(&c, path_of(path, out, "packed.png"), err);
        tm_canvas_free(&c);
    }
    tm_results_free(&r);
    return code;
}

int main(int argc, char **argv)
{
    kv_error err = {0, ""};
    if (argc != 3) {
        fprintf(stderr, "usage: %s RESULTS OUT\n", argv[0]);
        return 2;
    }
    if (marks(argv[1], argv[2], &err) || how_many(argv[1], argv[2], &err) ||
        packed(argv[1], argv[2], &err)) {
        fprintf(stderr, "pictures of chapter 5: %s\n", err.text);
        return 1;
    }
    return 0;
}
