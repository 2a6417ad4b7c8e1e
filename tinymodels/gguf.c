/* GGUF reader: map the file, check everything once, answer by name.
 *
 * A model file comes from the network, so nothing in it is believed. One cursor
 * (struct reader) walks over the header; it is the only code that moves through
 * the bytes, and it refuses to go past the end, saying what it was about to
 * read. All arithmetic on sizes from the file is done so that it cannot
 * overflow: counts are compared with what is left of the file before anything
 * is multiplied or allocated, and tables grow with what has really been parsed, so
 * a damaged count costs no memory.
 *
 * After gguf_open the tables of keys and tensors are complete and two sorted
 * lists of pointers answer look-ups by name. */
#define _XOPEN_SOURCE 700

#include "gguf.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "files.h"

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "GGUF files are little-endian and are read in place: this needs a little-endian machine"
#endif

enum { NAME_TEXT = 80, DEFAULT_ALIGNMENT = 32 };

struct gguf {
    char *path;
    int version;
    const unsigned char *data;
    size_t size;
    int mapped; /* data is ours to unmap */
    size_t n_keys, key_capacity;
    gguf_key *keys;
    const gguf_key **keys_by_name;
    size_t n_tensors, tensor_capacity;
    gguf_tensor *tensors;
    const gguf_tensor **tensors_by_name;
};

/* ------------------------------------------------------------------ types */

static const struct {
    const char *name;
    size_t bytes; /* of one value; 0: not of fixed size */
} value_types[] = {
    {"uint8", 1},  {"int8", 1},    {"uint16", 2},  {"int16", 2},  {"uint32", 4},
    {"int32", 4},  {"float32", 4}, {"bool", 1},    {"string", 0}, {"array", 0},
    {"uint64", 8}, {"int64", 8},   {"float64", 8},
};
enum { N_VALUE_TYPES = sizeof value_types / sizeof *value_types };

/* Index: ggml's number of the type. Blocks of size 0 are types that existed once, or exist only
 * while ggml computes: no file should have them, and their names help the message. */
static const struct {
    const char *name;
    unsigned short elements, bytes;
} tensor_types[] = {
    [0] = {"F32", 1, 4},         [1] = {"F16", 1, 2},         [2] = {"Q4_0", 32, 18},
    [3] = {"Q4_1", 32, 20},      [4] = {"Q4_2", 0, 0},        [5] = {"Q4_3", 0, 0},
    [6] = {"Q5_0", 32, 22},      [7] = {"Q5_1", 32, 24},      [8] = {"Q8_0", 32, 34},
    [9] = {"Q8_1", 0, 0},        [10] = {"Q2_K", 256, 84},    [11] = {"Q3_K", 256, 110},
    [12] = {"Q4_K", 256, 144},   [13] = {"Q5_K", 256, 176},   [14] = {"Q6_K", 256, 210},
    [15] = {"Q8_K", 0, 0},       [16] = {"IQ2_XXS", 256, 66}, [17] = {"IQ2_XS", 256, 74},
    [18] = {"IQ3_XXS", 256, 98}, [19] = {"IQ1_S", 256, 50},   [20] = {"IQ4_NL", 32, 18},
    [21] = {"IQ3_S", 256, 110},  [22] = {"IQ2_S", 256, 82},   [23] = {"IQ4_XS", 256, 136},
    [24] = {"I8", 1, 1},         [25] = {"I16", 1, 2},        [26] = {"I32", 1, 4},
    [27] = {"I64", 1, 8},        [28] = {"F64", 1, 8},        [29] = {"IQ1_M", 256, 56},
    [30] = {"BF16", 1, 2},       [31] = {"Q4_0_4_4", 0, 0},   [32] = {"Q4_0_4_8", 0, 0},
    [33] = {"Q4_0_8_8", 0, 0},   [34] = {"TQ1_0", 256, 54},   [35] = {"TQ2_0", 256, 66},
    [36] = {"IQ4_NL_4_4", 0, 0}, [37] = {"IQ4_NL_4_8", 0, 0}, [38] = {"IQ4_NL_8_8", 0, 0},
    [39] = {"MXFP4", 32, 17},    [40] = {"NVFP4", 64, 36},
};
enum { N_TENSOR_TYPES = sizeof tensor_types / sizeof *tensor_types };

static int is_tensor_type(int type) { return type >= 0 && type < N_TENSOR_TYPES; }

const char *gguf_type_name(int tensor_type)
{
    return is_tensor_type(tensor_type) ? tensor_types[tensor_type].name : NULL;
}

const char *gguf_value_type_name(int value_type)
{
    return value_type >= 0 && value_type < N_VALUE_TYPES ? value_types[value_type].name : NULL;
}

size_t gguf_block_elements(int tensor_type)
{
    return is_tensor_type(tensor_type) ? tensor_types[tensor_type].elements : 0;
}

size_t gguf_block_bytes(int tensor_type)
{
    return is_tensor_type(tensor_type) ? tensor_types[tensor_type].bytes : 0;
}

/* ----------------------------------------------------------------- cursor */

/* What is being read is kept as three parts (field, element, subject) and put together only
 * for a message: "the length of element 17 of key 'tokenizer.ggml.tokens'". */
typedef struct {
    gguf *g;
    size_t at;
    char subject[NAME_TEXT + 32];
    int in_array;
    uint64_t element;
    kv_error *err;
} reader;

static int cut_short(const reader *r, const char *field, uint64_t bytes)
{
    char element[40] = "";
    if (r->in_array) snprintf(element, sizeof element, " element %" PRIu64 " of", r->element);
    return kv_fail(r->err, KV_FAIL_RUN,
                   "%s: cut short in the %s of%s %s: %" PRIu64
                   " bytes are needed at offset %zu, but the "
                   "file ends at %zu; the download may be incomplete",
                   r->g->path, field, element, r->subject, bytes, r->at, r->g->size);
}

static int take(reader *r, const unsigned char **p, uint64_t bytes, const char *field)
{
    if (bytes > r->g->size - r->at) return cut_short(r, field, bytes);
    *p = r->g->data + r->at;
    r->at += (size_t)bytes;
    return KV_OK;
}

static int take_u32(reader *r, uint32_t *v, const char *field)
{
    const unsigned char *p = NULL;
    int code = take(r, &p, sizeof *v, field);
    if (code == KV_OK) memcpy(v, p, sizeof *v);
    return code;
}

static int take_u64(reader *r, uint64_t *v, const char *field)
{
    const unsigned char *p = NULL;
    int code = take(r, &p, sizeof *v, field);
    if (code == KV_OK) memcpy(v, p, sizeof *v);
    return code;
}

static int take_string(reader *r, gguf_string *s, const char *length_field, const char *field)
{
    uint64_t length = 0;
    const unsigned char *p = NULL;
    int code = take_u64(r, &length, length_field);
    if (code == KV_OK) code = take(r, &p, length, field);
    if (code != KV_OK) return code;
    s->data = (const char *)p;
    s->length = (size_t)length;
    return KV_OK;
}

static int no_memory(const reader *r)
{
    return kv_fail(r->err, KV_FAIL_RUN, "%s: not enough memory for the table of its contents",
                   r->g->path);
}

/* Names become C strings: they are compared and printed everywhere, and a NUL or nothing inside
 * one is a sign of damage. kind is "key" or "tensor". Sets the subject of later messages. */
static int take_name(reader *r, const char **name, const char *kind)
{
    gguf_string s = {0};
    char text[NAME_TEXT];
    int code = take_string(r, &s, "length of the name", "name");
    if (code != KV_OK) return code;
    tm_printable(text, sizeof text, s.data, s.length);
    if (s.length == 0 || memchr(s.data, 0, s.length))
        return kv_fail(
            r->err, KV_FAIL_RUN,
            "%s: the name '%s' of %s %s; the file is damaged, download or convert it again",
            r->g->path, text, r->subject, s.length == 0 ? "is empty" : "contains a NUL byte");
    char *copy = malloc(s.length + 1);
    if (!copy) return no_memory(r);
    memcpy(copy, s.data, s.length);
    copy[s.length] = 0;
    *name = copy;
    snprintf(r->subject, sizeof r->subject, "%s '%s'", kind, text);
    return KV_OK;
}

/* Makes room for one more zeroed entry in a table that doubles when full. */
static int grow(reader *r, void **table, size_t *capacity, size_t used, size_t entry)
{
    if (used < *capacity) return KV_OK;
    size_t larger = *capacity ? *capacity * 2 : 64;
    void *p = larger <= SIZE_MAX / entry ? realloc(*table, larger * entry) : NULL;
    if (!p) return no_memory(r);
    memset((char *)p + used * entry, 0, (larger - used) * entry);
    *table = p;
    *capacity = larger;
    return KV_OK;
}

/* ------------------------------------------------------------------- keys */

static int take_strings(reader *r, gguf_array *a, uint64_t count)
{
    if (r->in_array && count > (r->g->size - r->at) / 8) { /* 8 bytes of length each, at least */
        r->in_array = 0;
        return cut_short(r, "elements", count > UINT64_MAX / 8 ? UINT64_MAX : count * 8);
    }
    gguf_string *strings = malloc(count ? (size_t)count * sizeof *strings : 1);
    if (!strings) return no_memory(r);
    a->strings = strings; /* freed with the table of keys, also after an error */
    for (uint64_t i = 0; i < count; i++) {
        r->element = i;
        int code = take_string(r, &strings[i], "length", "bytes");
        if (code != KV_OK) return code;
    }
    return KV_OK;
}

static int take_numbers(reader *r, gguf_array *a, uint64_t count)
{
    size_t width = value_types[a->type].bytes;
    uint64_t bytes = count > UINT64_MAX / width ? UINT64_MAX : count * width;
    int in_array = r->in_array;
    r->in_array = 0; /* the block of numbers is read in one go */
    int code = take(r, &a->bytes, bytes, in_array ? "elements" : "value");
    if (code != KV_OK || a->type != GGUF_BOOL) return code;
    for (uint64_t i = 0; i < count; i++)
        if (a->bytes[i] > 1)
            return kv_fail(r->err, KV_FAIL_RUN,
                           "%s: %s holds %d where a bool (0 or 1) is expected; the file is damaged",
                           r->g->path, r->subject, a->bytes[i]);
    return KV_OK;
}

static int take_value_type(reader *r, uint32_t *type, const char *field, int nested)
{
    int code = take_u32(r, type, field);
    if (code != KV_OK) return code;
    if (*type >= N_VALUE_TYPES)
        return kv_fail(r->err, KV_FAIL_RUN,
                       "%s: %s has the unknown value type %" PRIu32
                       " (0 to %d are known); the file is "
                       "damaged or newer than this program",
                       r->g->path, r->subject, *type, N_VALUE_TYPES - 1);
    if (nested && *type == GGUF_ARRAY)
        return kv_fail(
            r->err, KV_FAIL_RUN,
            "%s: %s is an array of arrays, which no known model uses and this program does not "
            "read; convert the file without it",
            r->g->path, r->subject);
    return KV_OK;
}

static int take_key(reader *r, gguf_key *key)
{
    uint32_t type = 0;
    uint64_t count = 1;
    int code = take_name(r, &key->name, "key");
    if (code == KV_OK) code = take_value_type(r, &type, "type", 0);
    if (code != KV_OK) return code;
    if (type == GGUF_ARRAY) {
        key->is_array = 1;
        code = take_value_type(r, &type, "element type", 1);
        if (code == KV_OK) code = take_u64(r, &count, "element count");
        if (code != KV_OK) return code;
    }
    key->value.type = (int)type;
    r->in_array = key->is_array;
    r->element = 0;
    if (type == GGUF_STRING)
        code = take_strings(r, &key->value, count);
    else
        code = take_numbers(r, &key->value, count);
    r->in_array = 0;
    key->value.count = (size_t)count;
    return code;
}

static int take_keys(reader *r, uint64_t count)
{
    gguf *g = r->g;
    for (uint64_t i = 0; i < count; i++) {
        snprintf(r->subject, sizeof r->subject, "key %" PRIu64 " of %" PRIu64, i + 1, count);
        void *table = g->keys;
        int code = grow(r, &table, &g->key_capacity, g->n_keys, sizeof *g->keys);
        if (code != KV_OK) return code;
        g->keys = table;
        code = take_key(r, &g->keys[g->n_keys++]);
        if (code != KV_OK) return code;
    }
    return KV_OK;
}

/* ---------------------------------------------------------------- tensors */

static int take_dims(reader *r, gguf_tensor *t)
{
    uint32_t n = 0;
    int code = take_u32(r, &n, "number of dimensions");
    if (code != KV_OK) return code;
    if (n < 1 || n > GGUF_MAX_DIMS)
        return kv_fail(r->err, KV_FAIL_RUN,
                       "%s: %s has %" PRIu32 " dimensions, expected 1 to %d; the file is damaged",
                       r->g->path, r->subject, n, GGUF_MAX_DIMS);
    t->n_dims = (int)n;
    t->elements = 1;
    for (uint32_t i = 0; i < GGUF_MAX_DIMS; i++) {
        uint64_t dim = 1;
        if (i < n) code = take_u64(r, &dim, "dimensions");
        if (code != KV_OK) return code;
        if (dim == 0)
            return kv_fail(r->err, KV_FAIL_RUN,
                           "%s: %s has dimension %" PRIu32 " = 0; the file is damaged", r->g->path,
                           r->subject, i);
        if (dim > SIZE_MAX / t->elements)
            return kv_fail(
                r->err, KV_FAIL_RUN,
                "%s: %s has more elements than this machine can count (dimension %" PRIu32
                " = %" PRIu64 "); the file is damaged",
                r->g->path, r->subject, i, dim);
        t->dims[i] = (size_t)dim;
        t->elements *= (size_t)dim;
    }
    return KV_OK;
}

static int take_tensor_type(reader *r, gguf_tensor *t)
{
    uint32_t type = 0;
    int code = take_u32(r, &type, "type");
    if (code != KV_OK) return code;
    t->type = type < N_TENSOR_TYPES ? (int)type : -1;
    size_t elements = gguf_block_elements(t->type), bytes = gguf_block_bytes(t->type);
    if (elements == 0) {
        const char *name = gguf_type_name(t->type);
        return kv_fail(r->err, KV_FAIL_RUN,
                       "%s: %s has type %" PRIu32
                       " (%s), which is not one of GGUF's; the file is damaged or "
                       "not of this program's time, convert the model again",
                       r->g->path, r->subject, type, name ? name : "unknown");
    }
    if (t->dims[0] % elements != 0)
        return kv_fail(
            r->err, KV_FAIL_RUN,
            "%s: %s has rows of %zu elements, but type %s needs a multiple of %zu; the file is "
            "damaged",
            r->g->path, r->subject, t->dims[0], gguf_type_name(t->type), elements);
    if (t->elements / elements > SIZE_MAX / bytes)
        return kv_fail(r->err, KV_FAIL_RUN,
                       "%s: %s has more bytes than this machine can count; the file is damaged",
                       r->g->path, r->subject);
    t->bytes = t->elements / elements * bytes;
    return KV_OK;
}

/* The offset counts from the data section, whose start is not known before all entries have been
 * read; it waits in *offset until place_tensors. */
static int take_tensor(reader *r, gguf_tensor *t, uint64_t *offset)
{
    t->path = r->g->path;
    int code = take_name(r, &t->name, "tensor");
    if (code == KV_OK) code = take_dims(r, t);
    if (code == KV_OK) code = take_tensor_type(r, t);
    if (code == KV_OK) code = take_u64(r, offset, "offset");
    return code;
}

static int read_alignment(reader *r, uint64_t *alignment)
{
    static const char name[] = "general.alignment";
    *alignment = DEFAULT_ALIGNMENT;
    if (!gguf_key_find(r->g, name)) return KV_OK;
    int64_t value = 0;
    int code = gguf_get_int(&value, r->g, name, INT64_MIN, INT64_MAX, r->err);
    if (code != KV_OK) return code;
    if (value < 8 || value > UINT32_MAX || value % 8 != 0)
        return kv_fail(r->err, KV_FAIL_RUN,
                       "%s: key '%s' is %" PRId64 ", expected a multiple of 8; the file is damaged",
                       r->g->path, name, value);
    *alignment = (uint64_t)value;
    return KV_OK;
}

static int place_tensor(reader *r, gguf_tensor *t, uint64_t offset, uint64_t start,
                        uint64_t alignment)
{
    const gguf *g = r->g;
    char name[NAME_TEXT];
    tm_printable(name, sizeof name, t->name, strlen(t->name));
    if (offset % alignment != 0)
        return kv_fail(r->err, KV_FAIL_RUN,
                       "%s: tensor '%s' starts at offset %" PRIu64
                       ", which is not a multiple of the "
                       "alignment %" PRIu64 "; the file is damaged",
                       g->path, name, offset, alignment);
    if (start > g->size || offset > g->size - start || t->bytes > g->size - start - offset)
        return kv_fail(
            r->err, KV_FAIL_RUN,
            "%s: the data of tensor '%s' (%zu bytes at offset %" PRIu64 " + %" PRIu64
            ") reach beyond the end of the file (%zu bytes); the download may be incomplete",
            g->path, name, t->bytes, start, offset, g->size);
    t->data = g->data + start + offset;
    return KV_OK;
}

static int take_tensors(reader *r, uint64_t count)
{
    gguf *g = r->g;
    uint64_t *offsets = NULL, alignment = DEFAULT_ALIGNMENT;
    size_t offset_capacity = 0;
    int code = KV_OK;
    for (uint64_t i = 0; i < count && code == KV_OK; i++) {
        snprintf(r->subject, sizeof r->subject, "tensor %" PRIu64 " of %" PRIu64, i + 1, count);
        void *table = g->tensors, *places = offsets;
        code = grow(r, &table, &g->tensor_capacity, g->n_tensors, sizeof *g->tensors);
        g->tensors = table;
        if (code == KV_OK) code = grow(r, &places, &offset_capacity, g->n_tensors, sizeof *offsets);
        offsets = places;
        if (code == KV_OK) {
            size_t n = g->n_tensors++;
            code = take_tensor(r, &g->tensors[n], &offsets[n]);
        }
    }
    if (code == KV_OK) code = read_alignment(r, &alignment);
    if (code == KV_OK) {
        uint64_t start = ((uint64_t)r->at + alignment - 1) / alignment * alignment;
        for (size_t i = 0; i < g->n_tensors && code == KV_OK; i++)
            code = place_tensor(r, &g->tensors[i], offsets[i], start, alignment);
    }
    free(offsets);
    return code;
}

/* ---------------------------------------------------------- look-up tables */

static int compare_keys(const void *a, const void *b)
{
    return strcmp((*(const gguf_key *const *)a)->name, (*(const gguf_key *const *)b)->name);
}

static int compare_tensors(const void *a, const void *b)
{
    return strcmp((*(const gguf_tensor *const *)a)->name, (*(const gguf_tensor *const *)b)->name);
}

static int twice(const reader *r, const char *kind, const char *name)
{
    char text[NAME_TEXT];
    return kv_fail(r->err, KV_FAIL_RUN,
                   "%s: %s '%s' occurs twice; the file is damaged, convert the model again",
                   r->g->path, kind, tm_printable(text, sizeof text, name, strlen(name)));
}

static int sort_keys(reader *r)
{
    gguf *g = r->g;
    g->keys_by_name = malloc((g->n_keys + 1) * sizeof *g->keys_by_name);
    if (!g->keys_by_name) return no_memory(r);
    for (size_t i = 0; i < g->n_keys; i++) g->keys_by_name[i] = &g->keys[i];
    qsort(g->keys_by_name, g->n_keys, sizeof *g->keys_by_name, compare_keys);
    for (size_t i = 1; i < g->n_keys; i++)
        if (compare_keys(&g->keys_by_name[i - 1], &g->keys_by_name[i]) == 0)
            return twice(r, "key", g->keys_by_name[i]->name);
    return KV_OK;
}

static int sort_tensors(reader *r)
{
    gguf *g = r->g;
    g->tensors_by_name = malloc((g->n_tensors + 1) * sizeof *g->tensors_by_name);
    if (!g->tensors_by_name) return no_memory(r);
    for (size_t i = 0; i < g->n_tensors; i++) g->tensors_by_name[i] = &g->tensors[i];
    qsort(g->tensors_by_name, g->n_tensors, sizeof *g->tensors_by_name, compare_tensors);
    for (size_t i = 1; i < g->n_tensors; i++)
        if (compare_tensors(&g->tensors_by_name[i - 1], &g->tensors_by_name[i]) == 0)
            return twice(r, "tensor", g->tensors_by_name[i]->name);
    return KV_OK;
}

const gguf_key *gguf_key_find(const gguf *g, const char *name)
{
    gguf_key wanted = {.name = name};
    const gguf_key *key = &wanted, **found;
    if (g->n_keys == 0) return NULL;
    found = bsearch(&key, g->keys_by_name, g->n_keys, sizeof *g->keys_by_name, compare_keys);
    return found ? *found : NULL;
}

const gguf_tensor *gguf_tensor_find(const gguf *g, const char *name)
{
    gguf_tensor wanted = {.name = name};
    const gguf_tensor *tensor = &wanted, **found;
    if (g->n_tensors == 0) return NULL;
    found = bsearch(&tensor, g->tensors_by_name, g->n_tensors, sizeof *g->tensors_by_name,
                    compare_tensors);
    return found ? *found : NULL;
}

/* ---------------------------------------------------------------- opening */

static int take_magic(reader *r)
{
    const unsigned char *magic = NULL;
    char text[32];
    uint32_t version = 0;
    int code = take(r, &magic, 4, "magic number");
    if (code != KV_OK) return code;
    if (memcmp(magic, "GGUF", 4) != 0)
        return kv_fail(
            r->err, KV_FAIL_RUN,
            "%s: not a GGUF file: it starts with '%s' instead of 'GGUF'; give a .gguf model",
            r->g->path, tm_printable(text, sizeof text, (const char *)magic, 4));
    code = take_u32(r, &version, "version");
    if (code != KV_OK) return code;
    if (version != 0 && (version & 0xFFFF) == 0)
        return kv_fail(
            r->err, KV_FAIL_RUN,
            "%s: a big-endian GGUF file; only little-endian ones can be read, convert it",
            r->g->path);
    if (version != 2 && version != 3)
        return kv_fail(r->err, KV_FAIL_RUN,
                       "%s: GGUF version %" PRIu32 ", expected 2 or 3; convert the model again",
                       r->g->path, version);
    r->g->version = (int)version;
    return KV_OK;
}

/* Takes over the mapping in any case: gguf_close gives it back. */
static int read_all(gguf *g, kv_error *err)
{
    reader r = {.g = g, .subject = "the header", .err = err};
    uint64_t n_tensors = 0, n_keys = 0;
    int code = take_magic(&r);
    if (code == KV_OK) code = take_u64(&r, &n_tensors, "tensor count");
    if (code == KV_OK) code = take_u64(&r, &n_keys, "key count");
    if (code == KV_OK) code = take_keys(&r, n_keys);
    if (code == KV_OK) code = sort_keys(&r);
    if (code == KV_OK) code = take_tensors(&r, n_tensors);
    if (code == KV_OK) code = sort_tensors(&r);
    return code;
}

static gguf *new_gguf(const char *path, kv_error *err)
{
    gguf *g = calloc(1, sizeof *g);
    if (g) g->path = malloc(strlen(path) + 1);
    if (!g || !g->path) {
        free(g);
        kv_fail(err, KV_FAIL_RUN, "%s: not enough memory to open it", path);
        return NULL;
    }
    memcpy(g->path, path, strlen(path) + 1);
    return g;
}

int gguf_open_memory(gguf **out, const void *data, size_t size, const char *name, kv_error *err)
{
    *out = NULL;
    gguf *g = new_gguf(name, err);
    if (!g) return KV_FAIL_RUN;
    g->data = data;
    g->size = size;
    int code = read_all(g, err);
    if (code == KV_OK)
        *out = g;
    else
        gguf_close(g);
    return code;
}

static int map_file(gguf *g, kv_error *err)
{
    struct stat st;
    int fd = open(g->path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st) != 0) {
        int why = errno;
        if (fd >= 0) close(fd);
        return kv_fail(err, KV_FAIL_RUN, "cannot open the model %s: %s", g->path, strerror(why));
    }
    int code = KV_OK;
    if (!S_ISREG(st.st_mode)) {
        code = kv_fail(err, KV_FAIL_RUN,
                       "cannot open the model %s: it is not a regular file; give a .gguf file",
                       g->path);
    } else if (st.st_size > 0) { /* an empty file cannot be mapped; the reader will refuse it */
        void *p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (p == MAP_FAILED) {
            code = kv_fail(err, KV_FAIL_RUN, "cannot map the model %s into memory: %s", g->path,
                           strerror(errno));
        } else {
            g->data = p;
            g->size = (size_t)st.st_size;
            g->mapped = 1;
        }
    }
    close(fd);
    return code;
}

int gguf_open(gguf **out, const char *path, kv_error *err)
{
    *out = NULL;
    gguf *g = new_gguf(path, err);
    if (!g) return KV_FAIL_RUN;
    int code = map_file(g, err);
    if (code == KV_OK) code = read_all(g, err);
    if (code == KV_OK)
        *out = g;
    else
        gguf_close(g);
    return code;
}

void gguf_close(gguf *g)
{
    if (!g) return;
    for (size_t i = 0; i < g->n_keys; i++) {
        free((void *)g->keys[i].name);
        free((void *)g->keys[i].value.strings);
    }
    for (size_t i = 0; i < g->n_tensors; i++) free((void *)g->tensors[i].name);
    free(g->keys);
    free(g->keys_by_name);
    free(g->tensors);
    free(g->tensors_by_name);
    if (g->mapped) munmap((void *)g->data, g->size);
    free(g->path);
    free(g);
}

const char *gguf_path(const gguf *g) { return g->path; }
int gguf_version(const gguf *g) { return g->version; }
size_t gguf_key_count(const gguf *g) { return g->n_keys; }
const gguf_key *gguf_key_at(const gguf *g, size_t i) { return &g->keys[i]; }
size_t gguf_tensor_count(const gguf *g) { return g->n_tensors; }
const gguf_tensor *gguf_tensor_at(const gguf *g, size_t i) { return &g->tensors[i]; }

/* --------------------------------------------------------------- elements */

static int is_integer(int type)
{
    return type <= GGUF_INT32 || type == GGUF_UINT64 || type == GGUF_INT64;
}

static int is_number(int type)
{
    return is_integer(type) || type == GGUF_FLOAT32 || type == GGUF_FLOAT64;
}

/* The little-endian bytes of element i as an unsigned number. */
static uint64_t raw_element(const gguf_array *array, size_t i)
{
    uint64_t v = 0;
    size_t width = value_types[array->type].bytes;
    assert(i < array->count);
    memcpy(&v, array->bytes + i * width, width);
    return v;
}

int64_t gguf_array_int(const gguf_array *array, size_t i)
{
    if (!is_integer(array->type) && array->type != GGUF_BOOL) return 0;
    uint64_t v = raw_element(array, i);
    switch (array->type) {
    case GGUF_INT8: return (int8_t)v;
    case GGUF_INT16: return (int16_t)v;
    case GGUF_INT32: return (int32_t)v;
    default: return (int64_t)v;
    }
}

double gguf_array_float(const gguf_array *array, size_t i)
{
    float single;
    double value;
    if (array->type == GGUF_STRING) return 0;
    if (array->type == GGUF_FLOAT32) {
        uint32_t bits = (uint32_t)raw_element(array, i);
        memcpy(&single, &bits, sizeof single);
        return single;
    }
    if (array->type == GGUF_FLOAT64) {
        uint64_t bits = raw_element(array, i);
        memcpy(&value, &bits, sizeof value);
        return value;
    }
    if (array->type == GGUF_UINT64) return (double)raw_element(array, i);
    return (double)gguf_array_int(array, i);
}

/* ---------------------------------------------------------------- getters */

/* accepts[type] says which types will do; wanted names them for the message. */
static int find_typed(const gguf_key **out, const gguf *g, const char *name, int want_array,
                      int (*accepts)(int), const char *wanted, kv_error *err)
{
    const gguf_key *key = gguf_key_find(g, name);
    if (!key)
        return kv_fail(err, KV_FAIL_RUN,
                       "%s: the metadata lack the key '%s'; the model cannot be used without it",
                       g->path, name);
    if (key->is_array != want_array || !accepts(key->value.type))
        return kv_fail(err, KV_FAIL_RUN, "%s: key '%s' is %s%s, expected %s%s", g->path, name,
                       key->is_array ? "an array of " : "", gguf_value_type_name(key->value.type),
                       want_array ? "an array of " : "", wanted);
    *out = key;
    return KV_OK;
}

static int is_string(int type) { return type == GGUF_STRING; }
static int is_bool(int type) { return type == GGUF_BOOL; }

/* A uint64 above INT64_MAX is the one integer that an int64_t cannot hold. */
static int check_int64(const gguf *g, const gguf_key *key, kv_error *err)
{
    for (size_t i = 0; key->value.type == GGUF_UINT64 && i < key->value.count; i++) {
        uint64_t v = raw_element(&key->value, i);
        if (v > INT64_MAX)
            return kv_fail(err, KV_FAIL_RUN, "%s: key '%s' holds %" PRIu64 ", which is too large",
                           g->path, key->name, v);
    }
    return KV_OK;
}

int gguf_get_string(gguf_string *out, const gguf *g, const char *name, kv_error *err)
{
    const gguf_key *key = NULL;
    int code = find_typed(&key, g, name, 0, is_string, "string", err);
    if (code == KV_OK) *out = key->value.strings[0];
    return code;
}

int gguf_get_int(int64_t *out, const gguf *g, const char *name, int64_t low, int64_t high,
                 kv_error *err)
{
    const gguf_key *key = NULL;
    int code = find_typed(&key, g, name, 0, is_integer, "an integer", err);
    if (code == KV_OK) code = check_int64(g, key, err);
    if (code != KV_OK) return code;
    int64_t value = gguf_array_int(&key->value, 0);
    if (value < low || value > high)
        return kv_fail(err, KV_FAIL_RUN,
                       "%s: key '%s' is %" PRId64 ", expected %" PRId64 " to %" PRId64, g->path,
                       name, value, low, high);
    *out = value;
    return KV_OK;
}

int gguf_get_float(double *out, const gguf *g, const char *name, kv_error *err)
{
    const gguf_key *key = NULL;
    int code = find_typed(&key, g, name, 0, is_number, "a number", err);
    if (code == KV_OK) *out = gguf_array_float(&key->value, 0);
    return code;
}

int gguf_get_bool(int *out, const gguf *g, const char *name, kv_error *err)
{
    const gguf_key *key = NULL;
    int code = find_typed(&key, g, name, 0, is_bool, "bool", err);
    if (code == KV_OK) *out = (int)gguf_array_int(&key->value, 0);
    return code;
}

int gguf_get_strings(gguf_array *out, const gguf *g, const char *name, kv_error *err)
{
    const gguf_key *key = NULL;
    int code = find_typed(&key, g, name, 1, is_string, "strings", err);
    if (code == KV_OK) *out = key->value;
    return code;
}

int gguf_get_ints(gguf_array *out, const gguf *g, const char *name, kv_error *err)
{
    const gguf_key *key = NULL;
    int code = find_typed(&key, g, name, 1, is_integer, "integers", err);
    if (code == KV_OK) code = check_int64(g, key, err);
    if (code == KV_OK) *out = key->value;
    return code;
}

int gguf_get_floats(gguf_array *out, const gguf *g, const char *name, kv_error *err)
{
    const gguf_key *key = NULL;
    int code = find_typed(&key, g, name, 1, is_number, "numbers", err);
    if (code == KV_OK) *out = key->value;
    return code;
}

int gguf_get_bools(gguf_array *out, const gguf *g, const char *name, kv_error *err)
{
    const gguf_key *key = NULL;
    int code = find_typed(&key, g, name, 1, is_bool, "bools", err);
    if (code == KV_OK) *out = key->value;
    return code;
}

/* ------------------------------------------------------------ for people */

static void element_text(char *out, size_t capacity, const gguf_array *a, size_t i)
{
    if (a->type == GGUF_STRING) {
        char text[64];
        snprintf(out, capacity, "\"%s\"",
                 tm_printable(text, sizeof text, a->strings[i].data, a->strings[i].length));
    } else if (a->type == GGUF_BOOL) {
        snprintf(out, capacity, "%s", raw_element(a, i) ? "true" : "false");
    } else if (a->type == GGUF_UINT64) {
        snprintf(out, capacity, "%" PRIu64, raw_element(a, i));
    } else if (is_integer(a->type)) {
        snprintf(out, capacity, "%" PRId64, gguf_array_int(a, i));
    } else {
        snprintf(out, capacity, "%.9g", gguf_array_float(a, i));
    }
}

char *gguf_key_text(char *out, size_t capacity, const gguf_key *key)
{
    const gguf_array *a = &key->value;
    size_t used = 0;
    if (!key->is_array && a->type == GGUF_STRING) {
        out[0] = '"';
        tm_printable(out + 1, capacity - 2, a->strings[0].data, a->strings[0].length);
        strcat(out, "\"");
        return out;
    }
    if (key->is_array)
        used += (size_t)snprintf(out, capacity, "[%zu]", a->count);
    else
        out[0] = 0;
    for (size_t i = 0; i < a->count; i++) {
        char text[80];
        element_text(text, sizeof text, a, i);
        const char *before = i ? ", " : key->is_array ? " " : "";
        size_t more = strlen(before) + strlen(text);
        if (used + more + (i + 1 < a->count ? 5 : 0) >= capacity) {
            snprintf(out + used, capacity - used, ", ...");
            break;
        }
        used += (size_t)snprintf(out + used, capacity - used, "%s%s", before, text);
    }
    return out;
}
