// Speed of attention alone: one layer, one step of `rows` tokens behind `depth` cached ones.
//
// Usage: bench_attention [threads [repetitions [filter [rows depth]]]].  Shapes: Llama-3.2-1B (32
// heads, 8 kv heads, 64 wide), Llama-3.1-8B (128 wide), Qwen2.5-0.5B (14 heads, 2 kv heads) and
// DeepSeek-V2-Lite (16 heads on one latent of 512 + 64).  Prints the fastest repetition: the
// machine is rarely quiet, and nothing makes a kernel faster than it is.  An operation is a
// multiplication or an addition of a query with a key it sees, or of a probability with a value;
// the softmax counts as nothing.  filter: only lines whose name holds this text; rows and depth:
// this step instead of the usual four.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/log.h"
#include "base/mathx.h"
#include "limits.h"
#include "ops/ops.h"

enum { MAX_T = 16384 + 64 };

typedef struct {
    const char *name;
    mk_attn a;
} shape;

static const shape shapes[] = {
    {"llama-1b", {.n_head = 32, .n_kv_head = 8, .d_k = 64, .d_v = 64, .scale = 0.125f}},
    {"llama-8b", {.n_head = 32, .n_kv_head = 8, .d_k = 128, .d_v = 128, .scale = 0.088f}},
    {"qwen-0.5b", {.n_head = 14, .n_kv_head = 2, .d_k = 64, .d_v = 64, .scale = 0.125f}},
    {"v2-lite",
     {.n_head = 16, .n_kv_head = 1, .d_k = 576, .d_v = 512, .latent = true, .scale = 0.0722f}},
};

enum { N_STEP = 4 };
static const int64_t usual[N_STEP][2] = {{512, 0}, {512, 3584}, {1, 4096}, {1, 16384}};

static const struct {
    mk_kv_type type;
    const char *name;
} types[] = {{MK_KV_F32, "f32"}, {MK_KV_F16, "f16"}, {MK_KV_Q8, "q8"}};

typedef struct {
    mk_ops *ops;
    const mk_attn *a;
    mk_kv_layer kv;
    int32_t table[MAX_T / MK_KV_BLOCK + 1], pos[MAX_T];
    const int32_t *tables[MAX_T];
    float *x, *y;              // queries, keys and values; results
    int64_t steps[N_STEP][2];  // rows, depth
    int n_step;
} bench;

static void check(mk_status st, const mk_err *err) {
    if (st != MK_OK) {
        fprintf(stderr, "attention: %s\n", err->msg);
        exit(1);
    }
}

static mk_mat view(float *p, int64_t n_row, int64_t n_col) {
    return (mk_mat){p, n_row, n_col, n_col};
}

static void store(bench *b, int64_t n) {
    const mk_attn *a = b->a;
    mk_rows rows = {n, b->pos, b->tables};
    mk_mat k = view(b->x, n, a->n_kv_head * a->d_k), v = view(b->x, n, a->n_kv_head * a->d_v);
    mk_op_kv_store(b->ops, a, b->kv, &rows, k, a->latent ? (mk_mat){0} : v);
}

static void attend(bench *b, int64_t depth, int64_t n) {
    const mk_attn *a = b->a;
    mk_rows rows = {n, b->pos + depth, b->tables + depth};
    mk_op_attention(b->ops, view(b->y, n, a->n_head * a->d_v), view(b->x, n, a->n_head * a->d_k), a,
                    b->kv, &rows);
}

static void step(bench *b, bool storing, int64_t depth, int64_t n) {
    for (int dry = 1; dry >= 0; dry--) {
        mk_err err = {0};
        mk_ops_begin(b->ops, dry != 0);
        if (storing) {
            store(b, n);
        } else {
            attend(b, depth, n);
        }
        mk_ops_end(b->ops);
        check(mk_ops_reserve(b->ops, mk_ops_high_water(b->ops), &err), &err);
    }
}

static double fastest_ms(bench *b, int64_t depth, int64_t n, int n_rep) {
    double best = 1e30;
    for (int i = 0; i < n_rep; i++) {
        uint64_t t0 = mk_now_ns();
        step(b, false, depth, n);
        double ms = (double)(mk_now_ns() - t0) / 1e6;
        best = ms < best ? ms : best;
    }
    return best;
}

static double operations(const mk_attn *a, int64_t depth, int64_t n) {
    double keys = (double)n * ((double)depth + (double)(n + 1) / 2);
    return 2 * keys * (double)(a->n_head * (a->d_k + a->d_v));
}

static void measure(bench *b, const shape *s, size_t t, int n_rep, const mk_limits *lim) {
    mk_attn a = s->a;
    a.type = types[t].type;
    size_t block = mk_attn_block_bytes(&a), n_bytes = block * (MAX_T / MK_KV_BLOCK + 1);
    b->a = &a;
    b->kv = (mk_kv_layer){mk_big_alloc(n_bytes), block};
    step(b, true, 0, MAX_T);
    double peak = lim->ops_per_second[a.type == MK_KV_Q8 ? MK_ARITH_INT8 : MK_ARITH_F32];
    for (int i = 0; i < b->n_step; i++) {
        int64_t n = b->steps[i][0], depth = b->steps[i][1];
        double ms = fastest_ms(b, depth, n, n_rep), ops = operations(&a, depth, n) / (ms / 1e3);
        double bytes = (double)block / MK_KV_BLOCK * (double)(depth + n) / (ms / 1e3);
        printf("%-10s %-4s %4lld rows at %5lld %9.3f ms %7.1f Gop/s %5.1f %% of peak %6.1f GB/s\n",
               s->name, types[t].name, (long long)n, (long long)depth, ms, ops / 1e9,
               100 * ops / peak, bytes / 1e9);
        fflush(stdout);
    }
    mk_big_free(b->kv.base, n_bytes);
}

static float *random_floats(int64_t n) {
    float *p = mk_alloc((size_t)n * sizeof *p);
    for (int64_t i = 0; i < n; i++) {
        p[i] = ((float)mk_rng_unit(1, (uint64_t)i) - 0.5f) * 3.0f;
    }
    return p;
}

int main(int argc, char **argv) {
    int n_thread = argc > 1 ? atoi(argv[1]) : 1, n_rep = argc > 2 ? atoi(argv[2]) : 5;
    const char *filter = argc > 3 ? argv[3] : "";
    mk_pool *pool = mk_pool_create(n_thread > 0 ? n_thread : 1);
    const mk_kernels *k = NULL;
    mk_err err = {0};
    mk_limits_probe *probe = NULL;
    check(mk_kernels_find("auto", &k, &err), &err);
    mk_limits_of what = {k, MK_DTYPE_Q8_0, (size_t)64 << 20};
    check(mk_limits_open(pool, what, &probe, &err), &err);
    mk_limits lim = mk_limits_burst(probe);
    mk_limits_close(probe);
    bench *b = mk_zalloc(sizeof *b);
    b->ops = mk_ops_create(k, pool);
    b->n_step = argc > 5 ? 1 : N_STEP;
    memcpy(b->steps, usual, sizeof usual);
    if (argc > 5) {
        b->steps[0][0] = atoi(argv[4]);
        b->steps[0][1] = atoi(argv[5]);
    }
    b->x = random_floats((int64_t)MAX_T * 2048);
    b->y = mk_alloc((size_t)(512 * 16 * 512) * sizeof(float));
    for (int32_t i = 0; i < MAX_T; i++) {
        b->table[i / MK_KV_BLOCK] = i / MK_KV_BLOCK;
        b->pos[i] = i;
        b->tables[i] = b->table;
    }
    printf("%s, %d threads; peak %.0f Gop/s float32, %.0f int8; read %.1f GB/s\n",
           mk_kernels_name(k), n_thread, lim.ops_per_second[MK_ARITH_F32] / 1e9,
           lim.ops_per_second[MK_ARITH_INT8] / 1e9, lim.read_bytes_per_second / 1e9);
    for (size_t s = 0; s < sizeof shapes / sizeof shapes[0]; s++) {
        for (size_t t = 0; t < sizeof types / sizeof types[0]; t++) {
            char name[64];
            snprintf(name, sizeof name, "%s %s", shapes[s].name, types[t].name);
            if (strstr(name, filter) != NULL) {
                measure(b, &shapes[s], t, n_rep, &lim);
            }
        }
    }
    return 0;
}
