/* The analysing commands as processes, on the hand-built model, about which everything is known:
 * sinks, outliers, calibrate, predict, eval and the demo. KV_BUILD names the folder kvsink was
 * built in (default: build). */
#define _XOPEN_SOURCE 700

#include "process.h"

#include "handmade.h"

static void setup(void)
{
    kv_error err;
    tm_handmade_options several = {TM_SINKS_SEVERAL}, none = {TM_SINKS_NONE};
    process_enter();
    cr_assert(eq(int, tm_handmade_write("several.gguf", &several, &err), 0), "%s", err.text);
    cr_assert(eq(int, tm_handmade_write("none.gguf", &none, &err), 0), "%s", err.text);
    write_file("text.txt", tm_handmade_verse_twice());
}

TestSuite(test_commands, .init = setup, .fini = process_leave);

static const cJSON *item(const cJSON *o, const char *name, int i)
{
    return cJSON_GetArrayItem(cJSON_GetObjectItem(o, name), i);
}

/* "0,32,62": a list of whole numbers as text. */
static const char *list(const cJSON *array)
{
    static char text[512];
    text[0] = 0;
    for (int i = 0; i < cJSON_GetArraySize(array); i++)
        snprintf(text + strlen(text), sizeof text - strlen(text), "%s%g", i ? "," : "",
                 cJSON_GetArrayItem(array, i)->valuedouble);
    return text;
}

static int is_png(const char *path)
{
    char *data;
    size_t n;
    if (tm_read_file(&data, &n, path, NULL)) return 0;
    int yes = n > 1000 && memcmp(data, "\x89PNG\r\n\x1a\n", 8) == 0;
    free(data);
    return yes;
}

static void expect_fail(const char *arguments, int status, const char *words)
{
    int got = run(arguments);
    cr_expect(got == status, "%s: exit status %d, expected %d", arguments, got, status);
    cr_expect(strstr(said, words) != NULL, "%s: said %s", arguments, said);
}

Test(test_commands, sinks_are_the_begin_token_and_the_full_stops)
{
    cJSON *r = run_json("sinks several.gguf --file text.txt --ctx 127 --eps 0.1 --png s.png --json"
                        " --positions 0,32");
    cr_expect(eq(str, (char *)list(cJSON_GetObjectItem(r, "sinks")), "0,32,62,95"));
    cr_expect(number(r, "tokens") == 127 && number(r, "ranked") == 112);
    const cJSON *layer = item(r, "per_layer", 2), *top = item(layer, "top", 0);
    cr_expect(number(top, "position") == 0 && number(top, "void_heads") > 0);
    cr_expect(number(top, "heavy_heads") == 0 && number(top, "v_to_median") < 0.1);
    cr_expect(number(layer, "mass_of_sinks") > number(layer, "mass_of_positions"));
    cr_expect(eq(int, cJSON_GetArraySize(cJSON_GetObjectItem(layer, "alpha")),
                 TM_HANDMADE_HEADS));
    for (int i = 0; i < 4; i++) {
        static const char *const eps[] = {"0.05", "0.1", "0.2", "0.3"};
        const cJSON *share = cJSON_GetObjectItem(cJSON_GetObjectItem(r, "share"), eps[i]);
        cr_expect(eq(int, cJSON_GetArraySize(share), 127));
    }
    cJSON_Delete(r);
    cr_expect(is_png("s.png"));
    cr_expect(eq(int, run("sinks several.gguf --file text.txt --ctx 10"), 0));
    cr_expect(strstr(said, "too short") != NULL, "%s", said);
}

Test(test_commands, outliers_pass_through_five_phases)
{
    cJSON *r = run_json("outliers several.gguf --file text.txt --png o.png --json");
    static const char *const phase[] = {"initial", "emergence", "stable", "dissipation", "final"};
    const cJSON *stage = item(r, "stages", 0);
    cr_expect(eq(int, cJSON_GetArraySize(cJSON_GetObjectItem(r, "layers")), TM_HANDMADE_LAYERS));
    cr_expect(number(stage, "layer") == TM_HANDMADE_EMERGENCE);
    cr_expect(number(stage, "channel") == TM_HANDMADE_CHANNEL);
    for (int l = 0; l < 5; l++)
        cr_expect(eq(str, item(stage, "phases", l)->valuestring, (char *)phase[l]));
    const cJSON *layer = item(r, "layers", TM_HANDMADE_EMERGENCE);
    cr_expect(fabs(number(layer, "max") - 2048) < 1 && number(layer, "token") == 0);
    cJSON_Delete(r);
    cr_expect(is_png("o.png"));
}

Test(test_commands, a_profile_predicts_what_eval_keeps)
{
    cJSON *r = run_json("calibrate several.gguf --file text.txt text.txt -o p.txt --json");
    const cJSON *stage = item(r, "stages", 0);
    cr_expect(eq(int, cJSON_GetArraySize(cJSON_GetObjectItem(r, "stages")), 1));
    cr_expect(number(stage, "layer") == 1 && number(stage, "channel") == 206 &&
              number(stage, "sign") == 1 && number(stage, "prompts") == 2);
    cr_expect(number(stage, "threshold") > 1 && number(stage, "threshold") < 2048);
    cr_expect(number(r, "prompts") == 2);
    char stop[16];
    snprintf(stop, sizeof stop, "%d", TM_HANDMADE_STOP);
    cr_expect(eq(str, (char *)list(cJSON_GetObjectItem(r, "ids")), stop));
    cJSON_Delete(r);

    r = run_json("predict several.gguf --file text.txt --profile p.txt --keep kvsink:5 --json");
    stage = item(r, "stages", 0);
    cr_expect(eq(str, (char *)list(cJSON_GetObjectItem(stage, "positions")), "0,32,62,95,125"));
    cr_expect(eq(int, cJSON_GetArraySize(cJSON_GetObjectItem(stage, "h")), 5));
    for (int l = 0; l < 5; l++)
        cr_expect(eq(str, (char *)list(item(r, "layers", l)), l < 2 ? "" : "0,32,62,95,125"));
    cJSON_Delete(r);
    r = run_json("predict several.gguf --file text.txt --profile p.txt --keep first:2/1-2 --json");
    for (int l = 0; l < 5; l++)
        cr_expect(eq(str, (char *)list(item(r, "layers", l)), l == 1 || l == 2 ? "0,1" : ""));
    cr_expect(eq(int, cJSON_GetArraySize(cJSON_GetObjectItem(r, "stages")), 1));
    cJSON_Delete(r);

    r = run_json("eval several.gguf --file text.txt --ctx 127 --keys 2:channel:64"
                 " --values 2:token:64 --keep kvsink:5 --profile p.txt --json");
    cr_expect(number(r, "windows") == 1 && number(r, "tokens") == 126);
    cr_expect(number(r, "kept") == 3 && number(r, "top1") == 1 && number(r, "kl") < 1e-3);
    cr_expect(fabs(number(r, "ppl") / number(r, "ppl16") - 1) < 1e-3);
    cr_expect(number(r, "bytes") > 0 && number(r, "bits") < 3.5 &&
              number(r, "bytes16") == 127.0 * 5 * 2 * 128 * 2);
    cJSON_Delete(r);
}

Test(test_commands, no_stage_is_a_legal_answer)
{
    cJSON *r = run_json("calibrate none.gguf --file text.txt -o p.txt --json");
    cr_expect(eq(int, cJSON_GetArraySize(cJSON_GetObjectItem(r, "stages")), 0));
    cr_expect(cJSON_IsNull(cJSON_GetObjectItem(r, "sun")));
    cJSON_Delete(r);
    cr_expect(eq(int, run("calibrate none.gguf --file text.txt -o p.txt"), 0));
    cr_expect(strstr(said, "No emergence stage") != NULL);
    r = run_json("predict none.gguf --file text.txt --profile p.txt --keep kvsink:5/all --json");
    for (int l = 0; l < 5; l++) cr_expect(eq(str, (char *)list(item(r, "layers", l)), ""));
    cJSON_Delete(r);
}

Test(test_commands, streams_keep_sinks_that_are_born_later_only_with_decode)
{
    cr_assert(eq(int, run("calibrate several.gguf --file text.txt -o p.txt"), 0));
    const char *base = "eval several.gguf --file text.txt --ctx 127 --stream 20 --keys 2:channel:32"
                       " --values 2:token:64 --profile p.txt --json --keep ";
    char line[512];
    double kl[2];
    for (int i = 0; i < 2; i++) {
        snprintf(line, sizeof line, "%s%s", base, i ? "kvsink:auto+decode" : "kvsink:auto");
        cJSON *r = run_json(line);
        kl[i] = number(r, "kl");
        cr_expect(number(r, "tokens") == 106);
        cr_expect(fabs(number(r, "kept") - (i ? 5 : 1) * 3 / 5.0) < 1e-9);
        cJSON_Delete(r);
    }
    cr_expect(kl[0] > 1 && kl[1] < 0.1, "%g without, %g with", kl[0], kl[1]);
}

Test(test_commands, passages_and_windows)
{
    write_file("passages.txt",
               "\n\n The moon rose\n\n \t\nover the mill,\n\n\nits water wheel lay still,\n");
    expect_fail("eval several.gguf --file passages.txt --join eot:0", 2, "--join");
    expect_fail("eval several.gguf --file passages.txt --join eot --bos each", 2, "--bos");
    expect_fail("eval several.gguf --file text.txt --ctx 128", 1, "text.txt: the text has 126");
    expect_fail("eval several.gguf --file text.txt --ctx 4096", 1, "2048");
    cJSON *r = run_json("eval several.gguf --file text.txt --ctx 32 --bos none --json");
    cr_expect(number(r, "windows") == 3 && number(r, "tokens") == 93 && number(r, "kl") == 0);
    cJSON_Delete(r);
    r = run_json("eval several.gguf --file text.txt --ctx 32 --windows 2 --json");
    cr_expect(number(r, "windows") == 2 && number(r, "kl_error") == 0);
    cJSON_Delete(r);
    /* Rounded before RoPE is not what is rounded behind it. */
    r = run_json("eval several.gguf --file text.txt --ctx 32 --keys f16:pre --json");
    cr_expect(number(r, "kl") > 0 && number(r, "bits") == 16);
    cJSON_Delete(r);
}

/* The end-of-text token is one of those that the text never has as letters: only joined passages
 * show it. In the hand-built model it writes no outlier, so it must be counted and not learned. */
Test(test_commands, calibration_reads_what_eval_reads)
{
    write_file("passages.txt", "The moon rose over the mill.\n\nThe moon rose.\n\nits water wheel\n");
    cr_assert(eq(int, run("calibrate several.gguf --file passages.txt --join eot -o p.txt"), 0),
              "%s", said);
    cJSON *r = run_json("tokens several.gguf --file passages.txt --bos no --json");
    int n = cJSON_GetArraySize(cJSON_GetObjectItem(r, "ids"));
    cJSON_Delete(r);
    char *profile, words[80];
    size_t size;
    cr_assert(eq(int, tm_read_file(&profile, &size, "p.txt", NULL), 0));
    /* three end-of-text tokens instead of the five line ends */
    snprintf(words, sizeof words, "passages.txt (joined, eot): 1 prompt of %d tokens", n + 3 - 5);
    cr_expect(strstr(profile, words) != NULL, "%s in %s", words, profile);
    snprintf(words, sizeof words, "ids %d\n", TM_HANDMADE_STOP);
    cr_expect(strstr(profile, words) != NULL, "%s", profile);
    free(profile);
    cr_assert(eq(int, run("calibrate several.gguf --file passages.txt --join eot:3 --bos yes"
                          " -o p.txt"), 0), "%s", said);
    cr_expect(eq(int, system("grep -q 'eot:3): 1 prompt of 13 tokens' p.txt"), 0));
    expect_fail("calibrate several.gguf --file text.txt --join eos -o p.txt", 2, "--join");
    expect_fail("calibrate several.gguf --chat text.txt --join eot -o p.txt", 2, "--join");
    expect_fail("calibrate several.gguf --chat text.txt -o text.txt", 2, "--chat");
    write_file("talk.json", "[{\"role\": \"user\", \"content\": \"The moon rose.\"}]");
    expect_fail("calibrate several.gguf --chat talk.json -o p.txt", 1, "chat template");
}

Test(test_commands, bad_input_is_named)
{
    cr_assert(eq(int, run("calibrate several.gguf --file text.txt -o p.txt"), 0));
    cr_assert(eq(int, system("sed 's/^model llama 5/model llama 6/' p.txt >other.txt"), 0));
    cr_assert(eq(int, system("sed '/^model/s/.$/x/' p.txt >broken.txt"), 0));
    cr_assert(eq(int, system("awk '/^model/ { $6 = \"0123\" } { print }' p.txt >hash.txt"), 0));
    expect_fail("predict several.gguf --file text.txt", 2, "calibrate");
    expect_fail("eval several.gguf --file text.txt --ctx 64 --keep kvsink:5", 2, "calibrate");
    expect_fail("predict several.gguf --file text.txt --profile other.txt", 1, "6 layers");
    expect_fail("predict several.gguf --file text.txt --profile broken.txt", 1, "broken.txt:");
    expect_fail("predict several.gguf --file text.txt --profile hash.txt", 0, "warning");
    expect_fail("predict several.gguf --file text.txt --keep positions:127", 2, "127");
    expect_fail("predict several.gguf --file text.txt --keep kvsink:5@3 --profile p.txt", 2,
                "layer 3");
    expect_fail("sinks several.gguf --file text.txt --positions 64", 2, "64");
    expect_fail("sinks several.gguf --file text.txt --positions x", 2, "--positions");
    expect_fail("sinks several.gguf --file text.txt --png /dev/full", 1, "/dev/full");
    expect_fail("outliers several.gguf --file text.txt --png none/o.png", 1, "none/o.png");
    expect_fail("calibrate several.gguf --file text.txt -o /dev/full", 1, "/dev/full");
    expect_fail("calibrate several.gguf --file text.txt", 2, "-o");
    expect_fail("calibrate several.gguf -o q.txt", 2, "--file");
    expect_fail("eval several.gguf --file text.txt --recent 4", 2, "--recent");
    expect_fail("eval several.gguf --file text.txt --ctx 64 --stream 63", 2, "--stream");
    expect_fail("eval several.gguf --file text.txt --ctx 64 --keys 2:token:48", 2, "48");
    expect_fail("eval several.gguf --file text.txt --chat text.txt", 2, "--chat");
    expect_fail("eval several.gguf", 2, "--file");
    cr_expect(access("q.txt", F_OK) != 0, "a failed calibration left a profile");
}

/* A slip such as -o MODEL must not cost a model; what is no regular file may be shared. */
Test(test_commands, outputs_are_not_inputs)
{
    static const char *const arguments[] = {
        "logits s.gguf --file text.txt -o s.gguf", "logits s.gguf --file text.txt -o ./text.txt",
        "sinks s.gguf --file text.txt --png link", "outliers s.gguf --file text.txt --png s.gguf",
        "dump s.gguf --text a --tap h --layer 1 -o s.gguf",
        "calibrate s.gguf --file second.txt text.txt -o text.txt",
        "handmade -o new.gguf --write-text new.gguf"};
    cr_assert(eq(int, system("cp several.gguf s.gguf; cp text.txt second.txt; cp text.txt as_was;"
                             " ln -s s.gguf link"), 0));
    for (size_t i = 0; i < sizeof arguments / sizeof *arguments; i++)
        expect_fail(arguments[i], 2, "same file");
    cr_expect(eq(int, system("cmp s.gguf several.gguf && cmp text.txt as_was"), 0));
    cr_expect(access("new.gguf", F_OK) != 0);
    cr_expect(eq(int, run("handmade -o /dev/null --write-text /dev/null"), 0), "%s", said);
}

Test(test_commands, standard_streams_are_files_too)
{
    char line[8400];
    cr_expect(eq(int, run("tokens several.gguf --file - --json <text.txt"), 0), "%s", said);
    cr_expect(strstr(said, "\"tokens\":127") != NULL, "%s", said);
    expect_fail("eval several.gguf --file - --ctx 128 <text.txt", 1, "-: the text has 126 tokens");
    /* Redirected to a file, the array comes first and is not written over by the summary. */
    cr_assert(eq(int, run("logits several.gguf --file text.txt -o l.npy"), 0), "%s", said);
    snprintf(line, sizeof line, "echo before >o && %s logits several.gguf --file text.txt -o"
             " /dev/stdout >>o && (echo before; cat l.npy) >expected &&"
             " head -c $(wc -c <expected) o | cmp - expected", process_program);
    cr_expect(eq(int, system(line), 0));
}

Test(test_commands, the_demo_tells_its_story)
{
    cr_assert(eq(int, run("demo --out made/demo"), 0), "%s", said);
    cr_expect(is_png("made/demo/sinks.png") && is_png("made/demo/outliers.png"));
    cr_expect(strstr(said, "layer 1, channel 206") != NULL);
    char *at = strstr(said, "4. What it writes"), *right = strstr(said, "right would be");
    cr_assert(at && right);
    char *repaired = strstr(at, "2 bits, KVSink"), *broken = strstr(at, "2 bits, first 5 kept");
    cr_assert(repaired && broken);
    repaired += strcspn(repaired, "\\") - 8; /* the last words of the first line */
    right += strcspn(right, "\\") - 8;
    broken += strcspn(broken, "\\") - 8;
    cr_expect(strncmp(repaired, right, 20) == 0, "%.20s", repaired);
    cr_expect(strncmp(broken, right, 20) != 0, "%.20s", broken);
    const char *line = said;
    for (size_t n; *line; line += n + (line[n] == '\n')) {
        n = strcspn(line, "\n");
        cr_expect(n <= 100, "%zu columns: %.*s", n, (int)n, line);
    }
    cr_assert(eq(int, run("demo --out made/a/folder/whose/path/is/not/very/short"), 0), "%s", said);
    line = strstr(said, "The same by hand:");
    cr_assert(line != NULL);
    for (size_t n; *line; line += n + (line[n] == '\n')) {
        n = strcspn(line, "\n");
        cr_expect(n <= 100, "%zu columns: %.*s", n, (int)n, line);
    }
    expect_fail("demo several.gguf", 2, "--file");
    cr_expect(eq(int, run("demo several.gguf --file text.txt --out made/again"), 1));
    cr_expect(strstr(said, "tokens") != NULL, "%s", said); /* shorter than a window */
}

Test(test_commands, eval_tells_errors_positions_and_layers)
{
    static const char *const thing[] = {"keys", "values", "attention"};
    cr_assert(run("calibrate several.gguf --file text.txt -o p.txt") == 0, "%s", said);
    cJSON *root = run_json("eval several.gguf --file text.txt --ctx 40 --keys 2:channel:64 --values "
                           "2:token:64 --keep kvsink:5/all --profile p.txt --layers --json");
    const cJSON *each = cJSON_GetObjectItem(root, "each"), *x;
    double kl = 0, predictions = 0;
    cr_expect(number(root, "windows") == 3 && number(root, "kl_error") > 0);
    cr_expect(number(root, "loss_error") > 0 && number(root, "top1_error") >= 0);
    cr_expect(fabs(number(root, "loss") - log(number(root, "ppl") / number(root, "ppl16"))) < 1e-12);
    cJSON_ArrayForEach(x, cJSON_GetObjectItem(each, "kl")) kl += x->valuedouble / 3;
    cr_expect(fabs(kl - number(root, "kl")) <= 1e-8 * kl); /* nine digits of each */
    cJSON_ArrayForEach(x, cJSON_GetObjectItem(root, "octaves")) predictions += number(x, "tokens");
    cr_expect(predictions == 3 * 39);
    for (int i = 0; i < 3; i++) {
        const cJSON *error = cJSON_GetObjectItem(cJSON_GetObjectItem(root, "layers"), thing[i]);
        cr_expect(cJSON_GetArraySize(error) == TM_HANDMADE_LAYERS);
        const cJSON *sinks = cJSON_GetArrayItem(cJSON_GetArrayItem(error, 2), 0);
        if (i < 2) cr_expect(sinks->valuedouble == 0, "kept sinks have no error"); /* 16 bits */
    }
    cJSON_Delete(root);
    cr_assert(run("eval several.gguf --file text.txt --ctx 40 --by-position --layers") == 0);
    cr_expect(strstr(said, "32-63") && strstr(said, "attention: sinks"), "%s", said);
    cr_expect(run("eval several.gguf --file text.txt --ctx 40 --layers --stream 8") == 2);
    cr_expect(strstr(said, "whole windows") != NULL, "%s", said);
}
