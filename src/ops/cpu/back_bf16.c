// Gradients of linear layers whose weights are bf16: both factors are rounded to bf16 (nearest
// even), sums stay float32 and run over pairs of terms.
//
//     for every pair (2j, 2j+1) of tokens (weights) or output rows (inputs), ascending:
//         acc = fma(a[2j+1], b[2j+1], acc), then acc = fma(a[2j], b[2j], acc)
//     an odd number of terms is padded with zeros; acc begins with g, or with 0 and goes to dx
//
// Pairs of tokens are counted from the first row of the call.  The odd one comes first for the
// reason that linear_bf16.c gives: the avx512bf16 set uses the instruction.  There a word of panels
// and slivers (back_block.h) is a pair, and a run of the sum has twice as many terms.  The other
// sets put the two terms of a pair, rounded, in the order in which they are added, and multiply
// floats.
#include "ops/cpu/back_block.h"

typedef enum { AS_FLOATS, AS_WORDS } pair_form;

// Words of so many terms.
MK_INLINE int64_t words_of(const pair_form form, int64_t terms) {
    int64_t pairs = (terms + 1) / 2;
    return form == AS_WORDS ? pairs : 2 * pairs;
}

// One pair in 16 lanes; `next`: from word to word.
MK_INLINE void put_pair(const pair_form form, float *dst, int64_t next, v16f even, v16f odd) {
    if (form == AS_WORDS) {
        vf_store_bf16_pairs((uint16_t *)dst, even, odd);
    } else {
        vf_store(dst, vf_round_bf16(odd));
        vf_store(dst + next, vf_round_bf16(even));
    }
}

// --- of weights ----------------------------------------------------------------------------------
// Columns [col, col + 16) of rows t and t + 1 of m, beyond the ends zero.
typedef struct {
    v16f even, odd;
} row_pair;

MK_INLINE row_pair load_rows(mk_mat m, int64_t t, bool both, int64_t col) {
    const float *p = m.p + t * m.stride + col;
    int64_t left = m.n_col - col;
    if (left >= 16) {
        return (row_pair){vf_load(p), both ? vf_load(p + m.stride) : vf_zero()};
    }
    return (row_pair){vf_load_n(p, left), both ? vf_load_n(p + m.stride, left) : vf_zero()};
}

MK_INLINE void panels_of(const pair_form form, const group *g, mk_mat m, const place *p,
                         int64_t tile_lo) {
    for (int64_t t = 0; t < p->depth; t += 2) {
        for (int64_t tile = 0, r; tile < g->n_tile; tile += r) {
            r = panel_tiles(g, tile);
            float *dst = panel(g, tile) + 16 * r * words_of(form, t);
            for (int64_t i = 0; i < r; i++) {
                row_pair v = load_rows(m, p->at + t, t + 1 < p->depth, 16 * (tile_lo + tile + i));
                put_pair(form, dst + 16 * i, 16 * r, v.even, v.odd);
            }
        }
    }
}

// Whole vectors are written: what a row writes too much the next one sets right.
MK_INLINE void slivers_of(const pair_form form, const group *g, mk_mat m, const place *p) {
    for (int64_t t = 0; t < p->depth; t += 2) {
        for (int64_t at = 0; at < g->n_col; at += N_MAX) {
            row_pair v = load_rows(m, p->at + t, t + 1 < p->depth, p->col + at);
            put_pair(form, sliver(g, at / N_MAX) + N_MAX * words_of(form, t), N_MAX, v.even, v.odd);
        }
    }
}

MK_INLINE void walk_w(const pair_form form, const back_steps *steps, const mk_back_job *job,
                      const mk_back_block *blk) {
    int64_t n_in = job->x.n_col;
    walk w = {job, blk, job->x.n_row, form == AS_WORDS ? 2 * MK_BACK_DEPTH : MK_BACK_DEPTH};
    group g = group_of(blk, steps);
    g.c_tile = 16 * n_in;
    for (place p = place_of(&w, 0, blk->col_lo); p.depth > 0; p = next_place(&w, &p)) {
        g.depth = words_of(form, p.depth);
        g.n_col = p.n_col;
        g.c = job->g + 16 * (blk->tile_lo * n_in + p.col);
        if (p.col == blk->col_lo) {
            panels_of(form, &g, job->dy, &p, blk->tile_lo);
        }
        slivers_of(form, &g, job->x, &p);
        fetch_for_w(&g.fetch, &w, &p);
        run_group(&g, BY_ROW);
    }
}

// --- of inputs -----------------------------------------------------------------------------------
// Columns of dy, transposed; lanes are tokens from 16 tile_lo on.
MK_INLINE void panels_transposed(const pair_form form, const group *g, mk_mat dy, const place *p,
                                 int64_t tile_lo) {
    for (int64_t tile = 0; tile < g->n_tile; tile++) {
        int64_t first = tile / R_MAX * R_MAX, r = panel_tiles(g, first);
        first = r == 1 ? tile : first;
        float *dst = panel(g, first) + 16 * (tile - first);
        for (int64_t o = 0; o < p->depth; o += 16) {
            v16f v[16];
            load_16x16(dy, 16 * (tile_lo + tile), p->at + o, v);
            vf_transpose(v);
            for (int64_t i = 0; i < 16 && o + i < p->depth; i += 2) {
                put_pair(form, dst + 16 * r * words_of(form, o + i), 16 * r, v[i], v[i + 1]);
            }
        }
    }
}

// Rows of the matrix as floats, the lanes of every pair of rows exchanged.
static void slivers_of_floats(const group *g, const mk_back_job *job, const place *p) {
    _Alignas(64) float run[GROUP * 16];
    const size_t tile_bytes = mk_weight_tile_bytes(job->w);
    for (int64_t o = 0; o < p->depth; o += 16) {
        MK_FN(unpack)
        (job->w, job->data + (size_t)((p->at + o) / 16) * tile_bytes, p->col, p->n_col, run);
        const float *src = run;
        for (int64_t at = 0; at < p->n_col; at += N_MAX) {
            float *dst = sliver(g, at / N_MAX) + o * N_MAX;
            for (int64_t i = 0; i < N_MAX && at + i < p->n_col; i++, src += 16, dst += 16) {
                for (int64_t r = 0; r < 16; r++) {
                    dst[r] = src[r ^ 1];
                }
            }
        }
    }
}

typedef void (*slivers_fn)(const group *g, const mk_back_job *job, const place *p);

MK_INLINE void walk_x(const pair_form form, const back_steps *steps, slivers_fn slivers,
                      const mk_back_job *job, const mk_back_block *blk) {
    walk w = {job, blk, job->w->n_out, form == AS_WORDS ? 2 * MK_BACK_DEPTH : MK_BACK_DEPTH};
    group g = group_of(blk, steps);
    float *c = waiting_sums(&w, &g);
    for (place p = place_of(&w, 0, blk->col_lo); p.depth > 0; p = next_place(&w, &p)) {
        g.depth = words_of(form, p.depth);
        g.n_col = p.n_col;
        g.c = sums_at(c, &w, &p);
        g.from_zero = p.at == 0;
        if (p.col == blk->col_lo) {
            panels_transposed(form, &g, job->dy, &p, blk->tile_lo);
        }
        slivers(&g, job, &p);
        fetch_for_x(&g.fetch, &w, &p);
        run_group(&g, BY_TILE);
        if (p.at + p.depth == w.n_term) {
            add_transposed(&g, job->dx, blk->tile_lo, p.col);
        }
    }
}

void MK_FN(back_bf16_w)(const mk_back_job *job, const mk_back_block *blk) {
    walk_w(AS_FLOATS, &MK_FN(back_steps), job, blk);
}

void MK_FN(back_bf16_x)(const mk_back_job *job, const mk_back_block *blk) {
    walk_x(AS_FLOATS, &MK_FN(back_steps), slivers_of_floats, job, blk);
}

#if defined(MK_ISA_AVX512)
// Only these functions may use the instruction; select.c hands them out where the processor has it.
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512bf16"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512bf16")
#endif

MK_INLINE void dots(const int R, const int N, const sliver_layout layout, int64_t depth,
                    const float *a, const float *b, v16f acc[R_MAX][N_MAX]) {
    for (int64_t k = 0; k < depth; k++, a += 16 * R, b += layout == BY_ROW ? N_MAX : 1) {
        __m512bh row[R_MAX];
        MK_UNROLL for (int r = 0; r < R; r++) {
            row[r] = (__m512bh)_mm512_loadu_si512(a + 16 * r);
        }
        MK_UNROLL for (int j = 0; j < N; j++) {
            __m512bh col = (__m512bh)_mm512_set1_ps(b[layout == BY_ROW ? j : 16 * j]);
            MK_UNROLL for (int r = 0; r < R; r++) {
                acc[r][j] = _mm512_dpbf16_ps(acc[r][j], row[r], col);
            }
        }
    }
}

MK_BACK_STEPS(static const back_steps dot_steps, dots)

// A packed word holds two columns of one row, a word of a sliver two rows of one column.
static void slivers_of_words(const group *g, const mk_back_job *job, const place *p) {
    uint16_t order[32];
    for (int i = 0; i < 16; i++) {
        order[i] = (uint16_t)(2 * i);
        order[16 + i] = (uint16_t)(2 * i + 1);
    }
    const __m512i columns = _mm512_loadu_si512(order);
    const size_t tile_bytes = mk_weight_tile_bytes(job->w);
    MK_ASSERT(p->col % 2 == 0);
    for (int64_t o = 0; o < p->depth; o += 16) {
        const uint8_t *src =
            job->data + (size_t)((p->at + o) / 16) * tile_bytes + 32 * (size_t)p->col;
        for (int64_t at = 0; at < p->n_col; at += N_MAX) {
            float *dst = sliver(g, at / N_MAX) + o / 32 * 16 * N_MAX + o / 2 % 16;
            for (int64_t i = 0; i < N_MAX && at + i < p->n_col; i += 2, src += 64, dst += 32) {
                __m512i v = _mm512_permutexvar_epi16(columns, _mm512_loadu_si512(src));
                _mm256_storeu_si256((__m256i *)dst, _mm512_castsi512_si256(v));
                _mm256_storeu_si256((__m256i *)(dst + 16), _mm512_extracti64x4_epi64(v, 1));
            }
        }
    }
}

void mk_k_back_bf16_w_avx512bf16(const mk_back_job *job, const mk_back_block *blk) {
    walk_w(AS_WORDS, &dot_steps, job, blk);
}

void mk_k_back_bf16_x_avx512bf16(const mk_back_job *job, const mk_back_block *blk) {
    walk_x(AS_WORDS, &dot_steps, slivers_of_words, job, blk);
}
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
