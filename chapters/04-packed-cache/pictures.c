/* Chapter 4's pictures: where the bits of a packed group lie, where those of a cache go, what a
 * cache weighs as it grows, which lane of a warp holds which code of a tile, and what the lanes of
 * a warp touch when they read rows. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "plot.h"
#include "results.h"

static const tm_color outline = {70, 70, 70}, pale = {226, 232, 240}, paler = {246, 248, 250};

static void frame(tm_canvas *c, double x, double y, double w, double h, tm_color color)
{
    tm_line(c, x, y, x + w, y, 1, color);
    tm_line(c, x, y + h, x + w, y + h, 1, color);
    tm_line(c, x, y, x, y + h, 1, color);
    tm_line(c, x + w, y, x + w, y + h, 1, color);
}

/* ---- a packed group ---------------------------------------------------------------------------- */

enum { BIT = 23, LEFT = 84, WORD_H = 26 };

/* Which code a bit belongs to decides its colour: two in turn, the hole, and codes in two words. */
static tm_color bit_color(int at, int bits, int n, int hole)
{
    int j = at / bits;
    if (j >= n) return tm_paper;
    if (j == hole) return tm_sink;
    if (j * bits / 32 != (j * bits + bits - 1) / 32) return tm_series_color[1];
    return j % 2 ? pale : paler;
}

/* The words that kv_pack makes of n codes, one below the other, bit 0 at the left. */
static double draw_words(tm_canvas *c, double y, const uint8_t *codes, int n, int bits, int hole)
{
    uint32_t words[8];
    char text[16];
    kv_pack(words, codes, n, 1, bits);
    for (int w = 0; w < kv_packed_words(n, bits); w++, y += WORD_H + 24) {
        snprintf(text, sizeof text, "word %d", w);
        tm_text(c, LEFT - 12, y + 18, 9, 1, tm_ink, text);
        for (int b = 0; b < 32; b++) {
            int at = 32 * w + b, j = at / bits;
            tm_box box = {LEFT + b * BIT, y, BIT, WORD_H};
            tm_fill(c, box, bit_color(at, bits, n, hole));
            snprintf(text, sizeof text, "%d", (int)(words[w] >> b & 1));
            tm_text(c, box.x + BIT / 2.0, y + 18, 9, 0, tm_ink, text);
            if (at % bits == 0 || b == 0) {
                tm_line(c, box.x, y - 3, box.x, y + WORD_H, 1.5, outline);
                snprintf(text, sizeof text, "%d", j);
                int here = bits - at % bits < 32 - b ? bits - at % bits : 32 - b;
                if (j < n) tm_text(c, box.x + here * BIT / 2.0, y + WORD_H + 12, 7, 0, tm_ink, text);
            }
        }
        frame(c, LEFT, y, 32 * BIT, WORD_H, outline);
    }
    return y;
}

/* One run of keys, its parts in proportion: codes of all groups, scales, minima. */
static void draw_run(tm_canvas *c, double y, const char *title, const char *const *part,
                     const double *bytes, int n)
{
    double all = 0, x = LEFT, width = 32 * BIT;
    for (int i = 0; i < n; i++) all += bytes[i];
    tm_text(c, LEFT, y - 8, 9, -1, tm_ink, title);
    for (int i = 0; i < n; i++) {
        double w = width * bytes[i] / all;
        tm_fill(c, (tm_box){x, y, w, 30}, i ? tm_series_color[i % TM_SERIES_COLORS] : pale);
        frame(c, x, y, w, 30, outline);
        tm_text(c, i ? LEFT + width - (n - 1 - i) * 170 : x + w / 2, i ? y + 46 : y + 20, 9, i ? 1 : 0,
                i ? tm_series_color[i % TM_SERIES_COLORS] : tm_ink, part[i]);
        x += w;
    }
}

static int block(const char *to, kv_error *err)
{
    tm_canvas c;
    uint8_t codes[32];
    if (tm_canvas_init(&c, LEFT + 32 * BIT + 30, 480, err)) return err->code;
    for (int j = 0; j < 32; j++) codes[j] = (uint8_t)((j * 5 + 2) % 7 % 4);
    codes[5] = 0;
    tm_text(&c, LEFT, 24, 10, -1, tm_ink, "16 codes of 2 bits; number 5 is the hole of a kept token");
    double y = draw_words(&c, 40, codes, 16, 2, 5);
    for (int j = 0; j < 32; j++) codes[j] = (uint8_t)((j * 5 + 2) % 8);
    codes[5] = 0;
    tm_text(&c, LEFT, y + 24, 10, -1, tm_ink, "32 codes of 3 bits; numbers 10 and 21 lie in two words");
    y = draw_words(&c, y + 40, codes, 32, 3, 5);
    static const char *const keys[] = {"codes of 192 groups, 32 bytes each", "scales, 384 bytes",
                                       "minima, 384 bytes"};
    static const double key_bytes[] = {192 * 32, 384, 384};
    draw_run(&c, y + 40, "keys of 128 tokens, 2 bits per channel", keys, key_bytes, 3);
    static const char *const values[] = {"codes of 3 groups, 16 bytes each", "3 scales", "3 minima"};
    static const double value_bytes[] = {48, 6, 6};
    draw_run(&c, y + 130, "values of one token, 2 bits per token in groups of 64", values, value_bytes,
             3);
    int bad = tm_canvas_write(&c, to, err);
    tm_canvas_free(&c);
    return bad;
}

/* ---- where the bits go ------------------------------------------------------------------------- */

static int kinds(const char *from, const char *to, kv_error *err)
{
    static const char *const part[] = {"codes", "scales", "norms", "outliers", "kept", "recent"};
    static const tm_color sink = {200, 60, 40};
    tm_results r;
    tm_canvas c;
    if (tm_results_read(&r, from, err)) return err->code;
    int rows = 0;
    for (int i = 0; i < r.rows; i++) rows += tm_results_number(&r, i, "bits") < 8;
    if (tm_canvas_init(&c, 800, 70 + 30 * rows, err)) return err->code;
    double x0 = 110, scale = 600 / 6.1, y = 46, legend = x0;
    double widest = tm_results_number(&r, tm_results_row(&r, "f16"), "total") / 16;
    for (int k = 0; k < 6; k++) {
        tm_color color = k == 4 ? sink : k ? tm_series_color[k % TM_SERIES_COLORS] : pale;
        tm_fill(&c, (tm_box){legend, 14, 14, 14}, color);
        frame(&c, legend, 14, 14, 14, outline);
        tm_text(&c, legend + 20, 26, 9, -1, tm_ink, part[k]);
        legend += 34 + tm_text_width(9, part[k]);
    }
    for (int i = 0; i < r.rows; i++) {
        char text[32];
        double x = x0, all = tm_results_number(&r, i, "bits");
        if (!(all < 8)) continue;
        tm_text(&c, x0 - 10, y + 16, 9, 1, tm_ink, r.cell[i * r.cols]);
        for (int k = 0; k < 6; k++) {
            double w = tm_results_number(&r, i, part[k]) / widest * scale;
            tm_fill(&c, (tm_box){x, y, w, 22},
                    k == 4 ? sink : k ? tm_series_color[k % TM_SERIES_COLORS] : pale);
            x += w;
        }
        frame(&c, x0, y, x - x0, 22, outline);
        snprintf(text, sizeof text, "%.2f", all);
        tm_text(&c, x + 8, y + 16, 9, -1, tm_ink, text);
        y += 30;
    }
    int bad = tm_canvas_write(&c, to, err);
    tm_canvas_free(&c);
    tm_results_free(&r);
    return bad;
}

/* ---- bits against length ----------------------------------------------------------------------- */

static int lengths(const char *from, const char *to, kv_error *err)
{
    static const char *const col[] = {"whole", "keep5", "stream", "kivi-2"};
    static const char *const name[] = {"whole window, sealed", "the same, 5 tokens kept",
                                       "streamed, groups of 128", "KIVI: groups of 32, R = 128"};
    tm_results r;
    tm_canvas c;
    if (tm_results_read(&r, from, err)) return err->code;
    if (tm_canvas_init(&c, 860, 460, err)) return err->code;
    tm_series s[4];
    double *y = malloc(4 * (size_t)r.rows * sizeof *y);
    if (!y) return kv_fail(err, KV_FAIL_RUN, "no memory for a picture");
    for (int i = 0; i < 4; i++) {
        for (int t = 0; t < r.rows; t++) {
            double bits = tm_results_number(&r, t, col[i]);
            y[i * r.rows + t] = bits <= 16 ? bits : NAN;
        }
        s[i] = (tm_series){name[i], y + i * r.rows, tm_series_color[i], 0};
    }
    tm_lines p = {.title = "bits a number, everything counted", .x_label = "tokens in the cache",
                  .y_label = "bits", .first = 1, .n = r.rows, .series = s, .n_series = 4};
    tm_plot_lines(&c, (tm_box){16, 16, 830, 430}, &p);
    int bad = tm_canvas_write(&c, to, err);
    tm_canvas_free(&c);
    tm_results_free(&r);
    free(y);
    return bad;
}

/* ---- lanes ------------------------------------------------------------------------------------- */

enum { CELL = 24, ROW_H = 19 };

/* A line of the text is: token, then for each channel lane.word. */
static void draw_lanes(tm_canvas *c, double x0, double y0, FILE *f, const char *title)
{
    char line[512];
    tm_text(c, x0, y0 - 26, 10, -1, tm_ink, title);
    while (fgets(line, sizeof line, f) && !strstr(line, "channel")) {}
    if (!fgets(line, sizeof line, f)) return;
    for (int t = 0; t < 16 && fgets(line, sizeof line, f); t++) {
        char *at = line, text[8];
        long token = strtol(at, &at, 10);
        snprintf(text, sizeof text, "%ld", token);
        tm_text(c, x0 - 8, y0 + t * ROW_H + 14, 8, 1, tm_ink, text);
        for (int ch = 0; ch < 32; ch++) {
            long lane = strtol(at, &at, 10), word = strtol(at + 1, &at, 10);
            tm_box box = {x0 + ch * CELL, y0 + t * ROW_H, CELL, ROW_H};
            tm_color color = lane == 0 ? tm_sink : lane == 5 ? tm_series_color[0] : word % 2 ? pale : paler;
            tm_fill(c, box, color);
            frame(c, box.x, box.y, box.w, box.h, tm_faint);
            snprintf(text, sizeof text, "%ld", lane);
            tm_text(c, box.x + CELL / 2.0, box.y + 14, 8, 0, lane == 0 || lane == 5 ? tm_paper : tm_ink,
                    text);
            snprintf(text, sizeof text, "%d", ch);
            if (t == 0) tm_text(c, box.x + CELL / 2.0, y0 - 6, 7, 0, tm_ink, text);
        }
    }
}

static int lanes(const char *from, const char *to, kv_error *err)
{
    tm_canvas c;
    FILE *f = fopen(from, "r");
    if (!f) return kv_fail(err, KV_FAIL_RUN, "%s cannot be read", from);
    int bad = tm_canvas_init(&c, 60 + 32 * CELL + 20, 2 * (16 * ROW_H + 70) + 10, err);
    if (!bad) {
        draw_lanes(&c, 60, 50, f, "keys: tokens down, channels right; in each cell its lane");
        draw_lanes(&c, 60, 16 * ROW_H + 120, f, "values: the same");
        bad = tm_canvas_write(&c, to, err);
        tm_canvas_free(&c);
    }
    fclose(f);
    return bad;
}

/* ---- requests ---------------------------------------------------------------------------------- */

enum { SECTOR = 32, ROW_BYTES = 384, TOKENS = 32, SIDE = 19, TALL = 11 };

/* Sectors a request of one array, as the simulator counted them; NaN if they are not there. */
static double counted(const char *path, const char *array)
{
    char line[256], name[32];
    double loads, stores, atomics, bytes, sectors, request = NAN;
    FILE *f = fopen(path, "r");
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, " %31s %lf %lf %lf %lf %lf %lf", name, &loads, &stores, &atomics, &bytes,
                   &sectors, &request) == 7 && !strcmp(name, array))
            break;
        else
            request = NAN;
    if (f) fclose(f);
    return request;
}

/* One request: lane i reads `width` bytes, `far` from those of lane i - 1 except that every `turn`
 * lanes it goes on in the next row. Draws memory, a row of it for each token. */
static int request(tm_canvas *c, double x, double y, const char *title, int width, int far, int turn,
                   double expected, kv_error *err)
{
    int used[TOKENS][ROW_BYTES / SECTOR] = {{0}}, touched = 0;
    char text[64];
    for (int lane = 0; lane < 32; lane++) {
        int at = lane / turn * ROW_BYTES + lane % turn * far;
        used[at / ROW_BYTES][at % ROW_BYTES / SECTOR] += width;
    }
    for (int t = 0; t < TOKENS; t++)
        for (int s = 0; s < ROW_BYTES / SECTOR; s++) {
            tm_box box = {x + s * SIDE, y + t * TALL, SIDE, TALL};
            touched += used[t][s] > 0;
            tm_fill(c, box, used[t][s] ? pale : tm_paper);
            box.w = SIDE * used[t][s] / (double)SECTOR;
            tm_fill(c, box, used[t][s] == SECTOR ? tm_series_color[0] : tm_sink);
            frame(c, x + s * SIDE, y + t * TALL, SIDE, TALL, tm_faint);
        }
    if (touched != expected)
        return kv_fail(err, KV_FAIL_RUN, "%s: %d sectors were drawn, and the simulator counted %g", title,
                       touched, expected);
    tm_text(c, x, y - 30, 10, -1, tm_ink, title);
    snprintf(text, sizeof text, "%d sectors, %d of %d bytes used", touched, 32 * width, touched * SECTOR);
    tm_text(c, x, y - 10, 8, -1, tm_ink, text);
    return KV_OK;
}

static int requests(const char *from, const char *to, kv_error *err)
{
    char k01[300], k03[300];
    double step = 12 * SIDE + 52;
    tm_canvas c;
    snprintf(k01, sizeof k01, "%s/k01.txt", from);
    snprintf(k03, sizeof k03, "%s/k03.txt", from);
    if (tm_canvas_init(&c, (int)(3 * step) + 20, TOKENS * TALL + 80, err)) return err->code;
    int bad = request(&c, 20, 60, "k01, keys", 2, 2, 32, counted(k01, "array2"), err);
    if (!bad) bad = request(&c, 20 + step, 60, "k01, values", 2, 0, 1, counted(k01, "array3"), err);
    if (!bad) bad = request(&c, 20 + 2 * step, 60, "k03, both", 16, 16, 8, counted(k03, "array2"), err);
    if (!bad) bad = tm_canvas_write(&c, to, err);
    tm_canvas_free(&c);
    return bad;
}

int main(int argc, char **argv)
{
    char from[256], to[256];
    kv_error e = {0};
    if (argc != 3) return 2;
    snprintf(to, sizeof to, "%s/block.png", argv[2]);
    int bad = block(to, &e);
    snprintf(from, sizeof from, "%s/kinds.tsv", argv[1]);
    snprintf(to, sizeof to, "%s/kinds.png", argv[2]);
    if (!bad) bad = kinds(from, to, &e);
    snprintf(from, sizeof from, "%s/lengths.tsv", argv[1]);
    snprintf(to, sizeof to, "%s/lengths.png", argv[2]);
    if (!bad) bad = lengths(from, to, &e);
    snprintf(from, sizeof from, "%s/tile.txt", argv[1]);
    snprintf(to, sizeof to, "%s/lanes.png", argv[2]);
    if (!bad) bad = lanes(from, to, &e);
    snprintf(to, sizeof to, "%s/requests.png", argv[2]);
    if (!bad) bad = requests(argv[1], to, &e);
    if (bad) fprintf(stderr, "pictures of chapter 4: %s\n", e.text);
    return bad;
}
