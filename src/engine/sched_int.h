// Private to sched.c, sched_round.c and sched_draft.c.
#ifndef MK_ENGINE_SCHED_INT_H
#define MK_ENGINE_SCHED_INT_H

#include <pthread.h>
#include <stdatomic.h>

#include "engine/sched.h"

enum { MK_SCHED_MAX_DRAFT = 16, MK_SCHED_TENANT_SLOTS = 256 };

// --- drafts by n-grams ---------------------------------------------------------------------------
// Where the tokens of a job were last followed by what: a table from the hash of MK_DRAFT_GRAM
// tokens to the position behind them.  Drafting is worth its rows only where it is right, so that a
// job whose drafts fail pauses for twice as long each time.
enum { MK_DRAFT_GRAM = 3, MK_DRAFT_MAX_PAUSE = 256 };
typedef struct {
    int32_t *slot;  // [n_slot] positions, 0 = free
    uint32_t mask;
    int64_t n_done;       // ids that are in the table
    int64_t pause, wait;  // tokens to wait after the next failure; and still to wait now
} mk_draft;

mk_status mk_draft_init(mk_draft *d, int64_t n_ctx, mk_err *err) MK_WARN_UNUSED;
void mk_draft_free(mk_draft *d);
// Up to n tokens that may follow ids[0..len); returns how many.
int mk_draft_propose(mk_draft *d, const int32_t *ids, int64_t len, int n, int32_t *out);
// What became of n drafted tokens.
void mk_draft_result(mk_draft *d, int n, int n_accepted);

// --- jobs ----------------------------------------------------------------------------------------
typedef enum { JOB_WAITING, JOB_PROMPT, JOB_ANSWER } job_state;

struct mk_job {
    mk_job_opts o;  // ids: this->ids; bias, end_ids: owned copies
    mk_job *next;   // in the queue or in the list of running jobs
    job_state state;
    atomic_bool cancelled;
    int seq;
    int32_t *ids;          // [n_max] prompt and answer
    int64_t n_ids, n_max;  // n_max: where the answer ends at the latest
    int64_t n_in;          // ids whose rows are in the cache
    int64_t n_known;       // ids that the prefix cache has been told of
    int64_t reserved;      // blocks promised to this job that it does not hold yet
    int64_t n_cached, n_generated, n_drafted, n_accepted;
    mk_sampler *sampler;
    mk_draft draft;
    bool drafts, reading;  // reading: its beginning comes from disk; no rows until it is there
    uint64_t t_submit, t_prompt, t_answer;
    // of this round
    int64_t n_row;      // rows fed; 0 = none
    int64_t first_out;  // its first row of logits
    int n_draft;
    int32_t row[1 + MK_SCHED_MAX_DRAFT];
};

typedef struct call {
    void (*fn)(void *arg);
    void *arg;
    bool done, refused;
    struct call *next;
} call;

struct mk_sched {
    mk_sched_opts o;
    int64_t n_ctx, n_vocab, n_chunk, n_out;
    pthread_t thread;
    // guarded by `lock`
    pthread_mutex_t lock;
    pthread_cond_t wake, called;
    mk_job *waiting, **waiting_end;
    int64_t n_waiting;
    call *calls;
    bool stop;
    mk_sched_figures figures;
    uint64_t served[MK_SCHED_TENANT_SLOTS], n_served;
    // the thread's own
    mk_job *running;
    int64_t n_running;
    mk_step *step;
    uint64_t *allowed;  // [(n_vocab + 63) / 64]
    float *masked;      // [n_vocab]
    double answer_ms;   // a round of answers alone, smoothed
    double row_ms;      // one row of a prompt beside answers, smoothed
    bool odd;           // alternates who of the prompts comes first
};

// One round over s->running; jobs that ended are taken out.  Called without the lock.
void mk_sched_round(mk_sched *s);
// Ends a job: the cache learns its tokens, `done` is called, the job is freed.  It is in no list.
void mk_sched_finish(mk_sched *s, mk_job *j, mk_job_end end, const mk_err *error);

#endif
