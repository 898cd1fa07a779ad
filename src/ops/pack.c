// Weights repacked for the kernels: 16 output rows interleaved (docs/numerics.md, ops/cpu/linear_*.c state the layouts).
//
// Packing reads 16 rows side by side, a few hundred columns at a time, through buffers on the stack: no second copy of the
// tensor exists.  Threads divide the row tiles.  Quantised types go through mk_dtype_row_ints, their only definition.
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/mathx.h"
#include "format/dtype_int.h"
#include "ops/kernels.h"

#define TILE  16
#define CHUNK 256  // columns at a time: every block of every quantised type divides it

// MXFP4 codes: e2m1 times two (OCP Microscaling formats 1.0).
static const int8_t table_mxfp4[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
static const int8_t table_unsigned[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
static const int8_t table_signed[16] = {-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7};

// The values of the 4-bit types' codes; every other quantised type is packed as int8.
static const int8_t *table_of(mk_dtype t) {
    switch (t) {
    case MK_DTYPE_Q4_0:
        return table_signed;
    case MK_DTYPE_Q4_1:
    case MK_DTYPE_Q4_K:
        return table_unsigned;
    case MK_DTYPE_IQ4_NL:
    case MK_DTYPE_IQ4_XS:
        return mk_table_iq4;
    case MK_DTYPE_MXFP4:
        return table_mxfp4;
    default:
        return NULL;
    }
}

// Layout of the packed form, data not allocated.  false if the type or the shape cannot be packed.
static bool layout_of(const mk_weight_src *src, mk_weight *w) {
    const mk_dtype_info *info = mk_dtype_get((int64_t)src->dtype);
    *w = (mk_weight){.n_mat = src->n_mat, .n_out = src->n_out, .n_in = src->n_in, .dtype = src->dtype};
    if (info == NULL || src->n_mat <= 0 || src->n_out <= 0 || src->n_in <= 0 || src->n_in > INT32_MAX ||
        src->n_out > INT32_MAX || src->n_in % info->block != 0) {
        return false;
    }
    if (info->group != 0) {
        const int8_t *table = table_of(src->dtype);
        w->kind = table != NULL ? MK_PACK_I4 : MK_PACK_I8;
        w->group = info->group;
        w->has_shift = info->has_shift;
        memcpy(w->table, table != NULL ? table : table_unsigned, sizeof w->table);
        return src->n_in % 32 == 0 && (info->group == 16 || info->group == 32) && CHUNK % info->block == 0 &&
               (table == NULL || (info->group == 32 && info->has_shift == (table == table_unsigned)));
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
                       "weights of type %s with %lld x %lld x %lld elements cannot be packed; expected a float or quantised "
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
    if (w != NULL && w->data != NULL) {
        mk_big_free(w->data, w->mat_bytes * (size_t)w->n_mat);
        w->data = NULL;
    }
}

// --- one tile of 16 rows ---------------------------------------------------------------------------------------------
typedef struct {
    const mk_weight_src *src;
    const mk_weight *w;
    uint8_t *dst;          // the matrix
    const uint8_t *data;   // the matrix in the source
    uint8_t code[256];     // 4-bit table types: code of each value (index value + 128)
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
    for (int r = 0; r < TILE; r++) {
        for (int64_t k = 0; k < n; k++) {
            uint32_t v = 0;
            if (row[r] != NULL) {
                memcpy(&v, row[r] + (size_t)(k0 + k) * 4, 4);
            }
            dst[k * TILE + r] = v;
        }
    }
}

static void tile_halves(const uint8_t *const *row, int64_t k0, int64_t n, uint16_t *dst) {
    for (int r = 0; r < TILE; r++) {
        for (int64_t k = 0; k < n; k++) {
            uint16_t v = 0;
            if (row[r] != NULL) {
                memcpy(&v, row[r] + (size_t)(k0 + k) * 2, 2);
            }
            dst[k * TILE + r] = v;
        }
    }
}

static void tile_plain(const pack_job *job, const uint8_t *const *row, uint8_t *dst) {
    int64_t n_in = job->w->n_in;
    if (job->w->kind == MK_PACK_BF16) {
        int64_t pairs = n_in / 2;
        for (int64_t k = 0; k < pairs; k += CHUNK) {
            tile_words(row, k, pairs - k < CHUNK ? pairs - k : CHUNK, (uint32_t *)dst + k * TILE);
        }
        for (int r = 0; r < TILE && n_in % 2 != 0; r++) { // the last element's partner is zero
            uint16_t last[2] = {0, 0};
            if (row[r] != NULL) {
                memcpy(last, row[r] + (size_t)(n_in - 1) * 2, 2);
            }
            memcpy(dst + ((size_t)pairs * TILE + (size_t)r) * 4, last, 4);
        }
        return;
    }
    for (int64_t k = 0; k < n_in; k += CHUNK) {
        int64_t n = n_in - k < CHUNK ? n_in - k : CHUNK;
        if (job->w->kind == MK_PACK_F32) {
            tile_words(row, k, n, (uint32_t *)dst + k * TILE);
        } else {
            tile_halves(row, k, n, (uint16_t *)dst + k * TILE);
        }
    }
}

// A NaN among the codes of a group becomes a NaN scale, because the kernels widen codes without a test.
static float f8_scale(const pack_job *job, const uint8_t *codes, int64_t n, int64_t r, int64_t k) {
    const mk_weight_src *src = job->src;
    int64_t at = src->row_map != NULL ? src->row_map[r] : r;
    float scale = src->tile_scale != NULL ? src->tile_scale[at / MK_F8_GROUP * src->tile_cols + k / MK_F8_GROUP] : 1.0f;
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
        uint8_t *codes = dst + TILE * sizeof(float);
        for (int r = 0; r < TILE; r++) {
            scale[r] = row[r] != NULL ? f8_scale(job, row[r] + k, n, r0 + r, k) : 0.0f;
            for (int64_t i = 0; i < n; i++) {
                codes[i * TILE + r] = row[r] != NULL ? row[r][k + i] : 0;
            }
        }
        dst = codes + n * TILE;
    }
}

// Integers, scales and shifts of 16 rows x CHUNK columns.
typedef struct {
    _Alignas(4) int8_t q[TILE][CHUNK];
    float scale[TILE][CHUNK / 16], shift[TILE][CHUNK / 16];
} int_chunk;

static uint32_t load_word(const int8_t *q) {
    uint32_t v;
    memcpy(&v, q, 4);
    return v;
}

// int8 codes of one group: for every 4 columns 16 words, offset by 128.
static void put_i8(const int_chunk *c, int64_t k, int64_t group, uint32_t *dst) {
    for (int r = 0; r < TILE; r++) {
        for (int64_t i = 0; i < group; i += 4) {
            dst[i / 4 * TILE + r] = load_word(c->q[r] + k + i) ^ 0x80808080u;
        }
    }
}

// 4-bit codes of one group (already codes 0..15): for every 8 columns 16 words.
static void put_i4(const int_chunk *c, int64_t k, int64_t group, uint32_t *dst) {
    for (int r = 0; r < TILE; r++) {
        for (int64_t i = 0; i < group; i += 8) {
            dst[i / 8 * TILE + r] = load_word(c->q[r] + k + i) | load_word(c->q[r] + k + i + 4) << 4;
        }
    }
}

// Values of a 4-bit type to codes.
static void to_codes(const pack_job *job, int8_t *q, int64_t n) {
    if (job->w->table[0] == 0 && job->w->table[15] == 15) {
        return;
    }
    if (job->w->table[0] == -8 && job->w->table[15] == 7) {
        for (int64_t i = 0; i < n; i++) {
            q[i] = (int8_t)(q[i] + 8);
        }
        return;
    }
    for (int64_t i = 0; i < n; i++) {
        q[i] = (int8_t)job->code[q[i] + 128];
    }
}

static void load_chunk(const pack_job *job, const uint8_t *const *row, int64_t k, int64_t n, int_chunk *c) {
    const mk_dtype_info *info = mk_dtype_get((int64_t)job->w->dtype);
    size_t at = (size_t)(k / info->block) * (size_t)info->block_bytes;
    for (int r = 0; r < TILE; r++) {
        if (row[r] == NULL) {
            memset(c->q[r], 0, sizeof c->q[r]);
            memset(c->scale[r], 0, sizeof c->scale[r]);
            memset(c->shift[r], 0, sizeof c->shift[r]);
            continue;
        }
        mk_dtype_row_ints(job->w->dtype, row[r] + at, n, c->q[r], c->scale[r], c->shift[r]);
        if (job->w->kind == MK_PACK_I4) {
            to_codes(job, c->q[r], n);
        }
    }
}

static void tile_ints(const pack_job *job, const uint8_t *const *row, uint8_t *dst) {
    int_chunk c;
    const mk_weight *w = job->w;
    for (int64_t k = 0; k < w->n_in; k += CHUNK) {
        int64_t n = w->n_in - k < CHUNK ? w->n_in - k : CHUNK;
        load_chunk(job, row, k, n, &c);
        for (int64_t i = 0; i < n; i += w->group) {
            float *scale = (float *)dst;
            for (int r = 0; r < TILE; r++) {
                scale[r] = c.scale[r][i / w->group];
                if (w->has_shift) {
                    scale[TILE + r] = c.shift[r][i / w->group];
                }
            }
            dst += TILE * sizeof(float) * (w->has_shift ? 2 : 1);
            if (w->kind == MK_PACK_I8) {
                put_i8(&c, i, w->group, (uint32_t *)dst);
                dst += w->group * TILE;
            } else {
                put_i4(&c, i, w->group, (uint32_t *)dst);
                dst += w->group * TILE / 2;
            }
        }
    }
}

static void pack_tiles(void *arg, int ith, int n_thread) {
    const pack_job *job = arg;
    int64_t lo, hi;
    mk_pool_split(mk_weight_tiles(job->w), 1, ith, n_thread, &lo, &hi);
    for (int64_t tile = lo; tile < hi; tile++) {
        const uint8_t *row[TILE];
        for (int r = 0; r < TILE; r++) {
            row[r] = row_of(job, tile * TILE + r);
        }
        uint8_t *dst = job->dst + (size_t)tile * mk_weight_tile_bytes(job->w);
        if (job->w->kind >= MK_PACK_I8) {
            tile_ints(job, row, dst);
        } else if (job->w->kind == MK_PACK_F8) {
            tile_f8(job, row, tile * TILE, dst);
        } else {
            tile_plain(job, row, dst);
        }
    }
}

mk_status mk_weight_pack_one(const mk_weight_src *src, int64_t m, mk_pool *pool, mk_weight *w, mk_err *err) {
    mk_weight layout;
    size_t total;
    if (!sized_layout(src, &layout, &total) || layout.kind != w->kind || layout.dtype != w->dtype ||
        layout.mat_bytes != w->mat_bytes || layout.n_out != w->n_out || layout.n_in != w->n_in) {
        return MK_FAIL(err, MK_EUNSUPPORTED, "matrix %lld has type %d and shape %lld x %lld, the others have %d and "
                       "%lld x %lld: all experts of a layer must be alike", (long long)m, (int)src->dtype,
                       (long long)src->n_out, (long long)src->n_in, (int)w->dtype, (long long)w->n_out,
                       (long long)w->n_in);
    }
    MK_ASSERT(m >= 0 && m < w->n_mat && w->data != NULL);
    pack_job job = {.src = src, .w = w, .dst = w->data + (size_t)m * w->mat_bytes, .data = src->data};
    for (int i = 15; i >= 0; i--) { // of two codes with one value (MXFP4's zeros) the lower wins
        job.code[w->table[i] + 128] = (uint8_t)i;
    }
    uint64_t fpu = mk_fpu_enter(); // as the workers: all threads treat subnormal scales alike
    mk_pool_run(pool, pack_tiles, &job);
    mk_fpu_leave(fpu);
    return MK_OK;
}

mk_status mk_weight_pack(const mk_weight_src *src, mk_pool *pool, mk_weight *out, mk_err *err) {
    MK_TRY(mk_weight_alloc(src, out, err));
    for (int64_t m = 0; m < src->n_mat; m++) {
        mk_weight_src one = *src;
        one.data = src->data + (size_t)m * src->mat_stride;
        MK_TRY(mk_weight_pack_one(&one, m, pool, out, err));
    }
    return MK_OK;
}
