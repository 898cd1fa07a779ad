// Constrained decoding: an answer that follows a JSON schema, a regex, a list of choices or a GBNF
// grammar.
//
// All forms compile to one grammar: rules over bytes.  A pushdown machine runs it with a set of
// stacks; sets are interned, so that the steps of the machine become a table that grows as it is
// used.  The set of tokens that may come next is found by walking a trie of the vocabulary with
// that table, and is kept.  docs/structured-output.md says what is supported and how it works.
//
// Nouns: mk_token_trie (the vocabulary as bytes; one per tokenizer), mk_grammar (what is allowed),
// mk_grammar_state (where one answer stands).  Tries and grammars are counted references and may be
// shared by threads; a state belongs to one thread at a time and holds a reference to both.
//
//     MK_TRY(mk_token_trie_create(tok, &trie, err));
//     MK_TRY(mk_grammar_from_schema(schema, NULL, &g, err));
//     MK_TRY(mk_grammar_start(g, trie, &s, err));
//     for (;;) {
//         memset(mask, 0xff, ...);
//         MK_TRY(mk_grammar_mask(s, mask, n_vocab, err));  // clears what must not come
//         id = choose(logits, mask);
//         MK_TRY(mk_grammar_accept(s, id, err));
//     }
#ifndef MK_CHAT_GRAMMAR_H
#define MK_CHAT_GRAMMAR_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/status.h"
#include "text/tokenizer.h"

typedef struct mk_token_trie mk_token_trie;
typedef struct mk_grammar mk_grammar;
typedef struct mk_grammar_state mk_grammar_state;

// --- vocabulary ----------------------------------------------------------------------------------
// Tokens that are text; control, unknown and unused ones, and user-defined ones that look like a
// mark ("<think>"), are allowed nowhere but where a grammar names them (mk_grammar_spell).  Tokens
// that end an answer are allowed where it may end.  The tokenizer is not needed afterwards.
// Errors: MK_ENOMEM.
mk_status mk_token_trie_create(const mk_tokenizer *t, mk_token_trie **out,
                               mk_err *err) MK_WARN_UNUSED;
void mk_token_trie_ref(mk_token_trie *t);
void mk_token_trie_unref(mk_token_trie *t);  // NULL is fine

// --- grammars ------------------------------------------------------------------------------------
// Bounds of compiling; 0 or NULL: the default.
typedef struct {
    size_t max_bytes;  // memory of the compiled grammar: 64 MiB
    int64_t max_ms;    // 1,000
} mk_grammar_limits;

// Compilers.  Errors: MK_EUSAGE (malformed, or no text can follow it), MK_EUNSUPPORTED (a keyword
// or construct that is not enforced here), MK_ELIMIT (too large, deep or slow), MK_ENOMEM.  For a
// schema the text begins with the JSON pointer of the keyword: "/properties/a/not: ...".

// A JSON text that follows the schema, properties in its order.  The schema is not kept.
mk_status mk_grammar_from_schema(const json_t *schema, const mk_grammar_limits *limits,
                                 mk_grammar **out, mk_err *err) MK_WARN_UNUSED;
// Any JSON object.
mk_status mk_grammar_from_json_object(mk_grammar **out, mk_err *err) MK_WARN_UNUSED;
// Text that the regex (ECMA-262, what of it is regular) matches as a whole.
mk_status mk_grammar_from_regex(const char *pattern, size_t n, const mk_grammar_limits *limits,
                                mk_grammar **out, mk_err *err) MK_WARN_UNUSED;
// One of an array of strings.
mk_status mk_grammar_from_choice(const json_t *choices, const mk_grammar_limits *limits,
                                 mk_grammar **out, mk_err *err) MK_WARN_UNUSED;
// llama.cpp's notation; the rule "root".
mk_status mk_grammar_from_gbnf(const char *text, size_t n, const mk_grammar_limits *limits,
                               mk_grammar **out, mk_err *err) MK_WARN_UNUSED;

// Texts around schemas, for tool calls: an answer is one of the frames, each `before`, a value that
// follows the schema (NULL: none), `after`; with `many`, one or more of them with `between`.
typedef struct {
    const char *before, *after;  // NULL: nothing
    const json_t *schema;
} mk_grammar_frame;
mk_status mk_grammar_from_frames(const mk_grammar_frame *frames, size_t n, const char *between,
                                 bool many, const mk_grammar_limits *limits, mk_grammar **out,
                                 mk_err *err) MK_WARN_UNUSED;

// --- tool calls ----------------------------------------------------------------------------------
// In the texts of frames and calls a token that is no text (a control token, a mark such as
// "<tool_call>") has a spelling of its own: bytes that no text has, so that the grammar demands
// that very token and not its name in letters.
enum { MK_GRAMMAR_TOKEN_BYTES = 6 };
#define MK_GRAMMAR_TOKEN 0xFF  // the first of them
// The bytes of id, for MK_GRAMMAR_TOKEN_BYTES of out.
void mk_grammar_spell_token(int32_t id, char *out);
int32_t mk_grammar_spelled_token(const char *p);  // the other way
// Appends what the ids are in a grammar.  Tokens that end an answer are spelled, too; no grammar
// may demand one.
void mk_grammar_spell(const mk_tokenizer *t, const int32_t *ids, int64_t n, mk_buf *out);

// Calls whose arguments are no JSON object: <parameter=a>1</parameter>, f(a=1), f{a:1}.  Texts are
// as in frames.
typedef enum {
    MK_VALUES_JSON,
    MK_VALUES_PYTHON,  // True, False, None; strings in " or '
    MK_VALUES_MARKED   // strings as they are between two marks, keys without quotes (Gemma 4)
} mk_grammar_values;

typedef struct {
    mk_grammar_values values;
    bool bare;          // a parameter that is a string stands as it is, without quotes
    bool sorted;        // names come in the order of the alphabet, not of the schema
    const char *avoid;  // letters that no string may hold, since they would end it; "": none
    const char *quote;  // MARKED: the mark
    const char *open;   // before a name
    // Between name and value, behind the value: of a bare string, of all else.
    const char *mid_bare, *end_bare, *mid, *end;
    const char *between;  // two parameters
} mk_grammar_params;

// Calls in the headers of messages (gpt-oss): each text is one mark.  end: "" if the mark ends an
// answer; then a call is all that may come.
typedef struct {
    const char *start, *channel, *message, *constrain, *end;
} mk_grammar_headers;

typedef struct {
    // what stands before the arguments: of the first call, of a later one; with headers `first` is
    // the recipient
    const char *first, *next;
    const json_t *schema;  // of the arguments; NULL: any object
    const char *where;     // JSON pointer of the schema, for messages
} mk_grammar_call;

typedef enum {
    MK_FORM_NONE,
    MK_FORM_JSON,
    MK_FORM_SCHEMA,
    MK_FORM_REGEX,
    MK_FORM_CHOICE,
    MK_FORM_GBNF
} mk_grammar_form;

typedef struct {
    const mk_grammar_call *call;
    size_t n;
    const char *tail;                 // behind the last call
    uint32_t max;                     // calls at most; 0: any number
    const char *trigger;              // what every `first` begins with and no text has
    const mk_grammar_params *params;  // how arguments are written; NULL: as a JSON object
    // Not NULL: the grammar is of the whole answer, reasoning and headers included.
    const mk_grammar_headers *headers;
    bool open;  // nothing is known of calls but the trigger: anything may follow it
    // An answer may do without calls: then it is any text (which calls may follow), or ...
    bool may_be_text;
    mk_grammar_form form;  // ... not NONE: a text of this form instead of calls
    const json_t *schema;  // SCHEMA, CHOICE
    const char *pattern;   // REGEX, GBNF
} mk_grammar_calls;
mk_status mk_grammar_from_calls(const mk_grammar_calls *c, const mk_grammar_limits *limits,
                                mk_grammar **out, mk_err *err) MK_WARN_UNUSED;

bool mk_grammar_has_headers(const mk_grammar *g);
void mk_grammar_ref(mk_grammar *g);
void mk_grammar_unref(mk_grammar *g);  // NULL is fine
// Bytes of the compiled grammar and of what it has learnt while it was used.
size_t mk_grammar_bytes(mk_grammar *g);

// --- answers -------------------------------------------------------------------------------------
// trie may be NULL: then only mk_grammar_feed works.
mk_status mk_grammar_start(mk_grammar *g, mk_token_trie *trie, mk_grammar_state **out,
                           mk_err *err) MK_WARN_UNUSED;
void mk_grammar_state_destroy(mk_grammar_state *s);

// Clears the bits of ids that must not come next; mask has n_vocab bits (the model's rows, which
// may be more than the tokenizer's ids), id i in word i / 64.  Errors: MK_ENOMEM, MK_ELIMIT.
mk_status mk_grammar_mask(mk_grammar_state *s, uint64_t *mask, int64_t n_vocab,
                          mk_err *err) MK_WARN_UNUSED;
// The id was chosen.  MK_EUSAGE if it was not allowed; then nothing has changed.
mk_status mk_grammar_accept(mk_grammar_state *s, int32_t id, mk_err *err) MK_WARN_UNUSED;
// The same for bytes that are no tokens of their own: one position, all or nothing.
mk_status mk_grammar_feed(mk_grammar_state *s, const char *p, size_t n, mk_err *err) MK_WARN_UNUSED;
// The answer is complete as it stands.
bool mk_grammar_can_end(mk_grammar_state *s);
// Nothing but the end may come.
bool mk_grammar_must_end(mk_grammar_state *s);
// Bytes that must come next, as far as there is no choice (at most cap); 0 if there is one.
size_t mk_grammar_forced(mk_grammar_state *s, char *out, size_t cap);

// Positions: tokens accepted (and texts fed) so far.  Rewinding to an earlier one costs nothing.
int64_t mk_grammar_pos(const mk_grammar_state *s);
void mk_grammar_rewind(mk_grammar_state *s, int64_t pos);

#endif
