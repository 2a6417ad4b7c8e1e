/* What `kvsink sinks` and the demo report about attention sinks: numbers derived from a
 * tm_attention, and the picture of them. */
#ifndef TM_SINKS_REPORT_H
#define TM_SINKS_REPORT_H

#include "report.h"

enum { SINKS_SEEN = 16, SINKS_TOP = 8, SINKS_EPS = 4 };

extern const double sinks_standard_eps[SINKS_EPS]; /* 0.05 0.1 0.2 0.3 */

typedef struct {
    const session *s;
    const int *ids; /* the caller's */
    int T;
    double eps;
    tm_attention a;
    double *mean;                 /* [T] alpha, mean over all heads of the model */
    double *share[SINKS_EPS + 1]; /* [T] at each standard eps; the last at eps */
    double *layer_alpha;          /* [L][T] mean over heads */
    int top[SINKS_TOP], n_top;    /* by mean, of the keys that SINKS_SEEN or more queries see */
    int *sink, n_sinks;           /* ranked keys that are sinks at eps in some head, ascending */
} sinks_report;

int sinks_report_run(sinks_report *r, const session *s, const int *ids, int T, double eps,
                     kv_error *err);
void sinks_report_free(sinks_report *r);

/* [T] of one layer. */
const double *sinks_layer_alpha(const sinks_report *r, int layer);

/* x [T] of one key against the median of all keys. */
double sinks_against_median(const float *x, int T, int t);

/* Attention maps of some layers, and the bars of the mean: a PNG file. */
int sinks_picture(const sinks_report *r, const char *path, kv_error *err);

#endif
