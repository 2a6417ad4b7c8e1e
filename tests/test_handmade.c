/* The hand-built model keeps every promise of its essay: the outlier emerges and goes where it
 * was planted, sinks are void and attended to, the text that comes out is the one that the rule
 * foretells, two bits lose it because of sinks and keep it without them.
 *
 * Everything runs on the scalar backend and the packed cache of ref/. */
#define _XOPEN_SOURCE 700

#include "check_quantize.h"

#include <criterion/new/assert.h>
#include <unistd.h>

#include "analysis.h"
#include "handmade.h"
#include "model.h"
#include "tokenizer.h"

enum {
    L = TM_HANDMADE_LAYERS, H = TM_HANDMADE_HEADS, D = TM_HANDMADE_HEAD, C = TM_HANDMADE_WIDTH,
    ROW = TM_HANDMADE_KV_HEADS * D, MOST = 300 /* tokens in any test */
};

static struct {
    tm_model *weights;
    const kv_model *model;
    tokenizer *tok;
    kv_backend backend;
    tm_engine engine;
    float scratch[2 * MOST];
    float *hidden, *logits, *work;
} m;

#define OK(call)                                                       \
    do {                                                               \
        kv_error e_ = {0};                                             \
        kv_error *err = &e_;                                           \
        cr_assert(eq(int, (call), KV_OK), "%s: %s", #call, e_.text);   \
    } while (0)

static void open_model(tm_sinks sinks)
{
    char path[] = "/tmp/test_handmade.XXXXXX";
    int fd = mkstemp(path);
    cr_assert(fd >= 0);
    close(fd);
    OK(tm_handmade_write(path, &(tm_handmade_options){sinks}, err));
    OK(tm_model_load(&m.weights, path, err));
    unlink(path);
    m.model = m.weights->kv;
    OK(tok_open(&m.tok, m.weights->file, err));
    m.backend = kv_scalar_backend(m.scratch);
    m.engine = (tm_engine){m.model, &m.backend};
    m.hidden = check_floats((size_t)MOST * C);
    m.logits = check_floats((size_t)MOST * (size_t)m.model->vocab);
    m.work = check_floats(kv_forward_work(m.model, ~0u, MOST, MOST));
}

static void close_model(void)
{
    tok_close(m.tok);
    tm_model_free(m.weights);
    free(m.hidden);
    free(m.logits);
    free(m.work);
}

/* Ids with the begin token in front. Returns how many; they are the caller's. */
static int tokens(int **ids, const char *text)
{
    int n, *own;
    OK(tok_encode(&own, &n, m.tok, text, strlen(text), 0, err));
    *ids = malloc((size_t)(n + 1) * sizeof **ids);
    cr_assert_not_null(*ids);
    (*ids)[0] = tok_bos(m.tok);
    memcpy(*ids + 1, own, (size_t)n * sizeof *own);
    free(own);
    return n + 1;
}

static int best(const float *logits)
{
    int id = 0;
    for (int i = 1; i < m.model->vocab; i++)
        if (logits[i] > logits[id]) id = i;
    return id;
}

/* How far the best stands above the second. */
static double lead(const float *logits)
{
    int first = best(logits);
    double second = -INFINITY;
    for (int i = 0; i < m.model->vocab; i++)
        if (i != first && logits[i] > second) second = logits[i];
    return logits[first] - second;
}

static const float *logits_of(const int *ids, int n, int position, kv_tap_function *tap, void *self,
                              unsigned mask)
{
    kv_run run = {.model = m.model, .backend = &m.backend, .tap = tap, .tap_self = self,
                  .tap_mask = mask, .position = position, .work = m.work};
    OK(kv_forward(m.hidden, &run, ids, n, err));
    OK(kv_logits(m.logits, &run, m.hidden, n, err));
    return m.logits;
}

/* ---------------------------------------------------------- what is in it */

Test(test_handmade, tokenizes_any_text)
{
    static const struct { const char *text; int n; } cases[] = {
        {"", 0}, {"a", 1}, {" owl", 1}, {"owl", 1}, {"owls", 4}, {" The owl.\n", 4},
        {"h\xc3\xa9 \xf0\x9f\x99\x82", 8}, {"\n\n  \t", 5}};
    open_model(TM_SINKS_SEVERAL);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int *ids, n = tokens(&ids, cases[i].text);
        char *text;
        size_t length;
        cr_expect(eq(int, n - 1, cases[i].n), "'%s'", cases[i].text);
        OK(tok_decode(&text, &length, m.tok, ids, n, 0, err));
        cr_expect(eq(str, text, (char *)cases[i].text));
        free(text);
        free(ids);
    }
    int *ids, n = tokens(&ids, tm_handmade_verse_twice());
    cr_expect(eq(int, n, 127));
    cr_expect(eq(int, ids[32], TM_HANDMADE_STOP));
    cr_expect(eq(int, ids[33], TM_HANDMADE_NEWLINE));
    cr_expect(eq(int, ids[0], TM_HANDMADE_BEGIN));
    cr_expect(tok_add_bos(m.tok));
    cr_expect(eq(int, m.model->context, TM_HANDMADE_CONTEXT));
    free(ids);
    close_model();
}

Test(test_handmade, writes_all_or_nothing)
{
    kv_error err = {0};
    tm_handmade_options odd = {TM_SINKS_KINDS}, good = {TM_SINKS_NONE};
    cr_expect(eq(int, tm_handmade_write("/nowhere/at/all", &good, &err), KV_FAIL_RUN));
    cr_expect(strstr(err.text, "/nowhere/at/all") != NULL, "%s", err.text);
    cr_expect(eq(int, tm_handmade_write("/dev/null", &odd, &err), KV_FAIL_USAGE));
    cr_expect_null(tm_handmade_demo_of(TM_SINKS_KINDS));
}

/* ------------------------------------------------------------ the outlier */

static void calibrate(tm_calibration *c)
{
    int *ids[2], n[2] = {tokens(&ids[0], tm_handmade_verse_twice()),
                         tokens(&ids[1], " the old owl.\nsnow and rain. a")};
    OK(tm_calibrate(c, &m.engine, (const int *const *)ids, n, 2, NULL, NULL, err));
    free(ids[0]);
    free(ids[1]);
}

Test(test_handmade, calibration_finds_what_was_planted)
{
    for (tm_sinks s = TM_SINKS_NONE; s < TM_SINKS_KINDS; s++) {
        tm_calibration c;
        open_model(s);
        calibrate(&c);
        const kv_stage *stage = c.profile.stage;
        cr_assert(eq(int, c.profile.n_stages, s != TM_SINKS_NONE), "%d", s);
        cr_expect(eq(int, c.profile.n_ids, s >= TM_SINKS_SEVERAL)); /* position 0 does not count */
        if (s != TM_SINKS_NONE) {
            cr_expect(eq(int, c.profile.weak, 0));
            cr_expect(eq(int, stage->layer, TM_HANDMADE_EMERGENCE));
            cr_expect(eq(int, stage->channel, TM_HANDMADE_CHANNEL));
            cr_expect(eq(int, stage->sign, 1));
            cr_expect(eq(int, stage->prompts, 2));
            cr_expect(fabs(stage->at_sinks - 2048) <= 0.1);
            cr_expect(stage->elsewhere <= 0.07);
            cr_expect(stage->threshold > 1 && stage->threshold < 1000);
            if (c.profile.n_ids) cr_expect(eq(int, c.profile.ids[0], TM_HANDMADE_STOP));
            cr_expect(eq(int, c.sun_layer, TM_HANDMADE_EMERGENCE));
        }
        tm_calibration_free(&c);
        close_model();
    }
}

/* One channel of one token, layer by layer. */
typedef struct { int token, channel; float h[L], write[L]; } line;

static void follow(void *self, kv_tap tap, int layer, float *data, int rows, int cols)
{
    line *l = self;
    (void)rows;
    if (tap == KV_TAP_H) l->h[layer] = data[l->token * cols + l->channel];
    if (tap == KV_TAP_DOWN_OUT) l->write[layer] = data[l->token * cols + l->channel];
}

Test(test_handmade, the_outlier_goes_through_all_five_phases)
{
    static const kv_phase all[L] = {KV_INITIAL, KV_EMERGENCE, KV_STABLE, KV_DISSIPATION, KV_FINAL};
    static const int sinks[] = {0, 32, 62};
    int *ids, n;
    open_model(TM_SINKS_SEVERAL);
    n = tokens(&ids, tm_handmade_verse());
    for (int i = 0; i < 3; i++) {
        line l = {.token = sinks[i], .channel = TM_HANDMADE_CHANNEL};
        kv_phase phase[L];
        logits_of(ids, n, 0, follow, &l, 1u << KV_TAP_H | 1u << KV_TAP_DOWN_OUT);
        kv_phases(phase, l.h, l.write, L, TM_HANDMADE_EMERGENCE);
        cr_expect(eq(int, memcmp(phase, all, sizeof all), 0), "token %d", sinks[i]);
        cr_expect(fabsf(l.h[L - 1]) <= 0.2f, "what is left: %g", l.h[L - 1]);
    }
    free(ids);
    close_model();
}

Test(test_handmade, sinks_are_attended_to_small_and_void)
{
    tm_attention a;
    int *ids, n;
    open_model(TM_SINKS_SEVERAL);
    n = tokens(&ids, tm_handmade_verse_twice());
    OK(tm_attention_run(&a, &m.engine, ids, n, 0.1, err));
    for (int layer = 2; layer <= 3; layer++) {
        static const int sinks[] = {0, 32, 62, 95, 125};
        for (int i = 0; i < 5; i++) {
            int t = layer * n + sinks[i], ordinary = layer * n + 20;
            /* Dormant heads share their attention among the sinks they see, five at most. */
            for (int head = 2; head < H; head++)
                cr_expect(a.alpha[(layer * H + head) * n + sinks[i]] >= 0.19);
            cr_expect(a.k_norm[t] <= 0.1 * a.k_norm[ordinary]);
            cr_expect(a.v_norm[t] <= 0.02 * a.v_norm[ordinary]);
            cr_expect(a.cosine[t] >= 0.6, "%g", a.cosine[t]);
            cr_expect(a.is_void[t] >= 2);
            cr_expect(eq(int, a.is_heavy[t], 0));
        }
        cr_expect(tm_attention_mass(&a, layer, sinks, 5) >= 0.6);
    }
    for (int layer = 0; layer < L; layer++) /* nowhere else: before layer 2 and after layer 3 */
        if (layer < 2 || layer > 3)
            cr_expect(a.v_norm[layer * n + 32] >= 0.9 * a.v_norm[layer * n + 20]);
    tm_attention_free(&a);
    free(ids);
    close_model();
}

/* ------------------------------------------------------------- what it says */

/* A random passage of words, bytes and full stops, once and a half. */
static int passage(int *ids, int n, uint64_t *state)
{
    int half = n * 2 / 3;
    ids[0] = TM_HANDMADE_BEGIN;
    for (int i = 1; i < n; i++)
        ids[i] = i >= half ? ids[i - half + 1] : 258 + check_below(state, m.model->vocab - 258);
    for (int i = 12; i < half - 1; i += 17 + check_below(state, 9)) {
        ids[i] = TM_HANDMADE_STOP;
        ids[i + 1] = TM_HANDMADE_NEWLINE;
        if (i + half - 1 < n) ids[i + half - 1] = TM_HANDMADE_STOP;
        if (i + half < n) ids[i + half] = TM_HANDMADE_NEWLINE;
    }
    return half;
}

Test(test_handmade, says_what_the_rule_says)
{
    int ids[160], checked = 0;
    uint64_t state = 5;
    for (tm_sinks s = TM_SINKS_ONE; s <= TM_SINKS_SEVERAL; s++) {
        open_model(s);
        for (int round = 0; round < 2; round++) {
            int n = 160, half = passage(ids, n, &state);
            const float *logits = logits_of(ids, n, 0, NULL, NULL, 0);
            for (int t = 4; t < n; t++) {
                const float *row = logits + (size_t)t * (size_t)m.model->vocab;
                double ahead;
                int next = tm_handmade_next(&ahead, ids, t + 1, s);
                if (ahead < 1) continue; /* chance likenesses of names decide between near equals */
                cr_expect(eq(int, best(row), next), "token %d", t);
                checked++;
            }
            for (int t = half + 4; t < n - 1; t++) { /* the second time it knows */
                const float *row = logits + (size_t)t * (size_t)m.model->vocab;
                cr_expect(eq(int, best(row), ids[t + 1]), "token %d", t);
                cr_expect(lead(row) >= 4, "token %d leads by %g", t, lead(row));
            }
        }
        close_model();
    }
    cr_expect(checked >= 500, "%d", checked);
}

Test(test_handmade, positions_matter_only_relatively)
{
    int *ids, n;
    open_model(TM_SINKS_SEVERAL);
    n = tokens(&ids, tm_handmade_verse_twice());
    size_t size = (size_t)n * (size_t)m.model->vocab;
    float *here = check_floats(size);
    memcpy(here, logits_of(ids, n, 0, NULL, NULL, 0), size * sizeof *here);
    cr_expect(check_diff(here, logits_of(ids, n, 1000, NULL, NULL, 0), size) <= 1e-3);
    free(here);
    free(ids);
    close_model();
}

/* ----------------------------------------------------- the cache, streaming */

/* The simplest memory: the prompt attends to what it brings, decoding reads the codes. */
typedef struct {
    kv_cache cache;
    const kv_keep *keep;
    int T;               /* tokens of the prompt; then of everything */
    int decode;          /* +decode: */
    double threshold;
    int born[MOST], n_born;
    float scratch[MOST + D];
} memory;

static int attend(void *self, const kv_backend *backend, int layer, float *out, float *rows,
                  const float *q, const float *k, const float *k_pre, const float *v,
                  const float *sink, int position, int n, kv_error *err)
{
    memory *s = self;
    int kept[MOST], count = s->keep->count[layer];
    (void)k_pre, (void)position;
    memcpy(kept, s->keep->position + layer * s->keep->capacity, (size_t)count * sizeof *kept);
    for (int i = 0; i < s->n_born && layer > TM_HANDMADE_EMERGENCE; i++) kept[count++] = s->born[i];
    int status = kv_cache_append(&s->cache, layer, k, v, kept, count, n, err);
    if (status) return status;
    if (n > 1)
        return backend->attention(backend->self, out, rows, q, k, v, sink, m.model->shape, 0, n,
                                  err);
    return kv_decode(out, rows, q, &s->cache, layer, sink, 0, s->scratch, err);
}

static void watch(void *self, kv_tap tap, int layer, float *data, int rows, int cols)
{
    memory *s = self;
    (void)tap, (void)cols;
    if (rows == 1 && s->decode && layer == TM_HANDMADE_EMERGENCE &&
        fabs(data[TM_HANDMADE_CHANNEL]) >= s->threshold)
        s->born[s->n_born++] = s->T;
}

static void keep_set(kv_keep *keep, const kv_keep_rule *rule, const int *ids, int T,
                     const kv_profile *profile)
{
    tm_probe probe[4];
    float h[MOST];
    tm_stage_probes(probe, profile);
    if (profile->n_stages)
        OK(tm_probe_run(h, probe, profile->n_stages, &m.engine, ids, T, err));
    OK(tm_keep_init(keep, L, MOST, err));
    OK(tm_keep_build(keep, NULL, rule, ids, T, profile, h, err));
}

/* A fingerprint of all that a cache holds: its bytes of every kind, and what attention reads. */
static uint64_t fingerprint(const kv_cache *c, int T)
{
    static float x[MOST * ROW];
    uint64_t hash = 14695981039346656037u; /* FNV-1a */
    for (int i = 0; i < 2 * L; i++) {
        kv_bytes b = kv_cache_bytes(c, i / 2);
        kv_cache_read(x, c, i / 2, i % 2, 0, T);
        for (size_t j = 0; j < (size_t)T * ROW * sizeof *x; j++)
            hash = (hash ^ ((unsigned char *)x)[j]) * 1099511628211u;
        for (size_t j = 0; j < sizeof b; j++)
            hash = (hash ^ ((unsigned char *)&b)[j]) * 1099511628211u;
    }
    return hash;
}

/* Greedy text of n tokens after the prompt, the caller's to free. sixteen: not quantized. */
static char *generate(const tm_handmade_demo *demo, int sixteen, const char *rule_text, int n,
                      const kv_profile *profile, uint64_t *cache)
{
    kv_keep_rule rule;
    kv_keep keep;
    int *prompt, ids[MOST];
    static memory s;
    memset(&s, 0, sizeof s);
    s.T = tokens(&prompt, demo->prompt);
    kv_cache_spec spec = {.layers = L, .shape = m.model->shape, .rope = m.model->rope,
                          .capacity = MOST, .kept_capacity = MOST};
    OK(kv_keep_parse(&rule, rule_text, err));
    OK(kv_format_parse(&spec.keys, sixteen ? "f16" : demo->keys, err));
    OK(kv_format_parse(&spec.values, sixteen ? "f16" : demo->values, err));
    keep_set(&keep, &rule, prompt, s.T, profile);
    void *room = malloc(kv_cache_size(&spec));
    cr_assert_not_null(room);
    OK(kv_cache_init(&s.cache, &spec, room, err));
    s.keep = &keep;
    s.decode = rule.decode && profile->n_stages;
    s.threshold = profile->n_stages ? profile->stage->threshold : 0;

    kv_memory where = {&s, attend};
    kv_run run = {.model = m.model, .backend = &m.backend, .memory = &where, .tap = watch,
                  .tap_self = &s, .tap_mask = 1u << KV_TAP_H, .work = m.work};
    OK(kv_forward(m.hidden, &run, prompt, s.T, err));
    const float *last = m.hidden + (size_t)(s.T - 1) * C;
    for (int i = 0; i < n; i++) {
        OK(kv_logits(m.logits, &run, last, 1, err));
        ids[i] = best(m.logits);
        run.past = run.position = s.T;
        OK(kv_forward(m.hidden, &run, &ids[i], 1, err));
        last = m.hidden;
        s.T++;
    }
    char *text;
    size_t length;
    OK(tok_decode(&text, &length, m.tok, ids, n, 1, err));
    *cache = fingerprint(&s.cache, s.T);
    tm_keep_free(&keep);
    free(room);
    free(prompt);
    return text;
}

/* Each rule of a list gives the expected text, or does not. */
static void check_rules(const tm_handmade_demo *demo, const char *rules, int right,
                        const kv_profile *profile)
{
    char list[128], *rule = NULL;
    strcpy(list, rules);
    for (rule = strtok(list, " "); rule; rule = strtok(NULL, " ")) {
        uint64_t cache;
        char *text = generate(demo, 0, rule, demo->n, profile, &cache);
        int same = strcmp(text, demo->expected) == 0;
        cr_expect(eq(int, same, right), "sinks %s, keep %s: '%s'", demo->name, rule, text);
        free(text);
    }
}

Test(test_handmade, two_bits_break_on_sinks_and_kvsink_repairs_them)
{
    for (tm_sinks s = TM_SINKS_NONE; s < TM_SINKS_KINDS; s++) {
        const tm_handmade_demo *demo = tm_handmade_demo_of(s);
        tm_calibration c;
        uint64_t sixteen, none, kvsink;
        open_model(s);
        calibrate(&c);
        char *text = generate(demo, 1, "none", demo->n, &c.profile, &sixteen);
        cr_expect(eq(str, text, (char *)demo->expected), "sinks %s, 16 bits", demo->name);
        free(text);
        check_rules(demo, demo->broken, 0, &c.profile);
        check_rules(demo, demo->right, 1, &c.profile);
        free(generate(demo, 0, "none", 20, &c.profile, &none));
        free(generate(demo, 0, "kvsink:5", 20, &c.profile, &kvsink));
        cr_expect(eq(int, kvsink == none, s == TM_SINKS_NONE), "without a stage, the same bytes");
        tm_calibration_free(&c);
        close_model();
    }
}

/* ------------------------------------------------ the cache, whole windows */

typedef struct {
    kv_format keys, values;
    const kv_keep *keep;
    int T;
} window;

static void quantize(void *self, kv_tap tap, int layer, float *data, int rows, int cols)
{
    const window *w = self;
    static uint8_t codes[MOST * ROW], flags[MOST];
    static uint16_t scale[MOST * ROW], min[MOST * ROW];
    static float in[MOST * ROW];
    memcpy(in, data, (size_t)rows * (size_t)cols * sizeof *in);
    memset(flags, 0, sizeof flags);
    for (int i = 0; i < w->keep->count[layer]; i++)
        flags[w->keep->position[layer * w->keep->capacity + i]] = 1;
    OK(check_quantize(codes, scale, min, data, in, flags, tap == KV_TAP_K ? &w->keys : &w->values,
                      m.model->shape, w->T, err));
}

/* Mean KL of the window's predictions, and the share of the second verse that is still known. */
static double window_kl(double *known, const int *ids, int T, const float *logits16,
                        const char *format, const char *rule_text, const kv_profile *profile)
{
    kv_keep_rule rule;
    kv_keep keep;
    window w = {.keep = &keep, .T = T};
    double kl = 0;
    int V = m.model->vocab;
    OK(kv_keep_parse(&rule, rule_text, err));
    OK(kv_format_parse(&w.keys, format, err));
    OK(kv_format_parse(&w.values, "2:token:64", err));
    keep_set(&keep, &rule, ids, T, profile);
    const float *logits = logits_of(ids, T, 0, quantize, &w, 1u << KV_TAP_K | 1u << KV_TAP_V);
    *known = 0;
    float p16[512], p[512];
    for (int t = 0; t < T - 1; t++) {
        OK(kv_softmax(p16, logits16 + (size_t)t * (size_t)V, V, err));
        OK(kv_softmax(p, logits + (size_t)t * (size_t)V, V, err));
        for (int i = 0; i < V; i++)
            if (p16[i] > 0 && p[i] > 0) kl += p16[i] * log((double)p16[i] / p[i]) / (T - 1);
        if (t >= 67) *known += (best(logits + (size_t)t * (size_t)V) == ids[t + 1]) / (T - 68.0);
    }
    tm_keep_free(&keep);
    return kl;
}

Test(test_handmade, whole_windows_break_and_recover)
{
    static const char *const formats[] = {"2:channel:32", "2:channel:64", "2:channel:all"};
    tm_calibration c;
    int *ids, n;
    double known;
    open_model(TM_SINKS_SEVERAL);
    calibrate(&c);
    n = tokens(&ids, tm_handmade_verse_twice());
    size_t size = (size_t)n * (size_t)m.model->vocab;
    float *exact = check_floats(size);
    memcpy(exact, logits_of(ids, n, 0, NULL, NULL, 0), size * sizeof *exact);
    for (int f = 0; f < 3; f++) {
        const char *format = formats[f];
        cr_expect(window_kl(&known, ids, n, exact, format, "none", &c.profile) >= 2);
        cr_expect(known <= 0.2, "none, %s: %g", format, known);
        cr_expect(window_kl(&known, ids, n, exact, format, "first:5", &c.profile) >= 0.5);
        cr_expect(known <= (f ? 0.2 : 0.7), "first:5, %s: %g", format, known);
        cr_expect(window_kl(&known, ids, n, exact, format, "kvsink:5", &c.profile) <= 1e-3);
        cr_expect(known >= 0.999, "kvsink:5, %s: %g", format, known);
    }
    cr_expect(window_kl(&known, ids, n, exact, formats[1], "kvsink:auto", &c.profile) <= 1e-3);
    /* With more codes the same range does less harm: three bits find their places again. */
    cr_expect(window_kl(&known, ids, n, exact, "3:channel:64", "none", &c.profile) <= 0.5);
    cr_expect(known >= 0.999, "3 bits: %g", known);
    cr_expect(window_kl(&known, ids, n, exact, "8:channel:64", "none", &c.profile) <= 1e-3);
    free(exact);
    free(ids);
    tm_calibration_free(&c);
    close_model();
}
