// One vector for a text: the hidden states behind the last norm, pooled and brought to length 1.
#ifndef MK_ENGINE_EMBED_H
#define MK_ENGINE_EMBED_H

#include "engine/engine.h"

typedef enum { MK_POOLING_MEAN, MK_POOLING_LAST } mk_pooling;

// out [d_model].  Uses one sequence of the engine, which is closed again.  Sums are in double,
// token by token, so that the result does not depend on how the text was cut.  Errors: MK_EUSAGE
// (no ids, or one outside the vocabulary), MK_ECONTEXT, MK_ELIMIT (no free sequence).
mk_status mk_engine_embed(mk_engine *e, const int32_t *ids, int64_t n, mk_pooling how, float *out,
                          mk_err *err) MK_WARN_UNUSED;

#endif
