/* Quantizing on the device against ref/: arrays before the oracle's cases, caches against kv_cache_append
 * by way of the layout's map, everything bit for bit. */
#include "cuda_pool.h"
#include "vectors.h"

/* ---- arrays ---------------------------------------------------------------------------------- */

static int one_case(cJSON *out, const cJSON *in, const cJSON *parameters, kv_error *err)
{
    (void)parameters;
    kv_format f;
    int n_kept, *shape = vec_ints(in, "shape", NULL), T = shape[0];
    int *kept = vec_ints(in, "kept", &n_kept);
    kv_shape s = {shape[1], shape[1], shape[2]};
    size_t n = (size_t)T * (size_t)(shape[1] * shape[2]);
    int bad = kv_format_parse(&f, vec_text(in, "format"), err);
    if (!bad)
        bad = kv_format_check(&f, s, 0, err);
    if (bad)
        return bad;
    size_t groups = kv_group_count(&f, s, T);
    uint8_t *flags = calloc((size_t)T + 1, 1), *codes = malloc(n + 1);
    uint16_t *scale = malloc(groups * 2 + 2), *min = malloc(groups * 2 + 2);
    float *y = check_floats(n);
    for (int i = 0; i < n_kept; i++)
        flags[kept[i]] = 1;
    float *x = vec_floats(in, "x", NULL);
    kv_fault *fault = cuda_fault();
    uint8_t *d_codes = cuda_room(n), *d_kept = cuda_copy(flags, (size_t)T);
    uint16_t *d_scale = cuda_room(groups * 2), *d_min = cuda_room(groups * 2);
    bad = kv_cuda_quantize(d_codes, d_scale, d_min, cuda_copy(x, n * 4), d_kept, &f, s, T, fault, err);
    if (!bad)
        bad = kv_cuda_fault(fault, NULL, "x", err);
    if (bad)
        return bad;
    cuda_get(codes, d_codes, n);
    cuda_get(scale, d_scale, groups * 2);
    cuda_get(min, d_min, groups * 2);
    kv_grouping g = kv_group_layout(&f, s, T);
    int channel = f.axis == KV_PER_CHANNEL, all = !channel && f.group == 0, row = shape[1] * shape[2];
    for (size_t i = 0; i < n; i++) {
        size_t t = i / (size_t)row, e = i % (size_t)row;
        size_t group = channel ? t / (size_t)g.length * (size_t)row + e
                               : t * (size_t)g.across + e / (size_t)g.length;
        y[i] = flags[t] ? kv_half_to_float(kv_half_from_float(x[i]))
                        : kv_dequantize(codes[i], scale[group], min[group], &f);
    }
    int scale_shape[3] = {channel ? (T + g.length - 1) / g.length : T, all ? 1 : s.kv_heads,
                          channel ? s.head_size : all ? 1 : s.head_size / g.length};
    vec_add_bytes(out, "codes", codes, n);
    vec_add_ints(out, "scaleShape", scale_shape, 3);
    vec_add_shorts(out, "scale", scale, groups);
    vec_add_shorts(out, "min", min, groups);
    vec_add_floats(out, "dequant", y, n);
    return KV_OK;
}

Test(cuda_quantize, arrays_are_what_the_oracle_says)
{
    static const char *const axes[] = {"token", "channel", "token_all", "channel_all"};
    for (int bits = 2; bits <= 8; bits += bits == 4 ? 4 : 1)
        for (int i = 0; i < 8; i++) {
            char path[96];
            snprintf(path, sizeof path, "tests/vectors/quantize_%d_%s%s.json", bits, axes[i / 2],
                     i % 2 ? "_sym" : "");
            vec_judge_file(path, one_case);
        }
    cuda_quiet();
}

/* ---- caches ---------------------------------------------------------------------------------- */

enum { SEQUENCES = 3, STEPS = 6 };

typedef struct {
    const char *keys, *values;
    kv_shape s;
    int recent, paged, is_half, version, seal;
    int n[STEPS][SEQUENCES]; /* tokens of each step */
} scenario;

/* The arrays of a pool, each an array of its own of just its size, so that the simulator sees any step
 * outside. */
static kv_pool open_pool(const scenario *t, int max_tiles, int kept, int window)
{
    kv_error e = {0};
    kv_format keys, values;
    kv_pool p = {.sequences = SEQUENCES, .kv_heads = t->s.kv_heads, .max_tiles = max_tiles,
                 .page_count = SEQUENCES * max_tiles + 1, .kept_capacity = kept, .window = window};
    kv_format_parse(&keys, t->keys, NULL), kv_format_parse(&values, t->values, NULL);
    cr_assert_eq(kv_tile_init(&p.tile, &keys, &values, t->s.head_size, &e), KV_OK, "%s", e.text);
    kv_pool_place(&p, t->paged, NULL); /* strides */
    size_t tiles = (size_t)(t->paged ? p.page_count : SEQUENCES * max_tiles) * (size_t)p.kv_heads *
                   (size_t)p.tile.bytes;
    size_t slots = (size_t)(SEQUENCES * max_tiles), row = (size_t)(p.kv_heads * p.tile.head_size);
    size_t sizes[8] = {tiles, slots * 16, (size_t)SEQUENCES * (size_t)kept * row * 2,
                       (size_t)SEQUENCES * (size_t)kept * row * 2, (size_t)(SEQUENCES * kept) * 4,
                       (size_t)(SEQUENCES * window) * row * 2, (size_t)(SEQUENCES * window) * row * 2,
                       SEQUENCES * 4};
    void *at[8];
    for (int i = 0; i < 8; i++) {
        void *zero = calloc(1, sizes[i] + 1);
        at[i] = cuda_copy(zero, sizes[i]);
        free(zero);
    }
    int *pages = malloc(slots * 4);
    for (int i = 0; i < (int)slots; i++)
        pages[i] = (int)slots - i;
    p.pages = t->paged ? cuda_copy(pages, slots * 4) : NULL;
    p.tiles = at[0], p.holes = at[1], p.kept_keys = at[2], p.kept_values = at[3], p.position = at[4];
    p.window_keys = at[5], p.window_values = at[6], p.tokens = at[7];
    p.quantized_keys = cuda_room(SEQUENCES * 4), p.quantized_values = cuda_room(SEQUENCES * 4);
    p.kept = cuda_room(SEQUENCES * 4);
    free(pages);
    return p;
}

static void close_pool(kv_pool *p)
{
    kv_cuda_free(p->tiles), kv_cuda_free(p->holes), kv_cuda_free(p->kept_keys);
    kv_cuda_free(p->kept_values), kv_cuda_free(p->position), kv_cuda_free(p->window_keys);
    kv_cuda_free(p->window_values), kv_cuda_free(p->tokens), kv_cuda_free(p->quantized_keys);
    kv_cuda_free(p->quantized_values), kv_cuda_free(p->kept), kv_cuda_free((void *)p->pages);
}

static void same(const void *device, const void *want, size_t bytes, const char *what,
                 const scenario *t)
{
    char *got = malloc(bytes + 1);
    cuda_get(got, device, bytes);
    size_t i = 0;
    while (i < bytes && got[i] == ((const char *)want)[i])
        i++;
    cr_assert(i == bytes, "k%02d, %s %s Hk %d D %d R %d%s%s: %s, byte %zu of %zu", t->version, t->keys,
              t->values, t->s.kv_heads, t->s.head_size, t->recent, t->paged ? " paged" : "",
              t->is_half ? " half" : "", what, i, bytes);
    free(got);
}

/* Everything that has a meaning: tiles, holes, lengths, positions, kept and waiting rows. */
static void compare(const scenario *t, const kv_cuda_cache *c, const pool_cache *ref)
{
    void *memory;
    const kv_pool *d = &c->pool;
    kv_pool h = pool_make(ref, SEQUENCES, d->max_tiles, d->kept_capacity, d->window, t->paged, &memory);
    size_t row = (size_t)(h.kv_heads * h.tile.head_size);
    size_t tiles = (size_t)(t->paged ? h.page_count : SEQUENCES * h.max_tiles) * (size_t)h.kv_heads *
                   (size_t)h.tile.bytes;
    same(d->tiles, h.tiles, tiles, "tiles", t);
    same(d->holes, h.holes, (size_t)(SEQUENCES * h.max_tiles) * 16, "holes", t);
    same(d->tokens, h.tokens, SEQUENCES * 4, "tokens", t);
    same(d->quantized_keys, h.quantized_keys, SEQUENCES * 4, "quantized keys", t);
    same(d->quantized_values, h.quantized_values, SEQUENCES * 4, "quantized values", t);
    same(d->kept, h.kept, SEQUENCES * 4, "kept", t);
    for (int s = 0; s < SEQUENCES; s++) {
        const kv_cache_layer *l = &ref[s].cache.layer[0];
        size_t at = (size_t)(s * h.kept_capacity), n = (size_t)l->n_kept;
        same(d->position + at, h.position + at, n * 4, "positions", t);
        same(d->kept_keys + at * row, h.kept_keys + at * row, n * row * 2, "kept keys", t);
        same(d->kept_values + at * row, h.kept_values + at * row, n * row * 2, "kept values", t);
        for (int i = l->k.quantized; i < l->k.tokens; i++) {
            int j = kv_positions_before(l->position, l->n_kept, i);
            if (j < l->n_kept && l->position[j] == i)
                continue;
            size_t w = (size_t)(s * h.window + i % h.window) * row;
            same(d->window_keys + w, h.window_keys + w, row * 2, "a waiting key", t);
            if (i >= l->v.quantized)
                same(d->window_values + w, h.window_values + w, row * 2, "a waiting value", t);
        }
    }
    free(memory);
}

static void *as_input(const float *x, size_t n, int is_half)
{
    uint16_t *h = malloc(n * 2 + 2);
    for (size_t i = 0; i < n; i++)
        h[i] = kv_half_from_float(x[i]);
    void *d = is_half ? cuda_copy(h, n * 2) : cuda_copy(x, n * 4);
    free(h);
    return d;
}

/* One step: the same rows to ref/ and to the device. Every seventh token is kept, and the first of a
 * group and the last of one; *at: tokens before. */
static void append(const scenario *t, kv_cuda_cache *c, pool_cache *ref, const int *n, int *at,
                   kv_fault *fault, uint64_t *seed)
{
    kv_error e = {0};
    size_t row = (size_t)(t->s.kv_heads * t->s.head_size), total = 0, used = 0;
    int kept[2048], n_kept[SEQUENCES], all = 0;
    for (int s = 0; s < SEQUENCES; s++)
        total += (size_t)n[s];
    float *k = check_floats(total * row), *v = check_floats(total * row);
    for (int s = 0; s < SEQUENCES; s++) {
        float *ks = k + used * row, *vs = v + used * row;
        if (n[s]) {
            check_keys(ks, n[s], (int)row, seed);
            check_keys(vs, n[s], (int)row, seed);
        }
        for (size_t i = 0; i < (size_t)n[s] * row; i++) { /* zeros of both signs are minima too */
            if (i % row % 11 == 3)
                ks[i] = vs[i] = (i / row) % 3 ? 0.0f : -0.0f;
            if (t->is_half)
                ks[i] = kv_half_to_float(kv_half_from_float(ks[i]));
        }
        int first = all;
        for (int i = at[s]; i < at[s] + n[s]; i++)
            if (i % 7 == 5 || i % 64 == 63 || i % 32 == 0)
                kept[all++] = i;
        n_kept[s] = all - first;
        cr_assert_eq(kv_cache_append(&ref[s].cache, 0, ks, vs, kept + first, n_kept[s], n[s], &e), KV_OK,
                     "%s", e.text);
        used += (size_t)n[s];
        at[s] += n[s];
    }
    void *dk = as_input(k, total * row, t->is_half), *dv = as_input(v, total * row, t->is_half);
    cr_assert_eq(kv_cuda_append(c, dk, dv, t->is_half, n, kept, n_kept, fault, t->version, &e), KV_OK,
                 "%s", e.text);
    cuda_fine(fault);
    kv_cuda_free(dk), kv_cuda_free(dv);
    free(k), free(v);
}

/* One of the last tokens of each sequence is kept late, by both, or by neither. */
static void keep_late(kv_cuda_cache *c, pool_cache *ref, const int *at, int step)
{
    kv_error e = {0};
    for (int s = 0; s < SEQUENCES; s++) {
        int token = at[s] - 1 - (step + s) % 3, want = -1, got = -1;
        if (token < 0)
            continue;
        cr_assert_eq(kv_cache_keep(&ref[s].cache, 0, token, &want, &e), KV_OK, "%s", e.text);
        cr_assert_eq(kv_cuda_keep(c, s, token, &got, &e), KV_OK, "%s", e.text);
        cr_assert_eq(got, want, "token %d of %d, kept late: %d", token, at[s], got);
    }
}

static void run(const scenario *t, uint64_t *seed)
{
    kv_error e = {0};
    kv_fault *fault = cuda_fault();
    kv_length length[SEQUENCES] = {{0, 0, 0, 0}};
    pool_cache ref[SEQUENCES];
    int at[SEQUENCES] = {0}, longest = 0;
    for (int s = 0; s < SEQUENCES; s++) {
        int T = 0;
        for (int i = 0; i < STEPS; i++)
            T += t->n[i][s];
        longest = T > longest ? T : longest;
    }
    for (int s = 0; s < SEQUENCES; s++) {
        ref[s] = pool_fill(t->keys, t->values, t->s, t->recent, 0, NULL, 0, 0, seed);
        kv_cache_spec spec = ref[s].cache.spec;
        spec.capacity = longest + 1, spec.kept_capacity = longest + 1;
        free(ref[s].memory);
        ref[s].memory = calloc(1, kv_cache_size(&spec));
        cr_assert_eq(kv_cache_init(&ref[s].cache, &spec, ref[s].memory, &e), KV_OK, "%s", e.text);
    }
    int G = ref[0].cache.spec.keys.group, window = (t->recent + G + 15) / 16 * 16;
    kv_cuda_cache c = {open_pool(t, longest / KV_TILE + 1, longest / 4 + 3 + STEPS, window), t->recent, length,
                       NULL};
    c.plan = cuda_room(kv_cuda_plan_bytes(&c.pool));
    for (int i = 0; i < STEPS; i++) {
        append(t, &c, ref, t->n[i], at, fault, seed);
        keep_late(&c, ref, at, i);
    }
    compare(t, &c, ref);
    if (t->seal) {
        for (int s = 0; s < SEQUENCES; s++)
            cr_assert_eq(kv_cache_seal(&ref[s].cache, 0, &e), KV_OK, "%s", e.text);
        cr_assert_eq(kv_cuda_seal(&c, fault, t->version, &e), KV_OK, "%s", e.text);
        cuda_fine(fault);
        compare(t, &c, ref);
    }
    for (int s = 0; s < SEQUENCES; s++)
        free(ref[s].memory);
    close_pool(&c.pool);
    kv_cuda_free(c.plan), kv_cuda_free(fault);
}

Test(cuda_quantize, caches_of_every_format_are_those_of_ref, .timeout = 600)
{
    static const char *const formats[][2] = {
        {"2:channel:64", "2:token:64"},  {"3:channel:32", "3:token:32"}, {"4:channel:128", "4:token:64"},
        {"8:channel:64", "2:token:32"},  {"2:channel:32", "8:token:64"}, {"2:channel:128:sym", "4:token:32:sym"},
        {"3:channel:64:sym", "3:token:64:sym"}, {"4:channel:32", "2:token:64"}};
    uint64_t seed = 90;
    for (int f = 0; f < 8; f++)
        for (int version = 0; version <= KV_CUDA_APPEND_VERSIONS; version++) {
            int D = (f + version) % 2 ? 64 : 128;
            scenario t = {formats[f][0], formats[f][1], {1, 1, D}, f % 3 * 20, f % 2, version % 2, version,
                          f % 4 != 1, {{130, 33, 0}, {1, 1, 1}, {37, 0, 31}, {1, 1, 1}, {1, 64, 1}}};
            cuda_order((f + version) % CUDA_ORDERS);
            run(&t, &seed);
        }
    cuda_quiet();
}

Test(cuda_quantize, one_append_of_many_equals_many_of_one, .timeout = 600)
{
    uint64_t seed = 91;
    for (int order = 0; order < CUDA_ORDERS; order++) {
        scenario t = {"2:channel:32", "3:token:32", {2, 2, 64}, 5, 0, order % 2, 3, 1,
                      {{1, 2, 3}, {31, 32, 33}, {1, 1, 1}, {2, 1, 2}, {7, 31, 0}, {1, 2, 1}}};
        cuda_order(order);
        run(&t, &seed);
    }
    cuda_quiet();
}

/* ---- bytes ----------------------------------------------------------------------------------- */

/* A cache of one sequence with nothing in it. */
static kv_cuda_cache open_cache(const char *keys, const char *values, kv_shape s, int recent, int tiles,
                                int kept, kv_length *length)
{
    kv_error e = {0};
    kv_format k, v;
    kv_pool p = {.sequences = 1, .kv_heads = s.kv_heads, .max_tiles = tiles, .kept_capacity = kept,
                 .window = (recent + 128 + 15) / 16 * 16};
    kv_format_parse(&k, keys, NULL), kv_format_parse(&v, values, NULL);
    cr_assert_eq(kv_tile_init(&p.tile, &k, &v, s.head_size, &e), KV_OK, "%s", e.text);
    size_t bytes = kv_pool_place(&p, 0, NULL);
    void *zero = calloc(1, bytes);
    kv_pool_place(&p, 0, cuda_copy(zero, bytes));
    free(zero);
    *length = (kv_length){0, 0, 0, 0};
    return (kv_cuda_cache){p, recent, length, cuda_room(kv_cuda_plan_bytes(&p))};
}

#ifndef KV_GPU
/* Sectors asked for, times 32, over what has to move: each number once as binary16, each code, scale
 * and minimum once, rows that stay in 16 bits once more, 8 bytes for a kept position and its hole. */
static double waste(const char *keys, const char *values, int D, int recent, int n_kept)
{
    enum { T = 512, HEADS = 2 };
    kv_length length;
    kv_error e = {0};
    kv_shape s = {HEADS, HEADS, D};
    size_t row = (size_t)(HEADS * D), size = (size_t)T * row;
    int n = T, kept[20];
    uint64_t seed = 92;
    for (int i = 0; i < n_kept; i++)
        kept[i] = 17 + i * (T - recent - 32) / 20;
    kv_cuda_cache c = open_cache(keys, values, s, recent, T / KV_TILE, n_kept, &length);
    kv_fault *fault = cuda_fault();
    float *x = check_floats(size);
    check_keys(x, T, (int)row, &seed);
    void *k = as_input(x, size, 1), *v = as_input(x, size, 1);
    sim_forget();
    cr_assert_eq(kv_cuda_append(&c, k, v, 1, &n, kept, &n_kept, fault, 0, &e), KV_OK, "%s", e.text);
    cuda_fine(fault);
    double tokens_k = length.quantized_keys, tokens_v = length.quantized_values;
    const kv_tile *l = &c.pool.tile;
    double codes = (double)row * (tokens_k * l->key_bits + tokens_v * l->value_bits) / 8;
    double params = (double)row * (tokens_k / l->key_group * (l->key_symmetric ? 2 : 4) +
                                   tokens_v / l->value_group * (l->value_symmetric ? 2 : 4));
    double rows = (double)row * 2 * (2 * n_kept + (T - tokens_k) + (T - tokens_v));
    double least = 2.0 * (double)size * 2 + codes + params + rows + 12.0 * n_kept;
    free(x);
    return 32.0 * (double)(sim_sectors(NULL, 0) + sim_sectors(NULL, 1)) / least;
}

Test(cuda_quantize, moves_hardly_more_than_it_must, .timeout = 600)
{
    static const char *const formats[][2] = {{"2:channel:64", "2:token:64"}, {"3:channel:64", "3:token:64"},
                                             {"4:channel:32", "4:token:32"}, {"2:channel:128", "8:token:64"}};
    for (int f = 0; f < 4; f++)
        for (int D = 64; D <= 128; D += 64) {
            double dense = waste(formats[f][0], formats[f][1], D, 0, 0);
            double mixed = waste(formats[f][0], formats[f][1], D, 128, 5);
            printf("%s %s D %d: bytes over minimum %.3f, with 5 kept and 128 recent rows %.3f\n",
                   formats[f][0], formats[f][1], D, dense, mixed);
            cr_expect(dense <= 1.05, "%s D %d: %g", formats[f][0], D, dense);
            cr_expect(mixed <= 1.05, "%s D %d: %g", formats[f][0], D, mixed);
        }
    cuda_quiet();
}
#endif

/* ---- bad input ------------------------------------------------------------------------------- */

Test(cuda_quantize, names_what_ref_refuses, .timeout = 100)
{
    static const float bad[] = {NAN, INFINITY, -INFINITY, 65520, -1e9f};
    static const struct { const char *keys, *values; int recent, half; } kinds[] = {
        {"2:channel:32", "2:token:64", 0, 0}, {"2:channel:32", "2:token:64", 0, 1},
        {"4:channel:64", "3:token:32", 64, 0}, {"4:channel:64", "3:token:32", 64, 1}};
    enum { T = 40, ROW = 128 };
    for (int version = 0; version <= KV_CUDA_APPEND_VERSIONS; version++)
        for (int i = 0; i < 5; i++)
            for (int values = 0; values < 2; values++) {
                kv_length length;
                unsigned long long index = 0;
                int n = T, kept[] = {20, 21}, n_kept = 2, j = i % 4, at = (i % 2 ? 20 : 5) * ROW + 70;
                kv_cuda_cache c = open_cache(kinds[j].keys, kinds[j].values, (kv_shape){2, 2, 64},
                                             kinds[j].recent, 1, 2, &length);
                kv_fault *fault = cuda_fault();
                float x[2][T * ROW] = {{0}};
                x[values][at] = x[values][at + ROW] = bad[i];
                void *k = as_input(x[0], T * ROW, kinds[j].half);
                void *v = as_input(x[1], T * ROW, kinds[j].half);
                cr_assert_eq(kv_cuda_append(&c, k, v, kinds[j].half, &n, kept, &n_kept, fault, version,
                                            NULL), KV_OK);
                cr_expect_eq(kv_cuda_fault(fault, &index, "rows", NULL), KV_FAIL_RUN);
                cr_expect_eq(index, (unsigned long long)(values * T * ROW + at),
                             "k%02d, %g: %llu, not %d", version, bad[i], index, values * T * ROW + at);
            }
    cuda_quiet();
}

Test(cuda_quantize, refuses_before_it_starts)
{
    kv_length length;
    kv_fault *fault = cuda_fault();
    kv_cuda_cache c = open_cache("2:channel:32", "2:token:64", (kv_shape){1, 1, 64}, 4, 1, 2, &length);
    float *x = cuda_room(130 * 64 * 4);
    int wrong[] = {3, 3}, many[] = {1, 2, 3}, after[] = {100};
    struct {
        const float *k;
        int n, version, n_kept;
        const int *kept;
        int tokens, quantized;
        const char *word;
    } t[] = {
        {x, -1, 0, 0, NULL, 0, 0, "room for 128"},       {x, 129, 0, 0, NULL, 0, 0, "room for 128"},
        {x, 1, 4, 0, NULL, 0, 0, "version 4"},           {NULL, 1, 0, 0, NULL, 0, 0, "k is NULL"},
        {x + 1, 1, 0, 0, NULL, 0, 0, "aligned to 16"},   {x, 8, 0, 2, wrong, 0, 0, "do not ascend"},
        {x, 8, 0, 3, many, 0, 0, "room for 2 kept"},     {x, 8, 0, 0, NULL, 9, 7, "sealed"},
        {x, 8, 0, 0, NULL, 9, 32, "cannot be"},          {x, 8, 0, 0, NULL, 1 << 20, 0, "cannot be"},
    };
    for (size_t i = 0; i < sizeof t / sizeof *t; i++) {
        kv_error e = {0};
        length = (kv_length){t[i].tokens, t[i].quantized, t[i].quantized, 0};
        cr_expect_eq(kv_cuda_append(&c, t[i].k, x, 0, &t[i].n, t[i].kept, t[i].kept ? &t[i].n_kept : NULL,
                                    fault, t[i].version, &e), KV_FAIL_USAGE, "%s", t[i].word);
        cr_expect(strstr(e.text, t[i].word), "%s: %s", t[i].word, e.text);
        cr_expect_eq(length.tokens, t[i].tokens);
    }
    length = (kv_length){0, 0, 0, 0};
    int one = 1, n_kept = 1;
    kv_error e = {0};
    cr_expect_eq(kv_cuda_append(&c, x, x, 0, &one, after, NULL, fault, 0, &e), KV_FAIL_USAGE);
    c.pool.window = 16, c.recent = 40, one = 30;
    cr_expect_eq(kv_cuda_append(&c, x, x, 0, &one, after, &n_kept, fault, 0, &e), KV_FAIL_USAGE);
    cr_expect(strstr(e.text, "would wait"), "%s", e.text);
    c.pool.kv_heads = -1;
    cr_expect_eq(kv_cuda_append(&c, x, x, 0, &one, NULL, NULL, fault, 0, &e), KV_FAIL_USAGE);
    cr_expect_eq(kv_cuda_seal(&c, fault, 0, &e), KV_FAIL_USAGE);
    cr_expect_eq(kv_cuda_plan_bytes(&c.pool), 0);
    cuda_quiet();
}
