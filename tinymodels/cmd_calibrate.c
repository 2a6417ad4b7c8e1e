/* kvsink calibrate: learn where a model's outliers emerge, and write it down. */
#include <stdlib.h>
#include <string.h>

#include "commands.h"
#include "profile.h"
#include "ranges.h"
#include "report.h"
#include "text_windows.h"

enum { WINDOW = 512 };

/* What the command line names. */
typedef struct {
    cli_list files, chats;
    const char *join; /* of files, or NULL */
    int limit;        /* prompts of each text */
} texts;

typedef struct {
    const session *s;
    int n;
    const int *prompt[CLI_LIST_MAX * 8];
    int length[CLI_LIST_MAX * 8];
    char *comment; /* for the profile */
    size_t comment_size;
} prompts;

enum { PROMPTS_MAX = CLI_LIST_MAX * 8 };

static int add_prompt(prompts *p, const int *ids, int n, int bos, kv_error *err)
{
    if (p->n == PROMPTS_MAX)
        return kv_fail(err, KV_FAIL_USAGE, "more than %d prompts; use fewer --file or --windows",
                       PROMPTS_MAX);
    int *copy = malloc(((size_t)n + 1) * sizeof *copy);
    if (!copy) return kv_fail(err, KV_FAIL_RUN, "not enough memory for %d tokens", n);
    copy[0] = bos;
    memcpy(copy + (bos >= 0), ids, (size_t)n * sizeof *copy);
    p->prompt[p->n] = copy;
    p->length[p->n++] = n + (bos >= 0);
    return KV_OK;
}

static void note_file(prompts *p, const text_source *t, const char *path, int windows, int length)
{
    const char *name = strrchr(path, '/');
    size_t used = strlen(p->comment);
    snprintf(p->comment + used, p->comment_size - used, "  %.200s%s%.20s%s: %d prompt%s of %d tokens\n",
             name ? name + 1 : path, t->join ? " (joined, " : "", t->join ? t->join : "",
             t->join ? ")" : "", windows, windows == 1 ? "" : "s", length);
}

/* Does a prompt begin with a BOS? Joined passages have end-of-text tokens where it would stand. */
static int has_bos(int *bos, const session *s, const text_source *t, int wants_bos, kv_error *err)
{
    *bos = s->common->bos;
    if (*bos < 0) *bos = t->join ? 0 : t->chat ? wants_bos : tok_add_bos(s->tok);
    if (*bos && tok_bos(s->tok) < 0)
        return kv_fail(err, KV_FAIL_USAGE, "--bos yes: the model has no BOS token; use --bos no");
    if (s->model->context > *bos) return KV_OK;
    return kv_fail(err, KV_FAIL_RUN, "the model was trained for %d token, which its BOS takes; use"
                   " --bos no", s->model->context);
}

/* The windows of one text, spread evenly over it; one shorter than a window is one prompt. */
static int add_ids(prompts *p, const text_source *t, const int *ids, int n, int bos, kv_error *err)
{
    const session *s = p->s;
    const char *path = t->chat ? t->chat : t->file;
    int most = s->model->context < WINDOW ? s->model->context : WINDOW;
    int step = most - bos, all = n / step, code = KV_OK;
    int windows = all == 0 ? 1 : all < t->limit ? all : t->limit;
    if (n == 0) return kv_fail(err, KV_FAIL_RUN, "%s: has no token in this vocabulary", path);
    for (int i = 0; i < windows && !code; i++) {
        int first = all == 0 ? 0 : (int)((long long)i * all / windows) * step;
        code = add_prompt(p, ids + first, all == 0 ? n : step, bos ? tok_bos(s->tok) : -1, err);
    }
    if (!code) note_file(p, t, path, windows, p->length[p->n - 1]);
    return code;
}

static int add_text(prompts *p, const text_source *t, kv_error *err)
{
    int *ids, n, wants_bos, bos;
    if (text_tokens(&ids, &n, &wants_bos, t, p->s, err)) return err->code;
    int code = has_bos(&bos, p->s, t, wants_bos, err);
    if (!code) code = add_ids(p, t, ids, n, bos, err);
    free(ids);
    return code;
}

static void free_prompts(prompts *p)
{
    for (int i = 0; i < p->n; i++) free((int *)p->prompt[i]);
    free(p->comment);
}

static int read_prompts(prompts *p, const texts *t, kv_error *err)
{
    text_source source = {.limit = t->limit, .join = t->join, .special = p->s->common->special};
    p->comment_size = 256 + (size_t)(t->files.count + t->chats.count) * 320;
    p->comment = calloc(p->comment_size, 1);
    if (!p->comment) return kv_fail(err, KV_FAIL_RUN, "not enough memory");
    snprintf(p->comment, p->comment_size, "made by kvsink calibrate (%s) from\n", cli_version());
    for (int i = 0; i < t->files.count; i++) {
        source.file = t->files.item[i];
        if (add_text(p, &source, err)) return err->code;
    }
    source.file = source.join = NULL;
    for (int i = 0; i < t->chats.count; i++) {
        source.chat = t->chats.item[i];
        if (add_text(p, &source, err)) return err->code;
    }
    return KV_OK;
}

static void print_json(const tm_calibration *c, const char *path)
{
    cJSON *root = cJSON_CreateObject(), *stages = cJSON_AddArrayToObject(root, "stages");
    for (int i = 0; i < c->profile.n_stages; i++) {
        const kv_stage *s = &c->profile.stage[i];
        cJSON *o = cJSON_CreateObject();
        cli_json_add_int(o, "layer", s->layer);
        cli_json_add_int(o, "channel", s->channel);
        cli_json_add_int(o, "sign", s->sign);
        cli_json_add_number(o, "threshold", s->threshold);
        cli_json_add_number(o, "at_sinks", s->at_sinks);
        cli_json_add_number(o, "elsewhere", s->elsewhere);
        cli_json_add_int(o, "prompts", s->prompts);
        cJSON_AddItemToArray(stages, o);
    }
    cli_json_add_int(root, "prompts", c->prompts);
    cJSON_AddBoolToObject(root, "weak", c->profile.weak);
    if (c->profile.n_ids)
        cJSON_AddItemToObject(root, "ids", cli_json_ints(c->profile.ids, c->profile.n_ids));
    else cJSON_AddArrayToObject(root, "ids");
    if (c->sun_layer >= 0) {
        cJSON *sun = cJSON_AddObjectToObject(root, "sun");
        cli_json_add_int(sun, "layer", c->sun_layer);
        cli_json_add_int(sun, "channel", c->sun_channel);
        cli_json_add_int(sun, "prompts", c->sun_prompts);
    } else {
        cJSON_AddNullToObject(root, "sun");
    }
    if (c->profile.range_keep)
        cli_json_add_text(root, "static", c->profile.range_keep, strlen(c->profile.range_keep));
    cli_json_add_text(root, "profile", path, strlen(path));
    cli_json_print(root);
}

static void print_stages(const tm_calibration *c)
{
    cli_table t;
    static const char *const head[] = {"stage", "channel", "sign", "median at sinks", "elsewhere",
                                       "ratio", "threshold", "prompts"};
    cli_table_begin(&t, "rrrrrrrr");
    for (int i = 0; i < 8; i++) cli_table_cell(&t, "%s", head[i]);
    for (int i = 0; i < c->profile.n_stages; i++) {
        const kv_stage *s = &c->profile.stage[i];
        cli_table_cell(&t, "layer %d", s->layer);
        cli_table_cell(&t, "%d", s->channel);
        cli_table_cell(&t, "%s", s->sign < 0 ? "-" : "+");
        cli_table_cell(&t, "%.5g", s->at_sinks);
        cli_table_cell(&t, "%.4g", s->elsewhere);
        if (s->elsewhere > 0) cli_table_cell(&t, "%.4g", s->at_sinks / s->elsewhere);
        else cli_table_cell(&t, "%s", "-");
        cli_table_cell(&t, "%.5g", s->threshold);
        cli_table_cell(&t, "%d of %d", s->prompts, c->prompts);
    }
    cli_table_print(&t);
}

static void print_ids(const session *s, const kv_profile *p)
{
    enum { SHOWN = 12 };
    char piece[32];
    if (p->n_ids == 0) {
        printf("No token is a sink in at least half of its occurrences.\n");
        return;
    }
    printf("Sinks in at least half of their occurrences:");
    for (int i = 0; i < p->n_ids && i < SHOWN; i++)
        printf("%s %d %s", i ? "," : "", p->ids[i],
               report_piece(piece, sizeof piece, s, p->ids[i]));
    if (p->n_ids > SHOWN) printf(", and %d more", p->n_ids - SHOWN);
    printf("\n");
}

static void print_text(const session *s, const tm_calibration *c, const char *path)
{
    printf("%d prompt%s, %d layers, width %d\n\n", c->prompts, c->prompts == 1 ? "" : "s",
           c->profile.layers, c->profile.width);
    if (c->profile.n_stages == 0) {
        printf("No emergence stage: no channel of the residual rises to 300 times the median%s.\n"
               "KVSink will keep nothing with this profile, which is a legal answer.\n",
               c->profile.weak ? "" : " and to 100");
    } else {
        print_stages(c);
        if (c->profile.weak)
            printf("No outlier reached 100; these were found by their ratio to the median"
                   " alone.\n");
        print_ids(s, &c->profile);
    }
    if (c->sun_layer >= 0)
        printf("Sun et al. (above 100 and 1000 times the median): first at layer %d, channel %d, in"
               " %d of %d prompts\n", c->sun_layer, c->sun_channel, c->sun_prompts, c->prompts);
    else
        printf("Sun et al. (above 100 and 1000 times the median): nowhere, in %d of %d prompts\n",
               c->sun_prompts, c->prompts);
    if (c->profile.range_row)
        printf("Static ranges of %d channels of keys and values in each layer; left out of them: %s\n",
               c->profile.range_row, c->profile.range_keep);
    printf("\nwritten: %s\n", path);
}

/* keep NULL: no static ranges are asked for. */
static int add_ranges(tm_calibration *c, const prompts *p, const tm_engine *e, const char *keep,
                      kv_error *err)
{
    kv_keep_rule rule;
    if (!keep) return KV_OK;
    if (kv_keep_parse(&rule, keep, err) ||
        tm_ranges(&c->profile, &rule, e, p->prompt, p->length, p->n, report_progress,
                  "static ranges", err)) return err->code;
    c->profile.range_keep = malloc(strlen(keep) + 1);
    if (!c->profile.range_keep) return kv_fail(err, KV_FAIL_RUN, "not enough memory");
    strcpy(c->profile.range_keep, keep);
    return KV_OK;
}

static int run(session *s, const texts *t, const char *path, const char *keep, kv_error *err)
{
    static prompts p; /* large */
    tm_engine e = report_engine(s);
    tm_calibration c = {0};
    memset(&p, 0, sizeof p);
    p.s = s;
    int code = read_prompts(&p, t, err);
    if (!code)
        code = tm_calibrate(&c, &e, p.prompt, p.length, p.n, report_progress, "calibrating", err);
    if (!code) code = add_ranges(&c, &p, &e, keep, err);
    c.profile.hash = s->weights->hash;
    if (!code) code = tm_profile_write(path, &c.profile, p.comment, err);
    if (!code && s->common->json) print_json(&c, path);
    else if (!code) print_text(s, &c, path);
    tm_profile_free(&c.profile); /* its static ranges, too */
    tm_calibration_free(&c);
    free_prompts(&p);
    return code;
}

static const char details[] =
    "A prompt is a window of 512 tokens (less if the model takes less), or the whole\n"
    "file if it is shorter. A stage is a layer where an outlier has just emerged: in\n"
    "more than half of the prompts a channel of the residual has at least doubled\n"
    "from layer to layer up to there, to 100 or more and to 300 times the median.\n"
    "The profile is a text file that can be read and edited. A model without such\n"
    "outliers has no stage; then KVSink keeps nothing.\n"
    "\n"
    "--join eot[:N]: the passages of each --file (separated by empty lines; at most N\n"
    "tokens of each) are joined by the end-of-text token, without a BOS, so that it is\n"
    "learned if it is a sink. --chat: conversations, each a JSON list of {role,\n"
    "content}, in the model's own chat template; its special tokens are learned, too.\n"
    "\n"
    "--static adds the lowest and highest value of each channel of keys (after and\n"
    "before RoPE) and values, which static formats use instead of the data's. The\n"
    "tokens that --keep KEEP keeps, with what has just been learned, are left out;\n"
    "by default none are, so that the sinks stretch the ranges for all.";

/* ranges: was --static given? */
static int check(const texts *t, const char *path, const char *keep, int ranges, kv_error *err)
{
    kv_keep_rule rule;
    int limit;
    if (!path) return kv_fail(err, KV_FAIL_USAGE, "-o PROFILE is missing");
    if (t->files.count + t->chats.count == 0)
        return kv_fail(err, KV_FAIL_USAGE, "--file FILE ... is missing: name at least one text to"
                       " calibrate on (or a conversation, with --chat)");
    if (t->join && !t->files.count)
        return kv_fail(err, KV_FAIL_USAGE, "--join joins the passages of --file; a --chat has its"
                       " own form");
    if (t->join && text_parse_join(&limit, t->join, err)) return err->code;
    if (keep && !ranges)
        return kv_fail(err, KV_FAIL_USAGE, "--keep belongs to --static: it says which tokens do not"
                       " count for the ranges");
    return keep ? kv_keep_parse(&rule, keep, err) : KV_OK;
}

int cmd_calibrate(int argc, char **argv)
{
    static texts t; /* large */
    const char *path, *keep;
    int status, ranges;
    const cli_option options[] = {
        {"--file", CLI_LIST, &t.files, "FILE", NULL, 0, 0, "texts to look at (UTF-8)"},
        {"-o", CLI_STRING, &path, "PROFILE", NULL, 0, 0, "where to write the profile"},
        {"--windows", CLI_INT, &t.limit, "N", "4", 1, 1024,
         "at most N prompts of each text, spread evenly over it"},
        {"--join", CLI_STRING, &t.join, "eot[:N]", NULL, 0, 0, "join passages, see below"},
        {"--chat", CLI_LIST, &t.chats, "FILE", NULL, 0, 0, "conversations, besides --file or alone"},
        {"--static", CLI_FLAG, &ranges, NULL, NULL, 0, 0,
         "learn the range of each channel as well, for static formats"},
        {"--keep", CLI_STRING, &keep, "KEEP", NULL, 0, 0,
         "with --static: tokens that do not count for the ranges (default: none)"},
        {0}};
    static const char *const examples[] = {
        "kvsink calibrate model.gguf --file book.txt -o profile.txt",
        "kvsink calibrate model.gguf --file book.txt code.c chat.txt --windows 8 -o profile.txt",
        "kvsink calibrate model.gguf --file book.txt --join eot:60 --chat talk.json -o profile.txt",
        "kvsink calibrate model.gguf --file book.txt --static --keep kvsink:5 -o profile.txt",
        NULL};
    const cli_command command = {"calibrate",
                                 "Learn where a model's outliers emerge; write a profile.",
                                 "MODEL", CLI_BOS | CLI_SPECIAL, options, details, examples};
    cli_common common;
    session s;
    kv_error err;
    if (!cli_parse(&common, &command, argc, argv, &status)) return status;
    if (check(&t, path, keep, ranges, &err)) return cli_fail(&command, &err);
    if (ranges && !keep) keep = "none";
    if (session_open(&s, &common, &err)) return cli_fail(&command, &err);
    if (run(&s, &t, path, keep, &err)) status = cli_fail(&command, &err);
    session_close(&s);
    return status;
}
