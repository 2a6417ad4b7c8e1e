/* Softmax kernels against ref/, for each kind of sink, at awkward sizes, in several thread orders. */
#include "cuda_check.h"
#include "vectors.h"

static const double u = 0x1p-24;

static double g(double n)
{
    return n * u / (1 - n * u);
}

/* One shape: scores of H heads, n queries behind past tokens. */
typedef struct {
    int H, n, past;
    kv_softmax_kind kind;
    size_t rows, size;
    float *s, *sink, *p, *rest, *want, *want_rest;
} problem;

static problem make(int H, int n, int past, kv_softmax_kind kind, uint64_t *seed)
{
    problem x = {H, n, past, kind, (size_t)(H * n), (size_t)(H * n) * (size_t)(past + n),
                 0, 0, 0, 0, 0, 0};
    int T = past + n;
    x.s = check_floats(x.size), x.p = check_floats(x.size), x.want = check_floats(x.size);
    x.rest = check_floats(x.rows), x.want_rest = check_floats(x.rows);
    x.sink = check_floats((size_t)H);
    check_fill(x.s, x.size, seed);
    check_fill(x.sink, (size_t)H, seed);
    for (size_t r = 0; r < x.rows; r++) {
        x.s[r * (size_t)T + (size_t)(T / 2)] += 20; /* a sink that is not token 0 */
        for (int t = past + (int)r % n + 1; t < T; t++)
            x.s[r * (size_t)T + (size_t)t] = NAN; /* must not be looked at */
    }
    return x;
}

static void judge(problem *x)
{
    int T = x->past + x->n;
    for (size_t r = 0; r < x->rows; r++) {
        const float *s = x->s + r * (size_t)T;
        float *p = x->want + r * (size_t)T, *rest = x->want_rest + r;
        int visible = x->past + (int)(r % (size_t)x->n) + 1;
        *rest = 0;
        if (x->kind == KV_SOFTMAX_PLAIN)
            kv_softmax(p, s, visible, NULL);
        else
            kv_softmax_sink(p, rest, s, x->kind == KV_SOFTMAX_ONE ? 0 : x->sink[r / (size_t)x->n],
                            visible, NULL);
    }
}

/* The exponent s - max is rounded once: exp of it is off by a factor within exp(+-u |s - max|), at
 * most 104 u for what is not zero in float32. exp itself is good to two units in the last place
 * (4 u). The weight and the sum that divides it both feel that; the sum adds T + 1 numbers (g(T + 1)
 * in any order; versions that keep a running maximum rescale, one more rounding and one more exp for
 * each change of it, of which a thread sees at most T / 256 + 1), and the quotient rounds. */
static double relative(const problem *x)
{
    int T = x->past + x->n;
    return expm1(2 * 104 * u) + 2 * 4 * u + g(T + 1) + (T / 256 + 2) * 6 * u + 2 * u;
}

static void compare(const problem *x, const float *p, const float *rest, int version)
{
    double rel = relative(x);
    int T = x->past + x->n, bad = 0;
    for (size_t i = 0; i < x->size; i++)
        bad += !(fabs((double)p[i] - x->want[i]) <= rel * x->want[i] + 1e-37);
    for (size_t r = 0; r < x->rows; r++) {
        bad += !(fabs((double)rest[r] - x->want_rest[r]) <= rel * x->want_rest[r] + 1e-37);
        for (int t = x->past + (int)r % x->n + 1; t < T; t++)
            bad += p[r * (size_t)T + (size_t)t] != 0;
    }
    cr_expect_eq(bad, 0, "k%02d, kind %d, H %d n %d past %d: %d numbers are off", version, x->kind,
                 x->H, x->n, x->past, bad);
}

static void run(problem *x, int version)
{
    kv_error e = {0};
    kv_fault *fault = cuda_fault();
    float *s = cuda_copy(x->s, x->size * 4), *sink = cuda_copy(x->sink, (size_t)x->H * 4);
    float *p = cuda_room(x->size * 4), *rest = cuda_room(x->rows * 4);
    int bad = kv_cuda_softmax(p, rest, s, x->kind == KV_SOFTMAX_LEARNED ? sink : NULL, x->kind, x->H,
                              x->n, x->past, fault, version, &e);
    cr_assert_eq(bad, KV_OK, "%s", e.text);
    cuda_fine(fault);
    cuda_get(x->p, p, x->size * 4);
    cuda_get(x->rest, rest, x->rows * 4);
    compare(x, x->p, x->rest, version);
    kv_cuda_free(s), kv_cuda_free(sink), kv_cuda_free(p), kv_cuda_free(rest), kv_cuda_free(fault);
}

Test(cuda_softmax, every_version_agrees_with_ref)
{
    static const int shapes[][3] = {{1, 1, 0},  {1, 1, 30}, {2, 1, 31}, {1, 1, 32}, {2, 5, 0},
                                    {3, 4, 33}, {1, 2, 255}, {1, 1, 256}, {1, 2, 1008}};
    uint64_t seed = 1;
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (int kind = 0; kind < 3; kind++) {
            problem x = make(shapes[i][0], shapes[i][1], shapes[i][2], (kv_softmax_kind)kind, &seed);
            judge(&x);
            for (int order = 0; order < CUDA_ORDERS; order++) {
                cuda_order(order);
                for (int version = 0; version <= KV_CUDA_SOFTMAX_VERSIONS; version++)
                    run(&x, version);
            }
        }
    cuda_quiet();
}

static int judged_version;

static int one_case(cJSON *out, const cJSON *in, const cJSON *parameters, kv_error *err)
{
    (void)parameters;
    int n;
    const char *kind = vec_text(in, "kind");
    kv_softmax_kind k = !strcmp(kind, "softmax")    ? KV_SOFTMAX_PLAIN
                        : !strcmp(kind, "softmax1") ? KV_SOFTMAX_ONE
                                                    : KV_SOFTMAX_LEARNED;
    float *s = vec_floats(in, "logits", &n), logit = 0;
    if (k == KV_SOFTMAX_LEARNED)
        logit = (float)vec_number(vec_item(in, "sink"));
    kv_fault *fault = cuda_fault();
    float *d = cuda_copy(s, (size_t)n * 4), *sink = cuda_copy(&logit, 4);
    int bad = kv_cuda_softmax(d, NULL, d, k == KV_SOFTMAX_LEARNED ? sink : NULL, k, 1, 1, n - 1,
                              fault, judged_version, err);
    if (!bad)
        bad = kv_cuda_fault(fault, NULL, "scores", err);
    cuda_get(s, d, (size_t)n * 4);
    vec_add_floats(out, "p", s, (size_t)n);
    return bad;
}

Test(cuda_softmax, every_version_gives_what_the_oracle_says)
{
    for (judged_version = 1; judged_version <= KV_CUDA_SOFTMAX_VERSIONS; judged_version++)
        vec_judge_file("tests/vectors/softmax.json", one_case);
    cuda_quiet();
}

Test(cuda_softmax, rows_longer_than_registers_hold)
{
    uint64_t seed = 2;
    problem x = make(1, 1, 5000, KV_SOFTMAX_LEARNED, &seed);
    judge(&x);
    run(&x, 0);
    run(&x, 4);
    cuda_quiet();
}

Test(cuda_softmax, survives_huge_scores_and_works_in_place)
{
    float s[3] = {3e38f, 3e38f, -3e38f};
    kv_fault *fault = cuda_fault();
    for (int version = 1; version <= KV_CUDA_SOFTMAX_VERSIONS; version++) {
        float p[3], *d = cuda_copy(s, sizeof s);
        cr_assert_eq(kv_cuda_softmax(d, NULL, d, NULL, KV_SOFTMAX_PLAIN, 1, 1, 2, fault, version,
                                     NULL), KV_OK);
        cuda_fine(fault);
        cuda_get(p, d, sizeof p);
        cr_expect(p[0] == 0.5f && p[1] == 0.5f && p[2] == 0, "k%02d: %g %g %g", version, p[0], p[1],
                  p[2]);
        kv_cuda_free(d);
    }
    cuda_quiet();
}

Test(cuda_softmax, names_the_element_that_is_not_finite)
{
    float bad[3] = {NAN, INFINITY, -INFINITY};
    kv_fault *fault = cuda_fault();
    for (int version = 1; version <= KV_CUDA_SOFTMAX_VERSIONS; version++)
        for (int i = 0; i < 4; i++) {
            float s[80] = {0}, sink[2] = {0, i == 3 ? NAN : 0};
            unsigned long long index = 0, want = i == 3 ? 81 : 47;
            kv_error e = {0};
            if (i < 3)
                s[47] = s[66] = bad[i];
            float *d = cuda_copy(s, sizeof s), *l = cuda_copy(sink, sizeof sink);
            cr_assert_eq(kv_cuda_softmax(d, NULL, d, l, KV_SOFTMAX_LEARNED, 2, 1, 39, fault, version,
                                         NULL), KV_OK);
            cr_expect_eq(kv_cuda_fault(fault, &index, "scores", &e), KV_FAIL_RUN);
            cr_expect_eq(index, want, "k%02d: %llu, not %llu", version, index, want);
            cr_expect(strstr(e.text, "scores: element"), "%s", e.text);
            cuda_fine(fault); /* told once */
            kv_cuda_free(d), kv_cuda_free(l);
        }
    cuda_quiet();
}

Test(cuda_softmax, refuses_before_it_starts)
{
    kv_fault *fault = cuda_fault();
    float x[4] = {0}, *d = cuda_copy(x, sizeof x);
    float *odd = (float *)((char *)d + 2);
    struct {
        float *p;
        const float *sink;
        kv_softmax_kind kind;
        int H, n, past, version;
        const char *word;
    } c[] = {
        {d, NULL, KV_SOFTMAX_PLAIN, -1, 1, 0, 0, "heads is -1"},
        {d, NULL, KV_SOFTMAX_PLAIN, 1, -2, 0, 0, "queries is -2"},
        {d, NULL, KV_SOFTMAX_PLAIN, 1, 1, -3, 0, "past tokens is -3"},
        {d, NULL, KV_SOFTMAX_PLAIN, 1, 1, 0, 9, "version 9"},
        {d, NULL, KV_SOFTMAX_PLAIN, 1, 1, 0, -1, "version -1"},
        {d, NULL, KV_SOFTMAX_PLAIN, 1, 1, 5000, 3, "version 3 keeps"},
        {d, NULL, KV_SOFTMAX_PLAIN, 1, INT32_MAX, INT32_MAX, 0, "2^46"},
        {d, NULL, KV_SOFTMAX_PLAIN, 1, 1, INT32_MAX, 0, "at most"},
        {d, NULL, KV_SOFTMAX_PLAIN, 1 << 16, 1 << 15, 0, 0, "at most"},
        {d, NULL, KV_SOFTMAX_LEARNED, 1, 1, 0, 0, "sink logits"},
        {d, d, KV_SOFTMAX_PLAIN, 1, 1, 0, 0, "sink logits"},
        {NULL, NULL, KV_SOFTMAX_PLAIN, 1, 1, 0, 0, "p is NULL"},
        {odd, NULL, KV_SOFTMAX_PLAIN, 1, 1, 0, 0, "aligned"},
    };
    for (size_t i = 0; i < sizeof c / sizeof *c; i++) {
        kv_error e = {0};
        int code = kv_cuda_softmax(c[i].p, NULL, d, c[i].sink, c[i].kind, c[i].H, c[i].n, c[i].past,
                                   fault, c[i].version, &e);
        cr_expect_eq(code, KV_FAIL_USAGE);
        cr_expect_eq(e.code, KV_FAIL_USAGE);
        cr_expect(strstr(e.text, c[i].word), "%s: %s", c[i].word, e.text);
    }
    cr_expect_eq(kv_cuda_softmax(NULL, NULL, NULL, NULL, KV_SOFTMAX_PLAIN, 0, 1, 0, fault, 0, NULL),
                 KV_OK);
    cuda_quiet();
}
