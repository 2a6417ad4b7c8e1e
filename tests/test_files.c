/* Output files that are complete or not there, input files, UTF-8. */
#define _XOPEN_SOURCE 700

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "files.h"

static char folder[64], path[96];

static void make_folder(void)
{
    strcpy(folder, "/tmp/test_files.XXXXXX");
    cr_assert_not_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/a", folder);
}

/* An empty folder at the end shows that nothing was left beside the output either. */
static void remove_folder(void)
{
    unlink(path);
    cr_expect(eq(int, rmdir(folder), 0), "something was left in %s", folder);
}

TestSuite(files, .init = make_folder, .fini = remove_folder);

static void write_text(const char *name, const char *text)
{
    tm_out out;
    kv_error err = {0};
    cr_assert(eq(int, tm_out_open(&out, name, &err), KV_OK), "%s", err.text);
    fputs(text, out.f);
    cr_assert(eq(int, tm_out_close(&out, &err), KV_OK), "%s", err.text);
}

static void expect_text(const char *name, const char *text)
{
    char *data;
    size_t n;
    kv_error err = {0};
    cr_assert(eq(int, tm_read_file(&data, &n, name, &err), KV_OK), "%s", err.text);
    cr_expect(eq(sz, n, strlen(text)));
    cr_expect(eq(str, data, (char *)text));
    free(data);
}

Test(files, written_then_renamed)
{
    tm_out out;
    write_text(path, "old");
    cr_assert(eq(int, tm_out_open(&out, path, NULL), KV_OK));
    fputs("new", out.f);
    fflush(out.f);
    expect_text(path, "old");
    cr_expect(eq(int, tm_out_close(&out, NULL), KV_OK));
    expect_text(path, "new");
}

Test(files, abandoned_leaves_the_old_one)
{
    tm_out out;
    cr_assert(eq(int, tm_out_open(&out, path, NULL), KV_OK));
    fputs("half", out.f);
    tm_out_abandon(&out);
    cr_expect(access(path, F_OK) != 0);
    write_text(path, "old");
    cr_assert(eq(int, tm_out_open(&out, path, NULL), KV_OK));
    fputs("half", out.f);
    tm_out_abandon(&out);
    expect_text(path, "old");
    tm_out_abandon(&out);
    cr_expect(eq(int, tm_out_close(&out, NULL), KV_FAIL_RUN));
}

/* A child that is told to stop in the middle of writing leaves the old file and nothing else. */
Test(files, stopped_by_a_signal)
{
    static const int stops[] = {SIGINT, SIGTERM, SIGHUP};
    write_text(path, "old");
    for (int i = 0; i < 3; i++) {
        pid_t child = fork();
        if (child == 0) {
            tm_out out;
            signal(stops[i], SIG_DFL);
            tm_out_clean_up_on_signals();
            if (tm_out_open(&out, path, NULL)) _exit(3);
            fputs("new", out.f);
            raise(stops[i]);
            _exit(4); /* not reached */
        }
        int status;
        cr_assert(eq(int, waitpid(child, &status, 0), child));
        cr_expect(eq(int, WIFSIGNALED(status) ? WTERMSIG(status) : 0, stops[i]));
        expect_text(path, "old");
    }
}

Test(files, permissions)
{
    struct stat st;
    mode_t old = umask(027);
    write_text(path, "x");
    cr_assert(eq(int, stat(path, &st), 0));
    cr_expect(eq(uint, st.st_mode & 0777, 0640));
    chmod(path, 0664);
    umask(0);
    write_text(path, "y");
    cr_assert(eq(int, stat(path, &st), 0));
    cr_expect(eq(uint, st.st_mode & 0777, 0664), "a replaced file keeps its mode");
    umask(old);
}

Test(files, a_link_stays_a_link)
{
    char link[96];
    struct stat st;
    snprintf(link, sizeof link, "%s/link", folder);
    write_text(path, "old");
    cr_assert(eq(int, symlink("a", link), 0));
    write_text(link, "new");
    expect_text(path, "new");
    cr_expect(lstat(link, &st) == 0 && S_ISLNK(st.st_mode));
    unlink(link);
}

Test(files, cannot_be_written)
{
    tm_out out;
    kv_error err;
    char name[128], longer[TM_PATH_MAX + 10];
    snprintf(name, sizeof name, "%s/missing/a", folder);
    cr_expect(eq(int, tm_out_open(&out, name, &err), KV_FAIL_RUN));
    cr_expect(strstr(err.text, name) != NULL && strstr(err.text, "No such file"), "%s", err.text);
    cr_expect(eq(int, tm_out_open(&out, folder, &err), KV_FAIL_RUN));
    cr_expect(strstr(err.text, "is a folder") != NULL, "%s", err.text);
    cr_expect(eq(int, tm_out_open(&out, "", &err), KV_FAIL_USAGE));
    memset(longer, 'x', sizeof longer);
    longer[sizeof longer - 1] = 0;
    cr_expect(eq(int, tm_out_open(&out, longer, &err), KV_FAIL_USAGE));
    cr_expect(eq(int, tm_out_open(&out, name, NULL), KV_FAIL_RUN));
    tm_out_abandon(&out);
}

Test(files, not_allowed)
{
    tm_out out;
    kv_error err;
    if (geteuid() == 0) { /* root may write everywhere: go on as somebody else */
        cr_assert(eq(int, chown(folder, 65534, 65534), 0));
        cr_assert(eq(int, setuid(65534), 0));
    }
    write_text(path, "old");
    chmod(path, 0444);
    cr_expect(eq(int, tm_out_open(&out, path, &err), KV_FAIL_RUN));
    cr_expect(strstr(err.text, "Permission denied") != NULL, "%s", err.text);
    expect_text(path, "old");
    chmod(folder, 0555);
    char name[128];
    snprintf(name, sizeof name, "%s/b", folder);
    cr_expect(eq(int, tm_out_open(&out, name, &err), KV_FAIL_RUN));
    cr_expect(strstr(err.text, name) && strstr(err.text, "Permission denied"), "%s", err.text);
    chmod(folder, 0755);
}

/* One byte waits in the buffer until the close; a megabyte fails long before it. */
Test(files, full_disk)
{
    static const size_t sizes[] = {1, 100, 1 << 20};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        tm_out out;
        kv_error err;
        struct stat st;
        cr_assert(eq(int, tm_out_open(&out, "/dev/full", &err), KV_OK));
        for (size_t j = 0; j < sizes[i]; j++) putc('x', out.f);
        cr_expect(eq(int, tm_out_close(&out, &err), KV_FAIL_RUN));
        cr_expect(strstr(err.text, "/dev/full") != NULL, "%s", err.text);
        cr_expect(strstr(err.text, "No space left") || strstr(err.text, "full?"), "%s", err.text);
        cr_expect(stat("/dev/full", &st) == 0 && S_ISCHR(st.st_mode));
    }
}

Test(files, devices_are_written_directly)
{
    struct stat st;
    write_text("/dev/null", "x");
    cr_expect(stat("/dev/null", &st) == 0 && S_ISCHR(st.st_mode));
}

/* A child writes a megabyte into a named pipe; we read it, and the pipe is still one. */
Test(files, pipes)
{
    struct stat st;
    enum { SIZE = 1 << 20 };
    cr_assert(eq(int, mkfifo(path, 0600), 0));
    pid_t child = fork();
    if (child == 0) {
        tm_out out;
        if (tm_out_open(&out, path, NULL) != KV_OK) _exit(1);
        for (int i = 0; i < SIZE; i++) putc('a' + i % 26, out.f);
        _exit(tm_out_close(&out, NULL));
    }
    char *data;
    size_t n;
    int status;
    cr_assert(eq(int, tm_read_file(&data, &n, path, NULL), KV_OK));
    cr_expect(n == SIZE && data[SIZE - 1] == 'a' + (SIZE - 1) % 26 && data[n] == 0);
    free(data);
    waitpid(child, &status, 0);
    cr_expect(eq(int, status, 0));
    cr_expect(stat(path, &st) == 0 && S_ISFIFO(st.st_mode));
}

Test(files, reading)
{
    char *data;
    size_t n;
    kv_error err;
    write_text(path, "");
    expect_text(path, "");
    cr_expect(eq(int, tm_read_file(&data, &n, folder, &err), KV_FAIL_RUN));
    cr_expect(strstr(err.text, "is a folder") != NULL && data == NULL && n == 0);
    unlink(path);
    cr_expect(eq(int, tm_read_file(&data, &n, path, &err), KV_FAIL_RUN));
    cr_expect(strstr(err.text, path) && strstr(err.text, "No such file"), "%s", err.text);
    cr_expect(eq(int, tm_read_file(&data, &n, "/dev/null", &err), KV_OK));
    cr_expect(n == 0 && data != NULL);
    free(data);
}

Test(files, utf8)
{
    static const struct {
        const char *text;
        int bad; /* offset of the first bad sequence, -1: none */
    } cases[] = {
        {"", -1}, {"abc", -1}, {"\xc3\xa9", -1}, {"\xe2\x82\xac", -1}, {"\xf0\x9f\x98\x80", -1},
        {"\xed\x9f\xbf", -1}, {"\xee\x80\x80", -1}, {"\xef\xbf\xbf", -1}, {"\xf4\x8f\xbf\xbf", -1},
        {"\xc2\x80", -1}, {"\xe0\xa0\x80", -1}, {"\xf0\x90\x80\x80", -1}, {"\xef\xbb\xbfx", -1},
        {"\x80", 0}, {"a\xff", 1}, {"a\xfe", 1}, {"\xc3", 0}, {"ab\xe2\x82", 2},
        {"\xf0\x9f\x98", 0}, {"\xc0\x80", 0}, {"\xc1\xbf", 0}, {"\xe0\x9f\xbf", 0},
        {"\xf0\x8f\xbf\xbf", 0}, {"\xed\xa0\x80", 0}, {"\xed\xbf\xbf", 0}, {"\xf4\x90\x80\x80", 0},
        {"\xf5\x80\x80\x80", 0}, {"\xc3(", 0}, {"\xe2(\xa1", 0}, {"\xe2\x82(", 0},
        {"\xf0\x9f\x98(", 0}, {"\xf8\x88\x80\x80\x80", 0}, {"x\xc3\xa9\xa9", 3},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        size_t bad = 999;
        int code = tm_check_utf8(cases[i].text, strlen(cases[i].text), &bad);
        cr_expect(code == (cases[i].bad < 0 ? KV_OK : KV_FAIL_RUN), "case %zu", i);
        cr_expect(bad == (cases[i].bad < 0 ? 999 : (size_t)cases[i].bad), "case %zu: %zu", i, bad);
        cr_expect(tm_check_utf8(cases[i].text, strlen(cases[i].text), NULL) == code);
    }
    cr_expect(eq(int, tm_check_utf8("a\0b", 3, NULL), KV_OK));
}

Test(files, printable)
{
    static const struct {
        const char *bytes;
        size_t n, capacity;
        const char *expected;
    } cases[] = {
        {"", 0, 8, ""},
        {"plain", 5, 8, "plain"},
        {"1234567", 7, 8, "1234567"},
        {"12345678", 8, 8, "1234..."},
        {"a\nb\tc\x1b\x7f", 7, 32, "a\\nb\\tc\\x1b\\x7f"},
        {"\0", 1, 8, "\\x00"},
        {"\0\0", 2, 8, "\\x00..."},
        {"\xff\xc3\xa9\xc3", 4, 16, "?\xc3\xa9?"},
        {"\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9", 8, 8, "\xc3\xa9\xc3\xa9..."},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char out[32];
        tm_printable(out, cases[i].capacity, cases[i].bytes, cases[i].n);
        cr_expect(eq(str, out, (char *)cases[i].expected));
    }
}
