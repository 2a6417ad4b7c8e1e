/* Extremes, medians, stages with planted outliers, votes and phases. */
#include "check.h"

static int by_size(const void *a, const void *b)
{
    float x = fabsf(*(const float *)a), y = fabsf(*(const float *)b);
    return (x > y) - (x < y);
}

Test(outliers, median_equals_that_of_a_sorted_array)
{
    uint64_t seed = 20;
    for (int n = 1; n <= 130; n++)
        for (int kind = 0; kind < 3; kind++) { /* spread, many ties, ascending */
            float x[130], y[130];
            check_fill(x, (size_t)n, &seed);
            for (int i = 0; i < n; i++)
                x[i] = kind == 1 ? (float)check_below(&seed, 3) : kind == 2 ? (float)i : x[i];
            memcpy(y, x, sizeof y);
            qsort(y, (size_t)n, sizeof *y, by_size);
            double expect = n % 2 ? fabs(y[n / 2])
                                  : (fabs((double)y[n / 2 - 1]) + fabs((double)y[n / 2])) / 2;
            cr_assert_eq(kv_median_abs(x, (size_t)n), (float)expect, "n %d kind %d", n, kind);
        }
    cr_expect_eq(kv_median_abs(NULL, 0), 0.0f);
}

Test(outliers, extreme_names_the_first_of_equals)
{
    float x[6] = {1, -7, 2, 7, 0, 1}, scratch[6];
    kv_extreme e = kv_outliers(x, 2, 3, scratch);
    cr_expect_eq(e.max, 7.0f);
    cr_expect(e.row == 0 && e.col == 1);
    cr_expect_eq(e.median, 1.5f);
    e = kv_outliers(x, 0, 3, scratch);
    cr_expect(e.max == 0 && e.median == 0);
    float peak[3];
    kv_channel_peaks(peak, x, 2, 3);
    cr_expect(peak[0] == 7 && peak[1] == -7 && peak[2] == 2);
}

/* peaks [7][3] of six layers: channel 1 rises over layers 1 and 2, channel 2 at layer 4 */
static void planted(float *peak, float *median)
{
    static const float p[7][3] = {{1, 1, 1},   {1, 1.5f, 1},  {1, -60, 1}, {1, -400, 1},
                                  {1, -500, 1}, {1, -500, 900}, {1, -20, 950}};
    memcpy(peak, p, sizeof p);
    for (int i = 0; i < 7; i++)
        median[i] = 1;
}

Test(outliers, a_stage_is_the_end_of_a_run_of_doublings)
{
    float peak[21], median[7];
    kv_stage s[4];
    int weak;
    planted(peak, median);
    cr_assert_eq(kv_stages_find(s, &weak, peak, median, 6, 3, 4), 2);
    cr_expect(s[0].layer == 2 && s[0].channel == 1 && s[0].sign == -1);
    cr_expect(s[1].layer == 4 && s[1].channel == 2 && s[1].sign == 1);
    cr_expect_eq(weak, 0);
    cr_expect_eq(kv_stages_find(s, &weak, peak, median, 6, 3, 1), 1, "no more than asked for");
    median[3] = 2; /* 400 is not 300 x 2 */
    cr_expect_eq(kv_stages_find(s, &weak, peak, median, 6, 3, 4), 1);
}

Test(outliers, a_weak_model_is_judged_by_ratio_alone)
{
    float peak[21], median[7];
    kv_stage s[4];
    int weak;
    planted(peak, median);
    for (int i = 0; i < 21; i++)
        peak[i] /= 10;
    for (int i = 0; i < 7; i++)
        median[i] = 0.1f;
    cr_assert_eq(kv_stages_find(s, &weak, peak, median, 6, 3, 4), 2);
    cr_expect_eq(weak, 1);
}

Test(outliers, a_bar_is_reached_not_passed)
{
    /* layer 1 doubles exactly, reaches 100 exactly, is exactly 300 times the median */
    float peak[4][2] = {{1, 1}, {50, 1}, {100, 1}, {100, 1}}, median[4] = {1, 1, 1, 1};
    kv_stage s[3];
    int weak;
    median[2] = 100.0f / 300;
    median[2] = nextafterf(median[2], 0);
    cr_assert_eq(kv_stages_find(s, &weak, peak[0], median, 3, 2, 3), 1);
    cr_expect(s[0].layer == 1 && s[0].channel == 0 && weak == 0);
    median[2] = 0.25f;
    peak[1][0] = 51; /* not twice: the rise ended at layer 0, too low */
    cr_expect_eq(kv_stages_find(s, &weak, peak[0], median, 3, 2, 3), 0);
    peak[1][0] = 40;
    peak[2][0] = 99; /* ratio enough, but another layer reaches 100 */
    cr_expect_eq(kv_stages_find(s, &weak, peak[0], median, 3, 2, 3), 0);
    cr_expect_eq(weak, 0);
    peak[3][0] = 99; /* now none does */
    cr_expect_eq(kv_stages_find(s, &weak, peak[0], median, 3, 2, 3), 1);
    cr_expect_eq(weak, 1);
    peak[0][1] = 500; /* the embedding is no layer */
    cr_expect_eq(kv_stages_find(s, &weak, peak[0], median, 3, 2, 3), 1);
    cr_expect_eq(weak, 1);
    float exact[3][1] = {{1}, {300}, {300}}, one[3] = {1, 1, 1};
    cr_expect_eq(kv_stages_find(s, &weak, exact[0], one, 2, 1, 3), 1);
}

Test(outliers, no_stage_is_an_answer)
{
    uint64_t seed = 21;
    float peak[5 * 64], median[5];
    kv_stage s[4];
    int weak;
    check_fill(peak, 5 * 64, &seed);
    for (int i = 0; i < 5; i++)
        median[i] = 0.7f;
    cr_expect_eq(kv_stages_find(s, &weak, peak, median, 4, 64, 4), 0);
    memset(peak, 0, sizeof peak);
    memset(median, 0, sizeof median);
    cr_expect_eq(kv_stages_find(s, &weak, peak, median, 4, 64, 4), 0, "all zeros");
}

Test(outliers, the_majority_of_prompts_decides)
{
    kv_stage found[6] = {{.layer = 2, .channel = 5, .sign = 1}, {.layer = 9, .channel = 1, .sign = 1},
                         {.layer = 2, .channel = 5, .sign = -1}, {0},
                         {.layer = 2, .channel = 5, .sign = 1}, {.layer = 9, .channel = 1, .sign = 1}};
    int count[3] = {2, 1, 2};
    kv_stage s[2];
    cr_assert_eq(kv_stages_vote(s, found, count, 3, 2), 2);
    cr_expect(s[0].layer == 2 && s[0].prompts == 3 && s[0].sign == 1);
    cr_expect(s[1].layer == 9 && s[1].prompts == 2);
    found[0].sign = found[4].sign = -1;
    found[2].sign = 1;
    kv_stages_vote(s, found, count, 3, 2);
    cr_expect_eq(s[0].sign, -1, "two of three are negative");
    found[0].sign = 1;
    found[2].sign = -1;
    kv_stages_vote(s, found, count, 3, 2);
    cr_expect_eq(s[0].sign, -1, "whichever comes first");
    count[2] = 1; /* now layer 9 has one vote of three */
    cr_expect_eq(kv_stages_vote(s, found, count, 3, 2), 1);
    cr_expect_eq(kv_stages_vote(s, found, count, 0, 2), 0);
    count[1] = 0; /* one of two prompts is no majority */
    cr_expect_eq(kv_stages_vote(s, found, count, 2, 2), 0);
}

Test(outliers, phases_follow_the_outlier)
{
    float h[6] = {0.1f, 500, 505, 504, 90, 1}, write[6] = {0, 499, 4, 1, -414, -80};
    kv_phase p[6], expect[6] = {KV_INITIAL, KV_EMERGENCE, KV_STABLE, KV_STABLE, KV_DISSIPATION,
                                KV_FINAL};
    kv_phases(p, h, write, 6, 1);
    for (int l = 0; l < 6; l++)
        cr_expect_eq(p[l], expect[l], "layer %d", l);
    kv_phases(p, h, write, 6, -1);
    cr_expect_eq(p[3], KV_INITIAL, "no emergence");
    write[4] = 414; /* a write of the same sign is no dissipation */
    h[4] = 918;
    h[5] = 1000;
    write[5] = 82;
    kv_phases(p, h, write, 6, 1);
    cr_expect_eq(p[5], KV_STABLE);
}
