// Weights repacked for the kernels: 16 output rows interleaved (docs/numerics.md,
// ops/cpu/linear_*.c state the layouts).
//
// Packing reads 16 rows side by side, a few hundred columns at a time, through buffers on the
// stack: no second copy of the tensor exists.  Threads divide the row tiles.  Quantised types:
// pack_int.c.
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/mathx.h"
#include "ops/pack_int.h"

#define CHUNK 256  // columns at a time

// Layout of the packed form, data not allocated.  false if the type or the shape cannot be packed.
static bool layout_of(const mk_weight_src *src, mk_weight *w) {
    const mk_dtype_info *info = mk_dtype_get((int64_t)src->dtype);
    *w = (mk_weight){
        .n_mat = src->n_mat, .n_out = src->n_out, .n_in = src->n_in, .dtype = src->dtype};
    if (info == NULL || src->n_mat <= 0 || src->n_out <= 0 || src->n_in <= 0 ||
        src->n_in > INT32_MAX || src->n_out > INT32_MAX || src->n_in % info->block != 0) {
        return false;
    }
    if (info->group != 0) {
        return mk_pack_int_layout(info, w);
    }
    switch (src->dtype) {
    case MK_DTYPE_F32:
        w->kind = MK_PACK_F32;
        return true;
    case MK_DTYPE_F16:
        w->kind = MK_PACK_F16;
        return true;
    case MK_DTYPE_BF16:
        w->kind = MK_PACK_BF16;
        return true;
    case MK_DTYPE_F8_E4M3:
        w->kind = MK_PACK_F8;
        return true;
    default:
        return false;
    }
}

static bool sized_layout(const mk_weight_src *src, mk_weight *w, size_t *total) {
    size_t tiles;
    if (!layout_of(src, w)) {
        return false;
    }
    tiles = (size_t)mk_weight_tiles(w);
    return mk_mul_size(tiles, mk_weight_tile_bytes(w), &w->mat_bytes) &&
           mk_mul_size(w->mat_bytes, (size_t)w->n_mat, total);
}

size_t mk_weight_packed_bytes(const mk_weight_src *src) {
    mk_weight w;
    size_t total;
    return sized_layout(src, &w, &total) ? total : 0;
}

mk_status mk_weight_layout(const mk_weight_src *src, mk_weight *out, mk_err *err) {
    size_t total = 0;
    if (!sized_layout(src, out, &total)) {
        const mk_dtype_info *info = mk_dtype_get((int64_t)src->dtype);
        return MK_FAIL(err, MK_EUNSUPPORTED,
                       "weights of type %s with %lld x %lld x %lld elements cannot be packed; "
                       "expected a float or quantised "
                       "type, rows of whole blocks and a size that fits memory",
                       info != NULL && info->name != NULL ? info->name : "?", (long long)src->n_mat,
                       (long long)src->n_out, (long long)src->n_in);
    }
    out->data = NULL;
    return MK_OK;
}

mk_status mk_weight_alloc(const mk_weight_src *src, mk_weight *out, mk_err *err) {
    mk_weight w;
    MK_TRY(mk_weight_layout(src, &w, err));
    size_t total = w.mat_bytes * (size_t)w.n_mat;
    w.data = mk_big_alloc(total);
    if (w.data == NULL) {
        return MK_FAIL(err, MK_ENOMEM, "no memory for %zu bytes of packed weights", total);
    }
    *out = w;
    return MK_OK;
}

void mk_weight_free(mk_weight *w) {
    if (w != NULL && w->data != NULL && !w->borrowed) {
        mk_big_free(w->data, w->mat_bytes * (size_t)w->n_mat);
    }
    if (w != NULL) {
        w->data = NULL;
        w->borrowed = false;
        w->master = NULL;
    }
}

// --- one tile of 16 rows -------------------------------------------------------------------------
typedef struct {
    const mk_weight_src *src;
    const mk_weight *w;
    uint8_t *dst;         // the matrix
    const uint8_t *data;  // the matrix in the source
} pack_job;

// Row r of the matrix, or NULL beyond the last.
static const uint8_t *row_of(const pack_job *job, int64_t r) {
    if (r >= job->src->n_out) {
        return NULL;
    }
    int64_t at = job->src->row_map != NULL ? job->src->row_map[r] : r;
    return job->data + (size_t)at * job->src->row_bytes;
}

// Elements of 4 or 2 bytes, 16 rows to [k][16].
static void tile_words(const uint8_t *const *row, int64_t k0, int64_t n, uint32_t *dst) {
    if (row[MK_TILE - 1] != NULL && n % 4 == 0) {
        mk_pack_words(row, (size_t)k0 * 4, n, dst);
        return;
    }
    for (int r = 0; r < MK_TILE; r++) {
        for (int64_t k = 0; k < n; k++) {
            uint32_t v = 0;
            if (row[r] != NULL) {
                memcpy(&v, row[r] + (size_t)(k0 + k) * 4, 4);
            }
            dst[k * MK_TILE + r] = v;
        }
    }
}

static void tile_halves(const uint8_t *const *row, int64_t k0, int64_t n, uint16_t *dst) {
    if (row[MK_TILE - 1] != NULL && n % 8 == 0) {
        mk_pack_halves(row, (size_t)k0 * 2, n, dst);
        return;
    }
    for (int r = 0; r < MK_TILE; r++) {
        for (int64_t k = 0; k < n; k++) {
            uint16_t v = 0;
            if (row[r] != NULL) {
                memcpy(&v, row[r] + (size_t)(k0 + k) * 2, 2);
            }
            dst[k * MK_TILE + r] = v;
        }
    }
}

static void tile_plain(const pack_job *job, const uint8_t *const *row, uint8_t *dst) {
    int64_t n_in = job->w->n_in;
    if (job->w->kind == MK_PACK_BF16) {
        int64_t pairs = n_in / 2;
        for (int64_t k = 0; k < pairs; k += CHUNK) {
            tile_words(row, k, pairs - k < CHUNK ? pairs - k : CHUNK,
                       (uint32_t *)dst + k * MK_TILE);
        }
        for (int r = 0; r < MK_TILE && n_in % 2 != 0; r++) {  // the last element's partner is zero
            uint16_t last[2] = {0, 0};
            if (row[r] != NULL) {
                memcpy(last, row[r] + (size_t)(n_in - 1) * 2, 2);
            }
            memcpy(dst + ((size_t)pairs * MK_TILE + (size_t)r) * 4, last, 4);
        }
        return;
    }
    for (int64_t k = 0; k < n_in; k += CHUNK) {
        int64_t n = n_in - k < CHUNK ? n_in - k : CHUNK;
        if (job->w->kind == MK_PACK_F32) {
            tile_words(row, k, n, (uint32_t *)dst + k * MK_TILE);
        } else {
            tile_halves(row, k, n, (uint16_t *)dst + k * MK_TILE);
        }
    }
}

// A NaN among the codes of a group becomes a NaN scale, because the kernels widen codes without a
// test.
static float f8_scale(const pack_job *job, const uint8_t *codes, int64_t n, int64_t r, int64_t k) {
    const mk_weight_src *src = job->src;
    int64_t at = src->row_map != NULL ? src->row_map[r] : r;
    float scale = src->tile_scale != NULL
                      ? src->tile_scale[at / MK_F8_GROUP * src->tile_cols + k / MK_F8_GROUP]
                      : 1.0f;
    for (int64_t i = 0; i < n; i++) {
        if ((codes[i] & 0x7F) == 0x7F) {
            return mk_f32_from_bits(0x7FC00000);
        }
    }
    return scale * 0x1p8f;
}

static void tile_f8(const pack_job *job, const uint8_t *const *row, int64_t r0, uint8_t *dst) {
    for (int64_t k = 0; k < job->w->n_in; k += MK_F8_GROUP) {
        int64_t n = job->w->n_in - k < MK_F8_GROUP ? job->w->n_in - k : MK_F8_GROUP;
        float *scale = (float *)dst;
        uint8_t *codes = dst + MK_TILE * sizeof(float);
        for (int r = 0; r < MK_TILE; r++) {
            scale[r] = row[r] != NULL ? f8_scale(job, row[r] + k, n, r0 + r, k) : 0.0f;
            for (int64_t i = 0; i < n; i++) {
                codes[i * MK_TILE + r] = row[r] != NULL ? row[r][k + i] : 0;
            }
        }
        dst = codes + n * MK_TILE;
    }
}

static void pack_tiles(void *arg, int ith, int n_thread) {
    const pack_job *job = arg;
    int64_t lo, hi;
    mk_pool_split(mk_weight_tiles(job->w), 1, ith, n_thread, &lo, &hi);
    for (int64_t tile = lo; tile < hi; tile++) {
        const uint8_t *row[MK_TILE];
        for (int r = 0; r < MK_TILE; r++) {
            row[r] = row_of(job, tile * MK_TILE + r);
        }
        uint8_t *dst = job->dst + (size_t)tile * mk_weight_tile_bytes(job->w);
        if (job->w->kind == MK_PACK_F32 && job->src->dtype != MK_DTYPE_F32) {
            mk_pack_f32_tile(job->src, tile * MK_TILE, row, (float *)dst);
        } else if (job->w->kind >= MK_PACK_I8) {
            if (row[MK_TILE - 1] == NULL || !mk_pack_fast_tile(job->w, row, dst)) {
                mk_pack_int_tile(job->w, row, dst);
            }
        } else if (job->w->kind == MK_PACK_F8) {
            tile_f8(job, row, tile * MK_TILE, dst);
        } else {
            tile_plain(job, row, dst);
        }
    }
}

mk_status mk_weight_pack_one(const mk_weight_src *src, int64_t m, mk_pool *pool, mk_weight *w,
                             mk_err *err) {
    mk_weight layout;
    mk_weight_src as = *src;
    size_t total;
    if (w->kind == MK_PACK_F32 && mk_dtype_is_float(src->dtype) &&
        src->n_in % mk_dtype_get((int64_t)src->dtype)->block == 0) {
        as.dtype = MK_DTYPE_F32;
    }
    if (!sized_layout(&as, &layout, &total) || layout.kind != w->kind || layout.dtype != w->dtype ||
        layout.mat_bytes != w->mat_bytes || layout.n_out != w->n_out || layout.n_in != w->n_in) {
        return MK_FAIL(err, MK_EUNSUPPORTED,
                       "matrix %lld has type %d and shape %lld x %lld, the others have %d and "
                       "%lld x %lld: all experts of a layer must be alike",
                       (long long)m, (int)src->dtype, (long long)src->n_out, (long long)src->n_in,
                       (int)w->dtype, (long long)w->n_out, (long long)w->n_in);
    }
    MK_ASSERT(m >= 0 && m < w->n_mat && w->data != NULL);
    pack_job job = {
        .src = src, .w = w, .dst = w->data + (size_t)m * w->mat_bytes, .data = src->data};
    uint64_t fpu = mk_fpu_enter();  // as the workers: all threads treat subnormal scales alike
    mk_pool_run(pool, pack_tiles, &job);
    mk_fpu_leave(fpu);
    return MK_OK;
}

mk_status mk_weight_pack(const mk_weight_src *src, mk_pool *pool, mk_weight *out, mk_err *err) {
    *out = (mk_weight){0};
    return mk_weight_fill(src, pool, out, err);
}

mk_status mk_weight_fill(const mk_weight_src *src, mk_pool *pool, mk_weight *w, mk_err *err) {
    if (w->data == NULL) {
        MK_TRY(mk_weight_alloc(src, w, err));
    }
    MK_ASSERT(w->n_mat == src->n_mat);
    for (int64_t m = 0; m < src->n_mat; m++) {
        mk_weight_src one = *src;
        one.data = src->data + (size_t)m * src->mat_stride;
        MK_TRY(mk_weight_pack_one(&one, m, pool, w, err));
    }
    return MK_OK;
}
