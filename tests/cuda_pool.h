/* Caches of ref/ and the same caches on the device, for tests of layout and decode. */
#ifndef TESTS_CUDA_POOL_H
#define TESTS_CUDA_POOL_H

#include "cuda_check.h"

typedef struct {
    kv_cache cache;
    void *memory;
} pool_cache;

/* One layer with T tokens appended, kept ones at the places given, and keys that have an outlier
 * channel and a sink in the middle. sealed: quantize all that waits. */
static inline pool_cache pool_fill(const char *keys, const char *values, kv_shape s, int recent, int T,
                                   const int *kept, int n_kept, int sealed, uint64_t *seed)
{
    pool_cache p;
    kv_error e = {0};
    kv_cache_spec spec = {.layers = 1, .shape = s, .rope = {s.head_size, 0, 10000, 1, NULL},
                          .recent = recent, .capacity = T ? T : 1, .kept_capacity = n_kept};
    size_t row = (size_t)(s.kv_heads * s.head_size);
    cr_assert_eq(kv_format_parse(&spec.keys, keys, &e), KV_OK, "%s", e.text);
    cr_assert_eq(kv_format_parse(&spec.values, values, &e), KV_OK, "%s", e.text);
    p.memory = calloc(1, kv_cache_size(&spec) + 1);
    cr_assert_eq(kv_cache_init(&p.cache, &spec, p.memory, &e), KV_OK, "%s", e.text);
    float *k = check_floats((size_t)T * row), *v = check_floats((size_t)T * row);
    if (T) {
        check_keys(k, T, (int)row, seed);
        check_keys(v, T, (int)row, seed);
    }
    cr_assert_eq(kv_cache_append(&p.cache, 0, k, v, kept, n_kept, T, &e), KV_OK, "%s", e.text);
    if (sealed)
        cr_assert_eq(kv_cache_seal(&p.cache, 0, &e), KV_OK, "%s", e.text);
    free(k), free(v);
    return p;
}

/* A pool of host memory with room for these caches; with pages, in reverse order and one to spare. */
static inline kv_pool pool_make(const pool_cache *c, int n, int max_tiles, int kept, int window,
                                int paged, void **memory)
{
    kv_error e = {0};
    const kv_cache_spec *spec = &c[0].cache.spec;
    kv_pool p = {.sequences = n, .kv_heads = spec->shape.kv_heads, .max_tiles = max_tiles,
                 .page_count = n * max_tiles + 1, .kept_capacity = kept, .window = window};
    cr_assert_eq(kv_tile_init(&p.tile, &spec->keys, &spec->values, spec->shape.head_size, &e), KV_OK,
                 "%s", e.text);
    size_t bytes = kv_pool_place(&p, paged, NULL);
    *memory = aligned_alloc(128, bytes);
    memset(*memory, 0, bytes);
    kv_pool_place(&p, paged, *memory);
    for (int i = 0; paged && i < n * max_tiles; i++)
        ((int *)p.pages)[i] = n * max_tiles - i;
    for (int s = 0; s < n; s++)
        cr_assert_eq(kv_pool_from_cache(&p, s, &c[s].cache, 0, &e), KV_OK, "%s", e.text);
    return p;
}

/* The same pool on the device; *memory is to be freed. */
static inline kv_pool pool_upload(const kv_pool *host, int paged, const void *host_memory,
                                  void **memory)
{
    kv_pool p = *host;
    size_t bytes = kv_pool_place(&p, paged, NULL);
    *memory = cuda_copy(host_memory, bytes);
    kv_pool_place(&p, paged, *memory);
    return p;
}

#endif
