// Making and taking apart a tokenizer, and the questions one can ask it.
#include <string.h>

#include "base/alloc.h"
#include "text/tok_int.h"

mk_status mk_tokenizer_new(mk_tokenizer **out, mk_err *err) {
    *out = NULL;
    mk_tokenizer *t = mk_try_alloc(1, sizeof *t);
    if (!t || !mk_uclass_init(&t->uc)) {
        mk_free(t);
        return MK_FAIL(err, MK_ENOMEM, "no memory for a tokenizer");
    }
    t->pre_name = "custom";
    t->unk = t->bos = t->eos = t->eot = t->pad = -1;
    memset(t->byte_id, 0xFF, sizeof t->byte_id);
    *out = t;
    return MK_OK;
}

static void step_free(mk_norm_step *s) {
    mk_free(s->a);
    mk_free(s->b);
    mk_regex_destroy(s->re);
}

void mk_tokenizer_destroy(mk_tokenizer *t) {
    if (!t) {
        return;
    }
    for (int i = 0; i < t->n_norm; i++) {
        step_free(&t->norm[i]);
    }
    for (int i = 0; i < t->n_pass; i++) {
        mk_regex_destroy(t->pass[i].re);
    }
    mk_added_free(&t->added);
    mk_vocab_free(&t->v);
    mk_free(t->merges.slot);
    mk_free(t->by_text);
    mk_free(t->charsmap.blob);
    mk_free(t->json);
    mk_uclass_free(&t->uc);
    mk_free(t);
}

mk_status mk_tokenizer_add_norm(mk_tokenizer *t, mk_norm_step s, mk_err *err) {
    if (t->n_norm == MK_MAX_STEP) {
        step_free(&s);
        return MK_FAIL(err, MK_EUNSUPPORTED, "tokenizer has more than %d normalisers", MK_MAX_STEP);
    }
    t->norm[t->n_norm++] = s;
    return MK_OK;
}

mk_status mk_tokenizer_add_pass(mk_tokenizer *t, mk_pass p, mk_err *err) {
    if (t->n_pass == MK_MAX_STEP) {
        mk_regex_destroy(p.re);
        return MK_FAIL(err, MK_EUNSUPPORTED, "tokenizer has more than %d pre-tokenizers",
                       MK_MAX_STEP);
    }
    t->pass[t->n_pass++] = p;
    return MK_OK;
}

mk_status mk_tokenizer_use_pre(mk_tokenizer *t, const mk_pre *pre, mk_err *err) {
    t->pre_name = pre->name;
    t->ignore_merges = pre->ignore_merges;
    for (int i = 0; i < MK_PRE_MAX_RULE && pre->rule[i]; i++) {
        MK_TRY(
            mk_tokenizer_add_pass(t, (mk_pass){.kind = MK_PASS_SPLIT, .rule = pre->rule[i]}, err));
    }
    for (int i = 0; i < 2 && pre->regex[i]; i++) {
        mk_regex *re;
        MK_TRY(mk_regex_compile(pre->regex[i], strlen(pre->regex[i]), &re, err));
        MK_TRY(mk_tokenizer_add_pass(t, (mk_pass){.kind = MK_PASS_REGEX, .re = re}, err));
    }
    return pre->nfc ? mk_tokenizer_add_norm(t, (mk_norm_step){.kind = MK_NORM_NFC}, err) : MK_OK;
}

// Names that end a turn in the models in circulation.
static const char *const eog_names[] = {
    "<|eot_id|>",    "<|eom_id|>",    "<|im_end|>",
    "<|end|>",       "<|return|>",    "<|call|>",
    "<end_of_turn>", "<|endoftext|>", "<|end_of_text|>",
    "</s>",          "<EOT>",         "_<EOT>",
    "[EOT]",         "[EOS]",         "<end_of_utterance>",
    "<eos>",         "<|eos|>",       "<｜end▁of▁sentence｜>",
};

bool mk_tokenizer_eog_name(const char *p, size_t n) {
    if (n < 4 || !memchr("<[_", p[0], 3)) {  // asked of every token of a vocabulary
        return false;
    }
    for (size_t i = 0; i < sizeof eog_names / sizeof eog_names[0]; i++) {
        if (strlen(eog_names[i]) == n && memcmp(eog_names[i], p, n) == 0) {
            return true;
        }
    }
    return false;
}

static const char meta[] = "\xE2\x96\x81";

// Finds where pieces have a "▁" inside.  Cutting the text elsewhere before merging changes nothing,
// and turns one huge piece into words, which repeat.
static void find_meta_cuts(mk_tokenizer *t) {
    const mk_vocab *v = &t->v;
    memset(t->meta_after, 0, sizeof t->meta_after);
    t->cuts_meta = v->mode == MK_PIECE_META && mk_vocab_find(v, meta, 3, MK_TYPES_TEXT) >= 0;
    for (int64_t i = 0; t->cuts_meta && i < v->n; i++) {
        const mk_vocab_entry *e = &v->e[i];
        const char *p = v->bytes + e->text;
        if (e->type == 0 || !(MK_TYPES_TEXT >> e->type & 1)) {
            continue;
        }
        for (size_t k = 1; k + 3 <= e->n_text; k++) {
            if (memcmp(p + k, meta, 3) == 0) {
                t->meta_after[(unsigned char)p[k - 1]] = true;
            }
        }
    }
}

static int32_t control_named(const mk_tokenizer *t, const char *name) {
    return mk_vocab_find(&t->v, name, strlen(name), 1u << MK_TOKEN_CONTROL);
}

void mk_tokenizer_seal(mk_tokenizer *t) {
    bool byte_level = t->v.mode == MK_PIECE_BYTE_LEVEL;
    for (int b = 0; byte_level && b < 256; b++) {
        char c = (char)b;
        t->byte_id[b] = mk_vocab_find(&t->v, &c, 1, MK_TYPES_TEXT);
    }
    for (int64_t i = 0; i < t->v.n; i++) {
        mk_vocab_entry *e = &t->v.e[i];
        if (e->type == MK_TOKEN_BYTE && !byte_level && e->n_piece == 1) {
            t->byte_id[(unsigned char)t->v.bytes[e->piece]] = (int32_t)i;
        }
        if (e->type == MK_TOKEN_CONTROL) {
            e->eog = mk_tokenizer_eog_name(t->v.bytes + e->text, e->n_text);
        }
    }
    find_meta_cuts(t);
    // gpt-oss: <|end|> closes a channel, the turn goes on; <|return|> and <|call|> end it
    int32_t end = control_named(t, "<|end|>");
    if (end >= 0 && control_named(t, "<|return|>") >= 0 && control_named(t, "<|call|>") >= 0) {
        t->v.e[end].eog = 0;
    }
}

void mk_tokenizer_set_around(mk_tokenizer *t, bool add_bos, bool add_eos) {
    t->n_prefix = t->n_suffix = 0;
    if (add_bos && t->bos >= 0) {
        t->prefix[t->n_prefix++] = t->bos;
    }
    if (add_eos && t->eos >= 0) {
        t->suffix[t->n_suffix++] = t->eos;
    }
}

// --- facts ---------------------------------------------------------------------------------------
static const mk_vocab_entry *entry(const mk_tokenizer *t, int32_t id) {
    return id >= 0 && id < t->v.n && t->v.e[id].type != 0 ? &t->v.e[id] : NULL;
}

const char *mk_tokenizer_piece(const mk_tokenizer *t, int32_t id, size_t *n) {
    *n = 0;
    if (id < 0 || id >= t->v.n) {
        return NULL;
    }
    const mk_vocab_entry *e = entry(t, id);
    if (!e) {
        return "";
    }
    *n = e->n_piece;
    return t->v.bytes + e->piece;
}

mk_tokenizer_kind mk_tokenizer_get_kind(const mk_tokenizer *t) {
    return t->kind;
}

const char *mk_tokenizer_pre_name(const mk_tokenizer *t) {
    return t->pre_name;
}

int64_t mk_tokenizer_n_vocab(const mk_tokenizer *t) {
    return t->v.n;
}

mk_token_type mk_tokenizer_type(const mk_tokenizer *t, int32_t id) {
    const mk_vocab_entry *e = entry(t, id);
    return e ? (mk_token_type)e->type : MK_TOKEN_UNUSED;
}

int32_t mk_tokenizer_find(const mk_tokenizer *t, const char *piece, size_t n) {
    return mk_vocab_find_text(&t->v, piece, n);
}

int32_t mk_tokenizer_bos(const mk_tokenizer *t) {
    return t->bos;
}

int32_t mk_tokenizer_eos(const mk_tokenizer *t) {
    return t->eos;
}

bool mk_tokenizer_add_bos(const mk_tokenizer *t) {
    for (int i = 0; i < t->n_prefix; i++) {
        if (t->prefix[i] == t->bos) {
            return t->bos >= 0;
        }
    }
    return false;
}

bool mk_tokenizer_is_eog(const mk_tokenizer *t, int32_t id) {
    const mk_vocab_entry *e = entry(t, id);
    return e && (e->eog || id == t->eos || id == t->eot);
}

mk_status mk_tokenizer_eog_ids(const mk_tokenizer *t, mk_ids *ids, mk_err *err) {
    int64_t n_vocab = mk_tokenizer_n_vocab(t);
    for (int64_t id = 0; id < n_vocab; id++) {
        if (mk_tokenizer_is_eog(t, (int32_t)id)) {
            MK_TRY(mk_ids_push(ids, (int32_t)id, err));
        }
    }
    return MK_OK;
}
