// Calls whose parameters stand one by one, taken apart.
//
// With F the text before the parameters, T the text behind them, O before a name, M between name
// and value, C behind a value and B between two parameters, a template writes
//     no parameter   F T
//     one            F O name M value C T
//     two            F O name M value C B O name M value C T
// Where F ends is free as long as all three come out as they were written: any such way to cut them
// gives the same texts.
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "chat/call_frame_int.h"

enum { OPEN, MID_BARE, END_BARE, MID, END, BETWEEN, QUOTE };

typedef mk_call_span span;

// A call, up to the end of the turn.
typedef struct {
    mk_buf text;
    size_t end;
} answer;

typedef struct {
    answer none, one, two, number, list, more;
} answers;

static mk_status write_one(const mk_chat_template *t, const mk_tokenizer *tok, mk_call_how h,
                           answer *a, mk_err *err) {
    MK_TRY(mk_call_spelled(t, tok, &h, &a->text, err));
    const char *name = mk_call_find(&a->text, 0, MK_CALL_NAME);
    a->end = name ? mk_call_turn_end(tok, &a->text, (size_t)(name - a->text.data)) : 0;
    return MK_OK;
}

static mk_status write_all(const mk_chat_template *t, const mk_tokenizer *tok, mk_call_how h,
                           answers *a, mk_err *err) {
    const struct {
        answer *to;
        mk_call_args args;
        int n_call;
    } what[] = {{&a->none, MK_ARGS_NO, 1},   {&a->one, MK_ARGS_ONE, 1},
                {&a->two, MK_ARGS_TWO, 1},   {&a->number, MK_ARGS_NUMBER, 1},
                {&a->list, MK_ARGS_LIST, 1}, {&a->more, MK_ARGS_ONE, 3}};
    for (size_t i = 0; i < sizeof what / sizeof what[0]; i++) {
        mk_buf_init(&what[i].to->text, MK_CALL_TEXT_MAX);
    }
    for (size_t i = 0; i < sizeof what / sizeof what[0]; i++) {
        h.args = what[i].args;
        h.n_call = what[i].n_call;
        MK_TRY(write_one(t, tok, h, what[i].to, err));
    }
    return MK_OK;
}

static void free_all(answers *a) {
    answer *all[] = {&a->none, &a->one, &a->two, &a->number, &a->list, &a->more};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        mk_buf_free(&all[i]->text);
    }
}

// --- pieces --------------------------------------------------------------------------------------
// Around name and value of a parameter; false: they do not stand there.
static bool find_param(const answer *a, size_t from, const char *key, const char *value, span *k,
                       span *v) {
    const char *at = mk_call_find(&a->text, from, key);
    k->from = at ? (size_t)(at - a->text.data) : 0;
    k->to = k->from + strlen(key);
    at = at ? mk_call_find(&a->text, k->to, value) : NULL;
    v->from = at ? (size_t)(at - a->text.data) : 0;
    v->to = v->from + strlen(value);
    return at && v->to <= a->end;
}

static bool ends_with(const char *p, size_t n, const char *tail, size_t n_tail) {
    return n >= n_tail && memcmp(p + n - n_tail, tail, n_tail) == 0;
}

// Inside of a token's spelling?
static bool cuts_token(const mk_buf *b, size_t at) {
    for (size_t i = 0; i < at; i++) {
        if ((unsigned char)b->data[i] == MK_GRAMMAR_TOKEN) {
            i += MK_GRAMMAR_TOKEN_BYTES - 1;
            if (i >= at) {
                return true;
            }
        }
    }
    return false;
}

// The place where F ends, from the longest on: with it the lengths of all others follow.
static bool find_cut(const answers *a, span key, span value, span gap, span *cut) {
    const char *none = a->none.text.data, *one = a->one.text.data, *two = a->two.text.data;
    size_t most = 0, n_gap = gap.to - gap.from, behind = a->one.end - value.to;
    while (most < a->none.end && most < key.from && none[most] == one[most]) {
        most++;
    }
    while (most > 0 && (none[most - 1] == '<' || cuts_token(&a->none.text, most))) {
        most--;
    }
    for (size_t f = most + 1; f-- > 0;) {
        size_t n_tail = a->none.end - f, n_open = key.from - f;
        if (cuts_token(&a->none.text, f) || !ends_with(one + value.to, behind, none + f, n_tail)) {
            continue;
        }
        size_t n_end = behind - n_tail;
        if (n_end + n_open <= n_gap && memcmp(two + gap.from, one + value.to, n_end) == 0 &&
            ends_with(two + gap.from, n_gap, one + f, n_open)) {
            *cut = (span){f, n_end};
            return true;
        }
    }
    return false;
}

static void put(mk_call_frame *f, int part, const answer *a, size_t from, size_t to) {
    mk_call_put(&f->part[part], &a->text, (span){from, to});
}

// Several calls: what stands between the last value of one and the first name of the next, if it is
// the same each time.
static void take_more(const answers *a, size_t n_first, size_t n_open, size_t n_end,
                      mk_call_frame *f) {
    span k[3], v[3];
    const char *p = a->more.text.data;
    size_t at = 0;
    for (int i = 0; i < 3; i++) {
        if (!find_param(&a->more, at, ARG_KEY, ARG_VALUE, &k[i], &v[i])) {
            return;
        }
        at = v[i].to;
    }
    size_t from = v[0].to + n_end, to = k[1].from - n_open, n = to - from;
    if (to < from || k[2].from - v[1].to != k[1].from - v[0].to ||
        memcmp(p + v[0].to, p + v[1].to, k[1].from - v[0].to) != 0 ||
        memcmp(p, a->one.text.data, n_first) != 0 ||
        a->more.end - v[2].to != a->one.end - v[0].to ||
        memcmp(p + v[2].to, a->one.text.data + v[0].to, a->one.end - v[0].to) != 0 ||
        memmem(p + from, n, MK_CALL_NAME, strlen(MK_CALL_NAME)) == NULL) {
        return;
    }
    mk_call_put(&f->next, &a->more.text, (span){from, to});
    f->max = 0;
}

// --- all of it -----------------------------------------------------------------------------------
// The values: which parts of a call are whose.
static bool take(const answers *a, mk_parse_writing w, mk_call_frame *f) {
    span k, v, k1, v1, k2, v2, nk, nv, cut;
    bool sorted = find_param(&a->two, 0, ARG_AGAIN, ARG_VALUE, &k1, &v1) &&
                  find_param(&a->two, v1.to, ARG_KEY, ARG_VALUE, &k2, &v2);
    bool both = sorted || (find_param(&a->two, 0, ARG_KEY, ARG_VALUE, &k1, &v1) &&
                           find_param(&a->two, v1.to, ARG_AGAIN, ARG_VALUE, &k2, &v2));
    if (!both || a->none.end == 0 || !find_param(&a->one, 0, ARG_KEY, ARG_VALUE, &k, &v) ||
        !find_param(&a->number, 0, ARG_KEY, ARG_NUMBER_TEXT, &nk, &nv) ||
        !find_cut(a, k, v, (span){v1.to, k2.from}, &cut)) {
        return false;
    }
    size_t n_open = k.from - cut.from, n_tail = a->none.end - cut.from;
    const char *tail = a->none.text.data + cut.from;
    if (nk.from != k.from ||
        !ends_with(a->number.text.data + nv.to, a->number.end - nv.to, tail, n_tail)) {
        return false;
    }
    mk_call_put(&f->first, &a->one.text, (span){0, cut.from});
    mk_call_put(&f->tail, &a->none.text, (span){cut.from, a->none.end});
    if (memmem(f->first.data, f->first.len, MK_CALL_NAME, strlen(MK_CALL_NAME)) == NULL) {
        return false;
    }
    put(f, OPEN, &a->one, cut.from, k.from);
    put(f, MID_BARE, &a->one, k.to, v.from);
    put(f, END_BARE, &a->one, v.to, v.to + cut.to);
    put(f, MID, &a->number, nk.to, nv.from);
    put(f, END, &a->number, nv.to, a->number.end - n_tail);
    put(f, BETWEEN, &a->two, v1.to + cut.to, k2.from - n_open);
    f->params.sorted = sorted;
    f->max = 1;
    if (a->more.end > 0 && a->more.end > cut.from) {
        take_more(a, cut.from, n_open, cut.to, f);
    }
    mk_call_set_trigger(f, &a->one.text, cut.from);
    bool python = mk_call_find(&a->list.text, 0, "['" ARG_VALUE "']") != NULL;
    f->params.bare = w.kind == MK_PARSE_XML;
    f->params.values = w.kind == MK_PARSE_MARKED             ? MK_VALUES_MARKED
                       : w.kind == MK_PARSE_PYTHON || python ? MK_VALUES_PYTHON
                                                             : MK_VALUES_JSON;
    return true;
}

static const char *text_of(const mk_buf *b) {
    return b->data ? b->data : "";
}

// Texts of the frame as a grammar takes them.
static void point(mk_call_frame *f, mk_parse_writing w) {
    mk_grammar_params *p = &f->params;
    p->avoid = w.ends;
    p->open = text_of(&f->part[OPEN]);
    p->mid_bare = text_of(&f->part[MID_BARE]);
    p->end_bare = text_of(&f->part[END_BARE]);
    p->mid = text_of(&f->part[MID]);
    p->end = text_of(&f->part[END]);
    p->between = text_of(&f->part[BETWEEN]);
    p->quote = text_of(&f->part[QUOTE]);
    f->kind = MK_CALLS_PARAMS;
}

static mk_status spell(const mk_tokenizer *tok, const char *text, mk_buf *out, mk_err *err) {
    mk_ids ids = {0};
    mk_encode_opts o = {.parse_special = true, .continues = true};
    mk_status st = mk_tokenizer_encode(tok, text, strlen(text), o, &ids, err);
    if (st == MK_OK) {
        mk_grammar_spell(tok, ids.data, ids.n, out);
        mk_buf_puts(out, "");
    }
    mk_ids_free(&ids);
    return st;
}

mk_status mk_call_params(const mk_chat_template *t, const mk_tokenizer *tok, const mk_call_how *h,
                         mk_parse_writing w, mk_call_frame *f, mk_err *err) {
    answers a = {0};
    mk_status st = write_all(t, tok, *h, &a, err);
    if (st == MK_OK && take(&a, w, f)) {
        st = w.kind == MK_PARSE_MARKED ? spell(tok, w.ends, &f->part[QUOTE], err) : MK_OK;
        point(f, w);
    }
    free_all(&a);
    return st;
}

mk_status mk_call_python(const mk_tokenizer *tok, mk_parse_writing w, mk_call_frame *f,
                         mk_err *err) {
    MK_TRY(spell(tok, w.open, &f->trigger, err));
    mk_buf_add(&f->first, text_of(&f->trigger), f->trigger.len);
    mk_buf_puts(&f->first, w.list ? "[" : "");
    mk_buf_puts(&f->first, MK_CALL_NAME "(");
    mk_buf_puts(&f->next, "), " MK_CALL_NAME "(");
    mk_buf_puts(&f->tail, w.list ? ")]" : ")");
    MK_TRY(spell(tok, w.close, &f->tail, err));
    mk_buf_puts(&f->part[MID], "=");
    mk_buf_puts(&f->part[BETWEEN], ", ");
    f->params.values = MK_VALUES_PYTHON;
    f->has_calls = true;
    f->max = w.list ? 0 : 1;
    point(f, w);
    return MK_OK;
}

mk_status mk_call_headers(const mk_tokenizer *tok, mk_call_frame *f, mk_err *err) {
    static const char *const marks[] = {"<|start|>", "<|channel|>", "<|message|>", "<|constrain|>",
                                        "<|end|>"};
    for (size_t i = 0; i < sizeof marks / sizeof marks[0]; i++) {
        MK_TRY(spell(tok, marks[i], &f->part[i], err));
    }
    const char *end = text_of(&f->part[4]);
    bool ends = (unsigned char)end[0] == MK_GRAMMAR_TOKEN &&
                mk_tokenizer_is_eog(tok, mk_grammar_spelled_token(end));
    f->headers = (mk_grammar_headers){.start = text_of(&f->part[0]),
                                      .channel = text_of(&f->part[1]),
                                      .message = text_of(&f->part[2]),
                                      .constrain = text_of(&f->part[3]),
                                      .end = ends ? "" : end};
    mk_buf_puts(&f->first, "functions." MK_CALL_NAME);
    f->has_calls = true;
    f->kind = MK_CALLS_HEADERS;
    f->max = 1;
    return MK_OK;
}
