/* What `kvsink outliers` and the demo report about outliers: the text's own stages, each followed
 * through depth, and the picture of it. */
#ifndef TM_OUTLIERS_REPORT_H
#define TM_OUTLIERS_REPORT_H

#include "report.h"

enum { OUTLIERS_FOLLOWED = 4 }; /* stages followed, at most */

typedef struct {
    const session *s;
    const int *ids; /* the caller's */
    int T;
    tm_outliers o;
    int n;                        /* stages followed */
    int token[OUTLIERS_FOLLOWED]; /* the one with the largest |H| in the stage's channel, there */
    float *h[OUTLIERS_FOLLOWED];  /* [L] residual of that token and channel after each layer, */
    float *write[OUTLIERS_FOLLOWED];    /* [L] and what the down projection added */
    kv_phase *phase[OUTLIERS_FOLLOWED]; /* [L] */
} outliers_report;

int outliers_report_run(outliers_report *r, const session *s, const int *ids, int T, kv_error *err);
void outliers_report_free(outliers_report *r);

/* The layer that takes a followed stage's outlier away, -1: none does. */
int outliers_dissipation(const outliers_report *r, int i);

/* Magnitudes over depth: a PNG file. */
int outliers_picture(const outliers_report *r, const char *path, kv_error *err);

#endif
