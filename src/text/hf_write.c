// A trained vocabulary as tokenizer.json and tokenizer_config.json, in the form that the
// `tokenizers` package writes.
#include <string.h>

#include "base/json.h"
#include "base/utf8.h"
#include "text/train_int.h"

static int add_text(const char *text, size_t n, void *out) {
    mk_buf_add(out, text, n);
    return ((mk_buf *)out)->failed ? -1 : 0;
}

// Takes v over; NULL (of a json_pack that failed) is no memory.
static mk_status write_json(json_t *v, mk_buf *out, mk_err *err) {
    bool ok = v && json_dump_callback(v, add_text, out, JSON_INDENT(2)) == 0;
    mk_buf_puts(out, "\n");
    json_decref(v);
    return ok && !out->failed ? MK_OK : MK_FAIL(err, MK_ENOMEM, "no memory for the vocabulary");
}

// A token of the model in GPT-2's printable alphabet.
static void spell(const mk_tok_trainer *tr, size_t id, mk_buf *out) {
    size_t n;
    const char *p = mk_strtab_get(&tr->token, id, &n);
    mk_buf_clear(out);
    for (size_t i = 0; i < n; i++) {
        mk_buf_utf8(out, mk_cp_of_byte((unsigned char)p[i]));
    }
}

static json_t *vocab(const mk_tok_trainer *tr) {
    json_t *v = json_object();
    mk_buf b;
    mk_buf_init(&b, SIZE_MAX / 2);
    bool bad = !v;
    for (size_t i = 0; i < tr->token.n && !bad; i++) {
        spell(tr, i, &b);
        bad = b.failed || json_object_setn_new(v, b.data, b.len, json_integer((json_int_t)i)) != 0;
    }
    mk_buf_free(&b);
    if (bad) {
        json_decref(v);
        return NULL;
    }
    return v;
}

static json_t *merges(const mk_tok_trainer *tr) {
    json_t *list = json_array();
    mk_buf a, b;
    mk_buf_init(&a, SIZE_MAX / 2);
    mk_buf_init(&b, SIZE_MAX / 2);
    bool bad = !list;
    for (size_t i = 0; i < tr->merges.n && !bad; i++) {
        spell(tr, tr->merges.v[i].left, &a);
        spell(tr, tr->merges.v[i].right, &b);
        bad = a.failed || b.failed ||
              json_array_append_new(list, json_pack("[s%, s%]", a.data, a.len, b.data, b.len)) != 0;
    }
    mk_buf_free(&a);
    mk_buf_free(&b);
    if (bad) {
        json_decref(list);
        return NULL;
    }
    return list;
}

static json_t *added(const mk_tok_trainer *tr) {
    json_t *list = json_array();
    size_t n = tr->piece.n + tr->special.n;
    for (size_t i = 0; i < n && list; i++) {
        bool special = i >= tr->piece.n;
        const mk_strtab *t = special ? &tr->special : &tr->piece;
        size_t len;
        const char *p = mk_strtab_get(t, special ? i - tr->piece.n : i, &len);
        json_t *a = json_pack("{s:I, s:s%, s:b, s:b, s:b, s:b, s:b}", "id",
                              (json_int_t)(tr->token.n + i), "content", p, len, "single_word", 0,
                              "lstrip", 0, "rstrip", 0, "normalized", 0, "special", special);
        if (!a || json_array_append_new(list, a) != 0) {
            json_decref(list);
            list = NULL;
        }
    }
    return list;
}

static json_t *split(const char *regex) {
    return json_pack("{s:s, s:{s:s}, s:s, s:b}", "type", "Split", "pattern", "Regex", regex,
                     "behavior", "Isolated", "invert", 0);
}

static json_t *byte_level(void) {
    return json_pack("{s:s, s:b, s:b, s:b}", "type", "ByteLevel", "add_prefix_space", 0,
                     "trim_offsets", 1, "use_regex", 0);
}

static json_t *pre_tokenizer(const mk_tok_trainer *tr) {
    json_t *list = json_array();
    int bad = !list;
    if (tr->digits) {
        bad |= json_array_append_new(list, split(mk_rule_digit.regex));
    }
    for (int i = 0; i < MK_PRE_MAX_RULE && tr->pre->rule[i]; i++) {
        bad |= json_array_append_new(list, split(tr->pre->rule[i]->regex));
    }
    bad |= json_array_append_new(list, byte_level());
    if (bad) {
        json_decref(list);
        return NULL;
    }
    return json_pack("{s:s, s:o}", "type", "Sequence", "pretokenizers", list);
}

static json_t *model(const mk_tok_trainer *tr) {
    // words have no merges: they are found whole
    bool whole = tr->method == MK_TOK_WORDS || tr->pre->ignore_merges;
    return json_pack("{s:s, s:n, s:n, s:n, s:n, s:b, s:b, s:b, s:o, s:o}", "type", "BPE", "dropout",
                     "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk", 0,
                     "byte_fallback", 0, "ignore_merges", whole, "vocab", vocab(tr), "merges",
                     merges(tr));
}

// In tokenizer.json a token is known by its spelling, so two of them must not share one.
static mk_status check_spelling(const mk_tok_trainer *tr, const json_t *vocabulary, mk_err *err) {
    for (size_t i = 0; i < tr->piece.n + tr->special.n; i++) {
        bool special = i >= tr->piece.n;
        const mk_strtab *t = special ? &tr->special : &tr->piece;
        size_t n;
        const char *p = mk_strtab_get(t, special ? i - tr->piece.n : i, &n);
        if (json_object_getn(vocabulary, p, n)) {
            return MK_FAIL(err, MK_EUSAGE,
                           "%s token '%.*s' is spelt like a token of the vocabulary; expected "
                           "another text, like '<|%.*s|>'",
                           special ? "special" : "added", (int)n, p, (int)n, p);
        }
    }
    return MK_OK;
}

mk_status mk_hf_write_tokenizer(const mk_tok_trainer *tr, mk_buf *out, mk_err *err) {
    json_t *m = model(tr);
    mk_status st = m ? check_spelling(tr, json_object_get(m, "vocab"), err)
                     : MK_FAIL(err, MK_ENOMEM, "no memory for the vocabulary");
    if (st != MK_OK) {
        json_decref(m);
        return st;
    }
    json_t *decoder = byte_level();
    json_t *v =
        json_pack("{s:s, s:n, s:n, s:o, s:n, s:o, s:n, s:o, s:o}", "version", "1.0", "truncation",
                  "padding", "added_tokens", added(tr), "normalizer", "pre_tokenizer",
                  pre_tokenizer(tr), "post_processor", "decoder", decoder, "model", m);
    return write_json(v, out, err);
}

static int set_token(json_t *v, const mk_tok_trainer *tr, const char *key, size_t number) {
    if (number == SIZE_MAX) {
        return 0;
    }
    size_t n;
    const char *p = mk_strtab_get(&tr->special, number, &n);
    return json_object_set_new(v, key, json_stringn(p, n));
}

mk_status mk_hf_write_config(const mk_tok_trainer *tr, mk_buf *out, mk_err *err) {
    json_t *v = json_pack("{s:s, s:b}", "tokenizer_class", "PreTrainedTokenizerFast",
                          "clean_up_tokenization_spaces", 0);
    int bad = !v || set_token(v, tr, "bos_token", tr->bos) ||
              set_token(v, tr, "eos_token", tr->eos) || set_token(v, tr, "pad_token", tr->pad);
    if (bad) {
        json_decref(v);
        v = NULL;
    }
    return write_json(v, out, err);
}
