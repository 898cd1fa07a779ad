// Log-probabilities of tokens, entropy, and the gradient of weighted log-probabilities.  Threads
// divide the rows; a row is computed by one thread, so it gives the same bits in any batch.
//
// The sums of a row are float32 in a fixed order; the logarithm of their result, one number a row,
// is taken and added in double and rounded once.
#include <math.h>

#include "base/mathx.h"
#include "ops/back.h"
#include "ops/ops_int.h"

#define SERIAL_FLOATS 4096  // below this much work another thread is not worth waking

typedef struct {
    const mk_kernels *k;
    mk_mat z, dz;
    const int32_t *id;
    const float *weight;
    float inv_t;
    float *out, *lse;
} logprob_work;

static float inverse(float temperature) {
    float inv = 1.0f / temperature;
    MK_ASSERT(inv > 0.0f && inv < INFINITY);
    return inv;
}

static bool worth(mk_mat z) {
    return z.n_row > 1 && z.n_row * z.n_col >= SERIAL_FLOATS;
}

// At least 1: the greatest logit adds exp(0).  mk_log takes no NaN.
static double log_sum(const mk_softmax *s) {
    return s->sum >= 1.0f ? mk_log((double)s->sum) : (double)NAN;
}

static void run_logprob(void *arg, int ith, int64_t lo, int64_t hi) {
    const logprob_work *w = arg;
    (void)ith;
    for (int64_t t = lo; t < hi; t++) {
        const float *z = w->z.p + t * w->z.stride;
        mk_softmax s = {.inv_t = w->inv_t};
        MK_ASSERT(w->id[t] >= 0 && w->id[t] < w->z.n_col);
        w->k->softmax(&s, z, w->z.n_col);
        double log = log_sum(&s), max = (double)s.max;
        w->out[t] = (float)((double)(z[w->id[t]] * s.inv_t) - max - log);
        if (w->lse != NULL) {
            w->lse[t] = (float)(max + log);
        }
    }
}

void mk_op_logprob(mk_ops *ops, float *logp, float *lse, mk_mat z, const int32_t *id,
                   float temperature) {
    mk_ops_op_begin(ops);
    logprob_work w = {
        .k = ops->k, .z = z, .id = id, .inv_t = inverse(temperature), .out = logp, .lse = lse};
    if (!ops->dry) {
        mk_ops_run(ops, worth(z), z.n_row, 1, run_logprob, &w);
    }
    mk_ops_count_rows(ops, MK_OP_LOGPROB, z, 5, 1);
    mk_ops_op_end(ops, MK_OP_LOGPROB);
}

// H = log sum - dot / sum
static void run_entropy(void *arg, int ith, int64_t lo, int64_t hi) {
    const logprob_work *w = arg;
    (void)ith;
    for (int64_t t = lo; t < hi; t++) {
        mk_softmax s = {.inv_t = w->inv_t};
        w->k->softmax_dot(&s, w->z.p + t * w->z.stride, w->z.n_col);
        w->out[t] = (float)(log_sum(&s) - (double)s.dot / (double)s.sum);
    }
}

void mk_op_entropy(mk_ops *ops, float *entropy, mk_mat z, float temperature) {
    mk_ops_op_begin(ops);
    logprob_work w = {.k = ops->k, .z = z, .inv_t = inverse(temperature), .out = entropy};
    if (!ops->dry) {
        mk_ops_run(ops, worth(z), z.n_row, 1, run_entropy, &w);
    }
    mk_ops_count_rows(ops, MK_OP_ENTROPY, z, 7, 1);
    mk_ops_op_end(ops, MK_OP_ENTROPY);
}

// The element of the token is done by itself: p - 1 in one rounding before the product.
static void run_back(void *arg, int ith, int64_t lo, int64_t hi) {
    const logprob_work *w = arg;
    (void)ith;
    for (int64_t t = lo; t < hi; t++) {
        if (w->weight[t] == 0.0f) {
            continue;
        }
        const float *z = w->z.p + t * w->z.stride;
        float *dz = w->dz.p + t * w->dz.stride;
        int32_t id = w->id[t];
        MK_ASSERT(id >= 0 && id < w->z.n_col);
        mk_softmax s = {.inv_t = w->inv_t};
        w->k->softmax(&s, z, w->z.n_col);
        float a = w->weight[t] * w->inv_t, old = dz[id];
        float p = mk_expf(z[id] * w->inv_t - s.max) * (1.0f / s.sum);
        w->k->softmax_axpy(dz, a, &s, z, w->z.n_col);
        dz[id] = fmaf(a, p - 1.0f, old);
    }
}

void mk_back_logprob(mk_ops *ops, mk_mat dz, mk_mat z, const int32_t *id, const float *weight,
                     float temperature) {
    mk_ops_op_begin(ops);
    MK_ASSERT(dz.n_row == z.n_row && dz.n_col == z.n_col && (ops->dry || dz.p != z.p));
    logprob_work w = {
        .k = ops->k, .z = z, .dz = dz, .id = id, .weight = weight, .inv_t = inverse(temperature)};
    if (!ops->dry) {
        mk_ops_run(ops, worth(z), z.n_row, 1, run_back, &w);
    }
    mk_ops_count_rows(ops, MK_OP_BACK_LOGPROB, z, 11, 2);
    mk_ops_op_end(ops, MK_OP_BACK_LOGPROB);
}
