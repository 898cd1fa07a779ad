// Activations made ready for the linear kernels: interleaved blocks of up to 8 tokens
// (ops/kernels.h).
//
// int8 form, per row and group of 64 columns (the last may be 32):
//     amax = max |x|  (a NaN is ignored);  amax < 2^-100: all zero, d = 0
//     d = amax / 127;  inv = 127 / amax;  q = clamp(round_to_nearest_even(x * inv), -127, 127), 0 for NaN
// An infinity makes d infinite, so the output becomes NaN instead of something plausible.
#include "ops/cpu/cpu.h"
#include "ops/cpu/simd_bf16.h"

// The block that a unit lies in: its tokens and where its records begin.
typedef struct {
    int64_t first, n_tok, tb;
    uint8_t *dst;
} x_block;

static x_block block_at(const mk_prep_job *job, int64_t b, mk_x_form form) {
    int64_t first = b * MK_X_BLOCK, left = job->n_tok - first;
    return (x_block){first, left < MK_X_BLOCK ? left : MK_X_BLOCK, mk_x_tb(left),
                     job->dst + (size_t)first * mk_x_row_bytes(form, job->n_in)};
}

// Up to 32 columns of one row, gated or normed as the job says, the rest zero.
static void load_chunk(const mk_prep_job *job, int64_t t, int64_t chunk, v16f x[2]) {
    int64_t k = chunk * MK_X_CHUNK, n = job->n_in - k;
    int64_t row = job->row != NULL ? job->row[t] / job->row_div : t;
    vf_load32(job->x + row * job->stride + k, n, x);
    if (job->norm != NULL) {
        v16f w[2], r = vf_set1(job->r[t]);
        vf_load32(job->norm + k, n, w);
        x[0] = vf_mul(vf_mul(x[0], r), w[0]);
        x[1] = vf_mul(vf_mul(x[1], r), w[1]);
    }
    if (job->up != NULL) {
        v16f u[2];
        vf_load32(job->up + row * job->up_stride + k, n, u);
        x[0] = vf_swiglu(x[0], u[0]);
        x[1] = vf_swiglu(x[1], u[1]);
    }
}

// One token's 32 floats go to every tb-th place.
static void put_floats(float *dst, int64_t tb, const v16f x[2]) {
    float tmp[MK_X_CHUNK];
    vf_store(tmp, x[0]);
    vf_store(tmp + 16, x[1]);
    for (int i = 0; i < MK_X_CHUNK; i++) {
        dst[i * tb] = tmp[i];
    }
}

// Without an instruction set that transposes in registers float by float is faster.
#if defined(MK_ISA_AVX512)
#define WHOLE_BLOCKS true
#else
#define WHOLE_BLOCKS false
#endif

// A whole block: x[t] and x[8 + t] are columns 0..15 and 16..31 of token t.  Transposed, x[c] is
// two records, of columns c and 16 + c; whole vectors are stored so that the half in the wrong
// place is overwritten by its owner.  Three to four times as fast as float by float.
static void put_block(float *dst, v16f x[16]) {
    vf_transpose(x);
    MK_UNROLL for (int c = 15; c >= 0; c--) {
        vf_store(dst + (15 + c) * MK_X_BLOCK, x[c]);
    }
    MK_UNROLL for (int c = 0; c < 15; c++) {
        vf_store(dst + c * MK_X_BLOCK, x[c]);
    }
    vf_store_n(dst + 15 * MK_X_BLOCK, x[15], MK_X_BLOCK);
}

MK_INLINE void prep_block(const mk_prep_job *job, int64_t first, int64_t n_tok, int64_t chunk,
                          mk_x_form form, float *dst) {
    v16f x[16];
    for (int t = 0; t < MK_X_BLOCK; t++) {
        v16f two[2] = {vf_zero(), vf_zero()};
        if (t < n_tok) {
            load_chunk(job, first + t, chunk, two);
        }
        x[t] = form == MK_X_BF16 ? vf_round_bf16(two[0]) : two[0];
        x[8 + t] = form == MK_X_BF16 ? vf_round_bf16(two[1]) : two[1];
    }
    put_block(dst, x);
}

MK_INLINE void prep_floats(const mk_prep_job *job, int64_t lo, int64_t hi, mk_x_form form) {
    int64_t n_chunk = (job->n_in + MK_X_CHUNK - 1) / MK_X_CHUNK;
    for (int64_t u = lo; u < hi; u++) {
        x_block b = block_at(job, u / n_chunk, form);
        int64_t chunk = u % n_chunk;
        float *dst = (float *)b.dst + chunk * MK_X_CHUNK * b.tb;
        if (WHOLE_BLOCKS && b.tb == MK_X_BLOCK) {
            prep_block(job, b.first, b.n_tok, chunk, form, dst);
            continue;
        }
        for (int64_t t = 0; t < b.tb; t++) {
            v16f x[2] = {vf_zero(), vf_zero()};
            if (t < b.n_tok) {
                load_chunk(job, b.first + t, chunk, x);
            }
            if (form == MK_X_BF16) {
                x[0] = vf_round_bf16(x[0]);
                x[1] = vf_round_bf16(x[1]);
            }
            put_floats(dst + t, b.tb, x);
        }
    }
}

void MK_FN(prep_f32)(const mk_prep_job *job, int64_t lo, int64_t hi) {
    prep_floats(job, lo, hi, MK_X_F32);
}

void MK_FN(prep_bf16)(const mk_prep_job *job, int64_t lo, int64_t hi) {
    prep_floats(job, lo, hi, MK_X_BF16);
}

#if defined(MK_ISA_AVX512)
MK_BF16_BEGIN

// A whole block: transposed, x[c] is the record of pair c and, behind it, nothing.
static void put_pairs(uint32_t *dst, v16f x[16]) {
    vf_transpose(x);
    MK_UNROLL for (int c = 0; c < 15; c++) {
        vf_store((float *)dst + c * MK_X_BLOCK, x[c]);
    }
    vf_store_n((float *)dst + 15 * MK_X_BLOCK, x[15], MK_X_BLOCK);
}

void mk_k_prep_bf16_avx512bf16(const mk_prep_job *job, int64_t lo, int64_t hi) {
    int64_t n_chunk = (job->n_in + MK_X_CHUNK - 1) / MK_X_CHUNK;
    for (int64_t u = lo; u < hi; u++) {
        x_block b = block_at(job, u / n_chunk, MK_X_BF16);
        int64_t chunk = u % n_chunk;
        uint32_t *dst = (uint32_t *)b.dst + chunk * (MK_X_CHUNK / 2) * b.tb;
        v16f pairs[16];
        for (int64_t t = 0; t < 16; t++) {
            pairs[t] = vf_zero();
            if (t < b.n_tok) {
                v16f x[2];
                load_chunk(job, b.first + t, chunk, x);
                pairs[t] = _mm512_castsi512_ps(bf16_words(x[0], x[1]));
            }
        }
        if (b.tb == MK_X_BLOCK) {
            put_pairs(dst, pairs);
            continue;
        }
        for (int64_t t = 0; t < b.tb; t++) {
            uint32_t tmp[MK_X_CHUNK / 2];
            vf_store((float *)tmp, pairs[t]);
            for (int i = 0; i < MK_X_CHUNK / 2; i++) {
                dst[i * b.tb + t] = tmp[i];
            }
        }
    }
}
MK_BF16_END
#endif

static void put_record(const v16i code[2], float d, const int32_t half_sum[2], mk_x_i8 *r) {
    vi_store_i8(r->q, code[0]);
    vi_store_i8(r->q + 16, code[1]);
    const int32_t sum[3] = {half_sum[0], half_sum[1], half_sum[0] + half_sum[1]};
    r->d = d;
    for (int i = 0; i < 3; i++) {
        r->sum[i] = (float)sum[i];
        r->minus_128_sum[i] = -128 * sum[i];
    }
    r->unused = 0;
}

// 64 columns of one token to records `next` apart; n = 1: the last 32 alone.
static void quantise64(const v16f x[4], int n, mk_x_i8 *r, int64_t next) {
    v16f top = vf_zero();
    for (int i = 0; i < 4; i++) {
        top = vf_max(vf_abs(x[i]), top);
    }
    float amax = vf_reduce_max(top);
    bool zero = amax < 0x1p-100f;
    float d = zero ? 0.0f : amax / 127.0f;
    v16f inv = vf_set1(zero ? 0.0f : 127.0f / amax);
    v16i code[4];
    for (int i = 0; i < 4; i++) {
        code[i] = vi_codes(x[i], inv);
    }
    int32_t sum[4];
    vi_reduce_add4(code, sum);
    put_record(code, d, sum, r);
    if (n == 2) {
        put_record(code + 2, d, sum + 2, r + next);
    }
}

// The unit of an even chunk makes the chunk behind it as well: they share their d.
static void prep_i8_block(const mk_prep_job *job, int64_t b, int64_t lo, int64_t hi) {
    int64_t n_chunk = (job->n_in + MK_X_CHUNK - 1) / MK_X_CHUNK;
    x_block to = block_at(job, b, MK_X_I8);
    for (int64_t t = 0; t < to.tb; t++) {
        for (int64_t c = (lo + 1) / 2 * 2; c < hi; c += 2) {
            v16f x[4] = {vf_zero(), vf_zero(), vf_zero(), vf_zero()};
            int n = c + 1 < n_chunk ? 2 : 1;
            for (int i = 0; i < n && t < to.n_tok; i++) {
                load_chunk(job, to.first + t, c + i, x + 2 * i);
            }
            quantise64(x, n, (mk_x_i8 *)to.dst + c * to.tb + t, to.tb);
        }
    }
}

void MK_FN(prep_i8)(const mk_prep_job *job, int64_t lo, int64_t hi) {
    int64_t n_chunk = (job->n_in + MK_X_CHUNK - 1) / MK_X_CHUNK;
    for (int64_t u = lo, end; u < hi; u = end) {
        int64_t b = u / n_chunk;
        end = (b + 1) * n_chunk < hi ? (b + 1) * n_chunk : hi;
        prep_i8_block(job, b, u - b * n_chunk, end - b * n_chunk);
    }
}
