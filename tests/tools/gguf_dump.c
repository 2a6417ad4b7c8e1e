/* Writes the tensors of a GGUF file to standard output as float32, one after the other in the
 * order of the file: what tests/gguf_check.py compares with the package gguf.
 *
 *     gguf_dump FILE.gguf [TENSOR] > floats
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gguf.h"

enum { CHUNK = 1 << 20 }; /* a multiple of every block size */

static int dump(const gguf_tensor *t, float *buffer, kv_error *err)
{
    for (size_t first = 0; first < t->elements; first += CHUNK) {
        size_t count = t->elements - first < CHUNK ? t->elements - first : CHUNK;
        int code = gguf_dequantize(buffer, t, first, count, err);
        if (code != KV_OK) return code;
        if (fwrite(buffer, sizeof *buffer, count, stdout) != count)
            return kv_fail(err, KV_FAIL_RUN, "cannot write to standard output");
    }
    return KV_OK;
}

int main(int argc, char **argv)
{
    kv_error err = {0};
    gguf *g = NULL;
    if (argc < 2 || argc > 3) {
        fprintf(stderr, "usage: gguf_dump FILE.gguf [TENSOR] > floats\n");
        return KV_FAIL_USAGE;
    }
    float *buffer = malloc(CHUNK * sizeof *buffer);
    int code = buffer ? gguf_open(&g, argv[1], &err) : kv_fail(&err, KV_FAIL_RUN, "no memory");
    for (size_t i = 0; code == KV_OK && i < gguf_tensor_count(g); i++) {
        const gguf_tensor *t = gguf_tensor_at(g, i);
        if (argc == 2 || strcmp(argv[2], t->name) == 0) code = dump(t, buffer, &err);
    }
    if (code == KV_OK && fflush(stdout) != 0)
        code = kv_fail(&err, KV_FAIL_RUN, "cannot write to standard output");
    if (code != KV_OK) fprintf(stderr, "gguf_dump: %s\n", err.text);
    gguf_close(g);
    free(buffer);
    return code;
}
