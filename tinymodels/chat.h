/* Chat templates: how a model wants a conversation written down.
 *
 * A GGUF file carries its template as a program in the Jinja language. We do not run
 * it; we recognise the templates that matter by the expressions in their text and write what
 * they write: ChatML (with the default system prompt that stands in the template), Llama 2, Llama 3
 * (3.1 and later with their dates), Mistral (six spellings) and Zephyr. Anything else is
 * refused and shown, because a conversation in the wrong form measures something else.
 *
 * Who writes the BOS? A template may have one at its very beginning. The rendered text leaves that
 * one out and says so in wants_bos, so that it cannot come twice: the caller puts tok_bos()
 * in front of the ids once, if wants_bos or the file's own rule (tok_add_bos) says so. A BOS in
 * mid-text (Llama 2 starts every turn with one) is in the text, by its name. */
#ifndef TM_CHAT_H
#define TM_CHAT_H

#include <stddef.h>

#include "gguf.h"
#include "kv.h"
#include "tokenizer.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    const char *role, *content; /* "system", "user" or "assistant" */
} chat_message;

typedef struct {
    int count;
    chat_message *message;
    void *json; /* what the texts live in */
} chat_list;

/* A JSON list of {"role": ..., "content": ...}; other keys are not looked at. From a file or from
 * n bytes that messages call name. Freed by chat_free. */
int chat_read(chat_list *list, const char *path, kv_error *err);
int chat_parse(chat_list *list, const char *name, const char *json, size_t n, kv_error *err);
void chat_free(chat_list *list);

/* "ChatML", "Llama 2", "Llama 3", "Mistral", "Zephyr"; "unknown"; "none" if the file has none. */
const char *chat_family(const gguf *file);

/* The conversation as text (malloc, ended by NUL), to be tokenized with special = 1. *wants_bos:
 * see above. open: end with the beginning of the assistant's turn (a few old templates always
 * do). Refused: unknown templates, no messages, unknown roles, and what the template itself
 * refuses: turns that do not alternate, a system message where it takes none. */
int chat_render(char **text, size_t *n, int *wants_bos, const gguf *file, const tokenizer *tok,
                const chat_message *message, int count, int open, kv_error *err);

/* The same without a file. name: what messages call it. bos, eos: texts of those tokens. */
typedef struct {
    const char *name;
    gguf_string text, bos, eos;
} chat_template;

int chat_write(char **text, size_t *n, int *wants_bos, const chat_template *jinja,
               const chat_message *message, int count, int open, kv_error *err);
const char *chat_recognise(gguf_string jinja); /* as chat_family */

#ifdef __cplusplus
}
#endif

#endif
