// A bounded interpreter for the part of Jinja that chat templates use, with Hugging Face's settings
// (trim_blocks, lstrip_blocks, loop controls, tojson without HTML escapes, raise_exception,
// strftime_now). Source: the Jinja template documentation (Pallets) and transformers' chat-template
// settings.
//
// A compiled mk_jinja is immutable and may be shared by threads; rendering keeps all its state in
// the call. Bounds: template size, nesting depth, steps, output bytes, value memory, time; reaching
// one is MK_ELIMIT, never a crash. There is no access to anything but the values given: no files,
// no attributes of host objects, no imports.
//
// Origin: the rendered text knows, byte by byte, whether it came from the template (or from values
// of the model, such as bos_token) or from a user. The caller recognises special tokens in the
// former only.
#ifndef MK_CHAT_JINJA_H
#define MK_CHAT_JINJA_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/status.h"

typedef struct mk_jinja mk_jinja;

typedef struct {
    uint64_t max_steps;       // 0 = 1,000,000
    size_t max_output_bytes;  // 0 = 64 MiB
    uint64_t max_time_ms;     // 0 = 5,000
    // Seconds since 1970, UTC, for strftime_now; 0 = 2024-07-26, the default of Llama templates.
    int64_t now;
} mk_jinja_limits;

// Top-level names. Both are JSON objects or NULL; a name in `model` wins. Every string inside
// `user`, keys included, is user text, with one exception: the value of a key "role" that equals
// one of `plain_roles` (NULL-terminated list, may be NULL) counts as template text, because
// templates build control tokens from it.
typedef struct {
    const json_t *model;
    const json_t *user;
    const char *const *plain_roles;
} mk_jinja_vars;

typedef struct {
    size_t end;  // one past the last byte of the run in text
    bool user;
} mk_jinja_run;

// Rendered text and where it came from: runs cover it in order, neighbours differ. Owned;
// mk_jinja_text_free.
typedef struct {
    mk_buf text;
    mk_jinja_run *runs;
    size_t n_runs, cap_runs;
} mk_jinja_text;
void mk_jinja_text_free(mk_jinja_text *t);

// Errors: MK_ETEMPLATE with line and what was expected, MK_ELIMIT (size, nesting), MK_ENOMEM.
mk_status mk_jinja_compile(const char *text, size_t n, mk_jinja **out, mk_err *err) MK_WARN_UNUSED;
void mk_jinja_destroy(mk_jinja *j);

// Renders with the members of `vars` (a JSON object) as top-level names; appends to out. A
// raise_exception in the template is MK_ETEMPLATE with the template's own message.
mk_status mk_jinja_render(const mk_jinja *j, const json_t *vars, const mk_jinja_limits *limits,
                          mk_buf *out, mk_err *err) MK_WARN_UNUSED;
// The same with origin. *out must be zero or freed; on failure it is left empty. limits may be
// NULL.
mk_status mk_jinja_render_text(const mk_jinja *j, const mk_jinja_vars *vars,
                               const mk_jinja_limits *limits, mk_jinja_text *out,
                               mk_err *err) MK_WARN_UNUSED;

#endif
