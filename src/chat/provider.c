// A speech is driven by the hooks of its job: tokens become text, text becomes events.
//
// A token's way is that of generate.c: detokenizer (whole characters) -> parser -> stop texts of
// the answer -> events.  A speech belongs to two: whoever began it, and its job until `done`.
#include "chat/provider.h"

#include <pthread.h>
#include <string.h>

#include "base/alloc.h"
#include "chat/llm_int.h"
#include "chat/stops.h"

enum { MAX_LOGPROB = 20, MAX_TEXT = 1 << 24 };

struct mk_provider {
    mk_llm *llm;
    mk_prefix *prefix;
    mk_sched *sched;
    int32_t *end_ids;
    int n_end;
    mk_ids close_ids;  // what ends the reasoning when its budget is used up
};

struct mk_speech {
    mk_provider *p;
    mk_speech_opts o;  // prompt: NULL; stop: this->stop
    char **stop;
    pthread_mutex_t lock;
    mk_job *job;   // NULL once `done` has begun
    bool dropped;  // no more events
    int n_ref;
    // the job's thread alone
    mk_detok *detok;
    mk_parser *parser;
    json_t *tools;  // the parser reads them
    mk_err error;   // of the parser
    mk_stops stops;
    mk_buf piece;
    int64_t n_reasoning, n_forced;
    bool stopped, failed;
    mk_usage usage;
};

// --- events --------------------------------------------------------------------------------------

static void send(mk_speech *s, const mk_answer_event *ev) {
    pthread_mutex_lock(&s->lock);
    bool dropped = s->dropped;
    pthread_mutex_unlock(&s->lock);
    if (!dropped) {
        s->o.event(s->o.arg, ev);
    }
}

static void send_text(mk_speech *s, mk_ae_kind kind, const char *p, size_t n) {
    if (n > 0) {
        send(s, &(mk_answer_event){.kind = kind, .text = p, .n = n});
    }
}

// Text that waited for the rest of a stop text: none comes.
static void flush_stops(mk_speech *s) {
    mk_buf_clear(&s->piece);
    mk_stops_finish(&s->stops, &s->piece);
    send_text(s, MK_AE_TEXT, s->piece.data, s->piece.len);
}

static void take_part(void *arg, const mk_answer_event *ev) {
    mk_speech *s = arg;
    if (s->stopped) {
        return;
    }
    if (ev->kind == MK_AE_TOOL_BEGIN) {
        flush_stops(s);
    }
    if (ev->kind != MK_AE_TEXT) {
        send(s, ev);
        return;
    }
    mk_buf_clear(&s->piece);
    s->stopped = mk_stops_push(&s->stops, ev->text, ev->n, &s->piece);
    send_text(s, MK_AE_TEXT, s->piece.data, s->piece.len);
}

static void flush(mk_speech *s) {
    const char *p = NULL;
    size_t n = 0;
    mk_detok_finish(s->detok, &p, &n);
    s->failed = s->failed || mk_parser_push(s->parser, p, n, &s->error) != MK_OK ||
                mk_parser_finish(s->parser, &s->error) != MK_OK;
    flush_stops(s);
}

static bool thinking(const mk_speech *s) {
    return mk_parser_place(s->parser) == MK_PLACE_REASONING;
}

// --- hooks ---------------------------------------------------------------------------------------

static void on_begin(void *arg, const mk_job_start *st) {
    mk_speech *s = arg;
    s->usage.n_prompt = st->n_prompt;
    s->usage.n_cached = st->n_cached;
    s->usage.queue_ms = st->queue_ms;
    s->usage.prompt_ms = st->prompt_ms;
    send(s, &(mk_answer_event){.kind = MK_AE_START, .usage = s->usage});
}

static void send_token(mk_speech *s, const mk_job_token *t) {
    mk_logprob top[MAX_LOGPROB];
    mk_answer_event ev = {.kind = MK_AE_TOKEN, .id = t->id, .top = top};
    if (s->o.n_logprob >= 0) {
        int64_t n_vocab = s->p->llm->model->hp.n_vocab;
        ev.logprob = mk_logprob_of(t->logits, n_vocab, t->id);
        ev.n_top = s->o.n_logprob > 0 ? mk_logprob_top(t->logits, n_vocab, s->o.n_logprob, top) : 0;
    }
    send(s, &ev);
}

static mk_job_verdict on_token(void *arg, const mk_job_token *t) {
    mk_speech *s = arg;
    s->n_reasoning += thinking(s);
    send_token(s, t);
    s->failed =
        mk_parse_token(s->parser, s->detok, s->p->llm->tokenizer, t->id, &s->error) != MK_OK;
    return s->stopped || s->failed ? MK_JOB_STOP : MK_JOB_GO;
}

// The budget of reasoning: when it is used up, its end is what comes next.
static bool on_allow(void *arg, uint64_t *allowed, int32_t *force) {
    mk_speech *s = arg;
    (void)allowed;
    if (s->n_forced == 0 && (!thinking(s) || s->n_reasoning < s->o.think_budget)) {
        return false;
    }
    if (s->n_forced >= s->p->close_ids.n) {
        return false;
    }
    *force = s->p->close_ids.data[s->n_forced++];
    return true;
}

static mk_stop_reason stop_reason(const mk_speech *s, mk_job_end end) {
    static const mk_stop_reason of[] = {[MK_JOB_ENDED] = MK_STOP_END,
                                        [MK_JOB_FULL] = MK_STOP_LENGTH,
                                        [MK_JOB_STOPPED] = MK_STOP_TEXT,
                                        [MK_JOB_CANCELLED] = MK_STOP_CANCELLED,
                                        [MK_JOB_FAILED] = MK_STOP_CANCELLED};
    bool called = end == MK_JOB_ENDED && mk_parser_n_calls(s->parser) > 0;
    return s->stopped ? MK_STOP_TEXT : called ? MK_STOP_TOOLS : of[end];
}

static void free_speech(mk_speech *s) {
    for (int i = 0; i < s->o.n_stop; i++) {
        mk_free(s->stop[i]);
    }
    mk_free(s->stop);
    mk_detok_destroy(s->detok);
    mk_parser_destroy(s->parser);
    json_decref(s->tools);
    mk_stops_free(&s->stops);
    mk_buf_free(&s->piece);
    pthread_mutex_destroy(&s->lock);
    mk_free(s);
}

static void let_go(mk_speech *s) {
    pthread_mutex_lock(&s->lock);
    int left = --s->n_ref;
    pthread_mutex_unlock(&s->lock);
    if (left == 0) {
        free_speech(s);
    }
}

static void on_done(void *arg, const mk_job_result *r) {
    mk_speech *s = arg;
    pthread_mutex_lock(&s->lock);
    s->job = NULL;
    pthread_mutex_unlock(&s->lock);
    bool job_failed = r->end == MK_JOB_FAILED;
    if (!job_failed && !s->failed) {
        flush(s);
    }
    const mk_err *error = job_failed ? r->error : s->failed ? &s->error : NULL;
    if (error) {
        send(s, &(mk_answer_event){.kind = MK_AE_ERROR, .error = error});
    } else {
        s->usage.n_generated = r->n_generated;
        s->usage.n_reasoning = s->n_reasoning;
        s->usage.generation_ms = r->generation_ms;
        s->usage.n_drafted = r->n_drafted;
        s->usage.n_accepted = r->n_accepted;
        const char *text = s->stopped && s->stops.which >= 0 ? s->stop[s->stops.which] : NULL;
        send(s, &(mk_answer_event){.kind = MK_AE_DONE,
                                   .stop = stop_reason(s, r->end),
                                   .stop_text = text,
                                   .usage = s->usage});
    }
    let_go(s);
}

// --- a speech ------------------------------------------------------------------------------------

static mk_status copy_stops(mk_speech *s, const mk_speech_opts *o, mk_err *err) {
    s->stop = mk_zalloc(sizeof *s->stop * (size_t)(o->n_stop + 1));
    for (int i = 0; i < o->n_stop; i++) {
        if (o->stop[i][0] == 0) {
            s->o.n_stop = i;
            return MK_FAIL(err, MK_EUSAGE, "stop text %d is empty", i);
        }
        s->stop[i] = mk_strdup(o->stop[i]);
    }
    s->o.stop = (const char *const *)s->stop;
    return MK_OK;
}

static mk_status make_speech(mk_provider *p, const mk_speech_opts *o, mk_speech **out,
                             mk_err *err) {
    mk_speech *s = mk_zalloc(sizeof *s);
    *out = s;
    s->p = p;
    s->o = *o;
    s->o.prompt = NULL;
    s->n_ref = 2;
    pthread_mutex_init(&s->lock, NULL);
    mk_buf_init(&s->piece, MAX_TEXT);
    MK_TRY(copy_stops(s, o, err));
    mk_stops_init(&s->stops, s->o.stop, s->o.n_stop);
    s->tools = json_incref((json_t *)o->prompt->parse.tools);
    MK_TRY(mk_parser_create(&o->prompt->parse, take_part, s, &s->parser, err));
    s->detok = mk_detok_create(p->llm->tokenizer, true);
    if (o->n_logprob > MAX_LOGPROB) {
        return MK_FAIL(err, MK_EUSAGE,
                       "%d log-probabilities per token asked for, at most %d are given",
                       o->n_logprob, MAX_LOGPROB);
    }
    return MK_OK;
}

mk_status mk_speech_begin(mk_provider *p, const mk_speech_opts *o, mk_speech **out, mk_err *err) {
    mk_speech *s = NULL;
    mk_status st = make_speech(p, o, &s, err);
    if (st == MK_OK) {
        mk_job_opts j = {
            .ids = o->prompt->ids.data,
            .n = o->prompt->ids.n,
            .sample = o->sample,
            .n_predict = o->n_predict,
            .end_ids = p->end_ids,
            .n_end = o->ignore_eos ? 0 : p->n_end,
            .tenant = o->tenant,
            .hooks = {.begin = on_begin, .token = on_token, .done = on_done},
            .arg = s,
        };
        j.hooks.allow = o->think_budget >= 0 ? on_allow : NULL;
        // `done` may run before submit returns: it waits for the lock to forget the job
        pthread_mutex_lock(&s->lock);
        st = mk_sched_submit(p->sched, &j, &s->job, err);
        pthread_mutex_unlock(&s->lock);
    }
    if (st != MK_OK) {
        free_speech(s);
        return st;
    }
    *out = s;
    return MK_OK;
}

void mk_speech_cancel(mk_speech *s) {
    pthread_mutex_lock(&s->lock);
    if (s->job) {
        mk_sched_cancel(s->p->sched, s->job);
    }
    pthread_mutex_unlock(&s->lock);
}

void mk_speech_drop(mk_speech *s) {
    if (!s) {
        return;
    }
    mk_speech_cancel(s);
    pthread_mutex_lock(&s->lock);
    s->dropped = true;
    pthread_mutex_unlock(&s->lock);
    let_go(s);
}

// --- the provider --------------------------------------------------------------------------------

static mk_status find_end_ids(mk_provider *p, mk_err *err) {
    const mk_tokenizer *t = p->llm->tokenizer;
    mk_ids ids = {0};
    mk_status st = MK_OK;
    for (int32_t i = 0; i < mk_tokenizer_n_vocab(t) && st == MK_OK; i++) {
        st = mk_tokenizer_is_eog(t, i) ? mk_ids_push(&ids, i, err) : MK_OK;
    }
    p->end_ids = ids.data;
    p->n_end = (int)ids.n;
    return st;
}

static mk_status find_close_ids(mk_provider *p, mk_err *err) {
    mk_encode_opts o = {.parse_special = true, .continues = true};
    mk_parse_opts po = {0};
    mk_buf close;
    mk_buf_init(&close, 1024);
    if (p->llm->template) {
        mk_parse_detect(mk_chat_template_text(p->llm->template), &po);
    }
    mk_parse_force_answer(&po, &close);
    mk_status st = close.failed ? MK_FAIL(err, MK_ENOMEM, "no memory for the end of reasoning")
                                : mk_tokenizer_encode(p->llm->tokenizer, close.data, close.len, o,
                                                      &p->close_ids, err);
    mk_buf_free(&close);
    return st;
}

static mk_status open_prefix(mk_provider *p, const mk_provider_opts *o, mk_err *err) {
    if (!o->prefix) {
        return MK_OK;
    }
    mk_prefix_opts po = {.engine = p->llm->engine,
                         .dir = o->prefix_dir,
                         .max_disk = o->prefix_bytes,
                         .model_key = mk_source_path(p->llm->model->src)};
    return mk_prefix_create(&po, &p->prefix, err);
}

mk_status mk_provider_open(const mk_provider_opts *o, mk_provider **out, mk_err *err) {
    mk_provider *p = mk_zalloc(sizeof *p);
    p->llm = o->llm;
    mk_status st = find_end_ids(p, err);
    st = st == MK_OK ? find_close_ids(p, err) : st;
    st = st == MK_OK ? open_prefix(p, o, err) : st;
    mk_sched_opts so = {.engine = p->llm->engine,
                        .prefix = p->prefix,
                        .n_seq = o->n_parallel,
                        .max_waiting = o->max_waiting,
                        .n_draft = o->n_draft};
    st = st == MK_OK ? mk_sched_start(&so, &p->sched, err) : st;
    if (st != MK_OK) {
        mk_provider_close(p);
        return st;
    }
    *out = p;
    return MK_OK;
}

void mk_provider_close(mk_provider *p) {
    if (!p) {
        return;
    }
    mk_sched_stop(p->sched);
    mk_prefix_destroy(p->prefix);
    mk_ids_free(&p->close_ids);
    mk_free(p->end_ids);
    mk_free(p);
}

mk_llm *mk_provider_llm(const mk_provider *p) {
    return p->llm;
}

mk_sched *mk_provider_sched(const mk_provider *p) {
    return p->sched;
}

mk_prefix *mk_provider_prefix(const mk_provider *p) {
    return p->prefix;
}
