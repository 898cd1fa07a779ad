// A ready model: weights, engine, tokenizer and chat template together; and one answer from it.
//
// This is the local half of what the programs call a provider: messages or ids in, events out.  It
// knows text; the engine below knows ids only.  Threads: one at a time.  Events are delivered on
// the calling thread.
//
//     mk_llm_opts o = MK_LLM_DEFAULTS;  o.model = "models/thimble";
//     MK_TRY(mk_llm_open(&o, &llm, err));
//     mk_request r = {.prompt = "What is 7*8-9?", .sample = mk_llm_sampling(llm), .n_predict = -1};
//     MK_TRY(mk_llm_generate(llm, &r, print_event, NULL, &answer, err));
#ifndef MK_CHAT_LLM_H
#define MK_CHAT_LLM_H

#include <jansson.h>
#include <stdbool.h>

#include "base/crowd.h"
#include "base/status.h"
#include "chat/parse.h"
#include "chat/template.h"
#include "engine/engine.h"
#include "engine/sample.h"
#include "engine/session.h"
#include "model/adapter.h"
#include "text/tokenizer.h"

typedef struct mk_llm mk_llm;

typedef struct {
    const char *model;              // a .gguf file or a folder
    const char *isa;                // "auto", "scalar", "avx2", ...
    int n_thread;                   // 0 = all CPUs this process may use
    int64_t n_ctx;                  // 0 = the model's window, or what fits into memory
    const char *kv_type;            // "auto" (f32 for float32 models, else f16), "f32", "f16", "q8"
    int64_t n_chunk, n_out, n_seq;  // 0 = the engine's defaults
    const char *template_text;      // overrides the model's chat template; NULL
    const char *cache_dir;          // folder of packed copies to look in; NULL: none is used
    const char *adapter;            // LoRA to compute with (model/adapter.h); NULL
    double adapter_strength;        // its scale is multiplied by this
    bool describe_only;             // no weights, no engine: for show and tokenize
    bool later;                     // no weights, no engine yet: mk_llm_load
    bool serve;                     // all n_seq sequences are a provider's: no mk_llm_generate
    mk_load_progress progress;      // may be NULL
    void *progress_arg;
} mk_llm_opts;
#define MK_LLM_DEFAULTS ((mk_llm_opts){.isa = "auto", .kv_type = "auto", .adapter_strength = 1})

// Errors: MK_ENOTFOUND, MK_ECORRUPT, MK_EUNSUPPORTED, MK_ENOMEM (what is needed and what there is),
// MK_EUSAGE.
mk_status mk_llm_open(const mk_llm_opts *opts, mk_llm **out, mk_err *err) MK_WARN_UNUSED;
void mk_llm_close(mk_llm *llm);

// Weights and engine come and go; tokenizer, template, sampling and the model's numbers stay, and
// may be read by any thread all the while.  Before a load n_ctx of mk_llm_engine_opts is the window
// that is wanted.
typedef struct {
    // Several models in one process: what the others were promised and have not yet touched, and
    // how many divide what is left for caches among them (0: one).
    size_t promised;
    int n_share;
    mk_pool_crowd *crowd;       // of their threads; outlives the load; may be NULL
    bool whole_window;          // the window that is wanted, or MK_ENOMEM: not a smaller one
    mk_load_progress progress;  // may be NULL
    void *progress_arg;
} mk_llm_load_opts;
// The llm was opened with `later`, and is not loaded.  Errors: as mk_llm_open; it is then as
// before.  Threads: one at a time, and nobody uses its engine.
mk_status mk_llm_load(mk_llm *llm, const mk_llm_load_opts *o, mk_err *err) MK_WARN_UNUSED;
void mk_llm_unload(mk_llm *llm);

const mk_model *mk_llm_model(const mk_llm *llm);
const mk_tokenizer *mk_llm_tokenizer(const mk_llm *llm);
const mk_chat_template *mk_llm_template(const mk_llm *llm);  // NULL if the model has none
mk_adapters *mk_llm_adapters(mk_llm *llm);                   // NULL if it has none
mk_engine *mk_llm_engine(mk_llm *llm);                       // NULL with describe_only
// Options of that engine (also with describe_only): for engines of one's own over the same model.
const mk_engine_opts *mk_llm_engine_opts(const mk_llm *llm);
int mk_llm_n_thread(const mk_llm *llm);
mk_pool *mk_llm_pool(mk_llm *llm);
const mk_kernels *mk_llm_kernels(const mk_llm *llm);
mk_sample_params mk_llm_sampling(
    const mk_llm *llm);  // the model's own recommendation, or the defaults
// Memory with a window of n_ctx (0 = the one chosen), and what the machine has free.
mk_status mk_llm_plan(const mk_llm *llm, int64_t n_ctx, mk_memory_plan *plan,
                      mk_err *err) MK_WARN_UNUSED;
size_t mk_memory_available(void);

// --- one answer ----------------------------------------------------------------------------------
typedef enum { MK_THINK_DEFAULT, MK_THINK_OFF, MK_THINK_ON } mk_think;

typedef struct {
    // what to answer: exactly one of these
    const json_t *messages;  // array of {"role", "content", ...}, rendered with the chat template
    const char *prompt;      // text: one user message, or with `raw` the text itself
    const int32_t *ids;      // n_ids token ids
    int64_t n_ids;
    bool raw;
    const json_t *tools;  // NULL
    const char *system;   // put in front of `prompt`; NULL
    mk_think think;
    const char *effort;             // reasoning effort for templates that know it; NULL
    const json_t *template_kwargs;  // object with more variables for the template; NULL
    // The last of `messages`, an assistant's, is the beginning of the answer.
    bool continue_last;
    bool open_end;  // without the template's words that begin an answer
    // how
    mk_sample_params sample;
    int64_t n_predict;        // tokens at most; < 0 = until the window is full
    const char *const *stop;  // n_stop texts that end the answer (they are not part of it)
    int n_stop;
    const int32_t *stop_ids;
    int n_stop_ids;
    bool ignore_eos;  // for measuring
    // best alternatives per token; -1 = none, 0 = only the chosen token's own; at most 20
    int n_logprob;
} mk_request;

typedef enum { MK_EVENT_REASONING, MK_EVENT_TEXT, MK_EVENT_TOKEN, MK_EVENT_PROMPT } mk_event_kind;
typedef struct {
    mk_event_kind kind;
    const char *text;  // TEXT, REASONING: whole characters, never a part of a stop text or tag
    size_t n;
    int32_t id;     // TOKEN: one per generated token, before the text it completes
    float logprob;  // TOKEN, if n_logprob >= 0
    const mk_logprob *top;
    int n_top;
    int64_t n_prompt, n_cached;  // PROMPT: once, when the prompt has been read
} mk_event;
// Returns false to stop (finish reason "cancelled"); what was generated is kept.
typedef bool (*mk_event_fn)(void *arg, const mk_event *ev);

typedef enum { MK_FINISH_STOP, MK_FINISH_LENGTH, MK_FINISH_CANCELLED } mk_finish;
const char *mk_finish_name(mk_finish f);  // "stop", "length", "cancelled"

typedef struct {
    char *text, *reasoning;  // NUL-terminated, may hold NUL bytes before
    size_t n_text, n_reasoning;
    mk_ids ids;  // generated ids, without the one that ended the answer
    mk_finish finish;
    int64_t n_prompt, n_cached, n_generated, n_reasoning_tokens;
    double prompt_ms, generation_ms;
} mk_answer;
void mk_answer_free(mk_answer *a);

// Errors: MK_ECONTEXT, MK_ETEMPLATE, MK_EUSAGE, MK_ENOMEM.  fn may be NULL.  *answer is valid
// (perhaps partial) also after an error and must be freed.
mk_status mk_llm_generate(mk_llm *llm, const mk_request *r, mk_event_fn fn, void *arg,
                          mk_answer *answer, mk_err *err) MK_WARN_UNUSED;
// A prompt as ids, and what its text means for the answer.
typedef struct {
    mk_ids ids;  // owned; mk_ids_free
    // How to read the answer: without a chat template it has no reasoning.  Borrows from the model
    // and the request (tools).
    mk_parse_opts parse;
} mk_prompt;
// Only reads the model: may run in several threads at once.  Errors: MK_ETEMPLATE, MK_EUSAGE,
// MK_ELIMIT, MK_ENOMEM; p->ids must be freed then, too.
mk_status mk_llm_make_prompt(const mk_llm *llm, const mk_request *r, mk_prompt *p,
                             mk_err *err) MK_WARN_UNUSED;
// Prompt of a request as ids: template, then encoding with control tokens taken from template text
// only.
mk_status mk_llm_prompt_ids(mk_llm *llm, const mk_request *r, mk_ids *ids,
                            mk_err *err) MK_WARN_UNUSED;

#endif
