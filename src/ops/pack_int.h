// Private to pack*.c: tiles of the types that are more than moved.
#ifndef MK_OPS_PACK_INT_H
#define MK_OPS_PACK_INT_H

#include "ops/kernels.h"

#define MK_TILE 16  // rows

// Fills kind, scales, group, has_shift and table of w (n_in and dtype are set).  false if it cannot
// be packed.
bool mk_pack_int_layout(const mk_dtype_info *info, mk_weight *w);
// One tile: 16 source rows (NULL beyond the last) to mk_weight_tile_bytes at dst.
void mk_pack_int_tile(const mk_weight *w, const uint8_t *const *row, uint8_t *dst);
// The same bytes for types that have a short way and 16 rows that are all there; false: this type
// has none, nothing was written.
bool mk_pack_fast_tile(const mk_weight *w, const uint8_t *const *row, uint8_t *dst);
// n elements of 4 (2) bytes of 16 rows from byte `at` on, to [n][16]; n: a multiple of 4 (8).
void mk_pack_words(const uint8_t *const *row, size_t at, int64_t n, uint32_t *dst);
void mk_pack_halves(const uint8_t *const *row, size_t at, int64_t n, uint16_t *dst);
// One tile as float32 [n_in][16] from rows (NULL beyond the last) of any float or quantised type;
// r0 is the number of the first row, for the tile scales of FP8.
void mk_pack_f32_tile(const mk_weight_src *src, int64_t r0, const uint8_t *const *row, float *dst);

#endif
