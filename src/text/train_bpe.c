// Learning merges: the most frequent pair of neighbours becomes a token, again and again.
//
// Every different word is kept once, as token ids, with its count.  Pairs have a count (how often
// they stand in the texts) and entries in a heap; an entry carries the words in which the pair was
// seen to appear since the entry before.  A merge visits the words of its entry alone and corrects
// the counts of the pairs beside it.
//
// Invariants:
//  1. Between merges every pair of neighbours in a word, with a count above 0, has an entry that
//     lists this word.  An entry may list words where the pair is gone; they are passed over.
//  2. The count of a pair is exact until it is merged.  Then it stands nowhere any more, and its
//     count is not looked at again.
//  3. An entry is stale if the count in it is not that of its pair.  Counts change in both
//     directions, but a rise always makes a new entry, so the top of the heap, once it is not
//     stale, is a most frequent pair.
#include <string.h>

#include "base/alloc.h"
#include "text/train_int.h"

#define NONE UINT32_MAX

typedef struct {
    uint32_t left, right;
    int64_t count;
    uint32_t fresh;  // its entry of this round, or NONE
} pair;

typedef struct {
    int64_t count;
    uint32_t pair, serial;  // serial: in order of making
    uint32_t *word;         // owned
    uint32_t n, cap;
} entry;

typedef struct {
    entry *v;
    size_t n, cap;
} entries;

typedef struct {
    size_t at;  // in ids
    uint32_t n;
} word;

typedef struct {
    const mk_bpe_job *job;
    word *word;
    uint32_t *ids;
    pair *pair;
    size_t n_pair, cap_pair;
    uint32_t *slot;  // open addressing over pairs; number + 1
    size_t n_slot;
    entries heap, fresh;
    uint32_t n_made;  // entries
    uint32_t *merge;  // pairs in order
    uint32_t n_merge;
    size_t cap_merge;
    mk_buf text;
    mk_err *err;
} learner;

// --- pairs ---------------------------------------------------------------------------------------

static mk_status no_memory(learner *l) {
    return MK_FAIL(l->err, MK_ENOMEM, "no memory to learn merges from %zu different words",
                   l->job->word->n);
}

// Room for one more element of elem bytes.
static mk_status reserve(learner *l, void **p, size_t n, size_t *cap, size_t elem) {
    if (n < *cap) {
        return MK_OK;
    }
    size_t more = *cap ? *cap * 2 : 64;
    void *q = mk_try_realloc(*p, more, elem);
    if (!q) {
        return no_memory(l);
    }
    *p = q;
    *cap = more;
    return MK_OK;
}

static size_t pair_slot(const learner *l, uint32_t left, uint32_t right) {
    uint64_t key = (uint64_t)left << 32 | right;
    size_t i = (size_t)(key * UINT64_C(0x9E3779B97F4A7C15) >> 20) & (l->n_slot - 1);
    for (; l->slot[i]; i = (i + 1) & (l->n_slot - 1)) {
        const pair *p = &l->pair[l->slot[i] - 1];
        if (p->left == left && p->right == right) {
            break;
        }
    }
    return i;
}

static mk_status grow_slots(learner *l) {
    size_t n = l->n_slot ? l->n_slot * 2 : 4096;
    uint32_t *slot = mk_try_alloc(n, sizeof *slot);
    if (!slot) {
        return no_memory(l);
    }
    mk_free(l->slot);
    l->slot = slot;
    l->n_slot = n;
    for (size_t i = 0; i < l->n_pair; i++) {
        l->slot[pair_slot(l, l->pair[i].left, l->pair[i].right)] = (uint32_t)i + 1;
    }
    return MK_OK;
}

static mk_status find_pair(learner *l, uint32_t left, uint32_t right, uint32_t *number) {
    if ((l->n_pair + 1) * 2 > l->n_slot) {
        MK_TRY(grow_slots(l));
    }
    size_t i = pair_slot(l, left, right);
    if (!l->slot[i]) {
        MK_TRY(reserve(l, (void **)&l->pair, l->n_pair, &l->cap_pair, sizeof *l->pair));
        if (l->n_pair >= NONE - 1) {
            return no_memory(l);
        }
        l->pair[l->n_pair] = (pair){.left = left, .right = right, .fresh = NONE};
        l->slot[i] = (uint32_t)++l->n_pair;
    }
    *number = l->slot[i] - 1;
    return MK_OK;
}

// --- entries -------------------------------------------------------------------------------------

// Does a come out of the heap before b?
static bool before(const learner *l, const entry *a, const entry *b) {
    const pair *p = &l->pair[a->pair], *q = &l->pair[b->pair];
    return a->count != b->count   ? a->count > b->count
           : p->left != q->left   ? p->left < q->left
           : p->right != q->right ? p->right < q->right
                                  : a->serial < b->serial;
}

static mk_status push(learner *l, entry e) {
    MK_TRY(reserve(l, (void **)&l->heap.v, l->heap.n, &l->heap.cap, sizeof *l->heap.v));
    size_t i = l->heap.n++;
    while (i > 0 && before(l, &e, &l->heap.v[(i - 1) / 2])) {
        l->heap.v[i] = l->heap.v[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    l->heap.v[i] = e;
    return MK_OK;
}

// Puts e at the top, from where it sinks to its place.
static void sink(learner *l, entry e) {
    entry *v = l->heap.v;
    size_t i = 0, n = l->heap.n;
    for (size_t k; (k = 2 * i + 1) < n; i = k) {
        k += k + 1 < n && before(l, &v[k + 1], &v[k]);
        if (!before(l, &v[k], &e)) {
            break;
        }
        v[i] = v[k];
    }
    v[i] = e;
}

static entry pop(learner *l) {
    entry top = l->heap.v[0], last = l->heap.v[--l->heap.n];
    if (l->heap.n > 0) {
        sink(l, last);
    }
    return top;
}

// The pair was seen to appear in word w.  Words come in order within a round.
static mk_status note(learner *l, uint32_t number, uint32_t w) {
    pair *p = &l->pair[number];
    if (p->fresh == NONE) {
        MK_TRY(reserve(l, (void **)&l->fresh.v, l->fresh.n, &l->fresh.cap, sizeof *l->fresh.v));
        p->fresh = (uint32_t)l->fresh.n++;
        l->fresh.v[p->fresh] = (entry){.pair = number};
    }
    entry *e = &l->fresh.v[p->fresh];
    if (e->n > 0 && e->word[e->n - 1] == w) {
        return MK_OK;
    }
    if (e->n == e->cap) {
        uint32_t cap = e->cap ? e->cap * 2 : 4;
        uint32_t *q = mk_try_realloc(e->word, cap, sizeof *q);
        if (!q) {
            return no_memory(l);
        }
        e->word = q;
        e->cap = cap;
    }
    e->word[e->n++] = w;
    return MK_OK;
}

// The end of a round: its entries go into the heap.
static mk_status push_fresh(learner *l) {
    mk_status st = MK_OK;
    for (size_t i = 0; i < l->fresh.n; i++) {
        entry *e = &l->fresh.v[i];
        pair *p = &l->pair[e->pair];
        p->fresh = NONE;
        e->count = p->count;
        e->serial = l->n_made++;
        if (st == MK_OK && e->count > 0) {
            st = push(l, *e);
            e->word = st == MK_OK ? NULL : e->word;
        }
        mk_free(e->word);
        e->word = NULL;
    }
    l->fresh.n = 0;
    return st;
}

// --- merging -------------------------------------------------------------------------------------

static mk_status change(learner *l, uint32_t left, uint32_t right, uint32_t w, int sign) {
    uint32_t number;
    MK_TRY(find_pair(l, left, right, &number));
    l->pair[number].count += sign * l->job->word->s[w].count;
    return sign > 0 ? note(l, number, w) : MK_OK;
}

static mk_status merge_word(learner *l, uint32_t w, uint32_t left, uint32_t right, uint32_t made) {
    uint32_t *v = l->ids + l->word[w].at, n = l->word[w].n, k = 0;
    for (uint32_t i = 0; i < n; i++) {
        if (v[i] != left || i + 1 >= n || v[i + 1] != right) {
            v[k++] = v[i];
            continue;
        }
        i++;
        if (k > 0) {
            MK_TRY(change(l, v[k - 1], left, w, -1));
            MK_TRY(change(l, v[k - 1], made, w, 1));
        }
        v[k++] = made;
        if (i + 1 < n) {
            MK_TRY(change(l, right, v[i + 1], w, -1));
            MK_TRY(change(l, made, v[i + 1], w, 1));
        }
    }
    l->word[w].n = k;
    return MK_OK;
}

// The token that the pair makes.
static mk_status make_token(learner *l, const pair *p, uint32_t *made) {
    size_t n, number;
    mk_buf_clear(&l->text);
    const char *s = mk_strtab_get(l->job->token, p->left, &n);
    mk_buf_add(&l->text, s, n);
    s = mk_strtab_get(l->job->token, p->right, &n);
    mk_buf_add(&l->text, s, n);
    if (l->text.failed) {
        return no_memory(l);
    }
    MK_TRY(mk_strtab_put(l->job->token, l->text.data, l->text.len, &number, l->err));
    *made = (uint32_t)number;
    return MK_OK;
}

static mk_status merge(learner *l, const entry *e) {
    const pair p = l->pair[e->pair];
    uint32_t made = 0;
    MK_TRY(make_token(l, &p, &made));
    MK_TRY(reserve(l, (void **)&l->merge, l->n_merge, &l->cap_merge, sizeof *l->merge));
    l->merge[l->n_merge++] = e->pair;
    for (uint32_t i = 0; i < e->n; i++) {
        MK_TRY(merge_word(l, e->word[i], p.left, p.right, made));
    }
    return push_fresh(l);
}

static mk_status run(learner *l) {
    const mk_bpe_job *job = l->job;
    size_t begin = job->token->n;
    while (job->token->n < job->n_token && l->heap.n > 0) {
        entry e = pop(l);
        int64_t count = l->pair[e.pair].count;
        if (count != e.count) {
            e.count = count;
            mk_status st = push(l, e);
            if (st != MK_OK) {
                mk_free(e.word);
                return st;
            }
            continue;
        }
        bool rare = count < 1 || count < job->min_count;
        mk_status st = rare ? MK_OK : merge(l, &e);
        mk_free(e.word);
        if (rare || st != MK_OK) {
            return st;
        }
        if (job->progress && l->n_merge % 64 == 0) {
            job->progress(job->arg, job->token->n - begin, job->n_token - begin);
        }
    }
    return MK_OK;
}

// --- start and end -------------------------------------------------------------------------------

// Words as ids of their bytes.
static mk_status spell_words(learner *l) {
    const mk_strtab *t = l->job->word;
    uint32_t id[256];
    for (int b = 0; b < 256; b++) {
        char c = (char)b;
        size_t number = mk_strtab_find(l->job->token, &c, 1);
        MK_ASSERT(number != SIZE_MAX);
        id[b] = (uint32_t)number;
    }
    l->word = mk_try_alloc(t->n, sizeof *l->word);
    l->ids = mk_try_alloc(t->n_bytes, sizeof *l->ids);
    if (!l->word || !l->ids) {
        return no_memory(l);
    }
    for (size_t w = 0; w < t->n; w++) {
        l->word[w] = (word){t->s[w].at, t->s[w].n};
    }
    for (size_t i = 0; i < t->n_bytes; i++) {
        l->ids[i] = id[(unsigned char)t->bytes[i]];
    }
    return MK_OK;
}

static mk_status count_pairs(learner *l) {
    for (size_t w = 0; w < l->job->word->n; w++) {
        const uint32_t *v = l->ids + l->word[w].at;
        for (uint32_t i = 0; i + 1 < l->word[w].n; i++) {
            MK_TRY(change(l, v[i], v[i + 1], (uint32_t)w, 1));
        }
    }
    return push_fresh(l);
}

static mk_status list_merges(const learner *l, mk_tok_merges *out) {
    out->v = mk_try_alloc(l->n_merge + (size_t)1, sizeof *out->v);
    if (!out->v) {
        return MK_FAIL(l->err, MK_ENOMEM, "no memory for %u merges", l->n_merge);
    }
    for (uint32_t i = 0; i < l->n_merge; i++) {
        const pair *p = &l->pair[l->merge[i]];
        out->v[out->n++] = (mk_tok_pair){p->left, p->right};
    }
    return MK_OK;
}

static void free_entries(entries *e) {
    for (size_t i = 0; i < e->n; i++) {
        mk_free(e->v[i].word);
    }
    mk_free(e->v);
}

mk_status mk_bpe_learn(const mk_bpe_job *job, mk_tok_merges *out, mk_err *err) {
    learner l = {.job = job, .err = err};
    mk_buf_init(&l.text, 1 << 20);
    mk_status st = spell_words(&l);
    st = st == MK_OK ? count_pairs(&l) : st;
    st = st == MK_OK ? run(&l) : st;
    st = st == MK_OK ? list_merges(&l, out) : st;
    free_entries(&l.heap);
    free_entries(&l.fresh);
    mk_free(l.word);
    mk_free(l.ids);
    mk_free(l.pair);
    mk_free(l.slot);
    mk_free(l.merge);
    mk_buf_free(&l.text);
    return st;
}
