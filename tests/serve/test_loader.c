// The two threads around the rules of residence.h: nobody uses what is not loaded, everybody is
// told once, and the end finds everything unloaded.
#include "cmocka_all.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

#include "base/alloc.h"
#include "serve/loader.h"

enum { N_SLOT = 3, N_THREAD = 4, N_ROUND = 50 };

typedef struct {
    mk_loader *l;
    atomic_int loaded[N_SLOT], n_loaded, most, n_load;
    atomic_bool fails;
    pthread_mutex_t gate;  // a load needs it
} fake;

static mk_status load(void *arg, int slot, bool alone, mk_err *err) {
    fake *f = arg;
    pthread_mutex_lock(&f->gate);
    pthread_mutex_unlock(&f->gate);
    if (alone != (atomic_load(&f->n_loaded) == 0)) {
        return MK_FAIL(err, MK_EIO, "alone is wrong");
    }
    if (atomic_load(&f->fails)) {
        return MK_FAIL(err, MK_ECORRUPT, "broken");
    }
    int n = atomic_fetch_add(&f->n_loaded, 1) + 1;
    if (n > atomic_load(&f->most)) {
        atomic_store(&f->most, n);
    }
    atomic_fetch_add(&f->n_load, 1);
    atomic_store(&f->loaded[slot], 1);
    return MK_OK;
}

static void unload(void *arg, int slot) {
    fake *f = arg;
    atomic_store(&f->loaded[slot], 0);
    atomic_fetch_sub(&f->n_loaded, 1);
}

static void start(fake *f, int max_loaded) {
    *f = (fake){.gate = PTHREAD_MUTEX_INITIALIZER};
    mk_loader_opts o = {.load = load,
                        .unload = unload,
                        .arg = f,
                        .rules = {.max_loaded = max_loaded, .max_waiting = 100}};
    mk_err err = {0};
    assert_int_equal(mk_loader_start(&o, &f->l, &err), MK_OK);
    for (int i = 0; i < N_SLOT; i++) {
        assert_int_equal(mk_loader_add(f->l, MK_KEEP_FOREVER), i);
    }
}

typedef struct {
    pthread_mutex_t lock;
    pthread_cond_t cond;
    int n;
} bell;

static void ring(void *arg) {
    bell *b = arg;
    pthread_mutex_lock(&b->lock);
    b->n++;
    pthread_cond_broadcast(&b->cond);
    pthread_mutex_unlock(&b->lock);
}

static void wait_for(bell *b, int n) {
    pthread_mutex_lock(&b->lock);
    while (b->n < n) {
        pthread_cond_wait(&b->cond, &b->lock);
    }
    pthread_mutex_unlock(&b->lock);
}

#define BELL                                                                                       \
    { .lock = PTHREAD_MUTEX_INITIALIZER, .cond = PTHREAD_COND_INITIALIZER }

typedef struct {
    fake *f;
    int i, n_wrong;
} visitor;

static void *visit_many(void *arg) {
    visitor *v = arg;
    for (int k = 0; k < N_ROUND; k++) {
        bell b = BELL;
        mk_lease lease = {.ready = ring, .arg = &b};
        int slot = (v->i + k) % N_SLOT;
        bool now = false;
        mk_err err;
        if (mk_loader_lease(v->f->l, slot, &lease, &now, &err) != MK_OK) {
            v->n_wrong++;
            continue;
        }
        if (!now) {
            wait_for(&b, 1);
        }
        v->n_wrong += lease.w.end.code != MK_OK || !atomic_load(&v->f->loaded[slot]);
        mk_loader_return(v->f->l, slot, NULL);
    }
    return NULL;
}

static void test_many_visitors_at_two_places(void **state) {
    (void)state;
    int64_t live = mk_alloc_live();
    fake f;
    start(&f, 2);
    visitor v[N_THREAD];
    pthread_t t[N_THREAD];
    for (int i = 0; i < N_THREAD; i++) {
        v[i] = (visitor){.f = &f, .i = i};
        assert_int_equal(pthread_create(&t[i], NULL, visit_many, &v[i]), 0);
    }
    for (int i = 0; i < N_THREAD; i++) {
        pthread_join(t[i], NULL);
        assert_int_equal(v[i].n_wrong, 0);
    }
    assert_true(atomic_load(&f.most) <= 2);
    mk_loader_stop(f.l);
    assert_int_equal(atomic_load(&f.n_loaded), 0);
    assert_int_equal(mk_alloc_live(), live);
}

// While a load takes long: who does not want to wait is told at once, and so are all at the end.
static void test_a_long_load(void **state) {
    (void)state;
    fake f;
    start(&f, 0);
    bell b = BELL;
    mk_lease lease[3] = {
        {.ready = ring, .arg = &b}, {.ready = ring, .arg = &b}, {.ready = ring, .arg = &b}};
    bool now;
    mk_err err = {0};
    pthread_mutex_lock(&f.gate);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(mk_loader_lease(f.l, i / 2, &lease[i], &now, &err), MK_OK);
        assert_false(now);
    }
    mk_loader_cancel(f.l, &lease[0]);
    wait_for(&b, 1);
    assert_int_equal(lease[0].w.end.code, MK_EINTR);
    mk_loader_close(f.l);
    wait_for(&b, 3);
    assert_int_equal(lease[1].w.end.code, MK_EINTR);
    assert_int_equal(lease[2].w.end.code, MK_EINTR);
    assert_int_equal(mk_loader_lease(f.l, 2, &lease[0], &now, &err), MK_EINTR);
    pthread_mutex_unlock(&f.gate);
    mk_loader_stop(f.l);
    assert_int_equal(atomic_load(&f.n_loaded), 0);
}

// --- given up ------------------------------------------------------------------------------------

typedef struct {
    mk_loader *l;
    atomic_int n_begun, n_loaded;
    atomic_bool goes_on;  // a load ends well as soon as this is set
} patient;

static mk_status load_on(void *arg, int slot, bool alone, mk_err *err) {
    patient *p = arg;
    (void)alone;
    atomic_fetch_add(&p->n_begun, 1);
    while (!atomic_load(&p->goes_on)) {
        if (!mk_loader_wanted(p->l, slot)) {
            return MK_FAIL(err, MK_EINTR, "not wanted");
        }
        sched_yield();
    }
    atomic_fetch_add(&p->n_loaded, 1);
    return MK_OK;
}

static void unload_one(void *arg, int slot) {
    (void)slot;
    atomic_fetch_sub(&((patient *)arg)->n_loaded, 1);
}

static void start_patient(patient *p) {
    mk_loader_opts o = {
        .load = load_on, .unload = unload_one, .arg = p, .rules = {.max_waiting = 100}};
    mk_err err = {0};
    assert_int_equal(mk_loader_start(&o, &p->l, &err), MK_OK);
    assert_int_equal(mk_loader_add(p->l, MK_KEEP_FOREVER), 0);
}

static void wait_for_state(patient *p, mk_model_state state) {
    while (mk_loader_read(p->l, 0).state != state) {
        sched_yield();
    }
}

// The load goes on while one of two still waits, ends when both have left, counts as no failure,
// and the next who asks has another.
static void test_nobody_waits(void **state) {
    (void)state;
    int64_t live = mk_alloc_live();
    patient p = {.l = NULL};
    start_patient(&p);
    bell b = BELL;
    mk_lease lease[3] = {
        {.ready = ring, .arg = &b}, {.ready = ring, .arg = &b}, {.ready = ring, .arg = &b}};
    bool now = false;
    mk_err err = {0};
    for (int i = 0; i < 2; i++) {
        assert_int_equal(mk_loader_lease(p.l, 0, &lease[i], &now, &err), MK_OK);
    }
    wait_for_state(&p, MK_MODEL_LOADING);
    mk_loader_cancel(p.l, &lease[0]);
    wait_for(&b, 1);
    assert_true(mk_loader_wanted(p.l, 0));
    mk_loader_cancel(p.l, &lease[1]);
    wait_for_state(&p, MK_MODEL_UNLOADED);
    assert_int_equal(mk_loader_read(p.l, 0).n_failed, 0);
    assert_int_equal(atomic_load(&p.n_loaded), 0);
    atomic_store(&p.goes_on, true);
    assert_int_equal(mk_loader_lease(p.l, 0, &lease[2], &now, &err), MK_OK);
    wait_for(&b, 3);
    assert_int_equal(lease[2].w.end.code, MK_OK);
    assert_int_equal(atomic_load(&p.n_begun), 2);
    mk_loader_return(p.l, 0, NULL);
    mk_loader_stop(p.l);
    assert_int_equal(atomic_load(&p.n_loaded), 0);
    assert_int_equal(mk_alloc_live(), live);
}

// Who asks when the load has been told to end, and has not ended yet, gets the next one.
static void test_asked_too_late(void **state) {
    (void)state;
    patient p = {.l = NULL};
    start_patient(&p);
    bell b = BELL;
    mk_lease lease[2] = {{.ready = ring, .arg = &b}, {.ready = ring, .arg = &b}};
    bool now = false;
    mk_err err = {0};
    assert_int_equal(mk_loader_lease(p.l, 0, &lease[0], &now, &err), MK_OK);
    wait_for_state(&p, MK_MODEL_LOADING);
    mk_loader_cancel(p.l, &lease[0]);
    while (atomic_load(&p.n_begun) > 0 && mk_loader_wanted(p.l, 0) &&
           mk_loader_read(p.l, 0).state == MK_MODEL_LOADING) {
        sched_yield();
    }
    assert_int_equal(mk_loader_lease(p.l, 0, &lease[1], &now, &err), MK_OK);
    while (atomic_load(&p.n_begun) < 2) {
        sched_yield();
    }
    atomic_store(&p.goes_on, true);
    wait_for(&b, 2);
    assert_int_equal(lease[1].w.end.code, MK_OK);
    mk_loader_return(p.l, 0, NULL);
    mk_loader_stop(p.l);
}

// The end of the server does not wait for a load.
static void test_closed_while_it_loads(void **state) {
    (void)state;
    patient p = {.l = NULL};
    start_patient(&p);
    bell b = BELL;
    mk_lease lease = {.ready = ring, .arg = &b};
    bool now = false;
    mk_err err = {0};
    assert_int_equal(mk_loader_lease(p.l, 0, &lease, &now, &err), MK_OK);
    wait_for_state(&p, MK_MODEL_LOADING);
    mk_loader_close(p.l);
    wait_for(&b, 1);
    assert_int_equal(lease.w.end.code, MK_EINTR);
    mk_loader_stop(p.l);  // returns
    assert_int_equal(atomic_load(&p.n_loaded), 0);
}

static void test_load_now(void **state) {
    (void)state;
    fake f;
    start(&f, 0);
    mk_err err = {0};
    atomic_store(&f.fails, true);
    assert_int_equal(mk_loader_load_now(f.l, 1, &err), MK_ECORRUPT);
    assert_string_equal(err.msg, "broken");
    atomic_store(&f.fails, false);
    assert_int_equal(mk_loader_load_now(f.l, 1, &err), MK_OK);
    assert_int_equal(mk_loader_load_now(f.l, 1, &err), MK_OK);
    assert_int_equal(atomic_load(&f.n_load), 1);
    assert_int_equal(mk_loader_read(f.l, 1).state, MK_MODEL_LOADED);
    assert_true(mk_loader_peek(f.l, 1));
    mk_loader_dismiss(f.l, 1);
    assert_int_equal(mk_loader_read(f.l, 1).state, MK_MODEL_LOADED);  // somebody looks
    mk_loader_peeked(f.l, 1);
    mk_loader_stop(f.l);
    assert_int_equal(atomic_load(&f.n_loaded), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_many_visitors_at_two_places),
                                       cmocka_unit_test(test_a_long_load),
                                       cmocka_unit_test(test_nobody_waits),
                                       cmocka_unit_test(test_asked_too_late),
                                       cmocka_unit_test(test_closed_while_it_loads),
                                       cmocka_unit_test(test_load_now)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
