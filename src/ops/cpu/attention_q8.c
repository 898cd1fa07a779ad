// Attention over an int8 cache: both products are integer dot products, so they run at the speed of
// the quantised linear layers.
//
// For one query, q quantised per 32 columns (d_g, q_g), block after block, keys j <= pos only:
//     s_j = sum over g ascending of fma((float)isum_gj, kscale_gj * (d_g * scale * log2 e), s_j)
//     m'  = max(m, max_j s_j);  corr = 2^(m - m');  p_j = 2^(s_j - m')
//     l   = l * corr, then + p of keys 0..15, 16..31, 32..47, 48..63     16 lanes
//     a_c = a_c * corr, then for each half of 32 keys, ascending, with p'_j = p_j * vscale_j
//           quantised to d, q_j as activations are:  a_c = fma((float)(sum q_j v_jc), d, a_c)
// At the end y_c = a_c * (1 / tree(l)).  Lanes are 16 keys in the scores and 16 columns in the sum
// over values.  A half whose p' are all zero is left out: its d is -0, and fma(+0, -0, a) is a for
// every a, so it does not matter whether a query meets it beside others that see its keys.  The
// layout of a block is in kv_q8.h.
#include "ops/cpu/attention.h"

// 32 columns of 16 queries: four columns of each query side by side.
typedef struct {
    int8_t q[8][WALK][4];
    float d[WALK];  // times scale * log2(e)
    int32_t minus_128_sum[WALK];
} query_group;

// Scratch of a job.
typedef struct {
    const mk_attn_job *job;
    mk_q8_shape shape;
    job_queries queries;
    int64_t n_pad;         // queries rounded up to 16
    query_group *q;        // [n_pad/16][n_group]
    float *acc;            // [n_pad/16][v_cols/16][16 queries][16 columns]
    float *sum;            // [n_pad][16]
    float *max;            // [n_pad]
    float *s;              // [16][64] scores, then probabilities
    float *weighed;        // [16][64] probabilities times a scale of the values
    int8_t *p;             // [n_v_scale][16][64] those as codes
    float *d;              // [n_v_scale][16][2] their scales
    uint8_t *values;       // latent: codes of the block's values
    const float *v_scale;  // of the block: [4][v_stride]
    int64_t v_stride;
    // Bytes to the same place in the next block, 0 in the last: the first walk over a block asks
    // for it line by line.  Blocks lie far apart, so the hardware's own prefetching stops at every
    // one.
    ptrdiff_t ahead_k, ahead_v;
    float corr[WALK];
} q8_state;

static size_t layout(q8_state *s, const mk_attn *a, uint8_t *p) {
    const mk_q8_shape *h = &s->shape;
    uint8_t *base = p;
    size_t n = MK_ATTN_QUERIES, f = sizeof(float), n_scale = (size_t)h->n_v_scale;
    s->q = take(&p, n / WALK * (size_t)h->n_group * sizeof(query_group));
    s->acc = take(&p, n * (size_t)h->v_cols * f);
    s->sum = take(&p, n * 16 * f);
    s->max = take(&p, n * f);
    s->s = take(&p, WALK * MK_KV_BLOCK * f);
    s->weighed = take(&p, WALK * MK_KV_BLOCK * f);
    s->p = take(&p, n_scale * WALK * MK_KV_BLOCK);
    s->d = take(&p, n_scale * WALK * 2 * f);
    s->values = take(&p, a->latent ? (size_t)h->v_cols * MK_KV_BLOCK : 0);
    return (size_t)(p - base);
}

size_t MK_FN(attention_q8_scratch)(const mk_attn *a) {
    // only differences of addresses count here
    static uint8_t origin[64];
    q8_state s = {.shape = mk_q8_shape_of(a)};
    return layout(&s, a, origin);
}

// --- queries -------------------------------------------------------------------------------------
static void put_query(query_group *g, int slot, const float *x, int64_t n, float scale) {
    int8_t q[32];
    int32_t sum;
    float d = quantise_group(x, n, group_amax(x, n), q, &sum);
    for (int i = 0; i < 8; i++) {
        memcpy(g->q[i][slot], q + 4 * i, 4);
    }
    g->d[slot] = d * scale;
    g->minus_128_sum[slot] = -128 * sum;
}

static void state_init(q8_state *s, const mk_attn_job *job) {
    const mk_attn *a = job->a;
    *s = (q8_state){.job = job, .shape = mk_q8_shape_of(a)};
    queries_of(&s->queries, job);
    const mk_q8_shape *h = &s->shape;
    layout(s, a, job->scratch);
    s->n_pad = (s->queries.n + WALK - 1) / WALK * WALK;
    s->v_stride = 16 * (a->latent ? h->n_k_scale : h->n_v_scale);
    memset(s->q, 0, (size_t)(s->n_pad / WALK * h->n_group) * sizeof *s->q);
    memset(s->acc, 0, (size_t)(s->n_pad * h->v_cols) * sizeof *s->acc);
    memset(s->sum, 0, (size_t)s->n_pad * 16 * sizeof *s->sum);
    const float scale = a->scale * 0x1.715476p+0f;  // log2(e): probabilities are powers of two
    for (int64_t i = 0; i < s->n_pad; i++) {
        s->max[i] = i < s->queries.n ? -INFINITY : 0.0f;
    }
    for (int64_t i = 0; i < s->queries.n; i++) {
        const float *x = next_query(&s->queries, i);
        query_group *q = s->q + i / WALK * h->n_group;
        for (int64_t g = 0; g < h->n_group; g++) {
            int64_t n, first = mk_q8_group_at(a, h, g, &n);
            put_query(&q[g], (int)(i % WALK), x + first, n, scale);
        }
    }
}

// --- scores --------------------------------------------------------------------------------------
// Q queries (slots from `slot`) against G groups of 16 keys.
MK_INLINE void score_tile(const int Q, const int G, const bool ask, const q8_state *s,
                          const query_group *q, int64_t slot, const uint8_t *k, int64_t kg) {
    const mk_q8_shape *h = &s->shape;
    const int64_t n_group = h->n_group, n_scale = h->n_k_scale;
    const float *scales = (const float *)(k + h->k_scales) + kg * n_scale * 16;
    const uint8_t *w = k + kg * n_group * 512;
    v16f acc[8];
    MK_UNROLL for (int i = 0; i < Q * G; i++) {
        acc[i] = vf_zero();
    }
    for (int64_t g = 0; g < n_group; g++, q++, w += 512) {
        const int8_t *x = q->q[0][slot];
        const int32_t *start = q->minus_128_sum + slot;
        const float *d = q->d + slot;
        v16i sum[8];
        MK_UNROLL for (int i = 0; i < Q * G; i++) {
            sum[i] = dot_init(WT_I8, -1, start[i % Q]);
        }
        MK_UNROLL for (int t = 0; t < 8; t++) {
            MK_UNROLL for (int j = 0; j < G; j++) {
                const uint8_t *line = w + (j * n_group * 8 + t) * 64;
                v16w key = wt_load_i8(line);
                if (ask) {
                    __builtin_prefetch(line + s->ahead_k);
                }
                MK_UNROLL for (int i = 0; i < Q; i++) {
                    sum[j * Q + i] = dot_step(WT_I8, sum[j * Q + i], key, x + t * WALK * 4 + 4 * i);
                }
            }
        }
        const float *sc = scales + 16 * mk_q8_scale_of(h, g);
        MK_UNROLL for (int j = 0; j < G; j++) {
            v16f ks = vf_load(sc + j * n_scale * 16);
            MK_UNROLL for (int i = 0; i < Q; i++) {
                v16f scale = vf_mul(ks, vf_set1(d[i]));
                acc[j * Q + i] = vf_fma(vf_from_int(sum[j * Q + i]), scale, acc[j * Q + i]);
            }
        }
    }
    float *y = s->s + slot * MK_KV_BLOCK + 16 * kg;
    MK_UNROLL for (int i = 0; i < Q * G; i++) {
        vf_store(y + i % Q * MK_KV_BLOCK + 16 * (i / Q), acc[i]);
    }
}

MK_INLINE void score_groups(const int Q, const int G, const bool ask, const q8_state *s,
                            const query_group *q, int64_t slot, const uint8_t *k, int64_t n_kg) {
    for (int64_t kg = 0; kg < n_kg; kg += G) {
        score_tile(Q, G, ask, s, q, slot, k, kg);
    }
}

// How many of the left queries a tile takes: what registers hold, and no more padding than needed.
MK_INLINE int tile_queries(int64_t left) {
    return MK_ATTN_Q == 8 && left >= 5   ? 8
           : MK_ATTN_Q == 8 && left >= 3 ? 4
           : MK_ATTN_Q >= 2 && left >= 2 ? 2
                                         : 1;
}
#define TILE_1 (MK_ATTN_Q == 8 ? 4 : 1)  // groups or vectors that hide the latency of one query
#define TILE_2 (MK_ATTN_Q == 8 ? 4 : 1)  // of two

MK_INLINE void score_some(const int Q, const int G, const bool ask, const q8_state *s,
                          const query_group *q, int64_t slot, const uint8_t *k, int64_t n_kg) {
    if (ask) {
        score_groups(Q, G, true, s, q, slot, k, n_kg);
    } else {
        score_groups(Q, G, false, s, q, slot, k, n_kg);
    }
}

static void scores(const q8_state *s, const query_group *q, int64_t n, const uint8_t *k,
                   int64_t n_kg, bool first) {
    for (int64_t i = 0; i < n;) {
        int Q = tile_queries(n - i);
        bool ask = first && i == 0;
        if (Q == 8) {
            score_some(8, 1, ask, s, q, i, k, n_kg);
        } else if (Q == 4) {
            score_some(4, 2, ask, s, q, i, k, n_kg);
        } else if (Q == 2) {
            score_some(2, TILE_2, ask, s, q, i, k, n_kg);
        } else {
            score_some(1, TILE_1, ask, s, q, i, k, n_kg);
        }
        i += Q;
    }
}

// --- softmax -------------------------------------------------------------------------------------
// The n queries of a walk go through every step together: their maxima come out of one tree, and
// what one waits for another can use.  `full`: all of them see all keys of the block.

// The largest score of each query so far, and by how much that shrinks what was summed before.
MK_INLINE void new_maxima(const bool full, q8_state *s, int64_t i, int64_t n, const int64_t *seen) {
    v16f before = vf_load(s->max + i), now = vf_max(largest_scores(full, s->s, n, seen), before);
    vf_store(s->corr, vf_exp2(vf_sub(before, now)));
    vf_store(s->max + i, now);
}

// p' of one query, x = probabilities times one scale of the values, and the largest of each half.
MK_INLINE void put_weighed(q8_state *s, int64_t slot, const v16f x[KEY_GROUPS], v16f top[2]) {
    MK_UNROLL for (int g = 0; g < KEY_GROUPS; g++) {
        vf_store(s->weighed + slot * MK_KV_BLOCK + 16 * g, x[g]);
    }
    top[0] = vf_max(x[0], vf_max(x[1], vf_zero()));  // NaN does not count
    top[1] = vf_max(x[2], vf_max(x[3], vf_zero()));
}

// Probabilities of one query, of which n keys are visible, and p' for the first scale of the
// values.
MK_INLINE void probabilities(const bool full, q8_state *s, int64_t i, int64_t slot, int64_t n,
                             v16f top[2]) {
    float *x = s->s + slot * MK_KV_BLOCK;
    const v16f m = vf_set1(s->max[i]), zero = vf_zero();
    v16f sum = vf_mul(vf_load(s->sum + 16 * i), vf_set1(s->corr[slot])), w[KEY_GROUPS];
    MK_UNROLL for (int g = 0; g < KEY_GROUPS; g++) {
        v16f p = w[g] = zero;
        if (full || 16 * g < n) {
            p = vf_exp2(vf_sub(vf_load(x + 16 * g), m));
            p = seen_or(full, n, g, p, zero);
            w[g] = vf_mul(p, vf_load(s->v_scale + g * s->v_stride));
            w[g] = seen_or(full, n, g, w[g], zero);  // the scale of a stale value may be NaN
        }
        sum = vf_add(sum, p);
        vf_store(x + 16 * g, p);
    }
    vf_store(s->sum + 16 * i, sum);
    put_weighed(s, slot, w, top);
}

// p' for one more scale of the values.
MK_INLINE void weigh(const bool full, q8_state *s, int64_t slot, int64_t n, const float *scale,
                     v16f top[2]) {
    v16f x[KEY_GROUPS];
    MK_UNROLL for (int g = 0; g < KEY_GROUPS; g++) {
        v16f p = vf_load(s->s + slot * MK_KV_BLOCK + 16 * g);
        x[g] = seen_or(full, n, g, vf_mul(p, vf_load(scale + g * s->v_stride)), vf_zero());
    }
    put_weighed(s, slot, x, top);
}

// Codes of one query's p'; none is negative, NaN counts as 0.
MK_INLINE void quantise_row(const q8_state *s, int64_t slot, const float *inv, int8_t *codes) {
    v16i x[KEY_GROUPS];
    MK_UNROLL for (int g = 0; g < KEY_GROUPS; g++) {
        v16f v = vf_load(s->weighed + slot * MK_KV_BLOCK + 16 * g);
        x[g] = vi_round(vf_max(vf_mul(v, vf_set1(inv[2 * slot + g / 2])), vf_zero()));
    }
    store_codes(codes + slot * MK_KV_BLOCK, x[0], x[1], x[2], x[3]);
}

// p' of n queries as codes and scales, for one scale of the values; top: the largest p' of the
// halves of each query, eight queries at a time.  A query that sees nothing here gets zeros.
MK_INLINE void quantise_rows(const q8_state *s, int64_t v, int64_t n, v16f top[2 * WALK]) {
    float inv[2 * WALK], *d = s->d + v * 2 * WALK;
    const v16f tiny = vf_set1(0x1p-100f), full = vf_set1(127.0f);
    for (int64_t k = 2 * n; k < (n + 7) / 8 * 16; k++) {
        top[k] = vf_zero();
    }
    for (int64_t k = 0; k < n; k += 8) {
        const v16f most = reduce_max16(top + 2 * k);
        vf_store(inv + 2 * k, vf_select_gt(tiny, most, vf_zero(), vf_div(full, most)));
        vf_store(d + 2 * k, vf_select_gt(tiny, most, vf_set1(-0.0f), vf_div(most, full)));
    }
    for (int64_t k = 0; k < n; k++) {
        quantise_row(s, k, inv, s->p + v * WALK * MK_KV_BLOCK);
    }
}

MK_INLINE void softmax(const bool full, q8_state *s, int64_t i, int64_t n, const int64_t *seen) {
    v16f top[2 * WALK];
    new_maxima(full, s, i, n, seen);
    for (int64_t k = 0; k < n; k++) {
        probabilities(full, s, i + k, k, seen[k], top + 2 * k);
    }
    quantise_rows(s, 0, n, top);
    for (int64_t v = 1; v < s->shape.n_v_scale; v++) {
        for (int64_t k = 0; k < n; k++) {
            weigh(full, s, k, seen[k], s->v_scale + 16 * v, top + 2 * k);
        }
        quantise_rows(s, v, n, top);
    }
}

static void softmax_full(q8_state *s, int64_t i, int64_t n, const int64_t *seen) {
    softmax(true, s, i, n, seen);
}

static void softmax_part(q8_state *s, int64_t i, int64_t n, const int64_t *seen) {
    softmax(false, s, i, n, seen);
}

// --- values --------------------------------------------------------------------------------------
// Columns [16 c, 16 (c + C)) for Q queries from slot i on; the first n_half halves of the keys.
MK_INLINE void value_tile(const int Q, const int C, const bool ask, const q8_state *s, float *acc,
                          int64_t i, const uint8_t *codes, int64_t c, int64_t n_half) {
    const int64_t v = c / (MK_Q8_VALUES / 16);
    const int8_t *p = s->p + (v * WALK + i) * MK_KV_BLOCK;
    const float *d = s->d + (v * WALK + i) * 2;
    codes += c * 1024;
    acc += c * WALK * 16 + i * 16;
    v16f a[8];
    MK_UNROLL for (int k = 0; k < Q * C; k++) {
        a[k] = vf_mul(vf_load(acc + k / Q * WALK * 16 + k % Q * 16), vf_set1(s->corr[i + k % Q]));
    }
    for (int64_t half = 0; half < n_half; half++) {
        v16i sum[8];
        MK_UNROLL for (int k = 0; k < Q * C; k++) {
            sum[k] = vi_zero();
        }
        MK_UNROLL for (int t = 0; t < 8; t++) {
            MK_UNROLL for (int j = 0; j < C; j++) {
                const uint8_t *line = codes + j * 1024 + half * 512 + t * 64;
                v16v x = load_values(line);
                if (ask) {
                    __builtin_prefetch(line + s->ahead_v);
                }
                MK_UNROLL for (int k = 0; k < Q; k++) {
                    const int8_t *p4 = p + k * MK_KV_BLOCK + half * 32 + t * 4;
                    sum[j * Q + k] = dot_values(sum[j * Q + k], x, p4);
                }
            }
        }
        MK_UNROLL for (int k = 0; k < Q * C; k++) {
            a[k] = vf_fma(vf_from_int(sum[k]), vf_set1(d[2 * (k % Q) + half]), a[k]);
        }
    }
    MK_UNROLL for (int k = 0; k < Q * C; k++) {
        vf_store(acc + k / Q * WALK * 16 + k % Q * 16, a[k]);
    }
}

// C vectors at once where there are as many (they share a scale), else one.
MK_INLINE void value_columns(const int Q, const int C, const bool ask, const q8_state *s,
                             float *acc, int64_t i, const uint8_t *codes, int64_t n_half) {
    int64_t n = s->shape.v_cols / 16, c = 0;
    for (; c + C <= n; c += C) {
        value_tile(Q, C, ask, s, acc, i, codes, c, n_half);
    }
    for (; c < n; c++) {
        value_tile(Q, 1, ask, s, acc, i, codes, c, n_half);
    }
}

MK_INLINE void value_some(const int Q, const int C, const bool ask, const q8_state *s, float *acc,
                          int64_t i, const uint8_t *codes, int64_t n_half) {
    if (ask) {
        value_columns(Q, C, true, s, acc, i, codes, n_half);
    } else {
        value_columns(Q, C, false, s, acc, i, codes, n_half);
    }
}

static void values(const q8_state *s, float *acc, int64_t n, const uint8_t *codes, int64_t n_half,
                   bool first) {
    for (int64_t i = 0; i < n;) {
        int Q = tile_queries(n - i);
        bool ask = first && i == 0;
        if (Q == 8) {
            value_some(8, 1, ask, s, acc, i, codes, n_half);
        } else if (Q == 4) {
            value_some(4, 2, ask, s, acc, i, codes, n_half);
        } else if (Q == 2) {
            value_some(2, TILE_2, ask, s, acc, i, codes, n_half);
        } else {
            value_some(1, TILE_1, ask, s, acc, i, codes, n_half);
        }
        i += Q;
    }
}

// --- blocks --------------------------------------------------------------------------------------
// Latent block: the keys' codes [4][k_cols/4][16 keys][4] of the first v_cols columns in the order
// of values, [v_cols/16][16][16 columns][4 keys].
static void transpose_values(const q8_state *s, const uint8_t *k) {
    const mk_q8_shape *h = &s->shape;
    for (int64_t c = 0; c < h->v_cols / 4; c++) {
        uint8_t *dst = s->values + c / 4 * 1024 + c % 4 * 16;
        for (int64_t kg = 0; kg < KEY_GROUPS; kg++) {
            const uint8_t *src = k + (kg * h->n_group * 8 + c) * 64;
            for (int64_t i = 0; i < 4; i++) {
                flip_quads(dst + (kg * 4 + i) * 64, src + 16 * i);
            }
        }
    }
}

// Up to 16 queries from i on against block blk.
static void walk(q8_state *s, int64_t i, int64_t blk, const uint8_t *k, const uint8_t *codes) {
    const mk_q8_shape *h = &s->shape;
    int64_t n = s->queries.n - i < WALK ? s->queries.n - i : WALK, seen[WALK] = {0};
    // rows ascend: the first query sees least, the last most
    int64_t least = n_visible(&s->queries, i, blk), most = n_visible(&s->queries, i + n - 1, blk);
    if (most == 0) {
        return;
    }
    scores(s, s->q + i / WALK * h->n_group, n, k, (most + 15) / 16, i == 0 && s->ahead_k != 0);
    if (least == MK_KV_BLOCK) {
        softmax_full(s, i, n, seen);
    } else {
        for (int64_t j = 0; j < n; j++) {
            seen[j] = n_visible(&s->queries, i + j, blk);
        }
        softmax_part(s, i, n, seen);
    }
    values(s, s->acc + i * h->v_cols, n, codes, most > 32 ? 2 : 1, i == 0 && s->ahead_v != 0);
}

static void finish(const q8_state *s) {
    int64_t d_v = s->job->a->d_v, n_col = s->shape.v_cols / 16;
    for (int64_t i = 0; i < s->queries.n; i++) {
        v16f inv = vf_set1(1.0f / vf_reduce_add(vf_load(s->sum + 16 * i)));
        const float *acc = s->acc + i / WALK * WALK * s->shape.v_cols + i % WALK * 16;
        float *y = next_output(&s->queries, i);
        for (int64_t c = 0; c < n_col; c++) {
            v16f v = vf_mul(vf_load(acc + c * WALK * 16), inv);
            vf_store_n(y + 16 * c, v, d_v - 16 * c);
        }
    }
}

void MK_FN(attention_q8)(const mk_attn_job *job) {
    q8_state s;
    state_init(&s, job);
    const mk_q8_shape *h = &s.shape;
    int64_t n_block = job->rows->pos[job->row_hi - 1] / MK_KV_BLOCK + 1;  // rows ascend
    const int32_t *table = job->rows->table[job->row_lo];
    const uint8_t *base = job->kv.base + (size_t)job->kv_head * h->head_bytes;
    for (int64_t blk = 0; blk < n_block; blk++) {
        const uint8_t *k = base + (size_t)table[blk] * job->kv.block_stride;
        const uint8_t *codes = k + h->v_codes;
        s.v_scale = (const float *)(k + h->v_scales);
        s.ahead_k = s.ahead_v = 0;
        if (blk + 1 < n_block) {
            const uint8_t *next = base + (size_t)table[blk + 1] * job->kv.block_stride;
            s.ahead_k = next - k;
            s.ahead_v = job->a->latent ? 0 : s.ahead_k;
            prefetch_bytes(next + h->k_scales, h->v_codes - h->k_scales);
            prefetch_bytes(next + h->v_scales, h->head_bytes - h->v_scales);
        }
        if (job->a->latent) {
            transpose_values(&s, k);
            codes = s.values;
            s.v_scale = (const float *)(k + h->k_scales);
        }
        for (int64_t i = 0; i < s.n_pad; i += WALK) {
            walk(&s, i, blk, k, codes);
        }
    }
    finish(&s);
}
