/* Points: a plot of single measurements over two axes, on the canvas of plot.h.
 *
 * A kind of point has a shape and a colour of its own; no two of the first 42 share both, and
 * neighbours differ in both, so that the plot can be read without colours. */
#ifndef TM_PLOT_POINTS_H
#define TM_PLOT_POINTS_H

#include "plot.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    double x, y, error; /* error: half a bar along y; 0: none */
    int kind;
} tm_point;

/* A name for the points around x, above them all. */
typedef struct {
    double x;
    const char *text;
} tm_point_label;

/* y is logarithmic: points with y <= 0 are left out. Marks that would cover each other stand side
 * by side, moved by at most 24 pixels. Names that would touch get rows of their own. */
typedef struct {
    const char *title, *x_label, *y_label;
    const tm_point *point;
    int n;
    const tm_point_label *label;
    int n_labels;
} tm_points;

void tm_plot_points(tm_canvas *c, tm_box box, const tm_points *p);

/* The mark of a kind, about 2 * size pixels wide. */
void tm_mark(tm_canvas *c, double x, double y, double size, int kind);

/* Marks (or, lines 1, short lines in the colours of tm_series_color) with their names, in columns
 * from the upper left corner of a box of this width; returns the height they take. c NULL: only
 * measures. */
double tm_plot_legend(tm_canvas *c, double x, double y, double width, const char *const *name,
                      int n, int lines);

#ifdef __cplusplus
}
#endif

#endif
