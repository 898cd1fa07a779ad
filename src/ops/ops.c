// The context of the operators: scratch of a step, taps, times.
//
//  1. Scratch is one region, given out from the bottom and taken back all at once (begin) or to a mark (release).
//  2. Nothing is allocated between begin and end; a step that needs more than was reserved is a bug (assertion).
//  3. A dry step counts only: addresses are real enough for arithmetic and never read or written.
#include "ops/ops.h"

#include <string.h>

#include "base/alloc.h"
#include "base/mathx.h"
#include "ops/ops_int.h"

static const char *const op_names[MK_OP_N] = {
#define X(id, name) name,
    MK_OP_MAP(X)
#undef X
};

mk_ops *mk_ops_create(const mk_kernels *k, mk_pool *pool) {
    mk_ops *ops = mk_zalloc(sizeof *ops);
    ops->k = k;
    ops->pool = pool;
    ops->n_thread = mk_pool_n_thread(pool);
    for (int i = 0; i < MK_OP_N; i++) {
        ops->times[i].name = op_names[i];
    }
    return ops;
}

void mk_ops_destroy(mk_ops *ops) {
    if (ops != NULL) {
        mk_big_free(ops->base, ops->cap);
        mk_free(ops);
    }
}

void mk_ops_set_tap(mk_ops *ops, mk_tap_fn fn, void *arg) {
    ops->tap = fn;
    ops->tap_arg = arg;
}

const mk_kernels *mk_ops_kernels(const mk_ops *ops) {
    return ops->k;
}

mk_pool *mk_ops_pool(const mk_ops *ops) {
    return ops->pool;
}

// --- steps ---------------------------------------------------------------------------------------
void mk_ops_begin(mk_ops *ops, bool dry) {
    MK_ASSERT(!ops->in_step);
    ops->in_step = true;
    ops->dry = dry;
    ops->used = ops->high = 0;
    ops->fpu = mk_fpu_enter();
    ops->recording = ops->tape != NULL;
    if (ops->recording) {
        mk_tape_begin(ops->tape, ops);
    }
}

void mk_ops_end(mk_ops *ops) {
    MK_ASSERT(ops->in_step);
    mk_fpu_leave(ops->fpu);
    ops->in_step = ops->recording = false;
}

size_t mk_ops_high_water(const mk_ops *ops) {
    return ops->high;
}

mk_status mk_ops_reserve(mk_ops *ops, size_t n_bytes, mk_err *err) {
    MK_ASSERT(!ops->in_step);
    if (n_bytes <= ops->cap) {
        return MK_OK;
    }
    uint8_t *p = mk_big_alloc(n_bytes);
    if (p == NULL) {
        return MK_FAIL(err, MK_ENOMEM,
                       "no memory for %zu bytes of scratch; use a smaller batch or fewer threads",
                       n_bytes);
    }
    mk_big_free(ops->base, ops->cap);
    ops->base = p;
    ops->cap = n_bytes;
    return MK_OK;
}

void *mk_ops_take(mk_ops *ops, size_t n_bytes) {
    MK_ASSERT(ops->in_step);
    size_t at = ops->used;
    MK_ASSERT(n_bytes <= SIZE_MAX / 2 - at - 64);
    ops->used = (at + n_bytes + 63) / 64 * 64;
    ops->high = ops->used > ops->high ? ops->used : ops->high;
    if (ops->dry) {
        return (void *)(MK_FAKE_SCRATCH + at);
    }
    MK_ASSERT(ops->used <= ops->cap);
    return ops->base + at;
}

mk_mat mk_op_new(mk_ops *ops, int64_t n_row, int64_t n_col) {
    MK_ASSERT(n_row >= 0 && n_col >= 0 && n_col <= INT32_MAX && n_row <= INT32_MAX);
    int64_t stride = (n_col + 15) / 16 * 16;
    return (mk_mat){mk_ops_take(ops, (size_t)n_row * (size_t)stride * sizeof(float)), n_row, n_col,
                    stride};
}

int32_t *mk_op_new_i32(mk_ops *ops, int64_t n) {
    MK_ASSERT(n >= 0 && n <= INT64_MAX / 8);
    return mk_ops_take(ops, (size_t)n * sizeof(int32_t));
}

size_t mk_op_mark(const mk_ops *ops) {
    return ops->used;
}

void mk_op_release(mk_ops *ops, size_t mark) {
    MK_ASSERT(mark <= ops->used);
    if (ops->tape == NULL) {
        ops->used = mark;
    }
}

// --- taps and times ------------------------------------------------------------------------------
void mk_op_tap(mk_ops *ops, const char *name, int layer, mk_mat m) {
    if (ops->tap != NULL && !ops->dry) {
        ops->tap(ops->tap_arg, name, layer, m);
    }
}

void mk_ops_profile(mk_ops *ops, bool on) {
    ops->profile = on;
    for (int i = 0; on && i < MK_OP_N; i++) {
        ops->times[i] = (mk_op_time){.name = op_names[i]};
    }
}

int mk_ops_times(const mk_ops *ops, mk_op_time *out, int max) {
    int n = 0;
    for (int i = 0; i < MK_OP_N && n < max; i++) {
        if (ops->times[i].n_call > 0) {
            out[n++] = ops->times[i];
        }
    }
    return n;
}

void mk_ops_op_begin(mk_ops *ops) {
    MK_ASSERT(ops->in_step);
    if (ops->profile && !ops->dry) {
        ops->start_ns = mk_now_ns();
    }
}

void mk_ops_op_end(mk_ops *ops, mk_op_id id) {
    if (ops->profile && !ops->dry) {
        ops->times[id].ns += mk_now_ns() - ops->start_ns;
        ops->times[id].n_call++;
    }
}

typedef struct {
    mk_pool *pool;
    mk_ops_fn fn;
    void *arg;
} shared_work;

static void run_shared(void *arg, int ith, int n_thread) {
    const shared_work *w = arg;
    int64_t lo, hi;
    (void)n_thread;
    while (mk_pool_take(w->pool, ith, &lo, &hi)) {
        w->fn(w->arg, ith, lo, hi);
    }
}

// Of a thread's share: the longest wait at the end of a region.
#define SMALLEST_PIECE 32

void mk_ops_run(mk_ops *ops, bool parallel, int64_t n, int64_t grain, mk_ops_fn fn, void *arg) {
    if (!parallel || ops->n_thread == 1) {
        fn(arg, 0, 0, n);
        return;
    }
    shared_work w = {ops->pool, fn, arg};
    int64_t pieces = SMALLEST_PIECE * (int64_t)ops->n_thread, least = (n + pieces - 1) / pieces;
    mk_pool_share(ops->pool, n, least > grain ? least : grain);
    mk_pool_run(ops->pool, run_shared, &w);
}

// --- counts --------------------------------------------------------------------------------------
void mk_ops_count(mk_ops *ops, mk_op_id id, mk_op_work work) {
    if (ops->profile && !ops->dry) {
        ops->times[id].n_op[work.arith] += work.n_op;
        ops->times[id].n_bytes += work.n_bytes;
    }
}

// The order of the kinds of prepared activations is that of the arithmetic done with them.
_Static_assert((int)MK_X_F32 == MK_ARITH_F32 && (int)MK_X_BF16 == MK_ARITH_BF16 &&
                   (int)MK_X_I8 == MK_ARITH_INT8,
               "a form of activations is named by its arithmetic");

void mk_ops_count_linear(mk_ops *ops, mk_op_id id, const mk_weight *w, int64_t n_tok,
                         int64_t n_read) {
    double tok = (double)n_tok, in = (double)w->n_in;
    mk_ops_count(ops, id,
                 (mk_op_work){(mk_arith)mk_weight_form(w), 2 * tok * in * (double)w->n_out,
                              (double)n_read * (double)w->mat_bytes + 4 * tok * in});
}

void mk_ops_count_rows(mk_ops *ops, mk_op_id id, mk_mat m, int n_op, int n_in) {
    double n = (double)m.n_row * (double)m.n_col;
    mk_ops_count(ops, id, (mk_op_work){MK_ARITH_F32, n * n_op, 4 * n * n_in});
}

// Every row with the keys up to its own position; the keys of a sequence are read once per call,
// however many of its rows there are.
void mk_ops_count_attention(mk_ops *ops, const mk_attn *a, const mk_rows *rows) {
    double keys = 0, read = 0, per_token = (double)mk_attn_block_bytes(a) / MK_KV_BLOCK;
    for (int64_t t = 0; ops->profile && !ops->dry && t < rows->n_tok; t++) {
        bool last = t + 1 == rows->n_tok || rows->table[t + 1] != rows->table[t];
        keys += (double)rows->pos[t] + 1;
        read += last ? (double)rows->pos[t] + 1 : 0;
    }
    double q = (double)rows->n_tok * (double)a->n_head * (double)a->d_k;
    double n_op = 2 * keys * (double)a->n_head * (double)(a->d_k + a->d_v);
    mk_arith arith = a->type == MK_KV_Q8 ? MK_ARITH_INT8 : MK_ARITH_F32;
    mk_ops_count(ops, MK_OP_ATTENTION, (mk_op_work){arith, n_op, per_token * read + 4 * q});
}
