// JSON text as writers of streams need it: appended piece by piece, without building a tree.
#ifndef MK_SERVE_WIRE_H
#define MK_SERVE_WIRE_H

#include "base/buf.h"

// A string in quotation marks; bytes that are not UTF-8 become U+FFFD.
void mk_wire_string(mk_buf *b, const char *p, size_t n);
void mk_wire_text(mk_buf *b, const char *s);  // NULL: null
// The same without the quotation marks, to write a string in several pieces.
void mk_wire_escaped(mk_buf *b, const char *p, size_t n);
// A number with at most 7 digits; what JSON has no number for becomes the largest of its sign.
void mk_wire_number(mk_buf *b, double x);
// [72,105]
void mk_wire_bytes(mk_buf *b, const char *p, size_t n);

// "data: " .. "\n\n"; with a name, "event: NAME\n" in front.
void mk_wire_sse_begin(mk_buf *b, const char *event);
void mk_wire_sse_end(mk_buf *b);

#endif
