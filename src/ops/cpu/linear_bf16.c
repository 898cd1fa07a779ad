// y[t,o] = sum_k W[o,k] x[t,k] with bf16 weights and activations rounded to bf16: lanes are 16
// output rows.
//
//     for every pair (2i, 2i+1), ascending:  acc = fma(w[2i+1], x[2i+1], acc), then acc = fma(w[2i], x[2i], acc)
//     y = acc (+ bias);  an odd n_in is padded with zeros
//
// Odd element first: that is what vdpbf16ps computes when denormals are flushed
// (tests/ops/test_bf16.c compares millions of random sums), so the avx512bf16 set uses the
// instruction and gives the same bits.  A tile of 16 rows is [n_in/2][16][2].
#include "ops/cpu/simd_bf16.h"
#include "ops/cpu/tile.h"

MK_INLINE void bf16_pass(const int R, const int T, const tile_pass *p) {
    int64_t n_pair = (p->n_in + 1) / 2;
    for (int64_t t = 0; t < p->n_tok; t += T) {
        v16f acc[4][8];
        MK_UNROLL for (int r = 0; r < R; r++) {
            load_acc(p, t, acc[r], T);
        }
        const float *x = (const float *)x_at(p, t, sizeof *x);
        for (int64_t i = 0; i < n_pair; i++, x += 2 * p->tb) {
            MK_UNROLL for (int r = 0; r < R; r++) {
                v16f even, odd;
                const uint8_t *w = p->w + (size_t)r * p->tile_bytes;
                vf_load_bf16_pairs((const uint16_t *)w + 32 * i, &even, &odd);
                MK_UNROLL for (int j = 0; j < T; j++) {
                    acc[r][j] = vf_fma(odd, vf_set1(x[p->tb + j]), acc[r][j]);
                    acc[r][j] = vf_fma(even, vf_set1(x[j]), acc[r][j]);
                }
            }
        }
        MK_UNROLL for (int r = 0; r < R; r++) {
            store_acc(p, r, t, acc[r], T);
        }
    }
}

FLOAT_TYPE(bf16, MK_X_BF16, 4, bf16_pass)

void MK_FN(linear_bf16)(const mk_linear_job *job, int64_t lo, int64_t hi) {
    walk_tiles(&bf16_ops, job, lo, hi, MK_FLT_T);
}

#if defined(MK_ISA_AVX512)
MK_BF16_BEGIN

// As text for the same reason as dot_step (simd_avx512.h).
MK_INLINE v16f dot_pair(v16f acc, __m512i w, const uint32_t *x) {
    __asm__("vdpbf16ps %2%{1to16%}, %1, %0" : "+v"(acc) : "v"(w), "m"(*x));
    return acc;
}

// The sums of n pairs for R row tiles and T tokens.
MK_INLINE void dot_pairs(const int R, const int T, const tile_pass *p, int64_t i, int64_t end,
                         const uint32_t *x, v16f acc[4][8], tile_fetch *fetch) {
    for (; i < end; i++, x += p->tb) {
        fetch_lines(fetch, T >= FETCH_FROM ? 1 : 0);
        MK_UNROLL for (int r = 0; r < R; r++) {
            __m512i w = _mm512_loadu_si512(p->w + (size_t)r * p->tile_bytes + 64 * (size_t)i);
            MK_UNROLL for (int j = 0; j < T; j++) {
                acc[r][j] = dot_pair(acc[r][j], w, x + j);
            }
        }
    }
}

MK_INLINE void bf16_dot_pass(const int R, const int T, const tile_pass *p) {
    tile_fetch fetch = fetch_from(p);
    int64_t n_pair = (p->n_in + 1) / 2;
    for (int64_t t = 0; t < p->n_tok; t += T) {
        v16f acc[4][8];
        MK_UNROLL for (int r = 0; r < R; r++) {
            load_acc(p, t, acc[r], T);
        }
        const uint32_t *x = (const uint32_t *)x_at(p, t, sizeof *x);
        for (int64_t i = 0; i < n_pair; i += 32) {
            fetch_begin(p, &fetch, p->w + 64 * (size_t)i);
            dot_pairs(R, T, p, i, i + 32 < n_pair ? i + 32 : n_pair, x + i * p->tb, acc, &fetch);
            fetch_end(&fetch);
        }
        MK_UNROLL for (int r = 0; r < R; r++) {
            store_acc(p, r, t, acc[r], T);
        }
    }
}

FLOAT_TYPE(dot, MK_X_BF16, 2, bf16_dot_pass)

void mk_k_linear_bf16_avx512bf16(const mk_linear_job *job, int64_t lo, int64_t hi) {
    walk_tiles(&dot_ops, job, lo, hi, MK_FLT_T);
}
MK_BF16_END
#endif
