/* Ranges: what static formats take from calibration instead of from the data. */
#ifndef TM_RANGES_H
#define TM_RANGES_H

#include "analysis.h"
#include "kv.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Sets p->range and p->range_row: the extremes of each channel of keys (after and before RoPE) and
 * values over all prompts [n] of length [n] tokens, without the tokens that rule keeps in each
 * layer. p: of this model, with the stages that rule may need. A layer in which every token is kept, and
 * a value that binary16 cannot hold, are errors. Ours. */
int tm_ranges(kv_profile *p, const kv_keep_rule *rule, const tm_engine *e, const int *const *prompt,
              const int *length, int n, tm_progress *progress, void *self, kv_error *err);

#ifdef __cplusplus
}
#endif

#endif
