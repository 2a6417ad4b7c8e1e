/* Tokenizers: ids that follow from small vocabularies by reasoning, texts that come back, mistakes
 * that are refused. With KV_LLM set to the real model: ids that llama.cpp gives
 * (tokens_smollm2.json).
 *
 * Where a pre-tokenizer cuts cannot be seen from a vocabulary of single bytes. So each case names
 * the words it expects; its vocabulary has a chain of merges that builds each of these words from
 * the left, and, later in rank, merges of each word with the next. Cut there, the text is exactly
 * one token per word; a cut too many leaves a word in parts, a cut too few joins two. */
#define _XOPEN_SOURCE 700

#include <criterion/criterion.h>
#include <cjson/cJSON.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "files.h"
#include "tokenizer.h"

TestSuite(tokenizer);

/* ------------------------------------------------- vocabularies made by hand */

enum { MOST = 2000 };

typedef struct {
    tok_spec spec;
    gguf_string token[MOST], merge[MOST];
    int type[MOST];
    float score[MOST];
} made;

static gguf_string copy(const char *bytes, size_t length)
{
    char *mine = malloc(length + 1); /* lives until the test's process ends */
    memcpy(mine, bytes, length);
    mine[length] = 0;
    return (gguf_string){mine, length};
}

static int add(made *m, const char *text, int type, float score)
{
    size_t i = m->spec.n++;
    m->token[i] = copy(text, strlen(text));
    m->type[i] = type;
    m->score[i] = score;
    m->spec.n_types = m->spec.n;
    return (int)i;
}

/* How byte-level vocabularies write a byte: printable Latin-1 as itself, the others from U+0100. */
static size_t letter(char *out, int byte)
{
    int itself = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
    int c = itself ? byte : 256;
    for (int b = 0; b < byte && !itself; b++)
        c += !((b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174);
    if (c < 128) {
        out[0] = (char)c;
        return 1;
    }
    out[0] = (char)(0xC0 | c >> 6);
    out[1] = (char)(0x80 | (c & 63));
    return 2;
}

static gguf_string raw(const char *bytes, size_t n)
{
    char out[512];
    size_t at = 0;
    for (size_t i = 0; i < n; i++)
        at += letter(out + at, (unsigned char)bytes[i]);
    return copy(out, at);
}

/* The 256 bytes, id = byte. */
static made *bytes_only(const char *pre)
{
    made *m = calloc(1, sizeof *m);
    m->spec = tok_spec_empty();
    m->spec.model = "gpt2";
    m->spec.pre = pre;
    m->spec.token = m->token;
    m->spec.type = m->type;
    m->spec.merge = m->merge;
    for (int b = 0; b < 256; b++) {
        char byte = (char)b;
        add(m, raw(&byte, 1).data, TOK_NORMAL, 0);
    }
    return m;
}

static int has_token(const made *m, gguf_string s)
{
    for (size_t i = 0; i < m->spec.n; i++)
        if (m->token[i].length == s.length && memcmp(m->token[i].data, s.data, s.length) == 0)
            return 1;
    return 0;
}

/* Joins left and right (plain bytes) into a token; returns its id. */
static int join(made *m, const char *left, size_t n_left, const char *right, size_t n_right)
{
    char both[256], rule[600];
    memcpy(both, left, n_left);
    memcpy(both + n_left, right, n_right);
    gguf_string a = raw(left, n_left), b = raw(right, n_right), ab = raw(both, n_left + n_right);
    snprintf(rule, sizeof rule, "%s %s", a.data, b.data);
    m->merge[m->spec.n_merges++] = copy(rule, strlen(rule));
    return has_token(m, ab) ? -1 : add(m, ab.data, TOK_NORMAL, 0);
}

static int merge(made *m, const char *left, const char *right)
{
    return join(m, left, strlen(left), right, strlen(right));
}

static tokenizer *open_made(const made *m)
{
    tokenizer *tok = NULL;
    kv_error err = {0};
    cr_assert_eq(tok_from_spec(&tok, &m->spec, &err), 0, "%s", err.text);
    return tok;
}

/* ---------------------------------------------------------------- comparing */

/* The pieces that a text becomes, as their bytes, with a bar between. */
static void pieces(char *out, size_t room, const tokenizer *tok, const char *text, size_t n,
                   int special)
{
    int *ids, count;
    kv_error err = {0};
    out[0] = 0;
    cr_assert_eq(tok_encode(&ids, &count, tok, text, n, special, &err), 0, "%s", err.text);
    for (int i = 0; i < count; i++) {
        size_t length, at = strlen(out);
        const char *bytes = tok_bytes(tok, ids[i], &length);
        snprintf(out + at, room - at, "%s%.*s", i ? "|" : "", (int)length, bytes);
    }
    free(ids);
}

static void expect_pieces(const tokenizer *tok, const char *what, const char *text, int special,
                          const char *expected)
{
    char got[2000], a[900], b[900];
    pieces(got, sizeof got, tok, text, strlen(text), special);
    tm_printable(a, sizeof a, got, strlen(got));
    tm_printable(b, sizeof b, expected, strlen(expected));
    cr_expect_str_eq(got, expected, "%s: got %s, expected %s", what, a, b);
}

static void expect_return(const tokenizer *tok, const char *text, size_t n, int special)
{
    int *ids, count;
    char *back;
    size_t length;
    kv_error err = {0};
    cr_assert_eq(tok_encode(&ids, &count, tok, text, n, special, &err), 0, "%s", err.text);
    cr_assert_eq(tok_decode(&back, &length, tok, ids, count, 1, &err), 0, "%s", err.text);
    cr_expect(length == n && memcmp(back, text, n) == 0, "'%.60s' came back as '%.60s'", text,
              back);
    free(ids);
    free(back);
}

/* ---------------------------------------------------------- pre-tokenizers */

typedef struct {
    const char *pre, *words; /* words with bars between */
} cut;

static const cut cuts[] = {
    /* GPT-2: a space goes with the word that follows; contractions in lower case only */
    {"gpt-2", "Hello| world|!|  | two"},
    {"gpt-2", "don|'t|x| DON|'|Tx| we|'re|y| we|'|Re"},
    {"gpt-2", "it|'s|x"},
    {"gpt-2", "a| '|s"},
    {"gpt-2", "abc|123|def| 4567"},
    {"gpt-2", "a|\n\n|\n|b"},
    {"gpt-2", "a|  \n \t"},
    {"gpt-2", "x|\r\n\r|\n|y"},
    {"gpt-2", "a|\t|b"},
    {"gpt-2", "a|\t\xC2\xA0"},                                     /* NBSP is white space */
    {"gpt-2", "a|\t\xE3\x80\x80\xE2\x80\xA9\xE2\x80\x8A"},           /* U+3000, 2029, 200A too */
    {"gpt-2", "a| \xE1\xA0\x8E|b"},                               /* U+180E is not */
    {"gpt-2", "a| \xE2\x80\x8B|b"},                               /* nor is U+200B */
    {"gpt-2", "a|\t\xC2\x85"},                                     /* U+0085 is */
    {"gpt-2", "a| \x1F|b"},                                       /* U+001F is not */
    {"gpt-2", "e|\xCC\x81|a"},                                    /* an accent is no letter */
    {"gpt-2", "ok| \xF0\x9F\x91\xA9\xE2\x80\x8D\xF0\x9F\x91\xA7|x"}, /* emoji, joiner, emoji */
    {"gpt-2", "\xE4\xBD\xA0\xE5\xA5\xBD|\xE3\x80\x82|1\xC2\xBD\xE2\x85\xA7"}, /* CJK; 1, 1/2, 8 */
    {"gpt-2", "\xD7\xA9\xD7\x9C|\xE2\x80\x8F| \xD7\x9D"},         /* Hebrew with U+200F */
    {"gpt-2", "a|\xF3\xA0\x84\x80\xF1\x90\x80\x80|b"},            /* U+E0100, unassigned U+50000 */
    {"gpt-2", "a\xF0\xAE\xAF\xB0" "b"},                           /* U+2EBF0, a letter since 15.1 */
    {"gpt-2", "1\xF0\x91\xBD\x90|a"},                             /* U+11F50, a digit since 15.0 */
    /* one digit a word */
    {"smollm", "a|1|2|b"},
    {"smollm", "x|  |1|2| y"},
    {"smollm", "a|\xD9\xA3|\xC2\xBD|b"},
    {"smollm", "a|\n\n|1"},
    {"starcoder", "v|2|.|0| |3"},
    {"starcoder", "I|'m| I|'|M"},
    /* Llama 3: three digits, contractions in both cases, any one character before letters */
    {"llama-bpe", "123|456|7| |12|a"},
    {"llama3", "don|'t|x| DON|'T|x| we|'RE|x| we|'Ve|y| We|'lL|z"},
    {"llama-v3", "a|\tb|\xC2\xA0" "c|(d|.e|.\n|f"},
    {"llama-bpe", "a|.\n\n|b| !\r\n|c"},
    {"llama-bpe", "a|  \n\n|  | x"},
    {"llama-bpe", "a|\n \n|  |\ty"},
    {"llama-bpe", "x|'\xC5\xBFy"},
    {"llama-bpe", "e|\xCC\x81" "a"},
    {"llama-bpe", "a|  "},
    /* Qwen 2: the same with one digit */
    {"qwen2", "1|2|3| |4|a"},
    {"qwen2", "it|'S|x| \xE2\x82\xAC|5"},
    /* default: punctuation apart, digits in threes */
    {"default", "a| |,| b|.|c"},
    {"default", "a|$+|b| |<=>"},
    {"default", "123|4|a| |123|45"},
    {"default", "a|\xE3\x80\x82|b"},
    {NULL, "a| |,| b"},
};

Test(tokenizer, pre_tokenizers_cut_words)
{
    for (size_t c = 0; c < sizeof cuts / sizeof *cuts; c++) {
        char words[200], text[200] = "", want[200] = "", label[300], shown[200], *word[32];
        int n = 0;
        made *m = bytes_only(cuts[c].pre);
        strcpy(words, cuts[c].words);
        tm_printable(shown, sizeof shown, words, strlen(words));
        snprintf(label, sizeof label, "%s: %s", cuts[c].pre ? cuts[c].pre : "none", shown);
        for (char *w = strtok(words, "|"); w && n < 32; w = strtok(NULL, "|")) {
            for (size_t k = 1; k < strlen(w); k++)
                join(m, w, k, w + k, 1);
            strcat(text, w);
            strcat(strcat(want, *want ? "|" : ""), w);
            word[n++] = w;
        }
        for (int i = 0; i + 1 < n; i++)
            merge(m, word[i], word[i + 1]);
        tokenizer *tok = open_made(m);
        expect_pieces(tok, label, text, 0, want);
        expect_return(tok, text, strlen(text), 0);
        tok_close(tok);
        free(m);
    }
}

Test(tokenizer, pre_tokenizer_names)
{
    made *m = bytes_only(NULL);
    tokenizer *tok = open_made(m);
    cr_expect_str_eq(tok_pre(tok), "default");
    cr_expect_not_null(tok_warning(tok), "a file without a pre-tokenizer deserves a warning");
    tok_close(tok);
    m->spec.pre = "llama-v3";
    tok = open_made(m);
    cr_expect_str_eq(tok_pre(tok), "llama-bpe");
    cr_expect_str_eq(tok_model(tok), "gpt2");
    cr_expect_null(tok_warning(tok));
    tok_close(tok);
    static const char *const unknown[] = {"tekken", "llama", "gpt", "llama3 llama-v3", "GPT-2"};
    for (int i = 0; i < 5; i++) {
        kv_error err = {0};
        m->spec.pre = unknown[i];
        cr_assert_eq(tok_from_spec(&tok, &m->spec, &err), KV_FAIL_RUN);
        cr_expect(strstr(err.text, unknown[i]) && strstr(err.text, "smollm") &&
                  strstr(err.text, "qwen2"), "%s", err.text);
        cr_expect_null(tok);
    }
    free(m);
}

/* ------------------------------------------------------------------ merges */

Test(tokenizer, merges_by_rank_then_from_the_left)
{
    made *m = bytes_only("gpt-2");
    merge(m, "b", "c"); /* before (a, b): "abc" is a + bc */
    merge(m, "a", "b");
    merge(m, "a", "a"); /* overlapping pairs: the left one first */
    merge(m, "x", "y");
    merge(m, "xy", "z");
    merge(m, "y", "z"); /* comes too late */
    merge(m, "p", "q");
    merge(m, "r", "s");
    merge(m, "pq", "rs");
    merge(m, "b", "c"); /* a second time: the first rank counts */
    tokenizer *tok = open_made(m);
    expect_pieces(tok, "rank", "abc", 0, "a|bc");
    expect_pieces(tok, "left", "aaa", 0, "aa|a");
    expect_pieces(tok, "pairs", "aaaaa", 0, "aa|aa|a");
    expect_pieces(tok, "chain", "xyzyz", 0, "xyz|yz");
    expect_pieces(tok, "tree", "pqrs", 0, "pqrs");
    expect_pieces(tok, "outdated", "aab", 0, "a|ab");
    expect_pieces(tok, "empty", "", 0, "");
    tok_close(tok);
    free(m);
}

Test(tokenizer, whole_words_need_no_merges_in_llama_3)
{
    for (int llama = 0; llama < 2; llama++) {
        made *m = bytes_only(llama ? "llama-bpe" : "qwen2");
        add(m, "\xC4\xA0whole", TOK_NORMAL, 0);
        tokenizer *tok = open_made(m);
        expect_pieces(tok, "word", "a whole", 0, llama ? "a| whole" : "a| |w|h|o|l|e");
        expect_pieces(tok, "in a word", " wholes", 0, " |w|h|o|l|e|s");
        tok_close(tok);
        free(m);
    }
}

/* Real vocabularies lack bytes that their training text never had. */
Test(tokenizer, bytes_without_a_token_disappear)
{
    made *m = bytes_only("gpt-2");
    m->token[4] = copy("[gone]", 6);
    merge(m, "a", "b");
    tokenizer *tok = open_made(m);
    expect_pieces(tok, "lost", "ab\x04" "ab\x04", 0, "ab|ab");
    cr_expect_eq(tok_lost_bytes(tok, "ab\x04" "ab\x04", 6), 2);
    cr_expect_eq(tok_lost_bytes(tok, "abab", 4), 0);
    tok_close(tok);
    free(m);
}

Test(tokenizer, very_long_words)
{
    enum { LONG = 300001, LONGER = 5000000 };
    made *m = bytes_only("gpt-2");
    merge(m, "a", "a");
    int four = merge(m, "aa", "aa");
    tokenizer *tok = open_made(m);
    char *text = malloc(LONGER);
    kv_error err = {0};
    int *ids, n;
    memset(text, 'a', LONG);
    cr_assert_eq(tok_encode(&ids, &n, tok, text, LONG, 0, &err), 0, "%s", err.text);
    cr_expect_eq(n, LONG / 4 + 1);
    cr_expect(ids[0] == four && ids[n - 2] == four && ids[n - 1] == 'a');
    free(ids);
    memset(text, ' ', LONGER);
    cr_assert_eq(tok_encode(&ids, &n, tok, text, LONGER, 0, &err), 0, "%s", err.text);
    cr_expect(n == LONGER && ids[0] == ' ' && ids[n - 1] == ' ');
    free(ids);
    tok_close(tok);
    m->spec.pre = "llama-bpe"; /* looks for a line break behind all that space */
    tok = open_made(m);
    cr_assert_eq(tok_encode(&ids, &n, tok, text, LONGER, 0, &err), 0, "%s", err.text);
    cr_expect_eq(n, LONGER);
    free(ids);
    free(text);
    tok_close(tok);
    free(m);
}

/* ---------------------------------------------------------- special tokens */

Test(tokenizer, special_tokens_are_text_unless_asked_for)
{
    made *m = bytes_only("gpt-2");
    add(m, "<|x|>", TOK_CONTROL, 0);
    add(m, "<|x|>y", TOK_CONTROL, 0);
    add(m, "@@", TOK_USER, 0);
    add(m, "@@@@", TOK_USER, 0);
    add(m, "[u]", TOK_UNKNOWN, 0);
    add(m, "bcde", TOK_CONTROL, 0);
    add(m, "abc", TOK_CONTROL, 0);
    tokenizer *tok = open_made(m);
    expect_pieces(tok, "plain", "a<|x|>", 0, "a|<|||x|||>");
    expect_pieces(tok, "control", "a<|x|>b<|x|>", 1, "a|<|x|>|b|<|x|>");
    expect_pieces(tok, "longest first", "<|x|>y<|x|>", 1, "<|x|>y|<|x|>");
    expect_pieces(tok, "user-defined always", "1@@@@@@2", 0, "1|@@@@|@@|2");
    expect_pieces(tok, "unknown", "[u]", 1, "[u]");
    expect_pieces(tok, "unknown", "[u]", 0, "[|u|]");
    expect_pieces(tok, "the longer wins, not the first", "abcde", 1, "a|bcde");
    expect_pieces(tok, "words end at a special token", "a  <|x|>b", 1, "a| | |<|x|>|b");
    expect_return(tok, "a<|x|>y@@[u] \n", 13, 1);
    tok_close(tok);
    free(m);
}

Test(tokenizer, tokens_that_end_a_generation)
{
    made *m = bytes_only("gpt-2");
    int eot = add(m, "<|endoftext|>", TOK_CONTROL, 0), im = add(m, "<|im_end|>", TOK_NORMAL, 0);
    int other = add(m, "<|start|>", TOK_CONTROL, 0), eos = add(m, "<done>", TOK_CONTROL, 0);
    int fim = add(m, "<fim_prefix>", TOK_NORMAL, 0);
    m->spec.eos = eos;
    tokenizer *tok = open_made(m);
    cr_expect(tok_is_eog(tok, eot) && tok_is_eog(tok, im) && tok_is_eog(tok, eos));
    cr_expect(!tok_is_eog(tok, other) && !tok_is_eog(tok, fim) && !tok_is_eog(tok, 'a'));
    cr_expect_eq(tok_type(tok, im), TOK_CONTROL, "a known name is a control token");
    cr_expect_eq(tok_type(tok, fim), TOK_CONTROL);
    cr_expect_eq(tok_end_of_text(tok), eot);
    cr_expect(tok_bos(tok) == -1 && tok_eos(tok) == eos && tok_add_bos(tok) == 0);
    cr_expect_eq(tok_find(tok, "<done>", 6), eos);
    cr_expect_eq(tok_find(tok, "<don", 4), -1);
    cr_expect_eq(tok_size(tok), (int)m->spec.n);
    tok_close(tok);
    free(m);
}

/* ----------------------------------------------------------- SentencePiece */

#define SP "\xE2\x96\x81" /* how SentencePiece writes a space */

/* <unk> <s> </s> <0x00> ... <0xFF>, then what the test wants. */
static made *sentencepiece(int bytes)
{
    made *m = calloc(1, sizeof *m);
    m->spec = tok_spec_empty();
    m->spec.model = "llama";
    m->spec.token = m->token;
    m->spec.type = m->type;
    m->spec.score = m->score;
    add(m, "<unk>", TOK_UNKNOWN, 0);
    add(m, "<s>", TOK_CONTROL, 0);
    add(m, "</s>", TOK_CONTROL, 0);
    for (int b = 0; b < 256 && bytes; b++) {
        char name[8];
        snprintf(name, sizeof name, "<0x%02X>", b);
        add(m, name, TOK_BYTE, 0);
    }
    static const char *const one[] = {SP, "a", "b", "c", "d"};
    for (int i = 0; i < 5; i++)
        add(m, one[i], TOK_NORMAL, -100 - (float)i);
    return m;
}

static tokenizer *open_spm(made *m)
{
    m->spec.n_scores = m->spec.n;
    return open_made(m);
}

Test(tokenizer, sentencepiece_merges_by_score)
{
    made *m = sentencepiece(1);
    add(m, SP "a", TOK_NORMAL, -5);
    add(m, "bc", TOK_NORMAL, -1);
    add(m, "ab", TOK_NORMAL, -2);
    add(m, "abc", TOK_NORMAL, -3);
    add(m, "dd", TOK_NORMAL, -4);
    add(m, SP SP, TOK_NORMAL, -6);
    tokenizer *tok = open_spm(m);
    expect_pieces(tok, "bc is best, then abc", "abc", 0, " |abc");
    expect_pieces(tok, "ab before " SP "a", "ab", 0, " |ab");
    expect_pieces(tok, "equal scores: from the left", "ddd", 0, " |dd|d");
    expect_pieces(tok, "space prefix", "a a", 0, " a| a");
    expect_pieces(tok, "runs of spaces", "a   a", 0, " a|  | a");
    expect_pieces(tok, "bytes", "a\xC3\xA9\n", 0, " a|\xC3|\xA9|\n");
    expect_pieces(tok, "empty", "", 0, "");
    expect_pieces(tok, "space", " ", 0, "  ");
    expect_pieces(tok, "special", "a<s>a </s> a", 1, " a|<s>| a| |</s>| | a");
    static const char *const texts[] = {"abc", " a", "  a  ", "a<s>b</s> c", "<s>", "\n\na\t",
                                        "\xF0\x9F\x98\x80 x", "", " "};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        expect_return(tok, texts[i], strlen(texts[i]), 1);
    cr_expect(tok_bos(tok) == 1 && tok_eos(tok) == 2 && tok_add_bos(tok) == 1);
    cr_expect_str_eq(tok_model(tok), "llama");
    cr_expect_str_eq(tok_pre(tok), "");
    cr_expect_eq(tok_lost_bytes(tok, "\x04", 1), 0);
    tok_close(tok);
    free(m);
}

Test(tokenizer, sentencepiece_without_prefix_and_without_bytes)
{
    made *m = sentencepiece(0);
    m->spec.add_space_prefix = 0;
    m->spec.add_bos = 0;
    add(m, SP "a", TOK_NORMAL, -1);
    tokenizer *tok = open_spm(m);
    expect_pieces(tok, "no prefix", "a a", 0, "a| a");
    expect_pieces(tok, "no byte tokens: unknown", "a\xC3\xA9", 0, "a|<unk>|<unk>");
    expect_return(tok, " a a", 4, 0);
    cr_expect_eq(tok_add_bos(tok), 0);
    tok_close(tok);
    free(m);
}

/* A token with a space inside forbids cutting at spaces; ids must not depend on the short cut. */
Test(tokenizer, sentencepiece_tokens_across_spaces)
{
    made *m = sentencepiece(1);
    add(m, "b" SP, TOK_NORMAL, -1);
    add(m, "ab" SP, TOK_NORMAL, -2);
    add(m, "ab" SP "c", TOK_NORMAL, -3);
    add(m, SP "c", TOK_NORMAL, -4);
    tokenizer *tok = open_spm(m);
    expect_pieces(tok, "across", "ab c c", 0, " |ab c| c");
    expect_return(tok, "ab c c", 6, 0);
    tok_close(tok);
    free(m);
}

/* The pair bc comes up when b is part of ab and cd has become as long as bc was. */
Test(tokenizer, pairs_whose_left_half_is_gone)
{
    made *m = sentencepiece(1);
    m->spec.add_space_prefix = 0;
    add(m, "ab", TOK_NORMAL, -1);
    add(m, "cd", TOK_NORMAL, -2);
    add(m, "bc", TOK_NORMAL, -3);
    add(m, "abcd", TOK_NORMAL, -4);
    tokenizer *tok = open_spm(m);
    expect_pieces(tok, "gone", "abcd", 0, "abcd");
    expect_pieces(tok, "there", "abc bcd", 0, "ab|c| |b|cd");
    tok_close(tok);
    free(m);
}

Test(tokenizer, white_space_after_special_tokens_of_phi_3)
{
    made *m = sentencepiece(1);
    m->spec.strip_after_special = 1;
    add(m, "<|user|>", TOK_CONTROL, 0);
    tokenizer *tok = open_spm(m);
    expect_pieces(tok, "stripped", "<|user|> \n\ta<s> b", 1, "<|user|>| |a|<s>| | |b");
    expect_pieces(tok, "at the end", "a<|user|>\n", 1, " |a|<|user|>");
    tok_close(tok);
    free(m);
}

/* --------------------------------------------------------------- decoding */

Test(tokenizer, characters_cut_in_two_come_together)
{
    made *m = bytes_only("gpt-2");
    int bos = add(m, "<bos>", TOK_CONTROL, 0);
    tokenizer *tok = open_made(m);
    int ids[] = {bos, 0xF0, 0x9F, 0x98, 0x80, ' ', bos};
    char streamed[32] = "", *text;
    size_t length;
    for (int i = 1; i < 6; i++) {
        const char *bytes = tok_bytes(tok, ids[i], &length);
        strncat(streamed, bytes, length);
    }
    cr_expect_str_eq(streamed, "\xF0\x9F\x98\x80 ");
    cr_assert_eq(tok_decode(&text, &length, tok, ids, 7, 0, NULL), 0);
    cr_expect_str_eq(text, "\xF0\x9F\x98\x80 ");
    free(text);
    cr_assert_eq(tok_decode(&text, &length, tok, ids, 7, 1, NULL), 0);
    cr_expect_str_eq(text, "<bos>\xF0\x9F\x98\x80 <bos>");
    free(text);
    cr_assert_eq(tok_decode(&text, &length, tok, ids, 0, 1, NULL), 0);
    cr_expect(length == 0 && text[0] == 0);
    free(text);
    kv_error err = {0};
    ids[2] = 257;
    cr_expect_eq(tok_decode(&text, &length, tok, ids, 7, 0, &err), KV_FAIL_RUN);
    cr_expect(strstr(err.text, "257"), "%s", err.text);
    ids[2] = -1;
    cr_expect_eq(tok_decode(&text, &length, tok, ids, 7, 0, &err), KV_FAIL_RUN);
    size_t raw_length;
    const char *piece = tok_piece(tok, ' ', &raw_length);
    cr_expect(raw_length == 2 && memcmp(piece, "\xC4\xA0", 2) == 0, "raw text keeps its spelling");
    tok_close(tok);
    free(m);
}

/* All code points, also in one text with zero bytes. */
Test(tokenizer, every_code_point_comes_back)
{
    static const char *const pre[] = {"gpt-2", "smollm", "llama-bpe", "qwen2", "default"};
    char *text = malloc(5 * 0x110000);
    size_t n = 0;
    for (unsigned c = 0; c < 0x110000; c++) {
        if (c >= 0xD800 && c < 0xE000)
            continue;
        if (c < 0x80) {
            text[n++] = (char)c;
        } else if (c < 0x800) {
            text[n++] = (char)(0xC0 | c >> 6);
        } else if (c < 0x10000) {
            text[n++] = (char)(0xE0 | c >> 12);
            text[n++] = (char)(0x80 | (c >> 6 & 63));
        } else {
            text[n++] = (char)(0xF0 | c >> 18);
            text[n++] = (char)(0x80 | (c >> 12 & 63));
            text[n++] = (char)(0x80 | (c >> 6 & 63));
        }
        if (c >= 0x80)
            text[n++] = (char)(0x80 | (c & 63));
        if (c % 97 == 0)
            text[n++] = ' ';
    }
    for (int p = 0; p < 5; p++) {
        made *m = bytes_only(pre[p]);
        tokenizer *tok = open_made(m);
        expect_return(tok, text, n, 0);
        tok_close(tok);
        free(m);
    }
    made *m = sentencepiece(1);
    tokenizer *tok = open_spm(m);
    int *ids, count;
    cr_assert_eq(tok_encode(&ids, &count, tok, text, n, 0, NULL), 0);
    cr_expect_gt(count, 1000000);
    free(ids);
    tok_close(tok);
    free(m);
    free(text);
}

/* ------------------------------------------------------------------ threads */

static void *encode_often(void *tok)
{
    char got[200];
    for (int i = 0; i < 200; i++) {
        pieces(got, sizeof got, tok, "it's 12 o'clock  ", 17, 1);
        if (strcmp(got, "i|t|'s| |1|2| |o|'|c|l|o|c|k| | ") != 0)
            return tok;
    }
    return NULL;
}

Test(tokenizer, several_threads_share_one)
{
    made *m = bytes_only("smollm");
    merge(m, "'", "s");
    tokenizer *tok = open_made(m);
    pthread_t thread[4];
    for (int i = 0; i < 4; i++)
        pthread_create(&thread[i], NULL, encode_often, tok);
    for (int i = 0; i < 4; i++) {
        void *wrong;
        pthread_join(thread[i], &wrong);
        cr_expect_null(wrong);
    }
    tok_close(tok);
    free(m);
}

/* ------------------------------------------------------------------ errors */

Test(tokenizer, text_that_is_not_utf8)
{
    static const struct {
        const char *text;
        size_t n, bad;
    } cases[] = {{"ab\xFF", 3, 2}, {"\x80", 1, 0}, {"abc\xE2\x82", 5, 3}, {"a\xC0\x80", 3, 1},
                 {"\xED\xA0\x80", 3, 0}, {"xy\xF4\x90\x80\x80", 6, 2}};
    made *m = bytes_only("gpt-2");
    tokenizer *tok = open_made(m);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int *ids, n;
        char offset[32];
        kv_error err = {0};
        cr_expect_eq(tok_encode(&ids, &n, tok, cases[i].text, cases[i].n, 0, &err), KV_FAIL_RUN);
        snprintf(offset, sizeof offset, "offset %zu", cases[i].bad);
        cr_expect(strstr(err.text, offset), "case %zu: %s", i, err.text);
        cr_expect(ids == NULL && n == 0);
    }
    tok_close(tok);
    free(m);
}

static void expect_refused(const tok_spec *spec, const char *what, const char *part)
{
    tokenizer *tok;
    kv_error err = {0};
    cr_expect_eq(tok_from_spec(&tok, spec, &err), KV_FAIL_RUN, "%s", what);
    cr_expect(strstr(err.text, part), "%s: '%s' does not say '%s'", what, err.text, part);
    cr_expect_null(tok);
}

Test(tokenizer, vocabularies_that_make_no_sense)
{
    made *m = bytes_only("gpt-2");
    merge(m, "a", "b");
    const tok_spec good = m->spec;
    tok_spec s;
    s = good, s.token = NULL, expect_refused(&s, "tokens", "missing");
    s = good, s.n = 0, expect_refused(&s, "no tokens", "empty");
    s = good, s.n_types--, expect_refused(&s, "types", "256 entries for 257");
    s = good, s.score = m->score, s.n_scores = 3, expect_refused(&s, "scores", "3 entries");
    s = good, s.model = NULL, expect_refused(&s, "model", "tokenizer.ggml.model is missing");
    s = good, s.model = "bert", expect_refused(&s, "model", "'bert'");
    s = good, s.bos = 257, expect_refused(&s, "bos", "bos_token_id is 257");
    s = good, s.eos = 99999, expect_refused(&s, "eos", "eos_token_id is 99999");
    s = good, s.eot = INT64_MAX, expect_refused(&s, "eot", "eot_token_id");
    s = good, s.merge = NULL, expect_refused(&s, "merges", "merges is missing");
    s = good, s.merge = NULL, s.n_merges = 0, tok_close(open_made(&(made){.spec = s}));
    static const char *const bad[] = {"a", "a ", " b", "a zz", "zz a", "a c", ""};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        m->merge[0] = copy(bad[i], strlen(bad[i]));
        expect_refused(&good, bad[i], "number 0");
    }
    m->merge[0] = copy("a b", 3);
    m->token[7] = copy("a", 1);
    expect_refused(&good, "twice", "tokens 7 and 97 have the same text 'a'");
    m->token[7] = copy("", 0);
    tok_close(open_made(m)); /* an empty token can be there, it is just never used */
    free(m);
    m = sentencepiece(1);
    expect_refused(&m->spec, "no scores", "scores");
    m->spec.n_scores = m->spec.n;
    m->score[5] = (float)strtod("nan", NULL);
    expect_refused(&m->spec, "score", "token 5 is not a number");
    free(m);
}

/* ------------------------------------------------------------ a GGUF's keys */

static void write_vocabulary(const char *path, int broken)
{
    made *m = bytes_only("smollm");
    merge(m, "a", "b");
    add(m, "<|x|>", TOK_CONTROL, 0);
    gguf_writer *w = gguf_writer_new();
    kv_error err = {0};
    int32_t type[MOST];
    for (size_t i = 0; i < m->spec.n; i++)
        type[i] = m->type[i];
    gguf_put_string(w, "tokenizer.ggml.model", "gpt2", 4);
    gguf_put_string(w, "tokenizer.ggml.pre", "smollm", 6);
    gguf_put_strings(w, "tokenizer.ggml.tokens", m->token, m->spec.n);
    gguf_put_strings(w, "tokenizer.ggml.merges", m->merge, m->spec.n_merges);
    gguf_put_int32s(w, "tokenizer.ggml.token_type", type, m->spec.n);
    gguf_put_uint32(w, "tokenizer.ggml.bos_token_id", 257);
    if (broken)
        gguf_put_string(w, "tokenizer.ggml.add_bos_token", "yes", 3);
    else
        gguf_put_bool(w, "tokenizer.ggml.add_bos_token", 1);
    cr_assert_eq(gguf_write(w, path, &err), 0, "%s", err.text);
    gguf_writer_free(w);
    free(m);
}

Test(tokenizer, from_a_gguf_file)
{
    char path[] = "/tmp/test_tokenizer.XXXXXX";
    cr_assert_geq(mkstemp(path), 0);
    for (int broken = 0; broken < 2; broken++) {
        gguf *file;
        tokenizer *tok;
        kv_error err = {0};
        write_vocabulary(path, broken);
        cr_assert_eq(gguf_open(&file, path, &err), 0, "%s", err.text);
        int code = tok_open(&tok, file, &err);
        if (broken) {
            cr_expect_eq(code, KV_FAIL_RUN);
            cr_expect(strstr(err.text, "add_bos_token"), "%s", err.text);
        } else {
            cr_assert_eq(code, 0, "%s", err.text);
            cr_expect(tok_bos(tok) == 257 && tok_add_bos(tok) == 1 && tok_eos(tok) == -1);
            expect_pieces(tok, "file", "ab12<|x|>", 1, "ab|1|2|<|x|>");
            tok_close(tok);
        }
        gguf_close(file);
    }
    unlink(path);
}

/* ------------------------------------------------- the real model (KV_LLM) */

static void check_case(const tokenizer *tok, const cJSON *item, int i)
{
    const char *text = cJSON_GetStringValue(cJSON_GetObjectItem(item, "text"));
    const cJSON *want = cJSON_GetObjectItem(item, "ids"), *id;
    int special = cJSON_IsTrue(cJSON_GetObjectItem(item, "special"));
    int *ids, n, k = 0;
    kv_error err = {0};
    cr_assert_eq(tok_encode(&ids, &n, tok, text, strlen(text), special, &err), 0, "%s", err.text);
    int same = n == cJSON_GetArraySize(want);
    cJSON_ArrayForEach(id, want)
        if (same) {
            same = ids[k] == id->valueint;
            k++;
        }
    cr_expect(same, "case %d, '%.80s': other ids from number %d on", i, text, k - 1);
    if (tok_lost_bytes(tok, text, strlen(text)) == 0)
        expect_return(tok, text, strlen(text), special);
    free(ids);
}

Test(tokenizer, real_model)
{
    const char *path = getenv("KV_LLM");
    if (!path)
        cr_skip_test("KV_LLM names no model (make test-llm does)");
    gguf *file;
    tokenizer *tok;
    char *json;
    size_t n;
    kv_error err = {0};
    cr_assert_eq(gguf_open(&file, path, &err), 0, "%s", err.text);
    cr_assert_eq(tok_open(&tok, file, &err), 0, "%s", err.text);
    cr_assert_eq(tm_read_file(&json, &n, "tests/tokens_smollm2.json", &err), 0, "%s", err.text);
    cJSON *root = cJSON_ParseWithLength(json, n);
    const cJSON *item;
    int count = 0;
    cJSON_ArrayForEach(item, cJSON_GetObjectItem(root, "cases"))
        check_case(tok, item, count++);
    cr_expect_eq(count, (int)cJSON_GetNumberValue(cJSON_GetObjectItem(root, "count")));
    cr_expect_gt(count, 100);
    cJSON_Delete(root);
    free(json);
    tok_close(tok);
    gguf_close(file);
}
