// How a turn begins (turn_int.h): the body is read, the model asked for, the prompt made, and the
// speeches begin.  Everything that can be refused is refused here, with an HTTP status.
#include <time.h>

#include "base/alloc.h"
#include "base/json.h"
#include "base/log.h"
#include "base/secret.h"
#include "chat/fim.h"
#include "serve/turn_int.h"

enum { MAX_SCORES = 1 << 21 };  // of prompts, in one answer: about 100 MB of JSON

// --- what to say ---------------------------------------------------------------------------------

mk_request mk_service_request(const mk_ask *ask, int prompt) {
    const mk_ask_prompt *p = &ask->prompt[prompt];
    return (mk_request){
        .messages = ask->messages,
        .prompt = p->text,
        .ids = p->ids,
        .n_ids = p->n_ids,
        .raw = p->text != NULL,
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

// --- the beginning -------------------------------------------------------------------------------

struct beginning {
    mk_prompt prompt[MK_ASK_MAX_PROMPT];
    mk_grammar *grammar;
    bool nothing;  // is asked: the model is wanted in memory, where it is (Ollama)
};

// What is wrong with one prompt among several says which.
static mk_status of_prompt(const mk_ask *a, int prompt, mk_status st, mk_err *err) {
    bool own = st == MK_ECONTEXT || st == MK_EUSAGE;
    return own && a->n_prompt > 1 ? mk_err_prefix(err, "/prompt/%d", prompt) : st;
}

// Nothing of an answer depends on those beside it: the seed counts answers to the same prompt.
static mk_speech_opts speech_of(turn *t, const beginning *b, int i) {
    mk_speech_opts o = {
        .prompt = &b->prompt[i / t->ask.n],
        .sample = sampling_of(t->model->llm, &t->ask),
        .n_predict = t->ask.n_predict,
        .stop = (const char *const *)t->ask.stop,
        .n_stop = t->ask.n_stop,
        .ignore_eos = t->ask.ignore_eos,
        .n_logprob = t->ask.n_logprob,
        .score = mk_ask_scores(&t->ask),
        .instead = t->begun,
        .think_budget = t->ask.think_budget,
        .grammar = b->grammar,
        .tenant = t->books.tenant,
        .event = mk_service_turn_event,
        .arg = &t->choice[i],
    };
    o.sample.seed += (uint64_t)(i % t->ask.n);
    return o;
}

static mk_status begin_choice(turn *t, int i, mk_err *err) {
    struct turn_choice *c = &t->choice[i];
    *c = (struct turn_choice){.t = t, .index = i};
    mk_speech_opts o = speech_of(t, t->with, i);
    mk_status st = mk_speech_begin(t->model->provider, &o, &c->speech, err);
    return of_prompt(&t->ask, i / t->ask.n, st, err);
}

void mk_service_turn_begin(turn *t, int n) {
    int all = mk_ask_choices(&t->ask);
    for (; n > 0 && t->n_begun < all && !t->lost && t->error.code == MK_OK; n--) {
        mk_err err;
        mk_status st = begin_choice(t, t->n_begun, &err);
        if (st == MK_ELIMIT && !t->begun && t->n_begun > 0) {
            return;  // the queue is full: the others take the places of these
        }
        if (st != MK_OK) {
            t->error = err;
            t->broken = true;
            mk_service_turn_tell_error(t);
            return;
        }
        t->n_begun++;
        t->n_left++;
    }
    if (t->n_begun == all) {
        mk_service_turn_forget(t);
    }
}

void mk_service_turn_forget(turn *t) {
    beginning *b = t->with;
    for (int i = 0; b && i < MK_ASK_MAX_PROMPT; i++) {
        mk_ids_free(&b->prompt[i].ids);
    }
    if (b) {
        mk_grammar_unref(b->grammar);
    }
    mk_free(b);
    t->with = NULL;
}

// Events of choices that began wait at the lock for the headers.
static void begin_first(turn *t) {
    pthread_mutex_lock(&t->lock);
    mk_service_turn_begin(t, MK_TURN_AT_ONCE);
    if (t->error.code == MK_OK && t->ask.stream && !t->streaming) {
        mk_service_turn_stream(t);
    }
    t->begun = true;
    bool stop = t->broken || t->lost;
    pthread_mutex_unlock(&t->lock);
    if (stop) {
        mk_service_turn_cancel(t);
    }
    pthread_mutex_lock(&t->lock);
    bool end = --t->n_left == 0;
    pthread_mutex_unlock(&t->lock);
    if (end) {
        mk_service_turn_end(t);
    }
}

// The model is there: that is all that was asked.
static void answer_nothing(turn *t) {
    pthread_mutex_lock(&t->lock);
    if (t->ask.stream && !t->streaming) {
        mk_service_turn_stream(t);
    }
    for (int i = 0; i < mk_ask_choices(&t->ask); i++) {
        uint64_t refused = mk_alloc_refused_thread();
        mk_service_turn_write(t, i, &(mk_answer_event){.kind = MK_AE_START}, refused);
        mk_service_turn_write(t, i, &(mk_answer_event){.kind = MK_AE_DONE}, refused);
    }
    t->n_left = 0;
    pthread_mutex_unlock(&t->lock);
    mk_service_turn_end(t);
}

// What was read while memory was refused is not what was asked, and an error that was found then is
// not the request's.  refused: mk_alloc_refused_thread before.
static mk_status in_memory(mk_status st, uint64_t refused, mk_err *err) {
    return mk_alloc_refused_thread() == refused || st == MK_ENOMEM
               ? st
               : MK_FAIL(err, MK_ENOMEM, "no memory to read this request; try again later");
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

static mk_status make_prompt(turn *t, int prompt, mk_prompt *p, mk_err *err) {
    const char *text = t->ask.prompt[prompt].text;
    if (t->ask.suffix && text) {
        p->parse = (mk_parse_opts){.no_reasoning = true};
        return mk_fim_encode(mk_llm_tokenizer(t->model->llm), text, t->ask.suffix, &p->ids, err);
    }
    mk_request r = mk_service_request(&t->ask, prompt);
    return mk_llm_make_prompt(t->model->llm, &r, p, err);
}

static mk_status make_prompts(turn *t, beginning *b, mk_err *err) {
    int n = mk_ask_choices(&t->ask) / t->ask.n;
    mk_status st = MK_OK;
    for (int i = 0; i < n && st == MK_OK; i++) {
        st = make_prompt(t, i, &b->prompt[i], err);
        st = st == MK_OK ? limit_window(t, b->prompt[i].ids.n, err) : st;
        st = of_prompt(&t->ask, i, st, err);
    }
    return st;
}

// A prompt that cannot be answered is refused before any of the others is.
static mk_status check_prompts(turn *t, const beginning *b, mk_err *err) {
    mk_status st = MK_OK;
    for (int i = 0; i < mk_ask_choices(&t->ask) && st == MK_OK; i += t->ask.n) {
        mk_speech_opts o = speech_of(t, b, i);
        st = of_prompt(&t->ask, i / t->ask.n, mk_speech_check(t->model->provider, &o, err), err);
    }
    return st;
}

// What is said of each token is kept until the answer goes out.
static mk_status check_scores(const mk_ask *a, const beginning *b, mk_err *err) {
    int64_t n = 0, each = 1 + (a->n_logprob > 0 ? a->n_logprob : 0);
    for (int i = 0; i < a->n_prompt && mk_ask_scores(a); i++) {
        n += b->prompt[i].ids.n * a->n;
    }
    return n * each <= MAX_SCORES
               ? MK_OK
               : MK_FAIL(err, MK_ELIMIT,
                         "/prompt: %lld log-probabilities for each of %lld tokens are asked for, "
                         "expected at most %d in all; ask in several requests",
                         (long long)each, (long long)n, MAX_SCORES);
}

static bool only_loads(const mk_ask *a) {
    return !a->messages && a->n_prompt == 0;
}

// Everything that can be refused is refused here, before an answer begins.
static mk_status prepare(turn *t, beginning *b, mk_err *err) {
    MK_TRY(mk_constraints_get(t->s->constraints, t->model->llm, &t->ask, &b->grammar, err));
    if (only_loads(&t->ask)) {
        b->nothing = true;
        return limit_window(t, 0, err);
    }
    MK_TRY(mk_books_recall(t->s, &t->books.c, t->model->llm, &t->ask, &t->books.tenant, err));
    MK_TRY(make_prompts(t, b, err));
    MK_TRY(check_prompts(t, b, err));
    return check_scores(&t->ask, b, err);
}

static void token_text(void *arg, int32_t id, mk_buf *out) {
    size_t n = 0;
    const char *p = mk_tokenizer_piece(mk_llm_tokenizer(arg), id, &n);
    mk_buf_add(out, p ? p : "", p ? n : 0);
}

static mk_status open_writer(turn *t, mk_err *err) {
    MK_TRY(mk_secret_text(t->id, MK_TURN_ID_CHARS, err));
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
    mk_err err = {0};
    t->with = mk_zalloc(sizeof *t->with);
    pthread_mutex_lock(&t->lock);
    t->waits = false;
    pthread_mutex_unlock(&t->lock);
    t->leased = true;
    uint64_t refused = mk_alloc_refused_thread();
    mk_status st = in_memory(prepare(t, t->with, &err), refused, &err);
    if (st != MK_OK) {
        // a bound that the request itself went over: trying again later does not help
        mk_service_turn_fail(t, &err, st == MK_ELIMIT ? 400 : mk_error_http_status(st));
    } else if (t->with->nothing) {
        answer_nothing(t);
    } else {
        begin_first(t);
    }
}

// There will be no model for this turn.
static void go_without(turn *t, const mk_err *why) {
    mk_err err = *why;
    pthread_mutex_lock(&t->lock);
    t->waits = false;
    pthread_mutex_unlock(&t->lock);
    mk_service_turn_fail(t, &err, mk_service_lease_status(&err));
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

static void start_turn(turn *t) {
    bool unloads = only_loads(&t->ask) && t->ask.has_keep_alive && t->ask.keep_alive_s == 0;
    mk_books_expect(&t->books, &t->ask);
    t->n_left = 1;
    t->waits = !unloads;
    mk_service_turn_list(t);
    if (unloads) {
        mk_loader_dismiss(t->s->loader, t->model->slot);
        answer_nothing(t);
    } else {
        get_model(t);
    }
}

void mk_service_answer(mk_service *s, mk_http_exchange *x, const route *r, const caller *c) {
    turn *t = mk_service_turn_create(s, x, r);
    t->lease = (mk_lease){.ready = on_model, .arg = t};
    mk_err err = {0};
    int64_t retry_s = 0;
    mk_status st = mk_books_begin(&t->books, s, c, &retry_s, &err);
    uint64_t refused = mk_alloc_refused_thread();
    st = st == MK_OK ? in_memory(read_turn(t, &err), refused, &err) : st;
    if (st == MK_OK) {
        start_turn(t);
    } else if (retry_s > 0) {
        mk_service_refuse(s, x, r->dialect, retry_s, &err);
        mk_service_turn_free(t);
    } else {
        atomic_fetch_add(&s->n_errors, 1);
        // a bound that the request itself went over: trying again later does not help
        int http = st == MK_ELIMIT ? 400 : mk_error_http_status(st);
        mk_service_fail(s, x, r->dialect, http, &err);
        mk_service_turn_free(t);
    }
}
