/* table.md and table.csv, see sweep_table.h. */
#include "sweep_table.h"

#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "files.h"
#include "stats.h"
#include "sweep.h"

enum { COLUMNS = 10, CELL = 160 };
static const double LEVEL = 0.95;

/* ------------------------------------------------------------------- rows */

/* Is b what a is compared with? */
static int is_baseline(const sweep_spec *s, const sweep_cell *a, const sweep_cell *b)
{
    const sweep_group *g = &s->group[a->group];
    int format = g->baseline_format >= 0 ? g->baseline_format : a->format;
    int keep = g->baseline >= 0 ? g->baseline : a->keep;
    return a->group == b->group && a->text == b->text && b->format == format && b->keep == keep;
}

static int has_baseline(const sweep_group *g)
{
    return g->baseline >= 0 || g->baseline_format >= 0;
}

sweep_row *sweep_rows(int *n, const sweep_spec *s, const sweep_results *all, kv_error *err)
{
    *n = sweep_spec_cells(NULL, s);
    sweep_row *row = calloc((size_t)*n, sizeof *row);
    sweep_cell *cell = calloc((size_t)*n, sizeof *cell);
    if (row && cell) {
        sweep_spec_cells(cell, s);
        for (int i = 0; i < *n; i++) {
            row[i].cell = cell[i];
            row[i].result = sweep_results_find(all, s, &cell[i], NULL);
        }
        for (int i = 0; i < *n; i++)
            for (int j = 0; j < *n; j++)
                if (has_baseline(&s->group[cell[i].group]) && is_baseline(s, &cell[i], &cell[j]))
                    row[i].baseline = row[j].result;
    } else {
        kv_fail(err, KV_FAIL_RUN, "not enough memory for the tables");
        free(row);
        row = NULL;
    }
    free(cell);
    return row;
}

/* ------------------------------------------------------------ differences */

typedef struct {
    tm_mean kl, loss; /* this less the baseline */
    double t;         /* half the interval, in errors */
} difference;

/* 0: there is nothing to compare with. */
static int compare(difference *d, const sweep_row *row)
{
    const sweep_result *a = row->result, *b = row->baseline;
    if (!a || !b || a == b) return 0;
    int n = a->e.r.windows < b->e.r.windows ? a->e.r.windows : b->e.r.windows;
    double *x = calloc(4 * (size_t)n + 1, sizeof *x);
    if (!x) return 0;
    for (int i = 0; i < n; i++) {
        x[i] = a->e.each[i].kl;
        x[n + i] = b->e.each[i].kl;
        x[2 * n + i] = a->e.each[i].loss;
        x[3 * n + i] = b->e.each[i].loss;
    }
    d->kl = tm_mean_paired(x, x + n, n);
    d->loss = tm_mean_paired(x + 2 * n, x + 3 * n, n);
    d->t = tm_t_quantile(LEVEL, n - 1);
    free(x);
    return 1;
}

/* --------------------------------------------------------------- Markdown */

static int width(const char *text)
{
    int n = 0;
    for (; *text; text++) n += ((unsigned char)*text & 0xC0) != 0x80;
    return n;
}

static void figure(char *to, double x)
{
    snprintf(to, CELL, fabs(x) >= 0.0995 ? "%.3f" : x == 0 ? "0" : "%#.2g", x);
}

static void show_difference(char *to, const sweep_row *row)
{
    difference d;
    char mean[CELL], low[CELL], high[CELL];
    to[0] = 0;
    if (!compare(&d, row)) return;
    figure(mean, d.kl.mean);
    if (d.kl.n < 2) {
        snprintf(to, CELL, "%.50s", mean);
        return;
    }
    figure(low, d.kl.mean - d.t * d.kl.error);
    figure(high, d.kl.mean + d.t * d.kl.error);
    snprintf(to, CELL, "%.40s [%.40s, %.40s]", mean, low, high);
}

static void show_row(char cell[COLUMNS][CELL], const sweep_spec *s, const sweep_row *row)
{
    const sweep_result *r = row->result;
    for (int i = 0; i < COLUMNS; i++) cell[i][0] = 0;
    snprintf(cell[0], CELL, "%s", s->text[row->cell.text].name);
    snprintf(cell[1], CELL, "%s", s->format[row->cell.format].name);
    snprintf(cell[2], CELL, "`%.150s`", s->keep_text[row->cell.keep]);
    if (!r) return;
    char kl[CELL], error[CELL];
    snprintf(cell[3], CELL, "%d", r->e.r.windows);
    snprintf(cell[4], CELL, "%.2f (%.2f)", r->e.r.ppl, r->e.r.ppl16);
    figure(kl, r->e.r.kl);
    figure(error, r->e.r.kl_error);
    if (r->e.r.windows > 1) snprintf(cell[5], CELL, "%.60s ± %.60s", kl, error);
    else snprintf(cell[5], CELL, "%.60s", kl);
    show_difference(cell[6], row);
    snprintf(cell[7], CELL, "%.1f %%", 100 * r->e.r.top1);
    snprintf(cell[8], CELL, "%.2f", r->e.r.bits);
    snprintf(cell[9], CELL, "%.2f%s", r->e.r.kept, r->e.r.capped ? " (cap)" : "");
}

static void print_line(FILE *f, char cell[COLUMNS][CELL], const int *wide)
{
    for (int i = 0; i < COLUMNS; i++) {
        int pad = wide[i] - width(cell[i]), left = i < 3;
        if (wide[i]) fprintf(f, "| %*s%s%*s ", left ? 0 : pad, "", cell[i], left ? pad : 0, "");
    }
    fprintf(f, "|\n");
}

/* The rows of one group, from..to-1. An empty column of differences is left out. */
static void print_group(FILE *f, const sweep_spec *s, const sweep_row *row, int from, int to,
                        char (*cell)[COLUMNS][CELL])
{
    static const char *const heading[COLUMNS] = {
        "text", "format", "kept tokens", "windows", "perplexity (16 bits)", "KL, nats",
        "KL less the baseline's", "same best token", "bits", "kept rows a layer"};
    const sweep_group *g = &s->group[row[from].cell.group];
    int wide[COLUMNS] = {0};
    for (int c = 0; c < COLUMNS; c++) snprintf(cell[0][c], CELL, "%s", heading[c]);
    for (int i = from; i < to; i++) show_row(cell[i - from + 1], s, &row[i]);
    for (int c = 0; c < COLUMNS; c++)
        for (int i = 0; i <= to - from; i++)
            if ((i || has_baseline(g) || c != 6) && width(cell[i][c]) > wide[c])
                wide[c] = width(cell[i][c]);
    fprintf(f, "## %s\n\n", g->name);
    print_line(f, cell[0], wide);
    for (int c = 0; c < COLUMNS; c++) {
        if (!wide[c]) continue;
        fprintf(f, "|%s", c < 3 ? ":" : "-");
        for (int i = 0; i < wide[c]; i++) fputc('-', f);
        fputc(c < 3 ? '-' : ':', f);
    }
    fprintf(f, "|\n");
    for (int i = 1; i <= to - from; i++) print_line(f, cell[i], wide);
    if (has_baseline(g))
        fprintf(f, "\nBaseline: %s%s%s%s, paired by window; in brackets the 95 %% t interval.\n",
                g->baseline_format >= 0 ? s->format[g->baseline_format].name : "the same format",
                g->baseline >= 0 ? " with `" : " with the same rule",
                g->baseline >= 0 ? s->keep_text[g->baseline] : "", g->baseline >= 0 ? "`" : "");
    fprintf(f, "\n");
}

/* Different texts of a kind, such as the commits of all results, separated by commas. */
static void print_distinct(FILE *f, const sweep_row *row, int n, int model)
{
    int shown = 0;
    for (int i = 0; i < n; i++) {
        if (!row[i].result) continue;
        const char *text = model ? row[i].result->model : row[i].result->commit;
        int is_new = 1;
        for (int j = 0; j < i && is_new; j++)
            if (row[j].result)
                is_new = strcmp(text, model ? row[j].result->model : row[j].result->commit) != 0;
        if (is_new) fprintf(f, "%s%s", shown++ ? ", " : "", text);
    }
}

static void print_closing(FILE *f, const sweep_spec *s, const sweep_row *row, int n)
{
    int named = 0;
    for (int i = 0; i < s->n_keeps; i++) named |= strstr(s->keep_text[i], "kvsink:best") != NULL;
    int comparisons = 0, missing = 0, windows = 0;
    for (int i = 0; i < n; i++) {
        difference d;
        int made = compare(&d, &row[i]) && d.kl.n > 1;
        comparisons += made;
        missing += !row[i].result;
        if (made && (!windows || d.kl.n < windows)) windows = d.kl.n;
    }
    if (comparisons) {
        double one = tm_t_quantile(LEVEL, windows - 1);
        double all = tm_t_quantile(1 - (1 - LEVEL) / comparisons, windows - 1);
        fprintf(f, "%d comparison%s with a baseline were made; of intervals at 95 %%, one in twenty"
                   " misses by chance. For all of them to hold together, take them %.2f times as"
                   " wide (Bonferroni, %d windows).\n\n", comparisons, comparisons == 1 ? "" : "s",
                all / one, windows);
    }
    if (missing) fprintf(f, "%d of %d cells are not measured yet.\n\n", missing, n);
    if (named) fprintf(f, "`kvsink:best` stands for `%s`.\n\n", KV_KEEP_BEST);
    fprintf(f, "Model: ");
    print_distinct(f, row, n, 1);
    fprintf(f, ". Measured at commit ");
    print_distinct(f, row, n, 0);
    fprintf(f, ".\n");
}

static int write_markdown(const sweep_spec *s, const sweep_row *row, int n, const char *out,
                          kv_error *err)
{
    char path[4096];
    tm_out o;
    char (*cell)[COLUMNS][CELL] = calloc((size_t)n + 1, sizeof *cell);
    if (!cell) return kv_fail(err, KV_FAIL_RUN, "not enough memory for the table");
    int code = tm_out_open(&o, sweep_path(path, sizeof path, out, "table.md"), err);
    for (int i = 0, to; i < n && !code; i = to) {
        for (to = i; to < n && row[to].cell.group == row[i].cell.group; to++) {}
        print_group(o.f, s, row, i, to, cell);
    }
    if (!code) {
        print_closing(o.f, s, row, n);
        code = tm_out_close(&o, err);
    }
    free(cell);
    return code;
}

/* -------------------------------------------------------------------- CSV */

static void print_field(FILE *f, const char *text)
{
    int quote = strpbrk(text, ",\"\n") != NULL;
    if (quote) fputc('"', f);
    for (; *text; text++) {
        if (*text == '"') fputc('"', f);
        fputc(*text, f);
    }
    fputs(quote ? "\"," : ",", f);
}

static void print_numbers(FILE *f, const sweep_row *row)
{
    const tm_eval_result *r = &row->result->e.r;
    difference d;
    fprintf(f, "%d,%lld,%.9g,%.9g,%.9g,%.9g,%.9g,%.9g,%.9g,%.9g,%.9g,%.9g,%.9g,%d", r->windows,
            r->tokens, r->ppl16, r->ppl, r->loss, r->loss_error, r->kl, r->kl_error, r->top1,
            r->top1_error, r->bits, r->bytes, r->kept, r->capped);
    if (compare(&d, row) && d.kl.n > 1)
        fprintf(f, ",%.9g,%.9g,%.9g,%.9g,%.9g,%.9g", d.kl.mean, d.kl.mean - d.t * d.kl.error,
                d.kl.mean + d.t * d.kl.error, d.loss.mean, d.loss.mean - d.t * d.loss.error,
                d.loss.mean + d.t * d.loss.error);
    else fprintf(f, ",,,,,,");
    fprintf(f, ",%s,%s\n", row->result->id, row->result->commit);
}

static int write_csv(const sweep_spec *s, const sweep_row *row, int n, const char *out,
                     kv_error *err)
{
    char path[4096];
    tm_out o;
    if (tm_out_open(&o, sweep_path(path, sizeof path, out, "table.csv"), err)) return err->code;
    fprintf(o.f, "group,text,format,keys,values,recent,kept_means,keep,baseline,"
                 "baseline_format,windows,tokens,ppl16,ppl,loss,loss_error,kl,kl_error,"
                 "top1,top1_error,bits,bytes,kept,capped,kl_less_baseline,"
                 "kl_low,kl_high,loss_less_baseline,loss_low,loss_high,id,commit\n");
    for (int i = 0; i < n; i++) {
        const sweep_group *g = &s->group[row[i].cell.group];
        const sweep_format *format = &s->format[row[i].cell.format];
        if (!row[i].result) continue;
        print_field(o.f, g->name);
        print_field(o.f, s->text[row[i].cell.text].name);
        print_field(o.f, format->name);
        print_field(o.f, format->keys_text);
        print_field(o.f, format->values_text);
        fprintf(o.f, "%d,%s,", sweep_recent(format, &s->text[row[i].cell.text]),
                cli_kept_name[format->kept]);
        print_field(o.f, s->keep_text[row[i].cell.keep]);
        print_field(o.f, g->baseline >= 0 ? s->keep_text[g->baseline] : "");
        print_field(o.f, g->baseline_format >= 0 ? s->format[g->baseline_format].name : "");
        print_numbers(o.f, &row[i]);
    }
    return tm_out_close(&o, err);
}

int sweep_write_tables(const sweep_spec *s, const sweep_row *row, int n, const char *out,
                       kv_error *err)
{
    int code = write_markdown(s, row, n, out, err);
    return code ? code : write_csv(s, row, n, out, err);
}
