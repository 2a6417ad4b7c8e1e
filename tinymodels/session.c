/* What nearly every command does before its own work begins; session.h says what. */
#include "session.h"

#include <stdlib.h>
#include <string.h>

int session_open_vocabulary(session *s, const cli_common *common, kv_error *err)
{
    memset(s, 0, sizeof *s);
    s->common = common;
    if (gguf_open(&s->file, common->positional, err)) return err->code;
    if (tok_open(&s->tok, s->file, err)) {
        gguf_close(s->file);
        s->file = NULL;
        return err->code;
    }
    if (tok_warning(s->tok)) cli_warn("%s", tok_warning(s->tok));
    return KV_OK;
}

int session_open(session *s, const cli_common *common, kv_error *err)
{
    if (session_open_vocabulary(s, common, err)) return err->code;
    gguf *file = s->file;
    s->file = NULL; /* the model owns it from here on, also when it fails */
    if (tm_model_take(&s->weights, file, err) == KV_OK) {
        s->file = s->weights->file;
        s->model = s->weights->kv;
        if (tok_size(s->tok) != s->model->vocab)
            kv_fail(err, KV_FAIL_RUN,
                    "%s: the tokenizer has %d tokens, the embedding %d; the file is "
                    "inconsistent, convert it again",
                    gguf_path(s->file), tok_size(s->tok), s->model->vocab);
        else if (tm_fast_open(&s->fast, common->threads, err) == KV_OK &&
                 tm_model_known(s->weights, s->fast, err) == KV_OK)
            s->backend = tm_fast_backend(s->fast);
    }
    if (s->backend) return KV_OK;
    session_close(s);
    return err->code;
}

void session_close(session *s)
{
    tok_close(s->tok);
    if (s->weights) tm_model_free(s->weights);
    else gguf_close(s->file);
    tm_fast_close(s->fast);
    free(s->work);
    memset(s, 0, sizeof *s);
}

/* ----------------------------------------------------------------- tokens */

int session_tokens(int **ids, int *n, const session *s, const char *text, size_t length,
                   kv_error *err)
{
    int bos = s->common->bos < 0 ? tok_add_bos(s->tok) : s->common->bos;
    *ids = NULL;
    if (bos && tok_bos(s->tok) < 0)
        return kv_fail(err, KV_FAIL_USAGE, "--bos yes: %s has no BOS token; use --bos no",
                       gguf_path(s->file));
    size_t lost = tok_lost_bytes(s->tok, text, length);
    if (lost)
        cli_warn("%zu bytes of the text have no token in this vocabulary and are left out", lost);
    if (tok_encode(ids, n, s->tok, text, length, s->common->special, err)) return err->code;
    if (!bos) return KV_OK;
    int *longer = realloc(*ids, ((size_t)*n + 1) * sizeof **ids);
    if (!longer) {
        free(*ids);
        *ids = NULL;
        return kv_fail(err, KV_FAIL_RUN, "not enough memory for %d tokens", *n);
    }
    memmove(longer + 1, longer, (size_t)*n * sizeof *longer);
    longer[0] = tok_bos(s->tok);
    *ids = longer;
    ++*n;
    return KV_OK;
}

int session_text_tokens(int **ids, int *n, const session *s, kv_error *err)
{
    char *text;
    size_t length;
    if (cli_read_text(&text, &length, s->common, err)) return err->code;
    int code = session_tokens(ids, n, s, text, length, err);
    free(text);
    if (code == KV_OK && *n == 0) {
        free(*ids);
        *ids = NULL;
        code = kv_fail(err, KV_FAIL_RUN, "the text has no token in this vocabulary");
    }
    return code;
}

int session_check_length(const session *s, int n, const char *what, const char *how, kv_error *err)
{
    if (n <= s->model->context) return KV_OK;
    return kv_fail(err, KV_FAIL_RUN, "%s has %d tokens, the model was trained for %d; %s", what, n,
                   s->model->context, how);
}

int session_window(int **ids, int *n, const session *s, int ctx, kv_error *err)
{
    if (session_text_tokens(ids, n, s, err)) return err->code;
    if (ctx > 0 && *n > ctx) *n = ctx;
    if (session_check_length(s, *n, "the text", "use --ctx or a shorter text", err) == KV_OK)
        return KV_OK;
    free(*ids);
    *ids = NULL;
    return err->code;
}

/* ---------------------------------------------------------------- running */

float *session_floats(size_t n, const char *what, kv_error *err)
{
    float *x = n < SIZE_MAX / sizeof *x ? malloc((n + 1) * sizeof *x) : NULL;
    if (!x) {
        char size[32];
        kv_fail(err, KV_FAIL_RUN, "not enough memory for %s (%s); use fewer tokens", what,
                cli_bytes(size, 4.0 * (double)n));
    }
    return x;
}

int session_forward(session *s, float *hidden, const int *tokens, int n, kv_tap_function *tap,
                    void *self, unsigned mask, kv_error *err)
{
    kv_run run = {.model = s->model, .backend = s->backend, .tap = tap, .tap_self = self,
                  .tap_mask = tap ? mask : 0};
    size_t need = kv_forward_work(s->model, run.tap_mask, run.past, n);
    if (need > s->work_size) {
        free(s->work);
        s->work_size = 0;
        s->work = session_floats(need, "the model's intermediate results", err);
        if (!s->work) return err->code;
        s->work_size = need;
    }
    run.work = s->work;
    return kv_forward(hidden, &run, tokens, n, err);
}

int session_logits(session *s, float *logits, const float *hidden, int n, kv_error *err)
{
    kv_run run = {.model = s->model, .backend = s->backend};
    return kv_logits(logits, &run, hidden, n, err);
}
