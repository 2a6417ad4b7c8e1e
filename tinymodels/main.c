/* kvsink: finds the right command and checks that its output arrived. */
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "cli.h"
#include "commands.h"
#include "files.h"

static const struct {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *summary;
} command[] = {
    {"handmade", cmd_handmade, "write the hand-built model that ships with this program"},
    {"info", cmd_info, "what a model file holds: sizes, tokenizer, tensor types, metadata"},
    {"tokens", cmd_tokens, "cut a text into tokens"},
    {"logits", cmd_logits, "write the logits of a text to a .npy file"},
    {"generate", cmd_generate, "continue a prompt, with any cache format and keep rule"},
    {"sinks", cmd_sinks, "find the tokens that attention goes to for want of anything better"},
    {"outliers", cmd_outliers, "find the extreme activations, layer by layer"},
    {"calibrate", cmd_calibrate, "learn where a model's outliers emerge; write a profile"},
    {"predict", cmd_predict, "list the tokens a keep rule would protect in a text"},
    {"eval", cmd_eval, "measure perplexity, KL divergence, bits and bytes of a cache format"},
    {"sweep", cmd_sweep, "measure a grid of texts, formats and keep rules; tables and pictures"},
    {"tasks", cmd_tasks, "try a pass key, the next passage and greedy text with a cache and without"},
    {"dump", cmd_dump, "write any intermediate result of the model to a .npy file"},
    {"demo", cmd_demo, NULL}, /* what `make demo` runs */
    {"quantize", cmd_quantize, "quantize an array: codes, scales, minima and what comes back"},
};

enum { COMMANDS = sizeof command / sizeof command[0] };

static void print_help(FILE *f)
{
    fprintf(f, "usage: kvsink COMMAND ...\n\n"
               "Attention sinks, and the low-bit key-value caches that break on them.\n\n"
               "commands:\n");
    for (int i = 0; i < COMMANDS; i++)
        if (command[i].summary) fprintf(f, "  %-10s %s\n", command[i].name, command[i].summary);
    fprintf(f, "\nEvery command has --help with its options, their defaults and examples;\n"
               "all take --json, --threads N and --version.\n\n"
               "examples:\n"
               "  kvsink info model.gguf\n"
               "  kvsink sinks model.gguf --file text.txt\n");
}

static int unknown_command(const char *name)
{
    const char *names[COMMANDS];
    for (int i = 0; i < COMMANDS; i++) names[i] = command[i].name;
    const char *near = cli_nearest(name, names, COMMANDS);
    fprintf(stderr, "kvsink: unknown command '%s'", name);
    if (near) fprintf(stderr, "; did you mean %s?", near);
    fprintf(stderr, "; see kvsink --help\n");
    return KV_FAIL_USAGE;
}

static int run(int argc, char **argv)
{
    if (argc < 2) {
        print_help(stderr);
        return KV_FAIL_USAGE;
    }
    const char *name = argv[1];
    if (strcmp(name, "--version") == 0) {
        printf("kvsink %s\n", cli_version());
        return 0;
    }
    int asks_help = strcmp(name, "help") == 0; /* kvsink help COMMAND */
    if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0 || (asks_help && argc == 2)) {
        print_help(stdout);
        return 0;
    }
    char help_option[] = "--help";
    char *help_argv[] = {argv[0], argv[2], help_option, NULL};
    if (asks_help) {
        name = argv[2];
        argv = help_argv;
        argc = 3;
    }
    for (int i = 0; i < COMMANDS; i++)
        if (strcmp(name, command[i].name) == 0) return command[i].run(argc - 1, argv + 1);
    return unknown_command(name);
}

int main(int argc, char **argv)
{
    signal(SIGPIPE, SIG_IGN); /* a closed pipe shows as a write error, reported by cli_finish */
    tm_out_clean_up_on_signals();
    return cli_finish(run(argc, argv));
}
