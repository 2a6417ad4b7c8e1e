/* Softmax sums to one, survives huge scores, refuses NaN; the variants leave a rest. */
#include "check.h"

Test(softmax, sums_to_one_at_awkward_sizes)
{
    uint64_t seed = 1;
    for (int i = 0; i < CHECK_SIZES; i++) {
        int n = check_sizes[i];
        float *s = check_floats((size_t)n), *p = check_floats((size_t)n);
        check_fill(s, (size_t)n, &seed);
        s[n / 2] += 30; /* a sink in the middle */
        cr_assert_eq(kv_softmax(p, s, n, NULL), KV_OK);
        double sum = 0;
        for (int j = 0; j < n; j++)
            sum += p[j];
        /* each of n weights is rounded once: at most n * 2^-25 together */
        cr_expect(fabs(sum - 1) <= n * 0x1p-24, "n = %d: sum %.9g", n, sum);
        cr_expect_gt(p[n / 2], 0.9f, "n = %d: the sink takes the mass", n);
        free(s);
        free(p);
    }
}

Test(softmax, is_stable_for_huge_scores)
{
    float s[3] = {3e38f, 3e38f, -3e38f}, p[3];
    cr_assert_eq(kv_softmax(p, s, 3, NULL), KV_OK);
    cr_expect_eq(p[0], 0.5f);
    cr_expect_eq(p[1], 0.5f);
    cr_expect_eq(p[2], 0.0f);
}

Test(softmax, works_in_place_and_on_nothing)
{
    float s[2] = {0, logf(3)};
    cr_assert_eq(kv_softmax(s, s, 2, NULL), KV_OK);
    cr_expect(fabs(s[0] - 0.25) <= 1e-7 && fabs(s[1] - 0.75) <= 1e-7);
    cr_expect_eq(kv_softmax(s, s, 0, NULL), KV_OK);
}

Test(softmax, refuses_what_is_not_finite)
{
    float p[2], bad[3] = {NAN, INFINITY, -INFINITY};
    for (int i = 0; i < 3; i++) {
        float s[2] = {0, bad[i]};
        kv_error e = {0};
        cr_expect_eq(kv_softmax(p, s, 2, &e), KV_FAIL_RUN);
        cr_expect(strstr(e.text, "element 1"), "%s", e.text);
        cr_expect_eq(kv_softmax1(p, s, 2, NULL), KV_FAIL_RUN);
    }
    float s[1] = {0};
    cr_expect_eq(kv_softmax_sink(p, NULL, s, NAN, 1, NULL), KV_FAIL_RUN);
}

Test(softmax, softmax1_is_a_sink_logit_of_zero)
{
    float s[3] = {-2, 0.5f, 1}, a[3], b[3], rest;
    cr_assert_eq(kv_softmax1(a, s, 3, NULL), KV_OK);
    cr_assert_eq(kv_softmax_sink(b, &rest, s, 0, 3, NULL), KV_OK);
    cr_expect(check_same(a, b, 3));
    double z = 1 + exp(-2) + exp(0.5) + exp(1);
    cr_expect(fabs(a[1] - exp(0.5) / z) <= 1e-7);
    cr_expect(fabs(rest - 1 / z) <= 1e-7);
}

Test(softmax, a_sink_logit_can_take_everything)
{
    float s[2] = {1, 2}, p[2], rest;
    cr_assert_eq(kv_softmax_sink(p, &rest, s, 200, 2, NULL), KV_OK);
    cr_expect_eq(rest, 1.0f);
    cr_expect(p[0] >= 0 && p[0] <= 1e-30f);
}
