// Private to llm.c, prompt.c and generate.c.
#ifndef MK_CHAT_LLM_INT_H
#define MK_CHAT_LLM_INT_H

#include "chat/llm.h"
#include "chat/parse.h"

struct mk_llm {
    mk_llm_opts opts;      // texts and callback only while opening
    mk_llm_load_opts how;  // only while loading
    int64_t n_ctx_wanted;  // by option or of the model
    mk_model *model;
    mk_adapters *adapters;  // attached, or NULL
    mk_tokenizer *tokenizer;
    mk_chat_template *template;  // NULL if the model has none, or ...
    // What the template wants of past calls: arguments as a text instead of a value, null where
    // there is no text beside them instead of "".
    bool calls_as_text, calls_want_null;
    mk_err template_err;  // ... one that does not compile: reported when it is needed
    mk_sample_params sampling;
    const mk_kernels *kernels;
    mk_pool *pool;
    mk_engine *engine;
    mk_session *session;  // the one conversation of mk_llm_generate
    mk_engine_opts engine_opts;
};

// Fills the template from the model's files (or opts.template_text).
mk_status mk_llm_load_template(mk_llm *llm, mk_err *err) MK_WARN_UNUSED;
// Finds out how the template takes past calls (part of loading it).
void mk_llm_probe_calls(mk_llm *llm);

#endif
