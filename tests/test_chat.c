/* Chat templates: texts that follow from the templates by reading them, and what is refused. The
 * templates here are spelled by us; with KV_LLM set, the real model's own is read as well. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "chat.h"

TestSuite(chat);

/* ----------------------------------------------------------- our spellings */

static const char chatml[] =
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content']"
    " + '<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

/* Double quotes, dots, line breaks, minus signs, a comment with an apostrophe, and a default. */
static const char chatml_default[] =
    "{#- nobody's business -#}\n{%- if messages[0].role != \"system\" %}\n"
    "    {{- \"<|im_start|>system\\nIt's a \\\"test\\\".\\nAnswer.<|im_end|>\\n\" }}\n"
    "{%- endif %}\n{%- for message in messages %}\n"
    "    {{- \"<|im_start|>\" + message.role + \"\n\" + message.content + \"<|im_end|>\\n\" }}\n"
    "{%- endfor %}\n"
    "{%- if add_generation_prompt %}\n    {{- \"<|im_start|>assistant\\n\" }}\n{%- endif %}\n";

static const char llama_3[] =
    "{% for message in messages %}{% set content = '<|start_header_id|>' + message['role'] +"
    " '<|end_header_id|>\\n\\n' + message['content'] | trim + '<|eot_id|>' %}"
    "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}"
    "{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}";

static const char llama_3_dated[] =
    "{{- bos_token }}\n{%- set date_string = \"26 Jul 2024\" %}\n"
    "{{- \"<|start_header_id|>system<|end_header_id|>\\n\\n\" }}\n"
    "{{- \"Cutting Knowledge Date: December 2023\\n\" }}\n"
    "{{- \"Today Date: \" + date_string + \"\\n\\n\" }}\n{{- system_message }}\n"
    "{{- \"<|eot_id|>\" }}\n{%- for message in messages %}\n"
    "    {{- '<|start_header_id|>' + message['role'] +"
    " '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' }}\n{%- endfor %}\n"
    "{%- if add_generation_prompt %}\n"
    "    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}\n{%- endif %}\n";

static const char llama_2[] =
    "{% for message in loop_messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('!') }}"
    "{% endif %}{% if loop.index0 == 0 and system_message != false %}{% set content ="
    " '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}{% else %}"
    "{% set content = message['content'] %}{% endif %}{% if message['role'] == 'user' %}"
    "{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ ' '  + content.strip() + ' ' + eos_token }}"
    "{% endif %}{% endfor %}";

static const char mistral_0[] =
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}"
    "{{ '[INST] ' + message['content'] + ' [/INST]' }}{% elif message['role'] == 'assistant' %}"
    "{{ message['content'] + eos_token }}{% endif %}{% endfor %}";

static const char mistral_1[] =
    "{{- bos_token }}\n{%- for message in loop_messages %}\n"
    "    {%- if message['role'] == 'user' %}\n"
    "        {%- if loop.first and system_message is defined %}\n"
    "            {{- ' [INST] ' + system_message + '\\n\\n' + message['content'] + ' [/INST]' }}\n"
    "        {%- else %}\n            {{- ' [INST] ' + message['content'] + ' [/INST]' }}\n"
    "        {%- endif %}\n    {%- elif message['role'] == 'assistant' %}\n"
    "        {{- ' ' + message['content'] + eos_token}}\n    {%- endif %}\n{%- endfor %}\n";

static const char mistral_3[] =
    "{{- bos_token }}\n{%- for message in loop_messages %}\n"
    "    {%- if message[\"role\"] == \"user\" %}\n"
    "        {%- if loop.last and system_message is defined %}\n            {{- \"[INST] \" +"
    " system_message + \"\\n\\n\" + message[\"content\"] + \"[/INST]\" }}\n        {%- else %}\n"
    "            {{- \"[INST] \" + message[\"content\"] + \"[/INST]\" }}\n        {%- endif %}\n"
    "    {%- elif message[\"role\"] == \"assistant\" %}\n"
    "        {{- \" \" + message[\"content\"]|trim + eos_token}}\n    {%- endif %}\n"
    "{%- endfor %}\n";

static const char zephyr[] =
    "{% for message in messages %}\n{% if message['role'] == 'user' %}\n"
    "{{ '<|user|>\n' + message['content'] + eos_token }}\n{% elif message['role'] == 'system' %}\n"
    "{{ '<|system|>\n' + message['content'] + eos_token }}\n"
    "{% elif message['role'] == 'assistant' %}\n"
    "{{ '<|assistant|>\n'  + message['content'] + eos_token }}\n{% endif %}\n"
    "{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n"
    "{% endfor %}";

/* ---------------------------------------------------------------- expected */

static const chat_message asks = {"user", " Who? "}, answers = {"assistant", "\xC2\xA0Me.\n"},
                          rules = {"system", " Be brief. "}, again = {"user", "Why?"};

static int write_chat(char **text, const char *jinja, const char *order, int open, int *bos,
                      kv_error *err)
{
    chat_message m[8];
    int n = 0;
    size_t length;
    for (; order[n]; n++)
        m[n] = order[n] == 's' ? rules : order[n] == 'u' ? asks : order[n] == 'a' ? answers : again;
    chat_template t = {"model.gguf", {jinja, strlen(jinja)}, {"<s>", 3}, {"</s>", 4}};
    int code = chat_write(text, &length, bos, &t, m, n, open, err);
    if (!code)
        cr_expect_eq(length, strlen(*text));
    return code;
}

typedef struct {
    const char *name, *jinja, *order; /* order: s system, u user, a assistant, U user again */
    int open, bos;
    const char *text;
} expected;

#define NBSP "\xC2\xA0"
#define IM(role, text) "<|im_start|>" role "\n" text "<|im_end|>\n"
#define HEADER(role) "<|start_header_id|>" role "<|end_header_id|>\n\n"
#define EOT "<|eot_id|>"
#define DATES "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n"

static const expected chats[] = {
    {"ChatML", chatml, "u", 1, 0, IM("user", " Who? ") "<|im_start|>assistant\n"},
    {"ChatML", chatml, "sua", 0, 0,
     IM("system", " Be brief. ") IM("user", " Who? ") IM("assistant", NBSP "Me.\n")},
    {"ChatML", chatml_default, "u", 1, 0,
     IM("system", "It's a \"test\".\nAnswer.") IM("user", " Who? ") "<|im_start|>assistant\n"},
    {"ChatML", chatml_default, "su", 0, 0, IM("system", " Be brief. ") IM("user", " Who? ")},
    {"Llama 3", llama_3, "sua", 1, 1,
     HEADER("system") "Be brief." EOT HEADER("user") "Who?" EOT HEADER("assistant") "Me." EOT
     HEADER("assistant")},
    {"Llama 3", llama_3_dated, "u", 0, 1, HEADER("system") DATES EOT HEADER("user") "Who?" EOT},
    {"Llama 3", llama_3_dated, "sU", 0, 1,
     HEADER("system") DATES "Be brief." EOT HEADER("user") "Why?" EOT},
    {"Llama 2", llama_2, "uaU", 1, 1, "[INST] Who? [/INST] Me. </s><s>[INST] Why? [/INST]"},
    {"Llama 2", llama_2, "su", 1, 1, "[INST] <<SYS>>\n Be brief. \n<</SYS>>\n\n Who? [/INST]"},
    {"Mistral", mistral_0, "uaU", 1, 1,
     "[INST]  Who?  [/INST]" NBSP "Me.\n</s>[INST] Why? [/INST]"},
    {"Mistral", mistral_1, "suaU", 1, 1,
     " [INST]  Be brief. \n\n Who?  [/INST] " NBSP "Me.\n</s> [INST] Why? [/INST]"},
    {"Mistral", mistral_3, "suaU", 1, 1,
     "[INST]  Who? [/INST] Me.</s>[INST]  Be brief. \n\nWhy?[/INST]"},
    /* the template joins the system text to the last message, and only if that is the user's */
    {"Mistral", mistral_3, "sua", 1, 1, "[INST]  Who? [/INST] Me.</s>"},
    {"Zephyr", zephyr, "sua", 0, 0,
     "<|system|>\n Be brief. </s>\n<|user|>\n Who? </s>\n<|assistant|>\n" NBSP "Me.\n</s>\n"},
    {"Zephyr", zephyr, "u", 1, 0, "<|user|>\n Who? </s>\n<|assistant|>\n"},
};

Test(chat, known_templates)
{
    for (size_t i = 0; i < sizeof chats / sizeof *chats; i++) {
        const expected *e = &chats[i];
        char *text;
        int bos;
        kv_error err = {0};
        gguf_string jinja = {e->jinja, strlen(e->jinja)};
        cr_expect_str_eq(chat_recognise(jinja), e->name, "case %zu", i);
        cr_expect_eq(write_chat(&text, e->jinja, e->order, e->open, &bos, &err), 0, "%zu: %s", i,
                     err.text);
        if (!text)
            continue;
        cr_expect_str_eq(text, e->text, "case %zu (%s, %s):\n%s\ninstead of\n%s", i, e->name,
                         e->order, text, e->text);
        cr_expect_eq(bos, e->bos, "case %zu", i);
        free(text);
    }
}

Test(chat, conversations_that_a_template_refuses)
{
    static const struct {
        const char *jinja, *order, *part;
    } cases[] = {
        {llama_2, "a", "message 0 is by 'assistant'"}, {llama_2, "uu", "message 1 is by 'user'"},
        {llama_2, "usu", "message 1 is by 'system'"}, {llama_2, "s", "system message only"},
        {mistral_0, "su", "takes no system message"}, {mistral_1, "suu", "message 2"},
        {mistral_3, "uaa", "message 2"}, {chatml, "", "without messages"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *text;
        int bos;
        kv_error err = {0};
        cr_expect_eq(write_chat(&text, cases[i].jinja, cases[i].order, 1, &bos, &err), KV_FAIL_RUN);
        cr_expect(strstr(err.text, cases[i].part), "case %zu: %s", i, err.text);
        cr_expect_null(text);
    }
}

#define LOOP "{% for message in messages %}"
#define TURN "'<|im_start|>' + message['role'] + '\\n' + message['content']"
#define OPEN "{{ '<|im_start|>assistant\\n' }}"

/* Changes to a known template, each of which changes what comes out. */
Test(chat, templates_that_are_not_known)
{
    static const char *const jinja[] = {
        "", "{{ messages }}", "### Instruction: {{ messages[0]['content'] }}",
        LOOP "{{ " TURN " | trim + '<|im_end|>' + '\\n' }}{% endfor %}" OPEN,
        LOOP "{{ " TURN " + '<|im_end|>' + '\\n' }}{% endfor %}" OPEN "<think>",
        LOOP "{{ " TURN " + '<|im_end|>' + '\\n' }}\n{% endfor %}\n" OPEN,
        LOOP "{{ '<|user|>' + message['content'] + '<|end|>' }}{% endfor %}",
        "{{ bos_token }}{{ bos_token }}" LOOP "{% if message['role'] == 'user' %}"
        "{{ '[INST] ' + message['content'] + ' [/INST]' }}{% else %}"
        "{{ message['content'] + eos_token }}{% endif %}{% endfor %}",
        "{% for", "{{ 'open", "{# comment", "{{", "'", "\\",
    };
    for (size_t i = 0; i < sizeof jinja / sizeof *jinja; i++) {
        char *text;
        int bos;
        kv_error err = {0};
        cr_expect_eq(write_chat(&text, jinja[i], "u", 1, &bos, &err), KV_FAIL_RUN, "case %zu", i);
        cr_expect(strstr(err.text, "unknown chat template") && strstr(err.text, "Zephyr") &&
                  strstr(err.text, "model.gguf"), "case %zu: %s", i, err.text);
        if (strlen(jinja[i]) > 0 && strlen(jinja[i]) < 40)
            cr_expect(strstr(err.text, jinja[i]) || jinja[i][0] == '\\', "not shown: %s", err.text);
    }
}

/* ------------------------------------------------------------------- JSON */

Test(chat, list_of_messages)
{
    static const char json[] = " [{\"role\": \"user\", \"content\": \"a\\n\\u00e9\", \"x\": 1},\n"
                               "{\"content\": \"\", \"role\": \"assistant\"}] \n";
    chat_list list;
    kv_error err = {0};
    cr_assert_eq(chat_parse(&list, "chat.json", json, strlen(json), &err), 0, "%s", err.text);
    cr_assert_eq(list.count, 2);
    cr_expect_str_eq(list.message[0].role, "user");
    cr_expect_str_eq(list.message[0].content, "a\n\xC3\xA9");
    cr_expect_str_eq(list.message[1].role, "assistant");
    cr_expect_str_eq(list.message[1].content, "");
    chat_free(&list);
    cr_expect(list.count == 0 && list.message == NULL);
}

Test(chat, lists_that_are_none)
{
    static const struct {
        const char *json, *part;
    } cases[] = {
        {"", "not JSON"}, {"[", "not JSON"}, {"[{\"role\": }]", "at offset"}, {"[] x", "not JSON"},
        {"{\"role\": \"user\", \"content\": \"\"}", "no list"}, {"\"hello\"", "no list"},
        {"[]", "no messages"},
        {"[1]", "message 0 is no object"}, {"[{\"content\": \"\"}]", "no role"},
        {"[{\"role\": \"user\"}]", "no content"},
        {"[{\"role\": 1, \"content\": \"\"}]", "as its role"},
        {"[{\"role\": \"user\", \"content\": [\"x\"]}]", "as its content"},
        {"[{\"role\": \"user\", \"content\": \"\"}, {\"role\": \"tool\", \"content\": \"\"}]",
         "message 1 has the role 'tool'"},
        {"[{\"role\": \"user\", \"content\": \"\xFF\"}]", "offset 30"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        chat_list list;
        kv_error err = {0};
        int code = chat_parse(&list, "chat.json", cases[i].json, strlen(cases[i].json), &err);
        cr_expect_eq(code, KV_FAIL_RUN, "%s", cases[i].json);
        cr_expect(strstr(err.text, cases[i].part) && strstr(err.text, "chat.json"), "%s: %s",
                  cases[i].json, err.text);
        cr_expect(list.count == 0 && !list.message && !list.json);
    }
    chat_list list;
    kv_error err = {0};
    cr_expect_eq(chat_read(&list, "/nonexistent/chat.json", &err), KV_FAIL_RUN);
    cr_expect(strstr(err.text, "/nonexistent/chat.json"), "%s", err.text);
}

/* ------------------------------------------------- the real model (KV_LLM) */

Test(chat, real_model)
{
    const char *path = getenv("KV_LLM");
    if (!path)
        cr_skip_test("KV_LLM names no model (make test-llm does)");
    gguf *file;
    tokenizer *tok;
    kv_error err = {0};
    cr_assert_eq(gguf_open(&file, path, &err), 0, "%s", err.text);
    cr_assert_eq(tok_open(&tok, file, &err), 0, "%s", err.text);
    cr_expect_str_eq(chat_family(file), "ChatML");
    char *text;
    size_t n;
    int bos, *ids, count, starts = 0;
    cr_assert_eq(chat_render(&text, &n, &bos, file, tok, &again, 1, 1, &err), 0, "%s", err.text);
    cr_expect_str_eq(text, IM("system", "You are a helpful AI assistant named SmolLM, trained by "
                              "Hugging Face") IM("user", "Why?") "<|im_start|>assistant\n");
    cr_expect_eq(bos, 0);
    cr_assert_eq(tok_encode(&ids, &count, tok, text, n, 1, &err), 0, "%s", err.text);
    for (int i = 0; i < count; i++)
        starts += ids[i] == tok_find(tok, "<|im_start|>", 12);
    cr_expect_eq(starts, 3, "marks of turns are single tokens");
    free(ids);
    free(text);
    tok_close(tok);
    gguf_close(file);
}
