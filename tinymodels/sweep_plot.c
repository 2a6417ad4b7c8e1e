/* Pictures of a sweep, made from its results.
 *
 *   bits-kl.png   what each rule costs (bits) and does (KL): a panel a text, and one for each
 *                 format where many rules crowd
 *   layers.png    errors of each layer; more pairs of text and format: layers-TEXT-FORMAT.png
 *   kept.png      the beginning of each text with its kept tokens marked; more texts:
 *                 kept-TEXT.png */
#include "sweep_table.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <cjson/cJSON.h>

#include "files.h"
#include "plot.h"
#include "plot_points.h"
#include "sweep.h"

enum { MARGIN = 24, PATH = 4096 };

typedef struct {
    const sweep_spec *s;
    const sweep_row *row;
    int n;
    const char *out;
    int keep[SWEEP_KEEPS], n_keeps; /* rules in the order of their kinds of mark */
} pictures;

/* The first row with a result for these; -1: any. */
static const sweep_row *find(const pictures *p, int text, int format, int keep)
{
    for (int i = 0; i < p->n; i++) {
        const sweep_cell *c = &p->row[i].cell;
        if (p->row[i].result && (text < 0 || c->text == text) &&
            (format < 0 || c->format == format) && (keep < 0 || c->keep == keep))
            return &p->row[i];
    }
    return NULL;
}

/* ---------------------------------------------------------------- bits-kl */

/* A text with all its formats (-1), or one of them by itself, where many rules crowd. */
typedef struct {
    int text, format;
} panel;

enum { CROWD = 5, PANELS = 64 };

static int rules_of(const pictures *p, int text, int format)
{
    int n = 0;
    for (int k = 0; k < p->n_keeps; k++) n += find(p, text, format, p->keep[k]) != NULL;
    return n;
}

static int list_panels(panel *list, const pictures *p)
{
    int n = 0;
    for (int t = 0; t < p->s->n_texts; t++) {
        int formats = 0;
        for (int f = 0; f < p->s->n_formats; f++) formats += rules_of(p, t, f) > 0;
        if (formats && n < PANELS) list[n++] = (panel){t, -1};
        for (int f = 0; f < p->s->n_formats && formats > 1; f++)
            if (rules_of(p, t, f) >= CROWD && n < PANELS) list[n++] = (panel){t, f};
    }
    return n;
}

/* What all groups measured, each cell once. Returns how many. */
static int points_of(tm_point *point, const pictures *p, panel of)
{
    int n = 0;
    for (int f = 0; f < p->s->n_formats; f++)
        for (int k = 0; k < p->n_keeps; k++) {
            const sweep_row *row = find(p, of.text, f, p->keep[k]);
            if (!row || (of.format >= 0 && f != of.format)) continue;
            const tm_eval_result *r = &row->result->e.r;
            point[n++] = (tm_point){r->bits, r->kl, r->kl_error, k};
        }
    return n;
}

static int labels_of(tm_point_label *label, const pictures *p, panel of)
{
    int n = 0;
    for (int f = 0; f < p->s->n_formats; f++) {
        double sum = 0;
        int count = 0;
        for (int k = 0; k < p->n_keeps && (of.format < 0 || of.format == f); k++) {
            const sweep_row *row = find(p, of.text, f, p->keep[k]);
            if (!row || !(row->result->e.r.kl > 0)) continue;
            sum += row->result->e.r.bits;
            count++;
        }
        if (count) label[n++] = (tm_point_label){sum / count, p->s->format[f].name};
    }
    return n;
}

static int draw_bits_kl(tm_canvas *c, const pictures *p, const panel *list, int n, int columns,
                        double wide, double high, kv_error *err)
{
    size_t most = (size_t)p->s->n_formats * (size_t)p->n_keeps + 1;
    tm_point *point = calloc(most, sizeof *point);
    tm_point_label *label = calloc(most, sizeof *label);
    const char *name[SWEEP_KEEPS] = {0};
    int code = point && label ? KV_OK : kv_fail(err, KV_FAIL_RUN, "not enough memory to draw");
    for (int i = 0; i < n && !code; i++) {
        tm_box box = {MARGIN + i % columns * (wide + MARGIN),
                      MARGIN + i / columns * (high + MARGIN), wide, high};
        tm_points plot = {p->s->text[list[i].text].name, "bits a key or value, all counted",
                          "KL from 16 bits, nats", point, points_of(point, p, list[i]), label,
                          labels_of(label, p, list[i])};
        tm_plot_points(c, box, &plot);
    }
    for (int k = 0; k < p->n_keeps; k++) name[k] = p->s->keep_text[p->keep[k]];
    if (!code)
        tm_plot_legend(c, MARGIN + 40, MARGIN + (n + columns - 1) / columns * (high + MARGIN),
                       c->width - 2 * MARGIN - 40, name, p->n_keeps, 0);
    free(point);
    free(label);
    return code;
}

static int bits_kl(const pictures *p, kv_error *err)
{
    panel list[PANELS];
    const char *name[SWEEP_KEEPS] = {0};
    char path[PATH];
    int n = list_panels(list, p);
    for (int k = 0; k < p->n_keeps; k++) name[k] = p->s->keep_text[p->keep[k]];
    int columns = n > 1 ? 2 : 1;
    double wide = columns > 1 ? 760 : 960, high = 560;
    double width = columns * (wide + MARGIN) + MARGIN;
    double legend = tm_plot_legend(NULL, 0, 0, width - 2 * MARGIN - 40, name, p->n_keeps, 0);
    while (n > 2 && (n + 1) / 2 * (high + MARGIN) + 2 * MARGIN + legend > 8192) n--;
    double height = (n + columns - 1) / columns * (high + MARGIN) + 2 * MARGIN + legend;
    if (!n) return KV_OK;
    tm_canvas c;
    if (tm_canvas_init(&c, (int)width, (int)height, err)) return err->code;
    int code = draw_bits_kl(&c, p, list, n, columns, wide, high, err);
    sweep_path(path, sizeof path, p->out, "bits-kl.png");
    if (!code) code = tm_canvas_write(&c, path, err);
    tm_canvas_free(&c);
    return code;
}

/* ----------------------------------------------------------------- layers */

static const struct {
    const char *name;
    size_t offset;
} thing[3] = {{"keys", offsetof(tm_layer_error, keys)},
              {"values", offsetof(tm_layer_error, values)},
              {"attention output", offsetof(tm_layer_error, attention)}};
static const char *const kind_name[TM_TOKEN_KINDS] = {"sinks", "all other tokens"};

static const sweep_result *with_layers(const pictures *p, int text, int format, int keep)
{
    for (int i = 0; i < p->n; i++) {
        const sweep_cell *c = &p->row[i].cell;
        if (c->layers && p->row[i].result && c->text == text && c->format == format &&
            c->keep == keep) return p->row[i].result;
    }
    return NULL;
}

/* One panel: an error over layers, a line for each result. y: [n][layers]. */
static void layer_panel(tm_canvas *c, tm_box box, const sweep_result *const *result, int n,
                        int which, int kind, double *y)
{
    tm_series series[TM_SERIES_COLORS];
    char title[100];
    int layers = result[0]->e.layers;
    for (int i = 0; i < n; i++) {
        for (int l = 0; l < layers; l++) {
            const char *at = (const char *)&result[i]->e.layer[l] + thing[which].offset;
            y[i * layers + l] = ((const double *)at)[kind];
        }
        series[i] = (tm_series){NULL, y + i * layers, tm_series_color[i], 1};
    }
    snprintf(title, sizeof title, "%s, %s", thing[which].name, kind_name[kind]);
    tm_lines plot = {.title = title, .x_label = which == 2 ? "layer" : NULL,
                     .y_label = kind == 0 ? "relative error" : NULL, .n = layers, .series = series,
                     .n_series = n};
    tm_plot_lines(c, box, &plot);
}

static int draw_layers(const pictures *p, int text, int format, const char *file, kv_error *err)
{
    const sweep_result *result[TM_SERIES_COLORS];
    const char *name[TM_SERIES_COLORS];
    char path[PATH], title[300], note[120] = "norm of the error / norm of the 16-bit array, each"
                                                " layer by itself";
    int n = 0, left_out = 0;
    for (int k = 0; k < p->n_keeps; k++) {
        const sweep_result *r = with_layers(p, text, format, p->keep[k]);
        if (r && n == TM_SERIES_COLORS) left_out++;
        else if (r) {
            name[n] = p->s->keep_text[p->keep[k]];
            result[n++] = r;
        }
    }
    double wide = 700, high = 340, width = 2 * wide + 3 * MARGIN;
    double top = 4 * MARGIN + tm_plot_legend(NULL, 0, 0, width - 2 * MARGIN, name, n, 1);
    double *y = calloc((size_t)n * (size_t)result[0]->e.layers, sizeof *y);
    tm_canvas c;
    if (!y) return kv_fail(err, KV_FAIL_RUN, "not enough memory to draw");
    int code = tm_canvas_init(&c, (int)width, (int)(top + 3 * (high + MARGIN) + MARGIN), err);
    if (!code) {
        snprintf(title, sizeof title, "%.80s, %.80s: what each layer loses",
                 p->s->text[text].name, p->s->format[format].name);
        if (left_out)
            snprintf(note + strlen(note), 40, "; %d more rules left out", left_out);
        tm_text(&c, MARGIN, 1.6 * MARGIN, 18, -1, tm_ink, title);
        tm_text(&c, MARGIN, 2.7 * MARGIN, 14, -1, tm_ink, note);
        tm_plot_legend(&c, MARGIN, 3 * MARGIN, width - 2 * MARGIN, name, n, 1);
        for (int i = 0; i < 6; i++)
            layer_panel(&c, (tm_box){MARGIN + i % 2 * (wide + MARGIN),
                                     top + i / 2 * (high + MARGIN), wide, high},
                        result, n, i / 2, i % 2, y);
        code = tm_canvas_write(&c, sweep_path(path, sizeof path, p->out, file), err);
        tm_canvas_free(&c);
    }
    free(y);
    return code;
}

static int has_layers(const pictures *p, int text, int format)
{
    for (int k = 0; k < p->n_keeps; k++)
        if (with_layers(p, text, format, p->keep[k])) return 1;
    return 0;
}

static int layers(const pictures *p, kv_error *err)
{
    int pairs = 0, code = KV_OK;
    for (int t = 0; t < p->s->n_texts; t++)
        for (int f = 0; f < p->s->n_formats; f++) pairs += has_layers(p, t, f);
    for (int t = 0; t < p->s->n_texts && !code; t++)
        for (int f = 0; f < p->s->n_formats && !code; f++) {
            char name[300];
            if (!has_layers(p, t, f)) continue;
            snprintf(name, sizeof name, "layers-%.100s-%.100s.png", p->s->text[t].name,
                     p->s->format[f].name);
            code = draw_layers(p, t, f, pairs == 1 ? "layers.png" : name, err);
        }
    return code;
}

/* ------------------------------------------------------------------- kept */

enum { TEXT = 12, LINE = 22, WIDE = 1400, SHOWN = 256 };

/* A token as pictures can show it. */
static void printable(char *to, size_t size, const char *piece)
{
    size_t n = 0;
    for (; *piece && n + 3 < size; piece++) {
        unsigned char c = (unsigned char)*piece;
        if (c == '\n') n += (size_t)snprintf(to + n, 3, "\\n");
        else if (c < 0x20) to[n++] = ' ';
        else if (c < 0x80) to[n++] = *piece;
        else if (c >= 0xC0) to[n++] = '?'; /* one for each character */
    }
    to[n] = 0;
}

/* The colour behind a token that is kept in this share of the layers. */
static tm_color shade(double share)
{
    const tm_color full = tm_series_color[1];
    double a = share > 0 ? 0.25 + 0.75 * share : 0;
    return (tm_color){(unsigned char)(255 + a * (full.r - 255)),
                      (unsigned char)(255 + a * (full.g - 255)),
                      (unsigned char)(255 + a * (full.b - 255))};
}

/* Writes the text of one rule from y on; returns where it ends. c NULL: only measures. */
static double kept_text(tm_canvas *c, double y, const cJSON *pieces, const sweep_result *r,
                        int layers)
{
    double x = MARGIN;
    int t = 0;
    const cJSON *piece;
    cJSON_ArrayForEach(piece, pieces) {
        char text[100];
        if (t == SHOWN || (r && t >= r->marks)) break;
        printable(text, sizeof text, cJSON_IsString(piece) ? piece->valuestring : "?");
        double w = (double)strlen(text) * TEXT;
        if (x > MARGIN && x + w > WIDE - MARGIN) {
            x = MARGIN;
            y += LINE;
        }
        if (c && r->e.mark[t])
            tm_fill(c, (tm_box){x - 1, y - TEXT - 4, w, TEXT + 8},
                    shade((double)r->e.mark[t] / layers));
        if (c) tm_text(c, x, y, TEXT, -1, tm_ink, text);
        x += w;
        t++;
    }
    return y + LINE;
}

static double kept_scale(tm_canvas *c, double y, int layers)
{
    char text[100];
    snprintf(text, sizeof text, "kept in 1 of %d layers", layers);
    tm_text(c, MARGIN, y, TEXT, -1, tm_ink, text);
    double x = MARGIN + tm_text_width(TEXT, text) + 14;
    for (int i = 0; i < 100; i++)
        tm_fill(c, (tm_box){x + 2 * i, y - TEXT - 2, 2, TEXT + 4},
                shade((1 + i / 99.0 * (layers - 1)) / layers));
    tm_text(c, x + 214, y, TEXT, -1, tm_ink, "in all of them");
    return y + 2 * LINE;
}

/* The picture of a text from the results of its rules. */
static int draw_kept(const pictures *p, const sweep_result *const *result, const int *keep, int n,
                     const cJSON *pieces, const char *text, int layers, const char *file,
                     kv_error *err)
{
    char path[PATH], title[300];
    double block = kept_text(NULL, 0, pieces, result[0], layers) + 2.4 * LINE;
    double height = 3 * MARGIN + 3 * LINE + n * block;
    tm_canvas c;
    while (n > 1 && height > 8192) height = 3 * MARGIN + 3 * LINE + --n * block;
    if (tm_canvas_init(&c, WIDE, (int)height, err)) return err->code;
    snprintf(title, sizeof title, "%.100s: the first window and the tokens that each rule keeps",
             text);
    tm_text(&c, MARGIN, 1.7 * MARGIN, 18, -1, tm_ink, title);
    double y = kept_scale(&c, 1.7 * MARGIN + 2 * LINE, layers) + LINE / 2.0;
    for (int i = 0; i < n; i++) {
        tm_text(&c, MARGIN, y, 14, -1, tm_series_color[0], p->s->keep_text[keep[i]]);
        tm_line(&c, MARGIN, y + 9, WIDE - MARGIN, y + 9, 1, tm_faint);
        y = kept_text(&c, y + 1.5 * LINE, pieces, result[i], layers) + 0.9 * LINE;
    }
    int code = tm_canvas_write(&c, sweep_path(path, sizeof path, p->out, file), err);
    tm_canvas_free(&c);
    return code;
}

static int kept_of_text(const pictures *p, int text, const cJSON *all, const char *file,
                        kv_error *err)
{
    const sweep_result *result[SWEEP_KEEPS];
    int keep[SWEEP_KEEPS], n = 0;
    const char *name = p->s->text[text].name;
    const cJSON *pieces = cJSON_GetObjectItemCaseSensitive(all, name);
    for (int k = 0; k < p->n_keeps && cJSON_IsArray(pieces); k++) {
        const sweep_row *row = find(p, text, -1, p->keep[k]);
        if (!row || !row->result->marks) continue;
        int kept = 0;
        for (int t = 0; t < row->result->marks; t++) kept += row->result->e.mark[t];
        if (!kept) continue; /* nothing to see */
        keep[n] = p->keep[k];
        result[n++] = row->result;
    }
    if (!n) return KV_OK;
    return draw_kept(p, result, keep, n, pieces, name, result[0]->depth, file, err);
}

static int kept(const pictures *p, kv_error *err)
{
    char path[PATH], *json = NULL;
    size_t n;
    int texts = 0, code = KV_OK;
    kv_error ignored;
    if (tm_read_file(&json, &n, sweep_path(path, sizeof path, p->out, "texts.json"), &ignored))
        return KV_OK; /* tables can do without it */
    cJSON *all = cJSON_Parse(json);
    free(json);
    for (int t = 0; t < p->s->n_texts; t++) texts += find(p, t, -1, -1) != NULL;
    for (int t = 0; t < p->s->n_texts && !code; t++) {
        char name[200];
        snprintf(name, sizeof name, "kept-%.100s.png", p->s->text[t].name);
        code = kept_of_text(p, t, all, texts == 1 ? "kept.png" : name, err);
    }
    cJSON_Delete(all);
    return code;
}

/* -------------------------------------------------------------------- all */

int sweep_write_pictures(const sweep_spec *s, const sweep_row *row, int n, const char *out,
                         kv_error *err)
{
    pictures p = {.s = s, .row = row, .n = n, .out = out};
    for (int k = 0; k < s->n_keeps; k++)
        if (find(&p, -1, -1, k)) p.keep[p.n_keeps++] = k;
    int code = bits_kl(&p, err);
    if (!code) code = layers(&p, err);
    return code ? code : kept(&p, err);
}
