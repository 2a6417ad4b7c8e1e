/* Models: the weights of a GGUF file as the kv_model that ref/transformer.c runs.
 *
 * Architecture `llama`: Llama 2 and 3, Mistral, TinyLlama, SmolLM2. All weights are dequantized to
 * float32 when the file is loaded, so a model takes four bytes for every weight. A file is refused,
 * naming the key or tensor, if anything in it would change the result and is not understood here
 * (other architectures, experts, biases, RoPE scaling other than linear and rope_freqs), or if a
 * tensor is missing, has another shape than the metadata say, or holds a NaN or infinity. */
#ifndef TM_MODEL_H
#define TM_MODEL_H

#include <stddef.h>
#include <stdint.h>

#include "fast.h"
#include "gguf.h"
#include "kv.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    const kv_model *kv;
    gguf *file;    /* stays open: metadata and tokenizer */
    uint64_t hash; /* for the profile: FNV-1a over the tensors' names, types, shapes and the first
                      and last 4 KiB of their data */
    size_t weight_bytes; /* of float32 weights in memory */
} tm_model;

int tm_model_load(tm_model **out, const char *path, kv_error *err);

/* The same from an open file, which from then on belongs to the model (on failure it is closed). */
int tm_model_take(tm_model **out, gguf *file, kv_error *err);

/* Tells the fast backend which tensor of the file each matrix comes from (tm_fast_know). The model
 * must stay until f is closed or told to forget. */
int tm_model_known(const tm_model *m, tm_fast *f, kv_error *err);

void tm_model_free(tm_model *m); /* NULL is harmless */

/* FNV-1a: the hash of what came before (TM_HASH_START) and n more bytes. */
#define TM_HASH_START 0xcbf29ce484222325u
uint64_t tm_hash(uint64_t hash, const void *data, size_t n);

#ifdef __cplusplus
}
#endif

#endif
