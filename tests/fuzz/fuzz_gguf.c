/* Fuzzer for the GGUF reader: whatever the bytes are, opening them succeeds or fails with a
 * message, and everything a successful open hands out can be read.
 * "make fuzz" builds and runs it; main.h has a main for other compilers. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "files.h"
#include "gguf.h"

enum { MANY = 4096 }; /* elements to look at: several blocks, and still fast */

volatile double seen; /* a sum of everything, so that no read can be optimized away */

static double look_at_key(const gguf *g, const gguf_key *key)
{
    char text[100];
    double sum = strlen(gguf_key_text(text, sizeof text, key));
    const gguf_array *a = &key->value;
    for (size_t i = 0; i < a->count && i < MANY; i++) {
        sum += gguf_array_float(a, i) + (double)gguf_array_int(a, i);
        if (a->strings && a->strings[i].length) sum += a->strings[i].data[a->strings[i].length - 1];
    }
    if (a->count > 0 && a->bytes) sum += gguf_array_float(a, a->count - 1);
    if (gguf_key_find(g, key->name) != key) abort();
    return sum;
}

static double look_at_tensor(const gguf *g, const gguf_tensor *t)
{
    static float x[MANY];
    const unsigned char *bytes = t->data;
    double sum = bytes[0] + bytes[t->bytes - 1];
    size_t block = gguf_block_elements(t->type);
    size_t count = t->elements < MANY ? t->elements : MANY / block * block;
    if (gguf_dequantize(x, t, t->elements - count, count, NULL) == KV_OK)
        for (size_t i = 0; i < count; i++) sum += (double)x[i];
    if (gguf_tensor_find(g, t->name) != t) abort();
    return sum;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    gguf *g;
    kv_error err = {0};
    if (gguf_open_memory(&g, data, size, "fuzz", &err) != KV_OK) {
        if (g || err.code != KV_FAIL_RUN || err.text[0] == 0) abort();
        return 0;
    }
    for (size_t i = 0; i < gguf_key_count(g); i++) seen = seen + look_at_key(g, gguf_key_at(g, i));
    for (size_t i = 0; i < gguf_tensor_count(g); i++)
        seen = seen + look_at_tensor(g, gguf_tensor_at(g, i));
    gguf_close(g);
    return 0;
}

#include "main.h"
