// A made-up vocabulary of any size that tokenizers of the byte-level BPE kind can load: for models
// with random weights.
#ifndef MK_BENCH_MAKE_VOCAB_H
#define MK_BENCH_MAKE_VOCAB_H

#include "format/gguf.h"

typedef struct {
    const char *pre;             // tokenizer.ggml.pre
    const char *const *special;  // names of the tokens behind the text tokens, NULL at the end
    int bos, eos;                // indices into `special`
    bool add_bos;
    const char *chat_template;
} mk_vocab_kind;

// The special tokens stand where the published models have them if n_text is theirs.
extern const mk_vocab_kind mk_vocab_llama, mk_vocab_qwen2, mk_vocab_deepseek;

// Adds the keys tokenizer.*: n_text text tokens (256 bytes, then all pairs of 64 letters of
// ASCII, then pairs and a letter, each made by one merge; 257 <= n_text <= 256 + 4096 * 65), the
// special tokens, and unused ones up to n_vocab.  Assertion if these do not fit.
void mk_make_vocab(const mk_vocab_kind *kind, int64_t n_vocab, int64_t n_text, mk_gguf_out *o);

#endif
