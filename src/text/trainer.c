// The trainer from options to files.  See train.h.
//
// Texts are split by a finished tokenizer without merges (tr->cut), so training sees exactly the
// words that encoding will see.
#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "base/alloc.h"
#include "base/file.h"
#include "base/utf8.h"
#include "text/train_int.h"

// A pair is looked for in the whole word: without a bound a text without spaces costs its length
// times the number of merges.  The `tokenizers` package has none; no word of a language is as long.
#define MAX_WORD ((size_t)4096)

// The split of each name as a row of mk_pre_table (one without a normaliser).
static const mk_pre *pre_of(const char *split) {
    static const char *const rows[][2] = {{"llama3", "llama-bpe"},
                                          {"qwen2", "deepseek-r1-qwen"},
                                          {"gpt2", "gpt-2"},
                                          {"gpt4o", "gpt-4o"},
                                          {"deepseek3", "deepseek-v3"}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        if (strcmp(rows[i][0], split) == 0) {
            return mk_pre_find(rows[i][1], strlen(rows[i][1]));
        }
    }
    return NULL;
}

// --- options -------------------------------------------------------------------------------------

static mk_status put_texts(mk_strtab *t, const mk_tok_texts *list, const char *what,
                           size_t min_bytes, mk_err *err) {
    for (size_t i = 0; i < list->n; i++) {
        const char *s = list->items[i];
        size_t n = strlen(s), had = t->n, number;
        if (n < min_bytes || n > MK_MAX_ADDED || !mk_utf8_valid(s, n)) {
            return MK_FAIL(
                err, MK_EUSAGE, "%s '%.60s': expected %zu to %d bytes of UTF-8, got %zu bytes%s",
                what, s, min_bytes, MK_MAX_ADDED, n, mk_utf8_valid(s, n) ? "" : " that are not");
        }
        MK_TRY(mk_strtab_put(t, s, n, &number, err));
        if (t->n == had) {
            return MK_FAIL(err, MK_EUSAGE, "%s '%.60s' is given twice", what, s);
        }
    }
    return MK_OK;
}

static mk_status find_special(const mk_tok_trainer *tr, const char *text, const char *what,
                              size_t *number, mk_err *err) {
    *number = text ? mk_strtab_find(&tr->special, text, strlen(text)) : SIZE_MAX;
    return !text || *number != SIZE_MAX
               ? MK_OK
               : MK_FAIL(err, MK_EUSAGE, "%s '%.60s': expected one of the special tokens", what,
                         text);
}

// A text in two lists would be two tokens.
static mk_status check_distinct(const mk_tok_trainer *tr, mk_err *err) {
    const mk_strtab *list[] = {&tr->word, &tr->piece, &tr->special};
    for (size_t a = 0; a < 3; a++) {
        for (size_t i = 0; i < list[a]->n; i++) {
            size_t n;
            const char *p = mk_strtab_get(list[a], i, &n);
            for (size_t b = a + 1; b < 3; b++) {
                if (mk_strtab_find(list[b], p, n) != SIZE_MAX) {
                    return MK_FAIL(err, MK_EUSAGE,
                                   "'%.*s': expected it once among words, pieces and special "
                                   "tokens, got it in two of them",
                                   (int)n, p);
                }
            }
        }
    }
    return MK_OK;
}

// The bytes: in the order of the code points that stand for them (bpe), or by value.
static mk_status put_bytes(mk_tok_trainer *tr, mk_err *err) {
    for (uint32_t cp = 0, n = 0; n < 256; cp++) {
        int byte = tr->method == MK_TOK_BPE ? mk_byte_of_cp(cp) : (int)cp;
        if (byte >= 0) {
            char c = (char)byte;
            size_t number;
            MK_TRY(mk_strtab_put(&tr->token, &c, 1, &number, err));
            n++;
        }
    }
    return MK_OK;
}

static mk_status put_words(mk_tok_trainer *tr, mk_err *err) {
    for (size_t i = 0; i < tr->word.n; i++) {
        size_t n, number;
        const char *p = mk_strtab_get(&tr->word, i, &n);
        MK_TRY(mk_strtab_put(&tr->token, p, n, &number, err));
    }
    return MK_OK;
}

// What the model alone may have; the rest of n_vocab are pieces and special tokens.
static mk_status check_size(const mk_tok_trainer *tr, const mk_tok_trainer_opts *o, mk_err *err) {
    size_t least = tr->token.n + tr->piece.n + tr->special.n;
    return tr->method != MK_TOK_BPE || (o->n_vocab >= (int64_t)least && o->n_vocab <= MK_MAX_VOCAB)
               ? MK_OK
               : MK_FAIL(err, MK_EUSAGE,
                         "expected a vocabulary of %zu (bytes, pieces and special tokens) to %d "
                         "tokens, got %lld",
                         least, MK_MAX_VOCAB, (long long)o->n_vocab);
}

// --- splitting -----------------------------------------------------------------------------------

static mk_status open_cut(mk_tok_trainer *tr, mk_err *err) {
    mk_buf json;
    mk_buf_init(&json, SIZE_MAX / 2);
    mk_status st = mk_hf_write_tokenizer(tr, &json, err);
    st = st == MK_OK ? mk_tokenizer_from_json(json.data, json.len, &tr->cut, err) : st;
    mk_buf_free(&json);
    return st;
}

// Is each word one token?  The split may cut it.
static mk_status check_words(const mk_tok_trainer *tr, mk_err *err) {
    mk_ids ids = {0};
    mk_status st = MK_OK;
    for (size_t i = 0; i < tr->word.n && st == MK_OK; i++) {
        size_t n;
        const char *p = mk_strtab_get(&tr->word, i, &n);
        ids.n = 0;
        st = mk_tokenizer_encode(tr->cut, p, n, (mk_encode_opts){0}, &ids, err);
        if (st == MK_OK && ids.n != 1) {
            st = MK_FAIL(err, MK_EUSAGE,
                         "word '%.*s': expected letters with at most one sign or space before "
                         "them, which the split leaves whole; got a text of %lld tokens (a piece "
                         "may be any text)",
                         (int)n, p, (long long)ids.n);
        }
    }
    mk_ids_free(&ids);
    return st;
}

static mk_status count_word(void *arg, const char *p, size_t n, mk_err *err) {
    mk_tok_trainer *tr = arg;
    while (n > 0) {
        size_t k = n < MAX_WORD ? n : MAX_WORD, number;
        MK_TRY(mk_strtab_put(&tr->seen, p, k, &number, err));
        tr->seen.s[number].count++;
        p += k;
        n -= k;
    }
    return MK_OK;
}

mk_status mk_tok_trainer_add(mk_tok_trainer *tr, const char *text, size_t n, mk_err *err) {
    return tr->method == MK_TOK_BPE ? mk_tokenizer_split(tr->cut, text, n, count_word, tr, err)
                                    : MK_OK;
}

// --- life ----------------------------------------------------------------------------------------

static mk_status prepare(mk_tok_trainer *tr, const mk_tok_trainer_opts *o, mk_err *err) {
    if (!tr->pre) {
        return MK_FAIL(err, MK_EUSAGE, "split '%.40s': expected one of " MK_TOK_SPLITS,
                       o->split ? o->split : "");
    }
    // one byte is a token already
    MK_TRY(put_texts(&tr->word, &o->word, "word", 2, err));
    MK_TRY(put_texts(&tr->piece, &o->piece, "piece", 2, err));
    MK_TRY(put_texts(&tr->special, &o->special, "special token", 2, err));
    MK_TRY(check_distinct(tr, err));
    MK_TRY(find_special(tr, o->bos, "bos", &tr->bos, err));
    MK_TRY(find_special(tr, o->eos, "eos", &tr->eos, err));
    MK_TRY(find_special(tr, o->pad, "pad", &tr->pad, err));
    MK_TRY(put_bytes(tr, err));
    if (tr->method == MK_TOK_WORDS) {
        MK_TRY(put_words(tr, err));
    }
    MK_TRY(check_size(tr, o, err));
    MK_TRY(open_cut(tr, err));
    return tr->method == MK_TOK_WORDS ? check_words(tr, err) : MK_OK;
}

mk_status mk_tok_trainer_create(const mk_tok_trainer_opts *o, mk_tok_trainer **out, mk_err *err) {
    mk_tok_trainer *tr = mk_zalloc(sizeof *tr);
    tr->method = o->method;
    tr->digits = o->digits;
    tr->pre = o->split ? pre_of(o->split) : NULL;
    tr->n_vocab = (size_t)(o->n_vocab > 0 ? o->n_vocab : 0);
    tr->min_count = o->min_count;
    mk_status st = prepare(tr, o, err);
    if (st != MK_OK) {
        mk_tok_trainer_destroy(tr);
        tr = NULL;
    }
    *out = tr;
    return st;
}

void mk_tok_trainer_destroy(mk_tok_trainer *tr) {
    if (!tr) {
        return;
    }
    mk_strtab *const tabs[] = {&tr->word, &tr->piece, &tr->special, &tr->token, &tr->seen};
    for (size_t i = 0; i < sizeof tabs / sizeof tabs[0]; i++) {
        mk_strtab_free(tabs[i]);
    }
    mk_free(tr->merges.v);
    mk_tokenizer_destroy(tr->cut);
    mk_free(tr);
}

mk_status mk_tok_trainer_run(mk_tok_trainer *tr, mk_tok_progress progress, void *arg, mk_err *err) {
    if (tr->method != MK_TOK_BPE) {
        return MK_OK;
    }
    MK_ASSERT(tr->merges.n == 0);
    if (tr->seen.n == 0) {
        return MK_FAIL(err, MK_EUSAGE, "no text to learn from");
    }
    mk_bpe_job job = {.word = &tr->seen,
                      .token = &tr->token,
                      .n_token = tr->n_vocab - tr->piece.n - tr->special.n,
                      .min_count = tr->min_count,
                      .progress = progress,
                      .arg = arg};
    return mk_bpe_learn(&job, &tr->merges, err);
}

mk_tok_trainer_facts mk_tok_trainer_get_facts(const mk_tok_trainer *tr) {
    mk_tok_trainer_facts f = {
        .n_vocab = (int64_t)(tr->token.n + tr->piece.n + tr->special.n),
        .n_merge = (int64_t)tr->merges.n,
        .n_word = (int64_t)tr->seen.n,
    };
    for (size_t i = 0; i < tr->seen.n; i++) {
        f.n_word_seen += tr->seen.s[i].count;
    }
    return f;
}

// --- files ---------------------------------------------------------------------------------------

mk_status mk_tok_trainer_json(const mk_tok_trainer *tr, mk_buf *out, mk_err *err) {
    return mk_hf_write_tokenizer(tr, out, err);
}

static mk_status write_file(const char *dir, const char *name, const char *p, size_t n,
                            mk_err *err) {
    char *path = mk_path_join(dir, name);
    mk_writer *w = NULL;
    mk_status st = mk_writer_open(path, &w, err);
    if (st == MK_OK) {
        st = mk_writer_write(w, p, n, err);
        if (st == MK_OK) {
            st = mk_writer_commit(w, err);
        } else {
            mk_writer_abort(w);
        }
    }
    mk_free(path);
    return st;
}

mk_status mk_tok_trainer_write(const mk_tok_trainer *tr, const char *chat_template, const char *dir,
                               mk_err *err) {
    mk_buf json, config;
    mk_buf_init(&json, SIZE_MAX / 2);
    mk_buf_init(&config, 1 << 20);
    mk_status st = mk_hf_write_tokenizer(tr, &json, err);
    st = st == MK_OK ? mk_hf_write_config(tr, &config, err) : st;
    st = st == MK_OK ? mk_folder_make(dir, err) : st;
    st = st == MK_OK ? write_file(dir, "tokenizer_config.json", config.data, config.len, err) : st;
    if (st == MK_OK && chat_template) {
        st = write_file(dir, "chat_template.jinja", chat_template, strlen(chat_template), err);
    }
    st = st == MK_OK ? write_file(dir, "tokenizer.json", json.data, json.len, err) : st;
    mk_buf_free(&json);
    mk_buf_free(&config);
    return st;
}
