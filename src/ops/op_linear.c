// Linear layers: activations are prepared once per kind, then all weights run in one parallel
// region over row tiles.
#include "ops/ops_int.h"

// --- the work ------------------------------------------------------------------------------------
void mk_ops_linear_work(void *arg, int ith, int n_thread) {
    const mk_linear_work *w = arg;
    int64_t total = 0, lo, hi, at = 0;
    for (int64_t i = 0; i < w->n; i++) {
        total += w->item[i].tiles * w->item[i].cost;
    }
    mk_pool_split(total, 1, ith, n_thread, &lo, &hi);
    for (int64_t i = 0; i < w->n && at < hi; i++) {
        // tiles of this item whose first unit of cost lies in [lo, hi)
        const mk_linear_item *it = &w->item[i];
        int64_t first = lo > at ? (lo - at + it->cost - 1) / it->cost : 0;
        int64_t last = (hi - at + it->cost - 1) / it->cost;
        last = last < it->tiles ? last : it->tiles;
        if (first < last) {
            w->k->linear[it->job.w->kind](&it->job, first, last);
        }
        at += it->tiles * it->cost;
    }
}

typedef struct {
    const mk_kernels *k;
    const mk_prep_job *job;
    const mk_x_form *form;
    int64_t n;
} prep_work;

static void run_prep(void *arg, int ith, int n_thread) {
    const prep_work *w = arg;
    for (int64_t i = 0; i < w->n; i++) {
        int64_t lo, hi;
        mk_pool_split(mk_x_units(w->job[i].n_tok, w->job[i].n_in), 1, ith, n_thread, &lo, &hi);
        if (lo < hi) {
            w->k->prep[w->form[i]](&w->job[i], lo, hi);
        }
    }
}

static bool prep_in_parallel(const prep_work *w) {
    int64_t n = 0;
    for (int64_t i = 0; i < w->n; i++) {
        n += w->job[i].n_tok * w->job[i].n_in;
    }
    return n >= 16384;  // a few microseconds
}

// --- operators -----------------------------------------------------------------------------------
#define MAX_LINEARS 8

void mk_op_linears(mk_ops *ops, mk_mat x, const mk_linear *list, int n) {
    mk_ops_op_begin(ops);
    MK_ASSERT(n >= 0 && n <= MAX_LINEARS);
    size_t mark = mk_op_mark(ops);
    mk_prep_job prep[MK_X_N];
    mk_x_form forms[MK_X_N];
    uint8_t *prepared[MK_X_N] = {NULL};
    mk_linear_item item[MAX_LINEARS];
    int64_t macs = 0;
    prep_work pw = {ops->k, prep, forms, 0};
    for (int i = 0; i < n; i++) {
        const mk_weight *w = list[i].w;
        MK_ASSERT(w->n_mat == 1 && w->n_in == x.n_col && w->n_out == list[i].y.n_col &&
                  list[i].y.n_row == x.n_row);
        mk_x_form form = mk_weight_form(w);
        if (prepared[form] == NULL) {
            prepared[form] = mk_ops_take(ops, mk_x_bytes(form, x.n_row, x.n_col));
            prep[pw.n] = (mk_prep_job){x.p, x.stride, NULL, 1, x.n_row, x.n_col, prepared[form]};
            forms[pw.n++] = form;
        }
        mk_linear_job job = {w,           w->data,          prepared[form], x.n_row,
                             list[i].y.p, list[i].y.stride, list[i].bias};
        item[i] = (mk_linear_item){job, mk_weight_tiles(w), 1};
        macs += x.n_row * x.n_col * w->n_out;
        mk_ops_count_linear(ops, MK_OP_LINEAR, w, x.n_row, 1);
    }
    if (!ops->dry && x.n_row > 0) {
        mk_linear_work lw = {ops->k, item, n};
        mk_ops_run(ops, prep_in_parallel(&pw), run_prep, &pw);
        mk_ops_run(ops, macs >= MK_OPS_PARALLEL_MACS, mk_ops_linear_work, &lw);
    }
    mk_op_release(ops, mark);
    mk_ops_op_end(ops, MK_OP_LINEAR);
}

void mk_op_linear(mk_ops *ops, mk_mat y, mk_mat x, const mk_weight *w, const float *bias) {
    mk_op_linears(ops, x, &(mk_linear){w, bias, y}, 1);
}

// The same for a stack of matrices, one per head.
typedef struct {
    const mk_kernels *k;
    const mk_weight *w;
    mk_mat x, y;
    int64_t x_head_stride, y_head_stride;
    uint8_t *prepared;
    size_t head_bytes;
} heads_work;

static void prep_heads(void *arg, int ith, int n_thread) {
    const heads_work *w = arg;
    int64_t units = mk_x_units(w->x.n_row, w->w->n_in), lo, hi;
    mk_pool_split(units * w->w->n_mat, 1, ith, n_thread, &lo, &hi);
    for (int64_t u = lo; u < hi;) {
        int64_t h = u / units, end = (h + 1) * units < hi ? (h + 1) * units : hi;
        mk_prep_job job = {
            w->x.p + h * w->x_head_stride,          w->x.stride, NULL, 1, w->x.n_row, w->w->n_in,
            w->prepared + (size_t)h * w->head_bytes};
        w->k->prep[mk_weight_form(w->w)](&job, u - h * units, end - h * units);
        u = end;
    }
}

static void linear_heads(void *arg, int ith, int n_thread) {
    const heads_work *w = arg;
    int64_t tiles = mk_weight_tiles(w->w), lo, hi;
    mk_pool_split(tiles * w->w->n_mat, 1, ith, n_thread, &lo, &hi);
    for (int64_t u = lo; u < hi;) {
        int64_t h = u / tiles, end = (h + 1) * tiles < hi ? (h + 1) * tiles : hi;
        mk_linear_job job = {w->w,
                             w->w->data + (size_t)h * w->w->mat_bytes,
                             w->prepared + (size_t)h * w->head_bytes,
                             w->x.n_row,
                             w->y.p + h * w->y_head_stride,
                             w->y.stride,
                             NULL};
        w->k->linear[w->w->kind](&job, u - h * tiles, end - h * tiles);
        u = end;
    }
}

void mk_op_linear_heads(mk_ops *ops, mk_mat y, int64_t y_head_stride, mk_mat x,
                        int64_t x_head_stride, const mk_weight *w) {
    mk_ops_op_begin(ops);
    MK_ASSERT(x.n_row == y.n_row && x_head_stride >= w->n_in && y_head_stride >= w->n_out);
    MK_ASSERT(x.n_col >= (w->n_mat - 1) * x_head_stride + w->n_in);
    MK_ASSERT(y.n_col >= (w->n_mat - 1) * y_head_stride + w->n_out);
    size_t mark = mk_op_mark(ops);
    heads_work work = {ops->k,
                       w,
                       x,
                       y,
                       x_head_stride,
                       y_head_stride,
                       NULL,
                       mk_x_bytes(mk_weight_form(w), x.n_row, w->n_in)};
    work.prepared = mk_ops_take(ops, work.head_bytes * (size_t)w->n_mat);
    if (!ops->dry && x.n_row > 0) {
        mk_ops_run(ops, x.n_row * w->n_in * w->n_mat >= 16384, prep_heads, &work);
        int64_t macs = x.n_row * w->n_in * w->n_out * w->n_mat;
        mk_ops_run(ops, macs >= MK_OPS_PARALLEL_MACS, linear_heads, &work);
    }
    mk_op_release(ops, mark);
    mk_ops_count_linear(ops, MK_OP_LINEAR_HEADS, w, x.n_row * w->n_mat, w->n_mat);
    mk_ops_op_end(ops, MK_OP_LINEAR_HEADS);
}
