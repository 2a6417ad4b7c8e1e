/* The part of a tokenizer that does not depend on its family: the vocabulary and its checks,
 * special tokens, decoding. What differs between byte-level BPE and SentencePiece is in bpe.c and
 * spm.c.
 *
 * Special tokens are found in a text as llama.cpp finds them: one token after the other, the
 * longest text first, each wherever it occurs in what is still plain text. Control and unknown
 * tokens only if the caller asks for it, user-defined ones always. What lies between is plain
 * text, encoded stretch by stretch. (So of two special tokens that overlap in a text the longer
 * wins, not the one further left.) */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "files.h"
#include "vocabulary.h"

int no_memory(const tokenizer *tok, kv_error *err)
{
    return kv_fail(err, KV_FAIL_RUN, "%s: out of memory in the tokenizer", tok->name);
}

static int hex_digit(char c)
{
    const char *digits = "0123456789ABCDEF0123456789abcdef", *at = c ? strchr(digits, c) : NULL;
    return at ? (int)(at - digits) % 16 : -1;
}

int byte_token(const char *piece, size_t length)
{
    if (length != 6 || memcmp(piece, "<0x", 3) != 0 || piece[5] != '>')
        return -1;
    int high = hex_digit(piece[3]), low = hex_digit(piece[4]);
    return high < 0 || low < 0 ? -1 : 16 * high + low;
}

/* ----------------------------------------------------------------- opening */

tok_spec tok_spec_empty(void)
{
    tok_spec spec = {.bos = -1, .eos = -1, .unk = -1, .eot = -1, .eom = -1,
                     .add_bos = -1, .add_space_prefix = -1};
    return spec;
}

static int check_counts(const tokenizer *tok, const tok_spec *spec, kv_error *err)
{
    if (!spec->token || spec->n == 0)
        return kv_fail(err, KV_FAIL_RUN, "%s: the vocabulary (tokenizer.ggml.tokens) is %s",
                       tok->name, spec->token ? "empty" : "missing");
    if (spec->n > INT_MAX / 2 || spec->n_merges > INT_MAX / 2)
        return kv_fail(err, KV_FAIL_RUN, "%s: %zu tokens and %zu merges are too many", tok->name,
                       spec->n, spec->n_merges);
    if (spec->type && spec->n_types != spec->n)
        return kv_fail(err, KV_FAIL_RUN, "%s: tokenizer.ggml.token_type has %zu entries for %zu "
                       "tokens", tok->name, spec->n_types, spec->n);
    if (spec->score && spec->n_scores != spec->n)
        return kv_fail(err, KV_FAIL_RUN, "%s: tokenizer.ggml.scores has %zu entries for %zu tokens",
                       tok->name, spec->n_scores, spec->n);
    return 0;
}

/* Copies the raw texts end to end and maps them to ids. */
static int copy_tokens(tokenizer *tok, const tok_spec *spec, kv_error *err)
{
    size_t total = 0, n = spec->n;
    for (size_t i = 0; i < n; i++)
        total += spec->token[i].length;
    tok->text = malloc(total + 1);
    tok->text_start = malloc((n + 1) * sizeof *tok->text_start);
    tok->type = calloc(n, 1);
    tok->ends = calloc(n, 1);
    if (!tok->text || !tok->text_start || !tok->type || !tok->ends || table_make(&tok->ids, n))
        return no_memory(tok, err);
    size_t at = 0;
    for (size_t i = 0; i < n; i++) {
        size_t length = spec->token[i].length;
        tok->text_start[i] = at;
        if (length > 0) /* an empty token can be printed, but no text contains it */
            memcpy(tok->text + at, spec->token[i].data, length);
        int twin = length > 0 ? table_add(&tok->ids, tok->text + at, length, (int)i) : -1;
        if (twin >= 0) {
            char shown[80];
            return kv_fail(err, KV_FAIL_RUN, "%s: tokens %d and %zu have the same text '%s'",
                           tok->name, twin, i,
                           tm_printable(shown, sizeof shown, tok->text + at, length));
        }
        int type = spec->type ? spec->type[i] : TOK_NORMAL;
        tok->type[i] = (unsigned char)(type >= TOK_NORMAL && type <= TOK_BYTE ? type : TOK_UNUSED);
        tok->longest = length > tok->longest ? length : tok->longest;
        at += length;
    }
    tok->text_start[n] = at;
    return 0;
}

static int check_id(const tokenizer *tok, const char *key, int64_t id, int absent, int *out,
                    kv_error *err)
{
    *out = id < 0 ? (absent < tok->n ? absent : -1) : (int)id;
    if (id >= tok->n)
        return kv_fail(err, KV_FAIL_RUN, "%s: tokenizer.ggml.%s is %lld, outside the vocabulary of "
                       "%d tokens", tok->name, key, (long long)id, tok->n);
    return 0;
}

/* Texts that llama.cpp takes for the end of a generation, and for a control token even if the file
 * says otherwise; then those of fill-in-the-middle, of which the pad, repository and separator
 * ones end a generation as well. */
static const char *const end_names[] = {
    "<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>",
    "<end_of_turn>", "<|endoftext|>", "</s>", "<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]",
    "<|end_of_text|>", "<end_of_utterance>", "<eos>", "<turn|>", "<|tool_response>",
    ("<\xEF\xBD\x9C" "end\xE2\x96\x81of\xE2\x96\x81sentence\xEF\xBD\x9C>"), "[e~[",
    "<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]", "<|fim_repo|>", "<|repo_name|>",
    "<fim-repo>", "<REPO>", "<reponame>", "<|file_sep|>",
};
static const char *const middle_names[] = {
    "<|fim_prefix|>", "<fim-prefix>", "<fim_prefix>", "<PRE>", "\xE2\x96\x81<PRE>",
    "<|code_prefix|>", "<|prefix|>", "<|fim_suffix|>", "<fim-suffix>", "<fim_suffix>", "<SUF>",
    "\xE2\x96\x81<SUF>", "<|code_suffix|>", "<|suffix|>", "<|fim_middle|>", "<fim-middle>",
    "<fim_middle>", "<MID>", "\xE2\x96\x81<MID>", "<|code_middle|>", "<|middle|>",
};

static void mark_control(tokenizer *tok, const char *const *name, size_t n, int ends)
{
    for (size_t i = 0; i < n; i++) {
        int id = table_find(&tok->ids, name[i], strlen(name[i]));
        if (id >= 0) {
            tok->type[id] = TOK_CONTROL;
            tok->ends[id] = (unsigned char)ends;
        }
    }
}

static int read_ids(tokenizer *tok, const tok_spec *spec, kv_error *err)
{
    int spm = tok->kind == SPM, eot, eom, code;
    if ((code = check_id(tok, "bos_token_id", spec->bos, spm ? 1 : -1, &tok->bos, err)) ||
        (code = check_id(tok, "eos_token_id", spec->eos, spm ? 2 : -1, &tok->eos, err)) ||
        (code = check_id(tok, "unknown_token_id", spec->unk, spm ? 0 : -1, &tok->unk, err)) ||
        (code = check_id(tok, "eot_token_id", spec->eot, -1, &eot, err)) ||
        (code = check_id(tok, "eom_token_id", spec->eom, -1, &eom, err)))
        return code;
    mark_control(tok, end_names, sizeof end_names / sizeof *end_names, 1);
    mark_control(tok, middle_names, sizeof middle_names / sizeof *middle_names, 0);
    int ends[] = {tok->eos, eot, eom};
    for (int i = 0; i < 3; i++)
        if (ends[i] >= 0)
            tok->ends[ends[i]] = 1;
    tok->end_of_text = tok_find(tok, "<|endoftext|>", 13);
    if (tok->end_of_text < 0)
        tok->end_of_text = tok_find(tok, "<|end_of_text|>", 15);
    if (tok->end_of_text < 0)
        tok->end_of_text = tok->eos;
    tok->add_bos = spec->add_bos < 0 ? spm : spec->add_bos != 0;
    tok->strip_after_special = spec->strip_after_special;
    return 0;
}

static int is_special(int type)
{
    return type == TOK_CONTROL || type == TOK_USER || type == TOK_UNKNOWN;
}

typedef struct {
    size_t length;
    int id;
} sized;

static int by_falling_length(const void *a, const void *b)
{
    const sized *x = a, *y = b;
    if (x->length != y->length)
        return x->length < y->length ? 1 : -1;
    return (x->id > y->id) - (x->id < y->id);
}

/* Special tokens, longest text first; equally long ones by id. */
static int collect_special(tokenizer *tok, kv_error *err)
{
    sized *order = malloc((size_t)tok->n * sizeof *order);
    tok->special = malloc((size_t)tok->n * sizeof *tok->special);
    if (!order || !tok->special) {
        free(order);
        return no_memory(tok, err);
    }
    int n = 0;
    for (int i = 0; i < tok->n; i++) {
        size_t length = tok->text_start[i + 1] - tok->text_start[i];
        if (length > 0 && is_special(tok->type[i]))
            order[n++] = (sized){length, i};
    }
    qsort(order, (size_t)n, sizeof *order, by_falling_length);
    for (int i = 0; i < n; i++)
        tok->special[i] = order[i].id;
    tok->n_special = n;
    free(order);
    return 0;
}

static int decode_tokens(tokenizer *tok, kv_error *err)
{
    tok->bytes = malloc(tok->text_start[tok->n] + 1);
    tok->bytes_start = malloc(((size_t)tok->n + 1) * sizeof *tok->bytes_start);
    if (!tok->bytes || !tok->bytes_start)
        return no_memory(tok, err);
    size_t at = 0;
    for (int i = 0; i < tok->n; i++) {
        size_t length;
        const char *piece = tok_piece(tok, i, &length);
        tok->bytes_start[i] = at;
        at += tok->kind == BPE ? bpe_bytes(tok->bytes + at, tok->type[i], piece, length)
                               : spm_bytes(tok->bytes + at, tok->type[i], piece, length);
    }
    tok->bytes_start[tok->n] = at;
    return 0;
}

static int build(tokenizer *tok, const tok_spec *spec, kv_error *err)
{
    int code = check_counts(tok, spec, err);
    if (code)
        return code;
    tok->n = (int)spec->n;
    if (!spec->model)
        return kv_fail(err, KV_FAIL_RUN, "%s: tokenizer.ggml.model is missing", tok->name);
    if (strcmp(spec->model, "gpt2") == 0)
        tok->kind = BPE;
    else if (strcmp(spec->model, "llama") == 0)
        tok->kind = SPM;
    else
        return kv_fail(err, KV_FAIL_RUN, "%s: tokenizer.ggml.model is '%.60s'; known are gpt2 "
                       "(byte-level BPE) and llama (SentencePiece)", tok->name, spec->model);
    if ((code = copy_tokens(tok, spec, err)) || (code = read_ids(tok, spec, err)) ||
        (code = collect_special(tok, err)) || (code = decode_tokens(tok, err)))
        return code;
    return tok->kind == BPE ? bpe_open(tok, spec, err) : spm_open(tok, spec, err);
}

int tok_from_spec(tokenizer **out, const tok_spec *spec, kv_error *err)
{
    *out = NULL;
    tokenizer *tok = calloc(1, sizeof *tok);
    if (!tok)
        return kv_fail(err, KV_FAIL_RUN, "out of memory in the tokenizer");
    snprintf(tok->name, sizeof tok->name, "%s", spec->name ? spec->name : "vocabulary");
    int code = build(tok, spec, err);
    if (code)
        tok_close(tok);
    else
        *out = tok;
    return code;
}

void tok_close(tokenizer *tok)
{
    if (!tok)
        return;
    for (int i = 0; i < tok->n_splits; i++)
        pcre2_code_free(tok->split[i]);
    pcre2_match_context_free(tok->limits);
    void *owned[] = {tok->text, tok->text_start, tok->bytes, tok->bytes_start, tok->type, tok->ends,
                     tok->ids.slot, tok->special, tok->pair, tok->joined, tok->merges.slot,
                     tok->rank};
    for (size_t i = 0; i < sizeof owned / sizeof *owned; i++)
        free(owned[i]);
    free(tok);
}

/* ---------------------------------------------------------------- encoding */

/* A text in pieces: special tokens (id >= 0) and the plain text between them (id -1). */
typedef struct {
    size_t start, length;
    int id;
} fragment;

typedef struct {
    fragment *at;
    size_t n, room;
} fragment_list;

static int add_fragment(fragment_list *list, fragment f)
{
    if (f.id < 0 && f.length == 0)
        return 0;
    if (list->n == list->room) {
        size_t room = list->room ? 2 * list->room : 16;
        fragment *at = realloc(list->at, room * sizeof *at);
        if (!at)
            return -1;
        list->at = at;
        list->room = room;
    }
    list->at[list->n++] = f;
    return 0;
}

static const char *find(const char *text, size_t length, const char *word, size_t n)
{
    while (length >= n) {
        const char *at = memchr(text, word[0], length - n + 1);
        if (!at || memcmp(at, word, n) == 0)
            return at;
        length -= (size_t)(at + 1 - text);
        text = at + 1;
    }
    return NULL;
}

/* Phi-3: white space after a special token vanishes, but not after these three. */
static int strips(const tokenizer *tok, const char *word, size_t n)
{
    static const char *const keep[] = {"<unk>", "<s>", "<|endoftext|>"};
    for (int i = 0; i < 3; i++)
        if (strlen(keep[i]) == n && memcmp(keep[i], word, n) == 0)
            return 0;
    return tok->strip_after_special;
}

/* Cuts the occurrences of one special token out of a plain fragment. */
static int cut_fragment(fragment_list *out, const tokenizer *tok, const char *text, fragment f,
                        int id)
{
    size_t n, end = f.start + f.length;
    const char *word = tok_piece(tok, id, &n), *at;
    int strip = strips(tok, word, n);
    while ((at = find(text + f.start, end - f.start, word, n))) {
        size_t start = (size_t)(at - text);
        if (add_fragment(out, (fragment){f.start, start - f.start, -1}) ||
            add_fragment(out, (fragment){start, n, id}))
            return -1;
        f.start = start + n;
        while (strip && f.start < end && memchr(" \t\n\v\f\r", text[f.start], 6))
            f.start++;
    }
    return add_fragment(out, (fragment){f.start, end - f.start, -1});
}

/* Replaces the list by one in which a special token has been cut out everywhere. */
static int cut_token(fragment_list *list, const tokenizer *tok, const char *text, int id)
{
    fragment_list out = {0};
    for (size_t i = 0; i < list->n; i++) {
        fragment f = list->at[i];
        int failed = f.id >= 0 ? add_fragment(&out, f) : cut_fragment(&out, tok, text, f, id);
        if (failed) {
            free(out.at);
            return -1;
        }
    }
    free(list->at);
    *list = out;
    return 0;
}

static int cut_special(fragment_list *list, const tokenizer *tok, const char *text, size_t length,
                       int special)
{
    if (add_fragment(list, (fragment){0, length, -1}))
        return -1;
    for (int i = 0; i < tok->n_special; i++) {
        int id = tok->special[i];
        size_t n;
        const char *word = tok_piece(tok, id, &n);
        if ((special || tok->type[id] == TOK_USER) && find(text, length, word, n) &&
            cut_token(list, tok, text, id))
            return -1;
    }
    return 0;
}

static int encode_fragments(id_list *out, const tokenizer *tok, const char *text,
                            const fragment_list *list, kv_error *err)
{
    merge_work work = {0};
    int code = 0;
    for (size_t i = 0; i < list->n && !code; i++) {
        fragment f = list->at[i];
        if (f.id >= 0)
            code = list_add(out, f.id) ? no_memory(tok, err) : 0;
        else if (tok->kind == BPE)
            code = bpe_encode(out, &work, tok, text + f.start, f.length, err);
        else
            code = spm_encode(out, &work, tok, text + f.start, f.length, err);
    }
    merge_free(&work);
    return code;
}

int tok_encode(int **ids, int *n, const tokenizer *tok, const char *text, size_t length,
               int special, kv_error *err)
{
    *ids = NULL;
    *n = 0;
    size_t bad;
    if (tm_check_utf8(text, length, &bad))
        return kv_fail(err, KV_FAIL_RUN, "the text is not UTF-8: byte 0x%02X at offset %zu; "
                       "convert it to UTF-8 first", (unsigned char)text[bad], bad);
    if (length >= LONGEST_TEXT)
        return kv_fail(err, KV_FAIL_RUN, "the text has %zu bytes; at most %d can be tokenized at "
                       "once", length, LONGEST_TEXT - 1);
    id_list out = {0};
    fragment_list list = {0};
    int code = 0;
    if (cut_special(&list, tok, text, length, special))
        code = no_memory(tok, err);
    if (!code)
        code = encode_fragments(&out, tok, text, &list, err);
    free(list.at);
    if (!code && !out.at && !(out.at = malloc(sizeof *out.at)))
        code = no_memory(tok, err);
    if (code) {
        free(out.at);
        return code;
    }
    *ids = out.at;
    *n = (int)out.n;
    return 0;
}

size_t tok_lost_bytes(const tokenizer *tok, const char *text, size_t length)
{
    size_t lost = 0;
    for (size_t i = 0; i < length && tok->kind == BPE; i++)
        lost += tok->byte_id[(unsigned char)text[i]] < 0;
    return lost;
}

/* ---------------------------------------------------------------- decoding */

/* The bytes that an id adds to a text. SentencePiece's prefix goes: at the start and after special
 * tokens, which is where encoding puts it. */
static const char *decoded(const tokenizer *tok, int id, int special, int after_special,
                           size_t *length)
{
    int type = tok->type[id];
    const char *bytes = tok_bytes(tok, id, length);
    if (!special && (type == TOK_CONTROL || type == TOK_UNKNOWN))
        *length = 0;
    if (tok->kind == SPM && tok->add_space_prefix && after_special && type == TOK_NORMAL &&
        *length > 0 && bytes[0] == ' ') {
        bytes++;
        --*length;
    }
    return bytes;
}

int tok_decode(char **text, size_t *length, const tokenizer *tok, const int *ids, int n,
               int special, kv_error *err)
{
    *text = NULL;
    *length = 0;
    size_t total = 0, part;
    for (int i = 0; i < n; i++) {
        if (ids[i] < 0 || ids[i] >= tok->n)
            return kv_fail(err, KV_FAIL_RUN, "token %d of the sequence is %d, outside the "
                           "vocabulary of %d", i, ids[i], tok->n);
        tok_bytes(tok, ids[i], &part);
        total += part;
    }
    char *out = malloc(total + 1);
    if (!out)
        return no_memory(tok, err);
    size_t at = 0;
    for (int i = 0, after_special = 1; i < n; i++) {
        const char *bytes = decoded(tok, ids[i], special, after_special, &part);
        memcpy(out + at, bytes, part);
        at += part;
        after_special = is_special(tok->type[ids[i]]);
    }
    out[at] = 0;
    *text = out;
    *length = at;
    return 0;
}

/* --------------------------------------------------------------- questions */

int tok_size(const tokenizer *tok)
{
    return tok->n;
}

const char *tok_piece(const tokenizer *tok, int id, size_t *length)
{
    *length = tok->text_start[id + 1] - tok->text_start[id];
    return tok->text + tok->text_start[id];
}

const char *tok_bytes(const tokenizer *tok, int id, size_t *length)
{
    *length = tok->bytes_start[id + 1] - tok->bytes_start[id];
    return tok->bytes + tok->bytes_start[id];
}

int tok_type(const tokenizer *tok, int id)
{
    return tok->type[id];
}

int tok_find(const tokenizer *tok, const char *piece, size_t length)
{
    return table_find(&tok->ids, piece, length);
}

int tok_bos(const tokenizer *tok)
{
    return tok->bos;
}

int tok_eos(const tokenizer *tok)
{
    return tok->eos;
}

int tok_add_bos(const tokenizer *tok)
{
    return tok->add_bos;
}

int tok_is_eog(const tokenizer *tok, int id)
{
    return tok->ends[id];
}

int tok_end_of_text(const tokenizer *tok)
{
    return tok->end_of_text;
}

const char *tok_model(const tokenizer *tok)
{
    return tok->kind == BPE ? "gpt2" : "llama";
}

const char *tok_pre(const tokenizer *tok)
{
    return tok->pre;
}

const char *tok_warning(const tokenizer *tok)
{
    return tok->warning;
}
