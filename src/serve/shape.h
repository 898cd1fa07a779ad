// Building blocks of OpenAI's chat shape, into which the other dialects are brought (serve/ask.h).
//
// A turn is what one message of a dialect contains, collected part by part; adding it to the
// messages writes it as one message or several: results of tools stand before the user's text.
#ifndef MK_SERVE_SHAPE_H
#define MK_SERVE_SHAPE_H

#include "base/buf.h"
#include "serve/ask.h"

typedef struct {
    const char *role;  // "user", "assistant", "system"
    bool has_text;
    bool failed;  // something did not fit into memory
    mk_buf text, reasoning;
    json_t *calls;    // of an assistant; NULL
    json_t *results;  // messages of role tool; NULL
} mk_turn;

void mk_turn_init(mk_turn *t, const char *role);
void mk_turn_free(mk_turn *t);
// One more part of the text, after `between` if it is not the first.
void mk_turn_text(mk_turn *t, const char *between, const char *p, size_t n);
// One more call; its arguments are a value (exact, in one line) or a text.  NULL: {}.
void mk_turn_call(mk_turn *t, const char *id, const char *name, const json_t *args);
void mk_turn_result(mk_turn *t, const char *id, const char *name, const char *text, size_t n);

// Appends it.  With `merge` neighbouring turns of the same role become one message; then
// mk_shape_join must be called after the last turn.  False: not all of it fits into memory.
bool mk_turn_add(const mk_turn *t, bool merge, json_t *messages) MK_WARN_UNUSED;
// Puts the texts of merged turns together.  False: they do not fit into memory.
bool mk_shape_join(json_t *messages) MK_WARN_UNUSED;

// After all messages: an assistant's text at the end is the beginning of the answer; an end of his
// without text or calls is dropped.
void mk_shape_end(mk_ask *ask);

// Notes a name that is not understood, once.
void mk_shape_unknown(mk_ask *ask, const char *name);

#endif
