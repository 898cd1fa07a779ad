// Answers with tool calls in them: which text may stand around the calls, and what stands in them.
#include <stdio.h>
#include <string.h>

#include "chat/grammar_int.h"

// --- text without a trigger ----------------------------------------------------------------------
// All bytes but those in `but`, and but the first of a token's spelling.
static mk_gn bytes_but(mk_gb *b, const char *but, size_t n) {
    mk_byteset s = mk_g_text_bytes();
    for (size_t i = 0; i < n; i++) {
        unsigned c = (unsigned char)but[i];
        s.bit[c / 64] &= ~(UINT64_C(1) << (c % 64));
    }
    return mk_gb_set(b, &s);
}

static mk_gn maybe(mk_gb *b, mk_gn x) {
    return mk_gb_repeat(b, x, 0, 1);
}

// Any text, and calls behind it.  calls: without the trigger.
static mk_gn text_and_calls(mk_gb *b, const char *trigger, mk_gn calls) {
    size_t n = strlen(trigger);
    if ((unsigned char)trigger[0] == MK_GRAMMAR_TOKEN) {
        mk_gn marked = mk_gb_seq2(b, mk_gb_bytes(b, trigger, n), calls);
        return mk_gb_seq2(b, mk_gb_repeat(b, bytes_but(b, "", 0), 0, MK_G_INF), maybe(b, marked));
    }
    if (trigger[0] == '{') {  // a call without a mark is one only where the answer begins
        mk_gn all = mk_gb_repeat(b, bytes_but(b, "", 0), 0, MK_G_INF);
        mk_gn text = maybe(b, mk_gb_seq2(b, bytes_but(b, "{ \t\r\n", 5), all));
        return mk_gb_alt2(b, text, mk_gb_seq2(b, mk_gb_bytes(b, trigger, n), calls));
    }
    // text in which the trigger, written in letters, does not stand; behind a trigger, calls
    mk_byteset plain = mk_g_text_bytes();
    mk_guntil o = {.mark = trigger, .plain = &plain, .escape = MK_GN_NONE, .then = calls};
    return mk_gb_until(b, &o);
}

// --- calls ---------------------------------------------------------------------------------------
// The arguments, in a rule: they stand in the grammar once for all places.
static mk_gn arguments(mk_gb *b, const mk_grammar_call *c, const mk_grammar_params *p) {
    uint32_t rule = mk_gb_rule(b, "arguments");
    bool before = b->status == MK_OK;
    mk_gn value = p != NULL           ? mk_gb_params(b, c->schema, p)
                  : c->schema != NULL ? mk_gb_schema(b, c->schema)
                                      : mk_gb_json_object(b);
    if (before && b->status != MK_OK && b->err != NULL && c->where != NULL) {
        mk_err inner = *b->err;
        const char *sep = inner.msg[0] == '/' ? "" : ": ";
        (void)MK_FAIL(b->err, inner.code, "%s%s%s", c->where, sep, inner.msg);
    }
    if (b->status == MK_OK) {
        mk_gb_rule_set(b, rule, value);
    }
    return mk_gb_call(b, rule);
}

// `cut`: bytes of the first call's text that stand elsewhere.
static mk_gn calls(mk_gb *b, const mk_grammar_calls *c, size_t cut) {
    mk_gnlist first = {0}, next = {0};
    if (c->params != NULL) {
        const mk_grammar_params *p = c->params;
        mk_gb_write_as(b, &(mk_gvalues){.notation = p->values,
                                        .avoid = p->avoid,
                                        .quote = p->quote,
                                        .sorted = p->sorted});
    }
    for (size_t i = 0; i < c->n && b->status == MK_OK; i++) {
        const mk_grammar_call *f = &c->call[i];
        mk_gn args = arguments(b, f, c->params);
        mk_gnlist_add(b, &first, mk_gb_seq2(b, mk_gb_text(b, f->first + cut), args));
        if (c->max != 1) {
            mk_gnlist_add(b, &next, mk_gb_seq2(b, mk_gb_text(b, f->next), args));
        }
    }
    mk_gn one = mk_gnlist_alt(b, &first), more = mk_gnlist_alt(b, &next);
    mk_gn rest =
        c->max == 1 ? MK_GN_EMPTY : mk_gb_repeat(b, more, 0, c->max > 0 ? c->max - 1 : MK_G_INF);
    return mk_gb_seq3(b, one, rest, mk_gb_text(b, c->tail != NULL ? c->tail : ""));
}

static mk_gn form(mk_gb *b, const mk_grammar_calls *c) {
    const char *p = c->pattern != NULL ? c->pattern : "";
    const mk_re_opts re = {.match = MK_RE_FULL, .what = "regex"};
    switch (c->form) {
    case MK_FORM_SCHEMA:
        return mk_gb_schema(b, c->schema);
    case MK_FORM_REGEX:
        return mk_gb_regex(b, p, strlen(p), &re);
    case MK_FORM_CHOICE:
        return mk_gb_choice(b, c->schema);
    case MK_FORM_GBNF:
        return mk_gb_gbnf(b, p, strlen(p));
    case MK_FORM_JSON:
    case MK_FORM_NONE:
        break;
    }
    return mk_gb_json_object(b);
}

// --- headers -------------------------------------------------------------------------------------
// What marks begin with stands in no text in front of a call: readers take their letters for them.
static mk_gn unmarked_text(mk_gb *b) {
    mk_byteset plain = mk_g_text_bytes();
    mk_guntil o = {.mark = "<|", .plain = &plain, .escape = MK_GN_NONE, .then = MK_GN_NONE};
    return mk_gb_until(b, &o);
}

// A message that does not end the answer, and the beginning of the next one.
static mk_gn message(mk_gb *b, const mk_grammar_headers *h, const char *channel) {
    if (h->end[0] == '\0') {
        return MK_GN_NONE;
    }
    mk_gn head =
        mk_gb_seq3(b, mk_gb_text(b, h->channel), mk_gb_text(b, channel), mk_gb_text(b, h->message));
    mk_gn next =
        mk_gb_seq3(b, mk_gb_text(b, h->end), mk_gb_text(b, h->start), mk_gb_text(b, "assistant"));
    return mk_gb_seq3(b, head, unmarked_text(b), next);
}

// The recipient stands before the channel, as templates write it, or behind it, as the model does.
static mk_gn call_header(mk_gb *b, const mk_grammar_headers *h, const char *to) {
    mk_gn channel = mk_gb_seq2(b, mk_gb_text(b, h->channel), mk_gb_text(b, "commentary"));
    mk_gn name = mk_gb_seq2(b, mk_gb_text(b, " to="), mk_gb_text(b, to));
    mk_gn blank = mk_gb_repeat(b, mk_gb_text(b, " "), 0, 1);
    mk_gn marked = mk_gb_seq3(b, blank, mk_gb_text(b, h->constrain), mk_gb_text(b, "json"));
    mk_gn form = mk_gb_alt2(b, mk_gb_text(b, " json"), marked);
    mk_gn both = mk_gb_alt2(b, mk_gb_seq2(b, name, channel), mk_gb_seq2(b, channel, name));
    return mk_gb_seq3(b, both, form, mk_gb_text(b, h->message));
}

static mk_gn with_headers(mk_gb *b, const mk_grammar_calls *c, mk_gn as_form) {
    const mk_grammar_headers *h = c->headers;
    mk_gnlist last = {0};
    bool form = c->form != MK_FORM_NONE;
    for (size_t i = 0; i < c->n && b->status == MK_OK; i++) {
        mk_gn args = arguments(b, &c->call[i], NULL);
        mk_gnlist_add(b, &last, mk_gb_seq2(b, call_header(b, h, c->call[i].first), args));
    }
    mk_gn thought = message(b, h, "analysis");
    if (!c->may_be_text) {
        mk_gn first = thought == MK_GN_NONE ? MK_GN_EMPTY : maybe(b, thought);
        return mk_gb_seq2(b, first, mk_gnlist_alt(b, &last));
    }
    mk_gn all = mk_gb_repeat(b, bytes_but(b, "", 0), 0, MK_G_INF);
    mk_gn head =
        mk_gb_seq3(b, mk_gb_text(b, h->channel), mk_gb_text(b, "final"), mk_gb_text(b, h->message));
    mk_gnlist_add(b, &last, mk_gb_seq2(b, head, form ? as_form : all));
    mk_gn before = form || thought == MK_GN_NONE
                       ? thought
                       : mk_gb_alt2(b, thought, message(b, h, "commentary"));
    mk_gn messages = before == MK_GN_NONE ? MK_GN_EMPTY : mk_gb_repeat(b, before, 0, MK_G_INF);
    return mk_gb_seq2(b, messages, mk_gnlist_alt(b, &last));
}

mk_status mk_grammar_from_calls(const mk_grammar_calls *c, const mk_grammar_limits *limits,
                                mk_grammar **out, mk_err *err) {
    mk_gb b;
    mk_err own;
    mk_gb_init(&b, limits, err != NULL ? err : &own);
    const char *trigger = c->trigger != NULL ? c->trigger : "";
    bool in_text = c->may_be_text && c->form == MK_FORM_NONE && trigger[0] != 0;
    bool may_form = c->may_be_text && c->form != MK_FORM_NONE;
    mk_gn as_form = may_form ? form(&b, c) : MK_GN_EMPTY, x;
    if (c->headers != NULL) {
        x = with_headers(&b, c, as_form);
        MK_TRY(mk_gb_finish(&b, x, out));
        mk_grammar_set_headers(*out);
        return MK_OK;
    }
    if (c->open) {
        mk_gn all = mk_gb_repeat(&b, mk_gb_range(&b, 0, 255), 0, MK_G_INF);
        x = in_text ? all : mk_gb_seq2(&b, mk_gb_text(&b, trigger), all);
    } else {
        x = calls(&b, c, in_text ? strlen(trigger) : 0);
        x = in_text ? text_and_calls(&b, trigger, x) : x;
    }
    x = may_form ? mk_gb_alt2(&b, as_form, x) : x;
    return mk_gb_finish(&b, x, out);
}
