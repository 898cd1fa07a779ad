// Exact expressions: values, counts, and texts that want to break the evaluator.  The values of
// random expressions come from another way of computing: a tree that is built, printed and summed.
#include "cmocka_all.h"

#include "base/alloc.h"
#include "base/mathx.h"
#include "train/expr.h"

static void test_values(void **state) {
    (void)state;
    static const struct {
        const char *text;
        int64_t value;
        int n_number, n_op, n_minus;
    } rows[] = {
        {"0", 0, 1, 0, 0},
        {"007", 7, 1, 0, 0},
        {"(37+58)*6-129", 441, 4, 3, 0},
        {"(9-5)*7-4", 24, 4, 3, 0},
        {" ( 1 + 2 )\t*\n3 ", 9, 3, 2, 0},
        {"8/2/2", 2, 3, 2, 0},
        {"8-2-2", 4, 3, 2, 0},
        {"2+3*4-6/3", 12, 5, 4, 0},
        {"-5", -5, 1, 0, 1},
        {"--5", 5, 1, 0, 2},
        {"3--5", 8, 2, 1, 1},
        {"3*-5", -15, 2, 1, 1},
        {"-(2+3)*4", -20, 3, 2, 1},
        {"-9/3", -3, 2, 1, 1},
        {"9223372036854775807", INT64_MAX, 1, 0, 0},
        {"-9223372036854775807-1", INT64_MIN, 2, 1, 1},
        {"6\xC3\x97"
         "7",
         42, 2, 1, 0},
        {"84\xC3\xB7"
         "2",
         42, 2, 1, 0},
        {"44\xE2\x88\x92"
         "2",
         42, 2, 1, 0},
        {"\xE2\x88\x92"
         "2",
         -2, 1, 0, 1},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        mk_expr e;
        mk_err err = {0};
        if (mk_expr_eval(rows[i].text, strlen(rows[i].text), &e, &err) != MK_OK) {
            fail_msg("%s: %s", rows[i].text, err.msg);
        }
        assert_int_equal(e.value, rows[i].value);
        assert_int_equal(e.n_number, rows[i].n_number);
        assert_int_equal(e.n_op, rows[i].n_op);
        assert_int_equal(e.n_minus, rows[i].n_minus);
    }
}

static void test_numbers_in_order(void **state) {
    (void)state;
    mk_expr e;
    assert_int_equal(mk_expr_eval("(9-5)*7-4", 9, &e, NULL), MK_OK);
    const int64_t want[] = {9, 5, 7, 4};
    assert_memory_equal(e.number, want, sizeof want);
}

static void test_errors(void **state) {
    (void)state;
    static const struct {
        const char *text;
        size_t n;
        mk_status status;
        const char *says;
    } rows[] = {
        {"", 0, MK_EUSAGE, "position 1: expected a number, '(' or '-', got the end"},
        {"  ", 2, MK_EUSAGE, "position 3: expected a number"},
        {"1+", 2, MK_EUSAGE, "position 3: expected a number"},
        {"1 2", 3, MK_EUSAGE, "position 3: expected an operator or the end, got '2'"},
        {"(1+2", 4, MK_EUSAGE, "position 1: this parenthesis is never closed"},
        {"(1+2]", 5, MK_EUSAGE, "position 5: expected an operator or ')', got ']'"},
        {"1+2)", 4, MK_EUSAGE, "position 4: expected an operator or the end, got ')'"},
        {"()", 2, MK_EUSAGE, "position 2: expected a number, '(' or '-', got ')'"},
        {"+5", 2, MK_EUSAGE, "position 1: expected a number"},
        {"2^3", 3, MK_EUSAGE, "position 2: expected an operator or the end, got '^'"},
        {"2**3", 4, MK_EUSAGE, "position 3: expected a number, '(' or '-', got '*'"},
        {"1.5", 3, MK_EUSAGE, "position 2: expected an operator or the end, got '.'"},
        {"1e3", 3, MK_EUSAGE, "got 'e'"},
        {"0x10", 4, MK_EUSAGE, "got 'x'"},
        {"7/2", 3, MK_EUSAGE, "position 2: 7/2 is not a whole number"},
        {"7/(2-2)", 7, MK_EUSAGE, "position 2: division of 7 by zero"},
        {"1\0+2", 4, MK_EUSAGE, "position 2: expected an operator or the end, got the byte 0x00"},
        {"\xFF", 1, MK_EUSAGE, "got the byte 0xFF"},
        {"2\xC3", 2, MK_EUSAGE, "got the byte 0xC3"},
        {"9223372036854775808", 19, MK_EUSAGE, "position 1: the value does not fit into 64 bits"},
        {"99999999999999999999999999", 26, MK_EUSAGE, "does not fit"},
        {"9223372036854775807+1", 21, MK_EUSAGE, "position 20: the value does not fit"},
        {"3037000500*3037000500", 21, MK_EUSAGE, "position 11: the value does not fit"},
        {"-(-9223372036854775807-1)", 25, MK_EUSAGE, "position 1: the value does not fit"},
        {"(-9223372036854775807-1)/-1", 27, MK_EUSAGE, "does not fit"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        mk_expr e;
        mk_err err = {0};
        assert_int_equal(mk_expr_eval(rows[i].text, rows[i].n, &e, &err), rows[i].status);
        if (!strstr(err.msg, rows[i].says)) {
            fail_msg("%s: expected '%s', got '%s'", rows[i].text, rows[i].says, err.msg);
        }
    }
}

// n copies of a pattern, then a tail
static char *repeat(const char *pattern, size_t n, const char *tail) {
    size_t k = strlen(pattern);
    char *s = mk_alloc(n * k + strlen(tail) + 1);
    for (size_t i = 0; i < n; i++) {
        memcpy(s + i * k, pattern, k);
    }
    memcpy(s + n * k, tail, strlen(tail) + 1);
    return s;
}

static mk_status eval_repeated(const char *pattern, size_t n, const char *tail) {
    mk_expr e;
    char *s = repeat(pattern, n, tail);
    mk_status st = mk_expr_eval(s, strlen(s), &e, NULL);
    mk_free(s);
    return st;
}

static void test_hostile(void **state) {
    (void)state;
    assert_int_equal(eval_repeated("(", 100000, "1"), MK_ELIMIT);
    assert_int_equal(eval_repeated("-", 100000, "1"), MK_ELIMIT);
    assert_int_equal(eval_repeated("-(", 50000, "1"), MK_ELIMIT);
    assert_int_equal(eval_repeated("1+", 100000, "1"), MK_ELIMIT);
    assert_int_equal(eval_repeated("9", 100000, ""), MK_EUSAGE);
    assert_int_equal(eval_repeated("0", 100000, "5"), MK_OK);
    assert_int_equal(eval_repeated(" ", 100000, "5"), MK_OK);
    assert_int_equal(eval_repeated(")", 100000, ""), MK_EUSAGE);
    assert_int_equal(eval_repeated("-", MK_EXPR_MAX_DEPTH, "1"), MK_OK);
    assert_int_equal(eval_repeated("-", MK_EXPR_MAX_DEPTH + 1, "1"), MK_ELIMIT);
    assert_int_equal(eval_repeated("1+", MK_EXPR_MAX_NUMBERS - 1, "1"), MK_OK);
    assert_int_equal(eval_repeated("1+", MK_EXPR_MAX_NUMBERS, "1"), MK_ELIMIT);
}

typedef struct {
    uint64_t counter;
    char text[2000];
    size_t n;
} writer;

static uint64_t rnd(writer *w, uint64_t n) {
    return (mk_rng_u64(20, w->counter++) >> 20) % n;
}

// Writes a random tree in full parentheses and returns its value.
static int64_t grow(writer *w, int depth) {
    if (depth == 0 || rnd(w, 4) == 0) {
        int64_t v = (int64_t)rnd(w, 50);
        w->n += (size_t)snprintf(w->text + w->n, sizeof w->text - w->n, "%d", (int)v);
        return v;
    }
    bool minus = rnd(w, 6) == 0;
    w->n += (size_t)snprintf(w->text + w->n, sizeof w->text - w->n, minus ? "-(" : "(");
    int64_t a = grow(w, depth - 1);
    char op = "+-*"[rnd(w, 3)];
    w->text[w->n++] = op;
    int64_t b = grow(w, depth - 1);
    w->text[w->n++] = ')';
    int64_t v = op == '+' ? a + b : op == '-' ? a - b : a * b;
    return minus ? -v : v;
}

static void test_random_trees(void **state) {
    (void)state;
    writer w = {0};
    for (int i = 0; i < 5000; i++) {
        mk_expr e;
        w.n = 0;
        int64_t want = grow(&w, 4);
        assert_int_equal(mk_expr_eval(w.text, w.n, &e, NULL), MK_OK);
        assert_int_equal(e.value, want);
        assert_int_equal(e.n_number, e.n_op + 1);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_values),       cmocka_unit_test(test_numbers_in_order),
        cmocka_unit_test(test_errors),       cmocka_unit_test(test_hostile),
        cmocka_unit_test(test_random_trees),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
