// Nodes of a grammar that is being built; see grammar_int.h.
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "chat/grammar_int.h"

#define DEFAULT_MAX_BYTES ((size_t)64 << 20)
#define DEFAULT_MAX_MS    1000
// What one unit of work stands for in memory, about: a node, and the instructions it becomes.
enum { UNIT_BYTES = 32, CLOCK_EVERY = 4096 };

bool mk_g_grow(void **p, size_t *cap, size_t n, size_t elem_bytes) {
    if (n < *cap) {
        return true;
    }
    size_t more = *cap < 16 ? 16 : *cap * 2;
    void *q = mk_try_realloc(*p, more, elem_bytes);
    if (q == NULL) {
        return false;
    }
    *p = q;
    *cap = more;
    return true;
}

static bool grow(mk_gb *b, void **p, size_t *cap, size_t n, size_t elem_bytes) {
    if (b->status != MK_OK) {
        return false;
    }
    if (n >= UINT32_MAX / 4 || !mk_g_grow(p, cap, n, elem_bytes)) {
        MK_GB_FAIL(b, MK_ENOMEM, "no memory for a grammar");
        return false;
    }
    return true;
}

bool mk_gb_work(mk_gb *b, size_t units) {
    size_t before = b->n_work / CLOCK_EVERY;
    b->n_work += units;
    if (b->status == MK_OK && b->n_work > b->max_bytes / UNIT_BYTES) {
        MK_GB_FAIL(b, MK_ELIMIT, "the grammar needs more than its budget of %zu bytes",
                   b->max_bytes);
    }
    if (b->status == MK_OK && b->n_work / CLOCK_EVERY != before && mk_now_ns() > b->end_ns) {
        MK_GB_FAIL(b, MK_ELIMIT, "compiling the grammar took longer than its budget of %lld ms",
                   (long long)b->max_ms);
    }
    return b->status == MK_OK;
}

static mk_gn add(mk_gb *b, mk_gnode x) {
    if (!mk_gb_work(b, 1) ||
        !grow(b, (void **)&b->node, &b->cap_node, b->n_node, sizeof(*b->node))) {
        return MK_GN_EMPTY;
    }
    b->node[b->n_node] = x;
    return (mk_gn)b->n_node++;
}

void mk_gb_init(mk_gb *b, const mk_grammar_limits *limits, mk_err *err) {
    *b = (mk_gb){.err = err, .max_bytes = DEFAULT_MAX_BYTES, .max_ms = DEFAULT_MAX_MS};
    b->how = (mk_gvalues){.avoid = "", .quote = "\""};
    if (limits != NULL && limits->max_bytes > 0) {
        b->max_bytes = limits->max_bytes;
    }
    if (limits != NULL && limits->max_ms > 0) {
        b->max_ms = limits->max_ms;
    }
    b->end_ns = mk_now_ns() + (uint64_t)b->max_ms * 1000000u;
    add(b, (mk_gnode){.kind = MK_G_EMPTY});
    add(b, (mk_gnode){.kind = MK_G_NONE});
}

void mk_gb_free(mk_gb *b) {
    for (size_t i = 0; i < b->n_rule; i++) {
        mk_free(b->rule[i].name);
    }
    mk_free(b->rule);
    mk_free(b->node);
    mk_free(b->kid);
    mk_free(b->text);
    mk_free(b->set);
    *b = (mk_gb){.status = b->status, .err = b->err};
}

static uint32_t keep_text(mk_gb *b, const char *p, size_t n) {
    size_t at = b->n_text, need = 0;
    if (!mk_gb_work(b, n)) {
        return 0;
    }
    if (!mk_add_size(at, n, &need) || need > UINT32_MAX / 4) {
        MK_GB_FAIL(b, MK_ELIMIT, "the texts of a grammar are more than 1 GiB");
        return 0;
    }
    while (need > b->cap_text) {
        if (!grow(b, (void **)&b->text, &b->cap_text, b->cap_text, 1)) {
            return 0;
        }
    }
    if (n > 0) {
        memcpy(b->text + at, p, n);
    }
    b->n_text = need;
    return (uint32_t)at;
}

mk_gn mk_gb_bytes(mk_gb *b, const char *p, size_t n) {
    if (n == 0) {
        return MK_GN_EMPTY;
    }
    uint32_t at = keep_text(b, p, n);
    return add(b, (mk_gnode){.kind = MK_G_BYTES, .first = at, .n = (uint32_t)n});
}

mk_gn mk_gb_text(mk_gb *b, const char *s) {
    return mk_gb_bytes(b, s, strlen(s));
}

mk_gn mk_gb_range(mk_gb *b, unsigned lo, unsigned hi) {
    return add(b, (mk_gnode){.kind = MK_G_RANGE, .min = lo, .max = hi});
}

mk_gn mk_gb_set(mk_gb *b, const mk_byteset *s) {
    size_t i = 0;
    while (i < b->n_set && memcmp(&b->set[i], s, sizeof(*s)) != 0) {
        i++;
    }
    if (i == b->n_set) {
        if (!mk_gb_work(b, i) ||  // they are searched one after the other
            !grow(b, (void **)&b->set, &b->cap_set, b->n_set, sizeof(*b->set))) {
            return MK_GN_EMPTY;
        }
        b->set[b->n_set++] = *s;
    }
    return add(b, (mk_gnode){.kind = MK_G_SET, .first = (uint32_t)i});
}

mk_gn mk_gb_oneof(mk_gb *b, const char *chars) {
    mk_byteset s = {{0}};
    for (; *chars != '\0'; chars++) {
        s.bit[(uint8_t)*chars / 64] |= UINT64_C(1) << ((uint8_t)*chars % 64);
    }
    return mk_gb_set(b, &s);
}

static mk_gn add_kids(mk_gb *b, mk_gnode x, const uint32_t *kid, size_t n) {
    x.first = (uint32_t)b->n_kid;
    x.n = (uint32_t)n;
    if (!mk_gb_work(b, n)) {
        return MK_GN_EMPTY;
    }
    for (size_t i = 0; i < n; i++) {
        if (!grow(b, (void **)&b->kid, &b->cap_kid, b->n_kid, sizeof(*b->kid))) {
            return MK_GN_EMPTY;
        }
        b->kid[b->n_kid++] = kid[i];
    }
    return add(b, x);
}

mk_gn mk_gb_seq(mk_gb *b, const mk_gn *kid, size_t n) {
    size_t n_real = 0, last = 0;
    for (size_t i = 0; i < n; i++) {
        if (kid[i] == MK_GN_NONE) {
            return MK_GN_NONE;
        }
        if (kid[i] != MK_GN_EMPTY) {
            n_real++;
            last = i;
        }
    }
    if (n_real <= 1) {
        return n_real == 0 ? MK_GN_EMPTY : kid[last];
    }
    return add_kids(b, (mk_gnode){.kind = MK_G_SEQ}, kid, n);
}

mk_gn mk_gb_seq2(mk_gb *b, mk_gn x, mk_gn y) {
    return mk_gb_seq(b, (mk_gn[]){x, y}, 2);
}

mk_gn mk_gb_seq3(mk_gb *b, mk_gn x, mk_gn y, mk_gn z) {
    return mk_gb_seq(b, (mk_gn[]){x, y, z}, 3);
}

mk_gn mk_gb_alt2(mk_gb *b, mk_gn x, mk_gn y) {
    return mk_gb_alt(b, (mk_gn[]){x, y}, 2);
}

mk_gn mk_gb_repeat(mk_gb *b, mk_gn kid, uint32_t min, uint32_t max) {
    if (max == 0 || kid == MK_GN_EMPTY) {
        return MK_GN_EMPTY;
    }
    if (min == 1 && max == 1) {
        return kid;
    }
    return add(b, (mk_gnode){.kind = MK_G_REPEAT, .first = kid, .min = min, .max = max});
}

mk_gn mk_gb_list(mk_gb *b, const uint32_t *kid, size_t n, mk_gn separator) {
    if (n == 0) {
        return MK_GN_EMPTY;
    }
    return add_kids(b, (mk_gnode){.kind = MK_G_LIST, .min = separator}, kid, n);
}

// Pairs (place, length) of text that was kept.
static int by_text(const void *x, const void *y, void *text) {
    const uint32_t *a = x, *b = y;
    uint32_t n = a[1] < b[1] ? a[1] : b[1];
    int c = n == 0 ? 0 : memcmp((char *)text + a[0], (char *)text + b[0], n);
    return c != 0 ? c : (a[1] > b[1]) - (a[1] < b[1]);
}

static mk_gn words(mk_gb *b, uint32_t *pair, size_t n) {
    size_t out = 0;
    if (b->status != MK_OK) {
        return MK_GN_EMPTY;
    }
    qsort_r(pair, n, 2 * sizeof(*pair), by_text, b->text);
    for (size_t i = 0; i < n; i++) {
        if (out == 0 || by_text(&pair[2 * out - 2], &pair[2 * i], b->text) != 0) {
            pair[2 * out] = pair[2 * i];
            pair[2 * out + 1] = pair[2 * i + 1];
            out++;
        }
    }
    return add_kids(b, (mk_gnode){.kind = MK_G_WORDS}, pair, 2 * out);
}

mk_gn mk_gb_words(mk_gb *b, const mk_gword *w, size_t n) {
    if (n <= 1) {
        return n == 0 ? MK_GN_NONE : mk_gb_bytes(b, w[0].p, w[0].n);
    }
    uint32_t *pair = mk_try_alloc(n, 2 * sizeof(*pair));
    if (pair == NULL) {
        MK_GB_FAIL(b, MK_ENOMEM, "no memory for %zu words of a grammar", n);
        return MK_GN_EMPTY;
    }
    for (size_t i = 0; i < n && b->status == MK_OK; i++) {
        pair[2 * i] = keep_text(b, w[i].p, w[i].n);
        pair[2 * i + 1] = (uint32_t)w[i].n;
    }
    mk_gn out = words(b, pair, n);
    mk_free(pair);
    return out;
}

mk_gn mk_gb_words_rest(mk_gb *b, mk_gn node) {
    mk_gnode x = b->node[node];
    x.first += 2;
    x.n -= 2;
    return x.n == 0 ? MK_GN_NONE : add(b, x);
}

static bool all_bytes(const mk_gb *b, const mk_gn *kid, size_t n) {
    for (size_t i = 0; i < n; i++) {
        if (b->node[kid[i]].kind != MK_G_BYTES) {
            return false;
        }
    }
    return true;
}

mk_gn mk_gb_alt(mk_gb *b, const mk_gn *kid, size_t n) {
    if (n <= 1) {
        return n == 0 ? MK_GN_NONE : kid[0];
    }
    if (b->status != MK_OK || !all_bytes(b, kid, n)) {
        return add_kids(b, (mk_gnode){.kind = MK_G_ALT}, kid, n);
    }
    uint32_t *pair = mk_try_alloc(n, 2 * sizeof(*pair));
    if (pair == NULL) {
        MK_GB_FAIL(b, MK_ENOMEM, "no memory for %zu words of a grammar", n);
        return MK_GN_EMPTY;
    }
    for (size_t i = 0; i < n; i++) {
        pair[2 * i] = b->node[kid[i]].first;
        pair[2 * i + 1] = b->node[kid[i]].n;
    }
    mk_gn out = words(b, pair, n);
    mk_free(pair);
    return out;
}

uint32_t mk_gb_rule(mk_gb *b, const char *name) {
    if (!mk_gb_work(b, 4) ||
        !grow(b, (void **)&b->rule, &b->cap_rule, b->n_rule, sizeof(*b->rule))) {
        return 0;
    }
    size_t n = strnlen(name, 200);
    char *copy = mk_try_alloc(n + 1, 1);
    if (copy == NULL) {
        MK_GB_FAIL(b, MK_ENOMEM, "no memory for the name of a rule");
        return 0;
    }
    memcpy(copy, name, n);
    b->rule[b->n_rule] = (mk_grule){.name = copy};
    return (uint32_t)b->n_rule++;
}

void mk_gb_rule_set(mk_gb *b, uint32_t rule, mk_gn node) {
    if (b->status == MK_OK) {
        b->rule[rule].node = node;
        b->rule[rule].set = true;
    }
}

mk_gn mk_gb_call(mk_gb *b, uint32_t rule) {
    return add(b, (mk_gnode){.kind = MK_G_RULE, .first = rule});
}

void mk_gnlist_add(mk_gb *b, mk_gnlist *l, mk_gn x) {
    if (grow(b, (void **)&l->v, &l->cap, l->n, sizeof(*l->v))) {
        l->v[l->n++] = x;
    }
}

mk_gn mk_gnlist_seq(mk_gb *b, mk_gnlist *l) {
    mk_gn out = mk_gb_seq(b, l->v, l->n);
    mk_free(l->v);
    *l = (mk_gnlist){0};
    return out;
}

mk_gn mk_gnlist_alt(mk_gb *b, mk_gnlist *l) {
    mk_gn out = mk_gb_alt(b, l->v, l->n);
    mk_free(l->v);
    *l = (mk_gnlist){0};
    return out;
}
