// Remembered reasoning: what a model thought in answers that clients send back without it.
//
// Most clients drop reasoning, and many models want to see it again, above all between the tool
// calls of one answer.  So what was thought is stored under what clients do send back: the ids of
// the answer's tool calls, which nobody can guess, and the hash of its visible part.  Texts and
// calls that are so short that they may be said twice are hashed together with the message before
// them.  Whether a past turn's reasoning is shown to the model is up to its template.
//
// Everything belongs to an owner (a tenant): nobody is given another's reasoning.  What has not
// been used for the longest time goes when all together exceed the limit.
#ifndef MK_SERVE_MEMORY_H
#define MK_SERVE_MEMORY_H

#include <jansson.h>

#include "serve/store.h"

#define MK_MEMORY_BYTES ((int64_t)1 << 28)

// answer: the assistant's message, with its reasoning_content; before: the messages it answers.
// Nothing happens without reasoning.
mk_status mk_memory_learn(mk_store *s, uint64_t owner, const json_t *before, const json_t *answer,
                          int64_t now, int64_t max_bytes, mk_err *err) MK_WARN_UNUSED;
// Gives the assistant's messages that have none their reasoning_content back.  n: how many of the
// messages to look at.  *n_found may be NULL.
mk_status mk_memory_recall(mk_store *s, uint64_t owner, json_t *messages, size_t n, int64_t now,
                           int *n_found, mk_err *err) MK_WARN_UNUSED;

#endif
