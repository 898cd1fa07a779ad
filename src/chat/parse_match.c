// Matchers of the parser: does a text begin with a tag, with the head of a call, with the end of a
// section?  Pure functions; what they say with YES or NO stays true whatever follows.
#include <string.h>

#include "chat/parse_int.h"

bool mk_is_space(char ch) {
    return ch == ' ' || ch == '\n' || ch == '\t' || ch == '\r';
}

size_t mk_count_space(const char *p, size_t n) {
    size_t k = 0;
    while (k < n && mk_is_space(p[k])) {
        k++;
    }
    return k;
}

bool mk_offered_has(const mk_offered *o, const char *name, size_t n) {
    for (int i = 0; i < o->n; i++) {
        if (strlen(o->name[i]) == n && memcmp(o->name[i], name, n) == 0) {
            return true;
        }
    }
    return false;
}

static mk_view from(mk_view v, size_t at) {
    return (mk_view){v.p + at, v.n - at, v.last};
}

// The limit on what is looked at makes MORE final; so it does not matter how much has come.
static mk_view limited(mk_view v) {
    return (mk_view){v.p, v.n < MK_PARSE_MAX_HEAD ? v.n : MK_PARSE_MAX_HEAD,
                     v.last || v.n >= MK_PARSE_MAX_HEAD};
}

static mk_match settle(mk_match m, mk_view v) {
    return m == MK_MORE && v.last ? MK_NO : m;
}

mk_match mk_match_text(mk_view v, const char *text) {
    size_t k = strlen(text);
    if (memcmp(v.p, text, v.n < k ? v.n : k) != 0) {
        return MK_NO;
    }
    return v.n >= k ? MK_YES : v.last ? MK_NO : MK_MORE;
}

// --- patterns ------------------------------------------------------------------------------------

// May ch stand in what capture `kind` takes?
static bool may_capture(char kind, char ch) {
    unsigned char c = (unsigned char)ch;
    if (kind == 1) {
        return c > 0x20 && c != 0x7F && !strchr("\"'`<>{}[]()=,\\", ch);
    }
    return c >= 0x20 && c != '<' && c != '>';
}

static mk_match capture(mk_view v, char kind, char stop, size_t *n) {
    for (*n = 0; *n < v.n; ++*n) {
        if (v.p[*n] == stop) {
            return *n > 0 ? MK_YES : MK_NO;
        }
        if (!may_capture(kind, v.p[*n]) || *n >= MK_PARSE_MAX_NAME) {
            return MK_NO;
        }
    }
    return MK_MORE;
}

static bool keep_capture(char kind, const char *p, size_t n, mk_head *h) {
    if (kind == 1) {
        h->name = p;
        h->n_name = n;
    } else if (kind == 3) {
        h->key = p;
        h->n_key = n;
    } else if (kind == 4) {
        h->is_string = n == 4 && memcmp(p, "true", 4) == 0;
        return h->is_string || (n == 5 && memcmp(p, "false", 5) == 0);
    }
    return true;
}

mk_match mk_match_pattern(mk_view v, const char *pattern, mk_head *h) {
    size_t i = 0;
    h->is_string = -1;
    for (const char *t = pattern; *t; t++) {
        if (*t == '~') {
            i += mk_count_space(v.p + i, v.n - i);
            if (i == v.n && t[1] != 0) {
                return settle(MK_MORE, v);
            }
        } else if ((unsigned char)*t <= 4) {
            size_t n;
            mk_match m = capture(from(v, i), *t, t[1], &n);
            if (m != MK_YES) {
                return settle(m, v);
            }
            if (!keep_capture(*t, v.p + i, n, h)) {
                return MK_NO;
            }
            i += n;
        } else if (*t == 5) {
            i--;
        } else if (i == v.n) {
            return settle(MK_MORE, v);
        } else if (v.p[i++] != *t) {
            return MK_NO;
        }
    }
    h->n = i;
    return MK_YES;
}

// functions.NAME:INDEX -> NAME; functions.NAME -> NAME
static void name_of_id(mk_head *h) {
    static const char space[] = "functions.";
    size_t k = sizeof space - 1, n = h->n_name;
    if (n > k && memcmp(h->name, space, k) == 0) {
        h->name += k;
        h->n_name = n -= k;
    }
    while (n > 0 && h->name[n - 1] >= '0' && h->name[n - 1] <= '9') {
        n--;
    }
    if (n > 1 && n < h->n_name && h->name[n - 1] == ':') {
        h->n_name = n - 1;
    }
}

// --- JSON around a call --------------------------------------------------------------------------

// A string at v (which begins with a quote): its length with both quotes.
static mk_match skip_string(mk_view v, size_t *n) {
    for (size_t i = 1; i < v.n; i++) {
        if (v.p[i] == '"') {
            *n = i + 1;
            return MK_YES;
        }
        i += v.p[i] == '\\';
    }
    return MK_MORE;
}

// Any value at v; numbers and words end before the byte that ends them.
static mk_match skip_value(mk_view v, size_t *n) {
    mk_json_feed f;
    mk_json_feed_init(&f);
    for (size_t i = 0; i < v.n; i++) {
        bool whole = mk_json_feed_whole(&f);
        if (whole && (v.p[i] == ',' || v.p[i] == '}' || v.p[i] == ']' || mk_is_space(v.p[i]))) {
            *n = i;
            return MK_YES;
        }
        mk_feed_result r = mk_json_feed_byte(&f, v.p[i], NULL);
        if (r == MK_FEED_DONE) {
            *n = i + 1;
            return MK_YES;
        }
        if (r == MK_FEED_BAD) {
            return MK_NO;
        }
    }
    return MK_MORE;
}

static bool is_one_of(const char *p, size_t n, const char *const *names) {
    for (; *names; names++) {
        if (strlen(*names) == n && memcmp(p, *names, n) == 0) {
            return true;
        }
    }
    return false;
}

typedef struct {
    const char *key;
    size_t n_key;
    size_t value;  // offset of the value
} member;

// A member of an object at v, or its end: value 0.
static mk_match next_member(mk_view v, bool first, member *m) {
    size_t i = mk_count_space(v.p, v.n), n;
    *m = (member){0};
    if (i < v.n && v.p[i] == '}') {
        m->key = v.p + i;
        return MK_YES;
    }
    if (!first && i < v.n) {
        if (v.p[i] != ',') {
            return MK_NO;
        }
        i++;
        i += mk_count_space(v.p + i, v.n - i);
    }
    if (i == v.n) {
        return MK_MORE;
    }
    if (v.p[i] != '"') {
        return MK_NO;
    }
    mk_match r = skip_string(from(v, i), &n);
    if (r != MK_YES) {
        return r;
    }
    m->key = v.p + i + 1;
    m->n_key = n - 2;
    i += n;
    i += mk_count_space(v.p + i, v.n - i);
    if (i < v.n && v.p[i] != ':') {
        return MK_NO;
    }
    i += i < v.n;
    i += mk_count_space(v.p + i, v.n - i);
    m->value = i;
    return i < v.n ? MK_YES : MK_MORE;
}

bool mk_good_call_name(const char *p, size_t n) {
    for (size_t i = 0; i < n; i++) {
        if (!may_capture(1, p[i])) {
            return false;
        }
    }
    return n > 0 && n <= MK_PARSE_MAX_NAME;
}

static const char *const name_keys[] = {"name", "tool_name", "function", NULL};
static const char *const args_keys[] = {"arguments", "parameters", "args", NULL};
static const char *const other_keys[] = {"type", "id", "tool_call_id", NULL};

static bool begins_args(char ch) {
    return ch == '{' || ch == '"';
}

// {"name": N, "arguments": ...: h->n is the offset of the arguments, or of the closing brace if
// there are none.  Arguments in front of the name are read over first.
static mk_match match_wrapped(mk_view v, bool bare, const mk_offered *offered, mk_head *h) {
    size_t i = mk_count_space(v.p, v.n), args = 0;
    if (i == v.n || v.p[i] != '{') {
        return i == v.n ? MK_MORE : MK_NO;
    }
    i++;
    for (bool first = true;; first = false) {
        member m;
        size_t n = 0;
        mk_match r = next_member(from(v, i), first, &m);
        if (r != MK_YES) {
            return r;
        }
        if (m.value == 0) {  // the closing brace
            h->form = MK_ARGS_NONE;
            h->n = (size_t)(m.key - v.p);
            break;
        }
        i += m.value;
        bool is_args = is_one_of(m.key, m.n_key, args_keys);
        if (is_args && begins_args(v.p[i])) {
            args = i;
            if (h->name) {
                break;
            }
        }
        bool is_name = is_one_of(m.key, m.n_key, name_keys) && v.p[i] == '"';
        if (bare && !is_args && !is_name && !is_one_of(m.key, m.n_key, other_keys)) {
            return MK_NO;
        }
        r = skip_value(from(v, i), &n);
        if (r != MK_YES) {
            return r;
        }
        if (is_name) {
            h->name = v.p + i + 1;
            h->n_name = n - 2;
            if (!mk_good_call_name(h->name, h->n_name) ||
                (bare && !mk_offered_has(offered, h->name, h->n_name))) {
                return MK_NO;
            }
            if (args) {
                break;
            }
        }
        i += n;
    }
    if (args) {
        h->n = args;
        h->form = v.p[args] == '{' ? MK_ARGS_OBJECT : MK_ARGS_STRING;
    }
    return h->name ? MK_YES : MK_NO;
}

static mk_match match_keyed(mk_view v, mk_head *h) {
    size_t i = mk_count_space(v.p, v.n);
    member m;
    if (i == v.n || v.p[i] != '{') {
        return i == v.n ? MK_MORE : MK_NO;
    }
    mk_match r = next_member(from(v, i + 1), true, &m);
    if (r != MK_YES || m.value == 0 || !mk_good_call_name(m.key, m.n_key)) {
        return r == MK_YES ? MK_NO : r;
    }
    h->name = m.key;
    h->n_name = m.n_key;
    h->n = i + 1 + m.value;
    h->form = MK_ARGS_OBJECT;
    return v.p[h->n] == '{' ? MK_YES : MK_NO;
}

// --- calls ---------------------------------------------------------------------------------------

static mk_match match_tails(mk_view v, const mk_call_syntax *s, size_t *n) {
    for (int i = 0; i < 2 && s->tail[i]; i++) {
        mk_head h;
        mk_match m = mk_match_pattern(v, s->tail[i], &h);
        if (m != MK_NO) {
            *n = h.n;
            return m;
        }
    }
    return MK_NO;
}

// Behind a head of MK_BODY_JSON: an object, a string, or the end of the call.
static mk_match match_form(mk_view v, const mk_call_syntax *s, mk_head *h) {
    size_t k = h->n + mk_count_space(v.p + h->n, v.n - h->n), n;
    if (k == v.n) {
        return MK_MORE;
    }
    if (begins_args(v.p[k])) {
        h->n = k;
        h->form = v.p[k] == '{' ? MK_ARGS_OBJECT : MK_ARGS_STRING;
        return MK_YES;
    }
    h->form = MK_ARGS_NONE;
    mk_match m = match_tails(from(v, k), s, &n);
    return m == MK_NO && s->close ? mk_match_text(from(v, k), s->close) : m;
}

static mk_match match_head(mk_view v, const mk_call_syntax *s, mk_head *h) {
    for (int i = 0; i < 2 && s->head[i]; i++) {
        mk_match m = mk_match_pattern(v, s->head[i], h);
        if (m == MK_YES && s->body == MK_BODY_JSON) {
            m = match_form(v, s, h);
        }
        if (m != MK_NO) {
            return m;
        }
    }
    return MK_NO;
}

mk_match mk_match_call(mk_view full, const mk_call_syntax *s, const mk_offered *offered,
                       mk_head *h) {
    mk_view v = limited(full);
    *h = (mk_head){.is_string = -1};
    mk_match m = s->body == MK_BODY_WRAPPED ? match_wrapped(v, s->open == NULL, offered, h)
                 : s->body == MK_BODY_KEYED ? match_keyed(v, h)
                                            : match_head(v, s, h);
    if (m == MK_YES && s->id_names) {
        name_of_id(h);
    }
    return settle(m, v);
}

mk_match mk_match_section(mk_view full, const mk_call_syntax *s, const mk_offered *offered,
                          mk_head *h) {
    mk_view v = limited(full);
    size_t at = s->open ? strlen(s->open) : 0;
    *h = (mk_head){.is_string = -1};
    if (s->open) {
        mk_match m = mk_match_text(v, s->open);
        if (m != MK_YES) {
            return m;
        }
    }
    if (s->list) {
        at += mk_count_space(v.p + at, v.n - at);
        if (at == v.n || v.p[at] != '[') {
            return at == v.n ? settle(MK_MORE, v) : MK_NO;
        }
        at++;
    }
    at += s->open ? mk_count_space(v.p + at, v.n - at) : 0;
    if (at == v.n) {
        return settle(MK_MORE, v);
    }
    mk_match m = mk_match_call(from(v, at), s, offered, h);
    h->n += at;
    return m;
}

mk_match mk_match_next(mk_view full, const mk_call_syntax *s, const mk_offered *offered,
                       mk_head *h) {
    mk_view v = limited(full);
    size_t at = mk_count_space(v.p, v.n);
    bool separated = at < v.n && (v.p[at] == ',' || (v.p[at] == ';' && !s->list));
    *h = (mk_head){.is_string = -1};
    if (s->list && at < v.n && !separated) {
        return MK_NO;
    }
    at += separated;
    at += mk_count_space(v.p + at, v.n - at);
    if (at == v.n) {
        return settle(MK_MORE, v);
    }
    mk_match m = mk_match_call(from(v, at), s, offered, h);
    h->n += at;
    return m;
}

mk_match mk_match_close(mk_view full, const mk_call_syntax *s, size_t *n) {
    mk_view v = limited(full);
    size_t at = mk_count_space(v.p, v.n);
    bool ended = false;
    if (s->list && at < v.n && v.p[at] == ']') {
        ended = true;
        *n = ++at;
        at += mk_count_space(v.p + at, v.n - at);
    }
    if (!s->close) {
        return ended ? MK_YES : at == v.n ? settle(MK_MORE, v) : MK_NO;
    }
    if (at == v.n && !v.last) {
        return MK_MORE;
    }
    mk_match m = mk_match_text(from(v, at), s->close);
    *n = m == MK_YES ? at + strlen(s->close) : *n;
    return m == MK_NO && ended ? MK_YES : m;
}

// What is left of {"name": .., "arguments": ..: more members and the brace.
static mk_match wrapped_tail(mk_view v, size_t *n) {
    for (size_t i = 0;;) {
        member m;
        size_t k = 0;
        mk_match r = next_member(from(v, i), false, &m);
        if (r == MK_YES && m.value == 0) {
            *n = (size_t)(m.key - v.p) + 1;
            return MK_YES;
        }
        i += m.value;
        r = r == MK_YES ? skip_value(from(v, i), &k) : r;
        if (r != MK_YES) {
            return r;
        }
        i += k;
    }
}

mk_match mk_match_tail(mk_view full, const mk_call_syntax *s, size_t *n) {
    mk_view v = limited(full);
    return settle(s->body == MK_BODY_WRAPPED ? wrapped_tail(v, n) : match_tails(v, s, n), v);
}
