/* kvsink info: what a model file holds. Reads metadata only, so it takes any architecture, files
 * with a vocabulary and no tensors, and files of any size in no time. */
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "chat.h"
#include "commands.h"
#include "files.h"
#include "session.h"

enum { TENSOR_TYPES = 64, TEXT_MAX = 128 };

typedef struct {
    const gguf *file;
    char arch[TEXT_MAX], name[TEXT_MAX];
    int64_t layers, width, ffn, heads, kv_heads, head_size, context, vocab; /* -1: not said */
    int64_t rope_dims;
    double rope_base;
    char scaling[64];
    int tied; /* -1: no tensors */
    double parameters, tensor_bytes, file_bytes;
    struct { long long tensors; double parameters, bytes; } type[TENSOR_TYPES];
    tokenizer *tok;
    kv_error tok_problem;
} facts;

/* "ARCH.key", or -1 where the file does not say (or says something else, such as one number for
 * each layer). */
static int64_t number(const facts *f, const char *key)
{
    char name[2 * TEXT_MAX];
    int64_t x = -1;
    snprintf(name, sizeof name, "%s.%s", f->arch, key);
    if (gguf_get_int(&x, f->file, name, 0, INT32_MAX, NULL)) x = -1;
    return x;
}

static void text(char *out, size_t size, const gguf *file, const char *key)
{
    gguf_string s;
    out[0] = 0;
    if (gguf_key_find(file, key) && gguf_get_string(&s, file, key, NULL) == KV_OK)
        tm_printable(out, size, s.data, s.length);
}

static void read_rope(facts *f)
{
    char key[2 * TEXT_MAX];
    f->rope_dims = number(f, "rope.dimension_count");
    if (f->rope_dims < 0) f->rope_dims = f->head_size;
    f->rope_base = 0;
    snprintf(key, sizeof key, "%s.rope.freq_base", f->arch);
    if (gguf_get_float(&f->rope_base, f->file, key, NULL)) f->rope_base = 10000;
    snprintf(key, sizeof key, "%s.rope.scaling.type", f->arch);
    text(f->scaling, sizeof f->scaling, f->file, key);
    double factor = 0;
    snprintf(key, sizeof key, "%s.rope.scaling.factor", f->arch);
    if (f->scaling[0] && gguf_get_float(&factor, f->file, key, NULL) == KV_OK) {
        size_t n = strlen(f->scaling);
        snprintf(f->scaling + n, sizeof f->scaling - n, " by %g", factor);
    }
    if (gguf_tensor_find(f->file, "rope_freqs.weight"))
        snprintf(f->scaling, sizeof f->scaling, "by frequency (Llama 3)");
}

static void read_facts(facts *f, const gguf *file)
{
    memset(f, 0, sizeof *f);
    f->file = file;
    text(f->arch, sizeof f->arch, file, "general.architecture");
    text(f->name, sizeof f->name, file, "general.name");
    f->layers = number(f, "block_count");
    f->width = number(f, "embedding_length");
    f->ffn = number(f, "feed_forward_length");
    f->heads = number(f, "attention.head_count");
    f->kv_heads = number(f, "attention.head_count_kv");
    char key[2 * TEXT_MAX];
    snprintf(key, sizeof key, "%s.attention.head_count_kv", f->arch);
    if (!gguf_key_find(file, key)) f->kv_heads = f->heads; /* said, but not as one number: unknown */
    f->head_size = number(f, "attention.key_length");
    if (f->head_size < 0 && f->heads > 0 && f->width > 0) f->head_size = f->width / f->heads;
    f->context = number(f, "context_length");
    f->vocab = number(f, "vocab_size");
    const gguf_key *tokens = gguf_key_find(file, "tokenizer.ggml.tokens");
    if (tokens && tokens->is_array) f->vocab = (int64_t)tokens->value.count;
    read_rope(f);
    for (size_t i = 0; i < gguf_tensor_count(file); i++) {
        const gguf_tensor *t = gguf_tensor_at(file, i);
        f->parameters += (double)t->elements;
        f->tensor_bytes += (double)t->bytes;
        if (t->type < 0 || t->type >= TENSOR_TYPES) continue;
        f->type[t->type].tensors++;
        f->type[t->type].parameters += (double)t->elements;
        f->type[t->type].bytes += (double)t->bytes;
    }
    f->tied = gguf_tensor_count(file) ? !gguf_tensor_find(file, "output.weight") : -1;
    struct stat st;
    if (stat(gguf_path(file), &st) == 0) f->file_bytes = (double)st.st_size;
    f->tok_problem.text[0] = 0;
    if (tok_open(&f->tok, file, &f->tok_problem)) f->tok = NULL;
}

/* Bytes of one token's keys and values in 16 bits, all layers; -1 if unknown. */
static double kv_bytes_per_token(const facts *f)
{
    if (f->layers < 0 || f->kv_heads < 0 || f->head_size < 0) return -1;
    return 2.0 * 2.0 * (double)f->layers * (double)f->kv_heads * (double)f->head_size;
}

/* ------------------------------------------------------------------- JSON */

static void add_if_known(cJSON *o, const char *name, int64_t x)
{
    if (x >= 0) cli_json_add_int(o, name, x);
    else cJSON_AddNullToObject(o, name);
}

/* Single values as they are; arrays, which may have 100,000 entries, by type and count. */
static cJSON *metadata(const gguf *file)
{
    cJSON *all = cJSON_CreateObject();
    for (size_t i = 0; i < gguf_key_count(file); i++) {
        const gguf_key *k = gguf_key_at(file, i);
        int type = k->value.type;
        if (k->is_array) {
            cJSON *o = cJSON_AddObjectToObject(all, k->name);
            cJSON_AddStringToObject(o, "array_of", gguf_value_type_name(type));
            cli_json_add_int(o, "count", (long long)k->value.count);
        } else if (type == GGUF_STRING) {
            cli_json_add_text(all, k->name, k->value.strings[0].data, k->value.strings[0].length);
        } else if (type == GGUF_FLOAT32 || type == GGUF_FLOAT64) {
            cli_json_add_number(all, k->name, gguf_array_float(&k->value, 0));
        } else if (type == GGUF_BOOL) {
            cJSON_AddBoolToObject(all, k->name, gguf_array_int(&k->value, 0) != 0);
        } else {
            cli_json_add_int(all, k->name, gguf_array_int(&k->value, 0));
        }
    }
    return all;
}

static cJSON *json_tokenizer(const facts *f)
{
    cJSON *o = cJSON_CreateObject();
    if (!f->tok) {
        cJSON_AddStringToObject(o, "problem", f->tok_problem.text);
        return o;
    }
    cJSON_AddStringToObject(o, "model", tok_model(f->tok));
    cJSON_AddStringToObject(o, "pre", tok_pre(f->tok));
    cli_json_add_int(o, "size", tok_size(f->tok));
    add_if_known(o, "bos", tok_bos(f->tok));
    add_if_known(o, "eos", tok_eos(f->tok));
    add_if_known(o, "end_of_text", tok_end_of_text(f->tok));
    cJSON_AddBoolToObject(o, "add_bos", tok_add_bos(f->tok));
    return o;
}

static void print_json(const facts *f)
{
    cJSON *root = cJSON_CreateObject();
    const char *path = gguf_path(f->file);
    cli_json_add_text(root, "file", path, strlen(path));
    cli_json_add_int(root, "file_bytes", (long long)f->file_bytes);
    cli_json_add_int(root, "gguf_version", gguf_version(f->file));
    cJSON_AddStringToObject(root, "architecture", f->arch);
    cJSON_AddStringToObject(root, "name", f->name);
    add_if_known(root, "layers", f->layers);
    add_if_known(root, "width", f->width);
    add_if_known(root, "ffn", f->ffn);
    add_if_known(root, "heads", f->heads);
    add_if_known(root, "kv_heads", f->kv_heads);
    add_if_known(root, "head_size", f->head_size);
    add_if_known(root, "context", f->context);
    add_if_known(root, "vocabulary", f->vocab);
    cJSON *rope = cJSON_AddObjectToObject(root, "rope");
    add_if_known(rope, "dims", f->rope_dims);
    cli_json_add_number(rope, "base", f->rope_base);
    cJSON_AddStringToObject(rope, "scaling", f->scaling[0] ? f->scaling : "none");
    if (f->tied >= 0) cJSON_AddBoolToObject(root, "tied", f->tied);
    else cJSON_AddNullToObject(root, "tied");
    cli_json_add_int(root, "parameters", (long long)f->parameters);
    cli_json_add_int(root, "tensors", (long long)gguf_tensor_count(f->file));
    cJSON *types = cJSON_AddArrayToObject(root, "types");
    for (int i = 0; i < TENSOR_TYPES; i++) {
        if (!f->type[i].tensors) continue;
        cJSON *o = cJSON_CreateObject();
        const char *name = gguf_type_name(i);
        cJSON_AddStringToObject(o, "type", name ? name : "?");
        cli_json_add_int(o, "tensors", f->type[i].tensors);
        cli_json_add_int(o, "parameters", (long long)f->type[i].parameters);
        cli_json_add_int(o, "bytes", (long long)f->type[i].bytes);
        cJSON_AddItemToArray(types, o);
    }
    add_if_known(root, "kv_bytes_per_token", (int64_t)kv_bytes_per_token(f));
    cJSON_AddItemToObject(root, "tokenizer", json_tokenizer(f));
    cJSON_AddStringToObject(root, "chat_template", chat_family(f->file));
    cJSON_AddItemToObject(root, "metadata", metadata(f->file));
    cli_json_print(root);
}

/* ------------------------------------------------------------------- text */

static void line(const char *name, int64_t x, const char *unit)
{
    char number_text[32];
    if (x >= 0) printf("%-16s %s%s\n", name, cli_count(number_text, x), unit);
}

static void print_sizes(const facts *f)
{
    char a[32], b[32];
    printf("%-16s %s\n", "architecture", f->arch[0] ? f->arch : "not said");
    if (f->name[0]) printf("%-16s %s\n", "name", f->name);
    if (gguf_tensor_count(f->file))
        printf("%-16s %s in %s tensors%s\n", "parameters", cli_count(a, (long long)f->parameters),
               cli_count(b, (long long)gguf_tensor_count(f->file)),
               f->tied > 0 ? "; input and output embeddings are one" : "");
    else printf("%-16s none: a vocabulary only\n", "parameters");
    line("layers", f->layers, "");
    line("width", f->width, " channels");
    line("feed-forward", f->ffn, " channels");
    if (f->heads >= 0 && f->kv_heads < 0)
        printf("%-16s %d query heads; KV heads differ from layer to layer\n", "attention",
               (int)f->heads);
    else if (f->heads >= 0)
        printf("%-16s %d query heads over %d KV heads of size %d%s\n", "attention", (int)f->heads,
               (int)f->kv_heads, (int)f->head_size, f->heads == f->kv_heads ? "" : " (grouped)");
    if (f->rope_dims > 0)
        printf("%-16s %d of %d channels, base %g, scaling %s\n", "RoPE", (int)f->rope_dims,
               (int)f->head_size, f->rope_base, f->scaling[0] ? f->scaling : "none");
    line("context", f->context, " tokens");
    if (kv_bytes_per_token(f) >= 0)
        printf("%-16s %s a token in 16 bits%s%s%s\n", "KV cache",
               cli_bytes(a, kv_bytes_per_token(f)), f->context > 0 ? ", " : "",
               f->context > 0 ? cli_bytes(b, kv_bytes_per_token(f) * (double)f->context) : "",
               f->context > 0 ? " for the whole context" : "");
    line("vocabulary", f->vocab, " tokens");
}

static void special(const facts *f, const char *name, int id)
{
    char shown[64];
    size_t n;
    if (id < 0) return;
    const char *piece = tok_piece(f->tok, id, &n);
    printf("%-16s %d %s\n", name, id, tm_printable(shown, sizeof shown, piece, n));
}

static void print_tokenizer(const facts *f)
{
    if (!f->tok) {
        printf("%-16s not usable here: %s\n", "tokenizer", f->tok_problem.text);
        return;
    }
    int spm = strcmp(tok_model(f->tok), "llama") == 0;
    printf("%-16s %s%s%s; %s a BOS in front\n", "tokenizer",
           spm ? "SentencePiece" : "byte-level BPE", tok_pre(f->tok)[0] ? ", pre-tokenizer " : "",
           tok_pre(f->tok), tok_add_bos(f->tok) ? "puts" : "does not put");
    special(f, "  BOS", tok_bos(f->tok));
    special(f, "  EOS", tok_eos(f->tok));
    special(f, "  end of text", tok_end_of_text(f->tok));
    printf("%-16s %s\n", "chat template", chat_family(f->file));
}

static void print_types(const facts *f)
{
    char a[32];
    cli_table t;
    cli_table_begin(&t, "lrrrr");
    cli_table_cell(&t, "tensor type");
    cli_table_cell(&t, "tensors");
    cli_table_cell(&t, "parameters");
    cli_table_cell(&t, "size");
    cli_table_cell(&t, "bits each");
    for (int i = 0; i < TENSOR_TYPES; i++) {
        if (!f->type[i].tensors) continue;
        const char *name = gguf_type_name(i);
        cli_table_cell(&t, "%s", name ? name : "?");
        cli_table_cell(&t, "%s", cli_count(a, f->type[i].tensors));
        cli_table_cell(&t, "%s", cli_count(a, (long long)f->type[i].parameters));
        cli_table_cell(&t, "%s", cli_bytes(a, f->type[i].bytes));
        cli_table_cell(&t, "%.2f", f->type[i].parameters > 0
                                       ? 8 * f->type[i].bytes / f->type[i].parameters : 0.0);
    }
    cli_table_print(&t);
}

static void print_metadata(const gguf *file)
{
    cli_table t;
    cli_table_begin(&t, "ll");
    cli_table_cell(&t, "metadata");
    cli_table_cell(&t, "value");
    for (size_t i = 0; i < gguf_key_count(file); i++) {
        char value[80], name[TEXT_MAX];
        const gguf_key *k = gguf_key_at(file, i);
        cli_table_cell(&t, "%s", tm_printable(name, sizeof name, k->name, strlen(k->name)));
        cli_table_cell(&t, "%s", gguf_key_text(value, sizeof value, k));
    }
    cli_table_print(&t);
}

int cmd_info(int argc, char **argv)
{
    static const char *const examples[] = {"kvsink info model.gguf",
                                           "kvsink info model.gguf --json", NULL};
    static const cli_command command = {
        "info", "What a model file holds: sizes, tokenizer, tensor types, metadata.", "MODEL", 0,
        NULL, "Works for every architecture and for files that hold a vocabulary only.", examples};
    cli_common common;
    kv_error err;
    gguf *file;
    int status;
    if (!cli_parse(&common, &command, argc, argv, &status)) return status;
    if (gguf_open(&file, common.positional, &err)) return cli_fail(&command, &err);
    facts f;
    read_facts(&f, file);
    if (common.json) {
        print_json(&f);
    } else {
        char a[32];
        printf("%-16s %s, %s, GGUF version %d\n", "file", gguf_path(file),
               cli_bytes(a, f.file_bytes), gguf_version(file));
        print_sizes(&f);
        print_tokenizer(&f);
        if (f.tok && tok_warning(f.tok)) cli_warn("%s", tok_warning(f.tok));
        putchar('\n');
        if (gguf_tensor_count(file)) {
            print_types(&f);
            putchar('\n');
        }
        print_metadata(file);
    }
    tok_close(f.tok);
    gguf_close(file);
    return status;
}
