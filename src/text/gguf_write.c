// Writing a tokenizer as GGUF metadata.  The counterpart of gguf_vocab.c; see there for the keys.
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "text/tok_int.h"

#define KEY(name) "tokenizer.ggml." name

// Types as GGUF has them: the unknown token by its id, holes as unused.
static int32_t type_for_gguf(const mk_tokenizer *t, int64_t i) {
    if (i >= t->v.n || t->v.e[i].type == 0) {
        return MK_TOKEN_UNUSED;
    }
    return i == t->unk && t->kind != MK_TOKENIZER_BPE ? MK_TOKEN_UNKNOWN : t->v.e[i].type;
}

// n_rows entries: readers want one for every row of the token table, so that its padding has names.
static void write_tokens(const mk_tokenizer *t, int64_t n_rows, mk_gguf_out *o) {
    size_t n = (size_t)(n_rows > t->v.n ? n_rows : t->v.n);
    mk_gguf_str *text = mk_alloc(n * sizeof *text);
    float *score = mk_alloc(n * sizeof *score);
    int32_t *type = mk_alloc(n * sizeof *type);
    char *hole = mk_alloc(n * 16);
    for (size_t i = 0; i < n; i++) {
        static const mk_vocab_entry none;
        const mk_vocab_entry *e = i < (size_t)t->v.n ? &t->v.e[i] : &none;
        text[i] = (mk_gguf_str){t->v.bytes + e->text, e->n_text};
        if (e->type == 0) {  // names must be different
            int k = snprintf(hole + 16 * i, 16, "[PAD%zu]", i);
            text[i] = (mk_gguf_str){hole + 16 * i, (size_t)k};
        }
        score[i] = (float)e->score;
        type[i] = type_for_gguf(t, (int64_t)i);
    }
    // a piece made by merges gets minus the rank of its first merge: the order of SentencePiece
    bool by_rank = t->kind == MK_TOKENIZER_BPE && t->v.mode != MK_PIECE_BYTE_LEVEL;
    for (uint32_t k = 0; by_rank && k < t->merges.n_slot; k++) {
        const mk_merge *m = &t->merges.slot[k];
        if (m->left >= 0 && (score[m->id] == 0 || -(float)m->rank - 1 > score[m->id])) {
            score[m->id] = -(float)m->rank - 1;
        }
    }
    mk_gguf_out_arr_str(o, KEY("tokens"), text, (int64_t)n);
    if (by_rank || t->kind != MK_TOKENIZER_BPE) {
        mk_gguf_out_arr_f32(o, KEY("scores"), score, (int64_t)n);
    }
    mk_gguf_out_arr_i32(o, KEY("token_type"), type, (int64_t)n);
    mk_free(text);
    mk_free(score);
    mk_free(type);
    mk_free(hole);
}

static int64_t top_rank(const mk_merges *m) {
    int64_t top = -1;
    for (uint32_t k = 0; k < m->n_slot; k++) {
        top = m->slot[k].left >= 0 && m->slot[k].rank > top ? m->slot[k].rank : top;
    }
    return top;
}

// "a b" in order of rank.
static void write_merges(const mk_tokenizer *t, mk_gguf_out *o) {
    const mk_merges *m = &t->merges;
    size_t n = (size_t)(top_rank(m) + 1);
    const mk_merge **by_rank = mk_zalloc((n + 1) * sizeof *by_rank);
    for (uint32_t k = 0; k < m->n_slot; k++) {
        if (m->slot[k].left >= 0) {
            by_rank[m->slot[k].rank] = &m->slot[k];
        }
    }
    mk_buf b;
    mk_buf_init(&b, SIZE_MAX / 2);
    mk_gguf_str *s = mk_alloc((n + 1) * sizeof *s);
    size_t *at = mk_alloc((n + 1) * sizeof *at);
    int64_t n_out = 0;
    for (size_t r = 0; r < n; r++) {
        if (!by_rank[r]) {
            continue;
        }
        const mk_vocab_entry *x = &t->v.e[by_rank[r]->left], *y = &t->v.e[by_rank[r]->right];
        at[n_out] = b.len;
        mk_buf_add(&b, t->v.bytes + x->text, x->n_text);
        mk_buf_putc(&b, ' ');
        mk_buf_add(&b, t->v.bytes + y->text, y->n_text);
        s[n_out].n = b.len - at[n_out];
        n_out++;
    }
    for (int64_t i = 0; i < n_out && !b.failed; i++) {
        s[i].p = b.data + at[i];
    }
    if (!b.failed) {
        mk_gguf_out_arr_str(o, KEY("merges"), s, n_out);
    }
    mk_buf_free(&b);
    mk_free(s);
    mk_free(at);
    mk_free(by_rank);
}

static void write_id(mk_gguf_out *o, const char *key, int32_t id) {
    if (id >= 0) {
        mk_gguf_out_u32(o, key, (uint32_t)id);
    }
}

static void write_str(mk_gguf_out *o, const char *key, const char *s) {
    mk_gguf_out_str(o, key, s, strlen(s));
}

static const char *model_name(const mk_tokenizer *t) {
    static const char *const names[] = {[MK_TOKENIZER_SPM] = "llama",
                                        [MK_TOKENIZER_UNIGRAM] = "t5",
                                        [MK_TOKENIZER_WORDPIECE] = "bert"};
    if (t->kind != MK_TOKENIZER_BPE) {
        return names[t->kind];
    }
    return t->v.mode == MK_PIECE_BYTE_LEVEL     ? "gpt2"
           : strcmp(t->pre_name, "gemma4") == 0 ? "gemma4"
                                                : "llama";
}

// A normaliser that puts "▁" or a space in front, as SentencePiece's dummy prefix.
static bool has_space_prefix(const mk_tokenizer *t) {
    bool found = t->add_space_prefix;
    for (int i = 0; i < t->n_norm; i++) {
        found = found || t->norm[i].kind == MK_NORM_PREPEND;
    }
    for (int i = 0; i < t->n_pass; i++) {
        found =
            found || (t->pass[i].kind == MK_PASS_META && t->pass[i].prepend != MK_PREPEND_NEVER);
    }
    return found;
}

void mk_tokenizer_to_gguf(const mk_tokenizer *t, int64_t n_rows, mk_gguf_out *o) {
    const char *model = model_name(t);
    // a gpt2 vocabulary may have no merges at all, but readers want the key
    bool merges = strcmp(model, "gpt2") == 0 || (t->merges.n > 0 && strcmp(model, "llama") != 0);
    write_str(o, KEY("model"), model);
    write_str(o, KEY("pre"), strcmp(model, "llama") == 0 ? "default" : t->pre_name);
    write_tokens(t, n_rows, o);
    if (merges) {
        write_merges(t, o);
    }
    write_id(o, KEY("bos_token_id"), t->bos);
    write_id(o, KEY("eos_token_id"), t->eos);
    write_id(o, KEY("unknown_token_id"), t->kind == MK_TOKENIZER_BPE && merges ? -1 : t->unk);
    write_id(o, KEY("padding_token_id"), t->pad);
    int32_t eot = t->eot;
    for (int64_t i = 0; i < t->v.n && eot < 0;
         i++) {  // a turn's end that no name gives away (GLM's <|user|>)
        bool known =
            i == t->eos || mk_tokenizer_eog_name(t->v.bytes + t->v.e[i].text, t->v.e[i].n_text);
        eot = t->v.e[i].eog && !known ? (int32_t)i : -1;
    }
    write_id(o, KEY("eot_token_id"), eot);
    mk_gguf_out_i64(o, KEY("add_bos_token"), MK_GGUF_BOOL, mk_tokenizer_add_bos(t));
    bool eos = t->n_suffix == 1 && t->suffix[0] == t->eos && t->eos >= 0;
    mk_gguf_out_i64(o, KEY("add_eos_token"), MK_GGUF_BOOL, eos);
    if (strcmp(model, "gpt2") != 0) {
        mk_gguf_out_i64(o, KEY("add_space_prefix"), MK_GGUF_BOOL, has_space_prefix(t));
    }
    if (t->remove_extra_ws) {
        mk_gguf_out_i64(o, KEY("remove_extra_whitespaces"), MK_GGUF_BOOL, 1);
    }
    if (t->json) {
        mk_gguf_out_str(o, "tokenizer.huggingface.json", t->json, t->n_json);
    }
}

const char *mk_tokenizer_json(const mk_tokenizer *t, size_t *n) {
    *n = t->n_json;
    return t->json;
}
