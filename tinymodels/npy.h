/* NumPy's .npy files: one array, a header in text, the elements behind it.
 *
 * Read: float32, float16 and float64, little-endian, C order, header versions 1 to 3; all become
 * float32. Written: version 1.0, little-endian, C order. Everything else is refused by name.
 * Source of the format: NumPy's documentation, numpy.lib.format. */
#ifndef TM_NPY_H
#define TM_NPY_H

#include <stddef.h>
#include <stdint.h>

#include "files.h"
#include "kv.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { NPY_MAX_DIMS = 8 };

typedef struct {
    int n_dims;                /* 0 for a single number */
    size_t dims[NPY_MAX_DIMS]; /* the last one is contiguous; a dimension may be 0 */
    size_t elements;           /* their product, 1 if n_dims is 0 */
    char type[8];              /* as in the file: "<f4", "<f2", "<f8" */
    float *data;               /* malloc, freed by npy_free; never NULL after success */
} npy_array;

/* Reads a file (or a pipe). A finite float64 too large for a float32 is an error; NaN and
 * infinities are read as they are. Fails unless exactly as many bytes follow the header as it says.
 * On failure nothing needs freeing. */
int npy_read(npy_array *a, const char *path, kv_error *err);
void npy_free(npy_array *a);

/* Writes an array as files.h describes: complete, or not at all. type and data: "<f4" float,
 * "<f2" uint16_t (the bits of binary16), "|u1" uint8_t, "<i4" int32_t. dims[n_dims], 0 to 8 of
 * them. */
int npy_write(const char *path, const char *type, const void *data, const size_t *dims, int n_dims,
              kv_error *err);

/* For arrays that are made piece by piece: the header, then the elements in any number of calls
 * (or fwrite to out->f for the other types). Write errors are found by tm_out_close. */
void npy_header(tm_out *out, const char *type, const size_t *dims, int n_dims);
void npy_floats(tm_out *out, const float *x, size_t n);
void npy_halves(tm_out *out, const uint16_t *x, size_t n);

#ifdef __cplusplus
}
#endif

#endif
