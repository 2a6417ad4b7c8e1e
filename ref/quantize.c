//@ top: Store numbers in a few bits
/* A group of numbers shares one scale s and one minimum m, both binary16; a
 * number x becomes the integer code q nearest to (x - m)/s and comes back as
 * q*s + m. Everything that decides a code runs in float32, one operation at a
 * time, so that two implementations agree on every bit.
 *
 * One number far away from the others stretches the range, and with it the
 * step s, for the whole group: at two bits there are only four levels, and if
 * three of them serve to reach the far one, the rest become equal. A kept
 * token is therefore left out of lo and hi. Storing it in 16 bits but letting
 * it into the range, or overwriting it by some other value, does not help its
 * neighbours (KVSink, section on exclusion). */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kv.h"

//@ parse-field: Split a format at its colons
/* Copies the field at *text, moves *text behind it; 0 when none is left. */
static int next_field(char field[16], const char **text)
{
    size_t n = strcspn(*text, ":");
    if (**text == 0 || n == 0 || n > 15)
        return 0;
    memcpy(field, *text, n);
    field[n] = 0;
    *text += n;
    if (**text == ':')
        *text += (*text)[1] ? 1 : 0; /* a trailing colon stays: refused */
    return 1;
}

static int parse_group(int *group, const char *field)
{
    char *end;
    if (!strcmp(field, "all")) {
        *group = 0;
        return 1;
    }
    long g = strtol(field, &end, 10);
    if (field[0] < '1' || field[0] > '9' || *end != 0 || g > 1 << 20)
        return 0;
    *group = (int)g;
    return 1;
}

//@ kinds: Name the kinds of storage
static const struct { const char *name; kv_kind kind; int bits; } kinds[] = {
    {"2", KV_INT, 2}, {"3", KV_INT, 3}, {"4", KV_INT, 4}, {"8", KV_INT, 8},
    {"f16", KV_F16, 16}, {"bf16", KV_BF16, 16}, {"f32", KV_F32, 32},
};

static int find_kind(kv_format *f, const char *name)
{
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (!strcmp(name, kinds[i].name)) {
            f->kind = kinds[i].kind;
            f->bits = kinds[i].bits;
            return 1;
        }
    return 0;
}

//@ parse-flags: Read the flags at the end
static int parse_flags(kv_format *f, const char *rest)
{
    char field[16];
    while (next_field(field, &rest)) {
        if (!strcmp(field, "sym") && !f->symmetric && f->kind == KV_INT)
            f->symmetric = 1;
        else if (!strcmp(field, "pre") && !f->pre)
            f->pre = 1;
        else
            return 0;
    }
    return *rest == 0;
}

//@ parse: Read "2:channel:128:pre" and its like
int kv_format_parse(kv_format *f, const char *text, kv_error *err)
{
    char field[16] = "";
    const char *rest = text;
    memset(f, 0, sizeof *f);
    if (!next_field(field, &rest) || !find_kind(f, field))
        return kv_fail(err, KV_FAIL_USAGE, "format '%s': unknown kind; "
                       "expected 2, 3, 4, 8, f16, bf16 or f32, for example "
                       "2:channel:128", text);
    if (f->kind == KV_INT) {
        int axis = next_field(field, &rest);
        f->axis = strcmp(field, "token") ? KV_PER_CHANNEL : KV_PER_TOKEN;
        if (!axis || (strcmp(field, "token") && strcmp(field, "channel")))
            return kv_fail(err, KV_FAIL_USAGE, "format '%s': expected "
                           ":channel: or :token: after the bits, for example "
                           "2:channel:128", text);
        if (!next_field(field, &rest) || !parse_group(&f->group, field))
            return kv_fail(err, KV_FAIL_USAGE, "format '%s': expected a group "
                           "size from 1 to 1048576, or 'all', for example "
                           "2:channel:128", text);
    }
    if (!parse_flags(f, rest))
        return kv_fail(err, KV_FAIL_USAGE, "format '%s': unknown or repeated "
                       "flag at '%s'; known are sym (integers) and pre", text,
                       rest);
    return KV_OK;
}

//@ print: Write a format as text
char *kv_format_print(char *text, size_t size, const kv_format *f)
{
    const char *kind = "?", *pre = f->pre ? ":pre" : "";
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (kinds[i].kind == f->kind && kinds[i].bits == f->bits)
            kind = kinds[i].name;
    char group[16] = "all";
    if (f->group)
        snprintf(group, sizeof group, "%d", f->group);
    if (f->kind == KV_INT)
        snprintf(text, size, "%s:%s:%s%s%s", kind,
                 f->axis == KV_PER_TOKEN ? "token" : "channel", group,
                 f->symmetric ? ":sym" : "", pre);
    else
        snprintf(text, size, "%s%s", kind, pre);
    return text;
}

//@ check: Refuse what does not fit the model
int kv_format_check(const kv_format *f, kv_shape s, int is_values,
                    kv_error *err)
{
    char text[48];
    kv_format_print(text, sizeof text, f);
    if (f->kind == KV_INT && f->axis == KV_PER_TOKEN && f->group &&
        s.head_size % f->group)
        return kv_fail(err, KV_FAIL_USAGE, "format '%s': a group of %d "
                       "channels does not divide the head size %d; use a "
                       "divisor of %d, or token:all", text, f->group,
                       s.head_size, s.head_size);
    if (f->pre && is_values)
        return kv_fail(err, KV_FAIL_USAGE, "format '%s': values are never "
                       "rotated, so 'pre' has no meaning for them", text);
    return KV_OK;
}

//@ range: Find what the group must span, and check that half can hold it
/* Returns the number of elements not kept. */
static int group_range(float *lo, float *hi, const float *x,
                       const uint8_t *kept, int n, int stride, kv_error *err)
{
    int used = 0;
    *lo = *hi = 0;
    for (int i = 0; i < n; i++) {
        float v = x[(size_t)i * stride];
        if (!(fabsf(v) < 65520)) { /* also NaN */
            kv_fail(err, KV_FAIL_RUN, "cannot quantize %g: %s", v,
                    isfinite(v) ? "binary16 holds at most 65504"
                                : "it is not finite");
            return -1;
        }
        if (kept && kept[i])
            continue;
        if (!used || v < *lo)
            *lo = v;
        if (!used || v > *hi)
            *hi = v;
        used++;
    }
    return used;
}

//@ scale: Choose scale and minimum and round both to binary16
/* The codes are computed with what will be stored, not with what was
 * computed: the decoder has only the stored ones. */
static float step_of(float lo, float hi, int bits, int symmetric)
{
    if (!symmetric)
        return (hi - lo) / (float)((1 << bits) - 1);
    float largest = fabsf(lo) > fabsf(hi) ? fabsf(lo) : fabsf(hi);
    return largest / (float)((1 << (bits - 1)) - 1);
}

//@ code: Round to the nearest level, ties to even, and clamp
static int code_of(float x, float s, float m, int lowest, int highest)
{
    if (s == 0)
        return 0;
    float q = rintf((x - m) / s);
    return (int)(q < (float)lowest    ? (float)lowest
                 : q > (float)highest ? (float)highest
                                      : q);
}

//@ quantize-group: Quantize one group
int kv_quantize_group(uint8_t *codes, uint16_t *scale, uint16_t *min,
                      const float *x, const uint8_t *kept, int n, int stride,
                      int bits, int symmetric, kv_error *err)
{
    float lo, hi;
    int used = group_range(&lo, &hi, x, kept, n, stride, err);
    if (used < 0)
        return KV_FAIL_RUN;
    *scale = kv_half_from_float(step_of(lo, hi, bits, symmetric));
    float s = kv_half_to_float(*scale), m = 0;
    if (!symmetric) {
        *min = kv_half_from_float(lo);
        m = kv_half_to_float(*min);
    }
    int zero = symmetric ? 1 << (bits - 1) : 0; /* stored code of q = 0 */
    for (int i = 0; i < n; i++) {
        size_t at = (size_t)i * stride;
        int q = code_of(x[at], s, m, -zero, (1 << bits) - 1 - zero);
        codes[at] = (uint8_t)(kept && kept[i] ? 0 : q + zero);
    }
    return KV_OK;
}

//@ dequantize: Get a number back from its code
/* The product is exact (8 bits times 11), so only the sum rounds: a machine
 * that fuses the two gets the same number. */
float kv_dequantize(int code, uint16_t scale, uint16_t min, int bits,
                    int symmetric)
{
    float s = kv_half_to_float(scale);
    if (symmetric)
        return (float)(code - (1 << (bits - 1))) * s;
    float product = (float)code * s;
    return product + kv_half_to_float(min);
}

//@ layout: Say how groups lie in [T][Hk][D]
kv_grouping kv_group_layout(const kv_format *f, kv_shape s, int T)
{
    int row = s.kv_heads * s.head_size;
    if (f->axis == KV_PER_CHANNEL)
        return (kv_grouping){f->group ? f->group : T, row, row};
    int length = f->group ? f->group : row;
    return (kv_grouping){length, row / length, 1};
}

size_t kv_group_count(const kv_format *f, kv_shape s, int T)
{
    if (f->kind != KV_INT || T == 0)
        return 0;
    kv_grouping g = kv_group_layout(f, s, T);
    int along = f->axis == KV_PER_TOKEN ? T : (T + g.length - 1) / g.length;
    return (size_t)along * (size_t)g.across;
}

//@ sixteen: Round a row to the precision of an uncoded format
static int round_rows(float *x_hat, const float *x, kv_kind kind, size_t n,
                      kv_error *err)
{
    int bad = kv_check_finite(x, n, "keys or values", err);
    for (size_t i = 0; i < n && !bad; i++) {
        if (kind == KV_F16 && !(fabsf(x[i]) < 65520))
            bad = kv_fail(err, KV_FAIL_RUN, "cannot store %g: binary16 holds "
                          "at most 65504", x[i]);
        x_hat[i] = x[i];
        if (kind == KV_F16)
            x_hat[i] = kv_half_to_float(kv_half_from_float(x[i]));
        if (kind == KV_BF16)
            x_hat[i] = kv_bf16_to_float(kv_bf16_from_float(x[i]));
    }
    return bad;
}

//@ rows: Quantize the groups of one token, or of one run of tokens
/* x, codes and x_hat start at the run's first token. */
static int quantize_run(uint8_t *codes, uint16_t *scale, uint16_t *min,
                        float *x_hat, const float *x, const uint8_t *kept,
                        const kv_format *f, kv_grouping g, int n, int step,
                        kv_error *err)
{
    for (int i = 0; i < g.across; i++) {
        uint16_t m = 0;
        if (kv_quantize_group(codes, scale + i, &m, x, kept, n, g.stride,
                              f->bits, f->symmetric, err))
            return KV_FAIL_RUN;
        min[i] = m;
        for (int j = 0; j < n; j++) {
            size_t at = (size_t)j * g.stride;
            x_hat[at] = kept && kept[j]
                            ? kv_half_to_float(kv_half_from_float(x[at]))
                            : kv_dequantize(codes[at], scale[i], m, f->bits,
                                            f->symmetric);
        }
        x += step;
        codes += step;
        x_hat += step;
    }
    return KV_OK;
}

//@ quantize: Quantize a whole array
/* Per channel a run is G tokens, some of which may be kept; per token a run is
 * one token, which is kept whole: its groups then become empty ones. */
int kv_quantize(uint8_t *codes, uint16_t *scale, uint16_t *min, float *x_hat,
                const float *x, const uint8_t *kept, const kv_format *f,
                kv_shape s, int T, kv_error *err)
{
    size_t row = (size_t)s.kv_heads * (size_t)s.head_size;
    if (f->kind != KV_INT)
        return round_rows(x_hat, x, f->kind, row * (size_t)T, err);
    kv_grouping g = kv_group_layout(f, s, T);
    int per_token = f->axis == KV_PER_TOKEN, run = per_token ? 1 : g.length;
    for (int t = 0; t < T; t += run) {
        size_t at = (size_t)t * row, group = (size_t)(t / run) * g.across;
        int n = per_token ? g.length : T - t < run ? T - t : run;
        int whole = per_token && kept && kept[t];
        if (quantize_run(codes + at, scale + group, min + group, x_hat + at,
                         x + at, per_token ? NULL : kept ? kept + t : NULL, f,
                         g, n, per_token ? g.length : 1, err))
            return KV_FAIL_RUN;
        if (!whole)
            continue;
        memset(codes + at, 0, row);
        memset(scale + group, 0, (size_t)g.across * sizeof *scale);
        memset(min + group, 0, (size_t)g.across * sizeof *min);
        if (round_rows(x_hat + at, x + at, KV_F16, row, err))
            return KV_FAIL_RUN;
    }
    return KV_OK;
}
