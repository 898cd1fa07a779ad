// Backward of the row operators: RMS norm and SwiGLU (forward in norm.c).
//
//     rmsnorm: r as in the forward; S = 16 lanes, lane i%16 ascending: s = fma(w dy, x, s); fixed tree;
//              k = r S / n r r;  dx += fma(-k, x, r (w dy))
//     weight:  gw = fma(dy, x r, gw), rows ascending
//     swiglu:  s = 1 / (1 + exp(-g)), a = dy s;  du = fma(a, g, du);  dg = fma(a u, fma(g, 1 - s, 1), dg)
//
// k is multiplied up in this order because r^3 alone leaves float32 for rows of tiny values.
#include "ops/cpu/cpu.h"

// The lanes of p that are left; beyond them zero.
MK_INLINE v16f load_left(const float *p, int64_t n) {
    return n >= 16 ? vf_load(p) : vf_load_n(p, n);
}

MK_INLINE void store_left(float *p, v16f v, int64_t n) {
    if (n >= 16) {
        vf_store(p, v);
    } else {
        vf_store_n(p, v, n);
    }
}

float MK_FN(back_rmsnorm)(float *dx, const float *dy, const float *x, const float *w, int64_t n,
                          float eps) {
    v16f square = vf_zero(), s = vf_zero();
    for (int64_t i = 0; i < n; i += 16) {
        v16f xv = load_left(x + i, n - i);
        v16f g = vf_mul(load_left(w + i, n - i), load_left(dy + i, n - i));
        square = vf_fma(xv, xv, square);
        s = vf_fma(g, xv, s);
    }
    float r = 1.0f / sqrtf(vf_reduce_add(square) / (float)n + eps);  // the bits of rms
    v16f rv = vf_set1(r), minus_k = vf_set1(-(r * vf_reduce_add(s) / (float)n * r * r));
    for (int64_t i = 0; i < n; i += 16) {
        v16f g = vf_mul(load_left(w + i, n - i), load_left(dy + i, n - i));
        v16f d = vf_fma(minus_k, load_left(x + i, n - i), vf_mul(rv, g));
        store_left(dx + i, vf_add(load_left(dx + i, n - i), d), n - i);
    }
    return r;
}

// n_row rows from t on into columns [lo, hi).
MK_INLINE void norm_w_rows(const mk_norm_grad_job *job, int64_t t, const int n_row, int64_t lo,
                           int64_t hi) {
    const float *dy = job->dy.p + t * job->dy.stride, *x = job->x.p + t * job->x.stride;
    for (int64_t i = lo; i < hi; i += 16) {
        v16f acc = load_left(job->gw + i, hi - i);
        MK_UNROLL for (int k = 0; k < n_row; k++) {
            v16f xr = vf_mul(load_left(x + k * job->x.stride + i, hi - i), vf_set1(job->r[t + k]));
            acc = vf_fma(load_left(dy + k * job->dy.stride + i, hi - i), xr, acc);
        }
        store_left(job->gw + i, acc, hi - i);
    }
}

// Along the rows, four at a time: memory is read as it lies, and the sums stay in the nearest
// cache.
void MK_FN(back_norm_w)(const mk_norm_grad_job *job, int64_t lo, int64_t hi) {
    const int64_t tile = 2048;
    for (int64_t at = lo; at < hi; at += tile) {
        int64_t end = hi - at < tile ? hi : at + tile, t = 0;
        for (; t + 4 <= job->x.n_row; t += 4) {
            norm_w_rows(job, t, 4, at, end);
        }
        for (; t < job->x.n_row; t++) {
            norm_w_rows(job, t, 1, at, end);
        }
    }
}

void MK_FN(back_swiglu)(float *dg, float *du, const float *dy, const float *g, const float *u,
                        int64_t n) {
    const v16f one = vf_set1(1.0f);
    for (int64_t i = 0; i < n; i += 16) {
        int64_t left = n - i;
        v16f gv = load_left(g + i, left);
        v16f s = vf_div(one, vf_add(one, vf_exp(vf_neg(gv))));
        v16f a = vf_mul(load_left(dy + i, left), s);
        if (du != NULL) {
            store_left(du + i, vf_fma(a, gv, load_left(du + i, left)), left);
        }
        if (dg != NULL) {
            v16f slope = vf_fma(gv, vf_sub(one, s), one);
            v16f au = vf_mul(a, load_left(u + i, left));
            store_left(dg + i, vf_fma(au, slope, load_left(dg + i, left)), left);
        }
    }
}
