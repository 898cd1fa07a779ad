// Which models are in memory: who uses one, who waits for one, what is loaded and unloaded next.
//
// A state machine and nothing else: models are slots, a request is a waiter, times are handed in.
// Who drives it (serve/loader.h) loads and unloads, one at a time, and tells what became of it.
//
//     UNLOADED --next--> LOADING --loaded--> LOADED --next--> UNLOADING --unloaded--> UNLOADED
//                           \--failed, gave_up--> UNLOADED
//
// Invariants
//  1. Only a LOADED slot is in use; UNLOADING begins when nobody uses it.
//  2. A waiter that was queued comes out of mk_residence_take exactly once: with MK_OK (it uses the
//     slot from then on), or with the error that ended its wait.
//  3. A LOADED slot has waiters only while its door is closed.
//  4. With max_loaded at most so many slots are not UNLOADED.
//
// Room.  Where a slot must make way for another, it is one that nobody uses, of these the one that
// was used longest ago.  If all are in use, the others are given `patience` to pause by themselves;
// then the door of the one that was asked for longest ago is closed: those that use it end in
// peace, those that ask for it wait in line.  Models are loaded in the order in which they were
// first waited for, so two models that share one place take turns, and nobody waits for ever.
// Threads: the caller's lock.
#ifndef MK_SERVE_RESIDENCE_H
#define MK_SERVE_RESIDENCE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"

#define MK_KEEP_FOREVER UINT64_MAX  // as a duration, and as a time: never

typedef struct mk_residence mk_residence;

typedef enum {
    MK_MODEL_UNLOADED,
    MK_MODEL_LOADING,
    MK_MODEL_LOADED,
    MK_MODEL_UNLOADING
} mk_model_state;
const char *mk_model_state_name(mk_model_state s);  // "unloaded", "loading", ...

// In memory of whoever waits, zeroed at first; touched by this room until it came out of take.
typedef struct mk_waiter {
    struct mk_waiter *next;
    int slot;
    uint64_t since_ns;
    bool waits;      // in line
    bool cancelled;  // before or while it waits
    mk_err end;      // code MK_OK: it uses the slot
} mk_waiter;

typedef struct {
    int max_loaded;       // 0: as many as fit
    int64_t max_waiting;  // in all lines together
    uint64_t patience_ns;
} mk_residence_opts;

mk_residence *mk_residence_create(const mk_residence_opts *o);
void mk_residence_destroy(mk_residence *r);  // nobody waits, nothing is in use
// A new slot, UNLOADED; keep: how long it stays without being used.
int mk_residence_add(mk_residence *r, uint64_t keep_ns);
int mk_residence_n_slot(const mk_residence *r);

// Asks for the slot.  *granted: it is used from now on, until mk_residence_leave; else w waits in
// line.  Errors: MK_ELIMIT (too many wait), MK_EINTR (closed, or w was cancelled).
mk_status mk_residence_ask(mk_residence *r, int slot, mk_waiter *w, uint64_t now_ns, bool *granted,
                           mk_err *err) MK_WARN_UNUSED;
// What w waits for is not wanted any more; if it waits it comes out of take with MK_EINTR.
void mk_residence_cancel(mk_residence *r, mk_waiter *w);
// keep: from now on the slot stays for so long, until it is unloaded; NULL: as before.
void mk_residence_leave(mk_residence *r, int slot, const uint64_t *keep_ns, uint64_t now_ns);
// Uses a LOADED slot for a look, without being counted as a use; false: it is not LOADED.
bool mk_residence_peek(mk_residence *r, int slot);
void mk_residence_peeked(mk_residence *r, int slot);
// Nobody needs the slot any more: it is unloaded as soon as nobody uses it.
void mk_residence_dismiss(mk_residence *r, int slot);
// No more asking; all waits end with MK_EINTR, nothing is loaded any more.
void mk_residence_close(mk_residence *r);

// A waiter whose wait has ended; NULL: none.
mk_waiter *mk_residence_take(mk_residence *r);

typedef enum { MK_STEP_NONE, MK_STEP_LOAD, MK_STEP_UNLOAD } mk_step_kind;
typedef struct {
    mk_step_kind kind;
    int slot;
    bool alone;      // LOAD: nothing else is loaded, so that memory will not get any emptier
    uint64_t at_ns;  // NONE: when to ask again at the latest, if nothing else happens
} mk_residence_step;
// What is to be done now.  After LOAD one of loaded, failed and gave_up must follow, after UNLOAD
// unloaded, before it is asked again.
mk_residence_step mk_residence_next(mk_residence *r, uint64_t now_ns);
void mk_residence_loaded(mk_residence *r, int slot, uint64_t now_ns);
// MK_ENOMEM while others are loaded: those that nobody uses make way, and it is tried again.
void mk_residence_failed(mk_residence *r, int slot, const mk_err *why);
void mk_residence_unloaded(mk_residence *r, int slot);
// Does anybody still wait for what is being loaded?  If not the load may be given up, and then
// gave_up follows instead of loaded and failed; who asked meanwhile waits for the next.
bool mk_residence_wanted(const mk_residence *r, int slot);
void mk_residence_gave_up(mk_residence *r, int slot);

typedef struct {
    mk_model_state state;
    int n_use;  // without looks
    int64_t n_waiting;
    uint64_t expires_ns;  // LOADED: when it is unloaded if it is not asked for from now on
    int64_t n_load, n_failed, n_unload;
} mk_residence_info;
mk_residence_info mk_residence_read(const mk_residence *r, int slot, uint64_t now_ns);

#endif
