/* Sequence: one text running through a packed cache, token by token.
 *
 * First a prompt, which attends to unquantized keys and values; the keep set comes from it; then
 * everything goes into the packed cache, and each further token is appended there and reads from
 * it. With +decode, sinks born on the way are kept as well. This is how eval --stream, the demo and
 * anyone who generates text use a cache. */
#ifndef TM_SEQUENCE_H
#define TM_SEQUENCE_H

#include "analysis.h"
#include "fast.h"
#include "kv.h"
#include "memory.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    kv_format keys, values;
    kv_keep_rule keep;
    const kv_profile *profile; /* or NULL */
    int recent;                /* R */
    int capacity;              /* tokens at most, prompt included */
    tm_device *device;         /* where its caches are, as in tm_stream_spec; or NULL */
} tm_sequence_spec;

typedef struct tm_sequence tm_sequence;

/* fast: whose threads decode; NULL: ref/'s decoding. Usage errors of formats are found here, those
 * of the keep rule by tm_sequence_start, which knows the text. */
int tm_sequence_open(tm_sequence **out, const tm_engine *e, tm_fast *fast,
                     const tm_sequence_spec *spec, kv_error *err);
void tm_sequence_close(tm_sequence *s); /* NULL is harmless */

/* Forgets what was before and runs a prompt of n >= 1 tokens. hidden [n][C] as kv_forward. */
int tm_sequence_start(tm_sequence *s, float *hidden, const int *tokens, int n, kv_error *err);

/* One more token; hidden [C]. */
int tm_sequence_step(tm_sequence *s, float *hidden, int token, kv_error *err);

int tm_sequence_tokens(const tm_sequence *s);
int tm_sequence_capped(const tm_sequence *s); /* the keep rule met its cap in this prompt */

/* The memory it runs on, for those who want to see each layer. */
const tm_stream *tm_sequence_stream(const tm_sequence *s);

/* With a device: tm_stream_fetch, before the cache is looked at. */
int tm_sequence_fetch(tm_sequence *s, kv_error *err);

/* Of what is in the cache now: bytes of all layers, kept positions summed over layers. */
double tm_sequence_bytes(const tm_sequence *s);
long long tm_sequence_kept(const tm_sequence *s);

/* Greedy text: from the last row of hidden states on (hidden [C] is both input and scratch), n
 * tokens or fewer if is_end (may be NULL) says that one ends the text (it is not written). Returns how
 * many through *made. logits: [vocab] scratch. */
int tm_sequence_greedy(tm_sequence *s, int *token, int *made, int n, float *hidden, float *logits,
                       int (*is_end)(void *self, int token), void *self, kv_error *err);

#ifdef __cplusplus
}
#endif

#endif
