// Private to data_turns.c and data_rejoin.c: an assistant message as text.
#ifndef MK_TRAIN_DATA_TURNS_H
#define MK_TRAIN_DATA_TURNS_H

#include "train/data_int.h"

typedef struct {
    size_t message;      // its number
    mk_jinja_text text;  // owned: the conversation up to the end of this message
    size_t start;        // where generating starts
    size_t end;          // behind the first token that ends an answer; 0: there is none
    size_t sample;       // number of the turn whose text it is learned in
} mk_turn;

// Renders the first n messages; the last of them is replaced by `last` unless that is NULL.
mk_status mk_turn_render(const mk_talk *t, size_t n, json_t *last, bool prompt, mk_jinja_text *out,
                         mk_err *err) MK_WARN_UNUSED;
// Number of bytes with which both texts begin.
size_t mk_turn_common(const mk_jinja_text *a, const mk_jinja_text *b);
// Reasoning of a message, white space at its ends left out: its own field, or what stands before
// </think> in the content.  n = 0: none.  Borrowed.
const char *mk_turn_reasoning(const json_t *message, size_t *n);
// The template writes x->text otherwise than as a continuation of the prompt: makes it one.
mk_status mk_turn_rejoin(const mk_talk *t, const mk_jinja_text *prompt, mk_turn *x,
                         mk_err *err) MK_WARN_UNUSED;

// Tags of a thought at the start of the answer become template text, wherever they came from.
mk_status mk_turn_mark_thought(mk_turn *x, mk_err *err) MK_WARN_UNUSED;

#endif
