// All bytes of a block are random, which makes random codes; then the function of the type's row in
// `fillers` puts in what must not be: scales, and codes that no quantiser writes.
#include "make_weights.h"

#include <string.h>

#include "base/mathx.h"

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

typedef struct filler filler;
struct filler {
    mk_dtype type;
    // quantised types: where the block's scale is; standard deviation of value / scale
    size_t scale_at;
    float typical;
    bool either_sign;  // the scale's; codes whose range is not symmetric get a mean of 0 by it
    // random bytes of n blocks at p to values; NULL: the scales are enough
    void (*finish)(const mk_values *v, uint8_t *p, size_t n);
};

// Uniform numbers of variance 1 are sqrt(3) large.
static const float sqrt3 = 1.7320508f;

static void finish_f32(const mk_values *v, uint8_t *p, size_t n) {
    float step = v->spread * sqrt3 / 2147483648.0f;
    for (size_t i = 0; i < n; i++) {
        int32_t r;
        memcpy(&r, p + i * sizeof r, sizeof r);
        float x = v->centre + (float)r * step;
        memcpy(p + i * sizeof x, &x, sizeof x);
    }
}

static void finish_16(const mk_values *v, uint8_t *p, size_t n) {
    float step = v->spread * sqrt3 / 32768.0f;
    for (size_t i = 0; i < n; i++) {
        int16_t r;
        memcpy(&r, p + i * sizeof r, sizeof r);
        float x = v->centre + (float)r * step;
        uint16_t bits = v->type == MK_DTYPE_F16 ? mk_f16_from_f32(x) : mk_bf16_from_f32(x);
        memcpy(p + i * sizeof bits, &bits, sizeof bits);
    }
}

// No quantiser writes -128; 0 in its place leaves the mean at 0.
static void finish_q8_0(const mk_values *v, uint8_t *p, size_t n) {
    (void)v;
    for (size_t b = 0; b < n; b++) {
        uint8_t *q = p + b * 34 + 2;
        for (int i = 0; i < 32; i++) {
            q[i] = q[i] == 0x80 ? 0 : q[i];
        }
    }
}

// Value = d * scale * q - dmin * min with q in 0..15: min = scale and dmin = 7.5 d centre it.  The
// 12 bytes behind d and dmin hold 6-bit scales and mins of 8 groups: scales and mins of the first
// four in bytes 0..3 and 4..7, those of the last four as nibbles of bytes 8..11, with their upper
// two bits on top of bytes 0..7.
static void finish_q4_k(const mk_values *v, uint8_t *p, size_t n) {
    (void)v;
    for (size_t b = 0; b < n; b++) {
        uint8_t *block = p + b * 144, *packed = block + 4;
        uint16_t d;
        memcpy(&d, block, sizeof d);
        uint16_t dmin = mk_f16_from_f32(7.5f * mk_f32_from_f16(d));
        memcpy(block + 2, &dmin, sizeof dmin);
        for (int i = 0; i < 4; i++) {
            packed[4 + i] = packed[i];
            packed[8 + i] = (uint8_t)((packed[8 + i] & 15) * 17);
        }
    }
}

// Typical values, for codes and 6- or 8-bit scales evenly distributed over their range.
static const filler fillers[] = {
    {MK_DTYPE_F32, 0, 0, false, finish_f32},        {MK_DTYPE_F16, 0, 0, false, finish_16},
    {MK_DTYPE_BF16, 0, 0, false, finish_16},        {MK_DTYPE_Q4_0, 0, 4.6f, true, NULL},
    {MK_DTYPE_Q5_0, 0, 9.2f, true, NULL},           {MK_DTYPE_Q8_0, 0, 74.0f, false, finish_q8_0},
    {MK_DTYPE_Q4_K, 0, 168.0f, false, finish_q4_k}, {MK_DTYPE_Q6_K, 208, 1366.0f, true, NULL},
};

static const filler *find_filler(mk_dtype type) {
    for (size_t i = 0; i < COUNT(fillers); i++) {
        if (fillers[i].type == type) {
            return &fillers[i];
        }
    }
    MK_ASSERT(!"every type of a recipe has a filler");
    return NULL;
}

// Scales of half to one and a half times the tensor's.
static void set_scales(const filler *f, const mk_values *v, uint8_t *p, size_t n) {
    size_t block_bytes = (size_t)mk_dtype_get((int64_t)v->type)->block_bytes;
    float base = v->spread / f->typical;
    for (size_t b = 0; b < n; b++) {
        uint16_t d;
        uint8_t *at = p + b * block_bytes + f->scale_at;
        memcpy(&d, at, sizeof d);
        float size = (float)(d & 0x7FFF) / 32768.0f + 0.5f;
        d = mk_f16_from_f32(f->either_sign && d > 0x7FFF ? -base * size : base * size);
        memcpy(at, &d, sizeof d);
    }
}

void mk_make_blocks(mk_values *v, uint8_t *p, size_t n) {
    const filler *f = find_filler(v->type);
    size_t n_bytes = n * (size_t)mk_dtype_get((int64_t)v->type)->block_bytes;
    for (size_t at = 0; at < n_bytes; at += sizeof(uint64_t)) {
        uint64_t r = mk_rng_u64(v->key, v->counter++);
        memcpy(p + at, &r, n_bytes - at < sizeof r ? n_bytes - at : sizeof r);
    }
    if (f->typical > 0) {
        set_scales(f, v, p, n);
    }
    if (f->finish) {
        f->finish(v, p, n);
    }
}
