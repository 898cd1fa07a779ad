// The pool's protocol.  Every field that two threads touch is atomic or guarded by `lock`.
//
//   epoch     number of regions started; a worker works when it differs from the last one it has `seen`
//   pending   workers that have not yet finished the current region
//   n_parked, caller_parked   who may be waiting on a condition and must be woken
//
//   caller                                        worker
//   fn, arg, pending = n - 1                      spin, then park, until epoch != seen
//   epoch++ ; if n_parked: broadcast `start`      run fn(arg, ith, n)
//   run fn(arg, 0, n)                             pending-- ; if that was the last and caller_parked: signal `done`
//   spin, then park, until pending == 0
//
// Why no wake-up is lost: the sleeper announces itself (n_parked++, caller_parked = true) and then
// reads the word it waits for; the waker writes that word and then reads the announcement.  All
// four are sequentially consistent, so at least one of the two sees the other; the sleeper holds
// `lock` from its announcement to its wait, and the waker takes `lock` before it signals.  A late
// signal of an earlier region is harmless: every wait is a loop.  And no wait is without an end:
// condition variables of glibc before 2.41 can lose a wake-up (its bug 25847), so a sleeper looks
// for itself from time to time.
#include "base/pool.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>
#include <time.h>

#include "base/alloc.h"
#include "base/crowd.h"
#include "base/log.h"
#include "base/mathx.h"
#include "base/status.h"

// How long to busy-wait.  A worker: longer than the gaps between the regions of a token.  The
// caller: many ticks of the system's clock, because if it slept at once while a worker waits for
// the same processor, the two would take turns, never look like too much work for one processor,
// and stay there.
enum { WORKER_SPIN_NS = 500000, CALLER_SPIN_NS = 20000000, SPIN_BATCH = 32, CACHE_LINE = 64 };
enum { LOOK_MS = 500 };  // longest sleep without looking

typedef struct {
    mk_pool *pool;
    pthread_t thread;
    int ith;
} worker;

// One thread's part of shared work, padded so that no two lie on one cache line.
typedef struct {
    atomic_llong next;
    int64_t end;
    char pad[2 * CACHE_LINE - 16];
} part;

struct mk_pool_crowd {
    atomic_int n_busy;  // threads of pools that are in a region
    int n_cpu;
};

struct mk_pool {
    mk_pool_crowd *crowd;  // or NULL
    // read by all, written by the caller between regions
    mk_pool_fn fn;
    void *arg;
    int n_thread;
    bool may_spin;
    worker *workers;  // n_thread - 1 of them
    part *parts;      // n_thread; shared work of this region
    int64_t grain;
    pthread_mutex_t lock;
    pthread_cond_t start, done;
    // what workers spin on and what they write lie on cache lines of their own
    char pad_epoch[CACHE_LINE];
    atomic_uint epoch;
    atomic_int n_parked;
    atomic_bool stop;
    char pad_pending[CACHE_LINE];
    atomic_int pending;
    atomic_bool caller_parked;
};

static void cpu_relax(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static bool new_epoch(mk_pool *p, unsigned seen) {
    return atomic_load_explicit(&p->epoch, memory_order_acquire) != seen;
}

static bool all_done(mk_pool *p, unsigned unused) {
    (void)unused;
    return atomic_load_explicit(&p->pending, memory_order_acquire) == 0;
}

bool mk_pool_may_spin(const mk_pool *p) {
    return p->may_spin &&
           (!p->crowd ||
            atomic_load_explicit(&p->crowd->n_busy, memory_order_relaxed) <= p->crowd->n_cpu);
}

static bool spin_until(mk_pool *p, bool (*ready)(mk_pool *, unsigned), unsigned seen, uint64_t ns) {
    if (ready(p, seen)) {
        return true;
    }
    if (!mk_pool_may_spin(p)) {
        return false;
    }
    uint64_t end = mk_now_ns() + ns;
    do {
        for (int i = 0; i < SPIN_BATCH; i++) {
            if (ready(p, seen)) {
                return true;
            }
            cpu_relax();
        }
    } while (mk_now_ns() < end && mk_pool_may_spin(p));
    return false;
}

// Sleeps until a signal, or LOOK_MS.  The lock is held.
static void sleep_on(mk_pool *p, pthread_cond_t *cond) {
    struct timespec end;
    clock_gettime(CLOCK_MONOTONIC, &end);
    end.tv_nsec += LOOK_MS * 1000000L;
    end.tv_sec += end.tv_nsec / 1000000000L;
    end.tv_nsec %= 1000000000L;
    pthread_cond_timedwait(cond, &p->lock, &end);
}

static void wait_for_region(mk_pool *p, unsigned seen) {
    if (spin_until(p, new_epoch, seen, WORKER_SPIN_NS)) {
        return;
    }
    pthread_mutex_lock(&p->lock);
    atomic_fetch_add(&p->n_parked, 1);
    while (atomic_load(&p->epoch) == seen) {
        sleep_on(p, &p->start);
    }
    atomic_fetch_sub(&p->n_parked, 1);
    pthread_mutex_unlock(&p->lock);
}

static void *worker_main(void *arg) {
    worker *w = arg;
    mk_pool *p = w->pool;
    mk_fpu_enter();
    for (unsigned seen = 0;; seen++) {
        wait_for_region(p, seen);
        if (atomic_load(&p->stop)) {
            return NULL;
        }
        p->fn(p->arg, w->ith, p->n_thread);
        if (atomic_fetch_sub(&p->pending, 1) == 1 && atomic_load(&p->caller_parked)) {
            pthread_mutex_lock(&p->lock);
            pthread_cond_signal(&p->done);
            pthread_mutex_unlock(&p->lock);
        }
    }
}

static void start_region(mk_pool *p) {
    atomic_fetch_add(&p->epoch, 1);
    if (atomic_load(&p->n_parked) > 0) {
        pthread_mutex_lock(&p->lock);
        pthread_cond_broadcast(&p->start);
        pthread_mutex_unlock(&p->lock);
    }
}

static void wait_for_workers(mk_pool *p) {
    if (spin_until(p, all_done, 0, CALLER_SPIN_NS)) {
        return;
    }
    pthread_mutex_lock(&p->lock);
    atomic_store(&p->caller_parked, true);
    while (atomic_load(&p->pending) != 0) {
        sleep_on(p, &p->done);
    }
    atomic_store(&p->caller_parked, false);
    pthread_mutex_unlock(&p->lock);
}

static void count_busy(const mk_pool *p, int n) {
    if (p->crowd) {
        atomic_fetch_add_explicit(&p->crowd->n_busy, n, memory_order_relaxed);
    }
}

static void run(mk_pool *p, mk_pool_fn fn, void *arg) {
    if (p->n_thread == 1) {
        fn(arg, 0, 1);
        return;
    }
    MK_ASSERT(atomic_load(&p->pending) == 0);  // regions do not nest
    p->fn = fn;
    p->arg = arg;
    atomic_store(&p->pending, p->n_thread - 1);
    start_region(p);
    fn(arg, 0, p->n_thread);
    wait_for_workers(p);
}

void mk_pool_run(mk_pool *p, mk_pool_fn fn, void *arg) {
    count_busy(p, p->n_thread);
    run(p, fn, arg);
    count_busy(p, -p->n_thread);
}

// Workers leave signals to the other threads (an interrupt belongs to the caller), except those
// that name a fault of the worker itself.
static void block_signals(sigset_t *old) {
    static const int faults[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGTRAP};
    sigset_t all;
    sigfillset(&all);
    for (size_t i = 0; i < sizeof faults / sizeof faults[0]; i++) {
        sigdelset(&all, faults[i]);
    }
    pthread_sigmask(SIG_BLOCK, &all, old);
}

mk_pool_crowd *mk_pool_crowd_create(void) {
    mk_pool_crowd *c = mk_zalloc(sizeof *c);
    c->n_cpu = mk_cpu_count();
    return c;
}

void mk_pool_crowd_destroy(mk_pool_crowd *c) {
    mk_free(c);
}

mk_pool *mk_pool_create(int n_thread) {
    return mk_pool_create_in(NULL, n_thread);
}

mk_pool *mk_pool_create_in(mk_pool_crowd *crowd, int n_thread) {
    MK_ASSERT(n_thread >= 1);
    mk_pool *p = mk_zalloc(sizeof *p);
    p->crowd = crowd;
    pthread_mutex_init(&p->lock, NULL);
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&p->start, &monotonic);
    pthread_cond_init(&p->done, &monotonic);
    pthread_condattr_destroy(&monotonic);
    // More threads than processors: whoever spins keeps the one it waits for from running.
    p->may_spin = n_thread <= mk_cpu_count();
    p->workers = mk_zalloc((size_t)n_thread * sizeof *p->workers);
    p->parts = mk_zalloc((size_t)n_thread * sizeof *p->parts);
    p->n_thread = 1;
    sigset_t old;
    block_signals(&old);
    for (int i = 1; i < n_thread; i++) {
        worker *w = &p->workers[i - 1];
        *w = (worker){.pool = p, .ith = i};
        int rc = pthread_create(&w->thread, NULL, worker_main, w);
        if (rc != 0) {
            mk_log_msg(MK_LOG_WARN, "the system allows %d threads, not %d (%s)", i, n_thread,
                       strerror(rc));
            break;
        }
        p->n_thread++;
    }
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return p;
}

void mk_pool_destroy(mk_pool *p) {
    if (!p) {
        return;
    }
    atomic_store(&p->stop, true);
    start_region(p);
    for (int i = 0; i < p->n_thread - 1; i++) {
        pthread_join(p->workers[i].thread, NULL);
    }
    pthread_cond_destroy(&p->done);
    pthread_cond_destroy(&p->start);
    pthread_mutex_destroy(&p->lock);
    mk_free(p->workers);
    mk_free(p->parts);
    mk_free(p);
}

int mk_pool_n_thread(const mk_pool *p) {
    return p->n_thread;
}

void mk_pool_share(mk_pool *p, int64_t n, int64_t grain) {
    MK_ASSERT(n >= 0 && n < INT64_MAX / 2 && grain >= 1);
    p->grain = grain;
    for (int i = 0; i < p->n_thread; i++) {
        int64_t lo;
        mk_pool_split(n, 1, i, p->n_thread, &lo, &p->parts[i].end);
        atomic_store_explicit(&p->parts[i].next, lo, memory_order_relaxed);
    }
}

// The region's start orders these accesses after mk_pool_share; pieces carry no data, so relaxed is
// enough.
static bool take_from(mk_pool *p, part *q, int64_t *lo, int64_t *hi) {
    long long at = atomic_load_explicit(&q->next, memory_order_relaxed);
    do {
        int64_t left = q->end - at, n = left - left / 2;
        if (left <= 0) {
            return false;
        }
        n = n > p->grain ? n : p->grain < left ? p->grain : left;
        *lo = at;
        *hi = at + n;
    } while (!atomic_compare_exchange_weak_explicit(&q->next, &at, *hi, memory_order_relaxed,
                                                    memory_order_relaxed));
    return true;
}

bool mk_pool_take(mk_pool *p, int ith, int64_t *lo, int64_t *hi) {
    if (take_from(p, &p->parts[ith], lo, hi)) {
        return true;
    }
    for (;;) {
        part *most = NULL;
        int64_t left = 0;
        for (int i = 0; i < p->n_thread; i++) {
            int64_t n =
                p->parts[i].end - atomic_load_explicit(&p->parts[i].next, memory_order_relaxed);
            most = n > left ? &p->parts[i] : most;
            left = n > left ? n : left;
        }
        if (most == NULL) {
            return false;
        }
        if (take_from(p, most, lo, hi)) {
            return true;
        }
    }
}

void mk_pool_split(int64_t n, int64_t grain, int ith, int n_thread, int64_t *lo, int64_t *hi) {
    MK_ASSERT(n >= 0 && grain >= 1 && n_thread >= 1 && ith >= 0 && ith < n_thread);
    int64_t n_grain = n / grain + (n % grain != 0);
    int64_t each = n_grain / n_thread, extra = n_grain % n_thread;
    int64_t first = each * ith + (ith < extra ? ith : extra);
    int64_t last = first + each + (ith < extra ? 1 : 0);
    // only the very last grain can be cut short; comparing in grains avoids an overflow for n near
    // the maximum
    *lo = first == n_grain ? n : first * grain;
    *hi = last == n_grain ? n : last * grain;
}
