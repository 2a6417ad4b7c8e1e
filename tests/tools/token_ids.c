/* Tokenizes many texts with one tokenizer, for tests/tokenizer_check.py.
 *
 *     token_ids FILE.gguf SPECIAL < texts > ids
 *
 * A text is its length (32 bits, little-endian) and its bytes; each answer is one line of ids, or
 * of the error. Every text must also come back from its ids, unless the vocabulary cannot say it
 * or it has a U+2581, SentencePiece's space; otherwise the line says so instead. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tokenizer.h"

static int read_text(char **text, size_t *n)
{
    unsigned char size[4];
    if (fread(size, 1, 4, stdin) != 4) return 0;
    *n = size[0] | (size_t)size[1] << 8 | (size_t)size[2] << 16 | (size_t)size[3] << 24;
    *text = malloc(*n + 1);
    if (!*text || fread(*text, 1, *n, stdin) != *n) return 0;
    (*text)[*n] = 0;
    return 1;
}

static int comes_back(const tokenizer *tok, const char *text, size_t n, const int *ids, int count)
{
    char *back;
    size_t length;
    if (tok_lost_bytes(tok, text, n) > 0) return 1;
    if (strstr(text, "\xE2\x96\x81") || strlen(text) < n) return 1;
    if (tok_decode(&back, &length, tok, ids, count, 1, NULL)) return 0;
    int same = length == n && memcmp(back, text, n) == 0;
    free(back);
    return same;
}

int main(int argc, char **argv)
{
    kv_error err = {0};
    gguf *file;
    tokenizer *tok;
    char *text;
    size_t n;
    if (argc != 3) {
        fprintf(stderr, "usage: token_ids FILE.gguf SPECIAL < texts > ids\n");
        return KV_FAIL_USAGE;
    }
    if (gguf_open(&file, argv[1], &err) || tok_open(&tok, file, &err)) {
        fprintf(stderr, "token_ids: %s\n", err.text);
        return KV_FAIL_RUN;
    }
    while (read_text(&text, &n)) {
        int *ids, count;
        if (tok_encode(&ids, &count, tok, text, n, atoi(argv[2]), &err)) {
            printf("error: %s\n", err.text);
        } else {
            int good = comes_back(tok, text, n, ids, count);
            for (int i = 0; i < count && good; i++)
                printf("%s%d", i ? " " : "", ids[i]);
            puts(good ? "" : "error: the text does not come back");
            free(ids);
        }
        free(text);
    }
    tok_close(tok);
    gguf_close(file);
    return KV_OK;
}
