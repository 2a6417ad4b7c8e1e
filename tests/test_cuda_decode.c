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

/* Not 0: queries times this, and in holes codes that score highest for the first head. */
static float loud;

/* Minimum of the group of one coded element (symmetric: what code 0 means), else 0. */
static double minimum_of(const kv_cache *c, int values, int t, int element)
{
    const kv_cache_layer *cl = c->layer;
    const kv_store *st = values ? &cl->v : &cl->k;
    size_t row = (size_t)(st->shape.kv_heads * st->shape.head_size), G = (size_t)st->format.group;
    for (int i = 0; i < cl->n_kept; i++)
        if (cl->position[i] == t)
            return 0;
    if (t >= st->quantized)
        return 0;
    size_t group = values ? (size_t)t * (row / G) + (size_t)element / G
                          : (size_t)t / G * row + (size_t)element;
    if (st->format.symmetric)
        return -(double)(1 << (st->format.bits - 1)) * kv_half_to_float(st->scale[group]);
    return kv_half_to_float(st->min[group]);
}

/* How far off channel d of the output of query head h may be: bound[d], from the weights p [T] of ref/.
 *
 * The score of token t is off by delta_t, and a softmax moves by sum p_t delta_t (v_t - out) in first
 * order; the factor covers what is beyond. A product of a score is q m + q (k - m), each off by `unit`
 * of its size: in k04 and k05 q is rounded to 11 bits and q times scale again, 2^-10 in all; in k03 the
 * sine and cosine of an angle are off by 2^-21 of the pair that turns. Numbers below
 * binary16's normal ones are off by 2^-25, where the largest q of the head is 2^-8 or more. A float sum
 * of n terms is off by n 2^-24 of their sizes. Weights are rounded to 11 bits, as part of delta_t; times
 * the scale of a value once more. The largest weight of a share is 2^-4 or more, small ones are off by
 * 2^-25. */
typedef struct {
    double unit, weight, tiny;
} precision;

static void bounds(double *bound, const kv_cache *c, const float *q, const float *p, const float *out,
                   int h, int shift, precision e)
{
    kv_shape s = c->spec.shape;
    int D = s.head_size, T = c->layer[0].k.tokens, kv_head = h / (s.heads / s.kv_heads);
    int levels = 1 << c->spec.keys.bits;
    float k[KV_HEAD_MAX], v[KV_HEAD_MAX], cs[KV_HEAD_MAX];
    double worst = 0, most = 0;
    for (int d = 0; d < D; d++) {
        bound[d] = 0;
        most = fmax(most, fabs(q[h * D + d]));
    }
    for (int t = 0; t < T; t++) {
        double size = 0;
        kv_cache_read_head(k, c, 0, 0, t, kv_head);
        kv_cache_read_head(v, c, 0, 1, t, kv_head);
        if (c->spec.keys.pre) {
            kv_rope_angles(cs, &c->spec.rope, t + shift);
            kv_rope_rotate(k, cs, &c->spec.rope, 1, D);
        }
        for (int d = 0; d < D; d++) {
            double m = c->spec.keys.pre ? 0 : minimum_of(c, 0, t, kv_head * D + d);
            size += fabs(q[h * D + d]) * (fabs(k[d] - m) + fabs(m)) / sqrt(D);
        }
        double delta = size * (e.unit + (D + 8) * 0x1p-24) + e.weight + T * 0x1p-23 +
                       sqrt(D) * levels * e.tiny * most * 256;
        worst = fmax(worst, delta);
        for (int d = 0; d < D; d++) {
            double m = minimum_of(c, 1, t, kv_head * D + d);
            bound[d] += p[t] * (delta * fabs(v[d] - out[d]) + e.weight * fabs(v[d] - m) +
                                (T + 2) * 0x1p-23 * (fabs(v[d] - m) + fabs(v[d]))) +
                        e.tiny * 16 * (fabs(v[d]) + levels);
        }
    }
    for (int d = 0; d < D; d++)
        bound[d] = bound[d] * exp(2 * worst) + 1e-30;
}

static precision precision_of(int version, int turned)
{
    if (version == 3 && turned)
        return (precision){0x1p-17, 0x1p-22, 0};
    return version <= 3 ? (precision){0x1p-22, 0x1p-22, 0} : (precision){0x1p-10, 0x1p-11, 0x1p-25};
}

typedef struct {
    pool_cache cache[MOST];
    kv_pool pool;
    void *host, *device;
    float *q, *sink, *want, *rows[MOST];
    size_t floats;
} decode_setup;

/* What a hole holds is nobody's business. */
static void spoil_holes(kv_cache *c, const float *q)
{
    const kv_store *st = &c->layer[0].k;
    int row = st->shape.kv_heads * st->shape.head_size;
    for (int i = 0; i < c->layer[0].n_kept; i++) {
        int t = c->layer[0].position[i];
        for (int d = 0; d < row && t < st->quantized / 64 * 64; d++)
            if (q[d % st->shape.head_size] > 0)
                st->words[(t / 64 * row + d) * 4 + t % 64 / 16] |= 3u << t % 16 * 2;
    }
}

static decode_setup set_up(const decode_case *c, uint64_t *seed)
{
    decode_setup u = {0};
    int tiles = 1, H = c->shape.heads, D = c->shape.head_size, kept = 0;
    u.floats = (size_t)(c->n * H * D);
    u.q = check_floats(u.floats), u.want = check_floats(u.floats), u.sink = check_floats((size_t)H);
    check_fill(u.q, u.floats, seed);
    check_fill(u.sink, (size_t)H, seed);
    for (size_t i = 0; i < u.floats && loud > 0; i++)
        u.q[i] *= loud;
    for (int s = 0; s < c->n; s++) {
        int n = 0;
        while (n < 8 && c->kept[s][n] >= 0)
            n++;
        u.cache[s] = pool_fill(c->keys, c->values, c->shape, c->recent, c->T[s], c->kept[s], n,
                               c->sealed, seed);
        if (loud > 0)
            spoil_holes(&u.cache[s].cache, u.q + s * H * D);
        tiles = c->T[s] > tiles * KV_TILE ? (c->T[s] + KV_TILE - 1) / KV_TILE : tiles;
        kept = n > kept ? n : kept;
    }
    int group = u.cache[0].cache.spec.keys.group;
    kv_pool host = pool_make(u.cache, c->n, tiles, kept, (c->recent + group + 15) / 16 * 16, c->paged,
                             &u.host);
    u.pool = pool_upload(&host, c->paged, u.host, &u.device);
    for (int s = 0; s < c->n; s++) {
        float *scratch = check_floats((size_t)(c->T[s] + D));
        kv_error e = {0};
        u.rows[s] = check_floats((size_t)(H * c->T[s]));
        cr_assert_eq(kv_decode(u.want + s * H * D, u.rows[s], u.q + s * H * D, &u.cache[s].cache, 0,
                               c->with_sink ? u.sink : NULL, c->shift, scratch, &e), KV_OK, "%s", e.text);
        free(scratch);
    }
    return u;
}

static void tear_down(decode_setup *u, int n)
{
    for (int s = 0; s < n; s++)
        free(u->cache[s].memory), free(u->rows[s]);
    free(u->q), free(u->sink), free(u->want), free(u->host);
    kv_cuda_free(u->device);
}

static int can(const decode_case *c, int version)
{
    return version <= 3 || (!strstr(c->keys, "pre") && c->keys[0] == c->values[0] &&
                            c->keys[0] != '8' && !strstr(c->keys, "sym"));
}

/* What the launcher chooses. */
static int chosen(const decode_case *c)
{
    int version = KV_CUDA_DECODE_VERSIONS;
    while (!can(c, version))
        version--;
    return version;
}

static void compare(const decode_case *c, const decode_setup *u, const float *got, int version,
                    int splits)
{
    int H = c->shape.heads, D = c->shape.head_size;
    for (int s = 0; s < c->n; s++)
        for (int h = 0; h < H; h++) {
            const float *a = got + (s * H + h) * D, *b = u->want + (s * H + h) * D;
            double bound[KV_HEAD_MAX], worst = 0;
            bounds(bound, &u->cache[s].cache, u->q + s * H * D, u->rows[s] + h * c->T[s], b, h, c->shift,
                   precision_of(version ? version : chosen(c), c->keys[strlen(c->keys) - 1] == 'e'));
            for (int d = 0; d < D; d++) {
                double off = fabs((double)a[d] - b[d]) / bound[d];
                worst = off <= worst ? worst : isnan(off) ? INFINITY : off;
            }
            cr_expect(worst <= 1, "k%02d %s %s D %d G %d R %d T %d splits %d head %d: off by %g of the bound",
                      version, c->keys, c->values, D, H / c->shape.kv_heads, c->recent, c->T[s], splits, h,
                      worst);
            if (getenv("SHOW_BOUNDS"))
                fprintf(stderr, "k%02d D %d T %d: %.3f of the bound\n", version, D, c->T[s], worst);
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

static void versions_from(int first, const decode_case *c, int splits, int orders, uint64_t *seed)
{
    decode_setup u = set_up(c, seed);
    for (int order = 0; order < orders; order++) {
        cuda_order((order + *seed) % CUDA_ORDERS);
        for (int version = first; version <= KV_CUDA_DECODE_VERSIONS; version++)
            if (can(c, version))
                run(c, version, splits, &u);
    }
    tear_down(&u, c->n);
}

static void all_versions(const decode_case *c, int splits, int orders, uint64_t *seed)
{
    versions_from(0, c, splits, orders, seed);
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

/* Each kernel that the launcher can choose: bits, head size, groups. */
Test(cuda_decode, every_bit_width_and_group)
{
    uint64_t seed = 84;
    for (int bits = 2; bits <= 4; bits++)
        for (int D = 64; D <= 128; D += 64)
            for (int v = 32; v <= D; v *= 2) {
                char keys[32], values[32];
                snprintf(keys, sizeof keys, "%d:channel:%d", bits, v == 32 ? 128 : v == 64 ? 32 : 64);
                snprintf(values, sizeof values, "%d:token:%d", bits, v);
                decode_case c = {keys, values, {v == 64 ? 9 : 2, 1, D}, 7, 0, 0, 1, 0, 1, {201},
                                 {{2, 129, -1}}};
                versions_from(4, &c, 1, 1, &seed);
            }
    cuda_quiet();
}

/* k03 for each number of bits and of heads that it is made for, and for more heads than one block takes. */
Test(cuda_decode, without_tensor_cores)
{
    static const char *const formats[][2] = {
        {"2:channel:64", "8:token:64"}, {"3:channel:32", "2:token:32"}, {"4:channel:128:sym", "3:token:64"},
        {"8:channel:64", "4:token:32:sym"}, {"8:channel:32:pre", "2:token:64"}, {"3:channel:64:pre", "8:token:32"}};
    static const int groups[] = {1, 2, 3, 4, 5, 8, 9};
    uint64_t seed = 87;
    for (int f = 0; f < 6; f++)
        for (int i = 0; i < 7; i++) {
            int D = (f + i) % 2 ? 64 : 128;
            decode_case c = {formats[f][0], formats[f][1], {groups[i], 1, D}, f % 3 * 20, f == 1, i % 2,
                             i % 3 == 1, i == 2 ? 5000 : 0, 1, {187}, {{0, 63, 64, 186, -1}}};
            decode_setup u = set_up(&c, &seed);
            cuda_order((f + i) % CUDA_ORDERS);
            run(&c, 3, 1 + i % 2, &u);
            tear_down(&u, 1);
        }
    cuda_quiet();
}

/* Pairs of channels that k03 does not turn: k02 does. */
Test(cuda_decode, refuses_to_turn_what_lies_apart)
{
    uint64_t seed = 88;
    kv_error e = {0};
    decode_case c = {"2:channel:32:pre", "2:token:32", {2, 1, 64}, 16, 0, 0, 0, 0, 1, {40}, {{-1}}};
    decode_setup u = set_up(&c, &seed);
    kv_fault *fault = cuda_fault();
    float *out = cuda_room(512);
    double *speed = cuda_room(256);
    kv_turn turn = {speed, 32, 0, 0};
    void *work = cuda_room(kv_cuda_decode_work(&u.pool, 2, 1));
    cr_expect_eq(kv_cuda_decode(out, out, &u.pool, 2, NULL, &turn, 1, work, fault, 3, &e), KV_FAIL_USAGE);
    cr_expect(strstr(e.text, "not 32"), "%s", e.text);
    kv_cuda_free(out), kv_cuda_free(fault), kv_cuda_free(speed), kv_cuda_free(work);
    tear_down(&u, 1);
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

/* Scores of all sizes, so that the reference of the weights moves often; and holes whose codes would
 * score highest, which must neither count nor move it. */
Test(cuda_decode, loud_queries_and_spoiled_holes)
{
    uint64_t seed = 89;
    for (int D = 64; D <= 128; D += 64)
        for (int G = 1; G <= 8; G += 7)
            for (loud = 1; loud <= 64; loud *= 4) {
                decode_case c = {pairs[0][0], pairs[0][1], {G, 1, D}, 0, 0, 0, 0, 0, 1, {640},
                                 {{0, 70, 129, 130, 400, 639, -1}}};
                all_versions(&c, 1, 1, &seed);
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

/* What the device's memory says of a sequence is not to be trusted: nothing outside the arrays is read,
 * and the sequence is named. */
Test(cuda_decode, names_a_sequence_whose_state_cannot_be)
{
    uint64_t seed = 85;
    decode_case c = {"2:channel:32", "2:token:32", {2, 1, 64}, 16, 0, 1, 0, 0, 2, {150, 70}, {{3, 64, -1}, {-1}}};
    decode_setup u = set_up(&c, &seed);
    float *q = cuda_copy(u.q, u.floats * 4), *out = cuda_room(u.floats * 4);
    void *work = cuda_room(kv_cuda_decode_work(&u.pool, 2, 1));
    kv_fault *fault = cuda_fault();
    int *const word[] = {u.pool.tokens + 1, u.pool.quantized_keys + 1, u.pool.quantized_values + 1,
                         u.pool.kept + 1, (int *)u.pool.pages + 2};
    for (int version = 1; version <= KV_CUDA_DECODE_VERSIONS; version++)
        for (size_t i = 0; i < sizeof word / sizeof *word; i++)
            for (int k = 0; k < 3; k++) {
                int bad = k == 0 ? -1 : k == 1 ? 1 << 30 : -2147483647, was;
                unsigned long long index = 0;
                cuda_get(&was, word[i], 4);
                kv_cuda_upload(word[i], &bad, 4, NULL);
                cr_assert_eq(kv_cuda_decode(out, q, &u.pool, 2, NULL, NULL, 1, work, fault, version, NULL),
                             KV_OK);
                cr_expect_eq(kv_cuda_fault(fault, &index, "pool", NULL), KV_FAIL_RUN);
                cr_expect_eq(index, 2 * 2 + 1, "k%02d word %zu value %d: %llu", version, i, bad, index);
                kv_cuda_upload(word[i], &was, 4, NULL);
            }
    float odd = INFINITY;
    kv_cuda_upload(q + 64 * 3 + 5, &odd, 4, NULL); /* sequence 1, head 1 */
    for (int version = 1; version <= KV_CUDA_DECODE_VERSIONS; version++) {
        unsigned long long index = 0;
        kv_cuda_decode(out, q, &u.pool, 2, NULL, NULL, 1, work, fault, version, NULL);
        cr_expect_eq(kv_cuda_fault(fault, &index, "query", NULL), KV_FAIL_RUN);
        cr_expect_eq(index, 3, "k%02d: %llu", version, index);
    }
    kv_cuda_free(q), kv_cuda_free(out), kv_cuda_free(work), kv_cuda_free(fault);
    tear_down(&u, c.n);
    cuda_quiet();
}

Test(cuda_decode, refuses_before_it_starts)
{
    uint64_t seed = 86;
    decode_case c = {"2:channel:32", "2:token:32", {2, 1, 64}, 16, 0, 0, 0, 0, 1, {40}, {{3, -1}}};
    decode_setup u = set_up(&c, &seed);
    float *out = cuda_room(512);
    kv_fault *fault = cuda_fault();
    struct {
        int heads, kv_heads, window, splits, version, bytes, tiles;
        const char *word;
    } bad[] = {{0, 1, 48, 1, 0, 0, 0, "query heads is 0"},   {3, 2, 48, 1, 0, 0, 0, "cannot share"},
               {2, 1, 47, 1, 0, 0, 0, "multiple of 16"},     {2, 1, 48, 0, 0, 0, 0, "0 splits"},
               {2, 1, 48, 1, 9, 0, 0, "version 9"},          {2, 1, 48, 1, 0, 16, 0, "offsets"},
               {2, 1, 48, 1, 0, 0, 1, "tiles is NULL"},      {2, 1, -16, 1, 0, 0, 0, "window is -16"}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        kv_error e = {0};
        kv_pool p = u.pool;
        p.kv_heads = bad[i].kv_heads, p.window = bad[i].window, p.tile.bytes += bad[i].bytes;
        if (bad[i].tiles)
            p.tiles = NULL;
        cr_expect_eq(kv_cuda_decode(out, out, &p, bad[i].heads, NULL, NULL, bad[i].splits, out, fault,
                                    bad[i].version, &e), KV_FAIL_USAGE);
        cr_expect(strstr(e.text, bad[i].word), "%s: %s", bad[i].word, e.text);
    }
    kv_cuda_free(out), kv_cuda_free(fault);
    tear_down(&u, c.n);
    cuda_quiet();
}
