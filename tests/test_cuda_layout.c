/* The device's layout of a packed cache: one to one with the packing of ref/, both ways. */
#include "cuda_pool.h"

static void same_store(const kv_store *a, const kv_store *b, const kv_bytes *n, size_t row,
                       int n_kept, const char *what)
{
    (void)n;
    cr_assert_eq(a->tokens, b->tokens, "%s", what);
    cr_assert_eq(a->quantized, b->quantized, "%s", what);
    cr_assert_eq(a->n_waiting, b->n_waiting, "%s", what);
    cr_expect(!memcmp(a->kept, b->kept, (size_t)n_kept * row * 2), "%s: kept rows", what);
    cr_expect(!memcmp(a->waiting, b->waiting, (size_t)a->n_waiting * row * 2), "%s: waiting rows", what);
}

/* To the pool and back into an empty cache: the whole memory of the cache is as before. */
static void round_trip(const char *keys, const char *values, kv_shape s, int recent, int T, int sealed,
                       int paged, uint64_t *seed)
{
    int kept[3] = {0, T / 2, T - 1}, n_kept = T > 2 ? 3 : T > 0;
    kv_error e = {0};
    void *memory;
    char what[96];
    snprintf(what, sizeof what, "%s %s D %d R %d T %d", keys, values, s.head_size, recent, T);
    pool_cache a = pool_fill(keys, values, s, recent, T, kept, n_kept, sealed, seed);
    pool_cache b = pool_fill(keys, values, s, recent, 0, NULL, 0, 0, seed);
    kv_cache_spec spec = a.cache.spec;
    free(b.memory);
    b.memory = calloc(1, kv_cache_size(&spec));
    cr_assert_eq(kv_cache_init(&b.cache, &spec, b.memory, NULL), KV_OK);
    kv_pool p = pool_make(&a, 1, T / KV_TILE + 1, n_kept, (recent + 128 + 15) / 16 * 16, paged, &memory);
    cr_assert_eq(kv_pool_to_cache(&b.cache, 0, &p, 0, &e), KV_OK, "%s", e.text);
    const kv_cache_layer *x = a.cache.layer, *y = b.cache.layer;
    size_t row = (size_t)(s.kv_heads * s.head_size);
    for (int i = 0; i < 2; i++) {
        const kv_store *m = i ? &x->v : &x->k, *n = i ? &y->v : &y->k;
        kv_format f = m->format;
        size_t groups = kv_group_count(&f, s, m->quantized);
        same_store(m, n, NULL, row, n_kept, what);
        cr_expect(!memcmp(m->scale, n->scale, groups * 2), "%s: scales", what);
        cr_expect(f.symmetric || !memcmp(m->min, n->min, groups * 2), "%s: minima", what);
        size_t words = (size_t)((char *)m->scale - (char *)m->words) / 4;
        cr_expect(!memcmp(m->words, n->words, words * 4), "%s: words", what);
    }
    free(a.memory), free(b.memory), free(memory);
}

Test(cuda_layout, is_one_to_one_with_ref)
{
    static const char *const formats[][2] = {{"2:channel:64", "2:token:64"}, {"3:channel:32", "3:token:32"},
        {"4:channel:128", "4:token:64"}, {"8:channel:64", "2:token:32"}, {"2:channel:32:sym", "4:token:32:sym"}};
    uint64_t seed = 70;
    for (size_t f = 0; f < sizeof formats / sizeof *formats; f++)
        for (int i = 0; i < CHECK_SIZES; i++)
            for (int D = 64; D <= 128; D += 64)
                round_trip(formats[f][0], formats[f][1], (kv_shape){2, 2, D}, i % 2 * 33, check_sizes[i],
                           i % 3 == 0, i % 2, &seed);
}

Test(cuda_layout, offsets_are_what_the_formats_weigh)
{
    kv_format k, v;
    kv_tile l;
    kv_format_parse(&k, "2:channel:64", NULL), kv_format_parse(&v, "4:token:32:sym", NULL);
    cr_assert_eq(kv_tile_init(&l, &k, &v, 64, NULL), KV_OK);
    cr_expect_eq(l.value_codes, 128 * 64 * 2 / 8);
    cr_expect_eq(l.value_params - l.value_codes, 128 * 64 * 4 / 8);
    cr_expect_eq(l.key_params - l.value_params, 128 * 2 * 2); /* two groups a token, one number */
    cr_expect_eq(l.bytes - l.key_params, 2 * 64 * 4); /* two groups of 64 channels, two numbers */
}

Test(cuda_layout, refuses_what_has_no_layout)
{
    static const char *const bad[][3] = {{"2:token:64", "2:token:64", "keys"}, {"f16", "2:token:64", "keys"},
        {"2:channel:64", "2:channel:64", "values"}, {"2:channel:48", "2:token:64", "keys"},
        {"2:channel:256", "2:token:64", "keys"}, {"2:channel:64", "2:token:128", "at most 64"}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        kv_format k, v;
        kv_tile l;
        kv_error e = {0};
        cr_assert_eq(kv_format_parse(&k, bad[i][0], NULL), KV_OK);
        cr_assert_eq(kv_format_parse(&v, bad[i][1], NULL), KV_OK);
        cr_expect_eq(kv_tile_init(&l, &k, &v, 64, &e), KV_FAIL_USAGE);
        cr_expect(strstr(e.text, bad[i][2]), "%s: %s", bad[i][2], e.text);
        cr_expect_eq(kv_tile_init(&l, &k, &v, 96, &e), KV_FAIL_USAGE);
    }
}
