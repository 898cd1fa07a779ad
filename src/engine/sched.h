// The scheduler: many answers at once from one engine, on a thread of its own.
//
// A job is a prompt and how to continue it.  Every round is one forward: one row for each job that
// is generating, and what is left of the rows (n_chunk) for prompts, so that a long prompt does not
// stall the others.  Jobs wait in a fair queue (round robin over tenants) until the cache has room
// for all they may need.  What a job generates does not depend on what runs beside it
// (numerics.md).
//
// Prompts begin from the prefix cache (engine/prefix.h) and are put into it as they are read.  A
// prompt that is scored is computed from its first token on, with a row of logits for each.
//
// Threads: submit, cancel and the figures from any thread; hooks run on the scheduler's thread and
// must not block.
#ifndef MK_ENGINE_SCHED_H
#define MK_ENGINE_SCHED_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "engine/engine.h"
#include "engine/prefix.h"
#include "engine/sample.h"

typedef struct mk_sched mk_sched;
typedef struct mk_job mk_job;

typedef struct {
    int64_t n_prompt, n_cached;
    double queue_ms, prompt_ms;
} mk_job_start;

typedef struct {
    int32_t id;
    int64_t pos;          // of the token
    const float *logits;  // [n_vocab] that it was chosen from, before any mask
} mk_job_token;

typedef enum { MK_JOB_GO, MK_JOB_STOP } mk_job_verdict;
typedef enum {
    MK_JOB_ENDED,
    MK_JOB_FULL,
    MK_JOB_STOPPED,
    MK_JOB_CANCELLED,
    MK_JOB_FAILED
} mk_job_end;

typedef struct {
    mk_job_end end;  // FULL: n_predict or the window; STOPPED: a hook said so
    int64_t n_generated;
    double generation_ms;
    int64_t n_drafted, n_accepted;
    const mk_err *error;  // FAILED
} mk_job_result;

// Hooks; arg is the job's.  All but done may be NULL.
typedef struct {
    // For every token of the prompt, in order, before begin: the prompt is scored.  The logits are
    // those that the token would have been chosen from, the same bits; NULL for the first.
    void (*prompt)(void *arg, const mk_job_token *t);
    void (*begin)(void *arg, const mk_job_start *s);
    // After every chosen token but one that ends the answer.
    mk_job_verdict (*token)(void *arg, const mk_job_token *t);
    void (*end)(void *arg, const mk_job_token *t);  // after the one that ends it
    // Before a token is chosen: may forbid ids.  allowed: bits, n_vocab of them, all set; the hook
    // clears some and returns true, or returns false (nothing is forbidden).  *force >= 0: this
    // token and no other.
    bool (*allow)(void *arg, uint64_t *allowed, int32_t *force);
    void (*done)(void *arg, const mk_job_result *r);  // last; the job is freed afterwards
} mk_job_hooks;

typedef struct {
    const int32_t *ids;  // [n] prompt, n >= 1; copied
    int64_t n;
    mk_sample_params sample;  // bias is copied
    int64_t n_predict;        // -1: until the window is full
    const int32_t *end_ids;   // [n_end] that end the answer; copied
    int n_end;
    uint64_t tenant;  // prefixes are shared within one tenant only
    // It takes the place of a job of the same request that has ended: a full queue takes it too,
    // for there are no more jobs than before.
    bool instead;
    mk_job_hooks hooks;
    void *arg;
} mk_job_opts;

typedef struct {
    mk_engine *engine;    // its sequences are the scheduler's
    mk_prefix *prefix;    // or NULL
    int64_t n_seq;        // jobs at once
    int64_t max_waiting;  // jobs in the queue; more are refused
    int n_draft;          // n-gram speculation: tokens drafted at most; 0 = off
} mk_sched_opts;

mk_status mk_sched_start(const mk_sched_opts *o, mk_sched **out, mk_err *err) MK_WARN_UNUSED;
// Cancels what runs, calls every `done`, ends the thread.
void mk_sched_stop(mk_sched *s);
// The errors that mk_sched_submit would give at any time: MK_ECONTEXT, MK_EUSAGE.
mk_status mk_sched_check(const mk_sched *s, const mk_job_opts *o, mk_err *err) MK_WARN_UNUSED;
// Errors: MK_ECONTEXT (with both numbers), MK_EUSAGE (ids, sampling), MK_ELIMIT (the queue is
// full), MK_ENOMEM.  Hooks may run before this returns; `done` may submit.
mk_status mk_sched_submit(mk_sched *s, const mk_job_opts *o, mk_job **out,
                          mk_err *err) MK_WARN_UNUSED;
// Ends the job within one round; `done` is still called.  Only before `done` has been called.
void mk_sched_cancel(mk_sched *s, mk_job *j);

// Runs fn(arg) on the scheduler's thread between two rounds, when the engine is free, and waits for
// it.  MK_EINTR: the scheduler has been stopped.
mk_status mk_sched_call(mk_sched *s, void (*fn)(void *arg), void *arg, mk_err *err) MK_WARN_UNUSED;

typedef struct {
    int64_t n_running, n_waiting;
    int64_t n_done, n_cancelled, n_failed;
    int64_t prompt_tokens, cached_tokens, generated_tokens, drafted_tokens, accepted_tokens;
    int64_t rounds, rows;  // forward passes, and what they had together
    double busy_s;
    int64_t kv_blocks_used, kv_blocks_total;
} mk_sched_figures;
void mk_sched_read(mk_sched *s, mk_sched_figures *out);

#endif
