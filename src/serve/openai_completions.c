// Text completions: a prompt that is not templated, and what comes after it.
#include <string.h>

#include "base/alloc.h"
#include "base/utf8.h"
#include "serve/openai_int.h"
#include "serve/wire.h"

enum { MAX_PROMPT_IDS = 1 << 24, DEFAULT_TOKENS = 16 };  // OpenAI's own default

// --- requests ------------------------------------------------------------------------------------

static mk_status read_ids(const mk_at *at, const json_t *v, mk_ask_prompt *p, mk_err *err) {
    size_t n = json_array_size(v);
    if (n > MAX_PROMPT_IDS) {
        return mk_at_fail(at, err, MK_EUSAGE, "expected at most %d token ids, got %zu",
                          MAX_PROMPT_IDS, n);
    }
    p->ids = mk_try_alloc(n, sizeof *p->ids);
    if (!p->ids) {
        return mk_at_fail(at, err, MK_ENOMEM, "no memory for %zu token ids", n);
    }
    for (size_t i = 0; i < n; i++) {
        int64_t id;
        MK_TRY(mk_at_int(MK_NTH(at, i), json_array_get(v, i), 0, INT32_MAX, &id, err));
        p->ids[i] = (int32_t)id;
        p->n_ids = (int64_t)i + 1;
    }
    return MK_OK;
}

static mk_status read_one(const mk_at *at, const json_t *v, mk_ask *a, mk_err *err) {
    mk_ask_prompt *p = &a->prompt[a->n_prompt++];
    const char *s;
    if (json_array_size(v) > 0) {
        return read_ids(at, v, p, err);
    }
    if (!json_is_string(v)) {
        return mk_at_expected(at, err, v, "a string or an array of token ids");
    }
    MK_TRY(mk_at_text(at, v, &s, err));
    p->text = mk_strdup(s);
    return MK_OK;
}

// One prompt, or an array of them.
static mk_status read_prompt(const mk_at *at, const json_t *v, void *ask, mk_err *err) {
    size_t n = json_array_size(v);
    if (!json_is_array(v) || json_is_number(json_array_get(v, 0))) {
        return read_one(at, v, ask, err);
    }
    if (n < 1 || n > MK_ASK_MAX_N) {
        return mk_at_fail(at, err, MK_EUSAGE, "expected 1 to %d prompts, got %zu", MK_ASK_MAX_N, n);
    }
    for (size_t i = 0; i < n; i++) {
        MK_TRY(read_one(MK_NTH(at, i), json_array_get(v, i), ask, err));
    }
    return MK_OK;
}

static mk_status read_logprobs(const mk_at *at, const json_t *v, void *ask, mk_err *err) {
    mk_ask *a = ask;
    int64_t n = 0;
    if (json_is_false(v)) {
        return MK_OK;
    }
    if (!json_is_true(v)) {
        MK_TRY(mk_at_int(at, v, 0, 20, &n, err));
    }
    a->n_logprob = (int)n;
    return MK_OK;
}

// The best of several is not chosen here: as many as are given back, or none.
static mk_status read_best_of(const mk_at *at, const json_t *v, void *ask, mk_err *err) {
    const mk_ask *a = ask;
    int64_t n;
    MK_TRY(mk_at_int(at, v, 1, INT32_MAX, &n, err));
    return n == a->n
               ? MK_OK
               : mk_at_fail(at, err, MK_EUNSUPPORTED,
                            "is not supported: as many answers are made as n says (%d)", a->n);
}

static const mk_field rows[] = {
    {"prompt", MK_F_READ, .read = read_prompt},
    {"suffix", MK_F_TEXT, .at = offsetof(mk_ask, suffix)},
    {"echo", MK_F_BOOL, .at = offsetof(mk_ask, echo)},
    {"max_tokens", MK_F_READ, .read = mk_read_limit},
    {"max_completion_tokens", MK_F_READ, .read = mk_read_limit},
    {"n_predict", MK_F_READ, .read = mk_read_limit},
    {"n", MK_F_INT, 1, MK_ASK_MAX_N, .at = offsetof(mk_ask, n)},
    {"best_of", MK_F_READ, .read = read_best_of},
    {"logprobs", MK_F_READ, .read = read_logprobs},
    {"response_format", MK_F_READ, .read = mk_read_format},
};

static mk_status completions_parse(const json_t *body, mk_ask *a, mk_err *err) {
    MK_TRY(
        mk_fields_read(body, NULL, &MK_FIELDS_AND(rows, &mk_openai_fields), a, &a->unknown, err));
    if (a->n_prompt == 0) {
        return mk_at_fail(MK_AT(NULL, "prompt"), err, MK_EUSAGE,
                          "expected a string or an array of token ids, got nothing");
    }
    if (mk_ask_choices(a) > MK_ASK_MAX_N) {
        return mk_at_fail(MK_AT(NULL, "n"), err, MK_EUSAGE,
                          "expected at most %d answers in all, got %d to each of %d prompts",
                          MK_ASK_MAX_N, a->n, a->n_prompt);
    }
    if (a->suffix && a->suffix[0] == '\0') {
        mk_free(a->suffix);
        a->suffix = NULL;
    }
    bool ids = false;
    for (int i = 0; i < a->n_prompt; i++) {
        ids = ids || a->prompt[i].ids;
    }
    if (a->suffix && ids) {
        return mk_at_fail(MK_AT(NULL, "suffix"), err, MK_EUNSUPPORTED,
                          "is not supported with a prompt of token ids");
    }
    if (a->echo && a->n_logprob >= 0) {
        return mk_at_fail(MK_AT(NULL, "echo"), err, MK_EUNSUPPORTED,
                          "is not supported with logprobs: only answers have log-probabilities");
    }
    bool says = json_object_get(body, "max_tokens") || json_object_get(body, "n_predict") ||
                json_object_get(body, "max_completion_tokens");
    if (!says) {
        a->n_predict = DEFAULT_TOKENS;
    }
    return MK_OK;
}

// --- answers -------------------------------------------------------------------------------------

enum { TOKENS, VALUES, TOPS, OFFSETS, N_LISTS };

// Four lists of one entry per token, each entry followed by a comma.
typedef struct {
    mk_buf list[N_LISTS];
} token_lists;

typedef struct {
    bool started;
    int64_t n_char;    // offset of the next token
    token_lists wait;  // tokens whose text has not come
    token_lists kept;  // of a whole body
    mk_buf ids, text;  // token ids with commas; escaped text of a whole body
    mk_stop_reason stop;
    char *stop_text;
} text_choice;

struct mk_writer_state {
    mk_openai_frame frame;
    text_choice *choice;  // [mk_ask_choices(info.ask)]
};

static void lists_init(token_lists *l) {
    for (int i = 0; i < N_LISTS; i++) {
        mk_buf_init(&l->list[i], SIZE_MAX - 1);
    }
}

static void lists_free(token_lists *l) {
    for (int i = 0; i < N_LISTS; i++) {
        mk_buf_free(&l->list[i]);
    }
}

static void lists_move(token_lists *to, token_lists *from) {
    for (int i = 0; i < N_LISTS; i++) {
        mk_buf_add(&to->list[i], from->list[i].data ? from->list[i].data : "", from->list[i].len);
        to->list[i].failed = to->list[i].failed || from->list[i].failed;
        mk_buf_clear(&from->list[i]);
    }
}

static void body_choice(mk_writer_state *w, int i, mk_buf *out);

static mk_writer_state *text_open(const mk_reply_info *info) {
    mk_writer_state *w = mk_zalloc(sizeof *w);
    w->frame = (mk_openai_frame){.info = *info,
                                 .id_prefix = "cmpl-",
                                 .object = "text_completion",
                                 .chunk_object = "text_completion",
                                 .add_choice = body_choice};
    int n = mk_ask_choices(info->ask);
    w->choice = mk_zalloc((size_t)n * sizeof *w->choice);
    for (int i = 0; i < n; i++) {
        text_choice *c = &w->choice[i];
        lists_init(&c->wait);
        lists_init(&c->kept);
        mk_buf_init(&c->ids, SIZE_MAX - 1);
        mk_buf_init(&c->text, SIZE_MAX - 1);
    }
    return w;
}

static void text_close(mk_writer_state *w) {
    for (int i = 0; w && i < mk_ask_choices(w->frame.info.ask); i++) {
        text_choice *c = &w->choice[i];
        lists_free(&c->wait);
        lists_free(&c->kept);
        mk_buf_free(&c->ids);
        mk_buf_free(&c->text);
        mk_free(c->stop_text);
    }
    if (w) {
        mk_free(w->choice);
    }
    mk_free(w);
}

// A token as a string; one that is half a character as OpenAI writes it: "bytes:\xe2\x80".
static int64_t add_token(mk_buf *b, const mk_reply_info *info, int32_t id) {
    mk_buf text;
    mk_buf_init(&text, 1 << 16);
    mk_openai_token_text(info, id, &text);
    const char *p = text.data ? text.data : "";
    int64_t n_char = 0;
    bool valid = mk_utf8_valid(p, text.len);
    if (!valid) {
        mk_buf_puts(b, "\"bytes:");
    }
    for (size_t i = 0; i < text.len; i++) {
        unsigned char c = (unsigned char)p[i];
        n_char += (c & 0xC0) != 0x80;
        if (!valid) {
            mk_buf_printf(b, "\\\\x%02x", c);
        }
    }
    if (valid) {
        mk_wire_string(b, p, text.len);
    } else {
        mk_buf_putc(b, '"');
    }
    b->failed = b->failed || text.failed;
    mk_buf_free(&text);
    return n_char;
}

static void token(const mk_writer_state *w, text_choice *c, const mk_answer_event *ev) {
    if (w->frame.info.ask->want_token_ids) {
        mk_buf_printf(&c->ids, "%d,", (int)ev->id);
    }
    if (w->frame.info.ask->n_logprob < 0) {
        return;
    }
    mk_buf *l = c->wait.list;
    mk_buf_printf(&l[OFFSETS], "%lld,", (long long)c->n_char);
    c->n_char += add_token(&l[TOKENS], &w->frame.info, ev->id);
    mk_buf_putc(&l[TOKENS], ',');
    mk_wire_number(&l[VALUES], mk_openai_logprob((double)ev->logprob));
    mk_buf_putc(&l[VALUES], ',');
    mk_buf_putc(&l[TOPS], '{');
    for (int i = 0; i < ev->n_top; i++) {
        mk_buf_puts(&l[TOPS], i ? "," : "");
        (void)add_token(&l[TOPS], &w->frame.info, ev->top[i].id);
        mk_buf_putc(&l[TOPS], ':');
        mk_wire_number(&l[TOPS], mk_openai_logprob((double)ev->top[i].logprob));
    }
    mk_buf_puts(&l[TOPS], "},");
}

static void add_logprobs(mk_buf *out, token_lists *l) {
    static const char *const names[N_LISTS] = {"tokens", "token_logprobs", "top_logprobs",
                                               "text_offset"};
    if (l->list[TOKENS].len == 0) {
        mk_buf_puts(out, "null");
        return;
    }
    for (int i = 0; i < N_LISTS; i++) {
        mk_buf_printf(out, "%c\"%s\":[", i ? ',' : '{', names[i]);
        mk_buf_add(out, l->list[i].data, l->list[i].len - 1);
        mk_buf_putc(out, ']');
        out->failed = out->failed || l->list[i].failed;
        mk_buf_clear(&l->list[i]);
    }
    mk_buf_putc(out, '}');
}

// One choice; text is escaped.  done: with the reason of the end.
static void add_choice(int index, text_choice *c, const mk_buf *text, token_lists *logprobs,
                       bool done, mk_buf *out) {
    mk_buf_printf(out, "{\"index\":%d,\"text\":\"", index);
    mk_buf_add(out, text->data ? text->data : "", text->len);
    mk_buf_puts(out, "\",\"logprobs\":");
    add_logprobs(out, logprobs);
    if (c->ids.len) {
        mk_buf_puts(out, ",\"token_ids\":[");
        mk_buf_add(out, c->ids.data, c->ids.len - 1);
        mk_buf_putc(out, ']');
        mk_buf_clear(&c->ids);
    }
    const char *reason = c->stop == MK_STOP_LENGTH
                             ? "length"
                             : (c->stop == MK_STOP_CANCELLED ? "cancelled" : "stop");
    mk_buf_puts(out, ",\"finish_reason\":");
    mk_wire_text(out, done ? reason : NULL);
    if (done && c->stop_text) {
        mk_buf_puts(out, ",\"stop_reason\":");
        mk_wire_text(out, c->stop_text);
    }
    mk_buf_putc(out, '}');
    out->failed = out->failed || text->failed;
}

static void body_choice(mk_writer_state *w, int i, mk_buf *out) {
    text_choice *c = &w->choice[i];
    add_choice(i, c, &c->text, &c->kept, true, out);
}

static void stream_chunk(const mk_writer_state *w, int index, const mk_buf *text, bool done,
                         mk_buf *out) {
    text_choice *c = &w->choice[index];
    token_lists none;
    lists_init(&none);
    mk_wire_sse_begin(out, NULL);
    mk_openai_add_head(&w->frame, out);
    add_choice(index, c, text, done ? &none : &c->wait, done, out);
    mk_buf_puts(out, w->frame.info.ask->include_usage ? "],\"usage\":null}" : "]}");
    mk_wire_sse_end(out);
}

static void give_text(const mk_writer_state *w, int index, const char *p, size_t n, mk_buf *out) {
    text_choice *c = &w->choice[index];
    if (!w->frame.info.ask->stream) {
        mk_wire_escaped(&c->text, p, n);
        lists_move(&c->kept, &c->wait);
        return;
    }
    mk_buf text;
    mk_buf_init(&text, SIZE_MAX - 1);
    mk_wire_escaped(&text, p, n);
    stream_chunk(w, index, &text, false, out);
    mk_buf_free(&text);
}

static void echo(const mk_writer_state *w, int index, mk_buf *out) {
    const mk_ask *a = w->frame.info.ask;
    const mk_ask_prompt *p = &a->prompt[index / a->n];
    if (p->text) {
        give_text(w, index, p->text, strlen(p->text), out);
        return;
    }
    mk_buf text;
    mk_buf_init(&text, SIZE_MAX - 1);
    for (int64_t i = 0; i < p->n_ids; i++) {
        mk_openai_token_text(&w->frame.info, p->ids[i], &text);
    }
    give_text(w, index, text.data ? text.data : "", text.len, out);
    out->failed = out->failed || text.failed;
    mk_buf_free(&text);
}

static void done(mk_writer_state *w, int index, const mk_answer_event *ev, mk_buf *out) {
    static const mk_buf no_text = {0};
    text_choice *c = &w->choice[index];
    c->stop = ev->stop;
    c->stop_text = ev->stop == MK_STOP_TEXT && ev->stop_text ? mk_strdup(ev->stop_text) : NULL;
    mk_tally_add(&w->frame.total, w->frame.info.ask, index, &ev->usage);
    if (w->frame.info.ask->stream) {
        stream_chunk(w, index, &no_text, true, out);
    }
}

// What was lost while an answer was collected makes all of it fail.
static bool lost(const text_choice *c) {
    bool any = c->ids.failed || c->text.failed;
    for (int i = 0; i < N_LISTS; i++) {
        any = any || c->wait.list[i].failed || c->kept.list[i].failed;
    }
    return any;
}

static void text_event(mk_writer_state *w, int choice, const mk_answer_event *ev, mk_buf *out) {
    text_choice *c = &w->choice[choice];
    if (w->frame.failed) {
        return;
    }
    if (!c->started && ev->kind != MK_AE_ERROR) {
        c->started = true;
        if (w->frame.info.ask->echo) {
            echo(w, choice, out);
        }
    }
    switch (ev->kind) {
    case MK_AE_TEXT:
    case MK_AE_REASONING:  // a raw prompt has no reasoning of its own: all of it is text
        if (ev->n > 0) {
            give_text(w, choice, ev->text, ev->n, out);
        }
        break;
    case MK_AE_TOKEN:
        token(w, c, ev);
        break;
    case MK_AE_DONE:
        done(w, choice, ev, out);
        break;
    case MK_AE_ERROR:
        mk_openai_fail(&w->frame, ev->error, out);
        break;
    default:
        break;
    }
    out->failed = out->failed || lost(c);
}

static void text_finish(mk_writer_state *w, mk_buf *out) {
    mk_openai_finish(&w->frame, w, out);
}

static void text_heartbeat(mk_writer_state *w, mk_buf *out) {
    mk_openai_frame_heartbeat(&w->frame, out);
}

const mk_dialect mk_dialect_openai_completions = {
    .name = "openai-completions",
    .content_type = "text/event-stream",
    .parse = completions_parse,
    .open = text_open,
    .event = text_event,
    .finish = text_finish,
    .heartbeat = text_heartbeat,
    .close = text_close,
    .error = mk_openai_error,
};
