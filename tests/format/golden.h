// Shared by the tests of this room: reading golden files (paths from the repository root) and the
// hash they use.
#ifndef MK_TESTS_FORMAT_GOLDEN_H
#define MK_TESTS_FORMAT_GOLDEN_H

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/file.h"

// Whole file as a NUL-terminated block (mk_free); the test fails if it is not there.
static inline char *golden_read(const char *path, size_t *n) {
    char *data = NULL;
    mk_err err = {0};
    if (mk_file_read(path, (size_t)64 << 20, &data, n, &err) != MK_OK) {
        fail_msg("%s", err.msg);
    }
    return data;
}

// FNV-1a 64
static inline uint64_t golden_hash(uint64_t h, const void *p, size_t n) {
    const uint8_t *b = p;
    for (size_t i = 0; i < n; i++) {
        h = (h ^ b[i]) * UINT64_C(0x100000001B3);
    }
    return h;
}

#define GOLDEN_HASH_START UINT64_C(0xCBF29CE484222325)

// Bits of a float with every NaN taken as one.
static inline uint32_t golden_bits(float f) {
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return (u & 0x7FFFFFFF) > 0x7F800000 ? 0x7FC00000 : u;
}

static inline uint64_t golden_hash_f32(const float *x, size_t n) {
    uint64_t h = GOLDEN_HASH_START;
    for (size_t i = 0; i < n; i++) {
        uint32_t u = golden_bits(x[i]);
        h = golden_hash(h, &u, sizeof u);
    }
    return h;
}

#endif
