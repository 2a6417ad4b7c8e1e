/* Keep sets: every rule on a text with two stages, and what is refused. */
#include "check.h"

/* Twelve tokens, six layers; stage 1 at layer 1 shows tokens 0 and 4, stage 2 at layer 3 shows
 * tokens 7 and 0, in another channel. */
static const int tokens[12] = {9, 1, 2, 3, 5, 1, 2, 5, 1, 2, 3, 4};
static const float h[24] = {200, 1, 2, 1, -300, 1, 2, 3, 1, 2, 1, 2,
                            900, 1, 2, 1, 2, 1, 3, -5000, 1, 2, 1, 2};
static kv_stage stages[2] = {{1, 7, 1, 250, 1.5, 20, 3}, {3, 8, -1, 3000, 1.5, 80, 3}};
static int ids[2] = {1, 5};
static const kv_profile two = {.n_stages = 2, .stage = stages, .n_ids = 2, .ids = ids},
                        no_stage = {0};

/* What a rule that scores tokens reads: tokens 5 and 4 lead in layers 0 to 2, 7 and 11 in the others,
 * where 2 is within a thousandth of 11; 3 is least everywhere. */
static double scores[6 * 12];
static const double *score;
static const kv_keep *own;

static void set_scores(void)
{
    for (int l = 0; l < 6; l++)
        for (int t = 0; t < 12; t++)
            scores[l * 12 + t] = 1 + 0.01 * t - (t == 3 ? 0.5 : 0);
    for (int l = 0; l < 6; l++) {
        scores[l * 12 + (l < 3 ? 5 : 7)] = 9;
        scores[l * 12 + (l < 3 ? 4 : 11)] = l < 3 ? 8 : 8.025;
        if (l >= 3)
            scores[l * 12 + 2] = 8.02;
    }
    score = scores;
}

static int build(char *text, const char *rule, const kv_profile *p, kv_error *err)
{
    int count[6], position[6 * 12], capped;
    float scratch[24];
    int found[24];
    kv_keep keep = {6, 12, count, position};
    kv_keep_rule r;
    kv_keep_input in = {.T = 12, .tokens = tokens, .profile = p, .h = h, .scratch = scratch,
                        .found = found, .score = score, .own = own};
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

Test(keep, rules_that_score_tokens_choose_layer_by_layer)
{
    static const char *c[][2] = {
        {"toph:2", "4,5|4,5|4,5|2,7|2,7|2,7"},
        {"bigkeys:3/2-3", "||4,5,11|2,7,11||"},
        {"attention:1/after", "||||7|7"},           /* the largest stage is at layer 3 */
        {"attention:2-sinks", "5,11|5,11|5,11|2,11|2,11|2,11"}, /* sinks 0, 4, 7 */
        {"attention:99-sinks/0-0", "1,2,3,5,6,8,9,10,11|||||"},
        {"toph:0", "|||||"},
        {"smallkeys:1", "3|3|3|3|3|3"},
        {"smallkeys:99/1-1", "|0,1,2,3,4,5,6,7,8,9,10,11||||"},
        {"criterion:0/1-2", "|2,4,5,7,11|2,4,5,7,11|||"},
        {"criterion:100/5-5", "|||||1,6,8,9,10"}, /* the largest of those that never change */
        {"first:2/after", "||||0,1|0,1"},
        {"positions:4/after", "||||4|4"},
    };
    set_scores();
    for (size_t i = 0; i < sizeof c / sizeof *c; i++) {
        char text[400] = "";
        kv_error e = {0};
        cr_expect_eq(build(text, c[i][0], &two, &e), KV_OK, "%s: %s", c[i][0], e.text);
        cr_expect_str_eq(text, c[i][1], "%s gave %s", c[i][0], text);
    }
}

Test(keep, random_is_one_set_for_all_layers_that_are_protected)
{
    char text[400], want[60] = "";
    int position[4];
    cr_assert_eq(kv_random_positions(position, 7, 12, 4), 4);
    for (int i = 0; i < 4; i++)
        sprintf(want + strlen(want), i ? ",%d" : "%d", position[i]);
    cr_expect_eq(build(text, "random:4:7/1-2", NULL, NULL), KV_OK);
    cr_expect_eq(strncmp(text, "|", 1), 0);
    cr_expect_eq(strncmp(text + 1, want, strlen(want)), 0, "%s, expected %s", text, want);
    cr_expect_str_eq(text + 2 + strlen(want) + strlen(want), "|||", "%s", text);
}

Test(keep, rotatekv_takes_the_lists_of_each_layer)
{
    char text[400];
    int count[6] = {1, 0, 2, 1, 1, 3};
    int list[6 * 3] = {4, 0, 0, 0, 0, 0, 2, 7, 0, 11, 0, 0, 0, 0, 0, 1, 2, 3};
    kv_keep lists = {6, 3, count, list};
    own = &lists;
    cr_expect_eq(build(text, "rotatekv", NULL, NULL), KV_OK);
    cr_expect_str_eq(text, "4||2,7|11|0|1,2,3");
    cr_expect_eq(build(text, "rotatekv/after", &two, NULL), KV_OK);
    cr_expect_str_eq(text, "||||0|1,2,3");
    cr_expect_eq(build(text, "rotatekv/2-3", NULL, NULL), KV_OK);
    cr_expect_str_eq(text, "||2,7|11||");
}

Test(keep, behind_no_stage_there_is_no_layer)
{
    char text[400];
    set_scores();
    static const char *rule[] = {"first:5/after", "toph:5/after", "random:3:1/after",
                                 "criterion/after", "ids:5/after"};
    for (int i = 0; i < 5; i++) {
        kv_error e = {0};
        cr_expect_eq(build(text, rule[i], &no_stage, &e), KV_OK, "%s", e.text);
        cr_expect_str_eq(text, "|||||", "%s gave %s", rule[i], text);
        cr_expect_eq(build(text, rule[i], NULL, &e), KV_FAIL_USAGE);
        cr_expect(strstr(e.text, "/after needs") && strstr(e.text, "calibrate"), "%s", e.text);
    }
    cr_expect_eq(build(text, "attention:1-sinks/0-0", &no_stage, NULL), KV_OK, "no sinks");
    cr_expect_str_eq(text, "5|||||");
}

Test(keep, a_rule_without_its_score_is_refused)
{
    static const char *rule[] = {"toph:5", "rotatekv", "attention:5", "criterion", "bigkeys:1",
                                 "smallkeys:1", "greedy:2"};
    char text[400];
    for (int i = 0; i < 7; i++) {
        kv_error e = {0};
        cr_expect_eq(build(text, rule[i], &two, &e), KV_FAIL_USAGE, "%s", rule[i]);
        cr_expect(strstr(e.text, i < 6 ? "pass without quantization" : "greedy"), "%s", e.text);
    }
    kv_error e = {0};
    set_scores();
    scores[2 * 12 + 7] = NAN;
    cr_expect_eq(build(text, "toph:1", &two, &e), KV_FAIL_RUN);
    cr_expect(strstr(e.text, "token 7 in layer 2"), "%s", e.text);
    cr_expect_eq(build(text, "attention:1-sinks", NULL, &e), KV_FAIL_USAGE);
    cr_expect(strstr(e.text, "attention:K-sinks needs"), "%s", e.text);
}
