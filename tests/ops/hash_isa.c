// ops_hash_isa: one 64-bit hash over the results of all operators, for one instruction set.
//
//     ops_hash_isa NAME [THREADS]    prints the hash of one set
//     ops_hash_isa                   every set of this machine with 1, 2 and 3 threads; fails if any two differ
//
// The proof that bits do not depend on the processor: the same number must come out of scalar,
// avx2, avx512, avx512bf16 and neon, on x86-64 and on aarch64.  Inputs are drawn by integers only.
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/mathx.h"
#include "ops/back.h"
#include "ops/kernels.h"
#include "ops/ops.h"
#include "ops/optim.h"

static uint64_t hash;

static void add_bytes(const void *p, size_t n) {
    hash = mk_hash64(p, n, hash);
}

static void add_mat(mk_mat m) {
    for (int64_t t = 0; t < m.n_row; t++) {
        add_bytes(m.p + t * m.stride, (size_t)m.n_col * sizeof(float));
    }
}

// Values of many magnitudes: 24 random bits times a power of two.
static void fill(float *p, int64_t n, uint64_t seed) {
    for (int64_t i = 0; i < n; i++) {
        uint64_t r = mk_rng_u64(seed, (uint64_t)i);
        uint32_t e = 121 + (uint32_t)(r >> 40) % 8;
        p[i] = mk_f32_from_bits((uint32_t)(r & 0x807FFFFF) | e << 23);
    }
}

static float *floats(int64_t n, uint64_t seed) {
    float *p = mk_alloc((size_t)n * sizeof *p);
    fill(p, n, seed);
    return p;
}

typedef void (*step_fn)(mk_ops *ops, void *arg);

static void run(mk_ops *ops, step_fn fn, void *arg) {
    for (int dry = 1; dry >= 0; dry--) {
        mk_ops_begin(ops, dry == 1);
        fn(ops, arg);
        mk_ops_end(ops);
        if (dry && mk_ops_reserve(ops, mk_ops_high_water(ops), NULL) != MK_OK) {
            abort();
        }
    }
}

// --- linear and experts --------------------------------------------------------------------------
static mk_weight random_weight(mk_dtype t, int64_t n_mat, int64_t n_out, int64_t n_in,
                               mk_pool *pool, uint64_t seed) {
    size_t row = 0;
    if (!mk_dtype_row_bytes(t, n_in, &row)) {
        abort();
    }
    uint8_t *data = mk_try_alloc((size_t)(n_mat * n_out), row);
    float *f = floats(n_mat * n_out * n_in, seed);
    if (mk_dtype_from_f32(t, f, n_mat * n_out * n_in, data, NULL) !=
        MK_OK) {  // no writer: random blocks, tame scales
        const mk_dtype_info *info = mk_dtype_get((int64_t)t);
        for (size_t i = 0; i < (size_t)(n_mat * n_out) * row; i++) {
            data[i] = (uint8_t)mk_rng_u64(seed, i);
        }
        for (size_t b = 0; info->group != 0 && b < (size_t)(n_mat * n_out) * row;
             b += (size_t)info->block_bytes) {
            size_t at = t == MK_DTYPE_Q6_K ? 208 : t == MK_DTYPE_Q3_K ? 108 : 0;
            uint8_t tame[4] = {data[b + at], 0x21, data[b + at + 2],
                               0x1D};  // two f16 of about 0.01
            memcpy(data + b + at, tame, t == MK_DTYPE_Q4_K || t == MK_DTYPE_Q4_1 ? 4 : 2);
        }
        for (size_t i = 0; t == MK_DTYPE_F8_E4M3 && i < (size_t)(n_mat * n_out) * row; i++) {
            data[i] = (data[i] & 0x7F) == 0x7F ? 0 : data[i];
        }
    }
    mk_weight w;
    mk_weight_src src = {t, data, n_mat, n_out, n_in, row, (size_t)n_out * row, NULL, NULL, 0};
    if (mk_weight_pack(&src, pool, &w, NULL) != MK_OK) {
        abort();
    }
    mk_free(f);
    mk_free(data);
    return w;
}

typedef struct {
    mk_mat x, y;
    const mk_weight *w;
    const float *bias;
    mk_moe moe;
} linear_step;

static void step_linear(mk_ops *ops, void *arg) {
    linear_step *s = arg;
    mk_op_linear(ops, s->y, s->x, s->w, s->bias);
}

static void step_moe(mk_ops *ops, void *arg) {
    linear_step *s = arg;
    mk_op_moe(ops, s->y, s->x, &s->moe);
}

static void hash_linears(mk_ops *ops) {
    static const mk_dtype types[] = {MK_DTYPE_F32,  MK_DTYPE_F16,   MK_DTYPE_BF16, MK_DTYPE_F8_E4M3,
                                     MK_DTYPE_Q8_0, MK_DTYPE_Q4_0,  MK_DTYPE_Q4_1, MK_DTYPE_Q4_K,
                                     MK_DTYPE_Q6_K, MK_DTYPE_IQ4_NL};
    enum { OUT = 83, IN = 512, TOK = 19 };
    float *x = floats(TOK * IN, 1), *bias = floats(OUT, 2), *y = floats(TOK * OUT, 3);
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        mk_weight w = random_weight(types[i], 1, OUT, IN, mk_ops_pool(ops), 10 + i);
        for (int64_t n = 1; n <= TOK; n += 3) {
            linear_step s = {{x, n, IN, IN}, {y, n, OUT, OUT}, &w, bias, {0}};
            run(ops, step_linear, &s);
            add_mat(s.y);
        }
        mk_weight_free(&w);
    }
    mk_free(x);
    mk_free(bias);
    mk_free(y);
}

typedef struct {
    mk_mat dx, dy, x;
    float *g, *bias;
    const mk_weight *w;
} back_linear_step;

static void step_back_linear(mk_ops *ops, void *arg) {
    back_linear_step *s = arg;
    mk_back_linears(ops, &(mk_back_linear){s->dx, s->dy, s->x, s->w, 0, s->g}, 1);
    mk_back_bias(ops, s->bias, s->dy);
}

// More tokens, and more outputs, than are summed in one run; columns that no group divides.
static void hash_back_linears(mk_ops *ops) {
    static const mk_dtype types[] = {MK_DTYPE_F32,  MK_DTYPE_F16,   MK_DTYPE_BF16, MK_DTYPE_F8_E4M3,
                                     MK_DTYPE_Q8_0, MK_DTYPE_Q4_1,  MK_DTYPE_Q4_K, MK_DTYPE_Q6_K,
                                     MK_DTYPE_Q5_0, MK_DTYPE_IQ4_NL};
    enum { OUT = 403, IN = 256, TOK = 401 };
    float *x = floats(TOK * IN, 90), *dy = floats(TOK * OUT, 91), *dx = floats(TOK * IN, 92),
          *bias = floats(OUT, 93), *g = floats((OUT + 15) / 16 * 16 * IN, 94);
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        mk_weight w = random_weight(types[i], 1, OUT, IN, mk_ops_pool(ops), 95 + i);
        int64_t n = i == 0 || types[i] == MK_DTYPE_BF16 ? TOK : 19;
        back_linear_step s = {{dx, n, IN, IN}, {dy, n, OUT, OUT}, {x, n, IN, IN}, g, bias, &w};
        run(ops, step_back_linear, &s);
        add_mat(s.dx);
        mk_weight_free(&w);
    }
    add_bytes(g, mk_grad_floats(&(mk_weight){.n_out = OUT, .n_in = IN}) * sizeof *g);
    add_bytes(bias, OUT * sizeof *bias);
    mk_free(x);
    mk_free(dy);
    mk_free(dx);
    mk_free(bias);
    mk_free(g);
}

static void hash_rounding(const mk_kernels *k) {
    enum { TILES = 3, IN = 35 };
    float *from = floats(TILES * IN * 16, 96);
    uint16_t to[TILES * (IN + 1) * 16];
    k->round_tiles((uint8_t *)to, from, IN, TILES);
    add_bytes(to, sizeof to);
    mk_free(from);
}

// Low rank, magnitudes, lengths and the merged weight; the product of what was merged is the last.
static void hash_adapters(mk_ops *ops) {
    enum { OUT = 83, IN = 512, RANK = 19, TOK = 141 };
    float *x = floats(TOK * IN, 150), *y = floats(TOK * OUT, 151), *m = floats(2 * OUT, 152);
    for (uint64_t i = 0; i < 2; i++) {
        mk_dtype t = i == 0 ? MK_DTYPE_Q4_K : MK_DTYPE_F32;
        mk_weight w = random_weight(t, 1, OUT, IN, mk_ops_pool(ops), 153 + i);
        mk_adapter ad = {.scale = 0.3f, .magnitude = m, .norm = m + OUT};
        ad.a = random_weight(MK_DTYPE_F32, 1, RANK, IN, mk_ops_pool(ops), 155);
        ad.b = random_weight(MK_DTYPE_F32, 1, OUT, RANK, mk_ops_pool(ops), 156);
        w.adapter = &ad;
        linear_step s = {{x, TOK, IN, IN}, {y, TOK, OUT, OUT}, &w, m, {0}};
        mk_adapter_norms(mk_ops_kernels(ops), mk_ops_pool(ops), &w, &ad);
        add_bytes(ad.norm, OUT * sizeof *ad.norm);
        run(ops, step_linear, &s);
        add_mat(s.y);
        if (w.kind == MK_PACK_F32) {
            mk_adapter_merge(mk_ops_kernels(ops), mk_ops_pool(ops), &w, &ad);
            w.adapter = NULL;
            run(ops, step_linear, &s);
            add_mat(s.y);
        }
        mk_weight_free(&w);
        mk_weight_free(&ad.a);
        mk_weight_free(&ad.b);
    }
    mk_free(x);
    mk_free(y);
    mk_free(m);
}

static void hash_experts(mk_ops *ops) {
    enum { E = 8, USED = 2, D = 64, FF = 96, TOK = 21 };
    float *x = floats(TOK * D, 4), *y = floats(TOK * D, 5), *w = floats(TOK * USED, 6);
    int32_t sel[TOK * USED];
    for (int t = 0; t < TOK; t++) {
        sel[2 * t] = t % 5;
        sel[2 * t + 1] = 5 + t % 3;
    }
    mk_weight gate = random_weight(MK_DTYPE_Q8_0, E, FF, D, mk_ops_pool(ops), 30);
    mk_weight up = random_weight(MK_DTYPE_Q8_0, E, FF, D, mk_ops_pool(ops), 31);
    mk_weight down = random_weight(MK_DTYPE_BF16, E, D, FF, mk_ops_pool(ops), 32);
    linear_step s = {{x, TOK, D, D},
                     {y, TOK, D, D},
                     NULL,
                     NULL,
                     {&gate, &up, &down, sel, {w, TOK, USED, USED}, USED}};
    run(ops, step_moe, &s);
    add_mat(s.y);
    mk_weight_free(&gate);
    mk_weight_free(&up);
    mk_weight_free(&down);
    mk_free(x);
    mk_free(y);
    mk_free(w);
}

// --- rows ----------------------------------------------------------------------------------------
typedef struct {
    mk_mat x, u, cs, logits, w;
    const float *weight;
    const int32_t *pos;
    int32_t *sel;
    const mk_route *route;
} rows_step;

static void step_rows(mk_ops *ops, void *arg) {
    rows_step *s = arg;
    mk_op_rmsnorm(ops, s->x, s->x, s->weight, 1e-6f);
    mk_op_swiglu(ops, s->u, s->x, s->u);
    mk_op_rope_angles(ops, s->cs, s->pos, s->weight, s->cs.n_col / 2, 1.0);
    mk_op_rope(ops, s->u, &(mk_rope){3, 40, 4, 16, MK_ROPE_HALF}, s->cs);
    mk_op_rope(ops, s->x, &(mk_rope){3, 40, 0, 16, MK_ROPE_INTERLEAVED}, s->cs);
    mk_op_add(ops, s->x, s->u);
    mk_op_route(ops, s->route, s->logits, s->sel, s->w);
}

static void hash_rows(mk_ops *ops) {
    enum { TOK = 13, D = 121, E = 32, USED = 4 };
    float *x = floats(TOK * D, 40), *u = floats(TOK * D, 41), *w = floats(D, 42),
          *cs = floats(TOK * 32, 43);
    float *logits = floats(TOK * E, 44), *weights = floats(TOK * USED, 45), *bias = floats(E, 46);
    int32_t pos[TOK], sel[TOK * USED];
    for (int i = 0; i < TOK; i++) {
        pos[i] = i * 1000;
    }
    const mk_route routes[] = {{E, USED, MK_SCORE_SOFTMAX, MK_GROUP_MAX, 8, 3, false, 2.0f, NULL},
                               {E, USED, MK_SCORE_SIGMOID, MK_GROUP_TOP2, 8, 4, true, 2.5f, bias}};
    for (int i = 0; i < 2; i++) {
        rows_step s = {{x, TOK, D, D},
                       {u, TOK, D, D},
                       {cs, TOK, 32, 32},
                       {logits, TOK, E, E},
                       {weights, TOK, USED, USED},
                       w,
                       pos,
                       sel,
                       &routes[i]};
        run(ops, step_rows, &s);
        add_mat(s.x);
        add_mat(s.u);
        add_mat(s.w);
        add_bytes(sel, sizeof sel);
    }
    mk_free(x);
    mk_free(u);
    mk_free(w);
    mk_free(cs);
    mk_free(logits);
    mk_free(weights);
    mk_free(bias);
}

// --- backward of rows ----------------------------------------------------------------------------
typedef struct {
    mk_mat dy, x, u, a, b, cs, logits, dlogits, dw;
    float *sum, *row;
    const float *weight;
    const int32_t *ids, *sel;
    const mk_route *route;
} back_step;

static void step_back(mk_ops *ops, void *arg) {
    back_step *s = arg;
    mk_back_rmsnorm(ops, s->a, s->sum, s->dy, s->x, s->weight, 1e-6f);
    mk_back_swiglu(ops, s->a, s->b, s->dy, s->x, s->u);
    mk_back_rope(ops, s->b, &(mk_rope){3, 40, 4, 16, MK_ROPE_HALF}, s->cs);
    mk_back_embed(ops, s->sum, s->a, s->ids);
    mk_back_route(ops, s->dlogits, s->dw, s->route, s->logits, s->sel);
    mk_op_logprob(ops, s->row, s->row + 13, s->b, s->ids, 0.7f);
    mk_op_entropy(ops, s->row + 26, s->b, 0.7f);
    mk_back_logprob(ops, s->a, s->b, s->ids, s->weight, 0.7f);
}

static void hash_back_rows(mk_ops *ops) {
    enum { TOK = 13, D = 121, E = 32, USED = 4, MATS = 5 };
    float *m = floats(MATS * TOK * D, 100), *w = floats(D, 101), *cs = floats(TOK * 32, 102),
          *l = floats(2 * TOK * E, 103), *dw = floats(TOK * USED, 104), *sum = floats(9 * D, 105),
          *row = floats(3 * TOK, 106);
    int32_t ids[TOK], sel[TOK * USED];
    for (int t = 0; t < TOK; t++) {
        ids[t] = t * t % 9;
        for (int k = 0; k < USED; k++) {
            sel[t * USED + k] = 8 * k + t % 8;
        }
    }
    for (int i = 0; i < 2; i++) {
        mk_route r = {
            E,    USED, i == 0 ? MK_SCORE_SOFTMAX : MK_SCORE_SIGMOID, MK_GROUP_NONE, 1, 1, true,
            2.5f, NULL};
        back_step s = {.cs = {cs, TOK, 32, 32},
                       .logits = {l, TOK, E, E},
                       .dlogits = {l + TOK * E, TOK, E, E},
                       .dw = {dw, TOK, USED, USED},
                       .sum = sum,
                       .row = row,
                       .weight = w,
                       .ids = ids,
                       .sel = sel,
                       .route = &r};
        mk_mat *mats[MATS] = {&s.dy, &s.x, &s.u, &s.a, &s.b};
        for (int k = 0; k < MATS; k++) {
            *mats[k] = (mk_mat){m + k * TOK * D, TOK, D, D};
        }
        run(ops, step_back, &s);
        add_mat(s.a);
        add_mat(s.b);
        add_mat(s.dlogits);
        add_bytes(sum, 9 * D * 4);
        add_bytes(row, 3 * TOK * 4);
    }
    mk_free(m);
    mk_free(w);
    mk_free(cs);
    mk_free(l);
    mk_free(dw);
    mk_free(sum);
    mk_free(row);
}

// --- attention -----------------------------------------------------------------------------------
typedef struct {
    const mk_attn *a;
    mk_kv_layer kv;
    mk_rows rows;
    mk_mat k, v, q, y, dk, dv, dq;
} attn_step;

static void step_attention(mk_ops *ops, void *arg) {
    attn_step *s = arg;
    mk_op_kv_store(ops, s->a, s->kv, &s->rows, s->k, s->v);
    mk_op_attention(ops, s->y, s->q, s->a, s->kv, &s->rows);
}

static void step_back_attention(mk_ops *ops, void *arg) {
    attn_step *s = arg;
    mk_back_attention(ops, s->dq, s->dk, s->dv, s->y, s->q, s->k, s->v, s->a, &s->rows);
}

// Gradients of what step_attention has left behind, y being its own gradient.
static void hash_back_attention(mk_ops *ops, attn_step s, uint64_t seed) {
    if (s.a->latent) {
        s.v = (mk_mat){0};
    }
    const mk_mat in[3] = {s.q, s.k, s.v};
    mk_mat *out[3] = {&s.dq, &s.dk, &s.dv};
    for (uint64_t i = 0; i < 3; i++) {
        *out[i] = in[i];
        out[i]->p = in[i].p == NULL ? NULL : floats(in[i].n_row * in[i].n_col, seed + i);
    }
    run(ops, step_back_attention, &s);
    for (int i = 0; i < 3; i++) {
        if (out[i]->p != NULL) {
            add_mat(*out[i]);
            mk_free(out[i]->p);
        }
    }
}

static void hash_attention(mk_ops *ops, const mk_attn *a, uint64_t seed) {
    enum { TOK = 150 };
    static const int32_t table[3] = {2, 0, 1};
    int32_t pos[TOK];
    const int32_t *tables[TOK];
    for (int i = 0; i < TOK; i++) {
        pos[i] = i;
        tables[i] = table;
    }
    int64_t kc = a->n_kv_head * a->d_k, vc = a->n_kv_head * a->d_v, qc = a->n_head * a->d_k,
            yc = a->n_head * a->d_v;
    float *k = floats(TOK * kc, seed), *v = floats(TOK * vc, seed + 1),
          *q = floats(TOK * qc, seed + 2);
    float *y = floats(TOK * yc, seed + 3);
    mk_kv_layer kv = {mk_zalloc(3 * mk_attn_block_bytes(a)), mk_attn_block_bytes(a)};
    attn_step s = {a,
                   kv,
                   {TOK, pos, tables},
                   {k, TOK, kc, kc},
                   {v, TOK, vc, vc},
                   {q, TOK, qc, qc},
                   {y, TOK, yc, yc},
                   {0},
                   {0},
                   {0}};
    run(ops, step_attention, &s);
    add_mat(s.y);
    if (a->type != MK_KV_Q8) {
        hash_back_attention(ops, s, seed + 4);
    }
    mk_free(kv.base);
    mk_free(k);
    mk_free(v);
    mk_free(q);
    mk_free(y);
}

static void hash_attentions(mk_ops *ops) {
    static const mk_attn shapes[] = {
        {.n_head = 8, .n_kv_head = 2, .d_k = 64, .d_v = 64, .type = MK_KV_F32, .scale = 0.125f},
        {.n_head = 6, .n_kv_head = 2, .d_k = 40, .d_v = 24, .type = MK_KV_F16, .scale = 0.15f},
        {.n_head = 16,
         .n_kv_head = 1,
         .d_k = 72,
         .d_v = 64,
         .latent = true,
         .type = MK_KV_F16,
         .scale = 0.1f},
        {.n_head = 8, .n_kv_head = 2, .d_k = 64, .d_v = 72, .type = MK_KV_Q8, .scale = 0.125f},
        {.n_head = 16,
         .n_kv_head = 1,
         .d_k = 224,
         .d_v = 160,
         .latent = true,
         .type = MK_KV_Q8,
         .scale = 0.1f},
    };
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        hash_attention(ops, &shapes[i], 50 + 10 * i);
    }
}

// --- optimisers ----------------------------------------------------------------------------------
typedef struct {
    mk_adamw a;
    mk_adamw_tensor t[2];  // float32 and 8-bit moments
    mk_muon_tensor muon;
    double sum;
} optim_step;

static void step_optim(mk_ops *ops, void *arg) {
    optim_step *s = arg;
    mk_op_sum_squares(ops, &s->sum, &(mk_flat){s->t[0].g, s->t[0].n}, 1);
    mk_op_adamw(ops, &s->a, s->t, 2);
    mk_op_muon(ops, &s->muon);
}

static void hash_optim(mk_ops *ops) {
    enum { N = 20011, N8 = 777, OUT = 40, IN = 50, M = 48 * IN };
    static mk_code8 m_code, v_code;
    static uint8_t m8[N8], v8[N8];
    static float max[2][4], m[N], v[N], momentum[M];
    float *p = floats(N + N8 + M, 100), *g = floats(N + N8 + M, 101);
    mk_code8_init(&m_code, true);
    mk_code8_init(&v_code, false);
    memset(m8, 0, sizeof m8);
    memset(v8, 0, sizeof v8);
    memset(max, 0, sizeof max);
    memset(m, 0, sizeof m);
    memset(v, 0, sizeof v);
    memset(momentum, 0, sizeof momentum);
    optim_step s = {
        .a = {0.5f, 0.9f, 0.95f, 0.1f, 0.05f, 1.5f, 1e-8f, false, &m_code, &v_code},
        .t = {{.p = p, .g = g, .n = N, .m = m, .v = v, .keep = 0.99f, .step = 0.01f},
              {.p = p + N, .g = g + N, .n = N8, .m8 = m8, .v8 = v8, .keep = 0.99f, .step = 0.01f}},
        .muon = {p + N + N8, g + N + N8, momentum, 1, OUT, IN, 0.5f, 0.95f, 0.05f, 0.99f, 0.01f,
                 false},
    };
    s.t[1].m_max = max[0];
    s.t[1].v_max = max[1];
    // rows of the matrix beyond OUT are not zero here, which is as good for a hash
    for (int i = 0; i < 3; i++) {
        run(ops, step_optim, &s);
        add_bytes(&s.sum, sizeof s.sum);
    }
    add_bytes(p, (N + N8 + M) * sizeof *p);
    add_bytes(m, sizeof m);
    add_bytes(v, sizeof v);
    add_bytes(m8, sizeof m8);
    add_bytes(v8, sizeof v8);
    add_bytes(max, sizeof max);
    mk_free(p);
    mk_free(g);
}

static uint64_t hash_of(const mk_kernels *k, int n_thread) {
    mk_pool *pool = mk_pool_create(n_thread);
    mk_ops *ops = mk_ops_create(k, pool);
    hash = 0;
    hash_linears(ops);
    hash_adapters(ops);
    hash_experts(ops);
    hash_back_linears(ops);
    hash_rounding(k);
    hash_rows(ops);
    hash_back_rows(ops);
    hash_attentions(ops);
    hash_optim(ops);
    mk_ops_destroy(ops);
    mk_pool_destroy(pool);
    return hash;
}

int main(int argc, char **argv) {
    if (argc > 1) {
        const mk_kernels *k = NULL;
        mk_err err = {0};
        if (mk_kernels_find(argv[1], &k, &err) != MK_OK) {
            fprintf(stderr, "ops_hash_isa: %s\n", err.msg);
            return 1;
        }
        int n_thread = argc > 2 ? atoi(argv[2]) : 1;
        printf("%016" PRIx64 "\n", hash_of(k, n_thread > 0 ? n_thread : 1));
        return 0;
    }
    uint64_t first = 0;
    bool same = true;
    for (int i = 0; mk_kernels_at(i) != NULL; i++) {
        for (int n = 1; n <= 3; n++) {
            uint64_t h = hash_of(mk_kernels_at(i), n);
            first = i == 0 && n == 1 ? h : first;
            same = same && h == first;
            printf("%-10s %d threads %016" PRIx64 "\n", mk_kernels_name(mk_kernels_at(i)), n, h);
        }
    }
    return same ? 0 : 1;
}
