/* kvsink tokens: cut a text into tokens. */
#include <stdlib.h>

#include "commands.h"
#include "files.h"
#include "session.h"

/* pieces: the bytes that each token stands for, so that they join to the text; raw: as
 * the vocabulary writes them (with Ġ or ▁ for a space). */
static void print_json(const session *s, const int *ids, int n)
{
    cJSON *root = cJSON_CreateObject(), *pieces = cJSON_CreateArray(), *raw = cJSON_CreateArray();
    for (int i = 0; i < n; i++) {
        size_t length;
        const char *text = tok_bytes(s->tok, ids[i], &length);
        cJSON_AddItemToArray(pieces, cli_json_text(text, length));
        text = tok_piece(s->tok, ids[i], &length);
        cJSON_AddItemToArray(raw, cli_json_text(text, length));
    }
    cli_json_add_int(root, "tokens", n);
    cJSON_AddItemToObject(root, "ids", cli_json_ints(ids, n));
    cJSON_AddItemToObject(root, "pieces", pieces);
    cJSON_AddItemToObject(root, "raw", raw);
    cli_json_print(root);
}

static void print_table(const session *s, const int *ids, int n)
{
    cli_table t;
    cli_table_begin(&t, "rrll");
    cli_table_cell(&t, "position");
    cli_table_cell(&t, "id");
    cli_table_cell(&t, "text");
    cli_table_cell(&t, "kind");
    for (int i = 0; i < n && !cli_stdout_failed(); i++) {
        static const char *const kind[] = {"", "", "unknown", "control", "user-defined", "unused",
                                           "byte"};
        char shown[120];
        size_t length;
        const char *text = tok_bytes(s->tok, ids[i], &length);
        int type = tok_type(s->tok, ids[i]);
        cli_table_cell(&t, "%d", i);
        cli_table_cell(&t, "%d", ids[i]);
        cli_table_cell(&t, "'%s'", tm_printable(shown, sizeof shown, text, length));
        cli_table_cell(&t, "%s", type >= 0 && type <= TOK_BYTE ? kind[type] : "");
    }
    cli_table_print(&t);
    char count[32];
    printf("%s token%s\n", cli_count(count, n), n == 1 ? "" : "s");
}

int cmd_tokens(int argc, char **argv)
{
    static const char *const examples[] = {
        "kvsink tokens model.gguf --text 'Hello world'",
        "kvsink tokens model.gguf --file book.txt --json",
        "kvsink tokens model.gguf --special --text '<|im_start|>user'", NULL};
    static const cli_command command = {
        "tokens", "Cut a text into tokens: ids, and the text of each.", "MODEL", CLI_TEXT | CLI_BOS,
        NULL,
        "Works for every architecture and for files that hold a vocabulary only. Bytes that\n"
        "are no character of their own (half of an emoji) are shown as '?', in JSON as U+FFFD.",
        examples};
    cli_common common;
    session s;
    kv_error err;
    int status, *ids, n;
    if (!cli_parse(&common, &command, argc, argv, &status)) return status;
    if (session_open_vocabulary(&s, &common, &err)) return cli_fail(&command, &err);
    if (session_text_tokens(&ids, &n, &s, &err)) {
        status = cli_fail(&command, &err);
    } else {
        if (common.json) print_json(&s, ids, n);
        else print_table(&s, ids, n);
        free(ids);
    }
    session_close(&s);
    return status;
}
