// A few threads that do what must not hold up connections: parsing, templates, tokenizing, files.
//
// Work is done in the order it came in, by any of the threads.  Threads: post from any.
#ifndef MK_SERVE_WORKERS_H
#define MK_SERVE_WORKERS_H

#include <stdbool.h>

#include "base/status.h"

typedef struct mk_workers mk_workers;

// tick is called about every tick_ms milliseconds on a thread of its own; may be NULL.
mk_status mk_workers_start(int n_thread, int max_queue, int tick_ms, void (*tick)(void *arg),
                           void *tick_arg, mk_workers **out, mk_err *err) MK_WARN_UNUSED;
// False: the queue is full, or the workers are stopping.
bool mk_workers_post(mk_workers *w, void (*fn)(void *arg), void *arg) MK_WARN_UNUSED;
// Does what is queued, then ends; mk_workers_post says no from then on.
void mk_workers_end(mk_workers *w);
void mk_workers_stop(mk_workers *w);  // the same, and frees; NULL is fine

#endif
