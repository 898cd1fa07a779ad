// Operators on rows: embedding, norm, activation, rotation, copies.  Threads divide the rows.
#include <string.h>

#include "base/mathx.h"
#include "ops/back.h"
#include "ops/tape_int.h"

#define SERIAL_FLOATS 8192  // below this much work another thread is not worth waking

static bool worth(mk_mat m) {
    return m.n_row > 1 && m.n_row * m.n_col >= SERIAL_FLOATS;
}

// --- embedding -----------------------------------------------------------------------------------
typedef struct {
    mk_mat y;
    const uint8_t *table;
    mk_dtype dtype;
    size_t row_bytes;
    const int32_t *ids;
} embed_work;

static void run_embed(void *arg, int ith, int64_t lo, int64_t hi) {
    const embed_work *w = arg;
    (void)ith;
    for (int64_t t = lo; t < hi; t++) {
        mk_dtype_to_f32(w->dtype, w->table + (size_t)w->ids[t] * w->row_bytes, w->y.n_col,
                        w->y.p + t * w->y.stride);
    }
}

void mk_op_embed(mk_ops *ops, mk_mat y, const uint8_t *table, mk_dtype dtype, size_t row_bytes,
                 const int32_t *ids) {
    mk_ops_op_begin(ops);
    if (!ops->dry) {
        embed_work w = {y, table, dtype, row_bytes, ids};
        mk_ops_run(ops, worth(y), y.n_row, 1, run_embed, &w);
    }
    if (ops->recording) {
        mk_rec r = {.kind = MK_REC_EMBED, .u.embed = {y, table, dtype, row_bytes, ids}};
        mk_tape_add(ops, &r);
    }
    mk_ops_count(ops, MK_OP_EMBED, (mk_op_work){.n_bytes = (double)y.n_row * (double)row_bytes});
    mk_ops_op_end(ops, MK_OP_EMBED);
}

// --- row by row ----------------------------------------------------------------------------------
typedef struct {
    const mk_kernels *k;
    mk_mat y, a, b;
    const float *w;
    float eps;
} rows_work;

static void run_rmsnorm(void *arg, int ith, int64_t lo, int64_t hi) {
    const rows_work *w = arg;
    (void)ith;
    for (int64_t t = lo; t < hi; t++) {
        if (w->b.p != NULL) {
            memcpy(w->b.p + t * w->b.stride, w->a.p + t * w->a.stride,
                   (size_t)w->a.n_col * sizeof(float));
        }
        w->k->rmsnorm(w->y.p + t * w->y.stride, w->a.p + t * w->a.stride, w->w, w->y.n_col, w->eps);
    }
}

// The input is kept: it is nearly always the residual, which layers add to in place.
static mk_mat record_rmsnorm(mk_ops *ops, mk_mat y, mk_mat x, const float *w, float eps) {
    mk_mat kept = mk_op_new(ops, x.n_row, x.n_col);
    mk_rec r = {.kind = MK_REC_RMSNORM, .u.rmsnorm = {y, x, kept, w, eps}};
    mk_tape_add(ops, &r);
    return kept;
}

void mk_op_rmsnorm(mk_ops *ops, mk_mat y, mk_mat x, const float *w, float eps) {
    mk_ops_op_begin(ops);
    MK_ASSERT(y.n_row == x.n_row && y.n_col == x.n_col);
    mk_mat kept = {0};
    if (ops->recording) {
        kept = record_rmsnorm(ops, y, x, w, eps);
    }
    if (!ops->dry) {
        rows_work work = {.k = ops->k, .y = y, .a = x, .b = kept, .w = w, .eps = eps};
        mk_ops_run(ops, worth(y), y.n_row, 1, run_rmsnorm, &work);
    }
    mk_ops_count_rows(ops, MK_OP_RMSNORM, x, 4, 1);
    mk_ops_op_end(ops, MK_OP_RMSNORM);
}

// Elementwise work is cut by rows and, in a single row, by columns.
typedef struct {
    int64_t row0, row1, col0, col1;
} cut;

static int64_t cuts(mk_mat m) {
    return m.n_row == 1 ? m.n_col : m.n_row;
}

static int64_t grain(mk_mat m) {
    return m.n_row == 1 ? 1024 : 4;
}

static cut cut_of(mk_mat m, int64_t lo, int64_t hi) {
    return m.n_row == 1 ? (cut){0, 1, lo, hi} : (cut){lo, hi, 0, m.n_col};
}

static void run_swiglu(void *arg, int ith, int64_t lo, int64_t hi) {
    const rows_work *w = arg;
    cut c = cut_of(w->y, lo, hi);
    (void)ith;
    for (int64_t t = c.row0; t < c.row1; t++) {
        w->k->swiglu(w->y.p + t * w->y.stride + c.col0, w->a.p + t * w->a.stride + c.col0,
                     w->b.p + t * w->b.stride + c.col0, c.col1 - c.col0);
    }
}

void mk_op_swiglu(mk_ops *ops, mk_mat y, mk_mat g, mk_mat u) {
    mk_ops_op_begin(ops);
    MK_ASSERT(y.n_row == g.n_row && y.n_col == g.n_col && y.n_row == u.n_row && y.n_col == u.n_col);
    if (!ops->dry) {
        rows_work work = {.k = ops->k, .y = y, .a = g, .b = u};
        mk_ops_run(ops, y.n_row * y.n_col >= SERIAL_FLOATS, cuts(y), grain(y), run_swiglu, &work);
    }
    if (ops->recording) {
        MK_ASSERT(y.p != g.p && y.p != u.p);  // both are needed on the way back
        mk_rec r = {.kind = MK_REC_SWIGLU, .u.swiglu = {y, g, u}};
        mk_tape_add(ops, &r);
    }
    mk_ops_count_rows(ops, MK_OP_SWIGLU, y, 5, 2);
    mk_ops_op_end(ops, MK_OP_SWIGLU);
}

static void run_add(void *arg, int ith, int64_t lo, int64_t hi) {
    const rows_work *w = arg;
    cut c = cut_of(w->y, lo, hi);
    (void)ith;
    for (int64_t t = c.row0; t < c.row1; t++) {
        float *x = w->y.p + t * w->y.stride;
        const float *y = w->a.p + t * w->a.stride;
        for (int64_t i = c.col0; i < c.col1; i++) {
            x[i] += y[i];
        }
    }
}

void mk_op_add(mk_ops *ops, mk_mat x, mk_mat y) {
    mk_ops_op_begin(ops);
    MK_ASSERT(y.n_row == x.n_row && y.n_col == x.n_col);
    if (!ops->dry) {
        rows_work work = {.k = ops->k, .y = x, .a = y};
        mk_ops_run(ops, x.n_row * x.n_col >= 4 * SERIAL_FLOATS, cuts(x), grain(x), run_add, &work);
    }
    if (ops->recording) {
        mk_rec r = {.kind = MK_REC_ADD, .u.add = {x, y}};
        mk_tape_add(ops, &r);
    }
    mk_ops_count_rows(ops, MK_OP_ADD, x, 1, 2);
    mk_ops_op_end(ops, MK_OP_ADD);
}

static void run_copy(void *arg, int ith, int64_t lo, int64_t hi) {
    const rows_work *w = arg;
    (void)ith;
    for (int64_t t = lo; t < hi; t++) {
        memcpy(w->y.p + t * w->y.stride, w->a.p + t * w->a.stride,
               (size_t)w->a.n_col * sizeof(float));
    }
}

void mk_op_copy(mk_ops *ops, mk_mat y, mk_mat x) {
    mk_ops_op_begin(ops);
    MK_ASSERT(y.n_row == x.n_row && y.n_col == x.n_col);
    if (!ops->dry) {
        rows_work work = {.y = y, .a = x};
        mk_ops_run(ops, worth(y), y.n_row, 4, run_copy, &work);
    }
    if (ops->recording) {
        mk_rec r = {.kind = MK_REC_COPY, .u.copy = {.x = x, .y = y}};
        mk_tape_add(ops, &r);
    }
    mk_ops_count_rows(ops, MK_OP_COPY, x, 0, 1);
    mk_ops_op_end(ops, MK_OP_COPY);
}

// --- rotary embedding ----------------------------------------------------------------------------
typedef struct {
    mk_mat m, cs;
    const mk_rope *r;
    const int32_t *pos;
    const float *inv_freq;
    int64_t n_pair;
    double factor;
    float sign;  // of the angle: 1, backward -1
} rope_work;

static void run_angles(void *arg, int ith, int64_t lo, int64_t hi) {
    const rope_work *w = arg;
    (void)ith;
    for (int64_t t = lo; t < hi; t++) {
        float *cs = w->cs.p + t * w->cs.stride;
        // sequences of a batch count from the same positions on
        int64_t same = lo + w->pos[t] - w->pos[lo];
        if (same >= lo && same < t && w->pos[same] == w->pos[t]) {
            memcpy(cs, w->cs.p + same * w->cs.stride, (size_t)w->n_pair * 2 * sizeof *cs);
            continue;
        }
        for (int64_t i = 0; i < w->n_pair; i++) {
            double s, c;
            float angle = (float)w->pos[t] * w->inv_freq[i];
            mk_sincos((double)angle, &s, &c);
            cs[i] = (float)(c * w->factor);
            cs[w->n_pair + i] = (float)(s * w->factor);
        }
    }
}

void mk_op_rope_angles(mk_ops *ops, mk_mat cs, const int32_t *pos, const float *inv_freq,
                       int64_t n_pair, double factor) {
    mk_ops_op_begin(ops);
    MK_ASSERT(cs.n_col == 2 * n_pair);
    if (!ops->dry) {
        rope_work w = {
            .cs = cs, .pos = pos, .inv_freq = inv_freq, .n_pair = n_pair, .factor = factor};
        mk_ops_run(ops, cs.n_row * n_pair >= 256, cs.n_row, 1, run_angles, &w);
    }
    if (ops->recording) {
        mk_rec r = {.kind = MK_REC_ANGLES, .u.angles = {cs, pos, inv_freq, n_pair, factor}};
        mk_tape_add(ops, &r);
    }
    mk_ops_count_rows(ops, MK_OP_ROPE_ANGLES, cs, 2, 0);
    mk_ops_op_end(ops, MK_OP_ROPE_ANGLES);
}

// Plain C and separate roundings (product, product, sum), as the official implementations do in
// float32; the compiler may vectorise, it may not fuse.  A rotation is orthogonal up to its factor,
// so its backward is the rotation by the negative angle, times the same factor.
static void rotate_half(float *restrict x, const float *restrict cs, int64_t n, float sign) {
    for (int64_t i = 0; i < n; i++) {
        float a = x[i], b = x[i + n], c = cs[i], s = sign * cs[n + i];
        x[i] = a * c - b * s;
        x[i + n] = b * c + a * s;
    }
}

static void rotate_interleaved(float *restrict x, const float *restrict cs, int64_t n, float sign) {
    for (int64_t i = 0; i < n; i++) {
        float a = x[2 * i], b = x[2 * i + 1], c = cs[i], s = sign * cs[n + i];
        x[2 * i] = a * c - b * s;
        x[2 * i + 1] = b * c + a * s;
    }
}

static void run_rope(void *arg, int ith, int64_t lo, int64_t hi) {
    const rope_work *w = arg;
    const mk_rope *r = w->r;
    (void)ith;
    for (int64_t t = lo; t < hi; t++) {
        for (int64_t h = 0; h < r->n_head; h++) {
            float *x = w->m.p + t * w->m.stride + h * r->head_stride + r->first;
            const float *cs = w->cs.p + t * w->cs.stride;
            if (r->style == MK_ROPE_HALF) {
                rotate_half(x, cs, r->n_pair, w->sign);
            } else {
                rotate_interleaved(x, cs, r->n_pair, w->sign);
            }
        }
    }
}

// Three operations for every element that is rotated.
static mk_op_work rope_count(int64_t n_row, const mk_rope *r) {
    double n = 2 * (double)n_row * (double)r->n_head * (double)r->n_pair;
    return (mk_op_work){.n_op = 3 * n, .n_bytes = 4 * n};
}

static void rope(mk_ops *ops, mk_op_id id, mk_mat x, const mk_rope *r, mk_mat cs, float sign) {
    mk_ops_op_begin(ops);
    MK_ASSERT(cs.n_row == x.n_row && cs.n_col == 2 * r->n_pair &&
              r->first + 2 * r->n_pair <= r->head_stride);
    MK_ASSERT(x.n_col >= (r->n_head - 1) * r->head_stride + r->first + 2 * r->n_pair);
    if (!ops->dry) {
        rope_work w = {.m = x, .cs = cs, .r = r, .sign = sign};
        mk_ops_run(ops, worth(x), x.n_row, 4, run_rope, &w);
    }
    mk_ops_count(ops, id, rope_count(x.n_row, r));
    mk_ops_op_end(ops, id);
}

void mk_op_rope(mk_ops *ops, mk_mat x, const mk_rope *r, mk_mat cs) {
    rope(ops, MK_OP_ROPE, x, r, cs, 1.0f);
    if (ops->recording) {
        mk_rec rec = {.kind = MK_REC_ROPE, .u.rope = {x, cs, *r}};
        mk_tape_add(ops, &rec);
    }
}

void mk_back_rope(mk_ops *ops, mk_mat dx, const mk_rope *r, mk_mat cs) {
    rope(ops, MK_OP_BACK_ROPE, dx, r, cs, -1.0f);
}
