// From tokens to the parser.
#include "chat/parse.h"

mk_status mk_parse_token(mk_parser *p, mk_detok *detok, const mk_tokenizer *tok, int32_t id,
                         mk_err *err) {
    const char *text = NULL;
    size_t n = 0, n_piece = 0;
    if (mk_tokenizer_type(tok, id) == MK_TOKEN_CONTROL) {
        const char *piece = mk_tokenizer_piece(tok, id, &n_piece);
        if (piece && mk_parser_wants(p, piece, n_piece)) {
            mk_detok_finish(detok, &text, &n);  // what it holds is no character now
            MK_TRY(mk_parser_push(p, text, n, err));
            return mk_parser_push(p, piece, n_piece, err);
        }
    }
    mk_detok_push(detok, id, &text, &n);
    return mk_parser_push(p, text, n, err);
}
