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
    float r = MK_FN(rms)(x, n, eps);
    v16f s = vf_zero();
    for (int64_t i = 0; i < n; i += 16) {
        v16f g = vf_mul(load_left(w + i, n - i), load_left(dy + i, n - i));
        s = vf_fma(g, load_left(x + i, n - i), s);
    }
    v16f rv = vf_set1(r), minus_k = vf_set1(-(r * vf_reduce_add(s) / (float)n * r * r));
    for (int64_t i = 0; i < n; i += 16) {
        v16f g = vf_mul(load_left(w + i, n - i), load_left(dy + i, n - i));
        v16f d = vf_fma(minus_k, load_left(x + i, n - i), vf_mul(rv, g));
        store_left(dx + i, vf_add(load_left(dx + i, n - i), d), n - i);
    }
    return r;
}

// n_vec vectors of columns at once, so that a row is touched in whole cache lines and the sums stay
// in registers.
MK_INLINE void norm_w_columns(const mk_norm_grad_job *job, int64_t at, int64_t n, const int n_vec) {
    v16f acc[4];
    MK_UNROLL for (int v = 0; v < n_vec; v++) {
        acc[v] = load_left(job->gw + at + 16 * v, n - 16 * v);
    }
    for (int64_t t = 0; t < job->x.n_row; t++) {
        const float *dy = job->dy.p + t * job->dy.stride + at;
        const float *x = job->x.p + t * job->x.stride + at;
        v16f r = vf_set1(job->r[t]);
        MK_UNROLL for (int v = 0; v < n_vec; v++) {
            v16f xr = vf_mul(load_left(x + 16 * v, n - 16 * v), r);
            acc[v] = vf_fma(load_left(dy + 16 * v, n - 16 * v), xr, acc[v]);
        }
    }
    MK_UNROLL for (int v = 0; v < n_vec; v++) {
        store_left(job->gw + at + 16 * v, acc[v], n - 16 * v);
    }
}

void MK_FN(back_norm_w)(const mk_norm_grad_job *job, int64_t lo, int64_t hi) {
    int64_t i = lo;
    for (; i + 64 <= hi; i += 64) {
        norm_w_columns(job, i, 64, 4);
    }
    for (; i < hi; i += 16) {
        norm_w_columns(job, i, hi - i < 16 ? hi - i : 16, 1);
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
