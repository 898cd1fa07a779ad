// The parser: what was held back plus the new piece is one pending text; each state takes what it
// can decide about from its front, the rest is held for the next call.
#include "chat/parse.h"

#include <string.h>

#include "base/alloc.h"
#include "chat/parse_int.h"

#define MAX_HELD ((size_t)1 << 30)  // of one push; far less stays behind it

// --- opening and closing -------------------------------------------------------------------------

static mk_status check_tags(mk_parse_opts *o, mk_err *err) {
    o->think_open = o->think_open ? o->think_open : "<think>";
    o->think_close = o->think_close ? o->think_close : "</think>";
    o->format = o->format ? o->format : &mk_parse_generic;
    const char *tags[] = {o->think_open, o->think_close};
    for (int i = 0; i < 2; i++) {
        size_t n = strlen(tags[i]);
        if (n == 0 || n > MK_PARSE_MAX_TAG || mk_is_space(tags[i][0])) {
            return MK_FAIL(
                err, MK_EUSAGE,
                "reasoning tag \"%.80s\": expected 1 to %d bytes that start with no blank", tags[i],
                MK_PARSE_MAX_TAG);
        }
    }
    return MK_OK;
}

static const json_t *function_of(const json_t *tool) {
    const json_t *f = json_object_get(tool, "function");
    return f ? f : tool;
}

static mk_status list_names(mk_parser *p, mk_err *err) {
    size_t n = json_array_size(p->o.tools), i;
    json_t *tool;
    if (n == 0) {
        return MK_OK;
    }
    p->names = mk_try_alloc(n, sizeof *p->names);
    if (!p->names) {
        return MK_FAIL(err, MK_ENOMEM, "no memory for the names of %zu tools", n);
    }
    json_array_foreach(p->o.tools, i, tool) {
        const char *name = json_string_value(json_object_get(function_of(tool), "name"));
        if (name) {
            p->names[p->offered.n++] = name;
        }
    }
    p->offered.name = p->names;
    return MK_OK;
}

static void note_first(mk_parser *p, const char *marker) {
    p->first[(unsigned char)marker[0]] = true;
    p->watch = true;
}

static void note_markers(mk_parser *p) {
    const mk_parse_format *f = p->o.format;
    for (int i = 0; i < MK_N_DROP && f->drop[i]; i++) {
        note_first(p, f->drop[i]);
    }
    for (int i = 0; i < MK_N_SYNTAX && f->syntax[i].body != MK_BODY_NONE && p->names; i++) {
        note_first(p, f->syntax[i].open ? f->syntax[i].open : "{");
    }
}

mk_status mk_parser_create(const mk_parse_opts *o, mk_parse_fn fn, void *arg, mk_parser **out,
                           mk_err *err) {
    mk_parse_opts opts = *o;
    *out = NULL;
    MK_TRY(check_tags(&opts, err));
    mk_parser *p = mk_try_alloc(1, sizeof *p);
    if (!p) {
        return MK_FAIL(err, MK_ENOMEM, "no memory for a parser");
    }
    *p = (mk_parser){.o = opts, .fn = fn, .arg = arg, .fresh = true};
    mk_buf_init(&p->held, MAX_HELD);
    mk_buf_init(&p->out, MAX_HELD);
    mk_args_init(&p->args, &p->out);
    mk_status st = list_names(p, err);
    if (st != MK_OK) {
        mk_parser_destroy(p);
        return st;
    }
    p->state = opts.no_reasoning      ? MK_PS_CONTENT
               : opts.format->harmony ? MK_PS_HEADER
               : opts.starts_inside   ? MK_PS_THINK
                                      : MK_PS_START;
    note_markers(p);
    *out = p;
    return MK_OK;
}

void mk_parser_destroy(mk_parser *p) {
    if (p) {
        mk_args_free(&p->args);
        mk_buf_free(&p->held);
        mk_buf_free(&p->out);
        mk_free(p->names);
        mk_free(p);
    }
}

// --- events --------------------------------------------------------------------------------------

void mk_parse_go(mk_parser *p, mk_parse_state s) {
    p->state = s;
    p->moved = true;
}

void mk_parse_give(mk_parser *p, mk_ae_kind kind, const char *text, size_t n) {
    int index = kind == MK_AE_TOOL_ARGS ? p->n_calls - 1 : 0;
    if (n > 0 && p->fn) {
        p->fn(p->arg, &(mk_answer_event){.kind = kind, .text = text, .n = n, .index = index});
    }
}

static void send_args(mk_parser *p) {
    mk_parse_give(p, MK_AE_TOOL_ARGS, p->out.data, p->out.len);
    if (!p->out.failed) {
        mk_buf_clear(&p->out);
    }
}

void mk_parse_begin_call(mk_parser *p, const mk_call_syntax *s, const mk_head *h) {
    char name[MK_PARSE_MAX_NAME + 1];
    const json_t *schema = NULL, *tool;
    size_t i;
    memcpy(name, h->name, h->n_name);
    name[h->n_name] = 0;
    json_array_foreach(p->o.tools, i, tool) {
        const json_t *f = function_of(tool);
        const char *other = json_string_value(json_object_get(f, "name"));
        if (!schema && other && strcmp(other, name) == 0) {
            schema = json_object_get(f, "parameters");
        }
    }
    p->syntax = s;
    if (p->fn) {
        p->fn(p->arg,
              &(mk_answer_event){.kind = MK_AE_TOOL_BEGIN, .index = p->n_calls, .name = name});
    }
    p->n_calls++;
    mk_args_begin(&p->args, s, h->form, schema);
    mk_parse_go(p, MK_PS_ARGS);
}

void mk_parse_end_call(mk_parser *p, bool broken) {
    send_args(p);
    if (p->fn) {
        p->fn(p->arg, &(mk_answer_event){
                          .kind = MK_AE_TOOL_END, .index = p->n_calls - 1, .broken = broken});
    }
    p->fresh = true;
    bool harmony = p->o.format->harmony;
    p->channel = MK_CHANNEL_COMMENTARY;
    p->started = p->started || harmony;  // a mark right behind a broken call ends its message
    mk_parse_go(p, harmony  ? (broken ? MK_PS_BODY : MK_PS_BODY_END)
                   : broken ? MK_PS_CONTENT
                            : MK_PS_TAIL);
}

// --- reasoning -----------------------------------------------------------------------------------

static size_t at_start(mk_parser *p, mk_view v) {
    size_t k = mk_count_space(v.p, v.n);
    mk_match m = mk_match_text((mk_view){v.p + k, v.n - k, v.last}, p->o.think_open);
    bool far = k > MK_PARSE_MAX_SPACE;
    if (m == MK_YES && !far) {
        mk_parse_go(p, MK_PS_THINK);
        return k + strlen(p->o.think_open);
    }
    if (m == MK_MORE && !far) {
        return 0;
    }
    mk_parse_go(p, MK_PS_CONTENT);
    return 0;
}

// Does a call begin here, or a marker that is dropped?  *s NULL: a marker, h->n bytes long.
static mk_match look(const mk_parser *p, mk_view v, bool thinking, const mk_call_syntax **s,
                     mk_head *h) {
    const mk_parse_format *f = p->o.format;
    *s = NULL;
    if (!p->watch || v.n == 0 || !p->first[(unsigned char)v.p[0]]) {
        return MK_NO;
    }
    for (int i = 0; i < MK_N_DROP && f->drop[i] && !thinking; i++) {
        mk_match m = mk_match_text(v, f->drop[i]);
        h->n = strlen(f->drop[i]);
        if (m != MK_NO) {
            return m;
        }
    }
    for (int i = 0; i < MK_N_SYNTAX && f->syntax[i].body != MK_BODY_NONE && p->names; i++) {
        *s = &f->syntax[i];
        bool fits = thinking ? (*s)->ends_reasoning : p->fresh || (*s)->open;
        mk_match m = fits ? mk_match_section(v, *s, &p->offered, h) : MK_NO;
        if (m != MK_NO) {
            return m;
        }
    }
    return MK_NO;
}

static size_t take_marker(mk_parser *p, const mk_call_syntax *s, const mk_head *h) {
    if (s) {
        mk_parse_begin_call(p, s, h);
    } else {
        mk_parse_go(p, MK_PS_AFTER);
    }
    return h->n;
}

// Text up to what is not certain.  White space is held until something follows it, so that it can
// be dropped in front of a tag or a call; of a long stretch only the last bytes wait.
static size_t in_text(mk_parser *p, mk_view v, bool thinking) {
    mk_ae_kind kind = thinking ? MK_AE_REASONING : MK_AE_TEXT;
    size_t given = 0;
    while (given < v.n) {
        size_t k = given + mk_count_space(v.p + given, v.n - given);
        mk_view rest = {v.p + k, v.n - k, v.last};
        const mk_call_syntax *s = NULL;
        mk_head h = {0};
        given = k - given > MK_PARSE_MAX_SPACE ? k - MK_PARSE_MAX_SPACE : given;
        mk_match close = thinking && k < v.n ? mk_match_text(rest, p->o.think_close) : MK_NO;
        mk_match m = close == MK_NO ? look(p, rest, thinking, &s, &h) : close;
        if (m == MK_YES) {
            mk_parse_give(p, kind, v.p, given);
            if (close == MK_YES) {
                mk_parse_go(p, MK_PS_AFTER);
                return k + strlen(p->o.think_close);
            }
            return k + take_marker(p, s, &h);
        }
        if (m == MK_MORE || (k == v.n && !v.last)) {
            break;
        }
        if (k == v.n) {  // the end: white space behind reasoning is dropped, behind text it is text
            mk_parse_give(p, kind, v.p, thinking ? given : k);
            return k;
        }
        p->fresh = false;
        given = k + 1;
    }
    mk_parse_give(p, kind, v.p, given);
    return given;
}

static size_t in_think(mk_parser *p, mk_view v) {
    if (!p->started) {
        size_t k = mk_count_space(v.p, v.n);
        if (k > 0 || v.n == 0) {
            return k;
        }
        p->started = p->moved = true;
    }
    return in_text(p, v, true);
}

static size_t in_after(mk_parser *p, mk_view v) {
    size_t k = mk_count_space(v.p, v.n);
    if (k < v.n) {
        p->fresh = true;
        mk_parse_go(p, MK_PS_CONTENT);
    }
    return k;
}

static size_t in_content(mk_parser *p, mk_view v) {
    if (p->watch) {
        return in_text(p, v, false);
    }
    mk_parse_give(p, MK_AE_TEXT, v.p, v.n);
    return v.n;
}

// --- calls ---------------------------------------------------------------------------------------

size_t mk_parse_args(mk_parser *p, mk_view v) {
    size_t k = p->args.state == MK_ARGS_GO ? mk_args_step(&p->args, v) : 0;
    if (p->args.state != MK_ARGS_GO) {
        mk_parse_end_call(p, p->args.state == MK_ARGS_BROKEN);
    }
    return k;
}

size_t mk_parse_tail(mk_parser *p, mk_view v) {
    size_t n = 0;
    mk_match m = mk_match_tail(v, p->syntax, &n);
    if (m != MK_MORE) {
        mk_parse_go(p, MK_PS_BETWEEN);
    }
    return m == MK_YES ? n : 0;
}

size_t mk_parse_between(mk_parser *p, mk_view v) {
    mk_head h;
    size_t n = 0;
    mk_match m = mk_match_next(v, p->syntax, &p->offered, &h);
    if (m == MK_YES) {
        mk_parse_begin_call(p, p->syntax, &h);
        return h.n;
    }
    m = m == MK_NO ? mk_match_close(v, p->syntax, &n) : m;
    if (m != MK_MORE) {
        mk_parse_go(p, MK_PS_AFTER);
    }
    return m == MK_YES ? n : 0;
}

// --- the loop ------------------------------------------------------------------------------------

static size_t (*const step[])(mk_parser *p, mk_view v) = {
    [MK_PS_START] = at_start,           [MK_PS_THINK] = in_think,
    [MK_PS_AFTER] = in_after,           [MK_PS_CONTENT] = in_content,
    [MK_PS_ARGS] = mk_parse_args,       [MK_PS_TAIL] = mk_parse_tail,
    [MK_PS_BETWEEN] = mk_parse_between, [MK_PS_HEADER] = mk_parse_header,
    [MK_PS_BODY] = mk_parse_body,       [MK_PS_BODY_END] = mk_parse_body_end,
};

// Returns how much of the text was settled.
static size_t settle(mk_parser *p, const char *text, size_t n, bool last) {
    size_t at = 0;
    for (;;) {
        p->moved = false;
        size_t k = step[p->state](p, (mk_view){text + at, n - at, last});
        MK_DCHECK(k <= n - at);
        at += k;
        if ((k == 0 && !p->moved) || (at == n && !p->moved)) {
            break;
        }
    }
    send_args(p);
    return at;
}

static mk_status check(mk_parser *p, mk_err *err) {
    bool no_memory = p->held.failed || p->out.failed || p->args.value.failed;
    if (p->failed == MK_OK && (no_memory || p->args.too_long)) {
        p->failed = p->args.too_long ? MK_ELIMIT : MK_ENOMEM;
    }
    return p->failed == MK_OK ? MK_OK
           : p->failed == MK_ELIMIT
               ? MK_FAIL(err, MK_ELIMIT,
                         "a parameter of a tool call is longer than %d bytes; ask the model for "
                         "less, or let the tool take a string",
                         MK_PARSE_MAX_VALUE)
               : MK_FAIL(err, MK_ENOMEM, "no memory to parse the answer");
}

mk_status mk_parser_push(mk_parser *p, const char *text, size_t n, mk_err *err) {
    MK_TRY(check(p, err));
    bool joined = p->held.len > 0;
    if (n == 0) {
        return MK_OK;
    }
    if (joined) {
        mk_buf_add(&p->held, text, n);
        MK_TRY(check(p, err));
        text = p->held.data;
        n = p->held.len;
    }
    size_t at = settle(p, text, n, false);
    if (joined) {
        memmove(p->held.data, p->held.data + at, n - at);
        p->held.len = n - at;
        p->held.data[p->held.len] = 0;
    } else if (at < n) {
        mk_buf_add(&p->held, text + at, n - at);
    }
    return check(p, err);
}

mk_status mk_parser_finish(mk_parser *p, mk_err *err) {
    MK_TRY(check(p, err));
    (void)settle(p, p->held.data ? p->held.data : "", p->held.len, true);
    mk_buf_clear(&p->held);
    if (p->state == MK_PS_ARGS) {
        mk_parse_end_call(p, true);
    }
    return check(p, err);
}

mk_parse_place mk_parser_place(const mk_parser *p) {
    switch (p->state) {
    case MK_PS_START:
    case MK_PS_HEADER:
        return MK_PLACE_START;
    case MK_PS_THINK:
        return MK_PLACE_REASONING;
    case MK_PS_AFTER:
    case MK_PS_CONTENT:
        return MK_PLACE_ANSWER;
    case MK_PS_BODY:
        return p->channel == MK_CHANNEL_ANALYSIS ? MK_PLACE_REASONING
               : p->channel == MK_CHANNEL_FINAL  ? MK_PLACE_ANSWER
                                                 : MK_PLACE_START;
    default:
        return MK_PLACE_CALL;
    }
}

int mk_parser_n_calls(const mk_parser *p) {
    return p->n_calls;
}

// --- control tokens ------------------------------------------------------------------------------

static bool holds(const char *marker, const char *piece, size_t n) {
    return marker && memmem(marker, strlen(marker), piece, n) != NULL;
}

bool mk_parser_wants(const mk_parser *p, const char *piece, size_t n) {
    const mk_parse_format *f = p->o.format;
    if (n == 0) {
        return false;
    }
    bool any = holds(p->o.think_open, piece, n) || holds(p->o.think_close, piece, n) ||
               (f->harmony && mk_parse_harmony_marker(piece, n));
    for (int i = 0; i < MK_N_DROP && !any; i++) {
        any = holds(f->drop[i], piece, n);
    }
    for (int i = 0; i < MK_N_SYNTAX && !any && p->names; i++) {
        const mk_call_syntax *s = &f->syntax[i];
        any = holds(s->open, piece, n) || holds(s->close, piece, n) ||
              holds(s->head[0], piece, n) || holds(s->head[1], piece, n) ||
              holds(s->tail[0], piece, n) || holds(s->tail[1], piece, n) ||
              holds(s->key, piece, n) || holds(s->end_value, piece, n) || holds(s->quote, piece, n);
    }
    return any;
}

bool mk_parse_ends_in(const char *prompt, size_t n, const char *tag) {
    size_t k = strlen(tag);
    while (n > 0 && mk_is_space(prompt[n - 1])) {
        n--;
    }
    return k > 0 && n >= k && memcmp(prompt + n - k, tag, k) == 0;
}
