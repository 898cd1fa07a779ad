// Tool arguments and other JSON on its way between text and value, without a change of meaning.
//
// A model writes arguments as text; some dialects want them as an object inside their own JSON.
// Numbers must survive that (3.14159265358979 is not 3.14159265), so the text is checked by the
// parser but copied, not printed anew; the way back prints reals with the fewest digits that read
// back as the same value.
#ifndef MK_SERVE_JOUT_H
#define MK_SERVE_JOUT_H

#include <jansson.h>

#include "base/buf.h"

// An object in one line from the text of a tool call: blanks between its parts are dropped, the
// rest stays as it is.  An empty text is {}; what is no JSON object (an answer that was cut off)
// becomes {"INVALID_JSON": "the text"}.
void mk_jout_args(mk_buf *b, const char *p, size_t n);

// A value in one line, keys in the order they were set, reals exact.  NULL is a value that there
// was no memory for: the buffer fails.
void mk_jout_value(mk_buf *b, const json_t *v);

#endif
