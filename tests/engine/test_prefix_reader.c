// The reader of the prefix cache over a disk that is as slow as the test wants: this file has the
// two functions of prefix_disk.h that it calls.
#include "cmocka_all.h"

#include <pthread.h>

#include "base/alloc.h"
#include "engine/prefix_reader.h"

// --- a disk --------------------------------------------------------------------------------------

enum { N_KEY = 8, LONG_MS = 10000 };

static struct {
    pthread_mutex_t lock;
    pthread_cond_t change;
    bool there[N_KEY], open[N_KEY], bad[N_KEY];  // open: reading it does not wait
    int order[64], n_read, n_begun;
} disk = {.lock = PTHREAD_MUTEX_INITIALIZER, .change = PTHREAD_COND_INITIALIZER};

static mk_u128 key_of(int k) {
    return (mk_u128){(uint64_t)k, 77};
}

bool mk_prefix_disk_there(mk_prefix_disk *d, mk_u128 key) {
    (void)d;
    pthread_mutex_lock(&disk.lock);
    bool yes = disk.there[key.lo];
    pthread_mutex_unlock(&disk.lock);
    return yes;
}

bool mk_prefix_disk_get(mk_prefix_disk *d, uint64_t tenant, mk_u128 key, mk_prefix_found *out) {
    (void)d;
    pthread_mutex_lock(&disk.lock);
    disk.order[disk.n_begun++ % 64] = (int)key.lo;
    pthread_cond_broadcast(&disk.change);
    while (!disk.open[key.lo]) {
        pthread_cond_wait(&disk.change, &disk.lock);
    }
    bool good = !disk.bad[key.lo];
    disk.n_read++;
    pthread_cond_broadcast(&disk.change);
    pthread_mutex_unlock(&disk.lock);
    *out = (mk_prefix_found){.at = (int64_t)key.lo, .run.tenant = tenant};
    out->bytes = good ? mk_alloc(16) : NULL;
    return good;
}

static void set(bool *what, bool to) {
    pthread_mutex_lock(&disk.lock);
    *what = to;
    pthread_cond_broadcast(&disk.change);
    pthread_mutex_unlock(&disk.lock);
}

static void wait_count(const int *count, int n) {
    pthread_mutex_lock(&disk.lock);
    while (*count < n) {
        pthread_cond_wait(&disk.change, &disk.lock);
    }
    pthread_mutex_unlock(&disk.lock);
}

static mk_prefix_reader *reader;
static int64_t live;

static int start(void **state) {
    (void)state;
    mk_err err;
    live = mk_alloc_live();
    for (int k = 0; k < N_KEY; k++) {
        disk.there[k] = true;
        disk.open[k] = disk.bad[k] = false;
    }
    disk.n_read = disk.n_begun = 0;
    return mk_prefix_reader_start(NULL, &reader, &err) == MK_OK ? 0 : -1;
}

static int stop(void **state) {
    (void)state;
    for (int k = 0; k < N_KEY; k++) {
        set(&disk.open[k], true);
    }
    mk_prefix_reader_stop(reader);
    return mk_alloc_live() == live ? 0 : -1;  // nothing is left behind, whatever was on order
}

static mk_prefix_state ask(int who, int k) {
    mk_prefix_found f = {0};
    mk_prefix_state st = mk_prefix_reader_get(reader, who, 5, key_of(k), &f);
    if (st == MK_PREFIX_FOUND) {
        assert_true(f.at == k && f.run.tenant == 5);
        mk_free(f.bytes);
    }
    return st;
}

static mk_prefix_state fetch(int who, int k) {
    mk_prefix_state st = MK_PREFIX_LATER;
    while (st == MK_PREFIX_LATER) {
        st = ask(who, k);
        mk_prefix_reader_wait(reader, LONG_MS);
    }
    return st;
}

// --- tests ---------------------------------------------------------------------------------------

static void test_nobody_waits(void **state) {
    (void)state;
    for (int i = 0; i < 100; i++) {
        assert_int_equal(ask(1, 3), MK_PREFIX_LATER);
    }
    wait_count(&disk.n_begun, 1);
    assert_int_equal(ask(1, 3), MK_PREFIX_LATER);
    set(&disk.open[3], true);
    assert_int_equal(fetch(1, 3), MK_PREFIX_FOUND);
    assert_int_equal(disk.n_begun, 1);  // it was read once
    set(&disk.there[4], false);
    assert_int_equal(ask(1, 4), MK_PREFIX_MISS);
    set(&disk.bad[5], true);
    set(&disk.open[5], true);
    assert_int_equal(fetch(1, 5), MK_PREFIX_MISS);
    mk_prefix_reader_wait(reader, LONG_MS);  // nothing is on order: at once
}

static void test_in_order(void **state) {
    (void)state;
    for (int who = 0; who < 4; who++) {
        assert_int_equal(ask(who, who), MK_PREFIX_LATER);
    }
    wait_count(&disk.n_begun, 1);
    assert_int_equal(ask(1, 5), MK_PREFIX_LATER);  // changes its mind, and goes to the end
    for (int k = 0; k < N_KEY; k++) {
        set(&disk.open[k], true);
    }
    // two wait to be fetched: the thread rests until one is
    wait_count(&disk.n_read, 2);
    assert_int_equal(fetch(2, 2), MK_PREFIX_FOUND);
    wait_count(&disk.n_read, 3);
    assert_int_equal(disk.n_begun, 3);
    assert_int_equal(fetch(0, 0), MK_PREFIX_FOUND);
    assert_int_equal(fetch(3, 3), MK_PREFIX_FOUND);
    assert_int_equal(fetch(1, 5), MK_PREFIX_FOUND);
    static const int want[] = {0, 2, 3, 5};
    assert_int_equal(disk.n_begun, 4);
    assert_memory_equal(disk.order, want, sizeof want);
}

static void test_let_go(void **state) {
    (void)state;
    assert_int_equal(ask(0, 0), MK_PREFIX_LATER);
    assert_int_equal(ask(1, 1), MK_PREFIX_LATER);
    wait_count(&disk.n_begun, 1);
    mk_prefix_reader_let_go(reader, 0);  // while it is read
    mk_prefix_reader_let_go(reader, 1);  // before
    mk_prefix_reader_let_go(reader, 7);  // never asked
    assert_int_equal(ask(0, 2), MK_PREFIX_LATER);
    for (int k = 0; k < N_KEY; k++) {
        set(&disk.open[k], true);
    }
    assert_int_equal(fetch(0, 2), MK_PREFIX_FOUND);
    static const int want[] = {0, 2};
    assert_int_equal(disk.n_begun, 2);
    assert_memory_equal(disk.order, want, sizeof want);
    assert_int_equal(ask(0, 3), MK_PREFIX_LATER);
    wait_count(&disk.n_read, 3);
    mk_prefix_reader_wait(reader, LONG_MS);
    mk_prefix_reader_let_go(reader, -1);           // behind it
    assert_int_equal(ask(0, 4), MK_PREFIX_LATER);  // stop finds it in some state
}

static void test_no_memory(void **state) {
    (void)state;
    mk_alloc_fail_at(1);
    assert_int_equal(ask(0, 0), MK_PREFIX_MISS);
    assert_int_equal(mk_alloc_fail_left(), 0);
    assert_int_equal(disk.n_begun, 0);
}

#define WITH(fn) cmocka_unit_test_setup_teardown(fn, start, stop)

int main(void) {
    const struct CMUnitTest tests[] = {WITH(test_nobody_waits), WITH(test_in_order),
                                       WITH(test_let_go), WITH(test_no_memory)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
