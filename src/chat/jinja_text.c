// Work on strings that both methods and filters need: strip, find, replace, case, lines.
// Every result keeps the origin of each byte; a changed character keeps the origin of the one it
// replaces.
#include <string.h>
#include <utf8proc.h>

#include "base/utf8.h"
#include "chat/jinja_int.h"

static bool in_set(uint32_t cp, const jval *chars) {
    if (chars == NULL) {
        return mk_j_is_space(cp);
    }
    for (uint32_t i = 0; i < chars->n;) {
        uint32_t other;
        i += mk_j_decode(chars->u.p + i, chars->u.p + chars->n, &other);
        if (other == cp) {
            return true;
        }
    }
    return false;
}

jval mk_j_strip(const jval *s, const jval *chars, int sides) {
    size_t from = 0, to = s->n;
    uint32_t cp;
    while ((sides & 1) != 0 && from < to) {
        uint32_t k = mk_j_decode(s->u.p + from, s->u.p + to, &cp);
        if (!in_set(cp, chars)) {
            break;
        }
        from += k;
    }
    while ((sides & 2) != 0 && to > from) {
        size_t at = to - 1;
        while (at > from && ((unsigned char)s->u.p[at] & 0xc0) == 0x80) {
            at--;
        }
        mk_j_decode(s->u.p + at, s->u.p + to, &cp);
        if (!in_set(cp, chars)) {
            break;
        }
        to = at;
    }
    return mk_j_sub(s, from, to - from);
}

bool mk_j_find_text(const jval *s, size_t from, const char *p, size_t n, size_t *at) {
    if (from > s->n || n > s->n - from) {
        return false;
    }
    // memmem is linear in glibc, so hostile patterns cost nothing extra
    const char *hit = n == 0 ? s->u.p + from : memmem(s->u.p + from, s->n - from, p, n);
    if (hit != NULL) {
        *at = (size_t)(hit - s->u.p);
    }
    return hit != NULL;
}

// --- case ----------------------------------------------------------------------------------------
// The few letters whose upper case is more than one letter and that occur in living text.
static const struct {
    uint32_t cp;
    const char *upper, *title;
} special[] = {
    {0xdf, "SS", "Ss"},
    {0x149, "\xca\xbcN", "\xca\xbcN"},
    {0x1f0, "J\xcc\x8c", "J\xcc\x8c"},
    {0xfb00, "FF", "Ff"},
    {0xfb01, "FI", "Fi"},
    {0xfb02, "FL", "Fl"},
    {0xfb03, "FFI", "Ffi"},
    {0xfb04, "FFL", "Ffl"},
    {0xfb05, "ST", "St"},
    {0xfb06, "ST", "St"},
};

static bool add_cp(jctx *c, jsb *b, uint32_t cp, const uint8_t *tag) {
    char out[4];
    int k = mk_utf8_encode(cp, out);
    return mk_j_sb_add(c, b, out, (size_t)k, tag);
}

static bool add_upper(jctx *c, jsb *b, uint32_t cp, bool title, const uint8_t *tag) {
    for (size_t i = 0; i < sizeof special / sizeof special[0]; i++) {
        if (special[i].cp == cp) {
            return mk_j_sb_puts(c, b, title ? special[i].title : special[i].upper, tag);
        }
    }
    utf8proc_int32_t v = (utf8proc_int32_t)cp;
    return add_cp(c, b, (uint32_t)(title ? utf8proc_totitle(v) : utf8proc_toupper(v)), tag);
}

static bool add_lower(jctx *c, jsb *b, uint32_t cp, const uint8_t *tag) {
    if (cp == 0x130) {
        return mk_j_sb_puts(c, b, "i\xcc\x87", tag);
    }
    return add_cp(c, b, (uint32_t)utf8proc_tolower((utf8proc_int32_t)cp), tag);
}

static bool is_cased(uint32_t cp) {
    utf8proc_category_t k = utf8proc_category((utf8proc_int32_t)cp);
    return k == UTF8PROC_CATEGORY_LU || k == UTF8PROC_CATEGORY_LL || k == UTF8PROC_CATEGORY_LT;
}

static bool is_upper(uint32_t cp) {
    utf8proc_category_t k = utf8proc_category((utf8proc_int32_t)cp);
    return k == UTF8PROC_CATEGORY_LU || k == UTF8PROC_CATEGORY_LT;
}

bool mk_j_case(jctx *c, const jval *s, int how, jval *out) {
    jsb b;
    bool start = true;
    mk_j_sb_init(&b);
    for (uint32_t at = 0; at < s->n;) {
        uint32_t cp;
        const uint8_t *tag = mk_j_tag_bit(s->tag, at) ? mk_j_user : NULL;
        at += mk_j_decode(s->u.p + at, s->u.p + s->n, &cp);
        bool up = how == JCASE_UPPER || (how == JCASE_SWAP && !is_upper(cp)) ||
                  ((how == JCASE_CAPITALIZE || how == JCASE_TITLE) && start);
        if (!(up ? add_upper(c, &b, cp, how == JCASE_CAPITALIZE || how == JCASE_TITLE, tag)
                 : add_lower(c, &b, cp, tag))) {
            return false;
        }
        start = how == JCASE_TITLE && !is_cased(cp);
    }
    *out = mk_j_sb_done(&b);
    out->sub = s->sub;
    return mk_j_steps(c, s->n / 64);
}

// --- replace and lines ---------------------------------------------------------------------------
// An empty `from` matches before every character and at the end.
static bool replace_empty(jctx *c, const jval *s, const jval *to, int64_t count, jsb *b) {
    uint32_t at = 0;
    while (count != 0 && at <= s->n) {
        uint32_t cp, k = at < s->n ? mk_j_decode(s->u.p + at, s->u.p + s->n, &cp) : 1;
        if (!mk_j_step(c) || !mk_j_sb_val(c, b, to)) {
            return false;
        }
        if (at < s->n && !mk_j_sb_add(c, b, s->u.p + at, k, mk_j_tag_at(s->tag, at))) {
            return false;
        }
        at += k;
        count -= count > 0;
    }
    return at >= s->n || mk_j_sb_add(c, b, s->u.p + at, s->n - at, mk_j_tag_at(s->tag, at));
}

bool mk_j_replace(jctx *c, const jval *s, const jval *from, const jval *to, int64_t count,
                  jval *out) {
    jsb b;
    size_t at = 0, hit;
    mk_j_sb_init(&b);
    if (from->n == 0) {
        if (!replace_empty(c, s, to, count, &b)) {
            return false;
        }
        *out = mk_j_sb_done(&b);
        return true;
    }
    while (count != 0 && mk_j_find_text(s, at, from->u.p, from->n, &hit)) {
        if (!mk_j_step(c) || !mk_j_sb_add(c, &b, s->u.p + at, hit - at, mk_j_tag_at(s->tag, at)) ||
            !mk_j_sb_val(c, &b, to)) {
            return false;
        }
        at = hit + from->n;
        count -= count > 0;
    }
    if (!mk_j_steps(c, s->n / 256) ||
        !mk_j_sb_add(c, &b, s->u.p + at, s->n - at, mk_j_tag_at(s->tag, at))) {
        return false;
    }
    *out = mk_j_sb_done(&b);
    return true;
}

static bool is_line_end(uint32_t cp) {
    return (cp >= 0x0a && cp <= 0x0d) || (cp >= 0x1c && cp <= 0x1e) || cp == 0x85 || cp == 0x2028 ||
           cp == 0x2029;
}

bool mk_j_split_lines(jctx *c, const jval *s, bool keep, jlist *out) {
    size_t from = 0, at = 0;
    while (at < s->n) {
        uint32_t cp;
        size_t end = at;
        at += mk_j_decode(s->u.p + at, s->u.p + s->n, &cp);
        if (!is_line_end(cp)) {
            continue;
        }
        at += cp == '\r' && at < s->n && s->u.p[at] == '\n';
        jval line = mk_j_sub(s, from, (keep ? at : end) - from);
        if (!mk_j_list_push(c, out, &line)) {
            return false;
        }
        from = at;
    }
    jval rest = mk_j_sub(s, from, s->n - from);
    return mk_j_steps(c, s->n / 64) && (rest.n == 0 || mk_j_list_push(c, out, &rest));
}
