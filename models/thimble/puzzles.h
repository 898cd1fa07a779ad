// The puzzles that the built-in reasoning model is trained on, with written-out reasoning.
//
// An item is one question (an arithmetic expression or a Countdown puzzle), the reasoning that
// answers it, and the answer.  README.md states the grammar of the reasoning.  Item i of a seed is
// a function of (seed, i, options) alone.  Every item belongs to the training or to the test side
// by a hash of its canonical text; a training trace that writes down an item of the test side on
// its way is thrown away.
#ifndef THIMBLE_PUZZLES_H
#define THIMBLE_PUZZLES_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "base/buf.h"
#include "base/status.h"

enum { PZ_MAX_OPS = 6, PZ_MAX_NUMBERS = 4, PZ_MAX_VALUE = 9999 };

// One of so many items is on the test side.  Only some 38,000 Countdown puzzles of three numbers up
// to 30 have a solution.
enum { PZ_TEST_OF_EXPRESSIONS = 64, PZ_TEST_OF_COUNTDOWN = 16 };

// Random numbers of one item: counter-based, so that items do not depend on one another.
typedef struct {
    uint64_t seed, counter;
} pz_rng;

pz_rng pz_rng_item(uint64_t seed, uint64_t item);
int pz_below(pz_rng *r, int n);  // 0 ... n-1
bool pz_chance(pz_rng *r, double p);

// What the reasoning of a trace looks like.
typedef enum {
    PZ_PLAIN,      // no slip
    PZ_NOTICED,    // one slip, noticed and mended
    PZ_UNNOTICED,  // one slip that goes into the answer
    PZ_DIRECT      // no reasoning at all
} pz_course;

typedef struct {
    double noticed, unnoticed, direct;  // shares of the courses; the rest is plain
    double brief;                       // share of the short style among those with reasoning
    double check;                       // chance that a right step is checked
    // Countdown: share of traces in another order of the numbers
    double shuffle;
} pz_quality;

typedef struct {
    bool countdown;   // else an expression
    bool other;       // neither: text is the question
    bool impossible;  // set by the caller: a Countdown puzzle that has no solution
    bool want_test;   // set by the caller: which side the item must be on
    int n_op, n_number, target, number[PZ_MAX_NUMBERS];
    int64_t value;  // the true value, or the target
    pz_course course;
    bool brief, right;  // right: the answer is
    mk_buf text;        // the expression alone, or the canonical Countdown item
    mk_buf prompt, think, answer;
} pz_item;

void pz_item_init(pz_item *it);
void pz_item_clear(pz_item *it);
void pz_item_free(pz_item *it);

// Is this canonical text on the test side?  kind: "expression" or "countdown".
bool pz_is_test(const char *kind, const char *text, size_t n);

// One attempt each: false when the draw breaks a bound (values, the wrong side, test items on the
// way, no place for the slip) and must be drawn again.  The caller sets `course`, `brief` and
// `want_test`; `prompts_only` leaves the reasoning out.
bool pz_expression(pz_item *it, pz_rng *r, int n_op, const pz_quality *q, bool prompts_only);
bool pz_countdown(pz_item *it, pz_rng *r, int n_number, const pz_quality *q, bool prompts_only);

// What is no puzzle gets this answer, so that the model says what it can do instead of making
// something up.
#define PZ_OTHER_ANSWER                                                                            \
    "I only know sums like (37+58)*6-129 and puzzles like: Make 24 from 3 5 7 9."
void pz_other(pz_item *it, pz_rng *r);

// Answers to puzzles without a solution: with two or three numbers everything was tried; with four,
// some guesses.
#define PZ_NO_SOLUTION   "There is no solution."
#define PZ_FOUND_NOTHING "I found no solution."

// Another spelling of the question of an item: lower case, x for *, signs as words.
void pz_respell(pz_item *it, pz_rng *r);

// Length in pieces: a run of letters (with a space before it), <think> and </think> are one piece,
// every other byte is one.  Close to what a tokenizer with single digits makes of it.
int pz_pieces(const char *s, size_t n);

// Reads a file that this program wrote and checks every number in it; prints a table.  *clean says
// whether every line is true and leads to the right answer.
mk_status pz_verify(const char *path, FILE *out, bool *clean, mk_err *err) MK_WARN_UNUSED;

#endif
