// Answers that a template writes otherwise than as a continuation of its own generation prompt.
//
// Reasoning templates end the prompt in "<think>\n", or in an empty thought when thinking is off,
// and leave both out of the answers of the past: DeepSeek-R1, QwQ, Gemma 4, Nemotron and others.
// What the model has to generate is then put together here: the prompt; the reasoning of the
// message and the closing tag, if the prompt leaves a thought open and the template does not write
// them; and what the template writes of the message.
//
//     prompt    ...<|Assistant|><think>\n
//     answer    ...<|Assistant|>It is 4.<|end|>
//     joined    ...<|Assistant|><think>\nTwo and two.\n</think>\n\nIt is 4.<|end|>
//
// Where a message begins in the text is found by rendering it once more with one letter changed.
#include <string.h>

#include "base/alloc.h"
#include "chat/parse.h"
#include "train/data_turns.h"

#define OPEN  "<think>"
#define CLOSE "</think>"
#define SPACE " \t\r\n"

// Bytes of the prompt that, repeated in the answer, are the end of the same prompt.
enum { MIN_REPEAT = 8 };

static const char *bytes(const mk_jinja_text *t) {
    return t->text.data ? t->text.data : "";
}

// --- reasoning of a message ----------------------------------------------------------------------

static const char *const reasoning_fields[] = {"reasoning_content", "thinking", "reasoning"};
enum { N_REASONING = 3 };

static bool is_space(char c) {
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

static const char *trim(const char *p, size_t *n) {
    while (*n > 0 && is_space(p[*n - 1])) {
        (*n)--;
    }
    while (*n > 0 && is_space(*p)) {
        p++;
        (*n)--;
    }
    return p;
}

// The content's own thought: [*p, *p + *n) inside the tags; false if there is none.
static bool inline_thought(const json_t *content, const char **p, size_t *n) {
    const char *s = json_string_value(content);
    size_t len = json_string_length(content);
    const char *close = s ? memmem(s, len, CLOSE, strlen(CLOSE)) : NULL;
    if (!close) {
        return false;
    }
    *n = (size_t)(close - s);
    *p = trim(s, n);
    if (*n >= strlen(OPEN) && memcmp(*p, OPEN, strlen(OPEN)) == 0) {
        *p += strlen(OPEN);
        *n -= strlen(OPEN);
    }
    *p = trim(*p, n);
    return true;
}

const char *mk_turn_reasoning(const json_t *message, size_t *n) {
    const char *p = NULL;
    for (int i = 0; i < N_REASONING; i++) {
        const json_t *v = json_object_get(message, reasoning_fields[i]);
        if (json_is_string(v)) {
            *n = json_string_length(v);
            return trim(json_string_value(v), n);
        }
    }
    if (!inline_thought(json_object_get(message, "content"), &p, n)) {
        *n = 0;
    }
    return p;
}

// --- the message with a letter changed -----------------------------------------------------------

// A letter in front of text[at].  It must differ from the one there, or no difference would show.
static json_t *with_letter(const char *text, size_t n, size_t at) {
    mk_buf b;
    mk_buf_init(&b, n + 8);
    mk_buf_add(&b, text, at);
    mk_buf_putc(&b, at < n && text[at] == 'Q' ? 'Z' : 'Q');
    mk_buf_add(&b, text + at, n - at);
    json_t *v = b.failed ? NULL : json_stringn(b.data, b.len);
    mk_buf_free(&b);
    return v;
}

// The content's thought with another letter, or what stands behind it.
static json_t *changed_content(const json_t *content, bool reasoning) {
    const char *s = json_string_value(content), *p = NULL;
    size_t n = json_string_length(content), len = 0, at = 0;
    if (json_is_array(content)) {
        const json_t *part = json_object_get(json_array_get(content, 0), "text");
        const char *text = json_string_value(part);
        return json_pack("[{s:s, s:s}]", "type", "text", "text",
                         text && text[0] == 'Q' ? "Z" : "Q");
    }
    bool thought = inline_thought(content, &p, &len);
    if (reasoning) {
        return with_letter(s, n, (size_t)(p - s));
    }
    if (thought) {
        at = (size_t)((const char *)memmem(s, n, CLOSE, strlen(CLOSE)) - s) + strlen(CLOSE);
    }
    while (at < n && is_space(s[at])) {
        at++;
    }
    return with_letter(s ? s : "", n, at);
}

static int change_reasoning(json_t *copy, const json_t *message) {
    const json_t *content = json_object_get(message, "content");
    const char *p;
    size_t n;
    int n_set = 0, bad = 0;
    for (int i = 0; i < N_REASONING; i++) {
        const json_t *v = json_object_get(message, reasoning_fields[i]);
        if (json_is_string(v)) {
            bad |= json_object_set_new(copy, reasoning_fields[i],
                                       with_letter(json_string_value(v), json_string_length(v), 0));
            n_set++;
        }
    }
    if (n_set == 0 && inline_thought(content, &p, &n)) {
        bad |= json_object_set_new(copy, "content", changed_content(content, true));
    }
    return bad;
}

static int change_answer(json_t *copy, const json_t *message) {
    const json_t *content = json_object_get(message, "content");
    if (mk_json_is_blank(content)) {
        (void)json_object_del(copy, "tool_calls");  // the answer is the calls alone
    }
    return json_object_set_new(copy, "content", changed_content(content, false));
}

// First byte of the text that depends on the reasoning or the answer; its length if none does.
static mk_status find_begin(const mk_talk *t, const mk_turn *x, bool reasoning, size_t *at,
                            mk_err *err) {
    const json_t *message = json_array_get(t->messages, x->message);
    json_t *other = json_copy((json_t *)(uintptr_t)message);
    mk_jinja_text text = {0};
    mk_err refused = {0};
    *at = x->text.text.len;
    if (!other || (reasoning ? change_reasoning(other, message) : change_answer(other, message))) {
        json_decref(other);
        return MK_FAIL(err, MK_ENOMEM, "no memory for a message");
    }
    mk_status st = mk_turn_render(t, x->message + 1, other, false, &text, &refused);
    if (st == MK_OK) {
        *at = mk_turn_common(&x->text, &text);
    }
    json_decref(other);
    mk_jinja_text_free(&text);
    if (st == MK_ENOMEM && err) {
        *err = refused;
    }
    return st == MK_ENOMEM ? st : MK_OK;  // a template may refuse the other text: no difference
}

// --- putting together ----------------------------------------------------------------------------

static mk_status add_bytes(mk_jinja_text *t, const char *p, size_t n, bool user, mk_err *err) {
    bool grows = t->n_runs == 0 || t->runs[t->n_runs - 1].user != user;
    if (n == 0) {
        return MK_OK;
    }
    if (grows && t->n_runs == t->cap_runs) {
        size_t cap = t->cap_runs ? t->cap_runs * 2 : 16;
        mk_jinja_run *runs = mk_try_realloc(t->runs, cap, sizeof *runs);
        if (!runs) {
            return MK_FAIL(err, MK_ENOMEM, "no memory for a rendered answer");
        }
        t->runs = runs;
        t->cap_runs = cap;
    }
    t->n_runs += grows;
    mk_buf_add(&t->text, p, n);
    t->runs[t->n_runs - 1] = (mk_jinja_run){t->text.len, user};
    return t->text.failed ? MK_FAIL(err, MK_ENOMEM, "no memory for a rendered answer") : MK_OK;
}

static mk_status add_range(mk_jinja_text *t, const mk_jinja_text *from, size_t begin, size_t end,
                           mk_err *err) {
    size_t at = begin;
    for (size_t i = 0; i < from->n_runs && at < end; i++) {
        size_t stop = from->runs[i].end < end ? from->runs[i].end : end;
        if (stop > at) {
            MK_TRY(add_bytes(t, from->text.data + at, stop - at, from->runs[i].user, err));
            at = stop;
        }
    }
    return MK_OK;
}

static bool has_user(const mk_jinja_text *t, size_t from, size_t to) {
    size_t begin = 0;
    for (size_t i = 0; i < t->n_runs && begin < to; i++) {
        if (t->runs[i].user && t->runs[i].end > from) {
            return true;
        }
        begin = t->runs[i].end;
    }
    return false;
}

// The thought with the opening tag in front of it, where that came with the user's own text.
static size_t with_tag(const mk_turn *x, size_t thought) {
    const char *p = bytes(&x->text);
    size_t k = thought, n = strlen(OPEN);
    while (k > 0 && is_space(p[k - 1])) {
        k--;
    }
    bool tag = k >= n && memcmp(p + k - n, OPEN, n) == 0 && has_user(&x->text, k - n, k);
    return tag ? k - n : thought;
}

// Where what the template writes of the answer begins, header and all: behind what it shares with
// the prompt.  A text that is the end of the prompt a second time is left out, and so is all of it
// if a user's text is in it (a template that moves the system message).
static size_t skip_header(const mk_jinja_text *prompt, const mk_jinja_text *text, size_t begin) {
    size_t at = mk_turn_common(prompt, text);
    at = at < begin ? at : begin;
    for (size_t k = at; k > 0 && at - k < 64 && text->text.data[k - 1] != '>'; k--) {
        if (text->text.data[k - 1] == '<') {  // the texts part inside a tag
            at = k - 1;
            break;
        }
    }
    if (has_user(text, at, begin)) {
        return begin;
    }
    size_t n = prompt->text.len;
    for (size_t k = begin; k >= at + MIN_REPEAT && n >= MIN_REPEAT; k--) {
        if (memcmp(text->text.data + k - MIN_REPEAT, prompt->text.data + n - MIN_REPEAT,
                   MIN_REPEAT) == 0) {
            return k;
        }
    }
    return at;
}

// The thought that the prompt leaves open, and its end: in the template's own words where it has
// some, else as DeepSeek-R1 writes them.
static mk_status add_thought(const mk_turn *x, const json_t *message, size_t *from, size_t begin,
                             mk_jinja_text *out, mk_err *err) {
    size_t n = 0;
    const char *p = mk_turn_reasoning(message, &n);
    bool line = is_space(out->text.data[out->text.len - 1]);
    const char *close = memmem(x->text.text.data + *from, begin - *from, CLOSE, strlen(CLOSE));
    MK_TRY(add_bytes(out, p, n, true, err));
    if (close) {
        *from = (size_t)(close - x->text.text.data);
        return MK_OK;
    }
    *from = begin;
    close = line ? "\n" CLOSE "\n\n" : CLOSE;
    return add_bytes(out, close, strlen(close), false, err);
}

// Is it the tag at text[at..)?
static bool is_tag(const mk_jinja_text *t, size_t at, const char *tag) {
    size_t n = strlen(tag);
    return at + n <= t->text.len && memcmp(t->text.data + at, tag, n) == 0;
}

// The model generates the tags of its thought as tokens of their own, so they are template text
// also where they came in the content of the message: the opening tag at the start of the answer,
// and the first closing one behind it (or behind a prompt that ends in the opening one).
mk_status mk_turn_mark_thought(mk_turn *x, mk_err *err) {
    size_t len = x->text.text.len, open = x->start, at;
    mk_jinja_text out = {0};
    while (open < len && is_space(x->text.text.data[open])) {
        open++;
    }
    bool tag = is_tag(&x->text, open, OPEN);
    if (!tag && !mk_parse_ends_in(bytes(&x->text), x->start, OPEN)) {
        return MK_OK;
    }
    at = tag ? open + strlen(OPEN) : open;
    const char *close = memmem(bytes(&x->text) + at, len - at, CLOSE, strlen(CLOSE));
    size_t end = close ? (size_t)(close - x->text.text.data) : len;
    mk_buf_init(&out.text, len + 1);
    mk_status st = add_range(&out, &x->text, 0, open, err);
    st = st == MK_OK ? add_bytes(&out, OPEN, at - open, false, err) : st;
    st = st == MK_OK ? add_range(&out, &x->text, at, end, err) : st;
    if (st == MK_OK && close) {
        st = add_bytes(&out, CLOSE, strlen(CLOSE), false, err);
        st = st == MK_OK ? add_range(&out, &x->text, end + strlen(CLOSE), len, err) : st;
    }
    mk_jinja_text_free(st == MK_OK ? &x->text : &out);
    x->text = st == MK_OK ? out : x->text;
    return st;
}

mk_status mk_turn_rejoin(const mk_talk *t, const mk_jinja_text *prompt, mk_turn *x, mk_err *err) {
    const json_t *message = json_array_get(t->messages, x->message);
    mk_jinja_text out = {0};
    size_t thought, answer, len = x->text.text.len;
    MK_TRY(find_begin(t, x, true, &thought, err));
    MK_TRY(find_begin(t, x, false, &answer, err));
    if (answer == len && thought == len) {
        return MK_FAIL(err, MK_ETEMPLATE, "the chat template writes nothing of this answer");
    }
    bool closed = mk_parse_ends_in(bytes(prompt), prompt->text.len, CLOSE);
    size_t begin = thought < answer && !closed ? with_tag(x, thought) : answer;
    size_t from = skip_header(prompt, &x->text, begin);
    bool open = prompt->text.len > 0 && mk_parse_ends_in(prompt->text.data, prompt->text.len, OPEN);
    mk_buf_init(&out.text, prompt->text.len + len + MK_DATA_MAX_LINE + 64);
    mk_status st = add_range(&out, prompt, 0, prompt->text.len, err);
    if (st == MK_OK && open && thought >= answer) {
        st = add_thought(x, message, &from, begin, &out, err);
    } else if (st == MK_OK && open) {
        from = thought;  // the template writes the thought, and its end, itself
    }
    st = st == MK_OK ? add_range(&out, &x->text, from, len, err) : st;
    if (st != MK_OK) {
        mk_jinja_text_free(&out);
        return st;
    }
    mk_jinja_text_free(&x->text);
    x->text = out;
    return MK_OK;
}
