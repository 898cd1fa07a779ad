// Splits generated text into reasoning and answer while it streams.
//
// Text between the tags (<think> ... </think>, or another pair) is reasoning, all else is content;
// the tags themselves are never given out, nor is a part of one: what could still become a tag is
// held back. However the text is cut into pieces, the concatenated reasoning and the concatenated
// content are the same.
//
// Only one reasoning section is recognised, at the start: the first thing that is not white space
// must be the opening tag, or the prompt must have ended in it. Later tags are content (a model may
// write about them). White space beside the tags belongs to neither side; it is dropped. A closing
// tag without an opening one is content.
//
// States and what leaves them:
//     START white space ... opening tag -> THINK; anything else -> CONTENT (the white space is
//     given out) THINK closing tag -> AFTER; everything else is reasoning (white space at its ends
//     is dropped) AFTER     white space is dropped; anything else -> CONTENT
//     CONTENT   nothing
// Plain data but for the held bytes; one stream belongs to one thread.
#ifndef MK_CHAT_REASONING_H
#define MK_CHAT_REASONING_H

#include <stdbool.h>
#include <stddef.h>

#include "base/buf.h"
#include "base/status.h"

typedef struct {
    // Static or outliving the splitter; NULL = "<think>", "</think>"; at most 64 bytes each.
    const char *open, *close;
    bool starts_inside;  // the prompt ended in the opening tag
    bool disabled;       // no reasoning at all: everything is content
} mk_reasoning_opts;

typedef enum {
    MK_REASONING_START,
    MK_REASONING_THINK,
    MK_REASONING_AFTER,
    MK_REASONING_CONTENT
} mk_reasoning_state;

typedef struct {
    mk_reasoning_opts opts;
    mk_reasoning_state state;
    mk_buf held;   // bytes not given out yet: white space, or the beginning of a tag
    bool started;  // THINK: something other than white space was seen
} mk_reasoning;

// Called with n > 0 bytes; the text lives until it returns.
typedef void (*mk_reasoning_fn)(void *arg, bool reasoning, const char *text, size_t n);

// Errors: MK_EUSAGE (empty or too long tag).  mk_reasoning_free also after an error.
mk_status mk_reasoning_init(mk_reasoning *r, const mk_reasoning_opts *opts,
                            mk_err *err) MK_WARN_UNUSED;
void mk_reasoning_free(mk_reasoning *r);
// Errors: MK_ENOMEM (over 64 MiB of white space held back, or no memory).
mk_status mk_reasoning_push(mk_reasoning *r, const char *text, size_t n, mk_reasoning_fn fn,
                            void *arg, mk_err *err) MK_WARN_UNUSED;
// The end of the text: gives out what was held back and is not white space at the end of reasoning.
void mk_reasoning_finish(mk_reasoning *r, mk_reasoning_fn fn, void *arg);
bool mk_reasoning_inside(const mk_reasoning *r);  // the next token belongs to the reasoning

// Does the prompt end in the opening tag (white space behind it aside)?
bool mk_reasoning_prompt_open(const char *prompt, size_t n, const char *open);

#endif
