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

// What to ask memory for: n_row rows of row_bytes, so many lines at once.
typedef struct {
    const uint8_t *row;
    size_t at, row_bytes, stride;
    int64_t n_row, n_line;
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

MK_INLINE void fetch_some(fetch_list *f) {
    for (int64_t i = 0; i < f->n_line && f->n_row > 0; i++) {
        __builtin_prefetch(f->row + f->at, 0, 2);
        f->at += 64;
        if (f->at >= f->row_bytes) {
            f->at = 0;
            f->row += f->stride;
            f->n_row--;
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
#define STEP(r, n, layout)                                                                         \
    static void step_##r##x##n##_##layout(step_job *s) {                                           \
        step(r, n, layout, s);                                                                     \
    }
#if MK_BACK_N == 12
#define WIDTHS 3
STEP(1, 4, BY_ROW)
STEP(1, 8, BY_ROW)
STEP(1, 12, BY_ROW)
STEP(2, 4, BY_ROW)
STEP(2, 8, BY_ROW)
STEP(2, 12, BY_ROW)
STEP(1, 4, BY_TILE)
STEP(1, 8, BY_TILE)
STEP(1, 12, BY_TILE)
STEP(2, 4, BY_TILE)
STEP(2, 8, BY_TILE)
STEP(2, 12, BY_TILE)
static const step_fn steps[2][2][WIDTHS] = {
    {{step_1x4_BY_ROW, step_1x8_BY_ROW, step_1x12_BY_ROW},
     {step_2x4_BY_ROW, step_2x8_BY_ROW, step_2x12_BY_ROW}},
    {{step_1x4_BY_TILE, step_1x8_BY_TILE, step_1x12_BY_TILE},
     {step_2x4_BY_TILE, step_2x8_BY_TILE, step_2x12_BY_TILE}},
};
#elif MK_BACK_N == 6
#define WIDTHS 1
STEP(1, 6, BY_ROW)
STEP(1, 6, BY_TILE)
static const step_fn steps[2][1][WIDTHS] = {{{step_1x6_BY_ROW}}, {{step_1x6_BY_TILE}}};
#else
#define WIDTHS 1
STEP(1, 2, BY_ROW)
STEP(1, 2, BY_TILE)
static const step_fn steps[2][1][WIDTHS] = {{{step_1x2_BY_ROW}}, {{step_1x2_BY_TILE}}};
#endif

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
    int64_t lines = g->fetch.n_row * (int64_t)(g->fetch.row_bytes + 63) / 64;
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

// Group of columns from `col` on, of those up to `end`; what to fetch for the next.
static int64_t columns_from(int64_t col, int64_t end) {
    return end - col < GROUP ? end - col : GROUP;
}

void MK_FN(back_linear_w)(const mk_back_job *job, const mk_back_block *blk) {
    int64_t n_in = job->x.n_col, n_tok = job->x.n_row;
    group g = {.n_tile = blk->tile_hi - blk->tile_lo, .a = blk->scratch, .c_tile = 16 * n_in};
    g.b = g.a + g.n_tile * (16 * MK_BACK_DEPTH + SLACK);
    for (int64_t t = 0; t < n_tok; t += g.depth) {
        g.depth = n_tok - t < MK_BACK_DEPTH ? n_tok - t : MK_BACK_DEPTH;
        panels_of(&g, job->dy, t, blk->tile_lo);
        for (int64_t col = blk->col_lo; col < blk->col_hi; col += g.n_col) {
            g.n_col = columns_from(col, blk->col_hi);
            g.c = job->g + 16 * (blk->tile_lo * n_in + col);
            int64_t next = columns_from(col + g.n_col, blk->col_hi);
            g.fetch =
                (fetch_list){.row = (const uint8_t *)(job->x.p + t * job->x.stride + col + g.n_col),
                             .row_bytes = 4 * (size_t)next,
                             .stride = 4 * (size_t)job->x.stride,
                             .n_row = next > 0 ? g.depth : 0};
            slivers_of(&g, job->x, t, col);
            run_group(&g, BY_ROW);
        }
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

void MK_FN(back_linear_x)(const mk_back_job *job, const mk_back_block *blk) {
    int64_t n_out = job->w->n_out, n_in = job->w->n_in;
    size_t tile_bytes = mk_weight_tile_bytes(job->w);
    group g = {.n_tile = blk->tile_hi - blk->tile_lo, .a = blk->scratch};
    g.b = g.a + g.n_tile * (16 * MK_BACK_DEPTH + SLACK);
    float *c = g.b + GROUP / N_MAX * (MK_BACK_DEPTH * N_MAX + SLACK);
    bool once = n_out <= MK_BACK_DEPTH;
    g.c_tile = 16 * (once ? GROUP : blk->col_hi - blk->col_lo);
    for (int64_t o = 0; o < n_out; o += g.depth) {
        g.depth = n_out - o < MK_BACK_DEPTH ? n_out - o : MK_BACK_DEPTH;
        g.from_zero = o == 0;
        panels_transposed(&g, job->dy, o, blk->tile_lo);
        for (int64_t col = blk->col_lo; col < blk->col_hi; col += g.n_col) {
            g.n_col = columns_from(col, blk->col_hi);
            g.c = c + (once ? 0 : 16 * (col - blk->col_lo));
            int64_t next = columns_from(col + g.n_col, blk->col_hi);
            g.fetch = (fetch_list){.row = job->data + (size_t)(o / 16) * tile_bytes +
                                          tile_bytes * (size_t)(col + g.n_col) / (size_t)n_in,
                                   .row_bytes = tile_bytes * (size_t)next / (size_t)n_in,
                                   .stride = tile_bytes,
                                   .n_row = next > 0 ? (g.depth + 15) / 16 : 0};
            slivers_of_weights(&g, job, o, col);
            run_group(&g, BY_TILE);
            if (o + g.depth == n_out) {
                add_transposed(&g, job->dx, blk->tile_lo, col);
            }
        }
    }
}

// --- of the bias ---------------------------------------------------------------------------------
void MK_FN(back_bias)(float *g, mk_mat dy, int64_t lo, int64_t hi) {
    for (int64_t i = lo; i < hi; i += 16) {
        int64_t n = hi - i < 16 ? hi - i : 16;
        v16f sum = vf_load_n(g + i, n);
        for (int64_t t = 0; t < dy.n_row; t++) {
            sum = vf_add(sum, vf_load_n(dy.p + t * dy.stride + i, n));
        }
        vf_store_n(g + i, sum, n);
    }
}
