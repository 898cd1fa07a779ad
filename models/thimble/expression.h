// Expressions as lists of signs, the rewriting that reduces them, and the written form of one step.
#ifndef THIMBLE_EXPRESSION_H
#define THIMBLE_EXPRESSION_H

#include "puzzles.h"

enum { PZ_MAX_TOKENS = 40 };

typedef struct {
    char kind;  // 'n' = number v, else + - * ( )
    int32_t v;
} pz_tok;

typedef struct {
    int n, n_op;
    pz_tok tok[PZ_MAX_TOKENS];
} pz_expr;

void pz_expr_random(pz_expr *e, pz_rng *r, int n_op);
void pz_expr_print(const pz_expr *e, mk_buf *out, const char *space);
// The operator to work out next: in the first innermost parentheses the first *, else the first
// operator.
int pz_expr_next(const pz_expr *e);
// Puts v in place of operator `at` and its two numbers, and drops parentheses around it.
void pz_expr_apply(pz_expr *e, int at, int32_t v);
int64_t pz_compute(char op, int64_t a, int64_t b);

typedef enum { PZ_NO_SLIP, PZ_SLIP_FACT, PZ_SLIP_RESULT, PZ_SLIP_SIGN } pz_slip;

typedef struct {
    mk_buf *out;
    pz_rng *rng;
    bool brief;  // results without the columns
} pz_pen;

// Writes "a op b ... = result" without the line's end; returns the result it wrote, which differs
// from the true one if there is a slip.
int64_t pz_write_step(const pz_pen *pen, char op, int64_t a, int64_t b, pz_slip slip);
// Writes "check ..." for a op b = r in another way; returns what it found: r is right (as far as
// this can see).
bool pz_write_check(const pz_pen *pen, char op, int64_t a, int64_t b, int64_t r);

#endif
