/* Results of a sweep: cells.jsonl, one line of JSON for each measured cell.
 *
 * Lines are appended whole and put on the disk (fsync) one by one, so a sweep that is killed loses
 * the cell in progress and nothing else; what a kill, a crash or a power cut left of a last line is
 * cut off before the next one is written. */
#ifndef TM_SWEEP_RESULTS_H
#define TM_SWEEP_RESULTS_H

#include "eval_json.h"
#include "sweep_spec.h"

enum { SWEEP_MARKS = 384 }; /* tokens of the first window whose keeping is recorded */

typedef struct {
    char id[20];      /* hash of all that the figures depend on */
    char *label;      /* TEXT/FORMAT/KEEP, the names of the spec file */
    char *what;       /* the same in full: sweep_describe */
    char *commit, *model, *file;
    int ctx, stream, threads, depth; /* depth: layers of the model */
    double seconds;
    eval_record e;
    int marks; /* of e.mark, at most SWEEP_MARKS; 0: not known */
} sweep_result;

typedef struct {
    int n;
    sweep_result *result;
} sweep_results;

/* What is measured, without what it depends on beside the spec file (contents of text, model,
 * profile): written to text. */
void sweep_describe(char *text, size_t size, const sweep_spec *s, const sweep_cell *c);
/* TEXT/FORMAT/KEEP. */
void sweep_label(char *text, size_t size, const sweep_spec *s, const sweep_cell *c);

/* All whole lines of a file; one that is missing has none. A bad line is an error with file:line;
 * a last line without its end is passed over. */
int sweep_results_read(sweep_results *out, const char *path, kv_error *err);
void sweep_results_free(sweep_results *r);
void sweep_result_free(sweep_result *r);

/* The last result that answers the cell: of this id, or (id NULL) of this description; with errors
 * of layers if the cell wants them. NULL: none. */
const sweep_result *sweep_results_find(const sweep_results *all, const sweep_spec *s,
                                       const sweep_cell *c, const char *id);

/* A file that lines are added to by one process at a time. */
typedef struct {
    int fd;
    char path[4096];
} sweep_log;

int sweep_log_open(sweep_log *log, const char *path, kv_error *err);
int sweep_log_add(sweep_log *log, const sweep_result *r, kv_error *err);
void sweep_log_close(sweep_log *log);

#endif
