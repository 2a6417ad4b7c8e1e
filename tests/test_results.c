/* Tables of results, as pictures read them. */
#define _XOPEN_SOURCE 700 /* mkstemp */

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <criterion/criterion.h>
#include <criterion/new/assert.h>

#include "results.h"

static int read_text(tm_results *r, const char *text, kv_error *err)
{
    char path[] = "/tmp/test_results_XXXXXX";
    int fd = mkstemp(path);
    cr_assert(fd >= 0);
    cr_assert(eq(long, (long)write(fd, text, strlen(text)), (long)strlen(text)));
    close(fd);
    int code = tm_results_read(r, path, err);
    unlink(path);
    return code;
}

Test(test_results, finds_cells_by_name_and_title)
{
    kv_error err;
    tm_results r;
    cr_assert(eq(int, read_text(&r, "# command: x\n\nrow\tkl\tbits\na/b\t1.5\t-\nc\t2\n", &err), 0));
    cr_expect(eq(int, r.rows, 2));
    cr_expect(eq(int, r.cols, 3));
    cr_expect(eq(dbl, tm_results_number(&r, tm_results_row(&r, "a/b"), "kl"), 1.5));
    cr_expect(eq(str, (char *)tm_results_text(&r, 0, "bits"), "-"));
    cr_expect(isnan(tm_results_number(&r, 0, "bits")));
    cr_expect(eq(str, (char *)tm_results_text(&r, tm_results_row(&r, "c"), "bits"), ""));
    cr_expect(isnan(tm_results_number(&r, tm_results_row(&r, "none"), "kl")));
    cr_expect(eq(int, tm_results_col(&r, "none"), -1));
    tm_results_free(&r);
}

Test(test_results, refuses_what_is_no_table)
{
    kv_error err;
    tm_results r;
    cr_expect(eq(int, read_text(&r, "# nothing\n", &err), KV_FAIL_RUN));
    cr_expect(strstr(err.text, "no line of titles") != NULL);
    cr_expect(eq(int, read_text(&r, "row\tkl\na\t1\t2\n", &err), KV_FAIL_RUN));
    cr_expect(strstr(err.text, "row 'a' has 3 cells, expected at most 2") != NULL);
    cr_expect(ne(int, tm_results_read(&r, "/no/such/table.tsv", &err), KV_OK));
}

Test(test_results, cuts_names_at_slashes)
{
    char part[8];
    cr_expect(eq(str, tm_results_part(part, sizeof part, "plain/k2v2/none", 0), "plain"));
    cr_expect(eq(str, tm_results_part(part, sizeof part, "plain/k2v2/none", 2), "none"));
    cr_expect(eq(str, tm_results_part(part, sizeof part, "plain/k2v2/none", 3), ""));
    cr_expect(eq(str, tm_results_part(part, sizeof part, "plain/k2v2/kvsink:best", 2), "kvsink:"));
}
