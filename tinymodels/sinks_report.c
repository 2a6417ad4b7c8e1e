/* The derivations and the picture that sinks_report.h promises. */
#include "sinks_report.h"

#include <stdlib.h>
#include <string.h>

#include "plot.h"

enum { MAPS = 6, TOP = 90, MAP_SIZE = 480, LIST = 14 /* size of the list's letters */ };

const double sinks_standard_eps[SINKS_EPS] = {0.05, 0.1, 0.2, 0.3};

static double *at_layer(const sinks_report *r, int layer)
{
    return r->layer_alpha + (size_t)layer * (size_t)r->T;
}

static int derive(sinks_report *r, kv_error *err)
{
    size_t T = (size_t)r->T, L = (size_t)r->a.layers;
    double *block = calloc(T * (L + SINKS_EPS + 2), sizeof *block);
    r->sink = calloc(T, sizeof *r->sink);
    r->mean = block;
    if (!block || !r->sink) return kv_fail(err, KV_FAIL_RUN, "not enough memory");
    r->layer_alpha = block + T * (SINKS_EPS + 2);
    for (int i = 0; i <= SINKS_EPS; i++) {
        r->share[i] = block + T * (size_t)(i + 1);
        tm_attention_share(r->share[i], &r->a, i < SINKS_EPS ? sinks_standard_eps[i] : r->eps);
    }
    for (int t = 0; t < r->T; t++) {
        for (int l = 0; l < r->a.layers; l++) {
            at_layer(r, l)[t] = tm_attention_alpha(&r->a, l, t);
            r->mean[t] += at_layer(r, l)[t] / r->a.layers;
        }
        if (r->T - t >= SINKS_SEEN && r->share[SINKS_EPS][t] > 0) r->sink[r->n_sinks++] = t;
    }
    r->n_top = tm_rank(r->top, r->mean, r->T, SINKS_SEEN, SINKS_TOP);
    return KV_OK;
}

double sinks_against_median(const float *x, int T, int t)
{
    float *copy = malloc((size_t)T * sizeof *copy);
    if (!copy) return 0;
    memcpy(copy, x, (size_t)T * sizeof *copy);
    double median = kv_median_abs(copy, (size_t)T);
    free(copy);
    return median > 0 ? x[t] / median : 0;
}

/* ---------------------------------------------------------------- picture */

/* At most MAPS layers, from the first to the last, evenly. */
static int choose_layers(int *layer, int layers)
{
    int n = layers < MAPS ? layers : MAPS;
    for (int i = 0; i < n; i++) layer[i] = n > 1 ? i * (layers - 1) / (n - 1) : 0;
    return n;
}

/* The largest sinks, with the share of heads in which they are sinks. */
static void draw_list(tm_canvas *c, tm_box box, const sinks_report *r, const int *sink, int n)
{
    double right = box.x + box.w, y = box.y + 66;
    char text[160], piece[32];
    snprintf(text, sizeof text, "Sinks at eps %g", r->eps);
    tm_text(c, box.x, box.y + 23, 18, -1, tm_ink, text);
    if (r->n_sinks) tm_text(c, right, y, LIST, 1, tm_ink, "% of heads");
    else tm_text(c, box.x, y, LIST, -1, tm_ink, "none");
    for (int i = 0; i < n; i++) {
        char share[16];
        y += 30;
        snprintf(share, sizeof share, "%.1f", r->share[SINKS_EPS][sink[i]]);
        int at = snprintf(text, sizeof text, "%d ", sink[i]);
        int room = (int)((box.w - tm_text_width(LIST, share)) / LIST) - at - 1; /* letters */
        if (room > (int)sizeof piece - 1) room = sizeof piece - 1;
        if (room > 5) /* two quotes and three dots */
            strcat(text, report_piece_plain(piece, (size_t)room + 1, r->s, r->ids[sink[i]]));
        tm_text(c, box.x, y, LIST, -1, tm_sink, text);
        tm_text(c, right, y, LIST, 1, tm_ink, share);
    }
    snprintf(text, sizeof text, "and %d more", r->n_sinks - n);
    if (r->n_sinks > n) tm_text(c, box.x, y + 30, LIST, -1, tm_ink, text);
}

static void draw_maps(tm_canvas *c, const sinks_report *r, const float *map, const int *layer,
                      int n, const int *sink, int n_sink)
{
    static const double x[4] = {30, 500, 939, 1378}; /* the first has a label */
    int cells = r->T * r->T;
    for (int i = 0; i < n; i++) {
        int last = i % 3 == 2 || i == n - 1; /* of its row: it gets the scale */
        char title[32];
        snprintf(title, sizeof title, "Layer %d", layer[i]);
        tm_heat h = {.title = title, .x_label = "key", .y_label = i % 3 ? NULL : "query",
                     .data = map + (size_t)i * (size_t)cells, .rows = r->T, .cols = r->T,
                     .top = 1, .mark = sink, .n_mark = n_sink, .no_scale = !last};
        tm_plot_heat(c, (tm_box){x[i % 3], TOP + i / 3 * MAP_SIZE,
                                 x[i % 3 + 1] - x[i % 3] + (last ? 112 : 0), MAP_SIZE - 20}, &h);
    }
}

static void draw(tm_canvas *c, const sinks_report *r, const float *map, const int *layer, int n)
{
    int sink[SINKS_TOP], n_sink = 0; /* the largest first */
    double y_bars = TOP + (n + 2) / 3 * MAP_SIZE;
    char text[160];
    for (int i = 0; i < r->n_top; i++)
        if (r->share[SINKS_EPS][r->top[i]] > 0) sink[n_sink++] = r->top[i];
    snprintf(text, sizeof text, "Where attention goes: %d tokens, mean over %d heads", r->T,
             r->a.heads);
    tm_text(c, 30, 50, 24, -1, tm_ink, text);
    draw_maps(c, r, map, layer, n, sink, n_sink);
    tm_bars b = {.title = "Attention each key receives, mean over all heads",
                 .x_label = "position of the key; sinks are red", .y_label = "alpha",
                 .value = r->mean, .n = r->T, .mark = r->sink, .n_mark = r->n_sinks,
                 .number = sink, .n_number = n_sink};
    tm_plot_bars(c, (tm_box){30, y_bars, 1010, 380}, &b);
    draw_list(c, (tm_box){1080, y_bars, 390, 380}, r, sink, n_sink);
}

int sinks_picture(const sinks_report *r, const char *path, kv_error *err)
{
    int layer[MAPS], n = choose_layers(layer, r->a.layers);
    tm_engine e = report_engine(r->s);
    tm_canvas c = {0};
    float *map = session_floats((size_t)n * (size_t)r->T * (size_t)r->T, "attention maps", err);
    int code = map ? tm_attention_maps(map, layer, n, &e, r->ids, r->T, err) : err->code;
    if (!code) code = tm_canvas_init(&c, 1500, TOP + (n + 2) / 3 * MAP_SIZE + 400, err);
    if (!code) {
        draw(&c, r, map, layer, n);
        code = tm_canvas_write(&c, path, err);
    }
    tm_canvas_free(&c);
    free(map);
    return code;
}

/* -------------------------------------------------------------- interface */

const double *sinks_layer_alpha(const sinks_report *r, int layer)
{
    return at_layer(r, layer);
}

int sinks_report_run(sinks_report *r, const session *s, const int *ids, int T, double eps,
                     kv_error *err)
{
    tm_engine e = report_engine(s);
    memset(r, 0, sizeof *r);
    r->s = s;
    r->ids = ids;
    r->T = T;
    r->eps = eps;
    int code = tm_attention_run(&r->a, &e, ids, T, eps, err);
    if (!code) code = derive(r, err);
    if (code) sinks_report_free(r);
    return code;
}

void sinks_report_free(sinks_report *r)
{
    tm_attention_free(&r->a);
    free(r->mean);
    free(r->sink);
    memset(r, 0, sizeof *r);
}
