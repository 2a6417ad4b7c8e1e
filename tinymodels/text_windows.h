/* Text windows: from a file, joined passages or a conversation to the windows that an evaluation
 * runs on. */
#ifndef TM_TEXT_WINDOWS_H
#define TM_TEXT_WINDOWS_H

#include "eval.h"
#include "session.h"

typedef struct {
    const char *file, *chat;  /* exactly one */
    const char *join;         /* NULL, or "eot", "eot:N"; files only */
    int ctx, limit, special;  /* limit: windows at most; 0: all */
    int bos;                  /* a tm_bos, or -1: each; joined: none; chat: as its template wants */
} text_source;

typedef struct {
    int *window; /* [count][ctx] */
    int count;
    tm_bos bos;  /* what was used */
} text_windows;

/* "each", "first", "none". */
extern const char *const text_bos_name[3];

/* "eot" or "eot:N" (then *limit = N, else 0). */
int text_parse_join(int *limit, const char *text, kv_error *err);

/* The ids of the whole text without a BOS (freed by the caller). *wants_bos: a conversation whose
 * template begins with one; 0 for files. */
int text_tokens(int **ids, int *n, int *wants_bos, const text_source *t, const session *s,
                kv_error *err);

/* Release with text_windows_free. */
int text_windows_read(text_windows *out, const text_source *t, const session *s, kv_error *err);
void text_windows_free(text_windows *w);

#endif
