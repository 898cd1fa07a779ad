// Backward of attention: probabilities are computed again, then five products of matrices.
//
// For one head and one query at position t, keys j <= t only:
//     s_j  = scale * (sum over d ascending of fma(q_d, k_jd), from 0)
//     dP_j = sum over c ascending of fma(dy_c, v_jc), from 0
//     m = max_j s_j;  p_j = exp(s_j - m)
//     l[j%16] += p_j;  a[j%16] = fma(p_j, dP_j, a[j%16])     j ascending, both from 0
//     inv = 1 / tree(l);  delta = tree(a) * inv
//     P_j = p_j * inv;  dS_j = P_j * (dP_j - delta)
//     dq_d = fma(scale, sum over j ascending of fma(dS_j, k_jd), dq_d)
// and for one key, over heads ascending, then queries t >= j ascending, one chain from 0 each:
//     dk_jd = fma(scale, sum of fma(dS_tj, q_td), dk_jd)
//     dv_jc = dv_jc + sum of fma(P_tj, dy_tc)
// Latent: dv goes to the first d_v columns of dk, after dk itself.
//
// Scores and dP have 16 keys in the lanes, the other products 16 columns; pairs that do not see
// each other but share a tile of 8 queries and 8 keys take part with P = dS = 0, which adds nothing
// to sums of finite numbers.  A piece of queries keeps its P and dS, so that dk and dv, whose sums
// run over queries, can be divided over keys; where a sum stops between two pieces it waits in
// memory as it is.  Neither pieces nor threads nor other sequences change a bit.  Source: Dao et
// al. 2022, algorithm 4, without its online softmax: all keys of a row are at hand.
#include "ops/cpu/cpu.h"

// Tile of a product: ROWS numbers, broadcast, times VECS vectors, so that all sums of a tile stay
// in registers.
#define SOON     64  // rows of the next phase or task that are asked for before it begins
#define HALF     8   // rows of a tile in all; ROWS divides it
#define MAX_VECS 3
#if MK_ATTN_Q == 8
#define ROWS    8
#define VECS    3
#define SOFTMAX 4  // rows of the softmax at once
#elif MK_ATTN_Q == 2
#define ROWS    4
#define VECS    1
#define SOFTMAX 1
#else
#define ROWS    1
#define VECS    1
#define SOFTMAX 1
#endif

MK_INLINE int64_t pad16(int64_t n) {
    return (n + 15) / 16 * 16;
}
MK_INLINE int64_t min64(int64_t a, int64_t b) {
    return a < b ? a : b;
}

// The first n of 16 floats, the rest zero; all of them when n is larger.
MK_INLINE v16f get(const float *p, int64_t n) {
    return n >= 16 ? vf_load(p) : vf_load_n(p, n);
}
MK_INLINE void put(float *p, v16f v, int64_t n) {
    if (n >= 16) {
        vf_store(p, v);
    } else {
        vf_store_n(p, v, n);
    }
}

// Vectors of the next tile when `left` are left: 3, but 2 + 2 instead of 3 + 1.
MK_INLINE int64_t next_vecs(int64_t left) {
    return left == 4 && VECS == 3 ? 2 : min64(left, VECS);
}

// --- layout --------------------------------------------------------------------------------------
// Up to 16 rows, d columns of each; n_row <= 0: none.
typedef struct {
    const float *p;
    int64_t stride, n_row, d;
} row_group;

// Asks for rows that are needed soon: the heads of a batch are small parts of long rows, where the
// hardware expects nothing.  Sequences of 64 tokens gain half, longer ones less.
static void ask(row_group r) {
    for (int64_t i = 0; i < r.n_row; i++) {
        for (int64_t d = 0; d < r.d; d += 16) {
            __builtin_prefetch(r.p + i * r.stride + d, 0, 2);
        }
    }
}

// Rows [first, first + 16) of m as far as they exist: the d columns of one head.
MK_INLINE row_group group_of(mk_mat m, int64_t first, int64_t head, int64_t d) {
    int64_t n = min64(m.n_row - first, 16);
    return (row_group){m.p + (n > 0 ? first : 0) * m.stride + head * d, m.stride, n, d};
}

// To lanes [d][16] and to rows [16][d rounded up to 16], either NULL.  Rows from n_row on are zero.
static void lay_out(float *lanes, float *rows, const row_group *src) {
    for (int64_t d = 0; d < src->d; d += 16) {
        v16f r[16];
        int64_t n = min64(src->d - d, 16);
        MK_UNROLL for (int i = 0; i < 16; i++) {
            r[i] = i < src->n_row ? get(src->p + i * src->stride + d, n) : vf_zero();
        }
        if (rows != NULL) {
            MK_UNROLL for (int i = 0; i < 16; i++) {
                vf_store(rows + i * pad16(src->d) + d, r[i]);
            }
        }
        if (lanes == NULL) {
            continue;
        }
        vf_transpose(r);
        MK_UNROLL for (int i = 0; i < 16; i++) {
            if (i < n) {
                vf_store(lanes + (d + i) * 16, r[i]);
            }
        }
    }
}

void MK_FN(back_attention_keys)(const mk_back_attn_job *job, int64_t lo, int64_t hi) {
    const mk_attn *a = job->a;
    const int64_t dk_pad = pad16(a->d_k), dv_pad = pad16(a->d_v);
    for (int64_t j = 16 * lo; j < 16 * hi; j += 16) {
        row_group k = group_of(job->k, j, job->kv_head, a->d_k);
        ask(group_of(job->k, j + 16, job->kv_head, a->d_k));
        lay_out(job->k_lanes + j * a->d_k, job->k_rows + j * dk_pad, &k);
        if (!a->latent) {
            row_group v = group_of(job->v, j, job->kv_head, a->d_v);
            ask(group_of(job->v, j + 16, job->kv_head, a->d_v));
            lay_out(job->v_lanes + j * a->d_v, NULL, &v);
        }
        if (j < SOON) {
            int64_t head = job->kv_head * (a->n_head / a->n_kv_head);
            ask(group_of(job->q, j, head, a->d_k));
            ask(group_of(job->dy, j, head, a->d_v));
        }
        memset(job->dk_sum + j * dk_pad, 0, (size_t)(16 * dk_pad) * sizeof(float));
        memset(job->dv_sum + j * dv_pad, 0, (size_t)(16 * dv_pad) * sizeof(float));
    }
}

// --- products ------------------------------------------------------------------------------------
// acc[i][c] = fma(x[i * x_row + r * x_step], y[c * y_vec + r * y_step ..+16], acc[i][c]), r
// ascending.
typedef struct {
    const float *x;
    int64_t x_row, x_step;
    const float *y;
    int64_t y_vec, y_step;
} product;

MK_INLINE void chain(const int V, v16f acc[ROWS][MAX_VECS], const product p, int64_t n) {
    for (int64_t r = 0; r < n; r++) {
        v16f y[MAX_VECS];
        MK_UNROLL for (int c = 0; c < V; c++) {
            y[c] = vf_load(p.y + c * p.y_vec + r * p.y_step);
        }
        MK_UNROLL for (int i = 0; i < ROWS; i++) {
            v16f x = vf_set1(p.x[i * p.x_row + r * p.x_step]);
            MK_UNROLL for (int c = 0; c < V; c++) {
                acc[i][c] = vf_fma(x, y[c], acc[i][c]);
            }
        }
    }
}

MK_INLINE void clear(const int V, v16f acc[ROWS][MAX_VECS]) {
    MK_UNROLL for (int i = 0; i < ROWS; i++) {
        MK_UNROLL for (int c = 0; c < V; c++) {
            acc[i][c] = vf_zero();
        }
    }
}

// --- scores --------------------------------------------------------------------------------------
// out [vector][row] = factor * (x . y): V groups of 16 keys, out_vec floats apart.
MK_INLINE void dots(const int V, product p, int64_t n, float factor, float *out, int64_t out_vec) {
    v16f acc[ROWS][MAX_VECS];
    clear(V, acc);
    p.x_row = 1;
    p.x_step = p.y_step = 16;
    chain(V, acc, p, n);
    MK_UNROLL for (int i = 0; i < ROWS; i++) {
        MK_UNROLL for (int c = 0; c < V; c++) {
            vf_store(out + c * out_vec + 16 * i, vf_mul(vf_set1(factor), acc[i][c]));
        }
    }
}

// n <= 16 rows (lanes [d][16]) against the first n_group groups of keys [group][d][16], of which
// the first d columns count.
static void all_dots(product p, int64_t n, int64_t d, float factor, float *out, int64_t out_vec,
                     int64_t n_group) {
    for (int64_t g = 0, v; g < n_group; g += v) {
        v = next_vecs(n_group - g);
        product at = p;
        at.y += g * p.y_vec;
        for (int i = 0; i < n; i += ROWS) {
            at.x = p.x + i;
            float *to = out + g * out_vec + 16 * i;
            if (VECS >= 3 && v == 3) {
                dots(3, at, d, factor, to, out_vec);
            } else if (VECS >= 2 && v == 2) {
                dots(2, at, d, factor, to, out_vec);
            } else {
                dots(1, at, d, factor, to, out_vec);
            }
        }
    }
}

// --- softmax -------------------------------------------------------------------------------------
// SOFTMAX rows: scores to P and dP to dS, in place.
typedef struct {
    float *s, *dp;    // [group][row][16]
    int64_t group;    // floats from one group to the next
    int64_t n_group;  // groups in all; only the last is seen in part
    int64_t seen;     // keys of the last group that row 0 sees; row i: i more
    v16f m[SOFTMAX], l[SOFTMAX], a[SOFTMAX];
    v16f inv[SOFTMAX], delta[SOFTMAX];
} soft_rows;

MK_INLINE v16f seen_or(const bool last, const soft_rows *r, int i, v16f x, v16f other) {
    return last ? vf_select_below(r->seen + i, x, other) : x;
}

MK_INLINE void soft_max(const bool last, soft_rows *r, int64_t g) {
    MK_UNROLL for (int i = 0; i < SOFTMAX; i++) {
        v16f s = vf_load(r->s + g * r->group + 16 * i);
        r->m[i] = vf_max(seen_or(last, r, i, s, vf_set1(-INFINITY)), r->m[i]);
    }
}

MK_INLINE void soft_exp(const bool last, soft_rows *r, int64_t g) {
    MK_UNROLL for (int i = 0; i < SOFTMAX; i++) {
        float *s = r->s + g * r->group + 16 * i;
        v16f p = seen_or(last, r, i, vf_exp(vf_sub(vf_load(s), r->m[i])), vf_zero());
        v16f dp = seen_or(last, r, i, vf_load(r->dp + g * r->group + 16 * i), vf_zero());
        vf_store(s, p);
        r->l[i] = vf_add(r->l[i], p);
        r->a[i] = vf_fma(p, dp, r->a[i]);
    }
}

MK_INLINE void soft_grad(const bool last, const soft_rows *r, int64_t g) {
    MK_UNROLL for (int i = 0; i < SOFTMAX; i++) {
        float *s = r->s + g * r->group + 16 * i, *dp = r->dp + g * r->group + 16 * i;
        v16f p = vf_mul(vf_load(s), r->inv[i]);
        v16f ds = vf_mul(p, vf_sub(vf_load(dp), r->delta[i]));
        vf_store(s, p);
        vf_store(dp, seen_or(last, r, i, ds, vf_zero()));
    }
}

static void softmax(soft_rows r) {
    const int64_t last = r.n_group - 1;
    MK_UNROLL for (int i = 0; i < SOFTMAX; i++) {
        r.m[i] = vf_set1(-INFINITY);
        r.l[i] = r.a[i] = vf_zero();
    }
    for (int64_t g = 0; g < last; g++) {
        soft_max(false, &r, g);
    }
    soft_max(true, &r, last);
    MK_UNROLL for (int i = 0; i < SOFTMAX; i++) {
        r.m[i] = vf_set1(vf_reduce_max(r.m[i]));
    }
    for (int64_t g = 0; g < last; g++) {
        soft_exp(false, &r, g);
    }
    soft_exp(true, &r, last);
    MK_UNROLL for (int i = 0; i < SOFTMAX; i++) {
        float inv = 1.0f / vf_reduce_add(r.l[i]);
        r.inv[i] = vf_set1(inv);
        r.delta[i] = vf_set1(vf_reduce_add(r.a[i]) * inv);
    }
    for (int64_t g = 0; g < last; g++) {
        soft_grad(false, &r, g);
    }
    soft_grad(true, &r, last);
}

// --- rows ----------------------------------------------------------------------------------------
// dq of ROWS queries, n_row of which exist, columns [c, c + 16 V): keys [0, n_key).
typedef struct {
    const float *ds, *k;  // of row 0 and group 0; of key 0 and column c
    int64_t group, dk_pad;
    float *dq;  // of row 0, column c
    int64_t stride, n_row, n_col, n_key;
    float scale;
} dq_tile;

MK_INLINE void dq_columns(const int V, const dq_tile *t) {
    v16f acc[ROWS][MAX_VECS];
    clear(V, acc);
    for (int64_t j = 0; j < t->n_key; j += 16) {
        product p = {t->ds + j / 16 * t->group, 16, 1, t->k + j * t->dk_pad, 16, t->dk_pad};
        chain(V, acc, p, min64(t->n_key - j, 16));
    }
    const v16f scale = vf_set1(t->scale);
    MK_UNROLL for (int i = 0; i < ROWS; i++) {
        MK_UNROLL for (int c = 0; c < V; c++) {
            if (i < t->n_row) {
                float *to = t->dq + i * t->stride + 16 * c;
                int64_t n = t->n_col - 16 * c;
                put(to, vf_fma(scale, acc[i][c], get(to, n)), n);
            }
        }
    }
}

static void dq_rows(dq_tile t, int64_t d_k) {
    const float *k = t.k;
    float *dq = t.dq;
    for (int64_t c = 0, v; c < t.dk_pad / 16; c += v) {
        v = next_vecs(t.dk_pad / 16 - c);
        t.k = k + 16 * c;
        t.dq = dq + 16 * c;
        t.n_col = d_k - 16 * c;
        if (VECS >= 3 && v == 3) {
            dq_columns(3, &t);
        } else if (VECS >= 2 && v == 2) {
            dq_columns(2, &t);
        } else {
            dq_columns(1, &t);
        }
    }
}

// 16 queries from row `at` of the piece on, n of which exist.
static void row_tile(const mk_back_attn_job *job, const mk_back_attn_piece *piece, int64_t at,
                     int64_t n) {
    const mk_attn *a = job->a;
    const int64_t t = piece->first + at, n_group = t / 16 + 1, group = job->row_cap * 16;
    float *s = piece->p + at * 16, *dp = piece->ds + at * 16;
    product q = {.x = piece->q_lanes + at * a->d_k, .y = job->k_lanes, .y_vec = a->d_k * 16};
    product dy = {.x = piece->dy_lanes + at * a->d_v, .y = job->v_lanes};
    dy.y_vec = (a->latent ? a->d_k : a->d_v) * 16;
    all_dots(q, n, a->d_k, a->scale, s, group, n_group);
    all_dots(dy, n, a->d_v, 1.0f, dp, group, n_group);
    for (int i = 0; i < n; i += SOFTMAX) {
        softmax((soft_rows){
            .s = s + 16 * i, .dp = dp + 16 * i, .group = group, .n_group = n_group, .seen = i + 1});
    }
    for (int i = 0; job->dq.p != NULL && i < n; i += ROWS) {
        dq_rows((dq_tile){.ds = dp + 16 * i,
                          .k = job->k_rows,
                          .group = group,
                          .dk_pad = pad16(a->d_k),
                          .dq = job->dq.p + (t + i) * job->dq.stride + piece->head * a->d_k,
                          .stride = job->dq.stride,
                          .n_row = n - i,
                          .n_key = t + i / HALF * HALF + HALF,
                          .scale = a->scale},
                a->d_k);
    }
}

void MK_FN(back_attention_rows)(const mk_back_attn_job *job, int64_t lo, int64_t hi) {
    const mk_attn *a = job->a;
    const int64_t per_piece = job->row_cap / 16;
    for (int64_t u = lo; u < hi; u++) {
        const mk_back_attn_piece *piece = &job->piece[u / per_piece];
        const int64_t at = u % per_piece * 16, t = piece->first + at, head = piece->head;
        if (at >= piece->n) {
            continue;
        }
        row_group q = group_of(job->q, t, head, a->d_k), dy = group_of(job->dy, t, head, a->d_v);
        lay_out(piece->q_lanes + at * a->d_k, piece->q_rows + at * pad16(a->d_k), &q);
        lay_out(piece->dy_lanes + at * a->d_v, piece->dy_rows + at * pad16(a->d_v), &dy);
        ask(group_of(job->q, t + 16, head, a->d_k));
        ask(group_of(job->dy, t + 16, head, a->d_v));
        if (job->dq.p != NULL) {
            ask(group_of(job->dq, t, head, a->d_k));
        }
        row_tile(job, piece, at, q.n_row);
    }
}

// --- columns -------------------------------------------------------------------------------------
// sum [key][c ..] += over n queries of x [query][key] * y [query][c ..], for ROWS keys.
MK_INLINE void sum_columns(const int V, product p, int64_t n, float *sum) {
    v16f acc[ROWS][MAX_VECS];
    p.x_row = 1;
    p.x_step = p.y_vec = 16;
    MK_UNROLL for (int i = 0; i < ROWS; i++) {
        MK_UNROLL for (int c = 0; c < V; c++) {
            acc[i][c] = vf_load(sum + i * p.y_step + 16 * c);
        }
    }
    chain(V, acc, p, n);
    MK_UNROLL for (int i = 0; i < ROWS; i++) {
        MK_UNROLL for (int c = 0; c < V; c++) {
            vf_store(sum + i * p.y_step + 16 * c, acc[i][c]);
        }
    }
}

// All columns (y_step of them) for 8 keys.
static void sum_keys(product p, int64_t n, float *sum) {
    const int64_t n_vec = p.y_step / 16;
    for (int64_t c = 0, v; c < n_vec; c += v) {
        v = next_vecs(n_vec - c);
        for (int i = 0; i < HALF; i += ROWS) {
            product at = p;
            at.x += i;
            at.y += 16 * c;
            float *to = sum + i * p.y_step + 16 * c;
            if (VECS >= 3 && v == 3) {
                sum_columns(3, at, n, to);
            } else if (VECS >= 2 && v == 2) {
                sum_columns(2, at, n, to);
            } else {
                sum_columns(1, at, n, to);
            }
        }
    }
}

// What one piece adds to the sums of keys [j, j + 8).
static void half_keys(const mk_back_attn_job *job, const mk_back_attn_piece *piece, int64_t j) {
    const int64_t dk_pad = pad16(job->a->d_k), dv_pad = pad16(job->a->d_v);
    const int64_t from = j > piece->first ? j - piece->first : 0, n = piece->n - from;
    const int64_t at = (j / 16 * job->row_cap + from) * 16 + j % 16;
    if (n <= 0) {
        return;
    }
    if (job->dk.p != NULL) {
        product p = {.x = piece->ds + at, .y = piece->q_rows + from * dk_pad, .y_step = dk_pad};
        sum_keys(p, n, job->dk_sum + j * dk_pad);
    }
    if (job->dv.p != NULL) {
        product p = {.x = piece->p + at, .y = piece->dy_rows + from * dv_pad, .y_step = dv_pad};
        sum_keys(p, n, job->dv_sum + j * dv_pad);
    }
}

void MK_FN(back_attention_cols)(const mk_back_attn_job *job, int64_t lo, int64_t hi) {
    const mk_attn *a = job->a;
    const mk_back_attn_piece *end = &job->piece[job->n_piece - 1];
    const bool last =
        end->first + end->n == job->n && (end->head + 1) % (a->n_head / a->n_kv_head) == 0;
    for (int64_t j = 16 * lo; j < 16 * hi; j += 16) {
        if (last && job->dk.p != NULL) {
            ask(group_of(job->dk, j, job->kv_head, a->d_k));
        }
        if (last && job->dv.p != NULL && !a->latent) {
            ask(group_of(job->dv, j, job->kv_head, a->d_v));
        }
        for (int64_t i = 0; i < job->n_piece; i++) {
            half_keys(job, &job->piece[i], j);
            half_keys(job, &job->piece[i], j + HALF);
        }
    }
}

void MK_FN(back_attention_add)(const mk_back_attn_job *job, int64_t lo, int64_t hi) {
    const mk_attn *a = job->a;
    const v16f scale = vf_set1(a->scale);
    for (int64_t j = 16 * lo; j < min64(16 * hi, job->n); j++) {
        if (j % 16 == 0 && j < SOON && job->kv_head + 1 < a->n_kv_head) {
            ask(group_of(job->k, j, job->kv_head + 1, a->d_k));
            ask(group_of(job->v, j, job->kv_head + 1, a->d_v));
        }
        for (int64_t c = 0; job->dk.p != NULL && c < a->d_k; c += 16) {
            float *dk = job->dk.p + j * job->dk.stride + job->kv_head * a->d_k + c;
            v16f sum = vf_load(job->dk_sum + j * pad16(a->d_k) + c);
            put(dk, vf_fma(scale, sum, get(dk, a->d_k - c)), a->d_k - c);
        }
        for (int64_t c = 0; job->dv.p != NULL && c < a->d_v; c += 16) {
            float *dv = job->dv.p + j * job->dv.stride + job->kv_head * a->d_v + c;
            v16f sum = vf_load(job->dv_sum + j * pad16(a->d_v) + c);
            put(dv, vf_add(get(dv, a->d_v - c), sum), a->d_v - c);
        }
    }
}
