/* Evidence: what each rule is told is what the raw taps show; and in streams the criterion goes on
 * counting, as somebody does who keeps a list of every weight. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <criterion/criterion.h>
#include <criterion/new/assert.h>

#include "evidence.h"
#include "sequence.h"
#include "tiny.h"

enum { T = 37, L = TINY_LAYERS, C = TINY_WIDTH, K = TINY_KV_HEADS * TINY_HEAD, H = TINY_HEADS };

static tiny m;
static int text[T];
static kv_stage stage = {TINY_LAYER, TINY_CHANNEL, -1, 5000, 1, 100, 1};
static const kv_profile profile = {.layers = L, .width = C, .vocab = TINY_VOCAB, .n_stages = 1,
                                   .stage = &stage};

/* Everything that the rules could ask for. */
static struct {
    float input[(L + 1) * T * C], k[L * T * K], rows[L * H * T * T];
} raw;
static tm_evidence *evidence;

static void keep_raw(void *self, kv_tap tap, int layer, float *data, int rows, int cols)
{
    size_t n = (size_t)rows * (size_t)cols * sizeof *data;
    if (tap == KV_TAP_EMBED) memcpy(raw.input, data, n);
    if (tap == KV_TAP_H) memcpy(raw.input + (layer + 1) * T * C, data, n);
    if (tap == KV_TAP_K) memcpy(raw.k + layer * T * K, data, n);
    if (tap == KV_TAP_ATTENTION) memcpy(raw.rows + layer * H * T * T, data, n);
    tm_evidence_tap(self, tap, layer, data, rows, cols);
}

static void setup(void)
{
    tiny_init(&m, 1);
    for (int t = 0; t < T; t++) text[t] = 8 + (t * t + 3 * t) % 31;
    text[0] = 1;
    text[21] = text[30] = TINY_SINK;
}

/* The keep set of a rule, and of all that it was told the raw arrays. Taps that it did not ask for
 * are shown to it all the same. */
static void gather(kv_keep *keep, kv_keep_rule *rule, const char *rule_text)
{
    static float hidden[T * C], work[200000];
    kv_error err = {0};
    cr_assert(kv_forward_work(&m.model, ~0u, 0, T) <= 200000);
    cr_assert(eq(int, kv_keep_parse(rule, rule_text, &err), 0), "%s", err.text);
    cr_assert(eq(int, tm_evidence_open(&evidence, rule, &profile, &m.model, T, &err), 0), "%s",
              err.text);
    kv_run run = {.model = &m.model, .backend = &m.backend, .tap = keep_raw, .tap_self = evidence,
                  .tap_mask = ~0u, .work = work};
    cr_assert(eq(int, kv_forward(hidden, &run, text, T, &err), 0), "%s", err.text);
    cr_assert(eq(int, tm_keep_init(keep, L, T, &err), 0));
    cr_assert(eq(int, tm_evidence_keep(keep, NULL, evidence, text, &err), 0), "%s", err.text);
}

static void expect_set(const kv_keep *keep, int layer, const int *position, int n, const char *rule)
{
    cr_expect(eq(int, keep->count[layer], n), "%s, layer %d", rule, layer);
    for (int i = 0; i < n && i < keep->count[layer]; i++)
        cr_expect(eq(int, keep->position[layer * keep->capacity + i], position[i]), "%s, layer %d",
                  rule, layer);
}

static void release(kv_keep *keep)
{
    tm_keep_free(keep);
    tm_evidence_close(evidence);
}

/* The n largest of x, by brute force. */
static void largest(int *position, const double *x, int n)
{
    int used[T] = {0}, at = 0;
    for (int i = 0; i < n; i++) {
        int best = -1;
        for (int t = 0; t < T; t++)
            if (!used[t] && (best < 0 || x[t] > x[best])) best = t;
        used[best] = 1;
    }
    for (int t = 0; t < T; t++)
        if (used[t]) position[at++] = t;
}

static double alpha(int layer, int t)
{
    double sum = 0;
    for (int h = 0; h < H; h++)
        for (int i = t; i < T; i++) sum += raw.rows[((layer * H + h) * T + i) * T + t];
    return sum / H / (T - t);
}

Test(test_evidence, every_rule_reads_its_own_place)
{
    static const char *const rules[] = {"toph:3", "attention:3", "bigkeys:3", "smallkeys:3"};
    setup();
    for (int r = 0; r < 4; r++) {
        kv_keep keep;
        kv_keep_rule rule;
        gather(&keep, &rule, rules[r]);
        for (int l = 0; l < L; l++) {
            float x[T], scratch[T];
            int expected[3];
            for (int t = 0; t < T; t++) {
                const float *row = raw.input + (l * T + t) * C;
                double score = r == 1 ? alpha(l, t) : 0;
                for (int c = 0; r == 0 && c < C; c++) score = fmax(score, fabsf(row[c]));
                for (int i = 0; r > 1 && i < K; i++) score += pow(raw.k[(l * T + t) * K + i], 2);
                x[t] = (float)(r > 1 ? sqrt(score) : score);
            }
            if (r == 3) kv_smallest(expected, x, T, 3, scratch);
            else kv_top_magnitudes(expected, x, T, 3, scratch);
            expect_set(&keep, l, expected, 3, rules[r]);
        }
        release(&keep);
    }
}

Test(test_evidence, rotatekv_reads_the_input_of_each_layer)
{
    kv_keep keep;
    kv_keep_rule rule;
    setup();
    gather(&keep, &rule, "rotatekv");
    for (int l = 0; l < L; l++) {
        int expected[KV_ROTATEKV_ENTRIES];
        int n = kv_rotatekv_tokens(expected, raw.input + l * T * C, T, C);
        expect_set(&keep, l, expected, n, "rotatekv");
    }
    release(&keep);
}

Test(test_evidence, attention_without_sinks_leaves_the_planted_ones_out)
{
    kv_keep keep;
    kv_keep_rule rule;
    setup();
    gather(&keep, &rule, "attention:37-sinks");
    for (int l = 0; l < L; l++) {
        cr_expect(eq(int, keep.count[l], T - 2));
        for (int i = 0; i < keep.count[l]; i++)
            cr_expect(keep.position[l * T + i] != 21 && keep.position[l * T + i] != 30);
    }
    const float *h = tm_evidence_h(evidence);
    for (int t = 0; t < T; t++)
        cr_expect(h[t] == raw.input[((TINY_LAYER + 1) * T + t) * C + TINY_CHANNEL]);
    release(&keep);
}

Test(test_evidence, the_criterion_has_one_set_for_the_layers_it_covers)
{
    kv_keep keep;
    kv_keep_rule rule;
    double score[T];
    int expected[KV_CRITERION_TOKENS];
    setup();
    gather(&keep, &rule, "criterion:0.5/after");
    for (int t = 0; t < T; t++) {
        double mean = 0, square = 0;
        for (int l = 0; l < L; l++) mean += alpha(l, t) / L;
        for (int l = 0; l < L; l++) square += pow(alpha(l, t) - mean, 2) / L;
        score[t] = mean - 0.5 * sqrt(square);
    }
    largest(expected, score, KV_CRITERION_TOKENS);
    for (int l = 0; l < L; l++)
        expect_set(&keep, l, expected, l > TINY_LAYER ? KV_CRITERION_TOKENS : 0, "criterion");
    release(&keep);
}

Test(test_evidence, it_asks_for_what_the_rule_reads_and_no_more)
{
    static const struct {
        const char *rule;
        unsigned mask;
    } c[] = {{"first:5", 0}, {"random:3:1", 0}, {"toph:5", 1u << KV_TAP_EMBED | 1u << KV_TAP_H},
             {"bigkeys:2", 1u << KV_TAP_K}, {"criterion", 1u << KV_TAP_ATTENTION}};
    setup();
    for (int i = 0; i < 5; i++) {
        kv_keep_rule rule;
        kv_error err = {0};
        cr_assert(eq(int, kv_keep_parse(&rule, c[i].rule, &err), 0));
        cr_assert(eq(int, tm_evidence_open(&evidence, &rule, NULL, &m.model, T, &err), 0));
        cr_expect(tm_evidence_mask(evidence) == c[i].mask, "%s", c[i].rule);
        cr_expect(tm_evidence_h(evidence) == NULL);
        tm_evidence_close(evidence);
    }
}

Test(test_evidence, what_is_wrong_with_a_rule_is_found_at_once)
{
    static const struct {
        const char *rule, *said;
    } c[] = {{"greedy:3", "eval"}, {"toph:3/2-9", "layer 9"}, {"positions:37", "37"},
             {"first:1/after", "calibrate"}, {"attention:1-sinks", "calibrate"}};
    setup();
    for (int i = 0; i < 5; i++) {
        kv_keep_rule rule;
        kv_error err = {0};
        cr_assert(eq(int, kv_keep_parse(&rule, c[i].rule, &err), 0));
        cr_expect(tm_evidence_open(&evidence, &rule, NULL, &m.model, T, &err) == KV_FAIL_USAGE);
        cr_expect(strstr(err.text, c[i].said) != NULL, "%s says: %s", c[i].rule, err.text);
        cr_expect(evidence == NULL);
    }
}

/* ------------------------------------------------- the criterion in streams */

enum { PROMPT = 6, RECENT = 6, GROUP = 4 };

static struct {
    float weight[L][H][T][T]; /* [query][key] */
    int kept[L][T], position; /* position: of the first query of the pass */
} list;

static void write_down(void *self, kv_tap tap, int layer, float *data, int rows, int cols)
{
    int n = rows / H;
    (void)self;
    (void)tap;
    for (int h = 0; h < H; h++)
        for (int i = 0; i < n; i++)
            memcpy(list.weight[layer][h][list.position + i], data + (h * n + i) * cols,
                   (size_t)cols * sizeof *data);
}

/* The five best of the first n tokens, from the whole list. */
static void five_best(int *best, int n, double M)
{
    double score[T];
    for (int t = 0; t < T; t++) score[t] = -1e9;
    for (int t = 0; t < n; t++) {
        double a[L], mean = 0, square = 0;
        for (int l = 0; l < L; l++) {
            a[l] = 0;
            for (int h = 0; h < H; h++)
                for (int i = t; i < n; i++) a[l] += list.weight[l][h][i][t];
            a[l] /= H * (n - t);
            mean += a[l] / L;
        }
        for (int l = 0; l < L; l++) square += pow(a[l] - mean, 2) / L;
        score[t] = mean - M * sqrt(square);
    }
    largest(best, score, KV_CRITERION_TOKENS);
}

static int waits(const kv_cache *c, int layer, int t)
{
    return t >= c->layer[layer].k.quantized && t >= c->layer[layer].v.quantized;
}

/* The same steps by hand: prefill, keep set, and promotions after every step, layers 1 to 3. */
static void by_hand(tm_stream *s, double M)
{
    static float hidden[T * C], work[200000];
    kv_run run = {.model = &m.model, .backend = &m.backend, .memory = tm_stream_memory(s),
                  .tap = write_down, .tap_mask = 1u << KV_TAP_ATTENTION, .work = work};
    kv_error err = {0};
    kv_keep keep;
    int best[KV_CRITERION_TOKENS];
    memset(&list, 0, sizeof list);
    cr_assert(eq(int, kv_forward(hidden, &run, text, PROMPT, &err), 0), "%s", err.text);
    cr_assert(eq(int, tm_keep_init(&keep, L, T, &err), 0));
    five_best(best, PROMPT, M);
    for (int l = 1; l < L; l++) {
        memcpy(keep.position + l * T, best, sizeof best);
        keep.count[l] = KV_CRITERION_TOKENS;
    }
    cr_assert(eq(int, tm_stream_begin_decode(s, &keep, &err), 0));
    tm_keep_free(&keep);
    for (int t = PROMPT; t < T; t++) {
        run.past = run.position = list.position = t;
        cr_assert(eq(int, kv_forward(hidden, &run, text + t, 1, &err), 0), "%s", err.text);
        five_best(best, t + 1, M);
        for (int l = 1; l < L; l++)
            for (int i = 0; i < KV_CRITERION_TOKENS; i++)
                if (waits(tm_stream_cache(s), l, best[i]))
                    cr_assert(eq(int, tm_stream_promote(s, best[i], l, l, NULL, &err), 0));
    }
}

Test(test_evidence, in_streams_the_criterion_is_asked_after_every_step)
{
    const tm_engine e = {&m.model, &m.backend};
    kv_error err = {0};
    setup();
    for (int i = 0; i < 2; i++) {
        tm_sequence_spec spec = {.recent = RECENT, .capacity = T};
        tm_sequence *s;
        tm_stream *by;
        float hidden[T * C];
        int late = 0;
        cr_assert(eq(int, kv_format_parse(&spec.keys, "4:channel:4", &err), 0));
        cr_assert(eq(int, kv_format_parse(&spec.values, "4:token:8", &err), 0));
        const char *rule = i ? "criterion/1-3+decode" : "criterion:0/1-3";
        cr_assert(eq(int, kv_keep_parse(&spec.keep, rule, &err), 0));
        tm_stream_spec stream = {spec.keys, spec.values, RECENT, T, T};
        cr_assert(eq(int, tm_stream_open(&by, &m.model, &stream, NULL, &err), 0));
        by_hand(by, i);
        cr_assert(eq(int, tm_sequence_open(&s, &e, NULL, &spec, &err), 0), "%s", err.text);
        cr_assert(eq(int, tm_sequence_start(s, hidden, text, PROMPT, &err), 0), "%s", err.text);
        for (int t = PROMPT; t < T; t++)
            cr_assert(eq(int, tm_sequence_step(s, hidden, text[t], &err), 0), "%s", err.text);
        const kv_cache *a = tm_stream_cache(by);
        const kv_cache *b = tm_stream_cache(tm_sequence_stream(s));
        for (int l = 0; l < L; l++) {
            cr_assert(eq(int, b->layer[l].n_kept, a->layer[l].n_kept), "layer %d", l);
            cr_expect(eq(int, a->layer[l].n_kept == 0, l == 0));
            for (int j = 0; j < a->layer[l].n_kept; j++) {
                cr_expect(eq(int, b->layer[l].position[j], a->layer[l].position[j]));
                late += a->layer[l].position[j] >= PROMPT;
            }
        }
        cr_expect(late > 0, "no token of the decode phase came among the best; choose another text");
        cr_expect(a->layer[1].n_kept < T, "all are kept; the test says little");
        tm_sequence_close(s);
        tm_stream_close(by);
    }
}
