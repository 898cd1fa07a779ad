// Methods of strings: splitting, stripping, searching, tests of content, padding.
// Each row of the table gives the parameters as Python names them.
#include <string.h>
#include <utf8proc.h>

#include "chat/jinja_int.h"

#define METHOD(name)                                                                               \
    static bool name(jctx *c, const jval *s, const jval *a, const jargs *args, jval *out)
#define UNUSED_ARGS ((void)a, (void)args)

static bool want_str(jctx *c, const jval *v, const char *what) {
    if (v->kind == JV_UNDEF) {
        return mk_j_raise(c, "%s must be str, not Undefined", what);
    }
    return v->kind == JV_STR || mk_j_raise(c, "%s must be str, not %s", what, mk_j_type_name(v));
}

static bool opt_int(jctx *c, const jval *v, int64_t dflt, int64_t *out) {
    *out = dflt;
    return v->kind == JV_MISSING || mk_j_as_int(v, out) ||
           mk_j_raise(c, "'%s' object cannot be interpreted as an integer", mk_j_type_name(v));
}

static const jval *opt_str(const jval *v) {
    return v->kind == JV_MISSING || v->kind == JV_NONE ? NULL : v;
}

// --- case and strip ------------------------------------------------------------------------------
METHOD(m_upper) {
    UNUSED_ARGS;
    return mk_j_case(c, s, JCASE_UPPER, out);
}

METHOD(m_lower) {
    UNUSED_ARGS;
    return mk_j_case(c, s, JCASE_LOWER, out);
}

METHOD(m_title) {
    UNUSED_ARGS;
    return mk_j_case(c, s, JCASE_TITLE, out);
}

METHOD(m_capitalize) {
    UNUSED_ARGS;
    return mk_j_case(c, s, JCASE_CAPITALIZE, out);
}

METHOD(m_swapcase) {
    UNUSED_ARGS;
    return mk_j_case(c, s, JCASE_SWAP, out);
}

static bool strip(jctx *c, const jval *s, const jval *a, int sides, jval *out) {
    const jval *chars = opt_str(&a[0]);
    if (chars != NULL && !want_str(c, chars, "strip arg")) {
        return false;
    }
    // hostile pairs of text and set must not multiply
    uint64_t cost = chars != NULL ? (uint64_t)s->n * (chars->n + 1) / 256 : s->n / 256;
    *out = mk_j_sub(s, 0, 0);
    if (chars != NULL && chars->n > 16 && !mk_j_steps(c, cost)) {
        return false;
    }
    *out = mk_j_strip(s, chars, sides);
    return true;
}

METHOD(m_strip) {
    (void)args;
    return strip(c, s, a, 3, out);
}

METHOD(m_lstrip) {
    (void)args;
    return strip(c, s, a, 1, out);
}

METHOD(m_rstrip) {
    (void)args;
    return strip(c, s, a, 2, out);
}

static bool remove_affix(jctx *c, const jval *s, const jval *a, bool prefix, jval *out) {
    if (!want_str(c, &a[0], "removeprefix/removesuffix arg")) {
        return false;
    }
    size_t n = a[0].n, at = prefix ? 0 : s->n - n;
    *out = *s;
    if (n <= s->n && n > 0 && memcmp(s->u.p + at, a[0].u.p, n) == 0) {
        *out = mk_j_sub(s, prefix ? n : 0, s->n - n);
    }
    return true;
}

METHOD(m_removeprefix) {
    (void)args;
    return remove_affix(c, s, a, true, out);
}

METHOD(m_removesuffix) {
    (void)args;
    return remove_affix(c, s, a, false, out);
}

// --- split ---------------------------------------------------------------------------------------
static bool push_part(jctx *c, jlist *l, const jval *s, size_t from, size_t to) {
    jval part = mk_j_sub(s, from, to - from);
    return mk_j_list_push(c, l, &part);
}

static size_t word_end(const jval *s, size_t at, bool space) {
    while (at < s->n) {
        uint32_t cp;
        uint32_t k = mk_j_decode(s->u.p + at, s->u.p + s->n, &cp);
        if (mk_j_is_space(cp) != space) {
            break;
        }
        at += k;
    }
    return at;
}

static bool split_words(jctx *c, const jval *s, int64_t max, jlist *l) {
    size_t at = word_end(s, 0, true);
    while (at < s->n) {
        if (max == 0) {
            return push_part(c, l, s, at, s->n);
        }
        size_t end = word_end(s, at, false);
        if (!push_part(c, l, s, at, end)) {
            return false;
        }
        at = word_end(s, end, true);
        max -= max > 0;
    }
    return mk_j_steps(c, s->n / 64);
}

static bool split_sep(jctx *c, const jval *s, const jval *sep, int64_t max, jlist *l) {
    size_t at = 0, hit;
    while (max != 0 && mk_j_find_text(s, at, sep->u.p, sep->n, &hit)) {
        if (!push_part(c, l, s, at, hit)) {
            return false;
        }
        at = hit + sep->n;
        max -= max > 0;
    }
    return mk_j_steps(c, s->n / 256) && push_part(c, l, s, at, s->n);
}

// The search from the right is the plain quadratic one; long patterns pay for it.
static bool pay_for_search(jctx *c, const jval *s, const jval *sep) {
    return mk_j_steps(c, s->n / 64) &&
           (sep->n <= 16 || mk_j_steps(c, (uint64_t)s->n * sep->n / 4096));
}

static bool find_last(const jval *s, size_t end, const jval *sep, size_t *at) {
    for (size_t i = end >= sep->n ? end - sep->n + 1 : 0; i > 0; i--) {
        if (memcmp(s->u.p + i - 1, sep->u.p, sep->n) == 0) {
            *at = i - 1;
            return true;
        }
    }
    return false;
}

// From the right: parts come out last first and are turned round.
static bool rsplit_sep(jctx *c, const jval *s, const jval *sep, int64_t max, jlist *l) {
    size_t end = s->n, hit;
    if (!pay_for_search(c, s, sep)) {
        return false;
    }
    while (max != 0 && find_last(s, end, sep, &hit)) {
        if (!push_part(c, l, s, hit + sep->n, end)) {
            return false;
        }
        end = hit;
        max -= max > 0;
    }
    if (!push_part(c, l, s, 0, end)) {
        return false;
    }
    for (uint32_t i = 0; i < l->n / 2; i++) {
        jval t = l->v[i];
        l->v[i] = l->v[l->n - 1 - i];
        l->v[l->n - 1 - i] = t;
    }
    return true;
}

static bool split(jctx *c, const jval *s, const jval *a, bool right, jval *out) {
    const jval *sep = opt_str(&a[0]);
    int64_t max;
    if (!opt_int(c, &a[1], -1, &max) || !mk_j_list_new(c, JV_LIST, 0, out) ||
        (sep != NULL && !want_str(c, sep, "separator"))) {
        return false;
    }
    if (sep != NULL && sep->n == 0) {
        return mk_j_raise(c, "empty separator");
    }
    if (sep == NULL) {
        return right && max >= 0 ? mk_j_raise(c, "rsplit() with a limit needs a separator here")
                                 : split_words(c, s, max, out->u.list);
    }
    return right ? rsplit_sep(c, s, sep, max, out->u.list) : split_sep(c, s, sep, max, out->u.list);
}

METHOD(m_split) {
    (void)args;
    return split(c, s, a, false, out);
}

METHOD(m_rsplit) {
    (void)args;
    return split(c, s, a, true, out);
}

METHOD(m_splitlines) {
    (void)args;
    return mk_j_list_new(c, JV_LIST, 0, out) &&
           mk_j_split_lines(c, s, a[0].kind != JV_MISSING && mk_j_truth(&a[0]), out->u.list);
}

static bool partition(jctx *c, const jval *s, const jval *a, bool right, jval *out) {
    size_t at = right ? 0 : s->n, next = at;
    if (!want_str(c, &a[0], "separator") || !mk_j_list_new(c, JV_TUPLE, 3, out)) {
        return false;
    }
    if (a[0].n == 0) {
        return mk_j_raise(c, "empty separator");
    }
    if (right && !pay_for_search(c, s, &a[0])) {
        return false;
    }
    if (right ? find_last(s, s->n, &a[0], &at) : mk_j_find_text(s, 0, a[0].u.p, a[0].n, &at)) {
        next = at + a[0].n;
    }
    return mk_j_steps(c, s->n / 64) && push_part(c, out->u.list, s, 0, at) &&
           push_part(c, out->u.list, s, at, next) && push_part(c, out->u.list, s, next, s->n);
}

METHOD(m_partition) {
    (void)args;
    return partition(c, s, a, false, out);
}

METHOD(m_rpartition) {
    (void)args;
    return partition(c, s, a, true, out);
}

// --- search --------------------------------------------------------------------------------------
// s.method(x, start, end): the part of s to look at.
static bool part_of(jctx *c, const jval *s, const jval *a, jval *out) {
    jval part[3] = {a[1], a[2], {.kind = JV_MISSING}};
    if (a[1].kind == JV_MISSING) {
        *out = *s;
        return true;
    }
    return mk_j_slice(c, s, part, out);
}

static bool affix(jctx *c, const jval *s, const jval *a, bool prefix, jval *out) {
    jval part;
    const jval *list = &a[0];
    uint32_t n = 1;
    *out = mk_j_bool(false);
    if (!part_of(c, s, a, &part)) {
        return false;
    }
    if (a[0].kind == JV_TUPLE) {
        list = a[0].u.list->v;
        n = a[0].u.list->n;
    }
    for (uint32_t i = 0; i < n && !out->u.b; i++) {
        if (list[i].kind != JV_STR) {
            return mk_j_raise(c, "%s first arg must be str or a tuple of str, not %s",
                              prefix ? "startswith" : "endswith", mk_j_type_name(&list[i]));
        }
        size_t k = list[i].n;
        out->u.b = k <= part.n && memcmp(part.u.p + (prefix ? 0 : part.n - k), list[i].u.p, k) == 0;
    }
    return mk_j_steps(c, n);
}

METHOD(m_startswith) {
    (void)args;
    return affix(c, s, a, true, out);
}

METHOD(m_endswith) {
    (void)args;
    return affix(c, s, a, false, out);
}

// Code point index of the first or last occurrence, -1 if none.
static bool find(jctx *c, const jval *s, const jval *a, bool last, int64_t *out) {
    jval part;
    size_t at = 0;
    *out = -1;
    if (!want_str(c, &a[0], "search text") || !part_of(c, s, a, &part) ||
        !pay_for_search(c, &part, &a[0])) {
        return false;
    }
    if (last ? find_last(&part, part.n, &a[0], &at)
             : mk_j_find_text(&part, 0, a[0].u.p, a[0].n, &at)) {
        jval before = mk_j_sub(s, 0, (size_t)(part.u.p - s->u.p) + at);
        *out = (int64_t)mk_j_count_cp(&before);
    }
    return true;
}

METHOD(m_find) {
    (void)args;
    *out = mk_j_int(0);
    return find(c, s, a, false, &out->u.i);
}

METHOD(m_rfind) {
    (void)args;
    *out = mk_j_int(0);
    return find(c, s, a, true, &out->u.i);
}

METHOD(m_index) {
    (void)args;
    *out = mk_j_int(0);
    return find(c, s, a, false, &out->u.i) &&
           (out->u.i >= 0 || mk_j_raise(c, "substring not found"));
}

METHOD(m_rindex) {
    (void)args;
    *out = mk_j_int(0);
    return find(c, s, a, true, &out->u.i) &&
           (out->u.i >= 0 || mk_j_raise(c, "substring not found"));
}

METHOD(m_count) {
    (void)args;
    jval part;
    size_t at = 0;
    *out = mk_j_int(0);
    if (!want_str(c, &a[0], "search text") || !part_of(c, s, a, &part)) {
        return false;
    }
    if (a[0].n == 0) {
        *out = mk_j_int((int64_t)mk_j_count_cp(&part) + 1);
        return true;
    }
    while (mk_j_find_text(&part, at, a[0].u.p, a[0].n, &at)) {
        out->u.i++;
        at += a[0].n;
    }
    return mk_j_steps(c, part.n / 64);
}

METHOD(m_replace) {
    (void)args;
    int64_t count;
    jval to = a[1];
    if (!want_str(c, &a[0], "replace() argument 1") ||
        !want_str(c, &a[1], "replace() argument 2") || !opt_int(c, &a[2], -1, &count) ||
        (s->sub && !mk_j_escape(c, &a[1], &to)) || !mk_j_replace(c, s, &a[0], &to, count, out)) {
        return false;
    }
    out->sub = s->sub;
    return true;
}

METHOD(m_join) {
    (void)args;
    jiter it;
    jsb b;
    jval item;
    bool more = true, first = true;
    mk_j_sb_init(&b);
    if (!mk_j_iter(c, &a[0], &it)) {
        return false;
    }
    for (int64_t i = 0; more; i++, first = false) {
        if (!mk_j_next(c, &it, &item, &more)) {
            return false;
        }
        if (!more) {
            break;
        }
        if (item.kind != JV_STR) {
            return mk_j_raise(c, "sequence item %lld: expected str instance, %s found",
                              (long long)i, mk_j_type_name(&item));
        }
        if ((!first && !mk_j_sb_val(c, &b, s)) || (s->sub && !mk_j_escape(c, &item, &item)) ||
            !mk_j_sb_val(c, &b, &item)) {
            return false;
        }
    }
    *out = mk_j_sb_done(&b);
    out->sub = s->sub;
    return true;
}

METHOD(m_format) {
    (void)a;
    return mk_j_format(c, s, args, out);
}

static const jop rows[] = {
    {"upper", m_upper, "", 0},
    {"lower", m_lower, "", 0},
    {"casefold", m_lower, "", 0},
    {"title", m_title, "", 0},
    {"capitalize", m_capitalize, "", 0},
    {"swapcase", m_swapcase, "", 0},
    {"strip", m_strip, "chars", 0},
    {"lstrip", m_lstrip, "chars", 0},
    {"rstrip", m_rstrip, "chars", 0},
    {"removeprefix", m_removeprefix, "prefix", 1},
    {"removesuffix", m_removesuffix, "suffix", 1},
    {"split", m_split, "sep,maxsplit", 0},
    {"rsplit", m_rsplit, "sep,maxsplit", 0},
    {"splitlines", m_splitlines, "keepends", 0},
    {"partition", m_partition, "sep", 1},
    {"rpartition", m_rpartition, "sep", 1},
    {"startswith", m_startswith, "prefix,start,end", 1},
    {"endswith", m_endswith, "suffix,start,end", 1},
    {"find", m_find, "sub,start,end", 1},
    {"rfind", m_rfind, "sub,start,end", 1},
    {"index", m_index, "sub,start,end", 1},
    {"rindex", m_rindex, "sub,start,end", 1},
    {"count", m_count, "sub,start,end", 1},
    {"replace", m_replace, "old,new,count", 2},
    {"join", m_join, "iterable", 1},
    {"format", m_format, "*", 0},
};

jop_table mk_j_methods_str(void) {
    return (jop_table){rows, sizeof rows / sizeof rows[0]};
}
