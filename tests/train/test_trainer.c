// Whole models: gradients against finite differences of the forward that serves, bits against
// threads, cuts and checkpoints, and learning one batch by heart.
#include "train/trainer_rig.h"

// ..._mtp with its prediction layer.
static const char *const folders[] = {"llama",           "llama3",      "qwen2",
                                      "qwen2_tied",      "deepseek_v2", "deepseek_v2lite",
                                      "deepseek_v3_mtp", "deepseek_v3"};
#define N_FOLDER (sizeof folders / sizeof folders[0])
#ifdef MK_TEST_SHORT
#define EVERY 3
#else
#define EVERY 1
#endif

static rig open_folder(const char *name, rig_spec s) {
    char path[64];
    snprintf(path, sizeof path, "models/%s", name);
    s.path = path;
    s.f32 = true;
    s.mtp = strstr(name, "_mtp") != NULL;
    rig r = open_rig(s);
    r.spec.path = name;
    return r;
}

static void moved(void *arg, const mk_param *p) {
    (void)p;
    rig *r = arg;
    mk_params_refresh(mk_trainer_params(r->tr), r->pool);
}

static void gradients_are_slopes(void **state) {
    (void)state;
    for (size_t f = 0; f < N_FOLDER; f += EVERY) {
        rig r = open_folder(folders[f], (rig_spec){0});
        pass(&r, 2, true);
        const mk_params *ps = mk_trainer_params(r.tr);
        for (int64_t i = 0; i < ps->n; i++) {
            const mk_param *p = &ps->list[i];
            const float *g = mk_trainer_gradient(r.tr, p);
            double want = 0;
            if (p->is_select_bias) {
                assert_null(g);
            } else if (!gradient_agrees(&r, moved, p, g, &want)) {
                fail_msg("%s, %s: slope %.6g, gradient along it %.6g (length %.3g)", folders[f],
                         p->name, want, along(g, p), length(g, p->n_float));
            }
        }
        close_rig(&r);
    }
}

// One thread or three, one batch or two, layers kept or computed again: the same bytes.
static void gradients_do_not_depend_on_how(void **state) {
    (void)state;
    for (size_t f = 0; f < N_FOLDER; f += EVERY) {
        size_t n = 0, m = 0;
        rig r = open_folder(folders[f], (rig_spec){.n_thread = 1});
        pass(&r, 2, true);
        float *want = all_gradients(r.tr, &n);
        close_rig(&r);
        for (int way = 0; way < 3; way++) {
            r = open_folder(folders[f],
                            (rig_spec){.n_thread = way == 0 ? 3 : 2, .checkpoint = way == 1});
            if (way == 2) {
                pass(&r, 0, true);
                pass(&r, 1, true);
            } else {
                pass(&r, 2, true);
            }
            float *got = all_gradients(r.tr, &m);
            assert_int_equal(n, m);
            if (memcmp(want, got, n * sizeof *got) != 0) {
                fail_msg("%s: way %d gives other gradients", folders[f], way);
            }
            mk_free(got);
            close_rig(&r);
        }
        mk_free(want);
    }
}

// Learning two sequences by heart.
static void one_batch_can_be_learned(void **state) {
    (void)state;
    for (size_t f = 0; f < N_FOLDER; f += 3) {
        rig r = open_folder(folders[f], (rig_spec){.checkpoint = f % 2 == 0, .clip = 1});
        for (int64_t step = 1; step <= 60; step++) {
            pass(&r, 2, true);
            mk_optim_at at = {step, 1e-2, 1};
            assert_int_equal(mk_trainer_update(r.tr, &at, NULL, &r.err), MK_OK);
        }
        pass(&r, 2, false);
        if (!(r.loss < 0.05)) {
            fail_msg("%s: loss %.4f after 60 steps", folders[f], r.loss);
        }
        close_rig(&r);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gradients_are_slopes),
        cmocka_unit_test(gradients_do_not_depend_on_how),
        cmocka_unit_test(one_batch_can_be_learned),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
