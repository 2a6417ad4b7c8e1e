/* .npy files: written and read back, cut short at every byte, headers that are not ours. */
#define _XOPEN_SOURCE 700

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "npy.h"

static char folder[64], path[96];

static void make_folder(void)
{
    strcpy(folder, "/tmp/test_npy.XXXXXX");
    cr_assert_not_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/a.npy", folder);
}

static void remove_folder(void)
{
    unlink(path);
    cr_expect(eq(int, rmdir(folder), 0), "something was left in %s", folder);
}

TestSuite(npy, .init = make_folder, .fini = remove_folder);

static void write_bytes(const void *bytes, size_t n)
{
    FILE *f = fopen(path, "wb");
    cr_assert_not_null(f);
    cr_assert(fwrite(bytes, 1, n, f) == n);
    fclose(f);
}

/* A file of version major.0 with the header as given, followed by n bytes. */
static void write_npy(int major, const char *header, const void *bytes, size_t n)
{
    unsigned char file[1024] = "\x93NUMPY";
    size_t length = strlen(header), start = major == 1 ? 10 : 12;
    cr_assert(start + length + n <= sizeof file);
    file[6] = (unsigned char)major;
    file[8] = (unsigned char)(length & 255);
    file[9] = (unsigned char)(length >> 8);
    memcpy(file + start, header, length);
    if (n) memcpy(file + start + length, bytes, n);
    write_bytes(file, start + length + n);
}

static void refused(const char *part)
{
    npy_array a;
    kv_error err = {0};
    cr_expect(eq(int, npy_read(&a, path, &err), KV_FAIL_RUN), "expected: %s", part);
    cr_expect(strstr(err.text, path) != NULL && strstr(err.text, part) != NULL, "no '%s' in: %s",
              part, err.text);
    cr_expect(a.data == NULL);
    cr_expect(eq(int, npy_read(&a, path, NULL), KV_FAIL_RUN));
}

static const float six[6] = {0, -1.5f, 1e-42f, 3e38f, INFINITY, 6};

Test(npy, floats_come_back)
{
    static const size_t dims[8] = {2, 3, 1, 1, 1, 1, 1, 1};
    for (int n_dims = 2; n_dims <= 8; n_dims++) {
        npy_array a;
        kv_error err = {0};
        cr_assert(eq(int, npy_write(path, "<f4", six, dims, n_dims, &err), KV_OK), "%s", err.text);
        cr_assert(eq(int, npy_read(&a, path, &err), KV_OK), "%s", err.text);
        cr_expect(a.n_dims == n_dims && a.dims[0] == 2 && a.dims[1] == 3 && a.elements == 6);
        cr_expect(memcmp(a.data, six, sizeof six) == 0);
        cr_expect(eq(str, a.type, (char *)"<f4"));
        npy_free(&a);
        cr_expect(a.data == NULL);
    }
}

Test(npy, piece_by_piece)
{
    static const size_t dims[1] = {6};
    static const uint16_t halves[6] = {0x3C00, 0xC000, 0x7BFF, 0x0001, 0x8000, 0x7C00};
    tm_out out;
    npy_array a;
    cr_assert(eq(int, tm_out_open(&out, path, NULL), KV_OK));
    npy_header(&out, "<f4", dims, 1);
    for (size_t i = 0; i < 6; i += 2) npy_floats(&out, six + i, 2);
    npy_floats(&out, six, 0);
    cr_assert(eq(int, tm_out_close(&out, NULL), KV_OK));
    cr_assert(eq(int, npy_read(&a, path, NULL), KV_OK));
    cr_expect(a.n_dims == 1 && a.elements == 6 && memcmp(a.data, six, sizeof six) == 0);
    npy_free(&a);
    cr_assert(eq(int, tm_out_open(&out, path, NULL), KV_OK));
    npy_header(&out, "<f2", dims, 1);
    npy_halves(&out, halves, 6);
    cr_assert(eq(int, tm_out_close(&out, NULL), KV_OK));
    cr_assert(eq(int, npy_read(&a, path, NULL), KV_OK));
    cr_expect(a.data[0] == 1 && a.data[1] == -2 && a.data[2] == 65504);
    cr_expect(a.data[3] == ldexpf(1, -24) && signbit(a.data[4]) && isinf(a.data[5]));
    npy_free(&a);
}

/* What NumPy itself writes, byte for byte: version 1.0, spaces up to a multiple of 64. */
Test(npy, bytes_are_numpys)
{
    static const uint8_t codes[3] = {1, 2, 3};
    static const int32_t ids[2] = {-1, 7};
    static const size_t three[1] = {3}, one_two[2] = {1, 2};
    char *file;
    size_t n;
    cr_assert(eq(int, npy_write(path, "|u1", codes, three, 1, NULL), KV_OK));
    cr_assert(eq(int, tm_read_file(&file, &n, path, NULL), KV_OK));
    static const char head[] = "\x93NUMPY\1\0v\0{'descr': '|u1', 'fortran_order': False, "
                               "'shape': (3,), }";
    cr_expect(n == 131 && memcmp(file, head, sizeof head - 1) == 0);
    cr_expect(file[126] == ' ' && file[127] == '\n' && memcmp(file + 128, codes, 3) == 0);
    free(file);
    cr_assert(eq(int, npy_write(path, "<i4", ids, one_two, 2, NULL), KV_OK));
    cr_assert(eq(int, tm_read_file(&file, &n, path, NULL), KV_OK));
    cr_expect(n == 136 && strstr(file + 10, "'<i4'") && strstr(file + 10, "(1, 2), }"));
    cr_expect(memcmp(file + 128, ids, 8) == 0);
    free(file);
}

Test(npy, cut_short_at_every_byte)
{
    static const size_t dims[2] = {2, 3};
    char *file;
    size_t n;
    cr_assert(eq(int, npy_write(path, "<f4", six, dims, 2, NULL), KV_OK));
    cr_assert(eq(int, tm_read_file(&file, &n, path, NULL), KV_OK));
    for (size_t cut = 0; cut < n; cut++) {
        npy_array a;
        kv_error err;
        write_bytes(file, cut);
        cr_expect(npy_read(&a, path, &err) == KV_FAIL_RUN && a.data == NULL, "cut at %zu", cut);
        if (cut >= 6)
            cr_expect(strstr(err.text, "may be incomplete") != NULL, "cut at %zu: %s", cut,
                      err.text);
        else
            cr_expect(strstr(err.text, "not a .npy file") != NULL, "cut at %zu: %s", cut, err.text);
    }
    free(file);
}

Test(npy, headers_of_others)
{
    static const char *const headers[] = {
        "{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }",
        "{\"shape\":(2,),\"descr\":\"<f4\",\"fortran_order\":False}",
        "  { 'fortran_order' : False , 'shape' : ( 2 , 1 ) , 'descr' : '<f4' , }  \n",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (2)}",
    };
    for (int major = 1; major <= 3; major++)
        for (size_t i = 0; i < sizeof headers / sizeof *headers; i++) {
            npy_array a;
            kv_error err = {0};
            write_npy(major, headers[i], six, 8);
            cr_assert(eq(int, npy_read(&a, path, &err), KV_OK), "%zu: %s", i, err.text);
            cr_expect(a.elements == 2 && a.dims[0] == 2 && a.data[1] == -1.5f);
            npy_free(&a);
        }
}

Test(npy, a_number_and_nothing)
{
    npy_array a;
    write_npy(1, "{'descr': '<f4', 'fortran_order': False, 'shape': (), }", six + 5, 4);
    cr_assert(eq(int, npy_read(&a, path, NULL), KV_OK));
    cr_expect(a.n_dims == 0 && a.elements == 1 && a.data[0] == 6);
    npy_free(&a);
    write_npy(1, "{'descr': '<f4', 'fortran_order': False, 'shape': (0, 3), }", NULL, 0);
    cr_assert(eq(int, npy_read(&a, path, NULL), KV_OK));
    cr_expect(a.n_dims == 2 && a.elements == 0 && a.data != NULL);
    npy_free(&a);
}

Test(npy, doubles)
{
    static const double good[2] = {0.1, -INFINITY}, large[2] = {1, 1e39};
    static const char header[] = "{'descr': '<f8', 'fortran_order': False, 'shape': (2,), }";
    npy_array a;
    write_npy(1, header, good, 16);
    cr_assert(eq(int, npy_read(&a, path, NULL), KV_OK));
    cr_expect(a.data[0] == 0.1f && isinf(a.data[1]) && a.data[1] < 0);
    npy_free(&a);
    write_npy(1, header, large, 16);
    refused("element 1 is 1e+39, too large for a float32");
}

Test(npy, refused_by_name)
{
    static const struct {
        const char *header, *part;
    } cases[] = {
        {"{'descr': '>f4', 'fortran_order': False, 'shape': (2,), }", "'>f4'"},
        {"{'descr': '<i4', 'fortran_order': False, 'shape': (2,), }", "'<i4'"},
        {"{'descr': '<c8', 'fortran_order': False, 'shape': (1,), }", "'<c8'"},
        {"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }", "'|O'"},
        {"{'descr': [('x', '<f4')], 'fortran_order': False, 'shape': (2,), }", "several fields"},
        {"{'descr': '<f4', 'fortran_order': True, 'shape': (2, 1), }", "Fortran order"},
        {"{'descr': '<f4', 'fortran_order': 0, 'shape': (2,), }", "True or False is expected"},
        {"{'descr': '<f4', 'fortran_order': False, }", "lacks shape"},
        {"{'descr': '<f4', 'shape': (2,), }", "lacks fortran_order"},
        {"{'shape': (2,), 'fortran_order': False}", "lacks descr"},
        {"{}", "lacks descr"},
        {"", "'{' is expected"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (2,), 'more': 1}", "the key 'more'"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': 2, }", "a shape such as"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (-2,), }", "a dimension is expected"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (,), }", "a dimension is expected"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (2", "',' or ')' is expected"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (", "a dimension is expected"},
        {"{'descr': '<f4', 'fortran_order'", "':' is expected"},
        {"{'descr': '<f4", "a quoted name is expected"},
        {"{descr: '<f4'}", "a quoted name is expected"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (1,1,1,1,1,1,1,1,2)}", "more than 8"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999,)}", "absurdly"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (4294967296, 4294967296)}", "count"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (0, 4611686018427387904, 8)}", "count"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000,)}", "1000000000 elements"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (3,)}", "may be incomplete"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (1,)}", "is too long"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        write_npy(1, cases[i].header, six, 8);
        refused(cases[i].part);
    }
    write_npy(4, cases[0].header, six, 8);
    refused("version 4.0");
    write_npy(0, cases[0].header, six, 8);
    refused("version 0.0");
    write_bytes("PK\3\4 a zip of arrays", 20);
    refused("not a .npy file: it starts with 'PK\\x03\\x04 a'");
    unlink(path);
    refused("No such file");
}

Test(npy, cannot_be_written)
{
    static const size_t dims[1] = {6};
    kv_error err;
    char name[128];
    snprintf(name, sizeof name, "%s/missing/a.npy", folder);
    cr_expect(eq(int, npy_write(name, "<f4", six, dims, 1, &err), KV_FAIL_RUN));
    cr_expect(eq(int, npy_write("/dev/full", "<f4", six, dims, 1, &err), KV_FAIL_RUN));
    cr_expect(strstr(err.text, "No space left") != NULL, "%s", err.text);
    cr_expect(eq(int, npy_write("/dev/null", "<f4", six, dims, 1, &err), KV_OK));
    cr_expect(eq(int, npy_write(path, "<f4", six, dims, 9, &err), KV_FAIL_RUN));
}
