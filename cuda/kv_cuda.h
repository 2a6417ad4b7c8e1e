//@ top: Offer the kernels to C programs
/* kv_cuda.h - the C interface of cuda/. A program in C includes this header
 * and links the object files of cuda/, made by nvcc for a GPU, or by an
 * ordinary compiler with the simulator (make build/libkvcuda-sim.a).
 *
 * Conventions are those of ref/kv.h, and besides:
 *   - Arrays live on the device (kv_cuda_alloc) unless a line says "host".
 *   - version 0 lets the launcher choose a kernel by shape; 1, 2, ... name
 *     kernel k01, k02, ... of the file, each correct for any shape that its
 *     launcher does not refuse.
 *   - A launcher looks at sizes and pointers first. What cannot be is
 *     KV_FAIL_USAGE with a message, and no kernel has been started.
 *   - Launchers do not wait. Copies do.
 *   - What ref/ finds wrong with the numbers, kernels note in a word on the
 *     device: the smallest index of an element that is no good. One word
 *     serves any number of launches. kv_cuda_fault waits and looks. */
#ifndef KV_CUDA_H
#define KV_CUDA_H

#include "kv.h"

#ifdef __cplusplus
extern "C" {
#endif

//@ device: Get memory on the device, and copy
/* NULL: no memory, or no device; bytes = 0 gives a pointer all the same. */
void *kv_cuda_alloc(size_t bytes, kv_error *err);
void kv_cuda_free(void *p); /* NULL is nothing */

/* Copies wait for all that was launched before. */
int kv_cuda_upload(void *device, const void *host, size_t bytes,
                   kv_error *err);
int kv_cuda_download(void *host, const void *device, size_t bytes,
                     kv_error *err);

/* Wait for what was launched; KV_FAIL_RUN if any of it failed. */
int kv_cuda_wait(kv_error *err);

/* "Simulator", or the device's name and what it can do. Returns text. */
char *kv_cuda_device(char *text, size_t size);

//@ fault: Learn what a kernel found wrong with its input
typedef unsigned long long kv_fault; /* an index; all ones: nothing */

/* A new word, which says nothing; NULL as kv_cuda_alloc. */
kv_fault *kv_cuda_fault_new(kv_error *err);

/* Wait, look and forget: KV_FAIL_RUN naming `what` and the element, or
 * KV_OK. *index (host, or NULL) is the element's number. */
int kv_cuda_fault(kv_fault *fault, unsigned long long *index,
                  const char *what, kv_error *err);

//@ softmax: Chapter 1: softmax of rows of scores
typedef enum { KV_SOFTMAX_PLAIN, KV_SOFTMAX_ONE, KV_SOFTMAX_LEARNED }
    kv_softmax_kind;

/* Rows of attention from scores, as kv_softmax, kv_softmax1, kv_softmax_sink.
 *   p, s  [H][n][past+n]; query i sees columns 0..past+i, and p is 0 beyond
 *         (s is not read there). p may be s. One row of m scores is H = 1,
 *         n = 1, past = m-1; R of them H = R.
 *   rest  [H][n] what the sink takes, or NULL
 *   sink  [H] learned logits for KV_SOFTMAX_LEARNED, else NULL
 * fault: a visible score that is not finite, by its index in s; a sink logit
 * counts as element H*n*(past+n) + h. Then p and rest are of no use.
 * H = 0 or n = 0 is nothing. */
int kv_cuda_softmax(float *p, float *rest, const float *s, const float *sink,
                    kv_softmax_kind kind, int H, int n, int past,
                    kv_fault *fault, int version, kv_error *err);
enum { KV_CUDA_SOFTMAX_VERSIONS = 4 };

//@ sinks: Chapter 1: how much attention each key receives
/* alpha [H][T] (double) of rows [H][T][T], each head as kv_sink_alpha. fault:
 * an entry on or below the diagonal that is not finite. Version 3 wants T to
 * be a multiple of 4. */
int kv_cuda_sink_alpha(double *alpha, const float *rows, int H, int T,
                       kv_fault *fault, int version, kv_error *err);
enum { KV_CUDA_ALPHA_VERSIONS = 3 };

//@ peaks: Chapter 2: the largest magnitude of each token and channel
/* A magnitude, its sign, and where it is, in one number whose order is that
 * of magnitudes, and among equals the reverse of places. So a maximum in any
 * order gives the first of the largest. */
typedef unsigned long long kv_peak;

static inline float kv_peak_value(kv_peak p) {
    union { uint32_t bits; float x; } v;
    v.bits = (uint32_t)(p >> 32) | (uint32_t)(p << 31);
    return v.x;
}
static inline int kv_peak_place(kv_peak p) {
    return (int)(0x7fffffffu - ((uint32_t)p >> 1));
}

/* x [rows][cols]; token [rows]: the largest |x| of each token and its channel;
 * channel [cols]: that of each channel and its token, as kv_channel_peaks.
 * Version 3 wants cols to be a multiple of 4. rows or cols 0 is nothing.
 * fault: an element that is not finite. */
int kv_cuda_peaks(kv_peak *token, kv_peak *channel, const float *x, int rows,
                  int cols, kv_fault *fault, int version, kv_error *err);
enum { KV_CUDA_PEAKS_VERSIONS = 3 };

//@ median: Chapter 2: the median magnitude
/* median [1]: as kv_median_abs of x [n], which stays as it is. n = 0 gives 0.
 * work: KV_CUDA_MEDIAN_WORK bytes. fault: an element that is not finite. */
int kv_cuda_median(float *median, const float *x, size_t n, void *work,
                   kv_fault *fault, int version, kv_error *err);
enum { KV_CUDA_MEDIAN_VERSIONS = 3, KV_CUDA_MEDIAN_WORK = 16448 };

//@ kvsink: Chapter 6: predict sinks while the residual is written
/* A running top-k of |H[:, c]| over a prompt that comes in chunks. The struct
 * is the host's; memory is of the device, kv_cuda_topk_bytes(tokens) bytes,
 * for prompts of at most so many tokens. start empties it. */
typedef struct {
    int K, tokens; /* how many are wanted; room */
    int seen;      /* tokens so far */
    void *memory;
    double threshold; /* or 0 */
} kv_cuda_topk;

size_t kv_cuda_topk_bytes(int tokens);
int kv_cuda_topk_start(kv_cuda_topk *top, void *memory, int K, int tokens,
                       kv_error *err);

/* The same for the rule with a threshold: tokens is the prompt's length. */
int kv_cuda_above_start(kv_cuda_topk *top, void *memory, double threshold,
                        int tokens, kv_error *err);

//@ residual: Chapter 6: update the residual, and look on
/* h [n][C] += add [n][C], the residual update at the end of a layer; the n
 * values h[:, channel] join top as those of the prompt's next n positions.
 * top NULL: only the update. fault: an element of the new h that is not
 * finite; what top holds is of no use from then on. Version 3 wants C to be a
 * multiple of 4. n = 0 is nothing. */
int kv_cuda_residual(float *h, const float *add, int n, int C, int channel,
                     kv_cuda_topk *top, kv_fault *fault, int version,
                     kv_error *err);
enum { KV_CUDA_RESIDUAL_VERSIONS = 3 };

/* position [K]: what kv_top_magnitudes gives for all values so far, its rule
 * for ties included; count [1]: how many, min(K, seen). With a threshold, when
 * the prompt is complete: what kv_above_threshold gives; count [2]: how many,
 * and whether its cap binds; position has room for max(5, tokens/20). */
int kv_cuda_topk_read(int *position, int *count, const kv_cuda_topk *top,
                      kv_error *err);

//@ quantize: Chapter 3: quantize a whole array
/* As kv_quantize with plain integers (2, 3, 4, 8 bits, any axis and group,
 * sym or not): codes [T][Hk][D], scale, min [groups], x [T][Hk][D], kept [T]
 * or NULL. Symmetric: min is all 0. fault: an element that ref/ refuses (not
 * finite, or 65520 and more). */
int kv_cuda_quantize(uint8_t *codes, uint16_t *scale, uint16_t *min,
                     const float *x, const uint8_t *kept, const kv_format *f,
                     kv_shape s, int T, kv_fault *fault, kv_error *err);

//@ append: Chapter 4: fill packed caches on the device
#include "layout.h" /* tiles and pools */

typedef struct {
    int tokens, quantized_keys, quantized_values, kept;
} kv_length;

/* One layer of S sequences. All of it is set up by the caller, the arrays of
 * the pool with zeros; pool.tokens and the like, on the device, then follow
 * what `length` says. */
typedef struct {
    kv_pool pool;
    int recent;        /* R */
    kv_length *length; /* host [S] */
    void *plan;        /* kv_cuda_plan_bytes, on the device */
} kv_cuda_cache;

size_t kv_cuda_plan_bytes(const kv_pool *pool);

//@ append-rows: Chapter 4: append rows
/* Append n[s] tokens (host [S]) to each sequence, as kv_cache_append does: the
 * same codes, scales, minima, kept and waiting rows, bit for bit.
 *   k, v    rows [Hk][D] of the first sequence, then of the next, ...; float,
 *           or binary16 if is_half; aligned to 16
 *   kept    host, positions, ascending, of the first sequence, then of the
 *           next, ...; n_kept[s] of them (host [S]), or both NULL. Those
 *           outside the new rows are ignored.
 * KV_FAIL_USAGE, and nothing has changed: no room for tokens, for kept or for
 * waiting ones, or a sealed sequence. fault: element i of k that ref/ refuses;
 * N*Hk*D + i for v, where N = sum of n; 2*N*Hk*D + s for a page of sequence s
 * that does not exist. What the sequences hold is of no use from then on. */
int kv_cuda_append(kv_cuda_cache *c, const void *k, const void *v, int is_half,
                   const int *n, const int *kept, const int *n_kept,
                   kv_fault *fault, int version, kv_error *err);
enum { KV_CUDA_APPEND_VERSIONS = 3 };

/* Quantize what waits in all sequences, as kv_cache_seal. Sequences whose last
 * group is short take no more tokens. */
int kv_cuda_seal(kv_cuda_cache *c, kv_fault *fault, int version,
                 kv_error *err);

//@ keep: Chapter 4: keep a token that has arrived
/* As kv_cache_keep, for one sequence: a token that still waits moves to the
 * kept ones, *done = 1; one that is kept already, or coded, stays where it is,
 * *done = 0. KV_FAIL_RUN: no room. */
int kv_cuda_keep(kv_cuda_cache *c, int sequence, int token, int *done,
                 kv_error *err);

//@ tiles: Chapter 4: lay a cache out for the device
/* All three work on host memory. Fill in l; KV_FAIL_USAGE if these formats
 * have no device layout (layout.h says which have). */
int kv_tile_init(kv_tile *l, const kv_format *keys, const kv_format *values,
                 int head_size, kv_error *err);

/* Set the strides and all arrays of a pool within memory, which may be the
 * device's, is aligned to 128 bytes and filled with zeros; returns the bytes
 * needed (memory NULL: only that). tile, sequences, kv_heads, max_tiles,
 * kept_capacity, window, and for paged != 0 page_count, are set by the caller
 * before. Two pools of the same sizes can be copied as one piece. */
size_t kv_pool_place(kv_pool *p, int paged, void *memory);

/* Copy a layer of a cache into sequence s of a pool of host memory whose tiles
 * of that sequence are zero (a page table is filled in before), and back into
 * a cache of the same kind. KV_FAIL_USAGE: another format or shape;
 * KV_FAIL_RUN: no room. Bytes agree in both directions. */
int kv_pool_from_cache(kv_pool *p, int s, const kv_cache *c, int layer,
                       kv_error *err);
int kv_pool_to_cache(kv_cache *c, int layer, const kv_pool *p, int s,
                     kv_error *err);

//@ decode: Chapter 7: attend straight from codes
/* How keys that were stored before RoPE are turned as they are read: token t
 * by the angles (t + shift) * speed[i], as kv_decode does. */
typedef struct {
    const double *speed; /* [dims/2], on the device */
    int dims, interleaved, shift;
} kv_turn;

/* speed [dims/2] (host) of a model's RoPE. */
void kv_turn_speeds(double *speed, const kv_rope *r);

/* One query token for each of S sequences of any lengths.
 *   out, q  [S][H][D], q after RoPE
 *   sink    [H] learned sink logits, or NULL
 *   turn    for keys before RoPE, else NULL
 *   splits  blocks that share one head's tokens, 1 to 4096
 *   work    kv_cuda_decode_work bytes, aligned to 16
 * fault: s*H + h if a score of query head h is not finite, S*H + s if what the
 * pool says of sequence s cannot be. No sequence is nothing; an empty one
 * gives zeros. */
int kv_cuda_decode(float *out, const float *q, const kv_pool *pool, int heads,
                   const float *sink, const kv_turn *turn, int splits,
                   void *work, kv_fault *fault, int version, kv_error *err);
size_t kv_cuda_decode_work(const kv_pool *pool, int heads, int splits);
enum { KV_CUDA_DECODE_VERSIONS = 5 };

//@ end: Close the header
#ifdef __cplusplus
}
#endif

#endif
