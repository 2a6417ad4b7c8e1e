/* Reads the description of a tokenizer from a GGUF file's metadata (keys tokenizer.ggml.*). What a
 * description must hold is checked in tokenizer.c: here only keys and their types matter. */
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "tokenizer.h"

/* Values that need memory while the spec is in use. */
typedef struct {
    char *model, *pre;
    int *type;
    float *score;
} loaded;

static int has(const gguf *file, const char *key)
{
    return gguf_key_find(file, key) != NULL;
}

/* Optional values: absent keys leave *out as it is. */
static int read_string(char **out, const gguf *file, const char *key, kv_error *err)
{
    gguf_string s;
    if (!has(file, key))
        return 0;
    int code = gguf_get_string(&s, file, key, err);
    if (code)
        return code;
    *out = malloc(s.length + 1);
    if (!*out)
        return kv_fail(err, KV_FAIL_RUN, "%s: out of memory at %s", gguf_path(file), key);
    memcpy(*out, s.data, s.length);
    (*out)[s.length] = 0;
    return 0;
}

static int read_id(int64_t *out, const gguf *file, const char *key, kv_error *err)
{
    return has(file, key) ? gguf_get_int(out, file, key, 0, INT64_MAX, err) : 0;
}

static int read_bool(int *out, const gguf *file, const char *key, kv_error *err)
{
    return has(file, key) ? gguf_get_bool(out, file, key, err) : 0;
}

static int read_strings(const gguf_string **out, size_t *n, const gguf *file, const char *key,
                        kv_error *err)
{
    static const gguf_string none = {"", 0};
    gguf_array array;
    if (!has(file, key))
        return 0;
    int code = gguf_get_strings(&array, file, key, err);
    if (code)
        return code;
    *out = array.count ? array.strings : &none; /* empty is not the same as missing */
    *n = array.count;
    return 0;
}

static int read_types(tok_spec *spec, loaded *own, const gguf *file, kv_error *err)
{
    gguf_array array;
    if (!has(file, "tokenizer.ggml.token_type"))
        return 0;
    int code = gguf_get_ints(&array, file, "tokenizer.ggml.token_type", err);
    if (code)
        return code;
    own->type = malloc((array.count + 1) * sizeof *own->type);
    if (!own->type)
        return kv_fail(err, KV_FAIL_RUN, "%s: out of memory at token_type", gguf_path(file));
    for (size_t i = 0; i < array.count; i++) {
        int64_t type = gguf_array_int(&array, i);
        own->type[i] = type >= TOK_NORMAL && type <= TOK_BYTE ? (int)type : TOK_UNUSED;
    }
    spec->type = own->type;
    spec->n_types = array.count;
    return 0;
}

static int read_scores(tok_spec *spec, loaded *own, const gguf *file, kv_error *err)
{
    gguf_array array;
    if (!has(file, "tokenizer.ggml.scores"))
        return 0;
    int code = gguf_get_floats(&array, file, "tokenizer.ggml.scores", err);
    if (code)
        return code;
    own->score = malloc((array.count + 1) * sizeof *own->score);
    if (!own->score)
        return kv_fail(err, KV_FAIL_RUN, "%s: out of memory at scores", gguf_path(file));
    for (size_t i = 0; i < array.count; i++)
        own->score[i] = (float)gguf_array_float(&array, i);
    spec->score = own->score;
    spec->n_scores = array.count;
    return 0;
}

/* Phi-3's files do not say that white space after a special token belongs to it; llama.cpp goes by
 * the model's name, so do we. */
static int is_phi3(const gguf *file)
{
    gguf_string name;
    if (!has(file, "general.name") || gguf_get_string(&name, file, "general.name", NULL))
        return 0;
    char lower[128];
    size_t n = name.length < sizeof lower - 1 ? name.length : sizeof lower - 1;
    for (size_t i = 0; i < n; i++)
        lower[i] = (char)tolower((unsigned char)name.data[i]);
    lower[n] = 0;
    return strstr(lower, "phi-3") || strstr(lower, "phi3");
}

static int read_spec(tok_spec *spec, loaded *own, const gguf *file, kv_error *err)
{
    int code;
    if ((code = read_string(&own->model, file, "tokenizer.ggml.model", err)) ||
        (code = read_string(&own->pre, file, "tokenizer.ggml.pre", err)) ||
        (code = read_strings(&spec->token, &spec->n, file, "tokenizer.ggml.tokens", err)) ||
        (code = read_strings(&spec->merge, &spec->n_merges, file, "tokenizer.ggml.merges", err)) ||
        (code = read_types(spec, own, file, err)) || (code = read_scores(spec, own, file, err)) ||
        (code = read_id(&spec->bos, file, "tokenizer.ggml.bos_token_id", err)) ||
        (code = read_id(&spec->eos, file, "tokenizer.ggml.eos_token_id", err)) ||
        (code = read_id(&spec->unk, file, "tokenizer.ggml.unknown_token_id", err)) ||
        (code = read_id(&spec->eot, file, "tokenizer.ggml.eot_token_id", err)) ||
        (code = read_id(&spec->eom, file, "tokenizer.ggml.eom_token_id", err)) ||
        (code = read_bool(&spec->add_bos, file, "tokenizer.ggml.add_bos_token", err)) ||
        (code = read_bool(&spec->add_space_prefix, file, "tokenizer.ggml.add_space_prefix", err)))
        return code;
    spec->name = gguf_path(file);
    spec->model = own->model;
    spec->pre = own->pre;
    spec->strip_after_special = is_phi3(file);
    return 0;
}

int tok_open(tokenizer **tok, const gguf *file, kv_error *err)
{
    tok_spec spec = tok_spec_empty();
    loaded own = {0};
    *tok = NULL;
    int code = read_spec(&spec, &own, file, err);
    if (!code)
        code = tok_from_spec(tok, &spec, err);
    free(own.model);
    free(own.pre);
    free(own.type);
    free(own.score);
    return code;
}
