/* The hand-built model's tokens, and the code words that stand for them in its residual stream. */
#ifndef TM_HANDMADE_VOCABULARY_H
#define TM_HANDMADE_VOCABULARY_H

#include <stdint.h>

enum {
    HM_END = 1, HM_BYTES = 2, HM_PIECES = 258, /* ids: begin, end, 256 bytes, words */
    HM_ADDRESS = 12, /* length of an address: what queries and keys compare */
    HM_NAME = 48,    /* length of a name: what values carry and the output layer reads */
    HM_PIECE_MAX = 24
};

/* Tokens in the vocabulary. */
int hm_vocabulary(void);

/* The piece of a token as GGUF files of byte-level BPE write it (a space is the letter U+0120).
 * out: HM_PIECE_MAX bytes, ended by NUL; returns its length. */
int hm_piece(char *out, int id);

/* address [n][HM_ADDRESS], name [n][HM_NAME] of all n = hm_vocabulary() tokens, +1 and -1.
 * Addresses differ from each other and have as many +1 as -1. Names of two tokens agree in at most
 * 34 of 48 places. */
void hm_codes(int8_t *address, int8_t *name);

/* A random sign, +1 or -1; the same sequence everywhere (splitmix64). */
int hm_sign(uint64_t *state);

#endif
