/* vocabulary.h: what the parts of the tokenizer share; not for others (they use tokenizer.h).
 *
 *   tokenizer.c       opening, checks, special tokens, decoding
 *   tokenizer_gguf.c  the spec from a file's metadata
 *   bpe.c             byte-level BPE: pre-tokenizers and merges by rank
 *   spm.c             SentencePiece: merges by score, byte fallback
 *   merge.c           the one merging loop both need, and the hash table */
#ifndef VOCABULARY_H
#define VOCABULARY_H

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stddef.h>
#include <stdint.h>

#include "tokenizer.h"

/* A map from byte strings to ints. The keys stay where they are: the table only points. */
typedef struct {
    const char *key;
    uint32_t length, hash; /* the hash, so that most other keys need no look at them */
    int value;
} table_slot;

typedef struct {
    table_slot *slot;
    size_t mask; /* slots - 1; the number of slots is a power of two */
} table;

int table_make(table *t, size_t keys); /* room for so many; 0, or -1 without memory */
/* Adds a key, or leaves the table as it is and returns the value the key already has (else -1). */
int table_add(table *t, const void *key, size_t length, int value);
int table_find(const table *t, const void *key, size_t length); /* value, or -1 */

/* A growing list of ids. */
typedef struct {
    int *at;
    size_t n, room;
} id_list;

int list_add(id_list *list, int id); /* 0, or -1 without memory */

/* Merging: a row of symbols, each a stretch of the text; neighbours join, best pair first. */
typedef struct {
    int start, length; /* in the text; length 0: joined to a symbol further left */
    int id;            /* of the token with this text, -1 if there is none */
    int next, prev;    /* neighbours, -1 at the ends */
} symbol;

typedef struct {
    int rank;   /* 0 is joined first */
    int left;   /* the left symbol of the pair */
    int id;     /* what the pair becomes */
    int length; /* of the pair when it was seen: another length now means it is outdated */
} merge_pair;

typedef struct {
    symbol *symbol;
    size_t n, room;
    merge_pair *heap;
    size_t n_heap, room_heap;
} merge_work;

/* The rank of joining two neighbours, and in *id what they become; -1: they do not join. */
typedef int merge_rank(const tokenizer *tok, const char *text, const symbol *left,
                       const symbol *right, int *id);

int merge_add(merge_work *work, int start, int length, int id); /* 0, or -1: no memory */
int merge_all(merge_work *work, const tokenizer *tok, const char *text, merge_rank *rank);
void merge_free(merge_work *work);

enum { LONGEST_TEXT = 1 << 29 }; /* bytes; so that positions fit an int, threefold */
enum { BPE, SPM };
enum { MOST_SPLITS = 4 };

struct tokenizer {
    int kind, n;
    char *text;          /* raw text of all tokens, end to end */
    size_t *text_start;  /* [n + 1] */
    char *bytes;         /* the bytes they stand for */
    size_t *bytes_start; /* [n + 1] */
    unsigned char *type, *ends; /* [n]: TOK_..., and whether the token ends generation */
    size_t longest;      /* raw token */
    table ids;           /* raw text to id */
    int *special;        /* ids of control, user and unknown tokens, longest first */
    int n_special;
    int bos, eos, unk, add_bos, end_of_text, strip_after_special;
    char name[256];      /* for messages */
    const char *pre, *warning;

    /* byte-level BPE */
    pcre2_code *split[MOST_SPLITS];
    pcre2_match_context *limits;
    int n_splits, whole_words;
    int byte_id[256];    /* -1: the vocabulary cannot express this byte */
    int (*pair)[2];      /* [merges] ids of left and right */
    int *joined;         /* [merges] id of both together */
    table merges;        /* pair to its index, which is its rank */

    /* SentencePiece */
    int *rank;           /* [n] tokens by falling score; equal scores have equal ranks */
    int add_space_prefix, cut_at_spaces;
};

/* Fill in the part of one family; encode one stretch of text between special
 * tokens. */
int bpe_open(tokenizer *tok, const tok_spec *spec, kv_error *err);
int bpe_encode(id_list *out, merge_work *work, const tokenizer *tok, const char *text,
               size_t length, kv_error *err);
int spm_open(tokenizer *tok, const tok_spec *spec, kv_error *err);
int spm_encode(id_list *out, merge_work *work, const tokenizer *tok, const char *text,
               size_t length, kv_error *err);

/* The bytes that a token stands for, to out (room for length bytes); returns how many. */
size_t bpe_bytes(char *out, int type, const char *piece, size_t length);
size_t spm_bytes(char *out, int type, const char *piece, size_t length);

/* "<0x0A>" to 10; -1 if the text is not of this form. */
int byte_token(const char *piece, size_t length);

int no_memory(const tokenizer *tok, kv_error *err); /* KV_FAIL_RUN and its sentence */

#endif
