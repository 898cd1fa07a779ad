// The two halves of the dialect mk_dialect_openai_completions.
#ifndef MK_SERVE_OPENAI_COMPLETIONS_H
#define MK_SERVE_OPENAI_COMPLETIONS_H

#include "serve/openai_int.h"

enum { MK_OPENAI_MAX_TOP = 20 };  // alternatives to a token

mk_writer_state *mk_openai_completions_open(const mk_reply_info *info);
void mk_openai_completions_event(mk_writer_state *w, int choice, const mk_answer_event *ev,
                                 mk_buf *out);
void mk_openai_completions_finish(mk_writer_state *w, mk_buf *out);
void mk_openai_completions_heartbeat(mk_writer_state *w, mk_buf *out);
void mk_openai_completions_close(mk_writer_state *w);

#endif
