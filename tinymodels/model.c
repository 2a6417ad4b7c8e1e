/* Loads a llama from GGUF, see model.h.
 *
 * First everything is looked at: sizes from the metadata, then every tensor by name with
 * the shape that the sizes demand, each noted as a `slot` (which tensor, which pointer of the model
 * wants it). Only when all of that is right is memory taken, once for all weights, and filled by
 * all threads in pieces of PIECE elements, each piece checked for NaN and infinity as it is
 * written. 
 * Names and shapes: the GGUF conventions of ggml-org/llama.cpp (gguf-py/gguf/constants.py). dims[0]
 * is the contiguous one, so a matrix [rows][cols] has dims {cols, rows}. Query and key
 * weights of this architecture are stored permuted, for RoPE on neighbouring pairs. */
#include "model.h"

#include <float.h>
#include <limits.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pages.h"
#include "threads.h"

enum { PIECE = 1 << 16, NAME_MAX_ = 96, TENSORS_PER_LAYER = 9 };

typedef struct {
    const gguf_tensor *tensor;
    const float **wanted; /* set to the weights */
    size_t at;            /* floats from the start of the memory */
    int first_piece;
} slot;

/* What tm_model really is: the public part and what stands behind it. */
typedef struct {
    tm_model public;
    kv_model kv;
    kv_layer_weights *layer;
    const float *rope_factors;
    slot *slot;
    int n_slots;
    size_t floats; /* in all slots, each rounded up to 64 bytes */
    int pieces;
    float *weights;
} model;

/* ---------------------------------------------------------------- metadata */

static int get_size(int *out, const gguf *g, const char *key, int low, int high, kv_error *err)
{
    int64_t value = 0;
    int bad = gguf_get_int(&value, g, key, low, high, err);
    if (!bad)
        *out = (int)value;
    return bad;
}

/* The same for a key that may be missing. */
static int get_size_or(int *out, int otherwise, const gguf *g, const char *key, int low, int high,
                       kv_error *err)
{
    *out = otherwise;
    return gguf_key_find(g, key) ? get_size(out, g, key, low, high, err) : KV_OK;
}

static int get_number_or(double *out, double otherwise, const gguf *g, const char *key,
                         kv_error *err)
{
    *out = otherwise;
    int bad = gguf_key_find(g, key) ? gguf_get_float(out, g, key, err) : KV_OK;
    if (!bad && !(*out > 0 && *out <= FLT_MAX))
        bad = kv_fail(err, KV_FAIL_RUN, "%s: key %s is %g; expected a positive number",
                      gguf_path(g), key, *out);
    return bad;
}

static int check_architecture(const gguf *g, kv_error *err)
{
    gguf_string name;
    int bad = gguf_get_string(&name, g, "general.architecture", err), experts = 0;
    if (bad)
        return bad;
    if (name.length != 5 || memcmp(name.data, "llama", 5))
        return kv_fail(err, KV_FAIL_RUN, "%s: architecture is '%.*s'; only 'llama' can be run "
                       "(Llama 2 and 3, Mistral, TinyLlama, SmolLM2)", gguf_path(g),
                       (int)(name.length < 40 ? name.length : 40), name.data);
    bad = get_size_or(&experts, 0, g, "llama.expert_count", 0, INT_MAX, err);
    if (!bad && experts)
        bad = kv_fail(err, KV_FAIL_RUN, "%s: key llama.expert_count is %d; mixtures of experts "
                      "cannot be run, only models with one feed-forward block per layer",
                      gguf_path(g), experts);
    return bad;
}

static int read_heads(kv_model *m, const gguf *g, kv_error *err)
{
    kv_shape *s = &m->shape;
    int values, bad = get_size(&s->heads, g, "llama.attention.head_count", 1, 1 << 16, err);
    if (!bad)
        bad = get_size_or(&s->kv_heads, s->heads, g, "llama.attention.head_count_kv", 1, 1 << 16,
                          err);
    if (!bad)
        bad = get_size_or(&s->head_size, m->width / s->heads, g, "llama.attention.key_length", 1,
                          1 << 16, err);
    if (!bad)
        bad = get_size_or(&values, s->head_size, g, "llama.attention.value_length", 1, 1 << 16,
                          err);
    if (bad)
        return bad;
    if (s->heads % s->kv_heads)
        return kv_fail(err, KV_FAIL_RUN, "%s: %d query heads cannot share %d key-value heads "
                       "evenly", gguf_path(g), s->heads, s->kv_heads);
    if (s->head_size < 2 || s->head_size % 2 || s->head_size > KV_HEAD_MAX)
        return kv_fail(err, KV_FAIL_RUN, "%s: head size %d; expected an even number up to %d",
                       gguf_path(g), s->head_size, KV_HEAD_MAX);
    if (values != s->head_size)
        return kv_fail(err, KV_FAIL_RUN, "%s: heads of keys have size %d and those of values %d; "
                       "expected the same", gguf_path(g), s->head_size, values);
    return KV_OK;
}

static int read_scaling(kv_rope *r, const gguf *g, kv_error *err)
{
    gguf_string type = {"linear", 6};
    double factor;
    if (gguf_key_find(g, "llama.rope.scaling.type") &&
        gguf_get_string(&type, g, "llama.rope.scaling.type", err))
        return KV_FAIL_RUN;
    r->scale = 1;
    if (type.length == 4 && !memcmp(type.data, "none", 4))
        return KV_OK;
    if (type.length != 6 || memcmp(type.data, "linear", 6))
        return kv_fail(err, KV_FAIL_RUN, "%s: RoPE scaling '%.*s' is not known; only 'linear', "
                       "'none' and the factors of Llama 3 (tensor rope_freqs.weight) are",
                       gguf_path(g), (int)(type.length < 40 ? type.length : 40), type.data);
    const char *old = "llama.rope.scale_linear", *key = "llama.rope.scaling.factor";
    int bad = get_number_or(&factor, 1, g, gguf_key_find(g, key) ? key : old, err);
    if (!bad)
        r->scale = 1 / factor;
    return bad;
}

static int read_rope(kv_model *m, const gguf *g, kv_error *err)
{
    kv_rope *r = &m->rope;
    r->interleaved = 1;
    int D = m->shape.head_size;
    int bad = get_size_or(&r->dims, D, g, "llama.rope.dimension_count", 2, D, err);
    if (!bad && r->dims % 2)
        bad = kv_fail(err, KV_FAIL_RUN, "%s: key llama.rope.dimension_count is %d; expected an "
                      "even number", gguf_path(g), r->dims);
    if (!bad)
        bad = get_number_or(&r->base, 10000, g, "llama.rope.freq_base", err);
    return bad ? bad : read_scaling(r, g, err);
}

/* A sliding window is the same as full attention as long as the text fits into it. */
static int read_context(kv_model *m, const gguf *g, kv_error *err)
{
    int window = 0, bad = get_size(&m->context, g, "llama.context_length", 1, INT_MAX / 2, err);
    if (!bad)
        bad = get_size_or(&window, 0, g, "llama.attention.sliding_window", 0, INT_MAX, err);
    if (!bad && window && window < m->context)
        m->context = window;
    return bad;
}

static int read_sizes(kv_model *m, const gguf *g, kv_error *err)
{
    int bad = check_architecture(g, err);
    if (!bad)
        bad = get_size(&m->layers, g, "llama.block_count", 1, 1 << 12, err);
    if (!bad)
        bad = get_size(&m->width, g, "llama.embedding_length", 1, 1 << 20, err);
    if (!bad)
        bad = get_size(&m->ffn, g, "llama.feed_forward_length", 1, 1 << 22, err);
    if (!bad)
        bad = get_number_or(&m->norm_eps, 1e-5, g, "llama.attention.layer_norm_rms_epsilon", err);
    if (!bad)
        bad = read_heads(m, g, err);
    if (!bad)
        bad = read_rope(m, g, err);
    return bad ? bad : read_context(m, g, err);
}

/* The vocabulary is as long as the tokenizer's list; a file without one has as many tokens as rows
 * of the embedding. */
static int read_vocabulary(kv_model *m, const gguf *g, kv_error *err)
{
    const gguf_tensor *embed = gguf_tensor_find(g, "token_embd.weight");
    if (!embed)
        return kv_fail(err, KV_FAIL_RUN, "%s: tensor token_embd.weight is missing", gguf_path(g));
    const gguf_key *tokens = gguf_key_find(g, "tokenizer.ggml.tokens");
    size_t rows = embed->dims[1], listed = tokens ? tokens->value.count : rows;
    int stated, bad = get_size_or(&stated, (int)(rows < INT_MAX ? rows : 0), g, "llama.vocab_size",
                                  1, INT_MAX, err);
    if (bad)
        return bad;
    if (listed != rows || (size_t)stated != rows || rows < 1)
        return kv_fail(err, KV_FAIL_RUN, "%s: vocabulary mismatch: tensor token_embd.weight has "
                       "%zu rows, the tokenizer lists %zu tokens and the metadata say %d",
                       gguf_path(g), rows, listed, stated);
    m->vocab = stated;
    return KV_OK;
}

/* ------------------------------------------------------------ the tensors */

static void shape_text(char *text, size_t size, const size_t *dims, int n)
{
    size_t used = 0;
    for (int i = 0; i < n && used < size; i++)
        used += (size_t)snprintf(text + used, size - used, "%s%zu", i ? " x " : "", dims[i]);
}

/* Notes that *wanted is to point to the weights of a tensor with the given shape; rows 0: a vector
 * of cols. A missing tensor that need not be there leaves *wanted as it is. */
static int want(model *m, const float **wanted, const char *name, int rows, int cols, int needed,
                kv_error *err)
{
    const gguf *g = m->public.file;
    const gguf_tensor *t = gguf_tensor_find(g, name);
    if (!t)
        return needed ? kv_fail(err, KV_FAIL_RUN, "%s: tensor %s is missing; the file is not a "
                                "whole llama model", gguf_path(g), name)
                      : KV_OK;
    size_t expected[GGUF_MAX_DIMS] = {(size_t)cols, rows ? (size_t)rows : 1, 1, 1};
    if (memcmp(t->dims, expected, sizeof expected)) {
        char is[96], should[96];
        shape_text(is, sizeof is, t->dims, t->n_dims);
        shape_text(should, sizeof should, expected, rows ? 2 : 1);
        return kv_fail(err, KV_FAIL_RUN, "%s: tensor %s has shape %s; the metadata ask for %s",
                       gguf_path(g), name, is, should);
    }
    m->slot[m->n_slots++] = (slot){t, wanted, m->floats, m->pieces};
    m->floats += (t->elements + 15) / 16 * 16;
    m->pieces += (int)((t->elements + PIECE - 1) / PIECE);
    return KV_OK;
}

static int want_matrix(model *m, kv_matrix *w, const char *name, int rows, int cols, int needed,
                       kv_error *err)
{
    *w = (kv_matrix){rows, cols, w->data};
    return want(m, &w->data, name, rows, cols, needed, err);
}

static int want_layer(model *m, int l, kv_error *err)
{
    kv_layer_weights *w = &m->layer[l];
    int C = m->kv.width, F = m->kv.ffn, D = m->kv.shape.head_size;
    int Q = m->kv.shape.heads * D, K = m->kv.shape.kv_heads * D;
    const struct { const char *name; const float **vector; kv_matrix *matrix; int rows, cols; }
    tensors[TENSORS_PER_LAYER] = {
        {"attn_norm", &w->attn_norm, NULL, 0, C}, {"attn_q", NULL, &w->q, Q, C},
        {"attn_k", NULL, &w->k, K, C},            {"attn_v", NULL, &w->v, K, C},
        {"attn_output", NULL, &w->o, C, Q},       {"ffn_norm", &w->ffn_norm, NULL, 0, C},
        {"ffn_gate", NULL, &w->gate, F, C},       {"ffn_up", NULL, &w->up, F, C},
        {"ffn_down", NULL, &w->down, C, F},
    };
    int bad = KV_OK;
    for (int i = 0; i < TENSORS_PER_LAYER && !bad; i++) {
        char name[NAME_MAX_];
        snprintf(name, sizeof name, "blk.%d.%s.weight", l, tensors[i].name);
        bad = tensors[i].vector
                  ? want(m, tensors[i].vector, name, 0, tensors[i].cols, 1, err)
                  : want_matrix(m, tensors[i].matrix, name, tensors[i].rows, tensors[i].cols, 1,
                                err);
    }
    return bad;
}

/* A tensor that nobody wanted would change the result if it were used: a bias, an expert. */
static int refuse_unknown(const model *m, kv_error *err)
{
    const gguf *g = m->public.file;
    for (size_t i = 0; i < gguf_tensor_count(g); i++) {
        const char *name = gguf_tensor_at(g, i)->name;
        int known = 0;
        for (int j = 0; j < m->n_slots && !known; j++)
            known = !strcmp(name, m->slot[j].tensor->name);
        if (!known)
            return kv_fail(err, KV_FAIL_RUN, "%s: tensor %s is not part of a llama model as it is "
                           "understood here (no biases, no experts)", gguf_path(g), name);
    }
    return KV_OK;
}

static int want_all(model *m, kv_error *err)
{
    kv_model *k = &m->kv;
    int bad = want_matrix(m, &k->embed, "token_embd.weight", k->vocab, k->width, 1, err);
    if (!bad)
        bad = want(m, &k->norm, "output_norm.weight", 0, k->width, 1, err);
    if (!bad)
        bad = want_matrix(m, &k->output, "output.weight", k->vocab, k->width, 0, err);
    if (!bad)
        bad = want(m, &m->rope_factors, "rope_freqs.weight", 0, k->rope.dims / 2, 0, err);
    for (int l = 0; l < k->layers && !bad; l++)
        bad = want_layer(m, l, err);
    return bad ? bad : refuse_unknown(m, err);
}

/* ---------------------------------------------------------------- weights */

typedef struct {
    const model *m;
    pthread_mutex_t lock;
    int failed_piece; /* the first, so that the message does not depend on who was faster */
    kv_error first;
} loading;

static const slot *slot_of(const model *m, int piece)
{
    int low = 0, high = m->n_slots;
    while (high - low > 1) {
        int middle = (low + high) / 2;
        if (m->slot[middle].first_piece <= piece)
            low = middle;
        else
            high = middle;
    }
    return &m->slot[low];
}

/* All exponent bits set: NaN or infinite. */
static int any_not_finite(const float *x, size_t n)
{
    uint32_t found = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, x + i, sizeof bits);
        found |= (uint32_t)((bits & 0x7f800000u) == 0x7f800000u);
    }
    return found != 0;
}

static void load_piece(void *arg, int piece, int worker)
{
    loading *load = arg;
    const slot *s = slot_of(load->m, piece);
    (void)worker;
    size_t first = (size_t)(piece - s->first_piece) * PIECE, n = s->tensor->elements - first;
    n = n < PIECE ? n : PIECE;
    float *to = load->m->weights + s->at + first;
    kv_error err = {0, ""};
    int bad = gguf_dequantize(to, s->tensor, first, n, &err);
    if (!bad && any_not_finite(to, n)) {
        size_t i = 0;
        while (isfinite(to[i]))
            i++;
        bad = kv_fail(&err, KV_FAIL_RUN, "%s: tensor %s: weight %zu is %g; the file is damaged",
                      s->tensor->path, s->tensor->name, first + i, (double)to[i]);
    }
    if (!bad)
        return;
    pthread_mutex_lock(&load->lock);
    if (piece < load->failed_piece) {
        load->failed_piece = piece;
        load->first = err;
    }
    pthread_mutex_unlock(&load->lock);
}

static int load_pieces(model *m, kv_error *err)
{
    tm_pool *pool;
    loading load = {.m = m, .failed_piece = INT_MAX};
    if (tm_pool_open(&pool, 0, err))
        return KV_FAIL_RUN;
    pthread_mutex_init(&load.lock, NULL);
    tm_parallel(pool, load_piece, &load, m->pieces);
    pthread_mutex_destroy(&load.lock);
    tm_pool_close(pool);
    if (load.failed_piece < INT_MAX)
        return kv_fail(err, KV_FAIL_RUN, "%s", load.first.text);
    return KV_OK;
}

static int load_weights(model *m, kv_error *err)
{
    m->public.weight_bytes = m->floats * sizeof *m->weights;
    m->weights = tm_pages(m->public.weight_bytes);
    if (!m->weights)
        return kv_fail(err, KV_FAIL_RUN, "%s: not enough memory: its weights take %zu bytes as "
                       "float32", gguf_path(m->public.file), m->public.weight_bytes);
    if (load_pieces(m, err))
        return KV_FAIL_RUN;
    for (int i = 0; i < m->n_slots; i++)
        *m->slot[i].wanted = m->weights + m->slot[i].at;
    if (!m->kv.output.data) /* tied */
        m->kv.output = m->kv.embed;
    m->kv.rope.factors = m->rope_factors;
    for (int i = 0; m->rope_factors && i < m->kv.rope.dims / 2; i++)
        if (!(m->rope_factors[i] > 0))
            return kv_fail(err, KV_FAIL_RUN, "%s: tensor rope_freqs.weight: factor %d is %g; "
                           "expected a positive number", gguf_path(m->public.file), i,
                           (double)m->rope_factors[i]);
    return KV_OK;
}

/* ------------------------------------------------------------------- hash */

uint64_t tm_hash(uint64_t hash, const void *data, size_t n)
{
    const unsigned char *bytes = data;
    for (size_t i = 0; i < n; i++)
        hash = (hash ^ bytes[i]) * 0x100000001b3u;
    return hash;
}

static uint64_t fnv_number(uint64_t hash, uint64_t x)
{
    unsigned char bytes[8];
    for (int i = 0; i < 8; i++)
        bytes[i] = (unsigned char)(x >> 8 * i);
    return tm_hash(hash, bytes, sizeof bytes);
}

static uint64_t hash_of(const gguf *g)
{
    uint64_t hash = TM_HASH_START;
    for (size_t i = 0; i < gguf_tensor_count(g); i++) {
        const gguf_tensor *t = gguf_tensor_at(g, i);
        size_t ends = t->bytes < 4096 ? t->bytes : 4096;
        hash = tm_hash(hash, t->name, strlen(t->name) + 1);
        hash = fnv_number(hash, (uint64_t)t->type);
        for (int d = 0; d < GGUF_MAX_DIMS; d++)
            hash = fnv_number(hash, t->dims[d]);
        hash = tm_hash(hash, t->data, ends);
        hash = tm_hash(hash, (const char *)t->data + t->bytes - ends, ends);
    }
    return hash;
}

/* ------------------------------------------------------------- load, free */

static int build(model *m, kv_error *err)
{
    const gguf *g = m->public.file;
    int bad = read_sizes(&m->kv, g, err);
    if (!bad)
        bad = read_vocabulary(&m->kv, g, err);
    if (bad)
        return bad;
    m->layer = calloc((size_t)m->kv.layers, sizeof *m->layer);
    m->slot = calloc((size_t)m->kv.layers * TENSORS_PER_LAYER + 4, sizeof *m->slot);
    if (!m->layer || !m->slot)
        return kv_fail(err, KV_FAIL_RUN, "%s: not enough memory", gguf_path(g));
    m->kv.layer = m->layer;
    bad = want_all(m, err);
    if (!bad)
        bad = load_weights(m, err);
    if (!bad)
        m->public.hash = hash_of(g);
    return bad;
}

int tm_model_take(tm_model **out, gguf *file, kv_error *err)
{
    *out = NULL;
    model *m = calloc(1, sizeof *m);
    if (!m) {
        gguf_close(file);
        return kv_fail(err, KV_FAIL_RUN, "not enough memory");
    }
    m->public.file = file;
    m->public.kv = &m->kv;
    int bad = build(m, err);
    if (bad)
        tm_model_free(&m->public);
    else
        *out = &m->public;
    return bad;
}

int tm_model_load(tm_model **out, const char *path, kv_error *err)
{
    gguf *file;
    *out = NULL;
    int bad = gguf_open(&file, path, err);
    return bad ? bad : tm_model_take(out, file, err);
}

int tm_model_known(const tm_model *public, tm_fast *f, kv_error *err)
{
    const model *m = (const model *)public;
    int bad = KV_OK;
    for (int i = 0; i < m->n_slots && !bad; i++)
        bad = tm_fast_know(f, m->weights + m->slot[i].at, m->slot[i].tensor, err);
    return bad;
}

void tm_model_free(tm_model *public)
{
    if (!public)
        return;
    model *m = (model *)public; /* its first member */
    tm_pages_free(m->weights, m->public.weight_bytes);
    free(m->slot);
    free(m->layer);
    gguf_close(m->public.file);
    free(m);
}
