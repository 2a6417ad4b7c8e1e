/* Keep rules: the grammar, and the sets on a text with two stages. */
#include "check.h"

Test(keep, the_grammar_accepts_what_it_says)
{
    static const char *good[] = {"none", "first:0", "first:5/12-29", "positions:40,3,17,3", "ids:1",
                                 "kvsink:5", "kvsink:5@4", "kvsink:auto@each/all+decode",
                                 "kvsink:0/after", "kvsink:3@join/0-1", "none/all",
                                 "ids:learned/1-2", "first:1+decode", "none+decode"};
    static const char *bad[] = {"", "frist:3", "first:", "first:-1", "first:3x", "first:3/after",
                                "first:3/9-2", "first:3/9-", "first:3/", "positions:", "positions:1,",
                                "ids:a", "kvsink", "kvsink:", "kvsink:five", "kvsink:5@", "kvsink:5@x",
                                "kvsink:5+decode/all", "kvsink:5/all+decode+decode", "ids:learned,3",
                                "ids:learn", "none ", "first:9999999999", "kvsink:-1"};
    kv_keep_rule r;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        cr_expect_eq(kv_keep_parse(&r, good[i], NULL), KV_OK, "%s", good[i]);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        kv_error e = {0};
        cr_expect_eq(kv_keep_parse(&r, bad[i], &e), KV_FAIL_USAGE, "'%s'", bad[i]);
        cr_expect(strstr(e.text, bad[i]), "%s", e.text);
    }
    kv_keep_parse(&r, "positions:40,3,17,3", NULL);
    cr_expect(r.n_list == 3 && r.list[0] == 3 && r.list[2] == 40, "sorted, once each");
}

/* Twelve tokens, six layers; stage 1 at layer 1 shows tokens 0 and 4, stage 2 at layer 3 shows
 * tokens 7 and 0, in another channel. */
static const int tokens[12] = {9, 1, 2, 3, 5, 1, 2, 5, 1, 2, 3, 4};
static const float h[24] = {200, 1, 2, 1, -300, 1, 2, 3, 1, 2, 1, 2,
                            900, 1, 2, 1, 2, 1, 3, -5000, 1, 2, 1, 2};
static kv_stage stages[2] = {{1, 7, 1, 250, 1.5, 20, 3}, {3, 8, -1, 3000, 1.5, 80, 3}};
static int ids[2] = {1, 5};
static const kv_profile two = {.n_stages = 2, .stage = stages, .n_ids = 2, .ids = ids},
                        no_stage = {0};

static int build(char *text, const char *rule, const kv_profile *p, kv_error *err)
{
    int count[6], position[6 * 12], capped;
    float scratch[12];
    int found[12];
    kv_keep keep = {6, 12, count, position};
    kv_keep_rule r;
    kv_keep_input in = {12, tokens, p, h, scratch, found};
    int bad = kv_keep_parse(&r, rule, err);
    if (!bad)
        bad = kv_keep_build(&keep, &capped, &r, &in, err);
    for (int l = 0; l < 6 && !bad; l++) {
        text += sprintf(text, l ? "|" : "");
        for (int i = 0; i < count[l]; i++)
            text += sprintf(text, i ? ",%d" : "%d", position[l * 12 + i]);
    }
    return bad;
}

Test(keep, every_rule_gives_its_sets)
{
    static const char *c[][2] = {
        {"none", "|||||"},
        {"first:2", "0,1|0,1|0,1|0,1|0,1|0,1"},
        {"first:2/4-5", "||||0,1|0,1"},
        {"positions:11,3", "3,11|3,11|3,11|3,11|3,11|3,11"},
        {"ids:5/0-0", "0,4,7|||||"},
        {"ids:77/1-1", "|0||||"},
        {"ids:learned/1-1", "|0,1,4,5,7,8||||"},
        {"kvsink:2", "||||0,7|0,7"},
        {"kvsink:2@3", "||||0,7|0,7"},
        {"kvsink:2@1", "||0,4|0,4|0,4|0,4"},
        {"kvsink:2@1/all", "0,4|0,4|0,4|0,4|0,4|0,4"},
        {"kvsink:2@each", "||0,4|0,4|0,7|0,7"},
        {"kvsink:2@join", "||0,4|0,4|0,4,7|0,4,7"},
        {"kvsink:2@each/all", "0,4|0,4|0,4|0,4|0,7|0,7"},
        {"kvsink:2@join/1-4", "|0,4|0,4|0,4|0,4,7|"},
        {"kvsink:auto@1", "||0,4|0,4|0,4|0,4"},
        {"kvsink:auto", "||||0,7|0,7"},
        {"kvsink:0", "|||||"},
        {"first:99/3-3", "|||0,1,2,3,4,5,6,7,8,9,10,11||"},
        {"kvsink:99/5-5", "|||||0,1,2,3,4,5,6,7,8,9,10,11"},
    };
    for (size_t i = 0; i < sizeof c / sizeof *c; i++) {
        char text[400] = "";
        kv_error e = {0};
        cr_expect_eq(build(text, c[i][0], &two, &e), KV_OK, "%s: %s", c[i][0], e.text);
        cr_expect_str_eq(text, c[i][1], "%s gave %s", c[i][0], text);
    }
}

Test(keep, refuses_what_does_not_exist)
{
    char text[400];
    kv_error e;
    cr_expect_eq(build(text, "first:1/3-6", &two, &e), KV_FAIL_USAGE);
    cr_expect(strstr(e.text, "layers 0 to 5"), "%s", e.text);
    cr_expect_eq(build(text, "positions:12", &two, &e), KV_FAIL_USAGE);
    cr_expect(strstr(e.text, "position 12"), "%s", e.text);
    cr_expect_eq(build(text, "kvsink:5@2", &two, &e), KV_FAIL_USAGE);
    cr_expect(strstr(e.text, "no stage at layer 2"), "%s", e.text);
    cr_expect_eq(build(text, "kvsink:5", NULL, &e), KV_FAIL_USAGE);
    cr_expect(strstr(e.text, "calibrate"), "%s", e.text);
    cr_expect_eq(build(text, "ids:learned", NULL, &e), KV_FAIL_USAGE);
    cr_expect(strstr(e.text, "ids:learned needs"), "%s", e.text);
}

Test(keep, a_model_without_stages_keeps_nothing)
{
    char text[400];
    cr_expect_eq(build(text, "kvsink:5@join/all", &no_stage, NULL), KV_OK);
    cr_expect_str_eq(text, "|||||");
}
