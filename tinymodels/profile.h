/* Profile: what calibration learned about a model, as a small text file.
 *
 *     kvsink-profile 1
 *     model llama LAYERS WIDTH VOCABULARY HASH
 *     stage LAYER CHANNEL SIGN MEDIAN_AT_SINKS MEDIAN_ELSEWHERE THRESHOLD PROMPTS
 *     ids 17 42 ...                       token ids that were sinks in most of their occurrences
 *     static keep KEEP                    for static formats (kvsink calibrate --static)
 *     static LAYER keys LOW HIGH LOW HIGH ...
 *     static LAYER keys-pre LOW HIGH ...
 *     static LAYER values LOW HIGH ...
 *     # comments, to the end of the line
 *
 * A person can read and edit it. HASH (16 hexadecimal digits) is of the weights, so it differs
 * between two weight formats of one model: that is worth a warning. Other sizes mean another
 * model, and the positions it would name are nonsense: that is refused. A file without stage
 * lines is legal: the model has no emergence stage, and KVSink keeps nothing.
 *
 * `static` lines hold the lowest and highest value of each channel (head by head, as many pairs as KV
 * heads times head size) over the calibration prompts, of keys after RoPE, keys before RoPE and
 * values, float32. Tokens that the rule KEEP keeps were left out: one sink would stretch the ranges
 * for all. Each layer has all three, or no layer has any. */
#ifndef TM_PROFILE_H
#define TM_PROFILE_H

#include "kv.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Reads a profile. Messages name file:line. p->stage, p->ids and p->range are from malloc: release them
 * with tm_profile_free. On failure p is all zeros. Stages come out ascending by layer, then
 * channel, ids ascending, whatever order the file has. */
int tm_profile_read(kv_profile *p, const char *path, kv_error *err);

/* The same from n bytes of text; name stands for the path in messages. */
int tm_profile_parse(kv_profile *p, const char *text, size_t n, const char *name, kv_error *err);

/* Writes a profile, whole or not at all. Every line of comment (may be NULL) is put behind "# ".
 * Numbers have as many digits as it takes to read the same ones back. */
int tm_profile_write(const char *path, const kv_profile *p, const char *comment, kv_error *err);

/* KV_OK if the profile fits a model of these sizes. *other_hash (may be NULL) is 1 if the weights
 * are not those it was made from; the caller warns. path is named in the message. */
int tm_profile_check(const kv_profile *p, const kv_model *m, uint64_t hash, int *other_hash,
                     const char *path, kv_error *err);

/* Releases what tm_profile_read allocated and clears p. Harmless on all zeros. */
void tm_profile_free(kv_profile *p);

#ifdef __cplusplus
}
#endif

#endif
