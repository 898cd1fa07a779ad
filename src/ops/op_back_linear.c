// Backward of linear layers: the result is cut into blocks that threads share; a block is computed
// by one thread from end to end, so there is nothing to combine and nothing to wait for.
#include "ops/back.h"
#include "ops/ops_int.h"

typedef struct {
    const mk_kernels *k;
    mk_back_job job;
    bool of_weights, bf16;
    int64_t n_tile, n_col;  // of the whole
    int64_t tiles, cols;    // of a block
    float *scratch;
    size_t n_scratch;  // floats of one thread
} back_work;

static int64_t ceil_div(int64_t a, int64_t b) {
    return (a + b - 1) / b;
}
static int64_t least(int64_t a, int64_t b) {
    return a < b ? a : b;
}

// So many blocks for each thread, so that all end at about the same time, unless they would take
// less than some hundred microseconds.
#define BLOCKS     4
#define BLOCK_MACS (1 << 25)

// Cycles to copy 16 floats: of the tiles (for gradients of inputs weights, transposed), of columns.
#define COPY_TILE   3
#define COPY_TILE_T 8
#define COPY_COLUMN 3
#define COLUMN_UNIT 12  // of the registers

// Cuts the result into at least n_block blocks so that the slowest thread is done soonest: a block
// takes a cycle for each tile and column, and of every block the tiles' part of dy and the
// columns' part of the other matrix are copied.  bf16 takes two terms in a cycle.
static void plan_blocks(back_work *w, int64_t n_block, int64_t n_thread) {
    int64_t unit = COLUMN_UNIT, units = ceil_div(w->n_col, unit);
    int64_t pairs = ceil_div(w->n_tile, 2), first = ceil_div(w->n_tile, MK_BACK_TILES), best = 0;
    for (int64_t n = first; n <= pairs && n < first + 4 * n_block; n++) {
        int64_t tiles = 2 * ceil_div(pairs, n), down = ceil_div(w->n_tile, tiles);
        for (int64_t across = ceil_div(n_block, down); across < ceil_div(n_block, down) + n_thread;
             across++) {
            int64_t cols = unit * ceil_div(units, across);
            int64_t each = ceil_div(down * ceil_div(w->n_col, cols), n_thread);
            int64_t cost = each * ((w->bf16 ? 8 : 16) * tiles * cols + COPY_COLUMN * cols +
                                   16 * (w->of_weights ? COPY_TILE : COPY_TILE_T) * tiles);
            if (best == 0 || cost < best) {
                best = cost;
                w->tiles = tiles;
                w->cols = cols;
            }
        }
    }
}

// Blocks of one row of tiles after each other.  Neighbours are one job, because what belongs to the
// tiles is copied once for a job.
static void run_blocks(void *arg, int ith, int64_t lo, int64_t hi) {
    const back_work *w = arg;
    void (*kernel)(const mk_back_job *, const mk_back_block *) =
        w->bf16 ? (w->of_weights ? w->k->back_bf16_w : w->k->back_bf16_x)
                : (w->of_weights ? w->k->back_linear_w : w->k->back_linear_x);
    bool waits = !w->of_weights && w->job.dy.n_col > MK_BACK_DEPTH;
    int64_t across = ceil_div(w->n_col, w->cols), most = waits ? MK_BACK_WIDTH : w->n_col;
    for (int64_t i = lo, n; i < hi; i += n) {
        int64_t tile = i / across * w->tiles, col = i % across * w->cols;
        n = least(hi - i, across - i % across);
        int64_t end = least(col + n * w->cols, w->n_col);
        mk_back_block b = {.tile_lo = tile,
                           .tile_hi = least(tile + w->tiles, w->n_tile),
                           .scratch = w->scratch + (size_t)ith * w->n_scratch};
        for (; col < end; col = b.col_hi) {
            b.col_lo = col;
            b.col_hi = least(col + most, end);
            kernel(&w->job, &b);
        }
    }
}

// Products that share one region: blocks are numbered through all of them.
#define MAX_WORKS 64

typedef struct {
    back_work *w;
    int64_t n, first[MAX_WORKS + 1];
} back_list;

static void run_list(void *arg, int ith, int64_t lo, int64_t hi) {
    const back_list *l = arg;
    for (int64_t i = 0; i < l->n && l->first[i] < hi; i++) {
        int64_t from = lo > l->first[i] ? lo : l->first[i], to = least(hi, l->first[i + 1]);
        if (from < to) {
            run_blocks(&l->w[i], ith, from - l->first[i], to - l->first[i]);
        }
    }
}

static int64_t macs_of(const back_work *w) {
    const mk_back_job *j = &w->job;
    return j->dy.n_row * j->dy.n_col * (w->of_weights ? j->x.n_col : j->dx.n_col);
}

static void run_works(mk_ops *ops, back_work *w, int64_t n) {
    size_t mark = mk_op_mark(ops), most = 0;
    int64_t macs = 0;
    for (int64_t i = 0; i < n; i++) {
        w[i].k = ops->k;
        w[i].n_scratch = mk_back_floats(least(w[i].n_tile, MK_BACK_TILES),
                                        w[i].of_weights ? 0 : least(w[i].n_col, MK_BACK_WIDTH));
        most = w[i].n_scratch > most ? w[i].n_scratch : most;
        macs += macs_of(&w[i]);
    }
    float *scratch = mk_ops_take(ops, (size_t)ops->n_thread * most * sizeof *scratch);
    if (!ops->dry && macs > 0) {
        bool parallel = ops->n_thread > 1 && macs >= MK_OPS_PARALLEL_MACS;
        int64_t n_thread = parallel ? ops->n_thread : 1, many = macs / BLOCK_MACS;
        many = parallel ? least(many > n_thread ? many : n_thread, BLOCKS * n_thread) : 1;
        back_list l = {.w = w, .n = n};
        for (int64_t i = 0; i < n; i++) {
            int64_t share = many * macs_of(&w[i]) / macs, blocks = 0;
            w[i].scratch = scratch;
            w[i].n_scratch = most;
            if (macs_of(&w[i]) > 0) {
                share = share > 0 ? share : 1;
                plan_blocks(&w[i], share, least(share, n_thread));
                blocks = ceil_div(w[i].n_tile, w[i].tiles) * ceil_div(w[i].n_col, w[i].cols);
            }
            l.first[i + 1] = l.first[i] + blocks;
        }
        mk_ops_run(ops, parallel, l.first[n], 1, run_list, &l);
    }
    mk_ops_drop(ops, mark);
}

static back_work work_of_x(const mk_ops *ops, mk_mat dx, mk_mat dy, const mk_weight *w,
                           int64_t mat) {
    MK_ASSERT(mat >= 0 && mat < w->n_mat && dx.n_row == dy.n_row && dx.n_col == w->n_in &&
              dy.n_col == w->n_out);
    back_work work = {
        .job = {.dy = dy, .dx = dx, .w = w}, .n_col = dy.n_row, .bf16 = w->kind == MK_PACK_BF16};
    work.job.data = ops->dry ? NULL : w->data + (size_t)mat * w->mat_bytes;
    work.n_tile = ceil_div(w->n_in, 16);
    return work;
}

static back_work work_of_w(float *g, mk_mat dy, mk_mat x, bool bf16) {
    MK_ASSERT(dy.n_row == x.n_row);
    back_work work = {
        .job = {.dy = dy, .x = x, .g = g}, .of_weights = true, .bf16 = bf16, .n_col = x.n_col};
    work.n_tile = ceil_div(dy.n_col, 16);
    return work;
}

static mk_arith arith(bool bf16) {
    return bf16 ? MK_ARITH_BF16 : MK_ARITH_F32;
}

static void count_x(mk_ops *ops, mk_mat dy, const mk_weight *w, bool bf16) {
    double n = (double)dy.n_row;
    mk_ops_count(ops, MK_OP_BACK_LINEAR,
                 (mk_op_work){arith(bf16), 2 * n * (double)w->n_in * (double)w->n_out,
                              (double)w->mat_bytes + 4 * n * (double)(w->n_in + w->n_out)});
}

static void count_w(mk_ops *ops, mk_mat dy, mk_mat x, bool bf16) {
    double n = (double)dy.n_row, in = (double)x.n_col, out = (double)dy.n_col;
    mk_ops_count(ops, MK_OP_BACK_LINEAR,
                 (mk_op_work){arith(bf16), 2 * n * in * out, 4 * (n * (in + out) + in * out)});
}

void mk_back_linears(mk_ops *ops, const mk_back_linear *list, int64_t n) {
    mk_ops_op_begin(ops);
    back_work w[MAX_WORKS];
    int64_t n_work = 0;
    for (int64_t i = 0; i < n; i++) {
        const mk_back_linear *l = &list[i];
        bool bf16 = l->w != NULL && l->w->kind == MK_PACK_BF16;
        if (n_work + 2 > MAX_WORKS) {
            run_works(ops, w, n_work);
            n_work = 0;
        }
        if (l->g != NULL) {
            w[n_work++] = work_of_w(l->g, l->dy, l->x, bf16);
            count_w(ops, l->dy, l->x, bf16);
        }
        if (l->dx.p != NULL) {
            w[n_work++] = work_of_x(ops, l->dx, l->dy, l->w, l->mat);
            count_x(ops, l->dy, l->w, bf16);
        }
    }
    run_works(ops, w, n_work);
    mk_ops_op_end(ops, MK_OP_BACK_LINEAR);
}

void mk_back_linear_x(mk_ops *ops, mk_mat dx, mk_mat dy, const mk_weight *w, int64_t mat) {
    mk_back_linears(ops, &(mk_back_linear){.dx = dx, .dy = dy, .w = w, .mat = mat}, 1);
}

void mk_back_linear_w(mk_ops *ops, float *g, mk_mat dy, mk_mat x) {
    mk_back_linears(ops, &(mk_back_linear){.g = g, .dy = dy, .x = x}, 1);
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
    if (g == NULL) {
        return;
    }
    mk_ops_op_begin(ops);
    bias_work w = {ops->k, g, dy};
    if (!ops->dry) {
        mk_ops_run(ops, dy.n_row * dy.n_col >= MK_OPS_PARALLEL_MACS, ceil_div(dy.n_col, 16), 4,
                   run_bias, &w);
    }
    mk_ops_count_rows(ops, MK_OP_BACK_BIAS, dy, 1, 1);
    mk_ops_op_end(ops, MK_OP_BACK_BIAS);
}
