// Many answers at once from one model: prompts in, event streams out (chat/event.h).
//
// The provider owns the scheduler and the prefix cache of a model that was opened for serving
// (mk_llm_opts.serve).  An answer is a *speech*: it is begun, delivers its events on the provider's
// thread, and is let go of by whoever began it.  The event callback must not block.
//
//     MK_TRY(mk_speech_begin(p, &ask, &speech, err));  // events arrive from now on
//     ...
//     mk_speech_cancel(speech);                        // any time, any thread, also after its end
//     mk_speech_drop(speech);                          // after it no callback begins any more
#ifndef MK_CHAT_PROVIDER_H
#define MK_CHAT_PROVIDER_H

#include "chat/event.h"
#include "chat/grammar.h"
#include "chat/llm.h"
#include "engine/sched.h"

typedef struct mk_provider mk_provider;
typedef struct mk_speech mk_speech;

typedef struct {
    mk_llm *llm;             // stays the caller's; outlives the provider
    int64_t n_parallel;      // answers at once
    int64_t max_waiting;     // requests in the queue
    int n_draft;             // tokens drafted at most; 0 = off
    bool prefix;             // keep what was computed
    const char *prefix_dir;  // on disk too; NULL
    uint64_t prefix_bytes;   // at most so much of it
} mk_provider_opts;

mk_status mk_provider_open(const mk_provider_opts *o, mk_provider **out,
                           mk_err *err) MK_WARN_UNUSED;
// Ends all speeches (their callbacks see a cancelled DONE), writes the cache.
void mk_provider_close(mk_provider *p);
mk_llm *mk_provider_llm(const mk_provider *p);
mk_sched *mk_provider_sched(const mk_provider *p);
mk_prefix *mk_provider_prefix(const mk_provider *p);  // NULL without

typedef struct {
    // from mk_llm_make_prompt; only read while beginning; its tools are kept
    const mk_prompt *prompt;
    mk_sample_params sample;
    int64_t n_predict;        // -1: until the window is full
    const char *const *stop;  // n_stop texts; copied
    int n_stop;
    bool ignore_eos;
    int n_logprob;         // as in mk_request
    bool score;            // log-probabilities of the prompt, too: PROMPT events
    bool instead;          // as in mk_job_opts
    int64_t think_budget;  // tokens of reasoning at most, then it is closed; -1: none
    // Of the answer behind the reasoning, calls included (mk_grammar_from_calls); referenced; NULL.
    mk_grammar *grammar;
    uint64_t tenant;
    void (*event)(void *arg, const mk_answer_event *ev);
    void *arg;
} mk_speech_opts;

// The errors that mk_speech_begin would give at any time: MK_ECONTEXT, MK_EUSAGE.
mk_status mk_speech_check(const mk_provider *p, const mk_speech_opts *o,
                          mk_err *err) MK_WARN_UNUSED;
// Errors: as mk_sched_submit; then no event is delivered.
mk_status mk_speech_begin(mk_provider *p, const mk_speech_opts *o, mk_speech **out,
                          mk_err *err) MK_WARN_UNUSED;
void mk_speech_cancel(mk_speech *s);
void mk_speech_drop(mk_speech *s);

#endif
