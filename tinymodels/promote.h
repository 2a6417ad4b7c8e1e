/* Keep rules with +decode: tokens that are kept although a model writes them itself.
 *
 * The prompt's keep set is chosen when all its tokens are known. A generated token is judged alone, as
 * it passes: first:N by its position, ids: by its id, and kvsink: by its |h| at a stage, which must
 * reach the profile's threshold. A tap sees h before later layers have stored the token, so it can be
 * kept there in time; layers that have stored it already (/all, ranges) keep it if it has not been
 * quantized. Ours, after the variant `decode` of the specification: K has no meaning for a token
 * alone, so kvsink:K and kvsink:auto both use the threshold.
 *
 * criterion goes on counting instead: the attention that each step's queries give, read from the
 * cache as it is, is added to what the prompt's gave, and after every step the five best tokens of
 * all so far are chosen anew. One that is newly among them is kept from then on if it still waits;
 * if it is quantized already it is not, and no kept token is let go. */
#ifndef TM_PROMOTE_H
#define TM_PROMOTE_H

#include "analysis.h"
#include "kv.h"
#include "memory.h"

typedef struct {
    int active;
    const kv_profile *profile; /* or NULL */
    kv_keep_rule rule;
    tm_stream *stream;
    tm_probe *probe; /* [stages] */
    float *h;        /* [stages][2] of the token that is passing, behind one that is nothing */
    int stages;      /* that the rule looks at; 0 unless kvsink */
    kv_keep keep;    /* of those two; criterion: its five in each layer */
    int heads, capacity;
    double *sum, *mean; /* criterion: [layers][capacity] attention so far, and what it comes to */
    float *scratch;  /* criterion: [2 * capacity], */
    int *found;      /* the same */
    int position, token;
    kv_error err;    /* of what went wrong in a tap */
} tm_promoter;

/* rule and profile as for the prompt; capacity: tokens at most. A rule without +decode gives a
 * promoter that does nothing. */
int tm_promoter_open(tm_promoter *p, const kv_model *m, const kv_keep_rule *rule,
                     const kv_profile *profile, tm_stream *stream, int capacity, kv_error *err);
void tm_promoter_close(tm_promoter *p);

/* Before the first step: what the pass over the prompt of n tokens showed. */
void tm_promoter_prompt(tm_promoter *p, const tm_evidence *e, int n);

/* Before each pass of one token: sets tap, tap_self and tap_mask of the run. */
void tm_promoter_watch(tm_promoter *p, kv_run *run, int position, int token);

/* After the pass: KV_OK, or what went wrong. */
int tm_promoter_finish(tm_promoter *p, kv_error *err);

#endif
