#include "cmocka_all.h"

#include "base/alloc.h"
#include "base/opt.h"
#include "torture.h"

typedef struct {
    const char *model, *think;
    int64_t n, ctx;
    double top_p, temp;
    bool raw, stats;
    mk_opt_list stop;
} args;

#define AT(field) offsetof(args, field)

static const mk_opt rows[] = {
    {.name = "model",
     .short_name = "m",
     .type = MK_OPT_STR,
     .offset = AT(model),
     .arg = "MODEL",
     .env = "MINKE_TEST_MODEL",
     .help = "file, folder or name of the model",
     .group = "Model"},
    {.name = "predict",
     .short_name = "n",
     .type = MK_OPT_I64,
     .offset = AT(n),
     .dflt = "-1",
     .min = -1,
     .max = 1000000,
     .arg = "N",
     .help = "stop after N tokens"},
    {.name = "ctx",
     .type = MK_OPT_I64,
     .offset = AT(ctx),
     .dflt = "4096",
     .min = 1,
     .max = 1e7,
     .word = "max",
     .word_value = -1,
     .arg = "N",
     .env = "MINKE_TEST_CTX",
     .help = "tokens of context"},
    {.name = "top-p",
     .type = MK_OPT_F64,
     .offset = AT(top_p),
     .dflt = "1",
     .max = 1,
     .arg = "P",
     .help = "keep the most probable tokens whose probabilities sum to P, and drop all of the "
             "others before drawing",
     .group = "Sampling"},
    {.name = "temp", .type = MK_OPT_F64, .offset = AT(temp), .help = "temperature"},
    {.name = "think",
     .type = MK_OPT_STR,
     .offset = AT(think),
     .dflt = "high",
     .choices = "off|low|high",
     .help = "how long to think"},
    {.name = "raw", .type = MK_OPT_FLAG, .offset = AT(raw), .help = "no template"},
    {.name = "stats",
     .type = MK_OPT_FLAG,
     .offset = AT(stats),
     .dflt = "on",
     .help = "print the speed"},
    {.name = "stop",
     .type = MK_OPT_LIST,
     .offset = AT(stop),
     .help = "stop at this text; may be given several times"},
};
static const mk_opt_spec spec = {
    .program = "minke run",
    .usage = "[-m MODEL] [PROMPT]",
    .about = "Generates one answer to PROMPT, or to standard input when it is not a terminal, and "
             "prints it.",
    .more = "Example:\n  minke run 'Why is the sky blue?'\n",
    .opts = rows,
    .n_opts = MK_OPT_COUNT(rows),
    .max_args = 1,
};

// Parses a line of words separated by one space.  Values point into `words`.
static char words[512];

static mk_status parse(const char *line, args *a, mk_opt_result *r, mk_err *err) {
    char *argv[32] = {"run"}, *save = NULL;
    int argc = 1;
    snprintf(words, sizeof words, "%s", line);
    for (char *w = strtok_r(words, " ", &save); w; w = strtok_r(NULL, " ", &save)) {
        argv[argc++] = w;
    }
    *a = (args){0};
    return mk_opt_parse(&spec, argc, argv, a, r, err);
}

static void test_forms(void **state) {
    (void)state;
    args a;
    mk_opt_result r;
    mk_err err = {0};
    assert_int_equal(parse("", &a, &r, &err), MK_OK);
    assert_null(a.model);
    assert_int_equal(a.n, -1);
    assert_int_equal(a.ctx, 4096);
    assert_true(a.top_p == 1 && a.temp == 0 && a.stats && !a.raw);
    assert_string_equal(a.think, "high");
    assert_false(mk_opt_given(&spec, &r, "ctx"));
    mk_opt_free(&spec, &a, &r);

    assert_int_equal(parse("-m x.gguf hello --top-p 0.25 -n=7 --raw --no-stats --ctx max "
                           "--think=off --stop a --stop=b "
                           "--temp -1.5e-3",
                           &a, &r, &err),
                     MK_OK);
    assert_string_equal(a.model, "x.gguf");
    assert_int_equal(a.n, 7);
    assert_int_equal(a.ctx, -1);
    assert_true(a.top_p == 0.25 && a.temp == -0.0015);
    assert_true(a.raw && !a.stats);
    assert_string_equal(a.think, "off");
    assert_int_equal(a.stop.n, 2);
    assert_string_equal(a.stop.items[1], "b");
    assert_int_equal(r.n_args, 1);
    assert_string_equal(r.args[0], "hello");
    assert_true(mk_opt_given(&spec, &r, "temp"));
    assert_true(mk_opt_given(&spec, &r, "stats"));
    mk_opt_free(&spec, &a, &r);

    assert_int_equal(parse("--raw=off --stats=yes -- --raw", &a, &r, &err), MK_OK);
    assert_false(a.raw);
    assert_true(a.stats);
    assert_string_equal(r.args[0], "--raw");
    mk_opt_free(&spec, &a, &r);
    assert_int_equal(parse("- -n 1 -n 2", &a, &r, &err), MK_OK);
    assert_string_equal(r.args[0], "-");
    assert_int_equal(a.n, 2);
    mk_opt_free(&spec, &a, &r);
}

static void test_messages(void **state) {
    (void)state;
    static const char *const table[][2] = {
        {"--top-p 2", "--top-p: expected a number between 0 and 1, got '2'"},
        {"--top-p=abc", "--top-p: expected a number between 0 and 1, got 'abc'"},
        {"--top-p nan", "--top-p: expected a number between 0 and 1, got 'nan'"},
        {"--temp 0x10", "--temp: expected a number, got '0x10'"},
        {"--temp 1e999", "--temp: expected a number, got '1e999'"},
        {"-n 1.5", "-n: expected a whole number between -1 and 1000000, got '1.5'"},
        {"-n 99999999999999999999",
         "-n: expected a whole number between -1 and 1000000, got '99999999999999999999'"},
        {"--ctx min", "--ctx: expected a whole number between 1 and 10000000 or 'max', got 'min'"},
        {"--ctx=", "--ctx: expected a whole number between 1 and 10000000 or 'max', got ''"},
        {"--think maybe", "--think: expected one of off|low|high, got 'maybe'"},
        {"--think of", "--think: expected one of off|low|high, got 'of'"},
        {"--raw=2", "--raw: expected on or off, got '2'"},
        {"-m", "-m: expected MODEL behind it, got the end of the line"},
        {"-m --raw",
         "-m: expected MODEL behind it, got the option '--raw' (if that is the value: -m=--raw)"},
        {"--temperature 1", "unknown option --temperature; 'minke run --help' lists them"},
        {"--tmep 1", "unknown option --tmep; did you mean --temp?"},
        {"--topp 1", "unknown option --topp; did you mean --top-p?"},
        {"--mod x", "unknown option --mod; did you mean --model?"},
        {"-temp 1", "unknown option -temp; did you mean --temp?"},
        {"--n 1", "unknown option --n; did you mean --predict?"},
        {"--no-think", "unknown option --no-think; 'minke run --help' lists them"},
        {"---", "unknown option ---; 'minke run --help' lists them"},
        {"--=x", "'--=x' is not an option; 'minke run --help' lists them"},
        {"a b", "unexpected argument 'b'; usage: minke run [-m MODEL] [PROMPT]"},
    };
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        args a;
        mk_opt_result r;
        mk_err err = {0};
        assert_int_equal(parse(table[i][0], &a, &r, &err), MK_EUSAGE);
        assert_string_equal(err.msg, table[i][1]);
        mk_opt_free(&spec, &a, &r);
    }
}

static void test_environment(void **state) {
    (void)state;
    args a;
    mk_opt_result r;
    mk_err err = {0};
    setenv("MINKE_TEST_CTX", "77", 1);
    setenv("MINKE_TEST_MODEL", "from-env", 1);
    assert_int_equal(parse("--ctx 5", &a, &r, &err), MK_OK);
    assert_int_equal(a.ctx, 5);
    assert_string_equal(a.model, "from-env");
    assert_true(mk_opt_given(&spec, &r, "model"));
    mk_opt_free(&spec, &a, &r);
    setenv("MINKE_TEST_CTX", "many", 1);
    assert_int_equal(parse("", &a, &r, &err), MK_EUSAGE);
    assert_string_equal(
        err.msg,
        "MINKE_TEST_CTX: expected a whole number between 1 and 10000000 or 'max', got 'many'");
    mk_opt_free(&spec, &a, &r);
    setenv("MINKE_TEST_CTX", "", 1);  // empty counts as unset
    assert_int_equal(parse("", &a, &r, &err), MK_OK);
    assert_int_equal(a.ctx, 4096);
    mk_opt_free(&spec, &a, &r);
    unsetenv("MINKE_TEST_CTX");
    unsetenv("MINKE_TEST_MODEL");
}

static void test_help(void **state) {
    (void)state;
    args a;
    mk_opt_result r;
    mk_err err = {0};
    assert_int_equal(parse("--top-p 2 --help", &a, &r, &err), MK_OK);
    assert_true(r.help);
    mk_opt_free(&spec, &a, &r);
    assert_int_equal(parse("-- --help", &a, &r, &err), MK_OK);
    assert_false(r.help);
    mk_opt_free(&spec, &a, &r);
    mk_buf b;
    mk_buf_init(&b, 1 << 16);
    mk_opt_help(&spec, &b);
    assert_string_equal(
        b.data, "Usage: minke run [-m MODEL] [PROMPT]\n"
                "\n"
                "Generates one answer to PROMPT, or to standard input when it is not a terminal,\n"
                "and prints it.\n"
                "\n"
                "Model:\n"
                "  -m, --model MODEL         file, folder or name of the model (MINKE_TEST_MODEL)\n"
                "  -n, --predict N           stop after N tokens (-1 to 1000000; default -1)\n"
                "      --ctx N               tokens of context (1 to 10000000 or max; default\n"
                "                            4096; MINKE_TEST_CTX)\n"
                "\n"
                "Sampling:\n"
                "      --top-p P             keep the most probable tokens whose probabilities\n"
                "                            sum to P, and drop all of the others before drawing\n"
                "                            (0 to 1; default 1)\n"
                "      --temp VALUE          temperature\n"
                "      --think VALUE         how long to think (off|low|high; default high)\n"
                "      --raw                 no template\n"
                "      --stats               print the speed (default on, --no-stats turns it\n"
                "                            off)\n"
                "      --stop VALUE          stop at this text; may be given several times\n"
                "  -h, --help                print this text\n"
                "\n"
                "Example:\n"
                "  minke run 'Why is the sky blue?'\n");
    mk_buf_free(&b);
}

static void test_numbers(void **state) {
    (void)state;
    int64_t i;
    double d;
    assert_true(mk_parse_i64("-9223372036854775808", &i) && i == INT64_MIN);
    assert_true(mk_parse_i64("+5", &i) && i == 5);
    static const char *const bad_i[] = {
        "", "-", " 1", "1 ", "1.0", "0x1", "9223372036854775808", "--1", "1e3"};
    for (size_t k = 0; k < sizeof bad_i / sizeof bad_i[0]; k++) {
        assert_false(mk_parse_i64(bad_i[k], &i));
    }
    assert_true(mk_parse_f64("-.5e+1", &d) && d == -5);
    assert_true(mk_parse_f64("1e-400", &d) && d == 0);
    static const char *const bad_f[] = {"",      ".",  "e5", "1,5",   "inf", "nan",
                                        "0x1p3", " 1", "1 ", "1e999", "1-1", "--1"};
    for (size_t k = 0; k < sizeof bad_f / sizeof bad_f[0]; k++) {
        assert_false(mk_parse_f64(bad_f[k], &d));
    }
}

static void test_suggest(void **state) {
    (void)state;
    static const char *const verbs[] = {"run",        "chat",    "show",  "tokenize",
                                        "perplexity", "convert", "bench", "logits"};
    static const char *const table[][2] = {
        {"rum", "run"},
        {"caht", "chat"},
        {"perplexty", "perplexity"},
        {"conver", "convert"},
        {"tokenise", "tokenize"},
        {"xyz", NULL},
        {"r", NULL},
        {"", NULL},
        {"benchmark", NULL},
    };
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        const char *got = mk_opt_suggest(table[i][0], verbs, 8);
        assert_string_equal(got ? got : "none", table[i][1] ? table[i][1] : "none");
    }
    char lengthy[5000];
    memset(lengthy, 'a', sizeof lengthy - 1);
    lengthy[sizeof lengthy - 1] = '\0';
    assert_null(mk_opt_suggest(lengthy, verbs, 8));
    args a;
    mk_opt_result r;
    char line[400] = "--";
    memset(line + 2, 'x', 300);
    assert_int_equal(parse(line, &a, &r, NULL), MK_EUSAGE);
    mk_opt_free(&spec, &a, &r);
}

static mk_status parse_lists(void *unused, mk_err *err) {
    (void)unused;
    args a;
    mk_opt_result r;
    mk_status st = parse("--stop a --stop b --stop c", &a, &r, err);
    mk_opt_free(&spec, &a, &r);
    return st;
}

static void test_torture(void **state) {
    (void)state;
    assert_int_equal(mk_torture(parse_lists, NULL), 3);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_forms),       cmocka_unit_test(test_messages),
        cmocka_unit_test(test_environment), cmocka_unit_test(test_help),
        cmocka_unit_test(test_numbers),     cmocka_unit_test(test_suggest),
        cmocka_unit_test(test_torture),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
