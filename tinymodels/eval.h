/* Evaluation: what a cache format costs, and what it does to a model's predictions.
 *
 * The same windows of tokens are run twice, once with 16-bit keys and values and once with the
 * format and keep rule in question, and the predictions are compared:
 *
 *   ppl, ppl16   exp of the mean of -ln p(next token) over all scored predictions
 *   kl           mean over scored predictions of sum p16 ln(p16 / p), in nats
 *   top1         share of scored predictions whose best token is the same (the lowest id of equals)
 *   bytes        of the packed cache at the end of a window, all layers, mean over windows
 *   bits         8 * bytes / (2 * layers * KV heads * head size * tokens of a window)
 *   kept         kept positions per layer, mean over layers and windows
 *
 * Whole-window: every position attends to the quantized window, statistics per window; the ctx - 1
 * predictions of a window are scored; all of it is prompt, so +decode changes nothing. Stream: the
 * first P tokens are a prefill that attends to unquantized keys and values, the others are fed one
 * by one through the packed cache, and the ctx - 1 - P predictions made by them are scored. Keep sets
 * come from the 16-bit pass over the same window (stream: over its prefill). With 16-bit keys and
 * values both passes would be the same computation, so it is made once, and kl is exactly 0.
 *
 * Sums run in double, in the order of the tokens, so results do not depend on threads. */
#ifndef TM_EVAL_H
#define TM_EVAL_H

#include "analysis.h"
#include "base.h"
#include "fast.h"
#include "kv.h"
#include "layers.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---------------------------------------------------------------- windows */

typedef enum { TM_BOS_EACH, TM_BOS_FIRST, TM_BOS_NONE } tm_bos;

/* Cuts n ids into windows of ctx tokens that do not overlap; a last partial one is dropped.
 * each: BOS and ctx - 1 ids; first: one BOS before the stream; none. At most limit windows (0:
 * all). *windows [*count][ctx] from malloc. Not enough ids for one window is an error. */
int tm_windows(int **windows, int *count, const int *ids, int n, int ctx, tm_bos rule, int bos,
               int limit, kv_error *err);

/* --------------------------------------------------------------- scoring */

typedef struct {
    double loss16, loss; /* -ln p(target) */
    double kl;
    int same;            /* 1: same best token */
} tm_score;

/* One prediction from its two rows of logits [vocab]. */
tm_score tm_score_row(const float *logits16, const float *logits, int vocab, int target);

/* ------------------------------------------------------------- evaluation */

typedef struct {
    kv_format keys, values;
    kv_keep_rule keep;
    const kv_profile *profile; /* or NULL */
    int recent;                /* stream only, else 0 */
    int ctx;
    int stream;                /* P, or 0: whole window */
} tm_eval_spec;

/* One window: means over its scored predictions. */
typedef struct {
    double loss16, loss; /* -ln p of what comes next */
    double kl, top1;
    double bytes, kept;  /* of its cache; kept positions per layer, mean over layers */
    int capped;
} tm_eval_window;

/* Octave o holds the predictions of positions 2^o .. 2^(o+1)-1: sums over all windows. */
enum { TM_OCTAVES = 21 };

typedef struct {
    long long tokens;
    double loss16, loss, kl;
} tm_octave;

typedef struct {
    int windows;
    long long tokens;       /* scored predictions */
    double ppl16, ppl, kl, top1;
    double kl_error;        /* standard errors over windows; 0 for one window */
    double loss, loss_error; /* ln(ppl / ppl16): how much worse the mean -ln p is */
    double top1_error;
    double bits, bytes, bytes16, kept;
    int capped;             /* windows in which an auto rule met its cap */
    tm_octave octave[TM_OCTAVES];
    double logits_error[TM_TOKEN_KINDS]; /* if layers were asked for, see layers.h */
} tm_eval_result;

/* windows [count][ctx], as tm_windows makes them. fast: whose threads to use besides the engine's
 * backend; NULL: none, and decoding by ref/. Usage errors of formats and rules are found before
 * anything runs. */
int tm_eval(tm_eval_result *r, const tm_eval_spec *spec, const tm_engine *e, tm_fast *fast,
            const int *windows, int count, tm_progress *progress, void *self, kv_error *err);

/* One setting on the 16-bit side that tm_base made. */
typedef struct {
    kv_format keys, values;
    int recent;    /* stream only, else 0 */
    int choice;    /* number of the keep rule among those of the base */
    int windows;   /* the first so many of the base; 0: all */
} tm_eval_cell;

/* each [windows], layer [layers], mark [ctx]: NULL if nobody wants to know. layer: for whole
 * windows, on a base that marks sinks. mark: in how many layers each token of the first window is kept
 * (streams: all 0). Results do not depend on what was asked of the base before. */
int tm_eval_on(tm_eval_result *r, tm_eval_window *each, tm_layer_error *layer, int *mark,
               const tm_eval_cell *cell, tm_base *base, tm_progress *progress, void *self,
               kv_error *err);

#ifdef __cplusplus
}
#endif

#endif
