/* Results of evaluations as JSON: what eval prints and the lines of a sweep have in common. */
#ifndef TM_EVAL_JSON_H
#define TM_EVAL_JSON_H

#include "cli.h"
#include "eval.h"

/* All that one evaluation gives. */
typedef struct {
    tm_eval_result r;
    tm_eval_window *each;  /* [r.windows] */
    int layers;            /* 0: not measured */
    tm_layer_error *layer; /* [layers] at sinks, elsewhere */
    int *mark;             /* [ctx] layers in which each token of the first window is kept */
} eval_record;

/* Room for an evaluation; release with eval_record_free, also after a failure. */
int eval_record_init(eval_record *r, int windows, int layers, int ctx, kv_error *err);
void eval_record_free(eval_record *r);

/* Adds all but the marks to an object, and reads them back (1: everything was there; what has been
 * read is released with eval_record_free in either case). */
void eval_json_add(cJSON *to, const eval_record *r);
int eval_json_read(eval_record *r, const cJSON *root);

/* A number of an object; if it is not there 0, and *ok becomes 0. */
double eval_json_number(const cJSON *object, const char *name, int *ok);

#endif
