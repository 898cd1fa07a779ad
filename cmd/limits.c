#include "limits.h"

#include <stdbool.h>
#include <string.h>

#include "base/alloc.h"
#include "base/log.h"

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#define TOTAL_BYTES    ((size_t)512 << 20)
#define SMALLEST_BYTES ((size_t)1 << 20)
#define READ_TRIES     5
#define LOOPS          200000  // of one compute run: some tens of milliseconds
#define COMPUTE_TRIES  8
#define CHAINS         12  // independent accumulators: more than latency times ports

// A loop returns something that depends on all its work, so that the compiler keeps it.
typedef double (*loop_fn)(int64_t n);
typedef struct {
    const char *isa;
    loop_fn f32, bf16, int8;
    double f32_ops, bf16_ops, int8_ops;  // per turn of the loop
} loops;

// --- compute -------------------------------------------------------------------------------------

static double f32_scalar(int64_t n) {
    float a[CHAINS];
    for (int i = 0; i < CHAINS; i++) {
        a[i] = (float)i;
    }
    for (int64_t k = 0; k < n; k++) {
        for (int i = 0; i < CHAINS; i++) {
            a[i] = a[i] * 0.999f + 0.5f;
        }
    }
    float s = 0;
    for (int i = 0; i < CHAINS; i++) {
        s += a[i];
    }
    return (double)s;
}

#if defined(__x86_64__)
#define AVX2   __attribute__((target("avx2,fma")))
#define AVX512 __attribute__((target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")))

AVX2 static double f32_avx2(int64_t n) {
    __m256 a[CHAINS], m = _mm256_set1_ps(0.999f), c = _mm256_set1_ps(0.5f);
    for (int i = 0; i < CHAINS; i++) {
        a[i] = _mm256_set1_ps((float)i);
    }
    for (int64_t k = 0; k < n; k++) {
#pragma GCC unroll 12
        for (int i = 0; i < CHAINS; i++) {
            a[i] = _mm256_fmadd_ps(a[i], m, c);
        }
    }
    for (int i = 1; i < CHAINS; i++) {
        a[0] = _mm256_add_ps(a[0], a[i]);
    }
    return (double)_mm256_cvtss_f32(a[0]);
}

// The chain of AVX2 without VNNI: 16-bit pairs, widened, added.
AVX2 static double int8_avx2(int64_t n) {
    __m256i a[CHAINS], u = _mm256_set1_epi8(3), one = _mm256_set1_epi16(1);
    for (int i = 0; i < CHAINS; i++) {
        a[i] = _mm256_set1_epi32(i);
    }
    for (int64_t k = 0; k < n; k++) {
#pragma GCC unroll 12
        for (int i = 0; i < CHAINS; i++) {
            __m256i p = _mm256_maddubs_epi16(u, a[i]);
            a[i] = _mm256_add_epi32(a[i], _mm256_madd_epi16(p, one));
        }
    }
    for (int i = 1; i < CHAINS; i++) {
        a[0] = _mm256_add_epi32(a[0], a[i]);
    }
    return (double)_mm256_extract_epi32(a[0], 0);
}

AVX512 static double f32_avx512(int64_t n) {
    __m512 a[CHAINS], m = _mm512_set1_ps(0.999f), c = _mm512_set1_ps(0.5f);
    for (int i = 0; i < CHAINS; i++) {
        a[i] = _mm512_set1_ps((float)i);
    }
    for (int64_t k = 0; k < n; k++) {
#pragma GCC unroll 12
        for (int i = 0; i < CHAINS; i++) {
            a[i] = _mm512_fmadd_ps(a[i], m, c);
        }
    }
    for (int i = 1; i < CHAINS; i++) {
        a[0] = _mm512_add_ps(a[0], a[i]);
    }
    return (double)_mm512_cvtss_f32(a[0]);
}

AVX512 static double int8_avx512(int64_t n) {
    __m512i a[CHAINS], u = _mm512_set1_epi8(3), s = _mm512_set1_epi8(5);
    for (int i = 0; i < CHAINS; i++) {
        a[i] = _mm512_set1_epi32(i);
    }
    for (int64_t k = 0; k < n; k++) {
#pragma GCC unroll 12
        for (int i = 0; i < CHAINS; i++) {
            a[i] = _mm512_dpbusd_epi32(a[i], u, s);
        }
    }
    for (int i = 1; i < CHAINS; i++) {
        a[0] = _mm512_add_epi32(a[0], a[i]);
    }
    return (double)_mm_cvtsi128_si32(_mm512_castsi512_si128(a[0]));
}

#define AVX512BF16                                                                                 \
    __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16")))

AVX512BF16 static double bf16_avx512(int64_t n) {
    __m512 a[CHAINS];
    __m512bh m = (__m512bh)_mm512_set1_epi16(0x3c00);  // 2^-7
    for (int i = 0; i < CHAINS; i++) {
        a[i] = _mm512_set1_ps((float)i);
    }
    for (int64_t k = 0; k < n; k++) {
#pragma GCC unroll 12
        for (int i = 0; i < CHAINS; i++) {
            a[i] = _mm512_dpbf16_ps(a[i], m, m);
        }
    }
    for (int i = 1; i < CHAINS; i++) {
        a[0] = _mm512_add_ps(a[0], a[i]);
    }
    return (double)_mm512_cvtss_f32(a[0]);
}
#elif defined(__aarch64__)
#define DOT __attribute__((target("arch=armv8.2-a+dotprod")))

static double f32_neon(int64_t n) {
    float32x4_t a[CHAINS], m = vdupq_n_f32(0.999f), c = vdupq_n_f32(0.5f);
    for (int i = 0; i < CHAINS; i++) {
        a[i] = vdupq_n_f32((float)i);
    }
    for (int64_t k = 0; k < n; k++) {
#pragma GCC unroll 12
        for (int i = 0; i < CHAINS; i++) {
            a[i] = vfmaq_f32(a[i], m, c);
        }
    }
    for (int i = 1; i < CHAINS; i++) {
        a[0] = vaddq_f32(a[0], a[i]);
    }
    return (double)vgetq_lane_f32(a[0], 0);
}

DOT static double int8_neon(int64_t n) {
    int32x4_t a[CHAINS];
    int8x16_t u = vdupq_n_s8(3), s = vdupq_n_s8(5);
    for (int i = 0; i < CHAINS; i++) {
        a[i] = vdupq_n_s32(i);
    }
    for (int64_t k = 0; k < n; k++) {
#pragma GCC unroll 12
        for (int i = 0; i < CHAINS; i++) {
            a[i] = vdotq_s32(a[i], u, s);
        }
    }
    for (int i = 1; i < CHAINS; i++) {
        a[0] = vaddq_s32(a[0], a[i]);
    }
    return (double)vgetq_lane_s32(a[0], 0);
}
#endif

// Operations of one instruction: two per multiply-add, times lanes, times products per lane.
static const loops table[] = {
    {"scalar", f32_scalar, f32_scalar, f32_scalar, CHAINS * 2, CHAINS * 2, CHAINS * 2},
#if defined(__x86_64__)
    {"avx2", f32_avx2, f32_avx2, int8_avx2, CHAINS * 8 * 2, CHAINS * 8 * 2, CHAINS * 32 * 2},
    {"avx512", f32_avx512, f32_avx512, int8_avx512, CHAINS * 16 * 2, CHAINS * 16 * 2,
     CHAINS * 64 * 2},
    {"avx512bf16", f32_avx512, bf16_avx512, int8_avx512, CHAINS * 16 * 2, CHAINS * 32 * 2,
     CHAINS * 64 * 2},
#elif defined(__aarch64__)
    {"neon", f32_neon, f32_neon, int8_neon, CHAINS * 4 * 2, CHAINS * 4 * 2, CHAINS * 16 * 2},
#endif
};

typedef struct {
    loop_fn fn;
    double sink[1024];
} compute_job;

static void compute_part(void *arg, int ith, int n_thread) {
    (void)n_thread;
    compute_job *j = arg;
    j->sink[ith & 1023] = j->fn(LOOPS);
}

// Operations per second of all threads together, best of some tries.
static double measure_compute(mk_pool *pool, loop_fn fn, double ops) {
    compute_job *j = mk_zalloc(sizeof *j);
    j->fn = fn;
    double best = 0;
    for (int i = 0; i < COMPUTE_TRIES; i++) {
        uint64_t t = mk_now_ns();
        mk_pool_run(pool, compute_part, j);
        double rate =
            ops * LOOPS * (double)mk_pool_n_thread(pool) / ((double)(mk_now_ns() - t) / 1e9);
        best = rate > best ? rate : best;
    }
    mk_free(j);
    return best;
}

// --- bandwidth -----------------------------------------------------------------------------------

typedef struct {
    uint64_t *data;
    size_t n;
    bool fill;
    int n_time;
    uint64_t sink[1024];
} read_job;

static uint64_t xor_all(const uint64_t *p, size_t n) {
    uint64_t s[8] = {0};
    for (size_t i = 0; i + 8 <= n; i += 8) {
        for (int k = 0; k < 8; k++) {
            s[k] ^= p[i + (size_t)k];
        }
    }
    return s[0] ^ s[1] ^ s[2] ^ s[3] ^ s[4] ^ s[5] ^ s[6] ^ s[7];
}

static void read_part(void *arg, int ith, int n_thread) {
    read_job *j = arg;
    int64_t lo, hi;
    mk_pool_split((int64_t)j->n, 64, ith, n_thread, &lo, &hi);
    if (j->fill) {  // by the thread that will read it: pages lie near it
        memset(j->data + lo, 1, (size_t)(hi - lo) * sizeof *j->data);
        return;
    }
    for (int k = 0; k < j->n_time; k++) {
        j->sink[ith & 1023] ^= xor_all(j->data + lo, (size_t)(hi - lo));
        __asm__ volatile("" ::: "memory");  // every time anew
    }
}

// Reads n_bytes again and again until TOTAL_BYTES have been read: what fits into the caches comes
// from there, as it does for a small model.
static mk_status measure_read(mk_pool *pool, size_t n_bytes, double *rate, mk_err *err) {
    read_job *j = mk_zalloc(sizeof *j);
    j->data = mk_big_alloc(n_bytes);
    if (!j->data) {
        mk_free(j);
        return MK_FAIL(err, MK_ENOMEM, "measuring the bandwidth needs %zu MB of memory",
                       n_bytes >> 20);
    }
    j->n = n_bytes / sizeof *j->data;
    j->n_time = (int)((TOTAL_BYTES + n_bytes - 1) / n_bytes);
    j->fill = true;
    mk_pool_run(pool, read_part, j);
    j->fill = false;
    *rate = 0;
    for (int i = 0; i < READ_TRIES; i++) {
        uint64_t t = mk_now_ns();
        mk_pool_run(pool, read_part, j);
        double r = (double)n_bytes * j->n_time / ((double)(mk_now_ns() - t) / 1e9);
        *rate = r > *rate ? r : *rate;
    }
    mk_big_free(j->data, n_bytes);
    mk_free(j);
    return MK_OK;
}

mk_status mk_limits_measure(mk_pool *pool, const char *isa, size_t model_bytes, mk_limits *out,
                            mk_err *err) {
    const loops *l = &table[0];
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        l = strcmp(table[i].isa, isa) == 0 ? &table[i] : l;
    }
    out->f32_ops_per_second = measure_compute(pool, l->f32, l->f32_ops);
    out->bf16_ops_per_second = measure_compute(pool, l->bf16, l->bf16_ops);
    out->int8_ops_per_second = measure_compute(pool, l->int8, l->int8_ops);
    MK_TRY(measure_read(pool, TOTAL_BYTES, &out->read_bytes_per_second, err));
    out->model_bytes_per_second = out->read_bytes_per_second;
    if (model_bytes >= TOTAL_BYTES) {
        return MK_OK;
    }
    size_t n = model_bytes < SMALLEST_BYTES ? SMALLEST_BYTES : model_bytes;
    return measure_read(pool, n, &out->model_bytes_per_second, err);
}
