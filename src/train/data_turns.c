// A conversation -> samples whose targets are what the model has to generate.
//
// A turn is one assistant message: `text` up to its end, of which [0, start) is the prompt that the
// template makes of the messages before it, and [start, ...) is what is generated behind it.
//
// Invariants:
//  1. The ids of a turn are those of its prompt, encoded as chat does it, then those of the rest,
//     encoded apart: no token reaches across the place where generating starts.
//  2. Targets go from `start` to the first token that ends an answer, inclusive.  Where the template
//     writes none, to the end of the turn, and the last turn gets the end-of-sequence token.
//  3. Turns share a sample only if the text of the earlier one, up to its end, is how the text of
//     the later one begins.  So every target is predicted from exactly what chat would show.
#include <string.h>

#include "base/alloc.h"
#include "chat/encode.h"
#include "train/data_turns.h"

// --- rendering -----------------------------------------------------------------------------------

// The first n messages, and one in place of the last of them if `last` is given.
static json_t *first_messages(const json_t *messages, size_t n, json_t *last) {
    json_t *list = json_array();
    for (size_t i = 0; list && i < n; i++) {
        json_t *m = last && i + 1 == n ? last : json_array_get(messages, i);
        if (json_array_append(list, m) != 0) {
            json_decref(list);
            return NULL;
        }
    }
    return list;
}

mk_status mk_turn_render(const mk_talk *t, size_t n, json_t *last, bool prompt, mk_jinja_text *out,
                         mk_err *err) {
    *out = (mk_jinja_text){0};
    json_t *list = first_messages(t->messages, n, last);
    if (!list) {
        return MK_FAIL(err, MK_ENOMEM, "no memory for %zu messages", n);
    }
    mk_chat_render_opts o = MK_CHAT_RENDER_DEFAULTS;
    o.add_generation_prompt = prompt;
    o.enable_thinking = t->o->enable_thinking;
    o.limits.now = t->o->now;
    mk_status st = mk_chat_template_render(t->o->template, list, t->tools, &o, out, err);
    json_decref(list);
    return st;
}

static const char *bytes(const mk_jinja_text *t) {
    return t->text.data ? t->text.data : "";
}

size_t mk_turn_common(const mk_jinja_text *a, const mk_jinja_text *b) {
    size_t n = a->text.len < b->text.len ? a->text.len : b->text.len, i = 0;
    const char *p = bytes(a), *q = bytes(b);
    while (i < n && p[i] == q[i]) {
        i++;
    }
    return i;
}

// --- where a turn ends ---------------------------------------------------------------------------

static bool all_template(const mk_jinja_text *t, size_t from, size_t to) {
    size_t begin = 0;
    for (size_t i = 0; i < t->n_runs && begin < to; i++) {
        if (t->runs[i].user && t->runs[i].end > from) {
            return false;
        }
        begin = t->runs[i].end;
    }
    return true;
}

// End of the first text of the token in text[from..), or 0.
static size_t find_token(const mk_tokenizer *tok, int32_t id, const mk_jinja_text *t, size_t from) {
    size_t n = 0, at = from;
    const char *piece = mk_tokenizer_piece(tok, id, &n), *p = bytes(t);
    bool control = mk_tokenizer_type(tok, id) == MK_TOKEN_CONTROL;
    while (n > 0 && at < t->text.len) {
        const char *hit = memmem(p + at, t->text.len - at, piece, n);
        if (!hit) {
            return 0;
        }
        at = (size_t)(hit - p);
        if (!control || all_template(t, at, at + n)) {
            return at + n;
        }
        at++;
    }
    return 0;
}

static size_t find_end(const mk_talk *t, const mk_jinja_text *text, size_t from) {
    size_t end = 0;
    for (size_t i = 0; i < t->n_eog; i++) {
        size_t at = find_token(t->o->tokenizer, t->eog[i], text, from);
        end = at && (!end || at < end) ? at : end;
    }
    return end;
}

// --- one turn ------------------------------------------------------------------------------------

static void free_turns(mk_turn *turn, size_t n) {
    for (size_t i = 0; turn && i < n; i++) {
        mk_jinja_text_free(&turn[i].text);
    }
    mk_free(turn);
}

// A call that the template does not write would leave an empty answer to learn.
static mk_status check_calls(const json_t *message, const mk_turn *x, mk_err *err) {
    const json_t *call = json_array_get(json_object_get(message, "tool_calls"), 0);
    const json_t *f = json_object_get(call, "function");
    const json_t *name = json_object_get(f ? f : call, "name");
    const char *s = json_string_value(name);
    if (s && !memmem(bytes(&x->text) + x->start, x->text.text.len - x->start, s,
                     json_string_length(name))) {
        return MK_FAIL(err, MK_ETEMPLATE,
                       "tool_calls[0]: the chat template does not write this call of \"%.60s\"; "
                       "some templates want \"content\": null beside it",
                       s);
    }
    return MK_OK;
}

// Reasoning that the data gives and the template leaves out would be lost without a word.
static bool lacks_reasoning(const json_t *message, const mk_turn *x) {
    size_t n = 0;
    const char *p = mk_turn_reasoning(message, &n);
    return n > 0 && !memmem(bytes(&x->text) + x->start, x->text.text.len - x->start, p, n);
}

static mk_status make_turn(const mk_talk *t, size_t i, mk_turn *x, mk_err *err) {
    mk_jinja_text prompt = {0};
    x->message = i;
    if (i == 0) {
        return MK_FAIL(err, MK_ECORRUPT,
                       "messages[0].role: expected system or user before the first answer, got "
                       "\"assistant\"");
    }
    mk_status st = mk_turn_render(t, i, NULL, true, &prompt, err);
    st = st == MK_OK ? mk_turn_render(t, i + 1, NULL, false, &x->text, err) : st;
    if (st == MK_OK) {
        x->start = prompt.text.len;
        if (mk_turn_common(&prompt, &x->text) < prompt.text.len) {
            t->counts->n_rejoined++;
            st = mk_turn_rejoin(t, &prompt, x, err);
        }
    }
    st = st == MK_OK ? check_calls(json_array_get(t->messages, i), x, err) : st;
    st = st == MK_OK ? mk_turn_mark_thought(x, err) : st;
    if (st == MK_OK) {
        x->end = find_end(t, &x->text, x->start);
        t->counts->n_no_reasoning += lacks_reasoning(json_array_get(t->messages, i), x);
    } else {
        mk_err_prefix(err, "messages[%zu]", i);
    }
    mk_jinja_text_free(&prompt);
    return st;
}

// Invariant 3.
static bool joins(const mk_turn *a, const mk_turn *b) {
    size_t n = a->end ? a->end : a->text.text.len;
    return b->start >= n && mk_turn_common(&a->text, &b->text) >= n;
}

// --- ids -----------------------------------------------------------------------------------------

// Appends text[from, to) with one mask.
static mk_status add_part(const mk_talk *t, const mk_jinja_text *text, size_t from, size_t to,
                          uint8_t mask, mk_seq_ids *s, mk_err *err) {
    MK_TRY(mk_chat_encode(t->o->tokenizer, text, from, to, &s->ids, err));
    return mk_seq_mark(s, mask, err);
}

// From the start of a turn to `to`: targets up to the token that ends it.  Where the template
// writes none, the turn ends with its text; the token behind it is a target if it is one that ends
// answers (GLM's "<|user|>").
static mk_status add_turn(const mk_talk *t, const mk_jinja_text *text, const mk_turn *x, size_t to,
                          mk_seq_ids *s, mk_err *err) {
    size_t end = x->end ? to : x->text.text.len < to ? x->text.text.len : to;
    int64_t at = s->ids.n;
    MK_TRY(add_part(t, text, x->start, end, 1, s, err));
    while (x->end && at < s->ids.n && !mk_tokenizer_is_eog(t->o->tokenizer, s->ids.data[at])) {
        at++;
    }
    for (at++; x->end && at < s->ids.n; at++) {
        s->mask[at] = 0;
    }
    if (end == to) {
        return MK_OK;
    }
    at = s->ids.n;
    MK_TRY(add_part(t, text, end, to, 0, s, err));
    bool ended = at < s->ids.n && mk_tokenizer_is_eog(t->o->tokenizer, s->ids.data[at]);
    s->mask[at] = ended;
    t->counts->n_open_end += !ended;
    return MK_OK;
}

// The last turn ends the sample: behind its end nothing is left, and it has an end.
static mk_status close_sample(const mk_talk *t, const mk_turn *x, mk_seq_ids *s, mk_err *err) {
    if (!x->end) {
        t->counts->n_open_end++;
        MK_TRY(mk_seq_end(t->o->tokenizer, s, err));
        return mk_seq_mark(s, 1, err);
    }
    while (t->learn != MK_LEARN_ALL && s->ids.n > 0 && !s->mask[s->ids.n - 1]) {
        s->ids.n = --s->n_mask;
    }
    return MK_OK;
}

// A sample from the text of turn[base] with the turns that joined it.
static mk_status make_sample(const mk_talk *t, mk_turn *turn, size_t base, mk_seq_ids *s,
                             mk_err *err) {
    const mk_turn *last = &turn[base];
    size_t at = 0;
    mk_seq_clear(s);
    for (size_t i = 0; i <= base; i++) {
        if (turn[i].sample != base) {
            continue;
        }
        size_t to = last->text.text.len;
        for (size_t k = base; k > i; k--) {  // the next one of this sample
            to = turn[k].sample == base ? turn[k].start : to;
        }
        MK_TRY(at == 0 ? add_part(t, &last->text, 0, turn[i].start, 0, s, err) : MK_OK);
        MK_TRY(add_turn(t, &last->text, &turn[i], to, s, err));
        at = to;
    }
    MK_TRY(close_sample(t, last, s, err));
    if (t->learn == MK_LEARN_ALL && s->n_mask > 0) {
        memset(s->mask, 1, (size_t)s->n_mask);
    }
    return MK_OK;
}

// Gives every turn the latest sample it can be in: that of a later turn it joins, or its own.
static void assign(mk_turn *turn, size_t n) {
    for (size_t i = n; i-- > 0;) {
        turn[i].sample = i;
        for (size_t k = n; k-- > i + 1;) {
            if (turn[k].sample == k && joins(&turn[i], &turn[k])) {
                turn[i].sample = k;
                break;
            }
        }
    }
}

static mk_status emit(const mk_talk *t, mk_turn *turn, size_t n, mk_err *err) {
    mk_seq_ids s = {0};
    mk_status st = MK_OK;
    assign(turn, n);
    for (size_t i = 0; i < n && st == MK_OK; i++) {
        if (turn[i].sample == i) {
            st = make_sample(t, turn, i, &s, err);
            st = st == MK_OK ? t->fn(t->arg, &s, err) : st;
            t->counts->n_split += i + 1 < n;
        }
    }
    mk_seq_free(&s);
    return st;
}

// --- which turns ---------------------------------------------------------------------------------

static bool is_left_out(const json_t *m) {
    const json_t *w = json_object_get(m, "weight"), *train = json_object_get(m, "train");
    return (json_is_number(w) && json_number_value(w) == 0) || json_is_false(train);
}

// Message numbers of the turns to be learned, in order.
static size_t choose(const mk_talk *t, mk_turn *turn) {
    size_t n = 0, n_message = json_array_size(t->messages);
    bool last_only = t->learn == MK_LEARN_LAST || t->learn == MK_LEARN_ALL;
    for (size_t i = t->first; i < n_message; i++) {
        const json_t *m = json_array_get(t->messages, i);
        if (!mk_message_is(m, "assistant")) {
            continue;
        }
        n = last_only ? 0 : n;
        if (!is_left_out(m) || t->learn == MK_LEARN_ALL) {
            turn[n++].message = i;
        }
    }
    return n;
}

// Everything is a target, and the conversation does not end with an answer.
static mk_status whole_text(const mk_talk *t, mk_err *err) {
    mk_jinja_text text = {0};
    mk_seq_ids s = {0};
    mk_status st = mk_turn_render(t, json_array_size(t->messages), NULL, false, &text, err);
    st = st == MK_OK ? add_part(t, &text, 0, text.text.len, 1, &s, err) : st;
    st = st == MK_OK ? t->fn(t->arg, &s, err) : st;
    mk_seq_free(&s);
    mk_jinja_text_free(&text);
    return st;
}

mk_status mk_talk_samples(const mk_talk *t, mk_err *err) {
    size_t n_message = json_array_size(t->messages), n_made = 0;
    bool answered =
        n_message > 1 && mk_message_is(json_array_get(t->messages, n_message - 1), "assistant");
    if (t->learn == MK_LEARN_ALL && !answered) {
        return whole_text(t, err);
    }
    mk_turn *turn = mk_try_alloc(n_message, sizeof *turn);
    if (!turn) {
        return MK_FAIL(err, MK_ENOMEM, "no memory for %zu messages", n_message);
    }
    mk_status st = MK_OK;
    size_t n = choose(t, turn);
    while (n_made < n && st == MK_OK) {
        st = make_turn(t, turn[n_made].message, &turn[n_made], err);
        n_made++;
    }
    st = st == MK_OK && n > 0 ? emit(t, turn, n, err) : st;
    free_turns(turn, n_made);
    return st;
}

mk_status mk_talk_prompt(const mk_talk *t, mk_seq_ids *out, mk_err *err) {
    mk_jinja_text text = {0};
    mk_status st = mk_turn_render(t, json_array_size(t->messages), NULL, true, &text, err);
    st = st == MK_OK ? add_part(t, &text, 0, text.text.len, 0, out, err) : st;
    mk_jinja_text_free(&text);
    return st;
}
