// Shared by the files of the template interpreter; nothing here is for the rest of the program.
//
//   jinja_lex.c        template text -> tokens (whitespace control happens here)
//   jinja_parse.c      statements -> tree, in the arena of the compiled template
//   jinja_expr.c       expressions -> tree
//   jinja_budget.c     errors, and the budgets of steps, time, depth and memory
//   jinja_value.c      values: construction, text, truth, iteration
//   jinja_compare.c    equality, order, membership
//   jinja_dict.c       lookup tables, import of JSON
//   jinja_ops.c        operators, attributes, items, slices
//   jinja_text.c       strip, find, case, replace, lines;  jinja_format.c  % and format()
//   jinja_print.c      str(), repr() and JSON of values
//   jinja_eval.c       expressions;  jinja_exec.c  statements, scopes, entry points
//   jinja_loop.c       the for statement;  jinja_call.c  arguments, macros, global functions
//   jinja_filters*.c, jinja_tests.c, jinja_methods*.c  the tables of named operations
//
// Invariants:
// 1. Every text is valid UTF-8 and at most 4 GiB (in fact far less: the arena of a rendering is
//    capped).
// 2. A function that returns bool gives false exactly when c->status is set; the caller returns at
//    once.
// 3. Values live in the arena of the rendering, in the compiled template or in the caller's JSON,
//    all of which outlive it.
// 4. Every loop over something sized from outside calls mk_j_step; every recursion passes
//    mk_j_enter or a depth.
// 5. `tag` runs parallel to text: NULL = all template, mk_j_user = all user, else one byte (0/1)
//    per byte of text.
#ifndef MK_CHAT_JINJA_INT_H
#define MK_CHAT_JINJA_INT_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/alloc.h"
#include "base/buf.h"
#include "base/status.h"
#include "chat/jinja.h"

#define MK_J_MAX_TEMPLATE (1u << 20)  // bytes of template text
#define MK_J_MAX_NEST     100         // statements within statements, brackets within brackets
#define MK_J_MAX_EXPR     240         // height of one expression tree
#define MK_J_MAX_DEPTH    1200        // evaluator calls on the C stack
#define MK_J_MAX_DATA_DEPTH                                                                        \
    200  // lists within lists, in data from outside or built by the template
#define MK_J_MAX_BYTES ((size_t)256 << 20)  // values of one rendering
#define MK_J_MAX_RANGE 100000               // Jinja's sandbox has the same bound

// --- text ----------------------------------------------------------------------------------------
typedef struct {
    const char *p;  // not NUL-terminated
    uint32_t n;
} jtext;

#define JTEXT(s) ((jtext){(s), (uint32_t)(sizeof(s) - 1)})

bool mk_j_text_is(jtext t, const char *s);
bool mk_j_text_eq(jtext a, jtext b);

// --- tokens --------------------------------------------------------------------------------------
// Binary and comparison operators come first so that an operator token is an operator of the tree.
typedef enum {
    JT_ADD,
    JT_SUB,
    JT_MUL,
    JT_DIV,
    JT_FLOORDIV,
    JT_MOD,
    JT_POW,
    JT_EQ,
    JT_NE,
    JT_LT,
    JT_LE,
    JT_GT,
    JT_GE,
    JT_IN,
    JT_NOTIN,  // only in the tree
    JT_TILDE,
    JT_LPAREN,
    JT_RPAREN,
    JT_LBRACKET,
    JT_RBRACKET,
    JT_LBRACE,
    JT_RBRACE,
    JT_ASSIGN,
    JT_DOT,
    JT_COLON,
    JT_PIPE,
    JT_COMMA,
    JT_SEMICOLON,
    JT_NAME,
    JT_STRING,
    JT_INT,
    JT_FLOAT,
    JT_DATA,
    JT_VAR_BEGIN,
    JT_VAR_END,
    JT_BLOCK_BEGIN,
    JT_BLOCK_END,
    JT_EOF
} jtok_kind;

typedef struct {
    uint8_t kind;  // jtok_kind
    int32_t line;
    jtext text;  // name, unescaped string, data
    int64_t i;
    double f;
} jtok;

typedef enum { JMODE_ROOT, JMODE_VAR, JMODE_BLOCK, JMODE_RAW } jlex_mode;

typedef struct {
    const char *src;           // line ends are \n
    uint32_t n, pos, counted;  // counted: bytes whose newlines are in `line`
    int32_t line;
    uint8_t mode;
    bool opened;                // the opening bracket of the current tag was given out
    char close[MK_J_MAX_NEST];  // brackets waiting to be closed
    int n_close;
    mk_arena *arena;  // for unescaped strings
    mk_err *err;
    mk_status status;
} jlex;

// Next token; false with lx->status set.
bool mk_j_lex(jlex *lx, jtok *out);
// Copies a template into the arena with \n line ends and without one final newline.
bool mk_j_lex_init(jlex *lx, const char *text, size_t n, mk_arena *arena, mk_err *err);
void mk_j_tok_describe(const jtok *t, char *out, size_t n);

// --- tree ----------------------------------------------------------------------------------------
typedef enum {
    // expressions; children in a, b, c; lists are chained by `next`
    JN_NONE,
    JN_TRUE,
    JN_FALSE,
    JN_INT,
    JN_FLOAT,
    JN_STR,
    JN_NAME,  // sym
    JN_TUPLE,
    JN_LIST,   // a = items
    JN_DICT,   // a = key, value, key, value ...
    JN_ATTR,   // a.text
    JN_ITEM,   // a[b]
    JN_SLICE,  // a:b:c, each may be NULL; only as JN_ITEM's b
    JN_CALL,   // a(b = arguments)
    JN_KWARG,
    JN_STAR,
    JN_STARSTAR,  // arguments: text = a, *a, **a
    JN_FILTER,    // a | text(b); a is NULL innermost in a filter block
    JN_TEST,      // a is text(b)
    JN_NOT,
    JN_NEG,
    JN_POS,  // a
    JN_BIN,  // a op b
    JN_AND,
    JN_OR,       // a, b
    JN_CONCAT,   // a = parts
    JN_COMPARE,  // a, b = operands, each with its op
    JN_OPERAND,  // op, a
    JN_COND,     // b if a else c
    JN_NSREF,    // namespace attribute as assignment target: sym . text
    // statements
    JN_DATA,
    JN_OUTPUT,       // text; a
    JN_IF,           // a, body b, else c (a JN_IF with op = 1 for elif, or a chain of statements)
    JN_FOR,          // target a, iterable b, c = JN_PARTS; op = 1 if recursive
    JN_PARTS,        // a = body, b = filter or NULL, c = else
    JN_SET,          // target a, value b
    JN_SETBLOCK,     // target a, filters b or NULL, body c
    JN_MACRO,        // sym, parameters a, body c; op = bits of JMACRO_*
    JN_PARAM,        // sym, default a
    JN_CALLBLOCK,    // call a, b = JN_MACRO of the body
    JN_FILTERBLOCK,  // filters b, body c
    JN_WITH,         // a = target, value, target, value ...; body c
    JN_SCOPE,        // body c
    JN_BLOCK,        // body c, in a scope of its own under the top level
    JN_BREAK,
    JN_CONTINUE,
    JN_UNAVAILABLE  // include, import, extends: text is the tag
} jnode_kind;

enum { JMACRO_CALLER = 1, JMACRO_VARARGS = 2, JMACRO_KWARGS = 4 };

typedef struct jnode jnode;
struct jnode {
    uint8_t kind, op;
    uint16_t height;  // of the expression tree below
    int32_t line;
    jnode *a, *b, *c, *next;
    union {
        jtext text;
        int64_t i;
        double f;
    } v;
    int32_t sym;        // index in mk_jinja.sym
    const void *entry;  // row of the filter or test table; NULL: unknown, an error when reached
};

struct mk_jinja {
    mk_arena *arena;
    jnode *body;
    jtext *sym;  // names, by symbol number
    int32_t n_sym;
};

// Symbols every template has, in this order.
enum { JSYM_LOOP, JSYM_CALLER, JSYM_VARARGS, JSYM_KWARGS, JSYM_FIXED };

typedef struct {
    jlex lx;
    jtok cur, ahead;
    bool has_ahead;
    mk_jinja *tpl;
    int32_t cap_sym, *sym_hash;
    uint32_t n_hash;  // power of two
    int nest;
    int loops;  // enclosing loops of this function body (break and continue need one)
    bool soft;  // inside an if: unknown filters are errors only when reached, as in Jinja
    const jnode *unknown;  // the first filter or test of this statement that nobody knows
    uint8_t macro_bits;
    mk_err *err;
    mk_status status;
} jparser;

bool mk_j_advance(jparser *p);
bool mk_j_fail(jparser *p, const char *fmt, ...) MK_PRINTF(2, 3);  // always false
bool mk_j_is(const jparser *p, jtok_kind k);
bool mk_j_is_name(const jparser *p, const char *name);
bool mk_j_skip(jparser *p, jtok_kind k, bool *found);
bool mk_j_skip_name(jparser *p, const char *name, bool *found);
bool mk_j_expect(jparser *p, jtok_kind k, const char *what);
bool mk_j_look(jparser *p, jtok *out);       // the token after the current one
jnode *mk_j_node(jparser *p, jnode_kind k);  // NULL with status set
bool mk_j_symbol(jparser *p, jtext name, int32_t *sym);
bool mk_j_down(jparser *p);  // nesting guard; undone by p->nest--

typedef struct {
    bool no_cond;  // no "x if y": the iterable of a for
    bool parens;   // () is legal
    bool target;   // assignment target: only primaries, ns.attr allowed if ns
    bool ns;
    const char *stop;  // a name that ends the list, or NULL
} jtuple_opts;

bool mk_j_parse_expr(jparser *p, jnode **out);
bool mk_j_parse_or(jparser *p, jnode **out);
bool mk_j_parse_tuple(jparser *p, jtuple_opts o, jnode **out);
bool mk_j_parse_filters(jparser *p, jnode *in, bool inline_start, jnode **out);

// --- values --------------------------------------------------------------------------------------
typedef enum {
    JV_MISSING,  // no value at all: an argument not given; never seen by a template
    JV_UNDEF,
    JV_NONE,
    JV_BOOL,
    JV_INT,
    JV_FLOAT,
    JV_STR,
    JV_LIST,
    JV_TUPLE,
    JV_DICT,
    JV_NS,
    JV_VIEW,  // keys(), values(), items() of a dict: sub = 0, 1, 2
    JV_RANGE,
    JV_GEN,  // a generator: can be walked once
    JV_LOOP,
    JV_MACRO,
    JV_FUNC,    // a global function: i = index
    JV_METHOD,  // a method bound to its object
    JV_N_KINDS
} jval_kind;

typedef struct jval jval;
typedef struct jlist jlist;
typedef struct jdict jdict;
typedef struct jrange jrange;
typedef struct jgen jgen;
typedef struct jloop jloop;
typedef struct jmacro jmacro;
typedef struct jmethod jmethod;

// How an undefined value came to be decides its error text.
enum { JU_NAME, JU_ATTR, JU_HINT, JU_UNSAFE };

struct jval {
    uint8_t kind;
    uint8_t sub;    // JV_UNDEF: JU_*; JV_STR: 1 = safe markup; JV_VIEW
    uint8_t owner;  // JV_UNDEF with JU_ATTR, JU_UNSAFE: kind of the object asked
    uint32_t n;     // JV_STR, JV_UNDEF: length of text
    union {
        bool b;
        int64_t i;
        double f;
        const char *p;  // JV_STR; JV_UNDEF: name or hint
        jlist *list;
        jdict *dict;  // JV_DICT, JV_NS, JV_VIEW
        jrange *range;
        jgen *gen;
        jloop *loop;
        jmacro *macro;
        jmethod *method;
    } u;
    const uint8_t *tag;  // JV_STR
};

struct jlist {
    jval *v;
    uint32_t n, cap;
};
typedef struct {
    jval key, val;
} jentry;
struct jdict {
    jentry *e;
    uint32_t n, cap;
};
struct jrange {
    int64_t start, stop, step, n;
};
struct jgen {
    jlist list;
    uint32_t pos;
};

extern const uint8_t mk_j_user[1];

// --- one rendering -------------------------------------------------------------------------------
typedef struct {
    char *p;
    uint8_t *tag;  // NULL while uniform
    uint32_t n, cap;
    bool user;  // what the text so far is, while uniform
    bool failed;
} jsb;  // grows in the arena, so it needs no freeing

typedef struct jenv jenv;
typedef struct {
    int32_t sym;
    jval v;
} jbind;
struct jenv {
    jenv *up;
    jbind *v;
    uint32_t n, cap;
};

typedef enum { JFLOW_NEXT, JFLOW_BREAK, JFLOW_CONTINUE } jflow;

typedef struct jctx {
    const mk_jinja *tpl;
    mk_arena *arena;
    const mk_jinja_vars *vars;
    mk_jinja_limits lim;
    uint64_t steps, deadline_ms, next_clock;
    size_t n_bytes;  // given out by mk_j_alloc, at most MK_J_MAX_BYTES
    int depth;
    int32_t line;  // of the statement being run
    jsb *capture;  // where output goes; NULL: to the caller
    mk_jinja_text *out;
    jval block_text;  // what the innermost filter of a filter or set block works on
    jenv *root;
    mk_err *err;
    mk_status status;
} jctx;

bool mk_j_raise(jctx *c, const char *fmt, ...) MK_PRINTF(2, 3);  // MK_ETEMPLATE; always false
bool mk_j_limit(jctx *c, const char *what);                      // MK_ELIMIT; always false
bool mk_j_nomem(jctx *c);
bool mk_j_undef_error(jctx *c, const jval *v);  // the error of using an undefined value
bool mk_j_steps(jctx *c, uint64_t n);
bool mk_j_step(jctx *c);
bool mk_j_enter(jctx *c);                              // depth guard; undone by c->depth--
void *mk_j_alloc(jctx *c, size_t count, size_t size);  // NULL with status set
bool mk_j_emit(jctx *c, const jval *str);              // one string to the output

// text under construction
void mk_j_sb_init(jsb *b);
bool mk_j_sb_add(jctx *c, jsb *b, const char *p, size_t n, const uint8_t *tag);
bool mk_j_sb_puts(jctx *c, jsb *b, const char *s, const uint8_t *tag);  // tag: NULL or mk_j_user
bool mk_j_sb_val(jctx *c, jsb *b, const jval *str);
jval mk_j_sb_done(const jsb *b);
const uint8_t *mk_j_tag_at(const uint8_t *tag, size_t off);
bool mk_j_tag_bit(const uint8_t *tag, size_t at);

// constructors
jval mk_j_none(void);
jval mk_j_bool(bool b);
jval mk_j_int(int64_t i);
jval mk_j_float(double f);
jval mk_j_str(const char *p, size_t n, const uint8_t *tag);
jval mk_j_lit(const char *s);  // literal with static storage
jval mk_j_sub(const jval *s, size_t off,
              size_t n);  // part of a string: same origin, same markup flag
jval mk_j_undef(int how, jval_kind owner, jtext text);
jval mk_j_hint(const char *s);
bool mk_j_list_new(jctx *c, jval_kind k, uint32_t cap, jval *out);
bool mk_j_list_push(jctx *c, jlist *l, const jval *v);
bool mk_j_gen_new(jctx *c, jval *out);
bool mk_j_dict_new(jctx *c, jval_kind k, uint32_t cap, jval *out);
bool mk_j_dict_set(jctx *c, jdict *d, const jval *key, const jval *v);
bool mk_j_dict_get(jctx *c, const jdict *d, const jval *key,
                   const jval **out);  // *out = NULL: not there
bool mk_j_dict_find(jctx *c, const jdict *d, jtext key, const jval **out);
bool mk_j_hashable(jctx *c, const jval *v);
bool mk_j_from_json(jctx *c, const json_t *j, bool user, int depth, jval *out);

// properties
const char *mk_j_type_name(const jval *v);  // "str", "int", "NoneType" ...
bool mk_j_truth(const jval *v);
bool mk_j_equal(jctx *c, const jval *a, const jval *b, int depth, bool *out);
bool mk_j_less(jctx *c, const jval *a, const jval *b, const char *op, int depth,
               bool *out);  // a < b
bool mk_j_contains(jctx *c, const jval *seq, const jval *v, bool *out);
bool mk_j_length(jctx *c, const jval *v, int64_t *out);  // TypeError where Python's len() has one
bool mk_j_iterable(const jval *v);
bool mk_j_as_number(const jval *v, double *out);  // int, bool, float
bool mk_j_as_int(const jval *v, int64_t *out);    // int, bool
bool mk_j_is_str(const jval *v);

// Walks anything iterable.  A generator is consumed as it goes.
typedef struct {
    jval v;
    uint64_t pos;
} jiter;
bool mk_j_iter(jctx *c, const jval *v, jiter *it);
bool mk_j_next(jctx *c, jiter *it, jval *out, bool *more);
bool mk_j_to_list(jctx *c, const jval *v, jval *out);  // a fresh list

// printing
bool mk_j_to_str(jctx *c, const jval *v, jval *out);        // str(v)
bool mk_j_repr(jctx *c, jsb *b, const jval *v, int depth);  // repr(v)
void mk_j_float_repr(double f, char out[40]);
typedef struct {
    bool ascii, sort;
    jval indent;  // JV_MISSING: none; else a string
    jval item_sep, key_sep;
} jjson_opts;
bool mk_j_json(jctx *c, jsb *b, const jval *v, const jjson_opts *o, int depth);
bool mk_j_escape(jctx *c, const jval *s, jval *out);  // HTML; the result is markup

// evaluation
bool mk_j_eval(jctx *c, const jnode *n, jenv *e, jval *out);
bool mk_j_exec(jctx *c, const jnode *list, jenv *e, jflow *flow);
bool mk_j_capture(jctx *c, const jnode *list, jenv *e,
                  jval *out);  // runs statements, gives their output
bool mk_j_assign(jctx *c, const jnode *target, const jval *v, jenv *e);
bool mk_j_bind(jctx *c, jenv *e, int32_t sym, const jval *v);
const jval *mk_j_lookup(const jenv *e, int32_t sym);  // NULL: unbound
bool mk_j_binary(jctx *c, int op, const jval *a, const jval *b, jval *out);
bool mk_j_unary(jctx *c, int kind, const jval *a, jval *out);
bool mk_j_concat(jctx *c, const jval *a, const jval *b,
                 jval *out);  // two strings, markup rules included
bool mk_j_repeat(jctx *c, const jval *s, int64_t times, jval *out);
bool mk_j_attr(jctx *c, const jval *o, jtext name, jval *out);       // o.name
bool mk_j_item(jctx *c, const jval *o, const jval *key, jval *out);  // o[key]
bool mk_j_slice(jctx *c, const jval *o, const jval part[3], jval *out);
bool mk_j_path(jctx *c, const jval *o, const jval *path, const jval *dflt,
               jval *out);  // "a.b.0" of the filters

// calls
typedef struct {
    jval *pos;
    uint32_t n_pos;
    jtext *kw_name;
    jval *kw;
    uint32_t n_kw;
} jargs;
bool mk_j_eval_args(jctx *c, const jnode *args, jenv *e, jargs *out);
bool mk_j_call(jctx *c, const jval *f, const jargs *args, jval *out);
bool mk_j_call_block(jctx *c, const jnode *n, jenv *e, jval *out);
bool mk_j_eval_call(jctx *c, const jnode *n, jenv *e, const jval *caller, jval *out);
int mk_j_global(jtext name);  // index of a global function, -1 if none

struct jmacro {
    const jnode *node;
    jenv *env;
};
struct jloop {
    jval items;  // the iterable, for length
    jiter it;
    const jnode *node;
    jenv *env;  // the scope around the loop
    jval before, current, after, changed;
    bool has_after, exhausted;
    int64_t index0, depth0, length;
    jlist *all;  // set once the length was asked of something without one
};
bool mk_j_loop_attr(jctx *c, jloop *l, jtext name, jval *out);
bool mk_j_loop_call(jctx *c, jloop *l, const jargs *args, jval *out);
bool mk_j_loop_run(jctx *c, const jnode *n, const jval *items, jenv *e, int64_t depth0,
                   jflow *flow);
bool mk_j_loop_next(jctx *c, jloop *l, jval *out, bool *more);

// A filter, test or method. `params` names the parameters after the subject, separated by commas;
// "*" hands the arguments over unbound.  At most MK_J_MAX_PARAMS.
#define MK_J_MAX_PARAMS 6
typedef bool (*jop_fn)(jctx *c, const jval *self, const jval *a, const jargs *args, jval *out);
typedef struct {
    const char *name;
    jop_fn fn;
    const char *params;
    int n_required;
} jop;
struct jmethod {
    jval self;
    const jop *op;
};
bool mk_j_apply(jctx *c, const jop *op, const char *what, const jval *self, const jargs *args,
                jval *out);
const jop *mk_j_find_filter(jtext name);
const jop *mk_j_find_test(jtext name);
const jop *mk_j_find_method(jval_kind k, jtext name);  // NULL: the type has no such attribute
bool mk_j_method_unsafe(jval_kind k, jtext name);      // changes its object: refused by the sandbox

typedef struct {
    const jop *rows;
    size_t n;
} jop_table;
const jop *mk_j_op_find(jop_table t, jtext name);
jop_table mk_j_filters_list(void);
jop_table mk_j_methods_str(void);
bool mk_j_percent(jctx *c, const jval *fmt, const jval *arg, jval *out);   // fmt % arg
bool mk_j_format(jctx *c, const jval *fmt, const jargs *args, jval *out);  // fmt.format(...)

// Python's idea of white space; the length of a character at p.
bool mk_j_is_space(uint32_t cp);
uint32_t mk_j_decode(const char *p, const char *end, uint32_t *cp);
// Start and end of s without the characters of `chars` (NULL: white space); sides: 1 = left, 2 =
// right.
jval mk_j_strip(const jval *s, const jval *chars, int sides);
bool mk_j_find_text(const jval *s, size_t from, const char *p, size_t n, size_t *at);
size_t mk_j_count_cp(const jval *s);
bool mk_j_split_lines(jctx *c, const jval *s, bool keep, jlist *out);
enum { JCASE_UPPER, JCASE_LOWER, JCASE_CAPITALIZE, JCASE_TITLE, JCASE_SWAP };
bool mk_j_case(jctx *c, const jval *s, int how, jval *out);
bool mk_j_replace(jctx *c, const jval *s, const jval *from, const jval *to, int64_t count,
                  jval *out);

#endif
