//@ top: Quantize a whole array of keys or values
/* From the rows of T tokens to codes, scales and minima, and back to what a
 * reader gets, in the order that every cache keeps to:
 *
 *     row -> had -> norm -> outliers taken out -> groups -> codes
 *     codes -> outliers put back -> times norm -> had again -> x^
 *
 * All of it happens in x_hat. codes serves twice: until a group is quantized,
 * an element's place there says whether it counts for the range and whether
 * it gets a code. */
#include <math.h>
#include <string.h>

#include "kv.h"

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
    if (!kv_format_coded(f) || T == 0)
        return 0;
    kv_grouping g = kv_group_layout(f, s, T);
    int along = f->axis == KV_PER_TOKEN ? T : (T + g.length - 1) / g.length;
    return (size_t)along * (size_t)g.across;
}

//@ sparse-count: Count the outliers of an array
size_t kv_sparse_count(const kv_format *f, kv_shape s, int T, int kept,
                       int is_values)
{
    int row = s.kv_heads * s.head_size;
    if (f->exclusion == KV_KEPT_EXCLUDE_ONLY && f->axis == KV_PER_TOKEN)
        kept = 0; /* coded like any other */
    if (is_values)
        return 2 * (size_t)(T - kept) * (size_t)kv_outliers_each(f, row);
    return 2 * (size_t)row * (size_t)kv_outliers_each(f, T - kept);
}

//@ sixteen: Round rows to the precision of an uncoded format
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

//@ exclusion: Say what being kept means for a row
/* A token's own group is all it has: per token, leaving it out of the range
 * and still coding it would mean nothing, so it is coded like any other. */
static uint8_t mark_of(const kv_format *f, int is_kept)
{
    if (!is_kept)
        return 0;
    if (f->exclusion == KV_KEPT_OVERWRITE)
        return KV_UNCODED;
    if (f->exclusion == KV_KEPT_EXCLUDE_ONLY)
        return f->axis == KV_PER_CHANNEL ? KV_UNCOUNTED : 0;
    return KV_LEFT_OUT;
}

static int is_kept(const kv_rows *in, int t)
{
    return in->kept && in->kept[t];
}

//@ prepare-rows: Mark kept rows, rotate and norm the others
static int prepare_rows(const kv_quantized *out, const kv_rows *in,
                        const kv_format *f, kv_error *err)
{
    size_t row = (size_t)in->shape.kv_heads * (size_t)in->shape.head_size;
    for (int t = 0; t < in->T; t++) {
        const float *x = in->x + (size_t)t * row;
        float *y = out->x_hat + (size_t)t * row, norm = 0;
        uint8_t mark = mark_of(f, is_kept(in, t));
        memset(out->codes + (size_t)t * row, mark, row);
        if (kv_check_half(x, (int)row, 1, err))
            return KV_FAIL_RUN;
        memcpy(y, x, row * sizeof *y);
        if (mark != KV_LEFT_OUT)
            kv_row_prepare(y, &norm, f, in->shape);
        if (f->hadamard && kv_check_half(y, (int)row, 1, err))
            return KV_FAIL_RUN;
        if (f->norm)
            out->norm[t] = mark & KV_UNCODED ? 0 : norm;
    }
    return KV_OK;
}

//@ outliers: Take them out of channels or tokens, and put them back
/* Keys: of each channel over the window's tokens; values: of each token. */
static void move_outliers(const kv_quantized *out, const kv_rows *in,
                          const kv_format *f, int back)
{
    int row = in->shape.kv_heads * in->shape.head_size, T = in->T, tokens = 0;
    int count = in->is_values ? row : T, stride = in->is_values ? 1 : row;
    kv_entry *entry = out->sparse;
    for (int t = 0; t < T; t++)
        tokens += mark_of(f, is_kept(in, t)) == 0;
    int k = kv_outliers_each(f, in->is_values ? row : tokens);
    for (int i = 0; i < (in->is_values ? T : row) && k; i++) {
        size_t at = in->is_values ? (size_t)i * row : (size_t)i;
        float *x = out->x_hat + at;
        if (in->is_values && mark_of(f, is_kept(in, i)))
            continue;
        if (back)
            kv_outliers_put(x, entry, 2 * k, stride, 0, count);
        else
            kv_outliers_take(entry, out->codes + at, x, count, stride, k);
        entry += 2 * k;
    }
}

//@ static-range: Look a group's range up among the constants
/* Per channel they are the channel's own, whatever the group; per token they
 * span the channels of the group. */
void kv_static_range(float range[2], const float *lo, const float *hi,
                     const kv_format *f, kv_grouping g, int across)
{
    int first = f->axis == KV_PER_CHANNEL ? across : across * g.length;
    int count = f->axis == KV_PER_CHANNEL ? 1 : g.length;
    range[0] = lo[first];
    range[1] = hi[first];
    for (int i = first + 1; i < first + count; i++) {
        range[0] = lo[i] < range[0] ? lo[i] : range[0];
        range[1] = hi[i] > range[1] ? hi[i] : range[1];
    }
}

int kv_static_check(const float *lo, const float *hi, int row, kv_error *err)
{
    for (int i = 0; i < row; i++)
        if (!(lo[i] > -65520 && lo[i] <= hi[i] && hi[i] < 65520))
            return kv_fail(err, KV_FAIL_RUN, "static range %g to %g of channel "
                           "%d: expected low to high within binary16", lo[i],
                           hi[i], i);
    return KV_OK;
}

//@ run: Quantize the groups of one token, or of one run of tokens
/* n elements each; the run starts at token t. */
static int quantize_run(const kv_quantized *out, const kv_rows *in,
                        const kv_format *f, kv_grouping g, int t, int n,
                        size_t group, kv_error *err)
{
    size_t row = (size_t)in->shape.kv_heads * (size_t)in->shape.head_size;
    int step = f->axis == KV_PER_TOKEN ? g.length : 1;
    for (int i = 0; i < g.across; i++, group++) {
        size_t first = (size_t)t * row + (size_t)(i * step);
        float range[2], *x = out->x_hat + first;
        uint8_t *codes = out->codes + first;
        if (f->is_static)
            kv_static_range(range, in->lo, in->hi, f, g, i);
        if (kv_quantize_marked(codes, out->scale + group, out->min + group, x,
                               n, g.stride, f, f->is_static ? range : NULL,
                               err))
            return KV_FAIL_RUN;
        for (int j = 0; j < n; j++) {
            size_t at = (size_t)j * g.stride;
            x[at] = kv_dequantize(codes[at], out->scale[group],
                                  out->min[group], f);
        }
    }
    return KV_OK;
}

//@ restore-rows: Undo norm and rotation; kept rows are binary16
static void restore_rows(const kv_quantized *out, const kv_rows *in,
                         const kv_format *f)
{
    int Hk = in->shape.kv_heads, D = in->shape.head_size;
    size_t row = (size_t)Hk * (size_t)D;
    for (int t = 0; t < in->T; t++) {
        const float *x = in->x + (size_t)t * row;
        float *y = out->x_hat + (size_t)t * row;
        if (mark_of(f, is_kept(in, t)) & KV_UNCODED)
            for (size_t i = 0; i < row; i++)
                y[i] = kv_half_to_float(kv_half_from_float(x[i]));
        else
            kv_row_restore(y, f->norm ? out->norm[t] : 0, f, Hk, D);
    }
}

//@ check-input: Refuse what an array cannot have
static int check_input(const kv_rows *in, const kv_format *f, kv_error *err)
{
    if (f->is_static && (!in->lo || !in->hi))
        return kv_fail(err, KV_FAIL_USAGE, "a static format needs the ranges "
                       "of each channel; 'kvsink calibrate --static' writes "
                       "them into the profile");
    int row = in->shape.kv_heads * in->shape.head_size;
    int among = in->is_values ? row : in->T;
    if (f->outliers && among > 65536)
        return kv_fail(err, KV_FAIL_RUN, "outliers have a 16-bit index, and "
                       "there are %d %s, more than 65536", among,
                       in->is_values ? "channels of values"
                                     : "tokens in the window of keys");
    return f->is_static ? kv_static_check(in->lo, in->hi, row, err) : KV_OK;
}

//@ quantize: Quantize a whole array
/* Per channel a run is G tokens, some of which may be kept; per token a run is
 * one token, which is kept whole: its groups then become empty ones. */
int kv_quantize(const kv_quantized *out, const kv_rows *in, const kv_format *f,
                kv_error *err)
{
    size_t row = (size_t)in->shape.kv_heads * (size_t)in->shape.head_size;
    if (!kv_format_coded(f))
        return round_rows(out->x_hat, in->x, f->kind, row * (size_t)in->T,
                          err);
    kv_grouping g = kv_group_layout(f, in->shape, in->T);
    int per_token = f->axis == KV_PER_TOKEN, run = per_token ? 1 : g.length;
    int bad = check_input(in, f, err);
    if (!bad)
        bad = prepare_rows(out, in, f, err);
    if (!bad)
        move_outliers(out, in, f, 0);
    for (int t = 0; t < in->T && !bad; t += run) {
        int n = per_token ? g.length : in->T - t < run ? in->T - t : run;
        bad = quantize_run(out, in, f, g, t, n,
                           (size_t)(t / run) * (size_t)g.across, err);
    }
    if (bad)
        return bad;
    move_outliers(out, in, f, 1);
    restore_rows(out, in, f);
    return KV_OK;
}
