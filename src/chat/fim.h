// Fill in the middle: a prompt whose answer stands between two texts.
#ifndef MK_CHAT_FIM_H
#define MK_CHAT_FIM_H

#include "text/tokenizer.h"

// Appends the ids that ask for what stands between prefix and suffix, in the way the vocabulary
// shows that the model was trained for (its mark tokens).  The two texts are plain text: control
// tokens are not recognised in them.  Errors: MK_EUNSUPPORTED (no such marks), MK_ENOMEM,
// MK_ELIMIT.
mk_status mk_fim_encode(const mk_tokenizer *t, const char *prefix, const char *suffix, mk_ids *ids,
                        mk_err *err) MK_WARN_UNUSED;

#endif
