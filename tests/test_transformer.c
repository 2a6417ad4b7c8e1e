/* The decoder: positions only matter relatively, taps see and change what they name, bad weights and
 * tokens are refused, and a cache of float32 changes nothing. */
#include "decoder.h"

Test(transformer, rmsnorm_gives_unit_mean_square)
{
    float x[3] = {3, -4, 12}, gain[3] = {1, 1, 2}, y[3];
    kv_rmsnorm(y, x, gain, 0, 3);
    double rms = sqrt(169 / 3.0);
    cr_expect(fabs(y[0] - 3 / rms) <= 1e-6 && fabs(y[2] - 24 / rms) <= 1e-6);
    float zero[3] = {0, 0, 0};
    kv_rmsnorm(y, zero, gain, 1e-5, 3);
    cr_expect_eq(y[0], 0.0f);
}

Test(transformer, both_rope_pairings_are_one_rotation)
{
    uint64_t seed = 9;
    float a[8], b[8], cs[8];
    check_fill(a, 8, &seed);
    for (int i = 0; i < 4; i++) { /* pair (2i, 2i+1) becomes (i, i+4) */
        b[i] = a[2 * i];
        b[i + 4] = a[2 * i + 1];
    }
    kv_rope inter = {8, 1, 10000, 1, NULL}, split = {8, 0, 10000, 1, NULL};
    kv_rope_angles(cs, &inter, 77);
    kv_rope_rotate(a, cs, &inter, 1, 8);
    kv_rope_rotate(b, cs, &split, 1, 8);
    for (int i = 0; i < 4; i++)
        cr_expect(a[2 * i] == b[i] && a[2 * i + 1] == b[i + 4]);
}

Test(transformer, rope_angles_follow_base_scale_and_factors)
{
    float cs[4], factors[2] = {2, 8};
    kv_rope r = {4, 1, 100, 0.5, factors};
    kv_rope_angles(cs, &r, 12);
    cr_expect(fabs(cs[0] - cos(12 * 0.5 / 2)) <= 1e-7);
    cr_expect(fabs(cs[3] - sin(12 * 0.5 / 10 / 8)) <= 1e-7);
}

Test(transformer, swiglu_is_silu_times_up)
{
    float g[3] = {-800, 0, 2}, u[3] = {5, 5, 3}, y[3];
    kv_swiglu(y, g, u, 3);
    cr_expect_eq(y[0], 0.0f); /* no overflow far below zero */
    cr_expect_eq(y[1], 0.0f);
    cr_expect(fabs(y[2] - 2 / (1 + exp(-2)) * 3) <= 1e-6);
}

static void logits_at(float *logits, decoder *t, const int *tokens, int n, int position)
{
    kv_run r = decoder_run(t);
    float *hidden = check_floats((size_t)n * t->model.width);
    r.position = position;
    cr_assert_eq(kv_forward(hidden, &r, tokens, n, NULL), KV_OK);
    cr_assert_eq(kv_logits(logits, &r, hidden, n, NULL), KV_OK);
    free(hidden);
}

Test(transformer, shifting_all_positions_changes_only_rounding)
{
    int tokens[33];
    float a[33 * 23], b[33 * 23];
    decoder *t = decoder_make((kv_shape){4, 2, 8}, 3, 33, 10);
    decoder_tokens(tokens, 33, 11);
    logits_at(a, t, tokens, 33, 0);
    logits_at(b, t, tokens, 33, 1000);
    /* float32 cosines err by 2^-25 each, twice per score, through 3 layers of unit-size numbers */
    double diff = check_diff(a, b, 33 * 23);
    cr_expect(diff <= 2e-5, "max |difference| %g", diff);
    cr_expect(diff > 0, "the shift did nothing at all");
    decoder_drop(t);
}

Test(transformer, a_later_token_never_changes_an_earlier_logit)
{
    int tokens[16];
    float a[16 * 23], b[16 * 23];
    decoder *t = decoder_make((kv_shape){3, 1, 8}, 2, 16, 12);
    decoder_tokens(tokens, 16, 13);
    logits_at(a, t, tokens, 16, 0);
    tokens[15] = (tokens[15] + 1) % 23;
    logits_at(b, t, tokens, 16, 0);
    cr_expect(check_same(a, b, 15 * 23));
    cr_expect_not(check_same(a + 15 * 23, b + 15 * 23, 23));
    decoder_drop(t);
}

typedef struct {
    int calls[KV_TAPS], rows[KV_TAPS], cols[KV_TAPS];
    kv_tap write;
    int channel;
} seen;

static void look(void *self, kv_tap tap, int layer, float *data, int rows, int cols)
{
    seen *s = self;
    s->calls[tap]++;
    s->rows[tap] = rows;
    s->cols[tap] = cols;
    if (tap == s->write && layer == 0)
        for (int i = 0; i < rows; i++)
            data[(size_t)i * cols + s->channel] = 0;
}

static void forward_with(float *hidden, decoder *t, seen *s, const int *tokens, int n)
{
    kv_run r = decoder_run(t);
    r.tap = s ? look : NULL;
    r.tap_self = s;
    r.tap_mask = ~0u;
    r.remix = 1;
    cr_assert_eq(kv_forward(hidden, &r, tokens, n, NULL), KV_OK);
}

Test(transformer, taps_fire_once_a_layer_with_their_shapes)
{
    int tokens[5], expect[KV_TAPS][2] = {{5, 32}, {5, 32}, {5, 16}, {5, 32}, {5, 16},
                                         {5, 16}, {20, 5}, {5, 32}, {5, 32}, {5, 67},
                                         {5, 32}, {5, 32}, {0, 0}};
    float hidden[5 * 32], plain[5 * 32];
    decoder *t = decoder_make((kv_shape){4, 2, 8}, 2, 5, 14);
    seen s = {.write = KV_TAPS};
    decoder_tokens(tokens, 5, 15);
    forward_with(plain, t, NULL, tokens, 5);
    forward_with(hidden, t, &s, tokens, 5);
    cr_expect(check_same(hidden, plain, 5 * 32), "looking changes nothing");
    for (int i = 0; i < KV_TAPS; i++) {
        cr_expect_eq(s.calls[i], i == KV_TAP_EMBED ? 1 : i == KV_TAP_LOGITS ? 0 : 2, "%s",
                     kv_tap_name((kv_tap)i));
        cr_expect_eq(s.rows[i], expect[i][0], "%s", kv_tap_name((kv_tap)i));
        cr_expect_eq(s.cols[i], expect[i][1], "%s", kv_tap_name((kv_tap)i));
        cr_expect_eq(kv_tap_find(kv_tap_name((kv_tap)i)), i);
    }
    cr_expect_eq(kv_tap_find("nothing"), -1);
    decoder_drop(t);
}

Test(transformer, writing_through_any_tap_changes_the_result)
{
    int tokens[5];
    float plain[5 * 32], changed[5 * 32];
    decoder *t = decoder_make((kv_shape){4, 2, 8}, 2, 5, 16);
    decoder_tokens(tokens, 5, 17);
    forward_with(plain, t, NULL, tokens, 5);
    for (int tap = KV_TAP_Q_PRE; tap < KV_TAP_LOGITS; tap++) {
        seen s = {.write = (kv_tap)tap, .channel = 0};
        forward_with(changed, t, &s, tokens, 5);
        cr_expect_not(check_same(plain, changed, 5 * 32), "%s", kv_tap_name((kv_tap)tap));
    }
    decoder_drop(t);
}

Test(transformer, refuses_unknown_tokens_and_bad_weights)
{
    float hidden[3 * 16];
    int tokens[3] = {1, 23, 2};
    kv_error e;
    decoder *t = decoder_make((kv_shape){2, 1, 8}, 2, 3, 18);
    kv_run r = decoder_run(t);
    cr_expect_eq(kv_forward(hidden, &r, tokens, 3, &e), KV_FAIL_RUN);
    cr_expect(strstr(e.text, "token 23 at position 1"), "%s", e.text);
    tokens[1] = -1;
    cr_expect_eq(kv_forward(hidden, &r, tokens, 3, &e), KV_FAIL_RUN);
    tokens[1] = 1;
    ((float *)t->layer[1].down.data)[7] = NAN;
    cr_expect_eq(kv_forward(hidden, &r, tokens, 3, &e), KV_FAIL_RUN);
    cr_expect(strstr(e.text, "layer 1"), "%s", e.text);
    hidden[4] = INFINITY;
    float logits[3 * 23];
    cr_expect_eq(kv_logits(logits, &r, hidden, 3, &e), KV_FAIL_RUN);
    decoder_drop(t);
}
