// Shared by the files that read tokenizer.json.
#ifndef MK_TEXT_HF_INT_H
#define MK_TEXT_HF_INT_H

#include "base/json.h"
#include "text/jscan.h"
#include "text/tok_int.h"

// hf_parts.c: the small members, as jansson values; NULL and JSON null mean "absent".
mk_status mk_hf_normalizer(mk_tokenizer *t, const json_t *v, mk_err *err) MK_WARN_UNUSED;
// *byte_level is set when the pre-tokenizer works on bytes.
mk_status mk_hf_pre_tokenizer(mk_tokenizer *t, const json_t *v, bool *byte_level,
                              mk_err *err) MK_WARN_UNUSED;
mk_status mk_hf_post_processor(mk_tokenizer *t, const json_t *v, mk_err *err) MK_WARN_UNUSED;
typedef struct {
    bool byte_level, meta;
} mk_hf_decoder_facts;
mk_status mk_hf_decoder(mk_tokenizer *t, const json_t *v, mk_hf_decoder_facts *f,
                        mk_err *err) MK_WARN_UNUSED;

#endif
