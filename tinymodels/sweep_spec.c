/* Reads spec files, see sweep_spec.h. */
#include "sweep_spec.h"

#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"
#include "eval.h"
#include "files.h"
#include "text_windows.h"

enum { WORDS = 512 };

typedef struct {
    sweep_spec *s;
    char *word[WORDS]; /* of the line */
    int n;
    kv_error *err;
} reader;

/* ----------------------------------------------------------------- errors */

static int wrong(reader *r, const char *format, ...) __attribute__((format(printf, 2, 3)));
static int wrong(reader *r, const char *format, ...)
{
    char text[400];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    return kv_fail(r->err, KV_FAIL_USAGE, "%.100s:%d: %s", r->s->path, r->s->line, text);
}

/* Puts file:line in front of a message from elsewhere. */
static int blame(reader *r, const char *what)
{
    char text[sizeof r->err->text];
    memcpy(text, r->err->text, sizeof text);
    return wrong(r, "%.40s: %.320s", what, text);
}

static int no_memory(reader *r)
{
    return kv_fail(r->err, KV_FAIL_RUN, "not enough memory for the spec file");
}

static int take_text(reader *r, char **to, const char *what, const char *value)
{
    if (*to) return wrong(r, "%s is given twice", what);
    *to = malloc(strlen(value) + 1);
    if (!*to) return no_memory(r);
    strcpy(*to, value);
    return KV_OK;
}

static int take_number(reader *r, int *to, const char *what, const char *value, int low)
{
    char *end;
    long n = strtol(value, &end, 10);
    if (!isdigit((unsigned char)value[0]) || *end || n < low || n > 1 << 28)
        return wrong(r, "%s: found '%.60s', expected a whole number from %d on", what, value, low);
    *to = (int)n;
    return KV_OK;
}

static int take_yes(reader *r, int *to, const char *what, const char *value)
{
    if (strcmp(value, "yes") != 0 && strcmp(value, "no") != 0)
        return wrong(r, "%s: found '%.60s', expected yes or no", what, value);
    *to = value[0] == 'y';
    return KV_OK;
}

/* One of n words; *to becomes its number. */
static int take_word(reader *r, int *to, const char *what, const char *value,
                     const char *const *word, int n)
{
    char list[200] = "";
    for (int i = 0; i < n; i++) {
        size_t used = strlen(list);
        if (!strcmp(value, word[i])) {
            *to = i;
            return KV_OK;
        }
        snprintf(list + used, sizeof list - used, "%s%s", i ? ", " : "", word[i]);
    }
    return wrong(r, "%s: found '%.60s', expected one of %s", what, value, list);
}

/* ------------------------------------------------------------ definitions */

static int take_name(reader *r, char **to)
{
    const char *name = r->n > 1 ? r->word[1] : "";
    size_t n = strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._+-");
    if (!n || name[n])
        return wrong(r, "%s '%.60s': a name has letters, digits, and . _ + - only", r->word[0],
                     name);
    return take_text(r, to, r->word[0], name);
}

/* "key=value" of word i; the value, or NULL. */
static const char *split(reader *r, int i)
{
    char *equals = strchr(r->word[i], '=');
    if (!equals) {
        wrong(r, "%s: found '%.60s', expected KEY=VALUE", r->word[0], r->word[i]);
        return NULL;
    }
    *equals = 0;
    return equals + 1;
}

static int unknown(reader *r, const char *key, const char *const *known, int n)
{
    char list[200] = "";
    const char *near = cli_nearest(key, known, n);
    for (int i = 0; i < n; i++) {
        size_t used = strlen(list);
        snprintf(list + used, sizeof list - used, "%s%s", i ? ", " : "", known[i]);
    }
    return wrong(r, "unknown key '%.60s'%s%s; known ones: %s", key, near ? "; did you mean " : "",
                 near ? near : "", list);
}

static int text_option(reader *r, sweep_text *t, const char *key, const char *value)
{
    static const char *const known[] = {"file", "chat", "join", "ctx", "windows", "bos", "stream",
                                        "special"};
    if (!strcmp(key, "file")) return take_text(r, &t->file, key, value);
    if (!strcmp(key, "chat")) return take_text(r, &t->chat, key, value);
    if (!strcmp(key, "join")) return take_text(r, &t->join, key, value);
    if (!strcmp(key, "ctx")) return take_number(r, &t->ctx, key, value, 2);
    if (!strcmp(key, "windows")) return take_number(r, &t->windows, key, value, 1);
    if (!strcmp(key, "stream")) return take_number(r, &t->stream, key, value, 1);
    if (!strcmp(key, "special")) return take_yes(r, &t->special, key, value);
    if (!strcmp(key, "bos")) return take_word(r, &t->bos, key, value, text_bos_name, 3);
    return unknown(r, key, known, sizeof known / sizeof *known);
}

static int find_text(const sweep_spec *s, const char *name)
{
    for (int i = 0; i < s->n_texts; i++)
        if (!strcmp(s->text[i].name, name)) return i;
    return -1;
}

static int find_format(const sweep_spec *s, const char *name)
{
    for (int i = 0; i < s->n_formats; i++)
        if (!strcmp(s->format[i].name, name)) return i;
    return -1;
}

static int text_line(reader *r)
{
    sweep_spec *s = r->s;
    if (s->n_texts == SWEEP_TEXTS) return wrong(r, "more than %d texts", SWEEP_TEXTS);
    sweep_text *t = &s->text[s->n_texts];
    *t = (sweep_text){.ctx = 512, .bos = -1, .line = s->line};
    int code = take_name(r, &t->name);
    if (!code && find_text(s, t->name) >= 0)
        code = wrong(r, "text %s is defined twice", t->name);
    s->n_texts++; /* whatever it has is released with the spec */
    for (int i = 2; i < r->n && !code; i++) {
        const char *value = split(r, i);
        code = value ? text_option(r, t, r->word[i], value) : r->err->code;
    }
    if (code) return code;
    if (!t->file == !t->chat) return wrong(r, "text %s: give file=PATH or chat=PATH", t->name);
    if (t->chat && t->join) return wrong(r, "text %s: join is for files, not for a chat", t->name);
    if (t->stream > t->ctx - 2)
        return wrong(r, "text %s: stream: found %d, expected at most %d: the prefill must leave a"
                     " prediction to score in a window of %d", t->name, t->stream, t->ctx - 2, t->ctx);
    if (t->join && t->bos >= 0 && t->bos != TM_BOS_NONE)
        return wrong(r, "text %s: join implies bos=none", t->name);
    return KV_OK;
}

static int format_option(reader *r, sweep_format *f, const char *key, char *value)
{
    static const char *const known[] = {"keys", "values", "recent", "kept", "preset"};
    char *text = !strcmp(key, "keys") ? f->keys_text : f->values_text;
    if (!strcmp(key, "recent")) return take_number(r, &f->recent, key, value, 0);
    if (!strcmp(key, "kept")) return take_word(r, &f->kept, key, value, cli_kept_name, 3);
    if (!strcmp(key, "preset")) {
        if (cli_preset(f->keys_text, f->values_text, &f->recent, value, -1, 64, r->err))
            return blame(r, f->name);
        snprintf(f->preset, sizeof f->preset, "%s", value);
        return KV_OK;
    }
    if (strcmp(key, "keys") != 0 && strcmp(key, "values") != 0)
        return unknown(r, key, known, sizeof known / sizeof *known);
    if (strlen(value) >= sizeof f->keys_text) return wrong(r, "%s: the format is too long", key);
    strcpy(text, value);
    return KV_OK;
}

static int format_line(reader *r)
{
    sweep_spec *s = r->s;
    if (s->n_formats == SWEEP_FORMATS) return wrong(r, "more than %d formats", SWEEP_FORMATS);
    sweep_format *f = &s->format[s->n_formats];
    *f = (sweep_format){.keys_text = "f16", .values_text = "f16", .line = s->line};
    int code = take_name(r, &f->name);
    if (!code && find_format(s, f->name) >= 0)
        code = wrong(r, "format %s is defined twice", f->name);
    s->n_formats++;
    for (int i = 2; i < r->n && !code; i++) {
        char *value = (char *)split(r, i);
        code = value ? format_option(r, f, r->word[i], value) : r->err->code;
    }
    if (code) return code;
    if (kv_format_parse(&f->keys, f->keys_text, r->err)) return blame(r, "keys");
    if (kv_format_parse(&f->values, f->values_text, r->err)) return blame(r, "values");
    f->keys.exclusion = f->values.exclusion = (kv_exclusion)f->kept;
    return KV_OK;
}

/* The number of a rule, added if it is new; -1 on failure. */
static int keep_of(reader *r, const char *text)
{
    sweep_spec *s = r->s;
    for (int i = 0; i < s->n_keeps; i++)
        if (!strcmp(s->keep_text[i], text)) return i;
    if (s->n_keeps == SWEEP_KEEPS) {
        wrong(r, "more than %d rules", SWEEP_KEEPS);
        return -1;
    }
    if (tm_choice_parse(&s->keep[s->n_keeps], text, r->err)) {
        blame(r, text);
        return -1;
    }
    if (take_text(r, &s->keep_text[s->n_keeps], "keep", text)) return -1;
    s->keep_line[s->n_keeps] = s->line;
    return s->n_keeps++;
}

/* ----------------------------------------------------------------- groups */

static int begin_group(reader *r, const char *name)
{
    sweep_spec *s = r->s;
    if (s->n_groups == SWEEP_GROUPS) return wrong(r, "more than %d groups", SWEEP_GROUPS);
    for (int i = 0; i < s->n_groups; i++)
        if (!strcmp(s->group[i].name, name)) return wrong(r, "group %s is defined twice", name);
    s->group[s->n_groups] = (sweep_group){.baseline = -1, .baseline_format = -1};
    return take_text(r, &s->group[s->n_groups++].name, "group", name);
}

static sweep_group *current(reader *r)
{
    if (!r->s->n_groups && begin_group(r, "all")) return NULL;
    return &r->s->group[r->s->n_groups - 1];
}

static int cell_line(reader *r, sweep_group *g)
{
    if (r->n != 4) return wrong(r, "expected: cell TEXT FORMAT KEEP");
    if (g->n_cells == SWEEP_KEEPS) return wrong(r, "more than %d cells in a group", SWEEP_KEEPS);
    int *c = g->cell[g->n_cells++];
    c[0] = find_text(r->s, r->word[1]);
    c[1] = find_format(r->s, r->word[2]);
    if (c[0] < 0) return wrong(r, "no text named '%.60s' is defined above", r->word[1]);
    if (c[1] < 0) return wrong(r, "no format named '%.60s' is defined above", r->word[2]);
    c[2] = keep_of(r, r->word[3]);
    return c[2] < 0 ? r->err->code : KV_OK;
}

/* Names of texts or formats into a list. */
static int names(reader *r, int *list, int *n, int most,
                 int (*find)(const sweep_spec *, const char *))
{
    for (int i = 1; i < r->n; i++) {
        int found = find(r->s, r->word[i]);
        if (found < 0)
            return wrong(r, "%s: '%.60s' is not defined above", r->word[0], r->word[i]);
        if (*n == most) return wrong(r, "%s: more than %d", r->word[0], most);
        list[(*n)++] = found;
    }
    return r->n > 1 ? KV_OK : wrong(r, "%s: name at least one", r->word[0]);
}

static int keeps_line(reader *r, sweep_group *g)
{
    for (int i = 1; i < r->n; i++) {
        int keep = keep_of(r, r->word[i]);
        if (keep < 0) return r->err->code;
        if (g->n_keeps == SWEEP_KEEPS) return wrong(r, "more than %d rules", SWEEP_KEEPS);
        g->keep[g->n_keeps++] = keep;
    }
    return r->n > 1 ? KV_OK : wrong(r, "keeps: name at least one rule");
}

static int group_line(reader *r, int *known)
{
    const char *key = r->word[0];
    sweep_group *g = current(r);
    *known = 1;
    if (!g) return r->err->code;
    if (!strcmp(key, "texts")) return names(r, g->text, &g->n_texts, SWEEP_TEXTS, find_text);
    if (!strcmp(key, "formats"))
        return names(r, g->format, &g->n_formats, SWEEP_FORMATS, find_format);
    if (!strcmp(key, "keeps")) return keeps_line(r, g);
    if (!strcmp(key, "cell")) return cell_line(r, g);
    const char *value = r->n == 2 ? r->word[1] : "";
    if (!strcmp(key, "windows")) return take_number(r, &g->windows, key, value, 1);
    if (!strcmp(key, "layers")) return take_yes(r, &g->layers, key, value);
    if (!strcmp(key, "baseline-format")) {
        g->baseline_format = find_format(r->s, value);
        return g->baseline_format >= 0 ? KV_OK
                                       : wrong(r, "%s: '%.60s' is not defined above", key, value);
    }
    *known = !strcmp(key, "baseline");
    if (!*known) return KV_OK;
    g->baseline = keep_of(r, value);
    return g->baseline < 0 ? r->err->code : KV_OK;
}

/* ------------------------------------------------------------------ lines */

static int read_line(reader *r)
{
    static const char *const known[] = {"model", "profile", "out", "text", "format", "group",
                                        "texts", "formats", "keeps", "cell", "baseline",
                                        "baseline-format", "windows", "layers"};
    sweep_spec *s = r->s;
    const char *key = r->word[0];
    int is_known, code;
    if (!strcmp(key, "text")) return text_line(r);
    if (!strcmp(key, "format")) return format_line(r);
    if (!strcmp(key, "model") || !strcmp(key, "profile") || !strcmp(key, "out")) {
        if (r->n != 2) return wrong(r, "%s: expected one path", key);
        return take_text(r, *key == 'm' ? &s->model : *key == 'p' ? &s->profile : &s->out, key,
                         r->word[1]);
    }
    if (!strcmp(key, "group")) {
        char *name = NULL;
        code = take_name(r, &name);
        if (!code) code = begin_group(r, name);
        free(name);
        return code;
    }
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (!strcmp(key, known[i])) return group_line(r, &is_known);
    return unknown(r, key, known, sizeof known / sizeof *known);
}

/* Cuts a line into words, in place. */
static int cut(reader *r, char *at)
{
    r->n = 0;
    for (;;) {
        at += strspn(at, " \t\r");
        if (!*at || *at == '#') return KV_OK;
        if (r->n == WORDS) return wrong(r, "more than %d words", WORDS);
        r->word[r->n++] = at;
        char *to = at;
        int quoted = 0;
        for (; *at && (quoted || !strchr(" \t\r", *at)); at++) {
            if (*at == '"') quoted = !quoted;
            else *to++ = *at;
        }
        if (quoted) return wrong(r, "a quotation mark has no partner");
        if (*at) at++;
        *to = 0;
    }
}

static int has_baseline(const sweep_group *g)
{
    int rule = g->baseline < 0, format = g->baseline_format < 0;
    for (int i = 0; i < g->n_keeps; i++) rule |= g->keep[i] == g->baseline;
    for (int i = 0; i < g->n_formats; i++) format |= g->format[i] == g->baseline_format;
    for (int i = 0; i < g->n_cells; i++) {
        rule |= g->cell[i][2] == g->baseline;
        format |= g->cell[i][1] == g->baseline_format;
    }
    return rule && format;
}

static int check_whole(reader *r)
{
    sweep_spec *s = r->s;
    int cells = 0;
    if (!s->model) return wrong(r, "the file ends and has no 'model PATH'");
    for (int i = 0; i < s->n_groups; i++) {
        sweep_group *g = &s->group[i];
        for (int t = 0; t < s->n_texts && !g->n_texts; t++) g->text[t] = t;
        if (!g->n_texts) g->n_texts = s->n_texts;
        for (int f = 0; f < s->n_formats && !g->n_formats; f++) g->format[f] = f;
        if (!g->n_formats) g->n_formats = s->n_formats;
        if (!has_baseline(g))
            return wrong(r, "group %s: its baseline is not among its rules and formats", g->name);
    }
    cells = sweep_spec_cells(NULL, s);
    if (!cells)
        return wrong(r, "the file ends and asks for nothing: it needs texts, formats and 'keeps"
                     " KEEP ...' (or cells)");
    for (int i = 0; i < s->n_keeps; i++)
        if (tm_choice_needs_profile(&s->keep[i]) && !s->profile)
            return wrong(r, "the rule %.60s needs what 'kvsink calibrate' learned about the model;"
                         " run it and name its output with 'profile PATH'", s->keep_text[i]);
    return KV_OK;
}

int sweep_spec_read(sweep_spec **out, const char *path, kv_error *err)
{
    char *text = NULL;
    size_t n;
    *out = NULL;
    if (cli_read_text_file(&text, &n, path, err)) return err->code;
    reader r = {.s = calloc(1, sizeof *r.s), .err = err};
    int code = r.s ? take_text(&r, &r.s->path, "path", path) : no_memory(&r);
    char *line = text;
    while (!code && line) {
        char *end = strchr(line, '\n');
        if (end) *end = 0;
        r.s->line++;
        code = cut(&r, line);
        if (!code && r.n) code = read_line(&r);
        line = end ? end + 1 : NULL;
    }
    if (!code) code = check_whole(&r);
    free(text);
    if (code) sweep_spec_free(r.s);
    else *out = r.s;
    return code;
}

void sweep_spec_free(sweep_spec *s)
{
    if (!s) return;
    for (int i = 0; i < s->n_texts; i++) {
        free(s->text[i].name);
        free(s->text[i].file);
        free(s->text[i].chat);
        free(s->text[i].join);
    }
    for (int i = 0; i < s->n_formats; i++) free(s->format[i].name);
    for (int i = 0; i < s->n_keeps; i++) free(s->keep_text[i]);
    for (int i = 0; i < s->n_groups; i++) free(s->group[i].name);
    free(s->path);
    free(s->model);
    free(s->profile);
    free(s->out);
    free(s);
}

/* ------------------------------------------------------------------ cells */

static void add_cell(sweep_cell *cell, int *n, int group, const sweep_group *g, const int *c)
{
    if (cell) cell[*n] = (sweep_cell){group, c[0], c[1], c[2], g->windows, g->layers};
    ++*n;
}

int sweep_recent(const sweep_format *f, const sweep_text *t)
{
    return f->preset[0] && !t->stream ? 0 : f->recent;
}

int sweep_spec_cells(sweep_cell *cell, const sweep_spec *s)
{
    int n = 0;
    for (int i = 0; i < s->n_groups; i++) {
        const sweep_group *g = &s->group[i];
        for (int t = 0; t < g->n_texts; t++)
            for (int f = 0; f < g->n_formats; f++)
                for (int k = 0; k < g->n_keeps; k++)
                    add_cell(cell, &n, i, g, (int[]){g->text[t], g->format[f], g->keep[k]});
        for (int c = 0; c < g->n_cells; c++) add_cell(cell, &n, i, g, g->cell[c]);
    }
    return n;
}

char *sweep_keep(char *text, size_t size, const sweep_spec *s, int keep)
{
    const char *from = s->keep_text[keep], *alias = strstr(from, "kvsink:best");
    if (alias) snprintf(text, size, "%.*s%s%s", (int)(alias - from), from, KV_KEEP_BEST, alias + 11);
    else snprintf(text, size, "%s", from);
    return text;
}
