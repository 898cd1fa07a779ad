// Backward of the row operators: threads divide rows; where tokens meet in one gradient (weights of
// a norm, rows of an embedding) they divide columns, and tokens ascend.  The rotation is in
// op_rows.c.
#include "ops/back.h"
#include "ops/ops_int.h"

#define SERIAL_FLOATS 8192  // below this much work another thread is not worth waking
#define COLUMN_GRAIN  256   // columns of one thread: long enough to be read ahead

static bool worth(mk_mat m) {
    return m.n_row * m.n_col >= SERIAL_FLOATS;
}

static bool same_shape(mk_mat a, mk_mat b) {
    return a.n_row == b.n_row && a.n_col == b.n_col;
}

// --- RMS norm ------------------------------------------------------------------------------------
typedef struct {
    const mk_kernels *k;
    mk_mat dx;
    const float *w;
    float *r, eps;  // r: 1 / rms of every row, or NULL
    mk_norm_grad_job grad;
} norm_work;

static void run_norm_rows(void *arg, int ith, int64_t lo, int64_t hi) {
    const norm_work *w = arg;
    mk_mat dy = w->grad.dy, x = w->grad.x;
    (void)ith;
    for (int64_t t = lo; t < hi; t++) {
        const float *xt = x.p + t * x.stride;
        float r = w->dx.p == NULL
                      ? w->k->rms(xt, x.n_col, w->eps)
                      : w->k->back_rmsnorm(w->dx.p + t * w->dx.stride, dy.p + t * dy.stride, xt,
                                           w->w, x.n_col, w->eps);
        if (w->r != NULL) {
            w->r[t] = r;
        }
    }
}

static void run_norm_columns(void *arg, int ith, int64_t lo, int64_t hi) {
    const norm_work *w = arg;
    (void)ith;
    w->k->back_norm_w(&w->grad, lo, hi);
}

void mk_back_rmsnorm(mk_ops *ops, mk_mat dx, float *gw, mk_mat dy, mk_mat x, const float *w,
                     float eps) {
    mk_ops_op_begin(ops);
    MK_ASSERT(same_shape(dy, x) && (dx.p == NULL || same_shape(dx, x)));
    MK_ASSERT(ops->dry || dx.p == NULL || (dx.p != dy.p && dx.p != x.p));
    size_t mark = mk_op_mark(ops);
    float *r = gw != NULL ? mk_ops_take(ops, (size_t)x.n_row * sizeof *r) : NULL;
    if (!ops->dry && x.n_row > 0) {
        norm_work work = {ops->k, dx, w, r, eps, {dy, x, r, gw}};
        mk_ops_run(ops, worth(x) && x.n_row > 1, x.n_row, 1, run_norm_rows, &work);
        if (gw != NULL) {
            mk_ops_run(ops, worth(x), x.n_col, COLUMN_GRAIN, run_norm_columns, &work);
        }
    }
    mk_ops_drop(ops, mark);
    mk_ops_count_rows(ops, MK_OP_BACK_RMSNORM, x, 13, 3);
    mk_ops_op_end(ops, MK_OP_BACK_RMSNORM);
}

// --- SwiGLU --------------------------------------------------------------------------------------
typedef struct {
    const mk_kernels *k;
    mk_mat dg, du, dy, g, u;
} swiglu_work;

static float *row_or_null(mk_mat m, int64_t t, int64_t col) {
    return m.p == NULL ? NULL : m.p + t * m.stride + col;
}

// Cut by rows and, in a single row, by columns.
static void run_swiglu(void *arg, int ith, int64_t lo, int64_t hi) {
    const swiglu_work *w = arg;
    bool one = w->dy.n_row == 1;
    int64_t col = one ? lo : 0, n = one ? hi - lo : w->dy.n_col;
    (void)ith;
    for (int64_t t = one ? 0 : lo; t < (one ? 1 : hi); t++) {
        w->k->back_swiglu(row_or_null(w->dg, t, col), row_or_null(w->du, t, col),
                          w->dy.p + t * w->dy.stride + col, w->g.p + t * w->g.stride + col,
                          w->u.p + t * w->u.stride + col, n);
    }
}

void mk_back_swiglu(mk_ops *ops, mk_mat dg, mk_mat du, mk_mat dy, mk_mat g, mk_mat u) {
    mk_ops_op_begin(ops);
    MK_ASSERT(same_shape(dy, g) && same_shape(dy, u));
    MK_ASSERT((dg.p == NULL || same_shape(dg, dy)) && (du.p == NULL || same_shape(du, dy)));
    if (!ops->dry) {
        swiglu_work w = {ops->k, dg, du, dy, g, u};
        bool one = dy.n_row == 1;
        mk_ops_run(ops, worth(dy), one ? dy.n_col : dy.n_row, one ? 1024 : 1, run_swiglu, &w);
    }
    mk_ops_count_rows(ops, MK_OP_BACK_SWIGLU, dy, 12, 5);
    mk_ops_op_end(ops, MK_OP_BACK_SWIGLU);
}

// --- embedding -----------------------------------------------------------------------------------
typedef struct {
    float *g;
    mk_mat dy;
    const int32_t *ids;
} embed_work;

static void run_embed(void *arg, int ith, int64_t lo, int64_t hi) {
    const embed_work *w = arg;
    (void)ith;
    for (int64_t t = 0; t < w->dy.n_row; t++) {
        float *g = w->g + (int64_t)w->ids[t] * w->dy.n_col;
        const float *dy = w->dy.p + t * w->dy.stride;
        for (int64_t i = lo; i < hi; i++) {
            g[i] += dy[i];
        }
    }
}

void mk_back_embed(mk_ops *ops, float *g, mk_mat dy, const int32_t *ids) {
    mk_ops_op_begin(ops);
    if (!ops->dry) {
        embed_work w = {g, dy, ids};
        mk_ops_run(ops, worth(dy), dy.n_col, COLUMN_GRAIN, run_embed, &w);
    }
    mk_ops_count_rows(ops, MK_OP_BACK_EMBED, dy, 1, 2);
    mk_ops_op_end(ops, MK_OP_BACK_EMBED);
}

// --- routing -------------------------------------------------------------------------------------
typedef struct {
    const mk_kernels *k;
    const mk_route *r;
    mk_mat dlogits, dw, logits;
    const int32_t *sel;
    float *scratch;
    int64_t scratch_floats;
} route_work;

static void run_route(void *arg, int ith, int64_t lo, int64_t hi) {
    const route_work *w = arg;
    for (int64_t t = lo; t < hi; t++) {
        w->k->back_route(w->r, w->dlogits.p + t * w->dlogits.stride, w->dw.p + t * w->dw.stride,
                         w->logits.p + t * w->logits.stride, w->sel + t * w->r->n_used,
                         w->scratch + ith * w->scratch_floats);
    }
}

void mk_back_route(mk_ops *ops, mk_mat dlogits, mk_mat dw, const mk_route *r, mk_mat logits,
                   const int32_t *sel) {
    mk_ops_op_begin(ops);
    MK_ASSERT(same_shape(dlogits, logits) && logits.n_col == r->n_expert);
    MK_ASSERT(dw.n_col == r->n_used && dw.n_row == logits.n_row);
    size_t mark = mk_op_mark(ops);
    route_work work = {ops->k, r,   dlogits, dw,
                       logits, sel, NULL,    2 * ((r->n_expert + 15) / 16 * 16)};
    work.scratch =
        mk_ops_take(ops, (size_t)work.scratch_floats * (size_t)ops->n_thread * sizeof(float));
    if (!ops->dry) {
        mk_ops_run(ops, logits.n_row >= 8, logits.n_row, 4, run_route, &work);
    }
    mk_ops_drop(ops, mark);
    mk_ops_count_rows(ops, MK_OP_BACK_ROUTE, logits, 6, 2);
    mk_ops_op_end(ops, MK_OP_BACK_ROUTE);
}
