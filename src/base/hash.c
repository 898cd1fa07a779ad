// XXH3 compiled in from the header, so that a cross build needs no library for the target.
#include "base/mathx.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

uint64_t mk_hash64(const void *p, size_t n, uint64_t seed) {
    return XXH3_64bits_withSeed(p, n, seed);
}

mk_u128 mk_hash128(const void *p, size_t n, uint64_t seed) {
    XXH128_hash_t h = XXH3_128bits_withSeed(p, n, seed);
    return (mk_u128){h.low64, h.high64};
}
