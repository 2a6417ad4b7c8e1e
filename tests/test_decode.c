/* Attention straight from codes against plain attention over what the cache says it holds. */
#include "check.h"

static void compare(const char *keys, const char *values, int recent, int T, uint64_t *seed)
{
    kv_shape s = {6, 2, 8};
    float lo[16], hi[16];
    kv_cache_spec spec = {.layers = 1, .shape = s, .rope = {8, 1, 100, 1, NULL}, .recent = recent,
                          .capacity = T, .kept_capacity = 3, .key_limits = {lo, hi},
                          .value_limits = {lo, hi}};
    for (int i = 0; i < 16; i++) {
        lo[i] = -2;
        hi[i] = 3;
    }
    int kept[3] = {0, T / 2, T - 1};
    kv_cache c;
    kv_format_parse(&spec.keys, keys, NULL);
    kv_format_parse(&spec.values, values, NULL);
    void *memory = malloc(kv_cache_size(&spec));
    cr_assert_eq(kv_cache_init(&c, &spec, memory, NULL), KV_OK);
    float *k = check_floats((size_t)T * 16), *v = check_floats((size_t)T * 16), q[48];
    check_keys(k, T, 16, seed);
    check_keys(v, T, 16, seed);
    check_fill(q, 48, seed);
    cr_assert_eq(kv_cache_append(&c, 0, k, v, kept, T > 2 ? 3 : 1, T, NULL), KV_OK);
    kv_cache_read(k, &c, 0, 0, 0, T);
    kv_cache_read(v, &c, 0, 1, 0, T);
    for (int t = 0; t < T && spec.keys.pre; t++) {
        float cs[8];
        kv_rope_angles(cs, &spec.rope, t + 3);
        kv_rope_rotate(k + t * 16, cs, &spec.rope, 2, 8);
    }
    float *scratch = check_floats((size_t)T + 8), *rows = check_floats((size_t)T * 12);
    float want[48], got[48], sink[6] = {0, 1, -3, 2, 0, 5};
    for (int with = 0; with < 2; with++) {
        cr_assert_eq(kv_attention(want, rows, q, k, v, with ? sink : NULL, s, T - 1, 1, scratch,
                                  NULL), KV_OK);
        cr_assert_eq(kv_decode(got, rows + 6 * T, q, &c, 0, with ? sink : NULL, 3, scratch, NULL),
                     KV_OK);
        /* the scores are divided by sqrt(D), not multiplied by its inverse: one rounding each */
        cr_expect(check_diff(got, want, 48) <= 2e-5, "%s %s R %d T %d: %g", keys, values, recent,
                  T, check_diff(got, want, 48));
        cr_expect(check_diff(rows, rows + 6 * T, (size_t)T * 6) <= 1e-6);
    }
    free(memory), free(k), free(v), free(scratch), free(rows);
}

Test(decode, equals_attention_over_what_the_cache_holds)
{
    static const char *const pairs[][2] = {{"2:channel:32", "2:token:8"}, {"3:channel:5", "3:token:4:sym"},
                                           {"4:channel:16:pre", "8:token:all"}, {"f16", "f16"},
                                           {"f32:pre", "bf16"},
                                           {"nf4:channel:8:pre:had:norm", "2:token:4:had:norm:out25"},
                                           {"e4m3:token:8", "4:token:8:static"},
                                           {"2:channel:11:kivi", "3:token:8:kivi"}};
    uint64_t seed = 50;
    for (size_t p = 0; p < sizeof pairs / sizeof *pairs; p++)
        for (int i = 0; i < CHECK_SIZES; i++)
            for (int recent = 0; recent <= 33; recent += 33)
                compare(pairs[p][0], pairs[p][1], recent, check_sizes[i], &seed);
}
