// A table of strings: numbers in order of first sight, one hash over all of them.
#include <string.h>

#include "base/alloc.h"
#include "base/mathx.h"
#include "text/train_int.h"

void mk_strtab_free(mk_strtab *t) {
    mk_free(t->s);
    mk_free(t->bytes);
    mk_free(t->slot);
    *t = (mk_strtab){0};
}

const char *mk_strtab_get(const mk_strtab *t, size_t number, size_t *n) {
    *n = t->s[number].n;
    return t->bytes + t->s[number].at;
}

// The slot of this string, or the empty one where it belongs.
static size_t slot_of(const mk_strtab *t, const char *p, size_t n, uint32_t hash) {
    size_t i = hash & (t->n_slot - 1);
    for (; t->slot[i]; i = (i + 1) & (t->n_slot - 1)) {
        const mk_str *s = &t->s[t->slot[i] - 1];
        if (s->hash == hash && s->n == n && memcmp(t->bytes + s->at, p, n) == 0) {
            break;
        }
    }
    return i;
}

size_t mk_strtab_find(const mk_strtab *t, const char *p, size_t n) {
    if (t->n == 0) {
        return SIZE_MAX;
    }
    size_t i = slot_of(t, p, n, (uint32_t)mk_hash64(p, n, 0));
    return t->slot[i] ? t->slot[i] - 1 : SIZE_MAX;
}

static mk_status no_memory(const mk_strtab *t, mk_err *err) {
    return MK_FAIL(err, MK_ENOMEM, "no memory for more than %zu different words", t->n);
}

static mk_status grow_slots(mk_strtab *t, mk_err *err) {
    size_t n = t->n_slot ? t->n_slot * 2 : 512;
    uint32_t *slot = mk_try_alloc(n, sizeof *slot);
    if (!slot) {
        return no_memory(t, err);
    }
    for (size_t i = 0; i < t->n; i++) {
        size_t at = t->s[i].hash & (n - 1);
        while (slot[at]) {
            at = (at + 1) & (n - 1);
        }
        slot[at] = (uint32_t)i + 1;
    }
    mk_free(t->slot);
    t->slot = slot;
    t->n_slot = n;
    return MK_OK;
}

// Room for one more string of n bytes.
static mk_status reserve(mk_strtab *t, size_t n, mk_err *err) {
    size_t need;
    if (t->n >= UINT32_MAX - 1 || n > UINT32_MAX || !mk_add_size(t->n_bytes, n, &need)) {
        return no_memory(t, err);
    }
    if (t->n == t->cap) {
        size_t cap = t->cap ? t->cap * 2 : 256;
        mk_str *s = mk_try_realloc(t->s, cap, sizeof *s);
        if (!s) {
            return no_memory(t, err);
        }
        t->s = s;
        t->cap = cap;
    }
    if (need > t->cap_bytes || !t->bytes) {
        size_t cap = need < SIZE_MAX / 2 ? need * 2 + 64 : need;
        char *b = mk_try_realloc(t->bytes, cap, 1);
        if (!b) {
            return no_memory(t, err);
        }
        t->bytes = b;
        t->cap_bytes = cap;
    }
    return (t->n + 1) * 2 > t->n_slot ? grow_slots(t, err) : MK_OK;
}

mk_status mk_strtab_put(mk_strtab *t, const char *p, size_t n, size_t *number, mk_err *err) {
    *number = mk_strtab_find(t, p, n);
    if (*number != SIZE_MAX) {
        return MK_OK;
    }
    MK_TRY(reserve(t, n, err));
    uint32_t hash = (uint32_t)mk_hash64(p, n, 0);
    if (n > 0) {
        memcpy(t->bytes + t->n_bytes, p, n);
    }
    t->s[t->n] = (mk_str){.at = t->n_bytes, .n = (uint32_t)n, .hash = hash};
    t->n_bytes += n;
    t->slot[slot_of(t, p, n, hash)] = (uint32_t)t->n + 1;
    *number = t->n++;
    return MK_OK;
}
