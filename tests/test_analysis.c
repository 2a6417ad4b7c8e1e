/* Analysis: what is boiled down equals what the definitions say of the raw taps; the planted
 * outlier of the tiny model is found, and a model without one has no stage. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <criterion/criterion.h>
#include <criterion/new/assert.h>

#include "analysis.h"
#include "tiny.h"

static tiny m;
static tm_engine engine = {&m.model, &m.backend};

enum { T = 37 };
static int text[T];

static void setup(int planted)
{
    tiny_init(&m, planted);
    for (int t = 0; t < T; t++) text[t] = 8 + (t * t + 3 * t) % 31;
    text[0] = 1;
    text[21] = TINY_SINK;
}

/* Everything one layer's taps show, kept for comparison. */
static struct {
    int layer;
    float q[T * 32], k[T * 16], v[T * 16], rows[4 * T * T], h[T * TINY_WIDTH];
} raw;

static void keep_raw(void *self, kv_tap tap, int layer, float *data, int rows, int cols)
{
    (void)self;
    size_t n = (size_t)rows * (size_t)cols * sizeof *data;
    if (layer != raw.layer) return;
    if (tap == KV_TAP_Q) memcpy(raw.q, data, n);
    if (tap == KV_TAP_K) memcpy(raw.k, data, n);
    if (tap == KV_TAP_V) memcpy(raw.v, data, n);
    if (tap == KV_TAP_ATTENTION) memcpy(raw.rows, data, n);
    if (tap == KV_TAP_H) memcpy(raw.h, data, n);
}

static void collect(int layer)
{
    static float hidden[T * TINY_WIDTH], work[200000];
    kv_run run = {.model = &m.model, .backend = &m.backend, .tap = keep_raw, .tap_mask = ~0u,
                  .work = work};
    kv_error err;
    raw.layer = layer;
    cr_assert(kv_forward_work(&m.model, ~0u, 0, T) <= 200000);
    cr_assert(eq(int, kv_forward(hidden, &run, text, T, &err), 0));
}

Test(test_analysis, attention_agrees_with_the_rows)
{
    kv_error err;
    tm_attention a;
    setup(1);
    cr_assert(eq(int, tm_attention_run(&a, &engine, text, T, 0.3, &err), 0));
    for (int layer = 0; layer < TINY_LAYERS; layer++) {
        collect(layer);
        int set[] = {0, 3, 21};
        double mass = 0;
        for (int h = 0; h < TINY_HEADS; h++) {
            const float *rows = raw.rows + (size_t)h * T * T;
            double alpha[T];
            kv_sink_alpha(alpha, rows, T);
            for (int t = 0; t < T; t++)
                cr_expect(a.alpha[(layer * TINY_HEADS + h) * T + t] == alpha[t]);
            mass += kv_sink_mass(rows, T, set, 3) / TINY_HEADS;
        }
        cr_expect(epsilon_eq(dbl, tm_attention_mass(&a, layer, set, 3), mass, 1e-12));
        cr_expect(epsilon_eq(dbl, tm_attention_mass(&a, layer, set, 0), 0, 0));
        for (int t = 0; t < T; t++) {
            double cosine = 0;
            for (int h = 0; h < TINY_HEADS; h++)
                for (int i = t; i < T; i++)
                    cosine += kv_cosine(raw.q + (i * TINY_HEADS + h) * TINY_HEAD,
                                        raw.k + (t * TINY_KV_HEADS + h / 2) * TINY_HEAD,
                                        TINY_HEAD) / (T - t) / TINY_HEADS;
            /* a float result of magnitude <= 1, rounded once per head */
            cr_expect(epsilon_eq(dbl, a.cosine[layer * T + t], cosine, 5e-7));
            cr_expect(epsilon_eq(dbl, a.q_norm[layer * T + t], kv_norm(raw.q + t * 32, 32), 1e-5));
            cr_expect(epsilon_eq(dbl, a.k_norm[layer * T + t], kv_norm(raw.k + t * 16, 16), 1e-5));
            cr_expect(epsilon_eq(dbl, a.v_norm[layer * T + t], kv_norm(raw.v + t * 16, 16), 1e-5));
        }
    }
    tm_attention_free(&a);
    cr_expect(a.alpha == NULL);
}

Test(test_analysis, heads_are_counted_as_void_or_heavy)
{
    kv_error err;
    tm_attention a;
    double share[T];
    setup(1);
    cr_assert(eq(int, tm_attention_run(&a, &engine, text, T, 0.05, &err), 0));
    tm_attention_share(share, &a, 0.05);
    for (int t = 0; t < T; t++) {
        int sinks = 0, kinds = 0;
        for (int lh = 0; lh < TINY_LAYERS * TINY_HEADS; lh++) sinks += a.alpha[lh * T + t] > 0.05;
        for (int l = 0; l < TINY_LAYERS; l++)
            kinds += a.is_void[l * T + t] + a.is_heavy[l * T + t];
        cr_expect(eq(int, kinds, sinks));
        cr_expect(epsilon_eq(dbl, share[t], 100.0 * sinks / (TINY_LAYERS * TINY_HEADS), 1e-9));
    }
    cr_expect(share[T - 1] > 0 || share[0] > 0);
    tm_attention_free(&a);
}

Test(test_analysis, maps_are_the_mean_rows)
{
    static float map[2 * T * T];
    kv_error err;
    int layers[] = {2, 0};
    setup(1);
    cr_assert(eq(int, tm_attention_maps(map, layers, 2, &engine, text, T, &err), 0));
    for (int i = 0; i < 2; i++) {
        collect(layers[i]);
        for (int j = 0; j < T * T; j++) {
            double mean = 0;
            for (int h = 0; h < TINY_HEADS; h++) mean += raw.rows[h * T * T + j] / TINY_HEADS;
            cr_assert(epsilon_eq(dbl, map[i * T * T + j], mean, 5e-7));
        }
    }
}

Test(test_analysis, ranking_takes_the_first_of_equals_and_leaves_late_keys_out)
{
    double v[6] = {1, 5, 5, 2, 9, 9};
    int p[6];
    cr_expect(eq(int, tm_rank(p, v, 6, 3, 6), 4));
    cr_expect(p[0] == 1 && p[1] == 2 && p[2] == 3 && p[3] == 0);
    cr_expect(eq(int, tm_rank(p, v, 6, 1, 2), 2));
    cr_expect(p[0] == 4 && p[1] == 5);
    cr_expect(eq(int, tm_rank(p, v, 6, 7, 6), 0));
    cr_expect(eq(int, tm_rank(p, v, 6, 1, 0), 0));
}

Test(test_analysis, probes_read_single_channels)
{
    float out[3 * T];
    kv_error err;
    tm_probe probe[] = {{KV_TAP_H, 2, 9}, {KV_TAP_H, 2, 0}, {KV_TAP_DOWN_IN, 1, 0}};
    setup(1);
    cr_assert(eq(int, tm_probe_run(out, probe, 3, &engine, text, T, &err), 0));
    collect(2);
    for (int t = 0; t < T; t++) {
        cr_expect(out[t] == raw.h[t * TINY_WIDTH + 9]);
        cr_expect(out[T + t] == raw.h[t * TINY_WIDTH]);
        int fires = fabsf(out[2 * T + t]) > 100;
        cr_expect(fires == (t == 21), "unit 0 at %d: %g", t, out[2 * T + t]);
    }
}

Test(test_analysis, outliers_are_found_where_they_were_planted)
{
    kv_error err;
    tm_outliers o;
    setup(1);
    cr_assert(eq(int, tm_outliers_run(&o, &engine, text, T, &err), 0));
    cr_assert(eq(int, o.n_stages, 1));
    cr_expect(eq(int, o.stage[0].layer, TINY_LAYER));
    cr_expect(eq(int, o.stage[0].channel, TINY_CHANNEL));
    cr_expect(eq(int, o.stage[0].sign, -1));
    cr_expect(eq(int, o.weak, 0));
    for (int l = 0; l <= TINY_LAYERS; l++) {
        int large = o.h[l].max > 1000;
        cr_expect(large == (l > TINY_LAYER));
        if (l <= TINY_LAYER) continue;
        cr_expect(o.h[l].row == 21 && o.h[l].col == TINY_CHANNEL);
    }
    cr_expect(o.down_out[TINY_LAYER].max > 1000 && o.down_in[TINY_LAYER].col == 0);
    cr_expect(o.peak[(TINY_LAYER + 1) * TINY_WIDTH + TINY_CHANNEL] < -1000);
    tm_outliers_free(&o);
}

static int prompt_text[3][T];
static const int *const prompt[3] = {prompt_text[0], prompt_text[1], prompt_text[2]};
static const int length[3] = {T, T - 9, 5};

static void three_prompts(void)
{
    for (int p = 0; p < 3; p++)
        for (int t = 0; t < T; t++) prompt_text[p][t] = text[(t + 5 * p) % T];
}

static void count_progress(void *self, double done, double total)
{
    double *last = self;
    cr_expect(done >= *last && done <= total);
    *last = done;
}

Test(test_analysis, calibration_learns_layer_channel_sign_threshold_and_id)
{
    kv_error err;
    tm_calibration c;
    double last = 0;
    setup(1);
    three_prompts(); /* the third is cut before its sink */
    cr_assert(eq(int, tm_calibrate(&c, &engine, prompt, length, 3, count_progress, &last, &err),
                 0));
    cr_expect(last == 4);
    cr_assert(eq(int, c.profile.n_stages, 1));
    const kv_stage *s = &c.profile.stage[0];
    cr_expect(eq(int, s->layer, TINY_LAYER));
    cr_expect(eq(int, s->channel, TINY_CHANNEL));
    cr_expect(eq(int, s->sign, -1));
    cr_expect(eq(int, s->prompts, 2));
    cr_expect(s->at_sinks > 1000 && s->elsewhere < 2);
    cr_expect(s->threshold > s->elsewhere && s->threshold < s->at_sinks);
    cr_assert(eq(int, c.profile.n_ids, 1));
    cr_expect(eq(int, c.profile.ids[0], TINY_SINK));
    cr_expect(c.sun_layer == TINY_LAYER && c.sun_channel == TINY_CHANNEL && c.sun_prompts == 2);
    cr_expect(c.profile.layers == TINY_LAYERS && c.profile.vocab == TINY_VOCAB);
    tm_calibration_free(&c);
}

/* The order of the prompts decides which passes are repeated, and nothing else. */
Test(test_analysis, calibration_does_not_depend_on_the_order_of_prompts)
{
    static const int order[3][3] = {{0, 1, 2}, {2, 0, 1}, {1, 2, 0}};
    kv_error err;
    tm_calibration c[3];
    setup(1);
    three_prompts();
    for (int i = 0; i < 3; i++) {
        const int *const p[3] = {prompt[order[i][0]], prompt[order[i][1]], prompt[order[i][2]]};
        int n[3] = {length[order[i][0]], length[order[i][1]], length[order[i][2]]};
        cr_assert(eq(int, tm_calibrate(&c[i], &engine, p, n, 3, NULL, NULL, &err), 0));
        cr_assert(eq(int, c[i].profile.n_stages, 1));
        cr_expect(c[i].profile.stage[0].threshold == c[0].profile.stage[0].threshold);
        cr_expect(c[i].profile.stage[0].at_sinks == c[0].profile.stage[0].at_sinks);
        cr_expect(c[i].profile.stage[0].elsewhere == c[0].profile.stage[0].elsewhere);
        cr_expect(eq(int, c[i].profile.n_ids, 1));
    }
    for (int i = 0; i < 3; i++) tm_calibration_free(&c[i]);
}

Test(test_analysis, a_model_without_outliers_has_no_stage)
{
    kv_error err;
    tm_calibration c;
    setup(0);
    three_prompts();
    cr_assert(eq(int, tm_calibrate(&c, &engine, prompt, length, 3, NULL, NULL, &err), 0));
    cr_expect(eq(int, c.profile.n_stages, 0));
    cr_expect(eq(int, c.profile.n_ids, 0));
    cr_expect(eq(int, c.sun_layer, -1));
    kv_keep keep;
    kv_keep_rule rule;
    cr_assert(eq(int, kv_keep_parse(&rule, "kvsink:5", &err), 0));
    cr_assert(eq(int, tm_keep_init(&keep, TINY_LAYERS, T, &err), 0));
    cr_expect(eq(int, tm_keep_build(&keep, NULL, &rule, text, T, &c.profile, NULL, &err), 0));
    for (int l = 0; l < TINY_LAYERS; l++) cr_expect(eq(int, keep.count[l], 0));
    tm_keep_free(&keep);
    tm_calibration_free(&c);
}

Test(test_analysis, kvsink_keeps_the_planted_sink_behind_its_layer)
{
    kv_error err;
    tm_calibration c;
    kv_keep keep;
    kv_keep_rule rule;
    float h[T];
    tm_probe probe;
    int capped;
    setup(1);
    three_prompts();
    cr_assert(eq(int, tm_calibrate(&c, &engine, prompt, length, 3, NULL, NULL, &err), 0));
    tm_stage_probes(&probe, &c.profile);
    cr_assert(eq(int, tm_probe_run(h, &probe, 1, &engine, text, T, &err), 0));
    cr_assert(eq(int, kv_keep_parse(&rule, "kvsink:auto", &err), 0));
    cr_assert(eq(int, tm_keep_init(&keep, TINY_LAYERS, T, &err), 0));
    cr_assert(eq(int, tm_keep_build(&keep, &capped, &rule, text, T, &c.profile, h, &err), 0));
    for (int l = 0; l < TINY_LAYERS; l++) {
        cr_expect(eq(int, keep.count[l], l > TINY_LAYER));
        cr_expect(l <= TINY_LAYER || keep.position[l * T] == 21);
    }
    cr_expect(eq(int, capped, 0));
    tm_keep_free(&keep);
    tm_calibration_free(&c);
}

Test(test_analysis, errors_pass_through)
{
    kv_error err;
    tm_attention a;
    tm_outliers o;
    tm_calibration c;
    int bad[3] = {1, TINY_VOCAB, 2}, none = 0;
    const int *const prompts[1] = {bad};
    const int lengths[1] = {3};
    setup(1);
    cr_expect(eq(int, tm_attention_run(&a, &engine, bad, 3, 0.3, &err), KV_FAIL_RUN));
    cr_expect(eq(int, tm_outliers_run(&o, &engine, bad, 3, &err), KV_FAIL_RUN));
    cr_expect(eq(int, tm_calibrate(&c, &engine, prompts, lengths, 1, NULL, NULL, &err),
                 KV_FAIL_RUN));
    cr_expect(eq(int, tm_calibrate(&c, &engine, prompts, lengths, none, NULL, NULL, &err),
                 KV_FAIL_USAGE));
    ((float *)m.layer[2].up.data)[3] = NAN;
    cr_expect(eq(int, tm_outliers_run(&o, &engine, text, T, &err), KV_FAIL_RUN));
    cr_expect(strstr(err.text, "layer 2") != NULL);
}
