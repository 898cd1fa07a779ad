// minke tokenize: text to ids, ids to text.
#include "cmd.h"

#include <string.h>

#include "base/json.h"
#include "base/alloc.h"

typedef struct {
    cmd_model_args model;
    bool ids_only, special, add_special, json;
    const char *decode;
} tok_args;

static const mk_opt opts[] = {
    CMD_OPT_MODEL(tok_args, model),
    {.name = "ids",
     .type = MK_OPT_FLAG,
     .offset = offsetof(tok_args, ids_only),
     .group = "Output",
     .help = "ids alone, separated by spaces"},
    {.name = "json",
     .type = MK_OPT_FLAG,
     .offset = offsetof(tok_args, json),
     .help = "one object: ids, tokens"},
    {.name = "special",
     .type = MK_OPT_FLAG,
     .offset = offsetof(tok_args, special),
     .group = "How",
     .help = "recognise the texts of control tokens; text of users never is"},
    {.name = "add-special",
     .type = MK_OPT_FLAG,
     .offset = offsetof(tok_args, add_special),
     .dflt = "off",
     .help = "put the begin-of-text token in front where the model wants one"},
    {.name = "decode",
     .type = MK_OPT_STR,
     .offset = offsetof(tok_args, decode),
     .arg = "IDS",
     .help = "the other way: text of the ids 1,2,3"},
};

const mk_opt_spec cmd_tokenize_spec = {
    .program = "minke tokenize",
    .usage = "[-m MODEL] [TEXT... | --decode IDS]",
    .about = "Shows the tokens of a text, one per line: id and text. Without TEXT standard input "
             "is read.",
    .opts = opts,
    .n_opts = MK_OPT_COUNT(opts),
    .max_args = -1,
};

// Ids separated by commas, spaces or newlines.
mk_status cmd_parse_ids(const char *s, const char *flag, mk_ids *ids, mk_err *err) {
    while (*(s += strspn(s, ", \n\t"))) {
        size_t n = strcspn(s, ", \n\t");
        char word[32] = {0};
        int64_t v = -1;
        memcpy(word, s, n < sizeof word ? n : sizeof word - 1);
        if (n >= sizeof word || !mk_parse_i64(word, &v) || v < 0 || v > INT32_MAX) {
            return MK_FAIL(err, MK_EUSAGE, "%s: expected token ids like 1,2,3, got '%.*s'", flag,
                           (int)(n < 40 ? n : 40), s);
        }
        MK_TRY(mk_ids_push(ids, (int32_t)v, err));
        s += n;
    }
    return ids->n > 0
               ? MK_OK
               : MK_FAIL(err, MK_EUSAGE, "%s: expected token ids like 1,2,3, got none", flag);
}

static mk_status decode(const mk_tokenizer *t, const tok_args *a, mk_err *err) {
    mk_ids ids = {0};
    char *text = NULL;
    size_t n = 0;
    mk_status st = cmd_parse_ids(a->decode, "--decode", &ids, err);
    for (int64_t i = 0; st == MK_OK && i < ids.n; i++) {
        if (ids.data[i] >= mk_tokenizer_n_vocab(t)) {
            st = MK_FAIL(err, MK_EUSAGE, "--decode: id %d is outside the vocabulary (0 to %lld)",
                         ids.data[i], (long long)mk_tokenizer_n_vocab(t) - 1);
        }
    }
    if (st == MK_OK) {
        st = mk_tokenizer_decode(t, ids.data, ids.n, (mk_decode_opts){.skip_special = !a->special},
                                 &text, &n, err);
    }
    if (st == MK_OK && a->json) {
        st = cmd_print_json(json_pack("{s:o}", "text", mk_json_text(text, n)), false, err);
    } else if (st == MK_OK) {
        cmd_write_text(stdout, text, n);
        printf("\n");
    }
    mk_free(text);
    mk_ids_free(&ids);
    return st;
}

// Text of a token on one line, in quotes.
static void print_piece(const char *p, size_t n) {
    json_t *v = mk_json_text(p, n);
    (void)json_dumpf(v, stdout, JSON_ENCODE_ANY);
    json_decref(v);
}

static mk_status print_ids(const mk_tokenizer *t, const tok_args *a, const mk_ids *ids,
                           mk_err *err) {
    json_t *list = json_array(), *tokens = json_array();
    for (int64_t i = 0; i < ids->n; i++) {
        size_t n = 0;
        const char *p = mk_tokenizer_piece(t, ids->data[i], &n);
        if (a->json) {
            json_array_append_new(list, json_integer(ids->data[i]));
            json_array_append_new(tokens, mk_json_text(p ? p : "", p ? n : 0));
        } else if (a->ids_only) {
            printf("%s%d", i ? " " : "", ids->data[i]);
        } else {
            printf("%7d  ", ids->data[i]);
            print_piece(p ? p : "", p ? n : 0);
            printf("\n");
        }
    }
    if (a->ids_only && !a->json) {
        printf("\n");
    }
    json_t *o = json_pack("{s:o, s:o}", "ids", list, "tokens", tokens);
    if (a->json) {
        return cmd_print_json(o, false, err);
    }
    json_decref(o);
    return MK_OK;
}

static mk_status encode(const mk_tokenizer *t, const tok_args *a, const mk_opt_result *r,
                        mk_err *err) {
    mk_buf b;
    mk_buf_init(&b, CMD_INPUT_MAX);
    mk_ids ids = {0};
    mk_status st = MK_OK;
    for (int i = 0; i < r->n_args; i++) {
        mk_buf_printf(&b, "%s%s", i ? " " : "", r->args[i]);
    }
    if (r->n_args == 0) {
        char *data = NULL;
        size_t n = 0;
        st = cmd_read_input("-", &data, &n, err);
        mk_buf_add(&b, data, n);
        mk_free(data);
    }
    mk_encode_opts how = {.add_special = a->add_special, .parse_special = a->special};
    if (st == MK_OK) {
        st = mk_tokenizer_encode(t, b.data ? b.data : "", b.len, how, &ids, err);
    }
    if (st == MK_OK) {
        st = print_ids(t, a, &ids, err);
    }
    mk_ids_free(&ids);
    mk_buf_free(&b);
    return st;
}

// The tokenizer alone: files that hold nothing else will do.
static mk_status open_tokenizer(const char *name, mk_gguf **g, mk_tokenizer **t, mk_err *err) {
    char *path = NULL;
    MK_TRY(cmd_find_model(name, &path, err));
    mk_status st = MK_OK;
    if (mk_path_is_dir(path)) {
        st = mk_tokenizer_from_folder(path, t, err);
    } else {
        st = mk_gguf_open(path, g, err);
        st = st == MK_OK ? mk_tokenizer_from_gguf(*g, t, err) : st;
    }
    mk_free(path);
    return st;
}

mk_status cmd_tokenize(int argc, char *const *argv, mk_err *err) {
    tok_args a = {0};
    mk_opt_result r = {0};
    mk_gguf *g = NULL;
    mk_tokenizer *t = NULL;
    mk_status st = cmd_parse(&cmd_tokenize_spec, argc, argv, &a, &r, err);
    if (st == MK_OK && !r.help) {
        st = open_tokenizer(a.model.model, &g, &t, err);
    }
    if (st == MK_OK && !r.help) {
        st = a.decode ? decode(t, &a, err) : encode(t, &a, &r, err);
    }
    mk_tokenizer_destroy(t);
    mk_gguf_close(g);
    mk_opt_free(&cmd_tokenize_spec, &a, &r);
    return st;
}
