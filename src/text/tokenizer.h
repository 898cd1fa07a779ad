// Tokenizers: bytes <-> ids.  Byte-level BPE, SentencePiece-style BPE, Unigram; from GGUF metadata
// or tokenizer.json.
//
// A mk_tokenizer is immutable after creation and may be shared by threads; per-stream state of
// decoding is a mk_detok. Text from a user never becomes a control token: only with parse_special
// are the texts of control and added special tokens recognised, and the caller (chat/) sets that
// for template text alone.
//
//     mk_ids ids = {0};
//     MK_TRY(mk_tokenizer_encode(tok, text, n, (mk_encode_opts){.add_special = true}, &ids, err));
#ifndef MK_TEXT_TOKENIZER_H
#define MK_TEXT_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "format/gguf.h"

typedef struct mk_tokenizer mk_tokenizer;

typedef struct {
    int32_t *data;  // owned; mk_ids_free
    int64_t n, cap;
} mk_ids;
void mk_ids_free(mk_ids *ids);
mk_status mk_ids_push(mk_ids *ids, int32_t id, mk_err *err) MK_WARN_UNUSED;  // MK_ENOMEM

typedef enum {
    MK_TOKENIZER_BPE,
    MK_TOKENIZER_SPM,
    MK_TOKENIZER_UNIGRAM,
    MK_TOKENIZER_WORDPIECE
} mk_tokenizer_kind;
typedef enum {  // GGUF's token types
    MK_TOKEN_NORMAL = 1,
    MK_TOKEN_UNKNOWN,
    MK_TOKEN_CONTROL,
    MK_TOKEN_USER_DEFINED,
    MK_TOKEN_UNUSED,
    MK_TOKEN_BYTE
} mk_token_type;

// From the metadata of a GGUF file (tokenizer.ggml.*).  Errors: MK_ECORRUPT, MK_EUNSUPPORTED (model
// or pre unknown), MK_ENOMEM.
mk_status mk_tokenizer_from_gguf(const mk_gguf *g, mk_tokenizer **out, mk_err *err) MK_WARN_UNUSED;
// From a Hugging Face folder: tokenizer.json, and tokenizer_config.json / special_tokens_map.json /
// generation_config.json / config.json where they are present (special ids, add_bos_token).
mk_status mk_tokenizer_from_folder(const char *dir, mk_tokenizer **out, mk_err *err) MK_WARN_UNUSED;
// From the bytes of a tokenizer.json alone (tests, fuzzing).
mk_status mk_tokenizer_from_json(const char *text, size_t n, mk_tokenizer **out,
                                 mk_err *err) MK_WARN_UNUSED;
void mk_tokenizer_destroy(mk_tokenizer *t);

// Where a text came from: runs cover it in order, each up to `end` (exclusive).  Rendered chat
// templates mix their own text with a user's.
typedef struct {
    size_t end;
    bool user;
} mk_text_run;

typedef struct {
    bool add_special;  // put BOS (and EOS) as the tokenizer's own settings say
    // The text goes on behind ids that are there already: no space is put in front of it, as some
    // vocabularies do at the start of a text.
    bool continues;
    // recognise control and special tokens in the text; user-defined tokens always are
    bool parse_special;
    // With runs, parse_special holds for template bytes alone: a control token, and any added token
    // that looks like one ("<|...", "<｜..."), is recognised only where none of its bytes came from
    // the user.
    const mk_text_run *runs;  // NULL = all of it is the caller's own
    size_t n_runs;
} mk_encode_opts;

// Appends the ids of text[0..n) to *ids.  Invalid UTF-8 is legal input: each bad byte is encoded as
// a byte where the vocabulary can, else as the unknown token.  Time is O(n log n).  Errors:
// MK_ENOMEM, MK_ELIMIT (text over 1 GiB).
mk_status mk_tokenizer_encode(const mk_tokenizer *t, const char *text, size_t n,
                              mk_encode_opts opts, mk_ids *ids, mk_err *err) MK_WARN_UNUSED;

// Bytes of one token as they appear in text (byte-level decoded, "▁" as space).  Control tokens
// give their name. Valid as long as t.  NULL for an id out of range.
const char *mk_tokenizer_piece(const mk_tokenizer *t, int32_t id, size_t *n);

// Whole sequences: appends to out.  skip_special leaves control tokens out.  A SentencePiece prefix
// space is removed.
typedef struct {
    bool skip_special;
} mk_decode_opts;
mk_status mk_tokenizer_decode(const mk_tokenizer *t, const int32_t *ids, int64_t n,
                              mk_decode_opts opts, char **text, size_t *n_text,
                              mk_err *err) MK_WARN_UNUSED;

// Streaming: push one id, get the bytes that are now certain; never half a UTF-8 character.  Bytes
// that can no longer become valid come out as U+FFFD.  finish flushes the rest.  *out points into d
// until the next call.
typedef struct mk_detok mk_detok;
mk_detok *mk_detok_create(const mk_tokenizer *t, bool skip_special);
void mk_detok_destroy(mk_detok *d);
void mk_detok_push(mk_detok *d, int32_t id, const char **out, size_t *n);
void mk_detok_finish(mk_detok *d, const char **out, size_t *n);

// Facts.
mk_tokenizer_kind mk_tokenizer_get_kind(const mk_tokenizer *t);
const char *mk_tokenizer_pre_name(
    const mk_tokenizer *t);  // pre-tokenizer, as in GGUF ("qwen2"), or "custom"
int64_t mk_tokenizer_n_vocab(const mk_tokenizer *t);  // ids are 0..n_vocab-1
mk_token_type mk_tokenizer_type(const mk_tokenizer *t, int32_t id);
int32_t mk_tokenizer_find(const mk_tokenizer *t, const char *piece,
                          size_t n);              // exact vocabulary entry, -1 if none
int32_t mk_tokenizer_bos(const mk_tokenizer *t);  // -1 if none
int32_t mk_tokenizer_eos(const mk_tokenizer *t);  // -1 if none
bool mk_tokenizer_add_bos(const mk_tokenizer *t);
bool mk_tokenizer_is_eog(const mk_tokenizer *t,
                         int32_t id);  // ends a turn: eos, eot, eom, <|im_end|>, ...
// Appends all of those, ascending.  Errors: MK_ENOMEM.
mk_status mk_tokenizer_eog_ids(const mk_tokenizer *t, mk_ids *ids, mk_err *err) MK_WARN_UNUSED;

// The text of the tokenizer.json it was read from (a GGUF file may carry one); NULL where the keys
// of GGUF can say all of it, or there was none.  Valid as long as t.
const char *mk_tokenizer_json(const mk_tokenizer *t, size_t *n);

// What a writer of GGUF files needs: the vocabulary as stored (raw pieces), scores, types, merges.
struct mk_gguf_out;
// n_rows: rows of the model's token table; more than there are tokens are padded with unused ones.
void mk_tokenizer_to_gguf(const mk_tokenizer *t, int64_t n_rows, mk_gguf_out *o);

#endif
