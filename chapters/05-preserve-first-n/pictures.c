/* Chapter 5: pictures, from results that are committed.
 *
 * marks.png     one small text, as it is and with an end-of-text token in front of each passage: what
 *               first:5 keeps, and which tokens are sinks
 * how-many.png  what N tokens buy, at 2, 3 and 4 bits
 * packed.png    the same rules on windows of more and more passages */
#include <math.h>
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
        double y = draw_key(&c, MARGIN + LINE / 2.0) + LINE / 2.0;
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

/* --------------------------------------------------------------- how many */

enum { COUNTS = 8, RIVALS = 2 };

static const int count[COUNTS] = {0, 1, 2, 3, 5, 10, 20, 40};

/* A panel: its axes, and KL with its error for both rules at each count, side by side. */
typedef struct {
    tm_box in;
    double top; /* of the y axis, which begins at `low` */
    double low;
    double kl[RIVALS][COUNTS], error[RIVALS][COUNTS];
} panel;

static double y_of(const panel *p, double kl)
{
    return p->in.y + p->in.h * (1 - (kl - p->low) / (p->top - p->low));
}

static double x_of(const panel *p, int i)
{
    return p->in.x + p->in.w * (i + 0.5) / COUNTS;
}

static void read_panel(panel *p, const tm_results *r, const char *cell)
{
    static const char *const rule[RIVALS] = {"first:%d", "kvsink:%d/all"};
    double least = INFINITY, most = 0;
    for (int k = 0; k < RIVALS; k++)
        for (int i = 0; i < COUNTS; i++) {
            char name[NAME], text[40] = "none";
            if (count[i]) snprintf(text, sizeof text, rule[k], count[i]);
            snprintf(name, sizeof name, "%s/%s", cell, text);
            int row = tm_results_row(r, name);
            p->kl[k][i] = tm_results_number(r, row, "kl");
            p->error[k][i] = tm_results_number(r, row, "kl_error");
            least = fmin(least, p->kl[k][i] - p->error[k][i]);
            most = fmax(most, p->kl[k][i] + p->error[k][i]);
        }
    double step = tm_nice_step(most - least, 6);
    p->low = floor(least / step) * step;
    p->top = ceil(most / step) * step;
}

static void draw_axes(tm_canvas *c, const panel *p, const char *title)
{
    char label[32];
    double bottom = p->in.y + p->in.h, step = tm_nice_step(p->top - p->low, 6);
    tm_text(c, p->in.x, p->in.y - 16, 16, -1, tm_ink, title);
    for (int i = 0; p->low + i * step <= p->top + step / 2; i++) {
        double y = y_of(p, p->low + i * step);
        snprintf(label, sizeof label, "%g", p->low + i * step);
        tm_line(c, p->in.x, y, p->in.x + p->in.w, y, 1, tm_faint);
        tm_text(c, p->in.x - 8, y + TEXT / 2.0, TEXT, 1, tm_ink, label);
    }
    tm_line(c, p->in.x, p->in.y, p->in.x, bottom, 2, tm_ink);
    tm_line(c, p->in.x, bottom, p->in.x + p->in.w, bottom, 2, tm_ink);
    for (int i = 0; i < COUNTS; i++) {
        snprintf(label, sizeof label, "%d", count[i]);
        tm_text(c, x_of(p, i), bottom + 24, TEXT, 0, tm_ink, label);
    }
    tm_text(c, p->in.x + p->in.w / 2, bottom + 50, TEXT, 0, tm_ink, "kept tokens N");
}

static void draw_rivals(tm_canvas *c, const panel *p)
{
    for (int k = 0; k < RIVALS; k++)
        for (int i = 0; i < COUNTS; i++) {
            double x = x_of(p, i) + (i ? 10 * k - 5 : 0), kl = p->kl[k][i], e = p->error[k][i];
            if (!isfinite(kl) || (k && !i)) continue; /* nothing kept is the same for both */
            tm_line(c, x, y_of(p, kl - e), x, y_of(p, kl + e), 1.5, tm_series_color[i ? k + 1 : 0]);
            tm_mark(c, x, y_of(p, kl), 6, i ? k + 1 : 0);
        }
}

static int how_many(const char *results, const char *out, kv_error *err)
{
    static const char *const legend[3] = {"none", "first:N", "kvsink:N/all"};
    static const char *const cell[3] = {"bits/each/k2v2", "bits/each/k3v3", "bits/each/k4v4"};
    static const char *const title[3] = {"2 bits", "3 bits", "4 bits"};
    char path[PATH];
    tm_results r;
    tm_canvas c;
    int code = tm_results_read(&r, path_of(path, results, "how-many.tsv"), err);
    if (code) return code;
    code = tm_canvas_init(&c, WIDE, 460, err);
    if (!code) {
        tm_text_up(&c, MARGIN, 180, TEXT, 0, tm_ink, "KL from 16 bits, nats");
        for (int i = 0; i < 3; i++) {
            panel p = {.in = {100 + i * 350.0, 56, 260, 290}};
            read_panel(&p, &r, cell[i]);
            draw_axes(&c, &p, title[i]);
            draw_rivals(&c, &p);
        }
        tm_plot_legend(&c, 100, 415, WIDE - 200, legend, 3, 0);
        code = tm_canvas_write(&c, path_of(path, out, "how-many.png"), err);
        tm_canvas_free(&c);
    }
    tm_results_free(&r);
    return code;
}

/* ----------------------------------------------------------------- packed */

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
    code = tm_canvas_init(&c, 860, 590, err);
    if (!code) {
        tm_points plot = {"2 bits, packed texts", "passages in a window of 512 tokens", "KL from 16 bits, nats", point,
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
