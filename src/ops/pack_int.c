// Quantised weights repacked: 16 rows interleaved, as int8 or codes of 4, 5 or 6 bits with one
// scale (and shift) per group.
//
// All values come from mk_dtype_row_ints, the only definition of the types.  Two facts are added
// here to store scales as small as the source does, without changing the float32 scale that the
// kernels compute:
//   - types of 32 columns keep their scale as f16: converting it back is exact;
//   - in the K types scale = d * integer, exactly, with one f16 d per 256 columns: the integer is scale / d.
#include "ops/pack_int.h"

#include <string.h>

#include "base/mathx.h"

#define CHUNK MK_SUPER  // columns at a time; every block of every quantised type divides it

// Types that are not packed as int8 with float32 scales.
typedef struct {
    mk_dtype dtype;
    mk_scale_kind scales;
    mk_pack_kind kind;
    int offset;        // value = code - offset; TABLE: the codes' values come from a table
    int d_at, min_at;  // MK_SCALE_SUPER: offsets of d and dmin in a block of 256
} int_row;
#define TABLE (-1)

// clang-format off
static const int_row int_rows[] = {
    {MK_DTYPE_Q5_0, MK_SCALE_F16, MK_PACK_I5, 16, 0, 0},
    {MK_DTYPE_Q5_1, MK_SCALE_F16, MK_PACK_I5, 0, 0, 0},
    {MK_DTYPE_Q8_0, MK_SCALE_F16, MK_PACK_I8, 0, 0, 0},
    {MK_DTYPE_TQ1_0, MK_SCALE_F16, MK_PACK_I8, 0, 0, 0},
    {MK_DTYPE_TQ2_0, MK_SCALE_F16, MK_PACK_I8, 0, 0, 0},
    {MK_DTYPE_Q4_0, MK_SCALE_F16, MK_PACK_I4, 8, 0, 0},
    {MK_DTYPE_Q4_1, MK_SCALE_F16, MK_PACK_I4, 0, 0, 0},
    {MK_DTYPE_IQ4_NL, MK_SCALE_F16, MK_PACK_I4, TABLE, 0, 0},
    {MK_DTYPE_MXFP4, MK_SCALE_F32, MK_PACK_I4, TABLE, 0, 0},
    {MK_DTYPE_IQ4_XS, MK_SCALE_SUPER, MK_PACK_I4, TABLE, 0, 0},
    {MK_DTYPE_Q4_K, MK_SCALE_SUPER, MK_PACK_I4, 0, 0, 2},
    {MK_DTYPE_Q5_K, MK_SCALE_SUPER, MK_PACK_I5, 0, 0, 2},
    {MK_DTYPE_Q2_K, MK_SCALE_SUPER, MK_PACK_I4, 0, 80, 82},
    {MK_DTYPE_Q3_K, MK_SCALE_SUPER, MK_PACK_I4, 4, 108, 0},
    {MK_DTYPE_Q6_K, MK_SCALE_SUPER, MK_PACK_I6, 32, 208, 0},
};
// clang-format on

static const int_row *int_row_of(mk_dtype t) {
    static const int_row other = {MK_DTYPE_N, MK_SCALE_F32, MK_PACK_I8, 0, 0, 0};
    for (size_t i = 0; i < sizeof int_rows / sizeof int_rows[0]; i++) {
        if (int_rows[i].dtype == t) {
            return &int_rows[i];
        }
    }
    return &other;
}

// The values of the 16 codes, by decoding a block in which they count up: in 4-bit types with
// blocks of 32 the last 16 bytes hold the codes, element i in the low nibble of byte i.
static void table_of(mk_dtype t, int8_t table[16]) {
    uint8_t block[32] = {0};
    int8_t q[32];
    float scale, shift;
    size_t codes = (size_t)mk_dtype_get((int64_t)t)->block_bytes - 16;
    for (size_t i = 0; i < 16; i++) {
        block[codes + i] = (uint8_t)i;
    }
    mk_dtype_row_ints(t, block, 32, q, &scale, &shift);
    memcpy(table, q, 16);
}

bool mk_pack_int_layout(const mk_dtype_info *info, mk_weight *w) {
    const int_row *row = int_row_of(w->dtype);
    w->kind = row->kind;
    w->scales = row->scales;
    w->group = info->group;
    w->has_shift = info->has_shift;
    w->has_table = row->offset == TABLE;
    w->offset = w->has_table ? 0 : row->offset;
    if (w->has_table) {
        table_of(w->dtype == MK_DTYPE_IQ4_XS ? MK_DTYPE_IQ4_NL : w->dtype, w->table);
    }
    return w->n_in % 32 == 0 && CHUNK % info->block == 0;
}

// Integers, scales and shifts of 16 rows x CHUNK columns; d and dmin of MK_SCALE_SUPER.
typedef struct {
    _Alignas(4) int8_t q[MK_TILE][CHUNK];
    float scale[MK_TILE][CHUNK / 16], shift[MK_TILE][CHUNK / 16];
    uint16_t d[MK_TILE], min[MK_TILE];
} int_chunk;

static uint16_t load_u16(const uint8_t *p) {
    return (uint16_t)(p[0] | p[1] << 8);
}

static uint32_t load_word(const int8_t *q) {
    uint32_t v;
    memcpy(&v, q, 4);
    return v;
}

// int8 codes of one group: for every 4 columns 16 words, offset by 128.
static void put_i8(const int_chunk *c, int64_t k, int64_t group, uint32_t *dst) {
    for (int r = 0; r < MK_TILE; r++) {
        for (int64_t i = 0; i < group; i += 4) {
            dst[i / 4 * MK_TILE + r] = load_word(c->q[r] + k + i) ^ 0x80808080u;
        }
    }
}

// Low four bits of the codes of one group: for every 8 columns 16 words.
static uint32_t *put_low(const int_chunk *c, int64_t k, int64_t group, uint32_t *dst) {
    for (int r = 0; r < MK_TILE; r++) {
        for (int64_t i = 0; i < group; i += 8) {
            uint32_t a = load_word(c->q[r] + k + i), b = load_word(c->q[r] + k + i + 4);
            dst[i / 8 * MK_TILE + r] = (a & 0x0F0F0F0Fu) | (b & 0x0F0F0F0Fu) << 4;
        }
    }
    return dst + group / 8 * MK_TILE;
}

// The `bits` bits above them: 16 words for every 32 / bits columns; of the columns 4 s .. 4 s + 3
// those bits lie at bit s * bits of the word's four bytes.
static void put_high(const int_chunk *c, int64_t k, int64_t group, int bits, uint32_t *dst) {
    int64_t steps = 8 / bits;
    uint32_t mask = bits == 1 ? 0x01010101u : 0x03030303u;
    for (int r = 0; r < MK_TILE; r++) {
        for (int64_t i = 0; i < group; i += 4 * steps) {
            uint32_t word = 0;
            for (int64_t s = 0; s < steps; s++) {
                word |= (load_word(c->q[r] + k + i + 4 * s) >> 4 & mask) << (s * bits);
            }
            dst[i / (4 * steps) * MK_TILE + r] = word;
        }
    }
}

// Values to codes.
static void to_codes(const mk_weight *w, const uint8_t *code, int8_t *q, int64_t n) {
    for (int64_t i = 0; w->has_table && i < n; i++) {
        q[i] = (int8_t)code[q[i] + 128];
    }
    for (int64_t i = 0; w->offset != 0 && i < n; i++) {
        q[i] = (int8_t)(q[i] + w->offset);
    }
}

static void load_chunk(const mk_weight *w, const uint8_t *const *row, int64_t k, int64_t n,
                       const uint8_t *code, int_chunk *c) {
    const mk_dtype_info *info = mk_dtype_get((int64_t)w->dtype);
    const int_row *type = int_row_of(w->dtype);
    size_t at = (size_t)(k / info->block) * (size_t)info->block_bytes;
    for (int r = 0; r < MK_TILE; r++) {
        c->d[r] = c->min[r] = 0;
        if (row[r] == NULL) {
            memset(c->q[r], 0, sizeof c->q[r]);
            memset(c->scale[r], 0, sizeof c->scale[r]);
            memset(c->shift[r], 0, sizeof c->shift[r]);
            continue;
        }
        mk_dtype_row_ints(w->dtype, row[r] + at, n, c->q[r], c->scale[r], c->shift[r]);
        if (w->scales == MK_SCALE_SUPER) {
            c->d[r] = load_u16(row[r] + at + type->d_at);
            c->min[r] = (uint16_t)(load_u16(row[r] + at + type->min_at) ^
                                   0x8000);  // the shift is -dmin * m
        }
        if (w->kind != MK_PACK_I8) {
            to_codes(w, code, c->q[r], n);
        }
    }
}

// The integer in v = d * integer.  A d that is zero, infinite or NaN stands for itself.
static int8_t integer_of(float v, uint16_t d) {
    if ((d & 0x7FFF) == 0 || (d & 0x7C00) == 0x7C00) {
        return 1;
    }
    return (int8_t)(v / mk_f32_from_f16(d));
}

// The scales (or shifts) of group g; returns the place behind them.
static uint8_t *put_scales(mk_scale_kind kind, float (*value)[CHUNK / 16], const uint16_t *super,
                           int64_t g, uint8_t *dst) {
    for (int r = 0; r < MK_TILE; r++) {
        float v = value[r][g];
        if (kind == MK_SCALE_F32) {
            memcpy(dst + 4 * r, &v, 4);
        } else if (kind == MK_SCALE_F16) {
            uint16_t h = mk_f16_from_f32(v);
            memcpy(dst + 2 * r, &h, 2);
        } else {
            dst[r] = (uint8_t)integer_of(v, super[r]);
        }
    }
    return dst + MK_TILE * (kind == MK_SCALE_F32 ? 4 : kind == MK_SCALE_F16 ? 2 : 1);
}

static uint8_t *put_codes(const mk_weight *w, const int_chunk *c, int64_t k, uint8_t *dst) {
    uint32_t *p = (uint32_t *)dst;
    if (w->kind == MK_PACK_I8) {
        put_i8(c, k, w->group, p);
        return dst + w->group * MK_TILE;
    }
    if (w->kind != MK_PACK_I4) {
        int bits = w->kind == MK_PACK_I5 ? 1 : 2;
        put_high(c, k, w->group, bits, p);
        p += w->group * bits / 2;
    }
    return (uint8_t *)put_low(c, k, w->group, p);
}

// A block of up to 256 columns: head (super-scales, then scale and shift of each group), codes.
static uint8_t *put_chunk(const mk_weight *w, int_chunk *c, int64_t n, uint8_t *dst) {
    uint8_t *codes = dst + mk_int_head_bytes(w->scales, w->has_shift, (size_t)w->group, (size_t)n);
    if (w->scales == MK_SCALE_SUPER) {
        memcpy(dst, c->d, sizeof c->d);
        dst += sizeof c->d;
        if (w->has_shift) {
            memcpy(dst, c->min, sizeof c->min);
            dst += sizeof c->min;
        }
    }
    uint8_t *end = codes;
    for (int64_t i = 0; i < n; i += w->group) {
        dst = put_scales(w->scales, c->scale, c->d, i / w->group, dst);
        if (w->has_shift) {
            dst = put_scales(w->scales, c->shift, c->min, i / w->group, dst);
        }
        end = put_codes(w, c, i, end);
    }
    memset(dst, 0, (size_t)(codes - dst));
    return end;
}

void mk_pack_int_tile(const mk_weight *w, const uint8_t *const *row, uint8_t *dst) {
    int_chunk c;
    uint8_t code[256] = {0};         // table types: code of each value (index value + 128)
    for (int i = 15; i >= 0; i--) {  // of two codes with one value (MXFP4's zeros) the lower wins
        code[w->table[i] + 128] = (uint8_t)i;
    }
    for (int64_t k = 0; k < w->n_in; k += CHUNK) {
        int64_t n = w->n_in - k < CHUNK ? w->n_in - k : CHUNK;
        load_chunk(w, row, k, n, code, &c);
        dst = put_chunk(w, &c, n, dst);
    }
}
