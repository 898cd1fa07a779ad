// Dispatch of the operators of an optimiser: all tensors of a call are one stretch of work, in
// chunks, so that hundreds of small tensors cost one parallel region.
#include "ops/optim.h"

#include "base/mathx.h"
#include "ops/ops_int.h"

// --- the 8-bit code ------------------------------------------------------------------------------
// The values > 0 of the construction, ascending.
static int positive_values(float *value, bool with_sign) {
    int n = 0;
    double unit = 1e6;  // 10^e
    for (int e = 6; e >= 0; e--, unit /= 10) {
        int parts = 1 << ((with_sign ? 6 : 7) - e);
        for (int i = 0; i < parts; i++) {
            double middle = 0.1 + 0.9 * (2 * i + 1) / (2 * parts);
            value[n++] = (float)(middle / unit);
        }
    }
    value[n++] = 1.0f;
    return n;
}

void mk_code8_init(mk_code8 *c, bool with_sign) {
    float level[256] = {0};  // level[0] = 0
    int n = 1 + positive_values(level + 1, with_sign);
    c->zero = with_sign ? n - 2 : 0;  // no code of -1
    for (int i = 0; i < n; i++) {
        c->value[c->zero + i] = level[i];
        c->border[i] = i + 1 < n ? (level[i] + level[i + 1]) * 0.5f : 2.0f;
    }
    for (int i = 1; i <= c->zero; i++) {
        c->value[c->zero - i] = -level[i];
    }
    uint32_t first = (uint32_t)(127 - 24) << 23;
    for (int cell = 0, i = 0; cell < MK_CODE8_CELLS; cell++) {
        // the cell of 2^-24 takes everything below as well: no border there
        float least = mk_f32_from_bits(first + ((uint32_t)cell << (23 - MK_CODE8_BITS)));
        i += least > c->border[i];
        MK_ASSERT(least <= c->border[i]);
        c->cell[cell] = (uint8_t)i;
    }
}

// --- chunks --------------------------------------------------------------------------------------
static int64_t n_chunk(int64_t n) {
    return (n + MK_OPTIM_CHUNK - 1) / MK_OPTIM_CHUNK;
}

// What runs for floats [lo, hi) of item i of a list, and chunk `c` of all.
typedef struct chunk_work chunk_work;
struct chunk_work {
    const mk_kernels *k;
    int64_t n;
    const mk_flat *flat;  // or:
    const mk_adamw_tensor *tensor;
    const mk_adamw *adamw;
    float *part;  // sum of each chunk
    void (*run)(const chunk_work *w, int64_t i, int64_t c, int64_t lo, int64_t hi);
};

static int64_t item_floats(const chunk_work *w, int64_t i) {
    return w->flat != NULL ? w->flat[i].n : w->tensor[i].n;
}

// Chunks [lo, hi) of the list.  Walking over the items from the first costs nothing beside a chunk.
static void run_chunks(void *arg, int ith, int64_t lo, int64_t hi) {
    const chunk_work *w = arg;
    int64_t at = 0;  // first chunk of item i
    (void)ith;
    for (int64_t i = 0; i < w->n && at < hi; i++) {
        int64_t n = item_floats(w, i), end = at + n_chunk(n);
        for (int64_t c = lo > at ? lo : at; c < end && c < hi; c++) {
            int64_t first = (c - at) * MK_OPTIM_CHUNK, last = first + MK_OPTIM_CHUNK;
            w->run(w, i, c, first, last < n ? last : n);
        }
        at = end;
    }
}

static int64_t total_chunks(const chunk_work *w) {
    int64_t total = 0;
    for (int64_t i = 0; i < w->n; i++) {
        total += n_chunk(item_floats(w, i));
    }
    return total;
}

static double total_floats(const chunk_work *w) {
    double total = 0;
    for (int64_t i = 0; i < w->n; i++) {
        total += (double)item_floats(w, i);
    }
    return total;
}

// --- sums of squares -----------------------------------------------------------------------------
static void run_squares(const chunk_work *w, int64_t i, int64_t c, int64_t lo, int64_t hi) {
    w->part[c] = w->k->sum_squares(w->flat[i].x + lo, hi - lo);
}

void mk_op_sum_squares(mk_ops *ops, double *sum, const mk_flat *list, int64_t n) {
    mk_ops_op_begin(ops);
    chunk_work w = {.k = ops->k, .n = n, .flat = list, .run = run_squares};
    int64_t total = total_chunks(&w);
    size_t mark = mk_op_mark(ops);
    w.part = mk_ops_take(ops, (size_t)total * sizeof *w.part);
    if (!ops->dry) {
        mk_ops_run(ops, total > 1, total, 1, run_chunks, &w);
        for (int64_t i = 0, c = 0; i < n; i++) {
            sum[i] = 0;
            for (int64_t end = c + n_chunk(list[i].n); c < end; c++) {
                sum[i] += (double)w.part[c];
            }
        }
    }
    mk_ops_drop(ops, mark);
    double floats = total_floats(&w);
    mk_ops_count(ops, MK_OP_SUM_SQUARES, (mk_op_work){.n_op = 2 * floats, .n_bytes = 4 * floats});
    mk_ops_op_end(ops, MK_OP_SUM_SQUARES);
}

// --- AdamW ---------------------------------------------------------------------------------------
static void run_adamw(const chunk_work *w, int64_t i, int64_t c, int64_t lo, int64_t hi) {
    (void)c;
    w->k->adamw(w->adamw, &w->tensor[i], lo, hi);
}

// Read and written: parameters, gradients, moments.
static double adamw_bytes(const mk_adamw *a, const mk_adamw_tensor *t) {
    double moments = t->m != NULL ? 16 : 4 + 16.0 / MK_CODE8_BLOCK;
    return (double)t->n * (moments + 12 + (a->zero_g ? 4 : 0));
}

void mk_op_adamw(mk_ops *ops, const mk_adamw *a, const mk_adamw_tensor *list, int64_t n) {
    mk_ops_op_begin(ops);
    chunk_work w = {.k = ops->k, .n = n, .tensor = list, .adamw = a, .run = run_adamw};
    int64_t total = total_chunks(&w);
    double bytes = 0;
    for (int64_t i = 0; i < n; i++) {
        MK_ASSERT(list[i].m != NULL || (a->m_code != NULL && a->v_code != NULL));
        bytes += adamw_bytes(a, &list[i]);
    }
    if (!ops->dry) {
        mk_ops_run(ops, total > 1, total, 1, run_chunks, &w);
    }
    mk_ops_count(ops, MK_OP_ADAMW, (mk_op_work){.n_op = 14 * total_floats(&w), .n_bytes = bytes});
    mk_ops_op_end(ops, MK_OP_ADAMW);
}
