// The chat template of a model: messages -> the text the model was trained to continue.
//
// A mk_chat_template holds the compiled template (and a second one for tools, where a model brings
// two) and the special token texts that templates print. It is immutable after creation and may be
// shared by threads.
//
// Safety: the rendered text knows which bytes came from a user (messages, tools, extra variables)
// and which from the template or the model. To encode it, recognise control tokens only where all
// their bytes are template bytes, and run the rest of the tokenizer over the whole text, so that
// merges across the borders stay what they were in training.
//
//     mk_chat_sources src = {.file = jinja_text, .tokenizer_config = config_text};
//     MK_TRY(mk_chat_template_create(&src, &tpl, err));
//     MK_TRY(mk_chat_template_render(tpl, messages, NULL, &MK_CHAT_RENDER_DEFAULTS, &text, err));
#ifndef MK_CHAT_TEMPLATE_H
#define MK_CHAT_TEMPLATE_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "base/status.h"
#include "chat/jinja.h"

typedef struct mk_chat_template mk_chat_template;

typedef struct {
    const char *name;  // "bos_token", "eos_token", ...
    const char *text;  // "<|im_start|>"
} mk_chat_special;

// Where a template can come from. Every text is NUL-terminated or NULL and is not kept. The first
// of these wins: override, file, tokenizer_config, gguf, and last the built-in ones: one of them is
// taken if exactly one fits the vocabulary.
typedef struct {
    const char *override_text;        // --template FILE
    const char *file;                 // chat_template.jinja
    const char *file_tool_use;        // additional_chat_templates/tool_use.jinja
    const char *tokenizer_config;     // tokenizer_config.json, whole; gives special tokens, too
    const char *gguf;                 // tokenizer.chat_template
    const char *gguf_tool_use;        // tokenizer.chat_template.tool_use
    const mk_chat_special *specials;  // n_specials; win over those of tokenizer_config
    size_t n_specials;
    // Is `text` one control token of the vocabulary? For the built-in templates; NULL: none of them
    // is tried.
    bool (*has_token)(const void *arg, const char *text);
    const void *has_token_arg;
} mk_chat_sources;

// Errors: MK_ENOTFOUND (no template; says what to do), MK_ETEMPLATE, MK_ELIMIT, MK_ECORRUPT
// (tokenizer_config), MK_ENOMEM.
mk_status mk_chat_template_create(const mk_chat_sources *src, mk_chat_template **out,
                                  mk_err *err) MK_WARN_UNUSED;
void mk_chat_template_destroy(mk_chat_template *t);

typedef struct {
    bool add_generation_prompt;
    int enable_thinking;           // -1 = the template's own default, 0 = off, 1 = on
    const char *reasoning_effort;  // "low", "medium", "high" ...; NULL = the template's own default
    const json_t *extra;           // object with more variables (chat_template_kwargs); NULL
    mk_jinja_limits limits;        // with the date; zeros = defaults
} mk_chat_render_opts;
#define MK_CHAT_RENDER_DEFAULTS                                                                    \
    ((mk_chat_render_opts){.add_generation_prompt = true, .enable_thinking = -1})

// messages: array of objects with a string "role"; "content" is a string, null, an array of parts
// or absent. Reasoning of past turns may be called reasoning_content, reasoning or thinking. tools:
// array of objects, NULL or empty = none. *out is freed with mk_jinja_text_free.
// Errors: MK_EUSAGE (messages, tools or extra malformed: which one and how), MK_ETEMPLATE (the
// template refused them), MK_ELIMIT, MK_ENOMEM.
mk_status mk_chat_template_render(const mk_chat_template *t, const json_t *messages,
                                  const json_t *tools, const mk_chat_render_opts *opts,
                                  mk_jinja_text *out, mk_err *err) MK_WARN_UNUSED;

// Facts.  Borrowed, valid as long as t.
const char *mk_chat_template_origin(
    const mk_chat_template *t);  // "chat_template.jinja", "built-in: chatml", ...
bool mk_chat_template_is_override(const mk_chat_template *t);
const char *mk_chat_template_text(const mk_chat_template *t);
// The one that a request with these tools is rendered with.
const char *mk_chat_template_text_for(const mk_chat_template *t, const json_t *tools);
const char *mk_chat_template_special(const mk_chat_template *t,
                                     const char *name);      // NULL: not known
bool mk_chat_template_has_tools(const mk_chat_template *t);  // the template looks at `tools`
bool mk_chat_template_thinks(const mk_chat_template *t);     // the template knows of reasoning
bool mk_chat_template_can_switch_thinking(
    const mk_chat_template *t);  // enable_thinking changes something

#endif
