// Thread pool: one parallel region at a time, static or shared partition, spin-then-park.
//
// mk_pool_run calls fn(arg, ith, n_thread) on every thread, the caller being thread 0, and returns
// when all are done.  Work must be divided so that no result depends on n_thread (house rule: over
// output rows and tokens only).  Workers set flush-to-zero (base/mathx.h) when they start; the
// caller does it around a region with mk_fpu_enter.  Threads: one pool belongs to one calling
// thread at a time; regions do not nest.
#ifndef MK_BASE_POOL_H
#define MK_BASE_POOL_H

#include <stdbool.h>
#include <stdint.h>

typedef struct mk_pool mk_pool;
typedef void (*mk_pool_fn)(void *arg, int ith, int n_thread);

// n_thread >= 1; fewer threads than asked for if the system refuses some
mk_pool *mk_pool_create(int n_thread);
void mk_pool_destroy(mk_pool *p);
int mk_pool_n_thread(const mk_pool *p);
void mk_pool_run(mk_pool *p, mk_pool_fn fn, void *arg);

// [*lo, *hi) = the ith of n_thread near-equal parts of n items, cut at multiples of `grain`.
void mk_pool_split(int64_t n, int64_t grain, int ith, int n_thread, int64_t *lo, int64_t *hi);

// Shared work for one region: [0, n) in pieces of `grain` and more.  mk_pool_share comes before
// mk_pool_run; in the region every thread calls mk_pool_take until it says false.  A thread gets
// half of what is left of its own near-equal part, ascending, again and again, then pieces of
// whoever has most left: long pieces while there is much to do, and a slow or interrupted processor
// does not hold up the others at the end.  Every item is given out once.
void mk_pool_share(mk_pool *p, int64_t n, int64_t grain);
bool mk_pool_take(mk_pool *p, int ith, int64_t *lo, int64_t *hi);

// Number of CPUs this process may use (affinity mask and cgroup quota respected), at least 1.
int mk_cpu_count(void);

#endif
