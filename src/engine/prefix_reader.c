// Orders are a list, the oldest first; each is in one of four states:
//
//   (none)   --get-->                                ordered
//   ordered  --the thread, in order-->               reading
//   reading  --the thread-->                         read
//   read     --get, which gives the file away-->     (none)
//   ordered, read  --let_go, or get of another-->    (none)
//   reading  --let_go, or get of another-->          unwanted, reading; (none) when it is read
#include "engine/prefix_reader.h"

#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <time.h>

#include "base/alloc.h"

enum { MAX_READ = 2 };  // files that wait to be fetched: the thread rests when there are more

typedef enum { ORDERED, READING, READ } order_state;

typedef struct order order;
struct order {
    order *next;
    int who;
    bool unwanted, good;
    order_state state;
    uint64_t tenant;
    mk_u128 key;
    mk_prefix_found found;
};

struct mk_prefix_reader {
    mk_prefix_disk *disk;
    pthread_t thread;
    bool started;
    // under the lock
    pthread_mutex_t lock;
    pthread_cond_t work, done;
    order *first;
    int n_read;
    bool stop;
};

// --- orders; under the lock ----------------------------------------------------------------------

static void remove_order(mk_prefix_reader *r, order *o) {
    order **at = &r->first;
    while (*at != o) {
        at = &(*at)->next;
    }
    *at = o->next;
    if (o->state == READ) {
        r->n_read--;
        pthread_cond_signal(&r->work);
    }
    mk_free(o);
}

static void give_up(mk_prefix_reader *r, order *o) {
    o->unwanted = true;
    if (o->state != READING) {  // the thread frees what it reads
        if (o->state == READ && o->good) {
            mk_free(o->found.bytes);
        }
        remove_order(r, o);
    }
}

static order *order_of(const mk_prefix_reader *r, int who) {
    order *o = r->first;
    while (o && (o->unwanted || o->who != who)) {
        o = o->next;
    }
    return o;
}

static bool add_order(mk_prefix_reader *r, int who, uint64_t tenant, mk_u128 key) {
    order *o = mk_try_alloc(1, sizeof *o), **at = &r->first;
    if (!o) {
        return false;
    }
    o->who = who;
    o->tenant = tenant;
    o->key = key;
    while (*at) {
        at = &(*at)->next;
    }
    *at = o;
    pthread_cond_signal(&r->work);
    return true;
}

// --- the thread ----------------------------------------------------------------------------------

static order *next_order(const mk_prefix_reader *r) {
    order *o = r->n_read < MAX_READ ? r->first : NULL;
    while (o && o->state != ORDERED) {
        o = o->next;
    }
    return o;
}

static void *reader_main(void *arg) {
    mk_prefix_reader *r = arg;
    pthread_mutex_lock(&r->lock);
    while (!r->stop) {
        order *o = next_order(r);
        if (!o) {
            pthread_cond_wait(&r->work, &r->lock);
            continue;
        }
        o->state = READING;
        pthread_mutex_unlock(&r->lock);
        mk_prefix_found found = {0};
        bool good = mk_prefix_disk_get(r->disk, o->tenant, o->key, &found);
        pthread_mutex_lock(&r->lock);
        o->state = READ;
        o->good = good;
        o->found = found;
        r->n_read++;
        if (o->unwanted) {
            give_up(r, o);
        }
        pthread_cond_broadcast(&r->done);
    }
    pthread_mutex_unlock(&r->lock);
    return NULL;
}

mk_status mk_prefix_reader_start(mk_prefix_disk *d, mk_prefix_reader **out, mk_err *err) {
    mk_prefix_reader *r = mk_zalloc(sizeof *r);
    r->disk = d;
    pthread_condattr_t a;
    pthread_condattr_init(&a);
    pthread_condattr_setclock(&a, CLOCK_MONOTONIC);
    pthread_mutex_init(&r->lock, NULL);
    pthread_cond_init(&r->work, NULL);
    pthread_cond_init(&r->done, &a);
    pthread_condattr_destroy(&a);
    sigset_t all, old;  // signals are for the threads of the program
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int rc = pthread_create(&r->thread, NULL, reader_main, r);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    r->started = rc == 0;
    if (rc != 0) {
        mk_prefix_reader_stop(r);
        return MK_FAIL(err, MK_ENOMEM, "cannot start a thread to read the prefix cache: %s",
                       strerror(rc));
    }
    *out = r;
    return MK_OK;
}

void mk_prefix_reader_stop(mk_prefix_reader *r) {
    if (!r) {
        return;
    }
    if (r->started) {
        pthread_mutex_lock(&r->lock);
        r->stop = true;
        pthread_cond_signal(&r->work);
        pthread_mutex_unlock(&r->lock);
        pthread_join(r->thread, NULL);
    }
    while (r->first) {
        give_up(r, r->first);
    }
    pthread_cond_destroy(&r->done);
    pthread_cond_destroy(&r->work);
    pthread_mutex_destroy(&r->lock);
    mk_free(r);
}

// --- asking --------------------------------------------------------------------------------------

mk_prefix_state mk_prefix_reader_get(mk_prefix_reader *r, int who, uint64_t tenant, mk_u128 key,
                                     mk_prefix_found *out) {
    mk_prefix_state state = MK_PREFIX_LATER;
    bool there = mk_prefix_disk_there(r->disk, key);
    pthread_mutex_lock(&r->lock);
    order *o = order_of(r, who);
    if (o && (o->tenant != tenant || !mk_u128_equal(o->key, key))) {
        give_up(r, o);
        o = NULL;
    }
    if (o && o->state == READ) {
        state = o->good ? MK_PREFIX_FOUND : MK_PREFIX_MISS;
        *out = o->found;
        remove_order(r, o);
    } else if (!o && (!there || !add_order(r, who, tenant, key))) {
        state = MK_PREFIX_MISS;
    }
    pthread_mutex_unlock(&r->lock);
    return state;
}

void mk_prefix_reader_let_go(mk_prefix_reader *r, int who) {
    pthread_mutex_lock(&r->lock);
    for (order *o = r->first, *next; o; o = next) {
        next = o->next;
        if (!o->unwanted && (who < 0 || o->who == who)) {
            give_up(r, o);
        }
    }
    pthread_mutex_unlock(&r->lock);
}

void mk_prefix_reader_wait(mk_prefix_reader *r, int ms) {
    struct timespec end;
    clock_gettime(CLOCK_MONOTONIC, &end);
    end.tv_nsec += (long)ms * 1000000L;
    end.tv_sec += end.tv_nsec / 1000000000L;
    end.tv_nsec %= 1000000000L;
    pthread_mutex_lock(&r->lock);
    while (r->first && r->n_read == 0 && pthread_cond_timedwait(&r->done, &r->lock, &end) == 0) {
    }
    pthread_mutex_unlock(&r->lock);
}
