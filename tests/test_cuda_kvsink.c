/* The residual update and the running top-k of every version against ref/, rule for ties included. */
#include "cuda_check.h"

enum { C = 12, CHANNEL = 6 };

/* What stands in the channel. The awkward ones: nearly equal values, as in a prompt of one repeated
 * token; values that climb by less than the rule's thousandth, so that the k-th leaves earlier equals
 * behind one by one; all zero. */
enum { NORMAL, SINKS, NEARLY_EQUAL, CLIMBING, STEPS, ZERO, KINDS };

static float value(int kind, int t, uint64_t *seed)
{
    double r = check_uniform(seed), sign = check_below(seed, 2) ? 1 : -1;
    switch (kind) {
    case NORMAL: return (float)r;
    case SINKS: return (float)(t % 41 == 17 ? sign * (900 + 90 * r) : r);
    case NEARLY_EQUAL: return (float)(sign * (100 + 0.15 * r));
    case CLIMBING: return (float)(sign * 100 * pow(1.00002, t));
    case STEPS: return (float)(sign * (100 + 0.05 * (t / 7)));
    default: return 0;
    }
}

typedef struct {
    int T, K, kind, version;
    const int *chunks; /* lengths in turn, repeated */
    int n_chunks;
} scenario;

/* The state after each chunk must give what ref/ gives for all tokens so far. */
static void follow(const scenario *s, uint64_t *seed)
{
    size_t size = (size_t)s->T * C;
    float *h = check_floats(size), *add = check_floats(size), *got = check_floats(size);
    float *column = check_floats((size_t)s->T), *scratch = check_floats((size_t)s->T);
    int *want = calloc((size_t)s->K + 1, sizeof *want), *have = calloc((size_t)s->K + 1, sizeof *have);
    kv_error e = {0};
    kv_cuda_topk top;
    kv_fault *fault = cuda_fault();
    void *memory = cuda_room(kv_cuda_topk_bytes(s->T));
    int *position = cuda_room((size_t)s->K * 4), *count = cuda_room(4);
    check_fill(h, size, seed);
    check_fill(add, size, seed);
    for (int t = 0; t < s->T; t++)
        h[t * C + CHANNEL] = value(s->kind, t, seed), add[t * C + CHANNEL] = 0;
    cr_assert_eq(kv_cuda_topk_start(&top, memory, s->K, s->T, &e), KV_OK, "%s", e.text);
    for (int t = 0, i = 0; t < s->T; i++) {
        int n = s->chunks[i % s->n_chunks];
        n = n < s->T - t ? n : s->T - t;
        float *dh = cuda_copy(h + t * C, (size_t)(n * C) * 4);
        float *da = cuda_copy(add + t * C, (size_t)(n * C) * 4);
        cr_assert_eq(kv_cuda_residual(dh, da, n, C, CHANNEL, &top, fault, s->version, &e), KV_OK,
                     "%s", e.text);
        cuda_fine(fault);
        cuda_get(got + t * C, dh, (size_t)(n * C) * 4);
        kv_cuda_free(dh), kv_cuda_free(da);
        t += n;
        int n_have, n_want;
        cr_assert_eq(kv_cuda_topk_read(position, count, &top, &e), KV_OK, "%s", e.text);
        cuda_get(&n_have, count, 4);
        for (int j = 0; j < t; j++)
            column[j] = got[j * C + CHANNEL];
        n_want = kv_top_magnitudes(want, column, t, s->K, scratch);
        cr_assert_eq(n_have, n_want, "%d positions, not %d", n_have, n_want);
        cuda_get(have, position, (size_t)n_have * 4);
        cr_assert(memcmp(have, want, (size_t)n_want * 4) == 0,
                  "k%02d, kind %d, K %d: other positions after %d tokens", s->version, s->kind, s->K,
                  t);
    }
    for (size_t i = 0; i < size; i++)
        cr_assert(got[i] == h[i] + add[i], "k%02d: element %zu", s->version, i);
    kv_cuda_free(memory), kv_cuda_free(position), kv_cuda_free(count), kv_cuda_free(fault);
    free(h), free(add), free(got), free(column), free(scratch), free(want), free(have);
}

Test(cuda_kvsink, chunked_top_k_is_that_of_ref)
{
    static const int whole[] = {1 << 20}, single[] = {1}, mixed[] = {1, 31, 32, 33, 2, 100, 7};
    static const int Ks[] = {0, 1, 5, 33};
    uint64_t seed = 8;
    for (int kind = 0; kind < KINDS; kind++)
        for (int version = 0; version <= KV_CUDA_RESIDUAL_VERSIONS; version++)
            for (int i = 0; i < 4; i++) {
                cuda_order((kind + version + i) % CUDA_ORDERS);
                follow(&(scenario){300, Ks[i], kind, version, whole, 1}, &seed);
                follow(&(scenario){300, Ks[i], kind, version, mixed, 7}, &seed);
                follow(&(scenario){37, Ks[i], kind, version, single, 1}, &seed);
            }
    cuda_quiet();
}

Test(cuda_kvsink, awkward_lengths_and_fewer_tokens_than_k)
{
    static const int chunk[] = {32};
    uint64_t seed = 9;
    for (int i = 0; i < CHECK_SIZES; i++)
        for (int order = 0; order < CUDA_ORDERS; order++) {
            cuda_order(order);
            follow(&(scenario){check_sizes[i], 40, NEARLY_EQUAL, 0, chunk, 1}, &seed);
        }
    cuda_quiet();
}

/* Any chunking, any K: seeds can be replayed. */
Test(cuda_kvsink, random_scenarios)
{
    for (uint64_t i = 0; i < 60; i++) {
        uint64_t seed = 1000 + i;
        int chunks[5];
        for (int j = 0; j < 5; j++)
            chunks[j] = 1 + check_below(&seed, 90);
        cuda_order((int)i % CUDA_ORDERS);
        scenario s = {1 + check_below(&seed, 400), check_below(&seed, 50), (int)i % KINDS,
                      check_below(&seed, 4), chunks, 5};
        follow(&s, &seed);
    }
    cuda_quiet();
}

/* The rule with a threshold, prompt complete: few reach it, none, exactly so many as may, too many. */
Test(cuda_kvsink, threshold_is_that_of_ref)
{
    static const int chunks[] = {64, 1, 33};
    uint64_t seed = 12;
    for (int T = 1; T <= 301; T += 100)
        for (int over = 0; over < 24; over += over < 4 ? 1 : 5)
            for (int version = 0; version <= KV_CUDA_RESIDUAL_VERSIONS; version++) {
                float h[301 * C], zero[64 * C] = {0}, column[301], scratch[301];
                int want[301], have[301], n[2], capped;
                kv_error e = {0};
                kv_cuda_topk top;
                kv_fault *fault = cuda_fault();
                void *memory = cuda_room(kv_cuda_topk_bytes(T));
                int *position = cuda_room(301 * 4), *count = cuda_room(8);
                check_fill(h, (size_t)(T * C), &seed);
                for (int t = 0; t < T; t++) /* 100 exactly reaches it */
                    column[t] = h[t * C + CHANNEL] = t % 13 < over && t / 13 % 2 ? (t % 2 ? 100 : -100.05f) : 1;
                cuda_order((T + over + version) % CUDA_ORDERS);
                cr_assert_eq(kv_cuda_above_start(&top, memory, 100, T, &e), KV_OK, "%s", e.text);
                for (int t = 0, i = 0; t < T; i++) {
                    int m = chunks[i % 3] < T - t ? chunks[i % 3] : T - t;
                    float *dh = cuda_copy(h + t * C, (size_t)(m * C) * 4);
                    float *da = cuda_copy(zero, (size_t)(m * C) * 4);
                    cr_assert_eq(kv_cuda_residual(dh, da, m, C, CHANNEL, &top, fault, version, &e), KV_OK);
                    kv_cuda_free(dh), kv_cuda_free(da);
                    t += m;
                }
                cr_assert_eq(kv_cuda_topk_read(position, count, &top, &e), KV_OK, "%s", e.text);
                cuda_get(n, count, 8);
                cuda_get(have, position, 301 * 4 < top.K * 4 ? 301 * 4 : (size_t)top.K * 4);
                int found = kv_above_threshold(want, &capped, column, T, 100, scratch);
                cr_assert(n[0] == found && n[1] == capped, "T %d: %d, %d; not %d, %d", T, n[0], n[1], found,
                          capped);
                cr_assert(memcmp(have, want, (size_t)found * 4) == 0, "T %d over %d: other positions", T, over);
                kv_cuda_free(memory), kv_cuda_free(position), kv_cuda_free(count), kv_cuda_free(fault);
            }
    kv_cuda_topk top;
    kv_error e = {0};
    cr_expect_eq(kv_cuda_above_start(&top, &top, NAN, 10, &e), KV_FAIL_USAGE);
    cuda_quiet();
}

#ifndef KV_GPU
/* What prediction costs beyond the update itself, in sectors of 32 bytes that are asked for. The
 * smallest honest denominator: the residual updates of one prefill alone (two for each of 30 layers;
 * 12 bytes for each element), not a byte of weights, keys or activations. */
Test(cuda_kvsink, extra_bytes_are_below_a_thousandth_of_a_prefill)
{
    enum { T = 512, WIDTH = 576, LAYERS = 30, CHUNK = 256 };
    static float h[CHUNK * WIDTH], add[CHUNK * WIDTH];
    uint64_t seed = 10, plain = 0, extra = 0;
    kv_fault *fault = cuda_fault();
    check_fill(h, CHUNK * WIDTH, &seed);
    for (int t = 0; t < CHUNK; t++)
        h[t * WIDTH + 300] *= t % 100 == 50 ? 500 : 1;
    float *dh = cuda_copy(h, sizeof h), *da = cuda_copy(add, sizeof add);
    void *memory = cuda_room(kv_cuda_topk_bytes(T));
    int *position = cuda_room(20), *count = cuda_room(4);
    for (int with = 0; with < 2; with++) {
        kv_cuda_topk top;
        sim_forget();
        cr_assert_eq(kv_cuda_topk_start(&top, memory, 5, T, NULL), KV_OK);
        for (int t = 0; t < T; t += CHUNK)
            cr_assert_eq(kv_cuda_residual(dh, da, CHUNK, WIDTH, 300, with ? &top : NULL, fault, 0,
                                          NULL), KV_OK);
        if (with)
            cr_assert_eq(kv_cuda_topk_read(position, count, &top, NULL), KV_OK);
        cuda_fine(fault);
        uint64_t sectors = sim_sectors(NULL, 0) + sim_sectors(NULL, 1);
        extra = sectors - plain;
        plain = with ? plain : sectors;
    }
    cr_expect_eq(plain * 32, 12ull * T * WIDTH, "the update itself wastes nothing");
    double share = (double)extra / ((double)plain * 2 * LAYERS);
    printf("KVSink: %.1f bytes a token, %.4f %% of a prefill's residual updates\n",
           (double)extra * 32 / T, 100 * share);
    cr_expect(share < 0.001, "%g", share);
    cuda_quiet();
}
#endif

Test(cuda_kvsink, names_what_is_not_finite)
{
    kv_fault *fault = cuda_fault();
    for (int version = 1; version <= KV_CUDA_RESIDUAL_VERSIONS; version++) {
        float h[5 * C] = {0}, add[5 * C] = {0};
        unsigned long long index = 0;
        h[2 * C + 1] = 3e38f, add[2 * C + 1] = 3e38f; /* the sum is what counts */
        h[4 * C] = NAN;
        float *dh = cuda_copy(h, sizeof h), *da = cuda_copy(add, sizeof add);
        cr_assert_eq(kv_cuda_residual(dh, da, 5, C, 0, NULL, fault, version, NULL), KV_OK);
        cr_expect_eq(kv_cuda_fault(fault, &index, "residual", NULL), KV_FAIL_RUN);
        cr_expect_eq(index, 2 * C + 1, "k%02d: %llu", version, index);
        kv_cuda_free(dh), kv_cuda_free(da);
    }
    cuda_quiet();
}

Test(cuda_kvsink, refuses_before_it_starts)
{
    kv_fault *fault = cuda_fault();
    kv_cuda_topk top;
    kv_error e = {0};
    float *h = cuda_room(4096);
    void *memory = cuda_room(kv_cuda_topk_bytes(8));
    cr_expect_eq(kv_cuda_topk_start(&top, memory, -1, 8, &e), KV_FAIL_USAGE);
    cr_expect(strstr(e.text, "K is -1"), "%s", e.text);
    cr_expect_eq(kv_cuda_topk_start(&top, NULL, 1, 8, &e), KV_FAIL_USAGE);
    cr_expect_eq(kv_cuda_topk_start(&top, memory, 1, -8, &e), KV_FAIL_USAGE);
    cr_assert_eq(kv_cuda_topk_start(&top, memory, 5, 8, &e), KV_OK);
    struct {
        float *h;
        int n, C, channel, version;
        const char *word;
    } c[] = {
        {h, -1, 8, 0, 0, "tokens is -1"},  {h, 1, 0, 0, 0, "width is 0"},
        {h, 1, 8, 8, 0, "channel 8"},      {h, 1, 8, -1, 0, "channel -1"},
        {h, 9, 8, 0, 0, "room for 8"},     {h, 1, 6, 0, 3, "multiple of 4"},
        {h, 1, 8, 0, 4, "version 4"},      {h + 1, 1, 8, 0, 3, "aligned to 16"},
        {NULL, 1, 8, 0, 0, "h is NULL"},   {h, INT32_MAX, INT32_MAX, 0, 0, "2^46"},
    };
    for (size_t i = 0; i < sizeof c / sizeof *c; i++) {
        cr_expect_eq(kv_cuda_residual(c[i].h, h, c[i].n, c[i].C, c[i].channel, &top, fault,
                                      c[i].version, &e), KV_FAIL_USAGE);
        cr_expect(strstr(e.text, c[i].word), "%s: %s", c[i].word, e.text);
    }
    cr_expect_eq(top.seen, 0);
    cr_expect_eq(kv_cuda_residual(NULL, NULL, 0, 8, 0, &top, fault, 0, NULL), KV_OK);
    cr_expect_eq(kv_cuda_topk_read(NULL, NULL, &top, NULL), KV_FAIL_USAGE);
    cuda_quiet();
}
