/* What all commands of kvsink share: options, help, messages, tables, JSON, progress.
 *
 * A command is a table of options plus a function. cli_parse fills the variables that the table
 * points to (defaults first, from the same text that --help prints), handles --help and --version,
 * and refuses what it does not understand with exit status 2 and a sentence that names the
 * option, what was found and what was expected. So a command starts like this:
 *
 *     int cmd_thing(int argc, char **argv)
 *     {
 *         int ctx;
 *         const char *png;
 *         const cli_option options[] = {
 *             {"--ctx", CLI_INT, &ctx, "N", "64", 1, 1 << 20, "tokens to look at"},
 *             {"--png", CLI_STRING, &png, "FILE", NULL, 0, 0, "draw the picture there"},
 *             {0}};
 *         static const char *const examples[] = {"kvsink thing model.gguf --text hello", ..., NULL};
 *         const cli_command command = {"thing", "one line for the list of commands",
 *                                      "MODEL", CLI_TEXT | CLI_BOS, options,
 *                                      "paragraphs for --help or NULL", examples};
 *         cli_common common;
 *         kv_error err;
 *         int status;
 *         if (!cli_parse(&common, &command, argc, argv, &status)) return status;
 *         ...
 *         if (something(&err)) return cli_fail(&command, &err);
 *         return 0;
 *     }
 *
 * Standard output carries results only: with --json exactly one object (cli_json_print). All else
 * goes to standard error. main() checks at the end that standard output took everything.
 * This room may have globals and print; ref/ may not. */
#ifndef TM_CLI_H
#define TM_CLI_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cjson/cJSON.h>

#include "kv.h"

/* ---------------------------------------------------------------- options */

/* What an option takes, and the type of its target. */
typedef enum {
    CLI_FLAG = 1, /* nothing; int: 1 if given */
    CLI_INT,      /* a whole number within low..high; int */
    CLI_SEED,     /* a whole number 0 .. 2^64-1; uint64_t */
    CLI_FLOAT,    /* a finite number within low..high; double */
    CLI_STRING,   /* any text; const char *, NULL if not given and no default */
    CLI_CHOICE,   /* one of the words of `value`, separated by '|'; int: its index */
    CLI_LIST      /* one or more texts, up to the next option; may be repeated; cli_list */
} cli_kind;

enum { CLI_LIST_MAX = 1024 };

typedef struct {
    int count;
    const char *item[CLI_LIST_MAX];
} cli_list;

typedef struct {
    const char *name;     /* "--ctx" or "-o" */
    cli_kind kind;
    void *target;
    const char *value;    /* what --help calls the value: "N", "FILE", "each|first|none" */
    const char *fallback; /* the default as a user would type it; NULL: number 0, choice -1, no text;
                             "(...)" in brackets: shown only, then as NULL */
    double low, high;     /* CLI_INT and CLI_FLOAT; both 0: any number that the type holds */
    const char *help;
} cli_option;

/* Options that several commands share. */
enum {
    CLI_TEXT = 1,    /* --text S | --file F (exactly one) and --special */
    CLI_BOS = 2,     /* --bos yes|no */
    CLI_CACHE = 4,   /* --keys --values --keep --recent --profile --cache */
    CLI_SPECIAL = 8  /* --special alone: for commands whose text comes from options of their own */
};

typedef struct {
    const char *name, *summary;
    const char *positional; /* "MODEL", "IN.npy", "[MODEL]" if it may be left out; NULL: none */
    unsigned groups;        /* CLI_TEXT | ... */
    const cli_option *options; /* the command's own, ended by an entry of zeros */
    const char *details;       /* text for --help between options and examples, or NULL */
    const char *const *examples; /* at least two, NULL at the end */
} cli_command;

typedef struct {
    const char *command;    /* its name */
    const char *positional; /* the MODEL */
    int json, threads;      /* threads: 1..256, by default the cores of this machine */
    int special;
    int bos;                /* -1 as the file says, 0 no, 1 yes */
    const char *text, *file;
    const char *keys, *values, *keep, *profile, *cache; /* never NULL but profile and cache */
    int recent, overwrite, exclude_only;
} cli_common;

/* Returns 1 to go on; 0 when the command is over with exit status *status (help was printed, or
 * a usage error was reported). */
int cli_parse(cli_common *common, const cli_command *command, int argc, char **argv, int *status);

/* For programs that are not kvsink: what --help and messages call them, "build/bench". Lives as long as
 * the program. */
void cli_program(const char *name);

/* Was this option on the command line? For rules like "--recent needs --stream". */
int cli_given(const char *name);

/* ----------------------------------------------------------------- errors */

/* Prints "kvsink NAME: message" (and, for usage errors, where to find help) to standard
 * error and returns the exit status: err->code. */
int cli_fail(const cli_command *command, const kv_error *err);

/* The same with a message made here; code KV_FAIL_RUN or KV_FAIL_USAGE. */
int cli_say_fail(const cli_command *command, int code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* "kvsink NAME: warning: ..." or "note: ..." on standard error. */
void cli_warn(const char *format, ...) __attribute__((format(printf, 1, 2)));
void cli_note(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* ------------------------------------------------------------------- text */

/* The text of --text or --file: read, not empty, UTF-8. malloc; *n bytes and a NUL. */
int cli_read_text(char **text, size_t *n, const cli_common *common, kv_error *err);

/* The same for a file, and the same checks for text in memory (what: "--text"). */
int cli_read_text_file(char **text, size_t *n, const char *path, kv_error *err);
int cli_check_text(const char *text, size_t n, const char *what, kv_error *err);

/* ------------------------------------------------------------------ cache */

/* What --help says of FORMAT, presets and KEEP, without the last line's end. */
#define CLI_FORMAT_HELP \
    "FORMAT  KIND:AXIS:GROUP[:FLAG...], or q4_0 q4_1 q5_0 q5_1 q8_0 f16 bf16 f32;\n" \
    "        for example 2:channel:32, nf4:token:64:had, 2:channel:32:out1, q4_0:pre\n" \
    "  KIND  2 3 4 8 (integers), nf2 nf3 nf4 (levels of the normal distribution),\n" \
    "        e4m3 (8-bit floats); q4_0 and its like are llama.cpp's blocks\n" \
    "  AXIS  channel (GROUP consecutive tokens of one channel) or token (GROUP\n" \
    "        consecutive channels of one token); GROUP: a number, or all\n" \
    "  pre   keys before RoPE              sym   no minimum, codes around 0\n" \
    "  had   Walsh-Hadamard rotation of each head in front, undone after\n" \
    "  norm  tokens divided by their norm, which is stored (OScaR)\n" \
    "  outP  P percent of the numbers, half at each end of a channel (keys) or token\n" \
    "        (values), stored apart in 16 bits with an index\n" \
    "  static  ranges from calibrate --static instead of from the data\n" \
    "  kivi  every operation in binary16, and ageing as KIVI does it"
#define CLI_PRESET_HELP \
    "PRESET  kivi-2, kivi-4 (streams only), kivi-2-like, kivi-4-like, kcvt (whole\n" \
    "        windows only), q4_0, q8_0, quarot-like, oscar-like, rotatekv-like, f16;\n" \
    "        what one stands for is printed when it is used"

/* What --help says of KEEP, without the last line's end. */
#define CLI_KEEP_HELP \
    "KEEP    RULE[/LAYERS][+decode]; h, attention and keys are those of the pass\n" \
    "        without quantization over the same tokens\n" \
    "  none, first:N, positions:3,17\n" \
    "  ids:1,2 | ids:learned     position 0 and every occurrence of these token ids\n" \
    "  kvsink:K[@S]              the K largest |h| of a stage of the profile; S: its\n" \
    "                            layer, each (a later stage replaces the earlier),\n" \
    "                            join (is added to it) or union (all stages in all\n" \
    "                            layers); default: the largest ratio\n" \
    "  kvsink:auto[@S]           what passes the stage's threshold\n" \
    "  kvsink:best               what we recommend: " KV_KEEP_BEST "\n" \
    "  rotatekv, toph:K          the largest |h| of any channel, layer by layer\n" \
    "  attention:K[-sinks]       most attention received; -sinks: kvsink:auto@join's\n" \
    "                            tokens left out\n" \
    "  criterion[:M]             attention received, mean minus M deviations over\n" \
    "                            layers; in whole windows it sees the future: an\n" \
    "                            upper bound (a 16-bit shadow of everything)\n" \
    "  random:K:SEED, bigkeys:K, smallkeys:K   controls: by chance, by key norms\n" \
    "  greedy:K                  tried out one by one (eval; at most 256 tokens)\n" \
    "  /after: layers behind the stage (kvsink's default; other rules: behind the one\n" \
    "  of the largest ratio), /all, /12-29; +decode keeps generated tokens, too"

typedef struct {
    char keys_text[64], values_text[64]; /* as given, or what the preset expands to */
    kv_format keys, values;
    const char *keep_text;
    kv_keep_rule keep;
    int recent;
    kv_exclusion kept;   /* what being kept means: of both formats */
    const char *profile; /* path or NULL */
} cli_cache;

/* "both", "overwrite", "exclude", by kv_exclusion. */
extern const char *const cli_kept_name[3];

/* A KEEP. Where kv_keep_needs_profile, having none (profile: path, or NULL) is an error which names
 * calibrate, found before anything is computed. kvsink:best prints what it stands for as a note. */
int cli_keep_rule(kv_keep_rule *rule, const char *text, const char *profile, kv_error *err);

/* What a preset stands for; keys and values of 64 bytes. stream: 0 in whole windows, where nothing is
 * recent, 1 in streams, -1 if that is open. head: the model's head size. Unknown, or not for this
 * use: KV_FAIL_USAGE. */
int cli_preset(char *keys, char *values, int *recent, const char *name, int stream, int head,
               kv_error *err);

/* Reads the CACHE options. A preset prints what it expands to (standard error). Whether formats
 * fit the model is the caller's to ask with kv_format_check. */
int cli_cache_options(cli_cache *cache, const cli_common *common, kv_error *err);

/* The same again, once the model is known: for presets whose groups are heads. */
int cli_cache_fit(cli_cache *cache, const cli_common *common, kv_shape s, kv_error *err);

/* --------------------------------------------------------------- progress */

/* "label  37 %  12 s left" on standard error, only on a terminal, at most five times a second.
 * done == total removes the line. Messages and tables remove it too. */
void cli_progress(double done, double total, const char *label);
void cli_progress_clear(void);

/* ----------------------------------------------------------------- tables */

typedef struct {
    int columns, cells;
    char align[32];  /* 'l' or 'r' for each column */
    char **cell;     /* rows one after the other, the first is the heading */
} cli_table;

/* Columns are as wide as their widest cell. align has one letter per column. */
void cli_table_begin(cli_table *t, const char *align);
void cli_table_cell(cli_table *t, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Prints to standard output, two spaces between columns, and frees. */
void cli_table_print(cli_table *t);

/* "94.1 MB" (powers of 1000); "1,234,567". buffer of at least 32 bytes; returned. */
char *cli_bytes(char *buffer, double bytes);
char *cli_count(char *buffer, long long n);

/* ------------------------------------------------------------------- JSON */

/* Text that may hold any byte: what is not UTF-8 becomes U+FFFD. */
cJSON *cli_json_text(const char *bytes, size_t n);
void cli_json_add_text(cJSON *object, const char *name, const char *bytes, size_t n);
/* Whole numbers as such. */
cJSON *cli_json_ints(const int *x, int n);
void cli_json_add_int(cJSON *object, const char *name, long long x);
/* Prints the object on one line of standard output and deletes it. */
void cli_json_print(cJSON *object);

/* Numbers for charts and reports that must not be NaN in JSON: null if not finite. */
void cli_json_add_number(cJSON *object, const char *name, double x);

/* ------------------------------------------------------------------- main */

/* The commit that the Makefile compiled in. */
const char *cli_version(void);

/* Has standard output refused something (closed pipe, full disk)? Commands that print for long
 * look now and then. */
int cli_stdout_failed(void);

/* Flushes standard output; returns status, or 1 after a message if not everything was taken. */
int cli_finish(int status);

/* The nearest of the words to a mistyped one, NULL if none is near. */
const char *cli_nearest(const char *word, const char *const *words, int n);

#endif
