/* A main for fuzzers that are built without libFuzzer (-DFUZZ_MAIN): it runs over the files named
 * on the command line, each also cut short and damaged in a few hundred places. A smoke test
 * for any compiler. */
#ifdef FUZZ_MAIN
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "files.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Runs over a copy that ends exactly at its end, where a sanitizer watches. */
static void run_copy(const char *bytes, size_t n, size_t changed, int change)
{
    uint8_t *copy = malloc(n ? n : 1);
    if (!copy) abort();
    memcpy(copy, bytes, n);
    if (changed < n) copy[changed] = (uint8_t)(copy[changed] ^ change);
    LLVMFuzzerTestOneInput(copy, n);
    free(copy);
}

int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        char *bytes;
        size_t n;
        kv_error err;
        if (tm_read_file(&bytes, &n, argv[i], &err) != KV_OK) {
            fprintf(stderr, "fuzz: %s\n", err.text);
            return err.code;
        }
        run_copy(bytes, n, n, 0);
        size_t step = n / 300 + 1;
        for (size_t at = 0; at < n; at += step) {
            run_copy(bytes, at, n, 0);
            run_copy(bytes, n, at, 1 << at % 8);
            run_copy(bytes, n, at, 255);
        }
        free(bytes);
        printf("%s: nothing broke\n", argv[i]);
    }
    return 0;
}
#endif
