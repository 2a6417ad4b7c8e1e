/* Passages: a text cut at its empty lines and joined by the end-of-text token, the way documents
 * stand one behind the other in training data. Such tokens are sinks in many models, and they are
 * not among the first. */
#ifndef TM_PASSAGES_H
#define TM_PASSAGES_H

#include <stddef.h>

#include "kv.h"
#include "tokenizer.h"

/* EOT, passage, EOT, passage, ...: ids from malloc (never NULL on success). White space around
 * passages is left out, and with limit > 0 all but the first limit tokens of each. */
int passages_join(int **ids, int *n, const tokenizer *tok, const char *text, size_t length,
                  int special, int limit, kv_error *err);

#endif
