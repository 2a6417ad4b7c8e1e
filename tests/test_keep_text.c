/* Keep rules as text: what is accepted, what is refused, and what was understood. */
#include "check.h"

Test(keep_text, the_grammar_accepts_what_it_says)
{
    static const char *good[] = {
        "none", "first:0", "first:5/12-29", "positions:40,3,17,3", "ids:1", "kvsink:5",
        "kvsink:5@4", "kvsink:5@union", "kvsink:auto@each/all+decode", "kvsink:0/after", "kvsink:3@join/0-1",
        "none/all", "ids:learned/1-2", "first:1+decode", "none+decode", "first:3/after",
        "kvsink:best", "kvsink:best/after+decode", "rotatekv", "rotatekv/2-3", "toph:20/after",
        "attention:5", "attention:5-sinks/all", "criterion", "criterion:0", "criterion:2.5/1-2",
        "criterion:100.0+decode", "random:5:0", "random:5:18446744073709551615/after",
        "bigkeys:5", "smallkeys:1/all", "greedy:3", "ids:learned/after+decode"};
    static const char *bad[] = {
        "", "frist:3", "first:", "first:-1", "first:3x", "first:3/9-2", "first:3/9-", "first:3/",
        "positions:", "positions:1,", "ids:a", "kvsink", "kvsink:", "kvsink:five", "kvsink:5@",
        "kvsink:5@x", "kvsink:5+decode/all", "kvsink:5/all+decode+decode", "ids:learned,3",
        "ids:learn", "none ", "first:9999999999", "kvsink:-1", "first:kvsink:5", "first:toph:5",
        "kvsink:best@each", "kvsink:best:5", "rotatekv:20", "toph", "toph:", "attention:5-sink",
        "attention:-sinks", "criterion:", "criterion:-1", "criterion:100.5", "criterion:1.",
        "criterion:.5", "criterion:1e1", "criterion:nan", "criterion:0x1", "random:5", "random:5:",
        "random:5:-1", "random:5:18446744073709551616", "random:5:1.5", "random::5", "greedy",
        "toph:5@2"};
    kv_keep_rule r;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        cr_expect_eq(kv_keep_parse(&r, good[i], NULL), KV_OK, "%s", good[i]);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        kv_error e = {0};
        cr_expect_eq(kv_keep_parse(&r, bad[i], &e), KV_FAIL_USAGE, "'%s'", bad[i]);
        cr_expect(strstr(e.text, bad[i]), "%s", e.text);
        cr_expect(strstr(e.text, "smallkeys:K"), "%s", e.text);
    }
    kv_keep_parse(&r, "positions:40,3,17,3", NULL);
    cr_expect(r.n_list == 3 && r.list[0] == 3 && r.list[2] == 40, "sorted, once each");
}

Test(keep_text, what_is_written_is_understood)
{
    kv_keep_rule r, best;
    cr_assert_eq(kv_keep_parse(&r, "random:7:18446744073709551615/after", NULL), KV_OK);
    cr_expect(r.kind == KV_KEEP_RANDOM && r.k == 7 && r.seed == UINT64_MAX);
    cr_expect(r.layers == KV_LAYERS_AFTER);
    cr_assert_eq(kv_keep_parse(&r, "attention:9-sinks", NULL), KV_OK);
    cr_expect(r.kind == KV_KEEP_ATTENTION && r.k == 9 && r.without_sinks);
    cr_expect(r.layers == KV_LAYERS_ALL);
    cr_assert_eq(kv_keep_parse(&r, "criterion", NULL), KV_OK);
    cr_expect(r.kind == KV_KEEP_CRITERION && r.multiplier == 1 && r.decode, "+decode is implied");
    cr_assert_eq(kv_keep_parse(&r, "criterion:0.25", NULL), KV_OK);
    cr_expect(r.multiplier == 0.25);
    cr_assert_eq(kv_keep_parse(&best, KV_KEEP_BEST, NULL), KV_OK);
    cr_assert_eq(kv_keep_parse(&r, "kvsink:best", NULL), KV_OK);
    cr_expect(r.best && !best.best);
    best.best = 1;
    cr_expect_eq(memcmp(&r, &best, sizeof r), 0, "the alias is the rule it stands for");
    cr_assert_eq(kv_keep_parse(&r, "kvsink:best/2-3+decode", NULL), KV_OK);
    cr_expect(r.layers == KV_LAYERS_RANGE && r.first_layer == 2 && r.last_layer == 3 && r.decode);
    cr_expect(r.stage == best.stage && r.k == best.k);
}

Test(keep_text, decode_needs_a_rule_that_judges_a_token_alone)
{
    kv_error long_seed;
    kv_keep_rule seeded;
    cr_expect_eq(kv_keep_parse(&seeded, "random:5:18446744073709551616", &long_seed), KV_FAIL_USAGE);
    cr_expect(strstr(long_seed.text, "cannot read '18446744073709551616'"), "%s", long_seed.text);
    static const char *bad[] = {"random:5:1+decode", "bigkeys:5+decode", "smallkeys:5+decode",
                                "attention:5+decode", "attention:5-sinks/all+decode",
                                "greedy:5+decode", "rotatekv+decode", "toph:5/after+decode"};
    kv_keep_rule r;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        kv_error e = {0};
        cr_expect_eq(kv_keep_parse(&r, bad[i], &e), KV_FAIL_USAGE, "%s", bad[i]);
        cr_expect(strstr(e.text, bad[i]) && strstr(e.text, "leave out +decode"), "%s", e.text);
    }
}

Test(keep_text, some_rules_need_a_profile)
{
    static const struct {
        const char *rule;
        int needs;
    } c[] = {{"none", 0}, {"first:5", 0}, {"first:5/after", 1}, {"ids:4", 0}, {"ids:learned", 1},
             {"kvsink:5/all", 1}, {"kvsink:best", 1}, {"toph:5", 0}, {"rotatekv/after", 1},
             {"attention:5", 0}, {"attention:5-sinks", 1}, {"criterion", 0}, {"greedy:2", 0}};
    kv_keep_rule r;
    for (size_t i = 0; i < sizeof c / sizeof *c; i++) {
        cr_assert_eq(kv_keep_parse(&r, c[i].rule, NULL), KV_OK);
        cr_expect_eq(kv_keep_needs_profile(&r), c[i].needs, "%s", c[i].rule);
    }
}
