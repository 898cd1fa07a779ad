// A session: one sequence of the engine with its token ids, the noun that most callers want.
//
// The session remembers which ids its cache holds, so that feeding a longer version of the same
// conversation computes only what is new.  Logits do not depend on whether tokens came from the
// cache or were computed again.  Threads: as the engine.
#ifndef MK_ENGINE_SESSION_H
#define MK_ENGINE_SESSION_H

#include "engine/engine.h"

typedef struct mk_session mk_session;

mk_status mk_session_create(mk_engine *e, mk_session **out,
                            mk_err *err) MK_WARN_UNUSED;  // MK_ELIMIT, MK_ENOMEM
void mk_session_destroy(mk_session *s);

// Makes the session hold exactly ids[0..n), n >= 1, and the logits of the last one.  The longest
// common prefix is kept (at most n - 1, because the last row must be computed for its logits);
// *n_cached tells how long it was (may be NULL).  Errors: MK_ECONTEXT with both numbers and the
// session unchanged; MK_EUSAGE for an id outside the vocabulary.
mk_status mk_session_sync(mk_session *s, const int32_t *ids, int64_t n, int64_t *n_cached,
                          mk_err *err) MK_WARN_UNUSED;
// Adds one token and computes its logits.  Allocates nothing.
mk_status mk_session_push(mk_session *s, int32_t id, mk_err *err) MK_WARN_UNUSED;
// Forgets everything from position n on; logits are then undefined until the next sync or push.
void mk_session_truncate(mk_session *s, int64_t n);

const float *mk_session_logits(
    const mk_session *s);  // n_vocab floats, valid until the engine's next forward
const int32_t *mk_session_ids(const mk_session *s);
int64_t mk_session_length(const mk_session *s);
int64_t mk_session_n_ctx(const mk_session *s);

#endif
