// Events of the parser as one line of text: {R|reasoning}{T|text}{C0 name|arguments}, a call that
// broke off with "!" behind its arguments.  Neighbouring pieces of one kind are joined; an event
// that does not fit where it stands writes "?".
#ifndef MK_TESTS_CHAT_PARSE_EVENTS_H
#define MK_TESTS_CHAT_PARSE_EVENTS_H

#include "base/buf.h"
#include "chat/parse.h"

typedef struct {
    mk_buf line;
    int kind;  // of the open brace; -1: none
    int n_calls;
} parse_events;

static inline void parse_events_init(parse_events *e) {
    *e = (parse_events){.kind = -1};
    mk_buf_init(&e->line, (size_t)1 << 28);
}

static inline void parse_events_switch(parse_events *e, int kind) {
    if (e->kind != kind) {
        mk_buf_puts(&e->line, e->kind >= 0 ? "}" : "");
        mk_buf_puts(&e->line, kind == MK_AE_REASONING ? "{R|" : kind == MK_AE_TEXT ? "{T|" : "");
        e->kind = kind;
    }
}

static inline void parse_events_take(void *arg, const mk_answer_event *ev) {
    parse_events *e = arg;
    bool in_call = e->kind == MK_AE_TOOL_ARGS;
    switch (ev->kind) {
    case MK_AE_REASONING:
    case MK_AE_TEXT:
        mk_buf_puts(&e->line, in_call || ev->n == 0 ? "?" : "");
        parse_events_switch(e, (int)ev->kind);
        break;
    case MK_AE_TOOL_BEGIN:
        mk_buf_puts(&e->line, in_call || ev->index != e->n_calls ? "?" : "");
        parse_events_switch(e, -1);
        mk_buf_printf(&e->line, "{C%d %s|", ev->index, ev->name);
        e->kind = MK_AE_TOOL_ARGS;
        e->n_calls++;
        return;
    case MK_AE_TOOL_ARGS:
        mk_buf_puts(&e->line, !in_call || ev->n == 0 || ev->index != e->n_calls - 1 ? "?" : "");
        break;
    case MK_AE_TOOL_END:
        mk_buf_puts(&e->line, !in_call || ev->index != e->n_calls - 1 ? "?" : "");
        mk_buf_puts(&e->line, ev->broken ? "!" : "");
        parse_events_switch(e, -1);
        return;
    default:
        mk_buf_puts(&e->line, "?");
    }
    mk_buf_add(&e->line, ev->text, ev->n);
}

static inline void parse_events_end(parse_events *e) {
    mk_buf_puts(&e->line, e->kind == MK_AE_TOOL_ARGS ? "?" : "");
    parse_events_switch(e, -1);
    mk_buf_puts(&e->line, "");
}

#endif
