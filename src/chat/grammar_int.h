// Types that the files of constrained decoding share.  Nothing outside src/chat/grammar*.c includes
// this.
//
// The way of a grammar: a front end (grammar_schema.c, _regex.c, _gbnf.c) builds nodes with
// mk_gb_* -> grammar_check.c finds rules that match nothing, the empty text, or themselves at their
// left end -> grammar_emit.c writes instructions -> grammar_machine.c runs them, grammar_mask.c
// walks the vocabulary with them.
//
// Invariants:
//  1. A node's children have smaller numbers than the node, except through rules.  So facts about
//     nodes are found in one pass in ascending order, without recursion.
//  2. Building is sticky: after a failure every constructor returns node 0, and the status is asked
//     for once.
//  3. The body of a counted loop never matches the empty text; so a loop that is entered consumes.
//  4. No rule calls itself before something was consumed (left recursion is refused); so the stacks
//     that one byte creates have no cycles.
#ifndef MK_CHAT_GRAMMAR_INT_H
#define MK_CHAT_GRAMMAR_INT_H

#include "base/alloc.h"
#include "base/buf.h"
#include "chat/grammar.h"

#define MK_G_INF UINT32_MAX

enum {
    MK_G_MAX_DEPTH = 200,        // brackets of a regex or GBNF text, levels of a schema
    MK_G_MAX_CHAIN = 64,         // references that lead to references
    MK_G_MAX_RECURSION = 4000,   // C frames of the emitter
    MK_G_MAX_REPEAT = 1 << 30,   // bounds of a repetition; larger finite ones are cut to this
    MK_G_MAX_CALLS = 1000,       // rules open at a time while an answer is made
    MK_G_MAX_THREADS = 1 << 12,  // places in the grammar that one text may be at
    MK_G_MAX_WORK = 1 << 21,     // threads followed for one mask or one text
    MK_G_MAX_TOKEN = 255,        // longer tokens are never allowed
    MK_G_LEVELS = 3              // groups of tokens by length, see grammar_mask.c
};

// --- growing arrays ------------------------------------------------------------------------------
// Makes room for one more element behind n.
bool mk_g_grow(void **p, size_t *cap, size_t n, size_t elem_bytes) MK_WARN_UNUSED;

// --- building ------------------------------------------------------------------------------------
typedef uint32_t mk_gn;  // number of a node

enum { MK_GN_EMPTY = 0, MK_GN_NONE = 1 };  // these two always exist

typedef enum {
    MK_G_EMPTY,   // the empty text
    MK_G_NONE,    // no text
    MK_G_BYTES,   // text[first..first+n)
    MK_G_RANGE,   // one byte min..max
    MK_G_SET,     // one byte of set[first]
    MK_G_SEQ,     // kids in order
    MK_G_ALT,     // one of the kids
    MK_G_REPEAT,  // kid `first`, min..max times
    MK_G_RULE,    // rule `first`
    MK_G_LIST,    // kids with a separator (node `min`) between those that are there
    MK_G_WORDS    // one of n texts: kids are pairs (first, n) of text, sorted, no two the same
} mk_g_kind;

typedef struct {
    uint32_t first, n, min, max;
    uint8_t kind;
} mk_gnode;

// Flags of a kid of a LIST, in the upper bits of its number.
#define MK_G_OPTIONAL 0x80000000u  // may be missing
#define MK_G_MANY     0x40000000u  // any number of times
#define MK_G_KID      0x3fffffffu

typedef struct {
    uint64_t bit[4];
} mk_byteset;

typedef struct {
    char *name;  // owned: name of the rule or JSON pointer, for messages
    mk_gn node;
    bool set, keep;  // keep: never written out in place of its calls
    mk_gn nonempty;  // rule without the empty text, or 0 (grammar_emit.c)
} mk_grule;

typedef struct {  // how values are written
    mk_grammar_values notation;
    const char *avoid;  // what no string holds; "": nothing
    const char *quote;  // MARKED
    bool sorted;
} mk_gvalues;

typedef struct {
    mk_gnode *node;
    size_t n_node, cap_node;
    uint32_t *kid;
    size_t n_kid, cap_kid;
    char *text;
    size_t n_text, cap_text;
    mk_byteset *set;
    size_t n_set, cap_set;
    mk_grule *rule;
    size_t n_rule, cap_rule;
    size_t max_bytes, n_work;  // n_work: units of work done, see mk_gb_work
    uint64_t end_ns;
    int64_t max_ms;
    mk_status status;
    mk_err *err;
    mk_gvalues how;
    uint32_t json_rule[4];  // rules every schema shares, 1 + number; 0: not built yet
    mk_gn json_space;
} mk_gb;

void mk_gb_init(mk_gb *b, const mk_grammar_limits *limits, mk_err *err);
void mk_gb_free(mk_gb *b);
// Counts work and memory; false (with the status set) when the budget is used up or something has
// failed before.
bool mk_gb_work(mk_gb *b, size_t units);
#define MK_GB_FAIL(b, code, ...)                                                                   \
    ((b)->status == MK_OK ? (void)((b)->status = MK_FAIL((b)->err, code, __VA_ARGS__)) : (void)0)

mk_gn mk_gb_bytes(mk_gb *b, const char *p, size_t n);
mk_gn mk_gb_text(mk_gb *b, const char *s);
mk_gn mk_gb_range(mk_gb *b, unsigned lo, unsigned hi);
mk_gn mk_gb_set(mk_gb *b, const mk_byteset *s);
mk_gn mk_gb_oneof(mk_gb *b, const char *chars);  // one of these bytes
mk_gn mk_gb_seq(mk_gb *b, const mk_gn *kid, size_t n);
mk_gn mk_gb_alt(mk_gb *b, const mk_gn *kid, size_t n);
mk_gn mk_gb_seq2(mk_gb *b, mk_gn x, mk_gn y);
mk_gn mk_gb_seq3(mk_gb *b, mk_gn x, mk_gn y, mk_gn z);
mk_gn mk_gb_alt2(mk_gb *b, mk_gn x, mk_gn y);
mk_gn mk_gb_repeat(mk_gb *b, mk_gn kid, uint32_t min, uint32_t max);
mk_gn mk_gb_list(mk_gb *b, const uint32_t *kid_with_flags, size_t n, mk_gn separator);
typedef struct {
    const char *p;
    size_t n;
} mk_gword;
mk_gn mk_gb_words(mk_gb *b, const mk_gword *w, size_t n);
mk_gn mk_gb_words_rest(mk_gb *b, mk_gn words);    // without the first of them
uint32_t mk_gb_rule(mk_gb *b, const char *name);  // a rule that is still to be set
void mk_gb_rule_set(mk_gb *b, uint32_t rule, mk_gn node);
mk_gn mk_gb_call(mk_gb *b, uint32_t rule);

// A list of nodes that grows.
typedef struct {
    mk_gn *v;
    size_t n, cap;
} mk_gnlist;
void mk_gnlist_add(mk_gb *b, mk_gnlist *l, mk_gn x);
mk_gn mk_gnlist_seq(mk_gb *b, mk_gnlist *l);  // and frees it
mk_gn mk_gnlist_alt(mk_gb *b, mk_gnlist *l);

// Sets of code points (grammar_chars.c).
typedef struct {
    uint32_t lo, hi;
} mk_crange;
typedef struct {
    mk_crange *r;
    size_t n, cap;
} mk_cset;
void mk_cset_free(mk_cset *s);
void mk_cset_add(mk_gb *b, mk_cset *s, uint32_t lo, uint32_t hi);
void mk_cset_sort(mk_cset *s);              // ascending, disjoint, without surrogates
void mk_cset_invert(mk_gb *b, mk_cset *s);  // s must be sorted, and is afterwards
bool mk_cset_has(const mk_cset *s, uint32_t cp);
void mk_cset_remove(mk_gb *b, mk_cset *s, uint32_t cp);
mk_gn mk_gb_chars(mk_gb *b, mk_cset *s);       // one character of the set, as UTF-8
mk_gn mk_gb_json_chars(mk_gb *b, mk_cset *s);  // ... as it stands in a JSON string

// --- checking (grammar_check.c) ------------------------------------------------------------------
enum { MK_GF_EMPTY = 1, MK_GF_MATCHES = 2 };  // may match the empty text; matches some text
typedef struct {
    uint8_t *flag;     // per node
    uint32_t *weight;  // per node: instructions, about; saturates
    size_t n;          // nodes that there were when it was made
} mk_gfacts;
// Fails for left recursion, for rules that are called and not set, and if the root matches nothing.
mk_status mk_gb_check(mk_gb *b, uint32_t root, mk_gfacts *f) MK_WARN_UNUSED;
void mk_gfacts_free(mk_gfacts *f);

// --- programs (grammar_emit.c) -------------------------------------------------------------------
typedef enum {
    MK_I_RET,     // pops a call
    MK_I_FAIL,    // this place leads nowhere
    MK_I_FORK,    // goes to target[x..x+y)
    MK_I_CALL,    // rule x, then pc y
    MK_I_JUMP,    // rule x in place of this one: a call at the end of a rule
    MK_I_ENTER,   // starts loop y at pc x (a TEST)
    MK_I_TEST,    // loop y: body x; exit is loop.exit
    MK_I_NEXT,    // one round of loop y is done; x is its TEST
    MK_I_RANGE,   // a byte lo..hi, then x.  From here on instructions consume
    MK_I_SET,     // a byte of set y, then x
    MK_I_SWITCH,  // byte decides: target[x..x+2y) are pairs (byte, pc), ascending
} mk_g_op;

typedef struct {
    uint8_t op, lo, hi;
    uint32_t x, y;
} mk_ginsn;

typedef struct {
    uint32_t min, max, exit;
} mk_gloop;

typedef struct {
    mk_ginsn *insn;
    size_t n_insn, cap_insn;
    uint32_t *target;
    size_t n_target, cap_target;
    mk_gloop *loop;
    size_t n_loop, cap_loop;
    mk_byteset *set;
    size_t n_set;
    uint32_t *start;  // per rule: pc
    size_t n_rule;
    uint32_t root;          // rule
    uint8_t class_of[256];  // bytes that no instruction tells apart share a class
    uint8_t byte_of_class[256];
    unsigned n_class;
} mk_gprog;

mk_status mk_gprog_emit(mk_gb *b, uint32_t root, mk_gfacts *f, mk_gprog *out) MK_WARN_UNUSED;
void mk_gprog_free(mk_gprog *p);
size_t mk_gprog_bytes(const mk_gprog *p);

// Checks, writes the program, makes the grammar; frees the builder.
mk_status mk_gb_finish(mk_gb *b, mk_gn root, mk_grammar **out) MK_WARN_UNUSED;
void mk_grammar_set_headers(mk_grammar *g);  // before anybody else has it

// --- the machine (grammar_machine.c) -------------------------------------------------------------
// Everything is interned: the same contents have the same number.
//  counts: the loops that are open in the rule at hand, innermost first: (loop, rounds, rest)
//  stacks: where the rule at hand goes on when it is done: a set of threads (pc, counts, stack) of
//          its callers.  Stack 0 is the end of the answer.
//  states: a set of threads (pc, counts, stack), each before an instruction that consumes a byte,
//          and whether the text may end here.
typedef struct {
    uint32_t pc, counts, stack;
} mk_gthread;

typedef struct {
    uint32_t loop, n, rest;
    uint32_t canon[MK_G_LEVELS];
} mk_gcount;

typedef struct {
    uint32_t first, n;  // in pool
    uint32_t hash;
    uint32_t depth;  // stacks: calls above it
    uint32_t canon[MK_G_LEVELS];
    uint32_t after;               // stacks: 1 + state that returning from the rule leads to
    uint32_t mask[MK_G_LEVELS];   // states: 1 + number of its mask
    uint32_t local[MK_G_LEVELS];  // states: 1 + number of its local mask (grammar_mask.c)
    uint8_t accept;
} mk_gset;

typedef struct {  // interned sets of threads
    mk_gset *e;
    size_t n, cap;
    mk_gthread *pool;
    size_t n_pool, cap_pool;
    uint32_t *slot;  // 1 + number, open addressing
    size_t n_slot;
} mk_gsets;

typedef struct {                // a call that the byte at hand has opened
    uint32_t rule, first_cont;  // 1 + index of its first continuation, in a list
    uint32_t stack;             // its number when interned, MK_G_INF before
    uint32_t depth;
    bool returned;  // its rule has matched the empty text
} mk_gcall;

typedef struct {
    mk_gthread to;
    uint32_t next;
} mk_gcont;

typedef struct {
    uint64_t *bit;   // n_words of the trie
    uint32_t *hole;  // local: nodes of the trie at which the rule at hand is done
    size_t n_hole, cap_hole;
    bool plain;  // local: too many of them, walk the whole state instead
} mk_gmask;

enum { MK_GS_UNKNOWN = 0, MK_GS_DEAD = 1 };  // states

typedef struct {
    const mk_gprog *prog;
    mk_gcount *count;
    size_t n_count, cap_count;
    uint32_t *count_slot;
    size_t n_count_slot;
    mk_gsets stacks, states;
    uint32_t *step;  // [n_states, n_class] state after a byte
    size_t cap_step;
    uint32_t start;  // state
    // scratch of one step
    mk_gthread *work, *final;
    size_t n_work, cap_work, n_final, cap_final;
    mk_gthread *seen;
    uint32_t *seen_stamp, stamp;
    size_t n_seen, cap_seen;
    mk_gcall *call;
    size_t n_call, cap_call;
    mk_gcont *cont;
    size_t n_cont, cap_cont;
    uint32_t *call_of_rule;  // 1 + call, valid if its rule is that rule
    bool accept, overflow;
    size_t work_left;  // of MK_G_MAX_WORK
    mk_status failed;  // sticky: memory or the bound on it
    // masks (grammar_mask.c)
    mk_gmask *mask;
    size_t n_mask, cap_mask, mask_bytes;
    mk_token_trie *trie;  // whose masks these are; a reference
} mk_gmachine;

mk_status mk_gmachine_init(mk_gmachine *m, const mk_gprog *p) MK_WARN_UNUSED;
void mk_gmachine_free(mk_gmachine *m);
// State after a byte of class c; MK_GS_DEAD if there is none, or when m->failed.
uint32_t mk_gmachine_step(mk_gmachine *m, uint32_t state, unsigned c);
// State that the rule whose callers are `stack` leads to when it is done.
uint32_t mk_gmachine_after(mk_gmachine *m, uint32_t stack);
// The state with these threads.
uint32_t mk_gmachine_intern(mk_gmachine *m, mk_gthread *t, size_t n, bool accept);
// The stack with these threads; t is sorted in place.
uint32_t mk_gmachine_stack(mk_gmachine *m, mk_gthread *t, size_t n, uint32_t depth);
uint32_t mk_gmachine_count(mk_gmachine *m, uint32_t loop, uint32_t n, uint32_t rest);
uint32_t mk_g_hash(const mk_gthread *t, size_t n, bool accept);
bool mk_gsets_rehash(mk_gsets *s, size_t n_slot) MK_WARN_UNUSED;
void mk_gsets_free(mk_gsets *s);
mk_status mk_gmachine_rehash_counts(mk_gmachine *m) MK_WARN_UNUSED;
// A state that allows the same texts of up to mk_g_level_bytes(level) bytes, with small counts.
uint32_t mk_gmachine_canon(mk_gmachine *m, int level, uint32_t state);
size_t mk_gmachine_bytes(const mk_gmachine *m);
// Forgets all states but `keep`; writes their new numbers in place.
mk_status mk_gmachine_compact(mk_gmachine *m, uint32_t *const *keep, const size_t *n_keep,
                              size_t n_lists) MK_WARN_UNUSED;

// --- vocabulary (grammar_trie.c) -----------------------------------------------------------------
// Nodes in depth-first order; node i is reached by byte[i] from its parent at depth[i] - 1, and its
// subtree is i..end[i).
typedef struct {
    uint8_t *byte, *depth;
    uint32_t *end;
    int32_t *id;  // first token that ends here, or -1
    uint32_t n;
} mk_gtrie;

struct mk_token_trie {
    mk_gtrie level[MK_G_LEVELS];  // tokens by length
    int32_t *twin;                // per id: next token with the same bytes, or -1
    char *bytes;                  // of all tokens
    uint32_t *at;                 // per id: bytes[at[id]..at[id+1]); empty: not allowed as text
    mk_ids end_ids;               // that end an answer
    int64_t n_vocab;
    size_t n_words;
    _Atomic int n_ref;
};
// Bytes of a token that is text, and n > 0; n = 0: it is none.
const char *mk_g_token_text(const mk_tokenizer *t, int32_t id, size_t *n);
// Longest token of a level.
unsigned mk_g_level_bytes(int level);

// --- masks (grammar_mask.c) ----------------------------------------------------------------------
void mk_gmask_clear(mk_gmachine *m);
// bits[n_words] |= tokens that may follow the state (without those that end the answer).
mk_status mk_gmask_get(mk_gmachine *m, mk_token_trie *t, uint32_t state,
                       uint64_t *bits) MK_WARN_UNUSED;

// --- front ends that others use ------------------------------------------------------------------
typedef enum { MK_RE_FULL, MK_RE_SEARCH } mk_re_match;
typedef struct {  // a pattern that is one set of characters, repeated: ^[a-z]{2,5}$
    bool yes;
    mk_gn chars;
    uint32_t min, max;
} mk_re_simple;
typedef struct {
    mk_re_match match;
    bool json;             // characters as they stand in a JSON string
    char but;              // ASCII: never as it is; 0
    const char *what;      // for messages: JSON pointer, or "regex"
    mk_re_simple *simple;  // set if the pattern is one; or NULL
} mk_re_opts;
mk_gn mk_gb_regex(mk_gb *b, const char *p, size_t n, const mk_re_opts *o);

mk_gn mk_gb_gbnf(mk_gb *b, const char *text, size_t n);
mk_gn mk_gb_choice(mk_gb *b, const json_t *choices);
// A value that follows the schema.
mk_gn mk_gb_schema(mk_gb *b, const json_t *schema);
// The same where values are written as b->how says; JSON unless mk_gb_write_as was called.
void mk_gb_write_as(mk_gb *b, const mk_gvalues *how);
mk_gn mk_gb_json_any(mk_gb *b);
mk_gn mk_gb_json_other(mk_gb *b);  // ... but a string
mk_gn mk_gb_json_object(mk_gb *b);
mk_gn mk_gb_json_string(mk_gb *b);
mk_gn mk_gb_json_space(mk_gb *b);                         // where a line may begin
mk_gn mk_gb_json_colon(mk_gb *b);                         // between key and value
mk_gn mk_gb_json_word(mk_gb *b, const char *word);        // true, false or null
mk_gn mk_gb_json_char(mk_gb *b);                          // one character inside a string
mk_gn mk_gb_json_quote(mk_gb *b);                         // what strings begin and end with
mk_gn mk_gb_json_literal(mk_gb *b, const json_t *value);  // this value, compact
mk_gn mk_gb_json_key(mk_gb *b, const char *key);
// A character of a string that stands as it is: any but the first of b->how.avoid.
mk_gn mk_gb_bare_char(mk_gb *b);
// Appends a value in compact form; false if it does not fit.
bool mk_g_json_text(const json_t *value, mk_buf *out) MK_WARN_UNUSED;
mk_gn mk_gb_json_number(mk_gb *b);
mk_gn mk_gb_json_integer(mk_gb *b);

// Text up to a mark (grammar_text.c).  plain: bytes that may stand in it; escape: what else may,
// and ends in no beginning of the mark, or MK_GN_NONE; first: bytes that it may begin with, NULL =
// plain.  It may end anywhere; with the mark it goes on as `then` (MK_GN_NONE: no text has it).
typedef struct {
    const char *mark;  // at most 63 bytes
    const mk_byteset *plain, *first;
    mk_gn escape, then;
} mk_guntil;
mk_gn mk_gb_until(mk_gb *b, const mk_guntil *o);
mk_byteset mk_g_text_bytes(void);  // all but what a token's spelling begins with
// The parameters of a call; schema NULL: any.
mk_gn mk_gb_params(mk_gb *b, const json_t *schema, const mk_grammar_params *p);

// --- schemas (grammar_schema*.c) -----------------------------------------------------------------
// Work on one schema.  `path` is the JSON pointer of the place in hand.
typedef struct {
    const json_t *schema;
    char *pointer;  // owned
    uint32_t rule;
} mk_gref;

// Of a value that stands without quotes, its texts and all else are compiled apart.
typedef enum { MK_GS_ALL, MK_GS_TEXTS, MK_GS_OTHERS } mk_gs_part;

typedef struct {
    mk_gb *b;
    const json_t *root;
    mk_gs_part part;
    mk_byteset bound;  // OTHERS: what values begin with that have to follow more than their type
    json_t *made;      // array: schemas that merging has made, to be freed together
    mk_buf path;
    mk_gref *ref;  // targets of $ref, in the order they were met
    size_t n_ref, cap_ref, n_ref_done;
    int depth;
    json_t *string_type;  // {"type": "string"}
    struct {
        uint32_t min, max, rule;
    } bounded[32];  // rules of strings of bounded length
    size_t n_bounded;
} mk_gschema;

void mk_gschema_init(mk_gschema *c, mk_gb *b, const json_t *root);
void mk_gschema_finish(mk_gschema *c);  // compiles what was referred to, and frees
#define MK_GS_FAIL(c, code, key, ...) mk_gschema_fail((c), (code), (key), __VA_ARGS__)
// Fails at path/key; key may be NULL.
void mk_gschema_fail(mk_gschema *c, mk_status code, const char *key, const char *fmt, ...)
    MK_PRINTF(4, 5);
size_t mk_gschema_enter(mk_gschema *c, const char *key);  // returns what leave wants
void mk_gschema_leave(mk_gschema *c, size_t before);
mk_gn mk_gschema_compile(mk_gschema *c, const json_t *schema);
mk_gn mk_gschema_compile_at(mk_gschema *c, const char *key, const char *name, const json_t *schema);
// The same schema without $ref and allOf at its top; NULL after a failure.
const json_t *mk_gschema_flat(mk_gschema *c, const json_t *schema);
// Members of an object in the order in which they are written; to be freed.  NULL: no memory.
const char **mk_gschema_names(mk_gschema *c, const json_t *members);
// The schema that a $ref names and its pointer (to be freed); NULL after a failure.
const json_t *mk_gschema_find(mk_gschema *c, const char *ref, char **pointer);
// A call of the rule for what a $ref names, which is made once and compiled later.
mk_gn mk_gschema_call(mk_gschema *c, const char *ref);
// A schema that is nothing but a reference, replaced by what it names; NULL after a failure.
const json_t *mk_gschema_follow(mk_gschema *c, const json_t *schema);
mk_gn mk_gschema_any(mk_gschema *c);
// const and enum, with "type" and each other but with nothing else.
mk_gn mk_gschema_values(mk_gschema *c, const json_t *schema);
mk_gn mk_gschema_types(mk_gschema *c, const json_t *schema);
mk_gn mk_gschema_object(mk_gschema *c, const json_t *schema);
mk_gn mk_gschema_array(mk_gschema *c, const json_t *schema);
mk_gn mk_gschema_string(mk_gschema *c, const json_t *schema);
mk_gn mk_gschema_number(mk_gschema *c, const json_t *schema, bool integer);
// A schema that both x and y hold in; borrowed.  NULL after a failure.
const json_t *mk_gschema_merge(mk_gschema *c, const json_t *x, const json_t *y);
// x without one of its keywords; borrowed.
json_t *mk_gschema_without(mk_gschema *c, const json_t *x, const char *key);
// Checks that all keywords are known and enforced; false after a failure.
bool mk_gschema_check(mk_gschema *c, const json_t *schema);
// true if x has keywords beyond annotations.
bool mk_gschema_constrains(const json_t *x);
bool mk_gschema_count(mk_gschema *c, const json_t *schema, const char *key, uint32_t fallback,
                      uint32_t *out);
// Regex of a format and how long its texts may be; NULL: unknown.
typedef struct {
    const char *name, *pattern;
    uint32_t min, max;
} mk_gformat;
const mk_gformat *mk_gformat_find(const char *name);

// Numbers between bounds, all given as decimal text; NULL: none.
typedef struct {
    const char *where;  // JSON pointer, for messages
    const char *min, *max;
    bool open_min, open_max;  // exclusive
    bool integer;
} mk_gbounds;
mk_gn mk_gb_number(mk_gb *b, const mk_gbounds *o);

#endif
