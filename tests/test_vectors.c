/* ref/ before the oracle's cases, like anyone else's implementation. Every file of tests/vectors must
 * belong to a piece below; one that nobody answers for is a failure. */
#include <glob.h>

#include "profile.h"
#include "vectors.h"

/* ---- halves ---------------------------------------------------------------------------------- */

static int to_sixteen(cJSON *out, const cJSON *in, int half, kv_error *err)
{
    int n;
    float *x = vec_floats(in, "x", &n), *back = check_floats((size_t)n);
    uint16_t *bits = calloc((size_t)n, sizeof *bits);
    for (int i = 0; i < n; i++) {
        bits[i] = half ? kv_half_from_float(x[i]) : kv_bf16_from_float(x[i]);
        back[i] = half ? kv_half_to_float(bits[i]) : kv_bf16_to_float(bits[i]);
        if (half && !isfinite(back[i]))
            return kv_fail(err, KV_FAIL_RUN, "element %d", i);
    }
    vec_add_shorts(out, "bits", bits, (size_t)n);
    vec_add_floats(out, "back", back, (size_t)n);
    return KV_OK;
}

static int half(cJSON *out, const cJSON *in, const cJSON *parameters, kv_error *err)
{
    (void)parameters;
    return to_sixteen(out, in, 1, err);
}

static int bfloat16(cJSON *out, const cJSON *in, const cJSON *parameters, kv_error *err)
{
    (void)parameters;
    return to_sixteen(out, in, 0, err);
}

static int nan_bits(cJSON *out, const cJSON *in, const cJSON *parameters, kv_error *err)
{
    (void)parameters, (void)err;
    const cJSON *item;
    cJSON *list = cJSON_AddArrayToObject(out, "isNan");
    int is_half = !strcmp(vec_text(in, "kind"), "half");
    cJSON_ArrayForEach(item, vec_item(in, "floatBits"))
    {
        uint32_t u = (uint32_t)item->valuedouble;
        float x;
        memcpy(&x, &u, sizeof x);
        x = is_half ? kv_half_to_float(kv_half_from_float(x))
                    : kv_bf16_to_float(kv_bf16_from_float(x));
        cJSON_AddItemToArray(list, cJSON_CreateNumber(isnan(x)));
    }
    return KV_OK;
}

static int decode_bits(cJSON *out, const cJSON *in, const cJSON *parameters, kv_error *err)
{
    (void)parameters, (void)err;
    int n, *bits = vec_ints(in, "bits", &n), is_half = !strcmp(vec_text(in, "kind"), "half");
    float *x = check_floats((size_t)n);
    for (int i = 0; i < n; i++)
        x[i] = is_half ? kv_half_to_float((uint16_t)bits[i]) : kv_bf16_to_float((uint16_t)bits[i]);
    vec_add_floats(out, "x", x, (size_t)n);
    return KV_OK;
}

/* ---- packing --------------------------------------------------------------------------------- */

static int packing(cJSON *out, const cJSON *in, const cJSON *parameters, kv_error *err)
{
    (void)parameters, (void)err;
    int n, bits = vec_int(in, "bits"), length = vec_int(in, "groupLength"), used = 0;
    int *values = vec_ints(in, "codes", &n);
    uint8_t *codes = calloc((size_t)n + 1, 1);
    uint32_t *words = calloc((size_t)n + 1, sizeof *words);
    for (int i = 0; i < n; i++)
        codes[i] = (uint8_t)values[i];
    for (int at = 0; at < n; at += length) {
        int count = n - at < length ? n - at : length;
        kv_pack(words + used, codes + at, count, 1, bits);
        for (int j = 0; j < count; j++)
            cr_expect_eq(kv_unpack(words + used, j, bits), codes[at + j]);
        used += kv_packed_words(count, bits);
    }
    vec_add_words(out, "words", words, (size_t)used);
    return KV_OK;
}

/* ---- quantizing ------------------------------------------------------------------------------ */

typedef struct {
    kv_format f;
    kv_shape s;
    int T, row, values; /* values: 1, keys: 0 */
    size_t n, groups;
} array;

static int is_text(const cJSON *in, const char *name, const char *text)
{
    return vec_has(in, name) && !strcmp(vec_text(in, name), text);
}

static int read_array(array *a, const cJSON *in, kv_error *err)
{
    int *shape = vec_ints(in, "shape", NULL);
    a->T = shape[0];
    a->s = (kv_shape){shape[1], shape[1], shape[2]};
    a->row = shape[1] * shape[2];
    a->n = (size_t)a->T * (size_t)a->row;
    a->values = is_text(in, "side", "values");
    int bad = kv_format_parse(&a->f, vec_text(in, "format"), err);
    if (!bad)
        bad = kv_format_check(&a->f, a->s, a->values, err);
    a->f.exclusion = is_text(in, "exclusion", "overwrite")      ? KV_KEPT_OVERWRITE
                     : is_text(in, "exclusion", "exclude-only") ? KV_KEPT_EXCLUDE_ONLY
                                                                : KV_KEPT_BOTH;
    a->groups = bad ? 0 : kv_group_count(&a->f, a->s, a->T);
    return bad;
}

/* Returns how many groups there are by that shape: the constants of a static format serve all. */
static size_t add_scale_shape(cJSON *out, const array *a)
{
    kv_grouping g = kv_group_layout(&a->f, a->s, a->T);
    int channel = a->f.axis == KV_PER_CHANNEL, all = !channel && a->f.group == 0;
    int blocks = kv_format_blocks(&a->f);
    int shape[3] = {channel ? (a->T + g.length - 1) / g.length : a->T, all ? 1 : a->s.kv_heads,
                    channel ? a->s.head_size : all ? 1 : a->s.head_size / g.length};
    if (a->f.is_static)
        shape[0] = 1;
    if (blocks)
        shape[1] = a->row / KV_BLOCK;
    vec_add_ints(out, "scaleShape", shape, blocks ? 2 : 3);
    return (size_t)shape[0] * (size_t)shape[1] * (size_t)(blocks ? 1 : shape[2]);
}

static int by_first(const void *a, const void *b)
{
    return *(const int *)a - *(const int *)b;
}

/* Entries as places in the whole array, ascending. */
static void add_outliers(cJSON *out, const array *a, const kv_entry *entry, const uint8_t *kept,
                         int n_kept)
{
    int all = a->values && a->f.exclusion == KV_KEPT_EXCLUDE_ONLY, used = 0, n = 0;
    int each = 2 * kv_outliers_each(&a->f, a->values ? a->row : a->T - n_kept);
    int lines = a->values ? a->T : a->row, (*pair)[2] = calloc(a->n + 1, sizeof *pair);
    for (int i = 0; i < lines; i++) {
        if (a->values && kept[i] && !all)
            continue;
        for (int j = 0; j < each; j++, n++) {
            const kv_entry *e = &entry[used * each + j];
            pair[n][0] = a->values ? i * a->row + e->index : e->index * a->row + i;
            pair[n][1] = e->value;
        }
        used++;
    }
    cr_expect_eq((size_t)n, kv_sparse_count(&a->f, a->s, a->T, n_kept, a->values));
    qsort(pair, (size_t)n, sizeof *pair, by_first);
    cJSON *index = cJSON_AddArrayToObject(out, "outlierIndex");
    cJSON *bits = cJSON_AddArrayToObject(out, "outlierBits");
    for (int i = 0; i < n; i++) {
        cJSON_AddItemToArray(index, cJSON_CreateNumber(pair[i][0]));
        cJSON_AddItemToArray(bits, cJSON_CreateNumber(pair[i][1]));
    }
}

/* llama.cpp's bytes; the code of each element must come back from them. */
static void add_blocks(cJSON *out, const array *a, const kv_quantized *q, const uint8_t *kept)
{
    size_t bytes = (size_t)kv_block_bytes(a->f.kind);
    uint8_t *all = calloc(a->groups * bytes + 1, 1);
    for (size_t i = 0; i < a->groups; i++) {
        const uint8_t *codes = q->codes + i * KV_BLOCK;
        uint16_t d, m;
        if (kept[i * KV_BLOCK / (size_t)a->row] && a->f.exclusion != KV_KEPT_EXCLUDE_ONLY)
            continue; /* a hole */
        kv_block_pack(all + i * bytes, codes, q->scale[i], q->min[i], a->f.kind);
        kv_block_scale(&d, &m, all + i * bytes, a->f.kind);
        cr_expect_eq(d, q->scale[i]);
        cr_expect_eq(m, q->min[i]);
        for (int j = 0; j < KV_BLOCK; j++)
            cr_expect_eq(kv_block_code(all + i * bytes, j, a->f.kind), codes[j]);
    }
    vec_add_bytes(out, "blocks", all, a->groups * bytes);
}

static int quantize(cJSON *out, const cJSON *in, const cJSON *parameters, kv_error *err)
{
    (void)parameters;
    array a;
    int n_kept, bad = read_array(&a, in, err);
    if (bad)
        return bad;
    int *kept = vec_ints(in, "kept", &n_kept);
    uint8_t *flags = calloc((size_t)a.T + 1, 1);
    for (int i = 0; i < n_kept; i++)
        flags[kept[i]] = 1;
    kv_quantized q = {calloc(a.n + 1, 1), calloc(a.groups + 1, 2), calloc(a.groups + 1, 2),
                      check_floats(a.n), check_floats((size_t)a.T),
                      calloc(a.n + 1, sizeof(kv_entry))};
    kv_rows rows = {vec_floats(in, "x", NULL), flags, a.s, a.T, a.values,
                    vec_has(in, "lo") ? vec_floats(in, "lo", NULL) : NULL,
                    vec_has(in, "hi") ? vec_floats(in, "hi", NULL) : NULL};
    bad = kv_quantize(&q, &rows, &a.f, err);
    if (bad)
        return bad;
    vec_add_bytes(out, "codes", q.codes, a.n);
    size_t groups = add_scale_shape(out, &a);
    for (size_t i = groups; i < a.groups; i++)
        cr_expect(q.scale[i] == q.scale[i - groups] && q.min[i] == q.min[i - groups]);
    vec_add_shorts(out, "scale", q.scale, groups);
    vec_add_shorts(out, "min", q.min, groups);
    vec_add_floats(out, "dequant", q.x_hat, a.n);
    if (a.f.norm)
        vec_add_floats(out, "norms", q.norm, (size_t)a.T);
    if (a.f.sparse)
        add_outliers(out, &a, q.sparse, flags, n_kept);
    if (kv_format_blocks(&a.f))
        add_blocks(out, &a, &q, flags);
    return KV_OK;
}

static int e4m3(cJSON *out, const cJSON *in, const cJSON *parameters, kv_error *err)
{
    (void)parameters, (void)err;
    int n;
    float *x = vec_floats(in, "x", &n), *back = check_floats((size_t)n);
    uint8_t *codes = calloc((size_t)n + 1, 1);
    for (int i = 0; i < n; i++) {
        codes[i] = kv_e4m3_from_float(x[i]);
        back[i] = kv_e4m3_to_float(codes[i]);
    }
    vec_add_bytes(out, "codes", codes, (size_t)n);
    vec_add_floats(out, "back", back, (size_t)n);
    return KV_OK;
}

static int e4m3_decode(cJSON *out, const cJSON *in, const cJSON *parameters, kv_error *err)
{
    (void)parameters, (void)err;
    int n, *codes = vec_ints(in, "codes", &n);
    float *x = check_floats((size_t)n);
    for (int i = 0; i < n; i++)
        x[i] = kv_e4m3_to_float((uint8_t)codes[i]);
    vec_add_floats(out, "x", x, (size_t)n);
    return KV_OK;
}

static int hadamard(cJSON *out, const cJSON *in, const cJSON *parameters, kv_error *err)
{
    (void)parameters, (void)err;
    int n, D = vec_int(in, "headSize");
    float *x = vec_floats(in, "x", &n);
    kv_hadamard(x, n / D, D);
    vec_add_floats(out, "y", x, (size_t)n);
    return KV_OK;
}

static const char *kind_name(kv_kind kind)
{
    static const char *const name[] = {
        [KV_INT] = "integer", [KV_NF] = "nf", [KV_E4M3] = "e4m3", [KV_F16] = "f16",
        [KV_BF16] = "bf16", [KV_F32] = "f32", [KV_Q4_0] = "q4_0", [KV_Q4_1] = "q4_1",
        [KV_Q5_0] = "q5_0", [KV_Q5_1] = "q5_1", [KV_Q8_0] = "q8_0"};
    return name[kind];
}

/* What is printed must parse to the same. */
static void print_and_parse(const kv_format *f)
{
    char text[KV_FORMAT_TEXT], again[KV_FORMAT_TEXT];
    kv_format g;
    kv_error err;
    kv_format_print(text, sizeof text, f);
    cr_expect_eq(kv_format_parse(&g, text, &err), KV_OK, "%s: %s", text, err.text);
    cr_expect_str_eq(kv_format_print(again, sizeof again, &g), text);
    cr_expect(g.kind == f->kind && g.bits == f->bits && g.axis == f->axis && g.group == f->group &&
                  g.symmetric == f->symmetric && g.pre == f->pre && g.hadamard == f->hadamard &&
                  g.norm == f->norm && g.is_static == f->is_static && g.sparse == f->sparse &&
                  g.outliers == f->outliers && g.kivi == f->kivi,
              "%s is not what was printed", text);
}

static int format_grammar(cJSON *out, const cJSON *in, const cJSON *parameters, kv_error *err)
{
    (void)parameters;
    kv_format f;
    int heads = vec_has(in, "kvHeads") ? vec_int(in, "kvHeads") : 1;
    kv_shape s = {heads, heads, vec_int(in, "headSize")};
    int bad = kv_format_parse(&f, vec_text(in, "format"), err);
    if (!bad)
        bad = kv_format_check(&f, s, is_text(in, "side", "values"), err);
    if (bad)
        return bad;
    print_and_parse(&f);
    int grouped = kv_format_coded(&f) && !kv_format_blocks(&f);
    const char *axis = f.axis == KV_PER_TOKEN ? "token" : "channel";
    cJSON_AddStringToObject(out, "kind", kind_name(f.kind));
    cJSON_AddNumberToObject(out, "bits", f.bits);
    cJSON_AddStringToObject(out, "axis", grouped ? axis : "none");
    cJSON_AddNumberToObject(out, "group", grouped ? f.group : 0);
    cJSON_AddBoolToObject(out, "symmetric", f.symmetric);
    cJSON_AddBoolToObject(out, "pre", f.pre);
    cJSON_AddBoolToObject(out, "hadamard", f.hadamard);
    cJSON_AddBoolToObject(out, "norm", f.norm);
    cJSON_AddBoolToObject(out, "static", f.is_static);
    cJSON_AddBoolToObject(out, "kivi", f.kivi);
    cJSON_AddNumberToObject(out, "outliers", f.outliers);
    return KV_OK;
}

/* The canonical order of packed words: what a cache holds after codes were put into it. Here the
 * words are built group by group with the layout that ref/kv.h states. */
static int layout(cJSON *out, const cJSON *in, const cJSON *parameters, kv_error *err)
{
    (void)parameters;
    array a;
    int bad = read_array(&a, in, err), used = 0;
    if (bad)
        return bad;
    int *values = vec_ints(in, "codes", NULL);
    uint8_t *codes = calloc(a.n + 1, 1);
    uint32_t *words = calloc(a.n + 1, sizeof *words);
    for (size_t i = 0; i < a.n; i++)
        codes[i] = (uint8_t)values[i];
    kv_grouping g = kv_group_layout(&a.f, a.s, a.T);
    int channel = a.f.axis == KV_PER_CHANNEL, run = channel ? g.length : 1;
    for (int t = 0; t < a.T; t += run)
        for (int i = 0; i < g.across; i++) {
            int count = !channel ? g.length : a.T - t < run ? a.T - t : run;
            kv_pack(words + used, codes + (size_t)t * a.row + i * (channel ? 1 : g.length), count,
                    g.stride, a.f.bits);
            used += kv_packed_words(count, a.f.bits);
        }
    vec_add_words(out, "words", words, (size_t)used);
    return KV_OK;
}

/* ---- sink metric ----------------------------------------------------------------------------- */

static int sink_metric(cJSON *out, const cJSON *in, const cJSON *parameters, kv_error *err)
{
    (void)parameters, (void)err;
    int n_set, *shape = vec_ints(in, "shape", NULL), *set = vec_ints(in, "set", &n_set);
    int heads = shape[0] * shape[1], T = shape[3];
    int n_eps = cJSON_GetArraySize(vec_item(in, "eps"));
    float *rows = vec_floats(in, "A", NULL);
    const cJSON *level = vec_item(in, "eps")->child; /* 0.3 as a double, not as a float32 */
    double *alpha = calloc((size_t)heads * T + 1, sizeof *alpha);
    double *share = calloc((size_t)n_eps * T + 1, sizeof *share);
    double *mass = calloc((size_t)heads + 1, sizeof *mass);
    for (int h = 0; h < heads; h++) {
        kv_sink_alpha(alpha + (size_t)h * T, rows + (size_t)h * T * T, T);
        mass[h] = kv_sink_mass(rows + (size_t)h * T * T, T, set, n_set);
    }
    for (int i = 0; i < n_eps; i++, level = level->next) {
        kv_sink_share(share + (size_t)i * T, alpha, heads, T, level->valuedouble);
        for (int k = 0; k < T; k++)
            share[(size_t)i * T + k] /= 100; /* the oracle has shares, ref/ percent */
    }
    vec_add_doubles(out, "alpha", alpha, (size_t)heads * T);
    vec_add_doubles(out, "sink", share, (size_t)n_eps * T);
    vec_add_doubles(out, "mass", mass, (size_t)heads);
    return KV_OK;
}

/* ---- calibration ----------------------------------------------------------------------------- */

enum { STAGES = 16 };

typedef struct {
    int n, *ids;
    float *H; /* [L+1][n][C] */
} prompt;

/* Stages of one prompt, from the maxima that a tap would collect. */
static int find_stages(kv_stage *stage, int *weak, const prompt *p, int L, int C)
{
    float *peak = check_floats((size_t)(L + 1) * C), *median = check_floats((size_t)L + 1);
    float *scratch = check_floats((size_t)p->n * C);
    for (int l = 0; l <= L; l++) {
        const float *H = p->H + (size_t)l * p->n * C;
        kv_channel_peaks(peak + (size_t)l * C, H, p->n, C);
        median[l] = kv_outliers(H, p->n, C, scratch).median;
    }
    return kv_stages_find(stage, weak, peak, median, L, C, STAGES);
}

static int shows(const kv_stage *found, int n, const kv_stage *s)
{
    for (int i = 0; i < n; i++)
        if (found[i].layer == s->layer && found[i].channel == s->channel)
            return 1;
    return 0;
}

static float *channel_of(const prompt *p, const kv_stage *s, int C)
{
    float *h = check_floats((size_t)p->n);
    for (int t = 0; t < p->n; t++)
        h[t] = p->H[((size_t)(s->layer + 1) * p->n + t) * C + s->channel];
    return h;
}

static void set_threshold(kv_stage *s, const prompt *p, int prompts, const kv_stage *found,
                          const int *count, int C)
{
    double threshold[8];
    int used = 0;
    size_t n = 0;
    float *pooled = check_floats(8 * 64);
    for (int i = 0; i < prompts; i++) {
        if (!shows(found + i * STAGES, count[i], s))
            continue;
        float *h = channel_of(&p[i], s, C);
        for (int t = 0; t < p[i].n; t++)
            pooled[n++] = h[t] = fabsf(h[t]);
        threshold[used++] = kv_gap_threshold(h, (size_t)p[i].n);
    }
    kv_stage_threshold(s, threshold, used, pooled, n);
}

static void add_learned(cJSON *out, const kv_stage *s, int n, const prompt *p, int prompts, int C)
{
    enum { VOCABULARY = 1000 };
    static int seen[VOCABULARY], sunk[VOCABULARY], ids[VOCABULARY];
    memset(seen, 0, sizeof seen);
    memset(sunk, 0, sizeof sunk);
    for (int i = 0; i < prompts; i++) {
        float *h = check_floats((size_t)n * (size_t)p[i].n);
        for (int j = 0; j < n; j++)
            memcpy(h + (size_t)j * p[i].n, channel_of(&p[i], &s[j], C), (size_t)p[i].n * sizeof *h);
        kv_ids_count(seen, sunk, p[i].ids, h, p[i].n, s, n);
    }
    vec_add_ints(out, "learned", ids, (size_t)kv_ids_learned(ids, seen, sunk, VOCABULARY));
}

static void add_stage(cJSON *list, const kv_stage *s)
{
    cJSON *o = cJSON_CreateObject();
    cJSON_AddItemToArray(list, o);
    cJSON_AddNumberToObject(o, "layer", s->layer);
    cJSON_AddNumberToObject(o, "channel", s->channel);
    cJSON_AddNumberToObject(o, "sign", s->sign);
    cJSON_AddNumberToObject(o, "medianAtSinks", s->at_sinks);
    cJSON_AddNumberToObject(o, "medianElsewhere", s->elsewhere);
    cJSON_AddNumberToObject(o, "threshold", s->threshold);
    cJSON_AddNumberToObject(o, "prompts", s->prompts);
}

static int calibration(cJSON *out, const cJSON *in, const cJSON *parameters, kv_error *err)
{
    (void)parameters, (void)err;
    int L = vec_int(in, "layers"), C = vec_int(in, "width"), prompts = 0, weak = 1;
    kv_stage found[8 * STAGES], stage[STAGES];
    prompt p[8];
    int count[8];
    const cJSON *item;
    cJSON_ArrayForEach(item, vec_item(in, "prompts"))
    {
        int one_weak;
        prompt *q = &p[prompts];
        q->ids = vec_ints(item, "ids", &q->n);
        q->H = vec_floats(item, "H", NULL);
        count[prompts] = find_stages(found + prompts * STAGES, &one_weak, q, L, C);
        weak &= one_weak;
        prompts++;
    }
    int n = kv_stages_vote(stage, found, count, prompts, STAGES);
    cJSON_AddBoolToObject(out, "weak", weak);
    cJSON *list = cJSON_AddArrayToObject(out, "stages");
    for (int i = 0; i < n; i++) {
        set_threshold(&stage[i], p, prompts, found, count, C);
        add_stage(list, &stage[i]);
    }
    add_learned(out, stage, n, p, prompts, C);
    return KV_OK;
}

/* ---- keep sets and prediction ---------------------------------------------------------------- */

/* criterion is re-evaluated at every step, +decode or not. */
static int judges_new_tokens(const kv_keep_rule *r)
{
    return r->decode || r->kind == KV_KEEP_CRITERION;
}

static int keep_grammar(cJSON *out, const cJSON *in, const cJSON *parameters, kv_error *err)
{
    (void)parameters;
    kv_keep_rule r;
    int bad = kv_keep_parse(&r, vec_text(in, "keep"), err);
    if (!bad)
        cJSON_AddBoolToObject(out, "decode", judges_new_tokens(&r));
    return bad;
}

static int stage_positions(int *position, int *capped, const kv_keep_rule *r, const kv_profile *p,
                           const float *h, int T, int s)
{
    float *scratch = check_floats((size_t)T);
    *capped = 0;
    return r->k >= 0 ? kv_top_magnitudes(position, h + (size_t)s * T, T, r->k, scratch)
                     : kv_above_threshold(position, capped, h + (size_t)s * T, T,
                                          p->stage[s].threshold, scratch);
}

static int keep_layers(cJSON *out, const kv_keep_rule *r, const kv_keep_input *in, int L,
                       kv_error *err)
{
    kv_keep keep = {L, in->T, calloc((size_t)L, sizeof(int)),
                    calloc((size_t)L * (size_t)in->T, sizeof(int))};
    int bad = kv_keep_build(&keep, NULL, r, in, err);
    if (bad)
        return bad;
    cJSON *layers = cJSON_AddArrayToObject(out, "layers");
    for (int l = 0; l < L; l++)
        cJSON_AddItemToArray(layers, cJSON_CreateIntArray(keep.position + (size_t)l * in->T,
                                                          keep.count[l]));
    return KV_OK;
}

/* [L][T] attention received, from rows A [L][H][total][total], of which the first T queries and keys
 * are looked at; appended in the given parts, which must make no difference. */
static double *attention_of(const cJSON *in, int L, int total, const int *appends, int n)
{
    int H = vec_int(in, "heads"), T = 0;
    float *A = vec_floats(in, "A", NULL);
    for (int i = 0; i < n; i++)
        T += appends[i];
    double *a = calloc((size_t)L * (size_t)T + 1, sizeof *a);
    float *rows = check_floats((size_t)H * (size_t)T * (size_t)T);
    for (int l = 0; l < L; l++) {
        for (int i = 0, past = 0; i < n; past += appends[i++])
            for (int h = 0, seen = past + appends[i]; h < H; h++) {
                const float *from = A + ((size_t)l * H + h) * total * total;
                for (int q = 0; q < appends[i]; q++)
                    memcpy(rows + ((size_t)h * appends[i] + q) * seen,
                           from + (size_t)(past + q) * total, (size_t)seen * sizeof *rows);
                if (h == H - 1)
                    kv_attention_add(a + (size_t)l * T, rows, H, past, appends[i]);
            }
        kv_attention_mean(a + (size_t)l * T, a + (size_t)l * T, H, T);
    }
    return a;
}

/* What a rule reads beside h: scores of each layer, or RotateKV's lists. */
static void read_evidence(kv_keep_input *k, kv_keep_kind kind, const cJSON *in, int L)
{
    int T = k->T, n;
    double *score = calloc((size_t)L * (size_t)T + 1, sizeof *score);
    if (kind == KV_KEEP_ATTENTION || kind == KV_KEEP_CRITERION)
        score = attention_of(in, L, T, &T, 1);
    int keys = kind == KV_KEEP_BIGKEYS || kind == KV_KEEP_SMALLKEYS;
    if (keys || kind == KV_KEEP_TOPH || kind == KV_KEEP_ROTATEKV) {
        float *x = vec_floats(in, keys ? "keyRows" : "X", &n);
        int C = n / L / T;
        kv_keep *own = calloc(1, sizeof *own);
        *own = (kv_keep){L, T, calloc((size_t)L, sizeof(int)),
                         calloc((size_t)L * (size_t)T, sizeof(int))};
        for (int l = 0; l < L; l++, x += (size_t)T * C) {
            (keys ? kv_row_norms : kv_row_peaks)(score + (size_t)l * T, x, T, C);
            own->count[l] = kv_rotatekv_tokens(own->position + (size_t)l * T, x, T, C);
        }
        k->own = own;
    }
    k->score = score;
}

static int criterion(cJSON *out, const cJSON *in, const cJSON *parameters, kv_error *err)
{
    (void)parameters, (void)err;
    int L = vec_int(in, "layers"), total = vec_int(in, "tokens"), n;
    int *appends = vec_ints(in, "appends", &n), T = 0, position[KV_CRITERION_TOKENS];
    double M = vec_item(in, "multiplier")->valuedouble;
    cJSON *scores = cJSON_AddArrayToObject(out, "scores");
    cJSON *positions = cJSON_AddArrayToObject(out, "positions");
    for (int i = 0; i < n; i++) {
        double *a = attention_of(in, L, total, appends, i + 1);
        cJSON *list = cJSON_CreateArray();
        T += appends[i];
        for (int t = 0; t < T; t++)
            cJSON_AddItemToArray(list, cJSON_CreateNumber(kv_criterion(a, L, T, t, M)));
        cJSON_AddItemToArray(scores, list);
        int found = kv_criterion_tokens(position, a, L, T, M);
        cJSON_AddItemToArray(positions, cJSON_CreateIntArray(position, found));
    }
    return KV_OK;
}

static int keep(cJSON *out, const cJSON *in, const cJSON *parameters, kv_error *err)
{
    (void)parameters;
    kv_keep_rule r;
    kv_profile p = {0};
    kv_stage stage[STAGES] = {{0}};
    const cJSON *item;
    int T = vec_int(in, "tokens"), L = vec_int(in, "layers");
    if (vec_has(in, "stages")) {
        cJSON_ArrayForEach(item, vec_item(in, "stages"))
            stage[p.n_stages++] = (kv_stage){
                vec_int(item, "layer"), vec_int(item, "channel"), vec_int(item, "sign"),
                vec_item(item, "medianAtSinks")->valuedouble,
                vec_item(item, "medianElsewhere")->valuedouble,
                vec_item(item, "threshold")->valuedouble, 1};
        p.ids = vec_ints(in, "learned", &p.n_ids);
    }
    p.stage = stage;
    kv_keep_input k = {.T = T, .tokens = vec_ints(in, "ids", NULL),
                       .profile = vec_has(in, "stages") ? &p : NULL,
                       .h = vec_has(in, "h") ? vec_floats(in, "h", NULL) : NULL,
                       .scratch = check_floats(2 * (size_t)T),
                       .found = calloc(2 * (size_t)T + 1, sizeof(int))};
    int bad = kv_keep_parse(&r, vec_text(in, "keep"), err);
    if (!bad) {
        read_evidence(&k, r.kind, in, L);
        bad = keep_layers(out, &r, &k, L, err);
    }
    if (bad)
        return bad;
    cJSON_AddBoolToObject(out, "decode", judges_new_tokens(&r));
    if (r.kind != KV_KEEP_KVSINK)
        return KV_OK;
    cJSON *sets = cJSON_AddArrayToObject(out, "stagePositions");
    cJSON *bound = cJSON_AddArrayToObject(out, "stageCapBound");
    for (int s = 0; s < p.n_stages; s++) {
        int capped, n = stage_positions(k.found, &capped, &r, &p, k.h, T, s);
        cJSON_AddItemToArray(sets, cJSON_CreateIntArray(k.found, n));
        cJSON_AddItemToArray(bound, cJSON_CreateBool(capped));
    }
    return KV_OK;
}

static int predict(cJSON *out, const cJSON *in, const cJSON *parameters, kv_error *err)
{
    (void)parameters;
    kv_keep_rule r;
    kv_profile p;
    const char *text = vec_text(in, "profile");
    int T, *ids = vec_ints(in, "ids", &T), L = vec_int(in, "layers"), C = vec_int(in, "width");
    float *H = vec_floats(in, "H", NULL), *scratch = check_floats(2 * (size_t)T);
    int *found = calloc(2 * (size_t)T + 1, sizeof *found), capped;
    int bad = tm_profile_parse(&p, text, strlen(text), "profile", err);
    if (!bad)
        bad = kv_keep_parse(&r, vec_text(in, "keep"), err);
    if (bad)
        return bad;
    float *h = check_floats((size_t)p.n_stages * T);
    cJSON *stages = cJSON_AddArrayToObject(out, "stages");
    for (int s = 0; s < p.n_stages; s++) {
        const kv_stage *st = &p.stage[s];
        for (int t = 0; t < T; t++)
            h[s * T + t] = H[((size_t)st->layer * T + t) * C + st->channel];
        int n = stage_positions(found, &capped, &r, &p, h, T, s);
        cJSON *o = cJSON_CreateObject(), *values;
        cJSON_AddItemToArray(stages, o);
        cJSON_AddNumberToObject(o, "layer", st->layer);
        cJSON_AddNumberToObject(o, "channel", st->channel);
        cJSON_AddItemToObject(o, "positions", cJSON_CreateIntArray(found, n));
        values = cJSON_AddArrayToObject(o, "h");
        for (int i = 0; i < n; i++)
            cJSON_AddItemToArray(values, cJSON_CreateNumber(h[s * T + found[i]]));
    }
    kv_keep_input k = {.T = T, .tokens = ids, .profile = &p, .h = h, .scratch = scratch,
                       .found = found};
    return keep_layers(out, &r, &k, L, err);
}

/* ---- chapters 1 and 2 ------------------------------------------------------------------------ */

static int softmax(cJSON *out, const cJSON *in, const cJSON *parameters, kv_error *err)
{
    (void)parameters;
    int n;
    const char *kind = vec_text(in, "kind");
    float *s = vec_floats(in, "logits", &n), *p = check_floats((size_t)n);
    int bad = !strcmp(kind, "softmax")    ? kv_softmax(p, s, n, err)
              : !strcmp(kind, "softmax1") ? kv_softmax1(p, s, n, err)
              : kv_softmax_sink(p, NULL, s, (float)vec_number(vec_item(in, "sink")), n, err);
    vec_add_floats(out, "p", p, (size_t)n);
    return bad;
}

static int attention(cJSON *out, const cJSON *in, const cJSON *parameters, kv_error *err)
{
    (void)parameters;
    int *shape = vec_ints(in, "shape", NULL), T = shape[0];
    kv_shape s = {shape[1], shape[2], shape[3]};
    size_t n = (size_t)T * s.heads * s.head_size, m = (size_t)s.heads * T * T;
    float *y = check_floats(n), *rows = check_floats(m), zero[64] = {0}, *sink = NULL;
    if (!strcmp(vec_text(in, "kind"), "sink"))
        sink = vec_floats(in, "sink", NULL);
    if (!strcmp(vec_text(in, "kind"), "softmax1"))
        sink = zero;
    int bad = kv_attention(y, rows, vec_floats(in, "q", NULL), vec_floats(in, "k", NULL),
                           vec_floats(in, "v", NULL), sink, s, 0, T, check_floats((size_t)T), err);
    vec_add_floats(out, "rows", rows, m);
    vec_add_floats(out, "out", y, n);
    return bad;
}

static int rmsnorm(cJSON *out, const cJSON *in, const cJSON *parameters, kv_error *err)
{
    (void)parameters, (void)err;
    int n;
    float *x = vec_floats(in, "x", &n), *y = check_floats((size_t)n);
    kv_rmsnorm(y, x, vec_floats(in, "weight", NULL), vec_item(in, "eps")->valuedouble, n);
    vec_add_floats(out, "y", y, (size_t)n);
    return KV_OK;
}

static int rope(cJSON *out, const cJSON *in, const cJSON *parameters, kv_error *err)
{
    (void)parameters, (void)err;
    int *shape = vec_ints(in, "shape", NULL), *position = vec_ints(in, "positions", NULL), n;
    kv_rope r = {shape[2], !strcmp(vec_text(in, "pairing"), "interleaved"),
                 vec_item(in, "base")->valuedouble, 1, NULL};
    float *x = vec_floats(in, "x", &n), *cs = check_floats((size_t)shape[2]);
    for (int t = 0; t < shape[0]; t++) {
        kv_rope_angles(cs, &r, position[t]);
        kv_rope_rotate(x + (size_t)t * shape[1] * shape[2], cs, &r, shape[1], shape[2]);
    }
    vec_add_floats(out, "y", x, (size_t)n);
    return KV_OK;
}

static int swiglu(cJSON *out, const cJSON *in, const cJSON *parameters, kv_error *err)
{
    (void)parameters, (void)err;
    int n;
    float *gate = vec_floats(in, "gate", &n), *y = check_floats((size_t)n);
    kv_swiglu(y, gate, vec_floats(in, "up", NULL), (size_t)n);
    vec_add_floats(out, "y", y, (size_t)n);
    return KV_OK;
}

/* ---- the cache ------------------------------------------------------------------------------- */

static int open_cache(kv_cache *c, const cJSON *in, int heads, int tokens, int window,
                      kv_error *err)
{
    int *shape = vec_ints(in, "shape", NULL);
    kv_cache_spec spec = {.layers = 1, .shape = {heads ? heads : shape[0], shape[0], shape[1]},
                          .recent = vec_int(in, "recent"), .capacity = tokens,
                          .kept_capacity = tokens, .window = window};
    int bad = kv_format_parse(&spec.keys, vec_text(in, "keys"), err);
    if (!bad)
        bad = kv_format_parse(&spec.values, vec_text(in, "values"), err);
    return bad ? bad : kv_cache_init(c, &spec, malloc(kv_cache_size(&spec)), err);
}

static int is_kept(const kv_cache_layer *cl, int t)
{
    for (int i = 0; i < cl->n_kept; i++)
        if (cl->position[i] == t)
            return 1;
    return 0;
}

static void add_recent(cJSON *out, const char *name, const kv_cache_layer *cl, const kv_store *st)
{
    cJSON *list = cJSON_AddArrayToObject(out, name);
    int first = kv_format_coded(&st->format) ? st->quantized : st->tokens; /* f16: none is "recent" */
    for (int t = first; t < st->tokens; t++)
        if (!is_kept(cl, t))
            cJSON_AddItemToArray(list, cJSON_CreateNumber(t));
}

static cJSON *step_of(const kv_cache *c)
{
    const kv_cache_layer *cl = &c->layer[0];
    cJSON *o = cJSON_CreateObject();
    int k = kv_format_coded(&cl->k.format), v = kv_format_coded(&cl->v.format);
    cJSON_AddNumberToObject(o, "tokens", cl->k.tokens);
    cJSON_AddNumberToObject(o, "keysQuantized", cl->k.quantized);
    cJSON_AddNumberToObject(o, "valuesQuantized", cl->v.quantized);
    add_recent(o, "keysRecent", cl, &cl->k);
    add_recent(o, "valuesRecent", cl, &cl->v);
    cJSON_AddItemToObject(o, "kept", cJSON_CreateIntArray(cl->position, k || v ? cl->n_kept : 0));
    cJSON_AddNumberToObject(o, "bytes", (double)kv_cache_bytes(c, 0).total);
    return o;
}

/* Codes in the order of tokens, from the packed words. */
static void add_codes(cJSON *out, const char *name, const kv_store *st)
{
    cJSON *list = cJSON_AddArrayToObject(out, name);
    int row = st->shape.kv_heads * st->shape.head_size, channel = st->format.axis == KV_PER_CHANNEL;
    kv_grouping g = kv_group_layout(&st->format, st->shape, st->capacity);
    for (int t = 0; t < st->quantized; t++)
        for (int i = 0; i < row; i++) {
            int run = channel ? t / g.length : t, count = g.length;
            if (channel && st->quantized - run * g.length < count)
                count = st->quantized - run * g.length;
            size_t full = (size_t)kv_packed_words(g.length, st->format.bits);
            size_t one = (size_t)kv_packed_words(count, st->format.bits);
            const uint32_t *w = st->words + (size_t)run * g.across * full +
                                (size_t)(channel ? i : i / g.length) * one;
            int j = channel ? t % g.length : i % g.length;
            cJSON_AddItemToArray(list, cJSON_CreateNumber(kv_unpack(w, j, st->format.bits)));
        }
}

static void add_store(cJSON *out, const char *which, const kv_cache_layer *cl, const kv_store *st)
{
    char name[32];
    int coded = st->format.kind == KV_INT;
    int row = st->shape.kv_heads * st->shape.head_size * (st->format.kind == KV_F32 ? 2 : 1);
    size_t words = 0, groups = 0;
    if (coded) {
        kv_grouping g = kv_group_layout(&st->format, st->shape, st->capacity);
        int channel = st->format.axis == KV_PER_CHANNEL, run = channel ? g.length : 1;
        for (int t = 0; t < st->quantized; t += run, groups += (size_t)g.across) {
            int count = !channel ? g.length : st->quantized - t < run ? st->quantized - t : run;
            words += (size_t)g.across * (size_t)kv_packed_words(count, st->format.bits);
        }
        snprintf(name, sizeof name, "%sCodes", which);
        add_codes(out, name, st);
        snprintf(name, sizeof name, "%sWords", which);
        vec_add_words(out, name, st->words, words);
        snprintf(name, sizeof name, "%sScale", which);
        vec_add_shorts(out, name, st->scale, groups);
        uint16_t *zero = calloc(groups + 1, sizeof *zero); /* symmetric: no minimum is stored */
        snprintf(name, sizeof name, "%sMin", which);
        vec_add_shorts(out, name, st->format.symmetric ? zero : st->min, groups);
        snprintf(name, sizeof name, "%sKeptRows", which);
        vec_add_shorts(out, name, st->kept, (size_t)cl->n_kept * (size_t)row);
        snprintf(name, sizeof name, "%sRecentRows", which);
        vec_add_shorts(out, name, st->waiting, (size_t)st->n_waiting * (size_t)row);
    }
}

static int run_sequence(cJSON *out, const cJSON *in, const cJSON *seq, kv_error *err)
{
    kv_cache c;
    int T = vec_int(seq, "tokens"), n_kept, n, at = 0;
    int *kept = vec_ints(seq, "kept", &n_kept), *appends = vec_ints(seq, "appends", &n);
    int seal = cJSON_IsTrue(vec_item(in, "seal")), row;
    float *k = vec_floats(seq, "K", NULL), *v = vec_floats(seq, "V", NULL);
    int bad = open_cache(&c, in, 0, T, seal, err);
    if (bad)
        return bad;
    cJSON *steps = cJSON_AddArrayToObject(out, "steps");
    row = c.spec.shape.kv_heads * c.spec.shape.head_size;
    for (int i = 0; i < n; i++) {
        bad = kv_cache_append(&c, 0, k + (size_t)at * row, v + (size_t)at * row, kept, n_kept,
                              appends[i], err);
        at += appends[i];
        if (bad)
            return bad;
        cJSON_AddItemToArray(steps, step_of(&c));
    }
    if (seal) {
        bad = kv_cache_seal(&c, 0, err);
        if (bad)
            return bad;
        cJSON_AddItemToArray(steps, step_of(&c));
    }
    add_store(out, "keys", &c.layer[0], &c.layer[0].k);
    add_store(out, "values", &c.layer[0], &c.layer[0].v);
    return KV_OK;
}

static int cache(cJSON *out, const cJSON *in, const cJSON *parameters, kv_error *err)
{
    (void)parameters;
    const cJSON *seq;
    cJSON *list = cJSON_AddArrayToObject(out, "sequences");
    cJSON_ArrayForEach(seq, vec_item(in, "sequences"))
    {
        cJSON *o = cJSON_CreateObject();
        cJSON_AddItemToArray(list, o);
        int bad = run_sequence(o, in, seq, err);
        if (bad)
            return bad;
    }
    return KV_OK;
}

static kv_limits limits_of(const cJSON *in, const char *lo, const char *hi)
{
    return vec_has(in, lo) ? (kv_limits){vec_floats(in, lo, NULL), vec_floats(in, hi, NULL)}
                           : (kv_limits){NULL, NULL};
}

static int open_history(kv_cache *c, const cJSON *in, int tokens, kv_error *err)
{
    int *shape = vec_ints(in, "shape", NULL);
    kv_cache_spec spec = {.layers = 1, .shape = {shape[0], shape[0], shape[1]},
                          .recent = vec_int(in, "recent"), .capacity = tokens,
                          .kept_capacity = tokens,
                          .window = cJSON_IsTrue(vec_item(in, "window")),
                          .key_limits = limits_of(in, "keysLo", "keysHi"),
                          .value_limits = limits_of(in, "valuesLo", "valuesHi")};
    int bad = kv_format_parse(&spec.keys, vec_text(in, "keys"), err);
    if (!bad)
        bad = kv_format_parse(&spec.values, vec_text(in, "values"), err);
    return bad ? bad : kv_cache_init(c, &spec, malloc(kv_cache_size(&spec)), err);
}

/* Appending, settling where the case says so, sealing a window; then what a reader gets. */
static int history(cJSON *out, const cJSON *in, const cJSON *parameters, kv_error *err)
{
    (void)parameters;
    kv_cache c;
    int n, n_kept, T = 0, at = 0, *appends = vec_ints(in, "appends", &n);
    int *kept = vec_ints(in, "kept", &n_kept), *settles = vec_ints(in, "settles", NULL);
    float *k = vec_floats(in, "K", NULL), *v = vec_floats(in, "V", NULL);
    for (int i = 0; i < n; i++)
        T += appends[i];
    int bad = open_history(&c, in, T, err);
    if (bad)
        return bad;
    cJSON *steps = cJSON_AddArrayToObject(out, "steps");
    int row = c.spec.shape.kv_heads * c.spec.shape.head_size;
    for (int i = 0; i < n && !bad; at += appends[i++]) {
        bad = kv_cache_append(&c, 0, k + (size_t)at * row, v + (size_t)at * row, kept, n_kept,
                              appends[i], err);
        if (settles[i])
            kv_cache_settle(&c, 0);
        cJSON_AddItemToArray(steps, step_of(&c));
    }
    if (!bad && c.spec.window) {
        bad = kv_cache_seal(&c, 0, err);
        cJSON_AddItemToArray(steps, step_of(&c));
    }
    float *x = check_floats((size_t)T * row);
    for (int side = 0; side < 2 && !bad; side++) {
        kv_cache_read(x, &c, 0, side, 0, T);
        vec_add_floats(out, side ? "valuesRead" : "keysRead", x, (size_t)T * row);
    }
    return bad;
}

static int decode(cJSON *out, const cJSON *in, const cJSON *parameters, kv_error *err)
{
    (void)parameters;
    kv_cache c;
    int T = vec_int(in, "tokens"), n_kept, *kept = vec_ints(in, "kept", &n_kept);
    int heads = vec_int(in, "heads");
    int bad = open_cache(&c, in, heads, T, 0, err);
    if (!bad)
        bad = kv_cache_append(&c, 0, vec_floats(in, "K", NULL), vec_floats(in, "V", NULL), kept,
                              n_kept, T, err);
    if (bad)
        return bad;
    int D = c.spec.shape.head_size;
    float *y = check_floats((size_t)heads * D);
    bad = kv_decode(y, NULL, vec_floats(in, "q", NULL), &c, 0, NULL, 0,
                    check_floats((size_t)(T + D)), err);
    vec_add_floats(out, "out", y, (size_t)heads * D);
    return bad;
}

/* ---- the pieces and the files ---------------------------------------------------------------- */

static const struct { const char *name; vec_piece *run; } pieces[] = {
    {"half", half}, {"bfloat16", bfloat16}, {"nan", nan_bits}, {"decode_bits", decode_bits},
    {"packing", packing}, {"layout", layout}, {"quantize", quantize},
    {"format_grammar", format_grammar}, {"e4m3", e4m3}, {"e4m3_decode", e4m3_decode},
    {"hadamard", hadamard}, {"sink_metric", sink_metric},
    {"calibration", calibration}, {"keep", keep}, {"keep_grammar", keep_grammar},
    {"criterion", criterion}, {"predict", predict}, {"softmax", softmax}, {"attention", attention},
    {"rmsnorm", rmsnorm}, {"rope", rope}, {"swiglu", swiglu}, {"cache", cache},
    {"history", history}, {"decode", decode},
};
#define PIECES (sizeof pieces / sizeof *pieces)

static vec_piece *piece_of(const char *path)
{
    cJSON *whole = vec_load(path);
    vec_piece *run = NULL;
    for (size_t i = 0; i < PIECES; i++)
        if (!strcmp(pieces[i].name, vec_text(whole, "piece")))
            run = pieces[i].run;
    cr_expect_not_null(run, "%s: nobody answers for piece '%s'", path, vec_text(whole, "piece"));
    cJSON_Delete(whole);
    return run;
}

Test(vectors, the_reference_gives_what_the_oracle_says)
{
    glob_t files;
    int judged = 0;
    cr_assert_eq(glob("tests/vectors/*.json", 0, NULL, &files), 0, "no vectors found");
    for (size_t i = 0; i < files.gl_pathc; i++) {
        const char *path = files.gl_pathv[i];
        if (strstr(path, "schema.json"))
            continue;
        vec_piece *run = piece_of(path);
        if (run)
            vec_judge_file(path, run);
        judged++;
    }
    cr_expect_gt(judged, 10);
    globfree(&files);
}
