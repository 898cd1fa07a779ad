// Stop texts: holds back what could be the beginning of one, cuts the answer where one is complete.
//
// The same text cut into pieces anywhere gives the same output (tests/chat/test_stops.c tries every
// cut).
#ifndef MK_CHAT_STOPS_H
#define MK_CHAT_STOPS_H

#include <stdbool.h>
#include <stddef.h>

#include "base/buf.h"

typedef struct {
    const char *const *stop;  // n_stop texts, none empty; outlive this
    int n_stop;
    mk_buf held;  // bytes not yet known to be free of a stop text
    bool hit;     // a stop text was complete; everything later is dropped
    int which;    // hit: which of them
} mk_stops;

void mk_stops_init(mk_stops *s, const char *const *stop, int n_stop);
void mk_stops_free(mk_stops *s);
// Adds text[0..n) and appends what is now certain to out.  Returns true once a stop text was seen.
bool mk_stops_push(mk_stops *s, const char *text, size_t n, mk_buf *out);
// End of the text: what was held back is not a stop text after all.
void mk_stops_finish(mk_stops *s, mk_buf *out);

#endif
