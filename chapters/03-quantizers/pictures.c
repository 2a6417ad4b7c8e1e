/* Chapter 3: its pictures, from results/.
 *
 * pictures RESULTS OUT
 *
 * group.png     a group with a sink, and the levels that it gets with and without it (numbers.tsv)
 * ratios.png    by how much sinks widen groups (ratios.tsv)
 * apart.png     bits against KL: tokens kept, single numbers apart, or both (outliers.tsv)
 * formats.png   bits against KL of all formats: nothing kept (disc) and the best rule (dot); from
 *               formats.tsv */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "plot_points.h"
#include "results.h"

static int open_table(tm_results *r, const char *folder, const char *name, kv_error *err)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return tm_results_read(r, path, err);
}

static int save(tm_canvas *c, const char *folder, const char *name, kv_error *err)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    int code = tm_canvas_write(c, path, err);
    tm_canvas_free(c);
    return code;
}

/* ---- a group and its levels ----------------------------------------------------------------- */

enum { BINS = 80 };
static const tm_color grey = {150, 158, 168};

typedef struct {
    double low, width;            /* of the axis */
    int count[BINS], sinks[BINS]; /* others; sinks */
    int most;
} histogram;

static void count_numbers(histogram *h, const tm_results *r)
{
    double low = INFINITY, high = -INFINITY;
    for (int i = 0; i < r->rows; i++) {
        low = fmin(low, tm_results_number(r, i, "key"));
        high = fmax(high, tm_results_number(r, i, "key"));
    }
    memset(h, 0, sizeof *h);
    h->low = floor(low - 0.5);
    h->width = ceil(high + 0.5) - h->low;
    for (int i = 0; i < r->rows; i++) {
        int bin = (int)((tm_results_number(r, i, "key") - h->low) / h->width * BINS);
        int *count = tm_results_number(r, i, "sink") > 0 ? h->sinks : h->count;
        count[bin]++;
        h->most = count[bin] > h->most ? count[bin] : h->most;
    }
}

static double place(const histogram *h, tm_box box, double x)
{
    return box.x + (x - h->low) / h->width * box.w;
}

/* The four levels of a group of two bits: from its extremes, with or without its sinks. */
static void draw_levels(tm_canvas *c, tm_box box, const histogram *h, const tm_results *r,
                        int with_sinks)
{
    double low = INFINITY, high = -INFINITY;
    for (int i = 0; i < r->rows; i++) {
        if (tm_results_number(r, i, "sink") > 0 && !with_sinks) continue;
        low = fmin(low, tm_results_number(r, i, "key"));
        high = fmax(high, tm_results_number(r, i, "key"));
    }
    for (int q = 0; q < 4; q++) {
        double x = place(h, box, low + q * (high - low) / 3);
        char text[2] = {(char)('0' + q), 0};
        tm_line(c, x, box.y, x, box.y + box.h, 3, tm_series_color[0]);
        tm_text(c, x, box.y - 8, 13, 0, tm_series_color[0], text);
    }
}

static void draw_histogram(tm_canvas *c, tm_box box, const histogram *h, const tm_results *r,
                           const char *title, int with_sinks)
{
    double step = box.w / BINS;
    tm_text(c, box.x, box.y - 36, 16, -1, tm_ink, title);
    for (int i = 0; i < BINS; i++) {
        double tall = box.h * 0.9 / h->most * h->count[i];
        double red = box.h * 0.9 / h->most * h->sinks[i];
        tm_fill(c, (tm_box){box.x + i * step + 1, box.y + box.h - tall, step - 2, tall}, grey);
        tm_fill(c, (tm_box){box.x + i * step, box.y + box.h - red, step, red}, tm_sink);
    }
    draw_levels(c, box, h, r, with_sinks);
    tm_line(c, box.x, box.y + box.h, box.x + box.w, box.y + box.h, 2, tm_ink);
    for (double x = h->low; x <= h->low + h->width; x += 2) {
        char text[16];
        snprintf(text, sizeof text, "%.0f", x);
        tm_text(c, place(h, box, x), box.y + box.h + 22, 12, 0, tm_ink, text);
    }
}

static int draw_group(const char *results, const char *out, kv_error *err)
{
    tm_results r;
    tm_canvas c;
    histogram h;
    if (open_table(&r, results, "numbers.tsv", err)) return err->code;
    int code = tm_canvas_init(&c, 900, 560, err);
    if (!code) {
        count_numbers(&h, &r);
        draw_histogram(&c, (tm_box){30, 70, 840, 165}, &h, &r, "The sink (red) in the range", 1);
        draw_histogram(&c, (tm_box){30, 340, 840, 165}, &h, &r, "The sink left out", 0);
        code = save(&c, out, "group.png", err);
    }
    tm_results_free(&r);
    return code;
}

/* ---- how much wider ------------------------------------------------------------------------- */

static void draw_bars(tm_canvas *c, tm_box box, const tm_results *r)
{
    double most = 1, step = box.w / r->rows;
    for (int i = 0; i < r->rows; i++) most = fmax(most, tm_results_number(r, i, "groups"));
    for (int i = 0; i < r->rows; i++) {
        char text[32];
        double n = tm_results_number(r, i, "groups"), tall = box.h / most * n;
        double middle = box.x + (i + 0.5) * step, base = box.y + box.h;
        tm_fill(c, (tm_box){box.x + i * step + 12, base - tall, step - 24, tall}, tm_sink);
        snprintf(text, sizeof text, "%.0f", n);
        tm_text(c, middle, base - tall - 8, 13, 0, tm_ink, text);
        snprintf(text, sizeof text, "%s to %s", tm_results_text(r, i, "from"),
                 tm_results_text(r, i, "to"));
        tm_text(c, middle, base + 24, 12, 0, tm_ink, text);
    }
    tm_line(c, box.x, box.y + box.h, box.x + box.w, box.y + box.h, 2, tm_ink);
}

static int draw_ratios(const char *results, const char *out, kv_error *err)
{
    tm_results r;
    tm_canvas c;
    if (open_table(&r, results, "ratios.tsv", err)) return err->code;
    int code = tm_canvas_init(&c, 900, 420, err);
    if (!code) {
        tm_text(&c, 30, 36, 16, -1, tm_ink, "Groups whose range a sink widens");
        draw_bars(&c, (tm_box){30, 80, 840, 260}, &r);
        tm_text(&c, 450, 400, 13, 0, tm_ink, "width with the sink, in widths without");
        code = save(&c, out, "ratios.png", err);
    }
    tm_results_free(&r);
    return code;
}

/* ---- bits against KL ------------------------------------------------------------------------ */

enum { RULES = 4, POINTS = 64, NAME = 24 };
static const char *const rules[RULES] = {"none", "first:5", "kvsink:5", "kvsink:best"};

typedef struct {
    tm_point point[POINTS];
    tm_point_label label[POINTS];
    char name[POINTS][NAME];
    int n, labels;
} cloud;

static int rule_of(const char *row)
{
    char rule[NAME];
    tm_results_part(rule, sizeof rule, row, 3);
    for (int k = 0; k < RULES; k++)
        if (!strcmp(rule, rules[k])) return k;
    return -1;
}

/* Rows GROUP/text/FORMAT/RULE of one text; a format is named above the place where nothing is kept.
 * One per mille of so few numbers is none, so out0.1 is out0. */
static void gather(cloud *to, const tm_results *r, const char *text)
{
    char part[NAME];
    to->n = to->labels = 0;
    for (int i = 0; i < r->rows && to->n < POINTS; i++) {
        const char *row = r->cell[i * r->cols];
        int rule = rule_of(row);
        if (rule < 0 || strcmp(tm_results_part(part, sizeof part, row, 1), text)) continue;
        if (!strcmp(tm_results_part(part, sizeof part, row, 2), "out0.1")) continue;
        double bits = tm_results_number(r, i, "bits");
        to->point[to->n++] = (tm_point){bits, tm_results_number(r, i, "kl"),
                                        tm_results_number(r, i, "kl_error"), rule};
        if (rule > 0) continue;
        memcpy(to->name[to->labels], part, sizeof part);
        to->label[to->labels] = (tm_point_label){bits, to->name[to->labels]};
        to->labels++;
    }
}

static int draw_apart(const char *results, const char *out, kv_error *err)
{
    static const char *const text[] = {"plain", "packed"};
    static const char *const title[] = {"Prose", "Packed passages"};
    static cloud c;
    tm_results r;
    tm_canvas page;
    if (open_table(&r, results, "outliers.tsv", err)) return err->code;
    int code = tm_canvas_init(&page, 1100, 560, err);
    if (!code) {
        for (int i = 0; i < 2; i++) {
            gather(&c, &r, text[i]);
            tm_points plot = {title[i], "bits a number", "KL, nats", c.point,
                              c.n,      c.label,         c.labels};
            tm_plot_points(&page, (tm_box){20 + 545 * i, 20, 520, 460}, &plot);
        }
        tm_plot_legend(&page, 120, 500, 900, rules, RULES, 0);
        code = save(&page, out, "apart.png", err);
    }
    tm_results_free(&r);
    return code;
}

/* ---- all formats ---------------------------------------------------------------------------- */

enum { FORMATS = 32 };

typedef struct {
    char name[NAME];
    double x, none, kept, width; /* in pixels; the width of the name */
} spot;

typedef struct {
    tm_box box;
    double low, high, bottom, top; /* bits; decades of KL */
} frame;

static double across(const frame *f, double bits)
{
    return f->box.x + (bits - f->low) / (f->high - f->low) * f->box.w;
}

static double down(const frame *f, double kl)
{
    return f->box.y + (f->top - log10(kl)) / (f->top - f->bottom) * f->box.h;
}

/* Formats that treat keys and values alike. */
static int find_spots(spot *list, const frame *f, const tm_results *r)
{
    int n = 0;
    for (int i = 0; i < r->rows && n < FORMATS; i++) {
        char format[NAME], row[64];
        const char *name = r->cell[i * r->cols];
        tm_results_part(format, sizeof format, name, 2);
        if (strncmp(name, "formats/plain/", 14) || rule_of(name) != 0) continue;
        if (!strcmp(format, "keys2") || !strcmp(format, "values2")) continue;
        snprintf(row, sizeof row, "formats/plain/%s/kvsink:best", format);
        spot *s = &list[n++];
        memcpy(s->name, format, sizeof format);
        s->x = across(f, tm_results_number(r, i, "bits"));
        s->none = down(f, tm_results_number(r, i, "kl"));
        s->kept = down(f, tm_results_number(r, tm_results_row(r, row), "kl"));
        s->width = tm_text_width(11, format);
    }
    return n;
}

static int overlap(tm_box a, tm_box b)
{
    return a.x < b.x + b.w && b.x < a.x + a.w && a.y < b.y + b.h && b.y < a.y + a.h;
}

/* A name stands beside its mark, where it touches neither another name nor another mark. */
static tm_box name_spot(const spot *list, int n, int i, const tm_box *named)
{
    static const double shift[] = {0, -9, 9, -18, 18, -27, 27};
    const spot *s = &list[i];
    tm_box best = {s->x + 11, s->none - 7, s->width, 14};
    for (int k = 0; k < 14; k++) {
        int left = k % 2, bad = 0;
        tm_box b = {left ? s->x - 11 - s->width : s->x + 11, s->none - 7 + shift[k / 2],
                    s->width, 14};
        for (int j = 0; j < i; j++) bad |= overlap(b, named[j]);
        for (int j = 0; j < n; j++) {
            bad |= overlap(b, (tm_box){list[j].x - 7, list[j].none - 7, 14, 14});
            bad |= overlap(b, (tm_box){list[j].x - 4, list[j].kept - 4, 8, 8});
        }
        if (!bad) return b;
    }
    return best;
}

static void draw_axes(tm_canvas *c, const frame *f)
{
    static const char *const kl[] = {"0.0001", "0.001", "0.01", "0.1", "1"};
    double right = f->box.x + f->box.w, base = f->box.y + f->box.h;
    for (int i = 0; i < 5; i++) {
        double y = down(f, pow(10, i - 4));
        tm_line(c, f->box.x, y, right, y, 1, tm_faint);
        tm_text(c, f->box.x - 8, y + 5, 12, 1, tm_ink, kl[i]);
    }
    for (int bits = 2; bits <= 8; bits++) {
        char text[2] = {(char)('0' + bits), 0};
        tm_text(c, across(f, bits), base + 22, 12, 0, tm_ink, text);
    }
    tm_line(c, f->box.x, base, right, base, 2, tm_ink);
    tm_line(c, f->box.x, f->box.y, f->box.x, base, 2, tm_ink);
    tm_text(c, f->box.x + f->box.w / 2, base + 46, 13, 0, tm_ink, "bits a number, nothing kept");
    tm_text(c, f->box.x - 60, f->box.y - 16, 13, -1, tm_ink, "KL, nats");
}

static void draw_spots(tm_canvas *c, const spot *list, int n)
{
    tm_box named[FORMATS];
    for (int i = 0; i < n; i++) {
        tm_line(c, list[i].x, list[i].none, list[i].x, list[i].kept, 2, tm_series_color[0]);
        tm_disc(c, list[i].x, list[i].kept, 3, tm_series_color[0]);
        tm_disc(c, list[i].x, list[i].none, 6, tm_sink);
    }
    for (int i = 0; i < n; i++) {
        named[i] = name_spot(list, n, i, named);
        tm_text(c, named[i].x, named[i].y + 12, 11, -1, tm_ink, list[i].name);
    }
}

static int draw_formats(const char *results, const char *out, kv_error *err)
{
    static const frame f = {{90, 50, 880, 580}, 1.25, 9.1, -4.3, 0.8};
    spot list[FORMATS];
    tm_results r;
    tm_canvas c;
    if (open_table(&r, results, "formats.tsv", err)) return err->code;
    int code = tm_canvas_init(&c, 1000, 700, err);
    if (!code) {
        draw_axes(&c, &f);
        draw_spots(&c, list, find_spots(list, &f, &r));
        code = save(&c, out, "formats.png", err);
    }
    tm_results_free(&r);
    return code;
}

int main(int argc, char **argv)
{
    kv_error err = {0};
    if (argc != 3) {
        fprintf(stderr, "usage: pictures RESULTS OUT\n");
        return 2;
    }
    if (draw_group(argv[1], argv[2], &err) || draw_ratios(argv[1], argv[2], &err) ||
        draw_apart(argv[1], argv[2], &err) || draw_formats(argv[1], argv[2], &err)) {
        fprintf(stderr, "pictures: %s\n", err.text);
        return err.code;
    }
    return 0;
}
