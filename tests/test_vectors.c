/* ref/ before the oracle's cases, like anyone else's implementation. Every file of tests/vectors must
 * belong to a piece below; one that nobody answers for is a failure. */
#include <glob.h>

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
    int T, row;
    size_t n, groups;
} array;

static int read_array(array *a, const cJSON *in, kv_error *err)
{
    int *shape = vec_ints(in, "shape", NULL);
    a->T = shape[0];
    a->s = (kv_shape){shape[1], shape[1], shape[2]};
    a->row = shape[1] * shape[2];
    a->n = (size_t)a->T * (size_t)a->row;
    int bad = kv_format_parse(&a->f, vec_text(in, "format"), err);
    if (!bad)
        bad = kv_format_check(&a->f, a->s, 0, err);
    a->groups = bad ? 0 : kv_group_count(&a->f, a->s, a->T);
    return bad;
}

static void add_scale_shape(cJSON *out, const array *a)
{
    kv_grouping g = kv_group_layout(&a->f, a->s, a->T);
    int channel = a->f.axis == KV_PER_CHANNEL, all = !channel && a->f.group == 0;
    int shape[3] = {channel ? (a->T + g.length - 1) / g.length : a->T, all ? 1 : a->s.kv_heads,
                    channel ? a->s.head_size : all ? 1 : a->s.head_size / g.length};
    vec_add_ints(out, "scaleShape", shape, 3);
}

static int quantize(cJSON *out, const cJSON *in, const cJSON *parameters, kv_error *err)
{
    (void)parameters;
    array a;
    int n_kept, bad = read_array(&a, in, err);
    if (bad)
        return bad;
    int *kept = vec_ints(in, "kept", &n_kept);
    float *x = vec_floats(in, "x", NULL), *y = check_floats(a.n);
    uint8_t *codes = calloc(a.n + 1, 1), *flags = calloc((size_t)a.T + 1, 1);
    uint16_t *scale = calloc(a.groups + 1, 2), *min = calloc(a.groups + 1, 2);
    for (int i = 0; i < n_kept; i++)
        flags[kept[i]] = 1;
    bad = kv_quantize(codes, scale, min, y, x, flags, &a.f, a.s, a.T, err);
    if (bad)
        return bad;
    vec_add_bytes(out, "codes", codes, a.n);
    add_scale_shape(out, &a);
    vec_add_shorts(out, "scale", scale, a.groups);
    vec_add_shorts(out, "min", min, a.groups);
    vec_add_floats(out, "dequant", y, a.n);
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

/* ---- the pieces and the files ---------------------------------------------------------------- */

static const struct { const char *name; vec_piece *run; } pieces[] = {
    {"half", half}, {"bfloat16", bfloat16}, {"nan", nan_bits}, {"decode_bits", decode_bits},
    {"packing", packing}, {"layout", layout}, {"quantize", quantize},
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
