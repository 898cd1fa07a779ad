// Every form of line, and everything that can be wrong with one: file, line, field, expected and
// actual.
#include "cmocka_all.h"

#include "train/data_models.h"

// --- forms and errors ----------------------------------------------------------------------------

static const char *const good[] = {
    "{\"messages\":[" U("a") "," A("b") "]}",
    "{\"messages\":[" U("a") "," A("b") "],\"tools\":[],\"id\":7,\"weight\":0.5}",
    "{\"messages\":[" U("a") "," A("b") "],\"tools\":null}",
    "{\"prompt\":\"a\",\"completion\":\"b\"}",
    "{\"prompt\":[" U("a") "],\"completion\":[" A("b") "]}",
    "{\"prompt\":\"\",\"completion\":\"b\"}",
    "{\"instruction\":\"a\",\"output\":\"b\"}",
    "{\"instruction\":\"a\",\"input\":\"c\",\"output\":\"b\",\"system\":\"s\"}",
    "{\"conversations\":[{\"from\":\"human\",\"value\":\"a\"},{\"from\":\"gpt\",\"value\":\"b\"}]}",
    "{\"text\":\"a b c\"}",
    "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"a\"}]}," A(
        "b") "]}",
    "\xEF\xBB\xBF{\"text\":\"a b c\"}",
    "  {\"text\":\"a\\u0000b\"}  \r",
};

static void test_good_lines(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        mk_data_opts o = opts_of("llama3");  // its template joins texts only: parts are refused
        if (strstr(good[i], "\"type\"")) {
            continue;
        }
        o.kind = MK_DATA_CHAT;
        mk_data *d = read_lines(&o, good[i]);
        assert_int_equal(mk_data_n_sample(d), 1);
        mk_data_sample s = mk_data_get(d, 0);
        assert_int_equal(s.line, 1);
        assert_string_equal(s.file, "x.jsonl");
        assert_true(s.weight == (strstr(good[i], "weight") ? 0.5f : 1.0f));
        assert_true(s.seq[0].n_target > 0 && s.seq[0].n >= 2 && s.seq[0].mask[0] == 0);
        assert_int_equal(s.seq[0].mask[s.seq[0].n - 1], 1);
        mk_data_destroy(d);
    }
}

typedef struct {
    mk_data_kind kind;
    const char *line;
    mk_status status;
    const char *words[3];
} bad_line;

static const bad_line bad[] = {
    // the line
    {MK_DATA_CHAT, "{\"text\":", MK_ECORRUPT, {"line 2: column 8: not valid JSON"}},
    {MK_DATA_CHAT, "{\"text\":\"a\xff\"}", MK_ECORRUPT, {"0xff"}},
    {MK_DATA_CHAT, "{\"text\":\"a\",\"text\":\"b\"}", MK_ECORRUPT, {"duplicate"}},
    {MK_DATA_CHAT, "[1]", MK_ECORRUPT, {"one JSON object per line", "array"}},
    {MK_DATA_CHAT, " [", MK_ECORRUPT, {"one JSON object per line", "array", "jq"}},
    {MK_DATA_CHAT, "\"x\"", MK_ECORRUPT, {"one JSON object per line", "string"}},
    {MK_DATA_CHAT, "{}", MK_ECORRUPT, {"empty object"}},
    {MK_DATA_CHAT, "{\"foo\":1}", MK_ECORRUPT, {"expected a field \"messages\"", "\"foo\""}},
    {MK_DATA_CHAT, "{\"mesages\":[]}", MK_ECORRUPT, {"\"mesages\"", "did you mean \"messages\""}},
    // fields
    {MK_DATA_CHAT, "{\"text\":7}", MK_ECORRUPT, {"\"text\": expected a string, got integer"}},
    {MK_DATA_CHAT, "{\"text\":null}", MK_ECORRUPT, {"\"text\": expected a string, got null"}},
    {MK_DATA_CHAT, "{\"text\":\" \"}", MK_ECORRUPT, {"\"text\"", "empty"}},
    {MK_DATA_CHAT,
     "{\"prompt\":\"a\",\"completion\":\"b\",\"sytem\":\"c\"}",
     MK_ECORRUPT,
     {"\"sytem\": unknown", "prompt and completion", "--allow-unknown"}},
    {MK_DATA_CHAT,
     "{\"instruction\":\"a\",\"ouput\":\"b\"}",
     MK_ECORRUPT,
     {"\"ouput\"", "did you mean \"output\""}},
    {MK_DATA_CHAT,
     "{\"instruction\":\"a\"}",
     MK_ECORRUPT,
     {"\"output\": expected a string, got nothing"}},
    {MK_DATA_CHAT, "{\"prompt\":\"a\"}", MK_ECORRUPT, {"\"completion\": expected", "got nothing"}},
    {MK_DATA_CHAT, "{\"completion\":\"a\"}", MK_ECORRUPT, {"\"prompt\": expected", "got nothing"}},
    {MK_DATA_CHAT,
     "{\"prompt\":\"a\",\"completion\":\"\"}",
     MK_ECORRUPT,
     {"\"completion\"", "got an empty one"}},
    {MK_DATA_CHAT,
     "{\"prompt\":{},\"completion\":\"\"}",
     MK_ECORRUPT,
     {"\"prompt\": expected a string or a list of messages, got object"}},
    {MK_DATA_CHAT,
     "{\"text\":\"a\",\"weight\":-1}",
     MK_ECORRUPT,
     {"\"weight\": expected", "outside"}},
    {MK_DATA_CHAT, "{\"text\":\"a\",\"weight\":\"1\"}", MK_ECORRUPT, {"\"weight\"", "string"}},
    {MK_DATA_CHAT,
     "{\"messages\":[" U("a") "," A("b") "],\"tools\":{}}",
     MK_ECORRUPT,
     {"\"tools\": expected a list, got object"}},
    {MK_DATA_CHAT,
     "{\"messages\":[" U("a") "," A("b") "],\"tools\":[1]}",
     MK_ECORRUPT,
     {"tools[0]: expected an object, got integer"}},
    // messages
    {MK_DATA_CHAT,
     "{\"messages\":\"hi\"}",
     MK_ECORRUPT,
     {"\"messages\": expected a list, got string"}},
    {MK_DATA_CHAT, "{\"messages\":[]}", MK_ECORRUPT, {"\"messages\"", "at least one message"}},
    {MK_DATA_CHAT,
     "{\"messages\":[7]}",
     MK_ECORRUPT,
     {"messages[0]: expected an object, got integer"}},
    {MK_DATA_CHAT,
     "{\"messages\":[{\"content\":\"a\"}]}",
     MK_ECORRUPT,
     {"messages[0].role: expected a string, got nothing"}},
    {MK_DATA_CHAT,
     "{\"messages\":[{\"role\":\"asistant\",\"content\":\"a\"}]}",
     MK_ECORRUPT,
     {"messages[0].role: expected system", "\"asistant\""}},
    {MK_DATA_CHAT,
     "{\"messages\":[" U("a") ",{\"role\":\"assistant\",\"contents\":\"a\"}]}",
     MK_ECORRUPT,
     {"messages[1].contents: unknown", "did you mean \"content\""}},
    {MK_DATA_CHAT,
     "{\"messages\":[{\"role\":\"user\",\"content\":3}," A("b") "]}",
     MK_ECORRUPT,
     {"messages[0].content: expected a string", "integer"}},
    {MK_DATA_CHAT,
     "{\"messages\":[{\"role\":\"user\"}," A("b") "]}",
     MK_ECORRUPT,
     {"messages[0].content: expected a string, got nothing"}},
    {MK_DATA_CHAT,
     "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"image\"}]}," A("b") "]}",
     MK_ECORRUPT,
     {"messages[0].content[0]", "image"}},
    {MK_DATA_CHAT,
     "{\"messages\":[" U("a") "]}",
     MK_ECORRUPT,
     {"message of the assistant, got none"}},
    {MK_DATA_CHAT, "{\"messages\":[" A("a") "]}", MK_ECORRUPT, {"before the first answer"}},
    {MK_DATA_CHAT,
     "{\"messages\":[" U("a") "," A(" \\n") "]}",
     MK_ECORRUPT,
     {"messages[1].content", "empty"}},
    {MK_DATA_CHAT,
     "{\"messages\":[" U("a") ",{\"role\":\"assistant\",\"content\":\"b\",\"weight\":2}]}",
     MK_ECORRUPT,
     {"messages[1].weight: expected 0 or 1"}},
    {MK_DATA_CHAT,
     "{\"messages\":[" U("a") ",{\"role\":\"assistant\",\"content\":\"b\",\"train\":1}]}",
     MK_ECORRUPT,
     {"messages[1].train: expected true or false"}},
    {MK_DATA_CHAT,
     "{\"messages\":[" U("a") ",{\"role\":\"assistant\",\"content\":\"b\",\"thinking\":1}]}",
     MK_ECORRUPT,
     {"messages[1].thinking: expected a string, got integer"}},
    {MK_DATA_CHAT,
     "{\"messages\":[" U("a") ",{\"role\":\"assistant\",\"tool_calls\":[{}]}]}",
     MK_ECORRUPT,
     {"messages[1].tool_calls[0]"}},
    {MK_DATA_CHAT,
     "{\"messages\":[" U("a") ",{\"role\":\"assistant\",\"tool_calls\":{}}]}",
     MK_ECORRUPT,
     {"messages[1].tool_calls: expected a list"}},
    {MK_DATA_CHAT,
     "{\"messages\":[" U("a") ",{\"role\":\"assistant\",\"content\":\"b\",\"tool_calls\":[{"
                              "\"function\":{\"name\":\"f\"}}]}]}",
     MK_ETEMPLATE,
     {"messages[1]: tool_calls[0]", "does not write", "\"f\""}},
    {MK_DATA_CHAT,
     "{\"conversations\":[{\"from\":\"bot\",\"value\":\"a\"}]}",
     MK_ECORRUPT,
     {"conversations[0].from: expected human, gpt, system or tool, got \"bot\""}},
    {MK_DATA_CHAT,
     "{\"conversations\":[{\"from\":\"gpt\"}]}",
     MK_ECORRUPT,
     {"conversations[0].value: expected a string, got nothing"}},
    {MK_DATA_CHAT, "{\"conversations\":[7]}", MK_ECORRUPT, {"conversations[0].from", "integer"}},
    {MK_DATA_CHAT,
     "{\"conversations\":[{\"from\":\"human\",\"value\":\"a\"}]}",
     MK_ECORRUPT,
     {"expected a turn of gpt, got none"}},
    {MK_DATA_CHAT,
     "{\"conversations\":[{\"from\":\"human\",\"value\":\"a\",\"x\":1}]}",
     MK_ECORRUPT,
     {"conversations[0].x"}},
    // kinds
    {MK_DATA_CHAT,
     "{\"prompt\":\"a\",\"answer\":\"4\"}",
     MK_ECORRUPT,
     {"expected data of kind chat, got kind rl"}},
    {MK_DATA_PAIR,
     "{\"prompt\":\"a\",\"completion\":\"4\"}",
     MK_ECORRUPT,
     {"expected data of kind pair, got kind chat"}},
    {MK_DATA_RL, "{\"text\":\"a\"}", MK_ECORRUPT, {"expected data of kind rl, got kind text"}},
    // pairs
    {MK_DATA_PAIR,
     "{\"prompt\":\"a\",\"chosen\":\"b\"}",
     MK_ECORRUPT,
     {"\"rejected\": expected a string or a list of messages, got nothing"}},
    {MK_DATA_PAIR, "{\"prompt\":\"a\"}", MK_ECORRUPT, {"\"chosen\"", "got nothing"}},
    {MK_DATA_PAIR,
     "{\"chosen\":\"b\",\"rejected\":\"c\"}",
     MK_ECORRUPT,
     {"\"prompt\"", "got nothing"}},
    {MK_DATA_PAIR,
     "{\"prompt\":\"a\",\"chosen\":\"b\",\"rejected\":\"b\"}",
     MK_ECORRUPT,
     {"\"rejected\"", "got the same"}},
    {MK_DATA_PAIR,
     "{\"prompt\":\"a\",\"chosen\":\"b\",\"rejected\":[]}",
     MK_ECORRUPT,
     {"\"rejected\": expected at least one message"}},
    {MK_DATA_PAIR,
     "{\"prompt\":\"z\",\"chosen\":[" U("a") "," A("b") "],\"rejected\":[" U("a") "," A("c") "]}",
     MK_ECORRUPT,
     {"\"prompt\"", "got another text"}},
    {MK_DATA_PAIR,
     "{\"chosen\":[" U("a") "," A("b") "],\"rejected\":[" U("x") "," A("c") "]}",
     MK_ECORRUPT,
     {"begin with the same messages"}},
    {MK_DATA_PAIR,
     "{\"prompt\":[" U("a") "," A("b") "],\"chosen\":\"c\",\"rejected\":\"d\"}",
     MK_ECORRUPT,
     {"prompt[1].role: expected user or tool"}},
    {MK_DATA_PAIR,
     "{\"prompt\":\"a\",\"completion\":\"b\",\"label\":true}",
     MK_ECORRUPT,
     {"expected data of kind pair, got kind label"}},
    // labels
    {MK_DATA_LABEL,
     "{\"prompt\":\"a\",\"completion\":\"b\"}",
     MK_ECORRUPT,
     {"\"label\": expected true or false, got nothing"}},
    {MK_DATA_LABEL,
     "{\"prompt\":\"a\",\"completion\":\"b\",\"label\":1}",
     MK_ECORRUPT,
     {"\"label\": expected true or false, got integer"}},
    {MK_DATA_LABEL,
     "{\"prompt\":\"a\",\"completion\":\"b\",\"label\":null}",
     MK_ECORRUPT,
     {"\"label\"", "got null"}},
    {MK_DATA_LABEL,
     "{\"prompt\":\"a\",\"label\":true}",
     MK_ECORRUPT,
     {"\"completion\": expected", "got nothing"}},
    {MK_DATA_LABEL,
     "{\"prompt\":\"a\",\"completion\":\" \",\"label\":true}",
     MK_ECORRUPT,
     {"\"completion\"", "empty"}},
    {MK_DATA_LABEL,
     "{\"prompt\":\"a\",\"completion\":\"b\",\"lable\":true}",
     MK_ECORRUPT,
     {"\"lable\"", "did you mean \"label\"?"}},
    {MK_DATA_LABEL,
     "{\"prompt\":\"a\",\"chosen\":\"b\",\"rejected\":\"c\"}",
     MK_ECORRUPT,
     {"expected data of kind label, got kind pair"}},
    {MK_DATA_CHAT,
     "{\"prompt\":\"a\",\"completion\":\"b\",\"label\":true}",
     MK_ECORRUPT,
     {"\"label\": unknown in the form prompt and completion"}},
    // rl
    {MK_DATA_RL, "{\"prompt\":\"a\"}", MK_ECORRUPT, {"\"answer\": expected a value, got nothing"}},
    {MK_DATA_RL, "{\"prompt\":\"a\",\"answer\":null}", MK_ECORRUPT, {"\"answer\"", "got null"}},
    {MK_DATA_RL, "{\"prompt\":\"\",\"answer\":1}", MK_ECORRUPT, {"\"prompt\"", "empty"}},
    {MK_DATA_RL, "{\"answer\":1}", MK_ECORRUPT, {"\"prompt\"", "got nothing"}},
    {MK_DATA_RL,
     "{\"prompt\":[],\"answer\":1}",
     MK_ECORRUPT,
     {"\"prompt\": expected at least one"}},
};

static void test_bad_lines(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        mk_data_opts o = opts_of("llama3");
        mk_data *d = NULL;
        mk_err err = {0};
        o.kind = bad[i].kind;
        char text[2000];
        snprintf(text, sizeof text, "\n%s\n", bad[i].line);
        assert_int_equal(mk_data_create(&o, &d, &err), MK_OK);
        mk_status st = mk_data_add_memory(d, "dir/x.jsonl", text, strlen(text), &err);
        if (st != bad[i].status || strncmp(err.msg, "dir/x.jsonl line 2: ", 20) != 0) {
            fail_msg("%s: expected %s, got %s: %s", bad[i].line, mk_status_name(bad[i].status),
                     mk_status_name(st), err.msg);
        }
        for (int k = 0; k < 3 && bad[i].words[k]; k++) {
            if (!strstr(err.msg, bad[i].words[k])) {
                fail_msg("%s: expected '%s' in: %s", bad[i].line, bad[i].words[k], err.msg);
            }
        }
        assert_int_equal(mk_data_n_sample(d), 0);
        mk_data_destroy(d);
        // the same file with --skip-bad: counted, nothing else happens
        o.skip_bad = true;
        d = read_lines(&o, text);
        assert_int_equal(mk_data_n_sample(d), 0);
        mk_data_stats s = stats_of(d);
        assert_int_equal(s.n_bad, 1);
        assert_int_equal(s.n_line, 1);
        assert_string_equal(strstr(s.first_bad, " line"), strstr(err.msg, " line"));
        mk_data_destroy(d);
    }
}

static void test_bad_among_good(void **state) {
    (void)state;
    mk_data_opts o = opts_of("chatml");
    mk_data *d = NULL;
    mk_err err = {0};
    static const char text[] =
        "{\"prompt\":\"a\",\"completion\":\"b\"}\n\n{\"prompt\":1,\"completion\":\"b\"}\n"
        "{\"messages\":[" U("a") "," A("b") "]}\n{\"prompt\":\"a\",\"answer\":1}\n";
    assert_int_equal(mk_data_create(&o, &d, &err), MK_OK);
    assert_int_equal(mk_data_add_memory(d, "x", text, strlen(text), &err), MK_ECORRUPT);
    assert_non_null(strstr(err.msg, "x line 3: \"prompt\""));
    assert_int_equal(mk_data_n_sample(d), 1);
    mk_data_destroy(d);
    o.skip_bad = true;
    d = read_lines(&o, text);
    assert_int_equal(mk_data_n_sample(d), 2);
    assert_int_equal(stats_of(d).n_bad, 2);
    assert_int_equal(mk_data_get(d, 1).line, 4);
    mk_data_destroy(d);
}

static void test_unknown_fields_allowed(void **state) {
    (void)state;
    mk_data_opts o = opts_of("chatml");
    o.allow_unknown = true;
    mk_data *d = read_lines(&o, "{\"source\":\"web\",\"messages\":[{\"role\":\"user\",\"content\":"
                                "\"a\",\"lang\":\"en\"}," A("b") "],\"n\":1}\n");
    assert_int_equal(mk_data_n_sample(d), 1);
    mk_data_destroy(d);
}

static void test_long_line(void **state) {
    (void)state;
    mk_data_opts o = opts_of("chatml");
    size_t n = MK_DATA_MAX_LINE + 1;
    char *text = malloc(n);
    mk_data *d = NULL;
    mk_err err = {0};
    assert_non_null(text);
    memset(text, 'x', n);
    assert_int_equal(mk_data_create(&o, &d, &err), MK_OK);
    assert_int_equal(mk_data_add_memory(d, "x", text, n, &err), MK_ECORRUPT);
    assert_non_null(strstr(err.msg, "x line 1: expected at most 16777216 bytes, got 16777217"));
    mk_data_destroy(d);
    free(text);
}

static void test_no_template(void **state) {
    (void)state;
    mk_data_opts o = opts_of("llama3");
    mk_data *d = NULL;
    mk_err err = {0};
    static const char messages[] = "{\"messages\":[" U("a") "," A("b") "]}";
    o.template = NULL;
    assert_int_equal(mk_data_create(&o, &d, &err), MK_OK);
    assert_int_equal(mk_data_add_memory(d, "x", messages, strlen(messages), &err), MK_EUSAGE);
    assert_non_null(strstr(err.msg, "chat template"));
    mk_data_destroy(d);
    o.raw = true;
    assert_int_equal(mk_data_create(&o, &d, &err), MK_OK);
    assert_int_equal(mk_data_add_memory(d, "x", messages, strlen(messages), &err), MK_EUSAGE);
    assert_non_null(strstr(err.msg, "--raw"));
    mk_data_destroy(d);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_good_lines),     cmocka_unit_test(test_bad_lines),
        cmocka_unit_test(test_bad_among_good), cmocka_unit_test(test_unknown_fields_allowed),
        cmocka_unit_test(test_long_line),      cmocka_unit_test(test_no_template),
    };
    return cmocka_run_group_tests(tests, open_models, close_models);
}
