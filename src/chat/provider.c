// A speech is driven by the hooks of its job: tokens become text, text becomes events.
//
// A token's way is that of generate.c: detokenizer (whole characters) -> parser -> stop texts ->
// events.  A speech belongs to two: whoever began it, and its job until `done`.
#include "chat/provider.h"

#include <pthread.h>
#include <string.h>

#include "base/alloc.h"
#include "base/secret.h"
#include "chat/llm_int.h"
#include "chat/stops.h"

enum { MAX_LOGPROB = 20, MAX_TEXT = 1 << 24, MAX_SPACE = 2, CALL_ID_CHARS = 24 };
#define CALL_PREFIX "call_"

struct mk_provider {
    mk_llm *llm;
    mk_prefix *prefix;
    mk_sched *sched;
    mk_parse_opts parse;  // what the template says of the model's answers
    mk_ids end_ids;
    mk_ids close_ids;      // what ends the reasoning when its budget is used up
    int32_t think_id;      // that opens reasoning; -1: more than one token does
    bool headers;          // answers come in messages with headers (gpt-oss)
    int32_t space_id[2];   // newlines that may stand before an answer; -1
    pthread_mutex_t lock;  // of the trie
    mk_token_trie *trie;   // made when the first grammar comes
};

struct mk_speech {
    mk_provider *p;
    mk_speech_opts o;  // prompt: NULL; stop: this->stop; grammar: referenced
    json_t *tools;     // referenced; NULL
    char **stop;
    pthread_mutex_t lock;
    mk_job *job;   // NULL once `done` has begun
    bool dropped;  // no more events
    int n_ref;
    // the job's thread alone
    mk_detok *detok;
    mk_parser *parser;
    mk_grammar_state *state;  // NULL without grammar
    int n_space;              // tokens of white space before the answer
    mk_stops stops;
    mk_buf piece;
    int64_t n_reasoning, n_forced;
    bool stopped, failed;
    mk_err error;  // failed: why
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

static void send_text(mk_speech *s, const char *p, size_t n) {
    if (n > 0) {
        send(s, &(mk_answer_event){.kind = MK_AE_TEXT, .text = p, .n = n});
    }
}

static void begin_call(mk_speech *s, const mk_answer_event *ev) {
    // what looked like the beginning of a stop text was not one: the text ends here
    mk_buf_clear(&s->piece);
    mk_stops_finish(&s->stops, &s->piece);
    send_text(s, s->piece.data, s->piece.len);
    // clients send it back, and it must not be guessed (serve remembers by it)
    char id[sizeof CALL_PREFIX + CALL_ID_CHARS] = CALL_PREFIX;
    if (mk_secret_text(id + strlen(CALL_PREFIX), CALL_ID_CHARS, &s->error) != MK_OK) {
        s->failed = true;
        return;
    }
    mk_answer_event with_id = *ev;
    with_id.call_id = id;
    send(s, &with_id);
}

// From the parser.  Stop texts are looked for in the text of the answer alone.
static void on_part(void *arg, const mk_answer_event *ev) {
    mk_speech *s = arg;
    if (s->stopped || s->failed) {
        return;
    }
    if (ev->kind == MK_AE_TOOL_BEGIN) {
        begin_call(s, ev);
        return;
    }
    if (ev->kind != MK_AE_TEXT) {
        send(s, ev);
        return;
    }
    mk_buf_clear(&s->piece);
    s->stopped = mk_stops_push(&s->stops, ev->text, ev->n, &s->piece);
    send_text(s, s->piece.data, s->piece.len);
}

// What was made of the answer while memory was refused is not the answer.  before:
// mk_alloc_refused_thread when the hook was called; who hears the events works on this thread, too.
static void check_memory(mk_speech *s, uint64_t before) {
    if (mk_alloc_refused_thread() != before && !s->failed) {
        s->failed = true;
        (void)MK_FAIL(&s->error, MK_ENOMEM, "no memory for the answer; try again later");
    }
}

static void take_bytes(mk_speech *s, const char *p, size_t n) {
    if (n > 0 && !s->failed && mk_parser_push(s->parser, p, n, &s->error) != MK_OK) {
        s->failed = true;
    }
}

static void flush(mk_speech *s) {
    const char *p = NULL;
    size_t n = 0;
    mk_detok_finish(s->detok, &p, &n);
    take_bytes(s, p, n);
    if (!s->failed && mk_parser_finish(s->parser, &s->error) != MK_OK) {
        s->failed = true;
    }
    mk_buf_clear(&s->piece);
    mk_stops_finish(&s->stops, &s->piece);
    send_text(s, s->piece.data, s->piece.len);
}

// --- tokens --------------------------------------------------------------------------------------

static void on_begin(void *arg, const mk_job_start *st) {
    mk_speech *s = arg;
    uint64_t refused = mk_alloc_refused_thread();
    s->usage.n_prompt = st->n_prompt;
    s->usage.n_cached = st->n_cached;
    s->usage.queue_ms = st->queue_ms;
    s->usage.prompt_ms = st->prompt_ms;
    send(s, &(mk_answer_event){.kind = MK_AE_START, .usage = s->usage});
    check_memory(s, refused);
}

static void send_token(mk_speech *s, mk_ae_kind kind, const mk_job_token *t) {
    mk_logprob top[MAX_LOGPROB];
    mk_answer_event ev = {.kind = kind, .id = t->id, .top = top};
    if (s->o.n_logprob >= 0 && t->logits) {
        int64_t n_vocab = s->p->llm->model->hp.n_vocab;
        ev.logprob = mk_logprob_of(t->logits, n_vocab, t->id);
        ev.n_top = s->o.n_logprob > 0 ? mk_logprob_top(t->logits, n_vocab, s->o.n_logprob, top) : 0;
    }
    send(s, &ev);
}

static void tell_token(mk_speech *s, mk_ae_kind kind, const mk_job_token *t) {
    uint64_t refused = mk_alloc_refused_thread();
    send_token(s, kind, t);
    check_memory(s, refused);
}

static void on_prompt(void *arg, const mk_job_token *t) {
    tell_token(arg, MK_AE_PROMPT, t);
}

static void on_end(void *arg, const mk_job_token *t) {
    tell_token(arg, MK_AE_TOKEN, t);
}

static bool is_space_id(const mk_speech *s, int32_t id) {
    return id >= 0 && (id == s->p->space_id[0] || id == s->p->space_id[1]);
}

// Does the grammar decide about the next token?  Not inside the reasoning.  Where calls are offered
// it knows of them, too.  A family with headers is free until the answer proper, unless the grammar
// knows of headers.
static bool grammar_holds(const mk_speech *s) {
    if (!s->state) {
        return false;
    }
    if (mk_grammar_has_headers(s->o.grammar)) {
        return true;
    }
    mk_parse_place at = mk_parser_place(s->parser);
    return s->p->headers ? at == MK_PLACE_ANSWER : at != MK_PLACE_REASONING;
}

// A token under the grammar; what stands before the answer (newlines, the tag that opens the
// reasoning) is no part of it.
static void advance_grammar(mk_speech *s, int32_t id) {
    if (mk_grammar_pos(s->state) == 0 && !mk_grammar_has_headers(s->o.grammar)) {
        if (mk_parser_place(s->parser) == MK_PLACE_START && id == s->p->think_id) {
            return;
        }
        if (is_space_id(s, id) && s->n_space < MAX_SPACE) {
            s->n_space++;
            return;
        }
    }
    if (mk_grammar_accept(s->state, id, &s->error) != MK_OK) {
        s->failed = true;
    }
}

static mk_job_verdict on_token(void *arg, const mk_job_token *t) {
    mk_speech *s = arg;
    if (s->failed) {
        return MK_JOB_STOP;  // this token was chosen without the mask that could not be made
    }
    uint64_t refused = mk_alloc_refused_thread();
    s->n_reasoning += mk_parser_place(s->parser) == MK_PLACE_REASONING;
    if (grammar_holds(s)) {
        advance_grammar(s, t->id);
    }
    send_token(s, MK_AE_TOKEN, t);
    if (!s->failed &&
        mk_parse_token(s->parser, s->detok, s->p->llm->tokenizer, t->id, &s->error) != MK_OK) {
        s->failed = true;
    }
    check_memory(s, refused);
    return s->stopped || s->failed ? MK_JOB_STOP : MK_JOB_GO;
}

// The budget of reasoning: when it is used up, its end is what comes next.
static bool force_answer(mk_speech *s, int32_t *force) {
    if (s->o.think_budget < 0 || s->n_forced >= s->p->close_ids.n) {
        return false;
    }
    if (s->n_forced == 0 &&
        (mk_parser_place(s->parser) != MK_PLACE_REASONING || s->n_reasoning < s->o.think_budget)) {
        return false;
    }
    *force = s->p->close_ids.data[s->n_forced++];
    return true;
}

// Of a token that is forced, behind the reasoning: not what the grammar of a whole answer forbids.
static bool may_force(mk_speech *s, const uint64_t *allowed, int32_t id) {
    if (allowed[id >> 6] >> (id & 63) & 1) {
        return true;
    }
    s->n_forced = s->p->close_ids.n;  // it has closed the reasoning; what comes now is a call
    return false;
}

static void allow_id(uint64_t *allowed, int32_t id) {
    if (id >= 0) {
        allowed[id >> 6] |= UINT64_C(1) << (id & 63);
    }
}

static bool on_allow(void *arg, uint64_t *allowed, int32_t *force) {
    mk_speech *s = arg;
    int32_t forced = -1;
    bool headers = s->state && mk_grammar_has_headers(s->o.grammar);
    if (force_answer(s, headers ? &forced : force) && !headers) {
        return true;
    }
    if (!grammar_holds(s) || s->failed) {
        return false;
    }
    int64_t n_vocab = s->p->llm->model->hp.n_vocab;
    if (mk_grammar_mask(s->state, allowed, n_vocab, &s->error) != MK_OK) {
        s->failed = true;
        return false;
    }
    if (forced >= 0 && may_force(s, allowed, forced)) {
        *force = forced;
    }
    if (mk_grammar_pos(s->state) == 0 && !headers) {
        if (mk_parser_place(s->parser) == MK_PLACE_START) {
            allow_id(allowed, s->p->think_id);
        } else if (s->n_space < MAX_SPACE) {
            allow_id(allowed, s->p->space_id[0]);
            allow_id(allowed, s->p->space_id[1]);
        }
    }
    return true;
}

static mk_stop_reason stop_reason(const mk_speech *s, mk_job_end end) {
    static const mk_stop_reason of[] = {[MK_JOB_ENDED] = MK_STOP_END,
                                        [MK_JOB_FULL] = MK_STOP_LENGTH,
                                        [MK_JOB_STOPPED] = MK_STOP_TEXT,
                                        [MK_JOB_CANCELLED] = MK_STOP_CANCELLED,
                                        [MK_JOB_FAILED] = MK_STOP_CANCELLED};
    if (s->stopped) {
        return MK_STOP_TEXT;
    }
    return end == MK_JOB_ENDED && mk_parser_n_calls(s->parser) > 0 ? MK_STOP_TOOLS : of[end];
}

static void free_speech(mk_speech *s) {
    for (int i = 0; i < s->o.n_stop; i++) {
        mk_free(s->stop[i]);
    }
    mk_free(s->stop);
    mk_detok_destroy(s->detok);
    mk_parser_destroy(s->parser);
    mk_grammar_state_destroy(s->state);
    mk_grammar_unref(s->o.grammar);
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
    if (r->end != MK_JOB_FAILED && !s->failed) {
        uint64_t refused = mk_alloc_refused_thread();
        flush(s);
        check_memory(s, refused);
    }
    const mk_err *error = r->end == MK_JOB_FAILED ? r->error : s->failed ? &s->error : NULL;
    s->usage.n_generated = r->n_generated;
    s->usage.n_reasoning = s->n_reasoning;
    s->usage.generation_ms = r->generation_ms;
    s->usage.n_drafted = r->n_drafted;
    s->usage.n_accepted = r->n_accepted;
    if (error) {
        send(s, &(mk_answer_event){.kind = MK_AE_ERROR, .error = error, .usage = s->usage});
    } else {
        send(s, &(mk_answer_event){.kind = MK_AE_DONE,
                                   .stop = stop_reason(s, r->end),
                                   .stop_text = s->stopped ? s->stop[s->stops.which] : NULL,
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

// The trie of the vocabulary, made by whoever needs it first.
static mk_status get_trie(mk_provider *p, mk_token_trie **out, mk_err *err) {
    pthread_mutex_lock(&p->lock);
    mk_status st = p->trie ? MK_OK : mk_token_trie_create(p->llm->tokenizer, &p->trie, err);
    *out = p->trie;
    pthread_mutex_unlock(&p->lock);
    return st;
}

static mk_status start_parts(mk_speech *s, const mk_speech_opts *o, mk_err *err) {
    mk_provider *p = s->p;
    mk_parse_opts po = o->prompt->parse;
    po.tools = s->tools;
    MK_TRY(mk_parser_create(&po, on_part, s, &s->parser, err));
    s->detok = mk_detok_create(p->llm->tokenizer, true);
    if (!s->detok) {
        return MK_FAIL(err, MK_ENOMEM, "no memory for the answer; try again later");
    }
    if (!o->grammar) {
        return MK_OK;
    }
    mk_token_trie *trie = NULL;
    MK_TRY(get_trie(p, &trie, err));
    return mk_grammar_start(o->grammar, trie, &s->state, err);
}

static mk_status make_speech(mk_provider *p, const mk_speech_opts *o, mk_speech **out,
                             mk_err *err) {
    mk_speech *s = mk_zalloc(sizeof *s);
    *out = s;
    s->p = p;
    s->o = *o;
    s->o.prompt = NULL;
    s->n_ref = 2;
    s->tools = json_incref((json_t *)o->prompt->parse.tools);
    if (s->o.grammar) {
        mk_grammar_ref(s->o.grammar);
    }
    pthread_mutex_init(&s->lock, NULL);
    mk_buf_init(&s->piece, MAX_TEXT);
    MK_TRY(copy_stops(s, o, err));
    mk_stops_init(&s->stops, s->o.stop, s->o.n_stop);
    if (o->n_logprob > MAX_LOGPROB) {
        return MK_FAIL(err, MK_EUSAGE,
                       "%d log-probabilities per token asked for, at most %d are given",
                       o->n_logprob, MAX_LOGPROB);
    }
    return start_parts(s, o, err);
}

mk_status mk_speech_check(const mk_provider *p, const mk_speech_opts *o, mk_err *err) {
    mk_job_opts j = {.ids = o->prompt->ids.data,
                     .n = o->prompt->ids.n,
                     .sample = o->sample,
                     .n_predict = o->n_predict};
    return mk_sched_check(p->sched, &j, err);
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
            .end_ids = p->end_ids.data,
            .n_end = o->ignore_eos ? 0 : (int)p->end_ids.n,
            .tenant = o->tenant,
            .instead = o->instead,
            .hooks = {.begin = on_begin, .token = on_token, .done = on_done},
            .arg = s,
        };
        j.hooks.prompt = o->score ? on_prompt : NULL;
        j.hooks.end = o->score ? on_end : NULL;
        j.hooks.allow = o->think_budget >= 0 || o->grammar ? on_allow : NULL;
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

static int32_t single_id(const mk_provider *p, const char *text) {
    mk_ids ids = {0};
    mk_encode_opts o = {.parse_special = true, .continues = true};
    mk_err err;
    mk_status st = mk_tokenizer_encode(p->llm->tokenizer, text, strlen(text), o, &ids, &err);
    int32_t id = st == MK_OK && ids.n == 1 ? ids.data[0] : -1;
    mk_ids_free(&ids);
    return id;
}

static mk_status find_marks(mk_provider *p, mk_err *err) {
    const mk_chat_template *t = p->llm->template;
    if (t) {
        mk_parse_detect(mk_chat_template_text(t), &p->parse);
    }
    p->headers = p->parse.format && mk_parse_format_has_headers(p->parse.format);
    p->think_id = single_id(p, p->parse.think_open ? p->parse.think_open : "<think>");
    p->space_id[0] = single_id(p, "\n");
    p->space_id[1] = single_id(p, "\n\n");
    mk_buf close;
    mk_buf_init(&close, 4096);
    mk_parse_force_answer(&p->parse, &close);
    mk_encode_opts o = {.parse_special = true, .continues = true};
    mk_status st = mk_tokenizer_encode(p->llm->tokenizer, close.data ? close.data : "", close.len,
                                       o, &p->close_ids, err);
    mk_buf_free(&close);
    return st;
}

static mk_status open_prefix(mk_provider *p, const mk_provider_opts *o, mk_err *err) {
    if (!o->prefix) {
        return MK_OK;
    }
    mk_prefix_opts po = {.engine = p->llm->engine,
                         .dir = o->prefix_dir,
                         .max_disk = o->prefix_dir ? o->prefix_bytes : 0};
    return mk_prefix_create(&po, &p->prefix, err);
}

mk_status mk_provider_open(const mk_provider_opts *o, mk_provider **out, mk_err *err) {
    mk_provider *p = mk_zalloc(sizeof *p);
    p->llm = o->llm;
    pthread_mutex_init(&p->lock, NULL);
    mk_status st = mk_tokenizer_eog_ids(o->llm->tokenizer, &p->end_ids, err);
    st = st == MK_OK ? find_marks(p, err) : st;
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
    mk_token_trie_unref(p->trie);
    pthread_mutex_destroy(&p->lock);
    mk_ids_free(&p->close_ids);
    mk_ids_free(&p->end_ids);
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
