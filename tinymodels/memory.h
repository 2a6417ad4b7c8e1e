/* Memories: where the decoder's keys and values go (kv_memory of kv.h).
 *
 * tm_window, whole-window use. Every forward pass is one window: the keys and values of all its
 * tokens are quantized at once, per layer, and every query attends to what comes back
 * from the codes, its own token's included: the published simulations. What attention reads is
 * what a sealed packed cache gives back, bit for bit: kv_quantize of the window's arrays rounded to
 * binary16 (keys of a `pre` format are rotated afterwards), made by all threads.
 *
 * tm_stream, one sequence over time. First a prefill of any number of passes, which attends to
 * unquantized keys and values; then the keep set is known (predictors need the prefill) and
 * everything goes into the packed cache of ref/; from then on each token is appended and answered
 * from the codes. Only one copy of keys and values is held at any time.
 *
 * Both belong to one model and one backend's threads; kv_run.past is the number of tokens
 * the memory holds (0 for a window). */
#ifndef TM_MEMORY_H
#define TM_MEMORY_H

#include "device.h"
#include "fast.h"
#include "kv.h"
#include "threads.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ------------------------------------------------------------ whole window */

typedef struct tm_window tm_window;

/* For windows of at most `capacity` tokens. pool NULL: one thread. A format that does not fit the
 * model is a usage error. */
int tm_window_open(tm_window **out, const kv_model *m, const kv_format *keys,
                   const kv_format *values, int capacity, tm_pool *pool, kv_error *err);
void tm_window_close(tm_window *w); /* NULL is harmless */

/* Ranges [layers][Hk*D] of static formats, the caller's; without them a static format is a usage
 * error of the first window. */
void tm_window_limits(tm_window *w, kv_limits keys, kv_limits values);

/* The tokens kept in the windows to come; NULL: none. The caller's, and used until it is changed.
 * Positions outside a window count for nothing. */
void tm_window_keep(tm_window *w, const kv_keep *keep);

/* For kv_run.memory; past must be 0. */
const kv_memory *tm_window_memory(const tm_window *w);

/* What the packed cache of the last window holds: what kv_cache_bytes gives after kv_cache_seal. */
kv_bytes tm_window_bytes(const tm_window *w, int layer);

/* What attention read of the last layer that ran: keys (after RoPE) or values [tokens][Hk][D]. */
const float *tm_window_read(const tm_window *w, int values);

/* Seconds spent on quantizing since tm_window_open. */
double tm_window_seconds(const tm_window *w);

/* ------------------------------------------------------------------ stream */

typedef struct tm_stream tm_stream;

typedef struct {
    kv_format keys, values;
    int recent;   /* R */
    int capacity; /* tokens at most, prefill included */
    int kept;     /* kept tokens per layer at most */
    kv_limits key_limits, value_limits; /* static formats, as in kv_cache_spec */
    tm_device *device; /* NULL; else its packed caches are used, and attention from them */
} tm_stream_spec;

/* fast NULL: one thread, and answers by kv_decode; else answers by tm_fast_decode, whatever backend
 * the run uses for the rest. */
int tm_stream_open(tm_stream **out, const kv_model *m, const tm_stream_spec *spec, tm_fast *fast,
                   kv_error *err);
/* Would it be opened, but for memory? */
int tm_stream_check(const kv_model *m, const tm_stream_spec *spec, kv_error *err);
void tm_stream_close(tm_stream *s); /* NULL is harmless */

/* For kv_run.memory; past = tm_stream_tokens, position - past the same for all passes of a text. */
const kv_memory *tm_stream_memory(const tm_stream *s);

/* Tokens that all layers have taken in. */
int tm_stream_tokens(const tm_stream *s);

/* Ends the prefill: quantizes what is there. keep NULL: nothing is kept. */
int tm_stream_begin_decode(tm_stream *s, const kv_keep *keep, kv_error *err);

/* Keeps one token of the decode phase in layers first..last (inclusive), for keep rules with
 * +decode. A layer that has not taken the token in yet (a tap found a sink in an earlier layer of
 * the same pass) will keep it when it arrives; one that has keeps it unless it is quantized
 * already. *kept (may be NULL): layers in which the token is or will be kept. */
int tm_stream_promote(tm_stream *s, int position, int first, int last, int *kept, kv_error *err);

/* Forgets everything: prefill of another text. */
void tm_stream_reset(tm_stream *s);

/* What the cache holds after tm_stream_begin_decode (all zero before). */
kv_bytes tm_stream_bytes(const tm_stream *s, int layer);

/* The cache itself, NULL during the prefill. */
const kv_cache *tm_stream_cache(const tm_stream *s);

/* With a device: brings what its caches hold into that cache, for the two functions above. Without one it
 * is nothing. */
int tm_stream_fetch(tm_stream *s, kv_error *err);

#ifdef __cplusplus
}
#endif

#endif
