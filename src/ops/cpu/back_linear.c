// Gradients of linear layers, float32.
//
//     weights   g[o,i]  = fma(dy[t,o], x[t,i], g[o,i])    t ascending, from the g that is there
//     inputs    acc     = fma(dy[t,o], W[o,i], acc)       o ascending, from 0;  dx[t,i] += acc
//
// Both are C += A B with C in tiles [lanes/16][columns][16]: lanes are output rows and columns
// those of x, or lanes are columns of dx and columns its rows.  Every element of C is one chain,
// whatever the blocks; between runs of the sum it waits in memory, which changes no bit.
//
// A block of C is walked MK_BACK_DEPTH terms of the sum at a time, GROUP columns at a time, so that
// B stays in the first cache, A in the second, and R x N accumulators in registers.  Of weights
// both are read where they lie: terms are rows.  A copy of them costs a quarter of the time where
// matrices are narrow (256), and is made only where rows meet in a few sets of the caches, and at
// the edges.  Of inputs A is the matrix transposed, in panels [k][16 R] of R tiles, and B rows of
// dy, in slivers of N.  Meanwhile memory is asked for the next C and the next B.  Source: Goto &
// van de Geijn 2008.
#include "ops/cpu/back_block.h"

MK_INLINE void floats(const int R, const int N, const sliver_layout layout, const step_job *s,
                      int64_t k, v16f acc[R_MAX][N_MAX]) {
    const int64_t a_next = s->a_next, b_next = layout == BY_ROW ? s->b_next : 1;
    const float *a = s->a + k * a_next, *b = s->b + k * (layout == BY_ROW ? b_next : N_MAX);
    int64_t end = k + 16 < s->depth ? k + 16 : s->depth;
    for (; k < end; k++, a += a_next, b += b_next) {
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
// Rows [t0, t0 + depth) of m, columns from 16 tile_lo on, beyond the last zero: the tiles that are
// not read where they lie.
static void panels_of(const group *g, mk_mat m, int64_t t0, int64_t tile_lo) {
    const float *src = m.p + t0 * m.stride + 16 * tile_lo;
    int64_t first = g->n_a_rows == g->n_tile ? g->n_tile : g->n_a_rows / R_MAX * R_MAX;
    for (int64_t t = 0; t < g->depth; t++, src += m.stride) {
        for (int64_t tile = first, r; tile < g->n_tile; tile += r) {
            r = panel_tiles(g, tile);
            float *dst = panel(g, tile) + 16 * r * t;
            for (int64_t i = 0; i < r; i++) {
                int64_t at = 16 * (tile + i), left = m.n_col - 16 * tile_lo - at;
                vf_store(dst + 16 * i, left >= 16 ? vf_load(src + at) : vf_load_n(src + at, left));
            }
        }
    }
}

// Rows [t0, t0 + depth) of m, columns from `col` on: the slivers that are not read there.
static void slivers_of(const group *g, mk_mat m, int64_t t0, int64_t col) {
    const float *src = m.p + t0 * m.stride + col;
    for (int64_t t = 0; t < g->depth; t++, src += m.stride) {
        for (int64_t at = g->n_b_rows * N_MAX / 16 * 16; at < g->n_col; at += 16) {
            int64_t left = m.n_col - col - at;
            v16f v = left >= 16 ? vf_load(src + at) : vf_load_n(src + at, left);
            vf_store(g->b + SLIVER_ROW * t + at, v);
        }
    }
}

// Whole tiles of dy and whole slivers of x are read where they are.
static void find_rows(group *g, const mk_back_job *job, const place *p, int64_t tile_lo) {
    int64_t whole = job->dy.n_col / 16 - tile_lo;
    g->a_rows = job->dy;
    g->a_rows.p += p->at * job->dy.stride + 16 * tile_lo;
    g->n_a_rows = !lies_well(job->dy) ? 0 : whole < g->n_tile ? whole : g->n_tile;
    int64_t slivers = (job->x.n_col - p->col) / N_MAX, all = (g->n_col + N_MAX - 1) / N_MAX;
    g->b_rows = job->x;
    g->b_rows.p += p->at * job->x.stride + p->col;
    g->n_b_rows = !lies_well(job->x) ? 0 : slivers < all ? slivers : all;
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
        find_rows(&g, job, &p, blk->tile_lo);
        if (p.col == blk->col_lo) {
            panels_of(&g, job->dy, p.at, blk->tile_lo);
        }
        slivers_of(&g, job->x, p.at, p.col);
        fetch_for_w(&g.fetch, &w, &p);
        run_group(&g, BY_ROW);
    }
}

// --- of inputs -----------------------------------------------------------------------------------
#define WEIGHT_TILES 6  // unpacked at once

// Rows [o0, o0 + depth) of the matrix, transposed: lanes are columns, from 16 tile_lo on.
static void panels_of_weights(const group *g, const mk_back_job *job, int64_t o0, int64_t tile_lo) {
    _Alignas(64) float run[(16 * WEIGHT_TILES + 64) * 16];
    const size_t tile_bytes = mk_weight_tile_bytes(job->w);
    int64_t n_in = job->w->n_in;
    for (int64_t o = 0; o < g->depth; o += 16) {
        const uint8_t *src = job->data + (size_t)((o0 + o) / 16) * tile_bytes;
        const float *rows = (const float *)src;
        int64_t from = 0;  // its first column
        for (int64_t tile = 0; tile < g->n_tile; tile++) {
            int64_t col = 16 * (tile_lo + tile);
            if (job->w->kind != MK_PACK_F32 && tile % WEIGHT_TILES == 0) {
                int64_t to = (col + 16 * WEIGHT_TILES + 31) / 32 * 32;
                from = col / 32 * 32;
                MK_FN(unpack)(job->w, src, from, (to < n_in ? to : n_in) - from, run);
                rows = run;
            }
            v16f v[16];
            for (int64_t i = 0; i < 16; i++) {
                v[i] = col + i < n_in ? vf_load(rows + 16 * (col + i - from)) : vf_zero();
            }
            vf_transpose(v);
            int64_t next;
            float *dst = lanes_of(g, tile, &next) + next * o;
            for (int64_t i = 0; i < 16 && o + i < g->depth; i++, dst += next) {
                vf_store(dst, v[i]);
            }
        }
    }
}

// Columns [o0, o0 + depth) of rows from `row` on of dy.
static void slivers_of_rows(const group *g, mk_mat dy, int64_t o0, int64_t row) {
    for (int64_t t = 0; t < g->n_col; t++) {
        const float *src = dy.p + (row + t) * dy.stride + o0;
        float *dst = sliver(g, t / N_MAX) + 16 * (t % N_MAX);
        for (int64_t o = 0; o < g->depth; o += 16, src += 16, dst += 16 * N_MAX) {
            int64_t left = g->depth - o;
            vf_store(dst, left >= 16 ? vf_load(src) : vf_load_n(src, left));
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
            panels_of_weights(&g, job, p.at, blk->tile_lo);
        }
        slivers_of_rows(&g, job->dy, p.at, p.col);
        fetch_for_x(&g.fetch, &w, &p);
        run_group(&g, BY_TILE);
        if (p.at + p.depth == w.n_term) {
            add_sums(&g, job->dx, blk->tile_lo, p.col);
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
