/* The sink metric of every kernel version against ref/. */
#include "cuda_check.h"
#include "vectors.h"

/* Attention-like rows of H heads; above the diagonal stands what must not be read. */
static float *make_rows(int H, int T, uint64_t *seed)
{
    float *rows = check_floats((size_t)H * (size_t)T * (size_t)T);
    for (int r = 0; r < H * T; r++) {
        float *row = rows + (size_t)r * (size_t)T;
        int visible = r % T + 1;
        check_fill(row, (size_t)visible, seed);
        if (T / 2 < visible)
            row[T / 2] += 9; /* a sink in the middle */
        kv_softmax(row, row, visible, NULL);
        for (int t = visible; t < T; t++)
            row[t] = NAN;
    }
    return rows;
}

static void run(const float *rows, int H, int T, int version)
{
    size_t n = (size_t)H * (size_t)T;
    double *got = malloc(n * 8), *want = malloc(n * 8);
    kv_error e = {0};
    kv_fault *fault = cuda_fault();
    float *d = cuda_copy(rows, n * (size_t)T * 4);
    double *alpha = cuda_room(n * 8);
    cr_assert_eq(kv_cuda_sink_alpha(alpha, d, H, T, fault, version, &e), KV_OK, "%s", e.text);
    cuda_fine(fault);
    cuda_get(got, alpha, n * 8);
    for (int h = 0; h < H; h++)
        kv_sink_alpha(want + h * T, rows + (size_t)h * (size_t)T * (size_t)T, T);
    /* both add at most T numbers of one sign in double, in different orders, and divide once */
    for (size_t i = 0; i < n; i++)
        cr_expect(fabs(got[i] - want[i]) <= (2 * T + 2) * 0x1p-53 * want[i],
                  "k%02d, H %d T %d: alpha[%zu] = %.17g, not %.17g", version, H, T, i, got[i],
                  want[i]);
    free(got), free(want);
    kv_cuda_free(d), kv_cuda_free(alpha), kv_cuda_free(fault);
}

Test(cuda_sinks, every_version_agrees_with_ref)
{
    uint64_t seed = 3;
    for (int i = 0; i < CHECK_SIZES; i++) {
        int T = check_sizes[i], H = 1 + i % 2;
        float *rows = make_rows(H, T, &seed);
        for (int order = 0; order < CUDA_ORDERS; order++) {
            cuda_order(order);
            for (int version = 0; version <= KV_CUDA_ALPHA_VERSIONS; version++)
                if (version < 3 || T % 4 == 0)
                    run(rows, H, T, version);
        }
        free(rows);
    }
    float *rows = make_rows(1, 260, &seed); /* more than two blocks of version 3 */
    for (int version = 0; version <= KV_CUDA_ALPHA_VERSIONS; version++)
        run(rows, 1, 260, version);
    cuda_quiet();
}

static int judged_version;

/* Only alpha comes from a kernel; the other fields are functions of it. */
static int one_case(cJSON *out, const cJSON *in, const cJSON *parameters, kv_error *err)
{
    (void)parameters;
    int n, n_set, *shape = vec_ints(in, "shape", NULL), *set = vec_ints(in, "set", &n_set);
    int heads = shape[0] * shape[1], T = shape[3], n_eps = cJSON_GetArraySize(vec_item(in, "eps"));
    float *rows = vec_floats(in, "A", &n);
    size_t size = (size_t)heads * (size_t)T;
    double *host = malloc(size * 8), *share = malloc((size_t)(n_eps * T) * 8), mass[64];
    kv_fault *fault = cuda_fault();
    double *alpha = cuda_room(size * 8);
    int bad = kv_cuda_sink_alpha(alpha, cuda_copy(rows, (size_t)n * 4), heads, T, fault,
                                 T % 4 && judged_version == 3 ? 2 : judged_version, err);
    if (!bad)
        bad = kv_cuda_fault(fault, NULL, "rows", err);
    cuda_get(host, alpha, size * 8);
    const cJSON *level = vec_item(in, "eps")->child;
    for (int i = 0; i < n_eps; i++, level = level->next)
        kv_sink_share(share + i * T, host, heads, T, level->valuedouble);
    for (int i = 0; i < n_eps * T; i++)
        share[i] /= 100;
    for (int h = 0; h < heads; h++)
        mass[h] = kv_sink_mass(rows + (size_t)h * (size_t)(T * T), T, set, n_set);
    vec_add_doubles(out, "alpha", host, size);
    vec_add_doubles(out, "sink", share, (size_t)(n_eps * T));
    vec_add_doubles(out, "mass", mass, (size_t)heads);
    return bad;
}

Test(cuda_sinks, every_version_gives_what_the_oracle_says)
{
    for (judged_version = 1; judged_version <= KV_CUDA_ALPHA_VERSIONS; judged_version++)
        vec_judge_file("tests/vectors/sink_metric.json", one_case);
    cuda_quiet();
}

Test(cuda_sinks, names_the_weight_that_is_not_finite)
{
    kv_fault *fault = cuda_fault();
    uint64_t seed = 4;
    for (int version = 1; version <= KV_CUDA_ALPHA_VERSIONS; version++) {
        unsigned long long index = 0;
        float *rows = make_rows(2, 40, &seed);
        rows[1600 + 39 * 40 + 3] = rows[1600 + 17 * 40 + 17] = NAN;
        float *d = cuda_copy(rows, 3200 * 4);
        double *alpha = cuda_room(80 * 8);
        cr_assert_eq(kv_cuda_sink_alpha(alpha, d, 2, 40, fault, version, NULL), KV_OK);
        cr_expect_eq(kv_cuda_fault(fault, &index, "rows", NULL), KV_FAIL_RUN);
        cr_expect_eq(index, 1600 + 17 * 40 + 17, "k%02d: %llu", version, index);
        kv_cuda_free(d), kv_cuda_free(alpha), free(rows);
    }
    cuda_quiet();
}

Test(cuda_sinks, refuses_before_it_starts)
{
    kv_fault *fault = cuda_fault();
    double *alpha = cuda_room(64);
    float *rows = cuda_room(256);
    struct {
        double *alpha;
        const float *rows;
        int H, T, version;
        const char *word;
    } c[] = {
        {alpha, rows, -1, 4, 0, "heads is -1"},   {alpha, rows, 1, -4, 0, "tokens is -4"},
        {alpha, rows, 1, 6, 3, "multiple of 4"},  {alpha, rows, 1, 4, 4, "version 4"},
        {alpha, rows, 1, 1 << 24, 0, "2^46"},     {alpha, rows, 70000, 4, 0, "65535"},
        {NULL, rows, 1, 4, 0, "alpha is NULL"},   {alpha, rows + 1, 1, 4, 3, "aligned to 16"},
    };
    for (size_t i = 0; i < sizeof c / sizeof *c; i++) {
        kv_error e = {0};
        int code = kv_cuda_sink_alpha(c[i].alpha, c[i].rows, c[i].H, c[i].T, fault, c[i].version,
                                      &e);
        cr_expect_eq(code, KV_FAIL_USAGE);
        cr_expect(strstr(e.text, c[i].word), "%s: %s", c[i].word, e.text);
    }
    cr_expect_eq(kv_cuda_sink_alpha(NULL, NULL, 1, 0, fault, 0, NULL), KV_OK);
    cuda_quiet();
}
