/* A session: what nearly every command does before its own work begins. Open the file, the
 * tokenizer, the weights and the fast backend; tokenize with the BOS rule; check lengths; run the
 * decoder. In one place, so that commands stay short and agree with each other. */
#ifndef TM_SESSION_H
#define TM_SESSION_H

#include "cli.h"
#include "fast.h"
#include "gguf.h"
#include "kv.h"
#include "model.h"
#include "tokenizer.h"

typedef struct {
    const cli_common *common;
    gguf *file;
    tokenizer *tok;
    tm_model *weights;
    const kv_model *model; /* = weights' model; NULL after session_open_vocabulary */
    tm_fast *fast;
    const kv_backend *backend;
    float *work; /* grows as needed */
    size_t work_size;
} session;

/* Opens common->positional. On failure nothing needs closing. */
int session_open(session *s, const cli_common *common, kv_error *err);

/* File and tokenizer only: any architecture, with or without tensors. */
int session_open_vocabulary(session *s, const cli_common *common, kv_error *err);

void session_close(session *s);

/* Ids of a text (freed by the caller), --special and the BOS rule applied. A BOS that was asked for
 * and that the file does not have is an error. session_text_tokens reads --text or --file, and
 * fails if the text has no token at all. */
int session_tokens(int **ids, int *n, const session *s, const char *text, size_t length,
                   kv_error *err);
int session_text_tokens(int **ids, int *n, const session *s, kv_error *err);

/* The model was trained for so many tokens: n more than that is an error. what: "the text". how:
 * what to do, such as "use --ctx or a shorter text". */
int session_check_length(const session *s, int n, const char *what, const char *how, kv_error *err);

/* session_text_tokens cut to the first ctx tokens (0: all) and checked against the model's
 * context. For commands with a --ctx option. */
int session_window(int **ids, int *n, const session *s, int ctx, kv_error *err);

/* hidden [n][C] of n tokens that see each other only (no memory). tap NULL or mask 0: no taps. */
int session_forward(session *s, float *hidden, const int *tokens, int n, kv_tap_function *tap,
                    void *self, unsigned mask, kv_error *err);

/* logits [n][vocab] of n rows of hidden. */
int session_logits(session *s, float *logits, const float *hidden, int n, kv_error *err);

/* n floats, or NULL and a message. */
float *session_floats(size_t n, const char *what, kv_error *err);

#endif
