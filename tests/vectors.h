/* Reading the oracle's cases (tests/vectors) and comparing outcomes with them.
 *
 * A piece answers a case: it gets the case's "in" and builds an object like the case's "out", or
 * returns an error code. Comparing is the same for all pieces: integers, strings and shapes exactly,
 * numbers as the case's "compare" says, and NaN equals only NaN. */
#ifndef TESTS_VECTORS_H
#define TESTS_VECTORS_H

#include <cjson/cJSON.h>

#include "check.h"

/* ---- reading inputs -------------------------------------------------------------------------- */

static inline const cJSON *vec_item(const cJSON *in, const char *name)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(in, name);
    cr_assert_not_null(item, "the case has no field '%s'", name);
    return item;
}

static inline int vec_has(const cJSON *in, const char *name)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(in, name);
    return item && !cJSON_IsNull(item);
}

static inline int vec_int(const cJSON *in, const char *name)
{
    return (int)vec_item(in, name)->valuedouble;
}

static inline const char *vec_text(const cJSON *in, const char *name)
{
    return vec_item(in, name)->valuestring;
}

static inline double vec_number(const cJSON *item)
{
    if (cJSON_IsString(item)) {
        const char *s = item->valuestring;
        return !strcmp(s, "NaN") ? NAN : s[0] == '-' ? -INFINITY : INFINITY;
    }
    return item->valuedouble;
}

/* Arrays are allocated and live until the test's process ends. */
static inline float *vec_floats(const cJSON *in, const char *name, int *n)
{
    const cJSON *list = vec_item(in, name), *item;
    float *x = check_floats((size_t)cJSON_GetArraySize(list));
    int i = 0;
    cJSON_ArrayForEach(item, list) x[i++] = (float)vec_number(item);
    if (n)
        *n = i;
    return x;
}

static inline int *vec_ints(const cJSON *in, const char *name, int *n)
{
    const cJSON *list = vec_item(in, name), *item;
    int *x = calloc((size_t)cJSON_GetArraySize(list) + 1, sizeof *x), i = 0;
    cJSON_ArrayForEach(item, list) x[i++] = (int)item->valuedouble;
    if (n)
        *n = i;
    return x;
}

/* ---- building outputs ------------------------------------------------------------------------ */

static inline void vec_add_floats(cJSON *out, const char *name, const float *x, size_t n)
{
    cJSON *list = cJSON_AddArrayToObject(out, name);
    for (size_t i = 0; i < n; i++)
        cJSON_AddItemToArray(list, cJSON_CreateNumber(x[i]));
}

#define VEC_ADD(name_, type)                                                              \
    static inline void name_(cJSON *out, const char *name, const type *x, size_t n)        \
    {                                                                                     \
        cJSON *list = cJSON_AddArrayToObject(out, name);                                  \
        for (size_t i = 0; i < n; i++)                                                    \
            cJSON_AddItemToArray(list, cJSON_CreateNumber((double)x[i]));                  \
    }
VEC_ADD(vec_add_doubles, double)
VEC_ADD(vec_add_ints, int)
VEC_ADD(vec_add_bytes, uint8_t)
VEC_ADD(vec_add_shorts, uint16_t)
VEC_ADD(vec_add_words, uint32_t)

/* ---- comparing ------------------------------------------------------------------------------- */

static inline int vec_equal(const cJSON *want, const cJSON *got, double abs_tol, double rel_tol,
                            char *where, size_t size)
{
    if (!got)
        return 0;
    if (cJSON_IsObject(want) || cJSON_IsArray(want)) {
        const cJSON *w;
        int i = 0;
        if (cJSON_GetArraySize(want) != cJSON_GetArraySize(got)) {
            snprintf(where, size, "%d entries instead of %d in %s", cJSON_GetArraySize(got),
                     cJSON_GetArraySize(want), want->string ? want->string : "a list");
            return 0;
        }
        const cJSON *g = got->child; /* walk both lists: indexing would be quadratic */
        if (want->string && !strcmp(want->string, "words"))
            abs_tol = -1; /* 32 bits do not fit a float32: no rounding */
        cJSON_ArrayForEach(w, want)
        {
            const cJSON *other = cJSON_IsObject(want)
                                     ? cJSON_GetObjectItemCaseSensitive(got, w->string) : g;
            if (!vec_equal(w, other, abs_tol, rel_tol, where, size)) {
                size_t n = strlen(where);
                if (w->string)
                    snprintf(where + n, size - n, " < %s", w->string);
                else
                    snprintf(where + n, size - n, " at [%d]", i);
                return 0;
            }
            i++;
            g = g ? g->next : NULL;
        }
        return 1;
    }
    if (cJSON_IsString(want) && cJSON_IsString(got) && !strcmp(want->valuestring, got->valuestring))
        return 1;
    if (cJSON_IsNull(want) || cJSON_IsBool(want) || (cJSON_IsString(want) && cJSON_IsString(got)))
        return want->type == got->type && !cJSON_IsString(want);
    /* Fractions are written with the digits that give the float32 back, words in full. */
    double a = vec_number(want), b = vec_number(got);
    int same = isnan(a) ? isnan(b) : a == b || fabs(a - b) <= abs_tol + rel_tol * fabs(a);
    if (abs_tol >= 0 && (float)a == (float)b)
        same = 1;
    if (!same)
        snprintf(where, size, "%.9g instead of %.9g", b, a);
    return same;
}

/* ---- going through files --------------------------------------------------------------------- */

/* Fills out, or returns an error code. */
typedef int vec_piece(cJSON *out, const cJSON *in, const cJSON *parameters, kv_error *err);

static inline cJSON *vec_load(const char *path)
{
    FILE *f = fopen(path, "rb");
    cr_assert_not_null(f, "cannot open %s (run from the project's top folder)", path);
    fseek(f, 0, SEEK_END);
    size_t n = (size_t)ftell(f);
    char *text = malloc(n + 1);
    rewind(f);
    cr_assert_eq(fread(text, 1, n, f), n);
    text[n] = 0;
    fclose(f);
    cJSON *whole = cJSON_Parse(text);
    cr_assert_not_null(whole, "%s is not JSON", path);
    free(text);
    return whole;
}

static inline void vec_judge_case(const char *file, const cJSON *c, const cJSON *parameters,
                                  vec_piece *piece)
{
    const cJSON *compare = vec_item(c, "compare");
    int loose = strcmp(vec_text(compare, "kind"), "exact") != 0;
    double abs_tol = loose ? vec_item(compare, "abs")->valuedouble : 0;
    double rel_tol = loose ? vec_item(compare, "rel")->valuedouble : 0;
    char *flags = cJSON_PrintUnformatted(vec_item(c, "flags")), where[300] = "";
    kv_error err = {0};
    cJSON *out = cJSON_CreateObject();
    int bad = piece(out, vec_item(c, "in"), parameters, &err);
    const char *id = vec_text(c, "id");
    if (vec_has(c, "error")) {
        int want = strcmp(vec_text(c, "error"), "usage") ? KV_FAIL_RUN : KV_FAIL_USAGE;
        cr_expect_eq(bad, want, "%s, %s %s: expected a %s error (%s), got %d %s", file, id, flags,
                     vec_text(c, "error"), vec_text(c, "reason"), bad, err.text);
    } else {
        cr_expect_eq(bad, KV_OK, "%s, %s: refused: %s", file, id, err.text);
        cr_expect(!bad && vec_equal(vec_item(c, "out"), out, abs_tol, rel_tol, where, sizeof where),
                  "%s, %s %s: %s", file, id, flags, where);
    }
    cJSON_Delete(out);
    free(flags);
}

/* Every case of a file; the count must be the one it states. */
static inline void vec_judge_file(const char *path, vec_piece *piece)
{
    cJSON *whole = vec_load(path);
    const cJSON *cases = vec_item(whole, "cases"), *c;
    cr_expect_str_eq(vec_text(whole, "format"), "kv-vectors 1");
    cr_expect_eq(cJSON_GetArraySize(cases), vec_int(whole, "numberOfCases"), "%s", path);
    cJSON_ArrayForEach(c, cases) vec_judge_case(path, c, vec_item(whole, "parameters"), piece);
    cJSON_Delete(whole);
}

#endif
