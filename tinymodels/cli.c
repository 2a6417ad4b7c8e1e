/* What all commands of kvsink share; cli.h says how to use it.
 *
 * The options of a command are one list: its own, then those of the groups it asked for, then
 * the ones that everything has. The list is the only description: defaults are parsed
 * from the text that --help prints, and limits are checked where they are printed. */
#define _POSIX_C_SOURCE 200809L

#include "cli.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "files.h"
#include "threads.h"

#ifndef KV_COMMIT
#define KV_COMMIT "unknown (built without a commit)"
#endif

enum { OPTIONS_MAX = 64, HELP_COLUMNS = 80, HELP_INDENT = 22, THREADS_MAX = 256 };

static struct {
    cli_option option[OPTIONS_MAX];
    int given[OPTIONS_MAX];
    int n, help, version;
    int bos_word; /* index in yes|no */
} parser;

const char *cli_version(void)
{
    return KV_COMMIT;
}

/* ----------------------------------------------------------------- errors */

static const char *program; /* NULL: kvsink and a command */

void cli_program(const char *name)
{
    program = name;
}

/* What the user typed to get here: "kvsink eval". */
static const char *called(const char *command)
{
    static char name[64];
    snprintf(name, sizeof name, "kvsink%s%s", command ? " " : "", command ? command : "");
    return program ? program : name;
}

static void say(const char *command, const char *kind, const char *text, const char *hint)
{
    cli_progress_clear();
    fflush(stdout);
    fprintf(stderr, "%s: %s%s%s\n", called(command), kind, text, hint);
}

static const char *running; /* the command, for notes and warnings */

int cli_fail(const cli_command *command, const kv_error *err)
{
    char hint[96] = "";
    if (err->code == KV_FAIL_USAGE)
        snprintf(hint, sizeof hint, "; see %s --help", called(command->name));
    say(command->name, "", err->text, hint);
    return err->code == KV_FAIL_USAGE ? KV_FAIL_USAGE : KV_FAIL_RUN;
}

int cli_say_fail(const cli_command *command, int code, const char *format, ...)
{
    kv_error err = {code, ""};
    va_list args;
    va_start(args, format);
    vsnprintf(err.text, sizeof err.text, format, args);
    va_end(args);
    return cli_fail(command, &err);
}

void cli_warn(const char *format, ...)
{
    char text[512];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    say(running, "warning: ", text, "");
}

void cli_note(const char *format, ...)
{
    char text[512];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    say(running, "note: ", text, "");
}

/* Edit distance of two short words, with a row of the usual table. */
static int distance(const char *a, const char *b)
{
    int row[64], n = (int)strlen(b);
    if (n >= 64) return 64;
    for (int j = 0; j <= n; j++) row[j] = j;
    for (int i = 0; a[i]; i++) {
        int diagonal = row[0];
        row[0] = i + 1;
        for (int j = 1; j <= n; j++) {
            int best = diagonal + (a[i] != b[j - 1]);
            if (row[j] + 1 < best) best = row[j] + 1;
            if (row[j - 1] + 1 < best) best = row[j - 1] + 1;
            diagonal = row[j];
            row[j] = best;
        }
    }
    return row[n];
}

const char *cli_nearest(const char *word, const char *const *words, int n)
{
    const char *best = NULL;
    int least = 3; /* farther away is no typing mistake */
    for (int i = 0; i < n; i++) {
        int d = distance(word, words[i]);
        if (d < least && d < (int)strlen(words[i])) {
            least = d;
            best = words[i];
        }
    }
    return best;
}

/* ----------------------------------------------------------- option lists */

static void add(const char *name, cli_kind kind, void *target, const char *value,
                const char *fallback, double low, double high, const char *help)
{
    if (parser.n >= OPTIONS_MAX) abort(); /* a command's table is too long for this file */
    cli_option o = {name, kind, target, value, fallback, low, high, help};
    parser.given[parser.n] = 0;
    parser.option[parser.n++] = o;
}

static void add_groups(cli_common *c, unsigned groups)
{
    if (groups & CLI_TEXT) {
        add("--text", CLI_STRING, &c->text, "S", NULL, 0, 0, "the text itself (UTF-8)");
        add("--file", CLI_STRING, &c->file, "F", NULL, 0, 0,
            "or a file that holds it; - is standard input");
    }
    if (groups & (CLI_TEXT | CLI_SPECIAL))
        add("--special", CLI_FLAG, &c->special, NULL, NULL, 0, 0,
            "text like <|im_start|> means the special token, not its letters");
    if (groups & CLI_BOS)
        add("--bos", CLI_CHOICE, &parser.bos_word, "yes|no", "(as the model file says)", 0, 0,
            "put the beginning-of-sequence token in front");
    if (groups & CLI_CACHE) {
        add("--keys", CLI_STRING, &c->keys, "FORMAT", "f16", 0, 0, "how keys are stored");
        add("--values", CLI_STRING, &c->values, "FORMAT", "f16", 0, 0, "how values are stored");
        add("--keep", CLI_STRING, &c->keep, "KEEP", "none", 0, 0,
            "which tokens stay in 16 bits: RULE[/LAYERS][+decode]");
        add("--recent", CLI_INT, &c->recent, "R", "0", 0, 1 << 28,
            "the newest R tokens stay in 16 bits");
        add("--profile", CLI_STRING, &c->profile, "F", NULL, 0, 0,
            "what kvsink calibrate wrote; kvsink:, ids:learned, attention:K-sinks, /after and static"
            " formats need it");
        add("--cache", CLI_STRING, &c->cache, "PRESET", NULL, 0, 0,
            "keys, values and recent in one word, see below");
        add("--overwrite", CLI_FLAG, &c->overwrite, NULL, NULL, 0, 0,
            "kept tokens stay in the statistics of their groups: the common mistake");
        add("--exclude-only", CLI_FLAG, &c->exclude_only, NULL, NULL, 0, 0,
            "kept tokens leave the statistics but are coded, not kept in 16 bits");
    }
}

static void add_everywhere(cli_common *c)
{
    add("--json", CLI_FLAG, &c->json, NULL, NULL, 0, 0,
        "print one JSON object and nothing else on standard output");
    add("--threads", CLI_INT, &c->threads, "N", "(all cores)", 1, THREADS_MAX,
        "threads to compute with; results do not depend on it");
    add("--help", CLI_FLAG, &parser.help, NULL, NULL, 0, 0, "print this");
    add("--version", CLI_FLAG, &parser.version, NULL, NULL, 0, 0,
        "print the commit this program was built from");
}

static int find(const char *name, size_t length)
{
    for (int i = 0; i < parser.n; i++)
        if (strlen(parser.option[i].name) == length &&
            strncmp(parser.option[i].name, name, length) == 0)
            return i;
    return -1;
}

int cli_given(const char *name)
{
    int i = find(name, strlen(name));
    return i >= 0 && parser.given[i];
}

/* ----------------------------------------------------------------- values */

static int bad_value(kv_error *err, const cli_option *o, const char *found, const char *expected)
{
    char shown[80];
    return kv_fail(err, KV_FAIL_USAGE, "%s: found '%s', expected %s", o->name,
                   tm_printable(shown, sizeof shown, found, strlen(found)), expected);
}

static int is_limited(const cli_option *o)
{
    return o->low != 0 || o->high != 0;
}

static int read_int(const cli_option *o, const char *text, kv_error *err)
{
    char expected[96] = "a whole number", *end;
    double low = is_limited(o) ? o->low : -2147483647.0;
    double high = is_limited(o) ? o->high : 2147483647.0;
    if (is_limited(o))
        snprintf(expected, sizeof expected, "a whole number from %.0f to %.0f", low, high);
    errno = 0;
    long long x = strtoll(text, &end, 10);
    if (!strchr("-0123456789", text[0]) || !text[0] || *end || errno ||
        !((double)x >= low && (double)x <= high))
        return bad_value(err, o, text, expected);
    *(int *)o->target = (int)x;
    return KV_OK;
}

static int read_seed(const cli_option *o, const char *text, kv_error *err)
{
    char *end;
    errno = 0;
    unsigned long long x = strtoull(text, &end, 10);
    if (text[0] < '0' || text[0] > '9' || *end || errno)
        return bad_value(err, o, text, "a whole number from 0 to 18446744073709551615");
    *(uint64_t *)o->target = x;
    return KV_OK;
}

static int read_float(const cli_option *o, const char *text, kv_error *err)
{
    char expected[96] = "a number", *end;
    if (is_limited(o))
        snprintf(expected, sizeof expected, "a number from %g to %g", o->low, o->high);
    double x = strtod(text, &end);
    if (!text[0] || strspn(text, "+-.0123456789eE") != strlen(text) || *end || !isfinite(x) ||
        (is_limited(o) && !(x >= o->low && x <= o->high)))
        return bad_value(err, o, text, expected);
    *(double *)o->target = x;
    return KV_OK;
}

static int read_choice(const cli_option *o, const char *text, kv_error *err)
{
    int index = 0;
    for (const char *word = o->value; word; index++) {
        const char *bar = strchr(word, '|');
        size_t n = bar ? (size_t)(bar - word) : strlen(word);
        if (strlen(text) == n && strncmp(text, word, n) == 0) {
            *(int *)o->target = index;
            return KV_OK;
        }
        word = bar ? bar + 1 : NULL;
    }
    char expected[128];
    snprintf(expected, sizeof expected, "one of %s", o->value);
    return bad_value(err, o, text, expected);
}

static int read_value(const cli_option *o, const char *text, kv_error *err)
{
    cli_list *list = o->target;
    switch (o->kind) {
    case CLI_FLAG: *(int *)o->target = 1; return KV_OK;
    case CLI_INT: return read_int(o, text, err);
    case CLI_SEED: return read_seed(o, text, err);
    case CLI_FLOAT: return read_float(o, text, err);
    case CLI_STRING: *(const char **)o->target = text; return KV_OK;
    case CLI_CHOICE: return read_choice(o, text, err);
    case CLI_LIST:
        if (list->count == CLI_LIST_MAX)
            return kv_fail(err, KV_FAIL_USAGE, "%s: more than %d values", o->name, CLI_LIST_MAX);
        list->item[list->count++] = text;
        return KV_OK;
    }
    return KV_OK;
}

static int set_default(const cli_option *o, kv_error *err)
{
    switch (o->kind) {
    case CLI_FLAG: case CLI_INT: *(int *)o->target = 0; break;
    case CLI_SEED: *(uint64_t *)o->target = 0; break;
    case CLI_FLOAT: *(double *)o->target = 0; break;
    case CLI_STRING: *(const char **)o->target = NULL; break;
    case CLI_CHOICE: *(int *)o->target = -1; break;
    case CLI_LIST: ((cli_list *)o->target)->count = 0; break;
    }
    return o->fallback && o->fallback[0] != '(' ? read_value(o, o->fallback, err) : KV_OK;
}

/* ---------------------------------------------------------------- parsing */

static int unknown_option(const char *text, size_t length, kv_error *err)
{
    const char *names[OPTIONS_MAX];
    char word[64], shown[80], hint[96] = "";
    for (int i = 0; i < parser.n; i++) names[i] = parser.option[i].name;
    snprintf(word, sizeof word, "%.*s", (int)length, text);
    const char *near = cli_nearest(word, names, parser.n);
    if (near) snprintf(hint, sizeof hint, "; did you mean %s?", near);
    return kv_fail(err, KV_FAIL_USAGE, "unknown option %s%s",
                   tm_printable(shown, sizeof shown, text, length), hint);
}

/* Is this argument an option of this command (and so no value that somebody forgot to quote)? */
static int looks_like_option(const char *text)
{
    const char *equals = strchr(text, '=');
    return text[0] == '-' && find(text, equals ? (size_t)(equals - text) : strlen(text)) >= 0;
}

/* Reads the option at argv[*i] and moves *i to its last argument. */
static int parse_option(int *i, int argc, char **argv, kv_error *err)
{
    const char *text = argv[*i], *equals = strchr(text, '=');
    size_t length = equals ? (size_t)(equals - text) : strlen(text);
    int which = strcmp(text, "-h") == 0 ? find("--help", 6) : find(text, length);
    if (which < 0) return unknown_option(text, length, err);
    const cli_option *o = &parser.option[which];
    if (parser.given[which]++ && o->kind != CLI_FLAG && o->kind != CLI_LIST)
        return kv_fail(err, KV_FAIL_USAGE, "%s was given twice; give it once", o->name);
    if (o->kind == CLI_FLAG) {
        if (equals) return kv_fail(err, KV_FAIL_USAGE, "%s takes no value", o->name);
        return read_value(o, NULL, err);
    }
    if (equals) return read_value(o, equals + 1, err);
    if (*i + 1 >= argc)
        return kv_fail(err, KV_FAIL_USAGE, "%s needs a value (%s) and is followed by nothing",
                       o->name, o->value);
    if (looks_like_option(argv[*i + 1]))
        return kv_fail(err, KV_FAIL_USAGE, "%s needs a value (%s) and is followed by the option %s; "
                       "if that is the value, write %s=...", o->name, o->value, argv[*i + 1], o->name);
    int code = read_value(o, argv[++*i], err);
    while (code == KV_OK && o->kind == CLI_LIST && *i + 1 < argc && argv[*i + 1][0] != '-')
        code = read_value(o, argv[++*i], err);
    return code;
}

/* Would writing the one change the other? Also true of two names for one file that is yet to be;
 * devices and pipes may be shared. */
static int is_same_file(const char *a, const char *b)
{
    struct stat x, y;
    int has_x = stat(a, &x) == 0, has_y = stat(b, &y) == 0;
    if (has_x && has_y) return S_ISREG(x.st_mode) && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
    return !has_x && !has_y && strcmp(a, b) == 0;
}

static int check_output(const char *output, const char *path, const char *other, const char *name,
                        kv_error *err)
{
    if (!name || !is_same_file(path, name)) return KV_OK;
    return kv_fail(err, KV_FAIL_USAGE, "%s %.200s: is the same file as %s %.200s, which it would"
                   " replace; name another", output, path, other, name);
}

/* The files that an option names; how many. */
static int named_by(const char *const **name, const char *option)
{
    int i = find(option, strlen(option));
    *name = NULL;
    if (i < 0) return 0;
    if (parser.option[i].kind == CLI_LIST) {
        const cli_list *list = parser.option[i].target;
        *name = list->item;
        return list->count;
    }
    *name = parser.option[i].target;
    return parser.option[i].kind == CLI_STRING;
}

/* A model is easily lost to a slip such as -o MODEL: no output may be an input, or another output. */
static int check_outputs(const cli_common *common, const char *positional, kv_error *err)
{
    static const char *const option[] = {"-o", "--png", "--write-text", "--file", "--profile",
                                         "--chat"};
    enum { OUTPUTS = 3, NAMES = sizeof option / sizeof option[0] };
    for (int i = 0; i < OUTPUTS; i++) {
        const char *const *path, *const *other;
        int code = KV_OK;
        if (!named_by(&path, option[i]) || !*path) continue;
        if (positional) code = check_output(option[i], *path, positional, common->positional, err);
        for (int j = i + 1; j < NAMES && !code; j++) {
            int n = named_by(&other, option[j]);
            for (int k = 0; k < n && !code; k++)
                code = check_output(option[i], *path, option[j], other[k], err);
        }
        if (code) return code;
    }
    return KV_OK;
}

static int parse_all(cli_common *common, const cli_command *command, int argc, char **argv,
                     kv_error *err)
{
    int only_positional = 0;
    for (int i = 1; i < argc; i++) {
        if (!only_positional && strcmp(argv[i], "--") == 0) {
            only_positional = 1;
        } else if (!only_positional && argv[i][0] == '-' && argv[i][1]) {
            if (parse_option(&i, argc, argv, err)) return err->code;
            if (parser.help || parser.version) return KV_OK;
        } else if (common->positional || !command->positional) {
            char shown[80];
            return kv_fail(err, KV_FAIL_USAGE, "unexpected argument '%s'; expected %s%s",
                           tm_printable(shown, sizeof shown, argv[i], strlen(argv[i])),
                           command->positional ? "one " : "options only",
                           command->positional ? command->positional : "");
        } else {
            common->positional = argv[i];
        }
    }
    if (command->positional && command->positional[0] != '[' && !common->positional)
        return kv_fail(err, KV_FAIL_USAGE, "%s is missing", command->positional);
    if ((command->groups & CLI_TEXT) && !common->text == !common->file)
        return kv_fail(err, KV_FAIL_USAGE, common->text
                       ? "--text and --file were both given; give one of them"
                       : "no text: give --text S or --file F");
    return check_outputs(common, command->positional, err);
}

/* ------------------------------------------------------------------- help */

/* Words of text from `column` on, later lines indented. */
static void print_wrapped(const char *text, int column, int indent)
{
    int first = 1;
    while (*text) {
        int n = (int)strcspn(text, " ");
        if (!first && column + 1 + n > HELP_COLUMNS) {
            printf("\n%*s", indent, "");
            column = indent;
        } else if (!first) {
            putchar(' ');
            column++;
        }
        printf("%.*s", n, text);
        column += n;
        first = 0;
        text += n;
        while (*text == ' ') text++;
    }
    putchar('\n');
}

static void print_option(const cli_option *o)
{
    char left[64], text[512];
    int n = snprintf(left, sizeof left, "  %s%s%s%s", o->name, o->kind == CLI_FLAG ? "" : " ",
                     o->kind == CLI_FLAG ? "" : o->value, o->kind == CLI_LIST ? " ..." : "");
    int bracket = o->fallback && o->fallback[0] == '(';
    snprintf(text, sizeof text, "%s%s%.*s%s", o->help, o->fallback ? " (default: " : "",
             o->fallback ? (int)strlen(o->fallback) - 2 * bracket : 0,
             o->fallback ? o->fallback + bracket : "", o->fallback ? ")" : "");
    printf("%s", left);
    if (n + 2 > HELP_INDENT) {
        putchar('\n');
        n = 0;
    }
    printf("%*s", HELP_INDENT - n, "");
    print_wrapped(text, HELP_INDENT, HELP_INDENT);
}

static void print_help(const cli_command *c)
{
    printf("usage: %s%s%s%s [options]\n\n", called(c->name), c->positional ? " " : "",
           c->positional ? c->positional : "",
           c->groups & CLI_TEXT ? " (--text S | --file F)" : "");
    print_wrapped(c->summary, 0, 0);
    printf("\noptions:\n");
    for (int i = 0; i < parser.n; i++) print_option(&parser.option[i]);
    if (c->groups & CLI_CACHE)
        printf("\n%s\n%s\n%s\n", CLI_FORMAT_HELP, CLI_PRESET_HELP, CLI_KEEP_HELP);
    if (c->details) printf("\n%s\n", c->details);
    printf("\nexamples:\n");
    for (int i = 0; c->examples && c->examples[i]; i++) printf("  %s\n", c->examples[i]);
}

int cli_parse(cli_common *common, const cli_command *command, int argc, char **argv, int *status)
{
    kv_error err = {0, ""};
    memset(common, 0, sizeof *common);
    memset(&parser, 0, sizeof parser);
    running = common->command = command->name;
    for (const cli_option *o = command->options; o && o->name; o++)
        add(o->name, o->kind, o->target, o->value, o->fallback, o->low, o->high, o->help);
    add_groups(common, command->groups);
    add_everywhere(common);
    common->bos = parser.bos_word = -1;
    common->keys = common->values = "f16";
    common->keep = "none";
    int code = KV_OK;
    for (int i = 0; i < parser.n && code == KV_OK; i++) code = set_default(&parser.option[i], &err);
    common->threads = tm_cpus() < THREADS_MAX ? tm_cpus() : THREADS_MAX;
    if (code == KV_OK) code = parse_all(common, command, argc, argv, &err);
    if (parser.bos_word >= 0) common->bos = parser.bos_word == 0;
    *status = 0;
    if (code != KV_OK) *status = cli_fail(command, &err);
    else if (parser.help) print_help(command);
    else if (parser.version) printf("kvsink %s\n", cli_version());
    return code == KV_OK && !parser.help && !parser.version;
}

/* ------------------------------------------------------------------- text */

int cli_check_text(const char *text, size_t n, const char *what, kv_error *err)
{
    size_t bad = 0;
    if (n == 0)
        return kv_fail(err, KV_FAIL_RUN, "%s: the text is empty; give at least one character",
                       what);
    if (tm_check_utf8(text, n, &bad))
        return kv_fail(err, KV_FAIL_RUN,
                       "%s: not UTF-8: byte 0x%02x at offset %zu; convert the text "
                       "first, for example with iconv",
                       what, (unsigned char)text[bad], bad);
    return KV_OK;
}

int cli_read_text_file(char **text, size_t *n, const char *path, kv_error *err)
{
    if (strcmp(path, "-") == 0) path = "/dev/stdin";
    int code = tm_read_file(text, n, path, err);
    if (code == KV_OK) code = cli_check_text(*text, *n, path, err);
    if (code != KV_OK) {
        free(*text);
        *text = NULL;
    }
    return code;
}

int cli_read_text(char **text, size_t *n, const cli_common *common, kv_error *err)
{
    *text = NULL;
    if (common->file) return cli_read_text_file(text, n, common->file, err);
    *n = strlen(common->text);
    if (cli_check_text(common->text, *n, "--text", err)) return err->code;
    *text = malloc(*n + 1);
    if (!*text) return kv_fail(err, KV_FAIL_RUN, "not enough memory for the text");
    memcpy(*text, common->text, *n + 1);
    return KV_OK;
}

/* ------------------------------------------------------------------ cache */

/* What a preset is for. */
enum { ANYWHERE, STREAMS, WINDOWS };

/* HEAD stands for the model's head size. recent is for streams; whole windows have none. */
static const struct {
    const char *name, *keys, *values;
    int recent, use;
    const char *keep;
} preset[] = {
    {"f16", "f16", "f16", 0, ANYWHERE, NULL},
    {"kivi-2", "2:channel:32:kivi", "2:token:32:kivi", 128, STREAMS, NULL},
    {"kivi-4", "4:channel:32:kivi", "4:token:32:kivi", 128, STREAMS, NULL},
    {"kivi-2-like", "2:channel:32", "2:token:32", 128, ANYWHERE, NULL},
    {"kivi-4-like", "4:channel:32", "4:token:32", 128, ANYWHERE, NULL},
    {"kcvt", "4:channel:all", "4:token:all", 0, WINDOWS, NULL},
    {"q4_0", "q4_0", "q4_0", 0, ANYWHERE, NULL},
    {"q8_0", "q8_0", "q8_0", 0, ANYWHERE, NULL},
    {"quarot-like", "4:token:HEAD:had", "4:token:HEAD:had", 0, ANYWHERE, NULL},
    {"oscar-like", "2:channel:32:had:norm", "2:token:32:had", 128, ANYWHERE, NULL},
    {"rotatekv-like", "2:token:64:pre:had", "2:token:64:had", 0, ANYWHERE, "rotatekv"},
};
enum { PRESETS = sizeof preset / sizeof preset[0] };

static int find_preset(const char *name, kv_error *err)
{
    char known[256] = "";
    for (int i = 0; i < PRESETS; i++) {
        if (strcmp(name, preset[i].name) == 0) return i;
        size_t used = strlen(known);
        snprintf(known + used, sizeof known - used, "%s%s", i ? ", " : "", preset[i].name);
    }
    kv_fail(err, KV_FAIL_USAGE, "--cache: unknown preset '%.60s'; known ones: %s", name, known);
    return -1;
}

static void fill_head(char *text, const char *pattern, int head)
{
    const char *at = strstr(pattern, "HEAD");
    if (at) snprintf(text, 64, "%.*s%d%s", (int)(at - pattern), pattern, head, at + 4);
    else snprintf(text, 64, "%s", pattern);
}

int cli_preset(char *keys, char *values, int *recent, const char *name, int stream, int head,
               kv_error *err)
{
    int i = find_preset(name, err);
    if (i < 0) return err->code;
    if (stream == 0 && preset[i].use == STREAMS)
        return kv_fail(err, KV_FAIL_USAGE, "--cache %s quantizes while tokens arrive, so it needs"
                       " --stream P; for whole windows there is %s-like", name, name);
    if (stream == 1 && preset[i].use == WINDOWS)
        return kv_fail(err, KV_FAIL_USAGE, "--cache %s makes one group of the whole text, which never"
                       " ends while tokens arrive; it is for whole windows", name);
    fill_head(keys, preset[i].keys, head);
    fill_head(values, preset[i].values, head);
    *recent = stream ? preset[i].recent : 0;
    return KV_OK;
}

/* What whoever does not say what a model is like may assume. */
enum { USUAL_HEAD = 64 };

static int has_head(const char *name)
{
    for (int i = 0; i < PRESETS; i++)
        if (strcmp(name, preset[i].name) == 0) return strstr(preset[i].keys, "HEAD") != NULL;
    return 0;
}

/* A command that has no --stream feeds tokens one by one. */
static int is_stream(void)
{
    return find("--stream", 8) < 0 || cli_given("--stream");
}

static int expand_preset(cli_cache *cache, const cli_common *common, int head, kv_error *err)
{
    const char *name = common->cache;
    int recent;
    if (cli_given("--keys") || cli_given("--values"))
        return kv_fail(err, KV_FAIL_USAGE, "--cache stands for --keys and --values; give either"
                       " --cache or those");
    if (cli_preset(cache->keys_text, cache->values_text, &recent, name, is_stream(), head, err))
        return err->code;
    const char *keep = preset[find_preset(name, NULL)].keep;
    if (!cli_given("--recent")) cache->recent = recent;
    if (keep && !cli_given("--keep")) cache->keep_text = keep;
    return KV_OK;
}

static void tell_preset(const cli_cache *cache, const char *name)
{
    int keep = preset[find_preset(name, NULL)].keep && !cli_given("--keep");
    cli_note("--cache %s means --keys %s --values %s --recent %d%s%s", name, cache->keys_text,
             cache->values_text, cache->recent, keep ? " --keep " : "", keep ? cache->keep_text : "");
}

/* Puts the option's name in front of a message from ref/. */
static int blame(const char *option, kv_error *err)
{
    char text[sizeof err->text];
    memcpy(text, err->text, sizeof text);
    return kv_fail(err, err->code, "%s: %.480s", option, text);
}

int cli_keep_rule(kv_keep_rule *rule, const char *text, const char *profile, kv_error *err)
{
    if (kv_keep_parse(rule, text, err)) return blame("--keep", err);
    if (kv_keep_needs_profile(rule) && !profile)
        return kv_fail(err, KV_FAIL_USAGE, "--keep %.100s needs what 'kvsink calibrate' learned about "
                       "the model; run it and name its output with --profile", text);
    if (rule->best) cli_note("kvsink:best = %s", KV_KEEP_BEST);
    return KV_OK;
}

const char *const cli_kept_name[3] = {"both", "overwrite", "exclude"};

static int parse_formats(cli_cache *cache, const char *keys, const char *values,
                         const cli_common *common, kv_error *err)
{
    if (kv_format_parse(&cache->keys, keys, err)) return blame("--keys", err);
    if (kv_format_parse(&cache->values, values, err)) return blame("--values", err);
    if (common->overwrite) cache->kept = KV_KEPT_OVERWRITE;
    if (common->exclude_only) cache->kept = KV_KEPT_EXCLUDE_ONLY;
    cache->keys.exclusion = cache->values.exclusion = cache->kept;
    return KV_OK;
}

int cli_cache_options(cli_cache *cache, const cli_common *common, kv_error *err)
{
    memset(cache, 0, sizeof *cache);
    cache->keep_text = common->keep;
    cache->profile = common->profile;
    cache->recent = common->recent;
    snprintf(cache->keys_text, sizeof cache->keys_text, "%s", common->keys);
    snprintf(cache->values_text, sizeof cache->values_text, "%s", common->values);
    if (common->overwrite && common->exclude_only)
        return kv_fail(err, KV_FAIL_USAGE, "--overwrite and --exclude-only are opposites; give one of"
                       " them, or neither");
    if (common->cache && expand_preset(cache, common, USUAL_HEAD, err)) return err->code;
    if (common->cache && !has_head(common->cache)) tell_preset(cache, common->cache);
    const char *keys = common->cache ? cache->keys_text : common->keys;
    const char *values = common->cache ? cache->values_text : common->values;
    if (parse_formats(cache, keys, values, common, err)) return err->code;
    return cli_keep_rule(&cache->keep, cache->keep_text, common->profile, err);
}

int cli_cache_fit(cli_cache *cache, const cli_common *common, kv_shape s, kv_error *err)
{
    if (!common->cache || !has_head(common->cache)) return KV_OK;
    if (expand_preset(cache, common, s.head_size, err)) return err->code;
    tell_preset(cache, common->cache);
    return parse_formats(cache, cache->keys_text, cache->values_text, common, err);
}

/* --------------------------------------------------------------- progress */

static struct {
    double start, last, done;
    const char *label;
    int shown;
} progress;

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

void cli_progress_clear(void)
{
    if (progress.shown) fputs("\r\033[K", stderr);
    progress.shown = 0;
}

void cli_progress(double done, double total, const char *label)
{
    if (!isatty(2)) return;
    double now = seconds();
    if (!progress.label || strcmp(label, progress.label) != 0 || done < progress.done) {
        progress.start = now;
        progress.last = 0;
        progress.label = label;
    }
    progress.done = done;
    if (done >= total) {
        cli_progress_clear();
        progress.label = NULL;
        return;
    }
    if (now - progress.last < 0.2) return;
    progress.last = now;
    progress.shown = 1;
    fprintf(stderr, "\r\033[K%s  %.0f %%", label, 100 * done / total);
    if (done > 0 && now - progress.start > 0.5) {
        double left = (now - progress.start) / done * (total - done);
        if (left < 100) fprintf(stderr, "  %.0f s left", left);
        else fprintf(stderr, "  %.0f min left", left / 60);
    }
    fflush(stderr);
}

/* ----------------------------------------------------------------- tables */

static void *must(void *p)
{
    if (p) return p;
    fprintf(stderr, "kvsink: not enough memory to print a table\n");
    exit(KV_FAIL_RUN);
}

void cli_table_begin(cli_table *t, const char *align)
{
    memset(t, 0, sizeof *t);
    snprintf(t->align, sizeof t->align, "%s", align);
    t->columns = (int)strlen(t->align);
}

void cli_table_cell(cli_table *t, const char *format, ...)
{
    char text[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if ((t->cells & (t->cells + 1)) == 0) /* one short of a power of two: full */
        t->cell = must(realloc(t->cell, 2 * ((size_t)t->cells + 1) * sizeof *t->cell));
    char *copy = must(malloc(strlen(text) + 1));
    t->cell[t->cells++] = strcpy(copy, text);
}

/* Characters, not bytes: continuation bytes do not count. */
static int width(const char *text)
{
    int n = 0;
    for (; *text; text++) n += ((unsigned char)*text & 0xC0) != 0x80;
    return n;
}

void cli_table_print(cli_table *t)
{
    int wide[32] = {0}, waiting = 0;
    for (int i = 0; i < t->cells; i++) {
        int w = width(t->cell[i]), column = i % t->columns;
        if (w > wide[column]) wide[column] = w;
    }
    for (int i = 0; i < t->cells; i++) {
        int column = i % t->columns, last = column == t->columns - 1 || i == t->cells - 1;
        int pad = wide[column] - width(t->cell[i]);
        if (t->align[column] == 'r') waiting += pad;
        if (t->cell[i][0]) { /* blanks go out in front of text only, never at the end of a line */
            printf("%*s%s", waiting, "", t->cell[i]);
            waiting = 0;
        }
        if (t->align[column] == 'l') waiting += pad;
        waiting += 2;
        if (last) {
            putchar('\n');
            waiting = 0;
        }
        free(t->cell[i]);
    }
    free(t->cell);
    memset(t, 0, sizeof *t);
}

char *cli_bytes(char *buffer, double bytes)
{
    static const char *const unit[] = {"bytes", "kB", "MB", "GB", "TB"};
    int i = 0;
    while (bytes >= 999.5 && i < 4) {
        bytes /= 1000;
        i++;
    }
    int digits = i == 0 || bytes >= 99.95 ? 0 : bytes >= 9.995 ? 1 : 2;
    snprintf(buffer, 32, "%.*f %s", digits, bytes, i == 0 && bytes == 1 ? "byte" : unit[i]);
    return buffer;
}

char *cli_count(char *buffer, long long n)
{
    char digits[24];
    int length = snprintf(digits, sizeof digits, "%lld", n), used = 0;
    for (int i = 0; i < length; i++) {
        int left = length - i;
        if (i > 0 && digits[i - 1] != '-' && left % 3 == 0) buffer[used++] = ',';
        buffer[used++] = digits[i];
    }
    buffer[used] = 0;
    return buffer;
}

/* ------------------------------------------------------------------- JSON */

/* Room for six times n: "\u0000" is the longest that one byte becomes. */
cJSON *cli_json_text(const char *bytes, size_t n)
{
    char *out = must(malloc(6 * n + 3));
    size_t used = 0, i = 0;
    out[used++] = '"';
    while (i < n) {
        unsigned char c = (unsigned char)bytes[i];
        size_t length = c < 0x80 ? 1 : c < 0xE0 ? 2 : c < 0xF0 ? 3 : 4;
        if (length > n - i || tm_check_utf8(bytes + i, length, NULL)) {
            memcpy(out + used, "\xEF\xBF\xBD", 3);
            used += 3;
            length = 1;
        } else if (c == '"' || c == '\\') {
            out[used++] = '\\';
            out[used++] = (char)c;
        } else if (c < 0x20 || c == 0x7F) {
            used += (size_t)sprintf(out + used, "\\u%04x", c);
        } else {
            memcpy(out + used, bytes + i, length);
            used += length;
        }
        i += length;
    }
    out[used++] = '"';
    out[used] = 0;
    cJSON *item = must(cJSON_CreateRaw(out));
    free(out);
    return item;
}

void cli_json_add_text(cJSON *object, const char *name, const char *bytes, size_t n)
{
    cJSON_AddItemToObject(object, name, cli_json_text(bytes, n));
}

/* cJSON keeps numbers as double and would print 1e+15; ours are whole. */
static cJSON *whole(long long x)
{
    char text[32];
    snprintf(text, sizeof text, "%lld", x);
    return must(cJSON_CreateRaw(text));
}

cJSON *cli_json_ints(const int *x, int n)
{
    return must(cJSON_CreateIntArray(x, n));
}

void cli_json_add_int(cJSON *object, const char *name, long long x)
{
    cJSON_AddItemToObject(object, name, whole(x));
}

void cli_json_add_number(cJSON *object, const char *name, double x)
{
    cJSON_AddItemToObject(object, name,
                          must(isfinite(x) ? cJSON_CreateNumber(x) : cJSON_CreateNull()));
}

void cli_json_print(cJSON *object)
{
    cli_progress_clear();
    char *text = must(cJSON_PrintUnformatted(object));
    puts(text);
    cJSON_free(text);
    cJSON_Delete(object);
}

/* ------------------------------------------------------------------- main */

int cli_stdout_failed(void)
{
    return ferror(stdout) != 0;
}

int cli_finish(int status)
{
    cli_progress_clear();
    errno = 0;
    int bad = fflush(stdout) != 0 || ferror(stdout);
    int why = errno;
    if (!bad && fclose(stdout) != 0) {
        bad = 1;
        why = errno;
    }
    if (!bad) return status;
    fprintf(stderr, "kvsink: cannot write standard output: %s\n",
            why ? strerror(why) : "a write failed");
    return KV_FAIL_RUN;
}
