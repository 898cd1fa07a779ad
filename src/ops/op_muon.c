// Muon: momentum and its orthogonalisation by Newton-Schulz steps (optim.h has the formulas).
//
// With r the shorter and c the longer side, both rounded up to 16 and filled with zeros (which stay
// zeros), X lies row-major [r][c].  Both products of X are linear layers, y = x W^T, with W packed:
//
//     X X^T   W = X     lanes are rows of X       [r/16][c][16]
//     B X     W = X^T   lanes are columns of X    [c/16][r][16], stretches of its rows
//
// and A A has W = A, whose columns are its rows: A[i][j] and A[j][i] are sums of the same products
// in the same order.  A parameter lies in the first of these layouts if n_out <= n_in, in the
// second otherwise; so it is never transposed for its own sake.
//
// What is elementwise is plain C without FMA, for any processor: it is little beside the products.
#include <math.h>
#include <string.h>

#include "ops/ops_int.h"
#include "ops/optim.h"

#define PARALLEL_FLOATS 16384

static int64_t pad16(int64_t n) {
    return (n + 15) / 16 * 16;
}

typedef struct {
    const mk_muon_tensor *t;
    int64_t first;         // of the matrix, in floats
    int64_t n_tile, tile;  // of the parameter: tiles of 16 rows, floats of one
    int64_t tile_pad;      // the same with n_in rounded up
    int64_t r, c;
    float *x, *y, *w, *a, *a2;  // [r][c] twice, packed, [r][r] twice
    float scale;
} muon_work;

// For [lo, hi) of n rows or tiles of `cost` floats.
static void run(mk_ops *ops, int64_t n, int64_t cost, mk_ops_fn fn, muon_work *w) {
    mk_ops_op_begin(ops);
    mk_ops_run(ops, n > 1 && n * cost >= PARALLEL_FLOATS, n, 1, fn, w);
    mk_ops_count(ops, MK_OP_MUON, (mk_op_work){.n_bytes = 8 * (double)n * (double)cost});
    mk_ops_op_end(ops, MK_OP_MUON);
}

// --- between the parameter and X -----------------------------------------------------------------
// Momentum; what is to be made orthogonal goes to w.
static void run_momentum(void *arg, int ith, int64_t lo, int64_t hi) {
    const muon_work *w = arg;
    const mk_muon_tensor *t = w->t;
    (void)ith;
    for (int64_t i = lo; i < hi; i++) {
        float *g = t->g + w->first + i * w->tile, *m = t->momentum + w->first + i * w->tile;
        float *u = w->w + i * w->tile_pad;
        for (int64_t k = 0; k < w->tile; k++) {
            float part = t->not_beta * (g[k] * t->g_scale);
            m[k] = t->beta * m[k] + part;
            u[k] = t->beta * m[k] + part;
        }
        memset(u + w->tile, 0, (size_t)(w->tile_pad - w->tile) * sizeof *u);
        if (t->zero_g) {
            memset(g, 0, (size_t)w->tile * sizeof *g);
        }
    }
}

static void run_parameter(void *arg, int ith, int64_t lo, int64_t hi) {
    const muon_work *w = arg;
    (void)ith;
    for (int64_t i = lo; i < hi; i++) {
        float *p = w->t->p + w->first + i * w->tile;
        const float *u = w->w + i * w->tile_pad;
        for (int64_t k = 0; k < w->tile; k++) {
            p[k] = p[k] * w->t->keep - w->t->step * u[k];
        }
    }
}

// Lanes are rows: tiles of 16 rows of [r][c].
static void run_unpack_rows(void *arg, int ith, int64_t lo, int64_t hi) {
    const muon_work *w = arg;
    (void)ith;
    for (int64_t i = 16 * lo; i < 16 * hi; i++) {
        const float *from = w->w + i / 16 * w->c * 16 + i % 16;
        for (int64_t k = 0; k < w->c; k++) {
            w->x[i * w->c + k] = from[k * 16] * w->scale;
        }
    }
}

static void run_pack_rows(void *arg, int ith, int64_t lo, int64_t hi) {
    const muon_work *w = arg;
    (void)ith;
    for (int64_t i = lo; i < hi; i++) {
        const float *from = w->x + i * 16 * w->c;
        float *to = w->w + i * 16 * w->c;
        for (int64_t k = 0; k < w->c; k++) {
            for (int64_t lane = 0; lane < 16; lane++) {
                to[k * 16 + lane] = from[lane * w->c + k];
            }
        }
    }
}

// Lanes are columns: a row of [r][c] is cut in stretches of 16.
static void run_unpack_columns(void *arg, int ith, int64_t lo, int64_t hi) {
    const muon_work *w = arg;
    (void)ith;
    for (int64_t i = lo; i < hi; i++) {
        for (int64_t k = 0; k < w->c; k++) {
            w->x[i * w->c + k] = w->w[(k / 16 * w->r + i) * 16 + k % 16] * w->scale;
        }
    }
}

static void pack_columns(const float *from, float *to, int64_t n_row, int64_t n_col, int64_t i) {
    for (int64_t k = 0; k < n_col; k += 16) {
        memcpy(to + (k * n_row + i * 16), from + i * n_col + k, 16 * sizeof *to);
    }
}

static void run_pack_columns(void *arg, int ith, int64_t lo, int64_t hi) {
    const muon_work *w = arg;
    (void)ith;
    for (int64_t i = lo; i < hi; i++) {
        pack_columns(w->x, w->w, w->r, w->c, i);
    }
}

static void run_pack_gram(void *arg, int ith, int64_t lo, int64_t hi) {
    const muon_work *w = arg;
    (void)ith;
    for (int64_t i = lo; i < hi; i++) {
        pack_columns(w->a, w->w, w->r, w->r, i);
    }
}

// --- Newton-Schulz -------------------------------------------------------------------------------
static void run_polynomial(void *arg, int ith, int64_t lo, int64_t hi) {
    const muon_work *w = arg;
    (void)ith;
    for (int64_t i = lo * w->r; i < hi * w->r; i++) {
        w->a[i] = -4.7750f * w->a[i] + 2.0315f * w->a2[i];
    }
}

static void run_next(void *arg, int ith, int64_t lo, int64_t hi) {
    const muon_work *w = arg;
    (void)ith;
    for (int64_t i = lo * w->c; i < hi * w->c; i++) {
        w->x[i] = 3.4445f * w->x[i] + w->y[i];
    }
}

// y [n_row, n_out] = x [n_row, n_in] W^T, W the packed matrix in w.
static void product(mk_ops *ops, const muon_work *w, float *y, float *x, int64_t n_out,
                    int64_t n_in) {
    mk_weight weight = {.kind = MK_PACK_F32,
                        .n_mat = 1,
                        .n_out = n_out,
                        .n_in = n_in,
                        .mat_bytes = (size_t)n_out * (size_t)n_in * sizeof(float),
                        .data = (uint8_t *)w->w,
                        .borrowed = true,
                        .dtype = MK_DTYPE_F32};
    size_t mark = mk_op_mark(ops);
    mk_op_linear(ops, (mk_mat){y, w->r, n_out, n_out}, (mk_mat){x, w->r, n_in, n_in}, &weight,
                 NULL);
    mk_ops_drop(ops, mark);
}

static void newton_schulz(mk_ops *ops, muon_work *w) {
    for (int i = 0; i < 5; i++) {
        run(ops, w->r / 16, 16 * w->c, run_pack_rows, w);
        product(ops, w, w->a, w->x, w->r, w->c);
        run(ops, w->r, w->r, run_pack_gram, w);
        product(ops, w, w->a2, w->a, w->r, w->r);
        run(ops, w->r, w->r, run_polynomial, w);
        run(ops, w->r, w->c, run_pack_columns, w);
        product(ops, w, w->y, w->a, w->c, w->r);
        run(ops, w->r, w->c, run_next, w);
    }
}

static void one_matrix(mk_ops *ops, muon_work *w, bool wide) {
    double sum;
    run(ops, w->n_tile, w->tile, run_momentum, w);
    mk_op_sum_squares(ops, &sum, &(mk_flat){w->w, w->r * w->c}, 1);
    double norm = sqrt(sum);
    w->scale = (float)(1 / (norm > 1e-7 ? norm : 1e-7));
    if (wide) {
        run(ops, w->r / 16, 16 * w->c, run_unpack_rows, w);
    } else {
        run(ops, w->r, w->c, run_unpack_columns, w);
    }
    newton_schulz(ops, w);
    if (wide) {
        run(ops, w->r / 16, 16 * w->c, run_pack_rows, w);
    } else {
        run(ops, w->r, w->c, run_pack_columns, w);
    }
    run(ops, w->n_tile, w->tile, run_parameter, w);
}

// In a dry step: the scratch of the operators that are called.
static void dry_matrix(mk_ops *ops, const muon_work *w) {
    double sum;
    mk_op_sum_squares(ops, &sum, &(mk_flat){w->w, w->r * w->c}, 1);
    product(ops, w, w->a, w->x, w->r, w->c);
    product(ops, w, w->a2, w->a, w->r, w->r);
    product(ops, w, w->y, w->a, w->c, w->r);
}

void mk_op_muon(mk_ops *ops, const mk_muon_tensor *t) {
    bool wide = t->n_out <= t->n_in;
    int64_t rows = pad16(t->n_out), columns = pad16(t->n_in);
    muon_work w = {.t = t,
                   .n_tile = rows / 16,
                   .tile = 16 * t->n_in,
                   .tile_pad = 16 * columns,
                   .r = wide ? rows : columns,
                   .c = wide ? columns : rows};
    size_t mark = mk_op_mark(ops);
    w.x = mk_op_new(ops, w.r, w.c).p;
    w.y = mk_op_new(ops, w.r, w.c).p;
    w.w = mk_op_new(ops, w.r, w.c).p;
    w.a = mk_op_new(ops, w.r, w.r).p;
    w.a2 = mk_op_new(ops, w.r, w.r).p;
    for (int64_t m = 0; !ops->dry && m < t->n_mat; m++) {
        w.first = m * rows * t->n_in;
        one_matrix(ops, &w, wide);
    }
    if (ops->dry) {
        dry_matrix(ops, &w);
    }
    mk_ops_drop(ops, mark);
}
