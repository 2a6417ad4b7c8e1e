/* The greedy oracle: which tokens would have been the best to keep?
 *
 * Starting from nothing, the token is added whose keeping brings the window's predictions nearest to
 * those of the 16-bit pass (least mean KL divergence, whole-window; the lower position of equals),
 * K times, whether it helps or not. The same tokens are kept in every layer that the rule covers.
 * It needs what no cache has, all evaluations of all candidates: K times T passes. So it is not a
 * method but the bar that methods are measured against, and a window has at most
 * TM_GREEDY_TOKENS tokens. Greedy is not optimal: two tokens may help only together.
 *
 * The 16-bit predictions are made once a window; candidates run one after the other, each on all
 * threads, and sums are made in the order of the tokens: the choice does not depend on threads. */
#ifndef TM_GREEDY_H
#define TM_GREEDY_H

#include "analysis.h"
#include "fast.h"
#include "kv.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { TM_GREEDY_TOKENS = 256 };

typedef struct tm_greedy tm_greedy;

/* For windows of T tokens, 2 to TM_GREEDY_TOKENS (else KV_FAIL_USAGE). rule: greedy:K[/LAYERS], the
 * caller's, as is profile (NULL unless /after). fast NULL: one thread. */
int tm_greedy_open(tm_greedy **out, const kv_keep_rule *rule, const kv_profile *profile,
                   const kv_format *keys, const kv_format *values, const tm_engine *e, tm_fast *fast,
                   int T, kv_error *err);
void tm_greedy_close(tm_greedy *g); /* NULL is harmless */

/* The keep set of one window. hidden16 [T][width]: what kv_forward gave for it with 16-bit keys and
 * values. keep from tm_keep_init with room for T. progress may be NULL; it counts passes. */
int tm_greedy_keep(kv_keep *keep, tm_greedy *g, const int *tokens, const float *hidden16,
                   tm_progress *progress, void *self, kv_error *err);

/* Of the last window: how many were chosen (min(K, T)), which, in the order of the choice, and the
 * mean KL with all up to it kept. */
int tm_greedy_steps(const tm_greedy *g, const int **position, const double **kl);

#ifdef __cplusplus
}
#endif

#endif
