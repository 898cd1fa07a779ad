// What OpenAI's three dialects share: fields of requests, and pieces of answers.
#ifndef MK_SERVE_OPENAI_INT_H
#define MK_SERVE_OPENAI_INT_H

#include "serve/ask_read.h"
#include "serve/dialect.h"
#include "serve/tally.h"

// Rows of sampling, reasoning and of what other servers added to OpenAI's requests.
extern const mk_field_table mk_openai_fields;

// --- pieces of answers ---------------------------------------------------------------------------

// {"prompt_tokens": ...}
void mk_openai_add_usage(mk_buf *b, const mk_usage *u);
// {"cache_n": ...}, as llama.cpp has it
void mk_openai_add_timings(mk_buf *b, const mk_usage *u);

// Tokens with their log-probabilities that wait for the text they belong to.
typedef struct {
    mk_buf items;  // of a JSON array, each followed by a comma
    struct mk_openai_token {
        size_t begin;   // in items
        size_t n_text;  // bytes of the token
    } * tok;            // [n]
    size_t n, cap;
    mk_ae_kind last;  // the kind of the text before
} mk_openai_tokens;
void mk_openai_tokens_init(mk_openai_tokens *t);
void mk_openai_tokens_free(mk_openai_tokens *t);
void mk_openai_tokens_add(mk_openai_tokens *t, const mk_reply_info *info,
                          const mk_answer_event *ev);
// Appends the items that belong to a text of this kind, each followed by a comma, and forgets all.
// Between two kinds of text there are tokens of neither, the tags: they come first and are dropped.
void mk_openai_tokens_take(mk_openai_tokens *t, mk_ae_kind kind, size_t n_text, mk_buf *out);

void mk_openai_token_text(const mk_reply_info *info, int32_t id, mk_buf *out);
// Appends one token as {"token", "logprob", "bytes", "top_logprobs"}.
void mk_openai_add_logprob(mk_buf *b, const mk_reply_info *info, const mk_answer_event *ev);
double mk_openai_logprob(double logprob);  // -9999 for what has no number

// What the writers of chat and of text completions are built around: their frame is the same, and
// only a choice is written by each in its own way.
typedef struct {
    mk_reply_info info;
    const char *id_prefix;  // "chatcmpl-"
    const char *object, *chunk_object;
    // Appends choice i of a whole body.
    void (*add_choice)(mk_writer_state *w, int i, mk_buf *out);
    bool failed;  // an error has been written: nothing may follow
    mk_tally total;
} mk_openai_frame;
// {"id": ... "choices":[ of a body or, of a stream, of a chunk
void mk_openai_add_head(const mk_openai_frame *f, mk_buf *out);
void mk_openai_fail(mk_openai_frame *f, const mk_err *error, mk_buf *out);
// The whole body; or of a stream the chunk of usage, if it was asked for, and [DONE].
void mk_openai_finish(mk_openai_frame *f, mk_writer_state *w, mk_buf *out);
void mk_openai_frame_heartbeat(const mk_openai_frame *f, mk_buf *out);

// The body of an error, and one in a stream: {"error": {...}}.
void mk_openai_error(int http_status, const mk_err *err, mk_buf *out);
const char *mk_openai_error_code(int http_status, const mk_err *err);  // NULL: none
void mk_openai_heartbeat(mk_buf *out);

#endif
