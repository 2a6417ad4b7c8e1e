/* Chat templates: how a model wants a conversation written down.
 *
 * A GGUF file carries its template as a program in the Jinja language. We do not run
 * it; we recognise the families that matter by phrases in its text and write what they write: ChatML
 * (with the default system prompt that stands in the template), Llama 2, Llama 3, Mistral
 * (four spellings) and Zephyr. Anything else is refused and shown, because a conversation in
 * the wrong form measures something else. */
#ifndef TM_CHAT_H
#define TM_CHAT_H

#include <stddef.h>

#include "gguf.h"
#include "kv.h"
#include "tokenizer.h"

typedef struct {
    const char *role, *content; /* "system", "user" or "assistant" */
} chat_message;

typedef struct {
    int count;
    chat_message *message;
    void *json; /* what the texts live in */
} chat_list;

/* A JSON list of {"role": ..., "content": ...}. Freed by chat_free. */
int chat_read(chat_list *list, const char *path, kv_error *err);
void chat_free(chat_list *list);

/* "ChatML", "Llama 2", "Llama 3", "Mistral", "Zephyr"; "unknown"; "none" if the file has none. */
const char *chat_family(const gguf *file);

/* The conversation as text (malloc, ended by NUL), to be tokenized with special = 1. It never
 * begins with the BOS; *wants_bos is 1 if the template puts one there. open: end with the beginning of
 * the assistant's turn. System messages may only come first. */
int chat_render(char **text, size_t *n, int *wants_bos, const gguf *file, const tokenizer *tok,
                const chat_message *message, int count, int open, kv_error *err);

#endif
