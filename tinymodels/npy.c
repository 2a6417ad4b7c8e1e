/* NumPy's .npy files, read and written. npy.h says what is understood.
 *
 * The header is a Python dictionary in text, such as
 *     {'descr': '<f4', 'fortran_order': False, 'shape': (7, 3, 64), }
 * NumPy writes exactly this; other programs vary spaces, quotes and the order of the keys. The
 * parser below takes those and nothing more. */
#include "npy.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the elements of .npy files are little-endian and are copied as they are"
#endif

static const char magic[] = "\x93NUMPY";
enum { MAGIC_SIZE = sizeof magic - 1 };

/* ----------------------------------------------------------------- header */

typedef struct {
    const char *at, *end, *path;
    kv_error *err;
} parser;

static void skip_space(parser *p)
{
    while (p->at < p->end && (*p->at == ' ' || *p->at == '\n' || *p->at == '\t')) p->at++;
}

/* Takes a word, spaces before it allowed; returns whether it was there. */
static int take(parser *p, const char *word)
{
    size_t n = strlen(word);
    skip_space(p);
    if ((size_t)(p->end - p->at) < n || memcmp(p->at, word, n) != 0) return 0;
    p->at += n;
    return 1;
}

static int bad_header(const parser *p, const char *expected)
{
    char text[48];
    return kv_fail(p->err, KV_FAIL_RUN,
                   "%s: the .npy header has '%s' where %s is expected; write the file again "
                   "with numpy.save",
                   p->path, tm_printable(text, sizeof text, p->at, (size_t)(p->end - p->at)),
                   expected);
}

/* A quoted string without escapes, cut to fit: longer ones are not among those we look for. */
static int take_quoted(parser *p, char *out, size_t capacity)
{
    skip_space(p);
    if (p->at >= p->end || (*p->at != '\'' && *p->at != '"'))
        return bad_header(p, "a quoted name");
    const char *start = p->at + 1, *close = memchr(start, *p->at, (size_t)(p->end - start));
    if (!close) return bad_header(p, "a quoted name");
    tm_printable(out, capacity, start, (size_t)(close - start));
    p->at = close + 1;
    return KV_OK;
}

static int take_dim(parser *p, size_t *dim)
{
    skip_space(p);
    const char *start = p->at;
    *dim = 0;
    for (; p->at < p->end && *p->at >= '0' && *p->at <= '9'; p->at++) {
        size_t digit = (size_t)(*p->at - '0');
        if (*dim > (SIZE_MAX - digit) / 10)
            return kv_fail(p->err, KV_FAIL_RUN,
                           "%s: a dimension in the .npy header is absurdly large", p->path);
        *dim = *dim * 10 + digit;
    }
    return p->at > start ? KV_OK : bad_header(p, "a dimension");
}

static int take_shape(parser *p, npy_array *a)
{
    if (!take(p, "(")) return bad_header(p, "a shape such as (7, 3, 64)");
    a->n_dims = 0;
    while (!take(p, ")")) {
        if (a->n_dims == NPY_MAX_DIMS)
            return kv_fail(p->err, KV_FAIL_RUN, "%s: the array has more than %d dimensions",
                           p->path, NPY_MAX_DIMS);
        int code = take_dim(p, &a->dims[a->n_dims]);
        if (code != KV_OK) return code;
        a->n_dims++;
        if (take(p, ",")) continue;
        if (!take(p, ")")) return bad_header(p, "',' or ')'");
        break;
    }
    return KV_OK;
}

/* Size of an element; only the three types that are read have one. */
static size_t element_size(const char *type)
{
    if (strcmp(type, "<f4") == 0) return 4;
    if (strcmp(type, "<f2") == 0) return 2;
    return strcmp(type, "<f8") == 0 ? 8 : 0;
}

/* A type that is not in quotes is a record of several fields. */
static int take_type(parser *p, npy_array *a)
{
    char type[40] = "[several fields]";
    skip_space(p);
    if (p->at >= p->end || *p->at != '[') {
        int code = take_quoted(p, type, sizeof type);
        if (code != KV_OK) return code;
    }
    if (element_size(type) == 0)
        return kv_fail(p->err, KV_FAIL_RUN,
                       "%s: elements of type '%s'; little-endian float32, float16 and float64 "
                       "('<f4', '<f2', '<f8') are read: convert with x.astype('<f4')",
                       p->path, type);
    memcpy(a->type, type, 4);
    return KV_OK;
}

static int take_order(parser *p)
{
    if (take(p, "False")) return KV_OK;
    if (!take(p, "True")) return bad_header(p, "True or False");
    return kv_fail(p->err, KV_FAIL_RUN,
                   "%s: the array is in Fortran order, expected C order; write "
                   "numpy.ascontiguousarray(x)",
                   p->path);
}

/* One entry of the dictionary; *seen collects which of the three were there. */
static int take_entry(parser *p, npy_array *a, int *seen)
{
    char key[40];
    int code = take_quoted(p, key, sizeof key);
    if (code != KV_OK) return code;
    if (!take(p, ":")) return bad_header(p, "':'");
    if (strcmp(key, "descr") == 0) {
        *seen |= 1;
        return take_type(p, a);
    }
    if (strcmp(key, "fortran_order") == 0) {
        *seen |= 2;
        return take_order(p);
    }
    if (strcmp(key, "shape") == 0) {
        *seen |= 4;
        return take_shape(p, a);
    }
    return kv_fail(p->err, KV_FAIL_RUN,
                   "%s: the .npy header has the key '%s', expected descr, fortran_order, shape",
                   p->path, key);
}

static int parse_header(parser *p, npy_array *a)
{
    int seen = 0;
    if (!take(p, "{")) return bad_header(p, "'{'");
    while (!take(p, "}")) {
        int code = take_entry(p, a, &seen);
        if (code != KV_OK) return code;
        if (take(p, ",")) continue;
        if (!take(p, "}")) return bad_header(p, "',' or '}'");
        break;
    }
    if (seen == 7) return KV_OK;
    const char *missing = !(seen & 1) ? "descr" : !(seen & 2) ? "fortran_order" : "shape";
    return kv_fail(p->err, KV_FAIL_RUN, "%s: the .npy header lacks %s; write the file again",
                   p->path, missing);
}

/* Finds the header in the n bytes of the file: after the magic come two bytes of version and the
 * header's length, in two bytes for version 1 and in four later. */
static int find_header(parser *p, const char *bytes, size_t n, const char *path, kv_error *err)
{
    const unsigned char *b = (const unsigned char *)bytes;
    char text[32];
    if (n < MAGIC_SIZE || memcmp(bytes, magic, MAGIC_SIZE) != 0)
        return kv_fail(err, KV_FAIL_RUN,
                       "%s: not a .npy file: it starts with '%s'; write one with numpy.save", path,
                       tm_printable(text, sizeof text, bytes, n < MAGIC_SIZE ? n : MAGIC_SIZE));
    if (n >= 8 && (b[6] < 1 || b[6] > 3))
        return kv_fail(err, KV_FAIL_RUN, "%s: .npy version %d.%d, expected 1.0, 2.0 or 3.0", path,
                       b[6], b[7]);
    size_t start = n >= 8 && b[6] > 1 ? 12 : 10, length = 0;
    if (n >= start)
        for (size_t i = start; i > 8; i--) length = length << 8 | b[i - 1];
    if (n < start || length > n - start)
        return kv_fail(err, KV_FAIL_RUN,
                       "%s: cut short in the .npy header; the file may be incomplete", path);
    *p = (parser){bytes + start, bytes + start + length, path, err};
    return KV_OK;
}

/* --------------------------------------------------------------- elements */

/* Counts the elements and compares with the bytes that are there. Overflow is judged by the
 * dimensions that are not zero, so that (0, 2^60, 2^60) is refused like any other. */
static int count_elements(npy_array *a, size_t bytes, const char *path, kv_error *err)
{
    size_t size = element_size(a->type), product = 1;
    a->elements = 1;
    for (int i = 0; i < a->n_dims; i++) {
        size_t dim = a->dims[i] ? a->dims[i] : 1;
        if (dim > SIZE_MAX / 8 / product)
            return kv_fail(err, KV_FAIL_RUN,
                           "%s: the shape in the .npy header has more elements than this machine "
                           "can count",
                           path);
        product *= dim;
        a->elements *= a->dims[i];
    }
    if (a->elements * size == bytes) return KV_OK;
    return kv_fail(err, KV_FAIL_RUN,
                   "%s: the .npy header promises %zu elements of %zu bytes, but %zu bytes follow "
                   "it; the file %s",
                   path, a->elements, size, bytes,
                   bytes < a->elements * size ? "may be incomplete" : "is too long");
}

static int convert(npy_array *a, const char *in, const char *path, kv_error *err)
{
    size_t size = element_size(a->type);
    if (size == 4) memcpy(a->data, in, a->elements * sizeof(float));
    for (size_t i = 0; size == 2 && i < a->elements; i++) {
        uint16_t half;
        memcpy(&half, in + 2 * i, sizeof half);
        a->data[i] = kv_half_to_float(half);
    }
    for (size_t i = 0; size == 8 && i < a->elements; i++) {
        double value;
        memcpy(&value, in + 8 * i, sizeof value);
        a->data[i] = (float)value;
        if (isinf(a->data[i]) && !isinf(value))
            return kv_fail(err, KV_FAIL_RUN, "%s: element %zu is %g, too large for a float32", path,
                           i, value);
    }
    return KV_OK;
}

int npy_read(npy_array *a, const char *path, kv_error *err)
{
    char *bytes;
    size_t n;
    parser p = {0};
    memset(a, 0, sizeof *a);
    int code = tm_read_file(&bytes, &n, path, err);
    if (code != KV_OK) return code;
    code = find_header(&p, bytes, n, path, err);
    if (code == KV_OK) code = parse_header(&p, a);
    if (code == KV_OK) code = count_elements(a, (size_t)(bytes + n - p.end), path, err);
    if (code == KV_OK) {
        a->data = malloc(a->elements ? a->elements * sizeof(float) : 1);
        if (a->data) code = convert(a, p.end, path, err);
        else code = kv_fail(err, KV_FAIL_RUN, "%s: not enough memory for its array", path);
    }
    free(bytes);
    if (code != KV_OK) npy_free(a);
    return code;
}

void npy_free(npy_array *a)
{
    free(a->data);
    memset(a, 0, sizeof *a);
}

/* ---------------------------------------------------------------- writing */

/* The header is filled with spaces so that the elements start at a multiple of 64, as NumPy
 * does: then the file can be mapped. Eight dimensions of 20 digits fit easily. */
void npy_header(tm_out *out, const char *type, const size_t *dims, int n_dims)
{
    char text[512];
    int n = snprintf(text, sizeof text, "{'descr': '%s', 'fortran_order': False, 'shape': (", type);
    for (int i = 0; i < n_dims; i++)
        n += snprintf(text + n, sizeof text - (size_t)n, i ? ", %zu" : "%zu", dims[i]);
    n += snprintf(text + n, sizeof text - (size_t)n, n_dims == 1 ? ",), }" : "), }");
    int length = (10 + n + 1 + 63) / 64 * 64 - 10;
    unsigned char version[4] = {1, 0, 0, 0};
    version[2] = (unsigned char)(length & 255);
    version[3] = (unsigned char)(length >> 8);
    fwrite(magic, 1, MAGIC_SIZE, out->f);
    fwrite(version, 1, sizeof version, out->f);
    fprintf(out->f, "%s%*s\n", text, length - n - 1, "");
}

void npy_floats(tm_out *out, const float *x, size_t n)
{
    if (n) fwrite(x, sizeof *x, n, out->f);
}

void npy_halves(tm_out *out, const uint16_t *x, size_t n)
{
    if (n) fwrite(x, sizeof *x, n, out->f);
}

int npy_write(const char *path, const char *type, const void *data, const size_t *dims, int n_dims,
              kv_error *err)
{
    tm_out out;
    size_t bytes = (size_t)(type[2] - '0'); /* "<f4": four bytes an element */
    if (n_dims < 0 || n_dims > NPY_MAX_DIMS)
        return kv_fail(err, KV_FAIL_RUN, "cannot write %s: %d dimensions, expected 0 to %d", path,
                       n_dims, NPY_MAX_DIMS);
    for (int i = 0; i < n_dims; i++) bytes *= dims[i];
    int code = tm_out_open(&out, path, err);
    if (code != KV_OK) return code;
    npy_header(&out, type, dims, n_dims);
    if (bytes) fwrite(data, 1, bytes, out.f);
    return tm_out_close(&out, err);
}
