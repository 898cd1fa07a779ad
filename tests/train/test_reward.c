// Rewards: tables of completions that are right, wrong, and written to be paid without being right.
#include "cmocka_all.h"

#include "base/alloc.h"
#include "base/mathx.h"
#include "train/reward.h"

#define THINK "<think>\nlong thoughts\n</think>\n"

typedef struct {
    const char *spec, *line, *completion;
    double want;
} row;

static double score_input(const char *spec, const char *line, mk_reward_input in) {
    mk_rewards *r;
    mk_err err = {0};
    json_t *o;
    double each[MK_REWARDS_MAX] = {0}, total = 0;
    assert_int_equal(mk_json_parse(line, strlen(line), "line", &o, &err), MK_OK);
    in.line = o;
    if (mk_rewards_create(&spec, 1, NULL, &r, &err) != MK_OK ||
        mk_rewards_score(r, &in, each, &total, &err) != MK_OK) {
        fail_msg("%s: %s", spec, err.msg);
    }
    assert_true(total == each[0] * mk_rewards_weight(r, 0));
    mk_rewards_destroy(r);
    json_decref(o);
    return total;
}

static double score_bytes(const char *spec, const char *line, const char *text, size_t n) {
    return score_input(spec, line,
                       (mk_reward_input){.completion = text, .n_completion = n, .finished = true});
}

static void check(const row *rows, size_t n) {
    for (size_t i = 0; i < n; i++) {
        double got =
            score_bytes(rows[i].spec, rows[i].line, rows[i].completion, strlen(rows[i].completion));
        if (got != rows[i].want) {
            fail_msg("%s, line %s, completion '%s': expected %g, got %g", rows[i].spec,
                     rows[i].line, rows[i].completion, rows[i].want, got);
        }
    }
}

#define CHECK(rows) check(rows, sizeof(rows) / sizeof((rows)[0]))

static void test_exact(void **state) {
    (void)state;
    static const char line[] = "{\"answer\":\"new  york \"}";
    static const row rows[] = {
        {"exact", "{\"answer\":\"441\"}", "441", 1},
        {"exact", "{\"answer\":441}", "441", 1},
        {"exact", "{\"answer\":-3}", THINK "-3\n", 1},
        {"exact", "{\"answer\":2.5}", "2.5", 1},
        {"exact", "{\"answer\":\"441\"}", " 441 \n", 1},
        {"exact", "{\"answer\":\"441\"}", "0441", 0},
        {"exact", "{\"answer\":\"441\"}", "441.", 0},
        {"exact", "{\"answer\":\"441\"}", "441 442", 0},
        {"exact", "{\"answer\":\"441\"}", "", 0},
        {"exact", "{\"answer\":\"\"}", "", 1},
        {"exact", line, THINK "new\n york", 1},
        {"exact", line, THINK "newyork", 0},
        {"exact", line, THINK "New York", 0},
        // the reasoning is not the answer, and one that never ends has none
        {"exact", "{\"answer\":\"441\"}", "<think>441", 0},
        {"exact", "{\"answer\":\"\"}", "<think>441", 0},
        {"exact", "{\"answer\":\"441\"}", "<think>\n441\n</think>\n", 0},
        {"exact", "{\"answer\":\"441\"}", THINK "441</think>", 0},
        {"exact", "{\"answer\":\"441\"}", THINK "<think>no</think>441", 0},
        {"exact:weight=-2", "{\"answer\":\"441\"}", "441", -2},
        {"exact:tag=answer", "{\"answer\":\"441\"}", THINK "It is <answer> 441 </answer>.", 1},
        {"exact:tag=answer", "{\"answer\":\"441\"}", THINK "441", 0},
        {"exact:tag=answer", "{\"answer\":\"441\"}", "<answer>441", 0},
        {"exact:tag=answer", "{\"answer\":\"441\"}", "<answer>4</answer><answer>441</answer>", 0},
        {"exact:tag=answer", "{\"answer\":\"441\"}", "<answer>441</answer></answer>", 0},
        {"exact:tag=answer", "{\"answer\":\"441\"}", "<answer><answer>441</answer>", 0},
    };
    CHECK(rows);
}

static void test_numeric(void **state) {
    (void)state;
    static const row rows[] = {
        {"numeric", "{\"answer\":\"18\"}", "She makes 18 dollars.", 1},
        {"numeric", "{\"answer\":\"18\"}", "18", 1},
        {"numeric", "{\"answer\":18}", "#### 18", 1},
        {"numeric", "{\"answer\":\"so 9*2=18\\n#### 18\"}", "18.0", 1},
        {"numeric", "{\"answer\":\"18\"}", "$18.00", 1},
        {"numeric", "{\"answer\":\"18\"}", "18 or 19", 0},
        {"numeric", "{\"answer\":\"18\"}", "17, 19, 20, 18", 1},
        {"numeric", "{\"answer\":\"18\"}", "none", 0},
        {"numeric", "{\"answer\":\"1234567\"}", "1,234,567", 1},
        {"numeric", "{\"answer\":\"1,234,567\"}", "1234567", 1},
        {"numeric", "{\"answer\":\"234567\"}", "1,234,567", 0},
        {"numeric", "{\"answer\":\"34\"}", "12,34", 1},
        {"numeric", "{\"answer\":\"12\"}", "12,34", 0},
        {"numeric", "{\"answer\":\"-7\"}", "-7", 1},
        {"numeric", "{\"answer\":\"-7\"}",
         "\xE2\x88\x92"
         "7",
         1},
        {"numeric", "{\"answer\":\"7\"}", "14-7", 1},
        {"numeric", "{\"answer\":\"7\"}", "x-7", 1},
        {"numeric", "{\"answer\":\"-7\"}", "= -7", 1},
        {"numeric", "{\"answer\":\"0.75\"}", "3/4", 1},
        {"numeric", "{\"answer\":\"3/4\"}", "0.75", 1},
        {"numeric", "{\"answer\":\"4\"}", "3/4", 0},
        {"numeric", "{\"answer\":\"3\"}", "12/4", 1},
        {"numeric", "{\"answer\":\"2/3\"}", "0.6666667", 0},
        {"numeric:tolerance=1e-6", "{\"answer\":\"2/3\"}", "0.6666667", 1},
        {"numeric", "{\"answer\":\"3\"}", "3/0", 0},
        {"numeric", "{\"answer\":\"0.45\"}", "45%", 1},
        {"numeric", "{\"answer\":\"45\"}", "45%", 1},
        {"numeric", "{\"answer\":\"45%\"}", "45", 1},
        {"numeric", "{\"answer\":\"45%\"}", "0.45", 1},
        {"numeric", "{\"answer\":\"45%\"}", "45\\%", 1},
        {"numeric", "{\"answer\":\"45%\"}", "4.5%", 0},
        {"numeric", "{\"answer\":\"1200\"}", "1.2e3", 1},
        {"numeric", "{\"answer\":\"0.5\"}", ".5", 1},
        {"numeric", "{\"answer\":\"5\"}", "5.", 1},
        // whole numbers are compared exactly, beyond what a double holds
        {"numeric", "{\"answer\":\"9007199254740993\"}", "9007199254740993", 1},
        {"numeric", "{\"answer\":\"9007199254740993\"}", "9007199254740992", 0},
        {"numeric:tolerance=0.1", "{\"answer\":\"100\"}", "105", 1},
        {"numeric:tolerance=0.1", "{\"answer\":\"100\"}", "111", 0},
        // the number must stand at the end
        {"numeric", "{\"answer\":\"18\"}", "18 apples in all, of course", 1},
        {"numeric", "{\"answer\":\"18\"}", "18 is one of the numbers that it could well be", 0},
        {"numeric", "{\"answer\":\"18\"}", "18\nor so", 0},
        {"numeric", "{\"answer\":\"18\"}", "<think>18", 0},
        {"numeric", "{\"answer\":\"18\"}", "<think>18</think> It is unclear.", 0},
        {"numeric", "{\"answer\":\"18\"}", THINK "5<think>18", 0},
    };
    CHECK(rows);
}

static void test_regex(void **state) {
    (void)state;
    static const row rows[] = {
        {"regex:pattern=\\d+( eggs)?", "{}", THINK "12 eggs\n", 1},
        {"regex:pattern=\\d+( eggs)?", "{}", "about 12 eggs", 0},
        {"regex:find=on,pattern=\\d+ eggs", "{}", "about 12 eggs, I think", 1},
        {"regex:weight=0.5,pattern=a{1,3}", "{}", "aaa", 0.5},
        {"regex", "{\"answer\":\"(yes|no)\"}", "yes", 1},
        {"regex", "{\"answer\":\"(yes|no)\"}", "yes and no", 0},
        {"regex:pattern=(a+)+b", "{}", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaac", 0},
        {"regex:find=on,pattern=(x|[^y]+)*y", "{}", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaac", 0},
        {"regex:pattern=\xC3\xA4+", "{}", "\xC3\xA4\xC3\xA4", 1},
        {"regex:pattern=.*", "{}", "<think>a", 0},
    };
    CHECK(rows);
}

static void test_expression(void **state) {
    (void)state;
#define CD "{\"numbers\":[3,5,7,9],\"target\":24}"
    static const row rows[] = {
        {"expression", CD, THINK "(9-5)*7-3-1", 0},
        {"expression", "{\"numbers\":[4,5,7,9],\"target\":24}", THINK "(9-5)*7-4\n", 1},
        {"expression", "{\"numbers\":[9,4,7,5],\"answer\":\"24\"}", "(9-5)*7-4 = 24", 1},
        {"expression", "{\"numbers\":[9,4,7,5],\"answer\":24}", "(9-5)*7-4 = 25", 0},
        {"expression", "{\"numbers\":[9,4,7,5],\"answer\":24}", "(9-5)*7-4 = 20+4", 0},
        {"expression", "{\"numbers\":[9,4,7,5],\"answer\":24}", "24", 0},
        {"expression", "{\"numbers\":[9,4,7,5],\"answer\":24}", "(9-5)*7-4+4-4", 0},
        {"expression", "{\"numbers\":[9,4,7,5],\"answer\":24}", "4*7-4", 0},
        {"expression", "{\"numbers\":[9,4,7,5],\"answer\":24}", "The answer: (9-5)*7-4", 0},
        {"expression", "{\"numbers\":[9,4,7,5],\"answer\":24}", "(9-5)*7-4 or 24", 0},
        {"expression", "{\"numbers\":[9,4,7,5],\"answer\":24}", "9-5*7-4\n(9-5)*7-4", 0},
        {"expression", "{\"numbers\":[9,4,7,5],\"answer\":24}", "<think>(9-5)*7-4", 0},
        {"expression", "{\"numbers\":[3,3],\"answer\":9}", "3*3", 1},
        {"expression", "{\"numbers\":[3,3],\"answer\":9}", "3", 0},
        {"expression", "{\"numbers\":[3,4],\"answer\":1}", "-3+4", 0},
        {"expression", "{\"numbers\":[3,4],\"answer\":1}", "4-3", 1},
        {"expression", "{\"numbers\":[34],\"answer\":34}", "34", 1},
        {"expression", "{\"numbers\":[3,4],\"answer\":34}", "34", 0},
        {"expression", "{\"numbers\":[7,2],\"answer\":3}", "7/2", 0},
        {"expression", "{\"answer\":\"24\"}", "24", 1},
        {"expression", "{\"answer\":\"(37+58)*6-129\"}", "441", 1},
        {"expression", "{\"answer\":\"-5\"}", "3-8", 1},
        {"expression", "{\"answer\":\"24\"}", "24=24=24", 0},
        {"expression:tag=answer", CD, "<answer>3+5+7+9</answer>", 1},
    };
    CHECK(rows);
}

static void test_math(void **state) {
    (void)state;
    static const struct {
        const char *want, *got;
        int equal;
    } rows[] = {
        {"\\frac{1}{2}", "\\boxed{\\dfrac12}", 1},
        {"\\frac{1}{2}", "0.5", 1},
        {"\\frac{1}{2}", "1/2", 1},
        {"0.5", "$\\tfrac{2}{4}$", 1},
        {"\\frac{1}{2}", "\\boxed{2}", 0},
        {"12", "So \\boxed{5}, no, \\boxed{12}.", 1},
        {"5", "So \\boxed{5}, no, \\boxed{12}.", 0},
        {"12", "\\boxed{12", 0},
        {"12", "\\boxed{12} and nothing else", 1},
        {"\\frac{3}{4}", "\\boxed{\\frac{3}{4}}", 1},
        {"-\\frac{3}{4}", "\\boxed{\\frac{-3}{4}}", 1},
        {"10,080", "10080", 1},
        {"10080", "10,\\!080", 1},
        {"2\\sqrt{3}", "\\sqrt{12}", 1},
        {"2\\sqrt{3}", "\\sqrt{13}", 0},
        {"\\sqrt[3]{8}", "2", 1},
        {"\\frac{\\pi}{2}", "\\frac{1}{2}\\pi", 1},
        {"\\frac{\\pi}{2}", "\\pi/2", 1},
        {"1\\frac{1}{2}", "\\frac{3}{2}", 1},
        {"2\\frac{\\sqrt{3}}{2}", "\\sqrt{3}", 1},
        {"2^{10}", "1024", 1},
        {"2^{-1}", "0.5", 1},
        {"x=5", "5", 1},
        {"(1,2)", "(1, 2)", 1},
        {"(1,2)", "(2,1)", 0},
        {"(1,2)", "[1,2]", 0},
        {"(3,\\frac{\\pi}{2})", "\\left( 3, \\frac{\\pi}{2} \\right)", 1},
        {"1,-2", "-2, 1", 1},
        {"1,-2", "1,-2,3", 0},
        {"1", "1,2,3", 0},
        {"(-\\infty,2)", "(-\\infty, 2)", 1},
        {"x\\in[-2,7]", "[-2,7]", 1},
        {"\\text{Evelyn}", "\\boxed{\\text{Evelyn}}", 1},
        {"Evelyn", "\\text{Evelyn}", 1},
        {"\\text{Evelyn}", "Carl", 0},
        {"5", "5\\text{ cm}", 1},
        {"15\\mbox{ cm}^2", "15", 1},
        {"15\\mbox{ cm}^2", "225", 0},
        {"90^\\circ", "90", 1},
        {"50\\%", "50", 1},
        {"2x+1", "2x + 1", 1},
        {"2x+1", "2x-1", 0},
        {"\\frac{x+2}{7}", "\\frac{x+2}7", 1},
        {"2516_8", "2516_{8}", 1},
        {"7", "The answer is 7.", 1},
        {"7", "The answer is $7$.", 1},
        {"7", "Answer: 7", 1},
        {"7", "6 or 7", 0},
        {"3", "\\frac{3}{0}", 0},
        {"\\sqrt{-1}", "1", 0},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        json_t *o = json_pack("{s:s}", "answer", rows[i].want);
        char *line = json_dumps(o, 0);
        double got = score_bytes("math", line, rows[i].got, strlen(rows[i].got));
        if (got != rows[i].equal) {
            fail_msg("'%s' against '%s': expected %d, got %g", rows[i].got, rows[i].want,
                     rows[i].equal, got);
        }
        free(line);
        json_decref(o);
    }
}

static void test_format(void **state) {
    (void)state;
    static const row rows[] = {
        {"format", "{}", THINK "441", 1},
        {"format", "{}", " " THINK "441", 1},
        {"format", "{}", "441", 0},
        {"format", "{}", "441 " THINK "441", 0},
        {"format", "{}", "<think>441", 0},
        {"format", "{}", "<think></think>441", 0},
        {"format", "{}", THINK, 0},
        {"format", "{}", THINK " \n", 0},
        {"format", "{}", THINK THINK "441", 0},
        {"format", "{}", "<think>a<think>b</think>441", 0},
        {"format", "{}", THINK "441</think>", 0},
        {"format", "{}", THINK "441\n442", 1},
        {"format:lines=1", "{}", THINK "441\n442", 0},
        {"format:lines=1", "{}", THINK "441\n", 1},
        {"format:lines=2", "{}", THINK "441\n442", 1},
    };
    CHECK(rows);
    mk_reward_input in = {.completion = THINK "441", .n_completion = strlen(THINK "441")};
    assert_true(score_input("format", "{}", in) == 0);  // cut off by the limit
    in = (mk_reward_input){.completion = "so\n</think>441", .n_completion = 14, .finished = true};
    assert_true(score_input("format", "{}", in) == 0);
    in.thinking = true;
    assert_true(score_input("format", "{}", in) == 1);
    assert_true(score_input("exact", "{\"answer\":\"441\"}", in) == 1);
}

static void test_length(void **state) {
    (void)state;
    static const struct {
        const char *spec;
        int64_t n_tok, max_tok;
        double want;
    } rows[] = {
        {"length:max=100,soft=20", 10, 0, 0},
        {"length:max=100,soft=20", 80, 0, 0},
        {"length:max=100,soft=20", 81, 0, -0.05},
        {"length:max=100,soft=20", 90, 0, -0.5},
        {"length:max=100,soft=20", 100, 0, -1},
        {"length:max=100,soft=20", 150, 0, -1},
        {"length", 90, 100, -0.5},
        {"length:soft=50", 75, 100, -0.5},
        {"length:soft=500", 50, 100, -0.5},
        {"length:max=100", 90, 1000, -0.5},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        mk_reward_input in = {.completion = "a",
                              .n_completion = 1,
                              .n_tok = rows[i].n_tok,
                              .max_tok = rows[i].max_tok};
        double got = score_input(rows[i].spec, "{}", in);
        if (got < rows[i].want - 1e-12 || got > rows[i].want + 1e-12) {
            fail_msg("%s, %d of %d: expected %g, got %g", rows[i].spec, (int)rows[i].n_tok,
                     (int)rows[i].max_tok, rows[i].want, got);
        }
    }
}

static void test_checker_of_the_line(void **state) {
    (void)state;
    static const row rows[] = {
        {"checker", "{\"checker\":\"exact\",\"answer\":\"a\"}", "a", 1},
        {"checker", "{\"checker\":\"exact\",\"answer\":\"7\"}", "7.0", 0},
        {"checker", "{\"checker\":\"numeric\",\"answer\":\"7\"}", "7.0", 1},
        {"checker", "{\"checker\":\"math\",\"answer\":\"7\"}", "14/2", 1},
        {"checker", "{\"checker\":\"regex\",\"answer\":\"[0-9]\"}", "7", 1},
        {"checker", "{\"checker\":\"expression\",\"target\":7,\"numbers\":[3,4]}", "3+4", 1},
        {"checker:weight=3,tag=a", "{\"checker\":\"exact\",\"answer\":\"7\"}", "<a>7</a>", 3},
    };
    CHECK(rows);
}

static void test_several(void **state) {
    (void)state;
    static const char *const spec[] = {"exact", "format:weight=0.1",
                                       "length:weight=0.5,max=10,soft=4",
                                       "exact:name=again,weight=-1"};
    mk_rewards *r;
    mk_err err = {0};
    json_t *line = json_pack("{s:s}", "answer", "441");
    double each[4], total;
    assert_int_equal(mk_rewards_create(spec, 4, NULL, &r, &err), MK_OK);
    assert_int_equal(mk_rewards_count(r), 4);
    assert_string_equal(mk_rewards_name(r, 0), "exact");
    assert_string_equal(mk_rewards_name(r, 3), "again");
    mk_reward_input in = {.completion = THINK "441",
                          .n_completion = strlen(THINK "441"),
                          .finished = true,
                          .n_tok = 8,
                          .line = line};
    assert_int_equal(mk_rewards_score(r, &in, each, &total, &err), MK_OK);
    assert_true(each[0] == 1 && each[1] == 1 && each[2] == -0.5 && each[3] == 1);
    assert_true(total == 1 + 0.1 + 0.5 * -0.5 - 1);
    mk_rewards_destroy(r);
    json_decref(line);
}

static void test_other_tags(void **state) {
    (void)state;
    const char *spec = "format";
    mk_rewards *r;
    double total;
    const char *text = "[R]x[/R]441";
    mk_reward_input in = {.completion = text, .n_completion = strlen(text), .finished = true};
    assert_int_equal(mk_rewards_create(&spec, 1, &(mk_rewards_opts){"[R]", "[/R]"}, &r, NULL),
                     MK_OK);
    assert_int_equal(mk_rewards_score(r, &in, NULL, &total, NULL), MK_OK);
    assert_true(total == 1);
    mk_rewards_destroy(r);
}

// --- errors --------------------------------------------------------------------------------------

static void test_bad_specs(void **state) {
    (void)state;
    static const struct {
        const char *spec, *says;
    } rows[] = {
        {"exakt", "unknown reward 'exakt'; did you mean 'exact'?"},
        {"", "unknown reward ''"},
        {"exact:wieght=1", "no key 'wieght'; did you mean 'weight'?"},
        {"exact:tolerance=1", "no key 'tolerance'"},
        {"exact:weight", "expected KEY=VALUE, got 'weight'"},
        {"exact:weight=heavy", "weight: expected a number -1e+06 to 1e+06, got 'heavy'"},
        {"exact:name=", "name: expected a text, got none"},
        {"format:lines=1.5", "lines: expected a whole number"},
        {"regex:pattern=(a", "pattern: position 3: missing closing parenthesis"},
        {"regex:find=maybe,pattern=a", "find: expected on or off, got 'maybe'"},
        {"length:max=5,soft=6", "soft=6 is more than max=5"},
        {"command", "expected a program in run= or a line in shell=, got none"},
        {"command:run=no-such-program-anywhere", "expected a program that can be run"},
        {"command:run=\"unclosed", "every quote closed"},
        {"command:seconds=0,run=true", "seconds: expected a number"},
        {"command:sandbox=perhaps,run=true", "sandbox: expected try, require or off"},
        {"command:scratch=/nonexistent,run=true", "scratch: expected a directory"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        mk_rewards *r;
        mk_err err = {0};
        assert_int_not_equal(mk_rewards_create(&rows[i].spec, 1, NULL, &r, &err), MK_OK);
        assert_null(r);
        if (!strstr(err.msg, rows[i].says)) {
            fail_msg("%s: expected '%s', got '%s'", rows[i].spec, rows[i].says, err.msg);
        }
    }
    static const char *const twice[] = {"exact", "exact:weight=2"};
    mk_rewards *r;
    mk_err err = {0};
    assert_int_equal(mk_rewards_create(twice, 2, NULL, &r, &err), MK_EUSAGE);
    assert_non_null(strstr(err.msg, "two rewards have the name 'exact'"));
}

static void test_bad_lines(void **state) {
    (void)state;
    static const struct {
        const char *spec, *line, *says;
    } rows[] = {
        {"exact", "{}",
         "reward exact: field 'answer' of the line: expected text or a number, got nothing"},
        {"exact", "{\"answer\":[1]}", "got array"},
        {"numeric", "{\"answer\":\"none\"}", "expected a number, got 'none'"},
        {"numeric:name=n", "{\"answer\":true}", "reward n: field 'answer'"},
        {"regex", "{\"answer\":\"(\"}", "field 'answer' of the line: pattern: position"},
        {"expression", "{\"answer\":\"x\"}", "field 'answer' of the line: position 1"},
        {"expression", "{\"target\":1.5}", "field 'target' of the line"},
        {"expression", "{\"target\":1,\"numbers\":[]}", "field 'numbers' of the line"},
        {"expression", "{\"target\":1,\"numbers\":[1.5]}", "field 'numbers' of the line"},
        {"expression", "{\"target\":1,\"numbers\":7}", "field 'numbers' of the line"},
        {"math", "{}", "field 'answer'"},
        {"length", "{}", "give one with max="},
        {"checker", "{}",
         "checker: expected exact, numeric, regex, expression or math, got 'nothing'"},
        {"checker", "{\"checker\":\"command\"}", "got 'command'"},
        {"checker", "{\"checker\":\"format\"}", "got 'format'"},
        {"checker", "{\"checker\":5}", "checker"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        mk_rewards *r;
        mk_err err = {0};
        json_t *o;
        double total;
        assert_int_equal(mk_json_parse(rows[i].line, strlen(rows[i].line), "line", &o, &err),
                         MK_OK);
        mk_reward_input in = {.completion = "5", .n_completion = 1, .line = o};
        assert_int_equal(mk_rewards_create(&rows[i].spec, 1, NULL, &r, &err), MK_OK);
        assert_int_not_equal(mk_rewards_score(r, &in, NULL, &total, &err), MK_OK);
        if (!strstr(err.msg, rows[i].says)) {
            fail_msg("%s: expected '%s', got '%s'", rows[i].line, rows[i].says, err.msg);
        }
        mk_rewards_destroy(r);
        json_decref(o);
    }
}

// --- hostile completions -------------------------------------------------------------------------

static const char *const every_kind[] = {
    "exact",  "numeric",       "regex:pattern=(\\(|\\d)+y", "expression", "math",
    "format", "length:max=10", "exact:name=tag,tag=answer",
};
enum { N_KIND = sizeof every_kind / sizeof every_kind[0] };

// Scores with every kind; returns how many were paid (length pays nothing or less).
static int paid(const char *text, size_t n) {
    mk_rewards *r;
    mk_err err = {0};
    double each[N_KIND], total;
    json_t *line =
        json_pack("{s:s,s:[i,i,i],s:i}", "answer", "24", "numbers", 3, 5, 9, "target", 24);
    int count = 0;
    assert_int_equal(mk_rewards_create(every_kind, N_KIND, NULL, &r, &err), MK_OK);
    mk_reward_input in = {.completion = text, .n_completion = n, .finished = true, .line = line};
    if (mk_rewards_score(r, &in, each, &total, &err) != MK_OK) {
        fail_msg("%s", err.msg);
    }
    for (int i = 0; i < N_KIND; i++) {
        count += each[i] > 0;
    }
    mk_rewards_destroy(r);
    json_decref(line);
    return count;
}

static int paid_repeated(const char *pattern, size_t times, const char *tail) {
    size_t k = strlen(pattern), n = k * times + strlen(tail);
    char *s = mk_alloc(n + 1);
    for (size_t i = 0; i < times; i++) {
        memcpy(s + i * k, pattern, k);
    }
    memcpy(s + k * times, tail, strlen(tail) + 1);
    int got = paid(s, n);
    mk_free(s);
    return got;
}

static void test_hostile(void **state) {
    (void)state;
    static const struct {
        const char *pattern;
        size_t times;
        const char *tail;
        int paid;
    } rows[] = {
        {"(", 100000, "24", 1},  // numeric: the last number is right
        {"(", 100000, "", 0},
        {"-", 100000, "24", 0},
        {"9", 100000, "", 0},
        {"1,111", 20000, "", 0},
        {"<think>", 20000, "24", 0},
        {"</think>", 20000, "24", 0},
        {"<answer>", 20000, "24</answer>", 1},
        {"\\boxed{", 20000, "24}", 2},  // numeric, math: the last box
        {"\\boxed{", 20000, "24", 1},
        {"\\frac{", 300, "24}", 1},
        {"\\sqrt", 400, "24", 1},
        {"{", 2000, "", 0},
        {"24,", 600, "", 1},
        {"\n", 100000, "24", 3},  // exact, numeric, math
        {"x", 100000, "", 0},
        {"0", 100000, "24", 0},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        int got = paid_repeated(rows[i].pattern, rows[i].times, rows[i].tail);
        if (got != rows[i].paid) {
            fail_msg("'%s' %zu times and '%s': expected %d paid, got %d", rows[i].pattern,
                     rows[i].times, rows[i].tail, rows[i].paid, got);
        }
    }
    assert_int_equal(paid("24\0", 3), 1);  // numeric; a NUL behind it is not nothing
    assert_int_equal(paid("2\0004", 3), 0);
    assert_int_equal(paid("\0", 1), 0);
    assert_int_equal(paid("", 0), 0);
    assert_int_equal(paid("\xFF\xFE 24", 5), 1);
    assert_int_equal(paid("3+5+9+7=24", 10), 1);
    assert_int_equal(paid("1e999", 5), 0);
    assert_int_equal(paid("inf nan 0x18", 12), 0);
}

// Random bytes of a small alphabet that the parsers care about: no crash, no error, no surprise.
static void test_random_bytes(void **state) {
    (void)state;
    static const char *const piece[] = {
        "<think>", "</think>", "24", "(",      ")",      "-", "\\frac", "{",    "}",        ",",
        "\\text{", "\\boxed{", "=",  "/",      "%",      ".", "\n",     "\xE2", "\x88\x92", "^",
        "e9",      "[",        "]",  "\\sqrt", "\\left", "x", "pi",     " "};
    uint64_t counter = 0;
    for (int i = 0; i < 3000; i++) {
        char text[256];
        size_t n = 0;
        for (int k = (int)(mk_rng_u64(9, counter++) % 24); k > 0; k--) {
            const char *p = piece[mk_rng_u64(9, counter++) % (sizeof piece / sizeof piece[0])];
            memcpy(text + n, p, strlen(p));
            n += strlen(p);
        }
        assert_in_range(paid(text, n), 0, 5);
    }
}

// MATH-500: an answer is equal to itself in a box, and to no other one of the file but those of the
// same value.
static void test_math_equal_is_not_too_kind(void **state) {
    (void)state;
    static const char *const answers[] = {
        "\\left( 3, \\frac{\\pi}{2} \\right)",
        "p - q",
        "\\frac{14}{3}",
        "9",
        "\\text{Evelyn}",
        "42",
        "27",
        "90^\\circ",
        "3\\sqrt{13}",
        "4",
        "2220",
        "\\frac{3}{56}",
        "284",
        "5",
        "\\sqrt{51}",
        "6 - 5i",
        "-50",
        "\\pi",
        "28",
        "3",
        "6+9i",
        "13535",
        "x=5,x=6",
        "10",
        "1,-2",
        "144",
        "-\\frac{1}{3}",
        "(-\\infty, 2) \\cup (3, \\infty)",
        "\\dfrac{9}{256}",
        "2k",
        "\\text{(B)}",
        "\\begin{pmatrix} -1/3 \\\\ 2/3 \\\\ 5/3 \\end{pmatrix}",
        "x^3+3x-6",
        "[0,1)",
        "(0,1)",
        "0,1",
    };
    size_t n = sizeof answers / sizeof answers[0];
    for (size_t i = 0; i < n; i++) {
        char boxed[256];
        (void)snprintf(boxed, sizeof boxed, "Therefore $\\boxed{%s}$.", answers[i]);
        for (size_t k = 0; k < n; k++) {
            json_t *o = json_pack("{s:s}", "answer", answers[k]);
            char *line = json_dumps(o, 0);
            double got = score_bytes("math", line, boxed, strlen(boxed));
            if (got != (i == k)) {
                fail_msg("'%s' against '%s': %g", answers[i], answers[k], got);
            }
            free(line);
            json_decref(o);
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_exact),
        cmocka_unit_test(test_numeric),
        cmocka_unit_test(test_regex),
        cmocka_unit_test(test_expression),
        cmocka_unit_test(test_math),
        cmocka_unit_test(test_format),
        cmocka_unit_test(test_length),
        cmocka_unit_test(test_checker_of_the_line),
        cmocka_unit_test(test_several),
        cmocka_unit_test(test_other_tags),
        cmocka_unit_test(test_bad_specs),
        cmocka_unit_test(test_bad_lines),
        cmocka_unit_test(test_hostile),
        cmocka_unit_test(test_random_bytes),
        cmocka_unit_test(test_math_equal_is_not_too_kind),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
