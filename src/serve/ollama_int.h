// What the files of the Ollama dialects share.
#ifndef MK_SERVE_OLLAMA_INT_H
#define MK_SERVE_OLLAMA_INT_H

#include "serve/dialect.h"
#include "serve/fields.h"

mk_status mk_ollama_parse_chat(const json_t *body, mk_ask *ask, mk_err *err);
mk_status mk_ollama_parse_generate(const json_t *body, mk_ask *ask, mk_err *err);

// Messages of /api/chat, appended to ask->messages.
mk_status mk_ollama_messages(const mk_at *at, const json_t *v, mk_ask *ask,
                             mk_err *err) MK_WARN_UNUSED;
mk_status mk_ollama_tools(const mk_at *at, const json_t *v, mk_ask *ask,
                          mk_err *err) MK_WARN_UNUSED;

// "10m", "1h30m", 300, -1: seconds; negative is for ever.
mk_status mk_ollama_duration(const mk_at *at, const json_t *v, double *seconds,
                             mk_err *err) MK_WARN_UNUSED;

// The `context` that /api/generate gives and takes back: the conversation itself, as numbers.
//
// Ollama's are the tokens of prompt and answer.  Ours are the messages as JSON, four bytes in each
// number, so that what comes back is checked like any other message and no client can smuggle in
// control tokens: [magic, bytes, numbers...], lowest byte first.
void mk_ollama_context_add(mk_buf *out, const json_t *messages, const char *answer, size_t n);
// messages: a new array.  Errors: MK_EUSAGE.
mk_status mk_ollama_context_read(const mk_at *at, const json_t *v, json_t **messages,
                                 mk_err *err) MK_WARN_UNUSED;

// RFC 3339 in UTC; seconds since 1970.
void mk_ollama_time(mk_buf *out, int64_t seconds);

mk_writer_state *mk_ollama_open_chat(const mk_reply_info *info);
mk_writer_state *mk_ollama_open_generate(const mk_reply_info *info);
void mk_ollama_event(mk_writer_state *w, int choice, const mk_answer_event *ev, mk_buf *out);
void mk_ollama_finish(mk_writer_state *w, mk_buf *out);
void mk_ollama_heartbeat(mk_writer_state *w, mk_buf *out);
void mk_ollama_close(mk_writer_state *w);
void mk_ollama_error(int http_status, const mk_err *err, mk_buf *out);

#endif
