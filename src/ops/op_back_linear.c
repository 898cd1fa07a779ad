// Backward of linear layers: the result is cut into blocks that threads share; a block is computed
// by one thread from end to end, so there is nothing to combine and nothing to wait for.
#include "ops/back.h"
#include "ops/ops_int.h"

// The largest block: its panels, slivers and result stay in a second cache of 1 MB.
#define MAX_TILES 12
#define MAX_COLS  240
// Blocks for each thread, so that all end at about the same time; unless they would become so small
// that copying costs more than waiting.
#define BLOCKS    4
#define MIN_TILES 4
#define MIN_COLS  48

typedef struct {
    const mk_kernels *k;
    mk_back_job job;
    bool of_weights;
    int64_t n_tile, n_col, tiles, cols;  // of the whole, of a block
    float *scratch;
    size_t n_scratch;  // floats of one thread
} back_work;

static int64_t ceil_div(int64_t a, int64_t b) {
    return (a + b - 1) / b;
}

// Near-equal parts of n in whole units.
static int64_t part_of(int64_t n, int64_t n_part, int64_t unit) {
    return ceil_div(ceil_div(n, n_part), unit) * unit;
}

static void plan_blocks(back_work *w, int n_thread) {
    int64_t rows = ceil_div(w->n_tile, MAX_TILES), cols = ceil_div(w->n_col, MAX_COLS);
    while (n_thread > 1 && rows * cols < (int64_t)BLOCKS * n_thread) {
        int64_t tiles_left = w->n_tile / (rows + 1), cols_left = w->n_col / (cols + 1);
        if (tiles_left >= MIN_TILES &&
            (16 * w->n_tile / rows >= w->n_col / cols || cols_left < MIN_COLS)) {
            rows++;
        } else if (cols_left >= MIN_COLS) {
            cols++;
        } else {
            break;
        }
    }
    w->tiles = part_of(w->n_tile, rows, 2);
    w->cols = part_of(w->n_col, cols, MK_BACK_COLS);
}

static void run_blocks(void *arg, int ith, int64_t lo, int64_t hi) {
    const back_work *w = arg;
    int64_t across = ceil_div(w->n_tile, w->tiles);
    for (int64_t i = lo; i < hi; i++) {
        mk_back_block b = {.tile_lo = i % across * w->tiles, .col_lo = i / across * w->cols};
        b.tile_hi = b.tile_lo + w->tiles < w->n_tile ? b.tile_lo + w->tiles : w->n_tile;
        b.col_hi = b.col_lo + w->cols < w->n_col ? b.col_lo + w->cols : w->n_col;
        b.scratch = w->scratch + (size_t)ith * w->n_scratch;
        (w->of_weights ? w->k->back_linear_w : w->k->back_linear_x)(&w->job, &b);
    }
}

// macs: multiplications in all.
static void run_back(mk_ops *ops, back_work *w, int64_t macs) {
    size_t mark = mk_op_mark(ops);
    int64_t tiles = (w->n_tile + 1) / 2 * 2;
    w->k = ops->k;
    w->n_scratch = mk_back_floats(tiles < MAX_TILES ? tiles : MAX_TILES,
                                  w->n_col < MAX_COLS ? w->n_col : MAX_COLS);
    w->n_scratch = (w->n_scratch + 15) / 16 * 16;
    w->scratch = mk_ops_take(ops, (size_t)ops->n_thread * w->n_scratch * sizeof(float));
    if (!ops->dry && macs > 0) {
        plan_blocks(w, ops->n_thread);
        int64_t n = ceil_div(w->n_tile, w->tiles) * ceil_div(w->n_col, w->cols);
        mk_ops_run(ops, macs >= MK_OPS_PARALLEL_MACS, n, 1, run_blocks, w);
    }
    mk_op_release(ops, mark);
}

void mk_back_linear_x(mk_ops *ops, mk_mat dx, mk_mat dy, const mk_weight *w, int64_t mat) {
    mk_ops_op_begin(ops);
    MK_ASSERT(mat >= 0 && mat < w->n_mat && dx.n_row == dy.n_row && dx.n_col == w->n_in &&
              dy.n_col == w->n_out);
    back_work work = {.job = {.dy = dy, .dx = dx, .w = w}, .n_col = w->n_in};
    work.job.data = ops->dry ? NULL : w->data + (size_t)mat * w->mat_bytes;
    work.n_tile = ceil_div(dy.n_row, 16);
    run_back(ops, &work, dy.n_row * w->n_in * w->n_out);
    double n = (double)dy.n_row;
    mk_ops_count(ops, MK_OP_BACK_LINEAR_X,
                 (mk_op_work){MK_ARITH_F32, 2 * n * (double)w->n_in * (double)w->n_out,
                              (double)w->mat_bytes + 4 * n * (double)(w->n_in + w->n_out)});
    mk_ops_op_end(ops, MK_OP_BACK_LINEAR_X);
}

void mk_back_linear_w(mk_ops *ops, float *g, mk_mat dy, mk_mat x) {
    mk_ops_op_begin(ops);
    MK_ASSERT(dy.n_row == x.n_row);
    back_work work = {.job = {.dy = dy, .x = x, .g = g}, .of_weights = true, .n_col = x.n_col};
    work.n_tile = ceil_div(dy.n_col, 16);
    run_back(ops, &work, dy.n_row * dy.n_col * x.n_col);
    double n = (double)dy.n_row, in = (double)x.n_col, out = (double)dy.n_col;
    mk_ops_count(ops, MK_OP_BACK_LINEAR_W,
                 (mk_op_work){MK_ARITH_F32, 2 * n * in * out, 4 * (n * (in + out) + in * out)});
    mk_ops_op_end(ops, MK_OP_BACK_LINEAR_W);
}

typedef struct {
    const mk_kernels *k;
    float *g;
    mk_mat dy;
} bias_work;

static void run_bias(void *arg, int ith, int64_t lo, int64_t hi) {
    const bias_work *w = arg;
    int64_t end = 16 * hi < w->dy.n_col ? 16 * hi : w->dy.n_col;
    (void)ith;
    w->k->back_bias(w->g, w->dy, 16 * lo, end);
}

void mk_back_bias(mk_ops *ops, float *g, mk_mat dy) {
    mk_ops_op_begin(ops);
    bias_work w = {ops->k, g, dy};
    if (!ops->dry) {
        mk_ops_run(ops, dy.n_row * dy.n_col >= MK_OPS_PARALLEL_MACS, ceil_div(dy.n_col, 16), 4,
                   run_bias, &w);
    }
    mk_ops_count_rows(ops, MK_OP_BACK_BIAS, dy, 1, 1);
    mk_ops_op_end(ops, MK_OP_BACK_BIAS);
}
