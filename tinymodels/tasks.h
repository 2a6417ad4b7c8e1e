/* Tasks: three things that a cache should not spoil, made from any text, without outside data.
 *
 *   passkey  five digits stand somewhere in a window of text ("The pass key is 71432."); behind the
 *            window they are asked for. Score: share of digits that come out as the likeliest
 *            token, the true ones being fed. Depths go through the window evenly.
 *   passage  a passage of text, and four that might follow it, cut from the same text: which one
 *            does? The one with the largest mean log-probability. Score: right or wrong.
 *   greedy   the likeliest text is written behind a passage, with 16 bits and with the cache.
 *            Score: how many tokens agree before the first that differs.
 *
 * Every item runs as it would in use (sequence.h): the passage is a prompt, the keep set comes
 * from it, and the question, the candidates or the text that is written go through the packed
 * cache one by one. The score with 16-bit keys and values is the ceiling. Where it is not above
 * chance by two standard errors, the model cannot do the task at all and a cache cannot spoil it:
 * it is dropped. */
#ifndef TM_TASKS_H
#define TM_TASKS_H

#include "analysis.h"
#include "fast.h"
#include "kv.h"
#include "sequence.h"
#include "tokenizer.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum { TM_PASSKEY, TM_PASSAGE, TM_GREEDY, TM_TASKS } tm_task_kind;

const char *tm_task_name(tm_task_kind task);

typedef struct {
    tm_engine e;
    tm_fast *fast;           /* or NULL */
    const tokenizer *tok;
    tm_sequence_spec cache;  /* capacity is set here */
    const int *ids;          /* the text, without BOS */
    int n;
    int items;               /* of each task */
    int ctx;                 /* tokens of a passkey window; passages are a quarter of it */
    int written;             /* greedy: tokens at most, the score of 16 bits */
} tm_task_spec;

typedef struct {
    int items;
    double chance;
    double score16, error16; /* mean over items and its standard error */
    double score, error;
    double change, change_error; /* of score - score16, paired by item */
    int dropped;             /* at chance with 16 bits: score and change are not measured */
} tm_task_result;

/* A text that is too short is an error which says how many tokens it takes. */
int tm_task_run(tm_task_result *r, tm_task_kind task, const tm_task_spec *spec,
                tm_progress *progress, void *self, kv_error *err);

#ifdef __cplusplus
}
#endif

#endif
