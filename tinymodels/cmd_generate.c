/* kvsink generate: continue a prompt with any cache format and keep rule.
 *
 * As eval --stream does: the prompt is a prefill that attends to unquantized keys and values, the
 * keep set comes from it, and from then on every token is appended to the packed cache and
 * reads from it. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "chat.h"
#include "commands.h"
#include "files.h"
#include "profile.h"
#include "report.h"
#include "sequence.h"
#include "session.h"

typedef struct {
    session s;
    cli_cache cache;
    kv_profile profile;
    const kv_profile *known; /* &profile, or NULL */
    tm_sequence *sequence;
    tm_device *device;  /* or NULL */
    int backend;
    float *scratch;     /* the scalar backend's */
    kv_backend scalar;
    int *prompt, *token; /* token: what was generated */
    int n_prompt, n_token, n, stopped;
    float *hidden, *logits; /* [n_prompt][width], and one row */
    double temperature, *weight;
    uint64_t random;
    char waiting[8]; /* bytes of a character that is not complete yet */
    size_t n_waiting;
} job;

/* ----------------------------------------------------------------- prompt */

static int chat_prompt(job *j, const char *prompt, kv_error *err)
{
    const chat_message message = {"user", prompt};
    cli_common common = *j->s.common;
    session as_chat = j->s;
    char *text;
    size_t n;
    int wants_bos;
    if (chat_render(&text, &n, &wants_bos, j->s.file, j->s.tok, &message, 1, 1, err))
        return err->code;
    common.special = 1;
    if (common.bos < 0 && wants_bos) common.bos = 1;
    as_chat.common = &common;
    int code = session_tokens(&j->prompt, &j->n_prompt, &as_chat, text, n, err);
    free(text);
    return code;
}

static int read_prompt(job *j, const char *prompt, int chat, kv_error *err)
{
    size_t n = strlen(prompt);
    if (cli_check_text(prompt, n, "--prompt", err)) return err->code;
    int code = chat ? chat_prompt(j, prompt, err)
                    : session_tokens(&j->prompt, &j->n_prompt, &j->s, prompt, n, err);
    if (code) return code;
    if (j->n_prompt == 0)
        return kv_fail(err, KV_FAIL_RUN, "--prompt: the text has no token in this vocabulary");
    if (j->n > j->s.model->context - j->n_prompt)
        return kv_fail(err, KV_FAIL_RUN,
                       "the prompt has %d tokens, and -n asks for %d more; the model was "
                       "trained for %d; use a smaller -n or a shorter prompt",
                       j->n_prompt, j->n, j->s.model->context);
    return KV_OK;
}

/* ---------------------------------------------------------------- backend */

enum { FAST, REF, SIM, CUDA };

/* Matrix products of sim and cuda are those of fast. */
static int choose_backend(job *j, kv_error *err)
{
    if (j->backend == REF) {
        j->scratch = session_floats((size_t)(j->n_prompt + j->n), "attention rows", err);
        if (!j->scratch) return err->code;
        j->scalar = kv_scalar_backend(j->scratch);
        j->s.backend = &j->scalar;
    }
    if (j->backend == SIM || j->backend == CUDA) {
        if (tm_device_open(&j->device, j->backend == SIM, j->s.backend, err)) return err->code;
        j->s.backend = tm_device_backend(j->device);
        cli_note("backend: %s", tm_device_name(j->device));
    }
    return KV_OK;
}

/* What the simulator has to complain about is a failure. */
static int check_device(job *j, kv_error *err)
{
    if (!j->device) return KV_OK;
    if (tm_sequence_fetch(j->sequence, err)) return err->code;
    long n = tm_device_findings(j->device);
    return n ? kv_fail(err, KV_FAIL_RUN, "the simulator found %ld mistakes in the kernels", n) : KV_OK;
}

/* ------------------------------------------------------------------ cache */

static int check_cache(job *j, kv_error *err)
{
    const kv_model *m = j->s.model;
    const kv_format *f[2] = {&j->cache.keys, &j->cache.values};
    if (cli_cache_fit(&j->cache, j->s.common, m->shape, err)) return err->code;
    for (int i = 0; i < 2; i++) {
        if (kv_format_check(f[i], m->shape, i, err)) return err->code;
        if (kv_format_coded(f[i]) && f[i]->axis == KV_PER_CHANNEL && f[i]->group == 0)
            return kv_fail(err, KV_FAIL_USAGE,
                           "--%s: channel:all needs the whole text at once, and a "
                           "growing cache never has it; give a group size such as channel:32",
                           i ? "values" : "keys");
    }
    if (j->cache.profile) {
        if (report_profile(&j->profile, &j->s, j->cache.profile, err)) return err->code;
        j->known = &j->profile;
    }
    return KV_OK;
}

static int open_cache(job *j, kv_error *err)
{
    const cli_cache *c = &j->cache;
    tm_engine e = report_engine(&j->s);
    tm_sequence_spec spec = {c->keys, c->values, c->keep, j->known, c->recent, j->n_prompt + j->n,
                             j->device};
    return tm_sequence_open(&j->sequence, &e, j->backend == REF ? NULL : j->s.fast, &spec, err);
}

/* -------------------------------------------------------------- computing */

/* splitmix64 (Steele, Lea and Flood, 2014): the same numbers on every machine. */
static double uniform(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return (double)((z ^ z >> 31) >> 11) * 0x1p-53;
}

/* Temperature 0: the largest logit, the lowest id of equals. */
static int choose(job *j)
{
    int vocab = j->s.model->vocab, best = 0;
    for (int i = 1; i < vocab; i++)
        if (j->logits[i] > j->logits[best]) best = i;
    if (j->temperature <= 0) return best;
    double sum = 0;
    for (int i = 0; i < vocab; i++) {
        j->weight[i] = exp(((double)j->logits[i] - (double)j->logits[best]) / j->temperature);
        sum += j->weight[i];
    }
    double left = uniform(&j->random) * sum;
    for (int i = 0; i < vocab; i++) {
        left -= j->weight[i];
        if (left < 0) return i;
    }
    return best;
}

/* ---------------------------------------------------------------- writing */

/* Prints a piece, but holds back the beginning of a character until the rest has come. */
static void print_piece(job *j, const char *bytes, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)bytes[i];
        if (j->n_waiting && (c & 0xC0) != 0x80) { /* it never came: let the terminal deal with it */
            fwrite(j->waiting, 1, j->n_waiting, stdout);
            j->n_waiting = 0;
        }
        j->waiting[j->n_waiting++] = (char)c;
        unsigned char first = (unsigned char)j->waiting[0];
        size_t want = first < 0xC0 ? 1 : first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4;
        if (j->n_waiting < want) continue;
        fwrite(j->waiting, 1, j->n_waiting, stdout);
        j->n_waiting = 0;
    }
    fflush(stdout);
}

static int generate(job *j, kv_error *err)
{
    int quiet = j->s.common->json;
    float *last = j->hidden + (size_t)(j->n_prompt - 1) * (size_t)j->s.model->width;
    if (tm_sequence_start(j->sequence, j->hidden, j->prompt, j->n_prompt, err)) return err->code;
    for (int i = 0; i < j->n && !cli_stdout_failed(); i++) {
        if (session_logits(&j->s, j->logits, last, 1, err)) return err->code;
        int token = choose(j);
        if (tok_is_eog(j->s.tok, token)) {
            j->stopped = 1;
            break;
        }
        j->token[j->n_token++] = token;
        if (quiet) {
            cli_progress(i, j->n, "generating");
        } else if (tok_type(j->s.tok, token) != TOK_CONTROL) {
            size_t n;
            const char *bytes = tok_bytes(j->s.tok, token, &n);
            print_piece(j, bytes, n);
        }
        if (i + 1 < j->n && tm_sequence_step(j->sequence, last, token, err)) return err->code;
    }
    if (!quiet) {
        fwrite(j->waiting, 1, j->n_waiting, stdout);
        putchar('\n');
    }
    cli_progress(1, 1, "generating");
    return KV_OK;
}

/* ---------------------------------------------------------------- results */

typedef struct {
    int tokens; /* in the cache */
    kv_bytes bytes;
    double bytes16, bits, kept;
} usage;

static usage measure(const job *j)
{
    const kv_model *m = j->s.model;
    usage u = {.tokens = tm_sequence_tokens(j->sequence)};
    for (int l = 0; l < m->layers; l++) {
        kv_bytes b = tm_stream_bytes(tm_sequence_stream(j->sequence), l);
        u.bytes.codes += b.codes;
        u.bytes.scales += b.scales;
        u.bytes.norms += b.norms;
        u.bytes.outliers += b.outliers;
        u.bytes.kept += b.kept;
        u.bytes.recent += b.recent;
        u.bytes.total += b.total;
    }
    u.kept = (double)tm_sequence_kept(j->sequence) / m->layers;
    u.bytes16 = 2.0 * 2 * m->layers * m->shape.kv_heads * m->shape.head_size * u.tokens;
    u.bits = 16 * (double)u.bytes.total / u.bytes16;
    return u;
}

static void print_json(const job *j, const usage *u)
{
    cJSON *root = cJSON_CreateObject(), *layers = cJSON_CreateArray();
    size_t length = 0;
    for (int i = 0; i < j->n_token; i++) {
        size_t n;
        tok_bytes(j->s.tok, j->token[i], &n);
        length += n;
    }
    char *text = malloc(length + 1);
    length = 0;
    for (int i = 0; i < j->n_token && text; i++) {
        size_t n;
        const char *bytes = tok_bytes(j->s.tok, j->token[i], &n);
        if (tok_type(j->s.tok, j->token[i]) == TOK_CONTROL) continue;
        memcpy(text + length, bytes, n);
        length += n;
    }
    cli_json_add_int(root, "prompt_tokens", j->n_prompt);
    cJSON_AddItemToObject(root, "tokens", cli_json_ints(j->token, j->n_token));
    cli_json_add_text(root, "text", text ? text : "", text ? length : 0);
    cJSON_AddStringToObject(root, "stopped", j->stopped ? "end" : "length");
    cJSON_AddStringToObject(root, "keys", j->cache.keys_text);
    cJSON_AddStringToObject(root, "values", j->cache.values_text);
    cJSON_AddStringToObject(root, "keep", j->cache.keep_text);
    cli_json_add_int(root, "recent", j->cache.recent);
    cli_json_add_int(root, "cached_tokens", u->tokens);
    cli_json_add_number(root, "bits", u->bits);
    cli_json_add_int(root, "bytes", (long long)u->bytes.total);
    cli_json_add_int(root, "bytes16", (long long)u->bytes16);
    cli_json_add_int(root, "bytes_codes", (long long)u->bytes.codes);
    cli_json_add_int(root, "bytes_scales", (long long)u->bytes.scales);
    cli_json_add_int(root, "bytes_norms", (long long)u->bytes.norms);
    cli_json_add_int(root, "bytes_outliers", (long long)u->bytes.outliers);
    cli_json_add_int(root, "bytes_kept", (long long)u->bytes.kept);
    cli_json_add_int(root, "bytes_recent", (long long)u->bytes.recent);
    cli_json_add_number(root, "kept", u->kept);
    const kv_cache *c = tm_stream_cache(tm_sequence_stream(j->sequence));
    for (int l = 0; l < j->s.model->layers; l++)
        cJSON_AddItemToArray(layers, cli_json_ints(c->layer[l].position, c->layer[l].n_kept));
    cJSON_AddItemToObject(root, "layers", layers);
    cli_json_print(root);
    free(text);
}

static void report(const job *j)
{
    usage u = measure(j);
    char a[32], b[32];
    if (tm_sequence_capped(j->sequence))
        cli_warn("the keep rule found more sinks than its cap of max(5, 5 %% of the tokens)");
    if (j->s.common->json) {
        print_json(j, &u);
        return;
    }
    cli_note(
        "%d tokens of prompt, %d generated%s; cache %s for %d tokens, %.2f bits a number (16 bits: "
        "%s); %.4g kept a layer",
        j->n_prompt, j->n_token, j->stopped ? " until the end" : "",
        cli_bytes(a, (double)u.bytes.total), u.tokens, u.bits, cli_bytes(b, u.bytes16), u.kept);
}

static int allocate(job *j, kv_error *err)
{
    size_t vocab = (size_t)j->s.model->vocab, width = (size_t)j->s.model->width;
    j->token = calloc((size_t)j->n, sizeof *j->token);
    j->weight = calloc(vocab, sizeof *j->weight);
    j->hidden = session_floats((size_t)j->n_prompt * width, "hidden states", err);
    j->logits = session_floats(vocab, "logits", err);
    return j->token && j->weight && j->hidden && j->logits
               ? KV_OK : kv_fail(err, KV_FAIL_RUN, "not enough memory");
}

static void release(job *j)
{
    tm_sequence_close(j->sequence);
    tm_device_close(j->device);
    free(j->scratch);
    tm_profile_free(&j->profile);
    free(j->prompt);
    free(j->token);
    free(j->weight);
    free(j->hidden);
    free(j->logits);
    session_close(&j->s);
}

int cmd_generate(int argc, char **argv)
{
    const char *prompt;
    int n, chat, status;
    job j = {0};
    const cli_option options[] = {
        {"--prompt", CLI_STRING, &prompt, "S", NULL, 0, 0, "the text to continue"},
        {"-n", CLI_INT, &n, "N", "64", 1, 1 << 20, "tokens to generate at most"},
        {"--temp", CLI_FLOAT, &j.temperature, "X", "0", 0, 100,
         "temperature; 0 always takes the likeliest token"},
        {"--seed", CLI_SEED, &j.random, "S", "0", 0, 0, "for the choice at a temperature above 0"},
        {"--chat", CLI_FLAG, &chat, NULL, NULL, 0, 0,
         "the prompt is a user's message: wrap it in the model's chat template"},
        {"--backend", CLI_CHOICE, &j.backend, "fast|ref|sim|cuda", "fast", 0, 0,
         "who computes: all cores, the scalar reference, or the kernels of cuda/ on packed caches, in the "
         "simulator or on a GPU"},
        {0}};
    static const char *const examples[] = {
        "kvsink generate model.gguf --prompt 'Once upon a time' -n 100",
        "kvsink generate model.gguf --chat --prompt 'What is an attention sink?'",
        "kvsink generate model.gguf --prompt 'Once upon a time' --keys 2:channel:32 \\\n"
        "         --values 2:token:32 --recent 32 --keep kvsink:5 --profile profile.txt", NULL};
    const cli_command command = {
        "generate", "Continue a prompt, with any cache format and keep rule.", "MODEL",
        CLI_SPECIAL | CLI_BOS | CLI_CACHE, options,
        "The prompt attends to unquantized keys and values, and the keep set comes from it; then\n"
        "every token is appended to the packed cache and reads from it. Generation stops at the\n"
        "model's end-of-text or end-of-turn token. Standard output has the continuation only.",
        examples};
    cli_common common;
    kv_error err;
    if (!cli_parse(&common, &command, argc, argv, &status)) return status;
    j.n = n;
    if (!prompt) return cli_say_fail(&command, KV_FAIL_USAGE, "--prompt S is missing");
    if (cli_cache_options(&j.cache, &common, &err)) return cli_fail(&command, &err);
    if (session_open(&j.s, &common, &err)) return cli_fail(&command, &err);
    if (check_cache(&j, &err) || read_prompt(&j, prompt, chat, &err) || allocate(&j, &err) ||
        choose_backend(&j, &err) || open_cache(&j, &err) || generate(&j, &err) ||
        check_device(&j, &err))
        status = cli_fail(&command, &err);
    else report(&j);
    release(&j);
    return status;
}
