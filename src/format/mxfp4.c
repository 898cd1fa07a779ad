// From the two tensors of a folder to GGUF's blocks: the nibbles change places, nothing is rounded.
// Both formats mean T[nibble] * 2^(scale - 127) with T = 0 .5 1 1.5 2 3 4 6 and negatives (GGUF's
// table is doubled and its exponent one less).
#include "format/mxfp4.h"

enum { BLOCK = 32, HALF = BLOCK / 2 };

static uint8_t nibble(const uint8_t *pairs, int i) {
    return (uint8_t)(i % 2 == 0 ? pairs[i / 2] & 15 : pairs[i / 2] >> 4);
}

void mk_mxfp4_from_pair(const uint8_t *blocks, const uint8_t *scales, int64_t n_block,
                        uint8_t *dst) {
    for (int64_t b = 0; b < n_block; b++, blocks += HALF, dst += 1 + HALF) {
        dst[0] = scales[b];
        for (int j = 0; j < HALF; j++) {
            dst[1 + j] = (uint8_t)(nibble(blocks, j) | nibble(blocks, j + HALF) << 4);
        }
    }
}
