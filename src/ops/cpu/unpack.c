// Packed weights of any kind as float32: columns of a tile of 16 rows, [n][16].
//
// The values are those of mk_dtype_to_f32 (for F8 times the scale of the tile, rounded once):
//     F16, BF16   widened
//     F8          scale * code
//     integers    scale * q (exact), or scale * q + shift (one rounding)
// Layouts: pack.c, linear_int.h.  Only the backward of linear layers and tools that look at weights
// come here, once for many tokens, so integers are taken apart in plain loops over the lanes, which
// compilers turn into vectors.
#include "ops/cpu/cpu.h"

// Scales (or shifts) of 16 rows as stored at p, `super` being those of the block.
static inline void load_scales(mk_scale_kind kind, const uint8_t *p, v16f super, float *out) {
    v16f v = kind == MK_SCALE_F32   ? vf_load((const float *)p)
             : kind == MK_SCALE_F16 ? vf_load_f16((const uint16_t *)p)
                                    : vf_mul(super, vf_load_i8(p));
    vf_store(out, v);
}

// The codes of column i of a group: `low` the lower bits, `high` the plane of those above 4.
static inline void column_codes(const mk_weight *w, const uint8_t *group, int i, int32_t q[16]) {
    int bits = w->kind == MK_PACK_I5 ? 1 : w->kind == MK_PACK_I6 ? 2 : 0, byte = 8 * (i % 4);
    uint32_t word[16];
    if (w->kind == MK_PACK_I8) {
        memcpy(word, group + i / 4 * 64, sizeof word);
        for (int r = 0; r < 16; r++) {
            q[r] = (int32_t)(word[r] >> byte & 255) - 128;
        }
        return;
    }
    memcpy(word, group + w->group * bits * 2 + i / 8 * 64, sizeof word);
    int at = byte + i % 8 / 4 * 4;
    for (int r = 0; r < 16; r++) {
        q[r] = (int32_t)(word[r] >> at & 15);
    }
    if (bits > 0) {
        int columns = 32 / bits;  // of one plane of 64 bytes
        memcpy(word, group + i / columns * 64, sizeof word);
        at = byte + i % columns / 4 * bits;
        uint32_t mask = (1u << bits) - 1;
        for (int r = 0; r < 16; r++) {
            q[r] |= (int32_t)((word[r] >> at & mask) << 4);
        }
    }
    for (int r = 0; r < 16; r++) {
        q[r] = w->has_table ? w->table[q[r]] : q[r] - w->offset;
    }
}

// Groups [first, first + n) of the block of `cols` columns at p.
static void unpack_block(const mk_weight *w, const uint8_t *p, int64_t cols, int64_t first,
                         int64_t n, float *out) {
    static const size_t scale_bytes[] = {
        [MK_SCALE_F32] = 64, [MK_SCALE_F16] = 32, [MK_SCALE_SUPER] = 16};
    const size_t bytes = scale_bytes[w->scales], group = (size_t)w->group;
    const size_t code_bytes =
        mk_int_block_bytes(w, group) - mk_int_head_bytes(w->scales, w->has_shift, group, group);
    const uint8_t *codes = p + mk_int_head_bytes(w->scales, w->has_shift, group, (size_t)cols);
    v16f super = vf_zero(), super_shift = vf_zero();
    if (w->scales == MK_SCALE_SUPER) {
        super = vf_load_f16((const uint16_t *)p);
        super_shift = w->has_shift ? vf_load_f16((const uint16_t *)p + 16) : super_shift;
        p += w->has_shift ? 64 : 32;
    }
    for (int64_t g = first; g < first + n; g++) {
        float scale[16], shift[16] = {0};
        const uint8_t *s = p + (size_t)g * (w->has_shift ? 2 * bytes : bytes);
        load_scales(w->scales, s, super, scale);
        if (w->has_shift) {
            load_scales(w->scales, s + bytes, super_shift, shift);
        }
        for (int i = 0; i < w->group; i++, out += 16) {
            int32_t q[16];
            column_codes(w, codes + (size_t)g * code_bytes, i, q);
            for (int r = 0; r < 16; r++) {
                out[r] = scale[r] * (float)q[r];
            }
            for (int r = 0; w->has_shift && r < 16; r++) {
                out[r] += shift[r];
            }
        }
    }
}

static void unpack_int(const mk_weight *w, const uint8_t *tile, int64_t col, int64_t n,
                       float *out) {
    for (int64_t end = col + n, next; col < end; col = next) {
        int64_t block = col / MK_SUPER, left = w->n_in - block * MK_SUPER;
        next = (block + 1) * MK_SUPER < end ? (block + 1) * MK_SUPER : end;
        unpack_block(w, tile + (size_t)block * mk_int_block_bytes(w, MK_SUPER),
                     left < MK_SUPER ? left : MK_SUPER, col % MK_SUPER / w->group,
                     (next - col) / w->group, out);
        out += 16 * (next - col);
    }
}

static void unpack_f8(const mk_weight *w, const uint8_t *tile, int64_t col, int64_t n, float *out) {
    for (int64_t i = col; i < col + n; i++, out += 16) {
        int64_t group = i / MK_F8_GROUP;
        const uint8_t *p = tile + (size_t)group * (64 + 16 * MK_F8_GROUP);
        v16f scale = vf_load((const float *)p);
        vf_store(out, vf_mul(scale, vf_load_e4m3(p + 64 + 16 * (i - group * MK_F8_GROUP))));
    }
    (void)w;
}

static void unpack_bf16(const uint8_t *tile, int64_t col, int64_t n, float *out) {
    for (int64_t i = 0; i < n; i += 2, out += 32) {
        v16f even, odd;
        vf_load_bf16_pairs((const uint16_t *)tile + 16 * (col + i), &even, &odd);
        vf_store(out, even);
        if (i + 1 < n) {
            vf_store(out + 16, odd);
        }
    }
}

void MK_FN(unpack)(const mk_weight *w, const uint8_t *tile, int64_t col, int64_t n, float *out) {
    MK_ASSERT(col % 32 == 0 && col + n <= w->n_in);
    switch (w->kind) {
    case MK_PACK_F32:
        memcpy(out, tile + 64 * col, (size_t)n * 64);
        return;
    case MK_PACK_F16:
        for (int64_t i = 0; i < n; i++) {
            vf_store(out + 16 * i, vf_load_f16((const uint16_t *)tile + 16 * (col + i)));
        }
        return;
    case MK_PACK_BF16:
        unpack_bf16(tile, col, n, out);
        return;
    case MK_PACK_F8:
        unpack_f8(w, tile, col, n, out);
        return;
    case MK_PACK_I8:
    case MK_PACK_I4:
    case MK_PACK_I5:
    case MK_PACK_I6:
        unpack_int(w, tile, col, n, out);
    }
}
