/* Which numbers are taken out: against sorting, with ties, marks and strides. */
#include "check.h"

/* Brute force: k times the best that is left. */
static void expected(uint8_t *marks, const float *x, int n, int k)
{
    for (int side = 0; side < 2; side++)
        for (int i = 0; i < k; i++) {
            int best = -1;
            for (int j = 0; j < n; j++)
                if (!marks[j] && (best < 0 || (side ? x[j] < x[best] : x[j] > x[best])))
                    best = j;
            marks[best] = KV_OUTLIER;
        }
}

Test(outlying, the_same_as_taking_one_after_the_other)
{
    uint64_t seed = 70;
    for (int round = 0; round < 300; round++) {
        int n = check_sizes[round % CHECK_SIZES], k = check_below(&seed, n / 4 + 1), stride = 1 + round % 3;
        float x[129], wide[3 * 129] = {0}, back[129] = {0};
        uint8_t want[129], marks[3 * 129];
        kv_entry e[129];
        check_fill(x, (size_t)n, &seed);
        for (int i = 0; i < n; i++) {
            if (round % 2) /* few values, so many ties; 0 and -0 among them */
                x[i] = (float)(check_below(&seed, 3) - 1) * (check_below(&seed, 2) ? 1 : -1);
            want[i] = check_below(&seed, 5) == 0 ? KV_LEFT_OUT : 0;
            if (n < 31)
                want[i] = 0;
            wide[i * stride] = x[i];
            marks[i * stride] = want[i];
        }
        int room = 0;
        for (int i = 0; i < n; i++)
            room += !want[i];
        k = 2 * k > room ? room / 2 : k;
        expected(want, x, n, k);
        kv_outliers_take(e, marks, wide, n, stride, k);
        for (int i = 0, at = 0; i < n; i++) {
            cr_expect_eq(marks[i * stride], want[i], "round %d element %d", round, i);
            if (want[i] == KV_OUTLIER) {
                cr_expect(e[at].index == i && e[at].value == kv_half_from_float(x[i]));
                at++;
            }
        }
        kv_outliers_put(back, e, 2 * k, 1, 0, n);
        for (int i = 0; i < n; i++)
            cr_expect_eq(back[i], want[i] == KV_OUTLIER ? kv_half_to_float(kv_half_from_float(x[i])) : 0);
    }
}

Test(outlying, shares_are_exact)
{
    static const struct { const char *text; int n, each; } c[] = {
        {"2:token:8:out1", 199, 0},  {"2:token:8:out1", 200, 1}, {"2:token:8:out0.1", 1999, 0},
        {"2:token:8:out0.1", 2000, 1}, {"2:token:8:out50", 4, 1}, {"2:token:8:out50", 3, 0},
        {"2:token:8:out0.3", 2000, 3}, {"2:token:8:out0", 1000, 0}, {"2:token:8:out50", 65536, 16384},
        {"2:token:8", 1000, 0}};
    for (size_t i = 0; i < sizeof c / sizeof *c; i++) {
        kv_format f;
        cr_assert_eq(kv_format_parse(&f, c[i].text, NULL), KV_OK);
        cr_expect_eq(kv_outliers_each(&f, c[i].n), c[i].each, "%s of %d", c[i].text, c[i].n);
    }
}

Test(outlying, one_head_of_a_row_is_put_back_alone)
{
    kv_entry e[4] = {{kv_half_from_float(1), 3}, {kv_half_from_float(2), 8},
                     {kv_half_from_float(3), 15}, {kv_half_from_float(4), 16}};
    float x[8] = {0};
    kv_outliers_put(x, e, 4, 1, 8, 8);
    for (int i = 0; i < 8; i++)
        cr_expect_eq(x[i], i == 0 ? 2 : i == 7 ? 3 : 0);
}
