// A ring of tasks behind one lock.
#include "serve/workers.h"

#include <errno.h>
#include <pthread.h>
#include <time.h>

#include "base/alloc.h"

enum { MAX_THREADS = 16 };

typedef struct {
    void (*fn)(void *arg);
    void *arg;
} task;

struct mk_workers {
    pthread_mutex_t lock;
    pthread_cond_t wake, ticking;
    task *ring;  // [max_queue]
    int max_queue, first, n;
    bool stop;
    int n_thread;
    pthread_t thread[MAX_THREADS], ticker;
    bool has_ticker;
    int tick_ms;
    void (*tick)(void *arg);
    void *tick_arg;
};

static void *work(void *arg) {
    mk_workers *w = arg;
    pthread_mutex_lock(&w->lock);
    for (;;) {
        while (w->n == 0 && !w->stop) {
            pthread_cond_wait(&w->wake, &w->lock);
        }
        if (w->n == 0) {
            break;
        }
        task t = w->ring[w->first];
        w->first = (w->first + 1) % w->max_queue;
        w->n--;
        pthread_mutex_unlock(&w->lock);
        t.fn(t.arg);
        pthread_mutex_lock(&w->lock);
    }
    pthread_mutex_unlock(&w->lock);
    return NULL;
}

static void *tick_on(void *arg) {
    mk_workers *w = arg;
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    pthread_mutex_lock(&w->lock);
    while (!w->stop) {
        at.tv_nsec += (long)w->tick_ms * 1000000L;
        at.tv_sec += at.tv_nsec / 1000000000L;
        at.tv_nsec %= 1000000000L;
        while (!w->stop && pthread_cond_timedwait(&w->ticking, &w->lock, &at) != ETIMEDOUT) {
        }
        if (!w->stop) {
            pthread_mutex_unlock(&w->lock);
            w->tick(w->tick_arg);
            pthread_mutex_lock(&w->lock);
        }
    }
    pthread_mutex_unlock(&w->lock);
    return NULL;
}

static mk_status start_threads(mk_workers *w, int n_thread, mk_err *err) {
    for (; w->n_thread < n_thread && w->n_thread < MAX_THREADS; w->n_thread++) {
        if (pthread_create(&w->thread[w->n_thread], NULL, work, w) != 0) {
            return MK_FAIL(err, MK_ENOMEM, "the system refused a thread for requests");
        }
    }
    if (w->tick) {
        if (pthread_create(&w->ticker, NULL, tick_on, w) != 0) {
            return MK_FAIL(err, MK_ENOMEM, "the system refused a thread for the clock");
        }
        w->has_ticker = true;
    }
    return MK_OK;
}

mk_status mk_workers_start(int n_thread, int max_queue, int tick_ms, void (*tick)(void *arg),
                           void *tick_arg, mk_workers **out, mk_err *err) {
    mk_workers *w = mk_zalloc(sizeof *w);
    w->max_queue = max_queue;
    w->tick = tick;
    w->tick_arg = tick_arg;
    w->tick_ms = tick_ms;
    w->ring = mk_zalloc((size_t)max_queue * sizeof *w->ring);
    pthread_condattr_t a;
    pthread_condattr_init(&a);
    pthread_condattr_setclock(&a, CLOCK_MONOTONIC);
    pthread_mutex_init(&w->lock, NULL);
    pthread_cond_init(&w->wake, NULL);
    pthread_cond_init(&w->ticking, &a);
    pthread_condattr_destroy(&a);
    mk_status st = start_threads(w, n_thread, err);
    if (st != MK_OK) {
        mk_workers_stop(w);
        return st;
    }
    *out = w;
    return MK_OK;
}

bool mk_workers_post(mk_workers *w, void (*fn)(void *arg), void *arg) {
    pthread_mutex_lock(&w->lock);
    bool room = w->n < w->max_queue && !w->stop;
    if (room) {
        w->ring[(w->first + w->n++) % w->max_queue] = (task){fn, arg};
        pthread_cond_signal(&w->wake);
    }
    pthread_mutex_unlock(&w->lock);
    return room;
}

void mk_workers_end(mk_workers *w) {
    pthread_mutex_lock(&w->lock);
    w->stop = true;
    pthread_cond_broadcast(&w->wake);
    pthread_cond_broadcast(&w->ticking);
    pthread_mutex_unlock(&w->lock);
    for (; w->n_thread > 0; w->n_thread--) {
        pthread_join(w->thread[w->n_thread - 1], NULL);
    }
    if (w->has_ticker) {
        pthread_join(w->ticker, NULL);
        w->has_ticker = false;
    }
}

void mk_workers_stop(mk_workers *w) {
    if (!w) {
        return;
    }
    mk_workers_end(w);
    pthread_mutex_destroy(&w->lock);
    pthread_cond_destroy(&w->wake);
    pthread_cond_destroy(&w->ticking);
    mk_free(w->ring);
    mk_free(w);
}
