// Which models are in memory: every rule of serve/residence.h, with a clock that the test turns.
#include "cmocka_all.h"

#include <string.h>

#include "serve/residence.h"

#define SECOND UINT64_C(1000000000)
#define KEEP   (60 * SECOND)

typedef struct {
    mk_residence *r;
    uint64_t now;
} house;

static house open_house(int n_slot, int max_loaded) {
    house h = {.now = 1000 * SECOND};
    h.r = mk_residence_create(&(mk_residence_opts){
        .max_loaded = max_loaded, .max_waiting = 4, .patience_ns = 5 * SECOND});
    for (int i = 0; i < n_slot; i++) {
        assert_int_equal(mk_residence_add(h.r, KEEP), i);
    }
    return h;
}

static void expect_step(house *h, mk_step_kind kind, int slot) {
    mk_residence_step s = mk_residence_next(h->r, h->now);
    assert_int_equal(s.kind, kind);
    assert_int_equal(s.slot, slot);
}

// Nothing is to be done before `seconds` from now; below 0: before something happens.
static void expect_rest(house *h, double seconds) {
    mk_residence_step s = mk_residence_next(h->r, h->now);
    assert_int_equal(s.kind, MK_STEP_NONE);
    assert_true(seconds < 0 ? s.at_ns == MK_KEEP_FOREVER
                            : s.at_ns == h->now + (uint64_t)(seconds * 1e9));
}

static bool ask(house *h, int slot, mk_waiter *w) {
    bool granted = false;
    mk_err err = {0};
    *w = (mk_waiter){0};
    assert_int_equal(mk_residence_ask(h->r, slot, w, h->now, &granted, &err), MK_OK);
    assert_int_equal(w->waits, !granted);
    return granted;
}

static void expect_over(house *h, mk_waiter *w, mk_status how) {
    assert_ptr_equal(mk_residence_take(h->r), w);
    assert_int_equal(w->end.code, how);
    assert_false(w->waits);
}

static void load(house *h, int slot) {
    expect_step(h, MK_STEP_LOAD, slot);
    mk_residence_loaded(h->r, slot, h->now);
}

static void unload(house *h, int slot) {
    expect_step(h, MK_STEP_UNLOAD, slot);
    mk_residence_unloaded(h->r, slot);
}

static void leave(house *h, int slot) {
    mk_residence_leave(h->r, slot, NULL, h->now);
}

static mk_model_state state_of(const house *h, int slot) {
    return mk_residence_read(h->r, slot, h->now).state;
}

// Loads the slot for one request that ends at once.
static void visit(house *h, int slot) {
    mk_waiter w;
    assert_false(ask(h, slot, &w));
    load(h, slot);
    expect_over(h, &w, MK_OK);
    leave(h, slot);
}

static void test_load_when_asked_for(void **state) {
    (void)state;
    house h = open_house(2, 0);
    mk_waiter a, b, c;
    expect_rest(&h, -1);
    assert_false(ask(&h, 1, &a));
    assert_false(ask(&h, 1, &b));
    assert_int_equal(mk_residence_read(h.r, 1, h.now).n_waiting, 2);
    mk_residence_step s = mk_residence_next(h.r, h.now);
    assert_int_equal(s.kind, MK_STEP_LOAD);
    assert_int_equal(s.slot, 1);
    assert_true(s.alone);
    assert_int_equal(state_of(&h, 1), MK_MODEL_LOADING);
    assert_null(mk_residence_take(h.r));
    assert_false(ask(&h, 1, &c));  // one more while it is loaded
    mk_residence_loaded(h.r, 1, h.now);
    expect_over(&h, &a, MK_OK);
    expect_over(&h, &b, MK_OK);
    expect_over(&h, &c, MK_OK);
    assert_null(mk_residence_take(h.r));
    assert_int_equal(mk_residence_read(h.r, 1, h.now).n_use, 3);
    assert_true(ask(&h, 1, &a));  // it is there
    expect_rest(&h, -1);          // in use: it does not expire
    // beside it another, which is then not alone
    assert_false(ask(&h, 0, &b));
    s = mk_residence_next(h.r, h.now);
    assert_int_equal(s.kind, MK_STEP_LOAD);
    assert_false(s.alone);
    mk_residence_loaded(h.r, 0, h.now);
    expect_over(&h, &b, MK_OK);
    mk_residence_destroy(h.r);
}

static void test_idle_models_expire(void **state) {
    (void)state;
    house h = open_house(1, 0);
    mk_waiter w;
    visit(&h, 0);
    expect_rest(&h, 60);
    h.now += 30 * SECOND;
    assert_true(ask(&h, 0, &w));
    expect_rest(&h, -1);
    h.now += 500 * SECOND;
    assert_int_equal(mk_residence_read(h.r, 0, h.now).expires_ns, h.now + KEEP);
    leave(&h, 0);
    h.now += 59 * SECOND;
    expect_rest(&h, 1);
    assert_int_equal(mk_residence_read(h.r, 0, h.now).expires_ns, h.now + SECOND);
    h.now += SECOND;
    expect_step(&h, MK_STEP_UNLOAD, 0);
    assert_int_equal(state_of(&h, 0), MK_MODEL_UNLOADING);
    assert_false(ask(&h, 0, &w));  // too late for this one: it is loaded again
    mk_residence_unloaded(h.r, 0);
    load(&h, 0);
    expect_over(&h, &w, MK_OK);
    mk_residence_info i = mk_residence_read(h.r, 0, h.now);
    assert_int_equal(i.n_load, 2);
    assert_int_equal(i.n_unload, 1);
    mk_residence_destroy(h.r);
}

static void test_keep_alive_of_a_request(void **state) {
    (void)state;
    house h = open_house(1, 0);
    mk_waiter w;
    const uint64_t forever = MK_KEEP_FOREVER, none = 0, hour = 3600 * SECOND;
    visit(&h, 0);
    assert_true(ask(&h, 0, &w));
    mk_residence_leave(h.r, 0, &hour, h.now);
    expect_rest(&h, 3600);
    assert_true(ask(&h, 0, &w));
    leave(&h, 0);  // says nothing: as before
    expect_rest(&h, 3600);
    assert_true(ask(&h, 0, &w));
    mk_residence_leave(h.r, 0, &forever, h.now);
    expect_rest(&h, -1);
    // 0: as soon as the last one has ended
    mk_waiter v;
    assert_true(ask(&h, 0, &w));
    assert_true(ask(&h, 0, &v));
    mk_residence_leave(h.r, 0, &none, h.now);
    expect_rest(&h, -1);
    leave(&h, 0);
    unload(&h, 0);
    visit(&h, 0);  // loaded again it has its own duration again
    expect_rest(&h, 60);
    mk_residence_dismiss(h.r, 0);
    unload(&h, 0);
    mk_residence_dismiss(h.r, 0);  // nothing is there
    expect_rest(&h, -1);
    mk_residence_destroy(h.r);
}

static void test_the_one_used_longest_ago_makes_way(void **state) {
    (void)state;
    house h = open_house(3, 2);
    mk_waiter w;
    visit(&h, 0);
    h.now += SECOND;
    visit(&h, 1);
    h.now += SECOND;
    assert_true(ask(&h, 0, &w));
    leave(&h, 0);
    assert_false(ask(&h, 2, &w));
    unload(&h, 1);
    load(&h, 2);
    expect_over(&h, &w, MK_OK);
    assert_int_equal(state_of(&h, 0), MK_MODEL_LOADED);
    mk_residence_destroy(h.r);
}

static void test_two_models_take_turns_at_one_place(void **state) {
    (void)state;
    house h = open_house(2, 1);
    mk_waiter a, b, c, d;
    assert_false(ask(&h, 0, &a));
    load(&h, 0);
    expect_over(&h, &a, MK_OK);
    assert_false(ask(&h, 1, &b));
    expect_rest(&h, 5);  // 0 is in use: it has 5 seconds to pause by itself
    h.now += 4 * SECOND;
    assert_true(ask(&h, 0, &c));
    leave(&h, 0);
    expect_rest(&h, 1);
    h.now += SECOND;
    expect_rest(&h, -1);  // the door of 0 is closed
    assert_false(ask(&h, 0, &d));
    expect_rest(&h, -1);
    leave(&h, 0);
    unload(&h, 0);
    load(&h, 1);  // its request came before the one that waits for 0
    expect_over(&h, &b, MK_OK);
    assert_null(mk_residence_take(h.r));
    expect_rest(&h, 5);
    leave(&h, 1);
    unload(&h, 1);
    load(&h, 0);
    expect_over(&h, &d, MK_OK);
    leave(&h, 0);
    mk_residence_destroy(h.r);
}

static void test_a_door_opens_again(void **state) {
    (void)state;
    house h = open_house(2, 1);
    mk_waiter a, b, c;
    assert_false(ask(&h, 0, &a));
    load(&h, 0);
    expect_over(&h, &a, MK_OK);
    assert_false(ask(&h, 1, &b));
    h.now += 5 * SECOND;
    expect_rest(&h, -1);
    assert_false(ask(&h, 0, &c));
    mk_residence_cancel(h.r, &b);  // whom the door was closed for
    expect_over(&h, &b, MK_EINTR);
    expect_rest(&h, -1);
    expect_over(&h, &c, MK_OK);
    assert_true(ask(&h, 0, &b));
    assert_int_equal(mk_residence_read(h.r, 0, h.now).n_use, 3);
    mk_residence_destroy(h.r);
}

static void test_a_load_that_fails(void **state) {
    (void)state;
    house h = open_house(1, 0);
    mk_waiter a, b;
    mk_err why = {0};
    (void)MK_FAIL(&why, MK_ECORRUPT, "it is broken");
    assert_false(ask(&h, 0, &a));
    assert_false(ask(&h, 0, &b));
    expect_step(&h, MK_STEP_LOAD, 0);
    mk_residence_failed(h.r, 0, &why);
    expect_over(&h, &a, MK_ECORRUPT);
    assert_string_equal(a.end.msg, "it is broken");
    expect_over(&h, &b, MK_ECORRUPT);
    expect_rest(&h, -1);
    visit(&h, 0);  // the next request tries again
    mk_residence_info i = mk_residence_read(h.r, 0, h.now);
    assert_int_equal(i.n_failed, 1);
    assert_int_equal(i.n_load, 1);
    mk_residence_destroy(h.r);
}

static void test_no_memory_beside_others(void **state) {
    (void)state;
    house h = open_house(3, 0);
    mk_waiter a, w;
    mk_err full = {0};
    (void)MK_FAIL(&full, MK_ENOMEM, "it needs more");
    visit(&h, 0);
    assert_false(ask(&h, 1, &a));
    load(&h, 1);
    expect_over(&h, &a, MK_OK);  // and is in use
    assert_false(ask(&h, 2, &w));
    expect_step(&h, MK_STEP_LOAD, 2);
    mk_residence_failed(h.r, 2, &full);
    assert_null(mk_residence_take(h.r));
    unload(&h, 0);
    expect_step(&h, MK_STEP_LOAD, 2);
    mk_residence_failed(h.r, 2, &full);  // not enough yet
    expect_rest(&h, 5);
    leave(&h, 1);
    unload(&h, 1);
    mk_residence_step s = mk_residence_next(h.r, h.now);
    assert_int_equal(s.kind, MK_STEP_LOAD);
    assert_true(s.alone);
    mk_residence_failed(h.r, 2, &full);  // there is nobody left who could make way
    expect_over(&h, &w, MK_ENOMEM);
    expect_rest(&h, -1);
    mk_residence_destroy(h.r);
}

static void test_waits_are_cancelled(void **state) {
    (void)state;
    house h = open_house(1, 0);
    mk_waiter w[3], late = {.cancelled = true};
    mk_err err = {0};
    bool granted;
    for (int i = 0; i < 3; i++) {
        assert_false(ask(&h, 0, &w[i]));
    }
    mk_residence_cancel(h.r, &w[2]);
    mk_residence_cancel(h.r, &w[2]);
    expect_over(&h, &w[2], MK_EINTR);
    mk_residence_cancel(h.r, &w[0]);
    expect_over(&h, &w[0], MK_EINTR);
    assert_null(mk_residence_take(h.r));
    assert_int_equal(mk_residence_ask(h.r, 0, &late, h.now, &granted, &err), MK_EINTR);
    load(&h, 0);
    expect_over(&h, &w[1], MK_OK);
    mk_residence_cancel(h.r, &w[1]);  // it uses the model: too late
    assert_null(mk_residence_take(h.r));
    // who has gone while it was loaded costs a load, which expires
    leave(&h, 0);
    mk_residence_dismiss(h.r, 0);
    unload(&h, 0);
    assert_false(ask(&h, 0, &w[0]));
    expect_step(&h, MK_STEP_LOAD, 0);
    mk_residence_cancel(h.r, &w[0]);
    expect_over(&h, &w[0], MK_EINTR);
    mk_residence_loaded(h.r, 0, h.now);
    expect_rest(&h, 60);
    mk_residence_destroy(h.r);
}

static void test_lines_are_bounded(void **state) {
    (void)state;
    house h = open_house(2, 0);
    mk_waiter w[4], more = {0};
    mk_err err = {0};
    bool granted;
    for (int i = 0; i < 4; i++) {
        assert_false(ask(&h, i % 2, &w[i]));
    }
    assert_int_equal(mk_residence_ask(h.r, 0, &more, h.now, &granted, &err), MK_ELIMIT);
    assert_non_null(strstr(err.msg, "4 requests wait for models"));
    mk_residence_cancel(h.r, &w[3]);
    expect_over(&h, &w[3], MK_EINTR);
    assert_false(ask(&h, 0, &more));
    mk_residence_close(h.r);
    expect_over(&h, &w[0], MK_EINTR);
    expect_over(&h, &w[2], MK_EINTR);
    expect_over(&h, &more, MK_EINTR);
    expect_over(&h, &w[1], MK_EINTR);
    assert_null(mk_residence_take(h.r));
    assert_int_equal(mk_residence_ask(h.r, 0, &more, h.now, &granted, &err), MK_EINTR);
    expect_rest(&h, -1);
    mk_residence_destroy(h.r);
}

static void test_looks_hold_but_do_not_count(void **state) {
    (void)state;
    house h = open_house(2, 1);
    mk_waiter w;
    assert_false(mk_residence_peek(h.r, 0));
    visit(&h, 0);
    h.now += KEEP;
    assert_true(mk_residence_peek(h.r, 0));
    assert_int_equal(mk_residence_read(h.r, 0, h.now).n_use, 0);
    assert_false(ask(&h, 1, &w));
    expect_rest(&h, 5);  // neither expired nor in the way
    mk_residence_peeked(h.r, 0);
    expect_step(&h, MK_STEP_UNLOAD, 0);
    assert_false(mk_residence_peek(h.r, 0));
    mk_residence_unloaded(h.r, 0);
    load(&h, 1);
    expect_over(&h, &w, MK_OK);
    mk_residence_destroy(h.r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_load_when_asked_for),
        cmocka_unit_test(test_idle_models_expire),
        cmocka_unit_test(test_keep_alive_of_a_request),
        cmocka_unit_test(test_the_one_used_longest_ago_makes_way),
        cmocka_unit_test(test_two_models_take_turns_at_one_place),
        cmocka_unit_test(test_a_door_opens_again),
        cmocka_unit_test(test_a_load_that_fails),
        cmocka_unit_test(test_no_memory_beside_others),
        cmocka_unit_test(test_waits_are_cancelled),
        cmocka_unit_test(test_lines_are_bounded),
        cmocka_unit_test(test_looks_hold_but_do_not_count),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
