/* kvsink demo: the story of this project, told on any model in four scenes.
 *
 * Without a model it writes the hand-built one, whose text and answers are known, and uses that.
 * With a model and a text it cuts the text into passages joined by the end-of-text token, because
 * this is where sinks are not among the first tokens; a model without such a token gets
 * the text as it is. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "commands.h"
#include "eval.h"
#include "files.h"
#include "handmade.h"
#include "outliers_report.h"
#include "passages.h"
#include "profile.h"
#include "sequence.h"
#include "sinks_report.h"

enum { WINDOW = 512, WINDOWS = 4, MAP = 160, PASSAGE = 60, PROMPT = 256, WRITTEN = 32, ROWS = 5,
       LABEL = 27, LINE = 72 /* of the lines in scene 4 */, COLUMNS = 100 };

typedef struct {
    session s;
    const char *out;
    const tm_handmade_demo *handmade; /* NULL: a real model */
    const char *text;  /* a word about the windows */
    int *windows, count, ctx;
    int *prompt, n_prompt, written;
    const char *keys, *values;
    const char *rule[ROWS], *label[ROWS];
    int rows;
    tm_calibration calibration;
} story;

/* DIR/name; good until four more have been asked for. */
static const char *in_folder(const story *d, const char *name)
{
    static char path[4][TM_PATH_MAX];
    static int next;
    next = (next + 1) % 4;
    snprintf(path[next], sizeof path[next], "%s/%s", d->out, name);
    return path[next];
}

/* Like mkdir -p. */
static int make_folder(const char *path, kv_error *err)
{
    char part[TM_PATH_MAX];
    struct stat st;
    if (strlen(path) >= sizeof part || !*path)
        return kv_fail(err, KV_FAIL_USAGE, "--out: the folder's name is empty or too long");
    for (size_t i = 1; i <= strlen(path); i++) {
        if (path[i] != '/' && path[i] != 0) continue;
        memcpy(part, path, i);
        part[i] = 0;
        if (mkdir(part, 0777) != 0 && errno != EEXIST)
            return kv_fail(err, KV_FAIL_RUN, "cannot make the folder %s: %s", part,
                           strerror(errno));
    }
    if (stat(path, &st) != 0 || !S_ISDIR(st.st_mode))
        return kv_fail(err, KV_FAIL_RUN, "%s is not a folder; name another with --out", path);
    return KV_OK;
}

/* ------------------------------------------------------------ the material */

static int tokenize(int **ids, int *n, const session *s, const char *text, kv_error *err)
{
    return session_tokens(ids, n, s, text, strlen(text), err);
}

static int add_rule(story *d, const char *label, const char *rule)
{
    d->label[d->rows] = label;
    d->rule[d->rows] = rule;
    return d->rows++;
}

static int handmade_material(story *d, kv_error *err)
{
    if (tm_write_text(in_folder(d, "verse.txt"), tm_handmade_verse_twice(), err) ||
        tokenize(&d->windows, &d->ctx, &d->s, tm_handmade_verse_twice(), err) ||
        tokenize(&d->prompt, &d->n_prompt, &d->s, d->handmade->prompt, err)) return err->code;
    d->count = 1;
    d->written = d->handmade->n;
    d->keys = d->handmade->keys;
    d->values = d->handmade->values;
    add_rule(d, "2 bits", "none");
    add_rule(d, "2 bits, first 5 kept", "first:5");
    add_rule(d, "2 bits, KVSink", "kvsink:5");
    return KV_OK;
}

/* The widest group that the head size allows, as a token:G format. */
static const char *token_format(const kv_model *m)
{
    return m->shape.head_size % 64 == 0 ? "2:token:64"
         : m->shape.head_size % 32 == 0 ? "2:token:32" : "2:token:all";
}

static int real_material(story *d, const char *file, kv_error *err)
{
    const session *s = &d->s;
    int *ids, n, eot = tok_end_of_text(s->tok) >= 0, bos = tok_bos(s->tok);
    char *text;
    size_t length;
    if (cli_read_text_file(&text, &length, file, err)) return err->code;
    if (length > 1000000) length = 1000000; /* more than the story needs */
    while (length && ((unsigned char)text[length] & 0xC0) == 0x80) length--;
    int code = eot ? passages_join(&ids, &n, s->tok, text, length, 0, PASSAGE, err)
                   : tok_encode(&ids, &n, s->tok, text, length, 0, err);
    free(text);
    if (code) return code;
    d->ctx = s->model->context < WINDOW ? s->model->context : WINDOW;
    code = tm_windows(&d->windows, &d->count, ids, n, d->ctx,
                      eot || bos < 0 ? TM_BOS_NONE : TM_BOS_EACH, bos, WINDOWS, err);
    free(ids);
    if (code) return code;
    d->n_prompt = PROMPT < d->ctx / 2 ? PROMPT : d->ctx / 2;
    d->written = WRITTEN < d->ctx / 4 ? WRITTEN : d->ctx / 4;
    d->prompt = malloc((size_t)d->n_prompt * sizeof *d->prompt);
    if (!d->prompt) return kv_fail(err, KV_FAIL_RUN, "not enough memory");
    memcpy(d->prompt, d->windows, (size_t)d->n_prompt * sizeof *d->prompt);
    d->keys = "2:channel:128";
    d->values = token_format(s->model);
    add_rule(d, "2 bits", "none");
    add_rule(d, "2 bits, first 5 kept", "first:5");
    add_rule(d, "2 bits, KVSink, 5 kept", "kvsink:5/all");
    add_rule(d, "2 bits, KVSink, all sinks", "kvsink:auto/all");
    return KV_OK;
}

/* --------------------------------------------------------------- the scenes */

static int scene_sinks(story *d, kv_error *err)
{
    sinks_report r;
    char piece[32];
    cli_table t;
    int T = d->ctx < MAP ? d->ctx : MAP, shown = 0;
    if (sinks_report_run(&r, &d->s, d->windows, T, 0.1, err)) return err->code;
    printf("1. Attention sinks\n\n"
           "A head must spend all its attention at every step, also when nothing in the text\n"
           "is of use. It parks the rest on a few tokens and reads next to nothing there: the\n"
           "sinks. The first %d tokens have these (in at least 1 %% of all %d heads they\n"
           "receive more than a tenth of all attention):\n\n", T, r.a.layers * r.a.heads);
    cli_table_begin(&t, "rlrrr");
    cli_table_cell(&t, "position");
    cli_table_cell(&t, "token");
    cli_table_cell(&t, "heads");
    cli_table_cell(&t, "attention there");
    cli_table_cell(&t, "length of its value");
    for (int i = 0; i < r.n_top && shown < 6; i++) {
        int at = r.top[i], best = 0;
        if (r.share[SINKS_EPS][at] < 1) continue;
        for (int l = 1; l < r.a.layers; l++) /* the layer where it is most of a sink */
            if (sinks_layer_alpha(&r, l)[at] > sinks_layer_alpha(&r, best)[at]) best = l;
        cli_table_cell(&t, "%d", at);
        cli_table_cell(&t, "%s", report_piece(piece, sizeof piece, &d->s, d->windows[at]));
        cli_table_cell(&t, "%.0f %%", r.share[SINKS_EPS][at]);
        cli_table_cell(&t, "%.0f %% in layer %d", 100 * sinks_layer_alpha(&r, best)[at], best);
        cli_table_cell(&t, "%.2f of median",
                       sinks_against_median(r.a.v_norm + (size_t)best * (size_t)T, T, at));
        shown++;
    }
    cli_table_print(&t);
    int code = sinks_picture(&r, in_folder(d, "sinks.png"), err);
    if (!code) printf("\nPicture: %s\n\n", in_folder(d, "sinks.png"));
    sinks_report_free(&r);
    return code;
}

static int calibrate(story *d, kv_error *err)
{
    tm_engine e = report_engine(&d->s);
    const int *prompt[WINDOWS];
    int length[WINDOWS];
    for (int i = 0; i < d->count; i++) {
        prompt[i] = d->windows + (size_t)i * (size_t)d->ctx;
        length[i] = d->ctx;
    }
    if (tm_calibrate(&d->calibration, &e, prompt, length, d->count, report_progress, "calibrating",
                     err)) return err->code;
    d->calibration.profile.hash = d->s.weights->hash;
    return tm_profile_write(in_folder(d, "profile.txt"), &d->calibration.profile,
                            "made by kvsink demo", err);
}

static int scene_outliers(story *d, kv_error *err)
{
    outliers_report r;
    const kv_profile *p = &d->calibration.profile;
    if (calibrate(d, err) || outliers_report_run(&r, &d->s, d->windows, d->ctx, err))
        return err->code;
    printf("2. The mark of a sink\n\n"
           "Some layer writes one huge number into one channel of the residual stream of such\n"
           "tokens; later it is taken away again. KVSink reads this number and knows the sinks\n"
           "before any attention is computed.\n\n");
    if (p->n_stages == 0)
        printf("  This model has no such outlier: KVSink will keep nothing.\n");
    for (int i = 0; i < p->n_stages; i++) {
        const kv_stage *s = &p->stage[i];
        printf("  layer %d, channel %d: about %.4g at sinks, %.3g at other tokens", s->layer,
               s->channel, s->at_sinks, s->elsewhere);
        for (int j = 0; j < r.n; j++)
            if (r.o.stage[j].layer == s->layer && r.o.stage[j].channel == s->channel &&
                outliers_dissipation(&r, j) >= 0)
                printf("; gone after layer %d", outliers_dissipation(&r, j));
        printf("%s\n", s->layer + 1 == p->layers ? "; nobody reads it there" : "");
    }
    int code = outliers_picture(&r, in_folder(d, "outliers.png"), err);
    if (!code) {
        printf("\nPicture: %s\n", in_folder(d, "outliers.png"));
        printf("Profile: %s\n\n", in_folder(d, "profile.txt"));
    }
    outliers_report_free(&r);
    return code;
}

static int parse(kv_format *keys, kv_format *values, kv_keep_rule *keep, const char *k,
                 const char *v, const char *rule, kv_error *err)
{
    if (kv_format_parse(keys, k, err) || kv_format_parse(values, v, err)) return err->code;
    return kv_keep_parse(keep, rule, err);
}

static void base_row(cli_table *t, const tm_eval_result *r)
{
    char bytes[32];
    cli_table_cell(t, "16 bits");
    cli_table_cell(t, "16");
    cli_table_cell(t, "%s", cli_bytes(bytes, r->bytes16));
    cli_table_cell(t, "%s", "");
    cli_table_cell(t, "%.2f", r->ppl16);
    cli_table_cell(t, "0");
    cli_table_cell(t, "100 %%");
}

static void cache_row(cli_table *t, const char *label, const tm_eval_result *r)
{
    char bytes[32];
    cli_table_cell(t, "%s", label);
    cli_table_cell(t, "%.2f", r->bits);
    cli_table_cell(t, "%s", cli_bytes(bytes, r->bytes));
    cli_table_cell(t, "%.3g", r->kept);
    cli_table_cell(t, "%.2f", r->ppl);
    if (r->windows > 1) cli_table_cell(t, "%.3f +- %.3f", r->kl, r->kl_error);
    else cli_table_cell(t, "%.3f", r->kl);
    cli_table_cell(t, "%.1f %%", 100 * r->top1);
}

static int scene_cache(story *d, kv_error *err)
{
    tm_engine e = report_engine(&d->s);
    cli_table t;
    static const char *const head[] = {"cache", "bits", "bytes", "kept", "perplexity",
                                       "KL divergence", "same token"};
    printf("3. The cache in 2 bits (keys %s, values %s)\n\n"
           "Sinks have keys and values of an unusual range. Quantized in one group with their\n"
           "neighbours they spoil the scale for all of them. %d window%s of %d tokens,\n%s:\n\n",
           d->keys, d->values, d->count, d->count == 1 ? "" : "s", d->ctx, d->text);
    cli_table_begin(&t, "lrrrrrr");
    for (int i = 0; i < 7; i++) cli_table_cell(&t, "%s", head[i]);
    for (int i = 0; i < d->rows; i++) {
        tm_eval_result r;
        tm_eval_spec spec = {.profile = &d->calibration.profile, .ctx = d->ctx};
        if (parse(&spec.keys, &spec.values, &spec.keep, d->keys, d->values, d->rule[i], err) ||
            tm_eval(&r, &spec, &e, d->s.fast, d->windows, d->count, report_progress,
                    (void *)d->label[i], err)) return err->code;
        if (i == 0) base_row(&t, &r);
        cache_row(&t, d->label[i], &r);
    }
    cli_table_print(&t);
    printf("\n(kept: tokens a layer that stay in 16 bits; KL: distance to the 16-bit predictions,\n"
           "mean in nats%s; same token: share of predictions with the same best token)\n\n",
           d->count > 1 ? " +- standard error" : "");
    return KV_OK;
}

/* Tokens as text on one line. */
static void print_tokens(const story *d, const int *ids, int n)
{
    char *text, shown[LINE];
    size_t length;
    kv_error err;
    if (tok_decode(&text, &length, d->s.tok, ids, n, 1, &err)) return; /* only for show */
    printf("%s\n", tm_printable(shown, sizeof shown, text, length));
    free(text);
}

static int is_end(void *tok, int token)
{
    return tok_is_eog(tok, token);
}

static int write_on(story *d, const char *label, const char *keys, const char *values,
                    const char *rule, kv_error *err)
{
    const kv_model *m = d->s.model;
    size_t C = (size_t)m->width, n = (size_t)d->n_prompt;
    tm_engine e = report_engine(&d->s);
    tm_sequence_spec spec = {.profile = &d->calibration.profile,
                             .capacity = d->n_prompt + d->written};
    tm_sequence *s = NULL;
    int made = 0, *token = malloc((size_t)d->written * sizeof *token);
    float *hidden = session_floats(n * C, "hidden states", err);
    float *logits = session_floats((size_t)m->vocab, "logits", err);
    int code = token && hidden && logits ? KV_OK : kv_fail(err, KV_FAIL_RUN, "not enough memory");
    if (!code) code = parse(&spec.keys, &spec.values, &spec.keep, keys, values, rule, err);
    if (!code) code = tm_sequence_open(&s, &e, d->s.fast, &spec, err);
    if (!code) code = tm_sequence_start(s, hidden, d->prompt, d->n_prompt, err);
    if (!code)
        code = tm_sequence_greedy(s, token, &made, d->written, hidden + (n - 1) * C, logits,
                                  is_end, d->s.tok, err);
    if (!code) {
        printf("  %-*s", LABEL, label);
        print_tokens(d, token, made);
    }
    tm_sequence_close(s);
    free(token);
    free(hidden);
    free(logits);
    return code;
}

static int scene_text(story *d, kv_error *err)
{
    int tail = d->n_prompt < 12 ? d->n_prompt : 12;
    printf("4. What it writes\n\n  %-*s...", LABEL, "after");
    print_tokens(d, d->prompt + d->n_prompt - tail, tail);
    if (write_on(d, "16 bits", "f16", "f16", "none", err)) return err->code;
    for (int i = 0; i < d->rows; i++)
        if (write_on(d, d->label[i], d->keys, d->values, d->rule[i], err)) return err->code;
    if (d->handmade) {
        char shown[LINE];
        printf("  %-*s%s\n", LABEL, "right would be",
               tm_printable(shown, sizeof shown, d->handmade->expected,
                            strlen(d->handmade->expected)));
    }
    printf("\n");
    return KV_OK;
}

/* One more word of a command line, on the next line if it would not fit. */
static void word(int *column, const char *option, const char *value)
{
    int length = (int)(strlen(option) + strlen(value)) + (*option && *value);
    if (*column + 1 + length > COLUMNS - 2) { /* " \\" must fit behind it */
        printf(" \\\n     ");
        *column = 5;
    }
    printf(" %s%s%s", option, *option && *value ? " " : "", value);
    *column += 1 + length;
}

static int by_hand(const story *d, const char *name, const char *file)
{
    int column = printf("  build/kvsink %s", name);
    word(&column, "", d->s.common->positional);
    word(&column, "--file", file);
    return column;
}

static void closing(const story *d, const char *file)
{
    printf("The same by hand:\n");
    int column = by_hand(d, "sinks", file);
    word(&column, "--png", "sinks.png");
    printf("\n");
    column = by_hand(d, "calibrate", file);
    word(&column, "-o", "profile.txt");
    printf("\n");
    column = by_hand(d, "eval", file);
    if (d->handmade) {
        word(&column, "--ctx", "127");
    } else {
        word(&column, "--join", "eot:60");
        word(&column, "--windows", "4");
    }
    word(&column, "--keys", d->keys);
    word(&column, "--values", d->values);
    word(&column, "--keep", d->rule[d->rows - 1]);
    word(&column, "--profile", in_folder(d, "profile.txt"));
    printf("\n\n");
}

static int tell(story *d, const char *file, kv_error *err)
{
    const kv_model *m = d->s.model;
    if (d->handmade ? handmade_material(d, err) : real_material(d, file, err)) return err->code;
    d->text = d->handmade ? "a verse and the same verse again"
            : tok_end_of_text(d->s.tok) >= 0 ? "passages joined by the end-of-text token"
                                             : "with the begin token in front";
    printf("%s: %d layers of %d heads over %d key-value heads, width %d%s\n\n",
           d->s.common->positional, m->layers, m->shape.heads, m->shape.kv_heads, m->width,
           d->handmade ? ",\nbuilt by hand to continue what it has read before" : "");
    if (scene_sinks(d, err) || scene_outliers(d, err) || scene_cache(d, err) ||
        scene_text(d, err)) return err->code;
    closing(d, d->handmade ? in_folder(d, "verse.txt") : file);
    return KV_OK;
}

int cmd_demo(int argc, char **argv)
{
    static char path[TM_PATH_MAX];
    const char *file;
    story d = {0};
    int status;
    const cli_option options[] = {
        {"--file", CLI_STRING, &file, "F", NULL, 0, 0, "a text for MODEL, English prose is best"},
        {"--out", CLI_STRING, &d.out, "DIR", "demo", 0, 0, "folder for pictures and the profile"},
        {0}};
    static const char *const examples[] = {
        "kvsink demo --out build/demo",
        "kvsink demo model.gguf --file book.txt --out build/demo-llm", NULL};
    const cli_command command = {"demo", "Tell the story: sinks, their mark, a broken cache, the"
                                 " repair.", "[MODEL]", 0, options,
                                 "Without MODEL a small hand-built one is written to DIR and used.",
                                 examples};
    cli_common common;
    kv_error err;
    if (!cli_parse(&common, &command, argc, argv, &status)) return status;
    if (common.positional && !file)
        return cli_say_fail(&command, KV_FAIL_USAGE, "--file F is missing: a text for %s",
                            common.positional);
    if (!common.positional && file)
        return cli_say_fail(&command, KV_FAIL_USAGE, "--file: the hand-built model has its own"
                            " text; name a MODEL or leave --file out");
    if (make_folder(d.out, &err)) return cli_fail(&command, &err);
    if (!common.positional) {
        d.handmade = tm_handmade_demo_of(TM_SINKS_SEVERAL);
        tm_handmade_options made = {TM_SINKS_SEVERAL};
        snprintf(path, sizeof path, "%s", in_folder(&d, "handmade.gguf"));
        if (tm_handmade_write(path, &made, &err)) return cli_fail(&command, &err);
        common.positional = path;
    }
    if (session_open(&d.s, &common, &err)) return cli_fail(&command, &err);
    if (tell(&d, file, &err)) status = cli_fail(&command, &err);
    tm_calibration_free(&d.calibration);
    free(d.windows);
    free(d.prompt);
    session_close(&d.s);
    return status;
}
