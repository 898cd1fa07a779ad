// Backward of attention: how the sequences of a batch become jobs for the kernel.
//
// Usually a task is one sequence and one kv head, all phases on one thread.  Where such a task is
// too large a part of the whole (one long sequence, MLA's single kv head) all threads share every
// phase of it, over queries or over keys: the sums are never divided, so the bits are the same.
#include "base/alloc.h"
#include "ops/back.h"
#include "ops/ops_int.h"

// Pairs of a query and a key whose P and dS are kept at once (8 bytes each): of a task, half
// a megabyte of a core's caches; of a shared task, enough work between two barriers.
#define TASK_PAIRS   (1 << 16)
#define SHARED_PAIRS (1 << 19)
#define PIECE_ROWS   128   // most queries of a piece
#define SHARED_ROWS  2048  // most queries of all pieces of a shared task
#define MAX_PIECES   64
#define SHARE_BELOW  4  // tasks a thread: a task that is more than a fourth of a share is divided

typedef struct {
    int64_t first, n;  // rows of the batch
} sequence;

// How much of a task is computed at once.
typedef struct {
    int64_t n16, row_cap, n_piece;
    size_t pairs, rows;  // room for the pieces, a piece having row_cap rows
} plan;

typedef struct {
    const mk_kernels *k;
    mk_ops *ops;
    const mk_attn *a;
    const mk_rows *rows;
    mk_mat dq, dk, dv, dy, q, k_in, v;
    int64_t limit;  // cost from which on a task is shared
    uint8_t *scratch;
    size_t task_bytes;
} back_work;

static int64_t pad16(int64_t n) {
    return (n + 15) / 16 * 16;
}
static int64_t min64(int64_t a, int64_t b) {
    return a < b ? a : b;
}
static int64_t max64(int64_t a, int64_t b) {
    return a > b ? a : b;
}

// Room never shrinks as n grows: what suffices for a sequence of n rows does for all shorter ones.
static plan plan_of(const mk_attn *a, int64_t n, bool shared) {
    plan p = {.n16 = pad16(n)};
    const int64_t group = a->n_head / a->n_kv_head;
    int64_t pairs = shared ? SHARED_PAIRS : TASK_PAIRS;
    int64_t most = min64(shared ? group * p.n16 : p.n16, pairs);  // the last only against overflow
    int64_t rows = min64(shared ? SHARED_ROWS : PIECE_ROWS, most);
    pairs = min64(max64(pairs, 16 * p.n16), most * p.n16);
    p.pairs = (size_t)pairs;
    p.rows = (size_t)rows;
    if (p.n16 > 0) {
        p.row_cap = min64(min64(PIECE_ROWS, p.n16), pairs / p.n16 / 16 * 16);
        p.n_piece = min64(MAX_PIECES, min64(rows, pairs / p.n16) / p.row_cap);
    }
    return p;
}

// --- scratch -------------------------------------------------------------------------------------
static float *take(uint8_t **p, size_t n_floats) {
    float *r = (float *)(void *)*p;
    *p += (n_floats * sizeof(float) + 63) / 64 * 64;
    return r;
}

// Room of all pieces in one; the pieces take their parts of it.
typedef struct {
    float *q_lanes, *dy_lanes, *q_rows, *dy_rows, *p, *ds;
} piece_room;

static size_t lay_out(mk_back_attn_job *job, piece_room *r, const mk_attn *a, const plan *s,
                      uint8_t *mem) {
    uint8_t *p = mem;
    size_t n = (size_t)s->n16, d_k = (size_t)a->d_k, d_v = (size_t)a->d_v;
    size_t dk_pad = (size_t)pad16(a->d_k), dv_pad = (size_t)pad16(a->d_v);
    job->k_lanes = take(&p, n * d_k);
    job->v_lanes = a->latent ? job->k_lanes : take(&p, n * d_v);
    job->k_rows = take(&p, n * dk_pad);
    job->dk_sum = take(&p, n * dk_pad);
    job->dv_sum = take(&p, n * dv_pad);
    r->q_lanes = take(&p, s->rows * d_k);
    r->dy_lanes = take(&p, s->rows * d_v);
    r->q_rows = take(&p, s->rows * dk_pad);
    r->dy_rows = take(&p, s->rows * dv_pad);
    r->p = take(&p, s->pairs);
    r->ds = take(&p, s->pairs);
    return (size_t)(p - mem);
}

static size_t scratch_bytes(const mk_attn *a, int64_t n, bool shared) {
    // only differences of addresses count here
    static uint8_t origin[64];
    mk_back_attn_job job;
    piece_room room;
    plan s = plan_of(a, n, shared);
    return lay_out(&job, &room, a, &s, origin);
}

// --- one task ------------------------------------------------------------------------------------
typedef struct {
    const mk_kernels *k;
    const mk_back_attn_job *job;
    mk_back_attn_phase phase;
} phase_work;

static void run_units(void *arg, int ith, int64_t lo, int64_t hi) {
    const phase_work *w = arg;
    (void)ith;
    w->k->back_attention[w->phase](w->job, lo, hi);
}

static void run_phase(const back_work *w, const mk_back_attn_job *job, mk_back_attn_phase phase,
                      int64_t n, bool shared) {
    phase_work p = {w->k, job, phase};
    if (shared) {
        mk_ops_run(w->ops, true, n, 1, run_units, &p);
    } else {
        run_units(&p, 0, 0, n);
    }
}

static mk_back_attn_piece piece_at(const mk_attn *a, const piece_room *r, const plan *s,
                                   int64_t i) {
    int64_t at = i * s->row_cap, pairs = at * s->n16;
    return (mk_back_attn_piece){.q_lanes = r->q_lanes + at * a->d_k,
                                .dy_lanes = r->dy_lanes + at * a->d_v,
                                .q_rows = r->q_rows + at * pad16(a->d_k),
                                .dy_rows = r->dy_rows + at * pad16(a->d_v),
                                .p = r->p + pairs,
                                .ds = r->ds + pairs};
}

// The rows of one sequence, gradient or value; empty stays empty.
static mk_mat view(mk_mat m, sequence s) {
    return m.p == NULL ? m : mk_mat_rows(m, s.first, s.n);
}

static void run_task(const back_work *w, sequence seq, int64_t kv_head, bool shared, uint8_t *mem) {
    const mk_attn *a = w->a;
    const int64_t group = a->n_head / a->n_kv_head;
    plan s = plan_of(a, seq.n, shared);
    mk_back_attn_piece piece[MAX_PIECES];
    piece_room room;
    mk_back_attn_job job = {.a = a,
                            .q = view(w->q, seq),
                            .k = view(w->k_in, seq),
                            .v = view(w->v, seq),
                            .dy = view(w->dy, seq),
                            .dq = view(w->dq, seq),
                            .dk = view(w->dk, seq),
                            .dv = view(a->latent ? w->dk : w->dv, seq),
                            .n = seq.n,
                            .kv_head = kv_head,
                            .piece = piece,
                            .row_cap = s.row_cap};
    lay_out(&job, &room, a, &s, mem);
    run_phase(w, &job, MK_BACK_ATTN_KEYS, s.n16 / 16, shared);
    // pieces: heads ascending, then queries
    int64_t per_head = (seq.n + s.row_cap - 1) / s.row_cap;
    for (int64_t at = 0; at < group * per_head; at += job.n_piece) {
        int64_t last = 0;
        job.n_piece = min64(s.n_piece, group * per_head - at);
        for (int64_t i = 0; i < job.n_piece; i++) {
            piece[i] = piece_at(a, &room, &s, i);
            piece[i].head = kv_head * group + (at + i) / per_head;
            piece[i].first = (at + i) % per_head * s.row_cap;
            piece[i].n = min64(s.row_cap, seq.n - piece[i].first);
            last = max64(last, piece[i].first + piece[i].n);
        }
        run_phase(w, &job, MK_BACK_ATTN_ROWS, job.n_piece * (s.row_cap / 16), shared);
        run_phase(w, &job, MK_BACK_ATTN_COLS, (last + 15) / 16, shared);
    }
    run_phase(w, &job, MK_BACK_ATTN_ADD, s.n16 / 16, shared);
}

// --- the batch -----------------------------------------------------------------------------------
static sequence next_sequence(const mk_rows *rows, int64_t t) {
    int64_t e = t + 1;
    MK_ASSERT(rows->pos[t] == 0);  // every key is in the batch
    while (e < rows->n_tok && rows->table[e] == rows->table[t] &&
           rows->pos[e] == rows->pos[e - 1] + 1) {
        e++;
    }
    return (sequence){t, e - t};
}

// Of one kv head.
static int64_t cost_of(sequence s) {
    int64_t n = pad16(s.n) / 16;
    return n * (n + 1) / 2;
}

// All tasks that are not shared and whose first unit of cost lies in [lo, hi).  Returns the cost of
// all of them.
static int64_t run_tasks(const back_work *w, int64_t lo, int64_t hi, uint8_t *mem) {
    int64_t at = 0;
    for (int64_t t = 0; t < w->rows->n_tok;) {
        sequence s = next_sequence(w->rows, t);
        int64_t cost = cost_of(s);
        t += s.n;
        for (int64_t h = 0; cost < w->limit && h < w->a->n_kv_head; h++, at += cost) {
            if (at >= lo && at < hi) {
                run_task(w, s, h, false, mem);
            }
        }
    }
    return at;
}

static void run_range(void *arg, int ith, int64_t lo, int64_t hi) {
    const back_work *w = arg;
    run_tasks(w, lo, hi, w->scratch + (size_t)ith * w->task_bytes);
}

static void run_shared(const back_work *w) {
    for (int64_t t = 0; t < w->rows->n_tok;) {
        sequence s = next_sequence(w->rows, t);
        t += s.n;
        for (int64_t h = 0; cost_of(s) >= w->limit && h < w->a->n_kv_head; h++) {
            run_task(w, s, h, true, w->scratch);
        }
    }
}

// Whether the tasks from w->limit on are done sooner by all threads together than one on each; a
// shared task keeps as many threads busy as it has groups of keys.
static bool sharing_pays(const back_work *w, int64_t total) {
    const int64_t n_thread = w->ops->n_thread, n_kv = w->a->n_kv_head;
    double largest = 0, together = 0, most = (double)n_thread;
    for (int64_t t = 0; t < w->rows->n_tok;) {
        sequence s = next_sequence(w->rows, t);
        double cost = (double)cost_of(s);
        largest = cost > largest ? cost : largest;
        t += s.n;
        if (cost_of(s) >= w->limit) {
            together += cost * (double)n_kv / (double)min64(n_thread, pad16(s.n) / 16);
        } else {
            together += cost * (double)n_kv / most;
        }
    }
    // the last task begins at the latest when all threads have done their share of the others
    return together < ((double)total - largest) / most + largest;
}

static void run_batch(back_work *w) {
    const mk_attn *a = w->a;
    w->limit = INT64_MAX;
    int64_t total = run_tasks(w, 0, 0, NULL);
    // a unit of cost is 16 x 16 pairs of each head
    int64_t per_unit = 256 * (a->n_head / a->n_kv_head) * (3 * a->d_k + 2 * a->d_v);
    if (w->ops->n_thread == 1 || total * per_unit < MK_OPS_PARALLEL_MACS) {
        run_tasks(w, 0, INT64_MAX, w->scratch);
        return;
    }
    w->limit = max64(total / (SHARE_BELOW * w->ops->n_thread), 2);
    if (sharing_pays(w, total)) {
        run_shared(w);
    } else {
        w->limit = INT64_MAX;
    }
    int64_t rest = run_tasks(w, 0, 0, NULL);
    if (rest > 0) {
        mk_ops_run(w->ops, true, rest, 1, run_range, w);
    }
}

// Seven matrices, every pair of a query and a key it sees once per head: five products.
static void count(mk_ops *ops, const mk_attn *a, const mk_rows *rows) {
    double keys = 0, per_row = (double)(a->n_head + a->n_kv_head) * (double)(a->d_k + a->d_v);
    for (int64_t t = 0; ops->profile && !ops->dry && t < rows->n_tok; t++) {
        keys += (double)rows->pos[t] + 1;
    }
    double n_op = 2 * keys * (double)a->n_head * (double)(3 * a->d_k + 2 * a->d_v);
    mk_ops_count(ops, MK_OP_BACK_ATTENTION,
                 (mk_op_work){MK_ARITH_F32, n_op, 8 * per_row * (double)rows->n_tok});
}

static void check_shapes(const back_work *w) {
    const mk_attn *a = w->a;
    const int64_t n = w->rows->n_tok;
    MK_ASSERT(a->n_kv_head > 0 && a->n_head > 0 && a->n_head % a->n_kv_head == 0 && a->d_k > 0 &&
              a->d_v > 0);
    MK_ASSERT(w->q.n_row == n && w->q.n_col == a->n_head * a->d_k);
    MK_ASSERT(w->dy.n_row == n && w->dy.n_col == a->n_head * a->d_v);
    MK_ASSERT(w->k_in.n_row == n && w->k_in.n_col == a->n_kv_head * a->d_k);
    MK_ASSERT(w->dq.p == NULL || (w->dq.n_row == n && w->dq.n_col == w->q.n_col));
    MK_ASSERT(w->dk.p == NULL || (w->dk.n_row == n && w->dk.n_col == w->k_in.n_col));
    if (a->latent) {
        MK_ASSERT(a->n_kv_head == 1 && a->d_v <= a->d_k && w->v.p == NULL && w->dv.p == NULL);
    } else {
        MK_ASSERT(w->v.n_row == n && w->v.n_col == a->n_kv_head * a->d_v);
        MK_ASSERT(w->dv.p == NULL || (w->dv.n_row == n && w->dv.n_col == w->v.n_col));
    }
}

void mk_back_attention(mk_ops *ops, mk_mat dq, mk_mat dk, mk_mat dv, mk_mat dy, mk_mat q, mk_mat k,
                       mk_mat v, const mk_attn *a, const mk_rows *rows) {
    mk_ops_op_begin(ops);
    back_work w = {.k = ops->k,
                   .ops = ops,
                   .a = a,
                   .rows = rows,
                   .dq = dq,
                   .dk = dk,
                   .dv = dv,
                   .dy = dy,
                   .q = q,
                   .k_in = k,
                   .v = v};
    check_shapes(&w);
    size_t mark = mk_op_mark(ops);
    size_t shared = scratch_bytes(a, rows->n_tok, true);
    w.task_bytes = scratch_bytes(a, rows->n_tok, false);
    size_t tasks = w.task_bytes * (size_t)ops->n_thread;
    w.scratch = mk_ops_take(ops, ops->n_thread > 1 && shared > tasks ? shared : tasks);
    if (!ops->dry && rows->n_tok > 0) {
        run_batch(&w);
    }
    mk_ops_drop(ops, mark);
    count(ops, a, rows);
    mk_ops_op_end(ops, MK_OP_BACK_ATTENTION);
}
