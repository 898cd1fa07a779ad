// Files of text for the tokenizer trainer: JSON lines, or anything else as one text.
//
// JSON lines are read with the forms of training data in mind (train/data.h), but without their
// rules: what matters here is only which strings are text.
#include <string.h>

#include "base/alloc.h"
#include "base/file.h"
#include "base/json.h"
#include "text/train_int.h"

// A text is split as a whole, so a file is cut only where it is far too long; behind a line's end.
#define PART_BYTES ((size_t)64 << 20)
#define MAX_LINE   ((size_t)64 << 20)

static const char *const text_fields[] = {"text",        "prompt",   "completion",   "chosen",
                                          "rejected",    "input",    "output",       "system",
                                          "instruction", "messages", "conversations"};
// Of a message, and of a part of its content.
static const char *const message_fields[] = {
    "content", "reasoning_content", "reasoning", "thinking", "value", "text"};
#define COUNT(a) (sizeof(a) / sizeof((a)[0]))
#define MAX_NEST 3  // a list of messages, whose content is a list of parts

// A string, or a list of messages.
static mk_status add_value(mk_tok_trainer *tr, const json_t *v, int depth, mk_err *err) {
    if (json_is_string(v)) {
        return mk_tok_trainer_add(tr, json_string_value(v), json_string_length(v), err);
    }
    for (size_t i = 0; json_is_array(v) && depth < MAX_NEST && i < json_array_size(v); i++) {
        const json_t *m = json_array_get(v, i);
        if (json_is_string(m)) {
            MK_TRY(add_value(tr, m, depth + 1, err));
        }
        for (size_t k = 0; json_is_object(m) && k < COUNT(message_fields); k++) {
            MK_TRY(add_value(tr, json_object_get(m, message_fields[k]), depth + 1, err));
        }
    }
    return MK_OK;
}

static mk_status add_object(mk_tok_trainer *tr, const json_t *v, mk_err *err) {
    bool any = false;
    for (size_t k = 0; k < COUNT(text_fields); k++) {
        const json_t *f = json_object_get(v, text_fields[k]);
        any = any || json_is_string(f) || json_is_array(f);
        MK_TRY(add_value(tr, f, 0, err));
    }
    return any ? MK_OK
               : MK_FAIL(err, MK_ECORRUPT,
                         "expected an object with text, prompt, completion, messages or another "
                         "field of training data, got %s without them",
                         mk_json_type_name(v));
}

static mk_status add_line(mk_tok_trainer *tr, const char *p, size_t n, mk_err *err) {
    json_t *v = NULL;
    if (n > MAX_LINE) {
        return MK_FAIL(err, MK_ELIMIT, "expected at most %zu bytes, got %zu", MAX_LINE, n);
    }
    mk_status st = mk_json_parse(p, n, "JSON", &v, err);
    st = st == MK_OK ? add_object(tr, v, err) : st;
    json_decref(v);
    return st;
}

static bool is_blank(const char *p, size_t n) {
    while (n > 0 && strchr(" \t\r\n", p[n - 1]) && p[n - 1]) {
        n--;
    }
    return n == 0;
}

typedef struct {
    const char *p;
    size_t n;
    mk_tok_progress progress;
    void *arg;
} file_text;

static void report(const file_text *f, size_t done) {
    if (f->progress) {
        f->progress(f->arg, done, f->n);
    }
}

// Bytes up to and with the next line's end.
static size_t line_bytes(const file_text *f, size_t at) {
    const char *end = memchr(f->p + at, '\n', f->n - at);
    return end ? (size_t)(end - (f->p + at)) + 1 : f->n - at;
}

static mk_status add_lines(mk_tok_trainer *tr, const file_text *f, mk_err *err) {
    size_t line = 0;
    for (size_t at = 0; at < f->n;) {
        size_t n = line_bytes(f, at);
        line++;
        mk_status st = is_blank(f->p + at, n) ? MK_OK : add_line(tr, f->p + at, n, err);
        if (st != MK_OK) {
            return mk_err_prefix(err, "line %zu", line);
        }
        at += n;
        if (line % 256 == 0) {
            report(f, at);
        }
    }
    return MK_OK;
}

static mk_status add_parts(mk_tok_trainer *tr, const file_text *f, mk_err *err) {
    for (size_t at = 0; at < f->n;) {
        size_t n = f->n - at;
        if (n > PART_BYTES) {
            n = PART_BYTES - 1;
            n += line_bytes(f, at + n);
        }
        MK_TRY(mk_tok_trainer_add(tr, f->p + at, n, err));
        at += n;
        report(f, at);
    }
    return MK_OK;
}

mk_status mk_tok_trainer_add_file(mk_tok_trainer *tr, const char *path, mk_tok_progress progress,
                                  void *arg, mk_err *err) {
    mk_map map;
    MK_TRY(mk_map_open(path, &map, err));
    size_t n = strlen(path);
    bool lines = n > 6 && strcmp(path + n - 6, ".jsonl") == 0;
    file_text f = {(const char *)map.data, map.n_bytes, progress, arg};
    mk_status st = lines ? add_lines(tr, &f, err) : add_parts(tr, &f, err);
    mk_map_close(&map);
    return st == MK_OK ? st : mk_err_prefix(err, "%s", path);
}
