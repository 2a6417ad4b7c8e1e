/* SentencePiece as Llama 2, Mistral 7B and TinyLlama use it: BPE by scores.
 *
 * There are no words: the whole text is one row of characters, with every space written as
 * U+2581 and one more of them in front (so that a word looks the same at the start of a text as
 * elsewhere). Neighbours join if what they make is a token, the token of the highest score first,
 * the leftmost among equals. A character that is in no token at the end becomes its bytes,
 * tokens <0x00> to <0xFF>. Control tokens have texts like any other token: if merging
 * happens to arrive at "</s>" it takes it, as llama.cpp does.
 *
 * One row for a whole book is slow: the queue holds millions of pairs, in an order that jumps
 * all over the text. But in the usual vocabularies a space mark only ever starts a token (or
 * follows another mark), so nothing can join across the place before one, and the text may be cut
 * there without changing a single id. Whether that is so is looked up in the vocabulary. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "vocabulary.h"

static const char space_mark[] = "\xE2\x96\x81"; /* U+2581 */
enum { MARK = 3 };

/* ----------------------------------------------------------------- opening */

typedef struct {
    float score;
    int id;
} scored;

static int by_falling_score(const void *a, const void *b)
{
    float x = ((const scored *)a)->score, y = ((const scored *)b)->score;
    return (x < y) - (x > y);
}

/* Does no token have a space mark behind another character? */
static int marks_start_tokens(const tokenizer *tok)
{
    for (int i = 0; i < tok->n; i++) {
        size_t length;
        const char *piece = tok_piece(tok, i, &length);
        for (size_t k = 1; k + MARK <= length; k++)
            if (memcmp(piece + k, space_mark, MARK) == 0 &&
                (k < MARK || memcmp(piece + k - MARK, space_mark, MARK) != 0))
                return 0;
    }
    return 1;
}

int spm_open(tokenizer *tok, const tok_spec *spec, kv_error *err)
{
    if (!spec->score || spec->n_scores != spec->n)
        return kv_fail(err, KV_FAIL_RUN, "%s: tokenizer.ggml.scores has %zu entries for %zu "
                       "tokens; a SentencePiece vocabulary needs one for each", tok->name,
                       spec->score ? spec->n_scores : 0, spec->n);
    scored *order = malloc(spec->n * sizeof *order);
    tok->rank = malloc(spec->n * sizeof *tok->rank);
    if (!order || !tok->rank) {
        free(order);
        return no_memory(tok, err);
    }
    for (int i = 0; i < tok->n; i++) {
        order[i] = (scored){spec->score[i], i};
        if (isnan(spec->score[i])) {
            free(order);
            return kv_fail(err, KV_FAIL_RUN, "%s: the score of token %d is not a number", tok->name,
                           i);
        }
    }
    qsort(order, spec->n, sizeof *order, by_falling_score);
    for (int i = 0, rank = 0; i < tok->n; i++) {
        if (i > 0 && order[i].score < order[i - 1].score)
            rank = i;
        tok->rank[order[i].id] = rank;
    }
    free(order);
    tok->pre = "";
    tok->cut_at_spaces = marks_start_tokens(tok);
    tok->add_space_prefix = spec->add_space_prefix != 0;
    return 0;
}

size_t spm_bytes(char *out, int type, const char *piece, size_t length)
{
    int byte = type == TOK_BYTE ? byte_token(piece, length) : -1;
    if (byte >= 0) {
        out[0] = (char)byte;
        return 1;
    }
    int plain = type == TOK_CONTROL || type == TOK_USER || type == TOK_UNKNOWN;
    size_t n = 0;
    for (size_t i = 0; i < length;) {
        if (!plain && length - i >= MARK && memcmp(piece + i, space_mark, MARK) == 0) {
            out[n++] = ' ';
            i += MARK;
        } else {
            out[n++] = piece[i++];
        }
    }
    return n;
}

/* ---------------------------------------------------------------- encoding */

static int joint_rank(const tokenizer *tok, const char *text, const symbol *left,
                      const symbol *right, int *id)
{
    size_t length = (size_t)left->length + (size_t)right->length;
    if (length > tok->longest)
        return -1;
    *id = table_find(&tok->ids, text + left->start, length);
    return *id < 0 ? -1 : tok->rank[*id];
}

/* The token of a byte: <0x0A>, or the byte itself, or the unknown token, or -1. */
static int byte_id(const tokenizer *tok, unsigned char byte)
{
    char name[8];
    snprintf(name, sizeof name, "<0x%02X>", byte);
    int id = table_find(&tok->ids, name, 6);
    if (id < 0)
        id = table_find(&tok->ids, &byte, 1);
    return id < 0 ? tok->unk : id;
}

/* A new copy of the text with its spaces marked; NULL without memory. */
static char *marked(const char *text, size_t length, int prefix, size_t *marked_length)
{
    char *out = malloc(MARK * (length + 1) + 1);
    size_t n = 0;
    if (out && prefix) {
        memcpy(out, space_mark, MARK);
        n = MARK;
    }
    for (size_t i = 0; out && i < length; i++) {
        if (text[i] == ' ') {
            memcpy(out + n, space_mark, MARK);
            n += MARK;
        } else {
            out[n++] = text[i];
        }
    }
    *marked_length = n;
    return out;
}

static int add_characters(merge_work *work, const tokenizer *tok, const char *text, size_t length)
{
    work->n = 0;
    for (size_t i = 0, n; i < length; i += n) {
        unsigned char c = (unsigned char)text[i];
        n = c < 0x80 ? 1 : c < 0xE0 ? 2 : c < 0xF0 ? 3 : 4;
        int id = table_find(&tok->ids, text + i, n);
        if (merge_add(work, (int)i, (int)n, id))
            return -1;
    }
    return 0;
}

static int write_ids(id_list *out, const merge_work *work, const tokenizer *tok, const char *text,
                     kv_error *err)
{
    for (int i = work->n ? 0 : -1; i >= 0; i = work->symbol[i].next) {
        const symbol *s = &work->symbol[i];
        if (s->id >= 0) {
            if (list_add(out, s->id))
                return no_memory(tok, err);
            continue;
        }
        for (int k = 0; k < s->length; k++) {
            unsigned char byte = (unsigned char)text[s->start + k];
            int id = byte_id(tok, byte);
            if (id < 0)
                return kv_fail(err, KV_FAIL_RUN, "%s: the text has a byte 0x%02X for which the "
                               "vocabulary has no token, no <0x%02X> and no unknown token",
                               tok->name, byte, byte);
            if (list_add(out, id))
                return no_memory(tok, err);
        }
    }
    return 0;
}

/* Where the stretch that starts at `start` ends: before the next space mark that follows another
 * character, if texts may be cut there. */
static size_t stretch_end(const tokenizer *tok, const char *row, size_t length, size_t start)
{
    int inside = 0; /* past the marks at the start */
    for (size_t i = start; tok->cut_at_spaces && i < length;) {
        int mark = length - i >= MARK && memcmp(row + i, space_mark, MARK) == 0;
        if (mark && inside)
            return i;
        inside |= !mark;
        i += mark ? MARK : 1;
    }
    return length;
}

/* The text begins a whole text or follows a special token: it gets a space in front. */
int spm_encode(id_list *out, merge_work *work, const tokenizer *tok, const char *text,
               size_t length, kv_error *err)
{
    size_t n;
    char *row = marked(text, length, tok->add_space_prefix, &n);
    int code = row ? 0 : no_memory(tok, err);
    for (size_t at = 0, end; !code && at < n; at = end) {
        end = stretch_end(tok, row, n, at);
        if (add_characters(work, tok, row + at, end - at) ||
            merge_all(work, tok, row + at, joint_rank))
            code = no_memory(tok, err);
        else
            code = write_ids(out, work, tok, row + at, err);
    }
    free(row);
    return code;
}
