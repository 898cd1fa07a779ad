// y[t,o] = sum_k W[o,k] x[t,k] with integer weights and activations: lanes are 16 output rows.
//
//     acc = 0;  for every weight group g of 16 or 32 columns, ascending:
//         isum = sum of q_w * q_x over the group                    (exact, int32)
//         acc  = fma((float)isum, scale[o,g] * d[t,g], acc)
//         acc  = fma(shift[o,g], dsum[t,g], acc)                    (types with a shift)
//     y = acc (+ bias)
//
// One tile of 16 rows is, per group: scale f32[16], shift f32[16] if any, codes.  int8 codes: for every 4 columns 16 rows
// x 4 bytes.  4-bit codes: for every 8 columns 16 rows x 4 bytes, low nibbles the first four columns, high the next.
#include "ops/cpu/tile.h"

// The integer sums of one group: `part` 0 or 1 is a half of 16 columns, 2 the whole record.
MK_INLINE void int_sums(const int R, const int T, const uint8_t *const *w, const mk_x_i8 *x, const wt_code code,
                        const int group, const int part, wt_lut table, v16i (*sum)[8]) {
    const int first = part == 1 ? 16 : 0;
    MK_UNROLL for (int t = 0; t < T; t++) {
        v16i init = dot_init(code, x[t].minus_128_sum[part], x[t].minus_8_sum);
        MK_UNROLL for (int r = 0; r < R; r++) {
            sum[r][t] = init;
        }
    }
    if (code == WT_I8) {
        MK_UNROLL for (int s = 0; s < group / 4; s++) {
            MK_UNROLL for (int r = 0; r < R; r++) {
                v16w c = wt_load_i8(w[r] + 64 * s);
                MK_UNROLL for (int t = 0; t < T; t++) {
                    sum[r][t] = dot_step(code, sum[r][t], c, x[t].q + first + 4 * s);
                }
            }
        }
        return;
    }
    MK_UNROLL for (int s = 0; s < group / 8; s++) {
        MK_UNROLL for (int r = 0; r < R; r++) {
            v16w lo, hi;
            wt_load_i4(code, w[r] + 64 * s, table, &lo, &hi);
            MK_UNROLL for (int t = 0; t < T; t++) {
                sum[r][t] = dot_step(code, sum[r][t], lo, x[t].q + first + 8 * s);
            }
            MK_UNROLL for (int t = 0; t < T; t++) {
                sum[r][t] = dot_step(code, sum[r][t], hi, x[t].q + first + 8 * s + 4);
            }
        }
    }
}

// One weight group: integer sums, then the float accumulators; steps w to the next group.
MK_INLINE void int_group(const int R, const int T, const uint8_t **w, const mk_x_i8 *x, v16f (*acc)[8],
                         const wt_code code, const int group, const bool shift, const int part, wt_lut table) {
    const uint8_t *codes[4];
    v16i sum[4][8];
    MK_UNROLL for (int r = 0; r < R; r++) {
        codes[r] = w[r] + (shift ? 128 : 64);
    }
    int_sums(R, T, codes, x, code, group, part, table, sum);
    MK_UNROLL for (int r = 0; r < R; r++) {
        v16f scale = vf_load((const float *)w[r]);
        v16f add = shift ? vf_load((const float *)w[r] + 16) : vf_zero();
        MK_UNROLL for (int t = 0; t < T; t++) {
            v16f s = vf_mul(scale, vf_set1(x[t].d));
            acc[r][t] = vf_fma(vf_from_int(sum[r][t]), s, acc[r][t]);
            if (shift) {
                acc[r][t] = vf_fma(add, vf_set1(x[t].dsum[part]), acc[r][t]);
            }
        }
        w[r] = codes[r] + (size_t)group * (code == WT_I8 ? 16 : 8);
    }
}

MK_INLINE void int_pass(const int R, const int T, const tile_pass *p, const wt_code code, const int group,
                        const bool shift) {
    const uint8_t *w[4];
    v16f acc[4][8];
    wt_lut table = wt_table(p->table);
    MK_UNROLL for (int r = 0; r < R; r++) {
        w[r] = p->w + (size_t)r * p->tile_bytes;
        MK_UNROLL for (int t = 0; t < T; t++) {
            acc[r][t] = vf_zero();
        }
    }
    const mk_x_i8 *x = (const mk_x_i8 *)p->x;
    for (int64_t k = 0; k < p->n_in; k += 32, x += p->tb) {
        if (group == 32) {
            int_group(R, T, w, x, acc, code, group, shift, 2, table);
        } else {
            int_group(R, T, w, x, acc, code, group, shift, 0, table);
            int_group(R, T, w, x, acc, code, group, shift, 1, table);
        }
    }
    MK_UNROLL for (int r = 0; r < R; r++) {
        store_tile(p, r, acc[r], T);
    }
}

// Row tiles at once for 1, 2, 4, 8 tokens.  The lists must agree with the functions named below.
#if MK_INT_T == 8
#define INT_TYPE(name, ...)                                                                                  \
    TILE_FN(name, 1, 1, int_pass, __VA_ARGS__)                                                               \
    TILE_FN(name, 1, 2, int_pass, __VA_ARGS__)                                                               \
    TILE_FN(name, 1, 4, int_pass, __VA_ARGS__)                                                               \
    TILE_FN(name, 1, 8, int_pass, __VA_ARGS__)                                                               \
    TILE_FN(name, 4, 1, int_pass, __VA_ARGS__)                                                               \
    TILE_FN(name, 2, 2, int_pass, __VA_ARGS__)                                                               \
    TILE_FN(name, 2, 4, int_pass, __VA_ARGS__)                                                               \
    static const tile_ops name##_ops = {.many = {name##_4x1, name##_2x2, name##_2x4, name##_1x8},            \
                                        .single = {name##_1x1, name##_1x2, name##_1x4, name##_1x8},          \
                                        .r = {4, 2, 2, 1},                                                   \
                                        .form = MK_X_I8,                                                     \
                                        .token_bytes = sizeof(mk_x_i8)};
#elif MK_INT_T == 2
#define INT_TYPE(name, ...)                                                          \
    TILE_FN(name, 1, 1, int_pass, __VA_ARGS__)                                       \
    TILE_FN(name, 1, 2, int_pass, __VA_ARGS__)                                       \
    static const tile_ops name##_ops = {.many = {name##_1x1, name##_1x2},            \
                                        .single = {name##_1x1, name##_1x2},          \
                                        .r = {1, 1, 1, 1},                           \
                                        .form = MK_X_I8,                             \
                                        .token_bytes = sizeof(mk_x_i8)};
#else
#define INT_TYPE(name, ...)                                                                                  \
    TILE_FN(name, 1, 1, int_pass, __VA_ARGS__)                                                               \
    static const tile_ops name##_ops = {.many = {name##_1x1},                                                \
                                        .single = {name##_1x1},                                              \
                                        .r = {1, 1, 1, 1},                                                   \
                                        .form = MK_X_I8,                                                     \
                                        .token_bytes = sizeof(mk_x_i8)};
#endif

INT_TYPE(i8_16, WT_I8, 16, false)
INT_TYPE(i8_32, WT_I8, 32, false)
INT_TYPE(i8_16s, WT_I8, 16, true)
INT_TYPE(i8_32s, WT_I8, 32, true)
INT_TYPE(i4_32, WT_I4, 32, false)
INT_TYPE(u4_32s, WT_U4, 32, true)
INT_TYPE(t4_32, WT_I4T, 32, false)

void MK_FN(linear_i8)(const mk_linear_job *job, int64_t lo, int64_t hi) {
    const tile_ops *ops = job->w->group == 16 ? (job->w->has_shift ? &i8_16s_ops : &i8_16_ops)
                                              : (job->w->has_shift ? &i8_32s_ops : &i8_32_ops);
    walk_tiles(ops, job, lo, hi, MK_INT_T);
}

// Every 4-bit type is one of three: values 0..15 with a shift, values -8..7, or a table (pack.c asserts it).
void MK_FN(linear_i4)(const mk_linear_job *job, int64_t lo, int64_t hi) {
    const tile_ops *ops = &t4_32_ops;
    if (job->w->has_shift) {
        ops = &u4_32s_ops;
    } else if (job->w->table[0] == -8 && job->w->table[15] == 7) {
        ops = &i4_32_ops;
    }
    walk_tiles(ops, job, lo, hi, MK_INT_T);
}
