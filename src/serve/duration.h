// Lengths of time as Ollama's clients and command lines write them: "10m", "1h30m", "1.5h", "300".
#ifndef MK_SERVE_DURATION_H
#define MK_SERVE_DURATION_H

#include <stdbool.h>

// Parts with a unit (ns, us, ms, s, m, h) one after the other, or a number of seconds; a minus in
// front makes it negative, which callers take for "for ever".  False: it is something else.
bool mk_duration_parse(const char *s, double *seconds);

#endif
