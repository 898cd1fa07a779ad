// Tokenizers trained with the `tokenizers` package: ids and decoded texts of that package, for a
// few hundred texts; the same through GGUF; memory failing at every place.  Made by
// tests/golden/gen_tokenizers.py, which describes the files.
#include "cmocka_all.h"
#include "text/vectors.h"
#include "torture.h"

#include <unistd.h>

#define DIR "tests/golden/tokenizers/"

static const char *const names[] = {"llama3", "qwen2",  "deepseek3", "gpt4o",
                                    "gpt2",   "llama2", "metaspace", "unigram"};
#define N_NAME (sizeof names / sizeof names[0])

typedef struct {
    char *data;
    size_t n, at;
} input;

static input open_input(const char *name, const char *ext) {
    char path[256];
    snprintf(path, sizeof path, DIR "%s%s", name, ext);
    input in = {0};
    in.data = read_text(path, &in.n);
    assert_non_null(in.data);
    return in;
}

static uint32_t next_u32(input *in) {
    uint32_t v;
    assert_true(in->n - in->at >= 4);
    memcpy(&v, in->data + in->at, 4);
    in->at += 4;
    return v;
}

static const char *next_bytes(input *in, size_t n) {
    assert_true(in->n - in->at >= n);
    in->at += n;
    return in->data + in->at - n;
}

static mk_tokenizer *open_json(const char *name) {
    input in = open_input(name, ".json");
    mk_tokenizer *t = NULL;
    mk_err err = {0};
    if (mk_tokenizer_from_json(in.data, in.n, &t, &err) != MK_OK) {
        fail_msg("%s: %s", name, err.msg);
    }
    mk_free(in.data);
    return t;
}

static void show(const char *what, const int32_t *v, int64_t n) {
    fprintf(stderr, "  %s:", what);
    for (int64_t i = 0; i < n; i++) {
        fprintf(stderr, " %d", v[i]);
    }
    fprintf(stderr, "\n");
}

static int check_ids(const mk_tokenizer *t, const char *name, const char *text, size_t n,
                     bool around, input *want) {
    mk_ids ids = {0};
    mk_err err = {0};
    mk_encode_opts opts = {.add_special = around, .parse_special = true};
    assert_int_equal(mk_tokenizer_encode(t, text, n, opts, &ids, &err), MK_OK);
    uint32_t k = next_u32(want);
    int32_t *v = mk_alloc(k * 4 + 4);
    memcpy(v, next_bytes(want, k * 4u), k * 4u);
    int bad = ids.n != k || (k > 0 && memcmp(v, ids.data, k * 4u) != 0);
    if (bad) {
        fprintf(stderr, "%s \"%.*s\"\n", name, (int)(n < 60 ? n : 60), text);
        show("expected", v, k < 40 ? k : 40);
        show("got     ", ids.data, ids.n < 40 ? ids.n : 40);
    }
    mk_free(v);
    mk_ids_free(&ids);
    return bad;
}

// Byte-fallback runs that are not text: the package gives one U+FFFD a byte for the whole run, we
// one a broken character.
static bool has_replacement(const char *p, size_t n) {
    return memmem(p, n, "\xEF\xBF\xBD", 3) != NULL;
}

static int check_decode(const mk_tokenizer *t, const char *name, input *want, size_t ids_at) {
    uint32_t n_ids;
    memcpy(&n_ids, want->data + ids_at, 4);
    int32_t *ids = mk_alloc(n_ids * 4u + 4);
    memcpy(ids, want->data + ids_at + 4, n_ids * 4u);
    char *out;
    size_t n;
    mk_err err = {0};
    assert_int_equal(
        mk_tokenizer_decode(t, ids, n_ids, (mk_decode_opts){.skip_special = true}, &out, &n, &err),
        MK_OK);
    uint32_t k = next_u32(want);
    const char *text = next_bytes(want, k);
    int bad = !has_replacement(text, k) && (n != k || memcmp(out, text, n) != 0);
    if (bad) {
        fprintf(stderr, "%s decodes to \"%s\", expected \"%.*s\"\n", name, out, (int)k, text);
    }
    mk_free(out);
    mk_free(ids);
    return bad;
}

// Compares with the package; returns the number of texts that differ.
static int compare(const mk_tokenizer *t, const char *name) {
    input texts = open_input("texts", ".bin"), want = open_input(name, ".bin");
    uint32_t n_text = next_u32(&texts);
    assert_true(n_text > 200);
    int bad = 0;
    for (uint32_t i = 0; i < n_text; i++) {
        uint32_t n = next_u32(&texts);
        const char *text = next_bytes(&texts, n);
        size_t ids_at = want.at;
        bad += check_ids(t, name, text, n, false, &want);
        bad += check_ids(t, name, text, n, true, &want);
        bad += check_decode(t, name, &want, ids_at);
    }
    assert_int_equal(want.at, want.n);
    mk_free(texts.data);
    mk_free(want.data);
    return bad;
}

static void test_package(void **state) {
    (void)state;
    int bad = 0;
    for (size_t i = 0; i < N_NAME; i++) {
        mk_tokenizer *t = open_json(names[i]);
        bad += compare(t, names[i]);
        mk_tokenizer_destroy(t);
    }
    assert_int_equal(bad, 0);
}

// Folder -> GGUF -> tokenizer gives the same ids.
static void through_gguf(const char *name) {
    mk_tokenizer *t = open_json(name);
    char path[64];
    snprintf(path, sizeof path, "/tmp/mk-test-tok-%d.gguf", (int)getpid());
    mk_err err = {0};
    mk_gguf_out *o = mk_gguf_out_create();
    mk_gguf_out_str(o, "general.architecture", "llama", 5);
    mk_tokenizer_to_gguf(t, 0, o);
    if (mk_gguf_out_write(o, path, NULL, NULL, &err) != MK_OK) {
        fail_msg("%s: %s", name, err.msg);
    }
    mk_gguf_out_destroy(o);
    mk_gguf *g = NULL;
    mk_tokenizer *back = NULL;
    assert_int_equal(mk_gguf_open(path, &g, &err), MK_OK);
    if (mk_tokenizer_from_gguf(g, &back, &err) != MK_OK) {
        fail_msg("%s: %s", name, err.msg);
    }
    assert_int_equal(mk_tokenizer_n_vocab(back), mk_tokenizer_n_vocab(t));
    input texts = open_input("texts", ".bin");
    uint32_t n_text = next_u32(&texts);
    for (uint32_t i = 0; i < n_text; i++) {
        uint32_t n = next_u32(&texts);
        const char *text = next_bytes(&texts, n);
        mk_ids a = {0}, b = {0};
        mk_encode_opts opts = {.parse_special = true};
        assert_int_equal(mk_tokenizer_encode(t, text, n, opts, &a, &err), MK_OK);
        assert_int_equal(mk_tokenizer_encode(back, text, n, opts, &b, &err), MK_OK);
        assert_int_equal(a.n, b.n);
        assert_true(a.n == 0 || memcmp(a.data, b.data, (size_t)a.n * 4) == 0);
        mk_ids_free(&a);
        mk_ids_free(&b);
    }
    mk_free(texts.data);
    mk_tokenizer_destroy(t);
    mk_tokenizer_destroy(back);
    mk_gguf_close(g);
    unlink(path);
}

static void test_through_gguf(void **state) {
    (void)state;
    for (size_t i = 0; i < N_NAME; i++) {
        through_gguf(names[i]);
    }
}

static mk_status load_and_use(void *arg, mk_err *err) {
    const input *in = arg;
    mk_tokenizer *t = NULL;
    MK_TRY(mk_tokenizer_from_json(in->data, in->n, &t, err));
    static const char text[] = "<s>I'm 12345 \xE4\xBD\xA0\xE5\xA5\xBD e\xCC\x81 \xF0\x9F\x9A\x80 "
                               "abcabcabcabcabcabcabcabcabcabcabc";
    mk_ids ids = {0};
    mk_status st = mk_tokenizer_encode(t, text, sizeof text - 1,
                                       (mk_encode_opts){.add_special = true, .parse_special = true},
                                       &ids, err);
    char *out = NULL;
    size_t n;
    if (st == MK_OK) {
        st = mk_tokenizer_decode(t, ids.data, ids.n, (mk_decode_opts){0}, &out, &n, err);
    }
    mk_free(out);
    mk_ids_free(&ids);
    mk_tokenizer_destroy(t);
    return st;
}

static void test_memory(void **state) {
    (void)state;
    static const char *const some[] = {"qwen2", "llama2", "unigram"};
    for (size_t i = 0; i < 3; i++) {
        input in = open_input(some[i], ".json");
        assert_true(mk_torture(load_and_use, &in) > 20);
        mk_free(in.data);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_package),
        cmocka_unit_test(test_through_gguf),
        cmocka_unit_test(test_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
