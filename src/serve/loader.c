// Everything of the residence is done under one lock, which nothing slow is done with.
#include "serve/loader.h"

#include <pthread.h>
#include <time.h>

#include "base/alloc.h"
#include "base/log.h"

struct mk_loader {
    mk_loader_opts o;
    mk_residence *r;
    pthread_mutex_t lock;
    pthread_cond_t work, over;  // for the two threads
    bool stop;
    bool gives_up;  // the load in hand was told so
    bool has_loader, has_caller;
    pthread_t loader, caller;
};

// The lock is held: something has happened.
static void wake(mk_loader *l) {
    pthread_cond_signal(&l->work);
    pthread_cond_signal(&l->over);
}

// --- the thread that loads -----------------------------------------------------------------------

static void sleep_until(mk_loader *l, uint64_t at_ns) {
    if (at_ns == MK_KEEP_FOREVER) {
        pthread_cond_wait(&l->work, &l->lock);
        return;
    }
    struct timespec at = {.tv_sec = (time_t)(at_ns / 1000000000),
                          .tv_nsec = (long)(at_ns % 1000000000)};
    pthread_cond_timedwait(&l->work, &l->lock, &at);
}

static void load(mk_loader *l, const mk_residence_step *step) {
    mk_err err = {0};
    l->gives_up = false;
    pthread_mutex_unlock(&l->lock);
    mk_status st = l->o.load(l->o.arg, step->slot, step->alone, &err);
    pthread_mutex_lock(&l->lock);
    if (st == MK_OK) {
        mk_residence_loaded(l->r, step->slot, mk_now_ns());
    } else if (st == MK_EINTR && l->gives_up) {
        mk_residence_gave_up(l->r, step->slot);
    } else {
        mk_residence_failed(l->r, step->slot, &err);
    }
}

static void unload(mk_loader *l, int slot) {
    pthread_mutex_unlock(&l->lock);
    l->o.unload(l->o.arg, slot);
    pthread_mutex_lock(&l->lock);
    mk_residence_unloaded(l->r, slot);
}

static void *load_on(void *arg) {
    mk_loader *l = arg;
    pthread_mutex_lock(&l->lock);
    while (!l->stop) {
        mk_residence_step step = mk_residence_next(l->r, mk_now_ns());
        if (step.kind == MK_STEP_LOAD) {
            load(l, &step);
        } else if (step.kind == MK_STEP_UNLOAD) {
            unload(l, step.slot);
        }
        pthread_cond_signal(&l->over);
        if (step.kind == MK_STEP_NONE && !l->stop) {
            sleep_until(l, step.at_ns);
        }
    }
    pthread_mutex_unlock(&l->lock);
    return NULL;
}

// --- the thread that calls -----------------------------------------------------------------------

static void *call_on(void *arg) {
    mk_loader *l = arg;
    pthread_mutex_lock(&l->lock);
    for (;;) {
        mk_waiter *w = mk_residence_take(l->r);
        if (w) {
            mk_lease *lease = (mk_lease *)w;  // its first member
            pthread_mutex_unlock(&l->lock);
            lease->ready(lease->arg);
            pthread_mutex_lock(&l->lock);
        } else if (l->stop) {
            break;
        } else {
            pthread_cond_wait(&l->over, &l->lock);
        }
    }
    pthread_mutex_unlock(&l->lock);
    return NULL;
}

// --- life ----------------------------------------------------------------------------------------

mk_status mk_loader_start(const mk_loader_opts *o, mk_loader **out, mk_err *err) {
    mk_loader *l = mk_zalloc(sizeof *l);
    l->o = *o;
    l->r = mk_residence_create(&o->rules);
    pthread_condattr_t a;
    pthread_condattr_init(&a);
    pthread_condattr_setclock(&a, CLOCK_MONOTONIC);
    pthread_mutex_init(&l->lock, NULL);
    pthread_cond_init(&l->work, &a);
    pthread_cond_init(&l->over, NULL);
    pthread_condattr_destroy(&a);
    l->has_loader = pthread_create(&l->loader, NULL, load_on, l) == 0;
    l->has_caller = l->has_loader && pthread_create(&l->caller, NULL, call_on, l) == 0;
    if (!l->has_caller) {
        mk_loader_stop(l);
        return MK_FAIL(err, MK_ENOMEM, "the system refused a thread for loading models");
    }
    *out = l;
    return MK_OK;
}

void mk_loader_close(mk_loader *l) {
    pthread_mutex_lock(&l->lock);
    mk_residence_close(l->r);
    wake(l);
    pthread_mutex_unlock(&l->lock);
}

void mk_loader_stop(mk_loader *l) {
    if (!l) {
        return;
    }
    pthread_mutex_lock(&l->lock);
    mk_residence_close(l->r);
    l->stop = true;
    wake(l);
    pthread_mutex_unlock(&l->lock);
    if (l->has_loader) {
        pthread_join(l->loader, NULL);
    }
    if (l->has_caller) {
        pthread_join(l->caller, NULL);
    }
    for (int i = 0; i < mk_residence_n_slot(l->r); i++) {
        if (mk_residence_read(l->r, i, 0).state == MK_MODEL_LOADED) {
            l->o.unload(l->o.arg, i);
        }
    }
    mk_residence_destroy(l->r);
    pthread_mutex_destroy(&l->lock);
    pthread_cond_destroy(&l->work);
    pthread_cond_destroy(&l->over);
    mk_free(l);
}

// --- leases --------------------------------------------------------------------------------------

int mk_loader_add(mk_loader *l, uint64_t keep_ns) {
    pthread_mutex_lock(&l->lock);
    int slot = mk_residence_add(l->r, keep_ns);
    pthread_mutex_unlock(&l->lock);
    return slot;
}

mk_status mk_loader_lease(mk_loader *l, int slot, mk_lease *lease, bool *now, mk_err *err) {
    MK_ASSERT(lease->ready);
    pthread_mutex_lock(&l->lock);
    mk_status st = mk_residence_ask(l->r, slot, &lease->w, mk_now_ns(), now, err);
    wake(l);
    pthread_mutex_unlock(&l->lock);
    return st;
}

void mk_loader_cancel(mk_loader *l, mk_lease *lease) {
    pthread_mutex_lock(&l->lock);
    mk_residence_cancel(l->r, &lease->w);
    wake(l);
    pthread_mutex_unlock(&l->lock);
}

void mk_loader_return(mk_loader *l, int slot, const uint64_t *keep_ns) {
    pthread_mutex_lock(&l->lock);
    mk_residence_leave(l->r, slot, keep_ns, mk_now_ns());
    wake(l);
    pthread_mutex_unlock(&l->lock);
}

typedef struct {
    pthread_mutex_t lock;
    pthread_cond_t cond;
    bool over;
} arrival;

static void arrive(void *arg) {
    arrival *a = arg;
    pthread_mutex_lock(&a->lock);
    a->over = true;
    pthread_cond_signal(&a->cond);
    pthread_mutex_unlock(&a->lock);
}

mk_status mk_loader_load_now(mk_loader *l, int slot, mk_err *err) {
    arrival a = {.over = false};
    bool now = false;
    pthread_mutex_init(&a.lock, NULL);
    pthread_cond_init(&a.cond, NULL);
    mk_lease lease = {.ready = arrive, .arg = &a};
    mk_status st = mk_loader_lease(l, slot, &lease, &now, err);
    if (st == MK_OK && !now) {
        pthread_mutex_lock(&a.lock);
        while (!a.over) {
            pthread_cond_wait(&a.cond, &a.lock);
        }
        pthread_mutex_unlock(&a.lock);
        st = lease.w.end.code;
        if (st != MK_OK && err) {
            *err = lease.w.end;
        }
    }
    if (st == MK_OK) {
        mk_loader_return(l, slot, NULL);
    }
    pthread_mutex_destroy(&a.lock);
    pthread_cond_destroy(&a.cond);
    return st;
}

bool mk_loader_peek(mk_loader *l, int slot) {
    pthread_mutex_lock(&l->lock);
    bool there = mk_residence_peek(l->r, slot);
    pthread_mutex_unlock(&l->lock);
    return there;
}

void mk_loader_peeked(mk_loader *l, int slot) {
    pthread_mutex_lock(&l->lock);
    mk_residence_peeked(l->r, slot);
    wake(l);
    pthread_mutex_unlock(&l->lock);
}

bool mk_loader_wanted(mk_loader *l, int slot) {
    pthread_mutex_lock(&l->lock);
    bool wanted = mk_residence_wanted(l->r, slot);
    l->gives_up = l->gives_up || !wanted;
    wanted = !l->gives_up;
    pthread_mutex_unlock(&l->lock);
    return wanted;
}

void mk_loader_dismiss(mk_loader *l, int slot) {
    pthread_mutex_lock(&l->lock);
    mk_residence_dismiss(l->r, slot);
    wake(l);
    pthread_mutex_unlock(&l->lock);
}

mk_residence_info mk_loader_read(mk_loader *l, int slot) {
    pthread_mutex_lock(&l->lock);
    mk_residence_info i = mk_residence_read(l->r, slot, mk_now_ns());
    pthread_mutex_unlock(&l->lock);
    return i;
}
