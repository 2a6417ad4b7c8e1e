/* .npy files: NumPy's format for one array, read and written.
 *
 * A file is a magic, a version, a header that is a Python dictionary (type, order, shape) and the
 * elements. Source: NumPy's own description of the format (numpy/lib/format). We
 * write version 1.0, little-endian, row-major, and read versions 1 to 3 in either order of
 * bytes, row-major only. */
#ifndef TM_NPY_H
#define TM_NPY_H

#include <stddef.h>
#include <stdint.h>

#include "files.h"
#include "kv.h"

enum { NPY_MAX_DIMS = 8 };

typedef struct {
    int n_dims;
    size_t dims[NPY_MAX_DIMS];
    size_t elements; /* the product */
    char type[8];    /* as in the file: "<f4" */
    float *data;     /* malloc */
} npy_array;

/* Reads an array of float16, float32 or float64 as float32 (a float64 that float32 cannot hold
 * becomes infinite, which whoever uses it refuses). Other types, Fortran order and files that end
 * too early or too late are errors. */
int npy_read(npy_array *a, const char *path, kv_error *err);
void npy_free(npy_array *a);

/* Writes the header; the elements follow through npy_floats or fwrite to out->f. Types: "<f4", "<f2",
 * "|u1". Write errors are found by tm_out_close. */
void npy_header(tm_out *out, const char *type, const size_t *dims, int n_dims);
void npy_floats(tm_out *out, const float *x, size_t n);
void npy_halves(tm_out *out, const uint16_t *x, size_t n);

#endif
