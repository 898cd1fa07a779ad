// What is written down of an answer: its row in the ledger, the reasoning to remember, and the
// response itself if it shall be kept.  And what was written down before is put into a request.
//
// Books are begun for a caller before a request is read, hear every event, and are closed before
// the last byte goes out.  Threads: one at a time (the turn's lock).
#ifndef MK_SERVE_BOOKS_H
#define MK_SERVE_BOOKS_H

#include "serve/heard.h"
#include "serve/service_int.h"
#include "serve/tally.h"

typedef struct {
    mk_service *s;
    caller c;
    bool slot;        // one of the answers at once that the key may have
    uint64_t tenant;  // of the key and the user it names
    const mk_ask *ask;
    mk_heard *heard;  // n
    int n;
    bool started;
    mk_tally total;
    mk_stop_reason stop;
} mk_books;

// Errors: MK_ELIMIT; then *retry_s is when to come again.
mk_status mk_books_begin(mk_books *b, mk_service *s, const caller *c, int64_t *retry_s,
                         mk_err *err) MK_WARN_UNUSED;
void mk_books_free(mk_books *b);
// Before the prompt is made: the conversation an answer continues, and remembered reasoning.
// Errors: MK_EUSAGE (what it continues is not there).
mk_status mk_books_recall(mk_service *s, const caller *c, mk_llm *llm, mk_ask *ask,
                          uint64_t *tenant, mk_err *err) MK_WARN_UNUSED;
void mk_books_expect(mk_books *b, const mk_ask *ask);  // which outlives the books
void mk_books_hear(mk_books *b, int choice, const mk_answer_event *ev);

typedef struct {
    const mk_dialect *dialect;
    const mk_writer_state *writer;
    const mk_reply_info *info;
    bool lost;  // the client has gone
} mk_books_answer;
// After an answer that came to its end.  Errors: it should have been kept and could not be.
mk_status mk_books_keep(mk_books *b, const mk_books_answer *a, mk_err *err) MK_WARN_UNUSED;
// status: of HTTP.  Also ends the key's answer.
void mk_books_close(mk_books *b, const mk_books_answer *a, int status);

// One row for what was not a conversation (embeddings).
void mk_books_note(mk_service *s, const caller *c, const char *model, const char *what,
                   int64_t n_prompt, double ms);

#endif
