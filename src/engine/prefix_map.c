// Linear probing with deletion by shifting back (Knuth, TAOCP 3, 6.4, algorithm R).
#include "engine/prefix_map.h"

#include "base/alloc.h"
#include "base/status.h"

static size_t home_of(const mk_prefix_map *m, mk_u128 key) {
    return (size_t)key.lo & (m->n_slot - 1);
}

// Where the key is, or the free slot where it would be.
static size_t find(const mk_prefix_map *m, mk_u128 key) {
    size_t at = home_of(m, key);
    while (m->slot[at].used && !mk_u128_equal(m->slot[at].key, key)) {
        at = (at + 1) & (m->n_slot - 1);
    }
    return at;
}

bool mk_prefix_map_reserve(mk_prefix_map *m, size_t n) {
    size_t want = 64;
    while (want / 2 < n) {
        want *= 2;
    }
    if (want <= m->n_slot) {
        return true;
    }
    mk_prefix_map bigger = {mk_try_alloc(want, sizeof *bigger.slot), want, 0};
    if (!bigger.slot) {
        return false;
    }
    for (size_t i = 0; i < m->n_slot; i++) {
        const mk_prefix_slot *s = &m->slot[i];
        if (s->used) {
            mk_prefix_map_put(&bigger, s->key, s->p, s->i);
        }
    }
    mk_free(m->slot);
    *m = bigger;
    return true;
}

void mk_prefix_map_free(mk_prefix_map *m) {
    mk_free(m->slot);
    *m = (mk_prefix_map){0};
}

const mk_prefix_slot *mk_prefix_map_get(const mk_prefix_map *m, mk_u128 key) {
    if (m->n == 0) {
        return NULL;
    }
    const mk_prefix_slot *s = &m->slot[find(m, key)];
    return s->used ? s : NULL;
}

void mk_prefix_map_put(mk_prefix_map *m, mk_u128 key, void *p, int64_t i) {
    MK_ASSERT(m->n < m->n_slot / 2);
    size_t at = find(m, key);
    MK_ASSERT(!m->slot[at].used);
    m->slot[at] = (mk_prefix_slot){key, p, i, true};
    m->n++;
}

void mk_prefix_map_remove(mk_prefix_map *m, mk_u128 key) {
    if (!mk_prefix_map_get(m, key)) {
        return;
    }
    size_t mask = m->n_slot - 1, hole = find(m, key);
    for (size_t at = (hole + 1) & mask; m->slot[at].used; at = (at + 1) & mask) {
        // may move into the hole if its home does not lie behind it, going round
        if (((at - home_of(m, m->slot[at].key)) & mask) >= ((at - hole) & mask)) {
            m->slot[hole] = m->slot[at];
            hole = at;
        }
    }
    m->slot[hole] = (mk_prefix_slot){0};
    m->n--;
}
