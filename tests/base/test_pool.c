#include "cmocka_all.h"

#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

#include "base/alloc.h"
#include "base/crowd.h"
#include "base/mathx.h"
#include "base/pool.h"

enum { MAX_THREAD = 7 };

typedef struct {
    atomic_int calls[MAX_THREAD];
    int64_t
        plain[MAX_THREAD];  // written without atomics: the region itself must order the accesses
    int64_t round;
    int n_thread;
} region;

static void count_calls(void *arg, int ith, int n_thread) {
    region *r = arg;
    atomic_fetch_add(&r->calls[ith], 1);
    if (ith == 0) {
        r->n_thread = n_thread;
    }
    r->plain[ith] += r->round;
}

static void check_pool(int n_thread, int rounds, bool pauses) {
    mk_pool *p = mk_pool_create(n_thread);
    assert_int_equal(mk_pool_n_thread(p), n_thread);
    region r = {0};
    for (r.round = 1; r.round <= rounds; r.round++) {
        mk_pool_run(p, count_calls, &r);
        assert_int_equal(r.n_thread, n_thread);
        for (int i = 0; i < n_thread; i++) {
            if (atomic_load(&r.calls[i]) != r.round || r.plain[i] != r.round * (r.round + 1) / 2) {
                fail_msg("thread %d of %d, round %lld: wrong count", i, n_thread,
                         (long long)r.round);
            }
        }
        if (pauses && r.round % 7 == 0) {
            nanosleep(&(struct timespec){.tv_nsec = 200000},
                      NULL);  // long enough for the workers to park
        }
    }
    mk_pool_destroy(p);
}

static void test_many_regions(void **state) {
    (void)state;
    int64_t live = mk_alloc_live();
    for (int n = 1; n <= MAX_THREAD; n++) {
        check_pool(n, n <= 2 ? 20000 : 4000, false);
        check_pool(n, 300, true);
    }
    assert_int_equal(mk_alloc_live(), live);
}

// Pools that compete: nobody spins while their threads in regions are more than the processors.
typedef struct {
    mk_pool *one, *other;
    atomic_int alone, together;  // how often a thread may spin
} crowded;

static void look_together(void *arg, int ith, int n_thread) {
    crowded *c = arg;
    (void)ith, (void)n_thread;
    atomic_fetch_add(&c->together, mk_pool_may_spin(c->one) + mk_pool_may_spin(c->other));
}

static void look(void *arg, int ith, int n_thread) {
    crowded *c = arg;
    (void)n_thread;
    if (ith == 0) {
        atomic_fetch_add(&c->alone, mk_pool_may_spin(c->one));
        mk_pool_run(c->other, look_together, c);
        atomic_fetch_add(&c->alone, mk_pool_may_spin(c->one));
    }
}

typedef struct {
    mk_pool *pool;
    region r;
} caller;

static void *call_many(void *arg) {
    caller *c = arg;
    for (c->r.round = 1; c->r.round <= 2000; c->r.round++) {
        mk_pool_run(c->pool, count_calls, &c->r);
    }
    return NULL;
}

static void test_crowd(void **state) {
    (void)state;
    int64_t live = mk_alloc_live();
    int n = mk_cpu_count() < MAX_THREAD ? mk_cpu_count() : MAX_THREAD;
    mk_pool_crowd *crowd = mk_pool_crowd_create();
    crowded c = {.one = mk_pool_create_in(crowd, n), .other = mk_pool_create_in(crowd, n)};
    mk_pool_run(c.one, look, &c);
    assert_int_equal(c.alone, 2);
    if (2 * n > mk_cpu_count()) {
        assert_int_equal(c.together, 0);
    }
    // and at the same time every region is complete
    caller call[2] = {{.pool = c.one}, {.pool = c.other}};
    pthread_t t[2];
    for (int i = 0; i < 2; i++) {
        assert_int_equal(pthread_create(&t[i], NULL, call_many, &call[i]), 0);
    }
    for (int i = 0; i < 2; i++) {
        pthread_join(t[i], NULL);
        for (int k = 0; k < n; k++) {
            assert_int_equal(call[i].r.calls[k], 2000);
            assert_int_equal(call[i].r.plain[k], 2000 * 2001 / 2);
        }
    }
    assert_true(mk_pool_may_spin(c.one));
    mk_pool_destroy(c.one);
    mk_pool_destroy(c.other);
    mk_pool_crowd_destroy(crowd);
    assert_int_equal(mk_alloc_live(), live);
}

// Every item of shared work is given out once, whoever takes it, and no piece is longer than half a
// thread's part or the grain.
typedef struct {
    mk_pool *pool;
    int64_t longest;
    atomic_int seen[1000];
} shared;

static void take_pieces(void *arg, int ith, int n_thread) {
    shared *s = arg;
    int64_t lo, hi;
    (void)n_thread;
    while (mk_pool_take(s->pool, ith, &lo, &hi)) {
        assert_true(lo < hi && hi - lo <= s->longest);
        for (int64_t i = lo; i < hi; i++) {
            atomic_fetch_add(&s->seen[i], 1);
        }
        if (ith == 1) {
            nanosleep(&(struct timespec){.tv_nsec = 20000}, NULL);  // the others take its pieces
        }
    }
}

static void test_shared_work(void **state) {
    (void)state;
    static const int64_t grains[] = {1, 7, 64, 5000};
    for (int n_thread = 1; n_thread <= 4; n_thread++) {
        shared s = {.pool = mk_pool_create(n_thread)};
        for (int c = 0; c < 4 * 5; c++) {
            int64_t n = (int64_t)c / 4 * 249;  // 0 to 996
            int64_t grain = grains[c % 4], part = (n + n_thread - 1) / n_thread;
            s.longest = grain > (part + 1) / 2 ? grain : (part + 1) / 2;
            for (int i = 0; i < 1000; i++) {
                atomic_store(&s.seen[i], 0);
            }
            mk_pool_share(s.pool, n, grain);
            mk_pool_run(s.pool, take_pieces, &s);
            for (int i = 0; i < 1000; i++) {
                assert_int_equal(atomic_load(&s.seen[i]), i < n ? 1 : 0);
            }
        }
        mk_pool_destroy(s.pool);
    }
}

static void test_create_and_destroy(void **state) {
    (void)state;
    for (int i = 0; i < 200; i++) {
        mk_pool_destroy(mk_pool_create(1 + i % MAX_THREAD));
    }
    mk_pool_destroy(NULL);
}

static void read_flush_to_zero(void *arg, int ith, int n_thread) {
    (void)n_thread;
    volatile float tiny = 1e-38f;
    ((bool *)arg)[ith] = tiny * 0.01f == 0.0f;
}

static void test_workers_flush_to_zero(void **state) {
    (void)state;
#if defined(__x86_64__) || defined(__aarch64__)
    bool flushed[3] = {false};
    mk_pool *p = mk_pool_create(3);
    uint64_t old = mk_fpu_enter();
    mk_pool_run(p, read_flush_to_zero, flushed);
    mk_fpu_leave(old);
    assert_true(flushed[0] && flushed[1] && flushed[2]);
    mk_pool_run(p, read_flush_to_zero, flushed);
    assert_false(flushed[0]);  // the caller got its own state back
    mk_pool_destroy(p);
#endif
}

static void test_split(void **state) {
    (void)state;
    static const int64_t sizes[] = {0, 1, 15, 16, 17, 63, 64, 1000, 4097, INT64_MAX, INT64_MAX - 5};
    static const int64_t grains[] = {1, 16, 64};
    for (size_t s = 0; s < sizeof sizes / sizeof sizes[0]; s++) {
        for (size_t g = 0; g < 3; g++) {
            for (int n = 1; n <= 17; n++) {
                int64_t end = 0;
                for (int i = 0; i < n; i++) {
                    int64_t lo, hi;
                    mk_pool_split(sizes[s], grains[g], i, n, &lo, &hi);
                    assert_int_equal(lo, end);  // no gap, no overlap
                    assert_true(hi >= lo && (hi % grains[g] == 0 || hi == sizes[s]));
                    assert_true(hi - lo - sizes[s] / n <= 2 * grains[g]);
                    end = hi;
                }
                assert_int_equal(end, sizes[s]);
            }
        }
    }
}

static void test_cpu_count(void **state) {
    (void)state;
    assert_in_range(mk_cpu_count(), 1, 1 << 20);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_many_regions),
        cmocka_unit_test(test_crowd),
        cmocka_unit_test(test_shared_work),
        cmocka_unit_test(test_create_and_destroy),
        cmocka_unit_test(test_workers_flush_to_zero),
        cmocka_unit_test(test_split),
        cmocka_unit_test(test_cpu_count),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
