/* Byte-level BPE: the tokenizer of GPT-2, Llama 3, Qwen, SmolLM and StarCoder.
 *
 * Three steps. (1) A pre-tokenizer cuts the text into words, so that no token ever spans "end of a
 * word, start of the next". (2) Each byte of a word is a symbol of its own: the 256 bytes
 * have 256 tokens, so there is no unknown text. In the vocabulary's raw text a byte is written
 * as one printable character: the printable ones of Latin-1 stand for themselves, the other 68
 * (control characters, space, ...) for U+0100 and following, in order. A space is U+0120, which
 * is why so many tokens look like "Gthe" with a dot on the G. (3) Neighbours join by a list of
 * merges, the earliest in the list first (merge.c).
 *
 * Pre-tokenizers are regular expressions. Some models use several, one after the other: each
 * cuts the pieces that the one before has left, matches and gaps alike. The expressions are those
 * that the models were published with, and what llama.cpp makes of them (src/llama-vocab.cpp and
 * src/unicode.cpp in ggml-org/llama.cpp) decides where the two differ:
 *   - its classes are those of Unicode 15.1. PCRE2 10.42 knows Unicode 14, so the letters,
 *     digits and punctuation that came between are named one by one below. (A later PCRE2
 *     also knows letters younger than 15.1; for those few llama.cpp sees no letter.)
 *   - white space is the 25 code points of the Unicode property; PCRE2's \s adds U+180E;
 *   - 's and 'S: llama.cpp folds case for ASCII only; PCRE2's (?i:s) also takes U+017F. */
#include <stdlib.h>
#include <string.h>

#include "vocabulary.h"

/* ---------------------------------------------------------- pre-tokenizers */

#define LETTER "\\p{L}\\x{1123f}\\x{11240}\\x{11f02}\\x{11f04}-\\x{11f10}\\x{11f12}-\\x{11f33}" \
    "\\x{1342f}\\x{13441}-\\x{13446}\\x{1b132}\\x{1b155}\\x{1df25}-\\x{1df2a}" \
    "\\x{1e030}-\\x{1e06d}\\x{1e4d0}-\\x{1e4eb}\\x{2b739}\\x{2ebf0}-\\x{2ee5d}" \
    "\\x{31350}-\\x{323af}"
#define DIGIT "\\p{N}\\x{11f50}-\\x{11f59}\\x{1d2c0}-\\x{1d2d3}\\x{1e4f0}-\\x{1e4f9}"
#define PUNCTUATION "\\p{P}\\x{11b00}-\\x{11b09}\\x{11f43}-\\x{11f4f}"
#define SPACE "\\x{9}-\\x{d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}" \
    "\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}"

/* A run of white space gives its last character to the word that follows, if one does. */
#define SPACES "[" SPACE "]+(?![^" SPACE "])|[" SPACE "]+"

#define GPT2 "'(?:[stmd]|re|ve|ll)| ?[" LETTER "]+| ?[" DIGIT "]+" \
    "| ?[^" SPACE LETTER DIGIT "]+|" SPACES

/* Llama 3 and Qwen 2 differ only in how many digits make a word. */
#define LLAMA3(digits) "'(?:[sStTmMdD]|[rR][eE]|[vV][eE]|[lL][lL])" \
    "|[^\\r\\n" LETTER DIGIT "]?[" LETTER "]+|[" DIGIT "]" digits \
    "| ?[^" SPACE LETTER DIGIT "]+[\\r\\n]*|[" SPACE "]*[\\r\\n]+|" SPACES

#define ONE_DIGIT "[" DIGIT "]"

static const struct {
    const char *name, *same;     /* same: other names of it */
    int whole_words;             /* a word that is a token needs no merges */
    const char *split[MOST_SPLITS];
} known[] = {
    {"gpt-2", NULL, 0, {GPT2}},
    {"smollm", NULL, 0, {ONE_DIGIT, GPT2}},
    {"starcoder", NULL, 0, {ONE_DIGIT, GPT2}},
    {"llama-bpe", "llama3 llama-v3", 1, {LLAMA3("{1,3}")}},
    {"qwen2", NULL, 0, {LLAMA3("")}},
    {"default", NULL, 0, {"[" PUNCTUATION "$+<=>^~|]+", GPT2, "[" DIGIT "]+", "[0-9][0-9][0-9]"}},
};
enum { N_KNOWN = sizeof known / sizeof known[0] };

/* Is the word one of the words of the list (separated by spaces)? */
static int listed(const char *list, const char *word)
{
    size_t n = strlen(word);
    for (const char *at = list; at && *at; at = strchr(at, ' ') ? strchr(at, ' ') + 1 : NULL)
        if (strcspn(at, " ") == n && strncmp(at, word, n) == 0)
            return 1;
    return 0;
}

static int compile_splits(tokenizer *tok, const char *const *split, kv_error *err)
{
    for (; tok->n_splits < MOST_SPLITS && split[tok->n_splits]; tok->n_splits++) {
        int code;
        PCRE2_SIZE offset;
        PCRE2_SPTR pattern = (PCRE2_SPTR)split[tok->n_splits];
        pcre2_code *re = pcre2_compile(pattern, PCRE2_ZERO_TERMINATED, PCRE2_UTF, &code, &offset,
                                       NULL);
        if (!re) {
            PCRE2_UCHAR text[128] = "";
            pcre2_get_error_message(code, text, sizeof text);
            return kv_fail(err, KV_FAIL_RUN, "pre-tokenizer '%s': the PCRE2 library does not "
                           "take its expression: %s (at %zu)", tok->pre, (const char *)text,
                           (size_t)offset);
        }
        tok->split[tok->n_splits] = re;
        pcre2_jit_compile(re, PCRE2_JIT_COMPLETE); /* if this PCRE2 can; slower without */
    }
    /* Texts are long and the expressions harmless: let no limit on steps end a match. */
    tok->limits = pcre2_match_context_create(NULL);
    if (!tok->limits)
        return no_memory(tok, err);
    pcre2_set_match_limit(tok->limits, UINT32_MAX);
    return 0;
}

static int choose_pre(tokenizer *tok, const char *pre, kv_error *err)
{
    if (!pre || !*pre) {
        tok->warning = "the file names no pre-tokenizer (tokenizer.ggml.pre): 'default' is used, "
                       "which may cut words otherwise than the model has learned";
        pre = "default";
    }
    for (int i = 0; i < N_KNOWN; i++)
        if (strcmp(known[i].name, pre) == 0 || listed(known[i].same, pre)) {
            tok->pre = known[i].name;
            tok->whole_words = known[i].whole_words;
            return compile_splits(tok, known[i].split, err);
        }
    char names[160] = "";
    for (int i = 0; i < N_KNOWN; i++) {
        strcat(names, i ? ", " : "");
        strcat(names, known[i].name);
    }
    return kv_fail(err, KV_FAIL_RUN, "%s: tokenizer.ggml.pre is '%.60s'; known are %s", tok->name,
                   pre, names);
}

/* ------------------------------------------------------- the byte alphabet */

/* Bytes 0-32, 127-160 and 173 are the ones that do not stand for themselves. */
static int byte_letter(int byte)
{
    if (byte <= 32)
        return 0x100 + byte;
    if (byte >= 127 && byte <= 160)
        return 0x121 + byte - 127;
    return byte == 173 ? 0x143 : byte;
}

/* The inverse; -1 for a code point that stands for no byte. */
static int letter_byte(int letter)
{
    if (letter >= 0x100)
        return letter <= 0x120 ? letter - 0x100 : letter <= 0x142 ? letter - 0x121 + 127
               : letter == 0x143 ? 173 : -1;
    return byte_letter(letter) == letter ? letter : -1;
}

/* Two bytes of UTF-8 are enough: no letter of the alphabet lies above U+0143. */
static int letter_utf8(char out[2], int letter)
{
    if (letter < 128) {
        out[0] = (char)letter;
        return 1;
    }
    out[0] = (char)(0xC0 | letter >> 6);
    out[1] = (char)(0x80 | (letter & 0x3F));
    return 2;
}

size_t bpe_bytes(char *out, int type, const char *piece, size_t length)
{
    int byte = type == TOK_BYTE ? byte_token(piece, length) : -1;
    if (byte >= 0) {
        out[0] = (char)byte;
        return 1;
    }
    if (type == TOK_CONTROL || type == TOK_USER || type == TOK_UNKNOWN) {
        memcpy(out, piece, length);
        return length;
    }
    size_t n = 0;
    for (size_t i = 0; i < length;) {
        unsigned char c = (unsigned char)piece[i];
        int two = c >= 0xC2 && c <= 0xDF && i + 1 < length;
        int letter = two ? (c & 0x1F) << 6 | ((unsigned char)piece[i + 1] & 0x3F) : c;
        int found = letter_byte(letter);
        if (found >= 0 && (two || c < 128)) {
            out[n++] = (char)found;
            i += two ? 2 : 1;
        } else {
            out[n++] = piece[i++]; /* no letter of the alphabet: itself */
        }
    }
    return n;
}

/* ------------------------------------------------------------------ merges */

static int bad_merge(const tokenizer *tok, const gguf_string *merge, size_t i, const char *what,
                     kv_error *err)
{
    return kv_fail(err, KV_FAIL_RUN, "%s: tokenizer.ggml.merges: number %zu, '%.*s', %s", tok->name,
                   i, merge->length < 80 ? (int)merge->length : 80, merge->data, what);
}

static int read_merge(tokenizer *tok, const gguf_string *merge, size_t i, char *both, kv_error *err)
{
    /* The first character may itself be a space. */
    const char *space = merge->length > 2
                            ? memchr(merge->data + 1, ' ', merge->length - 1) : NULL;
    size_t left = space ? (size_t)(space - merge->data) : 0;
    size_t right = space ? merge->length - left - 1 : 0;
    if (left == 0 || right == 0)
        return bad_merge(tok, merge, i, "is not two tokens with a space between", err);
    memcpy(both, merge->data, left);
    memcpy(both + left, space + 1, right);
    tok->pair[i][0] = table_find(&tok->ids, both, left);
    tok->pair[i][1] = table_find(&tok->ids, both + left, right);
    tok->joined[i] = table_find(&tok->ids, both, left + right);
    if (tok->pair[i][0] < 0 || tok->pair[i][1] < 0 || tok->joined[i] < 0)
        return bad_merge(tok, merge, i, "names or makes a token that the vocabulary lacks", err);
    table_add(&tok->merges, tok->pair[i], sizeof tok->pair[i], (int)i); /* the first one counts */
    return 0;
}

static int read_merges(tokenizer *tok, const tok_spec *spec, kv_error *err)
{
    size_t longest = 0, n = spec->n_merges;
    for (size_t i = 0; i < n; i++)
        longest = spec->merge[i].length > longest ? spec->merge[i].length : longest;
    char *both = malloc(longest + 1);
    tok->pair = malloc((n + 1) * sizeof *tok->pair);
    tok->joined = malloc((n + 1) * sizeof *tok->joined);
    if (!both || !tok->pair || !tok->joined || table_make(&tok->merges, n)) {
        free(both);
        return no_memory(tok, err);
    }
    int code = 0;
    for (size_t i = 0; i < n && !code; i++)
        code = read_merge(tok, &spec->merge[i], i, both, err);
    free(both);
    return code;
}

int bpe_open(tokenizer *tok, const tok_spec *spec, kv_error *err)
{
    if (spec->n_merges > 0 && !spec->merge)
        return kv_fail(err, KV_FAIL_RUN, "%s: tokenizer.ggml.merges is missing; a byte-level BPE "
                       "vocabulary needs it", tok->name);
    for (int b = 0; b < 256; b++) {
        char letter[2];
        int n = letter_utf8(letter, byte_letter(b));
        tok->byte_id[b] = table_find(&tok->ids, letter, (size_t)n);
    }
    int code = choose_pre(tok, spec->pre, err);
    return code ? code : read_merges(tok, spec, err);
}

/* ---------------------------------------------------------------- encoding */

static int pair_rank(const tokenizer *tok, const char *text, const symbol *left,
                     const symbol *right, int *id)
{
    (void)text;
    int pair[2] = {left->id, right->id};
    int rank = table_find(&tok->merges, pair, sizeof pair);
    if (rank >= 0)
        *id = tok->joined[rank];
    return rank;
}

typedef struct {
    id_list *out;
    merge_work *work;
    const tokenizer *tok;
    pcre2_match_data *match;
    char *raw; /* room for the raw text of a word no longer than the longest token */
} bpe_run;

/* The id of a word that is a token as it stands, or -1. */
static int whole_word(const bpe_run *run, const char *word, size_t length)
{
    if (length > run->tok->longest)
        return -1;
    size_t n = 0;
    for (size_t i = 0; i < length; i++)
        n += (size_t)letter_utf8(run->raw + n, byte_letter((unsigned char)word[i]));
    return table_find(&run->tok->ids, run->raw, n);
}

static int encode_word(const bpe_run *run, const char *word, size_t length)
{
    int id = run->tok->whole_words ? whole_word(run, word, length) : -1;
    if (id >= 0)
        return list_add(run->out, id);
    run->work->n = 0;
    for (size_t i = 0; i < length; i++)
        if (merge_add(run->work, (int)i, 1, run->tok->byte_id[(unsigned char)word[i]]))
            return -1;
    if (merge_all(run->work, run->tok, word, pair_rank))
        return -1;
    for (int i = 0; i >= 0; i = run->work->symbol[i].next)
        if (run->work->symbol[i].id >= 0 && list_add(run->out, run->work->symbol[i].id))
            return -1;
    return 0;
}

/* The next match at or after `from`; 1 if there is one, 0 if not, negative on failure. */
static int next_match(const bpe_run *run, int level, const char *text, size_t length, size_t from,
                      size_t *start, size_t *end)
{
    uint32_t option = PCRE2_NO_UTF_CHECK;
    int found;
    do {
        found = pcre2_match(run->tok->split[level], (PCRE2_SPTR)text, length, from, option,
                            run->match, run->tok->limits);
        option |= PCRE2_NO_JIT;
    } while (found == PCRE2_ERROR_JIT_STACKLIMIT); /* once more without it */
    if (found == PCRE2_ERROR_NOMATCH)
        return 0;
    if (found < 0)
        return found;
    const PCRE2_SIZE *at = pcre2_get_ovector_pointer(run->match);
    *start = at[0];
    *end = at[1];
    return 1;
}

/* Cuts a piece with the expressions from `level` on; words that no expression is left for are
 * encoded. A lookahead sees the end of the piece, not what follows it in the text. */
static int encode_piece(const bpe_run *run, int level, const char *text, size_t length)
{
    if (level == run->tok->n_splits)
        return encode_word(run, text, length);
    size_t at = 0, start, end;
    while (at < length) {
        int found = next_match(run, level, text, length, at, &start, &end);
        if (found < 0)
            return -1;
        if (!found)
            start = end = length;
        if (start > at && encode_piece(run, level + 1, text + at, start - at))
            return -1;
        if (end > start && encode_piece(run, level + 1, text + start, end - start))
            return -1;
        at = end;
    }
    return 0;
}

int bpe_encode(id_list *out, merge_work *work, const tokenizer *tok, const char *text,
               size_t length, kv_error *err)
{
    bpe_run run = {out, work, tok, pcre2_match_data_create(1, NULL), malloc(2 * tok->longest + 1)};
    int failed = !run.match || !run.raw || encode_piece(&run, 0, text, length);
    pcre2_match_data_free(run.match);
    free(run.raw);
    return failed ? no_memory(tok, err) : 0;
}
