// Tokenizers in GGUF metadata: reading by the conventions of llama.cpp, and writing.
//
// Keys (prefix tokenizer.ggml.): model (llama, gpt2, t5, bert, gemma4), pre, tokens, scores,
// token_type, merges, *_token_id, add_bos_token, add_eos_token, add_space_prefix,
// remove_extra_whitespaces, precompiled_charsmap. A tokenizer whose rules these keys cannot say
// (fits_gguf in hf.c) also carries its whole tokenizer.json under tokenizer.huggingface.json, a key
// of the GGUF specification, and is read from that.
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "text/tok_int.h"

#define KEY(name) "tokenizer.ggml." name

typedef struct {
    const mk_gguf *g;
    mk_err *err;
    mk_tokenizer *t;
    mk_gguf_str model, pre;
    mk_gguf_str *tokens;
    int64_t n;
    int32_t last_made;  // id that the merge before made
} reader;

static bool str_is(mk_gguf_str s, const char *name) {
    return strlen(name) == s.n && memcmp(s.p, name, s.n) == 0;
}

// --- vocabulary ----------------------------------------------------------------------------------
static mk_status check_array(reader *r, const char *key, bool *there) {
    int64_t n = mk_gguf_arr_len(r->g, key);
    *there = n > 0;
    if (n > 0 && n != r->n) {
        return MK_FAIL(r->err, MK_ECORRUPT, "%s has %lld entries, expected %lld as in tokens", key,
                       (long long)n, (long long)r->n);
    }
    return MK_OK;
}

static mk_status type_of(reader *r, int64_t i, bool there, mk_token_type *type) {
    int64_t v = MK_TOKEN_NORMAL;
    if (there) {
        MK_TRY(mk_gguf_arr_i64(r->g, KEY("token_type"), i, &v, r->err));
    }
    v = v >= MK_TOKEN_NORMAL && v <= MK_TOKEN_BYTE ? v : MK_TOKEN_NORMAL;
    // some files forget to mark the tokens that end a turn
    if (v != MK_TOKEN_UNKNOWN && mk_tokenizer_eog_name(r->tokens[i].p, r->tokens[i].n)) {
        v = MK_TOKEN_CONTROL;
    }
    *type = (mk_token_type)v;
    return MK_OK;
}

static mk_status read_tokens(reader *r) {
    MK_TRY(mk_gguf_arr_strs(r->g, KEY("tokens"), &r->tokens, &r->n, r->err));
    size_t bytes = 0;
    for (int64_t i = 0; i < r->n; i++) {
        bytes += r->tokens[i].n;
    }
    MK_TRY(mk_vocab_init(&r->t->v, r->n, bytes * 2, r->err));
    bool scores, types;
    MK_TRY(check_array(r, KEY("scores"), &scores));
    MK_TRY(check_array(r, KEY("token_type"), &types));
    for (int64_t i = 0; i < r->n; i++) {
        mk_token_type type;
        double score = 0;
        MK_TRY(type_of(r, i, types, &type));
        if (scores) {
            MK_TRY(mk_gguf_arr_f64(r->g, KEY("scores"), i, &score, r->err));
        }
        score = score == score ? score : 0;  // NaN has no place in an order
        MK_TRY(mk_vocab_set(&r->t->v, (int32_t)i, r->tokens[i].p, r->tokens[i].n, type, score,
                            r->err));
    }
    return MK_OK;
}

// Control, unknown and user-defined tokens are looked for in texts.
static mk_status read_added(reader *r) {
    const mk_vocab *v = &r->t->v;
    int64_t n = 0;
    for (int pass = 0; pass < 2; pass++) {
        int64_t k = 0;
        for (int64_t i = 0; i < v->n; i++) {
            const mk_vocab_entry *e = &v->e[i];
            bool user = e->type == MK_TOKEN_USER_DEFINED;
            bool special = e->type == MK_TOKEN_CONTROL || e->type == MK_TOKEN_UNKNOWN;
            if (!(user || special) || e->n_text == 0 || e->n_text > MK_MAX_ADDED) {
                continue;
            }
            if (pass == 1) {
                mk_added *a = &r->t->added.a[k];
                *a = (mk_added){.n = e->n_text, .id = (int32_t)i, .special = special};
                a->text = mk_try_alloc((size_t)e->n_text + 1, 1);
                if (!a->text) {
                    return MK_FAIL(r->err, MK_ENOMEM, "no memory for special tokens");
                }
                memcpy(a->text, v->bytes + e->text, e->n_text);
                r->t->added.n = k + 1;
            }
            k++;
        }
        n = k;
        if (pass == 0 && !(r->t->added.a = mk_try_alloc(n ? (size_t)n : 1, sizeof(mk_added)))) {
            return MK_FAIL(r->err, MK_ENOMEM, "no memory for %lld special tokens", (long long)n);
        }
    }
    return mk_added_build(&r->t->added, r->t->added.a, n, r->err);
}

// --- merges --------------------------------------------------------------------------------------
static bool key_bytes(const mk_tokenizer *t, const char *p, size_t n, mk_buf *b) {
    size_t at = b->len, k;
    mk_buf_add(b, p, n);
    if (!b->failed && t->v.mode == MK_PIECE_BYTE_LEVEL &&
        mk_bytes_of_text(p, n, b->data + at, &k)) {
        b->len = at + k;
    }
    return !b->failed;
}

// A merge whose parts or result are not text tokens of this vocabulary can never apply and is left
// out.
static mk_status add_merge(reader *r, mk_gguf_str s, int64_t rank, mk_buf *b) {
    const char *sp = s.n > 1 ? memchr(s.p + 1, ' ', s.n - 1) : NULL;
    if (!sp) {
        return MK_FAIL(r->err, MK_ECORRUPT,
                       "merge %lld of the tokenizer: expected two tokens with a space between",
                       (long long)rank);
    }
    const mk_vocab *v = &r->t->v;
    mk_buf_clear(b);
    bool ok = key_bytes(r->t, s.p, (size_t)(sp - s.p), b);
    size_t cut = b->len;
    if (!ok || !key_bytes(r->t, sp + 1, s.n - (size_t)(sp + 1 - s.p), b)) {
        return MK_FAIL(r->err, MK_ENOMEM, "no memory for the merges");
    }
    int32_t left = mk_vocab_find(v, b->data, cut, MK_TYPES_TEXT);
    int32_t right = mk_vocab_find(v, b->data + cut, b->len - cut, MK_TYPES_TEXT);
    int32_t id = mk_vocab_find_near(v, b->data, b->len, r->last_made + 1);
    r->last_made = id;
    if (left >= 0 && right >= 0 && id >= 0) {
        mk_merges_add(&r->t->merges, left, right, (int32_t)rank, id, true);
    }
    return MK_OK;
}

static mk_status read_merges(reader *r) {
    mk_gguf_str *m = NULL;
    int64_t n = 0;
    MK_TRY(mk_gguf_arr_strs(r->g, KEY("merges"), &m, &n, r->err));
    mk_buf b;
    mk_buf_init(&b, 1 << 30);
    // an empty list is a vocabulary of bytes and whole words
    mk_status st = m ? mk_merges_init(&r->t->merges, n, r->err)
                     : MK_FAIL(r->err, MK_ECORRUPT,
                               "tokenizer.ggml.merges is missing, a gpt2 tokenizer needs it");
    for (int64_t i = 0; i < n && st == MK_OK; i++) {
        st = add_merge(r, m[i], i, &b);
    }
    mk_buf_free(&b);
    mk_free(m);
    return st;
}

// --- special ids ---------------------------------------------------------------------------------
static mk_status special_id(reader *r, const char *key, int32_t otherwise, int32_t *out) {
    int64_t v = otherwise;
    MK_TRY(mk_gguf_get_i64(r->g, key, INT32_MIN, UINT32_MAX, &v, r->err));
    *out = v >= 0 && v < r->n ? (int32_t)v : -1;
    return MK_OK;
}

static int32_t known(const reader *r, int32_t id) {
    return id < r->n ? id : -1;
}

static mk_status special_ids(reader *r, int32_t bos, int32_t eos, int32_t unk) {
    mk_tokenizer *t = r->t;
    MK_TRY(special_id(r, KEY("bos_token_id"), known(r, bos), &t->bos));
    MK_TRY(special_id(r, KEY("eos_token_id"), known(r, eos), &t->eos));
    MK_TRY(special_id(r, KEY("unknown_token_id"), known(r, unk), &t->unk));
    MK_TRY(special_id(r, KEY("eot_token_id"), -1, &t->eot));
    MK_TRY(special_id(r, KEY("padding_token_id"), -1, &t->pad));
    int32_t eom;
    MK_TRY(special_id(r, KEY("eom_token_id"), -1, &eom));
    if (eom >= 0) {
        t->v.e[eom].eog = 1;
    }
    return MK_OK;
}

static mk_status around(reader *r, bool add_bos, bool add_eos) {
    MK_TRY(mk_gguf_get_bool(r->g, KEY("add_bos_token"), &add_bos, r->err));
    MK_TRY(mk_gguf_get_bool(r->g, KEY("add_eos_token"), &add_eos, r->err));
    mk_tokenizer_set_around(r->t, add_bos, add_eos);
    return MK_OK;
}

// --- models --------------------------------------------------------------------------------------
static mk_status norm_strings(reader *r, mk_norm_kind kind, const char *a, const char *b) {
    mk_norm_step s = {.kind = kind, .n_a = strlen(a), .n_b = strlen(b)};
    s.a = mk_strdup(a);
    s.b = mk_strdup(b);
    return mk_tokenizer_add_norm(r->t, s, r->err);
}

static mk_status read_spm(reader *r) {
    mk_tokenizer *t = r->t;
    t->kind = MK_TOKENIZER_SPM;
    t->pre_name = "default";
    t->byte_fallback = true;
    t->add_space_prefix = true;
    MK_TRY(mk_gguf_get_bool(r->g, KEY("add_space_prefix"), &t->add_space_prefix, r->err));
    MK_TRY(mk_gguf_get_bool(r->g, KEY("remove_extra_whitespaces"), &t->remove_extra_ws, r->err));
    t->strip_first_space = t->add_space_prefix;
    if (t->remove_extra_ws) {
        mk_norm_step strip = {.kind = MK_NORM_STRIP, .left = true, .right = true};
        MK_TRY(mk_tokenizer_add_norm(t, strip, r->err));
        mk_norm_step runs = {.kind = MK_NORM_REPLACE_REGEX, .b = mk_strdup(" "), .n_b = 1};
        mk_status st = mk_regex_compile(" +", 2, &runs.re, r->err);
        if (st != MK_OK) {
            mk_free(runs.b);
            return st;
        }
        MK_TRY(mk_tokenizer_add_norm(t, runs, r->err));
    }
    if (t->add_space_prefix) {
        MK_TRY(norm_strings(r, MK_NORM_PREPEND, "", " "));
    }
    MK_TRY(norm_strings(r, MK_NORM_REPLACE, " ", "\xE2\x96\x81"));
    MK_TRY(mk_vocab_finish(&t->v, MK_PIECE_META, r->err));
    mk_tokenizer_seal(t);
    MK_TRY(special_ids(r, 1, 2, 0));
    return around(r, true, false);
}

static mk_status read_charsmap(reader *r) {
    const char *key = KEY("precompiled_charsmap");
    int64_t n = mk_gguf_arr_len(r->g, key);
    if (n == 0) {
        return MK_OK;
    }
    char *blob = mk_try_alloc((size_t)n, 1);
    mk_status st =
        blob ? MK_OK
             : MK_FAIL(r->err, MK_ENOMEM, "no memory for a charsmap of %lld bytes", (long long)n);
    for (int64_t i = 0; i < n && st == MK_OK; i++) {
        int64_t v = 0;
        st = mk_gguf_arr_i64(r->g, key, i, &v, r->err);
        blob[i] = (char)v;
    }
    if (st == MK_OK) {
        st = mk_charsmap_init(&r->t->charsmap, blob, (size_t)n, r->err);
    }
    mk_free(blob);
    return st == MK_OK
               ? mk_tokenizer_add_norm(r->t, (mk_norm_step){.kind = MK_NORM_CHARSMAP}, r->err)
               : st;
}

static mk_status read_unigram(reader *r) {
    mk_tokenizer *t = r->t;
    t->kind = MK_TOKENIZER_UNIGRAM;
    t->pre_name = "default";
    t->fuse_unk = true;
    t->add_space_prefix = true;
    MK_TRY(mk_gguf_get_bool(r->g, KEY("add_space_prefix"), &t->add_space_prefix, r->err));
    MK_TRY(mk_gguf_get_bool(r->g, KEY("remove_extra_whitespaces"), &t->remove_extra_ws, r->err));
    t->strip_first_space = t->add_space_prefix || t->remove_extra_ws;
    MK_TRY(read_charsmap(r));
    mk_norm_step spaces = {
        .kind = MK_NORM_UGM_SPACES, .left = t->add_space_prefix, .right = t->remove_extra_ws};
    MK_TRY(mk_tokenizer_add_norm(t, spaces, r->err));
    MK_TRY(mk_vocab_finish(&t->v, MK_PIECE_META, r->err));
    mk_tokenizer_seal(t);
    MK_TRY(special_ids(r, -1, 1, 2));
    MK_TRY(mk_unigram_prepare(t, r->err));
    return around(r, false, true);
}

static mk_status read_wordpiece(reader *r) {
    static const mk_norm_kind steps[] = {MK_NORM_BERT_CLEAN, MK_NORM_BERT_CJK, MK_NORM_NFD,
                                         MK_NORM_STRIP_ACCENTS, MK_NORM_LOWER};
    mk_tokenizer *t = r->t;
    t->kind = MK_TOKENIZER_WORDPIECE;
    t->strip_first_space = true;
    for (size_t i = 0; i < sizeof steps / sizeof steps[0]; i++) {
        MK_TRY(mk_tokenizer_add_norm(t, (mk_norm_step){.kind = steps[i]}, r->err));
    }
    mk_pass words = {.kind = MK_PASS_SPLIT, .rule = &mk_rule_spaces, .behavior = MK_SPLIT_REMOVED};
    MK_TRY(mk_tokenizer_add_pass(t, words, r->err));
    MK_TRY(
        mk_tokenizer_add_pass(t, (mk_pass){.kind = MK_PASS_SPLIT, .rule = &mk_rule_punct}, r->err));
    MK_TRY(mk_vocab_finish(&t->v, MK_PIECE_META, r->err));
    mk_tokenizer_seal(t);
    int32_t cls, sep;
    MK_TRY(special_ids(r, 101, -1, 100));
    MK_TRY(special_id(r, KEY("cls_token_id"), t->bos, &cls));
    MK_TRY(
        special_id(r, KEY("seperator_token_id"), known(r, 102), &sep));  // spelled so in the format
    MK_TRY(mk_unigram_prepare(t, r->err));
    t->bos = cls;
    t->eos = t->eos >= 0 ? t->eos : sep;
    mk_tokenizer_set_around(t, true, true);
    return MK_OK;
}

// Old Llama 3 files have no name for their pre-tokenizer: known by size and by the place of two
// tokens.
static bool old_llama3(const reader *r) {
    return r->n >= 128256 && str_is(r->tokens[128000], "<|begin_of_text|>") &&
           str_is(r->tokens[128009], "<|eot_id|>");
}

static mk_status read_bpe(reader *r) {
    mk_tokenizer *t = r->t;
    t->kind = MK_TOKENIZER_BPE;
    if (!r->pre.p || r->pre.n == 0 || str_is(r->pre, "default")) {
        const char *name = old_llama3(r) ? "llama-bpe" : "default";
        r->pre = (mk_gguf_str){name, strlen(name)};
    }
    const mk_pre *pre = mk_pre_find(r->pre.p, r->pre.n);
    if (!pre) {
        return MK_FAIL(r->err, MK_EUNSUPPORTED,
                       "pre-tokenizer \"%.*s\" of the GGUF file is not known to minke",
                       (int)(r->pre.n < 60 ? r->pre.n : 60), r->pre.p);
    }
    MK_TRY(mk_tokenizer_use_pre(t, pre, r->err));
    MK_TRY(mk_vocab_finish(&t->v, MK_PIECE_BYTE_LEVEL, r->err));
    mk_tokenizer_seal(t);
    MK_TRY(read_merges(r));
    MK_TRY(special_ids(r, 11, 11, -1));
    t->unk = -1;  // every byte has a token; llama.cpp drops what has none
    return around(r, pre->add_bos, false);
}

// Gemma 4: merges over characters with "▁" for a space, cut at line ends only.
static mk_status read_gemma4(reader *r) {
    mk_tokenizer *t = r->t;
    t->kind = MK_TOKENIZER_BPE;
    t->pre_name = "gemma4";
    t->byte_fallback = true;
    mk_regex *re;
    MK_TRY(mk_regex_compile("[^\\n]+|[\\n]+", 12, &re, r->err));
    MK_TRY(mk_tokenizer_add_pass(t, (mk_pass){.kind = MK_PASS_REGEX, .re = re}, r->err));
    MK_TRY(norm_strings(r, MK_NORM_REPLACE, " ", "\xE2\x96\x81"));
    MK_TRY(mk_vocab_finish(&t->v, MK_PIECE_META, r->err));
    mk_tokenizer_seal(t);
    MK_TRY(read_merges(r));
    MK_TRY(special_ids(r, -1, -1, -1));
    return around(r, true, false);
}

static mk_status read_model(reader *r) {
    static const struct {
        const char *name;
        mk_status (*read)(reader *r);
    } models[] = {
        {"llama", read_spm},      {"gpt2", read_bpe},      {"t5", read_unigram},
        {"bert", read_wordpiece}, {"gemma4", read_gemma4},
    };
    for (size_t i = 0; i < sizeof models / sizeof models[0]; i++) {
        if (str_is(r->model, models[i].name)) {
            MK_TRY(read_tokens(r));
            MK_TRY(models[i].read(r));
            return read_added(r);
        }
    }
    return MK_FAIL(r->err, MK_EUNSUPPORTED,
                   "tokenizer.ggml.model is \"%.*s\", expected llama, gpt2, t5, bert or gemma4",
                   (int)(r->model.n < 60 ? r->model.n : 60), r->model.p ? r->model.p : "");
}

// The embedded tokenizer.json with the ids of the metadata; *out stays NULL if it is not there or
// not of a kind we run.
static mk_status read_embedded(reader *r, mk_tokenizer **out) {
    mk_gguf_str json = {0};
    MK_TRY(mk_gguf_get_str(r->g, "tokenizer.huggingface.json", &json, r->err));
    if (json.n == 0) {
        return MK_OK;
    }
    mk_tokenizer *t = NULL;
    mk_status st = mk_tokenizer_from_json(json.p, json.n, &t, r->err);
    if (st != MK_OK) {
        return st == MK_EUNSUPPORTED ? MK_OK : st;
    }
    reader sub = {.g = r->g, .err = r->err, .t = t, .n = t->v.n};
    int32_t unk = t->unk;
    st = special_ids(&sub, -1, -1, unk);
    t->unk = unk;
    bool has = t->n_prefix > 1 || t->n_suffix > 0;
    if (st == MK_OK && !has) {
        st = around(&sub, mk_tokenizer_add_bos(t), false);
    }
    if (st != MK_OK) {
        mk_tokenizer_destroy(t);
        return st;
    }
    *out = t;
    return MK_OK;
}

mk_status mk_tokenizer_from_gguf(const mk_gguf *g, mk_tokenizer **out, mk_err *err) {
    *out = NULL;
    reader r = {.g = g, .err = err};
    MK_TRY(read_embedded(&r, out));
    if (*out) {
        return MK_OK;
    }
    MK_TRY(mk_gguf_get_str(g, KEY("model"), &r.model, err));
    MK_TRY(mk_gguf_get_str(g, KEY("pre"), &r.pre, err));
    if (!r.model.p) {
        return MK_FAIL(err, MK_ECORRUPT,
                       "tokenizer.ggml.model is missing: the GGUF file has no tokenizer");
    }
    MK_TRY(mk_tokenizer_new(&r.t, err));
    mk_status st = read_model(&r);
    mk_free(r.tokens);
    if (st != MK_OK) {
        mk_tokenizer_destroy(r.t);
        return st;
    }
    *out = r.t;
    return MK_OK;
}
