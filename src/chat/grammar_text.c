// Text up to a mark: the automaton of Knuth, Morris and Pratt as rules, one per length of what the
// text ends with of the mark.
#include <string.h>

#include "chat/grammar_int.h"

enum { MAX_MARK = 63 };

typedef struct {
    mk_gb *b;
    const mk_guntil *o;
    size_t n;
    uint32_t rule[MAX_MARK];
} until;

mk_byteset mk_g_text_bytes(void) {
    mk_byteset s;
    memset(&s, 0xff, sizeof(s));
    s.bit[MK_GRAMMAR_TOKEN / 64] &= ~(UINT64_C(1) << (MK_GRAMMAR_TOKEN % 64));
    return s;
}

static bool has(const mk_byteset *s, unsigned c) {
    return (s->bit[c / 64] >> (c % 64) & 1) != 0;
}

// The longest beginning of `mark` that mark[0..n) and then byte c end with.
static size_t next_state(const char *mark, size_t n, char c) {
    for (size_t k = n + 1; k > 0; k--) {
        if (mark[k - 1] == c && memcmp(mark, mark + n + 1 - k, k - 1) == 0) {
            return k;
        }
    }
    return 0;
}

// What may follow where the text ends with i bytes of the mark, if the next byte is one of `set`.
static mk_gn follow(const until *u, size_t i, mk_byteset set) {
    const char *mark = u->o->mark;
    mk_gb *b = u->b;
    mk_gnlist l = {0};
    mk_gnlist_add(b, &l, MK_GN_EMPTY);
    for (size_t k = 0; k < u->n; k++) {
        unsigned c = (unsigned char)mark[k];
        size_t to = next_state(mark, i, mark[k]);
        if (to > 0 && has(&set, c)) {
            mk_gn then = to == u->n ? u->o->then : mk_gb_call(b, u->rule[to]);
            mk_gnlist_add(b, &l, mk_gb_seq2(b, mk_gb_bytes(b, &mark[k], 1), then));
            set.bit[c / 64] &= ~(UINT64_C(1) << (c % 64));
        }
    }
    mk_gn again = mk_gb_call(b, u->rule[0]);
    mk_gnlist_add(b, &l, mk_gb_seq2(b, mk_gb_set(b, &set), again));
    if (u->o->escape != MK_GN_NONE) {
        mk_gnlist_add(b, &l, mk_gb_seq2(b, u->o->escape, again));
    }
    return mk_gnlist_alt(b, &l);
}

mk_gn mk_gb_until(mk_gb *b, const mk_guntil *o) {
    until u = {.b = b, .o = o, .n = strlen(o->mark)};
    if (u.n == 0 || u.n > MAX_MARK) {
        MK_GB_FAIL(b, MK_EUNSUPPORTED, "\"%.80s\": a mark of 1 to %d bytes is expected", o->mark,
                   MAX_MARK);
        return MK_GN_EMPTY;
    }
    for (size_t i = 0; i < u.n; i++) {
        u.rule[i] = mk_gb_rule(b, "text");
    }
    for (size_t i = 0; i < u.n && b->status == MK_OK; i++) {
        mk_gb_rule_set(b, u.rule[i], follow(&u, i, *o->plain));
    }
    return o->first != NULL ? follow(&u, 0, *o->first) : mk_gb_call(b, u.rule[0]);
}
