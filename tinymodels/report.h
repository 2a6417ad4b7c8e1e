/* What the analysing commands (sinks, outliers, calibrate, predict, eval) share: names of tokens,
 * profiles that fit the open model, numbers in JSON. */
#ifndef TM_REPORT_H
#define TM_REPORT_H

#include "analysis.h"
#include "session.h"

tm_engine report_engine(const session *s);

/* The bytes of a token between quotes, printable, cut to fit: ' the'. _plain: ASCII only, for
 * pictures. capacity at least 16. Return buffer. */
char *report_piece(char *buffer, size_t capacity, const session *s, int id);
char *report_piece_plain(char *buffer, size_t capacity, const session *s, int id);

/* Reads a profile and checks that it was made for the open model; another hash is a warning.
 * Release it with tm_profile_free. */
int report_profile(kv_profile *p, const session *s, const char *path, kv_error *err);

/* position, id and piece into an object. */
void report_add_token(cJSON *object, const session *s, const int *ids, int position);

cJSON *report_doubles(const double *x, int n);
cJSON *report_floats(const float *x, int n);

/* A tm_progress; self is the label. */
void report_progress(void *label, double done, double total);

#endif
