// Every template of the shared collection over every conversation gives what jinja2 gives: the same
// text, or an error where jinja2 has one (with the same words where the template raised it itself
// or used an undefined value). Truth: tests/golden/gen_templates.py.
#include "chat/chat_util.h"
#include "chat/jinja.h"

typedef struct {
    json_t *conversations, *expected;
    int64_t date;
    int n_pairs, n_bad;
} golden;

static json_t *load(const char *path) {
    mk_err err = {0};
    json_t *j = NULL;
    if (mk_json_file(path, 16u << 20, &j, &err) != MK_OK) {
        fail_msg("%s", err.msg);
    }
    return j;
}

static void report(golden *g, const char *name, const char *conv, const char *what,
                   const char *want, const char *got) {
    if (g->n_bad++ < 12) {
        size_t at = 0;
        while (want[at] != 0 && want[at] == got[at]) {
            at++;
        }
        size_t from = at > 60 ? at - 60 : 0;
        fprintf(
            stderr,
            "--- %s / %s: %s (first difference at byte %zu)\n  want ...%.160s\n  got  ...%.160s\n",
            name, conv, what, at, want + from, got + from);
    }
}

static bool ends_with(const char *s, const char *tail) {
    size_t n = strlen(s), k = strlen(tail);
    return n >= k && strcmp(s + n - k, tail) == 0;
}

// Control characters are replaced in messages, so they are in the expectation, too.
static void printable(const char *from, char *to, size_t cap) {
    size_t i = 0;
    for (; from[i] != 0 && i + 1 < cap; i++) {
        to[i] = (unsigned char)from[i] < 0x20 ? '?' : from[i];
    }
    to[i] = 0;
}

static void check_error(golden *g, const char *name, const char *conv, const json_t *want,
                        mk_status st, const mk_err *err, const char *text) {
    const char *kind = json_string_value(json_array_get(want, 0));
    char msg[512];
    printable(json_string_value(json_array_get(want, 1)), msg, sizeof msg);
    if (strstr(msg, "maximum recursion depth") != NULL && st == MK_ELIMIT) {
        return;  // Python's bound and ours
    }
    if (st != MK_ETEMPLATE) {
        report(g, name, conv, "no error", msg, st == MK_OK ? text : err->msg);
    } else if ((strcmp(kind, "raised") == 0 || strcmp(kind, "undefined") == 0) &&
               !ends_with(err->msg, msg) && strstr(msg, "__main__") == NULL) {
        report(g, name, conv, "another message", msg, err->msg);
    }
}

// With origin the text is the same, byte for byte.
static void check_tagged(golden *g, const mk_jinja *j, const char *name, const char *conv,
                         const mk_buf *plain) {
    mk_err err = {0};
    mk_jinja_text out;
    mk_jinja_limits lim = {.now = g->date};
    mk_jinja_vars vars = {.user = json_object_get(g->conversations, conv)};
    if (mk_jinja_render_text(j, &vars, &lim, &out, &err) != MK_OK) {
        report(g, name, conv, "an error with origin", "", err.msg);
    } else if (out.text.len != plain->len ||
               (plain->len > 0 && memcmp(out.text.data, plain->data, plain->len) != 0)) {
        report(g, name, conv, "another text with origin", plain->data, out.text.data);
    } else if (plain->len > 0 && out.runs[out.n_runs - 1].end != plain->len) {
        report(g, name, conv, "runs do not cover the text", "", "");
    }
    mk_jinja_text_free(&out);
}

static void check_pair(golden *g, const mk_jinja *j, const char *name, const char *conv,
                       const json_t *want) {
    mk_err err = {0};
    mk_buf out;
    mk_jinja_limits lim = {.now = g->date};
    mk_buf_init(&out, 16u << 20);
    mk_status st = mk_jinja_render(j, json_object_get(g->conversations, conv), &lim, &out, &err);
    const char *text = out.data != NULL ? out.data : "";
    g->n_pairs++;
    if (json_is_array(want)) {
        check_error(g, name, conv, want, st, &err, text);
    } else {
        const json_t *t =
            json_array_get(json_object_get(g->expected, "texts"), (size_t)json_integer_value(want));
        if (st != MK_OK) {
            report(g, name, conv, "an error", json_string_value(t), err.msg);
        } else if (out.len != json_string_length(t) ||
                   memcmp(text, json_string_value(t), out.len) != 0) {
            report(g, name, conv, "another text", json_string_value(t), text);
        }
    }
    if (st == MK_OK) {
        check_tagged(g, j, name, conv, &out);
    }
    mk_buf_free(&out);
}

static void check_template(golden *g, const char *name, json_t *row) {
    char path[512];
    mk_err err = {0};
    mk_jinja *j = NULL;
    const char *conv;
    json_t *want;
    size_t n = 0;
    snprintf(path, sizeof path, TEMPLATES "%s", name);
    char *text = NULL;
    assert_int_equal(mk_file_read(path, 1 << 22, &text, &n, &err), MK_OK);
    if (mk_jinja_compile(text, n, &j, &err) != MK_OK) {
        fail_msg("%s: %s", name, err.msg);
    }
    json_object_foreach(row, conv, want) {
        check_pair(g, j, name, conv, want);
    }
    mk_jinja_destroy(j);
    mk_free(text);
}

static void all_templates(void **state) {
    (void)state;
    FILE *probe = fopen(TEMPLATES "Qwen-Qwen3-0.6B.jinja", "rb");
    if (probe == NULL) {
        fprintf(stderr, "SKIPPED: no shared templates at " TEMPLATES "\n");
        skip();
    }
    fclose(probe);
    golden g = {.conversations = load("tests/golden/templates/conversations.json"),
                .expected = load("tests/golden/templates/expected.json")};
    const char *name;
    json_t *row;
    g.date = json_integer_value(json_object_get(g.expected, "date"));
    json_object_foreach(json_object_get(g.expected, "results"), name, row) {
        check_template(&g, name, row);
    }
    fprintf(stderr, "%d pairs of template and conversation, %d wrong\n", g.n_pairs, g.n_bad);
    assert_true(g.n_pairs >= 55 * 20);
    assert_int_equal(g.n_bad, 0);
    json_decref(g.conversations);
    json_decref(g.expected);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(all_templates)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
