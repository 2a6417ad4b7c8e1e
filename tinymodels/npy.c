/* .npy files; npy.h says what is read and written.
 *
 * The header is Python text, so the reader looks for the three keys where NumPy may put
 * them and refuses what it does not understand, rather than parse Python. */
#include "npy.h"

#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---------------------------------------------------------------- writing */

void npy_header(tm_out *out, const char *type, const size_t *dims, int n_dims)
{
    char text[512];
    size_t used = (size_t)snprintf(text, sizeof text,
                                   "{'descr': '%s', 'fortran_order': False, 'shape': (", type);
    for (int i = 0; i < n_dims; i++)
        used += (size_t)snprintf(text + used, sizeof text - used, i ? " %zu%s" : "%zu%s", dims[i],
                                 n_dims == 1 || i < n_dims - 1 ? "," : "");
    used += (size_t)snprintf(text + used, sizeof text - used, "), }");
    /* Magic, version and length take ten bytes; the elements start at a multiple of 64. */
    while ((10 + used + 1) % 64) text[used++] = ' ';
    text[used++] = '\n';
    unsigned char head[10] = {0x93, 'N', 'U', 'M', 'P', 'Y', 1, 0};
    head[8] = (unsigned char)(used & 255);
    head[9] = (unsigned char)(used >> 8);
    fwrite(head, 1, sizeof head, out->f);
    fwrite(text, 1, used, out->f);
}

void npy_floats(tm_out *out, const float *x, size_t n)
{
    unsigned char bytes[4096];
    while (n > 0) {
        size_t some = n < sizeof bytes / 4 ? n : sizeof bytes / 4;
        for (size_t i = 0; i < some; i++) {
            uint32_t b;
            memcpy(&b, &x[i], 4);
            for (int j = 0; j < 4; j++) bytes[4 * i + (size_t)j] = (unsigned char)(b >> 8 * j);
        }
        fwrite(bytes, 4, some, out->f);
        x += some;
        n -= some;
    }
}

void npy_halves(tm_out *out, const uint16_t *x, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        putc(x[i] & 255, out->f);
        putc(x[i] >> 8, out->f);
    }
}

/* ---------------------------------------------------------------- reading */

/* What follows 'key': in the dictionary, NULL if the key is missing. */
static const char *value_of(const char *header, const char *key)
{
    const char *at = strstr(header, key);
    if (!at) return NULL;
    at += strlen(key);
    while (*at == ' ') at++;
    if (*at++ != ':') return NULL;
    while (*at == ' ') at++;
    return at;
}

static int read_shape(npy_array *a, const char *at, const char *path, kv_error *err)
{
    if (!at || *at++ != '(')
        return kv_fail(err, KV_FAIL_RUN, "%s: .npy header without a shape", path);
    a->elements = 1;
    for (;;) {
        while (*at == ' ' || *at == ',') at++;
        if (*at == ')') return KV_OK;
        char *end;
        unsigned long long d = isdigit((unsigned char)*at) ? strtoull(at, &end, 10) : 0;
        if (!isdigit((unsigned char)*at) || a->n_dims == NPY_MAX_DIMS)
            return kv_fail(err, KV_FAIL_RUN, "%s: .npy header with a shape that makes no sense",
                           path);
        if (d > (1ull << 40) || (d && a->elements > ((size_t)1 << 40) / d))
            return kv_fail(err, KV_FAIL_RUN, "%s: .npy array too large", path);
        a->dims[a->n_dims++] = (size_t)d;
        a->elements *= (size_t)d;
        at = end;
    }
}

/* Sets type, shape and, in *start, where the elements begin. */
static int read_header(npy_array *a, size_t *start, const unsigned char *bytes, size_t n,
                       const char *path, kv_error *err)
{
    if (n < 10 || memcmp(bytes, "\x93NUMPY", 6) != 0)
        return kv_fail(err, KV_FAIL_RUN,
                       "%s: not a .npy file (its first bytes are not \\x93NUMPY); "
                       "write one with numpy.save",
                       path);
    size_t fixed = bytes[6] == 1 ? 10 : 12, length = bytes[8] | (size_t)bytes[9] << 8;
    if (bytes[6] < 1 || bytes[6] > 3)
        return kv_fail(err, KV_FAIL_RUN, "%s: .npy version %d; expected 1 to 3", path, bytes[6]);
    if (fixed == 12 && n >= 12) length |= (size_t)bytes[10] << 16 | (size_t)bytes[11] << 24;
    if (n < fixed || length > n - fixed || length > 65535)
        return kv_fail(err, KV_FAIL_RUN, "%s: .npy file cut short in its header (%zu bytes)", path,
                       n);
    char *header = malloc(length + 1);
    if (!header) return kv_fail(err, KV_FAIL_RUN, "%s: not enough memory to read it", path);
    memcpy(header, bytes + fixed, length);
    header[length] = 0;
    const char *type = value_of(header, "'descr'"), *order = value_of(header, "'fortran_order'");
    int code = KV_OK;
    if (!type || (*type != '\'' && *type != '"') || strcspn(type + 1, "'\"") >= sizeof a->type)
        code = kv_fail(err, KV_FAIL_RUN,
                       "%s: .npy header without a simple type; expected an array of "
                       "float32",
                       path);
    else if (!order || strncmp(order, "False", 5) != 0)
        code = kv_fail(err, KV_FAIL_RUN,
                       "%s: the array is in Fortran order; save "
                       "numpy.ascontiguousarray of it",
                       path);
    else
        memcpy(a->type, type + 1, strcspn(type + 1, "'\""));
    if (code == KV_OK) code = read_shape(a, value_of(header, "'shape'"), path, err);
    free(header);
    *start = fixed + length;
    return code;
}

static float element(const unsigned char *b, int size, int big)
{
    uint64_t bits = 0;
    for (int j = 0; j < size; j++) bits |= (uint64_t)b[big ? size - 1 - j : j] << 8 * j;
    if (size == 2) return kv_half_to_float((uint16_t)bits);
    uint32_t bits32 = (uint32_t)bits;
    float single;
    double wide;
    memcpy(&single, &bits32, 4);
    memcpy(&wide, &bits, 8);
    if (size == 4) return single;
    return fabs(wide) > 3.4028235677973366e38 ? copysignf(INFINITY, (float)(wide > 0 ? 1 : -1))
                                              : (float)wide;
}

int npy_read(npy_array *a, const char *path, kv_error *err)
{
    char *file;
    size_t n, start = 0;
    memset(a, 0, sizeof *a);
    if (tm_read_file(&file, &n, path, err)) return err ? err->code : KV_FAIL_RUN;
    const unsigned char *bytes = (const unsigned char *)file;
    int code = read_header(a, &start, bytes, n, path, err);
    int size = 0, big = a->type[0] == '>';
    if (code == KV_OK) {
        if (strcmp(a->type + 1, "f2") == 0) size = 2;
        if (strcmp(a->type + 1, "f4") == 0) size = 4;
        if (strcmp(a->type + 1, "f8") == 0) size = 8;
        if (!strchr("<>=", a->type[0]) || !size)
            code = kv_fail(err, KV_FAIL_RUN,
                           "%s: elements of type '%s'; expected float32, float16 or "
                           "float64 ('<f4', '<f2', '<f8')",
                           path, a->type);
        else if (n - start != a->elements * (size_t)size)
            code =
                kv_fail(err, KV_FAIL_RUN, "%s: %zu bytes of elements, expected %zu; the file is %s",
                        path, n - start, a->elements * (size_t)size,
                        n - start < a->elements * (size_t)size ? "cut short" : "too long");
    }
    if (code == KV_OK && !(a->data = malloc((a->elements + 1) * sizeof *a->data)))
        code = kv_fail(err, KV_FAIL_RUN, "%s: not enough memory to read it", path);
    for (size_t i = 0; code == KV_OK && i < a->elements; i++)
        a->data[i] = element(bytes + start + i * (size_t)size, size, big);
    free(file);
    return code;
}

void npy_free(npy_array *a)
{
    free(a->data);
    memset(a, 0, sizeof *a);
}
