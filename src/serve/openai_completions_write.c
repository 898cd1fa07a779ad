// Answers of text completions, whole and as streams.
//
// With echo the prompt stands in front of the answer.  With log-probabilities too, its tokens come
// first (MK_AE_PROMPT): of a stream with the pieces of its text that they stand for, as they are
// computed, so that a long prompt is not one piece.  text_offset counts characters of the choice's
// text from the prompt's first.
#include <string.h>

#include "base/alloc.h"
#include "base/utf8.h"
#include "serve/openai_completions.h"
#include "serve/wire.h"

enum { ECHO_TOKENS = 32 };  // so many of a prompt go out together

enum { TOKENS, VALUES, TOPS, OFFSETS, N_LISTS };

// Four lists of one entry per token, each entry followed by a comma.
typedef struct {
    mk_buf list[N_LISTS];
} token_lists;

typedef struct {
    bool scored;       // a token of the prompt came
    bool started;      // the prompt has been given back, if it shall be
    mk_buf of_ids;     // the text of a prompt of ids that is given back
    size_t at, given;  // in the prompt's text: where the next token begins, what was given back
    int n_prompt;      // tokens of the prompt that came since something was given back
    int64_t n_char;    // offset of the next token
    token_lists wait;  // tokens whose text has not come
    token_lists kept;  // of a whole body; of a stream those of its last chunk
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

mk_writer_state *mk_openai_completions_open(const mk_reply_info *info) {
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
        mk_buf_init(&c->of_ids, SIZE_MAX - 1);
        mk_buf_init(&c->ids, SIZE_MAX - 1);
        mk_buf_init(&c->text, SIZE_MAX - 1);
    }
    return w;
}

void mk_openai_completions_close(mk_writer_state *w) {
    for (int i = 0; w && i < mk_ask_choices(w->frame.info.ask); i++) {
        text_choice *c = &w->choice[i];
        lists_free(&c->wait);
        lists_free(&c->kept);
        mk_buf_free(&c->of_ids);
        mk_buf_free(&c->ids);
        mk_buf_free(&c->text);
        mk_free(c->stop_text);
    }
    if (w) {
        mk_free(w->choice);
    }
    mk_free(w);
}

static int64_t count_chars(const char *p, size_t n) {
    int64_t n_char = 0;
    for (size_t i = 0; i < n; i++) {
        n_char += ((unsigned char)p[i] & 0xC0) != 0x80;
    }
    return n_char;
}

// A token as a string; one that is half a character as OpenAI writes it: "bytes:\xe2\x80".
static int64_t add_token(mk_buf *b, const mk_reply_info *info, int32_t id) {
    mk_buf text;
    mk_buf_init(&text, 1 << 16);
    mk_openai_token_text(info, id, &text);
    const char *p = text.data ? text.data : "";
    int64_t n_char = count_chars(p, text.len);
    bool valid = mk_utf8_valid(p, text.len);
    if (!valid) {
        mk_buf_puts(b, "\"bytes:");
    }
    for (size_t i = 0; i < text.len && !valid; i++) {
        mk_buf_printf(b, "\\\\x%02x", (unsigned char)p[i]);
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

// {"text": logprob ...}, the best first.  Of tokens that are the same text only the best one: a
// reader keeps the last of two equal names.
static void add_top(mk_buf *b, const mk_reply_info *info, const mk_answer_event *ev) {
    struct {
        size_t at, n;
    } name[MK_OPENAI_MAX_TOP];
    int n_name = 0;
    mk_buf_putc(b, '{');
    for (int i = 0; i < ev->n_top && !b->failed; i++) {
        size_t comma = b->len, at = comma + (n_name > 0);
        mk_buf_puts(b, n_name > 0 ? "," : "");
        (void)add_token(b, info, ev->top[i].id);
        size_t n = b->len - at;
        bool again = b->failed;
        for (int k = 0; k < n_name && !again; k++) {
            again = n == name[k].n && memcmp(b->data + at, b->data + name[k].at, n) == 0;
        }
        if (again) {
            b->len = comma;
            continue;
        }
        name[n_name].at = at;
        name[n_name++].n = n;
        mk_buf_putc(b, ':');
        mk_wire_number(b, mk_openai_logprob((double)ev->top[i].logprob));
    }
    mk_buf_putc(b, '}');
}

// One entry of each list; the first token of a prompt has no number.  Returns its characters.
static int64_t add_entry(const mk_writer_state *w, text_choice *c, const mk_answer_event *ev,
                         bool first) {
    mk_buf *l = c->wait.list;
    mk_buf_printf(&l[OFFSETS], "%lld,", (long long)c->n_char);
    int64_t n_char = add_token(&l[TOKENS], &w->frame.info, ev->id);
    mk_buf_putc(&l[TOKENS], ',');
    if (first) {
        mk_buf_puts(&l[VALUES], "null,");
        mk_buf_puts(&l[TOPS], "null,");
        return n_char;
    }
    mk_wire_number(&l[VALUES], mk_openai_logprob((double)ev->logprob));
    mk_buf_putc(&l[VALUES], ',');
    add_top(&l[TOPS], &w->frame.info, ev);
    mk_buf_putc(&l[TOPS], ',');
    return n_char;
}

static void token(const mk_writer_state *w, text_choice *c, const mk_answer_event *ev) {
    if (w->frame.info.ask->want_token_ids) {
        mk_buf_printf(&c->ids, "%d,", (int)ev->id);
    }
    if (w->frame.info.ask->n_logprob >= 0) {
        c->n_char += add_entry(w, c, ev, false);
    }
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
    mk_wire_sse_begin(out, NULL);
    mk_openai_add_head(&w->frame, out);
    add_choice(index, c, text, done ? &c->kept : &c->wait, done, out);
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

// --- the prompt ----------------------------------------------------------------------------------

// The text that is given back: as it came, or that of the ids one behind the other.
static const char *prompt_text(const mk_writer_state *w, int index, size_t *n) {
    const mk_ask *a = w->frame.info.ask;
    const mk_ask_prompt *p = &a->prompt[index / a->n];
    mk_buf *made = &w->choice[index].of_ids;
    if (p->text) {
        *n = strlen(p->text);
        return p->text;
    }
    bool make = made->cap == 0;
    for (int64_t i = 0; i < p->n_ids && make && !made->failed; i++) {
        mk_openai_token_text(&w->frame.info, p->ids[i], made);
    }
    *n = made->len;
    return made->data ? made->data : "";
}

// Gives back the prompt's text from where it was left, up to `to`.
static void give_prompt(const mk_writer_state *w, int index, const char *text, size_t to,
                        mk_buf *out) {
    text_choice *c = &w->choice[index];
    give_text(w, index, text + c->given, to - c->given, out);
    c->given = to;
    c->n_prompt = 0;
}

// Bytes of text[0..n) that a token stands for.  The text of one that the tokenizer put in front of
// the prompt is not there, nor the space that SentencePiece puts there.
static size_t token_in_text(const mk_writer_state *w, int32_t id, const char *text, size_t n,
                            mk_buf *out) {
    mk_buf piece;
    mk_buf_init(&piece, 1 << 16);
    mk_openai_token_text(&w->frame.info, id, &piece);
    const char *p = piece.data ? piece.data : "";
    size_t n_piece = piece.len, found = 0;
    for (int skip = 0; skip < 2 && found == 0 && n_piece > 0; skip++, p++, n_piece--) {
        bool may = n_piece <= n && (skip == 0 || p[-1] == ' ');
        found = may && memcmp(text, p, n_piece) == 0 ? n_piece : 0;
    }
    out->failed = out->failed || piece.failed;
    mk_buf_free(&piece);
    return found;
}

static void prompt_token(mk_writer_state *w, int index, const mk_answer_event *ev, mk_buf *out) {
    text_choice *c = &w->choice[index];
    if (!mk_ask_scores(w->frame.info.ask) || c->started) {
        return;
    }
    size_t n = 0;
    const char *text = prompt_text(w, index, &n);
    (void)add_entry(w, c, ev, !c->scored);
    c->scored = true;
    size_t here = token_in_text(w, ev->id, text + c->at, n - c->at, out);
    c->n_char += count_chars(text + c->at, here);
    c->at += here;
    if (w->frame.info.ask->stream && ++c->n_prompt >= ECHO_TOKENS &&
        mk_utf8_incomplete_tail(text, c->at) == 0) {
        give_prompt(w, index, text, c->at, out);
    }
}

// What is left of the prompt, before the answer.
static void end_prompt(mk_writer_state *w, int index, mk_buf *out) {
    text_choice *c = &w->choice[index];
    size_t n = 0;
    const char *text = prompt_text(w, index, &n);
    give_prompt(w, index, text, n, out);
    c->n_char = count_chars(text, n);
    out->failed = out->failed || c->of_ids.failed;
    mk_buf_free(&c->of_ids);
}

// --- events --------------------------------------------------------------------------------------

static void done(mk_writer_state *w, int index, const mk_answer_event *ev, mk_buf *out) {
    static const mk_buf no_text = {0};
    text_choice *c = &w->choice[index];
    c->stop = ev->stop;
    c->stop_text = ev->stop == MK_STOP_TEXT && ev->stop_text ? mk_strdup(ev->stop_text) : NULL;
    mk_tally_add(&w->frame.total, w->frame.info.ask, index, &ev->usage);
    if (mk_ask_scores(w->frame.info.ask)) {
        lists_move(&c->kept, &c->wait);  // every token, also those that ended the answer
    }
    if (w->frame.info.ask->stream) {
        stream_chunk(w, index, &no_text, true, out);
    }
}

// What was lost while an answer was collected makes all of it fail.
static bool lost(const text_choice *c) {
    bool any = c->ids.failed || c->text.failed || c->of_ids.failed;
    for (int i = 0; i < N_LISTS; i++) {
        any = any || c->wait.list[i].failed || c->kept.list[i].failed;
    }
    return any;
}

void mk_openai_completions_event(mk_writer_state *w, int choice, const mk_answer_event *ev,
                                 mk_buf *out) {
    text_choice *c = &w->choice[choice];
    if (w->frame.failed) {
        return;
    }
    if (!c->started && ev->kind != MK_AE_ERROR && ev->kind != MK_AE_PROMPT) {
        c->started = true;
        if (w->frame.info.ask->echo) {
            end_prompt(w, choice, out);
        }
    }
    switch (ev->kind) {
    case MK_AE_PROMPT:
        prompt_token(w, choice, ev, out);
        break;
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

void mk_openai_completions_finish(mk_writer_state *w, mk_buf *out) {
    mk_openai_finish(&w->frame, w, out);
}

void mk_openai_completions_heartbeat(mk_writer_state *w, mk_buf *out) {
    mk_openai_frame_heartbeat(&w->frame, out);
}
