// Grammars with vocabularies: masks against the plain definition (try every token), and answers
// made of random allowed tokens.
//
// As a program with an argument it serves tests/cli/test_grammar.py, which has an independent
// validator: `walk SEED N` reads one schema per line and writes N random answers each;
// `accept` reads lines [schema, text] and says what the grammar makes of the text.
#include <time.h>

#include "base/utf8.h"
#include "chat/chat_util.h"
#include "chat/grammar.h"
#include "torture.h"

typedef struct {
    uint64_t *mask;
    int64_t n_vocab;
    size_t n_words;
    int32_t *allowed;
} walker;

static void walker_init(walker *w, const mk_tokenizer *t) {
    w->n_vocab = mk_tokenizer_n_vocab(t) + 70;  // rows that no token has
    w->n_words = ((size_t)w->n_vocab + 63) / 64;
    w->mask = mk_alloc(w->n_words * sizeof(*w->mask));
    w->allowed = mk_alloc((size_t)w->n_vocab * sizeof(*w->allowed));
}

static void walker_free(walker *w) {
    mk_free(w->mask);
    mk_free(w->allowed);
}

static int32_t fill(walker *w, mk_grammar_state *s) {
    mk_err err = {0};
    int32_t n = 0;
    memset(w->mask, 0xff, w->n_words * sizeof(*w->mask));
    if (mk_grammar_mask(s, w->mask, w->n_vocab, &err) != MK_OK) {
        fprintf(stderr, "mask: %s\n", err.msg);
        abort();
    }
    for (int32_t id = 0; id < w->n_vocab; id++) {
        if ((w->mask[id / 64] >> (id % 64) & 1) != 0) {
            w->allowed[n++] = id;
        }
    }
    return n;
}

// A random answer, appended to out; false if it did not end within `limit` tokens.  Tokens that
// close something are preferred after a while, so that most answers end.
static bool walk(walker *w, const mk_tokenizer *t, mk_grammar_state *s, int limit, mk_buf *out,
                 void (*look)(walker *, const mk_tokenizer *, mk_grammar_state *)) {
    for (int i = 0; i < limit; i++) {
        int32_t n = fill(w, s);
        if (look != NULL) {
            look(w, t, s);
            n = fill(w, s);
        }
        if (n == 0) {
            fprintf(stderr, "nothing is allowed after: %s\n", out->data != NULL ? out->data : "");
            abort();
        }
        int32_t id = w->allowed[rng() % (uint64_t)n];
        if (mk_grammar_can_end(s) && (mk_grammar_must_end(s) || rng() % 4 == 0)) {
            return true;
        }
        for (int k = 0; k < 40; k++) {  // short tokens with a closing character
            int32_t other = w->allowed[rng() % (uint64_t)n];
            size_t len;
            const char *p = mk_tokenizer_piece(t, other, &len);
            if (i > 20 && len > 0 && len < 3 && strchr("\"]}0123456789", p[0]) != NULL) {
                id = other;
                break;
            }
        }
        mk_err err = {0};
        if (mk_tokenizer_is_eog(t, id)) {
            return true;
        }
        if (mk_grammar_accept(s, id, &err) != MK_OK) {
            fprintf(stderr, "token %d was allowed: %s\n", (int)id, err.msg);
            abort();
        }
        size_t len;
        const char *p = mk_tokenizer_piece(t, id, &len);
        mk_buf_add(out, p, len);
    }
    return false;
}

// --- tests ---------------------------------------------------------------------------------------
// The definition of a mask: the tokens whose bytes the grammar takes.
static void look_at_all(walker *w, const mk_tokenizer *t, mk_grammar_state *s) {
    int64_t pos = mk_grammar_pos(s);
    for (int32_t id = 0; id < w->n_vocab; id++) {
        bool bit = (w->mask[id / 64] >> (id % 64) & 1) != 0, want = false;
        if (id < mk_tokenizer_n_vocab(t)) {
            want = mk_grammar_accept(s, id, NULL) == MK_OK;
            mk_token_type type = mk_tokenizer_type(t, id);
            bool text = type == MK_TOKEN_NORMAL || type == MK_TOKEN_BYTE ||
                        type == MK_TOKEN_USER_DEFINED || mk_tokenizer_is_eog(t, id);
            if (want && !text) {
                fail_msg("token %d is no text and was taken", (int)id);
            }
            mk_grammar_rewind(s, pos);
        }
        if (bit != want) {
            fail_msg("token %d: the mask says %d, the machine %d", (int)id, bit, want);
        }
    }
}

static const char *const schemas[] = {
    "true",
    "{\"type\":\"object\"}",
    "{\"type\":\"object\",\"properties\":{\"name\":{\"type\":\"string\",\"maxLength\":40},\"age\":{"
    "\"type\":\"integer\",\"minimum\":0,\"maximum\":150},\"tags\":{\"type\":\"array\",\"items\":{"
    "\"enum\":[\"red\",\"green\",\"blue\"]},\"maxItems\":3},\"note\":{\"type\":\"string\"}},"
    "\"required\":[\"name\",\"age\"],\"additionalProperties\":false}",
    "{\"$ref\":\"#/$defs/t\",\"$defs\":{\"t\":{\"type\":\"object\",\"properties\":{\"v\":{\"type\":"
    "\"number\"},\"kids\":{\"type\":\"array\",\"items\":{\"$ref\":\"#/$defs/"
    "t\"}}},\"required\":[\"v\"]"
    ",\"additionalProperties\":{\"type\":\"boolean\"}}}}",
    "{\"type\":\"array\",\"items\":{\"type\":\"string\",\"minLength\":3,\"maxLength\":5},"
    "\"minItems\":2,"
    "\"maxItems\":30}",
    "{\"anyOf\":[{\"type\":\"string\",\"pattern\":\"^[A-Z][a-z]{2,20}( [\\\\w]+)*$\"},{\"type\":"
    "\"string\",\"format\":\"date-time\"},{\"type\":\"number\",\"minimum\":-2.5,\"maximum\":1.25}]"
    "}",
};

static void check_json(const mk_buf *out, const char *schema) {
    json_t *v = NULL;
    mk_err err = {0};
    if (!mk_utf8_valid(out->data, out->len) ||
        mk_json_parse(out->data, out->len, "answer", &v, &err) != MK_OK) {
        // keys that come twice are the one thing that a grammar cannot know
        if (strstr(err.msg, "duplicate") == NULL) {
            fail_msg("%s: %s: %s", schema, err.msg, out->data);
        }
    }
    json_decref(v);
}

static void test_walks(void **state) {
    (void)state;
    static const char *const names[] = {"qwen2", "llama2", "llama3"};
    int ended = 0;
    for (size_t k = 0; k < sizeof(names) / sizeof(names[0]); k++) {
        mk_tokenizer *t = read_tokenizer(names[k]);
        mk_token_trie *trie = NULL;
        mk_err err = {0};
        walker w;
        walker_init(&w, t);
        assert_int_equal(mk_token_trie_create(t, &trie, &err), MK_OK);
        for (size_t i = 0; i < sizeof(schemas) / sizeof(schemas[0]); i++) {
            json_t *v = NULL;
            mk_grammar *g = NULL;
            assert_int_equal(mk_json_parse(schemas[i], strlen(schemas[i]), "s", &v, &err), MK_OK);
            assert_int_equal(mk_grammar_from_schema(v, NULL, &g, &err), MK_OK);
            json_decref(v);
            for (int n = 0; n < 12; n++) {
                mk_grammar_state *s = NULL;
                mk_buf out;
                mk_buf_init(&out, 1 << 20);
                rng_state = (uint64_t)n * 1000 + i;
                assert_int_equal(mk_grammar_start(g, trie, &s, &err), MK_OK);
                if (walk(&w, t, s, 400, &out, n < 2 ? look_at_all : NULL)) {
                    check_json(&out, schemas[i]);
                    ended++;
                }
                mk_grammar_state_destroy(s);
                mk_buf_free(&out);
            }
            mk_grammar_unref(g);
        }
        mk_token_trie_unref(trie);
        mk_tokenizer_destroy(t);
        walker_free(&w);
    }
    assert_true(ended > 100);  // of 216: the walks are fair, but some never close what they open
}

// What comes back after tables were cut is what was there before.
static void test_compaction(void **state) {
    (void)state;
    mk_grammar *g = NULL;
    mk_grammar_state *s = NULL, *long_ago = NULL;
    mk_err err = {0};
    // each count of the outer loop makes states of its own
    static const char re[] = "(x[a-z]{0,300}[b-y]{0,300}!){1,100000}";
    assert_int_equal(mk_grammar_from_regex(re, sizeof(re) - 1, NULL, &g, &err), MK_OK);
    assert_int_equal(mk_grammar_start(g, NULL, &long_ago, &err), MK_OK);
    assert_int_equal(mk_grammar_feed(long_ago, "xabc!xq", 7, &err), MK_OK);
    assert_int_equal(mk_grammar_start(g, NULL, &s, &err), MK_OK);
    size_t most = 0, bytes = 0;
    bool shrank = false;
    char round[130];
    memset(round, 'c', sizeof(round));
    memcpy(round, "xa", 2);
    round[sizeof(round) - 1] = '!';
    for (int i = 0; i < 1000; i++) {
        size_t before = bytes;
        if (mk_grammar_feed(s, round, sizeof(round), &err) != MK_OK) {
            fail_msg("round %d: %s", i, err.msg);
        }
        bytes = mk_grammar_bytes(g);
        most = bytes > most ? bytes : most;
        shrank |= bytes < before;
    }
    assert_true(shrank);
    assert_true(most < (size_t)300 << 20);
    assert_int_equal(mk_grammar_feed(long_ago, "a1", 2, NULL), MK_EUSAGE);
    assert_int_equal(mk_grammar_feed(long_ago, "a!", 2, &err), MK_OK);
    assert_true(mk_grammar_can_end(long_ago));
    mk_grammar_rewind(s, 3);
    assert_true(mk_grammar_can_end(s));
    assert_int_equal(mk_grammar_feed(s, "xb", 2, &err), MK_OK);
    assert_false(mk_grammar_can_end(s));
    mk_grammar_state_destroy(s);
    mk_grammar_state_destroy(long_ago);
    mk_grammar_unref(g);
}

// Hostile inputs: an answer soon, whichever it is.
// Quiet machines need less than 100 ms; those that run tests are rarely quiet.
enum { MAX_HOSTILE_MS = 250, MAX_HOSTILE_MASK_MS = 1000 };

static double cpu_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

static void check_time(const char *what, double took, double most) {
#ifndef MK_SANITIZED  // ten times slower
    if (took > most) {
        fail_msg("%s: %.0f ms", what, took);
    }
#else
    (void)what;
    (void)took;
    (void)most;
#endif
}

static void hostile(mk_token_trie *trie, const char *what, const char *text, size_t n, int kind) {
    mk_grammar *g = NULL;
    mk_err err = {0};
    mk_status st;
    double start = cpu_ms();
    if (kind == 0) {
        st = mk_grammar_from_regex(text, n, NULL, &g, &err);
    } else if (kind == 1) {
        st = mk_grammar_from_gbnf(text, n, NULL, &g, &err);
    } else {
        json_t *v = json_loadb(text, n, 0, NULL);
        st = v == NULL ? MK_EUSAGE : mk_grammar_from_schema(v, NULL, &g, &err);
        json_decref(v);
    }
    double took = cpu_ms() - start;
    if (st != MK_OK && st != MK_EUSAGE && st != MK_ELIMIT && st != MK_EUNSUPPORTED) {
        fail_msg("%s: %s", what, err.msg);
    }
    check_time(what, took, MAX_HOSTILE_MS);
    for (int k = 0; k < 2 && st == MK_OK; k++) {
        mk_grammar_state *s = NULL;
        uint64_t mask[64];
        assert_int_equal(mk_grammar_start(g, trie, &s, &err), MK_OK);
        for (int i = 0; i < 100 * k; i++) {
            if (mk_grammar_feed(s, "a", 1, NULL) != MK_OK &&
                mk_grammar_feed(s, "[", 1, NULL) != MK_OK) {
                break;
            }
        }
        start = cpu_ms();
        memset(mask, 0xff, sizeof(mask));
        mk_status masked = mk_grammar_mask(s, mask, 64 * 64, &err);
        if (masked != MK_OK && masked != MK_ELIMIT) {
            fail_msg("%s: %s", what, err.msg);
        }
        check_time(what, cpu_ms() - start, MAX_HOSTILE_MASK_MS);
        mk_grammar_state_destroy(s);
    }
    mk_grammar_unref(g);
}

static void repeat(mk_buf *b, const char *text, int n) {
    for (int i = 0; i < n; i++) {
        mk_buf_puts(b, text);
    }
}

static void test_hostile(void **state) {
    (void)state;
    mk_tokenizer *t = read_tokenizer("qwen2");
    mk_token_trie *trie = NULL;
    assert_int_equal(mk_token_trie_create(t, &trie, NULL), MK_OK);
    static const struct {
        int kind;
        const char *before, *again;
        int n;
        const char *middle, *close, *after;
    } in[] = {
        {0, "", "(", 10000, "a", ")", ""},
        {0, "", "(", 190, "a", ")+", "b"},
        {0, "", "(a*)*", 5000, "", "", "b"},
        {0, "", "(a?){0,100000}", 200, "", "", ""},
        {0, "", "((a{0,30000}){0,30000}){0,30000}", 3, "", "", ""},
        {0, "", "a|", 100000, "", "", ""},
        {0, "", "[a-z]|", 100000, "", "", ""},
        {0, "[", "\xc3\xa9-\xe2\x82\xac", 100000, "", "", "]"},
        {0, "(a+)+b", "", 0, "", "", ""},
        {0, "", ".{0,3000}a", 8, "", "", "b"},
        {0, "((a|b){1,5000}a?){1,6000}", "", 0, "", "", ""},
        {0, "", "a{1000000000}", 1000, "", "", ""},
        {1, "root ::= ", "(", 10000, "\"a\"", ")", ""},
        {1, "root ::= ", "a ", 100000, "\na ::= \"a\"? | b\nb ::= \"b\"", "", ""},
        {1, "root ::= ", "\"abcdefghij\" | ", 70000, "\"a\"", "", ""},
        {1, "root ::= ", "[a] | ", 100000, "\"a\"", "", ""},
        {1, "root ::= \"a\" root root | \"a\" ", "| \"a\" root root ", 100, "", "", ""},
        {2, "", "{\"items\":", 100, "{}", "}", ""},
        {2, "", "{\"items\":", 1900, "{}", "}", ""},
        {2, "{\"enum\":[", "\"abcdefgh\",", 100000, "1", "", "]}"},
        {2, "{\"anyOf\":[", "{\"items\":{\"anyOf\":[{},{}]}},", 20000, "{}", "", "]}"},
        {2, "{\"properties\":{\"a\":{}", ",\"a\":{\"type\":\"object\"}", 50000, "", "", "}}"},
        {2, "{\"anyOf\":[{\"minimum\":1},{}],\"allOf\":[",
         "{\"anyOf\":[{\"maximum\":3},{\"maximum\":4},{\"maximum\":5}]},", 40, "{}", "", "]}"},
    };
    for (size_t i = 0; i < sizeof(in) / sizeof(in[0]); i++) {
        mk_buf b;
        mk_buf_init(&b, 4 << 20);
        mk_buf_puts(&b, in[i].before);
        repeat(&b, in[i].again, in[i].n);
        mk_buf_puts(&b, in[i].middle);
        repeat(&b, in[i].close, in[i].n);
        mk_buf_puts(&b, in[i].after);
        assert_false(b.failed);
        hostile(trie, in[i].again, b.data, b.len, in[i].kind);
        mk_buf_free(&b);
    }
    mk_token_trie_unref(trie);
    mk_tokenizer_destroy(t);
}

static mk_status scenario(void *arg, mk_err *err) {
    mk_token_trie *trie = arg;
    static const char re[] = "(\"[a-z]{2,40}\"|(x?){0,9}y)+";
    mk_grammar *g = NULL;
    mk_grammar_state *s = NULL;
    uint64_t mask[64];
    memset(mask, 0xff, sizeof(mask));
    mk_status st = mk_grammar_from_regex(re, sizeof(re) - 1, NULL, &g, err);
    st = st != MK_OK ? st : mk_grammar_start(g, trie, &s, err);
    st = st != MK_OK ? st : mk_grammar_feed(s, "xxxy\"ab", 7, err);
    st = st != MK_OK ? st : mk_grammar_mask(s, mask, 64 * 64, err);
    mk_grammar_state_destroy(s);
    mk_grammar_unref(g);
    return st;
}

static void test_memory(void **state) {
    (void)state;
    mk_tokenizer *t = read_tokenizer("qwen2");
    mk_token_trie *trie = NULL;
    mk_err err = {0};
    assert_int_equal(mk_token_trie_create(t, &trie, &err), MK_OK);
    assert_true(mk_torture(scenario, trie) > 20);
    mk_token_trie_unref(trie);
    mk_tokenizer_destroy(t);
}

// --- for test_grammar.py -------------------------------------------------------------------------
static int serve_walks(uint64_t seed, int n_answers) {
    mk_tokenizer *t = read_tokenizer("qwen2");
    mk_token_trie *trie = NULL;
    char *line = NULL;
    size_t cap = 0;
    ssize_t n;
    walker w;
    walker_init(&w, t);
    if (mk_token_trie_create(t, &trie, NULL) != MK_OK) {
        return 1;
    }
    rng_state = seed;
    while ((n = getline(&line, &cap, stdin)) > 0) {
        json_t *v = json_loadb(line, (size_t)n, JSON_DECODE_ANY, NULL), *list = json_array();
        mk_grammar *g = NULL;
        mk_err err = {0};
        mk_status st = mk_grammar_from_schema(v, NULL, &g, &err);
        for (int i = 0; i < n_answers && st == MK_OK; i++) {
            mk_grammar_state *s = NULL;
            mk_buf out;
            mk_buf_init(&out, 1 << 20);
            if (mk_grammar_start(g, trie, &s, &err) == MK_OK && walk(&w, t, s, 300, &out, NULL)) {
                json_array_append_new(list, json_stringn(out.data, out.len));
            }
            mk_grammar_state_destroy(s);
            mk_buf_free(&out);
        }
        json_t *answer = st == MK_OK ? list : json_string(err.msg);
        char *text = json_dumps(answer, JSON_ENCODE_ANY);
        puts(text);
        fflush(stdout);
        free(text);
        if (answer != list) {
            json_decref(answer);
        }
        json_decref(list);
        json_decref(v);
        mk_grammar_unref(g);
    }
    free(line);
    mk_token_trie_unref(trie);
    mk_tokenizer_destroy(t);
    walker_free(&w);
    return 0;
}

static int serve_accept(void) {
    char *line = NULL;
    size_t cap = 0;
    ssize_t n;
    while ((n = getline(&line, &cap, stdin)) > 0) {
        json_t *v = json_loadb(line, (size_t)n, 0, NULL);
        const json_t *text = json_array_get(v, 1);
        mk_grammar *g = NULL;
        mk_grammar_state *s = NULL;
        mk_err err = {0};
        if (mk_grammar_from_schema(json_array_get(v, 0), NULL, &g, &err) != MK_OK ||
            mk_grammar_start(g, NULL, &s, &err) != MK_OK) {
            printf("refused %s\n", err.msg);
        } else {
            bool ok = mk_grammar_feed(s, json_string_value(text), json_string_length(text), &err) ==
                          MK_OK &&
                      mk_grammar_can_end(s);
            puts(ok ? "yes" : "no");
        }
        fflush(stdout);
        mk_grammar_state_destroy(s);
        mk_grammar_unref(g);
        json_decref(v);
    }
    free(line);
    return 0;
}

int main(int argc, char **argv) {
    if (argc == 4 && strcmp(argv[1], "walk") == 0) {
        return serve_walks(strtoull(argv[2], NULL, 10), atoi(argv[3]));
    }
    if (argc == 2 && strcmp(argv[1], "accept") == 0) {
        return serve_accept();
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_walks),
        cmocka_unit_test(test_compaction),
        cmocka_unit_test(test_hostile),
        cmocka_unit_test(test_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
