/* Tables and pictures of a sweep, made from its results and nothing else. */
#ifndef TM_SWEEP_TABLE_H
#define TM_SWEEP_TABLE_H

#include "sweep_results.h"
#include "sweep_spec.h"

/* A cell with its result and, where its group has a baseline, that one's on the same text and
 * format. NULL: not measured (yet). */
typedef struct {
    sweep_cell cell;
    const sweep_result *result, *baseline;
} sweep_row;

/* In the order of the tables, from malloc; NULL and a message: no memory. */
sweep_row *sweep_rows(int *n, const sweep_spec *s, const sweep_results *all, kv_error *err);

/* out/table.md and out/table.csv. */
int sweep_write_tables(const sweep_spec *s, const sweep_row *row, int n, const char *out,
                       kv_error *err);

/* out/bits-kl.png, out/layers*.png, out/kept*.png, as far as there is anything to show. */
int sweep_write_pictures(const sweep_spec *s, const sweep_row *row, int n, const char *out,
                         kv_error *err);

#endif
