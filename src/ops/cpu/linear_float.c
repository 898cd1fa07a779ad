// y[t,o] = sum_k W[o,k] x[t,k] with float weights and float32 activations: lanes are 16 output
// rows, k ascending.
//
//     F32, F16:  acc = fma(w[o,k], x[t,k], acc) from 0
//     F8_E4M3:   per group of 128 columns p = fma(w * 2^-8, x, p) from 0, then acc = fma(scale * 2^8, p, acc)
//     BF16:      linear_bf16.c
//     y = acc (+ bias)
//
// A tile of 16 rows is [n_in][16]; for F8 every group of 128 columns begins with scale * 2^8
// f32[16].
#include "ops/cpu/tile.h"

typedef enum { FLT_F32, FLT_F16 } flt_kind;

MK_INLINE v16f load_weights(const flt_kind kind, const uint8_t *tile, int64_t k) {
    return kind == FLT_F32 ? vf_load((const float *)tile + 16 * k)
                           : vf_load_f16((const uint16_t *)tile + 16 * k);
}

MK_INLINE void flt_pass(const int R, const int T, const tile_pass *p, const flt_kind kind) {
    for (int64_t t = 0; t < p->n_tok; t += T) {
        v16f acc[4][8];
        MK_UNROLL for (int r = 0; r < R; r++) {
            load_acc(p, t, acc[r], T);
        }
        const float *x = (const float *)x_at(p, t, sizeof *x);
        for (int64_t k = 0; k < p->n_in; k++, x += p->tb) {
            v16f xs[8];
            MK_UNROLL for (int i = 0; i < T; i++) {
                xs[i] = vf_set1(x[i]);
            }
            MK_UNROLL for (int r = 0; r < R; r++) {
                v16f w = load_weights(kind, p->w + (size_t)r * p->tile_bytes, k);
                MK_UNROLL for (int i = 0; i < T; i++) {
                    acc[r][i] = vf_fma(w, xs[i], acc[r][i]);
                }
            }
        }
        MK_UNROLL for (int r = 0; r < R; r++) {
            store_acc(p, r, t, acc[r], T);
        }
    }
}

MK_INLINE void f8_group(const int R, const int T, const tile_pass *p, const uint8_t *const *w,
                        const float *x, int64_t n, v16f (*sum)[8]) {
    MK_UNROLL for (int r = 0; r < R; r++) {
        MK_UNROLL for (int t = 0; t < T; t++) {
            sum[r][t] = vf_zero();
        }
    }
    for (int64_t k = 0; k < n; k++, x += p->tb) {
        MK_UNROLL for (int r = 0; r < R; r++) {
            v16f v = vf_load_e4m3(w[r] + 64 + 16 * k);
            MK_UNROLL for (int t = 0; t < T; t++) {
                sum[r][t] = vf_fma(v, vf_set1(x[t]), sum[r][t]);
            }
        }
    }
}

MK_INLINE void f8_tokens(const int R, const int T, const tile_pass *p, int64_t t) {
    v16f acc[4][8], sum[4][8];
    const uint8_t *w[4];
    MK_UNROLL for (int r = 0; r < R; r++) {
        w[r] = p->w + (size_t)r * p->tile_bytes;
        load_acc(p, t, acc[r], T);
    }
    const float *x = (const float *)x_at(p, t, sizeof *x);
    for (int64_t k = 0; k < p->n_in; k += MK_F8_GROUP, x += MK_F8_GROUP * p->tb) {
        int64_t n = p->n_in - k < MK_F8_GROUP ? p->n_in - k : MK_F8_GROUP;
        f8_group(R, T, p, w, x, n, sum);
        MK_UNROLL for (int r = 0; r < R; r++) {
            v16f scale = vf_load((const float *)w[r]);
            MK_UNROLL for (int i = 0; i < T; i++) {
                acc[r][i] = vf_fma(scale, sum[r][i], acc[r][i]);
            }
            w[r] += 64 + 16 * n;
        }
    }
    MK_UNROLL for (int r = 0; r < R; r++) {
        store_acc(p, r, t, acc[r], T);
    }
}

MK_INLINE void f8_pass(const int R, const int T, const tile_pass *p) {
    for (int64_t t = 0; t < p->n_tok; t += T) {
        f8_tokens(R, T, p, t);
    }
}

FLOAT_TYPE(f32, MK_X_F32, 4, flt_pass, FLT_F32)
FLOAT_TYPE(f16, MK_X_F32, 4, flt_pass, FLT_F16)
FLOAT_TYPE(f8, MK_X_F32, 4, f8_pass)

void MK_FN(linear_f32)(const mk_linear_job *job, int64_t lo, int64_t hi) {
    walk_tiles(&f32_ops, job, lo, hi, MK_FLT_T);
}

void MK_FN(linear_f16)(const mk_linear_job *job, int64_t lo, int64_t hi) {
    walk_tiles(&f16_ops, job, lo, hi, MK_FLT_T);
}

void MK_FN(linear_f8)(const mk_linear_job *job, int64_t lo, int64_t hi) {
    walk_tiles(&f8_ops, job, lo, hi, MK_FLT_T);
}
