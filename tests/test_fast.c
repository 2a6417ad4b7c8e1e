/* The fast backend against the scalar one, within bounds derived from the number of roundings
 * (bounds.h). */
#include "bounds.h"
#include "fast.h"
#include "kernels.h"

static tm_fast *open_fast(int threads, int version)
{
    tm_fast *f;
    kv_error err;
    cr_assert_eq(tm_fast_open(&f, threads, &err), KV_OK, "%s", err.text);
    cr_assert(tm_fast_choose(f, version));
    return f;
}

static int versions(void)
{
    int n = 0;
    while (tm_kernels_at(n))
        n++;
    return n;
}

/* ------------------------------------------------------------ exponentials */

Test(fast, exp_is_good_to_two_units)
{
    for (int i = 0; i < versions(); i++) {
        const tm_kernels *k = tm_kernels_at(i);
        double worst = 0;
        for (double x = -87.3; x <= 0; x += 1.7e-4) {
            float p[1] = {(float)x}, max = 0;
            k->exp_row(p, &max, 1);
            double want = exp((double)(float)x);
            worst = fmax(worst, fabs(p[0] - want) / ldexp(1, ilogb(want) - 23));
        }
        cr_expect(worst <= 2, "%s: %g units in the last place", k->name, worst);
    }
}

Test(fast, exp_row_edges)
{
    for (int i = 0; i < versions(); i++) {
        const tm_kernels *k = tm_kernels_at(i);
        for (int n = 1; n <= 40; n++) { /* whole vectors and what is left over */
            float p[40], max = -3e38f;
            for (int j = 0; j < n; j++)
                p[j] = j == n / 2 ? 1000 : -1000;
            float sum = k->exp_row(p, &max, n);
            cr_expect(sum == 1 && max == 1000 && p[n / 2] == 1);
            for (int j = 0; j < n; j++)
                cr_expect(j == n / 2 || p[j] == 0);
            for (int bad = 0; bad < 3; bad++) {
                const float what[3] = {NAN, INFINITY, -INFINITY};
                for (int j = 0; j < n; j++)
                    p[j] = (float)j;
                p[n - 1] = what[bad];
                max = 0;
                cr_expect(isnan(k->exp_row(p, &max, n)), "%s: %g of %d", k->name, what[bad], n);
            }
        }
    }
}

/* -------------------------------------------------------- matrix products */

static const int shapes[][3] = {
    /* n, rows, cols */
    {1, 1, 1}, {1, 31, 33}, {2, 5, 64}, {7, 33, 31}, {8, 192, 97}, {9, 1, 130}, {31, 193, 32},
    {32, 64, 576}, {33, 37, 577}, {129, 200, 65}, {257, 385, 12},
};

#define SHAPES ((int)(sizeof shapes / sizeof *shapes))

Test(fast, matmul_within_bound)
{
    uint64_t seed = 1;
    for (int i = 0; i < SHAPES * versions(); i++) {
        int n = shapes[i % SHAPES][0], rows = shapes[i % SHAPES][1], cols = shapes[i % SHAPES][2];
        float *x = check_floats((size_t)(n * cols)), *w = check_floats((size_t)(rows * cols));
        float *y = check_floats((size_t)(n * rows));
        kv_matrix m = {rows, cols, w};
        check_keys(x, n, cols, &seed); /* with an outlier channel */
        check_fill(w, (size_t)(rows * cols), &seed);
        tm_fast *f = open_fast(2, i / SHAPES);
        const kv_backend *b = tm_fast_backend(f);
        b->matmul(b->self, y, x, &m, n);
        int bad = 0;
        for (int t = 0; t < n; t++)
            for (int r = 0; r < rows; r++) {
                double sum = 0, size = 0;
                for (int c = 0; c < cols; c++) {
                    double product = (double)x[t * cols + c] * w[r * cols + c];
                    sum += product;
                    size += fabs(product);
                }
                bad += !(fabs(y[t * rows + r] - sum) <= g(cols + 1) * size);
            }
        cr_expect(!bad, "%s n %d rows %d cols %d: %d outside", tm_fast_simd(f), n, rows, cols, bad);
        tm_fast_close(f);
        free(x), free(w), free(y);
    }
}

Test(fast, few_rows_are_as_if_alone)
{
    uint64_t seed = 2;
    int n = 8, rows = 131, cols = 77;
    float *x = check_floats((size_t)(n * cols)), *w = check_floats((size_t)(rows * cols));
    float *all = check_floats((size_t)(n * rows)), *one = check_floats((size_t)rows);
    kv_matrix m = {rows, cols, w};
    check_fill(x, (size_t)(n * cols), &seed);
    check_fill(w, (size_t)(rows * cols), &seed);
    for (int v = 0; v < versions(); v++) {
        tm_fast *f = open_fast(2, v);
        const kv_backend *b = tm_fast_backend(f);
        b->matmul(b->self, all, x, &m, n);
        for (int t = 0; t < n; t++) {
            b->matmul(b->self, one, x + t * cols, &m, 1);
            cr_expect(check_same(all + t * rows, one, (size_t)rows), "row %d", t);
        }
        tm_fast_close(f);
    }
    free(x), free(w), free(all), free(one);
}

/* ------------------------------------------------------ products of blocks */

/* Types, and where in a block the binary16 scales stand (-1: none). */
static const struct { int type, half[2]; } block_types[] = {
    {GGUF_Q4_0, {0, -1}},  {GGUF_Q4_1, {0, 2}},    {GGUF_Q5_0, {0, -1}}, {GGUF_Q5_1, {0, 2}},
    {GGUF_Q8_0, {0, -1}},  {GGUF_Q2_K, {80, 82}},  {GGUF_Q3_K, {108, -1}}, {GGUF_Q4_K, {0, 2}},
    {GGUF_Q5_K, {0, 2}},   {GGUF_Q6_K, {208, -1}}, {GGUF_F16, {0, -1}},  {GGUF_BF16, {0, -1}},
    {GGUF_F32, {0, -1}},
};

#define BLOCK_TYPES ((int)(sizeof block_types / sizeof *block_types))

/* Random bytes, with scales between 2^-7 and 2, both signs. */
static gguf_tensor make_tensor(int type, const int *half, int rows, int cols, uint64_t *seed)
{
    size_t each = gguf_block_elements(type), size = gguf_block_bytes(type);
    size_t blocks = (size_t)rows * (size_t)cols / each;
    unsigned char *data = malloc(blocks * size);
    for (size_t i = 0; i < blocks * size; i++)
        data[i] = (unsigned char)check_next(seed);
    for (size_t b = 0; b < blocks; b++)
        for (int i = 0; i < 2 && half[i] >= 0; i++) {
            int bits = (0x2000 + check_below(seed, 0x2000)) | check_below(seed, 2) << 15;
            uint16_t h = (uint16_t)bits;
            unsigned char *at = data + b * size + half[i] + (type == GGUF_F32 ? 2 : 0);
            memcpy(at, &h, sizeof h);
        }
    gguf_tensor t = {"w", type, 2, {(size_t)cols, (size_t)rows, 1, 1}, (size_t)rows * (size_t)cols,
                     blocks * size, data, "a test"};
    return t;
}

static void check_blocks(int which, int rows, int cols, int version, uint64_t *seed)
{
    enum { N = 4 };
    gguf_tensor t = make_tensor(block_types[which].type, block_types[which].half, rows, cols, seed);
    float *w = check_floats(t.elements), *x = check_floats(N * (size_t)cols);
    float *want = check_floats(N * (size_t)rows), *got = check_floats(N * (size_t)rows);
    kv_matrix m = {rows, cols, w};
    cr_assert_eq(gguf_dequantize(w, &t, 0, t.elements, NULL), KV_OK);
    check_keys(x, N, cols, seed);
    for (int threads = 1; threads <= 3; threads += 2) {
        tm_fast *f = open_fast(threads, version);
        const kv_backend *b = tm_fast_backend(f);
        for (int n = 1; n <= N; n++) {
            b->matmul(b->self, want, x, &m, n);
            cr_assert_eq(tm_fast_know(f, w - 1, &t, NULL), KV_OK); /* neighbours to be told apart */
            cr_assert_eq(tm_fast_know(f, w + 1, &t, NULL), KV_OK);
            cr_assert_eq(tm_fast_know(f, w, &t, NULL), KV_OK);
            float first = w[0];
            if (n == 1 && t.type != GGUF_F32 && tm_kernels_at(version)->gemv4)
                w[0] = NAN; /* nobody looks here */
            memset(got, 0, N * (size_t)rows * sizeof *got);
            b->matmul(b->self, got, x, &m, n);
            w[0] = first;
            cr_expect(check_same(got, want, (size_t)(n * rows)), "%s, %s, %d x %d, %d rows",
                      tm_fast_simd(f), gguf_type_name(t.type), rows, cols, n);
            tm_fast_forget(f);
        }
        tm_fast_close(f);
    }
    free((void *)t.data), free(w), free(x), free(want), free(got);
}

Test(fast, blocks_give_the_bits_of_float32)
{
    uint64_t seed = 12;
    for (int v = 0; v < versions(); v++)
        for (int i = 0; i < BLOCK_TYPES; i++) {
            int each = (int)gguf_block_elements(block_types[i].type);
            int unit = each < 64 ? 64 : each;
            check_blocks(i, 1, unit, v, &seed);
            check_blocks(i, 37, 3 * unit, v, &seed);
            check_blocks(i, 385, 2 * 256, v, &seed); /* several stripes */
        }
}

Test(fast, blocks_that_do_not_fit_are_left_alone)
{
    const int half[2] = {0, -1};
    uint64_t seed = 13;
    gguf_tensor t = make_tensor(GGUF_Q8_0, half, 4, 96, &seed); /* not a multiple of 64 */
    float *w = check_floats(t.elements), x[96] = {0}, y[8], want[8] = {0};
    cr_assert_eq(gguf_dequantize(w, &t, 0, t.elements, NULL), KV_OK);
    check_fill(x, 96, &seed);
    for (int v = 0; v < versions(); v++) {
        tm_fast *f = open_fast(1, v);
        const kv_backend *b = tm_fast_backend(f);
        kv_matrix m = {4, 96, w}, half_of_it = {8, 48, w}; /* another shape at the same place */
        for (int i = 0; i < 2; i++) {
            const kv_matrix *a = i ? &half_of_it : &m;
            b->matmul(b->self, want, x, a, 1);
            cr_assert_eq(tm_fast_know(f, w, &t, NULL), KV_OK);
            b->matmul(b->self, y, x, a, 1);
            cr_expect(check_same(y, want, (size_t)a->rows));
            tm_fast_forget(f);
        }
        tm_fast_close(f);
    }
    free((void *)t.data), free(w);
}

/* ------------------------------------------------- norm and feed-forward */

Test(fast, swiglu_within_bound)
{
    uint64_t seed = 3;
    enum { N = 20011 };
    float *gate = check_floats(N), *up = check_floats(N), *y = check_floats(N);
    check_fill(gate, N, &seed);
    check_fill(up, N, &seed);
    for (int i = 0; i < N; i++)
        gate[i] *= i % 5 ? 4.0f : 60.0f; /* far into both tails */
    gate[0] = -3e38f, gate[1] = 3e4f, gate[2] = 0, gate[3] = -88, gate[4] = -104;
    for (int v = 0; v < versions(); v++) {
        tm_fast *f = open_fast(2, v);
        const kv_backend *b = tm_fast_backend(f);
        b->swiglu(b->self, y, gate, up, N);
        for (int i = 0; i < N; i++) {
            double want = gate[i] / (1 + exp(-(double)gate[i])) * up[i];
            /* 4 u of exp, three operations, and what e^88.3 instead of more leaves: the quotient
             * is below |gate| e^-88.3 there */
            double bound = 7.01 * u * fabs(want) + fabs((double)gate[i] * up[i]) * 5e-39;
            cr_expect(fabs(y[i] - want) <= bound, "%s: silu(%g) * %g = %g, not %g", tm_fast_simd(f),
                      gate[i], up[i], y[i], want);
        }
        tm_fast_close(f);
    }
    free(gate), free(up), free(y);
}

Test(fast, rmsnorm_within_bound)
{
    uint64_t seed = 4;
    for (int i = 0; i < CHECK_SIZES; i++)
        for (int v = 0; v < versions(); v++) {
            int C = check_sizes[i], n = 7;
            float *x = check_floats((size_t)(n * C)), *gain = check_floats((size_t)C);
            float *y = check_floats((size_t)(n * C)), *want = check_floats((size_t)(n * C));
            check_keys(x, n, C, &seed);
            check_fill(gain, (size_t)C, &seed);
            for (int c = 0; c < C; c++)
                x[2 * C + c] *= 1e22f; /* squares overflow float */
            tm_fast *f = open_fast(2, v);
            const kv_backend *b = tm_fast_backend(f);
            b->rmsnorm(b->self, y, x, gain, 1e-5, C, n);
            for (int t = 0; t < n; t++)
                kv_rmsnorm(want + t * C, x + t * C, gain, 1e-5, C);
            for (int j = 0; j < n * C; j++) /* half the sum's error (the root), and 4 operations */
                cr_expect(fabs((double)y[j] - want[j]) <= (g(C) / 2 + 5 * u) * fabs(want[j]));
            tm_fast_close(f);
            free(x), free(gain), free(y), free(want);
        }
}

/* -------------------------------------------------------------- attention */

static problem make_problem(kv_shape s, int past, int n, uint64_t *seed)
{
    size_t T = (size_t)(past + n), D = (size_t)s.head_size, H = (size_t)s.heads;
    problem p = {s, past, n, check_floats((size_t)n * H * D),
                 check_floats(T * (size_t)s.kv_heads * D), check_floats(T * (size_t)s.kv_heads * D),
                 check_floats((size_t)n * H * D), check_floats(H * (size_t)n * T), check_floats(H),
                 NULL, NULL};
    check_fill(p.q, (size_t)n * H * D, seed);
    check_keys(p.k, past + n, s.kv_heads * s.head_size, seed);
    check_keys(p.v, past + n, s.kv_heads * s.head_size, seed);
    check_fill(p.sink, H, seed);
    return p;
}

static void free_problem(problem *p)
{
    free(p->q), free(p->k), free(p->v), free(p->out), free(p->rows), free(p->sink);
    free(p->k_size), free(p->v_size);
}

static void check_attention(kv_shape s, int past, int n, int with, int version, uint64_t *seed)
{
    problem p = make_problem(s, past, n, seed);
    int T = past + n, D = s.head_size;
    float *out = check_floats((size_t)(n * s.heads * D)), *scratch = check_floats((size_t)T);
    float *rows = check_floats((size_t)s.heads * (size_t)n * (size_t)T);
    tm_fast *f = open_fast(2, version);
    const kv_backend *b = tm_fast_backend(f);
    kv_error err;
    float *sink = with & 1 ? p.sink : NULL;
    cr_assert_eq(b->attention(b->self, p.out, with & 2 ? p.rows : NULL, p.q, p.k, p.v, sink, s,
                              past, n, &err), KV_OK, "%s", err.text);
    kv_attention(out, rows, p.q, p.k, p.v, sink, s, past, n, scratch, NULL);
    int bad = 0;
    for (int i = 0; i < n; i++)
        for (int h = 0; h < s.heads; h++) {
            size_t at = ((size_t)h * (size_t)n + (size_t)i) * (size_t)T;
            int o = (i * s.heads + h) * D;
            bad += outside(&p, p.out + o, with & 2 ? p.rows + at : NULL, out + o, rows + at, i, h,
                           0);
        }
    cr_expect(!bad, "%s H %d Hk %d D %d past %d n %d: %d outside", tm_fast_simd(f), s.heads,
              s.kv_heads, D, past, n, bad);
    tm_fast_close(f);
    free_problem(&p);
    free(out), free(scratch), free(rows);
}

Test(fast, attention_within_bound)
{
    const kv_shape s[] = {{2, 2, 8}, {4, 2, 64}, {9, 3, 16}, {4, 1, 10}, {7, 1, 32}};
    const int sizes[][2] = {{0, 1}, {0, 31}, {0, 33}, {0, 64}, {5, 65}, {0, 129}, {37, 1},
                            {31, 32}};
    uint64_t seed = 5;
    for (int i = 0; i < 5; i++)
        for (int j = 0; j < 8; j++)
            check_attention(s[i], sizes[j][0], sizes[j][1], (i + j) % 4,
                            (i * 8 + j) % versions(), &seed);
}

Test(fast, attention_refuses_what_is_not_finite)
{
    const float bad[] = {NAN, INFINITY, 3e38f};
    for (int i = 0; i < 3; i++) {
        kv_shape s = {2, 1, 8};
        uint64_t seed = 6;
        problem p = make_problem(s, 0, 70, &seed);
        tm_fast *f = open_fast(2, versions() - 1);
        const kv_backend *b = tm_fast_backend(f);
        kv_error err;
        p.k[3 * 8 + 2] = bad[i];
        for (int h = 0; h < 140; h++)
            p.q[h * 8 + 2] = -8;
        cr_expect_eq(b->attention(b->self, p.out, NULL, p.q, p.k, p.v, NULL, s, 0, 70, &err),
                     KV_FAIL_RUN);
        cr_expect(strstr(err.text, "not finite"));
        p.sink[1] = NAN;
        cr_expect_eq(b->attention(b->self, p.out, NULL, p.q, p.k, p.v, p.sink, s, 0, 1, &err),
                     KV_FAIL_RUN);
        tm_fast_close(f);
        free_problem(&p);
    }
}

/* ----------------------------------------------------------------- decode */

typedef struct {
    kv_cache c;
    void *memory;
} filled;

static filled fill_cache(const char *keys, const char *values, kv_shape s, const kv_rope *rope,
                         int recent, int T, int seal, uint64_t *seed)
{
    kv_cache_spec spec = {.layers = 1, .shape = s, .recent = recent, .capacity = T + 3,
                          .kept_capacity = 4, .rope = *rope, .window = seal};
    static float lo[256], hi[256];
    int kept[] = {0, T / 2, T / 2 + 1, T - 1}, row = s.kv_heads * s.head_size;
    filled f;
    for (int i = 0; i < row; i++) {
        lo[i] = -2;
        hi[i] = 2 + (float)i / 64;
    }
    spec.key_limits = spec.value_limits = (kv_limits){lo, hi};
    kv_error err;
    cr_assert_eq(kv_format_parse(&spec.keys, keys, &err), KV_OK, "%s", err.text);
    cr_assert_eq(kv_format_parse(&spec.values, values, &err), KV_OK, "%s", err.text);
    f.memory = malloc(kv_cache_size(&spec));
    cr_assert_eq(kv_cache_init(&f.c, &spec, f.memory, &err), KV_OK, "%s", err.text);
    float *k = check_floats((size_t)(T * row)), *v = check_floats((size_t)(T * row));
    check_keys(k, T, row, seed);
    check_keys(v, T, row, seed);
    cr_assert_eq(kv_cache_append(&f.c, 0, k, v, kept, T > 3 ? 4 : 0, T, &err), KV_OK, "%s",
                 err.text);
    if (seal)
        kv_cache_seal(&f.c, 0, NULL);
    free(k), free(v);
    return f;
}

/* What bounds.h calls k_size or v_size, of numbers x that came out of a cache. */
static float *sizes_of(const kv_cache *c, int values, const float *x)
{
    const kv_cache_layer *cl = &c->layer[0];
    const kv_store *st = values ? &cl->v : &cl->k;
    const kv_format *f = &st->format;
    int row = st->shape.kv_heads * st->shape.head_size;
    kv_grouping g = kv_group_layout(f, st->shape, st->capacity);
    float *size = check_floats((size_t)(st->tokens * row));
    for (int i = 0; i < st->tokens * row; i++) {
        int t = i / row, at = kv_positions_before(cl->position, cl->n_kept, t);
        size[i] = fabsf(x[i]);
        if (f->kind != KV_INT || t >= st->quantized ||
            (at < cl->n_kept && cl->position[at] == t))
            continue;
        int group = f->axis == KV_PER_TOKEN ? t * g.across + i % row / g.length
                                            : t / g.length * g.across + i % row;
        float zero = (float)-(1 << (f->bits - 1)) * kv_half_to_float(st->scale[group]);
        float m = f->symmetric ? zero : kv_half_to_float(st->min[group]);
        size[i] = fabsf(x[i] - m) + fabsf(m);
    }
    return size;
}

static void check_decode(const char *keys, const char *values, kv_shape s, const kv_rope *rope,
                         int recent, int T, int seal, int with, int version, uint64_t *seed)
{
    filled a = fill_cache(keys, values, s, rope, recent, T, seal, seed);
    int D = s.head_size, row = s.kv_heads * D, shift = 5;
    problem p = make_problem(s, T - 1, 1, seed);
    kv_cache_read(p.k, &a.c, 0, 0, 0, T);
    kv_cache_read(p.v, &a.c, 0, 1, 0, T);
    p.k_size = a.c.spec.keys.pre ? NULL : sizes_of(&a.c, 0, p.k);
    p.v_size = sizes_of(&a.c, 1, p.v);
    double extra = 0, largest = 0, q = 0;
    if (a.c.spec.keys.pre) { /* rotated in float: three roundings of products with both of a pair */
        for (int i = 0; i < T * row; i++)
            largest = fmax(largest, fabs(p.k[i]));
        for (int i = 0; i < s.heads * D; i++)
            q = fmax(q, fabs(p.q[i]));
        extra = g(3) * 2 * largest * q * D / sqrt(D);
        for (int t = 0; t < T; t++) {
            float cs[KV_HEAD_MAX];
            kv_rope_angles(cs, rope, t + shift);
            kv_rope_rotate(p.k + t * row, cs, rope, s.kv_heads, D);
        }
    }
    float *out = check_floats((size_t)(s.heads * D)), *scratch = check_floats((size_t)(T + D));
    float *rows = check_floats((size_t)(s.heads * T));
    tm_fast *f = open_fast(2, version);
    kv_error err;
    float *sink = with & 1 ? p.sink : NULL, *got_rows = with & 2 ? p.rows : NULL;
    cr_assert_eq(kv_decode(out, rows, p.q, &a.c, 0, sink, shift, scratch, &err), KV_OK, "%s",
                 err.text);
    cr_assert_eq(tm_fast_decode(f, p.out, got_rows, p.q, &a.c, 0, sink, shift, &err), KV_OK, "%s",
                 err.text);
    int bad = 0;
    for (int h = 0; h < s.heads; h++)
        bad += outside(&p, p.out + h * D, got_rows ? got_rows + h * T : NULL, out + h * D,
                       rows + h * T, 0, h, extra);
    cr_expect(!bad, "%s: %s %s R %d T %d D %d: %d outside", tm_fast_simd(f), keys, values, recent,
              T, D, bad);
    tm_fast_close(f);
    free(a.memory), free_problem(&p);
    free(out), free(scratch), free(rows);
}

static const char *const formats[][2] = {
    {"f16", "f16"},           {"bf16", "f32"},            {"f32", "bf16"},
    {"2:channel:32", "2:token:8"}, {"4:channel:128", "4:token:all"}, {"3:channel:20", "3:token:4"},
    {"8:channel:7:sym", "8:token:8:sym"}, {"2:token:8", "2:channel:16"},
    {"3:token:all:sym", "3:channel:70:sym"}, {"2:channel:64:pre", "2:token:2"},
    {"4:token:8:pre", "4:channel:1"}, {"f16:pre", "2:token:all"},
    {"2:channel:128", "2:token:all"}, {"4:channel:32:sym", "4:token:all:sym"},
};

Test(fast, decode_within_bound)
{
    const kv_shape s[] = {{2, 2, 8}, {4, 2, 16}, {9, 3, 64}, {4, 1, 24}, {7, 1, 8}};
    const int recents[] = {0, 1, 16, 300};
    uint64_t seed = 7;
    int count = 0;
    for (int i = 0; i < (int)(sizeof formats / sizeof *formats); i++)
        for (int j = 0; j < CHECK_SIZES + 1; j++, count++) {
            kv_shape shape = s[count % 5];
            int T = j < CHECK_SIZES ? check_sizes[j] : 613;
            kv_rope rope = {count % 3 ? shape.head_size : shape.head_size / 2, count % 2, 100, 0.5,
                            NULL};
            check_decode(formats[i][0], formats[i][1], shape, &rope, recents[count % 4], T, 0,
                         count % 4, count / 4 % versions(), &seed);
        }
}

/* Head sizes and groups for which codes are used as they are, and one step beside them: more heads
 * than one kernel takes, parts of a head, a group over several heads, runs that end in the middle
 * of a word or of a span. */
Test(fast, decode_straight_from_codes)
{
    static const char *const direct[][2] = {
        {"2:channel:128", "2:token:all"}, {"4:channel:128", "4:token:64"},
        {"2:channel:32:sym", "2:token:16:sym"}, {"4:channel:48:sym", "4:token:32:sym"},
        {"2:channel:16", "4:token:8"}, {"4:channel:24", "2:token:32"},
        {"2:channel:300", "3:token:all"}, {"3:channel:64", "3:token:32:sym"},
        {"8:channel:128", "8:token:64"}, {"8:channel:96:sym", "8:token:all:sym"},
        {"3:channel:40", "8:token:32"},
    };
    const kv_shape s[] = {{9, 3, 64}, {5, 1, 64}, {4, 4, 64}, {22, 2, 64}, {3, 1, 192}};
    const int tokens[] = {129, 256, 257, 613}, recents[] = {0, 1, 128};
    uint64_t seed = 14;
    kv_rope none = {2, 1, 100, 1, NULL};
    int count = 0;
    for (int i = 0; i < (int)(sizeof direct / sizeof *direct); i++)
        for (int j = 0; j < 5; j++)
            for (int v = 0; v < versions(); v++, count++)
                check_decode(direct[i][0], direct[i][1], s[j], &none, recents[count % 3],
                             tokens[count % 4], 0, count % 4, v, &seed);
    for (int v = 0; v < versions(); v++)
        check_decode("2:channel:all", "4:token:all", s[0], &none, 0, 304, 1, 3, v, &seed);
}

/* Formats that the fast loops do not know are read as ref/ reads them; the sums are the same. */
Test(fast, decode_of_every_other_format)
{
    static const char *const more[][2] = {
        {"nf4:channel:32", "e4m3:token:all"}, {"q4_0", "q8_0"}, {"q5_1:pre", "q4_1:had"},
        {"2:channel:16:had:norm", "2:token:8:had"}, {"4:channel:64:kivi", "4:token:8:kivi"},
        {"2:token:8:static", "3:channel:20:static"}, {"2:channel:32:out0", "2:token:8:out10"}};
    const int recents[] = {0, 64, 128};
    uint64_t seed = 17;
    int count = 0;
    for (int i = 0; i < (int)(sizeof more / sizeof *more); i++)
        for (int j = 0; j < CHECK_SIZES + 1; j++, count++) {
            kv_shape shape = count % 2 ? (kv_shape){9, 3, 64} : (kv_shape){4, 2, 16};
            int T = j < CHECK_SIZES ? check_sizes[j] : 201;
            kv_rope rope = {shape.head_size, count % 2, 100, 0.5, NULL};
            check_decode(more[i][0], more[i][1], shape, &rope, recents[count % 3], T, 0, count % 4,
                         count / 4 % versions(), &seed);
        }
}

Test(fast, decode_of_a_sealed_cache)
{
    uint64_t seed = 8;
    kv_rope rope = {16, 1, 100, 1, NULL};
    for (int v = 0; v < versions(); v++) {
        check_decode("2:channel:all", "2:channel:all:sym", (kv_shape){6, 2, 16}, &rope, 0, 131, 1,
                     1, v, &seed);
        check_decode("3:channel:128:pre", "4:token:16", (kv_shape){6, 2, 16}, &rope, 0, 131, 1, 2,
                     v, &seed);
        check_decode("2:channel:32:out3", "nf4:channel:all", (kv_shape){6, 2, 16}, &rope, 0, 131, 1,
                     1, v, &seed);
    }
}

Test(fast, decode_of_nothing_gives_nothing)
{
    kv_rope rope = {8, 1, 100, 1, NULL};
    uint64_t seed = 9;
    filled a = fill_cache("2:channel:32", "f16", (kv_shape){2, 1, 8}, &rope, 0, 1, 0, &seed);
    a.c.layer[0].k.tokens = a.c.layer[0].v.tokens = 0;
    float q[16] = {1}, out[16] = {1, 2, 3}, zero[16] = {0};
    tm_fast *f = open_fast(1, 0);
    cr_expect_eq(tm_fast_decode(f, out, NULL, q, &a.c, 0, NULL, 0, NULL), KV_OK);
    cr_expect(check_same(out, zero, 16));
    tm_fast_close(f);
    free(a.memory);
}

/* ------------------------------------------------------------ exact loops */

Test(fast, exact_loops_agree_with_ref_to_the_bit)
{
    uint64_t seed = 10;
    for (int v = 0; v < versions(); v++) {
        const tm_kernels *k = tm_kernels_at(v);
        int bad = 0;
        for (int h = 0; h < 65536; h++) {
            uint16_t half = (uint16_t)h;
            float y, want = kv_half_to_float(half), rounded;
            k->widen_half(&y, &half, 1);
            bad += isfinite(want) && !check_same(&y, &want, 1);
            want = kv_bf16_to_float(half);
            k->widen_bf16(&y, &half, 1);
            bad += !isnan(want) && !check_same(&y, &want, 1);
            float x = kv_half_to_float(half) * (1 + (float)(h % 7) * 0x1p-13f); /* ties, too */
            want = kv_half_to_float(kv_half_from_float(x));
            int refused = k->round_half(&rounded, &x, 1);
            bad += refused != !(fabsf(x) < 65520) || (!refused && !check_same(&rounded, &want, 1));
        }
        cr_expect(!bad, "%s: %d of 65536", k->name, bad);
        for (int i = 0; i < 4000; i++) {
            const int all[] = {2, 3, 4, 8};
            int bits = all[i % 4], n = 1 + check_below(&seed, 70), first = check_below(&seed, 50);
            int symmetric = i / 4 % 2;
            uint16_t s = (uint16_t)(0x2000 + check_below(&seed, 0x2000));
            uint16_t m = (uint16_t)(0x3000 + check_below(&seed, 0x2000));
            kv_format f = {.bits = bits, .symmetric = symmetric};
            uint8_t codes[128];
            uint32_t words[40];
            float y[128];
            for (int j = 0; j < first + n; j++)
                codes[j] = (uint8_t)check_below(&seed, 1 << bits);
            first -= i % 3 ? first % 16 : 0;
            kv_pack(words, codes, first + n, 1, bits);
            k->unpack(y, words, first, n, bits, kv_half_to_float(s),
                      symmetric ? 0 : kv_half_to_float(m), symmetric ? 1 << (bits - 1) : 0);
            for (int j = 0; j < n; j++) {
                float want = kv_dequantize(codes[first + j], s, m, &f);
                bad += y[j] != want;
            }
        }
        cr_expect(!bad, "%s: %d codes", k->name, bad);
    }
}

/* ---------------------------------------------------------------- threads */

/* Everything the backend offers, on so many threads; the results one after the other. */
static float *run_everything(int threads, int version, size_t *size)
{
    float *all = check_floats(1 << 20);
    uint64_t seed = 11;
    size_t used = 0;
    tm_fast *f = open_fast(threads, version);
    const kv_backend *b = tm_fast_backend(f);
    for (int i = 0; i < SHAPES; i++) {
        int n = shapes[i][0], rows = shapes[i][1], cols = shapes[i][2];
        float *x = check_floats((size_t)(n * cols)), *w = check_floats((size_t)(rows * cols));
        kv_matrix m = {rows, cols, w};
        check_fill(x, (size_t)(n * cols), &seed);
        check_fill(w, (size_t)(rows * cols), &seed);
        b->matmul(b->self, all + used, x, &m, n);
        used += (size_t)(n * rows);
        b->swiglu(b->self, all + used, x, x, (size_t)(n * cols));
        used += (size_t)(n * cols);
        b->rmsnorm(b->self, all + used, x, w, 1e-5, cols, n);
        used += (size_t)(n * cols);
        free(x), free(w);
    }
    kv_shape s = {9, 3, 16};
    kv_rope rope = {16, 1, 100, 1, NULL};
    problem p = make_problem(s, 11, 200, &seed);
    b->attention(b->self, all + used, p.rows, p.q, p.k, p.v, p.sink, s, 11, 200, NULL);
    used += 200 * 9 * 16;
    memcpy(all + used, p.rows, 9 * 200 * 211 * sizeof *all);
    used += 9 * 200 * 211;
    for (int i = 0; i < (int)(sizeof formats / sizeof *formats); i++) {
        filled a = fill_cache(formats[i][0], formats[i][1], s, &rope, 40, 613, 0, &seed);
        tm_fast_decode(f, all + used, NULL, p.q, &a.c, 0, p.sink, 0, NULL);
        used += 9 * 16;
        free(a.memory);
    }
    tm_fast_close(f);
    free_problem(&p);
    *size = used;
    return all;
}

Test(fast, same_bits_on_any_number_of_threads)
{
    for (int v = 0; v < versions(); v++) {
        size_t n, m;
        float *one = run_everything(1, v, &n);
        for (int i = 0; i < 2; i++) {
            float *more = run_everything(i ? 5 : 2, v, &m);
            cr_assert_eq(n, m);
            cr_expect(check_same(one, more, n), "version %d, %d threads", v, i ? 5 : 2);
            free(more);
        }
        free(one);
    }
}

static void count_task(void *arg, int task, int worker)
{
    int *count = arg;
    (void)worker;
    count[task]++;
}

Test(fast, pool_runs_every_task_once)
{
    tm_pool *pool;
    static int count[1000];
    cr_assert_eq(tm_pool_open(&pool, 5, NULL), KV_OK);
    cr_expect_eq(tm_pool_threads(pool), 5);
    for (int job = 1; job <= 2000; job++) {
        int tasks = job % 1000;
        memset(count, 0, sizeof count);
        tm_parallel(pool, count_task, count, tasks);
        for (int i = 0; i < 1000; i++)
            cr_assert_eq(count[i], i < tasks);
    }
    tm_pool_close(pool);
    kv_error err;
    cr_expect_eq(tm_pool_open(&pool, -1, &err), KV_FAIL_USAGE);
    cr_expect_eq(tm_pool_open(&pool, 5000, &err), KV_FAIL_USAGE);
    cr_expect(tm_cpus() >= 1);
}
