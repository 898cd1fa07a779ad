// Mixture of experts: routing, and the feed-forward of the chosen experts.
//
// The (token, expert) pairs of a step are sorted by expert, so every expert's weights are read once
// for all its rows:
//   1. prepare the rows and gather those of every     3. h = swiglu(gate, up), prepared for down
//      expert
//   2. gate and up of all experts                     4. down of all experts
//   5. y[t] = sum of w * row, experts ascending (FMA from 0)
// Each of these is one parallel region over all experts together.  Adapters of gate and up come
// between 2 and 3, those of down between 4 and 5, and read float32 rows.
#include <string.h>

#include "ops/tape_int.h"

// --- routing -------------------------------------------------------------------------------------
typedef struct {
    const mk_kernels *k;
    const mk_route *r;
    mk_mat logits, w;
    int32_t *sel;
    uint8_t *scratch;
    size_t scratch_bytes;
} route_work;

static void run_route(void *arg, int ith, int64_t lo, int64_t hi) {
    const route_work *w = arg;
    for (int64_t t = lo; t < hi; t++) {
        w->k->route(w->r, w->logits.p + t * w->logits.stride,
                    (float *)(w->scratch + (size_t)ith * w->scratch_bytes),
                    w->sel + t * w->r->n_used, w->w.p + t * w->w.stride);
    }
}

void mk_op_route(mk_ops *ops, const mk_route *r, mk_mat logits, int32_t *sel, mk_mat w) {
    mk_ops_op_begin(ops);
    MK_ASSERT(logits.n_col == r->n_expert && w.n_col == r->n_used && w.n_row == logits.n_row);
    MK_ASSERT(r->n_used > 0 && r->n_used <= r->n_expert);
    MK_ASSERT(r->group == MK_GROUP_NONE ||
              (r->n_group > 0 && r->n_group_used > 0 && r->n_expert % r->n_group == 0));
    size_t mark = mk_op_mark(ops);
    size_t floats =
        2 * (size_t)((r->n_expert + 15) / 16 * 16) + (size_t)(r->n_group > 0 ? r->n_group : 0) + 16;
    route_work work = {ops->k, r, logits, w, sel, NULL, (floats + 15) / 16 * 64};
    work.scratch = mk_ops_take(ops, work.scratch_bytes * (size_t)ops->n_thread);
    if (!ops->dry) {
        mk_ops_run(ops, logits.n_row >= 8, logits.n_row, 4, run_route, &work);
    }
    mk_ops_drop(ops, mark);
    if (ops->recording) {
        mk_rec rec = {.kind = MK_REC_ROUTE, .u.route = {*r, logits, w, sel}};
        mk_tape_add(ops, &rec);
    }
    mk_ops_count_rows(ops, MK_OP_ROUTE, logits, 2, 1);
    mk_ops_op_end(ops, MK_OP_ROUTE);
}

// --- experts -------------------------------------------------------------------------------------
// Pair p = t * n_used + i.  Experts with rows are numbered 0..n_active; expert a has the pairs
// order[first[a]..first[a+1]).
typedef struct {
    const mk_kernels *k;
    const mk_moe *m;
    mk_mat x, y;
    int64_t n_pair, n_active;
    int32_t *count, *order, *rank;  // [n_expert], [n_pair], [n_pair] place of a pair in order
    int32_t *expert, *first;        // [n_active], [n_active + 1]
    size_t *x_at;                   // [n_active] where the prepared rows of an expert begin
    uint8_t *rows;                  // int8: every token prepared once, one after the other
    uint8_t *prepared;
    mk_mat gate, up, out;  // rows in order
    mk_linear_item *item;  // [2 * n_active]
    mk_x_form form;
    int64_t n_in;  // columns being prepared
    // adapters: of which linear layers, and the rows it reads, keeps and adds to, in order (x, if
    // `gather`, by token)
    const mk_adapter *ad;
    mk_mat ax, au, ay;
    bool gather;
    mk_mat hidden;  // silu(gate) * up for down's
} moe_work;

// Counting sort by expert; within an expert tokens ascend.
static void sort_pairs(moe_work *w, int64_t n_expert) {
    const int32_t *sel = w->m->sel;
    memset(w->count, 0, (size_t)n_expert * sizeof *w->count);
    for (int64_t p = 0; p < w->n_pair; p++) {
        MK_ASSERT(sel[p] >= 0 && sel[p] < n_expert);
        w->count[sel[p]]++;
    }
    int32_t at = 0;
    w->n_active = 0;
    for (int64_t e = 0; e < n_expert; e++) {
        if (w->count[e] > 0) {
            w->expert[w->n_active] = (int32_t)e;
            w->first[w->n_active++] = at;
        }
        at += w->count[e];
        w->count[e] = at - w->count[e];  // from here on: the next free place of expert e
    }
    w->first[w->n_active] = at;
    for (int64_t p = 0; p < w->n_pair; p++) {
        w->rank[p] = w->count[sel[p]]++;
        w->order[w->rank[p]] = (int32_t)p;
    }
}

static int64_t n_rows(const moe_work *w, int64_t a) {
    return w->first[a + 1] - w->first[a];
}

// Where each expert's prepared rows begin, for rows of n_in columns.
static void place_prepared(moe_work *w, mk_x_form form, int64_t n_in) {
    size_t at = 0;
    w->form = form;
    w->n_in = n_in;
    for (int64_t a = 0; a < w->n_active; a++) {
        w->x_at[a] = at;
        at += mk_x_bytes(form, n_rows(w, a), n_in);
    }
}

static int64_t prep_units(const moe_work *w) {
    int64_t total = 0;
    for (int64_t a = 0; a < w->n_active; a++) {
        total += mk_x_units(n_rows(w, a), w->n_in);
    }
    return total;
}

// Calls fn for the experts whose preparation units, one after the other, lie in [lo, hi).
typedef void (*expert_fn)(const moe_work *w, int64_t a, int64_t lo, int64_t hi);

static void each_expert(const moe_work *w, int64_t lo, int64_t hi, expert_fn fn) {
    int64_t at = 0;
    for (int64_t a = 0; a < w->n_active && at < hi; a++) {
        int64_t n = mk_x_units(n_rows(w, a), w->n_in);
        int64_t first = lo > at ? lo - at : 0, last = hi - at < n ? hi - at : n;
        if (first < last) {
            fn(w, a, first, last);
        }
        at += n;
    }
}

// int8: rounding a row costs ten times what copying its codes does, and a row has several experts.
static void run_prep_rows(void *arg, int ith, int64_t lo, int64_t hi) {
    const moe_work *w = arg;
    (void)ith;
    for (int64_t t = lo; t < hi; t++) {
        mk_prep_job job = {.x = w->x.p + t * w->x.stride,
                           .stride = w->x.stride,
                           .row_div = 1,
                           .n_tok = 1,
                           .n_in = w->n_in,
                           .dst = w->rows + (size_t)t * mk_x_row_bytes(w->form, w->n_in)};
        w->k->prep[w->form](&job, 0, mk_x_units(1, w->n_in));
    }
}

// Chunk c of block b of the rows of expert a.
static void gather_chunk(const moe_work *w, int64_t a, int64_t b, int64_t c) {
    size_t row_bytes = mk_x_row_bytes(w->form, w->n_in), record = sizeof(mk_x_i8);
    int64_t first = b * MK_X_BLOCK, left = n_rows(w, a) - first, tb = mk_x_tb(left);
    const int32_t *pair = w->order + w->first[a] + first;
    uint8_t *to = w->prepared + w->x_at[a] + (size_t)first * row_bytes + (size_t)(c * tb) * record;
    for (int64_t t = 0; t < tb; t++, to += record) {
        if (t < left) {
            size_t token = (size_t)(pair[t] / w->m->n_used);
            memcpy(to, w->rows + token * row_bytes + (size_t)c * record, record);
        } else {
            memset(to, 0, record);
        }
    }
}

static void gather_rows(const moe_work *w, int64_t a, int64_t lo, int64_t hi) {
    int64_t chunks = mk_x_units(1, w->n_in);
    for (int64_t u = lo; u < hi; u++) {
        gather_chunk(w, a, u / chunks, u % chunks);
    }
}

static void run_gather_rows(void *arg, int ith, int64_t lo, int64_t hi) {
    (void)ith;
    each_expert(arg, lo, hi, gather_rows);
}

static void prep_tokens(const moe_work *w, int64_t a, int64_t lo, int64_t hi) {
    mk_prep_job job = {.x = w->x.p,
                       .stride = w->x.stride,
                       .row = w->order + w->first[a],
                       .row_div = (int32_t)w->m->n_used,
                       .n_tok = n_rows(w, a),
                       .n_in = w->n_in,
                       .dst = w->prepared + w->x_at[a]};
    w->k->prep[w->form](&job, lo, hi);
}

static void run_prep_tokens(void *arg, int ith, int64_t lo, int64_t hi) {
    (void)ith;
    each_expert(arg, lo, hi, prep_tokens);
}

static void prep_hidden(const moe_work *w, int64_t a, int64_t lo, int64_t hi) {
    mk_prep_job job = {.x = w->gate.p + w->first[a] * w->gate.stride,
                       .stride = w->gate.stride,
                       .row_div = 1,
                       .n_tok = n_rows(w, a),
                       .n_in = w->n_in,
                       .dst = w->prepared + w->x_at[a],
                       .up = w->up.p + w->first[a] * w->up.stride,
                       .up_stride = w->up.stride};
    w->k->prep[w->form](&job, lo, hi);
}

static void run_prep_hidden(void *arg, int ith, int64_t lo, int64_t hi) {
    (void)ith;
    each_expert(arg, lo, hi, prep_hidden);
}

static mk_linear_item expert_item(const moe_work *w, int64_t a, const mk_weight *m, mk_mat y) {
    mk_linear_job job = {.w = m,
                         .data = m->data + (size_t)w->expert[a] * m->mat_bytes,
                         .x = w->prepared + w->x_at[a],
                         .n_tok = n_rows(w, a),
                         .y = y.p + w->first[a] * y.stride,
                         .y_stride = y.stride};
    return (mk_linear_item){job, mk_weight_tiles(m), (n_rows(w, a) + MK_X_BLOCK - 1) / MK_X_BLOCK};
}

#define PARALLEL_PREP 16384  // activations: a few microseconds

// Prepares the rows of all experts for weights like m.
static void prepare(mk_ops *ops, moe_work *w, const mk_weight *m, mk_ops_fn prep) {
    place_prepared(w, mk_weight_form(m), m->n_in);
    mk_ops_run(ops, w->n_pair * m->n_in >= PARALLEL_PREP, prep_units(w), MK_OPS_PREP_GRAIN, prep,
               w);
}

static void prepare_tokens(mk_ops *ops, moe_work *w, const mk_weight *m) {
    int64_t n_tok = w->x.n_row;
    place_prepared(w, mk_weight_form(m), m->n_in);
    if (w->n_active == w->n_pair && n_tok == 1) {  // all experts read the same row
        memset(w->x_at, 0, (size_t)w->n_active * sizeof *w->x_at);
        w->rows = w->prepared;
        run_prep_rows(w, 0, 0, 1);
    } else if (w->rows != NULL) {
        mk_ops_run(ops, n_tok * m->n_in >= PARALLEL_PREP, n_tok, 1, run_prep_rows, w);
        prepare(ops, w, m, run_gather_rows);
    } else {
        prepare(ops, w, m, run_prep_tokens);
    }
}

typedef struct {
    const mk_weight *m;
    mk_mat y;
} moe_linear;

// y = m x of every expert, the rows being prepared; at most two.
static void multiply(mk_ops *ops, const moe_work *w, const moe_linear *list, int n) {
    bool worth = w->n_pair * list->m->n_in * list->m->n_out >= MK_OPS_PARALLEL_MACS;
    for (int64_t a = 0; a < w->n_active; a++) {
        for (int i = 0; i < n; i++) {
            w->item[n * a + i] = expert_item(w, a, list[i].m, list[i].y);
        }
    }
    mk_ops_run_linears(ops, worth, w->item, n * w->n_active);
}

// --- adapters of experts -------------------------------------------------------------------------

// Blocks [lo, hi) of 8 rows of an expert.
static void adapt_rows(const moe_work *w, int64_t a, int64_t lo, int64_t hi) {
    int64_t at = w->first[a], n = n_rows(w, a);
    mk_low_rank_job job = mk_adapter_job(w->ad, w->expert[a]);
    job.x = w->ax.p + (w->gather ? 0 : at * w->ax.stride);
    job.x_stride = w->ax.stride;
    job.row = w->gather ? w->order + at : NULL;
    job.row_div = (int32_t)w->m->n_used;
    job.u = w->au.p + at * w->au.stride;
    job.u_stride = w->au.stride;
    job.y = w->ay.p + at * w->ay.stride;
    job.y_stride = w->ay.stride;
    w->k->low_rank(&job, lo * MK_X_BLOCK, hi * MK_X_BLOCK < n ? hi * MK_X_BLOCK : n);
}

static void run_adapt(void *arg, int ith, int64_t lo, int64_t hi) {
    (void)ith;
    each_expert(arg, lo, hi, adapt_rows);
}

static void run_hidden(void *arg, int ith, int64_t lo, int64_t hi) {
    const moe_work *w = arg;
    (void)ith;
    for (int64_t r = lo; r < hi; r++) {
        w->k->swiglu(w->hidden.p + r * w->hidden.stride, w->gate.p + r * w->gate.stride,
                     w->up.p + r * w->up.stride, w->hidden.n_col);
    }
}

// y += B u, u = scale A x.  x.p NULL: the tokens' rows.
static void adapt(mk_ops *ops, moe_work *w, const moe_linear *l, mk_mat u, mk_mat x) {
    const mk_adapter *ad = l->m->adapter;
    w->ad = ad;
    w->gather = x.p == NULL;
    w->ax = w->gather ? w->x : x;
    w->au = u;
    w->ay = l->y;
    w->n_in = MK_X_CHUNK;  // so that a unit is a block of rows
    int64_t macs = w->n_pair * ad->a.n_out * (ad->a.n_in + ad->b.n_out);
    mk_ops_run(ops, macs >= MK_OPS_PARALLEL_MACS, prep_units(w), 1, run_adapt, w);
}

// The rows of one expert, from the sum to y.
static mk_scaled scaled_of(const mk_weight *m, mk_mat y, mk_mat sum, int64_t e) {
    return (mk_scaled){.ad = m->adapter, .y = y, .x = sum, .n = m->n_out, .n_head = 1, .mat = e};
}

static void scale_experts(mk_ops *ops, const moe_work *w, const mk_weight *m, mk_mat y,
                          mk_mat sum) {
    for (int64_t a = 0; a < w->n_active; a++) {
        int64_t n = n_rows(w, a), at = w->first[a];
        mk_scaled s = scaled_of(m, mk_mat_rows(y, at, n), mk_mat_rows(sum, at, n), w->expert[a]);
        mk_magnitude_run(ops, &s);
    }
}

static void run_combine(void *arg, int ith, int64_t lo, int64_t hi) {
    const moe_work *w = arg;
    (void)ith;
    for (int64_t t = lo; t < hi; t++) {
        for (int64_t i = 0; i < w->m->n_used; i++) {  // sel ascends
            const float *row = w->out.p + w->rank[t * w->m->n_used + i] * w->out.stride;
            w->k->axpy(w->y.p + t * w->y.stride, w->m->w.p[t * w->m->w.stride + i], row, w->y.n_col,
                       i == 0);
        }
    }
}

// Where the base products go: before magnitudes, if there are any.
static mk_mat sum_of(const mk_moe_kept *k, int i, mk_mat y) {
    return k->sum[i].p != NULL ? k->sum[i] : y;
}

static void finish(mk_ops *ops, moe_work *w, const mk_moe_kept *k, int i) {
    const mk_weight *m[] = {k->m.gate, k->m.up, k->m.down};
    const mk_mat y[] = {k->gate, k->up, k->out};
    if (m[i]->adapter != NULL) {
        if (i == 2) {
            bool many = w->n_pair * w->hidden.n_col >= 16384;
            mk_ops_run(ops, many, w->n_pair, 4, run_hidden, w);
        }
        adapt(ops, w, &(moe_linear){m[i], sum_of(k, i, y[i])}, k->u[i],
              i == 2 ? w->hidden : (mk_mat){0});
    }
    if (k->sum[i].p != NULL) {
        scale_experts(ops, w, m[i], y[i], k->sum[i]);
    }
}

static void run_experts(mk_ops *ops, moe_work *w, const mk_moe_kept *k) {
    const mk_moe *m = w->m;
    sort_pairs(w, m->gate->n_mat);
    prepare_tokens(ops, w, m->gate);
    multiply(ops, w, (moe_linear[]){{m->gate, sum_of(k, 0, w->gate)}, {m->up, sum_of(k, 1, w->up)}},
             2);
    finish(ops, w, k, 0);
    finish(ops, w, k, 1);
    prepare(ops, w, m->down, run_prep_hidden);
    multiply(ops, w, &(moe_linear){m->down, sum_of(k, 2, w->out)}, 1);
    finish(ops, w, k, 2);
    mk_ops_run(ops, w->y.n_row >= 4, w->y.n_row, 4, run_combine, w);
}

// Most bytes of prepared rows: every active expert may end in a partial block, padded by at most 3
// rows.
static size_t prepared_bytes(const mk_weight *w, int64_t n_pair, int64_t n_active) {
    return (size_t)(n_pair + n_active * 3) * mk_x_row_bytes(mk_weight_form(w), w->n_in);
}

static void take_buffers(mk_ops *ops, moe_work *w, const mk_moe_kept *k) {
    const mk_moe *m = &k->m;
    size_t in = prepared_bytes(m->gate, k->n_pair, k->max_active),
           hidden = prepared_bytes(m->down, k->n_pair, k->max_active);
    w->prepared = mk_ops_take(ops, in > hidden ? in : hidden);
    if (mk_weight_form(m->gate) == MK_X_I8) {
        w->rows = mk_ops_take(ops, (size_t)k->x.n_row * mk_x_row_bytes(MK_X_I8, m->gate->n_in));
    }
    if (m->down->adapter != NULL) {
        w->hidden = mk_op_new(ops, k->n_pair, m->down->n_in);
    }
}

// Counts what magnitudes take for themselves.
static void dry_magnitudes(mk_ops *ops, const mk_moe_kept *k) {
    const mk_weight *list[] = {k->m.gate, k->m.up, k->m.down};
    for (int i = 0; i < 3; i++) {
        if (k->sum[i].p != NULL) {
            mk_scaled s = scaled_of(list[i], k->sum[i], k->sum[i], 0);
            mk_magnitude_run(ops, &s);
        }
    }
}

// What a backward needs stays where it is; the rest is this function's own.
void mk_moe_run(mk_ops *ops, const mk_moe_kept *k) {
    const mk_moe *m = &k->m;
    size_t mark = mk_op_mark(ops);
    moe_work w = {.k = ops->k,
                  .m = m,
                  .x = k->x,
                  .y = k->y,
                  .n_pair = k->n_pair,
                  .count = k->count,
                  .order = k->order,
                  .rank = k->rank,
                  .expert = k->expert,
                  .first = k->first,
                  .gate = k->gate,
                  .up = k->up,
                  .out = k->out};
    w.x_at = mk_ops_take(ops, (size_t)k->max_active * sizeof *w.x_at);
    w.item = mk_ops_take(ops, 2 * (size_t)k->max_active * sizeof *w.item);
    take_buffers(ops, &w, k);
    if (ops->dry) {
        dry_magnitudes(ops, k);
    } else {
        *k->n_active = 0;
        if (k->n_pair > 0) {
            run_experts(ops, &w, k);
            *k->n_active = (int32_t)w.n_active;
        }
    }
    mk_ops_drop(ops, mark);
    const mk_weight *list[] = {m->gate, m->up, m->down};
    for (int i = 0; i < 3; i++) {
        mk_ops_count_linear(ops, MK_OP_MOE, list[i], k->n_pair, w.n_active);
        if (list[i]->adapter != NULL) {
            mk_ops_count_linear(ops, MK_OP_MOE, &list[i]->adapter->a, k->n_pair, w.n_active);
            mk_ops_count_linear(ops, MK_OP_MOE, &list[i]->adapter->b, k->n_pair, w.n_active);
        }
    }
}

static void check_moe(mk_mat y, mk_mat x, const mk_moe *m) {
    int64_t n_expert = m->gate->n_mat, d_ff = m->gate->n_out;
    MK_ASSERT(m->up->n_mat == n_expert && m->down->n_mat == n_expert && m->up->n_out == d_ff &&
              m->down->n_in == d_ff);
    MK_ASSERT(m->gate->n_in == x.n_col && m->up->n_in == x.n_col && m->down->n_out == y.n_col &&
              y.n_row == x.n_row);
    MK_ASSERT(mk_weight_form(m->gate) == mk_weight_form(m->up) && m->w.n_row == x.n_row &&
              x.n_row * m->n_used <= INT32_MAX);
}

// What adapters keep for the backward.
static void take_kept(mk_ops *ops, mk_moe_kept *k) {
    const mk_weight *list[] = {k->m.gate, k->m.up, k->m.down};
    for (int i = 0; i < 3; i++) {
        const mk_adapter *ad = list[i]->adapter;
        if (ad == NULL) {
            continue;
        }
        MK_ASSERT(ad->a.n_mat == list[i]->n_mat && ad->b.n_mat == list[i]->n_mat &&
                  ad->a.n_in == list[i]->n_in && ad->b.n_out == list[i]->n_out && !ad->of_columns);
        k->u[i] = mk_op_new(ops, k->n_pair, ad->a.n_out);
        if (ad->magnitude != NULL) {
            k->sum[i] = mk_op_new(ops, k->n_pair, list[i]->n_out);
        }
    }
}

void mk_op_moe(mk_ops *ops, mk_mat y, mk_mat x, const mk_moe *m) {
    mk_ops_op_begin(ops);
    check_moe(y, x, m);
    size_t mark = mk_op_mark(ops);
    int64_t n_expert = m->gate->n_mat, n_pair = x.n_row * m->n_used;
    mk_moe_kept k = {.x = x,
                     .y = y,
                     .m = *m,
                     .n_pair = n_pair,
                     .max_active = n_pair < n_expert ? n_pair : n_expert};
    k.count = mk_op_new_i32(ops, n_expert);
    k.order = mk_op_new_i32(ops, n_pair);
    k.rank = mk_op_new_i32(ops, n_pair);
    k.expert = mk_op_new_i32(ops, k.max_active);
    k.first = mk_op_new_i32(ops, k.max_active + 1);
    k.n_active = mk_op_new_i32(ops, 1);
    k.gate = mk_op_new(ops, n_pair, m->gate->n_out);
    k.up = mk_op_new(ops, n_pair, m->gate->n_out);
    k.out = mk_op_new(ops, n_pair, y.n_col);
    take_kept(ops, &k);
    mk_moe_run(ops, &k);
    if (ops->recording) {
        mk_rec r = {.kind = MK_REC_MOE, .u.moe = k};
        mk_tape_add(ops, &r);
    }
    mk_op_release(ops, mark);
    mk_ops_op_end(ops, MK_OP_MOE);
}
