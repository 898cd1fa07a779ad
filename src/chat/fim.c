// The marks that families use; the first three that a vocabulary has are taken.
#include "chat/fim.h"

#include <string.h>

// All known families put the prefix first, then the suffix, then a mark behind which the model goes
// on.  Sources: the models' tokenizer configurations and cards.
static const struct {
    const char *prefix, *suffix, *middle;
} marks[] = {
    {"<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"},  // Qwen2.5-Coder, CodeGemma
    {"<\xef\xbd\x9c"
     "fim\xe2\x96\x81"
     "begin\xef\xbd\x9c>",  // DeepSeek: begin, hole, end
     "<\xef\xbd\x9c"
     "fim\xe2\x96\x81"
     "hole\xef\xbd\x9c>",
     "<\xef\xbd\x9c"
     "fim\xe2\x96\x81"
     "end\xef\xbd\x9c>"},
    {"<fim_prefix>", "<fim_suffix>", "<fim_middle>"},           // StarCoder
    {"<fim-prefix>", "<fim-suffix>", "<fim-middle>"},           // SantaCoder
    {"<|code_prefix|>", "<|code_suffix|>", "<|code_middle|>"},  // GLM-4
};

static int32_t find(const mk_tokenizer *t, const char *piece) {
    return mk_tokenizer_find(t, piece, strlen(piece));
}

static mk_status add_text(const mk_tokenizer *t, const char *text, mk_ids *ids, mk_err *err) {
    mk_encode_opts o = {.continues = true};
    return mk_tokenizer_encode(t, text, strlen(text), o, ids, err);
}

mk_status mk_fim_encode(const mk_tokenizer *t, const char *prefix, const char *suffix, mk_ids *ids,
                        mk_err *err) {
    for (size_t i = 0; i < sizeof marks / sizeof marks[0]; i++) {
        int32_t a = find(t, marks[i].prefix), b = find(t, marks[i].suffix),
                c = find(t, marks[i].middle);
        if (a < 0 || b < 0 || c < 0) {
            continue;
        }
        if (mk_tokenizer_add_bos(t) && mk_tokenizer_bos(t) >= 0) {
            MK_TRY(mk_ids_push(ids, mk_tokenizer_bos(t), err));
        }
        MK_TRY(mk_ids_push(ids, a, err));
        MK_TRY(add_text(t, prefix, ids, err));
        MK_TRY(mk_ids_push(ids, b, err));
        MK_TRY(add_text(t, suffix, ids, err));
        return mk_ids_push(ids, c, err);
    }
    return MK_FAIL(err, MK_EUNSUPPORTED,
                   "/suffix: this model was not made to fill in the middle: its vocabulary has no "
                   "marks for it");
}
