// A bounded interpreter for the part of Jinja that chat templates use, with Hugging Face's settings
// (trim_blocks, lstrip_blocks, loop controls, tojson without HTML escapes, raise_exception, strftime_now).
// Source: the Jinja template documentation (Pallets) and transformers' chat-template settings.
//
// A compiled mk_jinja is immutable and may be shared by threads; rendering keeps all its state in the call.
// Bounds: template size, nesting depth, steps, output bytes, value memory, time; reaching one is MK_ELIMIT, never a
// crash.  There is no access to anything but the values given: no files, no attributes of host objects, no imports.
#ifndef MK_CHAT_JINJA_H
#define MK_CHAT_JINJA_H

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/status.h"

typedef struct mk_jinja mk_jinja;

typedef struct {
    uint64_t max_steps;       // 0 = 1,000,000
    size_t max_output_bytes;  // 0 = 64 MiB
    uint64_t max_time_ms;     // 0 = 5,000
    int64_t now;              // seconds since 1970 for strftime_now; 0 = 2024-07-26 (the date Llama's templates default to)
} mk_jinja_limits;

// Errors: MK_ETEMPLATE with line and what was expected, MK_ELIMIT.
mk_status mk_jinja_compile(const char *text, size_t n, mk_jinja **out, mk_err *err) MK_WARN_UNUSED;
void mk_jinja_destroy(mk_jinja *j);
// Renders with the members of `vars` (a JSON object) as top-level names; appends to out.  A raise_exception in the
// template is MK_ETEMPLATE with the template's own message.
mk_status mk_jinja_render(const mk_jinja *j, const json_t *vars, const mk_jinja_limits *limits, mk_buf *out, mk_err *err)
    MK_WARN_UNUSED;

#endif
