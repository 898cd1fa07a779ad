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

// How a group is stored; constants wherever it is used.
typedef struct {
    mk_pack_kind kind;
    bool table, shift;
} group_type;

// The columns that share 16 words of 4 bytes: 4 of int8, 8 of the lower four bits, whose upper bits
// are in the plane before them.
MK_INLINE void unpack_words(const group_type ty, const mk_weight *w, const uint8_t *group, int i,
                            const float *scale, const float *shift, float *out) {
    const int bits = ty.kind == MK_PACK_I5 ? 1 : ty.kind == MK_PACK_I6 ? 2 : 0;
    const int n = ty.kind == MK_PACK_I8 ? 4 : 8, planes = 32 / (bits == 2 ? 2 : 1);
    uint32_t low[16], high[16] = {0};
    memcpy(low, group + w->group * bits * 2 + i / n * 64, sizeof low);
    if (bits > 0) {
        memcpy(high, group + i / planes * 64, sizeof high);
    }
    for (int c = 0; c < n; c++, out += 16) {
        const int at = 8 * (c % 4) + c / 4 * 4, high_at = 8 * (c % 4) + (i + c) % planes / 4 * bits;
        for (int r = 0; r < 16; r++) {
            uint32_t code = low[r] >> at & (ty.kind == MK_PACK_I8 ? 255u : 15u);
            code |= bits > 0 ? (high[r] >> high_at & ((1u << bits) - 1)) << 4 : 0;
            int32_t q = ty.table                ? w->table[code]
                        : ty.kind == MK_PACK_I8 ? (int32_t)code - 128
                                                : (int32_t)code - w->offset;
            float v = scale[r] * (float)q;
            out[r] = ty.shift ? v + shift[r] : v;
        }
    }
}

MK_INLINE void unpack_group(const group_type ty, const mk_weight *w, const uint8_t *group,
                            const float *scale, const float *shift, float *out) {
    const int n = ty.kind == MK_PACK_I8 ? 4 : 8;
    for (int i = 0; i < w->group; i += n, out += 16 * n) {
        unpack_words(ty, w, group, i, scale, shift, out);
    }
}

typedef void (*group_fn)(const mk_weight *w, const uint8_t *group, const float *scale,
                         const float *shift, float *out);
#define GROUP_FN(name, ...)                                                                        \
    static void name(const mk_weight *w, const uint8_t *group, const float *scale,                 \
                     const float *shift, float *out) {                                             \
        unpack_group((group_type){__VA_ARGS__}, w, group, scale, shift, out);                      \
    }
GROUP_FN(group_i8, MK_PACK_I8, false, false)
GROUP_FN(group_i8_shift, MK_PACK_I8, false, true)
GROUP_FN(group_i4, MK_PACK_I4, false, false)
GROUP_FN(group_i4_shift, MK_PACK_I4, false, true)
GROUP_FN(group_table, MK_PACK_I4, true, false)
GROUP_FN(group_i5, MK_PACK_I5, false, false)
GROUP_FN(group_i5_shift, MK_PACK_I5, false, true)
GROUP_FN(group_i6, MK_PACK_I6, false, false)
GROUP_FN(group_i6_shift, MK_PACK_I6, false, true)

static group_fn group_fn_of(const mk_weight *w) {
    switch (w->kind) {
    case MK_PACK_I8:
        return w->has_shift ? group_i8_shift : group_i8;
    case MK_PACK_I5:
        return w->has_shift ? group_i5_shift : group_i5;
    case MK_PACK_I6:
        return w->has_shift ? group_i6_shift : group_i6;
    default:
        return w->has_table ? group_table : w->has_shift ? group_i4_shift : group_i4;
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
    const group_fn unpack_one = group_fn_of(w);
    v16f super = vf_zero(), super_shift = vf_zero();
    MK_ASSERT(!w->has_table || !w->has_shift);
    if (w->scales == MK_SCALE_SUPER) {
        super = vf_load_f16((const uint16_t *)p);
        super_shift = w->has_shift ? vf_load_f16((const uint16_t *)p + 16) : super_shift;
        p += w->has_shift ? 64 : 32;
    }
    for (int64_t g = first; g < first + n; g++, out += 16 * group) {
        float scale[16], shift[16] = {0};
        const uint8_t *s = p + (size_t)g * (w->has_shift ? 2 * bytes : bytes);
        load_scales(w->scales, s, super, scale);
        if (w->has_shift) {
            load_scales(w->scales, s + bytes, super_shift, shift);
        }
        unpack_one(w, codes + (size_t)g * code_bytes, scale, shift, out);
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

// The other way for weights that are trained: n_tile tiles of MK_PACK_F32 as tiles of MK_PACK_BF16.
void MK_FN(round_tiles)(uint8_t *to, const float *from, int64_t n_in, int64_t n_tile) {
    for (int64_t tile = 0; tile < n_tile; tile++) {
        for (int64_t i = 0; i < n_in; i += 2, from += 32, to += 64) {
            v16f odd = i + 1 < n_in ? vf_load(from + 16) : vf_zero();
            vf_store_bf16_pairs((uint16_t *)(void *)to, vf_load(from), odd);
        }
        from -= n_in % 2 * 16;
    }
}
