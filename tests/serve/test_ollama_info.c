// What Ollama's clients learn about models: the bytes are those of tests/serve/info/ollama.json,
// which the real client reads in tests/cli/test_wire_anthropic.py.
#include "cmocka_all.h"

#include "base/json.h"
#include "serve/ollama_info.h"

static const mk_ollama_model models[] = {
    {.name = "qwen3",
     .format = "gguf",
     .family = "qwen3",
     .quantization = "Q8_0",
     .digest = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
     .template_text = "{{ messages }}",
     .license = "Apache \"2.0\"",
     .parameters = "temperature 0.6\ntop_k 20",
     .n_bytes = 639446688,
     .n_param = 751632384,
     .n_ctx = 32768,
     .d_model = 1024,
     .n_layer = 28,
     .modified = 1732290000,
     .tools = true,
     .thinking = true,
     .n_bytes_memory = 1000000000,
     .expires = 1732290300},
    {.name = "hub.test:80/org/thimble:1b",
     .format = "safetensors",
     .family = "llama",
     .quantization = "F32",
     .system = "Be brief.",
     .n_bytes = 4096,
     .n_param = 1000000000,
     .n_ctx = 512,
     .insert = true,
     .embedding = true},
};

static json_t *wanted;

static int read_wanted(void **state) {
    (void)state;
    mk_err err = {0};
    return mk_json_file("tests/serve/info/ollama.json", 1 << 20, &wanted, &err) == MK_OK ? 0 : -1;
}

static int free_wanted(void **state) {
    (void)state;
    json_decref(wanted);
    return 0;
}

static void assert_same(const char *key, mk_buf *got) {
    mk_buf want;
    mk_buf_init(&want, 1 << 20);
    mk_json_add(&want, json_object_get(wanted, key));
    assert_false(got->failed);
    assert_string_equal(got->data, want.data);
    mk_buf_free(&want);
    mk_buf_free(got);
}

static void test_answers(void **state) {
    (void)state;
    mk_buf b;
    mk_buf_init(&b, 1 << 20);
    mk_ollama_version(&b);
    assert_same("version", &b);
    mk_ollama_tags(models, 2, &b);
    assert_same("tags", &b);
    mk_ollama_show(&models[0], &b);
    assert_same("show", &b);
    mk_ollama_show(&models[1], &b);
    assert_same("show_plain", &b);
    mk_ollama_ps(models, 2, &b);
    assert_same("ps", &b);
    mk_ollama_tags(models, 0, &b);
    assert_string_equal(b.data, "{\"models\":[]}");
    mk_buf_free(&b);
}

static void test_parameter_sizes(void **state) {
    (void)state;
    static const struct {
        int64_t n;
        const char *text;
    } rows[] = {{8000000000, "\"8B\""},
                {7615616512, "\"7.6B\""},
                {494032768, "\"494.03M\""},
                {1000000, "\"1M\""},
                {260032, "\"260K\""},
                {999, "\"999\""},
                {0, "\"0\""}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        mk_ollama_model m = {.name = "m", .n_param = rows[i].n};
        mk_buf b;
        mk_buf_init(&b, 1 << 16);
        mk_ollama_tags(&m, 1, &b);
        if (!strstr(b.data, rows[i].text)) {
            fail_msg("%lld: expected %s in %s", (long long)rows[i].n, rows[i].text, b.data);
        }
        mk_buf_free(&b);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_answers),
                                       cmocka_unit_test(test_parameter_sizes)};
    return cmocka_run_group_tests(tests, read_wanted, free_wanted);
}
