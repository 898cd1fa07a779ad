// minke tokenizer train: makes a tokenizer as a Hugging Face folder.
#include "cmd.h"

#include <string.h>

#include "base/alloc.h"
#include "base/file.h"
#include "base/log.h"
#include "text/train.h"

typedef struct {
    const char *out, *words_path, *split, *bos, *eos, *pad, *template_path;
    mk_opt_list word, piece, special;
    int64_t n_vocab, min_count;
    bool digits, quiet;
} tokenizer_args;

#define STR(name_, field, arg_, help_)                                                             \
    {                                                                                              \
        .name = name_, .type = MK_OPT_STR, .offset = offsetof(tokenizer_args, field), .arg = arg_, \
        .help = help_                                                                              \
    }
#define LIST(name_, field, help_)                                                                  \
    {                                                                                              \
        .name = name_, .type = MK_OPT_LIST, .offset = offsetof(tokenizer_args, field),             \
        .arg = "TEXT", .help = help_                                                               \
    }

static const mk_opt opts[] = {
    {.name = "out",
     .short_name = "o",
     .type = MK_OPT_STR,
     .offset = offsetof(tokenizer_args, out),
     .arg = "DIR",
     .help = "folder to write; it is made if it is not there"},
    {.name = "split",
     .type = MK_OPT_STR,
     .offset = offsetof(tokenizer_args, split),
     .dflt = "llama3",
     .choices = MK_TOK_SPLITS,
     .arg = "NAME",
     .help = "whose pattern cuts text into words; no token reaches across",
     .group = "Vocabulary"},
    {.name = "digits",
     .type = MK_OPT_FLAG,
     .offset = offsetof(tokenizer_args, digits),
     .help = "every digit is a token of its own"},
    {.name = "vocab",
     .type = MK_OPT_I64,
     .offset = offsetof(tokenizer_args, n_vocab),
     .dflt = "32000",
     .min = 256,
     .max = 1 << 24,
     .arg = "N",
     .help = "bpe: tokens in all, with bytes and special tokens"},
    {.name = "min-count",
     .type = MK_OPT_I64,
     .offset = offsetof(tokenizer_args, min_count),
     .dflt = "2",
     .min = 1,
     .max = 1e15,
     .arg = "N",
     .help = "bpe: pairs that occur less often are not merged"},
    STR("words", words_path, "FILE",
        "words: one on each line, spaces in front of it are part of it"),
    LIST("word", word, "words: one more; may be repeated"),
    LIST("piece", piece,
         "one token wherever this text stands, shown like other text (<think>); may be repeated"),
    {.name = "special",
     .type = MK_OPT_LIST,
     .offset = offsetof(tokenizer_args, special),
     .arg = "NAME",
     .group = "Control tokens",
     .help = "a token that no user's text becomes (<|end|>); may be repeated"},
    STR("bos", bos, "NAME", "which of them begins a text"),
    STR("eos", eos, "NAME", "which of them ends an answer"),
    STR("pad", pad, "NAME", "which of them fills up"),
    STR("chat-template", template_path, "FILE", "Jinja template, copied into the folder"),
    {.name = "quiet",
     .short_name = "q",
     .type = MK_OPT_FLAG,
     .offset = offsetof(tokenizer_args, quiet),
     .help = "nothing on standard error but errors"},
};

const mk_opt_spec cmd_tokenizer_spec = {
    .program = "minke tokenizer",
    .usage = "train byte|words|bpe -o DIR [FILE...]",
    .about = "Makes a tokenizer: tokenizer.json, tokenizer_config.json and the chat template, for "
             "minke and for Hugging Face transformers. Every text can be encoded.",
    .more = "  byte    the 256 bytes\n"
            "  words   and given words, each one token\n"
            "  bpe     byte-level BPE, learned from the files\n\n"
            "  A file whose name ends in .jsonl is training data (text, prompt, completion,\n"
            "  messages and their like); any other file is one text.\n\n"
            "  minke tokenizer train bpe --vocab 8000 --special '<|end|>' --eos '<|end|>' \\\n"
            "      -o tokenizer book.txt\n",
    .opts = opts,
    .n_opts = MK_OPT_COUNT(opts),
    .max_args = -1,
};

// --- words ---------------------------------------------------------------------------------------

// Lines become strings in place (*data, which the list points into); empty ones are left out.
static mk_status read_words(const tokenizer_args *a, char **data, const char ***items, size_t *n,
                            mk_err *err) {
    size_t n_bytes = 0, cap = a->word.n + 1;
    if (a->words_path) {
        MK_TRY(cmd_read_input(a->words_path, data, &n_bytes, err));
    }
    for (size_t i = 0; i < n_bytes; i++) {
        cap += (*data)[i] == '\n';
    }
    *items = mk_try_alloc(cap, sizeof **items);
    if (!*items) {
        return MK_FAIL(err, MK_ENOMEM, "no memory for %zu words", cap);
    }
    for (size_t i = 0; i < n_bytes;) {
        char *line = *data + i, *end = memchr(line, '\n', n_bytes - i);
        size_t len = end ? (size_t)(end - line) : n_bytes - i;
        i += len + 1;
        len -= len > 0 && line[len - 1] == '\r';
        line[len] = 0;
        if (len > 0) {
            (*items)[(*n)++] = line;
        }
    }
    for (size_t i = 0; i < a->word.n; i++) {
        (*items)[(*n)++] = a->word.items[i];
    }
    return MK_OK;
}

// --- training ------------------------------------------------------------------------------------

static void show(void *arg, uint64_t done, uint64_t total) {
    mk_progress *bar = arg;
    bar->total = total;
    mk_progress_update(bar, done);
}

static mk_status feed(const tokenizer_args *a, const mk_opt_result *r, mk_tok_trainer *tr,
                      mk_err *err) {
    for (int i = 2; i < r->n_args; i++) {
        mk_progress bar;
        mk_progress_start(&bar, mk_path_base(r->args[i]), "B", 0);
        bar.on = bar.on && !a->quiet;
        MK_TRY(mk_tok_trainer_add_file(tr, r->args[i], show, &bar, err));
        mk_progress_end(&bar, bar.total);
    }
    mk_progress bar;
    mk_progress_start(&bar, "merges", "merges", 0);
    bar.on = bar.on && !a->quiet;
    MK_TRY(mk_tok_trainer_run(tr, show, &bar, err));
    if (bar.total) {
        mk_progress_end(&bar, (uint64_t)mk_tok_trainer_get_facts(tr).n_merge);
    }
    return MK_OK;
}

static void say(const tokenizer_args *a, const mk_tok_trainer *tr) {
    mk_tok_trainer_facts f = mk_tok_trainer_get_facts(tr);
    if (a->quiet) {
        return;
    }
    fprintf(stderr, "%s: %lld tokens", a->out, (long long)f.n_vocab);
    if (f.n_merge > 0) {
        fprintf(stderr, ", %lld merges learned from %lld words, %lld of them different",
                (long long)f.n_merge, (long long)f.n_word_seen, (long long)f.n_word);
    }
    fprintf(stderr, "\n");
}

static mk_status make(const tokenizer_args *a, const mk_opt_result *r, const mk_tok_trainer_opts *o,
                      mk_err *err) {
    mk_tok_trainer *tr = NULL;
    char *template_text = NULL;
    size_t n = 0;
    mk_status st =
        a->template_path ? mk_file_read(a->template_path, 4 << 20, &template_text, &n, err) : MK_OK;
    st = st == MK_OK ? mk_tok_trainer_create(o, &tr, err) : st;
    st = st == MK_OK ? feed(a, r, tr, err) : st;
    st = st == MK_OK ? mk_tok_trainer_write(tr, template_text, a->out, err) : st;
    if (st == MK_OK) {
        say(a, tr);
    }
    mk_tok_trainer_destroy(tr);
    mk_free(template_text);
    return st;
}

static bool parse_method(const char *name, mk_tok_method *m) {
    static const char *const names[] = {
        [MK_TOK_BYTE] = "byte", [MK_TOK_WORDS] = "words", [MK_TOK_BPE] = "bpe"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        if (strcmp(names[i], name) == 0) {
            *m = (mk_tok_method)i;
            return true;
        }
    }
    return false;
}

static mk_status check_usage(const tokenizer_args *a, const mk_opt_result *r, mk_tok_method *m,
                             mk_err *err) {
    if (r->n_args < 2 || strcmp(r->args[0], "train") != 0 || !parse_method(r->args[1], m)) {
        return MK_FAIL(err, MK_EUSAGE,
                       "expected: minke tokenizer train byte|words|bpe, got '%s%s%s'",
                       r->n_args > 0 ? r->args[0] : "", r->n_args > 1 ? " " : "",
                       r->n_args > 1 ? r->args[1] : "");
    }
    if (!a->out) {
        return MK_FAIL(err, MK_EUSAGE, "expected a folder to write: -o DIR");
    }
    if ((*m == MK_TOK_BPE) != (r->n_args > 2)) {
        return MK_FAIL(err, MK_EUSAGE,
                       *m == MK_TOK_BPE ? "bpe: expected files to learn from, got none"
                                        : "%s: expected no files, got '%s'; bpe learns from files",
                       r->args[1], r->args[2]);
    }
    bool words = a->words_path || a->word.n > 0;
    return words == (*m == MK_TOK_WORDS)
               ? MK_OK
               : MK_FAIL(err, MK_EUSAGE,
                         words ? "%s: expected no words; only the method words takes them"
                               : "%s: expected --words FILE or --word TEXT",
                         r->args[1]);
}

static mk_status run(const tokenizer_args *a, const mk_opt_result *r, mk_err *err) {
    mk_tok_trainer_opts o = {.split = a->split,
                             .digits = a->digits,
                             .piece = {a->piece.items, a->piece.n},
                             .special = {a->special.items, a->special.n},
                             .bos = a->bos,
                             .eos = a->eos,
                             .pad = a->pad,
                             .n_vocab = a->n_vocab,
                             .min_count = a->min_count};
    char *data = NULL;
    const char **words = NULL;
    size_t n_word = 0;
    mk_status st = check_usage(a, r, &o.method, err);
    st = st == MK_OK ? read_words(a, &data, &words, &n_word, err) : st;
    if (st == MK_OK) {
        o.word = (mk_tok_texts){words, n_word};
        st = make(a, r, &o, err);
    }
    mk_free(words);
    mk_free(data);
    return st;
}

mk_status cmd_tokenizer(int argc, char *const *argv, mk_err *err) {
    tokenizer_args a = {0};
    mk_opt_result r = {0};
    mk_status st = cmd_parse(&cmd_tokenizer_spec, argc, argv, &a, &r, err);
    if (st == MK_OK && !r.help) {
        st = run(&a, &r, err);
    }
    mk_opt_free(&cmd_tokenizer_spec, &a, &r);
    return st;
}
