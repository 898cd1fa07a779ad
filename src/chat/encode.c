// See encode.h.
#include "chat/encode.h"

#include "base/alloc.h"

mk_status mk_chat_encode(const mk_tokenizer *tok, const mk_jinja_text *text, size_t from, size_t to,
                         mk_ids *ids, mk_err *err) {
    MK_ASSERT(from <= to && to <= text->text.len);
    mk_text_run *runs = mk_try_alloc(text->n_runs ? text->n_runs : 1, sizeof *runs);
    if (!runs) {
        return MK_FAIL(err, MK_ENOMEM, "no memory for %zu runs of prompt text", text->n_runs);
    }
    size_t n = 0;
    for (size_t i = 0; i < text->n_runs && (n == 0 || runs[n - 1].end < to - from); i++) {
        size_t end = text->runs[i].end < to ? text->runs[i].end : to;
        if (end > from) {
            runs[n++] = (mk_text_run){end - from, text->runs[i].user};
        }
    }
    mk_encode_opts o = {.parse_special = true, .continues = from > 0, .runs = runs, .n_runs = n};
    mk_status st = mk_tokenizer_encode(tok, text->text.data ? text->text.data + from : "",
                                       to - from, o, ids, err);
    mk_free(runs);
    return st;
}
