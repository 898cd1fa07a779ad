// Rendered chat text -> token ids: the one way in which run, chat, serving and training do it.
//
// Control tokens are recognised in template text only (see template.h).  Nothing is put around the
// text: templates write the begin-of-text token themselves, as transformers' apply_chat_template
// has it.
#ifndef MK_CHAT_ENCODE_H
#define MK_CHAT_ENCODE_H

#include "base/status.h"
#include "chat/jinja.h"
#include "text/tokenizer.h"

// Appends the ids of text[from, to) to *ids.  Encoded apart: no token reaches across `from` or
// `to`.  From 0 it is the prompt a model sees; from the end of a prompt it is what a model has
// generated behind it.  Errors: MK_ENOMEM, MK_ELIMIT.
mk_status mk_chat_encode(const mk_tokenizer *tok, const mk_jinja_text *text, size_t from, size_t to,
                         mk_ids *ids, mk_err *err) MK_WARN_UNUSED;

#endif
