// The common quantised types repacked without a detour: bytes of the source to bytes of the tile.
//
// pack_int.c goes through the integers and float32 scales that define a type, 1 GB/s a thread; a
// start packs every weight.  Here a block of 16 rows is transposed word by word first: word i of
// all rows side by side.  Then masks and shifts move the codes of 16 rows at once, in loops that
// compilers turn into vector instructions, and scales are copied.  Same bytes:
// tests/ops/test_pack.c compares the two for every type.
//
// A tile (ops/cpu/linear_int.h) is blocks of 256 columns: a head with the scales, then the codes;
// in the codes of a group word i of row r is at [i][r].
#include <string.h>

#include "base/compiler.h"
#include "ops/pack_int.h"

enum { SUPER = MK_SUPER, STRIP = 32, STRIPS = SUPER / STRIP };

#define LOW4 0x0F0F0F0Fu

// One 4-byte word of each of 16 rows.
typedef struct {
    uint32_t r[MK_TILE];
} words;

#define EACH_ROW for (int r = 0; r < MK_TILE; r++)

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

// --- transposing ---------------------------------------------------------------------------------

typedef uint32_t v4 __attribute__((vector_size(16)));

static v4 load16(const uint8_t *p) {
    v4 v;
    memcpy(&v, p, sizeof v);
    return v;
}

// Four words of four rows.
static inline void transpose_4x4(const uint8_t *const *row, size_t at, uint32_t *out) {
    v4 a = load16(row[0] + at), b = load16(row[1] + at), c = load16(row[2] + at),
       d = load16(row[3] + at);
    v4 ab0 = __builtin_shufflevector(a, b, 0, 4, 1, 5),
       ab1 = __builtin_shufflevector(a, b, 2, 6, 3, 7);
    v4 cd0 = __builtin_shufflevector(c, d, 0, 4, 1, 5),
       cd1 = __builtin_shufflevector(c, d, 2, 6, 3, 7);
    v4 w[4] = {__builtin_shufflevector(ab0, cd0, 0, 1, 4, 5),
               __builtin_shufflevector(ab0, cd0, 2, 3, 6, 7),
               __builtin_shufflevector(ab1, cd1, 0, 1, 4, 5),
               __builtin_shufflevector(ab1, cd1, 2, 3, 6, 7)};
    for (int i = 0; i < 4; i++) {
        memcpy(out + i * MK_TILE, &w[i], sizeof w[i]);
    }
}

// out[i] = word i of the bytes behind row[r] + at; n: a multiple of 4.
static inline void transpose(const uint8_t *const *row, size_t at, int n, words *out) {
    for (int i = 0; i < n; i += 4) {
        for (int r = 0; r < MK_TILE; r += 4) {
            transpose_4x4(row + r, at + 4 * (size_t)i, &out[i].r[r]);
        }
    }
}

void mk_pack_words(const uint8_t *const *row, size_t at, int64_t n, uint32_t *dst) {
    for (int64_t i = 0; i < n; i += 4) {
        for (int r = 0; r < MK_TILE; r += 4) {
            transpose_4x4(row + r, at + 4 * (size_t)i, dst + i * MK_TILE + r);
        }
    }
}

void mk_pack_halves(const uint8_t *const *row, size_t at, int64_t n, uint16_t *dst) {
    for (int64_t i = 0; i < n; i += 8) {
        words x[4];
        transpose(row, at + 2 * (size_t)i, 4, x);
        for (int k = 0; k < 8; k++) {
            EACH_ROW {
                dst[(i + k) * MK_TILE + r] = (uint16_t)(x[k / 2].r[r] >> (k % 2 * 16));
            }
        }
    }
}

// --- pieces --------------------------------------------------------------------------------------
// x: transposed words of the source; dst: place in the tile.

// Codes of 8 columns, four bits at `shift` of each byte of a and b: those of b go above those of a.
static inline void put_low(const words *a, const words *b, int shift, uint8_t *dst) {
    words w;
    EACH_ROW {
        w.r[r] = (a->r[r] >> shift & LOW4) | (b->r[r] >> shift & LOW4) << 4;
    }
    memcpy(dst, &w, sizeof w);
}

// 32 columns in 8 words.
static inline void put_strip(const words *x, int shift, uint8_t *dst) {
    for (int i = 0; i < 4; i++) {
        put_low(x + 2 * i, x + 2 * i + 1, shift, dst + (size_t)i * sizeof *x);
    }
}

// An f16 super-scale that cannot be divided by: the group's own integer is 1 then (pack_int.c).
static inline bool is_odd(uint32_t h) {
    return (h & 0x7FFF) == 0 || (h & 0x7C00) == 0x7C00;
}

// Byte of every row's group scale, 1 where the super-scale is odd.
static inline void put_scale(const words *scale, const words *super, uint8_t *dst) {
    EACH_ROW {
        dst[r] = (uint8_t)(is_odd(super->r[r]) ? 1 : scale->r[r]);
    }
}

static inline void put_f16(const words *h, uint8_t *dst) {
    EACH_ROW {
        uint16_t v = (uint16_t)h->r[r];
        memcpy(dst + 2 * r, &v, 2);
    }
}

// --- blocks of 32 columns: an f16 scale, then codes ----------------------------------------------

// The f16 a scale has after float32 and back: a signalling NaN becomes a quiet one.
static inline void put_f16_scale(const uint8_t *const *row, size_t at, uint8_t *dst) {
    EACH_ROW {
        uint16_t h = load2(row[r] + at);
        h = (h & 0x7C00) == 0x7C00 && (h & 0x03FF) != 0 ? h | 0x0200 : h;
        memcpy(dst + 2 * r, &h, 2);
    }
}

// 32 columns of 4 bits: column i in the low and i + 16 in the high half of byte i.
static inline void put_halves(const uint8_t *const *row, size_t at, uint8_t *dst) {
    words x[4];
    transpose(row, at, 4, x);
    for (int i = 0; i < 4; i++) {
        put_low(&x[i % 2 * 2], &x[i % 2 * 2 + 1], i / 2 * 4, dst + (size_t)i * sizeof *x);
    }
}

// Bits 4 s + b of v to bit s of byte b.
static inline uint32_t spread_bits(uint32_t v) {
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

// One block of 32 columns of the source: `scale` and `codes` are its places in the tile.
static inline void q4_0(const uint8_t *const *row, size_t at, uint8_t *scale, uint8_t *codes) {
    put_f16_scale(row, at, scale);
    put_halves(row, at + 2, codes);
}

static inline void q5_0(const uint8_t *const *row, size_t at, uint8_t *scale, uint8_t *codes) {
    words high;
    put_f16_scale(row, at, scale);
    put_halves(row, at + 6, codes + sizeof high);
    EACH_ROW {
        high.r[r] = load4(row[r] + at + 2);
    }
    EACH_ROW {
        high.r[r] = spread_bits(high.r[r]);
    }
    memcpy(codes, &high, sizeof high);
}

static inline void q8_0(const uint8_t *const *row, size_t at, uint8_t *scale, uint8_t *codes) {
    words x[8];
    put_f16_scale(row, at, scale);
    transpose(row, at + 2, 8, x);
    for (int i = 0; i < 8; i++) {
        EACH_ROW {
            x[i].r[r] ^= 0x80808080u;
        }
    }
    memcpy(codes, x, sizeof x);
}

// --- blocks of 256 columns -----------------------------------------------------------------------
// A strip of 32 columns is one group of Q4_K and Q5_K, two of Q6_K.

enum {
    K_HEAD = 4 * MK_TILE + STRIPS * 2 * MK_TILE,
    Q4_K_CODES = 16 * MK_TILE,
    Q5_K_CODES = 20 * MK_TILE
};
enum {
    Q6_K_SCALES = 2 * MK_TILE,
    Q6_K_HEAD = Q6_K_SCALES + 16 * MK_TILE + 32,
    Q6_K_CODES = 12 * MK_TILE
};

// Byte k of a list of words.
static inline uint32_t byte_of(const words *x, int k, int r) {
    return x[k / 4].r[r] >> (8 * (k % 4)) & 0xFF;
}

// Scale and minimum of strip k, 6 bits each in 12 bytes (dtype_kquants.c has the picture).
static inline void k_scale(const words *s, int k, words *scale, words *min) {
    EACH_ROW {
        uint32_t a = byte_of(s, k < 4 ? k : k + 4, r), b = byte_of(s, k < 4 ? k + 4 : k, r);
        uint32_t top = byte_of(s, k < 4 ? k : k - 4, r);
        scale->r[r] = k < 4 ? a & 63 : (a & 15) | (top >> 6) << 4;
        min->r[r] = k < 4 ? b & 63 : a >> 4 | (b >> 6) << 4;
    }
}

// x: words d | dmin << 16, then the 12 bytes.
static inline void put_k_scales(const words *x, uint8_t *dst) {
    words d, min, scale, m;
    EACH_ROW {
        d.r[r] = x[0].r[r] & 0xFFFF;
        min.r[r] = x[0].r[r] >> 16 ^ 0x8000;  // the shift is -dmin * m
    }
    put_f16(&d, dst);
    put_f16(&min, dst + 2 * MK_TILE);
    uint8_t *group = dst + 4 * MK_TILE;
    for (int k = 0; k < STRIPS; k++, group += 2 * MK_TILE) {
        k_scale(x + 1, k, &scale, &m);
        put_scale(&scale, &d, group);
        put_scale(&m, &min, group + MK_TILE);
    }
}

// Codes of strips in pairs: the low and the high halves of 32 bytes.
static inline void put_k_codes(const words *x, size_t group_bytes, uint8_t *dst) {
    for (int k = 0; k < STRIPS; k++, dst += group_bytes) {
        put_strip(x + k / 2 * 8, 4 * (k % 2), dst);
    }
}

static inline void q4_k(const uint8_t *const *row, size_t at, uint8_t *dst) {
    words x[36];
    transpose(row, at, 36, x);
    put_k_scales(x, dst);
    put_k_codes(x + 4, Q4_K_CODES, dst + K_HEAD);
}

static inline void q5_k(const uint8_t *const *row, size_t at, uint8_t *dst) {
    words x[44];
    transpose(row, at, 44, x);
    put_k_scales(x, dst);
    uint8_t *codes = dst + K_HEAD;
    put_k_codes(x + 12, Q5_K_CODES, codes + sizeof *x);
    for (int k = 0; k < STRIPS; k++) {
        words high = {{0}};
        for (int s = 0; s < 8; s++) {
            EACH_ROW {
                high.r[r] |= (x[4 + s].r[r] >> k & 0x01010101u) << s;
            }
        }
        memcpy(codes + k * Q5_K_CODES, &high, sizeof high);
    }
}

// 16 columns of strip k of a half: 4 words of low bits at `shift`, 4 of high bits.
static inline void put_q6_group(const words *low, int shift, const words *high, int k,
                                uint8_t *dst) {
    words w = {{0}};
    put_low(&low[0], &low[1], shift, dst + sizeof w);
    put_low(&low[2], &low[3], shift, dst + 2 * sizeof w);
    for (int s = 0; s < 4; s++) {
        EACH_ROW {
            w.r[r] |= (high[s].r[r] >> (2 * k) & 0x03030303u) << (2 * s);
        }
    }
    memcpy(dst, &w, sizeof w);
}

// Words: 32 of low bits, 16 of high bits, 4 of scales; then d.
static inline void q6_k(const uint8_t *const *row, size_t at, uint8_t *dst) {
    words x[52], d, scale;
    transpose(row, at, 52, x);
    EACH_ROW {
        d.r[r] = load2(row[r] + at + 208);
    }
    put_f16(&d, dst);
    memset(dst + Q6_K_HEAD - 32, 0, 32);
    uint8_t *group = dst + Q6_K_SCALES, *codes = dst + Q6_K_HEAD;
    for (int g = 0; g < SUPER / 16; g++, group += MK_TILE, codes += Q6_K_CODES) {
        int half = g / 8, k = g / 2 % 4, part = g % 2 * 4;
        EACH_ROW {
            scale.r[r] = byte_of(x + 48, g, r);
        }
        put_scale(&scale, &d, group);
        put_q6_group(x + 16 * half + 8 * (k & 1) + part, 4 * (k >> 1), x + 32 + 8 * half + part, k,
                     codes);
    }
}

// --- tiles ---------------------------------------------------------------------------------------

// One function per type, so that the loop over the blocks has the type's code inside.
typedef void (*tile_fn)(const uint8_t *const *row, int64_t n_block, uint8_t *dst);

#define SUPER_TILE(type, block_bytes, tile_bytes)                                                  \
    static void type##_tile(const uint8_t *const *row, int64_t n, uint8_t *dst) {                  \
        for (int64_t b = 0; b < n; b++, dst += (tile_bytes)) {                                     \
            type(row, (size_t)b *(block_bytes), dst);                                              \
        }                                                                                          \
    }
SUPER_TILE(q4_k, 144, K_HEAD + STRIPS * Q4_K_CODES)
SUPER_TILE(q5_k, 176, K_HEAD + STRIPS * Q5_K_CODES)
SUPER_TILE(q6_k, 210, Q6_K_HEAD + SUPER / 16 * Q6_K_CODES)

// Eight blocks of 32 columns share a head; the last ones may be fewer.
#define STRIP_TILE(type, block_bytes, code_bytes)                                                  \
    static void type##_tile(const uint8_t *const *row, int64_t n, uint8_t *dst) {                  \
        for (int64_t b = 0; b < n; b += STRIPS) {                                                  \
            int64_t m = n - b < STRIPS ? n - b : STRIPS;                                           \
            size_t used = (size_t)m * 2 * MK_TILE;                                                 \
            size_t head = mk_int_head_bytes(MK_SCALE_F16, false, STRIP, (size_t)m * STRIP);        \
            memset(dst + used, 0, head - used);                                                    \
            for (int64_t i = 0; i < m; i++) {                                                      \
                type(row, (size_t)(b + i) * (block_bytes), dst + i * 2 * MK_TILE,                  \
                     dst + head + i * (code_bytes));                                               \
            }                                                                                      \
            dst += head + (size_t)m * (code_bytes);                                                \
        }                                                                                          \
    }
STRIP_TILE(q4_0, 18, 16 * MK_TILE)
STRIP_TILE(q5_0, 22, 20 * MK_TILE)
STRIP_TILE(q8_0, 34, 32 * MK_TILE)

static const struct {
    mk_dtype dtype;
    int block;  // columns
    tile_fn tile;
} fast[] = {
    {MK_DTYPE_Q4_0, STRIP, q4_0_tile}, {MK_DTYPE_Q5_0, STRIP, q5_0_tile},
    {MK_DTYPE_Q8_0, STRIP, q8_0_tile}, {MK_DTYPE_Q4_K, SUPER, q4_k_tile},
    {MK_DTYPE_Q5_K, SUPER, q5_k_tile}, {MK_DTYPE_Q6_K, SUPER, q6_k_tile},
};

// Reads every line of the rows once, front to back: the processor fetches ahead along one row, but
// not along 16 at a time.  From memory Q4_K packs half as fast again (bench/notes.md).
static void fetch_rows(const uint8_t *const *row, size_t n_bytes) {
    uint32_t sum = 0;
    EACH_ROW {
        for (size_t i = 0; i < n_bytes; i += 64) {
            sum += row[r][i];
        }
    }
    MK_KEEP(sum);
}

bool mk_pack_fast_tile(const mk_weight *w, const uint8_t *const *row, uint8_t *dst) {
    for (size_t i = 0; i < sizeof fast / sizeof fast[0]; i++) {
        if (fast[i].dtype == w->dtype) {
            int64_t n = w->n_in / fast[i].block;
            fetch_rows(row, (size_t)n * (size_t)mk_dtype_get((int64_t)w->dtype)->block_bytes);
            fast[i].tile(row, n, dst);
            return true;
        }
    }
    return false;
}
