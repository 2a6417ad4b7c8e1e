/* Reading and writing profiles; profile.h describes the file.
 *
 * The reader works on one line at a time, split into words. It is strict: a word too many, a
 * number that does not fit, a stage outside the model are errors that name file and line, because
 * people edit these files by hand, and a typing mistake that is silently passed over turns into
 * a wrong keep set much later. */
#define _POSIX_C_SOURCE 200809L /* strdup */

#include "profile.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "files.h"

/* One line being read. */
typedef struct {
    const char *name; /* of the file */
    int number;       /* of the line, from 1 */
    char *rest;       /* words not yet taken */
    size_t size;      /* of the file */
    kv_error *err;
} line_reader;

static int fail_line(const line_reader *r, const char *found, const char *expected)
{
    char shown[64];
    return kv_fail(r->err, KV_FAIL_RUN, "%s:%d: found \"%s\", expected %s; correct the line or run"
                   " `kvsink calibrate` again", r->name, r->number,
                   tm_printable(shown, sizeof shown, found, strlen(found)), expected);
}

/* The next word, ended by NUL in place; an empty string at the end of the line. */
static char *next_word(line_reader *r)
{
    char *word = r->rest + strspn(r->rest, " \t\r");
    size_t length = strcspn(word, " \t\r");
    r->rest = word + length + (word[length] != 0);
    word[length] = 0;
    return word;
}

static int read_int(int *out, line_reader *r, long low, long high, const char *what)
{
    char *word = next_word(r), *end, expected[128];
    errno = 0;
    long value = strtol(word, &end, 10);
    snprintf(expected, sizeof expected, "%s, an integer from %ld to %ld", what, low, high);
    if (!*word || *end || errno || value < low || value > high)
        return fail_line(r, word, expected);
    *out = (int)value;
    return KV_OK;
}

static int read_magnitude(double *out, line_reader *r, const char *what)
{
    char *word = next_word(r), *end, expected[128];
    *out = strtod(word, &end);
    snprintf(expected, sizeof expected, "%s, a number of at least 0", what);
    if (!*word || *end || !isfinite(*out) || *out < 0) return fail_line(r, word, expected);
    return KV_OK;
}

static int read_end(line_reader *r)
{
    char *word = next_word(r);
    return *word ? fail_line(r, word, "the end of the line") : KV_OK;
}

static int read_model(kv_profile *p, line_reader *r)
{
    char *word = next_word(r), *end;
    if (p->layers) return fail_line(r, "model", "one model line only");
    if (strcmp(word, "llama") != 0) return fail_line(r, word, "the architecture llama");
    int code = read_int(&p->layers, r, 1, 100000, "the number of layers");
    if (!code) code = read_int(&p->width, r, 1, INT_MAX, "the width");
    if (!code) code = read_int(&p->vocab, r, 1, INT_MAX, "the size of the vocabulary");
    if (code) return code;
    word = next_word(r);
    errno = 0;
    p->hash = strtoull(word, &end, 16);
    if (!*word || *word == '-' || *end || errno)
        return fail_line(r, word, "the hash of the weights, hexadecimal digits");
    return read_end(r);
}

/* Grows an array of count elements by one. */
static void *grow(void *array, int count, size_t size, line_reader *r)
{
    void *larger = array;
    if (count == 0 || (count >= 8 && (count & (count - 1)) == 0))
        larger = realloc(array, (size_t)(count < 8 ? 8 : 2 * count) * size);
    if (!larger) kv_fail(r->err, KV_FAIL_RUN, "%s: not enough memory to read it", r->name);
    return larger;
}

static int read_stage(kv_profile *p, line_reader *r)
{
    kv_stage s;
    memset(&s, 0, sizeof s);
    int code = read_int(&s.layer, r, 0, p->layers - 1, "the layer");
    if (!code) code = read_int(&s.channel, r, 0, p->width - 1, "the channel");
    if (code) return code;
    char *word = next_word(r);
    if (strcmp(word, "+1") == 0 || strcmp(word, "1") == 0 || strcmp(word, "+") == 0) s.sign = 1;
    else if (strcmp(word, "-1") == 0 || strcmp(word, "-") == 0) s.sign = -1;
    else return fail_line(r, word, "the sign, +1 or -1");
    code = read_magnitude(&s.at_sinks, r, "the median at sinks");
    if (!code) code = read_magnitude(&s.elsewhere, r, "the median elsewhere");
    if (!code) code = read_magnitude(&s.threshold, r, "the threshold");
    if (!code) code = read_int(&s.prompts, r, 0, INT_MAX, "the number of prompts");
    if (!code) code = read_end(r);
    if (code) return code;
    for (int i = 0; i < p->n_stages; i++)
        if (p->stage[i].layer == s.layer && p->stage[i].channel == s.channel)
            return fail_line(r, "stage", "each layer and channel once");
    kv_stage *larger = grow(p->stage, p->n_stages, sizeof s, r);
    if (!larger) return KV_FAIL_RUN;
    p->stage = larger;
    p->stage[p->n_stages++] = s;
    return KV_OK;
}

static int read_ids(kv_profile *p, line_reader *r)
{
    while (r->rest[strspn(r->rest, " \t\r")]) {
        int id, code = read_int(&id, r, 0, p->vocab - 1, "a token id");
        if (code) return code;
        int *larger = grow(p->ids, p->n_ids, sizeof id, r);
        if (!larger) return KV_FAIL_RUN;
        p->ids = larger;
        p->ids[p->n_ids++] = id;
    }
    return KV_OK;
}

/* ---------------------------------------------------------------- static ranges */

static const char *const range_name[3] = {"keys", "keys-pre", "values"};

static size_t range_size(const kv_profile *p)
{
    return (size_t)p->layers * (size_t)p->range_row;
}

static int count_words(const char *text)
{
    int n = 0;
    while (*(text += strspn(text, " \t\r"))) {
        n++;
        text += strcspn(text, " \t\r");
    }
    return n;
}

/* The first line tells how many channels there are. All values together need at least two characters
 * each, so a file that is too short for them is not even begun. */
static int take_ranges(kv_profile *p, line_reader *r, int row)
{
    p->range_row = row;
    size_t n = 6 * range_size(p);
    p->range = 2 * n <= r->size ? malloc(n * sizeof *p->range) : NULL;
    if (!p->range) {
        p->range_row = 0;
        return kv_fail(r->err, KV_FAIL_RUN, "%s:%d: static ranges of %d channels in %d layers do not"
                       " fit into this file, so some are missing; run `kvsink calibrate --static`"
                       " again", r->name, r->number, row, p->layers);
    }
    for (size_t i = 0; i < n; i++) p->range[i] = NAN;
    return KV_OK;
}

static int read_bound(float *out, line_reader *r, float low)
{
    char *word = next_word(r), *end;
    *out = strtof(word, &end);
    if (!*word || *end || !(*out >= low && fabsf(*out) < 65520))
        return fail_line(r, word, low > -65520 ? "the highest value, not below the lowest"
                                               : "the lowest value, a number within binary16");
    return KV_OK;
}

static int read_range(kv_profile *p, line_reader *r)
{
    int layer, which = 0, code = read_int(&layer, r, 0, p->layers - 1, "a layer, or keep,");
    if (code) return code;
    char *word = next_word(r);
    while (which < 3 && strcmp(word, range_name[which]) != 0) which++;
    if (which == 3) return fail_line(r, word, "keys, keys-pre or values");
    int words = count_words(r->rest), row = words / 2;
    if (!words || words % 2) return fail_line(r, word, "pairs of numbers behind it, low and high");
    if (!p->range_row && take_ranges(p, r, row)) return KV_FAIL_RUN;
    if (row != p->range_row) return fail_line(r, word, "as many pairs as in the lines before");
    float *lo = p->range + 2 * (size_t)which * range_size(p) + (size_t)layer * (size_t)row;
    float *hi = lo + range_size(p);
    if (!isnan(*lo)) return fail_line(r, word, "each layer once");
    for (int i = 0; i < row && !code; i++) {
        code = read_bound(&lo[i], r, -65520);
        if (!code) code = read_bound(&hi[i], r, lo[i]);
    }
    return code ? code : read_end(r);
}

static int read_static(kv_profile *p, line_reader *r)
{
    char *rest = r->rest + strspn(r->rest, " \t\r");
    if (strncmp(rest, "keep", 4) != 0) return read_range(p, r);
    next_word(r);
    char *word = next_word(r);
    if (!*word || p->range_keep) return fail_line(r, word, "one keep rule, once");
    p->range_keep = strdup(word);
    if (!p->range_keep)
        return kv_fail(r->err, KV_FAIL_RUN, "%s: not enough memory to read it", r->name);
    return read_end(r);
}

/* All or nothing. */
static int check_ranges(const kv_profile *p, const line_reader *r)
{
    size_t n = range_size(p);
    for (size_t i = 0; p->range_row && i < 3 * (size_t)p->layers; i++) {
        size_t which = i / (size_t)p->layers, layer = i % (size_t)p->layers;
        if (isnan(p->range[2 * which * n + layer * (size_t)p->range_row]))
            return kv_fail(r->err, KV_FAIL_RUN, "%s: the line \"static %zu %s\" is missing; run"
                           " `kvsink calibrate --static` again", r->name, layer,
                           range_name[which]);
    }
    return KV_OK;
}

static int read_line(kv_profile *p, line_reader *r, int *seen_header)
{
    if (strncmp(r->rest, "# weak:", 7) == 0) p->weak = 1;
    r->rest[strcspn(r->rest, "#")] = 0;
    char *word = next_word(r);
    if (!*word) return KV_OK;
    if (!*seen_header) {
        *seen_header = 1;
        if (strcmp(word, "kvsink-profile") != 0)
            return fail_line(r, word, "\"kvsink-profile 1\": this is not a profile");
        word = next_word(r);
        if (strcmp(word, "1") != 0) return fail_line(r, word, "version 1");
        return read_end(r);
    }
    if (strcmp(word, "model") == 0) return read_model(p, r);
    if (!p->layers) return fail_line(r, word, "the model line first");
    if (strcmp(word, "stage") == 0) return read_stage(p, r);
    if (strcmp(word, "ids") == 0) return read_ids(p, r);
    if (strcmp(word, "static") == 0) return read_static(p, r);
    return fail_line(r, word, "stage, ids, static or a comment");
}

static int compare_stages(const void *a, const void *b)
{
    const kv_stage *x = a, *y = b;
    if (x->layer != y->layer) return x->layer < y->layer ? -1 : 1;
    return (x->channel > y->channel) - (x->channel < y->channel);
}

static int compare_ints(const void *a, const void *b)
{
    const int *x = a, *y = b;
    return (*x > *y) - (*x < *y);
}

/* Ascending order, each id once. */
static void sort_profile(kv_profile *p)
{
    int n = 0;
    if (p->n_stages) qsort(p->stage, (size_t)p->n_stages, sizeof *p->stage, compare_stages);
    if (p->n_ids) qsort(p->ids, (size_t)p->n_ids, sizeof *p->ids, compare_ints);
    for (int i = 0; i < p->n_ids; i++)
        if (n == 0 || p->ids[n - 1] != p->ids[i]) p->ids[n++] = p->ids[i];
    p->n_ids = n;
}

int tm_profile_parse(kv_profile *p, const char *text, size_t n, const char *name, kv_error *err)
{
    memset(p, 0, sizeof *p);
    int code = KV_OK, seen_header = 0;
    line_reader r = {name, 0, NULL, n, err};
    char *copy = malloc(n + 1);
    if (!copy) return kv_fail(err, KV_FAIL_RUN, "%s: not enough memory to read it", name);
    memcpy(copy, text, n);
    copy[n] = 0;
    if (memchr(text, 0, n)) {
        code = kv_fail(err, KV_FAIL_RUN, "%s: contains zero bytes, so it is not a profile (a text"
                       " file that `kvsink calibrate` writes)", name);
    }
    for (char *line = copy; !code && line < copy + n; ) {
        char *end = line + strcspn(line, "\n");
        *end = 0;
        r.number++;
        r.rest = line;
        code = read_line(p, &r, &seen_header);
        line = end + 1;
    }
    free(copy);
    if (!code && (!seen_header || !p->layers))
        code = kv_fail(err, KV_FAIL_RUN, "%s: ends after %d lines without %s; make a profile with"
                       " `kvsink calibrate`", name, r.number,
                       seen_header ? "a model line" : "\"kvsink-profile 1\"");
    if (!code) code = check_ranges(p, &r);
    if (code) tm_profile_free(p);
    else sort_profile(p);
    return code;
}

int tm_profile_read(kv_profile *p, const char *path, kv_error *err)
{
    char *text;
    size_t n;
    memset(p, 0, sizeof *p);
    int code = tm_read_file(&text, &n, path, err);
    if (code) return code;
    code = tm_profile_parse(p, text, n, path, err);
    free(text);
    return code;
}

/* The shortest text that reads back as x. */
static const char *number_text(char text[32], double x)
{
    for (int digits = 6; digits <= 17; digits++) {
        snprintf(text, 32, "%.*g", digits, x);
        if (strtod(text, NULL) == x) break;
    }
    return text;
}

static void write_comment(FILE *f, const char *comment)
{
    while (comment && *comment) {
        size_t length = strcspn(comment, "\n");
        fprintf(f, "# %.*s\n", (int)length, comment);
        comment += length + (comment[length] != 0);
    }
}

/* As few digits as read back as the same float32. */
static void write_float(FILE *f, float x)
{
    char text[32];
    for (int digits = 3; digits <= 9; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, (double)x);
        if (strtof(text, NULL) == x) break;
    }
    fprintf(f, " %s", text);
}

static void write_ranges(FILE *f, const kv_profile *p)
{
    size_t n = range_size(p), row = (size_t)p->range_row;
    if (!n) return;
    fprintf(f, "# lowest and highest value of each channel, for static formats\nstatic keep %s\n",
            p->range_keep ? p->range_keep : "none");
    for (size_t layer = 0; layer < (size_t)p->layers; layer++)
        for (size_t which = 0; which < 3; which++) {
            const float *lo = p->range + 2 * which * n + layer * row;
            fprintf(f, "static %zu %s", layer, range_name[which]);
            for (size_t i = 0; i < row; i++) {
                write_float(f, lo[i]);
                write_float(f, lo[n + i]);
            }
            fprintf(f, "\n");
        }
}

int tm_profile_write(const char *path, const kv_profile *p, const char *comment, kv_error *err)
{
    tm_out out;
    char a[32], b[32], c[32];
    int code = tm_out_open(&out, path, err);
    if (code) return code;
    fprintf(out.f, "kvsink-profile 1\n");
    write_comment(out.f, comment);
    if (p->weak && p->n_stages > 0)
        fprintf(out.f, "# weak: no outlier reached 100; found by the ratio alone\n");
    fprintf(out.f, "model llama %d %d %d %016" PRIx64 "\n", p->layers, p->width, p->vocab,
            p->hash);
    if (p->n_stages == 0) fprintf(out.f, "# no emergence stage: KVSink will keep nothing\n");
    else fprintf(out.f, "# stage layer channel sign median-at-sinks median-elsewhere threshold"
                        " prompts\n");
    for (int i = 0; i < p->n_stages; i++) {
        const kv_stage *s = &p->stage[i];
        fprintf(out.f, "stage %d %d %+d %s %s %s %d\n", s->layer, s->channel, s->sign,
                number_text(a, s->at_sinks), number_text(b, s->elsewhere),
                number_text(c, s->threshold), s->prompts);
    }
    if (p->n_ids) fprintf(out.f, "# token ids that were sinks in at least half of their"
                                 " occurrences\nids");
    for (int i = 0; i < p->n_ids; i++) fprintf(out.f, " %d", p->ids[i]);
    if (p->n_ids) fprintf(out.f, "\n");
    write_ranges(out.f, p);
    return tm_out_close(&out, err);
}

int tm_profile_check(const kv_profile *p, const kv_model *m, uint64_t hash, int *other_hash,
                     const char *path, kv_error *err)
{
    if (other_hash) *other_hash = p->hash != hash;
    int row = m->shape.kv_heads * m->shape.head_size;
    if (p->range_row && p->layers == m->layers && p->range_row != row)
        return kv_fail(err, KV_FAIL_RUN, "%s: its static ranges are for %d channels of keys and"
                       " values; this model has %d. Make its own profile with `kvsink calibrate"
                       " --static`", path, p->range_row, row);
    if (p->layers == m->layers && p->width == m->width && p->vocab == m->vocab) return KV_OK;
    return kv_fail(err, KV_FAIL_RUN, "%s: made for a model of %d layers, width %d and a vocabulary"
                   " of %d; this one has %d, %d and %d. Make its own profile with `kvsink"
                   " calibrate`", path, p->layers, p->width, p->vocab, m->layers, m->width,
                   m->vocab);
}

void tm_profile_free(kv_profile *p)
{
    free(p->stage);
    free(p->ids);
    free(p->range);
    free(p->range_keep);
    memset(p, 0, sizeof *p);
}
