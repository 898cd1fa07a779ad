// Training with products of bf16: masters and their copies, gradients against the float32 ones,
// bits against threads, instruction sets and cuts, and learning one batch by heart.
#include "train/gradients.h"

// A plain one; biases and a tied output; latent attention and experts.
static const struct {
    const char *name;
    double apart;  // gradients_are_close
} folders[] = {{"llama", 0.05}, {"qwen2_tied", 0.1}, {"deepseek_v3", 0.4}};
#define N_FOLDER (sizeof folders / sizeof folders[0])

enum { N_A = 21, N_B = 14, N_TARGET = N_A + N_B - 2 };

typedef struct {
    mk_model *model;
    mk_pool *pool;
    mk_trainer *tr;
    mk_err err;
    int32_t ids[N_A + N_B];
    uint8_t mask[N_A + N_B];
    double loss;
} rig;

static void ok(rig *r, mk_status st) {
    if (st != MK_OK) {
        fail_msg("%s", r->err.msg);
    }
}

typedef struct {
    int n_thread;
    bool f32, checkpoint;
    const char *isa;
} way;

static void open_rig(rig *r, const char *folder, way w) {
    char path[256];
    *r = (rig){.pool = mk_pool_create(w.n_thread)};
    snprintf(path, sizeof path, "tests/golden/models/%s", folder);
    ok(r, mk_model_open(path, &r->model, &r->err));
    ok(r, (w.f32 ? mk_model_load_f32 : mk_model_load_bf16)(r->model, r->pool, NULL, NULL, &r->err));
    mk_trainer_opts o = {.model = r->model,
                         .pool = r->pool,
                         .kv_type = MK_KV_F32,
                         .n_ctx = 32,
                         .n_row = 64,
                         .n_seq = 2,
                         .checkpoint = w.checkpoint,
                         .optim = mk_optim_defaults()};
    o.optim.weight_decay = 0;
    ok(r, mk_kernels_find(w.isa ? w.isa : "auto", &o.kernels, &r->err));
    ok(r, mk_trainer_create(&o, &r->tr, &r->err));
    for (int i = 0; i < N_A + N_B; i++) {
        r->ids[i] = (int32_t)(mk_rng_u64(1, (uint64_t)i) % (uint64_t)r->model->hp.n_vocab);
        r->mask[i] = i != 0 && i != N_A;
    }
}

static void close_rig(rig *r) {
    mk_trainer_destroy(r->tr);
    mk_model_close(r->model);
    mk_pool_destroy(r->pool);
}

static void mean_loss(void *arg, const float *logp, float *weight, int64_t n) {
    rig *r = arg;
    for (int64_t i = 0; i < n; i++) {
        weight[i] = 1.0f / N_TARGET;
        r->loss -= (double)logp[i] / N_TARGET;
    }
}

// Sequences [first, first + n) of two.  The first has 20 rows: a cut behind it changes nothing.
static void pass(rig *r, int first, int n) {
    mk_data_seq seq[] = {{r->ids, r->mask, N_A, N_A - 1},
                         {r->ids + N_A, r->mask + N_A, N_B, N_B - 1}};
    mk_train_pass p = {.seq = seq + first, .n_seq = n, .weigh = mean_loss, .arg = r};
    ok(r, mk_trainer_pass(r->tr, &p, &r->err));
}

// --- masters -------------------------------------------------------------------------------------

// The packed copy holds every value of the parameter, rounded, and zeros where there is none.
static void copy_is_rounded(const mk_param *p) {
    const mk_weight *w = p->w;
    assert_int_equal(w->kind, MK_PACK_BF16);
    int64_t tiles = p->n_mat * ((p->n_out + 15) / 16), pairs = (p->n_in + 1) / 2;
    const uint16_t *copy = (const uint16_t *)(const void *)w->data;
    for (int64_t t = 0; t < tiles; t++) {
        for (int64_t i = 0; i < 2 * pairs; i++) {
            for (int64_t r = 0; r < 16; r++) {
                float v = i < p->n_in ? p->p[(t * p->n_in + i) * 16 + r] : 0;
                uint16_t got = copy[((t * pairs + i / 2) * 16 + r) * 2 + i % 2];
                assert_int_equal(got, mk_bf16_from_f32(v));
            }
        }
    }
}

static void copies_follow_their_masters(void **state) {
    (void)state;
    for (size_t f = 0; f < N_FOLDER; f++) {
        rig r;
        open_rig(&r, folders[f].name, (way){.n_thread = 3});
        const mk_params *ps = mk_trainer_params(r.tr);
        int n_router = 0, n_matrix = 0;
        for (int64_t i = 0; i < ps->n; i++) {
            const mk_param *p = &ps->list[i];
            assert_non_null(p->p);
            if (p->kind != MK_PARAM_MATRIX) {
                continue;
            }
            if (p->is_router) {
                n_router++;
                assert_int_equal(p->w->kind, MK_PACK_F32);
                continue;
            }
            n_matrix++;
            copy_is_rounded(p);
            p->p[16] = 1.00390625f;  // half way: to the even neighbour
            p->p[32] = -1.01171875f;
            p->p[48] = 0x1.fffffep-127f;
            mk_params_refresh(ps, r.pool);
            copy_is_rounded(p);
            assert_int_equal(mk_bf16_from_f32(p->p[16]), 0x3F80);
        }
        assert_true(n_matrix > 8 &&
                    (n_router > 0) == (strcmp(folders[f].name, "deepseek_v3") == 0));
        close_rig(&r);
    }
}

// --- gradients -----------------------------------------------------------------------------------

// Rounding moves a factor by 2^-10 of its size on average, and a gradient has passed through some
// twenty products: measured 1 % to 2 % of its length, 3 % for a bias of keys, whose gradient nearly
// cancels.  Of deepseek_v3 some tokens go to another expert, which changes what follows and that
// expert's share: 4 % to 20 %.  Something forgotten, transposed or taken twice is 100 %.
static void gradients_are_close(void **state) {
    (void)state;
    for (size_t f = 0; f < N_FOLDER; f++) {
        rig a, b;
        open_rig(&a, folders[f].name, (way){.n_thread = 2, .f32 = true});
        open_rig(&b, folders[f].name, (way){.n_thread = 2});
        pass(&a, 0, 2);
        pass(&b, 0, 2);
        assert_true(a.loss != b.loss && fabs(a.loss - b.loss) < 0.01 * a.loss);
        const mk_params *ps = mk_trainer_params(a.tr), *qs = mk_trainer_params(b.tr);
        assert_int_equal(ps->n, qs->n);
        for (int64_t i = 0; i < ps->n; i++) {
            const mk_param *p = &ps->list[i];
            const float *x = mk_trainer_gradient(a.tr, p);
            const float *y = mk_trainer_gradient(b.tr, &qs->list[i]);
            if (!x) {
                continue;
            }
            double size = length(x, p->n_float), sum = 0;
            for (int64_t k = 0; k < p->n_float; k++) {
                double d = (double)x[k] - (double)y[k];
                sum += d * d;
            }
            if (!(sqrt(sum) <= folders[f].apart * size)) {
                fail_msg("%s, %s: differs by %.3g of its length", folders[f].name, p->name,
                         sqrt(sum) / size);
            }
        }
        close_rig(&a);
        close_rig(&b);
    }
}

// Threads, instruction sets, layers computed again; two batches where no rows are experts' own,
// whose number in a batch may be odd.
static void gradients_do_not_depend_on_how(void **state) {
    (void)state;
    for (size_t f = 0; f < N_FOLDER; f++) {
        rig r;
        size_t n = 0, m = 0;
        open_rig(&r, folders[f].name, (way){.n_thread = 1});
        pass(&r, 0, 2);
        float *want = all_gradients(r.tr, &n);
        close_rig(&r);
        for (int i = 0; mk_kernels_at(i) != NULL; i++) {
            open_rig(&r, folders[f].name,
                     (way){.n_thread = 2 + i % 2,
                           .checkpoint = i == 1,
                           .isa = mk_kernels_name(mk_kernels_at(i))});
            if (i == 0 && r.model->hp.n_expert == 0) {
                pass(&r, 0, 1);
                pass(&r, 1, 1);
            } else {
                pass(&r, 0, 2);
            }
            float *got = all_gradients(r.tr, &m);
            assert_int_equal(n, m);
            if (memcmp(want, got, n * sizeof *got) != 0) {
                fail_msg("%s: %s gives other gradients", folders[f].name,
                         mk_kernels_name(mk_kernels_at(i)));
            }
            mk_free(got);
            close_rig(&r);
        }
        mk_free(want);
    }
}

static void one_batch_can_be_learned(void **state) {
    (void)state;
    for (size_t f = 0; f < 2; f++) {
        rig r;
        open_rig(&r, folders[f].name, (way){.n_thread = 2});
        for (int64_t step = 1; step <= 60; step++) {
            pass(&r, 0, 2);
            mk_optim_at at = {step, 1e-2, 1};
            ok(&r, mk_trainer_update(r.tr, &at, NULL, &r.err));
            r.loss = step < 60 ? 0 : r.loss;
        }
        if (!(r.loss < 0.1)) {
            fail_msg("%s: loss %.4f after 60 steps", folders[f].name, r.loss);
        }
        const mk_params *ps = mk_trainer_params(r.tr);
        for (int64_t i = 0; i < ps->n; i++) {
            if (ps->list[i].w && !ps->list[i].is_router && ps->list[i].kind == MK_PARAM_MATRIX) {
                copy_is_rounded(&ps->list[i]);
            }
        }
        close_rig(&r);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(copies_follow_their_masters),
        cmocka_unit_test(gradients_are_close),
        cmocka_unit_test(gradients_do_not_depend_on_how),
        cmocka_unit_test(one_batch_can_be_learned),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
