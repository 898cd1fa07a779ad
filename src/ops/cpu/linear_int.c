// y[t,o] = sum_k W[o,k] x[t,k] with integer weights and activations: lanes are 16 output rows.
// Straight from the packed weights; numbers and layouts are in linear_int.h.
//
// One row tile at a time: a single stream of weights reads memory fastest (Zen 4, one token: 31
// GB/s against 21-27 with four tiles side by side), and one tile hides its latencies, because the
// integer sums of the next group do not wait for anything.
#include "ops/cpu/linear_int.h"

// How often the scales of a pass must be used for their conversion to be made once beforehand.
#define WIDE_FROM 4

// Columns from which on the activations of two tokens do not stay in the nearest cache beside the
// weights.
#define LONG_ROWS 4096

// Cache lines that int_load_pair reads, but for the upper bits.
MK_INLINE int int_pair_lines(const int_type ty) {
    return ty.code == WT_I8 ? 2 : 1;
}

// The other lines of 64 columns: upper bits, and a fourth of the head of 256.
MK_INLINE int int_other_lines(const int_type ty) {
    size_t head = mk_int_head_bytes(ty.scales, ty.shift, (size_t)ty.group, MK_SUPER) / 64;
    return (ty.code == WT_U5 ? 2 : ty.code == WT_U6 ? 4 : 0) + (int)(head + 3) / 4;
}

// The integer sums of one group for T tokens: `part` 0 or 1 is a half of 16 columns, 2 the whole
// record.  fetch: NULL if nothing is asked for.
MK_INLINE void int_sums(const int T, const uint8_t *w, const mk_x_i8 *x, const int_type ty,
                        const int part, wt_lut table, v16i *sum, tile_fetch *fetch) {
    const int first = part == 1 ? 16 : 0, n_step = ty.group / 4;
    const int run = DOT_RUN(ty.code) < n_step ? DOT_RUN(ty.code) : n_step;
    MK_UNROLL for (int t = 0; t < T; t++) {
        sum[t] = dot_init(ty.code, ty.log2_offset, x[t].minus_128_sum[part]);
    }
    MK_UNROLL for (int at = 0; at < n_step; at += run) {
        v16i acc[8];
        MK_UNROLL for (int t = 0; t < T; t++) {
            acc[t] = dot_begin(ty.code, sum[t]);
        }
        MK_UNROLL for (int s = at; s < at + run; s += 2) {
            v16w lo, hi;
            if (fetch != NULL) {
                fetch_lines(fetch, int_pair_lines(ty));
            }
            int_load_pair(ty, w, s, table, &lo, &hi);
            MK_UNROLL for (int t = 0; t < T; t++) {
                acc[t] = dot_step(ty.code, acc[t], lo, x[t].q + first + 4 * s);
            }
            MK_UNROLL for (int t = 0; t < T; t++) {
                acc[t] = dot_step(ty.code, acc[t], hi, x[t].q + first + 4 * s + 4);
            }
        }
        MK_UNROLL for (int t = 0; t < T; t++) {
            sum[t] = dot_end(ty.code, sum[t], acc[t]);
        }
    }
}

// One weight group: integer sums, then the sums p of its 64 columns, which the first group begins;
// steps to the next group.
MK_INLINE void int_group(const int T, int_place *at, const mk_x_i8 *x, v16f *p, const int_type ty,
                         const bool wide, const bool first, const int part, wt_lut table,
                         tile_fetch *fetch) {
    v16i sum[8];
    v16f scale, shift;
    int_sums(T, at->codes, x, ty, part, table, sum, fetch);
    int_next_scales(ty, wide, at, &scale, &shift);
    MK_UNROLL for (int t = 0; t < T; t++) {
        v16f s = vf_from_int(sum[t]);
        p[t] = first ? vf_mul(s, scale) : vf_fma(s, scale, p[t]);
        if (ty.shift) {
            p[t] = vf_fma(shift, vf_set1(x[t].sum[part]), p[t]);
        }
    }
    at->codes += int_code_bytes(ty);
}

// The 32 columns of one record of activations.
MK_INLINE void int_record(const int T, int_place *at, const mk_x_i8 *x, v16f *p, const int_type ty,
                          const bool wide, const bool first, wt_lut table, tile_fetch *fetch) {
    if (ty.group == 32) {
        int_group(T, at, x, p, ty, wide, first, 2, table, fetch);
    } else {
        int_group(T, at, x, p, ty, wide, first, 0, table, fetch);
        int_group(T, at, x, p, ty, wide, false, 1, table, fetch);
    }
}

// T tokens from t; with `is_wide` the scales are at `wide`.  fetch: NULL if memory is faster than
// the arithmetic.  Then the processor's own prefetching does best, and needs only a word now and
// then about what comes next: it ends at every page.
MK_INLINE void int_tokens(const int T, const tile_pass *p, int64_t t, const int_type ty,
                          const bool is_wide, const float *wide, wt_lut table, tile_fetch *fetch) {
    const uint8_t *w = p->w;
    v16f acc[8];
    load_acc(p, t, acc, T);
    const mk_x_i8 *x = (const mk_x_i8 *)x_at(p, t, sizeof *x);
    for (int64_t k = 0; k < p->n_in; k += MK_SUPER) {
        int64_t n = p->n_in - k < MK_SUPER ? p->n_in - k : MK_SUPER;
        int_place at = int_block(ty, w, n);
        at.wide = wide;
        if (fetch == NULL) {
            ask_line(w + AHEAD_BYTES);
        }
        for (int64_t i = 0; i < n; i += 64, x += 2 * p->tb) {
            v16f sum[8];
            if (fetch != NULL) {
                fetch_begin(p, fetch, at.codes);
                fetch_lines(fetch, int_other_lines(ty));
            }
            int_record(T, &at, x, sum, ty, is_wide, true, table, fetch);
            if (i + 32 < n) {
                int_record(T, &at, x + p->tb, sum, ty, is_wide, false, table, fetch);
            }
            if (fetch != NULL) {
                fetch_end(fetch);
            }
            MK_UNROLL for (int j = 0; j < T; j++) {
                acc[j] = vf_fma(sum[j], vf_set1(x[j].d), acc[j]);
            }
        }
        w = at.codes;
        wide = at.wide;
    }
    store_acc(p, 0, t, acc, T);
}

MK_INLINE void int_pass(const int R, const int T, const tile_pass *p, const int_type ty) {
    tile_fetch fetch = fetch_from(p);
    wt_lut table = wt_table(p->table);
    (void)R;
    if (T == MK_INT_T && T > 1 && ty.scales == MK_SCALE_SUPER && p->n_tok >= WIDE_FROM * T &&
        p->n_in <= BLOCK_COLS) {
        _Alignas(64) float wide[BLOCK_COLS / 16 * 32];
        int_widen(ty, p->w, p->n_in, wide);
        for (int64_t t = 0; t < p->n_tok; t += T) {
            int_tokens(T, p, t, ty, true, wide, table, &fetch);
        }
        return;
    }
    bool lines = T >= FETCH_FROM ? T == MK_INT_T || ty.code != WT_I8
                                 : T == 2 && ty.code != WT_I8 && p->n_in > LONG_ROWS;
    if (lines) {
        for (int64_t t = 0; t < p->n_tok; t += T) {
            int_tokens(T, p, t, ty, false, NULL, table, &fetch);
        }
        return;
    }
    for (int64_t t = 0; t < p->n_tok; t += T) {
        int_tokens(T, p, t, ty, false, NULL, table, NULL);
    }
}

// Passes for 1, 2, 4, 8 tokens, as far as the registers go.
#define INT_OPS(name, ...)                                                                         \
    static const tile_ops name##_ops = {.many = {__VA_ARGS__},                                     \
                                        .single = {__VA_ARGS__},                                   \
                                        .r = {1, 1, 1, 1},                                         \
                                        .form = MK_X_I8,                                           \
                                        .column_bytes = sizeof(mk_x_i8) / 32,                      \
                                        .splits = MK_INT_T >= 4};
#if MK_INT_T == 8
#define INT_PASSES(name, ...)                                                                      \
    TILE_FN(name, 1, 1, int_pass, __VA_ARGS__)                                                     \
    TILE_FN(name, 1, 2, int_pass, __VA_ARGS__)                                                     \
    TILE_FN(name, 1, 4, int_pass, __VA_ARGS__)                                                     \
    TILE_FN(name, 1, 8, int_pass, __VA_ARGS__)                                                     \
    INT_OPS(name, name##_1x1, name##_1x2, name##_1x4, name##_1x8)
#elif MK_INT_T == 4
#define INT_PASSES(name, ...)                                                                      \
    TILE_FN(name, 1, 1, int_pass, __VA_ARGS__)                                                     \
    TILE_FN(name, 1, 2, int_pass, __VA_ARGS__)                                                     \
    TILE_FN(name, 1, 4, int_pass, __VA_ARGS__)                                                     \
    INT_OPS(name, name##_1x1, name##_1x2, name##_1x4)
#elif MK_INT_T == 2
#define INT_PASSES(name, ...)                                                                      \
    TILE_FN(name, 1, 1, int_pass, __VA_ARGS__)                                                     \
    TILE_FN(name, 1, 2, int_pass, __VA_ARGS__)                                                     \
    INT_OPS(name, name##_1x1, name##_1x2)
#else
#define INT_PASSES(name, ...)                                                                      \
    TILE_FN(name, 1, 1, int_pass, __VA_ARGS__)                                                     \
    INT_OPS(name, name##_1x1)
#endif
#define X(name, code, offset, group, shift, scales)                                                \
    INT_PASSES(name, ((int_type){code, offset, group, shift, scales}))
INT_TYPES(X)
#undef X

void MK_FN(linear_int)(const mk_linear_job *job, int64_t lo, int64_t hi) {
    static const tile_ops *const list[INT_N] = {
#define X(name, ...) &name##_ops,
        INT_TYPES(X)
#undef X
    };
    int type = int_type_of(job->w);
    MK_ASSERT(type < INT_N);
    walk_tiles(list[type], job, lo, hi, MK_INT_T);
}
