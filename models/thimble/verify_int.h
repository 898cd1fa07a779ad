// What the two halves of the verifier share: pieces of text, and the puzzle of a line.
#ifndef THIMBLE_VERIFY_INT_H
#define THIMBLE_VERIFY_INT_H

#include <stddef.h>

#include "puzzles.h"

typedef struct {
    const char *s;
    size_t n;
} span;

bool pz_eval(const char *s, size_t n, int64_t *v);
bool pz_ends_with(const char *s, size_t n, const char *end);
// The text up to one of the signs in `stop`; *s moves behind it (on the sign).
span pz_take(span *s, const char *stop);
bool pz_skip(span *s, char c);
bool pz_cut_end(span *s, const char *end);  // drops `end` if the text ends in it

typedef struct {
    int n, number[PZ_MAX_NUMBERS], target;
} pz_puzzle;

bool pz_read_item(const char *item, pz_puzzle *p);  // "24 3 5 7"
// Are these numbers those of the puzzle, each once?
bool pz_uses_numbers(const pz_puzzle *p, const int64_t *number, int n);
// Is every line true?  *wait counts the slips that are noticed; *lie is the first untrue line.
bool pz_countdown_trace_true(const pz_puzzle *p, span think, int *wait, span *lie);

#endif
