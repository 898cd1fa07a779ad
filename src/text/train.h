// Making tokenizers: from bytes alone, from given words, or byte-level BPE learned from text.
//
// A mk_tok_trainer is made from options, is fed texts (method bpe), is trained, and writes a
// Hugging Face folder: tokenizer.json, tokenizer_config.json and, if there is a template,
// chat_template.jinja.  All three methods give a byte-level vocabulary, so every text can be
// encoded.  Ids in this order: 256 bytes; words, or what merges made; pieces; special tokens.
//
//     byte    the bytes alone.  Id = byte.
//     words   and given words.  A word is one token where the split leaves exactly it, and is spelt
//             in bytes anywhere else: "fromage" does not begin with "from".  Id = byte for bytes.
//     bpe     and n_vocab tokens in all, made by merging the most frequent pair of neighbours again
//             and again; of pairs equally frequent the one with the smaller ids (left, then right).
//             Bytes are numbered as in GPT-2.  Source: Sennrich et al. 2016, in the form of the
//             `tokenizers` package, whose trainer gives the same merges.
//
// The same options and texts in the same order give the same files.  One trainer belongs to one
// thread.
#ifndef MK_TEXT_TRAIN_H
#define MK_TEXT_TRAIN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/status.h"

typedef struct mk_tok_trainer mk_tok_trainer;

typedef enum { MK_TOK_BYTE, MK_TOK_WORDS, MK_TOK_BPE } mk_tok_method;

typedef struct {
    const char *const *items;
    size_t n;
} mk_tok_texts;

typedef struct {
    mk_tok_method method;
    const char *split;  // one of MK_TOK_SPLITS: what no token reaches across
    bool digits;        // every digit is a token of its own
    mk_tok_texts word;  // method words
    // One token wherever the text stands, and text like any other when decoded ("<think>").
    mk_tok_texts piece;
    // Control tokens: never made of a user's text, left out when decoded ("<|end|>").
    mk_tok_texts special;
    const char *bos, *eos, *pad;  // which of `special` they are; NULL = none
    // Method bpe: tokens in all, and how often a pair must occur to be merged.
    int64_t n_vocab, min_count;
} mk_tok_trainer_opts;

#define MK_TOK_SPLITS "llama3|qwen2|gpt2|gpt4o|deepseek3"

// Copies what it needs of *o.  Errors: MK_EUSAGE (texts that are empty, given twice, not UTF-8; a
// word that the split cuts; bos that is not a special token; a vocabulary too small), MK_ENOMEM.
mk_status mk_tok_trainer_create(const mk_tok_trainer_opts *o, mk_tok_trainer **out,
                                mk_err *err) MK_WARN_UNUSED;
void mk_tok_trainer_destroy(mk_tok_trainer *tr);

// Called now and then with the work done so far.
typedef void (*mk_tok_progress)(void *arg, uint64_t done, uint64_t total);

// Method bpe: counts the words of a text.  Special tokens and pieces in it are not learned from.
mk_status mk_tok_trainer_add(mk_tok_trainer *tr, const char *text, size_t n,
                             mk_err *err) MK_WARN_UNUSED;
// A whole file: JSON lines if its name ends in .jsonl (the strings in text, prompt, completion,
// chosen, rejected, instruction, input, output, system, and the contents of messages and
// conversations, each a text), else one text.  progress (may be NULL) counts bytes.  Errors also:
// MK_ENOTFOUND, MK_ECORRUPT with the line.
mk_status mk_tok_trainer_add_file(mk_tok_trainer *tr, const char *path, mk_tok_progress progress,
                                  void *arg, mk_err *err) MK_WARN_UNUSED;
// Learns the merges; once, behind the last text.  progress (may be NULL) counts merges.  Stops
// before n_vocab when no pair is left that occurs min_count times.  Errors: MK_EUSAGE (no text),
// MK_ENOMEM.
mk_status mk_tok_trainer_run(mk_tok_trainer *tr, mk_tok_progress progress, void *arg,
                             mk_err *err) MK_WARN_UNUSED;

typedef struct {
    int64_t n_vocab, n_merge;
    int64_t n_word, n_word_seen;  // different words of the texts, and all of them
} mk_tok_trainer_facts;
mk_tok_trainer_facts mk_tok_trainer_get_facts(const mk_tok_trainer *tr);

// The text of tokenizer.json.  Errors: MK_EUSAGE (a special token is spelt like a learned one),
// MK_ENOMEM.
mk_status mk_tok_trainer_json(const mk_tok_trainer *tr, mk_buf *out, mk_err *err) MK_WARN_UNUSED;
// Makes the folder if it is not there.  chat_template: its text, or NULL.
mk_status mk_tok_trainer_write(const mk_tok_trainer *tr, const char *chat_template, const char *dir,
                               mk_err *err) MK_WARN_UNUSED;

#endif
