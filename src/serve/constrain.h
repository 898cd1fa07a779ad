// What a request demands of the form of its answer, compiled; compiled ones are kept for a while.
//
// Compiling happens before a request is accepted, so that what cannot be enforced is an error and
// never a promise.  Threads: any.
#ifndef MK_SERVE_CONSTRAIN_H
#define MK_SERVE_CONSTRAIN_H

#include "chat/grammar.h"
#include "serve/ask.h"

typedef struct mk_constraints mk_constraints;

mk_constraints *mk_constraints_create(void);
void mk_constraints_destroy(mk_constraints *c);

// For an answer of this model.  *out: a reference (mk_grammar_unref), or NULL if any text will do.
// Tools: a call that must come (tool_choice) and calls to strict tools are constrained by the
// schema of their arguments; a form of the answer holds for text, and calls may stand instead of
// it.  Errors: as the compilers of chat/grammar.h; MK_EUNSUPPORTED for what the model's way of
// writing calls does not allow to enforce.
mk_status mk_constraints_get(mk_constraints *c, const mk_llm *llm, const mk_ask *ask,
                             mk_grammar **out, mk_err *err) MK_WARN_UNUSED;

#endif
