// Making tokenizers: the merges and ids of the `tokenizers` package
// (golden/gen_tokenizer_train.py), given words, what is refused, files that are wrong, every
// allocation failing once.
#include "cmocka_all.h"
#include "torture.h"

#include <unistd.h>

#include "base/file.h"
#include "base/json.h"
#include "base/mathx.h"
#include "format/gguf.h"
#include "text/tokenizer.h"
#include "text/train.h"

#define GOLDEN "tests/golden/tokenizer_train/"
#define TEXTS(list)                                                                                \
    { (list), sizeof(list) / sizeof((list)[0]) }

static const char *const specials[] = {"<|end|>", "<|user|>"};

static mk_tok_trainer *make(const mk_tok_trainer_opts *o) {
    mk_tok_trainer *tr = NULL;
    mk_err err = {0};
    if (mk_tok_trainer_create(o, &tr, &err) != MK_OK) {
        fail_msg("%s", err.msg);
    }
    return tr;
}

static char *json_of(const mk_tok_trainer *tr) {
    mk_buf b;
    mk_err err = {0};
    mk_buf_init(&b, 1 << 26);
    if (mk_tok_trainer_json(tr, &b, &err) != MK_OK) {
        fail_msg("%s", err.msg);
    }
    return mk_buf_detach(&b);
}

static mk_tokenizer *open_json(const char *text) {
    mk_tokenizer *t = NULL;
    mk_err err = {0};
    if (mk_tokenizer_from_json(text, strlen(text), &t, &err) != MK_OK) {
        fail_msg("%s", err.msg);
    }
    return t;
}

// The tokenizer that was made, through its text.
static mk_tokenizer *finish(mk_tok_trainer *tr) {
    char *json = json_of(tr);
    mk_tokenizer *t = open_json(json);
    mk_free(json);
    return t;
}

static mk_ids encode(const mk_tokenizer *t, const char *text, size_t n) {
    mk_ids ids = {0};
    mk_err err = {0};
    if (mk_tokenizer_encode(t, text, n, (mk_encode_opts){.parse_special = true}, &ids, &err) !=
        MK_OK) {
        fail_msg("%s", err.msg);
    }
    return ids;
}

// --- golden --------------------------------------------------------------------------------------

static void check_merges(const json_t *want, const char *json, size_t number) {
    json_t *v = NULL;
    mk_err err = {0};
    assert_int_equal(mk_json_parse(json, strlen(json), "tokenizer.json", &v, &err), MK_OK);
    const json_t *got = json_object_get(json_object_get(v, "model"), "merges");
    for (size_t i = 0; i < json_array_size(want) && i < json_array_size(got); i++) {
        if (!json_equal(json_array_get(want, i), json_array_get(got, i))) {
            fail_msg("case %zu, merge %zu: expected %s + %s, got %s + %s", number, i,
                     json_string_value(json_array_get(json_array_get(want, i), 0)),
                     json_string_value(json_array_get(json_array_get(want, i), 1)),
                     json_string_value(json_array_get(json_array_get(got, i), 0)),
                     json_string_value(json_array_get(json_array_get(got, i), 1)));
        }
    }
    assert_true(json_array_size(want) > 100);
    assert_int_equal(json_array_size(got), json_array_size(want));
    json_decref(v);
}

static void check_ids(const json_t *texts, const mk_tokenizer *t, size_t number) {
    for (size_t i = 0; i < json_array_size(texts); i++) {
        const json_t *text = json_array_get(json_array_get(texts, i), 0),
                     *want = json_array_get(json_array_get(texts, i), 1);
        mk_ids got = encode(t, json_string_value(text), json_string_length(text));
        bool same = (size_t)got.n == json_array_size(want);
        for (int64_t k = 0; k < got.n && same; k++) {
            same = got.data[k] == json_integer_value(json_array_get(want, (size_t)k));
        }
        if (!same) {
            fail_msg("case %zu: other ids for '%s'", number, json_string_value(text));
        }
        mk_ids_free(&got);
    }
    assert_true(json_array_size(texts) > 50);
}

static void check_case(const json_t *g, size_t number) {
    mk_tok_trainer_opts o = {
        .method = MK_TOK_BPE,
        .split = json_string_value(json_object_get(g, "split")),
        .digits = json_is_true(json_object_get(g, "digits")),
        .special = TEXTS(specials),
        .eos = specials[0],
        .n_vocab = json_integer_value(json_object_get(g, "vocab")),
        .min_count = json_integer_value(json_object_get(g, "min_count")),
    };
    char path[256];
    mk_err err = {0};
    snprintf(path, sizeof path, GOLDEN "%s", json_string_value(json_object_get(g, "file")));
    mk_tok_trainer *tr = make(&o);
    mk_status st = mk_tok_trainer_add_file(tr, path, NULL, NULL, &err);
    st = st == MK_OK ? mk_tok_trainer_run(tr, NULL, NULL, &err) : st;
    if (st != MK_OK) {
        fail_msg("%s", err.msg);
    }
    char *json = json_of(tr);
    mk_tokenizer *t = open_json(json);
    check_merges(json_object_get(g, "merges"), json, number);
    check_ids(json_object_get(g, "texts"), t, number);
    assert_int_equal(mk_tok_trainer_get_facts(tr).n_vocab, mk_tokenizer_n_vocab(t));
    mk_tokenizer_destroy(t);
    mk_free(json);
    mk_tok_trainer_destroy(tr);
}

static void test_golden(void **state) {
    (void)state;
    json_t *all = NULL;
    mk_err err = {0};
    assert_int_equal(mk_json_file(GOLDEN "golden.json", 1 << 24, &all, &err), MK_OK);
    for (size_t i = 0; i < json_array_size(all); i++) {
        check_case(json_array_get(all, i), i);
    }
    assert_int_equal(json_array_size(all), 8);
    json_decref(all);
}

// --- bpe -----------------------------------------------------------------------------------------

static mk_tok_trainer *learn(const mk_tok_trainer_opts *o, const char *text, size_t n) {
    mk_tok_trainer *tr = make(o);
    mk_err err = {0};
    assert_int_equal(mk_tok_trainer_add(tr, text, n, &err), MK_OK);
    assert_int_equal(mk_tok_trainer_run(tr, NULL, NULL, &err), MK_OK);
    return tr;
}

// Control tokens and pieces are cut out of the texts: nothing is learned from their letters.
static void test_cuts_specials(void **state) {
    (void)state;
    static const char *const piece[] = {"<think>"};
    static const char text[] = "<|user|><|user|><|user|><think><think><think>zq zq zq";
    mk_tok_trainer_opts o = {.method = MK_TOK_BPE,
                             .split = "llama3",
                             .special = TEXTS(specials),
                             .piece = TEXTS(piece),
                             .n_vocab = 1000,
                             .min_count = 2};
    mk_tok_trainer *tr = learn(&o, text, sizeof text - 1);
    mk_tok_trainer_facts f = mk_tok_trainer_get_facts(tr);
    assert_int_equal(f.n_merge, 2);  // zq, and a space before it
    assert_int_equal(f.n_word_seen, 3);
    assert_int_equal(f.n_word, 2);
    mk_tokenizer *t = finish(tr);
    mk_ids ids = encode(t, text, sizeof text - 1);
    static const int32_t want[] = {260, 260, 260, 258, 258, 258, 256, 257, 257};
    assert_int_equal(ids.n, 9);
    assert_memory_equal(ids.data, want, sizeof want);
    assert_int_equal(mk_tokenizer_type(t, 258), MK_TOKEN_USER_DEFINED);
    assert_int_equal(mk_tokenizer_type(t, 260), MK_TOKEN_CONTROL);
    mk_ids_free(&ids);
    mk_tokenizer_destroy(t);
    mk_tok_trainer_destroy(tr);
}

// A long text without a space is cut into words of bounded length; time stays in bounds.
static void test_endless_word(void **state) {
    (void)state;
    size_t n = 1 << 18;
    char *text = mk_alloc(n);
    for (size_t i = 0; i < n; i++) {
        text[i] = (char)('a' + mk_rng_u64(1, i) % 26);
    }
    mk_tok_trainer_opts o = {
        .method = MK_TOK_BPE, .split = "llama3", .n_vocab = 1000, .min_count = 2};
    mk_tok_trainer *tr = learn(&o, text, n);
    mk_tok_trainer_facts f = mk_tok_trainer_get_facts(tr);
    assert_true(f.n_word_seen == 64 && f.n_vocab == 1000);
    mk_tokenizer *t = finish(tr);
    mk_ids ids = encode(t, text, n);
    char *back = NULL;
    size_t n_back = 0;
    mk_err err = {0};
    assert_int_equal(
        mk_tokenizer_decode(t, ids.data, ids.n, (mk_decode_opts){0}, &back, &n_back, &err), MK_OK);
    assert_true(ids.n < (int64_t)n && n_back == n && memcmp(back, text, n) == 0);
    mk_free(back);
    mk_free(text);
    mk_ids_free(&ids);
    mk_tokenizer_destroy(t);
    mk_tok_trainer_destroy(tr);
}

static void count_calls(void *arg, uint64_t done, uint64_t total) {
    int *n = arg;
    (*n)++;
    assert_true(done <= total);
}

static void test_progress(void **state) {
    (void)state;
    int n_file = 0, n_merge = 0;
    mk_err err = {0};
    mk_tok_trainer *tr = make(&(mk_tok_trainer_opts){
        .method = MK_TOK_BPE, .split = "gpt2", .n_vocab = 600, .min_count = 2});
    assert_int_equal(mk_tok_trainer_add_file(tr, GOLDEN "corpus.txt", count_calls, &n_file, &err),
                     MK_OK);
    assert_int_equal(mk_tok_trainer_run(tr, count_calls, &n_merge, &err), MK_OK);
    assert_int_equal(n_file, 1);
    assert_int_equal(n_merge, (600 - 256) / 64);
    mk_tok_trainer_destroy(tr);
}

// --- words and bytes -----------------------------------------------------------------------------

static const char *const words[] = {"What", " is", " from", " \xC3\xA9t\xC3\xA9"};
static const char *const pieces[] = {"<think>", "</think>"};

static mk_tokenizer *word_tokenizer(void) {
    mk_tok_trainer_opts o = {.method = MK_TOK_WORDS,
                             .split = "llama3",
                             .word = TEXTS(words),
                             .piece = TEXTS(pieces),
                             .special = TEXTS(specials)};
    mk_tok_trainer *tr = make(&o);
    mk_err err = {0};
    assert_int_equal(mk_tok_trainer_run(tr, NULL, NULL, &err), MK_OK);
    mk_tokenizer *t = finish(tr);
    mk_tok_trainer_destroy(tr);
    return t;
}

// 0 in `want` ends the list; no text here has a NUL.
static void check_words(const mk_tokenizer *t) {
    static const struct {
        const char *text;
        int32_t want[16];
    } cases[] = {
        {"What is 123?", {256, 257, ' ', '1', '2', '3', '?'}},
        {"Whatever", {'W', 'h', 'a', 't', 'e', 'v', 'e', 'r'}},
        {" fromage from", {' ', 'f', 'r', 'o', 'm', 'a', 'g', 'e', 258}},
        {"from", {'f', 'r', 'o', 'm'}},
        {"What\xC3\xA9", {'W', 'h', 'a', 't', 0xC3, 0xA9}},
        {"1 \xC3\xA9t\xC3\xA9", {'1', 259}},
        {"<think>\nx</think>", {260, '\n', 'x', 261}},
        {"<|user|>What<|end|>", {263, 256, 262}},
        {"(12+3)*45", {'(', '1', '2', '+', '3', ')', '*', '4', '5'}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        mk_ids ids = encode(t, cases[i].text, strlen(cases[i].text));
        int64_t n = 0;
        while (n < 16 && cases[i].want[n]) {
            n++;
        }
        if (ids.n != n || memcmp(ids.data, cases[i].want, (size_t)n * sizeof(int32_t)) != 0) {
            fail_msg("'%s': other ids (%lld of them, expected %lld)", cases[i].text,
                     (long long)ids.n, (long long)n);
        }
        mk_ids_free(&ids);
    }
}

static void test_words(void **state) {
    (void)state;
    mk_tokenizer *t = word_tokenizer();
    assert_int_equal(mk_tokenizer_n_vocab(t), 264);
    check_words(t);
    // a user's text never becomes a control token, but may be a piece
    mk_ids ids = {0};
    mk_err err = {0};
    assert_int_equal(mk_tokenizer_encode(t, "<think><|end|>", 14, (mk_encode_opts){0}, &ids, &err),
                     MK_OK);
    assert_int_equal(ids.n, 8);
    assert_int_equal(ids.data[0], 260);
    mk_ids_free(&ids);
    mk_tokenizer_destroy(t);
}

// A vocabulary without merges goes through GGUF, with the name that other programs know.
static void test_words_gguf(void **state) {
    (void)state;
    char path[64];
    snprintf(path, sizeof path, "/tmp/mk-test-words-%d.gguf", (int)getpid());
    mk_tokenizer *t = word_tokenizer(), *back = NULL;
    mk_gguf *g = NULL;
    mk_err err = {0};
    mk_gguf_out *o = mk_gguf_out_create();
    mk_gguf_out_str(o, "general.architecture", "llama", 5);
    mk_tokenizer_to_gguf(t, 0, o);
    assert_int_equal(mk_gguf_out_write(o, path, NULL, NULL, &err), MK_OK);
    mk_gguf_out_destroy(o);
    assert_int_equal(mk_gguf_open(path, &g, &err), MK_OK);
    mk_gguf_str pre = {NULL, 0}, json = {NULL, 0};
    assert_int_equal(mk_gguf_get_str(g, "tokenizer.ggml.pre", &pre, &err), MK_OK);
    assert_true(pre.n == 9 && memcmp(pre.p, "llama-bpe", 9) == 0);
    assert_int_equal(mk_gguf_get_str(g, "tokenizer.huggingface.json", &json, &err), MK_OK);
    assert_null(json.p);
    if (mk_tokenizer_from_gguf(g, &back, &err) != MK_OK) {
        fail_msg("%s", err.msg);
    }
    check_words(back);
    mk_tokenizer_destroy(back);
    mk_tokenizer_destroy(t);
    mk_gguf_close(g);
    unlink(path);
}

static void test_bytes(void **state) {
    (void)state;
    mk_tok_trainer *tr = make(&(mk_tok_trainer_opts){.method = MK_TOK_BYTE, .split = "llama3"});
    mk_tokenizer *t = finish(tr);
    char all[256];
    for (int i = 0; i < 256; i++) {
        all[i] = (char)(255 - i);
    }
    mk_ids ids = encode(t, all, sizeof all);
    assert_int_equal(ids.n, 256);
    for (int i = 0; i < 256; i++) {
        assert_int_equal(ids.data[i], 255 - i);
    }
    mk_ids_free(&ids);
    mk_tokenizer_destroy(t);
    mk_tok_trainer_destroy(tr);
}

// --- what is refused -----------------------------------------------------------------------------

#define ONE(text)                                                                                  \
    { (const char *const[]){text}, 1 }
#define TWO(a, b)                                                                                  \
    { (const char *const[]){a, b}, 2 }

static void test_refused(void **state) {
    (void)state;
    const struct {
        mk_tok_trainer_opts o;
        const char *says;
    } cases[] = {
        {{.split = "gpt5"}, "expected one of llama3"},
        {{.split = NULL}, "expected one of llama3"},
        {{.split = "gpt2", .special = TWO("<a>", "<a>")}, "given twice"},
        {{.split = "gpt2", .special = ONE("")}, "expected 2 to"},
        {{.split = "gpt2", .special = ONE("x")}, "expected 2 to"},
        {{.split = "gpt2", .piece = ONE("\xFFx")}, "UTF-8"},
        {{.split = "gpt2", .piece = ONE("<a>"), .special = ONE("<a>")}, "in two of them"},
        {{.split = "gpt2", .special = ONE("<a>"), .bos = "<b>"}, "bos '<b>'"},
        {{.split = "gpt2", .special = ONE("<a>"), .eos = "<b>"}, "eos '<b>'"},
        {{.split = "gpt2", .special = ONE("<a>"), .pad = "<b>"}, "pad '<b>'"},
        {{.method = MK_TOK_WORDS, .split = "llama3", .word = ONE("two words")}, "'two words'"},
        {{.method = MK_TOK_WORDS, .split = "llama3", .word = ONE("1234")}, "'1234'"},
        {{.method = MK_TOK_WORDS, .split = "llama3", .word = ONE("the"), .special = ONE("the")},
         "in two of them"},
        // in the file the word " the" is spelt like this
        {{.method = MK_TOK_WORDS, .split = "llama3", .word = ONE(" the"), .special = ONE("Ġthe")},
         "spelt like"},
        {{.method = MK_TOK_BPE, .split = "llama3", .n_vocab = 256, .special = ONE("<a>")},
         "vocabulary of 257"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        mk_tok_trainer *tr = NULL;
        mk_err err = {0};
        mk_status st = mk_tok_trainer_create(&cases[i].o, &tr, &err);
        if (st != MK_EUSAGE || tr || !strstr(err.msg, cases[i].says)) {
            fail_msg("case %zu: expected an error with \"%s\", got %s: %s", i, cases[i].says,
                     mk_status_name(st), err.msg);
        }
    }
}

static void write_text(const char *path, const char *text) {
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static void test_bad_files(void **state) {
    (void)state;
    static const struct {
        const char *text, *says;
        mk_status st;
    } cases[] = {
        {"{\"text\":\"a\"}\n\n{\"text\":\n", "line 3: ", MK_ECORRUPT},
        {"{\"text\":\"a\"}\n[1]\n", "line 2: expected an object", MK_ECORRUPT},
        {"{\"txet\":\"a\"}\n", "line 1: expected an object", MK_ECORRUPT},
        {"{\"text\":\"\xFF\"}\n", "line 1: ", MK_ECORRUPT},
    };
    char path[64];
    snprintf(path, sizeof path, "/tmp/mk-test-train-%d.jsonl", (int)getpid());
    mk_tok_trainer *tr = make(&(mk_tok_trainer_opts){
        .method = MK_TOK_BPE, .split = "gpt2", .n_vocab = 300, .min_count = 2});
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        mk_err err = {0};
        write_text(path, cases[i].text);
        mk_status st = mk_tok_trainer_add_file(tr, path, NULL, NULL, &err);
        if (st != cases[i].st || !strstr(err.msg, cases[i].says) || !strstr(err.msg, path)) {
            fail_msg("case %zu: got %s: %s", i, mk_status_name(st), err.msg);
        }
    }
    unlink(path);
    mk_err err = {0};
    assert_int_equal(mk_tok_trainer_add_file(tr, "/nowhere/x.txt", NULL, NULL, &err), MK_ENOTFOUND);
    mk_tok_trainer_destroy(tr);
    tr = make(&(mk_tok_trainer_opts){.method = MK_TOK_BPE, .split = "gpt2", .n_vocab = 300});
    assert_int_equal(mk_tok_trainer_run(tr, NULL, NULL, &err), MK_EUSAGE);
    mk_tok_trainer_destroy(tr);
}

// --- memory --------------------------------------------------------------------------------------

static mk_status scenario(void *arg, mk_err *err) {
    static const char text[] = "ab abc abcd bcd<think> aab 12 12 été été";
    mk_tok_trainer *tr = NULL;
    mk_buf b;
    mk_buf_init(&b, 1 << 20);
    mk_status st = mk_tok_trainer_create(arg, &tr, err);
    st = st == MK_OK ? mk_tok_trainer_add(tr, text, sizeof text - 1, err) : st;
    st = st == MK_OK ? mk_tok_trainer_run(tr, NULL, NULL, err) : st;
    st = st == MK_OK ? mk_tok_trainer_json(tr, &b, err) : st;
    mk_buf_free(&b);
    mk_tok_trainer_destroy(tr);
    return st;
}

static void test_no_memory(void **state) {
    (void)state;
    mk_tok_trainer_opts bpe = {.method = MK_TOK_BPE,
                               .split = "llama3",
                               .piece = TEXTS(pieces),
                               .special = TEXTS(specials),
                               .n_vocab = 270,
                               .min_count = 1};
    mk_tok_trainer_opts word = {.method = MK_TOK_WORDS, .split = "llama3", .word = TEXTS(words)};
    assert_true(mk_torture(scenario, &bpe) > 50);
    assert_true(mk_torture(scenario, &word) > 20);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden),       cmocka_unit_test(test_cuts_specials),
        cmocka_unit_test(test_endless_word), cmocka_unit_test(test_progress),
        cmocka_unit_test(test_words),        cmocka_unit_test(test_words_gguf),
        cmocka_unit_test(test_bytes),        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_bad_files),    cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
