/* Plots of points, see plot_points.h. */
#include "plot_points.h"

#include <math.h>
#include <stdio.h>

enum { SIZE = 14, TITLE = 18, LABELS = 64, POINTS = 1024, SHAPES = 7, SHIFTS = 4 };

/* ------------------------------------------------------------------ marks */

static void polygon(tm_canvas *c, double x, double y, const double (*p)[2], int n, double size,
                    double width, tm_color color)
{
    for (int i = 0; i < n; i++) {
        const double *a = p[i], *b = p[(i + 1) % n];
        tm_line(c, x + a[0] * size, y + a[1] * size, x + b[0] * size, y + b[1] * size, width,
                color);
    }
}

static void ring(tm_canvas *c, double x, double y, double s, double width, tm_color color)
{
    enum { SIDES = 24 };
    double p[SIDES][2];
    for (int i = 0; i < SIDES; i++) {
        p[i][0] = 0.95 * cos(i * 2 * acos(-1) / SIDES);
        p[i][1] = 0.95 * sin(i * 2 * acos(-1) / SIDES);
    }
    polygon(c, x, y, (const double(*)[2])p, SIDES, s, width, color);
}

static void shape(tm_canvas *c, double x, double y, double s, double width, int which,
                  tm_color color)
{
    static const double square[4][2] = {{-.8, -.8}, {.8, -.8}, {.8, .8}, {-.8, .8}};
    static const double up[3][2] = {{0, -1}, {1, .8}, {-1, .8}};
    static const double down[3][2] = {{0, 1}, {1, -.8}, {-1, -.8}};
    static const double diamond[4][2] = {{0, -1.1}, {1.1, 0}, {0, 1.1}, {-1.1, 0}};
    switch (which) {
    case 0: ring(c, x, y, s, width, color); break;
    case 1: polygon(c, x, y, square, 4, s, width, color); break;
    case 2: polygon(c, x, y, up, 3, s, width, color); break;
    case 3: polygon(c, x, y, diamond, 4, s, width, color); break;
    case 4: tm_line(c, x - s, y - s, x + s, y + s, width, color);
            tm_line(c, x - s, y + s, x + s, y - s, width, color); break;
    case 5: polygon(c, x, y, down, 3, s, width, color); break;
    default: tm_line(c, x - 1.1 * s, y, x + 1.1 * s, y, width, color);
             tm_line(c, x, y - 1.1 * s, x, y + 1.1 * s, width, color);
    }
}

/* On a rim of paper, so that marks that overlap can be told apart. */
void tm_mark(tm_canvas *c, double x, double y, double size, int kind)
{
    int which = kind % SHAPES;
    shape(c, x, y, size, 5, which, tm_paper);
    shape(c, x, y, size, 3, which, tm_series_color[kind % TM_SERIES_COLORS]);
}

double tm_plot_legend(tm_canvas *c, double x, double y, double width, const char *const *name,
                      int n, int lines)
{
    double widest = 0;
    for (int i = 0; i < n; i++) widest = fmax(widest, tm_text_width(SIZE, name[i]));
    int columns = (int)fmax(1, floor(width / (widest + 4 * SIZE)));
    double pitch = 1.9 * SIZE, step = widest + 4 * SIZE;
    for (int i = 0; i < n && c; i++) {
        double at = x + i % columns * step, base = y + (i / columns + 1) * pitch - 0.6 * SIZE;
        if (lines)
            tm_line(c, at, base - SIZE / 2.0, at + 1.6 * SIZE, base - SIZE / 2.0, 4,
                    tm_series_color[i % TM_SERIES_COLORS]);
        else tm_mark(c, at + 0.8 * SIZE, base - SIZE / 2.0, 6, i);
        tm_text(c, at + 2.3 * SIZE, base, SIZE, -1, tm_ink, name[i]);
    }
    return (n + columns - 1) / columns * pitch;
}

/* ------------------------------------------------------------------- axes */

typedef struct {
    tm_box in;
    double x0, x1, y0, y1; /* y as logarithms */
    double above;          /* pixels at the top that are the names' */
} axes;

static double x_pixel(const axes *a, double x)
{
    return a->in.x + (x - a->x0) / (a->x1 - a->x0) * a->in.w;
}

static double y_pixel(const axes *a, double y)
{
    double h = a->in.h - a->above;
    return a->in.y + a->in.h - (log10(y) - a->y0) / (a->y1 - a->y0) * h;
}

static void limits(axes *a, const tm_points *p)
{
    a->x0 = a->y0 = INFINITY;
    a->x1 = a->y1 = -INFINITY;
    for (int i = 0; i < p->n; i++) {
        const tm_point *q = &p->point[i];
        if (!(q->y > 0)) continue;
        a->x0 = fmin(a->x0, q->x);
        a->x1 = fmax(a->x1, q->x);
        a->y0 = fmin(a->y0, log10(q->y - q->error > q->y / 2 ? q->y - q->error : q->y));
        a->y1 = fmax(a->y1, log10(q->y + q->error));
    }
    if (!(a->x0 <= a->x1)) a->x0 = a->y0 = 0, a->x1 = a->y1 = 1;
    double wide = fmax(a->x1 - a->x0, 0.2), high = fmax(a->y1 - a->y0, 0.2);
    a->x0 -= 0.06 * wide;
    a->x1 += 0.06 * wide;
    a->y0 -= 0.08 * high;
    a->y1 += 0.08 * high;
}

static void x_axis(tm_canvas *c, const axes *a)
{
    double step = tm_nice_step(a->x1 - a->x0, 8), bottom = a->in.y + a->in.h;
    for (int i = (int)ceil(a->x0 / step); i * step <= a->x1; i++) {
        char label[32];
        double x = x_pixel(a, i * step);
        snprintf(label, sizeof label, "%g", i * step);
        tm_line(c, x, bottom, x, bottom + 6, 1.5, tm_ink);
        tm_text(c, x, bottom + 8 + 1.4 * SIZE, SIZE, 0, tm_ink, label);
    }
}

static void y_tick(tm_canvas *c, const axes *a, double value)
{
    char label[32];
    if (log10(value) < a->y0 || log10(value) > a->y1) return;
    double y = y_pixel(a, value);
    snprintf(label, sizeof label, "%g", value);
    tm_line(c, a->in.x, y, a->in.x + a->in.w, y, 1, tm_faint);
    tm_text(c, a->in.x - 10, y + SIZE / 2.0, SIZE, 1, tm_ink, label);
}

/* Ticks at 1, 2, 5 of each decade; at whole decades where there are many; even ones within a part
 * of a decade. */
static void y_axis(tm_canvas *c, const axes *a)
{
    static const double within[3] = {1, 2, 5};
    double low = pow(10, a->y0), high = pow(10, a->y1), step = tm_nice_step(high - low, 7);
    if (a->y1 - a->y0 < 0.8) {
        for (int i = (int)ceil(low / step); i * step <= high; i++) y_tick(c, a, i * step);
        return;
    }
    for (int e = (int)floor(a->y0); e <= (int)ceil(a->y1); e++)
        for (int i = 0; i < (a->y1 - a->y0 < 2.5 ? 3 : 1); i++)
            y_tick(c, a, within[i] * pow(10, e));
}

/* A row for each name in which it touches none; returns how many rows. Names come in any order. */
static int place(int *row, double *left, const axes *a, const tm_points *p)
{
    int n = p->n_labels < LABELS ? p->n_labels : LABELS, rows = 0;
    for (int i = 0; i < n; i++) {
        double w = tm_text_width(SIZE, p->label[i].text), x = x_pixel(a, p->label[i].x) - w / 2;
        left[i] = fmax(a->in.x + 4, fmin(x, a->in.x + a->in.w - w));
        row[i] = 0;
        for (int j = 0; j < i; j++) {
            double other = tm_text_width(SIZE, p->label[j].text);
            int apart = left[i] > left[j] + other + SIZE || left[j] > left[i] + w + SIZE;
            if (row[j] == row[i] && !apart) {
                row[i]++;
                j = -1; /* from the start again */
            }
        }
        if (row[i] >= rows) rows = row[i] + 1;
    }
    return rows;
}

/* Is a mark at x, y clear of those of points 0..n-1? */
static int is_free(const double *placed, const axes *a, const tm_points *p, int n, double x,
                   double y)
{
    for (int i = 0; i < n; i++)
        if (p->point[i].y > 0 && fabs(placed[i] - x) < 12 &&
            fabs(y_pixel(a, p->point[i].y) - y) < 12) return 0;
    return 1;
}

/* Where each mark stands along x, in pixels. */
static void spread(double *placed, const axes *a, const tm_points *p)
{
    for (int i = 0; i < p->n; i++) {
        double x = x_pixel(a, p->point[i].x), y = p->point[i].y > 0 ? y_pixel(a, p->point[i].y) : 0;
        placed[i] = x;
        for (int k = 1; k <= SHIFTS && !is_free(placed, a, p, i, placed[i], y); k++)
            placed[i] = x + (k % 2 ? 1 : -1) * (k + 1) / 2 * 12;
        if (!is_free(placed, a, p, i, placed[i], y)) placed[i] = x; /* as crowded as it is */
    }
}

static void draw_points(tm_canvas *c, const axes *a, const tm_points *p, const double *placed)
{
    for (int i = 0; i < p->n; i++) {
        const tm_point *q = &p->point[i];
        if (!(q->y > 0) || !(q->error > 0) || q->error >= q->y) continue;
        tm_line(c, placed[i], y_pixel(a, q->y - q->error), placed[i], y_pixel(a, q->y + q->error),
                1.5, tm_series_color[q->kind % TM_SERIES_COLORS]);
    }
    for (int i = 0; i < p->n; i++)
        if (p->point[i].y > 0)
            tm_mark(c, placed[i], y_pixel(a, p->point[i].y), 6, p->point[i].kind);
}

void tm_plot_points(tm_canvas *c, tm_box box, const tm_points *p)
{
    int row[LABELS];
    double left[LABELS], placed[POINTS];
    tm_points few = *p; /* more would be a blot */
    axes a;
    if (few.n > POINTS) few.n = POINTS;
    limits(&a, &few);
    a.in = (tm_box){box.x + 10 * SIZE, box.y + 2.4 * TITLE, 0, 0};
    a.in.w = box.x + box.w - SIZE - a.in.x;
    a.in.h = box.y + box.h - 5 * SIZE - a.in.y;
    int rows = place(row, left, &a, p);
    a.above = rows ? rows * 1.6 * SIZE + 6 : 0;
    y_axis(c, &a);
    x_axis(c, &a);
    tm_line(c, a.in.x, a.in.y, a.in.x, a.in.y + a.in.h, 2, tm_ink);
    tm_line(c, a.in.x, a.in.y + a.in.h, a.in.x + a.in.w, a.in.y + a.in.h, 2, tm_ink);
    for (int i = 0; i < p->n_labels && i < LABELS; i++)
        tm_text(c, left[i], a.in.y + (rows - row[i]) * 1.6 * SIZE - 4, SIZE, -1, tm_ink,
                p->label[i].text);
    spread(placed, &a, &few);
    draw_points(c, &a, &few, placed);
    if (p->title) tm_text(c, box.x, box.y + 1.2 * TITLE, TITLE, -1, tm_ink, p->title);
    if (p->x_label)
        tm_text(c, a.in.x + a.in.w / 2, box.y + box.h - 0.8 * SIZE, SIZE, 0, tm_ink, p->x_label);
    if (p->y_label)
        tm_text_up(c, box.x + 1.2 * SIZE, a.in.y + a.in.h / 2, SIZE, 0, tm_ink, p->y_label);
}
