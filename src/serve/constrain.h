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

// *out: a reference (mk_grammar_unref), or NULL if any text will do.  Errors: as the compilers of
// chat/grammar.h; MK_EUNSUPPORTED for demands that exclude one another.
mk_status mk_constraints_get(mk_constraints *c, const mk_ask *ask, mk_grammar **out,
                             mk_err *err) MK_WARN_UNUSED;

#endif
