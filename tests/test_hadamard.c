/* The Walsh-Hadamard rotation and the norms of tokens. */
#include "check.h"

/* Row i of the matrix in natural order has the sign (-1)^(bits that i and j share). */
static double sign_of(int i, int j)
{
    int shared = 0;
    for (int both = i & j; both; both &= both - 1)
        shared++;
    return shared % 2 ? -1 : 1;
}

Test(hadamard, is_the_matrix_in_natural_order)
{
    uint64_t seed = 68;
    for (int D = 1; D <= 128; D *= 2) {
        float x[3 * 128], y[3 * 128];
        check_fill(x, (size_t)(3 * D), &seed);
        memcpy(y, x, sizeof x);
        kv_hadamard(y, 3, D);
        for (int h = 0; h < 3; h++)
            for (int i = 0; i < D; i++) {
                double want = 0;
                for (int j = 0; j < D; j++)
                    want += sign_of(i, j) * x[h * D + j];
                /* log2(D) additions and one product, each off by 2^-24 of at most D * 3.5 */
                cr_expect(fabs(want / sqrt(D) - y[h * D + i]) <= 8 * 0x1p-24 * 3.5 * D, "D %d", D);
            }
        kv_hadamard(y, 3, D);
        cr_expect(check_diff(x, y, (size_t)(3 * D)) <= 16 * 0x1p-24 * 3.5 * D, "its own inverse");
    }
}

Test(hadamard, spreads_an_outlier_evenly)
{
    float x[64] = {0};
    x[17] = 8;
    kv_hadamard(x, 1, 64);
    for (int i = 0; i < 64; i++)
        cr_expect_eq(fabsf(x[i]), 1.0f);
}

Test(hadamard, norms_of_tokens)
{
    float x[4] = {3, 0, -4, 0}, zero[2] = {0, 0};
    cr_expect_eq(kv_token_norm(x, 4), 5.0f);
    cr_expect_eq(kv_token_norm(zero, 2), 1e-4f, "never zero");
    cr_expect_eq(kv_token_norm(NULL, 0), 1e-4f);
}

Test(hadamard, rows_come_back)
{
    uint64_t seed = 69;
    static const char *const texts[] = {"2:token:8", "2:token:8:had", "2:token:8:norm", "2:token:8:had:norm"};
    for (int i = 0; i < 4; i++) {
        kv_format f;
        float x[32], y[32], norm = 7;
        kv_format_parse(&f, texts[i], NULL);
        check_fill(x, 32, &seed);
        memcpy(y, x, sizeof x);
        kv_row_prepare(y, &norm, &f, (kv_shape){2, 2, 16});
        cr_expect_eq(norm == 7, !f.norm);
        if (f.norm)
            cr_expect_float_eq(kv_token_norm(y, 32), 1, 1e-6);
        cr_expect_eq(check_same(x, y, 32), i == 0);
        kv_row_restore(y, norm, &f, 2, 16);
        cr_expect(check_diff(x, y, 32) <= 1e-5);
    }
}
