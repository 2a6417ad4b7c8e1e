/* Cutting and joining; passages.h says how. */
#include "passages.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    const tokenizer *tok;
    int special, limit;
    int *ids, n;
} stream;

static int append(stream *s, const int *ids, int n, kv_error *err)
{
    int *longer = realloc(s->ids, ((size_t)s->n + (size_t)n + 1) * sizeof *longer);
    if (!longer) return kv_fail(err, KV_FAIL_RUN, "not enough memory for %d tokens", s->n + n);
    if (n) memcpy(longer + s->n, ids, (size_t)n * sizeof *ids);
    s->ids = longer;
    s->n += n;
    return KV_OK;
}

/* The end of the line that begins at p. */
static const char *line_end(const char *p, const char *end)
{
    const char *newline = memchr(p, '\n', (size_t)(end - p));
    return newline ? newline + 1 : end;
}

static int is_blank(const char *p, const char *end)
{
    while (p < end && isspace((unsigned char)*p)) p++;
    return p == end;
}

static int append_passage(stream *s, const char *p, const char *end, kv_error *err)
{
    int eot = tok_end_of_text(s->tok), *ids, n;
    while (p < end && isspace((unsigned char)*p)) p++;
    while (end > p && isspace((unsigned char)end[-1])) end--;
    if (p == end) return KV_OK;
    int code = tok_encode(&ids, &n, s->tok, p, (size_t)(end - p), s->special, err);
    if (code) return code;
    code = append(s, &eot, 1, err);
    if (!code) code = append(s, ids, s->limit > 0 && n > s->limit ? s->limit : n, err);
    free(ids);
    return code;
}

int passages_join(int **ids, int *n, const tokenizer *tok, const char *text, size_t length,
                  int special, int limit, kv_error *err)
{
    stream s = {tok, special, limit, NULL, 0};
    const char *end = text + length, *start = text;
    int code = append(&s, NULL, 0, err);
    if (!code && tok_end_of_text(tok) < 0)
        code = kv_fail(err, KV_FAIL_USAGE, "the model's vocabulary has no end-of-text token to join"
                       " passages with");
    for (const char *p = text; p < end && !code; ) {
        const char *next = line_end(p, end);
        if (is_blank(p, next)) {
            code = append_passage(&s, start, p, err);
            start = next;
        }
        p = next;
    }
    if (!code) code = append_passage(&s, start, end, err);
    if (code) {
        free(s.ids);
        return code;
    }
    *ids = s.ids;
    *n = s.n;
    return KV_OK;
}
