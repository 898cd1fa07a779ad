// The float32 layout [n_out/16][n_in][16]: from any type, to and from rows, and rounded to the
// bf16 one.  For weights that are trained.
#include <string.h>

#include "base/mathx.h"
#include "ops/pack_int.h"

#define CHUNK 256  // columns at a time: a multiple of every type's block

// --- from any type -------------------------------------------------------------------------------

// n values of row r from column k on.  FP8 is multiplied by its tile scales; a tile is 128 wide.
static void widen(const mk_weight_src *src, int64_t r, const uint8_t *row, int64_t k, int64_t n,
                  float *to) {
    const mk_dtype_info *info = mk_dtype_get((int64_t)src->dtype);
    mk_dtype_to_f32(src->dtype, row + (size_t)(k / info->block) * (size_t)info->block_bytes, n, to);
    if (src->dtype == MK_DTYPE_F8_E4M3 && src->tile_scale != NULL) {
        int64_t at = src->row_map != NULL ? src->row_map[r] : r;
        const float *scale = src->tile_scale + at / MK_F8_GROUP * src->tile_cols;
        for (int64_t i = 0; i < n; i++) {
            to[i] *= scale[(k + i) / MK_F8_GROUP];
        }
    }
}

void mk_pack_f32_tile(const mk_weight_src *src, int64_t r0, const uint8_t *const *row, float *dst) {
    float buf[MK_TILE][CHUNK];
    for (int64_t k = 0; k < src->n_in; k += CHUNK) {
        int64_t n = src->n_in - k < CHUNK ? src->n_in - k : CHUNK;
        for (int r = 0; r < MK_TILE; r++) {
            if (row[r] != NULL) {
                widen(src, r0 + r, row[r], k, n, buf[r]);
            } else {
                memset(buf[r], 0, (size_t)n * sizeof(float));
            }
        }
        for (int64_t i = 0; i < n; i++) {
            for (int r = 0; r < MK_TILE; r++) {
                dst[(k + i) * MK_TILE + r] = buf[r][i];
            }
        }
    }
}

// --- to and from rows ----------------------------------------------------------------------------

typedef enum { PACK, UNPACK, UNPACK_ADD } way;

typedef struct {
    float *packed, *rows;
    mk_f32_shape s;
    way way;
} move_job;

// Columns [k, k + n) of a tile, rows [r0, r0 + n_row).  Loops run along the rows, so that both
// sides are read and written in lines of the cache.
static void move_part(const move_job *j, float *tile, int64_t r0, int64_t k, int64_t n) {
    int64_t n_row = j->s.n_out - r0 < MK_TILE ? j->s.n_out - r0 : MK_TILE;
    for (int64_t r = 0; r < n_row; r++) {
        float *row = j->rows + (r0 + r) * j->s.n_in + k, *col = tile + k * MK_TILE + r;
        for (int64_t i = 0; i < n; i++) {
            switch (j->way) {
            case PACK:
                col[i * MK_TILE] = row[i];
                break;
            case UNPACK:
                row[i] = col[i * MK_TILE];
                break;
            case UNPACK_ADD:
                row[i] += col[i * MK_TILE];
                break;
            }
        }
    }
    for (int64_t r = n_row; r < MK_TILE && j->way == PACK; r++) {
        for (int64_t i = 0; i < n; i++) {
            tile[(k + i) * MK_TILE + r] = 0;
        }
    }
}

static void move_tiles(void *arg, int ith, int n_thread) {
    const move_job *j = arg;
    int64_t lo, hi;
    mk_pool_split((j->s.n_out + MK_TILE - 1) / MK_TILE, 1, ith, n_thread, &lo, &hi);
    for (int64_t t = lo; t < hi; t++) {
        float *tile = j->packed + t * MK_TILE * j->s.n_in;
        for (int64_t k = 0; k < j->s.n_in; k += CHUNK) {
            int64_t n = j->s.n_in - k < CHUNK ? j->s.n_in - k : CHUNK;
            move_part(j, tile, t * MK_TILE, k, n);
        }
    }
}

static void move_all(move_job j, mk_pool *pool) {
    uint64_t fpu = mk_fpu_enter();
    mk_pool_run(pool, move_tiles, &j);
    mk_fpu_leave(fpu);
}

void mk_f32_pack(float *packed, const float *rows, mk_f32_shape s, mk_pool *pool) {
    move_all((move_job){packed, (float *)(uintptr_t)rows, s, PACK}, pool);
}

void mk_f32_unpack(float *rows, const float *packed, mk_f32_shape s, mk_pool *pool) {
    move_all((move_job){(float *)(uintptr_t)packed, rows, s, UNPACK}, pool);
}

void mk_f32_unpack_add(float *rows, const float *packed, mk_f32_shape s, mk_pool *pool) {
    move_all((move_job){(float *)(uintptr_t)packed, rows, s, UNPACK_ADD}, pool);
}

// --- rounded -------------------------------------------------------------------------------------

typedef struct {
    const mk_weight *w;
    const mk_kernels *k;
} round_job;

// Matrices lie one behind the other in both layouts, so do their tiles.
static void round_some(void *arg, int ith, int n_thread) {
    const round_job *j = arg;
    int64_t lo, hi, n_in = j->w->n_in;
    mk_pool_split(j->w->n_mat * mk_weight_tiles(j->w), 1, ith, n_thread, &lo, &hi);
    j->k->round_tiles(j->w->data + (size_t)lo * mk_weight_tile_bytes(j->w),
                      j->w->master + lo * MK_TILE * n_in, n_in, hi - lo);
}

void mk_weight_round(const mk_weight *w, mk_pool *pool) {
    MK_ASSERT(w->kind == MK_PACK_BF16 && w->master != NULL);
    round_job j = {.w = w};
    mk_status st = mk_kernels_find("auto", &j.k, NULL);  // all give the same bits
    MK_ASSERT(st == MK_OK);
    mk_pool_run(pool, round_some, &j);
}
