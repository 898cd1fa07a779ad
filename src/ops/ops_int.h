// Private to ops/: the context behind mk_ops and what the operator files share.
#ifndef MK_OPS_OPS_INT_H
#define MK_OPS_OPS_INT_H

#include "base/log.h"
#include "ops/kernels.h"

// Operators by name, for the profile.
// clang-format off
#define MK_OP_MAP(X) \
    X(EMBED, "embed") \
    X(RMSNORM, "rmsnorm") \
    X(LINEAR, "linear") \
    X(LINEAR_HEADS, "linear_heads") \
    X(ADD, "add") \
    X(SWIGLU, "swiglu") \
    X(COPY, "copy") \
    X(ROPE_ANGLES, "rope_angles") \
    X(ROPE, "rope") \
    X(KV_STORE, "kv_store") \
    X(ATTENTION, "attention") \
    X(ROUTE, "route") \
    X(MOE, "moe") \
    X(ADAPTER, "adapter") \
    X(MAGNITUDE, "magnitude") \
    X(BACK_RMSNORM, "back_rmsnorm") \
    X(BACK_SWIGLU, "back_swiglu") \
    X(BACK_ROPE, "back_rope") \
    X(BACK_EMBED, "back_embed") \
    X(BACK_ROUTE, "back_route") \
    X(LOGPROB, "logprob") \
    X(ENTROPY, "entropy") \
    X(BACK_LOGPROB, "back_logprob") \
    X(BACK_LINEAR, "back_linear") \
    X(BACK_BIAS, "back_bias") \
    X(BACK_ATTENTION, "back_attention") \
    X(BACK_MAGNITUDE, "back_magnitude") \
    X(SUM_SQUARES, "sum_squares") \
    X(ADAMW, "adamw") \
    X(MUON, "muon")
// clang-format on
typedef enum {
#define X(id, name) MK_OP_##id,
    MK_OP_MAP(X)
#undef X
        MK_OP_N
} mk_op_id;

struct mk_ops {
    const mk_kernels *k;
    mk_pool *pool;
    int n_thread;
    uint8_t *base;  // scratch; owned
    size_t cap, used, high;
    bool in_step, dry, profile;
    uint64_t fpu, start_ns;
    mk_tap_fn tap;
    void *tap_arg;
    mk_op_time times[MK_OP_N];
    struct mk_tape *tape;  // set: steps are recorded, and mk_op_release keeps what was used
    bool recording;
};

// Where the scratch of a dry step would begin: aligned, far from the ends of the address space;
// never touched.
#define MK_FAKE_SCRATCH ((uintptr_t)1 << 40)
// n_bytes of step scratch, 64-byte aligned.  In a dry step an address that nobody reads.
void *mk_ops_take(mk_ops *ops, size_t n_bytes);
// Gives back what an operator took for itself since `mark`: also while a tape keeps the rest.
static inline void mk_ops_drop(mk_ops *ops, size_t mark) {
    ops->used = mark;
}
void mk_tape_begin(struct mk_tape *t, mk_ops *ops);  // tape.c
void mk_ops_op_begin(mk_ops *ops);
void mk_ops_op_end(mk_ops *ops, mk_op_id id);

// The work of one call, for the profile; before mk_ops_op_end.  Free when no profile is kept.
typedef struct {
    mk_arith arith;
    double n_op, n_bytes;
} mk_op_work;
void mk_ops_count(mk_ops *ops, mk_op_id id, mk_op_work work);
// n_tok rows in all through n_mat matrices of w, of which n_read are read.
void mk_ops_count_linear(mk_ops *ops, mk_op_id id, const mk_weight *w, int64_t n_tok,
                         int64_t n_read);
// A row-wise operator: n_op operations for each element of m, and n_in inputs of its shape.
void mk_ops_count_rows(mk_ops *ops, mk_op_id id, mk_mat m, int n_op, int n_in);
void mk_ops_count_attention(mk_ops *ops, const mk_attn *a, const mk_rows *rows);

// Multiplications from which on a second thread is worth waking: a few microseconds of work.
#define MK_OPS_PARALLEL_MACS (1 << 18)

// Runs fn for all of [0, n): shared on the pool in pieces of at least `grain` and a 32nd of a
// thread's share (mk_pool_share), or here when it is too little to share.  ith: of the thread, for
// scratch of its own.
typedef void (*mk_ops_fn)(void *arg, int ith, int64_t lo, int64_t hi);
void mk_ops_run(mk_ops *ops, bool parallel, int64_t n, int64_t grain, mk_ops_fn fn, void *arg);

// A list of linears as one stretch of work, in row tiles weighted by their tokens.
typedef struct {
    mk_linear_job job;
    int64_t tiles, cost;  // cost of one tile
} mk_linear_item;
// All tiles of the items, shared between the threads when `parallel`.
void mk_ops_run_linears(mk_ops *ops, bool parallel, const mk_linear_item *item, int64_t n);

// y = W x (+ bias), the base product alone; not recorded.
void mk_ops_linear(mk_ops *ops, mk_mat y, mk_mat x, const mk_weight *w, const float *bias);

// Rows become zero, or are multiplied, as steps of an operator; not counted.
void mk_clear_rows(const mk_ops *ops, mk_mat m);
void mk_scale_rows(mk_ops *ops, mk_mat m, float scale);

// A linear layer per head: matrix mat + h of w (a single matrix is shared) from columns h *
// x_head_stride of x on to columns h * y_head_stride of y on.
typedef struct {
    const mk_weight *w;
    mk_mat y, x;
    int64_t y_head_stride, x_head_stride, n_head, mat;
} mk_heads;
// The base product alone; not recorded, not counted.
void mk_heads_run(mk_ops *ops, const mk_heads *h);
// Backward; dx and g (the gradient of the stack, or NULL) as in back.h.  A shared matrix gets its
// tokens' parts token by token, heads ascending.
void mk_back_heads(mk_ops *ops, const mk_heads *h, mk_mat dx, mk_mat dy, float *g);

// What an adapter adds: u = scale A x per head, [n_tok, n_head * mk_adapter_width], is kept for the
// backward; then y += B u.  w, y, x, strides and mat are those of the base product.
typedef struct {
    mk_heads h;
    mk_mat u;
} mk_adapted;
static inline int64_t mk_adapter_width(const mk_adapter *ad) {
    return (ad->a.n_out + 15) / 16 * 16;
}
// All of it, recorded; u stays in the scratch.
void mk_ops_adapt(mk_ops *ops, const mk_heads *h);
void mk_adapter_run(mk_ops *ops, const mk_adapted *k);
// What is the adapter's in a job; rows are the caller's.
mk_low_rank_job mk_adapter_job(const mk_adapter *ad, int64_t mat);
// ga, gb: gradients of the stacks a and b, or NULL.
void mk_back_adapter(mk_ops *ops, const mk_adapted *k, mk_mat dx, mk_mat dy, float *ga, float *gb);

// y = x * magnitude / norm (+ bias, of a single head), n columns per head.
typedef struct {
    const mk_adapter *ad;
    mk_mat y, x;
    const float *bias;
    int64_t y_head_stride, x_head_stride, n, n_head, mat;
} mk_scaled;
void mk_ops_magnitude(mk_ops *ops, const mk_scaled *s);
void mk_magnitude_run(mk_ops *ops, const mk_scaled *s);
void mk_back_magnitude(mk_ops *ops, const mk_scaled *s, mk_mat dx, mk_mat dy, float *gm);

// Preparation units (a chunk of columns of a block of rows) that are shared: a few hundred
// nanoseconds.
#define MK_OPS_PREP_GRAIN 8
static inline int64_t mk_x_units(int64_t n_tok, int64_t n_in) {
    return (n_tok + MK_X_BLOCK - 1) / MK_X_BLOCK * ((n_in + MK_X_CHUNK - 1) / MK_X_CHUNK);
}

#endif
