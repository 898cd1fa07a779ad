// Hugging Face folders: which file decides about BOS, EOS and the tokens that end a turn.  The
// rules are those of the `transformers` tokenizer classes; the tokenizer itself is the smallest
// that can have them.
#include "cmocka_all.h"

#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/file.h"
#include "text/tokenizer.h"

static const char plain[] = "{\"added_tokens\":[{\"id\":3,\"content\":\"<s>\",\"special\":true},{"
                            "\"id\":4,\"content\":\"</s>\",\"special\":true},"
                            "{\"id\":5,\"content\":\"<|user|>\",\"special\":true}],\"pre_"
                            "tokenizer\":{\"type\":\"ByteLevel\"},"
                            "\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1,\"ab\":2},"
                            "\"merges\":[[\"a\",\"b\"]]}%s}";
#define POST                                                                                       \
    ",\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":"  \
    "\"<s>\",\"type_id\":0}},"                                                                     \
    "{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}],\"special_tokens\":{\"<s>\":{\"id\":\"<s>\","    \
    "\"ids\":[3],\"tokens\":[\"<s>\"]}}}"

static void put(const char *dir, const char *name, const char *text) {
    char *path = mk_path_join(dir, name);
    if (text) {
        FILE *f = fopen(path, "w");
        assert_non_null(f);
        fputs(text, f);
        fclose(f);
    } else {
        unlink(path);
    }
    mk_free(path);
}

typedef struct {
    const char *post, *tokenizer_config, *generation_config, *config;
    int32_t bos, eos;
    bool add_bos, user_ends;
} row;

static const row rows[] = {
    // nothing beside it
    {"", NULL, NULL, NULL, -1, -1, false, false},
    // the post-processor decides where the class does not
    {POST,
     "{\"bos_token\":\"<s>\",\"eos_token\":{\"content\":\"</"
     "s>\"},\"tokenizer_class\":\"PreTrainedTokenizerFast\"}",
     NULL, NULL, 3, 4, true, false},
    // a class that puts BOS in front (DeepSeek's files have no template)
    {"",
     "{\"bos_token\":\"<s>\",\"eos_token\":\"</s>\",\"tokenizer_class\":\"LlamaTokenizerFast\"}",
     NULL, NULL, 3, 4, true, false},
    // the explicit word wins
    {POST, "{\"bos_token\":\"<s>\",\"eos_token\":\"</s>\",\"add_bos_token\":false}", NULL, NULL, 3,
     4, false, false},
    // ids of config.json where no token is named; the list of generation_config.json ends turns
    {"", NULL, "{\"eos_token_id\":[4,5]}", "{\"bos_token_id\":3,\"eos_token_id\":4}", 3, 4, false,
     true},
    // ids out of range are ignored
    {"", NULL, "{\"eos_token_id\":[4,99,-3]}", "{\"bos_token_id\":77}", -1, -1, false, false},
};

static void test_rows(void **state) {
    (void)state;
    char dir[] = "/tmp/mk-test-folder-XXXXXX";
    assert_non_null(mkdtemp(dir));
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        const row *r = &rows[i];
        char text[2048];
        char *mark = strstr(strcpy(text, plain), "%s");
        assert_non_null(mark);
        strcpy(mark, r->post);
        strcat(text, "}");
        put(dir, "tokenizer.json", text);
        put(dir, "tokenizer_config.json", r->tokenizer_config);
        put(dir, "generation_config.json", r->generation_config);
        put(dir, "config.json", r->config);
        mk_tokenizer *t = NULL;
        mk_err err = {0};
        if (mk_tokenizer_from_folder(dir, &t, &err) != MK_OK) {
            fail_msg("row %zu: %s", i, err.msg);
        }
        assert_int_equal(mk_tokenizer_bos(t), r->bos);
        assert_int_equal(mk_tokenizer_eos(t), r->eos);
        assert_int_equal(mk_tokenizer_add_bos(t), r->add_bos);
        assert_int_equal(mk_tokenizer_is_eog(t, 5), r->user_ends);
        mk_ids ends = {0}, ids = {0};
        assert_int_equal(mk_tokenizer_eog_ids(t, &ends, &err), MK_OK);
        int64_t n_end = 0;
        for (int32_t id = 0; id < mk_tokenizer_n_vocab(t); id++) {
            if (mk_tokenizer_is_eog(t, id)) {
                assert_true(n_end < ends.n && ends.data[n_end++] == id);
            }
        }
        assert_int_equal(ends.n, n_end);
        mk_ids_free(&ends);
        assert_int_equal(
            mk_tokenizer_encode(t, "ab", 2, (mk_encode_opts){.add_special = true}, &ids, &err),
            MK_OK);
        assert_int_equal(ids.data[0] == 3, r->add_bos);
        mk_ids_free(&ids);
        mk_tokenizer_destroy(t);
    }
    put(dir, "tokenizer_config.json", "{broken");
    mk_tokenizer *t = NULL;
    mk_err err = {0};
    assert_int_equal(mk_tokenizer_from_folder(dir, &t, &err), MK_ECORRUPT);
    static const char *const files[] = {"tokenizer.json", "tokenizer_config.json",
                                        "generation_config.json", "config.json"};
    for (size_t i = 0; i < 4; i++) {
        put(dir, files[i], NULL);
    }
    assert_int_equal(mk_tokenizer_from_folder(dir, &t, &err), MK_ENOTFOUND);
    rmdir(dir);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_rows)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
