// The models of tests/golden/train, opened once, and data read from memory.  Include after
// cmocka.h.
#ifndef MK_TESTS_TRAIN_DATA_MODELS_H
#define MK_TESTS_TRAIN_DATA_MODELS_H

#include "base/alloc.h"
#include "base/file.h"
#include "train/data.h"

#define GOLDEN "tests/golden/train/"

// --- models --------------------------------------------------------------------------------------

typedef struct {
    const char *name;
    mk_tokenizer *tok;
    mk_chat_template *template;
} model;
static model models[] = {
    {.name = "chatml"}, {.name = "llama3"}, {.name = "llama2"}, {.name = "r1"}, {.name = "think"}};
#define N_MODEL (sizeof models / sizeof models[0])

static inline char *slurp(const char *dir, const char *name) {
    char path[300], *text = NULL;
    size_t n;
    mk_err err = {0};
    snprintf(path, sizeof path, GOLDEN "%s/%s", dir, name);
    if (mk_file_read(path, 1 << 22, &text, &n, &err) != MK_OK) {
        fail_msg("%s", err.msg);
    }
    return text;
}

static inline int open_models(void **state) {
    (void)state;
    for (size_t i = 0; i < N_MODEL; i++) {
        model *m = &models[i];
        char path[300];
        mk_err err = {0};
        snprintf(path, sizeof path, GOLDEN "%s", m->name);
        char *jinja = slurp(m->name, "chat_template.jinja");
        char *config = slurp(m->name, "tokenizer_config.json");
        mk_chat_sources src = {.file = jinja, .tokenizer_config = config};
        if (mk_tokenizer_from_folder(path, &m->tok, &err) != MK_OK ||
            mk_chat_template_create(&src, &m->template, &err) != MK_OK) {
            print_error("%s\n", err.msg);
            return -1;
        }
        mk_free(jinja);
        mk_free(config);
    }
    return 0;
}

static inline int close_models(void **state) {
    (void)state;
    for (size_t i = 0; i < N_MODEL; i++) {
        mk_tokenizer_destroy(models[i].tok);
        mk_chat_template_destroy(models[i].template);
    }
    return 0;
}

static inline mk_data_opts opts_of(const char *name) {
    mk_data_opts o = MK_DATA_DEFAULTS;
    for (size_t i = 0; i < N_MODEL; i++) {
        if (strcmp(models[i].name, name) == 0) {
            o.tokenizer = models[i].tok;
            o.template = models[i].template;
        }
    }
    assert_non_null(o.tokenizer);
    return o;
}

static inline mk_data *read_text(const mk_data_opts *o, const char *text, size_t n) {
    mk_data *d = NULL;
    mk_err err = {0};
    if (mk_data_create(o, &d, &err) != MK_OK ||
        mk_data_add_memory(d, "x.jsonl", text, n, &err) != MK_OK) {
        fail_msg("%s", err.msg);
    }
    return d;
}

static inline mk_data *read_lines(const mk_data_opts *o, const char *text) {
    return read_text(o, text, strlen(text));
}

static inline mk_data_stats stats_of(const mk_data *d) {
    mk_data_stats s;
    mk_err err = {0};
    assert_int_equal(mk_data_get_stats(d, &s, &err), MK_OK);
    return s;
}

// messages
#define U(t) "{\"role\":\"user\",\"content\":\"" t "\"}"
#define A(t) "{\"role\":\"assistant\",\"content\":\"" t "\"}"

#endif
