/* Chat templates; chat.h says which. The facts are those of the templates themselves, as the
 * model files and Hugging Face's tokenizer_config.json files carry them. */
#include "chat.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cjson/cJSON.h>

#include "files.h"

/* ---------------------------------------------------------------- reading */

int chat_read(chat_list *list, const char *path, kv_error *err)
{
    char *text;
    size_t n;
    memset(list, 0, sizeof *list);
    if (tm_read_file(&text, &n, path, err)) return KV_FAIL_RUN;
    int bad = tm_check_utf8(text, n, NULL);
    cJSON *root = bad ? NULL : cJSON_ParseWithLength(text, n);
    free(text);
    int count = cJSON_IsArray(root) ? cJSON_GetArraySize(root) : 0;
    list->json = root;
    list->message = calloc((size_t)count + 1, sizeof *list->message);
    const cJSON *item;
    cJSON_ArrayForEach(item, root) {
        const char *role = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(item, "role"));
        const char *content = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(item, "content"));
        if (!role || !content || !list->message) break;
        list->message[list->count++] = (chat_message){role, content};
    }
    if (count > 0 && list->count == count) return KV_OK;
    chat_free(list);
    return kv_fail(err, KV_FAIL_RUN, "%s: %s; expected a JSON list of {\"role\": \"user\", \"content\": "
                   "\"...\"}", path, count ? "message without role and content" :
                   bad ? "not UTF-8" : "not a JSON list with messages");
}

void chat_free(chat_list *list)
{
    cJSON_Delete(list->json);
    free(list->message);
    memset(list, 0, sizeof *list);
}

/* ------------------------------------------------------------ recognising */

typedef enum { NONE, UNKNOWN, CHATML, LLAMA_2, LLAMA_3, MISTRAL, ZEPHYR } family;

typedef struct {
    const char *data;
    size_t n;
} template_text;

static template_text find_template(const gguf *file)
{
    gguf_string s = {NULL, 0};
    if (gguf_key_find(file, "tokenizer.chat_template") &&
        gguf_get_string(&s, file, "tokenizer.chat_template", NULL) == KV_OK)
        return (template_text){s.data, s.length};
    return (template_text){NULL, 0};
}

static const char *find_text(template_text t, size_t from, const char *what)
{
    size_t n = strlen(what);
    for (size_t i = from; t.data && i + n <= t.n; i++)
        if (memcmp(t.data + i, what, n) == 0) return t.data + i;
    return NULL;
}

static int has(template_text t, const char *what)
{
    return find_text(t, 0, what) != NULL;
}

static family recognise(template_text t)
{
    if (!t.n) return NONE;
    if (has(t, "<|im_start|>"))
        return has(t, "<|im_sep|>") || has(t, "<end_of_utterance>") ? UNKNOWN : CHATML;
    if (has(t, "<|start_header_id|>") && has(t, "<|eot_id|>")) return LLAMA_3;
    if (has(t, "[INST]")) {
        if (has(t, "<<SYS>>")) return LLAMA_2;
        return has(t, "[SYSTEM_PROMPT]") ? UNKNOWN : MISTRAL;
    }
    if (has(t, "<|user|>") && has(t, "<|assistant|>") && has(t, "eos_token") && !has(t, "<|end|>"))
        return ZEPHYR;
    return UNKNOWN;
}

const char *chat_family(const gguf *file)
{
    static const char *const name[] = {"none", "unknown", "ChatML", "Llama 2", "Llama 3", "Mistral",
                                       "Zephyr"};
    return name[recognise(find_template(file))];
}

/* ---------------------------------------------------------------- writing */

typedef struct {
    char *data;
    size_t n, capacity;
    int failed;
} buffer;

static void put(buffer *b, const char *s, size_t n)
{
    if (b->failed) return;
    if (b->n + n + 1 > b->capacity) {
        size_t capacity = 2 * (b->n + n) + 256;
        char *larger = realloc(b->data, capacity);
        if (!larger) {
            b->failed = 1;
            return;
        }
        b->data = larger;
        b->capacity = capacity;
    }
    memcpy(b->data + b->n, s, n);
    b->n += n;
    b->data[b->n] = 0;
}

static void put_text(buffer *b, const char *s)
{
    put(b, s, strlen(s));
}

/* As Jinja's trim: white space at both ends. */
static void put_trimmed(buffer *b, const char *s)
{
    static const char space[] = " \t\n\r\v\f";
    s += strspn(s, space);
    size_t n = strlen(s);
    while (n && strchr(space, s[n - 1])) n--;
    put(b, s, n);
}

/* The raw text of a special token; the usual one where the file names none. */
static void put_token(buffer *b, const tokenizer *tok, int id, const char *usual)
{
    size_t n = strlen(usual);
    const char *piece = id >= 0 ? tok_piece(tok, id, &n) : usual;
    put(b, piece, n);
}

/* ChatML's default system prompt: the first string in the template that has the whole system turn in
 * it, "<|im_start|>system\n ... <|im_end|>". A quote before the end means that the text is put
 * together from messages, so it is no default. Jinja strings may escape \n and quotes. */
static int default_system(buffer *b, template_text t)
{
    static const char start[] = "<|im_start|>system", end[] = "<|im_end|>";
    const char *at = t.data;
    while ((at = find_text(t, (size_t)(at - t.data), start)) != NULL) {
        size_t i = (size_t)(at - t.data) + strlen(start);
        buffer text = {0};
        int whole = 0;
        while (i < t.n && t.data[i] != '\'' && t.data[i] != '"' && t.data[i] != '{') {
            if (i + strlen(end) <= t.n && memcmp(t.data + i, end, strlen(end)) == 0) {
                whole = 1;
                break;
            }
            if (t.data[i] == '\\' && i + 1 < t.n) {
                i++;
                put(&text, t.data[i] == 'n' ? "\n" : t.data[i] == 't' ? "\t" : t.data + i, 1);
            } else put(&text, t.data + i, 1);
            i++;
        }
        if (whole && text.n > 1 && text.data[0] == '\n') put(b, text.data + 1, text.n - 1);
        int found = whole && text.n > 1;
        free(text.data);
        if (found) return 1;
        at += 1;
    }
    return 0;
}

static void chatml(buffer *b, template_text t, const chat_message *m, int count, int open)
{
    buffer system = {0};
    if (strcmp(m[0].role, "system") != 0 && default_system(&system, t)) {
        put_text(b, "<|im_start|>system\n");
        put_text(b, system.data);
        put_text(b, "<|im_end|>\n");
    }
    free(system.data);
    for (int i = 0; i < count; i++) {
        put_text(b, "<|im_start|>");
        put_text(b, m[i].role);
        put_text(b, "\n");
        put_text(b, m[i].content);
        put_text(b, "<|im_end|>\n");
    }
    if (open) put_text(b, "<|im_start|>assistant\n");
}

static void zephyr(buffer *b, const tokenizer *tok, const chat_message *m, int count, int open)
{
    for (int i = 0; i < count; i++) {
        put_text(b, "<|");
        put_text(b, m[i].role);
        put_text(b, "|>\n");
        put_text(b, m[i].content);
        put_token(b, tok, tok_eos(tok), "</s>");
        put_text(b, "\n");
    }
    if (open) put_text(b, "<|assistant|>\n");
}

/* Llama 3.1 and later begin with a system turn that names two dates. The second is today's in
 * some files; we always write the date that the template falls back to, so that
 * results do not change overnight. */
static void llama_3(buffer *b, template_text t, const chat_message *m, int count, int open)
{
    int dated = has(t, "Cutting Knowledge Date"), first = 0;
    if (dated) {
        put_text(b, "<|start_header_id|>system<|end_header_id|>\n\n"
                 "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n");
        if (strcmp(m[0].role, "system") == 0) put_trimmed(b, m[first++].content);
        put_text(b, "<|eot_id|>");
    }
    for (int i = first; i < count; i++) {
        put_text(b, "<|start_header_id|>");
        put_text(b, m[i].role);
        put_text(b, "<|end_header_id|>\n\n");
        put_trimmed(b, m[i].content);
        put_text(b, "<|eot_id|>");
    }
    if (open) put_text(b, "<|start_header_id|>assistant<|end_header_id|>\n\n");
}

static void llama_2(buffer *b, const tokenizer *tok, const chat_message *m, int count)
{
    int first = strcmp(m[0].role, "system") == 0;
    for (int i = first; i < count; i++) {
        if (strcmp(m[i].role, "user") == 0) {
            if (i > first) put_token(b, tok, tok_bos(tok), "<s>");
            put_text(b, "[INST] ");
            /* The template strips system text and question as one. */
            buffer content = {0};
            if (i == 1 && first) {
                put_text(&content, "<<SYS>>\n");
                put_text(&content, m[0].content);
                put_text(&content, "\n<</SYS>>\n\n");
            }
            put_text(&content, m[i].content);
            if (content.failed) b->failed = 1;
            else put_trimmed(b, content.data);
            free(content.data);
            put_text(b, " [/INST]");
        } else {
            put_text(b, " ");
            put_trimmed(b, m[i].content);
            put_text(b, " ");
            put_token(b, tok, tok_eos(tok), "</s>");
        }
    }
}

/* Mistral's spellings differ in spaces around the marks and in where the system text goes. */
static void mistral(buffer *b, template_text t, const tokenizer *tok, const chat_message *m, int count)
{
    int v1 = has(t, "' [INST] '"), tekken = has(t, "\"[INST]\"");
    int v3 = !tekken && (has(t, "\"[INST] \"") || has(t, "+ '[/INST]'"));
    int space_after_eos = has(t, "eos_token + ' '") || has(t, "eos_token+ ' '");
    int first = strcmp(m[0].role, "system") == 0, last = count - 1;
    int carrier = v1 || !(v3 || tekken) ? first : last; /* the turn that the system text joins */
    for (int i = first; i < count; i++) {
        if (strcmp(m[i].role, "user") == 0) {
            put_text(b, v1 ? " [INST] " : tekken ? "[INST]" : "[INST] ");
            if (first && i == carrier) {
                put_text(b, m[0].content);
                put_text(b, "\n\n");
            }
            put_text(b, m[i].content);
            put_text(b, v3 || tekken ? "[/INST]" : " [/INST]");
        } else {
            if (v1 || v3) put_text(b, " ");
            if (v3) put_trimmed(b, m[i].content);
            else put_text(b, m[i].content);
            put_token(b, tok, tok_eos(tok), "</s>");
            if (space_after_eos) put_text(b, " ");
        }
    }
}

/* What every family asks of a conversation; Llama 2 and Mistral also want turns to alternate. */
static int check_messages(family f, template_text t, const chat_message *m, int count, kv_error *err)
{
    if (count < 1) return kv_fail(err, KV_FAIL_RUN, "chat: no messages");
    int system = strcmp(m[0].role, "system") == 0, pairs = f == LLAMA_2 || f == MISTRAL;
    for (int i = 0; i < count; i++) {
        const char *r = m[i].role;
        if (strcmp(r, "user") != 0 && strcmp(r, "assistant") != 0 && (strcmp(r, "system") != 0 || i))
            return kv_fail(err, KV_FAIL_RUN, "chat: message %d has role '%.40s'; expected user or "
                           "assistant (system: first message only)", i, r);
        if (pairs && i >= system && (strcmp(r, "user") == 0) != ((i - system) % 2 == 0))
            return kv_fail(err, KV_FAIL_RUN, "chat: message %d has role '%.40s'; this model's template "
                           "wants user and assistant in turn", i, r);
    }
    if (system && (f == MISTRAL && !has(t, "system_message")))
        return kv_fail(err, KV_FAIL_RUN, "chat: this model's template takes no system message");
    if (system && pairs && count == 1)
        return kv_fail(err, KV_FAIL_RUN, "chat: a system message alone; add a user message");
    return KV_OK;
}

int chat_render(char **text, size_t *n, int *wants_bos, const gguf *file, const tokenizer *tok,
                const chat_message *message, int count, int open, kv_error *err)
{
    template_text t = find_template(file);
    family f = recognise(t);
    buffer b = {0};
    char shown[256];
    *text = NULL;
    if (f == NONE)
        return kv_fail(err, KV_FAIL_RUN, "%s: the file has no chat template; is it a base model? give "
                       "plain text instead", gguf_path(file));
    if (f == UNKNOWN)
        return kv_fail(err, KV_FAIL_RUN, "%.150s: unknown chat template (known: ChatML, Llama 2, Llama 3, "
                       "Mistral, Zephyr); it begins: %s", gguf_path(file),
                       tm_printable(shown, sizeof shown, t.data, t.n));
    if (check_messages(f, t, message, count, err)) return KV_FAIL_RUN;
    *wants_bos = has(t, "bos_token");
    switch (f) {
    case CHATML: chatml(&b, t, message, count, open); break;
    case LLAMA_2: llama_2(&b, tok, message, count); break;
    case LLAMA_3: llama_3(&b, t, message, count, open); break;
    case MISTRAL: mistral(&b, t, tok, message, count); break;
    default: zephyr(&b, tok, message, count, open); break;
    }
    if (b.failed || !b.data) {
        free(b.data);
        return kv_fail(err, KV_FAIL_RUN, "chat: not enough memory");
    }
    *text = b.data;
    *n = b.n;
    return KV_OK;
}
