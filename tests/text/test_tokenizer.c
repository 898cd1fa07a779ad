// Properties of whole tokenizers on the common vocabularies: user text never becomes a control
// token, decoding in any pieces, round trips over Unicode, old files, bad files, bounded time.
#include "cmocka_all.h"
#include "text/vectors.h"

#include "base/log.h"
#include "base/mathx.h"
#include "base/utf8.h"

static const char *const vocabs[] = {"llama-spm",      "phi-3",    "gpt-2",    "deepseek-llm",
                                     "deepseek-coder", "falcon",   "mpt",      "starcoder",
                                     "refact",         "baichuan", "gpt-neox", "bert-bge"};
#define N_VOCAB (sizeof vocabs / sizeof vocabs[0])

typedef void (*vocab_fn)(const mk_tokenizer *t, const char *name);

static mk_tokenizer *opened[N_VOCAB];  // loaded once for all tests
static mk_gguf *files[N_VOCAB];

static int open_all(void **state) {
    (void)state;
    for (size_t i = 0; i < N_VOCAB; i++) {
        opened[i] = have_vocab(vocabs[i]) ? open_vocab(vocabs[i], &files[i]) : NULL;
    }
    return 0;
}

static int close_all(void **state) {
    (void)state;
    for (size_t i = 0; i < N_VOCAB; i++) {
        mk_tokenizer_destroy(opened[i]);
        mk_gguf_close(files[i]);
    }
    return 0;
}

static void for_each(vocab_fn fn) {
    for (size_t i = 0; i < N_VOCAB; i++) {
        if (!have_vocab(vocabs[i])) {
            print_message("SKIPPED: vocabulary %s is not here\n", vocabs[i]);
            skip();
        }
        assert_non_null(opened[i]);
        fn(opened[i], vocabs[i]);
    }
}

static mk_ids encode(const mk_tokenizer *t, const char *text, size_t n, mk_encode_opts opts) {
    mk_ids ids = {0};
    mk_err err = {0};
    if (mk_tokenizer_encode(t, text, n, opts, &ids, &err) != MK_OK) {
        fail_msg("%s", err.msg);
    }
    return ids;
}

static bool has_control(const mk_tokenizer *t, const mk_ids *ids) {
    for (int64_t i = 0; i < ids->n; i++) {
        if (mk_tokenizer_type(t, ids->data[i]) == MK_TOKEN_CONTROL) {
            return true;
        }
    }
    return false;
}

// Every control token's text, alone and inside other text, in every shape a user may send it.
static void check_specials(const mk_tokenizer *t, const char *name) {
    static const char *const shapes[] = {"%s", "a%sb", " %s ", "\n%s\n", "%s%s"};
    int n_control = 0;
    for (int32_t id = 0; id < mk_tokenizer_n_vocab(t); id++) {
        if (mk_tokenizer_type(t, id) != MK_TOKEN_CONTROL) {
            continue;
        }
        n_control++;
        size_t n;
        const char *p = mk_tokenizer_piece(t, id, &n);
        char piece[256], text[600];
        assert_true(n < sizeof piece);
        memcpy(piece, p, n);
        piece[n] = 0;
        for (size_t s = 0; s < sizeof shapes / sizeof shapes[0]; s++) {
            int len = snprintf(text, sizeof text, shapes[s], piece, piece);
            mk_ids ids = encode(t, text, (size_t)len, (mk_encode_opts){0});
            if (has_control(t, &ids)) {
                fail_msg("%s: user text \"%s\" became a control token", name, text);
            }
            mk_ids_free(&ids);
            ids = encode(t, text, (size_t)len, (mk_encode_opts){.parse_special = true});
            if (!has_control(t, &ids)) {
                fail_msg("%s: \"%s\" is not recognised with parse_special", name, text);
            }
            mk_ids_free(&ids);
        }
    }
    // these four are known to mark theirs; a vocabulary without marks would make the test empty
    if (strcmp(name, "llama-spm") == 0 || strcmp(name, "phi-3") == 0 ||
        strcmp(name, "gpt-2") == 0) {
        assert_true(n_control > 0);
    }
}

static char *decode(const mk_tokenizer *t, const mk_ids *ids, size_t *n) {
    char *out = NULL;
    mk_err err = {0};
    assert_int_equal(mk_tokenizer_decode(t, ids->data, ids->n, (mk_decode_opts){0}, &out, n, &err),
                     MK_OK);
    return out;
}

// A text in two parts, the second continuing the first, gives back the text wherever it is cut.
static void check_continued(const mk_tokenizer *t, const char *name) {
    static const char text[] = "Hello, world! 12 x  y\n\tz  [/INST] ja";
    size_t n = strlen(text);
    if (strcmp(name, "bert-bge") == 0) {  // its normaliser keeps no text as it is
        return;
    }
    for (size_t cut = 1; cut < n; cut++) {
        mk_ids a = encode(t, text, cut, (mk_encode_opts){0});
        mk_ids b = encode(t, text + cut, n - cut, (mk_encode_opts){.continues = true});
        mk_err err = {0};
        for (int64_t i = 0; i < b.n; i++) {
            assert_int_equal(mk_ids_push(&a, b.data[i], &err), MK_OK);
        }
        size_t n_back;
        char *back = decode(t, &a, &n_back);
        if (n_back != n || memcmp(back, text, n) != 0) {
            fail_msg("%s, cut at %zu: expected '%s', got '%.*s'", name, cut, text, (int)n_back,
                     back);
        }
        mk_free(back);
        mk_ids_free(&a);
        mk_ids_free(&b);
    }
}

static void test_continued(void **state) {
    (void)state;
    for_each(check_continued);
}

static void test_specials(void **state) {
    (void)state;
    for_each(check_specials);
}

static size_t all_of_unicode(char *p, uint32_t from, uint32_t to) {
    size_t n = 0;
    for (uint32_t cp = from; cp < to; cp++) {
        if (cp < 0xD800 || cp >= 0xE000) {
            n += (size_t)mk_utf8_encode(cp, p + n);
        }
    }
    return n;
}

// Text -> ids -> text for every code point, in blocks of 256.
static void check_round_trip(const mk_tokenizer *t, const char *name) {
    // the others lack single bytes (starcoder), fold accents (bert-bge) or split off spaces
    static const char *const exact[] = {"llama-spm",    "phi-3",          "gpt-2",
                                        "deepseek-llm", "deepseek-coder", "baichuan"};
    bool wanted = false;
    for (size_t i = 0; i < sizeof exact / sizeof exact[0]; i++) {
        wanted = wanted || strcmp(exact[i], name) == 0;
    }
    char text[1024];
    for (uint32_t cp = 0; wanted && cp < 0x110000; cp += 256) {
        cp = cp == 0x40000 ? 0xE0000 : cp == 0xE1000 ? 0x10FF00 : cp;  // nothing, private use
        size_t n = all_of_unicode(text, cp, cp + 256), m;
        // "▁" stands for a space in these vocabularies and cannot come back as itself
        if (cp == 0x2500 && mk_tokenizer_get_kind(t) == MK_TOKENIZER_SPM) {
            continue;
        }
        mk_ids ids = encode(t, text, n, (mk_encode_opts){0});
        char *back = decode(t, &ids, &m);
        if (n != m || memcmp(text, back, n) != 0) {
            fail_msg("%s: block U+%04X does not come back", name, cp);
        }
        mk_free(back);
        mk_ids_free(&ids);
    }
}

static void test_round_trip(void **state) {
    (void)state;
    for_each(check_round_trip);
}

// Streaming gives the bytes of decoding at once, in pieces that are each valid UTF-8.
static void check_stream(const mk_tokenizer *t, const char *name) {
    (void)name;
    mk_detok *d = mk_detok_create(t, false);
    assert_non_null(d);
    for (uint64_t k = 0; k < 60; k++) {
        mk_ids ids = {0};
        mk_err err = {0};
        for (uint64_t i = 0; i < 40; i++) {  // any ids at all: broken characters included
            int32_t id =
                (int32_t)(mk_rng_u64(k, i) % (uint64_t)(k % 2 ? mk_tokenizer_n_vocab(t) : 300));
            assert_int_equal(mk_ids_push(&ids, id, &err), MK_OK);
        }
        size_t n, m = 0, len;
        char *whole = decode(t, &ids, &n);
        assert_true(mk_utf8_valid(whole, n));
        mk_detok *s = mk_detok_create(t, false);
        const char *p;
        for (int64_t i = 0; i <= ids.n; i++) {
            if (i < ids.n) {
                mk_detok_push(s, ids.data[i], &p, &len);
            } else {
                mk_detok_finish(s, &p, &len);
            }
            assert_true(mk_utf8_valid(p, len));
            assert_true(m + len <= n && memcmp(whole + m, p, len) == 0);
            m += len;
        }
        assert_int_equal(m, n);
        mk_detok_destroy(s);
        mk_free(whole);
        mk_ids_free(&ids);
    }
    mk_detok_destroy(d);
}

static void test_stream(void **state) {
    (void)state;
    for_each(check_stream);
}

// Long hostile texts cost O(n log n), not O(n^2): 64 KiB each, whatever the vocabulary.
static void check_time(const mk_tokenizer *t, const char *name) {
    static const char *const units[] = {"a", " ", "ab",       "\n",  "\xE4\xB8\xAD",
                                        "<", "1", "\xCC\x81", "\xFF"};
    size_t n = (size_t)1 << 16;
    char *text = mk_alloc(n);
    for (size_t k = 0; k < sizeof units / sizeof units[0]; k++) {
        size_t len = strlen(units[k]);
        for (size_t i = 0; i < n; i++) {
            text[i] = units[k][i % len];
        }
        uint64_t start = mk_now_ns();
        mk_ids ids = encode(t, text, n - n % len, (mk_encode_opts){0});
        double s = (double)(mk_now_ns() - start) * 1e-9;
        mk_ids_free(&ids);
        if (s > 3) {  // quadratic would take longer
            fail_msg("%s: %zu bytes of \"%s\" took %.1f s", name, n, units[k], s);
        }
    }
    mk_free(text);
}

static void test_time(void **state) {
    (void)state;
    for_each(check_time);
}

static void test_facts(void **state) {
    (void)state;
    if (!have_vocab("phi-3")) {
        skip();
    }
    mk_gguf *g = NULL;
    mk_tokenizer *t = open_vocab("phi-3", &g);
    assert_non_null(t);
    assert_int_equal(mk_tokenizer_get_kind(t), MK_TOKENIZER_SPM);
    assert_int_equal(mk_tokenizer_n_vocab(t), 32064);
    assert_int_equal(mk_tokenizer_bos(t), 1);
    assert_int_equal(mk_tokenizer_eos(t), 32000);
    assert_true(mk_tokenizer_add_bos(t));
    assert_true(mk_tokenizer_is_eog(t, 32000));
    assert_true(mk_tokenizer_is_eog(t, 32007));  // <|end|>
    assert_false(mk_tokenizer_is_eog(t, 32010));
    assert_int_equal(mk_tokenizer_find(t, "<|end|>", 7), 32007);
    assert_int_equal(mk_tokenizer_find(t, "<|nothing|>", 11), -1);
    size_t n;
    assert_null(mk_tokenizer_piece(t, -1, &n));
    assert_null(mk_tokenizer_piece(t, 32064, &n));
    mk_ids ids = encode(t, "Hi", 2, (mk_encode_opts){.add_special = true});
    assert_int_equal(ids.data[0], 1);
    mk_ids_free(&ids);
    mk_tokenizer_destroy(t);
    mk_gguf_close(g);
}

static void test_bad_json(void **state) {
    (void)state;
    static const struct {
        const char *json;
        mk_status st;
        const char *says;
    } rows[] = {
        {"", MK_ECORRUPT, "expected '{'"},
        {"[]", MK_ECORRUPT, "expected '{' at byte 0, got '['"},
        {"{}", MK_ECORRUPT, "\"model\" is missing"},
        {"{\"model\":{\"type\":\"Magic\",\"vocab\":{}}}", MK_EUNSUPPORTED, "Magic"},
        {"{\"model\":{\"type\":\"BPE\",\"merges\":[]}}", MK_ECORRUPT, "no \"vocab\""},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0}}}", MK_ECORRUPT, "merges"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[\"a b\"]}}", MK_ECORRUPT,
         "not in the vocabulary"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":900000},\"merges\":[]}}", MK_ECORRUPT,
         "highest id 900000"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":-1},\"merges\":[]}}", MK_ECORRUPT,
         "token id -1"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":1.5},\"merges\":[]}}", MK_ECORRUPT,
         "whole number"},
        {"{\"normalizer\":{\"type\":\"Spell\"},\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},"
         "\"merges\":[]}}",
         MK_EUNSUPPORTED, "normalizer \"Spell\""},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0", MK_ECORRUPT, "the end"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        mk_tokenizer *t = NULL;
        mk_err err = {0};
        mk_status st = mk_tokenizer_from_json(rows[i].json, strlen(rows[i].json), &t, &err);
        if (st != rows[i].st || !strstr(err.msg, rows[i].says)) {
            fail_msg("%s: %s: %s", rows[i].json, mk_status_name(st), err.msg);
        }
        assert_null(t);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_facts),     cmocka_unit_test(test_specials),
        cmocka_unit_test(test_continued), cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_stream),    cmocka_unit_test(test_time),
        cmocka_unit_test(test_bad_json),
    };
    return cmocka_run_group_tests(tests, open_all, close_all);
}
