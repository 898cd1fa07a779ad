// Private to ops/: the records of a tape, made by the dispatch layer.
#ifndef MK_OPS_TAPE_INT_H
#define MK_OPS_TAPE_INT_H

#include "ops/ops_int.h"
#include "ops/tape.h"

// One kind per operator that a backward or a second forward has to know.
// clang-format off
#define MK_REC_MAP(X) \
    X(EMBED, embed) \
    X(RMSNORM, rmsnorm) \
    X(LINEAR, linear) \
    X(HEADS, heads) \
    X(ADD, add) \
    X(SWIGLU, swiglu) \
    X(COPY, copy) \
    X(ANGLES, angles) \
    X(ROPE, rope) \
    X(KV_STORE, kv_store) \
    X(ATTENTION, attention) \
    X(ROUTE, route) \
    X(MOE, moe) \
    X(ADAPTER, adapter) \
    X(MAGNITUDE, magnitude)
// clang-format on
typedef enum {
#define X(id, name) MK_REC_##id,
    MK_REC_MAP(X)
#undef X
        MK_REC_SEGMENT,
    MK_REC_N
} mk_rec_kind;

// What one expert layer keeps for its backward: pairs sorted by expert (op_moe.c), and the rows of
// gate, up and down in that order.
typedef struct {
    mk_mat x, y;
    mk_moe m;
    int64_t n_pair, max_active;
    int32_t *count, *order, *rank, *expert, *first;
    int32_t *n_active;  // [1]: known only when the router has decided
    mk_mat gate, up, out;
    // With adapters, of gate, up and down: what theirs keep (mk_adapted), and the sums before
    // magnitudes; p NULL where there is none.
    mk_mat u[3], sum[3];
} mk_moe_kept;

typedef struct {
    mk_rec_kind kind;
    int part;
    union {
        struct {
            mk_mat y;
            const uint8_t *table;
            mk_dtype dtype;
            size_t row_bytes;
            const int32_t *ids;
        } embed;
        struct {
            mk_mat y, x, kept;  // kept: x before it was overwritten
            const float *w;
            float eps;
        } rmsnorm;
        struct {
            mk_mat y, x;
            const mk_weight *w;
            const float *bias;
        } linear;
        mk_heads heads;
        struct {
            mk_mat x, y;
        } add, copy;  // add: x += y; copy: x is copied to y
        struct {
            mk_mat y, g, u;
        } swiglu;
        struct {
            mk_mat cs;
            const int32_t *pos;
            const float *inv_freq;
            int64_t n_pair;
            double factor;
        } angles;
        struct {
            mk_mat x, cs;
            mk_rope r;
        } rope;
        struct {
            mk_attn a;
            mk_kv_layer kv;
            mk_rows rows;
            mk_mat k, v;
        } kv_store;
        struct {
            mk_attn a;
            mk_kv_layer kv;
            mk_rows rows;
            mk_mat q, y;
        } attention;
        struct {
            mk_route r;
            mk_mat logits, w;
            int32_t *sel;
        } route;
        mk_moe_kept moe;
        mk_adapted adapter;
        mk_scaled magnitude;
        struct {
            size_t top, keep;  // scratch used at the end, and what stays of it
            size_t saved_at;   // where the kept part is saved
        } segment;
    } u;
} mk_rec;

// Adds a record; only while ops->recording.
void mk_tape_add(mk_ops *ops, const mk_rec *r);

// An operator's part of op_moe.c that runs again, and its backward (op_back_moe.c).
void mk_moe_run(mk_ops *ops, const mk_moe_kept *k);
// Gradients of the stacks of a weight, of its adapter and of its magnitudes, or NULL.
typedef struct {
    float *w, *a, *b, *m;
} mk_weight_grads;
typedef struct {
    mk_mat dx, dy, dw;  // of x, y, and the routing weights
    mk_weight_grads gate, up, down;
} mk_moe_grads;
void mk_back_moe(mk_ops *ops, const mk_moe_kept *k, const mk_moe_grads *g);

#endif
