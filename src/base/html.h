// Text from outside in HTML and SVG.
#ifndef MK_BASE_HTML_H
#define MK_BASE_HTML_H

#include "base/buf.h"

// Appends n bytes as text or as an attribute's value: & < > " ' are escaped; control characters
// (but newline and tab), marks that turn the direction of writing, and what is no UTF-8 become
// U+FFFD.
void mk_html_text(mk_buf *b, const char *p, size_t n);
void mk_html_str(mk_buf *b, const char *s);  // of a NUL-terminated string

#endif
