#include "limits.h"

#include <math.h>
#include <stdatomic.h>
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
#define BURST_BYTES    ((size_t)128 << 20)  // read in one try
#define READ_NS        60000000  // a burst of reading takes so long, and two tries at least
#define LOOPS          400000    // of one compute run: a millisecond or two
#define TURNS          1000      // of one run of the kernel: a millisecond
#define COMPUTE_NS     10000000  // a burst of each kind takes so long, and two tries at least
#define HANDOVER_NS    500000    // a burst of handovers takes so long, and one set at least
#define HANDOVER_SET   200       // handovers timed together
#define CHAINS         12        // independent accumulators: more than latency times ports

// A loop returns something that depends on all its work, so that the compiler keeps it.
typedef double (*loop_fn)(int64_t n);
typedef uint64_t (*read_fn)(const uint64_t *p, size_t n);
typedef struct {
    const char *isa;
    loop_fn fn[MK_ARITH_N];
    double n_op[MK_ARITH_N];  // per turn of the loop
    read_fn read;
} loops;

// --- reading -------------------------------------------------------------------------------------

// Left to the compiler.
static uint64_t read_plain(const uint64_t *p, size_t n) {
    uint64_t s[8] = {0};
    for (size_t i = 0; i + 8 <= n; i += 8) {
        for (int k = 0; k < 8; k++) {
            s[k] ^= p[i + (size_t)k];
        }
    }
    return s[0] ^ s[1] ^ s[2] ^ s[3] ^ s[4] ^ s[5] ^ s[6] ^ s[7];
}

#if defined(__x86_64__)
#define AVX2   __attribute__((target("avx2,fma")))
#define AVX512 __attribute__((target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")))

// Whole registers from four streams: some machines follow several at once faster than one.
#define READ_STREAMS(name, target, bytes)                                                          \
    target static uint64_t name(const uint64_t *p, size_t n) {                                     \
        typedef uint64_t vec __attribute__((vector_size(bytes), aligned(8)));                      \
        const size_t words = (bytes) / sizeof *p;                                                  \
        size_t part = n / 4 / words * words;                                                       \
        vec s[4] = {{0}, {0}, {0}, {0}};                                                           \
        for (size_t i = 0; i < part; i += words) {                                                 \
            _Pragma("GCC unroll 4") for (size_t k = 0; k < 4; k++) {                               \
                s[k] ^= *(const vec *)(p + k * part + i);                                          \
            }                                                                                      \
        }                                                                                          \
        s[0] ^= s[1] ^ s[2] ^ s[3];                                                                \
        uint64_t x = 0;                                                                            \
        for (size_t i = 0; i < words; i++) {                                                       \
            x ^= s[0][i];                                                                          \
        }                                                                                          \
        return x;                                                                                  \
    }
READ_STREAMS(read_avx2, AVX2, 32)
READ_STREAMS(read_avx512, AVX512, 64)
#endif

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
#define N_OP(f32, bf16, int8)                                                                      \
    { CHAINS * 2.0 * (f32), CHAINS * 2.0 * (bf16), CHAINS * 2.0 * (int8) }
static const loops table[] = {
    {"scalar", {f32_scalar, f32_scalar, f32_scalar}, N_OP(1, 1, 1), read_plain},
#if defined(__x86_64__)
    {"avx2", {f32_avx2, f32_avx2, int8_avx2}, N_OP(8, 8, 32), read_avx2},
    {"avx512", {f32_avx512, f32_avx512, int8_avx512}, N_OP(16, 16, 64), read_avx512},
    {"avx512bf16", {f32_avx512, bf16_avx512, int8_avx512}, N_OP(16, 32, 64), read_avx512},
#elif defined(__aarch64__)
    {"neon", {f32_neon, f32_neon, int8_neon}, N_OP(4, 4, 16), read_plain},
#endif
};

// --- bursts --------------------------------------------------------------------------------------

#define MAX_THREADS 1024

struct mk_limits_probe {
    mk_pool *pool;
    const loops *loops;
    uint64_t *data;      // TOTAL_BYTES
    size_t model_bytes;  // of them, for model_bytes_per_second
    mk_tile_probe *tile;
    // the job that is running
    loop_fn loop;
    read_fn read;
    size_t n, n_time;
    double handover;  // seconds of a round
    // The line that goes to and fro: even for the first thread to answer, odd for the last.
    // Nothing that is written meanwhile lies beside it.
    uint8_t before[128];
    _Atomic int64_t ball;
    uint8_t behind[128];
    double sink[MAX_THREADS];  // of each thread: what the loops return
};

static void compute_part(void *arg, int ith, int n_thread) {
    (void)n_thread;
    mk_limits_probe *p = arg;
    p->sink[ith % MAX_THREADS] = p->loop(LOOPS);
}

static void kernel_part(void *arg, int ith, int n_thread) {
    (void)n_thread;
    mk_tile_probe_run(((mk_limits_probe *)arg)->tile, ith, TURNS);
}

// Operations per second of all threads together, best of the tries; n_op: of one part.
static double best_rate(mk_limits_probe *p, mk_pool_fn part, double n_op) {
    double best = 0;
    uint64_t start = mk_now_ns(), t = start;
    n_op *= (double)mk_pool_n_thread(p->pool);
    for (int i = 0; i < 2 || t - start < COMPUTE_NS; i++) {
        uint64_t begin = t;
        mk_pool_run(p->pool, part, p);
        t = mk_now_ns();
        double rate = n_op / ((double)(t - begin) / 1e9);
        best = rate > best ? rate : best;
    }
    return best;
}

// Every thread always has the same part of the whole array, which it filled: pages lie near it.
static void my_part(int ith, int n_thread, int64_t *lo, int64_t *hi) {
    mk_pool_split((int64_t)(TOTAL_BYTES / sizeof(uint64_t)), 64, ith, n_thread, lo, hi);
}

static void fill_part(void *arg, int ith, int n_thread) {
    mk_limits_probe *p = arg;
    int64_t lo, hi;
    my_part(ith, n_thread, &lo, &hi);
    memset(p->data + lo, 1, (size_t)(hi - lo) * sizeof *p->data);
}

// The first n / n_thread words of this thread's part.
static void read_part(void *arg, int ith, int n_thread) {
    mk_limits_probe *p = arg;
    int64_t lo, hi;
    my_part(ith, n_thread, &lo, &hi);
    size_t share = p->n / (size_t)n_thread, have = (size_t)(hi - lo);
    uint64_t x = 0;
    for (size_t k = 0; k < p->n_time; k++) {
        x ^= p->read(p->data + lo, share < have ? share : have);
        __asm__ volatile("" ::: "memory");  // every time anew
    }
    p->sink[ith % MAX_THREADS] = (double)x;
}

// Reads the same n_bytes until BURST_BYTES have been read: what fits into the caches comes from
// there, as it does for a small model.
static double measure_read(mk_limits_probe *p, size_t n_bytes) {
    const read_fn way[2] = {read_plain, p->loops->read};
    double best = 0;
    p->n = n_bytes / sizeof *p->data;
    p->n_time = (BURST_BYTES + n_bytes - 1) / n_bytes;
    uint64_t start = mk_now_ns(), t = start;
    for (int i = 0; i < 2 || t - start < READ_NS; i++) {
        p->read = way[i % 2];
        uint64_t begin = t;
        mk_pool_run(p->pool, read_part, p);
        t = mk_now_ns();
        double rate = (double)n_bytes * (double)p->n_time / ((double)(t - begin) / 1e9);
        best = rate > best ? rate : best;
    }
    return best;
}

// The best of some sets of rounds.  The first thread ends it, also when the two share a processor
// and a round takes as long as the system gives each.
static void pass_ball(mk_limits_probe *p) {
    double best = INFINITY;
    uint64_t start = mk_now_ns(), t = start;
    for (int64_t i = 0; t - start < HANDOVER_NS; t = mk_now_ns()) {
        uint64_t begin = mk_now_ns();
        for (int64_t end = i + HANDOVER_SET; i < end; i++) {
            atomic_store_explicit(&p->ball, 2 * i + 1, memory_order_release);
            while (atomic_load_explicit(&p->ball, memory_order_acquire) != 2 * i + 2) {
            }
        }
        double each = (double)(mk_now_ns() - begin) / 1e9 / HANDOVER_SET;
        best = each < best ? each : best;
    }
    atomic_store_explicit(&p->ball, -1, memory_order_release);
    p->handover = best;
}

static void handover_part(void *arg, int ith, int n_thread) {
    mk_limits_probe *p = arg;
    if (ith == 0) {
        pass_ball(p);
    }
    for (int64_t x = 0; ith == n_thread - 1 && x >= 0;) {
        x = atomic_load_explicit(&p->ball, memory_order_acquire);
        if (x % 2 == 1) {
            atomic_store_explicit(&p->ball, x + 1, memory_order_release);
        }
    }
}

static double measure_handover(mk_limits_probe *p) {
    if (mk_pool_n_thread(p->pool) == 1) {
        return 0;
    }
    atomic_store(&p->ball, 0);
    mk_pool_run(p->pool, handover_part, p);
    return p->handover;
}

mk_status mk_limits_open(mk_pool *pool, mk_limits_of what, mk_limits_probe **out, mk_err *err) {
    mk_limits_probe *p = mk_zalloc(sizeof *p);
    const char *isa = mk_kernels_name(what.kernels);
    p->pool = pool;
    p->loops = &table[0];
    p->model_bytes = what.model_bytes < SMALLEST_BYTES ? SMALLEST_BYTES : what.model_bytes;
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        p->loops = strcmp(table[i].isa, isa) == 0 ? &table[i] : p->loops;
    }
    mk_status st = mk_tile_probe_create(what.kernels, what.dtype, pool, &p->tile, err);
    p->data = st == MK_OK ? mk_big_alloc(TOTAL_BYTES) : NULL;
    if (st == MK_OK && p->data == NULL) {
        st = MK_FAIL(err, MK_ENOMEM, "measuring the bandwidth needs %zu MB of memory",
                     TOTAL_BYTES >> 20);
    }
    if (st != MK_OK) {
        mk_limits_close(p);
        return st;
    }
    mk_pool_run(pool, fill_part, p);
    *out = p;
    return MK_OK;
}

void mk_limits_close(mk_limits_probe *p) {
    if (p) {
        mk_tile_probe_destroy(p->tile);
        mk_big_free(p->data, TOTAL_BYTES);
        mk_free(p);
    }
}

mk_limits mk_limits_burst(mk_limits_probe *p) {
    mk_limits l;
    // Reading comes first and twice: threads that slept may wake on one processor, and it takes the
    // system some ticks of its clock to give each its own.
    (void)measure_read(p, TOTAL_BYTES);
    l.read_bytes_per_second = measure_read(p, TOTAL_BYTES);
    for (int k = 0; k < MK_ARITH_N; k++) {
        p->loop = p->loops->fn[k];
        l.ops_per_second[k] = best_rate(p, compute_part, p->loops->n_op[k] * LOOPS);
    }
    l.kernel_arith = mk_tile_probe_arith(p->tile);
    l.kernel_ops_per_second = best_rate(p, kernel_part, mk_tile_probe_ops(p->tile) * TURNS);
    l.handover_seconds = measure_handover(p);
    bool small = p->model_bytes < TOTAL_BYTES;
    l.model_bytes_per_second = small ? measure_read(p, p->model_bytes) : l.read_bytes_per_second;
    return l;
}
