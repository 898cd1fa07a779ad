// y[t,o] = sum_k W[o,k] x[t,k] with integer weights and activations: lanes are 16 output rows.
//
//     acc = 0;  for every weight group g of 16 or 32 columns, ascending:
//         isum = sum of q_w * q_x over the group                    (exact, int32)
//         acc  = fma((float)isum, scale[o,g] * d[t,g], acc)
//         acc  = fma(shift[o,g], dsum[t,g], acc)                    (types with a shift)
//     y = acc (+ bias)
//
// One tile of 16 rows is, per group: scale[16], shift[16] if any, codes.  Scales are f32, f16, or
// int8 times an f16[16] that stands in front of every 256 columns (and another for the shifts).
// int8 codes: for every 4 columns 16 rows x 4 bytes.  4-bit codes: for every 8 columns 16 rows x 4
// bytes, low nibbles the first four columns, high the next.
//
// One row tile at a time: a single stream of weights reads memory fastest (Zen 4, one token: 31
// GB/s against 21-27 with four tiles side by side), and one tile hides its latencies, because the
// integer sums of the next group do not wait for anything.
#include "ops/cpu/tile.h"

// How one type is stored; compile-time constants.
typedef struct {
    wt_code code;
    int group;
    bool shift;
    mk_scale_kind scales;
} int_type;

// Where a pass is in the tile and, for MK_SCALE_SUPER, the scale and shift of the 256 columns.
typedef struct {
    const uint8_t *w;
    v16f super, super_shift;
} int_place;

// The integer sums of one group for T tokens: `part` 0 or 1 is a half of 16 columns, 2 the whole
// record.
MK_INLINE void int_sums(const int T, const uint8_t *w, const mk_x_i8 *x, const int_type ty,
                        const int part, wt_lut table, v16i *sum) {
    const int first = part == 1 ? 16 : 0, n_step = ty.code == WT_I8 ? ty.group / 4 : ty.group / 8;
    MK_UNROLL for (int t = 0; t < T; t++) {
        sum[t] = dot_init(ty.code, x[t].minus_128_sum[part], x[t].minus_8_sum);
    }
    MK_UNROLL for (int s = 0; s < n_step; s++) {
        v16w lo, hi;
        if (ty.code == WT_I8) {
            lo = wt_load_i8(w + 64 * s);
            MK_UNROLL for (int t = 0; t < T; t++) {
                sum[t] = dot_step(ty.code, sum[t], lo, x[t].q + first + 4 * s);
            }
        } else {
            wt_load_i4(ty.code, w + 64 * s, table, &lo, &hi);
            MK_UNROLL for (int t = 0; t < T; t++) {
                sum[t] = dot_step(ty.code, sum[t], lo, x[t].q + first + 8 * s);
            }
            MK_UNROLL for (int t = 0; t < T; t++) {
                sum[t] = dot_step(ty.code, sum[t], hi, x[t].q + first + 8 * s + 4);
            }
        }
    }
    MK_UNROLL for (int t = 0; t < T; t++) {
        sum[t] = dot_finish(ty.code, sum[t], x[t].minus_8_sum);
    }
}

MK_INLINE size_t scale_bytes(const mk_scale_kind kind) {
    return kind == MK_SCALE_F32 ? 64 : kind == MK_SCALE_F16 ? 32 : 16;
}

MK_INLINE v16f load_scale(const mk_scale_kind kind, const uint8_t *p, v16f super) {
    return kind == MK_SCALE_F32   ? vf_load((const float *)p)
           : kind == MK_SCALE_F16 ? vf_load_f16((const uint16_t *)p)
                                  : vf_mul(super, vf_load_i8(p));
}

// Asks for the lines of a group about two groups ahead.  With 8 tokens the arithmetic of a line
// takes so long that the hardware's own prefetching falls asleep (+20..30 % on weights in memory);
// with fewer tokens this only gets in its way.
MK_INLINE void prefetch(const uint8_t *p, const int n_line) {
    MK_UNROLL for (int i = 0; i < n_line; i++) {
        __builtin_prefetch(p + 2048 + 64 * i);
    }
}

// One weight group: integer sums, then the float accumulators; steps to the next group.
MK_INLINE void int_group(const int T, int_place *at, const mk_x_i8 *x, v16f *acc, const int_type ty,
                         const int part, wt_lut table) {
    const size_t sb = scale_bytes(ty.scales);
    const uint8_t *codes = at->w + (ty.shift ? 2 * sb : sb);
    v16i sum[8];
    if (T == 8) {
        prefetch(codes, ty.group / (ty.code == WT_I8 ? 4 : 8));
    }
    int_sums(T, codes, x, ty, part, table, sum);
    v16f scale = load_scale(ty.scales, at->w, at->super);
    v16f shift = ty.shift ? load_scale(ty.scales, at->w + sb, at->super_shift) : vf_zero();
    MK_UNROLL for (int t = 0; t < T; t++) {
        acc[t] = vf_fma(vf_from_int(sum[t]), vf_mul(scale, vf_set1(x[t].d)), acc[t]);
        if (ty.shift) {
            acc[t] = vf_fma(shift, vf_set1(x[t].dsum[part]), acc[t]);
        }
    }
    at->w = codes + (size_t)ty.group * (ty.code == WT_I8 ? 16 : 8);
}

// The 32 columns of one record of activations.
MK_INLINE void int_record(const int T, int_place *at, const mk_x_i8 *x, v16f *acc,
                          const int_type ty, wt_lut table) {
    if (ty.group == 32) {
        int_group(T, at, x, acc, ty, 2, table);
    } else {
        int_group(T, at, x, acc, ty, 0, table);
        int_group(T, at, x, acc, ty, 1, table);
    }
}

MK_INLINE void load_super(int_place *at, const bool shift) {
    at->super = vf_load_f16((const uint16_t *)at->w);
    if (shift) {
        at->super_shift = vf_load_f16((const uint16_t *)at->w + 16);
    }
    at->w += shift ? 64 : 32;
}

MK_INLINE void int_pass(const int R, const int T, const tile_pass *p, const int_type ty) {
    int_place at = {p->w, vf_zero(), vf_zero()};
    v16f acc[8];
    wt_lut table = wt_table(p->table);
    (void)R;
    MK_UNROLL for (int t = 0; t < T; t++) {
        acc[t] = vf_zero();
    }
    const mk_x_i8 *x = (const mk_x_i8 *)p->x;
    const int64_t stretch = ty.scales == MK_SCALE_SUPER ? MK_SUPER : p->n_in;
    for (int64_t k = 0; k < p->n_in; k += stretch) {
        if (ty.scales == MK_SCALE_SUPER) {
            load_super(&at, ty.shift);
        }
        for (int64_t i = 0; i < stretch; i += 32, x += p->tb) {
            int_record(T, &at, x, acc, ty, table);
        }
    }
    store_tile(p, 0, acc, T);
}

// Passes for 1, 2, 4, 8 tokens, as far as the registers go.
#define INT_OPS(name, ...)                                                                         \
    static const tile_ops name##_ops = {.many = {__VA_ARGS__},                                     \
                                        .single = {__VA_ARGS__},                                   \
                                        .r = {1, 1, 1, 1},                                         \
                                        .form = MK_X_I8,                                           \
                                        .token_bytes = sizeof(mk_x_i8)};
#if MK_INT_T == 8
#define INT_TYPE(name, ...)                                                                        \
    TILE_FN(name, 1, 1, int_pass, __VA_ARGS__)                                                     \
    TILE_FN(name, 1, 2, int_pass, __VA_ARGS__)                                                     \
    TILE_FN(name, 1, 4, int_pass, __VA_ARGS__)                                                     \
    TILE_FN(name, 1, 8, int_pass, __VA_ARGS__)                                                     \
    INT_OPS(name, name##_1x1, name##_1x2, name##_1x4, name##_1x8)
#elif MK_INT_T == 2
#define INT_TYPE(name, ...)                                                                        \
    TILE_FN(name, 1, 1, int_pass, __VA_ARGS__)                                                     \
    TILE_FN(name, 1, 2, int_pass, __VA_ARGS__)                                                     \
    INT_OPS(name, name##_1x1, name##_1x2)
#else
#define INT_TYPE(name, ...)                                                                        \
    TILE_FN(name, 1, 1, int_pass, __VA_ARGS__)                                                     \
    INT_OPS(name, name##_1x1)
#endif

// name: values, group, s = with shift, then the scales
#define TYPE(code, group, shift, scales) ((int_type){code, group, shift, scales})
INT_TYPE(i8_16_f32, TYPE(WT_I8, 16, false, MK_SCALE_F32))
INT_TYPE(i8_16s_f32, TYPE(WT_I8, 16, true, MK_SCALE_F32))
INT_TYPE(i8_32_f32, TYPE(WT_I8, 32, false, MK_SCALE_F32))
INT_TYPE(i8_32s_f32, TYPE(WT_I8, 32, true, MK_SCALE_F32))
INT_TYPE(i8_32_f16, TYPE(WT_I8, 32, false, MK_SCALE_F16))
INT_TYPE(i8_32s_f16, TYPE(WT_I8, 32, true, MK_SCALE_F16))
INT_TYPE(i8_16_super, TYPE(WT_I8, 16, false, MK_SCALE_SUPER))
INT_TYPE(i8_16s_super, TYPE(WT_I8, 16, true, MK_SCALE_SUPER))
INT_TYPE(i8_32s_super, TYPE(WT_I8, 32, true, MK_SCALE_SUPER))
INT_TYPE(i4_f16, TYPE(WT_I4, 32, false, MK_SCALE_F16))
INT_TYPE(u4s_f16, TYPE(WT_U4, 32, true, MK_SCALE_F16))
INT_TYPE(u4s_super, TYPE(WT_U4, 32, true, MK_SCALE_SUPER))
INT_TYPE(t4_f32, TYPE(WT_I4T, 32, false, MK_SCALE_F32))
INT_TYPE(t4_f16, TYPE(WT_I4T, 32, false, MK_SCALE_F16))
INT_TYPE(t4_super, TYPE(WT_I4T, 32, false, MK_SCALE_SUPER))

// Every type that pack.c makes is in these lists.
void MK_FN(linear_i8)(const mk_linear_job *job, int64_t lo, int64_t hi) {
    static const tile_ops *const list[3][2][2] = {
        // [scales][group 32][shift]
        {{&i8_16_f32_ops, &i8_16s_f32_ops}, {&i8_32_f32_ops, &i8_32s_f32_ops}},
        {{NULL, NULL}, {&i8_32_f16_ops, &i8_32s_f16_ops}},
        {{&i8_16_super_ops, &i8_16s_super_ops}, {NULL, &i8_32s_super_ops}}};
    walk_tiles(list[job->w->scales][job->w->group == 32][job->w->has_shift], job, lo, hi, MK_INT_T);
}

void MK_FN(linear_i4)(const mk_linear_job *job, int64_t lo, int64_t hi) {
    static const tile_ops *const unsigned_list[3] = {NULL, &u4s_f16_ops, &u4s_super_ops};
    static const tile_ops *const table_list[3] = {&t4_f32_ops, &t4_f16_ops, &t4_super_ops};
    const mk_weight *w = job->w;
    bool linear = w->table[0] == -8 && w->table[15] == 7;
    walk_tiles(w->has_shift ? unsigned_list[w->scales]
               : linear     ? &i4_f16_ops
                            : table_list[w->scales],
               job, lo, hi, MK_INT_T);
}
