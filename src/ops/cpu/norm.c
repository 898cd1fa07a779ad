// Row operators: RMS norm, SwiGLU, scaled addition.
//
//     rmsnorm: s = 16 lanes, lane i%16 ascending: s = fma(x, x, s); fixed tree; r = 1 / sqrt(s / n + eps);
//              y = (x * r) * w.  Source: Zhang & Sennrich 2019.
//     swiglu:  y = g / (1 + exp(-g)) * u, one division.  Source: Shazeer 2020.
//     axpy:    y = fma(a, x, y)
#include "ops/cpu/cpu.h"

float MK_FN(rms)(const float *x, int64_t n, float eps) {
    v16f s = vf_zero();
    for (int64_t i = 0; i < n; i += 16) {
        v16f v = n - i >= 16 ? vf_load(x + i) : vf_load_n(x + i, n - i);
        s = vf_fma(v, v, s);
    }
    float mean = vf_reduce_add(s) / (float)n;
    return 1.0f / sqrtf(mean + eps);
}

void MK_FN(rmsnorm)(float *y, const float *x, const float *w, int64_t n, float eps) {
    v16f r = vf_set1(MK_FN(rms)(x, n, eps));
    for (int64_t i = 0; i < n; i += 16) {
        if (n - i >= 16) {
            vf_store(y + i, vf_mul(vf_mul(vf_load(x + i), r), vf_load(w + i)));
        } else {
            v16f v = vf_mul(vf_mul(vf_load_n(x + i, n - i), r), vf_load_n(w + i, n - i));
            vf_store_n(y + i, v, n - i);
        }
    }
}

void MK_FN(swiglu)(float *y, const float *g, const float *u, int64_t n) {
    int64_t i = 0;
    for (; i + 16 <= n; i += 16) {
        vf_store(y + i, vf_swiglu(vf_load(g + i), vf_load(u + i)));
    }
    if (i < n) {
        vf_store_n(y + i, vf_swiglu(vf_load_n(g + i, n - i), vf_load_n(u + i, n - i)), n - i);
    }
}

void MK_FN(axpy)(float *y, float a, const float *x, int64_t n, bool first) {
    v16f k = vf_set1(a);
    for (int64_t i = 0; i < n; i += 16) {
        int64_t m = n - i;
        v16f old = first ? vf_zero() : m >= 16 ? vf_load(y + i) : vf_load_n(y + i, m);
        v16f v = vf_fma(k, m >= 16 ? vf_load(x + i) : vf_load_n(x + i, m), old);
        if (m >= 16) {
            vf_store(y + i, v);
        } else {
            vf_store_n(y + i, v, m);
        }
    }
}
