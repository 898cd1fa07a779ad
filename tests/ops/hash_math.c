// One hash over the scalar mathematics of base: it must be the same on every processor and
// compiler.
#include <stdio.h>

#include "base/mathx.h"

static uint64_t add_bytes(uint64_t h, const void *p, size_t n) {
    return mk_hash64(p, n, h);
}

int main(void) {
    uint64_t h = 0;
    for (uint64_t u = 0; u <= 0xFFFFFFFFu; u += 9973) {
        float y = mk_expf(mk_f32_from_bits((uint32_t)u));
        y = y != y ? 0.0f : y;  // which NaN it is, is not promised
        uint16_t small[2] = {mk_f16_from_f32(y), mk_bf16_from_f32(y)};
        h = add_bytes(add_bytes(h, &y, sizeof y), small, sizeof small);
    }
    for (uint64_t i = 0; i < 200000; i++) {
        double u = mk_rng_unit(1, i), v[5] = {u};
        v[1] = mk_exp((u - 0.5) * 1400);
        v[2] = mk_log(u + 1e-9);
        mk_sincos((u - 0.5) * (i % 2 ? 1e9 : 10), &v[3], &v[4]);
        h = add_bytes(h, v, sizeof v);
    }
    printf("%016llx\n", (unsigned long long)h);
    return 0;
}
