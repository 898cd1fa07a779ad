// Any bytes as a text for two small tokenizers (byte-level, and characters with byte fallback) and
// as ids to decode.
//
// Invariants: user text gives no control token; valid text comes back from the byte-level one;
// pushing ids one by one gives the bytes of decoding them at once, in pieces of valid UTF-8; runs
// that say "all of it is the user's" change nothing. Runs in the repository root, where the
// tokenizers lie.
#include <stdint.h>
#include <string.h>

#include "base/alloc.h"
#include "base/file.h"
#include "base/utf8.h"
#include "text/tokenizer.h"

enum { N_TOK = 2 };
static mk_tokenizer *tok[N_TOK];

static void load(void) {
    static const char *const paths[N_TOK] = {"tests/golden/tokenizers/llama3.json",
                                             "tests/golden/tokenizers/llama2.json"};
    for (int i = 0; i < N_TOK; i++) {
        char *text;
        size_t n;
        mk_err err = {0};
        MK_ASSERT(mk_file_read(paths[i], 1 << 24, &text, &n, &err) == MK_OK);
        MK_ASSERT(mk_tokenizer_from_json(text, n, &tok[i], &err) == MK_OK);
        mk_free(text);
    }
}

static void check_stream(const mk_tokenizer *t, const int32_t *ids, int64_t n_ids) {
    char *whole;
    const char *p;
    size_t n, k, at = 0;
    MK_ASSERT(mk_tokenizer_decode(t, ids, n_ids, (mk_decode_opts){0}, &whole, &n, NULL) == MK_OK);
    mk_detok *d = mk_detok_create(t, false);
    for (int64_t i = 0; i <= n_ids; i++) {
        if (i < n_ids) {
            mk_detok_push(d, ids[i], &p, &k);
        } else {
            mk_detok_finish(d, &p, &k);
        }
        MK_ASSERT(mk_utf8_valid(p, k) && at + k <= n && memcmp(whole + at, p, k) == 0);
        at += k;
    }
    MK_ASSERT(at == n);
    mk_detok_destroy(d);
    mk_free(whole);
}

static void check_text(const mk_tokenizer *t, const char *text, size_t n, bool exact) {
    mk_ids ids = {0}, as_user = {0};
    MK_ASSERT(mk_tokenizer_encode(t, text, n, (mk_encode_opts){0}, &ids, NULL) == MK_OK);
    for (int64_t i = 0; i < ids.n; i++) {
        MK_ASSERT(ids.data[i] >= 0 && ids.data[i] < mk_tokenizer_n_vocab(t));
        MK_ASSERT(mk_tokenizer_type(t, ids.data[i]) != MK_TOKEN_CONTROL);
    }
    check_stream(t, ids.data, ids.n);
    mk_text_run run = {n, true};
    mk_encode_opts opts = {.parse_special = true, .runs = &run, .n_runs = 1};
    MK_ASSERT(mk_tokenizer_encode(t, text, n, opts, &as_user, NULL) == MK_OK);
    for (int64_t i = 0; i < as_user.n; i++) {
        MK_ASSERT(mk_tokenizer_type(t, as_user.data[i]) != MK_TOKEN_CONTROL);
    }
    if (exact && mk_utf8_valid(text, n)) {
        char *back;
        size_t m;
        MK_ASSERT(mk_tokenizer_decode(t, ids.data, ids.n, (mk_decode_opts){0}, &back, &m, NULL) ==
                  MK_OK);
        MK_ASSERT(n == m && memcmp(text, back, n) == 0);
        mk_free(back);
    }
    mk_ids_free(&ids);
    mk_ids_free(&as_user);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (!tok[0]) {
        load();
    }
    check_text(tok[0], (const char *)data, size, true);
    check_text(tok[1], (const char *)data, size, false);
    int32_t ids[256];
    int64_t n = size / 2 < 256 ? (int64_t)(size / 2) : 256;
    for (int64_t i = 0; i < n; i++) {
        ids[i] = (int32_t)data[2 * i] | (int32_t)data[2 * i + 1] << 8;
    }
    check_stream(tok[0], ids, n);
    check_stream(tok[1], ids, n);
    return 0;
}
