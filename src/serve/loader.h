// Loads and unloads models when the rules of residence.h say so, and tells those who wait.
//
// A request asks for a lease of a model: it has it at once, or is called when the model is there.
// Two threads: one loads and unloads, one thing at a time, so that nobody else is held up; one
// calls those whose wait has ended, so that a load that takes long does not keep from hanging up
// whoever does not want to wait any longer.
//
//     MK_TRY(mk_loader_lease(l, slot, &lease, &now, err));   // now: it is there
//     ...                                                    // else lease.ready(lease.arg), later
//     mk_loader_return(l, slot, NULL);
//
// Threads: any.  The caller's locks may be held, but those that `ready` takes.
#ifndef MK_SERVE_LOADER_H
#define MK_SERVE_LOADER_H

#include "serve/residence.h"

typedef struct mk_loader mk_loader;

typedef struct {
    // Both on the loader's thread.  alone: as in mk_residence_step.  A load asks mk_loader_wanted
    // now and then, and returns MK_EINTR when it is not.
    mk_status (*load)(void *arg, int slot, bool alone, mk_err *err);
    void (*unload)(void *arg, int slot);
    void *arg;
    mk_residence_opts rules;
} mk_loader_opts;

// Zeroed but for `ready` and `arg`, where it stays until it is granted or `ready` is called.
typedef struct {
    mk_waiter w;  // w.end: how the wait ended, for `ready`; MK_OK: the lease is granted
    void (*ready)(void *arg);
    void *arg;
} mk_lease;

mk_status mk_loader_start(const mk_loader_opts *o, mk_loader **out, mk_err *err) MK_WARN_UNUSED;
// Ends all waits with MK_EINTR; nobody gets a lease any more, and what is loaded stays.
void mk_loader_close(mk_loader *l);
// After all leases were returned: unloads what is loaded and ends the threads.
void mk_loader_stop(mk_loader *l);

int mk_loader_add(mk_loader *l, uint64_t keep_ns);  // a slot
// *now: granted; else `ready` is called, once, on the thread for it.  Errors: those of
// mk_residence_ask.
mk_status mk_loader_lease(mk_loader *l, int slot, mk_lease *lease, bool *now,
                          mk_err *err) MK_WARN_UNUSED;
// Not wanted any more: if it waits, `ready` is called soon with MK_EINTR.  Also before the lease is
// asked for, which then fails.
void mk_loader_cancel(mk_loader *l, mk_lease *lease);
void mk_loader_return(mk_loader *l, int slot, const uint64_t *keep_ns);
// Waits until the slot is loaded, and returns it at once: for who has nothing else to do.
mk_status mk_loader_load_now(mk_loader *l, int slot, mk_err *err) MK_WARN_UNUSED;
bool mk_loader_peek(mk_loader *l, int slot);  // as mk_residence_peek
void mk_loader_peeked(mk_loader *l, int slot);
void mk_loader_dismiss(mk_loader *l, int slot);
// While the slot is loaded, for who loads it: false: nobody waits for it any more, and its load
// shall end.  Who asks for it from then on waits for another load.
bool mk_loader_wanted(mk_loader *l, int slot);
mk_residence_info mk_loader_read(mk_loader *l, int slot);

#endif
