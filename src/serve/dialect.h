// A dialect: how requests of one API are read and how answers are written in it.
//
// A dialect knows nothing of HTTP connections, models or threads: JSON in, an mk_ask out; events in
// (chat/event.h), bytes out.  So it is tested with data files: a request, events, and the bytes
// that a client must see (tests/serve/wire/).
//
// A writer is made per answer.  While streaming, every event appends the bytes to be sent at once
// to `out`; otherwise nothing is appended before DONE or ERROR, and then the whole body.  All
// non-determinism (ids, time) comes in through mk_reply_info, so that the same events give the same
// bytes.
#ifndef MK_SERVE_DIALECT_H
#define MK_SERVE_DIALECT_H

#include "base/buf.h"
#include "chat/event.h"
#include "serve/ask.h"

// How errors begin for which dialects have codes of their own.
#define MK_NO_MODEL "there is no model"
#define MK_NOT_KEPT "/previous_response_id: no answer"

// Everything pointed to outlives the writer.
typedef struct {
    const char *id;     // of the answer, without a dialect's prefix: 24 letters and digits
    int64_t created;    // seconds since 1970
    const char *model;  // the name of what really answers
    const char *fingerprint;
    const char *reasoning_field;  // "reasoning_content" (default), "reasoning", "both"
    const mk_ask *ask;
    // Appends the bytes of one token as they appear in text, for log-probabilities and echoed
    // prompts; NULL: tokens are written as their ids.
    void (*token_text)(void *arg, int32_t id, mk_buf *out);
    void *token_arg;
} mk_reply_info;

typedef struct mk_writer_state mk_writer_state;  // each dialect's own

typedef struct mk_dialect {
    const char *name;          // "openai-chat"
    const char *content_type;  // of a stream: "text/event-stream", "application/x-ndjson"
    // Errors: MK_EUSAGE, MK_EUNSUPPORTED; the text begins with the JSON pointer of the field, then
    // what was expected and found: "/temperature: expected a number from 0 to 2, got \"hot\"".
    mk_status (*parse)(const json_t *body, mk_ask *ask, mk_err *err);
    mk_writer_state *(*open)(const mk_reply_info *info);
    // choice: which of the mk_ask_choices the event belongs to
    void (*event)(mk_writer_state *w, int choice, const mk_answer_event *ev, mk_buf *out);
    // After the DONE of every choice: usage chunk, [DONE], or the whole body.
    void (*finish)(mk_writer_state *w, mk_buf *out);
    // Before finish: appends the answer as it will be shown to whoever asks for it by its id; NULL:
    // answers are not kept.  Its id then is kept_prefix and mk_reply_info.id.
    void (*kept)(const mk_writer_state *w, mk_buf *out);
    const char *kept_prefix;
    // What keeps a silent stream alive: a comment or a ping; nothing before START where the dialect
    // wants headers first.
    void (*heartbeat)(mk_writer_state *w, mk_buf *out);
    void (*close)(mk_writer_state *w);
    // Body of an answer with an HTTP error status (no stream has begun).
    void (*error)(int http_status, const mk_err *err, mk_buf *out);
} mk_dialect;

extern const mk_dialect mk_dialect_openai_chat;         // POST /v1/chat/completions
extern const mk_dialect mk_dialect_openai_completions;  // POST /v1/completions
extern const mk_dialect mk_dialect_openai_responses;    // POST /v1/responses
extern const mk_dialect mk_dialect_anthropic;           // POST /v1/messages
extern const mk_dialect mk_dialect_ollama_chat;         // POST /api/chat
extern const mk_dialect mk_dialect_ollama_generate;     // POST /api/generate

// The HTTP status for an error of a request: 400, 404, 429, 500, 503.  MK_ECORRUPT is a body that
// is not JSON.
int mk_error_http_status(mk_status st);

#endif
