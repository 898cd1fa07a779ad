// A map from 128-bit keys, which are hashes already, to a pointer and a number.  Private to the
// prefix cache.  Linear probing over a table that is at most half full; zeroed memory is an empty
// map.
#ifndef MK_ENGINE_PREFIX_MAP_H
#define MK_ENGINE_PREFIX_MAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/mathx.h"

typedef struct {
    mk_u128 key;
    void *p;
    int64_t i;
    bool used;
} mk_prefix_slot;

typedef struct {
    mk_prefix_slot *slot;  // [n_slot], a power of two
    size_t n_slot, n;
} mk_prefix_map;

// Makes room for n keys in all.  False: no memory, nothing changed.
bool mk_prefix_map_reserve(mk_prefix_map *m, size_t n) MK_WARN_UNUSED;
void mk_prefix_map_free(mk_prefix_map *m);
// NULL: not there.  Valid until the map changes.
const mk_prefix_slot *mk_prefix_map_get(const mk_prefix_map *m, mk_u128 key);
// The key is not there and room was made for it (assertion).
void mk_prefix_map_put(mk_prefix_map *m, mk_u128 key, void *p, int64_t i);
void mk_prefix_map_remove(mk_prefix_map *m, mk_u128 key);  // does nothing if it is not there

#endif
