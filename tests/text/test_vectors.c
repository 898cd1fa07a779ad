// The vector files of the common vocabularies: ids computed by the makers' own tokenizers.
#include "cmocka_all.h"
#include "text/vectors.h"

static const char *const names[] = {"llama-spm",      "phi-3",   "gpt-2", "deepseek-llm",
                                    "deepseek-coder", "falcon",  "mpt",   "starcoder",
                                    "refact",         "bert-bge"};

// One line of ids against the encoding of one text.
static int check_case(const mk_tokenizer *t, const char *name, int i, const char *text, size_t n,
                      const char *line) {
    mk_ids ids = {0};
    mk_err err = {0};
    assert_int_equal(mk_tokenizer_encode(t, text, n, (mk_encode_opts){0}, &ids, &err), MK_OK);
    int64_t k = 0;
    bool same = true;
    for (char *end; *line && *line != '\n'; line = end) {
        long want = strtol(line, &end, 10);
        if (end == line) {
            break;
        }
        same = same && k < ids.n && ids.data[k] == want;
        k++;
    }
    same = same && k == ids.n;
    if (!same) {
        fprintf(stderr, "%s case %d \"%.*s\": got", name, i, (int)n, text);
        for (int64_t j = 0; j < ids.n; j++) {
            fprintf(stderr, " %d", ids.data[j]);
        }
        fprintf(stderr, "\n");
    }
    mk_ids_free(&ids);
    return same ? 0 : 1;
}

static void check_vocab(const char *name) {
    mk_gguf *g = NULL;
    mk_tokenizer *t = open_vocab(name, &g);
    assert_non_null(t);
    char path[256];
    size_t n_in, n_out;
    snprintf(path, sizeof path, VOCAB_DIR "ggml-vocab-%s.gguf.inp", name);
    char *in = read_text(path, &n_in);
    snprintf(path, sizeof path, VOCAB_DIR "ggml-vocab-%s.gguf.out", name);
    char *out = read_text(path, &n_out);
    assert_non_null(in);
    assert_non_null(out);
    static const char sep[] = "\n__ggml_vocab_test__\n";
    int bad = 0, n_case = 0;
    const char *p = in, *line = out;
    for (const char *end; (end = strstr(p, sep)) != NULL; p = end + sizeof sep - 1) {
        bad += check_case(t, name, n_case++, p, (size_t)(end - p), line);
        const char *nl = strchr(line, '\n');
        line = nl ? nl + 1 : line + strlen(line);
    }
    assert_int_equal(n_case, N_CASE);
    assert_int_equal(bad, 0);
    mk_free(in);
    mk_free(out);
    mk_tokenizer_destroy(t);
    mk_gguf_close(g);
}

static void test_vectors(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        if (!have_vocab(names[i])) {
            print_message("SKIPPED: vocabulary %s is not here\n", names[i]);
            skip();
        }
        check_vocab(names[i]);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_vectors)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
