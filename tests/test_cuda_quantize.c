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
    kv_cuda_cache c = {open_pool(t, longest / KV_TILE + 1, longest / 4 + 3, window), t->recent, length,
                       NULL};
    c.plan = cuda_room(kv_cuda_plan_bytes(&c.pool));
    for (int i = 0; i < STEPS; i++)
        append(t, &c, ref, t->n[i], at, fault, seed);
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
