// Gradients of linear layers, float32.
//
//     weights   g[o,i]  = fma(dy[t,o], x[t,i], g[o,i])    t ascending, from the g that is there
//     inputs    acc     = fma(dy[t,o], W[o,i], acc)       o ascending, from 0;  dx[t,i] += acc
//
// Both are C += A B with C in tiles [rows/16][columns][16]: lanes are output rows, or tokens.
// Every element of C is one chain, whatever the blocks; between runs of the sum it waits in memory,
// which changes no bit.
//
// A block of C is walked MK_BACK_DEPTH terms of the sum at a time.  For these, A is copied to
// panels [k][16 R] (of R tiles) and, GROUP columns at a time, B to slivers of N columns, so that
// the innermost loop reads both in one stream, whatever the strides of the matrices (strides of a
// multiple of 4 KB would leave a few sets of the caches to do all the work): a sliver stays in the
// first cache, the panels in the second, and R x N accumulators in registers.  Meanwhile memory is
// asked for the next C and the next columns of B: without that, waiting for them takes a quarter of
// the time.  Source: Goto & van de Geijn 2008.
#include "ops/cpu/cpu.h"

#define R_MAX MK_BACK_R
#define N_MAX MK_BACK_N
#define GROUP MK_BACK_COLS

// How a sliver lies: [k][N], or [k/16][N][16] as packed weights do.
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

// The next 16 terms, or the last `depth`.
MK_INLINE void multiply(const int R, const int N, const sliver_layout layout, int64_t depth,
                        const float *a, const float *b, v16f acc[R_MAX][N_MAX]) {
    for (int64_t k = 0; k < depth; k++, a += 16 * R, b += layout == BY_ROW ? N_MAX : 1) {
        v16f row[R_MAX];
        MK_UNROLL for (int r = 0; r < R; r++) {
            row[r] = vf_load(a + 16 * r);
        }
        MK_UNROLL for (int j = 0; j < N; j++) {
            v16f col = vf_set1(b[layout == BY_ROW ? j : 16 * j]);
            MK_UNROLL for (int r = 0; r < R; r++) {
                acc[r][j] = vf_fma(row[r], col, acc[r][j]);
            }
        }
    }
}

MK_INLINE void step(const int R, const int N, const sliver_layout layout, step_job *s) {
    v16f acc[R_MAX][N_MAX];
    MK_UNROLL for (int r = 0; r < R; r++) {
        MK_UNROLL for (int j = 0; j < N; j++) {
            bool read = j < s->n_col && !s->from_zero;
            acc[r][j] = read ? vf_load(s->c + r * s->c_tile + 16 * j) : vf_zero();
        }
    }
    const float *a = s->a, *b = s->b;
    int64_t j = 0;
    for (int64_t k = 0; k < s->depth; k += 16, a += 16 * 16 * R, b += 16 * N_MAX) {
        for (int64_t end = j + 2; j < end && j < N; j++) {
            for (int r = 0; r < R; r++) {
                __builtin_prefetch(s->next_c + r * s->c_tile + 16 * j, 1);
            }
        }
        fetch_some(&s->fetch);
        multiply(R, N, layout, s->depth - k < 16 ? s->depth - k : 16, a, b, acc);
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
#define STEP(r, n)                                                                                 \
    static void by_row_##r##x##n(step_job *s) {                                                    \
        step(r, n, BY_ROW, s);                                                                     \
    }                                                                                              \
    static void by_tile_##r##x##n(step_job *s) {                                                   \
        step(r, n, BY_TILE, s);                                                                    \
    }
#if MK_BACK_R == 2 && MK_BACK_N == 12
#define WIDTHS 3
STEP(1, 4)
STEP(1, 8)
STEP(1, 12)
STEP(2, 4)
STEP(2, 8)
STEP(2, 12)
static const step_fn steps[2][2][WIDTHS] = {
    {{by_row_1x4, by_row_1x8, by_row_1x12}, {by_row_2x4, by_row_2x8, by_row_2x12}},
    {{by_tile_1x4, by_tile_1x8, by_tile_1x12}, {by_tile_2x4, by_tile_2x8, by_tile_2x12}},
};
#else
_Static_assert(MK_BACK_R == 1, "one tile, one width");
#define WIDTHS 1
STEP(1, N_MAX)
static const step_fn steps[2][1][WIDTHS] = {{{by_row_1xN_MAX}}, {{by_tile_1xN_MAX}}};
#endif
_Static_assert(GROUP % N_MAX == 0 && MK_BACK_DEPTH % 16 == 0, "whole slivers");

// --- a group of columns --------------------------------------------------------------------------
// The tiles of a block, some columns, a run of the sum.  Panels and slivers are SLACK apart, so
// that they do not all begin in the same set of the first cache.
#define SLACK 16
typedef struct {
    int64_t n_tile, n_col, depth;
    float *a;  // panels [tiles / R][depth][16 R]; of a last single tile [depth][16]
    float *b;  // slivers [columns / N][depth, rounded up to 16][N]
    float *c;
    int64_t c_tile;
    bool from_zero;
    fetch_list fetch;
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

static void run_group(const group *g, sliver_layout layout) {
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
        s.b = sliver(g, i);
        s.n_col = g->n_col - i * N_MAX < N_MAX ? g->n_col - i * N_MAX : N_MAX;
        int64_t width = (s.n_col * WIDTHS + N_MAX - 1) / N_MAX;
        for (int64_t tile = 0; tile < g->n_tile;) {
            int r = panel_tiles(g, tile);
            s.a = panel(g, tile);
            s.c = g->c + tile * g->c_tile + 16 * N_MAX * i;
            tile += r;
            s.next_c = tile < g->n_tile ? s.c + r * g->c_tile : g->c + 16 * N_MAX * (i + 1);
            steps[layout][r - 1][width - 1](&s);
        }
    }
}

// --- of weights ----------------------------------------------------------------------------------
// Rows [t0, t0 + depth) of m, columns from 16 tile_lo on, beyond the last zero.
static void panels_of(const group *g, mk_mat m, int64_t t0, int64_t tile_lo) {
    const float *src = m.p + t0 * m.stride + 16 * tile_lo;
    for (int64_t t = 0; t < g->depth; t++, src += m.stride) {
        for (int64_t tile = 0, r; tile < g->n_tile; tile += r) {
            r = panel_tiles(g, tile);
            float *dst = panel(g, tile) + 16 * r * t;
            for (int64_t i = 0; i < r; i++) {
                int64_t at = 16 * (tile + i), left = m.n_col - 16 * tile_lo - at;
                vf_store(dst + 16 * i, left >= 16 ? vf_load(src + at) : vf_load_n(src + at, left));
            }
        }
    }
}

// Rows [t0, t0 + depth) of m, columns from `col` on.  Whole vectors are written: what a row writes
// too much the next one sets right, and behind a sliver there is room.
static void slivers_of(const group *g, mk_mat m, int64_t t0, int64_t col) {
    const float *src = m.p + t0 * m.stride + col;
    for (int64_t t = 0; t < g->depth; t++, src += m.stride) {
        for (int64_t at = 0; at < g->n_col; at += N_MAX) {
            int64_t left = m.n_col - col - at;
            v16f v = left >= 16 ? vf_load(src + at) : vf_load_n(src + at, left);
            vf_store(sliver(g, at / N_MAX) + N_MAX * t, v);
        }
    }
}

// --- what a block walks --------------------------------------------------------------------------
// Runs of the sum, and in them groups of columns.
typedef struct {
    int64_t at, depth, col, n_col;
} place;

static inline place place_of(const mk_back_block *blk, int64_t n_term, int64_t at, int64_t col) {
    return (place){at, n_term - at < MK_BACK_DEPTH ? n_term - at : MK_BACK_DEPTH, col,
                   blk->col_hi - col < GROUP ? blk->col_hi - col : GROUP};
}

// Behind the last its depth is 0.
static inline place next_place(const mk_back_block *blk, int64_t n_term, const place *p) {
    bool same_run = p->col + p->n_col < blk->col_hi;
    return same_run ? place_of(blk, n_term, p->at, p->col + p->n_col)
                    : place_of(blk, n_term, p->at + p->depth, blk->col_lo);
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

static void fetch_for_w(fetch_list *f, const mk_back_job *job, const mk_back_block *blk,
                        const place *p) {
    place next = next_place(blk, job->x.n_row, p);
    int64_t lo, hi, then = p->at + p->depth, left = job->x.n_row - then;
    share_of(blk, p, left < MK_BACK_DEPTH ? left : MK_BACK_DEPTH, &lo, &hi);
    *f = (fetch_list){0};
    fetch_add(f, rows_of(job->dy, then + lo, hi - lo, 16 * blk->tile_lo,
                         16 * (blk->tile_hi - blk->tile_lo)));
    fetch_add(f, rows_of(job->x, next.at, next.depth, next.col, next.n_col));
}

void MK_FN(back_linear_w)(const mk_back_job *job, const mk_back_block *blk) {
    int64_t n_in = job->x.n_col, n_tok = job->x.n_row;
    group g = {.n_tile = blk->tile_hi - blk->tile_lo, .a = blk->scratch, .c_tile = 16 * n_in};
    g.b = g.a + g.n_tile * (16 * MK_BACK_DEPTH + SLACK);
    for (place p = place_of(blk, n_tok, 0, blk->col_lo); p.depth > 0;
         p = next_place(blk, n_tok, &p)) {
        g.depth = p.depth;
        g.n_col = p.n_col;
        g.c = job->g + 16 * (blk->tile_lo * n_in + p.col);
        if (p.col == blk->col_lo) {
            panels_of(&g, job->dy, p.at, blk->tile_lo);
        }
        slivers_of(&g, job->x, p.at, p.col);
        fetch_for_w(&g.fetch, job, blk, &p);
        run_group(&g, BY_ROW);
    }
}

// --- of inputs -----------------------------------------------------------------------------------
// 16 rows of m from t on, 16 columns from col on; beyond the ends zero.
static inline void load_16x16(mk_mat m, int64_t t, int64_t col, v16f r[16]) {
    int64_t left = m.n_col - col;
    const float *p = m.p + t * m.stride + col;
    for (int64_t i = 0; i < 16; i++, p += m.stride) {
        r[i] = t + i >= m.n_row ? vf_zero() : left >= 16 ? vf_load(p) : vf_load_n(p, left);
    }
}

// Columns [o0, o0 + depth) of dy, transposed; lanes are tokens from 16 tile_lo on.
static void panels_transposed(const group *g, mk_mat dy, int64_t o0, int64_t tile_lo) {
    for (int64_t tile = 0; tile < g->n_tile; tile++) {
        int64_t first = tile / R_MAX * R_MAX, r = panel_tiles(g, first);
        first = r == 1 ? tile : first;
        float *dst = panel(g, first) + 16 * (tile - first);
        for (int64_t o = 0; o < g->depth; o += 16) {
            v16f v[16];
            load_16x16(dy, 16 * (tile_lo + tile), o0 + o, v);
            vf_transpose(v);
            for (int64_t i = 0; i < 16 && o + i < g->depth; i++, dst += 16 * r) {
                vf_store(dst, v[i]);
            }
        }
    }
}

// Rows [o0, o0 + depth) of the matrix, columns from `col` on.
static void slivers_of_weights(const group *g, const mk_back_job *job, int64_t o0, int64_t col) {
    _Alignas(64) float run[(GROUP + 64) * 16];
    const size_t tile_bytes = mk_weight_tile_bytes(job->w);
    int64_t from = col / 32 * 32, to = (col + g->n_col + 31) / 32 * 32;
    to = to < job->w->n_in ? to : job->w->n_in;
    for (int64_t o = 0; o < g->depth; o += 16) {
        const uint8_t *tile = job->data + (size_t)((o0 + o) / 16) * tile_bytes;
        const float *src = (const float *)tile + 16 * col;
        if (job->w->kind != MK_PACK_F32) {
            MK_FN(unpack)(job->w, tile, from, to - from, run);
            src = run + 16 * (col - from);
        }
        for (int64_t at = 0; at < g->n_col; at += N_MAX) {
            float *dst = sliver(g, at / N_MAX) + o * N_MAX;
            for (int64_t i = 0; i < N_MAX && at + i < g->n_col; i++, src += 16) {
                vf_store(dst + 16 * i, vf_load(src));
            }
        }
    }
}

// The columns of dx from `col` on += C transposed.
static void add_transposed(const group *g, mk_mat dx, int64_t tile_lo, int64_t col) {
    for (int64_t tile = 0; tile < g->n_tile; tile++) {
        for (int64_t at = 0; at < g->n_col; at += 16) {
            int64_t n = g->n_col - at, t = 16 * (tile_lo + tile);
            n = n < 16 ? n : 16;
            v16f v[16];
            for (int64_t i = 0; i < 16; i++) {
                v[i] = i < n ? vf_load(g->c + tile * g->c_tile + 16 * (at + i)) : vf_zero();
            }
            vf_transpose(v);
            float *p = dx.p + t * dx.stride + col + at;
            for (int64_t i = 0; i < 16 && t + i < dx.n_row; i++, p += dx.stride) {
                v16f old = n == 16 ? vf_load(p) : vf_load_n(p, n);
                vf_store_n(p, vf_add(old, v[i]), n);
            }
        }
    }
}

// dx if this is the end of the sum, then the next weights and the next run of dy.
static void fetch_for_x(fetch_list *f, const mk_back_job *job, const mk_back_block *blk,
                        const place *p) {
    const mk_weight *w = job->w;
    size_t tile_bytes = mk_weight_tile_bytes(w), n_in = (size_t)w->n_in;
    place next = next_place(blk, w->n_out, p);
    int64_t row = 16 * blk->tile_lo, n_row = 16 * (blk->tile_hi - blk->tile_lo), lo, hi;
    int64_t then = p->at + p->depth;
    share_of(blk, p, n_row, &lo, &hi);
    *f = (fetch_list){0};
    if (then == w->n_out) {
        fetch_add(f, rows_of(job->dx, row, n_row, p->col, p->n_col));
    } else {
        fetch_add(f, rows_of(job->dy, row + lo, hi - lo, then, MK_BACK_DEPTH));
    }
    // about where they are: of the kinds with scales a stretch lies a little elsewhere
    fetch_add(f, (fetch_rows){job->data + (size_t)(next.at / 16) * tile_bytes +
                                  tile_bytes * (size_t)next.col / n_in,
                              tile_bytes * (size_t)next.n_col / n_in, tile_bytes,
                              (next.depth + 15) / 16});
}

void MK_FN(back_linear_x)(const mk_back_job *job, const mk_back_block *blk) {
    int64_t n_out = job->w->n_out;
    group g = {.n_tile = blk->tile_hi - blk->tile_lo, .a = blk->scratch};
    g.b = g.a + g.n_tile * (16 * MK_BACK_DEPTH + SLACK);
    float *c = g.b + GROUP / N_MAX * (MK_BACK_DEPTH * N_MAX + SLACK);
    bool once = n_out <= MK_BACK_DEPTH;
    g.c_tile = 16 * (once ? GROUP : blk->col_hi - blk->col_lo);
    for (place p = place_of(blk, n_out, 0, blk->col_lo); p.depth > 0;
         p = next_place(blk, n_out, &p)) {
        g.depth = p.depth;
        g.n_col = p.n_col;
        g.c = c + (once ? 0 : 16 * (p.col - blk->col_lo));
        g.from_zero = p.at == 0;
        if (p.col == blk->col_lo) {
            panels_transposed(&g, job->dy, p.at, blk->tile_lo);
        }
        slivers_of_weights(&g, job, p.at, p.col);
        fetch_for_x(&g.fetch, job, blk, &p);
        run_group(&g, BY_TILE);
        if (p.at + p.depth == n_out) {
            add_transposed(&g, job->dx, blk->tile_lo, p.col);
        }
    }
}

// --- of the bias ---------------------------------------------------------------------------------
// Four vectors side by side: a row is then read in whole stretches.
void MK_FN(back_bias)(float *g, mk_mat dy, int64_t lo, int64_t hi) {
    for (int64_t i = lo; i < hi; i += 64) {
        v16f sum[4];
        for (int64_t j = 0; j < 4; j++) {
            sum[j] = hi - i > 16 * j ? vf_load_n(g + i + 16 * j, hi - i - 16 * j) : vf_zero();
        }
        const float *p = dy.p + i;
        if (hi - i >= 64) {
            for (int64_t t = 0; t < dy.n_row; t++, p += dy.stride) {
                MK_UNROLL for (int j = 0; j < 4; j++) {
                    sum[j] = vf_add(sum[j], vf_load(p + 16 * j));
                }
            }
        } else {
            for (int64_t t = 0; t < dy.n_row; t++, p += dy.stride) {
                for (int64_t j = 0; 16 * j < hi - i; j++) {
                    sum[j] = vf_add(sum[j], vf_load_n(p + 16 * j, hi - i - 16 * j));
                }
            }
        }
        for (int64_t j = 0; j < 4 && 16 * j < hi - i; j++) {
            vf_store_n(g + i + 16 * j, sum[j], hi - i - 16 * j);
        }
    }
}
