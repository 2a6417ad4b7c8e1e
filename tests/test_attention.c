/* Attention against its own definition: shared heads, one query at a time, rows that add up. */
#include "check.h"

typedef struct {
    kv_shape s;
    int past, n;
    float *q, *k, *v, *out, *rows, *scratch;
} setup;

static setup make(kv_shape s, int past, int n, uint64_t *seed)
{
    int T = past + n, D = s.head_size;
    setup a = {s, past, n, check_floats((size_t)n * s.heads * D),
               check_floats((size_t)T * s.kv_heads * D), check_floats((size_t)T * s.kv_heads * D),
               check_floats((size_t)n * s.heads * D), check_floats((size_t)s.heads * n * T),
               check_floats((size_t)T)};
    check_fill(a.q, (size_t)n * s.heads * D, seed);
    check_keys(a.k, T, s.kv_heads * D, seed);
    check_keys(a.v, T, s.kv_heads * D, seed);
    return a;
}

static void drop(setup *a)
{
    free(a->q), free(a->k), free(a->v), free(a->out), free(a->rows), free(a->scratch);
}

static void run(setup *a)
{
    cr_assert_eq(kv_attention(a->out, a->rows, a->q, a->k, a->v, NULL, a->s, a->past, a->n,
                              a->scratch, NULL), KV_OK);
}

Test(attention, rows_are_causal_and_sum_to_one)
{
    uint64_t seed = 2;
    for (int i = 0; i < CHECK_SIZES; i++) {
        int n = check_sizes[i];
        setup a = make((kv_shape){4, 2, 8}, 3, n, &seed);
        run(&a);
        for (int r = 0; r < 4 * n; r++) {
            double sum = 0;
            int visible = a.past + r % n + 1, T = a.past + n;
            for (int t = 0; t < T; t++) {
                sum += a.rows[(size_t)r * T + t];
                cr_expect(t < visible || a.rows[(size_t)r * T + t] == 0);
            }
            cr_expect(fabs(sum - 1) <= T * 0x1p-24, "n %d row %d: %g", n, r, sum);
        }
        drop(&a);
    }
}

Test(attention, query_heads_of_a_group_read_the_same_keys)
{
    uint64_t seed = 3;
    setup a = make((kv_shape){6, 2, 4}, 0, 9, &seed);
    /* the same with keys and values written out for all six heads */
    setup b = make((kv_shape){6, 6, 4}, 0, 9, &seed);
    memcpy(b.q, a.q, 9 * 6 * 4 * sizeof *a.q);
    for (int t = 0; t < 9; t++)
        for (int h = 0; h < 6; h++)
            for (int d = 0; d < 4; d++) {
                b.k[(t * 6 + h) * 4 + d] = a.k[(t * 2 + h / 3) * 4 + d];
                b.v[(t * 6 + h) * 4 + d] = a.v[(t * 2 + h / 3) * 4 + d];
            }
    run(&a);
    run(&b);
    cr_expect(check_same(a.out, b.out, 9 * 6 * 4));
    drop(&a), drop(&b);
}

Test(attention, one_query_at_a_time_gives_the_same)
{
    uint64_t seed = 4;
    setup a = make((kv_shape){3, 1, 8}, 0, 33, &seed);
    run(&a);
    for (int i = 0; i < 33; i++) {
        float one[3 * 8];
        cr_assert_eq(kv_attention(one, NULL, a.q + i * 24, a.k, a.v, NULL, a.s, i, 1, a.scratch,
                                  NULL), KV_OK);
        cr_expect(check_same(one, a.out + i * 24, 24), "query %d", i);
    }
    drop(&a);
}

Test(attention, mixing_again_from_the_rows_changes_nothing)
{
    uint64_t seed = 5;
    setup a = make((kv_shape){4, 2, 8}, 5, 31, &seed);
    run(&a);
    float *again = check_floats(31 * 32);
    kv_attention_mix(again, a.rows, a.v, a.s, 31, 36);
    cr_expect(check_same(again, a.out, 31 * 32));
    free(again);
    drop(&a);
}

Test(attention, a_sink_logit_shrinks_the_output)
{
    uint64_t seed = 6;
    setup a = make((kv_shape){2, 1, 4}, 0, 5, &seed);
    float sink[2] = {100, -100}, *plain = check_floats(40);
    run(&a);
    memcpy(plain, a.out, 40 * sizeof *plain);
    cr_assert_eq(kv_attention(a.out, NULL, a.q, a.k, a.v, sink, a.s, 0, 5, a.scratch, NULL),
                 KV_OK);
    for (int i = 0; i < 5; i++)
        for (int d = 0; d < 4; d++) {
            cr_expect(fabs(a.out[i * 8 + d]) <= 1e-20, "head 0 gives all to its sink");
            cr_expect(fabs(a.out[i * 8 + 4 + d] - plain[i * 8 + 4 + d]) <= 1e-6);
        }
    free(plain);
    drop(&a);
}

Test(attention, refuses_nan_in_keys)
{
    uint64_t seed = 7;
    setup a = make((kv_shape){1, 1, 4}, 0, 3, &seed);
    a.k[5] = NAN;
    cr_expect_eq(kv_attention(a.out, NULL, a.q, a.k, a.v, NULL, a.s, 0, 3, a.scratch, NULL),
                 KV_FAIL_RUN);
    drop(&a);
}
