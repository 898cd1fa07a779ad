// y = W x for many tokens with integer weights: the same sums in the same order as linear_int.c,
// arranged for arithmetic instead of memory.
//
// For R row tiles and 256 columns at a time, the weights are unpacked once into a buffer that stays
// in the first-level cache (one byte a code, scales as float32), and every R x T pass over it uses
// a broadcast of activations R times and a line of weights T times.  The float accumulators of all
// tokens wait in a buffer between the stretches of 256 columns: storing and loading them changes no
// bit.  While the passes compute, they ask for the packed weights of the next stretch, so that
// memory is read behind the arithmetic.
#include "ops/cpu/linear_int.h"

#if defined(MK_GEMM_T)
#include <stdalign.h>

#define R_MAX      MK_GEMM_R
#define TOKENS     256  // whose accumulators wait: R_MAX * 16 KB
#define MIN_TOKENS 9    // fewer are faster straight from the packed form
// Per group of 16 or 32 columns: one byte a code, scale[16], shift[16].
#define TILE_BYTES (MK_SUPER * 16 + MK_SUPER / 16 * 128)

typedef struct {
    alignas(64) uint8_t w[R_MAX][TILE_BYTES];
    alignas(64) float acc[TOKENS * R_MAX * 16];  // [t][r][16]
} gemm_buf;

typedef struct {
    const uint8_t *w;  // R tiles of the buffer
    const mk_x_i8 *x;  // T tokens of a block, first record of the stretch
    int64_t tb, n_rec;
    float *acc;  // [T][R][16]
} gemm_pass;

// --- unpacking -----------------------------------------------------------------------------------
MK_INLINE uint8_t *unpack_group(int_place *at, uint8_t *dst, const int_type ty, wt_lut table) {
    const size_t sb = int_scale_bytes(ty.scales);
    const uint8_t *codes = at->w + (ty.shift ? 2 * sb : sb);
    MK_UNROLL for (int s = 0; s < ty.group / 4; s += 2) {
        v16w lo, hi;
        int_load_pair(ty, codes, s, table, &lo, &hi);
        if (ty.code == WT_I8 || ty.code == WT_I4T) {
            wt_store_i8(dst + 64 * s, lo);
            wt_store_i8(dst + 64 * s + 64, hi);
        } else {
            wt_store_u(dst + 64 * s, lo);
            wt_store_u(dst + 64 * s + 64, hi);
        }
    }
    dst += 16 * ty.group;
    vf_store((float *)dst, int_load_scale(ty.scales, at->w, at->super));
    dst += 64;
    if (ty.shift) {
        vf_store((float *)dst, int_load_scale(ty.scales, at->w + sb, at->super_shift));
        dst += 64;
    }
    at->w = codes + int_code_bytes(ty);
    return dst;
}

// n columns of one tile from *src on; *src moves behind them.
MK_INLINE void unpack(const uint8_t **src, int64_t n, const int8_t *values, uint8_t *dst,
                      const int_type ty) {
    int_place at = {*src, vf_zero(), vf_zero()};
    wt_lut table = wt_table(values);
    if (ty.scales == MK_SCALE_SUPER) {
        int_load_super(&at, ty.shift);
    }
    for (int64_t k = 0; k < n; k += ty.group) {
        dst = unpack_group(&at, dst, ty, table);
    }
    *src = at.w;
}

// --- passes --------------------------------------------------------------------------------------
// `code` is how the buffer's bytes are to be read: WT_I8, or WT_U4, U5, U6 for small unsigned ones.
MK_INLINE void group_sums(const int R, const int T, const uint8_t *w, size_t tile, const mk_x_i8 *x,
                          const int_type ty, const int part, v16i sum[R_MAX][MK_GEMM_T]) {
    const int first = part == 1 ? 16 : 0, n_step = ty.group / 4;
    const int run = DOT_RUN(ty.code) < n_step ? DOT_RUN(ty.code) : n_step;
    MK_UNROLL for (int t = 0; t < T; t++) {
        v16i start = dot_init(ty.code, ty.log2_offset, x[t].minus_128_sum[part]);
        MK_UNROLL for (int r = 0; r < R; r++) {
            sum[r][t] = start;
        }
    }
    MK_UNROLL for (int at = 0; at < n_step; at += run) {
        v16i p[R_MAX][MK_GEMM_T];
        MK_UNROLL for (int i = 0; i < R * T; i++) {
            p[i / T][i % T] = dot_begin(ty.code, sum[i / T][i % T]);
        }
        MK_UNROLL for (int s = at; s < at + run; s++) {
            v16w v[R_MAX];
            MK_UNROLL for (int r = 0; r < R; r++) {
                const uint8_t *line = w + (size_t)r * tile + 64 * s;
                v[r] = ty.code == WT_I8 ? wt_load_i8(line) : wt_load_u(line);
            }
            MK_UNROLL for (int t = 0; t < T; t++) {
                MK_UNROLL for (int r = 0; r < R; r++) {
                    p[r][t] = dot_step(ty.code, p[r][t], v[r], x[t].q + first + 4 * s);
                }
            }
        }
        MK_UNROLL for (int i = 0; i < R * T; i++) {
            sum[i / T][i % T] = dot_end(ty.code, sum[i / T][i % T], p[i / T][i % T]);
        }
    }
}

MK_INLINE void pass_group(const int R, const int T, const uint8_t *w, const mk_x_i8 *x,
                          v16f acc[R_MAX][MK_GEMM_T], const int_type ty, const int part) {
    v16i sum[R_MAX][MK_GEMM_T];
    group_sums(R, T, w, TILE_BYTES, x, ty, part, sum);
    MK_UNROLL for (int r = 0; r < R; r++) {
        const float *s = (const float *)(w + (size_t)r * TILE_BYTES + 16 * ty.group);
        v16f scale = vf_load(s), shift = ty.shift ? vf_load(s + 16) : vf_zero();
        MK_UNROLL for (int t = 0; t < T; t++) {
            acc[r][t] = vf_fma(vf_from_int(sum[r][t]), vf_mul(scale, vf_set1(x[t].d)), acc[r][t]);
            if (ty.shift) {
                acc[r][t] = vf_fma(shift, vf_set1(x[t].dsum[part]), acc[r][t]);
            }
        }
    }
}

MK_INLINE void pass(const int R, const int T, const gemm_pass *p, const int_type ty) {
    v16f acc[R_MAX][MK_GEMM_T];
    MK_UNROLL for (int i = 0; i < R * T; i++) {
        acc[i % R][i / R] = vf_load(p->acc + 16 * i);
    }
    const size_t group_bytes = (size_t)ty.group * 16 + (ty.shift ? 128 : 64);
    const uint8_t *w = p->w;
    const mk_x_i8 *x = p->x;
    for (int64_t i = 0; i < p->n_rec; i++, x += p->tb) {
        if (ty.group == 32) {
            pass_group(R, T, w, x, acc, ty, 2);
        } else {
            pass_group(R, T, w, x, acc, ty, 0);
            w += group_bytes;
            pass_group(R, T, w, x, acc, ty, 1);
        }
        w += group_bytes;
    }
    MK_UNROLL for (int i = 0; i < R * T; i++) {
        vf_store(p->acc + 16 * i, acc[i % R][i / R]);
    }
}

typedef struct {
    void (*unpack)(const uint8_t **src, int64_t n, const int8_t *values, uint8_t *dst);
    void (*many)(const gemm_pass *p);    // R_MAX tiles
    void (*single)(const gemm_pass *p);  // one tile
} gemm_ops;

// The types differ in how they are unpacked; once unpacked only group, shift and zero point count.
#define PASSES(name, code, offset, group, shift)                                                   \
    static void name##_many(const gemm_pass *p) {                                                  \
        pass(R_MAX, MK_GEMM_T, p, (int_type){code, offset, group, shift, MK_SCALE_F32});           \
    }                                                                                              \
    static void name##_single(const gemm_pass *p) {                                                \
        pass(1, MK_GEMM_T, p, (int_type){code, offset, group, shift, MK_SCALE_F32});               \
    }
PASSES(i8_16, WT_I8, -1, 16, false)
PASSES(i8_16s, WT_I8, -1, 16, true)
PASSES(i8_32, WT_I8, -1, 32, false)
PASSES(i8_32s, WT_I8, -1, 32, true)
PASSES(u4o, WT_U4, 3, 32, false)
PASSES(u4o_16, WT_U4, 2, 16, false)
PASSES(u4s, WT_U4, -1, 32, true)
PASSES(u4s_16, WT_U4, -1, 16, true)
PASSES(u5o, WT_U5, 4, 32, false)
PASSES(u5s, WT_U5, -1, 32, true)
PASSES(u6o_16, WT_U6, 5, 16, false)

#define X(name, code, offset, group, shift, scales)                                                \
    static void name##_unpack(const uint8_t **src, int64_t n, const int8_t *values,                \
                              uint8_t *dst) {                                                      \
        unpack(src, n, values, dst, (int_type){code, offset, group, shift, scales});               \
    }
INT_TYPES(X)
#undef X
#define GEMM_OPS(name, form) [INT_##name] = {name##_unpack, form##_many, form##_single}
static const gemm_ops ops_of[INT_N] = {
    GEMM_OPS(i8_16_f32, i8_16),     GEMM_OPS(i8_16s_f32, i8_16s),  GEMM_OPS(i8_32_f32, i8_32),
    GEMM_OPS(i8_32s_f32, i8_32s),   GEMM_OPS(i8_32_f16, i8_32),    GEMM_OPS(u4o_f16, u4o),
    GEMM_OPS(u4s_f16, u4s),         GEMM_OPS(u4s_super, u4s),      GEMM_OPS(u4s_16_super, u4s_16),
    GEMM_OPS(u4o_16_super, u4o_16), GEMM_OPS(t4_f32, i8_32),       GEMM_OPS(t4_f16, i8_32),
    GEMM_OPS(t4_super, i8_32),      GEMM_OPS(u5o_f16, u5o),        GEMM_OPS(u5s_f16, u5s),
    GEMM_OPS(u5s_super, u5s),       GEMM_OPS(u6o_16_super, u6o_16)};

// --- walking -------------------------------------------------------------------------------------
// What is to be fetched from memory behind the passes: `left` bytes of each of R tiles.
typedef struct {
    const uint8_t *p[R_MAX];
    int64_t at, left, step;
} fetch;

MK_INLINE void fetch_some(fetch *f, int64_t n_tile) {
    for (int64_t end = f->at + f->step; f->at < end && f->at < f->left; f->at += 64) {
        for (int64_t r = 0; r < n_tile; r++) {
            __builtin_prefetch(f->p[r] + f->at);
        }
    }
}

// Tokens [t0, t0 + n) against one stretch of the unpacked tiles.
static void run_passes(const gemm_ops *ops, const mk_linear_job *job, gemm_buf *b, int64_t k,
                       int64_t n_rec, int64_t t0, int64_t n, int64_t n_tile, fetch *f) {
    gemm_pass p = {.w = b->w[0], .n_rec = n_rec, .acc = b->acc};
    for (int64_t t = t0; t < t0 + n; t += MK_GEMM_T) {
        int64_t first = t / MK_X_BLOCK * MK_X_BLOCK;
        p.tb = mk_x_tb(job->n_tok - first);
        p.x = (const mk_x_i8 *)(job->x + (size_t)first * mk_x_row_bytes(MK_X_I8, job->w->n_in)) +
              k / 32 * p.tb + (t - first);
        (n_tile == 1 ? ops->single : ops->many)(&p);
        p.acc += MK_GEMM_T * 16 * n_tile;
        fetch_some(f, n_tile);
    }
}

static void store_outputs(const mk_linear_job *job, const gemm_buf *b, int64_t tile, int64_t n_tile,
                          int64_t t0, int64_t n) {
    for (int64_t r = 0; r < n_tile; r++) {
        int64_t o = 16 * (tile + r), left = job->w->n_out - o;
        v16f bias = job->bias != NULL ? vf_load_n(job->bias + o, left < 16 ? left : 16) : vf_zero();
        for (int64_t t = 0; t < n && t0 + t < job->n_tok; t++) {
            v16f v = vf_load(b->acc + (t * n_tile + r) * 16);
            v = job->bias != NULL ? vf_add(v, bias) : v;
            vf_store_n(job->y + (t0 + t) * job->y_stride + o, v, left < 16 ? left : 16);
        }
    }
}

static void run_tiles(const gemm_ops *ops, const mk_linear_job *job, gemm_buf *b, int64_t tile,
                      int64_t n_tile, int64_t t0, int64_t n) {
    const size_t tile_bytes = mk_weight_tile_bytes(job->w);
    const uint8_t *src[R_MAX];
    for (int64_t r = 0; r < n_tile; r++) {
        src[r] = job->data + (size_t)(tile + r) * tile_bytes;
    }
    memset(b->acc, 0, (size_t)(n * n_tile) * 16 * sizeof(float));
    int64_t n_in = job->w->n_in, n_pass = n / MK_GEMM_T;
    for (int64_t k = 0; k < n_in; k += MK_SUPER) {
        int64_t cols = n_in - k < MK_SUPER ? n_in - k : MK_SUPER;
        fetch f = {.at = 0};
        const uint8_t *before = src[0];
        for (int64_t r = 0; r < n_tile; r++) {
            ops->unpack(&src[r], cols, job->w->table, b->w[r]);
        }
        for (int64_t r = 0; r < n_tile; r++) {  // behind the last stretch come the next tiles
            f.p[r] = src[r] + (k + cols < n_in ? 0 : (size_t)(n_tile - 1) * tile_bytes);
        }
        f.left = src[0] - before;
        f.step = (f.left / n_pass + 63) / 64 * 64;
        run_passes(ops, job, b, k, cols / 32, t0, n, n_tile, &f);
    }
    store_outputs(job, b, tile, n_tile, t0, n);
}

int64_t MK_FN(gemm_int)(const mk_linear_job *job, int64_t lo, int64_t hi) {
    // whole passes: what is left in a block narrower than a pass is for the other form
    int64_t rest = job->n_tok % MK_X_BLOCK, n_tok = job->n_tok;
    if (mk_x_tb(rest) % MK_GEMM_T != 0) {
        n_tok -= rest;
    }
    if (job->n_tok < MIN_TOKENS) {
        return 0;
    }
    const gemm_ops *ops = &ops_of[int_type_of(job->w)];
    gemm_buf b;
    for (int64_t t0 = 0; t0 < n_tok; t0 += TOKENS) {
        int64_t n = n_tok - t0 < TOKENS ? n_tok - t0 : TOKENS;
        n = (n + MK_GEMM_T - 1) / MK_GEMM_T * MK_GEMM_T;
        for (int64_t tile = lo; tile < hi;) {
            int64_t n_tile = tile + R_MAX <= hi ? R_MAX : 1;
            run_tiles(ops, job, &b, tile, n_tile, t0, n);
            tile += n_tile;
        }
    }
    return n_tok;
}

#else

int64_t MK_FN(gemm_int)(const mk_linear_job *job, int64_t lo, int64_t hi) {
    (void)job;
    (void)lo;
    (void)hi;
    return 0;
}

#endif
