/* A small decoder with random weights and any shape of heads, for tests of the machinery. What it
 * says means nothing; that two ways of computing it agree does. */
#ifndef TESTS_DECODER_H
#define TESTS_DECODER_H

#include "check.h"

enum { DECODER_VOCAB = 23, DECODER_LAYERS = 4 };

typedef struct {
    kv_model model;
    kv_layer_weights layer[DECODER_LAYERS];
    float *data, *work, *scratch;
    size_t used;
    kv_backend backend;
} decoder;

static inline const float *decoder_take(decoder *t, size_t n, float gain, uint64_t *seed)
{
    float *x = t->data + t->used;
    check_fill(x, n, seed);
    for (size_t i = 0; i < n; i++)
        x[i] = gain < 0 ? 1 + x[i] / 8 : x[i] * gain; /* < 0: a norm's gains */
    t->used += n;
    return x;
}

static inline kv_matrix decoder_matrix(decoder *t, int rows, int cols, uint64_t *seed)
{
    const float *x = decoder_take(t, (size_t)rows * (size_t)cols, 1 / sqrtf((float)cols), seed);
    return (kv_matrix){rows, cols, x};
}

static inline void decoder_layer(decoder *t, kv_layer_weights *w, int C, int K, int F,
                                 uint64_t *seed)
{
    w->attn_norm = decoder_take(t, (size_t)C, -1, seed);
    w->ffn_norm = decoder_take(t, (size_t)C, -1, seed);
    w->q = decoder_matrix(t, C, C, seed);
    w->k = decoder_matrix(t, K, C, seed);
    w->v = decoder_matrix(t, K, C, seed);
    w->o = decoder_matrix(t, C, C, seed);
    w->gate = decoder_matrix(t, F, C, seed);
    w->up = decoder_matrix(t, F, C, seed);
    w->down = decoder_matrix(t, C, F, seed);
}

/* Work space for `most` tokens and all taps. */
static inline decoder *decoder_make(kv_shape s, int layers, int most, uint64_t seed)
{
    decoder *t = calloc(1, sizeof *t);
    int C = s.heads * s.head_size, K = s.kv_heads * s.head_size, F = 2 * C + 3;
    t->data = check_floats(((size_t)(2 * C + 2 * K + 3 * F + 2) * (size_t)layers +
                            2 * DECODER_VOCAB + 1) * (size_t)C);
    for (int l = 0; l < layers; l++)
        decoder_layer(t, &t->layer[l], C, K, F, &seed);
    t->model = (kv_model){.layers = layers, .width = C, .ffn = F, .vocab = DECODER_VOCAB,
                          .context = 512, .shape = s, .norm_eps = 1e-5, .layer = t->layer,
                          .rope = {s.head_size, 1, 10000, 1, NULL}};
    t->model.embed = decoder_matrix(t, DECODER_VOCAB, C, &seed);
    t->model.output = decoder_matrix(t, DECODER_VOCAB, C, &seed);
    t->model.norm = decoder_take(t, (size_t)C, -1, &seed);
    t->scratch = check_floats((size_t)most);
    t->work = check_floats(kv_forward_work(&t->model, ~0u, most, most));
    t->backend = kv_scalar_backend(t->scratch);
    return t;
}

static inline kv_run decoder_run(decoder *t)
{
    return (kv_run){.model = &t->model, .backend = &t->backend, .work = t->work};
}

static inline void decoder_drop(decoder *t)
{
    free(t->data), free(t->work), free(t->scratch), free(t);
}

static inline void decoder_tokens(int *tokens, int n, uint64_t seed)
{
    for (int i = 0; i < n; i++)
        tokens[i] = check_below(&seed, DECODER_VOCAB);
}

#endif
