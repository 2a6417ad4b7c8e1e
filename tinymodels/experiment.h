/* Experiment: what the programs of the chapters share (chapters/NN-name/experiment.c).
 *
 * Each of them runs one model on several texts, writes small tables and pictures into a folder and
 * says in every table what it was made from, so that book and study can quote it (book/style.md).
 * All have the same command line:
 *
 *     build/experiments/NN MODEL --profile F --text NAME=FILE ... --packed NAME=N:FILE ...
 *                          --chat NAME=FILE ... [--ctx N] [--windows N] [--long] --out DIR
 *
 * A text is cut into windows that do not overlap. Plain: each begins with BOS where the model has
 * one. Packed: passages of at most N tokens joined by the end-of-text token. Chat: every
 * conversation of the file (a system message begins a new one) is a window of its own, so that
 * windows may be shorter than ctx. */
#ifndef TM_EXPERIMENT_H
#define TM_EXPERIMENT_H

#include "analysis.h"
#include "cli.h"
#include "eval.h"
#include "files.h"
#include "report.h"
#include "session.h"

/* ------------------------------------------------------------------ texts */

typedef enum { EXPERIMENT_PLAIN, EXPERIMENT_PACKED, EXPERIMENT_CHAT } experiment_kind;

typedef struct {
    char name[32];
    experiment_kind kind;
    const char *path;
    int passage;       /* packed: tokens of a passage at most */
    uint64_t checksum; /* FNV-1a of the file */
    size_t bytes;
    int *ids, n;       /* plain, packed: all tokens, without BOS */
    int ctx, count;    /* windows */
    int *tokens;       /* [count][ctx] */
    int *length;       /* [count], at most ctx */
} experiment_text;

const int *experiment_window(const experiment_text *t, int w);

/* ------------------------------------------------------------- experiments */

enum { EXPERIMENT_TEXTS = 32 };

/* The 16-bit side of the comparison that was made last, for those that follow on the same window.
 * */
typedef struct {
    uint64_t tokens;    /* checksum; 0: none */
    float *hidden;      /* [n][C] */
    int n;
    uint64_t rows;      /* checksum of the hidden states that logits belong to; 0: none */
    float *logits;      /* [n-1-first][vocab], if that is not too much */
    int first, last;
} experiment_base;

typedef struct {
    const char *number, *summary; /* "02", one line */
    const char *sources;          /* files that decide the results, separated by spaces */
    const char *details;          /* for --help, or NULL */
    int ctx, windows;             /* defaults */
    int wants_profile;            /* 1: refuse to run without one */
    const cli_option *options;    /* its own, or NULL; ended by zeros */
} experiment_spec;

typedef struct {
    const experiment_spec *spec;
    cli_common common;
    session s;
    tm_engine e;
    kv_profile profile; /* all zeros without --profile */
    const char *out;    /* exists */
    int ctx, windows, is_long;
    experiment_text text[EXPERIMENT_TEXTS];
    int n;
    char *command;      /* the command line */
    char note[256];     /* one more comment line for the tables to come, if not empty */
    experiment_base base;
    /* behind this line: what the command line is parsed into */
    char name[32];
    cli_list plain, packed, chat;
    const char *profile_path;
    cli_command cli;
    cli_option option[24];
} experiment;

/* Parses, opens model, profile and texts, makes the folder. Returns 1 to go on, 0 when the program
 * is over with *status. */
int experiment_open(experiment *x, const experiment_spec *spec, int argc, char **argv, int *status);
void experiment_close(experiment *x);

/* Prints the error and returns the exit status. */
int experiment_fail(const experiment *x, const kv_error *err);

/* Cuts a text into windows of another length: at most `windows` (0: all). A plain or packed text
 * that does not fill one is an error; chats are cut at ctx. The old windows are gone. */
int experiment_cut(experiment *x, experiment_text *t, int ctx, int windows, kv_error *err);

/* DIR/name; good until four more have been asked for. */
const char *experiment_path(const experiment *x, const char *name);

/* Opens the table DIR/name: comment lines that say where it comes from, then the titles (separated
 * by tabs). The caller prints rows and closes it with tm_out_close. */
int experiment_table(tm_out *out, const experiment *x, const char *name, const char *titles,
                     kv_error *err);

/* -------------------------------------------------------------- arithmetic */

/* Mean and its standard error, one value after the other; non-finite ones are not counted. */
typedef struct {
    int n;
    double sum, square;
} experiment_mean;

void experiment_add(experiment_mean *m, double x);
double experiment_mean_of(const experiment_mean *m);  /* NaN if nothing was added */
double experiment_error_of(const experiment_mean *m); /* 0 for fewer than two */

/* Reorders x [n]; 0 for none. */
double experiment_median(double *x, int n);

/* Seconds since some moment; and what time was measured on: "model of the CPU, N threads". */
double experiment_seconds(void);
char *experiment_machine(char *buffer, size_t size, const experiment *x);

/* Compares the predictions of two hidden states [n][C] of a window as tm_eval does, those of rows
 * first .. n-2: means over them. */
typedef struct {
    double loss16, loss, kl, same;
} experiment_scores;

int experiment_score(experiment_scores *s, experiment *x, const float *hidden16,
                     const float *hidden, const int *tokens, int first, int n, kv_error *err);

/* A whole window through a cache: hidden [n][C] with these formats and keep set (NULL: none). */
int experiment_quantized(float *hidden, double *bytes, experiment *x, const kv_format *keys,
                         const kv_format *values, const kv_keep *keep, const int *tokens, int n,
                         kv_error *err);

/* *hidden: the same with 16-bit keys and values; x's, and good until another window is asked for.
 * */
int experiment_sixteen(const float **hidden, experiment *x, const int *tokens, int n,
                       kv_error *err);

/* flag [T]: 1 for sinks: keys that receive alpha > eps in at least one in a hundred heads of the
 * model, of those that SINKS_SEEN or more queries see. Returns how many. */
int experiment_sinks(int *flag, const tm_attention *a, double eps);

/* calloc that reports. At least one byte. */
void *experiment_zeros(size_t n, size_t size, kv_error *err);

#endif
