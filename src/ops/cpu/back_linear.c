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
// panels [k][16 R] (of R tiles) and B to slivers of N columns, so that the innermost loop reads
// both in one stream, whatever the strides of the matrices (strides of a multiple of 4 KB would
// leave a few sets of the caches to do all the work): a sliver stays in the first cache, the panels
// in the second, and R x N accumulators in registers.  Source: Goto & van de Geijn 2008.
#include "ops/cpu/cpu.h"

#define R_MAX MK_BACK_R
#define N_MAX MK_BACK_N

// How a sliver lies: [k][N], or [k/16][N][16] as packed weights do.
typedef enum { BY_ROW, BY_TILE } sliver_layout;

// One step: R tiles by N columns, n of which exist.
typedef struct {
    const float *a, *b;
    int64_t depth;
    float *c;           // first tile, first column
    int64_t c_tile;     // floats from one tile to the next
    int64_t n_col;      // that exist
    bool from_zero;     // C is not read
    const float *next;  // C of the next step
} step_job;

MK_INLINE void multiply(const int R, const int N, const int b_next, const int b_col, int64_t depth,
                        const float *a, const float *b, v16f acc[R_MAX][N_MAX]) {
    for (int64_t k = 0; k < depth; k++, a += 16 * R, b += b_next) {
        v16f row[R_MAX];
        MK_UNROLL for (int r = 0; r < R; r++) {
            row[r] = vf_load(a + 16 * r);
        }
        MK_UNROLL for (int j = 0; j < N; j++) {
            v16f col = vf_set1(b[j * b_col]);
            MK_UNROLL for (int r = 0; r < R; r++) {
                acc[r][j] = vf_fma(row[r], col, acc[r][j]);
            }
        }
    }
}

MK_INLINE void step(const int R, const int N, const sliver_layout layout, const step_job *s) {
    v16f acc[R_MAX][N_MAX];
    MK_UNROLL for (int r = 0; r < R; r++) {
        MK_UNROLL for (int j = 0; j < N; j++) {
            bool read = j < s->n_col && !s->from_zero;
            acc[r][j] = read ? vf_load(s->c + r * s->c_tile + 16 * j) : vf_zero();
        }
    }
    if (layout == BY_ROW) {
        multiply(R, N, N_MAX, 1, s->depth, s->a, s->b, acc);
    } else {
        const float *a = s->a, *b = s->b;
        for (int64_t k = 0; k < s->depth; k += 16, a += 16 * 16 * R, b += 16 * N_MAX) {
            multiply(R, N, 1, 16, s->depth - k < 16 ? s->depth - k : 16, a, b, acc);
        }
    }
    MK_UNROLL for (int r = 0; r < R; r++) {
        MK_UNROLL for (int j = 0; j < N; j++) {
            if (j < s->n_col) {
                vf_store(s->c + r * s->c_tile + 16 * j, acc[r][j]);
            }
        }
    }
}

typedef void (*step_fn)(const step_job *s);

// Steps by tiles and by columns: of a last sliver that is narrow only what is needed is multiplied.
#define STEP(r, n, layout)                                                                         \
    static void step_##r##x##n##_##layout(const step_job *s) {                                     \
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

// --- a block -------------------------------------------------------------------------------------
typedef struct {
    int64_t n_tile, n_col, depth;
    float *a;  // panels [tiles / R][depth][16 R]; of a last single tile [depth][16]
    float *b;  // slivers [columns / N][depth, rounded up to 16][N]
    float *c;
    int64_t c_tile;
    bool from_zero;
} block;

static inline float *panel(const block *b, int64_t tile) {
    return b->a + 16 * b->depth * tile;
}
static inline float *sliver(const block *b, int64_t col) {
    return b->b + (b->depth + 15) / 16 * 16 * col;
}
// Tiles of the panel that begins at `tile`.
static inline int panel_tiles(const block *b, int64_t tile) {
    return tile + R_MAX <= b->n_tile ? R_MAX : 1;
}

static void run_block(const block *b, sliver_layout layout) {
    step_job s = {.depth = b->depth, .c_tile = b->c_tile, .from_zero = b->from_zero};
    for (int64_t col = 0; col < b->n_col; col += N_MAX) {
        s.b = sliver(b, col);
        s.n_col = b->n_col - col < N_MAX ? b->n_col - col : N_MAX;
        int64_t width = (s.n_col * WIDTHS + N_MAX - 1) / N_MAX;
        for (int64_t tile = 0; tile < b->n_tile;) {
            int r = panel_tiles(b, tile);
            s.a = panel(b, tile);
            s.c = b->c + tile * b->c_tile + 16 * col;
            steps[layout][r - 1][width - 1](&s);
            tile += r;
        }
    }
}

// --- of weights ----------------------------------------------------------------------------------
// Rows [t0, t0 + depth) of m, columns [16 tile_lo, 16 tile_hi), beyond the last zero.
static void panels_of(const block *b, mk_mat m, int64_t t0, int64_t tile_lo) {
    for (int64_t tile = 0, r; tile < b->n_tile; tile += r) {
        r = panel_tiles(b, tile);
        float *dst = panel(b, tile);
        const float *src = m.p + t0 * m.stride + 16 * (tile_lo + tile);
        int64_t left = m.n_col - 16 * (tile_lo + tile);
        for (int64_t t = 0; t < b->depth; t++, src += m.stride, dst += 16 * r) {
            for (int64_t i = 0; i < r; i++) {
                int64_t n = left - 16 * i;
                vf_store(dst + 16 * i,
                         n >= 16 ? vf_load(src + 16 * i) : vf_load_n(src + 16 * i, n));
            }
        }
    }
}

// Rows [t0, t0 + depth) of m, columns from col_lo on.  Whole vectors are written: what a row writes
// too much the next one sets right, and behind the last sliver there is room.
static void slivers_of(const block *b, mk_mat m, int64_t t0, int64_t col_lo) {
    for (int64_t col = 0; col < b->n_col; col += N_MAX) {
        float *dst = sliver(b, col);
        const float *src = m.p + t0 * m.stride + col_lo + col;
        int64_t left = m.n_col - col_lo - col;
        for (int64_t t = 0; t < b->depth; t++, src += m.stride, dst += N_MAX) {
            vf_store(dst, left >= 16 ? vf_load(src) : vf_load_n(src, left));
        }
    }
}

void MK_FN(back_linear_w)(const mk_back_job *job, const mk_back_block *blk) {
    int64_t n_in = job->x.n_col, n_tok = job->x.n_row;
    block b = {.n_tile = blk->tile_hi - blk->tile_lo,
               .n_col = blk->col_hi - blk->col_lo,
               .a = blk->scratch,
               .c = job->g + 16 * (blk->tile_lo * n_in + blk->col_lo),
               .c_tile = 16 * n_in};
    b.b = b.a + 16 * b.n_tile * MK_BACK_DEPTH;
    for (int64_t t = 0; t < n_tok; t += b.depth) {
        b.depth = n_tok - t < MK_BACK_DEPTH ? n_tok - t : MK_BACK_DEPTH;
        panels_of(&b, job->dy, t, blk->tile_lo);
        slivers_of(&b, job->x, t, blk->col_lo);
        run_block(&b, BY_ROW);
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
static void panels_transposed(const block *b, mk_mat dy, int64_t o0, int64_t tile_lo) {
    for (int64_t tile = 0; tile < b->n_tile; tile++) {
        int64_t first = tile / R_MAX * R_MAX, r = panel_tiles(b, first), at = tile - first;
        at = r == 1 ? 0 : at;
        first = r == 1 ? tile : first;
        float *dst = panel(b, first) + 16 * at;
        for (int64_t o = 0; o < b->depth; o += 16) {
            v16f v[16];
            load_16x16(dy, 16 * (tile_lo + tile), o0 + o, v);
            vf_transpose(v);
            for (int64_t i = 0; i < 16 && o + i < b->depth; i++, dst += 16 * r) {
                vf_store(dst, v[i]);
            }
        }
    }
}

// Rows [o0, o0 + depth) of the matrix, columns from col_lo on.
static void slivers_of_weights(const block *b, const mk_back_job *job, int64_t o0, int64_t col_lo) {
    enum { RUN = 96 };  // columns unpacked at a time: whole slivers and whole groups
    _Alignas(64) float run[(RUN + 32) * 16];
    const size_t tile_bytes = mk_weight_tile_bytes(job->w);
    for (int64_t o = 0; o < b->depth; o += 16) {
        const uint8_t *tile = job->data + (size_t)((o0 + o) / 16) * tile_bytes;
        for (int64_t col = 0; col < b->n_col; col += RUN) {
            int64_t n = b->n_col - col < RUN ? b->n_col - col : RUN;
            int64_t from = (col_lo + col) / 32 * 32, skip = col_lo + col - from;
            int64_t to = (from + skip + n + 31) / 32 * 32;
            to = to < job->w->n_in ? to : job->w->n_in;
            MK_FN(unpack)(job->w, tile, from, to - from, run);
            for (int64_t i = 0; i < n; i++) {
                int64_t first = (col + i) / N_MAX * N_MAX;
                float *dst = sliver(b, first) + o * N_MAX + 16 * (col + i - first);
                vf_store(dst, vf_load(run + 16 * (skip + i)));
            }
        }
    }
}

// dx += C transposed.
static void add_transposed(const block *b, mk_mat dx, int64_t tile_lo, int64_t col_lo) {
    for (int64_t tile = 0; tile < b->n_tile; tile++) {
        for (int64_t col = 0; col < b->n_col; col += 16) {
            int64_t n = b->n_col - col, t = 16 * (tile_lo + tile);
            n = n < 16 ? n : 16;
            v16f v[16];
            for (int64_t i = 0; i < 16; i++) {
                v[i] = i < n ? vf_load(b->c + tile * b->c_tile + 16 * (col + i)) : vf_zero();
            }
            vf_transpose(v);
            float *p = dx.p + t * dx.stride + col_lo + col;
            for (int64_t i = 0; i < 16 && t + i < dx.n_row; i++, p += dx.stride) {
                v16f old = n == 16 ? vf_load(p) : vf_load_n(p, n);
                vf_store_n(p, vf_add(old, v[i]), n);
            }
        }
    }
}

void MK_FN(back_linear_x)(const mk_back_job *job, const mk_back_block *blk) {
    int64_t n_out = job->w->n_out;
    block b = {.n_tile = blk->tile_hi - blk->tile_lo,
               .n_col = blk->col_hi - blk->col_lo,
               .a = blk->scratch};
    int64_t cols = (b.n_col + MK_BACK_COLS - 1) / MK_BACK_COLS * MK_BACK_COLS;
    b.b = b.a + 16 * b.n_tile * MK_BACK_DEPTH;
    b.c = b.b + cols * MK_BACK_DEPTH + 16;
    b.c_tile = 16 * cols;
    for (int64_t o = 0; o < n_out; o += b.depth) {
        b.depth = n_out - o < MK_BACK_DEPTH ? n_out - o : MK_BACK_DEPTH;
        b.from_zero = o == 0;
        panels_transposed(&b, job->dy, o, blk->tile_lo);
        slivers_of_weights(&b, job, o, blk->col_lo);
        run_block(&b, BY_TILE);
    }
    add_transposed(&b, job->dx, blk->tile_lo, blk->col_lo);
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
