// Integer weights: how a type is stored, its scales, and how
// 4 columns of 16 rows come into a register.
//
//     acc = 0;  for every 64 columns, ascending, of which activations share d:
//         for every weight group g of 16 or 32 columns of them, ascending:
//             isum = sum of q_w * q_x over the group                (exact, int32)
//             p    = fma((float)isum, scale[o,g], p)                (the first: (float)isum * scale)
//             p    = fma(shift[o,g], (float)sum of q_x, p)          (types with a shift)
//         acc  = fma(p, d, acc)
//     y = acc (+ bias)
//
// One tile of 16 rows is blocks of 256 columns (the last may be shorter): a head with all scales,
// padded to a cache line, then all codes, so that no load of codes crosses a line.  The head is
// scale[16] and, if any, shift[16] of each group; scales are f32, f16, or int8 times an f16[16]
// that stands in front (and another for the shifts).  int8 codes: for every 4 columns 16 rows x 4
// bytes.  Codes of 4 bits: for every 8 columns 16 rows x 4 bytes, low nibbles the first four
// columns, high the next.  Codes of 5 and 6 bits: a plane of 64 bytes for every 32 (16)
// columns with the upper bits, see wt_add_high, then the low four bits like that: lines are read in
// ascending order, which is what the processor fetches ahead.
#ifndef MK_OPS_CPU_LINEAR_INT_H
#define MK_OPS_CPU_LINEAR_INT_H

#include "ops/cpu/tile.h"

// How one type is stored; compile-time constants.
typedef struct {
    wt_code code;
    int log2_offset;  // value = code - 2^log2_offset; -1: none
    int group;
    bool shift;
    mk_scale_kind scales;
} int_type;

// Where a pass is in a block: the next group's scale and shift as they are stored (for
// MK_SCALE_SUPER with the block's own) or, where many tokens share the conversion, as floats.
typedef struct {
    const uint8_t *scale, *codes;
    v16f super, super_shift;
    const float *wide;  // f32[16] scale and, if any, f32[16] shift of each group, or NULL
} int_place;

MK_INLINE size_t int_scale_bytes(const mk_scale_kind kind) {
    return kind == MK_SCALE_F32 ? 64 : kind == MK_SCALE_F16 ? 32 : 16;
}

// Bytes of the codes of one group.
MK_INLINE size_t int_code_bytes(const int_type ty) {
    return (size_t)ty.group * (ty.code == WT_I8   ? 16
                               : ty.code == WT_U5 ? 10
                               : ty.code == WT_U6 ? 12
                                                  : 8);
}

// What takes back that the codes are shifted up in their bytes.
MK_INLINE float int_down(const int_type ty) {
    return 1.0f / (float)(1 << WT_UP(ty.code, ty.log2_offset));
}

// The scale (or, with `down` 1, the shift) of a group.
MK_INLINE v16f int_load_scale(const mk_scale_kind kind, const uint8_t *p, v16f super,
                              const float down) {
    if (kind == MK_SCALE_SUPER) {
        return vf_mul(super, vf_load_i8(p));
    }
    v16f scale =
        kind == MK_SCALE_F32 ? vf_load((const float *)p) : vf_load_f16((const uint16_t *)p);
    return down == 1 ? scale : vf_mul(scale, vf_set1(down));
}

// Goes to the block of n columns at w.
MK_INLINE int_place int_block(const int_type ty, const uint8_t *w, int64_t n) {
    int_place at = {w, w + mk_int_head_bytes(ty.scales, ty.shift, (size_t)ty.group, (size_t)n),
                    vf_zero(), vf_zero(), NULL};
    if (ty.scales == MK_SCALE_SUPER) {
        at.super = vf_load_f16((const uint16_t *)w);
        if (int_down(ty) != 1) {
            at.super = vf_mul(at.super, vf_set1(int_down(ty)));
        }
        at.scale += 32;
        if (ty.shift) {
            at.super_shift = vf_load_f16((const uint16_t *)w + 16);
            at.scale += 32;
        }
    }
    return at;
}

// Scale and shift of the next group, to which it goes.
MK_INLINE void int_next_scales(const int_type ty, const bool wide, int_place *at, v16f *scale,
                               v16f *shift) {
    const size_t bytes = int_scale_bytes(ty.scales);
    *scale =
        wide ? vf_load(at->wide) : int_load_scale(ty.scales, at->scale, at->super, int_down(ty));
    *shift = !ty.shift ? vf_zero()
             : wide    ? vf_load(at->wide + 16)
                       : int_load_scale(ty.scales, at->scale + bytes, at->super_shift, 1);
    at->scale += ty.shift ? 2 * bytes : bytes;
    at->wide += !wide ? 0 : ty.shift ? 32 : 16;
}

// The scales and shifts of n columns of the tile at w as floats.
MK_INLINE void int_widen(const int_type ty, const uint8_t *w, int64_t n, float *out) {
    for (int64_t k = 0; k < n; k += MK_SUPER) {
        int64_t cols = n - k < MK_SUPER ? n - k : MK_SUPER;
        int_place at = int_block(ty, w, cols);
        for (int64_t g = 0; g < cols; g += ty.group) {
            v16f scale, shift;
            int_next_scales(ty, false, &at, &scale, &shift);
            vf_store(out, scale);
            if (ty.shift) {
                vf_store(out + 16, shift);
            }
            out += ty.shift ? 32 : 16;
            at.codes += int_code_bytes(ty);
        }
        w = at.codes;
    }
}

// Steps s and s + 1 (s even) of a group whose codes begin at w: columns 4 s .. 4 s + 7.
MK_INLINE void int_load_pair(const int_type ty, const uint8_t *w, const int s, wt_lut table,
                             v16w *lo, v16w *hi) {
    if (ty.code == WT_I8) {
        *lo = wt_load_i8(w + 64 * s);
        *hi = wt_load_i8(w + 64 * (s + 1));
        return;
    }
    const uint8_t *plane = w;
    w += ty.code == WT_U5 ? ty.group * 2 : ty.code == WT_U6 ? ty.group * 4 : 0;
    const int up = WT_UP(ty.code, ty.log2_offset);
    wt_load_low(ty.code, up, w + 32 * s, table, lo, hi);
    if (ty.code == WT_U5) {
        *lo = wt_add_high(WT_U5, up, *lo, plane, s);
        *hi = wt_add_high(WT_U5, up, *hi, plane, s + 1);
    } else if (ty.code == WT_U6) {
        *lo = wt_add_high(WT_U6, up, *lo, plane + s / 4 * 64, s % 4);
        *hi = wt_add_high(WT_U6, up, *hi, plane + s / 4 * 64, s % 4 + 1);
    }
}

// Every type that pack_int.c makes: X(name, code, log2 offset, group, shift, scales)
// clang-format off
#define INT_TYPES(X) \
    X(i8_16_f32,   WT_I8,  -1, 16, false, MK_SCALE_F32) \
    X(i8_16s_f32,  WT_I8,  -1, 16, true,  MK_SCALE_F32) \
    X(i8_32_f32,   WT_I8,  -1, 32, false, MK_SCALE_F32) \
    X(i8_32s_f32,  WT_I8,  -1, 32, true,  MK_SCALE_F32) \
    X(i8_32_f16,   WT_I8,  -1, 32, false, MK_SCALE_F16) \
    X(u4o_f16,     WT_U4,   3, 32, false, MK_SCALE_F16) \
    X(u4s_f16,     WT_U4,  -1, 32, true,  MK_SCALE_F16) \
    X(u4s_super,   WT_U4,  -1, 32, true,  MK_SCALE_SUPER) \
    X(u4s_16_super, WT_U4, -1, 16, true,  MK_SCALE_SUPER) \
    X(u4o_16_super, WT_U4,  2, 16, false, MK_SCALE_SUPER) \
    X(t4_f32,      WT_I4T, -1, 32, false, MK_SCALE_F32) \
    X(t4_f16,      WT_I4T, -1, 32, false, MK_SCALE_F16) \
    X(t4_super,    WT_I4T, -1, 32, false, MK_SCALE_SUPER) \
    X(u5o_f16,     WT_U5,   4, 32, false, MK_SCALE_F16) \
    X(u5s_f16,     WT_U5,  -1, 32, true,  MK_SCALE_F16) \
    X(u5s_super,   WT_U5,  -1, 32, true,  MK_SCALE_SUPER) \
    X(u6o_16_super, WT_U6,  5, 16, false, MK_SCALE_SUPER)
// clang-format on

// The type of a packed weight as its number in the list above, INT_N if there is none.
enum {
#define X(name, ...) INT_##name,
    INT_TYPES(X)
#undef X
        INT_N
};
static inline int int_type_of(const mk_weight *w) {
    static const int_type list[INT_N] = {
#define X(name, code, offset, group, shift, scales) {code, offset, group, shift, scales},
        INT_TYPES(X)
#undef X
    };
    wt_code code = w->kind == MK_PACK_I8   ? WT_I8
                   : w->kind == MK_PACK_I5 ? WT_U5
                   : w->kind == MK_PACK_I6 ? WT_U6
                   : w->has_table          ? WT_I4T
                                           : WT_U4;
    for (int i = 0; i < INT_N; i++) {
        if (list[i].code == code && list[i].group == w->group && list[i].shift == w->has_shift &&
            list[i].scales == w->scales &&
            (list[i].log2_offset < 0 ? 0 : 1 << list[i].log2_offset) == w->offset) {
            return i;
        }
    }
    return INT_N;
}

#endif
