// Statements -> tree, and the parser's tools: tokens with one of lookahead, nodes, symbols, errors
// with line numbers.
//
// Every name of the template gets a number (symbol), so that scopes compare integers. A failed
// parse leaves p->status set and gives false all the way up; nesting counters need no repair then.
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/utf8.h"
#include "chat/jinja_int.h"

bool mk_j_text_is(jtext t, const char *s) {
    return strlen(s) == t.n && memcmp(t.p, s, t.n) == 0;
}

bool mk_j_text_eq(jtext a, jtext b) {
    return a.n == b.n && memcmp(a.p, b.p, a.n) == 0;
}

// --- tools ---------------------------------------------------------------------------------------
bool mk_j_fail(jparser *p, const char *fmt, ...) {
    char msg[256];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(msg, sizeof msg, fmt, ap);
    va_end(ap);
    p->status = MK_FAIL(p->err, MK_ETEMPLATE, "chat template, line %d: %s", p->cur.line, msg);
    return false;
}

bool mk_j_advance(jparser *p) {
    if (p->has_ahead) {
        p->cur = p->ahead;
        p->has_ahead = false;
        return true;
    }
    if (!mk_j_lex(&p->lx, &p->cur)) {
        p->status = p->lx.status;
        return false;
    }
    return true;
}

bool mk_j_look(jparser *p, jtok *out) {
    if (!p->has_ahead) {
        if (!mk_j_lex(&p->lx, &p->ahead)) {
            p->status = p->lx.status;
            return false;
        }
        p->has_ahead = true;
    }
    *out = p->ahead;
    return true;
}

bool mk_j_is(const jparser *p, jtok_kind k) {
    return p->cur.kind == k;
}

bool mk_j_is_name(const jparser *p, const char *name) {
    return p->cur.kind == JT_NAME && mk_j_text_is(p->cur.text, name);
}

bool mk_j_skip(jparser *p, jtok_kind k, bool *found) {
    *found = mk_j_is(p, k);
    return !*found || mk_j_advance(p);
}

bool mk_j_skip_name(jparser *p, const char *name, bool *found) {
    *found = mk_j_is_name(p, name);
    return !*found || mk_j_advance(p);
}

bool mk_j_expect(jparser *p, jtok_kind k, const char *what) {
    if (!mk_j_is(p, k)) {
        char got[64];
        mk_j_tok_describe(&p->cur, got, sizeof got);
        return mk_j_fail(p, "expected %s, got %s", what, got);
    }
    return mk_j_advance(p);
}

bool mk_j_down(jparser *p) {
    if (++p->nest <= 4 * MK_J_MAX_NEST) {
        return true;
    }
    p->status =
        MK_FAIL(p->err, MK_ELIMIT, "chat template, line %d: nested more than %d levels deep",
                p->cur.line, 4 * MK_J_MAX_NEST);
    return false;
}

static bool parse_nomem(jparser *p) {
    p->status = MK_FAIL(p->err, MK_ENOMEM, "chat template, line %d: out of memory", p->cur.line);
    return false;
}

jnode *mk_j_node(jparser *p, jnode_kind k) {
    jnode *n = mk_arena_try(p->tpl->arena, 1, sizeof *n);
    if (n == NULL) {
        parse_nomem(p);
        return NULL;
    }
    n->kind = (uint8_t)k;
    n->line = p->cur.line;
    return n;
}

// --- symbols -------------------------------------------------------------------------------------
static uint32_t hash_text(jtext t) {
    uint32_t h = 2166136261u;
    for (uint32_t i = 0; i < t.n; i++) {
        h = (h ^ (unsigned char)t.p[i]) * 16777619u;
    }
    return h;
}

static void hash_put(int32_t *table, uint32_t n, jtext name, int32_t sym) {
    uint32_t at = hash_text(name) & (n - 1);
    while (table[at] != 0) {
        at = (at + 1) & (n - 1);
    }
    table[at] = sym + 1;
}

static bool grow_symbols(jparser *p) {
    int32_t cap = p->cap_sym == 0 ? 64 : p->cap_sym * 2;
    jtext *sym = mk_arena_try(p->tpl->arena, (size_t)cap, sizeof *sym);
    int32_t *table = mk_arena_try(p->tpl->arena, (size_t)cap * 2, sizeof *table);
    if (sym == NULL || table == NULL) {
        return parse_nomem(p);
    }
    for (int32_t i = 0; i < p->tpl->n_sym; i++) {
        sym[i] = p->tpl->sym[i];
        hash_put(table, (uint32_t)cap * 2, sym[i], i);
    }
    p->tpl->sym = sym;
    p->cap_sym = cap;
    p->sym_hash = table;
    p->n_hash = (uint32_t)cap * 2;
    return true;
}

bool mk_j_symbol(jparser *p, jtext name, int32_t *sym) {
    if (p->tpl->n_sym >= p->cap_sym && !grow_symbols(p)) {
        return false;
    }
    for (uint32_t at = hash_text(name) & (p->n_hash - 1);; at = (at + 1) & (p->n_hash - 1)) {
        if (p->sym_hash[at] == 0) {
            break;
        }
        if (mk_j_text_eq(p->tpl->sym[p->sym_hash[at] - 1], name)) {
            *sym = p->sym_hash[at] - 1;
            return true;
        }
    }
    *sym = p->tpl->n_sym++;
    p->tpl->sym[*sym] = name;
    hash_put(p->sym_hash, p->n_hash, name, *sym);
    return true;
}

// --- bodies and targets --------------------------------------------------------------------------
static bool parse_statement(jparser *p, jnode **out);

static bool at_end_tag(const jparser *p, const char *const *ends) {
    for (; ends != NULL && *ends != NULL; ends++) {
        if (mk_j_is_name(p, *ends)) {
            return true;
        }
    }
    return false;
}

static bool parse_data(jparser *p, jnode **out) {
    jnode *n = mk_j_node(p, JN_DATA);
    if (n == NULL) {
        return false;
    }
    n->v.text = p->cur.text;
    *out = n;
    return mk_j_advance(p);
}

static bool parse_output(jparser *p, jnode **out) {
    jnode *n = mk_j_node(p, JN_OUTPUT);
    if (n == NULL || !mk_j_advance(p) || !mk_j_parse_tuple(p, (jtuple_opts){0}, &n->a)) {
        return false;
    }
    *out = n;
    return mk_j_expect(p, JT_VAR_END, "'}}'");
}

static bool report_unknown(jparser *p) {
    jtext name = p->unknown->v.text;
    return mk_j_fail(p, "No %s named '%.*s'.", p->unknown->kind == JN_TEST ? "test" : "filter",
                     (int)(name.n > 60 ? 60 : name.n), name.p);
}

// Statements up to one of `ends` (its name is then the current token) or, without ends, to the end
// of the template.
static bool parse_body(jparser *p, const char *const *ends, jnode **out) {
    jnode *first = NULL, **tail = &first;
    while (!mk_j_is(p, JT_EOF)) {
        jnode *n = NULL;
        bool ok;
        if (mk_j_is(p, JT_DATA)) {
            ok = parse_data(p, &n);
        } else if (mk_j_is(p, JT_VAR_BEGIN)) {
            ok = parse_output(p, &n);
        } else {
            if (!mk_j_advance(p)) {
                return false;
            }
            if (at_end_tag(p, ends)) {
                *out = first;
                return true;
            }
            ok = parse_statement(p, &n) && mk_j_expect(p, JT_BLOCK_END, "'%}'");
        }
        if (!ok || (p->unknown != NULL && !report_unknown(p))) {
            return false;
        }
        *tail = n;
        tail = &n->next;
    }
    if (ends != NULL) {
        return mk_j_fail(p, "Unexpected end of template; expected {%% %s %%}", ends[0]);
    }
    *out = first;
    return true;
}

// The body of a tag whose opening is being read: [:] %} body, up to but not including the end tag's
// name.
static bool parse_inner(jparser *p, const char *const *ends, jnode **out) {
    bool found;
    return mk_j_skip(p, JT_COLON, &found) && mk_j_expect(p, JT_BLOCK_END, "'%}'") &&
           parse_body(p, ends, out);
}

// The same for a scope of its own: loops around it do not count, and neither do conditions.
static bool parse_scope(jparser *p, const char *end, bool keep_loops, jnode **out) {
    const char *const ends[] = {end, NULL};
    bool soft = p->soft;
    int loops = p->loops;
    p->soft = false;
    p->loops = keep_loops ? loops : 0;
    if (!parse_inner(p, ends, out) || !mk_j_advance(p)) {
        return false;
    }
    p->soft = soft;
    p->loops = loops;
    return true;
}

static bool can_assign(jparser *p, const jnode *t, int depth) {
    if (t->kind == JN_NAME || t->kind == JN_NSREF) {
        return true;
    }
    if ((t->kind != JN_TUPLE && t->kind != JN_LIST) || depth > 20) {
        return mk_j_fail(p, "expected a name to assign to");
    }
    for (const jnode *k = t->a; k != NULL; k = k->next) {
        if (!can_assign(p, k, depth + 1)) {
            return false;
        }
    }
    return true;
}

static bool parse_target(jparser *p, const char *stop, bool ns, jnode **out) {
    return mk_j_parse_tuple(p, (jtuple_opts){.target = true, .ns = ns, .stop = stop}, out) &&
           can_assign(p, *out, 0);
}

static bool parse_plain_name(jparser *p, int32_t *sym) {
    static const char *const constants[] = {"true", "false", "none", "True", "False", "None"};
    jtext name = p->cur.text;
    for (size_t i = 0; i < 6; i++) {
        if (mk_j_is_name(p, constants[i])) {
            return mk_j_fail(p, "can't assign to '%s'", constants[i]);
        }
    }
    return mk_j_expect(p, JT_NAME, "a name") && mk_j_symbol(p, name, sym);
}

// --- statements ----------------------------------------------------------------------------------
// Each is entered with the tag's name as the current token and left with '%}' as the current token.
static bool parse_if(jparser *p, jnode *n) {
    static const char *const ends[] = {"elif", "else", "endif", NULL};
    static const char *const last[] = {"endif", NULL};
    bool soft = p->soft;
    p->soft = true;
    for (;;) {
        n->kind = JN_IF;
        if (!mk_j_advance(p) || !mk_j_parse_tuple(p, (jtuple_opts){.no_cond = true}, &n->a) ||
            !parse_inner(p, ends, &n->b)) {
            return false;
        }
        if (!mk_j_is_name(p, "elif")) {
            break;
        }
        n->op = 1;
        if ((n->c = mk_j_node(p, JN_IF)) == NULL) {
            return false;
        }
        n = n->c;
    }
    if (mk_j_is_name(p, "else") && (!mk_j_advance(p) || !parse_inner(p, last, &n->c))) {
        return false;
    }
    p->soft = soft;
    return mk_j_advance(p);
}

static bool parse_for(jparser *p, jnode *n) {
    static const char *const ends[] = {"endfor", "else", NULL};
    static const char *const last[] = {"endfor", NULL};
    bool found, soft = p->soft;
    n->kind = JN_FOR;
    if ((n->c = mk_j_node(p, JN_PARTS)) == NULL || !mk_j_advance(p) ||
        !parse_target(p, "in", false, &n->a)) {
        return false;
    }
    if (!mk_j_is_name(p, "in")) {
        return mk_j_fail(p, "expected 'in' after the target of a for");
    }
    if (!mk_j_advance(p) ||
        !mk_j_parse_tuple(p, (jtuple_opts){.no_cond = true, .stop = "recursive"}, &n->b) ||
        !mk_j_skip_name(p, "if", &found) || (found && !mk_j_parse_expr(p, &n->c->b)) ||
        !mk_j_skip_name(p, "recursive", &found)) {
        return false;
    }
    n->op = found;
    p->soft = false;
    p->loops++;
    if (!parse_inner(p, ends, &n->c->a)) {
        return false;
    }
    p->loops--;
    if (mk_j_is_name(p, "else") && (!mk_j_advance(p) || !parse_inner(p, last, &n->c->c))) {
        return false;
    }
    p->soft = soft;
    return mk_j_advance(p);
}

static bool parse_set(jparser *p, jnode *n) {
    bool found;
    n->kind = JN_SET;
    if (!mk_j_advance(p) || !parse_target(p, NULL, true, &n->a) ||
        !mk_j_skip(p, JT_ASSIGN, &found)) {
        return false;
    }
    if (found) {
        return mk_j_parse_tuple(p, (jtuple_opts){0}, &n->b);
    }
    n->kind = JN_SETBLOCK;
    return mk_j_parse_filters(p, NULL, false, &n->b) && parse_scope(p, "endset", true, &n->c);
}

static bool parse_params(jparser *p, jnode **out) {
    jnode *first = NULL, **tail = &first;
    bool found, defaults = false;
    if (!mk_j_expect(p, JT_LPAREN, "'('")) {
        return false;
    }
    while (!mk_j_is(p, JT_RPAREN)) {
        jnode *n;
        if ((first != NULL && !mk_j_expect(p, JT_COMMA, "',' or ')'")) ||
            (n = mk_j_node(p, JN_PARAM)) == NULL || !parse_plain_name(p, &n->sym) ||
            !mk_j_skip(p, JT_ASSIGN, &found) || (found && !mk_j_parse_expr(p, &n->a))) {
            return false;
        }
        if (defaults && !found) {
            return mk_j_fail(p, "non-default argument follows default argument");
        }
        defaults = found;
        *tail = n;
        tail = &n->next;
    }
    *out = first;
    return mk_j_advance(p);
}

// Body of a macro or call block; notes whether it uses caller, varargs, kwargs.
static bool parse_function(jparser *p, jnode *n, const char *end) {
    uint8_t outer = p->macro_bits;
    p->macro_bits = 0;
    if (!parse_scope(p, end, false, &n->c)) {
        return false;
    }
    n->op = p->macro_bits;
    p->macro_bits |= outer;
    return true;
}

static bool parse_macro(jparser *p, jnode *n) {
    n->kind = JN_MACRO;
    return mk_j_advance(p) && parse_plain_name(p, &n->sym) && parse_params(p, &n->a) &&
           parse_function(p, n, "endmacro");
}

static bool parse_call_block(jparser *p, jnode *n) {
    n->kind = JN_CALLBLOCK;
    if ((n->b = mk_j_node(p, JN_MACRO)) == NULL || !mk_j_advance(p)) {
        return false;
    }
    n->b->sym = JSYM_CALLER;
    if (mk_j_is(p, JT_LPAREN) && !parse_params(p, &n->b->a)) {
        return false;
    }
    if (!mk_j_parse_expr(p, &n->a)) {
        return false;
    }
    return n->a->kind == JN_CALL ? parse_function(p, n->b, "endcall")
                                 : mk_j_fail(p, "expected call");
}

static bool parse_filter_block(jparser *p, jnode *n) {
    n->kind = JN_FILTERBLOCK;
    return mk_j_advance(p) && mk_j_parse_filters(p, NULL, true, &n->b) &&
           parse_scope(p, "endfilter", true, &n->c);
}

static bool parse_with(jparser *p, jnode *n) {
    jnode **tail = &n->a;
    n->kind = JN_WITH;
    if (!mk_j_advance(p)) {
        return false;
    }
    while (!mk_j_is(p, JT_BLOCK_END)) {
        jnode *target, *val;
        if ((n->a != NULL && !mk_j_expect(p, JT_COMMA, "','")) ||
            !parse_target(p, NULL, false, &target) || !mk_j_expect(p, JT_ASSIGN, "'='") ||
            !mk_j_parse_expr(p, &val)) {
            return false;
        }
        target->next = val;
        *tail = target;
        tail = &val->next;
    }
    return parse_scope(p, "endwith", true, &n->c);
}

static bool parse_print(jparser *p, jnode *n) {
    n->kind = JN_OUTPUT;
    return mk_j_advance(p) && mk_j_parse_expr(p, &n->a);
}

static bool parse_generation(jparser *p, jnode *n) {
    n->kind = JN_SCOPE;
    return mk_j_advance(p) && parse_scope(p, "endgeneration", false, &n->c);
}

static bool parse_autoescape(jparser *p, jnode *n) {
    jnode *flag;
    n->kind = JN_SCOPE;
    if (!mk_j_advance(p) || !mk_j_parse_expr(p, &flag)) {
        return false;
    }
    if (flag->kind != JN_FALSE) {
        return mk_j_fail(p, "autoescape can only be false in a chat template");
    }
    return parse_scope(p, "endautoescape", true, &n->c);
}

static bool parse_block(jparser *p, jnode *n) {
    int32_t sym;
    bool found;
    n->kind = JN_BLOCK;
    if (!mk_j_advance(p) || !parse_plain_name(p, &sym) || !mk_j_skip_name(p, "scoped", &found) ||
        !parse_scope(p, "endblock", false, &n->c)) {
        return false;
    }
    return !mk_j_is(p, JT_NAME) || mk_j_advance(p);
}

static bool parse_loop_control(jparser *p, jnode *n) {
    n->kind = mk_j_is_name(p, "break") ? JN_BREAK : JN_CONTINUE;
    return p->loops > 0 ? mk_j_advance(p)
                        : mk_j_fail(p, "break and continue need a loop around them");
}

// include, import, from, extends: an error only when reached.
static bool parse_unavailable(jparser *p, jnode *n) {
    n->kind = JN_UNAVAILABLE;
    n->v.text = p->cur.text;
    while (!mk_j_is(p, JT_BLOCK_END) && !mk_j_is(p, JT_EOF)) {
        if (!mk_j_advance(p)) {
            return false;
        }
    }
    return true;
}

static const struct {
    const char *tag;
    bool (*parse)(jparser *p, jnode *n);
} statements[] = {
    {"if", parse_if},
    {"for", parse_for},
    {"set", parse_set},
    {"macro", parse_macro},
    {"call", parse_call_block},
    {"filter", parse_filter_block},
    {"with", parse_with},
    {"print", parse_print},
    {"generation", parse_generation},
    {"autoescape", parse_autoescape},
    {"block", parse_block},
    {"break", parse_loop_control},
    {"continue", parse_loop_control},
    {"include", parse_unavailable},
    {"import", parse_unavailable},
    {"from", parse_unavailable},
    {"extends", parse_unavailable},
};

static bool parse_statement(jparser *p, jnode **out) {
    jnode *n = mk_j_node(p, JN_DATA);
    if (n == NULL || !mk_j_down(p)) {
        return false;
    }
    for (size_t i = 0; i < sizeof statements / sizeof statements[0]; i++) {
        if (mk_j_is_name(p, statements[i].tag)) {
            // statements weigh more than brackets: the evaluator needs several calls for each
            p->nest += 3;
            bool ok = statements[i].parse(p, n);
            p->nest -= 4;
            *out = n;
            return ok;
        }
    }
    char what[64];
    mk_j_tok_describe(&p->cur, what, sizeof what);
    return mk_j_fail(p, "Encountered unknown tag %s.", what);
}

// --- entry ---------------------------------------------------------------------------------------
static mk_status check_text(const char *text, size_t n, mk_err *err) {
    if (n > MK_J_MAX_TEMPLATE) {
        return MK_FAIL(err, MK_ELIMIT, "chat template: %zu bytes, at most %u are allowed", n,
                       MK_J_MAX_TEMPLATE);
    }
    size_t bad = mk_utf8_first_invalid(text, n);
    if (bad < n) {
        return MK_FAIL(err, MK_ETEMPLATE, "chat template: byte %zu is not valid UTF-8", bad);
    }
    return MK_OK;
}

static bool fixed_symbols(jparser *p) {
    static const jtext fixed[JSYM_FIXED] = {
        {"loop", 4}, {"caller", 6}, {"varargs", 7}, {"kwargs", 6}};
    int32_t sym;
    for (int i = 0; i < JSYM_FIXED; i++) {
        if (!mk_j_symbol(p, fixed[i], &sym)) {
            return false;
        }
    }
    return true;
}

mk_status mk_jinja_compile(const char *text, size_t n, mk_jinja **out, mk_err *err) {
    MK_TRY(check_text(text, n, err));
    mk_jinja *j = mk_try_alloc(1, sizeof *j);
    mk_arena *arena = mk_arena_create(16384, 0);
    jparser p = {.tpl = j, .err = err};
    if (j == NULL || arena == NULL) {
        mk_free(j);
        mk_arena_destroy(arena);
        return MK_FAIL(err, MK_ENOMEM, "chat template: out of memory");
    }
    j->arena = arena;
    bool ok = mk_j_lex_init(&p.lx, text, n, arena, err);
    if (!ok) {
        p.status = p.lx.status;
    }
    ok = ok && fixed_symbols(&p) && mk_j_advance(&p) && parse_body(&p, NULL, &j->body);
    if (!ok) {
        mk_jinja_destroy(j);
        return p.status;
    }
    *out = j;
    return MK_OK;
}

void mk_jinja_destroy(mk_jinja *j) {
    if (j != NULL) {
        mk_arena_destroy(j->arena);
        mk_free(j);
    }
}
