// What the two files of the Anthropic dialect share.
#ifndef MK_SERVE_ANTHROPIC_INT_H
#define MK_SERVE_ANTHROPIC_INT_H

#include "serve/dialect.h"

mk_status mk_anthropic_parse(const json_t *body, mk_ask *ask, mk_err *err);

mk_writer_state *mk_anthropic_open(const mk_reply_info *info);
void mk_anthropic_event(mk_writer_state *w, int choice, const mk_answer_event *ev, mk_buf *out);
void mk_anthropic_finish(mk_writer_state *w, mk_buf *out);
void mk_anthropic_heartbeat(mk_writer_state *w, mk_buf *out);
void mk_anthropic_close(mk_writer_state *w);
void mk_anthropic_error(int http_status, const mk_err *err, mk_buf *out);

#endif
