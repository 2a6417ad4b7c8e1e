/* Chapter 7's picture: what each version of the decode kernel asks memory for, over the least.
 *
 *     build/pictures/07 RESULTS FOLDER */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "plot.h"
#include "results.h"

enum { WIDTH = 900, HEIGHT = 380, LEFT = 230, RIGHT = 110, TOP = 70, STEP = 52, BAR = 30, SIZE = 14 };

/* A bar on a logarithmic axis from 1 to 100, its name on the left and its value on the right. */
static void bar(tm_canvas *c, int row, const char *name, double value)
{
    char text[32];
    double y = TOP + row * STEP, width = (WIDTH - LEFT - RIGHT) * log10(fmax(value, 1)) / 2;
    tm_fill(c, (tm_box){LEFT, y, width + 3, BAR}, tm_series_color[0]);
    tm_text(c, LEFT - 12, y + BAR / 2.0 + SIZE / 2.0, SIZE, 1, tm_ink, name);
    snprintf(text, sizeof text, value < 10 ? "%.3f" : "%.1f", value);
    tm_text(c, LEFT + width + 12, y + BAR / 2.0 + SIZE / 2.0, SIZE, -1, tm_ink, text);
}

static int draw(const tm_results *r, const char *path, kv_error *err)
{
    static const char *const version[] = {"k01", "k02", "k03", "k04", "k05"};
    tm_canvas c;
    int rows = 0;
    for (int i = 0; i < r->rows; i++) rows += !strncmp(r->cell[(size_t)i * (size_t)r->cols], "2/128/4/", 8);
    if (tm_canvas_init(&c, WIDTH, TOP + rows * STEP + 40, err)) return err->code;
    tm_text(&c, 24, 36, 18, -1, tm_ink, "Bytes asked for, over the least");
    for (double x = 1; x <= 100; x *= 10) {
        char text[16];
        double at = LEFT + (WIDTH - LEFT - RIGHT) * log10(x) / 2;
        tm_line(&c, at, TOP - 8, at, TOP + rows * STEP, 1, tm_faint);
        snprintf(text, sizeof text, "%g", x);
        tm_text(&c, at, TOP + rows * STEP + 24, SIZE, 0, tm_ink, text);
    }
    for (int i = 0; i < rows && i < 5; i++) {
        char name[32];
        snprintf(name, sizeof name, "2/128/4/%s", version[i]);
        bar(&c, i, version[i], tm_results_number(r, tm_results_row(r, name), "over"));
    }
    int code = tm_canvas_write(&c, path, err);
    tm_canvas_free(&c);
    return code;
}

int main(int argc, char **argv)
{
    char path[4096];
    tm_results r;
    kv_error err = {0, ""};
    if (argc != 3) {
        fprintf(stderr, "usage: pictures/07 RESULTS FOLDER\n");
        return 2;
    }
    snprintf(path, sizeof path, "%s/counts.tsv", argv[1]);
    int code = tm_results_read(&r, path, &err);
    if (!code) {
        snprintf(path, sizeof path, "%s/asked.png", argv[2]);
        code = draw(&r, path, &err);
        tm_results_free(&r);
    }
    if (code) fprintf(stderr, "pictures/07: %s\n", err.text);
    return code;
}
