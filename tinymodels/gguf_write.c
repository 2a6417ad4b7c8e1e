/* GGUF writer: what gguf.c reads, made.
 *
 * Keys and tensor entries are appended to two growing buffers in the form they have in
 * the file; gguf_write puts the header in front, the padding between and the data behind.
 * Errors are kept in the writer until then, so that code which builds a model reads as
 * a list of what is in it. */
#include "gguf.h"

#include <stdlib.h>
#include <string.h>

#include "files.h"

enum { ALIGNMENT = 32 };

typedef struct {
    unsigned char *bytes;
    size_t used, capacity;
} buffer;

typedef struct {
    const void *data;
    size_t bytes;
} piece;

struct gguf_writer {
    uint64_t n_keys, n_tensors;
    buffer keys, tensors;           /* as they stand in the file */
    buffer key_names, tensor_names; /* each ended by NUL, to find duplicates */
    buffer pieces;                  /* of type piece: the data of the tensors */
    uint64_t offset;                /* where the next tensor's data begin */
    kv_error failure;
};

gguf_writer *gguf_writer_new(void) { return calloc(1, sizeof(gguf_writer)); }

void gguf_writer_free(gguf_writer *w)
{
    if (!w) return;
    free(w->keys.bytes);
    free(w->tensors.bytes);
    free(w->key_names.bytes);
    free(w->tensor_names.bytes);
    free(w->pieces.bytes);
    free(w);
}

/* ---------------------------------------------------------------- buffers */

static void append(gguf_writer *w, buffer *b, const void *bytes, size_t n)
{
    if (w->failure.code != KV_OK || n == 0) return;
    if (n > b->capacity - b->used) {
        size_t capacity = b->capacity * 2 > b->used + n ? b->capacity * 2 : b->used + n + 256;
        unsigned char *larger = realloc(b->bytes, capacity);
        if (!larger) {
            kv_fail(&w->failure, KV_FAIL_RUN, "not enough memory to build the file");
            return;
        }
        b->bytes = larger;
        b->capacity = capacity;
    }
    memcpy(b->bytes + b->used, bytes, n);
    b->used += n;
}

static void append_u32(gguf_writer *w, buffer *b, uint32_t v) { append(w, b, &v, sizeof v); }

static void append_u64(gguf_writer *w, buffer *b, uint64_t v) { append(w, b, &v, sizeof v); }

static void append_string(gguf_writer *w, buffer *b, const char *bytes, size_t length)
{
    append_u64(w, b, length);
    append(w, b, bytes, length);
}

/* Puts the name into the entry and remembers it; refuses one that is empty or was there before. */
static void append_name(gguf_writer *w, buffer *entries, buffer *names, const char *kind,
                        const char *name)
{
    size_t length = strlen(name);
    if (w->failure.code != KV_OK) return;
    if (length == 0) kv_fail(&w->failure, KV_FAIL_RUN, "the name of a %s is empty", kind);
    for (size_t i = 0; i < names->used; i += strlen((char *)names->bytes + i) + 1)
        if (strcmp((char *)names->bytes + i, name) == 0)
            kv_fail(&w->failure, KV_FAIL_RUN, "%s '%s' was put in twice", kind, name);
    append_string(w, entries, name, length);
    append(w, names, name, length + 1);
}

/* ------------------------------------------------------------------- keys */

static void start_key(gguf_writer *w, const char *name, uint32_t type)
{
    append_name(w, &w->keys, &w->key_names, "key", name);
    append_u32(w, &w->keys, type);
    w->n_keys++;
}

static void start_array(gguf_writer *w, const char *name, uint32_t type, size_t n)
{
    start_key(w, name, GGUF_ARRAY);
    append_u32(w, &w->keys, type);
    append_u64(w, &w->keys, n);
}

void gguf_put_string(gguf_writer *w, const char *name, const char *bytes, size_t length)
{
    if (!w) return;
    start_key(w, name, GGUF_STRING);
    append_string(w, &w->keys, bytes, length);
}

void gguf_put_uint32(gguf_writer *w, const char *name, uint32_t value)
{
    if (!w) return;
    start_key(w, name, GGUF_UINT32);
    append(w, &w->keys, &value, sizeof value);
}

void gguf_put_int32(gguf_writer *w, const char *name, int32_t value)
{
    if (!w) return;
    start_key(w, name, GGUF_INT32);
    append(w, &w->keys, &value, sizeof value);
}

void gguf_put_float32(gguf_writer *w, const char *name, float value)
{
    if (!w) return;
    start_key(w, name, GGUF_FLOAT32);
    append(w, &w->keys, &value, sizeof value);
}

void gguf_put_bool(gguf_writer *w, const char *name, int value)
{
    unsigned char bit = value != 0;
    if (!w) return;
    start_key(w, name, GGUF_BOOL);
    append(w, &w->keys, &bit, sizeof bit);
}

void gguf_put_strings(gguf_writer *w, const char *name, const gguf_string *values, size_t n)
{
    if (!w) return;
    start_array(w, name, GGUF_STRING, n);
    for (size_t i = 0; i < n; i++) append_string(w, &w->keys, values[i].data, values[i].length);
}

void gguf_put_int32s(gguf_writer *w, const char *name, const int32_t *values, size_t n)
{
    if (!w) return;
    start_array(w, name, GGUF_INT32, n);
    append(w, &w->keys, values, n * sizeof *values);
}

void gguf_put_float32s(gguf_writer *w, const char *name, const float *values, size_t n)
{
    if (!w) return;
    start_array(w, name, GGUF_FLOAT32, n);
    append(w, &w->keys, values, n * sizeof *values);
}

/* ---------------------------------------------------------------- tensors */

/* Bytes of a tensor, 0 if it cannot be. */
static size_t tensor_bytes(int type, int n_dims, const size_t *dims)
{
    size_t elements = 1, block = gguf_block_elements(type);
    if (block == 0 || n_dims < 1 || n_dims > GGUF_MAX_DIMS || dims[0] % block != 0) return 0;
    for (int i = 0; i < n_dims; i++) {
        if (dims[i] == 0 || dims[i] > SIZE_MAX / elements) return 0;
        elements *= dims[i];
    }
    if (elements / block > (SIZE_MAX - ALIGNMENT) / gguf_block_bytes(type)) return 0;
    return elements / block * gguf_block_bytes(type);
}

void gguf_put_tensor(gguf_writer *w, const char *name, int type, int n_dims, const size_t *dims,
                     const void *data)
{
    if (!w || w->failure.code != KV_OK) return;
    piece p = {data, tensor_bytes(type, n_dims, dims)};
    if (p.bytes == 0) {
        kv_fail(&w->failure, KV_FAIL_RUN, "tensor '%s': type %s cannot have this shape", name,
                gguf_type_name(type) ? gguf_type_name(type) : "(unknown)");
        return;
    }
    append_name(w, &w->tensors, &w->tensor_names, "tensor", name);
    append_u32(w, &w->tensors, (uint32_t)n_dims);
    for (int i = 0; i < n_dims; i++) append_u64(w, &w->tensors, dims[i]);
    append_u32(w, &w->tensors, (uint32_t)type);
    append_u64(w, &w->tensors, w->offset);
    append(w, &w->pieces, &p, sizeof p);
    w->offset += (p.bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    w->n_tensors++;
}

/* ---------------------------------------------------------------- the file */

/* tm_out_close reports what goes wrong here. */
static void write_padded(FILE *f, const void *bytes, size_t n, size_t position)
{
    static const char zeros[ALIGNMENT];
    if (n) fwrite(bytes, 1, n, f);
    fwrite(zeros, 1, (ALIGNMENT - (position + n) % ALIGNMENT) % ALIGNMENT, f);
}

int gguf_write(gguf_writer *w, const char *path, kv_error *err)
{
    tm_out out;
    const uint32_t version = 3;
    if (!w) return kv_fail(err, KV_FAIL_RUN, "cannot write %s: not enough memory", path);
    if (w->failure.code != KV_OK)
        return kv_fail(err, w->failure.code, "cannot write %s: %s", path, w->failure.text);
    int code = tm_out_open(&out, path, err);
    if (code != KV_OK) return code;
    fwrite("GGUF", 1, 4, out.f);
    fwrite(&version, 1, sizeof version, out.f);
    fwrite(&w->n_tensors, 1, sizeof w->n_tensors, out.f);
    fwrite(&w->n_keys, 1, sizeof w->n_keys, out.f);
    if (w->keys.used) fwrite(w->keys.bytes, 1, w->keys.used, out.f);
    write_padded(out.f, w->tensors.bytes, w->tensors.used, 24 + w->keys.used);
    for (size_t i = 0; i < w->n_tensors; i++) {
        piece p;
        memcpy(&p, w->pieces.bytes + i * sizeof p, sizeof p);
        write_padded(out.f, p.data, p.bytes, 0);
    }
    return tm_out_close(&out, err);
}
