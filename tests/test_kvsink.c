/* Prediction: largest magnitudes, ties, thresholds. */
#include "check.h"

static void expect_set(const float *h, int T, int K, const int *want, int n)
{
    int got[64];
    float scratch[64];
    cr_assert_eq(kv_top_magnitudes(got, h, T, K, scratch), n);
    for (int i = 0; i < n; i++)
        cr_expect_eq(got[i], want[i], "K %d: place %d holds %d", K, i, got[i]);
}

Test(kvsink, magnitude_counts_and_positions_ascend)
{
    float h[6] = {1, -900, 3, 400, -2, 5};
    expect_set(h, 6, 1, (int[]){1}, 1);
    expect_set(h, 6, 3, (int[]){1, 3, 5}, 3);
    expect_set(h, 6, 9, (int[]){0, 1, 2, 3, 4, 5}, 6);
    expect_set(h, 6, 0, NULL, 0);
    expect_set(h, 0, 5, NULL, 0);
}

Test(kvsink, equals_within_one_in_a_thousand_go_to_the_lower_positions)
{
    float same[8];
    for (int i = 0; i < 8; i++) /* rounding noise that differs between machines */
        same[i] = 500 + (float)((i * 5) % 8) * 1e-3f;
    expect_set(same, 8, 3, (int[]){0, 1, 2}, 3);
    float h[5] = {999.5f, 1000, 2000, 1000.5f, 998}; /* second largest 1000.5 */
    expect_set(h, 5, 2, (int[]){0, 2}, 2);
    float zero[4] = {0, 0, 0, 0};
    expect_set(zero, 4, 2, (int[]){0, 1}, 2);
}

Test(kvsink, auto_takes_as_many_as_pass)
{
    float h[200], scratch[200];
    int got[200], capped;
    for (int t = 0; t < 200; t++)
        h[t] = t % 10 == 7 ? -300.0f - (float)t : 1;
    cr_expect_eq(kv_above_threshold(got, &capped, h, 50, 100, scratch), 5);
    cr_expect(capped == 0 && got[0] == 7 && got[4] == 47);
    cr_expect_eq(kv_above_threshold(got, &capped, h, 200, 100, scratch), 10);
    cr_expect(capped == 1 && got[0] == 107 && got[9] == 197, "20 pass, T/20 = 10, largest first");
    cr_expect_eq(kv_above_threshold(got, &capped, h, 200, 1e9, scratch), 0);
    cr_expect_eq(capped, 0);
    cr_expect_eq(kv_above_threshold(got, &capped, h, 8, 307, scratch), 1, "reaching is enough");
}

Test(kvsink, one_in_twenty_is_rounded_down)
{
    float h[140], scratch[140];
    int got[140], capped;
    for (int t = 0; t < 140; t++)
        h[t] = 200 + (float)t;
    for (int T = 4; T <= 140; T++) {
        int cap = T < 120 ? 5 : T < 140 ? 6 : 7;
        cr_expect_eq(kv_above_threshold(got, &capped, h, T, 100, scratch), T < cap ? T : cap);
        cr_expect_eq(capped, T > 5, "%d tokens", T);
    }
}

Test(kvsink, the_widest_gap_separates_one_prompt)
{
    float a[6] = {2, 300, 1, 800, 0, 3};
    cr_expect(fabs(kv_gap_threshold(a, 6) - sqrt(300.0 * 3)) <= 1e-9);
    float one[1] = {8};
    cr_expect_eq(kv_gap_threshold(one, 1), 4.0);
    float exact[4] = {500, 0, 0, 0}; /* zeros elsewhere: the floor is 500e-6 */
    cr_expect(fabs(kv_gap_threshold(exact, 4) - 0.5) <= 1e-6);
    float even[6] = {400, 200, 100, 90, 80, 70}; /* two gaps of 2: the upper one */
    cr_expect(fabs(kv_gap_threshold(even, 6) - sqrt(400.0 * 200)) <= 1e-9);
    float low[8] = {400, 390, 20, 19, 18, 17, 16, 1e-3f}; /* a wider gap, but among the many */
    cr_expect(fabs(kv_gap_threshold(low, 8) - sqrt(390.0 * 20)) <= 1e-9);
}

Test(kvsink, prompts_agree_on_their_median)
{
    kv_stage s = {0};
    double t[3] = {900, 30, 100}, even[2] = {25, 100};
    float pooled[5] = {1, 200, 3, 400, 2};
    kv_stage_threshold(&s, t, 3, pooled, 5);
    cr_expect(s.threshold == 100 && s.at_sinks == 300 && s.elsewhere == 2);
    kv_stage_threshold(&s, even, 2, pooled, 5);
    cr_expect_eq(s.threshold, 50.0);
    double high[1] = {1e6};
    kv_stage_threshold(&s, high, 1, pooled, 5);
    cr_expect(s.at_sinks == 0 && s.elsewhere == 3, "nothing reaches it");
}

Test(kvsink, the_largest_ratio_is_the_papers_stage)
{
    kv_stage s[3] = {{.at_sinks = 400, .elsewhere = 10}, {.at_sinks = 3000, .elsewhere = 20},
                     {.at_sinks = 150, .elsewhere = 1}};
    kv_profile p = {.n_stages = 3, .stage = s};
    cr_expect_eq(kv_profile_largest(&p), 1);
    s[2].elsewhere = 0; /* as good as infinite */
    cr_expect_eq(kv_profile_largest(&p), 2);
    p.n_stages = 0;
    cr_expect_eq(kv_profile_largest(&p), -1);
}

Test(kvsink, ids_are_learned_where_they_are_sinks_at_least_half_of_the_time)
{
    int tokens[6] = {7, 3, 4, 3, 4, 4}, seen[8] = {0}, sunk[8] = {0}, ids[8];
    float h[12] = {900, 800, 1, 1, 2, 3, 1, 1, 1, 1, -90, 1}; /* two stages */
    kv_stage s[2] = {{.threshold = 100}, {.threshold = 90}};
    kv_ids_count(seen, sunk, tokens, h, 6, s, 2);
    cr_expect(seen[7] == 0 && sunk[7] == 0, "position 0 is left out");
    cr_expect(seen[3] == 2 && sunk[3] == 1 && seen[4] == 3 && sunk[4] == 1);
    cr_assert_eq(kv_ids_learned(NULL, seen, sunk, 8), 1);
    cr_assert_eq(kv_ids_learned(ids, seen, sunk, 8), 1);
    cr_expect_eq(ids[0], 3, "half is enough, a third is not");
}
