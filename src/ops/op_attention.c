// Attention: how the rows and heads of a batch become jobs for the kernel.
//
// A job is a run of rows of one sequence, one kv head, and a range of the heads that share it: up
// to 128 queries walk the cache together.  How rows are grouped changes speed only.  Keys are never
// divided: the order of a sum over them is part of the result.
#include "base/alloc.h"
#include "ops/kv_q8.h"
#include "ops/tape_int.h"

static size_t head_bytes(const mk_attn *a) {
    size_t elem = a->type == MK_KV_F16 ? 2 : 4;
    return a->type == MK_KV_Q8 ? mk_q8_shape_of(a).head_bytes
                               : (size_t)MK_KV_BLOCK * (size_t)a->d_k * elem;
}

size_t mk_attn_block_bytes(const mk_attn *a) {
    if (a->type == MK_KV_Q8) {
        return (size_t)a->n_kv_head * mk_q8_shape_of(a).head_bytes;
    }
    size_t elem = a->type == MK_KV_F16 ? 2 : 4;
    size_t per_token =
        a->latent ? (size_t)a->d_k : (size_t)a->n_kv_head * (size_t)(a->d_k + a->d_v);
    return per_token * MK_KV_BLOCK * elem;
}

static void check_shape(const mk_attn *a) {
    MK_ASSERT(a->n_kv_head > 0 && a->n_head > 0 && a->n_head % a->n_kv_head == 0 && a->d_k > 0 &&
              a->d_v > 0);
    MK_ASSERT(!a->latent || (a->n_kv_head == 1 && a->d_v <= a->d_k));
}

// How many rows and heads a job takes.
typedef struct {
    int64_t rows, heads, n_range;  // n_range: head ranges per kv head
} job_shape;

typedef struct {
    const mk_kernels *k;
    const mk_attn *a;
    mk_kv_layer kv;
    const mk_rows *rows;
    mk_mat q, v, y;  // q is also k of kv_store
    job_shape shape;
    size_t head_bytes;  // from the keys of a kv head to those of the next
    bool one_each;  // few jobs: each is one unit of cost, so that none falls to the wrong thread
    uint8_t *scratch;
    size_t scratch_bytes;
} attn_work;

// --- storing -------------------------------------------------------------------------------------
static void run_store(void *arg, int ith, int64_t lo, int64_t hi) {
    const attn_work *w = arg;
    (void)ith;
    for (int64_t t = lo; t < hi; t++) {
        int32_t pos = w->rows->pos[t], block = w->rows->table[t][pos / MK_KV_BLOCK];
        w->k->kv_store(w->a, w->kv.base + (size_t)block * w->kv.block_stride, pos % MK_KV_BLOCK,
                       w->q.p + t * w->q.stride, w->a->latent ? NULL : w->v.p + t * w->v.stride);
    }
}

void mk_op_kv_store(mk_ops *ops, const mk_attn *a, mk_kv_layer kv, const mk_rows *rows, mk_mat k,
                    mk_mat v) {
    mk_ops_op_begin(ops);
    check_shape(a);
    MK_ASSERT(k.n_row == rows->n_tok && k.n_col == a->n_kv_head * a->d_k);
    MK_ASSERT(a->latent || (v.n_row == rows->n_tok && v.n_col == a->n_kv_head * a->d_v));
    if (!ops->dry) {
        attn_work w = {.k = ops->k, .a = a, .kv = kv, .rows = rows, .q = k, .v = v};
        mk_ops_run(ops, rows->n_tok > 1 && rows->n_tok * k.n_col >= 8192, rows->n_tok, 4, run_store,
                   &w);
    }
    if (ops->recording) {
        mk_rec r = {.kind = MK_REC_KV_STORE, .u.kv_store = {*a, kv, *rows, k, v}};
        mk_tape_add(ops, &r);
    }
    mk_ops_count_rows(ops, MK_OP_KV_STORE, k, 0, a->latent ? 1 : 2);
    mk_ops_op_end(ops, MK_OP_KV_STORE);
}

// --- attending -----------------------------------------------------------------------------------
static int64_t n_jobs(const mk_attn *a, job_shape s, int64_t n_tok) {
    return (n_tok + s.rows - 1) / s.rows * a->n_kv_head * s.n_range;
}

// Jobs of at most n queries.
static job_shape jobs_of(const mk_attn *a, int64_t n) {
    int64_t group = a->n_head / a->n_kv_head;
    return group > n ? (job_shape){1, n, (group + n - 1) / n} : (job_shape){n / group, group, 1};
}

#define JOBS_ENOUGH 8  // a thread: with fewer, large jobs leave a thread waiting at the end

// The more queries walk a block together, the less its conversion counts.  With fewer jobs than
// threads the heads of a kv head are divided further.
static job_shape shape_of(const mk_attn *a, int64_t n_tok, int n_thread) {
    int64_t group = a->n_head / a->n_kv_head;
    job_shape s = jobs_of(a, MK_ATTN_QUERIES);
    if (n_jobs(a, s, n_tok) < JOBS_ENOUGH * n_thread) {
        s = jobs_of(a, MK_ATTN_QUERIES / 2);
    }
    int64_t n_job = n_jobs(a, s, n_tok);
    if (n_job > 0 && n_job < n_thread) {
        s.n_range *= (n_thread + n_job - 1) / n_job;
        s.n_range = s.n_range < group ? s.n_range : group;
        s.heads = (group + s.n_range - 1) / s.n_range;
        s.n_range = (group + s.heads - 1) / s.heads;
    }
    return s;
}

// End of the run of rows from t on that make one job: same sequence, at most n rows.
static int64_t run_end(const mk_rows *rows, int64_t t, int64_t n) {
    int64_t e = t + 1;
    while (e < rows->n_tok && e - t < n && rows->table[e] == rows->table[t] &&
           rows->pos[e] > rows->pos[e - 1]) {
        e++;
    }
    return e;
}

static int64_t job_cost(const mk_rows *rows, int64_t t, int64_t e) {
    return (e - t) * (rows->pos[e - 1] / MK_KV_BLOCK + 2);
}

// Where the keys of the rows from t on begin for a kv head.
static const uint8_t *first_keys(const attn_work *w, int64_t t, int64_t kv_head) {
    return w->kv.base + (size_t)w->rows->table[t][0] * w->kv.block_stride +
           (size_t)kv_head * w->head_bytes;
}

// Those of the job behind job i of the rows [t, e).
static const uint8_t *next_keys(const attn_work *w, int64_t t, int64_t e, int64_t i) {
    int64_t n = w->a->n_kv_head * w->shape.n_range;
    return i + 1 < n            ? first_keys(w, t, (i + 1) / w->shape.n_range)
           : e < w->rows->n_tok ? first_keys(w, e, 0)
                                : NULL;
}

// Job i of the rows [t, e).
static void run_job(const attn_work *w, int64_t t, int64_t e, int64_t i, uint8_t *mem) {
    const job_shape s = w->shape;
    int64_t kv_head = i / s.n_range, range = i % s.n_range;
    int64_t group = w->a->n_head / w->a->n_kv_head;
    int64_t lo = range * s.heads, hi = lo + s.heads < group ? lo + s.heads : group;
    mk_attn_job job = {.a = w->a,
                       .kv = w->kv,
                       .rows = w->rows,
                       .q = w->q,
                       .y = w->y,
                       .row_lo = t,
                       .row_hi = e,
                       .kv_head = kv_head,
                       .head_lo = kv_head * group + lo,
                       .head_hi = kv_head * group + hi,
                       .next = next_keys(w, t, e, i),
                       .scratch = mem};
    w->k->attention(&job);
}

// All jobs whose first unit of cost lies in [lo, hi); `mem` is the thread's scratch.  Returns the
// cost of all jobs.
static int64_t run_units(const attn_work *w, int64_t lo, int64_t hi, uint8_t *mem) {
    const job_shape s = w->shape;
    int64_t per_run = w->a->n_kv_head * s.n_range, at = 0;
    for (int64_t t = 0, e; t < w->rows->n_tok; t = e) {
        e = run_end(w->rows, t, s.rows);
        int64_t cost = w->one_each ? 1 : job_cost(w->rows, t, e);
        for (int64_t i = 0; i < per_run; i++, at += cost) {
            if (at >= lo && at < hi) {
                run_job(w, t, e, i, mem);
            }
        }
    }
    return at;
}

static void run_attention(void *arg, int ith, int64_t lo, int64_t hi) {
    const attn_work *w = arg;
    run_units(w, lo, hi, w->scratch + (size_t)ith * w->scratch_bytes);
}

#define FEW_JOBS 32  // a thread

static void attend(mk_ops *ops, attn_work *w) {
    // about one multiplication per query, key and column
    const mk_attn *a = w->a;
    int64_t n_tok = w->rows->n_tok, keys = n_tok * (w->rows->pos[n_tok - 1] + MK_KV_BLOCK);
    if (keys * a->n_head * (a->d_k + a->d_v) < MK_OPS_PARALLEL_MACS || ops->n_thread == 1) {
        w->shape = shape_of(a, n_tok, 1);
        run_units(w, 0, INT64_MAX, w->scratch);
        return;
    }
    w->shape = shape_of(a, n_tok, ops->n_thread);
    w->one_each = true;
    int64_t total = run_units(w, 0, 0, NULL), few = (int64_t)ops->n_thread * FEW_JOBS;
    if (total > few) {
        w->one_each = false;
        total = run_units(w, 0, 0, NULL);
    }
    mk_ops_run(ops, true, total, 1, run_attention, w);
}

void mk_op_attention(mk_ops *ops, mk_mat y, mk_mat q, const mk_attn *a, mk_kv_layer kv,
                     const mk_rows *rows) {
    mk_ops_op_begin(ops);
    check_shape(a);
    MK_ASSERT(q.n_row == rows->n_tok && y.n_row == rows->n_tok);
    MK_ASSERT(q.n_col == a->n_head * a->d_k && y.n_col == a->n_head * a->d_v);
    size_t mark = mk_op_mark(ops);
    attn_work w = {.k = ops->k, .a = a, .kv = kv, .rows = rows, .q = q, .y = y};
    w.head_bytes = head_bytes(a);
    w.scratch_bytes = ops->k->attention_scratch(a);
    w.scratch = mk_ops_take(ops, w.scratch_bytes * (size_t)ops->n_thread);
    if (!ops->dry && rows->n_tok > 0) {
        attend(ops, &w);
    }
    mk_ops_drop(ops, mark);
    if (ops->recording) {
        mk_rec r = {.kind = MK_REC_ATTENTION, .u.attention = {*a, kv, *rows, q, y}};
        mk_tape_add(ops, &r);
    }
    mk_ops_count_attention(ops, a, rows);
    mk_ops_op_end(ops, MK_OP_ATTENTION);
}
