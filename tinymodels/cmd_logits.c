/* kvsink logits: the model's raw predictions, for comparison with other programs. */
#include <stdlib.h>
#include <string.h>

#include "commands.h"
#include "npy.h"
#include "session.h"

enum { ROWS = 64 }; /* logits at once: 512 tokens of a large vocabulary would not fit in memory */

static int write_logits(session *s, tm_out *out, const float *hidden, int n, kv_error *err)
{
    const kv_model *m = s->model;
    size_t dims[2] = {(size_t)n, (size_t)m->vocab};
    float *logits = session_floats((size_t)ROWS * (size_t)m->vocab, "logits", err);
    int code = logits ? KV_OK : err->code;
    npy_header(out, "<f4", dims, 2);
    for (int i = 0; i < n && code == KV_OK; i += ROWS) {
        int rows = n - i < ROWS ? n - i : ROWS;
        cli_progress(i, n, "logits");
        code = session_logits(s, logits, hidden + (size_t)i * (size_t)m->width, rows, err);
        if (code == KV_OK) npy_floats(out, logits, (size_t)rows * (size_t)m->vocab);
    }
    cli_progress(n, n, "logits");
    free(logits);
    return code;
}

static int run(session *s, tm_out *out, const int *ids, int n, kv_error *err)
{
    float *hidden = session_floats((size_t)n * (size_t)s->model->width, "hidden states", err);
    int code = hidden ? session_forward(s, hidden, ids, n, NULL, NULL, 0, err) : err->code;
    if (code == KV_OK) code = write_logits(s, out, hidden, n, err);
    free(hidden);
    return code;
}

int cmd_logits(int argc, char **argv)
{
    const char *path;
    int ctx, status, *ids = NULL, n = 0;
    const cli_option options[] = {
        {"--ctx", CLI_INT, &ctx, "N", "(the whole text)", 1, 1 << 28, "only the first N tokens"},
        {"-o", CLI_STRING, &path, "OUT.npy", NULL, 0, 0,
         "where to write float32 [tokens, vocabulary]"},
        {0}};
    static const char *const examples[] = {
        "kvsink logits model.gguf --text 'The quick brown fox' -o logits.npy",
        "kvsink logits model.gguf --file book.txt --ctx 512 -o logits.npy", NULL};
    const cli_command command = {"logits", "Write the logits of a text to a .npy file.", "MODEL",
                                 CLI_TEXT | CLI_BOS, options, NULL, examples};
    cli_common common;
    session s;
    kv_error err;
    tm_out out = {0};
    if (!cli_parse(&common, &command, argc, argv, &status)) return status;
    if (!path || !*path) return cli_say_fail(&command, KV_FAIL_USAGE, "-o OUT.npy is missing");
    if (session_open(&s, &common, &err)) return cli_fail(&command, &err);
    if (session_window(&ids, &n, &s, ctx, &err) || tm_out_open(&out, path, &err) ||
        run(&s, &out, ids, n, &err) || tm_out_close(&out, &err)) {
        tm_out_abandon(&out);
        status = cli_fail(&command, &err);
    } else if (common.json) {
        cJSON *root = cJSON_CreateObject();
        cli_json_add_int(root, "tokens", n);
        cli_json_add_int(root, "vocabulary", s.model->vocab);
        cli_json_add_text(root, "file", path, strlen(path));
        cli_json_print(root);
    } else {
        char size[32];
        printf("%s: %d tokens x %d logits, %s\n", path, n, s.model->vocab,
               cli_bytes(size, 4.0 * n * s.model->vocab));
    }
    free(ids);
    session_close(&s);
    return status;
}
