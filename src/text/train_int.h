// Types that the files of the tokenizer trainer share.  Nothing else includes this.
#ifndef MK_TEXT_TRAIN_INT_H
#define MK_TEXT_TRAIN_INT_H

#include "text/tok_int.h"
#include "text/train.h"

// --- strtab.c: strings and their numbers ---------------------------------------------------------
// Every string once, numbered in order of first sight; a count for each.
typedef struct {
    size_t at;
    uint32_t n, hash;
    int64_t count;
} mk_str;

typedef struct {
    mk_str *s;
    size_t n, cap;
    char *bytes;
    size_t n_bytes, cap_bytes;
    uint32_t *slot;  // open addressing; number + 1, 0 = empty
    size_t n_slot;   // power of two, at least twice n
} mk_strtab;

void mk_strtab_free(mk_strtab *t);
// Number of the string, which is added if it is not there.
mk_status mk_strtab_put(mk_strtab *t, const char *p, size_t n, size_t *number,
                        mk_err *err) MK_WARN_UNUSED;
// SIZE_MAX if it is not there.
size_t mk_strtab_find(const mk_strtab *t, const char *p, size_t n);
const char *mk_strtab_get(const mk_strtab *t, size_t number, size_t *n);

// --- train_bpe.c ---------------------------------------------------------------------------------
typedef struct {
    uint32_t left, right;
} mk_tok_pair;

typedef struct {
    mk_tok_pair *v;
    size_t n;
} mk_tok_merges;

typedef struct {
    const mk_strtab *word;  // with counts
    mk_strtab *token;       // the bytes at first; number = id; what merges make is added
    size_t n_token;         // how many there shall be
    int64_t min_count;
    mk_tok_progress progress;
    void *arg;
} mk_bpe_job;

mk_status mk_bpe_learn(const mk_bpe_job *job, mk_tok_merges *out, mk_err *err) MK_WARN_UNUSED;

// --- the trainer ---------------------------------------------------------------------------------
struct mk_tok_trainer {
    mk_tok_method method;
    const mk_pre *pre;
    bool digits;
    mk_strtab word, piece, special;  // as given
    size_t bos, eos, pad;            // numbers in special, SIZE_MAX = none
    size_t n_vocab;
    int64_t min_count;
    mk_strtab token;  // the model's own vocabulary, in real bytes
    mk_tok_merges merges;
    mk_strtab seen;     // words of the texts
    mk_tokenizer *cut;  // splits texts as the finished tokenizer will
};

// --- hf_write.c ----------------------------------------------------------------------------------
mk_status mk_hf_write_tokenizer(const mk_tok_trainer *tr, mk_buf *out, mk_err *err) MK_WARN_UNUSED;
mk_status mk_hf_write_config(const mk_tok_trainer *tr, mk_buf *out, mk_err *err) MK_WARN_UNUSED;

#endif
