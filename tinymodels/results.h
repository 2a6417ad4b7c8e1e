/* Results: read the tables that experiments wrote (chapters/NN-name/results), to draw them.
 *
 * A table is text: comment lines that begin with "# ", one line of titles, then rows; cells are
 * separated by tabs. The first cell of a row names it. */
#ifndef TM_RESULTS_H
#define TM_RESULTS_H

#include "kv.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    int rows, cols;
    char **title; /* [cols] */
    char **cell;  /* [rows][cols]; a cell that its row lacks is "" */
    char *text;   /* what they point into */
    char path[256];
} tm_results;

/* Reads a table. Fails without a line of titles, and for a row with more cells than titles. */
int tm_results_read(tm_results *r, const char *path, kv_error *err);
void tm_results_free(tm_results *r);

/* The row of this name, the column of this title; -1 if there is none. */
int tm_results_row(const tm_results *r, const char *name);
int tm_results_col(const tm_results *r, const char *title);

/* A cell of row `row` (which may be -1) as text, "" if it is not there; as a number, NaN if it
 * is not there or is none. */
const char *tm_results_text(const tm_results *r, int row, const char *title);
double tm_results_number(const tm_results *r, int row, const char *title);

/* The part of a name "a/b/c" with this index, in a buffer of size bytes; "" behind the last. */
char *tm_results_part(char *buffer, size_t size, const char *name, int index);

#ifdef __cplusplus
}
#endif

#endif
