/* tokenizer.h: text to token ids and back, as the model's own file describes it.
 *
 * Two families are known: byte-level BPE (tokenizer.ggml.model = "gpt2"; pre-tokenizers gpt-2,
 * smollm, starcoder, llama-bpe, qwen2, default) and SentencePiece ("llama": scores, byte
 * fallback, space prefix). Ids are meant to equal those of llama.cpp for every text; where
 * llama.cpp and the original Python tokenizers differ, llama.cpp is followed.
 *
 * Conventions: text is UTF-8 with a length, so it may contain zero bytes; anything that is not
 * UTF-8 is refused with the offset of the first bad byte. Nothing here adds a BOS: ask
 * tok_add_bos() and put tok_bos() in front. A tokenizer does not change after it has been
 * opened: several threads may use one. Errors: see kv_error in ref/kv.h. */
#ifndef TOKENIZER_H
#define TOKENIZER_H

#include <stddef.h>

#include "gguf.h"
#include "kv.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct tokenizer tokenizer;

/* Token types, with the numbers that GGUF files use. */
enum { TOK_NORMAL = 1, TOK_UNKNOWN, TOK_CONTROL, TOK_USER, TOK_UNUSED, TOK_BYTE };

/* What a tokenizer is made from. Start from tok_spec_empty() and fill in what is known; all is
 * copied. A number is -1, an array or string NULL, where the file says nothing. */
typedef struct {
    const char *name;          /* what messages call the vocabulary: a path; NULL: "vocabulary" */
    const char *model;         /* "gpt2" or "llama" */
    const char *pre;           /* pre-tokenizer of a byte-level BPE; NULL: none named */
    size_t n;                  /* tokens */
    const gguf_string *token;  /* [n] */
    size_t n_types;            /* 0 or n */
    const int *type;           /* TOK_...; none: all normal */
    size_t n_scores;           /* 0 or n; SentencePiece needs them */
    const float *score;
    size_t n_merges;           /* byte-level BPE needs them (0 is possible) */
    const gguf_string *merge;  /* "left right", best first */
    int64_t bos, eos, unk, eot, eom; /* ids */
    int add_bos;               /* 0, 1; -1: yes for "llama", no for "gpt2" */
    int add_space_prefix;      /* 0, 1; -1: yes for "llama"; "gpt2" never adds one */
    int strip_after_special;   /* 1: white space after a special token vanishes (Phi-3) */
} tok_spec;

tok_spec tok_spec_empty(void);

/* Both return 0 or an error code. The spec is checked: tokens missing or twice, counts that do not
 * agree, merges of unknown tokens, ids outside the vocabulary, unknown model or pre-tokenizer. */
int tok_from_spec(tokenizer **tok, const tok_spec *spec, kv_error *err);
int tok_open(tokenizer **tok, const gguf *file, kv_error *err);
void tok_close(tokenizer *tok); /* NULL is fine */

/* Ids of a text, in memory to be freed by the caller (*ids is never NULL on success, *n may be 0).
 * Special-token text such as <|im_start|> is plain text unless `special`; only tokens of type
 * TOK_USER are always found. A byte that the vocabulary cannot express disappears, as in
 * llama.cpp; tok_lost_bytes() counts such bytes beforehand (0 for SentencePiece). */
int tok_encode(int **ids, int *n, const tokenizer *tok, const char *text, size_t length,
               int special, kv_error *err);
size_t tok_lost_bytes(const tokenizer *tok, const char *text, size_t length);

/* The inverse: for text without lost bytes, tok_decode(tok_encode(text, special), special = 1)
 * is the text again, byte for byte, with one exception: SentencePiece writes a space as U+2581, so
 * a U+2581 in the text comes back as a space. special = 0 leaves control and unknown tokens out.
 * *text is terminated by a zero byte that *length does not count; the caller frees it. */
int tok_decode(char **text, size_t *length, const tokenizer *tok, const int *ids, int n,
               int special, kv_error *err);

/* One token. Id must be in 0..tok_size()-1. tok_piece: its raw text in the vocabulary; tok_bytes:
 * the bytes it stands for (a streaming writer prints these one after the other: a character cut
 * in two tokens becomes whole by itself; SentencePiece's first token brings its space along). */
int tok_size(const tokenizer *tok);
const char *tok_piece(const tokenizer *tok, int id, size_t *length);
const char *tok_bytes(const tokenizer *tok, int id, size_t *length);
int tok_type(const tokenizer *tok, int id);

/* The id whose raw text this is, or -1. */
int tok_find(const tokenizer *tok, const char *piece, size_t length);

int tok_bos(const tokenizer *tok);        /* -1: the file has none */
int tok_eos(const tokenizer *tok);        /* -1: the file has none */
/* 1: texts start with a BOS unless the user says no. (Also if tok_bos is -1: then say so.) */
int tok_add_bos(const tokenizer *tok);
int tok_is_eog(const tokenizer *tok, int id); /* 1: generation ends here */

/* The token that stood between documents in training: <|endoftext|> or <|end_of_text|>, else EOS;
 * -1: none. (In chat models the EOS is often the end of a turn instead.) */
int tok_end_of_text(const tokenizer *tok);

const char *tok_model(const tokenizer *tok);   /* "gpt2" or "llama" */
const char *tok_pre(const tokenizer *tok);     /* pre-tokenizer in use; "" for SentencePiece */
const char *tok_warning(const tokenizer *tok); /* a sentence the user should see, or NULL */

#ifdef __cplusplus
}
#endif

#endif
