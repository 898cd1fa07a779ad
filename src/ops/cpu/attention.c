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
// anything, even NaN.  A block is brought into float32 and, if latent (one row per token), into the
// plain layout of K, once for all queries of a job; a few queries read float16 as it is.  int8
// caches have a kernel of their own (cpu/attention_q8.c).  Sources: Vaswani et al. 2017; Milakov &
// Gimelshein 2018; DeepSeek-V2 2024.
#include "ops/cpu/attention.h"

#define STAGE_FROM 9  // queries from which on a block is converted instead of read again and again

// Scratch of a job.
typedef struct {
    const mk_attn_job *job;
    job_queries queries;
    int64_t n_query, dv_pad;
    float *q;     // [ceil(n/16)][d_k][16]
    float *acc;   // [n][dv_pad]
    float *sum;   // [n][16]
    float *max;   // [n rounded up to 16]
    float *p;     // [16][64] scores, then probabilities
    float *keys;  // [4][d_k][16] of the current block: latent, or staged
    float *vals;  // [64][dv_pad] of the current block: staged
    bool staged;
    // A few latent queries: what comes next is asked for between the products of the scores, not
    // all at once while the keys are transposed.
    bool spread;
    const uint8_t *block;  // keys of the current block, as they are in the cache
    ptrdiff_t ahead;  // bytes to the same place in the next block or, in the last, of the next job
    float corr[WALK];
} attn_state;

static size_t layout(attn_state *s, const mk_attn *a, uint8_t *p) {
    uint8_t *base = p;
    size_t n = MK_ATTN_QUERIES, f = sizeof(float), d_k = (size_t)a->d_k;
    s->dv_pad = pad16(a->d_v);
    s->q = take(&p, n * d_k * f);
    s->acc = take(&p, n * (size_t)s->dv_pad * f);
    s->sum = take(&p, n * 16 * f);
    s->max = take(&p, n * f);
    s->p = take(&p, WALK * MK_KV_BLOCK * f);
    s->keys = take(&p, a->latent || a->type == MK_KV_F16 ? MK_KV_BLOCK * d_k * f : 0);
    s->vals = take(&p, a->type == MK_KV_F16 ? MK_KV_BLOCK * (size_t)s->dv_pad * f : 0);
    return (size_t)(p - base);
}

size_t MK_FN(attention_scratch)(const mk_attn *a) {
    if (a->type == MK_KV_Q8) {
        return MK_FN(attention_q8_scratch)(a);
    }
    // only differences of addresses count here
    static uint8_t origin[64];
    attn_state s;
    return layout(&s, a, origin);
}

// The queries of a walk as [d_k][16], zero where there are none, asking for those of the next walk.
static void take_queries(const attn_state *s, int64_t first) {
    int64_t d_k = s->job->a->d_k, n = s->n_query - first;
    const float *src[WALK], *later[WALK];
    for (int64_t i = 0; i < WALK; i++) {
        int64_t next = first + WALK + i;
        src[i] = query_at(&s->queries, i < n ? first + i : first);
        later[i] = next < s->n_query ? query_at(&s->queries, next) : src[i];
    }
    float *dst = s->q + first * d_k;
    for (int64_t d = 0; d < d_k; d += 16) {
        v16f r[16];
        int64_t n_col = d_k - d < 16 ? d_k - d : 16;
        MK_UNROLL for (int i = 0; i < 16; i++) {
            r[i] = i >= n        ? vf_zero()
                   : n_col == 16 ? vf_load(src[i] + d)
                                 : vf_load_n(src[i] + d, n_col);
            __builtin_prefetch(later[i] + d);
        }
        vf_transpose(r);
        MK_UNROLL for (int i = 0; i < 16; i++) {
            if (i < n_col) {
                vf_store(dst + (d + i) * WALK, r[i]);
            }
        }
    }
}

static void state_init(attn_state *s, const mk_attn_job *job) {
    const mk_attn *a = job->a;
    *s = (attn_state){.job = job};
    queries_of(&s->queries, job);
    layout(s, a, job->scratch);
    s->n_query = s->queries.n;
    s->staged = a->type == MK_KV_F16 && s->n_query >= STAGE_FROM;
    s->spread = a->latent && s->n_query <= WALK;
    int64_t n_pad = (s->n_query + WALK - 1) / WALK * WALK;
    memset(s->acc, 0, (size_t)(s->n_query * s->dv_pad) * sizeof *s->acc);
    memset(s->sum, 0, (size_t)s->n_query * 16 * sizeof *s->sum);
    for (int64_t i = 0; i < n_pad; i++) {
        s->max[i] = i < s->n_query ? -INFINITY : 0.0f;
    }
    for (int64_t i = 0; i < s->n_query; i += WALK) {
        take_queries(s, i);
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

// What a block later is read from here on.
MK_INLINE void ask(const bool f16, const uint8_t *p, int64_t i, ptrdiff_t ahead) {
    __builtin_prefetch(p + i * (f16 ? 2 : 4) + ahead);
}

// --- scores --------------------------------------------------------------------------------------
// Keys of a block as the kernel reads them, and from where on memory is asked for, in the same
// order; elem: bytes of a number there.
typedef struct {
    const uint8_t *k, *ask;
    size_t elem;
    int64_t d_k;
    float scale;
} key_tile;

// Q queries against G groups of 16 keys: p[query][key] = scale * q.k.
MK_INLINE void score_tile(const int Q, const int G, const bool f16, const bool asks, const float *q,
                          const key_tile *t, float *p) {
    v16f acc[8][4];
    const int64_t d_k = t->d_k;
    MK_UNROLL for (int i = 0; i < Q; i++) {
        MK_UNROLL for (int g = 0; g < G; g++) {
            acc[i][g] = vf_zero();
        }
    }
    for (int64_t d = 0; d < d_k; d++) {
        v16f key[4];
        MK_UNROLL for (int g = 0; g < G; g++) {
            key[g] = load_kv(f16, t->k, (g * d_k + d) * 16);
            if (asks) {
                __builtin_prefetch(t->ask + (size_t)((g * d_k + d) * 16) * t->elem);
            }
        }
        MK_UNROLL for (int i = 0; i < Q; i++) {
            v16f x = vf_set1(q[d * WALK + i]);
            MK_UNROLL for (int g = 0; g < G; g++) {
                acc[i][g] = vf_fma(x, key[g], acc[i][g]);
            }
        }
    }
    v16f factor = vf_set1(t->scale);
    MK_UNROLL for (int i = 0; i < Q; i++) {
        MK_UNROLL for (int g = 0; g < G; g++) {
            vf_store(p + i * MK_KV_BLOCK + 16 * g, vf_mul(factor, acc[i][g]));
        }
    }
}

MK_INLINE void score_groups(const int Q, const int G, const bool f16, const bool asks,
                            const attn_state *s, int64_t i, const float *q, key_tile t,
                            int64_t n_group) {
    for (int64_t g = 0; g < n_group; g += G) {
        score_tile(Q, G, f16, asks, q + i, &t, s->p + i * MK_KV_BLOCK + 16 * g);
        t.k += (size_t)(G * t.d_k * 16) * (f16 ? 2 : 4);
        t.ask += (size_t)(G * t.d_k * 16) * t.elem;
    }
}

// n <= 16 queries against the first n_group groups.  Padding queries are zero; what lies in p
// behind n_group groups or n queries does not count.
MK_INLINE void scores(const bool f16, const attn_state *s, const float *q, const uint8_t *k,
                      int64_t n, int64_t n_group) {
    const mk_attn *a = s->job->a;
    key_tile t = {k, s->staged && !a->latent ? k : s->block + s->ahead,
                  a->type == MK_KV_F16 ? 2 : 4, a->d_k, a->scale};
    for (int64_t i = 0; i < n;) {
        int64_t left = n - i;
        if (MK_ATTN_Q == 8 && left >= 5) {
            if (s->spread) {
                score_groups(8, 2, f16, true, s, i, q, t, n_group);
            } else {
                score_groups(8, 2, f16, false, s, i, q, t, n_group);
            }
            i += 8;
        } else if (MK_ATTN_Q == 8 && left >= 3) {
            score_groups(4, 4, f16, true, s, i, q, t, n_group);
            i += 4;
        } else if (MK_ATTN_Q >= 2 && left >= 2) {
            score_groups(2, MK_ATTN_Q == 8 ? 4 : 2, f16, true, s, i, q, t, n_group);
            i += 2;
        } else {
            score_groups(1, MK_ATTN_Q == 1 ? 1 : 4, f16, true, s, i, q, t, n_group);
            i += 1;
        }
    }
}

// --- softmax -------------------------------------------------------------------------------------
// Probabilities of one query, of which n keys are visible.
MK_INLINE void probabilities(attn_state *s, int64_t i, int64_t slot, int64_t n) {
    float *p = s->p + slot * MK_KV_BLOCK;
    const v16f m = vf_set1(s->max[i]);
    v16f sum = vf_mul(vf_load(s->sum + 16 * i), vf_set1(s->corr[slot]));
    MK_UNROLL for (int g = 0; g < KEY_GROUPS; g++) {
        v16f v = vf_zero();
        if (16 * g < n) {
            v = vf_exp(vf_sub(vf_load(p + 16 * g), m));
            v = seen_or(false, n, g, v, vf_zero());
        }
        vf_store(p + 16 * g, v);
        sum = vf_add(sum, v);
    }
    vf_store(s->sum + 16 * i, sum);
}

// Scores of the n queries from i on to probabilities; updates max and sum.
static void softmax(attn_state *s, int64_t i, int64_t n, const int64_t *seen) {
    v16f before = vf_load(s->max + i), now = vf_max(largest_scores(false, s->p, n, seen), before);
    vf_store(s->corr, vf_exp(vf_sub(before, now)));
    vf_store(s->max + i, now);
    for (int64_t k = 0; k < n; k++) {
        if (seen[k] > 0) {
            probabilities(s, i + k, k, seen[k]);
        } else {
            s->corr[k] = 1.0f;  // a query that sees nothing here keeps its state
        }
    }
}

// --- values --------------------------------------------------------------------------------------
typedef struct {
    const uint8_t *v;  // values of the block, one row per token
    int64_t stride, d_v, dv_pad;
    const float *p;     // [q][64]
    const float *corr;  // [q], NULL when already applied
    float *acc;         // [q][dv_pad]
    int64_t j0, j1;     // keys
    ptrdiff_t ahead;    // see attn_state; 0 when not to be asked for
} pv_job;

// Columns [16 c, 16 (c + C)) for Q queries; `part`: the last vector may be partial.
MK_INLINE void pv_tile(const int Q, const int C, const bool f16, const bool part, const pv_job *b,
                       int64_t c) {
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
            v[k] = part && k == C - 1 ? load_kv_n(f16, b->v, at, last) : load_kv(f16, b->v, at);
            if (k % (f16 ? 2 : 1) == 0) {
                ask(f16, b->v, at, b->ahead);
            }
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
    int64_t n = b->d_v / 16, c = 0;
    for (; c + MK_PV_C <= n; c += MK_PV_C) {
        pv_tile(Q, MK_PV_C, f16, false, b, c);
    }
    for (; c < b->dv_pad / 16; c++) {
        pv_tile(Q, 1, f16, true, b, c);
    }
}

// The n queries from i on: keys all of them see together, the others one query at a time.
MK_INLINE void values(const bool f16, const attn_state *s, pv_job *b, int64_t i, int64_t n,
                      const int64_t *seen) {
    int64_t common = seen[0];  // rows ascend
    b->j0 = 0;
    b->j1 = common;
    for (int64_t k = 0; k < n;) {
        b->p = s->p + k * MK_KV_BLOCK;
        b->corr = s->corr + k;
        b->acc = s->acc + (i + k) * s->dv_pad;
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
        b->j1 = seen[k];
        b->p = s->p + k * MK_KV_BLOCK;
        b->corr = NULL;
        b->acc = s->acc + (i + k) * s->dv_pad;
        if (b->j1 > b->j0) {
            pv_columns(1, f16, b);
        }
    }
}

// --- blocks --------------------------------------------------------------------------------------
// Up to 16 queries from i on against block blk.
MK_INLINE void walk(const bool f16_k, const bool f16_v, attn_state *s, int64_t i, int64_t blk,
                    const uint8_t *k, pv_job *b) {
    int64_t n = s->n_query - i < WALK ? s->n_query - i : WALK, seen[WALK], most = 0;
    for (int64_t j = 0; j < n; j++) {
        seen[j] = n_visible(&s->queries, i + j, blk);
        most = seen[j];  // rows ascend
    }
    if (most == 0) {
        return;
    }
    scores(f16_k, s, s->q + i * s->job->a->d_k, k, n, (most + 15) / 16);
    softmax(s, i, n, seen);
    values(f16_v, s, b, i, n, seen);
}

// Latent block: rows [64][d_k] to [4][d_k][16] in float32.  Whole groups of 16 keys; what is stale
// is masked later.
static void transpose_keys(const attn_state *s, const uint8_t *block, int64_t n_key) {
    int64_t d_k = s->job->a->d_k;
    bool f16 = s->job->a->type == MK_KV_F16;
    ptrdiff_t ahead = s->spread ? 0 : s->ahead;
    for (int64_t j = 0; j < n_key; j += 16) {
        for (int64_t d = 0; d < d_k; d += 16) {
            v16f r[16];
            int64_t n = d_k - d < 16 ? d_k - d : 16;
            MK_UNROLL for (int i = 0; i < 16; i++) {
                r[i] = load_kv_n(f16, block, (j + i) * d_k + d, n);
                ask(f16, block, (j + i) * d_k + d, ahead);
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

// n float16 to float32, asking for what is `ahead`; n a multiple of 16.
static void widen(float *dst, const uint8_t *src, int64_t n, ptrdiff_t ahead) {
    for (int64_t i = 0; i < n; i += 16) {
        vf_store(dst + i, load_kv(true, src, i));
        ask(true, src, i, ahead);
    }
}

// The first n_key values of a block, rows stride apart, to rows of dv_pad.
static void widen_values(const attn_state *s, const pv_job *b, int64_t n_key, ptrdiff_t ahead) {
    for (int64_t j = 0; j < n_key; j++) {
        for (int64_t c = 0; c < b->d_v; c += 16) {
            v16f v = load_kv_n(true, b->v, j * b->stride + c, b->d_v - c);
            vf_store(s->vals + j * s->dv_pad + c, v);
            ask(true, b->v, j * b->stride + c, ahead);
        }
    }
}

static void finish(const attn_state *s) {
    int64_t d_v = s->job->a->d_v;
    for (int64_t i = 0; i < s->n_query; i++) {
        v16f inv = vf_set1(1.0f / vf_reduce_add(vf_load(s->sum + 16 * i)));
        float *y = next_output(&s->queries, i);
        for (int64_t c = 0; c < d_v; c += 16) {
            vf_store_n(y + c, vf_mul(vf_load(s->acc + i * s->dv_pad + c), inv), d_v - c);
        }
    }
}

// All queries against one block; n_key: keys of it that exist.
static void one_block(attn_state *s, int64_t blk, const uint8_t *block, int64_t n_key) {
    const mk_attn *a = s->job->a;
    size_t elem = a->type == MK_KV_F16 ? 2 : 4;
    size_t k_bytes = (size_t)(MK_KV_BLOCK * a->d_k) * elem,
           v_bytes = (size_t)(MK_KV_BLOCK * a->d_v) * elem;
    const uint8_t *k = block;
    pv_job b = {.v = block, .stride = a->d_k, .d_v = a->d_v, .dv_pad = s->dv_pad};
    s->block = block + (a->latent ? 0 : (size_t)s->job->kv_head * k_bytes);
    if (a->latent) {
        transpose_keys(s, block, n_key);
        k = (const uint8_t *)s->keys;
    } else {
        k += (size_t)s->job->kv_head * k_bytes;
        b.v += (size_t)a->n_kv_head * k_bytes + (size_t)s->job->kv_head * v_bytes;
        b.stride = a->d_v;
        b.ahead = s->ahead;
    }
    if (s->staged) {
        if (!a->latent) {
            widen(s->keys, k, (n_key + 15) / 16 * 16 * a->d_k, s->ahead);
            k = (const uint8_t *)s->keys;
        }
        widen_values(s, &b, n_key, b.ahead);
        b.v = (const uint8_t *)s->vals;
        b.stride = s->dv_pad;
        b.d_v = s->dv_pad;
        b.ahead = 0;
    }
    for (int64_t i = 0; i < s->n_query; i += WALK) {
        if (a->type == MK_KV_F32 || s->staged) {
            walk(false, false, s, i, blk, k, &b);
        } else if (a->latent) {
            walk(false, true, s, i, blk, k, &b);
        } else {
            walk(true, true, s, i, blk, k, &b);
        }
    }
}

void MK_FN(attention)(const mk_attn_job *job) {
    if (job->a->type == MK_KV_Q8) {
        MK_FN(attention_q8)(job);
        return;
    }
    attn_state s;
    state_init(&s, job);
    int64_t last = job->rows->pos[job->row_hi - 1];  // rows ascend
    const int32_t *table = job->rows->table[job->row_lo];
    size_t head =
        (size_t)(job->kv_head * MK_KV_BLOCK * job->a->d_k) * (job->a->type == MK_KV_F16 ? 2 : 4);
    for (int64_t blk = 0; blk <= last / MK_KV_BLOCK; blk++) {
        const uint8_t *block = job->kv.base + (size_t)table[blk] * job->kv.block_stride;
        int64_t n_key = last + 1 - blk * MK_KV_BLOCK;
        bool more = n_key > MK_KV_BLOCK;
        s.ahead = more ? ((ptrdiff_t)table[blk + 1] - (ptrdiff_t)table[blk]) *
                             (ptrdiff_t)job->kv.block_stride
                  : job->next ? job->next - (block + head)
                              : 0;
        one_block(&s, blk, block, more ? MK_KV_BLOCK : n_key);
    }
    finish(&s);
}
