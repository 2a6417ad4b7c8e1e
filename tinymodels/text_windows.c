/* Texts cut into windows, see text_windows.h. */
#include "text_windows.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "chat.h"
#include "passages.h"

const char *const text_bos_name[3] = {"each", "first", "none"};

int text_parse_join(int *limit, const char *text, kv_error *err)
{
    char *end = NULL;
    *limit = 0;
    if (strcmp(text, "eot") == 0) return KV_OK;
    long n = strncmp(text, "eot:", 4) == 0 ? strtol(text + 4, &end, 10) : 0;
    if (n < 1 || n > 1 << 28 || *end || !isdigit((unsigned char)text[4]))
        return kv_fail(err, KV_FAIL_USAGE, "--join: found '%.40s', expected eot or eot:N (at most N"
                       " tokens of each passage)", text);
    *limit = (int)n;
    return KV_OK;
}

static int read_file(int **ids, int *n, const text_source *t, const session *s, kv_error *err)
{
    char *text;
    size_t length;
    int limit = 0, code = t->join ? text_parse_join(&limit, t->join, err) : KV_OK;
    if (code || cli_read_text_file(&text, &length, t->file, err)) return err->code;
    size_t lost = tok_lost_bytes(s->tok, text, length);
    if (lost) cli_warn("%zu bytes of %s have no token in this vocabulary and are left out", lost,
                       t->file);
    if (t->join) code = passages_join(ids, n, s->tok, text, length, t->special, limit, err);
    else code = tok_encode(ids, n, s->tok, text, length, t->special, err);
    free(text);
    return code;
}

/* A template that wants a BOS gets one in front of the conversation. */
static int read_chat(int **ids, int *n, int *wants_bos, const text_source *t, const session *s,
                     kv_error *err)
{
    chat_list list;
    char *text = NULL;
    size_t length;
    if (chat_read(&list, t->chat, err)) return err->code;
    int code = chat_render(&text, &length, wants_bos, s->file, s->tok, list.message, list.count, 0,
                           err);
    if (!code) code = tok_encode(ids, n, s->tok, text, length, 1, err);
    free(text);
    chat_free(&list);
    return code;
}

int text_tokens(int **ids, int *n, int *wants_bos, const text_source *t, const session *s,
                kv_error *err)
{
    *wants_bos = 0;
    return t->chat ? read_chat(ids, n, wants_bos, t, s, err) : read_file(ids, n, t, s, err);
}

int text_windows_read(text_windows *out, const text_source *t, const session *s, kv_error *err)
{
    int bos = tok_bos(s->tok), wants_bos = 0, *ids = NULL, n = 0;
    memset(out, 0, sizeof *out);
    int code = text_tokens(&ids, &n, &wants_bos, t, s, err);
    if (code) return code;
    out->bos = t->bos >= 0 ? (tm_bos)t->bos : t->join ? TM_BOS_NONE : TM_BOS_EACH;
    if (t->bos < 0 && t->chat) out->bos = wants_bos ? TM_BOS_FIRST : TM_BOS_NONE;
    if (out->bos != TM_BOS_NONE && bos < 0)
        code = kv_fail(err, KV_FAIL_USAGE, "--bos %s: the model has no BOS token; use --bos none",
                       text_bos_name[out->bos]);
    else
        code = tm_windows(&out->window, &out->count, ids, n, t->ctx, out->bos, bos, t->limit, err);
    free(ids);
    char text[sizeof err->text];
    memcpy(text, err->text, sizeof text);
    if (code == KV_FAIL_RUN)
        kv_fail(err, code, "%.200s: %.280s", t->chat ? t->chat : t->file, text);
    return code;
}

void text_windows_free(text_windows *w)
{
    free(w->window);
    memset(w, 0, sizeof *w);
}
