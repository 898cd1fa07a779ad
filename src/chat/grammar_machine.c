// The machine that runs a compiled grammar.
//
// A state is a set of threads.  A step takes every thread that can read the byte, and follows from
// there all instructions that read nothing (the closure), until each thread stands before one that
// reads.  A thread that calls a rule gets a stack; all threads that call the same rule at the same
// byte share it (their ways back are its contents), so that ambiguity costs places, not
// combinations.  A rule that returns at the byte at which it was called may get more callers
// afterwards: gcall.returned makes them go on at once.
//
// Invariants:
//  1. During a closure stacks that are being made are numbered OPEN | index of m->call; they are
//     interned at its end, callers before callees, and no OPEN number survives.
//  2. Threads of a set are sorted and no two are the same, so equal sets are equal bytes.
//  3. Contents refer to smaller numbers only (stacks to stacks, counts to counts).  Compacting
//     relies on it.
#include <stdlib.h>
#include <string.h>

#include "chat/grammar_int.h"

#define OPEN         0x80000000u
#define MAX_BYTES    ((size_t)256 << 20)  // of everything learnt, between two compactions
#define UNKNOWN_STEP 0u

static bool fail(mk_gmachine *m, mk_status st) {
    m->failed = m->failed != MK_OK ? m->failed : st;
    return false;
}

static bool room(mk_gmachine *m, void **p, size_t *cap, size_t n, size_t elem_bytes) {
    return mk_g_grow(p, cap, n, elem_bytes) || fail(m, MK_ENOMEM);
}

static uint32_t mix(uint32_t h, uint32_t x) {
    h = (h ^ x) * 0x9E3779B1u;
    return h ^ (h >> 15);
}

static uint32_t hash_thread(uint32_t h, const mk_gthread *t) {
    return mix(mix(mix(h, t->pc), t->counts), t->stack);
}

// --- interning -----------------------------------------------------------------------------------
uint32_t mk_g_hash(const mk_gthread *t, size_t n, bool accept) {
    uint32_t h = accept ? 17 : 11;
    for (size_t i = 0; i < n; i++) {
        h = hash_thread(h, &t[i]);
    }
    return h;
}

bool mk_gsets_rehash(mk_gsets *s, size_t n_slot) {
    uint32_t *slot = mk_try_alloc(n_slot, sizeof(*slot));
    if (slot == NULL) {
        return false;
    }
    for (size_t i = 0; i < s->n; i++) {
        size_t at = s->e[i].hash & (n_slot - 1);
        while (slot[at] != 0) {
            at = (at + 1) & (n_slot - 1);
        }
        slot[at] = (uint32_t)i + 1;
    }
    mk_free(s->slot);
    s->slot = slot;
    s->n_slot = n_slot;
    return true;
}

static bool same_set(const mk_gsets *s, const mk_gset *e, const mk_gthread *t, size_t n,
                     bool accept) {
    return e->n == n && (e->accept != 0) == accept &&
           (n == 0 || memcmp(s->pool + e->first, t, n * sizeof(*t)) == 0);
}

static bool keep_threads(mk_gmachine *m, mk_gsets *s, const mk_gthread *t, size_t n) {
    while (s->n_pool + n > s->cap_pool) {
        if (!room(m, (void **)&s->pool, &s->cap_pool, s->cap_pool, sizeof(*s->pool))) {
            return false;
        }
    }
    if (n > 0) {
        memcpy(s->pool + s->n_pool, t, n * sizeof(*t));
        s->n_pool += n;
    }
    return true;
}

// Number of the set; sets *made.  t is sorted and not inside of s.  0 on failure.
static uint32_t intern(mk_gmachine *m, mk_gsets *s, const mk_gthread *t, size_t n, bool accept,
                       bool *made) {
    uint32_t h = mk_g_hash(t, n, accept);
    *made = false;
    if (2 * (s->n + 1) > s->n_slot && !mk_gsets_rehash(s, s->n_slot < 64 ? 64 : 2 * s->n_slot)) {
        return fail(m, MK_ENOMEM);
    }
    size_t at = h & (s->n_slot - 1);
    for (; s->slot[at] != 0; at = (at + 1) & (s->n_slot - 1)) {
        const mk_gset *e = &s->e[s->slot[at] - 1];
        if (e->hash == h && same_set(s, e, t, n, accept)) {
            return s->slot[at] - 1;
        }
    }
    if (s->n_pool + n > UINT32_MAX / 2 || s->n > UINT32_MAX / 4) {
        return fail(m, MK_ELIMIT);
    }
    uint32_t first = (uint32_t)s->n_pool;
    if (!room(m, (void **)&s->e, &s->cap, s->n, sizeof(*s->e)) || !keep_threads(m, s, t, n)) {
        return 0;
    }
    s->e[s->n] = (mk_gset){.first = first, .n = (uint32_t)n, .hash = h, .accept = accept};
    for (int l = 0; l < MK_G_LEVELS; l++) {
        s->e[s->n].canon[l] = MK_G_INF;
    }
    s->slot[at] = (uint32_t)s->n + 1;
    *made = true;
    return (uint32_t)s->n++;
}

static bool rehash_counts(mk_gmachine *m, size_t n_slot) {
    uint32_t *slot = mk_try_alloc(n_slot, sizeof(*slot));
    if (slot == NULL) {
        return fail(m, MK_ENOMEM);
    }
    for (size_t i = 0; i < m->n_count; i++) {
        const mk_gcount *c = &m->count[i];
        size_t at = mix(mix(mix(3, c->loop), c->n), c->rest) & (n_slot - 1);
        while (slot[at] != 0) {
            at = (at + 1) & (n_slot - 1);
        }
        slot[at] = (uint32_t)i + 1;
    }
    mk_free(m->count_slot);
    m->count_slot = slot;
    m->n_count_slot = n_slot;
    return true;
}

uint32_t mk_gmachine_count(mk_gmachine *m, uint32_t loop, uint32_t n, uint32_t rest) {
    if (2 * (m->n_count + 1) > m->n_count_slot &&
        !rehash_counts(m, m->n_count_slot < 64 ? 64 : 2 * m->n_count_slot)) {
        return 0;
    }
    size_t mask = m->n_count_slot - 1, at = mix(mix(mix(3, loop), n), rest) & mask;
    for (; m->count_slot[at] != 0; at = (at + 1) & mask) {
        const mk_gcount *c = &m->count[m->count_slot[at] - 1];
        if (c->loop == loop && c->n == n && c->rest == rest) {
            return m->count_slot[at] - 1;
        }
    }
    if (m->n_count > UINT32_MAX / 4) {
        return fail(m, MK_ELIMIT);
    }
    if (!room(m, (void **)&m->count, &m->cap_count, m->n_count, sizeof(*m->count))) {
        return 0;
    }
    m->count[m->n_count] = (mk_gcount){loop, n, rest, {MK_G_INF, MK_G_INF, MK_G_INF}};
    m->count_slot[at] = (uint32_t)m->n_count + 1;
    return (uint32_t)m->n_count++;
}

static int by_contents(const void *x, const void *y) {
    const mk_gthread *a = x, *b = y;
    if (a->pc != b->pc) {
        return a->pc < b->pc ? -1 : 1;
    }
    if (a->counts != b->counts) {
        return a->counts < b->counts ? -1 : 1;
    }
    return (a->stack > b->stack) - (a->stack < b->stack);
}

static size_t sort_threads(mk_gthread *t, size_t n) {
    if (n > 24) {
        qsort(t, n, sizeof(*t), by_contents);
    } else {
        for (size_t i = 1; i < n; i++) {
            mk_gthread x = t[i];
            size_t k = i;
            for (; k > 0 && by_contents(&t[k - 1], &x) > 0; k--) {
                t[k] = t[k - 1];
            }
            t[k] = x;
        }
    }
    size_t out = 0;
    for (size_t i = 0; i < n; i++) {
        if (out == 0 || by_contents(&t[out - 1], &t[i]) != 0) {
            t[out++] = t[i];
        }
    }
    return out;
}

uint32_t mk_gmachine_intern(mk_gmachine *m, mk_gthread *t, size_t n, bool accept) {
    bool made;
    n = sort_threads(t, n);
    if (n == 0 && !accept) {
        return MK_GS_DEAD;
    }
    uint32_t id = intern(m, &m->states, t, n, accept, &made);
    if (made) {
        size_t need = m->states.n * m->prog->n_class;
        while (need > m->cap_step) {
            if (!room(m, (void **)&m->step, &m->cap_step, m->cap_step, sizeof(*m->step))) {
                return MK_GS_DEAD;
            }
        }
        memset(m->step + id * m->prog->n_class, 0, m->prog->n_class * sizeof(*m->step));
    }
    return m->failed != MK_OK ? MK_GS_DEAD : id;
}

uint32_t mk_gmachine_stack(mk_gmachine *m, mk_gthread *t, size_t n, uint32_t depth) {
    bool made;
    uint32_t id = intern(m, &m->stacks, t, sort_threads(t, n), false, &made);
    if (made) {
        m->stacks.e[id].depth = depth;
    }
    return id;
}

mk_status mk_gmachine_rehash_counts(mk_gmachine *m) {
    size_t n_slot = 64;
    while (n_slot < 2 * (m->n_count + 1)) {
        n_slot *= 2;
    }
    return rehash_counts(m, n_slot) ? MK_OK : m->failed;
}

// --- closure -------------------------------------------------------------------------------------
static bool grow_seen(mk_gmachine *m) {
    size_t cap = m->cap_seen < 256 ? 256 : 2 * m->cap_seen;
    mk_gthread *seen = mk_try_alloc(cap, sizeof(*seen));
    uint32_t *stamp = mk_try_alloc(cap, sizeof(*stamp));
    if (seen == NULL || stamp == NULL) {
        mk_free(seen);
        mk_free(stamp);
        return fail(m, MK_ENOMEM);
    }
    for (size_t i = 0; i < m->cap_seen; i++) {
        if (m->seen_stamp[i] == m->stamp) {
            size_t at = hash_thread(5, &m->seen[i]) & (cap - 1);
            while (stamp[at] == m->stamp) {
                at = (at + 1) & (cap - 1);
            }
            stamp[at] = m->stamp;
            seen[at] = m->seen[i];
        }
    }
    mk_free(m->seen);
    mk_free(m->seen_stamp);
    m->seen = seen;
    m->seen_stamp = stamp;
    m->cap_seen = cap;
    return true;
}

static void push(mk_gmachine *m, uint32_t pc, uint32_t counts, uint32_t stack) {
    mk_gthread t = {pc, counts, stack};
    if (m->n_seen >= MK_G_MAX_THREADS) {
        m->overflow = true;
        return;
    }
    if (m->failed != MK_OK || (2 * (m->n_seen + 1) > m->cap_seen && !grow_seen(m))) {
        return;
    }
    size_t at = hash_thread(5, &t) & (m->cap_seen - 1);
    for (; m->seen_stamp[at] == m->stamp; at = (at + 1) & (m->cap_seen - 1)) {
        if (memcmp(&m->seen[at], &t, sizeof(t)) == 0) {
            return;
        }
    }
    m->seen_stamp[at] = m->stamp;
    m->seen[at] = t;
    m->n_seen++;
    if (room(m, (void **)&m->work, &m->cap_work, m->n_work, sizeof(*m->work))) {
        m->work[m->n_work++] = t;
    }
}

// Calls that are open.  Of a stack that is still being made this is what its first caller has;
// close_call looks again.
static uint32_t depth_of(const mk_gmachine *m, uint32_t stack) {
    return (stack & OPEN) != 0 ? m->call[stack & ~OPEN].depth : m->stacks.e[stack].depth;
}

static void call(mk_gmachine *m, uint32_t rule, mk_gthread back) {
    uint32_t i = m->call_of_rule[rule];
    bool fresh = i == 0 || i > m->n_call || m->call[i - 1].rule != rule;
    uint32_t depth = depth_of(m, back.stack) + 1;
    if (depth > MK_G_MAX_CALLS) {
        return;
    }
    if (fresh) {
        if (!room(m, (void **)&m->call, &m->cap_call, m->n_call, sizeof(*m->call))) {
            return;
        }
        m->call[m->n_call] = (mk_gcall){.rule = rule, .stack = MK_G_INF, .depth = depth};
        i = (uint32_t)++m->n_call;
        m->call_of_rule[rule] = i;
    }
    if (!room(m, (void **)&m->cont, &m->cap_cont, m->n_cont, sizeof(*m->cont))) {
        return;
    }
    m->cont[m->n_cont] = (mk_gcont){back, m->call[i - 1].first_cont};
    m->call[i - 1].first_cont = (uint32_t)++m->n_cont;
    if (fresh) {
        push(m, m->prog->start[rule], 0, OPEN | (i - 1));
    } else if (m->call[i - 1].returned) {
        push(m, back.pc, back.counts, back.stack);
    }
}

static void ret(mk_gmachine *m, uint32_t stack) {
    if (stack == 0) {
        m->accept = true;
    } else if ((stack & OPEN) != 0) {
        mk_gcall *c = &m->call[stack & ~OPEN];
        c->returned = true;
        for (uint32_t i = c->first_cont; i != 0; i = m->cont[i - 1].next) {
            mk_gthread to = m->cont[i - 1].to;
            push(m, to.pc, to.counts, to.stack);
        }
    } else {
        const mk_gset *e = &m->stacks.e[stack];
        for (uint32_t i = 0; i < e->n; i++) {
            mk_gthread to = m->stacks.pool[e->first + i];
            push(m, to.pc, to.counts, to.stack);
        }
    }
}

static void test_loop(mk_gmachine *m, const mk_ginsn *x, const mk_gthread *t) {
    const mk_gloop *l = &m->prog->loop[x->y];
    mk_gcount c = m->count[t->counts];
    if (c.n < l->max) {
        push(m, x->x, t->counts, t->stack);
    }
    if (c.n >= l->min) {
        push(m, l->exit, c.rest, t->stack);
    }
}

static void next_round(mk_gmachine *m, const mk_ginsn *x, const mk_gthread *t) {
    const mk_gloop *l = &m->prog->loop[x->y];
    mk_gcount c = m->count[t->counts];
    // without an upper bound rounds beyond the lower one are all the same
    bool stays = l->max == MK_G_INF && c.n >= l->min;
    uint32_t counts = stays ? t->counts : mk_gmachine_count(m, x->y, c.n + 1, c.rest);
    if (m->failed == MK_OK) {
        push(m, x->x, counts, t->stack);
    }
}

static void run(mk_gmachine *m, mk_gthread t) {
    const mk_ginsn *x = &m->prog->insn[t.pc];
    switch ((mk_g_op)x->op) {
    case MK_I_RET:
        ret(m, t.stack);
        break;
    case MK_I_FAIL:
        break;
    case MK_I_FORK:
        for (uint32_t i = 0; i < x->y; i++) {
            push(m, m->prog->target[x->x + i], t.counts, t.stack);
        }
        break;
    case MK_I_CALL:
        call(m, x->x, (mk_gthread){x->y, t.counts, t.stack});
        break;
    case MK_I_JUMP:
        push(m, m->prog->start[x->x], t.counts, t.stack);
        break;
    case MK_I_ENTER: {
        uint32_t counts = mk_gmachine_count(m, x->y, 0, t.counts);
        if (m->failed == MK_OK) {
            push(m, x->x, counts, t.stack);
        }
        break;
    }
    case MK_I_TEST:
        test_loop(m, x, &t);
        break;
    case MK_I_NEXT:
        next_round(m, x, &t);
        break;
    case MK_I_RANGE:
    case MK_I_SET:
    case MK_I_SWITCH:
        if (room(m, (void **)&m->final, &m->cap_final, m->n_final, sizeof(*m->final))) {
            m->final[m->n_final++] = t;
        }
        break;
    }
}

static void begin(mk_gmachine *m) {
    m->n_work = m->n_final = m->n_seen = m->n_call = m->n_cont = 0;
    m->accept = m->overflow = false;
    if (++m->stamp == 0) {
        memset(m->seen_stamp, 0, m->cap_seen * sizeof(*m->seen_stamp));
        m->stamp = 1;
    }
}

static uint32_t closed(const mk_gmachine *m, uint32_t stack) {
    return (stack & OPEN) != 0 ? m->call[stack & ~OPEN].stack : stack;
}

// Interns the stack of one call if all stacks in it are.
static bool close_call(mk_gmachine *m, mk_gcall *c) {
    size_t n = 0;
    uint32_t depth = 0;
    m->n_work = 0;
    for (uint32_t i = c->first_cont; i != 0; i = m->cont[i - 1].next, n++) {
        mk_gthread to = m->cont[i - 1].to;
        to.stack = closed(m, to.stack);
        if (to.stack == MK_G_INF || !room(m, (void **)&m->work, &m->cap_work, n, sizeof(to))) {
            return false;
        }
        depth = m->stacks.e[to.stack].depth > depth ? m->stacks.e[to.stack].depth : depth;
        m->work[n] = to;
    }
    if (depth >= 2 * MK_G_MAX_CALLS) {  // deeper callers came after the rules below were called
        m->overflow = true;
    }
    c->stack = mk_gmachine_stack(m, m->work, n, depth + 1);
    return true;
}

static uint32_t finish(mk_gmachine *m) {
    while (m->n_work > 0 && m->failed == MK_OK && !m->overflow) {
        run(m, m->work[--m->n_work]);
    }
    if (m->n_seen >= m->work_left) {
        fail(m, MK_ELIMIT);
    }
    m->work_left -= m->n_seen < m->work_left ? m->n_seen : m->work_left;
    if (m->failed != MK_OK || m->overflow) {
        return MK_GS_DEAD;
    }
    // Callers are mostly opened before the rules they call, so one pass is the rule.
    size_t left = m->n_call;
    for (size_t before = left + 1; left > 0 && left < before;) {
        before = left;
        left = 0;
        for (size_t i = 0; i < m->n_call; i++) {
            left += m->call[i].stack == MK_G_INF && !close_call(m, &m->call[i]);
        }
    }
    if (m->failed != MK_OK || m->overflow) {
        return MK_GS_DEAD;
    }
    MK_ASSERT(left == 0);  // else a rule is left-recursive, and mk_gb_check has let it pass
    for (size_t i = 0; i < m->n_final; i++) {
        m->final[i].stack = closed(m, m->final[i].stack);
    }
    if (mk_gmachine_bytes(m) > MAX_BYTES) {
        fail(m, MK_ELIMIT);
        return MK_GS_DEAD;
    }
    return mk_gmachine_intern(m, m->final, m->n_final, m->accept);
}

// Where a thread goes on a byte; false: nowhere.
static bool takes(const mk_gprog *p, uint32_t pc, unsigned byte, uint32_t *next) {
    const mk_ginsn *x = &p->insn[pc];
    if (x->op == MK_I_RANGE) {
        *next = x->x;
        return byte >= x->lo && byte <= x->hi;
    }
    if (x->op == MK_I_SET) {
        *next = x->x;
        return (p->set[x->y].bit[byte / 64] >> (byte % 64) & 1) != 0;
    }
    uint32_t lo = 0, hi = x->y;
    while (lo < hi) {
        uint32_t mid = lo + (hi - lo) / 2;
        if (p->target[x->x + 2 * mid] < byte) {
            lo = mid + 1;
        } else {
            hi = mid;
        }
    }
    if (lo == x->y || p->target[x->x + 2 * lo] != byte) {
        return false;
    }
    *next = p->target[x->x + 2 * lo + 1];
    return true;
}

uint32_t mk_gmachine_step(mk_gmachine *m, uint32_t state, unsigned c) {
    size_t at = state * (size_t)m->prog->n_class + c;
    if (m->step[at] != UNKNOWN_STEP || m->failed != MK_OK) {
        return m->failed != MK_OK ? MK_GS_DEAD : m->step[at];
    }
    const mk_gset *s = &m->states.e[state];
    begin(m);
    for (uint32_t i = 0; i < s->n; i++) {
        mk_gthread t = m->states.pool[s->first + i];
        uint32_t next;
        if (takes(m->prog, t.pc, m->prog->byte_of_class[c], &next)) {
            push(m, next, t.counts, t.stack);
        }
    }
    uint32_t to = finish(m);
    if (m->failed == MK_OK) {
        m->step[at] = to;
    }
    return to;
}

uint32_t mk_gmachine_after(mk_gmachine *m, uint32_t stack) {
    if (m->stacks.e[stack].after == 0) {
        begin(m);
        ret(m, stack);
        uint32_t to = finish(m);
        if (m->failed != MK_OK) {
            return MK_GS_DEAD;
        }
        m->stacks.e[stack].after = to + 1;
    }
    return m->stacks.e[stack].after - 1;
}

// --- life ----------------------------------------------------------------------------------------
static bool init_tables(mk_gmachine *m) {
    bool made;
    mk_gmachine_count(m, MK_G_INF, 0, 0);         // counts 0: no loop is open
    intern(m, &m->stacks, NULL, 0, true, &made);  // stack 0: the end
    for (uint32_t i = 0; i <= MK_GS_DEAD; i++) {  // states 0 and 1, which no set of threads is
        intern(m, &m->states, &(mk_gthread){MK_G_INF, i, 0}, 1, false, &made);
        if (m->failed != MK_OK) {
            return false;
        }
        m->states.e[i].n = 0;
    }
    return m->failed == MK_OK;
}

mk_status mk_gmachine_init(mk_gmachine *m, const mk_gprog *p) {
    *m = (mk_gmachine){.prog = p, .work_left = MK_G_MAX_WORK};
    m->call_of_rule = mk_try_alloc(p->n_rule, sizeof(*m->call_of_rule));
    m->cap_step = 16 * (size_t)p->n_class;
    m->step = mk_try_alloc(m->cap_step, sizeof(*m->step));
    if (m->call_of_rule == NULL || m->step == NULL || !init_tables(m)) {
        return MK_ENOMEM;
    }
    for (unsigned c = 0; c < 2 * p->n_class; c++) {
        m->step[c] = MK_GS_DEAD;
    }
    begin(m);
    push(m, p->start[p->root], 0, 0);
    m->start = finish(m);
    if (m->failed == MK_OK && m->overflow) {
        return MK_ELIMIT;
    }
    return m->failed;
}

void mk_gsets_free(mk_gsets *s) {
    mk_free(s->e);
    mk_free(s->pool);
    mk_free(s->slot);
    *s = (mk_gsets){0};
}

void mk_gmachine_free(mk_gmachine *m) {
    mk_gmask_clear(m);
    mk_free(m->mask);
    mk_token_trie_unref(m->trie);
    mk_gsets_free(&m->stacks);
    mk_gsets_free(&m->states);
    mk_free(m->count);
    mk_free(m->count_slot);
    mk_free(m->step);
    mk_free(m->work);
    mk_free(m->final);
    mk_free(m->seen);
    mk_free(m->seen_stamp);
    mk_free(m->call);
    mk_free(m->cont);
    mk_free(m->call_of_rule);
    *m = (mk_gmachine){0};
}

static size_t sets_bytes(const mk_gsets *s) {
    return s->cap * sizeof(*s->e) + s->cap_pool * sizeof(*s->pool) + s->n_slot * sizeof(*s->slot);
}

size_t mk_gmachine_bytes(const mk_gmachine *m) {
    return sets_bytes(&m->stacks) + sets_bytes(&m->states) + m->cap_count * sizeof(*m->count) +
           m->n_count_slot * sizeof(*m->count_slot) + m->cap_step * sizeof(*m->step) +
           m->mask_bytes;
}
