// Kept answers of the Responses API: "store": true, GET and DELETE by id, previous_response_id.
//
// A row holds the response as it was sent and the messages of the conversation up to and including
// it, without the instructions, which hold for one request only.  It belongs to the key that asked
// (owner); for everybody else it is not there.  Rows are written before `response.completed` goes
// out.  They go after 30 days, or the oldest first when all together exceed MK_KEPT_BYTES.
#ifndef MK_SERVE_KEPT_H
#define MK_SERVE_KEPT_H

#include "base/buf.h"
#include "serve/ask.h"
#include "serve/store.h"

#define MK_KEPT_BYTES   ((int64_t)1 << 30)
#define MK_KEPT_SECONDS ((int64_t)30 * 86400)

typedef struct {
    const char *id;     // "resp_..."
    const char *owner;  // id of the key; "" without keys
    int64_t created;
    const char *response;    // JSON, NUL-terminated
    const json_t *messages;  // array
} mk_kept_row;

// max_bytes: of all rows together.  Errors: MK_ELIMIT (this one alone is larger), those of the
// store.
mk_status mk_kept_put(mk_store *s, const mk_kept_row *r, int64_t max_bytes,
                      mk_err *err) MK_WARN_UNUSED;
// Errors: MK_ENOTFOUND.
mk_status mk_kept_get(mk_store *s, const char *owner, const char *id, mk_buf *response,
                      mk_err *err) MK_WARN_UNUSED;
// The conversation up to and including the answer, an array (json_decref).  Errors: MK_ENOTFOUND.
mk_status mk_kept_messages(mk_store *s, const char *owner, const char *id, json_t **out,
                           mk_err *err) MK_WARN_UNUSED;
mk_status mk_kept_delete(mk_store *s, const char *owner, const char *id,
                         mk_err *err) MK_WARN_UNUSED;
// Puts the conversation behind ask->previous in front of what this request says; nothing if it
// names none.  Then ask->input is the whole conversation, to be kept in its turn.  Errors:
// MK_EUSAGE (it is not there).
mk_status mk_kept_continue(mk_store *s, const char *owner, mk_ask *ask, mk_err *err) MK_WARN_UNUSED;

#endif
