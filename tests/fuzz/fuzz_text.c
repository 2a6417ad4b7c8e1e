/* Fuzzer for all other readers. The first byte of the input chooses one, the rest is what it reads:
 * formats, keep rules, profiles, conversations, chat templates, .npy files, vocabularies. Whatever
 * the bytes are, a reader succeeds, or fails with a message and without leaving anything. */
#define _GNU_SOURCE /* memfd_create */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "chat.h"
#include "files.h"
#include "gguf.h"
#include "npy.h"
#include "profile.h"
#include "tokenizer.h"

static void must_explain(int code, const kv_error *err)
{
    if (code != KV_FAIL_RUN && code != KV_FAIL_USAGE) abort();
    if (err->code != code || err->text[0] == 0) abort();
}

/* What was read prints as text that reads the same. */
static void read_format(const char *text)
{
    kv_format f, again;
    kv_error err = {0};
    char shown[KV_FORMAT_TEXT];
    int code = kv_format_parse(&f, text, &err);
    if (code) {
        must_explain(code, &err);
        return;
    }
    if (kv_format_parse(&again, kv_format_print(shown, sizeof shown, &f), NULL)) abort();
    if (memcmp(&f, &again, sizeof f)) abort();
}

static void read_keep(const char *text)
{
    kv_keep_rule r;
    kv_error err = {0};
    int code = kv_keep_parse(&r, text, &err);
    if (code) must_explain(code, &err);
}

static void read_profile(const char *text, size_t n)
{
    kv_profile p;
    kv_error err = {0};
    int code = tm_profile_parse(&p, text, n, "fuzz", &err);
    if (code) must_explain(code, &err);
    tm_profile_free(&p);
}

static void read_chat(const char *text, size_t n)
{
    static const char chatml[] =
        "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + "
        "message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";
    chat_template t = {"fuzz", {chatml, sizeof chatml - 1}, {"<s>", 3}, {"</s>", 4}};
    chat_list list;
    kv_error err = {0};
    char *out;
    size_t length;
    int bos, code = chat_parse(&list, "fuzz", text, n, &err);
    if (code) {
        must_explain(code, &err);
        return;
    }
    code = chat_write(&out, &length, &bos, &t, list.message, list.count, 1, &err);
    if (code) must_explain(code, &err);
    else free(out);
    chat_free(&list);
}

static void read_template(const char *text, size_t n)
{
    chat_template t = {"fuzz", {text, n}, {"<s>", 3}, {"</s>", 4}};
    chat_message message[2] = {{"user", "Who?"}, {"assistant", "I."}};
    kv_error err = {0};
    char *out;
    size_t length;
    int bos, code = chat_write(&out, &length, &bos, &t, message, 2, 0, &err);
    if (code) must_explain(code, &err);
    else free(out);
}

/* npy_read takes a path; a file in memory has one. */
static void read_npy(const uint8_t *data, size_t n)
{
    char path[64];
    npy_array a;
    kv_error err = {0};
    int fd = memfd_create("fuzz", 0);
    if (fd < 0 || write(fd, data, n) != (ssize_t)n) abort();
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    int code = npy_read(&a, path, &err);
    if (code) must_explain(code, &err);
    else npy_free(&a);
    close(fd);
}

/* A vocabulary from a file, and hostile text through it. */
static void read_vocabulary(const uint8_t *data, size_t n)
{
    static const char text[] = "It's 2026:\r\n  caf\xc3\xa9 \xf0\x9f\x99\x82 <s>";
    gguf *g;
    tokenizer *tok;
    kv_error err = {0};
    int *ids, count;
    if (gguf_open_memory(&g, data, n, "fuzz", &err)) return;
    int code = tok_open(&tok, g, &err);
    if (code) {
        must_explain(code, &err);
    } else {
        code = tok_encode(&ids, &count, tok, text, sizeof text - 1, 1, &err);
        if (code) must_explain(code, &err);
        else free(ids);
        tok_close(tok);
    }
    gguf_close(g);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0) return 0;
    int reader = data[0] % 7;
    size_t n = size - 1;
    char *text = malloc(n + 1); /* with the NUL that some readers want */
    if (!text) abort();
    memcpy(text, data + 1, n);
    text[n] = 0;
    switch (reader) {
    case 0: read_format(text); break;
    case 1: read_keep(text); break;
    case 2: read_profile(text, n); break;
    case 3: read_chat(text, n); break;
    case 4: read_template(text, n); break;
    case 5: read_npy(data + 1, n); break;
    default: read_vocabulary(data + 1, n); break;
    }
    free(text);
    return 0;
}

#include "main.h"
