// What both forms of the gradients of linear layers share (back_linear.c: float32, back_bf16.c):
// how a block is walked, what is fetched, and the step from which the form's product is left open.
//
// Panels and slivers consist of words of 32 bits: a float, or a pair of bf16 that are two terms.
// Depths are counted in words, places in the sum in terms.
#ifndef MK_OPS_CPU_BACK_BLOCK_H
#define MK_OPS_CPU_BACK_BLOCK_H

#include "ops/cpu/cpu.h"

#define R_MAX MK_BACK_R
#define N_MAX MK_BACK_N
#define GROUP MK_BACK_COLS

// How a sliver lies: [k][N] with rows as far apart as the job says, or [k/16][N][16].
typedef enum { BY_ROW, BY_TILE } sliver_layout;

// What to ask memory for: rows of row_bytes, stride apart.
typedef struct {
    const uint8_t *row;
    size_t row_bytes, stride;
    int64_t n_row;
} fetch_rows;

// The same for three matrices, so many lines at a time.
typedef struct {
    fetch_rows list[3];
    int n, i;
    size_t at;
    int64_t n_line;
} fetch_list;

// One step: R tiles by N columns, n_col of which exist.
typedef struct {
    const float *a, *b;
    int64_t a_next, b_next;  // from one term to the next; b_next BY_ROW only
    int64_t depth;
    float *c;        // first tile, first column
    int64_t c_tile;  // floats from one tile to the next
    int64_t n_col;
    bool from_zero;       // C is not read
    const float *next_c;  // of the next step
    fetch_list fetch;
} step_job;

static inline void fetch_add(fetch_list *f, fetch_rows rows) {
    if (rows.n_row > 0 && rows.row_bytes > 0) {
        f->list[f->n++] = rows;
    }
}

static inline void fetch_some(fetch_list *f) {
    for (int64_t i = 0; i < f->n_line && f->i < f->n; i++) {
        fetch_rows *r = &f->list[f->i];
        __builtin_prefetch(r->row + f->at, 0, 2);
        f->at += 64;
        if (f->at >= r->row_bytes) {
            f->at = 0;
            r->row += r->stride;
            f->i += --r->n_row == 0;
        }
    }
}

// The next words [k, k + 16), or the last, for R tiles and N columns.
typedef void (*multiply_fn)(const int R, const int N, const sliver_layout layout, const step_job *s,
                            int64_t k, v16f acc[R_MAX][N_MAX]);

MK_INLINE void step(const int R, const int N, const sliver_layout layout, multiply_fn multiply,
                    step_job *s) {
    v16f acc[R_MAX][N_MAX];
    MK_UNROLL for (int r = 0; r < R; r++) {
        MK_UNROLL for (int j = 0; j < N; j++) {
            bool read = j < s->n_col && !s->from_zero;
            acc[r][j] = read ? vf_load(s->c + r * s->c_tile + 16 * j) : vf_zero();
        }
    }
    int64_t j = 0;
    for (int64_t k = 0; k < s->depth; k += 16) {
        for (int64_t end = j + 2; j < end && j < N; j++) {
            for (int r = 0; r < R; r++) {
                __builtin_prefetch(s->next_c + r * s->c_tile + 16 * j, 1);
            }
        }
        fetch_some(&s->fetch);
        multiply(R, N, layout, s, k, acc);
    }
    MK_UNROLL for (int r = 0; r < R; r++) {
        MK_UNROLL for (int i = 0; i < N; i++) {
            if (i < s->n_col) {
                vf_store(s->c + r * s->c_tile + 16 * i, acc[r][i]);
            }
        }
    }
}

typedef void (*step_fn)(step_job *s);

// Steps by tiles and by columns: of a last sliver that is narrow only what is needed is multiplied.
// MK_BACK_STEPS defines functions and their table, whose declaration it is given.
#define STEP(r, n, multiply)                                                                       \
    static void by_row_##r##x##n(step_job *s) {                                                    \
        step(r, n, BY_ROW, multiply, s);                                                           \
    }                                                                                              \
    static void by_tile_##r##x##n(step_job *s) {                                                   \
        step(r, n, BY_TILE, multiply, s);                                                          \
    }
#if MK_BACK_R == 2 && MK_BACK_N == 12
#define WIDTHS 3
#define MK_BACK_STEPS(table, multiply)                                                             \
    STEP(1, 4, multiply)                                                                           \
    STEP(1, 8, multiply)                                                                           \
    STEP(1, 12, multiply)                                                                          \
    STEP(2, 4, multiply)                                                                           \
    STEP(2, 8, multiply)                                                                           \
    STEP(2, 12, multiply)                                                                          \
    table = {                                                                                      \
        {{by_row_1x4, by_row_1x8, by_row_1x12}, {by_row_2x4, by_row_2x8, by_row_2x12}},            \
        {{by_tile_1x4, by_tile_1x8, by_tile_1x12}, {by_tile_2x4, by_tile_2x8, by_tile_2x12}},      \
    };
#else
_Static_assert(MK_BACK_R == 1, "one tile, one width");
#define WIDTHS 1
#define MK_BACK_STEPS(table, multiply)                                                             \
    STEP(1, N_MAX, multiply)                                                                       \
    table = {{{by_row_1xN_MAX}}, {{by_tile_1xN_MAX}}};
#endif
_Static_assert(GROUP % N_MAX == 0 && MK_BACK_DEPTH % 16 == 0, "whole slivers");
_Static_assert(GROUP / N_MAX * 16 <= MK_BACK_DEPTH * 16, "slivers by tile have room too");

typedef step_fn back_steps[2][R_MAX][WIDTHS];
extern const back_steps MK_FN(back_steps);  // of floats

// --- a group of columns --------------------------------------------------------------------------
// The tiles of a block, some columns, a run of the sum.  Panels, and slivers by tile, are SLACK
// apart, so that they do not all begin in the same set of the first cache; slivers by row lie side
// by side in rows of an odd number of cache lines.  What can be read where it lies is not copied.
#define SLACK      16
#define SLIVER_ROW (GROUP + 16)
typedef struct {
    int64_t n_tile, n_col, depth;
    float *a;  // panels [tiles / R][depth][16 R]; of a last single tile [depth][16]
    float *b;  // slivers [columns / N][depth, rounded up to 16][N], or [depth][SLIVER_ROW]
    mk_mat a_rows, b_rows;  // the first tiles and slivers lie here: rows are terms
    int64_t n_a_rows, n_b_rows;
    float *c;
    int64_t c_tile;
    bool from_zero;
    fetch_list fetch;
    const back_steps *steps;
} group;

static inline float *panel(const group *g, int64_t tile) {
    return g->a + (16 * g->depth + SLACK) * tile;
}
static inline float *sliver(const group *g, int64_t i) {
    return g->b + ((g->depth + 15) / 16 * 16 * N_MAX + SLACK) * i;
}
// Tiles of the panel that begins at `tile`.
static inline int panel_tiles(const group *g, int64_t tile) {
    return tile + R_MAX <= g->n_tile ? R_MAX : 1;
}

// Where the lanes of a tile lie in its panel, rows *next floats apart.
static inline float *lanes_of(const group *g, int64_t tile, int64_t *next) {
    int64_t first = tile / R_MAX * R_MAX, r = panel_tiles(g, first);
    first = r == 1 ? tile : first;
    *next = 16 * r;
    return panel(g, first) + 16 * (tile - first);
}

static inline int64_t width_of(const group *g, int64_t i) {
    int64_t left = g->n_col - i * N_MAX;
    return left < N_MAX ? left : N_MAX;
}

static inline void set_panel(step_job *s, const group *g, int64_t tile, int r) {
    bool lies = tile + r <= g->n_a_rows;
    s->a = lies ? g->a_rows.p + 16 * tile : panel(g, tile);
    s->a_next = lies ? g->a_rows.stride : 16 * r;
}

static inline void set_sliver(step_job *s, const group *g, sliver_layout layout, int64_t i) {
    bool lies = i < g->n_b_rows;
    s->b = lies ? g->b_rows.p + N_MAX * i : layout == BY_ROW ? g->b + N_MAX * i : sliver(g, i);
    s->b_next = lies ? g->b_rows.stride : SLIVER_ROW;
    s->n_col = width_of(g, i);
}

static inline void run_group(const group *g, sliver_layout layout) {
    int64_t n_sliver = (g->n_col + N_MAX - 1) / N_MAX, n_panel = (g->n_tile + R_MAX - 1) / R_MAX;
    int64_t turns = n_sliver * n_panel * ((g->depth + 15) / 16);
    int64_t lines = 0;
    for (int i = 0; i < g->fetch.n; i++) {
        lines += g->fetch.list[i].n_row * (int64_t)((g->fetch.list[i].row_bytes + 63) / 64);
    }
    step_job s = {.depth = g->depth, .c_tile = g->c_tile, .from_zero = g->from_zero};
    s.fetch = g->fetch;
    s.fetch.n_line = (lines + turns - 1) / turns;
    for (int64_t i = 0; i < n_sliver; i++) {
        set_sliver(&s, g, layout, i);
        int64_t width = (s.n_col * WIDTHS + N_MAX - 1) / N_MAX;
        for (int64_t tile = 0; tile < g->n_tile;) {
            int r = panel_tiles(g, tile);
            set_panel(&s, g, tile, r);
            s.c = g->c + tile * g->c_tile + 16 * N_MAX * i;
            tile += r;
            s.next_c = tile < g->n_tile ? s.c + r * g->c_tile : g->c + 16 * N_MAX * (i + 1);
            (*g->steps)[layout][r - 1][width - 1](&s);
        }
    }
}

// --- what a block walks --------------------------------------------------------------------------
// Runs of the sum, and in them groups of columns.
typedef struct {
    int64_t at, depth, col, n_col;
} place;

// The whole walk: the sum has n_term terms, `run` of them (a multiple of 16) are walked at once.
typedef struct {
    const mk_back_job *job;
    const mk_back_block *blk;
    int64_t n_term, run;
} walk;

static inline place place_of(const walk *w, int64_t at, int64_t col) {
    int64_t terms = w->n_term - at, cols = w->blk->col_hi - col;
    return (place){at, terms < w->run ? terms : w->run, col, cols < GROUP ? cols : GROUP};
}

// Behind the last its depth is 0.
static inline place next_place(const walk *w, const place *p) {
    bool same_run = p->col + p->n_col < w->blk->col_hi;
    return same_run ? place_of(w, p->at, p->col + p->n_col)
                    : place_of(w, p->at + p->depth, w->blk->col_lo);
}

// Of n rows those that are asked for in this group, so that the next run's share is there in time.
static inline void share_of(const mk_back_block *blk, const place *p, int64_t n, int64_t *lo,
                            int64_t *hi) {
    int64_t width = blk->col_hi - blk->col_lo, done = p->col - blk->col_lo;
    *lo = n * done / width;
    *hi = n * (done + p->n_col) / width;
}

static inline fetch_rows rows_of(mk_mat m, int64_t row, int64_t n_row, int64_t col, int64_t n_col) {
    n_col = n_col < m.n_col - col ? n_col : m.n_col - col;
    n_row = n_row < m.n_row - row ? n_row : m.n_row - row;
    return (fetch_rows){(const uint8_t *)(m.p + row * m.stride + col), 4 * (size_t)n_col,
                        4 * (size_t)m.stride, n_row};
}

static inline void fetch_for_w(fetch_list *f, const walk *w, const place *p) {
    const mk_back_job *job = w->job;
    const mk_back_block *blk = w->blk;
    place next = next_place(w, p);
    int64_t lo, hi, then = p->at + p->depth, left = w->n_term - then;
    share_of(blk, p, left < w->run ? left : w->run, &lo, &hi);
    *f = (fetch_list){0};
    fetch_add(f, rows_of(job->dy, then + lo, hi - lo, 16 * blk->tile_lo,
                         16 * (blk->tile_hi - blk->tile_lo)));
    fetch_add(f, rows_of(job->x, next.at, next.depth, next.col, next.n_col));
}

// Rows that are a multiple of 2 KB apart would meet in a few sets of the caches.
static inline bool lies_well(mk_mat m) {
    return m.stride % 512 != 0;
}

static inline group group_of(const mk_back_block *blk, const back_steps *steps) {
    group g = {.n_tile = blk->tile_hi - blk->tile_lo, .a = blk->scratch, .steps = steps};
    g.b = g.a + g.n_tile * (16 * MK_BACK_DEPTH + SLACK);
    return g;
}

// Gradients of inputs: C is in scratch, of one group if it has not to wait for the next run.
static inline float *waiting_sums(const walk *w, group *g) {
    g->c_tile = 16 * (w->n_term <= w->run ? GROUP : w->blk->col_hi - w->blk->col_lo);
    return g->b + MK_BACK_DEPTH * SLIVER_ROW;
}
static inline float *sums_at(float *c, const walk *w, const place *p) {
    return c + (w->n_term <= w->run ? 0 : 16 * (p->col - w->blk->col_lo));
}

// --- gradients of inputs -------------------------------------------------------------------------
// Of rows `col` on of dx the tiles' columns += C.
static inline void add_sums(const group *g, mk_mat dx, int64_t tile_lo, int64_t col) {
    for (int64_t j = 0; j < g->n_col; j++) {
        float *p = dx.p + (col + j) * dx.stride + 16 * tile_lo;
        int64_t left = dx.n_col - 16 * tile_lo;
        for (int64_t tile = 0; tile < g->n_tile; tile++, p += 16, left -= 16) {
            v16f sum = vf_load(g->c + tile * g->c_tile + 16 * j);
            if (left >= 16) {
                vf_store(p, vf_add(vf_load(p), sum));
            } else {
                vf_store_n(p, vf_add(vf_load_n(p, left), sum), left);
            }
        }
    }
}

// dx if this is the end of the sum, the next rows of dy, and of the next run's weights a share.
static inline void fetch_for_x(fetch_list *f, const walk *w, const place *p) {
    const mk_back_job *job = w->job;
    const mk_back_block *blk = w->blk;
    size_t tile_bytes = mk_weight_tile_bytes(job->w), n_in = (size_t)job->w->n_in;
    place next = next_place(w, p);
    int64_t first = 16 * blk->tile_lo, n = 16 * (blk->tile_hi - blk->tile_lo), lo, hi;
    int64_t then = p->at + p->depth, left = w->n_term - then;
    share_of(blk, p, ((left < w->run ? left : w->run) + 15) / 16, &lo, &hi);
    *f = (fetch_list){0};
    if (then == w->n_term) {
        fetch_add(f, rows_of(job->dx, p->col, p->n_col, first, n));
    }
    fetch_add(f, rows_of(job->dy, next.col, next.depth > 0 ? next.n_col : 0, next.at, next.depth));
    // about where they are: of the kinds with scales a stretch lies a little elsewhere
    fetch_add(f, (fetch_rows){job->data + (size_t)(then / 16 + lo) * tile_bytes +
                                  tile_bytes * (size_t)first / n_in,
                              tile_bytes * (size_t)n / n_in, tile_bytes, hi - lo});
}

#endif
