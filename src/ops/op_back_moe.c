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
    // of gate, up and down: gradients of what their adapters keep, and of the sums before
    // magnitudes
    mk_mat dv[3], dsum[3];
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

// y = W x of every expert, W with its adapter if it has one; i counts gate, up and down.
typedef struct {
    const mk_weight *w;
    const mk_weight_grads *g;
    int i;
    mk_mat dx, dy, x, y;
} moe_layer;

// The rows of the a-th expert; dry: of one that has them all, which takes most.
typedef struct {
    int64_t e, first, n;
} moe_rows;

static moe_rows rows_of(const mk_ops *ops, const mk_moe_kept *k, int64_t a) {
    return ops->dry ? (moe_rows){0, 0, k->n_pair}
                    : (moe_rows){k->expert[a], k->first[a], k->first[a + 1] - k->first[a]};
}

static mk_mat part(mk_mat m, moe_rows r) {
    return mk_mat_rows(m, r.first, r.n);
}

#define EXPERTS_AT_ONCE 16

// Adds the products of one expert's layer: of the base and of B, or of A alone.
static int64_t add_products(mk_back_linear *list, const back_work *w, const moe_layer *l,
                            moe_rows r, bool of_a) {
    const mk_adapter *ad = l->w->adapter;
    mk_mat dv = w->dv[l->i];
    if (of_a) {
        list[0] = (mk_back_linear){part(l->dx, r), part(dv, r), part(l->x, r),
                                   &ad->a,         r.e,         of_expert(l->g->a, &ad->a, r.e)};
        return 1;
    }
    list[0] = (mk_back_linear){
        part(l->dx, r), part(l->dy, r), part(l->x, r), l->w, r.e, of_expert(l->g->w, l->w, r.e)};
    if (ad == NULL) {
        return 1;
    }
    list[1] = (mk_back_linear){part(dv, r),
                               part(l->dy, r),
                               part(w->k->u[l->i], r),
                               &ad->b,
                               r.e,
                               of_expert(l->g->b, &ad->b, r.e)};
    return 2;
}

static void back_products(mk_ops *ops, const back_work *w, const moe_layer *l, int n_layer,
                          bool of_a) {
    int64_t n_active = ops->dry ? 1 : *w->k->n_active, n = 0;
    mk_back_linear list[4 * EXPERTS_AT_ONCE];
    for (int64_t a = 0; a < n_active; a++) {
        for (int i = 0; i < n_layer; i++) {
            if (!of_a || l[i].w->adapter != NULL) {
                n += add_products(list + n, w, &l[i], rows_of(ops, w->k, a), of_a);
            }
        }
        if ((a + 1) % EXPERTS_AT_ONCE == 0 || a == n_active - 1) {
            mk_back_linears(ops, list, n);
            n = 0;
        }
    }
}

static void back_magnitudes(mk_ops *ops, const back_work *w, const moe_layer *l, mk_mat dsum) {
    mk_clear_rows(ops, dsum);
    for (int64_t a = 0; a < (ops->dry ? 1 : *w->k->n_active); a++) {
        moe_rows r = rows_of(ops, w->k, a);
        mk_scaled s = {.ad = l->w->adapter,
                       .y = part(l->y, r),
                       .x = part(w->k->sum[l->i], r),
                       .n = l->w->n_out,
                       .n_head = 1,
                       .mat = r.e};
        mk_back_magnitude(ops, &s, part(dsum, r), part(l->dy, r), l->g->m);
    }
}

// The base and B see what comes back; then A, whose part of dx is added behind the base's.
static void back_layers(mk_ops *ops, const back_work *w, moe_layer *l, int n_layer) {
    bool adapted = false;
    for (int i = 0; i < n_layer; i++) {
        mk_mat dsum = w->dsum[l[i].i];
        if (dsum.p != NULL) {
            back_magnitudes(ops, w, &l[i], dsum);
            l[i].dy = dsum;
        }
        if (l[i].w->adapter != NULL) {
            mk_clear_rows(ops, w->dv[l[i].i]);
            adapted = true;
        }
    }
    back_products(ops, w, l, n_layer, false);
    for (int i = 0; i < n_layer; i++) {
        if (l[i].w->adapter != NULL) {
            mk_scale_rows(ops, w->dv[l[i].i], l[i].w->adapter->scale);
        }
    }
    if (adapted) {
        back_products(ops, w, l, n_layer, true);
    }
}

static void take_adapters(mk_ops *ops, back_work *w) {
    const mk_weight *list[] = {w->k->m.gate, w->k->m.up, w->k->m.down};
    for (int i = 0; i < 3; i++) {
        const mk_adapter *ad = list[i]->adapter;
        if (ad != NULL) {
            w->dv[i] = mk_op_new(ops, w->k->n_pair, ad->a.n_out);
        }
        if (ad != NULL && ad->magnitude != NULL) {
            w->dsum[i] = mk_op_new(ops, w->k->n_pair, list[i]->n_out);
        }
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
    take_adapters(ops, &w);
    const mk_moe *m = &k->m;
    moe_layer down = {m->down, &g->down, 2, w.dh, w.dout, w.h, k->out};
    moe_layer both[] = {{m->gate, &g->gate, 0, w.dx_gate, w.dg, w.xs, k->gate},
                        {m->up, &g->up, 1, w.dx_up, w.du, w.xs, k->up}};
    if (n > 0) {
        bool parallel = n * d >= 8192;
        if (!ops->dry) {
            mk_ops_run(ops, parallel, k->x.n_row, 4, run_spread, &w);
        }
        mk_op_swiglu(ops, w.h, k->gate, k->up);
        back_layers(ops, &w, &down, 1);
        mk_back_swiglu(ops, w.dg, w.du, w.dh, k->gate, k->up);
        back_layers(ops, &w, both, 2);
        if (!ops->dry) {
            mk_ops_run(ops, parallel, k->x.n_row, 4, run_gather, &w);
        }
    }
    mk_ops_drop(ops, mark);
}
