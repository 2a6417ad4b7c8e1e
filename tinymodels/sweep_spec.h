/* A spec file: what a sweep measures. Lines of words, as they are read:
 *
 *     # a comment, to the end of the line; "quotes" hold blanks together
 *     model   PATH                  once; paths are relative to where kvsink runs
 *     profile PATH                  what kvsink calibrate wrote, if a rule needs it
 *     out     DIRECTORY             where results go (option -o goes before it)
 *
 *     text    NAME file=PATH [join=eot[:N]] [ctx=512] [windows=all] [bos=each|first|none]
 *                  [stream=P] [special=yes]
 *     text    NAME chat=PATH [ctx=512] ...
 *     format  NAME keys=FORMAT values=FORMAT [recent=R] [kept=both|overwrite|exclude]
 *     format  NAME preset=PRESET    what the preset expands to (its recent window: in streams)
 *
 *     group   NAME                  begins a table; without it all lines belong to one
 *     texts   NAME ...              those of this group (default: all of the file)
 *     formats NAME ...              likewise
 *     keeps   KEEP ...              the group measures texts x formats x keeps; may be repeated
 *     cell    TEXT FORMAT KEEP      one more cell of the group
 *     baseline KEEP                 differences are taken to this rule, on the same text and format
 *     baseline-format NAME          to this format, on the same text, with the same rule or,
 *                                   if that is given too, with the baseline's
 *     windows N                     only the first N of each text
 *     layers  yes                   errors of each layer as well (whole windows; one more pass)
 *
 * kept: what becomes of kept tokens: left out of the groups' statistics and stored in 16 bits
 * (both); stored but in the statistics all the same, the common mistake (overwrite); left out of the
 * statistics and coded like the others (exclude).
 *
 * KEEP is as on the command line, or first:=KEEP or toph:=KEEP, whose N or K is chosen in each
 * window so that the mean number of kept rows is that of the other rule (base.h). Texts and formats
 * are defined before they are used. A cell that several groups ask for is measured once. */
#ifndef TM_SWEEP_SPEC_H
#define TM_SWEEP_SPEC_H

#include "base.h"
#include "kv.h"

enum { SWEEP_TEXTS = 64, SWEEP_FORMATS = 128, SWEEP_KEEPS = 256, SWEEP_GROUPS = 64 };

typedef struct {
    char *name, *file, *chat, *join;
    int ctx, windows, stream, special;
    int bos; /* a tm_bos, or -1: not given */
    int line;
} sweep_text;

typedef struct {
    char *name;
    char keys_text[64], values_text[64];
    kv_format keys, values;
    char preset[24]; /* its name, or empty */
    int recent, line;
    int kept; /* kv_exclusion, of keys and values */
} sweep_format;

typedef struct {
    char *name;
    int n_texts, n_formats, n_keeps, n_cells;
    int text[SWEEP_TEXTS], format[SWEEP_FORMATS], keep[SWEEP_KEEPS];
    int cell[SWEEP_KEEPS][3]; /* text, format, keep */
    int baseline, baseline_format; /* a keep, a format, or -1 */
    int windows, layers;
} sweep_group;

typedef struct {
    char *path, *model, *profile, *out;
    sweep_text text[SWEEP_TEXTS];
    sweep_format format[SWEEP_FORMATS];
    char *keep_text[SWEEP_KEEPS];
    int keep_line[SWEEP_KEEPS];
    tm_choice keep[SWEEP_KEEPS];
    sweep_group group[SWEEP_GROUPS];
    int n_texts, n_formats, n_keeps, n_groups;
    int line; /* that is being read */
} sweep_spec;

/* One measurement of one group; in the order of the tables. */
typedef struct {
    int group, text, format, keep, windows, layers;
} sweep_cell;

/* What is wrong is said with file:line. *out from malloc; release with sweep_spec_free. */
int sweep_spec_read(sweep_spec **out, const char *path, kv_error *err);
void sweep_spec_free(sweep_spec *s); /* NULL is harmless */

/* The rule as it is, with what kvsink:best stands for in its place. Returns text. */
char *sweep_keep(char *text, size_t size, const sweep_spec *s, int keep);

/* R of a format on a text: a preset's is for streams. */
int sweep_recent(const sweep_format *f, const sweep_text *t);

/* All cells of all groups; the number, or -1: no memory. cell NULL: only counts. */
int sweep_spec_cells(sweep_cell *cell, const sweep_spec *s);

#endif
