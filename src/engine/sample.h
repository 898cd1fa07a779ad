// Choosing the next token.
//
// The same logits, parameters, history and position give the same token on every machine: exp is
// our own, sums run in ascending token id in double, candidates are ordered by (logit descending,
// id ascending), and the random number is a pure function of (seed, position).  Nothing is
// remembered between calls but the history of ids, so sampling can be repeated or resumed anywhere.
//
// Order of the steps: vocabulary mask, logit bias, penalties, then greedy if temperature is 0, else
// temperature, top-k, top-p, min-p, draw.
#ifndef MK_ENGINE_SAMPLE_H
#define MK_ENGINE_SAMPLE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"

typedef struct {
    int32_t id;
    float bias;  // added to the logit; -INFINITY forbids the token
} mk_logit_bias;

typedef struct {
    float temperature;  // 0 = greedy
    int32_t top_k;      // 0 = off
    float top_p;        // 1 = off
    float min_p;        // 0 = off
    float
        // 1 = off; divides positive logits, multiplies negative ones (Keskar et al. 2019)
        repetition_penalty;
    int32_t repetition_last_n;  // how many of the last tokens count, prompt included; -1 = all
    float
        // subtracted once from every token generated before (OpenAI's definition)
        presence_penalty;
    float frequency_penalty;  // subtracted once per time it was generated
    uint64_t seed;
    const mk_logit_bias *bias;  // outlives the sampler
    int32_t n_bias;
    int64_t n_token;  // ids >= n_token are padding of the output matrix and never chosen; 0 = all
} mk_sample_params;

#define MK_SAMPLE_DEFAULTS                                                                         \
    ((mk_sample_params){.temperature = 0.8f,                                                       \
                        .top_k = 40,                                                               \
                        .top_p = 0.95f,                                                            \
                        .min_p = 0.05f,                                                            \
                        .repetition_penalty = 1.0f,                                                \
                        .repetition_last_n = 64})

// Errors: MK_EUSAGE naming the parameter, its value and its range.
mk_status mk_sample_check(const mk_sample_params *p, int64_t n_vocab, mk_err *err) MK_WARN_UNUSED;

typedef struct mk_sampler mk_sampler;

// Memory for n_ctx tokens of history is reserved here; choosing allocates nothing.  Errors:
// MK_EUSAGE, MK_ENOMEM.
mk_status mk_sampler_create(const mk_sample_params *p, int64_t n_vocab, int64_t n_ctx,
                            mk_sampler **out, mk_err *err) MK_WARN_UNUSED;
void mk_sampler_destroy(mk_sampler *s);

// History: tokens of the prompt, then every token chosen, in order.  At most n_ctx in all
// (assertion).
void mk_sampler_accept(mk_sampler *s, int32_t id, bool generated);
void mk_sampler_reset(mk_sampler *s);

// Chooses from n_vocab logits for position `pos` (of the token to be chosen).  NaN logits count as
// -infinity; if nothing is left, id 0 .. the lowest allowed id is chosen.
int32_t mk_sampler_choose(mk_sampler *s, const float *logits, int64_t pos);

// Log-probability of one token and the best n under softmax of the raw logits (temperature 1, no
// penalties), ordered by (logprob descending, id ascending).  Returns how many were written.
typedef struct {
    int32_t id;
    float logprob;
} mk_logprob;
float mk_logprob_of(const float *logits, int64_t n_vocab, int32_t id);
int mk_logprob_top(const float *logits, int64_t n_vocab, int n, mk_logprob *out);

#endif
