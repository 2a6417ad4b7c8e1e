/* kvsink dump: any intermediate result of the model, as an array. */
#include <stdlib.h>
#include <string.h>

#include "commands.h"
#include "npy.h"
#include "session.h"

typedef struct {
    kv_tap tap;
    int layer;
    tm_out out;
    size_t dims[3];
    int n_dims, written;
} dump;

/* The true shape of a tap's array for n tokens. */
static void set_shape(dump *d, const kv_model *m, int n)
{
    size_t T = (size_t)n, H = (size_t)m->shape.heads, D = (size_t)m->shape.head_size;
    size_t shape[3] = {T, (size_t)m->width, D};
    d->n_dims = 2;
    switch (d->tap) {
    case KV_TAP_Q_PRE: case KV_TAP_Q: case KV_TAP_ATTN_OUT:
        shape[1] = H;
        d->n_dims = 3;
        break;
    case KV_TAP_K_PRE: case KV_TAP_K: case KV_TAP_V:
        shape[1] = (size_t)m->shape.kv_heads;
        d->n_dims = 3;
        break;
    case KV_TAP_ATTENTION:
        shape[0] = H;
        shape[1] = shape[2] = T;
        d->n_dims = 3;
        break;
    case KV_TAP_DOWN_IN: shape[1] = (size_t)m->ffn; break;
    case KV_TAP_LOGITS: shape[1] = (size_t)m->vocab; break;
    default: break;
    }
    memcpy(d->dims, shape, sizeof shape);
}

static void on_tap(void *self, kv_tap tap, int layer, float *data, int rows, int cols)
{
    dump *d = self;
    if (tap != d->tap || layer != d->layer) return;
    npy_floats(&d->out, data, (size_t)rows * (size_t)cols);
    d->written = 1;
}

/* Which layer the tap belongs to: embed stands before the first, logits behind the last. */
static int check_layer(dump *d, const char *name, int layer, const kv_model *m, kv_error *err)
{
    int given = cli_given("--layer"), outside = d->tap == KV_TAP_EMBED || d->tap == KV_TAP_LOGITS;
    d->layer = d->tap == KV_TAP_EMBED ? -1 : d->tap == KV_TAP_LOGITS ? m->layers : layer;
    if (outside && given && layer != d->layer)
        return kv_fail(err, KV_FAIL_USAGE,
                       "--layer: found %d; the tap '%s' belongs to no layer, leave "
                       "--layer out",
                       layer, name);
    if (!outside && !given)
        return kv_fail(err, KV_FAIL_USAGE, "--layer L is missing; the model has layers 0 to %d",
                       m->layers - 1);
    if (!outside && (layer < 0 || layer >= m->layers))
        return kv_fail(err, KV_FAIL_USAGE, "--layer: found %d; the model has layers 0 to %d", layer,
                       m->layers - 1);
    return KV_OK;
}

static int run(session *s, dump *d, const int *ids, int n, kv_error *err)
{
    enum { ROWS = 64 };
    size_t C = (size_t)s->model->width;
    float *hidden = session_floats((size_t)n * C, "hidden states", err), *logits = NULL;
    npy_header(&d->out, "<f4", d->dims, d->n_dims);
    int code =
        hidden ? session_forward(s, hidden, ids, n, on_tap, d, 1u << d->tap, err) : err->code;
    if (code == KV_OK && d->tap == KV_TAP_LOGITS) {
        logits = session_floats((size_t)ROWS * (size_t)s->model->vocab, "logits", err);
        if (!logits) code = err->code;
    }
    for (int i = 0; code == KV_OK && logits && i < n; i += ROWS) {
        int rows = n - i < ROWS ? n - i : ROWS;
        code = session_logits(s, logits, hidden + (size_t)i * C, rows, err);
        if (code == KV_OK) on_tap(d, KV_TAP_LOGITS, d->layer, logits, rows, s->model->vocab);
    }
    free(hidden);
    free(logits);
    if (code == KV_OK && !d->written)
        code = kv_fail(err, KV_FAIL_RUN, "the model has nothing at this tap and layer");
    return code;
}

static void report(const dump *d, const cli_common *common, const char *tap, const char *path)
{
    if (common->json) {
        cJSON *root = cJSON_CreateObject(), *shape = cJSON_CreateArray();
        for (int i = 0; i < d->n_dims; i++)
            cJSON_AddItemToArray(shape, cJSON_CreateNumber((double)d->dims[i]));
        cJSON_AddStringToObject(root, "tap", tap);
        cli_json_add_int(root, "layer", d->layer);
        cJSON_AddItemToObject(root, "shape", shape);
        cli_json_add_text(root, "file", path, strlen(path));
        cli_json_print(root);
        return;
    }
    printf("%s: %s", path, tap);
    if (d->tap != KV_TAP_EMBED && d->tap != KV_TAP_LOGITS) printf(" of layer %d", d->layer);
    for (int i = 0; i < d->n_dims; i++) printf(i ? " x %zu" : ", %zu", d->dims[i]);
    printf(" float32\n");
}

int cmd_dump(int argc, char **argv)
{
    const char *tap, *path;
    int ctx, layer, status, *ids = NULL, n = 0;
    const cli_option options[] = {
        {"--tap", CLI_STRING, &tap, "NAME", NULL, 0, 0,
         "embed q_pre k_pre q k v attention attn_out h_attn down_in down_out h logits"},
        {"--layer", CLI_INT, &layer, "L", "(none)", -1, 1 << 20,
         "layer, from 0; not for embed and logits"},
        {"--ctx", CLI_INT, &ctx, "N", "(the whole text)", 1, 1 << 28, "only the first N tokens"},
        {"-o", CLI_STRING, &path, "X.npy", NULL, 0, 0, "where to write"},
        {0}};
    static const char *const examples[] = {
        "kvsink dump model.gguf --text 'Once upon a time' --tap h --layer 4 -o h4.npy",
        "kvsink dump model.gguf --file book.txt --ctx 64 --tap attention --layer 9 -o a.npy", NULL};
    const cli_command command = {
        "dump", "Write any intermediate result of the model to a .npy file.", "MODEL",
        CLI_TEXT | CLI_BOS, options,
        "T tokens, H query heads, Hk KV heads, D head size, C width, F feed-forward:\n"
        "  embed      [T,C]     token embedding\n"
        "  q_pre q    [T,H,D]   queries before and after RoPE\n"
        "  k_pre k v  [T,Hk,D]  keys before and after RoPE, values\n"
        "  attention  [H,T,T]   weights: head, query, key\n"
        "  attn_out   [T,H,D]   what attention returns, before its output projection\n"
        "  h_attn     [T,C]     residual after attention\n"
        "  down_in    [T,F]     input of the FFN's down projection\n"
        "  down_out   [T,C]     its output\n"
        "  h          [T,C]     residual after the FFN\n"
        "  logits     [T,vocabulary]", examples};
    cli_common common;
    session s;
    kv_error err;
    if (!cli_parse(&common, &command, argc, argv, &status)) return status;
    if (!tap) return cli_say_fail(&command, KV_FAIL_USAGE, "--tap NAME is missing");
    if (!path || !*path) return cli_say_fail(&command, KV_FAIL_USAGE, "-o X.npy is missing");
    int which = kv_tap_find(tap);
    if (which < 0)
        return cli_say_fail(&command, KV_FAIL_USAGE,
                            "--tap: found '%.60s', expected one of embed q_pre "
                            "k_pre q k v attention attn_out h_attn down_in down_out h logits",
                            tap);
    if (session_open(&s, &common, &err)) return cli_fail(&command, &err);
    dump *d = calloc(1, sizeof *d); /* a tm_out is large */
    if (!d) kv_fail(&err, KV_FAIL_RUN, "not enough memory");
    else d->tap = (kv_tap)which;
    if (!d || check_layer(d, tap, layer, s.model, &err) ||
        session_window(&ids, &n, &s, ctx, &err) ||
        (set_shape(d, s.model, n), tm_out_open(&d->out, path, &err)) || run(&s, d, ids, n, &err) ||
        tm_out_close(&d->out, &err)) {
        if (d) tm_out_abandon(&d->out);
        status = cli_fail(&command, &err);
    } else {
        report(d, &common, tap, path);
    }
    free(d);
    free(ids);
    session_close(&s);
    return status;
}
