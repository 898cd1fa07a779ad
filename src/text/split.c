// The matcher behind the pre-tokenizer tables.  See split.h.
//
// Cost: every alternative in the tables either fails within a few characters or consumes what it
// scanned (a run of white space is taken by a later alternative of the same rule), so a pass over
// the text is linear.  The one exception, a rule that only matches at the end, starts from the end.
#include "text/split.h"

static bool in_set(const mk_split_range *r, size_t n, uint32_t cp) {
    size_t lo = 0, hi = n;
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        if (cp < r[mid].lo) {
            hi = mid;
        } else if (cp > r[mid].hi) {
            lo = mid + 1;
        } else {
            return true;
        }
    }
    return false;
}

// Length of the unit at p if the item takes it, else 0.
static inline size_t take(const mk_split_item *it, const mk_uclass *u, const char *p, size_t n) {
    if (MK_UNLIKELY(it->set != NULL)) {
        uint32_t cp;
        size_t k = mk_uc_step(p, n, &cp);
        return in_set(it->set, it->n_set, cp) ? k : 0;
    }
    uint16_t cls;
    size_t k = mk_uc_next(u, p, n, &cls);
    return (cls & it->any) && !(cls & it->none) ? k : 0;
}

// Letter of a contraction at p in lower case; U+017F folds to s.  *k is its length, 0 if it is
// neither.
static char fold(const char *p, size_t n, bool ci, size_t *k) {
    *k = n > 0;
    if (n == 0) {
        return 0;
    }
    char c = *p;
    if (ci && c >= 'A' && c <= 'Z') {
        return (char)(c + 32);
    }
    if (ci && n >= 2 && c == '\xC5' && p[1] == '\xBF') {
        *k = 2;
        return 's';
    }
    return c;
}

// Length of 's 't 'm 'd 're 've 'll at p, or 0.
static size_t contraction(const char *p, size_t n, bool ci) {
    if (n < 2 || *p != '\'') {
        return 0;
    }
    size_t k1, k2;
    char a = fold(p + 1, n - 1, ci, &k1);
    if (a == 's' || a == 't' || a == 'm' || a == 'd') {
        return 1 + k1;
    }
    char b = fold(p + 1 + k1, n - 1 - k1, ci, &k2);
    bool two = (a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l');
    return two ? 1 + k1 + k2 : 0;
}

static bool tail_ok(const mk_split_alt *a, const mk_uclass *u, const char *p, size_t n,
                    size_t *end) {
    if (a->flags & MK_ALT_NOT_BEFORE_NS && *end < n) {
        uint16_t cls;
        mk_uc_next(u, p + *end, n - *end, &cls);
        return (cls & MK_C_WS) != 0;
    }
    if (a->flags & MK_ALT_AT_END) {
        return *end == n;
    }
    if (a->flags & MK_ALT_TAIL_CI) {
        *end += contraction(p + *end, n - *end, true);
    }
    return true;
}

// Matches items i.. at p[at..n); greedy, giving back one unit at a time.  Depth is at most the four
// items.
static bool match_items(const mk_split_alt *a, unsigned i, const mk_uclass *u, const char *p,
                        size_t n, size_t at, size_t *end) {
    if (i >= a->n_item || i >= MK_SPLIT_MAX_ITEM) {
        *end = at;
        return tail_ok(a, u, p, n, end);
    }
    const mk_split_item *it = &a->item[i];
    size_t pos = at, count = 0, k;
    while (pos < n && (it->max == 0 || count < it->max) &&
           (k = take(it, u, p + pos, n - pos)) > 0) {
        pos += k;
        count++;
    }
    while (count >= it->min) {
        if (match_items(a, i + 1, u, p, n, pos, end)) {
            return true;
        }
        if (count == 0) {
            return false;
        }
        pos -= mk_uc_back(p, pos);
        count--;
    }
    return false;
}

static bool match_alt(const mk_split_alt *a, const mk_uclass *u, const char *p, size_t n, size_t at,
                      size_t *end) {
    if (a->flags & (MK_ALT_CONTRACT | MK_ALT_CONTRACT_CI)) {
        *end = at + contraction(p + at, n - at, (a->flags & MK_ALT_CONTRACT_CI) != 0);
        return *end > at;
    }
    return match_items(a, 0, u, p, n, at, end);
}

// A rule that is one run up to the end of the text: found from the end.
static bool find_at_end(const mk_split_alt *a, const mk_uclass *u, const char *p, size_t n,
                        size_t from, size_t *start, size_t *end) {
    size_t at = n;
    while (at > from) {
        size_t k = mk_uc_back(p, at);
        if (at - from < k || take(&a->item[0], u, p + at - k, k) == 0) {
            break;
        }
        at -= k;
    }
    *start = at;
    *end = n;
    return at < n;
}

bool mk_split_find(const mk_split_rule *r, const mk_uclass *u, const char *text, size_t n,
                   size_t from, size_t *start, size_t *end) {
    if (r->n_alt == 1 && r->alt[0].flags & MK_ALT_AT_END) {
        return find_at_end(&r->alt[0], u, text, n, from, start, end);
    }
    for (size_t at = from; at < n;) {
        for (unsigned i = 0; i < r->n_alt; i++) {
            if (match_alt(&r->alt[i], u, text, n, at, end) && *end > at) {
                *start = at;
                return true;
            }
        }
        uint32_t cp;
        at += mk_uc_step(text + at, n - at, &cp);
    }
    return false;
}
