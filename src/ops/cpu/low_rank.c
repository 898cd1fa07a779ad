// Adapters: u = scale (A x) and y += B u, row by row; and B A added to a tile of the weight itself.
//
//     u[k] = (fma(A[k,i], x[i], acc) from 0, i ascending) * scale
//     y[o] = y[o] + (fma(B[o,k], u[k], acc) from 0, k ascending)
//     W[o,i] = fma(scale, fma(B[o,k], A[k,i], acc) from 0 over k ascending, W[o,i])     merging, lengths
//
// Lanes are k, then o.  The matrices are small enough to stay in the caches, so rows of x and u are
// read where they are, up to 8 at a time, and B u never lies in memory.  A tile of A is [n_in][16]:
// the values of 16 k lie side by side.
#include "ops/cpu/cpu.h"

MK_INLINE void rows_u(const mk_low_rank_job *j, int64_t t, const int T) {
    const float *x[8];
    MK_UNROLL for (int i = 0; i < T; i++) {
        int64_t r = j->row != NULL ? j->row[t + i] / j->row_div : t + i;
        x[i] = j->x + r * j->x_stride;
    }
    for (int64_t k = 0; k < j->rank; k += 16) {
        const float *a = j->a + k * j->n_in;
        v16f acc[8];
        MK_UNROLL for (int i = 0; i < T; i++) {
            acc[i] = vf_zero();
        }
        for (int64_t c = 0; c < j->n_in; c++) {
            v16f w = vf_load(a + 16 * c);
            MK_UNROLL for (int i = 0; i < T; i++) {
                acc[i] = vf_fma(w, vf_set1(x[i][c]), acc[i]);
            }
        }
        MK_UNROLL for (int i = 0; i < T; i++) {
            vf_store(j->u + (t + i) * j->u_stride + k, vf_mul(acc[i], vf_set1(j->scale)));
        }
    }
}

MK_INLINE void rows_y(const mk_low_rank_job *j, int64_t t, const int T) {
    const float *u = j->u + t * j->u_stride;
    for (int64_t o = 0; o < j->n_out; o += 16) {
        const float *b = j->b + o * j->rank;
        v16f acc[8];
        MK_UNROLL for (int i = 0; i < T; i++) {
            acc[i] = vf_zero();
        }
        for (int64_t k = 0; k < j->rank; k++) {
            v16f w = vf_load(b + 16 * k);
            MK_UNROLL for (int i = 0; i < T; i++) {
                acc[i] = vf_fma(w, vf_set1(u[i * j->u_stride + k]), acc[i]);
            }
        }
        float *y = j->y + t * j->y_stride + o;
        int64_t left = j->n_out - o;
        MK_UNROLL for (int i = 0; i < T; i++, y += j->y_stride) {
            if (left >= 16) {
                vf_store(y, vf_add(vf_load(y), acc[i]));
            } else {
                vf_store_n(y, vf_add(vf_load_n(y, left), acc[i]), left);
            }
        }
    }
}

void MK_FN(low_rank)(const mk_low_rank_job *j, int64_t lo, int64_t hi) {
    int64_t t = lo;
    for (; t + 8 <= hi; t += 8) {
        rows_u(j, t, 8);
        rows_y(j, t, 8);
    }
    if (t + 4 <= hi) {
        rows_u(j, t, 4);
        rows_y(j, t, 4);
        t += 4;
    }
    if (t + 2 <= hi) {
        rows_u(j, t, 2);
        rows_y(j, t, 2);
        t += 2;
    }
    if (t < hi) {
        rows_u(j, t, 1);
        rows_y(j, t, 1);
    }
}

void MK_FN(low_rank_add)(const mk_adapter *ad, const float *b, const float *a, int64_t col,
                         int64_t n, float *out) {
    const int64_t rank = ad->a.n_out, n_in = ad->a.n_in;
    const v16f scale = vf_set1(ad->scale);
    int64_t i = 0;
    for (; i + 4 <= n; i += 4) {  // four columns share a load of b and hide the FMAs' latency
        v16f acc[4] = {vf_zero(), vf_zero(), vf_zero(), vf_zero()};
        for (int64_t k = 0; k < rank; k++) {
            const float *ak = a + (k / 16 * n_in + col + i) * 16 + k % 16;
            v16f bk = vf_load(b + 16 * k);
            MK_UNROLL for (int c = 0; c < 4; c++) {
                acc[c] = vf_fma(bk, vf_set1(ak[16 * c]), acc[c]);
            }
        }
        MK_UNROLL for (int c = 0; c < 4; c++) {
            vf_store(out + 16 * (i + c), vf_fma(scale, acc[c], vf_load(out + 16 * (i + c))));
        }
    }
    for (; i < n; i++) {
        v16f acc = vf_zero();
        for (int64_t k = 0; k < rank; k++) {
            acc = vf_fma(vf_load(b + 16 * k), vf_set1(a[(k / 16 * n_in + col + i) * 16 + k % 16]),
                         acc);
        }
        vf_store(out + 16 * i, vf_fma(scale, acc, vf_load(out + 16 * i)));
    }
}
