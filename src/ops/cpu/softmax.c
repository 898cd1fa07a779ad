// Softmax of long rows (logits), for log-probabilities, entropy and their gradient.
//
//     v = z * inv_t;  max over all v;  d = v - max;  e = exp(d)
//     sum: 16 lanes, lane i%16 ascending, s = s + e;  dot: s = fma(e, d, s) where e > 0;  fixed tree
//     p = e * (1 / sum)
//
// A NaN among the logits is not seen by max, but its e makes the sum NaN; so does +inf, and a row
// of nothing but -inf.  The row is read twice: max first costs one pass over memory that the second
// finds in the cache (150,000 logits are 600 kB), and an online softmax would cost a second exp.
#include "ops/cpu/cpu.h"

// inv_t > 0 and rounding is monotone, so this is also the maximum of the products.
float MK_FN(row_max)(const float *z, int64_t n) {
    v16f top[4];
    for (int i = 0; i < 4; i++) {
        top[i] = vf_set1(-INFINITY);
    }
    int64_t i = 0;
    for (; i + 64 <= n; i += 64) {
        MK_UNROLL for (int v = 0; v < 4; v++) {
            top[v] = vf_max(vf_load(z + i + 16 * v), top[v]);
        }
    }
    for (; i < n; i += 16) {
        v16f x =
            n - i >= 16 ? vf_load(z + i) : vf_select_below(n - i, vf_load_n(z + i, n - i), top[0]);
        top[0] = vf_max(x, top[0]);
    }
    return vf_reduce_max(vf_max(vf_max(top[0], top[1]), vf_max(top[2], top[3])));
}

MK_INLINE void row_sums(mk_softmax *s, const float *z, int64_t n, const bool with_dot) {
    s->max = MK_FN(row_max)(z, n) * s->inv_t;
    const v16f inv_t = vf_set1(s->inv_t), max = vf_set1(s->max), zero = vf_zero();
    v16f sum = zero, dot = zero;
    for (int64_t i = 0; i < n; i += 16) {
        v16f d = vf_sub(vf_mul(n - i >= 16 ? vf_load(z + i) : vf_load_n(z + i, n - i), inv_t), max);
        v16f e = vf_exp(d);
        if (n - i < 16) {
            e = vf_select_below(n - i, e, zero);
        }
        sum = vf_add(sum, e);
        if (with_dot) {  // 0 log 0 = 0
            dot = vf_select_gt(e, zero, vf_fma(e, d, dot), dot);
        }
    }
    s->sum = vf_reduce_add(sum);
    s->dot = vf_reduce_add(dot);
}

void MK_FN(softmax)(mk_softmax *s, const float *z, int64_t n) {
    row_sums(s, z, n, false);
}

void MK_FN(softmax_dot)(mk_softmax *s, const float *z, int64_t n) {
    row_sums(s, z, n, true);
}

void MK_FN(row_exp)(float *e, const float *z, int64_t n, float max, float t) {
    const v16f mv = vf_set1(max), tv = vf_set1(t);
    for (int64_t i = 0; i < n; i += 16) {
        int64_t left = n - i;
        v16f v = left >= 16 ? vf_load(z + i) : vf_load_n(z + i, left);
        v16f x = vf_exp(vf_div(vf_sub(v, mv), tv));
        if (left >= 16) {
            vf_store(e + i, x);
        } else {
            vf_store_n(e + i, x, left);
        }
    }
}

void MK_FN(softmax_axpy)(float *y, float a, const mk_softmax *s, const float *z, int64_t n) {
    const v16f inv_t = vf_set1(s->inv_t), max = vf_set1(s->max), inv = vf_set1(1.0f / s->sum);
    const v16f av = vf_set1(a);
    for (int64_t i = 0; i < n; i += 16) {
        int64_t left = n - i;
        v16f v = left >= 16 ? vf_load(z + i) : vf_load_n(z + i, left);
        v16f p = vf_mul(vf_exp(vf_sub(vf_mul(v, inv_t), max)), inv);
        if (left >= 16) {
            vf_store(y + i, vf_fma(av, p, vf_load(y + i)));
        } else {
            vf_store_n(y + i, vf_fma(av, p, vf_load_n(y + i, left)), left);
        }
    }
}
