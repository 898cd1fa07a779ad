// The ledger: one row for every request that a model answered, never what was said.
//
// A row is written before the last byte of its answer goes out: what a client has seen to its end
// is in the ledger, also when the process is killed the next moment.
#ifndef MK_SERVE_LEDGER_H
#define MK_SERVE_LEDGER_H

#include "chat/event.h"
#include "serve/store.h"

typedef struct {
    int64_t time;  // when the answer ended, seconds since 1970
    const char *key, *model, *dialect;
    mk_usage usage;
    int status;        // of HTTP; 499: the client went away
    const char *stop;  // why the answer ended: "end", "length", "tools" ...; "error"
} mk_ledger_row;

mk_status mk_ledger_add(mk_store *s, const mk_ledger_row *r, mk_err *err) MK_WARN_UNUSED;
const char *mk_stop_reason_name(mk_stop_reason r);

// What was used in one hour (hours since 1970, UTC) by one key of one model.
typedef struct {
    int64_t hour;
    const char *key, *model;  // valid until the callback returns
    int64_t n_request, n_failed;
    int64_t n_prompt, n_cached, n_output, n_reasoning;  // tokens
    double queue_s, prompt_s, generation_s;
} mk_ledger_sum;

typedef struct {
    int64_t since, until;     // seconds since 1970; until 0: now and later
    const char *key, *model;  // NULL: any
} mk_ledger_filter;

// Calls fn for every hour, key and model with rows, in this order.
mk_status mk_ledger_read(mk_store *s, const mk_ledger_filter *f,
                         void (*fn)(void *arg, const mk_ledger_sum *sum), void *arg,
                         mk_err *err) MK_WARN_UNUSED;

#endif
