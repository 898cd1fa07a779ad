// Schedules against transformers (tests/golden/gen_optim.py), and at their ends.
#include "train/optim_util.h"

#include "train/schedule.h"

// transformers warms up from 0, so its step s + 1 is ours s; its wsd warms up from the minimum.
static void schedules_equal_transformers(void **state) {
    (void)state;
    const json_t *g = json_object_get(golden, "schedules");
    static const char *const kinds[] = {"constant", "linear", "cosine", "wsd"};
    for (int k = 0; k < 4; k++) {
        mk_schedule s = {.lr = 0.25, .n_step = 20, .n_warmup = 4, .decay = 0.4};
        s.min_ratio = k >= 2 ? 0.1 : 0;
        assert_int_equal(mk_schedule_parse(kinds[k], &s.kind, NULL), MK_OK);
        assert_string_equal(mk_schedule_name(s.kind), kinds[k]);
        assert_int_equal(mk_schedule_check(&s, NULL), MK_OK);
        const json_t *want = json_object_get(g, kinds[k]);
        assert_int_equal(json_array_size(want), s.n_step + 1);
        for (int64_t i = 0; i <= s.n_step; i++) {
            double w = i < 4 ? 0.25 * (double)(i + 1) : number(want, (size_t)i);
            assert_true(fabs(mk_schedule_lr(&s, i) - 0.25 * w) < 1e-12);
        }
        assert_true(mk_schedule_lr(&s, 1000) == mk_schedule_lr(&s, 20));
    }
}

static void schedules_at_their_ends(void **state) {
    (void)state;
    mk_schedule s = {.kind = MK_SCHEDULE_COSINE, .lr = 1, .n_step = 3, .n_warmup = 3};
    assert_true(mk_schedule_lr(&s, 0) == 1.0 / 3 && mk_schedule_lr(&s, 2) == 1);
    s.n_warmup = 0;
    assert_true(mk_schedule_lr(&s, 0) == 1 && mk_schedule_lr(&s, 3) == 0);
    s = (mk_schedule){.kind = MK_SCHEDULE_WSD, .lr = 1, .n_step = 10, .n_warmup = 6, .decay = 0.9};
    assert_true(mk_schedule_lr(&s, 6) == 1 && mk_schedule_lr(&s, 8) == 0.5);
    s.decay = 0;
    assert_true(mk_schedule_lr(&s, 9) == 1);
}

static void schedules_refuse_nonsense(void **state) {
    (void)state;
    const mk_schedule good = {.lr = 1, .n_step = 10, .n_warmup = 2, .min_ratio = 0.1, .decay = 0.2};
    mk_schedule bad[6];
    mk_err err = {0};
    for (int i = 0; i < 6; i++) {
        bad[i] = good;
    }
    bad[0].lr = NAN;
    bad[1].lr = -1;
    bad[2].min_ratio = 1.5;
    bad[3].n_warmup = 11;
    bad[4].n_warmup = -1;
    bad[5].decay = -0.1;
    assert_int_equal(mk_schedule_check(&good, &err), MK_OK);
    for (int i = 0; i < 6; i++) {
        assert_int_equal(mk_schedule_check(&bad[i], &err), MK_EUSAGE);
    }
    mk_schedule_kind kind;
    assert_int_equal(mk_schedule_parse("cosinus", &kind, &err), MK_EUSAGE);
    assert_non_null(strstr(err.msg, "cosinus"));
    assert_non_null(strstr(err.msg, "wsd"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(schedules_equal_transformers),
        cmocka_unit_test(schedules_at_their_ends),
        cmocka_unit_test(schedules_refuse_nonsense),
    };
    return cmocka_run_group_tests(tests, load_golden, free_golden);
}
