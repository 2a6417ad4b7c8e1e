/* The hand-built model: a llama decoder of five layers whose weights are constructed, not trained.
 *
 * It continues a text that repeats itself, word for word, and everything that this book is about
 * can be seen in it by name: sinks at the first token and at full stops, the outlier that makes
 * them, heads that park their attention there, and a 2-bit cache that loses the thread when sinks
 * are quantized with their neighbours. The circuit is explained at the top of handmade.c.
 *
 * What it says next (tm_handmade_next) depends on the last three tokens only:
 *   - after a full stop, a new line;
 *   - else the token that followed the last three tokens when they stood together before;
 *   - else one that followed the last token before; else a full stop.
 * So a passage in which no three tokens in a row occur twice is continued verbatim. */
#ifndef TM_HANDMADE_H
#define TM_HANDMADE_H

#include "kv.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Which tokens the embedding marks as sinks. */
typedef enum {
    TM_SINKS_NONE,    /* none: no outlier, nothing for KVSink to find */
    TM_SINKS_ONE,     /* the begin token, as in a model that preserve-first-1 would satisfy */
    TM_SINKS_SEVERAL, /* the begin token and every full stop */
    TM_SINKS_BORN,    /* the same weights; its demo's prompt has no full stop, its text will */
    TM_SINKS_KINDS
} tm_sinks;

typedef struct {
    tm_sinks sinks;
} tm_handmade_options;

/* Sizes, and where the outlier emerges and is taken away again. */
enum {
    TM_HANDMADE_LAYERS = 5, TM_HANDMADE_WIDTH = 256, TM_HANDMADE_FFN = 8, TM_HANDMADE_HEADS = 4,
    TM_HANDMADE_KV_HEADS = 2, TM_HANDMADE_HEAD = 64, TM_HANDMADE_CONTEXT = 2048,
    TM_HANDMADE_EMERGENCE = 1, TM_HANDMADE_DISSIPATION = 3, TM_HANDMADE_CHANNEL = 206,
    TM_HANDMADE_BEGIN = 0, TM_HANDMADE_STOP = 2 + '.', TM_HANDMADE_NEWLINE = 2 + '\n'
};

/* Writes the model as a GGUF file (about 5 MB; complete or not at all). */
int tm_handmade_write(const char *path, const tm_handmade_options *options, kv_error *err);

/* For each kind of sinks: a prompt, the n greedy tokens that follow it when nothing is lost, and
 * a cache format that is right or wrong according to what is kept. */
typedef struct {
    const char *name;     /* "none", "one", "several", "born" */
    tm_sinks sinks;
    const char *prompt;
    const char *expected; /* exactly the text of the n tokens that follow */
    int n;
    const char *keys, *values;
    const char *broken;   /* keep rules that fail, separated by spaces */
    const char *right;    /* keep rules that do not */
} tm_handmade_demo;

const tm_handmade_demo *tm_handmade_demo_of(tm_sinks sinks);

/* The verse that the prompts are made of, and the same twice: a text to evaluate (127 tokens with
 * the begin token, five of them sinks). */
const char *tm_handmade_verse(void);
const char *tm_handmade_verse_twice(void);

/* The token that the model, undamaged, says after n >= 1 tokens, worked out from the rule above
 * and not from the weights. Where several tokens have followed, they share the vote. *lead (may be
 * NULL): votes by which the winner is ahead; a full stop for want of anything better has one vote,
 * a match of three tokens four. Not for TM_SINKS_NONE: without sinks to go to, heads that find
 * nothing take what is most like it. No memory: -1. */
int tm_handmade_next(double *lead, const int *tokens, int n, tm_sinks sinks);

#ifdef __cplusplus
}
#endif

#endif
