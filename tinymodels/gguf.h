/* GGUF: the file format of llama.cpp, read (versions 2 and 3) and written (version 3).
 *
 * A GGUF file is: a header (magic "GGUF", version, two counts), typed key-value pairs
 * (architecture, sizes, the tokenizer's vocabulary), one entry per tensor (name, dimensions, type,
 * offset), padding to an alignment, and the tensors' bytes. Everything is little-endian
 * here; version 3 also knows big-endian files, which are refused. Source of the facts: the
 * format's description, ggml/docs/gguf.md, and the block layouts in ggml-common.h, both
 * in the repository ggml-org/llama.cpp.
 *
 * Reading maps the file into memory and hands out pointers into the mapping: opening a file of
 * gigabytes takes no time, and nothing that was not asked for is read. All lengths, counts,
 * types and offsets are checked against the size of the file when it is opened; afterwards
 * all pointers are good until gguf_close. Files with a vocabulary and no tensors are fine.
 *
 * Messages name the file, the key or tensor, what was found and what to do. */
#ifndef TM_GGUF_H
#define TM_GGUF_H

#include <stddef.h>
#include <stdint.h>

#include "kv.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ------------------------------------------------------------------ types */

enum { GGUF_MAX_DIMS = 4 };

/* Types of metadata values; the numbers are the format's. */
enum {
    GGUF_UINT8, GGUF_INT8, GGUF_UINT16, GGUF_INT16, GGUF_UINT32, GGUF_INT32, GGUF_FLOAT32,
    GGUF_BOOL, GGUF_STRING, GGUF_ARRAY, GGUF_UINT64, GGUF_INT64, GGUF_FLOAT64
};

/* Types of tensors that gguf_dequantize knows; the numbers are ggml's. */
enum {
    GGUF_F32 = 0, GGUF_F16 = 1, GGUF_Q4_0 = 2, GGUF_Q4_1 = 3, GGUF_Q5_0 = 6, GGUF_Q5_1 = 7,
    GGUF_Q8_0 = 8, GGUF_Q2_K = 10, GGUF_Q3_K = 11, GGUF_Q4_K = 12, GGUF_Q5_K = 13, GGUF_Q6_K = 14,
    GGUF_BF16 = 30
};

/* Bytes of any value, NUL included; not ended by NUL. */
typedef struct {
    const char *data;
    size_t length;
} gguf_string;

/* Several values of one type. Read elements with gguf_array_int and so on. */
typedef struct {
    int type;                   /* GGUF_UINT8 ..., never GGUF_ARRAY */
    size_t count;
    const unsigned char *bytes; /* the elements, little-endian; NULL for strings */
    const gguf_string *strings; /* type GGUF_STRING: the count strings; else NULL */
} gguf_array;

typedef struct {
    const char *name;  /* ended by NUL */
    int is_array;
    gguf_array value;  /* a single value is an array of one */
} gguf_key;

typedef struct {
    const char *name;  /* ended by NUL */
    int type;          /* GGUF_F32 ... or another type of ggml's (gguf_type_name) */
    int n_dims;        /* 1..4 */
    size_t dims[GGUF_MAX_DIMS]; /* dims[0] is the one that is contiguous; unused ones are 1 */
    size_t elements;   /* the product */
    size_t bytes;      /* size of data */
    const void *data;  /* in the mapping; aligned as the file says (32 by default) */
    const char *path;  /* of the file, for messages */
} gguf_tensor;

typedef struct gguf gguf;

/* ---------------------------------------------------------------- reading */

/* Opens and checks a file. On failure *out is NULL and nothing needs closing. */
int gguf_open(gguf **out, const char *path, kv_error *err);

/* The same over size bytes of the caller's, who keeps them until gguf_close; name stands for the
 * path in messages. For tests and for files inside other files. */
int gguf_open_memory(gguf **out, const void *data, size_t size, const char *name, kv_error *err);

/* Ends all pointers that came from g. NULL is harmless. */
void gguf_close(gguf *g);

const char *gguf_path(const gguf *g);
int gguf_version(const gguf *g); /* 2 or 3 */

/* Keys and tensors in the order of the file. */
size_t gguf_key_count(const gguf *g);
const gguf_key *gguf_key_at(const gguf *g, size_t i);
size_t gguf_tensor_count(const gguf *g);
const gguf_tensor *gguf_tensor_at(const gguf *g, size_t i);

/* By name, in logarithmic time; NULL if there is none. */
const gguf_key *gguf_key_find(const gguf *g, const char *name);
const gguf_tensor *gguf_tensor_find(const gguf *g, const char *name);

/* Single values of a key. Missing key, other type, or (integers) a value outside
 * low..high: KV_FAIL_RUN, *out unchanged. Integers of every width are taken, by get_float too;
 * get_int takes no floats. For an optional key ask gguf_key_find first. */
int gguf_get_string(gguf_string *out, const gguf *g, const char *name, kv_error *err);
int gguf_get_int(int64_t *out, const gguf *g, const char *name, int64_t low, int64_t high,
                 kv_error *err);
int gguf_get_float(double *out, const gguf *g, const char *name, kv_error *err);
int gguf_get_bool(int *out, const gguf *g, const char *name, kv_error *err);

/* Arrays of a key, by the kind of their elements. _ints: every integer width (an unsigned 64-bit
 * value above INT64_MAX is an error); _floats: floats and integers. count 0 is possible. */
int gguf_get_strings(gguf_array *out, const gguf *g, const char *name, kv_error *err);
int gguf_get_ints(gguf_array *out, const gguf *g, const char *name, kv_error *err);
int gguf_get_floats(gguf_array *out, const gguf *g, const char *name, kv_error *err);
int gguf_get_bools(gguf_array *out, const gguf *g, const char *name, kv_error *err);

/* Element i < count. _int: of an integer or bool array (0 for others); _float: of a float, integer
 * or bool array (0 for strings). Strings: array.strings[i]. */
int64_t gguf_array_int(const gguf_array *array, size_t i);
double gguf_array_float(const gguf_array *array, size_t i);

/* A value for people, on one line, shortened to fit: "llama", 30, [49152] "a", "b", ...
 * Always ended by NUL; capacity at least 64. Returns out. */
char *gguf_key_text(char *out, size_t capacity, const gguf_key *key);

/* Names of types: "Q4_1", "uint32"; NULL if there is no such type. */
const char *gguf_type_name(int tensor_type);
const char *gguf_value_type_name(int value_type);

/* Elements and bytes of one block of a tensor type; 0 if the type is unknown. */
size_t gguf_block_elements(int tensor_type);
size_t gguf_block_bytes(int tensor_type);

/* ------------------------------------------------------------ dequantizing */

/* Writes elements first .. first+count-1 of t as float32. first and count are multiples of
 * gguf_block_elements(t->type). Fails if they are not, go beyond the tensor, or the type is not one
 * of those named above. Arithmetic: float32, one rounding per operation, in the order
 * written in dequant.c, so results are the same everywhere. Weights that are NaN or infinite come
 * out as such: whoever loads a model checks. Several threads may work on one tensor. */
int gguf_dequantize(float *out, const gguf_tensor *t, size_t first, size_t count, kv_error *err);

/* One block of a quantized tensor taken apart: element i is
 * scale[i/16] * q[i] + min[i/16], the product and the sum each rounded to float32. A block of 32
 * fills the first two runs only. */
typedef struct {
    float scale[16], min[16];
    int8_t q[256];
} gguf_parts;

/* Returns 0 if the tensor's type has no blocks (F32, F16, BF16, unknown ones). */
int gguf_take_apart(gguf_parts *p, const gguf_tensor *t, size_t block);

/* ---------------------------------------------------------------- writing */

/* Collects keys and tensors and writes them as one version 3 file with the default alignment
 * of 32. The put functions return nothing: the first thing that goes wrong (a name given
 * twice or empty, a shape its type cannot have, no memory) is remembered and reported by
 * gguf_write. Keys and tensors come out in the order they were put. */
typedef struct gguf_writer gguf_writer;

gguf_writer *gguf_writer_new(void); /* NULL: no memory; the functions below then do nothing */
void gguf_writer_free(gguf_writer *w);

/* Everything is copied. Strings may hold any bytes. n = 0 makes an empty array. */
void gguf_put_string(gguf_writer *w, const char *name, const char *bytes, size_t length);
void gguf_put_uint32(gguf_writer *w, const char *name, uint32_t value);
void gguf_put_int32(gguf_writer *w, const char *name, int32_t value);
void gguf_put_float32(gguf_writer *w, const char *name, float value);
void gguf_put_bool(gguf_writer *w, const char *name, int value);
void gguf_put_strings(gguf_writer *w, const char *name, const gguf_string *values, size_t n);
void gguf_put_int32s(gguf_writer *w, const char *name, const int32_t *values, size_t n);
void gguf_put_float32s(gguf_writer *w, const char *name, const float *values, size_t n);

/* A tensor whose data are already in the form of its type: float for GGUF_F32, the 16 bits of
 * a binary16 for GGUF_F16, blocks for the others. dims[0] is the contiguous one. The data are
 * not copied: they must stay until gguf_write. */
void gguf_put_tensor(gguf_writer *w, const char *name, int type, int n_dims, const size_t *dims,
                     const void *data);

/* Writes the file as files.h describes: complete, or not at all. */
int gguf_write(gguf_writer *w, const char *path, kv_error *err);

#ifdef __cplusplus
}
#endif

#endif
