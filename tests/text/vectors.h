// The shared tokenizer vectors: 46 texts in an .inp file, their ids in an .out file.
#ifndef MK_TESTS_TEXT_VECTORS_H
#define MK_TESTS_TEXT_VECTORS_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/file.h"
#include "format/gguf.h"
#include "text/tokenizer.h"

#define VOCAB_DIR "../shared/data/vocab/"
#define N_CASE    46

static inline bool have_vocab(const char *name) {
    char path[256];
    snprintf(path, sizeof path, VOCAB_DIR "ggml-vocab-%s.gguf", name);
    return mk_path_is_file(path);
}

static inline mk_tokenizer *open_vocab(const char *name, mk_gguf **g) {
    char path[256];
    mk_err err = {0};
    snprintf(path, sizeof path, VOCAB_DIR "ggml-vocab-%s.gguf", name);
    mk_tokenizer *t = NULL;
    if (mk_gguf_open(path, g, &err) != MK_OK || mk_tokenizer_from_gguf(*g, &t, &err) != MK_OK) {
        fprintf(stderr, "%s: %s\n", path, err.msg);
    }
    return t;
}

static inline char *read_text(const char *path, size_t *n) {
    char *p = NULL;
    mk_err err = {0};
    if (mk_file_read(path, (size_t)1 << 28, &p, n, &err) != MK_OK) {
        fprintf(stderr, "%s\n", err.msg);
    }
    return p;
}

#endif
