// Types that the files of this room share.  Nothing outside src/text and its tests includes this.
//
// Life of a text in mk_tokenizer_encode:  added tokens are cut out (added.c) -> each gap is
// normalised (norm.c) -> added tokens that want normalised text are cut out -> the passes split it
// (pretok.c) -> the model turns each piece into ids (bpe.c: merges by rank and by score; unigram.c:
// Unigram and WordPiece).
//
// Invariants:
//  1. Only entries of type NORMAL and USER_DEFINED (and BYTE by its value, UNKNOWN as the
//     fallback) are ever produced by a model; CONTROL comes from added.c with parse_special, or
//     from prefix/suffix.
//  2. A byte-level vocabulary is kept in real bytes: the printable alphabet of GPT-2 exists only in
//     mk_vocab texts.
//  3. A tokenizer is not written to after it was built; scratch lives in mk_enc, on the stack of
//     one encode call.
#ifndef MK_TEXT_TOK_INT_H
#define MK_TEXT_TOK_INT_H

#include "base/buf.h"
#include "text/regex.h"
#include "text/split.h"
#include "text/tokenizer.h"

#define MK_MAX_STEP 16  // normaliser steps, passes, tokens around a text
// bytes of one added token, of one piece that unigram and wordpiece look for
#define MK_MAX_ADDED 1024
#define MK_MAX_VOCAB (1 << 24)  // ids

// --- vocab.c -------------------------------------------------------------------------------------
typedef struct {
    uint32_t text, n_text;    // as in the file
    uint32_t piece, n_piece;  // as in decoded text
    double score;             // unigram breaks near-ties by the last bits of what the file says
    uint8_t type;             // mk_token_type; 0 = no such id
    uint8_t eog;
} mk_vocab_entry;

typedef struct {
    // upper half of the key's hash: most other keys are passed over without a look at them
    uint32_t hash;
    int32_t id;  // -1: empty
} mk_vocab_slot;

typedef enum { MK_PIECE_RAW, MK_PIECE_BYTE_LEVEL, MK_PIECE_META } mk_piece_mode;

typedef struct {
    mk_vocab_entry *e;
    int64_t n;
    char *bytes;  // all texts and pieces
    size_t n_bytes, cap_bytes;
    mk_vocab_slot *slot;  // open addressing over the keys: piece of byte-level entries, else text
    uint32_t n_slot;
    mk_piece_mode mode;
    bool has_twins;  // two text entries share a key
    size_t max_piece, max_key;
} mk_vocab;

#define MK_TYPES_TEXT ((1u << MK_TOKEN_NORMAL) | (1u << MK_TOKEN_USER_DEFINED))
#define MK_TYPES_ALL  0xFFu

mk_status mk_vocab_init(mk_vocab *v, int64_t n, size_t n_bytes_hint, mk_err *err) MK_WARN_UNUSED;
void mk_vocab_free(mk_vocab *v);
mk_status mk_vocab_set(mk_vocab *v, int32_t id, const char *text, size_t n, mk_token_type type,
                       double score, mk_err *err) MK_WARN_UNUSED;
// After all entries are set: makes the pieces and the hash.
mk_status mk_vocab_finish(mk_vocab *v, mk_piece_mode mode, mk_err *err) MK_WARN_UNUSED;
// Last entry with this key whose type is in the mask, or -1.
int32_t mk_vocab_find(const mk_vocab *v, const char *key, size_t n, unsigned types);
// The same for text entries, looking at `guess` first: merges make most vocabularies in id order.
int32_t mk_vocab_find_near(const mk_vocab *v, const char *key, size_t n, int32_t guess);
// Entry whose text in the file is exactly this, or -1.
int32_t mk_vocab_find_text(const mk_vocab *v, const char *text, size_t n);

// GPT-2's printable alphabet.
int mk_byte_of_cp(uint32_t cp);  // 0..255, or -1
uint32_t mk_cp_of_byte(unsigned b);
// Decodes text in that alphabet to bytes (out has room for n); false if some character is not in
// it.
bool mk_bytes_of_text(const char *text, size_t n, char *out, size_t *n_out);

// --- bpe.c ---------------------------------------------------------------------------------------
typedef struct {
    int32_t left, right;  // left = -1: empty slot
    int32_t rank, id;
} mk_merge;

typedef struct {
    mk_merge *slot;
    uint32_t n_slot;  // power of two, 0 = no merges
    int64_t n;
} mk_merges;

mk_status mk_merges_init(mk_merges *m, int64_t n, mk_err *err) MK_WARN_UNUSED;
// A pair that is already there keeps its old rank if keep_first, else takes the new one.
void mk_merges_add(mk_merges *m, int32_t left, int32_t right, int32_t rank, int32_t id,
                   bool keep_first);

// --- norm.c --------------------------------------------------------------------------------------
typedef enum {
    MK_NORM_NFC,
    MK_NORM_NFD,
    MK_NORM_NFKC,
    MK_NORM_NFKD,
    MK_NORM_LOWER,
    MK_NORM_STRIP_ACCENTS,
    MK_NORM_PREPEND,
    MK_NORM_REPLACE,
    MK_NORM_REPLACE_REGEX,
    MK_NORM_STRIP,
    MK_NORM_BERT_CLEAN,
    MK_NORM_BERT_CJK,
    MK_NORM_CHARSMAP,
    MK_NORM_CHARSMAP_HF,
    MK_NORM_UGM_SPACES,
    MK_NORM_NMT
} mk_norm_kind;

typedef struct {
    mk_norm_kind kind;
    char *a, *b;  // owned: pattern, replacement
    size_t n_a, n_b;
    mk_regex *re;
    bool left, right;  // strip; ugm_spaces: prefix, merge
} mk_norm_step;

typedef struct {
    char *blob;  // owned: the charsmap as sentencepiece stores it
    size_t n_blob, n_unit, at_text;
} mk_charsmap;

mk_status mk_charsmap_init(mk_charsmap *c, const char *blob, size_t n, mk_err *err) MK_WARN_UNUSED;
// Longest (or shortest) key that starts p[0..n): its length, and the replacement.  0 if there is
// none.
size_t mk_charsmap_find(const mk_charsmap *c, const char *p, size_t n, bool shortest,
                        const char **to, size_t *n_to);

// --- pretok.c ------------------------------------------------------------------------------------
typedef enum { MK_PASS_SPLIT, MK_PASS_REGEX, MK_PASS_META, MK_PASS_PREFIX_SPACE } mk_pass_kind;
typedef enum {
    MK_SPLIT_ISOLATED,
    MK_SPLIT_REMOVED,
    MK_SPLIT_WITH_PREVIOUS,
    MK_SPLIT_WITH_NEXT,
    MK_SPLIT_CONTIGUOUS
} mk_split_behavior;
typedef enum { MK_PREPEND_ALWAYS, MK_PREPEND_FIRST, MK_PREPEND_NEVER } mk_prepend;

typedef struct {
    mk_pass_kind kind;
    mk_split_behavior behavior;
    bool invert, split;
    mk_prepend prepend;
    const mk_split_rule *rule;
    mk_regex *re;  // owned
    char meta[8];  // replacement of a space
    size_t n_meta;
} mk_pass;

// --- added.c -------------------------------------------------------------------------------------
typedef struct {
    char *text;  // owned; normalised if `normalized`
    size_t n;
    int32_t id;
    bool special, lstrip, rstrip, single_word, normalized;
} mk_added;

typedef struct {
    mk_added *a;  // sorted by text
    int64_t n;
    int64_t first[257];  // a[first[b]..first[b+1]) start with byte b
    bool any_normalized;
} mk_added_set;

// Takes over a[0..n).
mk_status mk_added_build(mk_added_set *s, mk_added *a, int64_t n, mk_err *err) MK_WARN_UNUSED;
void mk_added_free(mk_added_set *s);
// Next token at or after `from` (leftmost, longest): index or -1, with the range it takes.
typedef struct {
    const char *p;
    size_t n, from;
    bool normalized, parse_special;
    // origin of p: with runs, p[0] is byte `base` of the text they cover; all_user: no byte of p is
    // trusted
    const mk_text_run *runs;
    size_t n_runs, base;
    bool all_user;
} mk_added_query;
// true if a byte of [start, end) of the text that the runs cover came from a user.
bool mk_runs_touch_user(const mk_text_run *runs, size_t n_runs, size_t start, size_t end);
int64_t mk_added_find(const mk_added_set *s, const mk_uclass *u, const mk_added_query *q,
                      size_t *start, size_t *end);

// --- the tokenizer -------------------------------------------------------------------------------
struct mk_tokenizer {
    mk_tokenizer_kind kind;
    const char *pre_name;  // static
    mk_uclass uc;
    mk_vocab v;
    mk_merges merges;
    bool byte_fallback, fuse_unk, ignore_merges;
    int32_t byte_id[256];  // -1 where there is none
    int32_t unk, bos, eos, eot, pad;
    // Merging may be cut before each "▁" whose byte before is not marked: no piece goes across such
    // a place.
    bool cuts_meta, meta_after[256];
    double unk_score;
    int32_t *by_text;  // unigram: ids sorted by text
    int64_t n_by_text, by_first[257];
    mk_norm_step norm[MK_MAX_STEP];
    int n_norm;
    mk_charsmap charsmap;
    mk_pass pass[MK_MAX_STEP];
    int n_pass;
    mk_added_set added;
    int32_t prefix[MK_MAX_STEP], suffix[MK_MAX_STEP];
    int n_prefix, n_suffix;
    bool strip_first_space;  // decoding drops the space that encoding put in front
    bool add_space_prefix, remove_extra_ws;
    char *json;  // owned; kept only if the GGUF keys cannot say all of it
    size_t n_json;
};

// What a model gets: one word of the text, normalised, in the order of the text.
typedef mk_status (*mk_word_fn)(void *arg, const char *p, size_t n, mk_err *err);
// Gives the words of a text to fn instead of encoding them.  Added tokens are cut out and passed
// over.  Texts up to the limit of encoding.
mk_status mk_tokenizer_split(const mk_tokenizer *t, const char *text, size_t n, mk_word_fn fn,
                             void *arg, mk_err *err) MK_WARN_UNUSED;

// Scratch of one encode call.
typedef struct {
    int32_t id, prev, next;
    uint32_t at, n;  // bytes of the piece
} mk_sym;
typedef struct {
    double key;  // rank, or -score: smaller is merged first
    int32_t at, left, right, id;
    uint32_t n;
} mk_cand;
typedef struct mk_enc_cache mk_enc_cache;

typedef struct {
    const mk_tokenizer *t;
    mk_ids *ids;
    mk_err *err;
    mk_sym *sym;
    size_t cap_sym;
    mk_cand *heap;
    size_t n_heap, cap_heap;
    mk_enc_cache *cache;  // NULL for short texts
    void *viterbi;
    size_t cap_viterbi;
    mk_match *match;  // for regexes, made when first needed
    mk_buf norm[2];
    bool parse_special;
    const char *text;  // the whole text, which the runs cover
    const mk_text_run *runs;
    size_t n_runs;
    bool at_start;   // the piece in hand starts where the text starts
    bool continues;  // ... where something stands before it
    // instead of the model, if set
    mk_word_fn take;
    void *take_arg;
} mk_enc;

mk_status mk_enc_grow(mk_enc *c, void **p, size_t *cap, size_t need, size_t elem) MK_WARN_UNUSED;
size_t mk_enc_cache_bytes(void);

// Models: append the ids of one piece.
mk_status mk_bpe_piece(mk_enc *c, const char *p, size_t n) MK_WARN_UNUSED;
mk_status mk_spm_piece(mk_enc *c, const char *p, size_t n) MK_WARN_UNUSED;
mk_status mk_unigram_piece(mk_enc *c, const char *p, size_t n) MK_WARN_UNUSED;
mk_status mk_wordpiece_piece(mk_enc *c, const char *p, size_t n) MK_WARN_UNUSED;
mk_status mk_unigram_prepare(mk_tokenizer *t, mk_err *err) MK_WARN_UNUSED;
// Ids for text no piece covers: bytes where the vocabulary has them, else the unknown token.
mk_status mk_fallback(mk_enc *c, const char *p, size_t n, bool *was_unk) MK_WARN_UNUSED;

// Candidates of merging, smallest key first, ties leftmost.
mk_status mk_heap_push(mk_enc *c, mk_cand x) MK_WARN_UNUSED;
mk_cand mk_heap_pop(mk_enc *c);

// Normalises p[0..n); *out is p itself or one of c->norm.
mk_status mk_norm_run(mk_enc *c, const char *p, size_t n, const char **out,
                      size_t *n_out) MK_WARN_UNUSED;
// Runs the passes and the model over one normalised gap.
mk_status mk_pretok_run(mk_enc *c, const char *p, size_t n) MK_WARN_UNUSED;

// Building blocks of the two readers (build.c).
mk_status mk_tokenizer_new(mk_tokenizer **out, mk_err *err) MK_WARN_UNUSED;
mk_status mk_tokenizer_add_norm(mk_tokenizer *t, mk_norm_step s,
                                mk_err *err) MK_WARN_UNUSED;  // takes s over
mk_status mk_tokenizer_add_pass(mk_tokenizer *t, mk_pass p,
                                mk_err *err) MK_WARN_UNUSED;  // takes p over
mk_status mk_tokenizer_use_pre(mk_tokenizer *t, const mk_pre *pre, mk_err *err) MK_WARN_UNUSED;
// After vocabulary, added tokens and special ids are known: byte ids, end-of-generation ids, names.
void mk_tokenizer_seal(mk_tokenizer *t);
bool mk_tokenizer_eog_name(const char *p, size_t n);
void mk_tokenizer_set_around(mk_tokenizer *t, bool add_bos, bool add_eos);

#endif
