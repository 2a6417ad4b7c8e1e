/* Launchers with arguments that nobody means: a call either is refused, or touches nothing outside its
 * arrays, which have just the sizes that kv_cuda.h states. What is no good in a page table, a keep set
 * or a length is refused or noted, never followed. Seeds can be replayed. */
#include <math.h>

#include "cuda_check.h"

static const int sizes[] = {-2147483647, -1, 0, 1, 2, 3, 4, 5, 8, 31, 32, 33, 36, 64, 100, 129,
                            65536, 1 << 24, 2147483647};
enum { SIZES = sizeof sizes / sizeof *sizes, ROOM = 1 << 16, RUNS = 400 };

static int draw(uint64_t *seed)
{
    return sizes[check_below(seed, SIZES)];
}

/* An array of n elements, or NULL if that is too much: then the call is left out, unless a size makes
 * no sense anyway. */
static void *array(double n, size_t element, uint64_t *seed)
{
    if (n > ROOM)
        return NULL;
    size_t bytes = n > 0 ? (size_t)n * element : 0;
    uint32_t *x = malloc(bytes + 8);
    for (size_t i = 0; i < bytes / 4 + 1; i++) { /* numbers, now and then something else */
        float v = (float)check_uniform(seed);
        memcpy(&x[i], &v, 4);
        if (check_below(seed, 500) == 0)
            x[i] = (uint32_t)check_next(seed);
    }
    void *d = cuda_copy(x, bytes);
    free(x);
    return d;
}

static void verdict(int code, const kv_error *e, const char *what, uint64_t i)
{
    cr_expect(code == KV_OK || (code == KV_FAIL_USAGE && e->code == code && e->text[0]),
              "%s, run %d: code %d, '%s'", what, (int)i, code, e->text);
}

Test(cuda_fuzz, softmax)
{
    kv_fault *fault = cuda_fault();
    int called = 0;
    for (uint64_t i = 0; i < RUNS; i++) {
        uint64_t seed = i + 1;
        kv_error e = {0};
        int H = draw(&seed), n = draw(&seed), past = draw(&seed), version = check_below(&seed, 7) - 1;
        kv_softmax_kind kind = (kv_softmax_kind)check_below(&seed, 3);
        double rows = (double)H * n, all = rows * ((double)past + n);
        int sane = H >= 0 && n >= 0 && past >= 0;
        float *s = array(all, 4, &seed), *p = array(all, 4, &seed), *rest = array(rows, 4, &seed);
        float *sink = check_below(&seed, 2) ? array(H, 4, &seed) : NULL;
        if (!sane || (s && rest && (sink || kind != KV_SOFTMAX_LEARNED))) {
            verdict(kv_cuda_softmax(p, rest, s, sink, kind, H, n, past, fault, version, &e), &e,
                    "softmax", i);
            called++;
        }
        kv_cuda_free(s), kv_cuda_free(p), kv_cuda_free(rest), kv_cuda_free(sink);
        cuda_order((int)i % CUDA_ORDERS);
    }
    kv_cuda_fault(fault, NULL, "fuzz", NULL);
    cr_expect_gt(called, RUNS / 2);
    cuda_quiet();
}

Test(cuda_fuzz, sink_alpha_peaks_and_medians)
{
    kv_fault *fault = cuda_fault();
    for (uint64_t i = 0; i < RUNS; i++) {
        uint64_t seed = i + 1;
        kv_error e = {0};
        int a = draw(&seed), b = draw(&seed), version = check_below(&seed, 6) - 1;
        float *x = array((double)a * b * b, 4, &seed);
        double *alpha = array((double)a * b, 8, &seed);
        if (a < 0 || b < 0 || (x && alpha))
            verdict(kv_cuda_sink_alpha(alpha, x, a, b, fault, version, &e), &e, "alpha", i);
        kv_cuda_free(x), kv_cuda_free(alpha);
        x = array((double)a * b, 4, &seed);
        kv_peak *token = array(a, 8, &seed), *channel = array(b, 8, &seed);
        if (a < 0 || b < 0 || (x && token && channel))
            verdict(kv_cuda_peaks(token, channel, x, a, b, fault, version, &e), &e, "peaks", i);
        kv_cuda_free(token), kv_cuda_free(channel), kv_cuda_free(x);
        x = array(a, 4, &seed);
        float *median = array(1, 4, &seed);
        void *work = array(KV_CUDA_MEDIAN_WORK / 4, 4, &seed);
        if (a < 0 || x)
            verdict(kv_cuda_median(median, x, (size_t)a, check_below(&seed, 9) ? work : NULL, fault,
                                   version, &e), &e, "median", i);
        kv_cuda_free(x), kv_cuda_free(median), kv_cuda_free(work);
        cuda_order((int)i % CUDA_ORDERS);
    }
    kv_cuda_fault(fault, NULL, "fuzz", NULL);
    cuda_quiet();
}

Test(cuda_fuzz, residual_and_top_k)
{
    kv_fault *fault = cuda_fault();
    for (uint64_t i = 0; i < RUNS; i++) {
        uint64_t seed = i + 1;
        kv_error e = {0};
        kv_cuda_topk top;
        int K = draw(&seed), tokens = draw(&seed), C = draw(&seed);
        void *memory = array(tokens < 0 ? 0 : (double)tokens * 2 + 4, 4, &seed);
        int *position = array(K < 0 ? 0 : K, 4, &seed), *count = array(1, 4, &seed);
        int code = tokens < 0 || memory ? kv_cuda_topk_start(&top, memory, K, tokens, &e) : -1;
        if (code >= 0)
            verdict(code, &e, "start", i);
        for (int j = 0; j < 3 && code == KV_OK; j++) {
            int n = draw(&seed), channel = check_below(&seed, 40) - 2;
            float *h = array((double)n * C, 4, &seed), *add = array((double)n * C, 4, &seed);
            if (n < 0 || C < 1 || (h && add))
                verdict(kv_cuda_residual(h, add, n, C, channel, check_below(&seed, 4) ? &top : NULL,
                                         fault, check_below(&seed, 6) - 1, &e), &e, "residual", i);
            if (position)
                verdict(kv_cuda_topk_read(position, count, &top, &e), &e, "read", i);
            kv_cuda_free(h), kv_cuda_free(add);
        }
        kv_cuda_free(memory), kv_cuda_free(position), kv_cuda_free(count);
        cuda_order((int)i % CUDA_ORDERS);
    }
    kv_cuda_fault(fault, NULL, "fuzz", NULL);
    cuda_quiet();
}

Test(cuda_fuzz, quantizing_arrays)
{
    kv_fault *fault = cuda_fault();
    for (uint64_t i = 0; i < RUNS; i++) {
        uint64_t seed = i + 1;
        kv_error e = {0};
        int T = draw(&seed), Hk = draw(&seed), D = draw(&seed);
        kv_format f = {.kind = check_below(&seed, 9) ? KV_INT : KV_NF, .bits = check_below(&seed, 10),
                       .axis = (kv_axis)check_below(&seed, 2), .group = draw(&seed),
                       .symmetric = check_below(&seed, 2)};
        double n = (double)T * Hk * D;
        int sane = T >= 0 && Hk > 0 && D > 0 && f.group >= 0 && f.group <= 1 << 20;
        size_t groups = sane && n < ROOM ? kv_group_count(&f, (kv_shape){Hk, Hk, D}, T) : 1;
        uint8_t *codes = array(n, 1, &seed), *kept = check_below(&seed, 2) ? array(T, 1, &seed) : NULL;
        uint16_t *scale = array((double)groups, 2, &seed), *min = array((double)groups, 2, &seed);
        float *x = array(n, 4, &seed);
        if (!sane || (codes && x && scale && min))
            verdict(kv_cuda_quantize(codes, scale, min, x, kept, &f, (kv_shape){Hk, Hk, D}, T, fault,
                                     &e), &e, "quantize", i);
        kv_cuda_free(codes), kv_cuda_free(kept), kv_cuda_free(scale), kv_cuda_free(min), kv_cuda_free(x);
        cuda_order((int)i % CUDA_ORDERS);
    }
    kv_cuda_fault(fault, NULL, "fuzz", NULL);
    cuda_quiet();
}

/* ---- caches ---------------------------------------------------------------------------------- */

static void *zeros(size_t bytes)
{
    void *zero = calloc(1, bytes + 1), *d = cuda_copy(zero, bytes);
    free(zero);
    return d;
}

/* A pool of random sizes; pages point anywhere now and then. */
static kv_pool make_pool(uint64_t *seed, int *bad_pages)
{
    static const int groups[] = {32, 64, 128}, bits[] = {2, 3, 4, 8};
    kv_format k = {.bits = bits[check_below(seed, 4)], .axis = KV_PER_CHANNEL,
                   .group = groups[check_below(seed, 3)], .symmetric = check_below(seed, 2)};
    kv_format v = {.bits = bits[check_below(seed, 4)], .axis = KV_PER_TOKEN,
                   .group = groups[check_below(seed, 2)], .symmetric = check_below(seed, 2)};
    kv_pool p = {.sequences = 1 + check_below(seed, 3), .kv_heads = 1 + check_below(seed, 2),
                 .max_tiles = check_below(seed, 3), .kept_capacity = check_below(seed, 6),
                 .window = 16 * check_below(seed, 12)};
    cr_assert_eq(kv_tile_init(&p.tile, &k, &v, 64, NULL), KV_OK);
    int paged = check_below(seed, 2), slots = p.sequences * p.max_tiles;
    p.page_count = slots + 1;
    kv_pool_place(&p, paged, NULL);
    size_t row = (size_t)p.kv_heads * 64, S = (size_t)p.sequences;
    size_t tiles = (size_t)(paged ? p.page_count : slots) * (size_t)(p.kv_heads * p.tile.bytes);
    p.tiles = zeros(tiles), p.holes = zeros((size_t)slots * 16);
    p.kept_keys = zeros(S * (size_t)p.kept_capacity * row * 2);
    p.kept_values = zeros(S * (size_t)p.kept_capacity * row * 2);
    p.position = zeros(S * (size_t)p.kept_capacity * 4);
    p.window_keys = zeros(S * (size_t)p.window * row * 2);
    p.window_values = zeros(S * (size_t)p.window * row * 2);
    p.tokens = zeros(S * 4), p.quantized_keys = zeros(S * 4), p.quantized_values = zeros(S * 4);
    p.kept = zeros(S * 4);
    int *pages = malloc((size_t)slots * 4 + 4);
    *bad_pages = paged && check_below(seed, 2);
    for (int i = 0; i < slots; i++)
        pages[i] = *bad_pages ? (int)check_next(seed) >> check_below(seed, 32) : slots - i;
    p.pages = paged ? cuda_copy(pages, (size_t)slots * 4) : NULL;
    free(pages);
    return p;
}

static void free_pool(kv_pool *p)
{
    void *all[] = {p->tiles, p->holes, p->kept_keys, p->kept_values, p->position, p->window_keys,
                   p->window_values, p->tokens, p->quantized_keys, p->quantized_values, p->kept,
                   (void *)p->pages};
    for (int i = 0; i < 12; i++)
        kv_cuda_free(all[i]);
}

/* Decodes what is there, at times with a word of the state that nobody should have written. */
static int decode(const kv_pool *p, kv_fault *fault, uint64_t *seed, uint64_t i)
{
    int *const word[] = {p->tokens, p->quantized_keys, p->quantized_values, p->kept};
    int heads = check_below(seed, 8) ? p->kv_heads * (1 + check_below(seed, 9)) : draw(seed);
    int splits = check_below(seed, 8) ? 1 + check_below(seed, 3) : draw(seed);
    int version = check_below(seed, 8) - 1, which = check_below(seed, 8), was = 0, code = -1;
    double n = heads < 1 ? 0 : (double)p->sequences * heads;
    float *q = array(n * 64, 4, seed), *out = array(n * 64, 4, seed);
    float *sink = check_below(seed, 2) ? array(heads < 1 ? 0 : heads, 4, seed) : NULL;
    void *work = array(splits < 1 ? 0 : n * splits * 4 * 68, 4, seed);
    double speed[32], *d_speed;
    kv_error e = {0};
    for (int j = 0; j < 32; j++)
        speed[j] = pow(10000, -j / 32.0);
    d_speed = cuda_copy(speed, sizeof speed);
    kv_turn turn = {d_speed, check_below(seed, 3) ? 64 : check_below(seed, 70), check_below(seed, 2),
                    draw(seed)};
    if (which < 4) {
        int bad = (int)check_next(seed) >> check_below(seed, 32);
        cuda_get(&was, word[which], 4);
        kv_cuda_upload(word[which], &bad, 4, NULL);
    }
    if (q && out && work)
        verdict(code = kv_cuda_decode(out, q, p, heads, sink, check_below(seed, 3) ? NULL : &turn, splits,
                                      work, fault, version, &e), &e, "decode", i);
    if (which < 4)
        kv_cuda_upload(word[which], &was, 4, NULL);
    kv_cuda_free(q), kv_cuda_free(out), kv_cuda_free(sink), kv_cuda_free(work), kv_cuda_free(d_speed);
    return code == KV_OK;
}

Test(cuda_fuzz, appends_seals_and_decodes, .timeout = 600)
{
    kv_fault *fault = cuda_fault();
    int accepted = 0, decoded = 0;
    for (uint64_t i = 0; i < 250; i++) {
        uint64_t seed = i + 1;
        int bad_pages, n[3], kept[64], n_kept[3];
        kv_length length[3] = {{0, 0, 0, 0}};
        kv_pool p = make_pool(&seed, &bad_pages);
        kv_cuda_cache c = {p, check_below(&seed, 70), length, cuda_room(kv_cuda_plan_bytes(&p))};
        for (int step = 0; step < 4; step++) {
            kv_error e = {0};
            int total = 0, at = 0, half = check_below(&seed, 2), version = check_below(&seed, 6) - 1;
            for (int s = 0; s < p.sequences; s++) {
                n[s] = check_below(&seed, 12) ? check_below(&seed, 90) : draw(&seed);
                total += n[s] > 0 && n[s] < 300 ? n[s] : 0;
                n_kept[s] = check_below(&seed, 5);
                int t = check_below(&seed, 3) ? length[s].tokens - 2 : -5;
                for (int j = 0; j < n_kept[s]; j++)
                    kept[at++] = t += check_below(&seed, 30) + (check_below(&seed, 20) ? 1 : -3);
            }
            if (check_below(&seed, 25) == 0) /* what nobody should have written there */
                length[0].quantized_keys = draw(&seed);
            size_t size = (size_t)(total * p.kv_heads * 64);
            void *k = array((double)size, half ? 2 : 4, &seed);
            void *v = array((double)size, half ? 2 : 4, &seed);
            if (k && v && check_below(&seed, 8)) {
                int code = kv_cuda_append(&c, k, v, half, n, kept, n_kept, fault, version, &e);
                verdict(code, &e, "append", i);
                accepted += code == KV_OK;
            } else {
                verdict(kv_cuda_seal(&c, fault, version, &e), &e, "seal", i);
            }
            int done, s = check_below(&seed, p.sequences + 1), t = length[s % p.sequences].tokens;
            int code = kv_cuda_keep(&c, s, t - 1 - check_below(&seed, 20), &done, &e);
            if (code != KV_FAIL_RUN) /* no room */
                verdict(code, &e, "keep", i);
            decoded += decode(&p, fault, &seed, i);
            kv_cuda_free(k), kv_cuda_free(v);
        }
        kv_cuda_free(c.plan);
        free_pool(&p);
        cuda_order((int)i % CUDA_ORDERS);
    }
    kv_cuda_fault(fault, NULL, "fuzz", NULL);
    cr_expect_gt(accepted, 100);
    cr_expect_gt(decoded, 200);
    cuda_quiet();
}

/* Structs and kinds, which the draws above always get right. */
Test(cuda_fuzz, structs_that_are_missing)
{
    static const kv_format keys = {.bits = 2, .group = 32, .axis = KV_PER_CHANNEL},
                           values = {.bits = 2, .group = 32, .axis = KV_PER_TOKEN};
    kv_fault *fault = cuda_fault();
    kv_error e[8] = {{0}};
    kv_tile tile;
    float *x = zeros(4096), host;
    uint16_t *scale = zeros(4096);
    uint8_t *codes = zeros(4096);
    verdict(kv_cuda_softmax(x, NULL, x, NULL, (kv_softmax_kind)3, 1, 2, 2, fault, 0, &e[0]), &e[0],
            "kind", 0);
    verdict(kv_cuda_quantize(codes, scale, scale, x, NULL, NULL, (kv_shape){1, 1, 32}, 8, fault, &e[1]),
            &e[1], "format", 0);
    verdict(kv_tile_init(NULL, &keys, &values, 64, &e[2]), &e[2], "tile", 0);
    verdict(kv_tile_init(&tile, NULL, &values, 64, &e[3]), &e[3], "keys", 0);
    verdict(kv_tile_init(&tile, &keys, NULL, 64, &e[4]), &e[4], "values", 0);
    verdict(kv_cuda_decode(x, x, NULL, 1, NULL, NULL, 1, x, fault, 0, &e[5]), &e[5], "pool", 0);
    for (int i = 0; i < 6; i++)
        cr_expect_eq(e[i].code, KV_FAIL_USAGE, "call %d was not refused", i);
    cr_expect_eq(kv_cuda_upload(NULL, &host, 4, &e[6]), KV_FAIL_RUN);
    cr_expect_eq(kv_cuda_download(NULL, x, 4, &e[7]), KV_FAIL_RUN);
    cuda_quiet();
}
