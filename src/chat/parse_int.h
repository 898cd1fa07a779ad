// Private to the parser of generated text (parse*.c): the tables, and what matchers return.
//
// A pattern describes markup with one capture or more:
//     ~   any white space, also none          \1  the name of the call
//     \2  anything on one line, not kept      \3  the name of a parameter
//     \4  "true" or "false": the parameter is a string
//     \5  the character before it is only looked at, not taken
// Everything else stands for itself.  A capture reaches to the next character of the pattern, which
// must be a literal.
#ifndef MK_CHAT_PARSE_INT_H
#define MK_CHAT_PARSE_INT_H

#include "base/buf.h"
#include "chat/json_feed.h"
#include "chat/parse.h"

typedef enum {
    MK_BODY_NONE,     // the end of a table
    MK_BODY_WRAPPED,  // {"name": N, "arguments": {...}}, keys in any order, more keys allowed
    MK_BODY_KEYED,    // {N: {...}}
    MK_BODY_JSON,     // head, then {...}
    MK_BODY_XML,      // head, then parameters, then tail
    MK_BODY_PYTHON    // head, then k=v, k=v (or k:v), then tail
} mk_call_body;

typedef struct {
    const char *open, *close;  // around one call or more; open NULL: bare JSON, no marker
    mk_call_body body;
    bool list;            // calls stand in [ , ]
    bool ends_reasoning;  // no model writes this by the way: it ends unfinished reasoning, too
    bool id_names;        // \1 is functions.NAME:INDEX (Kimi)
    const char *head[2];  // patterns; the first that matches
    const char *tail[2];
    const char *key, *end_value;  // XML: pattern in front of a value, text behind it
    bool lines;                   // XML: a value stands on lines of its own
    const char *quote;            // PYTHON: what strings stand in; NULL: ' and " with escapes
    char end;                     // PYTHON: behind the last argument; belongs to them, not to tail
} mk_call_syntax;

enum { MK_N_SYNTAX = 4, MK_N_DROP = 6, MK_N_SIGN = 3 };

struct mk_parse_format {
    const char *name;
    const char *signs[MK_N_SIGN];  // all of them stand in the templates of the family
    mk_call_syntax syntax[MK_N_SYNTAX];
    const char *drop[MK_N_DROP];  // markers in the text that are no text
    const char *force_answer;     // NULL: the closing tag
    bool harmony;                 // messages with headers and channels (parse_harmony.c)
};

// --- matchers: pure functions of the text at hand ------------------------------------------------
typedef enum { MK_NO, MK_MORE, MK_YES } mk_match;  // MORE: the text is too short to say

// At most MK_PARSE_MAX_HEAD bytes are looked at; with `last`, or if these do not suffice, MORE
// becomes NO.
typedef struct {
    const char *p;
    size_t n;
    bool last;  // nothing follows
} mk_view;

typedef enum { MK_ARGS_NONE, MK_ARGS_OBJECT, MK_ARGS_STRING } mk_args_form;

typedef struct {
    size_t n;  // bytes matched
    const char *name, *key;
    size_t n_name, n_key;
    int is_string;      // \4: 1 or 0; -1: not said
    mk_args_form form;  // what follows
} mk_head;

typedef struct {
    const char *const *name;  // n names that were offered
    int n;
} mk_offered;

bool mk_offered_has(const mk_offered *o, const char *name, size_t n);
bool mk_good_call_name(const char *p, size_t n);
bool mk_is_space(char ch);
size_t mk_count_space(const char *p, size_t n);
mk_match mk_match_text(mk_view v, const char *text);
mk_match mk_match_pattern(mk_view v, const char *pattern, mk_head *h);
mk_match mk_match_call(mk_view v, const mk_call_syntax *s, const mk_offered *offered, mk_head *h);
mk_match mk_match_section(mk_view v, const mk_call_syntax *s, const mk_offered *offered,
                          mk_head *h);
mk_match mk_match_next(mk_view v, const mk_call_syntax *s, const mk_offered *offered, mk_head *h);
mk_match mk_match_close(mk_view v, const mk_call_syntax *s, size_t *n);
mk_match mk_match_tail(mk_view v, const mk_call_syntax *s, size_t *n);

// --- arguments: a piece in, JSON text out --------------------------------------------------------
typedef enum { MK_ARGS_GO, MK_ARGS_DONE, MK_ARGS_BROKEN } mk_args_state;

typedef struct {
    const mk_call_syntax *syntax;
    const json_t *schema;  // parameters of the tool; NULL: not offered
    mk_buf *out;           // JSON text
    mk_args_state state;
    mk_args_form form;
    mk_json_feed json;
    mk_json_unescape text;  // arguments written as a string of JSON
    int n_param;
    // XML
    bool in_value, first, as_text, as_json;
    unsigned types;
    bool too_long;  // a value reached MK_PARSE_MAX_VALUE
    mk_buf value;
    // PYTHON
    int step, depth;
    char kind[MK_JSON_FEED_DEPTH];  // of every open container: '{', '[', '('
    char quote;
    bool fresh, is_key;
    char word[64];
    size_t n_word;
} mk_args;

void mk_args_init(mk_args *a, mk_buf *out);
void mk_args_free(mk_args *a);
void mk_args_begin(mk_args *a, const mk_call_syntax *s, mk_args_form form, const json_t *schema);
// Returns how many bytes were used; looks at a->state then.  0 with GO: needs more.
size_t mk_args_step(mk_args *a, mk_view v);
size_t mk_args_xml(mk_args *a, mk_view v);
size_t mk_args_python(mk_args *a, mk_view v);
// One value in place of all arguments: begin, steps, and is it whole?
void mk_args_begin_value(mk_args *a, const mk_call_syntax *s);
bool mk_args_value_whole(const mk_args *a);
void mk_json_add_escaped(mk_buf *b, const char *p, size_t n);  // without the quotes

// --- the parser ----------------------------------------------------------------------------------
// States and what leaves them:
//     START    white space, opening tag -> THINK; anything else -> CONTENT
//     THINK    closing tag -> AFTER; the beginning of a call that ends reasoning -> ARGS
//     AFTER    white space is dropped; anything else -> CONTENT
//     CONTENT  a dropped marker -> AFTER; the beginning of a call -> ARGS
//     ARGS     whole -> TAIL; broken -> CONTENT
//     TAIL     what closes one call, or nothing -> BETWEEN
//     BETWEEN  another call -> ARGS; what closes the section, or anything else -> AFTER
//     HEADER, BODY, BODY_END   parse_harmony.c; calls go HEADER -> ARGS -> BODY_END
typedef enum {
    MK_PS_START,
    MK_PS_THINK,
    MK_PS_AFTER,
    MK_PS_CONTENT,
    MK_PS_ARGS,
    MK_PS_TAIL,
    MK_PS_BETWEEN,
    MK_PS_HEADER,
    MK_PS_BODY,
    MK_PS_BODY_END
} mk_parse_state;

typedef enum { MK_CHANNEL_ANALYSIS, MK_CHANNEL_COMMENTARY, MK_CHANNEL_FINAL } mk_channel;

struct mk_parser {
    mk_parse_opts o;
    mk_parse_fn fn;
    void *arg;
    mk_offered offered;
    const char **names;
    bool first[256];  // bytes that a marker begins with
    bool watch;       // CONTENT has markers to look for
    mk_parse_state state;
    bool moved;    // the state was set since the last step
    bool started;  // THINK: something that is not white space was seen
    bool fresh;    // CONTENT: nothing but white space since the beginning, the reasoning, a call
    mk_channel channel;
    mk_buf held;  // bytes not given out yet
    const mk_call_syntax *syntax;
    mk_args args;
    mk_buf out;  // JSON of arguments, on its way
    int n_calls;
    mk_status failed;
};

void mk_parse_go(mk_parser *p, mk_parse_state s);
void mk_parse_give(mk_parser *p, mk_ae_kind kind, const char *text, size_t n);
void mk_parse_begin_call(mk_parser *p, const mk_call_syntax *s, const mk_head *h);
size_t mk_parse_args(mk_parser *p, mk_view v);
size_t mk_parse_tail(mk_parser *p, mk_view v);
size_t mk_parse_between(mk_parser *p, mk_view v);
void mk_parse_end_call(mk_parser *p, bool broken);
size_t mk_parse_header(mk_parser *p, mk_view v);
size_t mk_parse_body(mk_parser *p, mk_view v);
size_t mk_parse_body_end(mk_parser *p, mk_view v);
bool mk_parse_harmony_marker(const char *piece, size_t n);
extern const mk_parse_format mk_parse_generic;

#endif
