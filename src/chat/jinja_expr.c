// Expressions -> tree, with Jinja's precedence, lowest first:
//   x if y else z < or < and < not < comparison chain, in, not in < + - < ~ < * / // % < ** (left!)
//   < unary + - < .name [item] (call) < |filter, is test
// Every function leaves *out untouched on failure. Recursion is guarded in mk_j_down; the height of
// a tree is bounded in link_height, so that the evaluator's recursion is, too.
#include <string.h>

#include "chat/jinja_int.h"

// Sets the height of n from its children; chains of a + b + c ... grow to the left without
// recursion of the parser, so the bound is checked here as well.
static bool set_height(jparser *p, jnode *n) {
    const jnode *kid[3] = {n->a, n->b, n->c};
    uint16_t h = 0;
    for (int i = 0; i < 3; i++) {
        for (const jnode *k = kid[i]; k != NULL; k = k->next) {
            h = k->height > h ? k->height : h;
        }
    }
    n->height = (uint16_t)(h + 1);
    if (n->height > MK_J_MAX_EXPR) {
        p->status =
            MK_FAIL(p->err, MK_ELIMIT,
                    "chat template, line %d: an expression is nested more than %d levels deep",
                    n->line, MK_J_MAX_EXPR);
        return false;
    }
    return true;
}

static jnode *make(jparser *p, jnode_kind k, int32_t line, jnode *a, jnode *b) {
    jnode *n = mk_j_node(p, k);
    if (n == NULL) {
        return NULL;
    }
    n->line = line;
    n->a = a;
    n->b = b;
    return set_height(p, n) ? n : NULL;
}

typedef struct {
    jnode *first, **tail;
} chain;

static void chain_init(chain *c) {
    c->first = NULL;
    c->tail = &c->first;
}

static void chain_add(chain *c, jnode *n) {
    *c->tail = n;
    c->tail = &n->next;
}

// --- primaries -----------------------------------------------------------------------------------
static bool parse_list(jparser *p, jnode **out) {
    chain items;
    chain_init(&items);
    int32_t line = p->cur.line;
    if (!mk_j_advance(p)) {
        return false;
    }
    while (!mk_j_is(p, JT_RBRACKET)) {
        jnode *item;
        if (items.first != NULL && !mk_j_expect(p, JT_COMMA, "',' or ']'")) {
            return false;
        }
        if (mk_j_is(p, JT_RBRACKET)) {
            break;
        }
        if (!mk_j_parse_expr(p, &item)) {
            return false;
        }
        chain_add(&items, item);
    }
    return mk_j_advance(p) && (*out = make(p, JN_LIST, line, items.first, NULL)) != NULL;
}

static bool parse_dict(jparser *p, jnode **out) {
    chain items;
    chain_init(&items);
    int32_t line = p->cur.line;
    if (!mk_j_advance(p)) {
        return false;
    }
    while (!mk_j_is(p, JT_RBRACE)) {
        jnode *key = NULL, *val = NULL;
        if (items.first != NULL && !mk_j_expect(p, JT_COMMA, "',' or '}'")) {
            return false;
        }
        if (mk_j_is(p, JT_RBRACE)) {
            break;
        }
        if (!mk_j_parse_expr(p, &key) || !mk_j_expect(p, JT_COLON, "':'") ||
            !mk_j_parse_expr(p, &val)) {
            return false;
        }
        chain_add(&items, key);
        chain_add(&items, val);
    }
    return mk_j_advance(p) && (*out = make(p, JN_DICT, line, items.first, NULL)) != NULL;
}

// 'a' 'b' is 'ab'.
static bool parse_string(jparser *p, jnode **out) {
    jnode *n = make(p, JN_STR, p->cur.line, NULL, NULL);
    if (n == NULL) {
        return false;
    }
    n->v.text = p->cur.text;
    if (!mk_j_advance(p)) {
        return false;
    }
    while (mk_j_is(p, JT_STRING)) {
        jtext more = p->cur.text;
        size_t len = (size_t)n->v.text.n + more.n;
        char *s = len <= MK_J_MAX_TEMPLATE ? mk_arena_try(p->tpl->arena, len + 1, 1) : NULL;
        if (s == NULL) {
            p->status =
                MK_FAIL(p->err, MK_ENOMEM, "chat template, line %d: strings too long", p->cur.line);
            return false;
        }
        memcpy(s, n->v.text.p, n->v.text.n);
        memcpy(s + n->v.text.n, more.p, more.n);
        n->v.text = (jtext){s, (uint32_t)len};
        if (!mk_j_advance(p)) {
            return false;
        }
    }
    *out = n;
    return true;
}

static bool parse_number(jparser *p, jnode **out) {
    bool is_int = mk_j_is(p, JT_INT);
    jnode *n = make(p, is_int ? JN_INT : JN_FLOAT, p->cur.line, NULL, NULL);
    if (n == NULL) {
        return false;
    }
    if (is_int) {
        n->v.i = p->cur.i;
    } else {
        n->v.f = p->cur.f;
    }
    *out = n;
    return mk_j_advance(p);
}

static void note_name(jparser *p, jtext name) {
    static const struct {
        const char *name;
        uint8_t bit;
    } special[] = {
        {"caller", JMACRO_CALLER}, {"varargs", JMACRO_VARARGS}, {"kwargs", JMACRO_KWARGS}};
    for (size_t i = 0; i < 3; i++) {
        if (mk_j_text_is(name, special[i].name)) {
            p->macro_bits |= special[i].bit;
        }
    }
}

static bool parse_name(jparser *p, bool ns, jnode **out) {
    static const struct {
        const char *name;
        uint8_t kind;
    } constants[] = {{"true", JN_TRUE},   {"True", JN_TRUE}, {"false", JN_FALSE},
                     {"False", JN_FALSE}, {"none", JN_NONE}, {"None", JN_NONE}};
    jtext name = p->cur.text;
    int32_t line = p->cur.line;
    if (!mk_j_advance(p)) {
        return false;
    }
    for (size_t i = 0; i < sizeof constants / sizeof constants[0]; i++) {
        if (mk_j_text_is(name, constants[i].name)) {
            return (*out = make(p, constants[i].kind, line, NULL, NULL)) != NULL;
        }
    }
    jnode *n = make(p, JN_NAME, line, NULL, NULL);
    if (n == NULL || !mk_j_symbol(p, name, &n->sym)) {
        return false;
    }
    note_name(p, name);
    n->v.text = name;
    if (ns && mk_j_is(p, JT_DOT)) {
        n->kind = JN_NSREF;
        if (!mk_j_advance(p)) {
            return false;
        }
        n->v.text = p->cur.text;
        if (!mk_j_expect(p, JT_NAME, "the name of an attribute")) {
            return false;
        }
    }
    *out = n;
    return true;
}

static bool parse_parens(jparser *p, jnode **out) {
    jnode *n;
    if (!mk_j_advance(p) || !mk_j_parse_tuple(p, (jtuple_opts){.parens = true}, &n) ||
        !mk_j_expect(p, JT_RPAREN, "')'")) {
        return false;
    }
    *out = n;
    return true;
}

static bool parse_primary(jparser *p, bool ns, jnode **out) {
    char what[64];
    if (!mk_j_down(p)) {
        return false;
    }
    bool ok;
    switch ((jtok_kind)p->cur.kind) {
    case JT_NAME:
        ok = parse_name(p, ns, out);
        break;
    case JT_STRING:
        ok = parse_string(p, out);
        break;
    case JT_INT:
    case JT_FLOAT:
        ok = parse_number(p, out);
        break;
    case JT_LPAREN:
        ok = parse_parens(p, out);
        break;
    case JT_LBRACKET:
        ok = parse_list(p, out);
        break;
    case JT_LBRACE:
        ok = parse_dict(p, out);
        break;
    default:
        mk_j_tok_describe(&p->cur, what, sizeof what);
        ok = mk_j_fail(p, "expected an expression, got %s", what);
    }
    p->nest--;
    return ok;
}

// --- postfix: attributes, items, calls -----------------------------------------------------------
static bool slice_part(jparser *p, jnode **out) {
    if (mk_j_is(p, JT_COLON) || mk_j_is(p, JT_RBRACKET) || mk_j_is(p, JT_COMMA)) {
        *out = NULL;
        return true;
    }
    return mk_j_parse_expr(p, out);
}

static bool parse_subscribed(jparser *p, jnode **out) {
    jnode *part[3] = {NULL, NULL, NULL};
    int32_t line = p->cur.line;
    bool colon;
    if (!slice_part(p, &part[0]) || (part[0] == NULL && !mk_j_is(p, JT_COLON))) {
        return p->status == MK_OK ? mk_j_fail(p, "expected an index or a slice") : false;
    }
    if (!mk_j_skip(p, JT_COLON, &colon)) {
        return false;
    }
    if (!colon) {
        *out = part[0];
        return true;
    }
    if (!slice_part(p, &part[1]) || !mk_j_skip(p, JT_COLON, &colon) ||
        (colon && !slice_part(p, &part[2]))) {
        return false;
    }
    jnode *n = make(p, JN_SLICE, line, part[0], part[1]);
    if (n == NULL) {
        return false;
    }
    n->c = part[2];
    *out = n;
    return set_height(p, n);
}

static bool parse_item(jparser *p, jnode *obj, jnode **out) {
    chain keys;
    chain_init(&keys);
    int32_t line = p->cur.line;
    int n_keys = 0;
    if (!mk_j_advance(p)) {
        return false;
    }
    while (!mk_j_is(p, JT_RBRACKET)) {
        jnode *key = NULL;
        if ((n_keys > 0 && !mk_j_expect(p, JT_COMMA, "']'")) || !parse_subscribed(p, &key)) {
            return false;
        }
        chain_add(&keys, key);
        n_keys++;
    }
    jnode *key = keys.first;
    if (n_keys != 1) {
        key = make(p, JN_TUPLE, line, keys.first, NULL);
    }
    return mk_j_advance(p) && key != NULL && (*out = make(p, JN_ITEM, line, obj, key)) != NULL;
}

static bool parse_dot(jparser *p, jnode *obj, jnode **out) {
    int32_t line = p->cur.line;
    if (!mk_j_advance(p)) {
        return false;
    }
    if (mk_j_is(p, JT_INT)) {
        jnode *key;
        return parse_number(p, &key) && (*out = make(p, JN_ITEM, line, obj, key)) != NULL;
    }
    jnode *n = make(p, JN_ATTR, line, obj, NULL);
    if (n == NULL) {
        return false;
    }
    n->v.text = p->cur.text;
    *out = n;
    return mk_j_expect(p, JT_NAME, "a name or a number after '.'");
}

// One argument; *rank orders the kinds: positional 0, keyword 1, *args 2, **kwargs 3.
static bool parse_arg(jparser *p, int *rank, jnode **out) {
    static const uint8_t star_kind[] = {JN_STAR, JN_STARSTAR};
    int32_t line = p->cur.line;
    jnode *val;
    if (mk_j_is(p, JT_MUL) || mk_j_is(p, JT_POW)) {
        int k = mk_j_is(p, JT_POW) ? 3 : 2;
        if (*rank >= k) {
            return mk_j_fail(p, "invalid syntax for function call expression");
        }
        *rank = k;
        return mk_j_advance(p) && mk_j_parse_expr(p, &val) &&
               (*out = make(p, star_kind[k - 2], line, val, NULL)) != NULL;
    }
    jtok after;
    if (mk_j_is(p, JT_NAME) && mk_j_look(p, &after) && after.kind == JT_ASSIGN) {
        jtext name = p->cur.text;
        if (*rank > 2) {
            return mk_j_fail(p, "invalid syntax for function call expression");
        }
        *rank = *rank < 1 ? 1 : *rank;
        if (!mk_j_advance(p) || !mk_j_advance(p) || !mk_j_parse_expr(p, &val)) {
            return false;
        }
        jnode *n = make(p, JN_KWARG, line, val, NULL);
        if (n != NULL) {
            n->v.text = name;
        }
        return (*out = n) != NULL;
    }
    if (p->status != MK_OK) {
        return false;
    }
    return *rank > 0 ? mk_j_fail(p, "invalid syntax for function call expression")
                     : mk_j_parse_expr(p, out);
}

static bool parse_args(jparser *p, jnode **out) {
    chain args;
    chain_init(&args);
    int rank = 0;
    if (!mk_j_expect(p, JT_LPAREN, "'('")) {
        return false;
    }
    while (!mk_j_is(p, JT_RPAREN)) {
        jnode *arg;
        if (args.first != NULL && !mk_j_expect(p, JT_COMMA, "',' or ')'")) {
            return false;
        }
        if (mk_j_is(p, JT_RPAREN)) {
            break;
        }
        if (!parse_arg(p, &rank, &arg)) {
            return false;
        }
        chain_add(&args, arg);
    }
    *out = args.first;
    return mk_j_advance(p);
}

static bool parse_call(jparser *p, jnode *callee, jnode **out) {
    int32_t line = p->cur.line;
    jnode *args;
    return parse_args(p, &args) && (*out = make(p, JN_CALL, line, callee, args)) != NULL;
}

static bool parse_postfix(jparser *p, jnode **n) {
    for (;;) {
        bool ok;
        if (mk_j_is(p, JT_DOT)) {
            ok = parse_dot(p, *n, n);
        } else if (mk_j_is(p, JT_LBRACKET)) {
            ok = parse_item(p, *n, n);
        } else if (mk_j_is(p, JT_LPAREN)) {
            ok = parse_call(p, *n, n);
        } else {
            return true;
        }
        if (!ok) {
            return false;
        }
    }
}

// --- filters and tests ---------------------------------------------------------------------------
// "name" or "a.b"; no filter of ours has a dot, so a dotted name is simply unknown.
static bool parse_dotted(jparser *p, jtext *name) {
    *name = p->cur.text;
    if (!mk_j_expect(p, JT_NAME, "the name of a filter or test")) {
        return false;
    }
    while (mk_j_is(p, JT_DOT)) {
        if (!mk_j_advance(p)) {
            return false;
        }
        jtext part = p->cur.text;
        if (!mk_j_expect(p, JT_NAME, "a name")) {
            return false;
        }
        name->n = (uint32_t)(part.p + part.n - name->p);
    }
    return true;
}

// An unknown name is an error of the template, except where a condition stands around it. Whether
// one does is known at the end of the expression ("x | f if y"), so the statement reports it
// (mk_j_parse_expr, parse_body).
static void note_unknown(jparser *p, const jnode *n) {
    if (n->entry == NULL && !p->soft && p->unknown == NULL) {
        p->unknown = n;
    }
}

bool mk_j_parse_filters(jparser *p, jnode *in, bool inline_start, jnode **out) {
    while (inline_start || mk_j_is(p, JT_PIPE)) {
        jnode *args = NULL;
        int32_t line = p->cur.line;
        jtext name;
        if ((!inline_start && !mk_j_advance(p)) || !parse_dotted(p, &name) ||
            (mk_j_is(p, JT_LPAREN) && !parse_args(p, &args))) {
            return false;
        }
        inline_start = false;
        jnode *n = make(p, JN_FILTER, line, in, args);
        if (n == NULL) {
            return false;
        }
        n->v.text = name;
        n->entry = mk_j_find_filter(name);
        note_unknown(p, n);
        in = n;
    }
    *out = in;
    return true;
}

// A test may have one argument without parentheses: x is divisibleby 3.
static bool bare_test_arg(jparser *p, jnode **args) {
    bool start = mk_j_is(p, JT_NAME) || mk_j_is(p, JT_STRING) || mk_j_is(p, JT_INT) ||
                 mk_j_is(p, JT_FLOAT) || mk_j_is(p, JT_LBRACKET) || mk_j_is(p, JT_LBRACE);
    *args = NULL;
    if (!start || mk_j_is_name(p, "else") || mk_j_is_name(p, "or") || mk_j_is_name(p, "and")) {
        return true;
    }
    if (mk_j_is_name(p, "is")) {
        return mk_j_fail(p, "You cannot chain multiple tests with is");
    }
    return parse_primary(p, false, args) && parse_postfix(p, args);
}

static bool parse_test(jparser *p, jnode *in, jnode **out) {
    int32_t line = p->cur.line;
    bool negated;
    jtext name;
    jnode *args = NULL;
    if (!mk_j_advance(p) || !mk_j_skip_name(p, "not", &negated) || !parse_dotted(p, &name) ||
        !(mk_j_is(p, JT_LPAREN) ? parse_args(p, &args) : bare_test_arg(p, &args))) {
        return false;
    }
    jnode *n = make(p, JN_TEST, line, in, args);
    if (n == NULL) {
        return false;
    }
    n->v.text = name;
    n->entry = mk_j_find_test(name);
    note_unknown(p, n);
    *out = negated ? make(p, JN_NOT, line, n, NULL) : n;
    return *out != NULL;
}

static bool parse_filter_expr(jparser *p, jnode **n) {
    for (;;) {
        bool ok;
        if (mk_j_is(p, JT_PIPE)) {
            ok = mk_j_parse_filters(p, *n, false, n);
        } else if (mk_j_is_name(p, "is")) {
            ok = parse_test(p, *n, n);
        } else if (mk_j_is(p, JT_LPAREN)) {
            ok = parse_call(p, *n, n);
        } else {
            return true;
        }
        if (!ok) {
            return false;
        }
    }
}

// --- operators -----------------------------------------------------------------------------------
static bool parse_unary(jparser *p, bool with_filter, jnode **out) {
    int32_t line = p->cur.line;
    jnode *n;
    if (mk_j_is(p, JT_SUB) || mk_j_is(p, JT_ADD)) {
        jnode_kind k = mk_j_is(p, JT_SUB) ? JN_NEG : JN_POS;
        if (!mk_j_down(p) || !mk_j_advance(p) || !parse_unary(p, false, &n)) {
            return false;
        }
        p->nest--;
        n = make(p, k, line, n, NULL);
    } else if (!parse_primary(p, false, &n)) {
        return false;
    }
    if (n == NULL || !parse_postfix(p, &n) || (with_filter && !parse_filter_expr(p, &n))) {
        return false;
    }
    *out = n;
    return true;
}

static bool parse_operand(jparser *p, int level, jnode **out);

static bool parse_concat(jparser *p, jnode **out) {
    chain parts;
    chain_init(&parts);
    int32_t line = p->cur.line;
    bool more = true;
    int count = 0;
    while (more) {
        jnode *n;
        if (!parse_operand(p, 1, &n) || !mk_j_skip(p, JT_TILDE, &more)) {
            return false;
        }
        chain_add(&parts, n);
        count++;
    }
    *out = count == 1 ? parts.first : make(p, JN_CONCAT, line, parts.first, NULL);
    return *out != NULL;
}

// Left-associative levels: 0 = + -, 1 = * / // %, 2 = **.  Between 0 and 1 stands ~.
static bool parse_operand(jparser *p, int level, jnode **out) {
    static const uint8_t first[] = {JT_ADD, JT_MUL, JT_POW}, last[] = {JT_SUB, JT_MOD, JT_POW};
    jnode *left, *right;
    bool ok = level == 0   ? parse_concat(p, &left)
              : level == 1 ? parse_operand(p, 2, &left)
                           : parse_unary(p, true, &left);
    if (!ok) {
        return false;
    }
    while (p->cur.kind >= first[level] && p->cur.kind <= last[level]) {
        uint8_t op = p->cur.kind;
        int32_t line = p->cur.line;
        if (!mk_j_advance(p)) {
            return false;
        }
        ok = level == 0   ? parse_concat(p, &right)
             : level == 1 ? parse_operand(p, 2, &right)
                          : parse_unary(p, true, &right);
        if (!ok || (left = make(p, JN_BIN, line, left, right)) == NULL) {
            return false;
        }
        left->op = op;
    }
    *out = left;
    return true;
}

// The comparison operator at the current token, consumed; JT_EOF if there is none.
static bool compare_op(jparser *p, uint8_t *op) {
    jtok after;
    *op = JT_EOF;
    if (p->cur.kind >= JT_EQ && p->cur.kind <= JT_GE) {
        *op = p->cur.kind;
    } else if (mk_j_is_name(p, "in")) {
        *op = JT_IN;
    } else if (mk_j_is_name(p, "not")) {
        if (!mk_j_look(p, &after)) {
            return false;
        }
        if (after.kind == JT_NAME && mk_j_text_is(after.text, "in")) {
            *op = JT_NOTIN;
            if (!mk_j_advance(p)) {
                return false;
            }
        }
    }
    return *op == JT_EOF || mk_j_advance(p);
}

static bool parse_compare(jparser *p, jnode **out) {
    chain ops;
    chain_init(&ops);
    int32_t line = p->cur.line;
    jnode *left, *right;
    uint8_t op;
    if (!parse_operand(p, 0, &left)) {
        return false;
    }
    for (;;) {
        if (!compare_op(p, &op)) {
            return false;
        }
        if (op == JT_EOF) {
            break;
        }
        jnode *n = NULL;
        if (!parse_operand(p, 0, &right) || (n = make(p, JN_OPERAND, line, right, NULL)) == NULL) {
            return false;
        }
        n->op = op;
        chain_add(&ops, n);
    }
    *out = ops.first == NULL ? left : make(p, JN_COMPARE, line, left, ops.first);
    return *out != NULL;
}

static bool parse_not(jparser *p, jnode **out) {
    int32_t line = p->cur.line;
    bool found;
    jnode *n;
    if (!mk_j_skip_name(p, "not", &found)) {
        return false;
    }
    if (!found) {
        return parse_compare(p, out);
    }
    if (!mk_j_down(p) || !parse_not(p, &n)) {
        return false;
    }
    p->nest--;
    return (*out = make(p, JN_NOT, line, n, NULL)) != NULL;
}

static bool parse_logic(jparser *p, bool is_or, jnode **out) {
    jnode *left, *right;
    int32_t line = p->cur.line;
    if (!(is_or ? parse_logic(p, false, &left) : parse_not(p, &left))) {
        return false;
    }
    for (;;) {
        bool found;
        if (!mk_j_skip_name(p, is_or ? "or" : "and", &found)) {
            return false;
        }
        if (!found) {
            *out = left;
            return true;
        }
        if (!(is_or ? parse_logic(p, false, &right) : parse_not(p, &right)) ||
            (left = make(p, is_or ? JN_OR : JN_AND, line, left, right)) == NULL) {
            return false;
        }
    }
}

bool mk_j_parse_or(jparser *p, jnode **out) {
    return parse_logic(p, true, out);
}

// x if y else z; the parts count as conditional for unknown filters, which Jinja then reports only
// when reached.
static bool parse_cond(jparser *p, jnode *value, jnode **out) {
    int32_t line = p->cur.line;
    jnode *test, *other = NULL;
    bool found;
    if (!mk_j_parse_or(p, &test) || !mk_j_skip_name(p, "else", &found)) {
        return false;
    }
    if (found && !mk_j_parse_expr(p, &other)) {
        return false;
    }
    jnode *n = make(p, JN_COND, line, test, value);
    if (n == NULL) {
        return false;
    }
    n->c = other;
    *out = n;
    return set_height(p, n);
}

bool mk_j_parse_expr(jparser *p, jnode **out) {
    jnode *n;
    const jnode *unknown = p->unknown;
    bool found, soft = p->soft;
    p->unknown = NULL;
    if (!mk_j_down(p) || !mk_j_parse_or(p, &n)) {
        return false;
    }
    p->soft = true;
    for (;;) {
        if (!mk_j_skip_name(p, "if", &found)) {
            return false;
        }
        if (!found) {
            break;
        }
        if (!parse_cond(p, n, &n)) {
            return false;
        }
        p->unknown = NULL;
    }
    p->unknown = unknown != NULL ? unknown : p->unknown;
    p->soft = soft;
    p->nest--;
    *out = n;
    return true;
}

bool mk_j_parse_tuple(jparser *p, jtuple_opts o, jnode **out) {
    chain items;
    chain_init(&items);
    int32_t line = p->cur.line;
    bool is_tuple = false;
    for (;;) {
        jnode *n;
        if (items.first != NULL && !mk_j_expect(p, JT_COMMA, "','")) {
            return false;
        }
        if (mk_j_is(p, JT_VAR_END) || mk_j_is(p, JT_BLOCK_END) || mk_j_is(p, JT_RPAREN) ||
            (o.stop != NULL && mk_j_is_name(p, o.stop))) {
            break;
        }
        bool ok = o.target    ? parse_primary(p, o.ns, &n)
                  : o.no_cond ? mk_j_parse_or(p, &n)
                              : mk_j_parse_expr(p, &n);
        if (!ok) {
            return false;
        }
        chain_add(&items, n);
        if (!mk_j_is(p, JT_COMMA)) {
            break;
        }
        is_tuple = true;
    }
    if (!is_tuple && items.first != NULL) {
        *out = items.first;
        return true;
    }
    if (!is_tuple && !o.parens) {
        char what[64];
        mk_j_tok_describe(&p->cur, what, sizeof what);
        return mk_j_fail(p, "Expected an expression, got %s", what);
    }
    return (*out = make(p, JN_TUPLE, line, items.first, NULL)) != NULL;
}
