// Ids to text, in streams and whole.
//
// A mk_detok holds at most three bytes back: the beginning of a character whose rest may still
// come.  Bytes that can no longer become a character come out as one U+FFFD per maximal subpart
// (Unicode 15, section 3.9), so cutting the ids of a text in any way gives the same bytes.
#include <string.h>

#include "base/alloc.h"
#include "text/tok_int.h"

struct mk_detok {
    const mk_tokenizer *t;
    bool skip_special;
    bool started;  // something was written: a leading space is no longer the tokenizer's own
    size_t n_held;
    char *in;   // held bytes and the piece behind them
    char *out;  // three bytes for each byte of in
};

mk_detok *mk_detok_create(const mk_tokenizer *t, bool skip_special) {
    mk_detok *d = mk_try_alloc(1, sizeof *d);
    if (!d) {
        return NULL;
    }
    size_t cap = t->v.max_piece + 8;
    d->t = t;
    d->skip_special = skip_special;
    d->in = mk_try_alloc(cap, 1);
    d->out = mk_try_alloc(cap, 3);
    if (!d->in || !d->out) {
        mk_detok_destroy(d);
        return NULL;
    }
    return d;
}

void mk_detok_destroy(mk_detok *d) {
    if (d) {
        mk_free(d->in);
        mk_free(d->out);
        mk_free(d);
    }
}

// Length of the longest start of a character at p (1 for a byte that starts none); *whole if it is
// a complete one.
static size_t subpart(const char *p, size_t n, bool *whole) {
    const unsigned char *b = (const unsigned char *)p;
    size_t need = b[0] < 0x80   ? 0
                  : b[0] < 0xC2 ? 4
                  : b[0] < 0xE0 ? 1
                  : b[0] < 0xF0 ? 2
                  : b[0] < 0xF5 ? 3
                                : 4;
    if (need == 4) {
        *whole = false;
        return 1;
    }
    // the second byte of E0, ED, F0, F4 has a narrower range
    unsigned lo = b[0] == 0xE0 ? 0xA0 : b[0] == 0xF0 ? 0x90 : 0x80;
    unsigned hi = b[0] == 0xED ? 0x9F : b[0] == 0xF4 ? 0x8F : 0xBF;
    size_t i = 1;
    while (i <= need && i < n && b[i] >= lo && b[i] <= hi) {
        i++;
        lo = 0x80;
        hi = 0xBF;
    }
    *whole = i == need + 1;
    return i;
}

static bool starts_only(unsigned char b) {
    return b >= 0xC2 && b < 0xF5;
}

// Writes what is certain of in[0..n); keeps an unfinished end unless `last`.
static size_t write_out(mk_detok *d, size_t n, bool last) {
    size_t i = 0, n_out = 0;
    while (i < n) {
        bool whole;
        size_t k = subpart(d->in + i, n - i, &whole);
        if (!whole && !last && i + k == n && starts_only((unsigned char)d->in[i])) {
            break;
        }
        memcpy(d->out + n_out, whole ? d->in + i : "\xEF\xBF\xBD", whole ? k : 3);
        n_out += whole ? k : 3;
        i += k;
    }
    memmove(d->in, d->in + i, n - i);
    d->n_held = n - i;
    return n_out;
}

void mk_detok_push(mk_detok *d, int32_t id, const char **out, size_t *n) {
    *out = d->out;
    *n = 0;
    mk_token_type type = mk_tokenizer_type(d->t, id);
    bool special = type == MK_TOKEN_CONTROL || type == MK_TOKEN_UNKNOWN;
    size_t n_piece;
    const char *piece = mk_tokenizer_piece(d->t, id, &n_piece);
    if (!piece || n_piece == 0 || (special && d->skip_special)) {
        return;
    }
    if (!d->started && d->t->strip_first_space && !special && piece[0] == ' ') {
        piece++;
        n_piece--;
    }
    d->started = true;
    memcpy(d->in + d->n_held, piece, n_piece);
    *n = write_out(d, d->n_held + n_piece, false);
}

void mk_detok_finish(mk_detok *d, const char **out, size_t *n) {
    *out = d->out;
    *n = write_out(d, d->n_held, true);
}

mk_status mk_tokenizer_decode(const mk_tokenizer *t, const int32_t *ids, int64_t n,
                              mk_decode_opts opts, char **text, size_t *n_text, mk_err *err) {
    *text = NULL;
    *n_text = 0;
    mk_detok *d = mk_detok_create(t, opts.skip_special);
    mk_buf b;
    mk_buf_init(&b, SIZE_MAX / 2);
    const char *p;
    size_t k;
    for (int64_t i = 0; d && i < n && !b.failed; i++) {
        mk_detok_push(d, ids[i], &p, &k);
        mk_buf_add(&b, p, k);
    }
    if (d) {
        mk_detok_finish(d, &p, &k);
        mk_buf_add(&b, p, k);
    }
    mk_buf_add(&b, "", 0);  // an empty text is a string too
    bool ok = d && !b.failed;
    mk_detok_destroy(d);
    *n_text = ok ? b.len : 0;
    *text = ok ? mk_buf_detach(&b) : NULL;
    if (!*text) {
        mk_buf_free(&b);
        return MK_FAIL(err, MK_ENOMEM, "no memory to decode %lld token ids", (long long)n);
    }
    return MK_OK;
}
