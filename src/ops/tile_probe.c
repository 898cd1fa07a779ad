// The linear kernel of one type of weights alone, for measuring.  The shape is the smallest that
// takes the way of a prompt (cpu/tile.h: many tokens): as an integer type it fits a cache of 32 KB.
#include <string.h>

#include "base/alloc.h"
#include "base/log.h"
#include "ops/kernels.h"

#define N_COL    256  // the longest block of any type
#define N_TOK    40
#define ROWS     16
#define ANY_BYTE 0x35  // as every byte of the weights: ordinary numbers in every type

struct mk_tile_probe {
    const mk_kernels *k;
    mk_weight w;
    uint8_t *x;  // prepared
    float *y;    // [n_thread][N_TOK][ROWS]
    size_t x_bytes, y_bytes;
    int n_thread;
};

static mk_status make_weight(mk_dtype dtype, mk_pool *pool, mk_weight *w, mk_err *err) {
    size_t row = 0;
    const float scale[N_COL / MK_F8_GROUP] = {1, 1};
    if (!mk_dtype_is_float(dtype) || !mk_dtype_row_bytes(dtype, N_COL, &row)) {
        return MK_FAIL(err, MK_EUNSUPPORTED, "there is no kernel for weights of type %d", dtype);
    }
    uint8_t *data = mk_alloc(ROWS * row);
    memset(data, ANY_BYTE, ROWS * row);
    mk_weight_src src = {.dtype = dtype,
                         .data = data,
                         .n_mat = 1,
                         .n_out = ROWS,
                         .n_in = N_COL,
                         .row_bytes = row,
                         .mat_stride = ROWS * row,
                         .tile_scale = scale,
                         .tile_cols = N_COL / MK_F8_GROUP};
    mk_status st = mk_weight_pack(&src, pool, w, err);
    mk_free(data);
    return st;
}

static void make_activations(mk_tile_probe *p) {
    float *x = mk_alloc(N_TOK * N_COL * sizeof *x);
    for (int i = 0; i < N_TOK * N_COL; i++) {
        x[i] = (float)(i * 37 % 101 - 50) / 16;
    }
    mk_prep_job job = {
        .x = x, .stride = N_COL, .row_div = 1, .n_tok = N_TOK, .n_in = N_COL, .dst = p->x};
    p->k->prep[mk_weight_form(&p->w)](&job, 0, N_TOK / MK_X_BLOCK * (N_COL / MK_X_CHUNK));
    mk_free(x);
}

mk_status mk_tile_probe_create(const mk_kernels *k, mk_dtype dtype, mk_pool *pool,
                               mk_tile_probe **out, mk_err *err) {
    mk_tile_probe *p = mk_zalloc(sizeof *p);
    mk_status st = make_weight(dtype, pool, &p->w, err);
    if (st == MK_OK) {
        p->k = k;
        p->n_thread = mk_pool_n_thread(pool);
        p->x_bytes = mk_x_bytes(mk_weight_form(&p->w), N_TOK, N_COL);
        p->y_bytes = (size_t)p->n_thread * N_TOK * ROWS * sizeof *p->y;
        p->x = mk_big_alloc(p->x_bytes);
        p->y = mk_big_alloc(p->y_bytes);
        if (p->x == NULL || p->y == NULL) {
            st = MK_FAIL(err, MK_ENOMEM, "no memory for one tile of weights");
        }
    }
    if (st != MK_OK) {
        mk_tile_probe_destroy(p);
        return st;
    }
    make_activations(p);
    *out = p;
    return MK_OK;
}

void mk_tile_probe_destroy(mk_tile_probe *p) {
    if (p != NULL) {
        mk_weight_free(&p->w);
        mk_big_free(p->x, p->x_bytes);
        mk_big_free(p->y, p->y_bytes);
        mk_free(p);
    }
}

mk_arith mk_tile_probe_arith(const mk_tile_probe *p) {
    mk_x_form form = mk_weight_form(&p->w);
    return form == MK_X_I8 ? MK_ARITH_INT8 : form == MK_X_BF16 ? MK_ARITH_BF16 : MK_ARITH_F32;
}

double mk_tile_probe_ops(const mk_tile_probe *p) {
    (void)p;
    return 2.0 * ROWS * N_COL * N_TOK;
}

void mk_tile_probe_run(const mk_tile_probe *p, int ith, int64_t n) {
    MK_ASSERT(ith >= 0 && ith < p->n_thread);
    mk_linear_job job = {.w = &p->w,
                         .data = p->w.data,
                         .x = p->x,
                         .n_tok = N_TOK,
                         .y = p->y + (int64_t)ith * N_TOK * ROWS,
                         .y_stride = ROWS};
    for (int64_t i = 0; i < n; i++) {
        p->k->linear[p->w.kind](&job, 0, 1);
    }
}
