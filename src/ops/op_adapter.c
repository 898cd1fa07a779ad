// Adapters beside the linear layers (ops.h): the product of low rank, and magnitudes.
//
// u = scale (A x), then y = y + B u, rows in slices: what lies between the products stays in the
// caches, and B u needs no memory for a whole batch.  On the way back dy is used as it is: the
// scale sits in u and is given to du, so the large matrices are never copied.
#include <string.h>

#include "ops/back.h"
#include "ops/tape_int.h"

#define SERIAL_FLOATS 8192  // below this much work another thread is not worth waking

static mk_mat head(mk_mat m, int64_t h, int64_t stride, int64_t n) {
    return m.p != NULL ? mk_mat_cols(m, h * stride, n) : m;
}

// --- rows ----------------------------------------------------------------------------------------
typedef struct {
    mk_mat y, x;
    int64_t y_head_stride, x_head_stride, n, n_head;
    float scale;
    const float *ratio, *bias;
} rows_work;

static void run_scale(void *arg, int ith, int64_t lo, int64_t hi) {
    const rows_work *w = arg;
    (void)ith;
    for (int64_t t = lo; t < hi; t++) {
        float *y = w->y.p + t * w->y.stride;
        for (int64_t i = 0; i < w->y.n_col; i++) {
            y[i] *= w->scale;
        }
    }
}

static void each_row(mk_ops *ops, const rows_work *w, mk_ops_fn fn) {
    if (!ops->dry) {
        bool worth = w->y.n_row > 1 && w->y.n_row * w->y.n_col >= SERIAL_FLOATS;
        mk_ops_run(ops, worth, w->y.n_row, 4, fn, (void *)(uintptr_t)w);
    }
}

void mk_scale_rows(mk_ops *ops, mk_mat m, float scale) {
    each_row(ops, &(rows_work){.y = m, .scale = scale}, run_scale);
}

// --- the product of low rank ---------------------------------------------------------------------
static mk_heads product_a(const mk_adapted *k, mk_mat u, mk_mat x) {
    const mk_adapter *ad = k->h.w->adapter;
    return (mk_heads){&ad->a,      u,       x, mk_adapter_width(ad), k->h.x_head_stride,
                      k->h.n_head, k->h.mat};
}

static mk_heads product_b(const mk_adapted *k, mk_mat y, int64_t y_head_stride, mk_mat u) {
    const mk_adapter *ad = k->h.w->adapter;
    return (mk_heads){&ad->b, y, u, y_head_stride, mk_adapter_width(ad), k->h.n_head, k->h.mat};
}

typedef struct {
    const mk_kernels *k;
    const mk_adapted *of;
    int64_t n_block;  // of rows, of one head
} adapt_work;

mk_low_rank_job mk_adapter_job(const mk_adapter *ad, int64_t mat) {
    const uint8_t *a = ad->a.data + (size_t)(ad->a.n_mat == 1 ? 0 : mat) * ad->a.mat_bytes,
                  *b = ad->b.data + (size_t)(ad->b.n_mat == 1 ? 0 : mat) * ad->b.mat_bytes;
    return (mk_low_rank_job){.a = (const float *)(const void *)a,
                             .b = (const float *)(const void *)b,
                             .rank = ad->a.n_out,
                             .n_in = ad->a.n_in,
                             .n_out = ad->b.n_out,
                             .scale = ad->scale};
}

static void run_adapt(void *arg, int ith, int64_t lo, int64_t hi) {
    const adapt_work *w = arg;
    const mk_heads *in = &w->of->h;
    const mk_adapter *ad = in->w->adapter;
    (void)ith;
    for (int64_t unit = lo; unit < hi;) {
        int64_t h = unit / w->n_block, end = (h + 1) * w->n_block < hi ? (h + 1) * w->n_block : hi;
        int64_t first = (unit - h * w->n_block) * MK_X_BLOCK,
                last = (end - h * w->n_block) * MK_X_BLOCK;
        mk_low_rank_job job = mk_adapter_job(ad, in->mat + h);
        job.x = in->x.p + h * in->x_head_stride;
        job.x_stride = in->x.stride;
        job.u = w->of->u.p + h * mk_adapter_width(ad);
        job.u_stride = w->of->u.stride;
        job.y = in->y.p + h * in->y_head_stride;
        job.y_stride = in->y.stride;
        w->k->low_rank(&job, first, last < in->x.n_row ? last : in->x.n_row);
        unit = end;
    }
}

void mk_adapter_run(mk_ops *ops, const mk_adapted *k) {
    const mk_adapter *ad = k->h.w->adapter;
    int64_t n_tok = k->h.x.n_row, n_head = k->h.n_head;
    MK_ASSERT(ad->a.n_in == k->h.w->n_in && ad->b.n_out == k->h.w->n_out &&
              ad->b.n_in == ad->a.n_out && k->h.y.n_row == n_tok);
    MK_ASSERT(k->h.x.n_col >= (n_head - 1) * k->h.x_head_stride + ad->a.n_in &&
              k->h.y.n_col >= (n_head - 1) * k->h.y_head_stride + ad->b.n_out);
    if (!ops->dry) {
        adapt_work w = {ops->k, k, (n_tok + MK_X_BLOCK - 1) / MK_X_BLOCK};
        int64_t macs = n_tok * n_head * ad->a.n_out * (ad->a.n_in + ad->b.n_out);
        mk_ops_run(ops, macs >= MK_OPS_PARALLEL_MACS, w.n_block * n_head, 1, run_adapt, &w);
    }
}

void mk_ops_adapt(mk_ops *ops, const mk_heads *h) {
    const mk_adapter *ad = h->w->adapter;
    mk_ops_op_begin(ops);
    mk_adapted k = {*h, mk_op_new(ops, h->x.n_row, h->n_head * mk_adapter_width(ad))};
    mk_adapter_run(ops, &k);
    if (ops->recording) {
        mk_rec r = {.kind = MK_REC_ADAPTER, .u.adapter = k};
        mk_tape_add(ops, &r);
    }
    mk_ops_count_linear(ops, MK_OP_ADAPTER, &ad->a, h->x.n_row * h->n_head, ad->a.n_mat);
    mk_ops_count_linear(ops, MK_OP_ADAPTER, &ad->b, h->x.n_row * h->n_head, ad->b.n_mat);
    mk_ops_op_end(ops, MK_OP_ADAPTER);
}

void mk_clear_rows(const mk_ops *ops, mk_mat m) {
    for (int64_t t = 0; !ops->dry && t < m.n_row; t++) {
        memset(m.p + t * m.stride, 0, (size_t)m.n_col * sizeof *m.p);
    }
}

// The scale is given back to u's gradient: d(A x) = scale * du.
void mk_back_adapter(mk_ops *ops, const mk_adapted *k, mk_mat dx, mk_mat dy, float *ga, float *gb) {
    const mk_adapter *ad = k->h.w->adapter;
    size_t mark = mk_op_mark(ops);
    mk_mat du = mk_op_new(ops, k->u.n_row, k->u.n_col);
    mk_clear_rows(ops, du);
    mk_heads b = product_b(k, k->h.y, k->h.y_head_stride, k->u);
    mk_back_heads(ops, &b, du, dy, gb);
    mk_scale_rows(ops, du, ad->scale);
    mk_heads a = product_a(k, k->u, k->h.x);
    mk_back_heads(ops, &a, dx, du, ga);
    mk_ops_drop(ops, mark);
}

// --- heads backward ------------------------------------------------------------------------------
// Rows of all heads of a token below each other: a view where the memory allows it, else a copy.
static mk_mat tall(mk_ops *ops, mk_mat m, int64_t stride, int64_t n, int64_t n_head) {
    if (m.stride == n_head * stride) {
        return (mk_mat){m.p, m.n_row * n_head, n, stride};
    }
    mk_mat copy = mk_op_new(ops, m.n_row * n_head, n);
    for (int64_t r = 0; !ops->dry && r < copy.n_row; r++) {
        memcpy(copy.p + r * copy.stride, m.p + r / n_head * m.stride + r % n_head * stride,
               (size_t)n * sizeof *m.p);
    }
    return copy;
}

#define HEADS_AT_ONCE 16

void mk_back_heads(mk_ops *ops, const mk_heads *h, mk_mat dx, mk_mat dy, float *g) {
    const mk_weight *w = h->w;
    bool shared = w->n_mat == 1 && h->n_head > 1;
    size_t mark = mk_op_mark(ops);
    if (shared && g != NULL) {
        mk_mat x = tall(ops, h->x, h->x_head_stride, w->n_in, h->n_head);
        mk_back_linear_w(ops, g, tall(ops, dy, h->y_head_stride, w->n_out, h->n_head), x);
        mk_ops_drop(ops, mark);
    }
    mk_back_linear list[HEADS_AT_ONCE];
    for (int64_t i = 0, n = 0; i < h->n_head; i++) {
        int64_t mat = w->n_mat == 1 ? 0 : h->mat + i;
        list[n++] =
            (mk_back_linear){head(dx, i, h->x_head_stride, w->n_in),
                             head(dy, i, h->y_head_stride, w->n_out),
                             head(h->x, i, h->x_head_stride, w->n_in),
                             w,
                             mat,
                             g != NULL && !shared ? g + (size_t)mat * mk_grad_floats(w) : NULL};
        if (n == HEADS_AT_ONCE || i == h->n_head - 1) {
            mk_back_linears(ops, list, n);
            n = 0;
        }
    }
}

// --- magnitudes ----------------------------------------------------------------------------------
static void run_ratio(void *arg, int ith, int64_t lo, int64_t hi) {
    const rows_work *w = arg;
    (void)ith;
    for (int64_t t = lo; t < hi; t++) {
        for (int64_t h = 0; h < w->n_head; h++) {
            float *y = w->y.p + t * w->y.stride + h * w->y_head_stride;
            const float *x = w->x.p + t * w->x.stride + h * w->x_head_stride;
            const float *ratio = w->ratio + h * w->n;
            for (int64_t i = 0; i < w->n; i++) {
                y[i] = x[i] * ratio[i];
            }
            for (int64_t i = 0; w->bias != NULL && i < w->n; i++) {
                y[i] += w->bias[i];
            }
        }
    }
}

static void run_add_ratio(void *arg, int ith, int64_t lo, int64_t hi) {
    const rows_work *w = arg;
    (void)ith;
    for (int64_t t = lo; t < hi; t++) {
        for (int64_t h = 0; h < w->n_head; h++) {
            float *y = w->y.p + t * w->y.stride + h * w->y_head_stride;
            const float *x = w->x.p + t * w->x.stride + h * w->x_head_stride;
            const float *ratio = w->ratio + h * w->n;
            for (int64_t i = 0; i < w->n; i++) {
                y[i] += x[i] * ratio[i];
            }
        }
    }
}

// magnitude / norm, or 1 / norm, of all heads; scratch of the caller's.
static float *ratios(mk_ops *ops, const mk_scaled *s, bool magnitude) {
    int64_t n = s->n_head * s->n, at = s->mat * s->n;
    float *ratio = mk_ops_take(ops, (size_t)n * sizeof *ratio);
    for (int64_t i = 0; !ops->dry && i < n; i++) {
        ratio[i] = (magnitude ? s->ad->magnitude[at + i] : 1) / s->ad->norm[at + i];
    }
    return ratio;
}

void mk_magnitude_run(mk_ops *ops, const mk_scaled *s) {
    size_t mark = mk_op_mark(ops);
    MK_ASSERT(s->bias == NULL || s->n_head == 1);
    rows_work w = {.y = s->y,
                   .x = s->x,
                   .y_head_stride = s->y_head_stride,
                   .x_head_stride = s->x_head_stride,
                   .n = s->n,
                   .n_head = s->n_head,
                   .ratio = ratios(ops, s, true),
                   .bias = s->bias};
    each_row(ops, &w, run_ratio);
    mk_ops_drop(ops, mark);
}

void mk_ops_magnitude(mk_ops *ops, const mk_scaled *s) {
    mk_ops_op_begin(ops);
    mk_magnitude_run(ops, s);
    if (ops->recording) {
        mk_rec r = {.kind = MK_REC_MAGNITUDE, .u.magnitude = *s};
        mk_tape_add(ops, &r);
    }
    mk_ops_count_rows(ops, MK_OP_MAGNITUDE, s->y, 1, 1);
    mk_ops_op_end(ops, MK_OP_MAGNITUDE);
}

typedef struct {
    mk_mat dy, x;
    const float *inv;
    float *g;
} magnitude_work;

// Columns [lo, hi) of one head; tokens ascending.
static void run_magnitude_grad(void *arg, int ith, int64_t lo, int64_t hi) {
    const magnitude_work *w = arg;
    (void)ith;
    for (int64_t t = 0; t < w->dy.n_row; t++) {
        const float *dy = w->dy.p + t * w->dy.stride, *x = w->x.p + t * w->x.stride;
        for (int64_t i = lo; i < hi; i++) {
            w->g[i] += dy[i] * (x[i] * w->inv[i]);
        }
    }
}

void mk_back_magnitude(mk_ops *ops, const mk_scaled *s, mk_mat dx, mk_mat dy, float *gm) {
    mk_ops_op_begin(ops);
    size_t mark = mk_op_mark(ops);
    const float *inv = ratios(ops, s, false);
    for (int64_t h = 0; h < s->n_head && gm != NULL && !ops->dry; h++) {
        magnitude_work w = {head(dy, h, s->y_head_stride, s->n),
                            head(s->x, h, s->x_head_stride, s->n), inv + h * s->n,
                            gm + (s->mat + h) * s->n};
        mk_ops_run(ops, dy.n_row * s->n >= SERIAL_FLOATS, s->n, 256, run_magnitude_grad, &w);
    }
    rows_work w = {.y = dx,
                   .x = dy,
                   .y_head_stride = s->x_head_stride,
                   .x_head_stride = s->y_head_stride,
                   .n = s->n,
                   .n_head = s->n_head,
                   .ratio = ratios(ops, s, true)};
    each_row(ops, &w, run_add_ratio);
    mk_ops_drop(ops, mark);
    mk_ops_count_rows(ops, MK_OP_BACK_MAGNITUDE, dy, 4, 2);
    mk_ops_op_end(ops, MK_OP_BACK_MAGNITUDE);
}
