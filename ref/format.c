//@ top: Say in a short text how numbers are stored
/* A format is written as one word, for example
 *
 *     2:channel:128          2-bit integers, groups of 128 tokens of a channel
 *     4:token:64:had         4 bits, groups of 64 channels, rotated before
 *     nf4:channel:32:pre     16 uneven levels, keys before RoPE
 *     2:channel:32:out1      1 % of the numbers stay in 16 bits
 *     q4_0, f16              llama.cpp's blocks; no codes at all
 *
 *     KIND:AXIS:GROUP[:sym][:pre][:had][:norm][:static][:outP][:kivi]
 *     KIND  2 3 4 8 (integers), nf2 nf3 nf4, e4m3
 *     AXIS  channel (a group is GROUP tokens of one channel)
 *           token (GROUP channels of one token); GROUP a number, or all
 *     or    f16 bf16 f32 [:pre], q4_0 q4_1 q5_0 q5_1 q8_0 [:pre][:had]
 *
 * Flags come in any order, each once. What a format cannot have is refused
 * here once, so that nobody else needs to ask. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kv.h"

//@ kinds: Name the kinds of storage
static const struct { const char *name; kv_kind kind; int bits; } kinds[] = {
    {"2", KV_INT, 2}, {"3", KV_INT, 3}, {"4", KV_INT, 4}, {"8", KV_INT, 8},
    {"nf2", KV_NF, 2}, {"nf3", KV_NF, 3}, {"nf4", KV_NF, 4},
    {"e4m3", KV_E4M3, 8}, {"q4_0", KV_Q4_0, 4}, {"q4_1", KV_Q4_1, 4},
    {"q5_0", KV_Q5_0, 5}, {"q5_1", KV_Q5_1, 5}, {"q8_0", KV_Q8_0, 8},
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

//@ families: Tell the families of kinds apart
int kv_format_coded(const kv_format *f)
{
    return f->kind != KV_F16 && f->kind != KV_BF16 && f->kind != KV_F32;
}

int kv_format_blocks(const kv_format *f)
{
    return f->kind == KV_Q4_0 || f->kind == KV_Q4_1 || f->kind == KV_Q5_0 ||
           f->kind == KV_Q5_1 || f->kind == KV_Q8_0;
}

int kv_format_has_min(const kv_format *f)
{
    return (f->kind == KV_INT && !f->symmetric) || f->kind == KV_Q4_1 ||
           f->kind == KV_Q5_1;
}

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

//@ parse-percent: Read the share of outliers in thousandths of a percent
/* "1", "0.1", "12.345": at most 3 decimals, at most 50. */
static int parse_percent(int *thousandths, const char *text)
{
    int value = 0, decimals = -1, digits = 0;
    for (; *text; text++) {
        if (*text == '.' && decimals < 0 && digits > 0) {
            decimals = 0;
            continue;
        }
        if (*text < '0' || *text > '9' || decimals == 3 || ++digits > 8)
            return 0;
        value = 10 * value + (*text - '0');
        decimals += decimals >= 0;
    }
    if (digits == 0 || decimals == 0)
        return 0;
    for (int i = decimals < 0 ? 0 : decimals; i < 3; i++)
        value = value > 50000 ? value : 10 * value;
    *thousandths = value;
    return value <= 50000;
}

//@ parse-flags: Read the flags at the end
static int parse_flag(kv_format *f, const char *field)
{
    const struct { const char *name; int *flag; } flags[] = {
        {"sym", &f->symmetric}, {"pre", &f->pre},        {"had", &f->hadamard},
        {"norm", &f->norm},     {"static", &f->is_static}, {"kivi", &f->kivi},
    };
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++)
        if (!strcmp(field, flags[i].name))
            return !(*flags[i].flag)++;
    return !strncmp(field, "out", 3) && !f->sparse++ &&
           parse_percent(&f->outliers, field + 3);
}

static int parse_flags(kv_format *f, const char *rest)
{
    char field[16];
    while (next_field(field, &rest))
        if (!parse_flag(f, field))
            return 0;
    return *rest == 0;
}

//@ refuse: Say which flags a format cannot have
static const char *clash(const kv_format *f)
{
    int grouped = kv_format_coded(f) && !kv_format_blocks(f);
    if (f->symmetric && f->kind != KV_INT)
        return "'sym' is for integers (2, 3, 4, 8)";
    if (f->sparse && f->kind != KV_INT)
        return "'outP' is for integers (2, 3, 4, 8)";
    if (f->kivi && f->kind != KV_INT)
        return "'kivi' is for integers (2, 3, 4, 8)";
    if (f->hadamard && !kv_format_coded(f))
        return "'had' needs codes; 16- and 32-bit rows take 'pre' only";
    if ((f->norm || f->is_static) && !grouped)
        return "'norm' and 'static' need an axis and a group";
    if (f->kivi && (f->symmetric || f->hadamard || f->norm || f->is_static ||
                    f->sparse))
        return "'kivi' goes with 'pre' only";
    if (f->is_static && (f->hadamard || f->norm || f->sparse))
        return "'static' does not go with 'had', 'norm' or 'outP'";
    return NULL;
}

//@ parse-groups: Read axis and group
static int parse_axis(kv_format *f, const char **rest, const char *text,
                      kv_error *err)
{
    char field[16] = "";
    int axis = next_field(field, rest);
    f->axis = strcmp(field, "token") ? KV_PER_CHANNEL : KV_PER_TOKEN;
    if (!axis || (strcmp(field, "token") && strcmp(field, "channel")))
        return kv_fail(err, KV_FAIL_USAGE, "format '%s': expected :channel: "
                       "or :token: after the kind, for example 2:channel:128",
                       text);
    if (!next_field(field, rest) || !parse_group(&f->group, field))
        return kv_fail(err, KV_FAIL_USAGE, "format '%s': expected a group "
                       "size from 1 to 1048576, or 'all', for example "
                       "2:channel:128", text);
    return KV_OK;
}

//@ parse: Read "2:channel:128:pre" and its like
int kv_format_parse(kv_format *f, const char *text, kv_error *err)
{
    char field[16] = "";
    const char *rest = text;
    memset(f, 0, sizeof *f);
    if (!next_field(field, &rest) || !find_kind(f, field))
        return kv_fail(err, KV_FAIL_USAGE, "format '%s': unknown kind; "
                       "expected 2, 3, 4, 8, nf2, nf3, nf4, e4m3, q4_0, q4_1, "
                       "q5_0, q5_1, q8_0, f16, bf16 or f32, for example "
                       "2:channel:128", text);
    if (kv_format_blocks(f)) {
        f->axis = KV_PER_TOKEN;
        f->group = KV_BLOCK;
    } else if (kv_format_coded(f) && parse_axis(f, &rest, text, err)) {
        return KV_FAIL_USAGE;
    }
    if (!parse_flags(f, rest))
        return kv_fail(err, KV_FAIL_USAGE, "format '%s': unknown or repeated "
                       "flag; known are sym, pre, had, norm, static, outP (P "
                       "percent from 0 to 50, at most 3 decimals, for example "
                       "out0.5) and kivi", text);
    const char *why = clash(f);
    return why ? kv_fail(err, KV_FAIL_USAGE, "format '%s': %s", text, why)
               : KV_OK;
}

//@ print-flags: Write the flags of a format
static void print_flags(char text[64], const kv_format *f)
{
    char out[16] = "";
    if (f->sparse) {
        int n = snprintf(out, sizeof out, ":out%d.%03d", f->outliers / 1000,
                         f->outliers % 1000);
        while (out[n - 1] == '0')
            out[--n] = 0;
        if (out[n - 1] == '.')
            out[n - 1] = 0;
    }
    snprintf(text, 64, "%s%s%s%s%s%s%s", f->symmetric ? ":sym" : "",
             f->pre ? ":pre" : "", f->hadamard ? ":had" : "",
             f->norm ? ":norm" : "", f->is_static ? ":static" : "", out,
             f->kivi ? ":kivi" : "");
}

//@ print: Write a format as text
char *kv_format_print(char *text, size_t size, const kv_format *f)
{
    const char *kind = "?";
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (kinds[i].kind == f->kind && kinds[i].bits == f->bits)
            kind = kinds[i].name;
    char group[16] = "all", flags[64];
    if (f->group)
        snprintf(group, sizeof group, "%d", f->group);
    print_flags(flags, f);
    if (kv_format_coded(f) && !kv_format_blocks(f))
        snprintf(text, size, "%s:%s:%s%s", kind,
                 f->axis == KV_PER_TOKEN ? "token" : "channel", group, flags);
    else
        snprintf(text, size, "%s%s", kind, flags);
    return text;
}

//@ check: Refuse what does not fit the model
int kv_format_check(const kv_format *f, kv_shape s, int is_values,
                    kv_error *err)
{
    char text[KV_FORMAT_TEXT];
    int D = s.head_size, row = s.kv_heads * D;
    kv_format_print(text, sizeof text, f);
    if (kv_format_blocks(f) && row % KV_BLOCK)
        return kv_fail(err, KV_FAIL_USAGE, "format '%s': its blocks of %d "
                       "channels do not divide a row of %d", text, KV_BLOCK,
                       row);
    if (!kv_format_blocks(f) && kv_format_coded(f) &&
        f->axis == KV_PER_TOKEN && f->group && D % f->group)
        return kv_fail(err, KV_FAIL_USAGE, "format '%s': a group of %d "
                       "channels does not divide the head size %d; use a "
                       "divisor of %d, or token:all", text, f->group, D, D);
    if (f->hadamard && (D & (D - 1)))
        return kv_fail(err, KV_FAIL_USAGE, "format '%s': 'had' needs a head "
                       "size that is a power of two, and it is %d", text, D);
    if (f->pre && is_values)
        return kv_fail(err, KV_FAIL_USAGE, "format '%s': values are never "
                       "rotated, so 'pre' has no meaning for them", text);
    return KV_OK;
}
