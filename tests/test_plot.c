/* Pictures: what is decoded from the PNG is what was drawn. */
#define _XOPEN_SOURCE 700 /* mkstemp */

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stb/stb_image.h>

#include "font.h"
#include "plot.h"

static tm_color at(const tm_canvas *c, int x, int y)
{
    const unsigned char *p = c->rgb + ((size_t)y * (size_t)c->width + (size_t)x) * 3;
    return (tm_color){p[0], p[1], p[2]};
}

static int same(tm_color a, tm_color b)
{
    return a.r == b.r && a.g == b.g && a.b == b.b;
}

/* Pixels of one colour inside a box. */
static int count(const tm_canvas *c, tm_box b, tm_color color)
{
    int n = 0;
    for (int y = (int)b.y; y < (int)(b.y + b.h); y++)
        for (int x = (int)b.x; x < (int)(b.x + b.w); x++) n += same(at(c, x, y), color);
    return n;
}

static tm_canvas canvas(int width, int height)
{
    tm_canvas c;
    kv_error err;
    cr_assert(eq(int, tm_canvas_init(&c, width, height, &err), 0));
    return c;
}

Test(test_plot, the_png_holds_the_canvas)
{
    char path[] = "/tmp/test_plot_XXXXXX";
    int fd = mkstemp(path), w, h, n;
    cr_assert(fd >= 0);
    close(fd);
    kv_error err;
    tm_canvas c = canvas(61, 37);
    tm_fill(&c, (tm_box){10, 5, 20, 10}, tm_sink);
    tm_line(&c, 0, 30, 60, 33, 2, tm_ink);
    cr_assert(eq(int, tm_canvas_write(&c, path, &err), 0));
    unsigned char *back = stbi_load(path, &w, &h, &n, 3);
    unlink(path);
    cr_assert(back != NULL);
    cr_expect(eq(int, w, 61));
    cr_expect(eq(int, h, 37));
    cr_expect(memcmp(back, c.rgb, (size_t)w * (size_t)h * 3) == 0);
    stbi_image_free(back);
    tm_canvas_free(&c);
    cr_expect(c.rgb == NULL);
}

Test(test_plot, unwritable_and_impossible)
{
    kv_error err;
    tm_canvas c = canvas(4, 4), none;
    cr_expect(eq(int, tm_canvas_write(&c, "/nonexistent/x.png", &err), KV_FAIL_RUN));
    cr_expect(eq(int, tm_canvas_write(&c, "/dev/full", &err), KV_FAIL_RUN));
    cr_expect(eq(int, tm_canvas_init(&none, 0, 5, &err), KV_FAIL_USAGE));
    cr_expect(eq(int, tm_canvas_init(&none, 5, 100000, &err), KV_FAIL_USAGE));
    tm_canvas_free(&c);
}

Test(test_plot, shapes_cover_the_pixels_they_should)
{
    tm_canvas c = canvas(40, 40);
    tm_fill(&c, (tm_box){10, 10, 5, 6}, tm_sink);
    cr_expect(eq(int, count(&c, (tm_box){0, 0, 40, 40}, tm_sink), 30));
    cr_expect(same(at(&c, 10, 10), tm_sink) && same(at(&c, 14, 15), tm_sink));
    cr_expect(same(at(&c, 15, 10), tm_paper) && same(at(&c, 10, 16), tm_paper));
    tm_fill(&c, (tm_box){20.5, 10, 1, 1}, (tm_color){0, 0, 0});
    cr_expect(at(&c, 20, 10).r == 128 && at(&c, 21, 10).r == 128, "half covered pixels");
    tm_disc(&c, 30, 30, 4, tm_ink);
    int dark = count(&c, (tm_box){24, 24, 12, 12}, tm_ink);
    cr_expect(dark >= 32 && dark <= 60, "a disc of radius 4 has %d full pixels", dark);
    tm_canvas_free(&c);
}

Test(test_plot, what_lies_outside_is_cut_off)
{
    tm_canvas c = canvas(20, 20);
    tm_fill(&c, (tm_box){-100, -100, 300, 300}, tm_faint);
    cr_expect(eq(int, count(&c, (tm_box){0, 0, 20, 20}, tm_faint), 400));
    tm_line(&c, -1e12, 5, 1e12, 5, 2, tm_ink);
    cr_expect(same(at(&c, 10, 5), tm_ink));
    tm_line(&c, NAN, 5, 3, 5, 2, tm_sink);
    cr_expect(same(at(&c, 10, 5), tm_ink));
    tm_text(&c, -50, 15, 14, -1, tm_sink, "far too long for it");
    tm_text_up(&c, 15, 500, 14, -1, tm_sink, "far too long for it");
    tm_canvas_free(&c);
}

Test(test_plot, every_character_has_a_shape_of_its_own)
{
    for (int a = ' '; a <= '~'; a++) {
        int rows = 1, width = 0;
        for (const char *g = tm_glyph((char)a);; g++) {
            if (*g == '/' || *g == 0) {
                cr_expect(width == 5, "character %d has a row of %d", a, width);
                width = -1;
                rows += *g == '/';
            }
            if (*g == 0) break;
            cr_expect(strchr("#./", *g) != NULL);
            width++;
        }
        cr_expect(rows <= 9, "character %d has %d rows", a, rows);
        for (int b = ' '; b < a; b++)
            cr_expect(strcmp(tm_glyph((char)a), tm_glyph((char)b)) != 0, "%c and %c", a, b);
    }
    cr_expect(tm_glyph('\n') == tm_glyph((char)0xE9));
    cr_expect(epsilon_eq(dbl, tm_text_width(12, "ab"), 20, 1e-9));
    cr_expect(epsilon_eq(dbl, tm_text_width(12, ""), 0, 1e-9));
}

Test(test_plot, text_stands_on_its_line_and_ends_at_its_anchor)
{
    tm_canvas c = canvas(100, 40);
    tm_text(&c, 90, 30, 12, 1, tm_ink, "HI");
    cr_expect(count(&c, (tm_box){70, 17, 21, 14}, tm_paper) < 21 * 14);
    cr_expect(eq(int, count(&c, (tm_box){0, 0, 65, 40}, tm_paper), 65 * 40));
    cr_expect(eq(int, count(&c, (tm_box){0, 33, 100, 7}, tm_paper), 700));
    tm_canvas_free(&c);
}

Test(test_plot, a_heat_map_shows_its_brightest_column)
{
    enum { N = 50 };
    static float data[N * N];
    for (int i = 0; i < N; i++) data[i * N + 10] = 1;
    tm_canvas c = canvas(500, 500);
    int mark = 10;
    tm_heat h = {.data = data, .rows = N, .cols = N, .mark = &mark, .n_mark = 1, .no_scale = 1};
    tm_plot_heat(&c, (tm_box){0, 0, 500, 500}, &h);
    int bright = 0, dark = 0;
    for (int x = 100; x < 480; x++) {
        bright += at(&c, x, 200).r > 240;
        dark += at(&c, x, 200).r < 20;
    }
    cr_expect(bright >= 6 && bright <= 12, "%d bright pixels of a column", bright);
    cr_expect(dark > 300);
    cr_expect(count(&c, (tm_box){0, 440, 500, 60}, tm_sink) > 10, "no mark below");
    tm_canvas_free(&c);
}

/* A thin column in a matrix larger than the picture must not fall between two pixels. */
Test(test_plot, a_large_heat_map_loses_no_column)
{
    enum { N = 1999 };
    float *data = calloc(N * N, sizeof *data);
    tm_canvas c = canvas(300, 300);
    for (int k = 100; k < N; k += 311) {
        memset(data, 0, N * N * sizeof *data);
        for (int i = 0; i < N; i++) data[(size_t)i * N + (size_t)k] = 1;
        tm_heat h = {.data = data, .rows = N, .cols = N};
        tm_plot_heat(&c, (tm_box){0, 0, 300, 300}, &h);
        int bright = 0;
        for (int x = 0; x < 200; x++) bright += at(&c, x, 100).r > 240 && at(&c, x, 100).b < 230;
        cr_expect(bright >= 1, "column %d", k);
    }
    free(data);
    tm_canvas_free(&c);
}

Test(test_plot, lines_and_bars_stand_any_numbers)
{
    double flat[4] = {0, 0, 0, 0}, wild[4] = {1e-30, INFINITY, NAN, 1e30}, one[1] = {5};
    int mark[] = {0, 3};
    const char *const label[] = {"a", "b"};
    tm_series s[] = {{"flat", flat, tm_ink, 1}, {"wild", wild, tm_sink, 0}};
    tm_series single = {"one", one, tm_ink, 0};
    tm_canvas c = canvas(300, 200);
    tm_box all = {0, 0, 300, 200};
    for (int log_y = 0; log_y < 2; log_y++) {
        tm_lines p = {"t", "x", "y", -1, 4, log_y, s, 2, mark, label, 2};
        tm_plot_lines(&c, all, &p);
        p.n_series = 0;
        tm_plot_lines(&c, all, &p);
        tm_lines alone = {NULL, NULL, NULL, 0, 1, log_y, &single, 1, NULL, NULL, 0};
        tm_plot_lines(&c, all, &alone);
    }
    tm_bars b = {"t", "x", "y", flat, 4, 0, NULL, mark, mark, 2, 2};
    tm_plot_bars(&c, all, &b);
    b.value = wild;
    b.level = 0.3;
    b.level_label = "0.3";
    tm_plot_bars(&c, all, &b);
    b.n = 0;
    tm_plot_bars(&c, (tm_box){0, 0, 3, 3}, &b);
    tm_canvas_free(&c);
}

/* Of two numbers that would touch, the one of the mark named first is shown. */
Test(test_plot, the_more_important_mark_keeps_its_number)
{
    static float data[100 * 100];
    int mark[3] = {50, 51, 90}, swapped[3] = {51, 50, 90}, alone[2] = {51, 90};
    const int *const order[3] = {mark, swapped, alone};
    tm_canvas c[3];
    tm_box numbers = {0, 275, 300, 25}; /* below the triangles */
    int red[3];
    for (int i = 0; i < 3; i++) {
        c[i] = canvas(300, 300);
        tm_heat h = {.data = data, .rows = 100, .cols = 100, .mark = order[i],
                     .n_mark = i == 2 ? 2 : 3, .no_scale = 1};
        tm_plot_heat(&c[i], (tm_box){0, 0, 300, 300}, &h);
        red[i] = count(&c[i], numbers, tm_sink);
    }
    size_t from = 275 * 300 * 3, size = 25 * 300 * 3;
    cr_expect(red[1] > 10);
    cr_expect(memcmp(c[1].rgb + from, c[2].rgb + from, size) == 0, "51 and 90, nothing of 50");
    cr_expect(memcmp(c[0].rgb + from, c[1].rgb + from, size) != 0);
    for (int i = 0; i < 3; i++) tm_canvas_free(&c[i]);
}

static double start(const tm_label *l)
{
    return l->left ? l->x - l->w : l->x;
}

static void check_labels(const tm_label *l, int n, double width, int rows)
{
    for (int i = 0; i < n; i++) {
        cr_expect(l[i].row >= 0 && l[i].row < rows && rows <= n);
        cr_expect(start(&l[i]) >= 0 && start(&l[i]) + l[i].w <= width, "%g outside", l[i].x);
        for (int j = 0; j < i; j++)
            cr_expect(l[i].row != l[j].row || start(&l[i]) >= start(&l[j]) + l[j].w ||
                      start(&l[j]) >= start(&l[i]) + l[i].w, "%g and %g", l[i].x, l[j].x);
    }
}

/* Is a label crossed by the line of another one, which runs down from its own row? */
static int crossed(const tm_label *l, int n)
{
    for (int i = 0; i < n; i++)
        for (int j = 0; j < n; j++)
            if (l[j].row > l[i].row && l[j].x > start(&l[i]) && l[j].x < start(&l[i]) + l[i].w)
                return 1;
    return 0;
}

Test(test_plot, labels_do_not_touch)
{
    tm_label l[TM_LABELS];
    unsigned random = 1;
    for (int round = 0; round < 2000; round++) {
        int n = 1 + round % TM_LABELS;
        double width = 600 + round % 7 * 100;
        for (int i = 0; i < n; i++) {
            random = random * 1664525u + 1013904223u;
            l[i] = (tm_label){(random >> 8) % 31 / 30.0 * width, 180 + (random >> 20) % 70, 0, 0};
        }
        check_labels(l, n, width, tm_place_labels(l, n, width));
    }
    /* A 30-layer model with stages at 2, 11 and 29 that fade at 9 and 28. */
    static const int layer[] = {2, 9, 11, 28, 29};
    for (int i = 0; i < 5; i++) l[i] = (tm_label){33.0 * (layer[i] + 1), 250, 0, 0};
    int rows = tm_place_labels(l, 5, 1020);
    check_labels(l, 5, 1020, rows);
    cr_expect(eq(int, crossed(l, 5), 0));
    cr_expect(eq(int, rows, 3));
    for (int i = 0; i < 5; i++) l[i] = (tm_label){200 + 10 * i, 250, 0, 0}; /* a staircase */
    rows = tm_place_labels(l, 5, 1020);
    cr_expect(eq(int, crossed(l, 5), 0));
    cr_expect(eq(int, rows, 5));
    l[0] = (tm_label){50, 300, 0, 0}; /* wider than the plot */
    cr_expect(eq(int, tm_place_labels(l, 1, 100), 1));
}

/* However many rows the legend takes, marks and data stay below it. */
Test(test_plot, the_legend_has_its_own_room)
{
    const char *name = "token 12345 'a long piece of text', channel 1234";
    double none[4] = {NAN, NAN, NAN, NAN};
    tm_series s[5];
    int mark[] = {0, 1, 3};
    const char *const label[] = {"emerges, layer 0", "fades, layer 1", "emerges, layer 3"};
    for (int n = 1; n <= 5; n++) {
        tm_canvas c = canvas(900, 700);
        for (int i = 0; i < n; i++) s[i] = (tm_series){name, none, tm_series_color[i], 1};
        tm_lines p = {"t", "x", "y", 0, 4, 1, s, n, mark, label, 3};
        tm_plot_lines(&c, (tm_box){0, 0, 900, 700}, &p);
        int last_key = -1, first_mark = -1; /* rows of pixels */
        for (int y = 0; y < 700; y++) {
            tm_box row = {0, y, 900, 1};
            for (int i = 0; i < n; i++)
                if (count(&c, row, tm_series_color[i])) last_key = y;
            if (first_mark < 0 && count(&c, row, tm_sink)) first_mark = y;
        }
        cr_expect(last_key > 0 && last_key + 8 < first_mark, "%d rows: legend to %d, marks from %d",
                  n, last_key, first_mark);
        tm_canvas_free(&c);
    }
}

Test(test_plot, a_marked_bar_is_red_and_as_high_as_its_value)
{
    double value[3] = {1, 4, 2};
    int mark = 1;
    tm_canvas c = canvas(300, 300);
    tm_bars b = {.value = value, .n = 3, .mark = &mark, .n_mark = 1};
    tm_plot_bars(&c, (tm_box){0, 0, 300, 300}, &b);
    int red = 0, blue = 0;
    for (int y = 0; y < 250; y++) {
        int reds = 0, blues = 0;
        for (int x = 70; x < 290; x++) {
            reds += same(at(&c, x, y), tm_sink);
            blues += same(at(&c, x, y), tm_series_color[0]);
        }
        red += reds > 20;
        blue += blues > 20;
    }
    cr_expect(epsilon_eq(dbl, blue / (double)red, 0.5, 0.05)); /* 2 beside 4 */
    tm_box below = {0, 262, 300, 38};
    cr_expect(eq(int, count(&c, below, tm_sink), 0), "a number that nobody asked for");
    b.number = &mark;
    b.n_number = 1;
    tm_plot_bars(&c, (tm_box){0, 0, 300, 300}, &b);
    cr_expect(count(&c, below, tm_sink) > 10);
    tm_canvas_free(&c);
}
