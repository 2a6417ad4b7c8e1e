/* Loading models: a small llama written with gguf_write, right in every detail and then wrong in
 * one. */
#define _POSIX_C_SOURCE 200809L
#include <unistd.h>

#include "check.h"
#include "fast.h"
#include "gguf.h"
#include "model.h"

enum { C = 24, F = 40, V = 50, L = 2, H = 3, HK = 1, D = 8, MOST = 4 + 9 * L + 2 };

/* What a case changes. */
typedef struct {
    const char *name;
    const char *drop;                /* key or tensor left out */
    const char *tensor;              /* tensor that changes: */
    int rows, cols;                  /*   to this shape, if not 0 */
    float poison;                    /*   its element 5 to this, if not 0 */
    const char *extra_tensor;        /* one more, [1][4] */
    const char *key;                 /* key that is put (instead of the usual one): */
    int number;                      /*   this integer, or */
    float real;                      /*   this float, or */
    const char *text;                /*   this text */
    int tokens;                      /* entries of the tokenizer's list instead of V; -1: none */
    const char *says;                /* must be in the message; NULL: loads */
} model_case;

typedef struct {
    gguf_writer *w;
    const model_case *c;
    float *data[MOST];
    int n;
    uint64_t seed;
} writing;

static int is(const char *a, const char *b)
{
    return a && !strcmp(a, b);
}

static void put_int(writing *w, const char *key, int value)
{
    if (!is(w->c->drop, key) && !is(w->c->key, key))
        gguf_put_uint32(w->w, key, (uint32_t)value);
}

static void put_tensor(writing *w, const char *name, int rows, int cols)
{
    const model_case *c = w->c;
    if (is(c->drop, name))
        return;
    int changed = is(c->tensor, name);
    if (changed && c->rows + c->cols) {
        rows = c->rows;
        cols = c->cols;
    }
    size_t dims[2] = {(size_t)cols, (size_t)(rows ? rows : 1)};
    float *x = w->data[w->n++] = check_floats(dims[0] * dims[1]);
    check_fill(x, dims[0] * dims[1], &w->seed);
    for (size_t i = 0; i < dims[0] * dims[1]; i++) /* gains and factors; matrices that keep sizes */
        x[i] = rows ? x[i] / sqrtf((float)cols) : 1 + fabsf(x[i]);
    if (changed && c->poison != 0)
        x[5 < cols ? 5 : 0] = c->poison;
    gguf_put_tensor(w->w, name, GGUF_F32, rows ? 2 : 1, dims, x);
}

static void put_keys(writing *w)
{
    const model_case *c = w->c;
    if (!is(c->drop, "general.architecture") && !is(c->key, "general.architecture"))
        gguf_put_string(w->w, "general.architecture", "llama", 5);
    put_int(w, "llama.block_count", L);
    put_int(w, "llama.embedding_length", C);
    put_int(w, "llama.feed_forward_length", F);
    put_int(w, "llama.attention.head_count", H);
    put_int(w, "llama.attention.head_count_kv", HK);
    put_int(w, "llama.context_length", 128);
    if (!is(c->drop, "llama.attention.layer_norm_rms_epsilon"))
        gguf_put_float32(w->w, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
    if (c->key && c->text)
        gguf_put_string(w->w, c->key, c->text, strlen(c->text));
    else if (c->key && c->real != 0)
        gguf_put_float32(w->w, c->key, c->real);
    else if (c->key)
        gguf_put_uint32(w->w, c->key, (uint32_t)c->number);
    if (is(c->key, "llama.rope.scaling.type")) /* the factor that goes with it */
        gguf_put_float32(w->w, "llama.rope.scaling.factor", 4);
    gguf_string tokens[V + 1];
    for (int i = 0; i <= V; i++)
        tokens[i] = (gguf_string){"token", 5};
    if (c->tokens >= 0)
        gguf_put_strings(w->w, "tokenizer.ggml.tokens", tokens,
                         (size_t)(c->tokens ? c->tokens : V));
}

static void write_model(const char *path, const model_case *c)
{
    static const struct { const char *name; int rows, cols; } part[9] = {
        {"attn_norm", 0, C},     {"attn_q", H * D, C},   {"attn_k", HK * D, C},
        {"attn_v", HK * D, C},   {"attn_output", C, H * D}, {"ffn_norm", 0, C},
        {"ffn_gate", F, C},      {"ffn_up", F, C},       {"ffn_down", C, F},
    };
    writing w = {.w = gguf_writer_new(), .c = c, .seed = 4};
    kv_error err;
    put_keys(&w);
    put_tensor(&w, "token_embd.weight", V, C);
    put_tensor(&w, "output_norm.weight", 0, C);
    for (int l = 0; l < L; l++)
        for (int i = 0; i < 9; i++) {
            char name[64];
            snprintf(name, sizeof name, "blk.%d.%s.weight", l, part[i].name);
            put_tensor(&w, name, part[i].rows, part[i].cols);
        }
    if (c->extra_tensor)
        put_tensor(&w, c->extra_tensor, is(c->extra_tensor, "output.weight") ? V : 0,
                   is(c->extra_tensor, "output.weight") ? C : 4);
    cr_assert_eq(gguf_write(w.w, path, &err), KV_OK, "%s", err.text);
    gguf_writer_free(w.w);
    for (int i = 0; i < w.n; i++)
        free(w.data[i]);
}

static void temporary(char path[64])
{
    strcpy(path, "/tmp/kvsink-test-model-XXXXXX");
    int fd = mkstemp(path);
    cr_assert(fd >= 0);
    close(fd);
}

static const model_case wrong[] = {
    {"architecture", .key = "general.architecture", .text = "qwen2", .says = "'qwen2'"},
    {"no architecture", .drop = "general.architecture", .says = "general.architecture"},
    {"experts", .key = "llama.expert_count", .number = 8, .says = "llama.expert_count"},
    {"no layers", .drop = "llama.block_count", .says = "llama.block_count"},
    {"zero layers", .key = "llama.block_count", .number = 0, .says = "llama.block_count"},
    {"huge layers", .key = "llama.block_count", .number = 1 << 30, .says = "llama.block_count"},
    {"a layer more", .key = "llama.block_count", .number = L + 1, .says = "blk.2.attn_norm"},
    {"a layer less", .key = "llama.block_count", .number = L - 1, .says = "blk.1."},
    {"text for a number", .key = "llama.block_count", .text = "two", .says = "llama.block_count"},
    {"no width", .drop = "llama.embedding_length", .says = "llama.embedding_length"},
    {"no context", .drop = "llama.context_length", .says = "llama.context_length"},
    {"no heads", .drop = "llama.attention.head_count", .says = "llama.attention.head_count"},
    {"uneven heads", .key = "llama.attention.head_count_kv", .number = 2, .says = "evenly"},
    {"odd head size", .key = "llama.attention.key_length", .number = 7, .says = "head size 7"},
    {"huge head size", .key = "llama.attention.key_length", .number = 1024, .says = "1024"},
    {"other values", .key = "llama.attention.value_length", .number = 16, .says = "16"},
    {"other key length", .key = "llama.attention.key_length", .number = 16, .says = "24 x 48"},
    {"odd rope", .key = "llama.rope.dimension_count", .number = 3, .says = "even"},
    {"long rope", .key = "llama.rope.dimension_count", .number = 10,
     .says = "llama.rope.dimension_count"},
    {"no base", .key = "llama.rope.freq_base", .real = -1, .says = "llama.rope.freq_base"},
    {"yarn", .key = "llama.rope.scaling.type", .text = "yarn", .says = "'yarn'"},
    {"longrope", .key = "llama.rope.scaling.type", .text = "longrope", .says = "'longrope'"},
    {"fewer tokens", .tokens = V - 1, .says = "vocabulary mismatch"},
    {"more tokens", .tokens = V + 1, .says = "vocabulary mismatch"},
    {"other size stated", .key = "llama.vocab_size", .number = V + 2,
     .says = "vocabulary mismatch"},
    {"no embedding", .drop = "token_embd.weight", .says = "token_embd.weight"},
    {"no norm", .drop = "output_norm.weight", .says = "output_norm.weight is missing"},
    {"no keys", .drop = "blk.1.attn_k.weight", .says = "blk.1.attn_k.weight is missing"},
    {"wide embedding", .tensor = "token_embd.weight", .rows = V, .cols = C + 1, .says = "25 x 50"},
    {"transposed", .tensor = "blk.0.ffn_down.weight", .rows = F, .cols = C, .says = "40 x 24"},
    {"short gain", .tensor = "blk.1.ffn_norm.weight", .rows = 0, .cols = C - 1, .says = "shape 23"},
    {"matrix for gain", .tensor = "output_norm.weight", .rows = 2, .cols = C, .says = "24 x 2"},
    {"NaN", .tensor = "blk.1.ffn_up.weight", .poison = NAN,
     .says = "blk.1.ffn_up.weight: weight 5"},
    {"infinity", .tensor = "token_embd.weight", .poison = INFINITY, .says = "weight 5 is inf"},
    {"minus infinity", .tensor = "blk.0.attn_norm.weight", .poison = -INFINITY, .says = "-inf"},
    {"bias", .extra_tensor = "blk.0.attn_q.bias", .says = "blk.0.attn_q.bias"},
    {"expert", .extra_tensor = "blk.0.ffn_gate_inp.weight", .says = "blk.0.ffn_gate_inp.weight"},
    {"bad factor", .extra_tensor = "rope_freqs.weight", .tensor = "rope_freqs.weight", .poison = -2,
     .says = "rope_freqs.weight"},
};

Test(model, bad_files_are_refused_by_name)
{
    char path[64];
    temporary(path);
    for (int i = 0; i < (int)(sizeof wrong / sizeof *wrong); i++) {
        tm_model *m;
        kv_error err = {0, ""};
        write_model(path, &wrong[i]);
        cr_expect_eq(tm_model_load(&m, path, &err), KV_FAIL_RUN, "%s", wrong[i].name);
        cr_expect_null(m);
        cr_expect(strstr(err.text, wrong[i].says) && strstr(err.text, path), "%s: %s",
                  wrong[i].name, err.text);
        cr_expect_neq(tm_model_load(&m, path, NULL), KV_OK);
    }
    unlink(path);
}

Test(model, missing_file_and_not_a_gguf)
{
    tm_model *m;
    kv_error err;
    cr_expect_eq(tm_model_load(&m, "/nonexistent/model.gguf", &err), KV_FAIL_RUN);
    cr_expect_eq(tm_model_load(&m, "/dev/null", &err), KV_FAIL_RUN);
    cr_expect_null(m);
}

static tm_model *load(const char *path, const model_case *c)
{
    tm_model *m;
    kv_error err;
    write_model(path, c);
    cr_assert_eq(tm_model_load(&m, path, &err), KV_OK, "%s: %s", c->name, err.text);
    return m;
}

Test(model, loads_what_was_written)
{
    char path[64];
    temporary(path);
    model_case plain = {.name = "plain"};
    tm_model *m = load(path, &plain);
    const kv_model *k = m->kv;
    cr_expect(k->layers == L && k->width == C && k->ffn == F && k->vocab == V);
    cr_expect(k->context == 128 && k->shape.heads == H && k->shape.kv_heads == HK);
    cr_expect(k->shape.head_size == D && k->rope.dims == D && k->rope.interleaved);
    cr_expect(k->rope.base == 10000 && k->rope.scale == 1 && !k->rope.factors);
    cr_expect(fabs(k->norm_eps - 1e-5) < 1e-11);
    cr_expect_eq(k->output.data, k->embed.data, "tied");
    cr_expect(k->layer[1].down.rows == C && k->layer[1].down.cols == F);
    for (size_t i = 0; i < gguf_tensor_count(m->file); i++) {
        const gguf_tensor *t = gguf_tensor_at(m->file, i);
        const float *to = !strcmp(t->name, "token_embd.weight")      ? k->embed.data
                          : !strcmp(t->name, "output_norm.weight")   ? k->norm
                          : !strcmp(t->name, "blk.0.attn_q.weight")  ? k->layer[0].q.data
                          : !strcmp(t->name, "blk.1.attn_k.weight")  ? k->layer[1].k.data
                          : !strcmp(t->name, "blk.1.attn_v.weight")  ? k->layer[1].v.data
                          : !strcmp(t->name, "blk.0.attn_output.weight") ? k->layer[0].o.data
                          : !strcmp(t->name, "blk.1.ffn_gate.weight") ? k->layer[1].gate.data
                          : !strcmp(t->name, "blk.1.ffn_up.weight")  ? k->layer[1].up.data
                          : !strcmp(t->name, "blk.0.ffn_down.weight") ? k->layer[0].down.data
                          : !strcmp(t->name, "blk.0.attn_norm.weight") ? k->layer[0].attn_norm
                          : !strcmp(t->name, "blk.1.ffn_norm.weight") ? k->layer[1].ffn_norm
                                                                      : NULL;
        if (to)
            cr_expect(check_same(to, t->data, t->elements), "%s", t->name);
    }
    tm_model_free(m);
    tm_model_free(NULL);
    unlink(path);
}

Test(model, options_are_read)
{
    char path[64];
    temporary(path);
    model_case c[] = {
        {"output", .extra_tensor = "output.weight"},
        {"factors", .extra_tensor = "rope_freqs.weight"},
        {"base", .key = "llama.rope.freq_base", .real = 5e5f},
        {"linear", .key = "llama.rope.scaling.type", .text = "linear"},
        {"none", .key = "llama.rope.scaling.type", .text = "none"},
        {"old linear", .key = "llama.rope.scale_linear", .real = 2},
        {"partial", .key = "llama.rope.dimension_count", .number = 4},
        {"window", .key = "llama.attention.sliding_window", .number = 64},
        {"no experts", .key = "llama.expert_count", .number = 0},
        {"key length", .key = "llama.attention.key_length", .number = D},
        {"no list", .tokens = -1},
    };
    uint64_t hash[2] = {0, 0};
    for (int i = 0; i < (int)(sizeof c / sizeof *c); i++) {
        tm_model *m = load(path, &c[i]);
        const kv_model *k = m->kv;
        cr_expect_eq(k->output.data != k->embed.data, i == 0);
        cr_expect_eq(k->rope.factors != NULL, i == 1);
        cr_expect_eq(k->rope.base, i == 2 ? 5e5 : 1e4);
        cr_expect_eq(k->rope.scale, i == 3 ? 0.25 : i == 5 ? 0.5 : 1);
        cr_expect_eq(k->rope.dims, i == 6 ? 4 : D);
        cr_expect_eq(k->context, i == 7 ? 64 : 128);
        cr_expect_eq(k->vocab, V);
        if (i != 0 && i != 1) { /* metadata do not enter the hash */
            cr_expect(!hash[0] || hash[0] == m->hash);
            hash[0] = m->hash;
        }
        tm_model_free(m);
    }
    model_case other = {"other weight", .tensor = "blk.1.attn_v.weight", .poison = 3};
    tm_model *m = load(path, &other);
    cr_expect(m->hash != hash[0]);
    tm_model_free(m);
    unlink(path);
}

/* The whole decoder, fast against scalar. The final states have unit mean square; an error of
 * g(40) = 40 * 2^-24 in each of the 2 * 7 products, enlarged by at most 10 on the way,
 * gives 3.4e-4; errors are random, a third of it is asked for. */
Test(model, runs_fast_as_scalar_and_the_same_on_any_number_of_threads)
{
    char path[64];
    temporary(path);
    model_case c = {"factors", .extra_tensor = "rope_freqs.weight"};
    tm_model *m = load(path, &c);
    enum { T = 97 };
    int tokens[T];
    uint64_t seed = 5;
    for (int i = 0; i < T; i++)
        tokens[i] = check_below(&seed, V);
    float scratch[T], *want = check_floats(T * C), *got = check_floats(T * C);
    float *first = check_floats(T * C), *logits = check_floats(T * V);
    float *judged = check_floats(T * V);
    kv_backend scalar = kv_scalar_backend(scratch);
    kv_run run = {.model = m->kv, .backend = &scalar};
    run.work = check_floats(kv_forward_work(m->kv, 0, 0, T));
    cr_assert_eq(kv_forward(want, &run, tokens, T, NULL), KV_OK);
    cr_assert_eq(kv_logits(judged, &run, want, T, NULL), KV_OK);
    const int threads[] = {1, 2, 5};
    for (int i = 0; i < 3; i++) {
        tm_fast *f;
        cr_assert_eq(tm_fast_open(&f, threads[i], NULL), KV_OK);
        cr_assert_eq(tm_model_known(m, f, NULL), KV_OK);
        run.backend = tm_fast_backend(f);
        cr_assert_eq(kv_forward(got, &run, tokens, T, NULL), KV_OK);
        cr_assert_eq(kv_logits(logits, &run, got, T, NULL), KV_OK);
        cr_expect(check_diff(got, want, T * C) <= 1e-4, "%g", check_diff(got, want, T * C));
        cr_expect(check_diff(logits, judged, T * V) <= 3e-4);
        if (!i)
            memcpy(first, got, T * C * sizeof *got);
        cr_expect(check_same(first, got, T * C), "%d threads", threads[i]);
        tm_fast_close(f);
    }
    tm_model_free(m);
    unlink(path);
    free(want), free(got), free(first), free(logits), free(judged), free(run.work);
}
