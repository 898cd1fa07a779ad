// The vocabulary as tries over bytes, for masks; see grammar_int.h for the layout.
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "chat/grammar_int.h"

unsigned mk_g_level_bytes(int level) {
    static const unsigned max[MK_G_LEVELS] = {12, 32, MK_G_MAX_TOKEN};
    return max[level];
}

// A user-defined token that is a mark of the chat format and not text: "<think>", "[INST]".
static bool is_mark(const char *p, size_t n) {
    return n > 2 && ((p[0] == '<' && p[n - 1] == '>') || (p[0] == '[' && p[n - 1] == ']'));
}

// 0xFF is in no UTF-8, so no grammar takes it as text, and tokens that are none can begin with it.
const char *mk_g_token_text(const mk_tokenizer *t, int32_t id, size_t *n) {
    const char *p = mk_tokenizer_piece(t, id, n);
    mk_token_type type = mk_tokenizer_type(t, id);
    bool text = type == MK_TOKEN_NORMAL || type == MK_TOKEN_BYTE ||
                (type == MK_TOKEN_USER_DEFINED && p != NULL && !is_mark(p, *n));
    if (p == NULL || !text || *n > MK_G_MAX_TOKEN || mk_tokenizer_is_eog(t, id) ||
        memchr(p, MK_GRAMMAR_TOKEN, *n) != NULL) {
        *n = 0;
    }
    return p;
}

void mk_grammar_spell_token(int32_t id, char *out) {
    uint32_t v = (uint32_t)id;
    out[0] = (char)MK_GRAMMAR_TOKEN;
    for (int i = 1; i < MK_GRAMMAR_TOKEN_BYTES; i++, v >>= 7) {
        out[i] = (char)(0x80 | (v & 0x7f));
    }
}

int32_t mk_grammar_spelled_token(const char *p) {
    uint32_t v = 0;
    for (int i = MK_GRAMMAR_TOKEN_BYTES - 1; i > 0; i--) {
        v = v << 7 | ((unsigned char)p[i] & 0x7f);
    }
    return (int32_t)v;
}

void mk_grammar_spell(const mk_tokenizer *t, const int32_t *ids, int64_t n, mk_buf *out) {
    for (int64_t i = 0; i < n; i++) {
        size_t len;
        const char *p = mk_g_token_text(t, ids[i], &len);
        char name[MK_GRAMMAR_TOKEN_BYTES];
        if (len == 0) {
            mk_grammar_spell_token(ids[i], name);
            p = name;
            len = sizeof(name);
        }
        mk_buf_add(out, p, len);
    }
}

// What a token is in the trie: its text, or its spelling if a grammar may name it.
static const char *text_of(const mk_tokenizer *t, int32_t id, char name[MK_GRAMMAR_TOKEN_BYTES],
                           size_t *n) {
    const char *p = mk_g_token_text(t, id, n);
    mk_token_type type = mk_tokenizer_type(t, id);
    if (*n == 0 && !mk_tokenizer_is_eog(t, id) &&
        (type == MK_TOKEN_CONTROL || type == MK_TOKEN_USER_DEFINED)) {
        mk_grammar_spell_token(id, name);
        *n = MK_GRAMMAR_TOKEN_BYTES;
        return name;
    }
    return p;
}

// --- building ------------------------------------------------------------------------------------
static int by_bytes(const void *x, const void *y, void *arg) {
    const mk_token_trie *t = arg;
    int32_t a = *(const int32_t *)x, b = *(const int32_t *)y;
    uint32_t na = t->at[a + 1] - t->at[a], nb = t->at[b + 1] - t->at[b];
    int c = memcmp(t->bytes + t->at[a], t->bytes + t->at[b], na < nb ? na : nb);
    if (c != 0) {
        return c;
    }
    return na != nb ? (na < nb ? -1 : 1) : (a > b) - (a < b);
}

static bool alloc_level(mk_gtrie *g, size_t n) {
    g->byte = mk_try_alloc(n, sizeof(*g->byte));
    g->depth = mk_try_alloc(n, sizeof(*g->depth));
    g->end = mk_try_alloc(n, sizeof(*g->end));
    g->id = mk_try_alloc(n, sizeof(*g->id));
    return g->byte != NULL && g->depth != NULL && g->end != NULL && g->id != NULL;
}

static uint32_t shared_bytes(const mk_token_trie *t, int32_t a, int32_t b) {
    uint32_t na = t->at[a + 1] - t->at[a], nb = t->at[b + 1] - t->at[b], k = 0;
    while (k < na && k < nb && t->bytes[t->at[a] + k] == t->bytes[t->at[b] + k]) {
        k++;
    }
    return k;
}

// sorted[0..n): the level's ids by their bytes.  Each adds the nodes that it does not share with
// the one before it.
static bool fill_level(mk_token_trie *t, mk_gtrie *g, const int32_t *sorted, size_t n) {
    size_t n_node = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t len = t->at[sorted[i] + 1] - t->at[sorted[i]];
        n_node += len - (i > 0 ? shared_bytes(t, sorted[i - 1], sorted[i]) : 0);
    }
    if (n_node > UINT32_MAX / 2 || !alloc_level(g, n_node + 1)) {
        return false;
    }
    uint32_t open[MK_G_MAX_TOKEN + 1], depth = 0;  // nodes on the way to the last one
    for (size_t i = 0; i < n; i++) {
        int32_t id = sorted[i];
        uint32_t len = t->at[id + 1] - t->at[id];
        uint32_t shared = i > 0 ? shared_bytes(t, sorted[i - 1], id) : 0;
        for (; depth > shared; depth--) {
            g->end[open[depth]] = g->n;
        }
        for (; depth < len; g->n++) {
            g->byte[g->n] = (uint8_t)t->bytes[t->at[id] + depth];
            g->depth[g->n] = (uint8_t)++depth;
            g->id[g->n] = -1;
            open[depth] = g->n;
        }
        t->twin[id] = g->id[open[depth]];
        g->id[open[depth]] = id;
    }
    for (; depth > 0; depth--) {
        g->end[open[depth]] = g->n;
    }
    return true;
}

static bool fill_levels(mk_token_trie *t) {
    int32_t *ids = mk_try_alloc((size_t)t->n_vocab + 1, sizeof(*ids));
    bool ok = ids != NULL;
    for (int level = 0; level < MK_G_LEVELS && ok; level++) {
        unsigned min = level > 0 ? mk_g_level_bytes(level - 1) + 1 : 1;
        size_t n = 0;
        for (int32_t id = 0; id < t->n_vocab; id++) {
            uint32_t len = t->at[id + 1] - t->at[id];
            if (len >= min && len <= mk_g_level_bytes(level)) {
                ids[n++] = id;
            }
        }
        qsort_r(ids, n, sizeof(*ids), by_bytes, t);
        ok = fill_level(t, &t->level[level], ids, n);
    }
    mk_free(ids);
    return ok;
}

static bool copy_texts(mk_token_trie *t, const mk_tokenizer *tok) {
    size_t total = 0, len;
    char name[MK_GRAMMAR_TOKEN_BYTES];
    for (int32_t id = 0; id < t->n_vocab; id++) {
        text_of(tok, id, name, &len);
        total += len;
    }
    t->bytes = mk_try_alloc(total + 1, 1);
    if (t->bytes == NULL || total > UINT32_MAX) {
        return false;
    }
    for (int32_t id = 0; id < t->n_vocab; id++) {
        const char *p = text_of(tok, id, name, &len);
        if (len > 0) {
            memcpy(t->bytes + t->at[id], p, len);
        }
        t->at[id + 1] = t->at[id] + (uint32_t)len;
    }
    return true;
}

mk_status mk_token_trie_create(const mk_tokenizer *tok, mk_token_trie **out, mk_err *err) {
    mk_token_trie *t = mk_try_alloc(1, sizeof(*t));
    *out = NULL;
    if (t == NULL) {
        return MK_FAIL(err, MK_ENOMEM, "no memory for the trie of a vocabulary");
    }
    atomic_init(&t->n_ref, 1);
    t->n_vocab = mk_tokenizer_n_vocab(tok);
    t->n_words = ((size_t)t->n_vocab + 63) / 64;
    t->at = mk_try_alloc((size_t)t->n_vocab + 1, sizeof(*t->at));
    t->twin = mk_try_alloc((size_t)t->n_vocab + 1, sizeof(*t->twin));
    if (t->at == NULL || t->twin == NULL || !copy_texts(t, tok) || !fill_levels(t) ||
        mk_tokenizer_eog_ids(tok, &t->end_ids, NULL) != MK_OK) {
        mk_token_trie_unref(t);
        return MK_FAIL(err, MK_ENOMEM, "no memory for the trie of a vocabulary");
    }
    *out = t;
    return MK_OK;
}

void mk_token_trie_ref(mk_token_trie *t) {
    atomic_fetch_add(&t->n_ref, 1);
}

void mk_token_trie_unref(mk_token_trie *t) {
    if (t == NULL || atomic_fetch_sub(&t->n_ref, 1) != 1) {
        return;
    }
    for (int l = 0; l < MK_G_LEVELS; l++) {
        mk_free(t->level[l].byte);
        mk_free(t->level[l].depth);
        mk_free(t->level[l].end);
        mk_free(t->level[l].id);
    }
    mk_free(t->twin);
    mk_free(t->bytes);
    mk_free(t->at);
    mk_ids_free(&t->end_ids);
    mk_free(t);
}
