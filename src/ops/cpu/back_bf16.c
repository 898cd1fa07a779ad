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
#include "ops/cpu/simd_bf16.h"

typedef enum { AS_FLOATS, AS_WORDS } pair_form;

// Words of so many terms.
MK_INLINE int64_t words_of(const pair_form form, int64_t terms) {
    int64_t pairs = (terms + 1) / 2;
    return form == AS_WORDS ? pairs : 2 * pairs;
}

// One pair in 16 lanes, rounded; `next`: from word to word.
typedef void (*put_pair_fn)(float *dst, int64_t next, v16f even, v16f odd);

MK_INLINE void put_two_floats(float *dst, int64_t next, v16f even, v16f odd) {
    vf_store(dst, vf_round_bf16(odd));
    vf_store(dst + next, vf_round_bf16(even));
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

MK_INLINE void panels_of(const pair_form form, put_pair_fn put, const group *g, mk_mat m,
                         const place *p, int64_t tile_lo) {
    for (int64_t t = 0; t < p->depth; t += 2) {
        for (int64_t tile = 0, r; tile < g->n_tile; tile += r) {
            r = panel_tiles(g, tile);
            float *dst = panel(g, tile) + 16 * r * words_of(form, t);
            for (int64_t i = 0; i < r; i++) {
                row_pair v = load_rows(m, p->at + t, t + 1 < p->depth, 16 * (tile_lo + tile + i));
                put(dst + 16 * i, 16 * r, v.even, v.odd);
            }
        }
    }
}

MK_INLINE void slivers_of(const pair_form form, put_pair_fn put, const group *g, mk_mat m,
                          const place *p) {
    for (int64_t t = 0; t < p->depth; t += 2) {
        for (int64_t at = 0; at < g->n_col; at += 16) {
            row_pair v = load_rows(m, p->at + t, t + 1 < p->depth, p->col + at);
            put(g->b + SLIVER_ROW * words_of(form, t) + at, SLIVER_ROW, v.even, v.odd);
        }
    }
}

MK_INLINE void walk_w(const pair_form form, put_pair_fn put, const back_steps *steps,
                      const mk_back_job *job, const mk_back_block *blk) {
    int64_t n_in = job->x.n_col;
    walk w = {job, blk, job->x.n_row, form == AS_WORDS ? 2 * MK_BACK_DEPTH : MK_BACK_DEPTH};
    group g = group_of(blk, steps);
    g.c_tile = 16 * n_in;
    for (place p = place_of(&w, 0, blk->col_lo); p.depth > 0; p = next_place(&w, &p)) {
        g.depth = words_of(form, p.depth);
        g.n_col = p.n_col;
        g.c = job->g + 16 * (blk->tile_lo * n_in + p.col);
        if (p.col == blk->col_lo) {
            panels_of(form, put, &g, job->dy, &p, blk->tile_lo);
        }
        slivers_of(form, put, &g, job->x, &p);
        fetch_for_w(&g.fetch, &w, &p);
        run_group(&g, BY_ROW);
    }
}

// --- of inputs -----------------------------------------------------------------------------------
typedef void (*operand_fn)(const group *g, const mk_back_job *job, const place *p,
                           const mk_back_block *blk);

// Panels of the weights, transposed: lanes are columns; of every pair of rows the odd one first.
static void panels_of_floats(const group *g, const mk_back_job *job, const place *p,
                             const mk_back_block *blk) {
    _Alignas(64) float run[32 * 16];
    const size_t tile_bytes = mk_weight_tile_bytes(job->w);
    int64_t n_in = job->w->n_in;
    for (int64_t o = 0; o < g->depth; o += 16) {
        const uint8_t *src = job->data + (size_t)((p->at + o) / 16) * tile_bytes;
        for (int64_t tile = 0; tile < g->n_tile; tile++) {
            int64_t col = 16 * (blk->tile_lo + tile), from = col / 32 * 32, left = n_in - from;
            MK_FN(unpack)(job->w, src, from, left < 32 ? left : 32, run);
            v16f v[16];
            for (int64_t i = 0; i < 16; i++) {
                v[i] = col + i < n_in ? vf_load(run + 16 * (col + i - from)) : vf_zero();
            }
            vf_transpose(v);
            int64_t next;
            float *dst = lanes_of(g, tile, &next) + next * o;
            for (int64_t i = 0; i < 16 && o + i < g->depth; i++, dst += next) {
                vf_store(dst, v[i ^ 1]);
            }
        }
    }
}

// Slivers of the rows of dy, in the same order.
static void slivers_of_floats(const group *g, const mk_back_job *job, const place *p,
                              const mk_back_block *blk) {
    (void)blk;
    for (int64_t t = 0; t < g->n_col; t++) {
        const float *src = job->dy.p + (p->col + t) * job->dy.stride + p->at;
        float *dst = sliver(g, t / N_MAX) + 16 * (t % N_MAX);
        for (int64_t o = 0; o < p->depth; o += 16, dst += 16 * N_MAX) {
            int64_t left = p->depth - o;
            float tmp[16];
            vf_store(tmp, vf_round_bf16(left >= 16 ? vf_load(src + o) : vf_load_n(src + o, left)));
            for (int64_t i = 0; i < 16; i++) {
                dst[i] = tmp[i ^ 1];
            }
        }
    }
}

MK_INLINE void walk_x(const pair_form form, const back_steps *steps, operand_fn panels,
                      operand_fn slivers, const mk_back_job *job, const mk_back_block *blk) {
    walk w = {job, blk, job->w->n_out, form == AS_WORDS ? 2 * MK_BACK_DEPTH : MK_BACK_DEPTH};
    group g = group_of(blk, steps);
    float *c = waiting_sums(&w, &g);
    for (place p = place_of(&w, 0, blk->col_lo); p.depth > 0; p = next_place(&w, &p)) {
        g.depth = words_of(form, p.depth);
        g.n_col = p.n_col;
        g.c = sums_at(c, &w, &p);
        g.from_zero = p.at == 0;
        if (p.col == blk->col_lo) {
            panels(&g, job, &p, blk);
        }
        slivers(&g, job, &p, blk);
        fetch_for_x(&g.fetch, &w, &p);
        run_group(&g, BY_TILE);
        if (p.at + p.depth == w.n_term) {
            add_sums(&g, job->dx, blk->tile_lo, p.col);
        }
    }
}

void MK_FN(back_bf16_w)(const mk_back_job *job, const mk_back_block *blk) {
    walk_w(AS_FLOATS, put_two_floats, &MK_FN(back_steps), job, blk);
}

void MK_FN(back_bf16_x)(const mk_back_job *job, const mk_back_block *blk) {
    walk_x(AS_FLOATS, &MK_FN(back_steps), panels_of_floats, slivers_of_floats, job, blk);
}

#if defined(MK_ISA_AVX512)
MK_BF16_BEGIN

MK_INLINE void dots(const int R, const int N, const sliver_layout layout, const step_job *s,
                    int64_t k, v16f acc[R_MAX][N_MAX]) {
    const int64_t a_next = s->a_next, b_next = layout == BY_ROW ? s->b_next : 1;
    const float *a = s->a + k * a_next, *b = s->b + k * (layout == BY_ROW ? b_next : N_MAX);
    int64_t end = k + 16 < s->depth ? k + 16 : s->depth;
    for (; k < end; k++, a += a_next, b += b_next) {
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

// Lanes are words: even elements of a, odd of b.
MK_INLINE void put_words(float *dst, int64_t next, v16f even, v16f odd) {
    (void)next;
    _mm512_storeu_si512(dst, bf16_interleaved(even, odd));
}

// 16 columns of 32 rows of packed weights, where a word holds two columns of a row: to words of two
// rows of a column.  v[c] and v[8 + c] are columns 2c and 2c + 1 of the upper and lower 16 rows.
static void words_of_rows(__m512i v[16]) {
    uint16_t order[32];
    int32_t near[16], far[16];
    for (int i = 0; i < 16; i++) {
        order[i] = (uint16_t)(2 * i);
        order[16 + i] = (uint16_t)(2 * i + 1);
        near[i] = i / 2 + i % 2 * 16;
        far[i] = near[i] + 8;
    }
    v16f t[16];
    for (int i = 0; i < 16; i++) {
        t[i] = _mm512_castsi512_ps(_mm512_permutexvar_epi16(_mm512_loadu_si512(order), v[i]));
    }
    vf_transpose(t);  // t[p]: pair p of even columns, t[8 + p] of odd ones; upper rows first
    for (int i = 0; i < 8; i++) {
        __m512i even = _mm512_castps_si512(t[i]), odd = _mm512_castps_si512(t[8 + i]);
        v[i] = _mm512_permutex2var_epi32(even, _mm512_loadu_si512(near), odd);
        v[8 + i] = _mm512_permutex2var_epi32(even, _mm512_loadu_si512(far), odd);
    }
}

static void panels_of_words(const group *g, const mk_back_job *job, const place *p,
                            const mk_back_block *blk) {
    const size_t tile_bytes = mk_weight_tile_bytes(job->w);
    int64_t n_in = job->w->n_in;
    for (int64_t o = 0; o < p->depth; o += 32) {
        const uint8_t *src = job->data + (size_t)((p->at + o) / 16) * tile_bytes;
        for (int64_t tile = 0; tile < g->n_tile; tile++) {
            int64_t col = 16 * (blk->tile_lo + tile);
            __m512i v[16];
            for (int64_t c = 0; c < 16; c++) {
                int64_t at = col + c % 8 * 2;
                bool is = at < n_in && o + c / 8 * 16 < p->depth;
                v[c] = is ? _mm512_loadu_si512(src + (size_t)(c / 8) * tile_bytes + 32 * at)
                          : _mm512_setzero_si512();
            }
            words_of_rows(v);
            int64_t next;
            float *dst = lanes_of(g, tile, &next) + next * (o / 2);
            for (int64_t i = 0; i < 16 && o / 2 + i < g->depth; i++, dst += next) {
                _mm512_storeu_si512(dst, v[i]);
            }
        }
    }
}

static void slivers_of_words(const group *g, const mk_back_job *job, const place *p,
                             const mk_back_block *blk) {
    (void)blk;
    for (int64_t t = 0; t < g->n_col; t++) {
        const float *src = job->dy.p + (p->col + t) * job->dy.stride + p->at;
        float *dst = sliver(g, t / N_MAX) + 16 * (t % N_MAX);
        for (int64_t o = 0; o < p->depth; o += 32, dst += 16 * N_MAX) {
            v16f x[2];
            vf_load32(src + o, p->depth - o, x);
            _mm512_storeu_si512(dst, bf16_words(x[0], x[1]));
        }
    }
}

void mk_k_back_bf16_w_avx512bf16(const mk_back_job *job, const mk_back_block *blk) {
    walk_w(AS_WORDS, put_words, &dot_steps, job, blk);
}

void mk_k_back_bf16_x_avx512bf16(const mk_back_job *job, const mk_back_block *blk) {
    walk_x(AS_WORDS, &dot_steps, panels_of_words, slivers_of_words, job, blk);
}
MK_BF16_END
#endif
