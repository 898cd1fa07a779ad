// Which tokens may follow a state.
//
// The plain way: walk the trie, take a step of the machine per node, leave out subtrees that the
// machine does not follow.  Where nearly everything is allowed, as inside a JSON string, that is a
// walk over the whole vocabulary (1 ms and more), and such states are many: the string of every
// property has a stack of its own.  So the work is divided:
//
//  1. By stack.  What a set of threads allows is the union of what each of them allows.  Threads
//     with the same stack are walked with an empty one in its place (the *local* state, which is
//     the same for every property).  Where the walk meets the end of the rule (a *hole*), only the
//     rest of that token depends on the stack, and is walked from there with the real one.
//  2. By length of the tokens (the levels).  Counts that are far from their bounds are replaced by
//     small ones (mk_gmachine_canon), and what is far depends on the longest token: most tokens
//     are short, so most counts are far for the first level.  Few tokens are left to the others.
//
// All three are kept: local masks per local state, masks per state.
#include <string.h>

#include "chat/grammar_int.h"

enum { HOLES_PER_NODES = 8 };  // more holes than one in so many nodes: the plain way is better

void mk_gmask_clear(mk_gmachine *m) {
    for (size_t i = 0; i < m->n_mask; i++) {
        mk_free(m->mask[i].bit);
        mk_free(m->mask[i].hole);
    }
    m->n_mask = 0;
    m->mask_bytes = 0;
    for (size_t i = 0; i < m->states.n; i++) {
        for (int l = 0; l < MK_G_LEVELS; l++) {
            m->states.e[i].mask[l] = m->states.e[i].local[l] = 0;
        }
    }
}

static mk_status out_of_memory(mk_gmachine *m) {
    m->failed = m->failed != MK_OK ? m->failed : MK_ENOMEM;
    return m->failed;
}

// Number of a new, empty mask.
static mk_status new_mask(mk_gmachine *m, const mk_token_trie *t, uint32_t *out) {
    if (!mk_g_grow((void **)&m->mask, &m->cap_mask, m->n_mask, sizeof(*m->mask))) {
        return out_of_memory(m);
    }
    mk_gmask x = {.bit = mk_try_alloc(t->n_words + 1, sizeof(uint64_t))};
    if (x.bit == NULL) {
        return out_of_memory(m);
    }
    m->mask_bytes += t->n_words * sizeof(uint64_t);
    m->mask[m->n_mask] = x;
    *out = (uint32_t)m->n_mask++;
    return MK_OK;
}

typedef struct {
    mk_gmachine *m;
    const mk_token_trie *t;
    const mk_gtrie *g;
    uint64_t *bit;
    mk_gmask *holes;  // NULL: the walk does not look for them
} walker;

static bool add_hole(walker *w, uint32_t node) {
    mk_gmask *h = w->holes;
    if (!mk_g_grow((void **)&h->hole, &h->cap_hole, h->n_hole, sizeof(*h->hole))) {
        out_of_memory(w->m);
        return false;
    }
    h->hole[h->n_hole++] = node;
    h->plain = h->n_hole > w->g->n / HOLES_PER_NODES + 64;
    return !h->plain;
}

// Nodes from..to of the trie, children of a node at depth `depth` at which the machine is in
// `state`.
static void walk(walker *w, uint32_t from, uint32_t to, unsigned depth, uint32_t state) {
    mk_gmachine *m = w->m;
    const mk_gtrie *g = w->g;
    const uint8_t *class_of = m->prog->class_of;
    size_t n_class = m->prog->n_class;
    uint32_t at[MK_G_MAX_TOKEN + 1];
    at[depth] = state;
    for (uint32_t i = from; i < to;) {
        unsigned d = g->depth[i], c = class_of[g->byte[i]];
        uint32_t s = at[d - 1], next = m->step[s * n_class + c];
        if (next == MK_GS_UNKNOWN) {
            next = mk_gmachine_step(m, s, c);
            if (m->failed != MK_OK) {
                return;
            }
        }
        if (next == MK_GS_DEAD) {
            i = g->end[i];
            continue;
        }
        at[d] = next;
        for (int32_t id = g->id[i]; id >= 0; id = w->t->twin[id]) {
            w->bit[id / 64] |= UINT64_C(1) << (id % 64);
        }
        if (w->holes != NULL && m->states.e[next].accept && g->end[i] > i + 1 && !add_hole(w, i)) {
            return;
        }
        i++;
    }
}

// The local mask of threads t[0..n), whose stack is 0 already.
static mk_status get_local(mk_gmachine *m, mk_token_trie *t, int level, uint32_t local,
                           uint32_t *out) {
    if (m->states.e[local].local[level] == 0) {
        uint32_t id;
        MK_TRY(new_mask(m, t, &id));
        mk_gmask x = m->mask[id];
        walker w = {m, t, &t->level[level], x.bit, &x};
        walk(&w, 0, w.g->n, 0, local);
        m->mask[id] = x;
        m->mask_bytes += x.cap_hole * sizeof(*x.hole);
        if (m->failed != MK_OK) {
            return m->failed;
        }
        m->states.e[local].local[level] = id + 1;
    }
    *out = m->states.e[local].local[level] - 1;
    return MK_OK;
}

// Adds what threads group[0..n), which share a stack, allow.  Interning sorts the group.
static mk_status add_group(mk_gmachine *m, mk_token_trie *t, int level, mk_gthread *group, size_t n,
                           uint32_t mask) {
    uint32_t stack = group[0].stack, whole = mk_gmachine_intern(m, group, n, false), lm = 0;
    for (size_t i = 0; i < n; i++) {
        group[i].stack = 0;
    }
    uint32_t local = mk_gmachine_intern(m, group, n, false);
    if (m->failed != MK_OK) {
        return m->failed;
    }
    MK_TRY(get_local(m, t, level, local, &lm));
    walker w = {m, t, &t->level[level], m->mask[mask].bit, NULL};
    if (m->mask[lm].plain) {
        walk(&w, 0, w.g->n, 0, whole);
        return m->failed;
    }
    for (size_t i = 0; i < t->n_words; i++) {
        w.bit[i] |= m->mask[lm].bit[i];
    }
    if (stack == 0 || m->mask[lm].n_hole == 0) {
        return MK_OK;
    }
    uint32_t after = mk_gmachine_after(m, stack);
    for (size_t i = 0; i < m->mask[lm].n_hole && m->failed == MK_OK; i++) {
        uint32_t node = m->mask[lm].hole[i];
        walk(&w, node + 1, w.g->end[node], w.g->depth[node], after);
    }
    return m->failed;
}

static mk_status add_threads(mk_gmachine *m, mk_token_trie *t, int level, uint32_t state,
                             uint32_t mask) {
    size_t n = m->states.e[state].n;
    mk_gthread *all = mk_try_alloc(2 * n + 1, sizeof(*all));
    if (all == NULL) {
        return out_of_memory(m);
    }
    mk_gthread *group = all + n;
    memcpy(all, m->states.pool + m->states.e[state].first, n * sizeof(*all));
    mk_status st = MK_OK;
    while (n > 0 && st == MK_OK) {  // one stack after the other
        uint32_t stack = all[0].stack;
        size_t n_group = 0, left = 0;
        for (size_t i = 0; i < n; i++) {
            if (all[i].stack == stack) {
                group[n_group++] = all[i];
            } else {
                all[left++] = all[i];
            }
        }
        n = left;
        st = add_group(m, t, level, group, n_group, mask);
    }
    mk_free(all);
    return st;
}

static mk_status get_level(mk_gmachine *m, mk_token_trie *t, int level, uint32_t state,
                           uint32_t *out) {
    uint32_t canon = mk_gmachine_canon(m, level, state);
    if (m->failed != MK_OK) {
        return m->failed;
    }
    if (m->states.e[canon].mask[level] == 0) {
        uint32_t id;
        MK_TRY(new_mask(m, t, &id));
        MK_TRY(add_threads(m, t, level, canon, id));
        m->states.e[canon].mask[level] = id + 1;
    }
    *out = m->states.e[canon].mask[level] - 1;
    return MK_OK;
}

mk_status mk_gmask_get(mk_gmachine *m, mk_token_trie *t, uint32_t state, uint64_t *bits) {
    if (m->trie != t) {
        mk_gmask_clear(m);
        mk_token_trie_ref(t);
        mk_token_trie_unref(m->trie);
        m->trie = t;
    }
    for (int level = 0; level < MK_G_LEVELS; level++) {
        uint32_t mask;
        if (t->level[level].n == 0) {
            continue;
        }
        MK_TRY(get_level(m, t, level, state, &mask));
        for (size_t i = 0; i < t->n_words; i++) {
            bits[i] |= m->mask[mask].bit[i];
        }
    }
    return MK_OK;
}
