// What the answers to one request cost together.  Answers to the same prompt share it, so it counts
// once; several prompts are read and answered side by side, so of times the longest counts.
#ifndef MK_SERVE_TALLY_H
#define MK_SERVE_TALLY_H

#include "chat/event.h"
#include "serve/ask.h"

typedef struct {
    mk_usage sum;
    bool prompt[MK_ASK_MAX_CHOICE];  // has been counted
} mk_tally;

// At the DONE of one of the ask's choices.
void mk_tally_add(mk_tally *t, const mk_ask *ask, int choice, const mk_usage *u);

#endif
