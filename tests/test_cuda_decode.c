/* Every version of the fused decode against kv_decode. */
#include "cuda_pool.h"

enum { MOST = 3 };

typedef struct {
    const char *keys, *values;
    kv_shape shape;
    int recent, sealed, paged, with_sink, shift;
    int n, T[MOST];    /* sequences */
    int kept[MOST][8]; /* ended by -1 */
} decode_case;

/* How far off a version may be, for query head h of a cache. A score is a sum of D products, each off
 * by at most `unit` of itself (rounded q, scale, product), so by unit * sum |q k| / sqrt(D) + the
 * float sum's (D + 8) 2^-24 of the same. A weight exp(score) is then off by that much of itself, so
 * is the sum that divides it, and both move a mean of values by at most twice that times the largest
 * value; a weight itself is rounded like a product, and T of them are added in float. */
static double tolerance(const kv_cache *c, const float *q, int h, int shift, double unit)
{
    kv_shape s = c->spec.shape;
    int D = s.head_size, T = c->layer[0].k.tokens, kv_head = h / (s.heads / s.kv_heads);
    float x[KV_HEAD_MAX], cs[KV_HEAD_MAX];
    double most = 0, value = 0;
    for (int t = 0; t < T; t++) {
        double sum = 0;
        kv_cache_read_head(x, c, 0, 0, t, kv_head);
        if (c->spec.keys.pre) {
            kv_rope_angles(cs, &c->spec.rope, t + shift);
            kv_rope_rotate(x, cs, &c->spec.rope, 1, D);
        }
        for (int d = 0; d < D; d++)
            sum += fabs((double)q[h * D + d] * x[d]);
        most = fmax(most, sum / sqrt(D));
        kv_cache_read_head(x, c, 0, 1, t, kv_head);
        for (int d = 0; d < D; d++)
            value = fmax(value, fabs(x[d]));
    }
    return value * (2 * expm1(most * (unit + (D + 8) * 0x1p-24)) + 2 * unit + (T + 32) * 0x1p-23);
}

static double unit_of(int version)
{
    return version <= 2 ? 0x1p-23 : 0x1p-9; /* float: two roundings; half: four of 2^-11 */
}

typedef struct {
    pool_cache cache[MOST];
    kv_pool pool;
    void *host, *device;
    float *q, *sink, *want;
    size_t floats;
} decode_setup;

static decode_setup set_up(const decode_case *c, uint64_t *seed)
{
    decode_setup u = {0};
    int tiles = 1, H = c->shape.heads, D = c->shape.head_size, kept = 0;
    for (int s = 0; s < c->n; s++) {
        int n = 0;
        while (n < 8 && c->kept[s][n] >= 0)
            n++;
        u.cache[s] = pool_fill(c->keys, c->values, c->shape, c->recent, c->T[s], c->kept[s], n,
                               c->sealed, seed);
        tiles = c->T[s] > tiles * KV_TILE ? (c->T[s] + KV_TILE - 1) / KV_TILE : tiles;
        kept = n > kept ? n : kept;
    }
    int group = u.cache[0].cache.spec.keys.group;
    kv_pool host = pool_make(u.cache, c->n, tiles, kept, (c->recent + group + 15) / 16 * 16, c->paged,
                             &u.host);
    u.pool = pool_upload(&host, c->paged, u.host, &u.device);
    u.floats = (size_t)(c->n * H * D);
    u.q = check_floats(u.floats), u.want = check_floats(u.floats), u.sink = check_floats((size_t)H);
    check_fill(u.q, u.floats, seed);
    check_fill(u.sink, (size_t)H, seed);
    for (int s = 0; s < c->n; s++) {
        float *scratch = check_floats((size_t)(c->T[s] + D));
        kv_error e = {0};
        cr_assert_eq(kv_decode(u.want + s * H * D, NULL, u.q + s * H * D, &u.cache[s].cache, 0,
                               c->with_sink ? u.sink : NULL, c->shift, scratch, &e), KV_OK, "%s", e.text);
        free(scratch);
    }
    return u;
}

static void tear_down(decode_setup *u, int n)
{
    for (int s = 0; s < n; s++)
        free(u->cache[s].memory);
    free(u->q), free(u->sink), free(u->want), free(u->host);
    kv_cuda_free(u->device);
}

static void compare(const decode_case *c, const decode_setup *u, const float *got, int version,
                    int splits)
{
    int H = c->shape.heads, D = c->shape.head_size;
    for (int s = 0; s < c->n; s++)
        for (int h = 0; h < H; h++) {
            const float *a = got + (s * H + h) * D, *b = u->want + (s * H + h) * D;
            double tol = tolerance(&u->cache[s].cache, u->q + s * H * D, h, c->shift, unit_of(version));
            double diff = check_diff(a, b, (size_t)D);
            cr_expect(diff <= tol, "k%02d %s %s D %d G %d R %d T %d splits %d head %d: off by %g, not %g",
                      version, c->keys, c->values, D, H / c->shape.kv_heads, c->recent, c->T[s], splits, h,
                      diff, tol);
        }
}

static void run(const decode_case *c, int version, int splits, const decode_setup *u)
{
    kv_error e = {0};
    int H = c->shape.heads;
    float *got = check_floats(u->floats);
    float *q = cuda_copy(u->q, u->floats * 4), *sink = cuda_copy(u->sink, (size_t)H * 4);
    float *out = cuda_room(u->floats * 4);
    void *work = cuda_room(kv_cuda_decode_work(&u->pool, H, splits));
    double speed[KV_HEAD_MAX / 2];
    const kv_rope *rope = &u->cache[0].cache.spec.rope;
    kv_turn_speeds(speed, rope);
    double *d_speed = cuda_copy(speed, (size_t)rope->dims / 2 * 8);
    kv_turn turn = {d_speed, rope->dims, rope->interleaved, c->shift};
    kv_fault *fault = cuda_fault();
    cr_assert_eq(kv_cuda_decode(out, q, &u->pool, H, c->with_sink ? sink : NULL,
                                u->cache[0].cache.spec.keys.pre ? &turn : NULL, splits, work, fault,
                                version, &e), KV_OK, "%s", e.text);
    cuda_fine(fault);
    cuda_get(got, out, u->floats * 4);
    compare(c, u, got, version, splits);
    kv_cuda_free(q), kv_cuda_free(sink), kv_cuda_free(out), kv_cuda_free(work), kv_cuda_free(fault);
    kv_cuda_free(d_speed), free(got);
}

static int can(const decode_case *c, int version)
{
    (void)c, (void)version;
    return 1;
}

static void all_versions(const decode_case *c, int splits, int orders, uint64_t *seed)
{
    decode_setup u = set_up(c, seed);
    for (int order = 0; order < orders; order++) {
        cuda_order((order + *seed) % CUDA_ORDERS);
        for (int version = 0; version <= KV_CUDA_DECODE_VERSIONS; version++)
            if (can(c, version))
                run(c, version, splits, &u);
    }
    tear_down(&u, c->n);
}

static const char *const pairs[][2] = {{"2:channel:64", "2:token:64"}, {"3:channel:32", "3:token:32"},
                                       {"4:channel:128", "4:token:64"}, {"2:channel:32:sym", "2:token:32:sym"}};
enum { PAIRS = sizeof pairs / sizeof *pairs };

Test(cuda_decode, every_length)
{
    uint64_t seed = 80;
    for (int i = 0; i < CHECK_SIZES; i++)
        for (int p = 0; p < PAIRS; p++) {
            int T = check_sizes[i], D = (i + p) % 2 ? 64 : 128;
            decode_case c = {pairs[p][0], pairs[p][1], {1 + i % 4, 1, D}, i % 3 * 16, p == 1, i % 2,
                             p % 2, 0, 1, {T}, {{T / 2, -1}}};
            all_versions(&c, 1 + i % 2, 1, &seed);
        }
    cuda_quiet();
}

Test(cuda_decode, batches_of_different_lengths_in_every_order)
{
    uint64_t seed = 81;
    for (int p = 0; p < 2; p++) {
        decode_case c = {pairs[p][0], pairs[p][1], {6, 2, p ? 128 : 64}, 33, 0, p, 1, 0, 3, {257, 0, 131},
                         {{0, 64, 127, 128, 200, 256, -1}, {-1}, {63, 64, 130, -1}}};
        all_versions(&c, 2, CUDA_ORDERS, &seed);
    }
    cuda_quiet();
}

Test(cuda_decode, everything_coded_and_nothing)
{
    uint64_t seed = 82;
    for (int D = 64; D <= 128; D += 64) {
        decode_case sealed = {pairs[0][0], pairs[0][1], {3, 1, D}, 0, 1, 0, 0, 0, 2, {128, 100},
                              {{-1}, {31, 32, 33, -1}}};
        decode_case waiting = {pairs[2][0], pairs[2][1], {4, 1, D}, 200, 0, 0, 0, 0, 2, {150, 1},
                               {{3, 149, -1}, {0, -1}}};
        all_versions(&sealed, 1, 1, &seed);
        all_versions(&waiting, 3, 1, &seed);
    }
    cuda_quiet();
}

Test(cuda_decode, turns_keys_stored_before_rope)
{
    uint64_t seed = 83;
    decode_case c = {"2:channel:32:pre", "2:token:32", {2, 1, 64}, 16, 0, 0, 0, 1000, 2, {70, 33},
                     {{5, 64, -1}, {-1}}};
    all_versions(&c, 2, 1, &seed);
    cuda_quiet();
}
