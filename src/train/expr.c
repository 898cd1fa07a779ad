// A recursive descent over the text that computes as it goes.
//
//     sum     = product { ("+" | "-") product }
//     product = factor { ("*" | "/") factor }
//     factor  = "-" factor | "(" sum ")" | digits
//
// Only `factor` goes down, and it counts; so the stack is bounded whatever the text is.
#include "train/expr.h"

#include <stdbool.h>

typedef struct {
    const char *text;
    size_t n, at;
    int depth;
    mk_expr *out;
    mk_err *err;
} parser;

static const struct {
    const char *utf8;
    size_t n;
    char sign;
} printed[] = {{"\xC3\x97", 2, '*'}, {"\xC3\xB7", 2, '/'}, {"\xE2\x88\x92", 3, '-'}};

static bool starts(const parser *p, const char *s, size_t n) {
    if (n > p->n - p->at) {
        return false;
    }
    for (size_t i = 0; i < n; i++) {
        if (p->text[p->at + i] != s[i]) {
            return false;
        }
    }
    return true;
}

// The next sign after white space, and its length in *n; 0 at the end of the text.
static char peek(parser *p, size_t *n) {
    while (p->at < p->n && (p->text[p->at] == ' ' || p->text[p->at] == '\t' ||
                            p->text[p->at] == '\n' || p->text[p->at] == '\r')) {
        p->at++;
    }
    *n = 0;
    if (p->at >= p->n) {
        return 0;
    }
    for (size_t i = 0; i < sizeof printed / sizeof printed[0]; i++) {
        if (starts(p, printed[i].utf8, printed[i].n)) {
            *n = printed[i].n;
            return printed[i].sign;
        }
    }
    *n = 1;
    return p->text[p->at] ? p->text[p->at] : '\x01';  // a NUL byte is text, not the end
}

static mk_status expected(const parser *p, const char *what) {
    if (p->at >= p->n) {
        return MK_FAIL(p->err, MK_EUSAGE, "position %zu: expected %s, got the end of the text",
                       p->at + 1, what);
    }
    unsigned char c = (unsigned char)p->text[p->at];
    return c >= 0x20 && c < 0x7F
               ? MK_FAIL(p->err, MK_EUSAGE, "position %zu: expected %s, got '%c'", p->at + 1, what,
                         c)
               : MK_FAIL(p->err, MK_EUSAGE, "position %zu: expected %s, got the byte 0x%02X",
                         p->at + 1, what, c);
}

static mk_status too_large(const parser *p, size_t at) {
    return MK_FAIL(p->err, MK_EUSAGE, "position %zu: the value does not fit into 64 bits", at + 1);
}

static mk_status literal(parser *p, int64_t *v) {
    size_t start = p->at;
    *v = 0;
    for (; p->at < p->n && p->text[p->at] >= '0' && p->text[p->at] <= '9'; p->at++) {
        if (__builtin_mul_overflow(*v, 10, v) ||
            __builtin_add_overflow(*v, (int64_t)(p->text[p->at] - '0'), v)) {
            return too_large(p, start);
        }
    }
    if (p->out->n_number == MK_EXPR_MAX_NUMBERS) {
        return MK_FAIL(p->err, MK_ELIMIT, "position %zu: more than %d numbers", start + 1,
                       MK_EXPR_MAX_NUMBERS);
    }
    p->out->number[p->out->n_number++] = *v;
    return MK_OK;
}

static mk_status sum(parser *p, int64_t *v);

static mk_status group(parser *p, int64_t *v) {
    size_t open = p->at, n;
    p->at++;
    MK_TRY(sum(p, v));
    if (peek(p, &n) != ')') {
        return p->at < p->n ? expected(p, "an operator or ')'")
                            : MK_FAIL(p->err, MK_EUSAGE,
                                      "position %zu: this parenthesis is never closed", open + 1);
    }
    p->at++;
    return MK_OK;
}

static mk_status factor(parser *p, int64_t *v) {
    size_t n;
    char c = peek(p, &n);
    if (c >= '0' && c <= '9') {
        return literal(p, v);
    }
    if (c != '(' && c != '-') {
        return expected(p, "a number, '(' or '-'");
    }
    size_t at = p->at;
    if (p->depth >= MK_EXPR_MAX_DEPTH) {
        return MK_FAIL(p->err, MK_ELIMIT,
                       "position %zu: more than %d parentheses and signs inside one another",
                       at + 1, MK_EXPR_MAX_DEPTH);
    }
    p->depth++;
    mk_status st;
    if (c == '(') {
        st = group(p, v);
    } else {
        p->at += n;
        p->out->n_minus++;
        st = factor(p, v);
        if (st == MK_OK && __builtin_sub_overflow((int64_t)0, *v, v)) {
            st = too_large(p, at);
        }
    }
    p->depth--;
    return st;
}

static mk_status divide(const parser *p, size_t at, int64_t a, int64_t b, int64_t *v) {
    if (b == 0) {
        return MK_FAIL(p->err, MK_EUSAGE, "position %zu: division of %lld by zero", at + 1,
                       (long long)a);
    }
    if (a == INT64_MIN && b == -1) {
        return too_large(p, at);
    }
    if (a % b != 0) {
        return MK_FAIL(p->err, MK_EUSAGE, "position %zu: %lld/%lld is not a whole number", at + 1,
                       (long long)a, (long long)b);
    }
    *v = a / b;
    return MK_OK;
}

static mk_status product(parser *p, int64_t *v) {
    MK_TRY(factor(p, v));
    for (;;) {
        size_t n;
        char c = peek(p, &n);
        if (c != '*' && c != '/') {
            return MK_OK;
        }
        size_t at = p->at;
        p->at += n;
        p->out->n_op++;
        int64_t right;
        MK_TRY(factor(p, &right));
        if (c == '/') {
            MK_TRY(divide(p, at, *v, right, v));
        } else if (__builtin_mul_overflow(*v, right, v)) {
            return too_large(p, at);
        }
    }
}

static mk_status sum(parser *p, int64_t *v) {
    MK_TRY(product(p, v));
    for (;;) {
        size_t n;
        char c = peek(p, &n);
        if (c != '+' && c != '-') {
            return MK_OK;
        }
        size_t at = p->at;
        p->at += n;
        p->out->n_op++;
        int64_t right;
        MK_TRY(product(p, &right));
        if (c == '+' ? __builtin_add_overflow(*v, right, v)
                     : __builtin_sub_overflow(*v, right, v)) {
            return too_large(p, at);
        }
    }
}

mk_status mk_expr_eval(const char *text, size_t n, mk_expr *out, mk_err *err) {
    parser p = {.text = text, .n = n, .out = out, .err = err};
    size_t len;
    out->n_number = out->n_op = out->n_minus = 0;
    MK_TRY(sum(&p, &out->value));
    return peek(&p, &len) ? expected(&p, "an operator or the end") : MK_OK;
}
