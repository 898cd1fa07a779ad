// Backward of the experts: y[t] = sum of w[t,i] * out[rank(t,i)], out = down(silu(gate x) * up x).
//
// Rows stay sorted by expert as the forward left them, so every expert is three small layers over
// its own rows.  A token's gradient is summed over its experts in ascending id.
#include <string.h>

#include "ops/tape_int.h"

typedef struct {
    const mk_moe_kept *k;
    const mk_moe_grads *g;
    // rows in the order of k->order: x, its gradient through gate and through up, out's; the hidden
    // rows and theirs
    mk_mat xs, dx_gate, dx_up, dout, h, dh, dg, du;
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

static void clear_row(mk_mat m, int64_t r) {
    memset(m.p + r * m.stride, 0, (size_t)m.n_col * sizeof *m.p);
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
            clear_row(w->dx_gate, r);
            clear_row(w->dx_up, r);
            clear_row(w->dh, r);
            clear_row(w->dg, r);
            clear_row(w->du, r);
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
            int64_t r = w->k->rank[t * n_used + i];
            const float *gate = w->dx_gate.p + r * w->dx_gate.stride,
                        *up = w->dx_up.p + r * w->dx_up.stride;
            for (int64_t c = 0; c < d; c++) {
                dx[c] += gate[c] + up[c];
            }
        }
    }
}

static float *of_expert(float *stack, const mk_weight *w, int64_t e) {
    return stack != NULL ? stack + (size_t)e * mk_grad_floats(w) : NULL;
}

#define EXPERTS_AT_ONCE 16

// down, then gate and up of experts [lo, hi) in the order of the rows; dry: of one that has them
// all, which takes most.
static void back_experts(mk_ops *ops, const back_work *w, int64_t lo, int64_t hi, bool is_down) {
    const mk_moe *m = &w->k->m;
    mk_back_linear list[2 * EXPERTS_AT_ONCE];
    int64_t n = 0;
    for (int64_t a = lo; a < hi; a++) {
        int64_t e = ops->dry ? 0 : w->k->expert[a], first = ops->dry ? 0 : w->k->first[a],
                rows = ops->dry ? w->k->n_pair : w->k->first[a + 1] - first;
        if (is_down) {
            list[n++] = (mk_back_linear){mk_mat_rows(w->dh, first, rows),
                                         mk_mat_rows(w->dout, first, rows),
                                         mk_mat_rows(w->h, first, rows),
                                         m->down,
                                         e,
                                         of_expert(w->g->down, m->down, e)};
            continue;
        }
        mk_mat xs = mk_mat_rows(w->xs, first, rows);
        list[n++] = (mk_back_linear){
            mk_mat_rows(w->dx_gate, first, rows), mk_mat_rows(w->dg, first, rows), xs, m->gate, e,
            of_expert(w->g->gate, m->gate, e)};
        list[n++] = (mk_back_linear){
            mk_mat_rows(w->dx_up, first, rows), mk_mat_rows(w->du, first, rows), xs, m->up, e,
            of_expert(w->g->up, m->up, e)};
    }
    mk_back_linears(ops, list, n);
}

static void back_all(mk_ops *ops, const back_work *w, bool is_down) {
    int64_t n = ops->dry ? 1 : *w->k->n_active;
    for (int64_t a = 0; a < n; a += EXPERTS_AT_ONCE) {
        back_experts(ops, w, a, a + EXPERTS_AT_ONCE < n ? a + EXPERTS_AT_ONCE : n, is_down);
    }
}

void mk_back_moe(mk_ops *ops, const mk_moe_kept *k, const mk_moe_grads *g) {
    size_t mark = mk_op_mark(ops);
    int64_t n = k->n_pair, d = k->x.n_col, d_ff = k->gate.n_col;
    back_work w = {.k = k, .g = g};
    mk_mat *by_d[] = {&w.xs, &w.dx_gate, &w.dx_up}, *by_ff[] = {&w.h, &w.dh, &w.dg, &w.du};
    for (size_t i = 0; i < sizeof by_d / sizeof by_d[0]; i++) {
        *by_d[i] = mk_op_new(ops, n, d);
    }
    for (size_t i = 0; i < sizeof by_ff / sizeof by_ff[0]; i++) {
        *by_ff[i] = mk_op_new(ops, n, d_ff);
    }
    w.dout = mk_op_new(ops, n, k->y.n_col);
    if (n > 0) {
        bool parallel = n * d >= 8192;
        if (!ops->dry) {
            mk_ops_run(ops, parallel, k->x.n_row, 4, run_spread, &w);
        }
        mk_op_swiglu(ops, w.h, k->gate, k->up);
        back_all(ops, &w, true);
        mk_back_swiglu(ops, w.dg, w.du, w.dh, k->gate, k->up);
        back_all(ops, &w, false);
        if (!ops->dry) {
            mk_ops_run(ops, parallel, k->x.n_row, 4, run_gather, &w);
        }
    }
    mk_ops_drop(ops, mark);
}
