// Lines to samples: what is learned (against transformers and the tokenizers package, see
// tests/golden/gen_train_data.py), every form of line, everything that can be wrong with one,
// length limits, pairs, prompts of rl, and what is counted.
#include "cmocka_all.h"

#include "base/json.h"
#include "torture.h"
#include "train/data_models.h"

#define CASES "tests/golden/train/cases.json"

// --- what is learned -----------------------------------------------------------------------------

static void check_ids(size_t i, const char *what, const json_t *want, const mk_data_seq *s) {
    char text[4096];
    size_t at = 0;
    bool same = json_array_size(want) == (size_t)s->n;
    for (int64_t k = 0; k < s->n && at + 16 < sizeof text; k++) {
        int got = strcmp(what, "ids") == 0 ? s->ids[k] : s->mask[k];
        same = same && got == json_integer_value(json_array_get(want, (size_t)k));
        at += (size_t)snprintf(text + at, sizeof text - at, "%d ", got);
    }
    if (!same) {
        char *w = json_dumps(want, JSON_COMPACT);
        fail_msg("case %zu, %s: expected %s, got %s", i, what, w, text);
    }
}

static mk_data_learn learn_of(const char *s) {
    return strcmp(s, "assistant") == 0    ? MK_LEARN_ASSISTANT
           : strcmp(s, "last") == 0       ? MK_LEARN_LAST
           : strcmp(s, "completion") == 0 ? MK_LEARN_COMPLETION
                                          : MK_LEARN_ALL;
}

static void check_case(size_t i, const json_t *c) {
    mk_data_opts o = opts_of(json_string_value(json_object_get(c, "model")));
    o.learn = learn_of(json_string_value(json_object_get(c, "mask")));
    o.kind = MK_DATA_CHAT;
    char *line = json_dumps(json_object_get(c, "line"), JSON_COMPACT);
    const json_t *samples = json_object_get(c, "samples");
    mk_data *d = read_lines(&o, line);
    if ((size_t)mk_data_n_sample(d) != json_array_size(samples)) {
        fail_msg("case %zu: expected %zu samples, got %lld: %s", i, json_array_size(samples),
                 (long long)mk_data_n_sample(d), line);
    }
    for (size_t k = 0; k < json_array_size(samples); k++) {
        const json_t *want = json_array_get(samples, k);
        mk_data_sample s = mk_data_get(d, (int64_t)k);
        check_ids(i, "ids", json_object_get(want, "ids"), &s.seq[0]);
        check_ids(i, "mask", json_object_get(want, "mask"), &s.seq[0]);
    }
    mk_data_destroy(d);
    free(line);
}

static void test_golden(void **state) {
    (void)state;
    json_t *cases = NULL;
    mk_err err = {0};
    assert_int_equal(mk_json_file(CASES, 1 << 22, &cases, &err), MK_OK);
    assert_true(json_array_size(cases) >= 24);
    for (size_t i = 0; i < json_array_size(cases); i++) {
        check_case(i, json_array_get(cases, i));
    }
    json_decref(cases);
}

static void test_counts_of_templates(void **state) {
    (void)state;
    static const struct {
        const char *model, *line;
        int64_t n_sample, n_split, n_rejoined, n_open, n_no_reasoning;
    } cases[] = {
        {"chatml", "{\"messages\":[" U("a") "," A("b") "," U("c") "," A("d") "]}", 1, 0, 0, 0, 0},
        {"r1", "{\"messages\":[" U("a") "," A("b") "," U("c") "," A("d") "]}", 2, 1, 2, 0, 0},
        {"think", "{\"messages\":[" U("a") "," A("b") "," U("c") "," A("d") "]}", 2, 1, 0, 0, 0},
        {"chatml",
         "{\"messages\":[" U("a") ",{\"role\":\"assistant\",\"content\":\"b\","
                                  "\"reasoning\":\"lost\"}]}",
         1, 0, 0, 0, 1},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        mk_data_opts o = opts_of(cases[i].model);
        mk_data *d = read_lines(&o, cases[i].line);
        mk_data_stats s = stats_of(d);
        assert_int_equal(s.n_sample, cases[i].n_sample);
        assert_int_equal(s.n_split, cases[i].n_split);
        assert_int_equal(s.n_rejoined, cases[i].n_rejoined);
        assert_int_equal(s.n_open_end, cases[i].n_open);
        assert_int_equal(s.n_no_reasoning, cases[i].n_no_reasoning);
        mk_data_destroy(d);
    }
}

// --- plain text ----------------------------------------------------------------------------------

// The ids of a text, as minke run would make them.
static mk_ids encode(const mk_data_opts *o, const char *text, mk_encode_opts how) {
    mk_ids ids = {0};
    mk_err err = {0};
    assert_int_equal(mk_tokenizer_encode(o->tokenizer, text, strlen(text), how, &ids, &err), MK_OK);
    return ids;
}

static void test_raw(void **state) {
    (void)state;
    mk_data_opts o = opts_of("llama3");
    o.raw = true;
    mk_data *d = read_lines(&o, "{\"prompt\":\"Sum:<|eot_id|>\",\"completion\":\" 4\"}\n");
    mk_data_sample s = mk_data_get(d, 0);
    mk_ids p =
        encode(&o, "Sum:<|eot_id|>", (mk_encode_opts){.add_special = true, .parse_special = true});
    mk_ids c = encode(&o, " 4", (mk_encode_opts){0});
    assert_int_equal(s.n_prompt, p.n);
    assert_int_equal(s.seq[0].n, p.n + c.n + 1);
    assert_memory_equal(s.seq[0].ids, p.data, (size_t)p.n * sizeof *p.data);
    assert_memory_equal(s.seq[0].ids + p.n, c.data, (size_t)c.n * sizeof *c.data);
    assert_int_equal(s.seq[0].ids[p.n + c.n], mk_tokenizer_eos(o.tokenizer));
    assert_int_equal(s.seq[0].n_target, c.n + 1);
    mk_data_destroy(d);
    mk_ids_free(&p);
    mk_ids_free(&c);
    // learned whole
    o.learn = MK_LEARN_ALL;
    d = read_lines(&o, "{\"prompt\":\"Sum:\",\"completion\":\" 4\"}\n");
    s = mk_data_get(d, 0);
    assert_int_equal(s.seq[0].n_target, s.seq[0].n - 1);
    mk_data_destroy(d);
    // without --raw, in a model without template, a user's text gives no control token
    o.raw = false;
    o.template = NULL;
    d = read_lines(&o, "{\"prompt\":\"<|eot_id|>\",\"completion\":\"<|eot_id|>\"}\n");
    s = mk_data_get(d, 0);
    int32_t eot = mk_tokenizer_find(o.tokenizer, "<|eot_id|>", 10);
    assert_true(eot >= 0);
    for (int64_t i = 0; i + 1 < s.seq[0].n; i++) {
        assert_int_not_equal(s.seq[0].ids[i], eot);
    }
    assert_int_equal(s.seq[0].ids[s.seq[0].n - 1], eot);
    mk_data_destroy(d);
}

// Windows overlap by one given token; put together without it they are the document, and every
// token but the first is a target once.
static void check_windows(const mk_data *d, int64_t max, const mk_ids *want) {
    int64_t at = 0;
    for (int64_t i = 0; i < mk_data_n_sample(d); i++) {
        mk_data_seq s = mk_data_get(d, i).seq[0];
        assert_true(s.n >= 2 && s.n <= max);
        assert_int_equal(s.n_target, s.n - 1);
        assert_int_equal(s.mask[0], 0);
        assert_int_equal(s.ids[0], want->data[at]);
        for (int64_t k = 1; k < s.n; k++) {
            assert_int_equal(s.mask[k], 1);
            assert_int_equal(s.ids[k], want->data[++at]);
        }
    }
    assert_int_equal(at, want->n - 1);
}

static void test_documents(void **state) {
    (void)state;
    mk_data_opts o = opts_of("llama3");
    mk_err err = {0};
    char text[900];
    memset(text, 0, sizeof text);
    for (int i = 0; i < 100; i++) {
        snprintf(text + strlen(text), sizeof text - strlen(text), "w%d ", i);
    }
    mk_ids want = encode(&o, text, (mk_encode_opts){.add_special = true});
    assert_int_equal(mk_ids_push(&want, mk_tokenizer_eos(o.tokenizer), &err), MK_OK);
    for (int64_t max = 2; max <= want.n + 1; max++) {
        mk_data *d = NULL;
        o.max_len = max;
        assert_int_equal(mk_data_create(&o, &d, &err), MK_OK);
        assert_int_equal(mk_data_add_memory(d, "a.txt", text, strlen(text), &err), MK_OK);
        assert_int_equal(mk_data_get_kind(d), MK_DATA_TEXT);
        check_windows(d, max, &want);
        assert_int_equal(stats_of(d).n_target, want.n - 1);
        mk_data_destroy(d);
    }
    mk_ids_free(&want);
}

static void test_separator(void **state) {
    (void)state;
    mk_data_opts o = opts_of("llama3");
    mk_err err = {0};
    mk_data *d = NULL;
    static const char text[] = "one\n---\ntwo two\n---\n\n---\nthree";
    o.separator = "\n---\n";
    assert_int_equal(mk_data_create(&o, &d, &err), MK_OK);
    assert_int_equal(mk_data_add_memory(d, "a.txt", text, strlen(text), &err), MK_OK);
    assert_int_equal(mk_data_n_sample(d), 3);
    assert_int_equal(stats_of(d).n_line, 3);
    mk_data_destroy(d);
    // bytes that are no text
    assert_int_equal(mk_data_create(&o, &d, &err), MK_OK);
    assert_int_equal(mk_data_add_memory(d, "a.txt", "ab\nc\xff", 5, &err), MK_ECORRUPT);
    assert_non_null(
        strstr(err.msg, "a.txt line 2: expected UTF-8 text, got the byte 0xff at offset 4"));
    mk_data_destroy(d);
    // a text file is nothing to fine-tune on
    o.kind = MK_DATA_CHAT;
    assert_int_equal(mk_data_create(&o, &d, &err), MK_OK);
    assert_int_equal(mk_data_add_memory(d, "a.txt", "abc", 3, &err), MK_EUSAGE);
    assert_non_null(strstr(err.msg, "a.txt"));
    mk_data_destroy(d);
}

// Conversations as documents: learned whole.
static void test_pretrain_on_chat(void **state) {
    (void)state;
    mk_data_opts o = opts_of("chatml");
    o.kind = MK_DATA_TEXT;
    mk_data *d = read_lines(&o, "{\"messages\":[" U("a") "," A("b") "]}\n{\"text\":\"abc\"}");
    assert_int_equal(mk_data_n_sample(d), 2);
    for (int64_t i = 0; i < 2; i++) {
        mk_data_seq s = mk_data_get(d, i).seq[0];
        assert_int_equal(s.n_target, s.n - 1);
    }
    mk_data_destroy(d);
}

// --- limits --------------------------------------------------------------------------------------

static void test_long_samples(void **state) {
    (void)state;
    static const char text[] = "{\"prompt\":\"a\",\"completion\":\"one two three four five six\"}\n"
                               "{\"prompt\":\"a\",\"completion\":\"b\"}\n";
    mk_data_opts o = opts_of("chatml");
    mk_data *d = read_lines(&o, text);
    int64_t n0 = mk_data_get(d, 0).seq[0].n, n1 = mk_data_get(d, 1).seq[0].n;
    int64_t n_prompt = mk_data_get(d, 0).n_prompt;
    assert_true(n0 > n1 && n_prompt > 1);
    mk_data_destroy(d);
    for (int64_t max = 2; max <= n0 + 1; max++) {
        o.max_len = max;
        o.longer = MK_LONG_CUT;
        d = read_lines(&o, text);
        mk_data_stats s = stats_of(d);
        assert_int_equal(s.n_sample, max > n_prompt ? 2 : 0);
        assert_int_equal(s.n_no_target, max > n_prompt ? 0 : 2);
        assert_int_equal(s.n_cut, (max < n0) + (max < n1));
        assert_int_equal(s.n_tok_cut, (max < n0 ? n0 - max : 0) + (max < n1 ? n1 - max : 0));
        assert_true(s.len_max <= max);
        mk_data_destroy(d);
        o.longer = MK_LONG_DROP;
        d = read_lines(&o, text);
        s = stats_of(d);
        assert_int_equal(s.n_sample, (max >= n0) + (max >= n1));
        assert_int_equal(s.n_dropped, (max < n0) + (max < n1));
        assert_int_equal(s.n_cut, 0);
        mk_data_destroy(d);
    }
}

static void test_stats(void **state) {
    (void)state;
    mk_data_opts o = opts_of("chatml");
    mk_data *d = NULL;
    mk_err err = {0};
    int32_t ids[200] = {0};
    uint8_t mask[200];
    memset(mask, 1, sizeof mask);
    assert_int_equal(mk_data_create(&o, &d, &err), MK_OK);
    for (int64_t n = 100; n >= 2; n--) {  // 2 to 100, backwards
        assert_int_equal(mk_data_add_ids(d, ids, mask, n, &err), MK_OK);
    }
    mk_data_stats s = stats_of(d);
    assert_int_equal(s.n_sample, 99);
    assert_int_equal(s.n_tok, 100 * 101 / 2 - 1);
    assert_int_equal(s.n_target, s.n_tok - 99);
    assert_int_equal(s.len_min, 2);
    assert_int_equal(s.len_median, 51);
    assert_int_equal(s.len_p95, 95);
    assert_int_equal(s.len_max, 100);
    // nothing to learn: counted, not kept
    memset(mask, 0, sizeof mask);
    assert_int_equal(mk_data_add_ids(d, ids, mask, 5, &err), MK_OK);
    assert_int_equal(mk_data_add_ids(d, ids, mask, 0, &err), MK_OK);
    assert_int_equal(stats_of(d).n_no_target, 2);
    assert_int_equal(mk_data_n_sample(d), 99);
    mk_data_destroy(d);
}

// --- pairs and rl --------------------------------------------------------------------------------

static void check_pair(const mk_data_opts *o, const char *line, const mk_data_sample *same) {
    mk_data *d = read_lines(o, line);
    assert_int_equal(mk_data_get_kind(d), MK_DATA_PAIR);
    assert_int_equal(mk_data_n_sample(d), 1);
    mk_data_sample s = mk_data_get(d, 0);
    assert_int_equal(s.n_seq, 2);
    assert_true(s.n_prompt > 0);
    for (int k = 0; k < 2; k++) {
        assert_memory_equal(s.seq[k].ids, s.seq[0].ids, (size_t)s.n_prompt * sizeof(int32_t));
        for (int64_t i = 0; i < s.seq[k].n; i++) {
            assert_int_equal(s.seq[k].mask[i], i >= s.n_prompt);
        }
        assert_int_equal(s.seq[k].n_target, s.seq[k].n - s.n_prompt);
        if (same) {
            assert_int_equal(s.seq[k].n, same->seq[k].n);
            assert_memory_equal(s.seq[k].ids, same->seq[k].ids, (size_t)s.seq[k].n * 4);
        }
    }
    mk_data_destroy(d);
}

// The same pair, said in five ways.
static void test_pairs(void **state) {
    (void)state;
    static const char *const lines[] = {
        "{\"prompt\":\"2+2?\",\"chosen\":\"Four.\",\"rejected\":\"Five\"}",
        "{\"prompt\":[" U("2+2?") "],\"chosen\":[" A("Four.") "],\"rejected\":[" A("Five") "]}",
        "{\"prompt\":[" U("2+2?") "],\"chosen\":\"Four.\",\"rejected\":[" A("Five") "]}",
        "{\"chosen\":[" U("2+2?") "," A("Four.") "],\"rejected\":[" U("2+2?") "," A("Five") "]}",
        "{\"prompt\":\"2+2?\",\"chosen\":[" U("2+2?") "," A("Four.") "],\"rejected\":[" U(
            "2+2?") "," A("Five") "]}",
    };
    mk_data_opts o = opts_of("chatml");
    mk_data *d = read_lines(&o, lines[0]);
    mk_data_sample first = mk_data_get(d, 0);
    for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++) {
        check_pair(&o, lines[i], &first);
    }
    mk_data_destroy(d);
    check_pair(
        &o, "{\"prompt\":[" U("a") "," A("b") "," U("c") "],\"chosen\":\"d\",\"rejected\":\"e\"}",
        NULL);
    o.raw = true;
    check_pair(&o, lines[0], NULL);
    o.raw = false;
    o.max_len = 5;
    d = read_lines(&o, lines[0]);
    assert_int_equal(mk_data_n_sample(d), 0);
    assert_int_equal(stats_of(d).n_no_target, 1);
    mk_data_destroy(d);
}

// As an answer of a conversation would be learned, with a label beside it; the label counts in the
// hash.
static void test_labels(void **state) {
    (void)state;
    static const char text[] =
        "{\"prompt\":\"2+2?\",\"completion\":\"Four.\",\"label\":true,\"id\":1}\n"
        "{\"prompt\":[" U("2+2?") "],\"completion\":[" A(
            "Four.") "],\"label\":false,\"weight\":2}\n";
    static const char chat[] = "{\"prompt\":\"2+2?\",\"completion\":\"Four.\"}";
    static const char *const names[] = {"chatml", "r1"};
    for (int k = 0; k < 4; k++) {
        mk_data_opts o = opts_of(names[k / 2]), all;
        o.raw = k % 2 == 1;
        o.learn = MK_LEARN_COMPLETION;
        all = o;
        all.learn = MK_LEARN_ALL;  // the prompt of a label is given, whatever is asked for
        size_t n = o.raw ? (size_t)(strchr(text, '\n') - text) : sizeof text - 1;
        char *given = mk_strndup(text, n);
        mk_data *d = read_lines(k / 2 ? &all : &o, given), *same = read_lines(&o, chat);
        assert_int_equal(mk_data_get_kind(d), MK_DATA_LABEL);
        assert_int_equal(mk_data_n_sample(d), o.raw ? 1 : 2);
        mk_data_sample want = mk_data_get(same, 0);
        for (int64_t i = 0; i < mk_data_n_sample(d); i++) {
            mk_data_sample s = mk_data_get(d, i);
            assert_int_equal(s.label, i == 0);
            assert_true(s.n_seq == 1 && s.weight == (i == 0 ? 1.0f : 2.0f) && !s.json);
            assert_int_equal(s.n_prompt, want.n_prompt);
            assert_int_equal(s.seq[0].n, want.seq[0].n);
            assert_int_equal(s.seq[0].n_target, s.seq[0].n - s.n_prompt);
            assert_memory_equal(s.seq[0].ids, want.seq[0].ids, (size_t)want.seq[0].n * 4);
            assert_memory_equal(s.seq[0].mask, want.seq[0].mask, (size_t)want.seq[0].n);
        }
        mk_data_destroy(d);
        mk_free(given);
        mk_data_destroy(same);
    }
    mk_data_opts o = opts_of("chatml");
    uint64_t hash[2];
    for (int k = 0; k < 2; k++) {
        char line[100];
        (void)snprintf(line, sizeof line, "{\"prompt\":\"a\",\"completion\":\"b\",\"label\":%s}",
                       k ? "true" : "false");
        mk_data *d = read_lines(&o, line);
        hash[k] = mk_data_hash(d);
        mk_data_destroy(d);
    }
    assert_true(hash[0] != hash[1]);
}

static void test_rl(void **state) {
    (void)state;
    static const char text[] =
        "{\"prompt\":\"2+2?\",\"answer\":4,\"checker\":\"numeric\",\"x\":[1,\"\\u00e9\"]}\n"
        "{\"prompt\":[" U("2+2?") "],\"answer\":\"4\"}\n";
    mk_data_opts o = opts_of("r1");
    mk_data *d = read_lines(&o, text);
    assert_int_equal(mk_data_get_kind(d), MK_DATA_RL);
    assert_int_equal(mk_data_n_sample(d), 2);
    mk_data_sample a = mk_data_get(d, 0), b = mk_data_get(d, 1);
    assert_string_equal(
        a.json, "{\"prompt\":\"2+2?\",\"answer\":4,\"checker\":\"numeric\",\"x\":[1,\"\u00e9\"]}");
    assert_int_equal(a.n_json, strlen(a.json));
    assert_int_equal(a.n_prompt, a.seq[0].n);
    assert_int_equal(a.seq[0].n_target, 0);
    assert_int_equal(a.seq[0].n, b.seq[0].n);
    assert_memory_equal(a.seq[0].ids, b.seq[0].ids, (size_t)a.seq[0].n * 4);
    // the prompt ends where the model begins to think
    size_t n;
    int32_t think = mk_tokenizer_find(o.tokenizer, "<think>", 7);
    assert_int_equal(a.seq[0].ids[a.seq[0].n - 2], think);
    const char *last = mk_tokenizer_piece(o.tokenizer, a.seq[0].ids[a.seq[0].n - 1], &n);
    assert_true(n == 1 && last[0] == '\n');
    int64_t len = a.seq[0].n;
    mk_data_destroy(d);
    o.max_len = len - 1;
    d = read_lines(&o, text);
    assert_int_equal(mk_data_n_sample(d), 0);
    assert_int_equal(stats_of(d).n_dropped, 2);
    mk_data_destroy(d);
}

// --- the hash, files, memory ---------------------------------------------------------------------

static uint64_t hash_of(const mk_data_opts *o, const char *text) {
    mk_data *d = read_lines(o, text);
    uint64_t h = mk_data_hash(d);
    mk_data_destroy(d);
    return h;
}

static void test_hash(void **state) {
    (void)state;
    mk_data_opts o = opts_of("chatml");
    uint64_t h = hash_of(&o, "{\"prompt\":\"a\",\"completion\":\"b\"}");
    assert_true(h == hash_of(&o, "{ \"completion\": \"b\", \"prompt\": \"a\" }\n"));
    assert_true(h != hash_of(&o, "{\"prompt\":\"a\",\"completion\":\"c\"}"));
    assert_true(h != hash_of(&o, "{\"prompt\":\"a\",\"completion\":\"b\",\"weight\":2}"));
    o.learn = MK_LEARN_ALL;
    assert_true(h != hash_of(&o, "{\"prompt\":\"a\",\"completion\":\"b\"}"));
}

static void test_missing_file(void **state) {
    (void)state;
    mk_data_opts o = opts_of("chatml");
    mk_data *d = NULL;
    mk_err err = {0};
    assert_int_equal(mk_data_create(&o, &d, &err), MK_OK);
    assert_int_equal(mk_data_add_file(d, "/no/such/file.jsonl", &err), MK_ENOTFOUND);
    assert_non_null(strstr(err.msg, "/no/such/file.jsonl"));
    assert_int_equal(mk_data_add_file(d, GOLDEN "chatml/tokenizer_config.json", &err), MK_ECORRUPT);
    mk_data_destroy(d);
    o.max_len = 1;
    assert_int_equal(mk_data_create(&o, &d, &err), MK_EUSAGE);
}

static mk_status scenario(void *arg, mk_err *err) {
    mk_data_opts o = opts_of(arg);
    mk_data *d = NULL;
    mk_data_stats s;
    static const char text[] = "{\"messages\":[" U("a") "," A("<think>x</think>b") "," U("c") "," A(
        "d") "]}\n"
             "{\"instruction\":\"a\",\"input\":\"c\",\"output\":\"b\"}\n";
    static const char rl[] = "{\"prompt\":\"a\",\"answer\":1}";
    static const char pair[] = "{\"prompt\":\"a\",\"chosen\":\"b\",\"rejected\":\"c\"}";
    const char *const texts[] = {text, rl, pair};
    mk_status st = MK_OK;
    for (int i = 0; i < 3 && st == MK_OK; i++) {
        st = mk_data_create(&o, &d, err);
        st = st == MK_OK ? mk_data_add_memory(d, "x", texts[i], strlen(texts[i]), err) : st;
        st = st == MK_OK ? mk_data_get_stats(d, &s, err) : st;
        mk_data_destroy(d);
        d = NULL;
    }
    return st;
}

static void test_no_memory(void **state) {
    (void)state;
    assert_true(mk_torture(scenario, (void *)(uintptr_t) "r1") > 50);
    assert_true(mk_torture(scenario, (void *)(uintptr_t) "think") > 50);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden),       cmocka_unit_test(test_counts_of_templates),
        cmocka_unit_test(test_raw),          cmocka_unit_test(test_documents),
        cmocka_unit_test(test_separator),    cmocka_unit_test(test_pretrain_on_chat),
        cmocka_unit_test(test_long_samples), cmocka_unit_test(test_stats),
        cmocka_unit_test(test_pairs),        cmocka_unit_test(test_labels),
        cmocka_unit_test(test_rl),           cmocka_unit_test(test_hash),
        cmocka_unit_test(test_missing_file), cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, open_models, close_models);
}
