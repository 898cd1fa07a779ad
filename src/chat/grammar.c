// Grammars as others see them: life, locks, and answers.
//
// A grammar's tables grow while it is used, so every use takes its lock; answers are lists of the
// numbers of states.  Between two uses the tables are cut back when they have grown too large:
// masks are forgotten first, then every state that no answer stands on.
#include "chat/grammar.h"

#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#include "chat/grammar_int.h"

#define SOFT_MASK_BYTES  ((size_t)32 << 20)
#define SOFT_TABLE_BYTES ((size_t)64 << 20)

struct mk_grammar {
    mk_gprog prog;
    bool has_headers;
    pthread_mutex_t lock;  // all below
    mk_gmachine m;
    mk_grammar_state *first;  // answers
    size_t kept_bytes;        // of the tables after the last compaction
    _Atomic int n_ref;
};

struct mk_grammar_state {
    mk_grammar *g;
    mk_token_trie *trie;  // or NULL
    uint32_t *at;         // [n_at] state after each position; at[0] is the start
    size_t n_at, cap_at;
    mk_grammar_state *next, *prev;
};

// --- grammars ------------------------------------------------------------------------------------
mk_status mk_gb_finish(mk_gb *b, mk_gn root, mk_grammar **out) {
    mk_gfacts f = {0};
    mk_grammar *g = NULL;
    *out = NULL;
    uint32_t rule = mk_gb_rule(b, "root");
    mk_gb_rule_set(b, rule, root);
    if (b->status == MK_OK && mk_gb_check(b, rule, &f) == MK_OK) {
        g = mk_try_alloc(1, sizeof(*g));
        if (g == NULL) {
            MK_GB_FAIL(b, MK_ENOMEM, "no memory for a grammar");
        } else if (mk_gprog_emit(b, rule, &f, &g->prog) == MK_OK) {
            mk_status st = mk_gmachine_init(&g->m, &g->prog);
            if (st == MK_ELIMIT) {
                MK_GB_FAIL(b, st, "the grammar has too many beginnings (over %d at once)",
                           MK_G_MAX_THREADS);
            } else if (st != MK_OK) {
                MK_GB_FAIL(b, st, "no memory for a grammar");
            }
        }
    }
    mk_gfacts_free(&f);
    mk_status st = b->status;
    mk_gb_free(b);
    if (st != MK_OK) {
        if (g != NULL) {
            mk_gmachine_free(&g->m);
            mk_gprog_free(&g->prog);
            mk_free(g);
        }
        return st;
    }
    pthread_mutex_init(&g->lock, NULL);
    atomic_init(&g->n_ref, 1);
    *out = g;
    return MK_OK;
}

void mk_grammar_set_headers(mk_grammar *g) {
    g->has_headers = true;
}

bool mk_grammar_has_headers(const mk_grammar *g) {
    return g->has_headers;
}

void mk_grammar_ref(mk_grammar *g) {
    atomic_fetch_add(&g->n_ref, 1);
}

void mk_grammar_unref(mk_grammar *g) {
    if (g == NULL || atomic_fetch_sub(&g->n_ref, 1) != 1) {
        return;
    }
    mk_gmachine_free(&g->m);
    mk_gprog_free(&g->prog);
    pthread_mutex_destroy(&g->lock);
    mk_free(g);
}

size_t mk_grammar_bytes(mk_grammar *g) {
    pthread_mutex_lock(&g->lock);
    size_t n = sizeof(*g) + mk_gprog_bytes(&g->prog) + mk_gmachine_bytes(&g->m);
    pthread_mutex_unlock(&g->lock);
    return n;
}

// --- answers -------------------------------------------------------------------------------------
mk_status mk_grammar_start(mk_grammar *g, mk_token_trie *trie, mk_grammar_state **out,
                           mk_err *err) {
    mk_grammar_state *s = mk_try_alloc(1, sizeof(*s));
    *out = NULL;
    if (s == NULL || !mk_g_grow((void **)&s->at, &s->cap_at, 0, sizeof(*s->at))) {
        mk_free(s);
        return MK_FAIL(err, MK_ENOMEM, "no memory for the state of a grammar");
    }
    s->g = g;
    mk_grammar_ref(g);
    s->trie = trie;
    if (trie != NULL) {
        mk_token_trie_ref(trie);
    }
    pthread_mutex_lock(&g->lock);
    s->at[s->n_at++] = g->m.start;
    s->next = g->first;
    if (g->first != NULL) {
        g->first->prev = s;
    }
    g->first = s;
    pthread_mutex_unlock(&g->lock);
    *out = s;
    return MK_OK;
}

void mk_grammar_state_destroy(mk_grammar_state *s) {
    if (s == NULL) {
        return;
    }
    pthread_mutex_lock(&s->g->lock);
    if (s->prev != NULL) {
        s->prev->next = s->next;
    } else {
        s->g->first = s->next;
    }
    if (s->next != NULL) {
        s->next->prev = s->prev;
    }
    pthread_mutex_unlock(&s->g->lock);
    mk_grammar_unref(s->g);
    mk_token_trie_unref(s->trie);
    mk_free(s->at);
    mk_free(s);
}

static mk_status compact(mk_grammar *g) {
    size_t n = 0;
    for (const mk_grammar_state *s = g->first; s != NULL; s = s->next) {
        n++;
    }
    uint32_t **keep = mk_try_alloc(n + 1, sizeof(*keep));
    size_t *n_keep = mk_try_alloc(n + 1, sizeof(*n_keep)), i = 0;
    mk_status st = MK_ENOMEM;
    if (keep != NULL && n_keep != NULL) {
        for (mk_grammar_state *s = g->first; s != NULL; s = s->next, i++) {
            keep[i] = s->at;
            n_keep[i] = s->n_at;
        }
        st = mk_gmachine_compact(&g->m, keep, n_keep, n);
    }
    mk_free(keep);
    mk_free(n_keep);
    g->kept_bytes = mk_gmachine_bytes(&g->m);
    return st;
}

// Takes the lock and cuts the tables back if they have grown.  A failure of an answer before this
// one is not this one's.
static mk_status enter(mk_grammar *g) {
    pthread_mutex_lock(&g->lock);
    mk_status before = g->m.failed, st = MK_OK;
    g->m.failed = MK_OK;
    g->m.work_left = MK_G_MAX_WORK;
    if (g->m.mask_bytes > SOFT_MASK_BYTES) {
        mk_gmask_clear(&g->m);
    }
    // twice what had to be kept, so that compacting stays rare however much that is
    size_t bytes = mk_gmachine_bytes(&g->m) - g->m.mask_bytes;
    if (before != MK_OK || bytes > SOFT_TABLE_BYTES + 2 * g->kept_bytes) {
        st = compact(g);
    }
    if (st != MK_OK) {
        pthread_mutex_unlock(&g->lock);
    }
    return st;
}

static mk_status failed(mk_status st, mk_err *err) {
    if (st == MK_ELIMIT) {
        return MK_FAIL(err, st,
                       "the answer may stand at too many places of its grammar at once; make it "
                       "less ambiguous");
    }
    return MK_FAIL(err, st, "no memory for the tables of a grammar");
}

mk_status mk_grammar_mask(mk_grammar_state *s, uint64_t *mask, int64_t n_vocab, mk_err *err) {
    const mk_token_trie *t = s->trie;
    MK_ASSERT(t != NULL && n_vocab >= 0);
    size_t n_words = ((size_t)n_vocab + 63) / 64;
    uint64_t *bits = mk_try_alloc(t->n_words + 1, sizeof(*bits));
    if (bits == NULL || enter(s->g) != MK_OK) {
        mk_free(bits);
        return failed(MK_ENOMEM, err);
    }
    uint32_t at = s->at[s->n_at - 1];
    mk_status st = mk_gmask_get(&s->g->m, s->trie, at, bits);
    bool accept = s->g->m.states.e[at].accept != 0;
    pthread_mutex_unlock(&s->g->lock);
    for (int64_t i = 0; i < t->end_ids.n && accept; i++) {
        bits[t->end_ids.data[i] / 64] |= UINT64_C(1) << (t->end_ids.data[i] % 64);
    }
    for (size_t i = 0; i < n_words && st == MK_OK; i++) {
        mask[i] &= i < t->n_words ? bits[i] : 0;
    }
    mk_free(bits);
    return st == MK_OK ? MK_OK : failed(st, err);
}

// Puts a new position behind the last.
static bool add_position(mk_grammar_state *s, uint32_t state) {
    if (!mk_g_grow((void **)&s->at, &s->cap_at, s->n_at, sizeof(*s->at))) {
        return false;
    }
    s->at[s->n_at++] = state;
    return true;
}

// The state after the bytes; *n_done: how many were taken.
static uint32_t run(mk_gmachine *m, uint32_t at, const char *p, size_t n, size_t *n_done) {
    size_t i = 0;
    for (; i < n; i++) {
        uint32_t next = mk_gmachine_step(m, at, m->prog->class_of[(uint8_t)p[i]]);
        if (next == MK_GS_DEAD) {
            break;
        }
        at = next;
    }
    *n_done = i;
    return at;
}

mk_status mk_grammar_feed(mk_grammar_state *s, const char *p, size_t n, mk_err *err) {
    mk_status st = enter(s->g);
    if (st != MK_OK) {
        return failed(st, err);
    }
    size_t n_done;
    uint32_t to = run(&s->g->m, s->at[s->n_at - 1], p, n, &n_done);
    st = s->g->m.failed;
    bool ok = st == MK_OK && n_done == n && add_position(s, to);
    pthread_mutex_unlock(&s->g->lock);
    if (ok) {
        return MK_OK;
    }
    if (st != MK_OK || n_done == n) {
        return failed(st != MK_OK ? st : MK_ENOMEM, err);
    }
    return MK_FAIL(err, MK_EUSAGE, "the grammar does not allow byte %zu (0x%02x) of the text",
                   n_done, (unsigned)(uint8_t)p[n_done]);
}

static bool ends_answer(const mk_token_trie *t, int32_t id) {
    for (int64_t i = 0; i < t->end_ids.n; i++) {
        if (t->end_ids.data[i] == id) {
            return true;
        }
    }
    return false;
}

mk_status mk_grammar_accept(mk_grammar_state *s, int32_t id, mk_err *err) {
    const mk_token_trie *t = s->trie;
    MK_ASSERT(t != NULL);
    if (id < 0 || id >= t->n_vocab) {
        return MK_FAIL(err, MK_EUSAGE, "token %d: expected one of 0..%lld", (int)id,
                       (long long)t->n_vocab - 1);
    }
    if (ends_answer(t, id)) {
        if (!mk_grammar_can_end(s)) {
            return MK_FAIL(err, MK_EUSAGE, "token %d ends the answer before it is complete",
                           (int)id);
        }
        return mk_grammar_feed(s, "", 0, err);
    }
    size_t n = t->at[id + 1] - t->at[id];
    if (n == 0) {
        return MK_FAIL(err, MK_EUSAGE, "token %d is no text", (int)id);
    }
    return mk_grammar_feed(s, t->bytes + t->at[id], n, err);
}

bool mk_grammar_can_end(mk_grammar_state *s) {
    pthread_mutex_lock(&s->g->lock);
    bool accept = s->g->m.states.e[s->at[s->n_at - 1]].accept != 0;
    pthread_mutex_unlock(&s->g->lock);
    return accept;
}

bool mk_grammar_must_end(mk_grammar_state *s) {
    pthread_mutex_lock(&s->g->lock);
    const mk_gset *e = &s->g->m.states.e[s->at[s->n_at - 1]];
    bool end = e->accept != 0 && e->n == 0;
    pthread_mutex_unlock(&s->g->lock);
    return end;
}

// The only byte that the state takes, or -1.
static int only_byte(mk_gmachine *m, uint32_t state, uint32_t *next) {
    int only = -1;
    if (m->states.e[state].accept) {
        return -1;
    }
    for (unsigned c = 0; c < 256; c++) {
        uint32_t to = mk_gmachine_step(m, state, m->prog->class_of[c]);
        if (to != MK_GS_DEAD) {
            if (only >= 0) {
                return -1;
            }
            only = (int)c;
            *next = to;
        }
    }
    return only;
}

size_t mk_grammar_forced(mk_grammar_state *s, char *out, size_t cap) {
    size_t n = 0;
    if (enter(s->g) != MK_OK) {
        return 0;
    }
    uint32_t at = s->at[s->n_at - 1];
    while (n < cap) {
        int c = only_byte(&s->g->m, at, &at);
        if (c < 0) {
            break;
        }
        out[n++] = (char)c;
    }
    pthread_mutex_unlock(&s->g->lock);
    return n;
}

int64_t mk_grammar_pos(const mk_grammar_state *s) {
    return (int64_t)s->n_at - 1;
}

void mk_grammar_rewind(mk_grammar_state *s, int64_t pos) {
    MK_ASSERT(pos >= 0 && (size_t)pos < s->n_at);
    pthread_mutex_lock(&s->g->lock);  // compacting reads the positions of all answers
    s->n_at = (size_t)pos + 1;
    pthread_mutex_unlock(&s->g->lock);
}
