// Gradients and loss curves against transformers and PyTorch (tests/golden/gen_grads.py): the same
// two sequences, the same loss, every parameter, then ten steps of AdamW.
#include <math.h>

#include "base/alloc.h"
#include "base/file.h"
#include "base/json.h"
#include "base/mathx.h"
#include "cmocka_all.h"
#include "train/trainer.h"

static const char *const models[] = {"llama",          "llama3",          "qwen2",
                                     "qwen2_tied",     "deepseek_v2lite", "deepseek_v3",
                                     "deepseek_v3_mtp"};  // with its prediction layer
#define N_MODEL (sizeof models / sizeof models[0])

enum { N_SEQ = 2, N_LONGEST = 21, N_ROW = 64 };
static const int64_t lengths[N_SEQ] = {N_LONGEST, 14}, first_target[N_SEQ] = {4, 1};
enum { N_TARGET = 17 + 13, N_DOT = 4, N_ELEMENT = 3, N_STEP = 10 };

typedef struct {
    const char *name;
    json_t *golden;
    mk_model *model;
    mk_pool *pool;
    mk_trainer *tr;
    mk_err err;
    int32_t ids[N_SEQ][N_LONGEST];
    uint8_t mask[N_SEQ][N_LONGEST];
    double loss, mtp_loss;
} rig;

static void ok(rig *r, mk_status st) {
    if (st != MK_OK) {
        fail_msg("%s: %s", r->name, r->err.msg);
    }
}

static double number(const json_t *v) {
    assert_true(json_is_number(v));
    return json_number_value(v);
}

static mk_trainer_opts trainer_opts(const rig *r) {
    mk_trainer_opts o = {.model = r->model,
                         .pool = r->pool,
                         .kv_type = MK_KV_F32,
                         .n_ctx = 32,
                         .n_row = N_ROW,
                         .n_seq = N_SEQ,
                         .mtp_weight = r->model->mtp ? 0.3 : 0,
                         .optim = mk_optim_defaults()};
    mk_err err = {0};
    assert_int_equal(mk_kernels_find("auto", &o.kernels, &err), MK_OK);
    return o;
}

static void open_rig(rig *r, const char *name) {
    char path[256];
    *r = (rig){.name = name, .pool = mk_pool_create(2)};
    snprintf(path, sizeof path, "tests/golden/grads/%s.json", name);
    ok(r, mk_json_file(path, 1 << 20, &r->golden, &r->err));
    snprintf(path, sizeof path, "tests/golden/models/%s", name);
    ok(r, mk_model_open(path, &r->model, &r->err));
    ok(r, strstr(name, "_mtp") ? mk_model_use_mtp(r->model, &r->err) : MK_OK);
    ok(r, mk_model_load_f32(r->model, r->pool, NULL, NULL, &r->err));
    mk_trainer_opts o = trainer_opts(r);
    ok(r, mk_trainer_create(&o, &r->tr, &r->err));
    uint64_t seed = (uint64_t)json_integer_value(json_object_get(r->golden, "seed"));
    for (int s = 0; s < N_SEQ; s++) {
        for (int64_t i = 0; i < lengths[s]; i++) {
            uint64_t u = mk_rng_u64(2 * seed + (uint64_t)s, (uint64_t)i);
            r->ids[s][i] = (int32_t)(u % (uint64_t)r->model->hp.n_vocab);
            r->mask[s][i] = i >= first_target[s];
        }
    }
}

static void close_rig(rig *r) {
    mk_trainer_destroy(r->tr);
    mk_model_close(r->model);
    mk_pool_destroy(r->pool);
    json_decref(r->golden);
}

static void mean_loss(void *arg, const float *logp, float *weight, int64_t n) {
    rig *r = arg;
    assert_int_equal(n, N_TARGET);
    r->loss = 0;
    for (int64_t i = 0; i < n; i++) {
        weight[i] = 1.0f / N_TARGET;
        r->loss -= (double)logp[i] / N_TARGET;
    }
}

static void pass(rig *r) {
    mk_data_seq seq[N_SEQ];
    for (int s = 0; s < N_SEQ; s++) {
        seq[s] = (mk_data_seq){r->ids[s], r->mask[s], lengths[s], lengths[s] - first_target[s]};
    }
    mk_mtp_sums mtp = {0};
    mk_train_pass p = {.seq = seq, .n_seq = N_SEQ, .weigh = mean_loss, .arg = r, .mtp = &mtp};
    ok(r, mk_trainer_pass(r->tr, &p, &r->err));
    r->mtp_loss = mtp.loss;
}

// --- gradients -----------------------------------------------------------------------------------

// A list of gradients as a folder has them: [n_mat, n_out, n_in], without padding.
static float *rows_of(rig *r, const mk_param *p) {
    const float *g = mk_trainer_gradient(r->tr, p);
    assert_non_null(g);
    float *rows = mk_alloc((size_t)p->n_value * sizeof *rows);
    int64_t n_float = p->n_float / p->n_mat, n_value = p->n_value / p->n_mat;
    for (int64_t m = 0; m < p->n_mat; m++) {
        if (p->kind == MK_PARAM_MATRIX) {
            mk_f32_unpack(rows + m * n_value, g + m * n_float, (mk_f32_shape){p->n_out, p->n_in},
                          r->pool);
        } else {
            memcpy(rows, g, (size_t)n_value * sizeof *rows);
        }
    }
    return rows;
}

// What differs most, of everything the golden keeps of one gradient: in units of its length.
static double worst(const json_t *want, const float *g, int64_t n) {
    double norm = number(json_object_get(want, "norm")), sum = 0, most = 0;
    assert_int_equal(n, json_integer_value(json_object_get(want, "n")));
    assert_true(norm > 0);
    for (int64_t i = 0; i < n; i++) {
        sum += (double)g[i] * (double)g[i];
    }
    most = fabs(sqrt(sum) - norm);
    for (uint64_t k = 0; k < N_DOT; k++) {
        double dot = 0;
        for (int64_t i = 0; i < n; i++) {
            dot += mk_rng_u64(100 + k, (uint64_t)i) & 1 ? (double)g[i] : -(double)g[i];
        }
        double by = fabs(dot - number(json_array_get(json_object_get(want, "dots"), k)));
        most = by > most ? by : most;
    }
    for (uint64_t k = 0; k < N_ELEMENT; k++) {
        double got = (double)g[mk_rng_u64(200, k) % (uint64_t)n];
        double by = fabs(got - number(json_array_get(json_object_get(want, "elements"), k)));
        most = by > most ? by : most;
    }
    return most / norm;
}

// Both sides are float32, whose sums of some hundred products are good to 1e-6 of their length; a
// gradient has passed through some twenty of them.  A forgotten factor, a transposed matrix or a
// token too much is 1e-3 at least.
#define GRAD_TOLERANCE 2e-5

static void compare(rig *r, const char *name, const float *g, int64_t n) {
    const json_t *want = json_object_get(json_object_get(r->golden, "grads"), name);
    if (!want) {
        fail_msg("%s: the golden file has no gradient of %s", r->name, name);
    }
    double by = worst(want, g, n);
    if (!(by <= GRAD_TOLERANCE)) {
        fail_msg("%s, %s: differs by %.3g of its length", r->name, name, by);
    }
}

// The halves of kv_b_proj, which a folder has as one.
static void compare_latent(rig *r, const mk_param *k, const mk_param *v) {
    char name[256];
    size_t n = strlen(k->name) - 2;
    assert_true(n + sizeof ".weight" <= sizeof name);
    memcpy(name, k->name, n);
    memcpy(name + n, ".weight", sizeof ".weight");
    float *keys = rows_of(r, k), *values = rows_of(r, v);
    float *both = mk_alloc((size_t)(k->n_value + v->n_value) * sizeof *both);
    r->model->arch->join(&r->model->hp, keys, values, both);
    compare(r, name, both, k->n_value + v->n_value);
    mk_free(keys);
    mk_free(values);
    mk_free(both);
}

static bool ends_in(const char *name, const char *end) {
    size_t n = strlen(name), m = strlen(end);
    return n >= m && strcmp(name + n - m, end) == 0;
}

static void gradients_are_the_references(void **state) {
    (void)state;
    for (size_t i = 0; i < N_MODEL; i++) {
        rig r;
        open_rig(&r, models[i]);
        pass(&r);
        const mk_params *ps = mk_trainer_params(r.tr);
        size_t n = 0;
        for (int64_t k = 0; k < ps->n; k++) {
            const mk_param *p = &ps->list[k];
            if (ends_in(p->name, "kv_b_proj.k")) {
                assert_true(ends_in(p[1].name, "kv_b_proj.v"));
                compare_latent(&r, p, p + 1);
                k++;
            } else if (!p->is_select_bias) {
                float *rows = rows_of(&r, p);
                compare(&r, p->name, rows, p->n_value);
                mk_free(rows);
            } else {
                continue;
            }
            n++;
        }
        assert_int_equal(n, json_object_size(json_object_get(r.golden, "grads")));
        close_rig(&r);
    }
}

// --- the curve -----------------------------------------------------------------------------------

// AdamW's first steps are lr times the sign of the gradient, so an element whose gradient is within
// rounding of 0 may go the other way by 2 lr; few do, and they matter least: measured 6e-6 nats and
// 1e-4 of the length.  The loss falls from ten nats to less than one; leaving out weight decay or
// clipping, or a beta2 of 0.951, moves it by 1e-4 and more.
#define LOSS_TOLERANCE 3e-5
#define NORM_TOLERANCE 5e-4

static void compare_loss(const rig *r, const char *what, size_t step, double loss) {
    double want = number(json_array_get(json_object_get(r->golden, what), step));
    if (!(fabs(loss - want) <= LOSS_TOLERANCE)) {
        fail_msg("%s, step %zu: %s has %.9g, expected %.9g", r->name, step + 1, what, loss, want);
    }
}

static void the_loss_falls_as_in_the_reference(void **state) {
    (void)state;
    for (size_t i = 0; i < N_MODEL; i++) {
        rig r;
        open_rig(&r, models[i]);
        const json_t *norms = json_object_get(r.golden, "norms");
        for (size_t step = 0; step < N_STEP; step++) {
            pass(&r);
            mk_optim_at at = {(int64_t)step + 1, 1e-3, 1};
            mk_optim_report report;
            ok(&r, mk_trainer_update(r.tr, &at, &report, &r.err));
            compare_loss(&r, "curve", step, r.loss);
            if (r.model->mtp) {
                compare_loss(&r, "mtp_curve", step, r.mtp_loss);
            }
            double norm = number(json_array_get(norms, step));
            if (!(fabs(report.norm - norm) <= NORM_TOLERANCE * norm)) {
                fail_msg("%s, step %zu: length of the gradients %.9g, expected %.9g", r.name,
                         step + 1, report.norm, norm);
            }
        }
        close_rig(&r);
    }
}

// --- the prediction layer ------------------------------------------------------------------------

static int32_t *next_ids;
static uint8_t *all_rows;
static float *further;

static mk_status keep_further(void *arg, mk_ops *ops, mk_mat logits, mk_err *err) {
    rig *r = arg;
    mk_mat z = mk_engine_mtp(mk_trainer_engine(r->tr), next_ids, all_rows);
    (void)ops, (void)err;
    assert_int_equal(z.n_row, logits.n_row);
    for (int64_t i = 0; i < z.n_row; i++) {
        memcpy(further + i * z.n_col, z.p + i * z.stride, (size_t)z.n_col * sizeof *further);
    }
    return MK_OK;
}

// All logits of the second sequence; the first's rows are in the batch as well.  Two float32
// implementations: 1e-5 of their length, as for the model's own logits (test_golden of the engine).
static void the_prediction_layers_logits_are_the_references(void **state) {
    (void)state;
    rig r;
    char *text = NULL;
    size_t n = 0;
    open_rig(&r, "deepseek_v3_mtp");
    ok(&r,
       mk_file_read("tests/golden/grads/deepseek_v3_mtp.logits.f32", 1 << 20, &text, &n, &r.err));
    int64_t n_vocab = r.model->hp.n_vocab, n_a = lengths[0] - 1, n_b = lengths[1] - 1;
    assert_int_equal(n, (size_t)(n_b * n_vocab) * sizeof(float));
    next_ids = mk_alloc((size_t)(n_a + n_b) * sizeof *next_ids);
    all_rows = mk_alloc((size_t)(n_a + n_b));
    further = mk_alloc((size_t)((n_a + n_b) * n_vocab) * sizeof *further);
    memcpy(next_ids, r.ids[0] + 1, (size_t)n_a * sizeof *next_ids);
    memcpy(next_ids + n_a, r.ids[1] + 1, (size_t)n_b * sizeof *next_ids);
    memset(all_rows, 1, (size_t)(n_a + n_b));
    mk_engine *e = mk_trainer_engine(r.tr);
    mk_step step[N_SEQ] = {{0, r.ids[0], n_a, MK_LOGITS_ALL, NULL},
                           {0, r.ids[1], n_b, MK_LOGITS_ALL, NULL}};
    ok(&r, mk_engine_seq_open(e, &step[0].seq, &r.err));
    ok(&r, mk_engine_seq_open(e, &step[1].seq, &r.err));
    ok(&r, mk_engine_forward_with(e, step, N_SEQ, false, keep_further, &r, &r.err));
    double off = 0, norm = 0;
    for (int64_t i = 0; i < n_b * n_vocab; i++) {
        float want;
        memcpy(&want, text + (size_t)i * sizeof want, sizeof want);
        double by = (double)further[n_a * n_vocab + i] - (double)want;
        off += by * by;
        norm += (double)want * (double)want;
    }
    if (!(sqrt(off) <= 1e-5 * sqrt(norm))) {
        fail_msg("logits differ by %.3g of their length", sqrt(off / norm));
    }
    mk_engine_seq_close(e, step[0].seq);
    mk_engine_seq_close(e, step[1].seq);
    mk_free(next_ids);
    mk_free(all_rows);
    mk_free(further);
    mk_free(text);
    close_rig(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gradients_are_the_references),
        cmocka_unit_test(the_loss_falls_as_in_the_reference),
        cmocka_unit_test(the_prediction_layers_logits_are_the_references),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
