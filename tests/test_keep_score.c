/* Scores of tokens, and sets chosen by score. */
#include "check.h"

Test(keep_score, rows_are_measured_by_their_largest_entry_and_their_length)
{
    const float x[9] = {1, -7, 2, 0, 0, 0, 3, 4, -0.0f};
    double peak[3], norm[3];
    kv_row_peaks(peak, x, 3, 3);
    kv_row_norms(norm, x, 3, 3);
    cr_expect(peak[0] == 7 && peak[1] == 0 && peak[2] == 4);
    cr_expect(norm[0] == sqrt(54) && norm[1] == 0 && norm[2] == 5);
    kv_row_peaks(peak, x, 2, 0);
    cr_expect(peak[0] == 0 && peak[1] == 0 && peak[2] == 4);
}

/* Rows of a causal attention: H heads, T queries. */
static void make_rows(float *rows, int H, int T, uint64_t *state)
{
    for (int i = 0; i < H * T; i++)
        for (int k = 0; k < T; k++)
            rows[i * T + k] = k <= i % T ? (float)fabs(check_uniform(state)) : 0;
}

Test(keep_score, attention_received_is_the_mean_over_heads_and_queries)
{
    enum { H = 3, MOST = 37 };
    static float rows[H * MOST * MOST];
    static const int size[] = {1, 2, 31, 37};
    uint64_t state = 3;
    for (int i = 0; i < 4; i++) {
        int T = size[i];
        double a[MOST], sum[MOST] = {0}, alpha[MOST], mean[MOST] = {0};
        make_rows(rows, H, T, &state);
        for (int h = 0; h < H; h++) {
            kv_sink_alpha(alpha, rows + h * T * T, T);
            for (int t = 0; t < T; t++)
                mean[t] += alpha[t] / H;
        }
        kv_attention_add(sum, rows, H, 0, T);
        kv_attention_mean(a, sum, H, T);
        for (int t = 0; t < T; t++) /* sums of at most 111 numbers below 1 */
            cr_expect(fabs(a[t] - mean[t]) <= 1e-14, "T %d, token %d", T, t);
    }
}

Test(keep_score, attention_adds_up_the_same_in_pieces)
{
    enum { H = 2, T = 33 };
    static float rows[H * T * T], part[H * T * T];
    static const int cut[] = {0, 1, 2, 17, 32, T};
    double whole[T] = {0}, pieces[T] = {0};
    uint64_t state = 5;
    make_rows(rows, H, T, &state);
    kv_attention_add(whole, rows, H, 0, T);
    for (int c = 0; c + 1 < 6; c++) {
        int past = cut[c], n = cut[c + 1] - past;
        for (int h = 0; h < H; h++)
            for (int i = 0; i < n; i++)
                memcpy(part + (h * n + i) * (past + n), rows + (h * T + past + i) * T,
                       (size_t)(past + n) * sizeof *part);
        kv_attention_add(pieces, part, H, past, n);
    }
    cr_expect_eq(memcmp(whole, pieces, sizeof whole), 0);
}

static void expect_smallest(const float *x, int T, int K, const int *want, int n)
{
    int got[64];
    float scratch[64];
    cr_assert_eq(kv_smallest(got, x, T, K, scratch), n);
    for (int i = 0; i < n; i++)
        cr_expect_eq(got[i], want[i], "K %d: place %d holds %d", K, i, got[i]);
}

Test(keep_score, smallest_mirrors_largest)
{
    const float x[6] = {3, 900, 3.002f, 1, 40, 2.999f};
    expect_smallest(x, 6, 1, (int[]){3}, 1);
    expect_smallest(x, 6, 2, (int[]){0, 3}, 2); /* 3, 3.002 and 2.999 are equals */
    expect_smallest(x, 6, 3, (int[]){0, 2, 3}, 3);
    expect_smallest(x, 6, 5, (int[]){0, 2, 3, 4, 5}, 5);
    expect_smallest(x, 6, 9, (int[]){0, 1, 2, 3, 4, 5}, 6);
    expect_smallest(x, 6, 0, NULL, 0);
    expect_smallest(x, 0, 3, NULL, 0);
    const float zero[4] = {0, 5, 0, 0};
    expect_smallest(zero, 4, 2, (int[]){0, 2}, 2);
    const float edge[4] = {998, 1000.5f, 1000, 999.5f}; /* second smallest 999.5 */
    expect_smallest(edge, 4, 2, (int[]){0, 2}, 2);
}

Test(keep_score, rotatekv_takes_the_tokens_of_twenty_entries)
{
    enum { T = 7, C = 33 };
    static float x[T * C];
    int got[KV_ROTATEKV_ENTRIES];
    for (int i = 0; i < T * C; i++)
        x[i] = 0.5f;
    for (int c = 0; c < 18; c++)
        x[4 * C + c] = c % 2 ? -50.0f : 40.0f; /* one token holds 18 of them */
    x[6 * C + 32] = -3;
    cr_assert_eq(kv_rotatekv_tokens(got, x, T, C), 3);
    cr_expect(got[0] == 0 && got[1] == 4 && got[2] == 6, "the 20th: the first of equals");
    x[2 * C + 5] = 0.5001f; /* nothing counts as equal here */
    cr_assert_eq(kv_rotatekv_tokens(got, x, T, C), 3);
    cr_expect(got[0] == 2 && got[1] == 4 && got[2] == 6);
    cr_expect_eq(kv_rotatekv_tokens(got, x, 1, C), 1);
    cr_expect_eq(kv_rotatekv_tokens(got, x, T, 1), T, "fewer entries than 20: all tokens");
    cr_expect_eq(kv_rotatekv_tokens(got, x, 0, C), 0);
}

Test(keep_score, random_is_distinct_ascending_and_replayed)
{
    int a[64], b[64], differ = 0;
    for (uint64_t seed = 0; seed < 20; seed++) {
        cr_assert_eq(kv_random_positions(a, seed, 37, 9), 9);
        kv_random_positions(b, seed + 1, 37, 9);
        differ += memcmp(a, b, 9 * sizeof *a) != 0;
        for (int i = 0; i < 9; i++)
            cr_expect(a[i] >= 0 && a[i] < 37 && (i == 0 || a[i] > a[i - 1]));
    }
    cr_expect_geq(differ, 19);
    cr_assert_eq(kv_random_positions(a, 7, 31, 99), 31);
    for (int i = 0; i < 31; i++)
        cr_expect_eq(a[i], i);
    cr_expect_eq(kv_random_positions(a, 7, 31, 0), 0);
    cr_expect_eq(kv_random_positions(a, 7, 0, 5), 0);
    /* splitmix64's first number from seed 1234567 is 6457827717110365317 (its author's test) */
    cr_assert_eq(kv_random_positions(a, 1234567, 64, 1), 1);
    cr_expect_eq(a[0], (int)(6457827717110365317u % 64));
}

Test(keep_score, the_criterion_prefers_what_all_layers_agree_on)
{
    /* tokens: much in one layer, the same in all, little; three layers */
    const double a[3 * 7] = {0.90, 0.3, 0.1, 0.2, 0.2, 0.05, 0.05, //
                             0.00, 0.3, 0.1, 0.2, 0.3, 0.05, 0.05, //
                             0.00, 0.3, 0.1, 0.2, 0.1, 0.05, 0.05};
    int got[KV_CRITERION_TOKENS];
    cr_expect(fabs(kv_criterion(a, 3, 7, 0, 0) - 0.3) <= 1e-15);
    /* population deviation of .9, 0, 0: sqrt((.36 + .09 + .09) / 3) */
    cr_expect(fabs(kv_criterion(a, 3, 7, 0, 2) - (0.3 - 2 * sqrt(0.18))) <= 1e-15);
    cr_expect(fabs(kv_criterion(a, 1, 7, 0, 5) - 0.9) <= 1e-15, "one layer does not deviate");
    cr_assert_eq(kv_criterion_tokens(got, a, 3, 7, 1), 5);
    cr_expect(got[0] == 1 && got[1] == 2 && got[2] == 3 && got[3] == 4 && got[4] == 5,
              "0 deviates; of 5 and 6, equals, the first");
    cr_assert_eq(kv_criterion_tokens(got, a, 3, 7, 0), 5);
    cr_expect(got[0] == 0 && got[4] == 4);
    cr_expect_eq(kv_criterion_tokens(got, a, 1, 3, 1), 3);
    cr_expect_eq(kv_criterion_tokens(got, a, 1, 0, 1), 0);
}
