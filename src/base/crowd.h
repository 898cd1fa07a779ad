// Thread pools (base/pool.h) that compete for the processors of one process.
//
// A pool that has the processors to itself waits by spinning.  While the threads in regions of all
// pools of a crowd are more than the processors, whoever spins keeps another from working, so that
// all of them sleep instead.
#ifndef MK_BASE_CROWD_H
#define MK_BASE_CROWD_H

#include "base/pool.h"

typedef struct mk_pool_crowd mk_pool_crowd;

mk_pool_crowd *mk_pool_crowd_create(void);
void mk_pool_crowd_destroy(mk_pool_crowd *c);  // after its pools; NULL is fine
// As mk_pool_create, in a crowd; NULL: alone.
mk_pool *mk_pool_create_in(mk_pool_crowd *crowd, int n_thread);
bool mk_pool_may_spin(const mk_pool *p);  // just now

#endif
