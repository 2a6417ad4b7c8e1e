/* Every binary16 and bfloat16 number goes there and back; rounding is to nearest even. */
#include "check.h"

Test(half, every_pattern_survives_a_round_trip)
{
    for (uint32_t h = 0; h < 65536; h++) {
        float x = kv_half_to_float((uint16_t)h);
        if (isnan(x))
            cr_assert(isnan(kv_half_to_float(kv_half_from_float(x))), "%04x", h);
        else
            cr_assert_eq(kv_half_from_float(x), h, "%04x", h);
        x = kv_bf16_to_float((uint16_t)h);
        if (isnan(x))
            cr_assert(isnan(kv_bf16_to_float(kv_bf16_from_float(x))), "%04x", h);
        else
            cr_assert_eq(kv_bf16_from_float(x), h, "%04x", h);
    }
}

Test(half, rounds_halfway_cases_to_even)
{
    /* between neighbours h and h+1, the middle belongs to the even one */
    for (uint32_t h = 0; h < 0x7bff; h++) {
        double a = kv_half_to_float((uint16_t)h), b = kv_half_to_float((uint16_t)(h + 1));
        float middle = (float)((a + b) / 2); /* exact in float32 */
        uint32_t even = h % 2 ? h + 1 : h;
        cr_assert_eq(kv_half_from_float(middle), even, "%04x", h);
        cr_assert_eq(kv_half_from_float(-middle), even | 0x8000u, "-%04x", h);
        cr_assert_eq(kv_half_from_float(nextafterf(middle, 1e9f)), h + 1, "%04x", h);
        cr_assert_eq(kv_half_from_float(nextafterf(middle, -1e9f)), h, "%04x", h);
    }
}

Test(half, overflows_at_65520)
{
    cr_expect_eq(kv_half_from_float(65519.996f), 0x7bff);
    cr_expect_eq(kv_half_from_float(65520), 0x7c00);
    cr_expect_eq(kv_half_from_float(-INFINITY), 0xfc00);
    cr_expect_eq(kv_half_from_float(1e-10f), 0);
    cr_expect_eq(kv_half_from_float(-1e-10f), 0x8000);
}

Test(half, bfloat16_ties_to_even)
{
    cr_expect_eq(kv_bf16_from_float(1 + 0x1p-8f), 0x3f80);
    cr_expect_eq(kv_bf16_from_float(1 + 3 * 0x1p-8f), 0x3f82);
    cr_expect_eq(kv_bf16_from_float(1 + 0x1p-8f + 0x1p-20f), 0x3f81);
}
