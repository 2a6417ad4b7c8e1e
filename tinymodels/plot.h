/* Plot: pictures of attention and outliers, as PNG files.
 *
 * A canvas is an array of RGB bytes with a few ways to draw on it (smooth lines, discs, text in a
 * small font of our own). On top of it stand three kinds of plot, each drawn into a
 * box of the canvas so that one picture may hold several: heat maps, lines and bars. Pixels count
 * from the upper left corner; boxes and lines may have fractions. What lies outside the canvas is
 * cut off. Text is ASCII; any other byte is drawn as an empty frame. */
#ifndef TM_PLOT_H
#define TM_PLOT_H

#include "kv.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    unsigned char r, g, b;
} tm_color;

typedef struct {
    int width, height;
    unsigned char *rgb; /* [height][width][3] */
} tm_canvas;

typedef struct {
    double x, y, w, h;
} tm_box;

/* Names that keep their meaning over all pictures: ink for text and axes, sink for sinks, series
 * for everything else, in this order. */
extern const tm_color tm_paper, tm_ink, tm_faint, tm_sink;
enum { TM_SERIES_COLORS = 6 };
extern const tm_color tm_series_color[TM_SERIES_COLORS];

/* ----------------------------------------------------------------- canvas */

/* A canvas of paper. Sizes 1..8192. Release it with tm_canvas_free. */
int tm_canvas_init(tm_canvas *c, int width, int height, kv_error *err);
void tm_canvas_free(tm_canvas *c);

/* Writes a PNG file, whole or not at all. */
int tm_canvas_write(const tm_canvas *c, const char *path, kv_error *err);

void tm_fill(tm_canvas *c, tm_box box, tm_color color);
void tm_line(tm_canvas *c, double x0, double y0, double x1, double y1, double width,
             tm_color color);
void tm_disc(tm_canvas *c, double x, double y, double radius, tm_color color);

/* Text whose capitals are `size` pixels high, its baseline at y. anchor: where x is, -1 left end,
 * 0 middle, 1 right end. tm_text_up reads from bottom to top; x is its baseline. */
void tm_text(tm_canvas *c, double x, double y, double size, int anchor, tm_color color,
             const char *text);
void tm_text_up(tm_canvas *c, double x, double y, double size, int anchor, tm_color color,
                const char *text);
double tm_text_width(double size, const char *text);

/* A step of 1, 2 or 5 times a power of ten that cuts a range into at most n parts. */
double tm_nice_step(double range, int n);

/* ------------------------------------------------------------------ plots */

/* data [rows][cols] >= 0, row 0 on top. Colours follow the square root of the value, so that a
 * hundredth still shows beside a one; the bar at the right tells values. Marked columns get a
 * triangle and their number below. Marks come the most important first: a number that would touch
 * an earlier mark's is left out. */
typedef struct {
    const char *title, *x_label, *y_label; /* NULL: none */
    const float *data;
    int rows, cols;
    double top;          /* value of the brightest colour; 0: the largest of data */
    const int *mark;     /* columns */
    int n_mark;
    int no_scale;        /* 1: leave the colour bar out */
} tm_heat;

void tm_plot_heat(tm_canvas *c, tm_box box, const tm_heat *h);

typedef struct {
    const char *name;  /* for the legend; that of the first NULL: no legend */
    const double *y;   /* [n]; values that are not finite leave a gap */
    tm_color color;
    int dots;          /* 1: a dot at every point */
} tm_series;

/* Series over x = first .. first+n-1. Log axis: values <= 0 leave a gap. Marked x values
 * get a vertical line, and the first TM_LABELS of them a label. */
enum { TM_LABELS = 16 };

typedef struct {
    const char *title, *x_label, *y_label;
    int first, n;
    int log_y;
    const tm_series *series;
    int n_series;
    const int *mark;               /* x values */
    const char *const *mark_label; /* [n_mark] */
    int n_mark;
} tm_lines;

void tm_plot_lines(tm_canvas *c, tm_box box, const tm_lines *p);

/* A label of width w beside a vertical line at x, within 0..width: row 0 is the lowest. */
typedef struct {
    double x, w;      /* asked */
    int left, row;    /* answered: it ends at x instead of beginning there */
} tm_label;

/* Finds places where no label touches another and, if there are such, where no line, running from
 * its label down, crosses another label. Returns the number of rows, at most n. n <= TM_LABELS. */
int tm_place_labels(tm_label *label, int n, double width);

/* One bar per value >= 0 at x = 0..n-1; marked ones in the colour of sinks; `number` lists those
 * with a triangle and their number below, as tm_heat's marks; `level` draws a horizontal line with
 * a label (0: none). */
typedef struct {
    const char *title, *x_label, *y_label;
    const double *value;
    int n;
    double level;
    const char *level_label;
    const int *mark, *number;
    int n_mark, n_number;
} tm_bars;

void tm_plot_bars(tm_canvas *c, tm_box box, const tm_bars *p);

#ifdef __cplusplus
}
#endif

#endif
