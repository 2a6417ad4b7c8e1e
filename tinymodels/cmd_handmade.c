/* kvsink handmade: write the hand-built model, and a text to try it on. */
#include <string.h>

#include "commands.h"
#include "cli.h"
#include "files.h"
#include "handmade.h"

static void print_story(const char *path, const tm_handmade_demo *demo)
{
    printf("written: %s (%d layers, width %d, %d query heads over %d of size %d)\n\n", path,
           TM_HANDMADE_LAYERS, TM_HANDMADE_WIDTH, TM_HANDMADE_HEADS, TM_HANDMADE_KV_HEADS,
           TM_HANDMADE_HEAD);
    printf("It continues this prompt by %d tokens that are known beforehand:\n\n%s\n\n", demo->n,
           demo->prompt);
    printf("With keys %s and values %s these keep rules give the right text: %s",
           demo->keys, demo->values, demo->right);
    if (demo->broken[0]) printf("; these do not: %s", demo->broken);
    printf("\n");
}

int cmd_handmade(int argc, char **argv)
{
    const char *path, *text_path;
    int sinks;
    const cli_option options[] = {
        {"-o", CLI_STRING, &path, "FILE", NULL, 0, 0, "the GGUF file to write (needed)"},
        {"--sinks", CLI_CHOICE, &sinks, "none|one|several|born", "several", 0, 0,
         "which tokens are sinks: no token; the first; the first and every full stop; the same, "
         "for a prompt without one"},
        {"--write-text", CLI_STRING, &text_path, "FILE", NULL, 0, 0,
         "also write a text to evaluate it on: a verse, twice"},
        {0}};
    static const char *const examples[] = {
        "kvsink handmade -o tiny.gguf",
        "kvsink handmade --sinks none -o nosinks.gguf --write-text verse.txt", NULL};
    const cli_command command = {
        "handmade", "Write the hand-built model: five layers whose weights are readable code.", NULL, 0,
        options,
        "The file is a GGUF with its tokenizer inside; every other command, and other\n"
        "programs, can load it. tinymodels/handmade.c explains each of its weights.", examples};
    cli_common common;
    kv_error err;
    int status;
    if (!cli_parse(&common, &command, argc, argv, &status)) return status;
    if (!path)
        return cli_say_fail(&command, KV_FAIL_USAGE, "-o FILE is needed: where to write the model");
    tm_handmade_options o = {(tm_sinks)sinks};
    if (text_path && tm_write_text(text_path, tm_handmade_verse_twice(), &err))
        return cli_fail(&command, &err);
    if (tm_handmade_write(path, &o, &err)) return cli_fail(&command, &err);
    const tm_handmade_demo *demo = tm_handmade_demo_of(o.sinks);
    if (common.json) {
        cJSON *root = cJSON_CreateObject();
        cli_json_add_text(root, "file", path, strlen(path));
        cli_json_add_text(root, "prompt", demo->prompt, strlen(demo->prompt));
        cli_json_add_text(root, "expected", demo->expected, strlen(demo->expected));
        cli_json_add_int(root, "n", demo->n);
        cli_json_add_text(root, "keys", demo->keys, strlen(demo->keys));
        cli_json_add_text(root, "values", demo->values, strlen(demo->values));
        cli_json_print(root);
    } else {
        print_story(path, demo);
    }
    return 0;
}
