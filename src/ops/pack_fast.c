// The common quantised types repacked without a detour: bytes of the source to bytes of the tile.
//
// pack_int.c goes through the integers and float32 scales that define a type, 1 GB/s a thread; a
// start packs every weight.  Here codes are moved by masks and shifts, 8 columns of one row at a
// time, and scales are copied.  Same bytes: tests/ops/test_pack.c compares the two for every type.
//
// Words of a tile (ops/cpu/linear_int.h): column groups lie one after the other; in a group word i
// of row r is at [i][r], so a row writes every 16th word.
#include <string.h>

#include "ops/pack_int.h"

#define LOW4 UINT64_C(0x0F0F0F0F0F0F0F0F)

enum { SUPER = MK_SUPER, STRIP = 32, STRIPS = SUPER / STRIP };

static uint64_t load8(const uint8_t *p) {
    uint64_t v;
    memcpy(&v, p, 8);
    return v;
}

static uint32_t load4(const uint8_t *p) {
    uint32_t v;
    memcpy(&v, p, 4);
    return v;
}

static uint16_t load2(const uint8_t *p) {
    uint16_t v;
    memcpy(&v, p, 2);
    return v;
}

// Codes of 8 columns in the low halves of 8 bytes: columns 0-3 stay low, 4-7 go above them.
static uint32_t fold(uint64_t v) {
    return (uint32_t)v | (uint32_t)(v >> 32) << 4;
}

// The f16 a scale has after float32 and back: a signalling NaN becomes a quiet one.
static uint16_t quiet(uint16_t h) {
    return (h & 0x7C00) == 0x7C00 && (h & 0x03FF) != 0 ? h | 0x0200 : h;
}

// An f16 super-scale that cannot be divided by: the group's own integer is 1 then (pack_int.c).
static bool is_odd(uint16_t h) {
    return (h & 0x7FFF) == 0 || (h & 0x7C00) == 0x7C00;
}

// --- blocks of 32 columns, one row each ----------------------------------------------------------
// src: a block; dst: group of the tile, at row r.

// 32 columns of 4 bits, column i in the low and i + 16 in the high half of byte i.
static void halves(const uint8_t *qs, uint32_t *dst) {
    uint64_t a = load8(qs), b = load8(qs + 8);
    dst[0 * MK_TILE] = fold(a & LOW4);
    dst[1 * MK_TILE] = fold(b & LOW4);
    dst[2 * MK_TILE] = fold(a >> 4 & LOW4);
    dst[3 * MK_TILE] = fold(b >> 4 & LOW4);
}

// Bits 4 s + b of v to bit s of byte b.
static uint32_t spread_bits(uint32_t v) {
    uint32_t out = 0;
    for (int b = 0; b < 4; b++) {
        uint32_t x = v >> b & 0x11111111u;
        x = (x | x >> 3) & 0x03030303u;
        x = (x | x >> 6) & 0x000F000Fu;
        x = (x | x >> 12) & 0xFFu;
        out |= x << (8 * b);
    }
    return out;
}

static void q4_0(const uint8_t *src, uint32_t *dst) {
    halves(src + 2, dst);
}

static void q5_0(const uint8_t *src, uint32_t *dst) {
    halves(src + 6, dst);
    dst[4 * MK_TILE] = spread_bits(load4(src + 2));
}

static void q8_0(const uint8_t *src, uint32_t *dst) {
    for (int i = 0; i < STRIP / 4; i++) {
        dst[i * MK_TILE] = load4(src + 2 + 4 * i) ^ 0x80808080u;
    }
}

// --- blocks of 256 columns, one row each ---------------------------------------------------------
// A strip of 32 columns is one group of Q4_K and Q5_K, two of Q6_K.  scale, min: where the row's
// bytes of the strip's groups go.

// Scale and minimum of strip k, 6 bits each (dtype_kquants.c has the picture).
static void k_scale(const uint8_t *s, int k, uint8_t *scale, uint8_t *min) {
    if (k < 4) {
        *scale = s[k] & 63;
        *min = s[k + 4] & 63;
    } else {
        *scale = (uint8_t)((s[k + 4] & 15) | (s[k - 4] >> 6) << 4);
        *min = (uint8_t)(s[k + 4] >> 4 | (s[k] >> 6) << 4);
    }
}

// Strips 2 j and 2 j + 1 of 4-bit codes: the low and the high halves of 32 bytes.
static void two_strips(const uint8_t *qs, uint32_t *even, uint32_t *odd) {
    for (int i = 0; i < STRIP / 8; i++) {
        uint64_t v = load8(qs + 8 * i);
        even[i * MK_TILE] = fold(v & LOW4);
        odd[i * MK_TILE] = fold(v >> 4 & LOW4);
    }
}

// Scales of Q4_K and Q5_K: d and dmin of the row at dst, its 8 scales and minima at the heads of 8
// groups of `group_bytes`.
static void k_scales(const uint8_t *src, int r, size_t group_bytes, uint8_t *dst) {
    uint16_t d = load2(src), min = load2(src + 2) ^ 0x8000;
    uint8_t *group = dst + 2 * MK_TILE * sizeof d;
    memcpy(dst + 2 * r, &d, 2);
    memcpy(dst + 2 * (MK_TILE + r), &min, 2);
    for (int k = 0; k < STRIPS; k++, group += group_bytes) {
        uint8_t scale, m;
        k_scale(src + 4, k, &scale, &m);
        group[r] = is_odd(d) ? 1 : scale;
        group[MK_TILE + r] = is_odd(min) ? 1 : m;
    }
}

enum { K_HEAD = 4 * MK_TILE, K_SCALES = 2 * MK_TILE };
enum { Q4_K_GROUP = K_SCALES + 16 * MK_TILE, Q5_K_GROUP = Q4_K_GROUP + 4 * MK_TILE };
enum { Q6_K_HEAD = 2 * MK_TILE, Q6_K_GROUP = MK_TILE + 12 * MK_TILE };

static void q4_k(const uint8_t *src, int r, uint8_t *dst) {
    k_scales(src, r, Q4_K_GROUP, dst);
    uint8_t *codes = dst + K_HEAD + K_SCALES + 4 * r;
    for (int j = 0; j < STRIPS / 2; j++, codes += 2 * Q4_K_GROUP) {
        two_strips(src + 16 + STRIP * j, (uint32_t *)codes, (uint32_t *)(codes + Q4_K_GROUP));
    }
}

static void q5_k(const uint8_t *src, int r, uint8_t *dst) {
    k_scales(src, r, Q5_K_GROUP, dst);
    uint8_t *codes = dst + K_HEAD + K_SCALES + 4 * r;
    for (int j = 0; j < STRIPS / 2; j++) {
        uint8_t *even = codes + 2 * j * Q5_K_GROUP;
        two_strips(src + 48 + STRIP * j, (uint32_t *)even, (uint32_t *)(even + Q5_K_GROUP));
    }
    for (int k = 0; k < STRIPS; k++) {
        uint32_t word = 0;
        for (int s = 0; s < 8; s++) {
            word |= (load4(src + 16 + 4 * s) >> k & 0x01010101u) << s;
        }
        memcpy(codes + k * Q5_K_GROUP + 16 * MK_TILE, &word, 4);
    }
}

// 16 columns of strip k of a half: low, high: their bytes; nibble: shift of the low bits.
static void q6_group(const uint8_t *low, const uint8_t *high, int nibble, int k, uint32_t *dst) {
    uint32_t word = 0;
    dst[0] = fold(load8(low) >> nibble & LOW4);
    dst[MK_TILE] = fold(load8(low + 8) >> nibble & LOW4);
    for (int s = 0; s < 4; s++) {
        word |= (load4(high + 4 * s) >> (2 * k) & 0x03030303u) << (2 * s);
    }
    dst[2 * MK_TILE] = word;
}

static void q6_k(const uint8_t *src, int r, uint8_t *dst) {
    const uint8_t *scales = src + 192;
    uint16_t d = load2(src + 208);
    memcpy(dst + 2 * r, &d, 2);
    dst += Q6_K_HEAD;
    for (int g = 0; g < SUPER / 16; g++, dst += Q6_K_GROUP) {
        int half = g / 8, k = g / 2 % 4, at = g % 2 * 16;
        dst[r] = is_odd(d) ? 1 : scales[g];
        q6_group(src + 64 * half + 32 * (k & 1) + at, src + 128 + 32 * half + at, 4 * (k >> 1), k,
                 (uint32_t *)(dst + MK_TILE) + r);
    }
}

// --- tiles ---------------------------------------------------------------------------------------

// One function per type, so that the loop over the rows has the type's code inside.
typedef void (*tile_fn)(const uint8_t *const *row, int64_t n_block, uint8_t *dst);

enum { F16_HEAD = 2 * MK_TILE };

// Blocks of 32 columns: an f16 scale, then codes.
#define TILE_32(type, block_bytes, code_bytes)                                                     \
    static void type##_tile(const uint8_t *const *row, int64_t n, uint8_t *dst) {                  \
        for (int64_t b = 0; b < n; b++, dst += F16_HEAD + (code_bytes)*MK_TILE) {                  \
            for (int r = 0; r < MK_TILE; r++) {                                                    \
                const uint8_t *src = row[r] + (size_t)b * (block_bytes);                           \
                uint16_t d = quiet(load2(src));                                                    \
                memcpy(dst + 2 * r, &d, 2);                                                        \
                type(src, (uint32_t *)(dst + F16_HEAD) + r);                                       \
            }                                                                                      \
        }                                                                                          \
    }
TILE_32(q4_0, 18, 16)
TILE_32(q5_0, 22, 20)
TILE_32(q8_0, 34, 32)

#define TILE_256(type, block_bytes, tile_bytes)                                                    \
    static void type##_tile(const uint8_t *const *row, int64_t n, uint8_t *dst) {                  \
        for (int64_t b = 0; b < n; b++, dst += (tile_bytes)) {                                     \
            for (int r = 0; r < MK_TILE; r++) {                                                    \
                type(row[r] + (size_t)b * (block_bytes), r, dst);                                  \
            }                                                                                      \
        }                                                                                          \
    }
TILE_256(q4_k, 144, K_HEAD + STRIPS * Q4_K_GROUP)
TILE_256(q5_k, 176, K_HEAD + STRIPS * Q5_K_GROUP)
TILE_256(q6_k, 210, Q6_K_HEAD + SUPER / 16 * Q6_K_GROUP)

static const struct {
    mk_dtype dtype;
    int block;  // columns
    tile_fn tile;
} fast[] = {
    {MK_DTYPE_Q4_0, STRIP, q4_0_tile}, {MK_DTYPE_Q5_0, STRIP, q5_0_tile},
    {MK_DTYPE_Q8_0, STRIP, q8_0_tile}, {MK_DTYPE_Q4_K, SUPER, q4_k_tile},
    {MK_DTYPE_Q5_K, SUPER, q5_k_tile}, {MK_DTYPE_Q6_K, SUPER, q6_k_tile},
};

bool mk_pack_fast_tile(const mk_weight *w, const uint8_t *const *row, uint8_t *dst) {
    for (size_t i = 0; i < sizeof fast / sizeof fast[0]; i++) {
        if (fast[i].dtype == w->dtype) {
            fast[i].tile(row, w->n_in / fast[i].block, dst);
            return true;
        }
    }
    return false;
}
