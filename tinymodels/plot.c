/* Drawing. All shapes go through one function, cover(), which mixes a colour into a pixel by the
 * share of the pixel that the shape covers; that share is estimated from the distance of the
 * pixel's centre to the shape. Slow and simple: a picture takes some milliseconds. */
#include "plot.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <stb/stb_image_write.h>

#include "files.h"
#include "font.h"

const tm_color tm_paper = {255, 255, 255}, tm_ink = {34, 38, 46}, tm_faint = {222, 225, 230},
               tm_sink = {214, 40, 57};
const tm_color tm_series_color[TM_SERIES_COLORS] = {
    {31, 98, 168}, {230, 138, 20}, {34, 139, 104}, {122, 74, 158}, {96, 104, 118}, {150, 96, 50},
};

/* ----------------------------------------------------------------- canvas */

int tm_canvas_init(tm_canvas *c, int width, int height, kv_error *err)
{
    memset(c, 0, sizeof *c);
    if (width < 1 || height < 1 || width > 8192 || height > 8192)
        return kv_fail(err, KV_FAIL_USAGE, "a picture of %d x %d pixels; each side must be within"
                       " 1..8192", width, height);
    c->rgb = malloc((size_t)width * (size_t)height * 3);
    if (!c->rgb)
        return kv_fail(err, KV_FAIL_RUN, "not enough memory for a picture of %d x %d pixels",
                       width, height);
    c->width = width;
    c->height = height;
    tm_fill(c, (tm_box){0, 0, width, height}, tm_paper);
    return KV_OK;
}

void tm_canvas_free(tm_canvas *c)
{
    free(c->rgb);
    memset(c, 0, sizeof *c);
}

static void write_bytes(void *file, void *data, int size)
{
    fwrite(data, 1, (size_t)size, file);
}

int tm_canvas_write(const tm_canvas *c, const char *path, kv_error *err)
{
    tm_out out;
    int code = tm_out_open(&out, path, err);
    if (code) return code;
    if (!stbi_write_png_to_func(write_bytes, out.f, c->width, c->height, 3, c->rgb,
                                c->width * 3)) {
        tm_out_abandon(&out);
        return kv_fail(err, KV_FAIL_RUN, "cannot write %s: not enough memory to encode it", path);
    }
    return tm_out_close(&out, err);
}

static void cover(tm_canvas *c, int x, int y, double share, tm_color color)
{
    if (x < 0 || y < 0 || x >= c->width || y >= c->height || !(share > 0)) return;
    unsigned char *p = c->rgb + ((size_t)y * (size_t)c->width + (size_t)x) * 3;
    if (share > 1) share = 1;
    p[0] = (unsigned char)lrint(p[0] + share * (color.r - p[0]));
    p[1] = (unsigned char)lrint(p[1] + share * (color.g - p[1]));
    p[2] = (unsigned char)lrint(p[2] + share * (color.b - p[2]));
}

/* A pixel range that is safe to loop over, whatever the coordinates were. */
static int clip(double x, int limit)
{
    if (!(x > 0)) return 0;
    return x < limit ? (int)x : limit;
}

/* How much of the pixel [i, i+1) the interval [from, to) covers. */
static double overlap(int i, double from, double to)
{
    double low = from > i ? from : i, high = to < i + 1 ? to : i + 1;
    return high > low ? high - low : 0;
}

void tm_fill(tm_canvas *c, tm_box b, tm_color color)
{
    int x1 = clip(ceil(b.x + b.w), c->width), y1 = clip(ceil(b.y + b.h), c->height);
    for (int y = clip(floor(b.y), c->height); y < y1; y++)
        for (int x = clip(floor(b.x), c->width); x < x1; x++)
            cover(c, x, y, overlap(x, b.x, b.x + b.w) * overlap(y, b.y, b.y + b.h), color);
}

static double distance_to_segment(double x, double y, double x0, double y0, double x1, double y1)
{
    double dx = x1 - x0, dy = y1 - y0, length2 = dx * dx + dy * dy;
    double t = length2 > 0 ? ((x - x0) * dx + (y - y0) * dy) / length2 : 0;
    t = t < 0 ? 0 : t > 1 ? 1 : t;
    return hypot(x - x0 - t * dx, y - y0 - t * dy);
}

void tm_line(tm_canvas *c, double x0, double y0, double x1, double y1, double width,
             tm_color color)
{
    double r = width / 2, reach = r + 1;
    if (!isfinite(x0 + y0 + x1 + y1 + width)) return;
    int xe = clip(ceil(fmax(x0, x1) + reach), c->width);
    int ye = clip(ceil(fmax(y0, y1) + reach), c->height);
    for (int y = clip(floor(fmin(y0, y1) - reach), c->height); y < ye; y++)
        for (int x = clip(floor(fmin(x0, x1) - reach), c->width); x < xe; x++)
            cover(c, x, y, r + 0.5 - distance_to_segment(x + 0.5, y + 0.5, x0, y0, x1, y1), color);
}

void tm_disc(tm_canvas *c, double x, double y, double radius, tm_color color)
{
    tm_line(c, x, y, x, y, 2 * radius, color);
}

/* A triangle that points up, its tip at (x, y). */
static void pointer(tm_canvas *c, double x, double y, double size, tm_color color)
{
    for (int i = 0; i < (int)size; i++)
        tm_fill(c, (tm_box){x - 0.6 * i, y + i, 1.2 * i, 1}, color);
}

/* ------------------------------------------------------------------- text */

typedef struct {
    tm_canvas *c;
    double x, y, size; /* baseline of the next character; height of capitals */
    int up;
    tm_color color;
} pen;

static int is_on(const char *glyph, int row, int col)
{
    if (row < 0 || col < 0 || col > 4) return 0;
    for (; row > 0; row--) {
        glyph = strchr(glyph, '/');
        if (!glyph) return 0;
        glyph++;
    }
    return (int)strcspn(glyph, "/") > col && glyph[col] == '#';
}

/* One stroke between two grid points of a character. */
static void stroke(const pen *p, int row0, int col0, int row1, int col1)
{
    double s = p->size / 6;
    double a0 = col0 * s, b0 = (row0 - 6) * s, a1 = col1 * s, b1 = (row1 - 6) * s;
    if (p->up) tm_line(p->c, p->x + b0, p->y - a0, p->x + b1, p->y - a1, 0.95 * s, p->color);
    else tm_line(p->c, p->x + a0, p->y + b0, p->x + a1, p->y + b1, 0.95 * s, p->color);
}

static void draw_character(const pen *p, const char *glyph)
{
    for (int row = 0; row < 9; row++)
        for (int col = 0; col < 5; col++) {
            if (!is_on(glyph, row, col)) continue;
            int right = is_on(glyph, row, col + 1), below = is_on(glyph, row + 1, col);
            stroke(p, row, col, row, col + right);
            if (below) stroke(p, row, col, row + 1, col);
            if (is_on(glyph, row + 1, col + 1) && !right && !below)
                stroke(p, row, col, row + 1, col + 1);
            if (is_on(glyph, row + 1, col - 1) && !below && !is_on(glyph, row, col - 1))
                stroke(p, row, col, row + 1, col - 1);
        }
}

double tm_text_width(double size, const char *text)
{
    size_t n = strlen(text);
    return n ? (6.0 * (double)n - 2) * size / 6 : 0;
}

static void draw_text(pen p, const char *text)
{
    for (; *text; text++) {
        draw_character(&p, tm_glyph(*text));
        if (p.up) p.y -= p.size;
        else p.x += p.size;
    }
}

void tm_text(tm_canvas *c, double x, double y, double size, int anchor, tm_color color,
             const char *text)
{
    x -= tm_text_width(size, text) * (anchor + 1) / 2.0;
    draw_text((pen){c, x, y, size, 0, color}, text);
}

void tm_text_up(tm_canvas *c, double x, double y, double size, int anchor, tm_color color,
                const char *text)
{
    y += tm_text_width(size, text) * (anchor + 1) / 2.0;
    draw_text((pen){c, x, y, size, 1, color}, text);
}

/* ------------------------------------------------------------------- axes */

enum { TITLE_SIZE = 18, TEXT_SIZE = 14 };

/* The part of a box that is left for data, and how values become pixels in it. */
typedef struct {
    tm_box in;
    double x0, x1, y0, y1; /* values at the edges; y as logarithm if log_y */
    int log_y;
    double ticks_to;       /* no y tick above this (0: y1): room for labels has no values */
} axes;

static double x_pixel(const axes *a, double x)
{
    return a->in.x + (x - a->x0) / (a->x1 - a->x0) * a->in.w;
}

static double y_pixel(const axes *a, double y)
{
    if (a->log_y) y = log10(y);
    return a->in.y + a->in.h - (y - a->y0) / (a->y1 - a->y0) * a->in.h;
}

/* Title, labels and what they leave of the box. Rooms: for tick labels, marks, a legend. */
static tm_box frame(tm_canvas *c, tm_box b, const char *title, const char *x_label,
                    const char *y_label, double left, double right, double below)
{
    double top = title ? 2.4 * TITLE_SIZE : TEXT_SIZE;
    tm_box in = {b.x + left + (y_label ? 2.2 * TEXT_SIZE : 0), b.y + top, 0, 0};
    in.w = b.x + b.w - right - in.x;
    in.h = b.y + b.h - below - (x_label ? 2.2 * TEXT_SIZE : 0) - in.y;
    if (in.w < 1) in.w = 1;
    if (in.h < 1) in.h = 1;
    if (title) tm_text(c, b.x, b.y + 1.3 * TITLE_SIZE, TITLE_SIZE, -1, tm_ink, title);
    if (x_label)
        tm_text(c, in.x + in.w / 2, b.y + b.h - 0.5 * TEXT_SIZE, TEXT_SIZE, 0, tm_ink, x_label);
    if (y_label)
        tm_text_up(c, b.x + 1.3 * TEXT_SIZE, in.y + in.h / 2, TEXT_SIZE, 0, tm_ink, y_label);
    return in;
}

double tm_nice_step(double range, int n)
{
    double step = pow(10, floor(log10(range / n)));
    if (!(step > 0)) return 1;
    while (range / step > n) {
        if (range / (2 * step) <= n) return 2 * step;
        if (range / (5 * step) <= n) return 5 * step;
        step *= 10;
    }
    return step;
}

static void y_tick(tm_canvas *c, const axes *a, double value)
{
    char label[32];
    double y = y_pixel(a, value);
    snprintf(label, sizeof label, "%g", value);
    tm_line(c, a->in.x, y, a->in.x + a->in.w, y, 1, tm_faint);
    tm_text(c, a->in.x - 10, y + TEXT_SIZE / 2.0, TEXT_SIZE, 1, tm_ink, label);
}

static void y_axis(tm_canvas *c, const axes *a)
{
    double last = a->ticks_to > a->y0 ? a->ticks_to : a->y1, range = last - a->y0;
    if (a->log_y) {
        int step = range > 8 ? (int)ceil(range / 8) : 1;
        for (int e = (int)ceil(a->y0 - 1e-9); e <= last + 1e-9; e += step)
            y_tick(c, a, pow(10, e));
    } else {
        double step = tm_nice_step(range, 5);
        for (int i = (int)ceil(a->y0 / step - 1e-9); i * step <= last + 1e-9 * range; i++)
            y_tick(c, a, i * step);
    }
}

/* Whole numbers below the plot; those on a marked place are left to the mark. */
static void x_axis(tm_canvas *c, const axes *a, int first, int last, const int *mark, int n_mark,
                   double offset)
{
    char label[16];
    snprintf(label, sizeof label, "%d", last);
    double widest = tm_text_width(TEXT_SIZE, label), gap = TEXT_SIZE / 2.0;
    int parts = (int)fmin(8, fmax(1, a->in.w / (widest + gap)));
    double step = fmax(1, tm_nice_step(last > first ? last - first : 1, parts));
    for (int i = (int)(ceil(first / step) * step); i <= last; i += (int)step) {
        double x = x_pixel(a, i + offset), y = a->in.y + a->in.h;
        int hidden = 0;
        snprintf(label, sizeof label, "%d", i);
        for (int j = 0; j < n_mark; j++)
            hidden |= fabs(x_pixel(a, mark[j] + offset) - x) < widest + gap;
        tm_line(c, x, y, x, y + 6, 1.5, tm_ink);
        if (!hidden) tm_text(c, x, y + 8 + 1.4 * TEXT_SIZE, TEXT_SIZE, 0, tm_ink, label);
    }
}

static void outline(tm_canvas *c, tm_box b)
{
    tm_line(c, b.x, b.y, b.x, b.y + b.h, 2, tm_ink);
    tm_line(c, b.x, b.y + b.h, b.x + b.w, b.y + b.h, 2, tm_ink);
}

static int number_fits(const axes *a, const int *mark, const int *shown, int i, double offset)
{
    char label[2][16];
    snprintf(label[0], sizeof label[0], "%d", mark[i]);
    for (int j = 0; j < i; j++) {
        snprintf(label[1], sizeof label[1], "%d", mark[j]);
        double apart = fabs(x_pixel(a, mark[i] + offset) - x_pixel(a, mark[j] + offset));
        double room = tm_text_width(TEXT_SIZE, label[0]) + tm_text_width(TEXT_SIZE, label[1]);
        if (shown[j] && apart < room / 2 + TEXT_SIZE / 2.0) return 0;
    }
    return 1;
}

/* Triangles and numbers below marked columns; a number that would touch an earlier one is left
 * out, and so are those after the first NUMBERS. */
static void mark_columns(tm_canvas *c, const axes *a, const int *mark, int n_mark, double offset)
{
    enum { NUMBERS = 64 };
    int shown[NUMBERS];
    for (int i = 0; i < n_mark; i++) {
        char label[16];
        double x = x_pixel(a, mark[i] + offset), y = a->in.y + a->in.h;
        pointer(c, x, y + 3, 0.8 * TEXT_SIZE, tm_sink);
        if (i >= NUMBERS) continue;
        shown[i] = number_fits(a, mark, shown, i, offset);
        snprintf(label, sizeof label, "%d", mark[i]);
        if (shown[i]) tm_text(c, x, y + 6 + 2.2 * TEXT_SIZE, TEXT_SIZE, 0, tm_sink, label);
    }
}

/* -------------------------------------------------------------- heat maps */

/* From night over violet and orange to pale yellow; brightness grows all the way, so that it
 * survives a black and white printer. */
static tm_color heat_color(double t)
{
    static const double stop[5][3] = {
        {12, 10, 36}, {84, 24, 112}, {186, 56, 100}, {246, 144, 58}, {252, 250, 206}};
    t = !(t > 0) ? 0 : t > 1 ? 1 : t;
    int i = t >= 1 ? 3 : (int)(t * 4);
    double f = t * 4 - i, v[3];
    for (int k = 0; k < 3; k++) v[k] = stop[i][k] + f * (stop[i + 1][k] - stop[i][k]);
    return (tm_color){(unsigned char)v[0], (unsigned char)v[1], (unsigned char)v[2]};
}

static void color_scale(tm_canvas *c, tm_box b, double top)
{
    for (int y = 0; y < (int)b.h; y++)
        tm_fill(c, (tm_box){b.x, b.y + y, b.w, 1}, heat_color(1 - (y + 0.5) / b.h));
    for (int i = 0; i <= 4; i++) {
        char label[32];
        double t = i / 4.0;
        snprintf(label, sizeof label, "%.2g", t * t * top);
        tm_text(c, b.x + b.w + 8, b.y + b.h * (1 - t) + TEXT_SIZE / 2.0, TEXT_SIZE, -1, tm_ink,
                label);
    }
}

void tm_plot_heat(tm_canvas *c, tm_box box, const tm_heat *h)
{
    double top = h->top;
    size_t n = (size_t)h->rows * (size_t)h->cols;
    for (size_t i = 0; h->top <= 0 && i < n; i++)
        if (h->data[i] > top) top = h->data[i];
    if (!(top > 0)) top = 1;
    axes a = {frame(c, box, h->title, h->x_label, h->y_label, 4.5 * TEXT_SIZE,
                    h->no_scale ? TEXT_SIZE : 9 * TEXT_SIZE, 3 * TEXT_SIZE),
              0, h->cols, h->rows, 0, 0, 0};
    tm_box in = a.in;
    tm_fill(c, (tm_box){floor(in.x), floor(in.y), floor(in.w), floor(in.h)}, heat_color(0));
    /* Each pixel shows the largest value that falls into it: a thin bright column of a large
     * matrix must not vanish between pixels. */
    for (int py = 0; py < (int)in.h; py++)
        for (int px = 0; px < (int)in.w; px++) {
            int r0 = (int)(py / in.h * h->rows), r1 = (int)((py + 1) / in.h * h->rows);
            int c0 = (int)(px / in.w * h->cols), c1 = (int)((px + 1) / in.w * h->cols);
            float best = 0;
            for (int r = r0; r == r0 || r < r1; r++)
                for (int k = c0; k == c0 || k < c1; k++)
                    if (h->data[(size_t)r * (size_t)h->cols + (size_t)k] > best)
                        best = h->data[(size_t)r * (size_t)h->cols + (size_t)k];
            if (best > 0)
                tm_fill(c, (tm_box){floor(in.x) + px, floor(in.y) + py, 1, 1},
                        heat_color(sqrt(best / top)));
        }
    double step = tm_nice_step(h->rows > 1 ? h->rows - 1 : 1, 6);
    if (step < 1) step = 1;
    for (int i = 0; i < h->rows; i += (int)step) {
        char label[16];
        snprintf(label, sizeof label, "%d", i);
        tm_text(c, in.x - 10, y_pixel(&a, i + 0.5) + TEXT_SIZE / 2.0, TEXT_SIZE, 1, tm_ink, label);
    }
    x_axis(c, &a, 0, h->cols - 1, h->mark, h->n_mark, 0.5);
    mark_columns(c, &a, h->mark, h->n_mark, 0.5);
    if (!h->no_scale)
        color_scale(c, (tm_box){in.x + in.w + 16, in.y, 20, in.h}, top);
}

/* ------------------------------------------------------------------ lines */

static int usable(double y, int log_y)
{
    return isfinite(y) && (!log_y || y > 0);
}

/* Limits of the y axis: the data, to whole powers of ten or from 0, and `above` pixels that hold
 * labels instead of values. */
static void y_limits(axes *a, const tm_lines *p, double above)
{
    double low = INFINITY, high = -INFINITY;
    for (int s = 0; s < p->n_series; s++)
        for (int i = 0; i < p->n; i++) {
            double y = p->series[s].y[i];
            if (!usable(y, p->log_y)) continue;
            if (p->log_y) y = log10(y);
            low = fmin(low, y);
            high = fmax(high, y);
        }
    if (!(low <= high)) low = high = 0;
    a->y0 = p->log_y ? floor(low) : fmin(1.05 * low, 0);
    a->y1 = p->log_y ? ceil(high + 0.02) : fmax(1.05 * high, 0);
    if (!(a->y1 > a->y0)) a->y1 = a->y0 + 1;
    a->ticks_to = a->y1;
    if (above < 0.8 * a->in.h) a->y1 += above / (a->in.h - above) * (a->y1 - a->y0);
}

static void draw_series(tm_canvas *c, const axes *a, const tm_series *s, int first, int n)
{
    for (int i = 0; i < n; i++) {
        if (!usable(s->y[i], a->log_y)) continue;
        double x = x_pixel(a, first + i), y = y_pixel(a, s->y[i]);
        if (i > 0 && usable(s->y[i - 1], a->log_y))
            tm_line(c, x_pixel(a, first + i - 1), y_pixel(a, s->y[i - 1]), x, y, 3.5, s->color);
        if (s->dots || n == 1) tm_disc(c, x, y, 5, s->color);
    }
}

/* Names of the series on one or more lines above the plot; returns the height they take. */
static double legend(tm_canvas *c, double x0, double x1, double y, const tm_lines *p, int draw)
{
    double x = x0, start = y;
    if (!p->n_series || !p->series[0].name) return 0;
    for (int s = 0; s < p->n_series; s++) {
        double w = 2.8 * TEXT_SIZE + tm_text_width(TEXT_SIZE, p->series[s].name);
        if (x > x0 && x + w > x1) {
            x = x0;
            y += 1.8 * TEXT_SIZE;
        }
        if (draw) {
            tm_line(c, x, y - TEXT_SIZE / 2.0, x + 2 * TEXT_SIZE, y - TEXT_SIZE / 2.0, 4,
                    p->series[s].color);
            tm_text(c, x + 2.8 * TEXT_SIZE, y, TEXT_SIZE, -1, tm_ink, p->series[s].name);
        }
        x += w + 2.2 * TEXT_SIZE;
    }
    return y - start + 1.8 * TEXT_SIZE;
}

static int inside(double x, double from, double to)
{
    return x > from && x < to;
}

static double label_start(const tm_label *l)
{
    return l->left ? l->x - l->w : l->x;
}

/* 0: free; 1: a line crosses a label; 2: two labels touch. done: who has a place already. */
static int conflict(const tm_label *label, const int *done, int n, int i)
{
    const tm_label *l = &label[i];
    double from = label_start(l), to = from + l->w;
    int worst = 0;
    for (int j = 0; j < n; j++) {
        const tm_label *o = &label[j];
        double start = label_start(o), end = start + o->w;
        if (!done[j]) continue;
        if (o->row == l->row && from < end && start < to) return 2;
        if ((o->row > l->row && inside(o->x, from, to)) ||
            (o->row < l->row && inside(l->x, start, end))) worst = 1;
    }
    return worst;
}

static void place(tm_label *label, int *done, int n, int i, double width)
{
    tm_label *l = &label[i];
    int fits[2] = {l->x + l->w <= width, l->x - l->w >= 0};
    if (!fits[0] && !fits[1]) fits[1] = 1; /* wider than the plot: never mind */
    for (int allowed = 0; allowed < 2; allowed++)
        for (int left = 0; left < 2; left++)
            for (int row = 0; row < n && fits[left]; row++) {
                l->row = row;
                l->left = left;
                if (conflict(label, done, n, i) <= allowed) return;
            }
}

/* First those at the right edge, which are written to the left, from left to right; then the others
 * from right to left: so each line starts above the labels that it must not cross. */
int tm_place_labels(tm_label *label, int n, double width)
{
    int done[TM_LABELS] = {0}, rows = 0;
    for (int k = 0; k < n; k++) {
        int next = -1, next_edge = 0;
        for (int i = 0; i < n; i++) {
            int edge = label[i].x + label[i].w > width;
            if (done[i] || (next >= 0 && next_edge > edge)) continue;
            if (next < 0 || edge > next_edge ||
                (edge ? label[i].x < label[next].x : label[i].x > label[next].x)) {
                next = i;
                next_edge = edge;
            }
        }
        place(label, done, n, next, width);
        done[next] = 1;
        if (label[next].row >= rows) rows = label[next].row + 1;
    }
    return rows;
}

enum { LABEL_PITCH = 24, LABEL_GAP = 8 /* between a line and its label, and behind the label */ };

/* Returns the height that the labels take. */
static double layout(tm_label *label, const axes *a, const tm_lines *p)
{
    int n = p->n_mark < TM_LABELS ? p->n_mark : TM_LABELS;
    for (int i = 0; i < n; i++) {
        double w = tm_text_width(TEXT_SIZE, p->mark_label[i]) + 2 * LABEL_GAP;
        label[i] = (tm_label){x_pixel(a, p->mark[i]) - a->in.x, w, 0, 0};
    }
    return n ? tm_place_labels(label, n, a->in.w) * LABEL_PITCH + LABEL_GAP : 0;
}

/* Vertical lines, each from the top of its label down. above: what layout() returned. */
static void mark_lines(tm_canvas *c, const axes *a, const tm_lines *p, const tm_label *label,
                       double above)
{
    int n = p->n_mark < TM_LABELS ? p->n_mark : TM_LABELS;
    for (int i = 0; i < p->n_mark; i++) {
        double x = x_pixel(a, p->mark[i]);
        double down = i < n ? above - LABEL_GAP - (label[i].row + 1) * LABEL_PITCH : above;
        tm_line(c, x, a->in.y + down, x, a->in.y + a->in.h, 2, tm_sink);
    }
    for (int i = 0; i < n; i++) {
        const tm_label *l = &label[i];
        double x = a->in.x + label_start(l) + LABEL_GAP;
        double y = a->in.y + above - LABEL_GAP - l->row * LABEL_PITCH - 5; /* baseline */
        double w = l->w - 2 * LABEL_GAP;
        tm_fill(c, (tm_box){x - 2, y - TEXT_SIZE - 3, w + 4, TEXT_SIZE + 7}, tm_paper);
        tm_text(c, x, y, TEXT_SIZE, -1, tm_sink, p->mark_label[i]);
    }
}

void tm_plot_lines(tm_canvas *c, tm_box box, const tm_lines *p)
{
    axes a = {frame(c, box, p->title, p->x_label, p->y_label, 6.4 * TEXT_SIZE, TEXT_SIZE,
                    2.2 * TEXT_SIZE), p->first, p->first + p->n - 1, 0, 0, p->log_y, 0};
    tm_label label[TM_LABELS];
    double right = box.x + box.w, room = legend(c, a.in.x, right, 0, p, 0);
    double margin = p->n > 1 ? 0.02 * (p->n - 1) : 1;
    a.in.y += room;
    a.in.h = a.in.h > room + 1 ? a.in.h - room : 1;
    a.x0 -= margin;
    a.x1 += margin;
    double above = layout(label, &a, p);
    y_limits(&a, p, above);
    y_axis(c, &a);
    x_axis(c, &a, p->first, p->first + p->n - 1, NULL, 0, 0);
    outline(c, a.in);
    mark_lines(c, &a, p, label, above);
    for (int s = 0; s < p->n_series; s++) draw_series(c, &a, &p->series[s], p->first, p->n);
    legend(c, a.in.x, right, a.in.y - 0.9 * TEXT_SIZE - (room - 1.8 * TEXT_SIZE), p, 1);
}

/* ------------------------------------------------------------------- bars */

static int is_marked(const tm_bars *p, int i)
{
    for (int j = 0; j < p->n_mark; j++)
        if (p->mark[j] == i) return 1;
    return 0;
}

void tm_plot_bars(tm_canvas *c, tm_box box, const tm_bars *p)
{
    double top = p->level;
    for (int i = 0; i < p->n; i++)
        if (isfinite(p->value[i])) top = fmax(top, p->value[i]);
    axes a = {frame(c, box, p->title, p->x_label, p->y_label, 6.4 * TEXT_SIZE, TEXT_SIZE,
                    3 * TEXT_SIZE), 0, p->n > 0 ? p->n : 1, 0, top > 0 ? top * 1.1 : 1, 0, 0};
    y_axis(c, &a);
    x_axis(c, &a, 0, p->n - 1, p->number, p->n_number, 0.5);
    double w = a.in.w / (p->n > 0 ? p->n : 1);
    for (int i = 0; i < p->n; i++) {
        double y = isfinite(p->value[i]) ? y_pixel(&a, p->value[i]) : a.in.y + a.in.h;
        int marked = is_marked(p, i);
        double wide = marked && w < 4 ? 4 : w * (w > 3 ? 0.8 : 1); /* a sink must be seen */
        tm_fill(c, (tm_box){x_pixel(&a, i + 0.5) - wide / 2, y, wide, a.in.y + a.in.h - y},
                marked ? tm_sink : tm_series_color[0]);
    }
    if (p->level > 0) {
        double y = y_pixel(&a, p->level);
        for (double x = a.in.x; x < a.in.x + a.in.w; x += 16)
            tm_line(c, x, y, fmin(x + 8, a.in.x + a.in.w), y, 2, tm_ink);
        if (p->level_label)
            tm_text(c, a.in.x + a.in.w, y - 8, TEXT_SIZE, 1, tm_ink, p->level_label);
    }
    outline(c, a.in);
    mark_columns(c, &a, p->number, p->n_number, 0.5);
}
