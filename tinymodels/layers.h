/* What each layer loses: errors of keys, values, attention output, layer by layer.
 *
 * The pass is the 16-bit one. At each layer its keys and values are quantized on the side, and
 * what attention reads and answers is compared with 16 bits; the pass goes on with the latter. So
 * each layer is measured alone, on undamaged input. An error is the norm of the difference
 * divided by the norm of the 16-bit array, over all tokens of a kind: sinks, others. */
#ifndef TM_LAYERS_H
#define TM_LAYERS_H

#include "analysis.h"
#include "memory.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { TM_SINK_TOKENS, TM_OTHER_TOKENS, TM_TOKEN_KINDS };

/* Relative errors; 0 for a kind that no token is of. */
typedef struct {
    double keys[TM_TOKEN_KINDS], values[TM_TOKEN_KINDS], attention[TM_TOKEN_KINDS];
} tm_layer_error;

typedef struct tm_layers tm_layers;

int tm_layers_open(tm_layers **out, const tm_engine *e, tm_fast *fast, int ctx, kv_error *err);
void tm_layers_close(tm_layers *x); /* NULL is harmless */

/* One more window: quantized by w (whose keep set is set), is_sink [ctx]. */
int tm_layers_add(tm_layers *x, tm_window *w, const int *tokens, const char *is_sink,
                  kv_error *err);

/* error [layers] over all windows so far. */
void tm_layers_errors(tm_layer_error *error, const tm_layers *x);

#ifdef __cplusplus
}
#endif

#endif
