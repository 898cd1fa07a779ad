#include "text/train_int.h"
mk_status mk_bpe_learn(const mk_bpe_job *job, mk_tok_merges *out, mk_err *err) {
    (void)job;
    (void)out;
    return MK_FAIL(err, MK_EUNSUPPORTED, "not there yet");
}
