// Sets of code points as nodes over bytes.
//
// A range of code points becomes sequences of ranges of bytes: it is cut where the length of UTF-8
// changes, and then where a leading byte's followers do not run through all of 80..BF (the classic
// way of lexers).
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"
#include "chat/grammar_int.h"

#define LAST_CP 0x10FFFFu

void mk_cset_free(mk_cset *s) {
    mk_free(s->r);
    *s = (mk_cset){0};
}

void mk_cset_add(mk_gb *b, mk_cset *s, uint32_t lo, uint32_t hi) {
    if (!mk_gb_work(b, 1)) {
        return;
    }
    if (!mk_g_grow((void **)&s->r, &s->cap, s->n, sizeof(*s->r))) {
        MK_GB_FAIL(b, MK_ENOMEM, "no memory for a set of characters");
        return;
    }
    s->r[s->n++] = (mk_crange){lo, hi};
}

static int by_lo(const void *x, const void *y) {
    const mk_crange *a = x, *b = y;
    return (a->lo > b->lo) - (a->lo < b->lo);
}

void mk_cset_sort(mk_cset *s) {
    if (s->n == 0) {
        return;
    }
    qsort(s->r, s->n, sizeof(*s->r), by_lo);
    size_t n = 0;
    for (size_t i = 1; i < s->n; i++) {
        if (s->r[i].lo <= s->r[n].hi + 1) {
            s->r[n].hi = s->r[i].hi > s->r[n].hi ? s->r[i].hi : s->r[n].hi;
        } else {
            s->r[++n] = s->r[i];
        }
    }
    s->n = n + 1;
}

void mk_cset_invert(mk_gb *b, mk_cset *s) {
    mk_cset out = {0};
    uint32_t next = 0;
    for (size_t i = 0; i < s->n; i++) {
        if (s->r[i].lo > next) {
            mk_cset_add(b, &out, next, s->r[i].lo - 1);
        }
        next = s->r[i].hi + 1;
    }
    if (next <= LAST_CP) {
        mk_cset_add(b, &out, next, LAST_CP);
    }
    mk_free(s->r);
    *s = out;
}

void mk_cset_remove(mk_gb *b, mk_cset *s, uint32_t cp) {
    size_t n = s->n;
    for (size_t i = 0; i < n; i++) {
        mk_crange *r = &s->r[i];
        if (cp >= r->lo && cp <= r->hi) {
            uint32_t hi = r->hi;
            // nothing left of it: a surrogate, which no text has
            *r = cp > r->lo ? (mk_crange){r->lo, cp - 1} : (mk_crange){0xD800, 0xD800};
            if (cp < hi) {
                mk_cset_add(b, s, cp + 1, hi);
            }
        }
    }
}

bool mk_cset_has(const mk_cset *s, uint32_t cp) {
    for (size_t i = 0; i < s->n; i++) {
        if (cp >= s->r[i].lo && cp <= s->r[i].hi) {
            return true;
        }
    }
    return false;
}

// lo and hi have the same length in UTF-8.
static void add_same_length(mk_gb *b, mk_gnlist *out, uint32_t lo, uint32_t hi) {
    char a[4], z[4];
    int n = mk_utf8_encode(lo, a);
    mk_utf8_encode(hi, z);
    // Cut until below every byte that differs the followers run through everything.
    for (int i = 1; i < n; i++) {
        uint32_t low = (UINT32_C(1) << (6 * i)) - 1;
        if ((lo & ~low) != (hi & ~low)) {
            if ((lo & low) != 0) {
                add_same_length(b, out, lo, lo | low);
                add_same_length(b, out, (lo | low) + 1, hi);
                return;
            }
            if ((hi & low) != low) {
                add_same_length(b, out, lo, (hi & ~low) - 1);
                add_same_length(b, out, hi & ~low, hi);
                return;
            }
        }
    }
    mk_gn part[4];
    for (int i = 0; i < n; i++) {
        part[i] = mk_gb_range(b, (uint8_t)a[i], (uint8_t)z[i]);
    }
    mk_gnlist_add(b, out, mk_gb_seq(b, part, (size_t)n));
}

static void add_range(mk_gb *b, mk_gnlist *out, uint32_t lo, uint32_t hi) {
    static const mk_crange same[] = {
        {0x80, 0x7FF}, {0x800, 0xD7FF}, {0xE000, 0xFFFF}, {0x10000, LAST_CP}};
    for (size_t i = 0; i < sizeof(same) / sizeof(same[0]); i++) {
        uint32_t from = lo > same[i].lo ? lo : same[i].lo, to = hi < same[i].hi ? hi : same[i].hi;
        if (from <= to) {
            add_same_length(b, out, from, to);
        }
    }
}

static void set_bits(mk_byteset *s, uint32_t lo, uint32_t hi) {
    for (uint32_t c = lo; c <= hi && c < 256; c++) {
        s->bit[c / 64] |= UINT64_C(1) << (c % 64);
    }
}

mk_gn mk_gb_chars(mk_gb *b, mk_cset *s) {
    mk_byteset ascii = {{0}};
    mk_gnlist out = {0};
    bool any = false;
    mk_cset_sort(s);
    for (size_t i = 0; i < s->n; i++) {
        if (s->r[i].lo < 0x80) {
            set_bits(&ascii, s->r[i].lo, s->r[i].hi < 0x80 ? s->r[i].hi : 0x7F);
            any = true;
        }
    }
    if (any) {
        mk_gnlist_add(b, &out, mk_gb_set(b, &ascii));
    }
    for (size_t i = 0; i < s->n && mk_gb_work(b, 1); i++) {
        if (s->r[i].hi >= 0x80) {
            add_range(b, &out, s->r[i].lo, s->r[i].hi < LAST_CP ? s->r[i].hi : LAST_CP);
        }
    }
    return mk_gnlist_alt(b, &out);
}

// How a JSON string writes a character that it cannot hold as it is.
static size_t escape(uint32_t c, char out[8]) {
    static const char named[] = "\"\\\b\f\n\r\t", letter[] = "\"\\bfnrt";
    const char *at = c == 0 ? NULL : memchr(named, (int)c, sizeof(named) - 1);
    if (at != NULL) {
        out[0] = '\\';
        out[1] = letter[at - named];
        return 2;
    }
    static const char hex[] = "0123456789abcdef";
    memcpy(out, "\\u00", 4);
    out[4] = hex[c >> 4];
    out[5] = hex[c & 15];
    return 6;
}

mk_gn mk_gb_json_chars(mk_gb *b, mk_cset *s) {
    char text[34][8];
    mk_gword w[34];
    size_t n = 0;
    mk_cset plain = {0};
    mk_cset_sort(s);
    for (uint32_t c = 1; c < 0x80; c++) {  // no NUL: few readers of JSON bear it
        if ((c < 0x20 || c == '"' || c == '\\') && mk_cset_has(s, c)) {
            size_t len = escape(c, text[n]);
            w[n] = (mk_gword){text[n], len};
            n++;
        }
    }
    static const mk_crange as_is[] = {{0x20, '"' - 1}, {'"' + 1, '\\' - 1}, {'\\' + 1, LAST_CP}};
    for (size_t i = 0; i < s->n; i++) {
        for (size_t k = 0; k < 3; k++) {
            uint32_t lo = s->r[i].lo > as_is[k].lo ? s->r[i].lo : as_is[k].lo;
            uint32_t hi = s->r[i].hi < as_is[k].hi ? s->r[i].hi : as_is[k].hi;
            if (lo <= hi) {
                mk_cset_add(b, &plain, lo, hi);
            }
        }
    }
    mk_gn chars = mk_gb_chars(b, &plain);
    mk_cset_free(&plain);
    if (n == 0) {
        return chars;
    }
    mk_gn escapes = mk_gb_words(b, w, n);
    return chars == MK_GN_NONE ? escapes : mk_gb_alt2(b, chars, escapes);
}
