// Tests: x is name(arguments).  Each gives a bool.
#include <string.h>

#include "chat/jinja_int.h"

#define TEST(name)                                                                                 \
    static bool name(jctx *c, const jval *s, const jval *a, const jargs *args, jval *out)
#define IGNORE ((void)c, (void)s, (void)a, (void)args)

static bool yes(jval *out, bool b) {
    *out = mk_j_bool(b);
    return true;
}

TEST(t_defined) {
    IGNORE;
    return yes(out, s->kind != JV_UNDEF);
}

TEST(t_undefined) {
    IGNORE;
    return yes(out, s->kind == JV_UNDEF);
}

TEST(t_none) {
    IGNORE;
    return yes(out, s->kind == JV_NONE);
}

TEST(t_boolean) {
    IGNORE;
    return yes(out, s->kind == JV_BOOL);
}

TEST(t_true) {
    IGNORE;
    return yes(out, s->kind == JV_BOOL && s->u.b);
}

TEST(t_false) {
    IGNORE;
    return yes(out, s->kind == JV_BOOL && !s->u.b);
}

TEST(t_integer) {
    IGNORE;
    return yes(out, s->kind == JV_INT);
}

TEST(t_float) {
    IGNORE;
    return yes(out, s->kind == JV_FLOAT);
}

TEST(t_number) {
    IGNORE;
    return yes(out, s->kind == JV_INT || s->kind == JV_FLOAT || s->kind == JV_BOOL);
}

TEST(t_string) {
    IGNORE;
    return yes(out, s->kind == JV_STR);
}

TEST(t_mapping) {
    IGNORE;
    return yes(out, s->kind == JV_DICT);
}

// Python's "has a length and can be indexed".
TEST(t_sequence) {
    IGNORE;
    return yes(out, s->kind == JV_UNDEF || s->kind == JV_STR || s->kind == JV_LIST ||
                        s->kind == JV_TUPLE || s->kind == JV_DICT || s->kind == JV_RANGE);
}

TEST(t_iterable) {
    IGNORE;
    return yes(out, mk_j_iterable(s));
}

TEST(t_callable) {
    IGNORE;
    return yes(out, s->kind == JV_MACRO || s->kind == JV_FUNC || s->kind == JV_METHOD ||
                        s->kind == JV_LOOP || s->kind == JV_UNDEF);
}

TEST(t_escaped) {
    IGNORE;
    return yes(out, s->kind == JV_STR && s->sub);
}

// Objects with an identity compare by it; small constants are single in Python, too.
TEST(t_sameas) {
    (void)args;
    bool same = s->kind == a[0].kind;
    if (same &&
        (s->kind == JV_STR || s->kind == JV_INT || s->kind == JV_FLOAT || s->kind == JV_BOOL)) {
        return mk_j_equal(c, s, &a[0], 0, &same) && yes(out, same);
    }
    return yes(out, same && (s->kind <= JV_NONE || s->u.list == a[0].u.list));
}

static bool remainder_of(jctx *c, const jval *s, int64_t by, jval *out) {
    jval d = mk_j_int(by);
    return mk_j_binary(c, JT_MOD, s, &d, out);
}

TEST(t_odd) {
    (void)a, (void)args;
    jval r, one = mk_j_int(1);
    return remainder_of(c, s, 2, &r) && mk_j_binary(c, JT_EQ, &r, &one, out);
}

TEST(t_even) {
    (void)a, (void)args;
    jval r, zero = mk_j_int(0);
    return remainder_of(c, s, 2, &r) && mk_j_binary(c, JT_EQ, &r, &zero, out);
}

TEST(t_divisibleby) {
    (void)args;
    jval r, zero = mk_j_int(0);
    return mk_j_binary(c, JT_MOD, s, &a[0], &r) && mk_j_binary(c, JT_EQ, &r, &zero, out);
}

static bool is_case(jctx *c, const jval *s, const char *method, jval *out) {
    jval str;
    jargs none = {0};
    return mk_j_to_str(c, s, &str) &&
           mk_j_apply(c, mk_j_find_method(JV_STR, (jtext){method, (uint32_t)strlen(method)}),
                      "test", &str, &none, out);
}

TEST(t_lower) {
    (void)a, (void)args;
    return is_case(c, s, "islower", out);
}

TEST(t_upper) {
    (void)a, (void)args;
    return is_case(c, s, "isupper", out);
}

TEST(t_in) {
    (void)args;
    return mk_j_binary(c, JT_IN, s, &a[0], out);
}

TEST(t_eq) {
    (void)args;
    return mk_j_binary(c, JT_EQ, s, &a[0], out);
}

TEST(t_ne) {
    (void)args;
    return mk_j_binary(c, JT_NE, s, &a[0], out);
}

TEST(t_lt) {
    (void)args;
    return mk_j_binary(c, JT_LT, s, &a[0], out);
}

TEST(t_le) {
    (void)args;
    return mk_j_binary(c, JT_LE, s, &a[0], out);
}

TEST(t_gt) {
    (void)args;
    return mk_j_binary(c, JT_GT, s, &a[0], out);
}

TEST(t_ge) {
    (void)args;
    return mk_j_binary(c, JT_GE, s, &a[0], out);
}

TEST(t_filter) {
    IGNORE;
    return yes(out, s->kind == JV_STR && mk_j_find_filter((jtext){s->u.p, s->n}) != NULL);
}

TEST(t_test) {
    IGNORE;
    return yes(out, s->kind == JV_STR && mk_j_find_test((jtext){s->u.p, s->n}) != NULL);
}

static const jop rows[] = {
    {"defined", t_defined, "", 0},
    {"undefined", t_undefined, "", 0},
    {"none", t_none, "", 0},
    {"boolean", t_boolean, "", 0},
    {"true", t_true, "", 0},
    {"false", t_false, "", 0},
    {"integer", t_integer, "", 0},
    {"float", t_float, "", 0},
    {"number", t_number, "", 0},
    {"string", t_string, "", 0},
    {"mapping", t_mapping, "", 0},
    {"sequence", t_sequence, "", 0},
    {"iterable", t_iterable, "", 0},
    {"callable", t_callable, "", 0},
    {"escaped", t_escaped, "", 0},
    {"sameas", t_sameas, "other", 1},
    {"odd", t_odd, "", 0},
    {"even", t_even, "", 0},
    {"divisibleby", t_divisibleby, "num", 1},
    {"lower", t_lower, "", 0},
    {"upper", t_upper, "", 0},
    {"in", t_in, "seq", 1},
    {"filter", t_filter, "", 0},
    {"test", t_test, "", 0},
    {"eq", t_eq, "other", 1},
    {"equalto", t_eq, "other", 1},
    {"==", t_eq, "other", 1},
    {"ne", t_ne, "other", 1},
    {"!=", t_ne, "other", 1},
    {"lt", t_lt, "other", 1},
    {"lessthan", t_lt, "other", 1},
    {"<", t_lt, "other", 1},
    {"le", t_le, "other", 1},
    {"<=", t_le, "other", 1},
    {"gt", t_gt, "other", 1},
    {"greaterthan", t_gt, "other", 1},
    {">", t_gt, "other", 1},
    {"ge", t_ge, "other", 1},
    {">=", t_ge, "other", 1},
};

const jop *mk_j_find_test(jtext name) {
    return mk_j_op_find((jop_table){rows, sizeof rows / sizeof rows[0]}, name);
}
