/* A decoder so small that the scalar backend runs it in no time, with random weights and one
 * planted outlier: token TINY_SINK makes a unit of the FFN of layer 1 write some thousands into channel 9,
 * whatever stands around it. Everything else stays near 1. Only one model at a time. */
#ifndef TINY_H
#define TINY_H

#include <string.h>

#include "kv.h"

enum {
    TINY_LAYERS = 4, TINY_WIDTH = 16, TINY_FFN = 24, TINY_VOCAB = 40, TINY_HEADS = 4,
    TINY_KV_HEADS = 2, TINY_HEAD = 8, TINY_SINK = 7, TINY_LAYER = 1, TINY_CHANNEL = 9,
    TINY_FLAG = 5 /* the channel of the embedding that tells the sink's token from all others */
};

typedef struct {
    kv_model model;
    kv_layer_weights layer[TINY_LAYERS];
    float weights[80000];
    float scratch[4096];
    kv_backend backend;
    size_t used;
    uint64_t state;
} tiny;

static float *tiny_random(tiny *t, size_t n, float scale)
{
    float *x = t->weights + t->used;
    t->used += n;
    for (size_t i = 0; i < n; i++) {
        t->state = t->state * 6364136223846793005u + 1442695040888963407u;
        x[i] = scale * ((float)(t->state >> 40) / 8388608.0f - 1.0f);
    }
    return x;
}

static kv_matrix tiny_matrix(tiny *t, int rows, int cols)
{
    float *x = tiny_random(t, (size_t)rows * (size_t)cols, 0.5f);
    return (kv_matrix){rows, cols, x};
}

static float *tiny_ones(tiny *t, size_t n)
{
    float *x = tiny_random(t, n, 0);
    for (size_t i = 0; i < n; i++) x[i] = 1;
    return x;
}

static void tiny_clear_row(kv_matrix w, int row)
{
    memset((float *)w.data + (size_t)row * (size_t)w.cols, 0, (size_t)w.cols * sizeof(float));
}

/* planted: 1 with the outlier, 0 without (the flag says nothing then). */
static void tiny_init(tiny *t, int planted)
{
    int C = TINY_WIDTH, Q = TINY_HEADS * TINY_HEAD, K = TINY_KV_HEADS * TINY_HEAD;
    memset(t, 0, sizeof *t);
    t->state = 42;
    kv_matrix embed = tiny_matrix(t, TINY_VOCAB, C);
    for (int id = 0; id < TINY_VOCAB; id++)
        ((float *)embed.data)[id * C + TINY_FLAG] = planted && id == TINY_SINK ? 3 : 0;
    for (int l = 0; l < TINY_LAYERS; l++) {
        kv_layer_weights *w = &t->layer[l];
        w->attn_norm = tiny_ones(t, (size_t)C);
        w->ffn_norm = tiny_ones(t, (size_t)C);
        w->q = tiny_matrix(t, Q, C);
        w->k = tiny_matrix(t, K, C);
        w->v = tiny_matrix(t, K, C);
        w->o = tiny_matrix(t, C, Q);
        w->gate = tiny_matrix(t, TINY_FFN, C);
        w->up = tiny_matrix(t, TINY_FFN, C);
        w->down = tiny_matrix(t, C, TINY_FFN);
        tiny_clear_row(w->o, TINY_FLAG); /* nobody writes to the flag, */
        tiny_clear_row(w->down, TINY_FLAG);
        tiny_clear_row(w->o, TINY_CHANNEL); /* and only the planted unit to the outlier's channel */
        tiny_clear_row(w->down, TINY_CHANNEL);
    }
    kv_layer_weights *w = &t->layer[TINY_LAYER];
    tiny_clear_row(w->gate, 0);
    tiny_clear_row(w->up, 0);
    ((float *)w->gate.data)[TINY_FLAG] = 10; /* the unit: silu(10 x) * 10 x of the flag x */
    ((float *)w->up.data)[TINY_FLAG] = 10;
    ((float *)w->down.data)[TINY_CHANNEL * TINY_FFN] = -20;
    t->model = (kv_model){.layers = TINY_LAYERS, .width = C, .ffn = TINY_FFN, .vocab = TINY_VOCAB,
                          .context = 256, .shape = {TINY_HEADS, TINY_KV_HEADS, TINY_HEAD},
                          .norm_eps = 1e-5, .rope = {TINY_HEAD, 1, 10000, 1, NULL},
                          .embed = embed, .output = embed, .norm = tiny_ones(t, (size_t)C),
                          .layer = t->layer};
    t->backend = kv_scalar_backend(t->scratch);
}

#endif
