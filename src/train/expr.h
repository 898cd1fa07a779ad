// Exact values of integer expressions: what a program may believe about an answer of a model.
//
// Grammar: sums and differences of products and quotients of numbers, parentheses and unary minus;
// white space anywhere between; the signs of print (U+00D7, U+00F7, U+2212) count as * / and -.
// Numbers are decimal digits alone: no point, no exponent, no letters.  All values are int64; a
// value that does not fit, a division that leaves a rest, a division by zero and more than
// MK_EXPR_MAX_DEPTH open parentheses or signs are errors.  The text may hold any bytes, NUL too;
// time is linear in its length.
//
//     mk_expr e;
//     MK_TRY(mk_expr_eval("(9-5)*7-4", 9, &e, err));   // e.value == 24, e.number = {9, 5, 7, 4}
#ifndef MK_TRAIN_EXPR_H
#define MK_TRAIN_EXPR_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

#define MK_EXPR_MAX_DEPTH   64
#define MK_EXPR_MAX_NUMBERS 64

typedef struct {
    int64_t value;
    int n_number, n_op, n_minus;          // literals, binary operators, unary signs
    int64_t number[MK_EXPR_MAX_NUMBERS];  // the literals in the order of the text
} mk_expr;

// Evaluates the whole text.  Errors name the position (bytes, from 1): MK_EUSAGE (not an
// expression, or one without a value in int64), MK_ELIMIT (too deep, too many numbers).
mk_status mk_expr_eval(const char *text, size_t n, mk_expr *out, mk_err *err) MK_WARN_UNUSED;

#endif
