/* The sink metric by hand on a 3 x 3 map, and what makes a sink void. */
#include "check.h"

static const float map[9] = {1, 0, 0,
                             0.75f, 0.25f, 0,
                             0.5f, 0.125f, 0.375f};

Test(sinks, alpha_divides_by_the_queries_that_can_see)
{
    double alpha[3];
    kv_sink_alpha(alpha, map, 3);
    cr_expect_eq(alpha[0], 0.75);
    cr_expect_eq(alpha[1], 0.1875); /* two queries see it, not three */
    cr_expect_eq(alpha[2], 0.375);
}

Test(sinks, mass_counts_only_what_is_visible)
{
    int set[2] = {1, 2}, all[3] = {0, 1, 2};
    cr_expect_eq(kv_sink_mass(map, 3, set, 2), 0.25);
    cr_expect_eq(kv_sink_mass(map, 3, all, 3), 1.0);
    cr_expect_eq(kv_sink_mass(map, 3, set, 0), 0.0);
    cr_expect_eq(kv_sink_mass(map, 0, set, 0), 0.0);
}

Test(sinks, share_uses_a_strict_threshold)
{
    double alpha[4] = {0.3, 0.31, 0.9, 0.1}, share[2]; /* two heads, two keys */
    kv_sink_share(share, alpha, 2, 2, 0.3);
    cr_expect_eq(share[0], 50.0); /* 0.3 is not above 0.3 */
    cr_expect_eq(share[1], 50.0);
    kv_sink_share(share, alpha, 0, 2, 0.3);
    cr_expect_eq(share[0], 0.0);
}

Test(sinks, norms_and_cosines)
{
    float a[2] = {3, 4}, b[2] = {-4, 3}, zero[2] = {0, 0};
    cr_expect_eq(kv_norm(a, 2), 5.0);
    cr_expect_eq(kv_cosine(a, b, 2), 0.0);
    cr_expect(fabs(kv_cosine(a, a, 2) - 1) <= 1e-15);
    cr_expect_eq(kv_cosine(a, zero, 2), 0.0);
    cr_expect_eq(kv_norm(a, 0), 0.0);
}

Test(sinks, a_void_sink_has_a_small_value)
{
    cr_expect_eq(kv_sink_classify(0.2, 0.3, 0.1, 1), KV_NOT_A_SINK);
    cr_expect_eq(kv_sink_classify(0.4, 0.3, 0.1, 1), KV_VOID_SINK);
    cr_expect_eq(kv_sink_classify(0.4, 0.3, 0.5, 1), KV_HEAVY_HITTER);
    cr_expect_eq(kv_sink_classify(NAN, 0.3, 0.1, 1), KV_NOT_A_SINK);
}
