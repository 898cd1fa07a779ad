// JSON by jansson with limits of our own: size before parsing, depth while parsing, duplicate keys
// refused.
//
// Two things of the real world are let in: a byte order mark, and integers beyond 64 bits, which
// become reals.  Strings may contain NUL (\u0000): use json_string_length.
//
// Values are jansson's json_t, reference counted by the caller (json_decref).  Typed getters report
// what they expected and what they found, with the name of the key.
#ifndef MK_BASE_JSON_H
#define MK_BASE_JSON_H

#include <jansson.h>
#include <stdbool.h>

#include "base/buf.h"
#include "base/status.h"

#define MK_JSON_MAX_DEPTH 128

// jansson takes its memory from base/alloc.h from now on, where refusals are counted.  For
// programs, before anything else: a library has no say in what else uses jansson.
void mk_json_use_alloc(void);

// Parses exactly one JSON value.  `what` names the source in messages ("config.json").  Errors:
// MK_ECORRUPT, MK_ENOMEM.
mk_status mk_json_parse(const char *text, size_t n, const char *what, json_t **out,
                        mk_err *err) MK_WARN_UNUSED;
// Reads and parses a file of at most max_bytes.
mk_status mk_json_file(const char *path, size_t max_bytes, json_t **out,
                       mk_err *err) MK_WARN_UNUSED;

// A string of any bytes: what is not UTF-8 becomes U+FFFD.
json_t *mk_json_text(const char *p, size_t n);
// Appends a value in one line, reals with 9 digits; keys in the order they were set.  NULL:
// nothing.
void mk_json_add(mk_buf *b, const json_t *v);

const char *mk_json_type_name(const json_t *v);  // "object", "string", ... ; "nothing" for NULL

// Optional fields: a missing key or null leaves *out as it is; a value of the wrong type or out of
// range is an error.
mk_status mk_json_get_i64(const json_t *obj, const char *key, int64_t min, int64_t max,
                          int64_t *out, mk_err *err) MK_WARN_UNUSED;
mk_status mk_json_get_f64(const json_t *obj, const char *key, double *out,
                          mk_err *err) MK_WARN_UNUSED;
mk_status mk_json_get_bool(const json_t *obj, const char *key, bool *out,
                           mk_err *err) MK_WARN_UNUSED;
// Borrowed string, valid as long as obj; NULL stays when missing.
mk_status mk_json_get_str(const json_t *obj, const char *key, const char **out,
                          mk_err *err) MK_WARN_UNUSED;

#endif
