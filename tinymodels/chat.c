/* Chat templates; chat.h says which and why.
 *
 * The same template is spelled in many ways: "a" or 'a', message.role or message['role'], with or
 * without spaces, on one line or on thirty. So its text is first brought into one spelling, and
 * then every family is a row of a table: expressions that must be there, expressions that must not
 * (they would change what comes out), and what is written before and after a message of each
 * role. The facts are those of the templates themselves, as model files and the
 * tokenizer_config.json files of their publishers carry them. */
#include "chat.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cjson/cJSON.h>

#include "files.h"

/* ---------------------------------------------------------------- reading */

static int read_message(chat_message *out, const cJSON *item, const char *name, int i,
                        kv_error *err)
{
    static const char *const key[2] = {"role", "content"};
    const char *value[2];
    if (!cJSON_IsObject(item))
        return kv_fail(err, KV_FAIL_RUN, "%s: message %d is no object; expected {\"role\": "
                       "\"user\", \"content\": \"...\"}", name, i);
    for (int k = 0; k < 2; k++) {
        const cJSON *field = cJSON_GetObjectItemCaseSensitive(item, key[k]);
        value[k] = cJSON_GetStringValue(field);
        if (!value[k])
            return kv_fail(err, KV_FAIL_RUN, "%s: message %d has %s %s; expected a string", name, i,
                           field ? "something else than text as its" : "no", key[k]);
    }
    if (strcmp(value[0], "system") && strcmp(value[0], "user") && strcmp(value[0], "assistant")) {
        char shown[64];
        tm_printable(shown, sizeof shown, value[0], strlen(value[0]));
        return kv_fail(err, KV_FAIL_RUN, "%s: message %d has the role '%s'; expected system, user "
                       "or assistant", name, i, shown);
    }
    *out = (chat_message){value[0], value[1]};
    return 0;
}

static int read_list(chat_list *list, const char *name, kv_error *err)
{
    const cJSON *root = list->json, *item;
    int count = cJSON_IsArray(root) ? cJSON_GetArraySize(root) : 0;
    if (count == 0)
        return kv_fail(err, KV_FAIL_RUN, "%s: %s; expected a JSON list of {\"role\": \"user\", "
                       "\"content\": \"...\"}", name,
                       cJSON_IsArray(root) ? "the list has no messages" : "this is no list");
    list->message = calloc((size_t)count, sizeof *list->message);
    if (!list->message)
        return kv_fail(err, KV_FAIL_RUN, "%s: out of memory", name);
    cJSON_ArrayForEach(item, root) {
        int code = read_message(&list->message[list->count], item, name, list->count, err);
        if (code)
            return code;
        list->count++;
    }
    return 0;
}

int chat_parse(chat_list *list, const char *name, const char *json, size_t n, kv_error *err)
{
    size_t bad;
    *list = (chat_list){0, NULL, NULL};
    if (tm_check_utf8(json, n, &bad))
        return kv_fail(err, KV_FAIL_RUN, "%s: not UTF-8 (byte 0x%02X at offset %zu)", name,
                       (unsigned char)json[bad], bad);
    const char *end = json;
    list->json = cJSON_ParseWithLengthOpts(json, n, &end, 0);
    while (list->json && end < json + n && *end && strchr(" \t\r\n", *end))
        end++;
    if (!list->json || end < json + n) {
        chat_free(list);
        return kv_fail(err, KV_FAIL_RUN, "%s: not JSON (at offset %zu); expected a list of "
                       "{\"role\": \"user\", \"content\": \"...\"}", name, (size_t)(end - json));
    }
    int code = read_list(list, name, err);
    if (code)
        chat_free(list);
    return code;
}

int chat_read(chat_list *list, const char *path, kv_error *err)
{
    char *text;
    size_t n;
    *list = (chat_list){0, NULL, NULL};
    int code = tm_read_file(&text, &n, path, err);
    if (code)
        return code;
    code = chat_parse(list, path, text, n, err);
    free(text);
    return code;
}

void chat_free(chat_list *list)
{
    cJSON_Delete(list->json);
    free(list->message);
    *list = (chat_list){0, NULL, NULL};
}

/* ----------------------------------------------------------- growing texts */

typedef struct {
    char *data; /* ended by NUL once anything was put */
    size_t n, capacity;
    int failed;
} buffer;

static void put(buffer *b, const char *s, size_t n)
{
    if (b->failed)
        return;
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
    if (n > 0)
        memcpy(b->data + b->n, s, n);
    b->n += n;
    b->data[b->n] = 0;
}

static void put_text(buffer *b, const char *s)
{
    put(b, s, strlen(s));
}

/* ------------------------------------------------------------ one spelling */

static int starts(const char *at, const char *end, const char *word)
{
    size_t n = strlen(word);
    return (size_t)(end - at) >= n && memcmp(at, word, n) == 0;
}

static int is_blank(char c)
{
    return c == ' ' || c == '\n' || c == '\t' || c == '\r';
}

/* A string of the template, from its opening quote on, in single quotes and with \n for a line
 * break; returns where it ends. */
static const char *put_string(buffer *out, const char *at, const char *end)
{
    char quote = *at++;
    put_text(out, "'");
    for (; at < end && *at != quote; at++) {
        if (*at == '\\' && at + 1 < end && at[1] == '"')
            put(out, ++at, 1);
        else if (*at == '\\' && at + 1 < end)
            put(out, at++, 2);
        else if (*at == '\n' || *at == '\'')
            put_text(out, *at == '\n' ? "\\n" : "\\'");
        else
            put(out, at, 1);
    }
    put_text(out, "'");
    return at < end ? at + 1 : end;
}

/* What stands between {{ and }} or {% and %}: without spaces, and message.x as message['x'].
 * The braces are copied, minus signs in them are not. */
static const char *put_tag(buffer *out, const char *at, const char *end)
{
    put(out, at, 2);
    at += 2;
    if (at < end && *at == '-')
        at++;
    while (at < end) {
        if (starts(at, end, "-}}") || starts(at, end, "-%}"))
            at++;
        if (starts(at, end, "}}") || starts(at, end, "%}")) {
            put(out, at, 2);
            return at + 2;
        }
        if (*at == '\'' || *at == '"') {
            at = put_string(out, at, end);
        } else if (starts(at, end, "message.role")) {
            put_text(out, "message['role']");
            at += 12;
        } else if (starts(at, end, "message.content")) {
            put_text(out, "message['content']");
            at += 15;
        } else {
            if (!is_blank(*at))
                put(out, at, 1);
            at++;
        }
    }
    return end;
}

/* The template in one spelling. Of the blanks outside tags only the line break that follows a value
 * is kept (as \n): those after {% %} vanish in the environment that templates are written
 * for (trim_blocks, lstrip_blocks), and a minus sign in a brace removes what is next to it, and
 * the last line break of all does not count. Other text outside tags is marked, because
 * none of our families has any. */
enum { OUTSIDE = 1 };

static char *spelled(gguf_string text)
{
    buffer out = {0};
    const char *at = text.data, *end = at + text.length;
    size_t outside = 0; /* where the text after the last tag starts in out */
    put_text(&out, "");
    while (at < end && !out.failed) {
        if (starts(at, end, "{#")) {
            while (at < end && !starts(at, end, "#}"))
                at++;
            at = at < end ? at + 2 : end;
        } else if (starts(at, end, "{{") || starts(at, end, "{%")) {
            if (at + 2 < end && at[2] == '-')
                out.n = outside;
            at = put_tag(&out, at, end);
            outside = out.n;
            while (at < end && at[-3] == '-' && is_blank(*at))
                at++;
            if (at + 1 < end && *at == '\n' && at[-2] == '}')
                put_text(&out, "\\n");
        } else {
            if (!is_blank(*at))
                put(&out, (const char[]){OUTSIDE}, 1);
            at++;
        }
    }
    if (out.failed) {
        free(out.data);
        return NULL;
    }
    return out.data;
}

/* ---------------------------------------------------------------- families */

enum { IN_TURN = 1,       /* a system message is a message like others */
       JOINS_FIRST = 2,   /* it joins the first user message */
       JOINS_LAST = 3,    /* it joins the last message if that is the user's, else it is lost */
       SYSTEM = 3,        /* (the bits that say which) */
       TRIM_USER = 4, TRIM_ANSWER = 8, TRIM = 12,
       DATED = 16,        /* a system turn with two dates comes first */
       DEFAULT = 32,      /* a default system prompt may stand in the template */
       LINES = 64 };      /* line breaks after values belong to the text */

/* {eos} and {bos} stand for the texts of those tokens. */
typedef struct {
    const char *name;
    int rules;
    const char *system[2], *user[2], *answer[2]; /* before and after a message */
    const char *open;                            /* how an answer begins */
    const char *must[5], *never[8];
} family;

#define HEADER(role) "<|start_header_id|>" role "<|end_header_id|>\n\n"
#define CHATML(role) {"<|im_start|>" role "\n", "<|im_end|>\n"}
#define CHATML_TURN "'<|im_start|>'+message['role']+'\\n'+message['content']+'<|im_end|>"
#define CHATML_NEVER "think", "strftime", "<|im_sep|>", "|trim", "strip(", "system_message"
#define LLAMA3_TURN "'<|start_header_id|>'+message['role']+'<|end_header_id|>\\n\\n'+" \
    "message['content']"
#define LLAMA3_OPEN "'<|start_header_id|>assistant<|end_header_id|>\\n\\n'}}"
#define LLAMA3_MARKS {HEADER("system"), "<|eot_id|>"}, {HEADER("user"), "<|eot_id|>"}, \
    {HEADER("assistant"), "<|eot_id|>"}, HEADER("assistant")
#define INST_NEVER "<<SYS>>", "strip(", "add_generation_prompt", "[SYSTEM_PROMPT]"

static const family families[] = {
    {"ChatML", IN_TURN | DEFAULT, CHATML("system"), CHATML("user"), CHATML("assistant"),
     "<|im_start|>assistant\n",
     {CHATML_TURN "'+'\\n'}}", "'<|im_start|>assistant\\n'}}"}, {CHATML_NEVER}},
    {"ChatML", IN_TURN | DEFAULT, CHATML("system"), CHATML("user"), CHATML("assistant"),
     "<|im_start|>assistant\n",
     {CHATML_TURN "\\n'}}", "'<|im_start|>assistant\\n'}}"}, {CHATML_NEVER}},
    {"Llama 3", IN_TURN | TRIM, LLAMA3_MARKS,
     {LLAMA3_TURN "|trim+'<|eot_id|>'", LLAMA3_OPEN}, {"think", "Date"}},
    {"Llama 3", IN_TURN, LLAMA3_MARKS, {LLAMA3_TURN "+'<|eot_id|>'", LLAMA3_OPEN},
     {"think", "Date"}},
    {"Llama 3", IN_TURN | TRIM | DATED, LLAMA3_MARKS,
     {LLAMA3_TURN "|trim+'<|eot_id|>'", LLAMA3_OPEN, "{{'Cutting Knowledge Date: ",
      "{{'Today Date: '+date_string+'\\n\\n'}}", "setdate_string='"}, {"think"}},
    {"Zephyr", IN_TURN | LINES, {"<|system|>\n", "{eos}\n"}, {"<|user|>\n", "{eos}\n"},
     {"<|assistant|>\n", "{eos}\n"}, "<|assistant|>\n",
     {"{{'<|system|>\\n'+message['content']+eos_token}}\\n",
      "{{'<|user|>\\n'+message['content']+eos_token}}\\n",
      "{{'<|assistant|>\\n'+message['content']+eos_token}}\\n",
      "ifloop.lastandadd_generation_prompt%}{{'<|assistant|>'}}\\n"}, {NULL}},
    {"Llama 2", JOINS_FIRST | TRIM, {"<<SYS>>\n", "\n<</SYS>>\n\n"}, {"{bos}[INST] ", " [/INST]"},
     {" ", " {eos}"}, "",
     {"'[INST] '+content.strip()+' [/INST]'", "' '+content.strip()+' '+eos_token",
      "'<<SYS>>\\n'+system_message+'\\n<</SYS>>\\n\\n'+message['content']"},
     {"add_generation_prompt", "eliftrue==true"}},
    {"Mistral", JOINS_FIRST, {"", "\n\n"}, {" [INST] ", " [/INST]"}, {" ", "{eos}"}, "",
     {"' [INST] '+message['content']+' [/INST]'", "{{' '+message['content']+eos_token}}",
      "' [INST] '+system_message+'\\n\\n'+message['content']+' [/INST]'",
      "loop.firstandsystem_message"}, {INST_NEVER}},
    {"Mistral", JOINS_LAST | TRIM_ANSWER, {"", "\n\n"}, {"[INST] ", "[/INST]"}, {" ", "{eos}"}, "",
     {"'[INST] '+message['content']+'[/INST]'", "{{' '+message['content']|trim+eos_token}}",
      "'[INST] '+system_message+'\\n\\n'+message['content']+'[/INST]'",
      "loop.lastandsystem_message"}, {INST_NEVER}},
    {"Mistral", JOINS_LAST, {"", "\n\n"}, {"[INST] ", "[/INST]"}, {" ", "{eos}"}, "",
     {"'[INST] '+message['content']+'[/INST]'", "{{' '+message['content']+eos_token}}",
      "'[INST] '+system_message+'\\n\\n'+message['content']+'[/INST]'",
      "loop.lastandsystem_message"}, {INST_NEVER}},
    {"Mistral", JOINS_LAST, {"", "\n\n"}, {"[INST]", "[/INST]"}, {"", "{eos}"}, "",
     {"'[INST]'+message['content']+'[/INST]'", "{{message['content']+eos_token}}",
      "'[INST]'+system_message+'\\n\\n'+message['content']+'[/INST]'",
      "loop.lastandsystem_message"}, {INST_NEVER}},
    {"Mistral", 0, {NULL}, {"[INST] ", " [/INST]"}, {"", "{eos}"}, "",
     {"'[INST] '+message['content']+' [/INST]'", "{{message['content']+eos_token}}"},
     {INST_NEVER, "'system'"}},
    {"Mistral", 0, {NULL}, {"[INST] ", " [/INST]"}, {"", "{eos} "}, "",
     {"'[INST] '+message['content']+' [/INST]'", "{{message['content']+eos_token+' '}}"},
     {INST_NEVER, "'system'"}},
};
enum { N_FAMILIES = sizeof families / sizeof *families };

/* Where the template puts its BOS, if it does. */
static int has_leading_bos(const char *jinja)
{
    return strncmp(jinja, "{{bos_token}}", 13) == 0 || strstr(jinja, "{{bos_token}}{%for") ||
           strstr(jinja, "ifloop.index0==0%}{%setcontent=bos_token+content%}") ||
           strstr(jinja, "{{bos_token+'[INST] '+content.strip()");
}

static const family *recognise(const char *jinja)
{
    const char *bos = strstr(jinja, "bos_token");
    if (strchr(jinja, OUTSIDE))
        return NULL;
    if (bos && (!has_leading_bos(jinja) || strstr(bos + 1, "bos_token")))
        return NULL;
    for (int i = 0; i < N_FAMILIES; i++) {
        const family *f = &families[i];
        int fits = (f->rules & LINES) || !strstr(jinja, "}}\\n");
        for (int k = 0; k < 5 && f->must[k]; k++)
            fits = fits && strstr(jinja, f->must[k]);
        for (int k = 0; k < 8 && f->never[k]; k++)
            fits = fits && !strstr(jinja, f->never[k]);
        if (fits)
            return f;
    }
    return NULL;
}

const char *chat_recognise(gguf_string text)
{
    char *jinja = spelled(text);
    const family *f = jinja ? recognise(jinja) : NULL;
    free(jinja);
    return f ? f->name : "unknown";
}

/* ---------------------------------------------------------------- writing */

typedef struct {
    buffer out;
    const chat_template *from;
    const char *jinja; /* in one spelling */
    const family *family;
    int bos_in_turns;  /* the text of a BOS before every turn but the first */
} writer;

/* Text of the table, in which {eos} and {bos} stand for tokens. */
static void put_mark(writer *w, const char *mark)
{
    for (const char *brace; (brace = strchr(mark, '{')); mark = brace + 5) {
        gguf_string token = brace[1] == 'e' ? w->from->eos : w->from->bos;
        put(&w->out, mark, (size_t)(brace - mark));
        if (brace[1] == 'e' || (w->bos_in_turns && w->out.n > 0))
            put(&w->out, token.data, token.length);
    }
    put_text(&w->out, mark);
}

/* Bytes of the white-space character at s, as Python's str.strip() sees it; 0: it is none. */
static size_t white(const char *s, size_t n)
{
    unsigned char c = n > 0 ? (unsigned char)s[0] : 'x';
    unsigned char d = n > 1 ? (unsigned char)s[1] : 0, e = n > 2 ? (unsigned char)s[2] : 0;
    if ((c >= 0x09 && c <= 0x0D) || (c >= 0x1C && c <= 0x20))
        return 1;
    if (c == 0xC2 && (d == 0x85 || d == 0xA0))
        return 2;
    int wide = (c == 0xE1 && d == 0x9A && e == 0x80) ||                 /* U+1680 */
               (c == 0xE2 && d == 0x80 && e >= 0x80 && e <= 0x8A) ||    /* U+2000 - U+200A */
               (c == 0xE2 && d == 0x80 && (e == 0xA8 || e == 0xA9 || e == 0xAF)) ||
               (c == 0xE2 && d == 0x81 && e == 0x9F) || (c == 0xE3 && d == 0x80 && e == 0x80);
    return wide ? 3 : 0;
}

static void put_trimmed(buffer *b, const char *s, size_t n)
{
    for (size_t k; (k = white(s, n)) > 0; n -= k)
        s += k;
    for (size_t k = 1; k > 0 && n > 0;) {
        size_t last = 1; /* back to the first byte of the last character */
        while (last < n && last < 4 && ((unsigned char)s[n - last] & 0xC0) == 0x80)
            last++;
        k = white(s + n - last, last) == last ? last : 0;
        n -= k;
    }
    put(b, s, n);
}

/* One message, which may carry the system text in front. */
static void put_message(writer *w, const chat_message *m, const chat_message *system)
{
    const family *f = w->family;
    int user = strcmp(m->role, "user") == 0, answer = strcmp(m->role, "assistant") == 0;
    const char *const *mark = user ? f->user : answer ? f->answer : f->system;
    buffer body = {0};
    if (system) {
        put_text(&body, f->system[0]);
        put_text(&body, system->content);
        put_text(&body, f->system[1]);
    }
    put_text(&body, m->content);
    put_mark(w, mark[0]);
    if (body.failed)
        w->out.failed = 1;
    else if (f->rules & (answer ? TRIM_ANSWER : TRIM_USER))
        put_trimmed(&w->out, body.data, body.n);
    else
        put(&w->out, body.data, body.n);
    put_mark(w, mark[1]);
    free(body.data);
}

/* ChatML's default system prompt, for conversations that do not begin with a system message: the
 * string in the template that has a whole system turn in it. */
static void put_default_system(writer *w)
{
    static const char head[] = "'<|im_start|>system\\n", tail[] = "<|im_end|>";
    for (const char *at = w->jinja; (at = strstr(at, head)); at++) {
        const char *text = at + sizeof head - 1, *end = text;
        while (*end && *end != '\'' && strncmp(end, tail, sizeof tail - 1) != 0)
            end += end[0] == '\\' && end[1] ? 2 : 1;
        if (strncmp(end, tail, sizeof tail - 1) != 0)
            continue; /* put together from messages: no default */
        put_text(&w->out, w->family->system[0]);
        for (; text < end; text++) {
            if (*text == '\\')
                text++;
            put(&w->out,
                text[-1] != '\\' ? text : *text == 'n' ? "\n" : *text == 't' ? "\t" : text, 1);
        }
        put_text(&w->out, w->family->system[1]);
        return;
    }
}

/* Llama 3.1 and later always begin with a system turn that names two dates. The second would be
 * today's in some programs; we write the one that stands in the template, so that results do
 * not change overnight. */
static void put_dates(writer *w, const chat_message *system)
{
    static const char knowledge[] = "'Cutting Knowledge Date: ", today[] = "setdate_string='";
    const char *a = strstr(w->jinja, knowledge) + sizeof knowledge - 1;
    const char *b = strstr(w->jinja, today) + sizeof today - 1;
    put_text(&w->out, w->family->system[0]);
    put_text(&w->out, "Cutting Knowledge Date: ");
    put(&w->out, a, strcspn(a, "\\'"));
    put_text(&w->out, "\nToday Date: ");
    put(&w->out, b, strcspn(b, "'"));
    put_text(&w->out, "\n\n");
    if (system)
        put_trimmed(&w->out, system->content, strlen(system->content));
    put_text(&w->out, w->family->system[1]);
}

static int check_messages(const writer *w, const chat_message *m, int count, kv_error *err)
{
    const char *name = w->from->name;
    if (count < 1)
        return kv_fail(err, KV_FAIL_RUN, "%s: a chat without messages; give at least one", name);
    int rule = w->family->rules & SYSTEM, system = strcmp(m[0].role, "system") == 0;
    if (system && !rule)
        return kv_fail(err, KV_FAIL_RUN, "%s: this model's chat template takes no system message; "
                       "put its text into the first user message", name);
    for (int i = 0; i < count; i++) {
        const char *role = m[i].role;
        int is_system = strcmp(role, "system") == 0, user = strcmp(role, "user") == 0;
        if (!is_system && !user && strcmp(role, "assistant") != 0)
            return kv_fail(err, KV_FAIL_RUN, "%s: chat message %d has the role '%.40s'; expected "
                           "system, user or assistant", name, i, role);
        if (rule == IN_TURN || (is_system && i == 0))
            continue;
        if (is_system || user != ((i - system) % 2 == 0))
            return kv_fail(err, KV_FAIL_RUN, "%s: chat message %d is by '%s'; this model's "
                           "template wants user and assistant in turn, user first%s", name, i, role,
                           rule ? " (a system message may come before)" : "");
    }
    if (system && count == 1 && rule != IN_TURN)
        return kv_fail(err, KV_FAIL_RUN, "%s: the chat has a system message only; this model's "
                       "template needs a user message after it", name);
    return 0;
}

static void put_messages(writer *w, const chat_message *m, int count, int open)
{
    int rules = w->family->rules, rule = rules & SYSTEM;
    int system = strcmp(m[0].role, "system") == 0, apart = rule != IN_TURN || (rules & DATED);
    int first = system && apart, carrier = rule == JOINS_LAST ? count - 1 : first;
    if (rules & DATED)
        put_dates(w, system ? &m[0] : NULL);
    if ((rules & DEFAULT) && !system)
        put_default_system(w);
    for (int i = first; i < count; i++) {
        int carries = system && rule != IN_TURN && i == carrier && strcmp(m[i].role, "user") == 0;
        put_message(w, &m[i], carries ? &m[0] : NULL);
    }
    if (open || !strstr(w->jinja, "add_generation_prompt"))
        put_text(&w->out, w->family->open);
}

int chat_write(char **text, size_t *n, int *wants_bos, const chat_template *from,
               const chat_message *message, int count, int open, kv_error *err)
{
    *text = NULL;
    *n = 0;
    *wants_bos = 0;
    char *jinja = spelled(from->text);
    writer w = {.from = from, .jinja = jinja};
    if (!jinja)
        return kv_fail(err, KV_FAIL_RUN, "%s: out of memory at the chat template", from->name);
    w.family = recognise(jinja);
    int code;
    if (!w.family) {
        char shown[256];
        size_t length = from->text.length < 200 ? from->text.length : 200;
        code = kv_fail(err, KV_FAIL_RUN, "%.100s: unknown chat template; known are ChatML, Llama "
                       "2, Llama 3, Mistral, Zephyr. It begins: %s", from->name,
                       tm_printable(shown, sizeof shown, from->text.data, length));
    } else if (!(code = check_messages(&w, message, count, err))) {
        *wants_bos = has_leading_bos(jinja);
        w.bos_in_turns = strstr(jinja, "bos_token+'[INST] '") != NULL;
        put_messages(&w, message, count, open);
        if (w.out.failed)
            code = kv_fail(err, KV_FAIL_RUN, "%s: out of memory for the chat", from->name);
    }
    free(jinja);
    if (code) {
        free(w.out.data);
        return code;
    }
    *text = w.out.data;
    *n = w.out.n;
    return 0;
}

/* --------------------------------------------------------------- of a file */

static const char key_name[] = "tokenizer.chat_template";

const char *chat_family(const gguf *file)
{
    gguf_string text;
    if (!gguf_key_find(file, key_name))
        return "none";
    return gguf_get_string(&text, file, key_name, NULL) ? "unknown" : chat_recognise(text);
}

int chat_render(char **text, size_t *n, int *wants_bos, const gguf *file, const tokenizer *tok,
                const chat_message *message, int count, int open, kv_error *err)
{
    chat_template from = {gguf_path(file), {"", 0}, {"", 0}, {"", 0}};
    *text = NULL;
    if (!gguf_key_find(file, key_name))
        return kv_fail(err, KV_FAIL_RUN, "%s: the file has no chat template; is it a base model? "
                       "Give plain text instead", from.name);
    int code = gguf_get_string(&from.text, file, key_name, err);
    if (code)
        return code;
    if (tok_bos(tok) >= 0)
        from.bos.data = tok_piece(tok, tok_bos(tok), &from.bos.length);
    if (tok_eos(tok) >= 0)
        from.eos.data = tok_piece(tok, tok_eos(tok), &from.eos.length);
    return chat_write(text, n, wants_bos, &from, message, count, open, err);
}
