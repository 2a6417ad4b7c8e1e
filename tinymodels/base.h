/* Base: the 16-bit side of evaluations, made once and used by many.
 *
 * Whatever format and keep rule is evaluated on a text, the pass with 16-bit keys and values is the
 * same, and so are the keep sets that it leads to. A tm_base makes both, window by window in
 * their order, when they are first asked for. It holds hidden states (small), and of the logits,
 * which are large, as many as the memory that it was given allows; the others are made again from
 * the hidden states each time. */
#ifndef TM_BASE_H
#define TM_BASE_H

#include "analysis.h"
#include "fast.h"
#include "kv.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A way to choose kept tokens. If it matches another, its K is not its own: in each window it is
 * the number that makes the mean of kept rows a layer (over layers and windows so far) that of
 * `like`. Fractions are carried to the next window, so over all windows the means differ by less than
 * 1/windows, unless a window has too few tokens. */
typedef struct {
    kv_keep_rule rule;
    int matches; /* 1: with the mean kept rows of `like` */
    kv_keep_rule like;
} tm_choice;

/* A KEEP of the command line, or first:=KEEP, toph:=KEEP: as many rows as the other KEEP keeps. */
int tm_choice_parse(tm_choice *c, const char *text, kv_error *err);

/* 1 if it needs a profile. */
int tm_choice_needs_profile(const tm_choice *c);

typedef struct {
    int ctx;
    int stream;               /* P, or 0: whole window */
    const kv_profile *profile; /* or NULL */
    const tm_choice *choice;  /* [choices]; the caller's, used until the end */
    int choices;
    int marks;                /* 1: mark sinks, for whole windows */
    int hold;                 /* 1: all windows; 0: only the latest is needed again */
    size_t memory;            /* bytes for logits */
} tm_base_spec;

typedef struct tm_base tm_base;

/* windows [count][ctx]: the caller's, used until the end. Usage errors of the choices are found
 * here. fast: as tm_eval's. */
int tm_base_open(tm_base **out, const tm_base_spec *spec, const tm_engine *e, tm_fast *fast,
                 const int *windows, int count, kv_error *err);
void tm_base_close(tm_base *b); /* NULL is harmless */

const tm_base_spec *tm_base_spec_of(const tm_base *b);
const tm_engine *tm_base_engine(const tm_base *b);
tm_fast *tm_base_fast(const tm_base *b);
int tm_base_count(const tm_base *b);
const int *tm_base_tokens(const tm_base *b, int w);

/* 1 if window w has been made already. */
int tm_base_has(const tm_base *b, int w);

typedef struct {
    const float *hidden;     /* [ctx][C] */
    const kv_keep *keep;     /* [choices], whole windows only, else NULL. greedy's is empty: it
                                depends on the format, and so is the evaluation's affair */
    const int *capped;       /* [choices] */
    const char *is_sink;     /* [ctx] what kvsink:auto@join marks with this profile; without one,
                                or where it has no stage, the first token. If marks is set. */
    double bytes;            /* of the 16-bit cache */
    double *log_sum;         /* [ctx] of a row's exponentials; NaN: nobody has asked yet */
    int *best;               /* [ctx] largest logit, the lowest id of equals */
} tm_base_window;

/* Window w, made if need be; those before it must have been made (in order, once). Told to
 * progress as one pass. Valid until the next call, or for ever with hold. */
int tm_base_take(tm_base_window *out, tm_base *b, int w, tm_progress *progress, void *self,
                 kv_error *err);

/* Logits of rows first..first+n-1 of the window last taken [n][vocab]: held ones, or made in
 * buffer [n][vocab]. Always ask for the same blocks of rows. */
int tm_base_logits(const float **logits, tm_base *b, int w, int first, int n, float *buffer,
                   kv_error *err);

#ifdef __cplusplus
}
#endif

#endif
