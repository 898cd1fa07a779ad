// The scheduler's thread, queue and figures; rounds are in sched_round.c.
//
// A job is in exactly one place: the queue (guarded by the lock), the list of running jobs (the
// thread's), or the hands of mk_sched_finish.
#include "engine/sched.h"

#include <string.h>

#include "base/alloc.h"
#include "base/log.h"
#include "base/mathx.h"
#include "engine/sched_int.h"

// --- jobs ----------------------------------------------------------------------------------------

static void free_job(mk_job *j) {
    if (!j) {
        return;
    }
    mk_sampler_destroy(j->sampler);
    mk_draft_free(&j->draft);
    mk_free((void *)j->o.sample.bias);
    mk_free((void *)j->o.end_ids);
    mk_free(j->ids);
    mk_free(j);
}

static mk_status copy_array(const void *from, size_t n, size_t size, void **to, mk_err *err) {
    *to = NULL;
    if (n == 0) {
        return MK_OK;
    }
    *to = mk_try_alloc(n, size);
    if (!*to) {
        return MK_FAIL(err, MK_ENOMEM, "no memory for a request of %zu tokens", n);
    }
    memcpy(*to, from, n * size);
    return MK_OK;
}

static int64_t blocks_of(int64_t n) {
    return (n + MK_KV_BLOCK - 1) / MK_KV_BLOCK;
}

mk_status mk_sched_check(const mk_sched *s, const mk_job_opts *o, mk_err *err) {
    if (o->n < 1) {
        return MK_FAIL(err, MK_EUSAGE, "the prompt is empty; the model needs at least one token");
    }
    int64_t least = o->n + (o->n_predict != 0);
    if (least > s->n_ctx) {
        return MK_FAIL(err, MK_ECONTEXT,
                       "the prompt has %lld tokens, the window %lld%s; nothing was cut",
                       (long long)o->n, (long long)s->n_ctx,
                       least > o->n ? ", and an answer needs at least one" : "");
    }
    for (int64_t i = 0; i < o->n; i++) {
        if (o->ids[i] < 0 || o->ids[i] >= s->n_vocab) {
            return MK_FAIL(err, MK_EUSAGE, "token id %d at place %lld, expected 0 to %lld",
                           o->ids[i], (long long)i, (long long)(s->n_vocab - 1));
        }
    }
    int64_t blocks = mk_kv_blocks_total(mk_engine_kv(s->o.engine));
    if (blocks_of(least) > blocks) {
        return MK_FAIL(err, MK_ECONTEXT, "the prompt has %lld tokens, the cache room for %lld",
                       (long long)o->n, (long long)(blocks * MK_KV_BLOCK));
    }
    return mk_sample_check(&o->sample, s->n_vocab, err);
}

static mk_status make_job(const mk_sched *s, const mk_job_opts *o, mk_job **out, mk_err *err) {
    mk_job *j = mk_zalloc(sizeof *j);
    *out = j;
    j->o = *o;
    j->o.ids = NULL;
    j->o.sample.bias = NULL;
    j->o.end_ids = NULL;
    int64_t most = mk_kv_blocks_total(mk_engine_kv(s->o.engine)) * MK_KV_BLOCK;
    int64_t room = (s->n_ctx < most ? s->n_ctx : most) - o->n;
    j->n_max = o->n + (o->n_predict >= 0 && o->n_predict < room ? o->n_predict : room);
    j->n_ids = o->n;
    j->t_submit = mk_now_ns();
    void *p = NULL;
    MK_TRY(copy_array(o->sample.bias, (size_t)o->sample.n_bias, sizeof *o->sample.bias, &p, err));
    j->o.sample.bias = p;
    MK_TRY(copy_array(o->end_ids, (size_t)o->n_end, sizeof *o->end_ids, &p, err));
    j->o.end_ids = p;
    j->ids = mk_try_alloc((size_t)j->n_max + 1, sizeof *j->ids);
    if (!j->ids) {
        return MK_FAIL(err, MK_ENOMEM, "no memory for %lld tokens", (long long)j->n_max);
    }
    memcpy(j->ids, o->ids, (size_t)o->n * sizeof *j->ids);
    return MK_OK;
}

mk_status mk_sched_submit(mk_sched *s, const mk_job_opts *o, mk_job **out, mk_err *err) {
    mk_job *j = NULL;
    MK_ASSERT(o->hooks.done);
    MK_TRY(mk_sched_check(s, o, err));
    mk_status st = make_job(s, o, &j, err);
    pthread_mutex_lock(&s->lock);
    if (st == MK_OK && s->stop) {
        st = MK_FAIL(err, MK_EINTR, "the server is shutting down");
    } else if (st == MK_OK && s->n_waiting >= s->o.max_waiting && !o->instead) {
        st = MK_FAIL(err, MK_ELIMIT,
                     "%lld requests are waiting already, expected at most %lld; try again later",
                     (long long)s->n_waiting, (long long)s->o.max_waiting);
    } else if (st == MK_OK) {
        if (out) {
            *out = j;  // before the hooks may run
        }
        *s->waiting_end = j;
        s->waiting_end = &j->next;
        s->n_waiting++;
        pthread_cond_signal(&s->wake);
    }
    pthread_mutex_unlock(&s->lock);
    if (st != MK_OK) {
        free_job(j);
    }
    return st;
}

void mk_sched_cancel(mk_sched *s, mk_job *j) {
    atomic_store(&j->cancelled, true);
    pthread_mutex_lock(&s->lock);
    pthread_cond_signal(&s->wake);
    pthread_mutex_unlock(&s->lock);
}

static void count_end(mk_sched *s, const mk_job *j, mk_job_end end) {
    mk_sched_figures *f = &s->figures;
    *(end == MK_JOB_CANCELLED ? &f->n_cancelled
      : end == MK_JOB_FAILED  ? &f->n_failed
                              : &f->n_done) += 1;
    f->cached_tokens += j->n_cached;
    f->generated_tokens += j->n_generated;
    f->drafted_tokens += j->n_drafted;
    f->accepted_tokens += j->n_accepted;
}

void mk_sched_finish(mk_sched *s, mk_job *j, mk_job_end end, const mk_err *error) {
    if (j->state != JOB_WAITING) {
        if (j->reading) {
            mk_prefix_let_go(s->o.prefix, j->seq);
        }
        // What a cancelled prompt has computed is worth keeping too: its client may come back.
        if (s->o.prefix && end != MK_JOB_FAILED && j->n_in >= MK_KV_BLOCK) {
            mk_prefix_insert(s->o.prefix, j->seq, j->o.tenant, j->ids, j->n_in);
        }
        mk_engine_seq_close(s->o.engine, j->seq);
        s->n_running--;
    }
    pthread_mutex_lock(&s->lock);
    count_end(s, j, end);
    pthread_mutex_unlock(&s->lock);
    mk_job_result r = {.end = end,
                       .n_generated = j->n_generated,
                       .generation_ms = j->t_answer ? (double)(mk_now_ns() - j->t_answer) / 1e6 : 0,
                       .n_drafted = j->n_drafted,
                       .n_accepted = j->n_accepted,
                       .error = error};
    j->o.hooks.done(j->o.arg, &r);
    free_job(j);
}

// --- the queue -----------------------------------------------------------------------------------

static uint64_t *served(mk_sched *s, const mk_job *j) {
    return &s->served[mk_rng_u64(j->o.tenant, 0) % MK_SCHED_TENANT_SLOTS];
}

static mk_job *unlink_waiting(mk_sched *s, mk_job **at) {
    mk_job *j = *at;
    *at = j->next;
    if (s->waiting_end == &j->next) {
        s->waiting_end = at;
    }
    j->next = NULL;
    s->n_waiting--;
    return j;
}

// Blocks that running jobs were promised and may still ask for.
static int64_t promised(const mk_sched *s) {
    int64_t n = 0;
    for (const mk_job *j = s->running; j; j = j->next) {
        int64_t have = blocks_of(mk_engine_seq_length(s->o.engine, j->seq));
        n += j->reserved > have ? j->reserved - have : 0;
    }
    return n;
}

// Who has waited longest of the tenant that was served longest ago; NULL: nobody, or no room.
static mk_job *admit(mk_sched *s) {
    mk_job **best = NULL;
    if (s->n_running >= s->o.n_seq) {
        return NULL;
    }
    for (mk_job **at = &s->waiting; *at; at = &(*at)->next) {
        if (!best || *served(s, *at) < *served(s, *best)) {
            best = at;
        }
    }
    if (!best) {
        return NULL;
    }
    int64_t need = blocks_of((*best)->n_max);
    if (s->o.prefix && s->n_running > 0 && promised(s) + need > mk_prefix_available(s->o.prefix)) {
        return NULL;
    }
    mk_job *j = unlink_waiting(s, best);
    j->reserved = need;
    *served(s, j) = ++s->n_served;
    return j;
}

static mk_status start_job(mk_sched *s, mk_job *j, mk_err *err) {
    j->drafts = s->o.n_draft > 0;
    MK_TRY(j->drafts ? mk_draft_init(&j->draft, j->n_max, err) : MK_OK);
    MK_TRY(mk_sampler_create(&j->o.sample, s->n_vocab, j->n_max + 1, &j->sampler, err));
    MK_TRY(mk_engine_seq_open(s->o.engine, &j->seq, err));
    j->state = JOB_PROMPT;
    j->next = s->running;
    s->running = j;
    s->n_running++;
    return MK_OK;
}

// Takes cancelled jobs out of the queue.  The lock is held and let go of while `done` runs.
static void drop_cancelled(mk_sched *s) {
    for (mk_job **at = &s->waiting; *at;) {
        if (!atomic_load(&(*at)->cancelled) && !s->stop) {
            at = &(*at)->next;
            continue;
        }
        mk_job *j = unlink_waiting(s, at);
        pthread_mutex_unlock(&s->lock);
        mk_sched_finish(s, j, MK_JOB_CANCELLED, NULL);
        pthread_mutex_lock(&s->lock);
        at = &s->waiting;  // it may have changed
    }
}

static void admit_all(mk_sched *s) {
    for (mk_job *j; (j = admit(s)) != NULL;) {
        pthread_mutex_unlock(&s->lock);
        mk_err err = {0};
        if (start_job(s, j, &err) != MK_OK) {
            mk_sched_finish(s, j, MK_JOB_FAILED, &err);
        }
        pthread_mutex_lock(&s->lock);
    }
}

// --- the thread ----------------------------------------------------------------------------------

static void run_calls(mk_sched *s, bool refuse) {
    while (s->calls) {
        call *c = s->calls;
        s->calls = c->next;
        if (!refuse) {
            pthread_mutex_unlock(&s->lock);
            c->fn(c->arg);
            pthread_mutex_lock(&s->lock);
        }
        c->refused = refuse;
        c->done = true;
        pthread_cond_broadcast(&s->called);
    }
}

mk_status mk_sched_call(mk_sched *s, void (*fn)(void *arg), void *arg, mk_err *err) {
    call c = {.fn = fn, .arg = arg};
    pthread_mutex_lock(&s->lock);
    if (s->stop) {
        c.done = c.refused = true;
    } else {
        call **at = &s->calls;
        while (*at) {
            at = &(*at)->next;
        }
        *at = &c;
        pthread_cond_signal(&s->wake);
    }
    while (!c.done) {
        pthread_cond_wait(&s->called, &s->lock);
    }
    pthread_mutex_unlock(&s->lock);
    return c.refused ? MK_FAIL(err, MK_EINTR, "the server is shutting down") : MK_OK;
}

static void cancel_running(mk_sched *s) {
    while (s->running) {
        mk_job *j = s->running;
        s->running = j->next;
        mk_sched_finish(s, j, MK_JOB_CANCELLED, NULL);
    }
}

static void *run_thread(void *arg) {
    mk_sched *s = arg;
    pthread_mutex_lock(&s->lock);
    while (!s->stop) {
        run_calls(s, false);
        drop_cancelled(s);
        admit_all(s);
        s->figures.n_running = s->n_running;
        if (s->running) {
            pthread_mutex_unlock(&s->lock);
            mk_sched_round(s);
            pthread_mutex_lock(&s->lock);
        } else if (!s->waiting && !s->calls && !s->stop) {
            pthread_cond_wait(&s->wake, &s->lock);
        }
    }
    pthread_mutex_unlock(&s->lock);
    cancel_running(s);
    pthread_mutex_lock(&s->lock);
    drop_cancelled(s);
    run_calls(s, true);
    pthread_mutex_unlock(&s->lock);
    return NULL;
}

static void free_sched(mk_sched *s) {
    pthread_mutex_destroy(&s->lock);
    pthread_cond_destroy(&s->wake);
    pthread_cond_destroy(&s->called);
    mk_free(s->step);
    mk_free(s->allowed);
    mk_free(s->masked);
    mk_free(s);
}

static mk_sched *new_sched(const mk_sched_opts *o) {
    mk_sched *s = mk_zalloc(sizeof *s);
    s->o = *o;
    MK_ASSERT(o->n_seq >= 1 && o->n_draft >= 0 && o->n_draft <= MK_SCHED_MAX_DRAFT);
    s->n_ctx = mk_engine_n_ctx(o->engine);
    s->n_vocab = mk_engine_model(o->engine)->hp.n_vocab;
    s->n_chunk = mk_engine_n_chunk(o->engine);
    s->n_out = mk_engine_n_out(o->engine);
    s->waiting_end = &s->waiting;
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->wake, NULL);
    pthread_cond_init(&s->called, NULL);
    return s;
}

mk_status mk_sched_start(const mk_sched_opts *o, mk_sched **out, mk_err *err) {
    mk_sched *s = new_sched(o);
    s->step = mk_try_alloc((size_t)o->n_seq, sizeof *s->step);
    s->allowed = mk_try_alloc((size_t)(s->n_vocab + 63) / 64, sizeof *s->allowed);
    s->masked = mk_try_alloc((size_t)s->n_vocab, sizeof *s->masked);
    mk_status st = MK_OK;
    if (!s->step || !s->allowed || !s->masked) {
        st = MK_FAIL(err, MK_ENOMEM, "no memory for the scheduler");
    } else if (pthread_create(&s->thread, NULL, run_thread, s) != 0) {
        st = MK_FAIL(err, MK_ENOMEM, "the system refused a thread for the scheduler");
    }
    if (st != MK_OK) {
        free_sched(s);
        return st;
    }
    *out = s;
    return MK_OK;
}

void mk_sched_stop(mk_sched *s) {
    if (!s) {
        return;
    }
    pthread_mutex_lock(&s->lock);
    s->stop = true;
    pthread_cond_signal(&s->wake);
    pthread_mutex_unlock(&s->lock);
    pthread_join(s->thread, NULL);
    free_sched(s);
}

void mk_sched_read(mk_sched *s, mk_sched_figures *out) {
    pthread_mutex_lock(&s->lock);
    *out = s->figures;
    out->n_waiting = s->n_waiting;
    pthread_mutex_unlock(&s->lock);
}
