/* Results, see results.h. */
#include "results.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "files.h"

/* Ends the line at *text, moves *text behind it and returns it; NULL at the end of the file. */
static char *next_line(char **text)
{
    char *line = *text;
    if (!*line) return NULL;
    size_t n = strcspn(line, "\n");
    *text = line + n + (line[n] == '\n');
    line[n] = 0;
    return line;
}

/* Puts the cells of a line into cell [n]; returns how many the line has. */
static int split(char **cell, int n, char *line)
{
    int count = 0;
    for (char *tab; line; line = tab ? tab + 1 : NULL, count++) {
        tab = strchr(line, '\t');
        if (tab) *tab = 0;
        if (count < n) cell[count] = line;
    }
    return count;
}

static int count_of(const char *text, char c)
{
    int n = 0;
    for (; *text; text++) n += *text == c;
    return n;
}

static int parse(tm_results *r, kv_error *err)
{
    char *rest = r->text, *line = NULL;
    int lines = count_of(rest, '\n') + 1;
    while ((line = next_line(&rest)) && (line[0] == '#' || !line[0]))
        ;
    if (!line)
        return kv_fail(err, KV_FAIL_RUN, "%s: no line of titles", r->path);
    r->cols = count_of(line, '\t') + 1;
    r->title = calloc((size_t)r->cols, sizeof *r->title);
    r->cell = calloc((size_t)lines * (size_t)r->cols, sizeof *r->cell);
    if (!r->title || !r->cell) return kv_fail(err, KV_FAIL_RUN, "%s: out of memory", r->path);
    split(r->title, r->cols, line);
    while ((line = next_line(&rest))) {
        if (!line[0]) continue;
        char **cell = r->cell + (size_t)r->rows * (size_t)r->cols;
        for (int i = 0; i < r->cols; i++) cell[i] = line + strlen(line);
        int n = split(cell, r->cols, line);
        if (n > r->cols)
            return kv_fail(err, KV_FAIL_RUN, "%s: row '%s' has %d cells, expected at most %d", r->path,
                           cell[0], n, r->cols);
        r->rows++;
    }
    return KV_OK;
}

int tm_results_read(tm_results *r, const char *path, kv_error *err)
{
    size_t n;
    *r = (tm_results){0};
    snprintf(r->path, sizeof r->path, "%s", path);
    int code = tm_read_file(&r->text, &n, path, err);
    if (!code) code = parse(r, err);
    if (code) tm_results_free(r);
    return code;
}

void tm_results_free(tm_results *r)
{
    free(r->title);
    free(r->cell);
    free(r->text);
    *r = (tm_results){0};
}

int tm_results_row(const tm_results *r, const char *name)
{
    for (int i = 0; i < r->rows; i++)
        if (!strcmp(r->cell[(size_t)i * (size_t)r->cols], name)) return i;
    return -1;
}

int tm_results_col(const tm_results *r, const char *title)
{
    for (int i = 0; i < r->cols; i++)
        if (!strcmp(r->title[i], title)) return i;
    return -1;
}

const char *tm_results_text(const tm_results *r, int row, const char *title)
{
    int col = tm_results_col(r, title);
    return row < 0 || col < 0 ? "" : r->cell[(size_t)row * (size_t)r->cols + (size_t)col];
}

double tm_results_number(const tm_results *r, int row, const char *title)
{
    const char *text = tm_results_text(r, row, title);
    char *end;
    double x = strtod(text, &end);
    return end == text || *end ? NAN : x;
}

char *tm_results_part(char *buffer, size_t size, const char *name, int index)
{
    for (; index > 0 && name; index--) {
        name = strchr(name, '/');
        if (name) name++;
    }
    snprintf(buffer, size, "%.*s", name ? (int)strcspn(name, "/") : 0, name ? name : "");
    return buffer;
}
