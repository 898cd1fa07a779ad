// A turn: one request that is answered by a model, from its body to the last byte of the answer.
//
//   worker     body -> ask; the model is asked for
//   worker     it is there, at once or later -> prompt -> speeches begin; a stream's headers go out
//   provider   events -> the dialect's writer -> bytes; after the last DONE the turn ends
//   server     the client has gone: the speeches are cancelled, their DONE ends the turn; or the wait
//              for the model is, which ends it as well
//   clock      a silent stream gets a heartbeat, and its headers if it waits for its model so long
//
// A turn lives until its wait for the model has ended, and every speech that began has had its DONE
// or ERROR, each exactly once, whatever else happens; so nobody else needs to count it.
#include <string.h>
#include <time.h>

#include "base/alloc.h"
#include "base/json.h"
#include "base/log.h"
#include "base/secret.h"
#include "chat/fim.h"
#include "serve/books.h"

#define ANSWER_MAX ((size_t)1 << 28)
enum { HEARTBEAT_NS = 2000000000, ID_CHARS = 24 };

struct turn {
    turn *next, **at;  // the service's list, guarded by its lock
    mk_service *s;
    mk_http_exchange *x;
    const mk_dialect *dialect;
    served_model *model;
    mk_ask ask;
    char id[ID_CHARS + 1];  // not to be guessed: kept answers are found by it
    mk_reply_info info;
    pthread_mutex_t lock;
    mk_writer_state *writer;
    mk_buf out;
    int n_left;      // choices that have not ended, and one for who begins them
    bool streaming;  // headers are out
    bool lost;       // the client has gone or does not read
    bool given_up;   // its speeches have been cancelled because of that
    bool begun;      // choice[].speech are set and may be cancelled
    bool waits;      // for its model
    bool leased;     // the model stays until it is returned
    mk_lease lease;
    mk_err error;  // of the first choice that failed
    int status;    // of HTTP for it; 0: what its code says
    uint64_t asked_ns;
    double wait_ms;    // for the model; part of the time before the prompt was read
    uint64_t last_ns;  // when something was last sent
    struct choice {
        turn *t;
        int index;
        mk_speech *speech;
    } choice[MK_ASK_MAX_N];
    mk_books books;
};

// --- what to say ---------------------------------------------------------------------------------

mk_request mk_service_request(const mk_ask *ask) {
    return (mk_request){
        .messages = ask->messages,
        .prompt = ask->prompt,
        .ids = ask->ids,
        .n_ids = ask->n_ids,
        .raw = ask->prompt != NULL,
        .tools = ask->tool_choice == MK_TOOLS_NONE ? NULL : ask->tools,
        .think = ask->think,
        .effort = ask->effort,
        .template_kwargs = ask->template_kwargs,
        .continue_last = ask->continue_last,
        .open_end = ask->open_end,
    };
}

static mk_sample_params sampling_of(const mk_llm *llm, const mk_ask *a) {
    mk_sample_params p = mk_llm_sampling(llm), q = a->sample;
    p.temperature = a->has_temperature ? q.temperature : p.temperature;
    p.top_p = a->has_top_p ? q.top_p : p.top_p;
    p.top_k = a->has_top_k ? q.top_k : p.top_k;
    p.min_p = a->has_min_p ? q.min_p : p.min_p;
    p.repetition_penalty = a->has_repetition ? q.repetition_penalty : p.repetition_penalty;
    p.repetition_last_n = a->has_repetition ? q.repetition_last_n : p.repetition_last_n;
    p.presence_penalty = q.presence_penalty;
    p.frequency_penalty = q.frequency_penalty;
    p.seed = q.seed;
    p.bias = q.bias;
    p.n_bias = q.n_bias;
    return p;
}

// --- the end -------------------------------------------------------------------------------------

static void free_turn(turn *t) {
    if (t->writer) {
        t->dialect->close(t->writer);
    }
    mk_books_free(&t->books);
    mk_ask_free(&t->ask);
    mk_buf_free(&t->out);
    mk_http_drop(t->x);
    pthread_mutex_destroy(&t->lock);
    mk_free(t);
}

static void list_turn(turn *t) {
    mk_service *s = t->s;
    pthread_mutex_lock(&s->lock);
    t->next = s->turns;
    t->at = &s->turns;
    if (t->next) {
        t->next->at = &t->next;
    }
    s->turns = t;
    s->n_turn++;
    pthread_mutex_unlock(&s->lock);
}

static void unlist_turn(turn *t) {
    mk_service *s = t->s;
    pthread_mutex_lock(&s->lock);
    *t->at = t->next;
    if (t->next) {
        t->next->at = t->at;
    }
    pthread_mutex_unlock(&s->lock);
}

// The turn has given its last byte and is gone: who waits for all of them may close things now.
static void count_down(mk_service *s) {
    pthread_mutex_lock(&s->lock);
    if (--s->n_turn == 0) {
        pthread_cond_broadcast(&s->idle);
    }
    pthread_mutex_unlock(&s->lock);
}

enum { MAX_FIELDS = 10, MAX_IGNORED = 512 };

// Headers of an answer: its type, who may read it, and which fields of the request were ignored.
static int add_headers(turn *t, const char *type, mk_http_field f[MAX_FIELDS],
                       char ignored[MAX_IGNORED]) {
    const char *cors = mk_service_cors(t->s, t->x);
    int n = 0;
    f[n++] = (mk_http_field){"Content-Type", type};
    f[n++] = (mk_http_field){"x-request-id", t->id};
    f[n++] = (mk_http_field){"request-id", t->id};  // Anthropic's name for it
    if (cors) {
        f[n++] = (mk_http_field){"Access-Control-Allow-Origin", cors};
        f[n++] = (mk_http_field){"Vary", "Origin"};
    }
    size_t at = 0, i;
    json_t *name;
    json_array_foreach(t->ask.unknown, i, name) {
        const char *s = json_string_value(name);
        for (size_t k = 0; s && s[k] && at + 3 < MAX_IGNORED; k++) {
            ignored[at++] = s[k] > ' ' && s[k] < 127 ? s[k] : '?';
        }
        if (at + 3 >= MAX_IGNORED) {
            break;
        }
        ignored[at++] = ' ';
    }
    ignored[at] = 0;
    if (at > 0) {
        ignored[at - 1] = 0;
        f[n++] = (mk_http_field){"Minke-Ignored-Fields", ignored};
    }
    return n;
}

static void reply_whole(turn *t) {
    mk_http_field f[MAX_FIELDS];
    char ignored[MAX_IGNORED];
    int n = add_headers(t, "application/json", f, ignored);
    mk_http_reply(t->x, 200, f, n, t->out.data, t->out.len);
}

static void send_out(turn *t) {
    if (t->out.len == 0) {
        return;
    }
    if (!t->lost && !mk_http_write(t->x, t->out.data, t->out.len)) {
        t->lost = true;
    }
    mk_buf_clear(&t->out);
    t->last_ns = mk_now_ns();
}

static int http_status(const turn *t) {
    return t->status ? t->status : mk_error_http_status(t->error.code);
}

// Everything that stays of the answer is written before its last byte goes out.
static void write_down(turn *t) {
    mk_books_answer a = {t->dialect, t->writer, &t->info, t->lost};
    if (t->error.code == MK_OK && mk_books_keep(&t->books, &a, &t->error) != MK_OK &&
        t->streaming) {
        t->dialect->event(t->writer, 0, &(mk_answer_event){.kind = MK_AE_ERROR, .error = &t->error},
                          &t->out);
    }
    mk_books_close(&t->books, &a, http_status(t));
}

// Before the last byte goes out: who has the answer finds the model as it asked for.
static void return_model(turn *t) {
    for (int i = 0; i < t->ask.n; i++) {
        mk_speech_drop(t->choice[i].speech);
    }
    if (t->leased) {
        uint64_t keep = mk_service_keep_ns(t->ask.keep_alive_s);
        mk_loader_return(t->s->loader, t->model->slot, t->ask.has_keep_alive ? &keep : NULL);
    }
}

// No speech is left.  Nobody holds the turn's lock any more once it is off the list.
static void end_turn(turn *t) {
    mk_http_on_gone(t->x, NULL, NULL);
    unlist_turn(t);
    write_down(t);
    if (t->error.code == MK_OK) {
        t->dialect->finish(t->writer, &t->out);
    }
    return_model(t);
    if (t->streaming) {
        send_out(t);
        if (t->out.failed || t->lost) {
            mk_http_abort(t->x);
        } else {
            mk_http_end(t->x);
        }
    } else if (t->error.code != MK_OK || t->out.failed) {
        mk_err full = {.code = MK_ENOMEM, .msg = "no memory for the answer"};
        const mk_err *e = t->error.code != MK_OK ? &t->error : &full;
        mk_service_fail(t->s, t->x, t->dialect,
                        e == &full ? mk_error_http_status(full.code) : http_status(t), e);
    } else {
        reply_whole(t);
    }
    mk_service *s = t->s;
    atomic_fetch_add(&s->n_errors, t->error.code != MK_OK && !t->lost);
    atomic_fetch_add(&s->n_gone, t->lost);
    free_turn(t);
    count_down(s);
}

// --- events --------------------------------------------------------------------------------------

static void cancel(turn *t) {
    for (int i = 0; i < t->ask.n; i++) {
        if (t->choice[i].speech) {
            mk_speech_cancel(t->choice[i].speech);
        }
    }
}

static void on_event(void *arg, const mk_answer_event *ev) {
    struct choice *c = arg;
    turn *t = c->t;
    bool last = ev->kind == MK_AE_DONE || ev->kind == MK_AE_ERROR;
    mk_answer_event with_wait = *ev;
    if (ev->kind == MK_AE_DONE) {
        with_wait.usage.queue_ms += t->wait_ms;
        ev = &with_wait;
    }
    pthread_mutex_lock(&t->lock);
    if (ev->kind == MK_AE_ERROR && t->error.code == MK_OK) {
        t->error = *ev->error;
    }
    mk_books_hear(&t->books, c->index, ev);
    if (ev->kind != MK_AE_ERROR || t->streaming) {
        t->dialect->event(t->writer, c->index, ev, &t->out);
    }
    if (t->streaming) {
        send_out(t);
    }
    bool give_up = t->lost && !t->given_up && t->begun && !last;
    t->given_up |= give_up;
    t->n_left -= last;
    bool end = t->n_left == 0;
    pthread_mutex_unlock(&t->lock);
    if (end) {
        end_turn(t);
    } else if (give_up) {
        cancel(t);
    }
}

static void on_gone(void *arg) {
    turn *t = arg;
    pthread_mutex_lock(&t->lock);
    t->lost = true;
    bool begun = t->begun;
    pthread_mutex_unlock(&t->lock);
    // the turn cannot end before this returns: end_turn takes the callback back first
    mk_loader_cancel(t->s->loader, &t->lease);
    if (begun) {
        cancel(t);
    }
}

static void begin_stream(turn *t) {
    mk_http_field f[MAX_FIELDS];
    char ignored[MAX_IGNORED];
    int n = add_headers(t, t->dialect->content_type, f, ignored);
    f[n++] = (mk_http_field){"Cache-Control", "no-cache"};
    f[n++] = (mk_http_field){"X-Accel-Buffering", "no"};
    mk_http_begin(t->x, 200, f, n);
    t->streaming = true;
    t->last_ns = mk_now_ns();
}

// Once headers are out an error can only be told in the stream: while a model is loaded they wait
// as long as a client will bear silence.
static void keep_alive(turn *t) {
    uint64_t now = mk_now_ns();  // under the lock: not before what it is compared with
    if (t->waits && t->ask.stream && !t->streaming && !t->lost &&
        now - t->asked_ns >= HEARTBEAT_NS) {
        begin_stream(t);
        t->last_ns = now - HEARTBEAT_NS;
    }
    if (t->streaming && !t->lost && t->n_left > 0 && now - t->last_ns >= HEARTBEAT_NS) {
        t->dialect->heartbeat(t->writer, &t->out);
        send_out(t);
    }
}

void mk_service_tick(mk_service *s) {
    pthread_mutex_lock(&s->lock);
    for (turn *t = s->turns; t; t = t->next) {
        pthread_mutex_lock(&t->lock);
        keep_alive(t);
        pthread_mutex_unlock(&t->lock);
    }
    pthread_mutex_unlock(&s->lock);
}

// A turn leaves the list before it is freed, so that it is there while the lock is held.
void mk_service_cancel_all(mk_service *s) {
    pthread_mutex_lock(&s->lock);
    for (turn *t = s->turns; t; t = t->next) {
        pthread_mutex_lock(&t->lock);
        bool begun = t->begun;
        t->lost = true;
        pthread_mutex_unlock(&t->lock);
        mk_loader_cancel(s->loader, &t->lease);
        if (begun) {
            cancel(t);
        }
    }
    pthread_mutex_unlock(&s->lock);
}

// --- the beginning -------------------------------------------------------------------------------

typedef struct {
    mk_prompt prompt;
    mk_grammar *grammar;
    bool nothing;  // is asked: the model is wanted in memory, where it is (Ollama)
} beginning;

static mk_status begin_choice(turn *t, int i, const beginning *b, mk_err *err) {
    struct choice *c = &t->choice[i];
    *c = (struct choice){.t = t, .index = i};
    mk_speech_opts o = {
        .prompt = &b->prompt,
        .sample = sampling_of(t->model->llm, &t->ask),
        .n_predict = t->ask.n_predict,
        .stop = (const char *const *)t->ask.stop,
        .n_stop = t->ask.n_stop,
        .ignore_eos = t->ask.ignore_eos,
        .n_logprob = t->ask.n_logprob,
        .think_budget = t->ask.think_budget,
        .grammar = b->grammar,
        .tenant = t->books.tenant,
        .event = on_event,
        .arg = c,
    };
    o.sample.seed += (uint64_t)i;
    return mk_speech_begin(t->model->provider, &o, &c->speech, err);
}

// The lock is held.
static void tell_error(turn *t) {
    if (t->streaming) {
        mk_answer_event ev = {.kind = MK_AE_ERROR, .error = &t->error};
        t->dialect->event(t->writer, 0, &ev, &t->out);
    }
}

static void fail_turn(turn *t, const mk_err *err, int status) {
    pthread_mutex_lock(&t->lock);
    t->error = *err;
    t->status = status;
    t->n_left = 0;
    tell_error(t);
    pthread_mutex_unlock(&t->lock);
    end_turn(t);
}

// Events of choices that began wait at the lock for the headers.
static void begin_all(turn *t, const beginning *b) {
    pthread_mutex_lock(&t->lock);
    int n = 0;
    mk_status st = MK_OK;
    for (; n < t->ask.n && st == MK_OK; n++) {
        st = begin_choice(t, n, b, &t->error);
    }
    n -= st != MK_OK;
    t->n_left += n;
    if (st != MK_OK) {
        tell_error(t);
    } else if (t->ask.stream && !t->streaming) {
        begin_stream(t);
    }
    t->begun = true;
    bool stop = st != MK_OK || t->lost;
    pthread_mutex_unlock(&t->lock);
    if (stop) {
        cancel(t);
    }
    pthread_mutex_lock(&t->lock);
    bool end = --t->n_left == 0;
    pthread_mutex_unlock(&t->lock);
    if (end) {
        end_turn(t);
    }
}

// The model is there: that is all that was asked.
static void answer_nothing(turn *t) {
    pthread_mutex_lock(&t->lock);
    if (t->ask.stream && !t->streaming) {
        begin_stream(t);
    }
    for (int i = 0; i < t->ask.n; i++) {
        t->dialect->event(t->writer, i, &(mk_answer_event){.kind = MK_AE_START}, &t->out);
        t->dialect->event(t->writer, i, &(mk_answer_event){.kind = MK_AE_DONE}, &t->out);
    }
    t->n_left = 0;
    pthread_mutex_unlock(&t->lock);
    end_turn(t);
}

static mk_status read_ask(turn *t, mk_err *err) {
    size_t n = 0;
    const char *body = mk_http_body(t->x, &n);
    json_t *o = NULL;
    MK_TRY(mk_json_parse(body, n, "the body", &o, err));
    mk_status st = t->dialect->parse(o, &t->ask, err);
    json_decref(o);
    return st;
}

// Ollama's num_ctx: so many tokens have prompt and answer together.
static mk_status limit_window(turn *t, int64_t n_prompt, mk_err *err) {
    int64_t want = t->ask.n_ctx, have = atomic_load(&t->model->n_ctx);
    if (want > have) {
        return MK_FAIL(err, MK_EUSAGE,
                       "/options/num_ctx: %lld tokens asked for, '%s' is served with a window of "
                       "%lld; ask for less, or for a larger window when the server is started "
                       "(--ctx)",
                       (long long)want, t->model->name, (long long)have);
    }
    if (want > 0 && n_prompt >= want) {
        return MK_FAIL(err, MK_ECONTEXT,
                       "the prompt has %lld tokens, /options/num_ctx is %lld, and an answer needs "
                       "at least one; nothing was cut",
                       (long long)n_prompt, (long long)want);
    }
    if (want > 0 && (t->ask.n_predict < 0 || t->ask.n_predict > want - n_prompt)) {
        t->ask.n_predict = want - n_prompt;
    }
    return MK_OK;
}

static mk_status make_prompt(turn *t, beginning *b, mk_err *err) {
    if (t->ask.suffix && t->ask.prompt) {
        b->prompt.parse = (mk_parse_opts){.no_reasoning = true};
        return mk_fim_encode(mk_llm_tokenizer(t->model->llm), t->ask.prompt, t->ask.suffix,
                             &b->prompt.ids, err);
    }
    mk_request r = mk_service_request(&t->ask);
    return mk_llm_make_prompt(t->model->llm, &r, &b->prompt, err);
}

static bool only_loads(const mk_ask *a) {
    return !a->messages && !a->prompt && !a->ids;
}

// Everything that can be refused is refused here, before an answer begins.
static mk_status prepare(turn *t, beginning *b, mk_err *err) {
    MK_TRY(mk_constraints_get(t->s->constraints, t->model->llm, &t->ask, &b->grammar, err));
    if (only_loads(&t->ask)) {
        b->nothing = true;
        return limit_window(t, 0, err);
    }
    MK_TRY(mk_books_recall(t->s, &t->books.c, t->model->llm, &t->ask, &t->books.tenant, err));
    MK_TRY(make_prompt(t, b, err));
    return limit_window(t, b->prompt.ids.n, err);
}

static void token_text(void *arg, int32_t id, mk_buf *out) {
    size_t n = 0;
    const char *p = mk_tokenizer_piece(mk_llm_tokenizer(arg), id, &n);
    mk_buf_add(out, p ? p : "", p ? n : 0);
}

static mk_status open_writer(turn *t, mk_err *err) {
    MK_TRY(mk_secret_text(t->id, ID_CHARS, err));
    t->info = (mk_reply_info){
        .id = t->id,
        .created = (int64_t)time(NULL),
        .model = t->model->name,
        .fingerprint = "minke",
        .reasoning_field = t->s->o.reasoning_field,
        .ask = &t->ask,
        .token_text = token_text,
        .token_arg = t->model->llm,
    };
    t->writer = t->dialect->open(&t->info);
    return MK_OK;
}

// --- with the model ------------------------------------------------------------------------------

static void go_on(turn *t) {
    beginning b = {0};
    mk_err err = {0};
    pthread_mutex_lock(&t->lock);
    t->waits = false;
    pthread_mutex_unlock(&t->lock);
    t->leased = true;
    mk_status st = prepare(t, &b, &err);
    if (st != MK_OK) {
        // a bound that the request itself went over: trying again later does not help
        fail_turn(t, &err, st == MK_ELIMIT ? 400 : mk_error_http_status(st));
    } else if (b.nothing) {
        answer_nothing(t);
    } else {
        begin_all(t, &b);
    }
    mk_grammar_unref(b.grammar);
    mk_ids_free(&b.prompt.ids);
}

// There will be no model for this turn.
static void go_without(turn *t, const mk_err *why) {
    mk_err err = *why;
    pthread_mutex_lock(&t->lock);
    t->waits = false;
    pthread_mutex_unlock(&t->lock);
    fail_turn(t, &err, mk_service_lease_status(&err));
}

static void after_wait(void *arg) {
    turn *t = arg;
    t->wait_ms = (double)(mk_now_ns() - t->asked_ns) / 1e6;
    if (t->lease.w.end.code == MK_OK) {
        go_on(t);
    } else {
        go_without(t, &t->lease.w.end);
    }
}

static void on_model(void *arg) {
    turn *t = arg;
    if (!mk_workers_post(t->s->workers, after_wait, t)) {
        after_wait(t);
    }
}

// The turn may be gone when this returns.
static void get_model(turn *t) {
    mk_err err = {0};
    bool now = false;
    mk_status st = mk_loader_lease(t->s->loader, t->model->slot, &t->lease, &now, &err);
    if (st != MK_OK) {
        go_without(t, &err);
    } else if (now) {
        go_on(t);
    }
}

static mk_status read_turn(turn *t, mk_err *err) {
    MK_TRY(read_ask(t, err));
    t->model = mk_service_find(t->s, t->ask.model, err);
    return t->model ? open_writer(t, err) : err->code;
}

static turn *make_turn(mk_service *s, mk_http_exchange *x, const route *r) {
    turn *t = mk_zalloc(sizeof *t);
    t->s = s;
    t->x = x;
    t->dialect = r->dialect;
    t->lease = (mk_lease){.ready = on_model, .arg = t};
    t->asked_ns = mk_now_ns();
    pthread_mutex_init(&t->lock, NULL);
    mk_buf_init(&t->out, ANSWER_MAX);
    mk_ask_init(&t->ask);
    mk_http_keep(x);
    return t;
}

static void start_turn(turn *t) {
    bool unloads = only_loads(&t->ask) && t->ask.has_keep_alive && t->ask.keep_alive_s == 0;
    mk_books_expect(&t->books, t->ask.n);
    t->n_left = 1;
    t->waits = !unloads;
    list_turn(t);
    mk_http_on_gone(t->x, on_gone, t);
    if (unloads) {
        mk_loader_dismiss(t->s->loader, t->model->slot);
        answer_nothing(t);
    } else {
        get_model(t);
    }
}

void mk_service_answer(mk_service *s, mk_http_exchange *x, const route *r, const caller *c) {
    turn *t = make_turn(s, x, r);
    mk_err err = {0};
    int64_t retry_s = 0;
    mk_status st = mk_books_begin(&t->books, s, c, &retry_s, &err);
    st = st == MK_OK ? read_turn(t, &err) : st;
    if (st == MK_OK) {
        start_turn(t);
    } else if (retry_s > 0) {
        mk_service_refuse(s, x, r->dialect, retry_s, &err);
        free_turn(t);
    } else {
        atomic_fetch_add(&s->n_errors, 1);
        // a bound that the request itself went over: trying again later does not help
        int http = st == MK_ELIMIT ? 400 : mk_error_http_status(st);
        mk_service_fail(s, x, r->dialect, http, &err);
        free_turn(t);
    }
}
