// Shared by the files that find out how calls are written (call_*.c).
#ifndef MK_CHAT_CALL_FRAME_INT_H
#define MK_CHAT_CALL_FRAME_INT_H

#include "chat/call_frame.h"
#include "chat/parse.h"

#define ARG_KEY          "mk_marked_key"
#define ARG_AGAIN        "mk_marked_again"  // comes first in the alphabet
#define ARG_VALUE        "mk_marked_value"
#define ARG_NUMBER       70717
#define ARG_NUMBER_TEXT  "70717"
#define MK_CALL_TEXT_MAX ((size_t)1 << 20)

typedef enum { MK_ARGS_ONE, MK_ARGS_NO, MK_ARGS_TWO, MK_ARGS_NUMBER, MK_ARGS_LIST } mk_call_args;

// Templates differ in what they take: ids of a certain form, arguments as a value or as a text,
// content that is empty or none.
typedef struct {
    int n_call;
    mk_call_args args;
    bool long_id, as_text, null_content;
} mk_call_how;

typedef struct {
    size_t from, to;
} mk_call_span;

// The answer with one call or more, as a grammar knows it; empty if the template cannot write it.
mk_status mk_call_spelled(const mk_chat_template *t, const mk_tokenizer *tok, const mk_call_how *h,
                          mk_buf *out, mk_err *err) MK_WARN_UNUSED;
const char *mk_call_find(const mk_buf *b, size_t from, const char *what);
// Up to the first token that ends an answer, or all of it but white space at its end.
size_t mk_call_turn_end(const mk_tokenizer *tok, const mk_buf *b, size_t from);
void mk_call_put(mk_buf *out, const mk_buf *b, mk_call_span s);
// A mark at the beginning is what a call is known by: a token, "<tag>", "[TAG]", a word.
void mk_call_set_trigger(mk_call_frame *f, const mk_buf *b, size_t end);

// Parameters one by one; f stays OPEN if they cannot be told apart.
mk_status mk_call_params(const mk_chat_template *t, const mk_tokenizer *tok, const mk_call_how *h,
                         mk_parse_writing w, mk_call_frame *f, mk_err *err) MK_WARN_UNUSED;
// [f(a=1)] in the marks of the parser's table.
mk_status mk_call_python(const mk_tokenizer *tok, mk_parse_writing w, mk_call_frame *f,
                         mk_err *err) MK_WARN_UNUSED;
mk_status mk_call_headers(const mk_tokenizer *tok, mk_call_frame *f, mk_err *err) MK_WARN_UNUSED;

#endif
