// Byte-pair encoding over ids, and merging by score as SentencePiece does.
//
// Both merge the best adjacent pair again and again: BPE the pair with the lowest rank,
// SentencePiece the pair whose concatenation has the highest score; ties go to the left.  Short
// pieces scan an array; long ones use a heap over a linked list, so the cost is O(n log n) whatever
// the text.
#include <string.h>

#include "base/alloc.h"
#include "base/mathx.h"
#include "text/tok_int.h"

#define SHORT_MAX  24
#define CACHE_SLOT 4096
#define CACHE_TEXT 22
#define CACHE_IDS  5

// Results of pieces already seen in this call: natural text repeats its words.
struct mk_enc_cache {
    struct {
        int32_t ids[CACHE_IDS];
        uint8_t n_ids, n;  // n 0 = empty
        char text[CACHE_TEXT];
    } slot[CACHE_SLOT];
};

// --- merges -------------------------------------------------------------------------------------
mk_status mk_merges_init(mk_merges *m, int64_t n, mk_err *err) {
    memset(m, 0, sizeof *m);
    if (n < 0 || n > MK_MAX_VOCAB) {
        return MK_FAIL(err, MK_ECORRUPT, "tokenizer has %lld merges, expected at most %d",
                       (long long)n, MK_MAX_VOCAB);
    }
    uint32_t n_slot = 16;
    while (n_slot < 2 * (uint64_t)n) {
        n_slot *= 2;
    }
    m->slot = mk_try_alloc(n_slot, sizeof *m->slot);
    if (!m->slot) {
        return MK_FAIL(err, MK_ENOMEM, "no memory for %lld merges", (long long)n);
    }
    for (uint32_t i = 0; i < n_slot; i++) {
        m->slot[i].left = -1;
    }
    m->n_slot = n_slot;
    return MK_OK;
}

static uint32_t pair_hash(int32_t left, int32_t right) {
    uint64_t k = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    k *= 0x9E3779B97F4A7C15u;
    return (uint32_t)(k >> 32);
}

void mk_merges_add(mk_merges *m, int32_t left, int32_t right, int32_t rank, int32_t id,
                   bool keep_first) {
    uint32_t mask = m->n_slot - 1, at = pair_hash(left, right) & mask;
    while (m->slot[at].left >= 0 && !(m->slot[at].left == left && m->slot[at].right == right)) {
        at = (at + 1) & mask;
    }
    if (m->slot[at].left >= 0 && keep_first) {
        return;
    }
    m->n += m->slot[at].left < 0;
    m->slot[at] = (mk_merge){left, right, rank, id};
}

static const mk_merge *merge_of(const mk_merges *m, int32_t left, int32_t right) {
    if (m->n_slot == 0 || left < 0 || right < 0) {
        return NULL;
    }
    uint32_t mask = m->n_slot - 1;
    for (uint32_t at = pair_hash(left, right) & mask; m->slot[at].left >= 0; at = (at + 1) & mask) {
        if (m->slot[at].left == left && m->slot[at].right == right) {
            return &m->slot[at];
        }
    }
    return NULL;
}

// --- scratch and heap ---------------------------------------------------------------------------
mk_status mk_enc_grow(mk_enc *c, void **p, size_t *cap, size_t need, size_t elem) {
    if (need <= *cap) {
        return MK_OK;
    }
    size_t n = need + need / 2 + 64;
    void *q = mk_try_realloc(*p, n, elem);
    if (!q) {
        return MK_FAIL(c->err, MK_ENOMEM, "no memory to encode a text piece of %zu bytes", need);
    }
    *p = q;
    *cap = n;
    return MK_OK;
}

static bool before(const mk_cand *a, const mk_cand *b) {
    return a->key < b->key || (a->key == b->key && a->at < b->at);
}

mk_status mk_heap_push(mk_enc *c, mk_cand x) {
    MK_TRY(mk_enc_grow(c, (void **)&c->heap, &c->cap_heap, c->n_heap + 1, sizeof *c->heap));
    size_t i = c->n_heap++;
    for (; i > 0 && before(&x, &c->heap[(i - 1) / 2]); i = (i - 1) / 2) {
        c->heap[i] = c->heap[(i - 1) / 2];
    }
    c->heap[i] = x;
    return MK_OK;
}

mk_cand mk_heap_pop(mk_enc *c) {
    mk_cand top = c->heap[0], x = c->heap[--c->n_heap];
    size_t i = 0, n = c->n_heap;
    for (size_t k; (k = 2 * i + 1) < n; i = k) {
        k += k + 1 < n && before(&c->heap[k + 1], &c->heap[k]);
        if (!before(&c->heap[k], &x)) {
            break;
        }
        c->heap[i] = c->heap[k];
    }
    c->heap[i] = x;
    return top;
}

// --- from bytes to symbols ----------------------------------------------------------------------
mk_status mk_fallback(mk_enc *c, const char *p, size_t n, bool *was_unk) {
    const mk_tokenizer *t = c->t;
    bool bytes = t->byte_fallback;
    for (size_t i = 0; bytes && i < n; i++) {
        bytes = t->byte_id[(unsigned char)p[i]] >= 0;
    }
    for (size_t i = 0; bytes && i < n; i++) {
        MK_TRY(mk_ids_push(c->ids, t->byte_id[(unsigned char)p[i]], c->err));
    }
    if (!bytes && t->unk >= 0 && !(t->fuse_unk && *was_unk)) {
        MK_TRY(mk_ids_push(c->ids, t->unk, c->err));
    }
    *was_unk = !bytes;
    return MK_OK;
}

// Symbols of a vocabulary of characters, with byte fallback.  Goes through c->ids, whose tail is
// taken off again.
static mk_status char_symbols(mk_enc *c, const char *p, size_t n, size_t *n_sym) {
    const mk_tokenizer *t = c->t;
    int64_t mark = c->ids->n;
    bool was_unk = false;
    for (size_t i = 0, k; i < n; i += k) {
        uint32_t cp;
        k = mk_uc_step(p + i, n - i, &cp);
        int32_t id = mk_vocab_find(&t->v, p + i, k, MK_TYPES_TEXT);
        if (id >= 0) {
            was_unk = false;
            MK_TRY(mk_ids_push(c->ids, id, c->err));
        } else {
            MK_TRY(mk_fallback(c, p + i, k, &was_unk));
        }
    }
    *n_sym = (size_t)(c->ids->n - mark);
    MK_TRY(mk_enc_grow(c, (void **)&c->sym, &c->cap_sym, *n_sym + 1, sizeof *c->sym));
    for (size_t i = 0; i < *n_sym; i++) {
        c->sym[i].id = c->ids->data[mark + (int64_t)i];
    }
    c->ids->n = mark;
    return MK_OK;
}

static mk_status byte_symbols(mk_enc *c, const char *p, size_t n, size_t *n_sym) {
    MK_TRY(mk_enc_grow(c, (void **)&c->sym, &c->cap_sym, n + 1, sizeof *c->sym));
    size_t k = 0;
    for (size_t i = 0; i < n; i++) {
        int32_t id = c->t->byte_id[(unsigned char)p[i]];
        id = id >= 0 ? id : c->t->unk;
        if (id >= 0) {
            c->sym[k++].id = id;
        }
    }
    *n_sym = k;
    return MK_OK;
}

// --- merging by rank ----------------------------------------------------------------------------
static size_t merge_short(const mk_merges *m, mk_sym *s, size_t n) {
    const mk_merge *pair[SHORT_MAX];
    for (size_t i = 0; i + 1 < n; i++) {
        pair[i] = merge_of(m, s[i].id, s[i + 1].id);
    }
    for (;;) {
        size_t best = n;
        for (size_t i = 0; i + 1 < n; i++) {
            if (pair[i] && (best == n || pair[i]->rank < pair[best]->rank)) {
                best = i;
            }
        }
        if (best == n) {
            return n;
        }
        s[best].id = pair[best]->id;
        for (size_t i = best + 1; i + 1 < n; i++) {
            s[i].id = s[i + 1].id;
            pair[i - 1] = pair[i];
        }
        n--;
        if (best > 0) {
            pair[best - 1] = merge_of(m, s[best - 1].id, s[best].id);
        }
        if (best + 1 < n) {
            pair[best] = merge_of(m, s[best].id, s[best + 1].id);
        }
    }
}

static void link_symbols(mk_enc *c, size_t n) {
    for (size_t i = 0; i < n; i++) {
        c->sym[i].prev = (int32_t)i - 1;
        c->sym[i].next = i + 1 < n ? (int32_t)i + 1 : -1;
    }
}

static mk_status push_pair(mk_enc *c, int32_t at) {
    int32_t next = at >= 0 ? c->sym[at].next : -1;
    if (next < 0) {
        return MK_OK;
    }
    const mk_merge *m = merge_of(&c->t->merges, c->sym[at].id, c->sym[next].id);
    if (!m) {
        return MK_OK;
    }
    return mk_heap_push(c, (mk_cand){m->rank, at, m->left, m->right, m->id, 0});
}

// The right symbol of a pair leaves the list.
static void unlink_right(mk_enc *c, int32_t at, int32_t right) {
    c->sym[at].next = c->sym[right].next;
    if (c->sym[right].next >= 0) {
        c->sym[c->sym[right].next].prev = at;
    }
    c->sym[right].id = -1;
}

static mk_status merge_long(mk_enc *c, size_t n, size_t *n_left) {
    link_symbols(c, n);
    c->n_heap = 0;
    for (size_t i = 0; i + 1 < n; i++) {
        MK_TRY(push_pair(c, (int32_t)i));
    }
    while (c->n_heap > 0) {
        mk_cand x = mk_heap_pop(c);
        int32_t right = c->sym[x.at].next;
        // stale if either side changed since the candidate was made
        if (c->sym[x.at].id != x.left || right < 0 || c->sym[right].id != x.right) {
            continue;
        }
        c->sym[x.at].id = x.id;
        unlink_right(c, x.at, right);
        MK_TRY(push_pair(c, c->sym[x.at].prev));
        MK_TRY(push_pair(c, x.at));
    }
    size_t k = 0;
    for (size_t i = 0; i < n; i++) {
        if (c->sym[i].id >= 0) {
            c->sym[k++].id = c->sym[i].id;
        }
    }
    *n_left = k;
    return MK_OK;
}

static mk_status bpe_uncached(mk_enc *c, const char *p, size_t n) {
    const mk_tokenizer *t = c->t;
    if (t->ignore_merges) {
        int32_t id = mk_vocab_find(&t->v, p, n, MK_TYPES_TEXT);
        if (id >= 0) {
            return mk_ids_push(c->ids, id, c->err);
        }
    }
    size_t n_sym;
    if (t->v.mode == MK_PIECE_BYTE_LEVEL) {
        MK_TRY(byte_symbols(c, p, n, &n_sym));
    } else {
        MK_TRY(char_symbols(c, p, n, &n_sym));
    }
    if (n_sym > SHORT_MAX) {
        MK_TRY(merge_long(c, n_sym, &n_sym));
    } else if (n_sym > 1) {
        n_sym = merge_short(&t->merges, c->sym, n_sym);
    }
    for (size_t i = 0; i < n_sym; i++) {
        MK_TRY(mk_ids_push(c->ids, c->sym[i].id, c->err));
    }
    return MK_OK;
}

typedef mk_status (*piece_fn)(mk_enc *c, const char *p, size_t n);

static mk_status cached(mk_enc *c, const char *p, size_t n, piece_fn fn) {
    if (!c->cache || n > CACHE_TEXT || n < 2) {
        return fn(c, p, n);
    }
    size_t at = mk_hash64(p, n, 0) % CACHE_SLOT;
    uint8_t n_hit = c->cache->slot[at].n;
    if (n_hit == n && memcmp(c->cache->slot[at].text, p, n) == 0) {
        for (int i = 0; i < c->cache->slot[at].n_ids; i++) {
            MK_TRY(mk_ids_push(c->ids, c->cache->slot[at].ids[i], c->err));
        }
        return MK_OK;
    }
    int64_t mark = c->ids->n;
    MK_TRY(fn(c, p, n));
    int64_t k = c->ids->n - mark;
    if (k > 0 && k <= CACHE_IDS) {
        memcpy(c->cache->slot[at].ids, c->ids->data + mark, (size_t)k * sizeof(int32_t));
        memcpy(c->cache->slot[at].text, p, n);
        c->cache->slot[at].n_ids = (uint8_t)k;
        c->cache->slot[at].n = (uint8_t)n;
    }
    return MK_OK;
}

mk_status mk_bpe_piece(mk_enc *c, const char *p, size_t n) {
    return cached(c, p, n, bpe_uncached);
}

size_t mk_enc_cache_bytes(void) {
    return sizeof(mk_enc_cache);
}

// --- merging by score ---------------------------------------------------------------------------
static mk_status push_scored(mk_enc *c, const char *p, int32_t at) {
    int32_t next = at >= 0 ? c->sym[at].next : -1;
    if (next < 0) {
        return MK_OK;
    }
    uint32_t n = c->sym[at].n + c->sym[next].n;
    int32_t id = mk_vocab_find(&c->t->v, p + c->sym[at].at, n, MK_TYPES_TEXT);
    if (id < 0) {
        return MK_OK;
    }
    double key = -c->t->v.e[id].score;
    return mk_heap_push(c,
                        (mk_cand){key, at, (int32_t)c->sym[at].n, (int32_t)c->sym[next].n, id, n});
}

static mk_status spm_merge(mk_enc *c, const char *p) {
    while (c->n_heap > 0) {
        mk_cand x = mk_heap_pop(c);
        int32_t right = c->sym[x.at].next;
        // symbols only grow: equal lengths mean that both sides are what they were
        if ((int32_t)c->sym[x.at].n != x.left || right < 0 || (int32_t)c->sym[right].n != x.right) {
            continue;
        }
        c->sym[x.at].n = x.n;
        c->sym[right].n = 0;
        unlink_right(c, x.at, right);
        MK_TRY(push_scored(c, p, c->sym[x.at].prev));
        MK_TRY(push_scored(c, p, x.at));
    }
    return MK_OK;
}

static mk_status spm_uncached(mk_enc *c, const char *p, size_t n) {
    MK_TRY(mk_enc_grow(c, (void **)&c->sym, &c->cap_sym, n + 1, sizeof *c->sym));
    size_t n_sym = 0;
    for (size_t i = 0, k; i < n; i += k) {
        uint32_t cp;
        k = mk_uc_step(p + i, n - i, &cp);
        c->sym[n_sym++] = (mk_sym){.id = 0, .at = (uint32_t)i, .n = (uint32_t)k};
    }
    link_symbols(c, n_sym);
    c->n_heap = 0;
    for (size_t i = 0; i + 1 < n_sym; i++) {
        MK_TRY(push_scored(c, p, (int32_t)i));
    }
    MK_TRY(spm_merge(c, p));
    bool was_unk = false;
    for (size_t i = 0; i < n_sym; i++) {
        if (c->sym[i].n == 0) {
            continue;
        }
        const char *q = p + c->sym[i].at;
        int32_t id = mk_vocab_find(&c->t->v, q, c->sym[i].n, MK_TYPES_TEXT);
        if (id >= 0) {
            was_unk = false;
            MK_TRY(mk_ids_push(c->ids, id, c->err));
        } else {
            MK_TRY(mk_fallback(c, q, c->sym[i].n, &was_unk));
        }
    }
    return MK_OK;
}

mk_status mk_spm_piece(mk_enc *c, const char *p, size_t n) {
    return cached(c, p, n, spm_uncached);
}
