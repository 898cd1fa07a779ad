// Finding added tokens in a text: leftmost, then longest.  See tok_int.h.
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "text/tok_int.h"

static int by_text(const void *x, const void *y) {
    const mk_added *a = x, *b = y;
    int d = memcmp(a->text, b->text, a->n < b->n ? a->n : b->n);
    if (d != 0) {
        return d;
    }
    return a->n != b->n ? (a->n < b->n ? -1 : 1) : (a->id > b->id) - (a->id < b->id);
}

mk_status mk_added_build(mk_added_set *s, mk_added *a, int64_t n, mk_err *err) {
    s->a = a;
    s->n = n;
    for (int64_t i = 0; i < n; i++) {
        if (a[i].n == 0 || a[i].n > MK_MAX_ADDED) {
            return MK_FAIL(err, MK_EUNSUPPORTED, "added token %d has %zu bytes, expected 1 to %d",
                           a[i].id, a[i].n, MK_MAX_ADDED);
        }
        s->any_normalized = s->any_normalized || a[i].normalized;
    }
    if (n > 0) {
        qsort(a, (size_t)n, sizeof *a, by_text);
    }
    int64_t at = 0;
    for (int b = 0; b <= 256; b++) {
        while (at < n && (unsigned char)a[at].text[0] < b) {
            at++;
        }
        s->first[b] = b == 256 ? n : at;
    }
    return MK_OK;
}

void mk_added_free(mk_added_set *s) {
    for (int64_t i = 0; i < s->n; i++) {
        mk_free(s->a[i].text);
    }
    mk_free(s->a);
    memset(s, 0, sizeof *s);
}

bool mk_runs_touch_user(const mk_text_run *runs, size_t n_runs, size_t start, size_t end) {
    size_t lo = 0, hi = n_runs;
    while (lo < hi) {  // first run that ends behind start
        size_t mid = lo + (hi - lo) / 2;
        if (runs[mid].end <= start) {
            lo = mid + 1;
        } else {
            hi = mid;
        }
    }
    for (size_t i = lo; i < n_runs && (i == lo || runs[i - 1].end < end); i++) {
        if (runs[i].user) {
            return true;
        }
    }
    return false;
}

// Some vocabularies do not flag their role markers as special ("<｜User｜>" of DeepSeek).
static bool looks_like_control(const mk_added *a) {
    return a->special || (a->n > 2 && memcmp(a->text, "<|", 2) == 0) ||
           (a->n > 4 && memcmp(a->text, "<\xEF\xBD\x9C", 4) == 0);
}

// Is the token at byte `at` of the query one to cut out?
static bool wanted(const mk_added *a, const mk_added_query *q, size_t at) {
    if (a->normalized != q->normalized || (a->special && !q->parse_special)) {
        return false;
    }
    if (!q->runs || !looks_like_control(a)) {
        return true;
    }
    size_t start = q->base + at;
    return !q->all_user && !mk_runs_touch_user(q->runs, q->n_runs, start, start + a->n);
}

// First entry in [lo, hi) whose byte k is at least b (entries that end before k sort first).
static int64_t lower(const mk_added *a, int64_t lo, int64_t hi, size_t k, int b) {
    while (lo < hi) {
        int64_t mid = lo + (hi - lo) / 2;
        if (a[mid].n <= k || (unsigned char)a[mid].text[k] < b) {
            lo = mid + 1;
        } else {
            hi = mid;
        }
    }
    return lo;
}

// Longest wanted token that starts at p; of equal texts the last id.
static int64_t longest_at(const mk_added_set *s, const mk_added_query *q, size_t at) {
    unsigned char b = (unsigned char)q->p[at];
    int64_t lo = s->first[b], hi = s->first[b + 1], best = -1;
    for (size_t k = 1; lo < hi; k++) {
        for (int64_t i = lo; i < hi && s->a[i].n == k; i++) {
            best = wanted(&s->a[i], q, at) ? i : best;
        }
        if (at + k >= q->n) {
            break;
        }
        int c = (unsigned char)q->p[at + k];
        lo = lower(s->a, lo, hi, k, c);
        hi = lower(s->a, lo, hi, k, c + 1);
    }
    return best;
}

static bool is_word(const mk_uclass *u, const char *p, size_t n) {
    uint32_t cp;
    mk_uc_step(p, n, &cp);
    return cp == '_' || (mk_uclass_of(u, cp) & (MK_C_LETTER | MK_C_NUM | MK_C_MARK)) != 0;
}

// A single_word token must not touch a letter or digit.
static bool stands_alone(const mk_uclass *u, const mk_added_query *q, size_t start, size_t end) {
    if (start > 0) {
        size_t k = mk_uc_back(q->p, start);
        if (is_word(u, q->p + start - k, k)) {
            return false;
        }
    }
    return end >= q->n || !is_word(u, q->p + end, q->n - end);
}

static bool is_space(const mk_uclass *u, const char *p, size_t n) {
    uint16_t cls;
    mk_uc_next(u, p, n, &cls);
    return (cls & MK_C_WS) != 0;
}

static void take_spaces(const mk_added *a, const mk_uclass *u, const mk_added_query *q,
                        size_t *start, size_t *end) {
    while (a->lstrip && *start > q->from) {
        size_t k = mk_uc_back(q->p, *start);
        if (*start - q->from < k || !is_space(u, q->p + *start - k, k)) {
            break;
        }
        *start -= k;
    }
    while (a->rstrip && *end < q->n && is_space(u, q->p + *end, q->n - *end)) {
        uint32_t cp;
        *end += mk_uc_step(q->p + *end, q->n - *end, &cp);
    }
}

int64_t mk_added_find(const mk_added_set *s, const mk_uclass *u, const mk_added_query *q,
                      size_t *start, size_t *end) {
    for (size_t at = q->from; at < q->n; at++) {
        unsigned char b = (unsigned char)q->p[at];
        if (s->first[b] == s->first[b + 1]) {
            continue;
        }
        int64_t i = longest_at(s, q, at);
        if (i < 0) {
            continue;
        }
        *start = at;
        *end = at + s->a[i].n;
        if (s->a[i].single_word && !stands_alone(u, q, *start, *end)) {
            at = *end - 1;
            continue;
        }
        take_spaces(&s->a[i], u, q, start, end);
        return i;
    }
    return -1;
}
