// A scanner over JSON text for the two huge members of tokenizer.json (vocab and merges), where a
// tree of values would cost more time than the whole rest of loading.  Everything else goes through
// base/json.h.
//
// Sticky: after the first error every call returns false / 0 and the error stays.  Nesting is
// bounded.
#ifndef MK_TEXT_JSCAN_H
#define MK_TEXT_JSCAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/status.h"

typedef struct {
    const char *p;
    size_t n, at;
    mk_status st;
    mk_err *err;
} mk_jscan;

typedef struct {
    size_t at, n;  // range of a value in the text; n 0 = absent
} mk_jrange;

char mk_jscan_peek(mk_jscan *j);  // next character that is not white space; 0 at the end
bool mk_jscan_take(mk_jscan *j, char c);
mk_status mk_jscan_fail(mk_jscan *j, const char *expected);
// Appends the decoded string to out, or points into the text when nothing is escaped.
bool mk_jscan_string(mk_jscan *j, mk_buf *scratch, const char **s, size_t *n);
bool mk_jscan_int(mk_jscan *j, int64_t *v);
bool mk_jscan_number(mk_jscan *j, double *v);
mk_jrange mk_jscan_skip(mk_jscan *j);  // one value of any kind
// Walks an object or array: call after '{' or '[' was taken.  true while a member follows (comma
// taken), false at the end.
bool mk_jscan_next(mk_jscan *j, char close, bool *first);

#endif
