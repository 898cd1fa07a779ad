// Facts about the nodes of a grammar, and what makes one impossible to run.
#include "chat/grammar_int.h"

enum { BIG = 1 << 20 };

void mk_gfacts_free(mk_gfacts *f) {
    mk_free(f->flag);
    mk_free(f->weight);
    *f = (mk_gfacts){0};
}

static uint8_t rule_flag(const mk_gb *b, const mk_gfacts *f, uint32_t rule) {
    return f->flag[b->rule[rule].node];
}

static uint8_t seq_flag(const mk_gb *b, const mk_gfacts *f, const mk_gnode *x) {
    uint8_t all = MK_GF_EMPTY | MK_GF_MATCHES;
    for (uint32_t i = 0; i < x->n; i++) {
        all &= f->flag[b->kid[x->first + i]];
    }
    return all;
}

static uint8_t list_flag(const mk_gb *b, const mk_gfacts *f, const mk_gnode *x) {
    uint8_t all = MK_GF_EMPTY | MK_GF_MATCHES;
    for (uint32_t i = 0; i < x->n; i++) {
        uint32_t kid = b->kid[x->first + i];
        if ((kid & (MK_G_OPTIONAL | MK_G_MANY)) == 0) {
            all &= f->flag[kid & MK_G_KID];
        }
    }
    return all;
}

static uint8_t flag_of(const mk_gb *b, const mk_gfacts *f, const mk_gnode *x) {
    uint8_t any = 0;
    switch ((mk_g_kind)x->kind) {
    case MK_G_EMPTY:
        return MK_GF_EMPTY | MK_GF_MATCHES;
    case MK_G_NONE:
        return 0;
    case MK_G_BYTES:
    case MK_G_RANGE:
    case MK_G_SET:
        return MK_GF_MATCHES;
    case MK_G_SEQ:
        return seq_flag(b, f, x);
    case MK_G_LIST:
        return list_flag(b, f, x);
    case MK_G_ALT:
        for (uint32_t i = 0; i < x->n; i++) {
            any |= f->flag[b->kid[x->first + i]];
        }
        return any;
    case MK_G_REPEAT:
        return x->min == 0 ? MK_GF_EMPTY | MK_GF_MATCHES : f->flag[x->first];
    case MK_G_RULE:
        return rule_flag(b, f, x->first);
    case MK_G_WORDS:  // sorted: the empty one is the first
        return b->kid[x->first + 1] == 0 ? MK_GF_EMPTY | MK_GF_MATCHES : MK_GF_MATCHES;
    }
    return 0;
}

static uint32_t weight_of(const mk_gb *b, const mk_gfacts *f, const mk_gnode *x) {
    uint64_t sum = 1;
    switch ((mk_g_kind)x->kind) {
    case MK_G_BYTES:
        sum = x->n;
        break;
    case MK_G_SEQ:
    case MK_G_ALT:
    case MK_G_LIST:
        for (uint32_t i = 0; i < x->n; i++) {
            sum += f->weight[b->kid[x->first + i] & MK_G_KID];
        }
        break;
    case MK_G_REPEAT:
        sum += f->weight[x->first];
        break;
    case MK_G_RULE: {
        const mk_grule *r = &b->rule[x->first];
        sum = r->keep ? BIG : f->weight[r->node];
        break;
    }
    case MK_G_WORDS:
        for (uint32_t i = 1; i < x->n; i += 2) {
            sum += b->kid[x->first + i];
        }
        break;
    default:
        break;
    }
    return sum > BIG ? BIG : (uint32_t)sum;
}

// Flags grow from nothing until no pass adds any.  Passes are bounded by the budget of work.
static bool find_flags(mk_gb *b, mk_gfacts *f) {
    for (bool changed = true; changed;) {
        changed = false;
        if (!mk_gb_work(b, f->n / 64 + 1)) {
            return false;
        }
        for (size_t i = 0; i < f->n; i++) {
            uint8_t now = flag_of(b, f, &b->node[i]);
            // rules that are set before their callers, and those after: both settle
            changed |= now != f->flag[i];
            f->flag[i] = now;
        }
    }
    return true;
}

// --- left recursion ------------------------------------------------------------------------------
// A walk over the nodes that may stand at the left end of a rule; a node that is met again while it
// is open closes a cycle.  The stack is our own: grammars may be deep.
typedef struct {
    mk_gn node;
    uint32_t next;  // kid to look at
} frame;

enum { NEW, OPEN, DONE };

// The next node that may be at the left end of x, from kid *at on; false if there is none.
static bool next_left(const mk_gb *b, const mk_gfacts *f, const mk_gnode *x, uint32_t *at,
                      mk_gn *out) {
    uint32_t i = (*at)++;
    switch ((mk_g_kind)x->kind) {
    case MK_G_ALT:
        *out = i < x->n ? b->kid[x->first + i] : 0;
        return i < x->n;
    case MK_G_SEQ:
        if (i >= x->n || (i > 0 && (f->flag[b->kid[x->first + i - 1]] & MK_GF_EMPTY) == 0)) {
            return false;
        }
        *out = b->kid[x->first + i];
        return true;
    case MK_G_LIST:
        if (i >= x->n || (i > 0 && (b->kid[x->first + i - 1] & ~MK_G_KID) == 0)) {
            return false;
        }
        *out = b->kid[x->first + i] & MK_G_KID;
        return true;
    case MK_G_REPEAT:
        *out = x->first;
        return i == 0;
    case MK_G_RULE:
        *out = b->rule[x->first].node;
        return i == 0;
    default:
        return false;
    }
}

static void name_cycle(mk_gb *b, const frame *st, size_t n, mk_gn again) {
    for (size_t i = n; i-- > 0;) {
        const mk_gnode *x = &b->node[st[i].node];
        if (x->kind == MK_G_RULE) {
            MK_GB_FAIL(b, MK_EUNSUPPORTED,
                       "%s: the rule begins with itself (left recursion); write it so that "
                       "something comes before it",
                       b->rule[x->first].name);
            return;
        }
        if (st[i].node == again) {
            break;
        }
    }
    MK_GB_FAIL(b, MK_EUNSUPPORTED, "a rule begins with itself (left recursion)");
}

static bool push_left(mk_gb *b, frame **st, size_t *n, size_t *cap, mk_gn node) {
    if (!mk_gb_work(b, 1)) {
        return false;
    }
    if (!mk_g_grow((void **)st, cap, *n, sizeof(**st))) {
        MK_GB_FAIL(b, MK_ENOMEM, "no memory to check a grammar");
        return false;
    }
    (*st)[(*n)++] = (frame){node, 0};
    return true;
}

static bool walk_left(mk_gb *b, const mk_gfacts *f, uint8_t *mark, mk_gn root) {
    frame *st = NULL;
    size_t n = 0, cap = 0;
    bool ok = push_left(b, &st, &n, &cap, root);
    mark[root] = OPEN;
    while (ok && n > 0) {
        frame *top = &st[n - 1];
        mk_gn to = 0;
        if (!next_left(b, f, &b->node[top->node], &top->next, &to)) {
            mark[top->node] = DONE;
            n--;
        } else if (mark[to] == OPEN) {
            name_cycle(b, st, n, to);
            ok = false;
        } else if (mark[to] == NEW) {
            mark[to] = OPEN;
            ok = push_left(b, &st, &n, &cap, to);
        }
    }
    mk_free(st);
    return ok;
}

static bool check_left(mk_gb *b, const mk_gfacts *f) {
    uint8_t *mark = mk_try_alloc(f->n, 1);
    if (mark == NULL) {
        MK_GB_FAIL(b, MK_ENOMEM, "no memory to check a grammar");
        return false;
    }
    bool ok = true;
    for (size_t i = 0; i < b->n_rule && ok; i++) {
        if (mark[b->rule[i].node] == NEW) {
            ok = walk_left(b, f, mark, b->rule[i].node);
        }
    }
    mk_free(mark);
    return ok;
}

mk_status mk_gb_check(mk_gb *b, uint32_t root, mk_gfacts *f) {
    *f = (mk_gfacts){.n = b->n_node};
    for (size_t i = 0; i < b->n_rule && b->status == MK_OK; i++) {
        if (!b->rule[i].set) {
            MK_GB_FAIL(b, MK_EUSAGE, "%s: the rule is used and nowhere defined", b->rule[i].name);
        }
    }
    if (b->status != MK_OK) {
        return b->status;
    }
    f->flag = mk_try_alloc(f->n, 1);
    f->weight = mk_try_alloc(f->n, sizeof(*f->weight));
    if (f->flag == NULL || f->weight == NULL) {
        MK_GB_FAIL(b, MK_ENOMEM, "no memory to check a grammar");
        return b->status;
    }
    if (!find_flags(b, f) || !check_left(b, f)) {
        return b->status;
    }
    // All are big at first, so those of rules that call themselves stay big.  Twice: most grammars
    // define small rules below the rules that use them.
    for (size_t i = 0; i < f->n; i++) {
        f->weight[i] = BIG;
    }
    for (int pass = 0; pass < 2; pass++) {
        for (size_t i = 0; i < f->n; i++) {
            f->weight[i] = weight_of(b, f, &b->node[i]);
        }
    }
    if ((rule_flag(b, f, root) & MK_GF_MATCHES) == 0) {
        MK_GB_FAIL(b, MK_EUSAGE, "%s: no text can follow this", b->rule[root].name);
    }
    return b->status;
}
