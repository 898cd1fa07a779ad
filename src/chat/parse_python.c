// Arguments written as Python or close to it, as JSON: f(a="x", b=[1, None]), Gemma's
// call:f{a:<|"|>x<|"|>,b:[1,null]}.
//
// A pushdown machine over characters; `kind` holds the open containers ('{', '[', '('), the
// outermost being the arguments themselves.  Strings stream; words (numbers, names of constants)
// are kept until they end, at most 63 bytes.
#include <string.h>

#include "base/ascii.h"
#include "chat/parse_int.h"

enum { KEY, AFTER_KEY, VALUE, AFTER, STRING, WORD };

static size_t broken(mk_args *a) {
    a->state = MK_ARGS_BROKEN;
    return 0;
}

static bool is_word(char ch) {
    unsigned char c = (unsigned char)ch;
    return (c >= '0' && c <= '9') || ((c | 0x20) >= 'a' && (c | 0x20) <= 'z') || c == '_' ||
           c == '-' || c == '+' || c == '.' || c == '$' || c >= 0x80;
}

static char top(const mk_args *a) {
    return a->kind[a->depth - 1];
}

// The text of a quote at v, if one stands there.
static mk_match at_quote(const mk_args *a, mk_view v, size_t *n) {
    if (a->syntax->quote) {
        *n = strlen(a->syntax->quote);
        return mk_match_text(v, a->syntax->quote);
    }
    *n = 1;
    return v.p[0] == '"' || v.p[0] == '\'' ? MK_YES : MK_NO;
}

static size_t begin_string(mk_args *a, mk_view v, size_t n, bool is_key) {
    a->quote = v.p[0];
    a->is_key = is_key;
    a->step = STRING;
    mk_buf_putc(a->out, '"');
    return n;
}

// --- words ---------------------------------------------------------------------------------------

static size_t end_word(mk_args *a) {
    static const char *const words[][2] = {{"True", "true"},   {"true", "true"}, {"False", "false"},
                                           {"false", "false"}, {"None", "null"}, {"null", "null"}};
    a->step = a->is_key ? AFTER_KEY : AFTER;
    if (a->is_key) {
        mk_json_add_escaped(a->out, a->word, a->n_word);
        mk_buf_putc(a->out, '"');
        return 0;
    }
    for (size_t i = 0; i < 6; i++) {
        if (strlen(words[i][0]) == a->n_word && memcmp(words[i][0], a->word, a->n_word) == 0) {
            mk_buf_puts(a->out, words[i][1]);
            return 0;
        }
    }
    return mk_json_is_value(a->word, a->n_word, a->out) ? 0 : broken(a);
}

static size_t step_word(mk_args *a, mk_view v) {
    size_t i = 0;
    while (i < v.n && is_word(v.p[i])) {
        if (a->n_word == sizeof a->word - 1) {
            a->state = MK_ARGS_BROKEN;
            return i;  // what was taken before is gone, however it came
        }
        a->word[a->n_word++] = v.p[i++];
    }
    if (i < v.n) {
        (void)end_word(a);
    }
    return i;
}

static size_t begin_word(mk_args *a, mk_view v, bool is_key) {
    a->is_key = is_key;
    a->n_word = 0;
    a->step = WORD;
    if (is_key) {
        mk_buf_putc(a->out, '"');
    }
    return step_word(a, v);
}

// --- containers ----------------------------------------------------------------------------------

static bool closes(const mk_args *a, char ch) {
    if (a->depth == 1) {
        return ch == a->syntax->end;
    }
    return ch == (top(a) == '{' ? '}' : top(a) == '[' ? ']' : ')');
}

static size_t close_container(mk_args *a) {
    mk_buf_putc(a->out, top(a) == '{' ? '}' : ']');
    a->step = AFTER;
    a->fresh = false;
    if (--a->depth == 0) {
        a->state = MK_ARGS_DONE;
    }
    return 1;
}

static size_t open_container(mk_args *a, char ch) {
    if (a->depth == MK_JSON_FEED_DEPTH) {
        return broken(a);
    }
    a->kind[a->depth++] = ch;
    a->fresh = true;
    a->step = ch == '{' ? KEY : VALUE;
    mk_buf_putc(a->out, ch == '{' ? '{' : '[');
    return 1;
}

// --- steps ---------------------------------------------------------------------------------------

static size_t step_key(mk_args *a, mk_view v) {
    size_t n;
    if (closes(a, v.p[0])) {  // an empty container, or a comma in front of the end
        return close_container(a);
    }
    mk_match m = at_quote(a, v, &n);
    if (m == MK_MORE) {
        return 0;
    }
    if (m == MK_NO && !is_word(v.p[0])) {
        return broken(a);
    }
    if (!a->fresh) {
        mk_buf_puts(a->out, ", ");
    }
    a->fresh = false;
    return m == MK_YES ? begin_string(a, v, n, true) : begin_word(a, v, true);
}

static size_t step_value(mk_args *a, mk_view v) {
    size_t n;
    char ch = v.p[0];
    bool item = top(a) != '{';
    if (item && closes(a, ch)) {
        return close_container(a);
    }
    mk_match m = at_quote(a, v, &n);
    if (m == MK_MORE) {
        return 0;
    }
    bool container = ch == '{' || ch == '[' || ch == '(';
    if (m == MK_NO && !container && !is_word(ch)) {
        return broken(a);
    }
    if (item && !a->fresh) {
        mk_buf_puts(a->out, ", ");
    }
    a->fresh = false;
    return m == MK_YES ? begin_string(a, v, n, false)
           : container ? open_container(a, ch)
                       : begin_word(a, v, false);
}

static size_t step_after_key(mk_args *a, char ch) {
    bool python = a->syntax->quote == NULL && a->depth == 1;
    if (ch != (python ? '=' : ':')) {
        return broken(a);
    }
    mk_buf_puts(a->out, ": ");
    a->step = VALUE;
    return 1;
}

static size_t step_after(mk_args *a, char ch) {
    if (closes(a, ch)) {
        return close_container(a);
    }
    if (ch != ',') {
        return broken(a);
    }
    a->step = top(a) == '{' ? KEY : VALUE;
    return 1;
}

static bool all_hex(const char *p, size_t n) {
    for (size_t i = 0; i < n; i++) {
        if (mk_hex_digit(p[i]) < 0) {
            return false;
        }
    }
    return true;
}

// An escape of Python's at v: bytes used, 0 if it is not whole yet.  Unknown ones keep their
// backslash, as in Python.
static size_t step_escape(mk_args *a, mk_view v) {
    if (v.n < 2) {
        return 0;
    }
    char ch = v.p[1];
    size_t n_hex = ch == 'x' ? 2 : ch == 'u' ? 4 : 0;
    if (n_hex > 0 && v.n < 2 + n_hex && all_hex(v.p + 2, v.n - 2) && !v.last) {
        return 0;
    }
    if (n_hex > 0 && v.n >= 2 + n_hex && all_hex(v.p + 2, n_hex)) {
        mk_buf_puts(a->out, n_hex == 2 ? "\\u00" : "\\u");
        mk_buf_add(a->out, v.p + 2, n_hex);
        return 2 + n_hex;
    }
    if (ch == '\'') {
        mk_buf_putc(a->out, ch);
    } else if (ch != 0 && strchr("\"\\nrtbf", ch)) {
        mk_buf_add(a->out, v.p, 2);
    } else if (ch != '\n') {  // a continued line says nothing
        mk_buf_puts(a->out, "\\\\");
        return 1;
    }
    return 2;
}

static size_t step_string(mk_args *a, mk_view v) {
    const char *quote = a->syntax->quote;
    for (size_t i = 0; i < v.n;) {
        mk_view rest = {v.p + i, v.n - i, v.last};
        mk_match end = quote ? mk_match_text(rest, quote) : (v.p[i] == a->quote ? MK_YES : MK_NO);
        if (end == MK_YES) {
            mk_buf_putc(a->out, '"');
            a->step = a->is_key ? AFTER_KEY : AFTER;
            return i + (quote ? strlen(quote) : 1);
        }
        if (end == MK_MORE) {
            return i;
        }
        if (!quote && v.p[i] == '\\') {
            size_t n = step_escape(a, rest);
            if (n == 0) {
                return i;
            }
            i += n;
            continue;
        }
        mk_json_add_escaped(a->out, v.p + i, 1);
        i++;
    }
    return v.n;
}

void mk_args_begin_value(mk_args *a, const mk_call_syntax *s) {
    a->syntax = s;
    a->kind[0] = '[';  // as if it stood in a list that nothing closes
    a->depth = 1;
    a->fresh = true;
    a->step = VALUE;
}

bool mk_args_value_whole(const mk_args *a) {
    return a->depth == 1 && a->step == AFTER;
}

size_t mk_args_python(mk_args *a, mk_view v) {
    size_t space = a->step == STRING || a->step == WORD ? 0 : mk_count_space(v.p, v.n);
    if (space > 0 || v.n == 0) {
        return space;
    }
    switch (a->step) {
    case KEY:
        return step_key(a, v);
    case AFTER_KEY:
        return step_after_key(a, v.p[0]);
    case VALUE:
        return step_value(a, v);
    case AFTER:
        return step_after(a, v.p[0]);
    case STRING:
        return step_string(a, v);
    default:
        return step_word(a, v);
    }
}
