// Turns what a model generates into reasoning, text and tool calls while it comes.
//
// One state machine for all three, driven by tables: a mk_parse_format describes how a family of
// models writes tool calls, two tags say where reasoning begins and ends.  Both are read off the
// chat template's text.  However the text is cut into pieces, the concatenated events are the same;
// an answer that is not streamed is the same calls with one piece.
//
// Reasoning.  Text between the tags is reasoning; the tags are never given out, nor is a part of
// one: what could still become a tag is held back.  One section is recognised, at the start: the
// first thing that is not white space must be the opening tag, or the prompt must have ended in it.
// Later tags are text (a model may write about them).  White space beside a tag or a call belongs
// to neither side and is dropped (at most MK_PARSE_MAX_SPACE bytes of it; what is longer is text).
//
// Tool calls.  Recognised only if the request offered tools.  A call begins when its name and the
// first byte of its arguments are known; until then it may turn out to be text, and then nothing of
// it is lost.  Names come whole, arguments in fragments of one JSON object: families that write XML
// or Python get them converted, with the types of the tool's schema.  A call without arguments has
// "{}".  A call that breaks off, or whose arguments are no JSON, ends as `broken`: what was given
// stays what the model wrote (nothing is completed: half a command must not look like a whole one),
// and what follows is text.  A marked call to a name that was not offered is given out as it is:
// the caller can tell the model so; a family that writes bare JSON without a marker needs an
// offered name.
//
// Memory is bounded: MK_PARSE_MAX_HEAD bytes are held back at most, and one XML parameter whose
// type needs all of it (MK_PARSE_MAX_VALUE, beyond it MK_ELIMIT).
//
//     mk_parse_opts o = {.tools = tools, .starts_inside = prompt_thinks};
//     mk_parse_detect(mk_chat_template_text(t), &o);
//     MK_TRY(mk_parser_create(&o, on_event, arg, &p, err));
//     ... for each token: MK_TRY(mk_parser_push(p, text, n, err));
//     MK_TRY(mk_parser_finish(p, err));
#ifndef MK_CHAT_PARSE_H
#define MK_CHAT_PARSE_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "base/buf.h"
#include "chat/event.h"
#include "text/tokenizer.h"

enum {
    MK_PARSE_MAX_TAG = 64,
    MK_PARSE_MAX_NAME = 256,
    MK_PARSE_MAX_HEAD = 4096,
    MK_PARSE_MAX_SPACE = 4096,
    MK_PARSE_MAX_VALUE = 1 << 20
};

typedef struct mk_parse_format mk_parse_format;
typedef struct mk_parser mk_parser;

// Everything pointed to outlives the parser.
typedef struct {
    const mk_parse_format *format;  // NULL: the generic one
    // NULL = "<think>", "</think>"; 1 to MK_PARSE_MAX_TAG bytes that start with no white space.
    const char *think_open, *think_close;
    const json_t *tools;  // [{type: function, function: {name, parameters}}]; NULL or empty: none
    bool starts_inside;   // the prompt ended in the opening tag
    bool no_reasoning;    // no tags of reasoning are looked for: everything is text or calls
} mk_parse_opts;

// --- which format --------------------------------------------------------------------------------
// Sets format, think_open and think_close to what the template's text names.
void mk_parse_detect(const char *template_text, mk_parse_opts *o);
const mk_parse_format *mk_parse_format_find(const char *name);  // "qwen3", ...; NULL: unknown
const mk_parse_format *mk_parse_format_at(int i);               // NULL behind the last
const char *mk_parse_format_name(const mk_parse_format *f);
bool mk_parse_format_has_headers(const mk_parse_format *f);  // messages with headers and channels
// How the arguments of a call are written, for one who writes them.
typedef enum { MK_PARSE_JSON, MK_PARSE_XML, MK_PARSE_PYTHON, MK_PARSE_MARKED } mk_parse_args_kind;
typedef struct {
    mk_parse_args_kind kind;
    const char *ends;          // XML: behind a value; MARKED: what strings stand in
    const char *open, *close;  // around calls, "" if nothing
    bool list;                 // calls stand in [ , ]
} mk_parse_writing;
mk_parse_writing mk_parse_format_writing(const mk_parse_format *f);
// Does a prompt end in this tag (white space behind it aside)?
bool mk_parse_ends_in(const char *prompt, size_t n, const char *tag);
// Appends what to put behind unfinished reasoning so that the answer begins (a spent budget).
void mk_parse_force_answer(const mk_parse_opts *o, mk_buf *out);

// --- parsing -------------------------------------------------------------------------------------
// Called with REASONING, TEXT, TOOL_BEGIN, TOOL_ARGS, TOOL_END; texts have n > 0.
typedef void (*mk_parse_fn)(void *arg, const mk_answer_event *ev);

// Errors: MK_EUSAGE (a tag), MK_ENOMEM.
mk_status mk_parser_create(const mk_parse_opts *o, mk_parse_fn fn, void *arg, mk_parser **out,
                           mk_err *err) MK_WARN_UNUSED;
void mk_parser_destroy(mk_parser *p);
// Errors (which stay): MK_ENOMEM, MK_ELIMIT.
mk_status mk_parser_push(mk_parser *p, const char *text, size_t n, mk_err *err) MK_WARN_UNUSED;
// The end of the text: gives out what was held back.
mk_status mk_parser_finish(mk_parser *p, mk_err *err) MK_WARN_UNUSED;

// Markers are control tokens in many vocabularies, and detokenizers leave those out.  Push the text
// of a control token (after mk_detok_finish) if this is true, leave it out otherwise.
bool mk_parser_wants(const mk_parser *p, const char *piece, size_t n);
// Does that for one generated token: detok (made with skip_special) and parser of one answer.
mk_status mk_parse_token(mk_parser *p, mk_detok *detok, const mk_tokenizer *tok, int32_t id,
                         mk_err *err) MK_WARN_UNUSED;

// What the next token belongs to.
typedef enum {
    MK_PLACE_START,      // not decided: nothing but white space, headers or a part of a tag so far
    MK_PLACE_REASONING,  //
    MK_PLACE_ANSWER,     // the answer proper: from here on a grammar for the answer holds
    MK_PLACE_CALL        // inside a section of tool calls
} mk_parse_place;
mk_parse_place mk_parser_place(const mk_parser *p);
int mk_parser_n_calls(const mk_parser *p);  // begun so far

#endif
