#include "serve/tally.h"

#include <math.h>

void mk_tally_add(mk_tally *t, const mk_ask *ask, int choice, const mk_usage *u) {
    mk_usage *s = &t->sum;
    bool *counted = &t->prompt[choice / ask->n];
    if (!*counted) {
        s->n_prompt += u->n_prompt;
        s->n_cached += u->n_cached;
        s->queue_ms = fmax(s->queue_ms, u->queue_ms);
        s->prompt_ms = fmax(s->prompt_ms, u->prompt_ms);
        *counted = true;
    }
    s->n_generated += u->n_generated;
    s->n_reasoning += u->n_reasoning;
    s->n_drafted += u->n_drafted;
    s->n_accepted += u->n_accepted;
    s->generation_ms = fmax(s->generation_ms, u->generation_ms);
}
