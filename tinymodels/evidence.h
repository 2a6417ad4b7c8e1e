/* Evidence: what a keep rule wants to know about a text, gathered in one pass.
 *
 * Every keep rule reads the pass over the same tokens without quantization, each something
 * else: one channel of the residual at the stages, the largest entries of each layer's input,
 * the attention received, the norms of keys. Whoever runs that pass (eval, a stream's prefill,
 * predict, sweep) does the same three things, whatever the rule:
 *
 *     tm_evidence_open(&e, &rule, profile, model, T, &err)
 *     kv_forward with tm_evidence_tap, e and tm_evidence_mask(e): T tokens in one pass
 *     tm_evidence_keep(&keep, &capped, e, tokens, &err)
 *
 * One evidence serves one window after the other; each pass replaces what the last one showed.
 * Several rules can share a pass: the tap function looks away from what its rule does not read, so a
 * tap that hands everything on to several of them, under the mask of all, will do. With attention in
 * the mask a pass needs T x T weights per head, of one layer at a time.
 *
 * greedy is the exception: it is found by trying (greedy.h), and opening its evidence is a usage
 * error. */
#ifndef TM_EVIDENCE_H
#define TM_EVIDENCE_H

#include "kv.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct tm_evidence tm_evidence;

/* For texts of T tokens. rule and profile (or NULL) are the caller's and must live on. What is wrong
 * with the rule for such a text and model (positions outside, unknown layers or stages, no
 * profile) is found here. */
int tm_evidence_open(tm_evidence **out, const kv_keep_rule *rule, const kv_profile *profile,
                     const kv_model *m, int T, kv_error *err);
void tm_evidence_close(tm_evidence *e); /* NULL is harmless */

/* self is the tm_evidence. */
kv_tap_function tm_evidence_tap;
unsigned tm_evidence_mask(const tm_evidence *e);

/* The keep set of the T tokens that the last pass ran over; keep from tm_keep_init with room for
 * T. *capped (may be NULL): an auto rule met its cap. */
int tm_evidence_keep(kv_keep *keep, int *capped, tm_evidence *e, const int *tokens, kv_error *err);

/* [n_stages][T]: the residual at the profile's stages, gathered for every rule; NULL without
 * profile. */
const float *tm_evidence_h(const tm_evidence *e);

/* [layers][T] sums as kv_attention_add makes them; NULL unless the rule reads attention. */
const double *tm_evidence_attention(const tm_evidence *e);

/* A keep set with room for T positions in each of the layers. */
int tm_keep_init(kv_keep *keep, int layers, int T, kv_error *err);
void tm_keep_free(kv_keep *keep);

/* The keep set of a rule that needs no pass (none, first, positions, ids, random), or, with h
 * [n_stages][T], of kvsink. */
int tm_keep_build(kv_keep *keep, int *capped, const kv_keep_rule *rule, const int *tokens, int T,
                  const kv_profile *profile, const float *h, kv_error *err);

#ifdef __cplusplus
}
#endif

#endif
