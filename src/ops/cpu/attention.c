// Attention over the block cache, with an online softmax over blocks of 64 keys counted from
// position 0.
//
// For one query, block after block (only keys j <= pos take part):
//     s_j = scale * (sum over d ascending of fma(q_d, k_jd))             lanes are 16 keys
//     m'  = max(m, max_j s_j);  corr = exp(m - m')                       m starts at -inf: corr is 0
//     p_j = exp(s_j - m')
//     l   = l * corr, then + p of keys 0..15, 16..31, 32..47, 48..63     16 lanes, masked keys add 0
//     a_d = a_d * corr, then fma(p_j, v_jd, a_d) for j ascending         lanes are d
// At the end y_d = a_d * (1 / tree(l)).  Nothing depends on the other queries of a job, so neither
// the batch nor the cut of the prompt nor the cache changes a bit; keys beyond pos may hold
// anything, even NaN.  Latent caches (one row per token) are first transposed to the plain layout
// of K, block by block.  Sources: Vaswani et al. 2017; Milakov & Gimelshein 2018; DeepSeek-V2 2024.
#include "ops/cpu/attention.h"

// Scratch of a job.
typedef struct {
    const mk_attn_job *job;
    job_queries queries;
    int64_t n_query, dv_pad;
    float *q;     // [ceil(n/8)][d_k][8]
    float *acc;   // [n][dv_pad]
    float *sum;   // [n][16]
    float *max;   // [n]
    float *p;     // [8][64] scores, then probabilities
    float *corr;  // [8]
    float *keys;  // latent: [4][d_k][16] of the current block
} attn_state;

size_t MK_FN(attention_scratch)(const mk_attn *a) {
    if (a->type == MK_KV_Q8) {
        return MK_FN(attention_q8_scratch)(a);
    }
    size_t n = MK_ATTN_QUERIES, f = sizeof(float), d_k = (size_t)a->d_k;
    return pad64(n * d_k * f) + n * (size_t)pad16(a->d_v) * f + n * 16 * f + pad64(n * f) +
           SUB * MK_KV_BLOCK * f + pad64(SUB * f) + (a->latent ? MK_KV_BLOCK * d_k * f : 0);
}

static void state_init(attn_state *s, const mk_attn_job *job) {
    const mk_attn *a = job->a;
    uint8_t *p = job->scratch;
    s->job = job;
    s->queries = queries_of(job);
    s->n_query = s->queries.n;
    s->dv_pad = pad16(a->d_v);
    size_t n = MK_ATTN_QUERIES, f = sizeof(float);
    s->q = take(&p, n * (size_t)a->d_k * f);
    s->acc = take(&p, n * (size_t)s->dv_pad * f);
    s->sum = take(&p, n * 16 * f);
    s->max = take(&p, n * f);
    s->p = take(&p, SUB * MK_KV_BLOCK * f);
    s->corr = take(&p, SUB * f);
    s->keys = a->latent ? take(&p, MK_KV_BLOCK * (size_t)a->d_k * f) : NULL;
    int64_t n_pad = (s->n_query + SUB - 1) / SUB * SUB;
    memset(s->q, 0, (size_t)(n_pad * a->d_k) * f);
    memset(s->acc, 0, (size_t)(s->n_query * s->dv_pad) * f);
    memset(s->sum, 0, (size_t)s->n_query * 16 * f);
    for (int64_t i = 0; i < s->n_query; i++) {
        s->max[i] = -INFINITY;
        const float *src = query_at(&s->queries, i);
        float *dst = s->q + i / SUB * SUB * a->d_k + i % SUB;
        for (int64_t d = 0; d < a->d_k; d++) {
            dst[d * SUB] = src[d];
        }
    }
}

MK_INLINE v16f load_kv(const bool f16, const uint8_t *p, int64_t i) {
    return f16 ? vf_load_f16((const uint16_t *)p + i) : vf_load((const float *)p + i);
}

MK_INLINE v16f load_kv_n(const bool f16, const uint8_t *p, int64_t i, int64_t n) {
    if (n >= 16) {
        return load_kv(f16, p, i);
    }
    return f16 ? vf_load_f16_n((const uint16_t *)p + i, n) : vf_load_n((const float *)p + i, n);
}

// --- scores --------------------------------------------------------------------------------------
// Q queries against G groups of 16 keys: p[query][key] = scale * q.k.
MK_INLINE void score_tile(const int Q, const int G, const bool f16, const float *q,
                          const uint8_t *k, int64_t d_k, float scale, float *p) {
    v16f acc[8][4];
    MK_UNROLL for (int i = 0; i < Q; i++) {
        MK_UNROLL for (int g = 0; g < G; g++) {
            acc[i][g] = vf_zero();
        }
    }
    for (int64_t d = 0; d < d_k; d++) {
        v16f key[4];
        MK_UNROLL for (int g = 0; g < G; g++) {
            key[g] = load_kv(f16, k, (g * d_k + d) * 16);
        }
        MK_UNROLL for (int i = 0; i < Q; i++) {
            v16f x = vf_set1(q[d * SUB + i]);
            MK_UNROLL for (int g = 0; g < G; g++) {
                acc[i][g] = vf_fma(x, key[g], acc[i][g]);
            }
        }
    }
    v16f factor = vf_set1(scale);
    MK_UNROLL for (int i = 0; i < Q; i++) {
        MK_UNROLL for (int g = 0; g < G; g++) {
            vf_store(p + i * MK_KV_BLOCK + 16 * g, vf_mul(factor, acc[i][g]));
        }
    }
}

MK_INLINE void score_groups(const int Q, const int G, const bool f16, const attn_state *s,
                            int64_t i, const float *q, const uint8_t *k, int64_t n_group) {
    int64_t d_k = s->job->a->d_k;
    for (int64_t g = 0; g < n_group; g += G) {
        const uint8_t *kg = k + (size_t)(g * d_k * 16) * (f16 ? 2 : 4);
        score_tile(Q, G, f16, q + i, kg, d_k, s->job->a->scale, s->p + i * MK_KV_BLOCK + 16 * g);
    }
}

// n <= 8 queries against the first n_group groups.  Padding queries are zero; what lies in p behind
// n_group groups or n queries does not count.
MK_INLINE void scores(const bool f16, const attn_state *s, const float *q, const uint8_t *k,
                      int64_t n, int64_t n_group) {
    for (int64_t i = 0; i < n;) {
        int64_t left = n - i;
        if (MK_ATTN_Q == 8 && left >= 5) {
            score_groups(8, 2, f16, s, i, q, k, n_group);
            i += 8;
        } else if (MK_ATTN_Q == 8 && left >= 3) {
            score_groups(4, 4, f16, s, i, q, k, n_group);
            i += 4;
        } else if (MK_ATTN_Q >= 2 && left >= 2) {
            score_groups(2, MK_ATTN_Q == 8 ? 4 : 2, f16, s, i, q, k, n_group);
            i += 2;
        } else {
            score_groups(1, MK_ATTN_Q == 1 ? 1 : 4, f16, s, i, q, k, n_group);
            i += 1;
        }
    }
}

// --- softmax -------------------------------------------------------------------------------------
// Scores of query i (slot of the eight) to probabilities; updates max and sum; n visible keys.
static void softmax_step(attn_state *s, int64_t i, int64_t slot, int64_t n) {
    float *p = s->p + slot * MK_KV_BLOCK;
    const v16f low = vf_set1(-INFINITY);
    v16f v[KEY_GROUPS], top = low;
    for (int g = 0; g < KEY_GROUPS; g++) {
        v[g] = 16 * g < n ? vf_select_below(n - 16 * g, vf_load(p + 16 * g), low) : low;
        top = vf_max(v[g], top);
    }
    float m = vf_reduce_max(top);
    m = m > s->max[i] ? m : s->max[i];
    v16f corr = vf_exp(vf_set1(s->max[i] - m));
    v16f sum = vf_mul(vf_load(s->sum + 16 * i), corr);
    for (int g = 0; g < KEY_GROUPS; g++) {
        v[g] = vf_exp(vf_sub(v[g], vf_set1(m)));
        vf_store(p + 16 * g, v[g]);
        sum = vf_add(sum, v[g]);
    }
    vf_store(s->sum + 16 * i, sum);
    s->max[i] = m;
    vf_store_n(s->corr + slot, corr, 1);
}

// --- values --------------------------------------------------------------------------------------
typedef struct {
    const uint8_t *v;  // values of the block, one row per token
    int64_t stride, d_v, dv_pad;
    const float *p;     // [q][64]
    const float *corr;  // [q], NULL when already applied
    float *acc;         // [q][dv_pad]
    int64_t j0, j1;     // keys
} pv_job;

// Columns [16 c, 16 (c + C)) for Q queries; the last vector may be partial.
MK_INLINE void pv_tile(const int Q, const int C, const bool f16, const pv_job *b, int64_t c) {
    v16f acc[4][4];
    MK_UNROLL for (int i = 0; i < Q; i++) {
        v16f corr = vf_set1(b->corr != NULL ? b->corr[i] : 1.0f);
        MK_UNROLL for (int k = 0; k < C; k++) {
            acc[i][k] = vf_mul(vf_load(b->acc + i * b->dv_pad + 16 * (c + k)), corr);
        }
    }
    int64_t last = b->d_v - 16 * (c + C - 1);
    for (int64_t j = b->j0; j < b->j1; j++) {
        v16f v[4];
        MK_UNROLL for (int k = 0; k < C; k++) {
            int64_t at = j * b->stride + 16 * (c + k);
            v[k] = k == C - 1 ? load_kv_n(f16, b->v, at, last) : load_kv(f16, b->v, at);
        }
        MK_UNROLL for (int i = 0; i < Q; i++) {
            v16f p = vf_set1(b->p[i * MK_KV_BLOCK + j]);
            MK_UNROLL for (int k = 0; k < C; k++) {
                acc[i][k] = vf_fma(p, v[k], acc[i][k]);
            }
        }
    }
    MK_UNROLL for (int i = 0; i < Q; i++) {
        MK_UNROLL for (int k = 0; k < C; k++) {
            vf_store(b->acc + i * b->dv_pad + 16 * (c + k), acc[i][k]);
        }
    }
}

MK_INLINE void pv_columns(const int Q, const bool f16, const pv_job *b) {
    int64_t n = b->dv_pad / 16, c = 0;
    for (; c + MK_PV_C <= n; c += MK_PV_C) {
        pv_tile(Q, MK_PV_C, f16, b, c);
    }
    for (; c < n; c++) {
        pv_tile(Q, 1, f16, b, c);
    }
}

// Queries [i, i + n) of a block, in slots from `slot`: keys all of them see together, the others
// one query at a time.
MK_INLINE void values(const bool f16, const attn_state *s, pv_job *b, int64_t i, int64_t slot,
                      int64_t n, int64_t blk) {
    int64_t common = MK_KV_BLOCK;
    for (int64_t k = 0; k < n; k++) {
        int64_t seen = n_visible(&s->queries, i + k, blk);
        common = seen < common ? seen : common;
    }
    for (int64_t k = 0; k < n;) {
        b->p = s->p + (slot + k) * MK_KV_BLOCK;
        b->corr = s->corr + slot + k;
        b->acc = s->acc + (i + k) * s->dv_pad;
        b->j0 = 0;
        b->j1 = common;
        if (MK_ATTN_Q == 8 && n - k >= 4) {
            pv_columns(4, f16, b);
            k += 4;
        } else if (MK_ATTN_Q >= 2 && n - k >= 2) {
            pv_columns(2, f16, b);
            k += 2;
        } else {
            pv_columns(1, f16, b);
            k += 1;
        }
    }
    for (int64_t k = 0; k < n; k++) {
        b->j0 = common;
        b->j1 = n_visible(&s->queries, i + k, blk);
        b->p = s->p + (slot + k) * MK_KV_BLOCK;
        b->corr = NULL;
        b->acc = s->acc + (i + k) * s->dv_pad;
        if (b->j1 > b->j0) {
            pv_columns(1, f16, b);
        }
    }
}

// --- blocks --------------------------------------------------------------------------------------
// Up to 8 queries from i on against block blk.
MK_INLINE void sub_block(const bool f16_k, const bool f16_v, attn_state *s, int64_t i, int64_t blk,
                         const uint8_t *k, pv_job *b) {
    int64_t n = s->n_query - i < SUB ? s->n_query - i : SUB, most = 0;
    for (int64_t j = 0; j < n; j++) {
        int64_t seen = n_visible(&s->queries, i + j, blk);
        most = seen > most ? seen : most;
    }
    if (most == 0) {
        return;
    }
    scores(f16_k, s, s->q + i * s->job->a->d_k, k, n, (most + 15) / 16);
    for (int64_t j = 0; j < n; j++) {
        int64_t seen = n_visible(&s->queries, i + j, blk);
        s->corr[j] = 1.0f;  // a query that sees nothing here keeps its state
        if (seen > 0) {
            softmax_step(s, i + j, j, seen);
        }
    }
    values(f16_v, s, b, i, 0, n, blk);
}

// Latent block: rows [64][d_k] to [4][d_k][16] in float32.  Whole groups of 16 keys; what is stale
// is masked later.
static void transpose_keys(const attn_state *s, const uint8_t *block, int64_t n_key) {
    int64_t d_k = s->job->a->d_k;
    bool f16 = s->job->a->type == MK_KV_F16;
    for (int64_t j = 0; j < n_key; j += 16) {
        for (int64_t d = 0; d < d_k; d += 16) {
            v16f r[16];
            int64_t n = d_k - d < 16 ? d_k - d : 16;
            MK_UNROLL for (int i = 0; i < 16; i++) {
                r[i] = load_kv_n(f16, block, (j + i) * d_k + d, n);
            }
            vf_transpose(r);
            MK_UNROLL for (int i = 0; i < 16; i++) {
                if (i < n) {
                    vf_store(s->keys + (j * d_k) + (d + i) * 16, r[i]);
                }
            }
        }
    }
}

static void finish(const attn_state *s) {
    int64_t d_v = s->job->a->d_v;
    for (int64_t i = 0; i < s->n_query; i++) {
        v16f inv = vf_set1(1.0f / vf_reduce_add(vf_load(s->sum + 16 * i)));
        float *y = output_at(&s->queries, i);
        for (int64_t c = 0; c < d_v; c += 16) {
            vf_store_n(y + c, vf_mul(vf_load(s->acc + i * s->dv_pad + c), inv), d_v - c);
        }
    }
}

void MK_FN(attention)(const mk_attn_job *job) {
    const mk_attn *a = job->a;
    if (a->type == MK_KV_Q8) {
        MK_FN(attention_q8)(job);
        return;
    }
    attn_state s;
    state_init(&s, job);
    size_t elem = a->type == MK_KV_F16 ? 2 : 4;
    size_t k_bytes = (size_t)(MK_KV_BLOCK * a->d_k) * elem,
           v_bytes = (size_t)(MK_KV_BLOCK * a->d_v) * elem;
    int64_t last = job->rows->pos[job->row_hi - 1];  // rows ascend
    const int32_t *table = job->rows->table[job->row_lo];
    for (int64_t blk = 0; blk <= last / MK_KV_BLOCK; blk++) {
        const uint8_t *block = job->kv.base + (size_t)table[blk] * job->kv.block_stride,
                      *k = (const uint8_t *)s.keys;
        int64_t n_key = last + 1 - blk * MK_KV_BLOCK;
        pv_job b = {.v = block, .stride = a->d_k, .d_v = a->d_v, .dv_pad = s.dv_pad};
        if (a->latent) {
            transpose_keys(&s, block, n_key < MK_KV_BLOCK ? n_key : MK_KV_BLOCK);
        } else {
            k = block + (size_t)job->kv_head * k_bytes;
            b.v = block + (size_t)a->n_kv_head * k_bytes + (size_t)job->kv_head * v_bytes;
            b.stride = a->d_v;
        }
        for (int64_t i = 0; i < s.n_query; i += SUB) {
            if (a->type == MK_KV_F32) {
                sub_block(false, false, &s, i, blk, k, &b);
            } else if (a->latent) {
                sub_block(false, true, &s, i, blk, k, &b);
            } else {
                sub_block(true, true, &s, i, blk, k, &b);
            }
        }
    }
    finish(&s);
}
