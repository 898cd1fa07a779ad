// One answer: prompt in, events out.
//
// A token's way: sampler -> detokenizer (whole characters) -> parser (reasoning) -> stop texts ->
// events.  Each stage holds back what is not yet certain and gives the same output however the text
// was cut.
#include <string.h>

#include "base/alloc.h"
#include "base/log.h"
#include "chat/llm_int.h"
#include "chat/stops.h"

#define TEXT_MAX_BYTES ((size_t)1 << 30)
#define MAX_LOGPROB    20

typedef struct {
    mk_llm *llm;
    const mk_request *r;
    mk_event_fn fn;
    void *arg;
    mk_answer *answer;
    mk_sampler *sampler;
    mk_detok *detok;
    mk_parser *parser;
    mk_stops stops;
    mk_buf text, thought;  // whole answer and reasoning
    mk_buf piece;          // scratch: what came out of the stop matcher
    bool cancelled, stopped;
} generation;

const char *mk_finish_name(mk_finish f) {
    static const char *const names[] = {"stop", "length", "cancelled"};
    return names[f];
}

void mk_answer_free(mk_answer *a) {
    mk_free(a->text);
    mk_free(a->reasoning);
    mk_ids_free(&a->ids);
    *a = (mk_answer){0};
}

static void send(generation *g, const mk_event *ev) {
    if (g->fn && !g->cancelled && !g->fn(g->arg, ev)) {
        g->cancelled = true;
    }
}

static void send_text(generation *g, mk_event_kind kind, const char *p, size_t n) {
    if (n == 0) {
        return;
    }
    mk_buf_add(kind == MK_EVENT_TEXT ? &g->text : &g->thought, p, n);
    send(g, &(mk_event){.kind = kind, .text = p, .n = n});
}

// From the parser.  No tools are given to it: calls are text here.
static void take_part(void *arg, const mk_answer_event *ev) {
    generation *g = arg;
    if (ev->kind == MK_AE_REASONING) {
        send_text(g, MK_EVENT_REASONING, ev->text, ev->n);
        return;
    }
    mk_buf_clear(&g->piece);
    g->stopped = mk_stops_push(&g->stops, ev->text, ev->n, &g->piece) || g->stopped;
    send_text(g, MK_EVENT_TEXT, g->piece.data, g->piece.len);
}

// --- stages --------------------------------------------------------------------------------------

static mk_status check_request(const mk_request *r, mk_err *err) {
    if (r->n_logprob > MAX_LOGPROB) {
        return MK_FAIL(err, MK_EUSAGE,
                       "%d log-probabilities per token asked for, at most %d are given",
                       r->n_logprob, MAX_LOGPROB);
    }
    for (int i = 0; i < r->n_stop; i++) {
        if (r->stop[i][0] == 0) {
            return MK_FAIL(err, MK_EUSAGE, "stop text %d is empty", i);
        }
    }
    return MK_OK;
}

static mk_status set_up(generation *g, const mk_prompt *p, mk_err *err) {
    const mk_llm *llm = g->llm;
    if (p->ids.n == 0) {
        return MK_FAIL(err, MK_EUSAGE,
                       "the prompt is empty; the model needs at least one token to continue from");
    }
    mk_parse_opts po = p->parse;
    po.tools = NULL;
    MK_TRY(mk_parser_create(&po, take_part, g, &g->parser, err));
    g->detok = mk_detok_create(llm->tokenizer, true);
    return mk_sampler_create(&g->r->sample, llm->model->hp.n_vocab,
                             mk_session_n_ctx(llm->session) + 1, &g->sampler, err);
}

static mk_status read_prompt(generation *g, const mk_prompt *p, mk_err *err) {
    uint64_t t0 = mk_now_ns();
    g->answer->n_prompt = p->ids.n;
    MK_TRY(mk_session_sync(g->llm->session, p->ids.data, p->ids.n, &g->answer->n_cached, err));
    g->answer->prompt_ms = (double)(mk_now_ns() - t0) / 1e6;
    for (int64_t i = 0; i < p->ids.n; i++) {
        mk_sampler_accept(g->sampler, p->ids.data[i], false);
    }
    send(g, &(mk_event){
                .kind = MK_EVENT_PROMPT, .n_prompt = p->ids.n, .n_cached = g->answer->n_cached});
    return MK_OK;
}

static bool ends_answer(const generation *g, int32_t id) {
    for (int i = 0; i < g->r->n_stop_ids; i++) {
        if (g->r->stop_ids[i] == id) {
            return true;
        }
    }
    return !g->r->ignore_eos && mk_tokenizer_is_eog(g->llm->tokenizer, id);
}

static void send_token(generation *g, int32_t id, const float *logits) {
    mk_logprob top[MAX_LOGPROB];
    mk_event ev = {.kind = MK_EVENT_TOKEN, .id = id, .top = top};
    if (g->r->n_logprob >= 0) {
        int64_t n_vocab = g->llm->model->hp.n_vocab;
        ev.logprob = mk_logprob_of(logits, n_vocab, id);
        ev.n_top = g->r->n_logprob > 0 ? mk_logprob_top(logits, n_vocab, g->r->n_logprob, top) : 0;
    }
    send(g, &ev);
}

// Takes one chosen token into the answer.
static mk_status take_token(generation *g, int32_t id, const float *logits, mk_err *err) {
    mk_answer *a = g->answer;
    MK_TRY(mk_ids_push(&a->ids, id, err));
    a->n_generated++;
    a->n_reasoning_tokens += mk_parser_place(g->parser) == MK_PLACE_REASONING;
    mk_sampler_accept(g->sampler, id, true);
    send_token(g, id, logits);
    return mk_parse_token(g->parser, g->detok, g->llm->tokenizer, id, err);
}

static mk_status generate(generation *g, mk_err *err) {
    mk_session *s = g->llm->session;
    int64_t most = g->r->n_predict < 0 ? INT64_MAX : g->r->n_predict;
    g->answer->finish = MK_FINISH_LENGTH;
    while (!g->cancelled && g->answer->n_generated < most &&
           mk_session_length(s) < mk_session_n_ctx(s)) {
        const float *logits = mk_session_logits(s);
        int32_t id = mk_sampler_choose(g->sampler, logits, mk_session_length(s));
        if (ends_answer(g, id)) {
            g->answer->finish = MK_FINISH_STOP;
            break;
        }
        MK_TRY(take_token(g, id, logits, err));
        if (g->stopped) {
            g->answer->finish = MK_FINISH_STOP;
            break;
        }
        if (g->answer->n_generated < most && !g->cancelled) {
            MK_TRY(mk_session_push(s, id, err));
        }
    }
    g->answer->finish = g->cancelled ? MK_FINISH_CANCELLED : g->answer->finish;
    return MK_OK;
}

// Lets go of everything the stages held back.
static mk_status flush(generation *g, mk_err *err) {
    const char *p = NULL;
    size_t n = 0;
    mk_detok_finish(g->detok, &p, &n);
    MK_TRY(mk_parser_push(g->parser, p, n, err));
    MK_TRY(mk_parser_finish(g->parser, err));
    mk_buf_clear(&g->piece);
    mk_stops_finish(&g->stops, &g->piece);
    send_text(g, MK_EVENT_TEXT, g->piece.data, g->piece.len);
    return MK_OK;
}

static mk_status run(generation *g, mk_err *err) {
    mk_prompt p = {0};
    mk_status st = check_request(g->r, err);
    st = st == MK_OK ? mk_llm_make_prompt(g->llm, g->r, &p, err) : st;
    st = st == MK_OK ? set_up(g, &p, err) : st;
    st = st == MK_OK ? read_prompt(g, &p, err) : st;
    mk_ids_free(&p.ids);
    MK_TRY(st);
    uint64_t t0 = mk_now_ns();
    st = generate(g, err);
    g->answer->generation_ms = (double)(mk_now_ns() - t0) / 1e6;
    MK_TRY(st);
    return flush(g, err);
}

static mk_status hand_over(generation *g, mk_err *err) {
    g->answer->n_text = g->text.len;
    g->answer->n_reasoning = g->thought.len;
    bool failed = g->text.failed || g->thought.failed || g->stops.held.failed || g->piece.failed;
    g->answer->text = mk_buf_detach(&g->text);
    g->answer->reasoning = mk_buf_detach(&g->thought);
    g->answer->text = g->answer->text ? g->answer->text : mk_strdup("");
    g->answer->reasoning = g->answer->reasoning ? g->answer->reasoning : mk_strdup("");
    return failed ? MK_FAIL(err, MK_ENOMEM, "no memory for the text of the answer") : MK_OK;
}

mk_status mk_llm_generate(mk_llm *llm, const mk_request *r, mk_event_fn fn, void *arg,
                          mk_answer *answer, mk_err *err) {
    MK_ASSERT(llm->session);
    *answer = (mk_answer){0};
    generation g = {.llm = llm, .r = r, .fn = fn, .arg = arg, .answer = answer};
    mk_buf_init(&g.text, TEXT_MAX_BYTES);
    mk_buf_init(&g.thought, TEXT_MAX_BYTES);
    mk_buf_init(&g.piece, TEXT_MAX_BYTES);
    mk_stops_init(&g.stops, r->stop, r->n_stop);
    mk_status st = run(&g, err);
    mk_status handed = hand_over(&g, st == MK_OK ? err : NULL);
    mk_sampler_destroy(g.sampler);
    mk_detok_destroy(g.detok);
    mk_parser_destroy(g.parser);
    mk_stops_free(&g.stops);
    mk_buf_free(&g.piece);
    return st == MK_OK ? handed : st;
}
