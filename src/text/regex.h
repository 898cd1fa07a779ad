// Regexes of unknown tokenizers, by PCRE2 with JIT: UTF mode, Unicode properties, bounded matching.
//
// A mk_regex is immutable and may be shared; a mk_match is the scratch of one thread.
#ifndef MK_TEXT_REGEX_H
#define MK_TEXT_REGEX_H

#include <stdbool.h>
#include <stddef.h>

#include "base/status.h"

typedef struct mk_regex mk_regex;
typedef struct mk_match mk_match;

// Compiles a pattern in the spelling of tokenizer.json (Oniguruma).  Errors: MK_EUNSUPPORTED (not a
// pattern PCRE2 takes the same way), MK_ENOMEM.
mk_status mk_regex_compile(const char *pattern, size_t n, mk_regex **out,
                           mk_err *err) MK_WARN_UNUSED;
void mk_regex_destroy(mk_regex *r);

mk_match *mk_match_create(void);  // NULL when memory is gone
void mk_match_destroy(mk_match *m);

// First non-empty match at or after `from`; *found says whether there is one.  Bytes that are not
// valid UTF-8 match nothing.  Errors: MK_ELIMIT (the pattern needs too many steps).
mk_status mk_regex_find(const mk_regex *r, mk_match *m, const char *text, size_t n, size_t from,
                        bool *found, size_t *start, size_t *end, mk_err *err) MK_WARN_UNUSED;

#endif
