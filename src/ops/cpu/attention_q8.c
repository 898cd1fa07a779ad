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
#include "ops/cpu/simd_attn.h"

// 32 columns of 8 queries: four columns of each query side by side.
typedef struct {
    int8_t q[8][SUB][4];
    float d[SUB];  // times scale * log2(e)
    int32_t minus_128_sum[SUB];
} query_group;

// Scratch of a job.
typedef struct {
    const mk_attn_job *job;
    mk_q8_shape shape;
    job_queries queries;
    int64_t n_pad;         // queries rounded up to 8
    query_group *q;        // [n_pad/8][n_group]
    float *acc;            // [n_pad/8][v_cols/16][8][16]
    float *sum;            // [n_pad][16]
    float *max;            // [n_pad + 8]
    float *s;              // [8][64] scores, then probabilities
    int8_t *p;             // [n_v_scale][8][64] quantised probabilities
    float *d;              // [n_v_scale][16] their scales: [8][2]
    uint8_t *values;       // latent: codes of the block's values
    const float *v_scale;  // of the block: [4][v_stride]
    int64_t v_stride;
    float corr[16];
} q8_state;

static size_t layout(q8_state *s, const mk_attn *a, uint8_t *p) {
    const mk_q8_shape *h = &s->shape;
    uint8_t *base = p;
    size_t n = MK_ATTN_QUERIES, f = sizeof(float), n_scale = (size_t)h->n_v_scale;
    s->q = take(&p, n / SUB * (size_t)h->n_group * sizeof(query_group));
    s->acc = take(&p, n * (size_t)h->v_cols * f);
    s->sum = take(&p, n * 16 * f);
    s->max = take(&p, (n + 8) * f);
    s->s = take(&p, SUB * MK_KV_BLOCK * f);
    s->p = take(&p, n_scale * SUB * MK_KV_BLOCK);
    s->d = take(&p, n_scale * 16 * f);
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
    float d = quantise_group(x, n, group_amax(x, n), q);
    int32_t sum = 0;
    for (int i = 0; i < 32; i++) {
        g->q[i / 4][slot][i % 4] = q[i];
        sum += q[i];
    }
    g->d[slot] = d * scale;
    g->minus_128_sum[slot] = -128 * sum;
}

static void state_init(q8_state *s, const mk_attn_job *job) {
    const mk_attn *a = job->a;
    *s = (q8_state){.job = job, .shape = mk_q8_shape_of(a), .queries = queries_of(job)};
    const mk_q8_shape *h = &s->shape;
    layout(s, a, job->scratch);
    s->n_pad = (s->queries.n + SUB - 1) / SUB * SUB;
    s->v_stride = 16 * (a->latent ? h->n_k_scale : h->n_v_scale);
    memset(s->q, 0, (size_t)(s->n_pad / SUB * h->n_group) * sizeof *s->q);
    memset(s->acc, 0, (size_t)(s->n_pad * h->v_cols) * sizeof *s->acc);
    memset(s->sum, 0, (size_t)s->n_pad * 16 * sizeof *s->sum);
    const float scale = a->scale * 0x1.715476p+0f;  // log2(e): probabilities are powers of two
    for (int64_t i = 0; i < s->n_pad + 8; i++) {
        s->max[i] = i < s->queries.n ? -INFINITY : 0.0f;
    }
    for (int64_t i = 0; i < s->queries.n; i++) {
        const float *x = query_at(&s->queries, i);
        query_group *q = s->q + i / SUB * h->n_group;
        for (int64_t g = 0; g < h->n_group; g++) {
            int64_t n, first = mk_q8_group_at(a, h, g, &n);
            put_query(&q[g], (int)(i % SUB), x + first, n, scale);
        }
    }
}

// --- scores --------------------------------------------------------------------------------------
// Q queries (slots from `slot`) against G groups of 16 keys.
MK_INLINE void score_tile(const int Q, const int G, const q8_state *s, const query_group *q,
                          int64_t slot, const uint8_t *k, int64_t kg) {
    const mk_q8_shape *h = &s->shape;
    const int64_t n_group = h->n_group, n_scale = h->n_k_scale;
    const float *scales = (const float *)(k + h->k_scales) + kg * n_scale * 16;
    const uint8_t *w = k + kg * n_group * 512;
    v16f acc[8];
    MK_UNROLL for (int i = 0; i < Q * G; i++) {
        acc[i] = vf_zero();
    }
    for (int64_t g = 0; g < n_group; g++, q++, w += 512) {
        v16i sum[8];
        MK_UNROLL for (int i = 0; i < Q * G; i++) {
            sum[i] = dot_init(WT_I8, -1, q->minus_128_sum[slot + i % Q]);
        }
        MK_UNROLL for (int t = 0; t < 8; t++) {
            MK_UNROLL for (int j = 0; j < G; j++) {
                v16w key = wt_load_i8(w + (j * n_group * 8 + t) * 64);
                MK_UNROLL for (int i = 0; i < Q; i++) {
                    sum[j * Q + i] = dot_step(WT_I8, sum[j * Q + i], key, q->q[t][slot + i]);
                }
            }
        }
        const float *sc = scales + 16 * mk_q8_scale_of(h, g);
        MK_UNROLL for (int j = 0; j < G; j++) {
            v16f ks = vf_load(sc + j * n_scale * 16);
            MK_UNROLL for (int i = 0; i < Q; i++) {
                v16f x = vf_from_int(sum[j * Q + i]);
                acc[j * Q + i] = vf_fma(x, vf_mul(ks, vf_set1(q->d[slot + i])), acc[j * Q + i]);
            }
        }
    }
    MK_UNROLL for (int i = 0; i < Q * G; i++) {
        vf_store(s->s + (slot + i % Q) * MK_KV_BLOCK + 16 * (kg + i / Q), acc[i]);
    }
}

MK_INLINE void score_groups(const int Q, const int G, const q8_state *s, const query_group *q,
                            int64_t slot, const uint8_t *k, int64_t n_kg) {
    for (int64_t kg = 0; kg < n_kg; kg += G) {
        score_tile(Q, G, s, q, slot, k, kg);
    }
}

// How many of the left queries a tile takes: what registers hold, and no more padding than needed.
MK_INLINE int tile_queries(int64_t left) {
    return MK_ATTN_Q == 8 && left >= 5   ? 8
           : MK_ATTN_Q == 8 && left >= 3 ? 4
           : MK_ATTN_Q >= 2 && left >= 2 ? 2
                                         : 1;
}

static void scores(const q8_state *s, const query_group *q, int64_t n, const uint8_t *k,
                   int64_t n_kg) {
    for (int64_t i = 0; i < n;) {
        int Q = tile_queries(n - i);
        if (Q == 8) {
            score_groups(8, 1, s, q, i, k, n_kg);
        } else if (Q == 4) {
            score_groups(4, 2, s, q, i, k, n_kg);
        } else if (Q == 2) {
            score_groups(2, MK_ATTN_Q == 8 ? 4 : 1, s, q, i, k, n_kg);
        } else {
            score_groups(1, MK_ATTN_Q == 8 ? 4 : 1, s, q, i, k, n_kg);
        }
        i += Q;
    }
}

// --- softmax -------------------------------------------------------------------------------------
// The largest score of each query so far, and by how much that shrinks what was summed before.
static void new_maxima(q8_state *s, int64_t i, const int64_t *seen) {
    const v16f low = vf_set1(-INFINITY);
    float m[16] = {0};
    for (int64_t k = 0; k < SUB; k++) {
        const float *x = s->s + k * MK_KV_BLOCK;
        v16f top = low;
        for (int64_t g = 0; 16 * g < seen[k]; g++) {
            top = vf_max(vf_select_below(seen[k] - 16 * g, vf_load(x + 16 * g), low), top);
        }
        float t = vf_reduce_max(top);
        m[k] = t > s->max[i + k] ? t : s->max[i + k];
    }
    v16f now = vf_load(m);
    vf_store(s->corr, vf_exp2(vf_sub(vf_load_n(s->max + i, SUB), now)));
    vf_store_n(s->max + i, now, SUB);
}

// Probabilities of one query, of which n keys are visible, and the largest of each half times the
// values' scales.
MK_INLINE void probabilities(const bool full, q8_state *s, int64_t i, int64_t slot, int64_t n) {
    float *x = s->s + slot * MK_KV_BLOCK;
    const v16f m = vf_set1(s->max[i]), zero = vf_zero();
    v16f sum = vf_mul(vf_load(s->sum + 16 * i), vf_set1(s->corr[slot])), p[KEY_GROUPS];
    MK_UNROLL for (int g = 0; g < KEY_GROUPS; g++) {
        if (full || 16 * g < n) {
            p[g] = vf_exp2(vf_sub(vf_load(x + 16 * g), m));
            p[g] = full ? p[g] : vf_select_below(n - 16 * g, p[g], zero);
        } else {
            p[g] = zero;
        }
        sum = vf_add(sum, p[g]);
        vf_store(x + 16 * g, p[g]);
    }
    vf_store(s->sum + 16 * i, sum);
    for (int64_t v = 0; v < s->shape.n_v_scale; v++) {
        v16f top[KEY_GROUPS];
        MK_UNROLL for (int g = 0; g < KEY_GROUPS; g++) {
            top[g] = vf_mul(p[g], vf_load(s->v_scale + g * s->v_stride + 16 * v));
            top[g] = full ? top[g] : vf_select_below(n - 16 * g, top[g], zero);
        }
        s->d[16 * v + 2 * slot] = vf_reduce_max(vf_max(top[0], vf_max(top[1], zero)));
        s->d[16 * v + 2 * slot + 1] = vf_reduce_max(vf_max(top[2], vf_max(top[3], zero)));
    }
}

// Codes of one query's p' for one scale of the values; no p' is negative.
MK_INLINE void quantise_row(const bool full, const q8_state *s, int64_t slot, int64_t v, int64_t n,
                            const float *inv) {
    const v16f zero = vf_zero();
    MK_UNROLL for (int g = 0; g < KEY_GROUPS; g++) {
        v16f x = vf_mul(vf_load(s->s + slot * MK_KV_BLOCK + 16 * g),
                        vf_load(s->v_scale + g * s->v_stride + 16 * v));
        x = full ? x : vf_select_below(n - 16 * g, x, zero);
        x = vf_max(vf_mul(x, vf_set1(inv[2 * slot + g / 2])), zero);  // NaN counts as 0
        vi_store_i8(s->p + (v * SUB + slot) * MK_KV_BLOCK + 16 * g, vi_round(x));
    }
}

// p' of the eight queries as codes and scales.  A query that sees nothing here gets zeros.
static void quantise_rows(const q8_state *s, const int64_t *seen) {
    for (int64_t v = 0; v < s->shape.n_v_scale; v++) {
        float *d = s->d + 16 * v, inv[16];
        const v16f top = vf_load(d), tiny = vf_set1(0x1p-100f);
        vf_store(inv, vf_select_gt(tiny, top, vf_zero(), vf_div(vf_set1(127.0f), top)));
        vf_store(d, vf_select_gt(tiny, top, vf_set1(-0.0f), vf_div(top, vf_set1(127.0f))));
        for (int64_t k = 0; k < SUB; k++) {
            if (seen[k] == MK_KV_BLOCK) {
                quantise_row(true, s, k, v, seen[k], inv);
            } else {
                quantise_row(false, s, k, v, seen[k], inv);
            }
        }
    }
}

static void softmax(q8_state *s, int64_t i, const int64_t *seen) {
    new_maxima(s, i, seen);
    for (int64_t k = 0; k < SUB; k++) {
        if (seen[k] == MK_KV_BLOCK) {
            probabilities(true, s, i + k, k, seen[k]);
        } else {
            probabilities(false, s, i + k, k, seen[k]);
        }
    }
    quantise_rows(s, seen);
}

// --- values --------------------------------------------------------------------------------------
// Columns [16 c, 16 (c + C)) for Q queries from slot i on; the first n_half halves of the keys.
MK_INLINE void value_tile(const int Q, const int C, const q8_state *s, float *acc, int64_t i,
                          const uint8_t *codes, int64_t c, int64_t n_half) {
    const int64_t v = c / (MK_Q8_VALUES / 16);
    const int8_t *p = s->p + (v * SUB + i) * MK_KV_BLOCK;
    const float *d = s->d + 16 * v + 2 * i;
    codes += c * 1024;
    acc += c * SUB * 16 + i * 16;
    v16f a[8];
    MK_UNROLL for (int k = 0; k < Q * C; k++) {
        a[k] = vf_mul(vf_load(acc + k / Q * SUB * 16 + k % Q * 16), vf_set1(s->corr[i + k % Q]));
    }
    for (int64_t half = 0; half < n_half; half++) {
        v16i sum[8];
        MK_UNROLL for (int k = 0; k < Q * C; k++) {
            sum[k] = vi_zero();
        }
        MK_UNROLL for (int t = 0; t < 8; t++) {
            MK_UNROLL for (int j = 0; j < C; j++) {
                v16v x = load_values(codes + j * 1024 + half * 512 + t * 64);
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
        vf_store(acc + k / Q * SUB * 16 + k % Q * 16, a[k]);
    }
}

// C vectors at once where they share a scale and exist, else one.
MK_INLINE void value_columns(const int Q, const int C, const q8_state *s, float *acc, int64_t i,
                             const uint8_t *codes, int64_t n_half) {
    int64_t n = s->shape.v_cols / 16, c = 0;
    for (; c + C <= n; c += C) {
        value_tile(Q, C, s, acc, i, codes, c, n_half);
    }
    for (; c < n; c++) {
        value_tile(Q, 1, s, acc, i, codes, c, n_half);
    }
}

static void values(const q8_state *s, float *acc, int64_t n, const uint8_t *codes, int64_t n_half) {
    for (int64_t i = 0; i < n;) {
        int Q = tile_queries(n - i);
        if (Q == 8) {
            value_columns(8, 1, s, acc, i, codes, n_half);
        } else if (Q == 4) {
            value_columns(4, 2, s, acc, i, codes, n_half);
        } else if (Q == 2) {
            value_columns(2, MK_ATTN_Q == 8 ? 4 : 1, s, acc, i, codes, n_half);
        } else {
            value_columns(1, MK_ATTN_Q == 8 ? 4 : 1, s, acc, i, codes, n_half);
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

// Up to 8 queries from i on against block blk.
static void sub_block(q8_state *s, int64_t i, int64_t blk, const uint8_t *k, const uint8_t *codes) {
    int64_t n = s->queries.n - i < SUB ? s->queries.n - i : SUB, most = 0, seen[SUB] = {0};
    for (int64_t j = 0; j < n; j++) {
        seen[j] = n_visible(&s->queries, i + j, blk);
        most = seen[j] > most ? seen[j] : most;
    }
    if (most == 0) {
        return;
    }
    const mk_q8_shape *h = &s->shape;
    scores(s, s->q + i / SUB * h->n_group, n, k, (most + 15) / 16);
    softmax(s, i, seen);
    values(s, s->acc + i * h->v_cols, n, codes, most > 32 ? 2 : 1);
}

static void finish(const q8_state *s) {
    int64_t d_v = s->job->a->d_v, n_col = s->shape.v_cols / 16;
    for (int64_t i = 0; i < s->queries.n; i++) {
        v16f inv = vf_set1(1.0f / vf_reduce_add(vf_load(s->sum + 16 * i)));
        const float *acc = s->acc + i / SUB * SUB * s->shape.v_cols + i % SUB * 16;
        float *y = output_at(&s->queries, i);
        for (int64_t c = 0; c < n_col; c++) {
            v16f v = vf_mul(vf_load(acc + c * SUB * 16), inv);
            vf_store_n(y + 16 * c, v, d_v - 16 * c);
        }
    }
}

void MK_FN(attention_q8)(const mk_attn_job *job) {
    q8_state s;
    state_init(&s, job);
    const mk_q8_shape *h = &s.shape;
    int64_t last = job->rows->pos[job->row_hi - 1];  // rows ascend
    const int32_t *table = job->rows->table[job->row_lo];
    for (int64_t blk = 0; blk <= last / MK_KV_BLOCK; blk++) {
        const uint8_t *k = job->kv.base + (size_t)table[blk] * job->kv.block_stride +
                           (size_t)job->kv_head * h->head_bytes;
        const uint8_t *codes = k + h->v_codes;
        s.v_scale = (const float *)(k + h->v_scales);
        if (job->a->latent) {
            transpose_values(&s, k);
            codes = s.values;
            s.v_scale = (const float *)(k + h->k_scales);
        }
        for (int64_t i = 0; i < s.n_pad; i += SUB) {
            sub_block(&s, i, blk, k, codes);
        }
    }
    finish(&s);
}
