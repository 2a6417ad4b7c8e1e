/* GGUF files: written and read back, cut short at every byte, damaged in every way we could think
 * of, and block formats against hashes of what the package gguf computes (tests/gguf_check.py
 * compares the values themselves). */
#define _XOPEN_SOURCE 700

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "files.h"
#include "gguf.h"
#include "gguf_blocks.h"

/* ------------------------------------------------ files made byte by byte */

typedef struct {
    unsigned char bytes[4096];
    size_t n;
} image;

static void put(image *m, const void *bytes, size_t n)
{
    cr_assert(m->n + n <= sizeof m->bytes);
    memcpy(m->bytes + m->n, bytes, n);
    m->n += n;
}

static void put_u32(image *m, uint32_t v) { put(m, &v, sizeof v); }
static void put_u64(image *m, uint64_t v) { put(m, &v, sizeof v); }

static void put_string(image *m, const char *s)
{
    put_u64(m, strlen(s));
    put(m, s, strlen(s));
}

static void put_header(image *m, uint32_t version, uint64_t n_tensors, uint64_t n_keys)
{
    m->n = 0;
    put(m, "GGUF", 4);
    put_u32(m, version);
    put_u64(m, n_tensors);
    put_u64(m, n_keys);
}

static void put_key(image *m, const char *name, uint32_t type)
{
    put_string(m, name);
    put_u32(m, type);
}

static void put_tensor(image *m, const char *name, uint32_t n_dims, const uint64_t *dims,
                       uint32_t type, uint64_t offset)
{
    put_string(m, name);
    put_u32(m, n_dims);
    for (uint32_t i = 0; i < n_dims; i++) put_u64(m, dims[i]);
    put_u32(m, type);
    put_u64(m, offset);
}

static void put_padding(image *m, size_t alignment)
{
    while (m->n % alignment) put(m, "", 1);
}

/* Opens a copy that ends exactly where the image ends, so that the address sanitizer sees
 * the first byte read beyond it. */
static int open_bytes(const unsigned char *bytes, size_t n, kv_error *err)
{
    gguf *g;
    unsigned char *copy = malloc(n ? n : 1);
    cr_assert_not_null(copy);
    memcpy(copy, bytes, n);
    memset(err, 0, sizeof *err);
    int code = gguf_open_memory(&g, copy, n, "x.gguf", err);
    gguf_close(g);
    free(copy);
    return code;
}

static void refused(const image *m, const char *part_1, const char *part_2)
{
    kv_error err;
    cr_expect(eq(int, open_bytes(m->bytes, m->n, &err), KV_FAIL_RUN), "expected: %s", part_1);
    cr_expect(strstr(err.text, "x.gguf") != NULL, "no file name in: %s", err.text);
    cr_expect(strstr(err.text, part_1) != NULL, "no '%s' in: %s", part_1, err.text);
    cr_expect(strstr(err.text, part_2) != NULL, "no '%s' in: %s", part_2, err.text);
    cr_expect(eq(int, open_bytes(m->bytes, m->n, &(kv_error){0}), KV_FAIL_RUN));
}

static void accepted(const image *m, const char *what)
{
    kv_error err;
    cr_expect(eq(int, open_bytes(m->bytes, m->n, &err), KV_OK), "%s: %s", what, err.text);
}

/* ------------------------------------------------------ a complete example */

static char folder[64], path[96];

static void make_folder(void)
{
    strcpy(folder, "/tmp/test_gguf.XXXXXX");
    cr_assert_not_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/a.gguf", folder);
}

static void remove_folder(void)
{
    unlink(path);
    cr_expect(eq(int, rmdir(folder), 0), "something was left in %s", folder);
}

static const float weights[6] = {1, -2.5f, 3e-9f, -0.0f, 5e20f, 6};
static const uint16_t halves[3] = {0x3C00, 0xC000, 0x0001};

static gguf_writer *example(void)
{
    static const gguf_string words[3] = {{"a\0b", 3}, {"", 0}, {"\xff\n\xc3\xa9", 4}};
    static const int32_t ints[2] = {-7, 2147483647};
    static const float floats[2] = {0.5f, -1e30f};
    static const size_t two_by_three[2] = {3, 2}, three[1] = {3}, block[3] = {32, 1, 2};
    static const unsigned char blocks[36] = {0, 0x3C, 0xF1};
    gguf_writer *w = gguf_writer_new();
    gguf_put_string(w, "general.architecture", "llama", 5);
    gguf_put_uint32(w, "u", 4000000000u);
    gguf_put_int32(w, "i", -5);
    gguf_put_float32(w, "f", 0.1f);
    gguf_put_bool(w, "yes", 1);
    gguf_put_bool(w, "no", 0);
    gguf_put_strings(w, "words", words, 3);
    gguf_put_int32s(w, "ints", ints, 2);
    gguf_put_float32s(w, "floats", floats, 2);
    gguf_put_int32s(w, "nothing", NULL, 0);
    gguf_put_tensor(w, "w", GGUF_F32, 2, two_by_three, weights);
    gguf_put_tensor(w, "h", GGUF_F16, 1, three, halves);
    gguf_put_tensor(w, "q", GGUF_Q4_0, 3, block, blocks);
    return w;
}

static void write_example(void)
{
    kv_error err = {0};
    gguf_writer *w = example();
    cr_assert(eq(int, gguf_write(w, path, &err), KV_OK), "%s", err.text);
    gguf_writer_free(w);
}

static gguf *open_example(void)
{
    gguf *g;
    kv_error err = {0};
    write_example();
    cr_assert(eq(int, gguf_open(&g, path, &err), KV_OK), "%s", err.text);
    return g;
}

TestSuite(gguf, .init = make_folder, .fini = remove_folder);

Test(gguf, round_trip_of_keys)
{
    gguf *g = open_example();
    gguf_string s;
    gguf_array a;
    int64_t i;
    double f;
    int yes, no;
    cr_expect(eq(int, gguf_version(g), 3));
    cr_expect(eq(str, (char *)gguf_path(g), path));
    cr_expect(eq(sz, gguf_key_count(g), 10));
    cr_expect(eq(str, (char *)gguf_key_at(g, 1)->name, "u"));
    cr_expect(eq(int, gguf_get_string(&s, g, "general.architecture", NULL), 0));
    cr_expect(s.length == 5 && memcmp(s.data, "llama", 5) == 0);
    cr_expect(gguf_get_int(&i, g, "u", 0, INT64_MAX, NULL) == 0 && i == 4000000000);
    cr_expect(gguf_get_int(&i, g, "i", -5, -5, NULL) == 0 && i == -5);
    cr_expect(gguf_get_float(&f, g, "f", NULL) == 0 && f == (double)0.1f);
    cr_expect(gguf_get_float(&f, g, "i", NULL) == 0 && f == -5);
    cr_expect(gguf_get_bool(&yes, g, "yes", NULL) == 0 && yes == 1);
    cr_expect(gguf_get_bool(&no, g, "no", NULL) == 0 && no == 0);
    cr_expect(gguf_get_strings(&a, g, "words", NULL) == 0 && a.count == 3);
    cr_expect(a.strings[0].length == 3 && memcmp(a.strings[0].data, "a\0b", 3) == 0);
    cr_expect(a.strings[1].length == 0);
    cr_expect(a.strings[2].length == 4 && memcmp(a.strings[2].data, "\xff\n\xc3\xa9", 4) == 0);
    cr_expect(gguf_get_ints(&a, g, "ints", NULL) == 0 && a.count == 2);
    cr_expect(gguf_array_int(&a, 0) == -7 && gguf_array_int(&a, 1) == INT32_MAX);
    cr_expect(gguf_array_float(&a, 0) == -7);
    cr_expect(gguf_get_floats(&a, g, "floats", NULL) == 0 && a.count == 2);
    cr_expect(gguf_array_float(&a, 1) == (double)-1e30f);
    cr_expect(gguf_get_ints(&a, g, "nothing", NULL) == 0 && a.count == 0);
    gguf_close(g);
}

Test(gguf, round_trip_of_tensors)
{
    gguf *g = open_example();
    float x[64];
    cr_expect(eq(sz, gguf_tensor_count(g), 3));
    cr_expect(gguf_tensor_find(g, "x") == NULL && gguf_key_find(g, "w") == NULL);
    const gguf_tensor *t = gguf_tensor_find(g, "w");
    cr_assert_not_null(t);
    cr_expect(t == gguf_tensor_at(g, 0) && t->n_dims == 2 && t->type == GGUF_F32);
    cr_expect(t->dims[0] == 3 && t->dims[1] == 2 && t->dims[2] == 1 && t->dims[3] == 1);
    cr_expect(t->elements == 6 && t->bytes == 24 && (uintptr_t)t->data % 32 == 0);
    cr_expect(eq(int, gguf_dequantize(x, t, 0, 6, NULL), 0));
    cr_expect(memcmp(x, weights, sizeof weights) == 0);
    cr_expect(gguf_dequantize(x, t, 4, 2, NULL) == 0 && x[0] == 5e20f && x[1] == 6);
    cr_expect(eq(int, gguf_dequantize(x, t, 6, 0, NULL), 0));
    t = gguf_tensor_find(g, "h");
    cr_assert_not_null(t);
    cr_expect(eq(int, gguf_dequantize(x, t, 0, 3, NULL), 0));
    cr_expect(x[0] == 1 && x[1] == -2 && x[2] == ldexpf(1, -24));
    t = gguf_tensor_find(g, "q");
    cr_assert_not_null(t);
    cr_expect(t->bytes == 36 && t->elements == 64);
    cr_expect(eq(int, gguf_dequantize(x, t, 0, 64, NULL), 0));
    cr_expect(x[0] == -7 && x[16] == 7 && x[1] == -8 && x[32] == 0);
    cr_expect(gguf_dequantize(x, t, 32, 32, NULL) == 0 && x[0] == 0);
    gguf_close(g);
}

Test(gguf, getters_name_what_is_wrong)
{
    gguf *g = open_example();
    kv_error err;
    gguf_string s;
    gguf_array a;
    int64_t i = 99;
    double f;
    int b;
    cr_expect(gguf_get_int(&i, g, "rank", 0, 1, &err) == KV_FAIL_RUN && strstr(err.text, "'rank'"));
    cr_expect(strstr(err.text, path) != NULL);
    cr_expect(gguf_get_int(&i, g, "u", 1, 100, &err) == KV_FAIL_RUN);
    cr_expect(strstr(err.text, "4000000000, expected 1 to 100") && i == 99);
    cr_expect(gguf_get_int(&i, g, "f", 0, 1, &err) == KV_FAIL_RUN);
    cr_expect(strstr(err.text, "float32, expected an integer") && i == 99);
    cr_expect(gguf_get_int(&i, g, "ints", 0, 1, &err) == KV_FAIL_RUN);
    cr_expect(strstr(err.text, "an array of int32, expected an integer") && i == 99);
    cr_expect(gguf_get_string(&s, g, "yes", &err) && strstr(err.text, "bool, expected string"));
    cr_expect(gguf_get_float(&f, g, "words", &err) && strstr(err.text, "an array of string"));
    cr_expect(gguf_get_bool(&b, g, "i", &err) && strstr(err.text, "int32, expected bool"));
    cr_expect(gguf_get_strings(&a, g, "ints", &err) && strstr(err.text, "an array of strings"));
    cr_expect(gguf_get_ints(&a, g, "floats", &err) && strstr(err.text, "an array of integers"));
    cr_expect(gguf_get_floats(&a, g, "f", &err) && strstr(err.text, "an array of numbers"));
    cr_expect(gguf_get_bools(&a, g, "words", &err) && strstr(err.text, "an array of bools"));
    gguf_close(g);
}

Test(gguf, dequantize_refuses_parts_of_blocks)
{
    gguf *g = open_example();
    kv_error err;
    float x[64];
    const gguf_tensor *t = gguf_tensor_find(g, "q");
    cr_assert_not_null(t);
    const size_t bad[][2] = {{1, 32}, {0, 31}, {0, 96}, {64, 32}, {96, 0}, {32, SIZE_MAX - 31}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        cr_expect(gguf_dequantize(x, t, bad[i][0], bad[i][1], &err) == KV_FAIL_RUN, "case %zu", i);
        cr_expect(strstr(err.text, "'q'") != NULL, "%s", err.text);
    }
    gguf_tensor odd = *t;
    odd.type = 20;
    cr_expect(gguf_dequantize(x, &odd, 0, 32, &err) == KV_FAIL_RUN);
    cr_expect(strstr(err.text, "IQ4_NL") && strstr(err.text, "Q2_K to Q6_K"), "%s", err.text);
    gguf_close(g);
}

Test(gguf, values_as_text)
{
    gguf *g = open_example();
    static const char *const expected[10] = {
        "\"llama\"", "4000000000", "-5", "0.100000001", "true", "false",
        "[3] \"a\\x00b\", \"\", \"?\\n\xc3\xa9\"", "[2] -7, 2147483647", "[2] 0.5, -1.00000002e+30",
        "[0]"};
    for (size_t i = 0; i < 10; i++) {
        char text[64];
        gguf_key_text(text, sizeof text, gguf_key_at(g, i));
        cr_expect(eq(str, text, (char *)expected[i]));
    }
    gguf_close(g);
}

Test(gguf, long_values_are_shortened)
{
    static int32_t many[1000];
    static char letters[500];
    memset(letters, 'x', sizeof letters);
    kv_error err = {0};
    gguf *g;
    gguf_writer *w = gguf_writer_new();
    gguf_put_int32s(w, "many", many, 1000);
    gguf_put_string(w, "letters", letters, sizeof letters);
    cr_assert(eq(int, gguf_write(w, path, &err), KV_OK), "%s", err.text);
    gguf_writer_free(w);
    cr_assert(eq(int, gguf_open(&g, path, &err), KV_OK), "%s", err.text);
    for (size_t i = 0; i < 2; i++)
        for (size_t capacity = 64; capacity < 90; capacity++) {
            char text[90];
            gguf_key_text(text, capacity, gguf_key_at(g, i));
            cr_expect(strlen(text) < capacity && strlen(text) > capacity - 8, "%s", text);
            cr_expect(strstr(text, "...") != NULL, "%s", text);
        }
    gguf_close(g);
}

Test(gguf, cut_short_at_every_byte)
{
    char *bytes;
    size_t n;
    kv_error err;
    write_example();
    cr_assert(eq(int, tm_read_file(&bytes, &n, path, NULL), KV_OK));
    size_t end = n - 28; /* the last tensor has 36 bytes, padded to 64 */
    for (size_t cut = 0; cut < end; cut++) {
        cr_expect(open_bytes((unsigned char *)bytes, cut, &err) == KV_FAIL_RUN, "cut at %zu", cut);
        cr_expect(strstr(err.text, "the download may be incomplete") != NULL, "cut at %zu: %s", cut,
                  err.text);
    }
    for (size_t cut = end; cut <= n; cut++) /* only padding is missing: nothing is lost */
        cr_expect(open_bytes((unsigned char *)bytes, cut, &err) == KV_OK, "cut at %zu", cut);
    free(bytes);
}

Test(gguf, cut_short_names_the_field)
{
    char *bytes;
    size_t n;
    kv_error err;
    write_example();
    cr_assert(eq(int, tm_read_file(&bytes, &n, path, NULL), KV_OK));
    static const struct {
        size_t at;
        const char *part;
    } cases[] = {
        {0, "magic number of the header"}, {5, "version of the header"},
        {10, "tensor count"}, {20, "key count"},
        {25, "length of the name of key 1 of 10"}, {40, "name of key 1 of 10"},
        {53, "type of key 'general.architecture'"}, {60, "length of key 'general.architecture'"},
        {66, "bytes of key 'general.architecture'"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        open_bytes((unsigned char *)bytes, cases[i].at, &err);
        cr_expect(strstr(err.text, cases[i].part) != NULL, "cut at %zu: %s", cases[i].at, err.text);
    }
    free(bytes);
}

Test(gguf, any_byte_changed_does_no_harm)
{
    char *bytes;
    size_t n;
    kv_error err;
    write_example();
    cr_assert(eq(int, tm_read_file(&bytes, &n, path, NULL), KV_OK));
    static const int changes[] = {1, 0x80, 0xFF, 0x20};
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < sizeof changes / sizeof *changes; j++) {
            bytes[i] = (char)(bytes[i] ^ changes[j]);
            int code = open_bytes((unsigned char *)bytes, n, &err);
            cr_expect(code == KV_OK || (code == KV_FAIL_RUN && err.text[0]), "byte %zu", i);
            bytes[i] = (char)(bytes[i] ^ changes[j]);
        }
    free(bytes);
}

/* ---------------------------------------------------------------- damages */

Test(gguf, versions)
{
    image m;
    put_header(&m, 3, 0, 0);
    accepted(&m, "neither keys nor tensors");
    put_header(&m, 2, 0, 0);
    accepted(&m, "version 2");
    put_header(&m, 1, 0, 0);
    refused(&m, "version 1", "expected 2 or 3");
    put_header(&m, 4, 0, 0);
    refused(&m, "version 4", "expected 2 or 3");
    put_header(&m, 0, 0, 0);
    refused(&m, "version 0", "expected 2 or 3");
    put_header(&m, 0x03000000, 0, 0);
    refused(&m, "big-endian", "convert");
    memcpy(m.bytes, "<htm", 4);
    refused(&m, "not a GGUF file", "'<htm'");
}

Test(gguf, vocabulary_without_tensors)
{
    image m;
    put_header(&m, 3, 0, 1);
    put_key(&m, "tokenizer.ggml.tokens", GGUF_ARRAY);
    put_u32(&m, GGUF_STRING);
    put_u64(&m, 2);
    put_string(&m, "a");
    put_string(&m, "b");
    accepted(&m, "vocabulary only");
}

Test(gguf, absurd_counts)
{
    static const uint64_t counts[] = {2, 1000000, 1ull << 32, 1ull << 60, 1ull << 61,
                                      UINT64_MAX / 8 + 1, UINT64_MAX};
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        image m;
        put_header(&m, 3, 0, counts[i]);
        refused(&m, "length of the name of key 1 of", "incomplete");
        put_header(&m, 3, counts[i], 0);
        refused(&m, "length of the name of tensor 1 of", "incomplete");
        put_header(&m, 3, 0, 1);
        put_u64(&m, counts[i]);
        refused(&m, "name of key 1 of 1", "incomplete");
        for (uint32_t type = 0; type <= GGUF_FLOAT64; type++) {
            if (type == GGUF_ARRAY) continue;
            put_header(&m, 3, 0, 1);
            put_key(&m, "k", GGUF_ARRAY);
            put_u32(&m, type);
            put_u64(&m, counts[i]);
            refused(&m, "elements of key 'k'", "incomplete");
        }
        put_header(&m, 3, 0, 1);
        put_key(&m, "k", GGUF_STRING);
        put_u64(&m, counts[i]);
        refused(&m, "bytes of key 'k'", "incomplete");
    }
}

Test(gguf, damaged_keys)
{
    image m;
    put_header(&m, 3, 0, 1);
    put_key(&m, "k", 13);
    put_u64(&m, 0);
    refused(&m, "key 'k'", "unknown value type 13");
    put_header(&m, 3, 0, 1);
    put_key(&m, "k", GGUF_ARRAY);
    put_u32(&m, 77);
    put_u64(&m, 0);
    refused(&m, "key 'k'", "unknown value type 77");
    put_header(&m, 3, 0, 1);
    put_key(&m, "k", GGUF_ARRAY);
    put_u32(&m, GGUF_ARRAY);
    put_u64(&m, 0);
    refused(&m, "key 'k'", "array of arrays");
    put_header(&m, 3, 0, 1);
    put_key(&m, "k", GGUF_BOOL);
    put(&m, "\2", 1);
    refused(&m, "key 'k'", "holds 2 where a bool");
    put_header(&m, 3, 0, 1);
    put_key(&m, "", GGUF_BOOL);
    put(&m, "\1", 1);
    refused(&m, "key 1 of 1", "is empty");
    put_header(&m, 3, 0, 1);
    put_u64(&m, 3);
    put(&m, "a\0b", 3);
    put_u32(&m, GGUF_BOOL);
    put(&m, "\1", 1);
    refused(&m, "'a\\x00b'", "contains a NUL byte");
    put_header(&m, 3, 0, 3);
    for (int i = 0; i < 3; i++) {
        put_key(&m, i == 1 ? "other" : "same", GGUF_BOOL);
        put(&m, "\1", 1);
    }
    refused(&m, "key 'same'", "occurs twice");
}

Test(gguf, a_string_element_beyond_the_end)
{
    image m;
    put_header(&m, 3, 0, 1);
    put_key(&m, "k", GGUF_ARRAY);
    put_u32(&m, GGUF_STRING);
    put_u64(&m, 2);
    put_string(&m, "good");
    put_u64(&m, UINT64_MAX);
    refused(&m, "bytes of element 1 of key 'k'", "18446744073709551615 bytes are needed");
}

static void image_with_alignment(image *m, uint32_t alignment)
{
    static const uint64_t dims[1] = {2};
    put_header(m, 3, 1, 1);
    put_key(m, "general.alignment", GGUF_UINT32);
    put_u32(m, alignment);
    put_tensor(m, "t", 1, dims, GGUF_F32, 0);
    put_padding(m, alignment >= 8 && alignment <= 1024 ? alignment : 32);
    put_u64(m, 0);
}

Test(gguf, alignments)
{
    image m;
    static const uint32_t good[] = {8, 24, 64, 1024}, bad[] = {0, 1, 4, 7, 33, 4294967295u};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        image_with_alignment(&m, good[i]);
        accepted(&m, "alignment");
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        image_with_alignment(&m, bad[i]);
        refused(&m, "general.alignment", "expected a multiple of 8");
    }
    image_with_alignment(&m, 0x80000000u);
    refused(&m, "tensor 't'", "beyond the end of the file");
    put_header(&m, 3, 0, 1);
    put_key(&m, "general.alignment", GGUF_STRING);
    put_string(&m, "32");
    refused(&m, "general.alignment", "expected an integer");
}

static void image_with_tensor(image *m, uint32_t n_dims, const uint64_t *dims, uint32_t type,
                              uint64_t offset)
{
    put_header(m, 3, 1, 0);
    put_tensor(m, "blk.0", n_dims, dims, type, offset);
    put_padding(m, 32);
    for (int i = 0; i < 16; i++) put_u64(m, 0);
}

Test(gguf, damaged_tensors)
{
    image m;
    const uint64_t big = 1ull << 32, huge = 1ull << 62;
    const uint64_t dims[5] = {32, 1, 1, 1, 1}, zero[2] = {32, 0}, many[4] = {big, big, 1, 1};
    const uint64_t row[1] = {31}, wide[1] = {huge}, more[1] = {64}, most[4] = {UINT64_MAX, 2, 1, 1};
    image_with_tensor(&m, 1, dims, GGUF_F32, 0);
    accepted(&m, "32 floats");
    image_with_tensor(&m, 0, dims, GGUF_F32, 0);
    refused(&m, "tensor 'blk.0'", "0 dimensions, expected 1 to 4");
    image_with_tensor(&m, 5, dims, GGUF_F32, 0);
    refused(&m, "tensor 'blk.0'", "5 dimensions, expected 1 to 4");
    image_with_tensor(&m, 2, zero, GGUF_F32, 0);
    refused(&m, "tensor 'blk.0'", "dimension 1 = 0");
    image_with_tensor(&m, 4, many, GGUF_F32, 0);
    refused(&m, "tensor 'blk.0'", "more elements than");
    image_with_tensor(&m, 4, most, GGUF_F32, 0);
    refused(&m, "tensor 'blk.0'", "more elements than");
    image_with_tensor(&m, 1, wide, GGUF_F32, 0);
    refused(&m, "tensor 'blk.0'", "more bytes than");
    image_with_tensor(&m, 1, more, GGUF_F32, 0);
    refused(&m, "tensor 'blk.0' (256 bytes", "incomplete");
    image_with_tensor(&m, 1, row, GGUF_Q4_1, 0);
    refused(&m, "tensor 'blk.0' has rows of 31", "Q4_1 needs a multiple of 32");
    image_with_tensor(&m, 1, dims, 4, 0);
    refused(&m, "tensor 'blk.0' has type 4", "Q4_2");
    image_with_tensor(&m, 1, dims, 4711, 0);
    refused(&m, "tensor 'blk.0' has type 4711", "unknown");
    image_with_tensor(&m, 1, dims, 0xFFFFFFFF, 0);
    refused(&m, "tensor 'blk.0' has type 4294967295", "unknown");
    image_with_tensor(&m, 1, dims, GGUF_F32, 16);
    refused(&m, "tensor 'blk.0' starts at offset 16", "alignment 32");
    image_with_tensor(&m, 1, dims, GGUF_F32, 32);
    refused(&m, "tensor 'blk.0'", "beyond the end of the file");
    image_with_tensor(&m, 1, dims, GGUF_F32, 1ull << 63);
    refused(&m, "tensor 'blk.0'", "beyond the end of the file");
    image_with_tensor(&m, 1, dims, GGUF_F32, UINT64_MAX - 31);
    refused(&m, "tensor 'blk.0'", "beyond the end of the file");
    put_header(&m, 3, 2, 0);
    put_tensor(&m, "twin", 1, dims, GGUF_F32, 0);
    put_tensor(&m, "twin", 1, dims, GGUF_F32, 0);
    put_padding(&m, 32);
    for (int i = 0; i < 16; i++) put_u64(&m, 0);
    refused(&m, "tensor 'twin'", "occurs twice");
}

Test(gguf, integers_of_every_width)
{
    image m;
    gguf *g;
    gguf_array a;
    int64_t i;
    put_header(&m, 3, 0, 9);
    static const struct {
        uint32_t type;
        size_t width;
        int64_t value;
    } cases[] = {{GGUF_UINT8, 1, 255},  {GGUF_INT8, 1, -128},      {GGUF_UINT16, 2, 65535},
                 {GGUF_INT16, 2, -2},   {GGUF_UINT32, 4, 1l << 31}, {GGUF_INT32, 4, -3},
                 {GGUF_UINT64, 8, 1l << 62}, {GGUF_INT64, 8, INT64_MIN}};
    static const char *const names[] = {"0", "1", "2", "3", "4", "5", "6", "7"};
    for (size_t k = 0; k < 8; k++) {
        put_key(&m, names[k], cases[k].type);
        put(&m, &cases[k].value, cases[k].width);
    }
    put_key(&m, "large", GGUF_ARRAY);
    put_u32(&m, GGUF_UINT64);
    put_u64(&m, 2);
    put_u64(&m, 1);
    put_u64(&m, 1ull << 63);
    cr_assert(eq(int, gguf_open_memory(&g, m.bytes, m.n, "x.gguf", NULL), KV_OK));
    for (size_t k = 0; k < 8; k++) {
        cr_expect(eq(int, gguf_get_int(&i, g, names[k], INT64_MIN, INT64_MAX, NULL), KV_OK));
        cr_expect(eq(i64, i, cases[k].value), "%s", gguf_value_type_name((int)cases[k].type));
    }
    kv_error err;
    cr_expect(gguf_get_ints(&a, g, "large", &err) && strstr(err.text, "9223372036854775808"));
    cr_expect(eq(int, gguf_get_floats(&a, g, "large", NULL), KV_OK));
    cr_expect(gguf_array_float(&a, 1) == ldexp(1, 63));
    gguf_close(g);
}

/* ------------------------------------------------------------------ files */

Test(gguf, not_a_file)
{
    gguf *g;
    kv_error err;
    cr_expect(gguf_open(&g, path, &err) == KV_FAIL_RUN && strstr(err.text, "No such file"));
    cr_expect(strstr(err.text, path) != NULL && g == NULL);
    cr_expect(gguf_open(&g, folder, &err) == KV_FAIL_RUN && strstr(err.text, "not a regular file"));
    cr_expect(gguf_open(&g, "/dev/null", &err) == KV_FAIL_RUN);
    FILE *f = fopen(path, "w");
    cr_assert_not_null(f);
    fclose(f);
    cr_expect(gguf_open(&g, path, &err) == KV_FAIL_RUN && strstr(err.text, "magic number"));
    cr_expect(gguf_open(&g, path, NULL) == KV_FAIL_RUN);
    gguf_close(NULL);
}

Test(gguf, writer_refuses)
{
    kv_error err;
    static const size_t row[1] = {31}, none[1] = {0}, ok[1] = {3};
    for (int i = 0; i < 6; i++) {
        gguf_writer *w = example();
        if (i == 0) gguf_put_bool(w, "yes", 1);
        if (i == 1) gguf_put_bool(w, "", 1);
        if (i == 2) gguf_put_tensor(w, "w", GGUF_F32, 1, ok, weights);
        if (i == 3) gguf_put_tensor(w, "v", GGUF_Q4_0, 1, row, weights);
        if (i == 4) gguf_put_tensor(w, "v", GGUF_F32, 1, none, weights);
        if (i == 5) gguf_put_tensor(w, "v", 99, 1, ok, weights);
        static const char *const parts[] = {"key 'yes' was put in twice", "key is empty",
                                            "tensor 'w' was put in twice", "Q4_0 cannot have",
                                            "F32 cannot have", "(unknown) cannot have"};
        cr_expect(gguf_write(w, path, &err) == KV_FAIL_RUN && strstr(err.text, parts[i]), "%s",
                  err.text);
        cr_expect(access(path, F_OK) != 0, "a refused file was written");
        gguf_writer_free(w);
    }
    cr_expect(gguf_write(NULL, path, &err) == KV_FAIL_RUN && strstr(err.text, "memory"));
    gguf_writer *w = example();
    cr_expect(gguf_write(w, "/dev/full", &err) == KV_FAIL_RUN && strstr(err.text, "/dev/full"));
    gguf_writer_free(w);
}

Test(gguf, same_content_same_bytes)
{
    char *first, *second;
    size_t n, m;
    write_example();
    cr_assert(eq(int, tm_read_file(&first, &n, path, NULL), KV_OK));
    write_example();
    cr_assert(eq(int, tm_read_file(&second, &m, path, NULL), KV_OK));
    cr_expect(n == m && memcmp(first, second, n) == 0);
    free(first);
    free(second);
}

/* ---------------------------------------------------------- block formats */

static uint64_t hash_bytes(const void *bytes, size_t n)
{
    uint64_t h = 0xcbf29ce484222325;
    for (size_t i = 0; i < n; i++) h = (h ^ ((const unsigned char *)bytes)[i]) * 0x100000001b3;
    return h;
}

Test(gguf, known_blocks)
{
    for (size_t k = 0; k < sizeof known_blocks / sizeof *known_blocks; k++) {
        unsigned char block[256];
        float x[256];
        size_t n = strlen(known_blocks[k].hex) / 2;
        for (size_t i = 0; i < n; i++)
            sscanf(known_blocks[k].hex + 2 * i, "%2hhx", &block[i]);
        int type = known_blocks[k].type;
        const char *name = gguf_type_name(type);
        cr_assert(n == gguf_block_bytes(type), "%s", name);
        gguf_tensor t = {.name = name, .type = type, .n_dims = 1, .data = block, .path = "x"};
        t.elements = t.dims[0] = gguf_block_elements(type);
        t.bytes = n;
        cr_expect(eq(int, gguf_dequantize(x, &t, 0, t.elements, NULL), KV_OK));
        cr_expect(hash_bytes(x, t.elements * sizeof *x) == known_blocks[k].hash, "%s", name);
    }
}

/* bfloat16: sign, exponent and seven bits; 0x3FC0 = 1.5, 0x0001 is subnormal, 0x7FC0 is a NaN. */
Test(gguf, bfloat16)
{
    const uint16_t bits[4] = {0x3FC0, 0x8000, 0x0001, 0x7FC0};
    float x[4];
    gguf_tensor t = {.name = "b", .type = GGUF_BF16, .elements = 4, .data = bits, .path = "x"};
    cr_expect(eq(int, gguf_dequantize(x, &t, 0, 4, NULL), KV_OK));
    cr_expect(x[0] == 1.5f && x[1] == 0 && signbit(x[1]) && x[2] == ldexpf(1, -133) && isnan(x[3]));
}
