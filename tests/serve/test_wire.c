// Runs the wire tests: tests/serve/wire/*.json (its README says what is in them).
#include "cmocka_all.h"

#include <glob.h>
#include <math.h>

#include "base/alloc.h"
#include "base/buf.h"
#include "base/json.h"
#include "serve/dialect.h"
#include "serve/jout.h"
#include "serve/wire_ask.h"

#define WIRE_DIR "tests/serve/wire/"

static const mk_dialect *const dialects[] = {
    &mk_dialect_openai_chat, &mk_dialect_openai_completions, &mk_dialect_openai_responses,
    &mk_dialect_anthropic,   &mk_dialect_ollama_chat,        &mk_dialect_ollama_generate,
};

static bool print_only;

static const mk_dialect *dialect_of(const json_t *c) {
    const char *name = json_string_value(json_object_get(c, "dialect"));
    for (size_t i = 0; name && i < sizeof dialects / sizeof dialects[0]; i++) {
        if (strcmp(dialects[i]->name, name) == 0) {
            return dialects[i];
        }
    }
    fail_msg("no dialect \"%s\"", name ? name : "(none)");
    return NULL;
}

// --- events from the file ------------------------------------------------------------------------

static const char *text_of(const json_t *o, const char *key) {
    return json_string_value(json_object_get(o, key));
}

static int64_t int_of(const json_t *o, const char *key, int64_t other) {
    const json_t *v = json_object_get(o, key);
    return v ? json_integer_value(v) : other;
}

static const char *const kinds[MK_AE_N] = {"start",     "reasoning", "text",  "tool_begin",
                                           "tool_args", "tool_end",  "token", "prompt",
                                           "done",      "error"};
static const char *const stops[] = {"end", "text", "length", "tools", "cancelled"};

static int index_of(const char *const *names, size_t n, const char *name) {
    for (size_t i = 0; name && i < n; i++) {
        if (strcmp(names[i], name) == 0) {
            return (int)i;
        }
    }
    fail_msg("\"%s\" is no name of a kind or a stop reason", name ? name : "(none)");
    return -1;
}

static mk_usage usage_of(const json_t *u) {
    return (mk_usage){.n_prompt = int_of(u, "n_prompt", 0),
                      .n_cached = int_of(u, "n_cached", 0),
                      .n_generated = int_of(u, "n_generated", 0),
                      .n_reasoning = int_of(u, "n_reasoning", 0),
                      .queue_ms = json_number_value(json_object_get(u, "queue_ms")),
                      .prompt_ms = json_number_value(json_object_get(u, "prompt_ms")),
                      .generation_ms = json_number_value(json_object_get(u, "generation_ms")),
                      .n_drafted = int_of(u, "n_drafted", 0),
                      .n_accepted = int_of(u, "n_accepted", 0)};
}

static mk_status status_of(const char *name) {
    for (int i = 0; name && i <= MK_EINTR; i++) {
        if (strcmp(mk_status_name((mk_status)i), name) == 0) {
            return (mk_status)i;
        }
    }
    fail_msg("\"%s\" is no name of a status", name ? name : "(none)");
    return MK_OK;
}

static int top_of(const json_t *list, mk_logprob *top, int max) {
    int n = 0;
    size_t i;
    json_t *pair;
    json_array_foreach(list, i, pair) {
        assert_true(n < max);
        top[n++] = (mk_logprob){(int32_t)json_integer_value(json_array_get(pair, 0)),
                                (float)json_number_value(json_array_get(pair, 1))};
    }
    return n;
}

static void send_event(const mk_dialect *d, mk_writer_state *w, const json_t *e, mk_buf *out) {
    const char *kind = text_of(e, "kind");
    if (kind && strcmp(kind, "heartbeat") == 0) {
        d->heartbeat(w, out);
        return;
    }
    mk_logprob top[20];
    mk_err error = {0};
    mk_answer_event ev = {.kind = (mk_ae_kind)index_of(kinds, MK_AE_N, kind),
                          .text = text_of(e, "text"),
                          .n = json_string_length(json_object_get(e, "text")),
                          .index = (int)int_of(e, "index", 0),
                          .call_id = text_of(e, "call_id"),
                          .name = text_of(e, "name"),
                          .id = (int32_t)int_of(e, "id", 0),
                          .logprob = (float)json_number_value(json_object_get(e, "logprob")),
                          .top = top,
                          .n_top = top_of(json_object_get(e, "top"), top, 20),
                          .stop_text = text_of(e, "stop_text"),
                          .usage = usage_of(json_object_get(e, "usage"))};
    if (ev.kind == MK_AE_DONE) {
        ev.stop =
            (mk_stop_reason)index_of(stops, sizeof stops / sizeof stops[0], text_of(e, "stop"));
    }
    if (ev.kind == MK_AE_ERROR) {
        (void)MK_FAIL(&error, status_of(text_of(e, "status")), "%s", text_of(e, "error"));
        ev.error = &error;
    }
    d->event(w, (int)int_of(e, "choice", 0), &ev, out);
}

static void token_text(void *arg, int32_t id, mk_buf *out) {
    char key[16];
    (void)snprintf(key, sizeof key, "%d", (int)id);
    const json_t *t = json_object_get(arg, key);
    mk_buf_add(out, json_string_value(t), json_string_length(t));
}

static const char *or_else(const char *s, const char *other) {
    return s ? s : other;
}

static void answer(const mk_dialect *d, const json_t *c, const mk_ask *ask, mk_buf *out) {
    const json_t *r = json_object_get(c, "reply");
    json_t *tokens = json_object_get(r, "tokens");
    mk_reply_info info = {.id = or_else(text_of(r, "id"), "0123456789abcdefghijklmn"),
                          .created = int_of(r, "created", 1700000000),
                          .model = or_else(text_of(r, "model"), "m"),
                          .fingerprint = or_else(text_of(r, "fingerprint"), "fp_minke"),
                          .reasoning_field = text_of(r, "reasoning_field"),
                          .ask = ask,
                          .token_text = tokens ? token_text : NULL,
                          .token_arg = tokens};
    mk_writer_state *w = d->open(&info);
    size_t i;
    json_t *e;
    json_array_foreach(json_object_get(c, "events"), i, e) {
        send_event(d, w, e, out);
    }
    d->finish(w, out);
    d->close(w);
}

// --- what must come ------------------------------------------------------------------------------

static void add_part(mk_buf *b, const json_t *part) {
    if (json_is_string(part)) {
        mk_buf_add(b, json_string_value(part), json_string_length(part));
        return;
    }
    const json_t *v;
    if ((v = json_object_get(part, "sse"))) {
        const char *event = text_of(part, "event");
        if (event) {
            mk_buf_printf(b, "event: %s\n", event);
        }
        mk_buf_puts(b, "data: ");
        mk_jout_value(b, v);
        mk_buf_puts(b, "\n\n");
    } else if ((v = json_object_get(part, "line"))) {
        mk_jout_value(b, v);
        mk_buf_putc(b, '\n');
    } else if ((v = json_object_get(part, "json"))) {
        mk_jout_value(b, v);
    } else {
        fail_msg("a part of `expect` is a string or has sse, line or json");
    }
}

static bool same_bytes(const char *name, const mk_buf *want, const mk_buf *got) {
    size_t n = want->len < got->len ? want->len : got->len, i = 0;
    while (i < n && want->data[i] == got->data[i]) {
        i++;
    }
    if (i == want->len && i == got->len) {
        return true;
    }
    size_t from = i < 60 ? 0 : i - 60;
    print_error("%s: differs at byte %zu\n  expected ...%.160s\n  got      ...%.160s\nwhole:\n%s\n",
                name, i, want->len > from ? want->data + from : "",
                got->len > from ? got->data + from : "", got->data ? got->data : "");
    return false;
}

static bool check_answer(const char *name, const mk_dialect *d, const json_t *c,
                         const mk_ask *ask) {
    mk_buf want, got;
    mk_buf_init(&want, 1 << 24);
    mk_buf_init(&got, 1 << 24);
    answer(d, c, ask, &got);
    size_t i;
    json_t *part;
    json_array_foreach(json_object_get(c, "expect"), i, part) {
        add_part(&want, part);
    }
    assert_false(got.failed || want.failed);
    bool ok = true;
    if (print_only) {
        print_message("--- %s\n%s\n", name, got.data ? got.data : "");
    } else {
        ok = same_bytes(name, &want, &got);
    }
    mk_buf_free(&want);
    mk_buf_free(&got);
    return ok;
}

// --- without memory ------------------------------------------------------------------------------

enum { MAX_SWEEP = 400 };

// Every allocation fails once: an answer is the same, or known to be broken.
static bool sweep_answer(const char *name, const mk_dialect *d, const json_t *c,
                         const mk_ask *ask) {
    mk_buf whole;
    mk_buf_init(&whole, 1 << 24);
    answer(d, c, ask, &whole);
    bool ok = true, more = true;
    for (int64_t k = 1; ok && more && k < MAX_SWEEP; k++) {
        mk_buf got;
        mk_buf_init(&got, 1 << 24);
        mk_alloc_fail_at(k);
        answer(d, c, ask, &got);
        more = mk_alloc_fail_left() == 0;
        mk_alloc_fail_at(0);
        ok = got.failed ||
             (got.len == whole.len && (got.len == 0 || memcmp(got.data, whole.data, got.len) == 0));
        if (!ok) {
            print_error("%s: allocation %d fails and the answer is not marked:\n%s\n", name, (int)k,
                        got.data ? got.data : "");
        }
        mk_buf_free(&got);
    }
    mk_buf_free(&whole);
    return ok;
}

static bool sweep_parse(const char *name, const mk_dialect *d, const json_t *body) {
    mk_ask whole;
    mk_ask_init(&whole);
    mk_err err = {0};
    mk_status st = d->parse(body, &whole, &err);
    json_t *want = wire_ask_json(&whole);
    bool ok = true, more = true;
    for (int64_t k = 1; ok && more && k < MAX_SWEEP; k++) {
        mk_ask got;
        mk_ask_init(&got);
        mk_alloc_fail_at(k);
        mk_status now = d->parse(body, &got, &err);
        more = mk_alloc_fail_left() == 0;
        mk_alloc_fail_at(0);
        json_t *have = wire_ask_json(&got);
        ok = now == MK_OK ? st == MK_OK && json_equal(have, want) : st != MK_OK || more;
        if (!ok) {
            print_error("%s: allocation %d fails: %s, and the request is another\n", name, (int)k,
                        mk_status_name(now));
        }
        json_decref(have);
        mk_ask_free(&got);
    }
    json_decref(want);
    mk_ask_free(&whole);
    return ok;
}

// --- cases ---------------------------------------------------------------------------------------

static bool check_refused(const char *name, const mk_dialect *d, const json_t *c, mk_status st,
                          const mk_err *err) {
    const char *text = text_of(c, "refused");
    bool ok = true;
    if (st == MK_OK || !text || strcmp(err->msg, text) != 0) {
        print_error("%s: expected error \"%s\", got %s \"%s\"\n", name, or_else(text, "(none)"),
                    mk_status_name(st), st == MK_OK ? "" : err->msg);
        ok = false;
    }
    int status = mk_error_http_status(st);
    if (st != MK_OK && status != int_of(c, "status", 400)) {
        print_error("%s: HTTP status %d\n", name, status);
        ok = false;
    }
    const json_t *body = json_object_get(c, "body");
    if (body) {
        mk_buf want, got;
        mk_buf_init(&want, 1 << 20);
        mk_buf_init(&got, 1 << 20);
        mk_jout_value(&want, body);
        d->error(status, err, &got);
        ok = same_bytes(name, &want, &got) && ok;
        mk_buf_free(&want);
        mk_buf_free(&got);
    }
    return ok;
}

static bool check_ask(const char *name, const json_t *want, const mk_ask *ask) {
    json_t *got = wire_ask_json(ask);
    bool ok = print_only || json_equal(got, want);
    if (!ok || print_only) {
        mk_buf b;
        mk_buf_init(&b, 1 << 24);
        mk_jout_value(&b, got);
        print_error("%s: the request became\n%s\n", name, b.data);
        mk_buf_free(&b);
    }
    json_decref(got);
    return ok;
}

static bool run_case(const char *file, const json_t *c) {
    char name[256];
    (void)snprintf(name, sizeof name, "%s: %s", file, or_else(text_of(c, "name"), "?"));
    const mk_dialect *d = dialect_of(c);
    json_t *empty = json_object();
    const json_t *body = json_object_get(c, "request");
    mk_ask ask;
    mk_ask_init(&ask);
    mk_err err = {0};
    mk_status st = d->parse(body ? body : empty, &ask, &err);
    bool ok = json_object_get(c, "refused") || json_object_get(c, "ask") ||
              (json_object_get(c, "events") && json_object_get(c, "expect"));
    if (!ok) {
        print_error("%s: neither refused nor ask nor events with expect\n", name);
    }
    if (st != MK_OK || json_object_get(c, "refused")) {
        ok = check_refused(name, d, c, st, &err) && ok;
    }
    if (st == MK_OK && json_object_get(c, "ask")) {
        ok = check_ask(name, json_object_get(c, "ask"), &ask) && ok;
    }
    if (st == MK_OK && json_object_get(c, "events")) {
        ok = check_answer(name, d, c, &ask) && sweep_answer(name, d, c, &ask) && ok;
    }
    ok = sweep_parse(name, d, body ? body : empty) && ok;
    mk_ask_free(&ask);
    json_decref(empty);
    return ok;
}

static void test_file(void **state) {
    const char *path = *state;
    mk_err err = {0};
    json_t *v = NULL;
    if (mk_json_file(path, 1 << 24, &v, &err) != MK_OK) {
        fail_msg("%s", err.msg);
    }
    const char *file = path + strlen(WIRE_DIR);
    int64_t live = mk_alloc_live();
    int bad = 0;
    if (json_is_object(v)) {
        bad += !run_case(file, v);
    }
    size_t i;
    json_t *c;
    json_array_foreach(v, i, c) {
        bad += !run_case(file, c);
    }
    assert_true(json_is_object(v) || json_array_size(v) > 0);
    json_decref(v);
    assert_int_equal(bad, 0);
    assert_int_equal(mk_alloc_live(), live);
}

int main(int argc, char **argv) {
    print_only = argc > 1 && strcmp(argv[1], "--print") == 0;
    const char *wanted = argc > 1 + print_only ? argv[1 + print_only] : "*";
    char pattern[256];
    (void)snprintf(pattern, sizeof pattern, WIRE_DIR "%s.json", wanted);
    glob_t g;
    if (glob(pattern, 0, NULL, &g) != 0) {
        (void)fprintf(stderr, "no file matches %s\n", pattern);
        return 1;
    }
    struct CMUnitTest *tests = mk_zalloc(g.gl_pathc * sizeof *tests);
    for (size_t i = 0; i < g.gl_pathc; i++) {
        tests[i] = (struct CMUnitTest){.name = g.gl_pathv[i] + strlen(WIRE_DIR),
                                       .test_func = test_file,
                                       .initial_state = g.gl_pathv[i]};
    }
    int failed = _cmocka_run_group_tests("wire", tests, g.gl_pathc, NULL, NULL);
    mk_free(tests);
    globfree(&g);
    return failed;
}
