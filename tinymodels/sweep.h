/* Sweep: measures what a spec file asks for, cell by cell, and can be stopped at any time.
 *
 * Texts come one after the other; the 16-bit pass of a text, its keep sets and, as far as memory
 * allows, its logits are made once and serve all of its cells (base.h). Cells that the log holds
 * already are not measured again. */
#ifndef TM_SWEEP_H
#define TM_SWEEP_H

#include "session.h"
#include "sweep_results.h"
#include "sweep_spec.h"

typedef struct {
    const sweep_spec *spec;
    const char *out;      /* folder of results; exists */
    double memory;        /* bytes for logits */
    int quiet;            /* 1: no line for each finished cell */
    const sweep_cell *cell; /* [cells] what to measure, of spec's or some of them */
    int cells;
    /* Called for each finished cell, NULL: written to the log. */
    int (*done)(void *self, const sweep_cell *c, const sweep_result *r, kv_error *err);
    void *self;
} sweep_job;

/* common: threads and the like. Opens the model and the profile of the spec. *measured: cells that
 * were not there before. */
int sweep_run(const sweep_job *job, const cli_common *common, int *measured, kv_error *err);

/* The path of a file in the folder of results: "cells.jsonl". Returns path. */
char *sweep_path(char *path, size_t size, const char *out, const char *name);

#endif
