// Open addressing with linear probing; see names.h for the bound on probes.
#include "format/names.h"

#include <string.h>

#include "base/alloc.h"
#include "base/mathx.h"

// At half load a run of this length has no chance of arising by accident.
enum { MAX_PROBES = 1024 };

static const char *name_of(const mk_names *x, size_t i) {
    const char *name;
    memcpy(&name, (const char *)x->records + i * x->stride, sizeof name);
    return name;
}

static uint64_t hash_of(const char *name) {
    return mk_hash64(name, strlen(name), 0);
}

// The slot where `name` is (*found = index) or where it would go (*found = -1); SIZE_MAX after too
// many probes.
static size_t probe(const mk_names *x, const char *name, uint64_t hash, int64_t *found) {
    size_t at = (size_t)hash & x->mask;
    *found = -1;
    for (int i = 0; i < MAX_PROBES; i++, at = (at + 1) & x->mask) {
        uint64_t slot = x->slots[at];
        if (slot == 0) {
            return at;
        }
        size_t index = (size_t)(slot & UINT32_MAX) - 1;
        if (slot >> 32 == hash >> 32 && strcmp(name_of(x, index), name) == 0) {
            *found = (int64_t)index;
            return at;
        }
    }
    return SIZE_MAX;
}

static mk_status insert_all(mk_names *x, const char *kind, mk_err *err) {
    for (size_t i = 0; i < x->n; i++) {
        int64_t found;
        const char *name = name_of(x, i);
        uint64_t hash = hash_of(name);
        size_t at = probe(x, name, hash, &found);
        if (found >= 0) {
            return MK_FAIL(err, MK_ECORRUPT,
                           "%s '%.128s' occurs twice (entries %lld and %zu); expected unique names",
                           kind, name, (long long)found, i);
        }
        if (at == SIZE_MAX) {
            return MK_FAIL(err, MK_ELIMIT,
                           "%s names collide on purpose: over %d have the same hash as '%.128s'",
                           kind, (int)MAX_PROBES, name);
        }
        x->slots[at] = (hash >> 32) << 32 | (uint64_t)(i + 1);
    }
    return MK_OK;
}

mk_status mk_names_build(mk_names *x, const char *kind, const void *records, size_t n,
                         size_t stride, mk_err *err) {
    *x = (mk_names){.records = records, .n = n, .stride = stride};
    if (n > INT32_MAX) {
        return MK_FAIL(err, MK_ELIMIT, "%zu %s names; at most %d are supported", n, kind,
                       (int)INT32_MAX);
    }
    size_t n_slot = 8;
    while (n_slot < 2 * n) {
        n_slot *= 2;
    }
    x->mask = n_slot - 1;
    x->slots = mk_try_alloc(n_slot, sizeof *x->slots);
    if (x->slots == NULL) {
        return MK_FAIL(err, MK_ENOMEM, "no memory for an index of %zu %s names", n, kind);
    }
    mk_status st = insert_all(x, kind, err);
    if (st != MK_OK) {
        mk_names_free(x);
    }
    return st;
}

void mk_names_free(mk_names *x) {
    mk_free(x->slots);
    *x = (mk_names){0};
}

int64_t mk_names_find(const mk_names *x, const char *name) {
    if (x->slots == NULL) {
        return -1;
    }
    int64_t found;
    (void)probe(x, name, hash_of(name), &found);
    return found;
}
