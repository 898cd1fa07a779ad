// Normalisers: each step rewrites the text from one buffer to the other.
//
// Canonical forms use utf8proc's decomposition and composition of single characters; the ordering
// of marks is our own counting sort, because utf8proc sorts by swapping neighbours, which is
// quadratic for hostile runs of marks. Bytes that are not valid UTF-8 pass through every step
// unchanged.
#include <string.h>
#include <utf8proc.h>

#include "base/alloc.h"
#include "text/tok_int.h"

typedef struct {
    int32_t *cp;
    size_t n, cap;
    bool failed;
} cps;

static void cps_add(cps *s, const int32_t *v, size_t n) {
    if (s->n + n > s->cap) {
        size_t cap = (s->n + n) * 2 + 64;
        int32_t *q = s->failed ? NULL : mk_try_realloc(s->cp, cap, sizeof *q);
        if (!q) {
            s->failed = true;
            return;
        }
        s->cp = q;
        s->cap = cap;
    }
    memcpy(s->cp + s->n, v, n * sizeof *v);
    s->n += n;
}

// --- canonical forms -----------------------------------------------------------------------------
static unsigned ccc(int32_t cp) {
    return (unsigned)utf8proc_get_property(cp)->combining_class & 255u;
}

// Stable sort of a run of marks by combining class; tmp has room for n.
static void order_run(int32_t *v, size_t n, int32_t *tmp) {
    size_t count[257] = {0};
    for (size_t i = 0; i < n; i++) {
        count[ccc(v[i]) + 1]++;
    }
    for (size_t i = 1; i < 257; i++) {
        count[i] += count[i - 1];
    }
    for (size_t i = 0; i < n; i++) {
        tmp[count[ccc(v[i])]++] = v[i];
    }
    memcpy(v, tmp, n * sizeof *v);
}

static void order_marks(cps *s) {
    int32_t *tmp = NULL;
    size_t cap = 0;
    for (size_t i = 0; i < s->n && !s->failed;) {
        size_t j = i;
        while (j < s->n && ccc(s->cp[j]) != 0) {
            j++;
        }
        if (j - i > 1) {
            if (j - i > cap) {
                cap = j - i;
                mk_free(tmp);
                tmp = mk_try_alloc(cap, sizeof *tmp);
                s->failed = !tmp;
            }
            if (tmp) {
                order_run(s->cp + i, j - i, tmp);
            }
        }
        i = j + (j == i);
    }
    mk_free(tmp);
}

// True if no character of a composed form can change: below the first mark, Cyrillic, CJK and
// Hangul syllables.
static bool stays(uint32_t cp) {
    return cp < 0x300 || (cp >= 0x400 && cp < 0x483) || (cp >= 0x4E00 && cp <= 0x9FFF) ||
           (cp >= 0xAC00 && cp <= 0xD7A3);
}

static void write_cps(const int32_t *v, size_t n, mk_buf *out) {
    for (size_t i = 0; i < n; i++) {
        mk_buf_utf8(out, (uint32_t)v[i]);
    }
}

// One stretch of valid text.
static void form_stretch(cps *s, const char *p, size_t n, mk_norm_kind kind, mk_buf *out) {
    bool compat = kind == MK_NORM_NFKC || kind == MK_NORM_NFKD;
    bool compose = kind == MK_NORM_NFC || kind == MK_NORM_NFKC;
    utf8proc_option_t opt =
        (utf8proc_option_t)(UTF8PROC_DECOMPOSE | (compat ? UTF8PROC_COMPAT : 0));
    s->n = 0;
    for (size_t i = 0; i < n;) {
        uint32_t cp;
        i += mk_uc_step(p + i, n - i, &cp);
        utf8proc_int32_t d[32];
        int last = 0;
        utf8proc_ssize_t k = utf8proc_decompose_char((utf8proc_int32_t)cp, d, 32, opt, &last);
        if (k <= 0 || k > 32) {
            d[0] = (utf8proc_int32_t)cp;
            k = 1;
        }
        cps_add(s, d, (size_t)k);
    }
    order_marks(s);
    if (!s->failed) {
        utf8proc_ssize_t k = (utf8proc_ssize_t)s->n;
        if (compose) {
            k = utf8proc_normalize_utf32(s->cp, k,
                                         (utf8proc_option_t)(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
        }
        write_cps(s->cp, k > 0 ? (size_t)k : 0, out);
    }
}

// Length of the stretch at p that is copied as it is: ASCII, but not the character a mark may
// follow.
static size_t plain(const char *p, size_t n, bool quick) {
    size_t i = 0, last = 0;
    while (i < n) {
        uint32_t cp;
        size_t k = mk_uc_step(p + i, n - i, &cp);
        bool bad = k == 1 && cp >= 0x80;
        if (!bad && cp >= 0x80 && !(quick && stays(cp))) {
            return last;
        }
        last = bad ? i + k : i;  // nothing composes across a bad byte
        i += k;
    }
    return n;
}

// Length of the stretch at p that must be worked on: up to a bad byte, or to an ASCII character
// behind non-ASCII.
static size_t worked(const char *p, size_t n) {
    size_t i = 0;
    bool seen = false;
    while (i < n) {
        uint32_t cp;
        size_t k = mk_uc_step(p + i, n - i, &cp);
        if ((k == 1 && cp >= 0x80) || (seen && cp < 0x80)) {
            break;
        }
        seen = seen || cp >= 0x80;
        i += k;
    }
    return i;
}

static void form(const mk_norm_step *step, const char *p, size_t n, mk_buf *out) {
    bool quick = step->kind == MK_NORM_NFC;
    cps s = {0};
    for (size_t i = 0; i < n && !out->failed;) {
        size_t k = plain(p + i, n - i, quick);
        mk_buf_add(out, p + i, k);
        i += k;
        k = worked(p + i, n - i);
        if (k > 0) {
            form_stretch(&s, p + i, k, step->kind, out);
        }
        i += k;
        out->failed = out->failed || s.failed;
    }
    mk_free(s.cp);
}

// --- character by character ----------------------------------------------------------------------
static bool is_category(uint32_t cp, int lo, int hi) {
    int c = (int)utf8proc_category((utf8proc_int32_t)cp);
    return c >= lo && c <= hi;
}

// What BERT's clean_text drops: NUL, U+FFFD, and the categories C except tab and line ends.
static bool dropped_by_bert(uint32_t cp) {
    if (cp == '\t' || cp == '\n' || cp == '\r') {
        return false;
    }
    return cp == 0 || cp == 0xFFFD || is_category(cp, UTF8PROC_CATEGORY_CC, UTF8PROC_CATEGORY_CO);
}

static bool dropped_by_nmt(uint32_t cp) {
    return (cp >= 1 && cp <= 8) || cp == 11 || (cp >= 14 && cp <= 31) || cp == 127 || cp == 143 ||
           cp == 159;
}

static bool space_for_nmt(uint32_t cp) {
    return cp == 9 || cp == 10 || cp == 12 || cp == 13 || cp == 0x1680 ||
           (cp >= 0x200B && cp <= 0x200F) || cp == 0x2028 || cp == 0x2029 || cp == 0x2581 ||
           cp == 0xFEFF || cp == 0xFFFD;
}

static void put_mapped(mk_norm_kind kind, uint32_t cp, mk_buf *out) {
    switch (kind) {
    case MK_NORM_LOWER:
        if (cp == 0x130) {  // the only letter whose lower case is two characters
            mk_buf_puts(out, "i\xCC\x87");
        } else {
            mk_buf_utf8(out, (uint32_t)utf8proc_tolower((utf8proc_int32_t)cp));
        }
        break;
    case MK_NORM_STRIP_ACCENTS:
        if (!is_category(cp, UTF8PROC_CATEGORY_MN, UTF8PROC_CATEGORY_MN)) {
            mk_buf_utf8(out, cp);
        }
        break;
    case MK_NORM_BERT_CLEAN:
        if (!dropped_by_bert(cp)) {
            mk_buf_utf8(out, mk_uc_is_white_space(cp) ? ' ' : cp);
        }
        break;
    case MK_NORM_NMT:
        if (!dropped_by_nmt(cp)) {
            mk_buf_utf8(out, space_for_nmt(cp) ? ' ' : cp);
        }
        break;
    default:  // MK_NORM_BERT_CJK
        if (mk_uc_is_bert_cjk(cp)) {
            mk_buf_putc(out, ' ');
            mk_buf_utf8(out, cp);
            mk_buf_putc(out, ' ');
        } else {
            mk_buf_utf8(out, cp);
        }
    }
}

static void map_chars(const mk_norm_step *s, const char *p, size_t n, mk_buf *out) {
    for (size_t i = 0, k; i < n; i += k) {
        uint32_t cp;
        k = mk_uc_step(p + i, n - i, &cp);
        if (k == 1 && cp >= 0x80) {
            mk_buf_putc(out, p[i]);
        } else {
            put_mapped(s->kind, cp, out);
        }
    }
}

// --- strings -------------------------------------------------------------------------------------
static void replace(const mk_norm_step *s, const char *p, size_t n, mk_buf *out) {
    size_t i = 0;
    while (s->n_a > 0 && i < n) {
        const char *hit = memmem(p + i, n - i, s->a, s->n_a);
        if (!hit) {
            break;
        }
        mk_buf_add(out, p + i, (size_t)(hit - p) - i);
        mk_buf_add(out, s->b, s->n_b);
        i = (size_t)(hit - p) + s->n_a;
    }
    mk_buf_add(out, p + i, n - i);
}

static mk_status replace_regex(mk_enc *c, const mk_norm_step *s, const char *p, size_t n,
                               mk_buf *out) {
    if (!c->match && !(c->match = mk_match_create())) {
        return MK_FAIL(c->err, MK_ENOMEM, "no memory for matching");
    }
    size_t i = 0;
    while (i < n && !out->failed) {
        bool found;
        size_t start, end;
        MK_TRY(mk_regex_find(s->re, c->match, p, n, i, &found, &start, &end, c->err));
        if (!found) {
            break;
        }
        mk_buf_add(out, p + i, start - i);
        mk_buf_add(out, s->b, s->n_b);
        i = end;
    }
    mk_buf_add(out, p + i, n - i);
    return MK_OK;
}

static void strip(const mk_norm_step *s, const char *p, size_t n, mk_buf *out) {
    uint32_t cp;
    while (s->left && n > 0) {
        size_t k = mk_uc_step(p, n, &cp);
        if (!mk_uc_is_white_space(cp)) {
            break;
        }
        p += k;
        n -= k;
    }
    while (s->right && n > 0) {
        size_t k = mk_uc_back(p, n);
        mk_uc_step(p + n - k, k, &cp);
        if (!mk_uc_is_white_space(cp)) {
            break;
        }
        n -= k;
    }
    mk_buf_add(out, p, n);
}

// SentencePiece: the longest key anywhere.
static void charsmap(const mk_charsmap *m, const char *p, size_t n, mk_buf *out) {
    for (size_t i = 0; i < n;) {
        const char *to;
        size_t n_to, k = mk_charsmap_find(m, p + i, n - i, false, &to, &n_to);
        if (k > 0) {
            mk_buf_add(out, to, n_to);
        } else {
            uint32_t cp;
            k = mk_uc_step(p + i, n - i, &cp);
            mk_buf_add(out, p + i, k);
        }
        i += k;
    }
}

static size_t grapheme(const char *p, size_t n) {
    uint32_t cp, next;
    size_t i = mk_uc_step(p, n, &cp);
    utf8proc_int32_t state = 0;
    while (i < n) {
        size_t k = mk_uc_step(p + i, n - i, &next);
        if (utf8proc_grapheme_break_stateful((utf8proc_int32_t)cp, (utf8proc_int32_t)next,
                                             &state)) {
            break;
        }
        cp = next;
        i += k;
    }
    return i;
}

// The tokenizers package: short grapheme clusters by their shortest key, others character by
// character.
static void charsmap_hf(const mk_charsmap *m, const char *p, size_t n, mk_buf *out) {
    for (size_t i = 0, g; i < n; i += g) {
        const char *to;
        size_t n_to;
        g = grapheme(p + i, n - i);
        if (g < 6 && mk_charsmap_find(m, p + i, g, true, &to, &n_to) > 0) {
            mk_buf_add(out, to, n_to);
            continue;
        }
        for (size_t j = 0, k; j < g; j += k) {
            uint32_t cp;
            k = mk_uc_step(p + i + j, g - j, &cp);
            if (mk_charsmap_find(m, p + i + j, k, true, &to, &n_to) > 0) {
                mk_buf_add(out, to, n_to);
            } else {
                mk_buf_add(out, p + i + j, k);
            }
        }
    }
}

// Spaces to "▁" as llama.cpp does it for T5: left = a space in front, right = runs become one.
static void ugm_spaces(const mk_norm_step *s, const char *p, size_t n, bool joined, mk_buf *out) {
    bool in_word = joined, prepended = joined;
    for (size_t i = 0; i < n; i++) {
        if (p[i] != ' ') {
            if (!in_word && ((s->left && !prepended) || s->right)) {
                mk_buf_puts(out, "\xE2\x96\x81");
                prepended = true;
            }
            in_word = true;
            mk_buf_putc(out, p[i]);
        } else {
            in_word = false;
            if (!s->right) {
                mk_buf_puts(out, "\xE2\x96\x81");
            }
        }
    }
}

static mk_status run_step(mk_enc *c, const mk_norm_step *s, const char *p, size_t n, mk_buf *out) {
    bool joined = c->continues && c->at_start;
    switch (s->kind) {
    case MK_NORM_NFC:
    case MK_NORM_NFD:
    case MK_NORM_NFKC:
    case MK_NORM_NFKD:
        form(s, p, n, out);
        break;
    case MK_NORM_LOWER:
    case MK_NORM_STRIP_ACCENTS:
    case MK_NORM_BERT_CLEAN:
    case MK_NORM_BERT_CJK:
    case MK_NORM_NMT:
        map_chars(s, p, n, out);
        break;
    case MK_NORM_PREPEND:
        mk_buf_add(out, s->b, joined ? 0 : s->n_b);
        mk_buf_add(out, p, n);
        break;
    case MK_NORM_REPLACE:
        replace(s, p, n, out);
        break;
    case MK_NORM_REPLACE_REGEX:
        return replace_regex(c, s, p, n, out);
    case MK_NORM_STRIP:
        strip(s, p, n, out);
        break;
    case MK_NORM_CHARSMAP:
        charsmap(&c->t->charsmap, p, n, out);
        break;
    case MK_NORM_CHARSMAP_HF:
        charsmap_hf(&c->t->charsmap, p, n, out);
        break;
    case MK_NORM_UGM_SPACES:
        ugm_spaces(s, p, n, joined, out);
        break;
    }
    return MK_OK;
}

static bool is_ascii(const char *p, size_t n) {
    for (size_t i = 0; i < n; i++) {
        if ((unsigned char)p[i] >= 0x80) {
            return false;
        }
    }
    return true;
}

mk_status mk_norm_run(mk_enc *c, const char *p, size_t n, const char **out, size_t *n_out) {
    bool ascii = is_ascii(p, n);
    for (int i = 0; i < c->t->n_norm && n > 0; i++) {
        const mk_norm_step *s = &c->t->norm[i];
        if (ascii && (s->kind <= MK_NORM_NFKD || s->kind == MK_NORM_STRIP_ACCENTS)) {
            continue;
        }
        mk_buf *b = &c->norm[p == c->norm[0].data];
        mk_buf_clear(b);
        MK_TRY(run_step(c, s, p, n, b));
        if (b->failed) {
            return MK_FAIL(c->err, MK_ENOMEM, "no memory to normalise a text of %zu bytes", n);
        }
        p = b->data ? b->data : "";
        n = b->len;
        ascii = ascii && (s->n_b == 0 || is_ascii(s->b, s->n_b)) && s->kind != MK_NORM_UGM_SPACES &&
                s->kind != MK_NORM_CHARSMAP && s->kind != MK_NORM_CHARSMAP_HF;
    }
    *out = p;
    *n_out = n;
    return MK_OK;
}
