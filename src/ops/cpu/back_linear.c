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
#include "ops/cpu/back_block.h"

// The next 16 terms, or the last `depth`.
MK_INLINE void floats(const int R, const int N, const sliver_layout layout, int64_t depth,
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

MK_BACK_STEPS(const back_steps MK_FN(back_steps), floats)

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

void MK_FN(back_linear_w)(const mk_back_job *job, const mk_back_block *blk) {
    int64_t n_in = job->x.n_col;
    walk w = {job, blk, job->x.n_row, MK_BACK_DEPTH};
    group g = group_of(blk, &MK_FN(back_steps));
    g.c_tile = 16 * n_in;
    for (place p = place_of(&w, 0, blk->col_lo); p.depth > 0; p = next_place(&w, &p)) {
        g.depth = p.depth;
        g.n_col = p.n_col;
        g.c = job->g + 16 * (blk->tile_lo * n_in + p.col);
        if (p.col == blk->col_lo) {
            panels_of(&g, job->dy, p.at, blk->tile_lo);
        }
        slivers_of(&g, job->x, p.at, p.col);
        fetch_for_w(&g.fetch, &w, &p);
        run_group(&g, BY_ROW);
    }
}

// --- of inputs -----------------------------------------------------------------------------------
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

void MK_FN(back_linear_x)(const mk_back_job *job, const mk_back_block *blk) {
    walk w = {job, blk, job->w->n_out, MK_BACK_DEPTH};
    group g = group_of(blk, &MK_FN(back_steps));
    float *c = waiting_sums(&w, &g);
    for (place p = place_of(&w, 0, blk->col_lo); p.depth > 0; p = next_place(&w, &p)) {
        g.depth = p.depth;
        g.n_col = p.n_col;
        g.c = sums_at(c, &w, &p);
        g.from_zero = p.at == 0;
        if (p.col == blk->col_lo) {
            panels_transposed(&g, job->dy, p.at, blk->tile_lo);
        }
        slivers_of_weights(&g, job, p.at, p.col);
        fetch_for_x(&g.fetch, &w, &p);
        run_group(&g, BY_TILE);
        if (p.at + p.depth == w.n_term) {
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
