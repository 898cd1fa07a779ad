// What the Anthropic dialect knows beside mk_dialect_anthropic (serve/dialect.h).
#ifndef MK_SERVE_ANTHROPIC_H
#define MK_SERVE_ANTHROPIC_H

#include <stddef.h>

// Lines that clients put in front of their system prompt and that change with every request.  They
// are dropped: one changing line at the start makes every cached prefix worthless.  NULL ends the
// list.
extern const char *const mk_anthropic_volatile[];

#endif
