// The vocabulary: texts, decoded pieces, types, scores, and the hash over them.
#include <string.h>

#include "base/alloc.h"
#include "base/ascii.h"
#include "base/mathx.h"
#include "text/tok_int.h"

int mk_byte_of_cp(uint32_t cp) {
    if ((cp >= 33 && cp <= 126) || (cp >= 161 && cp <= 255 && cp != 173)) {
        return (int)cp;
    }
    if (cp >= 256 && cp <= 288) {
        return (int)cp - 256;
    }
    if (cp >= 289 && cp <= 322) {
        return (int)cp - 289 + 127;
    }
    return cp == 323 ? 173 : -1;
}

uint32_t mk_cp_of_byte(unsigned b) {
    if (b <= 32) {
        return 256 + b;
    }
    if (b >= 127 && b <= 160) {
        return 289 + b - 127;
    }
    return b == 173 ? 323 : b;
}

bool mk_bytes_of_text(const char *text, size_t n, char *out, size_t *n_out) {
    size_t k = 0;
    for (size_t i = 0; i < n;) {
        uint32_t cp;
        int len = mk_utf8_decode(text + i, n - i, &cp);
        int b = len > 0 ? mk_byte_of_cp(cp) : -1;
        if (b < 0) {
            return false;
        }
        out[k++] = (char)b;
        i += (size_t)len;
    }
    *n_out = k;
    return true;
}

mk_status mk_vocab_init(mk_vocab *v, int64_t n, size_t n_bytes_hint, mk_err *err) {
    memset(v, 0, sizeof *v);
    if (n <= 0 || n > MK_MAX_VOCAB) {
        return MK_FAIL(err, MK_ECORRUPT, "vocabulary has %lld tokens, expected 1 to %d",
                       (long long)n, MK_MAX_VOCAB);
    }
    v->e = mk_try_alloc((size_t)n, sizeof *v->e);
    v->cap_bytes = n_bytes_hint + 16;
    v->bytes = mk_try_alloc(v->cap_bytes, 1);
    v->n = n;
    if (!v->e || !v->bytes) {
        return MK_FAIL(err, MK_ENOMEM, "no memory for a vocabulary of %lld tokens", (long long)n);
    }
    return MK_OK;
}

void mk_vocab_free(mk_vocab *v) {
    mk_free(v->e);
    mk_free(v->bytes);
    mk_free(v->slot);
    memset(v, 0, sizeof *v);
}

static mk_status store(mk_vocab *v, const char *p, size_t n, uint32_t *at, mk_err *err) {
    if (n > UINT32_MAX / 2 || v->n_bytes > UINT32_MAX - 16 - n) {
        return MK_FAIL(err, MK_ECORRUPT, "texts of the vocabulary take more than 4 GiB");
    }
    if (v->n_bytes + n + 1 > v->cap_bytes) {
        size_t cap = v->cap_bytes * 2 > v->n_bytes + n + 1 ? v->cap_bytes * 2 : v->n_bytes + n + 1;
        char *q = mk_try_realloc(v->bytes, cap, 1);
        if (!q) {
            return MK_FAIL(err, MK_ENOMEM, "no memory for the texts of the vocabulary");
        }
        v->bytes = q;
        v->cap_bytes = cap;
    }
    *at = (uint32_t)v->n_bytes;
    if (n > 0) {
        memcpy(v->bytes + v->n_bytes, p, n);
    }
    v->n_bytes += n;
    return MK_OK;
}

mk_status mk_vocab_set(mk_vocab *v, int32_t id, const char *text, size_t n, mk_token_type type,
                       double score, mk_err *err) {
    MK_ASSERT(id >= 0 && id < v->n);
    mk_vocab_entry *e = &v->e[id];
    MK_TRY(store(v, text, n, &e->text, err));
    e->n_text = (uint32_t)n;
    e->type = (uint8_t)type;
    e->score = score;
    return MK_OK;
}

// "<0x0A>" -> 10, else -1.
static int byte_token(const char *p, size_t n) {
    if (n != 6 || memcmp(p, "<0x", 3) != 0 || p[5] != '>') {
        return -1;
    }
    int high = mk_hex_digit(p[3]), low = mk_hex_digit(p[4]);
    return high >= 0 && low >= 0 ? high * 16 + low : -1;
}

static const char meta[] = "\xE2\x96\x81";  // U+2581

// "▁" as a space; out has room for n.
static size_t without_meta(const char *p, size_t n, char *out) {
    size_t k = 0;
    for (size_t i = 0; i < n;) {
        if (n - i >= 3 && memcmp(p + i, meta, 3) == 0) {
            out[k++] = ' ';
            i += 3;
        } else {
            out[k++] = p[i++];
        }
    }
    return k;
}

// Fills e->piece; scratch has room for the longest text.
static mk_status make_piece(mk_vocab *v, mk_vocab_entry *e, char *scratch, mk_err *err) {
    const char *text = v->bytes + e->text;
    size_t n = e->n_text;
    e->piece = e->text;
    e->n_piece = e->n_text;
    int b = byte_token(text, n);
    if (e->type == MK_TOKEN_BYTE && b >= 0) {
        scratch[0] = (char)b;
        n = 1;
    } else if (v->mode == MK_PIECE_BYTE_LEVEL &&
               (e->type == MK_TOKEN_NORMAL || e->type == MK_TOKEN_UNUSED)) {
        if (!mk_bytes_of_text(text, n, scratch, &n)) {
            return MK_OK;
        }
    } else if (v->mode == MK_PIECE_META && e->type != MK_TOKEN_CONTROL) {
        n = without_meta(text, n, scratch);
    } else {
        return MK_OK;
    }
    if (n == e->n_text && memcmp(scratch, text, n) == 0) {
        return MK_OK;
    }
    e->n_piece = (uint32_t)n;
    return store(v, scratch, n, &e->piece, err);
}

static const char *key_of(const mk_vocab *v, int32_t id, size_t *n) {
    const mk_vocab_entry *e = &v->e[id];
    bool piece = v->mode == MK_PIECE_BYTE_LEVEL;
    *n = piece ? e->n_piece : e->n_text;
    return v->bytes + (piece ? e->piece : e->text);
}

static unsigned group(uint8_t type) {
    return (MK_TYPES_TEXT >> type) & 1;
}

// Same key in the same group (text or not): the later id wins, as in the makers' dictionaries.
static void insert(mk_vocab *v, int32_t id) {
    size_t n, m;
    const char *key = key_of(v, id, &n);
    uint64_t h = mk_hash64(key, n, 0);
    uint32_t tag = (uint32_t)(h >> 32), mask = v->n_slot - 1, at = (uint32_t)h & mask;
    for (; v->slot[at].id >= 0; at = (at + 1) & mask) {
        if (v->slot[at].hash != tag) {
            continue;
        }
        const char *other = key_of(v, v->slot[at].id, &m);
        if (m == n && memcmp(other, key, n) == 0 &&
            group(v->e[v->slot[at].id].type) == group(v->e[id].type)) {
            break;
        }
    }
    v->has_twins = v->has_twins || v->slot[at].id >= 0;
    v->slot[at] = (mk_vocab_slot){tag, id};
}

mk_status mk_vocab_finish(mk_vocab *v, mk_piece_mode mode, mk_err *err) {
    v->mode = mode;
    uint32_t longest = 1;
    for (int64_t i = 0; i < v->n; i++) {
        longest = v->e[i].n_text > longest ? v->e[i].n_text : longest;
    }
    uint32_t n_slot = 16;
    while (n_slot < 2 * (uint64_t)v->n) {
        n_slot *= 2;
    }
    char *scratch = mk_try_alloc(longest, 1);
    v->slot = mk_try_alloc(n_slot, sizeof *v->slot);
    v->n_slot = n_slot;
    mk_status st = scratch && v->slot
                       ? MK_OK
                       : MK_FAIL(err, MK_ENOMEM, "no memory for the index of the vocabulary");
    if (v->slot) {
        memset(v->slot, 0xFF, (size_t)n_slot * sizeof *v->slot);
    }
    for (int64_t i = 0; st == MK_OK && i < v->n; i++) {
        mk_vocab_entry *e = &v->e[i];
        if (e->type == 0) {
            continue;
        }
        st = make_piece(v, e, scratch, err);
        size_t n_key;
        key_of(v, (int32_t)i, &n_key);
        v->max_piece = e->n_piece > v->max_piece ? e->n_piece : v->max_piece;
        v->max_key = n_key > v->max_key ? n_key : v->max_key;
        if (st == MK_OK) {
            insert(v, (int32_t)i);
        }
    }
    mk_free(scratch);
    return st;
}

int32_t mk_vocab_find(const mk_vocab *v, const char *key, size_t n, unsigned types) {
    if (v->n_slot == 0 || n > v->max_key) {
        return -1;
    }
    uint64_t h = mk_hash64(key, n, 0);
    uint32_t tag = (uint32_t)(h >> 32), mask = v->n_slot - 1;
    int32_t found = -1;
    for (uint32_t at = (uint32_t)h & mask; v->slot[at].id >= 0; at = (at + 1) & mask) {
        if (v->slot[at].hash != tag) {
            continue;
        }
        int32_t id = v->slot[at].id;
        size_t m;
        const char *other = key_of(v, id, &m);
        if (m == n && memcmp(other, key, n) == 0 && (types >> v->e[id].type) & 1) {
            found = id > found ? id : found;
        }
    }
    return found;
}

int32_t mk_vocab_find_near(const mk_vocab *v, const char *key, size_t n, int32_t guess) {
    if (guess >= 0 && guess < v->n && !v->has_twins && v->e[guess].type > 0 &&
        (MK_TYPES_TEXT >> v->e[guess].type) & 1) {
        size_t m;
        const char *other = key_of(v, guess, &m);
        if (m == n && memcmp(other, key, n) == 0) {
            return guess;
        }
    }
    return mk_vocab_find(v, key, n, MK_TYPES_TEXT);
}

static bool text_is(const mk_vocab *v, int32_t id, const char *text, size_t n) {
    return id >= 0 && v->e[id].n_text == n && memcmp(v->bytes + v->e[id].text, text, n) == 0;
}

int32_t mk_vocab_find_text(const mk_vocab *v, const char *text, size_t n) {
    int32_t id = mk_vocab_find(v, text, n, MK_TYPES_ALL);
    if (text_is(v, id, text, n)) {
        return id;
    }
    char small[256];
    char *buf = n <= sizeof small ? small : mk_try_alloc(n, 1);
    size_t k;
    if (buf && mk_bytes_of_text(text, n, buf, &k)) {
        id = mk_vocab_find(v, buf, k, MK_TYPES_TEXT | (1u << MK_TOKEN_UNUSED));
    }
    if (buf != small) {
        mk_free(buf);
    }
    return text_is(v, id, text, n) ? id : -1;
}
