// Keeping the machine's tables small: states with small counts in place of large ones, and
// forgetting what no answer stands on.
#include <string.h>

#include "chat/grammar_int.h"

// --- canonical counts ----------------------------------------------------------------------------
// Tokens of up to B bytes make at most B rounds of a loop.  So a count that is more than B rounds
// away from both of the loop's bounds allows the same tokens as any other such count, and is
// replaced by the smallest of its kind.  Without that a string of bounded length would need the
// walk over the vocabulary again for every character.
static uint32_t small_count(const mk_gloop *l, uint32_t n, unsigned reach) {
    if ((uint64_t)n + reach < l->min) {
        return 0;
    }
    if (n >= l->min && (uint64_t)n + reach < l->max) {
        return l->min;
    }
    return n;
}

static uint32_t canon_count(mk_gmachine *m, int level, uint32_t id) {
    if (id == 0) {
        return 0;
    }
    if (m->count[id].canon[level] == MK_G_INF) {
        mk_gcount c = m->count[id];
        uint32_t rest = canon_count(m, level, c.rest);
        uint32_t n = small_count(&m->prog->loop[c.loop], c.n, mk_g_level_bytes(level));
        uint32_t to = mk_gmachine_count(m, c.loop, n, rest);
        if (m->failed != MK_OK) {
            return 0;
        }
        m->count[id].canon[level] = to;
    }
    return m->count[id].canon[level];
}

static uint32_t canon_stack(mk_gmachine *m, int level, uint32_t id);

// The set's threads with canonical contents; NULL on failure.  The caller frees.
static mk_gthread *canon_threads(mk_gmachine *m, int level, const mk_gsets *s, uint32_t id) {
    uint32_t n = s->e[id].n;
    mk_gthread *t = mk_try_alloc((size_t)n + 1, sizeof(*t));
    if (t == NULL) {
        m->failed = m->failed != MK_OK ? m->failed : MK_ENOMEM;
        return NULL;
    }
    for (uint32_t i = 0; i < n; i++) {
        t[i] = s->pool[s->e[id].first + i];
        t[i].counts = canon_count(m, level, t[i].counts);
        t[i].stack = canon_stack(m, level, t[i].stack);
    }
    return t;
}

// Recursion is as deep as the stack: MK_G_MAX_CALLS and the calls of one byte.
static uint32_t canon_stack(mk_gmachine *m, int level, uint32_t id) {
    if (id == 0) {
        return 0;
    }
    if (m->stacks.e[id].canon[level] == MK_G_INF) {
        uint32_t n = m->stacks.e[id].n, depth = m->stacks.e[id].depth;
        mk_gthread *t = canon_threads(m, level, &m->stacks, id);
        uint32_t to = t == NULL ? 0 : mk_gmachine_stack(m, t, n, depth);
        mk_free(t);
        if (m->failed != MK_OK) {
            return 0;
        }
        m->stacks.e[id].canon[level] = to;
    }
    return m->stacks.e[id].canon[level];
}

uint32_t mk_gmachine_canon(mk_gmachine *m, int level, uint32_t state) {
    if (m->prog->n_loop == 0) {
        return state;
    }
    if (m->states.e[state].canon[level] == MK_G_INF) {
        uint32_t n = m->states.e[state].n;
        bool accept = m->states.e[state].accept != 0;
        mk_gthread *t = canon_threads(m, level, &m->states, state);
        uint32_t to = t == NULL ? MK_GS_DEAD : mk_gmachine_intern(m, t, n, accept);
        mk_free(t);
        if (m->failed != MK_OK) {
            return MK_GS_DEAD;
        }
        m->states.e[state].canon[level] = to;
    }
    return m->states.e[state].canon[level];
}

// --- compacting ----------------------------------------------------------------------------------
// New numbers keep the order of the old ones, so sorted sets stay sorted; and contents refer to
// smaller numbers, so one pass from above marks everything that is needed.
typedef struct {
    uint32_t *count, *stack, *state;  // marks, then new numbers
} renumber;

static void mark_threads(const mk_gsets *s, uint32_t id, renumber *r) {
    for (uint32_t i = 0; i < s->e[id].n; i++) {
        const mk_gthread *t = &s->pool[s->e[id].first + i];
        r->count[t->counts] = 1;
        r->stack[t->stack] = 1;
    }
}

static void mark(const mk_gmachine *m, renumber *r) {
    for (uint32_t i = 0; i < m->states.n; i++) {
        if (r->state[i] != 0) {
            mark_threads(&m->states, i, r);
        }
    }
    for (size_t i = m->stacks.n; i-- > 0;) {
        if (r->stack[i] != 0) {
            mark_threads(&m->stacks, (uint32_t)i, r);
        }
    }
    for (size_t i = m->n_count; i-- > 1;) {
        if (r->count[i] != 0) {
            r->count[m->count[i].rest] = 1;
        }
    }
}

static void number(uint32_t *x, size_t n) {
    uint32_t next = 0;
    for (size_t i = 0; i < n; i++) {
        x[i] = x[i] != 0 ? next++ : MK_G_INF;
    }
}

static void rewrite_sets(mk_gsets *to, const mk_gsets *s, const uint32_t *id, const renumber *r) {
    for (size_t i = 0; i < s->n; i++) {
        if (id[i] == MK_G_INF) {
            continue;
        }
        mk_gset e = s->e[i];
        uint32_t h = e.hash;
        e.first = (uint32_t)to->n_pool;
        for (uint32_t k = 0; k < e.n; k++) {
            mk_gthread t = s->pool[s->e[i].first + k];
            to->pool[to->n_pool++] = (mk_gthread){t.pc, r->count[t.counts], r->stack[t.stack]};
        }
        e.after = 0;
        for (int l = 0; l < MK_G_LEVELS; l++) {
            e.canon[l] = MK_G_INF;
            e.mask[l] = e.local[l] = 0;
        }
        // the two states that are no sets of threads keep the hash that nothing finds
        e.hash = e.n == 0 && e.accept == 0 ? h : mk_g_hash(to->pool + e.first, e.n, e.accept != 0);
        to->e[to->n++] = e;
    }
}

static size_t used(const uint32_t *id, size_t n) {
    size_t k = 0;
    for (size_t i = 0; i < n; i++) {
        k += id[i] != MK_G_INF;
    }
    return k;
}

// The sets whose new number is not MK_G_INF, in arrays of their own.
static bool copy_sets(const mk_gsets *s, const uint32_t *id, const renumber *r, mk_gsets *to) {
    size_t n = used(id, s->n), n_pool = 0;
    for (size_t i = 0; i < s->n; i++) {
        n_pool += id[i] != MK_G_INF ? s->e[i].n : 0;
    }
    *to = (mk_gsets){.cap = n + 1, .cap_pool = n_pool + 1};
    to->e = mk_try_alloc(to->cap, sizeof(*to->e));
    to->pool = mk_try_alloc(to->cap_pool, sizeof(*to->pool));
    if (to->e == NULL || to->pool == NULL) {
        return false;
    }
    rewrite_sets(to, s, id, r);
    size_t n_slot = 64;
    while (n_slot < 2 * (n + 1)) {
        n_slot *= 2;
    }
    return mk_gsets_rehash(to, n_slot);
}

static void rewrite_counts(mk_gmachine *m, const renumber *r) {
    size_t n = 0;
    for (size_t i = 0; i < m->n_count; i++) {
        if (r->count[i] != MK_G_INF) {
            mk_gcount c = m->count[i];
            c.rest = r->count[c.rest];
            for (int l = 0; l < MK_G_LEVELS; l++) {
                c.canon[l] = MK_G_INF;
            }
            m->count[n++] = c;
        }
    }
    m->n_count = n;
}

static mk_status compact(mk_gmachine *m, renumber *r, uint32_t *const *keep, const size_t *n_keep,
                         size_t n_lists) {
    r->state[MK_GS_UNKNOWN] = r->state[MK_GS_DEAD] = r->state[m->start] = 1;
    r->stack[0] = r->count[0] = 1;
    for (size_t i = 0; i < n_lists; i++) {
        for (size_t k = 0; k < n_keep[i]; k++) {
            r->state[keep[i][k]] = 1;
        }
    }
    mark(m, r);
    number(r->count, m->n_count);
    number(r->stack, m->stacks.n);
    number(r->state, m->states.n);
    mk_gsets stacks = {0}, states = {0};
    size_t n_state = used(r->state, m->states.n);
    uint32_t *step = mk_try_alloc(n_state + 1, m->prog->n_class * sizeof(*step));
    if (step == NULL || !copy_sets(&m->stacks, r->stack, r, &stacks) ||
        !copy_sets(&m->states, r->state, r, &states)) {
        mk_free(step);
        mk_gsets_free(&stacks);
        mk_gsets_free(&states);
        return MK_ENOMEM;
    }
    for (unsigned c = 0; c < 2 * m->prog->n_class; c++) {
        step[c] = MK_GS_DEAD;
    }
    mk_gsets_free(&m->stacks);
    mk_gsets_free(&m->states);
    mk_free(m->step);
    m->stacks = stacks;
    m->states = states;
    m->step = step;
    m->cap_step = (n_state + 1) * m->prog->n_class;
    m->start = r->state[m->start];
    rewrite_counts(m, r);
    for (size_t i = 0; i < n_lists; i++) {
        for (size_t k = 0; k < n_keep[i]; k++) {
            keep[i][k] = r->state[keep[i][k]];
        }
    }
    return mk_gmachine_rehash_counts(m);
}

mk_status mk_gmachine_compact(mk_gmachine *m, uint32_t *const *keep, const size_t *n_keep,
                              size_t n_lists) {
    renumber r = {mk_try_alloc(m->n_count, sizeof(uint32_t)),
                  mk_try_alloc(m->stacks.n, sizeof(uint32_t)),
                  mk_try_alloc(m->states.n, sizeof(uint32_t))};
    mk_status st = MK_ENOMEM;
    mk_gmask_clear(m);
    if (r.count != NULL && r.stack != NULL && r.state != NULL) {
        st = compact(m, &r, keep, n_keep, n_lists);
    }
    mk_free(r.count);
    mk_free(r.stack);
    mk_free(r.state);
    return st;
}
