// New models: random values for every tensor that a configuration asks for.
#include <string.h>

#include "base/alloc.h"
#include "base/mathx.h"
#include "model/folder_int.h"
#include "model/table.h"

enum { PIECE = 4096 };  // values at once; even, because deviates come in pairs

typedef struct {
    uint64_t seed;
    double range;
} randoms;

// Two deviates from two uniform numbers.  Source: Box & Muller 1958.
static void normal_pair(uint64_t key, uint64_t i, double *a, double *b) {
    const double two_pi = 6.283185307179586;
    double u = 1 - mk_rng_unit(key, 2 * i), s, c;  // (0, 1]
    double r = __builtin_sqrt(-2 * mk_log(u));
    mk_sincos(two_pi * mk_rng_unit(key, 2 * i + 1), &s, &c);
    *a = r * c;
    *b = r * s;
}

// Matrices whose output is added to the residual stream: 2 n_layer of them add up.
static bool is_residual(const mk_tensor_row *row) {
    static const size_t fields[] = {MK_LAYER_FIELD(wo), MK_LAYER_FIELD(w_down),
                                    MK_LAYER_FIELD(w_down_exps), MK_LAYER_FIELD(w_down_sh)};
    bool found = false;
    for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++) {
        found = found ||
                (!(row->flags & MK_T_GLOBAL) && row->cls != MK_T_CUSTOM && row->field == fields[i]);
    }
    return found;
}

static bool is_bias(const mk_hf_tensor *t) {
    size_t n = strlen(t->name);
    return n >= 4 && strcmp(t->name + n - 4, "bias") == 0;
}

static mk_status put_constant(mk_folder_job *job, const mk_hf_tensor *t, mk_writer *w,
                              mk_err *err) {
    float values[256];
    for (size_t i = 0; i < sizeof values / sizeof values[0]; i++) {
        values[i] = is_bias(t) ? 0.0f : 1.0f;
    }
    for (int64_t at = 0; at < t->n; at += 256) {
        MK_TRY(mk_folder_put(job, t, values, t->n - at < 256 ? t->n - at : 256, w, err));
    }
    return MK_OK;
}

static mk_status put_random(mk_folder_job *job, const mk_hf_tensor *t, mk_writer *w, mk_err *err) {
    const randoms *r = job->arg;
    const mk_tensor_row *row = &job->m->arch->tensors[t->at.row];
    if (row->cls == MK_T_VECTOR) {
        return put_constant(job, t, w, err);
    }
    uint64_t key = mk_hash64(t->name, strlen(t->name), r->seed);
    double scale =
        is_residual(row) ? r->range / __builtin_sqrt(2.0 * (double)job->m->hp.n_layer) : r->range;
    float values[PIECE];
    for (int64_t at = 0; at < t->n; at += PIECE) {
        for (int64_t i = 0; i < PIECE; i += 2) {
            double a, b;
            normal_pair(key, (uint64_t)(at + i) / 2, &a, &b);
            values[i] = (float)(scale * a);
            values[i + 1] = (float)(scale * b);
        }
        MK_TRY(mk_folder_put(job, t, values, t->n - at < PIECE ? t->n - at : PIECE, w, err));
    }
    return MK_OK;
}

// A configuration that asks for biases the family does not have would give a model that others
// complete with random ones.
static mk_status check_biases(const mk_model *m, mk_err *err) {
    static const char *const keys[] = {"attention_bias", "mlp_bias"};
    for (int k = 0; k < 2; k++) {
        bool wanted = false, found = false, has = false;
        MK_TRY(mk_source_bool(m->src, keys[k], NULL, &wanted, &found, err));
        for (int i = 0; i < m->arch->n_tensors && k == 0; i++) {
            const mk_tensor_row *r = &m->arch->tensors[i];
            has = has || (r->hf && (r->field == MK_LAYER_FIELD(bq) && r->cls == MK_T_VECTOR));
        }
        if (wanted && !has) {
            return MK_FAIL(err, MK_EUNSUPPORTED,
                           "%s: \"%s\" is true; the %s architecture as minke "
                           "knows it has no such biases",
                           mk_source_path(m->src), keys[k], m->arch->name);
        }
    }
    return MK_OK;
}

static mk_status init(const mk_model *m, const char *dir, uint64_t seed, mk_err *err) {
    randoms r = {seed, 0.02};
    bool found = false;
    MK_TRY(check_biases(m, err));
    MK_TRY(mk_source_f64(m->src, "initializer_range", NULL, &r.range, &found, err));
    if (!(r.range >= 0 && r.range <= 10)) {
        return MK_FAIL(err, MK_ECORRUPT, "%s: initializer_range is %g, expected 0 to 10",
                       mk_source_path(m->src), r.range);
    }
    MK_TRY(mk_folder_make(dir, err));
    MK_TRY(mk_folder_write_config(mk_source_config(m->src), MK_DTYPE_F32, dir, err));
    mk_save_opts opts = {.type = MK_DTYPE_F32};
    mk_folder_job job = {.m = m, .opts = &opts, .values = put_random, .arg = &r};
    return mk_folder_write(&job, dir, err);
}

mk_status mk_model_init_folder(const char *config, const char *dir, uint64_t seed, mk_err *err) {
    mk_model *m = NULL;
    MK_TRY(mk_model_open_config(config, &m, err));
    mk_status st = init(m, dir, seed, err);
    mk_model_close(m);
    return st;
}
