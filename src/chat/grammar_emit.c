// From nodes to instructions.  Each instruction names its successors, so code is written from the
// end: emit(node, next) returns where the node begins if `next` comes after it.
//
// Counted loops keep their count on the machine (ENTER, TEST, NEXT) instead of being written out n
// times.  Their bodies must consume: X{m,n} with an X that may be empty is Y{0,n} with the texts Y
// of X that are not empty (nonempty() below).
#include <string.h>

#include "chat/grammar_int.h"

enum { PC_RET = 0, PC_FAIL = 1, INLINE_WEIGHT = 96, UNROLL_WEIGHT = 16, MAX_LOOP = 1 << 24 };

typedef struct {
    mk_gb *b;
    mk_gfacts *f;
    mk_gprog *p;
    int depth;
} emitter;

void mk_gprog_free(mk_gprog *p) {
    mk_free(p->insn);
    mk_free(p->target);
    mk_free(p->loop);
    mk_free(p->set);
    mk_free(p->start);
    *p = (mk_gprog){0};
}

size_t mk_gprog_bytes(const mk_gprog *p) {
    return p->cap_insn * sizeof(*p->insn) + p->cap_target * sizeof(*p->target) +
           p->cap_loop * sizeof(*p->loop) + p->n_set * sizeof(*p->set) +
           p->n_rule * sizeof(*p->start);
}

static bool room(emitter *e, void **p, size_t *cap, size_t n, size_t elem_bytes) {
    if (!mk_gb_work(e->b, 1)) {
        return false;
    }
    if (n >= UINT32_MAX / 4 || !mk_g_grow(p, cap, n, elem_bytes)) {
        MK_GB_FAIL(e->b, MK_ENOMEM, "no memory for the instructions of a grammar");
        return false;
    }
    return true;
}

static uint32_t put(emitter *e, mk_ginsn x) {
    mk_gprog *p = e->p;
    if (!room(e, (void **)&p->insn, &p->cap_insn, p->n_insn, sizeof(*p->insn))) {
        return PC_FAIL;
    }
    p->insn[p->n_insn] = x;
    return (uint32_t)p->n_insn++;
}

static void put_target(emitter *e, uint32_t x) {
    mk_gprog *p = e->p;
    if (room(e, (void **)&p->target, &p->cap_target, p->n_target, sizeof(*p->target))) {
        p->target[p->n_target++] = x;
    }
}

static uint32_t put_fork(emitter *e, const uint32_t *to, size_t n) {
    if (n == 1) {
        return to[0];
    }
    uint32_t first = (uint32_t)e->p->n_target;
    for (size_t i = 0; i < n; i++) {
        put_target(e, to[i]);
    }
    return put(e, (mk_ginsn){.op = MK_I_FORK, .x = first, .y = (uint32_t)n});
}

static uint32_t put_either(emitter *e, uint32_t x, uint32_t y) {
    return put_fork(e, (uint32_t[]){x, y}, 2);
}

// A fork that is written before its targets are known, for loops.
static uint32_t put_open_fork(emitter *e) {
    return put_either(e, PC_FAIL, PC_FAIL);
}

static void close_fork(emitter *e, uint32_t pc, uint32_t x, uint32_t y) {
    if (e->b->status == MK_OK) {
        uint32_t first = e->p->insn[pc].x;
        e->p->target[first] = x;
        e->p->target[first + 1] = y;
    }
}

static uint8_t flags(const emitter *e, mk_gn node) {
    // Nodes made since the check come from nonempty() and match no empty text.
    return node < e->f->n ? e->f->flag[node] : MK_GF_MATCHES;
}

static uint32_t weight(const emitter *e, mk_gn node) {
    return node < e->f->n ? e->f->weight[node] : UINT32_MAX;
}

static uint32_t emit(emitter *e, mk_gn node, uint32_t next);

// --- nonempty ------------------------------------------------------------------------------------
static mk_gn nonempty(emitter *e, mk_gn node);

// x1 x2 ..., all of which may be empty: the first that is not empty is one of them.
static mk_gn nonempty_seq(emitter *e, mk_gnode x) {
    mk_gnlist alt = {0};
    for (uint32_t i = 0; i < x.n; i++) {
        mk_gnlist seq = {0};
        mk_gnlist_add(e->b, &seq, nonempty(e, e->b->kid[x.first + i]));
        for (uint32_t k = i + 1; k < x.n; k++) {
            mk_gnlist_add(e->b, &seq, e->b->kid[x.first + k]);
        }
        mk_gnlist_add(e->b, &alt, mk_gnlist_seq(e->b, &seq));
    }
    return mk_gnlist_alt(e->b, &alt);
}

static mk_gn nonempty_rule(emitter *e, uint32_t rule) {
    if (e->b->rule[rule].nonempty == 0) {
        uint32_t r = mk_gb_rule(e->b, e->b->rule[rule].name);
        if (e->b->status != MK_OK) {
            return MK_GN_NONE;
        }
        e->b->rule[rule].nonempty = r + 1;
        e->b->rule[r].keep = true;
        mk_gb_rule_set(e->b, r, MK_GN_NONE);
        mk_gb_rule_set(e->b, r, nonempty(e, e->b->rule[rule].node));
    }
    return mk_gb_call(e->b, e->b->rule[rule].nonempty - 1);
}

static mk_gn nonempty(emitter *e, mk_gn node) {
    mk_gnode x = e->b->node[node];
    if ((flags(e, node) & MK_GF_EMPTY) == 0) {
        return node;
    }
    if (!mk_gb_work(e->b, 1) || e->depth >= MK_G_MAX_RECURSION) {
        MK_GB_FAIL(e->b, MK_ELIMIT, "the grammar is nested too deeply");
        return MK_GN_NONE;
    }
    e->depth++;
    mk_gn out = MK_GN_NONE;
    mk_gnlist alt = {0};
    switch ((mk_g_kind)x.kind) {
    case MK_G_SEQ:
        out = nonempty_seq(e, x);
        break;
    case MK_G_ALT:
        for (uint32_t i = 0; i < x.n; i++) {
            mk_gnlist_add(e->b, &alt, nonempty(e, e->b->kid[x.first + i]));
        }
        out = mk_gnlist_alt(e->b, &alt);
        break;
    case MK_G_REPEAT: {
        mk_gn kid = nonempty(e, x.first);
        out = kid == MK_GN_NONE ? kid : mk_gb_repeat(e->b, kid, 1, x.max);
        break;
    }
    case MK_G_RULE:
        out = nonempty_rule(e, x.first);
        break;
    case MK_G_WORDS:
        out = mk_gb_words_rest(e->b, node);
        break;
    case MK_G_LIST:  // only JSON objects are lists, and they have braces around
        MK_GB_FAIL(e->b, MK_EUNSUPPORTED, "a list that may be empty is repeated");
        break;
    default:
        break;
    }
    e->depth--;
    return out;
}

// --- words ---------------------------------------------------------------------------------------
static uint32_t emit_bytes(emitter *e, uint32_t first, uint32_t n, uint32_t next) {
    for (uint32_t i = n; i > 0; i--) {
        uint8_t c = (uint8_t)e->b->text[first + i - 1];
        next = put(e, (mk_ginsn){.op = MK_I_RANGE, .lo = c, .hi = c, .x = next});
    }
    return next;
}

typedef struct {
    uint32_t first;  // pairs of the words
    uint32_t next;
} words;

static uint32_t emit_words(emitter *e, const words *w, uint32_t lo, uint32_t hi, uint32_t done);

static uint32_t emit_branches(emitter *e, const words *w, uint32_t lo, uint32_t hi, uint32_t at) {
    uint32_t pair[512], n = 0;
    while (lo < hi) {
        uint8_t c = (uint8_t)e->b->text[e->b->kid[w->first + 2 * lo] + at];
        uint32_t end = lo + 1;
        while (end < hi && (uint8_t)e->b->text[e->b->kid[w->first + 2 * end] + at] == c) {
            end++;
        }
        pair[2 * n] = c;
        pair[2 * n + 1] = emit_words(e, w, lo, end, at + 1);
        n++;
        lo = end;
    }
    uint32_t first = (uint32_t)e->p->n_target;
    for (uint32_t i = 0; i < 2 * n; i++) {
        put_target(e, pair[i]);
    }
    return put(e, (mk_ginsn){.op = MK_I_SWITCH, .x = first, .y = n});
}

// Words lo..hi, sorted, which share their first `done` bytes: what they share beyond is a chain,
// then the next byte decides.
static uint32_t emit_words(emitter *e, const words *w, uint32_t lo, uint32_t hi, uint32_t done) {
    const uint32_t *kid = e->b->kid + w->first;
    uint32_t n_first = kid[2 * lo + 1], n_last = kid[2 * (hi - 1) + 1], at = done;
    const char *x = e->b->text + kid[2 * lo], *y = e->b->text + kid[2 * (hi - 1)];
    while (at < n_first && at < n_last && x[at] == y[at]) {
        at++;
    }
    if (!mk_gb_work(e->b, 1) || e->depth >= MK_G_MAX_RECURSION) {
        MK_GB_FAIL(e->b, MK_ELIMIT, "the words of a grammar extend each other too often");
        return PC_FAIL;
    }
    e->depth++;
    uint32_t pc = w->next;
    if (hi - lo > 1 && at == n_first) {  // the first ends here, the others go on
        uint32_t more = emit_branches(e, w, lo + 1, hi, at);
        pc = put_either(e, w->next, more);
    } else if (hi - lo > 1) {
        pc = emit_branches(e, w, lo, hi, at);
    }
    e->depth--;
    return emit_bytes(e, e->b->kid[w->first + 2 * lo] + done, at - done, pc);
}

// --- repetition ----------------------------------------------------------------------------------
static uint32_t emit_star(emitter *e, mk_gn kid, uint32_t min, uint32_t next) {
    uint32_t fork = put_open_fork(e), body = emit(e, kid, fork);
    close_fork(e, fork, body, next);
    return min == 0 ? fork : body;
}

static uint32_t emit_counted(emitter *e, mk_gn kid, uint32_t min, uint32_t max, uint32_t next) {
    mk_gprog *p = e->p;
    uint32_t loop = (uint32_t)p->n_loop;
    if (p->n_loop >= MAX_LOOP ||
        !room(e, (void **)&p->loop, &p->cap_loop, p->n_loop, sizeof(*p->loop))) {
        MK_GB_FAIL(e->b, MK_ELIMIT, "the grammar has too many repetitions");
        return PC_FAIL;
    }
    p->loop[p->n_loop++] = (mk_gloop){min, max, next};
    uint32_t test = put(e, (mk_ginsn){.op = MK_I_TEST, .y = loop});
    uint32_t again = put(e, (mk_ginsn){.op = MK_I_NEXT, .x = test, .y = loop});
    uint32_t body = emit(e, kid, again);
    if (e->b->status == MK_OK) {
        p->insn[test].x = body;
    }
    return put(e, (mk_ginsn){.op = MK_I_ENTER, .x = test, .y = loop});
}

static uint32_t emit_unrolled(emitter *e, mk_gn kid, uint32_t min, uint32_t max, uint32_t next) {
    uint32_t pc = next;
    for (uint32_t i = max; i > 0; i--) {
        pc = emit(e, kid, pc);
        if (i > min) {
            pc = put_either(e, pc, next);
        }
    }
    return pc;
}

static uint32_t emit_repeat(emitter *e, mk_gnode x, uint32_t next) {
    mk_gn kid = x.first;
    uint32_t min = x.min, max = x.max;
    if ((flags(e, kid) & MK_GF_MATCHES) == 0) {
        return min == 0 ? next : PC_FAIL;
    }
    if ((flags(e, kid) & MK_GF_EMPTY) != 0) {
        min = 0;
        if (max != 1 && max != MK_G_INF) {
            kid = nonempty(e, kid);
            if (kid == MK_GN_NONE || kid == MK_GN_EMPTY) {
                return next;
            }
        }
    }
    if (min == 0 && max == 1) {
        return put_either(e, emit(e, kid, next), next);
    }
    if (min <= 1 && max == MK_G_INF) {
        return emit_star(e, kid, min, next);
    }
    if (max != MK_G_INF && (uint64_t)weight(e, kid) * max <= UNROLL_WEIGHT) {
        return emit_unrolled(e, kid, min, max, next);
    }
    return emit_counted(e, kid, min, max, next);
}

// --- the rest ------------------------------------------------------------------------------------
static uint32_t emit_alt(emitter *e, mk_gnode x, uint32_t next) {
    uint32_t *to = mk_try_alloc(x.n, sizeof(*to)), n = 0, pc = PC_FAIL;
    if (to == NULL) {
        MK_GB_FAIL(e->b, MK_ENOMEM, "no memory for the instructions of a grammar");
        return PC_FAIL;
    }
    for (uint32_t i = 0; i < x.n; i++) {
        mk_gn kid = e->b->kid[x.first + i];
        if ((flags(e, kid) & MK_GF_MATCHES) != 0) {
            to[n++] = emit(e, kid, next);
        }
    }
    if (n > 0) {
        pc = put_fork(e, to, n);
    }
    mk_free(to);
    return pc;
}

static uint32_t emit_seq(emitter *e, mk_gnode x, uint32_t next) {
    for (uint32_t i = x.n; i > 0; i--) {
        next = emit(e, e->b->kid[x.first + i - 1], next);
    }
    return next;
}

// From the last kid to the first, with two places before each: `fresh`, where nothing of the list
// has been written yet, and `more`, where a separator comes first.  Both use the same code of the
// kid itself, so the code is as long as the list.
static uint32_t emit_list(emitter *e, mk_gnode x, uint32_t next) {
    uint32_t fresh = next, more = next;
    for (uint32_t i = x.n; i > 0; i--) {
        uint32_t kid = e->b->kid[x.first + i - 1], node = kid & MK_G_KID;
        bool may_lack = (kid & ~MK_G_KID) != 0;
        if (may_lack && (flags(e, node) & MK_GF_MATCHES) == 0) {
            continue;
        }
        uint32_t again = (kid & MK_G_MANY) != 0 ? put_open_fork(e) : more;
        uint32_t start = emit(e, node, again), behind = emit(e, x.min, start);
        if ((kid & MK_G_MANY) != 0) {
            close_fork(e, again, behind, more);
            more = again;
        } else {
            more = may_lack ? put_either(e, behind, more) : behind;
        }
        fresh = may_lack ? put_either(e, start, fresh) : start;
    }
    return fresh;
}

static uint32_t emit_rule(emitter *e, uint32_t rule, uint32_t next) {
    const mk_grule *r = &e->b->rule[rule];
    if (!r->keep && weight(e, r->node) <= INLINE_WEIGHT) {
        return emit(e, r->node, next);
    }
    if (next == PC_RET) {
        return put(e, (mk_ginsn){.op = MK_I_JUMP, .x = rule});
    }
    return put(e, (mk_ginsn){.op = MK_I_CALL, .x = rule, .y = next});
}

static uint32_t emit(emitter *e, mk_gn node, uint32_t next) {
    if (!mk_gb_work(e->b, 1)) {
        return PC_FAIL;
    }
    if (e->depth >= MK_G_MAX_RECURSION) {
        MK_GB_FAIL(e->b, MK_ELIMIT, "the grammar is nested too deeply");
        return PC_FAIL;
    }
    if ((flags(e, node) & MK_GF_MATCHES) == 0) {
        return PC_FAIL;
    }
    mk_gnode x = e->b->node[node];  // a copy: nonempty() moves the nodes
    e->depth++;
    uint32_t pc = PC_FAIL;
    switch ((mk_g_kind)x.kind) {
    case MK_G_EMPTY:
        pc = next;
        break;
    case MK_G_NONE:
        break;
    case MK_G_BYTES:
        pc = emit_bytes(e, x.first, x.n, next);
        break;
    case MK_G_RANGE:
        pc = put(e, (mk_ginsn){MK_I_RANGE, (uint8_t)x.min, (uint8_t)x.max, next, 0});
        break;
    case MK_G_SET:
        pc = put(e, (mk_ginsn){.op = MK_I_SET, .x = next, .y = x.first});
        break;
    case MK_G_SEQ:
        pc = emit_seq(e, x, next);
        break;
    case MK_G_ALT:
        pc = emit_alt(e, x, next);
        break;
    case MK_G_REPEAT:
        pc = emit_repeat(e, x, next);
        break;
    case MK_G_RULE:
        pc = emit_rule(e, x.first, next);
        break;
    case MK_G_LIST:
        pc = emit_list(e, x, next);
        break;
    case MK_G_WORDS: {
        words w = {x.first, next};
        pc = emit_words(e, &w, 0, x.n / 2, 0);
        break;
    }
    }
    e->depth--;
    return pc;
}

// --- classes of bytes ----------------------------------------------------------------------------
static bool has(const mk_byteset *s, unsigned c) {
    return (s->bit[c / 64] >> (c % 64) & 1) != 0;
}

static void split(mk_gprog *p, const mk_byteset *s) {
    int16_t inside[256];
    unsigned n = p->n_class, size[256] = {0}, in[256] = {0};
    for (unsigned c = 0; c < 256; c++) {
        size[p->class_of[c]]++;
        in[p->class_of[c]] += has(s, c);
        inside[c] = -1;
    }
    for (unsigned c = 0; c < 256; c++) {
        unsigned k = p->class_of[c];
        if (has(s, c) && in[k] != size[k]) {
            if (inside[k] < 0) {
                inside[k] = (int16_t)n++;
            }
            p->class_of[c] = (uint8_t)inside[k];
        }
    }
    p->n_class = n;
}

static void split_range(mk_gprog *p, unsigned lo, unsigned hi) {
    mk_byteset s = {{0}};
    for (unsigned c = lo; c <= hi; c++) {
        s.bit[c / 64] |= UINT64_C(1) << (c % 64);
    }
    split(p, &s);
}

static void find_classes(mk_gprog *p) {
    uint64_t done[256][4] = {{0}};  // ranges looked at
    p->n_class = 1;
    for (size_t i = 0; i < p->n_set; i++) {
        split(p, &p->set[i]);
    }
    for (size_t i = 0; i < p->n_insn; i++) {
        const mk_ginsn *x = &p->insn[i];
        if (x->op == MK_I_RANGE && (done[x->lo][x->hi / 64] >> (x->hi % 64) & 1) == 0) {
            done[x->lo][x->hi / 64] |= UINT64_C(1) << (x->hi % 64);
            split_range(p, x->lo, x->hi);
        } else if (x->op == MK_I_SWITCH) {
            for (uint32_t k = 0; k < x->y; k++) {
                unsigned c = p->target[x->x + 2 * k] & 255;
                if ((done[c][c / 64] >> (c % 64) & 1) == 0) {
                    done[c][c / 64] |= UINT64_C(1) << (c % 64);
                    split_range(p, c, c);
                }
            }
        }
    }
    for (unsigned c = 256; c-- > 0;) {
        p->byte_of_class[p->class_of[c]] = (uint8_t)c;
    }
}

mk_status mk_gprog_emit(mk_gb *b, uint32_t root, mk_gfacts *f, mk_gprog *out) {
    emitter e = {.b = b, .f = f, .p = out};
    uint32_t *start = NULL;
    size_t cap = 0;
    *out = (mk_gprog){.root = root};
    put(&e, (mk_ginsn){.op = MK_I_RET});
    put(&e, (mk_ginsn){.op = MK_I_FAIL});
    // nonempty() adds rules while we go
    for (size_t i = 0; i < b->n_rule && b->status == MK_OK; i++) {
        if (!mk_g_grow((void **)&start, &cap, i, sizeof(*start))) {
            MK_GB_FAIL(b, MK_ENOMEM, "no memory for the rules of a grammar");
            break;
        }
        start[i] = emit(&e, b->rule[i].node, PC_RET);
    }
    out->start = start;
    out->n_rule = b->n_rule;
    out->set = mk_try_alloc(b->n_set + 1, sizeof(*out->set));
    if (out->set == NULL) {
        MK_GB_FAIL(b, MK_ENOMEM, "no memory for the instructions of a grammar");
    }
    if (b->status != MK_OK) {
        mk_gprog_free(out);
        return b->status;
    }
    if (b->n_set > 0) {
        memcpy(out->set, b->set, b->n_set * sizeof(*out->set));
    }
    out->n_set = b->n_set;
    find_classes(out);
    return MK_OK;
}
