// Which experts a token goes to, and with what weights.
//
//     softmax: s = exp(l - max l) / sum, 16 lanes (lane i%16 ascending), fixed tree
//     sigmoid: s = 1 / (1 + exp(-l))
//
// The choice is by c = s + bias: groups first (by their maximum, or the sum of their two best c),
// then experts; higher first, ties to the lower id, NaN counts as -inf.  The weights are s of the
// chosen, divided by (their sum + 1e-20) if asked for, times scale.
// Source: DeepSeek-V3 report, eq. 12-16.
#include "ops/cpu/cpu.h"

static void scores_softmax(const float *l, int64_t n, float *s) {
    const v16f low = vf_set1(-INFINITY);
    v16f top = low, sum = vf_zero();
    for (int64_t i = 0; i < n; i += 16) {
        v16f v = vf_select_below(n - i, vf_load_n(l + i, n - i), low);
        top = vf_max(v, top);
    }
    v16f max = vf_set1(vf_reduce_max(top));
    for (int64_t i = 0; i < n; i += 16) {
        v16f v = vf_select_below(n - i, vf_load_n(l + i, n - i), low);
        v = vf_exp(vf_sub(v, max));
        sum = vf_add(sum, vf_select_below(n - i, v, vf_zero()));
        vf_store(s + i, v);
    }
    v16f total = vf_set1(vf_reduce_add(sum));
    for (int64_t i = 0; i < n; i += 16) {
        vf_store(s + i, vf_div(vf_load(s + i), total));
    }
}

static void scores_sigmoid(const float *l, int64_t n, float *s) {
    const v16f one = vf_set1(1.0f);
    for (int64_t i = 0; i < n; i += 16) {
        v16f v = vf_load_n(l + i, n - i);
        vf_store(s + i, vf_div(one, vf_add(one, vf_exp(vf_neg(v)))));
    }
}

// The best of c[0, n) that is greater than -inf, -1 if there is none.
static int64_t best_of(const float *c, int64_t n) {
    int64_t best = -1;
    float top = -INFINITY;
    for (int64_t i = 0; i < n; i++) {
        if (c[i] > top) {
            top = c[i];
            best = i;
        }
    }
    return best;
}

static float group_score(const float *c, int64_t n, mk_group_score how) {
    float a = -INFINITY, b = -INFINITY;
    for (int64_t i = 0; i < n; i++) {
        if (c[i] > a) {
            b = a;
            a = c[i];
        } else if (c[i] > b) {
            b = c[i];
        }
    }
    return how == MK_GROUP_TOP2 ? a + b : a;
}

// Sets c to -inf outside the n_group_used best groups; c has room for n_group values behind the
// experts.
static void mask_groups(const mk_route *r, float *c) {
    int64_t size = r->n_expert / r->n_group;
    float *score = c + r->n_expert;
    for (int64_t g = 0; g < r->n_group; g++) {
        score[g] = group_score(c + g * size, size, r->group);
    }
    for (int64_t g = 0; g < r->n_group; g++) {
        int64_t better = 0;
        for (int64_t o = 0; o < r->n_group; o++) {
            better += score[o] > score[g] || (score[o] == score[g] && o < g);
        }
        for (int64_t i = 0; better >= r->n_group_used && i < size; i++) {
            c[g * size + i] = -INFINITY;
        }
    }
}

// Chooses n_used experts into sel, ascending.  c is used up: NaN marks the chosen (c holds none
// before).
static void choose(const mk_route *r, float *c, int32_t *sel) {
    for (int64_t k = 0; k < r->n_used; k++) {
        int64_t best = best_of(c, r->n_expert);
        for (int64_t i = 0; best < 0; i++) {  // nothing but -inf left: the lowest id not chosen yet
            best = c[i] == c[i] ? i : best;
        }
        c[best] = NAN;
    }
    int64_t n = 0;
    for (int64_t i = 0; i < r->n_expert; i++) {
        if (c[i] != c[i]) {
            sel[n++] = (int32_t)i;
        }
    }
}

void MK_FN(route)(const mk_route *r, const float *logits, float *scratch, int32_t *sel, float *w) {
    int64_t padded = (r->n_expert + 15) / 16 * 16;
    float *s = scratch, *c = scratch + padded;
    if (r->score == MK_SCORE_SIGMOID) {
        scores_sigmoid(logits, r->n_expert, s);
    } else {
        scores_softmax(logits, r->n_expert, s);
    }
    for (int64_t i = 0; i < r->n_expert; i++) {
        float v = r->bias != NULL ? s[i] + r->bias[i] : s[i];
        c[i] = v < INFINITY ? v : -INFINITY;  // also NaN
    }
    if (r->group != MK_GROUP_NONE && r->n_group_used < r->n_group) {
        mask_groups(r, c);
    }
    choose(r, c, sel);
    float sum = 0.0f;
    for (int64_t i = 0; i < r->n_used; i++) {
        sum += s[sel[i]];
    }
    for (int64_t i = 0; i < r->n_used; i++) {
        float v = r->normalise ? s[sel[i]] / (sum + 1e-20f) : s[sel[i]];
        w[i] = v * r->scale;
    }
}

// Gradient of the scores of the chosen: a_k = scale (dw_k - t / D) / D, t = sum of dw s, when the
// weights are divided by D; scale dw_k otherwise.  Sums as chains of FMAs in ascending expert.
static void back_weights(const mk_route *r, const float *s, const float *dw, const int32_t *sel,
                         float *a) {
    float sum = 0.0f, t = 0.0f;
    for (int64_t k = 0; k < r->n_used; k++) {
        sum += s[sel[k]];
        t = fmaf(dw[k], s[sel[k]], t);
    }
    float d = sum + 1e-20f;
    for (int64_t k = 0; k < r->n_used; k++) {
        a[sel[k]] = r->normalise ? (dw[k] - t / d) / d * r->scale : dw[k] * r->scale;
    }
}

// softmax: dl_i = fma(a_i - sum of a s, s_i, dl_i) for all, a = 0 where not chosen
// sigmoid: dl_i = fma(a_i, s_i (1 - s_i), dl_i) for the chosen
void MK_FN(back_route)(const mk_route *r, float *dlogits, const float *dw, const float *logits,
                       const int32_t *sel, float *scratch) {
    int64_t n = r->n_expert, padded = (n + 15) / 16 * 16;
    float *s = scratch, *a = scratch + padded;
    if (r->score == MK_SCORE_SIGMOID) {
        scores_sigmoid(logits, n, s);
        back_weights(r, s, dw, sel, a);
        for (int64_t k = 0; k < r->n_used; k++) {
            int32_t e = sel[k];
            dlogits[e] = fmaf(a[e], s[e] * (1.0f - s[e]), dlogits[e]);
        }
        return;
    }
    scores_softmax(logits, n, s);
    memset(a, 0, (size_t)n * sizeof *a);
    back_weights(r, s, dw, sel, a);
    float dot = 0.0f;
    for (int64_t k = 0; k < r->n_used; k++) {
        dot = fmaf(a[sel[k]], s[sel[k]], dot);
    }
    for (int64_t i = 0; i < n; i++) {
        dlogits[i] = fmaf(a[i] - dot, s[i], dlogits[i]);
    }
}
