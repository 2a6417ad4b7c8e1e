/* Analysis: run a text through the decoder and look at it through the taps.
 *
 * Each function runs one or more forward passes without a cache and boils what the taps show down
 * to the few numbers that a table, a picture or a profile is made of: who receives attention
 * (chapter 1), where outliers arise and fall (chapter 2), what calibration learns (chapter 6).
 * The definitions are those of ref/; nothing here prints. Results are in memory from
 * malloc, released by the function named ..._free, which is harmless on all zeros. */
#ifndef TM_ANALYSIS_H
#define TM_ANALYSIS_H

#include "evidence.h"
#include "kv.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What runs: a model and the linear algebra to run it with. */
typedef struct {
    const kv_model *model;
    const kv_backend *backend;
} tm_engine;

/* Told how far a longer work is; NULL: nobody wants to know. */
typedef void tm_progress(void *self, double done, double total);

/* ----------------------------------------------------------------- probes */

/* One number per token: a channel of what one tap shows at one layer. */
typedef struct {
    kv_tap tap;
    int layer, channel;
} tm_probe;

/* For those who run the decoder themselves: hand tm_probe_tap and a tm_probes to kv_forward, with
 * the mask of tm_probe_mask. Row r of what the tap shows goes to out[i][first + r], as far
 * as that is below T. */
typedef struct {
    float *out; /* [n][T] */
    const tm_probe *probe;
    int n, T, first;
} tm_probes;

kv_tap_function tm_probe_tap;
unsigned tm_probe_mask(const tm_probe *probe, int n);

/* out [n][T] of T tokens. */
int tm_probe_run(float *out, const tm_probe *probe, int n, const tm_engine *e, const int *tokens,
                 int T, kv_error *err);

/* probe [p->n_stages]: the residual at every stage, as kv_keep_build wants it. */
void tm_stage_probes(tm_probe *probe, const kv_profile *p);

/* -------------------------------------------------------------- attention */

typedef struct {
    int layers, heads, T;
    double eps;                      /* of void and heavy */
    double *alpha;                   /* [L][H][T] attention that each key receives */
    float *q_norm, *k_norm, *v_norm; /* [L][T] over all heads of the layer */
    float *cosine;   /* [L][T] of the key with the queries that see it, mean over those and heads */
    int *is_void, *is_heavy;         /* [L][T] heads in which it is a void sink, a heavy hitter */
} tm_attention;

int tm_attention_run(tm_attention *a, const tm_engine *e, const int *tokens, int T, double eps,
                     kv_error *err);
void tm_attention_free(tm_attention *a);

/* share [T]: percent of all heads of the model in which the key's alpha exceeds eps. */
void tm_attention_share(double *share, const tm_attention *a, double eps);

/* Mean over the heads of a layer. mass: of the attention that the positions (ascending) receive
 * together; alpha: of one key's. */
double tm_attention_mass(const tm_attention *a, int layer, const int *position, int n);
double tm_attention_alpha(const tm_attention *a, int layer, int key);

/* Positions by falling value, the first of equals first; only keys that at least `seen` of the
 * T queries can see. Returns how many were written, at most n. */
int tm_rank(int *position, const double *value, int T, int seen, int n);

/* map [n][T][T]: attention rows of the listed layers, mean over heads. */
int tm_attention_maps(float *map, const int *layer, int n, const tm_engine *e, const int *tokens,
                      int T, kv_error *err);

/* --------------------------------------------------------------- outliers */

typedef struct {
    int layers, width, T;
    kv_extreme *h;                  /* [L+1] residual; first the embedding, then after each layer */
    kv_extreme *down_in, *down_out; /* [L] around the down projection */
    float *peak;                    /* [L+1][C] */
    float *median;                  /* [L+1] */
    kv_stage *stage;                /* this text's own stages: layer, channel, sign */
    int n_stages, weak;
} tm_outliers;

int tm_outliers_run(tm_outliers *o, const tm_engine *e, const int *tokens, int T, kv_error *err);
void tm_outliers_free(tm_outliers *o);

/* ------------------------------------------------------------ calibration */

typedef struct {
    kv_profile profile; /* hash: 0, the caller knows it */
    int prompts;
    kv_stage *found;    /* [prompts][layers], count[p] of them: each prompt's own */
    int *count;
    /* Sun et al.'s criterion: the first layer with a value above 100 and above 1000 times the
     * median, and its channel; what most prompts say. -1: none. */
    int sun_layer, sun_channel, sun_prompts;
} tm_calibration;

/* prompt [n] of length [n] tokens each. Magnitudes are rounded to 9
 * significant digits, so that the profile in memory is the one in the file. */
int tm_calibrate(tm_calibration *c, const tm_engine *e, const int *const *prompt,
                 const int *length, int n, tm_progress *progress, void *self, kv_error *err);
void tm_calibration_free(tm_calibration *c);

#ifdef __cplusplus
}
#endif

#endif
