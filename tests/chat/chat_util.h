// What the tests of chat share: JSON, golden tokenizers, templates of published models, random
// numbers.
#ifndef MK_TESTS_CHAT_UTIL_H
#define MK_TESTS_CHAT_UTIL_H

#include "cmocka_all.h"

#include "base/alloc.h"
#include "base/file.h"
#include "base/json.h"
#include "chat/template.h"
#include "text/tokenizer.h"

// Not part of the repository: who has them beside it runs the tests that need them.
#define TEMPLATES "../shared/data/templates/"

static inline json_t *parse(const char *text) {
    mk_err err = {0};
    json_t *j = NULL;
    if (mk_json_parse(text, strlen(text), "test", &j, &err) != MK_OK) {
        fail_msg("%s: %s", err.msg, text);
    }
    return j;
}

// The text of a golden tokenizer; mk_free.
static inline char *tokenizer_text(const char *name, size_t *n) {
    char path[256], *text = NULL;
    mk_err err = {0};
    snprintf(path, sizeof path, "tests/golden/tokenizers/%s.json", name);
    if (mk_file_read(path, 16 << 20, &text, n, &err) != MK_OK) {
        fail_msg("%s", err.msg);
    }
    return text;
}

static inline mk_tokenizer *read_tokenizer(const char *name) {
    size_t n;
    char *text = tokenizer_text(name, &n);
    mk_tokenizer *t = NULL;
    mk_err err = {0};
    if (mk_tokenizer_from_json(text, n, &t, &err) != MK_OK) {
        fail_msg("%s: %s", name, err.msg);
    }
    mk_free(text);
    return t;
}

// The text of a published model's template, NUL-terminated; mk_free.  Skips the test without it.
static inline char *template_text(const char *name) {
    char path[300], *text;
    size_t n;
    snprintf(path, sizeof path, TEMPLATES "%s.jinja", name);
    if (mk_file_read(path, 1 << 20, &text, &n, NULL) != MK_OK) {
        fprintf(stderr, "SKIPPED: no " TEMPLATES "\n");
        skip();
    }
    return text;
}

static inline mk_chat_template *read_template(const char *name) {
    mk_err err = {0};
    mk_chat_template *t = NULL;
    char *text = template_text(name);
    const mk_chat_special sp[] = {{"bos_token", "<s>"}, {"eos_token", "</s>"}};
    mk_chat_sources src = {.file = text, .specials = sp, .n_specials = 2};
    if (mk_chat_template_create(&src, &t, &err) != MK_OK) {
        fail_msg("%s: %s", name, err.msg);
    }
    mk_free(text);
    return t;
}

static uint64_t rng_state;

static inline uint64_t rng(void) {  // splitmix64
    uint64_t z = (rng_state += UINT64_C(0x9E3779B97F4A7C15));
    z = (z ^ (z >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94D049BB133111EB);
    return z ^ (z >> 31);
}

#endif
