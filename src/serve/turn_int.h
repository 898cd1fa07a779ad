// A turn: one request that is answered by a model, from its body to the last byte of the answer.
//
//   worker     body -> ask; the model is asked for
//   worker     it is there, at once or later -> prompt -> speeches begin; a stream's headers go out
//   provider   events -> the dialect's writer -> bytes; after the last DONE the turn ends.  Of many
//              choices so many are at work at once, the next begins when one has ended: whoever
//              comes meanwhile waits for those at work, not for all
//   server     the client has gone: the speeches are cancelled, their DONE ends the turn; or the wait
//              for the model is, which ends it as well
//   clock      a silent stream gets a heartbeat, and its headers if it waits for its model so long
//
// A turn lives until its wait for the model has ended, and every speech that began has had its DONE
// or ERROR, each exactly once, whatever else happens; so nobody else needs to count it.
//
// answering.c   how it begins
// turn.c        its life: list, events, hang-ups, heartbeats, end
// turn_send.c   what goes out of it
#ifndef MK_SERVE_TURN_INT_H
#define MK_SERVE_TURN_INT_H

#include "serve/books.h"

enum { MK_TURN_ID_CHARS = 24, MK_TURN_AT_ONCE = 16 };

typedef struct beginning beginning;  // answering.c: what choices begin with

struct turn {
    turn *next, **at;  // the service's list, guarded by its lock
    mk_service *s;
    mk_http_exchange *x;
    const mk_dialect *dialect;
    served_model *model;
    mk_ask ask;
    char id[MK_TURN_ID_CHARS + 1];  // not to be guessed: kept answers are found by it
    mk_reply_info info;
    pthread_mutex_t lock;
    mk_writer_state *writer;
    mk_buf out;
    beginning *with;  // until the turn is freed
    int n_begun;      // choices that have begun: the first ones
    int n_left;       // of those the ones that have not ended, and one for who begins them
    bool streaming;   // headers are out
    bool lost;        // the client has gone or does not read
    bool given_up;    // its speeches have been cancelled, because of that, `starved` or `broken`
    bool starved;     // there was no memory for its bytes: t->error, and nothing more is written
    bool broken;      // a choice could not begin: t->error
    bool begun;       // the first choices have
    bool waits;       // for its model
    bool leased;      // the model stays until it is returned
    mk_lease lease;
    mk_err error;  // of the first choice that failed
    int status;    // of HTTP for it; 0: what its code says
    uint64_t asked_ns;
    double wait_ms;    // for the model; part of the time before the prompt was read
    uint64_t last_ns;  // when something was last sent
    struct turn_choice {
        turn *t;
        int index;
        mk_speech *speech;  // while it is at work
    } choice[MK_ASK_MAX_CHOICE];
    mk_books books;
};

// --- answering.c ---------------------------------------------------------------------------------
// The lock is held.  Begins the next n choices, unless something is wrong with the turn.
void mk_service_turn_begin(turn *t, int n);
void mk_service_turn_forget(turn *t);  // what choices begin with

// --- turn.c --------------------------------------------------------------------------------------
turn *mk_service_turn_create(mk_service *s, mk_http_exchange *x, const route *r);  // keeps x
void mk_service_turn_free(turn *t);  // before it was listed; afterwards it frees itself
// From now on the service counts it, and it hears when the client hangs up.
void mk_service_turn_list(turn *t);
void mk_service_turn_event(void *choice, const mk_answer_event *ev);  // of a speech
void mk_service_turn_cancel(turn *t);                                 // its speeches
// The lock is held: what the writer makes of an event, unless memory has been refused since
// `refused` (mk_alloc_refused_thread): then the turn fails.
void mk_service_turn_write(turn *t, int choice, const mk_answer_event *ev, uint64_t refused);
void mk_service_turn_tell_error(turn *t);  // the lock is held: t->error, if a stream has begun
// Both free it.  No speech is left: the answer, or t->error, goes out.
void mk_service_turn_end(turn *t);
void mk_service_turn_fail(turn *t, const mk_err *err, int status);  // no speech ever began

// --- turn_send.c ---------------------------------------------------------------------------------
// The lock is held, or nobody else knows the turn any more.
void mk_service_turn_stream(turn *t);
void mk_service_turn_send(turn *t);   // what the writer has written
void mk_service_turn_reply(turn *t);  // all of it, as a whole answer

#endif
