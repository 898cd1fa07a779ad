// Adapters as matrices: the lengths of DoRA's rows, and merging.  Both walk the weight tile by
// tile, a piece of columns at a time, and never hold B A as a whole.
#include <string.h>

#include "base/mathx.h"
#include "ops/ops_int.h"

#define PIECE 256  // columns at a time: a multiple of every layout's groups

typedef struct {
    const mk_kernels *k;
    const mk_weight *w;
    const mk_adapter *ad;
    float *norm;  // or NULL: merging
} adapter_work;

static int64_t mat_of(const mk_weight *w, int64_t mat) {
    return w->n_mat == 1 ? 0 : mat;
}

static const float *matrix_a(const mk_adapter *ad, int64_t mat) {
    return (const float *)(const void *)(ad->a.data +
                                         (size_t)mat_of(&ad->a, mat) * ad->a.mat_bytes);
}

static const float *tile_b(const mk_adapter *ad, int64_t mat, int64_t tile) {
    const uint8_t *p = ad->b.data + (size_t)mat_of(&ad->b, mat) * ad->b.mat_bytes;
    return (const float *)(const void *)p + tile * 16 * ad->a.n_out;
}

static uint8_t *tile_w(const mk_weight *w, int64_t mat, int64_t tile) {
    return w->data + (size_t)mat * w->mat_bytes + (size_t)tile * mk_weight_tile_bytes(w);
}

// Columns [col, col + n) of a tile of W + scale B A.
static void changed(const adapter_work *w, int64_t mat, int64_t tile, int64_t col, int64_t n,
                    float *out) {
    w->k->unpack(w->w, tile_w(w->w, mat, tile), col, n, out);
    w->k->low_rank_add(w->ad, tile_b(w->ad, mat, tile), matrix_a(w->ad, mat), col, n, out);
}

static float length(double squares) {
    return squares > 0 ? (float)__builtin_sqrt(squares) : 1;
}

static void row_lengths(const adapter_work *w, int64_t mat, int64_t tile) {
    float piece[PIECE * 16];
    double sum[16] = {0};
    int64_t n_out = w->w->n_out, n_in = w->w->n_in;
    for (int64_t col = 0; col < n_in; col += PIECE) {
        int64_t n = n_in - col < PIECE ? n_in - col : PIECE;
        changed(w, mat, tile, col, n, piece);
        for (int64_t i = 0; i < n; i++) {
            for (int r = 0; r < 16; r++) {
                sum[r] += (double)piece[16 * i + r] * (double)piece[16 * i + r];
            }
        }
    }
    for (int64_t r = 0; r < 16 && tile * 16 + r < n_out; r++) {
        w->norm[mat * n_out + tile * 16 + r] = length(sum[r]);
    }
}

// Rows beyond the last are zero in W and in B.
static void column_lengths(const adapter_work *w, int64_t mat, int64_t piece_at) {
    float piece[PIECE * 16];
    double sum[PIECE] = {0};
    int64_t col = piece_at * PIECE, n_in = w->w->n_in;
    int64_t n = n_in - col < PIECE ? n_in - col : PIECE;
    for (int64_t tile = 0; tile < mk_weight_tiles(w->w); tile++) {
        changed(w, mat, tile, col, n, piece);
        for (int64_t i = 0; i < n; i++) {
            for (int r = 0; r < 16; r++) {
                sum[i] += (double)piece[16 * i + r] * (double)piece[16 * i + r];
            }
        }
    }
    for (int64_t i = 0; i < n; i++) {
        w->norm[mat * n_in + col + i] = length(sum[i]);
    }
}

static void merge_tile(const adapter_work *w, int64_t mat, int64_t tile) {
    const mk_adapter *ad = w->ad;
    int64_t n_in = w->w->n_in, n_out = w->w->n_out;
    float *p = mk_weight_values(w->w) + (mat * mk_weight_tiles(w->w) + tile) * 16 * n_in;
    w->k->low_rank_add(ad, tile_b(ad, mat, tile), matrix_a(ad, mat), 0, n_in, p);
    for (int64_t i = 0; ad->magnitude != NULL && i < n_in; i++) {
        for (int64_t r = 0; r < 16 && tile * 16 + r < n_out; r++) {
            int64_t at = ad->of_columns ? mat * n_in + i : mat * n_out + tile * 16 + r;
            p[16 * i + r] *= ad->magnitude[at] / ad->norm[at];
        }
    }
}

// Units: tiles of all matrices, or pieces of columns of all matrices.
static int64_t units_of(const adapter_work *w) {
    return w->norm != NULL && w->ad->of_columns ? (w->w->n_in + PIECE - 1) / PIECE
                                                : mk_weight_tiles(w->w);
}

static void run_units(void *arg, int ith, int n_thread) {
    const adapter_work *w = arg;
    int64_t lo, hi, units = units_of(w);
    mk_pool_split(w->w->n_mat * units, 1, ith, n_thread, &lo, &hi);
    for (int64_t u = lo; u < hi; u++) {
        if (w->norm == NULL) {
            merge_tile(w, u / units, u % units);
        } else if (w->ad->of_columns) {
            column_lengths(w, u / units, u % units);
        } else {
            row_lengths(w, u / units, u % units);
        }
    }
}

static void run(adapter_work *w, mk_pool *pool) {
    const mk_adapter *ad = w->ad;
    MK_ASSERT(ad->a.kind == MK_PACK_F32 && ad->b.kind == MK_PACK_F32 && ad->a.n_out == ad->b.n_in &&
              ad->a.n_in == w->w->n_in && ad->b.n_out == w->w->n_out);
    uint64_t fpu = mk_fpu_enter();  // as the workers
    mk_pool_run(pool, run_units, w);
    mk_fpu_leave(fpu);
}

void mk_adapter_norms(const mk_kernels *k, mk_pool *pool, const mk_weight *w, mk_adapter *ad) {
    MK_ASSERT(ad->norm != NULL);
    run(&(adapter_work){k, w, ad, ad->norm}, pool);
}

void mk_adapter_merge(const mk_kernels *k, mk_pool *pool, mk_weight *w, const mk_adapter *ad) {
    MK_ASSERT(mk_weight_values(w) != NULL);
    run(&(adapter_work){k, w, ad, NULL}, pool);
}
