// Backward of the experts: y[t] = sum of w[t,i] * out[rank(t,i)], out = down(silu(gate x) * up x).
//
// Rows stay sorted by expert as the forward left them, so every expert is three small layers over
// its own rows.  A token's gradient is summed over its experts in ascending id.
#include <string.h>

#include "ops/tape_int.h"

typedef struct {
    const mk_moe_kept *k;
    const mk_moe_grads *g;
    mk_mat xs, dxs, dout;  // rows in the order of k->order
} back_work;

// The routing weights' gradient is a dot product: 16 lanes, column i in lane i % 16, and the tree
// of docs/numerics.md.
static float dot16(const float *a, const float *b, int64_t n) {
    float lane[16] = {0};
    for (int64_t i = 0; i + 16 <= n; i += 16) {
        for (int j = 0; j < 16; j++) {
            lane[j] += a[i + j] * b[i + j];
        }
    }
    for (int64_t i = n / 16 * 16; i < n; i++) {
        lane[i % 16] += a[i] * b[i];
    }
    for (int half = 8; half > 0; half /= 2) {
        for (int i = 0; i < half; i++) {
            lane[i] += lane[i + half];
        }
    }
    return lane[0];
}

// Rows of y's gradient go to the experts, times their weights; x is gathered beside them.
static void run_spread(void *arg, int ith, int64_t lo, int64_t hi) {
    const back_work *w = arg;
    const mk_moe_kept *k = w->k;
    int64_t d = k->y.n_col, n_used = k->m.n_used;
    (void)ith;
    for (int64_t t = lo; t < hi; t++) {
        const float *dy = w->g->dy.p + t * w->g->dy.stride;
        for (int64_t i = 0; i < n_used; i++) {
            int64_t r = k->rank[t * n_used + i];
            float *dout = w->dout.p + r * w->dout.stride, rw = k->m.w.p[t * k->m.w.stride + i];
            for (int64_t c = 0; c < d; c++) {
                dout[c] = rw * dy[c];
            }
            w->g->dw.p[t * w->g->dw.stride + i] += dot16(dy, k->out.p + r * k->out.stride, d);
            memcpy(w->xs.p + r * w->xs.stride, k->x.p + t * k->x.stride,
                   (size_t)k->x.n_col * sizeof(float));
            memset(w->dxs.p + r * w->dxs.stride, 0, (size_t)k->x.n_col * sizeof(float));
        }
    }
}

static void run_gather(void *arg, int ith, int64_t lo, int64_t hi) {
    const back_work *w = arg;
    int64_t n_used = w->k->m.n_used, d = w->k->x.n_col;
    (void)ith;
    for (int64_t t = lo; t < hi; t++) {
        float *dx = w->g->dx.p + t * w->g->dx.stride;
        for (int64_t i = 0; i < n_used; i++) {
            const float *from = w->dxs.p + w->k->rank[t * n_used + i] * w->dxs.stride;
            for (int64_t c = 0; c < d; c++) {
                dx[c] += from[c];
            }
        }
    }
}

static float *of_expert(float *stack, const mk_weight *w, int64_t e) {
    return stack != NULL ? stack + (size_t)e * mk_grad_floats(w) : NULL;
}

static void back_linear(mk_ops *ops, mk_mat dx, mk_mat dy, mk_mat x, const mk_weight *w, int64_t e,
                        float *stack) {
    float *g = of_expert(stack, w, e);
    if (g != NULL) {
        mk_back_linear_w(ops, g, dy, x);
    }
    mk_back_linear_x(ops, dx, dy, w, e);
}

static void clear_rows(const mk_ops *ops, mk_mat m) {
    for (int64_t t = 0; !ops->dry && t < m.n_row; t++) {
        memset(m.p + t * m.stride, 0, (size_t)m.n_col * sizeof *m.p);
    }
}

// Rows [first, first + n) are expert e's.
static void back_expert(mk_ops *ops, const back_work *w, int64_t e, int64_t first, int64_t n) {
    const mk_moe *m = &w->k->m;
    size_t mark = mk_op_mark(ops);
    mk_mat gate = mk_mat_rows(w->k->gate, first, n), up = mk_mat_rows(w->k->up, first, n);
    mk_mat h = mk_op_new(ops, n, gate.n_col), dh = mk_op_new(ops, n, gate.n_col);
    mk_mat dg = mk_op_new(ops, n, gate.n_col), du = mk_op_new(ops, n, gate.n_col);
    clear_rows(ops, dh);
    clear_rows(ops, dg);
    clear_rows(ops, du);
    mk_op_swiglu(ops, h, gate, up);
    back_linear(ops, dh, mk_mat_rows(w->dout, first, n), h, m->down, e, w->g->down);
    mk_back_swiglu(ops, dg, du, dh, gate, up);
    mk_mat dxs = mk_mat_rows(w->dxs, first, n), xs = mk_mat_rows(w->xs, first, n);
    back_linear(ops, dxs, dg, xs, m->gate, e, w->g->gate);
    back_linear(ops, dxs, du, xs, m->up, e, w->g->up);
    mk_ops_drop(ops, mark);
}

void mk_back_moe(mk_ops *ops, const mk_moe_kept *k, const mk_moe_grads *g) {
    size_t mark = mk_op_mark(ops);
    back_work w = {k, g, mk_op_new(ops, k->n_pair, k->x.n_col),
                   mk_op_new(ops, k->n_pair, k->x.n_col), mk_op_new(ops, k->n_pair, k->y.n_col)};
    if (ops->dry) {  // the worst case: every row is one expert's
        back_expert(ops, &w, 0, 0, k->n_pair);
    } else if (k->n_pair > 0) {
        bool parallel = k->n_pair * k->y.n_col >= 8192;
        mk_ops_run(ops, parallel, k->x.n_row, 4, run_spread, &w);
        for (int64_t a = 0; a < *k->n_active; a++) {
            back_expert(ops, &w, k->expert[a], k->first[a], k->first[a + 1] - k->first[a]);
        }
        mk_ops_run(ops, parallel, k->x.n_row, 4, run_gather, &w);
    }
    mk_ops_drop(ops, mark);
}
