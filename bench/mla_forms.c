// Which form of latent attention: absorbed (compare queries with the latent itself) or expanded
// (multiply the latents out into keys and values of every head, then ordinary attention)?
//
// Usage: mla_forms [threads].  DeepSeek-V2-Lite's widths, BF16 weights, one layer; prints
// milliseconds of one step (median of 5) for decode and a prefill chunk at several depths.
// "expanded" multiplies out all cached latents in every step; "expanded, cached" keeps keys and
// values of every head in the cache instead of the latent (8.9 times the memory).
#include <stdio.h>
#include <stdlib.h>

#include "base/alloc.h"
#include "base/log.h"
#include "base/mathx.h"
#include "ops/ops.h"

enum { N_HEAD = 16, D_NOPE = 128, D_ROPE = 64, D_V = 128, KV_LORA = 512, MAX_T = 4096 + 512 };
enum { D_QK = D_NOPE + D_ROPE, D_LATENT = KV_LORA + D_ROPE, N_KV_B = N_HEAD * (D_NOPE + D_V) };

typedef struct {
    mk_ops *ops;
    mk_weight wk_b, wv_b, wkv_b;
    mk_kv_layer latent, plain;
    int32_t table[MAX_T / MK_KV_BLOCK], pos[MAX_T];
    const int32_t *tables[MAX_T];
    float *q, *latents;  // [MAX_T, N_HEAD * D_QK], [MAX_T, D_LATENT]
} bench;

static const mk_attn absorbed_shape = {.n_head = N_HEAD,
                                       .n_kv_head = 1,
                                       .d_k = D_LATENT,
                                       .d_v = KV_LORA,
                                       .latent = true,
                                       .type = MK_KV_F16,
                                       .scale = 0.1f};
static const mk_attn plain_shape = {.n_head = N_HEAD,
                                    .n_kv_head = N_HEAD,
                                    .d_k = D_QK,
                                    .d_v = D_V,
                                    .type = MK_KV_F16,
                                    .scale = 0.1f};

static void check(mk_status st, const mk_err *err) {
    if (st != MK_OK) {
        fprintf(stderr, "mla_forms: %s\n", err->msg);
        exit(1);
    }
}

static float *random_floats(int64_t n) {
    float *p = mk_alloc((size_t)n * sizeof *p);
    for (int64_t i = 0; i < n; i++) {
        p[i] = (float)mk_rng_unit(1, (uint64_t)i) - 0.5f;
    }
    return p;
}

static mk_weight random_weight(mk_pool *pool, int64_t n_mat, int64_t n_out, int64_t n_in) {
    int64_t n = n_mat * n_out * n_in;
    uint16_t *p = mk_alloc((size_t)n * sizeof *p);
    for (int64_t i = 0; i < n; i++) {
        p[i] = mk_bf16_from_f32((float)mk_rng_unit(2, (uint64_t)i) * 0.1f - 0.05f);
    }
    mk_weight_src src = {.dtype = MK_DTYPE_BF16,
                         .data = (const uint8_t *)p,
                         .n_mat = n_mat,
                         .n_out = n_out,
                         .n_in = n_in,
                         .row_bytes = (size_t)n_in * 2,
                         .mat_stride = (size_t)(n_out * n_in) * 2};
    mk_weight w;
    mk_err err = {0};
    check(mk_weight_pack(&src, pool, &w, &err), &err);
    mk_free(p);
    return w;
}

static mk_mat view(float *p, int64_t first, int64_t n_row, int64_t n_col) {
    return (mk_mat){p + first * n_col, n_row, n_col, n_col};
}

// One step of n tokens behind `depth` cached ones.
static void absorbed(bench *b, int64_t depth, int64_t n) {
    mk_rows rows = {n, b->pos + depth, b->tables + depth};
    mk_mat q = view(b->q, depth, n, N_HEAD * D_QK);
    mk_mat qc = mk_op_new(b->ops, n, N_HEAD * D_LATENT);
    mk_mat y = mk_op_new(b->ops, n, N_HEAD * KV_LORA), o = mk_op_new(b->ops, n, N_HEAD * D_V);
    mk_op_linear_heads(b->ops, qc, D_LATENT, q, D_QK, &b->wk_b);
    mk_op_kv_store(b->ops, &absorbed_shape, b->latent, &rows, view(b->latents, depth, n, D_LATENT),
                   (mk_mat){0});
    mk_op_attention(b->ops, y, qc, &absorbed_shape, b->latent, &rows);
    mk_op_linear_heads(b->ops, o, D_V, y, KV_LORA, &b->wv_b);
}

static void cached(bench *b, int64_t depth, int64_t n) {
    mk_rows rows = {n, b->pos + depth, b->tables + depth};
    mk_mat kv = mk_op_new(b->ops, n, N_KV_B), o = mk_op_new(b->ops, n, N_HEAD * D_V);
    mk_op_linear(b->ops, kv, mk_mat_cols(view(b->latents, depth, n, D_LATENT), 0, KV_LORA),
                 &b->wkv_b, NULL);
    // keys and values only have to have the right size here
    mk_op_kv_store(b->ops, &plain_shape, b->plain, &rows, view(b->q, depth, n, N_HEAD * D_QK),
                   mk_mat_cols(kv, 0, N_HEAD * D_V));
    mk_op_attention(b->ops, o, view(b->q, depth, n, N_HEAD * D_QK), &plain_shape, b->plain, &rows);
}

static void expanded(bench *b, int64_t depth, int64_t n) {
    mk_mat kv = mk_op_new(b->ops, depth + n, N_KV_B);
    mk_op_linear(b->ops, kv, mk_mat_cols(view(b->latents, 0, depth + n, D_LATENT), 0, KV_LORA),
                 &b->wkv_b, NULL);
    cached(b, depth, n);
}

typedef void (*form)(bench *b, int64_t depth, int64_t n);

static int by_value(const void *x, const void *y) {
    double a = *(const double *)x, b = *(const double *)y;
    return (a > b) - (a < b);
}

static double median_ms(bench *b, form f, int64_t depth, int64_t n) {
    double ms[5];
    mk_err err = {0};
    mk_ops_begin(b->ops, true);
    f(b, depth, n);
    mk_ops_end(b->ops);
    check(mk_ops_reserve(b->ops, mk_ops_high_water(b->ops), &err), &err);
    for (int i = 0; i < 5; i++) {
        uint64_t t0 = mk_now_ns();
        mk_ops_begin(b->ops, false);
        f(b, depth, n);
        mk_ops_end(b->ops);
        ms[i] = (double)(mk_now_ns() - t0) / 1e6;
    }
    qsort(ms, 5, sizeof *ms, by_value);
    return ms[2];
}

static mk_kv_layer cache(const mk_attn *a) {
    size_t n = mk_attn_block_bytes(a);
    return (mk_kv_layer){mk_big_alloc(n * (MAX_T / MK_KV_BLOCK)), n};
}

int main(int argc, char **argv) {
    int n_thread = argc > 1 && argv[1][0] == '1' ? 1 : 2;
    mk_pool *pool = mk_pool_create(n_thread);
    const mk_kernels *k = NULL;
    mk_err err = {0};
    check(mk_kernels_find("auto", &k, &err), &err);
    bench *b = mk_zalloc(sizeof *b);
    *b = (bench){.ops = mk_ops_create(k, pool),
                 .wk_b = random_weight(pool, N_HEAD, KV_LORA, D_NOPE),
                 .wv_b = random_weight(pool, N_HEAD, D_V, KV_LORA),
                 .wkv_b = random_weight(pool, 1, N_KV_B, KV_LORA),
                 .latent = cache(&absorbed_shape),
                 .plain = cache(&plain_shape),
                 .q = random_floats((int64_t)MAX_T * N_HEAD * D_QK),
                 .latents = random_floats((int64_t)MAX_T * D_LATENT)};
    for (int32_t i = 0; i < MAX_T; i++) {
        b->table[i / MK_KV_BLOCK] = i / MK_KV_BLOCK;
        b->pos[i] = i;
        b->tables[i] = b->table;
    }
    printf("%s, %d threads; ms per step and layer\n", mk_kernels_name(k), n_thread);
    printf("%6s %6s %10s %10s %18s\n", "depth", "rows", "absorbed", "expanded", "expanded, cached");
    for (int64_t n = 1; n <= 512; n += 511) {
        for (int64_t depth = 0; depth <= 4096; depth = depth ? depth * 2 : 512) {
            printf("%6lld %6lld %10.3f %10.3f %18.3f\n", (long long)depth, (long long)n,
                   median_ms(b, absorbed, depth, n), median_ms(b, expanded, depth, n),
                   median_ms(b, cached, depth, n));
        }
    }
    return 0;
}
